"""Large bodies on the event loop: read in several of its turns, and sent on in pieces as fast as they are taken.

Here belongs only what keeps one large request from holding up all others, and from lying in memory twice. What a body
means is `core.request.wire`'s business, and what follows from it `exchange`'s.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from gateway.core.request.largetree import Steps

#: How long the steps of reading one body may hold the loop before it turns; the last step begun may take longer.
SLICE_S = 0.005
#: Bytes handed to a connection at once: encrypting them takes about a millisecond.
PIECE_BYTES = 1 << 20
#: Pieces handed to a connection in one turn of the loop, however fast they are taken.
PIECES_PER_TURN = 4

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


def cut(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """The same bytes in pieces of at most `PIECE_BYTES`, none of them copied."""
    for piece in pieces:
        if len(piece) <= PIECE_BYTES:
            yield piece
        else:
            view = memoryview(piece)
            for at in range(0, len(view), PIECE_BYTES):
                yield view[at : at + PIECE_BYTES]
