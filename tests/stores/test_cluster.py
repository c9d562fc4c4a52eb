"""Three real primaries: keys are followed to where their slot moves, and while it does, and nothing counts twice."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import pytest

from gateway.core.money.admission import Hold, Refused
from gateway.stores.asking import SharedHold
from gateway.stores.settings import StoreSettings
from gateway.stores.shared import Shared
from tests.stores.cluster import Cluster, cluster
from tests.stores.replica import NEED, RPM, TPM, Replica, until
from tests.valkey import Relay, Valkey

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cluster") / "nodes") as made:
        yield made


@dataclass
class Model:
    """What must be true of a team's budget, whoever is asked."""

    limit: int
    spent: int = 0
    aside: int = 0
    rated: int = 0  # requests that one key's rate let through
    first_us: int = 0  # when the first of them was
    over: list[int] = field(default_factory=list)
    unknown: int = 0


async def ask(one: Replica, model: Model, draw: random.Random, at: int) -> None:
    """One request, and what it costs."""
    got = await one.admit(at)
    if not isinstance(got, SharedHold):
        assert isinstance(got, Refused)
        model.unknown += got.unknown
        await asyncio.sleep(0.005)
        return
    model.aside += NEED
    if at == 0:
        model.rated += 1
        model.first_us = model.first_us or got.since_us
    if model.spent + model.aside > model.limit:
        model.over.append(model.spent + model.aside)
    await asyncio.sleep(draw.random() * 0.01)
    cost = draw.randint(0, NEED)
    model.aside -= NEED
    model.spent += cost
    got.end(time.monotonic(), draw.randint(0, 3), cost, int(time.time() * 1e3))  # one token was expected


async def moves(nodes: Cluster, key: str, draw: random.Random) -> None:
    """From each node to the next, one key after the other in any order."""
    for _ in range(3):
        to = nodes.nodes[(nodes.nodes.index(nodes.owner(key)) + 1) % len(nodes.nodes)]
        moving = await asyncio.to_thread(nodes.begin, key, to)
        keys = moving.keys()
        draw.shuffle(keys)
        for one in keys:
            await asyncio.to_thread(moving.take, one)
            await asyncio.sleep(0.02)
        await asyncio.to_thread(moving.end)
        await asyncio.sleep(0.05)


async def moves_at_once(nodes: Cluster, key: str, draw: random.Random) -> None:
    """As Valkey 9 moves a slot by itself, all keys at one instant."""
    for _ in range(3):
        source = nodes.owner(key)
        to = nodes.nodes[(nodes.nodes.index(source) + 1) % len(nodes.nodes)]
        slot, there = source.ask("CLUSTER", "KEYSLOT", key), to.ask("CLUSTER", "MYID")
        source.ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", there)
        await until(lambda to=to: nodes.has(to, key))  # type: ignore[misc]


@pytest.mark.parametrize("move", [moves, moves_at_once])
def test_while_a_slot_moves_nobody_is_refused_and_no_limit_is_off_by_more_than_one(
    nodes: Cluster, caplog: pytest.LogCaptureFixture, move: Callable[[Cluster, str, random.Random], Awaitable[None]]
) -> None:
    caplog.set_level("INFO", "pointsman")
    draw, prefix = random.Random(11), move.__name__
    first = f"{{{prefix}}}:key:k0"

    async def run() -> tuple[Model, list[Replica]]:
        model = Model(limit=60_000)
        replicas = [Replica(f"r{at}", nodes.nodes[at].port, prefix, usd=model.limit) for at in range(2)]
        for one in replicas:
            await one.ready()
        ended = asyncio.Event()

        async def client(one: Replica, at: int) -> None:
            while not ended.is_set():
                await ask(one, model, draw, at)

        clients = [asyncio.ensure_future(client(one, at)) for one in replicas for at in (0, 0, 0, 1, 2, 3)]
        await move(nodes, first, draw)
        await until(lambda: model.spent + model.aside > model.limit - 2 * NEED or model.rated > RPM)
        ended.set()
        await asyncio.gather(*clients)
        await asyncio.gather(*(one.store.refresh() for one in replicas))
        return model, replicas

    async def whole() -> Model:
        model, replicas = await run()
        owner = nodes.owner(first)
        team = owner.hash(f"{{{prefix}}}:team:t")
        assert model.over == []
        assert model.unknown == 0
        assert int(team["month/UTC:x"]) == model.spent == sum(one.budget.spent for one in replicas)
        leased = sum(int(value) for name, value in team.items() if ":s|" in name)
        assert int(team["month/UTC:r"]) == leased, "nothing is set aside but what is leased"
        assert [owner.hash(f"{{{prefix}}}:key:k{at}")["s"] for at in range(4)] == ["0"] * 4
        key = owner.hash(f"{{{prefix}}}:key:k0")
        filled = (int(key["q:t"]) - model.first_us) / 60e6 * RPM
        assert float(key["q:u"]) == pytest.approx(model.rated - filled, abs=1), "each counts once, and none is missing"
        for one in replicas:
            await one.store.close()
        return model

    model = asyncio.run(whole())
    assert model.spent
    assert "is away" not in caplog.text
    assert "have moved to" in caplog.text


