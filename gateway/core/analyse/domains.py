"""What values a signal can have, in as few classes as the matchers of a policy can tell apart.

A number falls between the edges that are named, a text is one that is named or any other, a set is one yes or no for
every word that is named. Languages are the hard case: a text can be in several, so a class says which is the main one
and which lists a real part of the text lies outside of. Classes may be too many, never too few: where none of them
satisfies a condition, no value does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise, product
from math import ceil, floor
from typing import Any, NamedTuple

from gateway.core.analyse.formulas import ALWAYS, NEVER, Every, Formula, Lies, Some, every, some
from gateway.core.clauses.conditions import Condition, members, token_test
from gateway.core.clauses.matchers import Leaf, compile_matcher, leaves
from gateway.core.facts import Signal, signal_named
from gateway.core.reading.signals import Signals
from gateway.core.text.language import UNNAMED, Language

OTHER = "something-else"  # stands for every text that nothing names
UNREAL = object()  # a class of which no value was found, though there may be one
#: Comparisons of a value with a matcher for one signal, and words of one set: with more, nothing is told.
_MOST_COMPARED = 400_000
_MOST_WORDS = 4_000
_MOST_LISTS = 6  # lists of languages; each doubles the classes
#: Up to this many languages, a text whose main language is not on a list has a real part outside of it.
_SURELY_OUTSIDE = 4
_PLAIN: Mapping[str, Any] = {"context_tokens": 1_000, "images": 0, "model_asked": "auto"}
_STRANGERS = ("fr", "sw", "et", "ja", "uk", "zu", "mi", UNNAMED)  # languages for which nothing else is named


class Undecided(Exception):
    """The question was given up: too many values, or too much effort."""


class Domain(NamedTuple):
    """The classes of one variable, the plainest first, each by a value; numbers come with all that were tried."""

    values: tuple[Any, ...]
    bits: Mapping[Leaf, int]  # the classes in which a leaf holds
    tried: tuple[tuple[Any, ...], ...] = ()

    @property
    def full(self) -> int:
        """All classes."""
        return (1 << len(self.values)) - 1


class Domains:
    """The classes of every signal that some conditions, or the leaves given beside them, ask about."""

    __slots__ = ("_asked", "_domains", "_full", "_signals", "_words", "tasks")

    def __init__(
        self,
        conditions: Iterable[Condition],
        beside: Iterable[tuple[str, Leaf]] = (),
        tasks: Sequence[str] = (),
    ) -> None:
        self.tasks = tuple(tasks)
        asked: dict[str, dict[Leaf, None]] = {}
        for condition in conditions:
            for member in members(condition):
                asked.setdefault(member.signal, {}).update(dict.fromkeys(leaves(member.matcher)))
        for name, leaf in beside:
            asked.setdefault(name, {})[leaf] = None
        for found in asked.values():
            found.update({Leaf("known"): None, Leaf("unknown"): None})
        self._asked = {name: tuple(found) for name, found in asked.items()}
        self._signals = {name: self._signal(name) for name in asked}
        self._domains: dict[str, Domain | None] = {}
        self._full: dict[str, int] = {}
        self._words: dict[str, tuple[str, ...]] = {}

    def _signal(self, name: str) -> Signal:
        signal = signal_named(name) or Signal(name, "text", 0)
        return replace(signal, choices=self.tasks) if name == "task" and self.tasks else signal

    def __contains__(self, name: str) -> bool:
        return name in self._asked

    def __iter__(self) -> Iterator[str]:
        """The names of all signals that are asked about."""
        return iter(self._asked)

    def full(self, name: str) -> int:
        """All classes of a variable."""
        return self._full[name]

    def domain(self, name: str) -> Domain:
        """The classes of a signal that is no set. Raises `Undecided` where they would be too many."""
        if name not in self._domains:
            signal = self._signals[name]
            make = {"number": _numbers, "language": _languages}.get(signal.kind, _texts)
            try:
                made = make(signal, self._asked[name])
            except Undecided:
                made = None
            self._domains[name] = made
            if made is not None:
                self._full[name] = made.full
        found = self._domains[name]
        if found is None:
            raise Undecided
        return found

    def leaf(self, name: str, leaf: Leaf) -> Formula:
        """Where a comparison holds. Raises `Undecided`."""
        if self._signals[name].kind == "set":
            return self._of_set(name, leaf)
        domain = self.domain(name)
        bits = domain.bits[leaf]
        return NEVER if not bits else ALWAYS if bits == domain.full else Lies(name, bits)

    # Sets: a yes or no for every word.

    def words(self, name: str) -> tuple[str, ...]:
        """The words that are named of a set, and `OTHER` where there can be others. Raises `Undecided`."""
        if name not in self._words:
            named = {
                str(word) for leaf in self._asked[name] if isinstance(leaf.operand, frozenset) for word in leaf.operand
            }
            if name == "modality":
                named.add("text")  # which every request contains, named or not
            choices = self._signals[name].choices
            more = [] if choices and named >= set(choices) else [OTHER]
            self._words[name] = (*sorted(named), *more)
            for word in self._words[name]:
                self._full[f"{name}:{word}"] = 3
            self._full[f"{name}?"] = 1 if self._signals[name].certain else 3
        found = self._words[name]
        if len(found) * len(self._asked[name]) > 50 * _MOST_WORDS or len(found) > _MOST_WORDS:
            raise Undecided
        return found

    def has(self, name: str, word: str, yes: bool = True) -> Formula:
        """Whether a set holds a word that is named, or `OTHER`."""
        return Lies(f"{name}:{word}", 2 if yes else 1)

    def _of_set(self, name: str, leaf: Leaf) -> Formula:
        words = self.words(name)
        certain = self._signals[name].certain
        known = ALWAYS if certain else Lies(f"{name}?", 2)
        if leaf.op in ("known", "unknown"):
            return known if leaf.op == "known" else NEVER if certain else Lies(f"{name}?", 1)
        many = sorted(str(word) for word in leaf.operand) if isinstance(leaf.operand, frozenset) else []
        held = [self.has(name, word) for word in many]
        missed = [self.has(name, word, yes=False) for word in many]
        others = [word for word in words if word not in set(many)]
        made = {
            "has": lambda: every(held),
            "lacks": lambda: some(missed),
            "meets": lambda: some(held),
            "avoids": lambda: every(missed),
            "is": lambda: every([*held, *(self.has(name, word, yes=False) for word in others)]),
            "is not": lambda: some([*missed, *(self.has(name, word) for word in others)]),
        }[leaf.op]()
        return every([known, made])

    # Back to values.

    def given(self, state: Mapping[str, int]) -> dict[str, Any] | None:
        """A request of these classes, as a policy's test gives it; None where no such value is known."""
        given: dict[str, Any] = {}
        sets: dict[str, dict[str, int]] = {}
        for variable, bits in state.items():
            name, colon, word = variable.partition(":")
            if colon or variable.endswith("?"):
                sets.setdefault(name.removesuffix("?"), {})[word] = bits
                continue
            domain = self.domain(name)
            value = domain.values[(bits & -bits).bit_length() - 1]
            if value is UNREAL:
                return None
            if value is not None:
                given[name] = value
        for name, found in sets.items():
            words = sorted(self.real(name, word) for word, bits in found.items() if word and bits == 2)
            certain = self._signals[name].certain
            known = certain or found.get("") == 2 or (bool(words) and found.get("") != 1)
            if known:
                given[name] = sorted({*words, "text"}) if name == "modality" and found.get("text") != 1 else words
        return given

    def real(self, name: str, word: str) -> str:
        """A word that a request can contain, in place of one that stands for all that are not named."""
        if word != OTHER:
            return word
        strange = _STRANGERS[1:] if name == "target_language" else self._signals[name].choices
        return next((one for one in strange if one not in self._words[name]), OTHER)


