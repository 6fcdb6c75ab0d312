"""The temporary folder of a server: gone when it ends, or when the next one starts."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.playground import scratch
from ddpm_jax.playground.scratch import own_file, scratch_folder

ROOT = Path(__file__).parents[2]
SERVER = """
import sys
from pathlib import Path
from ddpm_jax.playground.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "picture").write_text("private")
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_it_is_private_and_gone_with_its_server(tmp_path):
    with scratch_folder(tmp_path) as folder:
        assert folder.parent == tmp_path.resolve()
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "deep").mkdir()
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt), scratch_folder(tmp_path):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_what_a_killed_server_left_goes_when_the_next_starts(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, tmp_path],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        left = Path(server.stdout.readline().strip())
        with scratch_folder(tmp_path):
            assert (left / "picture").exists(), "its server lives"
        server.send_signal(signal.SIGKILL)
        server.wait()
        assert (left / "picture").exists()
        with scratch_folder(tmp_path) as folder:
            assert list(tmp_path.iterdir()) == [folder]


def test_only_folders_of_servers_are_removed(tmp_path, monkeypatch):
    old = 0, 0  # 1970
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    (tmp_path / f"{scratch.PREFIX}link").symlink_to(kept)
    (tmp_path / f"{scratch.PREFIX}file").touch()
    other = tmp_path / "ddpm_jax-other"
    other.mkdir()
    recent = tmp_path / f"{scratch.PREFIX}recent"
    recent.mkdir()  # its server is about to lock it
    for path in (kept, other):
        os.utime(path, old)
    assert scratch.remove_abandoned(tmp_path) == []
    os.utime(recent, old)  # of a version that had no lock
    assert scratch.remove_abandoned(tmp_path) == [recent]
    assert (kept / "file").exists() and other.exists()
    (recent / "lock").parent.mkdir()
    (recent / "lock").touch()
    monkeypatch.setattr(os, "getuid", lambda: recent.stat().st_uid + 1)
    assert scratch.remove_abandoned(tmp_path) == [], "it is another user's"


def test_old_files_go_and_the_oldest_of_too_many(tmp_path, monkeypatch):
    ages = {"lock": 9000, "a": 4000, "b/c": 3000, "b/d": 2000, "e": 1000}
    for name, age in ages.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * 10)
        os.utime(path, (10_000 - age, 10_000 - age))

    def left():
        scratch.make_room(tmp_path, now=10_000)
        found = (p for p in tmp_path.rglob("*") if p.is_file())
        return {str(path.relative_to(tmp_path)) for path in found}

    assert left() == {"lock", "b/c", "b/d", "e"}
    monkeypatch.setattr(scratch, "MAX_BYTES", 20)
    assert left() == {"lock", "b/d", "e"}
    monkeypatch.setattr(scratch, "MAX_FILES", 1)
    assert left() == {"lock", "e"}


def test_a_link_inside_is_removed_and_not_what_it_leads_to(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    with scratch_folder(tmp_path) as folder:
        (folder / "link").symlink_to(outside)
        scratch.make_room(folder, now=2**40)
        assert not (folder / "link").is_symlink()
    assert (outside / "file").exists()


def test_a_file_of_the_page_is_a_regular_file_in_its_folder(tmp_path):
    folder = tmp_path / "page"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "file").touch()
    (folder / "inner").symlink_to(folder / "sub" / "file")
    (folder / "outer").symlink_to("/etc/passwd")
    (folder / "circle").symlink_to(folder / "circle")
    (folder / "lock").touch()
    (folder / "sub" / "lock").touch()  # an upload may be named so
    assert own_file(folder, str(folder / "sub" / "lock")).is_file()
    os.mkfifo(folder / "pipe")
    (tmp_path / "page-of-others").touch()
    mine = str(folder / "sub" / "file")
    for path in (mine, str(folder / "inner"), f"{folder}/sub/../sub/file"):
        assert own_file(folder, path) == (folder / "sub" / "file").resolve()
    names = ("outer", "circle", "lock", "pipe", "absent", "sub", "../page-of-others")
    others = ["/etc/passwd", "", "\0", "x" * 5000, f"/{'x' * 5000}", None, 7, [mine]]
    for path in [*(f"{folder}/{name}" for name in names), *others]:
        with pytest.raises(UserError, match="only pictures that were uploaded"):
            own_file(folder, path)
