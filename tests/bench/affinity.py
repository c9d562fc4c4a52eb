"""What sending prompts that begin alike to the same replica is worth: a simulation of replicas that cache prefixes.

    python -m tests.bench.affinity

Conversations, each behind one of a few long system prompts, come to replicas that keep what they have read as long as
there is room, read new tokens at one speed and write answers at another, several at a time. Three ways to choose the
replica are compared on the same requests: the fewest requests, a hash of the beginning without regard to load, and what
`affinity: prefix` does. The model is simple; the code that chooses is the gateway's.
"""

from __future__ import annotations

import heapq
import random
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from zlib import crc32

from gateway.core.resilience.affinity import Prefixes

BLOCK = 64  # bytes of prompt that a server caches as one
READ_BLOCKS_S = 500.0  # blocks a second: 8,000 tokens of 4 bytes
ANSWER_S = 1.5


@dataclass
class Replica:
    """One server: its cache, and when each of its slots is free."""

    room: int
    slots: list[float]
    cache: OrderedDict[int, None] = field(default_factory=OrderedDict)
    under_way: list[float] = field(default_factory=list)
    served: int = 0

    def load(self, now: float) -> int:
        while self.under_way and self.under_way[0] <= now:
            heapq.heappop(self.under_way)
        return len(self.under_way)

    def take(self, blocks: list[int], now: float) -> tuple[int, float]:
        """Serve a prompt: how many of its blocks were cached, and when its first word comes."""
        hits = next((number for number, block in enumerate(blocks) if block not in self.cache), len(blocks))
        for block in blocks:
            self.cache[block] = None
            self.cache.move_to_end(block)
        while len(self.cache) > self.room:
            self.cache.popitem(last=False)
        begins = max(now, heapq.heappop(self.slots))
        first = begins + (len(blocks) - hits) / READ_BLOCKS_S
        heapq.heappush(self.slots, first + ANSWER_S)
        heapq.heappush(self.under_way, first + ANSWER_S)
        self.served += 1
        return hits, first


Choose = Callable[[bytes, list[int]], int]


def least(_: bytes, loads: list[int]) -> int:
    return min(range(len(loads)), key=loads.__getitem__)


def pinned(prompt: bytes, loads: list[int]) -> int:
    return crc32(prompt[:1024]) % len(loads)


def affine() -> Choose:
    prefixes = Prefixes()

    def choose(prompt: bytes, loads: list[int]) -> int:
        return prefixes.place(prompt, loads)

    return choose


@dataclass(frozen=True)
class Result:
    """Shares and seconds over one run."""

    hits: float  # share of blocks that were cached
    first_p50_s: float
    first_p95_s: float
    busiest: float  # requests of the replica with the most, as a multiple of the mean


def requests(seed: int, count: int, per_s: float) -> list[tuple[float, bytes]]:
    """(when, prompt): turns of conversations behind four system prompts, of which one is much more asked for."""
    dice = random.Random(seed)
    systems = [dice.randbytes(3_000).hex().encode() for _ in range(4)]
    talks: list[bytes] = []
    now, found = 0.0, []
    for _ in range(count):
        now += dice.expovariate(per_s)
        if not talks or dice.random() < 0.2:
            talks.append(dice.choices(systems, [8, 2, 1, 1])[0])
            talks = talks[-200:]
        which = dice.randrange(len(talks))
        talks[which] += dice.randbytes(dice.randrange(100, 1_500)).hex().encode()
        found.append((now, talks[which]))
    return found


def run(choose: Choose, asked: list[tuple[float, bytes]], replicas: int = 4, room: int = 20_000) -> Result:
    """Serve them all."""
    pool = [Replica(room, [0.0] * 16) for _ in range(replicas)]
    hits = total = 0
    waits = []
    for now, prompt in asked:
        blocks, name = [], 0
        for at in range(0, len(prompt), BLOCK):
            name = hash((name, prompt[at : at + BLOCK]))
            blocks.append(name)
        chosen = pool[choose(prompt, [replica.load(now) for replica in pool])]
        known, first = chosen.take(blocks, now)
        hits += known
        total += len(blocks)
        waits.append(first - now)
    waits.sort()
    served = [replica.served for replica in pool]
    return Result(
        hits / total, waits[len(waits) // 2], waits[len(waits) * 95 // 100], max(served) * replicas / sum(served)
    )


WAYS: dict[str, Callable[[], Choose]] = {
    "fewest requests": lambda: least,
    "hash alone": lambda: pinned,
    "affinity: prefix": affine,
}


def main() -> None:
    """Print the table."""
    print(f"{'':<18}{'load':>10}{'cached':>9}{'p50':>9}{'p95':>9}{'busiest':>9}")
    for name, per_s in (("light", 3.0), ("half", 15.0), ("heavy", 28.0)):
        asked = requests(1, 3_000, per_s)
        for way, make in WAYS.items():
            one = run(make(), asked)
            print(
                f"{way:<18}{name:>10}{one.hits:>9.0%}{one.first_p50_s:>8.2f}s{one.first_p95_s:>8.2f}s{one.busiest:>9.2f}"
            )
    costs = ", ".join(f"{size // 1000} kB {placing_us(size):.0f} us" for size in (1_000, 4_000, 30_000))
    print(f"\nplacing a prompt of {costs}")


def placing_us(size: int) -> float:
    """Microseconds that the gateway takes to place a prompt of so many bytes, the quickest of some."""
    prefixes, prompt = Prefixes(), random.Random(1).randbytes(size)
    took = []
    for _ in range(200):
        begun = time.perf_counter()
        prefixes.place(prompt, [0, 1, 2, 3])
        took.append(time.perf_counter() - begun)
    return min(took) * 1e6


if __name__ == "__main__":
    main()
