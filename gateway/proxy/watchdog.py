"""Whether the event loop turns: what stands still for long is told, with where it stands.

Everything that a client waits for happens on one loop; a call that blocks it holds up every stream. The loop itself
counts for how long it stood, as soon as it turns again. A thread beside it looks meanwhile: it alone can say where. A
call that keeps the interpreter to itself keeps the thread from looking, too, and is only counted.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Iterator

from gateway.proxy.clocks import Wheel
from gateway.telemetry import families
from gateway.telemetry.series import Kept, Rows

logger = logging.getLogger("pointsman")

#: Standing still for less is not told: a large request may take the loop for 60 ms, a busy machine for longer.
BLOCKED_S = 1.0
#: From here on the process says that it is not ready, and for a while after: others had better take its requests.
UNREADY_S = 5.0
RECOVERY_S = 5.0
_LOOK_S = 0.25
_FRAMES = 30


class Watchdog:
    """Watches the loop of the thread that makes it. `ready` and `read` belong to the loop, as does `turned`."""

    def __init__(self, wheel: Wheel) -> None:
        self.blocked_s = 0.0
        self._wheel = wheel
        self._loop_thread = threading.get_ident()
        self._ready_at = 0.0  # monotonic
        self._told = 0.0  # what was due of the loop when its stack was told
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        wheel.late = self.turned
        wheel.late_s = BLOCKED_S

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._ending.set()
        self._thread.join()

    def turned(self, late_s: float) -> None:
        """The loop turns again, so much later than it was due."""
        self.blocked_s += late_s
        if late_s > UNREADY_S:
            self._ready_at = time.monotonic() + RECOVERY_S
        logger.warning("the event loop stood still for %.1f s: every stream waited", late_s)

    @property
    def ready(self) -> bool:
        """The loop does not stand still for seconds, nor did so just now."""
        now = time.monotonic()
        return now >= self._ready_at and now - self._wheel.soon <= UNREADY_S

    def read(self) -> Iterator[Kept]:
        """What a scrape is told."""
        yield Rows(families.LOOP_BLOCKED, [((), self.blocked_s)])

    def _run(self) -> None:
        while not self._ending.wait(_LOOK_S):
            due = self._wheel.soon
            if time.monotonic() - due > BLOCKED_S and due != self._told:
                self._told = due
                lines = self._where()
                logger.warning("the event loop stands still: no stream moves until it returns", extra={"lines": lines})

    def _where(self) -> list[str]:
        """The loop's stack. A frame that outlived this would keep the request alive that it served."""
        frame = sys._current_frames().get(self._loop_thread)
        stack = [] if frame is None else traceback.extract_stack(frame, limit=_FRAMES)
        return [line for entry in traceback.format_list(stack) for line in entry.splitlines()]
