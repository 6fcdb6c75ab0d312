"""The numbers behind a plot by hand; the picture by its ink."""

import sys

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.errors import UserError
from ddpm_jax.runtime import plots


def pixels(path):
    return np.asarray(Image.open(path))


def records(num=50):
    rows = [{"step": 10 * i, "loss": 1 / (1 + i)} for i in range(num)]
    for i, row in enumerate(rows):
        # Few examples a report: now and then a quartile is empty.
        row.update({f"loss_q{q}": None if i % 9 == q else 0.1 * 2**q for q in range(4)})
    return rows


def test_smooth_is_the_geometric_mean_of_the_window():
    steps = np.array([0.0, 1, 2, 3, 10])
    values = np.array([1.0, 10, 100, 10, 7])
    # Width 2 reaches one step either way: alone at the start; 1, 10, 100 -> 10;
    # 10, 100, 10 -> 10^(4/3); 100, 10 -> 10^1.5; nothing near the last.
    expected = [1, 10, 10 ** (4 / 3), 10**1.5, 7]
    np.testing.assert_allclose(plots.smooth(steps, values, 2), expected)


def test_smooth_neither_shifts_nor_bends_an_exponential():
    steps = np.arange(100.0)
    decay = np.exp(-steps / 20)
    inside = slice(0, 90)  # at the end the window looks back only
    np.testing.assert_allclose(
        plots.smooth(steps, decay, 20)[inside], decay[inside], rtol=1e-12
    )


def test_the_picture_has_a_second_panel_when_quartiles_are_known(tmp_path):
    plots.plot_loss(tmp_path / "both.png", records(), title="a run")
    plain = [{"step": r["step"], "loss": r["loss"]} for r in records()]
    plots.plot_loss(tmp_path / "one.png", plain)
    both, one = (pixels(tmp_path / f"{name}.png") for name in ("both", "one"))
    assert both.shape[1] > 1.5 * one.shape[1]
    # The palest and the darkest quartile are drawn, and only where they are known.
    for color in ("#9ecae1", "#08519c"):
        rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        assert (both == rgb).all(-1).any()
        assert not (one == rgb).all(-1).any()


def test_values_that_no_logarithm_takes_are_left_out(tmp_path):
    nan = float("nan")
    odd = [{"step": 1, "loss": nan}, {"step": 2, "loss": 0.0}, {"step": 3, "loss": 2.0}]
    plots.plot_loss(tmp_path / "odd.png", odd)
    with pytest.raises(UserError, match="none of 2 records holds a positive loss"):
        plots.plot_loss(tmp_path / "none.png", odd[:2])
    with pytest.raises(UserError, match="none of 0 records"):
        plots.plot_loss(tmp_path / "none.png", [])


def test_no_global_state_of_matplotlib_is_touched(tmp_path):
    plots.plot_loss(tmp_path / "a.png", records())
    pyplot = sys.modules.get("matplotlib.pyplot")  # another test may have loaded it
    assert pyplot is None or pyplot.get_fignums() == []


def ink(path, color):
    """Count the pixels of exactly this color."""
    rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return int((pixels(path) == rgb).all(-1).sum())


def test_scores_are_drawn_with_their_floor_where_it_is_known(tmp_path):
    nan = float("nan")
    one = plots.Line("one", [10, 20, 50], [3.0, 2.0, 1.5], [0.1, nan, 0.2])
    other = plots.Line("other", [10, 50], [4.0, nan], [nan, nan])
    panels = [plots.Panel("FD", [one, other], 1.0), plots.Panel("IS", [one], None)]
    plots.plot_scores(tmp_path / "both.png", "sampling steps", panels, title="a run")
    plots.plot_scores(tmp_path / "bare.png", "sampling steps", panels[1:])
    for color in ("#08519c", "#d95f0e"):  # of the first line, of the second
        assert ink(tmp_path / "both.png", color)
    assert ink(tmp_path / "bare.png", "#08519c")
    assert not ink(tmp_path / "bare.png", "#d95f0e")
    floor = "#9a9a9a"
    # The letters have some of this grey on their edges.
    assert ink(tmp_path / "both.png", floor) > 3 * ink(tmp_path / "bare.png", floor)


def test_many_scores_stand_in_rows_of_three(tmp_path):
    line = plots.Line("one", [1, 2], [1.0, 2.0], [0.0, 0.0])
    sizes = []
    for count in (3, 7):
        panels = [plots.Panel(str(i), [line], None) for i in range(count)]
        plots.plot_scores(tmp_path / "p.png", "step", panels)
        sizes.append(pixels(tmp_path / "p.png").shape[:2])
    assert sizes[1] == (3 * sizes[0][0], sizes[0][1])
