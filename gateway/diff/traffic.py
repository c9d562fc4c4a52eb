"""What another version of a policy does to recorded requests: both decide every record, differences are counted.

Deciding records is `core.recorded.replay`'s business, pricing them `core.recorded.worth`'s, reading them
`gateway.replay`'s. Comparing the two versions, and not the new one with what was once decided, shows this change alone.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

from gateway.core.policy import Policy
from gateway.core.recorded.records import Recorded
from gateway.core.recorded.replay import Replay, Undecided
from gateway.core.recorded.worth import Elsewhere
from gateway.core.types import Decision


@dataclass(slots=True)
class Traffic:
    """Recorded requests under two versions of a policy. Sums are nano-USD over those whose target or thinking differ.

    A move is from (rule, target) to (rule, target); the target of a refusal is its code in brackets.
    """

    records: int = 0
    undecided: int = 0  # by either version, for the record lacks what it asks
    same: int = 0
    otherwise: int = 0  # the same rule, target and thinking, with other fallbacks
    moves: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    newly_refused: Counter[str] = field(default_factory=Counter)
    newly_served: int = 0
    before_nano: int = 0
    after_low_nano: int = 0
    after_nano: int = 0
    after_high_nano: int = 0
    unpriced: int = 0  # moved, and no difference of cost can be said

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        names = ("rule_before", "before", "rule_after", "after")
        moves = [{**dict(zip(names, key, strict=True)), "requests": n} for key, n in self.moves.most_common()]
        plain = {one.name: getattr(self, one.name) for one in fields(self)}
        return {**plain, "moves": moves, "newly_refused": dict(self.newly_refused)}


class Versions:
    """Two versions of a policy on the fleet that serves, deciding one record after the other."""

    def __init__(self, before: Policy, after: Policy) -> None:
        self.found = Traffic()
        self.name = before.name
        self._before = Replay(before)
        self._after = Replay(after)
        self._places = {target.name: Elsewhere(target, after.fleet.models) for target in after.fleet.targets}

    def add(self, recorded: Recorded) -> None:
        """Decide one record by both and count. Raises `Unreadable` for a record that cannot be true."""
        found = self.found
        old, new = self._before.decide(recorded), self._after.decide(recorded)
        found.records += 1
        if isinstance(old, Undecided) or isinstance(new, Undecided):
            found.undecided += 1
            return
        before, after = _where(old), _where(new)
        if before == after and old.thinking == new.thinking:
            alike = old.candidates == new.candidates
            found.same += alike
            found.otherwise += not alike
            return
        found.moves[(*before, *after)] += 1
        if new.refusal is not None and old.refusal is None:
            found.newly_refused[new.refusal[0]] += 1
        found.newly_served += old.refusal is not None and new.refusal is None
        if old.refusal is None and new.refusal is None:
            self._cost(recorded, old, new)

    def _cost(self, recorded: Recorded, old: Decision, new: Decision) -> None:
        """Both sides at today's prices: what was booked may be of a target that failed over."""
        one = self._places[old.candidates[0].name].cost(recorded, str(old.thinking))
        other = self._places[new.candidates[0].name].cost(recorded, str(new.thinking))
        if one is None or other is None:
            self.found.unpriced += 1
            return
        self.found.before_nano += one.likely
        self.found.after_low_nano += other.low
        self.found.after_nano += other.likely
        self.found.after_high_nano += other.high


def _where(decision: Decision) -> tuple[str, str]:
    target = f"({decision.refusal[0]})" if decision.refusal else decision.candidates[0].name
    return decision.rule or "(no rule)", target
