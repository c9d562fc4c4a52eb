"""What differs between two versions of a policy, part by part, in the words of the file.

Entries are told apart by their ids, so moving one is not removing it. What a difference does to requests is found by
deciding them; here only what is written is compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Literal

from gateway.core.clauses.selectors import describe
from gateway.core.policy import PolicyDoc

What = Literal["added", "removed", "changed", "moved", "renamed"]
#: Lists whose entries have an id, and what one is called.
NOUNS = {
    "rules": "rule",
    "constraints": "constraint",
    "thinking": "thinking entry",
    "latency": "latency target",
    "shadow": "shadow",
    "sets": "set",
}
_UNORDERED = frozenset({"sets", "constraints"})  # constraints only add up, so their order says nothing
_APART = frozenset({"tests", "policy"})  # told by what they do, and as the headline


@dataclass(frozen=True, slots=True)
class Detail:
    """One member of an entry, before and after; "" where it was not there."""

    member: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class DocChange:
    """One entry of a policy that differs. `part` is the key of the file it stands under; `id` is "" for plain keys."""

    part: str
    id: str
    what: What
    details: tuple[Detail, ...] = ()

    def __str__(self) -> str:
        noun = NOUNS.get(self.part, "")
        return f"{noun} {self.id} {self.what}" if self.id else f"{self.part} {self.what}"


def changes(before: PolicyDoc, after: PolicyDoc) -> list[DocChange]:
    """Everything that differs but the tests, in the order of the file.

    >>> old = PolicyDoc.model_validate({"policy": "p", "rules": [{"id": "a", "use": ["*"]}]})
    >>> new = PolicyDoc.model_validate({"policy": "p", "rules": [{"id": "a", "use": [{"family": "qwen"}]}]})
    >>> [(str(one), one.details) for one in changes(old, new)]
    [('rule a changed', (Detail(member='use', before='["*"]', after='[{family: qwen}]'),))]
    """
    found: list[DocChange] = []
    for name in type(after).model_fields:
        old, new = getattr(before, name), getattr(after, name)
        if name in _APART or old == new:
            continue
        if name == "sets":
            found += _entries(name, _plain_sets(old), _plain_sets(new))
        elif any(hasattr(entry, "id") for entry in (*_listed(old), *_listed(new))):
            found += _entries(name, _by_id(old), _by_id(new))
        else:
            detail = Detail(name, _text(before, name), _text(after, name))
            what: What = "changed" if detail.before and detail.after else "added" if detail.after else "removed"
            found.append(DocChange(name, "", what, (detail,)))
    return found


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _by_id(entries: Any) -> dict[str, dict[str, str]]:
    """Id -> member -> its text, without what was not said."""
    return {
        entry.id: {name: _text(entry, name) for name in type(entry).model_fields if name != "id" and _text(entry, name)}
        for entry in _listed(entries)
    }


def _plain_sets(sets: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str]]:
    return {name: {"": _flow(list(members))} for name, members in sets.items()}


def _text(entry: Any, name: str) -> str:
    if name not in entry.model_fields_set:
        return ""
    value = getattr(entry, name)
    return "" if value is None else _flow(_plain(value))


def _plain(value: Any) -> Any:
    return value.model_dump(exclude_unset=True) if hasattr(value, "model_dump") else value


def _flow(value: Any) -> str:
    """A value as YAML's flow style has it."""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_flow(_plain(one)) for one in value) + "]"
    if isinstance(value, Mapping):
        return "{" + describe(value) + "}"
    if value == "*":
        return '"*"'
    return str(value).lower() if isinstance(value, bool) else str(value)


def _entries(
    part: str, before: Mapping[str, Mapping[str, str]], after: Mapping[str, Mapping[str, str]]
) -> Iterator[DocChange]:
    gone = [name for name in before if name not in after]
    renamed: dict[str, str] = {}  # new id -> old id
    for name in after:
        if name not in before:
            same = next((old for old in gone if before[old] == after[name]), None)
            if same is not None:
                gone.remove(same)
                renamed[name] = same
    moved = _moved([*before], [renamed.get(name, name) for name in after])
    for name, members in after.items():
        if name in renamed:
            yield DocChange(part, name, "renamed", (Detail("id", renamed[name], name),))
        elif name not in before:
            yield DocChange(part, name, "added", tuple(Detail(key, "", text) for key, text in members.items()))
        elif before[name] != members:
            keys = dict.fromkeys([*before[name], *members])
            details = [Detail(key, before[name].get(key, ""), members.get(key, "")) for key in keys]
            yield DocChange(part, name, "changed", tuple(one for one in details if one.before != one.after))
        if part not in _UNORDERED and renamed.get(name, name) in moved:
            place = [*after].index(name)
            behind = f"after {[*after][place - 1]}" if place else "first"
            yield DocChange(part, name, "moved", (Detail("place", "", behind),))
    for name in gone:
        yield DocChange(part, name, "removed", tuple(Detail(key, text, "") for key, text in before[name].items()))


def _moved(before: Sequence[str], after: Sequence[str]) -> frozenset[str]:
    """Of what is in both lists, a few whose moving makes one order of the other."""
    old = [name for name in before if name in set(after)]
    new = [name for name in after if name in set(before)]
    matcher = SequenceMatcher(a=old, b=new, autojunk=False)
    kept = {old[block.a + i] for block in matcher.get_matching_blocks() for i in range(block.size)}
    return frozenset(new) - kept
