"""Clients' connections: a subclass of uvicorn's httptools protocol that serves model requests by callbacks.

Each message is assembled here, whole, whoever serves it: `POST` on a hot path becomes an `Exchange`; anything else is
handed to uvicorn one message at a time and reaches the FastAPI app. So both kinds can alternate on one connection,
pipelined or not, under one set of limits: head and body deadlines, size, and a keep-alive clock.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import msgspec
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.core import errors
from gateway.core.errors import (
    BadRequest,
    GatewayError,
    TooLarge,
    TooSlow,
    Unauthenticated,
    Unavailable,
    UnsupportedEncoding,
)
from gateway.core.signals import Hints
from gateway.core.types import EMPTY, Tenant
from gateway.proxy.clocks import NEVER, Timed
from gateway.proxy.exchange import Exchange
from gateway.proxy.framing import Chunked, FramingError
from gateway.proxy.heads import MAX_HEAD, HeadError, Headers, RequestHead, parse_request

if TYPE_CHECKING:
    from gateway.proxy.runtime import Runtime, Serving

HOT_PATHS = frozenset({b"/v1/chat/completions"})
#: A client that takes nothing for this long while bytes wait for it is gone.
WRITE_STALL_S = 60.0
_KEY = re.compile(rb"[A-Za-z0-9_.\-]{8,256}")
_ANONYMOUS = Tenant(key="anonymous", explain=True)

# What the connection is doing. A message is assembled in HEAD and BODY, then served in HOT or COLD.
_HEAD, _BODY, _HOT, _COLD, _CLOSED = range(5)


class Asked(msgspec.Struct, frozen=True):
    """What a request's head says: who asks, with what hints. Kept while a connection repeats its head."""

    serving: Serving
    hot: bool
    keep_alive: bool
    http_1_0: bool
    expect_continue: bool
    tenant: Tenant
    hints: Hints
    headers: Mapping[str, str]  # lower-case names, for `headers.<name>` in policies; without credentials
    error: GatewayError | None = None  # answered once the message has been read


def authenticate(serving: Serving, headers: dict[bytes, bytes], now: float) -> Tenant:
    """Whose key a request carries. Raises Unauthenticated; says the same for a wrong, malformed or expired key."""
    keys = serving.site.keys
    if not keys:
        return _ANONYMOUS
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    if not key:
        raise Unauthenticated("invalid_api_key", "No API key was given: send 'Authorization: Bearer <key>'.")
    if scheme.lower() == b"bearer" and _KEY.fullmatch(key):
        # The table is keyed by the hash, so what a comparison could leak by its timing is a hash, not a key.
        entry = keys.get(hashlib.sha256(key).digest())
        if entry is not None and not entry.expired(now):
            return entry.tenant
    raise Unauthenticated("invalid_api_key", "The API key is not valid.")


