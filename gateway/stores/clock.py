"""What time it is by the clock of a shared store, and how far the clock of this machine is from that.

Periods of shared budgets go by it, so that all replicas begin them together. It goes on by the monotonic clock from
what was last heard, also while the store is away, so that neither a wrong clock here nor one that is set begins or ends
a period. What follows from a period that begins is elsewhere.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

logger = logging.getLogger("pointsman")

#: Seconds by which a clock is off that is told of, and by which it may be.
OFF_S, JUMP_S = 2.0, 1.0


class StoreClock:
    """The clock of one store, as last heard."""

    def __init__(self, store: object) -> None:
        self.wall: Callable[[], float] = time.time
        self.off_s = 0.0  # the clock of this machine is so much ahead of the store's
        self._store = store  # what it is called in the log
        self._told = False
        self._since_s: float | None = None  # it is so much ahead of the monotonic clock; None: not known yet

    @property
    def known(self) -> bool:
        """Was it ever heard?"""
        return self._since_s is not None

    def date(self, now_s: float) -> float:
        """Unix seconds by the store's clock where this machine's says `now_s`: those, until it was heard."""
        return now_s if self._since_s is None else time.monotonic() + self._since_s

    def ahead_ms(self) -> int:
        """By how much it is ahead of this machine's."""
        now_s = self.wall()
        return int((self.date(now_s) - now_s) * 1_000)

    def hear(self, server_us: int) -> bool:
        """The store has said what time it is. Is that another one than it was taken to be?

        It may have been said a round trip ago: so it is never taken to be later than it is.
        """
        before = self._since_s
        self._since_s = since_s = server_us / 1e6 - time.monotonic()
        self.off_s = off_s = self.wall() - server_us / 1e6
        if abs(off_s) < JUMP_S:
            self._told = False
        elif abs(off_s) >= OFF_S and not self._told:
            self._told = True
            logger.warning(
                "the clock of this machine is %.0f s %s that of store %s, by which periods of budgets begin and end",
                abs(off_s),
                "ahead of" if off_s > 0 else "behind",
                self._store,
            )
        return abs(off_s if before is None else since_s - before) >= JUMP_S

    def told(self) -> dict[str, str | float]:
        """How far this machine's clock is ahead, where that is worth telling."""
        return {"clock_off_s": round(self.off_s, 1)} if abs(self.off_s) >= OFF_S else {}
