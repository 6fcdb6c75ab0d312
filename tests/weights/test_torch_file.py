"""Reading PyTorch files: written here by hand, instruction by instruction.

tests/peers/test_inception.py reads what PyTorch itself writes.
"""

import copy
import io
import os
import pickle
import struct
import time
import zipfile

import numpy as np
import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.weights.torch_file import read_tensors

# --- The instructions of protocol 2, which the standard library documents -------------


def text(word):
    return b"X" + struct.pack("<I", len(word)) + word.encode()


def number(value):
    return b"J" + struct.pack("<i", value)


def numbers(values):
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(key, count, offset, shape, strides, kind="FloatStorage", legacy=False):
    """The call of _rebuild_tensor_v2 with a storage and empty hooks."""
    storage = (
        b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu")
    )
    storage += number(count) + (b"N" if legacy else b"") + b"tQ"
    hooks = b"ccollections\nOrderedDict\n)R"
    view = number(offset) + numbers(shape) + numbers(strides)
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + view
        + b"\x89"
        + hooks
        + (b"tR")
    )


def dictionary(items, attributes=b""):
    """An OrderedDict with the items set one after the other."""
    body = b"".join(text(name) + value for name, value in items.items())
    return b"\x80\x02ccollections\nOrderedDict\n)R(" + body + b"u" + attributes + b"."


