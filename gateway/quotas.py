"""What `rpm`, `tpm`, `max_concurrent` and `budget` are written like at keys, teams and targets, and what they come to.

Also when periods begin and end, which takes a calendar. How limits are kept is in `core.money.limits`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from types import MappingProxyType
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Discriminator, Field, Tag

from gateway.core.money.limits import Allowance, Cap, Period, Quota, Scope
from gateway.core.quantities import Invalid
from gateway.fields import NanoUsd, Strict, Tokens
from gateway.ledger.report import midnight

Mode = Literal["enforce", "shadow"]
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]


class CountDoc(Strict):
    """A limit and what happens at it. `shadow` refuses nothing and counts what `enforce` would have refused."""

    limit: Count
    mode: Mode = "enforce"


class TokenCountDoc(Strict):
    """The same for tokens."""

    limit: Tokens
    mode: Mode = "enforce"


def zone_of(name: str) -> tzinfo:
    """A time zone by its name. Raises `Invalid`."""
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise Invalid(f"{name!r:.60} is no time zone that is known here", "such as Europe/Berlin, or UTC") from None


def _zone(name: str) -> str:
    zone_of(name)
    return name


class BudgetDoc(Strict):
    """US dollars for each period, which begins by the calendar of a time zone.

    `hard` refuses what could cost more than is left, before it is sent. `soft` lets pass, books and warns. `shadow`
    lets pass and counts what `hard` would have refused.
    """

    usd: NanoUsd
    per: Period
    mode: Literal["hard", "soft", "shadow"] = "hard"
    zone: Annotated[str, AfterValidator(_zone), Field(max_length=64)] = "UTC"


def _form(value: object) -> str:
    return "full" if isinstance(value, dict | CountDoc | TokenCountDoc) else "number"


def _many(value: object) -> str:
    return "many" if isinstance(value, list) else "one"


def _once(value: list[BudgetDoc]) -> list[BudgetDoc]:
    seen: set[str] = set()
    for index, one in enumerate(value):
        if one.per in seen:
            raise Invalid(f"is a second budget per {one.per}", "each period once", at=(index, "per"))
        seen.add(one.per)
    return value


Counts = Annotated[Annotated[Count, Tag("number")] | Annotated[CountDoc, Tag("full")], Discriminator(_form)]
TokenCounts = Annotated[Annotated[Tokens, Tag("number")] | Annotated[TokenCountDoc, Tag("full")], Discriminator(_form)]
Budgets = Annotated[
    Annotated[BudgetDoc, Tag("one")]
    | Annotated[list[BudgetDoc], Field(min_length=1, max_length=4), AfterValidator(_once), Tag("many")],
    Discriminator(_many),
]


class RatesDoc(Strict):
    """Requests and tokens a minute, and requests at one time."""

    rpm: Counts | None = None
    tpm: TokenCounts | None = None
    max_concurrent: Counts | None = None


class QuotaDoc(RatesDoc):
    """The same with budgets: one, or one for each kind of period."""

    budget: Budgets | None = None


class TeamDoc(QuotaDoc):
    """What all keys of a team may use together: those whose tenant has this `team`."""


def _cap(written: int | CountDoc | TokenCountDoc | None) -> Cap | None:
    if written is None or isinstance(written, int):
        return None if written is None else Cap(written)
    return Cap(written.limit, written.mode == "shadow")


def quota(doc: RatesDoc) -> Quota:
    """The same as values."""
    written = doc.budget if isinstance(doc, QuotaDoc) else None
    budgets = written if isinstance(written, list) else [] if written is None else [written]
    return Quota(
        _cap(doc.rpm),
        _cap(doc.tpm),
        _cap(doc.max_concurrent),
        tuple(Allowance(one.usd, one.per, one.zone, one.mode) for one in budgets),
    )


@dataclass(frozen=True, slots=True)
class Quotas:
    """All limits of a configuration, by the name of what they limit; `team_of` has the team of each key.

    `above` has, of a key that was made by another key, that one and those above it: their limits bind it too.
    """

    keys: Mapping[str, Quota] = field(default_factory=dict)
    teams: Mapping[str, Quota] = field(default_factory=dict)
    targets: Mapping[str, Quota] = field(default_factory=dict)
    team_of: Mapping[str, str] = field(default_factory=dict)
    above: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def all(self) -> Iterator[tuple[Scope, str, Quota]]:
        """Every one with its scope and name."""
        yield from (("key", name, one) for name, one in self.keys.items())
        yield from (("team", name, one) for name, one in self.teams.items())
        yield from (("target", name, one) for name, one in self.targets.items())

    def limits(self, key: str) -> bool:
        """Does anything limit a key, be it through its team or who made it?"""
        owners = (key, *self.above.get(key, ()))
        return any(one in self.keys for one in owners) or self.team_of.get(key) in self.teams

    def family(self, key: str) -> frozenset[str]:
        """A key, and all keys that draw on its limits because it made them."""
        return frozenset({key, *(one for one, above in self.above.items() if key in above)})

    @property
    def hard(self) -> bool:
        """Is there a hard budget?"""
        return any(_hard(one) for _, _, one in self.all())

    def capped(self) -> frozenset[str]:
        """The keys that a hard budget binds, be it their team's or that of who made them."""
        every = {*self.keys, *self.team_of, *self.above}
        return frozenset(key for key in every if any(_hard(one) for one in self._owners(key)))

    def _owners(self, key: str) -> Iterator[Quota]:
        found = [self.keys.get(one) for one in (key, *self.above.get(key, ()))]
        found.append(self.teams.get(self.team_of.get(key, "")))
        yield from (one for one in found if one is not None)


