"""Commands are found where they stand, and expanded as a shell would."""

from pathlib import Path

import documents
import pytest
import rules
import small
from once import Once
from test_commands import fault_of

TEXT = """\
Run `make demo`, then `python main.py sample
runs/digits`, not `main.py` nor `python main.py`.

```
LEVEL=2
FLAGS="--a=$LEVEL --b"
for s in 1 2; do TFDS_DATA_DIR=data KEY=... python main.py $FLAGS \\
    --c=$s; done
```

```python
python = "make demo"
```

```
runs/digits
    config.json
```

```bash
mkdir made && cd made
brew install "two words"
launch/pod.sh NAME
```
"""


@pytest.fixture
def found(tmp_path, monkeypatch):
    document = tmp_path / "text.md"
    document.write_text(TEXT)
    monkeypatch.setattr(documents, "ROOT", tmp_path)
    scripts = documents.scripts(document)
    return [c for script in scripts for c in documents.commands(script, tmp_path)]


def test_what_is_found(found):
    assert [" ".join(command.words) for command in found] == [
        "make demo",
        "python main.py sample runs/digits",
        "python main.py --a=2 --b --c=1",
        "python main.py --a=2 --b --c=2",
        "brew install two words",
        "launch/pod.sh NAME",
    ]
    assert [command.script.line for command in found] == [1, 1, 5, 5, 21, 21]


def test_words_folder_and_environment(found, tmp_path):
    loop, brew = found[3:5]
    assert brew.words == ("brew", "install", "two words")
    assert brew.folder == tmp_path / "made"
    assert loop.environment == {"TFDS_DATA_DIR": "data"}


def test_bad_shell_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "ROOT", tmp_path)
    script = documents.Script(tmp_path / "x.md", 3, "for s in 1 2; do python main.py")
    with pytest.raises(AssertionError, match=r"x\.md:3"):
        documents.commands(script, tmp_path)


def test_a_command_of_no_rule_is_a_fault(found, tmp_path):
    assert rules.rule_of(found[4].words) is None
    assert "no rule" in fault_of(found[4], Once(tmp_path))


def test_what_is_not_run_has_a_reason():
    for rule in rules.RULES:
        assert rule.treatment in ("run", "parse", "help", "target", "start", "listed")
        assert rule.reason or rule.treatment in ("run", "target", "start")


def test_options_are_only_changed_where_they_are_set():
    line = ["evaluate", "runs/a"]
    assert "--checkpoints=2,4" not in small.flags(line)
    assert "--checkpoints=2,4" in small.flags([*line, "--checkpoints=1000,2000"])


def test_options_are_spelled_as_the_command_has_them():
    run = small.flags(["evaluate", "runs/a"])
    assert {"--num-images=12", "--feature-batch-size=12", "--allow-few"} <= set(run)
    assert not [flag for flag in run if flag.startswith("--config.")]
    assert "--config.sample.num_steps=5" in small.flags(["--config=configs/digits.py"])
    both = small.flags(["evaluate", "runs/a", "--config=configs/digits.py"])
    assert {"--config.network.channels=8", "--num-steps=5"} <= set(both)


# --- What several documents say, once -------------------------------------------------


TRAIN = ["--config=configs/digits.py", "--workdir=runs/a"]
DRAW = ["sample", "runs/a"]


class Program:
    """Stands for the program: notes what it is given, and makes the workdir."""

    def __init__(self):
        self.given = []

    def __call__(self, arguments):
        self.given.append(arguments)
        if "--config.broken=1" in arguments:
            return "broken"
        if "sample" not in arguments:
            Path("runs/a").mkdir(parents=True, exist_ok=True)
            Path("runs/a/made").write_text(" ".join(arguments))
        return ""


@pytest.fixture
def said(tmp_path, monkeypatch):
    """Give commands in a new folder, as a document; return which of them ran."""
    program = Program()

    def give(document, *commands):
        (tmp_path / document).mkdir()
        monkeypatch.chdir(tmp_path / document)
        once, before = Once(tmp_path / "made"), len(program.given)
        faults = [once.run(command, {}, program) for command in commands]
        assert faults == [
            "broken" if "--config.broken=1" in c else "" for c in commands
        ]
        return program.given[before:]

    return give


def test_the_same_commands_run_once_and_leave_the_same(said, tmp_path):
    assert said("one", TRAIN, DRAW, DRAW) == [TRAIN, DRAW]
    # Only the last value of an option counts, and not where it stands.
    assert said("two", ["--config.x=1", *TRAIN[::-1], "--config.x=2"], DRAW) != []
    assert said("three", TRAIN[::-1], DRAW) == []
    one, three = (tmp_path / name / "runs/a/made" for name in ("one", "three"))
    assert one.read_text() == three.read_text()
    assert said("four", [*TRAIN, "--config.x=1", "--config.x=2"], DRAW) == []


def test_a_command_on_another_model_runs(said):
    other = [*TRAIN, "--config.x=1"]
    assert said("one", TRAIN, DRAW) == [TRAIN, DRAW]
    assert said("two", other, DRAW) == [other, DRAW]
    again = ["--workdir=runs/a"]  # trained on, it is another one
    assert said("three", TRAIN, again, DRAW) == [again, DRAW]


def test_what_failed_is_run_again(said):
    broken = [*TRAIN, "--config.broken=1"]
    assert said("one", broken) == said("two", broken) == [broken]
