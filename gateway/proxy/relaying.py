"""An attempt's answer on its way to the client.

What an upstream says is checked, counted and relayed here; `core.answer.sse` says what of a stream may be shown. How
every request ends is in `settling`. Who is asked, and who next, is `exchange`'s business; bytes of the client's
connection are `downstream`'s.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gateway.core.answer import sse, whole
from gateway.core.errors import GatewayError, StreamBroken
from gateway.core.servers import dialects
from gateway.core.servers.respell import respell_answer
from gateway.core.types import NANO_PER_USD, Outcome, Usage
from gateway.proxy.admitting import Admitting, Limited
from gateway.proxy.clocks import HORIZON_S, NEVER
from gateway.proxy.heads import AnswerHead
from gateway.proxy.outside import answered, measured
from gateway.proxy.upstream import UpstreamConnection

if TYPE_CHECKING:
    from gateway.core.request.tracecontext import Traced
    from gateway.proxy.pool import Pool

#: A non-streamed answer, and an error body, may be this long; more is not an answer.
MAX_ANSWER = 32 << 20
MAX_ERROR = 65_536
_HEADERS_TIMEOUT = Outcome.HEADERS_TIMEOUT  # a member costs as much to read as calling a function
_DECIDED = b"x-request-id: %b\r\nx-pointsman-origin: %b\r\nx-pointsman-attempts: %d\r\n%b"
_ANSWERED = b"content-type: application/json\r\n%bx-pointsman-overhead-ms: %%.3f\r\n" % _DECIDED.replace(
    b"origin: %b", b"origin: upstream"
)
_PRICED = _ANSWERED + b"x-pointsman-cost-usd: %.9f\r\n"
_BROKEN = {
    Outcome.IDLE_TIMEOUT: ("upstream_timeout", "The upstream stopped sending."),
    Outcome.TOTAL_TIMEOUT: ("upstream_timeout", "The time for this request is used up."),
    Outcome.EVENT_TOO_LARGE: ("event_too_large", "The upstream sent an event that is too large to relay."),
    Outcome.DRAINING: ("draining", "The gateway is shutting down."),
}


class Relaying(Admitting):
    """What of a request begins with its first attempt's answer. Callbacks come from its upstream's connection."""

    def _told(self, traced: Traced, pool: Pool) -> bytes:
        """The request's id for the upstream and, where it may know that, of which trace it is part."""
        traced.sends(self.attempt, pool.endpoint, time.monotonic())
        told = self.record.request_id
        if self.route.traced and traced.trace_id:
            return told.encode() + traced.carried(told, self.attempt.number)
        return told.encode()

    def _new_relay(self) -> sse.Relay:
        spelling = self.asked.tenant.reasoning
        envelope = self.envelope
        plan = self.route.plan
        if spelling is None:
            return plan.relay(envelope.include_usage, choices=envelope.choices)
        return plan.respelling(spelling, envelope.include_usage, choices=envelope.choices)

    # -- what the upstream connection says --

    def on_sent(self, connection: UpstreamConnection) -> None:
        """The request is on its way."""
        self.upstream = self.link = connection
        record = self.record
        if not record.sent_at:
            record.sent_at = time.monotonic()
        else:
            self.resent_at = time.monotonic()
        route = self.route
        # A non-streamed answer begins when it is complete, so its head has first_event's time.
        connection.due_outcome = _HEADERS_TIMEOUT
        wheel, after_s = self.runtime.wheel, route.answer_s if self.relay is None else route.headers_s
        if connection.slot and after_s >= HORIZON_S:  # as `arm`, without a call
            connection.due = wheel.soon + after_s
        else:
            wheel.arm(connection, after_s)

    def on_whole(self, head: AnswerHead, body: bytes) -> None:
        """A complete answer that came in one read; its connection is back in the pool or closed."""
        self.upstream = None
        relay = self.relay
        if relay is None and head.promising:
            self._answer(body)
            return
        attempt = self.attempt
        self.status = head.status
        self.upstream_head = head
        if head.status != 200:
            self.parts = [body]
            self._upstream_said_no()
        elif relay is None or head.encoded or not head.kind.startswith(relay.kind):
            self._failed(Outcome.INVALID)
        else:
            self.on_data(body, None)
            if not self.over and self.attempt is attempt:
                self.on_end()

    def on_head(self, head: AnswerHead) -> None:
        """The head of an answer that comes in more than one read."""
        self.status = head.status
        self.upstream_head = head
        self.parts = []
        if head.status != 200:
            return
        if head.encoded:
            self._abandon(Outcome.INVALID)
        elif self.relay is not None:
            if head.kind.startswith(self.relay.kind):
                self.link.clock(self.route.first_event_s, Outcome.FIRST_EVENT_TIMEOUT)
            else:
                self._abandon(Outcome.INVALID)
        elif not head.promising:
            self._abandon(Outcome.INVALID)
        else:
            self.link.clock(self.route.idle_s, Outcome.RESET)

    def on_flood(self, data: bytes) -> int:
        """Many chunks of the answer's body."""
        relay = self.relay
        if relay is None or not self.connection.takes_chunks:
            return 0
        if not self.committed:
            return -1
        end = relay.flood(data)
        if end:
            self.connection.write_raw(memoryview(data)[:end], b"")
            if self.upstream is not None and not self.connection.paused:
                self.link.due = self.runtime.wheel.now + self.route.idle_s
        return end

    def on_data(self, payload: bytes, raw: bytes | None) -> None:
        """Bytes of the answer's body."""
        relay = self.relay
        if relay is None or self.status != 200:
            self._collect(payload)
            return
        out = relay.feed(payload)
        if self.committed:
            if out:
                if out is payload and raw is not None:
                    self.connection.write_raw(raw, payload)
                else:
                    self.connection.write_chunk(out)
                if relay.failure is None and self.upstream is not None and not self.connection.paused:
                    self.link.due = self.runtime.wheel.now + self.route.idle_s  # an event: the idle clock starts anew
            if relay.failure is not None:
                self._abandon(relay.failure)
            elif relay.done:
                self._finish_stream(relay, b"")
            return
        if relay.committed:
            self._commit(relay, out)
        if relay.failure is not None:  # perhaps behind a first event that came in the same read
            self._abandon(self._blame(relay))

    def on_end(self) -> None:
        """The answer's body is complete; its connection is back in the pool or closed."""
        self.upstream = None
        relay = self.relay
        if self.status != 200:
            self._upstream_said_no()
        elif relay is None:
            self._answer(b"".join(self.parts))
        else:
            tail = relay.end()
            if relay.committed and not self.committed:
                self._commit(relay, tail)
                tail = b""
            if relay.failure is not None:
                if tail and self.committed:
                    self.connection.write_chunk(tail)
                self._failed(self._blame(relay))
            elif not self.over:
                self._finish_stream(relay, tail)

    def on_failed(self, outcome: Outcome) -> None:
        """The attempt ended without a complete answer."""
        if self.committed and outcome in (Outcome.RESET, Outcome.PROTOCOL):
            outcome = Outcome.INTERRUPTED
        self._failed(outcome)

    def _abandon(self, outcome: Outcome) -> None:
        """Close the upstream ourselves, because of what it sent."""
        upstream = self.upstream
        self.upstream = None
        if upstream is not None:
            upstream.abort()
        self._failed(outcome)

    def _blame(self, relay: sse.Relay) -> Outcome:
        """What a stream's failure means; an error inside a 200 often says as much as a status would."""
        outcome = relay.failure or Outcome.INVALID
        return dialects.classify_in_band(self.route.plan, relay) if outcome is Outcome.IN_BAND_ERROR else outcome

    def _collect(self, payload: bytes) -> None:
        self.parts.append(payload)
        self.received += len(payload)
        if self.received > (MAX_ANSWER if self.status == 200 else MAX_ERROR):
            self._abandon(Outcome.TOO_LARGE)
        elif self.status == 200:
            self.link.clock(self.route.idle_s, Outcome.RESET)

    # -- answers --

    def _commit(self, relay: sse.Relay, first: bytes) -> None:
        """The first meaningful event: from here on the client has a 200 and no other target may speak."""
        if self.race is not None:
            self.race.decided()
        self.committed = True
        record = self.record
        record.first_event_at = now = time.monotonic()
        if self.route.pace is not None:
            self.route.pace.heard(now - (self.resent_at or record.sent_at))
        board = self.runtime.board
        if board.entries:
            board.began(self.route.name, now, self.endpoint)
        self.connection.start_stream(self._headers(), first)
        if relay.done:
            self._finish_stream(relay, b"")
        elif self.upstream is not None:
            self.link.clock(self.route.idle_s, Outcome.IDLE_TIMEOUT)
            if self.connection.paused:
                self.pause()

    def _finish_stream(self, relay: sse.Relay, tail: bytes) -> None:
        """The stream ended as it should."""
        if self.upstream is not None:  # the answer is whole, its connection has more to read
            self.link.detach()
        self._release()
        if relay.anomalies:
            self.runtime.metrics.anomalies(self.route.name, relay.anomalies)
        self._succeeded(relay.usage, relay.output_chars, relay.reasoned)
        self._settle(200, "ok")
        self.connection.end_stream(tail)

    def _answer(self, body: bytes) -> None:
        """A complete non-streamed answer: check it, then send it in one write."""
        record = self.record
        received = time.monotonic()
        parse = self.route.plan.parse
        facts = parse(body)
        if facts is None:
            outcome = dialects.classify_answer(self.route.plan, body)
            self.status, self.received, self.stated = 200, len(body), whole.stated(body)
            self._failed(outcome, relayed=self._as_refusal(outcome, body))
            return
        record.first_event_at = received
        self.pool.outstanding -= 1  # type: ignore[union-attr]  # as `_release`, without its calls
        self.pool = None
        self._succeeded(facts.usage, facts.output_chars, facts.reasoned)
        self.committed = True
        told = (
            record.request_id.encode(),
            record.attempts,
            record.routing.headers,
            (record.sent_at - record.started_at + time.monotonic() - received) * 1000.0,
        )
        headers = (
            _PRICED % (told + (self.cost_nano / NANO_PER_USD,))  # noqa: RUF005 - which costs half
            if self.priced
            else _ANSWERED % told
        )
        self._settle(200, "ok")
        if self.asked.gate is not None:
            headers += self._limits_told()
        answer = body if facts.body is None else facts.body
        spelling = self.asked.tenant.reasoning
        self.connection.respond(200, headers, answer if spelling is None else respell_answer(answer, spelling))

    def _succeeded(self, reported: Usage | None, output_chars: int, reasoned: bool) -> None:
        runtime = self.runtime
        record = self.record
        name = self.route.name
        if runtime.board.entries:
            runtime.board.record(name, Outcome.OK, record.first_event_at, endpoint=self.endpoint)
        self._book(reported, output_chars)
        if runtime.measures:
            measured(self, name)
        if self.conversation is not None:
            answered(self, name)
        if reasoned and self.decision.thinking.mode == "never":
            record.thought_unasked = True
            runtime.thought_unasked(self.attempt.target)

    def _upstream_said_no(self) -> None:
        """A complete answer that is not a 200."""
        body = b"".join(self.parts)
        outcome = dialects.classify(self.route.plan, self.status, body)
        if outcome is Outcome.OK:  # such as a 204: it says that all is well, and answers nothing
            outcome = Outcome.INVALID
        if outcome is Outcome.AUTH and self.route.openings:
            self.route.openings[0].door.refused()
        retry_after_s = _retry_after(self.upstream_head.headers.get(b"retry-after"))
        self._failed(outcome, retry_after_s=retry_after_s, relayed=self._as_refusal(outcome, body))

    def _as_refusal(self, outcome: Outcome, body: bytes) -> tuple[int, str, bytes] | None:
        """The upstream's own words, where the request is to blame."""
        if outcome not in (Outcome.CLIENT_ERROR, Outcome.CONTEXT_LENGTH, Outcome.INEXPRESSIBLE):
            return None
        return dialects.relayed_error(self.status, body, self.route.secrets())

    def _relay_error(self, status: int, code: str, body: bytes) -> None:
        headers = b"content-type: application/json\r\n" + self._headers(origin=b"upstream")
        self._settle(status, code)
        self.connection.respond(status, headers, body)

    def _release(self) -> None:
        """Let go of the present attempt's connection, in whatever state it is."""
        pool, self.pool = self.pool, None
        if pool is not None:
            pool.finished()
        self.upstream = None

    # -- the ends --

    def _refuse(self, error: GatewayError, *, exhausted: bool = False) -> None:
        """Answer with the gateway's own error; nothing has been sent yet."""
        if self.over:
            return
        self._settle(error.status, error.code)
        if isinstance(error, Limited):
            exhausted = error.lasting
        extra = b"x-should-retry: false\r\n" if exhausted or error.status == 403 else b""
        self.connection.respond_error(error, self._headers(origin=b"gateway") + extra)

    def _break(self, outcome: Outcome) -> None:
        """End a committed stream with exactly one error event and a clean end of the body."""
        relay = self.relay
        if relay is not None:
            self._book(relay.usage, relay.output_chars, outcome.value)
        code, message = _BROKEN.get(outcome, ("upstream_stream_interrupted", "The upstream broke off its answer."))
        self._settle(200, code)
        self.connection.end_stream(sse.error_event(StreamBroken(code, message)))

    def pause(self) -> None:
        """The client does not keep up: stop reading from the upstream, which is not to blame for the silence."""
        self.held = self.record.client_slow = True
        if isinstance(self.upstream, UpstreamConnection):
            self.upstream.pause()
            self.upstream.due = NEVER

    def resume(self) -> None:
        """The client has caught up."""
        if isinstance(self.upstream, UpstreamConnection):
            self.upstream.resume()
            self.upstream.clock(self.route.idle_s, Outcome.IDLE_TIMEOUT if self.committed else Outcome.RESET)

    # -- headers of the answer --

    def _headers(self, origin: bytes = b"upstream") -> bytes:
        record = self.record
        decision = self.decision
        if decision is None:
            told = b"x-request-id: %b\r\nx-pointsman-origin: %b\r\n" % (record.request_id.encode(), origin)
            return told if self.asked.gate is None else told + self._limits_told()
        told = _DECIDED % (record.request_id.encode(), origin, record.attempts, record.routing.headers)
        return told if self.asked.gate is None else told + self._limits_told()


def _retry_after(value: bytes | None) -> float | None:
    """Seconds in a Retry-After header; dates are rare from model servers and read as absent."""
    if value is None or not value.strip().isdigit():
        return None
    return min(float(value), 300.0)
