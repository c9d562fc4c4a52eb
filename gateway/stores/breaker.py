"""When the store is asked, and when it is not: what is checked before it is used, when a connection is tried again.

Closed: one connection, in use. Open: none; after a second one round of tries is made, off the path of requests, and
only when everything it asks was answered in time does a connection come into use. So while a store hangs or refuses,
nobody waits for it but the first, for the time of one answer. Moving: a node of a cluster has said that the keys have
moved. Calls wait then, for the time of one answer at most, until the one it names has heard all that is known here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from typing import Protocol

from gateway.stores.elsewhere import Elsewhere
from gateway.stores.link import Gone, Link
from gateway.stores.nodes import Node, Nodes, named
from gateway.stores.reaching import WHY_NOT, Reaching, Unfit, see_fit, text
from gateway.stores.resp import Reply, Said, command
from gateway.stores.settings import StoreSettings

logger = logging.getLogger("pointsman")

OPEN_S = 1.0
#: How often one that is in use is asked whether it still may be.
LOOK_S = 15.0
#: Before a node is asked again that was named, while nodes do not agree who has the keys.
PAUSE_S = 0.005
_RIGHTS = ("NOAUTH", "WRONGPASS", "NOPERM")


class Used(Protocol):
    """Who uses the store."""

    def begin(self, generation: int, server: int) -> None:
        """A new connection is being made ready. `server`: which one it is, where it may lack what the last one had."""

    async def introduce(self, link: Link) -> None:
        """Tell the store what it has to know. Raises Gone or Said."""

    def back(self, link: Link) -> None:
        """It can be used."""

    def away(self, why: str) -> None:
        """It cannot be used."""

    def failed(self, op: str) -> None:
        """Something had no answer that can be used."""


class Breaker:
    """The one connection to the store."""

    def __init__(self, loop: asyncio.AbstractEventLoop, settings: StoreSettings, user: Used) -> None:
        self.settings = settings
        self.link: Link | None = None  # in use
        self.moving = False  # none is, and calls may wait until another one is
        self._loop = loop
        self._user = user
        self._generation = 0
        self._nodes = Nodes(Node(settings.host, settings.port))
        self._reaching = Reaching(loop, settings)
        self._elsewhere = Elsewhere(loop, self._reaching, lambda: self._nodes.at, self.fail)
        self._used = self._nodes.configured  # who was last in use
        self._server = 0  # and which server that was
        self._moved = False  # all of it has, to the one that is made ready
        self._old: Link | None = None  # has been left, and has calls to answer
        self._trying: asyncio.Task[None] | None = None
        self._timer: asyncio.Handle | None = None
        self._overdue: asyncio.TimerHandle | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._closed = False
        self._said = ""  # why it could not be used, when that was last logged

    async def start(self) -> None:
        """The first try."""
        self._try()
        if self._trying is not None:
            await self._trying

    async def close(self) -> None:
        """Send what is waiting, and end. Takes no longer than one answer may."""
        self._closed = True
        self.moving = False
        for timer in (self._timer, self._looking, self._overdue):
            if timer is not None:
                timer.cancel()
        if self._trying is not None:
            self._trying.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._trying
        if self.link is not None:
            with contextlib.suppress(Gone, Said):
                await self.link.ask(0, command(b"PING"))
            self.link.end(Gone("closed"))
        if self._old is not None:
            self._old.end(Gone("closed"))
        self._elsewhere.end()

    def fail(self, why: Exception) -> None:
        """What came back says that the connection in use must not be used."""
        if self.link is not None:
            self._nodes.again()
            self.link.end(Gone(text(why)))

    def follow(self, why: Reply) -> bool:
        """Has the node in use said that the keys have moved? Then the one it names is made ready, and calls wait."""
        to = named(why, self._nodes.at) if isinstance(why, Said) and why.kind == "MOVED" else None
        if to is None:
            return False
        if self.link is not None:
            self._nodes.lead(to)
            self._old, self.link, self.moving, self._moved = self.link, None, True, True
            self._timer = self._loop.call_soon(self._try)
            self._overdue = self._loop.call_later(self.settings.timeout_s, self._give_up, "timeout")
        return self.moving

    def overdue(self, why: Exception) -> None:
        """A call that was put off waits for as long as one may."""
        if self.moving:
            self._give_up("timeout")
        else:
            self.fail(why)

    def outdo(self, generation: int) -> None:
        """The store has seen a later connection of this replica: be later than that."""
        self._generation = max(self._generation, generation)

    def _give_up(self, why: str) -> None:
        """Calls wait no longer; what is under way may still succeed."""
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None
        if self.moving:
            self.moving = False
            self._away(why)

    def _away(self, why: str) -> None:
        self._user.away(why)
        self._said = why

    def _try(self) -> None:
        self._timer = None
        if not self._closed:
            self._trying = self._loop.create_task(self._connect())

    def _lost(self, why: Gone) -> None:
        """The connection in use ended."""
        self.link = None
        if self._closed:  # by us
            return
        self._away(str(why))
        self._elsewhere.leave()
        self._again()

    def _again(self) -> None:
        if not self._closed and self._timer is None:
            self._timer = self._loop.call_later(OPEN_S, self._try)

    async def _connect(self) -> None:
        """One round: nodes are asked until one can be used."""
        told: tuple[Node, Exception] | None = None
        while (error := await self._make_ready(node := self._nodes.at)) is not None:
            to = named(error, node)
            if told is None or (to is None and named(told[1], told[0]) is not None):
                told = node, error
            if to is not None and self._nodes.lead(to):
                continue
            if to is not None and self.moving:  # the two do not agree yet
                self._nodes.at = to
                await asyncio.sleep(PAUSE_S)
            elif not self._nodes.failed():
                self._unusable(*told)
                return

    async def _make_ready(self, node: Node) -> Exception | None:
        """Ask one node; what is in the way?"""
        self._generation = max(self._generation + 1, int(time.time() * 1000))
        self._elsewhere.within_s = self._reaching.within_s
        ended: list[Gone] = []
        link: Link | None = None

        def lost(why: Gone) -> None:
            ended.append(why)
            if link is not None and link is self.link:
                self._lost(why)

        try:
            link = await self._reaching.connect(node, lost, self._elsewhere.send)
            others = await self._others(link)
            await self._leave_old()
            lacks = self._server and link.server != self._server and not self._moved
            self._user.begin(self._generation, link.server if lacks else 0)
            await self._user.introduce(link)
            if ended:
                raise ended[0]
        except BaseException as error:
            if link is not None:
                link.end(Gone("unfit"))
            self._elsewhere.leave()
            if not isinstance(error, WHY_NOT):
                raise
            return error
        self._in_use(link, others)
        return None

    def _in_use(self, link: Link, others: bool) -> None:
        node = self._nodes.at
        if node not in (self._nodes.configured, self._used):
            logger.info("the keys of store %s have moved to %s", self.settings, node)
        self._used, self._server, self._moved = node, link.server, False
        self._said = ""
        self._nodes.found()
        self.link = link
        self.moving = False
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None
        self._elsewhere.within_s = self.settings.timeout_s
        self._user.back(link)
        self._looking = self._loop.call_later(LOOK_S, self._look, link, others)

    async def _leave_old(self) -> None:
        """What was asked is answered before all that is known here is told elsewhere, or it would count twice."""
        old, self._old = self._old, None
        if old is None:
            return
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                await old.settled()
                await self._elsewhere.settled()
        finally:
            old.end(Gone("moved"))
            self._elsewhere.end()

    async def _others(self, link: Link) -> bool:
        """Who else is in its cluster. Is there one, and may we ask that?"""
        try:
            self._hear(await link.ask(0, command(b"CLUSTER", b"NODES")))
        except Said:
            return False
        return True

    def _hear(self, told: Reply) -> None:
        if isinstance(told, bytes):
            self._nodes.hear(told, names=self.settings.tls)

    def _look(self, link: Link, others: bool) -> None:
        """Has somebody changed what it may do with what it is told? It is not used then, as if it had been so."""

        def told(reply: Reply) -> None:
            try:
                see_fit(reply)
            except Unfit as error:
                self.fail(error)

        if link is self.link:
            link.say(command(b"INFO", b"memory"), told)
            if others:
                link.say(command(b"CLUSTER", b"NODES"), self._hear)
            self._looking = self._loop.call_later(LOOK_S, self._look, link, others)

    def state(self) -> dict[str, str]:
        """Whether it is in use, and why not."""
        if self.link is not None or self.moving:
            return {"state": "there"}
        return {"state": "away", "reason": self._said or "not reached yet"}

    def _unusable(self, node: Node, error: Exception) -> None:
        """Nobody could be used. Told once, and again where it is something else that somebody must mend."""
        why = text(error)
        if why == "timeout" and self.settings.tls:  # as a Valkey without TLS, which waits for more of what it was sent
            why = "timeout: is it there, and does it speak TLS?"
        elif why in ("protocol", "connection lost") and not self.settings.tls:
            why += ": is it a Valkey or Redis, and is it rediss:// that it speaks?"
        if node != self._nodes.configured:
            why = f"{node}: {why}"
        self._user.failed("connect")
        self._moved = False
        if self.moving:
            self._give_up(why)
        elif not self._said or (_mendable(error) and self._said != why):
            logger.warning("store %s cannot be used (%s): limits are kept by this process alone", self.settings, why)
            self._said = why
        self._again()


def _mendable(error: Exception) -> bool:
    """Does it stay so until somebody mends it?"""
    return isinstance(error, Unfit | ssl.SSLError) or (isinstance(error, Said) and error.kind in _RIGHTS)
