"""The facts of keys against what a policy asks of them: facts that nobody sets, values that are nearly the right ones.

A constraint on a fact that a key does not have does not bind that key, and says nothing: so a slip in a name or a value
is a leak. Which facts there are stands at the keys of the configuration.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from difflib import SequenceMatcher, get_close_matches

from gateway.core.analyse.able import spared
from gateway.core.analyse.formulas import some
from gateway.core.analyse.study import Study, Tenants
from gateway.core.clauses.conditions import members
from gateway.core.clauses.findings import Finding, finding
from gateway.core.clauses.matchers import Leaf, leaves
from gateway.core.facts import BUILT_IN_SETS
from gateway.core.policy import Constraint, Policy

_PREFIX = "tenant."
#: Facts that the gateway itself reads.
BUILT_IN = frozenset({"team", "cost", "region", "residency", "workload"})
_YES, _NO = frozenset({"yes", "true", "on", "1"}), frozenset({"no", "false", "off", "0"})
_ALIKE, _SAME = 0.6, 0.9  # names and values: `eastern` is not `western`


def judge(study: Study) -> Iterator[Finding]:
    """What the keys make of a policy; nothing where keys are not known."""
    if study.tenants is None:
        return
    policy = study.policy
    asked = asked_of(policy)
    unset = [name for name in asked if not any(name in facts for facts in study.tenants.values())]
    if unset:
        named = ", ".join(_PREFIX + name for name in unset)
        what = f"no key sets {named}: what asks for it never applies"
        yield finding("tenant-unset", policy.name, "", what, "tenant: {...} at the keys that it is meant for")
    for key, facts in study.tenants.items():
        for name, value in facts.items():
            near = _nearly(value, asked.get(name, ()))
            if near is not None:
                what = f"its {name} is {value!r}, which nothing asks for; {near!r} is"
                yield finding("tenant-unmatched", key, f"keys.{key}.tenant.{name}", what, f"{name}: {near}")


def asked_of(policy: Policy) -> Mapping[str, tuple[Leaf, ...]]:
    """The facts of tenants that a policy asks for, with what it compares them with."""
    found: dict[str, dict[Leaf, None]] = {}
    entries: Iterable[object] = (
        *policy.rules, *policy.thinking, *policy.forbids, *policy.avoids, *policy.latency, *policy.shadows
    )  # fmt: skip
    for entry in entries:
        when = getattr(entry, "when", None)
        for member in members(when) if when is not None else ():
            if member.signal.startswith(_PREFIX):
                asked = found.setdefault(member.signal.removeprefix(_PREFIX), {})
                asked.update(dict.fromkeys(leaves(member.matcher)))
        select = getattr(entry, "select", None)
        for name in select.signals if select is not None else ():
            if name.startswith(_PREFIX):
                found.setdefault(name.removeprefix(_PREFIX), {})
    return {name: tuple(asked) for name, asked in found.items()}


def unread(tenants: Tenants, policies: Iterable[Policy]) -> Iterator[Finding]:
    """Facts that keys set and nothing reads: a slip in the name takes every constraint on the fact off its key."""
    asked = {name for policy in policies for name in asked_of(policy)} | BUILT_IN
    for key, facts in tenants.items():
        for name in sorted(facts.keys() - asked):
            near = get_close_matches(name.casefold(), sorted(asked), n=1, cutoff=_ALIKE)
            what = f"its fact {name} is read by no policy" + (f"; {near[0]} is" if near else "")
            fix = f"{near[0]}: ..." if near else f"one of {', '.join(sorted(asked)[:12])}, or without it"
            yield finding("tenant-unread", key, f"keys.{key}.tenant.{name}", what, fix)


def unmet(policy: Policy, tenants: Tenants | None, optional: frozenset[str] = frozenset()) -> Iterator[Finding]:
    """Values of facts that a hard constraint names and no key has: it binds nobody of whom it was written.

    `optional` are constraints that came along with Pointsman. They say what may be wanted, so they are told of only
    where keys set the fact, and to nothing that any constraint of the policy on that fact names.
    """
    had = {name: {facts[name] for facts in (tenants or {}).values() if name in facts} for name in asked_of(policy)}
    hard = {one.id: _named(one) for one in policy.forbids}
    for i, entry in enumerate(policy.doc.constraints if tenants is not None else ()):
        for name, asked in hard.get(entry.id, {}).items():
            there = had[name]
            if entry.id in optional and (not there or any(_any(there, named.get(name, ())) for named in hard.values())):
                continue
            missing = sorted({str(word) for leaf in asked for word in _words(leaf) if not _has(there, leaf.op, word)})
            if missing:
                what = f"no key has {_PREFIX}{name} {' or '.join(missing)}: it never binds one"
                fix = (
                    f"keys have {', '.join(sorted(there)[:8])}"
                    if there
                    else f"tenant: {{{name}: {missing[0]}}} at a key"
                )
                yield finding("tenant-unmet", entry.id, f"constraints[{i}].when", what, fix)


def _named(constraint: Constraint) -> Mapping[str, list[Leaf]]:
    """The values that a condition names, by fact; not those of a set such as @eu, which is of whoever may come."""
    found: dict[str, list[Leaf]] = {}
    for member in members(constraint.when) if constraint.when is not None else ():
        if member.signal.startswith(_PREFIX):
            for leaf in leaves(member.matcher):
                if leaf.op in ("in", "prefix") and not any(whole <= _words(leaf) for whole in BUILT_IN_SETS.values()):
                    found.setdefault(member.signal.removeprefix(_PREFIX), []).append(leaf)
    return found


def _words(leaf: Leaf) -> frozenset[object]:
    return frozenset(leaf.operand) if isinstance(leaf.operand, frozenset) else frozenset({leaf.operand})


def _has(values: Iterable[str], op: str, word: object) -> bool:
    return any(value.startswith(str(word)) if op == "prefix" else value == word for value in values)


def _any(values: Iterable[str], asked: Iterable[Leaf]) -> bool:
    return any(_has(values, leaf.op, word) for leaf in asked for word in _words(leaf))


def _nearly(value: str, asked: Iterable[Leaf]) -> str | None:
    """The value that was probably meant, where nothing names this one and something names nearly it."""
    words: set[str] = set()
    for leaf in asked:
        if leaf.op in ("prefix", "not prefix") and value.startswith(str(leaf.operand)):
            return None
        if isinstance(leaf.operand, frozenset):
            words |= {str(word) for word in leaf.operand}
    if value in words:
        return None
    for word in sorted(words):
        if _same(value.casefold(), word.casefold()):
            return word
    return None


def _same(value: str, word: str) -> bool:
    if value == word or {value, word} <= _YES or {value, word} <= _NO:
        return True
    return min(len(value), len(word)) > 3 and SequenceMatcher(None, value, word).ratio() >= _SAME


def never(policy: Policy, now: float, mask: int, facts: Mapping[str, str] | None) -> bool:
    """Whether a policy allows none of some targets, whatever a key of these facts asks; None: whoever asks."""
    study = Study(policy, now, None if facts is None else {"": facts})
    targets = study.candidates(mask)
    if not targets:
        return True
    return study.admits([study.somebody, some(spared(study, target) for target in targets)]) is False
