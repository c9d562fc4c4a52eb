"""A token source by itself: its task, its pauses, its end. In use behind the gateway it is in `test_doors`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator

import pytest

from gateway.core.servers.credentials import MetadataServer
from gateway.proxy import tokens
from gateway.proxy.tokens import TokenSource
from tests.harness import Script, Upstream, plain


def token(value: str, lasts: float = 3600) -> Script:
    return plain(body=json.dumps({"access_token": value, "expires_in": lasts}).encode())


@pytest.fixture
def endpoint() -> Iterator[Upstream]:
    made = Upstream([token("one"), token("two")])
    yield made
    made.close()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def test_one_task_fetches_and_nothing_is_there_before(endpoint: Upstream) -> None:
    async def main() -> None:
        source = TokenSource(MetadataServer(endpoint.url))
        assert source.line(0.0) is None
        loop = asyncio.get_running_loop()
        before = len(asyncio.all_tasks())
        source.start(loop)
        source.start(loop)
        assert len(asyncio.all_tasks()) == before + 1
        await until(lambda: source.line(0.0) is not None)
        assert source.line(0.0) == b"Authorization: Bearer one\r\n"
        assert source.line(9e9) is None
        assert source.secrets() == ("one",)
        assert "one" not in repr(source)
        source.stop()
        await asyncio.sleep(0)

    asyncio.run(main())
    assert len(endpoint.requests) == 1


def test_a_refused_token_is_renewed_once_in_a_while(endpoint: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        source = TokenSource(MetadataServer(endpoint.url))
        source.start(asyncio.get_running_loop())
        await until(lambda: source.line(0.0) is not None)
        for _ in range(5):
            source.renew()
        await asyncio.sleep(0.2)
        assert len(endpoint.requests) == 1  # it was fetched a moment ago
        monkeypatch.setattr(tokens, "RENEW_S", 0.0)
        source.renew()
        await until(lambda: source.secrets() == ("two",))
        source.stop()

    asyncio.run(main())
    assert len(endpoint.requests) == 2


def test_failures_are_told_and_tried_again_with_growing_pauses(
    endpoint: Upstream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def short(delay: float) -> None:
        if delay > 0.5:
            pauses.append(delay)
            delay = 0
        await sleep(delay)

    endpoint.scripts = [*[plain(500, body=b'{"error":"canary details"}')] * 8, token("good")]

    async def main() -> None:
        monkeypatch.setattr(asyncio, "sleep", short)
        source = TokenSource(MetadataServer(endpoint.url))
        source.start(asyncio.get_running_loop())
        await until(lambda: source.line(0.0) is not None)
        source.stop()

    asyncio.run(main())
    assert len(pauses) == 8
    assert all(0.7 * 2**i <= pause <= 2**i for i, pause in enumerate(pauses[:6]))
    assert pauses[7] <= tokens.LONGEST_PAUSE_S
    assert "the token endpoint answered 500" in caplog.text
    assert "canary" not in caplog.text


def test_nobody_at_the_address_is_told_too(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        source = TokenSource(MetadataServer("http://127.0.0.1:9/token"))
        source.start(asyncio.get_running_loop())
        await until(lambda: "ConnectError" in caplog.text)
        assert source.line(0.0) is None
        source.stop()

    asyncio.run(main())