def _classes(
    points: Iterable[Any], signature: Callable[[Any], int], plain: Sequence[Any], asked: Sequence[Leaf]
) -> Domain:
    """Points that no leaf tells apart, put together. `signature` has a bit for each leaf that holds."""
    classes: dict[int, list[Any]] = {}
    for point in points:
        classes.setdefault(signature(point), []).append(point)
    order = list(classes.items())
    order.sort(key=lambda item: min((plain.index(one) for one in item[1] if one in plain), default=len(plain)))
    values = []
    for _, found in order:
        best = [one for one in plain if one in found]
        values.append(best[0] if best else found[0])
    bits = {
        leaf: sum(1 << number for number, (held, _) in enumerate(order) if held >> place & 1)
        for place, leaf in enumerate(asked)
    }
    return Domain(tuple(values), bits, tuple(tuple(found) for _, found in order))


#: Numbers that may lie between two whole ones; of all others only whole ones are ever met.
_FRACTIONAL = frozenset({"max_cost_usd"})


def _numbers(signal: Signal, asked: Sequence[Leaf]) -> Domain:
    named: set[Any] = set()
    for leaf in asked:
        if isinstance(leaf.operand, frozenset):
            named |= leaf.operand
        elif leaf.operand is not None:
            named.add(leaf.operand)
    plain = _PLAIN.get(signal.name, 0)
    points: set[float] = {max(edge, 0) for value in named for edge in range(floor(value) - 1, ceil(value) + 2)} | {
        0,
        plain,
        1_000,
    }
    if signal.name in _FRACTIONAL:
        steps = sorted({max(value, 0) for value in named} | points)
        points = {*steps, *((low + high) / 2 for low, high in pairwise(steps))}
    if len(points) * len(asked) > _MOST_COMPARED:
        raise Undecided
    tests: list[Callable[[Any], bool]]
    if signal.name == "context_tokens":
        made = [token_test(leaf, None) for leaf in asked]
        tests = [lambda value, test=test: test(Signals.given({"context_tokens": value})) for test in made]  # type: ignore[misc]
    else:
        tests = [compile_matcher(leaf) for leaf in asked]

    def signature(point: Any) -> int:
        return sum(1 << place for place, test in enumerate(tests) if test(point))

    unknown: list[Any] = [] if signal.certain else [None]
    return _classes([*sorted(points), *unknown], signature, [*unknown, plain], asked)


