"""How a model of the catalogue could be reached, and what an installation could say of a target that does.

What a model is, nobody can change; what serves it is the installation's to say, within bounds: weights that are open
can be served anywhere, by anybody, with any window up to the model's; what is only rented out is what it is offered as.
Whatever is not bound is taken as possible, so "no target can be so" is true of every installation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import combinations
from typing import Any

from gateway.core.analyse.domains import OTHER, leaves
from gateway.core.clauses.matchers import Matcher, Variable, compile_matcher
from gateway.core.facts import fact_named
from gateway.core.memory import BITS, weights_gb
from gateway.core.types import Target

#: What begins so is said by an installation; all other facts are the model's.
OPEN = "target."
_SOME_DAY = date(2026, 1, 1)
_MOST_WORDS = 8  # of one set: its parts are tried one by one
_SAYS: Mapping[str, tuple[str | None, ...]] = {
    "switchable": ("switchable", "always", "never", None),  # an instruct checkpoint of it never does
    "always": ("always", None),
    "never": ("never", None),
    "unknown": ("switchable", "always", "never", None),
}


@dataclass(frozen=True, slots=True)
class Way:
    """One way to reach a model: `target` is the best that it can be.

    `providers` are those who rent it out so; None: anybody may, its owner too, for the weights are open.
    """

    target: Target
    providers: frozenset[str] | None = None

    @property
    def open(self) -> bool:
        """Are its weights there for everybody to serve?"""
        return self.providers is None

    def can_be(self, fact: str, value: Any) -> bool:
        """Whether a target that reaches the model so could have this value of a fact; None: not known."""
        judge = _BOUND.get(fact)
        return judge is None or judge(self, value)


#: A wish: what a rung asks of facts that an installation says.
Wish = Mapping[str, Matcher]


def possible(way: Way, fact: str, wanted: Sequence[Matcher], unwanted: Sequence[Matcher] = ()) -> bool:
    """Whether a fact could be so that all of `wanted` hold and none of `unwanted` does.

    Comparisons with a variable are taken to hold, or not, as it is needed.
    """
    every = (*wanted, *unwanted)
    if any(isinstance(leaf.operand, Variable) for matcher in every for leaf in leaves(matcher)):
        return True
    holds, fails = ([compile_matcher(one) for one in some] for some in (wanted, unwanted))
    values = _values(way, fact, every)
    if values is None:
        return True
    return any(
        way.can_be(fact, value) and all(test(value) for test in holds) and not any(test(value) for test in fails)
        for value in values
    )


def reachable(way: Way, wish: Wish) -> bool:
    """Whether an installation could have a target that reaches a model so and is what a rung asks for."""
    return all(possible(way, fact, [matcher]) for fact, matcher in wish.items())


def _values(way: Way, name: str, matchers: Iterable[Matcher]) -> Iterable[Any] | None:
    """Values that tell apart all that the matchers can, not known among them; None where they are too many."""
    fact = fact_named(name)
    asked = [leaf for matcher in matchers for leaf in leaves(matcher)]
    kind = "text" if fact is None else fact.kind
    operands = [
        one for leaf in asked for one in (leaf.operand if isinstance(leaf.operand, frozenset) else [leaf.operand])
    ]
    if kind == "boolean":
        return (True, False, None)
    if kind in ("number", "date"):
        edges = [one for one in (*operands, *_own(way, name)) if isinstance(one, int | float | date)]
        return _around([*edges, _SOME_DAY if kind == "date" else 1])
    if kind == "set":
        words = sorted({str(one) for one in operands if one is not None} | {OTHER, *map(str, _own(way, name))})
        sizes = range(len(words) + 1)
        return None if len(words) > _MOST_WORDS else (frozenset(some) for n in sizes for some in combinations(words, n))
    texts = {str(one) for one in operands if one is not None} | {f"{one}{OTHER}" for one in operands}
    return [*sorted(texts | set(map(str, _own(way, name)))), *(fact.choices if fact is not None else ()), OTHER, None]


def _around(edges: Iterable[Any]) -> Iterator[Any]:
    """Each edge, and what lies just beside it on both sides."""
    yield None
    for edge in edges:
        step: Any = timedelta(days=1) if isinstance(edge, date) else 1 if isinstance(edge, int) else abs(edge) / 1e6
        yield from (one for one in (edge, edge + step, edge - step) if isinstance(one, date) or one >= 0)


def _own(way: Way, fact: str) -> Sequence[Any]:
    """The values that a way itself may have of a fact, beside those that a policy names."""
    if fact == "target.window":
        return (way.target.window,)
    if fact == "target.memory_needed_gb":
        return weights(way)
    if fact == "target.provider":
        return tuple(way.providers or ())
    if fact == "target.modalities":
        return sorted(way.target.modalities)  # one that no policy names tells "not text alone" from nothing, too
    return ()


def weights(way: Way) -> tuple[float, ...]:
    """GB that the weights of a way could take, at every quantisation, ascending; empty where that is not known."""
    params = way.target.model.params_total_b
    return tuple(sorted({weights_gb(params, kept) or 0.0 for kept in BITS})) if params is not None else ()


def _modalities(way: Way, value: Any) -> bool:
    return isinstance(value, frozenset) and bool(value) and value <= way.target.modalities


def _memory(way: Way, value: Any) -> bool:
    return value is None or not weights(way) or value >= weights(way)[0]


def _capped(way: Way, value: Any) -> bool:
    most = way.target.max_output
    return most is None or (value is not None and value <= most)


_BOUND: Mapping[str, Callable[[Way, Any], bool]] = {
    "target.self_hosted": lambda way, value: value is False or (value is True and way.open),
    "target.provider": lambda way, value: value is None or way.providers is None or value in way.providers,
    "target.window": lambda way, value: value is not None and 0 < value <= way.target.window,
    "target.max_input": lambda way, value: value is None or value <= way.target.window,
    "target.max_output": _capped,
    "target.modalities": _modalities,
    "target.tools": lambda way, value: value is False or (value is True and way.target.tools),
    "target.structured_output": lambda way, value: value is False or (value is True and way.target.structured_output),
    "target.thinking": lambda way, value: value in _SAYS[way.target.thinking],
    "target.memory_needed_gb": lambda way, value: value in weights(way) if weights(way) else value is None,
    "target.memory_gb": _memory,
    "target.quantization": lambda way, value: value is None or value in BITS,
    "target.priced": lambda way, value: value is not None,
    "target.stand_in": lambda way, value: value is not None,
    "target.thinking_needs_stream": lambda way, value: value is not None,
    "target.weight": lambda way, value: value is not None,
    "target.retires_on": lambda way, value: way.target.retires_on is None or value == way.target.retires_on,
    "target.unsupported": lambda way, value: value is not None,
}
