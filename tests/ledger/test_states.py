"""Reserve, checkpoint, settle, void, expire, repetition, crash, rotation and shipping in any order, on real files.

What is shipped arrives in a real PostgreSQL, from two replicas, of which each may die before it has noted
what has arrived.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from gateway.core.types import Price, PriceTier, Secret
from gateway.ledger import postgres, shared
from gateway.ledger.directory import LedgerSettings, PostgresSettings
from gateway.ledger.ledger import Ledger, open_ledger
from gateway.ledger.report import Asked, reading, report, spent
from gateway.ledger.unshipped import Unshipped, replica_id
from tests.postgres import PASSWORD
from tests.postgres import postgres as running

PRICE = Price((PriceTier(0, 1_000_000_000, 2_000_000_000),), "list")
AT = 2_000_000_000_000
KEYS = st.tuples(st.integers(0, 3), st.integers(0, 1))
AMOUNTS = st.integers(0, 10_000)


class AnyOrder(RuleBasedStateMachine):
    """The model: what is open, with what is known of it, and what ended, with what it cost."""

    first = AT  # from where on ids are this ledger's own

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.open: dict[tuple[str, int], tuple[int, int, int]] = {}  # input, output bytes, reserved
        self.ended: dict[tuple[str, int], int] = {}
        self.ledger: Ledger = None  # type: ignore[assignment]
        self.start()

    def start(self) -> None:
        self.ledger = open_ledger(LedgerSettings(self.directory))
        for key, (entered, output, _) in self.open.items():
            self.ended[key] = entered * 1_000 + -(-output // 4) * 2_000
        self.open.clear()

    def write(self, *entry: object) -> None:
        self.ledger.journal.write([entry])

    def teardown(self) -> None:
        self.ledger.close()
        shutil.rmtree(self.directory)

    @rule(key=KEYS, entered=st.integers(1, 500), reserved=AMOUNTS)
    def reserve(self, key: tuple[int, int], entered: int, reserved: int) -> None:
        name = (f"{self.first:012x}{key[0]:020x}", key[1])
        if name in self.ended:
            return  # numbers of attempts are never used again
        account, entry = self.ledger.account(("k", "t", "m", "t", "r", "p@1"), PRICE, thinks=False)
        if entry is not None:
            self.ledger.journal.write([entry])
        self.write("r", *name, account.number, AT, entered, reserved)
        self.open.setdefault(name, (entered, 0, reserved))

    @rule(key=KEYS, output=AMOUNTS)
    def checkpoint(self, key: tuple[int, int], output: int) -> None:
        name = (f"{self.first:012x}{key[0]:020x}", key[1])
        self.write("c", *name, output, None)
        if name in self.open:
            entered, before, reserved = self.open[name]
            self.open[name] = (entered, max(before, output), reserved)

    @rule(key=KEYS, cost=AMOUNTS)
    def settle(self, key: tuple[int, int], cost: int) -> None:
        name = (f"{self.first:012x}{key[0]:020x}", key[1])
        self.write("s", *name, AT + 1, 1, 1, 0, 0, 0, cost, False, "ok")
        if self.open.pop(name, None):
            self.ended[name] = cost

    @rule(key=KEYS)
    def void(self, key: tuple[int, int]) -> None:
        name = (f"{self.first:012x}{key[0]:020x}", key[1])
        self.write("v", *name, AT + 1, "refused")
        if self.open.pop(name, None):
            self.ended[name] = 0

    @rule(key=KEYS)
    def expire(self, key: tuple[int, int]) -> None:
        name = (f"{self.first:012x}{key[0]:020x}", key[1])
        self.write("e", *name, AT + 1, "expired")
        if held := self.open.pop(name, None):
            self.ended[name] = held[0] * 1_000 + -(-held[1] // 4) * 2_000

    @rule(which=st.integers(0, 50), cost=AMOUNTS, kind=st.sampled_from("sve"))
    def repeat(self, which: int, cost: int, kind: str) -> None:
        """What has ended ends again, perhaps in another way."""
        if self.ended:
            name = sorted(self.ended)[which % len(self.ended)]
            rest = (1, 1, 0, 0, 0, cost, False, "ok") if kind == "s" else ("refused",)
            self.write(kind, *name, AT + 1, *rest)

    @rule()
    def crash(self) -> None:
        ledger = self.ledger
        ledger.keeping.close()
        ledger._database.close()
        ledger.journal._map.close()
        os.close(ledger.journal._descriptor)
        ledger._held.release()
        self.start()

    @rule()
    def stop(self) -> None:
        self.ledger.close()
        self.start()

    @rule()
    @precondition(lambda self: self.ledger.journal.number < 20)
    def rotate(self) -> None:
        self.ledger.journal._begin()

    @rule()
    def read_all_again(self) -> None:
        """As after a repair: every journal that is there, over the books that were made of them."""
        self.ledger.keeping.catch_up()
        self.ledger._database._db.execute("DELETE FROM meta WHERE name <> 'shipped'")
        self.ledger._database._db.execute("DELETE FROM declared")
        self.ledger._database._db.execute("DELETE FROM open")
        self.ledger.keeping._resume()

    @invariant()
    def books_are_the_sum_of_what_ended(self) -> None:
        ledger = self.ledger
        ledger.keeping.catch_up()
        found = {(row[0], row[1]): row[11] for row in ledger._database.rows()}
        assert found == self.ended
        with reading(self.directory) as db:
            total, balances = report(db, Asked(())), spent(db, 0, 1 << 52)
        assert total.total["cost_nano"] == sum(self.ended.values())
        assert total.total["attempts"] == len(self.ended)
        assert total.open == len(self.open)
        expected = sum(self.ended.values()) + sum(reserved for _, _, reserved in self.open.values())
        assert balances.get(("k", "t"), 0) == expected >= 0


class Shipped(AnyOrder):
    """The same, and what of it has arrived in PostgreSQL."""

    place: PostgresSettings
    number = 0

    def __init__(self) -> None:
        Shipped.number += 1
        self.first = AT + Shipped.number  # PostgreSQL stays, over all examples
        self.arrived: dict[tuple[str, int], int] = {}
        self.loop = asyncio.new_event_loop()
        self.connection = self.loop.run_until_complete(postgres.connect(self.place))
        super().__init__()
        self.replica = replica_id(self.directory)
        self.loop.run_until_complete(postgres.prepare(self.connection, self.replica, "one"))

    def teardown(self) -> None:
        spent = shared.spent(self.place, 0, 1 << 52).get((self.replica, "k", "t"), 0)
        assert spent == sum(self.arrived.values())
        self.loop.run_until_complete(self.connection.close())
        self.loop.close()
        super().teardown()

    def start(self) -> None:
        super().start()
        unshipped = Unshipped(self.directory)
        unshipped.begin()
        unshipped.close()

    @rule(most=st.integers(1, 4), dies=st.sampled_from(["not", "before", "after"]))
    def ship(self, most: int, dies: str) -> None:
        """One batch; the process, or the connection, may end before it is written, or before that is known here."""
        self.ledger.keeping.catch_up()
        unshipped = Unshipped(self.directory)
        batch = unshipped.next(most)
        if batch is not None:
            if dies != "before":
                work = postgres.ship(self.connection, self.replica, 0, batch.entries, batch.accounts)
                self.loop.run_until_complete(work)
                self.arrived |= {(one[0], one[1]): one[11] for one in batch.entries}
            if dies == "not":
                unshipped.done(batch.last)
        unshipped.close()

    @rule()
    def forget_what_was_shipped(self) -> None:
        """As where shipping was off for a while."""
        self.ledger.keeping.catch_up()
        unshipped = Unshipped(self.directory)
        unshipped.end()
        unshipped.begin()
        unshipped.close()

    @invariant()
    def what_arrived_counts_once(self) -> None:
        assert self.arrived.items() <= self.ended.items()
        total = (
            "SELECT coalesce(sum(cost_nano), 0)::bigint FROM pointsman.totals "
            "JOIN pointsman.replicas ON number = replica WHERE id = $1"
        )
        found = self.loop.run_until_complete(self.connection.fetchval(total, self.replica))
        assert found == sum(self.arrived.values())
        unshipped = Unshipped(self.directory)
        left, _ = unshipped.left()
        place = unshipped._place()
        unshipped.close()
        # An entry's place is told by its block, which may have arrived in part.
        waiting = "SELECT coalesce(sum(cost_nano) FILTER (WHERE seq > ?), 0), count(*) FROM entries"
        (cost, count) = self.ledger._database._db.execute(waiting, (place,)).fetchone()
        assert left == count - place
        assert sum(self.arrived.values()) <= sum(self.ended.values()) <= sum(self.arrived.values()) + cost


def test_in_any_order_what_is_shipped_counts_once_and_what_is_not_waits() -> None:
    with running() as database:
        Shipped.place = PostgresSettings("127.0.0.1", database.port, "pointsman", "pointsman", Secret(PASSWORD))
        run_state_machine_as_test(
            Shipped, settings=settings(max_examples=8, stateful_step_count=20, deadline=None, database=None)
        )


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)
