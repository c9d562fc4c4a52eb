"""Clients' connections: a subclass of uvicorn's httptools protocol that serves model requests by callbacks.

Each message is assembled here, whole, whoever serves it: `POST` on a hot path becomes an `Exchange`; anything else is
handed to uvicorn one message at a time and reaches the FastAPI app. So both kinds can alternate on one connection,
pipelined or not, under one set of limits: head and body deadlines, size, and a keep-alive clock.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.core import errors
from gateway.core.errors import BadRequest, GatewayError, TooLarge, TooSlow
from gateway.core.request.largebody import Body
from gateway.core.request.wire import WHOLE_BYTES
from gateway.proxy import asked as asking
from gateway.proxy.asked import Asked
from gateway.proxy.bulk import OWN_PAGES_BYTES, Pages, Upload
from gateway.proxy.clocks import NEVER, Timed
from gateway.proxy.exchange import Exchange
from gateway.proxy.framing import Chunked, FramingError
from gateway.proxy.habit import Habits
from gateway.proxy.heads import MAX_HEAD, Familiar, HeadError, Headers, parse_request
from gateway.proxy.shedding import LEAST_IDLE_S

if TYPE_CHECKING:
    from gateway.proxy.runtime import Runtime

#: A client that takes nothing for this long while bytes wait for it is gone.
WRITE_STALL_S = 60.0
#: Bytes of further requests that are kept while one is served. A client that pipelines more is cut off after it.
MAX_PENDING = 1 << 20
#: How long a connection that is new when the process drains may take to send its first request.
FRESH_S = 1.0
_MAX_EMPTY_LINES = 4
_MAX_STRANGERS = 8

# What the connection is doing. A message is assembled in HEAD and BODY, then served in HOT or COLD.
_HEAD, _BODY, _HOT, _COLD, _CLOSING, _CLOSED = range(6)


class ClientConnection(Timed, HttpToolsProtocol):
    """One client's connection."""

    # With slots for what is its own, what uvicorn keeps of a connection is few enough to need no dictionary, either.
    __slots__ = (
        "_asked", "_begun", "_body", "_body_at", "_body_since", "_chunked", "_exchange", "_familiar", "_head", "_held",
        "_idle_until", "_known", "_left", "_outbox", "_overrun", "_pending", "_shedding", "_state", "_strangers",
        "habits", "runtime",
    )  # fmt: skip

    def __init__(self, runtime: Runtime, config: Config, server_state: ServerState, app_state: dict[str, Any]) -> None:
        Timed.__init__(self)
        HttpToolsProtocol.__init__(self, config, server_state, app_state, runtime.loop)
        self.runtime = runtime
        self._outbox = runtime.outbox
        self._shedding = runtime.shedding
        self._state = _HEAD
        self._pending = b""  # bytes not looked at yet
        self._overrun = False  # more came than is kept: what follows is not looked at
        self._begun = False  # part of a head has come
        self._head = b""  # raw head of the message being assembled
        self._asked: Asked = None  # type: ignore[assignment]  # until a head was read
        self._body: bytearray | Pages = (
            bytearray()
        )  # of one that comes in several reads; grows in place, so it is never there twice
        self._held = 0  # body bytes of this message counted in runtime.buffered
        # When it is closed if no request comes. Its deadline may come before, and is put off then.
        self._idle_until = NEVER
        self._left = 0
        self._chunked: Chunked | None = None
        self._body_since = 0.0
        self._body_at = 0.0  # when bytes of the body came last
        self._exchange: Exchange | None = None
        # A head that was read before: clients repeat most of theirs on a connection.
        self._familiar: Familiar | None = None
        self._known: Asked | None = None
        self.habits = Habits()  # what followed from it, and from all of the body but its messages
        self._strangers = 0  # heads that were not like it: some clients never repeat one

    # -- asyncio --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's callback."""
        HttpToolsProtocol.connection_made(self, cast("asyncio.Transport", transport))
        runtime = self.runtime
        crowded = self._shedding.crowded(runtime.wheel.now)
        if crowded is not None:
            self._reject(crowded)
            return
        self._rest(runtime.serving.site.limits.keep_alive_s)

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
        if state == _HEAD and not self.flow.write_paused:
            if self._pending:
                data = self._pending + data
                self._pending = b""
            self._feed_head(data)
        elif state == _BODY:
            self._feed_body(data)
        elif state < _CLOSING and not self._overrun:
            # Reading goes on, or we would not notice that the client has left.
            self._pending += data
            if len(self._pending) > MAX_PENDING:
                self._pending = b""
                self._overrun = True

    @property
    def paused(self) -> bool:
        """The client does not take what is sent to it."""
        return bool(self.flow.write_paused)

    def pause_writing(self) -> None:
        """asyncio's callback: the client reads more slowly than we send."""
        HttpToolsProtocol.pause_writing(self)
        wheel = self.runtime.wheel
        stall_s = WRITE_STALL_S
        if self._exchange is not None:
            self._exchange.pause()
            stall_s = min(stall_s, self._exchange.ends_at - wheel.now)
        wheel.arm(self, max(0.0, stall_s))

    def resume_writing(self) -> None:
        """asyncio's callback: the client has caught up."""
        HttpToolsProtocol.resume_writing(self)
        state = self._state
        if state == _HOT:
            self.due = NEVER
            if self._exchange is not None:
                self.due = self._exchange.ends_at
                self._exchange.resume()
        elif state == _HEAD:
            self._rest(self.runtime.serving.site.limits.keep_alive_s)
            self.runtime.loop.call_soon(self._continue)

    # -- assembling a message --

    def _feed_head(self, data: bytes) -> None:
        familiar = self._familiar
        known = self._known
        if (
            familiar is not None
            and known is not None
            and known.serving is self.runtime.serving
            and (known.expires_at == NEVER or self.runtime.wall() < known.expires_at)
        ):
            at = familiar.size
            if len(data) == familiar.whole and data[:at] == familiar.head:  # a slice costs half of `startswith`
                self._asked = known
                self._head = familiar.head
                self._chunked = None
                self._serve(data[at:])
                return
            length, at = familiar.same(data)
            if at:
                self._asked = known
                self._head = familiar.head
                self._take_length(length, data, at)
                return
            length, at = familiar.alike(data)
            if 0 < at <= self._max_head:
                self._asked = known
                self._head = data[:at]
                self._take_length(length, data, at)
                return
        else:
            familiar = None
        self._asked = None  # type: ignore[assignment]
        empty = 0
        while data.startswith(b"\r\n", empty):  # RFC 9112 2.2: empty lines before a request are to be ignored
            empty += 2
            if empty > 2 * _MAX_EMPTY_LINES:
                self._reject(BadRequest("bad_request", "The request is not valid HTTP/1.1."))
                return
        data = data[empty:]
        end = data.find(b"\r\n\r\n") + 4
        max_head = self._max_head
        if end > max_head or (end < 4 and len(data) > max_head):
            self._reject(BadRequest("bad_request", "The request head is too large."))
            return
        if end < 4:
            self._pending = data
            if data and not self._begun:  # the deadline of a half-sent head runs from its first byte
                self._begun = True
                self.runtime.wheel.arm(self, self._head_s)
            return
        raw = data[:end]
        if familiar is not None and known is not None:
            changed = familiar.length_of(raw)
            if changed is not None:
                self._asked = known
                self._head = raw
                self._take_length(changed, data, end)
                return
        try:
            head = parse_request(raw)
        except HeadError:
            self._reject(BadRequest("bad_request", "The request is not valid HTTP/1.1."))
            return
        runtime = self.runtime
        self._asked = asked = asking.read(head, runtime.serving, runtime.wall(), refusing=runtime.refusing)
        self._head = raw
        if head.length is None:
            self._take_chunked(data[end:])
            return
        if asked.hot and asked.error is None and head.plain and self._strangers < _MAX_STRANGERS:
            self._strangers += self._known is not None
            if b"content-length" in head.headers:
                self._familiar, self._known = Familiar(raw), asked
        self._take_length(head.length, data, end)

    @property
    def sent_head(self) -> bytes:
        """The head of the request being served, but for the digits of its length."""
        return self._head

    @property
    def sent_headers(self) -> Headers:
        """The headers of the request being served, for `headers.<name>` in policies; without credentials."""
        return Headers(self._head)

    @property
    def _max_head(self) -> int:
        return min(MAX_HEAD, self.runtime.serving.site.limits.max_head)

    @property
    def _head_s(self) -> float:
        return float(self.runtime.serving.site.limits.request_head_s)

    def _take_length(self, length: int, data: bytes, at: int) -> None:
        """Begin a body of known length, whose first bytes may already be in `data` from `at` on."""
        self._chunked = None
        if length > self._asked.limit:
            self._too_large()
            return
        stop = at + length
        have = len(data)
        if have == stop:  # the whole message in one read, nothing behind it: the common case
            self._serve(data[at:])
        elif have > stop:
            self._pending = data[stop:]
            self._serve(data[at:stop])
        else:
            self._left = length
            self._begin_body(data[at:])

    def _take_chunked(self, data: bytes) -> None:
        self._chunked = Chunked()
        self._left = 0
        self._begin_body(data)

    def _begin_body(self, data: bytes) -> None:
        asked = self._asked
        if asked.error is not None and (asked.expect_continue or self._left > MAX_HEAD or self._chunked is not None):
            # Refused without reading what would be a large or unbounded body.
            self._reject(self._uninvited() or asked.error)
            return
        shedding = self._shedding
        if asked.hot and len(self.runtime.exchanges) >= shedding.asks_from:
            full = shedding.refusal(asked.rank)
            if full is not None:
                self._reject(full)
                return
        self._state = _BODY
        self._body = bytearray()
        self._body_since = self.runtime.wheel.now
        self.runtime.wheel.arm(self, self._head_s)
        if asked.expect_continue:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if data:
            self._feed_body(data)

    def _feed_body(self, data: bytes) -> None:
        self._body_at = self.runtime.wheel.now
        chunked = self._chunked
        if chunked is None:
            if len(data) > self._left:
                self._pending = data[self._left :]
                data = data[: self._left]
            self._left -= len(data)
            done = not self._left
        else:
            try:
                data = chunked.feed(data)
            except FramingError:
                self._reject(BadRequest("bad_request", "The request body is not valid chunked coding."))
                return
            done = chunked.done
            self._pending = chunked.rest
        if data:
            if not self._may_hold(len(data)):
                return
            body = self._body
            if self._held > OWN_PAGES_BYTES and isinstance(body, bytearray):
                whole = self._held + self._left if chunked is None else self._asked.limit
                self._body = body = Pages.begun(body, whole)
                if isinstance(body, Pages) and chunked is None and self._left:
                    body.add(data)
                    self.transport.set_protocol(Upload(self, body, self._left, self._received))
                    return
            if isinstance(body, Pages):
                body.add(data)
            else:
                body += data
        if done:
            body, self._body = self._body, bytearray()
            if isinstance(body, Pages):
                body.end()
            self._serve(body if len(body) > WHOLE_BYTES else bytes(body))  # never changed from here on

    def _received(self, count: int) -> None:
        """So many bytes of the body came straight into its pages."""
        self._left -= count
        self._body_at = self.runtime.wheel.now
        if self._state != _BODY or not self._may_hold(count):
            self.transport.set_protocol(self)  # what still comes is nobody's
        elif not self._left:
            self.transport.set_protocol(self)
            self.runtime.loop.call_soon(self._complete)  # the transport holds the pages until this call is over

    def _complete(self) -> None:
        if self._state == _BODY and not self._left:
            self._feed_body(b"")

    def _too_large(self) -> None:
        limit = self._asked.limit
        self._reject(TooLarge("request_too_large", f"The request body is larger than {limit} bytes."))

    def _may_hold(self, count: int) -> bool:
        """Account for body bytes that have come and are held; refuses what is over a limit."""
        self._held += count
        self.runtime.buffered += count
        if self._held > self._asked.limit:
            self._too_large()
            return False
        crowded = self._shedding.upload(self._asked.rank)
        if crowded is not None:
            self._reject(crowded)
            return False
        return True

    def _unhold(self) -> None:
        if self._held:
            self.runtime.buffered -= self._held
            self._held = 0

    # -- serving a message --

    def _serve(self, body: Body) -> None:
        asked = self._asked
        if not asked.hot:
            self.due = NEVER
            self._serve_cold(asked, body)
            return
        self._state = _HOT
        if asked.error is not None:
            uninvited = self._uninvited()
            if uninvited is not None:
                self._reject(uninvited)
                return
            self.respond_error(asked.error, _of(self.runtime.refused(asked, asked.error)))
            return
        shedding = self._shedding
        if len(self.runtime.exchanges) >= shedding.asks_from and (full := shedding.refusal(asked.rank)) is not None:
            self.respond_error(full, _of(self.runtime.refused(asked, full)))
            return
        self._exchange = exchange = Exchange(self.runtime, self, asked)
        if len(body) <= WHOLE_BYTES:
            exchange.begin(body)  # type: ignore[arg-type]  # of so few bytes it is no bytearray
        else:
            self.due = NEVER
            exchange.begin_large(body)

    def _uninvited(self) -> GatewayError | None:
        """Why who comes too often without a valid key is turned away."""
        return asking.uninvited(self._head, self.runtime, self.client[0] if self.client else "")

    def _serve_cold(self, asked: Asked, body: Body) -> None:
        """Hand one complete message to uvicorn, which hands it to the FastAPI app."""
        uninvited = self._uninvited()
        if uninvited is not None:
            self._reject(uninvited)
            return
        self._state = _COLD
        raw = self._head
        if self._chunked is not None:
            # The app gets the body dechunked: framing was checked here, once.
            raw = _without(raw, b"transfer-encoding", b"expect") + b"content-length: %d\r\n\r\n" % len(body)
        elif asked.expect_continue:
            raw = _without(raw, b"expect") + b"\r\n"
        self._chunked = None
        if self.runtime.closing:
            raw = _without(raw, b"connection") + b"connection: close\r\n\r\n"
        HttpToolsProtocol.data_received(self, raw + body)

    def on_response_complete(self) -> None:
        """uvicorn's callback: the app's answer has been written; the next message may be assembled."""
        HttpToolsProtocol.on_response_complete(self)
        self._unset_keepalive_if_required()  # keep-alive is on our clock, for hot and cold requests alike
        if self._state == _COLD:
            self._next()

    def _next(self) -> None:
        """The message is served: look at what came behind it, or wait for more."""
        if self._held:
            self._unhold()
        self._exchange = None
        if self._state >= _CLOSING:
            return
        asked = self._asked
        if (
            self.runtime.closing
            or asked is None
            or not asked.keep_alive
            or self._overrun
            or self.transport.is_closing()
        ):
            self._close()
            return
        self._state = _HEAD
        self._begun = False
        wheel = self.runtime.wheel
        self._idle_until = until = wheel.soon + asked.keep_alive_s
        if self.due > until:  # seldom: most requests end long before the clock that ran when they came
            wheel.arm(self, asked.keep_alive_s)
        if self._pending:
            # From the loop, not from here: a thousand pipelined requests must not nest a thousand calls deep. What
            # waits stays in `_pending`, or bytes that are read before the loop comes to it would overtake it.
            self.runtime.loop.call_soon(self._continue)

    def _rest(self, keep_alive_s: float) -> None:
        """Wait for a request."""
        wheel = self.runtime.wheel
        self._idle_until = wheel.soon + keep_alive_s
        wheel.arm(self, keep_alive_s)

    def _continue(self) -> None:
        if self._state == _HEAD and self._pending and not self.flow.write_paused:
            self.data_received(b"")

    def _close(self) -> None:
        """Close once what was written has been taken; who does not take it is cut off."""
        self._state = _CLOSING
        self._pending = b""
        self._outbox.close(self.transport)
        self.runtime.wheel.arm(self, WRITE_STALL_S)

    # -- clocks --

    def on_due(self, now: float) -> None:
        """A deadline passed: which one depends on what the connection is doing."""
        state = self._state
        if state == _BODY:
            limits = self.runtime.serving.site.limits
            slowest = limits.request_head_s + self._held / limits.min_upload_rate
            if now - self._body_since > slowest or now - self._body_at > limits.request_head_s:
                self._reject(TooSlow("request_timeout", "The request body did not arrive in time."))
            else:
                self.runtime.wheel.arm(self, min(1.0, limits.request_head_s))
        elif state == _CLOSING or (self.paused and (self._exchange is None or now < self._exchange.ends_at)):
            self.transport.abort()
        elif state == _HOT:
            if self._exchange is not None:
                if now < self._exchange.ends_at:
                    self.runtime.wheel.arm(self, self._exchange.ends_at - now)
                else:
                    self._exchange.out_of_time()
        elif state == _HEAD:
            if self._pending:
                self._reject(TooSlow("request_timeout", "The request head did not arrive in time."))
            elif now < self._idle_until:
                self.runtime.wheel.arm(self, self._idle_until - now)
            else:
                self._close()

    def idle(self, now: float) -> tuple[int, float] | None:
        """If nothing is under way: the rank of its last request, -1 if it never had a valid key, and since when."""
        if self._state != _HEAD or self.flow.write_paused:
            return None
        limits = self.runtime.serving.site.limits
        since = self.due - limits.request_head_s if self._begun else self._idle_until - limits.keep_alive_s
        if now - since < LEAST_IDLE_S:
            return None
        asked = self._asked
        known = asked is not None and asked.hot and asked.error is None
        return asked.rank if known else -1, since

    def part(self) -> None:
        """Close although the client might send more: there is no room for who is idle."""
        self._close()

    def shutdown(self) -> None:
        """Close if idle; otherwise after the answer that is under way.

        A connection on which no request has come yet may have one on its way: it has a moment for that.
        """
        self._known = None  # what comes from here on is judged anew
        if self._state == _HEAD and not self._pending:
            if self._asked is not None:
                self._close()
            elif self.runtime.draining:
                self._rest(FRESH_S)
        elif self._state == _COLD:
            HttpToolsProtocol.shutdown(self)

    # -- writing answers --

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        """Write a complete answer; `headers` are whole lines without length and connection."""
        if self._state >= _CLOSING:
            return
        asked = self._asked
        close = b"connection: close\r\n" if asked is None or not asked.keep_alive or self.runtime.closing else b""
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
        self.respond(error.status, b"content-type: application/json\r\n" + headers, errors.to_openai(error))

    def _reject(self, error: GatewayError) -> None:
        """Answer and close: what comes next on this connection cannot be told apart from what came before."""
        self._unhold()
        self._body = bytearray()
        self._pending = b""
        asked = self._asked
        request_id = self.runtime.refused(asked, error)
        if self._state < _CLOSING:
            self._state = _HOT
            self._asked = None  # type: ignore[assignment]
            self._known = None
            self.respond_error(error, _of(request_id))

    def start_stream(self, headers: bytes, first: bytes) -> None:
        """Begin a streamed answer with its first bytes."""
        asked = self._asked
        close = b"" if asked.keep_alive and not self.runtime.closing else b"connection: close\r\n"
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

    @property
    def takes_chunks(self) -> bool:
        """What is streamed to it is chunked: it speaks HTTP/1.1."""
        return not self._asked.http_1_0

    def write_raw(self, raw: bytes | memoryview, payload: bytes) -> None:
        """Send on one chunk, or many, as the upstream framed them; `payload` to who takes no chunks."""
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
        if self._state >= _CLOSING:
            return
        if self._asked.http_1_0:
            self._outbox.write(self.transport, tail)
        elif tail:
            self._outbox.write(self.transport, b"%x\r\n%b\r\n0\r\n\r\n" % (len(tail), tail))
        else:
            self._outbox.write(self.transport, b"0\r\n\r\n")
        self._next()


def _of(request_id: str) -> bytes:
    """The headers of an answer to a request of which nothing else is told."""
    return b"x-request-id: %b\r\nx-pointsman-origin: gateway\r\n" % request_id.encode()


def _without(head: bytes, *names: bytes) -> bytes:
    """The head's lines without some headers and without the final blank line."""
    lines = head[:-4].split(b"\r\n")
    kept = [line for line in lines if line.partition(b":")[0].lower() not in names]
    return b"\r\n".join(kept) + b"\r\n"
