"""Loose ends: names that mean something somewhere but nothing in this fleet or catalogue, sets that nothing uses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from gateway.core.analyse.study import Study
from gateway.core.analyse.ways import OPEN
from gateway.core.clauses.conditions import members
from gateway.core.clauses.findings import Finding, finding
from gateway.core.clauses.matchers import Problems, Spelling, holds, leaves, parse, suggest
from gateway.core.facts import fact_named
from gateway.core.policy import Policy, Rung
from gateway.core.targets.rank import bits

_ALIKE = 0.5  # names in a rung that another may have been meant for


def judge(study: Study) -> Iterator[Finding]:
    """Names, sets, and what a policy should say of itself."""
    policy = study.policy
    served = {target.model.id for target in policy.fleet.targets}
    names = {alias: model.id for model in policy.fleet.models.values() for alias in (model.id, *model.aliases)}
    used = " ".join(str(raw) for _, _, raw in _selectors(policy))  # with quotes around every text
    for name, models in policy.doc.sets.items():
        absent = [model for model in models if names.get(model, model) not in served]
        if absent and study.everywhere is None:
            yield finding("set-unserved", name, f"sets.{name}", f"not served by this fleet: {', '.join(absent)}")
        if f"'@{name}'" not in used:
            yield finding("set-unused", name, f"sets.{name}", "is never used")
    for identity, path, raw in _selectors(policy):
        for key, value in raw.items():
            if study.everywhere is not None and key.startswith(OPEN):
                continue  # whatever it is, an installation may say it
            yield from _unknown(policy, identity, f"{path}.{key}", key, value)
    for identity, path, written, rungs in _ladders(policy) if study.everywhere is None else ():
        for j, (form, rung) in enumerate(zip(written, rungs, strict=True)):
            if isinstance(form, Mapping) and isinstance(form.get("weights"), Mapping):
                yield from _weightless(policy, names, identity, f"{path}.use[{j}]", form, rung)
    yield from _self(policy)


def _ladders(policy: Policy) -> Iterator[tuple[str, str, Sequence[object], Sequence[Rung]]]:
    """Every list of rungs: id of its owner, its path, as written and compiled."""
    for i, (rule, made) in enumerate(zip(policy.doc.rules, policy.rules, strict=True)):
        yield rule.id, f"rules[{i}]", rule.use, made.rungs
    for i, (entry, copy) in enumerate(zip(policy.doc.shadow, policy.shadows, strict=True)):
        yield entry.id, f"shadow[{i}]", entry.use, copy.rungs


def _weightless(
    policy: Policy, models: Mapping[str, str], identity: str, path: str, raw: Mapping[str, Any], rung: Rung
) -> Iterator[Finding]:
    """Names of `weights` that get no share here: a misspelt canary would get no traffic, and nobody would notice."""
    targets = policy.fleet.targets
    within = [targets[index] for index in bits(rung.mask)]
    inside = sorted({*(one.name for one in within), *(one.model.id for one in within)})
    known = {*models, *(target.name for target in targets)}
    lost = sorted(str(name) for name in raw["weights"] if name not in known)
    if lost:
        what = f"no model of the catalogue or target of this fleet is called {', '.join(lost)}, so it gets no share"
        near = inside if get_close_matches(lost[0], inside, cutoff=_ALIKE) else sorted(known)
        yield finding("name-unknown", identity, f"{path}.weights", what, suggest(lost[0], near))
    out = [
        name
        for name in sorted(map(str, raw["weights"]))
        if name in known and not _inside(policy, models, name, raw, rung)
    ]
    if out:
        what = f"{', '.join(out)} is not in this rung, so it gets no share"
        yield finding("weight-outside", identity, f"{path}.weights", what, suggest(out[0], inside))


def _inside(policy: Policy, models: Mapping[str, str], name: str, raw: Mapping[str, Any], rung: Rung) -> bool:
    """Whether a name of `weights` means a target of the rung, or a model that could be one of its on another fleet."""
    model = models.get(name)
    bearing = [one for one in policy.fleet.targets if one.name == name or one.model.id == model]
    if bearing:
        return any(rung.mask >> one.index & 1 for one in bearing)
    sets = {name: frozenset(models.get(one, one) for one in ids) for name, ids in policy.doc.sets.items()}
    for key in ("model", "model.id", "family", "model.family"):
        if raw.get(key, "*") == "*" or model is None:
            continue
        of_ids = key in ("model", "model.id")
        spelling = Spelling(key, "text", aliases=models if of_ids else None, sets=sets)
        matcher = parse(raw[key], spelling, key, Problems())
        if matcher is not None and not holds(matcher, model if of_ids else policy.fleet.models[model].family):
            return False
    return True


def _unknown(policy: Policy, identity: str, path: str, key: str, value: object) -> Iterator[Finding]:
    fact = fact_named(key)
    if fact is None or fact.kind != "text" or fact.choices:
        return
    matcher = parse(value, Spelling(key, "text", variables={}), path, Problems())
    if matcher is None:
        return
    known = {fact.read(target) for target in policy.fleet.targets}
    if key.startswith("model."):  # a catalogue knows more models than a fleet serves
        known |= {getattr(model, key.removeprefix("model."), None) for model in policy.fleet.models.values()}
    # What is named to be left out may well be nowhere; of models, which all fleets know, it would be a slip.
    asked = [leaf for leaf in leaves(matcher) if leaf.op == "in" or key.startswith("model.")]
    named = {word for leaf in asked if isinstance(leaf.operand, frozenset) for word in leaf.operand}
    unmet = sorted(str(word) for word in named if word not in known)
    if unmet:
        where = "model of the catalogue" if key.startswith("model.") else "target of this fleet"
        yield finding("name-unknown", identity, path, f"no {where} has {key} {', '.join(unmet)}")


def _selectors(policy: Policy) -> Iterator[tuple[str, str, Mapping[str, object]]]:
    """Every selector map of the document: id of its owner, path, map."""
    used = [(f"rules[{i}]", rule.id, rule.use) for i, rule in enumerate(policy.doc.rules)]
    used += [(f"shadow[{i}]", entry.id, entry.use) for i, entry in enumerate(policy.doc.shadow)]
    for path, identity, rungs in used:
        for j, raw in enumerate(rungs):
            if isinstance(raw, Mapping):
                yield identity, f"{path}.use[{j}]", raw
    for i, entry in enumerate(policy.doc.constraints):
        key, whole = entry.effect, entry.selector
        for number, part in enumerate(whole if isinstance(whole, list) else [whole]):
            if isinstance(part, Mapping):
                at = f"[{number}]" if isinstance(whole, list) else ""
                yield entry.id, f"constraints[{i}].{key}{at}", part


def _self(policy: Policy) -> Iterator[Finding]:
    conditions = [entry.when for entry in policy.rules]
    conditions += [entry.when for entry in policy.thinking]
    conditions += [entry.when for entry in (*policy.forbids, *policy.avoids)]
    counts = any(member.signal == "context_tokens" for when in conditions if when for member in members(when))
    if counts and policy.tokens_by is None:
        what = "context_tokens has no tokenizer: thresholds are compared with bytes, which are more"
        yield finding("no-tokenizer", policy.name, "tokens_by", what, "tokens_by: qwen3.5")
    if not policy.doc.tests:
        yield finding("no-tests", policy.name, "tests", "the policy has no tests", "say what must stay true")
