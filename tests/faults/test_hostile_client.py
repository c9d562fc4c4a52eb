"""Clients who mean harm, or might as well: they get their answer or a typed refusal, and cost the others nothing."""

from __future__ import annotations

import datetime
import json
import os
import re
import signal
import socket
import threading
from pathlib import Path

import pytest

from tests.harness import (
    COMPLETION,
    KEY,
    ROLE,
    SSE_HEAD,
    Gateway,
    Received,
    Script,
    Upstream,
    chat,
    chunk,
    config,
    eventually,
    framed,
    hang,
    plain,
    running,
    settled,
)
from tests.proxy.conftest import Start
from tests.proxy.test_requests import head, read_answer

PATIENT = {"connect": "1s", "headers": "20s", "first_event": "20s", "idle": "20s", "total": "30s"}


def request(model: str = "a", *, path: str = "/v1/chat/completions", text: str = "Say hello.", **more: object) -> bytes:
    body = json.dumps(chat(model, text, **more)).encode()
    return head(len(body), path=path) + body


def long_answer(megabytes: int) -> Script:
    choice = {"index": 0, "message": {"role": "assistant", "content": "x" * (megabytes << 20)}, "finish_reason": "stop"}
    return plain(body=json.dumps({**COMPLETION, "choices": [choice]}).encode())


def slow_reader(gateway: Gateway) -> socket.socket:
    conn = socket.socket()
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    conn.connect(("127.0.0.1", gateway.port))
    return conn


def read_to_the_end(conn: socket.socket, within_s: float = 10) -> bytes:
    conn.settimeout(within_s)
    data = b""
    try:
        while more := conn.recv(1 << 20):
            data += more
    except (TimeoutError, ConnectionResetError):
        pass
    return data


class Flood:
    """A stream of 16 KB events for as long as somebody takes them; `sent` counts its bytes."""

    def __init__(self, megabytes: int = 300) -> None:
        self.sent = 0
        self._events = megabytes * 64

    def __call__(self, conn: socket.socket, _: Received) -> bool:
        conn.sendall(SSE_HEAD + framed(ROLE))
        piece = framed(chunk("y" * 16_000))
        for _number in range(self._events):
            conn.sendall(piece)
            self.sent += len(piece)
        return False


def no_traceback(gateway: Gateway) -> bool:
    return not [line for line in gateway.lines if "Traceback" in line or "Fatal error" in line]


# -- what is read --


def test_line_ends_before_a_request_do_not_pile_up(start: Start) -> None:
    gateway, _ = start({"a": [plain()]})
    with gateway.connect() as conn:
        conn.sendall(b"\r\n" * 5_000 + request())
        assert re.match(rb"HTTP/1.1 (200|400) ", read_answer(conn)[0])
    assert gateway.post(chat("a")).status_code == 200
    assert no_traceback(gateway)


