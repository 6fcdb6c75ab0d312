"""Numbered folders: the same request finds its own, another gets the next."""

import json
import threading

import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.runtime.results import REQUEST_FILE, find_result, result_folder

ASKED = {"steps": (1, 2), "eta": 0.1, "prompt": "ein Käse", "seed": 2**62 + 1}


def test_the_same_request_finds_its_folder_and_another_gets_the_next(tmp_path):
    parent = tmp_path / "samples"
    assert find_result(parent, ASKED) is None and not parent.exists()
    first = result_folder(parent, ASKED)
    assert first == parent / "0001"
    stored = json.loads((first / REQUEST_FILE).read_text())
    assert stored == {**ASKED, "steps": [1, 2]}
    others = [{**ASKED, "seed": 2**62}, {**ASKED, "more": None}, {"eta": 0.1}]
    found = [result_folder(parent, other) for other in others]
    assert [folder.name for folder in found] == ["0002", "0003", "0004"]
    shuffled = dict(reversed(ASKED.items()))
    assert result_folder(parent, shuffled) == first == find_result(parent, ASKED)
    assert sorted(path.name for path in parent.iterdir()) == [
        *("0001", "0002", "0003", "0004"),
    ]


def test_numbers_go_on_after_what_is_there_whatever_it_is(tmp_path):
    for name in ("0007", "12", "step-3_ema", "12345"):
        (tmp_path / name).mkdir()
    (tmp_path / "0007" / REQUEST_FILE).write_text("{")  # cut short
    assert result_folder(tmp_path, ASKED).name == "12346"
    assert find_result(tmp_path, ASKED).name == "12346"


def test_a_folder_that_is_named_is_taken_once(tmp_path):
    out = tmp_path / "out"
    assert result_folder(tmp_path / "unused", ASKED, out) == out
    assert result_folder(tmp_path / "unused", ASKED, out) == out
    with pytest.raises(UserError, match="holds the results of another request"):
        result_folder(tmp_path / "unused", {"eta": 0}, out)
    assert json.loads((out / REQUEST_FILE).read_text())["eta"] == 0.1
    assert not (tmp_path / "unused").exists()


def test_many_at_once_agree_on_one_folder_for_each_request(tmp_path):
    found, start = [], threading.Barrier(8)

    def ask(number):
        start.wait()
        found.append((number % 2, result_folder(tmp_path, {"number": number % 2})))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0001", "0002"]
