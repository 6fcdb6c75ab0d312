# %% [markdown]
# # Ten steps in the plane
#
# Data of two numbers instead of pixels: everything can be drawn, and since the data are
# Gaussians, every answer is known. Each of the ten steps compares what the library
# computes with the exact answer, and ends in an assertion: if the notebook runs to its
# end, its claims hold.
#
# One small model is trained, in step 3, and used in all that follow. It needs a CPU and
# about two minutes.
#
# 1. The forward process
# 2. The exact denoiser
# 3. Learning it: eps, x0, v or the velocity
# 4. DDPM, DDIM, Heun: the order of a sampler
# 5. The density of a model
# 6. Guidance, and its overshoot
# 7. Inpainting a coordinate
# 8. Score distillation, and its bias
# 9. The straight path
# 10. A GAN, a VAE and a flow on the same ring

# %% tags=["parameters"]
SEED = 0
NUM_STEPS = 1500  # of training the model of step 3
BRIEF_STEPS = 400  # of each model that is trained for a comparison alone
SAMPLES = 2000  # points that are drawn to judge a model
PIXELS = 96  # of the density map, each way; a multiple of 4

# %%
import functools
import os
import sys

sys.path.append("..")  # the library lies beside this folder
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "1")

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from scipy.stats import norm

# %%
from ddpm_jax import data
from ddpm_jax.conditioning.conditioned import Conditioned, as_network
from ddpm_jax.conditioning.label import Label
from ddpm_jax.data.points import MIXTURES, Mixture
from ddpm_jax.diffusion import (
    denoisers,
    editing,
    generate,
    grids,
    guidance,
    karras,
    losses,
    process,
    samplers,
    schedules,
    time_sampling,
)

# %%
from ddpm_jax.diffusion.exact import mixture_denoiser
from ddpm_jax.evaluation.modes import count_modes
from ddpm_jax.networks.mlp import MLP
from ddpm_jax.recipe import (
    GAN,
    VAE,
    Adam,
    Data,
    Fit,
    Flow,
    FlowTask,
    VectorAutoencoder,
    VectorDiscriminator,
    VectorGenerator,
)
from ddpm_jax.runtime.devices import data_mesh
from ddpm_jax.sampling import plane

# %%
plt.rcParams.update(
    {
        "figure.dpi": 80,
        "figure.constrained_layout.use": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "legend.frameon": False,
        "legend.fontsize": 9,
    }
)
BLUE, ORANGE, GREEN, GREY = "#08519c", "#d95f0e", "#31a354", "#9a9a9a"
trained = NUM_STEPS >= 1500  # a rehearsal with fewer steps has learned nothing yet


def show_points(panels, side=2.4):
    """Draw scatter plots side by side; title -> points [N, 2]."""
    size = (9, 9 / len(panels) + 0.4)
    _, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False)
    for axis, (title, points) in zip(axes[0], panels.items(), strict=True):
        points = np.asarray(points)
        few = len(points) < 100
        style = {"s": 20 if few else 2, "alpha": 1 if few else 0.4, "linewidths": 0}
        axis.scatter(*points.T, color=BLUE, **style)
        axis.set(title=title, xlim=(-side, side), ylim=(-side, side), aspect="equal")
        axis.set(xticks=[], yticks=[])
    plt.show()


# %% [markdown]
# ## 1. The forward process
#
# The data: eight Gaussians on a circle, each of standard deviation $s = 0.028$. A level
# is $x_t = \alpha_t x_0 + \sigma_t \epsilon$. Of Gaussians at $c_k$ the noised law is
# again one of Gaussians, at $\alpha_t c_k$, of variance $\alpha_t^2 s^2 + \sigma_t^2$:
# the ring shrinks to a point, and grows as wide as the noise.

# %%
T = 1000
schedule = schedules.from_betas(schedules.cosine_betas(T))
ring = MIXTURES["ring"]
centers, std = ring.centers, ring.std  # [8, 2]; of each coordinate
points, labels = data.in_memory(data.load("points:ring", split="train"))
x0 = jnp.asarray(points)  # float32 [20000, 2]

