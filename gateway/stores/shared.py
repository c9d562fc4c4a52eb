"""Limits that several replicas share, kept in a Valkey or Redis; kept by this process alone while that is away.

What is kept there and done there is in `script`; how to reach it, and when to try again, in `breaker`. The limits of
this process are a picture of the shared ones as last heard, so that what clients are told is what is enforced. While
the store is away they are this replica's part, see `alone`. Everything this replica holds and has spent is known here,
and told when it comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial

from gateway.core.money.admission import Gate, Hold, Refused
from gateway.core.money.limits import Budget
from gateway.stores.alone import Alone
from gateway.stores.asking import SOON_US, Asked, Ended, SharedHold, What
from gateway.stores.breaker import Breaker
from gateway.stores.clock import StoreClock
from gateway.stores.forms import FRONT, Form, Session
from gateway.stores.link import Gone, Link
from gateway.stores.putoff import PutOff
from gateway.stores.registry import Registry
from gateway.stores.resp import Reply, Said
from gateway.stores.script import ANOTHER, OUTDATED, UNKNOWN
from gateway.stores.settings import StoreSettings
from gateway.stores.store import Told
from gateway.stores.telling import AT_ONCE, Owner, Telling, owner_of, worth
from gateway.telemetry import families
from gateway.telemetry.series import Kept, Rows

logger = logging.getLogger("pointsman")

TICK_S = 1.0
#: Seconds after which a lease is renewed, and after which a key that nobody uses gives back what it has leased.
BEAT_S, IDLE_S = 2.0, 60.0
#: Microseconds for which a new key with a hard budget waits for what others know of it. They notice within a tick.
WINDOW_US = 3_000_000
#: How often what a replica knows is told on a new connection, where the store is in another period than it.
TRIES = 3
#: What calls are named in metrics. `connect` is everything until the store can be used.
OPS = ("connect", "admit", "settle", "sync", "beat", "count")


class Shared:
    """A Valkey or Redis as the place of limits."""

    name = "redis"
    remote = True

    def __init__(self, loop: asyncio.AbstractEventLoop, settings: StoreSettings, replica: str) -> None:
        self.settings = settings
        self.replica = replica
        self._registry = Registry(settings, replica, 4 * TICK_S)  # a shorter lease: who it has shares limits now
        self.errors = dict.fromkeys(OPS, 0)
        self.degraded = True
        self._loop = loop
        self._breaker = Breaker(loop, settings, self)
        self.put_off = PutOff(loop, self._breaker)
        self._telling = Telling(self._tell_of)
        self.clock = StoreClock(settings)
        self.date = self.clock.date
        #: See `Gates.follow`, and `Gates.take_up` where that is due.
        self.follow: Callable[..., None] = _nobody
        self.learn: Callable[[], Awaitable[None]] = _nothing
        self._owners: dict[Owner, Gate] = {}
        self._forms: dict[Gate, Form] = {}
        self._alone = Alone()
        self._busy: dict[Owner, float] = {}  # when it was last asked for, of what has something there
        self._touched: set[Owner] = set()  # what changed here while it could not be told, or was being told
        self._heard: list[tuple[Form, list[int]]] = []  # before the store is in use
        self._lacking = 0  # which server is told, where it may lack what the last one had
        self._timer: asyncio.TimerHandle | None = None
        self.session = self._new_session(0)

    # -- life --

    @property
    def up(self) -> bool:
        """Can the store be asked?"""
        return not self.degraded

    async def start(self) -> None:
        """Connect, if that goes quickly; else go on alone until it does."""
        self._timer = self._loop.call_later(TICK_S, self._tick)
        await self._breaker.start()

    async def close(self) -> None:
        """Give back what is leased and leave."""
        if self._timer is not None:
            self._timer.cancel()
        link = self._breaker.link
        if self.up and link is not None:
            for owner in self._busy:
                if owner in self._owners:
                    link.call(*self.form(self._owners[owner]).call(b"yield", 0), _nobody)
            link.call(*self._registry.call(b"leave"), _nobody)
        await self._breaker.close()
        self.put_off.release()

    def _new_session(self, generation: int) -> Session:
        settings = self.settings
        lease_us = int(settings.lease_s * 1_000_000)
        return Session(settings.prefix, self.replica, generation, lease_us, WINDOW_US, settings.slice)

    def adopt(self, owners: Iterable[Gate]) -> None:
        """Take up the limits of a configuration; what is new is told soon."""
        before = self._owners
        self._owners = {owner_of(gate): gate for gate in owners if gate}
        self._forms.clear()
        self._alone.forget()
        if self.degraded:
            self._alone.begin(self._owners.values(), self._registry.count)
        self._soon(one for one, gate in self._owners.items() if before.get(one) != gate and (self.up or worth(gate)))

    def turned(self) -> None:
        """Periods have begun: nothing of them is known yet from others. What is not used is told when it is."""
        self._forms.clear()
        if self.degraded:
            for gate in self._owners.values():
                self._alone.lease(gate)
        self._soon(
            owner
            for owner, gate in self._owners.items()
            if gate.budgets and (owner in self._busy or any(one.spent for one in gate.budgets))
        )

    def _soon(self, owners: Iterable[Owner]) -> None:
        """Tell of these. A connection that is being made ready may have heard of them before they changed."""
        if self._breaker.link is None:
            self._touched.update(owners)
        else:
            self._telling.add(owners)

    def follow_to(self, form: Form, answer: list[int]) -> None:
        """The store is in other periods than this replica: take those it names, and by the calendar all others."""
        begun = exact = False
        for at, budget in enumerate(form.budgets):
            begins_ms, ends_ms = answer[FRONT + 2 * at : FRONT + 2 * at + 2]
            if not begins_ms:
                exact = True
            elif begins_ms != budget.begins_ms:
                budget.turn(begins_ms, ends_ms)
                begun = True
        jumped = self.clock.hear(answer[4])
        self.follow(self.clock.wall(), begun=begun, exact=exact, jumped=jumped)

    def state(self) -> dict[str, str | float]:
        """Whether the store is in use, and why not; and how far this machine's clock is from its, where it is."""
        return {**self._breaker.state(), **self.clock.told()}

    # -- what the breaker tells --

    def begin(self, generation: int, server: int) -> None:
        """A new connection: what is told on it is told from the beginning."""
        self._lacking = server
        self.session = self._new_session(generation)
        self._forms.clear()
        self._heard.clear()

    async def introduce(self, link: Link) -> None:
        """Tell what this replica knows and holds. Raises Gone or Said."""
        await link.ask(*self._registry.call(b"count"), done=self._count)
        await self.learn()
        touched, self._touched = self._touched, set()
        try:
            gates = [gate for owner, gate in self._owners.items() if worth(gate, owner in touched)]
            await self._tell(link, gates, server=self._lacking)
        except BaseException:
            self._touched |= touched
            raise
        for _ in range(TRIES):  # the rest is told before anything else is asked, all of it at once
            if len(self._touched) <= AT_ONCE:
                break
            touched, self._touched = self._touched, set()
            await self._tell(link, [self._owners[one] for one in touched if one in self._owners], anew=True)

    async def _tell(self, link: Link, gates: Sequence[Gate], *, anew: bool = False, server: int = 0) -> None:
        for at in range(0, len(gates), AT_ONCE):
            left = gates[at : at + AT_ONCE]
            for _ in range(TRIES):
                asked = []
                for form in map(self.form, left):
                    called = form.sync(self._registry.count, anew=anew, server=server)
                    asked.append(link.ask(*called, done=partial(self._entered, form)))
                answers = await asyncio.gather(*asked)
                left = [gate for gate, answer in zip(left, answers, strict=True) if answer[0] == ANOTHER]  # type: ignore[index]

    async def refresh(self) -> None:
        """Tell all that this replica knows, which is answered with what others have used."""
        link = self._breaker.link
        if self.up and link is not None:
            with contextlib.suppress(Gone, Said):  # what is known is shown, and the breaker has seen to the rest
                await self._tell(link, list(self._owners.values()))

    def back(self, link: Link) -> None:
        """The store can be used from now on."""
        now_s = time.monotonic()
        self._alone.end(now_s)
        self.degraded = False
        for form, answer in self._heard:
            ahead = [(one, one.ahead) for one in form.budgets]
            form.see(answer, now_s)
            for one, most in ahead:  # some of what was told as leased may have been spent since
                one.leased = min(one.leased, most)
        self._heard.clear()
        for owner in self._touched & self._owners.keys():
            self._busy[owner] = self._loop.time()
            self._tell_of(owner, tries=TRIES)
        self._touched.clear()
        self.put_off.release()
        logger.info("store %s is there: limits are shared, replicas: %d", self.settings, self._registry.count)

    def away(self, why: str) -> None:
        """The store cannot be used for now."""
        if self.degraded:
            return
        self.degraded = True
        self._alone.begin(self._owners.values(), self._registry.count)
        logger.warning(
            "store %s is away (%s): this replica keeps 1 in %d of each limit, and what it has leased of hard budgets",
            self.settings,
            why,
            self._registry.count,
        )
        self.put_off.release()

    def failed(self, op: str) -> None:
        """A call had no answer that can be used."""
        self.errors[op] += 1

    # -- alone --

    def locally(self, gate: Gate, tokens: int, need: int, now_s: float, now_ms: float) -> Hold | Refused:
        """Admit by what this replica may do by itself."""
        date_s = self.date(now_ms / 1_000)
        if any(date_s * 1_000 >= one.ends_ms for one in gate.budgets):
            self.follow(self.clock.wall())
        hard = next((one for one in gate.budgets if one.mode == "hard"), None)
        if self.up and hard is not None and need:
            return Refused(hard, SOON_US, unknown=True)
        got = gate.admit(tokens, need, now_s, date_s * 1_000)
        if isinstance(got, Refused):
            limit = got.limit
            if isinstance(limit, Budget) and limit.gone + need <= limit.limit:
                return Refused(limit, SOON_US, unknown=True)
            return got
        self._touched.update((one.scope, one.name) for one in (*gate.slots, *gate.budgets))
        return SharedHold(got.gate or gate, tokens, need, now_s, store=self, alone=True, paid_us=int(date_s * 1e6))

    # -- together --

    def admit(
        self, gate: Gate, tokens: int, need: int, now_s: float, now_ms: float, told: Told
    ) -> Hold | Refused | None:
        """Ask the store; at once where it is away. HOT where limits are shared."""
        if self.degraded:
            return self.locally(gate, tokens, need, now_s, now_ms)
        self.ask(self.form(gate), Asked(self, gate, (tokens, need), (time.monotonic(), now_ms), told))
        return None

    def ask(self, form: Form, asked: Asked) -> None:
        """Send the question of a request."""
        link = self._breaker.link
        if link is not None:
            link.call(*form.call(b"admit", asked.tokens, asked.need, form.heard_us), asked.answer)
        elif self.put_off.hold(asked.again):
            asked.bind(Gone("timeout"))
        else:
            asked.answer(Gone("away"))

    def hold(self, form: Form, answer: list[int], tokens: int, need: int) -> SharedHold:
        """A request was admitted, perhaps over limits in shadow mode that would have refused it. HOT."""
        gate = form.gate
        over, at_us = answer[3], answer[4]
        if over:
            gate = gate.without([one for at, one in enumerate(form.limits) if over >> at & 1])
        for slots in gate.slots:
            slots.used += 1
        for budget in gate.budgets:
            budget.left -= need
        now = self._loop.time()
        for owner in form.owners:
            self._busy[owner] = now
        return SharedHold(gate, tokens, need, now, store=self, since_us=at_us, paid_us=at_us)

    def settle(self, gate: Gate, what: What) -> None:
        """Tell what came of a request, see `Form.settle`; while the store is away later, as part of all."""
        self.tell(Ended(self, gate, what))

    def tell(self, ended: Ended) -> None:
        """Tell what came of a request, with totals as they are by now."""
        link = self._breaker.link
        if link is None:
            ended.untold()
            return
        form = self.form(ended.gate)
        if form.limits:
            link.call(*form.settle(*ended.what), ended.answer)

    def untold(self, gate: Gate) -> None:
        """What of it is under way or spent could not be told: it will be, as a whole."""
        self._touched.update((one.scope, one.name) for one in (*gate.slots, *gate.budgets))

    def released(self, hold: Hold, freed: int) -> None:
        """What an attempt cost is told before the next one leaves."""
        if hold.gate is not None and hold.gate.budgets:
            self.settle(hold.gate, (0, 0, 0, freed, 0))

    def form(self, gate: Gate) -> Form:
        """How a gate is written on the connection there is. HOT where limits are shared."""
        form = self._forms.get(gate)
        if form is None:
            form = self._forms[gate] = Form(gate, self.session)
        return form

    def enter(self, form: Form) -> None:
        """Tell of every key, team or target of a gate what this replica knows."""
        for owner in form.owners:
            self._telling.now(owner)

    def _tell_of(self, owner: Owner, then: Callable[[], object] = bool, *, tries: int = 0) -> bool:
        """Tell of one; where it is to be tried so often, also what has begun or ended since it was told of."""
        gate, link = self._owners.get(owner), self._breaker.link
        if gate is None or link is None:
            return False
        form = self.form(gate)

        def told(reply: Reply) -> None:
            self._synced(form, tries, reply)
            then()

        link.call(*form.sync(self._registry.count, anew=tries > 0), told)
        return True

    # -- answers --

    def numbers(self, op: str, reply: Reply) -> list[int] | None:
        """An answer of the script, None where there is none. An error that the server tells ends the connection."""
        if isinstance(reply, list) and reply:
            return reply  # type: ignore[return-value]
        if self._breaker.follow(reply):
            return None
        self.errors[op] += 1
        if not isinstance(reply, Gone):
            self._breaker.fail(reply if isinstance(reply, Exception) else Gone("protocol"))
        return None

    def _synced(self, form: Form, tries: int, reply: Reply) -> None:
        answer = self.numbers("sync", reply)
        if answer is not None:
            try:
                self._entered(form, answer)
            except Gone as why:
                self._breaker.fail(why)
            else:
                if answer[0] == ANOTHER and tries > 1:
                    self._tell_of(owner_of(form.gate), tries=tries - 1)

    def _entered(self, form: Form, answer: list[int]) -> None:
        if not form.fits(answer):
            raise Gone("protocol")
        if answer[0] == OUTDATED:
            self._breaker.outdo(answer[1])
            raise Gone("outdated")
        if answer[0] == ANOTHER:
            self.follow_to(form, answer)
        elif self.degraded:
            self._heard.append((form, answer))
        else:
            self.see(form, answer, time.monotonic())

    def _beaten(self, form: Form, reply: Reply) -> None:
        if isinstance(reply, Said) and reply.kind == "TRYAGAIN":  # of several keys: the next call says the same
            return
        answer = self.numbers("beat", reply)
        if answer is not None and answer[0] == UNKNOWN:
            self.enter(form)
        elif answer is not None and answer[0] == ANOTHER:
            self.follow_to(form, answer)
        elif answer is not None:
            self.see(form, answer, time.monotonic())

    def see(self, form: Form, answer: list[int], now_s: float) -> None:
        """Take over what an answer says. Who was told to make do with less says that it has heard. HOT."""
        link = self._breaker.link
        if form.see(answer, now_s) and link is not None:
            self._beat(link, form)

    def _beat(self, link: Link, form: Form) -> None:
        link.call(*form.call(b"beat", form.heard_us), partial(self._beaten, form))

    def _count(self, answer: list[int]) -> None:
        """How many replicas there are, and what time it is."""
        first = not self.clock.known
        if self.clock.hear(answer[2]):
            self.follow(self.clock.wall(), jumped=True, first=first)
        self._registry.hear(answer[1], self._loop.time(), anew=self.degraded or not answer[0])

    def _counted(self, reply: Reply) -> None:
        """Who is not known there any more tells all it knows: the store may have lost everything."""
        answer = self.numbers("count", reply)
        if answer is None:
            return
        self._count(answer)
        if not answer[0] and self.up:
            self._telling.add(owner for owner, gate in self._owners.items() if gate.budgets)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(TICK_S, self._tick)
        link = self._breaker.link
        if self.degraded or link is None:
            return
        link.call(*self._registry.call(b"count"), self._counted)
        now = self._loop.time()
        for owner, asked_at in list(self._busy.items()):
            gate = self._owners.get(owner)
            if gate is None:
                del self._busy[owner]
                continue
            idle_s = now - asked_at
            held = any(one.used for one in gate.slots) or any(one.reserved for one in gate.budgets)
            if idle_s > IDLE_S and not held:
                del self._busy[owner]
                for one in gate.budgets:
                    one.leased = 0
                link.call(*self.form(gate).call(b"yield", 0), partial(self._beaten, self.form(gate)))
            elif idle_s > BEAT_S:
                self._beat(link, self.form(gate))

    # -- what is told --

    def read(self) -> Iterator[Kept]:
        """What a scrape is told."""
        yield Rows(families.STORE_UP, [((self.name,), int(self.up))])
        yield Rows(families.STORE_CLOCK, [((self.name,), self.clock.off_s)])
        yield Rows(families.STORE_ERRORS, [((self.name, op), count) for op, count in self.errors.items()])


def _nobody(*_: object, **__: object) -> None:
    """Nobody waits for it."""


async def _nothing() -> None:
    """There are no books."""