class ClientConnection(Timed, HttpToolsProtocol):
    """One client's connection."""

    def __init__(self, runtime: Runtime, config: Config, server_state: ServerState, app_state: dict[str, Any]) -> None:
        Timed.__init__(self)
        HttpToolsProtocol.__init__(self, config, server_state, app_state, runtime.loop)
        self.runtime = runtime
        self._outbox = runtime.outbox
        self._state = _HEAD
        self._pending = b""  # bytes not looked at yet
        self._begun = False  # part of a head has come
        self._head = b""  # raw head of the message being assembled
        self._asked: Asked = None  # type: ignore[assignment]  # until a head was read
        self._body: list[bytes] = []
        self._held = 0  # body bytes of this message counted in runtime.buffered
        self._left = 0
        self._chunked: Chunked | None = None
        self._body_since = 0.0
        self._exchange: Exchange | None = None
        self._stalled = False
        self._total_due = NEVER
        # The last head, split around the digits of its Content-Length: SDKs repeat all the rest on a connection.
        self._before = b""
        self._after = b""
        self._known: Asked | None = None

    # -- asyncio --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's callback."""
        HttpToolsProtocol.connection_made(self, cast("asyncio.Transport", transport))
        runtime = self.runtime
        if len(self.connections) > runtime.serving.site.limits.max_connections:
            self._reject(Unavailable("overloaded", "Too many connections.", retry_after_s=1))
            return
        runtime.wheel.arm(self, runtime.serving.site.limits.keep_alive_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's callback: whatever was under way for this client ends."""
        self._state = _CLOSED
        self.due = NEVER
        self._unhold()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_gone()
        HttpToolsProtocol.connection_lost(self, exc)

    def data_received(self, data: bytes) -> None:
        """asyncio's callback: assemble messages; while one is being served, what follows waits unread."""
        state = self._state
        if state == _HEAD:
            if self._pending:
                data = self._pending + data
                self._pending = b""
            self._feed_head(data)
        elif state == _BODY:
            self._feed_body(data)
        elif state != _CLOSED:
            self._pending += data
            if len(self._pending) > MAX_HEAD:
                self.flow.pause_reading()

    def pause_writing(self) -> None:
        """asyncio's callback: the client reads more slowly than the upstream sends."""
        HttpToolsProtocol.pause_writing(self)
        exchange = self._exchange
        if exchange is not None:
            self._stalled = True
            exchange.pause()
            self.runtime.wheel.arm(self, min(WRITE_STALL_S, max(self._total_due - self.runtime.wheel.now, 0.0)))

    def resume_writing(self) -> None:
        """asyncio's callback: the client has caught up."""
        HttpToolsProtocol.resume_writing(self)
        self._stalled = False
        exchange = self._exchange
        if exchange is not None:
            self.due = self._total_due
            exchange.resume()

    # -- assembling a message --

    def _feed_head(self, data: bytes) -> None:
        known = self._known
        if known is not None and data.startswith(self._before) and known.serving is self.runtime.serving:
            at = len(self._before)
            end = data.find(b"\r", at, at + 16)
            digits = data[at:end]
            if end > at and digits.isdigit() and data.startswith(self._after, end):
                self._asked = known
                self._take_length(int(digits), data, end + len(self._after))
                return
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > MAX_HEAD:
                self._reject(BadRequest("bad_request", "The request head is too large."))
            elif data in (b"\r", b"\r\n"):
                self._pending = b""  # RFC 9112 2.2: an empty line before a request is to be ignored
            else:
                if not self._begun:  # the deadline of a half-sent head runs from its first byte
                    self._begun = True
                    self.runtime.wheel.arm(self, self._head_s)
                self._pending = data
            return
        if data.startswith(b"\r\n"):
            self._feed_head(data[2:])
            return
        end += 4
        if end > MAX_HEAD:
            self._reject(BadRequest("bad_request", "The request head is too large."))
            return
        raw = data[:end]
        try:
            head = parse_request(raw)
        except HeadError:
            self._reject(BadRequest("bad_request", "The request is not valid HTTP/1.1."))
            return
        self._asked = asked = self._read_head(head)
        self._head = raw
        if head.length is None:
            self._take_chunked(data[end:])
            return
        if asked.hot and asked.error is None and not asked.expect_continue:
            self._remember(raw, asked)
        self._take_length(head.length, data, end)

    @property
    def _head_s(self) -> float:
        return float(self.runtime.serving.site.limits.request_head_s)

    def _remember(self, raw: bytes, asked: Asked) -> None:
        """Keep this head, split around its Content-Length, to recognise the next one by two comparisons."""
        at = raw.find(b"\r\nContent-Length:")
        if at < 0:
            at = raw.lower().find(b"\r\ncontent-length:")
        start = at + 17
        while raw[start : start + 1] == b" ":
            start += 1
        end = raw.find(b"\r", start)
        if at < 0 or not raw[start:end].isdigit():
            self._known = None
            return
        self._before, self._after, self._known = raw[:start], raw[end:], asked

    def _read_head(self, head: RequestHead) -> Asked:
        serving = self.runtime.serving
        hot = head.method == b"POST" and head.url.partition(b"?")[0] in HOT_PATHS
        headers: Mapping[str, str] = EMPTY
        error: GatewayError | None = None
        tenant, hints = _ANONYMOUS, _NO_HINTS
        if hot:
            try:
                raw = head.headers
                tenant = authenticate(serving, raw, self.runtime.wall())
                headers = Headers(raw)
                if b"x-pointsman-" in b"\n".join(raw):
                    hints = Hints.parse(headers)
                if raw.get(b"content-encoding", b"identity").lower() != b"identity":
                    raise UnsupportedEncoding("unsupported_encoding", "Send the request body without Content-Encoding.")
                if self.runtime.draining:
                    raise Unavailable("draining", "The gateway is shutting down.", retry_after_s=1)
            except GatewayError as exc:
                error = exc
        keep = head.keep_alive and not self.runtime.draining
        return Asked(serving, hot, keep, head.http_1_0, head.expect_continue, tenant, hints, headers, error)

    def _take_length(self, length: int, data: bytes, at: int) -> None:
        """Begin a body of known length, whose first bytes may already be in `data` from `at` on."""
        stop = at + length
        have = len(data)
        if have == stop:  # the whole message in one read, nothing behind it: the common case
            self._serve(data[at:])
            return
        if have > stop:
            self._pending = data[stop:]
            self._serve(data[at:stop])
            return
        if not self._may_hold(length):
            return
        self._left = length
        self._chunked = None
        self._begin_body(data[at:])

    def _take_chunked(self, data: bytes) -> None:
        self._chunked = Chunked()
        self._left = 0
        self._begin_body(data)

    def _begin_body(self, data: bytes) -> None:
        asked = self._asked
        if asked.error is not None and (asked.expect_continue or self._left > MAX_HEAD or self._chunked is not None):
            self._reject(asked.error)  # refused without reading what would be a large or unbounded body
            return
        self._state = _BODY
        self._body = []
        self._body_since = self.runtime.wheel.now
        self.runtime.wheel.arm(self, self._head_s)
        if asked.expect_continue:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if data:
            self._feed_body(data)

    def _feed_body(self, data: bytes) -> None:
        chunked = self._chunked
        if chunked is None:
            here = len(data)
            if here > self._left:
                self._pending = data[self._left :]
                data = data[: self._left]
                here = self._left
            self._left -= here
            self._body.append(data)
            done = not self._left
        else:
            try:
                payload = chunked.feed(data)
            except FramingError:
                self._reject(BadRequest("bad_request", "The request body is not valid chunked coding."))
                return
            if payload:
                self._body.append(payload)
                if not self._may_hold(len(payload)):
                    return
            done = chunked.done
            self._pending = chunked.rest
        if done:
            body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
            self._body = []
            self._serve(body)

    def _may_hold(self, count: int) -> bool:
        """Account for body bytes about to be held; refuses what is over a limit."""
        limits = self.runtime.serving.site.limits
        self._held += count
        self.runtime.buffered += count
        if self._held > limits.max_body:
            self._reject(TooLarge("request_too_large", f"The request body is larger than {limits.max_body} bytes."))
            return False
        if self.runtime.buffered > limits.max_buffered:
            self._reject(Unavailable("overloaded", "Too much request data is being uploaded.", retry_after_s=1))
            return False
        return True

    def _unhold(self) -> None:
        if self._held:
            self.runtime.buffered -= self._held
            self._held = 0

    # -- serving a message --

    def _serve(self, body: bytes) -> None:
        asked = self._asked
        self.due = NEVER
        self._total_due = NEVER
        if not asked.hot:
            self._serve_cold(asked, body)
            return
        if len(body) > self.runtime.serving.site.limits.max_body:
            limit = self.runtime.serving.site.limits.max_body
            self._reject(TooLarge("request_too_large", f"The request body is larger than {limit} bytes."))
            return
        self._state = _HOT
        if asked.error is not None:
            self.runtime.refused(asked, asked.error)
            self.respond_error(asked.error, b"")
            return
        self._exchange = exchange = Exchange(self.runtime, self, asked)
        exchange.begin(body)

    def _serve_cold(self, asked: Asked, body: bytes) -> None:
        """Hand one complete message to uvicorn, which hands it to the FastAPI app."""
        self._state = _COLD
        raw = self._head
        if self._chunked is not None:
            # The app gets the body dechunked: framing was checked here, once.
            raw = _without(raw, b"transfer-encoding", b"expect") + b"content-length: %d\r\n\r\n" % len(body)
        elif asked.expect_continue:
            raw = _without(raw, b"expect") + b"\r\n"
        self._chunked = None
        HttpToolsProtocol.data_received(self, raw + body)

    def on_response_complete(self) -> None:
        """uvicorn's callback: the app's answer has been written; the next message may be assembled."""
        HttpToolsProtocol.on_response_complete(self)
        self._unset_keepalive_if_required()  # keep-alive is on our clock, for hot and cold requests alike
        if self._state == _COLD:
            self._next()

    def _next(self) -> None:
        """The message is served: look at what came behind it, or wait for more."""
        self._unhold()
        self._exchange = None
        self._stalled = False
        if self._state == _CLOSED or self.transport.is_closing():
            return
        asked = self._asked
        if self.runtime.draining or asked is None or not asked.keep_alive:
            self._outbox.close(self.transport)
            return
        self._state = _HEAD
        self._begun = False
        self.runtime.wheel.arm(self, self.runtime.serving.site.limits.keep_alive_s)
        if self._pending:
            pending, self._pending = self._pending, b""
            self.flow.resume_reading()
            # From the loop, not from here: a thousand pipelined requests must not nest a thousand calls deep.
            self.runtime.loop.call_soon(self._continue, pending)

    def _continue(self, data: bytes) -> None:
        if self._state == _HEAD:
            self.data_received(data)

    # -- clocks --

    def request_clock(self, total_s: float) -> None:
        """Start the total clock of the request being served."""
        wheel = self.runtime.wheel
        wheel.arm(self, total_s)
        self._total_due = self.due

    def on_due(self, now: float) -> None:
        """A deadline passed: which one depends on what the connection is doing."""
        state = self._state
        if state == _HOT:
            exchange = self._exchange
            if self._stalled and now < self._total_due:
                self.transport.abort()
            elif exchange is not None:
                exchange.out_of_time()
        elif state == _BODY:
            got = sum(map(len, self._body))
            rate = self.runtime.serving.site.limits.min_upload_rate
            if now - self._body_since > self._head_s + got / rate:
                self._reject(TooSlow("request_timeout", "The request body did not arrive in time."))
            else:
                self.runtime.wheel.arm(self, 1.0)
        elif state == _HEAD:
            if self._pending:
                self._reject(TooSlow("request_timeout", "The request head did not arrive in time."))
            else:
                self.transport.close()

    def shutdown(self) -> None:
        """Close if idle; otherwise after the answer that is under way."""
        if self._state == _HEAD and not self._pending:
            self.transport.close()
        elif self._state == _COLD:
            HttpToolsProtocol.shutdown(self)

    # -- writing answers --

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        """Write a complete answer; `headers` are whole lines without length and connection."""
        if self._state == _CLOSED:
            return
        asked = self._asked
        close = b"connection: close\r\n" if asked is None or not asked.keep_alive or self.runtime.draining else b""
        self._outbox.write(
            self.transport,
            b"%b%b%bcontent-length: %d\r\n\r\n%b" % (STATUS_LINE[status], headers, close, len(body), body),
        )
        self._next()

    def respond_error(self, error: GatewayError, headers: bytes) -> None:
        """Write an error in OpenAI's shape."""
        if error.retry_after_s is not None:
            headers += b"retry-after: %d\r\n" % max(1, round(error.retry_after_s))
        if error.status == 401:
            headers += b"www-authenticate: Bearer\r\n"
        if b"x-request-id" not in headers:
            headers += b"x-request-id: %b\r\nx-pointsman-origin: gateway\r\n" % self.runtime.request_id().encode()
        self.respond(error.status, b"content-type: application/json\r\n" + headers, errors.to_openai(error))

    def _reject(self, error: GatewayError) -> None:
        """Answer and close: what comes next on this connection cannot be told apart from what came before."""
        self._unhold()
        self._body = []
        self._pending = b""
        asked = self._asked
        self.runtime.refused(asked, error)
        if self._state != _CLOSED:
            self._state = _HOT
            self._asked = None  # type: ignore[assignment]
            self._known = None
            self.respond_error(error, b"")

    def start_stream(self, headers: bytes, first: bytes) -> None:
        """Begin a streamed answer with its first bytes."""
        asked = self._asked
        close = b"" if asked.keep_alive and not self.runtime.draining else b"connection: close\r\n"
        framing = b"" if asked.http_1_0 else b"transfer-encoding: chunked\r\n"
        head = b"%bcontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n%b%b%b\r\n" % (
            b"HTTP/1.1 200 OK\r\nx-accel-buffering: no\r\n",
            headers,
            framing,
            close,
        )
        if asked.http_1_0:
            self._outbox.write(self.transport, head + first)
        elif first:
            self._outbox.write(self.transport, b"%b%x\r\n%b\r\n" % (head, len(first), first))
        else:
            self._outbox.write(self.transport, head)

    def write_raw(self, raw: bytes, payload: bytes) -> None:
        """Send on one chunk as it was framed by the upstream."""
        if self._asked.http_1_0:
            raw = payload
        self._outbox.write(self.transport, raw)

    def write_chunk(self, payload: bytes) -> None:
        """Send stream bytes."""
        if self._asked.http_1_0:
            self._outbox.write(self.transport, payload)
        else:
            self._outbox.write(self.transport, b"%x\r\n%b\r\n" % (len(payload), payload))

    def end_stream(self, tail: bytes) -> None:
        """Send the last stream bytes and end the body cleanly."""
        if self._state == _CLOSED:
            return
        if self._asked.http_1_0:
            self._outbox.write(self.transport, tail)
        elif tail:
            self._outbox.write(self.transport, b"%x\r\n%b\r\n0\r\n\r\n" % (len(tail), tail))
        else:
            self._outbox.write(self.transport, b"0\r\n\r\n")
        self._next()


_NO_HINTS = Hints.parse({})


def _without(head: bytes, *names: bytes) -> bytes:
    """The head's lines without some headers and without the final blank line."""
    lines = head[:-4].split(b"\r\n")
    kept = [line for line in lines if line.partition(b":")[0].lower() not in names]
    return b"\r\n".join(kept) + b"\r\n"
