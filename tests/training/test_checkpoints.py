"""Checkpoints against real damage, real kills and other device counts."""

import dataclasses
import functools
import gc
import json
import logging
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import logging as absl_logging

from ddpm_jax.commands.about import usable_step
from ddpm_jax.errors import UserError
from ddpm_jax.training import checkpoint_reader, workdir_lock
from ddpm_jax.training import checkpoints as ckpt
from ddpm_jax.training.integrity import checksums, sum_here, sums_on_devices
from ddpm_jax.training.orbax_logging import keep_quiet
from ddpm_jax.training.state import TrainState

METADATA = {"config": {"lr": 1e-4, "shape": (32, 32, 3)}, "data": "sha256:ab"}
AS_JSON = {"config": {"lr": 1e-4, "shape": [32, 32, 3]}, "data": "sha256:ab"}


def make_state(step, width=32):
    """A state in which every array follows from the step."""
    kernel = np.random.default_rng(step).normal(size=(width, 16)).astype(np.float32)
    params = {
        "conv": {"kernel": jnp.asarray(kernel), "bias": jnp.full(16, step, jnp.float32)}
    }
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    opt_state = optimizer.init(params)
    _, opt_state = optimizer.update(params, opt_state)
    ema = jax.tree.map(lambda x: x / 2, params)
    return TrainState(jnp.int32(step), params, ema, opt_state)


def abstract(state):
    return jax.eval_shape(lambda: state)


