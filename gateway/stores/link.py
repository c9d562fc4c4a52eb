"""One connection to a Valkey or Redis: commands out, replies to who asked, an end for all when anything goes wrong.

Commands of one turn of the loop leave together. Replies come in the order of commands and each goes to the callback of
its own command, whoever still wants it: nothing is ever taken back from a connection, so no reply can reach another's
caller. A reply that is late, or that makes no sense, ends the connection and fails all that wait on it. When to connect
again is in `breaker`, what is asked in `shared`, where a call goes that a node of a cluster sends on in `elsewhere`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from gateway.stores.resp import Reader, Reply, Said, WrongReply, argument, command
from gateway.stores.script import SHA, SOURCE

#: By its name, and whole where the server does not know it by name; then it does.
_BY_NAME = argument(b"EVALSHA") + argument(SHA)
_WHOLE = argument(b"EVAL") + argument(SOURCE)
_ASKING = command(b"ASKING")

Done = Callable[[Reply], None]


class Gone(Exception):
    """There will be no reply. The text says why, in a word or two."""


class Sent:
    """A command that waits for its reply."""

    __slots__ = ("asking", "at", "count", "done", "tail")

    def __init__(self, done: Done, at: float, count: int = 0, tail: bytes = b"") -> None:
        self.done = done
        self.at = at
        self.count = count  # of members, where it is our script
        self.tail = tail  # its keys and arguments, until they need not be sent again
        self.asking = False  # sent on by another node


class Link(asyncio.Protocol):
    """A connection. `lost` is called once, before anybody who waits is failed.

    `sent_on` takes calls that the node answers with ASK: their keys are at another one already.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timeout_s: float,
        lost: Callable[[Gone], None],
        sent_on: Callable[[Said, Sent], None] | None = None,
    ) -> None:
        self._loop = loop
        self._timeout_s = timeout_s
        self._lost = lost
        self._sent_on = sent_on
        self._known = False  # has the node answered the script that was sent on to it?
        self._quiet: asyncio.Future[None] | None = None
        self._reader = Reader()
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._waiting: deque[Sent] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.dead = False
        self.server = 0  # which one it is, since it was started; 0: it does not say

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side is gone."""
        self.end(Gone("connection lost"))

    def call(self, count: int, tail: bytes, done: Done) -> None:
        """Run the script; `count` is how many keys and arguments `tail` has, with their number. HOT."""
        self._put(b"*%d\r\n%b%b" % (count + 2, _BY_NAME, tail), Sent(done, self._loop.time(), count, tail))

    def say(self, data: bytes, done: Done) -> None:
        """Send another command."""
        self._put(data, Sent(done, self._loop.time()))

    def ask(self, count: int, data: bytes, *, done: Callable[[list[int]], None] | None = None) -> asyncio.Future[Reply]:
        """Wait for an answer: of the script where `count` is not 0. Not for requests. Raises Gone or Said."""
        future: asyncio.Future[Reply] = self._loop.create_future()

        def answered(reply: Reply) -> None:
            if future.done():
                return
            if isinstance(reply, Exception):
                future.set_exception(reply)
                return
            try:
                if done is not None:
                    done(reply)  # type: ignore[arg-type]
            except Gone as why:
                future.set_exception(why)
            else:
                future.set_result(reply)

        if count:
            self.call(count, data, answered)
        else:
            self.say(data, answered)
        return future

    def take_on(self, sent: Sent) -> None:
        """Run the script for a slot that is on its way to this node, as another one said. It is not late before it was.

        By its name only once it is known there: what is sent whole because it was not known comes after what was sent
        behind it, and totals would be told in the wrong order.
        """
        sent.asking = True
        self._put(_ASKING, Sent(self._may_ask, sent.at))
        self._put(b"*%d\r\n%b%b" % (sent.count + 2, _BY_NAME if self._known else _WHOLE, sent.tail), sent)

    def _may_ask(self, reply: Reply) -> None:
        if isinstance(reply, Exception):
            self.end(Gone(str(reply)[:200]))

    @property
    def idle(self) -> bool:
        """Does nobody wait?"""
        return not self._waiting

    async def settled(self) -> None:
        """Wait until nobody waits any more."""
        while self._waiting:
            self._quiet = self._loop.create_future()
            await self._quiet

    def _put(self, data: bytes, sent: Sent) -> None:
        if self.dead:
            self._loop.call_soon(sent.done, Gone("connection lost"))
            return
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)
        self._waiting.append(sent)
        if self._timer is None:
            self._timer = self._loop.call_at(sent.at + self._timeout_s, self._late)

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
                sent = self._waiting.popleft()
                try:
                    self._answered(sent, reply)
                except (IndexError, TypeError, ValueError):  # it is no answer to what was asked, and who did so waits
                    self.end(Gone("protocol"))
                    sent.done(Gone("protocol"))
        except WrongReply:
            self.end(Gone("protocol"))
        self._hush()

    def _hush(self) -> None:
        if self._quiet is not None and not self._waiting:
            if not self._quiet.done():
                self._quiet.set_result(None)
            self._quiet = None

    def _answered(self, sent: Sent, reply: Reply) -> None:
        if sent.count and reply.__class__ is not list:
            if not isinstance(reply, Said):
                raise WrongReply("the script answers with numbers")
            if reply.kind == "NOSCRIPT":
                if sent.asking:
                    self._put(_ASKING, Sent(self._may_ask, sent.at))
                whole = b"*%d\r\n%b%b" % (sent.count + 2, _WHOLE, sent.tail)
                again = Sent(sent.done, self._loop.time(), sent.count, sent.tail)
                again.asking = sent.asking
                self._put(whole, again)
                return
            if reply.kind == "ASK" and self._sent_on is not None:
                self._sent_on(reply, sent)
                return
        elif sent.asking:
            self._known = True
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
        self._lost(why)
        waiting, self._waiting = self._waiting, deque()
        for sent in waiting:
            sent.done(why)
        self._hush()
