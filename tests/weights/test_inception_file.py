"""Finding, fetching and converting weights, on a network of five small layers.

The real file is not in the tests: that its kind is read is held by
tests/peers/test_inception.py, with random numbers in the place of the published ones.
"""

import hashlib
import http.server
import pickle
import struct
import threading

import jax
import numpy as np
import pytest
from tensorboardX.proto import types_pb2
from tensorboardX.proto.graph_pb2 import GraphDef

from ddpm_jax.errors import UserError
from ddpm_jax.networks.inception import parameter_shapes
from ddpm_jax.weights import inception_file
from ddpm_jax.weights.inception_file import PYTORCH_FID, Published, load_inception
from ddpm_jax.weights.inception_weights import graph_name, torch_name

# Names in the graph and in the PyTorch file, with the kernel's shape [h, w, C, C'].
LAYERS = [
    ("conv", "Conv2d_1a_3x3", (3, 3, 3, 2)),
    ("mixed/tower_1/conv_2", "Mixed_5b.branch3x3dbl_3", (3, 3, 2, 4)),
    ("mixed_4/tower/conv_1", "Mixed_6b.branch7x7_2", (1, 7, 4, 3)),
    ("mixed_10/tower_1/mixed/conv_1", "Mixed_7c.branch3x3dbl_3b", (3, 1, 3, 5)),
]
HEAD = (5, 6)


def leaf(*shape):
    return jax.ShapeDtypeStruct(shape, np.float32)


def tree_of_shapes():
    tree = {"fc": {"kernel": leaf(*HEAD)}}
    for _, name, shape in LAYERS:
        node = tree
        for part in name.split("."):
            node = node.setdefault(part, {})
        node |= {"kernel": leaf(*shape), "scale": leaf(shape[-1])}
        node["shift"] = leaf(shape[-1])
    return tree


SHAPES = tree_of_shapes()


def constants():
    """What the graph holds: random, with variances far from one."""
    rng = np.random.default_rng(0)
    found = {}
    for name, _, shape in LAYERS:
        vectors = rng.standard_normal((3, shape[-1]))
        found[f"{name}/conv2d_params"] = rng.standard_normal(shape)
        found[f"{name}/batchnorm/gamma"] = 1 + 0.3 * vectors[0]
        found[f"{name}/batchnorm/beta"] = vectors[1]
        found[f"{name}/batchnorm/moving_mean"] = vectors[2]
        found[f"{name}/batchnorm/moving_variance"] = 10 ** rng.uniform(-4, 2, shape[-1])
    found["softmax/weights"] = rng.standard_normal(HEAD)
    found["softmax/biases"] = rng.standard_normal(HEAD[1])
    return {name: values.astype("<f4") for name, values in found.items()}


def graph_data(tensors):
    message = GraphDef()
    for name, values in tensors.items():
        node = message.node.add(name=name, op="Const")
        proto = node.attr["value"].tensor
        proto.dtype = types_pb2.DT_FLOAT
        proto.tensor_content = values.tobytes()
        for size in values.shape:
            proto.tensor_shape.dim.add(size=size)
    # The graph's own scale and the size of its pictures are no weights.
    for name, value in [("Sub/y", 128.0), ("Mul/y", 1 / 128)]:
        proto = message.node.add(name=name, op="Const").attr["value"].tensor
        proto.dtype = types_pb2.DT_FLOAT
        proto.float_val.append(value)
    return message.SerializeToString()


def as_torch(tensors):
    """The same under the names and in the layout of PyTorch: [C', C, h, w]."""
    vectors = {
        "beta": "bias",
        "gamma": "weight",
        "moving_mean": "running_mean",
        "moving_variance": "running_var",
    }
    names = {there: here for there, here, _ in LAYERS}
    found = {}
    for name, values in tensors.items():
        module, kind = name.rsplit("/", 1)
        if kind == "conv2d_params":
            found[f"{names[module]}.conv.weight"] = np.moveaxis(values, (3, 2), (0, 1))
        elif module == "softmax":
            found[f"fc.{kind[:-1].replace('biase', 'bias')}"] = values.T
        else:
            found[f"{names[module[:-10]]}.bn.{vectors[kind]}"] = values
    return found


