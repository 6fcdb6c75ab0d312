# %% [markdown]
# # Denoising diffusion: the lecture, computed
#
# The lecture in pictures and numbers, with the functions of ddpm_jax. Every formula
# stands beside the line of code that is that formula, and what the text claims, a cell
# asserts: if the notebook runs to its end, the claims hold.
#
# It needs no GPU. Text and code follow Ho, Jain and Abbeel 2020, *Denoising Diffusion
# Probabilistic Models* (DDPM below).
#
# 1. Destroying a picture: step by step, and in one jump
# 2. Two schedules, and the log-SNR
# 3. One step back: the posterior
# 4. Three forms of the loss
# 5. Telling the network the time
# 6. Algorithm 1: training
# 7. Algorithm 2: the reverse chain
# 8. How many steps?
# 9. Guidance

# %% tags=["parameters"]
NUM_STEPS = 500  # of training
BATCH_SIZE = 128
SAMPLES = 100  # digits that are drawn to judge a sampler
LONG_CHAIN = 1000  # steps of the longest reverse chain that is drawn

# %%
import contextlib
import os
import sys
from pathlib import Path

sys.path.append("..")  # the library lies beside this folder
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2" if (os.cpu_count() or 1) > 1 else "1")

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import sklearn.datasets
from sklearn.svm import SVC

# %%
from ddpm_jax import data
from ddpm_jax.conditioning.conditioned import Conditioned, as_network
from ddpm_jax.conditioning.conditioner import training_condition
from ddpm_jax.conditioning.label import Label
from ddpm_jax.diffusion import (
    denoisers,
    generate,
    grids,
    guidance,
    losses,
    process,
    samplers,
    schedules,
    time_sampling,
    variational_bound,
)
from ddpm_jax.networks.layers import time_embedding
from ddpm_jax.networks.unet import UNet
from ddpm_jax.runtime import images
from ddpm_jax.runtime.devices import data_mesh
from ddpm_jax.tasks import diffusion
from ddpm_jax.training import loop, optimizers, step

