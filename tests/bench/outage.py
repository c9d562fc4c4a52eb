"""Prints what an hour without PostgreSQL takes, and what it takes to send what waited: 3.6 million requests by default.

    python tests/bench/outage.py
    python tests/bench/outage.py --requests 100000

A real PostgreSQL from its wheel, which waits for its disk, is killed; the books of an hour at 1,000 requests/s are kept
by the ledger of a running gateway, at the speed it can; PostgreSQL is started again, and the ledger's own thread sends
them, while an event loop in the same process measures for how long it is not let on. At the end both books must agree.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchparts import REPOSITORY, interpreter

sys.path.insert(0, str(REPOSITORY))

from gateway.core.types import Secret
from gateway.ledger import shared
from gateway.ledger.directory import DATABASE, LedgerSettings, PostgresSettings
from gateway.ledger.ledger import Ledger, open_ledger
from gateway.ledger.report import Asked, reading, report
from tests.postgres import PASSWORD, Postgres, postgres

REQUESTS = 3_600_000
HOUR_MS = 3_600_000
TURN = 12  # requests of a turn of the event loop
ACCOUNTS = 40


def memory_mb() -> float:
    """What the process has in memory that no file holds."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    return 0.0


def book(ledger: Ledger, first: int, count: int, at_ms: int) -> None:
    """A turn's reserves and a turn's settlements, as lines of the journal."""
    account, entry = ledger.account(("k", "t", f"m{first // TURN % ACCOUNTS}", "here", "r", "p@1"), None, thinks=False)
    if entry is not None:
        ledger.journal.write([entry])
    ids = [f"{at_ms:012x}{number:020x}" for number in range(first, first + count)]
    ledger.journal.write([("r", name, 1, account.number, at_ms, 287, 0) for name in ids])
    ledger.journal.write([("s", name, 1, at_ms + 9, 312, 46, 0, 0, 0, 123_340, False, "ok") for name in ids])


def keep(ledger: Ledger, requests: int) -> float:
    """Keep the books of the hour; the most memory that took, in MB."""
    begins, most = int(time.time() * 1000) - HOUR_MS, 0.0
    for first in range(0, requests, TURN):
        book(ledger, first, min(TURN, requests - first), begins + HOUR_MS * first // requests)
        if first % (TURN * 1_000) == 0:
            ledger.tick()
            most = max(most, memory_mb())
            while ledger.pending > 50_000:
                time.sleep(0.01)
    while ledger.pending:
        time.sleep(0.01)
    return max(most, memory_mb())


async def lateness(seconds: float) -> list[float]:
    """How late an event loop is that has nothing to do, in ms."""
    late: list[float] = []
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        late.append(await nap())
    return late


async def nap() -> float:
    asked = time.perf_counter()
    await asyncio.sleep(0.005)
    return (time.perf_counter() - asked - 0.005) * 1000


def spread(late: list[float]) -> str:
    late.sort()
    return f"{statistics.median(late):.2f}, {late[len(late) * 99 // 100]:.1f}, {late[-1]:.1f}"


async def sending(ledger: Ledger) -> tuple[float, float, float, list[float]]:
    """Seconds until the first was sent and from there to the last, MB of memory at most, ms the loop was late."""
    shipping = ledger.shipping
    assert shipping is not None
    began, before, first, most = time.monotonic(), shipping.shipped, 0.0, 0.0
    late: list[float] = []
    while shipping.unshipped or shipping.failing:
        later = await nap()
        if first:
            late.append(later)
        elif shipping.shipped > before:
            first = time.monotonic()
        if len(late) % 100 == 0:
            most = max(most, memory_mb())
    return first - began, time.monotonic() - first, most, late


def measure(server: Postgres, directory: Path, requests: int) -> None:
    """Do it, and print it."""
    where = PostgresSettings("127.0.0.1", server.port, "pointsman", "pointsman", Secret(PASSWORD))
    ledger = open_ledger(LedgerSettings(directory, postgres=where, replica="one"))
    ledger.start()
    shipping = ledger.shipping
    assert shipping is not None
    book(ledger, 1 << 60, 12, int(time.time() * 1000))
    while shipping.shipped < TURN:
        time.sleep(0.01)
    server.kill()
    at_first, began = memory_mb(), time.monotonic()
    kept = keep(ledger, requests)
    took = time.monotonic() - began
    book(ledger, 1 << 61, 12, int(time.time() * 1000))
    while ledger.pending or shipping.unshipped < requests + TURN:
        time.sleep(0.01)
    size = sum(path.stat().st_size for path in directory.glob(f"{DATABASE}*"))
    print("| | |\n|---|---|")
    print(f"| attempts that wait | {shipping.unshipped:,} |")
    print(f"| lag that is told, s | {shipping.lag_s:,.0f} |")
    print(f"| kept within, s | {took:,.0f} |")
    print(f"| memory before, and at most while they are kept, MB | {at_first:.0f}, {kept:.0f} |")
    print(f"| the books on the disk, MB; bytes an attempt | {size / 1e6:,.0f}; {size / requests:.0f} |", flush=True)
    idle = spread(asyncio.run(lateness(5)))
    server.start("-c", "fsync=on")
    cpu = time.process_time()
    resumed, sent, most, late = asyncio.run(sending(ledger))
    cpu = time.process_time() - cpu
    print(f"| begun after, s | {resumed:.1f} |")
    print(f"| sent within, s; attempts a second | {sent:,.0f}; {requests / sent:,.0f} |")
    print(f"| memory at most meanwhile, MB | {most:.0f} |")
    print(f"| CPU of the gateway's process for an attempt, µs | {cpu / requests * 1e6:.1f} |")
    print(f"| an event loop is late before, ms: median, 99 %, worst | {idle} |")
    print(f"| and meanwhile | {spread(late)} |")
    with reading(directory) as own, shared.reading(where) as all_of_them:
        here, there = report(own, Asked(("model",))), report(all_of_them, Asked(("model",)))
    same = sorted(map(str, here.rows)) == sorted(map(str, there.rows)) and here.total["attempts"] == requests + 2 * TURN
    print(f"| both books have the same sums | {'yes' if same else 'NO'} |")
    began = time.monotonic()
    gone = ledger._database.retire(int(time.time() * 1000), 0)
    print(f"| retired afterwards; s | {gone:,}; {time.monotonic() - began:.1f} |")
    ledger.close()


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    given = parser.parse_args()
    with postgres() as server, tempfile.TemporaryDirectory(prefix="pointsman-outage-") as directory:
        measure(server, Path(directory), given.requests)
    print(f"\n{interpreter(sys.executable)}.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
