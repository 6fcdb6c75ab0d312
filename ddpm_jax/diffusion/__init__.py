"""The mathematics of diffusion: pure functions on arrays `[B, ...]`.

No files, no config, no network architecture. `process` states the theory and numbers
its equations. By what they are for:

    levels      schedules (tables and log-SNR functions), grids (of N steps)
    the seam    denoisers (network -> Denoiser)
    training    losses, loss_weights (by SNR), times (how t is drawn), self_conditioning
    sampling    generate (the one scan), samplers (Algorithm 2, DDIM), karras (EDM),
                multistep and exponential (DPM-Solver++, UniPC, PLMS), ode (adaptive)
    guidance    guidance, classifier (in closed form)
    editing     editing, operators (linear measurements)
    likelihood  likelihood (the bound), ode_likelihood
"""
