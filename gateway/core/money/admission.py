"""What a key, a team or a target may use: requests and tokens a minute, requests at one time, money for a period.

Each limit is a small living object; a `Gate` holds all that bind the requests of one key or one target and admits a
request to all of them or to none; a `Hold` is what one admitted request has taken, and gives back what it did not use.
Whole numbers throughout: microseconds of a monotonic clock, milliseconds of Unix time, nano-USD. What an attempt can
cost at most is in `quotes`. When periods begin and end, and what was spent before, is handed in.

A limit in shadow mode refuses nothing: it counts what it would have refused, and takes nothing for that.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

MINUTE_US = 60_000_000
#: Seconds after which to ask again where only what is reserved, and not what is spent, is in the way.
SOON_S = 2

BudgetMode = Literal["hard", "soft", "shadow"]
Period = Literal["hour", "day", "week", "month"]
Scope = Literal["key", "team", "target"]


class Cap(NamedTuple):
    """A limit as it is configured."""

    limit: int
    shadow: bool = False


class Allowance(NamedTuple):
    """A budget as it is configured. `zone` is a name of the time zone database."""

    nano_usd: int
    per: Period
    zone: str = "UTC"
    mode: BudgetMode = "hard"


@dataclass(frozen=True, slots=True)
class Quota:
    """All that is configured for one key, team or target; None and () where there is no limit."""

    rpm: Cap | None = None
    tpm: Cap | None = None
    max_concurrent: Cap | None = None
    budgets: tuple[Allowance, ...] = ()

    def __bool__(self) -> bool:
        return self != _NO_QUOTA


_NO_QUOTA = Quota()


class Limit:
    """What all limits have: whose it is, what it is called, whether it only counts, and how often it only counted."""

    __slots__ = ("name", "of", "scope", "shadow", "shadowed")

    def __init__(self, scope: Scope, name: str, of: str) -> None:
        self.scope = scope
        self.name = name  # of the key, team or target
        self.of = of  # rpm, tpm, max_concurrent or budget
        self.shadow = False
        self.shadowed = 0  # requests it would have refused


class Rate(Limit):
    """So many a minute: a bucket that holds one minute's worth and fills evenly.

    It may be drawn below nothing by what turns out to have been used; then it first has to fill up to nothing again, so
    that over time no more is used than it lets through.
    """

    __slots__ = ("_at_us", "_full", "_left", "limit")

    def __init__(self, scope: Scope, name: str, of: str, cap: Cap) -> None:
        super().__init__(scope, name, of)
        self.limit = cap.limit
        self.shadow = cap.shadow
        self._full = self._left = cap.limit * MINUTE_US  # parts: one more item for each MINUTE_US of them
        self._at_us = -(1 << 62)

    def adopt(self, cap: Cap) -> None:
        """Go on with another limit. What was used in the last minute stays used."""
        used = self._full - self._left
        self.limit = cap.limit
        self.shadow = cap.shadow
        self._full = cap.limit * MINUTE_US
        self._left = self._full - used

    def wait(self, amount: int, now_us: int) -> int:
        """Microseconds until this amount may pass, 0 if it may now. More than a minute's worth passes when it is full.

        HOT.
        """
        if now_us > self._at_us:
            left = self._left + (now_us - self._at_us) * self.limit
            self._left = left if left < self._full else self._full
            self._at_us = now_us
        lacks = min(amount * MINUTE_US, self._full) - self._left
        return 0 if lacks <= 0 else -(-lacks // self.limit)

    def take(self, amount: int) -> None:
        """Draw an amount that `wait` has just let through."""
        self._left -= amount * MINUTE_US

    def correct(self, reserved: int, used: int, now_us: int) -> None:
        """Where `reserved` was drawn, so much was used: draw the rest, or give back what was not needed. HOT."""
        if used > reserved:
            self.wait(0, now_us)  # what a full bucket could not hold must not pay for it
        left = self._left + (reserved - used) * MINUTE_US
        self._left = left if left < self._full else self._full

    def left(self) -> int:
        """How many may still pass, as of the last look; not below 0."""
        return max(0, self._left // MINUTE_US)

    def see(self, used_millionths: int, now_us: int) -> None:
        """Take over how much was used of it by everybody, from where that is kept. HOT where limits are shared."""
        self._left = self._full - used_millionths * (MINUTE_US // 1_000_000)
        self._at_us = now_us

    def divide(self, cap: Cap, parts: int) -> None:
        """Go on with one of so many equal parts of a limit, and of what is left of it. A part is at least 1."""
        left = self._left // parts
        self.limit = max(1, cap.limit // parts)
        self.shadow = cap.shadow
        self._full = self.limit * MINUTE_US
        self._left = min(self._full, left)

    def told(self, now_us: int) -> tuple[int, int]:
        """How many may still pass, and milliseconds until as many may pass as ever. HOT."""
        left = self._left
        if now_us > self._at_us:
            left += (now_us - self._at_us) * self.limit
        lacks = self._full - left
        if lacks <= 0:
            return self.limit, 0
        return (left // MINUTE_US if left > 0 else 0), lacks // (self.limit * 1000) + 1


class Slots(Limit):
    """So many requests at one time."""

    __slots__ = ("limit", "used")

    def __init__(self, scope: Scope, name: str, cap: Cap) -> None:
        super().__init__(scope, name, "max_concurrent")
        self.used = 0
        self.adopt(cap)

    def adopt(self, cap: Cap) -> None:
        """Go on with another limit; requests under way keep their slots."""
        self.limit = cap.limit
        self.shadow = cap.shadow


class Budget(Limit):
    """Money for a period: what is spent of it, and what is set aside for attempts under way. Nano-USD.

    A cost belongs to the period in which its attempt began, as in the books. What is set aside is given back by who set
    it aside, be that in the next period. Where replicas share it, `spent` and `reserved` are what this one did.
    """

    __slots__ = (
        "begins_ms", "elsewhere", "ends_ms", "leased", "limit", "mode", "others", "per", "reserved", "spent", "told",
        "zone",
    )  # fmt: skip

    def __init__(self, scope: Scope, name: str, allowance: Allowance) -> None:
        super().__init__(scope, name, "budget")
        self.spent = self.reserved = self.limit = 0
        self.others = 0  # spent by other replicas, as last heard
        self.elsewhere = 0  # of the limit, what is not for this one to spend, as last heard
        self.leased = 0  # what this one may spend while nothing can be heard; -1: it does so now
        self.begins_ms = self.ends_ms = 0
        self.told = False  # that nothing is left in this period
        self.adopt(allowance)

    def adopt(self, allowance: Allowance) -> None:
        """Go on with another amount or mode, of the same kind of period."""
        if self.leased < 0:
            self.elsewhere += allowance.nano_usd - self.limit
        self.limit = allowance.nano_usd
        self.per = allowance.per
        self.zone = allowance.zone
        self.mode = allowance.mode
        self.shadow = allowance.mode == "shadow"

    def begin(self, begins_ms: int, ends_ms: int, spent: int = 0) -> None:
        """A period begins, or is taken up by a process that starts. `spent` is what the books say of it."""
        self.begins_ms, self.ends_ms = begins_ms, ends_ms
        self.spent = spent
        self.others = self.elsewhere = self.leased = 0
        self.told = False

    @property
    def left(self) -> int:
        """What is neither spent nor set aside; below 0 where more was spent."""
        return self.limit - self.spent - self.reserved - self.elsewhere

    def alone(self) -> None:
        """Nothing can be heard of others: what is leased is all there is to spend, once."""
        if self.leased >= 0:
            self.elsewhere = self.limit - self.spent - self.reserved - self.leased
            self.leased = -1

    @property
    def gone(self) -> int:
        """What is spent of it, by whomever."""
        return self.spent + self.others


class Refused(NamedTuple):
    """A request may not pass: the limit in the way, and when it may pass if nothing else changes."""

    limit: Limit
    wait_us: int
    #: Only the time of the next period heals it: retrying before is useless.
    spent: bool = False
    #: Nobody knows whether it may pass: what replicas share is not there.
    unknown: bool = False
    #: It may cost more than there is in a whole period: it never passes.
    never: bool = False

    @property
    def retry_after_s(self) -> int:
        """Whole seconds to wait, at least 1, never too few."""
        return max(1, -(-self.wait_us // 1_000_000))


class Hold:
    """What one request has taken of its limits. `end` gives back what it did not use; a second `end` does nothing."""

    __slots__ = ("_charged", "gate", "need", "tokens", "used")

    def __init__(self, gate: Gate, tokens: int, need: int) -> None:
        self.gate: Gate | None = gate  # None: ended
        self.tokens = tokens
        self.need = need
        self.used = 0
        self._charged = 0  # mask of the attempts that were

    def charge(self, attempt: int, tokens: int, nano: int, at_ms: int) -> None:
        """An attempt is settled, once: what it used and cost, and when it began (Unix milliseconds). HOT.

        Two that ran beside each other may be settled in either order.
        """
        gate = self.gate
        if gate is None or self._charged >> attempt & 1:
            return
        self._charged |= 1 << attempt
        self.used += tokens
        for budget in gate.budgets:
            if at_ms >= budget.begins_ms:
                budget.spent += nano

    def release(self, nano: int) -> int:
        """Of the money that is set aside, give back what attempts have cost since: that much is spent. How much it is.

        Before another attempt it is asked for anew, see `take_over`: one may cost as much as `need` again.
        """
        gate, freed = self.gate, min(nano, self.need)
        if gate is None or freed <= 0:
            return 0
        self.need -= freed
        for budget in gate.budgets:
            budget.reserved -= freed
        return freed

    def take_over(self, other: Hold) -> None:
        """What another hold of the same budgets has set aside is this one's, to be given back with its own."""
        self.need += other.need
        other.gate = None

    def end(self, now_us: int, *, sent: bool = True) -> None:
        """The request is over. One that was never `sent` has used nothing of them. HOT."""
        gate = self.gate
        if gate is None:
            return
        self.gate = None
        for slots in gate.slots:
            slots.used -= 1
        for rate in gate.tokens:
            rate.correct(self.tokens, self.used, now_us)
        if not sent:
            for rate in gate.requests:
                rate.correct(1, 0, now_us)
        if self.need:
            for budget in gate.budgets:
                budget.reserved -= self.need


