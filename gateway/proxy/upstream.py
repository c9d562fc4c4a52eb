"""A connection to an upstream: HTTP/1.1, one request at a time.

A connection is an asyncio protocol that pushes what it reads into the user it was given to (an `Exchange`) and knows
nothing of models, failover or clients. Whatever ends an attempt comes out as exactly one call: `on_end` for a
complete answer, or `on_failed` with an `Outcome`. A connection is only pooled again after a complete, clean answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol, cast

from gateway.core.types import Outcome
from gateway.proxy.bulk import PIECES_PER_TURN, Piece, Request, cut
from gateway.proxy.clocks import Timed
from gateway.proxy.framing import Chunked, FramingError
from gateway.proxy.heads import MAX_HEAD, AnswerHead, HeadError

if TYPE_CHECKING:
    from gateway.proxy.pool import Pool

#: How long, and for how many bytes, an answer may go on after its user is satisfied before we rather reconnect.
LINGER_S = 1.0
LINGER_BYTES = 65_536
#: A read of so many bytes is handed on at once and not at the end of the turn: the loop reads up to 32 times in a row
#: from one socket, 8 MB in all, before it asks whether who they are for can take them.
_MUCH = 65_536

_FLOOD = 4096  # bytes of a read that are worth looking at together
_FIRST = 4  # events of a stream, one of which says something

_HEAD, _LENGTH, _CHUNKED, _UNTIL_CLOSE, _IDLE = range(5)


class User(Protocol):
    """Who a connection works for. All calls come from the event loop, but for `on_sent`."""

    def on_sent(self, connection: UpstreamConnection) -> None:
        """The request was handed to the socket."""

    def on_whole(self, head: AnswerHead, body: bytes) -> None:
        """A complete answer that came in one read; then there is no `on_head`, `on_data` or `on_end`."""

    def on_head(self, head: AnswerHead) -> None:
        """The answer's final head (1xx are swallowed)."""

    def on_data(self, payload: bytes, raw: bytes | None) -> None:
        """Body bytes; `raw` is the read they came in where that was exactly one whole chunk, framing included."""

    def on_flood(self, data: bytes) -> int:
        """Many chunks, framing included, the last of which may be cut; up to where they need no more reading.

        -1 where that can be said behind the first few.
        """

    def on_end(self) -> None:
        """The answer is complete."""

    def on_failed(self, outcome: Outcome) -> None:
        """The attempt is over without a complete answer."""

    def on_defect(self) -> None:
        """An exception is being handled that came out of one of these calls; the connection is closed."""


