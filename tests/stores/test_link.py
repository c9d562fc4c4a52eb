"""One connection to a real Valkey: every reply reaches its own caller, or nobody."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from gateway.stores.breaker import Breaker
from gateway.stores.link import Gone, Link
from gateway.stores.resp import Reply, argument, command
from gateway.stores.settings import StoreSettings
from tests.valkey import Relay, Valkey


class User:
    """Somebody who uses a store, and writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.gone: Callable[[], object] = lambda: None

    def begin(self, generation: int, server: int) -> None:
        self.generation, self.server = generation, server

    async def introduce(self, link: Link) -> None: ...

    def back(self, link: Link) -> None:
        self.told.append("back")

    def away(self, why: str) -> None:
        self.told.append(f"away: {why}")
        self.gone()

    def failed(self, op: str) -> None:
        self.told.append(f"failed: {op}")


async def connected(port: int, timeout_s: float = 5.0, lost: list[str] | None = None) -> Link:
    loop = asyncio.get_running_loop()
    ended: list[str] = [] if lost is None else lost
    _, link = await loop.create_connection(
        lambda: Link(loop, timeout_s, lambda why: ended.append(str(why))), "127.0.0.1", port
    )
    return link


def test_of_5000_commands_of_which_many_are_cancelled_no_reply_reaches_another(server: Valkey) -> None:
    """Callers give up in the middle, and connections break: what comes is one's own, or that there is nothing."""
    draw = random.Random(7)

    async def run() -> tuple[int, int, int]:
        own = cancelled = none = 0
        for batch in range(50):
            link = await connected(server.port)
            asked = {at: link.ask(0, command(b"ECHO", b"%d.%d" % (batch, at))) for at in range(100)}
            for at in draw.sample(sorted(asked), 50):
                asked[at].cancel()
            if batch % 5 == 4:
                asyncio.get_running_loop().call_soon(link.end, Gone("test"))
            later = link.ask(0, command(b"ECHO", b"later"))
            for at, future in asked.items():
                try:
                    assert await future == b"%d.%d" % (batch, at)
                    own += 1
                except asyncio.CancelledError:
                    cancelled += 1
                except Gone:
                    none += 1
            if batch % 5 == 4:
                with pytest.raises(Gone):
                    await later
            else:
                assert await later == b"later"
            link.end(Gone("done"))
        return own, cancelled, none

    assert asyncio.run(run()) == (2000, 2500, 500)


def test_a_reply_that_is_late_ends_the_connection_for_all_who_wait(server: Valkey) -> None:
    relay = Relay(server.port)

    async def run() -> tuple[list[Reply], list[str], float]:
        lost: list[str] = []
        link = await connected(relay.port, 0.1, lost)
        relay.delay_s = 0.3
        loop, found = asyncio.get_running_loop(), []
        began = loop.time()
        for word in (b"a", b"b"):
            link.say(command(b"ECHO", word), found.append)
        while len(found) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        took = loop.time() - began
        link.say(command(b"ECHO", b"c"), found.append)
        await asyncio.sleep(0.35)  # the late ones would have come by now
        return found, lost, took

    found, lost, took = asyncio.run(run())
    relay.close()
    assert [str(one) for one in found] == ["timeout", "timeout", "connection lost"]
    assert lost == ["timeout"]
    assert took >= 0.1


def test_a_script_that_the_server_has_forgotten_is_sent_whole(server: Valkey) -> None:
    async def run() -> list[Reply]:
        link = await connected(server.port)
        found: list[Reply] = []
        words = [1, b"{r}", b"count", b"me", 0, 10_000_000, 0, 0, 0]
        for _ in range(3):
            server.ask("SCRIPT", "FLUSH")
            link.call(len(words), b"".join(map(argument, words)), found.append)
            while not found:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert found.pop()[:2] in ([0, 1], [1, 1])  # type: ignore[index]
        link.end(Gone("done"))
        return found

    assert asyncio.run(run()) == []


def test_a_server_that_speaks_something_else_is_left_alone() -> None:
    async def run() -> list[str]:
        async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await writer.drain()
            writer.close()

        other = await asyncio.start_server(http, "127.0.0.1", 0)
        user = User()
        port = other.sockets[0].getsockname()[1]
        breaker = Breaker(asyncio.get_running_loop(), StoreSettings("127.0.0.1", port), user)
        await breaker.start()
        await breaker.close()
        other.close()
        await other.wait_closed()
        return user.told

    assert asyncio.run(run()) == ["failed: connect"]


def test_a_server_that_may_evict_is_not_used(server: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")

    async def run() -> list[str]:
        user = User()
        breaker = Breaker(asyncio.get_running_loop(), StoreSettings("127.0.0.1", server.port, timeout_s=5), user)
        await breaker.start()
        await breaker.close()
        return user.told

    try:
        assert asyncio.run(run()) == ["failed: connect"]
    finally:
        server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    assert "its maxmemory-policy is allkeys-lru: it must be noeviction" in caplog.text


def test_a_server_that_may_evict_from_now_on_is_used_no_longer(
    server: Valkey, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.stores.breaker.LOOK_S", 0.02)

    async def run() -> tuple[list[str], object, object]:
        user, gone = User(), asyncio.Event()
        user.gone = gone.set
        breaker = Breaker(asyncio.get_running_loop(), StoreSettings("127.0.0.1", server.port, timeout_s=5), user)
        await breaker.start()
        before = breaker.state()
        server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        async with asyncio.timeout(20):
            await gone.wait()
        after = breaker.state()
        await breaker.close()
        return user.told, before, after

    try:
        told, before, after = asyncio.run(run())
    finally:
        server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    why = "its maxmemory-policy is allkeys-lru: it must be noeviction"
    assert told[-1] == f"away: {why}"
    assert (before, after) == ({"state": "there"}, {"state": "away", "reason": why})


def test_a_password_is_given_and_a_wrong_one_is_an_error_that_is_told(
    server: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    from gateway.core.types import Secret

    server.ask("ACL", "SETUSER", "pointsman", "on", ">right-one", "~{pointsman}:*", "+@all")

    async def run(password: str) -> list[str]:
        user = User()
        settings = StoreSettings(
            "127.0.0.1", server.port, database=3, username="pointsman", password=Secret(password), timeout_s=5
        )
        breaker = Breaker(asyncio.get_running_loop(), settings, user)
        await breaker.start()
        await breaker.close()
        return user.told

    assert asyncio.run(run("right-one"))[0] == "back"
    assert asyncio.run(run("wrong-one")) == ["failed: connect"]
    assert "WRONGPASS" in caplog.text
    assert "wrong-one" not in caplog.text
