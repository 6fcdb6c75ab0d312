"""Fields: interpolation, hash indices against NumPy, starts, and what is refused."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax import recipe, specs
from ddpm_jax.errors import UserError
from ddpm_jax.scenes import fields
from ddpm_jax.scenes.fields import FourierField, HashGrid, VoxelGrid

SMALL = [
    VoxelGrid(resolution=5),
    FourierField(num_frequencies=3, width=8),
    HashGrid(num_levels=3, coarsest=2, finest=9, table_size=64, width=8),
]
KINDS = [type(field).__name__ for field in SMALL]


def points_in_cube(seed, num=200):
    return jax.random.uniform(jax.random.key(seed), (num, 3), minval=-1.0, maxval=1.0)


# --- Trilinear ------------------------------------------------------------------------


@pytest.mark.parametrize("num_nodes", [2, 5, 24])
def test_affine_functions_are_reproduced(num_nodes):
    points = points_in_cube(0)
    nodes, weights = fields.trilinear(points, num_nodes)
    np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-6)
    assert (weights >= 0).all()
    assert nodes.min() >= 0 and nodes.max() < num_nodes
    places = -1 + 2 * nodes / (num_nodes - 1)
    normal, constant = jnp.array([0.3, -1.2, 0.7]), 0.4
    found = jnp.sum(weights * (places @ normal + constant), -1)
    np.testing.assert_allclose(found, points @ normal + constant, atol=2e-6)


def test_nodes_have_their_own_value_also_on_the_faces():
    grid = VoxelGrid(resolution=4)
    params = {"grid": jax.random.normal(jax.random.key(0), (4, 4, 4, 4))}
    axis = jnp.linspace(-1, 1, 4)
    places = jnp.stack(jnp.meshgrid(axis, axis, axis, indexing="ij"), -1)
    np.testing.assert_allclose(grid.raw(params, places), params["grid"], atol=1e-5)
    beyond = grid.raw(params, jnp.array([3.0, -1.0, -9.0]))
    np.testing.assert_allclose(beyond, params["grid"][3, 0, 0], atol=1e-6)


def test_the_gradient_on_the_nodes_of_a_sum_is_the_number_of_points():
    grid = VoxelGrid(resolution=4)
    params = grid.init(jax.random.key(0))
    points = points_in_cube(1)
    gradient = jax.grad(lambda p: grid.raw(p, points).sum())(params)["grid"]
    # Each point hands a weight of 1 to its nodes, in each of the four channels.
    np.testing.assert_allclose(gradient.sum((0, 1, 2)), len(points), rtol=1e-5)
    constant = {"grid": jnp.full((4, 4, 4, 4), 2.5)}
    np.testing.assert_allclose(grid.raw(constant, points), 2.5, rtol=1e-6)


def test_the_slope_between_nodes_is_their_difference():
    grid = VoxelGrid(resolution=3)
    params = {"grid": jax.random.normal(jax.random.key(0), (3, 3, 3, 4))}
    at = jnp.array([0.25, 0.0, -1.0])  # on an edge of the cell from node 1 to node 2
    slope = jax.jacfwd(lambda p: grid.raw(params, p))(at)[:, 0]
    wanted = params["grid"][2, 1, 0] - params["grid"][1, 1, 0]  # over a length of 1
    np.testing.assert_allclose(slope, wanted, rtol=1e-5)


# --- The hash grid --------------------------------------------------------------------


def test_hash_indices_are_those_of_numpy_in_32_bits():
    rng = np.random.default_rng(0)
    nodes = rng.integers(0, 2000, (500, 3))
    with np.errstate(over="ignore"):
        x, y, z = (nodes.astype(np.uint32) * [1, 2654435761, 805459861] % 2**32).T
    for size in (8192, 1000, 2**19):
        found = fields.hash_index(jnp.asarray(nodes, jnp.int32), 2001, size)
        wanted = (
            x.astype(np.uint32) ^ y.astype(np.uint32) ^ z.astype(np.uint32)
        ) % size
        np.testing.assert_array_equal(found, wanted)


def test_a_grid_that_fits_has_a_row_for_each_node():
    nodes = np.stack(np.meshgrid(*[np.arange(5)] * 3, indexing="ij"), -1)
    found = fields.hash_index(jnp.asarray(nodes), 5, 125)
    assert sorted(np.asarray(found).ravel().tolist()) == list(range(125))
    shared = fields.hash_index(jnp.asarray(nodes), 5, 124)
    assert int(shared.max()) < 124 and len(np.unique(shared)) < 124


def test_resolutions_grow_by_one_factor():
    field = HashGrid(num_levels=16, coarsest=16, finest=512)
    # Mueller et al., eq. (2) and (3): b = exp(log(512 / 16) / 15) = 1.26.
    b = math.exp(math.log(32) / 15)
    assert field.resolutions == tuple(
        math.floor(16 * b**level + 1e-6) for level in range(16)
    )
    assert HashGrid().resolutions[0] == 8 and HashGrid().resolutions[-1] == 64
    assert HashGrid(num_levels=1, coarsest=7, finest=9).resolutions == (7,)


def test_a_level_is_trilinear_in_its_own_rows():
    field = HashGrid(num_levels=2, coarsest=2, finest=6, table_size=50)
    params = field.init(jax.random.key(0))
    params["tables"] = jax.tree.map(lambda table: 1e4 * table, params["tables"])
    for level, cells in enumerate(field.resolutions):
        node = np.array([1, 2, 1])
        place = jnp.asarray(-1 + 2 * node / cells, jnp.float32)
        row = int(fields.hash_index(jnp.asarray(node), cells + 1, 50))
        features = field.encode(params, place).reshape(2, 2)[level]
        np.testing.assert_allclose(
            features, params["tables"][f"level_{level}"][row], atol=2e-5
        )


@pytest.mark.parametrize("field", SMALL, ids=KINDS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fields_are_continuous_across_cells(field, seed):
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32),
        field.init(jax.random.key(seed)),
    )
    # A line through the whole cube, which crosses faces of all three directions.
    way = jnp.array([0.97, 0.91, 0.94]) * jnp.linspace(-1, 1, 4001)[:, None]
    values = np.asarray(field.raw(params, way + jnp.array([0.02, -0.05, 0.04])))
    steps = np.abs(np.diff(values, axis=0)).max(0)
    # A jump at a face would stay as the steps become shorter; these halve.
    coarse = np.abs(np.diff(values[::2], axis=0)).max(0)
    assert (steps < 0.6 * coarse + 1e-5).all() and (coarse > 2e-4).all()


# --- All ------------------------------------------------------------------------------


@pytest.mark.parametrize("field", SMALL, ids=KINDS)
def test_a_new_field_is_a_blob(field):
    params = field.init(jax.random.key(0))
    zero = jax.tree.map(jnp.zeros_like, params)
    points = points_in_cube(2)
    density, color = field.apply(zero, points)
    distance = np.linalg.norm(np.asarray(points, np.float64), axis=-1)
    wanted = np.logaddexp(0, 10 * (1 - distance / 0.5))
    np.testing.assert_allclose(density, wanted, rtol=1e-4)
    np.testing.assert_array_equal(color, 0.5)
    density, color = field.apply(params, jnp.zeros((2, 1, 3)))
    assert density.shape == (2, 1) and color.shape == (2, 1, 3)
    assert density.dtype == color.dtype == jnp.float32
    assert (density > 5).all() and ((color > 0) & (color < 1)).all()
    slope = jax.grad(lambda p: field.apply(params, p)[0].sum())(jnp.zeros((1, 3)))
    assert jnp.isfinite(slope).all()  # at the tip of the blob


@pytest.mark.parametrize("field", SMALL, ids=KINDS)
def test_keys_make_different_fields(field):
    def names(tree):
        # Checkpoints give nested dictionaries back, and no lists.
        assert isinstance(tree, dict | jax.Array)
        for leaf in tree.values() if isinstance(tree, dict) else ():
            names(leaf)

    names(field.init(jax.random.key(0)))
    one, same, other = (field.init(jax.random.key(seed)) for seed in (0, 0, 1))
    points = points_in_cube(3)
    np.testing.assert_array_equal(field.raw(one, points), field.raw(same, points))
    assert not jnp.allclose(field.raw(one, points), field.raw(other, points))


def test_fourier_features_by_hand():
    field = FourierField(num_frequencies=2, width=1, depth=1)
    point = jnp.array([0.1, -0.2, 0.3])
    scaled = [math.pi * 2**k * float(x) for x in point for k in range(2)]
    features = [*map(float, point), *map(math.sin, scaled), *map(math.cos, scaled)]
    kernel = jnp.arange(15, dtype=jnp.float32)[:, None] / 10
    last = jnp.array([[1.0, 2.0, 3.0, 4.0]])
    layers = {
        "layer_0": {"kernel": kernel, "bias": jnp.array([0.5])},
        "layer_1": {"kernel": last, "bias": jnp.zeros(4)},
    }
    hidden = float(np.dot(features, kernel[:, 0])) + 0.5
    hidden = hidden / (1 + math.exp(-hidden))
    np.testing.assert_allclose(
        field.raw(layers, point), hidden * np.arange(1, 5), rtol=1e-5
    )


def test_the_table_of_the_module_counts_the_parameters():
    for name, kind in (
        ("voxels", VoxelGrid()),
        ("fourier", FourierField()),
        ("hash", HashGrid()),
    ):
        shapes = jax.eval_shape(kind.init, jax.random.key(0))
        count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
        (row,) = [r for r in fields.__doc__.splitlines() if r.startswith(f"| {name}")]
        assert f"| {count:,} " in row, (name, count)
        assert specs.kind_of(kind) == name
    assert recipe.FieldSpec is fields.FieldSpec


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VoxelGrid(resolution=1), "resolution=1"),
        (lambda: VoxelGrid(blob_radius=0.0), "blob_radius"),
        (lambda: FourierField(depth=0), "depth=0"),
        (lambda: HashGrid(finest=4), "finest=4 is coarser"),
        (lambda: HashGrid(table_size=1), "table_size=1"),
    ],
)
def test_fields_that_cannot_be_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
