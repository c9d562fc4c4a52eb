"""What each key may do in the end: its own entry, and nothing that the key which made it does not have.

A made key is never more than its maker: where its entry says more, that part does not count and is told. So neither an
entry that was edited by hand nor a maker whose own rights were narrowed later can leave a key with too much. What a key
takes of limits is in `gateway.quotas`: those of its maker bind it as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from gateway import quotas
from gateway.config import KeyDoc
from gateway.core.money.limits import Cap
from gateway.core.quantities import nano_usd
from gateway.core.resilience.overload import PRIORITIES, Priority
from gateway.core.types import NANO_PER_USD
from gateway.keys.file import MadeKeyDoc
from gateway.naming import Grant, meet

#: How far a made key may be from one that no key made. A request passes the limits of all of them.
MOST_DEEP = 4


class Excess(NamedTuple):
    """Something that an entry says and that does not count: where in it, what, and what would."""

    path: str
    what: str
    valid: str


@dataclass(frozen=True, slots=True)
class Holding:
    """What one key has. `ends_at` is the first second (Unix) at which it is refused."""

    doc: KeyDoc
    grant: Grant
    facts: Mapping[str, str]
    policy: str | None  # its own default policy; None: that of the whole file
    explain: bool
    may_create: bool
    priority: Priority
    ends_at: float
    dead: bool = False  # revoked, or made by a key that is or that is gone
    above: tuple[str, ...] = ()  # who made it, and who made that, ...
    excess: tuple[Excess, ...] = field(default=())


Granted = Callable[[KeyDoc, Sequence[str]], Grant]


class Holdings:
    """Works out what all keys of a configuration have, makers first."""

    def __init__(self, docs: Sequence[KeyDoc], default_policy: str, granted: Granted) -> None:
        """`granted` is what a list of an entry's `allow` opens, whoever made it."""
        self._docs = {doc.name: doc for doc in docs}
        self._default = default_policy
        self._granted = granted
        self._found: dict[str, Holding] = {}

    def all(self) -> Mapping[str, Holding]:
        """Of each name what it has."""
        return MappingProxyType({name: self._of(name) for name in self._docs})

    def _of(self, name: str) -> Holding:
        if name not in self._found:
            self._found[name] = self._worked_out(self._docs[name])
        return self._found[name]

    def _worked_out(self, doc: KeyDoc) -> Holding:
        by = doc.by if isinstance(doc, MadeKeyDoc) else None
        revoked = isinstance(doc, MadeKeyDoc) and doc.revoked is not None
        ends_at = math.inf if doc.expires is None else doc.expires.timestamp()
        if by is None:
            whole = self._granted(doc, doc.allow)
            return Holding(
                doc,
                whole,
                MappingProxyType(dict(doc.tenant)),
                doc.policy,
                doc.explain,
                doc.may_create,
                doc.priority,
                ends_at,
                revoked,
            )
        if by not in self._docs:
            return self._nothing(doc, f"{by!r:.80}, who made it, is gone: it opens nothing")
        if self._depth(doc) > MOST_DEEP:  # of keys that made each other in a circle, too
            return self._nothing(doc, f"more than {MOST_DEEP} keys made one another down to it: it opens nothing")
        return self._below(doc, self._of(by), ends_at, revoked=revoked)

    def _depth(self, doc: KeyDoc | None) -> int:
        depth = 0
        while isinstance(doc, MadeKeyDoc) and doc.by is not None and depth <= MOST_DEEP:
            depth += 1
            doc = self._docs.get(doc.by)
        return depth

    def _nothing(self, doc: KeyDoc, why: str) -> Holding:
        excess = Excess("by", why, "a key that is there")
        return Holding(doc, Grant(), MappingProxyType({}), None, False, False, "low", 0.0, dead=True, excess=(excess,))

    def _below(self, doc: KeyDoc, maker: Holding, ends_at: float, *, revoked: bool) -> Holding:
        name = maker.doc.name
        excess = list(_limits(doc, maker.doc))
        policy = doc.policy
        if policy is None:
            policy = maker.policy
        elif policy != (maker.policy or self._default) and not (
            maker.grant.everything or policy in maker.grant.policies
        ):
            excess.append(Excess("policy", f"{name} may not use {policy}", "a policy that it may use"))
            policy = maker.policy
        own = self._granted(doc, doc.allow)
        if "allow" in doc.model_fields_set:
            for index, entry in enumerate(doc.allow):
                one = self._granted(doc, [entry])
                if meet(one, maker.grant) != one:
                    valid = f"what {name} may use: {', '.join(maker.doc.allow)}"
                    excess.append(Excess(f"allow[{index}]", f"{name} may not use {entry!r:.80}", valid))
        for what, said, has in (
            ("explain", doc.explain, maker.explain),
            ("may_create", doc.may_create, maker.may_create),
        ):
            if said and not has:
                excess.append(Excess(what, f"{name} does not have that", f"{what}: false"))
        if doc.expires is not None and ends_at > maker.ends_at:
            excess.append(Excess("expires", f"is later than that of {name}", "the same or sooner"))
        priority = doc.priority if "priority" in doc.model_fields_set else maker.priority
        if PRIORITIES.index(priority) > PRIORITIES.index(maker.priority):
            excess.append(Excess("priority", f"{name} has {maker.priority}", "the same or lower"))
            priority = maker.priority
        facts, wrong = _facts(doc.tenant, maker.facts, name)
        return Holding(
            doc,
            meet(own, maker.grant),
            facts,
            policy,
            doc.explain and maker.explain,
            doc.may_create and maker.may_create,
            priority,
            min(ends_at, maker.ends_at),
            revoked or maker.dead,
            (name, *maker.above),
            (*excess, *wrong),
        )


