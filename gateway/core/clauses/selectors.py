"""Which targets a policy means: selectors, compiled against a fleet to bit masks.

`*`, a map (every member must hold) or a list of maps (one must). All that is known at load becomes one integer; only
members with a `$variable` are computed per request, over the few distinct values the fleet has. Nothing here knows
rules, ranks or requests' capabilities.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from gateway.core.clauses.matchers import (
    Either,
    Leaf,
    Matcher,
    Problems,
    Spelling,
    Variable,
    compile_matcher,
    parse,
    suggest,
)
from gateway.core.clauses.matchers import variables as variables_of
from gateway.core.facts import EVALS, FACTS, Fact, Value, fact_named
from gateway.core.types import Fleet

if TYPE_CHECKING:
    from gateway.core.facts import Kind
    from gateway.core.reading.signals import Signals
    from gateway.core.text.language import Language

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,60}")
_SHORT = {"model": "model.id", "family": "model.family"}


@dataclass(frozen=True, slots=True)
class SelectorMember:
    """One member of a selector's map, bound to a fleet: a fact and which targets it holds of."""

    fact: str
    signals: frozenset[str]  # that stand in it as variables
    possible: int  # every target it could ever hold of; without variables those that it does hold of
    resolve: Callable[[Signals], int] | None
    open_to_unknown: bool

    def mask(self, signals: Signals) -> int:
        """The targets it holds of for this request."""
        return self.possible if self.resolve is None else self.resolve(signals)


@dataclass(frozen=True, slots=True)
class Selector:
    """A compiled selector. `possible` holds every target it could ever select; without variables that is its value."""

    possible: int
    resolve: Callable[[Signals], int] | None  # None: `possible` is the mask
    listed: tuple[int, ...]  # target indices in the order the selector names their models, for `rank: listed`
    text: str
    facts: frozenset[str] = frozenset()  # facts it reads
    signals: frozenset[str] = frozenset()  # signals that stand in it as variables
    open_to_unknown: tuple[str, ...] = ()  # facts it negates without saying what happens where they are not known
    members: tuple[tuple[SelectorMember, ...], ...] = ()  # of each map of a list, as written; for traces

    def mask(self, signals: Signals) -> int:
        """The targets selected for this request. HOT."""
        return self.possible if self.resolve is None else self.resolve(signals)


@dataclass(frozen=True, slots=True)
class Names:
    """What selectors of one policy may refer to: the catalogue's models and families, and the policy's own sets."""

    models: Mapping[str, str]  # id or alias -> id
    families: tuple[str, ...]
    sets: Mapping[str, tuple[str, ...]]  # set -> model ids, in order, each once
    ids: tuple[str, ...] = ()  # of all models, sorted
    members: Mapping[str, frozenset[str]] = field(default_factory=dict)  # `sets`, without their order

    @staticmethod
    def of(fleet: Fleet) -> Names:
        """The names that the fleet's catalogue knows; sets are added by the policy."""
        models = {alias: model.id for model in fleet.models.values() for alias in model.aliases}
        models |= {model.id: model.id for model in fleet.models.values()}
        families = tuple(sorted({model.family for model in fleet.models.values()}))
        return Names(models, families, {}, tuple(sorted(set(models.values()))))

    def having(self, sets: Mapping[str, Iterable[str]]) -> Names:
        """The same with the sets of a policy. However often one repeats a model, it is as long as the catalogue."""
        made = {name: tuple(dict.fromkeys(models)) for name, models in sets.items()}
        return replace(self, sets=made, members={name: frozenset(models) for name, models in made.items()})


def describe(raw: object) -> str:
    """A selector or condition as one line of YAML flow style, for traces and findings.

    >>> describe({"family": "qwen", "target.window": {"gte": "1M"}})
    'family: qwen, target.window: {gte: 1M}'
    """
    if isinstance(raw, Mapping):
        return ", ".join(f"{key}: {_flow(value)}" for key, value in raw.items())
    return " or ".join(describe(part) for part in raw) if isinstance(raw, list) else str(raw)


def _flow(raw: object) -> str:
    if isinstance(raw, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(value)}" for key, value in raw.items()) + "}"
    if isinstance(raw, list):
        return "[" + ", ".join(map(_flow, raw)) + "]"
    return str(raw).lower() if isinstance(raw, bool) else str(raw)


def compile_selector(
    raw: object,
    fleet: Fleet,
    names: Names,
    path: str,
    problems: Problems,
    *,
    variables: Mapping[str, Kind] | None = None,
) -> Selector | None:
    """Bind a selector to a fleet; None after a noted problem. Selecting no target is not a problem.

    Where variables may stand, in constraints, a list of maps may too.
    """
    if raw == "*":
        return Selector(fleet.mask(), None, tuple(range(len(fleet.targets))), "*")
    if isinstance(raw, list) and raw and variables is not None:
        parts = [_one(part, fleet, names, f"{path}[{i}]", problems, variables) for i, part in enumerate(raw)]
        known = [part for part in parts if part is not None]
        return _merge(known, describe(raw)) if len(known) == len(parts) else None
    return _one(raw, fleet, names, path, problems, variables)


