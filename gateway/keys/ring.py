"""All keys of a configuration, judged: those that pointsman.yaml has and those of the keys file.

A `Ring` is what it takes to judge them, kept by the Site, so that the keys file can be read anew without loading
anything else: a key that was revoked must not go on working because a policy is being edited and does not load.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from gateway import quotas
from gateway.config import ConfigDoc, KeyDoc
from gateway.core.errors import ConfigError, Problem
from gateway.core.policy import Policy
from gateway.core.types import Fleet, Tenant
from gateway.keys import file
from gateway.keys.file import Made, MadeKeyDoc, Place
from gateway.keys.holding import Holding, Holdings
from gateway.naming import Grant, Route, grant, routes
from gateway.problems import suggest
from gateway.quotas import QuotaDoc, Quotas
from gateway.yamlfile import Document

NO_LIMITS = QuotaDoc()
ANONYMOUS = Tenant("anonymous", explain=True)


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """A client's key: whose it is and until when. `expires_at` is the first second (Unix) at which it is refused."""

    tenant: Tenant
    expires_at: float | None = None

    def expired(self, now: float) -> bool:
        """Is it too late to use this key?"""
        return self.expires_at is not None and now >= self.expires_at


@dataclass(frozen=True, slots=True)
class Keyed:
    """What all keys of a configuration come to."""

    open: bool  # nobody is asked for a key
    keys: Mapping[bytes, KeyEntry]
    routes_of: Mapping[str, Mapping[str, Route]]
    grants: Mapping[str, Grant]
    holdings: Mapping[str, Holding]
    quotas: Quotas
    sha256: str  # of the keys file; "" where there is none
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ring:
    """What keys are judged by."""

    document: Document
    doc: ConfigDoc
    fleet: Fleet
    policies: Mapping[str, Policy]
    place: Place
    books: bool  # a ledger is kept
    unread: bool = False  # a policy did not load: of names that lead to policies nothing can be said

    def read(self) -> Keyed:
        """All keys as the file has them now. Raises `ConfigError`."""
        return self.judge(file.read(self.place.path))

    def judge(self, made: Made | None) -> Keyed:
        """All keys, with what a keys file holds or would hold. Raises `ConfigError` with everything that is wrong."""
        return _Judging(self, made).judged()


