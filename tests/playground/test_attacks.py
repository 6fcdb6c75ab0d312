"""What a page of another site, and whoever reaches the port, can do to the playground.

`make test-playground` runs this on the real server, with requests that a browser or
curl can send. After all of them it still draws, and its terminal shows no traceback.
"""

import contextlib
import http.client
import io
import json
import os
import secrets
import signal
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image
from program import TINY_UNET
from served import ENV, PATIENCE, ROOT, serving

from ddpm_jax.playground import gate, scratch

pytest.importorskip("gradio", reason="gradio is missing")
# Long enough a chain for one job to keep the device while others wait.
RECIPE = ("schedule.num_levels=1000", "sample.num_steps=20", "sample.batch_size=64")
API = "/gradio_api"
STEPS_BEYOND = 5000  # more than the chain has: refused before anything is compiled


class Server:
    """A served playground, and requests to it as they are: nothing is normalized."""

    def __init__(self, process, address, folder):
        self.process, self.folder = process, folder
        self.host, self.port = address.removeprefix("http://").split(":")
        self.errors = []
        reader = threading.Thread(target=self._read_errors, daemon=True)
        reader.start()
        self.config = json.loads(self.ask("GET", "/config")[1])
        self.components = {part["id"]: part for part in self.config["components"]}

    def _read_errors(self):
        self.errors.extend(self.process.stderr)

    def ask(self, method, path, body=None, headers=()):
        """Send a request; return its status and the body of the answer."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def post(self, path, value, headers=()):
        body = value if isinstance(value, bytes) else json.dumps(value)
        given = {"Content-Type": "application/json", **dict(headers)}
        status, answer = self.ask("POST", f"{API}/{path}", body, given)
        return status, json.loads(answer)

    def upload(self, name, content):
        boundary = secrets.token_hex(8)
        head = (
            f"--{boundary}\r\nContent-Disposition: form-data; name=files; "
            f'filename="{name}"\r\nContent-Type: image/png\r\n\r\n'
        )
        body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
        kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        return self.ask("POST", f"{API}/upload", body, kind)

    # --- Events ---

    def element(self, component):
        part = self.components.get(component, {"props": {}})
        return part["props"].get("elem_id")

    def events(self):
        """List the events that have inputs."""
        found = self.config["dependencies"]
        return [event for event in found if event["inputs"] and event["backend_fn"]]

    def event(self, element):
        """Return the number and the inputs of the event that an element starts."""
        for event in self.events():
            if element in [self.element(target) for target, _ in event["targets"]]:
                return event["id"], event["inputs"]
        raise LookupError(element)

    def data(self, inputs, values):
        """Fill in the inputs: values by elem_id, the others as the page has them."""
        asked = []
        for component in inputs:
            name, props = self.element(component), self.components[component]["props"]
            asked.append(values[name] if name in values else props.get("value"))
        return asked

    def join(self, number, data, session=None):
        session = session or secrets.token_hex(6)
        event = {"fn_index": number, "session_hash": session, "data": data}
        return self.post("queue/join", event), session

    def result(self, session):
        """Wait for the end of the event of a session."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)
        try:
            connection.request("GET", f"{API}/queue/data?session_hash={session}")
            for line in connection.getresponse():
                if line.startswith(b"data:"):
                    message = json.loads(line[5:])
                    if message["msg"] == "process_completed":
                        return message
        finally:
            connection.close()
        raise AssertionError("the stream ended without a result")

    def run(self, element, values):
        """Run the event that an element starts to its end."""
        number, inputs = self.event(element)
        (status, answer), session = self.join(number, self.data(inputs, values))
        assert status == 200, answer
        return self.result(session)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Serve a tiny model, with a folder of its own for temporary files."""
    runs, temporary = (tmp_path_factory.mktemp(n) for n in ("runs", "temporary"))
    options = [f"--config.{option}" for option in RECIPE]
    subprocess.run(
        [
            sys.executable,
            "main.py",
            f"--config={TINY_UNET}",
            f"--workdir={runs}",
            *options,
        ],
        cwd=ROOT,
        env=ENV,
        check=True,
    )
    with serving(runs, TMPDIR=str(temporary)) as (process, address):
        yield Server(process, address, temporary)


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def digit():
    return png(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4)


def uploaded(server, name="digit.png", content=None):
    status, answer = server.upload(name, digit() if content is None else content)
    assert status == 200, answer
    (path,) = json.loads(answer)
    return path


def as_file(path, **other):
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}, **other}


def noise_and_back(server, picture):
    values = {
        "image-to-image-picture": picture,
        "image-to-image-level": 50,
        "image-to-image-steps": 5,
        "image-to-image-images": 2,
    }
    return server.run("image-to-image-go", values)


def test_an_upload_is_read(server):
    done = noise_and_back(server, as_file(uploaded(server)))
    assert done["success"], done
    assert "Done" in json.dumps(done["output"])


# --- Files of others ------------------------------------------------------------------


@pytest.fixture(scope="module")
def secret(tmp_path_factory):
    path = tmp_path_factory.mktemp("secret") / "secret.png"
    path.write_bytes(digit())
    return path


def test_no_other_file_is_read_with_or_without_the_mark(server, secret, tmp_path):
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)  # to open it would hold the one queue for ever
    upload = uploaded(server)
    paths = [secret, pipe, "/dev/zero", "/etc/passwd", "data:7", "file:/etc/passwd"]
    paths += [os.path.relpath(secret, Path.cwd()), f"{upload}/../../../../{secret}"]
    paths += ["http://127.0.0.1:1/x.png", "~/x.png", "\0", "", None]
    number, inputs = server.event("image-to-image-go")
    for path in paths:
        for picture in ({"path": path}, as_file(path), as_file(path, is_stream=True)):
            if isinstance(path, Path):
                picture["path"] = str(path)
            values = {"image-to-image-picture": picture}
            (status, answer), _ = server.join(number, server.data(inputs, values))
            assert status == 403 and "uploaded to it" in answer["detail"], path
    assert noise_and_back(server, as_file(upload))["success"], "the queue lives"


def test_no_other_file_is_served(server, secret):
    upload = uploaded(server)
    assert server.ask("GET", f"{API}/file={quote(upload)}") == (200, digit())
    tries = [secret, "/etc/passwd", "etc/passwd", "../../etc/passwd", ROOT / "main.py"]
    tries += [
        "README.md",
        f"{upload}/../../../{secret}",
        f"{upload}%00",
        "%2Fetc/passwd",
    ]
    tries += ["http://127.0.0.1:1/", "https://example.org/", "file:///etc/passwd", ""]
    tries += [
        "//etc/passwd",
        "..%2f..%2f..%2fetc%2fpasswd",
        f"{upload}%2f..%2f..%2flock",
    ]
    for path in tries:
        status, answer = server.ask("GET", f"{API}/file={path}")
        assert status in (403, 404), path
        assert b"root:" not in answer
    for path in ("/static/../../../../etc/passwd", "/assets/..%2f..%2f..%2fetc/passwd"):
        assert server.ask("GET", path)[0] == 404


def test_an_upload_stays_in_its_folder_whatever_its_name(server):
    names = [
        "../../../out.png",
        "..\\..\\out.png",
        "/etc/out.png",
        "..",
        ".",
        "x" * 3000,
    ]
    names += ["a,b.png", "file:x", "data:7", "\x01\x1b[31m.png", "%2e%2e%2fout.png"]
    names += ["lock", "\u202egnp.exe"]
    for name in names:
        status, answer = server.upload(name, digit())
        assert status in (200, 400), (name, answer)
        if status == 200:
            (path,) = json.loads(answer)
            found = Path(path).resolve()
            assert found.is_relative_to(server.folder.resolve()), name
            assert noise_and_back(server, as_file(path))["success"], name


# --- Other sites ----------------------------------------------------------------------


def test_a_page_of_another_site_gets_nothing(server):
    evil = {"Origin": "https://evil.example"}
    rebound = {"Host": f"evil.example:{server.port}"}
    event = {"fn_index": 0, "session_hash": "x", "data": []}
    for headers, wanted in ((evil, 403), (rebound, 421), ({"Origin": "null"}, 403)):
        for path in ("/", "/config", f"{API}/info", f"{API}/queue/data?session_hash=x"):
            assert server.ask("GET", path, headers=headers)[0] == wanted
        for path in ("queue/join", "upload", "cancel", "run/predict"):
            body = json.dumps(event)
            kind = {"Content-Type": "text/plain"}
            assert (
                server.ask("POST", f"{API}/{path}", body, kind | headers)[0] == wanted
            )
    preflight = {**evil, "Access-Control-Request-Method": "POST"}
    connection = http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE)
    connection.request("OPTIONS", f"{API}/queue/join", headers=preflight)
    assert connection.getresponse().getheader("Access-Control-Allow-Origin") is None
    connection.close()


def test_events_have_no_names_and_no_other_doors(server):
    named = json.loads(server.ask("GET", f"{API}/info")[1])["named_endpoints"]
    assert named == {}
    number = server.event("sample-go")[0]
    names = {e["api_name"] for e in server.config["dependencies"] if e["api_name"]}
    for name in {*map(str, names), "predict", "run", str(number)}:
        for door in ("call", "call/v2", "api"):
            kind = {"Content-Type": "application/json"}
            assert server.ask("POST", f"{API}/{door}/{name}", "{}", kind)[0] == 404
    event = {"fn_index": number, "session_hash": "x"}
    data = server.data(server.event("sample-go")[1], {})
    status, answer = server.post("run/predict", {**event, "data": data})
    assert status == 404 and "queue" in answer["detail"], "it would pass the queue by"


# --- Too much -------------------------------------------------------------------------


def test_a_huge_upload_is_refused_and_not_kept(server):
    before = {path for path in server.folder.rglob("*") if path.is_file()}
    # It is answered before all is sent, which the sender may see as a broken pipe.
    with contextlib.suppress(ConnectionError):
        status, answer = server.upload("large.png", bytes(gate.MAX_UPLOAD + 2**17))
        assert status == 413 and b"send less" in answer
    status, answer = server.upload("large.png", bytes(gate.MAX_UPLOAD + 1))
    assert status == 413
    large = [p for p in server.folder.rglob("*") if p.is_file() and p not in before]
    assert sum(path.stat().st_size for path in large) <= gate.MAX_UPLOAD


def test_an_event_has_a_limit(server):
    with contextlib.suppress(ConnectionError):
        status, answer = server.post(
            "queue/join", b'{"data": "' + b"x" * gate.MAX_EVENT
        )
        assert status == 413 and "send less" in answer["detail"]
    assert noise_and_back(server, as_file(uploaded(server)))["success"]


def bomb(side):
    """Make a PNG of side x side grey pixels, all black, of few bytes."""

    def chunk(kind, data):
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    packer = zlib.compressobj(9)
    row = bytes(side + 1)
    rows = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
    return start + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_bomb_is_refused_in_a_sentence(server):
    done = noise_and_back(server, as_file(uploaded(server, "bomb.png", bomb(20_000))))
    assert not done["success"] and "cannot read the image" in done["output"]["error"]


def test_jobs_wait_up_to_a_number_and_can_be_cancelled(server):
    number, inputs = server.event("sample-go")
    long = {"sample-sampler": "heun", "sample-steps": 1000, "sample-images": 64}
    (status, job), session = server.join(number, server.data(inputs, long))
    assert status == 200
    short = server.data(inputs, {"sample-steps": STEPS_BEYOND})
    answers = [server.join(number, short) for _ in range(80)]
    statuses = [status for (status, _), _ in answers]
    assert statuses.count(503) > 0, "the queue is bounded"
    cancel = {"session_hash": session, "fn_index": number, "event_id": job["event_id"]}
    assert server.post("cancel", cancel)[0] == 200
    for (status, _), waiting in answers:
        if status == 200:
            assert "is not in 1..T" in server.result(waiting)["output"]["error"]


# --- Crafted values -------------------------------------------------------------------

CRAFTED = [True, "7", "file:/etc/passwd", ["7"], {"path": "/etc/passwd"}, {"mask": "1"}]
CRAFTED += [float("nan"), 10**30, -1, [["7"]], "\ud800", 10**400]


def answer_of(server, event, data):
    """Send an event by the way that the page sends it; return the error, if any."""
    if not event["queue"]:
        asked = {"fn_index": event["id"], "session_hash": "abc", "data": data}
        status, answer = server.post("run/predict", asked)
        return status, answer.get("error")
    (status, answer), session = server.join(event["id"], data)
    if status != 200:
        return status, answer["detail"]
    done = server.result(session)
    return (200, None) if done["success"] else (500, done["output"]["error"])


def test_every_input_of_every_event_answers_any_value_with_a_sentence(server):
    modes = ("sample", "image-to-image", "inpaint", "interpolate")
    # What is otherwise fine is refused too, so that nothing is computed.
    beyond = {f"{mode}-steps": STEPS_BEYOND for mode in modes}
    counts = {200: 0, 403: 0, 422: 0, 500: 0}
    for event in server.events():
        for place in range(len(event["inputs"])):
            for value in CRAFTED:
                data = server.data(event["inputs"], beyond)
                data[place] = value
                status, said = answer_of(server, event, data)
                counts[status] += 1
                if status != 200:
                    known = said and said.endswith(".") and "defect" not in said
                    assert known, (event, place, value, said)
    assert min(counts.values()) > 5, counts  # each kind of answer was seen
    assert noise_and_back(server, as_file(uploaded(server)))["success"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[",
        b"null",
        b"[" * 100_000,
        b'{"fn_index": 1e999, "session_hash": "x", "data": []}',
        b'{"fn_index": ' + b"9" * 5000 + b', "session_hash": "x", "data": []}',
        b'{"fn_index": 99999, "session_hash": "x", "data": []}',
        b'{"fn_index": -1, "session_hash": "x", "data": []}',
        b'{"fn_index": 0, "session_hash": ["x"], "data": []}',
        b'{"fn_index": 0, "session_hash": "x", "data": null}',
    ],
    ids=lambda body: body[:20].decode(),
)
def test_what_is_no_event_is_refused_in_a_sentence(server, body):
    for path in ("queue/join", "run/predict"):
        status, answer = server.post(path, body)
        assert status in (400, 422) and answer["detail"].endswith(".")
    for path in ("cancel", "reset"):
        status, answer = server.post(path, body)
        assert status in (400, 422) and answer["detail"].endswith(".")


def test_no_traceback_was_written_and_the_folder_goes(server):
    """Last, for the server is killed."""
    assert server.process.poll() is None
    assert not [line for line in server.errors if "Traceback" in line], server.errors
    (left,) = server.folder.glob(f"{scratch.PREFIX}*")
    assert scratch.remove_abandoned(server.folder) == [], "its server lives"
    server.process.send_signal(signal.SIGKILL)
    server.process.wait(timeout=PATIENCE)
    assert scratch.remove_abandoned(server.folder) == [left] and not left.exists()
