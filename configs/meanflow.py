"""A run on the straight path, tuned to one or two steps: mean flow.

Command:   python main.py --config=configs/digits_flow.py --workdir=runs/digits_flow
           python main.py --config=configs/meanflow.py:runs/digits_flow
           with another run of flow matching in the place of runs/digits_flow
Model:     that of the run, with an embedding of how far a step goes
Steps:     as many as the run was trained for; each costs a derivative forwards more
Source:    Geng et al. 2025, "Mean Flows for One-step Generative Modeling":
           docs/few-steps.md
"""

from ddpm_jax.commands.tuned import tuned
from ddpm_jax.recipe import MeanFlow


def get_config(run=""):
    """Return the recipe.

    Args:
        run: folder of a run on the straight path, or FOLDER@STEP.
    """
    return tuned(
        run,
        MeanFlow(),
        preview_steps=1,
        sample={"sampler": "ddim", "num_steps": 1},
    )
