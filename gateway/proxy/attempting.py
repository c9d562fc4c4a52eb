"""A request's attempts: one target after the other is sent it until one answers, or nothing may follow.

It performs and does not decide: `core.resilience.failover` says what follows a failed attempt, `route` to which
endpoint it goes. What an attempt's answer does is in `relaying`; when a request begins and ends is `exchange`'s.
"""

from __future__ import annotations

import logging
import time
from math import floor
from typing import TYPE_CHECKING

from gateway.core.errors import GatewayError, InternalError
from gateway.core.money.booking import MOST_NANO, Plain
from gateway.core.money.usage import BYTES_PER_TOKEN
from gateway.core.request import wire
from gateway.core.resilience.failover import TABLE, Ended, Follow, failover
from gateway.core.resilience.hedging import Pace
from gateway.core.servers import dialects
from gateway.core.types import Attempt, Outcome
from gateway.proxy import bulk
from gateway.proxy.accounts import account_of
from gateway.proxy.clocks import NEVER
from gateway.proxy.hedging import Race
from gateway.proxy.relaying import Relaying
from gateway.proxy.route import Route
from gateway.proxy.routing import routing_of
from gateway.proxy.upstream import UpstreamConnection

if TYPE_CHECKING:
    from collections.abc import Generator

    from gateway.proxy.habit import Habit
    from gateway.proxy.pool import Pool

    Tries = Generator[Attempt, Outcome | Ended, GatewayError | None]

#: Outcomes of attempts that were not made, or of which nothing reached a server: none of its limits was used.
UNSENT = frozenset(
    {
        Outcome.SATURATED,
        Outcome.INEXPRESSIBLE,
        Outcome.NO_TOKEN,
        Outcome.REFUSED,
        Outcome.CONNECT_TIMEOUT,
        Outcome.TLS,
        Outcome.STALE,
    }
)
#: Codes of errors with which a client is told when to come again, if an upstream has said so.
ASKING_FOR_TIME = frozenset({"upstream_rate_limited", "overloaded", "rate_limit_exceeded"})
#: Outcomes that say nothing but that an answer did not come in time.
LATE = frozenset({Outcome.HEADERS_TIMEOUT, Outcome.FIRST_EVENT_TIMEOUT})

logger = logging.getLogger("pointsman")


