"""Where a request meets its limits: admitted before anything is sent, charged for what it used, let go at its end.

A key's and its team's limits are asked once for each request, a target's once for each attempt. What limits are is in
`core.admission`, what a request can cost at most in `core.quotes`; who has none comes here only to find that out.
"""

from __future__ import annotations

import time

import msgspec

from gateway.core import quotes, wire
from gateway.core.admission import Budget, Gate, Rate, Refused
from gateway.core.errors import RateLimited, Unavailable
from gateway.core.quotes import Quote
from gateway.core.types import Outcome
from gateway.core.usage import BYTES_PER_TOKEN
from gateway.proxy.route import Route
from gateway.proxy.routing import routing_of
from gateway.proxy.settling import Settling

_WORDS = {
    "rpm": "The limit of {limit} requests a minute of this {scope} is reached.",
    "tpm": "The limit of {limit} tokens a minute of this {scope} is reached.",
    "max_concurrent": "This {scope} may have {limit} requests under way at one time, and has.",
}
_WHOSE = {"key": "key", "team": "key's team", "target": "target"}


class Limited(RateLimited):
    """A refusal by one of our own limits. `lasting`: only a new period heals it, so a client had better not retry."""

    lasting = False


class Admitting(Settling):
    """What a request takes of limits, and when."""

    def _admit(self) -> None:
        """Pass all limits of the key and its team, or raise `Limited`. HOT for keys that have some."""
        record = self.record
        runtime = self.runtime
        gate = self.serving.gates[self.asked.tenant.key]
        if record.wall >= runtime.gates.turns_at:
            runtime.gates.turn(record.wall)
        self.began_ms = now_ms = int(record.wall * 1000)
        tokens = need = 0
        if gate.tokens or gate.budgets:
            quote = self._quoted()
            envelope = self.envelope
            if gate.tokens:
                usual = self.decision.candidates[0].typical_output_tokens
                expected = usual if not quote.asked or usual < quote.asked else quote.asked
                tokens = envelope.size // BYTES_PER_TOKEN + expected * envelope.choices
            if gate.asks_cost:
                if runtime.ledger is not None and runtime.ledger.failing and gate.hard:
                    raise Unavailable(
                        "store_unavailable", "What this would cost cannot be booked now.", retry_after_s=1
                    )
                need = self._need(gate, quote)
        got = gate.admit(tokens, need, int(record.started_at * 1_000_000), now_ms)
        if type(got) is Refused:
            raise _error(got)
        self.hold = got  # type: ignore[assignment]

    def _quoted(self) -> Quote:
        """What the request can cost, but for its prompt. Remembered with the decision."""
        first = self.decision.candidates[0]
        routing = self.routings.get(first.name)
        if routing is None:
            routing = self.routings[first.name] = routing_of(self._asking(), self.decision, first)
        quote = routing.quote
        if quote is None:
            quote = routing.quote = quotes.quote(self.decision, quotes.asked_output(self.envelope))
        return quote  # type: ignore[no-any-return]

    def _longest_input(self) -> int:
        """A bound of the prompt in tokens, whoever counts."""
        if self.signals is None or quotes.textual(self.envelope):
            return self.envelope.quick_tokens
        return max(self.signals.tokens(one.model.tokenizer).hi for one in self.decision.candidates)

    def _need(self, gate: Gate, quote: Quote) -> int:
        """What the dearest candidate can cost, after the answer was shortened to what is left, if it had to be. HOT."""
        decision, asked, choices = self.decision, quote.asked, self.envelope.choices
        entered, left = self._longest_input(), gate.affordable()
        need = quote.most(entered) if choices == 1 else None
        if need is not None and (left is None or need <= left):
            return need
        found = list(quotes.reaches(decision, entered, asked, choices))
        need = quotes.dearest(found)
        if left is None or need <= left:
            return need
        limit = quotes.clamped(decision, found, left, choices)
        least = min(asked, quotes.LEAST_OUTPUT) if asked else quotes.LEAST_OUTPUT
        if limit is None or limit < least:
            return need
        self._clamp(limit)
        return quotes.dearest(quotes.reaches(decision, entered, limit, choices))

    def _clamp(self, limit: int) -> None:
        """Go on with a request that asks for no longer answer than this."""
        envelope = self.envelope
        names = [name for name in quotes.OUTPUT_LIMITS if envelope.get(name)] or [quotes.OUTPUT_LIMITS[0]]
        value = msgspec.json.encode(limit)
        self.envelope = wire.parse(wire.emit(envelope, dict.fromkeys(names, value)))
        self.around = None  # was made of the request as it came
        self.clamped = limit

    def _again(self) -> RateLimited | None:
        """Why no further attempt may be made."""
        refused = None if self.hold is None else self.hold.again(int(time.time() * 1000))
        return None if refused is None else _error(refused)

    def _enters(self, route: Route, gate: Gate) -> bool:
        """Pass the limits of a target, or go on to the next one."""
        first = route.first.target
        tokens = self.envelope.size // BYTES_PER_TOKEN + first.typical_output_tokens if gate.tokens else 0
        got = gate.admit(tokens, 0, int(time.monotonic() * 1_000_000), 0)
        if type(got) is Refused:
            self.wait_s = min(self.wait_s, got.retry_after_s)
            self._failed(Outcome.LIMITED, retry_after_s=self.wait_s)
            return False
        self.room = got  # type: ignore[assignment]
        return True

    def _limits_told(self) -> bytes:
        """Headers that say how much of the tightest limits is left. HOT for keys that have some."""
        requests, tokens = self.serving.gates[self.asked.tenant.key].tightest()
        now_us = int(time.monotonic() * 1_000_000)
        told = b"" if requests is None else _told(requests, b"requests", now_us)
        if tokens is not None:
            told += _told(tokens, b"tokens", now_us)
        return told if not self.clamped else b"%bx-pointsman-max-tokens: %d\r\n" % (told, self.clamped)

    def _failed(
        self, outcome: Outcome, *, retry_after_s: float | None = None, relayed: tuple[int, str, bytes] | None = None
    ) -> None:
        """The present attempt is over; ask what follows. `relayed` is the upstream's own refusal, if it gave one."""
        raise NotImplementedError


def _told(rate: Rate, what: bytes, now_us: int) -> bytes:
    left, full_ms = rate.told(now_us)
    return b"x-ratelimit-limit-%b: %d\r\nx-ratelimit-remaining-%b: %d\r\nx-ratelimit-reset-%b: %d.%03ds\r\n" % (
        what,
        rate.limit,
        what,
        left,
        what,
        full_ms // 1000,
        full_ms % 1000,
    )


def _error(refused: Refused) -> Limited:
    """What a client is told."""
    limit = refused.limit
    whose = _WHOSE[limit.scope]
    if isinstance(limit, Budget):
        what = "is spent" if refused.spent else "is set aside for requests under way"
        error = Limited("budget_exceeded", f"What is left of the budget of this {whose} {what}.")
        error.lasting = refused.spent
    else:
        number = getattr(limit, "limit", 0)
        error = Limited("rate_limit_exceeded", _WORDS[limit.of].format(limit=number, scope=whose))
    error.retry_after_s = refused.retry_after_s
    return error
