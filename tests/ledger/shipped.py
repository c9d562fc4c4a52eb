"""A ledger that is shipped to a real PostgreSQL, for tests: what is booked, and what has arrived there."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.core.types import Price, PriceTier, Secret
from gateway.ledger import shipping
from gateway.ledger.directory import LedgerSettings, PostgresSettings
from gateway.ledger.ledger import Ledger, open_ledger
from tests.postgres import PASSWORD, Postgres

PRICE = Price((PriceTier(0, 1_000_000_000, 2_000_000_000),), "list")
NOW = int(time.time() * 1000)


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have books be kept and shipped ten times as often as usual."""
    monkeypatch.setattr("gateway.ledger.ledger.EVERY_S", 0.02)
    monkeypatch.setattr(shipping, "EVERY_S", 0.05)
    monkeypatch.setattr(shipping, "_AGAIN_S", 0.05)
    monkeypatch.setattr(shipping, "_MOST_AGAIN_S", 0.1)


def place(database: Postgres, /, **over: Any) -> PostgresSettings:
    return replace(PostgresSettings("127.0.0.1", database.port, "pointsman", "pointsman", Secret(PASSWORD)), **over)


def settings(directory: Path, where: PostgresSettings | None, **over: Any) -> LedgerSettings:
    return LedgerSettings(directory, postgres=where, replica=directory.name, **over)


def book(
    ledger: Ledger, first: int, count: int, *, key: str = "k", cost: int = 7, at_ms: int = NOW, tokens: int = 5
) -> None:
    """Attempts that were answered, numbered so that no two are the same, each with a prompt of `tokens`."""
    account, entry = ledger.account((key, "t", "m", "here", "r", "p@1"), PRICE, thinks=False)
    if entry is not None:
        ledger.journal.write([entry])
    for number in range(first, first + count):
        request_id = f"{at_ms:012x}{hash(key) & 0xFFFF:04x}{number:016x}"
        ledger.journal.write([("r", request_id, 1, account.number, at_ms, 5, 0)])
        ledger.journal.write([("s", request_id, 1, at_ms + 1, tokens, 3, 1, 1, 0, cost, False, "ok")])


def wait(until: Callable[[], bool], within_s: float = 30.0) -> None:
    ends_at = time.monotonic() + within_s
    while not until():
        assert time.monotonic() < ends_at, "it did not come to that"
        time.sleep(0.01)


def started(config: LedgerSettings) -> Ledger:
    ledger = open_ledger(config)
    ledger.start()
    return ledger


def arrived(ledger: Ledger, count: int) -> Callable[[], bool]:
    return lambda: ledger.shipping is not None and ledger.shipping.shipped >= count and not ledger.shipping.unshipped


def counted(database: Postgres) -> tuple[int, int]:
    """Entries and what they cost, as they stand singly and in totals, which agree."""
    # In one statement: what is shipped between two would be in the second only.
    [(single, spent, total, in_total)] = database.ask(
        "SELECT count(*), coalesce(sum(cost_nano), 0)::bigint,"
        " (SELECT coalesce(sum(attempts), 0)::bigint FROM pointsman.totals),"
        " (SELECT coalesce(sum(cost_nano), 0)::bigint FROM pointsman.totals) FROM pointsman.entries"
    )
    assert (single, spent) == (total, in_total)
    return single, spent
