"""A function mapped over rows in batches: every row once, by one program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.batching import Checked, filled_up, join, map_batches
from ddpm_jax.runtime.devices import data_mesh, round_up

MESH = data_mesh()


@pytest.mark.parametrize("mesh", [MESH, None])
@pytest.mark.parametrize("batch_size", [1, 4, 7, 50])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1, 3, 2)])
def test_each_row_is_mapped_once_by_one_program(shape, batch_size, mesh):
    rng = np.random.default_rng(0)
    x, scale = rng.integers(0, 99, (11, *shape)), np.arange(11)
    traced, counts = [], []

    @jax.jit
    def function(given):
        traced.append(given[0].shape)
        column = given[1].reshape(-1, *[1] * len(shape))
        return {"product": given[0] * column, "scale": given[1]}

    found = join(
        map_batches(
            function, (x, scale), 11, batch_size, mesh=mesh, on_batch=counts.append
        )
    )
    np.testing.assert_array_equal(found["product"].T, x.T * scale)
    np.testing.assert_array_equal(found["scale"], scale)
    size = batch_size if mesh is None else round_up(batch_size)
    assert traced == [(size, *shape)]
    assert sum(counts) == 11 and set(counts[:-1]) <= {size}


def test_rows_are_read_when_their_turn_comes_and_the_last_fills_up():
    read = []

    def given(places):
        read.append(places.tolist())
        return places

    for found in map_batches(lambda x: x, given, 5, 3, mesh=None):
        assert found.tolist() == sorted(set(read[-1])), "read, then mapped"
    assert read == [[0, 1, 2], [3, 4, 4]]
    assert filled_up(np.arange(1), 1).tolist() == [0] * round_up(1)


def test_it_goes_on_from_a_row_and_stops_when_told():
    rows = np.arange(10)
    later = list(map_batches(lambda x: x, rows, 10, 4, mesh=None, first=4))
    assert [part.tolist() for part in later] == [[4, 5, 6, 7], [8, 9]]
    done = []
    stopped = map_batches(
        lambda x: x, rows, 10, 4, mesh=None, stop=lambda: len(done) == 1
    )
    done.extend(stopped)
    assert [part.tolist() for part in done] == [[0, 1, 2, 3]]


def message(what, first, last):
    return f"{what}, {first} to {last}"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_not_finite_is_refused_by_name_and_place(bad):
    x = np.ones((6, 2), np.float32)
    x[4, 1] = bad

    def named(given):
        return {"whole": given > 0, "bits": given}

    def mapped(function, **options):
        return list(map_batches(function, x, 6, 4, mesh=None, **options))

    assert len(mapped(named)) == 2, "not asked to check"
    with pytest.raises(UserError, match="bits, 4 to 5"):
        mapped(named, not_finite=message)

    def as_bytes(given):
        finite = jnp.isfinite(given).all(1)
        return Checked(given[:1] > 0, {"stage 1": finite | True, "2": finite})

    with pytest.raises(UserError, match="2, 4 to 5"):
        mapped(as_bytes, not_finite=message)
    x[4, 1] = 3
    first, _ = mapped(as_bytes, not_finite=message)
    np.testing.assert_array_equal(first, [[True, True]])  # of the first row alone
