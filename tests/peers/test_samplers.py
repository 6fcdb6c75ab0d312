"""Whole chains of samplers against the schedulers of Hugging Face diffusers.

Both sides ask the same network, the exact eps of a mixture as a function of (x, t),
written once in float64 NumPy for theirs and once by the oracle for ours, and are given
the same noise. Where nothing else is said, all the x of the chain agree to 1e-4.

Conventions of ours that differ on purpose, each bridged or pinned below:

1. Grids. Their multistep schedulers have spacings of their own. `linspace` there is N+1
   even times less the last one, and `leading` N+1 jumps of floor(T/(N+1)) less t = 0;
   so the tests lay out our levels at their times. On `trailing` grids, and for DDIM and
   PNDM, where N divides T, the times are the same.
2. Rounding. On Karras's grid their DPM-Solver and UniPC tell the network a rounded t
   at the exact sigma; their Heun and Euler, and ours, tell it the real one.
3. The third-order multistep solver. Theirs gives the second difference half the weight
   of the integral and is of order 2; ours is UniP-3, and theirs of UniPC without its
   corrector.
4. `lower_order_final`. Ours takes order 1 to the clean end and keeps its order before.
   Theirs lowers that of the step before too, if it is 3: always in UniPC, for N < 15 in
   DPM-Solver.
5. Long steps. Ours takes order 1 where a step is more than twice as long in log-SNR as
   the one before it; theirs continues the polynomial.
6. Scale. Their Heun and Euler run in x / alpha, started from noise of standard
   deviation sigma / alpha.
7. PNDM with a v-network. Theirs combines v of several steps as if it were eps.
"""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from ddpm_jax.diffusion import grids, schedules
from ddpm_jax.diffusion.denoisers import from_network
from ddpm_jax.diffusion.generate import fold_each, image_keys
from ddpm_jax.diffusion.karras import euler, heun
from ddpm_jax.diffusion.multistep import (
    dpmpp_2m,
    dpmpp_2m_sde,
    dpmpp_3m,
    pndm,
    unipc,
)
from ddpm_jax.diffusion.process import EPS, X0, V, noise_like
from ddpm_jax.diffusion.samplers import ddim
from ddpm_jax.diffusion.schedules import Level

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

ROOM = 1e-4
BETAS = schedules.linear_betas(1000)
SCHEDULE = schedules.from_betas(BETAS)
KINDS = {"epsilon": EPS, "sample": X0, "v_prediction": V}
WEIGHTS, VARIANCES = np.array([0.3, 0.7]), np.array([0.05, 0.1])
MEANS = np.array([[-0.8, 0.4, 0.1], [0.6, -0.2, 0.3]])
LOG_R = 0.5 * np.log(1 / np.cumprod(1 - BETAS) - 1)  # of sigma / alpha, at t = 0..999
KEYS = image_keys(jax.random.key(0), jnp.arange(8))
X_INIT = np.random.default_rng(0).standard_normal((8, 3))


# --- The network, twice ---------------------------------------------------------------


def their_network(x, t, kind="epsilon"):
    """Exact prediction for the mixture at real t, in float64; x [8, 3]."""
    r = np.exp(np.interp(t, np.arange(1000), LOG_R))
    alpha, sigma = 1 / np.hypot(1, r), r / np.hypot(1, r)
    spread = alpha**2 * VARIANCES + sigma**2
    off = x[:, None] - alpha * MEANS
    scores = np.log(WEIGHTS) - 0.5 * (off**2).sum(-1) / spread - 1.5 * np.log(spread)
    share = np.exp(scores - np.logaddexp.reduce(scores, 1, keepdims=True))
    eps = sigma * np.einsum("bk,bkd->bd", share / spread, off)
    x0 = (x - sigma * eps) / alpha
    return {"epsilon": eps, "sample": x0, "v_prediction": alpha * eps - sigma * x0}[
        kind
    ]


def our_denoiser(kind="epsilon"):
    """The same as a network that sees x and t alone."""
    exact = oracles.mixture(WEIGHTS, MEANS, VARIANCES)
    log_r = jnp.asarray(LOG_R, jnp.float32)

    def network(params, x, t, cond):
        r = jnp.exp(jnp.interp(t, jnp.arange(1000.0), log_r))
        level = Level(t, 1 / jnp.hypot(1, r), r / jnp.hypot(1, r))
        prediction = exact(x, level)
        return KINDS[kind].target(prediction.x0, prediction.eps, level)

    return from_network(network, None, KINDS[kind])


# --- The chains -----------------------------------------------------------------------


