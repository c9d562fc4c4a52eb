"""Comparing one value with what a policy says about it: the typed matchers, parsed into a normal form.

A matcher is read once, at load: `not` is pushed inwards until only positive and negative leaves are left. That gives
the one rule about ignorance its meaning: a value that is not known matches nothing but `known: false`, under any
number of `not`s. Which values exist stands in `facts`; conditions and selectors are built from matchers elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from difflib import get_close_matches
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from gateway.core.errors import ConfigError, Problem
from gateway.core.facts import BUILT_IN_SETS, Kind, Value, parse_size, signal_named
from gateway.core.text import languagecodes

if TYPE_CHECKING:
    from gateway.core.text.language import Language

T = TypeVar("T")
Op = Literal[
    "in", "not in",  # text, number, boolean, date, language
    "gt", "gte", "lt", "lte",  # number, date
    "prefix", "not prefix",  # text
    "has", "lacks", "meets", "avoids", "is", "is not",  # sets: all of, not all of, any of, none of, equal, different
    "known", "unknown",
]  # fmt: skip
_NEGATED: dict[Op, Op] = {
    "in": "not in", "gt": "lte", "gte": "lt", "prefix": "not prefix", "has": "lacks", "meets": "avoids", "is": "is not",
    "known": "unknown",
}  # fmt: skip
_NEGATED |= {negative: positive for positive, negative in _NEGATED.items()}

OPERATORS: Mapping[Kind, tuple[str, ...]] = MappingProxyType({
    "number": ("gt", "gte", "lt", "lte", "eq", "in", "not", "known", "any", "all"),
    "date": ("gt", "gte", "lt", "lte", "eq", "in", "not", "known", "any", "all"),
    "boolean": ("eq", "not", "known"),
    "text": ("eq", "in", "not", "prefix", "known", "any", "all"),
    "set": ("eq", "in", "not", "has", "lacks", "known", "any", "all"),
    "language": ("eq", "in", "not", "known", "any", "all"),
})  # fmt: skip


#: What other languages call an operator.
_MEANT: Mapping[str, str] = {
    **dict.fromkeys((">", "greater", "greater_than", "more", "more_than", "above", "over"), "gt"),
    **dict.fromkeys((">=", "min", "at_least", "ge"), "gte"),
    **dict.fromkeys(("<", "less", "less_than", "below", "under"), "lt"),
    **dict.fromkeys(("<=", "max", "at_most", "le"), "lte"),
    **dict.fromkeys(("=", "==", "is", "equals", "equal"), "eq"),
    **dict.fromkeys(("!=", "ne", "neq", "not_in", "isnt"), "not"),
    **dict.fromkeys(("one_of", "any_of", "oneof"), "in"),
    **dict.fromkeys(("contains", "includes"), "has"),
    **dict.fromkeys(("starts_with", "startswith", "begins"), "prefix"),
    **dict.fromkeys(("exists", "present", "set"), "known"),
}


@dataclass(frozen=True, slots=True)
class Variable:
    """`$language` and the like: the value of a signal, put in when a request is decided."""

    signal: str


Operand = frozenset[Value] | int | float | date | str | Variable | None


@dataclass(frozen=True, slots=True)
class Leaf:
    """One comparison. `operand` is a set for in, has, meets and their negatives, a scalar otherwise."""

    op: Op
    operand: Operand = None


@dataclass(frozen=True, slots=True)
class Either:
    """Several matchers: one of them (`every` False) or all of them (`every` True) must hold."""

    every: bool
    parts: tuple[Matcher, ...]


Matcher = Leaf | Either


#: Sets of the codes of languages.
_OF_LANGUAGES = frozenset({"target_language", "model.languages"})
#: Mistakes that are told of one document. Nobody reads more, and each takes a search for what may have been meant.
MOST_PROBLEMS = 100


class Problems:
    """Collects what is wrong in a document, so that a person sees every mistake at once, or the first hundred."""

    def __init__(self, file: str = "") -> None:
        self.file = file
        self.found: list[Problem] = []

    def add(self, path: str, what: str, valid: str = "") -> None:
        """Note one mistake; the loader, who knows the text, turns the path into a line.

        Raises `ConfigError` where there are so many that reading on helps nobody.
        """
        self.found.append(Problem(self.file, 0, path, what, valid))
        if len(self.found) >= MOST_PROBLEMS:
            self.found.append(
                Problem(self.file, 0, "", f"has at least {MOST_PROBLEMS} mistakes; what follows was not read")
            )
            self.raise_any()

    def raise_any(self) -> None:
        """Raise `ConfigError` if anything was noted."""
        if self.found:
            raise ConfigError(self.found)


def suggest(word: str, valid: Sequence[str]) -> str:
    """The nearest valid words, or all of them where they are few: the last part of an error message."""
    if not valid:
        return ""
    close = get_close_matches(word, valid, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(close) + "?"
    return "one of " + ", ".join(valid[:12]) + (", ..." if len(valid) > 12 else "")


@dataclass(frozen=True, slots=True)
class Spelling:
    """How the values of one name are written: its kind, its choices, other names for them, and named sets."""

    name: str
    kind: Kind
    choices: tuple[str, ...] = ()
    aliases: Mapping[str, str] | None = None  # another spelling -> the choice it means
    sets: Mapping[str, frozenset[str]] = field(default_factory=lambda: BUILT_IN_SETS)
    variables: Mapping[str, Kind] | None = None  # signals that may stand as $name; None: none may

    @property
    def languages(self) -> bool:
        """Are the values codes of languages?"""
        return self.kind == "language" or self.name in _OF_LANGUAGES

    @property
    def named(self) -> Mapping[str, frozenset[str]]:
        """The sets that may stand here: the built-in ones hold texts of no closed list."""
        free = self.kind in ("text", "set") and not self.choices and not self.languages
        return self.sets if free or self.sets is not BUILT_IN_SETS else {}


def parse(raw: object, spelling: Spelling, path: str, problems: Problems, *, negated: bool = False) -> Matcher | None:
    """Read a matcher: a scalar, a list (any of), or a map of operators (all of). None after a noted problem."""
    if isinstance(raw, Mapping):
        parts: list[Matcher | None] = []
        valid = OPERATORS[spelling.kind]
        if not raw:
            problems.add(path, "says nothing", "one of " + ", ".join(valid))
        for operator, operand in raw.items():
            at = f"{path}.{operator}"
            if operator not in valid:
                meant = _MEANT.get(str(operator).lower())
                near = f"did you mean {meant}?" if meant in valid else "one of " + ", ".join(valid)
                problems.add(at, f"{spelling.name} is a {spelling.kind} and has no {operator!r}", near)
                return None
            parts.append(_operator(str(operator), operand, spelling, at, problems, negated))
        return _join(parts, every=not negated)
    if spelling.kind == "set" and not isinstance(raw, list):
        return _operator("has", raw, spelling, path, problems, negated)
    return _operator("in", raw, spelling, path, problems, negated)


def _join(parts: Sequence[Matcher | None], *, every: bool) -> Matcher | None:
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    return known[0] if len(known) == 1 else Either(every, tuple(known))


def _operator(
    name: str, raw: object, spelling: Spelling, path: str, problems: Problems, negated: bool
) -> Matcher | None:
    if name == "not":
        return parse(raw, spelling, path, problems, negated=not negated)
    if name in ("any", "all"):
        if not isinstance(raw, list) or not raw:
            problems.add(path, "must be a list of matchers", f"{name}: [{{prefix: eu-}}, us]")
            return None
        parts = [parse(part, spelling, f"{path}[{i}]", problems, negated=negated) for i, part in enumerate(raw)]
        return _join(parts, every=(name == "all") != negated)
    if name == "known":
        if not isinstance(raw, bool):
            problems.add(path, f"{raw!r} is not a boolean", "true or false")
            return None
        return Leaf("known" if raw != negated else "unknown")
    leaf = _leaf(name, raw, spelling, path, problems)
    if leaf is None:
        return None
    return Leaf(_NEGATED[leaf.op], leaf.operand) if negated else leaf


def _leaf(name: str, raw: object, spelling: Spelling, path: str, problems: Problems) -> Leaf | None:
    if name in ("gt", "gte", "lt", "lte"):
        value = scalar(raw, spelling, path, problems)
        return None if value is None else Leaf(cast(Op, name), cast("int | float | date", value))
    if name == "prefix":
        if not isinstance(raw, str) or not raw:
            problems.add(path, f"{raw!r} is not a text", 'a text such as "gpt-"')
            return None
        return Leaf("prefix", raw)
    operand = _operand(raw, spelling, path, problems)
    if operand is None:
        return None
    if spelling.kind != "set":
        return Leaf("in", operand)
    return Leaf({"has": "has", "lacks": "lacks", "in": "meets", "eq": "is"}[name], operand)  # type: ignore[arg-type]


def _operand(raw: object, spelling: Spelling, path: str, problems: Problems) -> frozenset[Value] | Variable | None:
    if isinstance(raw, str) and raw.startswith("$"):
        return _variable(raw[1:], spelling, path, problems)
    values: set[Value] = set()
    count = len(problems.found)
    items = list(enumerate(raw)) if isinstance(raw, list) else [(None, raw)]
    if not items:
        problems.add(path, "is an empty list", "at least one value")
    for index, item in items:
        at = path if index is None else f"{path}[{index}]"
        if isinstance(item, str) and item.startswith("@"):
            if item[1:] in spelling.named:
                values |= spelling.named[item[1:]]
            else:
                names = [f"@{name}" for name in sorted(spelling.named)]
                problems.add(at, f"there is no set {item!r}", suggest(item, names) or "a set declared under `sets:`")
        elif (value := scalar(item, spelling, at, problems)) is not None:
            values.add(value)
    return None if len(problems.found) > count else frozenset(values)


def _variable(signal: str, spelling: Spelling, path: str, problems: Problems) -> Variable | None:
    if spelling.variables is None:
        problems.add(path, f"${signal} cannot stand here", "variables are for constraints")
        return None
    kind = spelling.variables.get(signal)
    if kind is None and (open_one := signal_named(signal)) is not None:
        kind = open_one.kind
    fits = {"text": ("text", "language"), "set": ("text", "set", "language")}.get(spelling.kind, ())
    if kind is None or kind not in fits:
        able = sorted(f"${name}" for name, its in spelling.variables.items() if its in fits)
        problems.add(path, f"${signal} is no value that {spelling.name} can be compared with", suggest(signal, able))
        return None
    return Variable(signal)


def scalar(raw: object, spelling: Spelling, path: str, problems: Problems) -> Value | None:
    """Read one value of the spelling's kind, or note what would have been valid."""
    kind, name = spelling.kind, spelling.name
    if kind == "number":
        number = parse_size(raw)
        if number is None or not 0 <= number < float("inf"):
            compared = isinstance(raw, str) and raw[:1] in ("<", ">", "=")
            valid = "{gt: 200k}, with gt, gte, lt or lte" if compared else "a number such as 500, 200k or 1M"
            problems.add(path, f"{raw!r:.60} is not a size", valid)
            return None
        return number
    if kind == "boolean":
        if isinstance(raw, bool):
            return raw
        problems.add(path, f"{raw!r} is not a boolean", "true or false")
        return None
    if kind == "date":
        day = parse_date(raw)
        if day is None:
            problems.add(path, f"{raw!r} is not a date", "a date such as 2026-11-21")
        return day
    if not isinstance(raw, str) or not raw:
        problems.add(path, f"{raw!r} is not a text: {name} is compared with texts", "put it in quotes")
        return None
    value = (spelling.aliases or {}).get(raw, raw)
    if spelling.languages and not languagecodes.valid(value, of_models=name == "model.languages"):
        problems.add(path, f"{raw!r:.60} is no code of a language", languagecodes.meant(value))
        return None
    if spelling.choices and value not in spelling.choices:
        near = f'did you mean "@{raw}", the set?' if raw in spelling.named else suggest(raw, spelling.choices)
        problems.add(path, f"{raw!r} is no {name} that is known", near)
        return None
    return value


