"""A node that says what a test wants: what it is asked comes as words, what it answers goes out as it is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from gateway.stores.resp import Reader

#: What is answered to words; None: nothing.
Answers = Callable[[list[bytes]], bytes | None]


def op(words: list[bytes]) -> bytes:
    """Which call of the script it is, or the command."""
    return words[3 + int(words[2])] if words[0] in (b"EVAL", b"EVALSHA") else words[0]


def numbers(*values: int) -> bytes:
    """An answer of the script."""
    return b"*%d\r\n" % len(values) + b"".join(b":%d\r\n" % one for one in values)


def now_us() -> int:
    return int(time.time() * 1e6)


def well(words: list[bytes]) -> bytes:
    """As of a server where nobody else is, to a key with a rate, a bucket, a place and a team's budget."""
    match op(words):
        case b"count":
            return numbers(1, 1, now_us())
        case b"admit" | b"beat":
            return numbers(1, 0, 0, 0, now_us(), *([0] * 8))
        case b"sync":
            return numbers(1, 0, 0, 0, now_us(), *([0] * 8))
        case b"settle" | b"leave":
            return numbers(1, 0, 0, 0, now_us())
        case b"INFO" | b"CLUSTER":
            return b"$0\r\n\r\n"
        case _:
            return b"+OK\r\n"


class Scripted:
    """One that listens. `answers` may be changed at any time."""

    def __init__(self) -> None:
        self.answers: Answers = well
        self.asked: list[bytes] = []
        self.port = 0
        self.open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        commands = Reader()
        try:
            while data := await reader.read(65536):
                for words in commands.feed(data):
                    assert isinstance(words, list)
                    self.asked.append(op(words))  # type: ignore[arg-type]
                    answer = self.answers(words)  # type: ignore[arg-type]
                    if answer is not None:
                        writer.write(answer)
        except ConnectionError:
            pass
        finally:
            self.open -= 1
            writer.close()


@asynccontextmanager
async def scripted() -> AsyncIterator[Scripted]:
    """One that ends with the test."""
    node = Scripted()
    listener = await asyncio.start_server(node.serve, "127.0.0.1", 0)
    node.port = listener.sockets[0].getsockname()[1]
    try:
        yield node
        listener.close()
        async with asyncio.timeout(10):
            while node.open:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        listener.close()
