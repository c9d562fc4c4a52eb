"""What can be said about a policy before any request: what never applies, what cannot serve, what leaks, what is loose.

Findings, not errors: a policy moves between fleets, and what a fleet lacks may come tomorrow. Only a hard constraint
that targets slip past is an error, for it does not do what it says. Everything here is a pure function of the compiled
policy; literals that mean nothing were refused when it was compiled. One module for each kind of judgement; how a claim
is shown stands in `study` and `space`, the codes of findings in `core.clauses.findings`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from gateway.core.analyse import constraints, copies, everywhere, names, order, rungs, speed, targets, tenants, thinking
from gateway.core.analyse.imagined import Imagined
from gateway.core.analyse.space import Effort
from gateway.core.analyse.study import Study, Tenants
from gateway.core.clauses.findings import CONFIGURED, EVERYWHERE, SEVERITIES, Finding, finding
from gateway.core.policy import Policy, clock

__all__ = ["analyse", "analyse_everywhere", "leaks"]


def analyse(
    policy: Policy,
    *,
    now: float | None = None,
    keys: Tenants | None = None,
    everyone: Tenants | None = None,
    optional: frozenset[str] = frozenset(),
    effort: Effort | None = None,
) -> list[Finding]:
    """Judge a policy on its fleet, worst first.

    `now` is Unix seconds, for retirements; by default the policy's own `as_of`. `keys` are the facts of all keys by
    name, where they are known: examples are then of requests that one of them could send. `everyone` are those of all
    keys, where some may not use the policy. `optional` are the constraints that may well be of no key. `effort` bounds
    the search; what it did not suffice for is told as undecided.
    """
    study = Study(policy, clock(policy) if now is None else now, keys, effort)
    found = [
        *order.judge(study),
        *rungs.judge(study),
        *copies.judge(study),
        *speed.judge(study),
        *targets.ladders(study),
        *constraints.judge(study),
        *thinking.judge(study),
        *tenants.judge(study),
        *tenants.unmet(policy, keys if everyone is None else everyone, optional),
        *names.judge(study),
        *targets.judge(study),
        *rungs.unused(study),
        *order.shadows(study),
        *_undecided(study),
    ]
    return sorted(_accepted(policy, found), key=lambda one: SEVERITIES.index(one.severity))


def analyse_everywhere(
    made: Imagined, *, now: float, providers: frozenset[str] = frozenset(), effort: Effort | None = None
) -> list[Finding]:
    """Judge a policy on all that installations could have, worst first: what is found holds on every one of them.

    `now` is Unix seconds, for models that are withdrawn; `providers` are those whom the catalogue knows.
    """
    study = Study(made.policy, now, None, effort, made)
    found = [
        *order.judge(study),
        *everywhere.judge(study, made, providers),
        *rungs.judge(study),
        *copies.judge(study),
        *speed.judge(study),
        *targets.ladders(study),
        *constraints.judge(study),
        *thinking.judge(study),
        *names.judge(study),
        *order.shadows(study),
        *_undecided(study),
    ]
    reasons = {(entry.finding, entry.id): entry.because for entry in made.policy.doc.accept}
    told = [replace(one, accepted=reasons.get((one.code, one.id))) for one in found]
    return sorted(told, key=lambda one: SEVERITIES.index(one.severity))


def leaks(policy: Policy) -> list[Finding]:
    """The errors alone that nobody accepts: what keeps a policy from being loaded. Quick: every start looks at it."""
    entries = {(entry.finding, entry.id) for entry in policy.doc.accept}
    return [one for one in constraints.leaks(policy) if (one.code, one.id) not in entries]


def accepted(policy: Policy, one: Finding) -> Finding:
    """A finding, with the reason if the policy accepts it."""
    reasons = {(entry.finding, entry.id): entry.because for entry in policy.doc.accept}
    return replace(one, accepted=reasons.get((one.code, one.id)))


def _accepted(policy: Policy, found: Sequence[Finding]) -> Iterator[Finding]:
    """The findings, with the reason at those that the policy accepts, and the entries that accept nothing."""
    yield from (accepted(policy, one) for one in found)
    known = {(one.code, one.id) for one in found}
    for i, entry in enumerate(policy.doc.accept):
        if (entry.finding, entry.id) not in known and entry.finding not in EVERYWHERE | CONFIGURED:
            what = f"accepts {entry.finding} of {entry.id}, which is not found"
            yield finding("accept-unused", entry.id, f"accept[{i}]", what, "remove it, if it is found on no fleet")


_QUESTIONS = {
    "rule": "whether these rules ever apply, or refuse what others could serve",
    "thinking entry": "whether these thinking entries ever apply, or leave a rule no target",
    "constraint": "whether these constraints ever apply, or leave a rule no target",
    "gap": "whether every request is covered",
    "rung": "whether the rungs of these can serve what they admit",
    "hint": "whether a client can lift these constraints",
    "shadow": "whether these shadows ever apply, or have a target",
    "latency": "whether these latency targets ever apply",
    "overlap": "whether something above these rules takes a part of theirs",
}


def _undecided(study: Study) -> Iterator[Finding]:
    """What was not told, by kind of question: silence about it is no good news."""
    for kind, about in study.undecided.items():
        named = [*about]
        shown = ", ".join(named[:8]) + (f" and {len(about) - 8} more" if len(about) > 8 else "")
        what = f"not decided within the effort spent: {_QUESTIONS[kind]}: {shown}"
        yield finding("undecided", study.policy.name, "", what, "fewer values, or fewer rules")
