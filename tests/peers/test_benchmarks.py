"""The comparison of `benchmarks.peers`: equal outputs first, times afterwards."""

import copy
import dataclasses
import json

import jax
import numpy as np
import pytest
from program import TINY_UNET

from benchmarks import parts, peers, start, table
from ddpm_jax.errors import UserError
from ddpm_jax.networks.cost import count_flops

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
equality = pytest.importorskip("benchmarks.equality")


def has_ddp():
    try:
        from benchmarks.peer_networks import ddp_peer

        ddp_peer(start.load(TINY_UNET, [], None), (8, 8, 1))
    except ImportError:
        return False
    return True


@pytest.fixture(scope="module")
def tiny():
    of = parts.make_parts(start.load(TINY_UNET, [], None))
    return of, *equality.same_network(of)


@pytest.mark.parametrize("recipe", [TINY_UNET, "configs/digits.py"])
def test_the_networks_are_the_same_with_labels(recipe):
    of = parts.make_parts(start.load(recipe, [], None))
    found = equality.check_equal(of, *equality.same_network(of))
    assert found["output_std"] > 0.1
    assert found["largest_difference"] < 2e-5


def test_a_weight_that_was_not_carried_over_stops_the_comparison(tiny):
    of, module, params = tiny
    module = copy.deepcopy(module)
    module.conv_out = torch.nn.Conv2d(8, 1, 3, padding=1)
    with pytest.raises(UserError, match="nothing is timed"):
        equality.check_equal(of, module, params)


def test_pytorch_counts_the_same_operations(tiny):
    from diffusers.models.attention_processor import AttnProcessor
    from torch.utils.flop_counter import FlopCounterMode

    of, module, params = tiny
    x, t, label = parts.forward_inputs(of, 3)
    for part in module.modules():
        if hasattr(part, "set_processor"):  # the fused kernel is not counted
            part.set_processor(AttnProcessor())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(t),
               class_labels=torch.from_numpy(label))  # fmt: skip
    own = count_flops(parts.forward(of), params, x, t, label)
    assert own == counter.get_total_flops()


def test_gradients_are_the_same(tiny):
    """Not only outputs: what a training step computes with them."""
    from benchmarks.diffusers_weights import to_flax

    of, module, params = tiny
    x, t, label = parts.forward_inputs(of, 4)
    network = parts.forward(of)
    own = jax.jit(jax.grad(lambda p: (network(p, x, t, label) ** 2).mean()))(params)
    module.eval().zero_grad()
    output = module(
        torch.from_numpy(x).permute(0, 3, 1, 2),
        torch.from_numpy(t),
        class_labels=torch.from_numpy(label),
    ).sample
    output.square().mean().backward()
    theirs = to_flax(
        {name: p.grad.numpy() for name, p in module.named_parameters()},
        len(of.unet.network.channel_multipliers),
    )
    for path, leaf in jax.tree.leaves_with_path(own):
        other = theirs
        for key in path:
            other = other[key.key]
        scale = max(1e-3, np.abs(other).max())
        np.testing.assert_allclose(leaf, other, atol=1e-4 * scale, err_msg=str(path))


def test_outputs_can_be_compared_after_pytorch_has_compiled_and_trained():
    """With the weights of the start, which the steps of the peer have changed."""
    stages = []
    args = peers.make_parser().parse_args(
        ["--peers=diffusers", "--tasks=train", "--variants=eager", "--num-turns=1",
         "--num-steps=2"]
    )  # fmt: skip
    args.check_late, args.config = True, TINY_UNET
    recipe = start.load(TINY_UNET, ["--config.training.learning_rate=0.1"], None)
    it = peers.measure(start.Setup(args, recipe, "", stages.append))
    assert it["peers"]["diffusers"]["largest_difference"] < 1e-5
    assert stages == ["compile", "time"]


def test_rounding_is_reported_of_both_and_in_bfloat16_alone(tiny):
    of, module, params = tiny
    recipe = start.changed(of.recipe, "network.dtype=bfloat16")
    of = dataclasses.replace(of, recipe=recipe)
    found = equality.in_bfloat16(of, module, params)
    # A unit in the last place of bfloat16 is 2^-8; a few layers add some of them up.
    assert all(2**-11 < value < 2**-4 for value in found.values())
    assert not module.training


def test_a_variant_that_does_not_run_is_left_out_and_named(tmp_path, monkeypatch):
    from benchmarks import peer_steps

    before = peer_steps.prepared

    def prepared(module, variant):
        if variant == "compiled":
            raise RuntimeError("no compiler found")
        return before(module, variant)

    monkeypatch.setattr(peer_steps, "prepared", prepared)
    path = tmp_path / "peers.json"
    flags = ["--peers=diffusers", "--tasks=sample", "--num-turns=1", "--chain-steps=2"]
    flags += [f"--config={TINY_UNET}", f"--out={path}"]
    assert peers.main([*flags, "--variants=compiled,eager"]) == 0
    about = json.loads(path.read_text())["results"]["peers"]["diffusers"]["sample"]
    assert about["fastest"] == "eager" and list(about["variants"]) == ["eager"]
    assert about["failed"] == {"compiled": "RuntimeError: no compiler found"}
    assert peers.main([*flags, "--variants=compiled"]) == 2


@pytest.mark.parametrize(
    ("variant", "tried", "is_at_hand"),
    [
        ("compiled_channels_last", ["compiled_channels_last", "channels_last"], True),
        ("channels_last", ["channels_last", "compiled_channels_last"], False),
        ("compiled_channels_last", ["compiled_channels_last", "eager"], False),
        ("eager", ["channels_last", "eager"], True),
    ],
)
def test_what_was_compiled_is_used_again_where_it_still_is(variant, tried, is_at_hand):
    assert peers._is_at_hand(variant, tried) is is_at_hand


@pytest.mark.parametrize("name", peers.PEERS)
def test_the_script_takes_turns_and_reports_ratios(name, tmp_path, capsys):
    if name != "diffusers" and not has_ddp():
        pytest.skip(f"{name} is not installed")
    path = tmp_path / "peers.json"
    flags = [f"--peers={name}", "--variants=eager", "--num-turns=1", "--chain-steps=2"]
    assert peers.main([f"--config={TINY_UNET}", f"--out={path}", *flags]) == 0
    assert table.main([str(path)]) == 0
    shown = capsys.readouterr().out
    it = json.loads(path.read_text())["results"]
    about = it["peers"][name]
    if name == "diffusers":
        assert about["largest_difference"] < 1e-5
        assert about["num_parameters"] == it["num_parameters"]
    else:
        assert about["same_network"] is False
        assert "other net" in shown
    for task in peers.TASKS:
        (own,), (other,) = (about[task]["times"][side] for side in ("ddpm_jax", name))
        assert about[task]["ratio"]["median"] == pytest.approx(other / own)
    assert f"{name} (eager)" in shown


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--variants=fast", "--variants=fast is not known"),
        ("--peers=edm", "--peers=edm is not known"),
        ("--chain-steps=21", "for 20 levels"),
        ("--config.network.remat=True", "without config.network.remat"),
        ("--config.prediction=v", "without config.prediction"),
    ],
)
def test_what_cannot_be_compared_is_refused(flag, message, capsys):
    assert peers.main([f"--config={TINY_UNET}", flag]) == 2
    assert message in capsys.readouterr().err
