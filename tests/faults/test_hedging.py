"""A second attempt beside a slow one: who answers, who is told to stop, and that each is booked once."""

from __future__ import annotations

import json
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.ledger.directory import DATABASE
from tests.harness import (
    DONE,
    KEY,
    ROLE,
    SSE_HEAD,
    STREAM,
    Gateway,
    Received,
    Upstream,
    chat,
    chunk,
    config,
    eventually,
    framed,
    plain,
    reset,
    running,
    stream,
)

BOTH = "llama-3.3-70b"  # reaches a, then b
CLEAN = b"".join(event for event in STREAM if b"prompt_tokens" not in event)


class Slow:
    """Answers at once until it is told to wait: then a head and a role, and what `then` does once there is `go`."""

    def __init__(self) -> None:
        self.waits = threading.Event()
        self.go = threading.Event()
        self.then: Callable[[socket.socket], bool] = self.answer

    def __call__(self, conn: socket.socket, received: Received) -> bool:
        if not self.waits.is_set():
            return stream()(conn, received)
        conn.sendall(SSE_HEAD + framed(ROLE))
        assert self.go.wait(20)
        return self.then(conn)

    @staticmethod
    def answer(conn: socket.socket) -> bool:
        conn.sendall(b"".join(framed(event) for event in STREAM[1:]) + b"0\r\n\r\n")
        return True

    @staticmethod
    def break_off(conn: socket.socket) -> bool:
        reset(conn)
        return False


class World:
    """A gateway whose target `a` is hedged after 200 ms; `slow` and `other` are what `a` and `b` do."""

    def __init__(self, gateway: Gateway, slow: Slow, other: Slow, ups: dict[str, Upstream]) -> None:
        self.gateway = gateway
        self.slow = slow
        self.other = other
        self.ups = ups

    def earn(self, hedges: int = 1) -> None:
        """Serve what it takes to be allowed so many."""
        for _ in range(50 * hedges):
            assert self.client.post("/v1/chat/completions", json=chat("a", stream=True)).content == CLEAN
        for up in self.ups.values():
            up.requests.clear()
            up.closed_at.clear()

    @property
    def client(self) -> httpx.Client:
        if not hasattr(self, "_client"):
            self._client = httpx.Client(
                base_url=self.gateway.public, timeout=30, headers={"authorization": f"Bearer {KEY}"}
            )
        return self._client

    def ask(self, model: str = BOTH, **more: Any) -> httpx.Response:
        return self.client.post("/v1/chat/completions", json=chat(model, stream=True, **more))

    def hedges(self, result: str, target: str = "b") -> float:
        return self.gateway.metric(f'pointsman_hedges_total{{result="{result}",target="{target}"}}')

    def attempts(self, target: str, outcome: str) -> float:
        return self.gateway.metric(f'pointsman_attempts_total{{outcome="{outcome}",target="{target}"}}')

    def booked(self, answer: httpx.Response) -> list[tuple[Any, ...]]:
        """target, attempt, kind (0 settle, 1 void), input, output, estimated, cause of a request."""
        assert eventually(lambda: self.gateway.get("/readyz").json()["ledger"]["pending"] == 0)
        db = sqlite3.connect(self.gateway.directory / "books" / DATABASE)
        rows = db.execute(
            "SELECT target, attempt, kind, input, output, estimated, cause FROM entries e "
            "JOIN accounts a ON a.id = e.account WHERE request_id = ? ORDER BY attempt",
            (answer.headers["x-request-id"],),
        ).fetchall()
        db.close()
        return rows


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    slow, other = Slow(), Slow()
    ups = {"a": Upstream([slow]), "b": Upstream([other])}
    settings = config(ups, ledger={"dir": "books"})
    settings["backends"]["a"] |= {"hedge": "200ms"}
    with running(tmp_path, settings) as gateway:
        made = World(gateway, slow, other, ups)
        yield made
        made.client.close()
        slow.go.set()
        other.go.set()
        assert eventually(lambda: gateway.metric("pointsman_inflight_requests") == 0)
        rows = gateway.get("/v1/targets", admin=True).json()["data"]
        assert [row["inflight"] for row in rows] == [0, 0]
        assert {row["state"] for row in rows} == {"healthy"}
        assert not [line for line in gateway.lines if "Traceback" in line]
    for up in ups.values():
        up.close()


