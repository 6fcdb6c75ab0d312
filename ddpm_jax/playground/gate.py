"""Filter of HTTP requests: allowed hosts, routes and sizes.

gradio's server has more routes than the page uses, some of which fetch addresses of
the internet, and it takes a request's word for much. Before it sees one,

    host      must be a name of this machine, or one that was allowed; otherwise a site
              could give itself this machine's address (DNS rebinding)
    origin    must be the page itself: other sites' scripts are refused
    route     must be one that the page uses
    files     requested or named must lie in the page's temporary folder
    size      of a body is bounded
    events    are taken apart, and put together of what the page sends

It is plain ASGI, and does not depend on gradio's Python.
"""

import asyncio
import json
import re
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ddpm_jax.errors import UserError
from ddpm_jax.playground.scratch import make_room, own_file

MAX_UPLOAD = 32 * 2**20  # bytes of an image's file
MAX_EVENT = 8 * 2**20  # bytes of an event, which may hold a painted mask
MAX_OPEN = 256  # requests at a time
MAX_UPLOADS = 4  # of them
PATIENCE = 60.0  # seconds for a body to arrive
LOCAL = frozenset({"127.0.0.1", "localhost", "[::1]"})

# Kinds of an event's inputs.
UPLOAD, MASK, POINTS, FIELD = "upload", "mask", "points", "field"

_API = "/gradio_api"
_UPLOAD_TO = f"{_API}/upload"
_FILE = f"{_API}/file="
_EVENTS = {f"{_API}/queue/join", f"{_API}/run/predict"}
_CANCEL, _RESET = f"{_API}/cancel", f"{_API}/reset"  # sent in this order by "Stop"
_POST = {_UPLOAD_TO, *_EVENTS, _CANCEL, _RESET}
_GET = {"/", "/config", "/config/", "/theme.css", "/favicon.ico", "/robots.txt"} | {
    *(f"{_API}/{name}" for name in ("info", "queue/data", "queue/status", "app_id")),
    *(f"{_API}/{name}" for name in ("upload_progress", "startup-events", "theme.css")),
}
_GET_BELOW = ("/assets/", "/static/", "/svelte/", f"{_API}/heartbeat/")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:/@\s]+?)\.?(?::\d{1,5})?")
_WORD = re.compile(r"[\w-]{1,64}", re.ASCII)
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"same-origin"),
)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Refused(Exception):
    """A request is not answered; has the status of HTTP and a sentence."""

    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status = status


class Policy(NamedTuple):
    """What is let through.

    Attributes:
        folder: of the page's temporary files.
        events: the kinds of the inputs of each of the page's events, by its number.
        hosts: names that the page may be reached by, beside those of this machine.
    """

    folder: Path
    events: Mapping[int, tuple[str, ...]]
    hosts: frozenset[str] = frozenset()


# --- The rules ------------------------------------------------------------------------


def host_name(authority: str) -> str | None:
    """Return the name in "name" or "name:port", in lower case; None of others."""
    match = _HOST.fullmatch(authority.lower())
    return match[1] if match else None


def check_hosts(names: Iterable[str]) -> frozenset[str]:
    """Read the names that a user allows.

    Raises:
        UserError: one is not the name of a host.
    """
    allowed = set()
    for name in names:
        if host_name(name) is None or host_name(name) != name.lower().rstrip("."):
            raise UserError(
                f"--allow-host={name} is not the name of a host; give it without "
                "scheme, port and path, like --allow-host=gpu.example.org."
            )
        allowed.add(name.lower().rstrip("."))
    return frozenset(allowed)


def check_host(values: list[str], allowed: frozenset[str]) -> str:
    """Return the one Host of a request.

    Args:
        values: of its Host headers.
        allowed: names beside those of this machine.

    Raises:
        Refused: there is not one, or it is another name.
    """
    if len(values) != 1 or host_name(values[0]) not in LOCAL | allowed:
        shown = ", ".join(values)[:80] or "none"
        raise Refused(
            421,
            f"this page is not served as {shown!a}; open it as http://127.0.0.1:PORT, "
            "or start it with --allow-host=NAME.",
        )
    return values[0].lower()


