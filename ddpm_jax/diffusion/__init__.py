"""The mathematics of diffusion: pure functions on arrays `[B, ...]`.

No files, no config, no network architecture. `process` states the theory and numbers
its equations. By what they are for:

    levels      schedules (tables and log-SNR functions), grids (of N steps)
    the seam    denoisers (network -> Denoiser)
    training    losses, loss_weights (by SNR), time_sampling, self_conditioning,
                preconditioning (EDM's parameterization), few_steps (networks that
                jump)
    sampling    generate (the one scan), samplers (Algorithm 2, DDIM), karras (EDM),
                multistep and exponential_integrator (DPM-Solver++, UniPC, PLMS),
                ode (adaptive)
    guidance    guidance (classifier-free and others), gaussian_classifier
    editing     editing, operators (linear measurements)
    3-D         distillation (a denoiser as a loss of rendered images)
    likelihood  variational_bound, ode_likelihood
"""
