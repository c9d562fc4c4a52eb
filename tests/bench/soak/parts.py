"""The gateway and the upstream of the soak, what the gateway holds, and its books against what the upstream saw."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.ledger.directory import DATABASE
from tests.bench.soak.clients import Seen
from tests.bench.soak.script import GOOD, TARGETS
from tests.harness import ROOT, Gateway, config, eventually, running

#: `pointsman serve` that on SIGUSR1 writes to a file how many of its living objects there are.
COUNTED = (
    "-c",
    """
import collections, gc, json, os, signal, sys
from gateway import cli
def told(one):
    held_by = [type(other).__name__ for other in gc.get_referrers(one)]
    return f"{one.record.request_id} {one.record.code} over={one.over} attempts={one.record.attempts} " \\
        f"{one.failures} upstream={one.upstream} held by {held_by}"
def count(*_):
    gc.collect()
    found = collections.Counter(type(one).__name__ for one in gc.get_objects())
    with open(os.environ["SOAK_COUNT"] + ".new", "w") as file:
        left = [told(one) for one in gc.get_objects() if type(one).__name__ == "Exchange"]
        json.dump({"objects": found, "left": left}, file)
    os.rename(os.environ["SOAK_COUNT"] + ".new", os.environ["SOAK_COUNT"])
signal.signal(signal.SIGUSR1, count)
sys.exit(cli.main(["serve", "--config", sys.argv[1]]))
""",
)
#: Of which there must be none when nobody is connected, and those of which there may be as many as are kept for reuse.
GONE = ("ClientConnection", "Exchange", "Relay", "Waiting", "RequestResponseCycle")
#: The kind of an entry that costs something. One that costs nothing need not have been sent; one whose client left at
#: once may have been, and closed before the upstream read a word.
SETTLED = 0
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Held:
    """What the gateway holds at a moment."""

    at_s: float
    rss: int  # bytes
    own: int  # of these, what no file stands behind: the journal is a file in memory, and grows until the next is begun
    files: int
    cpu_s: float


class Watched:
    """The running gateway, seen from outside and, when asked, from within."""

    def __init__(self, gateway: Gateway, counts: Path) -> None:
        self.gateway = gateway
        self._counts = counts
        self._began = time.monotonic()
        self.held: list[Held] = []
        self.left: list[str] = []  # requests that were alive when objects were counted last

    def look(self) -> Held:
        """Memory, open files and CPU now."""
        place = Path(f"/proc/{self.gateway.process.pid}")
        fields = (place / "stat").read_text().rpartition(")")[2].split()
        cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        rss = int((place / "statm").read_text().split()[1]) * _PAGE
        own = int(re.findall(r"RssAnon:\s+(\d+) kB", (place / "status").read_text())[0]) * 1024
        held = Held(time.monotonic() - self._began, rss, own, len(list((place / "fd").iterdir())), cpu_s)
        self.held.append(held)
        return held

    def objects(self) -> Counter[str]:
        """Living objects by the name of their type."""
        self._counts.unlink(missing_ok=True)
        os.kill(self.gateway.process.pid, signal.SIGUSR1)
        assert eventually(self._counts.exists, 20), "the gateway does not count"
        told = json.loads(self._counts.read_text())
        self.left = told["left"]
        return Counter(told["objects"])

    def slots(self) -> dict[str, float]:
        """What the gateway itself says is under way."""
        text = self.gateway.get("/metrics", admin=True).text
        names = ("pointsman_inflight_requests", "pointsman_queue_requests", "pointsman_endpoint_inflight{")
        found: Counter[str] = Counter()
        for line in text.splitlines():
            for name in names:
                if line.startswith(name):
                    found[name.strip("{")] += float(line.rsplit(" ", 1)[1])  # type: ignore[assignment]
        return dict(found)


@contextlib.contextmanager
def upstream(notes: Path) -> Iterator[int]:
    """The upstream's port; its notes are whole once this is left."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.soak.upstream", str(notes)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


