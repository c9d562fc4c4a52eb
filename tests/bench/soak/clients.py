"""The clients of the soak: each sends one request after another over a connection it keeps, and checks what it gets."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.bench.soak.script import BY_NAME, KINDS, Ask, pick, wrong

#: An answer that takes longer hangs.
HUNG_S = 90.0
#: A long run ends without new faults: those that take longest would be all that is left, and no more than a fifth of
#: what is under way is sent on to another target.
CALM_S = 20.0


@dataclass
class Seen:
    """What the clients saw, all together. `served`: who answered each request that was answered whole, by its id."""

    kinds: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    served: dict[str, Ask] = field(default_factory=dict)
    left: int = 0
    bytes: int = 0
    under_way: int = 0


class Client:
    """One of them."""

    def __init__(self, number: int, place: tuple[str, int], key: str, seen: Seen) -> None:
        self.place, self.key, self.seen = place, key, seen
        self.dice = random.Random(number)
        self.number = number
        self.connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def work(self, until: float, faults: float, *, quick: bool) -> None:
        """Until the time is up; what has begun then is finished."""
        if self.number < len(KINDS):  # each fault once, however short the run is, and not all together
            await asyncio.sleep(self.number * 0.15)
            await self.ask(pick(self.dice, faults, quick, KINDS[self.number]))
        while (left_s := until - time.monotonic()) > 0:
            await self.ask(pick(self.dice, faults if quick or left_s > CALM_S else 0.0, quick))
        self._drop()

    async def ask(self, ask: Ask) -> None:
        """One request, and what is wrong with its answer."""
        seen = self.seen
        seen.kinds[ask.fault or "none"] += 1
        seen.under_way += 1
        client_side = ask.fault if ask.fault and BY_NAME[ask.fault].side == "client" else ""
        try:
            async with asyncio.timeout(HUNG_S):
                reader, writer = await self._connected(small=client_side == "slow_reader")
                body = ask.body()
                head = (
                    f"POST /v1/chat/completions HTTP/1.1\r\nHost: soak\r\nAuthorization: Bearer {self.key}\r\n"
                    f"Content-Length: {len(body)}\r\n\r\n"
                ).encode()
                if client_side.startswith("leave") or client_side == "half_close":
                    await self._leave(client_side, head + body, reader, writer)
                    return
                writer.write(head + body)
                await self._answer(ask, reader, slowly=client_side == "slow_reader")
                if client_side == "slow_reader":
                    self._drop()
        except TimeoutError:
            self._fault(ask, f"no end after {HUNG_S:g} s")
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            self._fault(ask, f"{type(error).__name__}: {error}")
        finally:
            seen.under_way -= 1

    async def _connected(self, *, small: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if small:
            self._drop()
            there = socket.socket()
            there.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            there.setblocking(False)
            await asyncio.get_running_loop().sock_connect(there, self.place)
            self.connection = await asyncio.open_connection(sock=there, limit=16_384)
        elif self.connection is None or self.connection[0].at_eof() or self.connection[1].is_closing():
            self._drop()
            self.connection = await asyncio.open_connection(*self.place, limit=1 << 20)
        return self.connection

    def close(self) -> None:
        """Let go of the connection."""
        self._drop()

    def _drop(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection[1].transport.abort()

    def _fault(self, ask: Ask, what: str) -> None:
        self.seen.faults.append(f"{ask}: {what}")
        self._drop()

    async def _answer(self, ask: Ask, reader: asyncio.StreamReader, *, slowly: bool) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        served_by = _header(head, "x-pointsman-target")
        length = _header(head, "content-length")
        if length:
            body = await reader.readexactly(int(length))
        else:
            body = await _chunks(reader, slowly=slowly)
        self.seen.bytes += len(body)
        if not head.startswith(b"HTTP/1.1 200 "):
            self._fault(ask, f"{head[:60]!r} {body[:300]!r}")
            return
        found = wrong(ask, served_by, body)
        if found:
            self._fault(ask, f"from {served_by}: {found}")
        elif b'"error":{' not in body[-400:]:
            self.seen.served[_header(head, "x-request-id")] = ask
        if b"connection: close" in head.lower():
            self._drop()

    async def _leave(
        self, how: str, message: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.seen.left += 1
        if how == "leave_upload":
            message = message[: -len(message) // 3]
        writer.write(message)
        if how in ("leave_mid", "half_close"):
            await reader.readuntil(b"\r\n\r\n")
            await reader.read(1)
        elif how == "leave_early":
            await asyncio.sleep(self.dice.random() * 0.3)
        if how == "half_close":
            writer.write_eof()
            with contextlib.suppress(ConnectionError):
                while await reader.read(65_536):
                    pass
        self._drop()


def _header(head: bytes, name: str) -> str:
    found = re.search(rb"(?i)\r\n" + name.encode() + rb": *([^\r]*)", head)
    return found[1].decode() if found else ""


async def _chunks(reader: asyncio.StreamReader, *, slowly: bool) -> bytes:
    """A chunked body; ValueError for one that is not."""
    body = bytearray()
    while size := int(await reader.readuntil(b"\r\n"), 16):
        piece = await reader.readexactly(size + 2)
        if not piece.endswith(b"\r\n"):
            raise ValueError("a chunk without its end")
        body += piece[:-2]
        if slowly:
            await asyncio.sleep(0.02)
    if await reader.readexactly(2) != b"\r\n":
        raise ValueError("a body without its end")
    return bytes(body)