def assert_equal(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A work directory with steps 1 and 2; tests that harm it take a copy."""
    workdir = tmp_path_factory.mktemp("saved")
    with ckpt.open_checkpoints(workdir) as checkpoints:
        ckpt.save(checkpoints, make_state(1), METADATA)
        ckpt.save(checkpoints, make_state(2), METADATA)
    return workdir


@pytest.fixture
def workdir(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run")


def restore(workdir, state=None, lines=None):
    report = ([] if lines is None else lines).append
    want = abstract(make_state(0) if state is None else state)
    with ckpt.open_checkpoints(workdir) as checkpoints:
        return ckpt.restore_latest(checkpoints, want, report=report)


def test_a_state_comes_back_bit_for_bit(workdir):
    state, step, metadata = restore(workdir)
    assert_equal(state, make_state(2))
    assert step == 2 and metadata == AS_JSON


def with_tracks_and_memory(state):
    """The same state with two further averages, and a carry that is no dictionary."""
    profiles = tuple(jax.tree.map(lambda x, k=k: x * k, state.params) for k in (2, 3))
    carry = (jnp.arange(6.0).reshape(2, 3) + state.step, {"count": jnp.int32(4)})
    return state.replace(ema_profiles=profiles, carry=carry)


def test_tracks_and_memory_come_back_bit_for_bit_and_one_by_one(tmp_path):
    full = with_tracks_and_memory(make_state(2))
    with ckpt.open_checkpoints(tmp_path) as checkpoints:
        ckpt.save(checkpoints, full, METADATA)
    assert_equal(restore(tmp_path, full)[0], full)
    # What draws needs neither the carry nor another average than its own.
    for name in ("memory", "optimizer", "track_0"):
        shutil.rmtree(tmp_path / "checkpoints" / "2" / name)
    assert_equal(ckpt.restore_params(tmp_path), full.ema_params)
    assert_equal(ckpt.restore_profile(tmp_path, 1), full.ema_profiles[1])
    with pytest.raises(UserError, match=r"damaged.*track_0"):
        ckpt.restore_profile(tmp_path, 0)
    with pytest.raises(UserError, match=r"has no track_2; it has params, ema_params"):
        ckpt.restore_profile(tmp_path, 2)


def test_without_tracks_and_memory_a_checkpoint_is_what_it_was_before_them(workdir):
    folder = workdir / "checkpoints" / "2"
    items = {p.name for p in folder.iterdir() if p.is_dir()}
    assert items == {"params", "ema_params", "optimizer", "metadata"}
    with pytest.raises(UserError, match=r"track_0/conv/bias is absent there"):
        restore(workdir, with_tracks_and_memory(make_state(2)))


def test_a_run_with_tracks_does_not_go_on_without_them(tmp_path):
    with ckpt.open_checkpoints(tmp_path) as checkpoints:
        ckpt.save(checkpoints, with_tracks_and_memory(make_state(2)), METADATA)
    with pytest.raises(UserError, match=r"track_0/conv/bias is .* and absent here"):
        restore(tmp_path)


def test_damage_of_a_track_or_the_memory_is_noticed(tmp_path):
    states = [with_tracks_and_memory(make_state(step)) for step in (1, 2)]
    with ckpt.open_checkpoints(tmp_path) as checkpoints:
        for state in states:
            ckpt.save(checkpoints, state, METADATA)
    flip_a_bit(data_file(tmp_path, "track_1"))
    lines = []
    state, step, _ = restore(tmp_path, states[0], lines)
    assert step == 1 and "track_1: conv/kernel is not what was saved" in lines[0]
    assert_equal(state, states[0])


def test_nothing_saved_is_none(tmp_path):
    assert restore(tmp_path / "new") is None
    assert ckpt.latest_step(tmp_path / "absent") is None
    with pytest.raises(UserError, match="no checkpoint in"):
        ckpt.read_metadata(tmp_path / "absent")


def test_parameters_need_neither_optimiser_nor_model(workdir):
    for name in ("params", "optimizer"):
        shutil.rmtree(workdir / "checkpoints" / "2" / name)
    assert_equal(ckpt.restore_params(workdir), make_state(2).ema_params)
    assert_equal(ckpt.restore_params(workdir, ema=False, step=1), make_state(1).params)
    with pytest.raises(UserError, match=r"damaged.*params.*left: step 1"):
        ckpt.restore_params(workdir, ema=False)
    with pytest.raises(UserError, match=r"no checkpoint of step 7.*one of 1, 2"):
        ckpt.restore_params(workdir, step=7)


def test_last_few_and_every_nth_are_kept(tmp_path):
    options = {"keep_last": 2, "keep_every": 4}
    with ckpt.open_checkpoints(tmp_path, **options) as checkpoints:
        for step in range(1, 11):
            ckpt.save(checkpoints, make_state(step, width=2), {"seen": step})
    assert ckpt.all_steps(tmp_path) == [4, 8, 9, 10]
    assert ckpt.latest_step(tmp_path) == 10
    assert ckpt.read_metadata(tmp_path, 8)["seen"] == 8


def test_a_step_is_saved_once(workdir):
    with ckpt.open_checkpoints(workdir) as checkpoints:
        ckpt.save(checkpoints, make_state(2), {"another": True}, wait=True)
    stored = ckpt.read_metadata(workdir)
    assert stored.pop("checksums").keys() >= {"params", "ema_params"}
    assert stored == AS_JSON


def test_models_of_one_step_are_told_apart_by_their_checksums(tmp_path):
    def sums(name, state):
        with ckpt.open_checkpoints(tmp_path / name) as checkpoints:
            ckpt.save(checkpoints, state, {"seen": 1}, wait=True)
        return ckpt.read_metadata(tmp_path / name)["checksums"]

    state = make_state(3)
    other = jax.tree.map(lambda leaf: leaf + 1, state.params)
    one, same = sums("one", state), sums("same", make_state(3))
    moved = sums("moved", dataclasses.replace(state, params=other))
    assert one == same
    assert one["params"] != moved["params"]
    assert one["ema_params"] == moved["ema_params"]


def test_wait_means_on_disk(tmp_path):
    with ckpt.open_checkpoints(tmp_path) as checkpoints:
        ckpt.save(checkpoints, make_state(5), {}, wait=True)
        assert_equal(ckpt.restore_params(tmp_path, step=5), make_state(5).ema_params)


def test_the_state_may_be_donated_while_it_is_written(tmp_path):
    @functools.partial(jax.jit, donate_argnums=0)
    def add_one(state):
        return jax.tree.map(lambda x: x + 1, state)

    def filled():
        return {"w": jnp.zeros(3_000_000)}

    state = TrainState(jnp.int32(0), filled(), filled(), filled())
    with ckpt.open_checkpoints(tmp_path, keep_last=9) as checkpoints:
        for _ in range(4):
            ckpt.save(checkpoints, state, {})
            for _ in range(5):
                state = add_one(state)
    for step in (0, 5, 10, 15):
        raw = ckpt.restore_params(tmp_path, ema=False, step=step)["w"]
        assert (float(raw.min()), float(raw.max())) == (step, step)


def data_file(workdir, item="params"):
    """The file that holds most of an item's numbers."""
    files = (workdir / "checkpoints" / "2" / item).rglob("d/*")
    return max(files, key=lambda path: path.stat().st_size)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def cut_in_half(path):
    os.truncate(path, path.stat().st_size // 2)


def make_empty(path):
    os.truncate(path, 0)


def change_a_number(path):
    text = path.read_text()
    assert text.count("0.0001") == 1
    path.write_text(text.replace("0.0001", "0.0002"))


@pytest.mark.parametrize(
    ("harm", "name", "blamed"),
    [
        (flip_a_bit, "params", "params: conv/kernel is not what was saved"),
        (flip_a_bit, "optimizer", "optimizer: .* is not what was saved"),
        (cut_in_half, "ema_params", "ema_params"),
        (make_empty, "params", "params"),
        (os.remove, "ema_params", "ema_params"),
        (make_empty, "metadata", "metadata"),
        (os.remove, "metadata", "metadata"),
        (change_a_number, "metadata", "metadata: its text is not what was saved"),
    ],
)
def test_damage_is_reported_set_aside_and_passed_over(workdir, harm, name, blamed):
    path = workdir / "checkpoints/2/metadata/metadata.json"
    harm(path if name == "metadata" else data_file(workdir, name))
    lines = []
    with ckpt.open_checkpoints(workdir) as checkpoints:
        want = abstract(make_state(0))
        found = ckpt.restore_latest(checkpoints, want, report=lines.append)
        assert found[1:] == (1, AS_JSON)
        assert_equal(found[0], make_state(1))
        ckpt.save(checkpoints, make_state(2), METADATA)
    assert len(lines) == 1 and "\n" not in lines[0]
    assert str(workdir / "checkpoints" / "2") in lines[0]
    assert re.search(blamed, lines[0]), lines[0]
    assert (workdir / "checkpoints-damaged" / "2").is_dir()
    assert_equal(restore(workdir)[0], make_state(2))


def test_a_second_damaged_copy_does_not_replace_the_first(workdir):
    for _ in range(2):
        flip_a_bit(data_file(workdir))
        with ckpt.open_checkpoints(workdir) as checkpoints:
            found = ckpt.restore_latest(
                checkpoints, abstract(make_state(0)), report=lambda line: None
            )
            assert found[1] == 1
            ckpt.save(checkpoints, make_state(2), METADATA)
    aside = sorted(p.name for p in (workdir / "checkpoints-damaged").iterdir())
    assert aside == ["2", "2-1"]


def test_if_all_are_damaged_nothing_is_moved(workdir):
    for step in ("1", "2"):
        os.remove(workdir / "checkpoints" / step / "metadata" / "metadata.json")
    for _ in range(2):  # a second attempt must not start from nothing
        with pytest.raises(UserError, match=r"every checkpoint.*2: metadata.*1: meta"):
            restore(workdir)
    assert ckpt.all_steps(workdir) == [1, 2]


def test_another_model_is_not_damage(workdir):
    wider = make_state(0, width=48)
    with pytest.raises(UserError, match=r"another model.*float32\[32, 16\] there"):
        restore(workdir, wider)
    sgd = make_state(0).replace(opt_state=optax.sgd(0.1).init({}))
    with pytest.raises(UserError, match="another model or optimiser: optimizer/opt"):
        restore(workdir, sgd)
    assert ckpt.all_steps(workdir) == [1, 2]


def test_an_optimiser_without_arrays_can_be_saved(tmp_path):
    state = make_state(3).replace(opt_state=optax.sgd(0.1).init({}))
    with ckpt.open_checkpoints(tmp_path) as checkpoints:
        ckpt.save(checkpoints, state, {})
    assert_equal(restore(tmp_path, state)[0], state)


def test_a_full_disk_is_the_users_error(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with ckpt.open_checkpoints(tmp_path) as checkpoints:
        ckpt.save(checkpoints, make_state(1), {}, wait=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
        try:
            with pytest.raises(UserError, match="could not write a checkpoint"):
                ckpt.save(checkpoints, make_state(2, width=4000), {}, wait=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_equal(restore(tmp_path)[0], make_state(1))


@pytest.mark.parametrize("name", ["keep_last", "keep_every"])
def test_keeping_nothing_is_refused(tmp_path, name):
    with pytest.raises(UserError, match=f"{name}=0 keeps no checkpoint"):
        ckpt.open_checkpoints(tmp_path, **{name: 0})


def test_metadata_that_json_cannot_hold_is_refused(tmp_path):
    with (
        ckpt.open_checkpoints(tmp_path) as checkpoints,
        pytest.raises(TypeError, match="not JSON serializable"),
    ):
        ckpt.save(checkpoints, make_state(1), {"array": np.zeros(3)})
    assert ckpt.all_steps(tmp_path) == []


def test_nothing_is_printed(tmp_path, capfd):
    before = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.INFO)
    try:
        with ckpt.open_checkpoints(tmp_path) as checkpoints:
            ckpt.save(checkpoints, make_state(1), METADATA)
        restore(tmp_path)
        ckpt.restore_params(tmp_path)
    finally:
        absl_logging.set_verbosity(before)
    assert capfd.readouterr() == ("", "")


def test_no_file_is_a_pickle(workdir):
    # Every pickle of protocol 2 or later opens with b"\x80" and its protocol.
    for path in (workdir / "checkpoints").rglob("*"):
        if path.is_file():
            assert path.read_bytes()[:1] != b"\x80", path
    json.loads((workdir / "checkpoints/2/metadata/metadata.json").read_text())


def test_checksum_is_the_published_hash_at_position_zero():
    # MurmurHash3_x86_32 of no bytes is its finaliser applied to the seed; the test
    # vectors of the empty string are 0 for seed 0, 0x514E28B7 for seed 1 and
    # 0x81F16F39 for seed 0xFFFFFFFF.
    for seed, expected in ((0, 0), (1, 0x514E28B7), (0xFFFFFFFF, 0x81F16F39)):
        assert checksums({"x": jnp.uint32(seed)}) == {"x": expected}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8", "bool"])
def test_checksum_sees_each_changed_element_and_exchanges(dtype):
    x = np.zeros((8, 512), np.float32)
    x[0, 0] = 1
    original = checksums([jnp.asarray(x, dtype)])
    seen = [original]
    for place in ((0, 1), (1, 0), (2, 256), (7, 511)):
        y = x.copy()
        y[place] = 1
        seen.append(checksums([jnp.asarray(y, dtype)]))  # one element changed
        y[0, 0] = 0
        seen.append(checksums([jnp.asarray(y, dtype)]))  # two exchanged
    values = [s["0"] for s in seen]
    assert len(set(values)) == len(values) == 9


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint8", "float16", "bfloat16", "int32", "float32"]
)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 4, 7), (70_000, 2)])
def test_the_checksum_is_the_same_in_memory_and_on_a_device(dtype, shape):
    size = int(np.prod(shape))
    x = (np.arange(size) % 251).reshape(shape).astype(jnp.dtype(dtype))
    assert sums_on_devices({"x": jnp.asarray(x)}) == {"x": sum_here(x)}
    assert checksums({"x": jnp.asarray(x)}) == {"x": sum_here(x)}


