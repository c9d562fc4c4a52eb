"""How a request passes its limits, and gives back what it did not use.

A `Gate` holds all limits that bind the requests of one key or one target and admits a request to all of them or to
none; a `Hold` is what one admitted request has taken. What a limit is, and its units, is in `limits`; what an attempt
can cost at most in `quotes`.

A limit in shadow mode refuses nothing: it counts what it would have refused, and takes nothing for that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import NamedTuple

import msgspec

from gateway.core.money.limits import MINUTE_S, Budget, Limit, Rate, Slots

#: Seconds after which to ask again where only what is reserved, and not what is spent, is in the way.
SOON_S = 2
#: What comes back by time while a request lasts so long is little: a tenth of a bucket.
_SHORT_S = MINUTE_S / 10


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


class Hold(msgspec.Struct, eq=False, gc=False):
    """What one request has taken of its limits, until `end` or `cancel`; of these only the first does anything."""

    gate: Gate | None  # None: ended
    tokens: int
    need: int
    at_s: float  # monotonic
    spent: int = 0  # nano-USD that its budgets know of

    def charge(self, spent: int, at_ms: int) -> None:
        """Its attempts have cost so much in all; the one that was the last to end began then (Unix milliseconds)."""
        if self.gate is not None:
            for budget in self.gate.budgets:
                budget.spend(spent - self.spent, at_ms)
            self.spent = spent

    def release(self, nano: int) -> int:
        """Of the money that is set aside, give back what attempts have cost since: that much is spent. How much it is.

        Before another attempt it is asked for anew, see `take_over`: one may cost as much as `need` again.
        """
        gate, freed = self.gate, min(nano, self.need)
        if gate is None or freed <= 0:
            return 0
        self.need -= freed
        for budget in gate.budgets:
            budget.left += freed
        return freed

    def take_over(self, other: Hold) -> None:
        """What another hold of the same budgets has set aside is this one's, to be given back with its own."""
        self.need += other.need
        other.gate = None

    def end(self, now_s: float, used: int = 0, spent: int = 0, at_ms: int = 0) -> None:
        """The request is over: what it has used, in tokens, and spent in all; see `charge`. HOT.

        `now_s` is of the monotonic clock. Of a bucket, time brings back what nobody used, too: only what it cannot have
        brought back yet is given back here.
        """
        gate = self.gate
        if gate is None:
            return
        self.gate = None
        unused, more = self.tokens - used, spent - self.spent
        for slots, _, rate, budget in gate.rows:
            if slots is not None:
                slots.used -= 1
            if rate is not None:
                if unused < 0:  # what a full bucket could not hold must not pay for it
                    if rate.full_at < now_s:
                        rate.full_at = now_s
                    rate.full_at -= unused * rate.each
                elif now_s - self.at_s > _SHORT_S:
                    rate.full_at -= max(0.0, min(unused * rate.each, MINUTE_S - (now_s - self.at_s)))
                else:
                    rate.full_at -= unused * rate.each
            if budget is not None:
                if at_ms >= budget.begins_ms:  # as `Budget.spend`, without a call
                    budget.spent += more
                    budget.left += self.need - more
                else:
                    budget.left += self.need

    def cancel(self) -> None:
        """The request was never sent, so it has used nothing."""
        gate = self.gate
        if gate is not None:
            self.gate = None
            gate.give_back(self.tokens, self.need)


def refused(budget: Budget, need: int, now_ms: float) -> Refused:
    """When a budget may hold this: never, soon, if what is reserved comes back, or in the next period."""
    if need > budget.limit:
        return Refused(budget, 0, spent=True, never=True)
    if budget.gone + need <= budget.limit:
        return Refused(budget, SOON_S * 1_000_000)
    return Refused(budget, max(0, int((budget.ends_ms - now_ms) * 1000)), spent=True)


