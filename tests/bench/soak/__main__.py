"""Streams for minutes, some of which go wrong: what grows, what leaks, and whether every byte and token is right.

    python -m tests.bench.soak [--seconds 600] [--streams 500] [--faults 5] [--stops 0] [--json FILE]

500 clients ask a gateway for one stream after another, 5 % of them with one of the faults of `script.KINDS`, upstream's
or client's, each alike. Everything is on: keys, limits, books, log. Ends with 1 where something is wrong: a byte that
was not sent, a stream that hangs, an attempt that was booked otherwise than the upstream says, anything left over of a
connection, a timer, a place or an open file, or memory that grew by more than 5 % after three tenths of the time.
`--stops N` stops the gateway's process N times for 4 s, as a machine does that has too much to do: what has come
meanwhile comes at once, for which memory may grow.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.proxy.pool import MAX_IDLE
from tests.bench.soak import parts
from tests.bench.soak.clients import Client, Seen
from tests.bench.soak.parts import Held, Watched
from tests.bench.soak.script import TARGETS, pick
from tests.harness import KEY, eventually

#: Share by which memory may grow, and from which duration on that is judged: before, it is still warming up.
GROWTH, JUDGED_FROM_S = 0.05, 120.0
STOPPED_S = 4.0
_WARM = 3  # tenths of the time that are not judged
_MB = 1e6


@dataclass
class Outcome:
    """What came of it. `wrong` is empty where all is well."""

    seen: Seen
    held: list[Held]
    wrong: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


async def _stop(watched: Watched, seconds: float, stops: int) -> None:
    """Stop the process so often, evenly over what follows the warming up."""
    each = seconds * (10 - _WARM) / 10 / (stops + 1)
    await asyncio.sleep(seconds * _WARM / 10)
    for _ in range(stops):
        await asyncio.sleep(each - STOPPED_S)
        watched.gateway.process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(STOPPED_S)
        finally:
            watched.gateway.process.send_signal(signal.SIGCONT)


async def _drive(watched: Watched, seconds: float, streams: int, faults: float, stops: int) -> Seen:
    seen = Seen()
    until = time.monotonic() + seconds
    place = ("127.0.0.1", watched.gateway.port)
    clients = [Client(number, place, KEY, seen) for number in range(streams)]
    quick = seconds < JUDGED_FROM_S
    working = [asyncio.create_task(one.work(until, faults, quick=quick)) for one in clients]
    working.append(asyncio.create_task(_stop(watched, seconds, stops)))
    while time.monotonic() < until:
        await asyncio.sleep(min(1.0, seconds / 20))
        watched.look()
    await asyncio.gather(*working)
    return seen


async def _fill(watched: Watched, streams: int, seen: Seen) -> None:
    """As many requests at once as there are places: who finds none has found one that was not given back."""
    place = ("127.0.0.1", watched.gateway.port)
    clients = [Client(-1 - number, place, KEY, seen) for number in range(parts.places(streams))]
    await asyncio.gather(*(one.ask(pick(one.dice, 0.0, True)) for one in clients))
    for one in clients:
        one.close()


def _left_over(watched: Watched, before: Held) -> list[str]:
    """What is held that nobody needs."""
    found = []
    kept = MAX_IDLE * (len(TARGETS) + 1)

    def gone() -> bool:
        there = watched.objects()
        return not any(there[name] for name in parts.GONE) and there["UpstreamConnection"] <= kept

    if not eventually(gone, 20):  # the wheel lets go of what is closed within five seconds
        there = watched.objects()
        found += watched.left
        found.append(f"objects left over: { {name: there[name] for name in (*parts.GONE, 'UpstreamConnection')} }")
    there = watched.objects()
    connections = there["UpstreamConnection"]
    for name, most in (("Task", 20), ("TimerHandle", 20)):
        if there[name] > most:
            found.append(f"{there[name]} objects of {name}")
    files = watched.look().files
    if files > before.files + connections + 10:
        found.append(f"{files} open files, {before.files} before, {connections} kept connections to upstreams")
    return found


def _tenths(held: Sequence[int]) -> list[float]:
    """Bytes over the time in MB: the median of each tenth of it."""
    each = max(1, len(held) // 10)
    return [round(statistics.median(held[at : at + each]) / _MB, 1) for at in range(0, 10 * each, each)]


def soak(directory: Path, seconds: float, streams: int, faults: float, stops: int = 0) -> Outcome:
    """Run it."""
    notes = directory / "upstream.jsonl"
    with ExitStack() as stack:
        port = stack.enter_context(parts.upstream(notes))
        watched = stack.enter_context(parts.gateway(directory, port, streams, quick=seconds < JUDGED_FROM_S))
        before = watched.look()
        watched.held.clear()
        seen = asyncio.run(_drive(watched, seconds, streams, faults, stops))
        busy = list(watched.held)
        made = Outcome(seen, busy)
        if not eventually(lambda: not any(watched.slots().values()), 15):
            made.wrong.append(f"under way, although nobody is there: {watched.slots()}")
        asyncio.run(_fill(watched, streams, seen))
        made.wrong += _left_over(watched, before)
        last = watched.held[-1]
        ledger = watched.gateway.get("/readyz").json
        if not eventually(lambda: ledger()["ledger"]["pending"] == 0, 20):
            made.wrong.append("the books are not up to date")
        made.wrong += [line for line in watched.gateway.lines if "Traceback" in line or "Fatal error" in line]
    made.wrong = seen.faults + made.wrong
    made.wrong += parts.books(directory, notes, seen)
    memory = _tenths([one.own for one in busy])
    growth = memory[-1] / memory[_WARM] - 1
    if seconds >= JUDGED_FROM_S and growth > GROWTH and not stops:
        made.wrong.append(f"memory grew by {growth:.1%} after warming up, to {memory[-1]:.1f} MB")
    made.figures = {
        "seconds": seconds,
        "streams": streams,
        "requests": seen.kinds.total(),
        "with a fault": seen.kinds.total() - seen.kinds["none"],
        "of each kind": dict(sorted(seen.kinds.items())),
        "whole answers": len(seen.served),
        "clients that left": seen.left,
        "MB to clients": round(seen.bytes / _MB),
        "memory by tenths, MB": memory,
        "with files in memory, MB": _tenths([one.rss for one in busy]),
        "growth after warming up": f"{growth:+.1%}",
        "memory when all are gone, MB": round(last.own / _MB, 1),
        "files before, most, after": [before.files, max(one.files for one in busy), last.files],
        "CPU, s": round(busy[-1].cpu_s - before.cpu_s, 1),
    }
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--faults", type=float, default=5.0, help="percent of the requests")
    parser.add_argument("--stops", type=int, default=0, help="times that the gateway's process is stopped for 4 s")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        made = soak(Path(directory), given.seconds, given.streams, given.faults / 100, given.stops)
    for name, value in made.figures.items():
        print(f"{name:28} {value}")
    for line in made.wrong[:20]:
        print(f"WRONG: {line[:600]}")
    if len(made.wrong) > 20:
        print(f"WRONG: and {len(made.wrong) - 20} more")
    if given.json is not None:
        given.json.write_text(json.dumps({**made.figures, "wrong": made.wrong}, indent=1))
    return 1 if made.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
