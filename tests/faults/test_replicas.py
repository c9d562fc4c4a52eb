"""Three real gateways, one real Valkey: limits are exact, budgets are kept, what a killed replica held comes back."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from tests.faults.replicas import ANSWER, NANO, Replicas, codes, key, replicas, secret
from tests.harness import Received, chat, eventually
from tests.valkey import Valkey, valkey

KEYS = [
    key("minute", rpm=60),
    key("tokens", tpm=6000),
    key("places", max_concurrent=4),
    key("ten", budget={"usd": 0.001, "per": "day"}),
    key("held", budget={"usd": 0.01, "per": "day"}),
    key("tried", rpm={"limit": 5, "mode": "shadow"}),
    key("left", max_concurrent=2),
]


class Gate:
    """The upstream: answers at once, or holds requests that ask for it until it is opened."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.waiting = 0

    def __call__(self, conn: object, request: Received) -> bool:
        if b"Wait." in request.body:
            self.waiting += 1
            self.open.wait(60)
        return ANSWER(conn, request)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    where: Path = tmp_path_factory.mktemp("trio")
    upstream = Gate()
    with (
        valkey(where / "valkey") as server,
        replicas(where, 3, server.url, KEYS, upstream, timeout="10s") as all_,
    ):
        assert eventually(lambda: all_.up() == [True] * 3, 10)
        assert eventually(lambda: all_.ask(0, "ten").status_code == 200, 20), "the first keys are known in 3 s"
        yield SimpleNamespace(server=server, all=all_, upstream=upstream)
        upstream.open.set()


def state(server: Valkey, name: str) -> dict[str, str]:
    return server.hash(f"{{pointsman}}:key:{name}")


def test_of_200_at_once_on_60_a_minute_60_pass_wherever_they_go(trio: SimpleNamespace) -> None:
    began = time.monotonic()
    answers = trio.all.at_once(200, "minute", 20)
    took = time.monotonic() - began
    found = codes(answers)
    assert 60 <= found[200] <= 61 + took, "one a second comes back meanwhile"
    assert found["rate_limit_exceeded"] == 200 - found[200]
    for one in answers:
        left = int(one.headers["x-ratelimit-remaining-requests"])
        assert one.headers["x-ratelimit-limit-requests"] == "60"
        assert one.status_code == 200 or left == 0
        if one.status_code == 429:
            assert one.headers["retry-after"] == "1"
    wait = int(answers[-1].headers["retry-after"])
    time.sleep(wait)
    assert trio.all.ask(1, "minute").status_code == 200, "who waits as long as told passes, anywhere"


def test_tokens_are_corrected_to_what_was_used(trio: SimpleNamespace) -> None:
    """A request takes some 1,000 in advance, and used 60."""
    answers = [trio.all.ask(at % 3, "tokens") for at in range(12)]
    assert codes(answers) == {200: 12}
    left = int(trio.all.ask(0, "tokens").headers["x-ratelimit-remaining-tokens"])
    used = float(state(trio.server, "tokens")["t:u"])
    assert used <= 13 * 60 + 1
    assert left >= 4000


def test_a_hard_budget_holds_for_all_together(trio: SimpleNamespace) -> None:
    before = len(trio.all.upstream.requests)
    answers = trio.all.at_once(60, "ten", 20)
    while len(answers) < 400:
        more = trio.all.at_once(6, "ten", 6)
        answers += more
        if codes(more) == {"budget_exceeded": 6} and more[0].headers["retry-after"] != "2":
            break
        time.sleep(0.5)
    spent = (len(trio.all.upstream.requests) - before + 1) * NANO
    assert spent <= 1_000_000, "with the one that the fixture asked"
    assert spent == 1_000_000, "slices that were leased elsewhere have been given back"
    assert set(codes(answers)) == {200, "budget_exceeded"}
    assert int(state(trio.server, "ten")["day/UTC:x"]) == 1_000_000
    assert int(answers[-1].headers["retry-after"]) > 2
    assert eventually(lambda: [trio.all.left(at, "ten") for at in range(3)] == [0, 0, 0], 10)


def test_a_limit_in_shadow_mode_refuses_nobody_and_is_counted(trio: SimpleNamespace) -> None:
    assert codes(trio.all.at_once(12, "tried", 1)) == {200: 12}
    counted = sum(trio.all.metric(at, 'pointsman_limit_shadowed_total{limit="rpm",name="tried"') for at in range(3))
    assert 6 <= counted <= 7
    assert state(trio.server, "tried")["q:u"].startswith(("4.", "5")), "what would have been refused took nothing"


def test_a_client_that_leaves_gives_its_place_back_everywhere(trio: SimpleNamespace) -> None:
    body = json.dumps(chat(text="Wait.", max_tokens=50)).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {secret('left')}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode()
    connections = [trio.all.gateways[at].connect() for at in (0, 1)]
    for one in connections:
        one.sendall(head + body)
    assert eventually(lambda: state(trio.server, "left").get("s") == "2")
    assert codes([trio.all.ask(2, "left")]) == {"rate_limit_exceeded": 1}
    for one in connections:
        one.close()
    assert eventually(lambda: state(trio.server, "left").get("s") == "0")
    assert trio.all.ask(2, "left").status_code == 200


def test_what_a_killed_replica_held_comes_back_within_its_lease(trio: SimpleNamespace) -> None:
    """Places are free again, and money that was set aside counts as spent. Last: there are two replicas after it."""
    every: Replicas = trio.all
    waiting = trio.upstream.waiting

    def wait(at: int, name: str) -> None:
        with contextlib.suppress(httpx.TransportError):  # one of the gateways is killed
            every.ask(at, name, text="Wait.")

    asked = [(0, "places"), (0, "places"), (1, "places"), (1, "places"), (0, "held"), (0, "held")]
    threads = [threading.Thread(target=wait, args=one, daemon=True) for one in asked]
    for one in threads:
        one.start()
    assert eventually(lambda: trio.upstream.waiting - waiting == len(asked), 20)
    assert codes([every.ask(2, "places")]) == {"rate_limit_exceeded": 1}
    assert int(state(trio.server, "held").get("day/UTC:x", "0")) == 0
    began = time.monotonic()
    every.gateways[0].process.kill()
    every.gateways[0].process.wait(10)
    assert eventually(lambda: every.ask(2, "places").status_code == 200, 40)
    assert 2 < time.monotonic() - began <= 15 + 5, "the lease, and some time for a slow machine"
    assert state(trio.server, "places")["s"] == "2", "those of the replica that lives are still under way"
    assert every.ask(2, "held").status_code == 200
    assert eventually(lambda: int(state(trio.server, "held")["day/UTC:x"]) >= 3 * NANO), "what it set aside is charged"
    trio.upstream.open.set()
    assert eventually(lambda: state(trio.server, "places")["s"] == "0", 10)
