"""State dicts named as OpenAI's programs name them, from a network written here.

The reference is a small PyTorch module after the descriptions in Nichol & Dhariwal 2021
and Dhariwal & Nichol 2021, whose parameters have the names of the published files.
"""

import jax
import numpy as np
import pytest

from ddpm_jax import assembly
from ddpm_jax.cli import main
from ddpm_jax.commands.about import trained_recipe
from ddpm_jax.commands.model import open_model
from ddpm_jax.requests import Sample

torch = pytest.importorskip("torch")
nn = torch.nn


def norm(width):
    return nn.GroupNorm(32, width)  # with PyTorch's epsilon, 1e-5


class Block(nn.Module):
    def __init__(self, width_in, width, embedding, scales, resample=None):
        super().__init__()
        self.scales = scales
        self.resample = resample
        self.in_layers = nn.Sequential(
            norm(width_in), nn.SiLU(), nn.Conv2d(width_in, width, 3, padding=1)
        )
        shift_scale = nn.Linear(embedding, 2 * width if scales else width)
        self.emb_layers = nn.Sequential(nn.SiLU(), shift_scale)
        self.out_layers = nn.Sequential(
            norm(width), nn.SiLU(), nn.Dropout(0.5), nn.Conv2d(width, width, 3, 1, 1)
        )
        same = width_in == width
        self.skip_connection = nn.Identity() if same else nn.Conv2d(width_in, width, 1)

    def forward(self, x, embedding):
        shift_scale = self.emb_layers(embedding)[:, :, None, None]
        h = self.in_layers[:2](x)
        if self.resample:
            h, x = self.resample(h), self.resample(x)
        h = self.in_layers[2](h)
        if self.scales:
            scale, shift = shift_scale.chunk(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + shift_scale)
        return self.skip_connection(x) + h


