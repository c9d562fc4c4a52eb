"""What clients may send as `model`: names, what they lead to, and who may use them.

A name is resolved first and judged after: what a key may use is decided on what the name leads to, so that no alias,
map entry or other spelling opens what the plain name would not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from gateway.core.types import Fleet


class Route(NamedTuple):
    """Where a name leads: to a policy, and within it to some targets only; `pinned` None means all of them."""

    policy: str
    pinned: int | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """What a key may use. `mask` holds the targets it may name, by target or by model; `policies` those it may ask for.

    The default policy with a pin needs no grant of its own: a pin never escapes constraints, and somebody's must bind.
    """

    everything: bool = False
    policies: frozenset[str] = frozenset()
    mask: int = 0

    def covers(self, policy: str, pinned: int | None, default: str) -> bool:
        """May a key with this grant use these? HOT."""
        if self.everything:
            return True
        if pinned is None:
            return policy in self.policies
        return not pinned & ~self.mask and (policy == default or policy in self.policies)


def routes(
    fleet: Fleet, policies: Iterable[str], default: str, aliases: Mapping[str, str]
) -> tuple[Mapping[str, Route], list[tuple[str, str]]]:
    """The table of all names, and what is wrong with it: pairs of a name and what it clashes with or fails to mean.

    `auto`, `auto/<policy>`, target names, ids and aliases of models that a target serves; over them the file's own
    `models:` map (`aliases`), whose values are such names. A name of both a model and one of its targets is the model.
    """
    table = {f"auto/{policy}": Route(policy) for policy in policies} | {"auto": Route(default)}
    wrong: list[tuple[str, str]] = []
    for target in fleet.targets:
        if target.name == "auto":
            wrong.append((target.name, "auto is the name of the default policy"))
        elif target.name in fleet.models and target.name != target.model.id:
            wrong.append((target.name, f"is the name of a model, but serves {target.model.id}"))
        table[target.name] = Route(default, 1 << target.index)
    masks: dict[str, int] = {}
    for target in fleet.targets:
        masks[target.model.id] = masks.get(target.model.id, 0) | 1 << target.index
    for model_id, mask in masks.items():
        table[model_id] = Route(default, mask)
        for alias in fleet.models[model_id].aliases:
            table.setdefault(alias, Route(default, mask))
    plain = dict(table)
    for name, meaning in aliases.items():
        if name == "auto" or name.startswith("auto/"):
            wrong.append((name, "names beginning with auto cannot be given another meaning"))
        elif meaning in plain:
            table[name] = plain[meaning]
        else:
            wrong.append((name, meaning))
    return MappingProxyType(table), wrong


def grant(allow: Iterable[str], table: Mapping[str, Route], policies: Iterable[str]) -> tuple[Grant, list[str]]:
    """The grant of an `allow` list, and entries of it that mean nothing.

    `*` is everything, `auto/*` every policy; other entries are names of the table and grant what they lead to.
    """
    everything, granted, mask = False, set[str](), 0
    unknown: list[str] = []
    for entry in allow:
        if entry == "*":
            everything = True
        elif entry == "auto/*":
            granted.update(policies)
        elif (route := table.get(entry)) is None:
            unknown.append(entry)
        elif route.pinned is None:
            granted.add(route.policy)
        else:
            mask |= route.pinned
    return Grant(everything, frozenset(granted), mask), unknown


def meet(one: Grant, other: Grant) -> Grant:
    """What both grant."""
    if one.everything or other.everything:
        return other if one.everything else one
    return Grant(False, one.policies & other.policies, one.mask & other.mask)
