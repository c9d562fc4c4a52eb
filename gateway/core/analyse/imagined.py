"""A policy on all installations at once: its rungs as wide, and its constraints as mild, as any of them could make it.

For every way to reach a model, and for what each rung asks of facts that installations say, there is one target: it
stands for all that a rung could mean. A constraint acts against it only where it acts against every one of these. So
what is found wanting here is wanting everywhere; what is not may still be on a given fleet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gateway.core.analyse.ways import OPEN, Way, Wish, possible, reachable
from gateway.core.clauses.matchers import Problems, Spelling, known, parse, variables
from gateway.core.clauses.selectors import Names, Selector, compile_selector, describe, named
from gateway.core.facts import fact_named
from gateway.core.policy import VARIABLES, Constraint, Policy, PolicyDoc, Rung, compile_policy
from gateway.core.targets.filters import acting
from gateway.core.targets.rank import bits
from gateway.core.types import Fleet, Model

if TYPE_CHECKING:
    from gateway.core.reading.signals import Signals

#: Members of a rung that do not select.
BESIDE = frozenset({"rank", "weights"})
_NO_WISH = ""


@dataclass(frozen=True, slots=True)
class Imagined:
    """A policy on what installations could have. `ways[i]` and `wishes[i]` are those of its target `i`.

    `all_ways` are those of the catalogue, each once, as the targets of `plain`.
    """

    policy: Policy
    ways: tuple[Way, ...]
    wishes: tuple[str, ...]
    all_ways: tuple[Way, ...]
    plain: Fleet
    names: Names

    def selected(self, raw: object) -> list[Way]:
        """The ways in which a target could be what a selector asks; what a variable stands for is taken to fit."""
        fixed, wish, _ = _parted(raw)
        mask = _fixed(fixed, self.plain, self.names).possible
        return [self.all_ways[number] for number in bits(mask) if reachable(self.all_ways[number], wish)]

    def named(self, raw: object) -> list[str]:
        """The models that a selector's `model` names one by one, or by a set."""
        return list(dict.fromkeys(named(raw, self.names)))

    def wider(self, mask: int) -> int:
        """The targets of a mask, and all else that the same ways could be where nothing was asked of them."""
        open_to_all = {id(self.ways[index]) for index in bits(mask) if self.wishes[index] == _NO_WISH}
        more = (index for index, way in enumerate(self.ways) if id(way) in open_to_all)
        return mask | _union(1 << index for index in more)


def imagine(
    doc: PolicyDoc, ways: Sequence[Way], models: Mapping[str, Model], *, digest: str, tasks: Iterable[str] = ()
) -> Imagined:
    """A policy on everything that could be. Raises `ConfigError` as `compile_policy` does."""
    plain = Fleet(tuple(replace(way.target, index=i) for i, way in enumerate(ways)), models)
    names = _names(compile_policy(doc, plain, digest=digest, tasks=tasks))
    wished: dict[tuple[str, int], int] = {(_NO_WISH, number): number for number in range(len(ways))}
    for raw in _rungs_of(doc):
        fixed, wish, text = _parted(raw)
        for number in bits(_fixed(fixed, plain, names).possible) if wish else ():
            if reachable(ways[number], wish):
                wished.setdefault((text, number), len(wished))
    targets = tuple(replace(ways[number].target, index=index) for (_, number), index in wished.items())
    policy = compile_policy(doc, Fleet(targets, models), digest=digest, tasks=tasks)
    of_targets = tuple(ways[number] for _, number in wished)
    made = Imagined(policy, of_targets, tuple(text for text, _ in wished), tuple(ways), plain, names)
    return replace(made, policy=_widened(made))


def _names(policy: Policy) -> Names:
    names = Names.of(policy.fleet)
    ids = {name: tuple(names.models.get(one, one) for one in models) for name, models in policy.doc.sets.items()}
    return names.having(ids)


def _rungs_of(doc: PolicyDoc) -> list[object]:
    return [raw for rule in doc.rules for raw in rule.use] + [raw for entry in doc.shadow for raw in entry.use]


def _parted(raw: object) -> tuple[object, Wish, str]:
    """Of a rung what it asks of models, what of facts that installations say, and the latter as text."""
    if not isinstance(raw, Mapping):
        return raw, {}, _NO_WISH
    ours = {key: value for key, value in raw.items() if key.startswith(OPEN)}
    fixed = {key: value for key, value in raw.items() if key not in ours and key not in BESIDE}
    wish = {key: matcher for key, value in ours.items() if (matcher := _matcher(key, value)) is not None}
    return fixed or "*", wish, describe(ours) if wish else _NO_WISH


def _matcher(name: str, raw: object) -> Any:
    fact = fact_named(name)
    if fact is None:
        return None
    return parse(raw, Spelling(name, fact.kind, fact.choices, variables=VARIABLES), "", Problems())


