import json

import pytest

from ddpm_jax.commands import report

REFERENCE = {
    "data": "toy",
    "split": "train",
    "fingerprint": "ab",
    "num_images": 500,
    "resolution": [8, 8, 1],
}
FEATURES = {"name": "classifier of toy", "weights": "cafe", "resize": "none"}


def row(value, *, step=100, num_steps=10, guidance=1.0, seed=0, number=200, **changes):
    options = {"sampler": "ddim", "num_steps": num_steps, "guidance_scale": guidance}
    model = {
        "checkpoint_step": step,
        "parameters": "ema",
        "options": {**options, "seed": seed},
    }
    return {
        "set": f"{step}-{num_steps}-{guidance}-{seed}-{number}",
        "request": {"images": "samples", "step": step},
        "images": f"samples of step {step} (ema; ddim, {num_steps} steps, seed {seed})",
        "num_images": number,
        "model": model,
        "reference": REFERENCE,
        "features": FEATURES,
        "scores": {
            "frechet_distance": {"value": value, "standard_error": None},
            "kernel_distance": {"value": value / 100, "standard_error": 0.001},
        },
    } | changes


def real(value):
    return row(value) | {"model": None, "set": "data_test", "images": "real toy (test)"}


def test_seeds_are_joined_with_the_standard_error_of_their_mean():
    values = [1.0, 2.0, 4.0, 9.0]
    (joined,) = report.over_seeds([row(v, seed=s) for s, v in enumerate(values)])
    found = joined["scores"]["frechet_distance"]
    assert joined["num_seeds"] == 4
    assert found["value"] == 4.0
    # Deviations -3, -2, 0, 5: variance 38 / 3, of the mean a quarter of it.
    assert found["standard_error"] == pytest.approx((38 / 3 / 4) ** 0.5)
    assert joined["images"].endswith("10 steps, 4 seeds)")


@pytest.mark.parametrize(
    "other",
    [
        row(2.0, seed=1, step=200),
        row(2.0, seed=1, num_steps=20),
        row(2.0, seed=1, guidance=2.0),
        row(2.0, seed=1, number=300),
        row(2.0, seed=1, features=FEATURES | {"weights": "beef"}),
        row(2.0, seed=1, reference=REFERENCE | {"split": "test"}),
        real(2.0),
    ],
)
def test_only_rows_that_differ_in_nothing_but_the_seed_are_joined(other):
    assert len(report.over_seeds([row(1.0), other])) == 2


def test_curves_vary_one_thing_and_sort_by_it():
    rows = [
        row(3.0, step=300),
        row(1.0, step=100),
        row(2.0, step=200),
        row(9.0, step=300, num_steps=50),
        row(7.0, step=300, guidance=3.0),
    ]
    (over_steps,) = report.curves(rows, "training-steps")
    assert over_steps.x == [100, 200, 300]
    assert [r["scores"]["frechet_distance"]["value"] for r in over_steps.rows] == [
        1,
        2,
        3,
    ]
    (over_sampling,) = report.curves(rows, "sampling-steps")
    assert over_sampling.x == [10, 50]
    (over_guidance,) = report.curves(rows, "guidance")
    assert over_guidance.x == [1.0, 3.0]


def test_one_point_and_real_images_make_no_curve():
    for variable in report.VARIABLES:
        assert report.curves([row(1.0), real(0.5)], variable) == []


def test_a_line_can_be_compared():
    said = report.format_row(row(1.2345), real(0.5))
    for needed in ("200 samples of step 100", "ema", "ddim, 10 steps", "seed 0"):
        assert needed in said
    for needed in ("500 images of toy (train)", "8x8x1", "weights cafe", "resize none"):
        assert needed in said
    frechet = next(line for line in said.splitlines() if line.split()[0] == "FD")
    assert frechet.split() == ["FD", "1.234", "real:", "0.5"]
    assert "KD·10³  12.3 ± 1.0" in said  # two digits of the error, in thousandths


def test_the_floor_says_its_number_where_it_is_another():
    said = report.format_row(row(1.0, number=999), real(0.5))
    assert "real: 0.5 at 200" in said


def test_only_the_network_of_the_published_scores_gives_an_fid():
    assert report.title("frechet_distance", "inception-2015-12-05") == "FID"
    assert report.title("frechet_distance", "classifier of toy") == "FD"
    assert report.title("inception_score", "classifier of toy") != "IS"


def test_tables_are_apart_where_scores_cannot_be_compared():
    other = row(2.0, features=FEATURES | {"weights": "beef"})
    text = report.markdown([row(1.0), other])
    assert text.count("| images | number |") == 2
    assert "weights cafe" in text and "weights beef" in text


def test_rows_are_read_in_order_of_training(tmp_path):
    for step in (2000, 300, 1000):
        folder = tmp_path / f"set-{step}" / "features"
        folder.mkdir(parents=True)
        (folder / "scores_toy.json").write_text(json.dumps(row(1.0, step=step)))
    found = [r["model"]["checkpoint_step"] for r in report.read_rows(tmp_path)]
    assert found == [300, 1000, 2000]


def test_errors_are_rounded_to_two_digits():
    values = [(12.3456, 0.0123), (12.3456, 1.23), (1234.5, 45.0)]
    texts = [
        report.number("frechet_distance", {"value": v, "standard_error": e})
        for v, e in values
    ]
    assert texts == ["12.346 ± 0.012", "12.3 ± 1.2", "1234 ± 45"]
