"""What can be said about a policy before any request: dead rules, gaps, rungs that cannot serve, leaks, loose ends.

Findings, not errors: a policy moves between fleets, and what a fleet lacks may come tomorrow. Everything here is a
pure function of the compiled policy; literals that mean nothing were refused when it was compiled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal

from gateway.core.capabilities import retired
from gateway.core.conditions import Condition
from gateway.core.facts import fact_named, value_of
from gateway.core.matchers import Either, Leaf, Matcher, Problems, Spelling, parse
from gateway.core.policy import Constraint, Policy, Rule, Rung, clock
from gateway.core.rank import bits
from gateway.core.space import Undecided, describe, edges, find, members

Severity = Literal["error", "warning", "info", "holds"]
SOON_DAYS = 90
EPOCH_DAY = date(1970, 1, 1).toordinal()


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing worth knowing. `holds` is good news: something that was shown to be so."""

    severity: Severity
    id: str  # of the rule, constraint, thinking entry, set or target
    path: str  # into the policy file; "" where a target of the fleet is meant
    message: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.severity}: {self.id}: {self.message}" + (f" ({self.fix})" if self.fix else "")


def analyse(policy: Policy, *, now: float | None = None) -> list[Finding]:
    """Judge a policy on its fleet, worst first. `now` is Unix seconds, for retirements; by default its own `as_of`."""
    moment = clock(policy) if now is None else now
    found = [
        *_order(policy),
        *_gap(policy),
        *_rungs(policy),
        *_families(policy),
        *_constraints(policy),
        *_names(policy),
        *_targets(policy, moment),
        *_loose_ends(policy),
    ]
    rank = {"error": 0, "warning": 1, "info": 2, "holds": 3}
    return sorted(found, key=lambda finding: rank[finding.severity])


def _order(policy: Policy) -> Iterator[Finding]:
    """Rules, thinking entries and constraints that can never apply."""
    rules = [(rule.id, rule.when, f"rules[{i}]") for i, rule in enumerate(policy.rules)]
    entries = [(entry.id, entry.when, f"thinking[{i}]") for i, entry in enumerate(policy.thinking)]
    for kind, listed in (("rule", rules), ("entry", entries)):
        for i, (name, when, path) in enumerate(listed):
            why = _unreachable(when, [(other, condition) for other, condition, _ in listed[:i]], kind)
            if why:
                yield Finding("warning", name, path, f"never applies: {why}", "move it up, narrow what stands above")
    for i, entry in enumerate(policy.doc.constraints):
        constraint = next(one for one in (*policy.forbids, *policy.avoids) if one.id == entry.id)
        if constraint.when is not None and _admits([constraint.when], []) is False:
            yield Finding(
                "warning", entry.id, f"constraints[{i}].when", "never applies: nothing can satisfy its `when`"
            )


def _unreachable(when: Condition | None, above: Sequence[tuple[str, Condition | None]], kind: str) -> str | None:
    for name, condition in above:
        if condition is None:
            return f"`{name}` above it applies to everything"
    wanted = [] if when is None else [when]
    if _admits(wanted, []) is False:
        return "nothing can satisfy its `when`"
    conditions = [(name, condition) for name, condition in above if condition is not None]
    for name, condition in conditions:
        if _admits(wanted, [condition]) is False:
            return f"all it admits is taken by `{name}` above it"
    if _admits(wanted, [condition for _, condition in conditions]) is False:
        return f"all it admits is taken by the {kind}s above it together"
    return None


def _admits(wanted: Sequence[Condition], unwanted: Sequence[Condition]) -> bool | None:
    try:
        return find(wanted, unwanted) is not None
    except Undecided:
        return None


def _gap(policy: Policy) -> Iterator[Finding]:
    conditions = [rule.when for rule in policy.rules]
    if None in conditions:
        yield Finding("holds", policy.name, "rules", "every request is covered by a rule")
        return
    path = f"rules[{len(conditions) - 1}]"
    fix = "end with a rule without `when`"
    try:
        example = find([], [condition for condition in conditions if condition is not None])
    except Undecided:
        yield Finding("info", policy.name, path, "could not tell whether every request is covered", fix)
        return
    if example is None:
        yield Finding("holds", policy.name, "rules", "every request is covered by a rule")
    else:
        yield Finding("warning", policy.name, path, f"no rule for: {describe(example)}; it is refused", fix)


def _rungs(policy: Policy) -> Iterator[Finding]:
    """Rungs that serve nothing, on this fleet or ever."""
    never = policy.capabilities.closed
    for constraint in policy.forbids:
        if constraint.when is None and constraint.select.resolve is None:
            never |= constraint.select.possible
    for i, rule in enumerate(policy.rules):
        if not rule.mask:
            yield Finding(
                "warning", rule.id, f"rules[{i}].use", "selects no target of this fleet: its requests are refused"
            )
            continue
        least = _least_tokens(policy, i)
        seen = 0
        for j, rung in enumerate(rule.rungs):
            yield from _rung(policy, rule, rung, f"rules[{i}].use[{j}]", seen, never, least)
            seen |= rung.mask


