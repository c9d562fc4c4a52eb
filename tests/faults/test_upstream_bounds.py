"""What an upstream's faults may cost at most, in time and in memory. One gateway, a target a fault."""

from __future__ import annotations

import concurrent.futures
import functools
import gzip
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import (
    COMPLETION,
    DONE,
    ROLE,
    SSE_HEAD,
    STOP,
    STREAM,
    USAGE,
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
    slam,
    stream,
    took_s,
)

CLOCKS = {"connect": "500ms", "headers": "600ms", "first_event": "800ms", "idle": "800ms", "total": "10s"}
MB = 1_000_000


def drip(conn: socket.socket, _: Received) -> bool:
    """An event in single bytes, ten a second: bytes, but never an event."""
    conn.sendall(SSE_HEAD + framed(ROLE) + framed(chunk("Hel")))
    for byte in chunk("lo.") * 3:
        conn.sendall(framed(bytes([byte])))
        time.sleep(0.1)
    return False


def huge(conn: socket.socket, _: Received) -> bool:
    """100 MB that call themselves an answer."""
    conn.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000000\r\n\r\n")
    for _i in range(100):
        conn.sendall(b" " * MB)
    return True


@functools.cache
def bomb_of_a_gigabyte() -> bytes:
    return gzip.compress(b" " * 100 * MB, 1) * 10


def bomb(conn: socket.socket, received: Received) -> bool:
    """1 GB in 1 MB, which nobody had asked for."""
    assert received.header("accept-encoding") in (None, "identity")
    packed = bomb_of_a_gigabyte()
    head = (
        f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\ncontent-length: {len(packed)}"
    )
    conn.sendall(head.encode() + b"\r\n\r\n" + packed)
    return True


