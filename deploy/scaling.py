"""How 10, 100 and 1,000 gateways behave that share one Valkey and one PostgreSQL: a simulation, printed as tables.

    python -m deploy.scaling [--rps REQUESTS] [--inputs FILE]

What the shared servers take for a call and an entry is an input: `Inputs` has what `python tests/bench/shared.py`
printed on two cores, which other work was using, and FILE is what it prints with --json elsewhere. Only what one
replica ships after an outage is what `python tests/bench/outage.py` printed, for it comes with tables of millions of
rows; 60,000 on a disk at rest go several times as fast, which is nothing to plan with. How often a gateway
calls them is held by tests/test_topology.py. Requests come at random, and so do their teams; limits are the gateway's
own (`core.money.admission`). SCALING.md says what follows.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from gateway.core.money.admission import Gate, Hold
from gateway.core.money.limits import Cap, Rate

REPLICAS = (10, 100, 1_000)
#: Calls of the store for a request of one attempt: to admit it, and at its end.
CALLS = 2
#: A gateway tells every second that it lives, and every second of each key and team that rests but is still leased to.
RESTING = 10


@dataclass(frozen=True, slots=True)
class Inputs:
    """Times in microseconds of one server's processor, but where the name says otherwise."""

    store_us_per_call_one_rate: float = 15.8
    store_us_per_call_1_replicas: float = 55.9
    store_us_per_call_100_replicas: float = 106.2
    store_us_per_call_1000_replicas: float = 57.2
    store_us_per_sweep_1000_replicas: float = 1_255.6
    entries_per_s_catching_up: float = 15_425.0
    statements_per_s_of_10_entries: float = 1_642.0
    gateway_us_per_entry: float = 4.4
    bytes_per_entry: float = 205.6

    def statement_s(self, entries: int) -> float:
        """How long PostgreSQL is busy with a statement of so many entries: a line through two that were measured."""
        few, many = 1 / self.statements_per_s_of_10_entries, 250 / self.entries_per_s_catching_up
        return few + max(0.0, many - few) / 240 * (entries - 10)


