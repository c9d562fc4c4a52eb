"""Prints where the time of one request goes in the gateway, by part, without sockets.

    python tests/bench/parts.py                      the lines pinned, heads and auto of README.md
    python tests/bench/parts.py pinned               only this one
    python tests/bench/parts.py --json before.json   keep the numbers
    python tests/bench/parts.py --compare before.json    a table of before, now and the difference

The protocols of both sides are driven by hand with the bytes that `run.py` would send and the simulator would answer,
on transports that do nothing, so what is seen is the gateway's own Python and nothing of the kernel or the event loop.
As under load, a turn of the loop reads from many connections, and every request has its line in the log.
Functions are timed from outside: each is replaced by one that notes the clock before and after, and what it spends in
another timed function is that one's. The same requests are served in turn with nothing replaced: how much longer they
took with it, per replaced call, is what noting costs and is taken off, so that the parts add up to the plain request.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import dataclasses
import functools
import gc
import importlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

from benchlines import LINES, MARK, Line, write_config, write_inputs
from benchparts import HERE, REPOSITORY, interpreter

sys.path.insert(0, str(REPOSITORY))

from uvicorn.server import ServerState

from gateway.app import _uvicorn
from gateway.ledger.directory import LedgerSettings
from gateway.ledger.ledger import open_ledger
from gateway.proxy.downstream import ClientConnection
from gateway.proxy.runtime import Runtime
from gateway.site import load_lexicon, load_site
from gateway.telemetry import metrics
from gateway.telemetry.access import AccessLog
from gateway.telemetry.metrics import Metrics
from gateway.vocab import open_tokenizers

#: The lines that can be taken apart: one whole answer to one request.
SHOWN = ("pinned", "heads", "auto")
BATCH = 20  # requests between two looks at the clock of all: less than a slice of a shared processor
QUIET = 5  # one batch in so many is looked at, the quickest ones: what else the machine does can only add
PHASES = 20  # the timed and the plain request take turns this often

CHECK = "answer: check"
#: A part and the functions it consists of, as `module:name` below `gateway`. What no part names is its caller's.
PARTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("client's read: know or cut the head, take the body", ("proxy.downstream:ClientConnection.data_received",)),
    ("head: parse", ("proxy.heads:parse_request",)),
    ("head: read by its likeness to the last", (
        "proxy.heads:Familiar.same",
        "proxy.heads:Familiar.alike",
        "proxy.heads:Familiar.length_of",
    )),
    ("head: key, hints, limits", ("proxy.asked:read",)),
    ("exchange: begin, record, request id, clocks", (
        "proxy.downstream:ClientConnection._serve",
        "proxy.exchange:Exchange.begin",
        "proxy.exchange:Exchange._place",
        "proxy.exchange:Exchange._repeat",
        "proxy.settling:Settling.__init__",
        "proxy.runtime:Runtime.request_id",
    )),
    ("body: parse", ("core.request.wire:parse", "core.request.likeness:Likeness.read")),
    ("route: pin, permission, availability", (
        "site:Site.resolve",
        "site:Site.allow",
        "core.resilience.health:Board.available",
    )),
    ("route: remembered decision", (
        "core.decisions.memo:Memo.key",
        "core.decisions.memo:Memo.get",
        "core.decisions.memo:Memo.put",
    )),
    ("route: signals", (
        "core.reading.signals:Signals.of",
        "core.reading.signals:_Computed.__missing__",
        "core.reading.signals:Signals.exceeds",
        "core.reading.signals:Signals.fits",
        "core.reading.signals:Signals.tokens",
        "core.reading.signals:Signals.computed",
    )),
    ("route: signals: language", ("core.text.language:of",)),
    ("route: signals: task and difficulty", ("core.reading.lexicon:Lexicon.judge",)),
    ("route: decide", ("proxy.exchange:Exchange._decide", "core.decide:decide")),
    ("upstream: begin the attempt", (
        "proxy.exchange:Exchange._start",
        "proxy.attempting:Attempting._send",
        "proxy.attempting:Attempting._send_straight",
    )),
    ("upstream: body to send", ("core.servers.dialects:request_body",)),
    ("upstream: connection from the pool, hand over", (
        "proxy.pool:Pool.send",
        "proxy.upstream:UpstreamConnection.start",
        "proxy.relaying:Relaying.on_sent",
        "proxy.upstream:UpstreamConnection.clock",
    )),
    ("answer: read, head", ("proxy.upstream:UpstreamConnection.data_received", "proxy.pool:Pool.answer_head")),
    ("answer: connection back to the pool", (
        "proxy.upstream:UpstreamConnection._done",
        "proxy.pool:Pool.release",
        "proxy.pool:Pool.finished",
    )),
    (CHECK, ()),  # a target's plan holds the function; `time_plans` finds it there
    ("answer: steps between", (
        "proxy.relaying:Relaying.on_whole",
        "proxy.relaying:Relaying._answer",
        "proxy.relaying:Relaying._release",
    )),
    ("settle: health, usage, cost", (
        "proxy.relaying:Relaying._succeeded",
        "proxy.settling:Settling._book",
        "core.money.usage:settle",
        "core.money.usage:add",
        "core.money.pricing:cost",
        "core.resilience.health:Board.record",
    )),
    ("ledger: entries, journal", (
        "proxy.accounts:account_of",
        "ledger.journal:Journal.write",
    )),
    ("settle: metrics", (
        "telemetry.metrics:Metrics.attempt",
        "telemetry.metrics:Metrics.finished",
        "telemetry.metrics:Metrics._count",
    )),
    ("settle: access log", ("telemetry.access:AccessLog.add",)),
    ("settle: keep for /v1/decisions", ("proxy.runtime:Runtime.remember",)),
    ("settle: the rest", ("proxy.settling:Settling._settle",)),
    ("client's answer: headers", ("proxy.relaying:Relaying._headers", "proxy.routing:routing_of")),
    ("client's answer: write, next message", (
        "proxy.downstream:ClientConnection.respond",
        "proxy.downstream:ClientConnection._next",
    )),
    ("both sides: writes of a turn", (
        "proxy.outbox:Outbox.write",
        "proxy.outbox:Outbox.ended",
        "proxy.outbox:Outbox.flush",
    )),
)  # fmt: skip
ELSEWHERE = "elsewhere, and the driver of this script"
WHOLE = "the request, nothing replaced"
MEDIAN = "the same, median of all batches"


class Turns(asyncio.AbstractEventLoop):
    """An event loop that does nothing but call back what was asked for, when told to."""

    def __init__(self) -> None:
        self.soon: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Any = None) -> None:  # type: ignore[override]
        """Note a call for the end of the turn."""
        self.soon.append((callback, args))

    def turn(self) -> None:
        """End the turn."""
        soon, self.soon = self.soon, []
        for callback, args in soon:
            callback(*args)

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any, context: Any = None) -> None:  # type: ignore[override]
        """Never calls back."""

    def get_debug(self) -> bool:
        """Asked by asyncio."""
        return False


class Nowhere(asyncio.Transport):
    """A transport that takes every byte at once and keeps the last write."""

    def __init__(self) -> None:
        super().__init__()
        self.last = b""
        self.writes = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take the bytes."""
        self.last = bytes(data)
        self.writes += 1

    def writelines(self, list_of_data: Any) -> None:
        """Take the bytes of several pieces as one write."""
        self.write(b"".join(list_of_data))

    def abort(self) -> None:
        """There is nothing to close."""

    def is_closing(self) -> bool:
        """Never."""
        return False

    def get_write_buffer_size(self) -> int:
        """Always empty."""
        return 0


