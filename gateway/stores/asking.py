"""One request at limits that replicas share: what it asks the store, what is made of the answer, what it then holds.

The connection, the picture of all limits and what happens while the store is away are in `shared`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gateway.core.money.admission import Gate, Hold, Refused, refused
from gateway.core.money.limits import Budget, Limit
from gateway.stores.resp import Reply
from gateway.stores.script import ADMITTED, REBUILDING, REFUSED, UNKNOWN
from gateway.stores.store import Told

if TYPE_CHECKING:
    from gateway.stores.shared import Shared

#: Microseconds after which to ask again where nobody can tell now.
SOON_US = 1_000_000


class SharedHold(Hold, eq=False, gc=False):
    """What a request holds of shared limits."""

    store: Shared = None  # type: ignore[assignment]
    alone: bool = False  # taken while the store was away: rates there were not drawn on

    def end(self, now_s: float, used: int = 0, spent: int = 0, at_ms: int = 0) -> None:
        """The request is over: everybody is told. HOT where limits are shared."""
        gate = self.gate
        if gate is None:
            return
        super().end(now_s, used, spent, at_ms)
        self.store.settle(gate, 1, 0, 0 if self.alone else used - self.tokens, self.need)

    def cancel(self) -> None:
        """It was never sent: everybody is told."""
        gate = self.gate
        if gate is None:
            return
        super().cancel()
        requests, tokens = (0, 0) if self.alone else (-1, -self.tokens)
        self.store.settle(gate, 1, requests, tokens, self.need)


class Asked:
    """A request that waits for the store's answer."""

    __slots__ = ("again", "gate", "need", "now_ms", "store", "tokens", "told")

    def __init__(self, store: Shared, gate: Gate, amounts: tuple[int, int], now_ms: float, told: Told) -> None:
        self.store = store
        self.gate = gate
        self.tokens, self.need = amounts
        self.now_ms = now_ms
        self.told = told
        self.again = False

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
        if status == UNKNOWN and not self.again and store.up:
            self.again = True
            store.enter(form)
            store.ask(form, self)
            return
        if status == ADMITTED:
            store.see(form, answer, now_s)
            self.told(store.hold(form, answer[3], self.tokens, self.need))
        elif status == REFUSED:
            store.see(form, answer, now_s)
            limit = form.limits[answer[1] - 1]
            self.told(_refused(limit, answer[2], self.need, self.now_ms))
        elif status == REBUILDING:
            self.told(Refused(form.limits[answer[1] - 1], SOON_US, unknown=True))
        else:
            self.told(store.locally(gate, self.tokens, self.need, now_s, self.now_ms))


def _refused(limit: Limit, wait_us: int, need: int, now_ms: float) -> Refused:
    return refused(limit, need, now_ms) if isinstance(limit, Budget) else Refused(limit, wait_us)
