"""What a connection's requests have in common, worked out once for as long as they repeat it.

A client's requests differ in their messages, perhaps in `user`, and seldom in anything else. What follows from all else
(who may ask, what was decided, what is sent around the messages) is kept here with the conditions under which it holds;
a request for which one of them does not hold goes the whole way. Nothing is decided here: a habit repeats what
`core.decisions.memo` kept.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.core.decisions.memo import Memo, World
from gateway.core.request.likeness import Likeness
from gateway.core.request.wire import Envelope
from gateway.core.servers import dialects

if TYPE_CHECKING:
    from gateway.core.decisions.memo import Kept
    from gateway.proxy.asked import Asked
    from gateway.proxy.exchange import Exchange
    from gateway.proxy.route import Route

#: How many likenesses a connection may get that led to nothing: some clients never repeat themselves.
MOST_TRIES = 8
_TAIL, _MOST_TAIL = 32, 256
_USER = re.compile(rb'(?<="user":")[^"\\]*')


@dataclass(frozen=True, slots=True)
class Habit:
    """A decision that holds for every request with this head, of this likeness, in this world, up to this size."""

    asked: Asked
    likeness: Likeness
    world: World
    largest: int  # bytes of body
    kept: Kept
    pinned: int | None
    total_s: float
    route: Route  # of the first candidate
    around: tuple[bytes, ...] | None  # the messages and `user`, as that gets them

    def read(self, asked: Asked, body: bytes | bytearray) -> Envelope | None:
        """The request, where it is one of these but for the world. HOT."""
        if asked is not self.asked or len(body) > self.largest:
            return None
        return self.likeness.read(body)


class Habits:
    """The present habit of one connection, and what it takes to get one."""

    __slots__ = ("_tail", "_tries", "present")

    def __init__(self) -> None:
        self.present: Habit | None = None
        self._tail = b""
        self._tries = 0

    def learn(self, exchange: Exchange, kept: Kept, total_s: float) -> None:
        """Take up a habit from a request whose decision was kept, if the body before it on this connection ended alike.

        To be called when the request was sent on.
        """
        asked, envelope, habit = exchange.asked, exchange.envelope, self.present
        if envelope.messages is not None and habit is not None:
            likeness: Likeness | None = habit.likeness  # only the world has changed
            user = envelope.user
        else:
            if self._tries >= MOST_TRIES:
                return
            tail = _USER.sub(b"", bytes(envelope.body[-_MOST_TAIL:]))[-_TAIL:]
            alike, self._tail = tail == self._tail, tail
            if not alike:
                return
            self._tries += 1
            likeness = Likeness.to(envelope)
            user = None if likeness is None else likeness.user
        if likeness is None:
            return
        decision = kept.decision
        route = asked.serving.routes[decision.candidates[0].index]
        self.present = Habit(
            asked,
            likeness,
            Memo.world(exchange.available, exchange.record.wall),
            kept.largest,
            kept,
            exchange.pinned,
            total_s,
            route,
            dialects.around(envelope, route.plan, decision.thinking, user),
        )
