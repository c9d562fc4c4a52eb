"""The door of the control plane: what it answers itself, and how it waits for what is behind it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from gateway.front import Front, Message, Page, Receive, Send


async def ask(front: Front, path: str, method: str = "GET", headers: list[tuple[bytes, bytes]] | None = None) -> Any:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await front({"type": "http", "method": method, "path": path, "headers": headers or []}, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


class Behind:
    """An app that is slow to make, and says how often it was made and by which thread."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.threads: list[int] = []

    def make(self) -> Any:
        self.threads.append(threading.get_ident())
        if self.failures:
            raise self.failures.pop(0)

        async def app(scope: Message, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 299, "headers": []})
            await send({"type": "http.response.body", "body": scope["path"].encode()})

        return app


def secret(headers: Mapping[bytes, bytes]) -> Page | None:
    return Page(b"in") if headers.get(b"authorization") == b"Bearer k" else None


def front(behind: Behind) -> Front:
    return Front(behind.make, {"/page": lambda _: Page(b"here", 503), "/secret": secret})


def test_its_own_pages_need_nothing_behind_it() -> None:
    behind = Behind()
    assert asyncio.run(ask(front(behind), "/page")) == (503, b"here")
    assert asyncio.run(ask(front(behind), "/secret", headers=[(b"authorization", b"Bearer k")])) == (200, b"in")
    assert behind.threads == []


@pytest.mark.parametrize(
    ("path", "method", "headers"),
    [
        ("/other", "GET", []),
        ("/page", "POST", []),
        ("/page", "HEAD", []),
        ("/secret", "GET", []),
        ("/secret", "GET", [(b"authorization", b"Bearer k"), (b"authorization", b"Bearer k")]),
    ],
)
def test_all_else_is_for_the_app_behind_which_also_knows_how_to_refuse(
    path: str, method: str, headers: list[tuple[bytes, bytes]]
) -> None:
    assert asyncio.run(ask(front(Behind()), path, method, headers)) == (299, path.encode())


def test_the_app_is_made_once_in_a_thread_however_many_ask_at_the_same_time() -> None:
    behind = Behind()

    async def many() -> list[Any]:
        door = front(behind)
        first = await asyncio.gather(*(ask(door, f"/{number}") for number in range(5)))
        return [*first, await ask(door, "/later")]

    told = asyncio.run(many())
    assert [body for _, body in told] == [b"/0", b"/1", b"/2", b"/3", b"/4", b"/later"]
    assert len(behind.threads) == 1
    assert behind.threads[0] != threading.get_ident()


def test_an_app_that_could_not_be_made_is_tried_again_by_the_next_who_asks() -> None:
    behind = Behind(ImportError("half an upgrade"))

    async def twice() -> Any:
        door = front(behind)
        with pytest.raises(ImportError):
            await ask(door, "/a")
        return await ask(door, "/b")

    assert asyncio.run(twice()) == (299, b"/b")
    assert len(behind.threads) == 2


def test_who_leaves_while_it_is_made_takes_nothing_from_the_others() -> None:
    behind = Behind()

    async def left() -> Any:
        door = front(behind)
        gone = asyncio.create_task(ask(door, "/gone"))
        await asyncio.sleep(0)
        stays = asyncio.create_task(ask(door, "/stays"))
        await asyncio.sleep(0)
        gone.cancel()
        return await stays

    assert asyncio.run(left()) == (299, b"/stays")
    assert len(behind.threads) == 1
