"""What happens when a client misbehaves: a prompt, typed refusal, and nothing upstream."""

from __future__ import annotations

import json
import time

import pytest

from tests.harness import KEY, chat, plain
from tests.proxy.conftest import Start
from tests.proxy.test_requests import head, read_answer


def rejected(gateway, data: bytes):  # type: ignore[no-untyped-def]
    """Send bytes, expect one error and a closed connection."""
    with gateway.connect() as conn:
        conn.sendall(data)
        first, body, rest = read_answer(conn)
        assert rest == b""
        assert conn.recv(1) == b""
    return int(first.split(b" ")[1]), json.loads(body)["error"]


def test_smuggling_and_malformed_heads_are_refused_and_closed(start: Start) -> None:
    gateway, ups = start({"a": [plain()]})
    body = json.dumps(chat("a")).encode()
    good = head(len(body))
    for data in (
        good.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n") + body,
        good.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n") + body,
        good.replace(b"\r\n", b"\n") + b"\r\n\r\n",
        good.replace(b"Host: x", b"Host: x\r\n folded"),
        good.replace(b"Host: x", b"Host: x\x00"),
        b"POST /v1/chat/completions HTTP/1.1\r\n" + b"x: " + b"y" * 70_000,
        head(None, "Transfer-Encoding: chunked") + b"0x5\r\nhello\r\n0\r\n\r\n",
        head(None, "Transfer-Encoding: chunked") + b"5;a\nhello\r\n0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ):
        status, error = rejected(gateway, data)
        assert (status, error["code"]) == (400, "bad_request"), data[:80]
    assert ups["a"].requests == []


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"[]", "invalid_json", None),
        (b"{", "invalid_json", None),
        (b'{"model":"a","messages":[{"role":"user","content":"x"}],"temperature":NaN}', "invalid_json", None),
        (b'{"model":"a","model":"a","messages":[{"role":"user","content":"x"}]}', "invalid_json", None),
        (b'{"model":"a","messages":[{"role":"user","role":"user","content":"x"}]}', "invalid_json", None),
        (b'{"model":"a","messages":[{"role":"user","content":"\xff"}]}', "invalid_json", None),
        (b'{"model":"a","messages":[{"role":"user","content":"\\ud800"}]}', "invalid_json", None),
        (b'{"model":"a","messages":' + b"[" * 5000 + b"]" * 5000 + b"}", "invalid_json", None),
        (b'{"messages":[{"role":"user","content":"x"}]}', "bad_request", "model"),
        (b'{"model":7,"messages":[{"role":"user","content":"x"}]}', "bad_request", "model"),
        (b'{"model":"a"}', "bad_request", "messages"),
        (b'{"model":"a","messages":[]}', "bad_request", "messages"),
        (b'{"model":"a","messages":[{"role":"user","content":"x"}],"stream":"yes"}', "bad_request", "stream"),
        (b'{"model":"a","messages":[{"role":"user","content":"x"}],"max_tokens":-1}', "bad_request", "max_tokens"),
    ],
)
def test_a_body_that_is_wrong_is_refused_by_name(start: Start, body: bytes, code: str, param: str | None) -> None:
    gateway, ups = start({"a": [plain()]})
    answer = gateway.post(body)
    assert answer.status_code == 400
    assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == (code, param)
    assert gateway.post(chat("a")).status_code == 200, "the connection or the process did not survive"
    assert len(ups["a"].requests) == 1


def test_names_and_keys_that_are_wrong_get_their_status(start: Start) -> None:
    gateway, ups = start({"a": [plain()]})
    for answer, status, code in (
        (gateway.post(chat("nobody-knows-it")), 404, "model_not_found"),
        (gateway.post(chat("a"), key=None), 401, "invalid_api_key"),
        (gateway.post(chat("a"), key="sk-wrong-wrong"), 401, "invalid_api_key"),
        (gateway.post(chat("a"), key="x' OR 1=1 --"), 401, "invalid_api_key"),
        (gateway.post(chat("a"), path="/v1/embeddings"), 404, "not_found"),
        (gateway.post(chat("a"), path="/v1/images/generations"), 404, "not_found"),
        (gateway.post(chat("a"), path="//v1/chat/completions"), 404, "not_found"),
        (gateway.post(chat("a"), path="/v1/chat/completions/"), 404, "not_found"),
        (gateway.get("/v1/chat/completions"), 405, "method_not_allowed"),
        (gateway.post(chat("a"), content_encoding="gzip"), 415, "unsupported_encoding"),
        (gateway.post(chat("a"), x_pointsman_cost="cheapish"), 400, "bad_request"),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert answer.headers["x-request-id"]
    for path in ("/v1/images/generations", "/v1/embeddings", "/v1/responses"):
        message = gateway.post(chat("a"), path=path).json()["error"]["message"]
        assert message.startswith("Pointsman routes chat completions, no other calls: ")
    assert ups["a"].requests == []


def test_a_body_over_the_limit_is_refused_before_it_is_read(start: Start) -> None:
    gateway, ups = start({"a": [plain()]}, limits={"max_body": "1MB"})
    status, error = rejected(gateway, head(2_000_000))
    assert (status, error["code"]) == (413, "request_too_large")
    chunks = (
        head(None, "Transfer-Encoding: chunked") + b"80000\r\n" + b"x" * 0x80000 + b"\r\n80000\r\n" + b"x" * 0x80000
    )
    status, error = rejected(gateway, chunks)
    assert (status, error["code"]) == (413, "request_too_large")
    assert ups["a"].requests == []


def test_half_sent_heads_and_crawling_bodies_are_ended(start: Start) -> None:
    gateway, _ = start({"a": [plain()]}, limits={"request_head": "500ms", "min_upload_rate": "10kB"})
    begun = time.monotonic()
    status, error = rejected(gateway, b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n")
    assert (status, error["code"]) == (408, "request_timeout")
    status, error = rejected(gateway, head(100_000) + b"{")
    assert (status, error["code"]) == (408, "request_timeout")
    assert time.monotonic() - begun < 5


def test_idle_connections_are_closed_quietly(start: Start) -> None:
    gateway, _ = start({"a": [plain()]}, limits={"keep_alive": "300ms"})
    body = json.dumps(chat("a")).encode()
    with gateway.connect() as conn:
        conn.sendall(head(len(body)) + body)
        read_answer(conn)
        assert conn.recv(1) == b""
    with gateway.connect() as conn:
        assert conn.recv(1) == b""


def test_connections_over_the_limit_are_told_so(start: Start) -> None:
    gateway, _ = start({"a": [plain()]}, limits={"max_connections": 3})
    held = [gateway.connect() for _ in range(3)]
    time.sleep(0.1)
    with gateway.connect() as conn:
        first, body, _ = read_answer(conn)
    assert first.startswith(b"HTTP/1.1 503")
    assert json.loads(body)["error"]["code"] == "overloaded"
    for conn in held:
        conn.close()


def test_a_key_cannot_be_read_from_a_cached_head_after_it_changed(start: Start) -> None:
    gateway, ups = start({"a": [plain()]})
    body = json.dumps(chat("a")).encode()
    with gateway.connect() as conn:
        conn.sendall(head(len(body)) + body)
        assert read_answer(conn)[0].startswith(b"HTTP/1.1 200")
        conn.sendall(head(len(body)).replace(KEY.encode(), KEY[:-1].encode() + b"X") + body)
        assert read_answer(conn)[0].startswith(b"HTTP/1.1 401")
    assert len(ups["a"].requests) == 1
