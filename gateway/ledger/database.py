"""The SQLite file: its tables, and the one transaction by which journals become books.

What ended since the last transaction, the totals that follow from it, what is still open, and the place in the journal
up to which all that holds: they are written together or not at all. So a crash between two transactions neither misses
nor doubles anything. That rests on two things: one process writes here (a second one is found out at its first
transaction), and the number of an attempt is used once: one that is reserved again after it has ended counts again,
unless journals are read again. Queries for people are in `report`; reading journals is in `keeping`.

Attempts lie in blocks, each a row that holds what ended together as one array of JSON: a row of its own for each takes
nearly twice as long, 2.8 µs and not 1.6 as `tests/bench/books.py` counts. Who asks sees the view `entries`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from gateway.core.money.booking import BY_VOID, Account, Booked, Ended, Open, Reserve
from gateway.core.types import Usage
from gateway.ledger.directory import LedgerBusy

#: Totals are kept by the quarter of an hour: every time zone's days consist of whole ones.
QUARTER_MS = 900_000
SCHEMA = 2
#: Pages of 4 KB that the write-ahead log may have before they are taken into the file, which waits for the disk.
_LOG_PAGES = 4_000
#: Attempts of a block, at most.
BLOCK = 250

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
CREATE TABLE blocks (
  seq INTEGER PRIMARY KEY,      -- of its last attempt, of all that were ever booked here
  attempts INTEGER NOT NULL,
  first TEXT NOT NULL, last TEXT NOT NULL,           -- of their request ids
  from_ms INTEGER NOT NULL, to_ms INTEGER NOT NULL,  -- when they began
  ended_ms INTEGER NOT NULL,    -- when the earliest of them ended
  rows TEXT NOT NULL            -- an array of arrays, see entries
);
CREATE INDEX blocks_by_time ON blocks (to_ms, attempts);
CREATE INDEX blocks_by_request ON blocks (last, first);
CREATE TABLE totals (
  quarter INTEGER NOT NULL, account INTEGER NOT NULL, estimated INTEGER NOT NULL,
  attempts INTEGER NOT NULL, answered INTEGER NOT NULL, void INTEGER NOT NULL, input INTEGER NOT NULL,
  cached INTEGER NOT NULL, written INTEGER NOT NULL, output INTEGER NOT NULL, reasoning INTEGER NOT NULL,
  cost_nano INTEGER NOT NULL,
  PRIMARY KEY (quarter, account, estimated)
) WITHOUT ROWID;
"""
_COLUMNS = ", ".join(f"json_extract(value, '$[{at}]') AS {name}" for at, name in enumerate(Booked._fields))
_VIEW = f"CREATE VIEW entries AS SELECT {_COLUMNS}, seq FROM blocks, json_each(blocks.rows);"  # noqa: S608 - of ours
SUMS = ("attempts", "answered", "void", "input", "cached", "written", "output", "reasoning", "cost_nano")
_ENTER = "INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_ADD = "INSERT INTO totals VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
_ADD += ", ".join(f"{name} = {name} + excluded.{name}" for name in SUMS)
_NAME = "INSERT INTO accounts VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_OLD = "SELECT seq, attempts FROM blocks WHERE to_ms < ? AND seq <= ? ORDER BY to_ms LIMIT ?"
_RETIRED = 900  # blocks that one statement deletes; any library takes 999 values
#: By their names' order, which is that of Position's members once the checksum is put last.
_POSITION = "SELECT value FROM meta WHERE name IN ('journal', 'offset', 'checksum') ORDER BY name = 'checksum', name"
_TWO = (
    "ledger: {path} is written by another process, too: the folder's file system keeps no locks, or two machines share "
    "it: end one of them, and give each a folder of its own with ledger: {{dir: PATH}}"
)
_CLOSE = "DELETE FROM open WHERE request_id = ? AND attempt = ?"
_OPEN = "INSERT OR REPLACE INTO open VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
#: While journals are read again that may be in the books: what is in them.
_KNOWN = (
    "CREATE TEMP TABLE known (request_id TEXT, attempt INTEGER, PRIMARY KEY (request_id, attempt)) WITHOUT ROWID",
    "INSERT OR IGNORE INTO known SELECT request_id, attempt FROM entries",
)