def test_the_checksum_of_wide_numbers_is_that_of_their_halves():
    x = np.array([[1 << 40, 2**63 + 5], [7, 0]], np.uint64)
    with jax.enable_x64(True):
        assert sums_on_devices({"x": jnp.asarray(x)}) == {"x": sum_here(x)}


def test_checksum_sees_every_bit_of_a_float():
    bits = np.float32(0.37).view(np.uint32) ^ (np.uint32(1) << np.arange(32))
    flipped = [jnp.float32(0.37), *jnp.asarray(bits.astype(np.uint32).view(np.float32))]
    assert len(set(checksums(flipped).values())) == 33


EIGHT_DEVICES = """
import sys, jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
sys.path.insert(0, {tests!r})
from test_checkpoints import METADATA, abstract, assert_equal, ckpt, make_state
mesh = jax.make_mesh((8,), ("data",))
assert len(jax.devices()) == 8
def spread(leaf):
    spec = PartitionSpec("data") if leaf.ndim else PartitionSpec()
    return jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))
want = jax.tree.map(spread, abstract(make_state(0)))
with ckpt.open_checkpoints({workdir!r}) as checkpoints:
    state, step, _ = ckpt.restore_latest(checkpoints, want)
    assert_equal(state, make_state(2))
    kernel = state.params["conv"]["kernel"]
    assert kernel.addressable_shards[3].data.shape == (4, 16)
    ckpt.save(checkpoints, state.replace(step=state.step + 7), METADATA)
everywhere = NamedSharding(mesh, PartitionSpec())
ema = ckpt.restore_params({workdir!r}, placement=lambda s: everywhere)
assert ema["conv"]["kernel"].sharding.device_set == set(jax.devices())
"""


