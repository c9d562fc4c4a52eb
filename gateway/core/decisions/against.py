"""Which constraints remove a target, and by which of its facts: the words of a trace, where they are short.

A requirement names every member that does not hold with its value, a prohibition those that made it match. Whether a
constraint removes a target at all is what `decide` asked; nothing here decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gateway.core.clauses.matchers import known
from gateway.core.clauses.selectors import SelectorMember
from gateway.core.facts import value_of
from gateway.core.types import Target

if TYPE_CHECKING:
    from gateway.core.policy import Constraint, Policy
    from gateway.core.reading.signals import Signals

_MOST = 6  # members of one constraint
_LONGEST_VALUE = 60
_LONGEST_MATCH = 120  # of the facts that a prohibition matched; what is longer stands in the file


def against(policy: Policy, signals: Signals, target: Target) -> str:
    """The constraints that remove a target, each with its facts."""
    found = [
        constraint
        for constraint in policy.forbids
        if constraint.select.mask(signals) >> target.index & 1
        and (constraint.when is None or constraint.when.test(signals))
    ]
    said = [_forbidding(one, signals, target) for one in found if one.effect == "forbid"]
    return ", ".join(said + [_requiring(one, signals, target) for one in found if one.effect == "require"])


def _forbidding(constraint: Constraint, signals: Signals, target: Target) -> str:
    """Of several selectors the first that selects the target is told."""
    for members in constraint.select.members:
        if all(member.mask(signals) >> target.index & 1 for member in members):
            why = ", ".join(_stands(one, signals, target) for one in members if one.fact != "target.name")
            return f"forbidden by {constraint.id}" + (f": {why}" if 0 < len(why) <= _LONGEST_MATCH else "")
    return f"forbidden by {constraint.id}"


def _requiring(constraint: Constraint, signals: Signals, target: Target) -> str:
    failing = (
        member
        for members in constraint.select.members
        for member in members
        if not member.mask(signals) >> target.index & 1
    )
    said = list(dict.fromkeys(_stands(member, signals, target) for member in failing))
    more = f", and {len(said) - _MOST} more" if len(said) > _MOST else ""
    why = ", ".join(said[:_MOST]) + more
    return f"not what {constraint.id} requires" + (f": {why}" if why else "")


def _stands(member: SelectorMember, signals: Signals, target: Target) -> str:
    """One fact of a target, and what of the request it was compared with."""
    value = value_of(member.fact, target)
    asked = list(_asked(member, signals))
    if value is None:
        return ", ".join([f"{member.fact} is not known", *(one for one in asked if one.endswith("is not known"))])
    return f"{member.fact} is {_short(value)}" + (f" where {' and '.join(asked)}" if asked else "")


def _asked(member: SelectorMember, signals: Signals) -> Iterator[str]:
    for name in sorted(member.signals):
        value = signals.get(name)
        yield f"{name} is {_short(getattr(value, 'main', value))}" if known(value) else f"{name} is not known"


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = "[" + ", ".join(sorted(value)) + "]" if isinstance(value, frozenset) else str(value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 4] + " ..."
