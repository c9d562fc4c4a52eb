"""When the store is asked, and when it is not: connecting, what is checked before it is used, trying again.

Closed: one connection, in use. Open: none; after a second one try is made, off the path of requests, and only when
everything it asks was answered in time does the connection come into use. So while a store hangs or refuses, nobody
waits for it but the first, for the time of one answer.

A node of a cluster may say that the keys have moved: then the one it names is tried at once, once, and after that in
its turn; where that one fails, the address that is configured is next.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import ssl
import time
from collections.abc import Callable
from typing import Protocol

from gateway.stores.link import Gone, Link
from gateway.stores.resp import Reply, Said, command
from gateway.stores.settings import StoreSettings

logger = logging.getLogger("pointsman")

OPEN_S = 1.0
#: How often one that is in use is asked whether it still may be.
LOOK_S = 15.0
#: A handshake of TLS takes more than one round trip, and no request waits for it.
TLS_S = 2.0
_MOVED = re.compile(r"MOVED \d+ (?P<host>[A-Za-z0-9.:_-]*):(?P<port>\d{1,5})")


class Unfit(Exception):
    """A server that is there and must not be used."""


class Used(Protocol):
    """Who uses the store."""

    def begin(self, generation: int) -> None:
        """A new connection is being made ready."""

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
        self._loop = loop
        self._user = user
        self._generation = 0
        self._at = settings.host, settings.port  # who is asked
        self._led = False  # there, since one was last in use
        self._trying: asyncio.Task[None] | None = None
        self._timer: asyncio.Handle | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._closed = False
        self._said = ""  # why it could not be used, when that was last logged
        self._tls = ssl.create_default_context(cafile=settings.ca_file) if settings.tls else None

    async def start(self) -> None:
        """The first try."""
        self._try()
        if self._trying is not None:
            await self._trying

    async def close(self) -> None:
        """Send what is waiting, and end. Takes no longer than one answer may."""
        self._closed = True
        for timer in (self._timer, self._looking):
            if timer is not None:
                timer.cancel()
        if self._trying is not None:
            self._trying.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._trying
        if self.link is not None:
            with contextlib.suppress(Gone, Said):
                await self.ask(self.link, 0, command(b"PING"))
            self.link.end(Gone("closed"))

    def fail(self, why: Exception) -> None:
        """What came back over the connection in use says that it must not be used."""
        if self.link is not None:
            self._follow(why)
            self.link.end(Gone(_text(why)))

    def outdo(self, generation: int) -> None:
        """The store has seen a later connection of this replica: be later than that."""
        self._generation = max(self._generation, generation)

    def ask(
        self, link: Link, count: int, data: bytes, *, done: Callable[[list[int]], None] | None = None
    ) -> asyncio.Future[Reply]:
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
            link.call(count, data, answered)
        else:
            link.say(data, answered)
        return future

    def _try(self) -> None:
        self._timer = None
        if not self._closed:
            self._trying = self._loop.create_task(self._connect())

    def _lost(self, why: Gone) -> None:
        """The connection in use ended."""
        self.link = None
        if self._closed:  # by us
            return
        self._user.away(str(why))
        self._said = str(why)
        self._again()

    def _follow(self, why: Exception) -> None:
        """Has a node said who has the keys now? Then that one is asked next."""
        found = _MOVED.fullmatch(str(why)) if isinstance(why, Said) else None
        if found is None:
            self._at = self.settings.host, self.settings.port
            return
        host, port = found["host"] or self._at[0], int(found["port"])
        if not self._led and (host, port) != self._at:
            self._led = True
            self._timer = self._loop.call_soon(self._try)
            logger.info("the keys of store %s have moved to %s:%d", self.settings, host, port)
        self._at = host, port

    def _again(self) -> None:
        if not self._closed and self._timer is None:
            self._timer = self._loop.call_later(OPEN_S, self._try)

    async def _connect(self) -> None:
        settings = self.settings
        self._generation = max(self._generation + 1, int(time.time() * 1000))
        self._user.begin(self._generation)
        ended: list[Gone] = []
        link: Link | None = None

        def lost(why: Gone) -> None:
            ended.append(why)
            if link is not None and link is self.link:
                self._lost(why)

        try:
            async with asyncio.timeout(TLS_S if settings.tls else settings.timeout_s):
                _, link = await self._loop.create_connection(
                    lambda: Link(self._loop, settings.timeout_s, lost),
                    *self._at,
                    ssl=self._tls,
                )
            await self._greet(link)
            await self._user.introduce(link)
            if ended:
                raise ended[0]
        except (OSError, TimeoutError, Gone, Said, Unfit) as error:
            if link is not None:
                link.end(Gone("unfit"))
            self._follow(error)
            self._unusable(error)
            return
        self._said = ""
        self._led = False
        self.link = link
        self._user.back(link)
        self._looking = self._loop.call_later(LOOK_S, self._look, link)

    def _look(self, link: Link) -> None:
        """Has somebody changed what it may do with what it is told? It is not used then, as if it had been so."""

        def told(reply: Reply) -> None:
            try:
                _fit(reply)
            except Unfit as error:
                self.fail(error)

        if link is self.link:
            link.say(command(b"INFO", b"memory"), told)
            self._looking = self._loop.call_later(LOOK_S, self._look, link)

    def state(self) -> dict[str, str]:
        """Whether it is in use, and why not."""
        if self.link is not None:
            return {"state": "there"}
        return {"state": "away", "reason": self._said or "not reached yet"}

    def _unusable(self, error: Exception) -> None:
        why = _text(error)
        if why == "timeout" and self.settings.tls:  # as a Valkey without TLS, which waits for more of what it was sent
            why = "timeout: is it there, and does it speak TLS?"
        elif why in ("protocol", "connection lost") and not self.settings.tls:
            why += ": is it a Valkey or Redis, and is it rediss:// that it speaks?"
        self._user.failed("connect")
        if not self._said or (isinstance(error, Unfit) and self._said != why):
            logger.warning("store %s cannot be used (%s): limits are kept by this process alone", self.settings, why)
        self._said = why if not self._said or isinstance(error, Unfit) else self._said
        self._again()

    async def _greet(self, link: Link) -> None:
        settings = self.settings
        if settings.password is not None:
            user = () if settings.username is None else (settings.username.encode(),)
            await self.ask(link, 0, command(b"AUTH", *user, settings.password.reveal().encode()))
        if settings.database:
            await self.ask(link, 0, command(b"SELECT", settings.database))
        _fit(await self.ask(link, 0, command(b"INFO", b"memory")))


def _fit(told: Reply) -> None:
    """Raises Unfit where what is kept there may be thrown away."""
    found = re.search(rb"^maxmemory_policy:(\S+)", told if isinstance(told, bytes) else b"", re.MULTILINE)
    if found is not None and found[1] != b"noeviction":
        raise Unfit(f"its maxmemory-policy is {found[1].decode('ascii', 'replace')}: it must be noeviction")


def _text(error: Exception) -> str:
    """Why, for a log."""
    if isinstance(error, TimeoutError):
        return "timeout"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)[:200] or type(error).__name__
