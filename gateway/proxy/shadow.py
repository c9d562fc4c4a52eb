"""Copies of requests on their way to a second target, whose answers are read to the end, measured and dropped.

A shadow has no client: nobody waits for it, nothing it does ends or delays anybody's request, and its outcome is not
held against its target. Which requests have one is decided in `core.decide`; here it is sent, or left out where the
gateway has better things to do.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from gateway.core.answer import whole
from gateway.core.money import booking, pricing, quotes, usage
from gateway.core.money.admission import Gate, Hold, Refused
from gateway.core.recorded.recording import copied
from gateway.core.request import wire
from gateway.core.request.tracecontext import SHADOW, Copied
from gateway.core.servers import dialects
from gateway.core.types import Decision, Endpoint, Outcome, Record, Shadow, Shadowed, Usage
from gateway.proxy import bulk
from gateway.proxy.accounts import THINKS, account_of
from gateway.proxy.clocks import TICK_S, Timed
from gateway.proxy.heads import AnswerHead
from gateway.proxy.upstream import UpstreamConnection
from gateway.telemetry.shadows import ShadowCounts

if TYPE_CHECKING:
    from gateway.core.answer.sse import Relay
    from gateway.core.request.wire import Envelope
    from gateway.proxy.pool import Pool, Waiting
    from gateway.proxy.route import Route
    from gateway.proxy.runtime import Runtime, Serving

#: Shadows under way at one time, bytes of a request that is copied, and of an answer that is read.
MOST = 16
LARGEST_REQUEST = 1_000_000
LARGEST_ANSWER = 8 << 20
#: How late the last tick of the wheel may be before the loop counts as having too much to do.
LATE_S = 3 * TICK_S
logger = logging.getLogger("pointsman")


class Shadows:
    """Every shadow under way. One per process; on the event loop."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.under_way: set[Copy] = set()
        self.counts = ShadowCounts()
        runtime.metrics.sources.append(self.counts)

    def send(self, decision: Decision, envelope: Envelope, serving: Serving, record: Record) -> None:
        """Send the copy that a decision asks for, unless something speaks against it, and name it in its request's
        record. Raises nothing.
        """
        shadow = decision.shadow
        if shadow is None:
            return
        try:
            self._send(shadow, decision, envelope, serving, record)
        except Exception:
            logger.exception("a shadow failed in the gateway", extra={"request_id": record.request_id})
            self._skipped(shadow, "defect")

    def _send(self, shadow: Shadow, decision: Decision, envelope: Envelope, serving: Serving, record: Record) -> None:
        route = serving.routes[shadow.target.index]
        chosen, reason = self._room(shadow, envelope, route, serving)
        if chosen is None:
            self._skipped(shadow, reason)
            return
        try:
            request = _compose(route, chosen, envelope, decision, _told(record, route))
        except dialects.CannotSay:
            self._skipped(shadow, "inexpressible")
            return
        if request is None:
            self._skipped(shadow, "no_token")
            return
        target = shadow.target
        told = Shadowed(shadow.id, target.name, target.model.id)
        copy = Copy(self, told, record, route, envelope, thinks=decision.thinking.mode in THINKS)
        total_s = serving.site.timeouts.total_s

        def admitted(refused: str) -> None:
            if refused:
                self._skipped(shadow, refused)
                return
            self.under_way.add(copy)
            self.runtime.wheel.arm(copy, total_s)
            self._reserve(copy, shadow, decision)
            copy.send(route.pools[chosen], request)
            record.shadow = told

        self._admit(copy, self._asks(decision, envelope, serving, record, route), admitted)

    def _asks(
        self, decision: Decision, envelope: Envelope, serving: Serving, record: Record, route: Route
    ) -> list[tuple[Gate, int, int, str]]:
        """What a copy takes of its target's limits and of the budgets of its request's key, and a word if it may not.

        It is no request of that key's, so that it is counted among neither its requests nor its tokens.
        """
        target = route.first.target
        asks: list[tuple[Gate, int, int, str]] = []
        if route.gate is not None:
            tokens = envelope.size // usage.BYTES_PER_TOKEN + target.typical_output_tokens
            asks.append((route.gate, tokens, 0, "limited"))
        gate = serving.gates.get(record.routing.key)
        if gate is not None and gate.budgets:
            need = 0
            if gate.asks_cost:
                entered = envelope.quick_tokens if quotes.textual(envelope) else None
                copied_to = replace(decision, candidates=(target,))
                need = quotes.dearest(
                    quotes.reaches(copied_to, entered, quotes.asked_output(envelope), envelope.choices)
                )
            asks.append((Gate(budgets=gate.budgets), 0, need, "budget"))
        return asks

    def _admit(self, copy: Copy, asks: list[tuple[Gate, int, int, str]], then: Callable[[str], None]) -> None:
        """Ask for one after the other, and go on when all were given or one was refused, with why."""
        if not asks:
            then("")
            return
        (gate, tokens, need, reason), *rest = asks

        def told(got: Hold | Refused) -> None:
            try:
                if isinstance(got, Refused):
                    for one in copy.holds:
                        one.cancel()
                    then(reason)
                    return
                copy.holds = (*copy.holds, got)
                self._admit(copy, rest, then)
            except Exception:
                logger.exception("a shadow failed in the gateway", extra={"request_id": copy.record.request_id})

        now_ms = int(time.time() * 1000)
        got = self.runtime.gates.store.admit(gate, tokens, need, time.monotonic(), now_ms, told)
        if got is not None:
            told(got)

    def _reserve(self, copy: Copy, shadow: Shadow, decision: Decision) -> None:
        """Have the journal say that a copy is about to leave."""
        record = copy.record
        account = account_of(self.runtime, record.routing, shadow.target, decision.thinking.mode, shadow.id)
        if not account:
            return
        size = copy.size // usage.BYTES_PER_TOKEN
        self.runtime.outbox.enter(("r", record.request_id, booking.SHADOW, account, int(time.time() * 1000), size))
        copy.reserved = True

    def _room(self, shadow: Shadow, envelope: Envelope, route: Route, serving: Serving) -> tuple[int | None, str]:
        """The endpoint a copy may go to, or None and why it may go to none."""
        runtime = self.runtime
        now = time.monotonic()
        if runtime.draining:
            return None, "draining"
        if len(self.under_way) >= MOST:
            return None, "too_many"
        if runtime.pressure or now - runtime.wheel.now > LATE_S or runtime.buffered * 2 > runtime.may_buffer:
            return None, "busy"
        if envelope.size > LARGEST_REQUEST:
            return None, "too_large"
        if not runtime.board.available(serving.site.fleet, now) >> shadow.target.index & 1:
            return None, "held_back"
        chosen = route.pick((), runtime.board, now)
        if chosen < 0 or route.pools[chosen].outstanding * 2 >= route.pools[chosen].backend.max_inflight:
            return None, "target_busy"
        return chosen, ""

    def _skipped(self, shadow: Shadow, reason: str) -> None:
        self.counts.skip(shadow.id, reason)

    def ended(self, copy: Copy) -> None:
        """A shadow is over: count and record it, apart from all that clients did."""
        self.under_way.discard(copy)
        self.counts.finished(copy.told)
        records = self.runtime.records
        if records is not None and records.takes(copy.record.request_id):
            price = copy.route.first.target.price
            records.add_made(copied(copy.told, copy.record, price, records.settings.sample))
        otlp, endpoint = self.runtime.otlp, copy.endpoint
        if otlp is not None and endpoint is not None and copy.sent_at:
            otlp.add_copy(Copied(copy.told, copy.record, copy.route.first.target, endpoint, copy.sent_at))

    def close(self) -> None:
        """End them all; what they used until now is booked."""
        for copy in list(self.under_way):
            copy.end(Outcome.DRAINING)


