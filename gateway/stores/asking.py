"""One request at limits that replicas share: what it asks the store, what is made of the answer, what it then holds.

The connection, the picture of all limits and what happens while the store is away are in `shared`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gateway.core.money.admission import Gate, Hold, Refused, refused
from gateway.core.money.limits import Budget, Limit
from gateway.stores.resp import Reply, Said
from gateway.stores.script import ADMITTED, ANOTHER, REBUILDING, REFUSED, UNKNOWN
from gateway.stores.store import Told

if TYPE_CHECKING:
    from gateway.stores.forms import Session
    from gateway.stores.shared import Shared

#: Microseconds after which to ask again where nobody can tell now.
SOON_US = 1_000_000
#: How often a request is asked for: the store may not know this replica, or be in another period than it.
_TRIES = 3
#: Seconds for which telling of an end may be put off: less than a lease, after which it is told otherwise.
_END_S = 2.0

#: What a request gives back: places, requests, tokens, money; and when it took them. See `Form.settle`.
What = tuple[int, int, int, int, int]


class SharedHold(Hold, eq=False, gc=False):
    """What a request holds of shared limits."""

    store: Shared = None  # type: ignore[assignment]
    alone: bool = False  # taken while the store was away: rates there were not drawn on
    since_us: int = 0  # when it was taken, and when its money was; by the clock of the server
    paid_us: int = 0

    def take_over(self, other: Hold) -> None:
        """As of any hold; its money is of the period in which it was last asked for."""
        super().take_over(other)
        if isinstance(other, SharedHold):
            self.paid_us = max(self.paid_us, other.paid_us)

    def charge(self, spent: int, at_ms: int) -> None:
        """As of any hold, by the clock that says which period it is."""
        super().charge(spent, self._dated(at_ms))

    def _dated(self, at_ms: int) -> int:
        """When an attempt began by the clock of the server: not before there was money for it."""
        return max(self.paid_us // 1_000, at_ms + self.store.clock.ahead_ms())

    def end(self, now_s: float, used: int = 0, spent: int = 0, at_ms: int = 0) -> None:
        """The request is over: everybody is told. HOT where limits are shared."""
        gate = self.gate
        if gate is None:
            return
        super().end(now_s, used, spent, self._dated(at_ms) if gate.budgets else 0)
        by = 0 if self.alone else used - self.tokens
        self.store.settle(gate, (1, 0, by, self.need, self.since_us))

    def cancel(self) -> None:
        """It was never sent: everybody is told."""
        gate = self.gate
        if gate is None:
            return
        super().cancel()
        requests, tokens = (0, 0) if self.alone else (-1, -self.tokens)
        self.store.settle(gate, (1, requests, tokens, self.need, 0))


class Asked:
    """A request that waits for the store's answer."""

    __slots__ = ("bound", "gate", "need", "now_ms", "since_s", "store", "tokens", "told", "tries")

    def __init__(
        self, store: Shared, gate: Gate, amounts: tuple[int, int], when: tuple[float, float], told: Told
    ) -> None:
        """`amounts` are tokens and money; `when` is monotonic seconds, and Unix milliseconds."""
        self.store = store
        self.gate = gate
        self.tokens, self.need = amounts
        self.since_s, self.now_ms = when
        self.told = told
        self.tries = 1
        self.bound = False

    def answer(self, reply: Reply) -> None:
        """Tell who asked. HOT where limits are shared."""
        store, gate = self.store, self.gate
        if reply.__class__ is not list:
            again = self.make if isinstance(reply, Said) and reply.kind == "TRYAGAIN" else self.again
            if store.put_off.take(reply, again, self.since_s, store.settings.timeout_s):
                self.bind(reply)  # type: ignore[arg-type]
                return
        now_s = time.monotonic()
        answer = store.numbers("admit", reply)
        if answer is None:
            self.told(store.locally(gate, self.tokens, self.need, now_s, self.now_ms))
            return
        form = store.form(gate)
        status = answer[0]
        if status in (UNKNOWN, ANOTHER) and self.tries < _TRIES and store.up:
            self.tries += 1
            if status == UNKNOWN:
                store.enter(form)
            else:
                store.follow_to(form, answer)
            store.ask(store.form(gate), self)
            return
        if status == ADMITTED:
            store.see(form, answer, now_s)
            self.told(store.hold(form, answer, self.tokens, self.need))
        elif status == REFUSED:
            store.see(form, answer, now_s)
            limit = form.limits[answer[1] - 1]
            self.told(_refused(limit, answer[2], self.need, answer[4] / 1_000))
        elif status == REBUILDING:
            self.told(Refused(form.limits[answer[1] - 1], SOON_US, unknown=True))
        else:  # what is held from now on would be given back there, where it is not known
            store.numbers("admit", Said("it does not know what it is told"))
            self.told(store.locally(gate, self.tokens, self.need, now_s, self.now_ms))

    def again(self) -> None:
        """Ask once more."""
        self.store.ask(self.store.form(self.gate), self)

    def make(self) -> None:
        """Ask once more. What nobody has asked for yet may be at neither end: then it is made, or nobody could tell."""
        if self.tries == 1:
            self.tries = 2
            self.store.enter(self.store.form(self.gate))
        self.again()

    def bind(self, why: Exception) -> None:
        """It was put off: all its tries together take no longer than one may."""
        if not self.bound:
            self.bound = True
            timer = self.store.put_off.bind(why, self.since_s + self.store.settings.timeout_s)
            told = self.told

            def in_time(got: Hold | Refused) -> None:
                timer.cancel()
                told(got)

            self.told = in_time


class Ended:
    """A request that is over, of which the store is told."""

    __slots__ = ("gate", "session", "since_s", "store", "what")

    def __init__(self, store: Shared, gate: Gate, what: What) -> None:
        self.store = store
        self.gate = gate
        self.what = what
        self.session: Session | None = store.session  # on which it is told; None: it is told as part of all there is
        self.since_s = 0.0  # when that was first put off

    def answer(self, reply: Reply) -> None:
        """It was told, or not. HOT where limits are shared."""
        if reply.__class__ is not list:
            self.since_s = self.since_s or time.monotonic()
            self.store.untold(self.gate)
            if self.store.put_off.take(reply, self.again, self.since_s, _END_S):
                return
        self.store.numbers("settle", reply)

    def untold(self) -> None:
        """Nobody can be told now."""
        self.session = None
        self.store.untold(self.gate)
        self.store.put_off.hold(self.again)

    def again(self) -> None:
        """Tell it; of rates alone where all else was told as a whole."""
        store = self.store
        if self.session is not store.session:
            _, requests, tokens, _, since_us = self.what
            if not requests and not tokens:
                return
            self.session = store.session
            self.what = 0, requests, tokens, 0, since_us
        if store.up:
            store.tell(self)


def _refused(limit: Limit, wait_us: int, need: int, now_ms: float) -> Refused:
    return refused(limit, need, now_ms) if isinstance(limit, Budget) else Refused(limit, wait_us)