class Attempting(Relaying):
    """What a request does about its attempts."""

    def _send(self, route: Route, attempt: Attempt) -> None:
        self.attempt = attempt
        self.route = route
        record = self.record
        record.attempts = number = attempt.number
        routing = self.routings.get(route.name)
        if routing is None:
            routing = self.routings[route.name] = routing_of(self.asking(), self.decision, attempt.target)
        record.routing = routing
        runtime = self.runtime
        if route.gate is not None and self.room is None and not self._enters(route, route.gate):
            return
        only = route.only
        if only is not None:
            chosen = 0 if only.outstanding < only.most else -1  # not `saturated`: that would be a call
        elif route.prefixes is not None:
            envelope = self.envelope
            prompt = memoryview(envelope.members["messages"] if envelope.messages is None else envelope.messages)
            tried = self.tried if attempt.replica else ()
            chosen = route.pick_alike(prompt, tried, runtime.board, record.started_at)
        else:
            chosen = route.pick(self.tried if attempt.replica else (), runtime.board, record.started_at)
        if chosen < 0:
            self._failed(Outcome.SATURATED)
            return
        pieces: list[bulk.Piece] | None = None
        envelope = self.envelope
        try:
            if self.around is not None and envelope.messages is not None:
                body = dialects.filled(self.around, envelope.messages, envelope.user)
            elif envelope.size <= wire.WHOLE_BYTES or route.openings:
                body = dialects.request_body(envelope, route.plan, self.decision.thinking)
            else:
                body, pieces = b"", dialects.request_pieces(envelope, route.plan, self.decision.thinking)
        except dialects.CannotSay:
            self._failed(Outcome.INEXPRESSIBLE)
            return
        pool = route.pools[chosen]
        if only is None:
            self.endpoint = pool.endpoint.url
            self.tried = (*self.tried, chosen) if attempt.replica else (chosen,)
        elif number > 1:
            self.endpoint, self.tried = "", ()
        if route.openings:
            head = route.openings[chosen].head(body, time.time())
            if head is None:
                self._failed(Outcome.NO_TOKEN)
                return
        else:
            head = route.heads[chosen]
        if runtime.board.entries:
            runtime.board.started(route.name, record.started_at, self.endpoint)
        request: bulk.Request
        told = record.request_id.encode() if record.trace is None else self._told(record.trace, pool)
        if pieces is None:
            request = b"%b%d\r\nX-Request-Id: %b\r\n\r\n%b" % (head, len(body), told, body)
        else:
            request = [b"%b%d\r\nX-Request-Id: %b\r\n\r\n" % (head, sum(map(len, pieces)), told), *pieces]
        if envelope.stream:
            self.relay = self._new_relay()
        if number > 1:
            self.status = 0
            self.received = 0
        if runtime.ledger is not None:
            self._reserve(record.wall if number == 1 else time.time())
        self.pool = pool
        self.upstream = pool.send(self, request, connect_s=route.connect_s, fresh=attempt.fresh_connection)
        if route.pace is not None and number == 1 and envelope.stream and self.serving.site.max_attempts > 1:
            self._may_hedge(route.pace)

    def _send_straight(self, habit: Habit, pool: Pool) -> None:
        """`_send` for the first attempt of a request of which nothing is left to be asked or decided. HOT."""
        record, route, routing, envelope = self.record, habit.route, habit.routing, self.envelope
        self.attempt = route.first
        self.route = route
        record.attempts = 1
        record.routing = routing
        told = record.request_id
        body = dialects.filled(habit.around, envelope.messages, envelope.user)  # type: ignore[arg-type]  # it has both
        runtime = self.runtime
        if runtime.ledger is not None:
            self._reserve(record.wall)
        self.pool = pool
        request = b"%b%d\r\nX-Request-Id: %b\r\n\r\n%b" % (route.heads[0], len(body), told.encode(), body)
        self.upstream = pool.send(self, request, connect_s=route.connect_s)

    def _reserve(self, at: float) -> None:
        """Have the journal say what is about to leave at that Unix time, before it leaves: see `outbox`. HOT."""
        runtime, record, attempt = self.runtime, self.record, self.attempt
        account = record.routing.account
        if not account:
            account = account_of(runtime, record.routing, attempt.target, self.decision.thinking.mode)
        at_ms, size = floor(at * 1e3), self.envelope.size // BYTES_PER_TOKEN
        if self.hold is None:
            entry: Plain = ("r", record.request_id, attempt.number, account, at_ms, size)
        else:
            self.began_ms = at_ms
            need = self.hold.need
            most = need if need < MOST_NANO else MOST_NANO
            entry = ("r", record.request_id, attempt.number, account, at_ms, size, most)
        runtime.outbox.entries.append(entry)
        self.reserved = True

    def send(self, route: Route, attempt: Attempt) -> None:
        """Begin an attempt beside the one that was in hand."""
        self._send(route, attempt)

    def _may_hedge(self, pace: Pace) -> None:
        """Have a second attempt begin beside the first if that is slow to answer."""
        self.runtime.hedges.asked()
        if pace.after_s is not None and not self.over and self.upstream is not None:
            self.race = Race(self, pace.after_s)

    def following(self) -> Tries:
        """The dialogue about what follows, begun with the first attempt that needs it."""
        if self.tries is None:
            board, wheel = self.runtime.board, self.runtime.wheel
            self.runtime.retries.active = len(self.runtime.exchanges)
            self.tries = failover(
                self.decision,
                max_attempts=self.serving.site.max_attempts,
                retries=self.runtime.retries,
                crowded=lambda target: board.crowded(target, wheel.now),
            )
            next(self.tries)  # the attempt that was made
        return self.tries

    def _failed(
        self, outcome: Outcome, *, retry_after_s: float | None = None, relayed: tuple[int, str, bytes] | None = None
    ) -> None:
        """The present attempt is over; ask what follows. `relayed` is the upstream's own refusal, if it gave one."""
        self._release()
        self.around = None  # is the first candidate's, and says its model and what its backend puts into a body
        runtime = self.runtime
        name = self.route.name
        now = time.monotonic()
        if self.reserved and not self.committed:
            self._write_off(outcome)
        if self.room is not None and not self.committed:
            if outcome in UNSENT:
                self.room.cancel()
            else:
                self.room.end(now)
            self.room = None
        self.failures = (*self.failures, (name, outcome))
        if retry_after_s is not None and (self.soonest_s is None or retry_after_s < self.soonest_s):
            self.soonest_s = retry_after_s
        if self.record.trace is not None:
            self.record.trace.failed(self.attempt, outcome, now, self.status)
        runtime.metrics.attempt(name, outcome)
        if outcome in LATE and runtime.measures:
            first_event_s, rate = (NEVER, None) if self.envelope.stream else (None, 0.0)
            runtime.paces.heard(name, first_event_s, rate, now)
        jitter = float.fromhex("0x." + self.record.request_id[-6:])
        runtime.board.record(name, outcome, now, retry_after_s, endpoint=self.endpoint, jitter=jitter)
        if self.over:
            return
        if self.committed:
            self._break(outcome)
            return
        if self.race is not None:
            # Where the request is to blame nobody else need be asked; but a hedge alone decides that for nobody.
            if self.race.on and (TABLE[outcome].follow is not Follow.STOP or self.race.hedges(self.attempt)):
                self.race.left(outcome)
                return
            self.race.stop(Outcome.OUTRUN)
        tries = self.following()
        runtime.retries.active = len(runtime.exchanges)
        try:
            self.upcoming = tries.send(Ended(outcome, self.ends_at - now))
        except StopIteration as stop:
            if relayed is not None:
                self._relay_error(*relayed)
                return
            error: GatewayError = stop.value or InternalError("internal_error", "The gateway lost its way.")
            if error.code in ASKING_FOR_TIME:
                error.retry_after_s = self.soonest_s
            self._refuse(error, exhausted=outcome is not Outcome.LIMITED)
        else:
            if self._again():
                self._follow()

    def _follow(self) -> None:
        following, (name, outcome) = self.upcoming, self.failures[-1]
        self.runtime.metrics.retry(name, outcome)
        if not self.record.fallback_reason and following.target is not self.decision.candidates[0]:
            self.record.fallback_reason = outcome.value
        self._send(self.serving.routes[following.target.index], following)

    def _cease(self, error: GatewayError) -> None:
        if self.tries is not None:
            self.tries.close()
        self._refuse(error)

    def on_defect(self) -> None:
        """The edge that must answer: a defect of ours costs this request, not the connection or the process.

        Called while the exception is being handled.
        """
        logger.exception("a request failed in the gateway", extra={"request_id": self.record.request_id})
        if self.over:
            return
        if self.race is not None:
            self.race.stop(Outcome.OUTRUN)
        upstream = self.upstream
        self._release()
        if upstream is not None:
            upstream.abort()
        if self.committed:
            self._break(Outcome.INTERRUPTED)
        else:
            self._refuse(InternalError("internal_error", "The gateway failed to handle this request."))

    def give_up(self, outcome: Outcome) -> None:
        """End the attempt in hand, of which the client has seen nothing, because of its rival or with it."""
        self._cancel(outcome)
        if self.room is not None:
            self.room.end(time.monotonic())
            self.room = None
        self.failures = (*self.failures, (self.route.name, outcome))

    def _cancel(self, outcome: Outcome, *, book: bool = True) -> None:
        if self.race is not None:
            self.race.stop(outcome)
        upstream = self.upstream
        made = self.pool is not None  # none is in hand while a store is asked
        self._release()
        if upstream is not None:
            upstream.abort()
        if made:
            now = time.monotonic()
            self.runtime.metrics.attempt(self.route.name, outcome)
            self.runtime.board.record(self.route.name, outcome, now, endpoint=self.endpoint)
            if self.record.trace is not None:
                self.record.trace.failed(self.attempt, outcome, now, self.status)
            if book and self.relay is not None and self.relay.committed:
                self._book(self.relay.usage, self.relay.output_chars, outcome.value)
            elif book and self.reserved:
                self._write_off(outcome, sent=isinstance(upstream, UpstreamConnection))
        if self.tries is not None and outcome is not Outcome.OUTRUN:
            self.tries.close()