def zipped(program, storages, order=b"little", method=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr("weights/data.pkl", program)
        archive.writestr("weights/byteorder", order)
        archive.writestr("weights/version", b"3\n")
        for key, values in storages.items():
            archive.writestr(f"weights/data/{key}", values.tobytes())
    return stream.getvalue()


def legacy(program, storages, little_endian=True, version=1001):
    machine = {
        "protocol_version": 1001,
        "little_endian": little_endian,
        "type_sizes": {"short": 2, "int": 4, "long": 4},
    }
    heads = [0x1950A86A20F9469CFC6C, version, machine]
    data = b"".join(pickle.dumps(head, 2) for head in heads) + program
    data += pickle.dumps(list(storages), 2)
    for values in storages.values():
        data += struct.pack("<q", len(values)) + values.tobytes()
    return data


GRID = np.arange(12, dtype="<f4") + 0.5
COUNTS = np.array([7, -3], "<i8")
STORAGES = {"0": GRID, "1": COUNTS}


def items(**more):
    return {
        "whole": tensor("0", 12, 0, (3, 4), (4, 1), **more),
        "turned": tensor("0", 12, 0, (4, 3), (1, 4), **more),
        "part": tensor("0", 12, 5, (2, 2), (4, 2), **more),
        "spread": tensor("0", 12, 2, (3,), (0,), **more),
        "alone": tensor("0", 12, 11, (), (), **more),
        "none": tensor("0", 12, 0, (0, 3), (3, 1), **more),
        "counts": tensor("1", 2, 0, (2,), (1,), "LongStorage", **more),
    }


CONTAINERS = {"zip": zipped, "legacy": legacy}


def program_for(container):
    return dictionary(items(legacy=container == "legacy"))


@pytest.fixture(params=CONTAINERS)
def container(request):
    return request.param


@pytest.fixture
def read(tmp_path):
    def read(data):
        path = tmp_path / "weights.pth"
        path.write_bytes(data)
        return read_tensors(path)

    return read


def refuse(read, data, match):
    with pytest.raises(UserError, match=match) as caught:
        read(data)
    assert "\n" not in str(caught.value)


# --- What is read ---------------------------------------------------------------------


def test_tensors_by_name(read, container):
    found = read(CONTAINERS[container](program_for(container), STORAGES))
    grid = GRID.reshape(3, 4)
    expected = {
        "whole": grid,
        "turned": grid.T,
        "part": [[5.5, 7.5], [9.5, 11.5]],
        "spread": [2.5, 2.5, 2.5],
        "alone": 11.5,
        "none": np.empty((0, 3)),
        "counts": [7, -3],
    }
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
        assert not found[name].flags.writeable
    assert found["whole"].dtype == np.float32 and found["counts"].dtype == np.int64
    assert np.shares_memory(found["whole"], found["turned"])


def test_attributes_of_the_dictionary_are_passed_over(read, container):
    """PyTorch keeps the versions of modules there: {"_metadata": {...}}."""
    attributes = b"}" + text("_metadata") + b"}" + b"sb"
    one = {"a": items(legacy=container == "legacy")["part"]}
    data = CONTAINERS[container](dictionary(one, attributes), {"0": GRID})
    np.testing.assert_array_equal(read(data)["a"], [[5.5, 7.5], [9.5, 11.5]])


# --- What is refused ------------------------------------------------------------------


class Touch:
    """Unpickled, it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_code_in_a_pickle_is_refused_and_not_run(read, container, tmp_path, protocol):
    mark = tmp_path / "mark"
    pickled = pickle.dumps({"a": Touch(mark)}, protocol)
    name = r"(posix|nt)\.system|instruction (PUT|DICT)"
    refuse(read, CONTAINERS[container](pickled, STORAGES), name)
    assert not mark.exists()
    pickle.loads(pickled)  # it does make the file where it is run
    assert mark.exists()


@pytest.mark.parametrize("place", [1, 2, 4])
def test_code_in_the_other_pickles_is_refused(read, tmp_path, place):
    mark = tmp_path / "mark"
    parts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, None, ["0", "1"]]
    data = b""
    for position, part in enumerate(parts):
        bad = pickle.dumps(Touch(mark), 2)
        good = pickle.dumps(part, 2) if part is not None else program_for("legacy")
        data += bad if position == place else good
    refuse(read, data, r"\.system")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("program", "match"),
    [
        (b"\x80\x02]q\x00.", "something else than a dictionary"),
        (dictionary({"epoch": number(3)}), "'epoch', which is not a tensor"),
        (dictionary({"a": b"ctorch.nn\nLinear\n)R"}), "call of torch.nn.Linear"),
        (dictionary({"a": b"cbuiltins\neval\n)R"}), "call of builtins.eval"),
        (dictionary({"a": b"ctorch\nFloatStorage\n)R"}), "not a function"),
        (dictionary({"a": b"(i__main__\nName\n"}), "instruction INST"),
        (dictionary({"a": b")\x81"}), "instruction NEWOBJ"),
        (dictionary({"a": tensor("0", 12, 9, (4,), (1,))}), "beyond its storage"),
        (dictionary({"a": tensor("0", 99, 0, (4,), (1,))}), "beyond its storage"),
        (dictionary({"a": tensor("0", 12, 0, (4,), (-1,))}), "are no numbers"),
        (dictionary({"a": tensor("0", 12, -4, (4,), (1,))}), "are no numbers"),
        (dictionary({"a": tensor("7", 12, 0, (4,), (1,))}), "damaged .*7"),
        (dictionary({"a": tensor("0", 6, 0, (4,), (1,), "Strange")}), "torch.Strange"),
        (b"\x80\x02R.", "takes more than it has put down"),
        (b"\x80\x02uu.", "takes more than it has put down"),
        (b"\x80\x02h\x05.", "damaged"),
    ],
)
def test_other_programs_are_refused(read, program, match):
    refuse(read, zipped(program, STORAGES), match)


def test_other_layouts_are_refused(read):
    program = program_for("zip")
    refuse(read, zipped(program, STORAGES, order=b"big"), "large end first")
    refuse(read, zipped(program, STORAGES, method=zipfile.ZIP_DEFLATED), "compressed")
    program = program_for("legacy")
    refuse(read, legacy(program, STORAGES, little_endian=False), "large end first")
    refuse(read, legacy(program, STORAGES, version=1002), "version 1002")
    refuse(read, pickle.dumps({}), "not a PyTorch file")


def test_parts_that_overlap_are_refused(read):
    """One part under a thousand names would be read a thousand times."""
    large = {**STORAGES, "0": np.zeros(10_000, "<f4")}
    stream = io.BytesIO(zipped(program_for("zip"), large))
    with zipfile.ZipFile(stream, "a") as archive:
        whole = archive.getinfo("weights/data/0")
        for number in range(1000):
            again = copy.copy(whole)
            again.filename = f"weights/data/0{number}"
            archive.filelist.append(again)
        archive.writestr("weights/more", b"")  # so that the directory is written
    refuse(read, stream.getvalue(), "parts that overlap")


# --- Small files that would take all time or memory -----------------------------------

DEEP = b"N" + b"\x85" * 100_000  # ((((None,),),),)
# Each tuple holds the one before twice: of 2^60 parts, were they written out.
TWICE = b"Nq\x00" + b"h\x00\x86q\x00" * 60


def made_of(values, call=b""):
    """A pickle of a dictionary with one item, made of some values and a call."""
    return b"\x80\x02}" + text("a") + values + call + b"s."


@pytest.mark.parametrize(
    ("program", "match"),
    [
        # As a name they would be hashed, in a message printed, as a version compared.
        (b"\x80\x02}" + DEEP + b"Ns.", "a name that is not a text"),
        (b"\x80\x02}" + TWICE + b"Ns.", "a name that is not a text"),
        (b"\x80\x02}" + b"(" + DEEP + b"Nu.", "a name that is not a text"),
        (made_of(TWICE), "'a', which is not a tensor|damaged"),
        (made_of(DEEP), "'a', which is not a tensor|damaged"),
        (made_of(TWICE + text("name"), b"\x93"), "a name that is not a text"),
        (made_of(text("name") + TWICE, b"\x93"), "a name that is not a text"),
        (made_of(b"ctorch\x1b[2J\nname\n"), r"call of 'torch\\x1b\[2J.name'"),
        (made_of(b"c" + b"m" * 10_000 + b"\nname\n"), "call of m{100},"),
        (b"\x80\x02}" + text("n" * 5000) + b"Ns.", "a name of 5000 characters"),
        # A list that is copied for each byte, a tuple that is looked through for each.
        (
            b"\x80\x02](" + b"N" * 5000 + b"eq\x01ccollections\nOrderedDict\nq\x02"
            b"h\x01\x85q\x03" + b"h\x02h\x03R" * 5000 + b".",
            "damaged|repeats what it has put down|dictionary that",
        ),
        (
            b"\x80\x02(" + b"N" * 5000 + b"tq\x01ctorch._utils\n_rebuild_parameter\n"
            b"q\x02" + b"h\x02h\x01R" * 5000 + b".",
            "repeats what it has put down",
        ),
        (
            b"\x80\x02(" + b"N" * 5000 + b"tq\x01" + b"h\x01Q" * 5000 + b".",
            "not a storage of numbers",
        ),
        (dictionary({"a": tensor("0", 12, 0, (1,) * 65, (1,) * 65)}), "65 dimensions"),
    ],
)
def test_a_small_file_takes_little_time(read, container, program, match):
    began = time.perf_counter()
    refuse(read, CONTAINERS[container](program, STORAGES), match)
    assert time.perf_counter() - began < 20, "it is counted, not awaited"


def test_a_small_file_takes_little_memory(read, container):
    """A stride of zero lays one number over as many places as a shape has."""
    old = container == "legacy"
    for shape in ((10**9,), (10**5, 10**5), (13,)):
        item = {"a": tensor("0", 12, 0, shape, (0,) * len(shape), legacy=old)}
        data = CONTAINERS[container](dictionary(item), {"0": GRID})
        refuse(read, data, "more numbers than its storage")


@pytest.mark.parametrize("code", [b"\x8d", b"\x8e", b"\x96"])
def test_a_length_that_is_only_claimed_takes_no_memory(read, container, code):
    """BINUNICODE8, BINBYTES8 and BYTEARRAY8 have lengths of eight bytes."""
    program = b"\x80\x04" + code + struct.pack("<Q", 2**62) + b"x."
    refuse(read, CONTAINERS[container](program, STORAGES), "damaged|instruction")


def test_a_version_of_endless_parts_is_not_printed(read):
    head = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    refuse(read, head + b"\x80\x02" + TWICE + b"." + b"\x80\x02}." * 3, "unknown")


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # to open it would take for ever
    for name in ("pipe", "absent", "."):
        with pytest.raises(UserError, match="is not a file"):
            read_tensors(tmp_path / name)


def test_every_beginning_of_a_file_is_refused(read, container):
    data = CONTAINERS[container](program_for(container), STORAGES)
    for length in range(0, len(data), 7):
        refuse(read, data[:length], "cut short or damaged|not a PyTorch file")


def test_a_file_with_wrong_bytes_is_read_or_refused(read, container):
    """Whatever single byte is wrong, no other exception comes out."""
    data = CONTAINERS[container](program_for(container), STORAGES)
    rng = np.random.default_rng(0)
    refused = 0
    for place in rng.permutation(len(data))[:400]:
        wrong = bytearray(data)
        wrong[place] ^= 1 << rng.integers(8)
        try:
            read(bytes(wrong))
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 100
