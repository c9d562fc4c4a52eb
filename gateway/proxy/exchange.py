"""One request from its last byte on: decide, try targets in order until one answers, end before that where it must.

It performs and does not decide: `core.decide` chooses the candidates. How one target after the other is tried is in
`attempting`, how an answer is relayed in `relaying`, and how every request is settled in `settling`.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from gateway.core.decide import decide
from gateway.core.decisions.memo import Kept, Key
from gateway.core.decisions.trace import Trace, trace
from gateway.core.errors import GatewayError, Unavailable, UpstreamTimeout, of_code
from gateway.core.money import quotes
from gateway.core.policy import Policy
from gateway.core.reading.signals import Signals
from gateway.core.reading.sizes import NeedsCount
from gateway.core.request import wire
from gateway.core.request.largebody import Body
from gateway.core.request.largetree import Steps
from gateway.core.request.wire import Envelope
from gateway.core.resilience.conversations import conversation_of
from gateway.core.resilience.failover import LEAST_S
from gateway.core.targets.rank import draw
from gateway.core.types import Outcome, Snapshot
from gateway.proxy import bulk
from gateway.proxy.admitting import not_priced
from gateway.proxy.attempting import Attempting
from gateway.proxy.outside import look
from gateway.proxy.routing import routing_of

if TYPE_CHECKING:
    from concurrent.futures import Future

    from gateway.proxy.habit import Habit


class _TooLate(UpstreamTimeout):
    """Nothing was tried: with as little time it would be the same again."""


class Exchange(Attempting):
    """One request. Callbacks come from its client's connection and from its upstream's."""

    # -- deciding --

    def begin_large(self, body: Body) -> None:
        """`begin` with a body that takes several turns of the loop to read, so that others are served in between."""
        self.runtime.exchanges.add(self)
        try:
            if self.asked.gate is not None:
                self._turn_away(len(body))
        except GatewayError as error:
            self._refuse(error)
        else:
            self._read(wire.parse_steps(body))

    def _read(self, steps: Steps[Envelope]) -> None:
        if self.over:
            return
        try:
            envelope = bulk.advance(steps)
        except GatewayError as error:
            self._refuse(error)
        except Exception:
            self.on_defect()
        else:
            if envelope is None:
                self.runtime.loop.call_soon(self._read, steps)
            else:
                self.runtime.loop.call_soon(self._begin_read, envelope)

    def _begin_read(self, envelope: Envelope) -> None:
        if not self.over:
            self.begin(b"", envelope)

    def begin(self, body: bytes | bytearray, envelope: Envelope | None = None) -> None:
        """Take the complete request body, or what was read of it, and start work on it."""
        runtime = self.runtime
        runtime.exchanges.add(self)
        try:
            if runtime.ledger is not None and runtime.ledger.shut:
                raise Unavailable("store_unavailable", "The gateway cannot book requests now.", retry_after_s=1)
            habit = self.connection.habits.present
            if habit is not None and envelope is None and habit.asked is self.asked and len(body) <= habit.largest:
                envelope = habit.likeness.read(body)
                if envelope is not None and self._repeat(habit, envelope):
                    return
            if envelope is None:
                if self.asked.gate is not None:
                    self._turn_away(len(body))
                envelope = wire.parse(body)
            self._place(envelope)
        except GatewayError as error:
            self._refuse(error, exhausted=isinstance(error, _TooLate))
        except Exception:
            self.on_defect()

    def _repeat(self, habit: Habit, envelope: Envelope) -> bool:
        """Start with what was decided for others like this request, if the world has not changed since. HOT."""
        record, runtime = self.record, self.runtime
        available = runtime.board.available(self.serving.site.fleet, record.started_at)
        wall = record.wall
        if available != habit.available or wall >= habit.until or wall < habit.since:
            return False
        self.envelope = envelope
        self.available = available
        self.pinned = habit.pinned
        self.ends_at = ends_at = record.started_at + habit.total_s
        if ends_at < self.connection.due:  # else its clock is looked at in time, see `on_due` there
            runtime.wheel.arm(self.connection, habit.total_s)
        kept = habit.kept
        self.values = kept.values
        self.decision = kept.decision
        self.routings = kept.routings
        self.around = habit.around
        if self.asked.gate is None or self._admit(kept):
            # None, too, where its limits have made another request of it, whose answer is shorter.
            pool = habit.straight if self.around is not None else None
            if pool is None or pool.outstanding >= pool.most or runtime.board.entries or record.trace is not None:
                self._send(habit.route, habit.route.first)
            else:
                self._send_straight(habit, pool)
        return True

    def _place(self, envelope: Envelope) -> None:
        """Find out what the request may be served by, and start with the best of it."""
        self.envelope = envelope
        record = self.record
        serving = self.serving
        site = serving.site
        asked = self.asked
        hints = asked.hints
        tenant = asked.tenant
        policy, self.pinned = pinned = site.resolve(envelope.model_asked, hints.policy, tenant.policy)
        site.allow(tenant, envelope.model_asked, *pinned)
        if policy.name in serving.paced:
            self.runtime.measures = True
        total_s = site.timeouts.total_s
        if hints.timeout_s is not None:
            total_s = min(hints.timeout_s, total_s)
            if total_s < LEAST_S:
                raise _TooLate("upstream_timeout", "The time that this request leaves is less than any attempt takes.")
        self._clock(total_s)
        self.available = available = self.runtime.board.available(site.fleet, record.started_at)
        memo = serving.memo
        key = memo.key(envelope, policy, self.pinned, tenant, hints, available, record.wall)
        if policy.watches:
            key = self._look(policy, key)
        if key is not None:
            kept = memo.get(key, envelope)
            if kept is not None:
                self.values = kept.values
                self._start(kept)
                if not policy.watches:
                    self.connection.habits.learn(self, kept, total_s)
                return
        self._decide(policy, key)

    def _clock(self, total_s: float) -> None:
        self.ends_at = self.record.started_at + total_s
        self.runtime.wheel.arm(self.connection, total_s)

    def _look(self, policy: Policy, key: Key | None) -> Key | None:
        """Take in what the policy watches; and the memo's key with all of it that the decision can rest on."""
        seen = look(policy, self)
        self.watching = policy
        self.snapshot = seen.snapshot
        self.conversation = seen.conversation
        return None if key is None else (*key, seen.key)

    def _decide(self, policy: Policy, key: Key | None) -> None:
        runtime = self.runtime
        asked = self.asked
        record = self.record
        if self.signals is None:
            self.signals = Signals.of(
                self.envelope,
                tenant=asked.tenant,
                hints=asked.hints,
                headers=self.connection.sent_headers,
                tokenizers=runtime.tokenizers,
                lexicon=runtime.lexicon,
                now=record.wall,
                blocking=False,
            )
            kept = None if key is None else self.serving.memo.follow(key, self.envelope, self.signals)
            if kept is not None:
                self.values = kept.told(self.signals)
                self._start(kept)
                return
        snapshot = self.snapshot or Snapshot(
            now=record.wall,
            draw=draw(record.request_id, conversation_of(asked.hints, self.envelope), asked.tenant.key),
            available=self.available,
            latency_s=runtime.board.latency_s,
            doubted=self.serving.doubted,
        )
        try:
            decision = decide(policy, self.signals, snapshot, pinned=self.pinned)
            if decision.refusal is not None and decision.refusal[0] == "no_target_available":
                # Everything that may serve this is held back: rather try the least hopeless than nobody.
                key = None
                for mask in runtime.board.last_resort(self.serving.site.fleet, time.monotonic()):
                    self.available = mask
                    snapshot = replace(snapshot, available=mask)
                    decision = decide(policy, self.signals, snapshot, pinned=self.pinned)
                    if decision.refusal is None:
                        break
            self.snapshot = snapshot
            if asked.gate is not None and decision.refusal is None and asked.gate.hard:
                decision = quotes.priced(decision)
            elif decision.refusal is not None and asked.tenant.explain:
                told = trace(policy, self.signals, snapshot, pinned=self.pinned)
                decision = replace(decision, refusal=(decision.refusal[0], _detailed(decision.refusal[1], told)))
        except NeedsCount as work:
            counting = runtime.executor.submit(work.run)
            loop = runtime.loop
            counting.add_done_callback(lambda done: loop.call_soon_threadsafe(self._counted, policy, done))
            return
        kept = None if key is None else self.serving.memo.put(key, policy, decision, self.envelope, self.signals)
        if kept is not None:
            self.values = kept.values
            self._start(kept)
            return
        self.values = self.signals.computed()
        self._start(Kept(decision, 0, self.values))

    def _start(self, kept: Kept) -> None:
        """Begin with the first candidate; who comes after it is only worked out when it fails."""
        self.decision = decision = kept.decision
        self.routings = kept.routings
        if decision.refusal is not None:
            self.record.routing = routing_of(self.asking(), decision, None)
            if decision.refusal[0] == "model_not_priced" and self.asked.gate is not None:
                raise not_priced(self.asked.gate, self.asked.tenant.key)
            raise of_code(*decision.refusal)
        if self.asked.gate is None or self._admit(kept):
            self._depart()

    def _depart(self) -> None:
        decision = self.decision
        route = self.serving.routes[decision.candidates[0].index]
        self._send(route, route.first)
        if self.watching is not None and not self.over:
            if self.watching.latency:
                self.runtime.paces.sent(route.name, self.record.started_at)
            if decision.shadow is not None:
                self.runtime.shadows.send(decision, self.envelope, self.serving, self.record)

    def _counted(self, policy: Policy, done: Future[object]) -> None:
        if self.over:
            return
        try:
            done.result()
            self._decide(policy, None)
        except GatewayError as error:
            self._refuse(error)
        except Exception:
            self.on_defect()

    # -- the ends --

    def client_gone(self) -> None:
        """The client's connection is lost: cancel the upstream at once; nobody is blamed."""
        if self.over:
            return
        self._cancel(Outcome.CLIENT_GONE)
        self._settle(499, "client_gone")

    def out_of_time(self) -> None:
        """The total clock ran out."""
        if self.over:
            return
        if self.committed:
            self._cancel(Outcome.TOTAL_TIMEOUT, book=False)
            self._break(Outcome.TOTAL_TIMEOUT)
        else:
            self._cancel(Outcome.TOTAL_TIMEOUT)
            self._refuse(UpstreamTimeout("upstream_timeout", "No target answered in time."), exhausted=True)

    def drain(self) -> None:
        """The grace period of a shutdown is over: end now, typed."""
        if self.over:
            return
        if self.committed:
            self._cancel(Outcome.DRAINING, book=False)
            self._break(Outcome.DRAINING)
        else:
            self._cancel(Outcome.DRAINING)
            self._refuse(Unavailable("draining", "The gateway is shutting down.", retry_after_s=1))


def _detailed(message: str, told: Trace) -> str:
    """A refusal's text with every candidate's reason, for keys that may see them."""
    return f"{message} {told.refusal_detail()}."