def our_chain(sampler, levels, kind="epsilon", x_init=X_INIT):
    """All x_s [N, 8, 3] and the noise that the steps could draw."""
    denoise = our_denoiser(kind)

    def body(state, xs):
        index, t, s = xs
        keys = fold_each(KEYS, index)
        state, info = sampler.step(
            keys, lambda x, level: denoise(x, level, None), state, t, s
        )
        return state, (info.x_s, noise_like(keys, info.x_s))

    t = jax.tree.map(lambda leaf: leaf[:-1], levels)
    s = jax.tree.map(lambda leaf: leaf[1:], levels)
    steps = (jnp.arange(levels.alpha.size - 1), t, s)
    state = sampler.init(jnp.asarray(x_init, jnp.float32))
    _, (chain, noises) = jax.jit(lambda s, xs: jax.lax.scan(body, s, xs))(state, steps)
    return np.asarray(chain, np.float64), np.asarray(noises, np.float64)


def their_chain(peer, kind="epsilon", x_init=X_INIT, noises=None, **options):
    """All x after their steps; the scheduler must have its timesteps."""
    x, chain = torch.from_numpy(x_init), []
    for i, t in enumerate(peer.timesteps):
        seen = peer.scale_model_input(x, t).numpy()
        output = torch.from_numpy(their_network(seen, float(t), kind))
        if noises is not None:
            options["variance_noise"] = torch.from_numpy(noises[i])
        x = peer.step(output, t, x, **options).prev_sample
        chain.append(x.numpy().astype(np.float64))
    return np.stack(chain)


def scheduler(cls, num_steps, **options):
    """Make theirs with our betas in float64, so that both have the same tables."""
    peer = cls(trained_betas=BETAS.tolist(), **options)
    peer.betas = torch.from_numpy(BETAS)
    peer.alphas = 1 - peer.betas
    peer.alphas_cumprod = torch.cumprod(peer.alphas, 0)
    peer.set_timesteps(num_steps)
    return peer


def levels_at(times, *, clean=True):
    """Our levels at their times, and the clean end."""
    times = np.asarray(times, np.int64)
    return SCHEDULE.at(jnp.asarray(np.append(times, -1) if clean else times))


def levels_of_sigmas(sigmas, times):
    """Levels with their sigma / alpha [N + 1] and what they tell the network [N]."""
    r = np.asarray(sigmas, np.float64)
    told = np.append(np.asarray(times, np.float64), -1)
    return Level(
        *(
            jnp.asarray(leaf, jnp.float32)
            for leaf in (told, 1 / np.hypot(1, r), r / np.hypot(1, r))
        )
    )


def step_ratio(levels):
    """The longest step measured by the one before it, clean end apart."""
    place = 0.5 * np.asarray(levels.logsnr, np.float64)
    h = np.diff(place[np.isfinite(place)])
    return (h[1:] / h[:-1]).max()


# --- DDIM -----------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim(eta, spacing):
    peer = scheduler(
        diffusers.DDIMScheduler, 20, timestep_spacing=spacing, clip_sample=False
    )
    levels = grids.grid(SCHEDULE, 20, getattr(grids, f"{spacing}_steps"))
    np.testing.assert_array_equal(levels.t[:-1], peer.timesteps)
    ours, noises = our_chain(ddim(eta), levels)
    theirs = their_chain(peer, noises=noises if eta else None, eta=eta)
    np.testing.assert_allclose(ours, theirs, atol=ROOM)


# --- DPM-Solver++ ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "spacing"),
    [
        ("epsilon", "trailing"),
        ("epsilon", "linspace"),
        ("epsilon", "leading"),
        ("sample", "trailing"),
        ("v_prediction", "trailing"),
    ],
)
def test_dpmpp_2m(kind, spacing):
    peer = scheduler(
        diffusers.DPMSolverMultistepScheduler,
        20,
        timestep_spacing=spacing,
        prediction_type=kind,
    )
    levels = levels_at(peer.timesteps)  # convention 1
    if spacing == "trailing":
        np.testing.assert_array_equal(levels.t, grids.grid(SCHEDULE, 20).t)
    assert step_ratio(levels) < 2
    ours, _ = our_chain(dpmpp_2m(), levels, kind)
    np.testing.assert_allclose(ours, their_chain(peer, kind), atol=ROOM)


