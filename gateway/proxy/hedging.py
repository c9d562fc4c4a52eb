"""Two attempts of one request beside each other, before the first event of either: a hedge.

The exchange has one attempt in hand, as always; here is the other one, parked: what an exchange keeps of an attempt,
and the callbacks of its connection. When something comes for it the two change places, the exchange does what it does
for any attempt, and they change back. So an attempt is begun, judged, relayed, given up and booked by the same code
whether it has a rival or not, and a request that has none pays for one look at an attribute. When a hedge may come is
`core.resilience.hedging`; whom it asks is the next in line of `core.resilience.failover`, bound by the same decision.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gateway.core.resilience.failover import LEAST_S, Ended
from gateway.core.types import Attempt, Outcome
from gateway.proxy.clocks import NEVER, Timed
from gateway.proxy.routing import routing_of

if TYPE_CHECKING:
    from gateway.proxy.attempting import Attempting
    from gateway.proxy.heads import AnswerHead
    from gateway.proxy.route import Route
    from gateway.proxy.upstream import UpstreamConnection

#: What an exchange keeps of the attempt in hand, and nothing of the request.
OF_AN_ATTEMPT = (
    "attempt", "began_ms", "endpoint", "link", "parts", "pool", "received", "relay", "resent_at", "reserved", "room",
    "route", "status", "tried", "upstream", "upstream_head",
)  # fmt: skip
_OF_ITS_TRACE = ("number", "target", "endpoint", "began_at")


class Race(Timed):
    """The hedge of one request: a clock until it comes, then the place of whichever attempt is not in hand."""

    __slots__ = ("exchange", "number", "parked")

    def __init__(self, exchange: Attempting, after_s: float) -> None:
        super().__init__()
        self.exchange = exchange
        self.parked: dict[str, Any] | None = None
        self.number = 0  # of the hedge's attempt, once there is one
        exchange.runtime.wheel.arm(self, after_s)

    # -- when it comes --

    def on_due(self, now: float) -> None:
        """The first attempt has not begun to answer in time."""
        exchange = self.exchange
        if exchange.over or exchange.committed or exchange.race is not self or exchange.upstream is None:
            return
        if not self._may(now):
            exchange.race = None
            exchange.runtime.metrics.hedge(exchange.route.name, "withheld")
            return
        tries = exchange.following()
        try:
            following = tries.send(Ended(Outcome.OUTRUN, exchange.ends_at - now))
        except StopIteration:  # nobody is left, or too many are on a second attempt already
            exchange.tries = exchange.race = None
            return
        self.number = following.number
        self.parked = self._in_hand()
        exchange.upstream.user = self
        exchange.around = None
        # What is the first attempt's, its place among those under way too, is not the second's to give back.
        exchange.relay = exchange.room = exchange.pool = exchange.upstream = None
        exchange.reserved = False
        exchange.parts = []
        target = following.target
        told = routing_of(exchange.asking(), exchange.decision, target, "was slower")
        exchange.routings = {**exchange.routings, target.name: told}  # a copy: others share it
        exchange.send(exchange.serving.routes[target.index], following)

    def _may(self, now: float) -> bool:
        """Whether there is somebody to ask who has room, and the share of hedges is not used up."""
        exchange = self.exchange
        runtime, route, candidates = exchange.runtime, exchange.route, exchange.decision.candidates
        if runtime.draining or exchange.ends_at - now < LEAST_S or (exchange.hold is not None and exchange.hold.need):
            return False  # the last: a hard budget has set aside what one answer costs, not two
        other: Route | None = route if len(route.pools) > 1 else None
        if other is None:
            behind = candidates[candidates.index(route.first.target) + 1 :]
            other = exchange.serving.routes[behind[0].index] if behind else None
        if other is not None and other.gate is not None and runtime.gates.store.remote:
            return False  # its limits would be asked for while the first attempt goes on
        if other is None or other.loaded or route.loaded or runtime.board.crowded(other.first.target, now):
            return False
        return runtime.hedges.take()

    # -- while there are two --

    def _in_hand(self) -> dict[str, Any]:
        exchange = self.exchange
        kept = {name: getattr(exchange, name, None) for name in OF_AN_ATTEMPT}
        kept["routing"] = exchange.record.routing
        traced = exchange.record.trace
        if traced is not None:
            kept["trace"] = [getattr(traced, name) for name in _OF_ITS_TRACE]
        return kept

    def _change_places(self) -> None:
        exchange = self.exchange
        parked, self.parked = self.parked, self._in_hand()
        self._take_up(exchange, parked or {})

    @staticmethod
    def _take_up(exchange: Attempting, kept: dict[str, Any]) -> None:
        for name in OF_AN_ATTEMPT:
            setattr(exchange, name, kept[name])
        exchange.record.routing = kept["routing"]
        if exchange.record.trace is not None and "trace" in kept:
            for name, value in zip(_OF_ITS_TRACE, kept["trace"], strict=True):
                setattr(exchange.record.trace, name, value)

    @property
    def on(self) -> bool:
        """Two attempts are under way."""
        return self.parked is not None

    def hedges(self, attempt: Attempt) -> bool:
        """This is the attempt that came second."""
        return attempt.number == self.number

    def left(self, outcome: Outcome) -> None:
        """The attempt in hand is over, and has been settled: go on with the other one alone."""
        exchange = self.exchange
        if self.hedges(exchange.attempt):
            exchange.runtime.metrics.hedge(exchange.route.name, "failed")
        elif not exchange.record.fallback_reason:
            exchange.record.fallback_reason = outcome.value
        parked, self.parked = self.parked, None
        exchange.race = None
        self._take_up(exchange, parked or {})
        if exchange.upstream is not None:
            exchange.upstream.user = exchange

    def decided(self) -> None:
        """The attempt in hand has its first event: the other one is told to stop and settled, once."""
        exchange = self.exchange
        self.due = NEVER
        if self.on:
            won = self.hedges(exchange.attempt)
            hedge = exchange.route.name if won else (self.parked or {})["route"].name
            exchange.runtime.metrics.hedge(hedge, "won" if won else "lost")
            exchange.record.answered = exchange.attempt.number
            if won and not exchange.record.fallback_reason:
                exchange.record.fallback_reason = Outcome.OUTRUN.value
            self.stop(Outcome.OUTRUN)
            if exchange.upstream is not None:
                exchange.upstream.user = exchange
        exchange.race = None

    def stop(self, outcome: Outcome) -> None:
        """End the attempt that is not in hand, and the race."""
        exchange = self.exchange
        self.due = NEVER
        exchange.race = None
        if self.parked is None:
            return
        self._change_places()
        pace, sent_at = exchange.route.pace, exchange.resent_at or exchange.record.sent_at
        if pace is not None and outcome is Outcome.OUTRUN and sent_at:
            pace.heard(time.monotonic() - sent_at)
        exchange.give_up(outcome)
        self._change_places()
        self.parked = None

    # -- what the parked attempt's connection says --

    def _for_the_other(self, call: Callable[..., None], *told: Any) -> None:
        if self.parked is None:
            return
        self._change_places()
        call(*told)
        if self.on:
            self._change_places()

    def on_sent(self, connection: UpstreamConnection) -> None:
        """As an exchange's, and so all that follow."""
        self._for_the_other(self.exchange.on_sent, connection)

    def on_whole(self, head: AnswerHead, body: bytes) -> None:
        """A complete answer that came in one read."""
        self._for_the_other(self.exchange.on_whole, head, body)

    def on_head(self, head: AnswerHead) -> None:
        """The answer's head."""
        self._for_the_other(self.exchange.on_head, head)

    def on_flood(self, data: bytes) -> int:
        """Many chunks: until one of the two is heard they are read one by one."""
        return 0

    def on_data(self, payload: bytes, raw: bytes | None) -> None:
        """Bytes of the answer's body."""
        self._for_the_other(self.exchange.on_data, payload, raw)

    def on_end(self) -> None:
        """The answer is complete."""
        self._for_the_other(self.exchange.on_end)

    def on_failed(self, outcome: Outcome) -> None:
        """The attempt is over without a complete answer."""
        self._for_the_other(self.exchange.on_failed, outcome)

    def on_defect(self) -> None:
        """An exception is being handled that came out of one of these calls."""
        self.exchange.on_defect()
