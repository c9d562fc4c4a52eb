"""The end of the process: it says that it goes, takes no more, lets finish what it can, and books all of it."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sqlite3
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.ledger.directory import DATABASE
from tests.harness import KEY, ROLE, STOP, STREAM, Gateway, Upstream, chat, chunk, config, eventually, running, stream

ENDLESS = stream([ROLE, *[chunk("x")] * 2_000, STOP], pause_s=0.02)
DONE = b"data: [DONE]\n\n"


def message(**body: Any) -> bytes:
    content = json.dumps(chat(**body)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def to_the_end(conn: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while more := conn.recv(1 << 20):
            data += more
    return data


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def booked(directory: Path) -> tuple[Counter[str], int]:
    """How many attempts by their cause, and how many have not ended."""
    with contextlib.closing(sqlite3.connect(directory / "books" / DATABASE)) as db:
        causes = Counter(cause for (cause,) in db.execute("SELECT cause FROM entries"))
        return causes, db.execute("SELECT count(*) FROM open").fetchone()[0]


def begin(gateway: Gateway, *models: str) -> list[tuple[str, socket.socket]]:
    """Streams that have begun, so that their first bytes can be read."""
    begun = [(model, gateway.connect()) for model in models]
    for model, conn in begun:
        conn.sendall(message(model=model, stream=True))
    for _, conn in begun:
        assert conn.recv(1, socket.MSG_PEEK)
    return begun


def test_twenty_streams_at_sigterm_finish_or_are_told_and_all_are_settled(tmp_path: Path) -> None:
    ups = {"short": Upstream([stream(pause_s=0.45)]), "long": Upstream([ENDLESS]), "quick": Upstream([stream()])}
    settings = config(ups, ledger={"dir": "books"}, drain="2s", drain_delay="1500ms")
    with running(tmp_path, settings) as gateway:
        streams = begin(gateway, *("short", "long") * 10)
        assert gateway.get("/readyz").status_code == 200
        gateway.process.send_signal(signal.SIGTERM)
        assert eventually(lambda: gateway.get("/readyz").status_code == 503)  # a new connection: it listens yet
        assert gateway.get("/readyz", admin=True).json()["status"] == "draining"
        late = gateway.post(chat("quick", stream=True))
        assert (late.content.endswith(DONE), late.headers["connection"]) == (True, "close")
        assert eventually(lambda: refused(gateway.port))
        assert gateway.get("/metrics", admin=True).status_code == 200  # Prometheus sees how it ends
        for name, conn in streams:
            data = to_the_end(conn)
            conn.close()
            assert data.startswith(b"HTTP/1.1 200")
            assert data.endswith(b"0\r\n\r\n"), name
            if name == "short":
                assert DONE in data
            else:
                last = data.removesuffix(b"\r\n0\r\n\r\n").rpartition(b"data: ")[2]
                assert json.loads(last)["error"]["code"] == "draining"
        assert gateway.process.wait(10) == 0
    for up in ups.values():
        up.close()
    assert booked(tmp_path) == (Counter(ok=11, draining=10), 0)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once_and_settles(tmp_path: Path, second: signal.Signals) -> None:
    long = Upstream([ENDLESS])
    settings = config({"long": long}, ledger={"dir": "books"}, drain="30s", drain_delay="30s")
    with running(tmp_path, settings) as gateway:
        streams = begin(gateway, *["long"] * 5)
        gateway.process.send_signal(signal.SIGTERM)
        assert eventually(lambda: gateway.get("/readyz").status_code == 503)
        gateway.process.send_signal(second)
        for _, conn in streams:
            assert b'"code":"draining"' in to_the_end(conn)
            conn.close()
        assert gateway.process.wait(10) == 0
    long.close()
    assert booked(tmp_path) == (Counter(draining=5), 0)


def test_while_it_drains_connections_end_with_their_answer_and_a_late_request_is_told_so(tmp_path: Path) -> None:
    up = Upstream([stream(STREAM)])
    settings = config({"a": up}, drain="2s", drain_delay="1500ms")
    whole = message(model="a", stream=True)
    with running(tmp_path, settings) as gateway, contextlib.ExitStack() as stack:
        kept, halves, other, new = (stack.enter_context(gateway.connect()) for _ in range(4))
        for conn in (kept, halves):  # so that what follows repeats a head that is known
            for _ in range(2):
                conn.sendall(whole)
                data = b""
                while not data.endswith(b"0\r\n\r\n"):
                    data += conn.recv(65536)
                assert b"connection: close" not in data.lower()
        served = len(up.requests)
        halves.sendall(whole[:20])
        other.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\n")
        gateway.process.send_signal(signal.SIGTERM)
        assert eventually(lambda: gateway.get("/readyz").status_code == 503)
        kept.sendall(whole)  # it listens yet, so that nobody need know
        data = to_the_end(kept)
        assert b"connection: close" in data.lower()
        assert data.endswith(DONE + b"\r\n0\r\n\r\n")
        assert eventually(lambda: refused(gateway.port))
        halves.sendall(whole[20:])
        other.sendall(b"\r\n")
        new.sendall(whole)
        for conn in (halves, new):
            data = to_the_end(conn)
            assert data.startswith(b"HTTP/1.1 503")
            assert b'"code":"draining"' in data
            assert b"retry-after: 1" in data
            assert b"connection: close" in data
        data = to_the_end(other)
        assert data.startswith(b"HTTP/1.1 503")
        assert b"connection: close" in data
        assert gateway.process.wait(10) == 0
    up.close()
    assert len(up.requests) == served + 1


def test_a_loop_that_stands_still_is_counted_and_told_with_where_it_stood(tmp_path: Path) -> None:
    up = Upstream([stream([ROLE, *[chunk("x")] * 45, STOP, DONE], pause_s=0.05)])
    got: list[bytes] = []
    patient = {"connect": "20s", "headers": "20s", "first_event": "20s", "idle": "20s", "total": "60s"}
    settings = config({"a": up}, timeouts=patient)  # clocks go on while the loop stands still
    with running(tmp_path, settings, command=("-m", "tests.faults.blocking")) as gateway:
        before = gateway.metric("pointsman_loop_blocked_seconds_total")
        thread = threading.Thread(target=lambda: got.append(gateway.post(chat("a", stream=True)).content))
        thread.start()
        assert eventually(lambda: bool(up.requests))
        begun = time.monotonic()
        gateway.process.send_signal(signal.SIGUSR1)
        time.sleep(0.2)
        ready = httpx.get(gateway.public + "/readyz", timeout=20)
        assert time.monotonic() - begun > 1.5, "it was answered while the loop slept"
        assert (ready.status_code, ready.json()["status"]) == (200, "ready")
        thread.join()
        assert gateway.metric("pointsman_loop_blocked_seconds_total") - before > 1
        log = gateway.lines
        assert eventually(lambda: any("the event loop stood still for" in line for line in log))
        told = [line for line in log if "the event loop stands still" in line]
        assert sum("in sleep_on_purpose" in line for line in told) == 1
    up.close()
    assert got[0].endswith(DONE)
