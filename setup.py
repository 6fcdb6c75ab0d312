"""The recipes of configs/ are installed inside the package, as ddpm_jax/recipes.

All else that setuptools has to know is in pyproject.toml.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["ddpm_jax*"]), "ddpm_jax.recipes"],
    package_dir={"ddpm_jax.recipes": "configs"},
)
