"""The node that a slot of a cluster is moving to: calls about what is there already, while the rest is where it was.

Each call is sent to the node that had all keys, and comes here when that answers ASK: so calls about one key arrive in
the order in which they were made, and none is run twice. That a slot has moved is told by MOVED, and is `breaker`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.stores.link import Gone, Link, Sent
from gateway.stores.nodes import Node, named
from gateway.stores.reaching import WHY_NOT, Reaching, text
from gateway.stores.resp import Said


class Elsewhere:
    """One connection to one node, from the first call that is sent on to it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        reaching: Reaching,
        by: Callable[[], Node],
        failed: Callable[[Exception], None],
    ) -> None:
        """`by` is who sends on; `failed` is told when calls that were sent on are lost."""
        self._loop = loop
        self._reaching = reaching
        self._by = by
        self._failed = failed
        self.within_s = reaching.within_s  # for a connection, which requests may wait for
        self._node: Node | None = None
        self._link: Link | None = None
        self._queue: list[Sent] = []
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def send(self, said: Said, sent: Sent) -> None:
        """Run a call at the node that was named."""
        node = named(said, self._by())
        if self._link is not None and self._link.idle and node != self._node:  # of a move that is over
            link, self._link = self._link, None
            link.end(Gone("moved"))
        if node is None:
            sent.done(said)
        elif self._link is not None and node == self._node:
            self._link.take_on(sent)
        elif self._link is not None or (self._queue and node != self._node):
            self._queue.append(sent)
            self._fail(Gone(f"keys are on their way to {self._node} and to {node}"))
        else:
            self._queue.append(sent)
            if self._task is None or node != self._node:
                if self._task is not None:
                    self._task.cancel()
                self._node = node
                self._task = self._loop.create_task(self._reach(node))
            if self._timer is None:
                self._timer = self._loop.call_later(self.within_s, self._late)

    async def _reach(self, node: Node) -> None:
        link: Link | None = None

        def lost(why: Gone) -> None:
            if link is not None and link is self._link:
                self._link = None
                if not link.idle:
                    self._fail(Gone(f"{node}: {why}"))

        try:
            link = await self._reaching.connect(node, lost)
        except WHY_NOT as error:
            self._task = None
            self._fail(Gone(f"{node}: {text(error)}"))
            return
        self._task = None
        if link.dead:
            self._fail(Gone(f"{node}: connection lost"))
            return
        self._link = link
        self._calm()
        queue, self._queue = self._queue, []
        for sent in queue:
            link.take_on(sent)

    def _late(self) -> None:
        """Whoever waits for a connection has waited too long; it may be there for the next ones."""
        self._timer = None
        if self._queue:
            self._fail(Gone("timeout"))

    def _calm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fail(self, why: Gone) -> None:
        self._calm()
        queue, self._queue = self._queue, []
        self._failed(why)
        for sent in queue:
            sent.done(why)

    async def settled(self) -> None:
        """Wait until nobody waits any more."""
        while self._queue or (self._link is not None and not self._link.idle):
            if self._link is not None:
                await self._link.settled()
            elif self._task is not None:
                await asyncio.wait({self._task})

    def leave(self) -> None:
        """Who sent calls on is gone: so are they. A connection that nobody waits for may be of use again."""
        self._calm()
        why = Gone("connection lost")
        queue, self._queue = self._queue, []
        link = self._link
        if link is not None and not link.idle:
            self._link = None
            link.end(why)
        for sent in queue:
            sent.done(why)

    def end(self) -> None:
        """Nothing is on its way any more."""
        self.leave()
        link, self._link, self._node = self._link, None, None
        if link is not None:
            link.end(Gone("moved"))
        if self._task is not None:
            self._task.cancel()
            self._task = None