def _rung(
    policy: Policy, rule: Rule, rung: Rung, path: str, seen: int, never: int, least: int | None
) -> Iterator[Finding]:
    targets = [policy.fleet.targets[index] for index in bits(rung.mask)]
    if not targets:
        yield Finding("info", rule.id, path, f"selects no target of this fleet ({rung.text})")
    elif not rung.mask & ~never:
        fix = "allow_closed, or another selector"
        yield Finding("warning", rule.id, path, "none of its targets is ever allowed: closed, or always forbidden", fix)
    elif not rung.mask & ~seen:
        yield Finding("info", rule.id, path, "adds nothing: the rungs before it hold all its targets")
    elif least is not None:
        widest = max(target.window for target in targets)
        small = [target.name for target in targets if target.window < least]
        if widest < least:
            what = f"cannot hold what its rule admits: {least:,} tokens and more, its widest window is {widest:,}"
            yield Finding("warning", rule.id, path, what, "a selector with target.window")
        elif small and rung.text not in ("*", "family: *"):
            what = f"{', '.join(small)} cannot hold what its rule admits ({least:,} tokens and more)"
            yield Finding("info", rule.id, path, what, "nothing, if the others suffice: it is never chosen")


def _least_tokens(policy: Policy, number: int) -> int | None:
    """The fewest context tokens a request of this rule has; None where it may have none, or that is undecided."""
    above = [rule.when for rule in policy.rules[:number] if rule.when is not None]
    when = policy.rules[number].when
    wanted = [] if when is None else [when]
    try:
        for value in edges([*wanted, *above], "context_tokens"):
            if find(wanted, above, {"context_tokens": value}) is not None:
                return value or None
    except Undecided:
        return None
    return None


def _families(policy: Policy) -> Iterator[Finding]:
    """Fallbacks that never leave a family, or a backend."""
    open_to_it = policy.fleet.mask() & ~policy.capabilities.closed
    everywhere = {policy.fleet.targets[index].model.family for index in bits(open_to_it)}
    crossing = len(everywhere) > 1
    if len(everywhere) == 1:
        what = f"all targets it may use are of one family, {min(everywhere)}: no fallback leaves it"
        yield Finding("warning", policy.name, "rules", what, "a target of another family")
    for i, rule in enumerate(policy.rules):
        targets = [policy.fleet.targets[index] for index in bits(rule.mask & ~policy.capabilities.closed)]
        families = {target.model.family for target in targets}
        backends = {target.backend.name for target in targets}
        if len(families) == 1 and len(everywhere) > 1:
            crossing = False
            what = f"its fallbacks never leave the family {families.pop()}"
            yield Finding("warning", rule.id, f"rules[{i}].use", what, 'end with {family: "*"}')
        elif len(backends) == 1:
            yield Finding("info", rule.id, f"rules[{i}].use", f"all its targets stand on one backend, {backends.pop()}")
    if crossing and policy.rules:
        yield Finding("holds", policy.name, "rules", "the fallbacks of every rule cross families")


def _constraints(policy: Policy) -> Iterator[Finding]:
    """What constraints do not reach. Rules cannot leak: constraints remove candidates after every rule and pin."""
    for i, entry in enumerate(policy.doc.constraints):
        path = f"constraints[{i}]"
        constraint = next(one for one in (*policy.forbids, *policy.avoids) if one.id == entry.id)
        if not constraint.select.possible:
            every = "holds of every target of this fleet" if constraint.effect == "require" else ""
            yield Finding("info", entry.id, path, every or "concerns no target of this fleet")
            continue
        if not constraint.hard:
            continue
        for name in dict.fromkeys(constraint.select.open_to_unknown):
            slips = [target.name for target in policy.fleet.targets if value_of(name, target) is None]
            what = f"does not reach targets whose {name} is not known: {', '.join(slips)}"
            yield Finding("warning", entry.id, path, what, f"add {{{name}: {{known: false}}}} to the list")
        if constraint.select.resolve is None and constraint.select.possible == policy.fleet.mask():
            always = entry.when is None
            if constraint.effect == "require":
                what = "what it requires is known to hold of no target of this fleet: "
                what += "every request is refused" if always else "every request it applies to is refused"
                yield Finding("warning" if always else "info", entry.id, path, what)
            elif always:
                yield Finding("warning", entry.id, path, "forbids every target of this fleet, always")
        if constraint.effect == "require":
            yield from _unknown(policy, constraint, path)
    if policy.forbids:
        names = ", ".join(constraint.id for constraint in policy.forbids)
        what = f"no rule, fallback or pin can leak past {names}: they remove candidates after all of these"
        yield Finding("holds", policy.name, "constraints", what)


def _unknown(policy: Policy, constraint: Constraint, path: str) -> Iterator[Finding]:
    """Targets that a requirement removes only because nobody said what they are."""
    for name in sorted(constraint.select.facts):
        lost = [policy.fleet.targets[index] for index in bits(constraint.select.possible)]
        dumb = [target.name for target in lost if value_of(name, target) is None]
        if dumb:
            what = f"removes targets whose {name} is not known: {', '.join(dumb)}"
            yield Finding("info", constraint.id, path, what, "say it where they are declared, if it holds")


