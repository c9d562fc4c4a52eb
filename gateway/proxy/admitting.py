"""Where a request meets its limits: admitted before anything is sent, charged for what it used, let go at its end.

A key's and its team's limits are asked once for each request, a target's once for each attempt. What limits are is in
`core.money.admission`, what a request can cost at most in `core.money.quotes`; who has none comes here only to find
that out.
"""

from __future__ import annotations

import time

import msgspec

from gateway.core.decisions.memo import Kept
from gateway.core.errors import GatewayError, RateLimited, Unavailable, of_code
from gateway.core.money import quotes
from gateway.core.money.admission import SOON_S, Gate, Hold, Refused, refused
from gateway.core.money.limits import Budget, Limit
from gateway.core.money.pricing import dollars
from gateway.core.money.quotes import Quote
from gateway.core.money.usage import BYTES_PER_TOKEN
from gateway.core.request import wire
from gateway.core.types import Attempt, Outcome
from gateway.proxy import bounding
from gateway.proxy.bounding import Bound
from gateway.proxy.route import Route
from gateway.proxy.settling import Settling
from gateway.times import a_period, moment

_WORDS = {
    "rpm": "The limit of {limit} request{s} a minute of this {scope} is reached.",
    "tpm": "The limit of {limit} token{s} a minute of this {scope} is reached.",
    "max_concurrent": "This {scope} may have {limit} request{s} under way at one time, and has.",
}
_WHOSE = {"key": "key", "team": "key's team", "target": "target"}


class Limited(RateLimited):
    """A refusal by one of our own limits. `lasting`: only a new period heals it, so a client had better not retry."""

    lasting = False


