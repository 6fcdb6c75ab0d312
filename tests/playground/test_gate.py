"""The filter of requests, without a server: hosts, origins, routes, sizes, events."""

import asyncio
import json
import os

import pytest

from ddpm_jax.errors import UserError
from ddpm_jax.playground import gate
from ddpm_jax.playground.gate import FIELD, MASK, UPLOAD, Gate, Policy

JOIN = "/gradio_api/queue/join"
JSON = {"content-type": "application/json"}


class App:
    """Answers 200 with the request's body, and counts its requests."""

    def __init__(self):
        self.bodies = []

    async def __call__(self, scope, receive, send):
        message = await receive()
        self.bodies.append(message["body"])
        headers = [(b"X-Frame-Options", b"ALLOWALL")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": message["body"]})


def ask(policy, path, method="GET", headers=(), body=b"", app=None, chunks=1):
    """Send one request; return (status, headers, body) of the answer."""
    app = App() if app is None else app
    given = {"host": "127.0.0.1:7860", **dict(headers)}
    pairs = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in given.items()]
    step = -(-len(body) // chunks) or 1
    parts = [body[i : i + step] for i in range(0, len(body), step)] or [b""]
    sent = []

    async def receive():
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": pairs}
    asyncio.run(Gate(app, policy)(scope, receive, send))
    start, *rest = sent
    content = b"".join(message["body"] for message in rest)
    return start["status"], dict(start["headers"]), content


@pytest.fixture
def policy(tmp_path):
    return Policy(tmp_path, {3: (FIELD, UPLOAD, MASK)})


@pytest.fixture
def upload(tmp_path):
    path = tmp_path / "gradio" / "hash" / "picture, of mine.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"pixels")
    return str(path)


# --- Who asks -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "served"),
    [
        ("127.0.0.1:7860", True),
        ("localhost:9000", True),  # a forwarded port
        ("LOCALHOST", True),
        ("localhost.:7860", True),
        ("[::1]:7860", True),
        ("evil.example:7860", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example:7860", False),
        ("evil.localhost:7860", False),
        ("user@127.0.0.1:7860", False),
        ("127.0.0.1:7860/x", False),
        ("169.254.169.254", False),
        ("0.0.0.0:7860", False),
        ("", False),
    ],
)
def test_only_names_of_this_machine_are_served(policy, host, served):
    status, _, body = ask(policy, "/", headers={"host": host})
    assert (status == 200) == served
    if not served:
        assert status == 421 and b"--allow-host=NAME" in body


def test_a_request_has_exactly_one_host():
    for values in ([], ["localhost", "localhost"], ["localhost", "evil.example"]):
        with pytest.raises(gate.Refused) as caught:
            gate.check_host(values, frozenset())
        assert caught.value.status == 421


def test_an_allowed_host_is_served_and_its_page_may_ask(policy, upload):
    policy = policy._replace(hosts=gate.check_hosts(["GPU.example.org"]))
    proxied = {"host": "gpu.example.org", "origin": "https://gpu.example.org"}
    assert ask(policy, "/", headers=proxied)[0] == 200
    passed_on = {"origin": "https://gpu.example.org:8443"}  # Host is this machine's
    assert ask(policy, "/config", headers=passed_on)[0] == 200
    other = {"host": "gpu.example.org", "origin": "https://evil.example"}
    assert ask(policy, "/config", headers=other)[0] == 403


@pytest.mark.parametrize("name", ["https://a.org", "a.org:80", "a.org/x", "", "a b"])
def test_an_allowed_host_is_a_name(name):
    with pytest.raises(UserError, match="is not the name of a host"):
        gate.check_hosts([name])


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},  # a sandboxed frame, or a file
        {"origin": "http://127.0.0.1:8000"},  # another server of this machine
        {"origin": "http://localhost:7860"},  # by another name than was asked
        {"origin": "http://[::1"},
        {"origin": ""},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"},
    ],
)
def test_other_sites_are_refused(policy, headers):
    for path, method in (("/config", "GET"), (JOIN, "POST"), ("/", "GET")):
        app = App()
        status, _, _ = ask(policy, path, method, {**JSON, **headers}, b"{}", app)
        assert status == 403 and not app.bodies


def test_a_link_on_another_site_opens_the_page_and_nothing_else(policy):
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert ask(policy, "/", headers=link)[0] == 200
    assert ask(policy, "/gradio_api/heartbeat/x", headers=link)[0] == 403


