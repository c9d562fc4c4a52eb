"""Ranks by a fact, `{highest: model.evals.triage}` or `{lowest: model.params_active_b}`, worked out at load.

A fact does not change between requests, so all that is left for one is which group of equals a candidate stands in;
equals go by expected cost, as `cheapest` does. The other ranks stand in `rank`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import model_validator

from gateway.core.clauses.entries import Strict
from gateway.core.clauses.matchers import Problems, suggest
from gateway.core.facts import EVALS, FACTS, fact_named
from gateway.core.quantities import Invalid
from gateway.core.targets.rank import Costs
from gateway.core.types import Fleet

Direction = Literal["highest", "lowest"]
DIRECTIONS: tuple[Direction, ...] = ("highest", "lowest")
_ORDERED = ("number", "date")


class ByFactDoc(Strict):
    """A rank by a number or date: `{highest: model.evals.triage}`, `{lowest: model.params_active_b}`."""

    highest: str | None = None
    lowest: str | None = None

    @model_validator(mode="after")
    def _one(self) -> ByFactDoc:
        if (self.highest is None) == (self.lowest is None):
            raise Invalid("a rank goes by one fact", "either highest or lowest, such as {lowest: target.input_usd}")
        return self

    def written(self) -> dict[str, str]:
        """As it stands in the file."""
        return {name: fact for name in DIRECTIONS if (fact := getattr(self, name)) is not None}


@dataclass(frozen=True, slots=True)
class ByFact:
    """The order of a fleet by one fact: groups of equals, best first; those of which it is not known come last."""

    direction: Direction
    fact: str
    groups: tuple[int, ...]

    @property
    def text(self) -> str:
        """How a reason names it."""
        return f"{self.direction} {self.fact}"

    def ties(self, mask: int) -> bool:
        """Do targets of a mask stand in one group, so that cost has to tell? HOT."""
        return any((held := group & mask) and held & (held - 1) for group in self.groups)

    def order(self, mask: int, costs: Costs | None) -> list[int]:
        """The targets of a mask, best first. `costs` is needed where there are ties. HOT."""
        chosen: list[int] = []
        for group in self.groups:
            held = group & mask
            if held and not held & (held - 1):
                chosen.append(held.bit_length() - 1)
            elif held and costs is not None:
                chosen += [index for index in costs.order if held >> index & 1]
        return chosen


def read_by_fact(raw: Mapping[Any, Any], fleet: Fleet, path: str, problems: Problems) -> ByFact | None:
    """A rank that is a map, bound to a fleet; None after a noted problem."""
    valid = "either highest or lowest, such as {lowest: target.input_usd}"
    if len(raw) != 1 or (direction := next(iter(raw))) not in DIRECTIONS:
        problems.add(path, "a rank goes by one fact", valid)
        return None
    name = raw[direction]
    fact = fact_named(name) if isinstance(name, str) else None
    if fact is None or fact.kind not in _ORDERED:
        able = [one.name for one in FACTS.values() if one.kind in _ORDERED]
        what = f"{name!r:.80} is no number or date of a model or target"
        problems.add(f"{path}.{direction}", what, suggest(str(name), [*able, f"{EVALS}<name>"]))
        return None
    groups: dict[Any, int] = {}
    for target in fleet.targets:
        value = fact.read(target)
        groups[value] = groups.get(value, 0) | 1 << target.index
    unknown = groups.pop(None, 0)
    best_first = sorted(groups, reverse=direction == "highest")
    return ByFact(direction, fact.name, (*(groups[value] for value in best_first), *((unknown,) if unknown else ())))
