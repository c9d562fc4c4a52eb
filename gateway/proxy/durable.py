"""`durability: full`: what a turn of the loop sends waits until the journal is on the disk, not only with the kernel.

One thread waits for the disk; turns that end meanwhile wait together for its next turn, so that many requests share one
wait. Order is kept: nothing overtakes what waits. The usual way, without waiting, is `outbox`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

#: Hands over what one turn left to be sent.
HandOver = Callable[[], None]


class Durable:
    """What waits for the disk. On the event loop; `sync` gives the work for the thread, or is called in place."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sync: Callable[[], Callable[[], None]]) -> None:
        self._loop = loop
        self._sync = sync
        self._waiting: list[HandOver] = []
        self._working = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sync")

    def after(self, hand_over: HandOver, *, wrote: bool) -> None:
        """Hand over once all that was written to the journal is on the disk; at once where nothing waits for it."""
        if not wrote and not self._working:
            hand_over()
            return
        self._waiting.append(hand_over)
        if not self._working:
            self._begin()

    def now(self) -> None:
        """Wait for the disk here and now."""
        self._sync()()

    def _begin(self) -> None:
        self._working = True
        ready, self._waiting = self._waiting, []
        done = self._thread.submit(self._sync())
        done.add_done_callback(lambda future: self._tell(ready, future))

    def _tell(self, ready: list[HandOver], _: Future[None]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._done, ready)

    def _done(self, ready: list[HandOver]) -> None:
        self._working = False
        for hand_over in ready:
            hand_over()
        if self._waiting:
            self._begin()

    def close(self) -> None:
        """Hand over what waits: the journal is closed, or about to be."""
        self._thread.shutdown(wait=True)
        waiting, self._waiting = self._waiting, []
        for hand_over in waiting:
            hand_over()
