"""Other nodes of a real cluster: reached by the same TLS and password or not at all, and found when one has died."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from gateway.core.money.admission import Hold, Refused
from gateway.core.types import Secret
from tests.stores.cluster import Cluster, told
from tests.stores.cluster import until as wait
from tests.stores.replica import Replica, until
from tests.stores.test_script_rights import rights
from tests.tls import Front, certificate
from tests.valkey import Relay, Valkey, valkey

pytestmark = pytest.mark.usefixtures("quick")


@dataclass(frozen=True)
class Pair:
    """A primary and its replica."""

    first: Valkey
    second: Valkey

    def ready(self) -> bool:
        return b"master_link_status:up" in self.second.ask("INFO", "replication")  # type: ignore[operator]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Pair]]:
    """One for each test, begun together as each takes seconds to be ready: of a cluster, and two without."""
    where = tmp_path_factory.mktemp("pairs")
    with ExitStack() as stack:

        def pair(name: str, *options: str) -> Pair:
            options += ("--repl-diskless-sync-delay", "0")
            return Pair(*(stack.enter_context(valkey(where / f"{name}-{at}", *options)) for at in "ab"))

        made = {
            "cluster": pair("cluster", "--cluster-enabled", "yes"), "stale": pair("stale"), "swapped": pair("swapped"),
        }  # fmt: skip
        first, second = made["cluster"].first, made["cluster"].second
        first.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        second.ask("CLUSTER", "MEET", "127.0.0.1", first.port)
        for one in (made["stale"], made["swapped"]):
            one.second.ask("REPLICAOF", "127.0.0.1", one.first.port)
        above = told(first, "MYID")
        wait(lambda: above in told(second, "NODES"))
        second.ask("CLUSTER", "REPLICATE", above)
        yield made


@pytest.fixture(scope="module")
def secured(pairs: dict[str, Pair], tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """Two nodes behind TLS, that name each other by where TLS is."""
    where = tmp_path_factory.mktemp("secured")
    good = certificate(where / "good")
    with ExitStack() as stack:
        fronts, nodes = [], []
        for name in "ab":
            front = Front(0, good)
            stack.callback(front.close)
            options = ("--cluster-enabled", "yes", "--cluster-announce-port", str(front.port))
            node = stack.enter_context(valkey(where / name, *options))
            front.to = node.port
            node.ask("ACL", "SETUSER", "served", "on", ">right-one", *rights().split(), "~{secured}:*")
            fronts.append(front)
            nodes.append(node)
        yield SimpleNamespace(cluster=Cluster(nodes), fronts=fronts, good=good, where=where)


@pytest.fixture
def whole(secured: SimpleNamespace) -> SimpleNamespace:
    """The first node has the slot, and all is well."""
    team, (first, second) = "{secured}:team:t", secured.cluster.nodes
    secured.fronts[1].show(secured.good)
    second.ask("ACL", "SETUSER", "served", "resetpass", ">right-one")
    if not secured.cluster.has(first, team):
        secured.cluster.begin(team, first).end()
    return secured


def replica(secured: SimpleNamespace) -> Replica:
    more = {"tls": True, "ca_file": str(secured.good.authority), "username": "served", "password": Secret("right-one")}
    return Replica("r", secured.fronts[0].port, "secured", keys=2, **more)


def test_a_node_that_another_names_is_reached_by_the_same_tls_and_password(
    whole: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    cluster, (_, second) = whole.cluster, whole.fronts

    async def run() -> None:
        one = replica(whole)
        await one.ready()
        before = second.handshakes
        moving = cluster.begin("{secured}:team:t", cluster.nodes[1])
        moving.take("{secured}:team:t", "{secured}:key:k0")
        assert isinstance(await one.admit(0), Hold)
        assert second.handshakes == before + 1, "where the slot goes"
        moving.end()
        assert isinstance(await one.admit(0), Hold)
        assert second.handshakes == before + 2, "where it has gone"
        assert moving.to.hash("{secured}:key:k0")["s"] == "2"
        await one.store.close()

    asyncio.run(run())
    assert "is away" not in caplog.text


FAULTS = {
    "certificate": "certificate verify failed: IP address mismatch, certificate is not valid for '127.0.0.1'",
    "password": "WRONGPASS",
}


@pytest.mark.parametrize("moved", [False, True], ids=["on its way", "moved"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_node_that_is_not_who_it_should_be_is_told_nothing_and_the_log_says_why(
    whole: SimpleNamespace, caplog: pytest.LogCaptureFixture, fault: str, moved: bool
) -> None:
    cluster, (_, second) = whole.cluster, whole.fronts
    if fault == "certificate":
        second.show(certificate(whole.where / "other", "DNS:valkey.example", of=whole.good))
    else:
        cluster.nodes[1].ask("ACL", "SETUSER", "served", "resetpass", ">another-one")

    async def run() -> None:
        one = replica(whole)
        await one.ready()
        moving = cluster.begin("{secured}:team:t", cluster.nodes[1])
        moving.take(*moving.keys())
        if moved:
            moving.end()
        assert isinstance(await one.admit(0), Hold), "of what it has leased"
        assert one.store.state()["state"] == "away"
        second.show(whole.good)
        cluster.nodes[1].ask("ACL", "SETUSER", "served", "resetpass", ">right-one")
        await until(lambda: one.store.up)
        assert isinstance(await one.admit(0), Hold)
        moving.end()
        await one.store.close()

    asyncio.run(run())
    why = [line for line in caplog.messages if "is away" in line]
    assert len(why) == 1
    assert f"is away (127.0.0.1:{second.port}: " in why[0]
    assert FAULTS[fault] in why[0]
    assert "right-one" not in caplog.text


def test_when_the_primary_of_a_cluster_dies_its_replica_is_found_and_nothing_is_filled_again(
    pairs: dict[str, Pair], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = pairs["cluster"].first, pairs["cluster"].second
    wait(pairs["cluster"].ready)
    wait(lambda: "slave" in told(first, "NODES") and "cluster_state:ok" in told(first, "INFO"))

    async def run() -> None:
        one = Replica("r", first.port, "p", keys=1, usd=1_000)
        await one.ready()
        held = [await one.admit(0) for _ in range(4)]
        got = held.pop()
        assert isinstance(got, Hold)
        got.end(0.0, 1, 60, 0)
        await one.store.refresh()
        first.kill()
        await until(lambda: not one.store.up)
        await asyncio.sleep(0.2)
        assert not one.store.up, "the replica says that the dead one has the keys"
        second.ask("CLUSTER", "FAILOVER", "TAKEOVER")
        await until(lambda: one.store.up)
        assert f"have moved to 127.0.0.1:{second.port}" in caplog.text
        more = 0
        while isinstance(await one.admit(0), Hold):
            more += 1
        assert 60 + (3 + more) * 100 in range(900, 1_001), "1,000 in all"
        found = second.hash("{p}:team:t")
        assert found["month/UTC:x"] == "60"
        first.start()
        await asyncio.to_thread(wait, lambda: "myself,slave" in told(first, "NODES"))
        other = Replica("s", first.port, "p", keys=1, usd=1_000)
        await other.store.start()
        assert other.store.up, "the former one says who has them"
        assert not isinstance(await other.admit(0), Hold)
        for each in (one, other):
            await each.store.close()

    caplog.set_level("INFO", "pointsman")
    asyncio.run(run())


def test_a_former_primary_that_has_become_read_only_is_left_for_the_one_that_its_name_leads_to(
    pairs: dict[str, Pair], caplog: pytest.LogCaptureFixture
) -> None:
    first, second = pairs["swapped"].first, pairs["swapped"].second
    wait(pairs["swapped"].ready)
    name = Relay(first.port)

    async def run() -> None:
        one = Replica("r", name.port, "p", keys=1, usd=1_000)
        await one.ready()
        held = [await one.admit(0) for _ in range(3)]
        assert all(isinstance(got, Hold) for got in held)
        wait(lambda: second.hash("{p}:key:k0").get("s") == "3")
        second.ask("REPLICAOF", "NO", "ONE")
        first.ask("REPLICAOF", "127.0.0.1", second.port)
        await one.admit(0)
        assert "is away (READONLY" in caplog.text
        await asyncio.sleep(0.1)
        assert not one.store.up, "it is asked again, and says so again"
        name.lead(second.port)
        await until(lambda: one.store.up)
        more = 0
        while isinstance(await one.admit(0), Hold):
            more += 1
        assert 3 + more <= 10
        assert int(second.hash("{p}:team:t")["month/UTC:r"]) <= 1_000
        assert caplog.text.count("READONLY") == 1
        await one.store.close()

    asyncio.run(run())
    name.close()


def test_a_server_that_may_lack_the_last_moment_waits_for_all_before_a_hard_budget_is_spent_of(
    pairs: dict[str, Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica that takes over never got what was set aside last: whoever is there first must not spend it again."""
    first, second = pairs["stale"].first, pairs["stale"].second
    wait(pairs["stale"].ready)
    names = [Relay(first.port) for _ in range(2)]

    async def run() -> None:
        one, other = (Replica(f"r{at}", names[at].port, "p", keys=1, usd=1_000) for at in range(2))
        await one.ready()
        await other.ready()
        await until(lambda: one.store._registry.count == 2)
        monkeypatch.setattr("gateway.stores.shared.WINDOW_US", 60_000_000)
        wait(lambda: second.hash("{p}:team:t") == first.hash("{p}:team:t"))
        second.ask("REPLICAOF", "NO", "ONE")
        held = [await one.admit(0) for _ in range(9)]
        assert all(isinstance(got, Hold) for got in held)
        first.kill()
        await until(lambda: not one.store.up and not other.store.up)
        names[1].lead(second.port)
        await until(lambda: other.store.up)
        early = await other.admit(0)
        assert isinstance(early, Refused)
        assert early.unknown, "503, as nobody knows yet"
        names[0].lead(second.port)
        await until(lambda: one.store.up)
        assert isinstance(await other.admit(0), Hold), "900 are set aside, and 100 are left"
        assert isinstance(await other.admit(0), Refused)
        for each in (one, other):
            await each.store.close()

    asyncio.run(run())
    for name in names:
        name.close()