def _one(
    raw: object, fleet: Fleet, names: Names, path: str, problems: Problems, variables: Mapping[str, Kind] | None
) -> Selector | None:
    if isinstance(raw, Mapping) and raw:
        return _compile_map(raw, fleet, names, path, problems, variables)
    named = f"{{model: {raw}}} or {{target.name: {raw}}}" if isinstance(raw, str) and _NAME.fullmatch(raw) else ""
    named = named or (f'{{model: "{raw}"}}' if isinstance(raw, str) and raw.startswith("@") else "{family: qwen}")
    valid = f'"*", or a map such as {named}' + ("; in constraints also a list of maps" if variables else "")
    problems.add(path, "is no selector", valid)
    return None


def _compile_map(
    raw: Mapping[str, object],
    fleet: Fleet,
    names: Names,
    path: str,
    problems: Problems,
    variables: Mapping[str, Kind] | None,
) -> Selector | None:
    members: list[SelectorMember] = []
    failed = False
    order: Sequence[str] = ()
    for key, value in raw.items():
        at = f"{path}.{key}"
        fact = fact_named(_SHORT.get(key, key))
        if fact is None:
            problems.add(
                at, f"{key!r} is no fact of a model or target", suggest(key, (*_SHORT, *FACTS, f"{EVALS}<name>"))
            )
            failed = True
            continue
        if key in _SHORT and value == "*":
            continue
        if fact.name == "model.id":
            order = [*order, *named(value, names)]
        matcher = parse(value, _spelling(key, fact, names, variables), at, problems)
        failed |= matcher is None
        if matcher is not None:
            members.append(_bind(fact, matcher, fleet))
    if failed:
        return None
    possible = fleet.mask()
    for member in members:
        possible &= member.possible
    place = {model: i for i, model in reversed(list(enumerate(order)))}
    chosen = [target for target in fleet.targets if possible >> target.index & 1]
    chosen.sort(key=lambda target: place.get(target.model.id, len(place)))
    return Selector(
        possible,
        _all_of(possible, [member.resolve for member in members if member.resolve is not None]),
        tuple(target.index for target in chosen),
        describe(raw),
        frozenset(member.fact for member in members),
        frozenset().union(*(member.signals for member in members)),
        tuple(member.fact for member in members if member.open_to_unknown),
        (tuple(members),),
    )


def _merge(parts: Sequence[Selector], text: str) -> Selector:
    """One of several selectors: masks are united, the order is that of the list."""
    possible = 0
    listed: dict[int, None] = {}
    for part in parts:
        possible |= part.possible
        listed.update(dict.fromkeys(part.listed))
    resolve = None
    if any(part.resolve is not None for part in parts):
        asked = tuple(part.mask for part in parts)

        def resolve(signals: Signals) -> int:
            mask = 0
            for ask in asked:
                mask |= ask(signals)
            return mask

    facts = frozenset().union(*(part.facts for part in parts))
    signals_read = frozenset().union(*(part.signals for part in parts))
    settled = facts_settled(parts)
    loose = tuple(fact for part in parts for fact in part.open_to_unknown if fact not in settled)
    every = tuple(members for part in parts for members in part.members)
    return Selector(possible, resolve, tuple(listed), text, facts, signals_read, loose, every)


def all_but(select: Selector, fleet: Fleet) -> Selector:
    """Every target that a selector does not select: with what is not known, since that is never selected.

    `members` stay those of the selector itself.
    """
    everything = fleet.mask()
    within = select.resolve
    return replace(
        select,
        possible=everything & ~select.possible if within is None else everything,
        resolve=None if within is None else lambda signals: everything & ~within(signals),
        listed=(),
        text=f"all but ({select.text})",
        open_to_unknown=(),
    )


def facts_settled(parts: Sequence[Selector]) -> frozenset[str]:
    """Facts for which one alternative of a list says `known: false`, so that ignorance is dealt with."""
    return frozenset(fact for part in parts for fact in part.facts if f"{fact}: {{known: false}}" == part.text)


def _spelling(key: str, fact: Fact, names: Names, variables: Mapping[str, Kind] | None) -> Spelling:
    if fact.name == "model.id":
        return Spelling(key, "text", names.ids, names.models, names.members, variables)
    choices = names.families if fact.name == "model.family" else fact.choices
    return Spelling(key, fact.kind, choices, variables=variables)


