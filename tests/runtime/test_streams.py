"""Streams that cannot be written end nothing, and no text ends the program."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from settings import default

from ddpm_jax.cli import main, override
from ddpm_jax.errors import UserError

ROOT = Path(__file__).parents[2]
# Prints before and after its reader has gone, more than a buffer holds, and works on.
WORK = """
import sys
from ddpm_jax.runtime import streams
streams.prepare()
print("first", flush=True)
sys.stdin.read()
for stream in (sys.stdout, sys.stderr):
    print("x" * 100_000, file=stream, flush=True)
open(sys.argv[1], "w").write("done")
"""
SPEAK = """
import sys
from ddpm_jax.runtime import streams
streams.prepare()
print("ünï \\u2603 \\udcff")
print("ünï", file=sys.stderr)
"""


def test_a_reader_that_goes_away_costs_no_work(tmp_path):
    pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, str(tmp_path / "result")], cwd=ROOT, **pipes
    )
    assert process.stdout.readline() == b"first\n"
    process.stdout.close()
    process.stderr.close()
    process.stdin.close()
    assert process.wait(timeout=300) == 0
    assert (tmp_path / "result").read_text() == "done"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="has no full device")
def test_a_log_on_a_full_disk_costs_no_work(tmp_path):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", WORK, str(tmp_path / "result")],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=full,
            timeout=300,
        )
    assert done.returncode == 0
    assert (tmp_path / "result").read_text() == "done"


def test_a_stream_shows_what_it_cannot_hold_as_escapes():
    done = subprocess.run(
        [sys.executable, "-c", SPEAK],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"},
        capture_output=True,
        timeout=300,
    )
    assert done.stdout == rb"\xfcn\xef \u2603 \udcff" + b"\n"
    assert done.stderr == rb"\xfcn\xef" + b"\n"


def test_closed_streams_are_done_without():
    line = f'exec "{sys.executable}" -m ddpm_jax --workdirr=misspelt <&- >&- 2>&-'
    done = subprocess.run(["sh", "-c", line], cwd=ROOT, timeout=300)
    assert done.returncode == 2


def test_nothing_else_takes_the_place_of_a_closed_stream(tmp_path):
    code = "import os\nfrom ddpm_jax.runtime import streams\nstreams.prepare()\n"
    script = tmp_path / "script.py"
    script.write_text(f"{code}os._exit(os.open(os.devnull, os.O_RDONLY))\n")
    line = f'exec "{sys.executable}" {script} <&- >&- 2>&-'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["sh", "-c", line], env=environment, timeout=300)
    assert done.returncode > 2


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--workdir=run\udcff", r"'--workdir=run\udcff' is not UTF-8 text"),
        (f"--config.seed={'7' * 5000}", "--config.seed has a number of more than"),
        (f"--config.sample.labels={'7' * 5000}", "has a number of more than"),
        (f"--{'b' * 50_000}=1", "unknown flag --bbb"),
        ("--step=a\nb", r"--step=a\nb is not a whole number"),
    ],
    ids=["bytes", "seed", "label", "flag", "line"],
)
def test_any_text_on_the_command_line_gives_one_line(argument, said, capsys):
    assert main(["sample", "nowhere", argument]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert len(line) < 2100


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        (
            f"--config.network.channel_multipliers={'-' * 100_000}1",
            "is of a wrong type",
        ),
        (f"--config.{'a.' * 50_000}b=1", r"unknown option config\.a;"),
        (f"--config.network.channel_multipliers=(1,{10**30})", "is out of range"),
        (f"--config.training.batch_size={10**30}", "is out of range"),
    ],
    ids=["nested", "deep", "wide", "large"],
)
def test_a_value_that_no_parser_or_array_takes_is_refused(argument, said):
    with pytest.raises(UserError, match=said):
        override(default(), [argument])