def _hard(quota: Quota) -> bool:
    return any(budget.mode == "hard" for budget in quota.budgets)


Wrong = tuple[str, str, str]


def read(
    keys: Iterable[tuple[str, str, QuotaDoc]],
    teams: Mapping[str, TeamDoc],
    targets: Mapping[str, RatesDoc],
    *,
    books: bool,
    above: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
) -> tuple[Quotas, list[Wrong]]:
    """All limits, and what is wrong with them: path, what, and what would be valid.

    `keys` are names, teams ("" for none) and what is written; `books` says that a ledger is kept; `above` is as in
    `Quotas`.
    """
    keys = list(keys)
    wrong: list[Wrong] = []
    team_of = {name: team for name, team, _ in keys if team}
    made = Quotas(
        keys=MappingProxyType({name: one for name, _, doc in keys if (one := quota(doc))}),
        teams=MappingProxyType({name: one for name, doc in teams.items() if (one := quota(doc))}),
        targets=MappingProxyType({name: one for name, doc in targets.items() if (one := quota(doc))}),
        team_of=MappingProxyType(team_of),
        above=above,
    )
    if not books:
        for path, one in [(f"keys[{at}]", quota(doc)) for at, (_, _, doc) in enumerate(keys)] + [
            (f"teams.{name}", one) for name, one in made.teams.items()
        ]:
            if _hard(one):
                what = "is hard, but with `ledger: none` every start would fill it again"
                wrong.append((f"{path}.budget", what, "a ledger, or mode: soft"))
    return made, wrong


def period(per: Period, zone: str, now_s: float) -> tuple[int, int]:
    """When the period that a moment lies in begins and ends, in Unix milliseconds. Weeks begin on Mondays.

    >>> [str(datetime.fromtimestamp(ms / 1000, UTC)) for ms in period("month", "Europe/Berlin", 1_792_800_000)]
    ['2026-09-30 22:00:00+00:00', '2026-10-31 23:00:00+00:00']
    """
    if per == "hour":  # of UTC: in a zone there are hours of half and of twice the length
        begins = int(now_s) // 3_600 * 3_600_000
        return begins, begins + 3_600_000
    where = zone_of(zone)
    day = datetime.fromtimestamp(now_s, where).date()
    if per == "day":
        return midnight(day, where), midnight(day + timedelta(days=1), where)
    if per == "week":
        first = day - timedelta(days=day.weekday())
        return midnight(first, where), midnight(first + timedelta(days=7), where)
    first = day.replace(day=1)
    return midnight(first, where), midnight((first + timedelta(days=32)).replace(day=1), where)