def test_no_site_can_frame_the_page_or_show_its_files(policy):
    _, headers, _ = ask(policy, "/")
    assert headers[b"x-frame-options"] == b"DENY" and b"X-Frame-Options" not in headers
    assert headers[b"content-security-policy"] == b"frame-ancestors 'none'"
    assert headers[b"cross-origin-resource-policy"] == b"same-origin"


# --- What for -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gradio_api/proxy=https://evil.example/x"),
        ("GET", "/gradio_api/file=https://evil.example/x"),
        ("GET", "/gradio_api/file=/etc/passwd"),
        ("GET", "/gradio_api/file=etc/passwd"),
        ("GET", "/gradio_api/file=../../etc/passwd"),
        ("GET", "/gradio_api/file/etc/passwd"),
        ("HEAD", "/gradio_api/file=/etc/passwd"),
        ("GET", "/static/../../../etc/passwd"),
        ("GET", "/assets/%2e%2e/../x"),
        ("GET", "/gradio_api/custom_component/1/client/component/../../x"),
        ("GET", "/monitoring/summary"),
        ("GET", "/gradio_api/openapi.json"),
        ("GET", "/gradio_api/call/run/1"),
        ("POST", "/gradio_api/call/run"),
        ("POST", "/gradio_api/run/run"),
        ("POST", "/gradio_api/api/run"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/gradio_api/vibe-edit"),
        ("POST", "/gradio_api/stream/1"),
        ("POST", "/login"),
        ("PUT", "/"),
        ("DELETE", "/config"),
        ("OPTIONS", JOIN),
    ],
)
def test_routes_that_the_page_does_not_use_are_closed(policy, method, path):
    app = App()
    assert ask(policy, path, method, JSON, b"{}", app)[0] in (403, 404, 405)
    assert not app.bodies


def test_only_files_of_the_page_are_served(policy, upload, tmp_path):
    path = "/gradio_api/file="
    assert ask(policy, path + upload)[0] == 200
    (tmp_path / "out").symlink_to("/etc/passwd")
    (tmp_path / "lock").touch()
    os.mkfifo(tmp_path / "pipe")
    beside = tmp_path.parent / f"{tmp_path.name}-of-others"
    beside.write_text("secret")
    others = (*map(tmp_path.joinpath, ("out", "lock", "pipe", "absent")), beside)
    for other in (*others, tmp_path, "", f"{upload}\0", f"/{'x' * 5000}"):
        assert ask(policy, f"{path}{other}")[0] == 403


