"""Upstreams that break every rule: an attempt fails as it should, the right one is blamed, and nothing is mixed up."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from typing import Any

import httpx
import pytest

from tests.harness import (
    COMPLETION,
    DONE,
    KEY,
    ROLE,
    SSE_HEAD,
    STOP,
    STREAM,
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
    stream,
)
from tests.proxy.conftest import Start

DEEP = b"[" * 20_000 + b"]" * 20_000
BOTH = "llama-3.3-70b"  # reaches a, then b
ERROR_500 = plain(500, b'{"error":{"message":"boom"}}')


def state(gateway: Gateway, target: str = "a") -> dict[str, Any]:
    rows = gateway.get("/v1/targets", admin=True).json()["data"]
    found: dict[str, Any] = next(row for row in rows if row["target"] == target)
    return found


def no_traceback(gateway: Gateway) -> bool:
    return not [line for line in gateway.lines if "Traceback" in line or "Fatal error" in line]


@pytest.mark.parametrize(
    ("script", "streamed"),
    [
        (plain(body=b'{"choices":[{"message":{"content":"x"},"z":' + DEEP + b"}]}"), False),
        (plain(400, b'{"error":{"message":' + DEEP + b"}}"), False),
        (plain(500, b'{"error":{"message":' + DEEP + b"}}"), False),
        (stream([b'data: {"choices":[{"index":0,"delta":{"content":"x"},"z":' + DEEP + b"}]}\n\n", STOP, DONE]), True),
    ],
    ids=["answer", "400", "500", "stream"],
)
def test_json_nested_thousands_of_levels_deep_is_an_ordinary_failure(
    start: Start, script: Script, streamed: bool
) -> None:
    gateway, _ = start({"a": [script], "b": [plain()]}, max_attempts=1)
    assert gateway.post(chat("a", stream=streamed)).status_code in (200, 400, 502)
    assert no_traceback(gateway)
    assert eventually(lambda: gateway.metric("pointsman_inflight") == 0)


def test_a_stream_with_a_length_in_one_read_is_a_stream(start: Start) -> None:
    gateway, _ = start({"a": [plain(body=b"".join(STREAM), content_type="text/event-stream")]})
    answer = gateway.post(chat("a", stream=True))
    assert answer.status_code == 200
    assert answer.content.endswith(DONE)


def test_the_last_event_before_a_cut_is_not_lost(start: Start) -> None:
    last = chunk("LAST").rstrip(b"\n")

    def script(conn: socket.socket, _: Received) -> bool:
        conn.sendall(SSE_HEAD + framed(ROLE) + framed(chunk("one")))
        time.sleep(0.1)
        conn.sendall(framed(last) + b"0\r\n\r\n")
        return True

    gateway, _ = start({"a": [script]})
    answer = gateway.post(chat("a", stream=True)).text
    assert "LAST" in answer
    assert "upstream_stream_interrupted" in answer


def test_a_finish_in_another_spelling_ends_a_stream(start: Start) -> None:
    def compact(event: bytes) -> bytes:
        return event.replace(b'": ', b'":').replace(b', "', b',"')

    gateway, _ = start({"a": [stream([compact(ROLE), compact(chunk("Hel")), compact(chunk("lo")), STOP, DONE])]})
    answer = gateway.post(chat("a", stream=True)).content
    assert b"error" not in answer
    assert answer.endswith(DONE)


def test_an_answer_cut_anywhere_is_noticed_and_leaves_nothing_behind(start: Start) -> None:
    payload = json.dumps(COMPLETION).encode()
    whole = b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(payload) + payload
    streamed = SSE_HEAD + b"".join(map(framed, STREAM)) + b"0\r\n\r\n"
    sent = [b""]

    def script(conn: socket.socket, _: Received) -> bool:
        conn.sendall(sent[0])
        return False

    gateway, _ = start({"a": [script]}, max_attempts=1)
    with httpx.Client(timeout=10, headers={"authorization": f"Bearer {KEY}"}) as client:
        for answer, stream_wanted in ((streamed, True), (whole, False)):
            for cut in range(0, len(answer), 11):
                sent[0] = answer[:cut]
                got = client.post(gateway.public + "/v1/chat/completions", json=chat("a", stream=stream_wanted))
                assert got.status_code in ((200, 502) if stream_wanted else (502,)), (cut, got.text)
                if got.status_code == 200:  # an error, or the whole answer where only the end marker was cut
                    assert ("error" in got.text) is not got.content.endswith(DONE)
    assert state(gateway)["inflight"] == 0
    assert gateway.metric("pointsman_inflight") == 0
    assert no_traceback(gateway)


def test_an_upstream_that_answered_before_it_read_the_request_is_not_used_again(start: Start) -> None:
    """What is left of the first request must not stand before the second one on the same connection."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    listener.bind(("127.0.0.1", 0))
    listener.listen(8)
    ends: list[bytes] = []

    def serve(conn: socket.socket, number: int) -> None:
        payload = b'{"error":{"message":"no"}}'
        head = b"HTTP/1.1 400 X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(payload)
        with conn, contextlib.suppress(OSError):
            conn.recv(2_000)
            conn.sendall(head + payload)
            time.sleep(0.3)  # the next request is sent while much of this one is unread
            while more := conn.recv(1 << 20):
                ends[number] = (ends[number] + more)[-600:]

    def accept() -> None:
        while True:
            try:
                conn, _ = listener.accept()
            except OSError:
                return
            ends.append(b"")
            threading.Thread(target=serve, args=(conn, len(ends) - 1), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    settings = config({"a": f"http://127.0.0.1:{listener.getsockname()[1]}/v1"})
    settings["targets"]["a"]["window"] = "10M"
    gateway, _ = start({"unused": [plain()]}, backends=settings["backends"], targets=settings["targets"])
    assert gateway.post(chat("a", text="word " * 1_200_000)).json()["error"]["message"] == "no"
    assert gateway.post(chat("a", text="SECOND")).json()["error"]["message"] == "no"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    assert len(ends) >= 2
    assert b"SECOND" not in ends[0]


def test_interim_answers_without_end_are_ended(start: Start) -> None:
    def flood(conn: socket.socket, _: Received) -> bool:
        while True:
            conn.sendall(b"HTTP/1.1 102 Processing\r\n\r\n" * 100)
            time.sleep(0.01)

    gateway, _ = start({"a": [flood], "b": [plain()]})
    begun = time.monotonic()
    assert gateway.post(chat(BOTH)).headers["x-pointsman-target"] == "b"
    assert time.monotonic() - begun < 5


def test_a_name_that_cannot_be_looked_up_is_a_refused_connection(start: Start) -> None:
    hosts = {"long": "x" * 70 + ".example", "dash": "-.invalid"}
    settings = config({name: f"http://{host}:9/v1" for name, host in hosts.items()})
    gateway, _ = start({"unused": [plain()]}, backends=settings["backends"], targets=settings["targets"])
    for name in hosts:
        answer = gateway.post(chat(name))
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_unavailable")
    assert no_traceback(gateway)


def replicas(first: dict[str, Any], urls: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The backends and targets of `first`, and in front of them a target `a` with several endpoints."""
    backends = {"a": {"dialect": "openai", "endpoints": urls}, **first["backends"]}
    pattern = next(iter(first["targets"].values()))
    targets = {"a": {**pattern, "backend": "a", "price": {"input": 0.1, "output": 0.1}}, **first["targets"]}
    return backends, targets


def test_a_fallback_with_one_endpoint_is_blamed_behind_a_target_with_several(start: Start) -> None:
    dead = [Upstream([ERROR_500]), Upstream([ERROR_500])]
    last = Upstream([ERROR_500])
    backends, targets = replicas(config({"b": last}), [up.url for up in dead])
    gateway, _ = start({"unused": [plain()]}, backends=backends, targets=targets)
    for _ in range(8):
        gateway.post(chat("auto"))
    blamed = state(gateway, "b")
    assert len(last.requests) >= 5
    assert blamed["failures"] >= 5 or blamed["state"] != "healthy"
    for up in (*dead, last):
        up.close()


def test_dead_replicas_cost_no_request(start: Start) -> None:
    up = Upstream([plain()])
    urls = ["http://127.0.0.1:1/v1", up.url, "http://[::1]:1/v1"]
    backends, targets = replicas(config({"b": up}), urls)
    gateway, _ = start({"unused": [plain()]}, backends=backends, targets={"a": targets["a"]})
    assert [gateway.post(chat("a")).status_code for _ in range(20)] == [200] * 20
    up.close()


def test_retries_are_given_back_to_their_budget(start: Start) -> None:
    gateway, _ = start({"a": [plain(500, b"{}")], "b": [stream()]})
    assert [gateway.post(chat(BOTH, stream=True)).status_code for _ in range(5)] == [200] * 5


def test_a_probe_whose_client_left_does_not_hold_the_target_back(start: Start) -> None:
    busy = plain(429, b'{"error":{"message":"slow down"}}')
    gateway, _ = start({"a": [busy, hang], "b": [plain()]}, max_attempts=1)
    assert gateway.post(chat("a")).status_code == 429
    assert eventually(lambda: state(gateway)["state"] == "half_open")
    assert gateway.post(chat("a"), x_pointsman_timeout_ms="300").status_code == 504
    assert state(gateway)["inflight"] == 0
    assert state(gateway)["state"] == "half_open"


def test_one_403_fails_over_and_does_not_hold_the_target_back(start: Start) -> None:
    moderated = plain(403, b'{"error":{"message":"Input was flagged","code":403}}')
    gateway, _ = start({"a": [moderated, plain()], "b": [plain()]})
    assert gateway.post(chat(BOTH)).headers["x-pointsman-target"] == "b"
    assert state(gateway)["state"] == "healthy"
    assert gateway.post(chat(BOTH)).headers["x-pointsman-target"] == "a"
