"""The SQLite file: its tables, and the one transaction by which journals become books.

What ended since the last transaction, the totals that follow from it, what is still open, and the place in the journal
up to which all that holds: they are written together or not at all. So a crash between two transactions neither misses
nor doubles anything. Queries for people are in `report`; reading journals is in `keeping`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from gateway.core.money.booking import Account, Booked, Open
from gateway.core.types import Usage

#: Totals are kept by the quarter of an hour: every time zone's days consist of whole ones.
QUARTER_MS = 900_000
SCHEMA = 1
_KIND = {"settle": 0, "void": 1, "expire": 2}

_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE accounts (
  id INTEGER PRIMARY KEY, key TEXT NOT NULL, team TEXT NOT NULL, model TEXT NOT NULL, target TEXT NOT NULL,
  rule TEXT NOT NULL, policy TEXT NOT NULL, shadow TEXT NOT NULL, thinks INTEGER NOT NULL, price_version TEXT,
  content TEXT NOT NULL UNIQUE
);
CREATE TABLE declared (number INTEGER PRIMARY KEY, account INTEGER NOT NULL);
CREATE TABLE open (
  request_id TEXT NOT NULL, attempt INTEGER NOT NULL, account INTEGER NOT NULL, at_ms INTEGER NOT NULL,
  input INTEGER NOT NULL, reserved_nano INTEGER NOT NULL, output_bytes INTEGER NOT NULL, stated TEXT,
  PRIMARY KEY (request_id, attempt)
) WITHOUT ROWID;
CREATE TABLE entries (
  request_id TEXT NOT NULL, attempt INTEGER NOT NULL, account INTEGER NOT NULL, at_ms INTEGER NOT NULL,
  ended_ms INTEGER NOT NULL, kind INTEGER NOT NULL, input INTEGER NOT NULL, cached INTEGER NOT NULL,
  written INTEGER NOT NULL, output INTEGER NOT NULL, reasoning INTEGER NOT NULL, cost_nano INTEGER NOT NULL,
  estimated INTEGER NOT NULL, cause TEXT NOT NULL,
  PRIMARY KEY (request_id, attempt)
) WITHOUT ROWID;
CREATE TABLE totals (
  quarter INTEGER NOT NULL, account INTEGER NOT NULL, estimated INTEGER NOT NULL,
  attempts INTEGER NOT NULL, answered INTEGER NOT NULL, void INTEGER NOT NULL, input INTEGER NOT NULL,
  cached INTEGER NOT NULL, written INTEGER NOT NULL, output INTEGER NOT NULL, reasoning INTEGER NOT NULL,
  cost_nano INTEGER NOT NULL,
  PRIMARY KEY (quarter, account, estimated)
) WITHOUT ROWID;
"""
#: The list of what is still to be shipped, see `unshipped`; empty where nothing is.
_LIST = (
    "CREATE TABLE IF NOT EXISTS unshipped (seq INTEGER PRIMARY KEY, request_id TEXT NOT NULL, attempt INTEGER NOT NULL)"
)
SUMS = ("attempts", "answered", "void", "input", "cached", "written", "output", "reasoning", "cost_nano")
_ROW = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_ENTER = f"INSERT OR IGNORE INTO entries VALUES {_ROW}"  # noqa: S608 - of ours
# Attempts that one statement enters: for each row of its own the interpreter would be let go of and asked for again,
# which the event loop may have to wait for. Any library takes 999 values in a statement.
_TOGETHER = 64
_ENTER_MANY = ", ".join([_ENTER, *[_ROW] * (_TOGETHER - 1)])
_ADD = "INSERT INTO totals VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
_ADD += ", ".join(f"{name} = {name} + excluded.{name}" for name in SUMS)
_NAME = "INSERT INTO accounts VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_OPEN = "INSERT OR REPLACE INTO open VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


#: A row of `entries`.
_Row = tuple[str, int, int, int, int, int, int, int, int, int, int, int, int, str]


