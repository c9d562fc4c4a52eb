"""A progress bar for commands that take their time: on a terminal one line that is drawn over, elsewhere nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

_WIDTH = 30
_EVERY_S = 0.1


class Progress:
    """Counts up to a total. Draws at most ten times a second, and leaves no trace when it is done."""

    def __init__(self, what: str, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._out = out
        self._clock = clock
        self._shown = out.isatty()
        self._next = 0.0
        self._longest = 0

    def at(self, done: int, total: int) -> None:
        """So many of the total are done."""
        if not self._shown or (now := self._clock()) < self._next:
            return
        self._next = now + _EVERY_S
        share = min(done / max(total, 1), 1.0)
        bar = "#" * round(share * _WIDTH)
        line = f"{self._what} [{bar:<{_WIDTH}}] {share:4.0%} of {total:,}"
        self._longest = max(self._longest, len(line))
        self._out.write(f"\r{line}")
        self._out.flush()

    def done(self) -> None:
        """Wipe the line."""
        if self._longest:
            self._out.write(f"\r{' ' * self._longest}\r")
            self._out.flush()
            self._longest = 0
