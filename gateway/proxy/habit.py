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

from gateway.core.decisions.memo import Memo
from gateway.core.request.likeness import Likeness
from gateway.core.servers import dialects
from gateway.proxy.routing import routing_of

if TYPE_CHECKING:
    from gateway.core.decisions.memo import Kept
    from gateway.core.types import Routing
    from gateway.proxy.asked import Asked
    from gateway.proxy.exchange import Exchange
    from gateway.proxy.pool import Pool
    from gateway.proxy.route import Route

#: How many likenesses a connection may get that led to nothing: some clients never repeat themselves.
MOST_TRIES = 8
_TAIL, _MOST_TAIL = 32, 256
_USER = re.compile(rb'(?<="user":")[^"\\]*')


@dataclass(frozen=True, slots=True)
class Habit:
    """A decision that holds for every request with this head, of this likeness, in this world, up to this size.

    Whether a request is one of these is asked where it begins, in `exchange`.
    """

    asked: Asked
    likeness: Likeness
    available: int  # which is that these targets are,
    since: float  # and that it is this minute, in Unix time
    until: float
    largest: int  # bytes of body
    kept: Kept
    pinned: int | None
    total_s: float
    route: Route  # of the first candidate
    routing: Routing  # to that
    around: tuple[bytes, ...] | None  # the messages and `user`, as that gets them
    straight: Pool | None  # where only health and room there can keep it from being sent to


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
        minute, _ = Memo.world(exchange.available, exchange.record.wall)
        first = decision.candidates[0]
        route = asked.serving.routes[first.index]
        routing = kept.routings.get(first.name)
        if routing is None:
            routing = kept.routings[first.name] = routing_of(exchange.asking(), decision, first)
        around = dialects.around(envelope, route.plan, decision.thinking, user)
        plain = around is not None and route.gate is None and not route.openings and not envelope.stream
        self.present = Habit(
            asked,
            likeness,
            exchange.available,
            minute * 60.0,
            minute * 60.0 + 60,
            kept.largest,
            kept,
            exchange.pinned,
            total_s,
            route,
            routing,
            around,
            route.only if plain else None,
        )
