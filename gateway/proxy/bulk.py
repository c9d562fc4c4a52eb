"""Large bodies on the event loop: read in several of its turns, and sent on in pieces as fast as they are taken.

Here belongs only what keeps one large request from holding up all others, and from lying in memory twice. What a body
means is `core.request.wire`'s business, and what follows from it `exchange`'s.
"""

from __future__ import annotations

import asyncio
import mmap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Self, TypeVar

from gateway.core.request.largetree import Steps

#: How long the steps of reading one body may hold the loop before it turns; the last step begun may take longer.
SLICE_S = 0.005
#: Bytes handed to a connection at once: encrypting them takes about a millisecond.
PIECE_BYTES = 1 << 20
#: Bytes of a body that are read at once into memory of its own.
READ_BYTES = 1 << 19
#: Pieces handed to a connection in one turn of the loop, however fast they are taken.
PIECES_PER_TURN = 4

#: Bytes of a body that have come when the rest gets memory of its own.
OWN_PAGES_BYTES = 4 << 20
_HUGE_PAGE = 2 << 20

Piece = bytes | memoryview
#: A request as it goes to an upstream: whole, or in pieces where it is large.
Request = bytes | list[Piece]

T = TypeVar("T")


def advance(steps: Steps[T]) -> T | None:
    """Take steps for a while; what they come to, or None when there are more. Raises what they raise."""
    until = time.monotonic() + SLICE_S
    try:
        while time.monotonic() < until:
            next(steps)
    except StopIteration as done:
        value: T = done.value
        return value
    return None


class Pages(mmap.mmap):
    """Memory for one body, in pages so large that touching each for the first time costs next to nothing.

    What is not written to yet takes none. Of pages of the usual size a body of 40 MB has ten thousand, and the kernel
    takes longer to hand them out than to copy the body into them.
    """

    filled: int

    @classmethod
    def begun(cls, begin: bytearray, whole: int) -> Self | bytearray:
        """Room for `whole` bytes, the first of which are these; just these where there is no such memory."""
        if not hasattr(mmap, "MADV_HUGEPAGE"):
            return begin
        try:
            pages = cls(-1, -whole // _HUGE_PAGE * -_HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, ValueError, OverflowError):
            return begin
        with suppress(OSError):  # a kernel that was built without such pages
            pages.madvise(mmap.MADV_HUGEPAGE)
        pages.filled = 0
        pages.add(begin)
        return pages

    def add(self, data: bytes | bytearray) -> None:
        """More of the body, for which there must be room."""
        end = self.filled + len(data)
        self[self.filled : end] = data
        self.filled = end

    def end(self) -> None:
        """Nothing comes any more."""
        self.resize(self.filled)


class Upload(asyncio.BufferedProtocol):
    """Stands before a connection while the rest of a large body comes: the kernel writes it where it is to lie."""

    def __init__(self, connection: asyncio.Protocol, pages: Pages, left: int, received: Callable[[int], None]) -> None:
        self._connection = connection
        self._pages = pages
        self._left = left
        self._received = received  # so many bytes have come

    def get_buffer(self, sizehint: int) -> memoryview:
        """asyncio's callback: where the next bytes belong."""
        at = self._pages.filled
        return memoryview(self._pages)[at : at + min(self._left, READ_BYTES)]

    def buffer_updated(self, nbytes: int) -> None:
        """asyncio's callback: they have come."""
        self._pages.filled += nbytes
        self._left -= nbytes
        self._received(nbytes)

    def eof_received(self) -> bool | None:
        """asyncio's callback."""
        return self._connection.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's callback."""
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        """asyncio's callback."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """asyncio's callback."""
        self._connection.resume_writing()


def cut(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """The same bytes in pieces of at most `PIECE_BYTES`, none of them copied."""
    for piece in pieces:
        if len(piece) <= PIECE_BYTES:
            yield piece
        else:
            view = memoryview(piece)
            for at in range(0, len(view), PIECE_BYTES):
                yield view[at : at + PIECE_BYTES]
