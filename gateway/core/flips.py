"""What would have to change for another rule or thinking entry to apply: the nearest step across a number's edge.

Looks only at the numbers of a policy (`context_tokens`, `max_output_tokens`, `images`), with all other signals held.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gateway.core.conditions import Condition, Member
from gateway.core.matchers import Either, Matcher
from gateway.core.types import Decision

if TYPE_CHECKING:
    from gateway.core.policy import Policy, Rule, ThinkingRule
    from gateway.core.signals import Signals

_WORDS = {"context_tokens": "tokens", "max_output_tokens": "max_output_tokens", "images": "images"}


@dataclass(frozen=True, slots=True)
class Flip:
    """The smallest change of one number, in one direction, after which another entry applies."""

    signal: str
    change: int  # signed
    kind: str  # "rule" or "thinking"
    id: str | None  # what would apply then; None: nothing would
    exact: bool  # False: counted from a bound, so the true step may be larger

    @property
    def text(self) -> str:
        """One readable line.

        >>> Flip("context_tokens", 18211, "rule", "long-context", True).text
        '18,211 more tokens and `long-context` would apply'
        """
        word = "more" if self.change > 0 else "fewer"
        least = "" if self.exact else "at least "
        what = "thinking " if self.kind == "thinking" else ""
        then = f"{what}`{self.id}` would apply" if self.id else f"no {self.kind} would apply"
        return f"{least}{abs(self.change):,} {word} {_WORDS[self.signal]} and {then}"


class _Shifted:
    """Signals with one number replaced."""

    def __init__(self, signals: Signals, name: str, value: int) -> None:
        self._signals = signals
        self._name = name
        self._value = value

    def get(self, name: str) -> Any:
        return self._value if name == self._name else self._signals.get(name)

    def exceeds(self, tokenizer: str | None, limit: int) -> bool:
        if self._name == "context_tokens":
            return self._value > limit
        return self._signals.exceeds(tokenizer, limit)


def nearest(policy: Policy, signals: Signals, decision: Decision) -> tuple[Flip, ...]:
    """The nearest flips, at most one up and one down for each number and each list."""
    found: list[Flip] = []
    entry = next((entry for entry in policy.thinking if _holds(entry.when, signals)), None)
    for name in _WORDS:
        low, high = _range(name, policy, signals)
        if low is None or high is None:
            continue
        found += _steps(name, "rule", policy.rules, decision.rule, signals, low, high)
        found += _steps(name, "thinking", policy.thinking, entry.id if entry else None, signals, low, high)
    return tuple(found)


def _holds(when: Condition | None, signals: Any) -> bool:
    return when is None or when.test(signals)


def _range(name: str, policy: Policy, signals: Signals) -> tuple[int | None, int | None]:
    if name == "context_tokens":
        bounds = signals.tokens(policy.tokens_by)
        asked = signals.get("max_output_tokens") or 0
        return bounds.lo + asked, bounds.hi + asked
    value = signals.get(name)
    return value, value


def _steps(
    name: str,
    kind: str,
    entries: Sequence[Rule] | Sequence[ThinkingRule],
    now: str | None,
    signals: Signals,
    low: int,
    high: int,
) -> Iterator[Flip]:
    points = sorted({edge + step for entry in entries for edge in _edges(entry.when, name) for step in (-1, 0, 1)})
    for ahead in ([p for p in points if p > high], [p for p in reversed(points) if 0 <= p < low]):
        for point in ahead:
            then = _first(entries, _Shifted(signals, name, point))
            if then != now:
                yield Flip(name, point - high if point > high else point - low, kind, then, low == high)
                break


def _first(entries: Sequence[Rule] | Sequence[ThinkingRule], signals: _Shifted) -> str | None:
    return next((entry.id for entry in entries if _holds(entry.when, signals)), None)


def _edges(condition: Condition | None, name: str) -> Iterator[int]:
    if condition is None:
        return
    if isinstance(condition, Member):
        if condition.signal == name:
            yield from _constants(condition.matcher)
        return
    for part in condition.parts:
        yield from _edges(part, name)


def _constants(matcher: Matcher) -> Iterator[int]:
    if isinstance(matcher, Either):
        for part in matcher.parts:
            yield from _constants(part)
    elif isinstance(matcher.operand, int | float):
        yield int(matcher.operand)
    elif isinstance(matcher.operand, frozenset):
        yield from (int(value) for value in matcher.operand if isinstance(value, int | float))
