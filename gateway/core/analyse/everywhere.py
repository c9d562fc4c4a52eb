"""What is found of a policy on all installations at once: rungs that nothing known could be in, models that are gone.

Told beside the judgements that hold on any fleet, with the words of the catalogue: which member of a selector leaves
nothing, and how near the known models come to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from gateway.core.analyse.domains import leaves
from gateway.core.analyse.imagined import BESIDE, Imagined
from gateway.core.analyse.targets import SOON_DAYS
from gateway.core.analyse.ways import OPEN, Way, weights
from gateway.core.clauses.findings import Finding, finding
from gateway.core.clauses.matchers import Problems, Spelling, parse, suggest
from gateway.core.clauses.selectors import describe
from gateway.core.facts import fact_named
from gateway.core.servers.rows import DIALECTS
from gateway.core.targets.capabilities import retires_at

if TYPE_CHECKING:
    from gateway.core.analyse.study import Study

_DAY_S = 86_400
_NEAR = 0.7  # dialects that another was probably meant for


def judge(study: Study, made: Imagined, providers: frozenset[str]) -> Iterator[Finding]:
    """Rules and shadows rung by rung, then constraints. `providers` are those that the catalogue knows."""
    doc = made.policy.doc
    rungs = [(rule.id, f"rules[{i}]", rule.use) for i, rule in enumerate(doc.rules)]
    rungs += [(entry.id, f"shadow[{i}]", entry.use) for i, entry in enumerate(doc.shadow)]
    for identity, path, use in rungs:
        for j, raw in enumerate(use):
            if isinstance(raw, Mapping):
                yield from _rung(study, made, identity, f"{path}.use[{j}]", raw)
                yield from _names(providers, identity, f"{path}.use[{j}]", raw)
    for i, constraint in enumerate(doc.constraints):
        whole = constraint.selector
        for number, part in enumerate(whole if isinstance(whole, list) else [whole]):
            if isinstance(part, Mapping):
                at = f"constraints[{i}].{constraint.effect}" + (f"[{number}]" if isinstance(whole, list) else "")
                yield from _names(providers, constraint.id, at, part)


def _rung(study: Study, made: Imagined, identity: str, path: str, raw: Mapping[str, Any]) -> Iterator[Finding]:
    gone = list(_gone(study, made, identity, f"{path}.model", raw)) if "model" in raw else []
    yield from gone
    if not gone and not made.selected(raw):
        yield _impossible(made, identity, path, raw)


def _impossible(made: Imagined, identity: str, path: str, raw: Mapping[str, Any]) -> Finding:
    """A rung in which no target of any installation could stand, and the member that is to blame, where one is."""
    asked = {key: value for key, value in raw.items() if key not in BESIDE}
    what = f"no target that any installation could have is ({describe(asked)})"
    for key in reversed(asked):
        rest = {name: value for name, value in asked.items() if name != key}
        spared = made.selected(rest or "*")
        if spared:
            names = list(dict.fromkeys(way.target.model.id for way in spared))
            some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            fix = f"without `{describe({key: asked[key]})}`: {some}{_had(spared, key)}"
            return finding("rung-impossible", identity, f"{path}.{key}", what, fix)
    return finding("rung-impossible", identity, path, what, "members that one model of the catalogue has together")


def _had(ways: Sequence[Way], key: str) -> str:
    """What those who are all else that is asked have of a number."""
    fact = fact_named(key)
    if fact is None or fact.kind != "number":
        return ""
    known = [value for way in ways if isinstance(value := fact.read(way.target), int | float)]
    if key == f"{OPEN}window":
        return f", where {max(known):,} are the most"
    if key == f"{OPEN}memory_needed_gb":
        least = min((one for way in ways for one in weights(way)), default=None)
        return "" if least is None else f", where {least:g} is the least"
    if key.startswith(OPEN):
        return ""
    if not known:
        return f", of which {key} is not known"
    return f", with {_number(min(known))}" + (f" to {_number(max(known))}" if min(known) < max(known) else "")


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _gone(study: Study, made: Imagined, identity: str, path: str, raw: Mapping[str, Any]) -> Iterator[Finding]:
    """Models that a rung names, and that nobody offers any more, or soon."""
    for name in made.named(raw["model"]):
        model = made.policy.fleet.models.get(name)
        if model is None or model.open_weights is not False:
            continue
        targets = [way.target for way in made.all_ways if way.target.model.id == name]
        ends = [end for target in targets if (end := retires_at(target)) is not None]
        if not targets:
            what = f"names {name}, which is API only and offered by nobody"
            yield finding(
                "model-retired", identity, path, what, "another model, or an offer in a catalogue of your own"
            )
        if not targets or len(ends) < len(targets) or max(ends) > study.now + SOON_DAYS * _DAY_S:
            continue
        day = max(target.retires_on for target in targets if target.retires_on is not None)
        if max(ends) <= study.now:
            what = f"names {name}, which is API only; its last offer was withdrawn on {day}"
            yield finding("model-retired", identity, path, what, "another model")
        else:
            what = f"names {name}, which is API only; its last offer will be withdrawn on {day}"
            yield finding("model-retires", identity, path, what, "another model beside it")


def _names(providers: frozenset[str], identity: str, path: str, raw: Mapping[str, Any]) -> Iterator[Finding]:
    """Providers that the catalogue does not know, and dialects that do not come along."""
    for key, known, noun in (
        (f"{OPEN}provider", providers, "provider of the catalogue"),
        (f"{OPEN}dialect", frozenset(DIALECTS), "dialect that comes with Pointsman"),
    ):
        matcher = parse(raw[key], Spelling(key, "text", variables={}), path, Problems()) if key in raw else None
        for leaf in leaves(matcher) if matcher is not None else ():
            for word in sorted(map(str, leaf.operand)) if isinstance(leaf.operand, frozenset) else ():
                near = get_close_matches(word, sorted(known), n=1, cutoff=_NEAR)
                # An installation may define dialects of its own; who rents models out, only its catalogue.
                if word not in known and (near or noun.startswith("provider")):
                    what = f"no {noun} is called {word}"
                    yield finding("name-unknown", identity, f"{path}.{key}", what, suggest(word, sorted(known)))


def leaks(made: Imagined) -> Iterator[Finding]:
    """Hard constraints that targets of some installation could slip past, for a fact that is negated is not known."""
    for i, entry in enumerate(made.policy.doc.constraints):
        constraint = next((one for one in made.policy.forbids if one.id == entry.id), None)
        if constraint is None or entry.forbid is None:
            continue
        for name in dict.fromkeys(constraint.select.open_to_unknown):
            where = ", on any installation that does not say it"
            if not name.startswith(OPEN):
                where = ": " + ", ".join(_slip(made, entry.forbid, name))
            if where != ": ":
                what = f"does not reach targets whose {name} is not known{where}"
                fix = f"require: what must be so, or add {{{name}: {{known: false}}}} to the list"
                yield finding("leak-unknown", entry.id, f"constraints[{i}].forbid", what, fix, severity="warning")


def _slip(made: Imagined, raw: object, fact: str) -> list[str]:
    """The models of which a fact is not known, and that could be all else that a selector says beside it."""
    read = fact_named(fact)
    slips: dict[str, None] = {}
    for part in raw if isinstance(raw, list) else [raw]:
        if isinstance(part, Mapping) and fact in part and read is not None:
            beside = made.selected({key: value for key, value in part.items() if key != fact} or "*")
            slips.update({way.target.model.id: None for way in beside if read.read(way.target) is None})
    return list(slips)
