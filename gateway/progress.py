"""What commands that take their time show meanwhile: on a terminal one line that is drawn over, elsewhere nothing.

`Progress` and `over` are for work whose end is known, `waiting` for work whose end is not. All of it goes to standard
error, and nothing of it is left when the work is done.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO, TypeVar

T = TypeVar("T")

_WIDTH = 30
_EVERY_S = 0.1
#: What is done sooner than this is not worth a line that would only flash.
AFTER_S = 0.5


class Progress:
    """Counts up to a total. Draws at most ten times a second, and leaves no trace when it is done.

    `after_s` is how long the work may take before there is a line at all.
    """

    def __init__(
        self, what: str, out: TextIO, clock: Callable[[], float] = time.monotonic, *, after_s: float = 0.0
    ) -> None:
        self._what = what
        self._out = out
        self._clock = clock
        self._shown = out.isatty()
        self._next = clock() + after_s if after_s else 0.0
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


def over(items: Sequence[T], what: str, out: TextIO | None = None, *, after_s: float = AFTER_S) -> Iterator[T]:
    """The items, with a bar while they are worked on one after the other."""
    progress = Progress(what, out or sys.stderr, after_s=after_s)
    try:
        for number, item in enumerate(items):
            progress.at(number, len(items))
            yield item
    finally:
        progress.done()


@contextlib.contextmanager
def waiting(what: str, out: TextIO | None = None, *, after_s: float = AFTER_S) -> Iterator[None]:
    """Say what is waited for, where that takes longer than a moment and somebody watches."""
    out = out or sys.stderr
    if not out.isatty():
        yield
        return
    lock = threading.Lock()
    told = ended = False

    def tell() -> None:
        nonlocal told
        with lock:
            if not ended:
                told = True
                out.write(f"\r{what} ...")
                out.flush()

    timer = threading.Timer(after_s, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        with lock:
            ended = True
        if told:
            out.write(f"\r{' ' * (len(what) + 4)}\r")
            out.flush()