def simulated_answer() -> bytes:
    """The answer that the simulator gives, head and body, read from its source."""
    literal = (HERE / "sim.c").read_text().partition("JSON_BODY[] =")[2].partition(";")[0]
    body = ast.literal_eval(f"({literal})").encode()
    return (
        b"HTTP/1.1 200 OK\r\ndate: Sun, 22 Nov 2026 01:09:08 GMT\r\nserver: sim\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(body), body)
    )


def requests_of(line: Line, where: Path) -> Iterator[bytes]:
    """The line's requests as `load.c` sends them, without end."""
    head = (where / f"{line.head}.head").read_bytes()
    bodies = (where / f"{line.bodies}-{line.model}.bodies").read_bytes().splitlines()
    mark, serial = MARK.encode(), 0
    while True:
        for body in bodies:
            pieces = (
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:8080\r\naccept: application/json\r\n"
                b"content-type: application/json\r\n%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)
            ).split(mark)
            whole = pieces[0]
            for piece in pieces[1:]:
                serial += 1
                whole += b"%016x" % (serial * 0x9E3779B97F4A7C15 % 2**64) + piece
            yield whole


class Rig:
    """A gateway without sockets: connections of a client and as many to an upstream, all driven by hand."""

    def __init__(self, config: Path, line: Line, *, connections: int = 1, books: bool = True) -> None:
        site = load_site(config, os.environ)
        metrics.MOST_WAITING = metrics.MOST_TIMED = BATCH  # or only few batches would show what counting takes
        self.loop = Turns()
        self.log = os.open(os.devnull, os.O_WRONLY)
        log = AccessLog(functools.partial(os.write, self.log), site.log)
        self.runtime = runtime = Runtime(
            self.loop, Metrics(site.metric_names), log.add, open_tokenizers((), background=False), load_lexicon()
        )
        runtime.adopt(site)
        self.books = tempfile.TemporaryDirectory(prefix="pointsman-books-")
        if books:
            runtime.keep(open_ledger(LedgerSettings(Path(self.books.name))))  # whose thread does not run
        name = "sim-json"
        index = next(target.index for target in site.fleet.targets if target.name == name)
        pool = runtime.serving.routes[index].pools[0]
        self.upstreams = [pool._connection() for _ in range(connections)]
        for upstream in self.upstreams:
            upstream.connection_made(Nowhere())
            pool._live.add(upstream)
            pool._idle.append(upstream)
        self.clients = [ClientConnection(runtime, _uvicorn(_no_app), ServerState(), {}) for _ in range(connections)]
        self.transport = Nowhere()
        for client in self.clients:
            client.connection_made(self.transport)
        self.answer = simulated_answer()
        requests = requests_of(line, config.parent)
        self.check(next(requests))
        self.requests = requests

    def check(self, request: bytes) -> None:
        """One request, whose answer must be the right one."""
        self.run([request])
        if not (self.transport.last.startswith(b"HTTP/1.1 200 ") and self.transport.writes == 1):
            raise SystemExit(f"the gateway did not answer as it should: {self.transport.last[:2000]!r}")

    def run(self, requests: list[bytes]) -> None:
        """Serve these to their end, in each turn of the loop one from every connection."""
        clients, turn, answer = [one.data_received for one in self.clients], self.loop.turn, self.answer
        upstreams = [one.data_received for one in reversed(self.upstreams)]  # the last one that was idle goes first
        count = len(clients)
        for at in range(0, len(requests), count):
            here = requests[at : at + count]
            for client, request in zip(clients, here, strict=False):
                client(request)
            turn()
            for upstream, _ in zip(upstreams, here, strict=False):
                upstream(answer)
            turn()

    def batch(self) -> list[bytes]:
        """The next requests; the clocks move on in between, as they do ten times a second."""
        self.runtime.wheel.advance(time.monotonic())
        return [next(self.requests) for _ in range(BATCH)]

    def close(self) -> None:
        """Let go of the log and the ledger."""
        self.runtime.close()
        if self.runtime.ledger is not None:
            self.runtime.ledger.close()
        self.books.cleanup()
        os.close(self.log)


