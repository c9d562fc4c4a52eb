"""What constraints do not reach, whom they bind by accident, and which rules they leave without a target.

Rules cannot leak: constraints remove candidates after every rule and pin. What can leak is a constraint itself: where a
fact it negates is not known of a target, where a client decides whether it applies, or where it only puts last.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from gateway.core.analyse import everywhere
from gateway.core.analyse.able import hit
from gateway.core.analyse.domains import Undecided
from gateway.core.analyse.formulas import NEVER, Formula, every, some
from gateway.core.analyse.ways import OPEN
from gateway.core.clauses.conditions import members
from gateway.core.clauses.findings import Finding, Severity, finding
from gateway.core.clauses.matchers import Problems
from gateway.core.clauses.selectors import Names, compile_selector
from gateway.core.facts import value_of
from gateway.core.policy import VARIABLES
from gateway.core.reading.signals import Signals
from gateway.core.targets.rank import bits
from gateway.core.types import Decision, Target

if TYPE_CHECKING:
    from gateway.core.analyse.study import Study, Witness
    from gateway.core.policy import Constraint, Policy

_MUST = re.compile(
    r"\b(must|never|not allowed|may not|forbid\w*|forbidden|prohibit\w*|illegal|unlawful|required by|shall)\b", re.I
)
_MOST_NAMED = 4
#: What a client says of itself beside its prompt: it may say it, or not.
_HINTS = ("workload", "region", "residency", "cost_sensitive", "conversation")


def leaks(policy: Policy, closed: int = 0) -> Iterator[Finding]:
    """Hard constraints that targets of this fleet slip past because a fact that is negated is not known of them.

    Needs no search: it is what a start looks at.
    """
    for i, entry in enumerate(policy.doc.constraints):
        constraint = next((one for one in policy.forbids if one.id == entry.id), None)
        if constraint is None or entry.forbid is None:
            continue
        for name in dict.fromkeys(constraint.select.open_to_unknown):
            slips = _slips(policy, entry.forbid, name) & ~constraint.select.possible & ~closed
            names = ", ".join(policy.fleet.targets[index].name for index in bits(slips))
            if names:
                what = f"does not reach targets whose {name} is not known: {names}"
                fix = f"require: what must be so, or add {{{name}: {{known: false}}}} to the list"
                yield finding("leak-unknown", entry.id, f"constraints[{i}].forbid", what, fix)


def _slips(policy: Policy, raw: object, fact: str) -> int:
    """The targets of which the fact is not known, and for which all else that the selector says beside it holds."""
    names = Names.of(policy.fleet)
    sets = {name: tuple(names.models.get(one, one) for one in models) for name, models in policy.doc.sets.items()}
    unknown = sum(1 << target.index for target in policy.fleet.targets if value_of(fact, target) is None)
    slips = 0
    for part in raw if isinstance(raw, list) else [raw]:
        if not isinstance(part, Mapping) or fact not in part:
            continue
        rest = {key: value for key, value in part.items() if key != fact} or "*"
        beside = compile_selector(rest, policy.fleet, replace(names, sets=sets), "", Problems(), variables=VARIABLES)
        slips |= unknown & (policy.fleet.mask() if beside is None else beside.possible)
    return slips


def judge(study: Study) -> Iterator[Finding]:
    """Constraint by constraint, then what they leave of the rules together."""
    policy = study.policy
    yield from leaks(policy, study.closed) if study.everywhere is None else everywhere.leaks(study.everywhere)
    for i, entry in enumerate(policy.doc.constraints):
        path = f"constraints[{i}]"
        constraint = next(one for one in (*policy.forbids, *policy.avoids) if one.id == entry.id)
        if not constraint.select.possible:
            holds = "holds of every target" if constraint.effect == "require" else "concerns no target"
            if not _open(study, constraint):
                yield finding("constraint-empty", entry.id, path, f"{holds} {study.here}")
            continue
        if not constraint.hard:
            found = _MUST.search(entry.because)
            if found:
                what = f"its words say `{found[0]}`, but what it avoids is only put last, and may still answer"
                yield finding("avoid-must", entry.id, f"{path}.avoid", what, "forbid, or other words")
            continue
        yield from _everything(study, constraint, path)
        yield from _hints(study, constraint, f"{path}.when")
    yield from _stranded(study)
    if policy.forbids:
        names = ", ".join(constraint.id for constraint in policy.forbids)
        what = f"no rule, fallback or pin can leak past {names}: they remove candidates after all of these"
        yield finding("constraints-bind", policy.name, "constraints", what)


def _open(study: Study, constraint: Constraint) -> bool:
    """Whether it hangs on what installations say, so that on all of them at once nothing is to be told."""
    return study.everywhere is not None and any(name.startswith(OPEN) for name in constraint.select.facts)


def _everything(study: Study, constraint: Constraint, path: str) -> Iterator[Finding]:
    """Constraints that hit every target, and requirements that targets fail because nobody said what they are."""
    policy, select = study.policy, constraint.select
    always = constraint.when is None
    required = constraint.effect == "require"
    if select.resolve is None and select.possible == policy.fleet.mask() and (always or required):
        what = f"forbids every target {study.here}, always"
        if required:
            what = f"what it requires is known to hold of no target {study.here}: every request "
            what += "is refused" if always else "it applies to is refused"
        severity: Severity = "warning" if always else "info"
        yield finding("constraint-everything", constraint.id, path, what, severity=severity)
    for name in sorted(select.facts) if required else ():
        lost = [policy.fleet.targets[index] for index in bits(select.possible)]
        dumb = dict.fromkeys(target.name for target in lost if value_of(name, target) is None)
        if dumb and not (study.everywhere is not None and name.startswith(OPEN)):
            named = [*dumb] if study.everywhere is None else [*dumb][:_MOST_NAMED]
            more = f" and {len(dumb) - len(named)} more" if len(dumb) > len(named) else ""
            what = f"removes targets whose {name} is not known: {', '.join(named)}{more}"
            where = "where they are declared" if study.everywhere is None else "in a catalogue of your own"
            yield finding("require-unknown", constraint.id, path, what, f"say it {where}, if it holds")


# Whom they bind


def _hints(study: Study, constraint: Constraint, path: str) -> Iterator[Finding]:
    """Constraints that apply or not as the client pleases."""
    when = constraint.when
    if when is None:
        return
    named = dict.fromkeys(member.signal for member in members(when))
    for name in named:
        own = name.partition(".")[0] in ("headers", "metadata")
        if not own and name not in _HINTS:
            continue
        try:
            witness = _lifts(study, constraint, name)
            unsaid = study.space.under(study.space.of(when), {name: 1})  # the plainest class: not sent
            needed = name not in ("region", "residency") and study.admits([unsaid]) is False
            needed = needed and study.admits([study.space.of(when), study.keys(name, say=True)]) is False
        except Undecided:
            study.note("hint", constraint.id)
            continue
        if witness is not None:
            what = f"does not apply where a client sends {name}: {str(witness[name]).lower()}"
            fix = "a fact of the key, such as tenant.<name>, which no request can change"
            yield finding("hint-lifts", constraint.id, path, what, fix, witness=witness)
        elif needed:
            what = f"binds only requests that say so themselves, by {name}"
            yield finding(
                "hint-binds", constraint.id, path, what, "a fact of the key, if clients must not leave it out"
            )


def _lifts(study: Study, constraint: Constraint, name: str) -> Witness | None:
    """A request that a constraint does not bind, though it would without this one hint."""
    when, space = constraint.when, study.space
    if when is None:
        return None
    formula, domain = space.of(when), space.domains.domain(name)
    bound, able = space.under(formula, {name: 1}), study.keys(name, say=False)
    for number, value in enumerate(domain.values[1:], 1):
        free = space.without(space.under(formula, {name: 1 << number}))
        point = space.find([bound, free, able])
        rest = None if point is None else space.domains.given(point)
        if rest is None:
            continue
        given = {**rest, name: value}
        if domain.values[0] is not None:
            rest = {**rest, name: domain.values[0]}
        if when.test(Signals.given(rest)) and not when.test(Signals.given(given)):
            return given
    return None


# What they leave


def _stranded(study: Study) -> Iterator[Finding]:
    """Requests that a rule admits and that constraints leave no target for: one constraint alone, then several."""
    rules = study.policy.rules
    by_constraint: dict[str, tuple[list[str], Witness]] = {}
    together: list[tuple[str, list[str], Witness]] = []
    for i, rule in enumerate(rules):
        targets = [] if study.dead(i) else study.candidates(rule.mask)
        hits = _hits(study, targets)
        alone: list[Formula] = []
        for identity, formulas in hits.items():
            whole = every(formulas)
            if NEVER in formulas:
                continue
            alone.append(whole)
            witness = study.example([*formulas, *study.taken(i)], _denied(rule.id), "constraint", rule.id)
            if witness is not None:
                by_constraint.setdefault(identity, ([], witness))[0].append(rule.id)
        if len(hits) > 1 and targets:
            each = [some(found[place] for found in hits.values()) for place in range(len(targets))]
            formulas = [*each, *(study.turned(one) for one in alone), *study.taken(i)]
            witness = study.example(formulas, _denied(rule.id), "constraint", rule.id)
            if witness is not None:
                together.append((rule.id, _bind(study, witness), witness))
    yield from _told(study, by_constraint, together)


def _told(
    study: Study,
    by_constraint: Mapping[str, tuple[list[str], Witness]],
    together: Sequence[tuple[str, list[str], Witness]],
) -> Iterator[Finding]:
    policy = study.policy
    severity: Severity = "info" if study.tenants is None else "warning"
    places = {entry.id: f"constraints[{i}]" for i, entry in enumerate(policy.doc.constraints)}
    fix = "targets that it allows, if such requests are to be served"
    for identity, (ids, witness) in by_constraint.items():
        everywhere = "any rule" if len(ids) == len(policy.rules) > 1 else ", ".join(f"`{name}`" for name in ids)
        what = f"leaves no target for {everywhere}: such requests are refused"
        path = places.get(identity, "constraints")
        yield finding("constraint-strands", identity, path, what, fix, witness=witness, severity=severity)
    grouped: dict[tuple[str, ...], tuple[list[str], Witness]] = {}
    for rule_id, ids, witness in together:
        grouped.setdefault(tuple(ids), ([], witness))[0].append(rule_id)
    for constraints, (ids, witness) in grouped.items():
        named = ", ".join(f"`{name}`" for name in ids)
        what = f"together with {', '.join(f'`{name}`' for name in constraints[1:])} leaves no target for {named}"
        path = places.get(constraints[0], "constraints")
        yield finding("constraint-strands", constraints[0], path, what, fix, witness=witness, severity=severity)


def _denied(rule: str) -> Callable[[Decision, Signals], bool]:
    def shows(decision: Decision, signals: Signals) -> bool:
        return decision.rule == rule and decision.refusal is not None and decision.refusal[0] == "policy_denied"

    return shows


def _hits(study: Study, targets: Sequence[Target]) -> dict[str, list[Formula]]:
    """For each hard constraint that may apply or not, when it acts against each of these targets."""
    found: dict[str, list[Formula]] = {}
    for constraint in study.policy.forbids:
        if constraint.when is None and constraint.select.resolve is None:
            continue
        try:
            found[constraint.id] = [hit(study, constraint, target) for target in targets]
        except Undecided:
            study.note("constraint", constraint.id)
    return found if targets else {}


def _bind(study: Study, witness: Witness) -> list[str]:
    """The hard constraints that act in a request."""
    signals = Signals.given(witness)
    return [
        one.id
        for one in study.policy.forbids
        if (one.when is None or one.when.test(signals)) and one.select.mask(signals) & ~study.closed
    ]