def parse_date(raw: object) -> date | None:
    """A date from YAML (which may or may not have read it as one already); None where it is not one."""
    if type(raw) is date:
        return raw
    if isinstance(raw, str):
        try:
            return date.fromisoformat(raw) if len(raw) == 10 else None
        except ValueError:
            return None
    return None


def holds(matcher: Matcher, value: Value | Language | None) -> bool:
    """Whether a value satisfies a matcher without variables. Not HOT: conditions are compiled, this explains them."""
    return compile_matcher(matcher)(value)


def compile_matcher(matcher: Matcher) -> Callable[[Value | Language | None], bool]:
    """A predicate over a value that may be None; HOT when it runs, so each operator gets its own closure."""
    if isinstance(matcher, Either):
        return combine([compile_matcher(part) for part in matcher.parts], matcher.every)
    op, operand = matcher.op, matcher.operand
    if op == "known":
        return lambda value: known(value)
    if op == "unknown":
        return lambda value: not known(value)
    if isinstance(operand, Variable):
        raise TypeError("a matcher with a variable is resolved by its selector")
    return _comparison(op, operand)


def combine(tests: Sequence[Callable[[T], bool]], every: bool) -> Callable[[T], bool]:
    """One predicate of several, all or one of which must hold; later ones are not asked once that is settled."""
    if len(tests) == 1:
        return tests[0]
    if len(tests) == 2:
        first, second = tests
        if every:
            return lambda value: first(value) and second(value)
        return lambda value: first(value) or second(value)
    asked = tuple(tests)

    def each(value: T) -> bool:  # a loop, for a generator takes twice as long
        for test in asked:
            if test(value) is not every:
                return not every
        return every

    return each


