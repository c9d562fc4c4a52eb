"""Prints what counting a request costs, and what a scrape does, in a process of their own without sockets.

    python tests/bench/metrics.py

Requests are handed over as the data plane does it, and counted many at a time; here that counting is in the figure,
which `parts.py` cannot show: it looks at the quickest batches, and most of them only hand over. "alike" are requests of
one rule, target and team; "mixed" ones are drawn from all that a large installation has, so that hardly two of those
that are counted together are alike. Both at the number that are counted together. CPU time of the process; the median
of many rounds.
"""

from __future__ import annotations

import gc
import random
import statistics
import sys
import time
from dataclasses import replace

from benchparts import REPOSITORY, interpreter

sys.path.insert(0, str(REPOSITORY))

from gateway.core.types import Price, PriceTier, Record, Routing, Usage
from gateway.telemetry.metrics import MOST_WAITING, Metrics
from gateway.telemetry.names import Baseline, Names, TargetFacts

TARGETS, RULES, TEAMS = 40, 30, 20
ROUNDS = 100

BASELINE = Baseline("target-0", Price((PriceTier(0, 2_000_000_000, 10_000_000_000),), "bench"))
NAMES = Names(
    asked=frozenset({"auto"}),
    rules=frozenset(f"rule-{n}" for n in range(RULES)),
    targets=frozenset(f"target-{n}" for n in range(TARGETS)),
    models=frozenset(f"model-{n}" for n in range(TARGETS)),
    teams=frozenset(f"team-{n}" for n in range(TEAMS)),
    policies={"default": "0123456789ab"},
    facts=tuple(TargetFacts(f"target-{n}", f"model-{n}", "llama", "backend", "eu") for n in range(TARGETS)),
)


def routing(target: int, rule: int, team: int, *, stream: bool) -> Routing:
    """What requests of one kind share."""
    return Routing(
        "key", f"team-{team}", "auto", stream, "default@0123456789ab", f"rule-{rule}", f"target-{target}",
        f"target-{target}", f"model-{target}", "client", "because",
    )  # fmt: skip


def record(shared: Routing, dice: random.Random) -> Record:
    """One request that was answered, taking from a few milliseconds to minutes."""
    begun, wall = 1000.0 + dice.random(), 1.8e9
    first = begun + dice.lognormvariate(-1, 1)
    used = Usage(dice.randrange(1, 8000), dice.randrange(1, 2000))
    return Record(
        f"{dice.getrandbits(128):032x}", wall, begun, shared, 200, "ok", 1, begun + 0.0003, first,
        first + dice.lognormvariate(0, 1), used, 1234, True,
    )  # fmt: skip


def alike(*, stream: bool) -> list[Routing]:
    """One kind."""
    return [routing(1, 1, 1, stream=stream)]


def mixed(every: int) -> list[Routing]:
    """All kinds that a large installation has, or every so many of them; half of them streamed."""
    grid = [(target, rule, team) for target in range(TARGETS) for rule in range(RULES) for team in range(TEAMS)]
    return [routing(*one, stream=n % 2 == 0) for n, one in enumerate(grid[::every])]


def counting(kinds: list[Routing], names: Names, dice: random.Random) -> float:
    """Microseconds of CPU for each request, over the quickest fifth of the rounds."""
    metrics = Metrics(names, process=False)
    took = []
    for shared in kinds:
        metrics.finished(record(shared, dice))
    metrics.exposition()
    for _ in range(ROUNDS):
        records = [record(dice.choice(kinds), dice) for _ in range(MOST_WAITING)]
        begun = time.process_time_ns()
        for one in records:
            metrics.finished(one)
        took.append(time.process_time_ns() - begun)
    return statistics.mean(sorted(took)[: ROUNDS // 5]) / MOST_WAITING / 1000


def scraping(kinds: list[Routing], dice: random.Random) -> tuple[float, float, int, int]:
    """Milliseconds of CPU for one scrape and for its longest piece, between which others are served; series; bytes."""
    metrics = Metrics(replace(NAMES, baseline=BASELINE), process=True)
    for shared in kinds:
        metrics.finished(record(shared, dice))
    took, longest = [], []
    text = b""
    for _ in range(9):
        pieces, steps = metrics.pieces(openmetrics=True), []
        text, done = b"", False
        while not done:
            begun = time.process_time_ns()
            piece = next(pieces, None)
            steps.append(time.process_time_ns() - begun)
            text, done = text + (piece or b""), piece is None
        took.append(sum(steps))
        longest.append(max(steps))
    series = sum(not line.startswith(b"#") for line in text.splitlines())
    return statistics.median(took) / 1e6, statistics.median(longest) / 1e6, series, len(text)


def main() -> None:
    """Measure and print."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)  # as `app` sets it
    dice = random.Random(1)
    print(interpreter(sys.executable))
    for name, every, stream in (
        ("alike", 0, False),
        ("alike, streams", 0, True),
        ("240", 100, True),
        ("24,000", 1, True),
    ):
        told = []
        for names in (NAMES, replace(NAMES, baseline=BASELINE)):
            kinds = mixed(every) if every else alike(stream=stream)
            told.append(f"{counting(kinds, names, dice):.2f}")
        print(f"counting, {name}: {' us a request, with a baseline '.join(told)}")
    for name, every in (("240 kinds", 100), ("24,000 kinds", 1)):
        took, longest, series, size = scraping(mixed(every), dice)
        print(
            f"scrape after {name}: {took:.1f} ms, {longest:.1f} ms of it without a break, "
            f"for {series:,} series in {size / 1e6:.1f} MB"
        )


if __name__ == "__main__":
    main()
