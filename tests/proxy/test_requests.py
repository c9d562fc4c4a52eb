"""Requests through a running gateway: what a client sends, what the upstream gets, what comes back."""

from __future__ import annotations

import hashlib
import itertools
import json
import socket
import time

import pytest

from gateway.proxy.framing import Chunked
from tests.harness import (
    COMPLETION,
    KEY,
    SSE_HEAD,
    STREAM,
    Received,
    chat,
    chunk,
    config,
    framed,
    hang,
    plain,
    raw,
    stream,
)
from tests.proxy.conftest import Start


def head(length: int | None = None, *lines: str, path: str = "/v1/chat/completions") -> bytes:
    framing = [] if length is None else [f"Content-Length: {length}"]
    all_lines = [f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {KEY}", *framing, *lines, "", ""]
    return "\r\n".join(all_lines).encode()


def read_answer(conn: socket.socket, held: bytes = b"") -> tuple[bytes, bytes, bytes]:
    """(head, body, what came behind) of one answer with a length."""
    data = held
    while b"\r\n\r\n" not in data:
        more = conn.recv(65536)
        assert more, f"closed after {data!r}"
        data += more
    first, _, rest = data.partition(b"\r\n\r\n")
    length = int(first.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    while len(rest) < length:
        more = conn.recv(65536)
        assert more
        rest += more
    return first, rest[:length], rest[length:]


def test_an_answer_comes_back_byte_for_byte_with_its_decision_in_the_head(start: Start) -> None:
    body = json.dumps(COMPLETION, indent=3).encode()
    gateway, ups = start({"a": [plain(body=body)]})
    answer = gateway.post(chat("a"))
    assert (answer.status_code, answer.content) == (200, body)
    told = answer.headers
    assert told["x-pointsman-target"] == "a"
    assert told["x-pointsman-rule"] == "pin"
    assert told["x-pointsman-model"] == "llama-3.3-70b"
    assert told["x-pointsman-attempts"] == "1"
    assert float(told["x-pointsman-overhead-ms"]) < 1000
    assert told["x-pointsman-cost-usd"] == "0.000014000"  # 10 x 1 + 2 x 2 USD per million
    assert len(told["x-request-id"]) == 32
    sent = ups["a"].requests[0]
    assert sent.json == {"model": "m", "messages": [{"role": "user", "content": "Say hello."}]}
    assert sent.header("authorization") == "Bearer sk-upstream-canary-1"
    assert sent.header("accept-encoding") == "identity"


def test_only_headers_of_our_own_go_upstream(start: Start) -> None:
    gateway, ups = start({"a": [plain()]})
    gateway.post(chat("a"), cookie="session=1", x_forwarded_for="1.2.3.4", x_secret="s", openai_organization="o")
    names = {line.partition(b":")[0].lower().decode() for line in ups["a"].requests[0].head.split(b"\r\n")[1:]}
    ours = "host authorization user-agent accept accept-encoding content-type content-length x-request-id"
    assert names == set(ours.split())


def test_a_stream_comes_back_byte_for_byte_without_the_usage_nobody_asked_for(start: Start) -> None:
    gateway, ups = start({"a": [stream()]})
    answer = gateway.post(chat("a", stream=True))
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.content == b"".join(event for event in STREAM if b"prompt_tokens" not in event)
    assert ups["a"].requests[0].json["stream_options"] == {"include_usage": True}


def test_usage_is_kept_for_who_asks_for_it(start: Start) -> None:
    gateway, _ = start({"a": [stream()]})
    answer = gateway.post(chat("a", stream=True, stream_options={"include_usage": True}))
    assert answer.content == b"".join(STREAM)


def test_events_arrive_as_they_are_produced(start: Start) -> None:
    gateway, _ = start({"a": [stream(pause_s=0.2)]})
    body = json.dumps(chat("a", stream=True)).encode()
    with gateway.connect() as conn:
        conn.sendall(head(len(body)) + body)
        times, data = [], b""
        while b"0\r\n\r\n" not in data:
            data += conn.recv(65536)
            times.append(time.monotonic())
    assert len(times) >= 4
    assert sum(later - earlier > 0.1 for earlier, later in itertools.pairwise(times)) >= 3


def test_unknown_members_go_through_and_hosts_do_not(start: Start) -> None:
    gateway, ups = start({"a": [plain()]})
    gateway.post(
        chat("a", foo={"bar": [1, 2.50]}, api_base="http://evil", base_url="http://evil", seed=12345678901234567890123)
    )
    sent = ups["a"].requests[0]
    assert sent.json["foo"] == {"bar": [1, 2.5]}
    assert b"12345678901234567890123" in sent.body
    assert b"evil" not in sent.body


def test_a_chunked_request_body_is_assembled(start: Start) -> None:
    gateway, ups = start({"a": [plain()]})
    body = json.dumps(chat("a")).encode()
    with gateway.connect() as conn:
        message = head(None, "Transfer-Encoding: chunked") + framed(body[:7]) + framed(body[7:]) + b"0\r\n\r\n"
        for at in range(0, len(message), 11):
            conn.sendall(message[at : at + 11])
            time.sleep(0.001)
        first, _, _ = read_answer(conn)
    assert first.startswith(b"HTTP/1.1 200")
    assert ups["a"].requests[0].json["messages"] == chat()["messages"]


def test_100_continue_is_sent_before_the_body_is_asked_for(start: Start) -> None:
    gateway, _ = start({"a": [plain()]})
    body = json.dumps(chat("a")).encode()
    with gateway.connect() as conn:
        conn.sendall(head(len(body), "Expect: 100-continue"))
        assert conn.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        conn.sendall(body)
        assert read_answer(conn)[0].startswith(b"HTTP/1.1 200")


def test_a_bad_key_is_refused_without_asking_for_the_body(start: Start) -> None:
    gateway, _ = start({"a": [plain()]})
    with gateway.connect() as conn:
        conn.sendall(head(10_000, "Expect: 100-continue").replace(KEY.encode(), b"sk-wrong-wrong"))
        first, _, _ = read_answer(conn)
    assert first.startswith(b"HTTP/1.1 401")


def test_pipelined_requests_hot_and_cold_are_answered_in_order(start: Start) -> None:
    gateway, ups = start({"a": [plain()]})
    body = json.dumps(chat("a")).encode()
    hot = head(len(body)) + body
    cold = f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()
    health = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with gateway.connect() as conn:
        conn.sendall(hot + cold + hot + health + cold + hot)
        held, bodies = b"", []
        for _ in range(6):
            first, answer, held = read_answer(conn, held)
            assert first.startswith(b"HTTP/1.1 200"), first
            bodies.append(json.loads(answer))
        assert held == b""
    kinds = [b.get("object") or b.get("status") for b in bodies]
    assert kinds == ["chat.completion", "list", "chat.completion", "ok", "list", "chat.completion"]
    assert ups["a"].connections == 1


def test_a_thousand_pipelined_requests_do_not_nest(start: Start) -> None:
    gateway, _ = start({"a": [plain()]})
    body = json.dumps(chat("a")).encode()
    with gateway.connect() as conn:
        conn.sendall((head(len(body)) + body) * 1000)
        held = b""
        for _ in range(1000):
            first, _, held = read_answer(conn, held)
            assert first.startswith(b"HTTP/1.1 200")


def test_a_client_may_close_its_connection_by_header(start: Start) -> None:
    gateway, _ = start({"a": [plain()]})
    body = json.dumps(chat("a")).encode()
    with gateway.connect() as conn:
        conn.sendall(head(len(body), "Connection: close") + body)
        first, _, _ = read_answer(conn)
        assert b"connection: close" in first.lower()
        assert conn.recv(1) == b""


def test_an_http_1_0_client_gets_a_stream_without_chunks(start: Start) -> None:
    gateway, _ = start({"a": [stream()]})
    body = json.dumps(chat("a", stream=True)).encode()
    with gateway.connect() as conn:
        conn.sendall(head(len(body)).replace(b"HTTP/1.1", b"HTTP/1.0") + body)
        data = b""
        while more := conn.recv(65536):
            data += more
    assert data.partition(b"\r\n\r\n")[2] == b"".join(event for event in STREAM if b"prompt_tokens" not in event)


def test_the_upstream_connection_is_kept_and_shared(start: Start) -> None:
    gateway, ups = start({"a": [plain(), stream(), plain()]})
    for more in ({}, {"stream": True}, {}):
        assert gateway.post(chat("a", **more)).status_code == 200
    assert ups["a"].connections == 1


def test_a_stale_connection_is_replaced_without_anybody_noticing(start: Start) -> None:
    def once(conn: socket.socket, request: Received) -> bool:
        plain()(conn, request)
        time.sleep(0.05)
        return False

    gateway, ups = start({"a": [once, plain()]})
    assert gateway.post(chat("a")).status_code == 200
    # The upstream closes after the answer; whether we notice before or while reusing, the client must not.
    for _ in range(3):
        assert gateway.post(chat("a")).status_code == 200
    assert ups["a"].connections >= 2


def test_a_client_that_leaves_cancels_its_upstream_within_a_second(start: Start) -> None:
    gateway, ups = start({"a": [stream(STREAM[:2], end="hang"), hang]})
    body = json.dumps(chat("a", stream=True)).encode()
    with gateway.connect() as conn:
        conn.sendall(head(len(body)) + body)
        assert b"Hel" in conn.recv(65536) + conn.recv(65536)
    left = time.monotonic()
    wait_for(lambda: len(ups["a"].closed_at) == 1)
    assert ups["a"].closed_at[0] - left < 1.0
    with gateway.connect() as conn:  # and before any byte of an answer
        conn.sendall(head(len(body)) + body)
        wait_for(lambda: len(ups["a"].requests) == 2)
    left = time.monotonic()
    wait_for(lambda: len(ups["a"].closed_at) == 2)
    assert ups["a"].closed_at[1] - left < 1.0
    wait_for(
        lambda: (
            gateway.metric('pointsman_requests_total{code="client_gone"')
            + gateway.metric("pointsman_client_disconnect_total")
            >= 2
        )
    )


def wait_for(condition, timeout_s: float = 5.0) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_a_slow_reader_pauses_the_upstream_and_loses_nothing(start: Start) -> None:
    sent = []

    def flood(conn: socket.socket, _: Received) -> bool:
        conn.sendall(SSE_HEAD + framed(STREAM[0]) + framed(STREAM[1]))
        for _ in range(300):
            conn.sendall(framed(b"data: {" + b" " * 100_000 + b"}\n\n"))
            sent.append(time.monotonic())
        conn.sendall(framed(STREAM[3]) + framed(STREAM[5]) + b"0\r\n\r\n")
        return True

    gateway, _ = start({"a": [flood]})
    body = json.dumps(chat("a", stream=True)).encode()
    with gateway.connect() as conn:
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        conn.sendall(head(len(body)) + body)
        conn.recv(1000)
        time.sleep(1.5)
        held_back = len(sent)
        total = 1000
        while True:
            data = conn.recv(1 << 20)
            total += len(data)
            if data.endswith(b"0\r\n\r\n") or not data:
                break
    assert held_back < 290, "30 MB went into the gateway although nobody read them"
    assert total > 30_000_000


@pytest.mark.parametrize("version", ["1.1", "1.0"])
@pytest.mark.parametrize("reads", [1 << 20, 40_011, 5_003])
def test_a_flood_of_events_arrives_as_it_was_sent_however_it_is_cut(start: Start, version: str, reads: int) -> None:
    events = [STREAM[0], *[chunk(f" word {n}") for n in range(3_000)], chunk(" an error"), *[chunk(" so")] * 300]
    answer = b"".join(map(framed, [*events, STREAM[3], STREAM[5]])) + b"0\r\n\r\n"

    def flood(conn: socket.socket, _: Received) -> bool:
        conn.sendall(SSE_HEAD)
        for at in range(0, len(answer), reads):
            conn.sendall(answer[at : at + reads])
            time.sleep(0.001)
        return True

    gateway, _ = start({"a": [flood]})
    body = json.dumps(chat("a", stream=True)).encode()
    came = b""
    with gateway.connect() as conn:
        conn.sendall(head(len(body), "Connection: close").replace(b"HTTP/1.1", b"HTTP/" + version.encode()) + body)
        while more := conn.recv(1 << 20):
            came += more
    first, _, came = came.partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 200 ")
    if version == "1.1":
        decoder = Chunked()
        came = decoder.feed(came)
        assert decoder.done
    assert came == b"".join([*events, STREAM[3], STREAM[5]])


@pytest.mark.parametrize("keep", [True, False])
def test_a_connection_with_bytes_nobody_asked_for_is_not_reused(start: Start, keep: bool) -> None:
    answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
        len(json.dumps(COMPLETION)),
        json.dumps(COMPLETION).encode(),
    )
    gateway, ups = start({"a": [raw(answer + b"HTTP/1.1 200 OK\r\n", keep=keep), plain()]})
    first = gateway.post(chat("a"))
    second = gateway.post(chat("a"))
    assert {first.status_code, second.status_code} <= {200, 502}
    assert second.status_code == 200
    assert ups["a"].connections == 2


THOUGHT = [
    chunk(role="assistant"),
    b'data: {"choices":[{"index":0,"delta":{"reasoning":"Hm."}}]}\n\n',
    chunk("Hello."),
    chunk(finish="stop"),
    b"data: [DONE]\n\n",
]
THOUGHTFUL = COMPLETION | {
    "choices": [{"index": 0, "message": {"content": "Hello.", "reasoning": "Hm."}, "finish_reason": "stop"}]
}


def test_reasoning_comes_as_it_is_spelt_unless_a_setting_says_otherwise(start: Start) -> None:
    gateway, _ = start({"a": [plain(body=json.dumps(THOUGHTFUL).encode()), stream(THOUGHT)]})
    assert gateway.post(chat("a")).json() == THOUGHTFUL
    assert gateway.post(chat("a", stream=True)).content == b"".join(THOUGHT)


def test_a_site_s_spelling_of_reasoning_holds_for_all_and_a_key_s_before_it(start: Start) -> None:
    keys = config({})["keys"]
    keys.append({"name": "other", "sha256": hashlib.sha256(b"sk-other").hexdigest(), "reasoning": "reasoning"})
    answers = [plain(body=json.dumps(THOUGHTFUL).encode())] * 2 + [stream(THOUGHT)] * 2
    gateway, _ = start({"a": answers}, keys=keys, reasoning="reasoning_content")
    message = gateway.post(chat("a")).json()["choices"][0]["message"]
    assert message == {"content": "Hello.", "reasoning_content": "Hm."}
    assert gateway.post(chat("a"), key="sk-other").json() == THOUGHTFUL
    asked = [chat("a", stream=True)] * 2
    respelt, as_sent = gateway.post(asked[0]).content, gateway.post(asked[1], key="sk-other").content
    assert respelt == b"".join(THOUGHT).replace(b'"reasoning"', b'"reasoning_content"')
    assert as_sent == b"".join(THOUGHT)


def test_without_keys_the_site_s_spelling_holds_for_everyone(start: Start) -> None:
    gateway, _ = start({"a": [stream(THOUGHT)]}, keys=[], reasoning="reasoning_content")
    assert b'"reasoning_content":"Hm."' in gateway.post(chat("a", stream=True), key=None).content
