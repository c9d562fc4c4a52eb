"""A policy with one thing in it removed, weakened or moved, once for each such thing: what its tests ought to notice.

Only makes the changed documents and tells whether one could matter on a fleet at all. Running tests on them belongs to
`policytest`, and the clock that bounds it to the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from gateway.core.clauses.matchers import parse_date
from gateway.core.clauses.selectors import describe
from gateway.core.facts import parse_size
from gateway.core.policy import Constraint, Policy, PolicyDoc, Rule, Rung

#: Lists of a policy whose entries have an id and may have a `when`, and what one entry is called.
_LISTS = (
    ("rules", "rule"),
    ("constraints", "constraint"),
    ("thinking", "thinking entry"),
    ("latency", "latency target"),
    ("shadow", "shadow"),
)
#: Members of a rung that say how it is ordered, not whom it means.
_ORDERING = ("rank", "weights")
_COMPARED = ("gt", "gte", "lt", "lte")
_SLIGHTLY = ", a little off"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One changed policy. `path` is where the change lies in the file, `change` says it in words."""

    path: str
    id: str  # of the rule, constraint, entry or set that was changed
    change: str
    doc: PolicyDoc
    removed_rule: str | None = None  # a rule that is gone: expecting it by name proves nothing about where requests go
    slight: bool = (
        False  # a threshold moved a little: of one that no target of a fleet lies near, nothing is to be told
    )

    def __str__(self) -> str:
        return f"{self.id}: {self.change}"


def mutants(doc: PolicyDoc) -> Iterator[Mutant]:
    """Every rule, rung, constraint, entry, set member and condition of a policy removed or weakened, one at a time.

    Every threshold is moved up and down a little, too.
    """
    for name, noun in _LISTS:
        entries: Sequence[Any] = getattr(doc, name, None) or ()
        for i, entry in enumerate(entries):
            path = f"{name}[{i}]"
            rest = [*entries[:i], *entries[i + 1 :]]
            gone = entry.id if name == "rules" else None
            yield Mutant(path, entry.id, f"without this {noun}", doc.model_copy(update={name: rest}), gone)
            for at, change, update in _weaker(entry):
                changed = [*entries[:i], entry.model_copy(update=update), *entries[i + 1 :]]
                made = doc.model_copy(update={name: changed})
                yield Mutant(f"{path}.{at}", entry.id, change, made, slight=change.endswith(_SLIGHTLY))
    for name, members in doc.sets.items():
        for i, member in enumerate(members):
            rest = [*members[:i], *members[i + 1 :]]
            if rest:
                changed_sets = {**doc.sets, name: rest}
                made = doc.model_copy(update={"sets": changed_sets})
                yield Mutant(f"sets.{name}[{i}]", name, f"without {member}", made)
    for i, family in enumerate(doc.allow_closed if "allow_closed" in doc.model_fields_set else ()):
        rest = [*doc.allow_closed[:i], *doc.allow_closed[i + 1 :]]
        made = doc.model_copy(update={"allow_closed": rest})
        yield Mutant(f"allow_closed[{i}]", "allow_closed", f"without {family}", made)


