"""The connections to one endpoint: reuse of idle ones, opening of new ones, and the queue of those who wait for one.

Who owns a connection is decided here and nowhere else: the pool while it is idle, its user from `send` until the
answer has ended. What travels on one stands in `upstream`, how one is opened in `tunnel`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque

from gateway.core.types import Backend, Endpoint, Outcome
from gateway.proxy import descriptors
from gateway.proxy.bulk import Request
from gateway.proxy.clocks import Wheel
from gateway.proxy.heads import AnswerHead, parse_answer
from gateway.proxy.outbox import Outbox
from gateway.proxy.tunnel import open_connection
from gateway.proxy.upstream import UpstreamConnection, User

#: A pooled connection older than this is not reused, so that changed DNS records and certificates are noticed.
MAX_AGE_S = 300.0
IDLE_S = 30.0
MAX_IDLE = 128


class Waiting:
    """A user's place in the queue for a connection; `cancel` gives it up."""

    __slots__ = ("request", "user")

    def __init__(self, user: User, request: Request) -> None:
        self.user: User | None = user
        self.request = request

    def abort(self) -> None:
        """The user no longer wants a connection."""
        self.user = None


class Pool:
    """The connections to one endpoint, and how many requests are under way there."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        wheel: Wheel,
        outbox: Outbox,
        backend: Backend,
        endpoint: Endpoint,
        tls: ssl.SSLContext | None,
    ) -> None:
        self.loop = loop
        self.wheel = wheel
        self.outbox = outbox
        self.backend = backend
        self.endpoint = endpoint
        self.tls = tls
        self.most = backend.max_inflight
        self.outstanding = 0
        self.opened = 0
        self._idle: list[UpstreamConnection] = []
        self._live: set[UpstreamConnection] = set()
        self._waiting: deque[Waiting] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self.heads: dict[bytes, AnswerHead] = {}  # the last few distinct ones of answers: upstreams repeat themselves
        self.last_head = b"", AnswerHead()  # and the last one

    @property
    def saturated(self) -> bool:
        """True when the backend's in-flight cap is reached here."""
        return self.outstanding >= self.most

    @property
    def waiting(self) -> int:
        """Requests that wait for a connection."""
        return sum(place.user is not None for place in self._waiting)

    def answer_head(self, raw: bytes) -> AnswerHead:
        """Parse an answer's head that is none of `heads`. Raises HeadError."""
        head = parse_answer(raw)
        if len(self.heads) >= 64:
            self.heads.clear()
        self.heads[raw] = head
        return head

    def send(
        self, user: User, request: Request, *, connect_s: float, fresh: bool = False
    ) -> UpstreamConnection | Waiting:
        """Send a request on a kept or new connection; what is returned can be aborted until the user is told more."""
        self.outstanding += 1
        if not fresh:
            oldest = self.wheel.now - MAX_AGE_S
            while self._idle:
                connection = self._idle.pop()
                if connection.closed or connection.transport.is_closing():
                    continue
                if connection.born < oldest:
                    connection.abort()
                    continue
                connection.reused = True
                connection.start(user, request)
                return connection
        place = Waiting(user, request)
        self._waiting.append(place)
        task = self.loop.create_task(self._open(connect_s))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return place

    def finished(self) -> None:
        """A request sent through this pool is over, however it ended. Called once per `send`, by the user."""
        self.outstanding -= 1

    def release(self, connection: UpstreamConnection) -> None:
        """Take back a connection whose answer is complete."""
        if connection.paused:
            connection.resume()
        waiting = self._next_waiting() if self._waiting else None
        if waiting is not None:
            connection.reused = True
            connection.start(*waiting)
        elif len(self._idle) >= MAX_IDLE:
            connection.abort()
        else:
            self._idle.append(connection)
            if connection.slot:  # as `arm`, without a call
                connection.due = self.wheel.soon + IDLE_S
            else:
                self.wheel.arm(connection, IDLE_S)

    def forget(self, connection: UpstreamConnection) -> None:
        """A connection is gone."""
        self._live.discard(connection)

    def close(self) -> None:
        """Abort everything; the pool's endpoint left the configuration or the process ends."""
        for task in list(self._opening):
            task.cancel()
        for connection in list(self._live):
            connection.abort()
        self._idle.clear()

    def retire(self) -> None:
        """Close what is idle; what is busy closes itself by age."""
        for connection in self._idle:
            connection.abort()
        self._idle.clear()

    def _next_waiting(self) -> tuple[User, Request] | None:
        while self._waiting:
            place = self._waiting.popleft()
            user, place.user = place.user, None
            if user is not None:
                return user, place.request
        return None

    async def _open(self, connect_s: float) -> None:
        outcome = Outcome.REFUSED
        try:
            async with asyncio.timeout(connect_s):
                connection = await open_connection(
                    self.loop, self.endpoint, self.backend.proxy, self.tls, self._connection
                )
        except TimeoutError:
            outcome = Outcome.CONNECT_TIMEOUT
        except ssl.SSLError:
            outcome = Outcome.TLS
        except (OSError, ValueError) as error:  # ValueError: a host name that cannot be looked up
            if isinstance(error, OSError) and error.errno in descriptors.OURS:
                outcome = Outcome.SATURATED
        else:
            self.opened += 1
            self._live.add(connection)
            waiting = self._next_waiting()
            if waiting is not None:
                connection.start(*waiting)
            else:
                self.release(connection)
            return
        waiting = self._next_waiting()
        if waiting is not None:
            waiting[0].on_failed(outcome)

    def _connection(self) -> UpstreamConnection:
        return UpstreamConnection(self)