def test_a_web_socket_is_closed(policy):
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(Gate(App(), policy)({"type": "websocket"}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


# --- How much -------------------------------------------------------------------------


@pytest.mark.parametrize("announced", [True, False], ids=["Content-Length", "chunked"])
def test_a_large_body_is_refused_before_it_is_kept(policy, monkeypatch, announced):
    monkeypatch.setattr(gate, "MAX_UPLOAD", 1000)
    kinds = {"content-type": "multipart/form-data; boundary=x"}
    for size, status in ((1000 + 2**16, 200), (1001 + 2**16, 413)):
        app, body = App(), b"x" * size
        length = {"content-length": str(size)} if announced else {}
        path = "/gradio_api/upload"
        answer = ask(policy, path, "POST", kinds | length, body, app, chunks=7)
        assert answer[0] == status
        assert app.bodies == ([body] if status == 200 else [])


@pytest.mark.parametrize("length", ["-1", "1e3", "9" * 30, "0x10", ""])
def test_a_length_that_is_no_number_is_refused(policy, length):
    headers = {**JSON, "content-length": length}
    assert ask(policy, JOIN, "POST", headers, b"{}")[0] == 413


def test_a_body_that_does_not_arrive_is_not_waited_for(policy, monkeypatch):
    monkeypatch.setattr(gate, "PATIENCE", 0.05)
    sent = []

    async def receive():
        await asyncio.sleep(3600)

    async def send(message):
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": JOIN, "headers": headers}
    asyncio.run(Gate(App(), policy)(scope, receive, send))
    assert sent[0]["status"] == 408


def test_a_failure_behind_the_gate_is_a_sentence(policy, capsys):
    async def broken(scope, receive, send):
        raise KeyError("secret")

    status, _, body = ask(policy, "/config", app=broken)
    assert status == 500 and body == b"the page could not answer this request."
    said = capsys.readouterr().err
    assert said == "error: the page could not answer GET '/config' (KeyError).\n"


# --- Events ---------------------------------------------------------------------------


def event(data, **other):
    return {"fn_index": 3, "session_hash": "abc", "data": data, **other}


def join(policy, body):
    app = App()
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, _, answer = ask(policy, JOIN, "POST", JSON, text, app)
    return status, json.loads(app.bodies[0] if app.bodies else answer)


def test_an_event_is_rebuilt_of_what_the_page_sends(policy, upload):
    picture = {"path": upload, "url": "http://evil.example/", "is_stream": True}
    mask = {"mask": "01", "picture": {"path": "/etc/passwd"}, "height": 1}
    extra = {"trigger_id": 7, "event_data": {"path": "/etc/passwd"}, "api_name": "/run"}
    status, passed = join(policy, event(["file", picture, mask], **extra))
    assert status == 200
    assert passed == {
        "fn_index": 3,
        "session_hash": "abc",
        "trigger_id": 7,
        "data": [
            "file",
            {"path": upload, "meta": {"_type": "gradio.FileData"}},
            {"mask": "01"},
        ],
    }


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "etc/passwd", "", None, 7, ["/etc/passwd"], "\0", "~/x"]
)
@pytest.mark.parametrize("marked", [True, False], ids=["marked", "without the mark"])
def test_no_other_file_is_named(policy, path, marked):
    value = {"path": path} | ({"meta": {"_type": "gradio.FileData"}} if marked else {})
    status, answer = join(policy, event(["", value, None]))
    assert status == 403 and "uploaded to it" in answer["detail"]
    for data in (
        [value, None, None],
        [[value], None, None],
        ["", None, {"mask": value}],
    ):
        status, answer = join(policy, event(data))
        assert status == 422 and "has a type that no field" in answer["detail"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff", 400),
        (b"[" * 100_000 + b"]" * 100_000, 400),
        (b'{"fn_index": ' + b"9" * 5000 + b"}", 400),
        (b"[]", 422),
        (b"null", 422),
        (event([None, None, None]) | {"fn_index": True}, 422),
        (event([None, None, None]) | {"fn_index": 4}, 422),
        (event([None, None, None]) | {"fn_index": "3"}, 422),
        (event([None, None, None]) | {"fn_index": None}, 422),
        (event([None, None, None]) | {"session_hash": None}, 422),
        (event([None, None, None]) | {"session_hash": "../x"}, 422),
        (event([None, None, None]) | {"session_hash": "x" * 65}, 422),
        (event([]), 422),
        (event([None] * 4), 422),
        (event({"0": None}), 422),
        (event(["\ud800", None, None]), 422),
        (event([["a", 1], None, None]), 422),
        (event([{}, None, None]), 422),
        (event([None, "picture.png", None]), 422),
        (event([None, None, "01"]), 422),
    ],
)
def test_what_is_no_event_of_the_page_is_refused_in_a_sentence(policy, body, status):
    got, answer = join(policy, body)
    assert got == status
    assert answer["detail"].endswith(".") and answer["error"] == answer["detail"]


def test_an_event_is_json_by_its_header_too(policy):
    """What a form of another site can send is not."""
    for kind in ("text/plain", "multipart/form-data; boundary=x", ""):
        headers = {"content-type": kind}
        body = json.dumps(event([None, None, None])).encode()
        assert ask(policy, JOIN, "POST", headers, body)[0] == 415


def test_a_request_to_stop_is_rebuilt_too(policy):
    event = {"fn_index": 3, "session_hash": "abc", "event_id": "1f-2"}
    wanted = {"cancel": event, "reset": {"event_id": "1f-2"}}
    for name, passed in wanted.items():
        app, path = App(), f"/gradio_api/{name}"
        body = json.dumps({**event, "more": {"path": "/etc/passwd"}}).encode()
        assert ask(policy, path, "POST", JSON, body, app)[0] == 200
        assert json.loads(app.bodies[0]) == passed
        for wrong in (b"[]", b"{}", b'{"event_id": ["1"]}', b'{"event_id": "a b"}'):
            assert ask(policy, path, "POST", JSON, wrong)[0] == 422
