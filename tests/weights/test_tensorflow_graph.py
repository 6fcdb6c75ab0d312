"""Reading TensorFlow graphs, which protobuf itself writes here."""

import bz2
import gzip
import io
import lzma
import tarfile

import numpy as np
import pytest
from tensorboardX.proto import types_pb2
from tensorboardX.proto.graph_pb2 import GraphDef

from ddpm_jax.errors import UserError
from ddpm_jax.weights import tensorflow_graph
from ddpm_jax.weights.tensorflow_graph import read_constants

KERNEL = np.random.default_rng(0).standard_normal((3, 3, 2, 4)).astype("<f4")


def graph():
    """One node for every way in which a constant is stored, and two others."""
    message = GraphDef()

    def add(name, dtype, shape=(), op="Const"):
        node = message.node.add(name=name, op=op, input=["before"], device="/cpu:0")
        node.attr["dtype"].type = dtype
        proto = node.attr["value"].tensor
        proto.dtype = dtype
        for size in shape:
            proto.tensor_shape.dim.add(size=size, name="side")
        return proto

    content = add("conv/conv2d_params", types_pb2.DT_FLOAT, KERNEL.shape)
    content.tensor_content = KERNEL.tobytes()
    add("values", types_pb2.DT_FLOAT, (2, 2)).float_val.extend([1, 2.5, -3, 4])
    add("one for all", types_pb2.DT_FLOAT, (5,)).float_val.append(0.25)
    add("last repeated", types_pb2.DT_FLOAT, (4,)).float_val.extend([1, 2])
    add("single", types_pb2.DT_DOUBLE).double_val.append(1 / 128)
    add("size", types_pb2.DT_INT32, (2,)).int_val.extend([299, -1])
    add("long", types_pb2.DT_INT64, (1,)).int64_val.append(-(2**40))
    add("nothing", types_pb2.DT_FLOAT, (0, 3))
    add("picture", types_pb2.DT_STRING).string_val.append(b"JPEG")
    add("a variable", types_pb2.DT_FLOAT, (1,), op="Variable").float_val.append(1)
    message.node.add(name="conv", op="Conv2D").attr["strides"].list.i.extend([1, 2])
    message.versions.producer = 9
    return message


EXPECTED = {
    "conv/conv2d_params": KERNEL,
    "values": np.array([[1, 2.5], [-3, 4]], np.float32),
    "one for all": np.full(5, 0.25, np.float32),
    "last repeated": np.array([1, 2, 2, 2], np.float32),
    "single": np.array(1 / 128),
    "size": np.array([299, -1], np.int32),
    "long": np.array([-(2**40)]),
    "nothing": np.empty((0, 3), np.float32),
}
DATA = graph().SerializeToString()


def archived(data, name="classify_image_graph_def.pb"):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for member, content in [("imagenet.pbtxt", b"text"), (f"{name}", data)]:
            entry = tarfile.TarInfo(member)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


@pytest.fixture
def read(tmp_path):
    def read(data):
        path = tmp_path / "graph"
        path.write_bytes(data)
        found = read_constants(path)
        assert [p.name for p in tmp_path.iterdir()] == ["graph"]  # nothing unpacked
        return found

    return read


def refuse(read, data, match):
    with pytest.raises(UserError, match=match) as caught:
        read(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [DATA, archived(DATA)], ids=["pb", "tgz"])
def test_constants_by_name(read, data):
    found = read(data)
    assert list(found) == list(EXPECTED)
    for name, values in EXPECTED.items():
        np.testing.assert_array_equal(found[name], values)
        assert found[name].dtype == values.dtype