def test_dpmpp_2m_on_the_grid_of_karras():
    """Their t is rounded, their sigma is not (convention 2)."""
    peer = scheduler(diffusers.DPMSolverMultistepScheduler, 15, use_karras_sigmas=True)
    own = grids.karras_grid(SCHEDULE, 15)
    np.testing.assert_allclose(own.sigma / own.alpha, peer.sigmas, rtol=1e-4)
    np.testing.assert_array_equal(np.rint(own.t[:-1]), peer.timesteps)
    told = own._replace(t=jnp.rint(own.t))
    ours, _ = our_chain(dpmpp_2m(), told)
    theirs = their_chain(peer)
    np.testing.assert_allclose(ours, theirs, atol=ROOM)
    assert np.abs(our_chain(dpmpp_2m(), own)[0] - theirs).max() > ROOM


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_dpmpp_2m_sde(spacing):
    peer = scheduler(
        diffusers.DPMSolverMultistepScheduler,
        20,
        timestep_spacing=spacing,
        algorithm_type="sde-dpmsolver++",
    )
    ours, noises = our_chain(dpmpp_2m_sde(), levels_at(peer.timesteps))
    np.testing.assert_allclose(ours, their_chain(peer, noises=noises), atol=ROOM)


def test_dpmpp_3m_is_unip_3():
    """Their UniPC of order 3 with its corrector switched off, without a clean end.

    With one, theirs lowers the order of the last step but one (convention 4).
    """
    peer = scheduler(
        diffusers.UniPCMultistepScheduler,
        20,
        timestep_spacing="trailing",
        solver_order=3,
        final_sigmas_type="sigma_min",
        lower_order_final=False,
        disable_corrector=list(range(20)),
    )
    levels = levels_at([*peer.timesteps, 0], clean=False)
    ours, _ = our_chain(dpmpp_3m(), levels)
    np.testing.assert_allclose(ours[:-1], their_chain(peer)[:-1], atol=ROOM)


def test_dpmpp_3m_gives_the_second_difference_its_whole_weight():
    """Their DPM-Solver of order 3, up to the term of which they take half.

    The term is that of order 3: int_0^h e^(u-h) u^2 du times the second divided
    difference of x_0 (convention 3). Each of our steps is taken from where theirs is.
    """
    peer = scheduler(
        diffusers.DPMSolverMultistepScheduler,
        20,
        timestep_spacing="trailing",
        solver_order=3,
    )
    times = np.append(peer.timesteps.numpy(), -1)
    theirs = np.concatenate([X_INIT[None], their_chain(peer)])
    levels = levels_at(times[:-1])
    bars = np.append(np.cumprod(1 - BETAS)[times[:-1]], 1.0)
    predictions = [
        their_network(x, float(t), "sample")
        for x, t in zip(theirs, times[:-1], strict=False)
    ]
    sampler, state = dpmpp_3m(), dpmpp_3m().init(jnp.asarray(X_INIT, jnp.float32))
    denoise = our_denoiser()
    step = jax.jit(
        lambda state, t, s: sampler.step(
            KEYS, lambda x, level: denoise(x, level, None), state, t, s
        )[0]
    )
    largest = 0.0
    for i in range(20):
        t, s = (jax.tree.map(lambda leaf, j=j: leaf[j], levels) for j in (i, i + 1))
        state = step(state._replace(x=jnp.asarray(theirs[i], jnp.float32)), t, s)
        missing = 0.0
        if 2 <= i < 19:
            place = -LOG_R[times[i - 2 : i + 2]]  # lambda at four neighbours
            h2, h1, h = np.diff(place)
            d2, d1, d0 = predictions[i - 2 : i + 1]
            second = ((d0 - d1) / h1 - (d1 - d2) / h2) / (h1 + h2)
            integral = h**2 - 2 * h + 2 - 2 * np.exp(-h)
            missing = 0.5 * np.sqrt(bars[i + 1]) * integral * second
            largest = max(largest, np.abs(missing).max())
        np.testing.assert_allclose(state.x, theirs[i + 1] + missing, atol=ROOM)
    assert largest > 10 * ROOM  # the term is there to be missed


# --- UniPC ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "kind", "spacing"),
    [
        (1, "epsilon", "trailing"),
        (2, "epsilon", "trailing"),
        (2, "epsilon", "linspace"),
        (2, "v_prediction", "trailing"),
    ],
)
def test_unipc(order, kind, spacing):
    peer = scheduler(
        diffusers.UniPCMultistepScheduler,
        20,
        timestep_spacing=spacing,
        solver_order=order,
        prediction_type=kind,
    )
    ours, _ = our_chain(unipc(order), levels_at(peer.timesteps), kind)
    np.testing.assert_allclose(ours, their_chain(peer, kind), atol=ROOM)


def test_unipc_3():
    """Equal but for the last step but one, whose order theirs lowers (convention 4)."""
    peer = scheduler(
        diffusers.UniPCMultistepScheduler,
        20,
        timestep_spacing="trailing",
        solver_order=3,
    )
    ours, _ = our_chain(unipc(3), levels_at(peer.timesteps))
    theirs = their_chain(peer)
    np.testing.assert_allclose(ours[:-2], theirs[:-2], atol=ROOM)
    assert np.abs(ours[-2] - theirs[-2]).max() > ROOM

    peer = scheduler(
        diffusers.UniPCMultistepScheduler,
        20,
        timestep_spacing="trailing",
        solver_order=3,
        final_sigmas_type="sigma_min",
        lower_order_final=False,
    )
    ours, _ = our_chain(unipc(3), levels_at([*peer.timesteps, 0], clean=False))
    np.testing.assert_allclose(ours[:-1], their_chain(peer)[:-1], atol=ROOM)


