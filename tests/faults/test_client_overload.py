"""A process that is full: who is refused, who is not, and what is given up before."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.test_hostile_client import no_traceback, request
from tests.harness import (
    DONE,
    KEY,
    ROLE,
    SSE_HEAD,
    STOP,
    Gateway,
    Received,
    chat,
    chunk,
    eventually,
    framed,
    plain,
)
from tests.proxy.conftest import Start
from tests.proxy.test_requests import head, read_answer

KEYS = {name: f"sk-test-{name}-0123" for name in ("low", "normal", "high", "critical")}


def classes(made: dict[str, Any]) -> None:
    made["keys"] = [
        {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), "priority": name}
        for name, key in KEYS.items()
    ]


Conns = list[socket.socket]


class Held:
    """Streams that have begun and go on when told."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def __call__(self, conn: socket.socket, _: Received) -> bool:
        conn.sendall(SSE_HEAD + framed(ROLE) + framed(chunk("begun")))
        self.go.wait(60)
        conn.sendall(framed(STOP) + framed(DONE) + b"0\r\n\r\n")
        return True


def status_of(gateway: Gateway, name: str, **headers: str) -> tuple[int, str]:
    answer = gateway.post(chat("b"), key=KEYS[name], **headers)
    code = "" if answer.status_code == 200 else answer.json()["error"]["code"]
    return answer.status_code, code


@pytest.fixture
def conns() -> Iterator[Conns]:
    """Connections that are closed however a test ends."""
    made: Conns = []
    yield made
    for conn in made:
        conn.close()


def begin_streams(gateway: Gateway, number: int, key: str, conns: Conns) -> None:
    begun = []
    for _ in range(number):
        conn = gateway.connect()
        conns.append(conn)
        begun.append(conn)
        conn.sendall(request(stream=True).replace(KEY.encode(), key.encode()))
    for conn in begun:
        assert b" 200 " in conn.recv(65536)


def finished(conn: socket.socket) -> bool:
    data = b""
    while not data.endswith(b"0\r\n\r\n") and (more := conn.recv(65536)):
        data += more
    return DONE in data


PATIENT = {"connect": "20s", "headers": "50s", "first_event": "50s", "idle": "50s", "total": "60s"}
SHED = {"keep_alive": "40%", "low": "50%", "normal": "70%", "high": "90%"}


def test_requests_are_refused_by_priority_lowest_first_and_streams_live(
    start: Start, conns: list[socket.socket]
) -> None:
    held = Held()
    gateway, ups = start(
        {"a": [held], "b": [plain()]}, classes, timeouts=PATIENT, limits={"max_inflight": 10, "shed": SHED}
    )
    for under_way, refused in ((4, ()), (5, ("low",)), (7, ("low", "normal")), (9, ("low", "normal", "high"))):
        begin_streams(gateway, under_way - len(conns), KEYS["critical"], conns)
        for name in KEYS:
            expected = (503, "overloaded") if name in refused else (200, "")
            assert status_of(gateway, name) == expected, (under_way, name)
    begin_streams(gateway, 1, KEYS["critical"], conns)
    assert status_of(gateway, "critical") == (503, "overloaded")
    answers = [gateway.post(chat("b"), key=KEYS[name]) for name in KEYS]
    waits = [int(answer.headers["retry-after"]) for answer in answers]
    assert waits[0] > waits[1] > waits[3] >= 1, "who matters less is sent away for longer"
    assert gateway.get("/readyz").status_code == 200, "who is full is not to lose its traffic to who is fuller"
    sent = len(ups["b"].requests)
    held.go.set()
    assert all(finished(conn) for conn in conns), "a stream under way was given up"
    assert eventually(lambda: status_of(gateway, "low") == (200, ""))
    assert len(ups["b"].requests) - sent <= 100
    text = gateway.get("/metrics", admin=True).text
    for name, count in (("low", 5), ("normal", 3), ("high", 2), ("critical", 2)):
        assert float(text.split(f'shed_total{{priority="{name}",reason="requests"}} ')[1].split("\n")[0]) >= count - 1
    assert gateway.metric('pointsman_refusals_total{code="overloaded"}') >= 10
    assert no_traceback(gateway)


