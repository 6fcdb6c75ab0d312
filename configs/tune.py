"""Any diffusion run, tuned to one or two steps: consistency tuning.

Command:   python main.py --config=configs/digits.py --workdir=runs/digits
           python main.py --config=configs/tune.py:runs/digits --workdir=runs/tuned
           with the run of a diffusion model in the place of runs/digits
Model:     that of the run, which it begins with; eps becomes v, or flow on a straight
           path, since a single step begins where eps says next to nothing of x0
Steps:     as many as the run was trained for; each costs a forward pass more
Source:    Geng et al. 2025, "Consistency Models Made Easy": docs/few-steps.md
"""

from ddpm_jax.commands.tuned import tuned
from ddpm_jax.recipe import Consistency, Stratified


def get_config(run=""):
    """Return the recipe.

    Args:
        run: folder of the run of a diffusion model, or FOLDER@STEP.
    """
    return tuned(
        run,
        Consistency(num_stages=8),
        times=Stratified(),
        preview_steps=2,
        sample={"sampler": "consistency", "num_steps": 2},
    )