def test_one_device_to_eight_and_back(workdir):
    code = EIGHT_DEVICES.format(tests=os.path.dirname(__file__), workdir=str(workdir))
    run_python(code, JAX_NUM_CPU_DEVICES="8")
    state, step, _ = restore(workdir)
    assert step == 9
    assert_equal(state.replace(step=jnp.int32(2)), make_state(2))
    assert len(state.params["conv"]["kernel"].sharding.device_set) == 1


def environment(**extra):
    return {**os.environ, "JAX_PLATFORMS": "cpu", **extra}


def run_python(code, **extra):
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(**extra),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


SAVE_FOR_EVER = """
import sys
sys.path.insert(0, {tests!r})
from test_checkpoints import abstract, ckpt, uniform_state
with ckpt.open_checkpoints({workdir!r}) as checkpoints:
    found = ckpt.restore_latest(checkpoints, abstract(uniform_state(0)))
    step = found[1] if found else 0
    while True:
        step += 1
        ckpt.save(checkpoints, uniform_state(step), {{"seen": step}})
"""


def uniform_state(step):
    """Every element equals the step."""

    def filled():
        shapes = {"a": (300_000,), "b": (7,), "c": (100, 300)}
        return {name: jnp.full(s, step, jnp.float32) for name, s in shapes.items()}

    return TrainState(jnp.int32(step), filled(), filled(), filled())


