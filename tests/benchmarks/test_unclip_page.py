"""The page of draws: what stands where on it, and how far draws are apart."""

import numpy as np
from PIL import Image

from benchmarks import unclip_page


def test_the_spread_is_the_mean_over_all_pairs():
    draws = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 4, 3), np.uint8)
    draws[2] = draws[2, :1]  # five times the same
    expected = []
    for prompt in draws.astype(float):
        squares = [
            ((prompt[i] - prompt[j]) ** 2).mean() for i in range(5) for j in range(i)
        ]
        expected.append(np.sqrt(np.mean(squares)))
    np.testing.assert_allclose(unclip_page.spread(draws), expected)
    assert expected[2] == 0 < expected[0]


def test_prompts_come_from_all_over_a_split_and_once_each():
    texts = ["a", "a", "b", "c", "b", "d", "e"]
    assert unclip_page.default_prompts(texts, 3) == ["a", "c", "e"]
    assert unclip_page.default_prompts(texts, 9) == ["a", "b", "c", "d", "e"]
    assert unclip_page.default_prompts((), 8) == []


def test_a_row_is_a_prompt_and_a_column_a_prior(tmp_path):
    """Sixteen draws of one color each: their rectangles are where they should be."""
    colors = np.uint8([[[250, 0, 0], [0, 250, 0], [0, 0, 250]], [[9, 9, 9]] * 3])
    drawn = [
        (
            f"prior {column}",
            np.tile(colors[column][:, None, None, None], (1, 16, 8, 8, 1)),
        )
        for column in range(2)
    ]
    path = tmp_path / "deep" / "page.png"
    unclip_page.page(drawn, ["one", "two", "three"], path)
    with Image.open(path) as page:
        pixels = np.asarray(page.convert("RGB")).astype(int)
    places = []
    for column in range(2):
        for row in range(3):
            same = (pixels == colors[column, row]).all(axis=-1)
            if not column:
                assert same.sum() == 16 * 16 * 16  # 16 draws of 8x8, twice as large
                places.append([same.any(axis=1).argmax(), same.any(axis=0).argmax()])
    tops, lefts = np.transpose(places)
    assert tops[0] < tops[1] < tops[2] and len(set(lefts)) == 1
    # All that is of the second color is right of the first column.
    right = (pixels == 9).all(axis=-1)
    assert right.sum() == 3 * 16 * 16 * 16
    assert right.any(axis=0).argmax() > lefts[0] + 8 * 16
    assert right.any(axis=1).argmax() == tops[0]