def refused(budget: Budget, need: int, now_ms: int) -> Refused:
    """When a budget may hold this: never, soon, if what is reserved comes back, or in the next period."""
    if need > budget.limit:
        return Refused(budget, 0, spent=True, never=True)
    if budget.gone + need <= budget.limit:
        return Refused(budget, SOON_S * 1_000_000)
    return Refused(budget, max(0, budget.ends_ms - now_ms) * 1000, spent=True)


@dataclass(frozen=True, slots=True)
class Gate:
    """All limits that bind one key's requests, its own and its team's, or one target's attempts."""

    requests: tuple[Rate, ...] = ()
    tokens: tuple[Rate, ...] = ()
    slots: tuple[Slots, ...] = ()
    budgets: tuple[Budget, ...] = ()
    #: What its limits are kept by where replicas share them: a team, or a key without one, or a target.
    tag: str = ""
    # What follows from these, looked at once: a limit changes its mode only by a reload, which makes new gates.
    #: Budgets that must not be exceeded.
    hard: tuple[Budget, ...] = field(init=False, compare=False)
    #: Is there a budget that looks at what a request may cost at most?
    asks_cost: bool = field(init=False, compare=False)
    _least: tuple[Rate | None, Rate | None] | None = field(init=False, compare=False)

    def __post_init__(self) -> None:
        found = [[rate for rate in rates if not rate.shadow] for rates in (self.requests, self.tokens)]
        least = None
        if all(len(rates) <= 1 for rates in found):
            least = (found[0][0] if found[0] else None, found[1][0] if found[1] else None)
        object.__setattr__(self, "hard", tuple(budget for budget in self.budgets if budget.mode == "hard"))
        object.__setattr__(self, "asks_cost", any(budget.mode != "soft" for budget in self.budgets))
        object.__setattr__(self, "_least", least)

    def affordable(self) -> int | None:
        """What the poorest hard budget has left, in nano-USD; None where there is none. HOT."""
        found: int | None = None
        for budget in self.hard:
            left = budget.limit - budget.spent - budget.reserved - budget.elsewhere
            found = left if found is None or left < found else found
        return found

    def admit(self, tokens: int, need: int, now_us: int, now_ms: int) -> Hold | Refused:
        """Let a request through all limits, or through none. HOT.

        `tokens` is what it is expected to use, `need` what it can cost at most, in nano-USD (0: nothing, or nobody
        asks). `now_us` is monotonic, `now_ms` Unix time.
        """
        over: list[Limit] | None = None
        for slots in self.slots:
            if slots.used >= slots.limit:
                if not slots.shadow:
                    return Refused(slots, 1_000_000)
                over = [*(over or ()), slots]
        for rate in self.requests:
            if now_us > rate._at_us:  # as `Rate.wait`, without a call
                left = rate._left + (now_us - rate._at_us) * rate.limit
                rate._left = left if left < rate._full else rate._full
                rate._at_us = now_us
            if rate._left < MINUTE_US:
                if not rate.shadow:
                    return Refused(rate, rate.wait(1, now_us))
                over = [*(over or ()), rate]
        drawn = tokens * MINUTE_US
        for rate in self.tokens:
            if now_us > rate._at_us:
                left = rate._left + (now_us - rate._at_us) * rate.limit
                rate._left = left if left < rate._full else rate._full
                rate._at_us = now_us
            if rate._left < drawn and (wait := rate.wait(tokens, now_us)):
                if not rate.shadow:
                    return Refused(rate, wait)
                over = [*(over or ()), rate]
        if need:
            for budget in self.budgets:
                left = budget.limit - budget.spent - budget.reserved - budget.elsewhere
                if need > left and budget.mode != "soft":
                    if not budget.shadow:
                        return refused(budget, need, now_ms)
                    over = [*(over or ()), budget]
        gate = self if over is None else self.without(over)
        for slots in gate.slots:
            slots.used += 1
        for rate in gate.requests:
            rate._left -= MINUTE_US
        for rate in gate.tokens:
            rate._left -= drawn
        if need:
            for budget in gate.budgets:
                budget.reserved += need
        return Hold(gate, tokens, need)

    def turns_away(self, tokens: int, now_us: int) -> Refused | None:
        """What would refuse any request that uses at least so many tokens. Takes nothing, and counts nothing. HOT."""
        for slots in self.slots:
            if slots.used >= slots.limit and not slots.shadow:
                return Refused(slots, 1_000_000)
        for rate in self.requests:
            if not rate.shadow and (wait := rate.wait(1, now_us)):
                return Refused(rate, wait)
        for rate in self.tokens:
            if not rate.shadow and (wait := rate.wait(tokens, now_us)):
                return Refused(rate, wait)
        return None

    def without(self, over: list[Limit]) -> Gate:
        """The same but for limits in shadow mode that would have refused: those are counted there, and not drawn on.

        Money is spent all the same.
        """
        for limit in over:
            limit.shadowed += 1
        return replace(
            self,
            requests=tuple(one for one in self.requests if one not in over),
            tokens=tuple(one for one in self.tokens if one not in over),
            slots=tuple(one for one in self.slots if one not in over),
        )

    def tightest(self) -> tuple[Rate | None, Rate | None]:
        """Of the enforced limits on requests and on tokens, the one with the least left of each. HOT."""
        return self._least or (_least(self.requests), _least(self.tokens))


def _least(rates: tuple[Rate, ...]) -> Rate | None:
    return min((rate for rate in rates if not rate.shadow), key=Rate.left, default=None)
