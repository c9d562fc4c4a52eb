"""Measures what the gateway costs beside a plain nginx, on this machine, and prints the table of README.md.

    python tests/bench/run.py                    all lines, 9 rounds of 3 seconds a side: about seven minutes
    python tests/bench/run.py --quick            3 rounds: a first look
    python tests/bench/run.py pinned paced       only these lines
    python tests/bench/run.py --rivals --wheels DIR    haproxy, Envoy and sglang-router in the same rounds
    python tests/bench/run.py --serve-only       start the parts, print how to load them, wait for Ctrl-C

Both servers run on one CPU, one loaded at a time, everything else on another. What is compared is CPU time of the
whole process tree per request or per stream event, pair by pair in interleaved rounds, so that what else the machine
does disturbs both sides alike.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rivals
from benchlines import (
    FLOODED_PATH,
    JSON_BYTES,
    JSON_PATH,
    LINES,
    PACED_PATH,
    Line,
    nginx_http,
    terminator_http,
    write_config,
    write_inputs,
)
from benchparts import KEY, Bench, BenchError, cpu_busy_ns, cpu_ns, free_port, interpreter


@dataclass(slots=True)
class Side:
    """A server being compared."""

    name: str
    port: int
    pid: int


@dataclass(slots=True)
class Measured:
    """What one line gave, one entry per round: CPU microseconds per request or event of each side, and latencies."""

    line: Line
    base_us: list[float] = field(default_factory=list)
    gateway_us: list[float] = field(default_factory=list)
    p50_us: dict[str, list[float]] = field(default_factory=dict)  # by side, and by side and "awake", of a fixed rate
    load: list[float] = field(default_factory=list)  # share of the server CPU that the gateway used
    others: list[float] = field(default_factory=list)  # share of the server CPU that neither side used
    rivals_us: dict[str, list[float]] = field(default_factory=dict)  # as `base_us`, by name

    def values(self) -> list[float]:
        """The result of each round: a ratio, or a difference in microseconds."""
        pairs = zip(self.gateway_us, self.base_us, strict=True)
        return [mine - base if self.line.against == "pinned" else mine / base for mine, base in pairs]


class Run:
    """The rounds of one invocation."""

    def __init__(self, bench: Bench, gateway: Side, nginx: Side, sim_port: int, seconds: float) -> None:
        self.bench, self.gateway, self.nginx, self.sim_port, self.seconds = bench, gateway, nginx, sim_port, seconds
        self.rivals: dict[str, rivals.Rival] = {}

    def options(self, line: Line, side: str, **changes: str) -> list[str]:
        """What the load client is told; `side` is gateway, base (its yardstick), direct, or a rival's name."""
        model = line.model if side == "gateway" else "sim-json" if line.against == "pinned" else line.model
        as_gateway = side == "gateway" or (side == "base" and line.against == "pinned")
        prefix = "/v1" if as_gateway else line.nginx_path
        port = self.gateway.port if as_gateway else self.nginx.port
        if side == "direct":
            prefix, port = JSON_PATH, self.sim_port
        if side in self.rivals:
            prefix, port = self.rivals[side].path or line.nginx_path, self.rivals[side].port
        elif self.gateway.name == "nginx again":
            prefix = line.nginx_path or JSON_PATH
        told = {
            "port": str(port),
            "path": f"{prefix}/chat/completions",
            "bodies": str(self.bench.dir / f"{line.bodies}-{model}.bodies"),
            "head": str(self.bench.dir / f"{line.head}.head"),
            "connections": str(line.connections),
            "seconds": str(self.seconds),
        }
        told["events" if line.events else "bytes"] = str(line.events or JSON_BYTES)
        if line.rate:
            told["rate"] = str(line.rate)
        return [part for name, value in (told | changes).items() for part in (f"--{name}", value)]

    def check(self, line: Line) -> None:
        """A few requests to either side, so that a wrong set-up is a message and not a strange number."""
        for side in ("base", "gateway", *self.beside(line)):
            result = self.bench.load(self.options(line, side, connections="2", requests="4", rate="0"))
            self.judge(line, side, result)

    def beside(self, line: Line) -> list[str]:
        """Who else takes part in a line."""
        return list(self.rivals) if line.name in rivals.LINES else []

    def judge(self, line: Line, side: str, result: dict[str, Any]) -> None:
        """BenchError unless every answer was right."""
        if result["errors"] or not result["requests"]:
            log = "" if side in self.rivals else self.bench.log_end("gateway" if side == "gateway" else "nginx")
            raise BenchError(
                f"line {line.name}, {side}: {result['errors']} wrong answers of {result['requests']}, the first: "
                f"{result['first_error']}\n{log}"
            )

    def window(self, line: Line, side: str) -> tuple[float, float, float]:
        """(CPU us per request or event, CPU share, share of others) of one side over one window."""
        which: Side | rivals.Rival = self.nginx
        if side in self.rivals:
            which = self.rivals[side]
        elif side == "gateway" or line.against == "pinned":
            which = self.gateway
        cpu = self.bench.server_cpu
        busy, used, begun = cpu_busy_ns(cpu), cpu_ns(which.pid), time.monotonic_ns()
        result = self.bench.load(self.options(line, side))
        used, busy, took = cpu_ns(which.pid) - used, cpu_busy_ns(cpu) - busy, time.monotonic_ns() - begun
        self.judge(line, side, result)
        count = result["events"] if line.per_event else result["requests"]
        return used / count / 1000, used / took, max(0.0, (busy - used) / took)

    def round(self, measured: Measured, number: int) -> None:
        """One window of either side, the first one alternating."""
        line = measured.line
        for side in ("base", "gateway") if number % 2 == 0 else ("gateway", "base"):
            cost_us, load, others = self.window(line, side)
            mine = side == "gateway"
            (measured.gateway_us if mine else measured.base_us).append(cost_us)
            measured.others.append(others)
            if mine:
                measured.load.append(load)
        for name in self.beside(line):
            measured.rivals_us.setdefault(name, []).append(self.window(line, name)[0])
        if line.rate:
            self.latencies(measured, "")
            with self.bench.awake():
                self.latencies(measured, " awake")

    def latencies(self, measured: Measured, how: str) -> None:
        """The median latency of either side, and of the simulator without any between: a thousand requests of each."""
        for side in ("gateway", "base", "direct"):
            result = self.bench.load(self.options(measured.line, side, seconds="1"))
            self.judge(measured.line, side, result)
            measured.p50_us.setdefault(side + how, []).append(result["latency_us"]["p50"])