class Position(NamedTuple):
    """Up to where the journals are in the books."""

    journal: int = 0  # its number; 0: none was read yet
    offset: int = 0
    checksum: int = 0  # that the next line continues


class Database:
    """The books of one node, opened for writing. One thread at a time."""

    def __init__(self, path: Path) -> None:
        """Open it, or make it. Raises sqlite3.Error."""
        self._path = path
        self._db = db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
        path.chmod(0o600)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {SCHEMA}; COMMIT;")
        elif version != SCHEMA:
            raise sqlite3.DatabaseError(f"form {version} is not known to this version, which writes form {SCHEMA}")
        db.execute(_LIST)
        self._ids = {content: number for number, content in db.execute("SELECT id, content FROM accounts")}
        self._known: dict[int, tuple[Account, int]] = {}  # by identity, which is kept from being another's
        self.kept_since_ms: int = self._meta("kept_since_ms")

    def check(self) -> str:
        """What is wrong with the file, or nothing."""
        found = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        return "" if found == "ok" else str(found)

    def position(self) -> Position:
        """Up to where the journals are in it."""
        return Position(self._meta("journal"), self._meta("offset"), self._meta("checksum"))

    def _meta(self, name: str) -> int:
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return 0 if row is None else int(row[0])

    def declared(self) -> dict[int, Account]:
        """The accounts that the journal being read has named, by number."""
        query = "SELECT number, content FROM declared JOIN accounts ON accounts.id = declared.account"
        return {number: account_of(content, number) for number, content in self._db.execute(query)}

    def open(self) -> dict[tuple[str, int], Open]:
        """The attempts that have not ended."""
        query = (
            "SELECT request_id, attempt, content, at_ms, input, reserved_nano, output_bytes, stated "
            "FROM open JOIN accounts ON accounts.id = open.account"
        )
        return {
            (request_id, attempt): Open(
                account_of(content),
                at_ms,
                entered,
                reserved,
                output,
                stated and msgspec.json.decode(stated, type=Usage),
            )
            for request_id, attempt, content, at_ms, entered, reserved, output, stated in self._db.execute(query)
        }

    def has(self, key: tuple[str, int]) -> bool:
        """Whether an attempt is in the books as ended."""
        query = "SELECT 1 FROM entries WHERE request_id = ? AND attempt = ?"
        return self._db.execute(query, key).fetchone() is not None

    def take(
        self,
        booked: Sequence[Booked],
        opened: Iterable[tuple[tuple[str, int], Open]],
        closed: Iterable[tuple[str, int]],
        declared: dict[int, Account] | None,
        position: Position,
        pause: Callable[[], None] = lambda: None,
    ) -> None:
        """Write one step of the books: what ended, what is open from now on or no more, and the position after it.

        `declared` is given where the accounts of the journal being read have changed; `pause` is called now and then.
        Raises sqlite3.Error; then nothing of it is written.
        """
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            self._enter(booked, pause)
            db.executemany("DELETE FROM open WHERE request_id = ? AND attempt = ?", closed)
            db.executemany(_OPEN, [self._opened(key, one) for key, one in opened])
            if declared is not None:
                db.execute("DELETE FROM declared")
                rows = [(number, self._account(account)) for number, account in declared.items()]
                db.executemany("INSERT INTO declared VALUES (?, ?)", rows)
            pairs = zip(("journal", "offset", "checksum"), position, strict=True)
            db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", pairs)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            self._ids = {content: number for number, content in db.execute("SELECT id, content FROM accounts")}
            self._known.clear()
            raise

    def _enter(self, booked: Sequence[Booked], pause: Callable[[], None]) -> None:
        since, db = self.kept_since_ms, self._db
        entered: list[_Row] = []
        for at in range(0, len(booked), _TOGETHER):
            rows = [self._row(one) for one in booked[at : at + _TOGETHER] if one.at_ms >= since]
            if len(rows) == _TOGETHER:
                db.execute("SAVEPOINT entering")
                if db.execute(_ENTER_MANY, list(chain.from_iterable(rows))).rowcount == _TOGETHER:
                    entered += rows
                    rows = []
                else:
                    db.execute("ROLLBACK TO entering")  # some are there already: find out which
                db.execute("RELEASE entering")
            entered += [row for row in rows if db.execute(_ENTER, row).rowcount == 1]
            pause()
        db.executemany(_ADD, _sums(entered))

    def _row(self, one: Booked) -> _Row:
        used = one.used
        return (
            one.request_id, one.attempt, self._account(one.account), one.at_ms, one.ended_ms, _KIND[one.kind],
            used.input, used.cached, used.written, used.output, used.reasoning, one.cost_nano,
            1 if used.estimated else 0, one.cause,
        )  # fmt: skip

    def _opened(self, key: tuple[str, int], one: Open) -> tuple[Any, ...]:
        stated = None if one.stated is None else msgspec.json.encode(one.stated).decode()
        return (
            *key, self._account(one.account), one.at_ms, one.input, one.reserved_nano, one.output_bytes, stated
        )  # fmt: skip

    def _account(self, account: Account) -> int:
        known = self._known.get(id(account))
        if known is not None:
            return known[1]
        content = account_content(account)
        found = self._ids.get(content)
        if found is None:
            price = account.price
            row = (
                account.key, account.team, account.model, account.target, account.rule, account.policy, account.shadow,
                int(account.thinks), None if price is None else price.version, content,
            )  # fmt: skip
            made = self._db.execute(_NAME, row).lastrowid
            found = self._ids[content] = int(made or 0)
        if len(self._known) >= 4_096:
            self._known.clear()
        self._known[id(account)] = (account, found)
        return found

    def retire(self, before_ms: int, totals_before_ms: int) -> int:
        """Delete single attempts and totals older than this; how many of the former. Raises sqlite3.Error.

        Attempts that are not older than the oldest that was not shipped stay.
        """
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            # Ids begin with the time at which their request came, which is not after that of its attempts.
            unshipped = db.execute("SELECT min(request_id) FROM unshipped").fetchone()[0]
            before = min(f"{before_ms:012x}", unshipped or "g")
            gone = db.execute("DELETE FROM entries WHERE request_id < ?", (before,)).rowcount
            db.execute("DELETE FROM totals WHERE quarter < ?", (totals_before_ms // QUARTER_MS,))
            self.kept_since_ms = max(self.kept_since_ms, before_ms)
            db.execute("INSERT OR REPLACE INTO meta VALUES ('kept_since_ms', ?)", (self.kept_since_ms,))
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        return gone

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Every attempt, for tests and repairs."""
        yield from self._db.execute("SELECT * FROM entries")

    def settle_down(self) -> bool:
        """Bring everything from the write-ahead log into the file, and that to the disk. Raises sqlite3.Error.

        False where somebody who reads is in the way.
        """
        busy, _, _ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def account_content(account: Account) -> str:
    """An account as text, without its number: equal for equal ones."""
    return _CONTENT.encode([getattr(account, name) for name in Account.__struct_fields__[1:]]).decode()


def account_of(content: str, number: int = 0) -> Account:
    """The account of such a text."""
    return _ACCOUNT.decode(b'["a",%d,%b' % (number, content.encode()[1:]))


def _sums(rows: Iterable[_Row]) -> Iterator[tuple[int, ...]]:
    """What these add to `totals`."""
    alike: dict[tuple[int, int, int], list[_Row]] = {}
    for row in rows:
        key = (row[3] // QUARTER_MS, row[2], row[12])
        if key in alike:
            alike[key].append(row)
        else:
            alike[key] = [row]
    for key, some in alike.items():
        columns: list[tuple[Any, ...]] = list(zip(*some, strict=True))
        yield (*key, len(some), columns[13].count("ok"), columns[5].count(1), *map(sum, columns[6:12]))


_CONTENT = msgspec.json.Encoder()
_ACCOUNT = msgspec.json.Decoder(Account)
