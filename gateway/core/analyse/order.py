"""Rules, thinking entries and constraints that can never apply or only in part, and requests that no rule takes.

The first match decides, so what stands above takes from what stands below. "Never" is only said where it was shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gateway.core.analyse.formulas import Formula
from gateway.core.analyse.study import Study, Witness
from gateway.core.clauses.conditions import Condition
from gateway.core.clauses.findings import Finding, finding
from gateway.core.clauses.matchers import Leaf
from gateway.core.reading.signals import Signals
from gateway.core.types import Decision

_MOST_NAMED = 3
Entry = tuple[str, Condition | None]


def judge(study: Study) -> Iterator[Finding]:
    """Everything about what applies when."""
    policy = study.policy
    yield from _rules(study)
    entries: list[Entry] = [(entry.id, entry.when) for entry in policy.thinking]
    for i, entry in enumerate(policy.thinking):
        # A request that names its target passes over all entries that are not forced.
        above = [entries[j] for j in range(i) if policy.thinking[j].force or not entry.force]
        why = unreachable(study, entries[i], above, "thinking entry", "entries")
        if why:
            yield finding("thinking-unreachable", entry.id, f"thinking[{i}]", f"never applies: {why}", _MOVE)
        else:
            yield from _overruled(study, i)
    constraints = {one.id: one.when for one in (*policy.forbids, *policy.avoids)}
    yield from _impossible(
        study, "constraint", "constraints", [(doc.id, constraints[doc.id]) for doc in policy.doc.constraints]
    )
    yield from _impossible(study, "shadow", "shadow", [(entry.id, entry.when) for entry in policy.shadows])
    yield from _impossible(study, "latency", "latency", [(entry.id, entry.when) for entry in policy.latency])
    yield from _gap(study)


def _impossible(study: Study, kind: str, path: str, entries: Sequence[Entry]) -> Iterator[Finding]:
    """Entries of a list in which every match counts, that nothing can match."""
    for i, (name, when) in enumerate(entries):
        if when is not None and study.admits([study.wants(when)], kind, name) is False:
            what = "never applies: nothing can satisfy its `when`"
            yield finding(f"{kind}-unreachable", name, f"{path}[{i}].when", what, "conditions that can hold together")


_MOVE = "move it up, narrow what stands above"


def _rules(study: Study) -> Iterator[Finding]:
    rules = study.policy.rules
    entries: list[Entry] = [(rule.id, rule.when) for rule in rules]
    for i, rule in enumerate(rules):
        why = unreachable(study, entries[i], entries[:i], "rule", "rules")
        if why:
            yield finding("rule-unreachable", rule.id, f"rules[{i}]", f"never applies: {why}", _MOVE)


def unreachable(study: Study, entry: Entry, above: Sequence[Entry], kind: str, many: str) -> str | None:
    """Why an entry of a list in which the first match counts can never apply; None where it may."""
    name, when = entry
    catch_all = next((other for other, condition in above if condition is None), None)
    if catch_all is not None:
        return f"`{catch_all}` above it applies to everything"
    wanted = study.wants(when)
    if study.admits([wanted], kind, name) is False:
        return "nothing can satisfy its `when`"
    if study.admits([wanted, *(study.lacks(condition) for _, condition in above)], kind, name) is not False:
        return None
    for other, condition in above:
        if study.admits([wanted, study.lacks(condition)]) is False:
            return f"all it admits is taken by `{other}` above it"
    return f"all it admits is taken by the {many} above it together"


def _overruled(study: Study, number: int) -> Iterator[Finding]:
    """Entries that match only where the client says its own wish, which wins unless the entry is forced."""
    entry = study.policy.thinking[number]
    if entry.force or entry.thinking.mode == "client" or entry.when is None:
        return
    above = [study.lacks(one.when) for one in study.policy.thinking[:number]]
    silent = study.matches("effort", Leaf("unknown"))
    if study.admits([study.wants(entry.when), silent, *above], "thinking entry", entry.id) is False:
        what = "applies only where the client says how to think, and then the client's wish wins"
        yield finding("thinking-overruled", entry.id, f"thinking[{number}]", what, "force: true, or set: client")


def _gap(study: Study) -> Iterator[Finding]:
    policy = study.policy
    conditions = [rule.when for rule in policy.rules]
    missed = None if None in conditions else study.admits([study.lacks(when) for when in conditions])
    if None in conditions or missed is False:
        yield finding("covered", policy.name, "rules", "every request is covered by a rule")
        return
    path = f"rules[{len(conditions) - 1}]"
    fix = "end with a rule without `when`"
    example = study.example([study.lacks(when) for when in conditions], _without_rule)
    if missed is None or example is None:
        study.note("gap", policy.name)
        return
    yield finding("gap", policy.name, path, "no rule applies to every request: some are refused", fix, witness=example)


def _without_rule(decision: Decision, signals: Signals) -> bool:
    return decision.rule is None


def shadows(study: Study) -> Iterator[Finding]:
    """Rules of which something that they would take is taken above them, with an example of it.

    Told last: it is the way a list is read, and worth knowing rather than wrong.
    """
    for i, rule in enumerate(study.policy.rules):
        if rule.when is None or study.dead(i):
            continue
        found: list[tuple[str, Witness]] = []
        for j, upper in enumerate(study.policy.rules[:i]):
            if len(found) == _MOST_NAMED:
                break
            if upper.rungs != rule.rungs and (example := _both(study, i, j)) is not None:
                found.append((upper.id, example))
        if found:
            named = ", ".join(f"`{name}`" for name, _ in found)
            what = f"a part of what it would take is taken by {named} above it"
            yield finding("rule-shadowed", rule.id, f"rules[{i}]", what, witness=found[0][1])


def _both(study: Study, lower: int, upper: int) -> Witness | None:
    """A request that satisfies both rules, and that the upper one takes."""
    rules = study.policy.rules
    when = rules[lower].when
    if study.spent:
        study.note("overlap", rules[lower].id)
        return None
    if study.admits([study.wants(when), study.wants(rules[upper].when)], "overlap", rules[lower].id) is False:
        return None
    formulas: list[Formula] = [study.wants(when), *study.taken(upper)]

    def shows(decision: Decision, signals: Signals) -> bool:
        return decision.rule == rules[upper].id and when is not None and when.test(signals)

    return study.example(formulas, shows, "overlap", rules[lower].id)
