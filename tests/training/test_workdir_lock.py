"""One trainer for a workdir: the second is refused, whatever became of the first."""

import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.training import workdir_lock


@pytest.fixture
def quick(monkeypatch):
    """A heart that beats fast."""
    monkeypatch.setattr(workdir_lock, "BEAT", 0.05)
    monkeypatch.setattr(workdir_lock, "STALE", 0.6)


def leave(workdir, **changes):
    """Leave the file of an owner, of another host unless it is changed."""
    known = {"token": "t", "host": "elsewhere", "process": 1, "system": "s"}
    text = json.dumps({**known, "began": "1", "since": "then", **changes})
    (workdir / workdir_lock.FILE).write_text(text)


def take(workdir):
    """Take a workdir; return how long that took."""
    started = time.monotonic()
    with workdir_lock.hold(workdir) as check:
        check()
        return time.monotonic() - started


def test_the_second_is_refused_while_the_first_lives_and_not_after(tmp_path):
    with workdir_lock.hold(tmp_path) as check:
        with pytest.raises(UserError, match=rf"process {os.getpid()} on ") as raised:
            take(tmp_path)
        assert "\n" not in str(raised.value) and str(tmp_path) in str(raised.value)
        check()
        assert workdir_lock.is_held(tmp_path)
    assert not workdir_lock.is_held(tmp_path) and list(tmp_path.iterdir()) == []
    take(tmp_path)


def test_a_killed_one_blocks_nobody(tmp_path):
    script = f"""
        import os, pathlib, signal
        from ddpm_jax.training import workdir_lock

        with workdir_lock.hold(pathlib.Path({str(tmp_path)!r})):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    program = [sys.executable, "-c", textwrap.dedent(script)]
    assert subprocess.run(program).returncode == -9
    assert (tmp_path / workdir_lock.FILE).exists() and not workdir_lock.is_held(
        tmp_path
    )
    assert (
        take(tmp_path) < workdir_lock.STALE / 4
    )  # at once: its process is known to be gone


def test_the_number_of_its_process_may_be_anothers_by_now(tmp_path):
    here = {"host": socket.gethostname(), "process": os.getpid()}
    leave(tmp_path, **here, system=workdir_lock._system(), began="another time")
    assert take(tmp_path) < workdir_lock.STALE / 4


@pytest.mark.parametrize("offset", [0, 86_400], ids=["now", "tomorrow"])
def test_one_of_another_host_is_gone_when_its_heart_has_stopped(
    tmp_path, quick, offset
):
    """Also if its file bears a time that is still to come."""
    leave(tmp_path)
    os.utime(tmp_path / workdir_lock.FILE, (time.time() + offset,) * 2)
    assert 0.3 < take(tmp_path) < 20
    leave(tmp_path)
    os.utime(tmp_path / workdir_lock.FILE, (0, 0))
    assert take(tmp_path) < 0.3


def test_one_of_another_host_lives_while_its_heart_beats(tmp_path, quick):
    """This test is the other host: it touches the file."""
    leave(tmp_path)
    over = threading.Event()

    def beat():
        while not over.wait(0.05):
            os.utime(tmp_path / workdir_lock.FILE)

    heart = threading.Thread(target=beat)
    heart.start()
    try:
        with pytest.raises(UserError, match=r"since then \(process 1 on elsewhere"):
            take(tmp_path)
        assert workdir_lock.is_held(tmp_path)
    finally:
        over.set()
        heart.join()


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 100_000, b"{}"])
def test_a_damaged_file_blocks_nobody_for_good(tmp_path, quick, content):
    (tmp_path / workdir_lock.FILE).write_bytes(content)
    assert take(tmp_path) < 20


def test_its_heart_beats(tmp_path, quick):
    with workdir_lock.hold(tmp_path):
        os.utime(tmp_path / workdir_lock.FILE, (0, 0))
        until = time.monotonic() + 20
        while (tmp_path / workdir_lock.FILE).stat().st_mtime == 0:
            assert time.monotonic() < until
            time.sleep(0.01)


def test_who_was_taken_for_gone_stops_and_takes_nothing_away(tmp_path):
    with workdir_lock.hold(tmp_path) as check:
        check()
        leave(tmp_path)
        with pytest.raises(UserError, match=r"on elsewhere.*not heard of"):
            check()
    assert json.loads((tmp_path / workdir_lock.FILE).read_text())["token"] == "t"


def test_of_many_that_find_one_gone_one_trains(tmp_path, quick):
    leave(tmp_path)
    os.utime(tmp_path / workdir_lock.FILE, (0, 0))
    start, end, held, refused = threading.Barrier(8), threading.Event(), [], []

    def trainer():
        start.wait()
        try:
            with workdir_lock.hold(tmp_path) as check:
                end.wait(1)
                check()
                held.append(0)
        except UserError:
            refused.append(0)

    threads = [threading.Thread(target=trainer) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 7)


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        take(tmp_path / "file")
