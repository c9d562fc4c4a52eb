"""What has not been shipped yet: a list of entries in the books' own file, kept by a trigger.

An entry is put on the list in the transaction that books it and leaves it when PostgreSQL has it for good, so that a
death at any moment ships some entry twice at most, and none never. `database` only spares what is on the list when it
retires old entries; sending is `shipping`'s.
"""

from __future__ import annotations

import os
import sqlite3
import uuid
from pathlib import Path
from typing import Any, NamedTuple

from gateway.ledger.directory import DATABASE

REPLICA = "replica"
_FILL = 20_000  # entries that one transaction puts on the list
_TRIGGER = (
    "CREATE TRIGGER IF NOT EXISTS shipping AFTER INSERT ON entries "
    "BEGIN INSERT INTO unshipped (request_id, attempt) VALUES (new.request_id, new.attempt); END"
)
_NEXT = (
    "SELECT u.seq, e.request_id, e.attempt, e.at_ms, e.ended_ms, e.kind, e.input, e.cached, e.written, e.output, "
    "e.reasoning, e.cost_nano, e.estimated, e.cause, a.key, a.team, a.model, a.target, a.rule, a.policy, a.shadow, "
    "a.thinks, a.price_version FROM unshipped u JOIN entries e USING (request_id, attempt) "
    "JOIN accounts a ON a.id = e.account WHERE u.seq > ? ORDER BY u.seq LIMIT ?"
)
#: Where an account begins in a row of the list.
_NAMES = 14


class Batch(NamedTuple):
    """Entries to be shipped together, as `postgres.ENTRY` and `postgres.ACCOUNT` have them."""

    last: int  # place on the list
    entries: list[tuple[Any, ...]]
    accounts: list[tuple[Any, ...]]


class Unshipped:
    """The list of one ledger. One thread at a time, beside the one that keeps the books. Raises sqlite3.Error."""

    def __init__(self, directory: Path) -> None:
        path = directory / DATABASE
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
        self._accounts: dict[tuple[Any, ...], str] = {}
        self._filled = False

    def begin(self) -> None:
        """From now on, put every entry on the list that is booked."""
        self._db.execute(_TRIGGER)
        self._filled = bool(self._db.execute("SELECT 1 FROM meta WHERE name = 'filled'").fetchone())

    def end(self) -> None:
        """Forget the list: nothing is shipped from here any more. Who begins again ships all that is kept."""
        if self._db.execute("SELECT 1 FROM sqlite_master WHERE type = 'trigger' AND name = 'shipping'").fetchone():
            self._db.executescript(
                "BEGIN; DROP TRIGGER shipping; DELETE FROM unshipped; DELETE FROM meta WHERE name = 'filled'; COMMIT;"
            )

    def fill(self) -> None:
        """Put on the list what was booked before it was begun. Doubles do no harm: they are shipped for nothing."""
        after: tuple[str, int] = ("", -1)
        while not self._filled:
            found = self._db.execute(
                "SELECT request_id, attempt FROM entries WHERE (request_id, attempt) > (?, ?) "
                "ORDER BY request_id, attempt LIMIT ?",
                (*after, _FILL),
            ).fetchall()
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT INTO unshipped (request_id, attempt) VALUES (?, ?)", found)
            if len(found) < _FILL:
                self._db.execute("INSERT OR REPLACE INTO meta VALUES ('filled', 1)")
                self._filled = True
            self._db.execute("COMMIT")
            after = found[-1] if found else after

    def next(self, most: int, after: int = 0) -> Batch | None:
        """The oldest on the list, behind a place on it; None: there is nothing."""
        rows = self._db.execute(_NEXT, (after, most)).fetchall()
        if not rows:
            return None
        accounts: dict[str, tuple[Any, ...]] = {}
        entries = []
        for row in rows:
            names = row[_NAMES:]
            account = self._accounts.get(names)
            if account is None:
                if len(self._accounts) >= 4_096:
                    self._accounts.clear()
                account = self._accounts[names] = str(uuid.uuid5(_NAMED, repr(names)))
            accounts[account] = names
            entries.append((row[1], row[2], account, *row[3:_NAMES]))
        return Batch(rows[-1][0], entries, [(account, *map(_clean, names)) for account, names in accounts.items()])

    def done(self, last: int) -> None:
        """Take off the list all up to this place."""
        self._db.execute("DELETE FROM unshipped WHERE seq <= ?", (last,))

    def left(self) -> tuple[int, int]:
        """How many are on the list, at most, and when the oldest ended, in Unix milliseconds; 0 where none is."""
        first, last = self._db.execute("SELECT min(seq), max(seq) FROM unshipped").fetchone()
        if first is None:
            return 0, 0
        oldest = self._db.execute(
            "SELECT ended_ms FROM unshipped JOIN entries USING (request_id, attempt) WHERE seq = ?", (first,)
        ).fetchone()
        return last - first + 1, 0 if oldest is None else oldest[0]

    def spent(self, since_ms: int, until_ms: int) -> dict[tuple[str, str], int]:
        """What (key, team) spent by the entries on the list, in nano-USD, of attempts that began in a time."""
        query = (
            "SELECT key, team, sum(cost_nano) FROM (SELECT DISTINCT request_id, attempt FROM unshipped) "
            "JOIN entries USING (request_id, attempt) JOIN accounts a ON a.id = account "
            "WHERE at_ms >= ? AND at_ms < ? GROUP BY key, team"
        )
        return {(key, team): nano for key, team, nano in self._db.execute(query, (since_ms, until_ms))}

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
