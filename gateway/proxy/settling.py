"""What a request is while it lasts, what its attempts cost, and the one end of every request.

Everything that must happen at the end happens in `_settle`, which every way out goes through exactly once. Before that
every attempt that the journal was told of has ended there, through `_book` or `_write_off`. How an answer is relayed is
in `relaying`.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from math import floor
from typing import TYPE_CHECKING, Any

from gateway.core.answer import sse
from gateway.core.errors import GatewayError
from gateway.core.money import booking, pricing, usage
from gateway.core.reading.signals import Signals
from gateway.core.recorded.recording import Settled
from gateway.core.request.wire import Envelope
from gateway.core.resilience.failover import Ended
from gateway.core.types import EMPTY, Attempt, Decision, Outcome, Record, Routing, Snapshot, Usage
from gateway.proxy.accounts import THINKS
from gateway.proxy.clocks import NEVER
from gateway.proxy.heads import AnswerHead
from gateway.proxy.pool import Pool, Waiting
from gateway.proxy.route import Route
from gateway.proxy.routing import asking_of, routing_of
from gateway.proxy.runtime import Remembered, Runtime
from gateway.proxy.upstream import UpstreamConnection

if TYPE_CHECKING:
    from gateway.core.money.admission import Hold
    from gateway.core.money.quotes import Quote
    from gateway.core.policy import Policy
    from gateway.proxy.asked import Asked
    from gateway.proxy.downstream import ClientConnection
    from gateway.proxy.hedging import Race

NOBODY = Routing("", "", "", stream=False)


class Settling:
    """The state of a request, and its end."""

    # What a request starts with. Class attributes, so that making an Exchange costs only what differs.
    over = False
    committed = False  # the client has been sent something: no other target may speak
    upstream: UpstreamConnection | Waiting | None = None  # while an attempt has hold of one
    pool: Pool | None = None
    relay: sse.Relay | None = None  # of the present attempt, if it streams
    tries: Generator[Attempt, Outcome | Ended, GatewayError | None] | None = None  # from the first failure on
    signals: Signals | None = None  # where a decision had to be made
    decision: Decision = None  # type: ignore[assignment]  # None: none was made
    pinned: int | None = None
    available = 0
    snapshot: Snapshot | None = None  # where a decision had to be made
    failures: tuple[tuple[str, Outcome], ...] = ()  # attempts that did not answer: target, and why
    values: Mapping[str, Any] = EMPTY  # of the signals that were computed
    around: tuple[bytes, ...] | None = None  # what the first candidate gets around messages and user, if known
    endpoint = ""  # of the present attempt, where its target has several
    routings: dict[str, Routing]  # by target, shared with others that are decided alike
    tried: tuple[int, ...] = ()  # endpoints of the present target that were tried
    cost_nano = 0
    priced = True
    stated: Usage | None = None  # what a whole answer says it used that is of no use to the client
    status = 0  # of the present attempt's answer
    received = 0  # bytes of it
    watching: Policy | None = None  # the policy that decided, where it watches more than health
    conversation: str | None = None  # its name, where the policy is sticky
    resent_at = 0.0  # when the present attempt was sent, where it is not the first
    reserved = False  # the journal says that the present attempt is under way, and not yet how it ended
    asked_for = (0, 0)  # tokens and nano-USD that its key's limits were asked for, where that takes time
    quote: Quote | None = None  # by which
    attempted = False  # to ask for less
    hold: Hold | None = None  # what it has taken of its key's limits
    accounted_nano = 0  # of what attempts have cost: its hold knows that it is spent
    upcoming: Attempt  # what is made next, where limits let it
    room: Hold | None = None  # what the present attempt has taken of its target's limits
    began_ms = 0  # Unix time of the present attempt, where limits are
    clamped = 0  # tokens that a budget has shortened the answer to
    wait_s = 1 << 30  # after which one of the targets whose limits were reached has room again
    race: Race | None = None  # while a second attempt may begin beside the first one, or runs
    soonest_s: float | None = None  # the least time for which an upstream asked
    held = False  # the client did not keep up, so that the answer's speed says nothing of the upstream

    # Set on the way to the step that first reads them.
    envelope: Envelope = None  # type: ignore[assignment]  # until the body was parsed
    ends_at = NEVER  # monotonic; until it is known how long the request may take
    attempt: Attempt
    route: Route
    link: UpstreamConnection
    upstream_head: AnswerHead
    parts: list[bytes]

    def __init__(self, runtime: Runtime, connection: ClientConnection, asked: Asked) -> None:
        # These are read in every request, and reading a class's attribute costs three times as much.
        self.relay = self.hold = self.room = self.conversation = None
        self.priced = True
        self.runtime = runtime
        self.serving = asked.serving  # what the request began with, should a reload come in between
        self.connection = connection
        self.asked = asked
        wall = time.time()
        self.record = record = Record(runtime.request_id(wall), wall, time.monotonic(), NOBODY)
        if runtime.tracing is not None:
            record.trace = runtime.tracing.begin(record.request_id, connection.sent_head)

    # -- what attempts cost --

    def _book(self, reported: Usage | None, output_chars: int, cause: str = "ok") -> None:
        """Settle the attempt: what it used and cost, estimated where the upstream did not say. HOT."""
        envelope, target = self.envelope, self.attempt.target
        used = usage.settle(reported, envelope.size // usage.BYTES_PER_TOKEN, output_chars, target, envelope.choices)
        record = self.record
        record.usage = used if record.usage is None else usage.add(record.usage, used)
        price = target.price
        cost_nano = 0
        if price is None:
            self.priced = False
        else:
            cost_nano = pricing.cost(price, used, self.decision.thinking.mode in THINKS)
            if cost_nano > booking.MOST_NANO:
                cost_nano = booking.MOST_NANO
            self.cost_nano += cost_nano
        if self.route.gate is not None and self.room is not None:
            self.room.end(time.monotonic(), used.input + used.output)
            self.room = None
        if cause != "ok" or record.usage is not used:
            self._spent(used, cost_nano)
        if self.reserved:
            self.reserved = False
            entry = (
                "s", record.request_id, self.attempt.number, floor(time.time() * 1e3), used.input, used.output,
                used.cached, used.reasoning, used.written, cost_nano, used.estimated, cause,
            )  # fmt: skip
            self.runtime.outbox.entries.append(entry)

    def _spent(self, used: Usage, cost_nano: int) -> None:
        """Note which attempt it was that used this: another target may answer in the end."""
        target = self.attempt.target
        one = usage.Spent(self.attempt.number, target.name, target.model.id, used, cost_nano, target.price is not None)
        self.record.spent = (*self.record.spent, one)
        if self.hold is not None:
            self.hold.charge(self.cost_nano, self.began_ms or int(self.record.wall * 1000))

    def _write_off(self, outcome: Outcome, *, sent: bool = True) -> None:
        """Settle an attempt of which the client has seen nothing: for nothing, or for what it must have cost."""
        relay = self.relay
        reported = self.stated if relay is None else relay.usage
        self.stated = None
        if reported is not None or booking.costs(outcome, self.status, sent=sent):
            self._book(reported, self.received if relay is None else relay.output_chars, outcome.value)
            return
        self.reserved = False
        self.runtime.outbox.enter(
            ("v", self.record.request_id, self.attempt.number, int(time.time() * 1000), outcome.value)
        )

    # -- the end --

    def _settle(self, status: int, code: str) -> None:
        """The one end of every request."""
        self.over = True
        if self.reserved:  # an end that this file does not know: rather an estimate than nothing
            reported, output = (None, 0) if self.relay is None else (self.relay.usage, self.relay.output_chars)
            self._book(reported, output, booking.UNSETTLED)
        runtime = self.runtime
        runtime.exchanges.discard(self)
        record = self.record
        record.status = status
        record.code = code
        record.ended_at = time.monotonic()
        if self.hold is not None:
            if record.sent_at > 0:
                used = record.usage
                tokens = 0 if used is None else used.input + used.output
                self.hold.end(record.ended_at, tokens, self.cost_nano, self.began_ms or int(record.wall * 1000))
            else:
                self.hold.cancel()
        if self.room is not None:
            self.room.end(record.ended_at)
        record.cost_nano = self.cost_nano
        record.priced = self.priced
        if record.routing is NOBODY:  # refused, or left, before anybody was to answer
            decision = self.decision
            record.routing = self.asking() if decision is None else routing_of(self.asking(), decision, None)
        if record.trace is not None and self.relay is not None and not self.held:
            record.trace.chunks = self.relay.chunks
        runtime.outbox.ended(record)
        if self.decision is not None:
            runtime.remember(Remembered(record, self.values, self.available, self.snapshot, self.pinned, self.serving))
            records = runtime.records
            if records is not None and records.takes(record.request_id):
                records.add(self._settled())

    def _settled(self) -> Settled:
        """The request for its decision record. HOT where records are on."""
        serving, asked = self.serving, self.asked
        return Settled(
            self.record,
            self.decision,
            self.snapshot,
            self.available,
            serving.doubted,
            self.pinned,
            self.values,
            self.signals,
            self.envelope,
            serving.site.policies,
            asked.tenant,
            asked.hints,
            self.failures,
        )

    def asking(self) -> Routing:
        """What is told of it before anything was decided."""
        envelope = self.envelope
        if envelope is None:  # the body was refused
            return asking_of(self.asked.tenant, "", stream=False)
        return asking_of(self.asked.tenant, envelope.model_asked, stream=envelope.stream)
