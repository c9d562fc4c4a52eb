"""Telling the store of thousands of keys: so many at once, and a request does not wait behind them."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.core.money.admission import Gate, Hold, Refused
from gateway.core.money.limits import Allowance, Budget, Cap, Rate
from gateway.stores.resp import Said
from gateway.stores.settings import StoreSettings
from gateway.stores.shared import Shared
from gateway.stores.telling import AT_ONCE
from tests.valkey import Relay, Valkey

KEYS = 2_000


def keys(count: int) -> list[Gate]:
    made = []
    for at in range(count):
        budget = Budget("key", f"k{at}", Allowance(1_000, "day"))
        budget.begin(0, 1 << 52)
        made.append(Gate((Rate("key", f"k{at}", "rpm", Cap(10**6)),), budgets=(budget,)))
    return made


async def until(store: Shared, server: Valkey, count: int) -> int:
    """Wait until so many are known there; how many calls were waited for at most?"""
    most = 0
    async with asyncio.timeout(30):
        while True:
            link = store._breaker.link
            assert link is not None
            most = max(most, len(link._waiting))
            if store._telling._under_way == 0 and not store._telling._due:
                break
            await asyncio.sleep(0)
    found = server.ask("EVAL", "return #redis.call('KEYS', ARGV[1])", 0, f"{{{store.settings.prefix}}}:key:*")
    assert found == count
    return most


def test_a_reload_with_thousands_of_new_keys_tells_of_so_many_at_once(server: Valkey) -> None:
    async def run() -> None:
        settings = StoreSettings("127.0.0.1", server.port, prefix="reload", timeout_s=10)
        store = Shared(asyncio.get_running_loop(), settings, "me")
        await store.start()
        gates = keys(KEYS)
        store.adopt(gates)
        link = store._breaker.link
        assert link is not None
        assert len(link._waiting) == AT_ONCE, "no more in one turn of the loop"
        told: asyncio.Future[Hold | Refused] = asyncio.get_running_loop().create_future()
        store.admit(gates[-1], 1, 1, time.monotonic(), time.time() * 1e3, told.set_result)
        assert isinstance(await told, Hold), "the last of them is told of as soon as it is asked for"
        assert len(store._telling._due) > KEYS / 2, "it did not wait for the others"
        assert await until(store, server, KEYS) <= AT_ONCE + 10
        assert store.up
        await store.close()

    asyncio.run(run())


@pytest.mark.parametrize("why", ["a day begins", "it was emptied"])
def test_what_concerns_all_keys_is_told_of_so_many_at_once(server: Valkey, why: str) -> None:
    async def run() -> None:
        settings = StoreSettings("127.0.0.1", server.port, prefix=why.replace(" ", "-"), timeout_s=10)
        store = Shared(asyncio.get_running_loop(), settings, "me")
        gates = keys(KEYS)
        for gate in gates:
            gate.budgets[0].spent = 1
        store.adopt(gates)
        await store.start()
        assert store.up
        if why == "a day begins":
            store.turned()
        else:
            server.ask("EVAL", "return redis.call('FLUSHALL')", 0)
            store._counted([0, 1, int(time.time() * 1e6)])
        assert 0 < await until(store, server, KEYS) <= AT_ONCE + 10
        await store.close()

    asyncio.run(run())


def test_what_changed_while_it_was_told_is_told_once_more_before_anything_is_asked(server: Valkey) -> None:
    """Of more keys than are told at once: in pieces, and right in the end."""

    async def run() -> None:
        settings = StoreSettings("127.0.0.1", server.port, prefix="touched", timeout_s=10)
        store = Shared(asyncio.get_running_loop(), settings, "me")
        gates = keys(6 * AT_ONCE)
        store.adopt(gates)
        starting, ended, pieces = asyncio.ensure_future(store.start()), 0, 0
        telling = store._tell

        async def tell(*given: object, **more: bool) -> None:
            nonlocal pieces
            pieces += bool(more.get("anew"))
            await telling(*given, **more)  # type: ignore[arg-type]

        store._tell = tell  # type: ignore[method-assign]
        while not starting.done():
            if pieces < 2 and not store.up:
                for gate in gates[ended % 3 :: 3]:  # asked for, and over, while others are told of
                    got = store.admit(gate, 1, 0, time.monotonic(), time.time() * 1e3, lambda _: None)
                    assert isinstance(got, Hold)
                    got.end(time.monotonic(), 1, 7, int(time.time() * 1e3))
                ended += 1
            await asyncio.sleep(0)
        assert store.up
        assert pieces >= 2
        assert await until(store, server, len(gates)) <= AT_ONCE
        for at, gate in enumerate(gates):
            assert server.hash(f"{{touched}}:key:k{at}").get("day/UTC:x", "0") == str(gate.budgets[0].spent)
        await store.close()

    asyncio.run(run())


@pytest.mark.parametrize("moved", [True, False])
def test_what_a_reload_brings_while_all_is_told_is_told_too_before_it_is_asked(server: Valkey, moved: bool) -> None:
    """Else a hard budget that the books say is spent was whole for the first requests."""

    async def run() -> None:
        relay = Relay(server.port)
        settings = StoreSettings("127.0.0.1", relay.port, prefix=f"late-{moved}", timeout_s=10)
        store = Shared(asyncio.get_running_loop(), settings, "me")
        before = keys(1)[0]
        store.adopt([before])
        await store.start()
        spent = Budget("key", "k0", Allowance(1_000, "month", mode="hard"))
        spent.begin(0, 1 << 52, 1_000)
        after = Gate(before.requests, budgets=(*before.budgets, spent))
        telling, link = store._tell, store._breaker.link

        async def tell(*given: object, **more: bool) -> None:
            await telling(*given, **more)  # type: ignore[arg-type]
            if store.form(before).budgets and spent not in store._owners["key", "k0"].budgets:
                store.adopt([after])

        store._tell = tell  # type: ignore[method-assign]
        if moved:
            assert store._breaker.follow(Said(f"MOVED 1 127.0.0.1:{relay.port}"))
        else:
            relay.lead(server.port)
        async with asyncio.timeout(30):
            while store._breaker.link in (link, None) or not store.up:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        told: asyncio.Future[Hold | Refused] = asyncio.get_running_loop().create_future()
        assert store.admit(after, 1, 100, time.monotonic(), time.time() * 1e3, told.set_result) is None
        got = await told
        assert isinstance(got, Refused)
        assert got.limit is spent
        assert got.spent
        await store.close()
        relay.close()

    asyncio.run(run())