def test_the_hedge_answers_where_the_first_is_slow_and_both_are_booked_once(world: World) -> None:
    world.earn()
    world.slow.waits.set()
    answer = world.ask()
    assert answer.content == CLEAN
    assert answer.headers["x-pointsman-target"] == "b"
    assert answer.headers["x-pointsman-attempts"] == "2"
    assert answer.headers["x-pointsman-because"].startswith("fallback: a was slower (")
    assert [len(up.requests) for up in world.ups.values()] == [1, 1]
    assert world.hedges("won") == 1
    assert world.attempts("a", "outrun") == 1
    world.slow.go.set()
    assert eventually(lambda: len(world.ups["a"].closed_at) == 1), "the loser is told to stop"
    first, second = world.booked(answer)
    assert (*first[:3], *first[4:]) == ("a", 1, 0, 0, 1, "outrun")  # for its prompt, estimated
    assert second == ("b", 2, 0, 10, 3, 0, "ok")
    told = world.gateway.get(f"/v1/decisions/{answer.headers['x-request-id']}").json()["record"]
    assert (told["answered"], told["fallback_reason"], told["target"]) == (2, "outrun", "b")


def test_the_first_answers_after_all_and_the_hedge_is_told_to_stop(world: World) -> None:
    world.earn()
    world.slow.waits.set()
    world.other.waits.set()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(world.ask)
        assert eventually(lambda: len(world.ups["b"].requests) == 1)
        assert world.gateway.metric("pointsman_endpoint_inflight{") == 2
        world.slow.go.set()
        answer = asked.result()
    assert answer.content == CLEAN
    assert answer.headers["x-pointsman-target"] == "a"
    assert world.hedges("lost") == 1
    assert world.attempts("b", "outrun") == 1
    world.other.go.set()
    assert eventually(lambda: len(world.ups["b"].closed_at) == 1)
    first, second = world.booked(answer)
    assert first == ("a", 1, 0, 10, 3, 0, "ok")
    assert (*second[:3], *second[4:]) == ("b", 2, 0, 0, 1, "outrun")
    told = world.gateway.get(f"/v1/decisions/{answer.headers['x-request-id']}").json()["record"]
    assert (told["answered"], told["attempts"], told["fallback_reason"], told["target"]) == (1, 2, "", "a")
    assert [one["number"] for one in told["spent"]] == [2, 1]


@pytest.mark.parametrize("breaks", ["a", "b"])
def test_where_one_of_the_two_breaks_the_other_answers(world: World, breaks: str) -> None:
    world.earn()
    world.slow.waits.set()
    world.other.waits.set()
    broken, whole = (world.slow, world.other) if breaks == "a" else (world.other, world.slow)
    broken.then = Slow.break_off
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(world.ask)
        assert eventually(lambda: len(world.ups["b"].requests) == 1)
        broken.go.set()
        assert eventually(lambda: world.attempts(breaks, "reset") == 1)
        whole.go.set()
        answer = asked.result()
    assert answer.content == CLEAN
    assert answer.headers["x-pointsman-target"] == "ab".replace(breaks, "")
    assert world.hedges("failed") == (breaks == "b")
    causes = {row[0]: row[-1] for row in world.booked(answer)}
    assert causes == {breaks: "reset", "ab".replace(breaks, ""): "ok"}


def test_a_hedge_that_is_refused_decides_nothing_and_a_first_that_is_refused_stops_the_hedge(world: World) -> None:
    refuses = plain(400, b'{"error":{"message":"no such parameter"}}')
    world.earn(2)
    world.slow.waits.set()
    world.ups["b"].scripts = [refuses]
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(world.ask)
        assert eventually(lambda: world.hedges("failed") == 1)
        world.slow.go.set()
        assert asked.result().content == CLEAN
    go = threading.Event()

    def refused_late(conn: socket.socket, received: Received) -> bool:
        assert go.wait(20)
        return refuses(conn, received)

    world.ups["a"].scripts = [refused_late]
    world.ups["b"].scripts = [world.other]
    world.other.waits.set()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(world.ask)
        assert eventually(lambda: len(world.ups["b"].requests) == 2)
        go.set()
        answer = asked.result()
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "no such parameter")
    assert world.attempts("b", "outrun") == 1


def test_where_both_break_the_client_is_told_once(world: World) -> None:
    world.earn()
    for one in (world.slow, world.other):
        one.waits.set()
        one.then = Slow.break_off
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(world.ask)
        assert eventually(lambda: len(world.ups["b"].requests) == 1)
        world.slow.go.set()
        world.other.go.set()
        answer = asked.result()
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_unavailable")
    assert [(row[0], row[-1]) for row in world.booked(answer)] == [("a", "reset"), ("b", "reset")]