def table(results: list[Measured]) -> str:
    """The Markdown table, and a line on added latency where a fixed rate was measured."""
    rows = [
        "| line | compared with, µs | gateway, µs | result, median (range) | goal | floor | |",
        "|---|---|---|---|---|---|---|",
    ]
    notes = []
    for measured in results:
        line, values = measured.line, measured.values()
        middle = statistics.median(values)
        word = "goal met" if middle <= line.goal else "floor met" if middle <= line.floor else "**missed**"
        unit = "" if line.against == "nginx" else " µs"
        base, mine = statistics.median(measured.base_us), statistics.median(measured.gateway_us)
        rows.append(
            f"| {line.title} | {base:.2f} | {mine:.2f} "
            f"| {middle:.2f}{unit} ({min(values):.2f} to {max(values):.2f}) "
            f"| {line.goal:g}{unit} | {line.floor:g}{unit} | {word} |"
        )
        for how, when in (("", ""), (" awake", ", while no CPU may sleep")) if measured.p50_us else ():
            mine, base, direct = (
                statistics.median(measured.p50_us[side + how]) for side in ("gateway", "base", "direct")
            )
            notes.append(
                f"Latency added at {line.rate:,} requests/s{when}, p50: gateway {mine - direct:.0f} µs, "
                f"nginx {base - direct:.0f} µs (without either {direct:.0f} µs)."
            )
    return "\n".join([*rows, "", *notes])


