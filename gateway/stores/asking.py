"""One request at limits that replicas share: what it asks the store, what is made of the answer, what it then holds.

The connection, the picture of all limits and what happens while the store is away are in `shared`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gateway.core.money.admission import Gate, Hold, Refused, refused
from gateway.core.money.limits import Budget, Limit
from gateway.stores.resp import Reply
from gateway.stores.script import ADMITTED, ANOTHER, REBUILDING, REFUSED, UNKNOWN
from gateway.stores.store import Told

if TYPE_CHECKING:
    from gateway.stores.shared import Shared

#: Microseconds after which to ask again where nobody can tell now.
SOON_US = 1_000_000
#: How often a request is asked for: the store may not know this replica, or be in another period than it.
_TRIES = 3


class SharedHold(Hold, eq=False, gc=False):
    """What a request holds of shared limits."""

    store: Shared = None  # type: ignore[assignment]
    alone: bool = False  # taken while the store was away: rates there were not drawn on
    since_us: int = 0  # when it was taken, and when its money was; by the clock of the server
    paid_us: int = 0

    def take_over(self, other: Hold) -> None:
        """As of any hold; its money is of the period in which it was last asked for."""
        super().take_over(other)
        if isinstance(other, SharedHold):
            self.paid_us = max(self.paid_us, other.paid_us)

    def charge(self, spent: int, at_ms: int) -> None:
        """As of any hold, by the clock that says which period it is."""
        super().charge(spent, self._dated(at_ms))

    def _dated(self, at_ms: int) -> int:
        """When an attempt began by the clock of the server: not before there was money for it."""
        return max(self.paid_us // 1_000, at_ms + self.store.clock.ahead_ms())

    def end(self, now_s: float, used: int = 0, spent: int = 0, at_ms: int = 0) -> None:
        """The request is over: everybody is told. HOT where limits are shared."""
        gate = self.gate
        if gate is None:
            return
        super().end(now_s, used, spent, self._dated(at_ms) if gate.budgets else 0)
        by = 0 if self.alone else used - self.tokens
        self.store.settle(gate, (1, 0, by, self.need, self.since_us))

    def cancel(self) -> None:
        """It was never sent: everybody is told."""
        gate = self.gate
        if gate is None:
            return
        super().cancel()
        requests, tokens = (0, 0) if self.alone else (-1, -self.tokens)
        self.store.settle(gate, (1, requests, tokens, self.need, 0))


class Asked:
    """A request that waits for the store's answer."""

    __slots__ = ("gate", "need", "now_ms", "store", "tokens", "told", "tries")

    def __init__(self, store: Shared, gate: Gate, amounts: tuple[int, int], now_ms: float, told: Told) -> None:
        self.store = store
        self.gate = gate
        self.tokens, self.need = amounts
        self.now_ms = now_ms
        self.told = told
        self.tries = 1

    def answer(self, reply: Reply) -> None:
        """Tell who asked. HOT where limits are shared."""
        store, gate = self.store, self.gate
        now_s = time.monotonic()
        answer = store.numbers("admit", reply)
        if answer is None:
            self.told(store.locally(gate, self.tokens, self.need, now_s, self.now_ms))
            return
        form = store.form(gate)
        status = answer[0]
        if status in (UNKNOWN, ANOTHER) and self.tries < _TRIES and store.up:
            self.tries += 1
            if status == UNKNOWN:
                store.enter(form)
            else:
                store.follow_to(form, answer)
            store.ask(store.form(gate), self)
            return
        if status == ADMITTED:
            store.see(form, answer, now_s)
            self.told(store.hold(form, answer, self.tokens, self.need))
        elif status == REFUSED:
            store.see(form, answer, now_s)
            limit = form.limits[answer[1] - 1]
            self.told(_refused(limit, answer[2], self.need, answer[4] / 1_000))
        elif status == REBUILDING:
            self.told(Refused(form.limits[answer[1] - 1], SOON_US, unknown=True))
        else:
            self.told(store.locally(gate, self.tokens, self.need, now_s, self.now_ms))


def _refused(limit: Limit, wait_us: int, need: int, now_ms: float) -> Refused:
    return refused(limit, need, now_ms) if isinstance(limit, Budget) else Refused(limit, wait_us)
