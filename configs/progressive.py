"""Any diffusion run, distilled to one step: progressive distillation.

Command:   python main.py --config=configs/digits.py --workdir=runs/digits
           python main.py --config=configs/progressive.py:runs/digits
           with the run of a diffusion model in the place of runs/digits
Model:     that of the run, sampled by DDIM in 1 step, or as many as final_steps says;
           the steps of the teacher are halved in stages, from 32 to 1
Steps:     as many as the run was trained for, shared by the stages, at a constant rate;
           each costs two forward passes more
Source:    Salimans and Ho 2022: docs/few-steps.md
"""

from ddpm_jax.commands.tuned import tuned
from ddpm_jax.recipe import Progressive, Stratified


def get_config(run=""):
    """Return the recipe.

    Args:
        run: folder of the run of a diffusion model, or FOLDER@STEP.
    """
    return tuned(
        run,
        # A run that predicts eps learns to predict v in a first stage.
        lambda task: Progressive(
            num_stages=5 + (task.prediction == "eps"),
            plain_stages=int(task.prediction == "eps"),
        ),
        training={"decay": "constant"},  # the last stages have the most to learn
        times=Stratified(),
        preview_steps=1,
        sample={"sampler": "ddim", "num_steps": 1},
    )
