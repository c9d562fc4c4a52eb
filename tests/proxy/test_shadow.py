"""Shadows over real sockets: a second target is asked, and the client neither sees it, pays for it nor waits for it."""

from __future__ import annotations

import json
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.harness import (
    COMPLETION,
    SSE_HEAD,
    STREAM,
    Gateway,
    Received,
    Script,
    Upstream,
    chat,
    eventually,
    framed,
    hang,
    plain,
    raw,
    slam,
    stream,
)
from tests.proxy.conftest import Start

POLICY = """\
policy: both
constraints: [{id: no, when: {workload: private}, forbid: {target.name: b}}]
rules: [{id: all, use: [{target.name: a}]}]
shadow: [{id: copy, use: [{target.name: b}], share: 100%}]
"""
USAGE = {"prompt_tokens": 1_000, "completion_tokens": 500, "total_tokens": 1_500}
OTHER = plain(body=json.dumps({**COMPLETION, "usage": USAGE}).encode())
REQUESTS = 'pointsman_shadow_requests_total{outcome="%s",shadow="copy",target="b"}'


def begin(
    start: Start, tmp_path: Path, b: list[Script], a: Script | None = None, **over: Any
) -> tuple[Gateway, dict[str, Upstream]]:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "both.yaml").write_text(POLICY)
    return start({"a": [a or plain()], "b": b}, policies={"dir": "policies", "default": "both"}, **over)


def ended(gateway: Gateway, outcome: str, count: int = 1) -> bool:
    return eventually(lambda: gateway.metric(REQUESTS % outcome) == count)