def unfinished(workdir):
    folder = workdir / "checkpoints"
    if not folder.is_dir():
        return []
    return [p for p in folder.iterdir() if not p.name.isdecimal()]


def kill_while_saving(workdir, delay):
    """Start a process that saves for ever, kill it some time into a later save."""
    code = SAVE_FOR_EVER.format(tests=os.path.dirname(__file__), workdir=str(workdir))
    start = ckpt.latest_step(workdir) or 0
    process = subprocess.Popen([sys.executable, "-c", code], env=environment())
    try:
        deadline = time.monotonic() + 30
        while (ckpt.latest_step(workdir) or 0) < start + 2 or not unfinished(workdir):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.0005)
        time.sleep(delay)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_killed_in_the_middle_of_a_save(tmp_path):
    interrupted = 0
    for delay in np.random.default_rng(0).uniform(0, 0.1, size=3):
        kill_while_saving(tmp_path, delay)
        interrupted += bool(unfinished(tmp_path))
        newest = ckpt.latest_step(tmp_path)
        lines = []
        state, step, metadata = restore(tmp_path, uniform_state(0), lines)
        # Ignored, then cleaned up: by a thread that only the next save waits for.
        deadline = time.monotonic() + 10
        while unfinished(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lines == [] and unfinished(tmp_path) == []
        assert step == newest and metadata == {"seen": step}
        assert_equal(state, uniform_state(step))
    assert interrupted  # otherwise no kill came during a save and nothing was shown


def no_room(*args, **kwargs):
    raise OSError(28, "No space left on device")


def test_a_failed_save_is_noticed_at_once_and_said_in_one_line(tmp_path, capfd):
    """Not at the next save: what is trained until then would be lost with it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with (
        pytest.raises(UserError, match=r"could not .* \(File too large\); make room"),
        ckpt.open_checkpoints(tmp_path) as checkpoints,
    ):
        ckpt.save(checkpoints, make_state(1), {}, wait=True)
        ckpt.check(checkpoints)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
        try:
            ckpt.save(checkpoints, make_state(2, width=4000), {})
            for _ in range(600):  # steps of training
                ckpt.check(checkpoints)
                time.sleep(0.05)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        pytest.fail("thirty seconds went by, and nothing was noticed")
    gc.collect()
    assert capfd.readouterr() == ("", "")
    assert_equal(restore(tmp_path)[0], make_state(1))


def test_closing_hides_no_error_and_raises_its_own(tmp_path, monkeypatch):
    close = ckpt.ocp.CheckpointManager.close
    monkeypatch.setattr(
        ckpt.ocp.CheckpointManager, "close", lambda self: close(self) or no_room()
    )
    with pytest.raises(KeyError, match="first"), ckpt.open_checkpoints(tmp_path):
        raise KeyError("first")
    no_space = pytest.raises(UserError, match="No space left on device")
    with no_space, ckpt.open_checkpoints(tmp_path):
        pass


def test_a_file_where_damaged_ones_should_go_is_said(workdir):
    flip_a_bit(data_file(workdir))
    (workdir / "checkpoints-damaged").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot be moved .*-damaged \(File exists\)"):
        restore(workdir)
    assert ckpt.all_steps(workdir) == [1, 2]


@pytest.mark.parametrize("name", ["params", "ema_params", "optimizer"])
def test_a_damaged_checkpoint_makes_no_noise(workdir, name, capfd):
    """Neither at once nor when what is left of the read is freed."""
    for path in (workdir / "checkpoints" / "2" / name).rglob("*"):
        if path.is_file():
            cut_in_half(path)
    lines = []
    assert restore(workdir, lines=lines)[1] == 1
    gc.collect()
    assert len(lines) == 1 and capfd.readouterr() == ("", "")


def test_errors_of_others_are_still_heard(caplog):
    keep_quiet()
    logger = logging.getLogger("asyncio")
    logger.error("of a page's server")
    # As a full disk of 6 MB left it, which no trace says to be of Orbax.
    said = 'Error opening "zarr" driver: Error writing "c/.zarray" in OCDBT database at'
    logger.error(
        "Future exception was never retrieved\nfuture: <Future finished exception="
        f"ValueError('RESOURCE_EXHAUSTED: {said}')>",
        exc_info=ValueError(said),
    )

    class Loud:
        def __del__(self):
            raise RuntimeError("not of Orbax")

    hook, heard = sys.unraisablehook, []
    sys.unraisablehook = type(hook)(heard.append)
    try:
        del_me = Loud()
        del del_me
    finally:
        sys.unraisablehook = hook
    assert caplog.messages == ["of a page's server"]
    assert [str(one.exc_value) for one in heard] == ["not of Orbax"]


@pytest.fixture
def pruned(workdir, tmp_path, monkeypatch):
    """A workdir whose trainer saves step 3 and removes step 2 while that is read."""
    with ckpt.open_checkpoints(tmp_path / "later") as checkpoints:
        ckpt.save(checkpoints, make_state(3), METADATA)
    restore_item, read = checkpoint_reader.restore_item, []

    def removed_meanwhile(directory, *rest):
        read.append(directory.name)
        if len(read) == 1:
            (tmp_path / "later/checkpoints/3").rename(workdir / "checkpoints/3")
            shutil.rmtree(workdir / "checkpoints" / "2")
        return restore_item(directory, *rest)

    monkeypatch.setattr(checkpoint_reader, "restore_item", removed_meanwhile)
    return workdir


def test_a_reader_beside_a_trainer_that_prunes_takes_the_newest(pruned):
    assert_equal(ckpt.restore_params(pruned), make_state(3).ema_params)


def test_a_step_by_name_that_a_trainer_removes_is_said(pruned):
    with pytest.raises(ckpt.GoneError, match=r"checkpoints/2 was removed while it was"):
        ckpt.restore_params(pruned, step=2)


def test_what_draws_says_what_happened_and_takes_the_newest(pruned):
    lines = []
    assert usable_step(pruned, lines.append, ema=True) == 3
    assert len(lines) == 1 and "2 was removed while it was read" in lines[0]


def test_damage_beside_a_trainer_is_still_damage(workdir, monkeypatch):
    monkeypatch.setattr(checkpoint_reader, "_REMOVING", 0.1)
    flip_a_bit(data_file(workdir, "ema_params"))
    with (
        workdir_lock.hold(workdir),
        pytest.raises(UserError, match=r"2 is damaged.*step 1"),
    ):
        ckpt.restore_params(workdir)


def test_a_folder_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "checkpoints").mkdir()
    monkeypatch.setattr(type(tmp_path), "iterdir", denied)
    with pytest.raises(UserError) as raised:
        ckpt.latest_step(tmp_path)
    said = str(raised.value)
    assert said.endswith(
        "checkpoints cannot be read (Permission denied); make it readable."
    )
    assert "\n" not in said