def test_a_request_for_the_control_plane_may_follow_a_chunked_one(start: Start) -> None:
    gateway, _ = start({"a": [plain()]})
    body = json.dumps(chat("a")).encode()
    with gateway.connect() as conn:
        conn.sendall(head(None, "Transfer-Encoding: chunked") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        assert read_answer(conn)[0].startswith(b"HTTP/1.1 200")
        conn.sendall(request(path="/v1/explain"))
        assert read_answer(conn)[0].startswith(b"HTTP/1.1 200")


def test_thousands_of_requests_in_one_write_are_answered_in_order(start: Start) -> None:
    gateway, _ = start({"a": [plain()]})
    one = head(301) + b"{" + b" " * 300  # no JSON: answered at once
    with gateway.connect() as conn:
        writer = threading.Thread(target=conn.sendall, args=(one * 3_000,))
        writer.start()
        rest = b""
        for _ in range(3_000):
            first, body, rest = read_answer(conn, rest)
            assert first.startswith(b"HTTP/1.1 400")
            assert b'"code":"invalid_json"' in body
        writer.join()


def test_requests_for_both_planes_alternate_on_one_connection(start: Start) -> None:
    gateway, _ = start({"a": [plain()]})
    healthy = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with gateway.connect() as conn:
        conn.sendall((request() + healthy + request(path="/v1/explain") + healthy) * 10)
        rest = b""
        for _ in range(40):
            first, _, rest = read_answer(conn, rest)
            assert first.startswith(b"HTTP/1.1 200")


def test_a_prompt_is_never_taken_for_a_request(start: Start) -> None:
    """An answer ends in the very turn of the loop in which the rest of the next request comes."""
    go = threading.Event()

    def when_told(conn: socket.socket, received: Received) -> bool:
        go.wait(10)
        return plain()(conn, received)

    gateway, ups = start({"a": [when_told, plain()]})
    begun = b'{"model":"a","messages":[{"role":"user","content":"'
    smuggled = request(text="SMUGGLED")
    with gateway.connect() as conn:
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        conn.sendall(request(text="first"))
        assert eventually(lambda: len(ups["a"].requests) == 1)
        conn.sendall(head(len(begun) + len(smuggled)) + begun)
        assert eventually(lambda: _unread(gateway) == 0)
        os.kill(gateway.process.pid, signal.SIGSTOP)  # as a busy turn of the loop would
        try:
            go.set()
            assert eventually(lambda: _unread(gateway, ups["a"].port) > 0)
            conn.sendall(smuggled)
            assert eventually(lambda: _unread(gateway) > 0)
        finally:
            os.kill(gateway.process.pid, signal.SIGCONT)
        _, _, rest = read_answer(conn)
        assert read_answer(conn, rest)[0].startswith(b"HTTP/1.1 400")  # the whole of it is a body, and no JSON
    assert [received.json["messages"][0]["content"] for received in ups["a"].requests] == ["first"]


def _sockets(gateway: Gateway, remote: int | None = None) -> list[tuple[int, bool]]:
    """(unread bytes, held by a process) of the gateway's connections, by its port or by the one at the other end."""
    found = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, other, state, queues, _, _, _, _, inode = line.split()[:10]
        ports = int(local.split(":")[1], 16), int(other.split(":")[1], 16)
        if state != "0A" and ((ports[0] == gateway.port) if remote is None else (ports[1] == remote)):
            found.append((int(queues.split(":")[1], 16), inode != "0"))
    return found


def _unread(gateway: Gateway, remote: int | None = None) -> int:
    return sum(unread for unread, _ in _sockets(gateway, remote))


ODD = [
    b"OPTIONS * HTTP/1.1",
    b"HEAD /healthz HTTP/1.1",
    b"GET x HTTP/1.1",
    b"CONNECT a:1 HTTP/1.1",
    b"GET /\xff HTTP/1.1",
    b"GET http://[::1 HTTP/1.1",
    b"GET http://elsewhere/healthz HTTP/1.1",
    b"GET /v1/decisions/%00%0d%0a HTTP/1.1",
    b"GET /v1/models/%ff HTTP/1.1",
    b"POST http://elsewhere/v1/chat/completions HTTP/1.1",
    b"POST /v1/chat%2Fcompletions HTTP/1.1",
    b"POST /V1/chat/completions HTTP/1.1",
    b"POST /v1/chat/completions#x HTTP/1.1",
    b"POST /v1/../v1/chat/completions HTTP/1.1",
    b"PRI * HTTP/2.0",
]


def test_odd_request_lines_get_an_answer_and_reach_no_upstream(start: Start) -> None:
    gateway, ups = start({"a": [plain()]})
    for line in ODD:
        with gateway.connect() as conn:
            conn.settimeout(3)
            conn.sendall(line + f"\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 2\r\n\r\n{{}}".encode())
            data = b""
            while b"\r\n\r\n" not in data and (more := conn.recv(65536)):
                data += more
        assert re.match(rb"HTTP/1.1 [2-4]\d\d ", data), (line, data)
    assert ups["a"].requests == []
    assert no_traceback(gateway)


@pytest.mark.parametrize(
    "framing",
    [
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding:\tchunked\r\nContent-Length: 3",
        "Content-Length: 5\r\ncontent-length: 5",
        "Content-Length: +5",
        "Content-Length: 0x5",
        "Content-Length: 5,5",
        "Content-Length: -1",
        "Content-Length:",
        "Content-Length: 5\nX: y",
        "X: a\rb\r\nContent-Length: 5",
        "Host: y\r\nContent-Length: 2",
    ],
)
def test_framing_that_two_servers_could_read_differently_is_refused(start: Start, framing: str) -> None:
    gateway, ups = start({"a": [plain()]})
    body = json.dumps(chat("a")).encode()
    with gateway.connect() as conn:
        conn.sendall(head(None, framing) + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        got = read_to_the_end(conn, 3)
    assert re.match(rb"HTTP/1.1 4\d\d ", got)
    assert got.count(b"HTTP/1.1 ") == 1
    assert ups["a"].requests == []


def test_uploads_to_nowhere_do_not_use_up_the_room_for_uploads(start: Start) -> None:
    gateway, _ = start({"a": [plain()]})
    held = []
    for _ in range(8):
        conn = gateway.connect()
        conn.sendall(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 63999999\r\n\r\n")
        held.append(conn)
    assert gateway.get("/healthz").status_code == 200  # they have been read
    answer = gateway.post(chat("a", text="x" * 120_000))  # fits the window even where every byte counts as a token
    for conn in held:
        conn.close()
    assert answer.status_code == 200


def test_a_body_that_stalls_after_a_fast_start_is_ended(start: Start) -> None:
    gateway, _ = start({"a": [plain()]}, limits={"request_head": "500ms", "min_upload_rate": "1kB"})
    for path in ("/nowhere", "/v1/chat/completions"):
        with gateway.connect() as conn:
            conn.sendall(head(2_001, path=path) + b"x" * 2_000)
            assert read_to_the_end(conn, 6).startswith((b"HTTP/1.1 408", b"HTTP/1.1 404"))


@pytest.mark.parametrize(("most", "key", "status"), [("1MB", KEY, 413), ("64MB", "sk-wrong-wrong", 401)])
def test_the_refusal_of_a_large_body_can_be_read(start: Start, most: str, key: str, status: int) -> None:
    gateway, _ = start({"a": [plain()]}, limits={"max_body": most})
    for _ in range(3):
        assert gateway.post(b'{"x":"' + b"a" * 5_000_000 + b'"}', key=key).status_code == status


def test_an_expired_key_is_refused_on_a_kept_connection(tmp_path: Path) -> None:
    shift, library = tmp_path / "shift", tmp_path / "library"
    library.mkdir()
    (library / "sitecustomize.py").write_text(
        "import os, time\n"
        "real = time.time\n"
        f"time.time = lambda: real() + (3 * 86_400 if os.path.exists({str(shift)!r}) else 0)\n"
    )
    up = Upstream([plain()])
    settings = config({"a": up})
    settings["keys"][0]["expires"] = (datetime.date.today() + datetime.timedelta(days=1)).isoformat()
    with running(tmp_path, settings, PYTHONPATH=str(library)) as gateway, gateway.connect() as conn:
        conn.sendall(request())
        assert read_answer(conn)[0].startswith(b"HTTP/1.1 200")
        shift.touch()
        conn.sendall(request())
        assert read_answer(conn)[0].startswith(b"HTTP/1.1 401")
        assert gateway.post(chat("a")).status_code == 401
    up.close()


# -- what is not read, and who leaves --


def test_answers_that_nobody_reads_stop_further_requests(start: Start) -> None:
    gateway, ups = start({"a": [long_answer(4)]}, timeouts=PATIENT)
    with slow_reader(gateway) as conn:
        conn.sendall(request() * 40)
        assert settled(lambda: len(ups["a"].requests)) < 10


IMPATIENT = (
    "-c",
    "import sys; from gateway import cli; from gateway.proxy import downstream; downstream.WRITE_STALL_S = 0.5; "
    "sys.exit(cli.main(['serve', '--config', sys.argv[1]]))",
)


def test_a_client_who_never_reads_is_let_go(tmp_path: Path) -> None:
    up = Upstream([long_answer(8)])
    with running(tmp_path, config({"a": up}, limits={"keep_alive": "500ms"}), command=IMPATIENT) as gateway:
        for last in (b"", b"GET / HTTP/9\r\n\r\n"):  # kept alive, and closing
            with slow_reader(gateway) as conn:
                conn.sendall(request() + last)
                assert eventually(lambda: any(held for _, held in _sockets(gateway)))
                assert eventually(lambda: not any(held for _, held in _sockets(gateway))), "it is still held"
    up.close()


def test_a_stream_behind_an_unread_answer_is_paced(start: Start) -> None:
    flood = Flood()
    gateway, _ = start({"a": [long_answer(8), flood]}, timeouts=PATIENT)
    with slow_reader(gateway) as conn:
        conn.sendall(request() + request(stream=True))
        assert settled(lambda: flood.sent) < 40 << 20


def test_a_slow_client_is_not_the_target_s_fault(start: Start) -> None:
    gateway, _ = start({"a": [Flood()]}, timeouts={**PATIENT, "idle": "400ms"})
    conns = [slow_reader(gateway) for _ in range(5)]
    for conn in conns:
        conn.sendall(request(stream=True))
    assert not eventually(lambda: gateway.get("/v1/targets", admin=True).json()["data"][0]["failures"] > 0, 2)
    for conn in conns:
        conn.close()


def test_a_client_that_leaves_with_much_unread_is_noticed(start: Start) -> None:
    gateway, ups = start({"a": [hang]}, timeouts=PATIENT)
    with gateway.connect() as conn:
        conn.sendall(request())
        assert eventually(lambda: bool(ups["a"].requests))
        conn.setblocking(False)
        try:
            for _ in range(100):
                conn.send(b"x" * 100_000)
        except BlockingIOError:
            pass
    assert eventually(lambda: bool(ups["a"].closed_at)), "the upstream still works for nobody"
