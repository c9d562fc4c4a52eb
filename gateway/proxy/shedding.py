"""Who is refused when the process is full, and what gives way before.

The shares from which something is given up are in `core.resilience.overload`, how short memory is in `pressure`. A
request pays one comparison for all this as long as there is room; the rest is worked out once a second and where a
threshold is passed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from gateway.core.errors import Unavailable
from gateway.core.resilience.overload import PRIORITIES, retry_after_s
from gateway.proxy.pressure import FULL, LOW
from gateway.telemetry import families
from gateway.telemetry.series import Kept, Rows

if TYPE_CHECKING:
    from gateway.limits import Limits
    from gateway.proxy.downstream import ClientConnection
    from gateway.proxy.runtime import Runtime

#: An idle connection is left this long before it may have to make room for another one.
LEAST_IDLE_S = 1.0
#: Of the connections there may be, the part that makes room in one go: looking at all of them takes its time.
_AT_ONCE = 100
_STRANGER = -1
_NOBODY = "none"
#: The golden ratio: steps of it spread evenly, however many there are.
_SPREAD = 0.618
_WORDS = {
    "requests": "The gateway has as many requests under way as it may have of this priority.",
    "memory": "The gateway is short of memory.",
    "uploads": "Too much request data is being uploaded.",
}


class Shedding:
    """What the process has under way, against what it may have. Belongs to the event loop."""

    def __init__(self, runtime: Runtime) -> None:
        self.asks_from = 0  # requests under way from which a further one has to ask
        self.connections: Collection[ClientConnection] = ()  # set by who accepts them
        self.counts: Counter[tuple[str, str]] = Counter()
        self._runtime = runtime
        self._limits: Limits
        self._rooms: tuple[int, ...] = ()
        self._keeps = 0
        self._looked_at = 0.0  # when connections were last looked at for one that is idle, by the wheel
        self._draw = 0.0

    def adopt(self, limits: Limits) -> None:
        """Keep to the limits of a new configuration."""
        self._limits = limits
        self._rooms = limits.steps.rooms(limits.max_inflight)
        self._keeps = limits.steps.keeps(limits.max_inflight)
        self.look()

    def look(self) -> None:
        """Once a second, behind whoever measures memory and says there whether connections are kept; and when full."""
        runtime = self._runtime
        if len(runtime.exchanges) >= self._keeps or len(self.connections) >= self._limits.steps.keeps(
            self._limits.max_connections
        ):
            runtime.closing = True
        self.asks_from = 0 if runtime.pressure >= LOW else min(self._keeps, self._rooms[0])

    def refusal(self, rank: int) -> Unavailable | None:
        """Why a request of this rank is refused now, if it is. For who has found `asks_from` under way."""
        self.look()
        if len(self._runtime.exchanges) >= self._rooms[rank]:
            return self._refused("requests", rank)
        pressure = self._runtime.pressure
        if pressure >= FULL or (pressure >= LOW and not rank):
            return self._refused("memory", rank)
        return None

    def upload(self, rank: int) -> Unavailable | None:
        """Why a request of this rank may not go on uploading, if it may not."""
        runtime = self._runtime
        if runtime.buffered <= runtime.may_buffer * self._limits.steps.by_rank[rank]:
            return None
        return self._refused("uploads", rank)

    def _refused(self, reason: str, rank: int) -> Unavailable:
        self.counts[reason, PRIORITIES[rank]] += 1
        return Unavailable("overloaded", _WORDS[reason], retry_after_s=self._after_s(rank))

    def _after_s(self, rank: int) -> float:
        self._draw = (self._draw + _SPREAD) % 1.0
        return retry_after_s(rank, self._draw)

    # -- connections --

    def crowded(self, now: float) -> Unavailable | None:
        """Why a connection that has just been made is refused, if it is; one that is idle makes room for it if it can.

        First who has never shown a valid key, then who did by priority, of each the longest idle; nobody's who is
        critical. `now` is the wheel's.
        """
        most = self._limits.max_connections
        if len(self.connections) <= most:
            return None
        if now > self._looked_at:
            self._looked_at = now
            if self._make_room(now, max(1, most // _AT_ONCE)):
                return None
        self.counts["connections", _NOBODY] += 1
        return Unavailable("overloaded", "Too many connections.", retry_after_s=self._after_s(1))

    def _make_room(self, now: float, most: int) -> int:
        idle = [(*found, id(one), one) for one in self.connections if (found := one.idle(now)) is not None]
        victims = [entry for entry in sorted(idle)[:most] if entry[0] < len(PRIORITIES) - 1]
        for rank, *_, one in victims:
            self.counts["idle", _NOBODY if rank == _STRANGER else PRIORITIES[rank]] += 1
            one.part()
        return len(victims)

    # -- what a scrape is told --

    def read(self) -> Iterator[Kept]:
        """Its series."""
        limits = self._limits
        yield Rows(families.CONNECTIONS, [((), len(self.connections))])
        under_way, connected = len(self._runtime.exchanges), len(self.connections)
        load = [
            (("requests",), under_way / limits.max_inflight),
            (("connections",), connected / limits.max_connections),
        ]
        yield Rows(families.LOAD, load)
        known: list[tuple[str, str]] = [(reason, name) for reason in _WORDS for name in PRIORITIES]
        known += [("connections", _NOBODY), *(("idle", name) for name in (_NOBODY, *PRIORITIES[:-1]))]
        yield Rows(families.SHED, [(one, self.counts[one]) for one in known])
