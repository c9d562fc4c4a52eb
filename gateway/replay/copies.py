"""What shadows did and cost, added up from their lines: by the rule whose requests were copied and the target asked.

None of it is in what requests cost, so none of it is in a comparison: `savings` tells it beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gateway.core.recorded.records import Copied
from gateway.core.types import Outcome


@dataclass(slots=True)
class Copy:
    """The shadows of one rule at one target, or of all of them. Costs are nano-USD."""

    count: int = 0
    failed: int = 0  # not answered, or not whole
    unpriced: int = 0  # used tokens, at a target without a price
    cost_nano: int = 0

    def add(self, copied: Copied) -> None:
        """Count one."""
        self.count += 1
        self.failed += copied.outcome != Outcome.OK.value
        self.unpriced += copied.usage is not None and not copied.priced
        self.cost_nano += copied.cost_nano

    def to_dict(self) -> dict[str, int]:
        """Plain JSON values."""
        return {
            "shadows": self.count,
            "failed": self.failed,
            "unpriced": self.unpriced,
            "spent_nano_usd": self.cost_nano,
        }


@dataclass(slots=True)
class Copies:
    """All of them. `add` takes one line at a time."""

    total: Copy = field(default_factory=Copy)
    by: dict[tuple[str, str], Copy] = field(default_factory=dict)  # rule, target

    def add(self, copied: Copied) -> None:
        """Count one."""
        self.total.add(copied)
        of = (copied.rule, copied.target)
        one = self.by.get(of)
        if one is None:
            one = self.by[of] = Copy()
        one.add(copied)

    def dearest(self) -> list[tuple[tuple[str, str], Copy]]:
        """By rule and target, the dearest first."""
        return sorted(self.by.items(), key=lambda one: (-one[1].cost_nano, one[0]))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values. Costs are nano-USD."""
        by = [{"rule": rule, "target": target, **one.to_dict()} for (rule, target), one in sorted(self.by.items())]
        return {**self.total.to_dict(), "by": by}
