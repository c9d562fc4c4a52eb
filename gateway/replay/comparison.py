"""What another policy changes about recorded requests, added up: by rule, target, model, key and team, with costs.

Here belongs adding up and nothing else: deciding is `core.recorded.replay`'s, pricing `core.recorded.worth`'s, telling
it `telling`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from statistics import median

from gateway.core.decisions.trace import trace, under_budget
from gateway.core.policy import Policy
from gateway.core.recorded.records import Decided, Recorded, fleet_digest
from gateway.core.recorded.replay import NotRecorded, RecordedSignals, Replay, Undecided
from gateway.core.recorded.worth import Cost, Elsewhere
from gateway.core.types import Decision

#: Different changes that are told apart; more are added up as one.
MOST_CHANGES = 500
_TIMES_KEPT = 2_000  # of each target
NOBODY = "(refused)"
#: By what requests are told apart.
ROWS = ("rule", "target", "model", "key", "team")


@dataclass(slots=True)
class Money:
    """Sums in nano-USD: what was spent on some requests, and what they would have cost."""

    spent: int = 0
    low: int = 0
    likely: int = 0
    high: int = 0

    def add(self, spent: int, would: Cost) -> None:
        """Count one request."""
        self.spent += spent
        self.low += would.low
        self.likely += would.likely
        self.high += would.high


@dataclass(slots=True)
class Row:
    """The requests of one rule, target, model, key or team."""

    before: int = 0
    after: int = 0
    changed: int = 0  # of those before
    money: Money = field(default_factory=Money)


@dataclass(slots=True)
class Change:
    """Requests whose decisions changed in the same way, with one of them as an example."""

    before: Decided
    after: Decided
    example: str
    why: str
    count: int = 0
    money: Money = field(default_factory=Money)


@dataclass(slots=True)
class Comparison:
    """Recorded decisions against those of a policy. `add` takes one record at a time."""

    policy: Policy
    in_place_of: frozenset[str] = frozenset()  # policies whose requests it decides; empty: all
    total: int = 0
    elsewhere: int = 0  # decided by other policies
    other_fleet: int = 0
    same_inputs: int = 0  # under this very policy and fleet
    not_reproduced: list[str] = field(default_factory=list)  # of these, whose decision came out differently: a defect
    unchanged: int = 0
    rerouted: int = 0  # another first target
    reordered: int = 0  # other fallbacks only
    reruled: int = 0  # another rule, and nothing else
    rethought: int = 0  # thinking differs
    reshadowed: int = 0  # only what a shadow gets differs
    newly_refused: Counter[str] = field(default_factory=Counter)  # by code
    newly_allowed: int = 0
    refused_otherwise: int = 0
    undecided: Counter[str] = field(default_factory=Counter)  # by what the record lacks
    dropped: Counter[str] = field(default_factory=Counter)  # why a target is not chosen any more
    unpriced: int = 0  # changed, and no cost can be said: no price, or no answer to measure by
    sampled: bool = False
    spent: int = 0  # on all
    money: Money = field(default_factory=Money)  # of changed requests that were answered and would be
    refused_money: Money = field(default_factory=Money)  # of those newly refused: spent, and not spent any more
    allowed_money: Money = field(default_factory=Money)  # of those newly allowed: guesses
    rows: dict[str, dict[str, Row]] = field(default_factory=lambda: {name: {} for name in ROWS})
    changes: dict[Hashable, Change] = field(default_factory=dict)
    other_changes: int = 0
    times: dict[str, list[float]] = field(default_factory=dict)  # seconds to the first event, by target
    moves: Counter[tuple[str, str]] = field(default_factory=Counter)
    capped: frozenset[str] = frozenset()  # keys under a hard budget
    replay: Replay = field(init=False)
    _fleet: str = field(init=False)
    _places: dict[str, Elsewhere] = field(init=False)

    def __post_init__(self) -> None:
        fleet = self.policy.fleet
        self.replay = Replay(self.policy, capped=self.capped)
        self._fleet = fleet_digest(fleet)
        self._places = {target.name: Elsewhere(target, fleet.models) for target in fleet.targets}

    def add(self, recorded: Recorded) -> None:
        """Decide a record again and count what differs. HOT. Raises `Unreadable`."""
        if self.in_place_of and recorded.policy_name not in self.in_place_of:
            self.elsewhere += 1
            return
        found = self.replay.decide(recorded)
        self.total += 1
        self.spent += recorded.result.cost_nano
        if recorded.fleet != self._fleet:
            self.other_fleet += 1
        if recorded.sample < 1:
            self.sampled = True
        first_s = recorded.result.first_s
        if first_s is not None:
            times = self.times.setdefault(recorded.result.target, [])
            if len(times) < _TIMES_KEPT:
                times.append(first_s)
        if type(found) is Undecided:
            self.undecided[found.lacks] += 1
            return
        self._count(recorded, found)  # type: ignore[arg-type]

    def _count(self, recorded: Recorded, decision: Decision) -> None:
        before = recorded.decided
        candidates = tuple([target.name for target in decision.candidates])
        thinking = str(decision.thinking)
        refusal = None if decision.refusal is None else decision.refusal[0]
        shadow = None if decision.shadow is None else (decision.shadow.id, decision.shadow.target.name)
        alike = (
            candidates == before.candidates
            and decision.rule == before.rule
            and refusal == before.refusal
            and thinking == before.thinking
            and shadow == before.shadow
        )
        if recorded.policy == self.policy.label and recorded.fleet == self._fleet:
            self.same_inputs += 1
            if not alike and len(self.not_reproduced) < 20:
                self.not_reproduced.append(recorded.id)
        self._rows(recorded, decision, candidates, changed=not alike)
        if alike:
            self.unchanged += 1
            return
        after = Decided(decision.rule, candidates, thinking, decision.thinking.rule, refusal, shadow)
        change = self._change(recorded, decision, after)
        if refusal is not None and before.refusal is None:
            self.newly_refused[refusal] += 1
            self.refused_money.spent += recorded.result.cost_nano
        elif refusal is None and before.refusal is not None:
            self.newly_allowed += 1
            guess = self._places[candidates[0]].guess(recorded)
            if guess is None:
                self.unpriced += 1
            else:
                self.allowed_money.add(0, guess)
        elif refusal is not None:
            self.refused_otherwise += 1
        else:
            self._rerouted(recorded, after, change)

    def _rerouted(self, recorded: Recorded, after: Decided, change: Change | None) -> None:
        """Count a request that was served and would be, elsewhere or otherwise."""
        before = recorded.decided
        moved = after.candidates[0] != before.candidates[0]
        if moved:
            self.rerouted += 1
        elif after.thinking != before.thinking:
            self.rethought += 1
        elif after.candidates != before.candidates:
            self.reordered += 1
        elif after.rule != before.rule:
            self.reruled += 1
        else:
            self.reshadowed += 1
        if not moved and after.thinking == before.thinking:
            return
        answers = _answers(recorded, after.candidates)
        self.moves[recorded.result.target, answers] += 1
        would = self._places[answers].cost(recorded, after.thinking)
        if would is None or not recorded.result.priced:
            self.unpriced += 1
            return
        spent = recorded.result.cost_nano
        self.money.add(spent, would)
        if change is not None:
            change.money.add(spent, would)
        for name, value in _dimensions(recorded, self._places).items():
            self.rows[name][value].money.add(spent, would)

    def _rows(self, recorded: Recorded, decision: Decision, candidates: tuple[str, ...], *, changed: bool) -> None:
        first = decision.candidates[0] if decision.candidates else None
        after = {
            "rule": decision.rule or NOBODY,
            "target": NOBODY if first is None else first.name,
            "model": NOBODY if first is None else first.model.id,
        }
        for name, value in _dimensions(recorded, self._places).items():
            rows = self.rows[name]
            row = rows.get(value)
            if row is None:
                row = rows[value] = Row()
            row.before += 1
            row.changed += changed
            then = after.get(name, value)
            if then != value:
                row = rows.get(then)
                if row is None:
                    row = rows[then] = Row()
            row.after += 1

    def _change(self, recorded: Recorded, decision: Decision, after: Decided) -> Change | None:
        before = recorded.decided
        first = after.candidates[:1]
        key = (before.rule, before.candidates[:1], before.thinking, before.refusal,
               after.rule, first, after.thinking, after.refusal)  # fmt: skip
        change = self.changes.get(key)
        if change is None:
            if len(self.changes) >= MOST_CHANGES:
                self.other_changes += 1
                return None
            change = self.changes[key] = Change(before, after, recorded.id, self._why(recorded, after))
        change.count += 1
        if change.why:
            self.dropped[change.why] += 1
        return change

    def _why(self, recorded: Recorded, after: Decided) -> str:
        """Why the target that was first is so no more, where the record tells."""
        if not recorded.decided.candidates or recorded.decided.candidates[:1] == after.candidates[:1]:
            return ""
        was = recorded.decided.candidates[0]
        if was not in self._places:
            return "is not in this fleet"
        if was in after.candidates:
            return "comes behind others"
        signals = RecordedSignals(recorded, self.policy)
        try:
            told = trace(self.policy, signals, self.replay.snapshot(recorded), pinned=self.replay.pinned(recorded))
        except NotRecorded:
            return "is dropped"
        if recorded.key in self.capped:
            told = under_budget(told)
        return ", ".join(told.reasons.get(was, ()))


def _dimensions(recorded: Recorded, places: dict[str, Elsewhere]) -> dict[str, str]:
    decided, result = recorded.decided, recorded.result
    first = decided.candidates[0] if decided.candidates else NOBODY
    model = result.model
    if first != result.target:
        model = places[first].target.model.id if first in places else first
    return {
        "rule": decided.rule or NOBODY,
        "target": first,
        "model": model,
        "key": recorded.key,
        "team": recorded.team or "(none)",
    }


def _answers(recorded: Recorded, candidates: tuple[str, ...]) -> str:
    """Who would have answered: the first candidate that was not seen to fail on this very request."""
    failed = {name for name, _ in recorded.result.failed}
    return next((name for name in candidates if name not in failed), candidates[0])


def usual_s(times: list[float]) -> float | None:
    """The middle of some times; None of none."""
    return median(times) if times else None
