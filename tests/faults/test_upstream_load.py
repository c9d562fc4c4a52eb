"""Upstreams that fail while there is much to do: what is tried again, how often, and who is left alone."""

from __future__ import annotations

import concurrent.futures
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.harness import (
    KEY,
    Gateway,
    Received,
    Script,
    Upstream,
    chat,
    config,
    eventually,
    plain,
    running,
)

BOTH = "llama-3.3-70b"  # reaches a, then b
BUSY = {
    # As vLLM says it with --max-num-queued-reqs, SGLang with --max-queued-requests, and a gateway in front of either.
    "vllm": (503, b'{"error":{"message":"The server is overloaded","type":"Service Unavailable","code":503}}'),
    "sglang": (
        503,
        b'{"object":"error","message":"The request queue is full.","type":"ServiceUnavailable","code":503}',
    ),
    "gateway": (429, b'{"error":{"message":"Too many requests"}}'),
}


def slowly(script: Script, seconds: float) -> Script:
    def later(conn: socket.socket, received: Received) -> bool:
        time.sleep(seconds)
        return script(conn, received)

    return later


def replicas(ups: list[Upstream], **backend: Any) -> dict[str, Any]:
    """One target with an endpoint for each."""
    made = config({"a": ups[0]})
    made["backends"]["a"] |= {"endpoints": [up.url for up in ups], "self_hosted": True, **backend}
    return made


@contextlib.contextmanager
def closing(*ups: Upstream) -> Iterator[None]:
    try:
        yield
    finally:
        for up in ups:
            up.close()


def many(
    gateway: Gateway, count: int, at_once: int, model: str = "a", text: str = "Say hello."
) -> list[httpx.Response]:
    """Answers to so many requests, in the order in which they came."""
    answers: list[httpx.Response] = []
    with httpx.Client(
        timeout=30, headers={"authorization": f"Bearer {KEY}"}, limits=httpx.Limits(max_connections=at_once)
    ) as client:

        def one(_: int) -> None:
            answers.append(client.post(gateway.public + "/v1/chat/completions", json=chat(model, text)))

        with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
            list(pool.map(one, range(count)))
    return answers


def row(gateway: Gateway, target: str = "a") -> dict[str, Any]:
    rows = gateway.get("/v1/targets", admin=True).json()["data"]
    found: dict[str, Any] = next(one for one in rows if one["target"] == target)
    return found


@pytest.mark.parametrize("status", [500, 503, 529])
def test_when_all_fail_the_load_on_them_grows_by_the_retry_budget_and_no_more(tmp_path: Path, status: int) -> None:
    ups = {name: Upstream([slowly(plain(status, b"{}"), 0.05)]) for name in "abcd"}
    with closing(*ups.values()), running(tmp_path, config(ups)) as gateway:
        answers = many(gateway, 240, 40, BOTH)
        assert {answer.status_code for answer in answers} <= {502, 503}
        sent = sum(len(up.requests) for up in ups.values())
        assert 240 <= sent <= 1.5 * 240
        retried = gateway.metric("pointsman_retries_total")
        assert 0 < retried == sent - 240


def test_who_is_overloaded_as_a_whole_is_asked_once_by_each_request_and_says_when_to_come_again(
    tmp_path: Path,
) -> None:
    full = plain(503, b'{"error":{"message":"queue full"}}', headers="retry-after: 7\r\n")
    ups = [Upstream([full]) for _ in range(3)]
    with closing(*ups), running(tmp_path, replicas(ups)) as gateway:
        first = gateway.post(chat("a"))
        assert (first.status_code, first.json()["error"]["code"]) == (503, "overloaded")
        assert first.headers["retry-after"] == "7"
        assert [len(up.requests) for up in ups] == [1, 1, 1]  # another replica each time, while there is one
        again = [gateway.post(chat("a")) for _ in range(6)]
        assert {answer.status_code for answer in again} == {503}
        assert sum(len(up.requests) for up in ups) == 3 + 6
        assert {answer.headers["x-pointsman-attempts"] for answer in again} == {"1"}


@pytest.mark.parametrize("server", BUSY)
def test_a_replica_whose_queue_is_full_is_left_alone_for_a_moment_and_another_answers_now(
    tmp_path: Path, server: str
) -> None:
    status, body = BUSY[server]
    full, well = Upstream([plain(status, body), plain()]), Upstream([plain()])
    with closing(full, well), running(tmp_path, replicas([full, well])) as gateway:
        assert [gateway.post(chat("a")).status_code for _ in range(6)] == [200] * 6
        assert len(full.requests) == 1
        told = row(gateway)["endpoints"][full.url]
        assert (told["state"], told["reason"]) == ("rate_limited", "overloaded")
        assert 0 < told["held_for_s"] <= 1.1
        assert row(gateway)["state"] == "healthy"
        assert eventually(lambda: gateway.post(chat("a")).is_success and len(full.requests) > 1, 5)


def test_a_target_that_named_a_time_gets_nothing_before_it_and_exactly_one_probe_after_it(tmp_path: Path) -> None:
    limited = plain(429, b"{}", headers="retry-after: 3\r\n")
    ups = {"a": Upstream([limited, slowly(plain(), 0.7)]), "b": Upstream([plain()])}
    with closing(*ups.values()), running(tmp_path, config(ups)) as gateway:
        assert gateway.post(chat(BOTH)).headers["x-pointsman-target"] == "b"
        assert {one.headers["x-pointsman-target"] for one in many(gateway, 10, 5, BOTH)} == {"b"}
        assert len(ups["a"].requests) == 1
        assert eventually(lambda: row(gateway)["state"] == "half_open")
        answers = many(gateway, 12, 12, BOTH)
        assert [one.headers["x-pointsman-target"] for one in answers].count("a") == 1
        assert len(ups["a"].requests) == 2
        assert eventually(lambda: row(gateway)["state"] == "healthy")