def told(gateway: Gateway, answer: Any) -> dict[str, Any]:
    return gateway.get(f"/v1/decisions/{answer.headers['x-request-id']}").json()["record"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_copy_is_answered_measured_and_dropped(start: Start, tmp_path: Path, streamed: bool) -> None:
    more = [{**json.loads(event.removeprefix(b"data: ")), "usage": USAGE} for event in STREAM[4:5]]
    events = [*STREAM[:4], b"data: " + json.dumps(more[0]).encode() + b"\n\n", STREAM[5]]
    gateway, ups = begin(start, tmp_path, [stream(events) if streamed else OTHER], stream() if streamed else plain())
    answer = gateway.post(chat(stream=streamed))
    assert answer.status_code == 200
    assert answer.headers["x-pointsman-target"] == "a"
    assert "shadow" not in str(answer.headers) + answer.text
    assert ended(gateway, "ok")
    [asked], [copied] = ups["a"].requests, ups["b"].requests
    assert copied.json == asked.json
    assert copied.header("x-request-id") == answer.headers["x-request-id"]
    record = told(gateway, answer)
    shadow = record["shadow"]
    assert (shadow["id"], shadow["target"], shadow["outcome"], shadow["status"]) == ("copy", "b", "ok", 200)
    assert (shadow["usage"]["input"], shadow["usage"]["output"]) == (1_000, 500)
    assert shadow["cost_nano"] == 1_000 * 1_000 + 500 * 2_000
    assert 0 < shadow["first_event_s"] <= shadow["duration_s"]
    output = 3 if streamed else 2
    assert record["cost_nano"] == 10 * 1_000 + output * 2_000, "the client's own"
    assert record["usage"]["input"] == 10
    if not streamed:
        assert float(answer.headers["x-pointsman-cost-usd"]) == pytest.approx(record["cost_nano"] / 1e9)


def test_metrics_count_it_apart(start: Start, tmp_path: Path) -> None:
    gateway, _ = begin(start, tmp_path, [OTHER])
    for _ in range(3):
        assert gateway.post(chat()).status_code == 200
    assert ended(gateway, "ok", 3)
    assert gateway.metric("pointsman_shadow_cost_usd_total") == pytest.approx(3 * 0.002)
    assert gateway.metric('pointsman_shadow_tokens_total{class="input"') == 3_000
    assert gateway.metric("pointsman_shadow_duration_seconds_count") == 3
    assert gateway.metric("pointsman_shadow_first_event_seconds_count") == 3
    assert gateway.metric("pointsman_requests_total") == 3
    assert gateway.metric("pointsman_cost_usd_total") == pytest.approx(3 * 14e-6)
    assert gateway.metric('pointsman_tokens_total{class="input"') == 30
    assert gateway.metric('pointsman_attempts_total{outcome="ok",target="b"}') == 0


ERROR = raw(SSE_HEAD + framed(b'data: {"error":{"message":"no"}}\n\n') + b"0\r\n\r\n")


@pytest.mark.parametrize(
    ("script", "streamed", "outcome"),
    [
        (slam, False, "reset"),
        (plain(500, b"{}"), False, "server_error"),
        (plain(401, b"{}"), False, "auth"),
        (plain(body=b"not json"), False, "invalid"),
        (plain(content_type="text/html"), False, "invalid"),
        (raw(b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n"), False, "protocol"),
        (plain(body=b'{"x":"' + b"y" * (9 << 20) + b'"}'), False, "too_large"),
        (stream(STREAM[:2], end="reset"), True, "reset"),
        (stream(STREAM[:3], end="eof"), True, "reset"),
        (ERROR, True, "in_band_error"),
        (stream([b"data: {junk\n\n"]), True, "invalid"),
    ],
)
def test_a_shadow_that_fails_harms_nothing(
    start: Start, tmp_path: Path, script: Script, streamed: bool, outcome: str
) -> None:
    gateway, ups = begin(start, tmp_path, [script], stream() if streamed else plain())
    for _ in range(7):  # five in a row would eject a target
        answer = gateway.post(chat(stream=streamed))
        assert (answer.status_code, answer.headers["x-pointsman-attempts"]) == (200, "1")
    assert eventually(lambda: sum(gateway.metric(REQUESTS % one) for one in (outcome, "interrupted")) == 7)
    assert len(ups["b"].requests) == 7
    [b] = [one for one in gateway.get("/v1/targets", admin=True).json()["data"] if one["target"] == "b"]
    assert (b["state"], b["failures"], b["inflight"]) == ("healthy", 0, 0)
    assert gateway.metric('pointsman_attempts_total{outcome="ok",target="a"}') == 7


def test_a_shadow_that_hangs_holds_nobody_up_and_ends_by_its_clock(start: Start, tmp_path: Path) -> None:
    gateway, ups = begin(start, tmp_path, [hang])
    answer = gateway.post(chat())
    assert answer.status_code == 200
    assert told(gateway, answer)["shadow"]["outcome"] == "pending", "the client did not wait for it"
    assert ended(gateway, "headers_timeout")
    assert eventually(lambda: len(ups["b"].closed_at) == 1)
    assert told(gateway, answer)["shadow"]["outcome"] == "headers_timeout"


def test_no_more_than_sixteen_are_under_way(start: Start, tmp_path: Path) -> None:
    gateway, ups = begin(start, tmp_path, [hang], timeouts={"headers": "20s", "first_event": "20s", "total": "20s"})
    for _ in range(20):
        assert gateway.post(chat()).status_code == 200
    assert eventually(lambda: len(ups["b"].requests) == 16)
    assert gateway.metric('pointsman_shadow_skipped_total{reason="too_many",shadow="copy"}') == 4


def test_a_target_that_is_half_full_gets_none(start: Start, tmp_path: Path) -> None:
    from tests.harness import config, running

    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "both.yaml").write_text(POLICY)
    a, b = Upstream([plain()]), Upstream([hang])
    settings = config({"a": a, "b": b}, policies={"dir": "policies", "default": "both"})
    settings["backends"]["b"]["max_inflight"] = 4
    with running(tmp_path, settings) as gateway:
        for _ in range(5):
            assert gateway.post(chat()).status_code == 200
        assert eventually(lambda: len(b.requests) == 2)
        assert gateway.metric('pointsman_shadow_skipped_total{reason="target_busy",shadow="copy"}') == 3
    a.close()
    b.close()


def test_a_client_that_leaves_takes_no_shadow_with_it(start: Start, tmp_path: Path) -> None:
    go = threading.Event()

    def late(conn: socket.socket, asked: Received) -> bool:
        go.wait(10)
        return OTHER(conn, asked)

    gateway, ups = begin(start, tmp_path, [late], hang)
    body = json.dumps(chat()).encode()
    with gateway.connect() as conn:
        conn.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-test-0123456789\r\n"
            b"content-length: %d\r\n\r\n" % len(body) + body
        )
        assert eventually(lambda: len(ups["b"].requests) == 1)
    assert eventually(lambda: len(ups["a"].closed_at) == 1), "the request itself is cancelled"
    go.set()
    assert ended(gateway, "ok")
    assert gateway.metric("pointsman_shadow_cost_usd_total") == pytest.approx(0.002)


def test_a_forbidden_target_gets_no_copy_and_a_pin_none_of_its_own(start: Start, tmp_path: Path) -> None:
    gateway, ups = begin(start, tmp_path, [OTHER])
    assert gateway.post(chat(), x_pointsman_workload="private").status_code == 200
    assert gateway.post(chat("b")).headers["x-pointsman-target"] == "b"
    assert gateway.post(chat()).status_code == 200
    assert ended(gateway, "ok")
    assert len(ups["b"].requests) == 2, "the pinned one, and the copy of the last"


def test_a_kept_connection_that_died_is_replaced_without_a_word(start: Start, tmp_path: Path) -> None:
    def once(conn: socket.socket, asked: Received) -> bool:
        OTHER(conn, asked)
        return False  # closes what the gateway keeps

    gateway, ups = begin(start, tmp_path, [once])
    for count in (1, 2, 3):
        assert gateway.post(chat()).status_code == 200
        assert ended(gateway, "ok", count)
    assert len(ups["b"].requests) == 3


def test_while_draining_none_is_begun_and_none_holds_up_the_end(start: Start, tmp_path: Path) -> None:
    gateway, ups = begin(
        start, tmp_path, [hang], stream(pause_s=0.1), drain="5s",
        timeouts={"headers": "60s", "first_event": "60s", "total": "60s"},
    )  # fmt: skip
    assert gateway.post(chat(stream=True)).status_code == 200
    assert eventually(lambda: len(ups["b"].requests) == 1)
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(4) == 0


def test_explanations_show_it(start: Start, tmp_path: Path) -> None:
    gateway, ups = begin(start, tmp_path, [OTHER])
    told = gateway.post(chat(), path="/v1/explain").json()
    assert told["shadow"] == {"id": "copy", "target": "b"}
    assert ups["b"].requests == []
