"""Large bodies through a running gateway: sent on as they came, in pieces, while others are served."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Gateway, Received, Script, Upstream, chat, config, eventually, plain, running
from tests.proxy.test_process import certificate
from tests.proxy.test_requests import head, read_answer

__all__ = ["certificate"]  # a fixture

TEXT = "Some words, an émigré's, and 「漢字」 too: 😀\n" * 120_000  # 7 MB


@contextmanager
def gateway_of(where: Path, urls: dict[str, str], ca: Path | None = None, **over: Any) -> Iterator[Gateway]:
    """A gateway whose targets hold anything."""
    settings = config(urls, **over)
    for name in urls:
        settings["targets"][name]["window"] = "100M"
        if ca is not None:
            settings["backends"][name]["ca_file"] = str(ca)
    with running(where, settings) as gateway:
        yield gateway


@contextmanager
def scripted(*scripts: Script, tls: tuple[Path, Path] | None = None) -> Iterator[Upstream]:
    context = None
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
    upstream = Upstream(list(scripts), tls=context)
    yield upstream
    upstream.close()


@contextmanager
def by_hand() -> Iterator[tuple[socket.socket, str]]:
    """A listener for an upstream that reads when the test says so, and its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        yield listener, f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


def read_head(conn: socket.socket) -> int:
    """Read as far as a request's head; how many bytes came."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += conn.recv(65536)
    return len(data)


def body_of(style: str) -> bytes:
    asked = chat("a", TEXT, temperature=0.70, user="é")
    if style == "turns":
        asked["messages"] = [{"role": "user", "content": TEXT[at : at + 3_000]} for at in range(0, len(TEXT), 3_000)]
    spaces = (", ", ": ") if style == "spaced" else (",", ":")
    return json.dumps(asked, ensure_ascii=style == "escaped", separators=spaces).encode()


def expected(body: bytes) -> Any:
    return {**json.loads(body), "model": "m"}


@pytest.mark.parametrize("style", ["plain", "escaped", "spaced", "turns"])
@pytest.mark.parametrize("secure", [False, True])
def test_every_byte_arrives(tmp_path: Path, certificate: tuple[Path, Path], style: str, secure: bool) -> None:
    body = body_of(style)
    with (
        scripted(plain(), tls=certificate if secure else None) as up,
        gateway_of(tmp_path, {"a": up.url}, certificate[0] if secure else None) as gateway,
    ):
        for _ in range(2):  # the second on the same connections
            assert gateway.post(body).status_code == 200
        for received in up.requests:
            assert received.json == expected(body)
            assert body[body.index(b'"messages"') + 12 : -200] in received.body  # its own text, not another spelling
        assert (len(up.requests), up.connections) == (2, 1)


def test_what_comes_behind_a_large_body_is_the_next_request(tmp_path: Path) -> None:
    small = json.dumps(chat("a")).encode()
    large = [body_of("plain"), body_of("escaped")]
    with (
        scripted(*[plain()] * 4) as up,
        gateway_of(tmp_path, {"a": up.url}) as gateway,
        gateway.connect() as conn,
    ):
        for body in large:
            conn.sendall(head(len(body)) + body + head(len(small)) + small)
            behind = b""
            for _ in range(2):
                first, _, behind = read_answer(conn, behind)
                assert first.startswith(b"HTTP/1.1 200")
        assert [one.json for one in up.requests] == [expected(body) for one in large for body in (one, small)]


def test_a_large_body_that_stops_coming_is_given_up(tmp_path: Path) -> None:
    body = body_of("plain")
    with scripted(plain()) as up, gateway_of(tmp_path, {"a": up.url}) as gateway:
        for _ in range(3):
            with gateway.connect() as conn:
                conn.sendall(head(len(body)) + body[:6_000_000])
        assert gateway.post(body).status_code == 200
        assert [one.json for one in up.requests] == [expected(body)]


def test_a_large_body_that_crawls_is_ended_whatever_still_comes_of_it(tmp_path: Path) -> None:
    body = body_of("plain")
    with (
        scripted(plain()) as up,
        gateway_of(tmp_path, {"a": up.url}, limits={"request_head": "300ms"}) as gateway,
        gateway.connect() as conn,
    ):
        conn.sendall(head(len(body)) + body[:6_000_000])
        first, answer, behind = read_answer(conn)
        assert first.startswith(b"HTTP/1.1 408")
        assert json.loads(answer)["error"]["code"] == "request_timeout"
        with suppress(OSError):
            conn.sendall(body[6_000_000:])
        with suppress(ConnectionResetError):
            assert behind + conn.recv(65536) == b""
        assert gateway.post(body).status_code == 200
        assert [one.json for one in up.requests] == [expected(body)]


def test_a_chunked_upload_arrives_with_a_length(tmp_path: Path) -> None:
    body = body_of("plain")
    with (
        scripted(plain()) as up,
        gateway_of(tmp_path, {"a": up.url}) as gateway,
        gateway.connect() as conn,
    ):
        conn.sendall(head(None, "Transfer-Encoding: chunked"))
        for at in range(0, len(body), 99_991):
            piece = body[at : at + 99_991]
            conn.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        conn.sendall(b"0\r\n\r\n")
        assert read_answer(conn)[0].startswith(b"HTTP/1.1 200")
        assert up.requests[0].json == expected(body)


def test_the_next_target_gets_the_same_bytes(tmp_path: Path) -> None:
    body = body_of("plain").replace(b'"model":"a"', b'"model":"auto"', 1)
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies/both.yaml").write_text(
        json.dumps({"policy": "both", "rules": [{"id": "all", "use": [{"target.name": "a"}, {"target.name": "b"}]}]})
    )
    with (
        scripted(plain(500, b"{}")) as a,
        scripted(plain()) as b,
        gateway_of(tmp_path, {"a": a.url, "b": b.url}, policies={"dir": "policies", "default": "both"}) as gateway,
    ):
        answer = gateway.post(body)
        assert (answer.status_code, answer.headers["x-pointsman-attempts"]) == (200, "2")
        assert a.requests[0].json == b.requests[0].json == expected(body)


def test_what_is_left_of_a_body_goes_before_no_other_request(tmp_path: Path) -> None:
    """An upstream that answers from the head alone: the answer counts, the connection does not."""
    with by_hand() as (listener, url), gateway_of(tmp_path, {"a": url}) as gateway:
        held: list[socket.socket] = []

        def serve() -> None:
            for _ in range(2):
                conn, _address = listener.accept()
                held.append(conn)
                read_head(conn)
                plain(422, b'{"error":{"message":"not for me"}}')(conn, Received(b"", b""))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        for _ in range(2):
            assert gateway.post(body_of("plain")).status_code == 422
        thread.join(10)
        assert len(held) == 2
        for conn in held:
            conn.close()


def test_others_are_served_while_an_upstream_takes_its_time(tmp_path: Path) -> None:
    body = body_of("plain")
    answers: list[int] = []
    with (
        by_hand() as (listener, url),
        scripted(plain()) as b,
        gateway_of(tmp_path, {"a": url, "b": b.url}) as gateway,
    ):
        client = threading.Thread(target=lambda: answers.append(gateway.post(body).status_code))
        client.start()
        conn, _ = listener.accept()
        with conn:
            for _ in range(5):
                assert gateway.post(chat("b")).status_code == 200
            assert not answers
            taken = read_head(conn)
            while taken < len(body):
                taken += len(conn.recv(1 << 20))
            plain()(conn, Received(b"", b""))
            client.join(20)
    assert answers == [200]


def test_a_client_that_leaves_takes_the_upstream_with_it(tmp_path: Path) -> None:
    body = body_of("plain")
    with by_hand() as (listener, url), gateway_of(tmp_path, {"a": url}) as gateway:
        with gateway.connect() as client:
            client.sendall(head(len(body)) + body)
            conn, _ = listener.accept()
            read_head(conn)
        assert eventually(lambda: any('"status":499' in line for line in gateway.lines))
        with conn:
            conn.settimeout(10)
            received = 0
            try:
                while more := len(conn.recv(1 << 20)):
                    received += more
            except ConnectionResetError:
                pass
            assert received < len(body)


@pytest.mark.parametrize(
    ("hostile", "told"),
    [
        (b'"z":"' + b"x" * 5_000_000 + b'","z":1', "duplicate key"),
        (b'"z":[' + b"{}," * 2_000_000 + b"1]", "more than 100,000 values"),
        (b'"z":"' + b"x" * 5_000_000 + b"\xff" + b'"', "UTF-8"),
        (b'"z":"' + b"x" * 5_000_000 + b'"}', "not valid JSON"),
        (b'"z":1' + b" " * 5_000_000, "white space"),
        (b'"' + b"z" * 5_000_000 + b'":1', "key of more than"),
    ],
    ids=["twice", "crowd", "no UTF-8", "two braces", "space", "long key"],
)
def test_what_is_no_request_is_refused_and_the_connection_lives(tmp_path: Path, hostile: bytes, told: str) -> None:
    body = b'{"model":"a","messages":[{"role":"user","content":"hi"}],' + hostile + b"}"
    with (
        scripted(plain()) as up,
        gateway_of(tmp_path, {"a": up.url}) as gateway,
        gateway.connect() as conn,
    ):
        conn.sendall(head(len(body)) + body)
        first, answer, _ = read_answer(conn)
        assert first.startswith(b"HTTP/1.1 400")
        assert told in json.loads(answer)["error"]["message"]
        small = json.dumps(chat("a")).encode()
        conn.sendall(head(len(small)) + small)
        assert read_answer(conn)[0].startswith(b"HTTP/1.1 200")
        assert len(up.requests) == 1
