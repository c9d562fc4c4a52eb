"""The door of the control plane: it answers health checks and scrapes itself, and loads all else when it is asked for.

FastAPI and what hangs on it take a third of a start to import and a sixth of what an idle process holds. Nothing that
a model request, a health check, Prometheus or `pointsman top` needs is among it. So the first who asks for more waits a
moment: the import runs in a thread, and streams go on meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gateway.proxy.asked import local
from gateway.proxy.vitals import look

if TYPE_CHECKING:
    from gateway.proxy.runtime import Runtime
    from gateway.reload import Reloader

logger = logging.getLogger("pointsman")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
Status = tuple[int, dict[str, Any]]

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class Page(NamedTuple):
    """An answer that needs no framework. A body in pieces is sent piece by piece: others are served in between."""

    body: bytes | Iterator[bytes]
    status: int = 200
    content_type: str = "application/json"


#: Makes the answer to one GET from its headers; None leaves it to the app, which also knows how to refuse.
Maker = Callable[[Mapping[bytes, bytes]], Page | None]


class Front:
    """An ASGI app that makes its own pages at once, and passes all else to an app that is made when first needed."""

    def __init__(self, make: Callable[[], App], pages: Mapping[str, Maker]) -> None:
        self._make = make
        self._pages = pages
        self._made: App | None = None
        self._making: asyncio.Task[App] | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request of ASGI."""
        maker = self._pages.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "GET" else None
        page = maker(headers_of(scope)) if maker is not None else None
        if page is None:
            await (await self.app())(scope, receive, send)
            return
        headers = [(b"content-type", page.content_type.encode())]
        body = page.body
        if not isinstance(body, bytes) and scope.get("http_version") == "1.0":
            body = await _whole(body)  # who speaks HTTP/1.0 would read the lengths of chunks as samples
        if isinstance(body, bytes):
            headers.append((b"content-length", str(len(body)).encode()))
            await send({"type": "http.response.start", "status": page.status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        await send({"type": "http.response.start", "status": page.status, "headers": headers})
        for piece in body:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b""})

    async def app(self) -> App:
        """The app behind, made in a thread by whoever asks first; after a failure the next one tries again."""
        if self._made is not None:
            return self._made
        if self._making is None:
            self._making = asyncio.create_task(asyncio.to_thread(self._make))
        try:
            self._made = await asyncio.shield(self._making)
        except Exception:
            if self._making is not None and self._making.done():
                self._making = None
            raise
        return self._made


async def _whole(pieces: Iterator[bytes]) -> bytes:
    """The pieces together; others are served in between."""
    body = bytearray()
    for piece in pieces:
        body += piece
        await asyncio.sleep(0)
    return bytes(body)


def headers_of(scope: Message) -> dict[bytes, bytes]:
    """Lower-case names; repeated ones joined as on the hot path, so that both see the same key or none."""
    found: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        found[name] = found[name] + b", " + value if name in found else value
    return found


def public_pages(runtime: Runtime, reloader: Reloader) -> dict[str, Maker]:
    """What the public listener answers without its app."""
    return {"/healthz": lambda _: _json(alive()), "/readyz": lambda _: _json(readiness(runtime, reloader))}


def admin_pages(runtime: Runtime, reloader: Reloader) -> dict[str, Maker]:
    """What the admin listener answers without its app."""

    def metrics(headers: Mapping[bytes, bytes]) -> Page | None:
        return scrape(runtime, headers) if admits(runtime, headers) else None

    def listed(headers: Mapping[bytes, bytes]) -> Page | None:
        return _json((200, targets(runtime))) if admits(runtime, headers) else None

    def ready(headers: Mapping[bytes, bytes]) -> Page:
        return _json(readiness(runtime, reloader, detailed=admits(runtime, headers)))

    return {"/healthz": lambda _: _json(alive()), "/readyz": ready, "/metrics": metrics, "/v1/targets": listed}


def alive() -> Status:
    """The process is alive: its event loop turns, or there would be no answer. It says nothing of targets or disks."""
    return 200, {"status": "ok"}


def readiness(runtime: Runtime, reloader: Reloader, *, detailed: bool = False) -> Status:
    """Whether traffic should come here.

    Everybody may ask on the public listener, so why the last reload failed, or the books lie still, is only told where
    `detailed`: such texts quote files and name folders.
    """
    last = reloader.last
    status = "draining" if runtime.draining else "ready" if runtime.watchdog.ready else "blocked"
    reload: dict[str, Any] = {"ok": not last.error, "at": last.at}
    body: dict[str, Any] = {"status": status, "config": runtime.serving.site.digest, "reload": reload}
    if detailed:
        reload["error"] = last.error.partition("\n")[0] or None
        body["memory_pressure"] = runtime.pressure
    if runtime.ledger is not None:
        body["ledger"] = told = runtime.ledger.state()
        if not detailed:
            told.pop("reason", None)
    if detailed and (store := runtime.gates.store.state()) is not None:
        body["store"] = store  # one that is away is no reason to send requests elsewhere: it is so for all
    sidecar = runtime.sidecar.state() if runtime.sidecar is not None else None
    if sidecar is not None:
        body["sidecar"] = sidecar["state"]
    return 200 if status == "ready" else 503, body


def admits(runtime: Runtime, headers: Mapping[bytes, bytes]) -> bool:
    """May who sent these headers use the admin listener?"""
    if runtime.serving.site.admin_key_sha256 is None:
        return local(headers)
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    return scheme.lower() == b"bearer" and runtime.serving.site.is_admin_key(key)


def scrape(runtime: Runtime, headers: Mapping[bytes, bytes]) -> Page:
    """All metrics as they are now, in OpenMetrics for who reads that (Prometheus does): it has examples, too."""
    openmetrics = takes(headers.get(b"accept", b""), b"application/openmetrics-text")
    runtime.metrics.vitals = look(runtime)
    pieces = runtime.metrics.pieces(openmetrics=openmetrics)
    return Page(pieces, content_type=OPENMETRICS_TYPE if openmetrics else METRICS_TYPE)


def takes(accept: bytes, kind: bytes) -> bool:
    """Whether an Accept header names a content type, other than to exclude it.

    >>> takes(b"application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1", b"application/openmetrics-text")
    True
    >>> takes(b"text/plain, application/openmetrics-text; q=0.00", b"application/openmetrics-text")
    False
    """
    for one in accept.lower().split(b","):
        name, *parameters = (part.strip() for part in one.split(b";"))
        if name == kind:
            weights = [part[2:] for part in parameters if part.startswith(b"q=")]
            return not weights or bool(weights[0].strip(b"0."))
    return False


def targets(runtime: Runtime) -> dict[str, Any]:
    """Every target with its state, the reason, until when, and the requests it is busy with."""
    vitals = look(runtime)
    busy = Counter[str]()
    for one in vitals.endpoints:  # targets may share an endpoint, so its connections would count for both
        busy[one.target] += one.inflight
    told: dict[str, Any] = {"data": [{**state, "inflight": busy[state["target"]]} for state in vitals.targets]}
    sidecar = runtime.sidecar.state() if runtime.sidecar is not None else None
    return told if sidecar is None else told | {"sidecar": sidecar}


def _json(told: Status) -> Page:
    status, content = told
    return Page(msgspec.json.encode(content), status)
