"""`pointsman demo` as a newcomer meets it: a process of its own, a real model, four routes, and a clean end."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.demo import command as demo
from gateway.demo import model as demo_model

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "gateway.cli", "demo", "--port", "0", "--admin-port", "0"]

needs_model = pytest.mark.skipif(
    bool(demo_model.missing()), reason=f"needs {' and '.join(demo_model.missing())}: {demo_model.INSTALL}"
)


def start(*more: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *more],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]
    )


def test_it_names_itself_by_what_works_in_another_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [".venv/bin/pointsman", "demo"])
    assert demo.program() == str(Path.cwd() / ".venv" / "bin" / "pointsman")
    monkeypatch.setattr(sys, "argv", ["/a/gateway/cli.py", "demo"])
    assert demo.program() == f"{sys.executable} -m gateway.cli"


def descendants(pid: int) -> set[int]:
    """Every process below one, from /proc; the demo's children are in sessions of their own."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents[int(entry.parent.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if Path(f"/proc/{pid}").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text()}


def wait_gone(pids: set[int], within_s: float) -> set[int]:
    deadline = time.monotonic() + within_s
    while (left := alive(pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """What it printed up to and including the line with these words."""
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if words in line:
            return printed
    raise AssertionError(f"{words!r} was not printed:\n{printed}")


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A demo that has just sent its first request, so that everything it needs is running."""
    process = start(env={**os.environ, "TMPDIR": str(tmp_path)})
    read_until(process, "1. A long document")
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=10)


@needs_model
def test_four_requests_take_four_rules_and_are_answered_by_the_model(tmp_path: Path) -> None:
    process = start("--once", env={**os.environ, "TMPDIR": str(tmp_path)})
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, out + err
    decided = re.findall(r"rule (\S+) -> (\S+) \(target \S+, stand-in\) · thinking (\S+)", out)
    rules = [rule for rule, _, _ in decided]
    models = [model for _, model, _ in decided]
    assert len(set(rules)) == 4, rules
    assert rules[0] == "long-context"
    assert models[0] == "llama-4-scout"
    assert models[1] == "qwen3-coder-next"
    assert models[2].startswith("qwen3.5-")
    assert [thinking == "never" for _, _, thinking in decided] == [True, True, True, False]
    assert out.count("answers: ") >= 3
    assert "thinks: " in out
    assert "   answers: ```python" in out
    assert len(re.findall(r"because \S.* · policy demo@[0-9a-f]+", out)) == 4
    costs = re.findall(r"· (0\.\d{7}) USD", out)
    assert len(costs) == 4
    assert all(float(cost) > 0 for cost in costs)
    assert "stands in for every model" in out
    assert list(tmp_path.glob("pointsman-demo-*")) == []


@needs_model
def test_it_stays_up_serves_what_it_printed_and_ends_on_sigterm_within_two_seconds(
    begun: subprocess.Popen[str], tmp_path: Path
) -> None:
    process = begun
    printed = read_until(process, "Admin:")
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    command = re.search(r"^  (curl -iN .*?\\\n.*?)$", printed, re.M | re.S)
    assert command is not None
    curl = subprocess.run(["bash", "-c", command[1]], capture_output=True, text=True, timeout=60, check=False)
    assert curl.stdout.startswith("HTTP/1.1 200"), curl.stdout + curl.stderr
    assert "x-pointsman-rule: " in curl.stdout
    assert curl.stdout.rstrip().endswith("data: [DONE]")
    metrics = re.search(r"http://\S+/metrics", printed)
    assert metrics is not None
    scraped = subprocess.run(["curl", "-sf", metrics[0]], capture_output=True, text=True, timeout=10, check=True).stdout
    assert "pointsman_requests_total" in scraped
    below = descendants(process.pid)
    assert len(below) >= 2
    began = time.monotonic()
    process.terminate()
    process.wait(5)
    assert time.monotonic() - began < 4
    assert alive(below) == set()
    assert list(tmp_path.glob("pointsman-demo-*")) == []


@needs_model
def test_children_do_not_outlive_a_demo_that_was_killed(begun: subprocess.Popen[str]) -> None:
    process = begun
    below = descendants(process.pid)
    assert below
    process.kill()
    process.wait(5)
    assert wait_gone(below, 5) == set()


@needs_model
def test_a_model_server_that_dies_is_reported_and_all_else_ends(begun: subprocess.Popen[str]) -> None:
    process = begun
    below = descendants(process.pid)
    model = next(pid for pid in below if b"gateway.demo.model" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(model, signal.SIGKILL)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 1
    assert "The model server ended (signal SIGKILL)" in err
    assert alive(below) == set()


@needs_model
def test_ctrl_c_while_the_model_loads_leaves_nothing_behind(tmp_path: Path) -> None:
    process = start(env={**os.environ, "TMPDIR": str(tmp_path)})
    read_until(process, "The routing is real")
    time.sleep(0.3)
    below = descendants(process.pid)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    process.communicate(timeout=10)
    assert time.monotonic() - began < 4
    assert process.returncode == 0
    assert alive(below) == set()
    assert list(tmp_path.glob("pointsman-demo-*")) == []


@needs_model
def test_a_port_in_use_is_named_with_the_option_that_helps() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        run = subprocess.run(
            [sys.executable, "-m", "gateway.cli", "demo", "--port", str(port), "--once"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert run.returncode == 1
    assert f"Port {port} cannot be used (Address already in use)" in run.stderr
    assert "pointsman demo --port " in run.stderr
    assert "Traceback" not in run.stderr


@needs_model
def test_a_disk_that_takes_no_byte_gives_one_clear_line(tmp_path: Path) -> None:
    process = start(
        "--once",
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
    )
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.startswith("pointsman demo: "), err
    assert "Traceback" not in err


def test_a_missing_extra_is_named_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "missing", lambda: ["xllamacpp"])
    assert demo.run(0, 0, once=True) == 1
    assert "needs xllamacpp: pip install --no-deps -r requirements/demo.txt" in capsys.readouterr().err


def test_weights_that_are_not_the_expected_ones_are_refused(tmp_path: Path) -> None:
    damaged = tmp_path / demo_model.WEIGHTS
    damaged.write_bytes(b"GGUF")
    with pytest.raises(ValueError, match="is damaged or another file"):
        demo_model.verify(damaged)


@needs_model
def test_a_model_server_whose_input_ends_says_so_and_ends() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "gateway.demo.model"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert run.returncode == 0
    assert "its standard input has ended" in run.stderr


def test_events_split_at_line_feeds_only_and_in_any_cut() -> None:
    stream = 'data: {"a":"x\u2028y"}\n\n: comment\n\ndata: {"b":2}\r\n\r\ndata: [DONE]\n\n'.encode()
    for size in (1, 2, 7, len(stream)):
        pieces = iter([stream[at : at + size] for at in range(0, len(stream), size)])
        assert list(demo.events(pieces)) == [{"a": "x\u2028y"}, {"b": 2}]
