"""What of a policy its tests reach: rules, rungs, thinking entries, and constraints that changed something.

A constraint counts when a decision would have come out differently without it: one whose `when` held but which found
nothing to remove has not been seen at work. What is left of a policy's meaning when a part is taken away is asked by
`mutate`; here nothing is changed but that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from gateway.core.decide import decide
from gateway.core.policy import Constraint, Policy
from gateway.core.proving.policytest import Case
from gateway.core.types import Decision

Kind = Literal["rule", "rung", "constraint", "thinking"]


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that tests can reach.

    `reached`: how many tests did. `seen`: of a constraint, in how many tests its `when` held; of a rung, in how many
    it gave the first candidate; else as `reached`.
    """

    kind: Kind
    id: str
    path: str
    reached: int
    seen: int

    def __str__(self) -> str:
        if self.kind == "rung":
            number = int(self.path.rpartition("[")[2].removesuffix("]")) + 1
            return f"rung {number} of {self.id}"
        return f"{self.kind} {self.id}"


@dataclass(frozen=True, slots=True)
class Coverage:
    """What the tests of one policy reach."""

    items: tuple[Item, ...]

    @property
    def reached(self) -> int:
        """How many items some test reaches."""
        return sum(item.reached > 0 for item in self.items)

    @property
    def missed(self) -> tuple[Item, ...]:
        """What no test reaches."""
        return tuple(item for item in self.items if not item.reached)


@dataclass(slots=True)
class _Counts:
    reached: dict[str, int] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)

    def add(self, path: str, *, reached: bool = True, seen: bool = True) -> None:
        self.reached[path] = self.reached.get(path, 0) + reached
        self.seen[path] = self.seen.get(path, 0) + seen


def coverage(policy: Policy, cases: Sequence[Case]) -> Coverage:
    """Run every case and note what it reaches. Rungs that add no target on this fleet are left out: nothing can."""
    counts = _Counts()
    constraints = _paths(policy)
    for case in cases:
        decision = _decide(policy, case)
        _note_rule(policy, decision, counts)
        _note_thinking(policy, decision, counts)
        for constraint, path in constraints:
            held = constraint.when is None or constraint.when.test(case.signals)
            if held:
                acted = _choice(_decide(_without(policy, constraint), case)) != _choice(decision)
                counts.add(path, reached=acted)
    return Coverage(tuple(_items(policy, constraints, counts)))


def _decide(policy: Policy, case: Case) -> Decision:
    return decide(policy, case.signals, case.snapshot(policy), pinned=case.pinned)


def _choice(decision: Decision) -> object:
    return decision.candidates, decision.refusal, str(decision.thinking)


def _paths(policy: Policy) -> list[tuple[Constraint, str]]:
    """The constraints as the file lists them."""
    compiled = {entry.id: entry for entry in (*policy.forbids, *policy.avoids)}
    return [(compiled[entry.id], f"constraints[{i}]") for i, entry in enumerate(policy.doc.constraints)]


def _without(policy: Policy, constraint: Constraint) -> Policy:
    return replace(
        policy,
        forbids=tuple(entry for entry in policy.forbids if entry is not constraint),
        avoids=tuple(entry for entry in policy.avoids if entry is not constraint),
    )


def _note_rule(policy: Policy, decision: Decision, counts: _Counts) -> None:
    for i, rule in enumerate(policy.rules):
        if rule.id != decision.rule:
            continue
        counts.add(f"rules[{i}]")
        seen = 0
        for j, rung in enumerate(rule.rungs):
            here = rung.mask & ~seen
            seen |= rung.mask
            gave = [here >> target.index & 1 for target in decision.candidates]
            if any(gave):
                counts.add(f"rules[{i}].use[{j}]", seen=bool(gave[0]))


def _note_thinking(policy: Policy, decision: Decision, counts: _Counts) -> None:
    for i, entry in enumerate(policy.thinking):
        if decision.refusal is None and entry.id == decision.thinking.rule:
            counts.add(f"thinking[{i}]")


def _items(policy: Policy, constraints: Sequence[tuple[Constraint, str]], counts: _Counts) -> list[Item]:
    listed: list[tuple[Kind, str, str]] = []
    for i, rule in enumerate(policy.rules):
        listed.append(("rule", rule.id, f"rules[{i}]"))
        seen = 0
        for j, rung in enumerate(rule.rungs):
            if rung.mask & ~seen:
                listed.append(("rung", rule.id, f"rules[{i}].use[{j}]"))
            seen |= rung.mask
    listed += [("constraint", entry.id, path) for entry, path in constraints]
    listed += [("thinking", entry.id, f"thinking[{i}]") for i, entry in enumerate(policy.thinking)]
    return [Item(kind, name, at, counts.reached.get(at, 0), counts.seen.get(at, 0)) for kind, name, at in listed]
