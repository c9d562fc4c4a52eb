"""What happens when an upstream misbehaves: failover while nothing was sent, one typed event afterwards."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import pytest

from tests.harness import (
    DONE,
    ROLE,
    STOP,
    STREAM,
    Script,
    chat,
    chunk,
    framed,
    hang,
    plain,
    raw,
    reset,
    slam,
    stream,
)
from tests.proxy.conftest import Start

FAST = {"connect": "500ms", "headers": "600ms", "first_event": "800ms", "idle": "800ms", "total": "10s"}
#: The model pin reaches both targets in the order a, b: a is cheaper.
BOTH = "llama-3.3-70b"


def two(start: Start, first: list[Script], second: list[Script], **over: Any):  # type: ignore[no-untyped-def]
    gateway, ups = start({"a": first, "b": second}, timeouts=FAST, **over)
    return gateway, ups


def events(body: bytes) -> list[bytes]:
    return [event for event in body.split(b"\n\n") if event]


HTML = b"<html><body>Bad gateway</body></html>"
BROKEN_BEFORE_THE_FIRST_EVENT: dict[str, Script] = {
    "reset before an answer": slam,
    "500": plain(500, b'{"error":{"message":"boom"}}'),
    "502 html": plain(502, HTML, content_type="text/html"),
    "503": plain(503, b'{"error":{"message":"loading"}}'),
    "529": plain(529, b"{}"),
    "429": plain(429, b'{"error":{"message":"slow down"}}'),
    "401": plain(401, b'{"error":{"message":"bad key"}}'),
    "404 model": plain(404, b'{"error":{"message":"The model does not exist","code":"model_not_found"}}'),
    "redirect": plain(302, b"", headers="location: http://127.0.0.1:1/\r\n"),
    "hangs before headers": hang,
    "204": plain(204, b""),
    "200 html": plain(200, HTML, content_type="text/html"),
    "role then error": stream([ROLE, b'data: {"error":{"message":"overloaded","type":"server_error"}}\n\n']),
    "role then cut": stream([ROLE], end="eof"),
    "role then reset": stream([ROLE], end="reset"),
    "role then silence": stream([ROLE], end="hang"),
    "empty stream": stream([]),
    "not json": stream([b"data: {nonsense\n\n"]),
    "bad chunk size": raw(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n+5\r\nx"
    ),
    "not http": raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    "header flood": raw(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000),
    "gzip": plain(200, b"\x1f\x8b\x08", headers="content-encoding: gzip\r\n", content_type="text/event-stream"),
}


@pytest.mark.parametrize("name", BROKEN_BEFORE_THE_FIRST_EVENT)
def test_a_failure_before_the_first_event_is_invisible(start: Start, name: str) -> None:
    gateway, ups = two(start, [BROKEN_BEFORE_THE_FIRST_EVENT[name]], [stream()])
    answer = gateway.post(chat(BOTH, stream=True))
    assert answer.status_code == 200
    assert answer.content == b"".join(event for event in STREAM if b"prompt_tokens" not in event)
    assert answer.headers["x-pointsman-target"] == "b"
    assert answer.headers["x-pointsman-attempts"] == "2"
    assert answer.headers["x-pointsman-because"].startswith("fallback: a failed")
    assert len(ups["a"].requests) == 1


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("reset before an answer", 502, "upstream_unavailable"),
        ("500", 502, "upstream_unavailable"),
        ("401", 502, "upstream_auth"),
        ("429", 429, "upstream_rate_limited"),
        ("hangs before headers", 504, "upstream_timeout"),
        ("200 html", 502, "upstream_invalid_response"),
        ("redirect", 502, "upstream_invalid_response"),
        ("204", 502, "upstream_invalid_response"),
    ],
)
def test_when_nobody_is_left_the_last_failure_has_its_status(start: Start, name: str, status: int, code: str) -> None:
    script = BROKEN_BEFORE_THE_FIRST_EVENT[name]
    gateway, _ = two(start, [script], [script])
    for streamed in (True, False):
        answer = gateway.post(chat(BOTH, stream=streamed))
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (status, code)
        assert answer.headers["x-should-retry"] == "false"
        assert answer.headers["x-pointsman-origin"] == "gateway"


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (stream(STREAM[:3], end="eof"), "upstream_stream_interrupted"),
        (stream(STREAM[:3], end="reset"), "upstream_stream_interrupted"),
        (stream(STREAM[:3]), "upstream_stream_interrupted"),  # a clean end of the body without a finish
        (stream([*STREAM[:3], b'data: {"error":{"message":"x"}}\n\n']), "upstream_stream_interrupted"),
        (stream([*STREAM[:3], DONE]), "upstream_stream_interrupted"),  # [DONE] without a finish
        (stream(STREAM[:3], end="hang"), "upstream_timeout"),
        (stream([*STREAM[:3], b"data: " + b"x" * (5 << 20)]), "event_too_large"),
    ],
)
def test_a_failure_after_the_first_event_is_exactly_one_error_event(start: Start, script: Script, code: str) -> None:
    gateway, ups = two(start, [script], [stream()])
    answer = gateway.post(chat(BOTH, stream=True))
    assert answer.status_code == 200
    assert answer.content.startswith(b"".join(STREAM[:3]))
    last = events(answer.content)[len(STREAM[:3]) :]
    assert len(last) == 1, last
    assert json.loads(last[0].removeprefix(b"data: "))["error"]["code"] == code
    assert b"[DONE]" not in answer.content
    assert ups["b"].requests == []


def test_done_is_added_after_a_finish_and_nothing_follows_it(start: Start) -> None:
    gateway, _ = two(start, [stream([*STREAM[:4]]), stream([*STREAM[:4], DONE, chunk("more"), DONE])], [plain()])
    expected = b"".join(STREAM[:4]) + DONE
    assert gateway.post(chat(BOTH, stream=True)).content == expected
    assert gateway.post(chat(BOTH, stream=True)).content == expected


def test_a_drip_of_single_bytes_does_not_hold_the_idle_clock(start: Start) -> None:
    def drip(conn: socket.socket, _: object) -> bool:
        stream(STREAM[:3], end="open")(conn, _)  # type: ignore[arg-type]
        for _i in range(40):
            conn.sendall(framed(b"x"))
            time.sleep(0.1)
        return False

    gateway, _ = two(start, [drip], [plain()])
    begun = time.monotonic()
    answer = gateway.post(chat(BOTH, stream=True))
    assert b"upstream_timeout" in answer.content
    assert time.monotonic() - begun < 3.8


@pytest.mark.parametrize("status", [400, 422])
def test_an_upstreams_own_400_goes_through_as_it_is(start: Start, status: int) -> None:
    told = {
        "message": "temperature must be <= 2",
        "type": "invalid_request_error",
        "param": "temperature",
        "code": "bad",
    }
    body = json.dumps({"error": told}).encode()
    gateway, ups = two(start, [plain(status, body)], [plain()])
    answer = gateway.post(chat(BOTH))
    assert answer.status_code == status
    assert answer.json()["error"]["message"] == "temperature must be <= 2"
    assert answer.json()["error"]["param"] == "temperature"
    assert answer.headers["x-pointsman-origin"] == "upstream"
    assert ups["b"].requests == []


@pytest.mark.parametrize("name", ["401", "404 model"])
def test_who_names_a_target_that_a_person_must_mend_is_told_by_it_and_served_as_soon_as_it_is_mended(
    start: Start, name: str
) -> None:
    gateway, ups = two(start, [BROKEN_BEFORE_THE_FIRST_EVENT[name]] * 2 + [plain()], [plain()])
    for _ in range(2):
        answer = gateway.post(chat("a"))
        assert answer.status_code == 502
        assert answer.headers["x-pointsman-target"] == "a"
    assert gateway.post(chat(BOTH)).headers["x-pointsman-target"] == "b", "who may choose is sent elsewhere"
    told = gateway.post(chat("a"), path="/v1/explain").json()
    assert told["candidates"] == ["a"]
    assert gateway.post(chat("a")).headers["x-pointsman-target"] == "a"
    assert (len(ups["a"].requests), len(ups["b"].requests)) == (3, 1)


def test_retry_after_is_kept(start: Start) -> None:
    script = plain(429, b"{}", headers="retry-after: 17\r\n")
    gateway, _ = two(start, [script], [script])
    assert gateway.post(chat(BOTH)).headers["retry-after"] == "17"


def test_a_refused_connection_fails_over_in_well_under_a_second(start: Start) -> None:
    gateway, ups = two(start, [plain()], [plain()])
    ups["a"].close()
    begun = time.monotonic()
    answer = gateway.post(chat(BOTH))
    assert answer.headers["x-pointsman-target"] == "b"
    assert time.monotonic() - begun < 1


@pytest.mark.parametrize("body", [b"<html>", b'{"choices":[{"mess', b"[]", b'{"error":{"message":"no"}}', b""])
def test_a_200_that_is_no_completion_fails_over(start: Start, body: bytes) -> None:
    gateway, _ = two(start, [plain(200, body)], [plain()])
    answer = gateway.post(chat(BOTH))
    assert answer.status_code == 200
    assert answer.headers["x-pointsman-target"] == "b"


def test_an_endless_answer_is_cut_at_32_megabytes(start: Start) -> None:
    def endless(conn: socket.socket, _: object) -> bool:
        conn.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 200000000\r\n\r\n")
        for _i in range(200):
            conn.sendall(b" " * 1_000_000)
        reset(conn)
        return False

    gateway, _ = two(start, [endless], [plain()])
    assert gateway.post(chat(BOTH)).headers["x-pointsman-target"] == "b"


def test_the_total_clock_ends_what_never_ends(start: Start) -> None:
    gateway, _ = start({"a": [stream([ROLE] + [chunk("x")] * 100 + [STOP], pause_s=0.1)], "b": [hang]})
    begun = time.monotonic()
    answer = gateway.post(chat("a", stream=True), x_pointsman_timeout_ms="1000")
    assert 0.9 < time.monotonic() - begun < 5
    assert json.loads(events(answer.content)[-1].removeprefix(b"data: "))["error"]["code"] == "upstream_timeout"
    answer = gateway.post(chat("b"), x_pointsman_timeout_ms="500")
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")


def test_the_upstreams_key_appears_nowhere(start: Start) -> None:
    leaky = plain(400, b'{"error":{"message":"key sk-upstream-canary-1 is on the wrong plan"}}')
    gateway, _ = two(start, [leaky, slam, stream(STREAM[:3], end="reset")], [slam])
    seen = [gateway.post(chat(BOTH)).text, gateway.post(chat(BOTH)).text, gateway.post(chat(BOTH, stream=True)).text]
    seen += [gateway.get("/metrics", admin=True).text, gateway.get("/v1/targets", admin=True).text, *gateway.lines]
    assert not [text for text in seen if "canary" in text]
