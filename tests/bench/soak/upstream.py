"""The upstream of the soak, in a process of its own: answers as the prompt says, and writes down what it was asked.

    python -m tests.bench.soak.upstream FILE

Prints its port. FILE gets a line of JSON for every request that came and for every usage that was sent in full.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import socket
import struct
import sys
from typing import TextIO

from tests.bench.soak.script import HANGS_S, Ask, answer, events

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_PROBLEM = b'data: {"error": {"message": "out of memory", "type": "server_error", "code": 500}}\n\n'


def _whole(status: int, kind: str, body: bytes, more: str = "") -> bytes:
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\n{more}content-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Conversation:
    """One connection from the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, notes: TextIO) -> None:
        self.reader, self.writer, self.notes = reader, writer, notes

    async def serve(self) -> None:
        """Requests until somebody closes."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while await self._one():
                pass
        self.writer.close()

    async def _one(self) -> bool:
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        body = await self.reader.readexactly(int(length[1]) if length else 0)
        asked = Ask.of(body)
        target = head.split(b"/", 2)[1].decode()
        named = re.search(rb"(?i)x-request-id: *([0-9a-f]+)", head)
        self.told = {"id": named[1].decode() if named else "", "target": target}
        self._note("asked")
        fault = asked.fault if target == asked.target else ""
        if not asked.stream:
            return await self._plain(asked)
        return await getattr(self, f"_{fault or 'well'}", self._well)(asked)

    def _note(self, what: str, **more: object) -> None:
        self.notes.write(json.dumps({"what": what, **self.told, **more}) + "\n")

    async def _send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()
        if self.reader.at_eof():
            raise ConnectionResetError

    def _reset_now(self) -> bool:
        there: socket.socket = self.writer.get_extra_info("socket")
        there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
        return False

    async def _until_closed(self, longest_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.reader.read(1), longest_s)
        return False

    # -- well --

    async def _plain(self, asked: Ask) -> bool:
        await self._send(_whole(200, "application/json", answer(asked)))
        self._note("used", tokens=asked.tokens)
        return True

    async def _well(self, asked: Ask, *, skip_done: bool = False, behind: bytes = b"") -> bool:
        made = events(asked)
        await self._send(_HEAD + _framed(made[0]))
        for event in made[1 : asked.events + 1]:
            if asked.pause_s:
                await asyncio.sleep(asked.pause_s)
            await self._send(_framed(event))
        last = made[asked.events + 1 : -1] if skip_done else made[asked.events + 1 :]
        self._note("used", tokens=asked.tokens)
        await self._send(b"".join(map(_framed, last)) + behind + b"0\r\n\r\n")
        return True

    async def _no_done(self, asked: Ask) -> bool:
        return await self._well(asked, skip_done=True)

    async def _after_done(self, asked: Ask) -> bool:
        return await self._well(asked, behind=_framed(events(asked)[1]) + _framed(b"data: [DONE]\n\n"))

    async def _close_after(self, asked: Ask) -> bool:
        await self._well(asked)
        return False

    async def _shredded(self, asked: Ask) -> bool:
        """Chunks that end anywhere, in the midst of a character, too."""
        text = b"".join(events(asked))
        await self._send(_HEAD)
        step = max(7, len(text) // 60)
        for at in range(0, len(text), step):
            await asyncio.sleep(asked.pause_s / 10)
            await self._send(_framed(text[at : at + step]))
        self._note("used", tokens=asked.tokens)
        await self._send(b"0\r\n\r\n")
        return True

    # -- before the first event --

    async def _reset(self, _: Ask) -> bool:
        return self._reset_now()

    async def _status500(self, _: Ask) -> bool:
        await self._send(_whole(500, "application/json", b'{"error": {"message": "boom"}}'))
        return True

    async def _status429(self, _: Ask) -> bool:
        await self._send(_whole(429, "application/json", b'{"error": {"message": "later"}}', "retry-after: 1\r\n"))
        return True

    async def _html(self, _: Ask) -> bool:
        await self._send(_whole(200, "text/html", b"<html>"))
        return True

    async def _role_then_error(self, asked: Ask) -> bool:
        await self._send(_HEAD + _framed(events(asked)[0]) + _framed(_PROBLEM) + b"0\r\n\r\n")
        return True

    async def _hang(self, _: Ask) -> bool:
        return await self._until_closed(HANGS_S)

    # -- in the midst --

    async def _begin(self, asked: Ask) -> None:
        made = events(asked)
        await self._send(_HEAD + _framed(made[0]))
        for event in made[1 : asked.broken_at]:
            await asyncio.sleep(asked.pause_s)
            await self._send(_framed(event))

    async def _reset_mid(self, asked: Ask) -> bool:
        await self._begin(asked)
        return self._reset_now()

    async def _truncated(self, asked: Ask) -> bool:
        await self._begin(asked)
        return False

    async def _stall(self, asked: Ask) -> bool:
        await self._begin(asked)
        return await self._until_closed(HANGS_S)

    async def _drip(self, asked: Ask) -> bool:
        await self._begin(asked)
        for byte in events(asked)[asked.broken_at][:120]:
            await self._send(_framed(bytes([byte])))
            await asyncio.sleep(0.5)
        return await self._until_closed(HANGS_S)

    async def _error_mid(self, asked: Ask) -> bool:
        await self._begin(asked)
        await self._send(_framed(_PROBLEM) + b"0\r\n\r\n")
        return True

    async def _bad_chunk(self, asked: Ask) -> bool:
        await self._begin(asked)
        await self._send(b"+5\r\nhello\r\n")
        return await self._until_closed(HANGS_S)


async def main(path: str) -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    with open(path, "w", encoding="ascii") as notes:  # noqa: ASYNC230 - before anything is served

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await Conversation(reader, writer, notes).serve()

        server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=1 << 20, backlog=1024)
        print(server.sockets[0].getsockname()[1], flush=True)
        await stop.wait()
        server.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
