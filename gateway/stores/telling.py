"""Telling the store of one key, team or target after another what this replica knows: so many at once, and no more.

A configuration may bring thousands of keys, and a day begins for all of them at once. The server runs one call after
another: a request whose call came behind them all would wait for all of them. What is told, and how, is in `shared`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial

from gateway.core.money.admission import Gate

Owner = tuple[str, str]
#: Of which so many are told at once.
AT_ONCE = 100


def owner_of(gate: Gate) -> Owner:
    """Whose limits these are, which are all of one."""
    first = gate.limits[0]
    return first.scope, first.name


def worth(gate: Gate, touched: bool = False) -> bool:
    """Is a new connection told of it? Whoever has rates alone is when it is asked for."""
    return bool(gate.budgets or any(one.used for one in gate.slots) or (gate.slots and touched))


class Telling:
    """Who is still to be told of. `tell` does so and calls back when that was answered; False: none to tell of."""

    def __init__(self, tell: Callable[[Owner, Callable[[], object]], bool]) -> None:
        self._tell = tell
        self._due: deque[Owner] = deque()
        self._known: set[Owner] = set()
        self._under_way = 0
        self._now: set[Owner] = set()

    def add(self, owners: Iterable[Owner]) -> None:
        """Tell of these, too."""
        fresh = [owner for owner in owners if owner not in self._known]
        self._known.update(fresh)
        self._due.extend(fresh)
        self._go_on()

    def now(self, owner: Owner) -> None:
        """Tell of this one before what is asked next; once for all who ask for it at one moment."""
        if owner not in self._now and self._tell(owner, partial(self._now.discard, owner)):
            self._now.add(owner)

    def _go_on(self) -> None:
        while self._due and self._under_way < AT_ONCE:
            owner = self._due.popleft()
            self._known.discard(owner)
            if self._tell(owner, self._answered):
                self._under_way += 1

    def _answered(self) -> None:
        self._under_way -= 1
        self._go_on()
