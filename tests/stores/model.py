"""What `gateway.stores.script` does, said again in Python: one key with all kinds of limits. Times are the server's."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

MINUTE_US = 60_000_000
CLAIM_US = 5_000_000
Answer = list[int]


@dataclass(frozen=True)
class Limits:
    """The limits of the key, in the order in which they are asked; `shadow` of those on rates and places."""

    places: int
    requests: int
    tokens: int
    budget: int
    shadow: bool = False


@dataclass
class Model:
    """The key as it is in the store."""

    limits: Limits
    lease_us: int
    share: float
    made: bool = False
    generation: dict[str, int] = field(default_factory=dict)
    lease: dict[str, int] = field(default_factory=dict)
    places: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    spent: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    aside: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))  # with the slice
    slices: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    less: dict[str, tuple[int, int]] = field(default_factory=dict)  # what it was told to make do with, and when
    rates: dict[str, tuple[float, int]] = field(default_factory=dict)
    claimed_until: int = 0

    def _sweep(self, now: int) -> None:
        for who in [who for who, ends in self.lease.items() if ends <= now]:
            if self.places[who] or self.aside[who]:
                self.generation[who] = 0
            self.spent[who] += self.aside[who]
            self.places[who] = self.aside[who] = self.slices[who] = 0
            self.less.pop(who, None)

    def _entered(self, who: str, generation: int, now: int) -> bool:
        if not self.made or self.generation.get(who) != generation:
            return False
        self._sweep(now)
        return self.generation[who] == generation

    def _used(self, kind: str, limit: int, now: int) -> float:
        used, at = self.rates.get(kind, (0.0, 0))
        return max(0.0, used - max(0, now - at) * limit / MINUTE_US)

    def _left(self) -> int:
        return self.limits.budget - sum(self.spent.values()) - sum(self.aside.values())

    def _set_slice(self, who: str, want: int) -> None:
        self.aside[who] += want - self.slices[who]
        self.slices[who] = want
        self.less.pop(who, None)

    def _slice(self, who: str, now: int, heard: int) -> None:
        if who in self.less and heard >= self.less[who][1]:
            self._set_slice(who, self.less[who][0])
        had, left = self.slices[who], self._left()
        want = 0 if self.claimed_until > now else math.floor(max(0, left + had) * self.share)
        if left < 0 or want == 0 or want < had * 0.75 or want > had * 1.25:
            if want >= had:
                self._set_slice(who, want)
            elif who not in self.less or want < self.less[who][0]:
                self.less[who] = want, now

    def _told(self, who: str, now: int, status: int, index: int = 0, wait: int = 0, over: int = 0) -> Answer:
        limits = self.limits
        return [
            status, index, wait, over, now,
            sum(self.places.values()),
            math.floor(self._used("q", limits.requests, now) * 1_000_000),
            math.floor(self._used("t", limits.tokens, now) * 1_000_000),
            sum(self.spent.values()) - self.spent[who],
            sum(self.aside.values()) - self.aside[who],
            self.less.get(who, (self.slices[who], 0))[0],
        ]  # fmt: skip

    def sync(self, who: str, generation: int, now: int, held: tuple[int, int, int, int]) -> Answer:
        """`held` are places, money spent, money set aside and money leased ahead, as the replica knows them."""
        places, spent, aside, ahead = held
        known = self.generation.get(who)
        if known is not None and known > generation:
            return [-2, known, 0, 0, now]
        self.made = True
        self.generation[who], self.lease[who] = generation, now + self.lease_us
        if known != generation:
            self.places[who], self.aside[who], self.slices[who] = places, aside + ahead, ahead
            self.less.pop(who, None)
        self.spent[who] = spent
        self._sweep(now)
        return self._told(who, now, 1)

    def admit(self, who: str, generation: int, now: int, asked: tuple[int, int, int]) -> Answer:
        """All or nothing: tokens and money. The third is when the last answer was given that the replica has heard."""
        tokens, need, heard = asked
        if not self._entered(who, generation, now):
            return [-1, 0, 0, 0, now]
        limits, over = self.limits, 0
        found = [(0, 1 if sum(self.places.values()) >= limits.places else 0, 1_000_000)]
        for at, (kind, amount, limit) in enumerate((("q", 1, limits.requests), ("t", tokens, limits.tokens)), 1):
            lacks = self._used(kind, limit, now) + min(amount, limit) - limit
            found.append((at, int(lacks > 1e-6), math.ceil(lacks * MINUTE_US / limit)))
        for at, full, wait in found:
            if full and not limits.shadow:
                return self._told(who, now, 0, at + 1, wait)
            over += full << at
        if need and need > self._left() + self.slices[who]:
            if sum(self.spent.values()) + need <= limits.budget:
                self.claimed_until = now + CLAIM_US
            return self._told(who, now, 0, 4)
        self.lease[who] = now + self.lease_us
        if not over & 1:
            self.places[who] += 1
        for bit, kind, amount, limit in ((2, "q", 1, limits.requests), (4, "t", tokens, limits.tokens)):
            if not over & bit:
                self.rates[kind] = self._used(kind, limit, now) + amount, now
        if need:
            self.aside[who] += need
            self._slice(who, now, heard)
        return self._told(who, now, 1, over=over)

    def settle(self, who: str, generation: int, now: int, changes: tuple[int, int, int, int], spent: int) -> Answer:
        """`changes` are places, requests, tokens and money that are given back; `spent` is a total."""
        places, requests, tokens, need = changes
        if self._entered(who, generation, now):
            self.places[who] -= places
            for kind, by, limit in (("q", requests, self.limits.requests), ("t", tokens, self.limits.tokens)):
                if by:
                    self.rates[kind] = max(0.0, self._used(kind, limit, now) + by), now
            self.aside[who] -= need
            self.spent[who] = spent
        return [1, 0, 0, 0, now]

    def beat(self, who: str, generation: int, now: int, heard: int) -> Answer:
        """Renew the lease."""
        if not self._entered(who, generation, now):
            return [-1, 0, 0, 0, now]
        self.lease[who] = now + self.lease_us
        self._slice(who, now, heard)
        return self._told(who, now, 1)