class OtherForm(sqlite3.DatabaseError):
    """The file is that of another version."""


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
        db.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        db.execute("PRAGMA secure_delete = FAST")  # what is retired is not written once more to be wiped
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            db.executescript(f"BEGIN; {_TABLES} {_VIEW} PRAGMA user_version = {SCHEMA}; COMMIT;")
        elif version != SCHEMA:
            db.close()
            raise OtherForm(f"has form {version}, and this version writes form {SCHEMA}")
        self._ids = {content: number for number, content in db.execute("SELECT id, content FROM accounts")}
        self._booked = self._count()
        self.again = False  # journals are read that may be in the books
        self._stands = Position()  # up to where the books are by what was last read or written of them here
        self._began_ms = self._meta("began_ms")  # of the journals in the books, the one that was begun last
        self.kept_since_ms: int = self._meta("kept_since_ms")

    def _count(self) -> int:
        """How many attempts were ever booked here, as far as that still matters."""
        last = self._db.execute("SELECT max(seq) FROM blocks").fetchone()[0] or 0
        return max(last, self._meta("shipped"))

    def check(self) -> str:
        """What is wrong with the file, or nothing."""
        return damage(self._db)

    def position(self) -> Position:
        """From where on journals are to be read: what is in the books already does not count twice."""
        db = self._db
        self._stands = position = self._written()
        self._began_ms = self._meta("began_ms")
        db.execute("DROP TABLE IF EXISTS temp.known")
        self.again = bool(self._meta("again"))
        if self.again or (not position.journal and db.execute("SELECT 1 FROM blocks LIMIT 1").fetchone()):
            self._read_again()
        return position

    def begins(self, at_ms: int) -> None:
        """A journal is read from its beginning, which was then: one that is not newer than all before may be a copy."""
        if at_ms <= self._began_ms and not self.again:
            self._read_again()
        self._began_ms = max(at_ms, self._began_ms)

    def _read_again(self) -> None:
        self.again = True
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('again', 1)")
        for statement in _KNOWN:
            self._db.execute(statement)

    def all_read(self, under_way: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
        """From here on, journals hold what is new. Those of what seems under way that have ended, by the books."""
        if not self.again:
            return []
        db = self._db
        query = "SELECT 1 FROM temp.known WHERE request_id = ? AND attempt = ?"
        ended = [key for key in under_way if db.execute(query, key).fetchone()]
        db.execute("BEGIN IMMEDIATE")
        with db:
            db.executemany(_CLOSE, ended)
            db.execute("DELETE FROM meta WHERE name = 'again'")
        db.execute("DROP TABLE temp.known")
        self.again = False
        return ended

    def _written(self) -> Position:
        found = self._db.execute(_POSITION).fetchall()
        return Position(*[value for (value,) in found]) if found else Position()

    def _meta(self, name: str) -> int:
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return 0 if row is None else int(row[0])

    def declared(self) -> dict[int, Account]:
        """The accounts that the journal being read has named, by their number there, each with its number here."""
        query = "SELECT number, content, id FROM declared JOIN accounts ON accounts.id = declared.account"
        return {number: account_of(content, one) for number, content, one in self._db.execute(query)}

    def open(self) -> dict[tuple[str, int], Open]:
        """The attempts that have not ended."""
        query = (
            "SELECT content, account, output_bytes, stated, request_id, attempt, at_ms, input, reserved_nano "
            "FROM open JOIN accounts ON accounts.id = open.account"
        )
        found: dict[tuple[str, int], Open] = {}
        for content, account, output_bytes, stated, *key in self._db.execute(query):
            reserve = Reserve(key[0], key[1], account, *key[2:])
            used = None if stated is None else msgspec.json.decode(stated, type=Usage)
            found[reserve.request_id, reserve.attempt] = Open(account_of(content, account), reserve, output_bytes, used)
        return found

    def has(self, key: tuple[str, int]) -> bool:
        """Whether an attempt is in the books as ended."""
        query = (
            "SELECT 1 FROM blocks, json_each(rows) WHERE last >= ?1 AND first <= ?1 "
            "AND json_extract(value, '$[0]') = ?1 AND json_extract(value, '$[1]') = ?2"
        )
        return self._db.execute(query, key).fetchone() is not None

    def number(self, account: Account) -> int:
        """The number in the books of an account that a journal has named. Raises sqlite3.Error, LedgerBusy."""
        content = account_content(account)
        found = self._ids.get(content)
        if found is None:
            price = account.price
            row = (
                account.key, account.team, account.model, account.target, account.rule, account.policy, account.shadow,
                int(account.thinks), None if price is None else price.version, content,
            )  # fmt: skip
            try:
                found = self._ids[content] = int(self._db.execute(_NAME, row).lastrowid or 0)
            except sqlite3.IntegrityError:
                raise LedgerBusy(_TWO.format(path=self._path)) from None
        return found

    def take(
        self,
        booked: Sequence[Ended],
        opened: Iterable[tuple[tuple[str, int], Open]],
        closed: Iterable[tuple[str, int]],
        declared: dict[int, Account] | None,
        position: Position,
        pause: Callable[[], None] = lambda: None,
    ) -> None:
        """Write one step of the books: what ended, what is open from now on or no more, and the position after it.

        `declared` is given where the accounts of the journal being read have changed; `pause` is called now and then.
        Raises sqlite3.Error, or LedgerBusy where another process has written here; then nothing of it is written.
        """
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            if self._written() != self._stands:
                raise LedgerBusy(_TWO.format(path=self._path))
            self._enter(booked, pause)
            db.executemany(_CLOSE, closed)
            db.executemany(_OPEN, [_opened(key, one) for key, one in opened])
            if declared is not None:
                db.execute("DELETE FROM declared")
                rows = [(number, account.number) for number, account in declared.items()]
                db.executemany("INSERT INTO declared VALUES (?, ?)", rows)
                db.execute("INSERT OR REPLACE INTO meta VALUES ('began_ms', ?)", (self._began_ms,))
            pairs = zip(("journal", "offset", "checksum"), position, strict=True)
            db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", pairs)
            db.execute("COMMIT")
            self._stands = position
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            self._booked = self._count()
            raise

    def _enter(self, booked: Sequence[Ended], pause: Callable[[], None]) -> None:
        if self.again:
            booked = self._fresh(booked)
        for at in range(0, len(booked), BLOCK):
            rows = booked[at : at + BLOCK]
            columns: list[Sequence[Any]] = list(zip(*rows, strict=True))
            seq = self._booked + len(rows)
            first, last, from_ms, to_ms = min(columns[0]), max(columns[0]), min(columns[3]), max(columns[3])
            encoded = _JSON.encode(rows).decode()
            self._db.execute(_ENTER, (seq, len(rows), first, last, from_ms, to_ms, min(columns[4]), encoded))
            self._db.executemany(_ADD, _sums(rows, columns, from_ms, to_ms))
            self._booked = seq
            pause()

    def _fresh(self, booked: Sequence[Ended]) -> list[Ended]:
        """Those that are not in the books, and not older than what is kept."""
        since, db = self.kept_since_ms, self._db
        return [
            one
            for one in booked
            if one[3] >= since and db.execute("INSERT OR IGNORE INTO known VALUES (?, ?)", one[:2]).rowcount == 1
        ]

    def retire(self, before_ms: int, totals_before_ms: int) -> int:
        """Delete single attempts and totals older than this; how many of the former. Raises sqlite3.Error.

        Attempts go by blocks, when all of a block are older; those that were not shipped stay.
        """
        db = self._db
        shipped = db.execute("SELECT value FROM meta WHERE name = 'shipped'").fetchone()
        upto = shipped[0] if shipped else 1 << 62
        self.kept_since_ms = max(self.kept_since_ms, before_ms)
        db.execute("INSERT OR REPLACE INTO meta VALUES ('kept_since_ms', ?)", (self.kept_since_ms,))
        db.execute("DELETE FROM totals WHERE quarter < ?", (totals_before_ms // QUARTER_MS,))
        count = 0
        while gone := db.execute(_OLD, (before_ms, upto, _RETIRED)).fetchall():
            marks = ", ".join("?" * len(gone))  # one statement, so one transaction, which nobody waits long for
            db.execute(f"DELETE FROM blocks WHERE seq IN ({marks})", [seq for seq, _ in gone])  # noqa: S608 - marks
            count += sum(attempts for _, attempts in gone)
        return count

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Every attempt, for tests."""
        yield from self._db.execute("SELECT * FROM entries")

    def count(self) -> int:
        """How many attempts are kept singly."""
        return int(self._db.execute("SELECT total(attempts) FROM blocks").fetchone()[0])

    def settle_down(self) -> bool:
        """Bring everything from the write-ahead log into the file, and that to the disk. Raises sqlite3.Error.

        False where somebody who reads is in the way.
        """
        busy, _, _ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def damage(db: sqlite3.Connection) -> str:
    """What is wrong with the file of a connection, or nothing: all of it is read. Raises sqlite3.Error."""
    found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        return str(found)
    block = db.execute("SELECT seq - attempts + 1, seq FROM blocks WHERE NOT json_valid(rows) LIMIT 1").fetchone()
    return "" if block is None else f"attempts {block[0]} to {block[1]} cannot be read"


def _opened(key: tuple[str, int], one: Open) -> tuple[Any, ...]:
    reserve = one.reserve
    stated = None if one.stated is None else _JSON.encode(one.stated).decode()
    return (
        *key, one.account.number, reserve.at_ms, reserve.input, reserve.reserved_nano, one.output_bytes, stated
    )  # fmt: skip


def account_content(account: Account) -> str:
    """An account as text, without its number: equal for equal ones."""
    return _JSON.encode([getattr(account, name) for name in Account.__struct_fields__[1:]]).decode()


def account_of(content: str, number: int = 0) -> Account:
    """The account of such a text."""
    return _ACCOUNT.decode(b'["a",%d,%b' % (number, content.encode()[1:]))


def _sums(
    rows: Sequence[Ended], columns: list[Sequence[Any]], from_ms: int, to_ms: int
) -> Iterator[tuple[int | bool, ...]]:
    """What these, which are also given by their columns, add to `totals`."""
    quarter = from_ms // QUARTER_MS
    if to_ms // QUARTER_MS == quarter:
        keys = list(zip(repeat(quarter), columns[2], columns[12]))
    else:
        keys = [(one[3] // QUARTER_MS, one[2], one[12]) for one in rows]
    alike = set(keys)
    if len(alike) == 1:
        yield _sum(keys[0], columns)
        return
    parts: dict[tuple[int, int, bool], list[Ended]] = {key: [] for key in alike}
    for key, one in zip(keys, rows, strict=True):
        parts[key].append(one)
    for key, some in parts.items():
        yield _sum(key, list(zip(*some, strict=True)))


def _sum(key: tuple[int, int, bool], columns: list[Sequence[Any]]) -> tuple[int | bool, ...]:
    return (*key, len(columns[0]), columns[13].count("ok"), columns[5].count(BY_VOID), *map(sum, columns[6:12]))


_JSON = msgspec.json.Encoder()
_ACCOUNT = msgspec.json.Decoder(Account)