eps = jax.random.normal(jax.random.key(SEED), x0.shape)
shown = {f"t = {t + 1}": schedule.at(t) for t in (0, 199, 499, 799, 999)}
noised = {name: process.add_noise(x0, eps, level) for name, level in shown.items()}
show_points({name: x_t[:2000] for name, x_t in noised.items()})

for name, level in shown.items():
    a, v = float(level.alpha), float(level.alpha**2 * std**2 + level.sigma**2)
    # |x_t|^2 = sum of two squares: its mean, and what that scatters by, in closed form.
    mean = a**2 * 2 + 2 * v
    error = np.sqrt((4 * v**2 + 4 * v * a**2 * 2) / len(x0))
    found = float(jnp.mean(jnp.sum(noised[name] ** 2, axis=1)))
    print(f"{name}: E |x_t|^2 = {found:.3f}, exactly {mean:.3f}")
    assert abs(found - mean) < 5 * error

# %% [markdown]
# ## 2. The exact denoiser
#
# What a network is to learn is $E[x_0 \mid x_t]$, here a formula (`exact.py`): each
# center, weighted by how likely it is to be the one that $x_t$ came from. With $s = 0$
# and the training points as centers it is what a network without limits would learn of
# its training set: the chain then ends *in* training points. What makes a diffusion
# model draw new points is that its network cannot do that.


# %%
@functools.partial(jax.jit, static_argnums=(0, 1))
def draw(denoise, sampler, levels, keys, cond=None):
    """Draw a point for each key; x_0 [N, 2]."""
    noise = generate.initial_noise(keys, (2,))
    return generate.generate(keys, sampler, denoise, noise, levels, cond=cond)[0]


keys = generate.image_keys(jax.random.key(SEED + 1), jnp.arange(SAMPLES))
fifty = grids.grid(schedule, 50)
few = np.stack([points[labels == k][0] for k in range(8)])  # one of each center
copies = draw(mixture_denoiser(few), samplers.ddim(), fifty, keys)
fresh = draw(mixture_denoiser(centers, std), samplers.ddim(), fifty, keys)
show_points({"Trained on these": few, "Memorized": copies, "Of the true law": fresh})

distance = np.linalg.norm(np.asarray(copies)[:, None] - few, axis=2).min(axis=1)
good = count_modes(fresh, centers, std).good
print(f"Copies are within {distance.max():.1e} of a training point.")
print(f"Of the true law {good:.1%} lie within 3 standard deviations, exactly 98.9%.")
assert distance.max() < 1e-3
assert abs(good - 0.989) < 0.03  # what 50 steps err by, and chance

# %% [markdown]
# ## 3. Learning it
#
# A perceptron of 27,506 parameters, conditioned on the time and on the class of a
# point; half of the classes are hidden (condition dropout), so that one network is the
# conditional and the unconditional model: class 8 is "no class". What it is to predict
# is chosen by its number among the kinds, so that one compiled program trains them all.

# %%
model = Conditioned(MLP(width=48, depth=3), {"label": Label(num_classes=8)})
network = as_network(model)
classes = jnp.asarray(labels)


kinds = {"eps": process.EPS, "x0": process.X0, "v": process.V, "flow": process.FLOW}
branches = [losses.simple_loss(kind) for kind in kinds.values()]


def mean_loss(params, name, key):
    """Compute the loss of a batch whose classes are hidden in half of the rows."""
    of_rows, of_labels, of_loss = jax.random.split(key, 3)
    rows = jax.random.randint(of_rows, (512,), 0, len(x0))
    hidden = jax.random.bernoulli(of_labels, 0.5, (512,))
    each, _ = losses.training_loss(
        *(of_loss, network, params, x0[rows]),
        schedule=schedule,
        loss=lambda output, noised: jax.lax.switch(name, branches, output, noised),
        cond={"label": jnp.where(hidden, 8, classes[rows])},
        times=time_sampling.STRATIFIED,  # t spread evenly over each batch
    )
    return each.mean()