def _texts(signal: Signal, asked: Sequence[Leaf]) -> Domain:
    """Texts and booleans: what is named, what is not, and not known."""
    held: dict[Any, int] = {}  # word -> bit for each leaf that names it
    for place, leaf in enumerate(asked):
        if isinstance(leaf.operand, frozenset):
            for word in leaf.operand:
                held[word] = held.get(word, 0) | 1 << place
    prefixes = [(place, str(leaf.operand)) for place, leaf in enumerate(asked) if leaf.op in ("prefix", "not prefix")]
    unknown: list[Any] = [] if signal.certain else [None]
    if signal.kind == "boolean":
        points: list[Any] = [False, True]
    elif signal.choices:
        points = list(signal.choices)
    else:
        points = [OTHER, *sorted(map(str, held)), *(f"{prefix}{OTHER}" for _, prefix in prefixes)]
        if signal.name in _PLAIN:
            points.append(_PLAIN[signal.name])
    if len(points) * (1 + len(prefixes)) > _MOST_COMPARED:
        raise Undecided
    ops = [leaf.op for leaf in asked]
    negative = sum(1 << place for place, op in enumerate(ops) if op in ("not in", "not prefix"))
    knowing = sum(1 << place for place, op in enumerate(ops) if op == "known")
    missing = sum(1 << place for place, op in enumerate(ops) if op == "unknown")

    def signature(point: Any) -> int:
        if point is None:
            return missing
        found = held.get(point, 0)
        for place, prefix in prefixes:
            if isinstance(point, str) and point.startswith(prefix):
                found |= 1 << place
        return found ^ negative | knowing

    plain = [*unknown, *([_PLAIN[signal.name]] if signal.name in _PLAIN else []), OTHER, False]
    return _classes([*points, *unknown], signature, plain, asked)


class _Tongue(NamedTuple):
    """A class of languages: the main one, and the lists that a real part of the text lies outside of."""

    main: str | None
    outside: frozenset[int]