def test_a_time_longer_than_five_minutes_is_five_minutes(tmp_path: Path) -> None:
    ups = {"a": Upstream([plain(429, b"{}", headers="retry-after: 86400\r\n")]), "b": Upstream([plain()])}
    with closing(*ups.values()), running(tmp_path, config(ups)) as gateway:
        assert gateway.post(chat(BOTH)).status_code == 200
        assert 290 < row(gateway)["held_for_s"] <= 300


def test_a_pool_whose_every_member_is_ejected_still_serves_when_one_is_well_again(tmp_path: Path) -> None:
    boom = plain(500, b"{}")
    ups = {"a": Upstream([*[boom] * 12, plain()]), "b": Upstream([boom])}
    with closing(*ups.values()), running(tmp_path, config(ups, max_attempts=1)) as gateway:
        for name in ("a", "b"):
            for _ in range(6):
                assert gateway.post(chat(name)).status_code == 502
        assert {row(gateway, name)["state"] for name in ups} == {"ejected"}
        assert eventually(lambda: gateway.post(chat(BOTH)).status_code == 200)


def test_requests_are_spread_over_equal_replicas_and_a_slow_one_gets_fewer(tmp_path: Path) -> None:
    ups = [Upstream([plain()]), Upstream([plain()]), Upstream([slowly(plain(), 0.2)])]
    with closing(*ups), running(tmp_path, replicas(ups)) as gateway:
        for _ in range(9):  # one after the other: equals take turns
            assert gateway.post(chat("a")).is_success
        assert [len(up.requests) for up in ups] == [3, 3, 3]
        for up in ups:
            up.requests.clear()
        many(gateway, 120, 6)
        assert len(ups[2].requests) < 30 < min(len(ups[0].requests), len(ups[1].requests))


def test_an_attempt_that_has_too_little_time_left_is_not_begun(tmp_path: Path) -> None:
    ups = {"a": Upstream([slowly(plain(500, b"{}"), 0.4)]), "b": Upstream([plain()])}
    with closing(*ups.values()), running(tmp_path, config(ups)) as gateway:
        late = gateway.post(chat(BOTH), x_pointsman_timeout_ms="600")
        assert (late.status_code, late.json()["error"]["code"]) == (504, "upstream_timeout")
        assert ups["b"].requests == []
        hopeless = gateway.post(chat(BOTH), x_pointsman_timeout_ms="100")
        assert (hopeless.status_code, hopeless.json()["error"]["code"]) == (504, "upstream_timeout")
        assert hopeless.headers["x-should-retry"] == "false"
        assert len(ups["a"].requests) == 1
        assert gateway.post(chat(BOTH), x_pointsman_timeout_ms="5000").is_success


def test_a_kept_connection_that_dies_as_it_is_reused_costs_one_free_try(tmp_path: Path) -> None:
    dies = threading.Event()

    def mortal(conn: socket.socket, received: Received) -> bool:
        if dies.is_set():
            dies.clear()
            return False  # closed instead of an answer, as a server does that was about to close for idleness
        return plain()(conn, received)

    up = Upstream([mortal])
    with closing(up), running(tmp_path, config({"a": up}, max_attempts=1)) as gateway:
        assert gateway.post(chat("a")).is_success
        dies.set()
        assert gateway.post(chat("a")).is_success
        assert len(up.requests) == 3
        assert gateway.metric('pointsman_attempts_total{outcome="stale",target="a"}') == 1
        assert row(gateway)["failures"] == 0


def test_prompts_that_begin_alike_go_to_the_same_replica_also_after_a_reload_unless_it_is_loaded(
    tmp_path: Path,
) -> None:
    ups = [Upstream([plain()]) for _ in range(3)]
    text = "You are the assistant of a shop for bicycles. " * 20
    with closing(*ups), running(tmp_path, replicas(ups, affinity="prefix")) as gateway:

        def turns(count: int) -> list[int]:
            nonlocal text
            before = [len(up.requests) for up in ups]
            url = gateway.public + "/v1/chat/completions"
            with httpx.Client(timeout=30, headers={"authorization": f"Bearer {KEY}"}) as client:
                for _ in range(count):
                    text += "And what then? Tell me how that is done, and with which tools. "
                    assert client.post(url, json=chat("a", text=text)).is_success
            return [len(up.requests) - was for up, was in zip(ups, before, strict=True)]

        first = turns(6)
        assert sorted(first) == [0, 0, 6]
        path = gateway.directory / "pointsman.yaml"
        path.write_text(path.read_text() + "\n# changed\n")
        assert httpx.post(gateway.admin + "/v1/reload", timeout=30).status_code == 200
        assert turns(3) == [count // 2 for count in first]
        mine = ups[first.index(6)]
        others = [up for up in ups if up is not mine]

        def loaded(conn: socket.socket, received: Received) -> bool:
            assert eventually(lambda: any(up.requests for up in others), 15)
            return plain()(conn, received)

        mine.scripts = [loaded]
        answers = many(gateway, 12, 12, text=text)
        assert all(answer.is_success for answer in answers)
        assert any(up.requests for up in others)