# %%
@jax.jit
def train(name, num_steps, key):
    """Train to predict kind number `name`; averaged parameters, and the loss."""

    def rate(count):
        return 1e-3 * (1 + jnp.cos(jnp.pi * count / num_steps))

    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))

    def step(number, state):
        params, average, memory, values = state
        own = jax.random.fold_in(key, number)
        value, gradient = jax.value_and_grad(mean_loss)(params, name, own)
        updates, memory = adam.update(gradient, memory)
        params = optax.apply_updates(params, updates)
        average = optax.incremental_update(params, average, 0.01)
        return params, average, memory, values.at[number].set(value)

    params = model.init(key, x0[:1], jnp.zeros(1))["params"]
    state = params, params, adam.init(params), jnp.zeros(5000)
    return jax.lax.fori_loop(0, num_steps, step, state)[1::2]


# %%
names = list(kinds)
params, values = train(names.index("v"), NUM_STEPS, jax.random.key(SEED + 2))
conditional = denoisers.from_network(network, params, process.V)


def nothing(cond):
    """Say "no class" for every row."""
    return {"label": jnp.full_like(cond["label"], 8)}


def learned(x_t, level, cond=None):
    """Predict without the class."""
    return conditional(x_t, level, {"label": jnp.full(len(x_t), 8)})


# %%
drawn = draw(learned, samplers.ddim(), fifty, keys)
modes = count_modes(drawn, centers, std)
levels = plane.levels_by_noise(schedule, (0.1, 0.3, 1.0, 3.0))
of_field = [
    plane.field_error(learned, centers, std, at, points[:2048]) for at in levels
]

_, axes = plt.subplots(1, 2, figsize=(9, 3))
axes[0].semilogy(values[:NUM_STEPS], color=BLUE)
axes[0].set(title="Loss", xlabel="training step")
axes[1].scatter(*np.asarray(drawn).T, s=2, color=BLUE, alpha=0.4, linewidths=0)
axes[1].set(title=f"{SAMPLES} points of the model", aspect="equal")
plt.show()
print(f"{modes.hit} of 8 modes, {modes.good:.1%} within 3 standard deviations")
print("error of the score by sigma / alpha:", ", ".join(f"{e:.0%}" for e in of_field))
if trained:
    assert modes.hit == 8 and modes.good > 0.8 and modes.kl < 0.02
    assert of_field[-1] < 0.1  # the noisy end is the easy one

# %% [markdown]
# What should the network say? $\epsilon$, $x_0$, $v$ and the velocity $\epsilon - x_0$
# are one another's translations at a level, but not as good *after* translation: $x_0 =
# (x_t - \sigma\epsilon)/\alpha$ divides an error of $\epsilon$ by $\alpha$, which is
# small at the noisy end, and $\epsilon = (x_t - \alpha x_0)/\sigma$ one of $x_0$ by
# $\sigma$, which is small at the clean end. Four networks, trained briefly:

# %%
ratios = np.geomspace(0.02, 50, 12)
levels = plane.levels_by_noise(schedule, tuple(ratios))
exact = mixture_denoiser(centers, std)
some, noise = x0[:2048], eps[:2048]
off = {}
for name, kind in kinds.items():
    found, _ = train(names.index(name), BRIEF_STEPS, jax.random.key(SEED + 3))
    guess = jax.jit(denoisers.from_network(network, found, kind))
    rows = []
    for level in levels:
        x_t = process.add_noise(some, noise, level)
        one, other = guess(x_t, level, {"label": jnp.full(2048, 8)}), exact(x_t, level)
        rows.append(
            [float(jnp.sqrt(jnp.mean((one[i] - other[i]) ** 2))) for i in (0, 1)]
        )
    off[name] = np.array(rows)  # [levels, (x0, eps)]

_, axes = plt.subplots(1, 2, figsize=(9, 3), sharex=True)
for name, rows in off.items():
    for axis, column in zip(axes, rows.T, strict=True):
        axis.loglog(ratios, column, label=name)
axes[0].set(title="Error of $x_0$", xlabel=r"$\sigma / \alpha$")
axes[1].set(title=r"Error of $\epsilon$", xlabel=r"$\sigma / \alpha$")
axes[1].legend()
plt.show()
assert off["eps"][-1, 0] > 3 * off["x0"][-1, 0]  # at the noisy end
assert off["x0"][0, 1] > 3 * off["eps"][0, 1]  # at the clean end
assert (off["v"] < 2 * np.maximum(off["eps"], off["x0"])).all()  # a fair compromise