class Attention(nn.Module):
    def __init__(self, width, heads, order):
        super().__init__()
        self.heads, self.order = heads, order
        self.norm = norm(width)
        self.qkv = nn.Conv1d(width, 3 * width, 1)
        self.proj_out = nn.Conv1d(width, width, 1)

    def forward(self, x, embedding):
        batch, width, height, breadth = x.shape
        packed = self.qkv(self.norm(x.flatten(2)))
        if self.order == "legacy":  # a head after the other, q k v in each
            packed = packed.unflatten(1, (self.heads, 3, width // self.heads))
            q, k, v = packed.unbind(2)
        else:  # all q, all k, all v
            packed = packed.unflatten(1, (3, self.heads, width // self.heads))
            q, k, v = packed.unbind(1)
        seen = nn.functional.scaled_dot_product_attention(
            *(part.transpose(2, 3) for part in (q, k, v))
        )
        h = self.proj_out(seen.transpose(2, 3).reshape(batch, width, -1))
        return x + h.unflatten(2, (height, breadth))


def half(x):
    return nn.functional.avg_pool2d(x, 2)


def twice(x):
    return nn.functional.interpolate(x, scale_factor=2)


class Down(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x, embedding):
        return self.op(x)


class Up(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x, embedding):
        return self.conv(twice(x))


class Convolution(nn.Conv2d):
    def forward(self, x, embedding):
        return super().forward(x)


class Stage(nn.Sequential):
    def forward(self, x, embedding):
        for part in self:
            x = part(x, embedding)
        return x


class Reference(nn.Module):
    def __init__(self, kind, channels=32, blocks=1):
        super().__init__()
        width = 4 * channels
        self.channels = channels
        self.time_embed = nn.Sequential(
            nn.Linear(channels, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.label_emb = (
            nn.Embedding(kind["classes"], width) if kind["classes"] else None
        )

        def heads(now):
            return kind["heads"] or now // kind["head_channels"]

        def attention(now):
            return Attention(now, heads(now), kind["order"])

        def block(before, now, resample=None):
            return Block(before, now, width, kind["scales"], resample)

        seen, now = kind["images"], channels
        self.input_blocks = nn.ModuleList([Stage(Convolution(seen, now, 3, padding=1))])
        kept = [now]
        multipliers = kind["multipliers"]
        for level, multiplier in enumerate(multipliers):
            for _ in range(blocks):
                parts = [block(now, channels * multiplier)]
                now = channels * multiplier
                if level in kind["attends"]:
                    parts.append(attention(now))
                self.input_blocks.append(Stage(*parts))
                kept.append(now)
            if level < len(multipliers) - 1:
                end = block(now, now, half) if kind["updown"] else Down(now)
                self.input_blocks.append(Stage(end))
                kept.append(now)
        self.middle_block = Stage(block(now, now), attention(now), block(now, now))
        self.output_blocks = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for i in range(blocks + 1):
                parts = [block(now + kept.pop(), channels * multiplier)]
                now = channels * multiplier
                if level in kind["attends"]:
                    parts.append(attention(now))
                if level > 0 and i == blocks:
                    end = block(now, now, twice) if kind["updown"] else Up(now)
                    parts.append(end)
                self.output_blocks.append(Stage(*parts))
        out = seen * (2 if kind["learned"] else 1)
        self.out = nn.Sequential(
            norm(now), nn.SiLU(), nn.Conv2d(now, out, 3, padding=1)
        )

    def forward(self, x, t, label=None):
        half = self.channels // 2
        rates = torch.exp(-np.log(10000.0) * torch.arange(half) / half)
        angles = t[:, None] * rates[None]
        code = torch.cat([angles.cos(), angles.sin()], dim=1)
        embedding = self.time_embed(code.float())
        if label is not None:
            embedding = embedding + self.label_emb(label)
        kept = []
        for stage in self.input_blocks:
            x = stage(x, embedding)
            kept.append(x)
        x = self.middle_block(x, embedding)
        for stage in self.output_blocks:
            x = stage(torch.cat([x, kept.pop()], dim=1), embedding)
        return self.out(x)


DEFAULTS = {
    "images": 3,
    "classes": None,
    "heads": 4,
    "head_channels": None,
    "order": "legacy",
    "scales": True,
    "learned": False,
    "attends": (1,),
    "updown": False,
    "multipliers": (1, 2),
}
KINDS = {
    "improved": {"learned": True},
    "added": {"scales": False, "heads": 1, "attends": (), "images": 1},
    "guided": {"classes": 6, "heads": None, "head_channels": 16, "attends": (0, 1)},
    "updown": {"updown": True, "multipliers": (1, 1, 2), "attends": (1, 2)},
    "new": {"order": "new", "heads": None, "head_channels": 16, "learned": True},
}


def randomised(module):
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for value in module.parameters():
            noise = rng.standard_normal(value.shape).astype(np.float32)
            if value.ndim > 1:
                value.copy_(torch.from_numpy(noise / np.sqrt(value[0].numel())))
            else:
                value.copy_(value.round() + torch.from_numpy(0.1 * noise))
    return module.eval()


@pytest.mark.parametrize("name", KINDS)
def test_imports_a_state_dict(name, tmp_path):
    kind = DEFAULTS | KINDS[name]
    peer = randomised(Reference(kind))
    path = tmp_path / "ema_0.9999_050000.pt"
    # Half of them are written as PyTorch wrote files before 2020.
    zipped = name in ("improved", "guided")
    torch.save(peer.state_dict(), path, _use_new_zipfile_serialization=zipped)
    heads = "num_heads" if kind["heads"] else "head_channels"
    options = {
        f"network.{heads}": kind["heads"] or kind["head_channels"],
        "data.image_size": 8,
        "schedule.kind": "cosine",
        "schedule.num_levels": 400,
        "schedule.t_range": 1000,
    }
    given = [f"--config.{option}={value}" for option, value in options.items()]
    workdir = tmp_path / "run"
    given += [f"--qkv-order={kind['order']}", "--step=50000"]
    arguments = ["import", f"{path}", f"{workdir}", *given]
    assert main(arguments) == 0
    recipe = trained_recipe(workdir)
    spec, trained = recipe.task, open_model(recipe, recipe.request(Sample), workdir)
    assert trained.step == 50_000
    assert (spec.variance == "learned") == kind["learned"]

    x = np.random.default_rng(1).standard_normal((3, 8, 8, kind["images"]))
    x = x.astype(np.float32)
    levels = np.array([0, 123, 399])
    label = np.array([0, 3, 5], np.int32) if kind["classes"] else None
    times = spec.schedule.build().at(levels).t  # their rescaled times: t * 1000 / T
    np.testing.assert_allclose(times, levels * 2.5)
    with torch.no_grad():
        theirs = peer(
            torch.from_numpy(x).movedim(-1, 1),
            torch.from_numpy(levels * 2.5),
            None if label is None else torch.from_numpy(label).long(),
        )
    theirs = theirs.movedim(1, -1).numpy()
    apply = jax.jit(assembly.network(trained.unet))
    cond = None if label is None else {"label": label}
    assert 0.2 < theirs.std() < 5
    ours = apply(trained.params.network, x, times, cond)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
