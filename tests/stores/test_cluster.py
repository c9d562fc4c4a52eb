"""Two real nodes of a cluster: keys that are in one slot are followed to where it moves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from gateway.core.money.admission import Gate, Hold, Refused
from gateway.core.money.limits import Allowance, Budget, Cap, Rate
from gateway.stores.settings import StoreSettings
from gateway.stores.shared import Shared
from tests.valkey import Relay, Valkey, valkey

KEYS = ("{m}:key:k", "{m}:replicas")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Valkey, Valkey]]:
    with ExitStack() as stack:
        where = tmp_path_factory.mktemp("cluster")
        options = ("--cluster-enabled", "yes")
        a, b = (stack.enter_context(valkey(where / name, *options)) for name in "ab")
        a.ask("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        a.ask("CLUSTER", "MEET", "127.0.0.1", b.port)
        end = time.monotonic() + 20
        while not all(b"cluster_state:ok" in one.ask("CLUSTER", "INFO") for one in (a, b)):  # type: ignore[operator]
            assert time.monotonic() < end
            time.sleep(0.02)
        yield a, b


def move(slot: int, source: Valkey, to: Valkey) -> Iterator[None]:
    """Twice: the keys are there, and the owner is not known; and it is."""
    ids = [one.ask("CLUSTER", "MYID") for one in (source, to)]
    to.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
    source.ask("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *KEYS)
    yield
    for one in (to, source):
        one.ask("CLUSTER", "SETSLOT", slot, "NODE", ids[1])
    yield


async def until(store: Shared, *, up: bool) -> None:
    async with asyncio.timeout(20):
        while store.up != up:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def test_keys_are_followed_to_the_node_that_their_slot_has_moved_to(
    nodes: tuple[Valkey, Valkey], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.stores.breaker.OPEN_S", 0.05)
    monkeypatch.setattr("gateway.stores.shared.WINDOW_US", 100_000)
    first, second = nodes
    budget = Budget("key", "k", Allowance(1_000, "day"))
    budget.begin(0, 1 << 52)
    gate = Gate((Rate("key", "k", "rpm", Cap(60)),), budgets=(budget,))

    async def run() -> None:
        settings = StoreSettings("127.0.0.1", first.port, prefix="m", timeout_s=5)
        store = Shared(asyncio.get_running_loop(), settings, "me")
        store.adopt([gate])
        await store.start()
        assert store.up

        async def admit() -> Hold | Refused:
            told = asyncio.get_running_loop().create_future()
            got = store.admit(gate, 1, 100, time.monotonic(), time.time() * 1e3, told.set_result)
            return await told if got is None else got

        while isinstance(await admit(), Refused):  # noqa: ASYNC110 - a new key waits for what others know
            await asyncio.sleep(0.05)
        steps = move(int(first.ask("CLUSTER", "KEYSLOT", KEYS[0])), first, second)  # type: ignore[call-overload]
        next(steps)
        refused = await admit()
        assert isinstance(refused, Refused), "it is told to ask elsewhere, this once: that is away"
        assert refused.unknown
        next(steps)
        await until(store, up=True)
        for _ in range(9):
            assert isinstance(await admit(), Hold)
        assert isinstance(await admit(), Refused)
        assert second.hash(KEYS[0])["day/UTC:r|me"] == "1000", "what was set aside came with it"
        second.kill()
        await until(store, up=False)
        await store.close()

    asyncio.run(run())


def test_where_the_node_fails_that_was_named_the_configured_one_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, server: Valkey
) -> None:
    monkeypatch.setattr("gateway.stores.breaker.OPEN_S", 0.05)
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
        assert store.state()["reason"] == "MOVED 1 127.0.0.1:9"  # type: ignore[index]
        relay.lead(server.port)
        await until(store, up=True)
        await store.close()
        listener.close()
        await ended.wait()
        relay.close()

    asyncio.run(run())
