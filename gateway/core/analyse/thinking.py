"""Thinking that is asked of targets which cannot be told: what it refuses, what it leaves aside, what nobody hears."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.core.analyse.formulas import Formula
from gateway.core.analyse.study import Study, Witness
from gateway.core.clauses.findings import Finding, finding
from gateway.core.clauses.matchers import Leaf
from gateway.core.decide import NO_THINKING
from gateway.core.reading.signals import Signals
from gateway.core.targets.rank import bits
from gateway.core.types import Decision

_MOST_NAMED = 4


def judge(study: Study) -> Iterator[Finding]:
    """Every thinking entry against the targets of every rule that it meets."""
    policy = study.policy
    for i, entry in enumerate(policy.thinking):
        mode = entry.thinking.mode
        if mode == "client":
            continue
        able = policy.capabilities.never_thinks if mode == "never" else policy.capabilities.thinks
        binding = entry.force or mode == "never"
        refused: list[tuple[str, Witness]] = []
        unheard: list[str] = []
        narrowed = 0
        for number, rule in enumerate(policy.rules):
            open_to_it = rule.mask & ~study.closed
            if not open_to_it & ~able or not study.admits(_meet(study, i, number)):
                continue
            if open_to_it & able:
                narrowed |= open_to_it & ~able if binding else 0
            elif not binding:
                unheard.append(rule.id)
            elif (witness := _refused(study, i, number)) is not None:
                refused.append((rule.id, witness))
        path = f"thinking[{i}]"
        what = "not to think" if mode == "never" else "to think"
        if refused:
            rules = ", ".join(f"`{name}`" for name, _ in refused)
            said = f"asks {what}, which no target of {rules} can promise: such requests are refused"
            fix = "set: client there, or a target that can be switched"
            yield finding("thinking-refused", entry.id, path, said, fix, witness=refused[0][1])
        if narrowed and mode == "never":  # to think, it takes one that can: nothing to tell
            names = _named([policy.fleet.targets[index].name for index in bits(narrowed)])
            yield finding(
                "thinking-narrows", entry.id, path, f"asks {what}, which {names} cannot promise: not used then"
            )
        if unheard:
            rules = ", ".join(f"`{name}`" for name in unheard)
            yield finding(
                "thinking-unheard", entry.id, path, f"asks {what}, which no target of {rules} can: answered without"
            )


def _named(names: list[str]) -> str:
    names = list(dict.fromkeys(names))
    return ", ".join(names[:_MOST_NAMED]) + (f" and {len(names) - _MOST_NAMED} more" if names[_MOST_NAMED:] else "")


def _meet(study: Study, number: int, rule: int) -> list[Formula]:
    """The requests that a rule decides and for which an entry counts."""
    entries = study.policy.thinking
    formulas = [study.wants(entries[number].when), *(study.lacks(one.when) for one in entries[:number])]
    if not entries[number].force:
        formulas.append(study.matches("effort", Leaf("unknown")))
    return [*formulas, *study.taken(rule)]


def _refused(study: Study, number: int, rule: int) -> Witness | None:
    def shows(decision: Decision, signals: Signals) -> bool:
        return decision.rule == study.policy.rules[rule].id and decision.refusal == NO_THINKING

    return study.example(_meet(study, number, rule), shows, "thinking entry", study.policy.thinking[number].id)
