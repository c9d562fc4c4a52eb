"""Measures what a body of 40 MB costs the gateway: CPU, the time its loop is held, and memory.

    python tests/bench/large.py                  all bodies, 10 rounds
    python tests/bench/large.py english turns    only these
    python tests/bench/large.py --quick          2 rounds
    python tests/bench/large.py --hostile        60 MB made to hold the loop up, of what is accepted

One request at a time, to a target that holds it. The loop's longest pause is measured from inside the process, by a
timer every millisecond: as CPU of the loop's thread between two ticks, which other work on the machine cannot lengthen,
and as time on the clock. CPU of a request depends on who else uses the caches, so it is also told of the quickest fifth
of the rounds; goals are compared with medians. Memory is the peak of the process's resident pages above what it held
between two requests.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import math
import mmap
import random
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchlines import JSON_BYTES, SENTENCES, write_config, write_inputs
from benchparts import HERE, REPOSITORY, Bench, BenchError, cpu_ns, free_port, interpreter

TARGET = "sim-vast"
#: A target that sees, hears and answers by a schema, and holds as much.
SENSES = "sim-senses"
_SENSES_ROW = (
    "  sim-senses: {model: qwen3-omni-30b-a3b, backend: json, window: 100000000, "
    "structured_output: true, thinking: never}"
)
BODY_BYTES = 40_000_000
CPU_MS, HELD_MS, TIMES_BODY = 90.0, 60.0, 1.5  # the goals
HOSTILE_BYTES = 60_000_000
_TICK_S = 0.001
_FOREIGN = (
    "Die Brücke über den Fluss bleibt für mindestens drei Monate gesperrt.",
    "会議は火曜日に行われ、来年度の予算について話し合われた。",
    "Проверка показала трещины в двух опорах.",
    "Merci beaucoup, c'était très agréable 😀.",
)
_PEAKS = struct.Struct("=dd")  # longest CPU and longest time between two ticks, in seconds


def text_of(size: int, chance: random.Random, foreign: tuple[str, ...] = ()) -> str:
    """About `size` bytes of sentences with commas, line ends and quotes among them, no two alike."""
    words = [word for sentence in SENTENCES for word in sentence.split()]
    parts: list[str] = []
    held = 0
    while held < size:
        part = f"{' '.join(chance.choices(words, k=9))}, {' '.join(chance.choices(words, k=5))}. "
        if foreign and chance.random() < 0.3:
            part += chance.choice(foreign) + " "
        if chance.random() < 0.1:
            part += f'\n"{chance.choice(words)}", he said.\n'
        parts.append(part)
        held += len(part.encode())
    return "".join(parts)


def _document(size: int, foreign: tuple[str, ...] = ()) -> list[dict[str, str]]:
    chance = random.Random(3)
    return [
        {"role": "system", "content": "Summarise what follows in three sentences."},
        {"role": "user", "content": text_of(size, chance, foreign)},
    ]


def _turns(size: int, foreign: tuple[str, ...] = (), *, each: int = 4_000) -> list[dict[str, str]]:
    chance = random.Random(5)
    count = size // (each + 50)
    return [{"role": ("user", "assistant")[n % 2], "content": text_of(each, chance, foreign)} for n in range(count)]


def _course(size: int, foreign: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Calls of a tool, and what it answered."""
    chance = random.Random(7)
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Find where it is decided, and why."}]
    for number in range(size // 8_300):
        called = {"name": "read", "arguments": json.dumps({"path": f"/src/part{number}.txt"})}
        call = {"id": f"call_{number}", "type": "function", "function": called}
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": f"call_{number}", "content": text_of(8_000, chance, foreign)})
    return messages


def _parted(size: int, foreign: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    return [
        {"role": one["role"], "content": [{"type": "text", "text": one["content"]}]} for one in _turns(size, foreign)
    ]


def _code(size: int) -> list[dict[str, Any]]:
    """Calls of a tool that reads source files, as they lie on a disk of Windows."""
    chance = random.Random(11)
    words = [word.strip(".,").lower() for sentence in SENTENCES for word in sentence.split()]

    def line() -> str:
        name, other, text = chance.sample(words, 3)
        return f'\t{name} = self.{other}["{text}"] if {name} else r"C:\\{other}\\{text}"\r\n'

    messages: list[dict[str, Any]] = [{"role": "user", "content": "Find where it is decided, and why."}]
    for number in range(size // 7_610):
        called = {"name": "read", "arguments": json.dumps({"path": f"/src/part{number}.py"})}
        call = {"id": f"call_{number}", "type": "function", "function": called}
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        source = "".join(line() for _ in range(110))
        messages.append({"role": "tool", "tool_call_id": f"call_{number}", "content": source})
    return messages


def _pictured(size: int, each: int) -> list[dict[str, Any]]:
    """Pictures as data URLs, so many bytes each, and a question about every one."""
    chance = random.Random(13)
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x04\0\0\0\x03\0"

    def picture() -> dict[str, Any]:
        data = base64.b64encode(head + chance.randbytes(each * 3 // 4)).decode()
        return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}

    return [
        {"role": "user", "content": [{"type": "text", "text": f"What is in picture {number}?"}, picture()]}
        for number in range(size // each)
    ]


def _heard(size: int) -> list[dict[str, Any]]:
    """A recording."""
    chance = random.Random(17)
    data = base64.b64encode(b"RIFF\0\0\0\0WAVEfmt " + chance.randbytes(size * 3 // 4)).decode()
    sound = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    return [{"role": "user", "content": [{"type": "text", "text": "Write down what is said."}, sound]}]


def _schema(classes: int) -> dict[str, Any]:
    """An answer's schema, as generated from a data model of so many classes of 5 KB."""
    chance = random.Random(19)

    def fields(number: int) -> dict[str, Any]:
        return {
            f"field_{number}_{n}": {"type": "string", "description": text_of(200, chance)} for n in range(20)
        }  # fmt: skip

    defs = {
        f"Class{number}": {"type": "object", "properties": fields(number), "additionalProperties": False}
        for number in range(classes)
    }
    schema = {"type": "object", "properties": {"it": {"$ref": "#/$defs/Class0"}}, "$defs": defs}
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def _asked(
    messages: list[dict[str, Any]],
    model: str = TARGET,
    *,
    escaped: bool = False,
    spaced: bool = False,
    indent: int | None = None,
    **members: Any,
) -> bytes:
    asked = {"model": model, "messages": messages, "temperature": 0.7, "max_tokens": 256, **members}
    separators = None if spaced or indent else (",", ":")
    text = json.dumps(asked, separators=separators, ensure_ascii=escaped, indent=indent).encode()
    return text.replace(b"\n", b"\r")  # only indented text has line ends, and `load` takes a body a line


def _beside(member: bytes) -> bytes:
    return b'{"model":"%b","messages":[{"role":"user","content":"hi"}],"z":%b}' % (TARGET.encode(), member)


Body = tuple[str, Callable[[int], bytes]]  # title, and what makes a body of about so many bytes

#: What clients send: prose, to a target by name and to `auto`.
BODIES: dict[str, Body] = {
    "english": ("one document in English", lambda size: _asked(_document(size))),
    "mixed": ("one document in five languages, UTF-8", lambda size: _asked(_document(size, _FOREIGN))),
    "escaped": (
        "the same, every non-ASCII character escaped",
        lambda size: _asked(_document(size * 9 // 10, _FOREIGN), escaped=True),
    ),
    "turns": ("about 10,000 turns in English", lambda size: _asked(_turns(size))),
    "turns-mixed": ("about 10,000 turns in five languages", lambda size: _asked(_turns(size, _FOREIGN))),
    "calls": ("about 10,000 calls of tools and their answers, to `auto`", lambda size: _asked(_course(size), "auto")),
    "parted": ("about 10,000 turns of text parts, to `auto`", lambda size: _asked(_parted(size), "auto")),
    "auto": ("one document in English, to `auto`", lambda size: _asked(_document(size), "auto")),
    "auto-turns": (
        "about 10,000 turns in five languages, to `auto`",
        lambda size: _asked(_turns(size, _FOREIGN), "auto"),
    ),
    "spaced": (
        "about 10,000 turns in five languages as Python's `json.dumps` writes them, to `auto`",
        lambda size: _asked(_turns(size * 9 // 10, _FOREIGN), "auto", escaped=True, spaced=True),
    ),
    "calls-spaced": (
        "calls of tools, written so, to `auto`",
        lambda size: _asked(_course(size * 9 // 10, _FOREIGN), "auto", escaped=True, spaced=True),
    ),
    "parted-spaced": (
        "turns of text parts, written so, to `auto`",
        lambda size: _asked(_parted(size * 9 // 10, _FOREIGN), "auto", escaped=True, spaced=True),
    ),
    "turns-indented": ("about 10,000 turns, indented", lambda size: _asked(_turns(size), indent=2)),
    "calls-indented": ("calls of tools, indented, to `auto`", lambda size: _asked(_course(size), "auto", indent=2)),
    "code": ("calls that read code with CRLF, tabs and quotes, to `auto`", lambda size: _asked(_code(size), "auto")),
    "short-turns": ("about 30,000 short turns, to `auto`", lambda size: _asked(_turns(size, each=1_280), "auto")),
    "images": ("two pictures of 20 MB", lambda size: _asked(_pictured(size, size // 2), SENSES)),
    "many-images": ("400 pictures of 100 KB", lambda size: _asked(_pictured(size, 100_000), SENSES)),
    "audio": ("a recording", lambda size: _asked(_heard(size), SENSES)),
    "schema": (
        "one document in English, and 2 MB of an answer's schema, to `auto`",
        lambda size: _asked(_document(size * 19 // 20), "auto", response_format=_schema(size // 100_000)),
    ),
}
#: What nobody sends, but is accepted: bodies made to hold a server up.
HOSTILE: dict[str, Body] = {
    "quotes": ("a text of nothing but escaped quotes", lambda size: _beside(b'"' + b'\\"' * (size // 2) + b'"')),
    "nested": (
        "seven objects around a text of escapes",
        lambda size: _beside(b'{"a":' * 7 + b'"' + b"\\n" * (size // 2) + b'"' + b"}" * 7),
    ),
    "messages": (
        "24,000 messages, spaces between",
        lambda size: json.dumps(
            {"model": "auto", "messages": [{"role": "user", "content": "x" * (size // 24_000)}] * 24_000}
        ).encode(),
    ),
    "parts": (
        "as many messages of parts as may be, escaped",
        lambda size: json.dumps(
            {
                "model": "auto",
                "messages": [{"role": "user", "content": [{"type": "text", "text": "é" * (size // 78_000)}]}] * 13_000,
            }
        ).encode(),
    ),
    "keys": (
        "45,000 long keys",
        lambda size: _beside(
            b"{" + b",".join(b'"%d%b":1' % (n, b"k" * (size // 45_000)) for n in range(45_000)) + b"}"
        ),
    ),
    "numbers": (
        "90,000 numbers that are slow to read",
        lambda size: _beside(b"[%b]" % b",".join(b"1.%016de-300" % (n * 7**17 % 10**16) for n in range(90_000))),
    ),
    "digits": (
        "long numbers",
        lambda size: _beside(
            b"[%b]" % b",".join(b"%0255d" % (n + 10**254) for n in range(min(size, 15_000_000) // 256))
        ),
    ),
    "names": (
        "1,000 names of escaped backslashes",
        lambda size: _beside(
            b'{"0":{%b}}' % b",".join(b'"%05d%b":1' % (n, rb"\\" * (size // 2_000)) for n in range(1_000))
        ),
    ),
    "sizeless": (
        "450 pictures without a size",
        lambda size: (
            b'{"model":"%b","messages":[{"role":"user","content":[%b]}]}'
            % (
                SENSES.encode(),
                b",".join(
                    [
                        rb'{"type":"image_url","image_url":{"url":"data:image\/jpeg;base64,%b"}}'
                        % (b"/9j/4AAQ" * (size // 3_600))
                    ]
                    * 450
                ),
            )
        ),
    ),
    "tools": (
        "thousands of tools",
        lambda size: (
            b'{"model":"auto","messages":[{"role":"user","content":"hi"}],"tools":[%b]}'
            % b",".join(
                [b'{"type":"function","function":{"name":"f","description":"%b"}}' % (b"d" * (size // 15_000))] * 15_000
            )
        ),
    ),
}


def body_of(kind: str, size: int) -> bytes:
    """A body of about so many bytes."""
    return (BODIES | HOSTILE)[kind][1](size)


@dataclass(slots=True)
class Cost:
    """What requests with one body cost, an entry per request."""

    size: int
    cpu_ms: list[float] = field(default_factory=list)
    held_cpu_ms: list[float] = field(default_factory=list)
    held_ms: list[float] = field(default_factory=list)
    times_body: list[float] = field(default_factory=list)


def ticking(peaks: Path, argv: list[str]) -> int:
    """`pointsman` with a timer in its loop that writes the longest time between two ticks into a file."""
    sys.path.insert(0, str(REPOSITORY))
    from gateway import app, cli

    memory = shared(peaks)
    run = app.Server.run

    async def run_and_tick(server: app.Server) -> int:
        Ticker(memory).start()
        return await run(server)

    app.Server.run = run_and_tick  # type: ignore[method-assign]
    return cli.main(argv)


def shared(peaks: Path) -> mmap.mmap:
    """The memory in which the gateway tells of its pauses."""
    with peaks.open("r+b") as file:
        return mmap.mmap(file.fileno(), 0)


class Ticker:
    """Notes the longest time between two turns of the running loop. A timer's callback: a task would wait one more."""

    def __init__(self, memory: mmap.mmap) -> None:
        self.memory = memory
        self.loop = asyncio.get_running_loop()
        self.cpu = self.now = 0.0

    def start(self) -> None:
        """Tick from now on."""
        self.cpu, self.now = time.thread_time(), time.monotonic()
        self.loop.call_later(_TICK_S, self.tick)

    def tick(self) -> None:
        """Note how long it was, and go on."""
        cpu, took = time.thread_time() - self.cpu, time.monotonic() - self.now - _TICK_S
        most_cpu, most = _PEAKS.unpack_from(self.memory)
        if cpu > most_cpu or took > most:
            _PEAKS.pack_into(self.memory, 0, max(most_cpu, cpu), max(most, took))
        self.start()


def resident(pid: int, name: str) -> int:
    """Bytes of `VmRSS` or `VmHWM` of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise BenchError(f"no {name} in /proc/{pid}/status")


class Large:
    """A gateway with a ticking loop, and requests to it one at a time."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        public, admin = free_port(), free_port()
        sim_port = bench.sim()
        write_inputs(bench.dir)
        config = write_config(bench.dir, public=public, admin=admin, sim_port=sim_port, tls_port=None, ca=None)
        config.write_text(config.read_text().replace("\nkeys:", f"\n{_SENSES_ROW}\nkeys:"))
        peaks = bench.dir / "peaks"
        peaks.write_bytes(bytes(_PEAKS.size))
        self.peaks = shared(peaks)
        command = [bench.python, str(HERE / "large.py"), "--serve", str(peaks), "serve", "--config", str(config)]
        self.port = public
        self.pid = bench.start(command, bench.server_cpu, "gateway", cwd=REPOSITORY).pid
        self.process = bench._running[-1]
        bench.wait(self.process, f"http://127.0.0.1:{public}/readyz", "gateway")
        self.idle = 0  # bytes that it holds between requests, once all it loads when needed is loaded

    def send(self, bodies: Path, requests: int) -> None:
        """So many requests, one after the other, all of which must be answered."""
        result = self.bench.load(
            ["--port", str(self.port), "--bodies", str(bodies), "--head", str(self.bench.dir / "same.head"),
             "--connections", "1", "--requests", str(requests), "--bytes", str(JSON_BYTES)]
        )  # fmt: skip
        if result["errors"] or result["requests"] != requests:
            raise BenchError(f"{bodies.stem}: {result['first_error']}\n{self.bench.log_end('gateway')}")

    def one(self, bodies: Path, cost: Cost) -> None:
        """Send one request and note what it cost."""
        _PEAKS.pack_into(self.peaks, 0, 0.0, 0.0)
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")  # the peak starts anew
        used = cpu_ns(self.pid)
        self.send(bodies, 1)
        cost.cpu_ms.append((cpu_ns(self.pid) - used) / 1e6)
        held_cpu, held = _PEAKS.unpack_from(self.peaks)
        cost.held_cpu_ms.append(held_cpu * 1000)
        cost.held_ms.append(held * 1000)
        cost.times_body.append((resident(self.pid, "VmHWM") - self.idle) / cost.size)


def measure(large: Large, kinds: list[str], rounds: int) -> dict[str, Cost]:
    """All rounds of all bodies: one request of every body before the next of any."""
    bench = large.bench
    costs: dict[str, Cost] = {}
    files: dict[str, Path] = {}
    for kind in kinds:
        body = body_of(kind, BODY_BYTES if kind in BODIES else HOSTILE_BYTES)
        files[kind] = bench.dir / f"{kind}.bodies"
        files[kind].write_bytes(body + b"\n")
        costs[kind] = Cost(len(body))
        large.send(files[kind], 2)
    time.sleep(1)
    large.idle = resident(large.pid, "VmRSS")
    for number in range(rounds):
        for kind, cost in costs.items():
            large.one(files[kind], cost)
            print(
                f"round {number + 1}/{rounds} {kind:12} {cost.cpu_ms[-1]:7.1f} ms CPU  "
                f"held {cost.held_cpu_ms[-1]:6.1f} ms CPU {cost.held_ms[-1]:6.1f} ms  memory {cost.times_body[-1]:.2f}",
                file=sys.stderr,
            )
    return costs


def table(costs: dict[str, Cost]) -> str:
    """Markdown: a row per body."""

    def shown(values: list[float], digits: int) -> str:
        return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"

    def quickest(values: list[float]) -> float:
        return statistics.fmean(sorted(values)[: max(1, len(values) // 5)])

    rows = [
        "| body | MB | CPU, ms, quickest fifth | median | loop held, ms of CPU | by the clock | memory, times body | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, cost in costs.items():
        missed = [
            name
            for name, value, goal in (
                ("CPU", statistics.median(cost.cpu_ms), CPU_MS if kind in BODIES else math.inf),
                ("loop", statistics.median(cost.held_cpu_ms), HELD_MS),
                ("memory", statistics.median(cost.times_body), TIMES_BODY),
            )
            if value > goal
        ]
        rows.append(
            f"| {(BODIES | HOSTILE)[kind][0]} | {cost.size / 1e6:.1f} "
            f"| {quickest(cost.cpu_ms):.0f} | {shown(cost.cpu_ms, 0)} "
            f"| {shown(cost.held_cpu_ms, 1)} | {shown(cost.held_ms, 1)} | {shown(cost.times_body, 2)} "
            f"| {'**missed**: ' + ', '.join(missed) if missed else 'goals met'} |"
        )
    return "\n".join([*rows, "", f"Goals: {CPU_MS:g} ms, {HELD_MS:g} ms, {TIMES_BODY:g} times the body."])


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bodies", nargs="*", metavar="body", help=f"which: {', '.join([*BODIES, *HOSTILE])}")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="2 rounds")
    parser.add_argument("--hostile", action="store_true", help="instead of what clients send what nobody does")
    parser.add_argument("--server-cpu", type=int, default=0)
    parser.add_argument("--other-cpu", type=int, default=1)
    parser.add_argument("--python", default=sys.executable, help="interpreter that runs the gateway")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every round's numbers")
    args = parser.parse_args()
    unknown = set(args.bodies) - set(BODIES | HOSTILE)
    if unknown:
        parser.error(f"no such body: {', '.join(sorted(unknown))}; there are {', '.join([*BODIES, *HOSTILE])}")
    args.bodies = args.bodies or list(HOSTILE if args.hostile else BODIES)
    if args.quick:
        args.rounds = 2
    return args


def main() -> int:
    """Measure and print."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    args = arguments()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="pointsman-large-") as where,
            Bench(Path(where), server_cpu=args.server_cpu, other_cpu=args.other_cpu, python=args.python) as bench,
        ):
            large = Large(bench)
            started = resident(large.pid, "VmRSS")
            costs = measure(large, args.bodies, args.rounds)
            print(table(costs))
            print(
                f"{args.rounds} rounds; gateway on {interpreter(args.python)}. It held {started / 1e6:.0f} MB at the "
                f"start, {large.idle / 1e6:.0f} MB after the first requests, which may load a tokenizer, and "
                f"{resident(large.pid, 'VmRSS') / 1e6:.0f} MB at the end."
            )
            if args.json:
                numbers: dict[str, Any] = {
                    kind: {name: getattr(cost, name) for name in cost.__slots__} for kind, cost in costs.items()
                }
                args.json.write_text(json.dumps(numbers, indent=1) + "\n")
    except (BenchError, subprocess.SubprocessError) as problem:
        print(problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        raise SystemExit(ticking(Path(sys.argv[2]), sys.argv[3:]))
    raise SystemExit(main())
