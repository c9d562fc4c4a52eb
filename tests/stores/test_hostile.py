"""Nodes that answer what no node should: nobody waits for longer than he may, and one is used again once it is well."""

from __future__ import annotations

import asyncio
import time

import pytest

from gateway.core.money.admission import Hold, Refused
from gateway.stores.asking import SharedHold
from tests.stores.replica import NEED, Replica, until
from tests.stores.scripted import Answers, Scripted, numbers, op, scripted, well

pytestmark = pytest.mark.usefixtures("quick")

NOWHERE = [
    f"{how} 1 {where}" for how in ("MOVED", "ASK") for where in ("127.0.0.1:99999", "a..b:1", "127.0.0.1:0", ":0")
]
SHAPES = {
    "too few numbers": numbers(1),
    "no numbers": b"*13\r\n:1\r\n" + b"$-1\r\n" * 12,
    "one number": b":1\r\n",
    "a word": b"+OK\r\n",
    "nothing": b"*-1\r\n",
    "half of it": b"*13\r\n:1\r\n:",
}
MORE = {
    "admit": {"no limit of that number": numbers(0, 99, *[0] * 11), "no period": numbers(-4, 0, 0)},
    "sync": {"no period": numbers(-4, 0, 0)},
    "beat": {"no period": numbers(-4, 0, 0)},
}


def but(**answers: bytes) -> Answers:
    """All is well but for these."""
    return lambda words: answers.get(op(words).decode(), well(words))


async def healed(one: Replica, node: Scripted) -> None:
    """It is used again once all is well, and it has nothing open in the end."""
    node.answers = well
    async with asyncio.timeout(10):
        while not isinstance(got := await one.admit(0), SharedHold) or got.alone:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    got.cancel()
    await one.store.close()


async def soon(one: Replica) -> Hold | Refused:
    """The answer to a request, for which nobody has waited without end."""
    async with asyncio.timeout(20):
        return await one.admit(0)


async def started(node: Scripted, answers: Answers, timeout_s: float = 0.3) -> Replica:
    """One that is so answered from its first call on, or from its first request on, where it cannot begin at all."""
    one = Replica("r", node.port, "p", keys=1, timeout_s=timeout_s)
    node.answers = answers
    async with asyncio.timeout(20):
        await one.store.start()
    return one


@pytest.mark.parametrize("what", ["count", "admit", "settle"])
def test_where_no_node_can_be_the_store_is_away_and_asked_again(what: str) -> None:
    async def attack(said: str) -> None:
        async with scripted() as node:
            one = await started(node, but(**{what: f"-{said}\r\n".encode()}))
            got = await soon(one)
            if isinstance(got, Hold):
                got.end(time.monotonic(), 1, 5, int(time.time() * 1e3))
                await until(lambda: not one.store.up)
            await healed(one, node)

    async def run() -> None:
        await asyncio.gather(*map(attack, NOWHERE))

    asyncio.run(run())


@pytest.mark.parametrize("what", ["count", "sync", "admit", "beat"])
def test_an_answer_that_makes_no_sense_is_none_and_leaves_nobody_waiting(
    what: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def attack(shape: bytes) -> None:
        async with scripted() as node:
            one = await started(node, but(**{what: shape}))
            await soon(one)
            if what == "beat" and (link := one.store._breaker.link) is not None:
                one.store._beat(link, one.store.form(one.gates[0]))
                await until(lambda: not one.store.up)
            assert not one.store.up
            await healed(one, node)

    async def run() -> None:
        await asyncio.gather(*map(attack, {**SHAPES, **MORE.get(what, {})}.values()))

    asyncio.run(run())
    assert "Fatal error" not in caplog.text


def test_nodes_that_send_a_request_to_each_other_hold_it_no_longer_than_one_answer_may_take() -> None:
    async def run() -> None:
        async with scripted() as first, scripted() as second:
            one = await started(first, well)
            for node, other in ((first, second), (second, first)):
                node.answers = but(admit=b"-MOVED 1 127.0.0.1:%d\r\n" % other.port)
            async with asyncio.timeout(8):
                await soon(one)
            assert not one.store.up
            second.answers = well
            await healed(one, first)

    asyncio.run(run())


def test_where_the_store_does_not_know_what_it_is_told_it_is_not_told_of_an_end_either() -> None:
    """It would give back a place that it has not counted, and so let one more through for as long as it is used."""

    async def run() -> None:
        async with scripted() as node:
            one = await started(node, but(admit=numbers(-1, 0, 0, 0, 0)))
            told: asyncio.Future[Hold | Refused] = asyncio.get_running_loop().create_future()
            assert one.store.admit(one.own[0], 1, 0, time.monotonic(), time.time() * 1e3, told.set_result) is None
            got = await told
            assert isinstance(got, Hold)
            got.end(time.monotonic())
            assert not one.store.up
            await until(lambda: one.store.up)
            assert b"settle" not in node.asked
            await healed(one, node)

    asyncio.run(run())


def test_requests_that_wait_for_a_move_do_not_tell_again_what_was_told_for_all() -> None:
    async def run() -> None:
        async with scripted() as first, scripted() as second:
            one = await started(first, well, timeout_s=10.0)
            first.answers = but(admit=b"-MOVED 1 127.0.0.1:%d\r\n" % second.port)
            for got in await asyncio.gather(*(soon(one) for _ in range(100))):
                assert isinstance(got, Hold)
            assert second.asked.count(b"admit") == 100
            assert second.asked.count(b"sync") == 1, "of the team's budget"
            await one.store.close()

    asyncio.run(run())


def test_of_what_many_requests_find_unknown_at_one_moment_the_store_is_told_once() -> None:
    async def run() -> None:
        async with scripted() as node:
            one = await started(node, well, timeout_s=10.0)
            before, unknown = node.asked.count(b"sync"), iter([numbers(-1, 0, 0, 0, 0)] * 100)
            node.answers = lambda words: next(unknown, well(words)) if op(words) == b"admit" else well(words)
            for got in await asyncio.gather(*(soon(one) for _ in range(100))):
                assert isinstance(got, Hold)
            assert node.asked.count(b"sync") <= before + 2 * 10, "the key and the team, as often as answers were read"
            await one.store.close()

    asyncio.run(run())


def test_a_request_that_came_slowly_waits_for_a_moving_slot_as_any_other() -> None:
    async def run() -> None:
        async with scripted() as node:
            one = await started(node, well, timeout_s=10.0)
            refused = iter([b"-TRYAGAIN not yet\r\n"] * 3)
            node.answers = lambda words: next(refused, well(words)) if op(words) == b"admit" else well(words)
            told: asyncio.Future[Hold | Refused] = asyncio.get_running_loop().create_future()
            began_s = time.monotonic() - 60  # its body was long on its way
            assert one.store.admit(one.gates[0], 1, NEED, began_s, time.time() * 1e3, told.set_result) is None
            got = await told
            assert isinstance(got, SharedHold)
            assert not got.alone
            assert one.store.up
            got.cancel()
            await one.store.close()

    asyncio.run(run())