def torch_data(tensors):
    """An older PyTorch file, instruction by instruction; see test_torch_file.py."""

    def text(word):
        return b"X" + struct.pack("<I", len(word)) + word.encode()

    def numbers(values):
        return b"(" + b"".join(b"J" + struct.pack("<i", v) for v in values) + b"t"

    program = b"\x80\x02}("
    for key, (name, values) in enumerate(tensors.items()):
        strides = [s // 4 for s in np.ascontiguousarray(values).strides]
        program += text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(("
        program += text("storage") + b"ctorch\nFloatStorage\n" + text(str(key))
        program += text("cpu") + b"J" + struct.pack("<i", values.size) + b"NtQ"
        program += b"K\x00" + numbers(values.shape) + numbers(strides)
        program += b"\x89ccollections\nOrderedDict\n)RtR"
    heads = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    data = b"".join(pickle.dumps(head, 2) for head in heads) + program + b"u."
    data += pickle.dumps([str(key) for key in range(len(tensors))], 2)
    for values in tensors.values():
        data += struct.pack("<q", values.size) + values.tobytes()
    return data


TENSORS = constants()
GRAPH, TORCH = graph_data(TENSORS), torch_data(as_torch(TENSORS))


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.delenv("DDPM_JAX_INCEPTION", raising=False)
    monkeypatch.setenv("DDPM_JAX_CACHE", str(tmp_path / "cache"))


def refuse(match, *arguments, **options):
    with pytest.raises(UserError, match=match) as caught:
        load_inception(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- Conversion -----------------------------------------------------------------------


@pytest.mark.parametrize("data", [GRAPH, TORCH], ids=["graph", "torch"])
def test_a_layer_computes_what_the_file_says(tmp_path, data):
    """gamma (x - mean) / sqrt(variance + 0.001) + beta, in float64, for some x."""
    path = tmp_path / "weights"
    path.write_bytes(data)
    params, digest = load_inception(path, SHAPES)
    assert digest == hashlib.sha256(data).hexdigest()
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, SHAPES)
    assert {x.dtype for x in jax.tree.leaves(params)} == {np.dtype("float32")}
    np.testing.assert_array_equal(params["fc"]["kernel"], TENSORS["softmax/weights"])
    for there, here, shape in LAYERS:
        layer = params
        for part in here.split("."):
            layer = layer[part]
        np.testing.assert_array_equal(
            layer["kernel"], TENSORS[f"{there}/conv2d_params"]
        )
        gamma, beta, mean, variance = (
            np.float64(TENSORS[f"{there}/batchnorm/{kind}"])
            for kind in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        x = np.linspace(-3, 2, shape[-1])
        expected = gamma * (x - mean) / np.sqrt(variance + 0.001) + beta
        found = x * layer["scale"] + layer["shift"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


# Of the graph and its port, as torch-fidelity's conversion lists them: one for every
# place of a convolution in every kind of block.
PAIRS = """
conv Conv2d_1a_3x3; conv_1 Conv2d_2a_3x3; conv_2 Conv2d_2b_3x3; conv_3 Conv2d_3b_1x1
conv_4 Conv2d_4a_3x3; mixed/conv Mixed_5b.branch1x1; mixed_2/conv Mixed_5d.branch1x1
mixed/tower/conv Mixed_5b.branch5x5_1; mixed_1/tower/conv_1 Mixed_5c.branch5x5_2
mixed/tower_1/conv Mixed_5b.branch3x3dbl_1; mixed/tower_2/conv Mixed_5b.branch_pool
mixed_2/tower_1/conv_1 Mixed_5d.branch3x3dbl_2; mixed_3/conv Mixed_6a.branch3x3
mixed_2/tower_1/conv_2 Mixed_5d.branch3x3dbl_3; mixed_4/conv Mixed_6b.branch1x1
mixed_3/tower/conv Mixed_6a.branch3x3dbl_1; mixed_3/tower/conv_1 Mixed_6a.branch3x3dbl_2
mixed_3/tower/conv_2 Mixed_6a.branch3x3dbl_3; mixed_5/tower/conv Mixed_6c.branch7x7_1
mixed_6/tower/conv_1 Mixed_6d.branch7x7_2; mixed_7/tower/conv_2 Mixed_6e.branch7x7_3
mixed_4/tower_1/conv Mixed_6b.branch7x7dbl_1
mixed_5/tower_1/conv_1 Mixed_6c.branch7x7dbl_2
mixed_6/tower_1/conv_2 Mixed_6d.branch7x7dbl_3
mixed_7/tower_1/conv_3 Mixed_6e.branch7x7dbl_4
mixed_4/tower_1/conv_4 Mixed_6b.branch7x7dbl_5
mixed_5/tower_2/conv Mixed_6c.branch_pool; mixed_8/tower/conv Mixed_7a.branch3x3_1
mixed_8/tower/conv_1 Mixed_7a.branch3x3_2; mixed_8/tower_1/conv Mixed_7a.branch7x7x3_1
mixed_8/tower_1/conv_1 Mixed_7a.branch7x7x3_2
mixed_8/tower_1/conv_2 Mixed_7a.branch7x7x3_3
mixed_8/tower_1/conv_3 Mixed_7a.branch7x7x3_4; mixed_9/conv Mixed_7b.branch1x1
mixed_9/tower/conv Mixed_7b.branch3x3_1; mixed_9/tower/mixed/conv Mixed_7b.branch3x3_2a
mixed_10/tower/mixed/conv_1 Mixed_7c.branch3x3_2b
mixed_9/tower_1/conv Mixed_7b.branch3x3dbl_1
mixed_10/tower_1/conv_1 Mixed_7c.branch3x3dbl_2
mixed_9/tower_1/mixed/conv Mixed_7b.branch3x3dbl_3a
mixed_10/tower_1/mixed/conv_1 Mixed_7c.branch3x3dbl_3b
mixed_10/tower_2/conv Mixed_7c.branch_pool
"""


def test_names_of_the_graph_and_of_the_pytorch_file():
    for pair in PAIRS.strip().replace("\n", ";").split(";"):
        node, name = pair.split()
        module = name.replace(".", "/")
        assert graph_name(module, "kernel") == f"{node}/conv2d_params"
        assert graph_name(module, "variance") == f"{node}/batchnorm/moving_variance"
        assert torch_name(module, "kernel") == f"{name}.conv.weight"
        assert torch_name(module, "beta") == f"{name}.bn.bias"
    assert torch_name("fc", "kernel") == "fc.weight"


def test_every_layer_of_the_network_has_its_own_names():
    """94 convolutions with five tensors each, and the last layer's two."""
    paths = jax.tree_util.tree_leaves_with_path(parameter_shapes())
    modules = {"/".join(key.key for key in path[:-1]) for path, _ in paths} - {"fc"}
    kinds = ("kernel", "gamma", "beta", "mean", "variance")
    for name_of in (graph_name, torch_name):
        names = {name_of(module, kind) for module in modules for kind in kinds}
        names |= {name_of("fc", "kernel"), name_of("fc", "bias")}
        assert len(names) == 94 * 5 + 2


@pytest.mark.parametrize("form", ["graph", "torch"])
def test_a_file_that_does_not_fit_is_refused_by_its_tensors(tmp_path, form):
    path = tmp_path / "weights"

    def write(change):
        tensors = dict(TENSORS) if form == "graph" else as_torch(TENSORS)
        change(tensors)
        data = graph_data(tensors) if form == "graph" else torch_data(tensors)
        path.write_bytes(data)

    last = "softmax/weights" if form == "graph" else "fc.weight"
    write(lambda tensors: tensors.pop(last))
    refuse(f"missing: {last}; ", path, SHAPES)
    write(lambda tensors: tensors.update({"AuxLogits": np.zeros((2, 2), "<f4")}))
    refuse("not known: AuxLogits; ", path, SHAPES)
    write(lambda tensors: tensors.update({last: np.zeros((6, 7), "<f4")}))
    refuse(rf"{last} has shape \[6, 7\]", path, SHAPES)
    write(lambda tensors: tensors.update({last: np.zeros(30, "<f4")}))
    refuse(rf"{last} has shape \[30\]", path, SHAPES)
    write(lambda tensors: tensors.update({last: tensors[last] * np.float32("nan")}))
    refuse(f"{last} is not finite", path, SHAPES)


def test_counts_of_training_steps_are_no_weights(tmp_path):
    tensors = as_torch(TENSORS)
    tensors["Conv2d_1a_3x3.bn.num_batches_tracked"] = np.zeros(1, "<f4")
    path = tmp_path / "weights.pth"
    path.write_bytes(torch_data(tensors))
    load_inception(path, SHAPES)


# --- Where the file is found ----------------------------------------------------------


class Server(http.server.BaseHTTPRequestHandler):
    """Sends what the test has put into `answer`."""

    answer: tuple[int, bytes, int]
    asked = 0

    def do_GET(self):
        status, data, length = type(self).answer
        type(self).asked += 1
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    """A class whose `answer` is sent, and what is published at its address."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    handler = type("Handler", (Server,), {"answer": (200, TORCH, len(TORCH))})
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,)).start()
        url = f"http://127.0.0.1:{running.server_port}/folder/weights.pth"
        digest = hashlib.sha256(TORCH).hexdigest()
        yield handler, Published(url, len(TORCH), digest)
        running.shutdown()


def test_the_file_is_fetched_once_and_kept(server, tmp_path):
    handler, published = server
    first, digest = load_inception(None, SHAPES, published=published)
    second, again = load_inception(None, SHAPES, published=published)
    assert handler.asked == 1
    assert digest == again == published.sha256
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["weights.pth"]
    assert (tmp_path / "cache" / "weights.pth").read_bytes() == TORCH


WRONG = TORCH[:-1] + bytes([TORCH[-1] ^ 1])


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        ((200, WRONG, len(WRONG)), "nothing was kept"),
        ((200, TORCH + b"more", len(TORCH) + 4), "nothing was kept"),
        ((200, TORCH[:-9], len(TORCH)), "nothing was kept"),
        ((404, b"", 0), r"cannot fetch .*\(Not Found\)"),
    ],
    ids=["another file", "longer", "cut short", "not there"],
)
def test_a_wrong_answer_leaves_nothing_behind(server, tmp_path, answer, match):
    handler, published = server
    handler.answer = answer
    message = refuse(match, None, SHAPES, published=published)
    assert published.url in message
    assert list((tmp_path / "cache").iterdir()) == []
    handler.answer = (200, TORCH, len(TORCH))  # and the next run fetches it
    load_inception(None, SHAPES, published=published)


def test_without_file_and_network_it_says_what_to_put_where(server, tmp_path):
    _, published = server
    closed = published._replace(url="http://127.0.0.1:9/folder/weights.pth")
    message = refuse("cannot fetch", None, SHAPES, published=closed)
    for part in (
        "http://127.0.0.1:9/folder/weights.pth",
        "put weights.pth from there at " + str(tmp_path / "cache" / "weights.pth"),
        "--config.evaluate.weights",
        "$DDPM_JAX_INCEPTION",
    ):
        assert part in message


def test_a_damaged_cached_file_is_refused_and_kept(server, tmp_path):
    handler, published = server
    path = tmp_path / "cache" / "weights.pth"
    path.parent.mkdir()
    path.write_bytes(TORCH[:-9])
    refuse("is damaged: .*; delete it", None, SHAPES, published=published)
    assert path.read_bytes() == TORCH[:-9] and handler.asked == 0


def test_the_given_file_comes_before_the_environments(server, tmp_path, monkeypatch):
    handler, published = server
    ours, theirs = tmp_path / "graph.bin", tmp_path / "other.bin"
    ours.write_bytes(GRAPH)
    theirs.write_bytes(TORCH)
    monkeypatch.setenv("DDPM_JAX_INCEPTION", str(theirs))
    digests = [load_inception(path, SHAPES)[1] for path in (ours, None)]
    assert digests == [hashlib.sha256(data).hexdigest() for data in (GRAPH, TORCH)]
    refuse("no file .*absent", tmp_path / "absent", SHAPES, published=published)
    monkeypatch.setenv("DDPM_JAX_INCEPTION", str(tmp_path / "absent"))
    refuse("no file .*absent", None, SHAPES, published=published)
    assert handler.asked == 0


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (TORCH[:-9], "cut short or damaged"),
        (GRAPH[:-9], "cut short or damaged"),
        (b"<html>Not found</html>", "neither a PyTorch file nor a TensorFlow"),
        (b"", "neither a PyTorch file nor a TensorFlow"),
    ],
)
def test_a_given_file_that_is_damaged(tmp_path, data, match):
    path = tmp_path / "weights"
    path.write_bytes(data)
    message = refuse(match, path, SHAPES)
    assert str(path) in message


def test_a_cache_that_cannot_be_written(server, tmp_path, monkeypatch):
    _, published = server
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DDPM_JAX_CACHE", str(tmp_path / "file" / "cache"))
    refuse("cannot write .*DDPM_JAX_CACHE", None, SHAPES, published=published)


def test_only_the_published_file_has_the_published_name():
    """pytorch-fid's file name ends in the first eight digits of its SHA-256."""
    assert PYTORCH_FID.file_name == "pt_inception-2015-12-05-6726825d.pth"
    assert PYTORCH_FID.sha256.startswith("6726825d") and len(PYTORCH_FID.sha256) == 64
    assert inception_file.name_of(PYTORCH_FID.sha256) == "inception-2015-12-05"
    assert inception_file.name_of("0123456789abcdef" * 4) == "inception-01234567"
