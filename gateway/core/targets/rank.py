"""The order of targets inside one rung: listed, cheapest, fastest, balanced or weighted.

Only orders: what may be a candidate is settled before. Expected cost is what the input is thought to cost plus a usual
answer; it compares targets and is never booked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from statistics import median
from typing import Literal

from gateway.core.types import Fleet, PriceTier, Snapshot, Target

RankName = Literal["listed", "cheapest", "fastest", "balanced", "weighted"]
#: With those that `byfact` works out when a policy is bound.
AnyRank = RankName | Literal["highest", "lowest"]
#: A target nobody has timed yet goes first in this share of requests, so that it gets timed, and last in the others.
EXPLORE = 0.05
#: Masks of which the order is kept for a size class before starting over.
_MASKS = 8


@dataclass(frozen=True, slots=True)
class Costs:
    """Expected cost of a request on every target, cheapest first, for one size class of requests."""

    order: tuple[int, ...]  # target indices, unpriced last
    nano_usd: tuple[int | None, ...]  # by target index
    within: dict[int, tuple[int, ...]] = field(default_factory=dict)  # mask -> its part of `order`, a few of them

    def cheapest(self, mask: int) -> tuple[int, ...]:
        """The targets of a mask, cheapest first. HOT: the masks that requests leave are few."""
        found = self.within.get(mask)
        if found is None:
            if len(self.within) >= _MASKS:
                self.within.clear()
            found = self.within[mask] = tuple(index for index in self.order if mask >> index & 1)
        return found


@dataclass(frozen=True, slots=True)
class Prices:
    """The expected costs of a fleet. One entry per size class is kept: at most some 2,000, in practice a few dozen."""

    fleet: Fleet
    kept: dict[tuple[int, int], Costs] = field(default_factory=dict)

    def at(self, input_tokens: int, max_output: int | None) -> Costs:
        """Expected costs for a request of about this size. HOT: one lookup for every size class seen before."""
        key = (coarse(input_tokens), 0 if max_output is None else coarse(max_output))
        costs = self.kept.get(key)
        if costs is None:
            costs = self.kept[key] = self._costs(*key)
        return costs

    def _costs(self, input_tokens: int, max_output: int) -> Costs:
        costs = tuple(expected_nano(target, input_tokens, max_output or None) for target in self.fleet.targets)
        order = sorted(range(len(costs)), key=lambda i: (costs[i] is None, costs[i], i))
        return Costs(tuple(order), costs)


def coarse(tokens: int) -> int:
    """A size class: the number with all but its two leading bits cut, so that a class spans at most half its start.

    >>> [coarse(n) for n in (0, 3, 5, 1000, 1500, 300_000)]
    [0, 3, 4, 768, 1024, 262144]
    """
    cut = max(min(tokens, 1 << 40).bit_length() - 2, 0)
    return tokens >> cut << cut


def tier_for(target: Target, input_tokens: int) -> PriceTier | None:
    """The tier that a request of this input length is billed at; None where the target has no price."""
    if target.price is None:
        return None
    chosen = target.price.tiers[0]
    for tier in target.price.tiers:
        if input_tokens > tier.above_input_tokens:
            chosen = tier
    return chosen


def cost_nano(target: Target, input_tokens: int, output_tokens: int) -> int | None:
    """What a request costs in nano-USD without cache or reasoning; None where the target has no price."""
    tier = tier_for(target, input_tokens)
    return None if tier is None else (input_tokens * tier.input + output_tokens * tier.output) // 1_000_000


def expected_nano(target: Target, input_tokens: int, max_output: int | None) -> int | None:
    """Cost of the input plus a usual answer, or less where the client allows less."""
    usual = target.typical_output_tokens
    return cost_nano(target, input_tokens, usual if max_output is None else min(usual, max_output))


def bits(mask: int) -> list[int]:
    """Indices of the set bits, ascending."""
    found = []
    while mask:
        low = mask & -mask
        found.append(low.bit_length() - 1)
        mask ^= low
    return found


def order(
    mask: int, by: AnyRank, listed: Sequence[int], fleet: Fleet, snapshot: Snapshot, costs: Costs | None
) -> Sequence[int]:
    """The targets of a mask, best first. `costs` is needed for cheapest and balanced. HOT."""
    if by == "cheapest" and costs is not None:
        return costs.cheapest(mask)
    chosen = [index for index in listed if mask >> index & 1]
    if by == "listed":
        return chosen
    if by == "weighted":
        return _weighted(chosen, fleet, snapshot.draw)
    latency = snapshot.latency_s
    if by == "fastest":
        unknown = -1.0 if snapshot.draw < EXPLORE else float("inf")
        chosen.sort(key=lambda index: latency.get(fleet.targets[index].name, unknown))
    elif costs is not None:
        timed = [latency[fleet.targets[i].name] for i in chosen if fleet.targets[i].name in latency]
        usual = median(timed) if timed else 1.0
        chosen.sort(key=lambda index: _product(costs.nano_usd[index], latency.get(fleet.targets[index].name, usual)))
    return chosen


def _product(nano_usd: int | None, latency_s: float) -> float:
    """Twice as fast is worth twice the price; what has no price comes last."""
    return float("inf") if nano_usd is None else nano_usd * latency_s


def _weighted(chosen: list[int], fleet: Fleet, draw: float) -> list[int]:
    """A random order in which each place goes by weight, from one draw: the rest of a draw is a draw again."""
    left = [index for index in chosen if fleet.targets[index].weight > 0]
    picked: list[int] = []
    while left:
        total = sum(fleet.targets[index].weight for index in left)
        point = draw * total
        for index in left:
            weight = fleet.targets[index].weight
            if point < weight or index == left[-1]:
                break
            point -= weight
        picked.append(index)
        left.remove(index)
        draw = min(point / weight, 1.0)
    return picked + [index for index in chosen if fleet.targets[index].weight <= 0]


def draw(request_id: str, conversation: str | None, key: str) -> float:
    """A number in [0, 1) that stays the same over a conversation of one key.

    `key` is the key's name: the same name of a conversation is another one's with another key, and who does not know
    what their key is called here cannot make up names that are drawn as they like.
    """
    if conversation is None:
        return int(request_id[24:32], 16) / 0x1_0000_0000
    said = f"{key}\0{conversation}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(said, digest_size=4, person=b"draw").digest()) / 0x1_0000_0000
