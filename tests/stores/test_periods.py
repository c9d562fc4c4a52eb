"""Periods of shared budgets go by the clock of the store, whatever those of replicas say. All clocks are virtual."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.core.money.admission import Hold, Refused
from gateway.core.money.limits import Allowance, Budget, Quota
from gateway.ledger import report
from gateway.ledger.directory import LedgerSettings
from gateway.proxy.gates import Gates
from gateway.quotas import Quotas
from gateway.stores.link import Gone
from gateway.stores.settings import StoreSettings
from gateway.stores.shared import Shared
from tests.stores.clocked import clocked, turn
from tests.valkey import Valkey

HOUR_S = 3_600
BEGAN = 500_000 * HOUR_S  # an hour begins
LIMIT = 1_000


class World:
    """One store with its clock, and what replicas did by it."""

    def __init__(self, server: Valkey) -> None:
        self.server = server
        self.now_s = BEGAN + 600
        self.costs: defaultdict[int, int] = defaultdict(int)  # by hour of the store: what ended, and what may yet cost
        server.ask("FLUSHALL")
        turn(server, self.now_s * 1_000_000)

    def days(self) -> dict[int, int]:
        found: defaultdict[int, int] = defaultdict(int)
        for hour, cost in self.costs.items():
            found[hour // 24] += cost
        return found

    def pass_by(self, seconds: int) -> None:
        self.now_s += seconds
        turn(self.server, self.now_s * 1_000_000)


@dataclass
class Replica:
    """A process: its limits, its store, its books, and a clock that is off."""

    world: World
    name: str
    off_s: int
    lease_s: float = 86_400.0
    day: int = 100 * LIMIT
    books: list[list[int]] = field(default_factory=list)  # when by its own clock, and the cost or what it may be
    holds: list[tuple[Hold, list[int], int]] = field(default_factory=list)

    def wall(self) -> float:
        return self.world.now_s + self.off_s

    async def start(self) -> None:
        where = LedgerSettings(Path(self.name))
        self.gates = gates = Gates()
        store = Shared(
            asyncio.get_running_loop(),
            StoreSettings("127.0.0.1", self.world.server.port, timeout_s=20, lease_s=self.lease_s, slice=0.05),
            self.name,
        )
        gates.store = self.store = store
        store.clock.wall = self.wall

        async def learn() -> None:
            if gates.stepped:
                await gates.take_up(where, self.wall())

        store.follow, store.learn = gates.follow, learn
        budgets = (Allowance(LIMIT, "hour"), Allowance(self.day, "day"))
        quotas = Quotas({"key": Quota(budgets=budgets)}, {}, {}, {})
        READ[where.directory] = self.books
        keys, _ = gates.adopt(quotas, gates.balances(quotas, where, self.wall()), self.wall())
        self.gate = keys["key"]
        await store.start()
        await self.quiet()

    async def quiet(self) -> None:
        """Until all that was asked is answered."""
        link = self.store._breaker.link
        while link is not None and not link.dead and link._waiting:  # noqa: ASYNC110
            await asyncio.sleep(0)

    @property
    def budget(self) -> Budget:
        return self.gate.budgets[0]

    async def admit(self, need: int, *, looks: bool = True) -> Hold | Refused:
        wall_s, told = self.wall(), asyncio.get_running_loop().create_future()
        if looks and wall_s >= self.gates.turns_at:
            self.gates.turn(wall_s)
        got = self.store.admit(self.gate, 0, need, 0, wall_s * 1e3, told.set_result)
        got = await told if got is None else got
        if isinstance(got, Hold):
            entry = [int(wall_s * 1_000), need]
            self.books.append(entry)
            hour = self.world.now_s // HOUR_S
            self.world.costs[hour] += need
            self.holds.append((got, entry, hour))
        await self.quiet()
        return got

    async def settle(self, cost: int) -> None:
        hold, entry, hour = self.holds.pop(0)
        self.world.costs[hour] += cost - entry[1]
        entry[1] = cost
        hold.charge(cost, entry[0])
        hold.end(0, 0, cost, entry[0])
        await self.quiet()

    async def look(self) -> None:
        """Once a second, and what is told every other second."""
        self.gates.look(self.wall())
        self.store._tick()
        link = self.store._breaker.link
        if link is not None:
            self.store._beat(link, self.store.form(self.gate))
        await self.quiet()

    def cut_off(self) -> None:
        if self.store._breaker.link is not None:
            self.store._breaker.link.end(Gone("test"))

    async def back(self) -> None:
        if not self.store.up:
            await self.store._breaker.start()
            await self.quiet()

    async def kill(self) -> None:
        self.holds.clear()  # the books have what they may have cost
        self.cut_off()
        self.store._timer.cancel()  # type: ignore[union-attr]
        await self.store._breaker.close()


READ: dict[Path, list[list[int]]] = {}


@pytest.fixture(autouse=True, scope="module")
def virtual() -> Iterator[SimpleNamespace]:
    """Monotonic clocks go as that of the store, and the books are lists."""
    clock = SimpleNamespace(world=None)
    times = SimpleNamespace(monotonic=lambda: clock.world.now_s - BEGAN, time=lambda: clock.world.now_s)
    with clocked(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("gateway.stores.clock.time", times)
        # A process takes longer to start than it does here, so that its generation is a later one.
        patch.setattr("gateway.stores.breaker.time", SimpleNamespace(time=itertools.count(BEGAN).__next__))
        patch.setattr("gateway.stores.breaker.OPEN_S", 1_000.0)
        patch.setattr("gateway.stores.shared.TICK_S", 1_000.0)
        patch.setattr(report, "reading", lambda directory: contextlib.nullcontext(READ[directory]))
        patch.setattr(
            report,
            "spent",
            lambda db, since, until: {("key", ""): sum(cost for at, cost in db if since <= at < until)},
        )
        yield clock


async def started(virtual: SimpleNamespace, server: Valkey, *offs: int, **more: Any) -> tuple[World, list[Replica]]:
    world = virtual.world = World(server)
    replicas = [Replica(world, f"r{at}", off_s, **more) for at, off_s in enumerate(offs)]
    for one in replicas:
        await one.start()
    world.pass_by(5)  # a key that nobody knows waits for 3 s
    for one in replicas:
        await one.look()
    return world, replicas


KEY = "{pointsman}:key:key"


def stored(world: World, name: str) -> int:
    return int(world.server.hash(KEY).get(f"hour/UTC:{name}", "0"))


@pytest.mark.parametrize("off_s", [HOUR_S, -HOUR_S, 40 * 86_400])
def test_a_replica_whose_clock_is_off_neither_begins_a_period_nor_spends_of_another(
    virtual: SimpleNamespace, server: Valkey, caplog: pytest.LogCaptureFixture, off_s: int
) -> None:
    async def run() -> None:
        world, (right, wrong) = await started(virtual, server, 0, off_s)
        for one, need in ((right, 400), (wrong, 300), (right, 200)):
            assert isinstance(await one.admit(need), Hold)
        assert stored(world, "p") == BEGAN * 1_000
        for one in (right, wrong):
            refused = await one.admit(101)
            assert isinstance(refused, Refused)
            assert (one.budget.begins_ms, one.budget.ends_ms) == (BEGAN * 1_000, (BEGAN + HOUR_S) * 1_000)
        for one in (right, wrong, right):
            await one.settle(100)
        assert stored(world, "x") == 300
        refused = await wrong.admit(701)
        assert isinstance(refused, Refused)
        assert (refused.spent, refused.retry_after_s) == (True, 2_995), "until the store begins the next"
        for one in (right, wrong):
            assert isinstance(await one.admit(50), Hold)
        world.pass_by(HOUR_S)
        for one in (right, wrong):
            await one.look()
            await one.settle(50)
            assert one.budget.spent == 0, "it began in the hour before"
        assert isinstance(await wrong.admit(900), Hold), "with the store's clock, for all"
        assert stored(world, "p") == (BEGAN + HOUR_S) * 1_000
        assert isinstance(await right.admit(101), Refused)
        await wrong.settle(900)
        assert stored(world, "x") == 900, "it began in this hour, whatever its replica's clock says"
        for one in (right, wrong):
            await one.store.refresh()
            assert (one.budget.begins_ms, one.budget.gone) == ((BEGAN + HOUR_S) * 1_000, 900)
            await one.kill()

    asyncio.run(run())
    told = [one.getMessage() for one in caplog.records if "clock of this machine" in one.getMessage()]
    assert len(told) == 1, "once"
    assert f"{abs(off_s)} s {'ahead of' if off_s > 0 else 'behind'} that of store redis://" in told[0]


def test_a_period_of_another_calendar_is_followed_until_it_ends(virtual: SimpleNamespace, server: Valkey) -> None:
    async def run() -> None:
        world, (one,) = await started(virtual, server, 0)
        server.ask("HSET", KEY, "hour/UTC:p", (BEGAN + 300) * 1_000, "hour/UTC:e", (BEGAN + 1_800) * 1_000)
        for _ in range(2):
            assert isinstance(await one.admit(300), Hold)
            await one.look()
            assert (one.budget.begins_ms, one.budget.ends_ms) == ((BEGAN + 300) * 1_000, (BEGAN + 1_800) * 1_000)
        world.pass_by(1_200)
        assert isinstance(await one.admit(300), Hold)
        assert (one.budget.begins_ms, one.budget.ends_ms) == (BEGAN * 1_000, (BEGAN + HOUR_S) * 1_000)
        await one.kill()

    asyncio.run(run())


def test_who_has_begun_a_period_a_little_early_goes_back_to_the_one_that_is(
    virtual: SimpleNamespace, server: Valkey
) -> None:
    """What it had spent of it is told at once, too, though nobody asks."""

    async def run() -> None:
        world = virtual.world = World(server)
        world.pass_by(2_960)
        one = Replica(world, "r0", 45)
        one.books.append([(world.now_s + 35) * 1_000, 70])
        await one.start()
        assert (one.budget.begins_ms, one.budget.spent) == (BEGAN * 1_000, 70)
        assert (stored(world, "p"), stored(world, "x")) == (BEGAN * 1_000, 70)
        await one.kill()

    asyncio.run(run())


def test_a_key_that_is_new_while_the_clock_has_slipped_is_of_the_period_that_the_calendar_says(
    virtual: SimpleNamespace, server: Valkey
) -> None:
    async def run() -> None:
        world, (one,) = await started(virtual, server, 0)
        world.pass_by(2_996)
        await one.look()
        assert one.budget.begins_ms == (BEGAN + HOUR_S) * 1_000
        world.pass_by(-30)
        server.ask("DEL", KEY)
        while isinstance(await one.admit(10), Refused):
            world.pass_by(1)
        assert stored(world, "p") == one.budget.begins_ms == BEGAN * 1_000
        await one.kill()

    asyncio.run(run())


def test_what_the_books_say_is_told_when_they_were_asked(virtual: SimpleNamespace, server: Valkey) -> None:
    async def run() -> None:
        world, (one,) = await started(virtual, server, 0)
        assert isinstance(await one.admit(10), Hold)
        one.books.append([world.now_s * 1_000, 400])
        await one.gates.take_up(LedgerSettings(Path(one.name)), one.wall())
        await one.quiet()
        assert stored(world, "x") == one.budget.spent == 400
        await one.kill()

    asyncio.run(run())


def test_what_was_set_aside_while_a_period_begins_and_the_store_comes_back_is_set_aside_there(
    virtual: SimpleNamespace, server: Valkey
) -> None:
    async def run() -> None:
        world, (one,) = await started(virtual, server, 0)
        assert isinstance(await one.admit(10), Hold)
        tell, store = one.store._tell, one.store

        async def told(link: Any, gates: Any, **more: Any) -> None:
            await tell(link, gates, **more)
            assert isinstance(await one.admit(30), Hold), "by itself, after all was told"
            world.pass_by(HOUR_S)

        store._tell = told  # type: ignore[method-assign]
        one.cut_off()
        await one.back()
        assert stored(world, "r|r0") == 40 + stored(world, "s|r0")
        assert stored(world, "p") == (BEGAN + HOUR_S) * 1_000
        await one.kill()

    asyncio.run(run())


def test_all_is_told_again_where_a_period_begins_while_the_store_comes_back(
    virtual: SimpleNamespace, server: Valkey
) -> None:
    async def run() -> None:
        world, (one,) = await started(virtual, server, 0)

        async def learn() -> None:
            world.pass_by(HOUR_S)

        one.store.learn = learn
        one.cut_off()
        await one.back()
        assert stored(world, "p") == one.budget.begins_ms == (BEGAN + HOUR_S) * 1_000
        assert int(server.hash(KEY)["g|r0"]) == one.store.session.generation
        await one.kill()

    asyncio.run(run())


actions = st.one_of(
    st.tuples(st.just("admit"), st.integers(0, 2), st.sampled_from([1, 30, 150, 400, 950]), st.booleans()),
    st.tuples(st.just("admit"), st.integers(0, 2), st.sampled_from([1, 30, 150, 400, 950]), st.booleans()),
    st.tuples(st.just("admit"), st.integers(0, 2), st.sampled_from([1, 30, 150, 400, 950]), st.booleans()),
    st.tuples(st.just("settle"), st.integers(0, 2), st.integers(0, 100), st.just(0)),
    st.tuples(st.just("pass"), st.integers(0, 2), st.sampled_from([1, 3, 700, 1_500, HOUR_S, 5 * HOUR_S]), st.just(0)),
    st.tuples(st.just("look"), st.integers(0, 2), st.just(0), st.just(0)),
    st.tuples(st.just("cut off"), st.integers(0, 2), st.just(0), st.just(0)),
    st.tuples(st.just("back"), st.integers(0, 2), st.just(0), st.just(0)),
    st.tuples(st.just("restart"), st.integers(0, 2), st.just(0), st.just(0)),
    st.tuples(st.just("set"), st.integers(0, 2), st.integers(-40_000, 40_000), st.just(0)),
)
offs = st.sampled_from([0, 0, 30, -30, 2_200, -2_200, HOUR_S, -HOUR_S, 86_400, -86_400, 40 * 86_400])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.tuples(offs, offs, offs), st.lists(actions, min_size=10, max_size=60), st.sampled_from([6.0, 86_400.0]))
@example((0, HOUR_S, 0), [("admit", 1, 150, False), ("restart", 1, 0, 0)], 86_400.0)
@example(  # cut off with a request under way, whose money the store holds for it no longer when a period begins
    (0, 0, 0),
    [
        ("admit", 1, 150, True), ("cut off", 1, 0, 0), ("pass", 0, HOUR_S, 0), ("admit", 0, 950, True),
        ("look", 1, 0, 0), ("settle", 1, 0, 0), ("admit", 1, 150, True),
    ],
    6.0,
)  # fmt: skip
@example((0, -HOUR_S, 0), [("admit", 1, 400, True), ("restart", 1, 0, 0), ("admit", 0, 950, True)], 86_400.0)
def test_whatever_their_clocks_say_no_hour_or_day_of_the_store_costs_more_than_its_budget(
    virtual: SimpleNamespace, server: Valkey, offs: tuple[int, int, int], script: list[Any], lease_s: float
) -> None:
    asyncio.run(_follow(virtual, server, offs, script, lease_s))


async def _follow(
    virtual: SimpleNamespace, server: Valkey, offs: tuple[int, ...], script: list[Any], lease_s: float
) -> None:
    world, replicas = await started(virtual, server, *offs, lease_s=lease_s, day=2 * LIMIT)
    were_set = set()
    for action, at, first, second in script:
        one = replicas[at]
        if action == "admit":
            await one.admit(first, looks=second)
        elif action == "settle" and one.holds:
            await one.settle(first * one.holds[0][1][1] // 100)
        elif action == "pass":
            world.pass_by(first)
        elif action == "look":
            await one.look()
        elif action == "cut off":
            one.cut_off()
        elif action == "back":
            await one.back()
        elif action == "set":
            one.off_s += first
            were_set.add(at)
        elif action == "restart" and at not in were_set:  # its books are dated by a clock that was another one
            await one.kill()
            await one.start()
        assert max(world.costs.values(), default=0) <= LIMIT, (action, dict(world.costs))
        assert max(world.days().values(), default=0) <= 2 * LIMIT, (action, dict(world.costs))
    for one in replicas:
        while one.holds:
            await one.settle(0)
        await one.back()
    world.pass_by(24 * HOUR_S - world.now_s % (24 * HOUR_S) + 5)
    for _ in range(2):  # who is told to make do with less says that it has heard
        for one in replicas:
            await one.look()
    for one in replicas:
        assert one.budget.begins_ms == stored(world, "p") == (world.now_s - 5) * 1_000
        assert isinstance(await one.admit(280), Hold), "nothing of it is lost"
    for one in replicas:
        await one.settle(70)
        await one.look()
    assert stored(world, "x") == 70 * len(replicas)
    for one in replicas:
        await one.kill()
