"""The harness measures what it says: its C parts compile, count right, and notice wrong answers.

Requests go straight to the simulator; nothing is timed here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import benchlines
import large
import rivals
import run
from benchparts import Bench, BenchError, cpu_ns, tool

if shutil.which("gcc") is None:
    pytest.skip("gcc is not installed: the load client is compiled when it is needed", allow_module_level=True)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    cpus = sorted(os.sched_getaffinity(0))
    with Bench(tmp_path_factory.mktemp("bench"), server_cpu=cpus[0], other_cpu=cpus[-1]) as bench:
        benchlines.write_inputs(bench.dir)
        yield bench


@pytest.fixture(scope="module")
def sim(bench: Bench) -> int:
    return bench.sim()


def options(bench: Bench, sim: int, path: str, bodies: str = "equal-sim-json", **more: object) -> list[str]:
    told = {"port": sim, "path": path + "/chat/completions", "bodies": bench.dir / f"{bodies}.bodies",
            "head": bench.dir / "new.head", "connections": 4, "requests": 200} | more  # fmt: skip
    return [str(part) for name, value in told.items() for part in (f"--{name}", value)]


def test_two_hundred_answers_of_known_length_are_right(bench: Bench, sim: int) -> None:
    result = bench.load(options(bench, sim, benchlines.JSON_PATH, bytes=benchlines.JSON_BYTES))
    assert (result["requests"], result["errors"], result["first_error"]) == (200, 0, "")
    assert 0 < result["latency_us"]["p50"] <= result["latency_us"]["max"]


def test_an_answer_of_another_length_is_an_error(bench: Bench, sim: int) -> None:
    result = bench.load(options(bench, sim, benchlines.JSON_PATH, bytes=benchlines.JSON_BYTES + 1))
    assert result["errors"] == 200
    assert "624 bytes" in result["first_error"]


def test_an_answer_that_is_not_200_is_an_error(bench: Bench, sim: int) -> None:
    result = bench.load(options(bench, sim, "/nonsense", requests=4))
    assert result["errors"] >= 4
    assert "status 400" in result["first_error"]


@pytest.mark.parametrize("path", ["/paced/7/200/v1", "/flooded/7/v1"])
def test_every_event_of_a_stream_is_counted(bench: Bench, sim: int, path: str) -> None:
    result = bench.load(options(bench, sim, path, "stream-sim-paced", requests=20, events=10))
    assert (result["requests"], result["errors"], result["events"]) == (20, 0, 200)
    assert bench.load(options(bench, sim, path, "stream-sim-paced", requests=20, events=11))["errors"] == 20


def test_without_a_path_of_its_own_the_model_decides_what_is_answered(bench: Bench, sim: int) -> None:
    assert bench.load(options(bench, sim, "/v1", bytes=benchlines.JSON_BYTES))["errors"] == 0
    events = benchlines.FLOODED_CHUNKS + benchlines.EXTRA_EVENTS
    result = bench.load(options(bench, sim, "/v1", "stream-sim-flooded", requests=4, events=events))
    assert (result["requests"], result["errors"]) == (4, 0)


def test_the_simulator_answers_who_asks_after_its_health(sim: int) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{sim}/health", timeout=5) as answer:
        assert (answer.status, answer.read()) == (200, b"{}")


def test_rivals_that_are_not_installed_are_left_out_with_the_reason(
    bench: Bench, sim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_args, **_options: None)
    running, reasons = rivals.started(bench, sim, None)
    assert running == []
    assert [reason.split(" is left out: ")[0] for reason in reasons] == ["haproxy", "envoy", "sglang"]
    assert "apt-get install haproxy" in reasons[0]


def test_a_round_with_rivals_shows_everybody_as_multiples_of_nginx() -> None:
    measured = run.Measured(
        benchlines.LINES[0], [10.0, 20.0, 10.0], [20.0, 30.0, 30.0], rivals_us={"it": [5.0, 40.0, 10.0]}
    )
    shown = run.beside([measured, run.Measured(benchlines.LINES[1])])
    assert "| **gateway** | 2.00 (1.50 to 3.00) |" in shown
    assert "| it | 1.00 (0.50 to 2.00) |" in shown
    assert benchlines.LINES[1].title not in shown


def test_a_large_body_is_as_large_as_it_says_and_does_not_repeat_itself() -> None:
    for kind in large.BODIES:
        body = large.body_of(kind, 1_000_000)
        asked = json.loads(body)
        assert 900_000 < len(body) < 1_150_000
        assert asked["model"] in (large.TARGET, large.SENSES, "auto")
        assert body.isascii() is (kind not in ("mixed", "turns-mixed", "auto-turns"))
        text = json.dumps(asked["messages"], ensure_ascii=False)
        pieces = {text[at : at + 60] for at in range(0, len(text), 1_000)}
        assert len(pieces) > 0.95 * len(range(0, len(text), 1_000))


def test_the_table_of_large_bodies_says_what_was_missed() -> None:
    cost = large.Cost(40_000_000, [80.0, 100.0, 95.0], [10.0, 20.0, 70.0], [11.0] * 3, [1.2] * 3)
    row = next(line for line in large.table({"english": cost}).splitlines() if "English" in line)
    assert "| 80 | 95 (80 to 100) |" in row
    assert row.endswith("| **missed**: CPU |")


def test_at_a_fixed_rate_requests_are_due_at_fixed_times(bench: Bench, sim: int) -> None:
    result = bench.load(options(bench, sim, benchlines.JSON_PATH, rate=400, seconds=0.25, requests=10_000))
    assert result["errors"] == 0
    assert 95 <= result["requests"] <= 101


def test_every_head_is_new_where_the_line_says_so(bench: Bench) -> None:
    """The marks are replaced: read what really arrives at a socket."""
    import socket  # only this test looks at raw bytes

    with socket.create_server(("127.0.0.1", 0)) as listener:
        program = bench.dir / "load"
        assert program.exists()
        path = ["--port", str(listener.getsockname()[1]), "--bodies", str(bench.dir / "varied-sim-json.bodies")]
        client = subprocess.Popen(
            [str(program), *path, "--head", str(bench.dir / "new.head"), "--connections", "1", "--requests", "2"],
            stdout=subprocess.DEVNULL,
        )
        try:
            connection, _ = listener.accept()
            with connection:
                heads = []
                for _ in range(2):
                    data = b""
                    while b"\r\n\r\n" not in data:
                        data += connection.recv(65536)
                    head, _, body = data.partition(b"\r\n\r\n")
                    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                    while len(body) < length:
                        body += connection.recv(65536)
                    heads.append(head)
                    assert b"@" not in data
                    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                ids = {line for head in heads for line in head.split(b"\r\n") if line.startswith(b"x-request-id")}
                assert len(ids) == 2
            assert client.wait(10) == 0
        finally:
            client.kill()
            client.wait()


def test_the_cpu_of_a_process_tree_includes_its_children(bench: Bench) -> None:
    spin = "import time; end = time.process_time() + 0.2\nwhile time.process_time() < end: pass\n"
    script = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {spin!r} + 'time.sleep(60)'])\n"
    process = subprocess.Popen([sys.executable, "-c", script + "time.sleep(60)"], start_new_session=True)
    try:
        give_up = time.monotonic() + 20
        while cpu_ns(process.pid) < 200_000_000 and time.monotonic() < give_up:
            time.sleep(0.05)
        assert cpu_ns(process.pid) >= 200_000_000
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def test_a_missing_tool_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_args, **_options: None)
    with pytest.raises(BenchError, match="apt-get install nginx-light"):
        tool("nginx")