def test_a_client_that_leaves_stops_both(world: World) -> None:
    world.earn()
    world.slow.waits.set()
    world.other.waits.set()
    body = json.dumps(chat(BOTH, stream=True)).encode()
    with world.gateway.connect() as conn:
        conn.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b"
            % (KEY.encode(), len(body), body)
        )
        assert eventually(lambda: len(world.ups["b"].requests) == 1)
    assert eventually(lambda: world.attempts("a", "client_gone") + world.attempts("b", "client_gone") == 2)
    world.slow.go.set()
    world.other.go.set()
    assert eventually(lambda: all(up.closed_at for up in world.ups.values()))


def test_no_more_than_one_request_in_fifty_has_one_and_who_is_not_streamed_has_none(world: World) -> None:
    world.earn()
    world.slow.waits.set()
    world.slow.then = Slow.answer
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(world.ask) for _ in range(4)]
        assert eventually(lambda: world.hedges("withheld", "a") == 3)
        world.slow.go.set()
        assert [one.result().content for one in asked] == [CLEAN] * 4
    assert len(world.ups["b"].requests) == 1
    world.slow.waits.clear()
    world.earn()
    world.slow.go.clear()
    waiting, go = threading.Event(), threading.Event()

    def later(conn: socket.socket, received: Received) -> bool:
        waiting.set()
        assert not go.wait(0.6)  # three times what a stream would have waited
        return plain()(conn, received)

    world.ups["a"].scripts = [later]
    assert world.client.post("/v1/chat/completions", json=chat(BOTH)).headers["x-pointsman-target"] == "a"
    assert waiting.is_set()
    assert world.ups["b"].requests == []


def test_a_target_without_a_second_one_and_a_pool_under_load_have_none(tmp_path: Path) -> None:
    slow = Slow()
    ups = {"a": Upstream([slow]), "b": Upstream([stream([ROLE, chunk("b"), *STREAM[3:]])])}
    settings = config(ups)
    settings["backends"]["a"] |= {"hedge": "100ms", "max_inflight": 2}
    with running(tmp_path, settings) as gateway:
        world = World(gateway, slow, Slow(), ups)
        world.earn()
        slow.waits.set()
        for model in (BOTH, "a"):  # one of two under way is half; a pin has no second candidate
            with ThreadPoolExecutor(1) as pool:
                asked = pool.submit(world.ask, model)
                assert eventually(lambda model=model: world.hedges("withheld", "a") == (1 if model == BOTH else 2))  # type: ignore[misc]
                slow.go.set()
                answer = asked.result()
            slow.go.clear()
            assert (answer.content, answer.headers["x-pointsman-target"]) == (CLEAN, "a")
            assert answer.content.endswith(DONE)
        assert ups["b"].requests == []
        world.client.close()
    for up in ups.values():
        up.close()


def test_a_hedge_that_finds_no_room_leaves_the_first_its_place(tmp_path: Path) -> None:
    slow = Slow()
    ups = {"a": Upstream([slow]), "b": Upstream([stream()])}
    settings = config(ups, ledger={"dir": "books"})
    settings["backends"]["a"] |= {"hedge": "100ms", "max_inflight": 3}
    settings["targets"]["b"] |= {"rpm": 1}
    with running(tmp_path, settings) as gateway, ThreadPoolExecutor(4) as pool:
        world = World(gateway, slow, Slow(), ups)
        world.earn()
        assert world.ask("b").content == CLEAN  # all that there is in a minute
        slow.waits.set()
        try:
            asked = pool.submit(world.ask)
            assert eventually(lambda: world.hedges("failed") == 1)
            slow.go.set()
            answer = asked.result()
            assert (answer.content, answer.headers["x-pointsman-target"]) == (CLEAN, "a")
            assert world.booked(answer) == [("a", 1, 0, 10, 3, 0, "ok")]
            slow.go.clear()
            full = [pool.submit(world.ask, "a") for _ in range(3)]
            assert eventually(lambda: len(ups["a"].requests) == 4)
            assert pool.submit(world.ask, "a").result(5).status_code == 503, (
                "a fourth at once, where there may be three"
            )
        finally:
            slow.go.set()
        assert [one.result().content for one in full] == [CLEAN] * 3
        world.client.close()
    for up in ups.values():
        up.close()
