"""When a rule applies: conditions over signals, compiled to predicates that ask the cheapest signal first.

A condition is a map whose members must all hold; `any`, `all` and `not` combine conditions. `not` is pushed inwards, so
a signal that is not known satisfies nothing but `known: false`. What is computed here is only whether a condition
holds; how a signal is computed stands in `signals`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import TYPE_CHECKING, Any

from gateway.core.clauses.matchers import (
    Either,
    Leaf,
    Matcher,
    Problems,
    Spelling,
    combine,
    compile_matcher,
    parse,
    suggest,
)
from gateway.core.clauses.selectors import describe
from gateway.core.facts import OPEN_SIGNALS, SIGNALS, signal_named

if TYPE_CHECKING:
    from gateway.core.reading.signals import Signals

#: Facts that keys mostly have: written as if they were signals of their own.
_OF_TENANTS = frozenset({"team", "domicile", "licence", "sovereign", "cloud", "cost", "plan", "tier", "home"})
#: What other gateways, and plain speech, call a signal.
_MEANT: Mapping[str, str] = {
    **dict.fromkeys(
        ("tokens", "input_tokens", "prompt_tokens", "context_length", "length", "context"), "context_tokens"
    ),
    **dict.fromkeys(("max_tokens", "max_completion_tokens", "output_tokens"), "max_output_tokens"),
    **dict.fromkeys(("model", "model_name"), "model_asked"),
    **dict.fromkeys(("lang", "locale"), "language"),
    **dict.fromkeys(("reasoning_effort", "reasoning", "thinking"), "effort"),
    **dict.fromkeys(("response_format", "json_schema", "json"), "structured_output"),
    **dict.fromkeys(("modalities", "media"), "modality"),
    **dict.fromkeys(("image", "vision", "has_images"), "images"),
    **dict.fromkeys(("streaming",), "stream"),
    **dict.fromkeys(("functions", "tool_choice"), "tools"),
    **dict.fromkeys(("category", "intent", "use_case"), "task"),
    **dict.fromkeys(("complexity",), "difficulty"),
    **dict.fromkeys(("user", "key", "customer"), "tenant.<name>"),
    **dict.fromkeys(("header",), "headers.<name>"),
}
Test = Callable[["Signals"], bool]


@dataclass(frozen=True, slots=True)
class Member:
    """One signal against one matcher."""

    signal: str
    matcher: Matcher
    test: Test
    cost: int
    text: str


@dataclass(frozen=True, slots=True)
class Group:
    """Several conditions, of which all (`every`) or one must hold; parts stand in the order they are asked in."""

    every: bool
    parts: tuple[Condition, ...]
    test: Test
    cost: int
    text: str


Condition = Member | Group


@dataclass(frozen=True, slots=True)
class Scope:
    """What the conditions of one policy are read against."""

    problems: Problems
    tokens_by: str | None = None  # the tokenizer that `context_tokens` counts with
    tasks: tuple[str, ...] = ()  # the tasks that the lexicon can tell; empty: any text


def compile_condition(raw: object, path: str, scope: Scope) -> Condition | None:
    """Read a `when`; None after a problem was noted in the scope."""
    return _condition(raw, path, scope, negated=False)


def _condition(raw: object, path: str, scope: Scope, *, negated: bool) -> Condition | None:
    if not isinstance(raw, Mapping) or not raw:
        valid = "a map such as {task: code}" + ("; of a list, {all: [...]} or {any: [...]}" if raw else "")
        scope.problems.add(path, "is no condition", valid if isinstance(raw, list) else "a map such as {task: code}")
        return None
    parts: list[Condition | None] = []
    for key, value in raw.items():
        at = f"{path}.{key}"
        if key == "not":
            parts.append(_condition(value, at, scope, negated=not negated))
        elif key in ("any", "all"):
            if not isinstance(value, list) or not value:
                scope.problems.add(at, "must be a list of conditions", f"{key}: [{{task: code}}, {{tools: true}}]")
                parts.append(None)
                continue
            inner = [_condition(one, f"{at}[{i}]", scope, negated=negated) for i, one in enumerate(value)]
            parts.append(_group(inner, (key == "all") != negated))
        else:
            parts.append(_member(str(key), value, at, scope, negated))
    return _group(parts, not negated)


def _member(name: str, raw: object, path: str, scope: Scope, negated: bool) -> Condition | None:
    signal = signal_named(name)
    if signal is None:
        valid = (*SIGNALS, *(f"{prefix}.<name>" for prefix in OPEN_SIGNALS), "any", "all", "not")
        meant = f"tenant.{name}" if name in _OF_TENANTS else _MEANT.get(name.lower())
        near = f"did you mean {meant}?" if meant else suggest(name, valid)
        scope.problems.add(path, f"there is no signal {name!r}", near)
        return None
    choices = scope.tasks if name == "task" else signal.choices
    matcher = parse(raw, Spelling(name, signal.kind, choices), path, scope.problems, negated=negated)
    if matcher is None:
        return None
    test = token_test(matcher, scope.tokens_by) if name == "context_tokens" else _test(name, matcher)
    text = describe({name: raw})
    return Member(name, matcher, test, signal.cost, f"not {{{text}}}" if negated else text)


def _group(parts: Sequence[Condition | None], every: bool) -> Condition | None:
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    if len(known) == 1:
        return known[0]
    known.sort(key=lambda part: part.cost)  # stable: members of one price stay in the order they were written in
    text = (" and " if every else " or ").join(
        f"({part.text})" if isinstance(part, Group) else part.text for part in known
    )
    ordered = tuple(known)
    return Group(every, ordered, combine([part.test for part in ordered], every), ordered[-1].cost, text)


def _test(name: str, matcher: Matcher) -> Test:
    """The predicate of one member. HOT when it runs: the common ones cost one lookup and one comparison."""
    if isinstance(matcher, Leaf) and matcher.op == "in" and name != "language":
        operand = matcher.operand
        if isinstance(operand, frozenset):
            if len(operand) == 1:
                (only,) = operand
                return lambda signals: signals.get(name) == only
            return lambda signals: signals.get(name) in operand
    if isinstance(matcher, Leaf) and matcher.op in ("gt", "lt"):
        edge: Any = matcher.operand
        if matcher.op == "gt":
            return lambda signals: (value := signals.get(name)) is not None and value > edge
        return lambda signals: (value := signals.get(name)) is not None and value < edge
    holds = compile_matcher(matcher)
    return lambda signals: holds(signals.get(name))


def token_test(matcher: Matcher, tokens_by: str | None) -> Test:
    """The predicate of `context_tokens`, asked as "more than n?", which bounds often settle without counting."""
    if isinstance(matcher, Either):
        return combine([token_test(part, tokens_by) for part in matcher.parts], matcher.every)
    if matcher.op == "known":
        return lambda signals: True
    if matcher.op == "unknown":
        return lambda signals: False
    if isinstance(matcher.operand, frozenset):
        exact = sorted(
            int(value) for value in matcher.operand if isinstance(value, int | float) and value == int(value)
        )
        found = matcher.op == "in"
        return lambda signals: (
            any(signals.exceeds(tokens_by, n - 1) and not signals.exceeds(tokens_by, n) for n in exact) is found
        )
    edge: float = matcher.operand  # type: ignore[assignment]
    below, least = floor(edge), ceil(edge) - 1  # lengths are whole: more than 2.5 are more than 2, at least 2.5 as well
    if matcher.op == "gt":
        return lambda signals: signals.exceeds(tokens_by, below)
    if matcher.op == "gte":
        return lambda signals: signals.exceeds(tokens_by, least)
    if matcher.op == "lt":
        return lambda signals: not signals.exceeds(tokens_by, least)
    return lambda signals: not signals.exceeds(tokens_by, below)


def members(condition: Condition) -> Iterator[Member]:
    """Every member of a condition, in asking order."""
    if isinstance(condition, Member):
        yield condition
        return
    for part in condition.parts:
        yield from members(part)