def test_values_one_by_one(read):
    """As old writers left them, unpacked: float_val and int_val with a key for each."""

    def field(number, kind, value):
        length = bytes([len(value)]) if kind == 2 else b""
        return bytes([number << 3 | kind]) + length + value

    def node(name, dtype, values):
        shape = field(2, 2, field(2, 2, field(1, 0, b"\x02")))
        tensor = field(1, 0, bytes([dtype])) + shape + values
        attribute = field(1, 2, b"value") + field(2, 2, field(8, 2, tensor))
        return field(
            1, 2, field(1, 2, name) + field(2, 2, b"Const") + field(5, 2, attribute)
        )

    floats = np.array([1.5, -2], "<f4")
    data = node(b"f", 1, b"".join(field(5, 5, x.tobytes()) for x in floats))
    data += node(b"i", 3, field(7, 0, b"\xac\x02") + field(7, 0, b"\x05"))
    found = read(data)
    np.testing.assert_array_equal(found["f"], floats)
    np.testing.assert_array_equal(found["i"], [300, 5])


def test_files_without_a_graph(read):
    refuse(read, b"", "no constants")
    refuse(read, archived(DATA, "another.pb"), "classify_image_graph_def.pb")
    refuse(read, gzip.compress(b"no archive"), "not a TensorFlow graph")
    other = GraphDef()
    other.node.add(name="x", op="Placeholder")
    refuse(read, other.SerializeToString(), "no constants")


def test_an_archive_that_unpacks_without_end_is_refused(read, monkeypatch):
    """Bounded while it is unpacked; what is inside is tried as tar and nothing else."""
    monkeypatch.setattr(tensorflow_graph, "_LARGEST", 2**20)
    refuse(read, gzip.compress(bytes(2**21)), "unpacks to more than 1,048,576 bytes")
    refuse(read, b"\x0a" + bytes(2**20), "more than 1,048,576 bytes")

    def never(*args, **options):
        raise AssertionError("another compression was tried")

    for module in (lzma, bz2):
        monkeypatch.setattr(module, "open", never)
        monkeypatch.setattr(module, f"{module.__name__.upper()}File", never)
    refuse(read, gzip.compress(lzma.compress(bytes(2**21))), "not a TensorFlow graph")
    monkeypatch.undo()
    assert list(read(archived(DATA))) == list(EXPECTED)


def test_a_sparse_member_and_repeated_values_cannot_fill_the_memory(read):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        entry = tarfile.TarInfo("classify_image_graph_def.pb")
        entry.size = len(DATA)
        entry.pax_headers = {
            "GNU.sparse.map": f"0,{len(DATA)}",
            "GNU.sparse.size": str(2**50),
        }
        tar.addfile(entry, io.BytesIO(DATA))
    refuse(read, stream.getvalue(), "larger than the archive")
    message = GraphDef()
    for name in "ab":
        node = message.node.add(name=name, op="Const")
        proto = node.attr["value"].tensor
        proto.dtype = types_pb2.DT_FLOAT
        proto.tensor_shape.dim.add(size=2**23)
        proto.float_val.append(1.0)
    assert read(message.SerializeToString())["b"].size == 2**23
    node.attr["value"].tensor.tensor_shape.dim[0].size = 2**23 + 1
    refuse(read, message.SerializeToString(), "1 values for a tensor of shape")


def test_a_shape_that_does_not_fit_is_refused(read):
    message = graph()
    message.node[0].attr["value"].tensor.tensor_shape.dim[0].size = 4
    refuse(read, message.SerializeToString(), r"72 values for .* \[4, 3, 2, 4\]")


def test_a_file_cut_short_is_refused(read):
    for length in range(1, len(archived(DATA)) - 9, 5):
        refuse(read, archived(DATA)[:length], "cut short or damaged|no constants")
    whole = 0
    for length in range(1, len(DATA)):
        try:
            found = read(DATA[:length])
        except UserError as error:
            assert "\n" not in str(error)
        else:  # the cut is between two nodes
            whole += 1
            assert set(found) <= set(EXPECTED)
    assert whole < 20


def test_a_file_with_wrong_bytes_is_read_or_refused(read):
    """Whatever single byte is wrong, no other exception comes out."""
    rng = np.random.default_rng(0)
    for data in (DATA, archived(DATA)):
        for place in rng.permutation(len(data))[:300]:
            wrong = bytearray(data)
            wrong[place] ^= 1 << rng.integers(8)
            try:
                read(bytes(wrong))
            except UserError as error:
                assert "\n" not in str(error)
