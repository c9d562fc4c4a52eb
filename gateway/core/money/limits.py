"""What a key, a team or a target may use: requests and tokens a minute, requests at one time, money for a period.

Each limit is a small living object, which knows what is left of it. Money is whole nano-USD, periods are milliseconds
of Unix time, rates know seconds of a monotonic clock. How a request passes all that bind it is in `admission`. When
periods begin and end, and what was spent before, is handed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

MINUTE_S = 60.0
#: What sums of many fractions of a second may be off by, which is nobody's to pay for.
_SLACK_S = 1e-7
#: What clients are told of a rate: its limit, how many may still pass, and when as many may pass as ever.
_TOLD = b"x-ratelimit-limit-%b: %d\r\nx-ratelimit-remaining-%b: %%d\r\nx-ratelimit-reset-%b: %%dms\r\n"
BudgetMode = Literal["hard", "soft", "shadow"]
Period = Literal["hour", "day", "week", "month"]
Scope = Literal["key", "team", "target"]
#: Periods that a budget remembers: a clock that is set forward and back finds them again.
_FORMER = 8


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

    It is known by when it will be full again. It may be drawn below nothing by what turns out to have been used; then
    it first has to fill up to nothing again, so that over time no more is used than it lets through.
    """

    __slots__ = ("each", "former", "full_at", "limit", "room", "told", "whole")

    def __init__(self, scope: Scope, name: str, of: str, cap: Cap) -> None:
        super().__init__(scope, name, of)
        self._set(cap.limit, cap.shadow)
        self.full_at = 0.0
        self.former = (0, 0.0)  # limit and `full_at` of the bucket before it was made smaller

    def _set(self, limit: int, shadow: bool) -> None:
        self.limit = limit
        self.shadow = shadow
        self.each = MINUTE_S / limit  # in which one comes back
        self.room = MINUTE_S + min(_SLACK_S, self.each / 2)  # in which all do
        of = b"requests" if self.of == "rpm" else b"tokens"
        self.told = _TOLD % (of, limit, of, of)  # headers, but for what is left and in how many milliseconds it is full
        self.whole = self.told % (limit, 0)

    def _drawn(self, now_s: float) -> float:
        return max(0.0, self.full_at - now_s) / self.each

    def adopt(self, cap: Cap, now_s: float) -> None:
        """Go on with another limit. What was used in the last minute stays used, as far as the new bucket holds it.

        A debt becomes smaller as the limit does, so that it takes as long as before. What a smaller bucket could not
        hold is there again in a larger one, as far as it would not have come back in the former.
        """
        drawn = self._drawn(now_s)
        limit, full_at = self.former
        before = max(0.0, full_at - now_s) * limit / MINUTE_S
        if cap.limit < self.limit:
            if drawn > before:
                self.former = (self.limit, self.full_at)
            debt = max(0.0, drawn - self.limit) * cap.limit / self.limit
            drawn = min(drawn, cap.limit) + debt
        elif cap.limit > self.limit:
            drawn = max(drawn, min(before, cap.limit))
        self._set(cap.limit, cap.shadow)
        self.full_at = now_s + drawn * self.each

    def wait(self, amount: int, now_s: float) -> int:
        """Microseconds until this amount may pass, 0: it may now. More than a minute's worth passes when it is full."""
        lacks_s = max(0.0, self.full_at - now_s) + min(amount * self.each, MINUTE_S)
        return 0 if lacks_s <= self.room else math.ceil((lacks_s - MINUTE_S - _SLACK_S) * 1e6)

    def left(self, now_s: float) -> int:
        """How many may still pass; not below 0."""
        return max(0, int((self.room - max(0.0, self.full_at - now_s)) / self.each))

    def see(self, used_millionths: int, now_s: float) -> None:
        """Take over how much was used of it by everybody, from where that is kept. HOT where limits are shared."""
        self.full_at = now_s + used_millionths * self.each / 1e6

    def divide(self, cap: Cap, parts: int, now_s: float) -> None:
        """Go on with one of so many equal parts of a limit, and of what is left of it. A part is at least 1."""
        left = (self.limit - self._drawn(now_s)) / parts
        self._set(max(1, cap.limit // parts), cap.shadow)
        self.full_at = now_s + max(0.0, self.limit - left) * self.each


class Slots(Limit):
    """So many requests at one time."""

    __slots__ = ("limit", "used")

    def __init__(self, scope: Scope, name: str, cap: Cap) -> None:
        super().__init__(scope, name, "max_concurrent")
        self.used = 0
        self.adopt(cap)

    def adopt(self, cap: Cap, now_s: float = 0.0) -> None:
        """Go on with another limit; requests under way keep their slots."""
        self.limit = cap.limit
        self.shadow = cap.shadow

    def divide(self, cap: Cap, parts: int, now_s: float = 0.0) -> None:
        """Go on with one of so many equal parts of a limit. A part is at least 1."""
        self.adopt(Cap(max(1, cap.limit // parts), cap.shadow))


class Budget(Limit):
    """Money for a period: what is spent of it, and what is set aside for attempts under way. Nano-USD.

    A cost belongs to the period in which its attempt began, as in the books. What is set aside is given back by who set
    it aside, be that in the next period. Where replicas share it, `spent` and `reserved` are what this one did.
    """

    __slots__ = (
        "begins_ms", "elsewhere", "ends_ms", "former", "leased", "left", "limit", "mode", "others", "per", "spent",
        "told", "zone",
    )  # fmt: skip

    def __init__(self, scope: Scope, name: str, allowance: Allowance) -> None:
        super().__init__(scope, name, "budget")
        self.spent = self.limit = 0
        self.left = 0  # what is neither spent nor set aside; below 0 where more was spent
        self.others = 0  # spent by other replicas, as last heard
        self.elsewhere = 0  # of the limit, what is not for this one to spend, as last heard
        self.leased = 0  # what this one may spend while nothing can be heard; -1: it does so now
        self.begins_ms = self.ends_ms = 0
        self.former: dict[int, int] = {}  # what was spent of the last few periods, by when they begin
        self.told = False  # that nothing is left in this period
        self.adopt(allowance)

    def adopt(self, allowance: Allowance) -> None:
        """Go on with another amount or mode, of the same kind of period."""
        more = allowance.nano_usd - self.limit
        if self.leased < 0:
            self.elsewhere += more
        else:
            self.left += more
        self.limit = allowance.nano_usd
        self.per = allowance.per
        self.zone = allowance.zone
        self.mode = allowance.mode
        self.shadow = allowance.mode == "shadow"

    def begin(self, begins_ms: int, ends_ms: int, spent: int = 0) -> None:
        """A period begins, or is taken up by a process that starts. `spent` is what the books say of it."""
        self.begins_ms, self.ends_ms = begins_ms, ends_ms
        self.left = self.limit - spent - self.reserved
        self.spent = spent
        self.others = self.elsewhere = self.leased = 0
        self.told = False

    def turn(self, begins_ms: int, ends_ms: int) -> None:
        """The clock is in another period than before, be it that it was set back.

        One that it was in before goes on where it was. An earlier one that is not known takes over what was spent of
        the present one, until the books are read: see `know`.
        """
        spent = self.former.pop(begins_ms, self.spent if begins_ms < self.begins_ms else 0)
        self.former[self.begins_ms] = self.spent
        if len(self.former) > _FORMER:
            del self.former[min(self.former)]
        self.begin(begins_ms, ends_ms, spent)

    def know(self, booked: int) -> None:
        """The books say that so much of the period is spent or under way, which may be more than is known here."""
        more = booked - self.reserved - self.spent
        if more > 0:
            self.spent += more
            self.left -= more

    @property
    def reserved(self) -> int:
        """What is set aside."""
        return self.limit - self.elsewhere - self.spent - self.left

    def spend(self, nano: int, at_ms: int) -> None:
        """An attempt that began then has cost this much."""
        if at_ms >= self.begins_ms:
            self.spent += nano
            self.left -= nano

    def hear(self, others: int, elsewhere: int, leased: int) -> None:
        """What is known of it where replicas share it. HOT where limits are shared."""
        self.left += self.elsewhere - elsewhere
        self.others, self.elsewhere, self.leased = others, elsewhere, leased

    def alone(self) -> None:
        """Nothing can be heard of others: what is leased is all there is to spend, once.

        With it goes what requests under way will give back, as it is set aside elsewhere, too. Where nothing is leased,
        as in a period of which nothing was heard yet, that need not be so: then it is not there to be spent.
        """
        if self.leased >= 0:
            left = self.leased or -self.reserved
            self.elsewhere += self.left - left
            self.left, self.leased = left, -1

    @property
    def ahead(self) -> int:
        """What this one may still spend without hearing of others."""
        return self.leased if self.leased >= 0 else max(0, self.left)

    @property
    def gone(self) -> int:
        """What is spent of it, by whomever."""
        return self.spent + self.others