def test_a_key_that_nobody_has_used_is_made_where_its_team_has_gone(nodes: Cluster) -> None:
    async def run() -> None:
        one = Replica("r", nodes.nodes[0].port, "fresh", keys=2)
        await one.store.start()
        while isinstance(await one.admit(0), Refused):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        team = "{fresh}:team:t"
        moving = nodes.begin(team, nodes.other(team))
        moving.take(team)
        assert isinstance(await one.admit(1), Hold), "neither node had both"
        assert moving.to.ask("CLUSTER", "COUNTKEYSINSLOT", moving.slot) == 2
        moving.end()
        assert isinstance(await one.admit(1), Hold)
        assert int(moving.to.hash("{fresh}:key:k1")["s"]) == 2
        await one.store.close()

    asyncio.run(run())


def test_what_ends_while_its_keys_are_at_both_ends_is_told_once_they_are_not(
    nodes: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        one = Replica("r", nodes.nodes[0].port, "ends", keys=1)
        await one.ready()
        held = [await one.admit(0) for _ in range(3)]
        team = "{ends}:team:t"
        moving = nodes.begin(team, nodes.other(team))
        moving.take(team)
        for at, got in enumerate(held):
            assert isinstance(got, Hold)
            got.end(time.monotonic(), 1, 10 + at, int(time.time() * 1e3))
        asked = asyncio.ensure_future(one.admit(0))
        await asyncio.sleep(0.05)
        assert not asked.done(), "it waits, too"
        assert moving.source.hash("{ends}:key:k0")["s"] == "3"
        link = one.store._breaker.link
        assert link is not None
        one.store._beat(link, one.store.form(one.gates[0]))  # of both keys, which nobody waits for
        await asyncio.sleep(0.05)
        moving.end()
        got = await asked
        assert isinstance(got, Hold)
        got.cancel()
        await until(lambda: moving.to.hash("{ends}:key:k0")["s"] == "0")
        assert moving.to.hash(team)["month/UTC:x"] == "33"
        await one.store.close()

    asyncio.run(run())
    assert "is away" not in caplog.text


def test_what_ends_after_its_keys_have_moved_is_told_once_where_they_are(nodes: Cluster) -> None:
    async def run() -> None:
        one = Replica("r", nodes.nodes[0].port, "after", keys=1)
        await one.ready()
        first, second = await one.admit(0, TPM // 2), await one.admit(0, TPM // 2)
        assert isinstance(first, Hold)
        assert isinstance(second, Hold)
        key, team = "{after}:key:k0", "{after}:team:t"
        moving = nodes.begin(team, nodes.other(team))
        moving.end()
        first.end(time.monotonic(), 0, 25, int(time.time() * 1e3))
        second.cancel()
        await until(lambda: nodes.has(moving.to, key) and moving.to.hash(key)["s"] == "0")
        await one.store.refresh()
        found = moving.to.hash(team)
        assert found["month/UTC:x"] == "25"
        assert found["month/UTC:r"] == found["month/UTC:s|r"], "what is leased"
        assert float(moving.to.hash(key)["t:u"]) < TPM / 2, "what was not used was given back"
        await one.store.close()

    asyncio.run(run())


def test_what_is_asked_where_a_slot_goes_is_answered_before_all_is_told_there(
    nodes: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        one = Replica("r", nodes.nodes[0].port, "drain", keys=1)
        await one.ready()
        team = "{drain}:team:t"
        moving = nodes.begin(team, nodes.other(team))
        moving.take(*moving.keys())
        moving.to.ask("CLIENT", "PAUSE", 10_000, "WRITE")
        asked = asyncio.ensure_future(one.admit(0))
        await asyncio.sleep(0.1)  # it is there by now; were it not to be yet, it would be answered as well
        moving.tell(moving.source)
        later = asyncio.ensure_future(one.admit(0))
        await asyncio.sleep(0.1)
        moving.to.ask("CLIENT", "UNPAUSE")
        moving.tell(moving.to)
        assert isinstance(await asked, Hold)
        assert isinstance(await later, Hold)
        assert moving.to.hash("{drain}:key:k0")["s"] == "2"
        found = moving.to.hash(team)
        assert int(found["month/UTC:r"]) == 2 * NEED + int(found["month/UTC:s|r"])
        await one.store.close()

    asyncio.run(run())
    assert "is away" not in caplog.text


def test_a_move_that_was_given_up_does_not_stand_in_the_way_of_the_next_one(
    nodes: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        one = Replica("r", nodes.nodes[0].port, "given-up", keys=1)
        await one.ready()
        team = "{given-up}:team:t"
        moving = nodes.begin(team, nodes.other(team))
        keys = moving.keys()
        moving.take(*keys)
        assert isinstance(await one.admit(0), Hold)
        moving.source.ask("CLUSTER", "SETSLOT", moving.slot, "STABLE")
        moving.to.ask("MIGRATE", "127.0.0.1", moving.source.port, "", 0, 5000, "KEYS", *keys)
        moving.to.ask("CLUSTER", "SETSLOT", moving.slot, "STABLE")
        assert isinstance(await one.admit(0), Hold)
        other = nodes.begin(team, next(node for node in nodes.nodes if node not in (moving.source, moving.to)))
        other.take(*keys)
        assert isinstance(await one.admit(0), Hold)
        other.end()
        await until(lambda: other.to.hash("{given-up}:key:k0")["s"] == "3")
        await one.store.close()

    asyncio.run(run())
    assert "is away" not in caplog.text


def test_keys_that_stay_at_both_ends_are_an_outage_with_that_reason(
    nodes: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        one = Replica("r", nodes.nodes[0].port, "long", keys=1, timeout_s=0.4)
        await one.ready()
        team = "{long}:team:t"
        moving = nodes.begin(team, nodes.other(team))
        moving.take(team)
        got = await one.admit(0)
        assert isinstance(got, Hold), "of what it has leased"
        assert "is away (TRYAGAIN" in caplog.text
        got.end(time.monotonic(), 1, 17, int(time.time() * 1e3))
        moving.end()
        await until(lambda: one.store.up)
        assert isinstance(await one.admit(0), Hold)
        assert moving.to.hash(team)["month/UTC:x"] == "17"
        await one.store.close()

    asyncio.run(run())


def test_a_node_that_hangs_while_it_takes_a_slot_is_an_outage_and_nothing_counts_twice(
    nodes: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        one = Replica("r", nodes.nodes[0].port, "hangs", keys=1, timeout_s=0.4)
        await one.ready()
        team, key = "{hangs}:team:t", "{hangs}:key:k0"
        moving = nodes.begin(team, nodes.other(team))
        moving.take(team, key)
        assert isinstance(await one.admit(0), Hold)
        moving.to.signal(signal.SIGSTOP)
        try:
            assert isinstance(await one.admit(0), Hold), "of what it has leased"
            assert f"is away (127.0.0.1:{moving.to.port}: timeout)" in caplog.text
        finally:
            moving.to.signal(signal.SIGCONT)
        await until(lambda: one.store.up)
        moving.end()
        assert isinstance(await one.admit(0), Hold)
        assert int(moving.to.hash(key)["s"]) == 3
        found = moving.to.hash(team)
        assert int(found["month/UTC:r"]) == 3 * NEED + int(found["month/UTC:s|r"])
        await one.store.close()

    asyncio.run(run())


def test_nodes_that_do_not_agree_yet_are_asked_until_they_do(nodes: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        one = Replica("r", nodes.nodes[0].port, "agree", keys=1)
        await one.ready()
        moving = nodes.begin("{agree}:team:t", nodes.other("{agree}:team:t"))
        moving.take(*moving.keys())
        moving.tell(moving.source)
        asked = asyncio.ensure_future(one.admit(0))
        await asyncio.sleep(0.1)  # one names the other, and that one the first, unless it has heard by itself
        moving.tell(moving.to)
        assert isinstance(await asked, Hold)
        await one.store.close()

    asyncio.run(run())
    assert "is away" not in caplog.text


def test_where_the_node_fails_that_was_named_the_configured_one_is_asked_again(
    server: Valkey,
) -> None:
    ended = asyncio.Event()

    async def node(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Says that the keys are where nobody is."""
        while data := await reader.read(65536):
            writer.write(b"-MOVED 1 127.0.0.1:9\r\n" if b"count" in data else b"$0\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        ended.set()

    async def run() -> None:
        listener = await asyncio.start_server(node, "127.0.0.1", 0)
        relay = Relay(listener.sockets[0].getsockname()[1])
        store = Shared(asyncio.get_running_loop(), StoreSettings("127.0.0.1", relay.port, timeout_s=5), "me")
        await store.start()
        assert not store.up
        assert store.state()["reason"].startswith("127.0.0.1:9: Connect call failed")  # type: ignore[union-attr]
        relay.lead(server.port)
        await until(lambda: store.up)
        await store.close()
        listener.close()
        await ended.wait()
        relay.close()

    asyncio.run(run())
