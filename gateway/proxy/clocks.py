"""One coarse timer wheel for every deadline of the data plane.

Connections are long-lived and re-arm on every request, so arming must cost next to nothing: a deadline that moves
later is a plain attribute store, found out when the old slot comes round. What a deadline means is the owner's
business (`on_due`); this file only says when. Nothing here is exact to better than one tick.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

TICK_S = 0.1
#: No entry is parked further ahead than this, so that the wheel never keeps a closed connection alive for long.
HORIZON_SLOTS = 50
HORIZON_S = HORIZON_SLOTS * TICK_S
NEVER = float("inf")
#: A tick that comes so late was held up, and so was the reading of what has arrived.
HELD_UP_S = 0.5

logger = logging.getLogger("pointsman")


class Timed:
    """Something with at most one deadline. Subclasses say in `on_due` what happens when it passes."""

    __slots__ = ("due", "slot")

    def __init__(self) -> None:
        self.due = NEVER
        self.slot = 0

    def on_due(self, now: float) -> None:
        """Called once when the deadline has passed; the timer is disarmed before."""
        raise NotImplementedError


class Wheel:
    """The wheel. `now` is the monotonic clock as of the last tick, for users who can live with 0.1 s.

    `soon` is when the next tick is due, and `late` is told by how much one was late, if by more than `late_s`.
    """

    __slots__ = ("_handle", "_last", "_let_read", "_loop", "_slots", "late", "late_s", "now", "soon")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots: dict[int, list[Timed]] = {}
        self.now = time.monotonic()
        self.soon = self.now + TICK_S
        self.late: Callable[[float], None] = lambda late_s: None
        self.late_s = NEVER
        self._last = int(self.now / TICK_S)
        self._handle: asyncio.TimerHandle | None = None
        self._let_read = False  # the last tick was too late to judge by

    def start(self) -> None:
        """Start ticking on the loop."""
        self.advance(time.monotonic())
        self._handle = self._loop.call_later(TICK_S, self._run)

    def stop(self) -> None:
        """Stop ticking; armed deadlines never come due."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def arm(self, item: Timed, after_s: float) -> None:
        """Set the item's only deadline to `after_s` seconds from the last tick (so up to one tick early)."""
        item.due = self.soon + after_s
        # A slot comes round within the horizon, and the deadline is looked at then.
        if after_s < HORIZON_S or not item.slot:
            self._park(item)

    def _park(self, item: Timed) -> None:
        slot = min(int(item.due / TICK_S) + 1, self._last + HORIZON_SLOTS)
        if item.slot and item.slot <= slot:
            return
        item.slot = slot
        bucket = self._slots.get(slot)
        if bucket is None:
            self._slots[slot] = [item]
        else:
            bucket.append(item)

    def _run(self) -> None:
        self._handle = self._loop.call_later(TICK_S, self._run)
        now = time.monotonic()
        late_s = now - self.soon
        if late_s > self.late_s:
            self.late(late_s)
        if late_s > HELD_UP_S and not self._let_read:
            # No clock may run out for what is there and could not be read: that comes first, before the next tick.
            self._let_read = True
            self.now = now
            self.soon = now + TICK_S
        else:
            self._let_read = False
            self.advance(now)

    def advance(self, now: float) -> None:
        """Turn the wheel to `now`, firing what is due. Separate from the loop so that tests need no waiting."""
        self.now = now
        self.soon = now + TICK_S
        current = int(now / TICK_S)
        for number in range(self._last + 1, current + 1):
            bucket = self._slots.pop(number, None)
            self._last = number
            if bucket is None:
                continue
            for item in bucket:
                if item.slot != number:
                    continue  # moved to an earlier slot since, and handled there
                item.slot = 0
                if item.due <= now:
                    item.due = NEVER
                    try:
                        item.on_due(now)
                    except Exception:  # the edge that must hold: all others of this tick have deadlines, too
                        logger.exception("a deadline could not be kept")
                elif item.due != NEVER:
                    self._park(item)