def _fixed(raw: object, fleet: Fleet, names: Names) -> Selector:
    """What a rung asks of models, on a fleet; the policy was compiled, so it means something."""
    selector = compile_selector(raw, fleet, names, "", Problems(), variables=VARIABLES)
    return selector or Selector(0, None, (), "")


# Rungs and constraints


def _widened(made: Imagined) -> Policy:
    policy = made.policy
    rules = tuple(
        replace(rule, rungs=rungs, mask=_union(rung.mask for rung in rungs))
        for rule, entry in zip(policy.rules, policy.doc.rules, strict=True)
        for rungs in [_wide(made, rule.rungs, entry.use)]
    )
    shadows = tuple(
        replace(copy, rungs=rungs, mask=_union(rung.mask for rung in rungs))
        for copy, entry in zip(policy.shadows, policy.doc.shadow, strict=True)
        for rungs in [_wide(made, copy.rungs, entry.use)]
    )
    forbids = tuple(_mild(made, constraint) for constraint in policy.forbids)
    able = replace(policy.capabilities, regions=(), residencies=())  # wherever it is asked to be, it could be
    return replace(
        policy,
        rules=rules,
        shadows=shadows,
        forbids=forbids,
        avoids=tuple(_mild(made, constraint) for constraint in policy.avoids),
        capabilities=able,
        asks=tuple((None if rule.when is None else rule.when.test, rule) for rule in rules),
        filters=acting(able, forbids),
    )


def _wide(made: Imagined, rungs: Sequence[Rung], written: Sequence[object]) -> tuple[Rung, ...]:
    found = []
    for rung, raw in zip(rungs, written, strict=True):
        fixed, _, text = _parted(raw)
        selector = _fixed(fixed, made.policy.fleet, made.names)
        meant = sum(1 << index for index, wish in enumerate(made.wishes) if wish == text)
        listed = tuple(index for index in selector.listed if meant >> index & 1)
        found.append(replace(rung, mask=selector.possible & meant, listed=listed, shares=()))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Acts:
    """Which targets a member of a constraint's selector is taken to hold of, and by which signals that is settled."""

    possible: int
    resolve: Callable[[Signals], int] | None = None
    signals: frozenset[str] = frozenset()

    def mask(self, signals: Signals) -> int:
        return self.possible if self.resolve is None else self.resolve(signals)


def _mild(made: Imagined, constraint: Constraint) -> Constraint:
    """A constraint that acts only where it acts against all that a target stands for."""
    entry = next(one for one in made.policy.doc.constraints if one.id == constraint.id)
    raw = entry.selector
    if raw == "*":
        return constraint
    asked = constraint.effect == "require"
    maps = [
        [_member(made, key, value, wanted=asked) for key, value in part.items()]
        for part in (raw if isinstance(raw, list) else [raw])
    ]
    every = made.policy.fleet.mask()
    settled = [one for members in maps for one in members if one.resolve is not None]

    def acts(masks: Sequence[Sequence[int]]) -> int:
        held = 0
        for some in masks:
            here = every
            for mask in some:
                here &= mask
            held |= here
        return every & ~held if asked else held

    resolve = None
    if settled:

        def resolve(signals: Signals) -> int:
            return acts([[one.mask(signals) for one in members] for members in maps])

    most = every if asked and settled else acts([[one.possible for one in members] for members in maps])
    read = frozenset().union(*(one.signals for one in settled))
    return replace(constraint, select=replace(constraint.select, possible=most, resolve=resolve, signals=read))


def _member(made: Imagined, key: str, value: object, *, wanted: bool) -> _Acts:
    """One member: `wanted` to hold, or not to."""
    if not key.startswith(OPEN):
        one = compile_selector({key: value}, made.policy.fleet, made.names, "", Problems(), variables=VARIABLES)
        return _Acts(0) if one is None else _Acts(one.possible, one.resolve, one.signals)
    matcher = _matcher(key, value)
    wishes = {text: _parted(raw)[1] for raw in _rungs_of(made.policy.doc) for text in [_parted(raw)[2]]}
    mask = 0
    for index, (way, text) in enumerate(zip(made.ways, made.wishes, strict=True)):
        beside = [asked] if (asked := wishes.get(text, {}).get(key)) is not None else []
        holds = possible(way, key, [*beside, matcher]) if wanted else not possible(way, key, beside, [matcher])
        mask |= holds << index
    names = variables(matcher)
    if not names:
        return _Acts(mask)
    if not wanted:
        return _Acts(0)
    return _Acts(mask, lambda signals: mask if all(known(signals.get(name)) for name in names) else 0, names)


def _union(masks: Iterable[int]) -> int:
    total = 0
    for mask in masks:
        total |= mask
    return total
