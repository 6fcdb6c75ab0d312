"""The launch files and docs/clusters.md: they parse, and what they use exists."""

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from settings import default

from ddpm_jax.recipe import to_json

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "launch").iterdir())
DOCUMENT = (ROOT / "docs" / "clusters.md").read_text()
scaling = importlib.import_module("benchmarks.scaling")


@pytest.fixture(scope="module")
def flags():
    """All flags of the program, as its help lists them."""
    done = subprocess.run(
        [sys.executable, "main.py", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    return set(re.findall(r"(?<!\S)--[a-z][a-z-]*\b(?!\.)", done.stdout))


def test_there_is_a_file_for_each_kind_of_cluster():
    assert [path.name for path in FILES] == ["gke.yaml", "slurm.sh", "tpu_pod.sh"]
    for path in FILES:
        assert f"(../launch/{path.name})" in DOCUMENT


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_flags_and_options_of_a_launch_file_are_the_program_s(path, flags):
    text = path.read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    command = "\n".join(lines).partition("main.py")[2]
    options = re.findall(r"--config\.([a-z_.]+)=", command)
    assert "devices.fsdp" in options
    for option in options:
        node = to_json(default())
        for name in option.split("."):
            node = node[name]
    used = set(re.findall(r"(?<!\S)(--[a-z-]+)(?![a-z.-])", command))
    assert {"--config", "--workdir"} <= used <= flags
    by_hand = {"--coordinator", "--num-processes", "--process-id"}
    assert "--distributed" in used or by_hand <= used


def test_the_document_names_flags_that_exist(flags):
    named = set(re.findall(r"`(--[a-z-]+)[=`]", DOCUMENT))
    assert "--heartbeat-timeout" in named and "--signal" in named
    assert named - {"--signal"} <= flags


@pytest.mark.parametrize("path", [p for p in FILES if p.suffix == ".sh"], ids=str)
def test_scripts_are_sound(path):
    subprocess.run(["bash", "-n", path], check=True)
    beside = Path(sys.executable).with_name("shellcheck")
    checker = shutil.which("shellcheck") or (beside if beside.exists() else None)
    if checker is None:
        pytest.skip("shellcheck is not installed")
    subprocess.run([checker, path], check=True)


def test_the_pods_find_the_first_by_the_service_and_are_as_many_as_they_say():
    text = (ROOT / "launch" / "gke.yaml").read_text()
    service, job = yaml.safe_load_all(text)
    name, spec = job["metadata"]["name"], job["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    environment = {one["name"]: one["value"] for one in container["env"]}
    assert spec["completionMode"] == "Indexed"
    assert spec["parallelism"] == spec["completions"]
    assert environment["NUM_PROCESSES"] == str(spec["completions"])
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    (line,) = container["args"]
    port = service["spec"]["ports"][0]["port"]
    # The host name of pod 0 of an indexed Job, in the domain of the service.
    assert f"--coordinator={name}-0.{pod['subdomain']}:{port} " in line
    assert line.startswith("exec python main.py ")
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]


# --- Scaling --------------------------------------------------------------------------


def test_the_table_of_the_document_is_what_the_formulas_give():
    assert scaling.table(scaling.Machine()) in DOCUMENT


def test_one_row_by_hand():
    """35,746,307 parameters in float32 over 64 devices, 128 images each."""
    machine, network = scaling.Machine(), scaling.NETWORKS[0]
    compute = 128 * 35.0e9 / (989e12 * 0.4)
    assert scaling.compute(machine, network, 128) == pytest.approx(compute, rel=1e-3)
    size = 4 * 35_746_307  # 143 MB: five buckets of 30 MB, one for an eighth of it
    inside = 7 / 8 * size / 450e9 + 5 * 7 * 5e-6
    far = 2 * size / 8 / 50e9 + 1 * 2 * 3 * 20e-6
    found = scaling.replicated(machine, network, 64)
    assert (found.before, found.along) == pytest.approx((0, 2 * inside + far))
    found = scaling.sharded(machine, network, 64)
    assert (found.before, found.along) == pytest.approx((inside, inside + far))
    plain, hidden = scaling.efficiency(3.0, scaling.Communication(0.5, 2.5))
    assert (plain, hidden) == pytest.approx((3 / 6, 3 / 4))
    least = scaling.least_batch(machine, network, found, 0.9)
    at = [
        scaling.efficiency(scaling.compute(machine, network, b), found)[0]
        for b in (least - 1, least)
    ]
    assert at[0] < 0.9 <= at[1]
    assert scaling.state_bytes(network, 8) == 2 * size / 4