class _Judging:
    """One judgement: collects problems, so that a person sees all of them at once."""

    def __init__(self, ring: Ring, made: Made | None) -> None:
        self.ring = ring
        self.made = made
        self.docs: Sequence[KeyDoc] = ring.doc.keys if made is None else [*ring.doc.keys, *made.keys]
        self.document = ring.document
        if made is not None:
            first = len(ring.doc.keys)
            there = {f"keys[{first + at}]": (made.document, f"keys[{at}]") for at in range(len(made.keys))}
            self.document = replace(ring.document, parts={**ring.document.parts, **there})
        default = ring.doc.policies.default
        own = {one.policy for one in self.docs if one.policy} | {default}
        self.tables = {one: routes(ring.fleet, ring.policies, one, ring.doc.models)[0] for one in own}
        self.found: list[Problem] = []
        self.teamless: list[str] = []

    def judged(self) -> Keyed:
        ring, made = self.ring, self.made
        self._names()
        holdings = Holdings(self.docs, ring.doc.policies.default, self._granted).all()
        warnings = [str(one) for one in self._told(holdings)]
        if made is not None and made.exposed:
            what = "can be written to by others than its owner, who could make themselves keys"
            warnings.append(str(Problem(made.document.name, 0, "", what)))
        limits = self._limits(holdings)
        warnings += [str(one) for one in self._awaited(limits)]
        if self.found:
            raise ConfigError(self.found)
        is_open = not self.docs and made is None and not ring.place.stated
        grants = {name: one.grant for name, one in holdings.items()}
        if is_open:
            grants[ANONYMOUS.key] = Grant(everything=True)
        return Keyed(
            open=is_open,
            keys=MappingProxyType(dict(self._entries(holdings, limits))),
            routes_of=MappingProxyType(self.tables),
            grants=MappingProxyType(grants),
            holdings=holdings,
            quotas=limits,
            sha256="" if made is None else made.document.sha256,
            warnings=tuple(warnings),
        )

    def _names(self) -> None:
        """What is wrong with single entries, whoever made them."""
        ring = self.ring
        names = {ANONYMOUS.key}
        hashes: set[str] = set()
        for index, one in enumerate(self.docs):
            path = f"keys[{index}]"
            replaced = [old.sha256 for old in one.replaced] if isinstance(one, MadeKeyDoc) else []
            for at, digest in enumerate((one.sha256, *replaced)):
                if digest in hashes:
                    where = f"{path}.replaced[{at - 1}].sha256" if at else f"{path}.sha256"
                    self._note(where, "is the hash of another key in this file", "one entry for each key")
                hashes.add(digest)
            if one.name in names:
                self._note(f"{path}.name", f"{one.name!r} is another key's name", "a name for each key")
            names.add(one.name)
            if isinstance(one, MadeKeyDoc) and one.revoked is not None:
                continue  # what it might name need not be there any more
            if one.policy is not None and one.policy not in ring.policies and not ring.unread:
                self._note(f"{path}.policy", f"no policy {one.policy!r:.80}", suggest(one.policy, ring.policies))
            table = self.tables[one.policy or ring.doc.policies.default]
            for entry in grant(one.allow, table, ring.policies)[1]:
                if not (ring.unread and entry.startswith("auto/")):
                    valid = suggest(entry, ("*", "auto/*", *table))
                    self._note(f"{path}.allow", f"{entry!r:.80} means nothing here", valid)

    def _granted(self, doc: KeyDoc, allow: Sequence[str]) -> Grant:
        ring = self.ring
        if doc.policy is not None and "allow" not in doc.model_fields_set:
            return Grant(policies=frozenset({doc.policy}), mask=ring.fleet.mask())
        return grant(allow, self.tables[doc.policy or ring.doc.policies.default], ring.policies)[0]

    def _told(self, holdings: Mapping[str, Holding]) -> Iterator[Problem]:
        """Where entries of keys that still open something say more than counts."""
        for index, doc in enumerate(self.docs):
            if isinstance(doc, MadeKeyDoc) and doc.revoked is None and doc.name in holdings:
                for path, what, _ in holdings[doc.name].excess:
                    yield self.document.problem(f"keys[{index}].{path}", f"{what}: that does not count")

    def _awaited(self, limits: Quotas) -> Iterator[Problem]:
        """Teams whose limits bind nobody: of keys that are yet to be made, or mistyped."""
        there = sorted(set(limits.team_of.values()))
        for name in self.teamless:
            near = suggest(name, there)
            if near.startswith("did you mean") or (self.made is None and not self.ring.place.stated and self.docs):
                valid = near if near.startswith("did you mean") else "tenant: {team: ...} at the keys it is of"
                yield self.document.problem(f"teams.{name}", "is a team that no key is of as yet", valid)

    def _limits(self, holdings: Mapping[str, Holding]) -> Quotas:
        ring = self.ring
        owners = [
            (doc.name, has.facts.get("team", ""), NO_LIMITS if has.dead else doc)
            for doc, has in ((doc, holdings[doc.name]) for doc in self.docs)
        ]
        teams = ring.doc.teams
        there = {team for _, team, _ in owners}
        self.teamless = [name for name in teams if name not in there]
        teams = {name: one for name, one in teams.items() if name in there}  # keys of a team come and go
        above = {name: one.above for name, one in holdings.items() if one.above}
        limits, wrong = quotas.read(owners, teams, ring.doc.targets, books=ring.books, above=MappingProxyType(above))
        for one in wrong:
            self._note(*one)
        return limits

    def _entries(self, holdings: Mapping[str, Holding], limits: Quotas) -> Iterator[tuple[bytes, KeyEntry]]:
        """Every hash that opens something."""
        for doc in self.docs:
            has = holdings[doc.name]
            if has.dead:
                continue
            tenant = Tenant(
                doc.name,
                has.facts,
                tuple(doc.allow),
                has.explain,
                doc.reasoning or self.ring.doc.reasoning,
                has.policy,
                limits.limits(doc.name),
                has.priority,
            )
            yield bytes.fromhex(doc.sha256), KeyEntry(tenant, None if has.ends_at == math.inf else has.ends_at)
            for old in doc.replaced if isinstance(doc, MadeKeyDoc) else ():
                yield bytes.fromhex(old.sha256), KeyEntry(tenant, min(has.ends_at, old.until.timestamp()))

    def _note(self, path: str, what: str, valid: str = "") -> None:
        self.found.append(self.document.problem(path, what, valid))


def digest_of(base: str, sha256: str) -> str:
    """The digest of a configuration with its keys file; without one, that of the configuration alone."""
    return hashlib.sha256(f"{base} {sha256}".encode()).hexdigest()[:12] if sha256 else base
