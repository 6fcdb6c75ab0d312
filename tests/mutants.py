"""Faults of one line that went unnoticed once, and the test that each now fails.

    python tests/mutants.py             apply each to a copy, and see its test fail
    python tests/mutants.py pndm fid    those whose name contains a word

`test_mutants.py` holds the table against the sources, so that it cannot go stale.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Mutant(NamedTuple):
    """A fault: the text that is replaced, once, in a file of the package."""

    name: str
    file: str
    right: str
    wrong: str
    test: str  # FILE::FUNCTION below tests/


MUTANTS = [
    Mutant(
        "precision and recall on unequal numbers of images",
        "evaluation/scores.py",
        "precision_recall(*it.same_number())",
        "precision_recall(it.real, it.fake.features)",
        "evaluation/test_scores.py::test_manifolds_are_of_equally_many_images",
    ),
    Mutant(
        "density and coverage on unequal numbers of images",
        "evaluation/scores.py",
        "density_coverage(*it.same_number())",
        "density_coverage(it.real, it.fake.features)",
        "evaluation/test_scores.py::test_manifolds_are_of_equally_many_images",
    ),
    Mutant(
        "norm_out ignores norm_epsilon",
        "networks/unet.py",
        'GroupNorm(self.num_groups, self.norm_epsilon, name="norm_out")',
        'GroupNorm(self.num_groups, name="norm_out")',
        "networks/test_norms.py::test_every_group_norm_takes_the_epsilon_of_its_network",
    ),
    Mutant(
        "another epsilon in a group normalization",
        "networks/layers.py",
        "    num_groups: int\n    epsilon: float = 1e-6\n    dtype",
        "    num_groups: int\n    epsilon: float = 1e-5\n    dtype",
        "networks/test_layers.py::test_the_epsilon_of_a_group_norm_by_hand",
    ),
    Mutant(
        "the augmentation's embedding ignores frequency_shift",
        "conditioning/low_res.py",
        "time_embedding(_T * level, width, self.frequency_shift)",
        "time_embedding(_T * level, width)",
        "conditioning/test_low_res.py::"
        "test_time_and_noise_are_coded_with_the_shift_of_the_network",
    ),
    Mutant(
        "pndm never reaches its rule of four steps",
        "diffusion/multistep.py",
        "jnp.minimum(past.num, 3)",
        "jnp.minimum(past.num, 2)",
        "diffusion/test_multistep.py::test_pndm_goes_up_to_the_rule_of_four",
    ),
    Mutant(
        "a jump of RePaint keeps what the sampler remembers",
        "diffusion/editing.py",
        "return sampler.init(x), info",
        "return state._replace(x=x), info",
        "diffusion/test_editing.py::"
        "test_a_method_that_remembers_starts_anew_after_a_jump",
    ),
    Mutant(
        "subsets of FID-infinity even in N instead of 1 / N",
        "evaluation/frechet.py",
        "inverse = np.linspace(1 / smallest, 1 / total, num_points)",
        "inverse = 1 / np.linspace(smallest, total, num_points)",
        "evaluation/test_frechet.py::test_subsets_lie_evenly_in_one_over_n",
    ),
    Mutant(
        "scale_time leaves the levels of a log-SNR as they were",
        "diffusion/schedules.py",
        "schedule._replace(at=at, at_logsnr=at_logsnr)",
        "schedule._replace(at=at)",
        "diffusion/test_schedules.py::test_scales_of_time_multiply",
    ),
    Mutant(
        "the shape reader's margin is 0",
        "data/shapes/attribute_classifier.py",
        "_CLEARER = 0.02",
        "_CLEARER = 0.0",
        "data/test_shapes_pictures.py::test_a_shape_between_two_is_none",
    ),
    Mutant(
        "the fast path keeps 32 bits of a seed",
        "runtime/keys.py",
        "    if not high:\n",
        "    if True:\n",
        "assembly/test_keys.py::test_a_root_key_has_all_64_bits_of_its_seed",
    ),
]


def is_caught(mutant: Mutant) -> bool:
    """Say whether a mutant's test passes on a copy, and fails on the changed copy."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("ddpm_jax", "tests", "docs", "configs", "pyproject.toml"):
            ignore = shutil.ignore_patterns("__pycache__")
            copier = shutil.copy if (ROOT / name).is_file() else shutil.copytree
            options = {} if copier is shutil.copy else {"ignore": ignore}
            copier(ROOT / name, copy / name, **options)
        if _run(mutant.test, copy) != 0:
            raise SystemExit(f"{mutant.test} fails without any fault.")
        path = copy / "ddpm_jax" / mutant.file
        path.write_text(path.read_text().replace(mutant.right, mutant.wrong))
        return _run(mutant.test, copy) == 1  # 1: tests ran, and some failed


def _run(test: str, folder: Path) -> int:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(folder), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [*command, f"tests/{test}"],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        check=False,
    ).returncode


def main(words: list[str]) -> int:
    """Try the mutants whose name has one of the words, or all of them."""
    chosen = [m for m in MUTANTS if not words or any(w in m.name for w in words)]
    survivors = []
    for mutant in chosen:
        caught = is_caught(mutant)
        print(f"{'caught  ' if caught else 'SURVIVED'} {mutant.name}", flush=True)
        survivors += [] if caught else [mutant]
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants are caught.")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