def beside(results: list[Measured]) -> str:
    """The Markdown table of everybody's multiples of nginx, round by round."""
    shown = [measured for measured in results if measured.rivals_us]
    names = list(dict.fromkeys(name for measured in shown for name in measured.rivals_us))

    def cell(mine: list[float], base: list[float]) -> str:
        ratios = [us / nginx for us, nginx in zip(mine, base, strict=True)]
        return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"

    rows = [
        f"| times nginx, median (range) | {' | '.join(measured.line.title for measured in shown)} |",
        "|---|" + "---|" * len(shown),
        f"| **gateway** | {' | '.join(cell(measured.gateway_us, measured.base_us) for measured in shown)} |",
    ]
    for name in names:
        cells = [cell(measured.rivals_us[name], measured.base_us) for measured in shown]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(["", *rows, ""]) if shown else ""


def context(results: list[Measured], args: argparse.Namespace, elapsed_s: float) -> str:
    """What a reader must know to believe the table."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    others = max(max(measured.others) for measured in results)
    lines = [
        f"{args.rounds} rounds of {args.seconds:g} s a side, {elapsed_s / 60:.0f} minutes; "
        f"{cpu}, {os.cpu_count()} CPUs, Linux {platform.release()}.",
        f"Gateway on {interpreter(args.python)}.",
        "CPU of the process tree, per request (per stream event in the SSE lines); ratios pair by pair.",
    ]
    if others > 0.05:
        lines.append(
            f"Other work took up to {others:.0%} of the servers' CPU during a window: the machine was not quiet."
        )
    return "\n".join(lines)


def measure(run: Run, lines: list[Line], rounds: int) -> list[Measured]:
    """All rounds of all lines: a round of every line before the next round of any."""
    results = [Measured(line) for line in lines]
    for line in lines:
        run.check(line)
        for side in ("base", "gateway", *run.beside(line)):
            run.bench.load(run.options(line, side, seconds="1"))  # warm-up
    for number in range(rounds):
        for measured in results:
            run.round(measured, number)
            print(
                f"round {number + 1}/{rounds} {measured.line.name:8} {measured.base_us[-1]:8.2f} us "
                f"{measured.gateway_us[-1]:8.2f} us {measured.values()[-1]:7.2f}  load {measured.load[-1]:.0%}",
                file=sys.stderr,
                flush=True,
            )
    return results


def hints(run: Run) -> str:
    """How to load the parts by hand."""
    body = run.bench.dir / "equal-sim-json.bodies"
    one = run.bench.dir / "one.json"
    one.write_text(body.read_text().splitlines()[0])
    script = run.bench.dir / "post.lua"
    script.write_text(
        f'wrk.method = "POST"\nlocal f = io.open("{one}")\nwrk.body = f:read("*a")\nf:close()\n'
        f'wrk.headers["content-type"] = "application/json"\nwrk.headers["authorization"] = "Bearer {KEY}"\n'
    )
    cpu, url = run.bench.other_cpu, f"http://127.0.0.1:{run.gateway.port}/v1/chat/completions"
    commands = {
        "one request": f"curl -sS {url} -H 'authorization: Bearer {KEY}' -H 'content-type: application/json' -d @{one}",
        "wrk": f"taskset -c {cpu} wrk -t1 -c32 -d10s -s {script} {url}",
    }
    for line in LINES:
        if not line.tls or (run.bench.dir / "tls.crt").exists():
            load = " ".join(run.options(line, "gateway", seconds="10"))
            commands[line.name] = f"taskset -c {cpu} {run.bench.dir}/load {load}"
    return "\n".join(f"{name}:\n  {command}" for name, command in commands.items())


def parts(bench: Bench, lines: list[Line], args: argparse.Namespace) -> Run:
    """Start everything the lines need."""
    write_inputs(bench.dir)
    sim_port = bench.sim(PACED_PATH, FLOODED_PATH)
    tls_port = certificate = None
    if any(line.tls for line in lines):
        certificate, key = bench.certificate()
        tls_port = free_port()
        bench.nginx("terminator", bench.other_cpu, terminator_http(tls_port, sim_port, certificate, key))

    def nginx(name: str) -> Side:
        port = free_port()
        process = bench.nginx(name, bench.server_cpu, nginx_http(port, sim_port, tls_port, certificate))
        bench.wait(process, f"http://127.0.0.1:{port}/readyz", name)
        return Side("nginx", port, process.pid)

    yardstick = nginx("nginx")
    if args.self_check:
        gateway = nginx("gateway")
        gateway.name = "nginx again"
    else:
        public, admin = free_port(), free_port()
        config = write_config(
            bench.dir, public=public, admin=admin, sim_port=sim_port, tls_port=tls_port, ca=certificate
        )
        gateway = Side("gateway", public, bench.gateway(config, public).pid)
    bench.load(["--port", str(sim_port), "--path", f"{JSON_PATH}/chat/completions", "--requests", "100",
                "--bodies", str(bench.dir / "equal-sim-json.bodies"), "--bytes", str(JSON_BYTES)])  # fmt: skip
    return Run(bench, gateway, yardstick, sim_port, args.seconds)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [line.name for line in LINES]
    parser.add_argument("lines", nargs="*", metavar="line", help=f"which lines: {', '.join(names)} (default: all)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one window of one side")
    parser.add_argument("--quick", action="store_true", help="3 rounds of 3 seconds")
    parser.add_argument("--server-cpu", type=int, default=0, help="CPU of the servers being compared")
    parser.add_argument("--other-cpu", type=int, default=1, help="CPU of simulator, load client and TLS terminator")
    parser.add_argument("--python", default=sys.executable, help="interpreter that runs the gateway")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every round's numbers")
    parser.add_argument("--self-check", action="store_true", help="a second nginx instead of the gateway: expect 1.0")
    parser.add_argument("--rivals", action="store_true", help=f"other proxies too, in {', '.join(rivals.LINES)}")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="a virtual environment with Envoy and sglang-router")
    parser.add_argument("--serve-only", action="store_true", help="start the parts and print how to load them")
    args = parser.parse_args()
    unknown = set(args.lines) - set(names)
    if unknown:
        parser.error(f"no such line: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if args.quick:
        args.rounds, args.seconds = 3, 3.0
    return args


def main() -> int:
    """Run what the command line asks for."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end tidily, as on Ctrl-C
    args = arguments()
    lines = [line for line in LINES if not args.lines or line.name in args.lines]
    if args.self_check:
        lines = [line for line in lines if line.against == "nginx"]
    try:
        with (
            tempfile.TemporaryDirectory(prefix="pointsman-bench-") as where,
            Bench(Path(where), server_cpu=args.server_cpu, other_cpu=args.other_cpu, python=args.python) as bench,
        ):
            run = parts(bench, lines, args)
            if args.rivals:
                found, reasons = rivals.started(bench, run.sim_port, args.wheels)
                run.rivals = {rival.name: rival for rival in found}
                print("\n".join(reasons), file=sys.stderr)
            if args.serve_only:
                print(
                    f"{run.gateway.name} is process {run.gateway.pid}, its log {where}/gateway.log\n\n{hints(run)}\n",
                    flush=True,
                )
                wait_for_interrupt()
                return 0
            begun = time.monotonic()
            results = measure(run, lines, args.rounds)
            print(table(results))
            print(beside(results))
            print(context(results, args, time.monotonic() - begun))
            if args.json:
                rounds = {
                    m.line.name: {"base_us": m.base_us, "gateway_us": m.gateway_us, **m.rivals_us} for m in results
                }
                args.json.write_text(json.dumps(rounds, indent=1))
    except (BenchError, subprocess.SubprocessError) as problem:
        print(problem, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def wait_for_interrupt() -> None:
    """Until Ctrl-C."""
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    raise SystemExit(main())
