"""Rungs that serve nothing, here or ever, and requests that a rule admits and none of its targets can serve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from gateway.core.analyse.able import abilities
from gateway.core.analyse.domains import Undecided
from gateway.core.analyse.formulas import Formula, Lies
from gateway.core.analyse.study import Study
from gateway.core.clauses.findings import Finding, finding
from gateway.core.clauses.matchers import Leaf
from gateway.core.decide import decide
from gateway.core.policy import Rule, Rung
from gateway.core.reading.signals import Signals
from gateway.core.targets.rank import bits
from gateway.core.types import Decision, Target

_LACKS = {
    "window": "a window",
    "tools": "tools",
    "structured_output": "structured output",
    "content": "what it reads",
    "images": "as many images",
    "output": "as much output",
    "parameters": "the parameters",
    "place": "where it stands",
    "stream": "answers that are not streamed",
}


def judge(study: Study) -> Iterator[Finding]:
    """Rule by rule, rung by rung."""
    for i, rule in enumerate(study.policy.rules):
        path = f"rules[{i}].use"
        if not rule.mask:
            what = f"selects no target {study.here}: its requests are refused"
            yield finding("rule-empty", rule.id, path, what, 'a rung that can be served, such as {family: "*"}')
            continue
        if study.dead(i):
            continue
        yield from ladder(study, Admitted(rule.id, "rule", study.taken(i)), rule.rungs, path)
        yield from _holes(study, i, rule)


class Admitted(NamedTuple):
    """Whose rungs they are, and which requests come to them."""

    id: str
    noun: str
    taken: Sequence[Formula]


def ladder(study: Study, of: Admitted, rungs: Sequence[Rung], path: str) -> Iterator[Finding]:
    """Rungs that serve nothing of what comes to them."""
    mask = 0
    for rung in rungs:
        mask |= rung.mask
    able = {target.index: abilities(study, target) for target in study.candidates(mask)}
    seen = 0
    for j, rung in enumerate(rungs):
        yield from _rung(study, of, rung, f"{path}[{j}]", seen, able)
        seen |= rung.mask if study.everywhere is None else study.everywhere.wider(rung.mask)


def _rung(
    study: Study, of: Admitted, rung: Rung, path: str, seen: int, able: Mapping[int, Mapping[str, Formula]]
) -> Iterator[Finding]:
    if not rung.mask:
        if study.everywhere is None:  # else it is told as one that is impossible
            yield finding("rung-empty", of.id, path, f"selects no target of this fleet ({rung.text})")
        return
    targets = study.candidates(rung.mask)
    if not targets:
        what = "none of its targets is ever allowed: closed, withdrawn, or always forbidden"
        yield finding("rung-closed", of.id, path, what, "allow_closed, or another selector")
        return
    if not rung.mask & ~seen:
        yield finding("rung-idle", of.id, path, "adds nothing: the rungs before it hold all its targets")
        return
    unable = [one for one in targets if _never(study, of.taken, able[one.index], of.id)]
    if len(unable) == len(targets):
        what = f"cannot hold what its {of.noun} admits: {_blame(study, of.taken, targets, able)}"
        yield finding("rung-cannot-serve", of.id, path, what, "a selector with the facts that it takes")
    elif unable and rung.text not in ("*", "family: *") and study.everywhere is None:
        names = ", ".join(target.name for target in unable)
        what = f"{names} cannot hold what its {of.noun} admits: {_blame(study, of.taken, unable, able)}"
        yield finding("target-cannot-serve", of.id, path, what, "nothing, if the others suffice: it is never chosen")


def _never(study: Study, taken: Sequence[Formula], able: Mapping[str, Formula], about: str) -> bool:
    if not able:
        return False
    return study.admits([*taken, *able.values()], "rung", about) is False


def _blame(
    study: Study, taken: Sequence[Formula], targets: Sequence[Target], able: Mapping[int, Mapping[str, Formula]]
) -> str:
    """Which abilities are lacking, in words; lengths with their numbers."""
    kinds: dict[str, None] = {}
    for target in targets:
        alone = [kind for kind, formula in able[target.index].items() if study.admits([*taken, formula]) is False]
        kinds.update(dict.fromkeys(alone))
    if "window" in kinds:
        least = _least_tokens(study, taken)
        widest = max(target.window for target in targets)
        if least is not None:
            return f"{least:,} tokens and more, the widest window is {widest:,}"
    if not kinds:
        return "no request of it has all that they need"
    return "they lack " + ", ".join(_LACKS[kind] for kind in kinds)


def _least_tokens(study: Study, taken: Sequence[Formula]) -> int | None:
    """The fewest context tokens a request of these has."""
    try:
        domain = study.space.domains.domain("context_tokens")
    except Undecided:
        return None
    for value, number in sorted((min(tried), number) for number, tried in enumerate(domain.tried)):
        if study.admits([*taken, Lies("context_tokens", 1 << number)]):
            return int(value)
    return None


def _holes(study: Study, number: int, rule: Rule) -> Iterator[Finding]:
    """What a rule refuses though other targets of the fleet could serve it: one kind of request at a time."""
    inside, outside = study.candidates(rule.mask), study.candidates(study.policy.fleet.mask() & ~rule.mask)
    if not inside or not outside:
        return
    demands: list[tuple[str, Formula, list[Target]]] = []
    if not any(target.tools for target in inside):
        wanted = study.matches("tools", Leaf("in", frozenset({True})))
        demands.append(("tools", wanted, [target for target in outside if target.tools]))
    if not any(target.structured_output for target in inside):
        wanted = study.turned(study.matches("structured_output", Leaf("unknown")))
        demands.append(("structured output", wanted, [target for target in outside if target.structured_output]))
    for kind in ("image", "audio", "video", "file"):
        if not any(kind in target.modalities for target in inside):
            wanted = study.turned(study.matches("modality", Leaf("avoids", frozenset({kind}))))
            demands.append((kind, wanted, [target for target in outside if kind in target.modalities]))
    widest = max(target.window for target in inside)
    longer = study.turned(study.matches("context_tokens", Leaf("lte", widest)))
    demands.append((f"more than {widest:,} tokens", longer, [one for one in outside if one.window > widest]))
    found: dict[str, tuple[dict[str, object], list[Target]]] = {}
    for name, wanted, others in demands:
        if not others:
            continue

        def shows(decision: Decision, signals: Signals) -> bool:
            everything = study.policy.fleet.mask()
            anyone = decide(study.policy, signals, study.snapshot, pinned=everything)
            return decision.rule == rule.id and decision.refusal is not None and anyone.refusal is None

        witness = study.example([wanted, *study.taken(number)], shows, "rule", rule.id)
        if witness is not None:
            found[name] = (dict(witness), others)
    for name, (given, others) in found.items():
        served = list(dict.fromkeys(target.name for target in others))
        names = ", ".join(served[:3]) + (", ..." if len(served) > 3 else "")
        what = f"refuses requests with {name}, which {names} could serve"
        fix = 'end with {family: "*"}, or a rule of its own above'
        yield finding("rule-lacks", rule.id, f"rules[{number}].use", what, fix, witness=given)


def unused(study: Study) -> Iterator[Finding]:
    """Targets that no rule selects, nor any shadow."""
    policy = study.policy
    used = 0
    for mask in (*(rule.mask for rule in policy.rules), *(copy.mask for copy in policy.shadows)):
        used |= mask
    idle = [policy.fleet.targets[index].name for index in bits(policy.fleet.mask() & ~used)]
    if idle:
        yield finding("target-unused", policy.name, "rules", f"no rule ever uses {', '.join(idle)}")