async def _no_app(scope: object, receive: object, send: object) -> None:
    """What uvicorn would hand requests to that are not hot."""


@dataclass(slots=True)
class Place:
    """A function that can be replaced: where its name is bound, and by what."""

    holder: Any
    name: str
    original: Any  # as it stands there: a function, or a staticmethod or classmethod around one
    timed: Any


@dataclass(slots=True)
class Noted:
    """One batch: nanoseconds of each part, calls of its functions, and calls of timed functions that they made."""

    spent: list[int]
    calls: list[int]
    made: list[int]

    def without(self, inside: float, outside: float) -> list[float]:
        """The nanoseconds of each part less what noting added to each call, and to whoever made it."""
        counted = zip(self.spent, self.calls, self.made, strict=True)
        return [spent - calls * inside - made * outside for spent, calls, made in counted]


class Stopwatch:
    """Times functions from outside, each without what it spends in another timed one."""

    def __init__(self) -> None:
        self.titles = [title for title, _ in PARTS] + [ELSEWHERE]
        count = len(self.titles)
        self.spent = [0] * count
        self.calls = [0] * count  # of functions of this part
        self.made = [0] * count  # calls of timed functions that this part made
        self._stack = [count - 1]
        self._last = [0]
        self.missing: list[str] = []
        self.places = list(self._find())
        self.share = self._share_inside()  # of what noting costs: this much in the function, the rest in its caller

    def _wrap(self, function: Callable[..., Any], part: int) -> Callable[..., Any]:
        spent, calls, made, stack, last, clock = (
            self.spent, self.calls, self.made, self._stack, self._last, time.perf_counter_ns,
        )  # fmt: skip

        def timed(*args: Any, **kwargs: Any) -> Any:
            caller = stack[-1]
            stack.append(part)
            made[caller] += 1
            calls[part] += 1
            now = clock()
            spent[caller] += now - last[0]
            last[0] = now
            try:
                return function(*args, **kwargs)
            finally:
                now = clock()
                spent[part] += now - last[0]
                last[0] = now
                stack.pop()

        return functools.wraps(function)(timed)

    def _find(self) -> Iterator[Place]:
        for part, (_, names) in enumerate(PARTS):
            for name in names:
                module_name, _, path = name.partition(":")
                found = False
                try:
                    holder: Any = importlib.import_module(f"gateway.{module_name}")
                    *outer, last = path.split(".")
                    for step in outer:
                        holder = getattr(holder, step)
                    original = vars(holder)[last]
                except (ImportError, AttributeError, KeyError):
                    self.missing.append(name)
                    continue
                function = original if isinstance(original, FunctionType) else getattr(original, "__func__", None)
                if function is None:
                    self.missing.append(name)
                    continue
                timed: Any = self._wrap(function, part)
                if function is not original:
                    timed = type(original)(timed)
                holders = [holder] if outer else _importers(original)
                for one in holders:
                    for bound, value in list(vars(one).items()):
                        if value is original:
                            found = True
                            yield Place(one, bound, original, timed)
                if not found:
                    self.missing.append(name)

    def time_plans(self, runtime: Runtime) -> None:
        """Replace what the targets' plans hold."""
        part = self.titles.index(CHECK)
        for route in runtime.serving.routes:
            route.plan = dataclasses.replace(route.plan, parse=self._wrap(route.plan.parse, part))

    def install(self) -> None:
        """Replace every function."""
        for place in self.places:
            setattr(place.holder, place.name, place.timed)

    def remove(self) -> None:
        """Put every function back."""
        for place in self.places:
            setattr(place.holder, place.name, place.original)

    def measure(self, work: Callable[[], object]) -> Noted:
        """What each part takes while `work` runs, with what noting costs."""
        for counts in (self.spent, self.calls, self.made):
            counts[:] = [0] * len(counts)
        self._last[0] = time.perf_counter_ns()
        work()
        self.spent[-1] += time.perf_counter_ns() - self._last[0]
        return Noted(list(self.spent), list(self.calls), list(self.made))

    def _share_inside(self, count: int = 1_000, tries: int = 200) -> float:
        """Found with a function that does nothing, in a loop that does nothing else."""

        def nothing(first: object, second: object) -> None:
            pass

        def calling(function: Callable[[object, object], None]) -> None:
            for _ in range(count):
                function(1, 2)

        def looping() -> None:
            for _ in range(count):
                pass

        def took(work: Callable[[], None]) -> int:
            begun = time.perf_counter_ns()
            work()
            return time.perf_counter_ns() - begun

        bare = min(took(looping) for _ in range(tries))
        plain = min(took(functools.partial(calling, nothing)) for _ in range(tries)) - bare
        work = functools.partial(calling, self._wrap(nothing, 0))
        seen = [self.measure(work).spent for _ in range(tries)]
        inside = min(one[0] for one in seen) - plain
        outside = min(one[-1] for one in seen) - bare
        return min(1.0, max(0.0, inside / (inside + outside)))


