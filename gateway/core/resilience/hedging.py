"""When a second target is asked beside a first one that is slow to begin, and how often that may be: pure state.

A hedge cuts the longest waits and costs a request more, so it comes late, seldom and never in a crowd: after a time
that few answers take, of at most one request in fifty, and not where much is under way. Who is asked is `failover`'s
business; how two attempts run beside each other is `proxy.hedging`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

#: Hedges at most, as a share of the requests that may have one; and how many of them may be saved up.
SHARE = 0.02
MOST_SAVED = 3.0
#: Times to the first event that are remembered of a target, how many it takes to know a percentile, and how often it
#: is worked out anew.
WINDOW = 200
LEAST = 20
EVERY = 10
#: A hedge never comes sooner: two targets would answer nearly every request.
SOONEST_S = 0.1


@dataclass(frozen=True, slots=True)
class Hedge:
    """After how long without a first event a stream is asked for a second time, elsewhere: one of the two."""

    after_s: float | None = None
    percentile: int | None = None  # of the target's own times to the first event


class Pace:
    """How long one target takes to its first event, and so when a hedge may follow. Times are seconds."""

    __slots__ = ("_heard", "_times", "after_s", "hedge")

    def __init__(self, hedge: Hedge) -> None:
        self.hedge = hedge
        self.after_s = hedge.after_s  # None: not known yet
        self._times: deque[float] = deque(maxlen=WINDOW)
        self._heard = 0

    def heard(self, first_event_s: float) -> None:
        """A first event came after this time, or had not come by then. HOT where a backend hedges."""
        percentile = self.hedge.percentile
        if percentile is None:
            return
        times = self._times
        times.append(first_event_s)
        self._heard += 1
        if len(times) >= LEAST and not self._heard % EVERY:
            rank = -(-percentile * len(times) // 100)
            self.after_s = max(SOONEST_S, sorted(times)[rank - 1])


class HedgeBudget:
    """How many hedges there may be. One per process; starts with none."""

    __slots__ = ("saved",)

    def __init__(self) -> None:
        self.saved = 0.0

    def asked(self) -> None:
        """A request was sent that may have one."""
        self.saved = min(MOST_SAVED, self.saved + SHARE)

    def take(self) -> bool:
        """Use one; False where there is none left."""
        if self.saved < 1.0:
            return False
        self.saved -= 1.0
        return True
