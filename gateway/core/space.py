"""Which requests a set of conditions admits: a small, exact search over the values that can make a difference.

Matchers are typed, so each signal needs only a handful of representative values: the edges of its intervals and their
neighbours, every value that is named, one that is not, and "not known". A condition that holds for none of their
combinations holds for no request. Signals are taken as independent of each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from gateway.core.conditions import Condition, Member
from gateway.core.facts import Signal, signal_named
from gateway.core.matchers import Leaf, Matcher, holds

OTHER = "something-else"  # stands for every text that no condition names
_MOST_NODES = 20_000
_MOST_MEMBERS = 6  # of a set-valued signal; with more, subsets are too many and only small ones are tried


@dataclass(frozen=True, slots=True)
class Tongue:
    """A language as a point of the search: the main one, and another that a real part of the text is in."""

    main: str | None
    beside: str | None = None

    def outside(self, official: frozenset[str]) -> bool | None:
        """As `Language.outside`."""
        if self.main is None:
            return None
        return self.main not in official or (self.beside is not None and self.beside not in official)

    def __str__(self) -> str:
        return (self.main or "not known") + (f" with {self.beside}" if self.beside else "")


class Undecided(Exception):
    """The search was given up: the conditions combine too many values."""


Point = Mapping[str, Any]


def find(
    wanted: Sequence[Condition], unwanted: Sequence[Condition], given: Point | None = None
) -> dict[str, Any] | None:
    """A request for which all of `wanted` and none of `unwanted` hold, as signal values; None if there is none.

    `given` fixes some signals. Raises `Undecided` after 20,000 steps.
    """
    every = [(condition, True) for condition in wanted] + [(condition, False) for condition in unwanted]
    leaves: dict[str, list[Leaf]] = {}
    for condition, _ in every:
        for member in members(condition):
            leaves.setdefault(member.signal, []).extend(_leaves(member.matcher))
    points = {name: _points(name, found) for name, found in leaves.items()}
    steps = iter(range(_MOST_NODES))

    def search(point: dict[str, Any]) -> dict[str, Any] | None:
        if next(steps, None) is None:
            raise Undecided
        open_signal = None
        for condition, expected in every:
            verdict = _judge(condition, point)
            if verdict is None:
                open_signal = open_signal or next(
                    member.signal for member in members(condition) if member.signal not in point
                )
            elif verdict is not expected:
                return None
        if open_signal is None:
            return point
        for value in points[open_signal]:
            found = search({**point, open_signal: value})
            if found is not None:
                return found
        return None

    return search(dict(given or {}))


def members(condition: Condition) -> Iterator[Member]:
    """Every member of a condition, in asking order."""
    if isinstance(condition, Member):
        yield condition
        return
    for part in condition.parts:
        yield from members(part)


def edges(conditions: Sequence[Condition], name: str) -> list[int]:
    """Representative values of a numeric signal over some conditions, ascending."""
    found = [leaf for c in conditions for m in members(c) if m.signal == name for leaf in _leaves(m.matcher)]
    return sorted(value for value in _points(name, found) if value is not None) if found else []


def describe(point: Point) -> str:
    """A point as a person reads it.

    >>> describe({"task": None, "context_tokens": 200001, "tenant.team": OTHER})
    'task not known, context_tokens 200,001, tenant.team something-else'
    """
    said = []
    for name, value in point.items():
        if value is None:
            said.append(f"{name} not known")
        elif isinstance(value, frozenset):
            said.append(f"{name} {', '.join(sorted(value)) or 'empty'}")
        elif isinstance(value, int) and not isinstance(value, bool):
            said.append(f"{name} {value:,}")
        else:
            said.append(f"{name} {str(value).lower() if isinstance(value, bool) else value}")
    return ", ".join(said) or "any request"


def _judge(condition: Condition, point: Point) -> bool | None:
    """Three-valued: None while a signal that matters has no value yet."""
    if isinstance(condition, Member):
        return holds(condition.matcher, point[condition.signal]) if condition.signal in point else None
    undecided = False
    for part in condition.parts:
        verdict = _judge(part, point)
        if verdict is (not condition.every):
            return verdict
        undecided = undecided or verdict is None
    return None if undecided else condition.every


def _leaves(matcher: Matcher) -> Iterator[Leaf]:
    if isinstance(matcher, Leaf):
        yield matcher
        return
    for part in matcher.parts:
        yield from _leaves(part)


def _points(name: str, leaves: Sequence[Leaf]) -> list[Any]:
    signal = signal_named(name) or Signal(name, "text", 0)
    unknown: list[Any] = [] if signal.certain else [None]
    named: set[Any] = set()
    for leaf in leaves:
        if isinstance(leaf.operand, frozenset):
            named |= leaf.operand
        elif leaf.operand is not None:
            named.add(leaf.operand)
    if signal.kind == "boolean":
        return [True, False, *unknown]
    if signal.kind == "number":
        return [*sorted({max(edge + step, 0) for edge in named for step in (-1, 0, 1)} | {0}), *unknown]
    words = sorted(map(str, named))
    if signal.kind == "language":
        pure = [Tongue(word) for word in [*words, OTHER]]
        return [*pure, *(Tongue(word, OTHER) for word in words), Tongue(None)]
    if signal.kind == "set":
        return [*_subsets([*words, OTHER]), *unknown]
    if signal.choices:
        return [*signal.choices, *unknown]
    prefixed = [f"{leaf.operand}{OTHER}" for leaf in leaves if leaf.op in ("prefix", "not prefix")]
    return [*words, *prefixed, OTHER, *unknown]


def _subsets(words: Sequence[str]) -> list[frozenset[str]]:
    largest = len(words) if len(words) <= _MOST_MEMBERS else 2
    return [frozenset(some) for size in range(largest + 1) for some in combinations(words, size)]