def _weaker(entry: BaseModel) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Path inside the entry, words, and the members to change."""
    when = getattr(entry, "when", None)
    if when is not None:
        for at, change, changed in _conditions(when, "when"):
            yield at, change, {"when": changed}
    for key in ("use", "forbid", "avoid", "require"):
        raw = getattr(entry, key, None)
        if raw is not None:
            told_by_text = "$" in describe(raw)  # see `_selected`: of these nobody could say that nothing changes
            for at, change, changed in _selectors(raw, key):
                if not (told_by_text and change.endswith(_SLIGHTLY)):
                    yield at, change, {key: changed}
    if getattr(entry, "forbid", None) is not None:
        yield "forbid", "avoid instead of forbid", {"forbid": None, "avoid": entry.forbid}  # type: ignore[attr-defined]
    if getattr(entry, "force", False):
        yield "force", "without force", {"force": False}
    if getattr(entry, "set", "client") != "client":
        yield "set", "set: client", {"set": "client"}


def _conditions(raw: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    """A condition with one member or alternative less; None where nothing is left of it, so that it always holds."""
    if not isinstance(raw, Mapping):
        return
    for key, value in raw.items():
        at = f"{path}.{key}"
        rest = {name: one for name, one in raw.items() if name != key}
        yield at, f"without {describe({key: value})}", rest or None
        if key in ("any", "all") and isinstance(value, list):
            for i, part in enumerate(value):
                fewer = [*value[:i], *value[i + 1 :]]
                if fewer:
                    yield f"{at}[{i}]", f"without {describe(part)}", {**raw, key: fewer}
                for inner, change, changed in _conditions(part, f"{at}[{i}]"):
                    if changed is not None:
                        yield inner, change, {**raw, key: [*value[:i], changed, *value[i + 1 :]]}
        else:
            inside = _conditions if key == "not" else _matchers
            for inner, change, changed in inside(value, at):
                if changed is not None:
                    yield inner, change, {**raw, key: changed}


def _items(
    raw: list[Any], path: str, inside: Callable[[Any, str], Iterator[tuple[str, str, Any]]], say: Callable[[Any], str]
) -> Iterator[tuple[str, str, Any]]:
    """A list with one item less, or with one that is weaker inside."""
    for i, item in enumerate(raw):
        fewer = [*raw[:i], *raw[i + 1 :]]
        if fewer:
            yield f"{path}[{i}]", f"without {say(item)}", fewer
        for inner, change, changed in inside(item, f"{path}[{i}]"):
            yield inner, change, [*raw[:i], changed, *raw[i + 1 :]]


def _matchers(raw: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    """A matcher with one operator or value less."""
    if isinstance(raw, Mapping):
        for key, value in raw.items():
            rest = {name: one for name, one in raw.items() if name != key}
            if rest:
                yield f"{path}.{key}", f"without {describe({key: value})}", rest
            for near in _near(value, whole=path.startswith("when")) if key in _COMPARED else ():
                yield f"{path}.{key}", f"{key}: {_number(near)}{_SLIGHTLY}", {**raw, key: near}
            for inner, change, changed in _matchers(value, f"{path}.{key}"):
                yield inner, change, {**raw, key: changed}
    elif isinstance(raw, list):
        yield from _items(raw, path, _matchers, describe)


def _near(written: Any, *, whole: bool) -> Iterator[Any]:
    """The values just beside a threshold, above and below: half a percent away, a day where it is a date.

    Where only whole numbers are compared with it, it is moved by one at least.
    """
    day, size = parse_date(written), parse_size(written)
    if day is not None:
        yield from ((day + timedelta(days=days)).isoformat() for days in (1, -1))
    elif size is not None:
        step: float = size / 200
        if step >= 1 or (whole and size == int(size)):
            step = max(1, round(step, 1 - len(str(int(step)))))
        yield from (near for near in (size + step, size - step) if near >= 0)


def _number(value: Any) -> str:
    """A number as people write it."""
    for unit, size in (("M", 1_000_000), ("k", 1_000)) if isinstance(value, int) else ():
        if value and not value % size:
            return f"{value // size}{unit}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _selectors(raw: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    """A selector or a list of rungs with one alternative, member or value less."""
    if isinstance(raw, list):
        yield from _items(raw, path, _selectors, _flat)
    elif isinstance(raw, Mapping):
        named = [key for key in raw if key not in _ORDERING]
        for key in raw:
            rest = {name: one for name, one in raw.items() if name != key}
            if key in _ORDERING or len(named) > 1:
                yield f"{path}.{key}", f"without {describe({key: raw[key]})}", rest
            if key in named:
                for inner, change, changed in _matchers(raw[key], f"{path}.{key}"):
                    yield inner, change, {**raw, key: changed}


def _flat(raw: Any) -> str:
    return "{" + describe(raw) + "}" if isinstance(raw, Mapping) else describe(raw)


def effect(policy: Policy) -> Hashable:
    """What a policy can do on its fleet. Two policies with the same effect decide alike, so no test tells them apart.

    The reverse does not hold: conditions are compared as they are written.
    """
    return (
        tuple(_rule_effect(rule) for rule in policy.rules),
        frozenset(
            (entry.when.text if entry.when else "", entry.hard, _selected(entry))
            for entry in (*policy.forbids, *policy.avoids)
            if entry.select.possible
        ),
        tuple((entry.when.text if entry.when else "", entry.thinking, entry.force) for entry in policy.thinking),
        policy.capabilities.closed,
        (policy.everything.rank, policy.everything.by),
        policy.sticky,
        tuple((entry.id, entry.when.text if entry.when else "", entry.limits) for entry in policy.latency),
        tuple(
            (entry.id, entry.when.text if entry.when else "", entry.share, _rungs_effect(entry.rungs))
            for entry in policy.shadows
        ),
    )


def _selected(constraint: Constraint) -> Hashable:
    select = constraint.select
    return select.possible if select.resolve is None else (select.possible, select.text, constraint.effect)


def _rule_effect(rule: Rule) -> Hashable:
    return rule.id, rule.when.text if rule.when else "", _rungs_effect(rule.rungs)


def _rungs_effect(rungs: Sequence[Rung]) -> Hashable:
    seen = 0
    found: list[Hashable] = []
    for rung in rungs:
        here = rung.mask & ~seen
        seen |= rung.mask
        if here & (here - 1):
            order = None if rung.rank == "cheapest" else tuple(i for i in rung.listed if here >> i & 1)
            found.append((here, rung.rank, order, rung.shares, rung.by))
        elif here:
            found.append((here, None, None, ()))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Slip:
    """What a change that no test notices does to one request: the targets that it may have now, or no more."""

    given: Mapping[str, Any]  # as in a test of the policy
    gained: tuple[str, ...]
    lost: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Survey:
    """What became of the mutants of a policy that were tried."""

    noticed: int = 0
    survivors: tuple[Mutant, ...] = ()  # no test would have noticed
    idle: tuple[Mutant, ...] = ()  # the change changes nothing on this fleet, so no test could
    untried: int = 0  # time was up
    slips: tuple[Slip | None, ...] = ()  # of each survivor, where one was found

    @property
    def tried(self) -> int:
        """How many mutants could have been noticed, and were tried."""
        return self.noticed + len(self.survivors)
