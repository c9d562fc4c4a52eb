"""Calls that no node of a cluster can answer yet: kept until one can, for as long as they may take.

While a slot is on its way, a call whose keys are at both ends of it is answered with TRYAGAIN by both. Once it has
moved, one that comes to its former node is answered with MOVED, and the next one must first be told all that is known.
Neither has done anything, so asking again applies nothing twice. It is asked for anew, with what is known by then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from gateway.stores.breaker import Breaker
from gateway.stores.resp import Reply, Said

#: Seconds before the first try again; each waits as long as all before it.
PAUSE_S = 0.002


class PutOff:
    """The calls of one store."""

    def __init__(self, loop: asyncio.AbstractEventLoop, breaker: Breaker) -> None:
        self._loop = loop
        self._breaker = breaker
        self._held: list[Callable[[], None]] = []

    def take(self, reply: Reply, again: Callable[[], None], since_s: float, within_s: float) -> bool:
        """Is `again` called later, as the answer was that it is too early? Asked for at `since_s`, monotonic."""
        if not isinstance(reply, Said):
            return False
        if reply.kind == "TRYAGAIN":
            now_s = time.monotonic()
            left_s = since_s + within_s - now_s
            if left_s < PAUSE_S:
                return False
            self._loop.call_later(min(max(PAUSE_S, now_s - since_s), max(PAUSE_S, left_s - PAUSE_S)), again)
            return True
        if self._breaker.follow(reply):
            self._held.append(again)
            return True
        return False

    def hold(self, again: Callable[[], None]) -> bool:
        """Is `again` called once a node can be asked, or none can be? Not where that is known."""
        if self._breaker.moving:
            self._held.append(again)
        return self._breaker.moving

    def bind(self, why: Exception, until_s: float) -> asyncio.TimerHandle:
        """Unless this is cancelled, the store counts as away from then on, monotonic; and nothing is put off longer."""
        return self._loop.call_later(max(0.0, until_s - time.monotonic()), self._breaker.overdue, why)

    def release(self) -> None:
        """It is known."""
        held, self._held = self._held, []
        for again in held:
            again()