def hints(conn: socket.socket, received: Received) -> bool:
    conn.sendall(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" * 3)
    return plain()(conn, received)


def usage(stated: Any) -> Script:
    return plain(body=json.dumps({**COMPLETION, "usage": stated}).encode())


BOM, SEPARATOR = b"\xef\xbb\xbf", "one\u2028two\u0085three"
SPLIT = framed(chunk("日本語")[:57]) + framed(chunk("日本語")[57:])
ODD = b'data: {"choices":[{"index":0,"delta":{"content":"\xff\xfe"}}]}\n\n'
MANY = [ROLE, *[chunk(f"{number} ") for number in range(3)], STOP]


def spelled(line: bytes) -> Script:
    """A stream whose lines end so."""
    return stream([event.replace(b"\n", line) for event in (*MANY, DONE)])


FAULTS: dict[str, Script] = {
    "hang": hang,
    "role": stream([ROLE], end="hang"),
    "stall": stream(STREAM[:3], end="hang"),
    "drip": drip,
    "huge": huge,
    "bomb": bomb,
    "hints": hints,
    "slam": slam,
    "auth": plain(401, b'{"error":{"message":"bad key"}}'),
    "missing": plain(body=json.dumps({k: v for k, v in COMPLETION.items() if k != "usage"}).encode()),
    "null": usage(None),
    "negative": usage({"prompt_tokens": -1, "completion_tokens": 2}),
    "absurd": usage({"prompt_tokens": 10**12, "completion_tokens": 2}),
    "impossible": usage({"prompt_tokens": 10, "completion_tokens": 90_000}),  # fits its window, not what it sent
    "crlf": spelled(b"\r\n"),
    "cr": spelled(b"\r"),
    "bom": stream([BOM + MANY[0], *MANY[1:], DONE]),
    "fields": stream([b": keep-alive\n\n", b"retry: 5\nid: 7\nevent: x\n" + MANY[0], *MANY[1:], DONE]),
    "separator": stream([ROLE, chunk(SEPARATOR), STOP, DONE]),
    "split": stream([ROLE, chunk("日本語")[:57], chunk("日本語")[57:], STOP, DONE]),
    "odd": stream([ODD, ROLE, chunk("x"), STOP, DONE]),
    "more": stream([*STREAM[:4], DONE, chunk("more"), DONE]),
    "endless": stream([ROLE, chunk("x"), STOP]),
    "large": stream([ROLE, chunk("x" * 300_000), STOP, DONE]),
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    ups = {name: Upstream([script]) for name, script in FAULTS.items()}
    settings = config({**{name: up.url for name, up in ups.items()}, "refused": "http://127.0.0.1:1/v1"})
    settings["timeouts"] = CLOCKS
    directory = tmp_path_factory.mktemp("bounds")
    bomb_of_a_gigabyte()  # takes longer than the clocks here allow
    with running(directory, settings) as started:
        UPSTREAMS.clear()
        UPSTREAMS.update(ups)
        yield started
    for up in ups.values():
        up.close()


UPSTREAMS: dict[str, Upstream] = {}


def attempts(gateway: Gateway, target: str, outcome: str) -> float:
    return gateway.metric(f'pointsman_attempts_total{{outcome="{outcome}",target="{target}"}}')


def test_every_clock_ends_its_attempt_within_a_second_of_it_and_closes_the_socket(gateway: Gateway) -> None:
    slow = [  # target, its clock, the outcome, what the client is told
        ("hang", 0.6, "headers_timeout", 504),
        ("role", 0.8, "first_event_timeout", 504),
        ("stall", 0.8, "idle_timeout", 200),
        ("drip", 0.8, "idle_timeout", 200),
    ]

    with concurrent.futures.ThreadPoolExecutor(len(slow)) as pool:
        answers = list(pool.map(lambda one: gateway.post(chat(one[0], stream=True)), slow))
    for (name, clock_s, outcome, expected), answer in zip(slow, answers, strict=True):
        assert answer.status_code == expected, name
        assert answer.content.count(b'"upstream_timeout"') == 1, name
        assert clock_s - 0.2 < took_s(gateway, answer) < clock_s + 1, name
        assert attempts(gateway, name, outcome) == 1, name
        assert eventually(lambda name=name: bool(UPSTREAMS[name].closed_at), 5), name  # type: ignore[misc]
    assert gateway.metric('pointsman_stream_interrupted_total{cause="upstream_timeout",target="stall"}') == 1


def test_a_refused_connection_is_told_within_a_second_and_is_no_refusal_of_ours(gateway: Gateway) -> None:
    answer = gateway.post(chat("refused"))
    assert took_s(gateway, answer) < 1
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_unavailable")
    assert attempts(gateway, "refused", "refused") == 1
    assert gateway.metric("pointsman_refusals_total") == 0
    assert gateway.metric('pointsman_requests_total{code="upstream_unavailable",model_asked="refused"') == 1


def test_a_key_that_the_upstream_refuses_is_never_shown_as_the_clients_and_holds_the_target(gateway: Gateway) -> None:
    answer = gateway.post(chat("auth"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_auth")
    rows = gateway.get("/v1/targets", admin=True).json()["data"]
    (row,) = [row for row in rows if row["target"] == "auth"]
    assert (row["state"], row["reason"]) == ("auth", "auth")
    assert 50 < row["held_for_s"] <= 60


def test_100_megabytes_or_a_gigabyte_packed_into_one_cost_no_more_memory_than_the_cap(gateway: Gateway) -> None:
    status = Path(f"/proc/{gateway.process.pid}/status")
    if not status.exists():
        pytest.skip("the memory of a process is read from /proc")

    def peak_mb() -> float:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1000

    gateway.post(chat("hints"))
    before = peak_mb()
    packed = gateway.post(chat("bomb"))
    assert (packed.status_code, packed.json()["error"]["code"]) == (502, "upstream_invalid_response")
    assert peak_mb() - before < 50
    answer = gateway.post(chat("huge"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_invalid_response")
    assert attempts(gateway, "huge", "too_large") == 1
    assert peak_mb() - before < 100


def test_interim_answers_are_read_past(gateway: Gateway) -> None:
    assert gateway.post(chat("hints")).json() == COMPLETION


@pytest.mark.parametrize("name", ["missing", "null", "negative", "absurd", "impossible"])
def test_usage_that_is_missing_or_cannot_be_is_estimated_and_the_answer_goes_through(
    gateway: Gateway, name: str
) -> None:
    answer = gateway.post(chat(name))
    assert answer.status_code == 200
    assert answer.json()["choices"] == COMPLETION["choices"]
    assert gateway.metric(f'pointsman_estimated_usage_requests_total{{target="{name}"}}') == 1
    told = gateway.get(f"/v1/decisions/{answer.headers['x-request-id']}").json()["record"]
    assert told["usage"]["estimated"]
    assert 0 < told["usage"]["input"] < 1_000
    assert 0 < told["usage"]["output"] < 100


@pytest.mark.parametrize("name", ["crlf", "cr", "bom", "fields", "separator", "split", "odd", "large"])
def test_every_way_to_write_a_stream_reaches_the_client_as_it_came(gateway: Gateway, name: str) -> None:
    answer = gateway.post(chat(name, stream=True))
    assert answer.status_code == 200
    sent = {
        "crlf": b"".join(MANY).replace(b"\n", b"\r\n") + DONE,
        "cr": b"".join(MANY).replace(b"\n", b"\r") + DONE,
        "bom": b"".join(MANY) + DONE,  # a mark may not stand inside a stream
        "fields": b": keep-alive\n\nretry: 5\nid: 7\nevent: x\n" + b"".join(MANY) + DONE,
        "separator": ROLE + chunk(SEPARATOR) + STOP + DONE,
        "split": ROLE + chunk("日本語") + STOP + DONE,
        "odd": ODD + ROLE + chunk("x") + STOP + DONE,
        "large": ROLE + chunk("x" * 300_000) + STOP + DONE,
    }
    assert answer.content == sent[name]


@pytest.mark.parametrize(("name", "odd"), [("odd", 1), ("more", 0), ("endless", 1)])
def test_what_of_a_stream_was_odd_and_tolerated_is_counted(gateway: Gateway, name: str, odd: int) -> None:
    series = f'pointsman_stream_anomalies_total{{target="{name}"}}'
    before = gateway.metric(series)
    assert gateway.post(chat(name, stream=True)).content.endswith(DONE)
    assert gateway.metric(series) - before == odd


WISHES = {
    "n": 2,
    "logprobs": True,
    "top_logprobs": 3,
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "tool_choice": "auto",
}


def test_what_a_model_calls_itself_and_what_nobody_knows_goes_through_unchanged(tmp_path: Path) -> None:
    body = {
        **COMPLETION,
        "model": "another-model",
        "choices": [
            {
                "index": index,
                "message": {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
                },
                "logprobs": {"content": []},
                "finish_reason": "tool_calls",
            }
            for index in range(2)
        ],
        "service_tier": "x",
        "new": {"a": [1]},
    }
    answered = json.dumps(body, indent=1).encode()
    events = [ROLE, chunk(tool_calls=[{"index": 0, "id": "1"}]), chunk(finish="tool_calls"), USAGE, DONE]
    events = [event.replace(b'"model": "m"', b'"model": "another-model"') for event in events]
    up = Upstream([plain(body=answered), stream(events)])
    settings = config({"a": up})
    settings["targets"]["a"]["tools"] = True
    with running(tmp_path, settings) as gateway:
        assert gateway.post(chat("a", **WISHES)).content == answered
        assert gateway.post(chat("a", stream=True)).content == b"".join([*events[:3], DONE])
    up.close()
    assert {name: up.requests[0].json[name] for name in WISHES} == WISHES