# %%
plt.rcParams.update(
    {
        "figure.dpi": 90,
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


def show_films(films, columns, rows, title, xlabel=""):
    """Draw films, uint8 [K, N, H, W, C]: N rows of K pictures."""
    sheet = images.trajectory_grid(films, padding=4, background=190)
    height, width, _ = sheet.shape
    _, axes = plt.subplots(figsize=(9, 9 * height / width + 0.6))
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_xticks((np.arange(len(columns)) + 0.5) * width / len(columns), columns)
    axes.set_yticks((np.arange(len(rows)) + 0.5) * height / len(rows), rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set(title=title, xlabel=xlabel)
    plt.show()


# %% [markdown]
# ## 1. Destroying a picture
#
# ### Step by step
#
# The forward process is a Markov chain that scales the picture down a little and adds a
# little noise:
#
# $$q(x_t \mid x_{t-1})
# = \mathcal N\!\left(\sqrt{1-\beta_t}\;x_{t-1},\; \beta_t I\right)$$
#
# DDPM takes $T = 1000$ steps with $\beta_t$ rising on a straight line from $10^{-4}$ to
# $0.02$. A *level* of the library is a point $x = \alpha x_0 + \sigma\epsilon$ of this
# chain; the lecture's $\bar\alpha_t$ is $\alpha^2$.
#
# One thing to know about numbers: the lecture counts steps $1 \dots T$, the library
# tells the network $t = 0 \dots T-1$ (as DDPM's own code does), and $t = -1$ is the
# clean picture. On the axes of this notebook is the lecture's number.

# %%
T = 1000
betas = schedules.linear_betas(T)
linear = schedules.from_betas(betas)

folder = Path(sklearn.datasets.__file__).parent / "images"
photo = data.read_image(folder / "china.jpg", (48, 48, 3))  # uint8 [48, 48, 3]
x0 = images.to_float(photo)[None]  # float32 [1, 48, 48, 3] in [-1, 1]


@jax.jit
def markov_chain(key, x0):
    """Walk from x_0 to x_T; all of x_1, ..., x_T, [T, ...]."""

    def one_step(x, t):
        eps = jax.random.normal(jax.random.fold_in(key, t), x.shape)
        x = process.markov_step(x, eps, linear.at(t), linear.at(t - 1))
        return x, x

    return jax.lax.scan(one_step, x0, jnp.arange(T))[1]


chain = markov_chain(jax.random.key(0), x0)

# %% [markdown]
# ### In one jump
#
# A sum of Gaussians is a Gaussian, so that the chain can be summed up. With
# $\bar\alpha_t = \prod_{i \le t} (1-\beta_i)$,
#
# $$q(x_t \mid x_0)
# = \mathcal N\!\left(\sqrt{\bar\alpha_t}\;x_0,\; (1-\bar\alpha_t) I\right)
# \qquad\text{or}\qquad x_t = \alpha_t x_0 + \sigma_t \epsilon$$

# %%
levels = linear.at(jnp.arange(T))  # Level(t, alpha, sigma), each [T]
np.testing.assert_allclose(levels.alpha**2, np.cumprod(1 - betas), rtol=1e-5)

shown = np.array([1, 25, 75, 150, 300, 500, 1000])  # steps, as the lecture counts
eps = jax.random.normal(jax.random.key(1), x0.shape)
jumps = [process.add_noise(x0, eps, linear.at(t - 1)) for t in shown]

films = jnp.concatenate([chain[shown - 1], jnp.stack(jumps)], axis=1)
show_films(
    images.to_uint8(films),
    [f"t = {t}" for t in shown],
    ["Markov\nsteps", "one\njump"],
    "A picture on its way into noise (photo: danielbuechele, CC BY 2.0)",
)

# %% [markdown]
# Row by row the noise differs, but its *distribution* must not. Take a single pixel of
# value $x_0 = 0.8$, send it down the chain 10,000 times, and compare mean and standard
# deviation with $\alpha_t x_0$ and $\sigma_t$ at all 1000 steps.

# %%
num = 10_000
walks = np.asarray(markov_chain(jax.random.key(2), jnp.full((num,), 0.8)))  # [T, num]
mean, std = levels.alpha * 0.8, levels.sigma

# In units of their standard errors, sigma / sqrt(n) and sigma / sqrt(2 n):
error_of_mean = (walks.mean(axis=1) - mean) / (std / np.sqrt(num))
error_of_std = (walks.std(axis=1) - std) / (std / np.sqrt(2 * num))
assert np.abs(error_of_mean).max() < 5
assert np.abs(error_of_std).max() < 5

# %%
_, axes = plt.subplots(1, 2, figsize=(9, 3.2), width_ratios=(3, 2))
t = np.arange(1, T + 1)
axes[0].plot(t, walks[:, :12], color=GREY, linewidth=0.5)
axes[0].plot(t, mean, color=BLUE, label=r"$\alpha_t x_0$")
for side in (-2, 2):
    name = r"$\alpha_t x_0 \pm 2\,\sigma_t$" if side > 0 else None
    axes[0].plot(t, mean + side * std, "--", color=BLUE, label=name)
axes[0].set(title="Twelve walks of a pixel", xlabel="step t", ylabel="$x_t$")
axes[0].legend(loc="lower left")
x = np.linspace(-3.5, 3.5, 300)
for at, colour in ((25, GREEN), (200, ORANGE), (1000, BLUE)):
    z = (x - mean[at - 1]) / std[at - 1]
    axes[1].hist(walks[at - 1], 80, density=True, color=colour, alpha=0.35)
    density = np.exp(-(z**2) / 2) / (std[at - 1] * np.sqrt(2 * np.pi))
    axes[1].plot(x, density, color=colour, label=f"t = {at}")
axes[1].set(title="10,000 walks, and $q(x_t|x_0)$", xlabel="$x_t$", ylabel="density")
axes[1].legend(loc="upper left")
plt.show()

# %% [markdown]
# After 1000 steps the picture is gone: $q(x_T \mid x_0)$ is the standard normal,
# whatever $x_0$ was. How nearly so is the first term of the bound, $L_T =
# \mathrm{KL}(q(x_T \mid x_0)\,\|\,\mathcal N(0, I))$, here for the photo:

# %%
prior_term = variational_bound.prior_term(
    x0, linear.at(T - 1)
)  # bits per dimension, [1]
print(f"L_T = {float(prior_term[0]):.1e} bits per dimension, of 8 that a pixel has")
assert prior_term[0] < 1e-4

# %% [markdown]
# **Questions.** Why is the factor $\sqrt{1-\beta_t}$ and not 1? (What is the variance
# of $x_t$ if that of $x_0$ is 1?) And which of the two ways is the one for training,
# where millions of $x_t$ are needed, each at another $t$?
#
# ## 2. Two schedules, and the log-SNR
#
# Nichol and Dhariwal 2021 replaced the straight line by a curve for $\bar\alpha$
# itself, $\bar\alpha_t = \cos^2\!\left(\frac{t/T + 0.008}{1.008}\cdot\frac\pi2\right)$
# up to a factor. What the network meets at step $t$ is told by one number, the
# logarithm of the signal-to-noise ratio:
#
# $$\log \mathrm{SNR}_t = \log\frac{\alpha_t^2}{\sigma_t^2}
# = \log\frac{\bar\alpha_t}{1-\bar\alpha_t}$$

# %%
cosine_betas = schedules.cosine_betas(T)
cosine = schedules.from_betas(cosine_betas)
both = {"linear": (betas, linear, ORANGE), "cosine": (cosine_betas, cosine, BLUE)}

_, axes = plt.subplots(1, 3, figsize=(9, 3))
for name, (table, schedule, colour) in both.items():
    levels = schedule.at(jnp.arange(T))
    axes[0].plot(t, table, color=colour, label=name)
    axes[1].plot(t, levels.alpha**2, color=colour)
    axes[2].plot(t, levels.logsnr, color=colour)
axes[0].set(title=r"$\beta_t$", yscale="log")
axes[0].legend()
axes[1].set(title=r"$\bar\alpha_t$: signal that is left")
axes[2].set(title=r"$\log\,$SNR$_t$")
axes[2].axhline(0, color=GREY, linewidth=0.8)
for axis in axes:
    axis.set_xlabel("step t")
plt.show()

# %%
signal = {name: np.cumprod(1 - table) for name, (table, *_) in both.items()}
for name, left in signal.items():
    print(
        f"{name}: {left[T // 2 - 1]:.0%} of the signal's variance left halfway; "
        f"{np.mean(left < 0.01):.0%} of the steps have less than 1% of it"
    )
# The cosine is made to have half of it left halfway; the line has spent most by then.
assert abs(signal["cosine"][T // 2 - 1] - 0.5) < 0.01
assert signal["linear"][T // 2 - 1] < 0.1

shown = np.array([1, 100, 250, 400, 550, 700, 850])
films = [
    jnp.stack([process.add_noise(x0[0], eps[0], way.at(i - 1)) for i in shown])
    for way in (linear, cosine)
]
show_films(
    images.to_uint8(jnp.stack(films, axis=1)),
    [f"t = {i}" for i in shown],
    ["linear", "cosine"],
    "The same noise, dealt out by two schedules",
)

# %% [markdown]
# A schedule decides *how long the chain stays* at each level, not which levels there
# are. Two schedules with the same log-SNR make the same $x_t$:

# %%
level = linear.at(400)
logsnr = level.logsnr
same = cosine.at_logsnr(logsnr)  # the time in between is interpolated
print(f"log-SNR {logsnr:.2f}: linear at t = 401, cosine at t = {same.t + 1:.1f}")
np.testing.assert_allclose(same.alpha, level.alpha, rtol=1e-5)
np.testing.assert_allclose(same.sigma, level.sigma, rtol=1e-5)

# %% [markdown]
# **Question.** A photo of 1000 × 1000 pixels stays recognisable much longer under the
# same noise than one of 64 × 64. (Average blocks of 16 × 16 pixels: what happens to the
# signal, what to the noise?) In which direction should its schedule be shifted?
#
# ## 3. One step back: the posterior
#
# The reverse of the chain, $q(x_{t-1} \mid x_t)$, needs the distribution of all
# pictures. But *given* $x_0$ it is Bayes' rule for Gaussians. For any two levels $s$
# before $t$:
#
# $$q(x_s \mid x_t, x_0) \;\propto\; \underbrace{q(x_s \mid x_0)}_{\text{prior}}\;
# \underbrace{q(x_t \mid x_s)}_{\text{likelihood}}
# = \mathcal N(\tilde\mu, \tilde\beta I)$$
#
# Here is Bayes' rule for one pixel, done by force on a grid of values, and
# `process.posterior`, which knows the answer. The step from $t = 400$ to $s = 250$ is a
# wide one, so that there is something to see.


# %%
def normal(x, mean, std):
    """Evaluate the density of N(mean, std^2)."""
    return np.exp(-(((x - mean) / std) ** 2) / 2) / (std * np.sqrt(2 * np.pi))


level_t, level_s = linear.at(399), linear.at(249)
pixel, x_t = jnp.array([0.8]), jnp.array([-0.4])
mean, variance = process.posterior(x_t, pixel, level_t, level_s)

x = np.linspace(-4, 4, 4001)
factor, step_variance = process.transition(level_t, level_s)  # of q(x_t | x_s)
prior = normal(x, level_s.alpha * pixel, level_s.sigma)
seen = normal(x_t, factor * x, np.sqrt(step_variance))
product = prior * seen / np.trapezoid(prior * seen, x)  # Bayes' rule
posterior = normal(x, mean, np.sqrt(variance))
np.testing.assert_allclose(product, posterior, atol=1e-4)

# %%
_, axes = plt.subplots(1, 2, figsize=(9, 3.2), width_ratios=(3, 2))
axes[0].fill_between(x, posterior, color=BLUE, alpha=0.2)
axes[0].plot(x, posterior, color=BLUE, label=r"posterior $q(x_s|x_t,x_0)$")
axes[0].plot(x, prior, color=GREEN, label=r"prior $q(x_s|x_0)$")
scaled = seen / np.trapezoid(seen, x)
axes[0].plot(x, scaled, color=ORANGE, label=r"likelihood $q(x_t|x_s)$, scaled")
for value, name in ((0.8, "$x_0$"), (-0.4, "$x_t$")):
    axes[0].axvline(value, color=GREY, linestyle=":")
    axes[0].text(value + 0.06, posterior.max() * 1.22, name)
axes[0].set(title="Bayes' rule for a pixel, s = 250, t = 400", xlabel="$x_s$")
axes[0].set(xlim=(-4, 3.2), ylim=(0, posterior.max() * 1.35), ylabel="density")
axes[0].legend(loc="upper left")
now, before = linear.at(jnp.arange(1, T)), linear.at(jnp.arange(T - 1))
one, zero = jnp.ones((T - 1,)), jnp.zeros((T - 1,))
of_x0, _ = process.posterior(zero, one, now, before)  # the weights in the mean
of_xt, _ = process.posterior(one, zero, now, before)
axes[1].plot(t[1:], of_xt, color=ORANGE, label="of $x_t$")
axes[1].plot(t[1:], of_x0, color=GREEN, label="of $x_0$")
axes[1].set(title=r"Weights in $\tilde\mu_t$, s = t - 1", xlabel="step t", xscale="log")
axes[1].legend(loc="center right")
plt.show()

# %% [markdown]
# Only near the clean end does the mean lean on $x_0$; elsewhere a step of 1 in 1000
# stays close to $x_t$ and moves a little *towards* $x_0$. That little is all that has
# to be learned: the network's guess of $x_0$ takes its place. And since $x_t = \alpha_t
# x_0 + \sigma_t\epsilon$, guessing $x_0$ and guessing $\epsilon$ are one and the same,
# which gives the bracket of Algorithm 2:
#
# $$\tilde\mu_t = \frac{1}{\sqrt{\alpha_t^{\text{step}}}}
# \left(x_t - \frac{\beta_t}{\sqrt{1-\bar\alpha_t}}\,\epsilon\right),
# \qquad \alpha_t^{\text{step}} = 1-\beta_t$$

# %%
index = jnp.array([1, 10, 100, 500, 999])  # a few t, one for each row
now, before = linear.at(index), linear.at(index - 1)
key_x0, key_eps = jax.random.split(jax.random.key(3))
some_x0 = jax.random.uniform(key_x0, (5, 8), minval=-1, maxval=1)
some_eps = jax.random.normal(key_eps, (5, 8))
some_xt = process.add_noise(some_x0, some_eps, now)

from_x0, variance = process.posterior(some_xt, some_x0, now, before)
from_eps = process.posterior_mean_from_eps(some_xt, some_eps, now, before)
np.testing.assert_allclose(from_x0, from_eps, atol=1e-5)

# The same by the lecture's formulas, from the betas:
bar = np.cumprod(1 - betas)
beta, bar_t, bar_s = betas[index], bar[index], bar[index - 1]
by_hand = some_xt - (beta / np.sqrt(1 - bar_t))[:, None] * some_eps
np.testing.assert_allclose(from_eps, by_hand / np.sqrt(1 - beta)[:, None], atol=1e-5)
np.testing.assert_allclose(variance, (1 - bar_s) / (1 - bar_t) * beta, rtol=1e-3)

# %% [markdown]
# **Question.** $\tilde\beta_t < \beta_t$: why does knowing $x_0$ make the step back
# *less* uncertain than the step forward was? At which $t$ is the difference largest?
#
# ## 4. Three forms of the loss
#
# The bound asks, at each $t$, that the network's mean be that of the posterior. Written
# in three ways:
#
# $$\text{(a)}\;\frac{\|\tilde\mu_t-\mu_\theta\|^2}{2\sigma_t^2}
# \qquad\text{(b)}\;
# \underbrace{\frac{\beta_t^2}{2\sigma_t^2(1-\beta_t)(1-\bar\alpha_t)}}_{w_t}
# \|\epsilon-\epsilon_\theta\|^2
# \qquad\text{(c)}\;\|\epsilon-\epsilon_\theta\|^2$$
#
# (a) and (b) are equal; (c), $L_\text{simple}$, drops the weight. Here is a batch of
# digits, noised as lines 2 to 4 of Algorithm 1 say, and a made-up network that is wrong
# in some way, for equality must hold for a wrong one too.

# %%
digits = data.load("digits", split="train")
pictures, labels = data.in_memory(digits)  # uint8 [1498, 8, 8, 1], int32 [1498]
noised = losses.noise_data(jax.random.key(4), images.to_float(pictures), linear)
output = 0.5 * noised.x_t  # "the network's" eps

decoder = variational_bound.decoder_variance(
    linear
)  # stands in for the missing beta-tilde_1
forms = process.EPS, process.small_variance, decoder
by_means = losses.mean_loss(*forms)(output, noised)  # (a), [1498]
by_noise = losses.weighted_loss(*forms)(output, noised)  # (b)
simple = losses.simple_loss(process.EPS)(output, noised)  # (c)

sigma2 = process.small_variance(noised.t, noised.s, decoder_var=decoder)
weight = losses.bound_weight(noised.t, noised.s, sigma2)
np.testing.assert_allclose(by_means, by_noise, rtol=2e-3)  # (a) = (b), in float32
np.testing.assert_allclose(by_noise, weight * simple, rtol=1e-5)  # (b) = w (c)

print("step t", *(f"{name:>9}" for name in ("(a)", "(b)", "w", "(c)")))
for i in np.argsort(noised.index)[:: len(labels) // 6]:
    row = by_means[i], by_noise[i], weight[i], simple[i]
    print(f"{noised.index[i] + 1:6d}", *(f"{float(value):9.2e}" for value in row))

# %%
every, before = linear.at(jnp.arange(T)), linear.at(jnp.arange(T) - 1)
_, axes = plt.subplots(figsize=(6, 3.2))
variances = (
    (process.small_variance, r"$\sigma_t^2 = \tilde\beta_t$", BLUE),
    (process.large_variance, r"$\sigma_t^2 = \beta_t$", ORANGE),
)
weights = {}
for variance, name, colour in variances:
    sigma2 = variance(every, before, decoder_var=decoder)
    weights[name] = losses.bound_weight(every, before, sigma2)
    axes.loglog(t, weights[name], color=colour, label=f"(b), {name}")
axes.axhline(1, color=GREY, label="(c), the weight dropped")
axes.set(title="What an error of the noise counts", xlabel="step t", ylabel="$w_t$")
axes.set_ylim(top=2)
axes.legend()
plt.show()
ratio = weights[variances[1][1]][0] / weights[variances[1][1]][299]
print(f"With the large variance, step 1 counts {ratio:.0f} times as much as step 300.")
assert ratio > 10

# %% [markdown]
# The bound cares most for the first few steps, where the noise is too faint to be seen:
# bits that describe pixels exactly. $L_\text{simple}$ moves that effort to the noisy
# levels, where it is decided *what* is in the picture; samples get better, and the
# bound a little worse.
#
# **Exercise.** Replace `process.EPS` by `process.X0` or `process.V` in both cells above
# and see which equalities stay. (`simple_loss` then is another loss: what is its weight
# in units of (c)? The docstring of `ddpm_jax/diffusion/loss_weights.py` answers.)
#
# ## 5. Telling the network the time
#
# One network serves all $t$. It is told $t$ as sines and cosines of frequencies from 1
# down to 1/10,000, fast ones that tell neighbours apart and slow ones that tell early
# from late:
#
# $$\left(\sin \omega_i t,\; \cos \omega_i t\right), \qquad
# \omega_i = 10000^{-i/(d/2-1)}$$

# %%
code = np.asarray(time_embedding(jnp.arange(T), 64))  # [T, 64]
closeness = code @ code.T / 32  # [T, T]

_, axes = plt.subplots(1, 2, figsize=(9, 3.2), width_ratios=(3, 2))
picture = axes[0].imshow(code.T, aspect="auto", cmap="RdBu", interpolation="nearest")
axes[0].set(title="The code of each time", xlabel="t, as told", ylabel="number i")
axes[0].set_yticks([0, 31, 63], ["sin, fast", "sin, slow | cos, fast", "cos, slow"])
plt.colorbar(picture, ax=axes[0], ticks=[-1, 0, 1])
away = np.arange(-150, 151)
for at, colour, style in ((200, GREEN, "-"), (500, ORANGE, "--"), (800, BLUE, ":")):
    axes[1].plot(away, closeness[at, at + away], style, color=colour, label=f"t = {at}")
axes[1].set(title="How alike the codes of t and t' are", xlabel="t' - t")
axes[1].set(ylabel="scalar product", ylim=(0, 1.05))
axes[1].legend(loc="upper right")
plt.show()

# sin a sin b + cos a cos b = cos(a - b): only the distance of two times matters.
np.testing.assert_allclose(closeness[200, 150:250], closeness[800, 750:850], atol=1e-4)
np.testing.assert_allclose(np.diag(closeness), 1, atol=1e-5)

# %% [markdown]
# **Question.** Why not simply feed $t/T$ as one number?
#
# ## 6. Algorithm 1: training
#
# > **repeat**<br>
# > $\quad x_0 \sim q(x_0)$<br>
# > $\quad t \sim \mathrm{Uniform}(\{1, \dots, T\})$<br>
# > $\quad \epsilon \sim \mathcal N(0, I)$<br>
# > $\quad$ descend
# > $\nabla_\theta \|\epsilon-\epsilon_\theta(\alpha_t x_0+\sigma_t\epsilon,\,t)\|^2$
#
# The data: 1,498 handwritten digits of 8 × 8. The network: a U-Net with two
# resolutions, told the time and the class. A class number 10 means "no class"; in
# training a tenth of the labels is replaced by it, which section 9 will need.

# %%
rows = [np.flatnonzero(labels == digit)[:3] for digit in range(10)]
show_films(pictures[np.array(rows)], range(10), [""] * 3, "Real digits of each class")

unet = UNet(
    out_channels=1,
    channels=32,
    channel_multipliers=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(4,),
)
model = Conditioned(unet, {"label": Label(num_classes=10)})
network = as_network(model)  # (params, x_t, t, cond) -> output


start = jnp.zeros((1, 8, 8, 1)), jnp.zeros((1,))
params = jax.jit(model.init)(jax.random.key(5), *start)["params"]
print(f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,} parameters")

# %% [markdown]
# The loss of Algorithm 1, written out, and the library's. From here on the schedule is
# the cosine.

# %%
batch = images.to_float(jnp.asarray(pictures[:128]))
cond = {"label": jnp.asarray(labels[:128])}


def algorithm_1(key, params, x0, cond):
    """Compute the loss of a batch, line by line."""
    key_t, key_eps = jax.random.split(key)
    t = cosine.draw(jax.random.uniform(key_t, (len(x0),)))  # line 3
    eps = jax.random.normal(key_eps, x0.shape)  # line 4
    x_t = process.add_noise(x0, eps, cosine.at(t))
    return jnp.mean((eps - network(params, x_t, t, cond)) ** 2)  # line 5


written_out = jax.jit(algorithm_1)(jax.random.key(6), params, batch, cond)
one_each, _ = losses.training_loss(
    jax.random.key(6),
    network,
    params,
    batch,
    schedule=cosine,
    loss=losses.simple_loss(process.EPS),
    cond=cond,
)
np.testing.assert_allclose(written_out, one_each.mean(), rtol=1e-5)
# The last layer starts at zero, so an untrained network says eps = 0, for a loss of 1.
assert abs(written_out - 1) < 5 * np.sqrt(2 / batch.size)

# %% [markdown]
# Training: Adam, and an average of the parameters over about the last hundred steps
# (EMA), which is what will be drawn from. This is the cell that takes minutes.

# %%
the_objective = diffusion.make_objective(
    network,
    cosine,
    losses.simple_loss(process.EPS),
    condition=training_condition(model.conditioners, rate=0.1),
    times=time_sampling.STRATIFIED,  # t spread evenly over each batch: less scatter
)
rate = optimizers.warmup_schedule(1e-3, warmup_steps=100, decay_steps=NUM_STEPS)
optimizer = optimizers.clipped(optimizers.Adam().build(rate), 1.0)
train_step = step.make_train_step(
    the_objective, optimizer, ema_target=0.99, mesh=data_mesh()
)
reports = []
batches = data.iterate(data.batches(digits, BATCH_SIZE, seed=0))
with contextlib.closing(batches):
    state = loop.train_loop(
        step.init_state(params, optimizer),
        train_step,
        batches,
        jax.random.key(7),
        num_steps=NUM_STEPS,
        report_every=10,
        report=reports.append,
        summarize=diffusion.summarize,  # also by quarter of t
    )

# %%
steps = [report.step for report in reports]
by_quartile = np.array(
    [[report.numbers[f"loss_q{i}"] for i in range(4)] for report in reports]
)
names = ("cleanest quarter of t", "second", "third", "noisiest quarter")
shades = ("#9ecae1", "#6baed6", "#3182bd", "#08306b")

_, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True)
axes[0].plot(steps, [report.loss for report in reports], color=BLUE)
axes[0].set(title="Loss", ylabel=r"$\|\epsilon-\epsilon_\theta\|^2$ per pixel")
for values, name, shade in zip(by_quartile.T, names, shades, strict=True):
    axes[1].plot(steps, values, color=shade, label=name)
axes[1].set(title="Loss by quarter of t", yscale="log")
axes[1].legend(loc="upper left", bbox_to_anchor=(1, 1))
for axis in axes:
    axis.set_xlabel("training step")
plt.show()

last = by_quartile[-10:].mean(axis=0)
print("last loss by quarter:", ", ".join(f"{value:.3f}" for value in last))
assert last[0] > last[3]  # the clean end is the hard one

# %% [markdown]
# **Question.** Why is the loss largest where the picture is cleanest? (Think of finding
# $\epsilon$ in $x_t = \alpha_t x_0 + \sigma_t\epsilon$ when $\sigma_t$ is small, and
# when $\alpha_t$ is.) Does a large loss there mean bad samples?
#
# ## 7. Algorithm 2: the reverse chain
#
# > $x_T \sim \mathcal N(0, I)$<br>
# > **for** $t = T, \dots, 1$<br>
# > $\quad z \sim \mathcal N(0, I)$ if $t > 1$, else $z = 0$<br>
# > $\quad x_{t-1} = \frac{1}{\sqrt{1-\beta_t}}
# > \left(x_t - \frac{\beta_t}{\sqrt{1-\bar\alpha_t}}\,\epsilon_\theta(x_t, t)\right)
# > + \sigma_t z$
#
# One step of it, written out in NumPy, and the library's sampler:

# %%
denoise = denoisers.from_network(network, state.ema_params, process.EPS)
sampler = samplers.ancestral(process.small_variance)
keys = generate.image_keys(jax.random.key(8), jnp.arange(4))
x_t = generate.initial_noise(keys, (8, 8, 1))
told = {"label": jnp.arange(4)}

at = 600  # as the network is told
now, before = cosine.at(at), cosine.at(at - 1)
after, info = sampler.step(
    keys, lambda x, level: denoise(x, level, told), sampler.init(x_t), now, before
)

beta, bar = cosine_betas, np.cumprod(1 - cosine_betas)
eps_hat = np.asarray(info.prediction.eps)
z = np.asarray(process.noise_like(keys, x_t))
small = (1 - bar[at - 1]) / (1 - bar[at]) * beta[at]  # beta-tilde
bracket = np.asarray(x_t) - beta[at] / np.sqrt(1 - bar[at]) * eps_hat
written_out = bracket / np.sqrt(1 - beta[at]) + np.sqrt(small) * z
np.testing.assert_allclose(after.x, written_out, atol=1e-4)

# %% [markdown]
# All steps are one `lax.scan`, run by `generate`. Of each step we keep $x_{t-1}$ and
# the $\hat x_0$ that the network believed in, which is clipped to the range of pixels
# before it enters the posterior, as in DDPM's code.
#
# `draw` makes the whole chain one compiled program. DDIM with $\eta = 1$ *is* Algorithm
# 2 (section 8), so one function serves both.


# %%
@jax.jit
def draw(params, keys, labels, levels, eta=1.0):
    """Draw a digit for each label: x_0, and ten records of (x_{t-1}, guess of x_0)."""
    denoise = denoisers.from_network(network, params, process.EPS)
    return generate.generate(
        keys,
        samplers.ddim(eta),
        denoisers.clip_x0(denoise),
        generate.initial_noise(keys, (8, 8, 1)),
        levels,
        cond={"label": labels},
        record=lambda info: jnp.stack([info.x_s, info.prediction.x0]),
        num_records=min(10, levels.alpha.size - 1),
    )


chosen = jnp.array([3, 8, 5, 0])
keys = generate.image_keys(jax.random.key(9), jnp.arange(4))
long_chain = grids.grid(cosine, LONG_CHAIN)
drawn, film = draw(state.ema_params, keys, chosen, long_chain)  # film [10, 2, 4, ...]

# %%
noise = jnp.clip(generate.initial_noise(keys, (8, 8, 1)), -1, 1)
x_film = jnp.concatenate([noise[None], film[:, 0]])
columns = [f"{T - T * i // 10}" for i in range(11)]
names = [f"asked: {label}" for label in chosen]
show_films(images.to_uint8(x_film), columns, names, "The chain $x_t$", "step t")
columns = [f"{T - T * (i + 1) // 10 + 1}" for i in range(10)]
title = r"What the network, seeing $x_t$, took the picture to be: $\hat x_0$"
show_films(images.to_uint8(film[:, 1]), columns, names, title, "step t")

# %% [markdown]
# The early guesses are blurred: the best answer in the mean-square sense is the *mean*
# of all pictures that are still possible. As $t$ falls, possibilities are struck out.
#
# **Exercise.** Set `z` to zero in all steps (`samplers.ddim(0.0)` is not that: write
# your own step, or use `ancestral` with a variance of 0). What happens to the digits,
# and why?
#
# ## 8. How many steps?
#
# Nothing forces the sampler to visit all $T$ levels: the posterior of section 3 knows
# any two. `grids.grid(cosine, N)` takes $N$ of them. DDIM (Song, Meng, Ermon 2021) goes
# further and drops the fresh noise:
#
# $$x_s = \alpha_s \hat x_0 + \sigma_s\left(\sqrt{1-\eta^2 c}\;\hat\epsilon +
# \eta\sqrt c\, z\right), \qquad c = 1-\mathrm{SNR}_t/\mathrm{SNR}_s$$
#
# $\eta = 1$ is Algorithm 2, $\eta = 0$ has no chance in it but $x_T$. To judge, a
# support vector machine learns to read the *real* digits and then reads the drawn ones.


# %%
def flat(pictures):
    """Turn pictures, uint8 [N, 8, 8, 1], into rows for the classifier."""
    return np.asarray(pictures).reshape(len(pictures), -1) / 255


judge = SVC(gamma=0.065, C=10).fit(flat(pictures), labels)
real, real_labels = data.in_memory(data.load("digits", split="test"))
accuracy = judge.score(flat(real), real_labels)
print(f"The judge reads {accuracy:.1%} of {len(real)} real test digits right.")
assert accuracy > 0.97

wanted = jnp.arange(SAMPLES) % 10
keys = generate.image_keys(jax.random.key(10), jnp.arange(SAMPLES))
counts = [n for n in (2, 3, 5, 10, 25, 100) if n <= LONG_CHAIN]
drawn = {}  # by N and eta
for num_steps in counts:
    levels = grids.grid(cosine, num_steps)
    for eta in (1.0, 0.0):
        x, _ = draw(state.ema_params, keys, wanted, levels, eta)
        drawn[num_steps, eta] = np.asarray(images.to_uint8(x))
share = {which: judge.score(flat(x), np.asarray(wanted)) for which, x in drawn.items()}
print(f"Of the drawn ones, {min(share.values()):.0%} or more, whatever N and eta.")

# %%
for eta, name in ((1.0, "Algorithm 2 ($\\eta = 1$)"), (0.0, "DDIM ($\\eta = 0$)")):
    films = np.stack([drawn[n, eta][:10] for n in counts], axis=1)  # [10, counts, ...]
    rows = [f"N = {n}" for n in counts]
    show_films(films, range(10), rows, f"{name}, N of {T} steps", "class asked for")

# %% [markdown]
# Told the class, and with 8 × 8 pixels, even two steps draw the right digit, if a
# blurred one. The samplers differ in another way: with DDIM the noise $x_T$ alone
# decides the picture. So more steps cannot give *another* picture, only the same one
# more exactly, and one can measure how far $N$ steps are from many.

# %%
longest = counts[-1]
_, axes = plt.subplots(figsize=(6, 3))
off = {}
for eta, name, colour in ((1.0, "Algorithm 2", ORANGE), (0.0, "DDIM", BLUE)):
    last = drawn[longest, eta].astype(float)
    off[eta] = [np.sqrt(np.mean((drawn[n, eta] - last) ** 2)) for n in counts[:-1]]
    axes.loglog(counts[:-1], off[eta], "o-", color=colour, label=name)
axes.set(title=f"From the same noise: distance to the picture of {longest} steps")
axes.set(xlabel="steps N", ylabel="RMS, of 0..255")
axes.set_xticks(counts[:-1], counts[:-1])
axes.minorticks_off()
axes.set_yticks([5, 10, 20, 50], [5, 10, 20, 50])
axes.legend()
plt.show()

# %% [markdown]
# DDIM follows a curve, and its error falls with the length of its steps. Algorithm 2
# draws fresh noise at every step, and with another $N$ another digit.
#
# **Exercise.** `ddpm_jax.diffusion.multistep.dpmpp_2m()` and
# `ddpm_jax.diffusion.karras.heun()` are samplers too. Put them in the place of
# `samplers.ddim(eta)` and find the smallest $N$ that will do.
#
# ## 9. Guidance
#
# The network knows the noise with and without the label. Ho and Salimans 2022 go along
# the difference, further than it reaches:
#
# $$\hat\epsilon = \epsilon_\theta(x_t, \varnothing) + w\left(\epsilon_\theta(x_t, y) -
# \epsilon_\theta(x_t, \varnothing)\right)$$
#
# $w = 0$ ignores the label, $w = 1$ is what we did so far, $w > 1$ is guidance. In the
# library it is a function from denoiser to denoiser.


# %%
def no_label(cond):
    """Say "no class" for every row."""
    return {"label": jnp.full_like(cond["label"], 10)}


@jax.jit
def draw_guided(params, keys, labels, levels, scale):
    """Draw by DDIM with guidance."""
    denoise = denoisers.from_network(network, params, process.EPS)
    guided = guidance.classifier_free(denoise, scale, no_label)
    return generate.generate(
        keys,
        samplers.ddim(0.0),
        denoisers.clip_x0(guided),
        generate.initial_noise(keys, (8, 8, 1)),
        levels,
        cond={"label": labels},
    )[0]


# %%
levels = grids.grid(cosine, min(25, LONG_CHAIN))
scales = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
guided = [
    images.to_uint8(draw_guided(state.ema_params, keys, wanted, levels, scale))
    for scale in scales
]
# Scale 1 is the plain conditional model.
plain, _ = draw(state.ema_params, keys, wanted, levels, 0.0)
apart = np.abs(images.to_uint8(plain).astype(int) - guided[2].astype(int))
assert apart.max() <= 2  # of 255


# %%
def variety(pictures, labels):
    """Compute the mean standard deviation of a pixel among pictures of one class."""
    pictures, labels = np.asarray(pictures, float), np.asarray(labels)
    spread = [pictures[labels == k].std(axis=0) for k in range(10)]
    return np.mean(spread)


films = jnp.stack([sheet[:10] for sheet in guided], axis=1)
rows = [f"w = {scale:g}" for scale in scales]
show_films(films, range(10), rows, "From the same noise", "class asked for")

read = [100 * judge.score(flat(sheet), np.asarray(wanted)) for sheet in guided]
varied = [variety(sheet, wanted) for sheet in guided]
_, axes = plt.subplots(1, 2, figsize=(9, 3))
axes[0].plot(scales, read, "o-", color=BLUE)
axes[0].axhline(100 * accuracy, color=GREY, linestyle="--", label="real test digits")
axes[0].set(title="They fit their labels ...", ylabel="% read as asked for")
axes[1].plot(scales, varied, "o-", color=ORANGE)
real_variety = variety(real, real_labels)
axes[1].axhline(real_variety, color=GREY, linestyle="--", label="real test digits")
axes[1].set(title="... and grow alike", ylabel="variety (0..255)")
for axis in axes:
    axis.set_xlabel("guidance w")
    axis.legend()
plt.show()

# %% [markdown]
# Guidance sharpens the class and pays with variety: with $w = 4$ a 3 is a typical 3. At
# $w = 0$ the label is not heard, and only about one digit in ten is the one asked for.
#
# These are the claims of the last three sections, for a network that has been trained:

# %%
trained = NUM_STEPS >= 500  # a rehearsal with fewer steps has learned nothing yet
if trained:
    assert min(share.values()) > 0.8  # any sampler, any number of steps
    assert off[0.0][-1] < off[0.0][0] / 3  # DDIM comes closer with more steps
    assert off[0.0][-1] < off[1.0][-1] / 3  # and Algorithm 2 does not
    assert read[0] < 35  # w = 0: chance is 10%
    assert read[2] > 90 and read[3] > 90  # w = 1 and w = 2
    assert varied[4] < 0.9 * varied[2]  # w = 4 against w = 1

# %% [markdown]
# **Question.** What does the unconditional half of the pass cost, and when could it be
# left out? (`guidance.classifier_free` has `low` and `high`.)
#
# ## Where to go on
#
# - `docs/lecture.md` goes through the whole lecture in this order, and on to words,
#   latents, DALL·E 2, Imagen, things in three dimensions and video.
# - The theory with numbered equations: in `ddpm_jax/diffusion/process.py`.
# - `make demo` trains a larger network on these digits; `docs/samplers.md` compares the
#   samplers, `docs/likelihood.md` measures the bound term by term, `docs/editing.md`
#   inpaints and interpolates.
# - `notebooks/colab.ipynb` trains on a GPU or TPU.
