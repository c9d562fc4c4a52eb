"""What a process gives up as it fills: connections kept open first, then requests by priority, lowest first.

Arithmetic only: how full the process is, is measured by `proxy.shedding`, which also refuses. Streams under way are
never given up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Priority = Literal["low", "normal", "high", "critical"]
#: Refused first to last. A request's rank is its place here.
PRIORITIES: tuple[Priority, ...] = ("low", "normal", "high", "critical")
#: Seconds after which a refused request may come again, by rank; each is told up to as much more, so that they spread.
_AFTER_S = (8.0, 4.0, 2.0, 1.0)


@dataclass(frozen=True, slots=True)
class Steps:
    """Shares of what the process can take, 0 to 1, from which something is given up. Ascending.

    From `keep_alive` on connections are closed after their answers; from `low`, `normal` and `high` on requests of that
    priority are refused. What lies above `high` is there for `critical` alone.
    """

    keep_alive: float
    low: float
    normal: float
    high: float

    @property
    def by_rank(self) -> tuple[float, float, float, float]:
        """From which share on each priority is refused."""
        return self.low, self.normal, self.high, 1.0

    def rooms(self, most: int) -> tuple[int, ...]:
        """Of `most` places, how many may be taken before each rank is refused; at least one.

        >>> Steps(0.7, 0.75, 0.85, 0.95).rooms(100)
        (75, 85, 95, 100)
        """
        return tuple(_part(most, share) for share in self.by_rank)

    def keeps(self, most: int) -> int:
        """Of `most` places, how many may be taken before connections are no longer kept open."""
        return _part(most, self.keep_alive)


def _part(most: int, share: float) -> int:
    return max(1, math.ceil(most * share - 1e-6))


def rank_of(key: Priority, asked: Priority | None) -> int:
    """The rank of a request: a client may ask for less than its key has, never for more.

    >>> rank_of("high", "low"), rank_of("low", "critical")
    (0, 0)
    """
    rank = PRIORITIES.index(key)
    return rank if asked is None else min(rank, PRIORITIES.index(asked))


def retry_after_s(rank: int, draw: float) -> float:
    """Seconds after which a refused request may come again; `draw` is in [0, 1)."""
    return _AFTER_S[rank] * (1.0 + draw)