def check_origin(headers: Mapping[str, str], request: str, host: str, policy: Policy):
    """Refuse requests of other sites' pages, other than to open this page.

    Args:
        headers: of the request, by names in lower case.
        request: its method and path, "GET /".
        host: from `check_host`.
        policy: for its hosts.

    Raises:
        Refused: the request is of another site.
    """
    origin = headers.get("origin")
    if origin is not None:
        try:
            authority = urlsplit(origin.lower()).netloc
        except ValueError:
            authority = ""
        same = authority == host or host_name(authority) in policy.hosts
    else:
        site = headers.get("sec-fetch-site", "none")
        opened = request == "GET /" and headers.get("sec-fetch-mode") == "navigate"
        same = site in ("none", "same-origin") or opened
    if not same:
        raise Refused(403, "this page answers to itself alone, not to other sites.")


def check_route(method: str, path: str, folder: Path) -> None:
    """Refuse routes that the page does not use, and files that are not its own.

    Raises:
        Refused: naming neither route nor file.
    """
    if method == "POST":
        known = path in _POST
    elif method not in ("GET", "HEAD"):
        raise Refused(405, "this page answers to GET, HEAD and POST.")
    elif path.startswith(_FILE):
        try:
            own_file(folder, path.removeprefix(_FILE))
        except UserError as error:
            raise Refused(403, str(error)) from error
        known = True
    else:
        known = path in _GET or path.startswith(_GET_BELOW)
    if not known or ".." in path.split("/"):
        raise Refused(404, "this page has nothing there.")


def checked_event(body: bytes, policy: Policy) -> bytes:
    """Rebuild an event of what the page sends, and of nothing else.

    Args:
        body: JSON of an event, with "fn_index", "data" and "session_hash".
        policy: for its events and its folder.

    Returns:
        JSON again. Uploads are marked as such, and their paths are inside the folder.

    Raises:
        Refused: it is not an event of the page's.
    """
    event = _object(body)
    number, session = _number(event, policy), _word(event, "session_hash")
    data, trigger = event.get("data"), event.get("trigger_id")
    kinds = policy.events[number]
    if not isinstance(data, list) or len(data) != len(kinds):
        raise Refused(422, f"data is not a list of the event's {len(kinds)} inputs.")
    rebuilt = {
        "fn_index": number,
        "session_hash": session,
        "trigger_id": trigger
        if type(trigger) is int and 0 <= trigger < 2**31
        else None,
        "data": [
            _checked_value(value, kind, policy.folder)
            for value, kind in zip(data, kinds, strict=True)
        ],
    }
    return json.dumps(rebuilt).encode()


def checked_cancel(body: bytes, policy: Policy) -> bytes:
    """Rebuild a request to stop an event.

    Args:
        body: JSON with "fn_index", "session_hash" and "event_id".
        policy: for its events.

    Returns:
        JSON again.

    Raises:
        Refused: it is something else.
    """
    event = _object(body)
    rebuilt = {name: _word(event, name) for name in ("session_hash", "event_id")}
    return json.dumps({**rebuilt, "fn_index": _number(event, policy)}).encode()


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "the request is not JSON that can be read.") from error
    if not isinstance(found, dict):
        raise Refused(422, "the request is not a JSON object.")
    return found


def _number(event: Mapping[str, Any], policy: Policy) -> int:
    number = event.get("fn_index")
    if type(number) is not int or number not in policy.events:
        raise Refused(422, "fn_index is not the number of an event of this page.")
    return number


def _word(event: Mapping[str, Any], name: str) -> str:
    word = event.get(name)
    if not isinstance(word, str) or not _WORD.fullmatch(word):
        raise Refused(422, f"{name} is not letters, digits and dashes, at most 64.")
    return word