def _languages(signal: Signal, asked: Sequence[Leaf]) -> Domain:
    lists = list(dict.fromkeys(leaf.operand for leaf in asked if leaf.op == "not in"))
    if len(lists) > _MOST_LISTS:
        raise Undecided
    inside = [leaf.operand for leaf in asked if leaf.op == "in"]
    alike: dict[tuple[bool, ...], str] = {}
    words = sorted({str(word) for many in (*lists, *inside) for word in many})  # type: ignore[union-attr]
    stranger = next(one for one in (*_STRANGERS, OTHER) if one not in words)
    if (len(words) + 1) * (len(asked) + 1) * (1 << len(lists)) > _MOST_COMPARED:
        raise Undecided
    for word in [*(["en"] if "en" in words else []), *words, stranger]:
        alike.setdefault(tuple(word in many for many in (*lists, *inside)), word)  # type: ignore[operator]
    points = []
    for main in (None, *alike.values()):
        for chosen in product((False, True), repeat=len(lists)):
            outside = frozenset(number for number, yes in enumerate(chosen) if yes)
            if _possible(main, outside, lists):  # type: ignore[arg-type]
                points.append(_Tongue(main, outside))
    points.sort(key=lambda one: (one.main is not None or bool(one.outside), not _pure(one, lists)))  # type: ignore[arg-type]

    def signature(point: _Tongue) -> int:
        found = 0
        for place, leaf in enumerate(asked):
            if leaf.op == "not in":
                held = lists.index(leaf.operand) in point.outside
            elif leaf.op == "in":
                held = point.main is not None and point.main in leaf.operand  # type: ignore[operator]
            else:
                held = (point.main is None) == (leaf.op == "unknown")
            found |= held << place
        return found

    made = _classes(points, signature, (), asked)
    values = tuple(
        next((value for one in alternatives if (value := _spoken(one, lists, stranger)) is not UNREAL), UNREAL)  # type: ignore[arg-type]
        for alternatives in made.tried
    )
    return made._replace(values=values)


def _possible(main: str | None, outside: frozenset[int], lists: Sequence[frozenset[str]]) -> bool:
    """Whether a text can be so: who is outside a list is outside every part of it, and a main language counts."""
    for number, official in enumerate(lists):
        if number in outside:
            if any(lists[other] <= official and other not in outside for other in range(len(lists))):
                return False
        elif main is not None and main not in official and len(official) <= _SURELY_OUTSIDE:
            return False
    return True


def _pure(point: _Tongue, lists: Sequence[frozenset[str]]) -> bool:
    """Whether a text in its main language alone would be so."""
    return point.main is not None and all(
        (point.main not in official) == (number in point.outside) for number, official in enumerate(lists)
    )


def _spoken(point: _Tongue, lists: Sequence[frozenset[str]], stranger: str) -> Any:
    """A language of this class as a test gives it; UNREAL where none was found."""
    if point.main is None and not point.outside:
        return None
    within = [official for number, official in enumerate(lists) if number not in point.outside]
    common = sorted(frozenset.intersection(*within)) if within else [stranger, *sorted(set().union(*lists))]
    beside: dict[str, None] = {}
    for number in sorted(point.outside):
        if point.main is not None and point.main not in lists[number]:
            continue
        if not any(code not in lists[number] for code in beside):
            code = next((code for code in common if code not in lists[number]), None)
            if code is None:
                return UNREAL
            beside[code] = None
    if not beside:
        value: Any = point.main
    elif point.main is None:
        value = {"shares": dict.fromkeys(beside, 0.2)}
    else:
        value = {"shares": {point.main: 0.6, **dict.fromkeys(beside, round(0.4 / len(beside), 2))}}
    language = Language({value: 1.0}, 1_000, 0.0) if isinstance(value, str) else Language.from_dict(value)
    truly = frozenset(number for number, official in enumerate(lists) if language.outside(official))
    return value if (language.main, truly) == (point.main, point.outside) else UNREAL


__all__ = ["OTHER", "UNREAL", "Domain", "Domains", "Every", "Some", "Undecided", "leaves", "members"]