class Admitting(Settling):
    """What a request takes of limits, and when."""

    bound: Bound | None = None  # of the prompt, where the size of the body alone did not fit into a budget

    def _admit(self, kept: Kept) -> bool:
        """Pass all limits of the key and its team, or raise why not; False where that is told later.

        HOT for keys that have some.
        """
        gate: Gate = self.asked.gate  # type: ignore[assignment]  # who has none does not come here
        record, runtime, envelope = self.record, self.runtime, self.envelope
        gates = runtime.gates
        wall = record.wall
        if wall >= gates.turns_at:
            gates.turn(wall)
        quote = kept.quote
        if quote is None:
            quote = kept.quote = quotes.quote(self.decision, quotes.asked_output(envelope))
        size, choices = envelope.size, envelope.choices
        tokens, need = size // BYTES_PER_TOKEN + quote.expected * choices, 0
        if gate.asks_cost:
            ledger = runtime.ledger
            if ledger is not None and ledger.failing and gate.hard:
                raise Unavailable("store_unavailable", "What this would cost cannot be booked now.", retry_after_s=1)
            # Only what is text alone is kept, see `Memo.key`.
            need = quote.need(size) if size <= quote.upto and choices == 1 and kept.limit else self._most(quote)
        got: Hold | Refused | None
        if gates.store.remote:
            self.quote, need = quote, self._fitting(quote, need)
            self.asked_for = tokens, need
            got = gates.store.admit(gate, tokens, need, record.started_at, wall * 1e3, self._admitted)
            if got is None:
                return False
        else:
            got = gate.admit(tokens, need, record.started_at, wall * 1e3)
            if type(got) is Hold:
                self.hold = got
                return True
            if got.limit.of == "budget":  # type: ignore[union-attr]
                got = gate.admit(tokens, self._fitting(quote, need), record.started_at, wall * 1e3)
        if type(got) is Refused:
            self.clamped = 0  # nobody gets an answer, so none is shortened
            raise self._refused(got)
        self.hold = got  # type: ignore[assignment]
        return True

    def _turn_away(self, size: int) -> None:
        """Raise `Limited` where a limit would refuse whatever is asked for, before anything is read of it.

        `size` is the body's, in bytes. So a flood over a limit costs no decisions. Takes nothing: `_admit` does.
        """
        runtime = self.runtime
        gate = self.asked.gate
        if gate is not None and not runtime.gates.store.remote:
            refused = gate.turns_away(size // BYTES_PER_TOKEN, self.record.started_at)
            if refused is not None:
                raise _error(refused, self.asked.tenant.key)

    def _admitted(self, got: Hold | Refused) -> None:
        """What a store said that had to be asked. HOT where limits are shared."""
        if self.over:
            _give_back(got)
            return
        try:
            if isinstance(got, Refused):
                if self._less(got):
                    return
                self.clamped = 0
                raise self._refused(got)
            self.hold = got
            self._depart()
        except GatewayError as error:
            self._refuse(error)
        except Exception:
            self.on_defect()

    def _less(self, refused: Refused) -> bool:
        """Ask once more, where by what is now known to be left a shorter answer may fit."""
        (tokens, need), gate, quote = self.asked_for, self.asked.gate, self.quote
        if not need or refused.limit.of != "budget" or refused.unknown or self.attempted:
            return False
        if gate is None or quote is None:
            return False
        self.attempted = True
        less = self._fitting(quote, self._most(quote))
        if less >= need:
            return False
        self.asked_for = tokens, less
        store, now_ms = self.runtime.gates.store, self.record.wall * 1000
        got = store.admit(gate, tokens, less, time.monotonic(), now_ms, self._admitted)
        if got is not None:
            self._admitted(got)
        return True

    def _longest_input(self) -> int:
        """A bound of the prompt in tokens, whoever counts."""
        if self.signals is None or quotes.textual(self.envelope):
            return self.envelope.quick_tokens
        return max(self.signals.at_most(one.model.tokenizer)[0] for one in self.decision.candidates)

    def _most(self, quote: Quote) -> int:
        """What the dearest candidate can cost."""
        entered, choices = self._longest_input(), self.envelope.choices
        need = quote.most(entered) if choices == 1 else None
        return quotes.dearest(quotes.reaches(self.decision, entered, quote.asked, choices)) if need is None else need

    def _fitting(self, quote: Quote, need: int) -> int:
        """The same after the answer was shortened to what is left, if it has to be."""
        gate, decision, asked, choices = self.asked.gate, self.decision, quote.asked, self.envelope.choices
        left = None if gate is None else gate.affordable()
        if left is None or need <= left:
            return need
        entered, least = self._longest_input(), bounding.least_of(asked)
        # What may be more than the whole budget is told so for good, and by the size alone that may not be true.
        whole = min(budget.limit for budget in gate.hard)  # type: ignore[union-attr]  # or nothing would be left
        never = quotes.dearest(quotes.reaches(decision, entered, least, choices)) > whole
        self.bound = bounding.closer(self, entered, whole if never else left, least)
        if self.bound.tokens < entered:
            entered = self.bound.tokens
            need = quotes.dearest(quotes.reaches(decision, entered, asked, choices))
            if need <= left:
                return need
        limit = quotes.clamped(decision, quotes.reaches(decision, entered, asked, choices), left, choices)
        if limit is None or limit < least:
            if self.runtime.gates.store.remote:
                return need
            # It is refused, and by the least that would do is told whether it can ever pass.
            return max(left + 1, quotes.dearest(quotes.reaches(decision, entered, least, choices)))
        self._clamp(limit)
        return quotes.dearest(quotes.reaches(decision, entered, limit, choices))

    def _refused(self, refused: Refused) -> GatewayError:
        """What a client is told, with what its request may cost where that is what is too much."""
        error = _error(refused, self.asked.tenant.key)
        limit = refused.limit
        if isinstance(limit, Budget) and refused.spent and (refused.never or limit.gone < limit.limit):
            bound = self.bound or bounding.Bound(self._longest_input())
            asked = quotes.asked_output(self.envelope)
            left = limit.limit - (0 if refused.never else limit.gone)
            error.message += bounding.told(bound, self.decision, asked, self.envelope.choices, left)
            if bound.loading and isinstance(error, Limited):
                error.lasting, error.retry_after_s = False, SOON_S
        return error

    def _clamp(self, limit: int) -> None:
        """Go on with a request that asks for no longer answer than this."""
        envelope = self.envelope
        names = [name for name in quotes.OUTPUT_LIMITS if envelope.get(name)] or [quotes.OUTPUT_LIMITS[0]]
        value = msgspec.json.encode(limit)
        self.envelope = wire.parse(wire.emit(envelope, dict.fromkeys(names, value)))
        self.around = None  # was made of the request as it came
        self.clamped = limit

    def _again(self) -> bool:
        """Whether limits have room for a further attempt, after some that may have cost something; told later if not.

        What they cost is spent, so that of what is set aside there is too little by as much: that is asked for anew.
        """
        hold, cost = self.hold, self.cost_nano - self.accounted_nano
        if hold is None or hold.gate is None or not cost:
            return True
        self.accounted_nano = self.cost_nano
        self.asked_for = 0, hold.need
        store = self.runtime.gates.store
        freed = hold.release(cost)
        store.released(hold, freed)
        if not freed:
            return True
        money = Gate(budgets=hold.gate.budgets)
        got = store.admit(money, 0, freed, time.monotonic(), int(time.time() * 1000), self._renewed)
        if got is not None:
            self._renewed(got)
        return False

    def _renewed(self, got: Hold | Refused) -> None:
        """What is said of the money for a further attempt."""
        hold = self.hold
        if self.over or hold is None:
            _give_back(got)
            return
        try:
            if isinstance(got, Hold):
                hold.take_over(got)
                self._follow()
                return
            limit = got.limit
            if isinstance(limit, Budget) and not got.unknown:  # when all of what it needs fits
                got = refused(limit, self.asked_for[1], self.runtime.gates.store.date(time.time()) * 1000)
            self._cease(_error(got, self.asked.tenant.key))
        except Exception:
            self.on_defect()

    def _enters(self, route: Route, gate: Gate) -> bool:
        """Pass the limits of a target, or go on to the next one; False where that is told later, too."""
        first = route.first.target
        tokens = self.envelope.size // BYTES_PER_TOKEN + first.typical_output_tokens if gate.tokens else 0
        store = self.runtime.gates.store
        got = store.admit(gate, tokens, 0, time.monotonic(), 0, self._entered)
        if got is None:
            return False
        if type(got) is Refused:
            self._full(got)
            return False
        self.room = got  # type: ignore[assignment]
        return True

    def _full(self, refused: Refused) -> None:
        self.wait_s = min(self.wait_s, refused.retry_after_s)
        self._failed(Outcome.LIMITED, retry_after_s=self.wait_s)

    def _entered(self, got: Hold | Refused) -> None:
        """What a store said of a target that had to be asked."""
        if self.over:
            _give_back(got)
            return
        try:
            if isinstance(got, Refused):
                self._full(got)
                return
            self.room = got
            self._send(self.route, self.attempt)
        except Exception:
            self.on_defect()

    def _limits_told(self) -> bytes:
        """Headers that say how much of the tightest limits is left. HOT for keys that have some."""
        gate: Gate = self.asked.gate  # type: ignore[assignment]
        told = gate.told(self.record.first_event_at or time.monotonic())
        if self.clamped:
            told += b"x-pointsman-max-tokens: %d\r\n" % self.clamped
        return told if not self.runtime.gates.store.degraded else told + b"x-pointsman-degraded: store\r\n"

    def _depart(self) -> None:
        """Send the request that has passed its limits."""
        raise NotImplementedError

    def _send(self, route: Route, attempt: Attempt) -> None:
        """Make an attempt."""
        raise NotImplementedError

    def _follow(self) -> None:
        """Make the attempt that follows."""
        raise NotImplementedError

    def _cease(self, error: GatewayError) -> None:
        """Make no further attempt."""
        raise NotImplementedError

    def _refuse(self, error: GatewayError, *, exhausted: bool = False) -> None:
        """Answer with an error."""
        raise NotImplementedError

    def on_defect(self) -> None:
        """The exception being handled is ours."""
        raise NotImplementedError

    def _failed(
        self, outcome: Outcome, *, retry_after_s: float | None = None, relayed: tuple[int, str, bytes] | None = None
    ) -> None:
        """The present attempt is over; ask what follows. `relayed` is the upstream's own refusal, if it gave one."""
        raise NotImplementedError


def _give_back(got: Hold | Refused) -> None:
    """Nobody waits any more for what a store has let through."""
    if isinstance(got, Hold):
        got.cancel()


def not_priced(gate: Gate, key: str) -> GatewayError:
    """Nothing that may serve a request has a price, and the first of the hard budgets of `gate` is in the way."""
    whose = _whose(gate.hard[0], key)
    what = f"This {whose} has a hard budget, and what may serve the request has no price."
    return of_code("model_not_priced", what)


def _whose(limit: Limit, key: str) -> str:
    """Whose a limit is that binds this key, in words."""
    return "key's maker" if limit.scope == "key" and limit.name != key else _WHOSE[limit.scope]


def _left(budget: Budget) -> str:
    """What is left of a budget, for its own holder."""
    left, most = dollars(max(0, budget.limit - budget.gone)), dollars(budget.limit)
    return f" {left} of {most} {a_period(budget.per)} is left until {moment(budget.ends_ms / 1000)}."


def _error(refused: Refused, key: str) -> GatewayError:
    """What the holder of this key is told: of budgets of others not how much is left."""
    limit = refused.limit
    whose = _whose(limit, key)
    if refused.unknown:
        what = f"What is left of the budget of this {whose} cannot be told now."
        return Unavailable("store_unavailable", what, retry_after_s=refused.retry_after_s)
    error: Limited
    if isinstance(limit, Budget):
        if refused.never:
            what = f"This may cost more than the whole budget of this {whose}."
        elif not refused.spent:
            what = f"What is left of the budget of this {whose} is set aside for requests under way."
        elif limit.gone >= limit.limit:
            what = f"The budget of this {whose} is spent."
        else:
            what = f"This may cost more than is left of the budget of this {whose}."
        own = limit.scope == "key" and limit.name == key
        error = Limited("budget_exceeded", what + _left(limit) if own else what)
        error.lasting = refused.spent
    else:
        number = getattr(limit, "limit", 0)
        error = Limited(
            "rate_limit_exceeded", _WORDS[limit.of].format(limit=number, s="" if number == 1 else "s", scope=whose)
        )
    error.retry_after_s = None if refused.never else refused.retry_after_s
    return error
