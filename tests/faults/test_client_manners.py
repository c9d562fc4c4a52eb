"""Clients that take their time, leave, knock in vain or spell things oddly: what they get, and nobody else pays."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.config import ConfigDoc
from gateway.ledger.directory import DATABASE
from tests.faults.test_hostile_client import (
    IMPATIENT,
    PATIENT,
    Flood,
    no_traceback,
    read_to_the_end,
    request,
    slow_reader,
)
from tests.harness import KEY, STREAM, Gateway, Upstream, chat, config, eventually, hang, plain, running, stream, took_s
from tests.proxy.conftest import Start
from tests.proxy.test_requests import head, read_answer

_PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def conns() -> Iterator[list[socket.socket]]:
    """Connections that are closed however a test ends."""
    made: list[socket.socket] = []
    yield made
    for conn in made:
        conn.close()


def rss(gateway: Gateway) -> int:
    return int(Path(f"/proc/{gateway.process.pid}/statm").read_text().split()[1]) * _PAGE


def lines_of(gateway: Gateway, status: int) -> list[dict[str, object]]:
    told = [json.loads(line) for line in list(gateway.lines) if line.startswith("{")]
    return [line for line in told if line.get("status") == status]


# -- slowly --


def test_the_deadlines_are_what_the_documents_say() -> None:
    limits = ConfigDoc.model_fields["limits"].default_factory()  # type: ignore[misc,call-arg]
    assert (limits.request_head, limits.min_upload_rate, limits.keep_alive) == (10.0, 1_000, 75.0)


def test_300_slowloris_cost_nobody_else_anything_and_are_ended(start: Start, conns: list[socket.socket]) -> None:
    gateway, ups = start({"a": [plain()]}, limits={"request_head": "1500ms", "min_upload_rate": "10kB"})
    for number in range(300):
        conn = gateway.connect()
        conns.append(conn)
        conn.sendall(head(100_000)[:-4] if number % 2 else head(100_000) + b"{")
    served = []
    ends_at = time.monotonic() + 6
    while time.monotonic() < ends_at and len(lines_of(gateway, 408)) < 300:
        for conn in conns:
            with contextlib.suppress(OSError):
                conn.send(b"x")  # a byte now and then, as they do
        served.append(gateway.post(chat("a")))
        assert served[-1].status_code == 200
    took = sorted(took_s(gateway, answer) for answer in served)
    assert took[len(took) * 9 // 10] < 1, "nobody waits for them, who stay longer; all else is time for a slow machine"
    assert eventually(lambda: len(lines_of(gateway, 408)) == 300, 10)
    for conn in conns:
        conn.settimeout(5)
        assert not conn.recv(65536).startswith(b"HTTP/1.1 200")
    assert len(ups["a"].requests) == len(served)
    assert no_traceback(gateway)


def test_who_stops_reading_holds_no_more_than_a_megabyte_and_is_let_go_and_booked(tmp_path: Path) -> None:
    readers = 24
    up = Upstream([Flood()])
    settings = config({"a": up}, ledger={"dir": "books"}, timeouts={"idle": "20s", "total": "60s"})
    command = (IMPATIENT[0], IMPATIENT[1].replace("= 0.5", "= 1.5"))
    with running(tmp_path, settings, command=command) as gateway, contextlib.ExitStack() as stack:
        gateway.post(chat("nobody"))
        before = rss(gateway)
        conns = [stack.enter_context(slow_reader(gateway)) for _ in range(readers)]
        for conn in conns:
            conn.sendall(request(stream=True))
        assert eventually(lambda: len(up.requests) == readers, 10)
        most = 0
        while len(lines_of(gateway, 499)) < readers:
            most = max(most, rss(gateway) - before)
            time.sleep(0.05)
        assert most < readers << 20, f"{most / readers / 1e6:.1f} MB for each stream that nobody reads"
        assert eventually(lambda: len(up.closed_at) == readers), "the upstream still writes for nobody"
        assert eventually(lambda: gateway.metric("pointsman_inflight_requests") == 0)
        assert eventually(lambda: gateway.get("/readyz").json()["ledger"]["pending"] == 0)
    up.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "books" / DATABASE)) as db:
        rows = db.execute("SELECT estimated, cause, output > 0 FROM entries").fetchall()
    assert rows == [(1, "client_gone", 1)] * readers


# -- gone --


def test_a_client_that_leaves_or_half_closes_is_a_499_in_the_log_and_its_place_is_free(start: Start) -> None:
    def one_at_a_time(made: dict[str, Any]) -> None:
        made["keys"][0]["max_concurrent"] = 1

    gateway, ups = start({"a": [hang, stream(STREAM[:2], end="hang")] * 2 + [plain()]}, one_at_a_time, timeouts=PATIENT)
    for number, leave in enumerate((socket.socket.close, socket.socket.close, half_close, half_close)):
        with gateway.connect() as conn:
            conn.sendall(request(stream=True))
            assert eventually(lambda n=number: len(ups["a"].requests) == n + 1)  # type: ignore[misc]
            if number % 2:  # in the midst of its stream
                assert b" 200 " in conn.recv(65536)
            left = time.monotonic()
            leave(conn)
            assert eventually(lambda n=number: len(ups["a"].closed_at) == n + 1)  # type: ignore[misc]
            assert ups["a"].closed_at[-1] - left < 1
            assert eventually(lambda n=number: len(lines_of(gateway, 499)) == n + 1)  # type: ignore[misc]
    assert gateway.post(chat("a")).status_code == 200
    assert {line["code"] for line in lines_of(gateway, 499)} == {"client_gone"}
    assert gateway.metric("pointsman_client_disconnect_total") == 4


def half_close(conn: socket.socket) -> None:
    conn.shutdown(socket.SHUT_WR)


# -- many --


def test_a_thousand_idle_connections_are_held_and_served(start: Start, conns: list[socket.socket]) -> None:
    gateway, _ = start({"a": [plain()]}, limits={"max_connections": 2_000})
    ask = request()
    gateway.post(chat("a"))
    before = rss(gateway)
    for _ in range(1_000):
        conns.append(gateway.connect())
    assert eventually(lambda: gateway.metric("pointsman_client_connections") == 1_000)
    each = (rss(gateway) - before) / 1_000
    assert each < 40_000, f"{each:.0f} bytes for an idle connection"
    for conn in conns[::50]:
        conn.sendall(ask)
        assert read_answer(conn)[0].startswith(b"HTTP/1.1 200")
    assert no_traceback(gateway)


# -- oddly --

#: A request line and headers, what a valid key gets, and what nobody's gets.
ODD = [
    (b"POST //v1/chat/completions", b"", 404, 404),
    (b"POST /v1//chat/completions", b"", 404, 404),
    (b"POST /v1/chat/completions/", b"", 404, 404),
    (b"POST /V1/chat/completions", b"", 404, 404),
    (b"POST /v1/chat%2Fcompletions", b"", 405, 405),
    (b"POST /v1/%63hat/completions", b"", 405, 405),
    (b"POST /%2e%2e/v1/chat/completions", b"", 404, 404),
    (b"POST /v1/./chat/completions", b"", 404, 404),
    (b"POST /v1/chat/completions;x=1", b"", 404, 404),
    (b"POST /v1/chat/completions?x=1", b"", 400, 401),
    (b"POST http://elsewhere/v1/chat/completions", b"", 400, 401),
    (b"POST /v1/chat/completions", b"Host: x/healthz?\r\n", 400, 401),
    (b"POST /v1/chat/completions", b"Host: 127.0.0.1:8081\r\n", 400, 401),
    (b"GET /v1/models", b"Host: x/healthz?\r\n", 200, 401),
    (b"GET /v1/models", b"Host: x/healthz#\r\n", 200, 401),
    (b"GET /v1/models", b"Host: x\r\nX-Original-URL: /healthz\r\nX-Rewrite-URL: /healthz\r\n", 200, 401),
    (b"GET /v1/targets", b"", 404, 404),
    (b"GET /metrics", b"Host: 127.0.0.1:8081\r\n", 404, 404),
    (b"OPTIONS /v1/chat/completions", b"", 405, 405),
    (b"PUT /v1/chat/completions", b"", 405, 405),
    (b"DELETE /v1/models", b"", 405, 405),
    (b"HEAD /v1/chat/completions", b"", 405, 405),
]


def test_a_path_is_what_is_written_and_no_spelling_of_it_opens_a_door(start: Start) -> None:
    gateway, ups = start({"a": [plain()]})
    found = []
    for line, fields, *_ in ODD:
        got = []
        for key in (KEY.encode(), b"sk-wrong-wrong"):
            message = line + b" HTTP/1.1\r\n" + (fields if b"Host" in fields else b"Host: x\r\n" + fields)
            message += b"Authorization: Bearer " + key + b"\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
            with gateway.connect() as conn:
                conn.sendall(message)
                answer = read_to_the_end(conn)
            assert answer.count(b"HTTP/1.1 ") == 1, answer
            got.append(int(answer[9:12]))
        found.append((line, fields, *got))
    assert [one for one in found if one not in ODD] == []
    assert ups["a"].requests == []


def test_head_has_no_body_and_what_comes_behind_it_is_answered(start: Start) -> None:
    gateway, _ = start({"a": [plain()]})
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    for method in ("HEAD", "GET", "HEAD"):
        connection.request(method, "/v1/models", headers={"authorization": f"Bearer {KEY}"})
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status in ((200,) if method == "GET" else (200, 405))
        assert (body == b"") == (method == "HEAD")
    connection.request("OPTIONS", "/v1/chat/completions")
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["error"]["code"]) == (405, "method_not_allowed")
    assert "POST" in (answer.getheader("allow") or "")
    connection.close()


def test_http_1_0_gets_a_whole_answer_and_a_closed_connection(start: Start) -> None:
    gateway, _ = start({"a": [plain()]})
    for more in (b"", b"Connection: keep-alive\r\n"):
        with gateway.connect() as conn:
            conn.sendall(request().replace(b"HTTP/1.1\r\n", b"HTTP/1.0\r\n" + more))
            got = read_to_the_end(conn)
        assert got.startswith(b"HTTP/1.1 200")
        assert re.search(rb"(?i)connection: close", got)
        assert json.loads(got.partition(b"\r\n\r\n")[2])["object"] == "chat.completion"


# -- in vain --


def statuses(gateway: Gateway, number: int, key: str, *fields: str) -> list[int]:
    """Of requests one after another, over as many connections as it takes."""
    body = json.dumps(chat("a")).encode()
    message = head(len(body), *fields).replace(KEY.encode(), key.encode()) + body
    found, conn, rest = [], gateway.connect(), b""
    for _ in range(number):
        conn.sendall(message)
        first, _, rest = read_answer(conn, rest)
        found.append(int(first.split(b" ")[1]))
        if b"connection: close" in first:
            conn.close()
            conn = gateway.connect()
    conn.close()
    return found


def test_who_keeps_coming_without_a_valid_key_is_put_off_by_address_and_nobody_else_is(start: Start) -> None:
    gateway, ups = start({"a": [plain()]}, limits={"invalid_keys": 30})
    found = statuses(gateway, 200, "sk-wrong-wrong")
    assert found[:30] == [401] * 30
    assert set(found[30:]) <= {401, 429}
    assert found.count(401) < 40, "a minute's worth, and what has been added since"
    assert statuses(gateway, 5, KEY) == [200] * 5, "who has a valid key is not concerned"
    assert statuses(gateway, 1, "sk-wrong-wrong", "X-Forwarded-For: 203.0.113.9") == [429], "anybody can write that"
    with gateway.connect() as conn:  # and so with what the control plane answers
        conn.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-wrong-wrong\r\n\r\n")
        first, body, _ = read_answer(conn)
    assert first.startswith(b"HTTP/1.1 429")
    assert json.loads(body)["error"]["code"] == "rate_limit_exceeded"
    assert re.search(rb"retry-after: [12]\b", first)
    assert gateway.get("/healthz").status_code == 200
    assert len(ups["a"].requests) == 5


def test_behind_a_trusted_proxy_it_is_the_client_that_counts(start: Start) -> None:
    gateway, _ = start({"a": [plain()]}, limits={"invalid_keys": 3, "trusted_proxies": ["127.0.0.0/8"]})
    one, other = "X-Forwarded-For: 6.6.6.6, 203.0.113.9", "X-Forwarded-For: 198.51.100.1, 127.0.0.5"
    assert statuses(gateway, 4, "sk-wrong-wrong", one) == [401] * 3 + [429]
    assert statuses(gateway, 1, "sk-wrong-wrong", "X-Forwarded-For: 7.7.7.7, 203.0.113.9") == [429]
    assert statuses(gateway, 1, "sk-wrong-wrong", other) == [401]


def test_a_wrong_and_a_malformed_key_are_told_the_same(start: Start) -> None:
    gateway, _ = start({"a": [plain()]})
    told = set()
    for key in ("sk-wrong-wrong", "x", "x' OR 1=1 --", "y" * 300, KEY[:-1], KEY + "0"):
        answer = gateway.post(chat("a"), key=key)
        told.add((answer.status_code, answer.text, answer.headers["www-authenticate"]))
    assert len(told) == 1