@dataclass(frozen=True, slots=True)
class Gate:
    """All limits that bind one key's requests, its own and its team's, or one target's attempts."""

    requests: tuple[Rate, ...] = ()
    tokens: tuple[Rate, ...] = ()
    slots: tuple[Slots, ...] = ()
    budgets: tuple[Budget, ...] = ()
    # What follows from these, looked at once: a limit changes its mode only by a reload, which makes new gates.
    #: The same, one of each kind beside each other: nearly always all are in the first row.
    rows: tuple[tuple[Slots | None, Rate | None, Rate | None, Budget | None], ...] = field(init=False, compare=False)
    #: Budgets that must not be exceeded.
    hard: tuple[Budget, ...] = field(init=False, compare=False)
    #: Is there a budget that looks at what a request may cost at most?
    asks_cost: bool = field(init=False, compare=False)
    _tightest: tuple[Rate, ...] | None = field(init=False, compare=False)

    def __post_init__(self) -> None:
        enforced = [_enforced(rates) for rates in (self.requests, self.tokens)]
        only = tuple(found[0] for found in enforced if found)
        for name, value in (
            ("rows", tuple(zip_longest(self.slots, self.requests, self.tokens, self.budgets))),
            ("hard", tuple(budget for budget in self.budgets if budget.mode == "hard")),
            ("asks_cost", any(budget.mode != "soft" for budget in self.budgets)),
            ("_tightest", only if max(map(len, enforced)) <= 1 else None),
        ):
            object.__setattr__(self, name, value)

    @property
    def limits(self) -> tuple[Limit, ...]:
        """All, in the order in which they are asked."""
        return (*self.slots, *self.requests, *self.tokens, *self.budgets)

    def affordable(self) -> int | None:
        """What the poorest hard budget has left, in nano-USD; None where there is none."""
        return min((budget.left for budget in self.hard), default=None)

    def admit(self, tokens: int, need: int, now_s: float, now_ms: float) -> Hold | Refused:
        """Let a request through all limits, or through none. HOT.

        `tokens` is what it is expected to use, `need` what it can cost at most, in nano-USD (0: nothing, or nobody
        asks). `now_s` is monotonic, `now_ms` Unix time.
        """
        over: tuple[Limit, ...] = ()
        for slots, requests, rate, budget in self.rows:
            if slots is not None:
                if slots.used < slots.limit:
                    slots.used += 1
                else:
                    over += (slots,)
            if requests is not None:
                if requests.full_at <= now_s:  # what is full lets any amount pass
                    requests.full_at = now_s + requests.each
                elif requests.full_at + requests.each <= now_s + requests.room:
                    requests.full_at += requests.each
                else:
                    over += (requests,)
            if rate is not None:
                drawn = tokens * rate.each
                if rate.full_at <= now_s:
                    rate.full_at = now_s + drawn
                elif rate.full_at + drawn <= now_s + rate.room or rate.full_at + MINUTE_S <= now_s + rate.room:
                    rate.full_at += drawn
                else:
                    over += (rate,)
            if budget is not None:
                budget.left = left = budget.left - need
                if left < 0 and need and budget.mode != "soft":
                    over += (budget,)
        return self._over(over, tokens, need, now_s, now_ms) if over else Hold(self, tokens, need, now_s)

    def _over(self, over: tuple[Limit, ...], tokens: int, need: int, now_s: float, now_ms: float) -> Hold | Refused:
        """What becomes of a request that these limits have no room for, and have given nothing but money."""
        limit = next((one for one in self.limits if one in over and not one.shadow), None)
        if limit is None:
            return Hold(self.without(over), tokens, need, now_s)
        self.give_back(tokens, need, over)
        if isinstance(limit, Budget):
            return refused(limit, need, now_ms)
        if isinstance(limit, Rate):
            return Refused(limit, limit.wait(1 if limit.of == "rpm" else tokens, now_s))
        return Refused(limit, 1_000_000)

    def give_back(self, tokens: int, need: int, over: tuple[Limit, ...] = ()) -> None:
        """A request is not made that all of these but those `over` have let through."""
        for slots, requests, rate, budget in self.rows:
            if slots is not None and slots not in over:
                slots.used -= 1
            if requests is not None and requests not in over:
                requests.full_at -= requests.each
            if rate is not None and rate not in over:
                rate.full_at -= tokens * rate.each
            if budget is not None:
                budget.left += need

    def turns_away(self, tokens: int, now_s: float) -> Refused | None:
        """What would refuse any request that uses at least so many tokens. Takes nothing, and counts nothing. HOT."""
        for slots in self.slots:
            if slots.used >= slots.limit and not slots.shadow:
                return Refused(slots, 1_000_000)
        for rate in self.requests:
            if not rate.shadow and (wait := rate.wait(1, now_s)):
                return Refused(rate, wait)
        for rate in self.tokens:
            if not rate.shadow and (wait := rate.wait(tokens, now_s)):
                return Refused(rate, wait)
        return None

    def without(self, over: Collection[Limit]) -> Gate:
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

    def told(self, now_s: float) -> bytes:
        """Headers of the enforced limit on requests that has least left, and of the one on tokens. HOT."""
        told = b""
        for rate in self._tightest or self._least(now_s):
            drawn_s = rate.full_at - now_s
            if drawn_s <= 0:
                told += rate.whole
            else:
                left_s = rate.room - drawn_s
                told += rate.told % (int(left_s / rate.each) if left_s > 0 else 0, int(drawn_s * 1000) + 1)
        return told

    def _least(self, now_s: float) -> Iterator[Rate]:
        for rates in (self.requests, self.tokens):
            if enforced := _enforced(rates):
                yield min(enforced, key=lambda rate: rate.left(now_s))


def _enforced(rates: tuple[Rate, ...]) -> list[Rate]:
    return [rate for rate in rates if not rate.shadow]