def _compose(route: Route, chosen: int, envelope: Envelope, decision: Decision, told: bytes) -> bulk.Request | None:
    """The request as this target is sent it; None where there is no token for it."""
    pieces: list[bulk.Piece]
    if envelope.size <= wire.WHOLE_BYTES or route.openings:
        pieces = [dialects.request_body(envelope, route.plan, decision.thinking)]
    else:
        pieces = dialects.request_pieces(envelope, route.plan, decision.thinking)
    if route.openings:
        head = route.openings[chosen].head(bytes(pieces[0]), time.time())
        if head is None:
            return None
    else:
        head = route.heads[chosen]
    length = sum(map(len, pieces))
    return [b"%b%d\r\nX-Request-Id: %b\r\n\r\n" % (head, length, told), *pieces]


def _told(record: Record, route: Route) -> bytes:
    """The request's id for the target and, where it may know that, of which trace the copy is part."""
    traced = record.trace
    if traced is not None and route.traced and traced.trace_id:
        return record.request_id.encode() + traced.carried(record.request_id, SHADOW)
    return record.request_id.encode()


class Copy(Timed):
    """One shadow. Callbacks come from its upstream's connection; its own deadline is the request's total one."""

    __slots__ = (
        "choices",
        "endpoint",
        "holds",
        "link",
        "parts",
        "pool",
        "received",
        "record",
        "relay",
        "request",
        "reserved",
        "route",
        "sent_at",
        "shadows",
        "size",
        "status",
        "thinks",
        "told",
        "upstream",
    )  # fmt: skip

    def __init__(
        self, shadows: Shadows, told: Shadowed, record: Record, route: Route, envelope: Envelope, *, thinks: bool
    ) -> None:
        super().__init__()
        self.shadows = shadows
        self.told = told
        self.record = record  # of the request that it copies
        self.route = route
        self.size, self.choices = envelope.size, envelope.choices
        self.thinks = thinks
        self.reserved = False  # the journal says that it is under way
        self.holds: tuple[Hold, ...] = ()  # what it has taken of budgets, and of its target's limits
        self.relay: Relay | None = None
        if envelope.stream:
            self.relay = route.plan.relay(envelope.include_usage, choices=envelope.get("n") or 1)
        self.pool: Pool | None = None
        self.endpoint: Endpoint | None = None  # where it was sent
        self.upstream: UpstreamConnection | Waiting | None = None
        self.link: UpstreamConnection = None  # type: ignore[assignment]  # set on the way
        self.request: bulk.Request | None = None  # until it is clear that it need not be sent again
        self.sent_at = 0.0
        self.status = 0
        self.received = 0
        self.parts: list[bytes] = []

    def send(self, pool: Pool, request: bulk.Request, *, fresh: bool = False) -> None:
        """Send it on a kept or new connection of an endpoint."""
        self.pool = pool
        self.endpoint = pool.endpoint
        self.request = None if fresh else request
        self.upstream = pool.send(self, request, connect_s=self.route.connect_s, fresh=fresh)

    # -- what the upstream connection says --

    def on_sent(self, connection: UpstreamConnection) -> None:
        """The copy is on its way."""
        self.upstream = self.link = connection
        self.sent_at = time.monotonic()
        headers_s = self.route.headers_s if self.relay is not None else self.route.answer_s
        connection.clock(headers_s, Outcome.HEADERS_TIMEOUT)

    def on_whole(self, head: AnswerHead, body: bytes) -> None:
        """A complete answer that came in one read."""
        self.upstream = None
        if self._reads(head):
            self.on_data(body, None)
            if self.pool is not None:
                self.on_end()

    def on_head(self, head: AnswerHead) -> None:
        """The head of an answer that comes in more than one read."""
        if self._reads(head):
            streams = self.relay is not None and self.status == 200
            self.link.clock(
                self.route.first_event_s if streams else self.route.idle_s,
                Outcome.FIRST_EVENT_TIMEOUT if streams else Outcome.RESET,
            )

    def _reads(self, head: AnswerHead) -> bool:
        self.request = None
        self.status = self.told.status = head.status
        wrong = not head.promising if self.relay is None else not head.kind.startswith(self.relay.kind)
        if head.status == 200 and (head.encoded or wrong):
            self.end(Outcome.INVALID)
            return False
        return True

    def on_flood(self, data: bytes) -> int:
        """Many chunks: a copy's are read one by one."""
        return 0

    def on_data(self, payload: bytes, raw: bytes | None) -> None:
        """Bytes of the answer: read, and dropped as soon as nothing more can be learned from them."""
        self.received += len(payload)
        if self.received > LARGEST_ANSWER:
            self.end(Outcome.TOO_LARGE)
            return
        relay = self.relay
        if relay is None or self.status != 200:
            self.parts.append(payload)
            return
        relay.feed(payload)
        if relay.committed:
            if not self.told.first_event_s:
                self.told.first_event_s = time.monotonic() - self.sent_at
            if self.upstream is not None:
                self.link.clock(self.route.idle_s, Outcome.IDLE_TIMEOUT)
        if relay.failure is not None or relay.done:
            self._finish(relay)

    def on_end(self) -> None:
        """The answer's body is complete."""
        self.upstream = None
        relay = self.relay
        if self.status != 200:
            self.end(dialects.classify(self.route.plan, self.status, b"".join(self.parts)))
        elif relay is not None:
            relay.end()
            self._finish(relay)
        else:
            body = b"".join(self.parts)
            facts = self.route.plan.parse(body)
            self.told.first_event_s = time.monotonic() - self.sent_at
            if facts is None:
                if (stated := whole.stated(body)) is not None:
                    self._book(stated, len(body))
                self.end(dialects.classify_answer(self.route.plan, body))
            else:
                self._book(facts.usage, facts.output_chars)
                self.end(Outcome.OK)

    def _finish(self, relay: Relay) -> None:
        outcome = relay.failure
        if outcome is Outcome.IN_BAND_ERROR:
            outcome = dialects.classify_in_band(self.route.plan, relay)
        self.end(outcome or Outcome.OK)

    def on_failed(self, outcome: Outcome) -> None:
        """It ended without a complete answer. A kept connection that had died says nothing: take a new one."""
        self.upstream = None
        pool, request = self.pool, self.request
        if outcome is Outcome.STALE and request is not None and pool is not None:
            pool.finished()
            self.send(pool, request, fresh=True)
        else:
            self.end(outcome)

    def on_defect(self) -> None:
        """The exception being handled is ours: it costs this copy, and nothing else."""
        logger.exception(
            "a shadow at %s failed in the gateway", self.told.target, extra={"request_id": self.record.request_id}
        )
        self.end(Outcome.INVALID)

    def on_due(self, now: float) -> None:
        """The time for this request is used up."""
        self.end(Outcome.TOTAL_TIMEOUT)

    # -- the end --

    def end(self, outcome: Outcome) -> None:
        """The one end of every shadow."""
        pool, self.pool = self.pool, None
        if pool is None:
            return
        pool.finished()
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            release: Callable[[], None] = upstream.abort
            if outcome is Outcome.OK and isinstance(upstream, UpstreamConnection):
                release = upstream.detach  # whole, though its connection has more to read
            release()
        relay = self.relay
        told = self.told
        if told.usage is None and relay is not None and (relay.committed or relay.usage is not None):
            self._book(relay.usage, relay.output_chars)
        elif told.usage is None and booking.costs(outcome, self.status, sent=isinstance(upstream, UpstreamConnection)):
            self._book(None, 0 if relay is not None else self.received)
        told.outcome = outcome.value
        told.duration_s = time.monotonic() - self.sent_at if self.sent_at else 0.0
        self.due = float("inf")
        self.request = None
        self.parts = []
        if self.holds:
            self._let_go()
        if self.reserved:
            self._settle()
        self.shadows.ended(self)

    def _let_go(self) -> None:
        told = self.told
        used = told.usage
        tokens = 0 if used is None else used.input + used.output
        for hold in self.holds:
            hold.end(time.monotonic(), tokens, told.cost_nano, int(self.record.wall * 1000))

    def _settle(self) -> None:
        """Have the journal say what it used and cost, or that it cost nothing."""
        self.reserved = False
        told, record = self.told, self.record
        key, now_ms = (record.request_id, booking.SHADOW), int(time.time() * 1000)
        entry: booking.Plain = booking.Void(*key, now_ms, told.outcome)
        if told.usage is not None:
            entry = booking.Settle.of(key, now_ms, told.usage, told.cost_nano, told.outcome)
        self.shadows.runtime.outbox.enter(entry)

    def _book(self, reported: Usage | None, output_chars: int) -> None:
        told = self.told
        target = self.route.first.target
        entered = self.size // usage.BYTES_PER_TOKEN
        told.usage = used = usage.settle(reported, entered, output_chars, target, self.choices)
        price = target.price
        if price is not None:
            told.priced = True
            told.cost_nano = pricing.cost(price, used, self.thinks)
