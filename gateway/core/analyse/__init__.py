"""What can be said about a policy before any request: what never applies, what cannot serve, what leaks, what is loose.

Findings, not errors: a policy moves between fleets, and what a fleet lacks may come tomorrow. Only a hard constraint
that targets slip past is an error, for it does not do what it says. Everything here is a pure function of the compiled
policy; literals that mean nothing were refused when it was compiled. One module for each kind of judgement; how a claim
is shown stands in `study` and `space`, the codes of findings in `core.findings`.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.core.analyse import constraints, names, order, rungs, targets, thinking
from gateway.core.analyse.space import Effort
from gateway.core.analyse.study import Study, Tenants
from gateway.core.findings import SEVERITIES, Finding, finding
from gateway.core.policy import Policy, clock

__all__ = ["analyse", "leaks"]


def analyse(
    policy: Policy, *, now: float | None = None, tenants: Tenants | None = None, effort: Effort | None = None
) -> list[Finding]:
    """Judge a policy on its fleet, worst first.

    `now` is Unix seconds, for retirements; by default the policy's own `as_of`. `tenants` are the facts of all keys by
    name, where they are known: examples are then of requests that one of them could send. `effort` bounds the search;
    what it did not suffice for is told as undecided.
    """
    study = Study(policy, clock(policy) if now is None else now, tenants, effort)
    found = [
        *order.judge(study),
        *rungs.judge(study),
        *targets.ladders(study),
        *constraints.judge(study),
        *thinking.judge(study),
        *names.judge(study),
        *targets.judge(study),
        *rungs.unused(study),
        *order.shadows(study),
        *_undecided(study),
    ]
    return sorted(found, key=lambda one: SEVERITIES.index(one.severity))


def leaks(policy: Policy) -> list[Finding]:
    """The errors alone: what keeps a policy from being loaded. Quick, for every start and reload looks at it."""
    return list(constraints.leaks(policy))


_QUESTIONS = {
    "rule": "whether these rules ever apply, or refuse what others could serve",
    "thinking entry": "whether these thinking entries ever apply, or leave a rule no target",
    "constraint": "whether these constraints ever apply, or leave a rule no target",
    "gap": "whether every request is covered",
    "rung": "whether the rungs of these rules can serve what they admit",
    "hint": "whether a client can lift these constraints",
    "shadow": "whether something above these rules takes a part of theirs",
}


def _undecided(study: Study) -> Iterator[Finding]:
    """What was not told, by kind of question: silence about it is no good news."""
    for kind, about in study.undecided.items():
        shown = ", ".join(about[:8]) + (f" and {len(about) - 8} more" if len(about) > 8 else "")
        what = f"not decided within the effort spent: {_QUESTIONS[kind]}: {shown}"
        yield finding("undecided", study.policy.name, "", what, "fewer values, or fewer rules")
