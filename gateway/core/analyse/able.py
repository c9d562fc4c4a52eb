"""What a request must be like for a target to serve it, as formulas: one for each kind of ability.

They admit at least all that the target can serve, so "no request of this rule" is true; what an example does is for
`decide` to tell. They mirror `filters` and `decide.holds`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gateway.core.analyse.domains import UNREAL, Undecided
from gateway.core.analyse.formulas import ALWAYS, NEVER, Formula, Lies, every, some
from gateway.core.clauses.matchers import Leaf
from gateway.core.clauses.selectors import Selector
from gateway.core.facts import residency, signal_named, value_of
from gateway.core.reading.signals import Signals
from gateway.core.types import Fleet, Target

if TYPE_CHECKING:
    from gateway.core.analyse.study import Study
    from gateway.core.policy import Constraint

_YES, _NO = Leaf("in", frozenset({True})), Leaf("in", frozenset({False}))
UNKNOWN = Leaf("unknown")
_MOST_LISTS = 4  # of languages: each doubles the classes
MEDIA = ("image", "audio", "video", "file", "other")


def _places(place: str | None) -> Leaf:
    """The regions that a place lies in: `eu-central-1` lies in itself, in `eu-central` and in `eu`."""
    parts = [] if place is None else place.split("-")
    return Leaf("in", frozenset("-".join(parts[:number]) for number in range(1, len(parts) + 1)))


def asked(target: Target) -> Iterator[tuple[str, Leaf]]:
    """The comparisons that `abilities` needs of a target, for the classes of values to tell them apart."""
    yield "tools", _NO
    yield "structured_output", UNKNOWN
    yield from (("modality", Leaf("avoids", frozenset({kind}))) for kind in MEDIA)
    if target.model.images_max is not None:
        yield "images", Leaf("lte", target.model.images_max)
    if target.max_output is not None:
        yield "max_output_tokens", Leaf("lte", target.max_output)
    yield "max_output_tokens", UNKNOWN
    yield from (("parameters", Leaf("avoids", frozenset({name}))) for name in sorted(target.unsupported))
    yield "stream", _YES
    yield "context_tokens", Leaf("lte", target.window)
    yield "context_tokens", Leaf("lte", _prompt(target))
    for name, place in (("region", target.backend.region), ("residency", residency(target))):
        yield name, _places(place)
        yield name, UNKNOWN


def _prompt(target: Target) -> int:
    """The longest request that fits where no output was asked for."""
    longest = max(target.window - target.typical_output_tokens, 0)
    return longest if target.max_input is None else min(longest, target.max_input)


def abilities(study: Study, target: Target) -> Mapping[str, Formula]:
    """What a request must be like, by kind of ability; kinds that exclude nothing are left out."""
    matches = study.matches
    open_output = matches("max_output_tokens", UNKNOWN)
    found = {
        "window": every(
            [
                matches("context_tokens", Leaf("lte", target.window)),
                some([study.turned(open_output), matches("context_tokens", Leaf("lte", _prompt(target)))]),
            ]
        ),
        "tools": ALWAYS if target.tools else matches("tools", _NO),
        "structured_output": ALWAYS if target.structured_output else matches("structured_output", UNKNOWN),
        "content": every(
            matches("modality", Leaf("avoids", frozenset({kind}))) for kind in MEDIA if kind not in target.modalities
        ),
        "parameters": every(
            matches("parameters", Leaf("avoids", frozenset({name}))) for name in sorted(target.unsupported)
        ),
        "place": every(
            ALWAYS if study.everywhere is not None else some([matches(name, UNKNOWN), matches(name, _places(place))])
            for name, place in (("region", target.backend.region), ("residency", residency(target)))
        ),
    }
    if target.model.images_max is not None:
        found["images"] = matches("images", Leaf("lte", target.model.images_max))
    if target.max_output is not None:
        found["output"] = some([open_output, matches("max_output_tokens", Leaf("lte", target.max_output))])
    if target.thinking_needs_stream and target.thinking == "always":
        found["stream"] = matches("stream", _YES)
    return {kind: formula for kind, formula in found.items() if formula is not ALWAYS}


def operands(fleet: Fleet, select: Selector) -> Iterator[tuple[str, Leaf]]:
    """What the variables of a selector are compared with: the facts of this fleet."""
    for name in select.signals:
        kind = getattr(signal_named(name), "kind", "text")
        yield name, Leaf("known")
        values = {value_of(fact, target) for fact in select.facts for target in fleet.targets}
        lists = [value for value in values if isinstance(value, frozenset)]
        if kind == "language" and len(lists) <= _MOST_LISTS:
            yield from ((name, Leaf("not in", official)) for official in lists)
        elif kind == "text":
            yield from ((name, Leaf("in", frozenset({word}))) for official in lists for word in official)
            yield from ((name, Leaf("in", frozenset({value}))) for value in values if isinstance(value, str))


def hit(study: Study, constraint: Constraint, target: Target) -> Formula:
    """That a constraint acts against a target: surely so, as far as a variable's values can be tried one by one.

    For examples only: where it holds, the constraint acts; where it does not, it may. Raises `Undecided`.
    """
    when, select = study.space.of(constraint.when), constraint.select
    if not select.possible >> target.index & 1:
        return NEVER
    if select.resolve is None:
        return when
    if len(select.signals) != 1:
        raise Undecided
    (name,) = select.signals
    domains = study.space.domains

    def acts(value: Any) -> bool:
        return bool(select.mask(Signals.given({} if value is None else {name: value})) >> target.index & 1)

    if getattr(signal_named(name), "kind", "text") == "set":
        alone = [word for word in domains.words(name) if acts([domains.real(name, word)])]
        return every([when, some(study.matches(name, Leaf("is", frozenset({word}))) for word in alone)])
    values = enumerate(domains.domain(name).values)
    found = sum(1 << number for number, value in values if value is not UNREAL and acts(value))
    full = domains.full(name)
    return every([when, ALWAYS if found == full else Lies(name, found) if found else NEVER])


def spared(study: Study, target: Target) -> Formula:
    """That no hard constraint acts against a target; where that cannot be told of one, it is taken not to."""
    parts = []
    for constraint in study.policy.forbids:
        try:
            parts.append(study.turned(hit(study, constraint, target)))
        except Undecided:
            continue
    return every(parts)