def named(value: object, names: Names) -> list[str]:
    """Model ids in the order a selector names them; anything but plain names and sets has no order of its own."""
    found: list[str] = []
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str) and item.startswith("@"):
            found += names.sets.get(item[1:], ())
        elif isinstance(item, str):
            found.append(names.models.get(item, item))
    return found


def _bind(fact: Fact, matcher: Matcher, fleet: Fleet) -> SelectorMember:
    """A matcher against one fact of every target, grouped by the distinct values the fleet has."""
    groups: dict[Value | None, int] = {}
    for target in fleet.targets:
        value = fact.read(target)
        groups[value] = groups.get(value, 0) | 1 << target.index
    possible, resolve = _masks(matcher, tuple(groups.items()))
    return SelectorMember(
        fact.name, variables_of(matcher), possible, resolve, _negates(matcher) and bool(groups.get(None))
    )


def _masks(matcher: Matcher, groups: Sequence[tuple[Value | None, int]]) -> tuple[int, Callable[[Signals], int] | None]:
    if isinstance(matcher, Either):
        parts = [_masks(part, groups) for part in matcher.parts]
        possible = parts[0][0]
        for mask, _ in parts[1:]:
            possible = possible & mask if matcher.every else possible | mask
        if all(resolve is None for _, resolve in parts):
            return possible, None
        return possible, _combined(parts, matcher.every)
    if isinstance(matcher.operand, Variable):
        known = tuple((value, mask) for value, mask in groups if value is not None)
        return sum(mask for _, mask in known), _resolver(matcher, matcher.operand.signal, known)
    test = compile_matcher(matcher)
    return sum(mask for value, mask in groups if test(value)), None


def _combined(parts: Sequence[tuple[int, Callable[[Signals], int] | None]], every: bool) -> Callable[[Signals], int]:
    def resolve(signals: Signals) -> int:
        masks = [mask if part is None else part(signals) for mask, part in parts]
        total = masks[0]
        for mask in masks[1:]:
            total = total & mask if every else total | mask
        return total

    return resolve


def _all_of(possible: int, resolvers: Sequence[Callable[[Signals], int]]) -> Callable[[Signals], int] | None:
    if not resolvers:
        return None
    if len(resolvers) == 1:
        only = resolvers[0]
        return lambda signals: possible & only(signals)

    def resolve(signals: Signals) -> int:
        mask = possible
        for part in resolvers:
            mask &= part(signals)
        return mask

    return resolve


def _resolver(leaf: Leaf, signal: str, groups: Sequence[tuple[Value, int]]) -> Callable[[Signals], int]:
    """A member with a variable: compare the signal's value with each distinct value of the fact. HOT when it runs."""
    op = leaf.op
    if not any(isinstance(value, frozenset) for value, _ in groups):
        return _like(op == "in", signal, dict(groups))

    def resolve(signals: Signals) -> int:
        asked = signals.get(signal)
        if asked is None:
            return 0
        mask = 0
        for value, group in groups:
            if _compare(op, value, asked):
                mask |= group
        return mask

    return resolve


def _like(wanted: bool, signal: str, groups: Mapping[object, int]) -> Callable[[Signals], int]:
    """The same for a fact that is one word, which a look in a dict settles. HOT when it runs."""
    known = sum(groups.values())

    def resolve(signals: Signals) -> int:
        asked = signals.get(signal)
        if type(asked) is not str:
            asked = getattr(asked, "main", None)  # of a language
        if asked is None:
            return 0
        alike = groups.get(asked, 0)
        return alike if wanted else known & ~alike

    return resolve


def _compare(op: str, value: Value, asked: str | frozenset[str] | Language) -> bool:
    """Compare one list with what a request says; an undetermined language satisfies neither `has` nor `lacks`."""
    if not isinstance(value, frozenset):
        return False
    outside = getattr(asked, "outside", None)
    if outside is not None:
        verdict = outside(value)
        return verdict is (op in ("lacks", "avoids"))
    wanted = asked if isinstance(asked, frozenset) else frozenset({asked})
    if op in ("has", "lacks"):
        return (wanted <= value) is (op == "has")
    if op in ("meets", "avoids"):
        return wanted.isdisjoint(value) is (op == "avoids")
    return (wanted == value) is (op == "is")


def _negates(matcher: Matcher) -> bool:
    """Whether a matcher holds by what a value is not, so that a target with an unknown value slips through."""
    if isinstance(matcher, Either):
        negative = any(_negates(part) for part in matcher.parts)
        excused = not matcher.every and any(isinstance(part, Leaf) and part.op == "unknown" for part in matcher.parts)
        return negative and not excused
    return matcher.op in ("not in", "lacks", "avoids", "is not", "not prefix")
