"""The living limits of a process: made from configurations, fed from the books, kept through reloads.

What a limit is, and how requests are admitted, is in `core.money.admission`; when they are is in `admitting`. A limit
that two configurations have goes on where it was; a budget that is new takes up what the books say of its period.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from gateway.core.money.admission import Gate
from gateway.core.money.limits import Budget, Cap, Limit, Period, Quota, Rate, Scope, Slots
from gateway.core.money.pricing import dollars
from gateway.core.types import NANO_PER_USD
from gateway.ledger import report, shared
from gateway.ledger.directory import LedgerError, LedgerSettings
from gateway.ledger.unshipped import replica_id
from gateway.quotas import Quotas, period
from gateway.stores.store import Memory, Store
from gateway.telemetry import families
from gateway.telemetry.series import Kept, Rows

logger = logging.getLogger("pointsman")

_Key = tuple[str, ...]
#: Milliseconds by which the clock of a shared store may go back without a period that it began being taken back: as in
#: the store itself, which says so where it is otherwise.
_SLIP_MS = 60_000


class Balance(NamedTuple):
    """What the books say of a period: by key and team, in nano-USD."""

    begins_ms: int
    ends_ms: int
    spent: Mapping[tuple[str, str], int]
    others: Mapping[tuple[str, str], int] = MappingProxyType({})  # other replicas, as far as they have shipped it


def _of_team(spent: Mapping[tuple[str, str], int], name: str) -> int:
    return sum(nano for names, nano in spent.items() if names[1] == name)


def _of_keys(spent: Mapping[tuple[str, str], int], names: frozenset[str]) -> int:
    return sum(nano for (key, _), nano in spent.items() if key in names)


#: By kind of period and time zone.
Balances = Mapping[tuple[str, str], Balance]


def _elsewhere(ledger: LedgerSettings, begins_ms: int, ends_ms: int) -> Mapping[tuple[str, str], int]:
    """What other replicas have shipped of a period. Nothing where that cannot be read: they tell it themselves."""
    if ledger.postgres is None:
        return {}
    own, sums = replica_id(ledger.directory), dict[tuple[str, str], int]()
    try:
        for (replica, key, team), nano in shared.spent(ledger.postgres, begins_ms, ends_ms).items():
            if replica != own:
                sums[key, team] = sums.get((key, team), 0) + nano
    except LedgerError as error:
        logger.warning("what other replicas have spent is known from the store only: %s", error)
    return sums


def _in_use(limit: Limit, clock_s: float, now_ms: float) -> bool:
    """Would one that began anew let more through? The books may not know yet what was spent of a budget."""
    if isinstance(limit, Budget):
        return now_ms < limit.ends_ms and (limit.spent > 0 or limit.reserved > 0)
    if isinstance(limit, Rate):
        return limit.wait(limit.limit, clock_s) > 0
    return isinstance(limit, Slots) and limit.used > 0


class Gates:
    """Every limit of the configuration being served. Belongs to the event loop, but for `balances`."""

    def __init__(self) -> None:
        self._limits: dict[_Key, Limit] = {}
        self._gone: dict[_Key, Limit] = {}  # of who is not there now, as long as something of it is used
        self._quotas = Quotas()
        self.store: Store = Memory()
        self.turns_at = math.inf  # Unix seconds of this machine's clock at which the first period ends
        self._until, self._since = math.inf, -math.inf  # the same, and when the last one began, by `Store.date`
        self.stepped = False  # the clock was set back: the books say what is spent, see `take_up`

    def balances(
        self, quotas: Quotas, ledger: LedgerSettings | None, now_s: float, even: Callable[[], object] = bool
    ) -> Balances:
        """What was spent in the running periods of budgets that are new here. Raises LedgerError.

        For any thread that runs no loop: where replicas share limits, it also asks where they all ship their books to.
        `even` waits until the books have what is already settled.
        """
        wanted = {
            (one.per, one.zone)
            for scope, name, quota in quotas.all()
            for one in quota.budgets
            if (scope, name, "budget", one.per, one.zone) not in self._limits
        }
        if not wanted:
            return {}
        even()
        return self._read(wanted, ledger, now_s)

    def _read(self, wanted: Iterable[tuple[Period, str]], ledger: LedgerSettings | None, now_s: float) -> Balances:
        found: dict[tuple[str, str], Balance] = {}
        date_s = self.store.date(now_s)
        off_ms = round((now_s - date_s) * 1000)  # the books are dated by this machine
        for per, zone in wanted:
            begins_ms, ends_ms = period(per, zone, date_s)
            spent: Mapping[tuple[str, str], int] = {}
            others: Mapping[tuple[str, str], int] = {}
            if ledger is not None:
                with report.reading(ledger.directory) as db:
                    spent = report.spent(db, begins_ms + off_ms, ends_ms + off_ms)
                if self.store.remote:
                    others = _elsewhere(ledger, begins_ms, ends_ms)
            found[per, zone] = Balance(begins_ms, ends_ms, spent, others)
        return found

    def adopt(self, quotas: Quotas, balances: Balances, now_s: float) -> tuple[dict[str, Gate], dict[str, Gate]]:
        """Take the limits of a new configuration. Gates by key, and by target; who has no limits has none."""
        clock_s = time.monotonic()
        now_ms = self.store.date(now_s) * 1000
        gone = {at: one for at, one in self._gone.items() if _in_use(one, clock_s, now_ms)}
        before, self._limits = gone | self._limits, {}
        self._quotas = quotas
        own = {(scope, name): self._gate(scope, name, one, before, balances) for scope, name, one in quotas.all()}
        # A key that is made anew under its name goes on with what its former one had used, as it does in a store.
        self._gone = {at: one for at, one in before.items() if at not in self._limits and _in_use(one, clock_s, now_ms)}
        self.turn(now_s)
        self.store.adopt(own.values())
        keys: dict[str, Gate] = {}
        for name in {*quotas.keys, *quotas.team_of, *quotas.above}:
            above: list[tuple[Scope, str]] = [("key", one) for one in (name, *quotas.above.get(name, ()))]
            parts = [own[part] for part in (*above, ("team", quotas.team_of.get(name, ""))) if part in own]
            if parts:
                keys[name] = Gate(
                    tuple(one for part in parts for one in part.requests),
                    tuple(one for part in parts for one in part.tokens),
                    tuple(one for part in parts for one in part.slots),
                    tuple(one for part in parts for one in part.budgets),
                )
        return keys, {name: own["target", name] for name in quotas.targets}

    def _gate(self, scope: Scope, name: str, quota: Quota, before: Mapping[_Key, Limit], balances: Balances) -> Gate:
        budgets = []
        for allowance in quota.budgets:
            key: _Key = (scope, name, "budget", allowance.per, allowance.zone)
            kept = before.get(key)
            if isinstance(kept, Budget):
                kept.adopt(allowance)
                budget = kept
            else:
                budget = Budget(scope, name, allowance)
            if budget is not kept or key in self._gone:
                self._take_up(budget, balances)
            self._limits[key] = budget
            budgets.append(budget)
        return Gate(
            self._rates(scope, name, "rpm", quota.rpm, before),
            self._rates(scope, name, "tpm", quota.tpm, before),
            self._slots(scope, name, quota.max_concurrent, before),
            tuple(budgets),
        )

    def _take_up(self, budget: Budget, balances: Balances) -> None:
        """Have a budget begin with what the books say of its period, or with what it knows itself, if that is more."""
        balance = balances.get((budget.per, budget.zone))
        if balance is None:
            return
        family = self._quotas.family(budget.name)
        spent, others = (
            _of_team(one, budget.name) if budget.scope == "team" else _of_keys(one, family)
            for one in (balance.spent, balance.others)
        )
        if budget.begins_ms == balance.begins_ms:
            budget.know(spent)
        else:
            budget.begin(balance.begins_ms, balance.ends_ms, spent)
            budget.others = others

    def _rates(
        self, scope: Scope, name: str, of: str, cap: Cap | None, before: Mapping[_Key, Limit]
    ) -> tuple[Rate, ...]:
        if cap is None:
            return ()
        kept = before.get((scope, name, of))
        if isinstance(kept, Rate):
            kept.adopt(cap, time.monotonic())
        else:
            kept = Rate(scope, name, of, cap)
        self._limits[scope, name, of] = kept
        return (kept,)

    def _slots(self, scope: Scope, name: str, cap: Cap | None, before: Mapping[_Key, Limit]) -> tuple[Slots, ...]:
        if cap is None:
            return ()
        kept = before.get((scope, name, "max_concurrent"))
        if isinstance(kept, Slots):
            kept.adopt(cap)
        else:
            kept = Slots(scope, name, cap)
        self._limits[scope, name, "max_concurrent"] = kept
        return (kept,)

    def limits(self, key: str | None = None) -> list[Limit]:
        """All limits, or those that bind the requests of a key: its own, those of who made it, its team's."""
        if key is None:
            return list(self._limits.values())
        quotas = self._quotas
        owners = [("key", one) for one in (key, *quotas.above.get(key, ()))] + [("team", quotas.team_of.get(key, ""))]
        places = {owner: place for place, owner in enumerate(owners)}
        found = [one for one in self._limits.values() if (one.scope, one.name) in places]
        return sorted(found, key=lambda one: places[one.scope, one.name])

    def of_team(self, team: str) -> list[Limit]:
        """The limits of a team and of its keys."""
        keys = {key for key, one in self._quotas.team_of.items() if one == team}
        return [
            one
            for one in self._limits.values()
            if (one.scope == "team" and one.name == team) or (one.scope == "key" and one.name in keys)
        ]

    def _budgets(self) -> Iterator[Budget]:
        return (one for one in self._limits.values() if isinstance(one, Budget))

    def turn(self, now_s: float) -> None:
        """Begin the periods that have come, or that the clock is in again."""
        if self._turn(now_s, _SLIP_MS if self.store.remote else 0):
            self.store.turned()

    def follow(
        self, now_s: float, *, begun: bool = False, exact: bool = False, jumped: bool = False, first: bool = False
    ) -> None:
        """The store has said what time it is. Some periods have `begun` by its word.

        Of others it knows none, so that only the calendar counts: `exact`. Its clock `jumped`, so the books are asked.
        It is heard for the `first` time, so what was spent of other periods was dated by a clock that may be wrong.
        """
        self.stepped = self.stepped or jumped
        turned = self._turn(now_s, 0 if exact or first else _SLIP_MS)
        if first:
            for budget in self._budgets():
                budget.former.clear()
        if turned or begun:
            self.store.turned()

    def _turn(self, now_s: float, slip_ms: int) -> bool:
        """Has a period begun?"""
        date_s = self.store.date(now_s)
        self._until, self._since = math.inf, -math.inf
        turned = False
        for budget in self._budgets():
            if not budget.begins_ms - slip_ms <= date_s * 1000 < budget.ends_ms:
                begins_ms, ends_ms = period(budget.per, budget.zone, date_s)
                self.stepped = self.stepped or begins_ms < budget.begins_ms
                budget.turn(begins_ms, ends_ms)
                turned = True
            self._until = min(self._until, budget.ends_ms / 1000)
            self._since = max(self._since, (budget.begins_ms - slip_ms) / 1000)
        self.turns_at = self._until + (now_s - date_s)
        return turned

    async def take_up(self, ledger: LedgerSettings | None, now_s: float) -> None:
        """The clock was set back: have budgets know what the books say of the periods they are in again."""
        self.stepped = False
        wanted = {(one.per, one.zone) for one in self._budgets()}
        try:
            balances = await asyncio.to_thread(self._read, wanted, ledger, now_s)
        except LedgerError as error:
            logger.warning("the clock was set back, and the books cannot be asked what is spent: %s", error)
            return
        for budget in self._budgets():
            balance = balances.get((budget.per, budget.zone))
            if balance is not None and balance.begins_ms == budget.begins_ms:
                self._take_up(budget, balances)
        self.store.turned()

    def look(self, now_s: float) -> None:
        """Once a second: begin periods, and warn once of each budget that is spent."""
        date_s = self.store.date(now_s)
        if self._since <= date_s < self._until:
            self.turns_at = self._until + (now_s - date_s)
        else:
            self.turn(now_s)
        for budget in self._budgets():
            if budget.gone >= budget.limit and not budget.told:
                budget.told = True
                logger.warning(
                    "the %s budget of %s %s is spent: %s of %s in this %s",
                    budget.mode,
                    budget.scope,
                    budget.name,
                    dollars(budget.gone),
                    dollars(budget.limit),
                    budget.per,
                )

    def read(self) -> Iterator[Kept]:
        """What a scrape is told."""
        budgets = [(self._named(one), one) for one in self._budgets()]
        yield Rows(families.BUDGET_LIMIT, [(names, one.limit / NANO_PER_USD) for names, one in budgets])
        yield Rows(families.BUDGET_LEFT, [(names, (one.limit - one.gone) / NANO_PER_USD) for names, one in budgets])
        yield Rows(families.BUDGET_ENDS, [(names, one.ends_ms / 1000) for names, one in budgets])
        shadowed: dict[tuple[str, ...], float] = {}
        for limit in self._limits.values():
            if limit.shadow:
                names = (limit.of, limit.scope, limit.name)
                shadowed[names] = shadowed.get(names, 0) + limit.shadowed
        yield Rows(families.SHADOWED, list(shadowed.items()))

    def _named(self, budget: Budget) -> tuple[str, str, str]:
        """Labels: a team's budget has the key `all`, a key without a team the team `none`."""
        if budget.scope == "team":
            return budget.name, "all", budget.per
        return self._quotas.team_of.get(budget.name) or "none", budget.name, budget.per