class UpstreamConnection(Timed, asyncio.Protocol):
    """One connection. `started` and the clocks belong to the attempt in progress."""

    __slots__ = (
        "_buffer",
        "_chunked",
        "_full",
        "_left",
        "_lingered",
        "_state",
        "_unsent",
        "answered",
        "born",
        "closed",
        "due_outcome",
        "keep",
        "paused",
        "pool",
        "reused",
        "transport",
        "user",
    )

    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self.pool = pool
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # until connection_made
        self.user: User | None = None
        self.born = time.monotonic()
        self.closed = False
        self.reused = False
        self.answered = False  # a byte of the present answer has come
        self.keep = False
        self.paused = False
        self.due_outcome = Outcome.HEADERS_TIMEOUT
        self._state = _IDLE
        self._buffer = b""
        self._left = 0
        self._chunked: Chunked = None  # type: ignore[assignment]  # set while an answer is chunked
        self._lingered = 0
        self._unsent: Iterator[Piece] | None = None  # of a large request: what the transport was not given yet
        self._full = False  # the transport has enough for now

    # -- asyncio --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's callback."""
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's callback: tells the user, if one is waiting, how far the attempt had come."""
        self.closed = True
        self.due = float("inf")
        self._unsent = None
        self.pool.forget(self)
        user = self.user
        if user is None:
            return
        self.user = None
        if self._state == _UNTIL_CLOSE and exc is None:
            user.on_end()
        elif self.reused and not self.answered:
            user.on_failed(Outcome.STALE)
        else:
            user.on_failed(Outcome.RESET)

    def eof_received(self) -> bool:
        """asyncio's callback: a half-closed upstream is a closed one."""
        return False

    def data_received(self, data: bytes) -> None:
        """asyncio's callback: the hot path of every answer."""
        user = self.user
        try:
            state = self._state
            if state == _CHUNKED:
                self._feed_chunked(data)
            elif state == _HEAD:
                self._feed_head(data)
            elif state == _LENGTH:
                self._feed_length(data)
            elif state == _UNTIL_CLOSE:
                if user is not None:
                    user.on_data(data, None)
            else:
                self.abort()  # bytes nobody asked for: this connection can no longer be trusted
        except Exception:
            self.abort()
            if user is None:
                raise
            user.on_defect()
        if len(data) >= _MUCH:
            self.pool.outbox.flush()

    # -- the answer --

    def _feed_head(self, data: bytes) -> None:
        self.answered = True
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        raw, head = self.pool.last_head
        size = len(raw)
        if size and data[:size] == raw:  # the last one's, byte for byte: nothing is to be searched or looked up
            data = data[size:]
        else:
            found = self._read_head(data)
            if found is None:
                return
            head, data = found
        user = self.user
        if user is None:
            self.abort()
            return
        self.keep = head.keep_alive
        if head.length == len(data):  # the common case for answers that are not streamed
            self.user = None
            self._done()
            user.on_whole(head, data)
            return
        if head.chunked:
            self._state = _CHUNKED
            self._chunked = Chunked()
        elif head.length is None:
            self._state = _UNTIL_CLOSE
        else:
            self._state = _LENGTH
            self._left = head.length
        user.on_head(head)
        if self._state == _LENGTH:
            if data or not self._left:
                self._feed_length(data)
        elif data and self._state == _CHUNKED:
            self._feed_chunked(data)
        elif data and self.user is not None:
            user.on_data(data, None)

    def _read_head(self, data: bytes) -> tuple[AnswerHead, bytes] | None:
        """The final head that `data` begins with, and what follows it; None if it is not whole, or is none."""
        pool = self.pool
        while True:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                if len(data) > MAX_HEAD:
                    self._fail(Outcome.PROTOCOL)
                else:
                    self._buffer = data
                return None
            end += 4
            raw = data[:end]
            try:
                head = pool.heads.get(raw) or pool.answer_head(raw)
            except HeadError:
                self._fail(Outcome.PROTOCOL)
                return None
            data = data[end:]
            if head.status >= 200:
                pool.last_head = raw, head
                return head, data
            if head.status == 101:
                self._fail(Outcome.PROTOCOL)
                return None

    def _feed_length(self, data: bytes) -> None:
        here = len(data)
        if here > self._left:
            self._fail(Outcome.PROTOCOL)  # more than was announced
            return
        self._left -= here
        user = self.user
        if user is None:
            self._linger(here)
        elif here:
            user.on_data(data, None)
        if not self._left:
            self._ended()

    def _feed_chunked(self, data: bytes) -> None:
        if len(data) >= _FLOOD:
            data = self._feed_flood(data)
            if not data or self.closed:
                return
        chunked = self._chunked
        clean = chunked.at_boundary
        try:
            payload = chunked.feed(data)
        except FramingError:
            self._fail(Outcome.PROTOCOL)
            return
        user = self.user
        if user is None:
            self._linger(len(payload))
        elif payload:
            # One whole chunk in one read: size line (at least 3 bytes) + payload + CRLF, and nothing else.
            whole = clean and chunked.at_boundary and not chunked.done and _is_one_chunk(data, payload)
            user.on_data(payload, data if whole else None)
        if chunked.done:
            if chunked.rest:
                self.keep = False
            self._ended()

    def _feed_flood(self, data: bytes) -> bytes:
        """Let the user take many chunks at once, and give back what is left to be read one by one."""
        cut = self._chunked.lacking
        for _ in range(_FIRST):
            if not 0 <= cut < len(data):
                break
            if cut:
                self._feed_chunked(data[:cut])
                data = data[cut:]
                # What was read may have ended the attempt, or be no chunk's end.
                if self.closed or self._state != _CHUNKED or not self._chunked.at_boundary:
                    break
            if self.user is None:
                break
            taken = self.user.on_flood(data)
            if taken >= 0:
                return data[taken:] if taken else data
            cut = data.find(b"\n\n\r\n", 0, _FLOOD) + 4
            if cut < 4:
                break
        return data

    def _ended(self) -> None:
        if self.closed:
            return
        user = self.user
        self.user = None
        self._done()
        if user is not None:
            user.on_end()

    def _done(self) -> None:
        """The answer has been read to its end."""
        self._state = _IDLE
        # An answer may come before its request was sent whole; what is left of that must not go before another's.
        if self.keep and self._unsent is None and not self.transport.get_write_buffer_size():
            self.pool.release(self)
        else:
            self.abort()

    def _fail(self, outcome: Outcome) -> None:
        user = self.user
        self.user = None
        self.abort()
        if user is not None:
            user.on_failed(outcome)

    def _linger(self, count: int) -> None:
        self._lingered += count
        if self._lingered > LINGER_BYTES:
            self.abort()

    # -- what users and the pool do --

    def start(self, user: User, request: Request) -> None:
        """Send a request for `user`; answers go to it from now on."""
        self.user = user
        self.answered = False
        self._state = _HEAD
        if isinstance(request, bytes):
            self.pool.outbox.write(self.transport, request)
        else:
            self._unsent = cut(request)
            self.pool.outbox.commit()  # these pieces do not wait for the end of the turn
            self._send_more()
        user.on_sent(self)

    def _send_more(self) -> None:
        """Give the transport what it has room for of a large request, so much per turn of the loop."""
        for _ in range(PIECES_PER_TURN):
            unsent = self._unsent
            if unsent is None or self._full:
                return  # all is sent, the attempt is over, or `resume_writing` will go on
            piece = next(unsent, None)
            if piece is None:
                self._unsent = None
                return
            self.transport.write(piece)
        self.pool.loop.call_soon(self._send_more)

    def pause_writing(self) -> None:
        """asyncio's callback: the upstream reads more slowly than we send."""
        self._full = True

    def resume_writing(self) -> None:
        """asyncio's callback: the upstream has caught up."""
        self._full = False
        self._send_more()

    def clock(self, after_s: float, outcome: Outcome) -> None:
        """(Re)start this attempt's one running clock: when it runs out, the attempt failed with `outcome`."""
        self.due_outcome = outcome
        self.pool.wheel.arm(self, after_s)

    def on_due(self, now: float) -> None:
        """A clock ran out: the attempt's, or the idle clock of a pooled connection."""
        if self.user is not None:
            self._fail(self.due_outcome)
        else:
            self.abort()

    def detach(self) -> None:
        """The user needs no more of this answer: let it end briefly so that the connection can be kept."""
        if self.user is None:
            return
        self.user = None
        self.resume()
        if self._state == _IDLE or not self.keep:
            self.abort()
            return
        self._lingered = 0
        self.pool.wheel.arm(self, LINGER_S)

    def abort(self) -> None:
        """Close now, telling nobody."""
        self.user = None
        self._unsent = None
        self.due = float("inf")
        if not self.closed and self.transport is not None:
            self.closed = True
            self.transport.abort()
            self.pool.forget(self)

    def pause(self) -> None:
        """Stop reading: the client is slower than the upstream."""
        if not self.paused and self.transport is not None and not self.closed:
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self.paused and self.transport is not None and not self.closed:
            self.paused = False
            self.transport.resume_reading()


def _is_one_chunk(data: bytes, payload: bytes) -> bool:
    length = len(payload)
    line = len(data) - length - 2
    return 3 <= line <= 10 and data.startswith(payload, line) and data.find(b";", 0, line) < 0
