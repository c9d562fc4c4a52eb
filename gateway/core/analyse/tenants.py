"""The facts of keys against what a policy asks of them: facts that nobody sets, values that are nearly the right ones.

A constraint on a fact that a key does not have does not bind that key, and says nothing: so a slip in a name or a value
is a leak. Which facts there are stands at the keys of the configuration.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from difflib import SequenceMatcher, get_close_matches

from gateway.core.analyse.able import hit
from gateway.core.analyse.domains import Undecided, leaves, members
from gateway.core.analyse.formulas import ALWAYS, Formula, every, some
from gateway.core.analyse.study import Study
from gateway.core.findings import Finding, finding
from gateway.core.matchers import Leaf
from gateway.core.policy import Constraint, Policy
from gateway.core.types import Target

_PREFIX = "tenant."
#: Facts that the gateway itself reads.
BUILT_IN = frozenset({"team", "cost", "region", "residency", "workload"})
_YES, _NO = frozenset({"yes", "true", "on", "1"}), frozenset({"no", "false", "off", "0"})
_ALIKE, _SAME = 0.8, 0.9  # names and values: `eastern` is not `western`


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


def unread(tenants: Mapping[str, Mapping[str, str]], policies: Iterable[Policy]) -> Iterator[Finding]:
    """Facts that keys set and no policy asks for, though one asks for nearly that."""
    asked = {name for policy in policies for name in asked_of(policy)}
    for key, facts in tenants.items():
        for name in facts:
            near = get_close_matches(name, sorted((asked | BUILT_IN) - {name}), n=1, cutoff=_ALIKE)
            if name not in asked | BUILT_IN and near:
                what = f"its fact {name} is asked for by no policy; {near[0]} is"
                yield finding("tenant-unread", key, f"keys.{key}.tenant.{name}", what, f"{near[0]}: ...")


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
    spared = [every(_spared(study, constraint, target) for constraint in policy.forbids) for target in targets]
    return study.admits([study.somebody, some(spared)]) is False


def _spared(study: Study, constraint: Constraint, target: Target) -> Formula:
    try:
        return study.turned(hit(study, constraint, target))
    except Undecided:
        return ALWAYS