def _facts(
    own: Mapping[str, str], makers: Mapping[str, str], maker: str
) -> tuple[Mapping[str, str], tuple[Excess, ...]]:
    """A maker's facts hold for what it makes. Only the bound of cost may be added, or be lower."""
    facts = dict(makers)
    wrong = []
    for name, value in own.items():
        if name == "max_cost_usd":
            most = makers.get(name)
            if most is None or nano_usd(value) <= nano_usd(most):
                facts[name] = value
                continue
        elif makers.get(name) == value:
            continue
        has = makers.get(name)
        what = f"{maker} {'does not have that fact' if has is None else f'has {has!r:.40}'}"
        wrong.append(Excess(f"tenant.{name}", what, "leave it out: a maker's facts hold for what it makes"))
    return MappingProxyType(facts), tuple(wrong)


def _limits(doc: KeyDoc, maker: KeyDoc) -> Iterator[Excess]:
    """Limits above the maker's own. Those bind in any case; whoever reads the entry shall not believe otherwise."""
    mine, makers = quotas.quota(doc), quotas.quota(maker)
    valid = f"at most what {maker.name} has, or leave it out: its limits bind what it makes"
    for name in ("rpm", "tpm", "max_concurrent"):
        cap, most = getattr(mine, name), getattr(makers, name)
        if isinstance(cap, Cap) and isinstance(most, Cap) and cap.limit > most.limit:
            yield Excess(name, f"{cap.limit} is more than the {most.limit} of {maker.name}", valid)
    amounts = {one.per: one.nano_usd for one in makers.budgets}
    for index, one in enumerate(mine.budgets):
        most_nano = amounts.get(one.per)
        if most_nano is not None and one.nano_usd > most_nano:
            path = f"budget[{index}]" if isinstance(doc.budget, list) else "budget"
            shown = f"{one.nano_usd / NANO_PER_USD:g} USD is more than the {most_nano / NANO_PER_USD:g} of {maker.name}"
            yield Excess(path, f"{shown} per {one.per}", valid)
