"""The formulas that questions about a policy are put in: variables with finitely many classes of values, and, or.

There is no "not": a formula is turned round by `Space.without`, which knows what values a variable can have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lies:
    """A variable has one of these classes of values, as bits."""

    name: str
    bits: int


@dataclass(frozen=True, slots=True)
class Every:
    """All parts hold; without parts it always does."""

    parts: tuple[Formula, ...]


@dataclass(frozen=True, slots=True)
class Some:
    """One of the parts holds; without parts none does."""

    parts: tuple[Formula, ...]


Formula = Lies | Every | Some
ALWAYS, NEVER = Every(()), Some(())


def every(parts: Iterable[Formula]) -> Formula:
    """All of these; `ALWAYS` where there are none."""
    made = tuple(parts)
    return made[0] if len(made) == 1 else Every(made) if made else ALWAYS


def some(parts: Iterable[Formula]) -> Formula:
    """One of these; `NEVER` where there are none."""
    made = tuple(parts)
    return made[0] if len(made) == 1 else Some(made) if made else NEVER


def variables(formula: Formula) -> Iterator[str]:
    """The names of the variables in a formula."""
    if isinstance(formula, Lies):
        yield formula.name
    else:
        for part in formula.parts:
            yield from variables(part)


def conjuncts(formula: Formula) -> Iterator[Formula]:
    """What must hold for a formula to hold, as far as it is an "and"."""
    if isinstance(formula, Every):
        for part in formula.parts:
            yield from conjuncts(part)
    else:
        yield formula
