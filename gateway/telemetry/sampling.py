"""Which unremarkable requests have a line in the log: all of them, or under load one of 2, 4, 8, ... by their ids.

Every line says how many requests it stands for, so that sums over lines come out right whatever was left out. Ids that
are in a small sample are in every larger one, and so are decision records: what is joined by its id is there in both.
What is remarkable never comes here.
"""

from __future__ import annotations

#: No fewer than one of so many: 16 random bits of an id can tell apart no more.
RAREST = 1 << 16


class Sampling:
    """On the event loop. `above`: lines a second beyond which requests are left out; 0: never."""

    __slots__ = ("_ends_at", "_room", "_seen", "above", "below", "left_out", "one_of")

    def __init__(self, above: int) -> None:
        self.above = above
        self.one_of = 1  # requests that a line stands for
        self.below = "10000"  # what a request's 16 bits, as text behind a 0, must be less than
        self.left_out = 0
        self._seen = 0  # in this second
        self._room = above
        self._ends_at = 0.0

    def saw(self, count: int, now: float) -> None:
        """Take in that so many requests ended at monotonic second `now`. HOT."""
        if now >= self._ends_at:
            self._next(now)
        self._seen += count
        if self._seen > self._room:
            self._more()

    def takes(self, request_id: str) -> bool:
        """Whether the request of this id has a line."""
        taken = "0" + request_id[12:16] < self.below
        self.left_out += not taken
        return taken

    def _next(self, now: float) -> None:
        """A second is over: the next one is taken to be like it, unless nothing came for longer than that."""
        seen = self._seen if now < self._ends_at + 1.0 else 0
        self._ends_at = now + 1.0
        self._seen = 0
        one_of = 1
        while self.above and seen > self.above * one_of and one_of < RAREST:
            one_of *= 2
        self._set(one_of)

    def _more(self) -> None:
        """More came in this second than there is room for."""
        if self.above and self.one_of < RAREST:
            self._set(2 * self.one_of)
        else:
            self._room = 1 << 62

    def _set(self, one_of: int) -> None:
        self.one_of = one_of
        self.below = f"{0x10000 // one_of:05x}"
        self._room = self.above * one_of if self.above else 1 << 62