def _names(policy: Policy) -> Iterator[Finding]:
    """Names that mean something somewhere, but nothing in this fleet or catalogue."""
    served = {target.model.id for target in policy.fleet.targets}
    for name, models in policy.doc.sets.items():
        absent = [model for model in models if _canonical(policy, model) not in served]
        if absent:
            yield Finding("info", name, f"sets.{name}", f"not served by this fleet: {', '.join(absent)}")
        if f"'@{name}'" not in _texts(policy):
            yield Finding("info", name, f"sets.{name}", "is never used")
    for identity, path, raw in _selectors(policy):
        for key, value in raw.items():
            fact = fact_named(key)
            if fact is None or fact.kind != "text" or fact.choices:
                continue
            matcher = parse(value, Spelling(key, "text", variables={}), path, Problems())
            known = {fact.read(target) for target in policy.fleet.targets}
            if key.startswith("model."):  # a catalogue knows more models than a fleet serves
                known |= {getattr(model, key.removeprefix("model."), None) for model in policy.fleet.models.values()}
            unmet = sorted(str(word) for word in _words(matcher) if word not in known)
            if unmet:
                where = "model of the catalogue" if key.startswith("model.") else "target of this fleet"
                yield Finding("warning", identity, f"{path}.{key}", f"no {where} has {key} {', '.join(unmet)}")


def _canonical(policy: Policy, name: str) -> str:
    return next((model.id for model in policy.fleet.models.values() if name in (model.id, *model.aliases)), name)


def _texts(policy: Policy) -> str:
    """Everything that selectors say, with quotes around every text, to look a set's name up in."""
    return " ".join(str(raw) for _, _, raw in _selectors(policy))


def _selectors(policy: Policy) -> Iterator[tuple[str, str, Mapping[str, object]]]:
    """Every selector map of the document: id of its owner, path, map."""
    for i, rule in enumerate(policy.doc.rules):
        for j, raw in enumerate(rule.use):
            if isinstance(raw, Mapping):
                yield rule.id, f"rules[{i}].use[{j}]", raw
    for i, entry in enumerate(policy.doc.constraints):
        key, raw = entry.effect, entry.selector
        for number, part in enumerate(raw if isinstance(raw, list) else [raw]):
            if isinstance(part, Mapping):
                at = f"[{number}]" if isinstance(raw, list) else ""
                yield entry.id, f"constraints[{i}].{key}{at}", part


def _words(matcher: Matcher | None) -> Iterator[object]:
    if isinstance(matcher, Either):
        for part in matcher.parts:
            yield from _words(part)
    elif isinstance(matcher, Leaf) and isinstance(matcher.operand, frozenset):
        yield from matcher.operand


def _targets(policy: Policy, now: float) -> Iterator[Finding]:
    """Targets that are withdrawn, soon will be, or cost nobody knows what."""
    used = 0
    by_cost = 0
    for rule in policy.rules:
        used |= rule.mask
        for rung in rule.rungs:
            by_cost |= rung.mask if rung.rank in ("cheapest", "balanced") else 0
    gone = retired(policy.capabilities.retirements, now)
    soon = retired(policy.capabilities.retirements, now + SOON_DAYS * 86_400)
    today = date.fromordinal(EPOCH_DAY + int(now // 86_400))
    for index in bits(used):
        target = policy.fleet.targets[index]
        if gone >> index & 1:
            what = f"was withdrawn on {target.retires_on} and is never chosen"
            yield Finding("warning", target.name, "", what, "remove it or serve the model elsewhere")
        elif soon >> index & 1 and target.retires_on is not None:
            days = (target.retires_on - today).days
            yield Finding("warning", target.name, "", f"will be withdrawn on {target.retires_on}, in {days} days")
        if target.price is None and by_cost >> index & 1:
            yield Finding("info", target.name, "", "has no price: it ranks behind all that have one", "price: ...")
    unused = [target.name for target in policy.fleet.targets if not used >> target.index & 1]
    if unused:
        yield Finding("info", policy.name, "rules", f"no rule ever uses {', '.join(unused)}")


def _loose_ends(policy: Policy) -> Iterator[Finding]:
    conditions = [rule.when for rule in policy.rules]
    conditions += [entry.when for entry in policy.thinking]
    conditions += [constraint.when for constraint in (*policy.forbids, *policy.avoids)]
    counts = any(
        member.signal == "context_tokens" for when in conditions if when is not None for member in members(when)
    )
    if counts and policy.tokens_by is None:
        what = "context_tokens has no tokenizer: thresholds are compared with bytes, which are more"
        yield Finding("warning", policy.name, "tokens_by", what, "tokens_by: qwen3.5")
    if not policy.doc.tests:
        yield Finding("info", policy.name, "tests", "the policy has no tests", "say what must stay true")