def _importers(function: object) -> list[Any]:
    """The modules of the gateway in which a function has a name."""
    return [
        module
        for name, module in list(sys.modules.items())
        if name.startswith("gateway") and any(value is function for value in vars(module).values())
    ]


def take_apart(line: Line, config: Path, watch: Stopwatch, batches: int) -> dict[str, float]:
    """Microseconds per request of every part of a line, over its quickest batches."""
    plain = Rig(config, line, connections=BATCH)
    watch.install()
    timed = Rig(config, line, connections=BATCH)
    watch.time_plans(timed.runtime)
    watch.remove()
    noted: list[Noted] = []
    whole: list[int] = []
    for _ in range(PHASES):
        plain.run(plain.batch() * 10)  # what was specialised for the timed functions is not any more
        for _ in range(batches // PHASES):
            requests = plain.batch()
            begun = time.perf_counter_ns()
            plain.run(requests)
            whole.append(time.perf_counter_ns() - begun)
        watch.install()
        try:
            timed.run(timed.batch() * 10)
            for _ in range(batches // PHASES):
                requests = timed.batch()
                noted.append(watch.measure(functools.partial(timed.run, requests)))
        finally:
            watch.remove()
    plain.close()
    timed.close()
    quiet = sorted(noted, key=lambda one: sum(one.spent))[: len(noted) // QUIET]
    plain_ns = statistics.mean(sorted(whole)[: len(whole) // QUIET])
    calls = statistics.mean(sum(one.calls) for one in quiet)
    each = (statistics.mean(sum(one.spent) for one in quiet) - plain_ns) / calls
    corrected = [one.without(each * watch.share, each * (1 - watch.share)) for one in quiet]
    per_request = [statistics.mean(column) / BATCH / 1000 for column in zip(*corrected, strict=True)]
    result = {title: us for title, us in zip(watch.titles, per_request, strict=True) if abs(us) >= 0.005}
    result[WHOLE] = plain_ns / BATCH / 1000
    result[MEDIAN] = statistics.median(whole) / BATCH / 1000
    return result


def table(found: dict[str, dict[str, float]]) -> str:
    """Markdown: a row per part, a column per line."""
    rows = [f"| µs per request | {' | '.join(found)} |", "|---|" + "---|" * len(found)]
    for title in _titles(found):
        cells = [f"{column[title]:.2f}" if title in column else "" for column in found.values()]
        rows.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(rows)


def comparison(before: dict[str, dict[str, float]], now: dict[str, dict[str, float]]) -> str:
    """Markdown: a row per part; before, now and the difference for every line that both have."""
    lines = [name for name in now if name in before]
    rows = [
        "| µs per request | " + " | ".join(f"{name} before | now | difference" for name in lines) + " |",
        "|---|" + "---|---|---|" * len(lines),
    ]
    for title in _titles({**{f"before {name}": before[name] for name in lines}, **{name: now[name] for name in lines}}):
        cells = []
        for name in lines:
            old, new = before[name].get(title, 0.0), now[name].get(title, 0.0)
            cells.append(f"{old:.2f} | {new:.2f} | {new - old:+.2f}" if old or new else " |  | ")
        rows.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _titles(found: dict[str, dict[str, float]]) -> list[str]:
    known = [title for title, _ in PARTS] + [ELSEWHERE, WHOLE, MEDIAN]
    seen = {title for column in found.values() for title in column}
    return [title for title in known if title in seen] + sorted(seen - set(known))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", nargs="*", metavar="line", help=f"which lines: {', '.join(SHOWN)} (default: all)")
    parser.add_argument("--batches", type=int, default=2_000, help=f"batches of {BATCH} requests, timed and not timed")
    parser.add_argument("--cpu", type=int, help="stay on this CPU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="numbers of an earlier run to compare with")
    args = parser.parse_args()
    unknown = set(args.lines) - set(SHOWN)
    if unknown:
        parser.error(f"no such line: {', '.join(sorted(unknown))}; there are {', '.join(SHOWN)}")
    return args


def measure(names: tuple[str, ...] | list[str], batches: int) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Every line's parts, and the functions that were named here and are not there any more."""
    watch = Stopwatch()
    with tempfile.TemporaryDirectory(prefix="pointsman-parts-") as where:
        config = write_config(Path(where), public=8080, admin=8081, sim_port=9, tls_port=None, ca=None)
        write_inputs(Path(where))
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)  # as `app` sets it
        lines = [line for line in LINES if line.name in names]
        return {line.name: take_apart(line, config, watch, batches) for line in lines}, watch.missing


def main() -> int:
    """Measure and print."""
    args = arguments()
    if args.cpu is not None:
        os.sched_setaffinity(0, {args.cpu})
    found, missing = measure(args.lines or SHOWN, args.batches)
    print(comparison(json.loads(args.compare.read_text()), found) if args.compare else table(found))
    print(f"\nThe quickest fifth of {args.batches} batches of {BATCH} requests; {interpreter(sys.executable)}.")
    if missing:
        print(f"Not there, so counted with their callers: {', '.join(missing)}.")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
