"""A real Valkey that hangs, dies, forgets, refuses or answers late, under two real gateways that keep limits in it."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.stores.resp import Said
from tests.faults.replicas import NANO, Replicas, codes, key, replicas
from tests.faults.test_process_drain import message
from tests.harness import Upstream, chat, config, eventually, plain, running, took_s
from tests.valkey import Relay, Valkey, valkey

KEYS = [
    key("rated", rpm=6000),
    key("slow", rpm=60),
    key("hard", budget={"usd": 1, "per": "day"}),
    key("poor", budget={"usd": 0.002, "per": "day"}),
    key("soft", budget={"usd": 0.001, "per": "day", "mode": "soft"}),
    key("free"),
    key("seen", budget={"usd": 1, "per": "day"}),  # of which only the first is asked
]
LIMIT = 10**9
DEGRADED = "x-pointsman-degraded"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    where = tmp_path_factory.mktemp("pair")
    cluster = ("--cluster-enabled", "yes")
    with (
        valkey(where / "valkey") as server,
        valkey(where / "owner", *cluster) as owner,
        valkey(where / "other", *cluster) as other,
    ):
        owner.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        owner.ask("CLUSTER", "MEET", "127.0.0.1", other.port)  # takes seconds
        relay = Relay(server.port)
        with replicas(where, 2, relay.url, KEYS, timeout="300ms") as both:
            assert eventually(lambda: all(both.up()), 10)
            time.sleep(1.2)  # a heartbeat, with which each hears of the other
            yield SimpleNamespace(server=server, relay=relay, both=both, moved=other, owner=owner)
        relay.close()


@pytest.fixture(autouse=True)
def whole(pair: SimpleNamespace) -> Iterator[None]:
    """Each test begins with a store that is there, whatever the one before did; no traceback is ever logged."""
    both: Replicas = pair.both
    assert eventually(lambda: all(both.up()), 20)
    assert eventually(lambda: codes([both.ask(at, "hard") for at in (0, 1)]) == {200: 2}, 20), "still rebuilding"
    yield
    assert both.lines("Traceback") == [0, 0]


def away(both: Replicas) -> bool:
    """Have both noticed?"""
    for at in (0, 1):
        both.ask(at, "rated")
    return both.up() == [False, False]


def serves_degraded(both: Replicas) -> None:
    """What must hold while the store is away, whatever the reason."""
    assert eventually(lambda: away(both), 10)
    for at in (0, 1):
        before = both.errors(at, "admit")
        answers = [both.ask(at, "rated") for _ in range(10)]
        assert codes(answers) == {200: 10}
        assert {one.headers[DEGRADED] for one in answers} == {"store"}
        assert answers[0].headers["x-ratelimit-limit-requests"] == "3000", "half of it each"
        assert both.errors(at, "admit") == before, "nobody asks a store that is away, so nobody waits"
        assert both.ask(at, "free").headers.get(DEGRADED) is None, "who has no limits is not concerned"
        assert both.ask(at, "soft").status_code == 200
        ready = both.gateways[at].get("/readyz", admin=True)
        assert (ready.status_code, ready.json()["store"]["state"]) == (200, "away")
        assert ready.json()["store"]["reason"]
        assert both.gateways[at].get("/v1/limits?key=rated", admin=True).json()["store"] == "away"


def comes_back(both: Replicas) -> None:
    assert eventually(lambda: all(both.up()), 20)
    answer = both.ask(0, "rated")
    assert DEGRADED not in answer.headers
    assert answer.headers["x-ratelimit-limit-requests"] == "6000"
    assert both.gateways[0].get("/readyz", admin=True).json()["store"] == {"state": "there"}
    assert "store" not in both.gateways[0].get("/readyz").json()


def total(server: Valkey, name: str) -> int:
    """What the store says was spent by all."""
    return int(server.hash(f"{{pointsman}}:key:{name}").get("day/UTC:x", "0"))


def test_a_store_that_hangs_is_waited_for_once(pair: SimpleNamespace) -> None:
    both = pair.both
    told = both.lines("is away (timeout)")
    before = [both.errors(at, "admit") for at in (0, 1)]
    pair.server.signal(signal.SIGSTOP)
    try:
        answers = [both.ask(at, "rated") for _ in range(15) for at in (0, 1)]
        assert codes(answers) == {200: 30}
        took = sorted(took_s(both.gateways[number % 2], one) for number, one in enumerate(answers))
        assert took[len(took) // 2] < 0.25, "nobody but the first waits"
        assert took[-1] < 0.3 + 3, "and the first for the timeout; some time for a slow machine"
        waited = [both.errors(at, "admit") - was for at, was in zip((0, 1), before, strict=True)]
        assert max(waited) <= 1, "the first waits for it, or the heartbeat did; nobody after"
        serves_degraded(both)
    finally:
        pair.server.signal(signal.SIGCONT)
    assert eventually(lambda: all(both.up()), 2 + 3), "a try is made every second; some time for a slow machine"
    comes_back(both)
    assert both.lines("is away (timeout)") == [one + 1 for one in told], "told once"


def test_who_leaves_while_the_store_is_asked_about_a_target_was_no_attempt_at_it(
    pair: SimpleNamespace, tmp_path: Path
) -> None:
    up = Upstream([plain()])
    settings = config({"a": up}, store={"url": pair.server.url, "prefix": "own", "timeout": "10s"})
    settings["targets"]["a"]["rpm"] = 600
    with running(tmp_path, settings) as gateway:
        assert eventually(lambda: gateway.post(chat("a")).status_code == 200, 10)
        asked = len(up.requests)
        pair.server.signal(signal.SIGSTOP)
        try:
            with gateway.connect() as conn:
                conn.sendall(message(model="a"))
            assert eventually(lambda: gateway.metric('pointsman_requests_total{code="client_gone"') == 1)
        finally:
            pair.server.signal(signal.SIGCONT)
        assert gateway.metric('pointsman_attempts_total{outcome="ok"') == asked == len(up.requests)
        assert gateway.metric('pointsman_attempts_total{outcome="client_gone"') == 0
    up.close()


def test_any_replica_tells_what_all_have_used(pair: SimpleNamespace) -> None:
    both, server = pair.both, pair.server
    assert codes([both.ask(0, "seen") for _ in range(3)]) == {200: 3}

    def told() -> Any:
        answer = both.gateways[1].get("/v1/limits?key=seen", admin=True).json()
        assert answer["store"] == "shared"
        return answer["data"][0]

    assert eventually(lambda: bool(told()["spent_usd"] == total(server, "seen") / LIMIT > 0))
    assert told()["left_usd"] == pytest.approx(1 - told()["spent_usd"])
    assert "here_usd" not in told()


def test_limits_that_go_local_are_shared_out_and_come_together_again(pair: SimpleNamespace) -> None:
    both = pair.both
    pair.server.kill()
    assert eventually(lambda: away(both), 10)
    answers = [both.ask(0, "slow") for _ in range(40)]
    found = codes(answers)
    assert 29 <= found[200] <= 32, "half of 60 a minute, and what comes back meanwhile"
    assert answers[-1].headers["x-ratelimit-limit-requests"] == "30"
    assert int(answers[-1].headers["retry-after"]) <= 3
    pair.server.start()
    comes_back(both)


@pytest.mark.parametrize("how", ["killed", "killed with an append-only file", "emptied"])
def test_no_budget_is_filled_again_by_a_store_that_was(pair: SimpleNamespace, how: str) -> None:
    both, server = pair.both, pair.server
    if how == "killed with an append-only file":
        server.options = ("--appendonly", "yes")
        server.kill()
        server.start()
        assert eventually(lambda: all(both.up()), 20)
        assert eventually(lambda: both.ask(0, "hard").status_code == 200, 20)
    assert codes([both.ask(at, "hard") for _ in range(5) for at in (0, 1)]) == {200: 10}
    assert eventually(lambda: total(server, "hard") % NANO == 0 and total(server, "hard") > 0)
    spent = total(server, "hard")
    if how == "emptied":
        server.ask("FLUSHALL")
    else:
        server.kill()
        answers = [both.ask(0, "soft"), both.ask(1, "soft")]
        assert codes(answers) == {200: 2}
        server.start()
    passed = 0
    end = time.monotonic() + 20
    while time.monotonic() < end and passed < 2:
        answer = both.ask(passed, "hard")
        assert answer.status_code == 200 or answer.json()["error"]["code"] == "store_unavailable", answer.text
        passed += answer.status_code == 200
    assert passed == 2
    comes_back(both)
    assert eventually(lambda: total(server, "hard") >= spent + 2 * NANO)
    assert both.ask(0, "hard").status_code == 200, "and with that 0 hears what is left"
    assert both.left(0, "hard") <= LIMIT - spent - 2 * NANO
    if how == "killed with an append-only file":
        server.options = ()


def test_a_hard_budget_spends_what_is_leased_and_then_says_that_nobody_knows(pair: SimpleNamespace) -> None:
    both, server = pair.both, pair.server
    name = "hard"
    leased = [int(value) for field, value in server.hash(f"{{pointsman}}:key:{name}").items() if ":s|" in field]
    assert len(leased) == 2
    assert all(0.005 * LIMIT < one <= 0.01 * LIMIT for one in leased), "one in a hundred of what is left"
    assert eventually(lambda: both.ask(0, "poor").status_code == 200, 20)
    server.kill()
    assert eventually(lambda: away(both), 10)
    assert codes([both.ask(0, "hard") for _ in range(10)]) == {200: 10}
    refused = both.ask(0, "poor")
    assert (refused.status_code, codes([refused])) == (503, {"store_unavailable": 1}), "a slice of 20 micro-dollars"
    assert refused.headers["retry-after"] == "1"
    assert refused.headers[DEGRADED] == "store"
    (row,) = both.gateways[0].get("/v1/limits?key=poor", admin=True).json()["data"]
    assert row["here_usd"] < row["left_usd"] / 50, "what this one may spend by itself is what is leased to it"
    server.start()
    comes_back(both)


def fill(server: Valkey) -> None:
    server.ask("SET", "other", b"x" * 900_000)
    for at in range(3):
        server.ask("SET", f"other{at}", b"x" * 900_000)
    server.ask("CONFIG", "SET", "maxmemory", "2mb")


def empty(server: Valkey) -> None:
    server.ask("CONFIG", "SET", "maxmemory", "0")


FAULTS: dict[str, tuple[Any, Any]] = {
    "OOM": (fill, empty),
    "READONLY": (
        lambda server: server.ask("REPLICAOF", "127.0.0.1", "1"),
        lambda server: server.ask("REPLICAOF", "NO", "ONE"),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_store_that_refuses_to_be_written_to_is_one_that_is_away(pair: SimpleNamespace, fault: str) -> None:
    both, (begin, mend) = pair.both, FAULTS[fault]
    told = both.lines(f"is away ({fault}")
    begin(pair.server)
    try:
        serves_degraded(both)
    finally:
        mend(pair.server)
    comes_back(both)
    assert both.lines(f"is away ({fault}") == [one + 1 for one in told]


def test_a_store_that_loads_its_data_is_away_until_it_has(pair: SimpleNamespace) -> None:
    both, server = pair.both, pair.server
    server.kill()
    server.options = ("--enable-debug-command", "yes")
    server.start()
    server.ask("DEBUG", "POPULATE", 4000)
    server.ask("SAVE")
    server.kill()
    server.options = ("--key-load-delay", "500", "--loading-process-events-interval-bytes", "1024", "--save", "900 1")
    server.start(ready=False)
    serves_degraded(both)
    comes_back(both)
    server.options = ()


def test_a_script_that_is_forgotten_is_sent_again_and_nobody_notices(pair: SimpleNamespace) -> None:
    both = pair.both
    for _ in range(3):
        pair.server.ask("SCRIPT", "FLUSH")
        for at in (0, 1):
            answer = both.ask(at, "rated")
            assert (answer.status_code, answer.headers.get(DEGRADED)) == (200, None)
    assert both.up() == [True, True]


def test_keys_that_have_moved_are_followed_and_the_configured_store_is_gone_back_to(pair: SimpleNamespace) -> None:
    both, server, relay = pair.both, pair.server, pair.relay

    def known() -> bool:
        told = pair.moved.ask("CLUSTER", "INFO")
        return isinstance(told, bytes) and b"cluster_slots_assigned:16384" in told and b"state:ok" in told

    assert eventually(known, 20)
    with pytest.raises(Said, match="MOVED"):
        pair.moved.ask("HGETALL", "{pointsman}:key:rated")
    relay.lead(pair.moved.port)
    try:

        def there() -> bool:  # one that has not noticed yet that its connection is gone may answer first
            served = codes([both.ask(at, "rated") for at in (0, 1)]) == {200: 2} and all(both.up())
            return served and pair.owner.hash("{pointsman}:key:rated").get("q:u") is not None

        assert eventually(there, 20)
        assert eventually(lambda: min(both.lines(f"have moved to 127.0.0.1:{pair.owner.port}")) == 1)
    finally:
        relay.lead(server.port)
    assert codes([both.ask(at, "rated") for at in (0, 1)]) == {200: 2}
    pair.owner.kill()
    assert eventually(lambda: away(both) or not all(both.up()), 10)
    comes_back(both)


def test_a_store_that_answers_late_is_left_alone_until_it_is_quick_again(pair: SimpleNamespace) -> None:
    both = pair.both
    pair.relay.delay_s = 0.6
    try:
        serves_degraded(both)
        time.sleep(1.5)  # tries are made meanwhile, and fail
        serves_degraded(both)
    finally:
        pair.relay.delay_s = 0.0
    comes_back(both)