def places(streams: int) -> int:
    """Requests that may be under way at one time: some more than there are, for who leaves is noticed later."""
    return streams + max(10, streams // 10)


def settings(port: int, streams: int, *, quick: bool) -> dict[str, Any]:
    """A pointsman.yaml: for each fault a target and a policy that has the good one second.

    Its clocks are long, and longer in a long run: a machine that others use must not look like a fault.
    """
    first, idle = ("5s", "6s") if quick else ("15s", "15s")
    with socket.create_server(("127.0.0.1", 0)) as unused:
        nobody = unused.getsockname()[1]
    urls = {name: f"http://127.0.0.1:{nobody if name == 'refuse' else port}/{name}/v1" for name in (*TARGETS, GOOD)}
    made = config(
        urls,
        timeouts={"connect": first, "headers": first, "first_event": first, "idle": idle, "total": "85s"},
        policies={"dir": "policies", "default": GOOD},
        ledger={"dir": "books"},
        log={"sample_above": 10},
    )
    for backend in made["backends"].values():
        backend["max_inflight"] = 2 * streams
    made["keys"][0]["max_concurrent"] = places(streams)
    return made


@contextlib.contextmanager
def gateway(directory: Path, port: int, streams: int, *, quick: bool) -> Iterator[Watched]:
    """The gateway in front of it."""
    (directory / "policies").mkdir()
    for name in (*TARGETS, GOOD):
        rungs = f"{{target.name: {name}}}" + ("" if name == GOOD else f", {{target.name: {GOOD}}}")
        text = f"policy: {name}\nrank: listed\nrules: [{{id: all, use: [{rungs}]}}]\n"
        (directory / "policies" / f"{name}.yaml").write_text(text)
    counts = directory / "objects.json"
    with running(directory, settings(port, streams, quick=quick), command=COUNTED, SOAK_COUNT=str(counts)) as one:
        yield Watched(one, counts)


# -- the books --


def books(directory: Path, notes: Path, seen: Seen) -> list[str]:
    """What is wrong with the books, beside what the upstream noted and the clients got."""
    with contextlib.closing(sqlite3.connect(f"file:{directory / 'books' / DATABASE}?mode=ro", uri=True)) as db:
        rows = db.execute(
            "SELECT e.request_id, a.target, e.input, e.output, e.estimated, e.cause, e.kind FROM entries e "
            "JOIN accounts a ON a.id = e.account"
        ).fetchall()
        (left_open,) = db.execute("SELECT count(*) FROM open").fetchone()
    noted = [json.loads(line) for line in notes.read_text().splitlines()]
    came = Counter((one["id"], one["target"]) for one in noted if one["what"] == "asked")
    used = {(one["id"], one["target"]): tuple(one["tokens"]) for one in noted if one["what"] == "used"}
    booked = Counter((row[0], row[1]) for row in rows)
    sent = Counter((row[0], row[1]) for row in rows if row[6] == SETTLED and row[5] != "client_gone")
    found = [f"{left_open} attempts were never settled"] if left_open else []
    found += [f"{key}: sent and not booked" for key in came - booked]
    found += [f"{key}: paid for and not sent" for key in sent - came]
    answered: dict[str, list[Any]] = {}
    for row in rows:
        if row[5] == "ok":
            answered.setdefault(row[0], []).append(row)
    for request_id, ask in seen.served.items():
        mine = answered.get(request_id, [])
        if len(mine) != 1:
            found.append(f"{request_id}: {len(mine)} settlements for one answer: {ask}")
            continue
        _, target, entered, left, estimated, *_ = mine[0]
        if (entered, left) != ask.tokens or estimated or used.get((request_id, target)) != ask.tokens:
            found.append(f"{request_id}: booked {entered}, {left} (estimated: {estimated}), used {ask.tokens}: {ask}")
    return found