def _is_text(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def _are_points(value: Any) -> bool:
    """Tell whether a value is a list of lists of numbers, or nothing."""
    rows = [] if value is None else value
    return isinstance(rows, list) and all(
        isinstance(row, list) and all(type(c) in (int, float) for c in row)
        for row in rows
    )


def _checked_value(value: Any, kind: str, folder: Path) -> Any:
    if value is None:
        return None
    if kind == UPLOAD and isinstance(value, dict):
        try:
            path = own_file(folder, value.get("path"))
        except UserError as error:
            raise Refused(403, str(error)) from error
        return {"path": str(path), "meta": {"_type": "gradio.FileData"}}
    if kind == MASK and isinstance(value, dict) and _is_text(value.get("mask", "")):
        return {"mask": value.get("mask", "")}
    if kind == POINTS and isinstance(value, dict) and _are_points(value.get("points")):
        return {"points": value.get("points")}
    plain = isinstance(value, int | float) or _is_text(value)
    if kind == FIELD and (
        plain or (isinstance(value, list) and all(map(_is_text, value)))
    ):
        return value
    raise Refused(422, "an input has a type that no field of the page has.")


# --- The filter -----------------------------------------------------------------------


class Gate:
    """ASGI middleware that applies the rules."""

    def __init__(self, app: Callable[..., Awaitable[None]], policy: Policy):
        self._app, self._policy = app, policy
        self._open = self._uploads = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have it answered."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        started = False

        async def guarded(message: MutableMapping[str, Any]) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                names = {name for name, _ in _HEADERS}
                kept = [
                    h for h in message.get("headers", ()) if h[0].lower() not in names
                ]
                message["headers"] = [*kept, *_HEADERS]
            await send(message)

        self._open += 1
        try:
            await self._app(scope, await self._checked(scope, receive), guarded)
        except Refused as refusal:
            await _answer(guarded, scope["path"], refusal)
        except Exception as error:
            what = f"{scope['method']} {scope['path'][:80]!a} ({type(error).__name__})"
            print(f"error: the page could not answer {what}.", file=sys.stderr)
            if not started:
                failed = Refused(500, "the page could not answer this request.")
                await _answer(guarded, scope["path"], failed)
        finally:
            self._open -= 1

    async def _checked(self, scope: Scope, receive: Receive) -> Receive:
        """Apply the rules, and return what gives the rest of the request."""
        policy, method, path = self._policy, scope["method"], scope["path"]
        pairs = [
            (n.decode("latin-1"), v.decode("latin-1")) for n, v in scope["headers"]
        ]
        headers = {name.lower(): value for name, value in pairs}
        hosts = [value for name, value in pairs if name.lower() == "host"]
        host = check_host(hosts, policy.hosts)
        check_origin(headers, f"{method} {path}", host, policy)
        check_route(method, path, policy.folder)
        if self._open > MAX_OPEN:
            raise Refused(503, "too many requests are open; close some windows.")
        if method != "POST":
            return receive
        if path == _UPLOAD_TO:
            return _replayed(await self._uploaded(headers, receive), receive)
        if not headers.get("content-type", "").startswith("application/json"):
            raise Refused(415, "the request is not application/json.")
        body = await _body(headers, receive, MAX_EVENT)
        if path in _EVENTS:
            body = checked_event(body, policy)
        elif path == _CANCEL:
            body = checked_cancel(body, policy)
        else:
            body = json.dumps({"event_id": _word(_object(body), "event_id")}).encode()
        _set_length(scope, len(body))
        return _replayed(body, receive)

    async def _uploaded(self, headers: Mapping[str, str], receive: Receive) -> bytes:
        if self._uploads >= MAX_UPLOADS:
            raise Refused(503, "other uploads are under way; try again in a moment.")
        if not headers.get("content-type", "").startswith("multipart/form-data"):
            raise Refused(415, "an upload is multipart/form-data.")
        self._uploads += 1
        try:
            # Its other parts take far less than the room added.
            body = await _body(headers, receive, MAX_UPLOAD + 2**16)
        finally:
            self._uploads -= 1
        await asyncio.to_thread(make_room, self._policy.folder)
        return body


async def _body(headers: Mapping[str, str], receive: Receive, most: int) -> bytes:
    """Read a body whole, unless it is larger than `most` bytes."""
    large = Refused(413, f"more than {most // 2**20} MiB; send less.")
    length = headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > 18 or int(length) > most:
        raise large
    parts, size = [], 0
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise Refused(400, "the request ended too early.")
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > most:
                    raise large
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError as error:
        raise Refused(408, f"the body took more than {PATIENCE:g} s.") from error


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _set_length(scope: Scope, length: int) -> None:
    kept = [
        (name, value)
        for name, value in scope["headers"]
        if name.lower() not in (b"content-length", b"transfer-encoding")
    ]
    scope["headers"] = [*kept, (b"content-length", str(length).encode())]


async def _answer(send: Send, path: str, refusal: Refused) -> None:
    """Send a sentence: as JSON where the page's script reads JSON."""
    text = str(refusal)
    if path in _POST - {_UPLOAD_TO}:
        kind, body = b"application/json", json.dumps({"detail": text, "error": text})
    else:
        kind, body = b"text/plain; charset=utf-8", text
    content = body.encode()
    headers = [(b"content-type", kind), (b"content-length", str(len(content)).encode())]
    # What is left of the body is not read, so the connection cannot be used again.
    headers.append((b"connection", b"close"))
    start = {"type": "http.response.start", "status": refusal.status}
    await send({**start, "headers": headers})
    await send({"type": "http.response.body", "body": content})
