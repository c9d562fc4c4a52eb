"""What has not been shipped yet: a place among the attempts of the books' own file, behind which nothing was.

Attempts are numbered as they are booked. The place moves on when PostgreSQL has a batch for good, so that a death at
any moment ships some entries twice at most, and none never. Nothing is written for each entry, however long an outage
lasts. `database` only spares what is behind the place when it retires old entries; sending is `shipping`'s.
"""

from __future__ import annotations

import os
import sqlite3
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from gateway.ledger.directory import DATABASE

REPLICA = "replica"
_NEXT = "SELECT seq, attempts, rows FROM blocks WHERE seq > ? ORDER BY seq"
_ACCOUNT = "SELECT key, team, model, target, rule, policy, shadow, thinks, price_version FROM accounts WHERE id = ?"
_PLACE = "SELECT value FROM meta WHERE name = 'shipped'"


class Batch(NamedTuple):
    """Entries to be shipped together, as `postgres.ENTRY` and `postgres.ACCOUNT` have them."""

    last: int  # place of the last
    entries: list[tuple[Any, ...]]
    accounts: list[tuple[Any, ...]]


class Unshipped:
    """The place of one ledger. One thread at a time, beside the one that keeps the books. Raises sqlite3.Error."""

    def __init__(self, directory: Path) -> None:
        path = directory / DATABASE
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
        self._accounts: dict[int, tuple[str, tuple[Any, ...]]] = {}

    def begin(self) -> None:
        """From now on, keep every entry until it is shipped: those first that are kept already."""
        self._db.execute("INSERT OR IGNORE INTO meta VALUES ('shipped', 0)")

    def end(self) -> None:
        """Forget the place: nothing is shipped from here any more. Who begins again ships all that is kept."""
        if self._place() is not None:
            self._db.execute("DELETE FROM meta WHERE name = 'shipped'")

    def _place(self) -> int | None:
        found = self._db.execute(_PLACE).fetchone()
        return None if found is None else int(found[0])

    def next(self, most: int) -> Batch | None:
        """The oldest that are not shipped, no more than `most`; None: there is nothing."""
        entries: list[tuple[Any, ...]] = []
        accounts: dict[str, tuple[Any, ...]] = {}
        place = self._place() or 0
        for seq, attempts, rows in self._db.execute(_NEXT, (place,)):
            before = seq - attempts
            skip = max(0, place - before)
            some = msgspec.json.decode(rows)[skip : skip + most - len(entries)]
            for row in some:
                account, names = self._accounts.get(row[2]) or self._account(row[2])
                accounts[account] = names
                row[2] = account
                row[12] = int(row[12])
                entries.append(tuple(row))
            place = before + skip + len(some)
            if len(entries) == most:
                break
        if not entries:
            return None
        return Batch(place, entries, [(account, *names) for account, names in accounts.items()])

    def _account(self, number: int) -> tuple[str, tuple[Any, ...]]:
        """The account of a number in the books: its id, made of all that it is, and that."""
        names = self._db.execute(_ACCOUNT, (number,)).fetchone()
        found = self._accounts[number] = str(uuid.uuid5(_NAMED, repr(names))), tuple(map(_clean, names))
        return found

    def done(self, last: int) -> None:
        """All up to this place are shipped."""
        self._db.execute("UPDATE meta SET value = ? WHERE name = 'shipped'", (last,))

    def left(self) -> tuple[int, int]:
        """How many are not shipped, and when the oldest ended, in Unix milliseconds; 0 where none is."""
        place = self._place() or 0
        first = self._db.execute(
            "SELECT seq - attempts, ended_ms FROM blocks WHERE seq > ? ORDER BY seq LIMIT 1", (place,)
        ).fetchone()
        if first is None:
            return 0, 0
        last = self._db.execute("SELECT max(seq) FROM blocks").fetchone()[0]
        return last - max(place, first[0]), first[1]

    def close(self) -> None:
        """Close the file."""
        self._db.close()


_NAMED = uuid.UUID("5b0f3a86-5a5c-5f0e-9d55-3d1f0c1f2a77")


def _clean(value: Any) -> Any:
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value  # which PostgreSQL's text cannot hold


def replica_id(directory: Path) -> str:
    """The id of the books in a folder, as 32 hex digits: made once, by whoever holds the folder. Raises OSError."""
    path = directory / REPLICA
    try:
        return uuid.UUID(path.read_text("ascii").strip()).hex
    except FileNotFoundError:
        pass
    except ValueError:
        path.rename(path.with_name(f"{REPLICA}.damaged"))
    made = uuid.uuid4().hex
    new = path.with_name(f"{REPLICA}.new")
    with open(new, "w", encoding="ascii", opener=_private) as file:
        file.write(made + "\n")
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
    return made


def _private(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NOFOLLOW, 0o600)
