"""How far RePaint is from the conditional law: the table of docs/editing.md."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest
from settings import default

from benchmarks import repaint_bias
from ddpm_jax.diffusion.editing import repaint_grid
from ddpm_jax.diffusion.grids import grid
from ddpm_jax.diffusion.schedules import from_betas, linear_betas
from ddpm_jax.requests import Inpaint

DOCUMENT = (Path(__file__).parents[2] / "docs" / "editing.md").read_text()


def shares(num_steps, visits, jump_length=None):
    levels = repaint_bias.levels_of(num_steps, visits, jump_length)
    return repaint_bias.missing(repaint_bias.rotated(), repaint_bias.KNOWN, levels)


@pytest.mark.parametrize(
    ("visits", "jump_length", "expected"),
    [(1, 5, 0.30), (5, 5, 0.093), (20, 5, 0.085), (20, 1, 0.022)],
)
def test_the_recursion_is_that_of_the_tests_of_editing(visits, jump_length, expected):
    """Two values, one known: numbers of another recursion, in test_editing.py."""
    covariance = np.array([[[0.5, 0.4], [0.4, 0.4]]])
    levels = grid(from_betas(linear_betas(50, 1e-3, 0.3)), 50)
    levels = repaint_grid(jax.tree.map(np.asarray, levels), jump_length, visits)
    off, _ = repaint_bias.missing(covariance, np.array([1.0, 0.0]), levels)
    assert off[0] == pytest.approx(expected, abs=0.006)


def test_the_document_shows_the_table():
    """The rows that take little time; numbers to the digits shown."""
    pattern = r"(\d+)% \((\d+)%\), ([\d.]+), ([\d,]+)"
    for visits in (1, 5, 10, 20):
        (row,) = re.findall(rf"^\| {visits} \| (.*) \|$", DOCUMENT, re.M)
        for num_steps, text in zip((50, 100, 250), row.split(" | "), strict=False):
            off, spread = shares(num_steps, visits)
            mean, largest, share, calls = re.fullmatch(pattern, text).groups()
            assert (int(mean), int(largest)) == (
                round(100 * off.mean()),
                round(100 * off.max()),
            )
            assert float(share) == pytest.approx(spread.mean(), abs=0.0051)
            # Every stretch but what is left over, walked so often.
            again = (num_steps - 1) // (num_steps // 25) * (num_steps // 25)
            expected = num_steps + (visits - 1) * again
            assert int(calls.replace(",", "")) == expected


def test_visits_decide_and_short_jumps_do_not():
    by_visits = [shares(100, visits)[0].mean() for visits in (1, 5, 10, 20)]
    assert np.all(np.diff(by_visits) < 0)
    one, other, long = (shares(250, 20, jump)[0].mean() for jump in (1, 10, 50))
    assert one < other < 1.25 * one and long > 4 * other
    # The default leaves a tenth, as the document says.
    assert default().request(Inpaint).num_resamples == 10