def test_a_step_much_longer_than_the_last_is_of_order_one():
    """DDIM's `leading` times, down to t = 0, in both: convention 5."""
    times = grids.leading_steps(1000, 20)[::-1]
    peer = scheduler(diffusers.DPMSolverMultistepScheduler, 20)
    peer.timesteps = torch.from_numpy(times.copy())
    peer.sigmas = torch.from_numpy(np.append(np.exp(LOG_R[times]), 0.0))
    theirs = their_chain(peer)
    ours, _ = our_chain(dpmpp_2m(), levels_at(times))
    assert step_ratio(levels_at(times)) > 4
    np.testing.assert_allclose(ours[:-2], theirs[:-2], atol=ROOM)
    assert np.abs(ours[-1] - theirs[-1]).max() > 0.05
    # That of theirs with an Euler step there: its x_0 carried along.
    t, s = np.exp(LOG_R[times[-2:]])
    eps = their_network(theirs[-3], float(times[-2]))
    plain = (theirs[-3] * np.hypot(1, t) + (s - t) * eps) / np.hypot(1, s)
    np.testing.assert_allclose(ours[-2], plain, atol=ROOM)


# --- PNDM -----------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_pndm(spacing):
    """Their N + 1 steps are our N: the first two are Heun's rule."""
    peer = scheduler(
        diffusers.PNDMScheduler,
        20,
        timestep_spacing=spacing,
        skip_prk_steps=True,
        set_alpha_to_one=True,
    )
    levels = grids.grid(SCHEDULE, 20, getattr(grids, f"{spacing}_steps"))
    np.testing.assert_array_equal(levels.t[:-1], np.delete(peer.timesteps, 1))
    ours, _ = our_chain(pndm(), levels)
    np.testing.assert_allclose(ours, their_chain(peer)[1:], atol=ROOM)


def test_pndm_combines_eps_whatever_the_network_predicts():
    """Convention 7: ours is the same sampler with every kind of network."""
    peer = scheduler(
        diffusers.PNDMScheduler,
        20,
        timestep_spacing="trailing",
        skip_prk_steps=True,
        set_alpha_to_one=True,
        prediction_type="v_prediction",
    )
    levels = grids.grid(SCHEDULE, 20)
    from_v, _ = our_chain(pndm(), levels, "v_prediction")
    from_eps, _ = our_chain(pndm(), levels)
    np.testing.assert_allclose(from_v, from_eps, atol=ROOM)
    assert np.abs(from_v - their_chain(peer, "v_prediction")[1:]).max() > 1e-3


# --- Euler and Heun -------------------------------------------------------------------


@pytest.mark.parametrize("karras", [False, True], ids=["trailing", "karras"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_euler_and_heun(kind, karras):
    """Theirs in x / alpha: convention 6."""
    spacing = {"use_karras_sigmas": True} if karras else {}
    for name, sampler in (("EulerDiscrete", euler()), ("HeunDiscrete", heun())):
        peer = scheduler(
            getattr(diffusers, f"{name}Scheduler"),
            15 if karras else 20,
            timestep_spacing="linspace" if karras else "trailing",
            prediction_type=kind,
            **spacing,
        )
        # Heun's list names every level between the ends twice.
        keep = np.append(0, np.arange(1, len(peer.timesteps), 2))
        if name == "EulerDiscrete":
            keep = np.arange(len(peer.timesteps))
        sigmas = np.append(peer.sigmas[keep], 0.0)
        levels = levels_of_sigmas(sigmas, peer.timesteps[keep])
        own = grids.karras_grid(SCHEDULE, 15) if karras else grids.grid(SCHEDULE, 20)
        np.testing.assert_allclose(levels.alpha, own.alpha, atol=1e-6, rtol=1e-4)
        np.testing.assert_allclose(levels.t, own.t, atol=2e-2)
        theirs = their_chain(peer, kind, X_INIT * np.hypot(1, sigmas[0]))
        if name == "HeunDiscrete":
            theirs = np.concatenate([theirs[1::2], theirs[-1:]])
        ours, _ = our_chain(sampler, levels, kind)
        at_s = np.hypot(1, sigmas[1:])[:, None, None]
        np.testing.assert_allclose(ours, theirs / at_s, atol=ROOM)
