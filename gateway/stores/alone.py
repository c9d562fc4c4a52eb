"""The part of shared limits that a replica keeps by itself while the store is away.

Of rates and places one in as many as there were replicas, of hard budgets what was leased ahead. When that is, and what
is admitted then, is in `shared`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from gateway.core.money.admission import Gate
from gateway.core.money.limits import Cap, Rate, Slots


class Alone:
    """Which limits are divided now, and what they are as a whole."""

    def __init__(self) -> None:
        self._whole: dict[Rate | Slots, Cap] = {}

    def begin(self, gates: Iterable[Gate], replicas: int) -> None:
        """Keep one part of so many."""
        now_s = time.monotonic()
        for gate in gates:
            limits: tuple[Rate | Slots, ...] = (*gate.requests, *gate.tokens, *gate.slots)
            for limit in limits:
                self._whole[limit] = cap = Cap(limit.limit, limit.shadow)
                limit.divide(cap, replicas, now_s)
            self.lease(gate)

    @staticmethod
    def lease(gate: Gate) -> None:
        """Spend of hard budgets no more than what is leased."""
        for budget in gate.budgets:
            if budget.mode == "hard":
                budget.alone()

    def end(self, now_s: float) -> None:
        """All of them are whole again."""
        for limit, cap in self._whole.items():
            limit.adopt(cap, now_s)
        self._whole.clear()

    def forget(self) -> None:
        """They were made whole by a new configuration."""
        self._whole.clear()