def queue(arrivals: Sequence[float], service_s: float) -> tuple[float, float]:
    """A server that does one thing after another: share of its time that is used, and the wait of the slowest 1 %."""
    free, waits = 0.0, []
    for at in arrivals:
        free = max(free, at) + service_s
        waits.append(free - at)
    span = arrivals[-1] - arrivals[0]
    return len(arrivals) * service_s / span, sorted(waits)[len(waits) * 99 // 100]


def poisson(rate: float, seconds: float, dice: random.Random) -> Iterator[float]:
    """Moments that come at random, so many a second."""
    at = dice.expovariate(rate)
    while at < seconds:
        yield at
        at += dice.expovariate(rate)


def store(replicas: int, rps: float, us_per_call: float, dice: random.Random) -> tuple[float, float]:
    """The use of one Valkey, and how long the slowest 1 % of its calls wait, in seconds."""
    rate = replicas * rps
    seconds = max(2.0, min(20.0, 60_000 / rate))
    arrivals: list[float] = []
    for at in poisson(rate, seconds, dice):
        lasts = dice.expovariate(1 / 2.0)  # what came of a request is told when it is over
        arrivals += (at, *((at + lasts) % seconds for _ in range(CALLS - 1)))
    for _ in range(replicas):
        offset = dice.random()
        arrivals += (offset + turn for turn in range(int(seconds)) for _ in range(1 + RESTING))
    arrivals.sort()
    return queue(arrivals, us_per_call / 1e6)


def hottest(teams: int, dice: random.Random) -> float:
    """The share of the busiest of so many teams, whose sizes fall as 1, 1/2, 1/3: what one Valkey has at least."""
    sizes = [1 / (number + 1) for number in range(teams)]
    drawn = dice.choices(range(teams), sizes, k=50_000)
    return max(drawn.count(team) for team in range(min(3, teams))) / len(drawn)


def admitted(replicas: int, limit: int, how: str, dice: random.Random) -> float:
    """What passes of twice a limit while the store is away, by the limit: each replica keeps its part, for 5 minutes.

    `how` requests reach replicas: at `random`, as a load balancer sends them, or all at `one`, as one connection does.
    """
    parts = [Gate(tokens=(Rate("key", "k", "tpm", Cap(limit)),)) for _ in range(replicas)]
    for part in parts:
        part.admit(limit, 0, 0, 0)  # the minute before, together, they were at the limit
        part.tokens[0].divide(Cap(limit), replicas, 0)
    passed, minutes = 0, 5
    for at in poisson(2 * limit / 60, minutes * 60, dice):
        part = parts[dice.randrange(replicas) if how == "random" else 0]
        passed += isinstance(part.admit(1, 0, at, 0), Hold)
    return passed / (limit * minutes)


def leased(replicas: int, share: float) -> float:
    """How much of what is left of a hard budget is leased to replicas that all use it: as the store's script does."""
    slices = [0.0] * replicas
    for _ in range(6):
        for at in range(replicas):
            left = 1.0 - sum(slices)
            want = max(0.0, left + slices[at]) * share
            if not slices[at] * 0.75 <= want <= slices[at] * 1.25 or left < 0:
                slices[at] = want
    return sum(slices)


def shipping(replicas: int, rps: float, inputs: Inputs, dice: random.Random) -> tuple[float, float]:
    """The use of one PostgreSQL by gateways that ship once a second, and the wait of the slowest 1 % of statements."""
    each = max(1, round(rps))
    statements = [min(250, each - at) for at in range(0, each, 250)]
    arrivals = sorted(dice.random() + second for _ in range(replicas) for second in range(5) for _ in statements)
    return queue(arrivals, sum(map(inputs.statement_s, statements)) / len(statements))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [f"| {' | '.join(row)} |" for row in (heads, ["---", *["---:"] * (len(heads) - 1)], *rows)]
    return "\n".join(lines)


def per_call(inputs: Inputs, replicas: int) -> float:
    """A call with every kind of limit, with so many replicas."""
    return {
        10: inputs.store_us_per_call_1_replicas,
        100: inputs.store_us_per_call_100_replicas,
    }.get(replicas, inputs.store_us_per_call_1000_replicas)


def waited(use: float, seconds: float) -> str:
    """A wait, where there is one that does not grow for ever."""
    return "grows" if use >= 1 else f"{seconds * 1000:.1f} ms"


def tables(inputs: Inputs, rps: float) -> list[str]:
    """All that is printed."""
    dice = random.Random(1)  # noqa: S311 - a simulation
    heads = ["", *(f"{count:,} replicas" for count in REPLICAS)]
    everything = [store(count, rps, per_call(inputs, count), dice) for count in REPLICAS]
    one_rate = [store(count, rps, inputs.store_us_per_call_one_rate, dice) for count in REPLICAS]
    shipped = [shipping(count, rps, inputs, dice) for count in REPLICAS]
    every_s = [count * rps for count in REPLICAS]
    found = [
        ("requests/s", [f"{one:,.0f}" for one in every_s]),
        ("calls of Valkey/s", [f"{count * (rps * CALLS + 1 + RESTING):,.0f}" for count in REPLICAS]),
        ("of them heartbeats", [f"{(1 + RESTING) * count:,.0f}" for count in REPLICAS]),
        ("one Valkey is used, a rate for each key", [f"{use:.0%}" for use, _ in one_rate]),
        ("the slowest 1 % wait", [waited(*one) for one in one_rate]),
        ("one Valkey is used, key and team with every limit", [f"{use:.0%}" for use, _ in everything]),
        ("the slowest 1 % wait", [waited(*one) for one in everything]),
        ("Valkeys at 60 % each", [f"{use / 0.6:.1f}" for use, _ in everything]),
        ("the same by sweeps of 1,000 busy keys", [
            f"{1_000 / 12 * inputs.store_us_per_sweep_1000_replicas * count / 1_000 / 1e6:.0%}" for count in REPLICAS
        ]),
        ("rows of PostgreSQL/s", [f"{one:,.0f}" for one in every_s]),
        ("one PostgreSQL is used", [f"{use:.0%}" for use, _ in shipped]),
        ("the slowest 1 % of statements wait", [waited(*one) for one in shipped]),
        ("connections of PostgreSQL", [f"{count:,}" for count in REPLICAS]),
        ("GB of entries a day", [f"{one * 86_400 * inputs.bytes_per_entry / 1e9:,.0f}" for one in every_s]),
        ("rows of totals a day, 20 accounts each", [f"{count * 20 * 96:,}" for count in REPLICAS]),
    ]  # fmt: skip
    limits = [
        (f"{limit:,} a minute, {how}", [f"{admitted(count, limit, word, dice):.0%}" for count in REPLICAS])
        for limit, word, how in (
            (600, "random", "spread"), (6_000, "random", "spread"), (60_000, "random", "spread"),
            (6_000, "one", "at one replica"),
        )
    ]  # fmt: skip
    slices = [(f"slice: {share:.1%}", [f"{leased(count, share):.0%}" for count in REPLICAS]) for share in (0.01, 0.001)]
    hot = [(f"{teams:,} teams", f"{hottest(teams, dice):.0%}") for teams in (10, 100, 1_000)]
    return [
        f"### At {rps:g} requests/s a replica",
        table(heads, [[name, *cells] for name, cells in found]),
        "### Let through while the store is away, of a limit of which twice as much is asked",
        table(heads, [[name, *cells] for name, cells in limits]),
        "### Leased to replicas of what is left of a hard budget",
        table(heads, [[name, *cells] for name, cells in slices]),
        "### The busiest team",
        table(["", "of all calls"], hot),
    ]


def main(given: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m deploy.scaling", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rps", type=float, default=50.0, help="requests a second of each replica (default 50)")
    parser.add_argument("--inputs", type=Path, help="what `python tests/bench/shared.py --json` printed")
    asked = parser.parse_args(given)
    inputs = Inputs()
    if asked.inputs is not None:
        known = {one.name for one in fields(Inputs)}
        inputs = replace(inputs, **{k: v for k, v in json.loads(asked.inputs.read_text()).items() if k in known})
    print("\n\n".join(tables(inputs, asked.rps)))


if __name__ == "__main__":
    main()