def known(value: Value | Language | None) -> bool:
    """Whether there is a value; a language that could not be told is none."""
    return value is not None and getattr(value, "main", value) is not None


def _comparison(op: Op, operand: Operand) -> Callable[[Value | Language | None], bool]:
    many, edge, text = cast("frozenset[str]", operand), cast("int", operand), cast("str", operand)
    table: dict[Op, Callable[[Any], bool]] = {
        "gt": lambda value: value is not None and value > edge,
        "gte": lambda value: value is not None and value >= edge,
        "lt": lambda value: value is not None and value < edge,
        "lte": lambda value: value is not None and value <= edge,
        "has": lambda value: value is not None and many <= value,
        "lacks": lambda value: value is not None and not many <= value,
        "meets": lambda value: value is not None and not many.isdisjoint(value),
        "avoids": lambda value: value is not None and many.isdisjoint(value),
        "is": lambda value: value is not None and many == value,
        "is not": lambda value: value is not None and many != value,
        "in": lambda value: getattr(value, "main", value) in many,
        "not in": lambda value: _outside(value, many),
        "prefix": lambda value: isinstance(value, str) and value.startswith(text),
        "not prefix": lambda value: isinstance(value, str) and not value.startswith(text),
    }
    return table[op]


def _outside(value: Value | Language | None, many: frozenset[str]) -> bool:
    """`not in`: for a language, that a real part of the text lies outside; for all else, plain absence."""
    if value is None:
        return False
    outside = getattr(value, "outside", None)
    if outside is not None:
        return outside(many) is True
    return value not in many


def variables(matcher: Matcher) -> frozenset[str]:
    """Names of the signals that a matcher takes its operands from."""
    if isinstance(matcher, Either):
        return frozenset().union(*(variables(part) for part in matcher.parts))
    return frozenset({matcher.operand.signal}) if isinstance(matcher.operand, Variable) else frozenset()


def leaves(matcher: Matcher) -> Iterator[Leaf]:
    """Every comparison of a matcher."""
    if isinstance(matcher, Leaf):
        yield matcher
        return
    for part in matcher.parts:
        yield from leaves(part)
