"""`pointsman top` in front of real gateways: on a terminal, without one, as JSON, and when nobody answers."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import main
from gateway.top import watch
from tests.harness import ROOT, Gateway, Received, Upstream, chat, config, plain, running, slam, stream

TOP = (sys.executable, "-m", "gateway.cli", "top")


@contextlib.contextmanager
def traffic(gateway: Gateway) -> Iterator[None]:
    """One request after the other, until the end."""
    ended = threading.Event()

    def send() -> None:
        while not ended.is_set():
            gateway.post(chat(stream=True))

    sending = threading.Thread(target=send)
    sending.start()
    try:
        yield
    finally:
        ended.set()
        sending.join()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway under traffic, with a target that works and one that is broken."""
    broken, works = Upstream([slam]), Upstream([stream(pause_s=0.005)])
    settings = config({"broken": broken, "works": works})
    with running(tmp_path_factory.mktemp("top"), settings) as made, traffic(made):
        yield made
    broken.close()
    works.close()


@dataclass
class Told:
    """What a command printed, and its exit code."""

    returncode: int
    stdout: str
    stderr: str


Top = Callable[..., Told]


@pytest.fixture
def top(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Top:
    """Runs `pointsman top` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, **environ: str) -> Told:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            for name, value in environ.items():
                patch.setenv(name, value)
            code = main(["top", *arguments])
        return Told(code, *capsys.readouterr())

    return run


def test_one_table_is_printed_without_a_terminal(gateway: Gateway, top: Top) -> None:
    told = top("--url", gateway.admin, "--once", "--interval", "0.5")
    assert (told.returncode, told.stderr) == (0, "")
    assert "\x1b" not in told.stdout
    [works] = [line for line in told.stdout.splitlines() if line.startswith("works ")]
    assert " healthy " in works
    assert not re.search(r"^0 requests/s", told.stdout, re.M)
    assert re.search(r"^broken +(ejected|healthy|half_open|probing)", told.stdout, re.M)
    assert re.search(r"^default +default +\S+ +100% +\$0\.\d*[1-9]", told.stdout, re.M), "the rule's cost, too"


def test_each_refresh_is_an_object_on_a_line_of_its_own(gateway: Gateway) -> None:
    process = subprocess.Popen(
        [*TOP, "--url", gateway.admin, "--json", "--interval", "0.2"], stdout=subprocess.PIPE, cwd=ROOT, text=True
    )
    assert process.stdout is not None
    first, second = (json.loads(process.stdout.readline()) for _ in range(2))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 130
    assert first["ok"] is second["ok"] is True
    assert first["at"] < second["at"]
    assert second["gateways"][0]["window_s"] > first["gateways"][0]["window_s"] > 0
    works = next(row for row in second["targets"] if row["target"] == "works")
    assert works["requests_per_s"] > 0
    assert works["input_tokens_per_s"] > 0
    assert works["cost_usd_per_min"] > 0
    assert 0 < works["first_event_p50_s"] <= works["first_event_p95_s"]
    assert 0 < second["totals"]["overhead_p50_s"] <= second["totals"]["overhead_p99_s"]


def test_the_same_gateway_twice_is_one_and_two_are_summed(gateway: Gateway, top: Top, tmp_path: Path) -> None:
    upstream = Upstream([stream()])
    with running(tmp_path, config({"works": upstream})) as other:
        told = json.loads(
            top(
                "--json",
                "--once",
                "--interval",
                "0.3",
                *(part for url in (gateway.admin, gateway.admin, other.admin) for part in ("--url", url)),
            ).stdout
        )
    upstream.close()
    assert [one["url"] for one in told["gateways"]] == [gateway.admin, other.admin]
    assert sorted(row["target"] for row in told["targets"]) == ["broken", "works"]
    assert told["totals"]["requests_per_s"] > 0


def test_who_does_not_answer_is_named(top: Top) -> None:
    told = top("--url", "http://127.0.0.1:9", "--once")
    assert (told.returncode, told.stdout) == (1, "")
    hint = "start the gateway, or name its admin listener with --url"
    assert told.stderr == f"pointsman top: http://127.0.0.1:9: connection refused: {hint}\n"
    told = top("--url", "http://127.0.0.1:9", "--once", "--json")
    assert told.returncode == 1
    assert json.loads(told.stdout)["gateways"][0]["error"] == "connection refused"


METRICS = "# TYPE pointsman_inflight_requests gauge\npointsman_inflight_requests 1\n"
BUCKETS = "# TYPE pointsman_time_to_first_event_seconds histogram\npointsman_time_to_first_event_seconds_bucket{%s} 1\n"


@pytest.mark.parametrize(
    ("metrics", "targets"),
    [
        ("<html>", "{}"),
        ("", '{"data": []}'),
        (METRICS, "<html>"),
        (METRICS, "[]"),
        (METRICS, '{"data": 1}'),
        (METRICS, '{"data": [1]}'),
        (METRICS, '{"data": [{"state": "healthy"}]}'),
        (METRICS, '{"data": [{"target": "a", "inflight": "many"}]}'),
        (METRICS, '{"data": [{"target": "a", "endpoints": [1]}]}'),
        (METRICS, '{"data": [{"target": "a", "inflight": 1e999}]}'),
        (METRICS, '{"data": [{"target": "a", "inflight": "1e999"}]}'),
        (METRICS, '{"data": [{"target": "a", "inflight": %s}]}' % ("9" * 4_000)),
        (METRICS, '{"data": [{"target": "a", "held_for_s": NaN}]}'),
        (METRICS, "[" * 100_000),
        (METRICS + BUCKETS % 'le="much"', '{"data": []}'),
        (METRICS + BUCKETS % 'le="NaN"', '{"data": []}'),
        (METRICS + BUCKETS % 'le="1.7e308"', '{"data": []}'),
        (METRICS + BUCKETS % "", '{"data": []}'),
    ],
)
def test_what_is_no_gateway_is_told_as_that(top: Top, metrics: str, targets: str) -> None:
    def answer(conn: socket.socket, request: Received) -> bool:
        body = (metrics if b"/metrics" in request.head else targets).encode()
        return plain(body=body)(conn, request)

    other = Upstream([answer])
    told = top("--url", f"http://127.0.0.1:{other.port}", "--once")
    other.close()
    assert told.returncode == 1
    assert told.stderr.endswith("what answers there is not a gateway's admin listener\n")


def test_a_figure_that_no_gateway_can_have_is_not_told(top: Top) -> None:
    absurd = (
        "pointsman_queue_requests 2\n"
        + METRICS.replace(" 1\n", " 1e308\n")
        + "pointsman_inflight_requests{a='b'} 1e308\n".replace("'", '"')
    )
    absurd += "# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds NaN\n"

    def answer(conn: socket.socket, request: Received) -> bool:
        return plain(body=(absurd if b"/metrics" in request.head else '{"data": []}').encode())(conn, request)

    other = Upstream([answer])
    told = top("--url", f"http://127.0.0.1:{other.port}", "--once", "--interval", "0.01", "--json")
    other.close()
    assert told.returncode == 0
    assert not {"Infinity", "NaN"} & set(re.findall(r"\w+", told.stdout))


def test_who_answers_byte_by_byte_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "WAITED_S", 0.3)
    ended = threading.Event()

    def drip(conn: socket.socket, _: Received) -> bool:
        for byte in b"HTTP/1.1 200 OK\r\nx: " + b"a" * 10_000:
            conn.send(bytes([byte]))
            if ended.wait(0.02):
                break
        return False

    def good(conn: socket.socket, request: Received) -> bool:
        return plain(body=(METRICS if b"/metrics" in request.head else '{"data": []}').encode())(conn, request)

    slow, quick = Upstream([drip]), Upstream([good])
    watched = watch.Watch([f"http://127.0.0.1:{one.port}" for one in (slow, quick)], None, 30.0)
    for _ in range(2):
        watched.ask()
        assert [row.error for row in watched.view().gateways] == ["no whole answer within 0.3 s", None]
    ended.set()
    for one in (slow, quick):
        one.close()
    assert slow.connections == 1, "it is not asked again before it has answered"


@pytest.mark.parametrize("how", [["--json"], []])
def test_what_an_answer_says_cannot_act_on_a_terminal(top: Top, how: list[str]) -> None:
    evil = "a\x1b[2J\x9b31m\u202e\r\n"

    def answer(conn: socket.socket, request: Received) -> bool:
        listed = json.dumps({"data": [{"target": evil, "state": evil, "reason": evil}]})
        return plain(body=(METRICS if b"/metrics" in request.head else listed).encode())(conn, request)

    other = Upstream([answer])
    told = top("--url", f"http://127.0.0.1:{other.port}", "--once", "--interval", "0.01", *how)
    other.close()
    assert told.returncode == 0
    assert "[2J" in told.stdout, "it is there, and harmless"
    assert all(line.isprintable() for line in told.stdout.rstrip("\n").split("\n"))


def test_the_public_listener_is_not_the_admin_one(gateway: Gateway, top: Top) -> None:
    told = top("--url", gateway.public, "--once")
    assert told.returncode == 1
    assert "is it the admin listener?" in told.stderr or "wants its admin key" in told.stderr


@pytest.mark.parametrize("url", ["127.0.0.1:8081", "ftp://x", "http://me:secret@127.0.0.1:1"])
def test_a_url_that_is_none_is_told_and_nothing_in_it_given_away(top: Top, url: str) -> None:
    told = top("--url", url, "--once")
    assert told.returncode == 2
    assert "--url: " in told.stderr
    assert "secret" not in told.stderr


def test_the_admin_key_is_taken_from_the_configuration_or_the_environment(top: Top, tmp_path: Path) -> None:
    upstream = Upstream([stream()])
    settings = config({"works": upstream}) | {"admin_key": {"env": "ADMIN"}}
    with running(tmp_path, settings, ADMIN="sk-admin") as gateway:
        port = gateway.admin.rpartition(":")[2]
        here = (tmp_path / "pointsman.yaml").read_text().replace("admin: 127.0.0.1:0", f"admin: 127.0.0.1:{port}")
        (tmp_path / "pointsman.yaml").write_text(here)
        once = ("--once", "--interval", "0.05")
        assert top(*once, ADMIN="sk-admin").returncode == 0, "the file lies here"
        assert top(*once, "--url", gateway.admin, POINTSMAN_ADMIN_KEY="sk-admin").returncode == 0
        told = top(*once, "--url", gateway.admin, ADMIN="sk-admin")
        assert told.returncode == 1, "a file that happens to lie here gives its key to nobody who is not in it"
        assert "wants its admin key: POINTSMAN_ADMIN_KEY" in told.stderr
        both = ("--url", gateway.admin, "--config", "pointsman.yaml")
        assert top(*once, *both, ADMIN="sk-admin").returncode == 0
        told = top(*once, "--url", gateway.admin, POINTSMAN_ADMIN_KEY="sk-wrong")
        assert "does not take this admin key" in told.stderr
        assert "sk-wrong" not in told.stderr
    upstream.close()


# --- on a terminal ---


class Terminal:
    """A process on a pseudo-terminal, and the frames it has drawn."""

    def __init__(self, *arguments: str, columns: int = 120, rows: int = 30, **environ: str) -> None:
        self.fd, self.inside = pty.openpty()
        self.resize(columns, rows)
        self.was = termios.tcgetattr(self.inside)
        env = {**os.environ, "TERM": "xterm", **environ}
        self.process = subprocess.Popen(
            [*TOP, *arguments],
            stdin=self.inside,
            stdout=self.inside,
            stderr=self.inside,
            cwd=ROOT,
            env=env,
            start_new_session=True,
        )
        self.raw = ""

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def read(self) -> None:
        while select.select([self.fd], [], [], 0.02)[0]:
            try:
                self.raw += os.read(self.fd, 65536).decode()
            except OSError:  # nobody has the other end open any more
                return

    def frame(self) -> str:
        """The screen as it was drawn last, without styles."""
        whole = [one for one in self.raw.split("\x1b[H")[1:] if "\x1b[J" in one]
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", whole[-1]).replace("\r", "") if whole else ""

    def until(self, true: Callable[[str], object], within_s: float = 20.0) -> str:
        ends = time.monotonic() + within_s
        while time.monotonic() < ends:
            self.read()
            if true(self.frame()):
                return self.frame()
            assert self.process.poll() is None, self.raw
        raise AssertionError(f"not within {within_s} s:\n{self.frame()}")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        os.close(self.fd)
        os.close(self.inside)

    def end(self) -> int:
        code = self.process.wait(10)
        self.read()
        assert termios.tcgetattr(self.inside) == self.was, "the terminal is as it was"
        assert self.raw.endswith("\x1b[?7h\x1b[?25h\x1b[?1049l"), "and shows what it showed before"
        return code


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    """Makes terminals, and ends what still runs on them."""
    with contextlib.ExitStack() as ending:

        def make(*arguments: str, **more: Any) -> Terminal:
            made = Terminal(*arguments, **more)
            ending.callback(made.close)
            return made

        yield make


def test_the_screen_is_drawn_over_sorted_and_resized_until_q(
    gateway: Gateway, terminal: Callable[..., Terminal]
) -> None:
    screen = terminal("--url", gateway.admin, "--interval", "0.2")
    shown = screen.until(lambda text: re.search(r"^works .*ms", text, re.M))
    assert "sorted by requests" in shown
    assert len(shown.splitlines()) == 30
    screen.type(b"\x1b[A")  # an arrow is nothing
    screen.type(b"c")
    screen.until(lambda text: "sorted by cost" in text)
    screen.resize(50, 12)
    shown = screen.until(lambda text: len(text.splitlines()) == 12)
    assert max(map(len, shown.splitlines())) <= 50
    assert "works" in shown
    screen.type(b"q")
    assert screen.end() == 0
    assert "\x1b[1m" in screen.raw


@pytest.mark.parametrize(("arguments", "environ"), [(("--no-color",), {}), ((), {"NO_COLOR": "1"})])
def test_a_screen_without_colour(
    gateway: Gateway, terminal: Callable[..., Terminal], arguments: tuple[str, ...], environ: dict[str, str]
) -> None:
    screen = terminal("--url", gateway.admin, "--interval", "0.1", *arguments, **environ)
    screen.until(lambda text: "works" in text)
    screen.type(b"q")
    assert screen.end() == 0
    assert not re.search(r"\x1b\[[0-9;]*m", screen.raw)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_terminal_that_works(
    gateway: Gateway, terminal: Callable[..., Terminal], number: int, code: int
) -> None:
    screen = terminal("--url", gateway.admin)
    screen.until(lambda text: "works" in text)
    screen.process.send_signal(number)
    assert screen.end() == code
    assert "Traceback" not in screen.raw


def test_suspended_it_gives_the_terminal_back_and_takes_it_again(
    gateway: Gateway, terminal: Callable[..., Terminal]
) -> None:
    screen = terminal("--url", gateway.admin, "--interval", "0.1")
    screen.until(lambda text: "works" in text)
    screen.process.send_signal(signal.SIGTSTP)
    assert os.waitpid(screen.process.pid, os.WUNTRACED)[1] == (signal.SIGSTOP << 8 | 0x7F)
    screen.read()
    assert screen.raw.endswith("\x1b[?1049l")
    assert termios.tcgetattr(screen.inside) == screen.was
    screen.raw = ""
    screen.process.send_signal(signal.SIGCONT)
    screen.until(lambda text: "works" in text)
    screen.type(b"q")
    assert screen.end() == 0


def test_a_gateway_that_goes_is_said_to_be_gone_and_comes_back(
    tmp_path: Path, terminal: Callable[..., Terminal]
) -> None:
    upstream = Upstream([stream()])
    settings = config({"works": upstream})
    with running(tmp_path, settings) as gateway:
        settings["listen"]["admin"] = gateway.admin.removeprefix("http://")
        screen = terminal("--url", gateway.admin, "--interval", "0.1")
        screen.until(lambda text: "works" in text)
    shown = screen.until(lambda text: "connection refused; trying again" in text)
    assert "works" not in shown, "what nobody says any more is not shown as if it were so"
    with running(tmp_path, settings):
        screen.until(lambda text: "works" in text and "over the last" in text)
        screen.type(b"q")
        assert screen.end() == 0
    upstream.close()


def test_where_a_terminal_cannot_be_drawn_on_tables_are_printed(
    gateway: Gateway, terminal: Callable[..., Terminal]
) -> None:
    screen = terminal("--url", gateway.admin, "--interval", "0.1", TERM="dumb")
    ends = time.monotonic() + 20
    while screen.raw.count("TARGET") < 2 and time.monotonic() < ends:
        screen.read()
    screen.process.send_signal(signal.SIGINT)
    assert screen.process.wait(10) == 130
    assert "\x1b" not in screen.raw
    assert screen.raw.count("works") >= 2
