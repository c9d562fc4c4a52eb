"""How a target is reached: what is worked out about that at load, and which of its endpoints a request goes to.

A route belongs to one configuration; the pools that it points to, and the health that it is handed, outlive it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gateway.core.resilience.affinity import Prefixes
from gateway.core.resilience.health import Board
from gateway.core.resilience.hedging import Pace
from gateway.core.servers import dialects
from gateway.core.types import Attempt, Secret, Target
from gateway.proxy.doors import Door, Opening, halves, host
from gateway.proxy.pool import Pool

if TYPE_CHECKING:
    from gateway.core.money.admission import Gate

#: Endpoints among which the one with the fewest requests is picked.
CHOICES = 8


class Route:
    """How a target is reached: its dialect's plan, its clocks, and a pool and a request head per endpoint."""

    __slots__ = (
        "answer_s",
        "connect_s",
        "first",
        "first_event_s",
        "gate",
        "headers_s",
        "heads",
        "idle_s",
        "name",
        "only",
        "openings",
        "pace",
        "plan",
        "pools",
        "prefixes",
        "traced",
        "turn",
    )

    def __init__(
        self, target: Target, pools: tuple[Pool, ...], door: Door | None = None, gate: Gate | None = None
    ) -> None:
        self.name = target.name
        self.gate = gate  # its own limits
        self.first = Attempt(target, 1)
        self.plan = dialects.prepare(target)
        self.pools = pools
        self.only = pools[0] if len(pools) == 1 else None  # where there is no choice
        # Request line and headers of each endpoint, up to and including "Content-Length: ": fixed for a plain key or
        # none, made for each attempt by an opening where the credential is more than that.
        self.heads: tuple[bytes, ...] = ()
        self.openings: tuple[Opening, ...] = ()
        places = [pool.endpoint for pool in pools]
        if door is not None:
            self.openings = tuple(
                Opening(door, host(one), one.path + self.plan.path, *halves(self.plan, one, None)) for one in places
            )
        else:
            key = target.backend.key.reveal() if target.backend.key is not None else None
            self.heads = tuple(b"".join(halves(self.plan, one, key)) for one in places)
        clocks = target.backend.timeouts
        self.connect_s = clocks.connect_s
        self.first_event_s = clocks.first_event_s
        self.answer_s = max(clocks.headers_s, clocks.first_event_s)
        self.headers_s = self.answer_s if self.plan.dialect.late_head else clocks.headers_s
        self.idle_s = clocks.idle_s
        self.traced = target.backend.trace_context
        self.pace: Pace | None = None  # where a second attempt may begin beside a first one that is slow
        self.prefixes: Prefixes | None = None  # where prompts that begin alike go to the same endpoint
        self.turn = 0  # the endpoint that is looked at first, so that equals take turns

    def secrets(self) -> tuple[str, ...]:
        """What was sent to open the door, for blotting it out of what comes back."""
        backend = self.first.target.backend
        plain = [one.reveal() for one in (backend.key, *backend.headers.values()) if isinstance(one, Secret)]
        return (*plain, *(self.openings[0].door.secrets() if self.openings else ()))

    @property
    def locked(self) -> bool:
        """There is no token for it at the moment."""
        return bool(self.openings) and self.openings[0].head(b"", time.time()) is None

    @property
    def loaded(self) -> bool:
        """Half of what may be under way at its endpoints is."""
        return sum(pool.outstanding for pool in self.pools) * 2 >= sum(pool.most for pool in self.pools)

    def pick(self, tried: tuple[int, ...], board: Board, now: float) -> int:
        """Index of the endpoint with the fewest requests under way, not one of `tried`; -1 when all are at their cap.

        It looks at eight neighbours, from another one on each time: two random choices are what makes this good with
        many endpoints, eight are better and cost as little, and with eight or fewer it is the true minimum. Endpoints
        that health holds back come last: one that refuses at once always has the fewest requests under way.
        """
        pools = self.pools
        count = len(pools)
        self.turn = turn = (self.turn + 1) % count
        if not board.entries and not tried:
            few = [(turn + step) % count for step in range(min(count, CHOICES))]
            best = min(few, key=lambda index: pools[index].outstanding)
            if not pools[best].saturated:
                return best
        rank = self._ranks(board, now)
        order = ((turn + step) % count for step in range(count))
        free = [index for index in order if index not in tried and not pools[index].saturated]
        return min(free, key=lambda index: (rank[index], pools[index].outstanding), default=-1)

    def pick_alike(self, prompt: bytes | memoryview, tried: tuple[int, ...], board: Board, now: float) -> int:
        """`pick` for a prompt that one of the endpoints may have read the beginning of."""
        if self.prefixes is None:
            return self.pick(tried, board, now)
        pools = self.pools
        free = [index for index in range(len(pools)) if index not in tried and not pools[index].saturated]
        if board.entries and free:
            rank = self._ranks(board, now)
            best = min(rank[index] for index in free)
            free = [index for index in free if rank[index] == best]
        if not free:
            return -1
        chosen = self.prefixes.place(prompt, [pool.outstanding if n in free else None for n, pool in enumerate(pools)])
        return chosen if chosen >= 0 else self.pick(tried, board, now)

    def _ranks(self, board: Board, now: float) -> list[bool]:
        """Of each endpoint, whether it had better be left alone."""
        urls = [pool.endpoint.url for pool in self.pools]
        spared = board.wrongly_held(self.name, urls, now)
        return [url not in spared and board.endpoint_held(self.name, url, now) for url in urls]
