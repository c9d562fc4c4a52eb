"""`pointsman usage --repair`: books made again from all that can still be read, and nothing deleted.

Damaged files, and those of another form, are kept aside under another name. What single attempts the old books still
tell, and the journals that are there, make the new ones; totals older than any single attempt are taken over. What is
missing is said.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import msgspec

from gateway.core.money import booking
from gateway.core.money.booking import Began, Ended
from gateway.ledger.database import BLOCK, Database, OtherForm
from gateway.ledger.directory import DATABASE, Held, LedgerError, LedgerSettings, journal_path, journals
from gateway.ledger.keeping import Keeping

#: What is read of the old books, by their keys. Form 1 had attempts in a table, one in a row; from form 2 on, a view.
_TABLES = {"accounts": "id", "blocks": "seq", "entries": "request_id", "totals": "quarter"}


def repair(settings: LedgerSettings) -> list[str]:
    """Mend a ledger that no process has open; the lines to tell. Raises LedgerError."""
    held = Held(settings.directory)
    path = settings.directory / DATABASE
    said: list[str] = []
    try:
        if path.exists() and (found := _damage(path)):
            kind, wrong = found
            aside = path.with_name(f"{DATABASE}.{kind}-{int(time.time())}")
            for suffix in ("", "-wal", "-shm"):
                with suppress(FileNotFoundError):
                    path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
            said.append(f"{path} {wrong:.200} and is kept as {aside.name}")
            said += _salvage(aside, path)
        with closing(Database(path)) as database:
            keeping = Keeping(settings.directory, database, repair=True)
            keeping.catch_up()
            keeping.close()
            if keeping.skipped:
                said.append(f"{keeping.skipped} damaged lines of journals were passed over: what they said is missing")
            if keeping.lost:
                said.append(f"{keeping.lost} attempts ended whose beginning is missing: they are not booked")
            booked, read = database.count(), len(journals(settings.directory))
            said.append(f"{booked} attempts are in the books now; {read} journals were read")
    except (sqlite3.Error, OSError) as error:
        raise LedgerError(f"ledger: {settings.directory}: {error}") from error
    finally:
        held.release()
    return said


def _damage(path: Path) -> tuple[str, str] | None:
    """Why the file cannot stay, in a word and in words."""
    try:
        with closing(Database(path)) as database:
            wrong = database.check()
    except OtherForm as error:
        return "former", str(error)
    except sqlite3.DatabaseError as error:
        wrong = str(error)
    return ("damaged", f"was damaged ({wrong:.160})") if wrong else None


def _salvage(old: Path, new: Path) -> list[str]:
    """Copy what the old books still tell into new ones, which no journal has been read into."""
    rows: dict[str, list[tuple[Any, ...]]] = {name: list(_rows(old, name)) for name in _TABLES}
    with closing(Database(new)):
        pass
    with closing(sqlite3.connect(new, isolation_level=None)) as db:
        db.execute("BEGIN")
        accounts = {row[0] for row in rows["accounts"]}
        blocks = [block for row in rows["blocks"] if (block := _readable(row, accounts))]
        blocks += _blocks([row for row in rows["entries"] if row[2] in accounts])
        totals = [row for row in rows["totals"] if row[1] in accounts]
        for name, some in (("accounts", rows["accounts"]), ("blocks", blocks), ("totals", totals)):
            for row in some:
                marks = ", ".join("?" * len(row))
                db.execute(f"INSERT OR IGNORE INTO {name} VALUES ({marks})", row)  # noqa: S608 - names of ours
        # From there on single attempts are known, or read again from journals: their sums are made again.
        since = min([row[4] for row in blocks] + _begun(new.parent), default=1 << 62) // 900_000
        db.execute("DELETE FROM totals WHERE quarter >= ?", (since,))
        db.execute(
            "INSERT INTO totals SELECT at_ms / 900000, account, estimated, count(*), sum(cause = 'ok'), sum(kind = 1), "
            "sum(input), sum(cached), sum(written), sum(output), sum(reasoning), sum(cost_nano) FROM entries "
            "GROUP BY 1, 2, 3"
        )
        db.execute("COMMIT")
    return [f"{sum(row[1] for row in blocks)} attempts and {len(accounts)} accounts could be read from it"]


def _begun(directory: Path) -> list[int]:
    """When the oldest journal was begun, if it says so."""
    for number in journals(directory)[:1]:
        with journal_path(directory, number).open("rb") as file:
            return [one.at_ms for one in booking.read(file.readline(), 0).entries if type(one) is Began]
    return []


def _readable(block: tuple[Any, ...], accounts: set[int]) -> tuple[Any, ...] | None:
    """A block with those of its attempts whose account is known; None: there is none."""
    with suppress(msgspec.MsgspecError, UnicodeError):
        rows = [row for row in msgspec.json.decode(block[-1], type=list[Ended]) if row[2] in accounts]
        if rows:
            return (block[0], len(rows), *block[2:-1], msgspec.json.encode(rows).decode())
    return None


def _blocks(entries: list[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Attempts of form 1, by their request ids, as form 2 keeps them."""
    for at in range(0, len(entries), BLOCK):
        rows = [(*one[:12], bool(one[12]), one[13]) for one in entries[at : at + BLOCK]]
        ids, began = sorted(row[0] for row in rows), sorted(row[3] for row in rows)
        ended = min(row[4] for row in rows)
        text = msgspec.json.encode(rows).decode()
        yield (at + len(rows), len(rows), ids[0], ids[-1], began[0], began[-1], ended, text)


def _rows(path: Path, table: str) -> Iterator[tuple[Any, ...]]:
    """The rows that can be read, from both ends towards the damage."""
    seen: set[tuple[Any, ...]] = set()
    for order in ("", " DESC"):
        with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            if not db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)).fetchone():
                return
            for row in db.execute(f"SELECT * FROM {table} ORDER BY {_TABLES[table]}{order}"):  # noqa: S608 - ours
                if row not in seen:
                    seen.add(row)
                    yield row