# %% [markdown]
# ## 4. DDPM, DDIM, Heun
#
# On a line the deterministic chain keeps the order of points, so it has to carry the
# quantile $p$ of the noise to the quantile $p$ of the data, which is known: the error
# of a sampler can be measured point by point. DDIM is of order 1, Heun of order 2, each
# step of which calls the network twice. DDPM draws fresh noise; its draws are sorted.

# %%
line = np.array([[-1.0], [1.0]])  # two Gaussians on a line, of deviation 0.3
p = (np.arange(SAMPLES) + 0.5) / SAMPLES
x = np.linspace(-3, 3, 60_001)
cumulative = (norm.cdf(x, -1, 0.3) + norm.cdf(x, 1, 0.3)) / 2
quantiles = np.interp(p, cumulative, x)
start = jnp.asarray(norm.ppf(p), jnp.float32)[:, None]


@functools.partial(jax.jit, static_argnums=0)
def carry(sampler, levels):
    """Carry the quantiles of the noise through a chain; the error that is left."""
    denoise = mixture_denoiser(line, 0.3)
    found, _ = generate.generate(keys, sampler, denoise, start, levels)
    return jnp.sqrt(jnp.mean((jnp.sort(found[:, 0]) - quantiles) ** 2))


# %%
calls = np.array([32, 64, 128])
ways = {
    "DDPM": (samplers.ancestral(process.small_variance), 1, GREY),
    "DDIM": (samplers.ddim(), 1, ORANGE),
    "Heun": (karras.heun(), 2, BLUE),
}
missed, order = {}, {}
_, axes = plt.subplots(figsize=(5, 3))
for name, (sampler, each, colour) in ways.items():
    chains = [grids.logsnr_grid(schedule, n // each) for n in calls]
    missed[name] = np.array([float(carry(sampler, chain)) for chain in chains])
    order[name] = -np.polyfit(np.log(calls), np.log(missed[name]), 1)[0]
    axes.loglog(calls, missed[name], "o-", color=colour, label=name)
axes.set(title="Distance to the exact quantiles", xlabel="calls of the network")
axes.legend()
plt.show()
print(", ".join(f"{name}: order {order[name]:.2f}" for name in ("DDIM", "Heun")))
assert 0.7 < order["DDIM"] < 1.3 and 1.7 < order["Heun"] < 2.9
assert missed["Heun"][-1] < missed["DDIM"][-1] / 3 < missed["DDPM"][-1] / 3

# %% [markdown]
# ## 5. The density of a model
#
# The probability-flow ODE carries a density as well as points, so that the model *has*
# a density, everywhere: the trace of its Jacobian, integrated along the way (Song et
# al. 2021). In the plane the trace is exact. A density integrates to 1, which is a
# check of everything at once; and that of the exact denoiser has to be the ring's own,
# as noised by the cleanest level, where the ODE begins.

# %%
square = plane.square_around(points)
density = plane.model_density(learned, schedule, num_steps=20)
heat = plane.density_map(density, square, points[:2000], num_pixels=PIXELS)

first = schedule.at(0)
alpha, sigma = float(first.alpha), float(first.sigma)
law = Mixture(centers * alpha, np.sqrt(alpha**2 * std**2 + sigma**2))
places = points[:200]
of_exact = plane.model_density(exact, schedule, num_steps=48)(places)
ratio = of_exact / np.exp(law.log_density(places))

_, axes = plt.subplots(figsize=(4.2, 4.2))
axes.imshow(heat.values.T**0.25, origin="lower", extent=2 * square, cmap="magma")
axes.set_title("Density of the model, to the power 1/4")
plt.show()
print(f"It integrates to {heat.integral:.3f} over the square.")
print(f"Exact denoiser: its density is off by {np.abs(ratio - 1).max():.1%} at most.")
assert np.abs(ratio - 1).max() < 0.05
if trained:
    assert abs(heat.integral - 1) < 0.03

# %% [markdown]
# ## 6. Guidance, and its overshoot
#
# Classifier-free guidance goes along the difference of the conditional and the
# unconditional model, by $w$ times its length. What it draws is not the class any more.
# Where the class is $\mathcal N(c, I)$ and all data are $\mathcal N(0, I)$, it can be
# solved: guidance draws from $\mathcal N(wc, I)$, past the class, by $(w - 1)c$.

# %%
c = jnp.array([1.0, 0.5])


def two_laws(x_t, level, cond):
    """Predict for N(0, I), or for N(c, I) where the label is 1."""
    alpha, sigma = process.like(level.alpha, x_t), process.like(level.sigma, x_t)
    x0 = alpha * x_t + sigma**2 * cond["label"][:, None] * c
    return process.Prediction(x0, process.eps_from_x0(x0, x_t, level))


def none_of(cond):
    """Ask for all data."""
    return {"label": jnp.zeros_like(cond["label"])}


# %%
@jax.jit
def draw_guided(w):
    """Draw with guidance from the two laws, and from the model for class 2."""
    found = []
    for denoise, null, label in ((two_laws, none_of, 1), (conditional, nothing, 2)):
        guided = guidance.classifier_free(denoise, w, null)
        cond = {"label": jnp.full(SAMPLES, label)}
        found.append(draw(guided, samplers.ddim(), fifty, keys, cond))
    return found


in_class, height, asked = {}, {}, {}
for w in (0.0, 1.0, 2.0, 4.0):
    of_laws, of_ring = draw_guided(w)
    shifted = np.asarray(of_laws).mean(axis=0)
    distance = np.linalg.norm(np.asarray(of_ring)[:, None] - centers, axis=2)
    in_class[w], asked[f"w = {w:g}"] = np.mean(distance.argmin(axis=1) == 2), of_ring
    height[w] = float(of_ring[:, 1].mean())
    print(
        f"w = {w:g}: Gaussians {shifted.round(2)}; ring {in_class[w]:.0%} of class 2,"
    )
    print(
        f"       whose center is at y = {centers[2, 1]:.2f}; theirs is {height[w]:.2f}"
    )
    assert np.abs(shifted - w * c).max() < 5 / np.sqrt(SAMPLES)
show_points(asked)
if trained:
    assert in_class[0.0] < 0.25 and min(in_class[1.0], in_class[2.0]) > 0.9

# %% [markdown]
# The ring shows a little of it: guided points lie a bit beyond their center, and the
# conditional model, $w = 1$, was as good as it gets. Pictures gain, since a class is
# one of many things that blur there, and pay with variety.
#
# ## 7. Inpainting a coordinate
#
# $x$ is known, $y$ is asked for: a picture with a hole. The conditional law is known:
# on $x = 0$ the ring has an upper and a lower center, on $x = 1$ two others, and on
# $x = \sqrt 2$ a single one, at $y = 0$. RePaint puts the known coordinate back at each
# step, and walks each stretch of the chain several times, so that the other one comes
# to fit it. With one visit too many chains settle on a center while $x$ is still mostly
# noise, and end beside the ring; more visits bring them back, and are never quite
# enough.


# %%
def fill(denoise, visits, key, x):
    """Draw points whose first coordinate is x."""
    known, mask = jnp.array([x, 0.0]), jnp.array([1.0, 0.0])
    sampler = editing.inpaint(samplers.ancestral(process.small_variance), known, mask)
    chain = editing.repaint_grid(fifty, 1, visits)
    own = generate.image_keys(key, jnp.arange(SAMPLES))
    noise = generate.initial_noise(own, (2,))
    return generate.generate(own, sampler, denoise, noise, chain)[0]


filled, near = {}, {}
with_visits = (("exact", exact, 1), ("exact", exact, 10), ("model", learned, 3))
for name, denoise, visits in with_visits:
    filler = jax.jit(functools.partial(fill, denoise, visits))
    for x in (0.0, 1.0, np.sqrt(2)) if name == "exact" else (0.0,):
        found = np.asarray(filler(jax.random.key(SEED + 5), x))
        assert np.array_equal(found[:, 0], np.full(SAMPLES, x, np.float32))
        title = f"x = {x:.1f}; {visits}" if name == "exact" else "model"
        filled[title] = found
        near[name, visits, x] = count_modes(found, centers, std).good
        up = np.mean(found[:, 1] > 0)
        print(f"{name}, visits {visits}, x = {x:.2f}: ", end="")
        print(f"{near[name, visits, x]:.1%} within 3 deviations, {up:.1%} up")
        if name == "exact" and x < 1.2:
            assert abs(up - 0.5) < 5 * 0.5 / np.sqrt(SAMPLES)
show_points(filled)
assert near["exact", 1, 0.0] > 0.95 and near["exact", 10, 1.0] > 0.85
assert near["exact", 10, np.sqrt(2)] > near["exact", 1, np.sqrt(2)] + 0.15
if trained:
    assert near["model", 3, 0.0] > 0.7

# %% [markdown]
# ## 8. Score distillation, and its bias
#
# DreamFusion (Poole et al. 2022) changes a scene until its pictures please a diffusion
# model: it descends $E_{t,\epsilon}[\hat\epsilon(x_t, t) - \epsilon]$. Let the scene be
# a point of the plane, which *is* its picture. The arrows lead to the ring; but the
# points do not become draws from it. All that come to a center come to one place, for
# it is the peak that is sought and not the law; and noisy levels, which see only the
# mean of all data, pull that place off the center.

# %%
eight = jax.random.normal(jax.random.key(SEED + 4), (8, 2))
both_signs = jnp.concatenate([eight, -eight])  # their mean is 0, as that of noise
noise_levels = grids.grid(schedule, 40)


@jax.jit
def distilled(places):
    """Average the gradient over levels and noise, at places [N, 2]."""

    def at_level(total, level):
        def with_noise(e):
            x_t = process.add_noise(places, jnp.broadcast_to(e, places.shape), level)
            return exact(x_t, level).eps - e

        return total + jax.vmap(with_noise)(both_signs).mean(0), None

    inner = jax.tree.map(lambda leaf: leaf[:-1], noise_levels)
    total, _ = jax.lax.scan(at_level, jnp.zeros_like(places), inner)
    return total / 40


# %%
chosen = np.random.default_rng(SEED).integers(len(points), size=48)
begun = jnp.asarray(points[chosen])
ended = jax.lax.fori_loop(0, 200, lambda _, y: y - 0.05 * distilled(y), begun)
arrows = plane.Square(-2.2, 2.2).places(20).reshape(-1, 2)

_, axes = plt.subplots(figsize=(4.2, 4.2))
slope = -np.asarray(distilled(jnp.asarray(arrows, jnp.float32)))
slope /= np.linalg.norm(slope, axis=1, keepdims=True)
axes.quiver(*arrows.T, *slope.T, color=GREY, angles="xy")
axes.scatter(*points[:1000].T, s=2, color=BLUE, label="data")
axes.scatter(*np.asarray(ended).T, s=12, color=ORANGE, label="distilled")
axes.set(aspect="equal", title="What score distillation descends")
axes.legend(loc="center")
plt.show()

of_center = np.asarray(labels)[chosen]
groups = [np.asarray(ended)[of_center == k] for k in range(8)]
spread = max(float(group.std(axis=0).max()) for group in groups)
places = np.stack([group.mean(axis=0) for group in groups])
radius = np.linalg.norm(places, axis=1)
print(f"Spread about a center: {spread:.5f}; that of the data is {std:.3f}.")
print(f"They lie {np.sqrt(2) - radius.mean():.4f} inside of the centers.")
assert spread < std / 10  # a peak, not a law
assert radius.max() < np.sqrt(2)  # all are pulled towards the mean of all data

# %% [markdown]
# ## 9. The straight path
#
# Flow matching goes $x_u = (1 - u)\,x_0 + u\,\epsilon$. At equal log-SNR its levels
# differ from ours in scale alone, so the model of step 3 *is* a flow model:
# `denoisers.rescaled`. On levels of equal log-SNR it draws the same points. What few
# steps can do depends on where the levels lie, and not on the name of the path.

# %%
path = schedules.straight(T, alpha_min=0.001)
as_flow = denoisers.rescaled(learned, schedule)
matching = jax.vmap(path.at_logsnr)(fifty.logsnr[:-1])
clean = path.at(jnp.array(-1))
matching = jax.tree.map(lambda a, b: jnp.append(a, b), matching, clean)
same = draw(as_flow, samplers.ddim(), matching, keys)
apart = float(jnp.abs(same - draw(learned, samplers.ddim(), fifty, keys)).max())
print(f"On 50 levels of equal log-SNR the points differ by {apart:.1e} at most.")

share = {}
for name, denoise, own in (("cosine", learned, schedule), ("straight", as_flow, path)):
    for n in (4, 16):
        found = draw(denoise, samplers.ddim(), grids.grid(own, n), keys)
        share[name, n] = count_modes(found, centers, std).good
    row = ", ".join(f"{n} steps {share[name, n]:.1%}" for n in (4, 16))
    print(f"{name} levels, within 3 standard deviations: {row}")
assert apart < 2e-2
if trained:
    assert min(share["cosine", 16], share["straight", 16]) > 0.7

# %% [markdown]
# ## 10. Three other families
#
# The same ring by a GAN, a VAE and a normalizing flow, each in one call where diffusion
# needs tens, and each trained briefly: `docs/families.md` gives them their time. Their
# likelihoods say what they are: that of the flow is exact, so that no flow can be above
# minus the entropy of the ring, and a map back exists; that of the VAE is a bound,
# which rises with the number of draws; a GAN has none.

# %%
data_spec, cpu = Data(source="points:ring", flip=False), data_mesh()
of_flow = Flow(num_steps=6, width=48, depth=1, num_frequencies=3, bound=1.0)
families = {
    "GAN": GAN(
        data=data_spec,
        network=VectorGenerator(width=64, depth=3),
        discriminator=VectorDiscriminator(width=64, depth=2, num_frequencies=3),
    ),
    "VAE": VAE(
        data=data_spec,
        network=VectorAutoencoder(width=64, depth=2, num_frequencies=3),
        kl_warmup=BRIEF_STEPS // 2,
        initial_std=0.1,
    ),
    "flow": FlowTask(data=data_spec, network=of_flow),
}


# %%
def open_trained(name):
    """Train a family; what `ddpm_jax.load` would return of a run."""
    adam = Adam(b1=0.0, b2=0.99) if name == "GAN" else Adam()
    fit = Fit(
        BRIEF_STEPS,
        optimizer=adam,
        learning_rate=2e-3,
        warmup_steps=100,
        ema_decay=0.98,
    )
    spec, source = families[name], data.load("points:ring", split="train")
    task = spec.build(source, fit, cpu)
    rows = jax.random.randint(jax.random.key(SEED), (BRIEF_STEPS, 256), 0, len(x0))

    def step(state, rows):
        return task.step(state, jax.random.key(SEED), {"image": x0[rows]})[0], None

    run = jax.jit(lambda state: jax.lax.scan(step, state, rows)[0])
    state = run(task.start(task.draw()))
    return spec.open(state.ema_params, spec.facts(source))


# %%
others = {name: open_trained(name) for name in families}
made = {
    name: other.sample(jax.random.key(1), SAMPLES) for name, other in others.items()
}
show_points({"Diffusion": drawn, **made})
for name, found in made.items():
    assert np.isfinite(found).all()
    modes_hit, _, good, _ = count_modes(found, centers, std)
    print(f"{name}: {modes_hit} of 8 modes, {good:.1%} within 3 standard deviations")

test, _ = data.in_memory(data.load("points:ring", split="test"))
test, key = test[:4000], jax.random.key(2)
entropy = -ring.log_density(test).mean()  # of these very points
flow, vae = others["flow"], others["VAE"]
of_flow = float(flow.log_likelihood(key, test).mean())
of_vae = [float(vae.log_likelihood(key, test, k).mean()) for k in (1, 30)]
back = float(np.abs(flow.decode(flow.encode(test)) - test).max())
print(f"nats: flow {of_flow:.2f}, VAE at least {of_vae[0]:.2f}, {of_vae[1]:.2f} by 30")
print(f"draws; the ring's own law has {-entropy:.2f}. The flow inverts to {back:.0e}.")
assert of_flow < -entropy and of_vae[0] < of_vae[1] < -entropy
assert back < 1e-2
if trained:
    goods = [count_modes(found, centers, std).good for found in made.values()]
    assert modes.good > max(goods)

# %% [markdown]
# ## Where to go on
#
# - `docs/plane.md`: the same from the command line, with animations, and on sets of
#   your own; the playground has a tab where you draw one with the mouse.
# - `docs/families.md`: the families with the time that they need.
# - `notebooks/lecture.ipynb`: the same theory on pictures.
