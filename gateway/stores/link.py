"""One connection to a Valkey or Redis: commands out, replies to who asked, an end for all when anything goes wrong.

Commands of one turn of the loop leave together. Replies come in the order of commands and each goes to the callback of
its own command, whoever still wants it: nothing is ever taken back from a connection, so no reply can reach another's
caller. A reply that is late, or that makes no sense, ends the connection and fails all that wait on it. When to connect
again, and what is asked, is in `shared`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from gateway.stores.resp import Reader, Reply, Said, WrongReply, argument
from gateway.stores.script import SHA, SOURCE

#: By its name, and whole where the server does not know it by name; then it does.
_BY_NAME = argument(b"EVALSHA") + argument(SHA)
_WHOLE = argument(b"EVAL") + argument(SOURCE)

Done = Callable[[Reply], None]


class Gone(Exception):
    """There will be no reply. The text says why, in a word or two."""


class _Sent:
    """A command that waits for its reply."""

    __slots__ = ("at", "count", "done", "tail")

    def __init__(self, done: Done, at: float, count: int = 0, tail: bytes = b"") -> None:
        self.done = done
        self.at = at
        self.count = count  # of members, where it is our script
        self.tail = tail  # its keys and arguments, until they need not be sent again


class Link(asyncio.Protocol):
    """A connection. `lost` is called once, before anybody who waits is failed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout_s: float, lost: Callable[[Gone], None]) -> None:
        self._loop = loop
        self._timeout_s = timeout_s
        self._lost = lost
        self._reader = Reader()
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._waiting: deque[_Sent] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.dead = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side is gone."""
        self.end(Gone("connection lost"))

    def call(self, count: int, tail: bytes, done: Done) -> None:
        """Run the script; `count` is how many keys and arguments `tail` has, with their number. HOT."""
        self._put(b"*%d\r\n%b%b" % (count + 2, _BY_NAME, tail), _Sent(done, self._loop.time(), count, tail))

    def say(self, data: bytes, done: Done) -> None:
        """Send another command."""
        self._put(data, _Sent(done, self._loop.time()))

    def _put(self, data: bytes, sent: _Sent) -> None:
        if self.dead:
            self._loop.call_soon(sent.done, Gone("connection lost"))
            return
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)
        self._waiting.append(sent)
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout_s, self._late)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self._transport is not None and not self.dead:
            self._transport.write(b"".join(out))

    def _late(self) -> None:
        """Has the oldest command waited too long? One timer for all of them."""
        self._timer = None
        if self._waiting:
            left = self._waiting[0].at + self._timeout_s - self._loop.time()
            if left <= 0:
                self.end(Gone("timeout"))
            else:
                self._timer = self._loop.call_later(left, self._late)

    def data_received(self, data: bytes) -> None:
        """Hand each reply to who waits for it."""
        try:
            for reply in self._reader.feed(data):
                if self.dead:
                    return
                if not self._waiting:
                    raise WrongReply("a reply to nothing")
                self._answered(self._waiting.popleft(), reply)
        except WrongReply:
            self.end(Gone("protocol"))

    def _answered(self, sent: _Sent, reply: Reply) -> None:
        if sent.count and isinstance(reply, Said) and reply.kind == "NOSCRIPT":
            whole = b"*%d\r\n%b%b" % (sent.count + 2, _WHOLE, sent.tail)
            self._put(whole, _Sent(sent.done, self._loop.time()))
            return
        sent.done(reply)

    def end(self, why: Gone) -> None:
        """Close, and fail all that wait."""
        if self.dead:
            return
        self.dead = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()
        waiting, self._waiting = self._waiting, deque()
        self._lost(why)
        for sent in waiting:
            sent.done(why)
