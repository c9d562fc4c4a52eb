"""Prints what books, limits and budgets take of a request, by part, the ledger's thread included.

    python tests/bench/books.py
    python tests/bench/books.py --phases 60

The gateway is driven by hand as in `parts.py`, a dozen connections with a request each in a turn of its loop, as under
load: once without books or limits, once with books, and once with books and a key that has every kind of limit and a
hard budget. What each takes more than the one before is what that part costs the event loop. Then the thread's work is
done here, on as many requests as come between two times that it wakes, and timed by itself. The quickest fifth counts.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchlines import LINES, write_config, write_inputs
from benchparts import interpreter
from parts import Rig

#: Connections with a request in each turn, and requests between two times that the thread wakes, when all is busy.
CONNECTIONS, BETWEEN = 12, 4_800
QUIET = 5
GOAL_US = 8.0
#: Rates that are drawn on faster than a bucket is full again, and hardly more than a process can serve.
LIMITS = ", rpm: 2500000, tpm: 1500000000, max_concurrent: 1000, budget: {usd: 1000000, per: day}"
ROWS = (
    "journal: what the event loop writes",
    "journal: what the thread makes books of",
    "limits and budgets: rpm, tpm, max_concurrent, a hard budget, headers",
    "together",
)


def measure(phases: int) -> tuple[float, ...]:
    """Microseconds per request of each row."""
    with tempfile.TemporaryDirectory(prefix="pointsman-books-") as place:
        rigs = []
        for name, limits, books in (("bare", "", False), ("books", "", True), ("limits", LIMITS, True)):
            where = Path(place) / name
            where.mkdir()
            config = write_config(where, public=8080, admin=8081, sim_port=9, tls_port=None, ca=None, limits=limits)
            write_inputs(where)
            line = next(line for line in LINES if line.name == "pinned")
            rigs.append(Rig(config, line, connections=CONNECTIONS, books=books))
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)  # as `app` sets it
        served: list[list[float]] = [[] for _ in rigs]
        kept: list[float] = []
        for _ in range(phases):
            for rig, took in zip(rigs, served, strict=True):
                for _ in range(BETWEEN // (4 * CONNECTIONS)):
                    rig.runtime.wheel.advance(time.monotonic())
                    requests = [next(rig.requests) for _ in range(4 * CONNECTIONS)]
                    begun = time.perf_counter_ns()
                    rig.run(requests)
                    took.append((time.perf_counter_ns() - begun) / len(requests) / 1000)
            for rig in rigs:
                if rig.runtime.ledger is not None:
                    begun = time.thread_time_ns()
                    rig.runtime.ledger.keeping.catch_up()
                    kept.append((time.thread_time_ns() - begun) / BETWEEN / 1000)
        for rig in rigs:
            rig.close()
    bare, books, limits = (statistics.mean(sorted(took)[: len(took) // QUIET]) for took in served)
    thread = statistics.mean(sorted(kept)[: max(1, len(kept) // QUIET)])
    return books - bare, thread, limits - books, limits - bare + thread


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phases", type=int, default=20, help=f"of {BETWEEN} requests each")
    phases = parser.parse_args().phases
    found = measure(phases)
    print("| µs a request | |\n|---|---|")
    for row, us in zip(ROWS, found, strict=True):
        print(f"| {row} | {us:.2f} |")
    print(f"\nGoal: {GOAL_US:.0f} together: {'met' if found[-1] <= GOAL_US else 'missed'}.", end=" ")
    print(f"The quickest fifth of {phases} times {BETWEEN} requests; {interpreter(sys.executable)}.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
