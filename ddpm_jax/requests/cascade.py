"""The request of `cascade`."""

from ddpm_jax.requests.options import Chain, Shown, WithResults, option, request


@request("cascade")
class Cascade(Shown, Chain, WithResults):
    """Generate small images, and enlarge them with super-resolution models.

    Options without "stage" are of the first model, and say what is generated.

    python main.py cascade runs/digits-small --stages=runs/digits-large
    """

    stages: str = option("", "runs of the super-resolution models, smallest first: A,B")
    num_images: int = option(64, "images to generate", of="sample.num_images")
    stage_samplers: str = option(
        "",
        "samplers of these stages, one for all or one for each; unset, here and below: "
        "as their own recipes have it",
        of="cascade.samplers",
    )
    stage_num_steps: str = option(
        "", "steps of these stages, such as 20,50", of="cascade.num_steps"
    )
    stage_guidance_scales: str = option(
        "", "guidance scales of these stages", of="cascade.guidance_scales"
    )
    stage_dynamic_percentiles: str = option(
        "", "dynamic thresholds of these stages", of="cascade.dynamic_percentiles"
    )
    stage_noise: str = option(
        "",
        "noise-conditioning augmentation of these stages, 0 to their max_aug_level",
        of="cascade.noise",
    )