def test_a_client_may_ask_for_a_lower_priority_and_for_no_higher(start: Start, conns: Conns) -> None:
    held = Held()
    gateway, _ = start(
        {"a": [held], "b": [plain()]}, classes, timeouts=PATIENT, limits={"max_inflight": 10, "shed": SHED}
    )
    begin_streams(gateway, 5, KEYS["critical"], conns)
    assert status_of(gateway, "high", x_pointsman_priority="low") == (503, "overloaded")
    assert status_of(gateway, "low", x_pointsman_priority="critical") == (503, "overloaded")
    assert status_of(gateway, "high", x_pointsman_priority="high") == (200, "")
    answer = gateway.post(chat("b"), key=KEYS["high"], x_pointsman_priority="urgent")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x-pointsman-priority")
    held.go.set()


def test_connections_are_closed_after_their_answers_before_anybody_is_refused(
    start: Start, conns: list[socket.socket]
) -> None:
    held = Held()
    gateway, _ = start(
        {"a": [held], "b": [plain()]}, classes, timeouts=PATIENT, limits={"max_inflight": 10, "shed": SHED}
    )
    ask = request("b").replace(KEY.encode(), KEYS["low"].encode())
    with gateway.connect() as kept:
        kept.sendall(ask)
        assert b"connection: close" not in read_answer(kept)[0]
        begin_streams(gateway, 4, KEYS["critical"], conns)
        kept.sendall(ask)
        first = read_answer(kept)[0]
        assert first.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in first
        assert kept.recv(1) == b""
    held.go.set()
    assert all(finished(conn) for conn in conns)

    def keeps() -> bool:
        with gateway.connect() as again:
            again.sendall(ask)
            return b"connection: close" not in read_answer(again)[0]

    assert eventually(keeps), "there is room again, and that is looked at every second"


def test_who_is_refused_is_refused_before_a_large_body_is_read(start: Start, conns: Conns) -> None:
    held = Held()
    gateway, _ = start(
        {"a": [held], "b": [plain()]}, classes, timeouts=PATIENT, limits={"max_inflight": 2, "shed": SHED}
    )
    begin_streams(gateway, 2, KEYS["critical"], conns)
    with gateway.connect() as conn:
        conn.sendall(head(50_000_000).replace(KEY.encode(), KEYS["low"].encode()) + b"{")
        assert read_answer(conn)[0].startswith(b"HTTP/1.1 503")
        assert conn.recv(1) == b""
    held.go.set()


@pytest.mark.parametrize("known", [False, True])
def test_a_connection_above_the_limit_takes_the_place_of_one_that_is_idle(
    start: Start, known: bool, conns: list[socket.socket]
) -> None:
    gateway, _ = start({"a": [plain()]}, classes, timeouts=PATIENT, limits={"max_connections": 4})
    ask = request().replace(KEY.encode(), KEYS["normal"].encode())
    for number in range(4):
        conns.append(gateway.connect())
        if known or number > 0:
            conns[-1].sendall(ask)
            assert read_answer(conns[-1])[0].startswith(b"HTTP/1.1 200")
        if known and number == 0:
            time.sleep(0.3)
    time.sleep(1.3)  # what was used a moment ago is not idle
    with gateway.connect() as conn:
        conn.sendall(ask)
        assert read_answer(conn)[0].startswith(b"HTTP/1.1 200")
    gone = [number for number, conn in enumerate(conns) if closed(conn)]
    assert gone == [0], "who was idle the longest, and who never had a valid key before all others"
    name = "normal" if known else "none"
    assert gateway.metric(f'pointsman_shed_total{{priority="{name}",reason="idle"}}') == 1


def closed(conn: socket.socket) -> bool:
    conn.settimeout(0.05)
    try:
        return conn.recv(1) == b""
    except TimeoutError:
        return False


def test_a_critical_key_s_connection_makes_room_for_nobody(start: Start, conns: Conns) -> None:
    gateway, _ = start({"a": [plain()]}, classes, timeouts=PATIENT, limits={"max_connections": 2})
    held = conns[:] = [gateway.connect() for _ in range(2)]
    for conn in held:
        conn.sendall(request().replace(KEY.encode(), KEYS["critical"].encode()))
        assert read_answer(conn)[0].startswith(b"HTTP/1.1 200")
    time.sleep(1.3)
    with gateway.connect() as conn:
        first, body, _ = read_answer(conn)
    assert first.startswith(b"HTTP/1.1 503")
    assert b"overloaded" in body
    assert b"retry-after: " in first
    assert not any(map(closed, held))
    assert eventually(
        lambda: gateway.metric('pointsman_shed_total{priority="none",reason="connections"}') == 1, within_s=3
    )
