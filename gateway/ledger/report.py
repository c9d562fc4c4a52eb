"""What the books say: usage and cost, grouped and summed. Reads the SQLite file of a ledger, whoever else has it open.

Sums come from totals by the quarter of an hour, so a long time costs little; a time is therefore a number of whole
quarters. How a report is printed is in `command`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from gateway.core.types import NANO_PER_USD
from gateway.ledger.database import QUARTER_MS, SCHEMA
from gateway.ledger.database import SUMS as TOTALS
from gateway.ledger.directory import DATABASE, LedgerError


class Books(Protocol):
    """Books that can be asked in SQL: those of one replica, or of all (`shared.Shared`)."""

    policy: str  # SQL for the name in an account's policy, which is name@digest
    replicas: bool

    def execute(self, sql: str, values: Any = ..., /) -> Any:
        """Ask in SQL, with `?` for each value; the answer is iterable, and has `description` and `fetchone`."""
        ...


class Own(sqlite3.Connection):
    """The books of this replica."""

    policy = "CASE WHEN instr(a.policy, '@') THEN substr(a.policy, 1, instr(a.policy, '@') - 1) ELSE a.policy END"
    replicas = False


#: What a report may be grouped by, and where that stands. A policy goes by its name, a shadow by the policy's entry.
#: Replicas are told apart in the books of all of them only.
GROUPS = {
    "key": "a.key",
    "team": "a.team",
    "model": "a.model",
    "target": "a.target",
    "rule": "a.rule",
    "policy": "{policy}",
    "shadow": "a.shadow",
    "replica": "r.name",
    "day": "t.day",
}
#: Columns of numbers. Token classes do not overlap: input is what was not cached, output what was not reasoning.
#: `failed` attempts cost nothing; `unpriced` ones have no price, so that their cost is not in `cost_nano`.
SUMS = {
    "attempts": "sum(t.attempts)",
    "answered": "sum(t.answered)",
    "failed": "sum(t.void)",
    "input": "sum(t.input - t.cached)",
    "cached": "sum(t.cached)",
    "written": "sum(t.written)",
    "output": "sum(t.output - t.reasoning)",
    "reasoning": "sum(t.reasoning)",
    "cost_nano": "sum(t.cost_nano)",
    "estimated_nano": "sum(t.estimated_nano)",
    "unpriced": "sum(CASE WHEN a.price_version IS NULL THEN t.attempts - t.void ELSE 0 END)",
}
_ACCOUNTS = "JOIN accounts a ON a.id = {of}.account"
_LONGEST_DAYS = 4_000
_BEHIND = (
    "SELECT name, unshipped, (extract(epoch FROM shipped_at) * 1000)::bigint FROM replicas WHERE unshipped > 0 "
    "ORDER BY name"
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be reported: a time in Unix milliseconds, taken to whole quarters of an hour, and for whom."""

    by: tuple[str, ...] = ("team", "key")
    since_ms: int = 0
    until_ms: int = 1 << 52
    zone: tzinfo = UTC  # in which days begin
    only: dict[str, tuple[str, ...]] = field(default_factory=dict)  # group -> the values that count


@dataclass(frozen=True, slots=True)
class Report:
    """Rows as dictionaries of groups and sums, dearest first (by day: in order), their total, and what is missing."""

    by: tuple[str, ...]
    rows: list[dict[str, Any]]
    total: dict[str, int]
    open: int  # attempts under way, which are in no sum
    since_ms: int  # of what is in the books and was asked for; both 0 where there is nothing
    until_ms: int
    behind: tuple[tuple[str, int, int], ...] = ()  # replicas, attempts that they had not sent, and when, Unix ms

    def to_dict(self) -> dict[str, Any]:
        """As JSON: costs in US dollars, times in ISO 8601."""
        return {
            "by": list(self.by),
            "since": _iso(self.since_ms),
            "until": _iso(self.until_ms),
            "rows": [usd(row) for row in self.rows],
            "total": usd(self.total),
            "open": self.open,
            "behind": [{"replica": name, "attempts": left, "at": _iso(at)} for name, left, at in self.behind],
        }


def usd(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its costs in US dollars."""
    return {
        name.replace("_nano", "_usd"): value / NANO_PER_USD if name.endswith("_nano") else value
        for name, value in row.items()
    }


def _iso(at_ms: int) -> str | None:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat() if at_ms else None


@contextmanager
def reading(directory: Path) -> Iterator[Own]:
    """The books of a ledger, opened for reading. Raises LedgerError where there are none, or not in this form.

    All that is asked of them is of one moment.
    """
    path = directory / DATABASE
    if not path.exists():
        raise LedgerError(f"ledger: there are no books in {directory}: start the gateway, or name another folder")
    try:
        db = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, isolation_level=None, factory=Own)
        try:
            db.execute("BEGIN")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version != SCHEMA:
                raise LedgerError(f"ledger: {path} has form {version}, and this version reads form {SCHEMA}")
            yield db
        finally:
            db.close()
    except sqlite3.Error as error:
        raise LedgerError(f"ledger: {path}: {error}") from error


def names(db: Books, group: str) -> set[str]:
    """All that the books have of one of `GROUPS` but the day. Raises as the books do."""
    table = "replicas r" if group == "replica" else "accounts a"
    return {str(name) for (name,) in db.execute(f"SELECT DISTINCT {_group(db, group)} FROM {table}")}  # noqa: S608


def _group(db: Books, name: str) -> str:
    return GROUPS[name].format(policy=db.policy)


def _accounts(db: Books, of: str) -> str:
    """What names the accounts, and the replicas, of rows."""
    joins = _ACCOUNTS.format(of=of)
    return f"{joins} JOIN replicas r ON r.number = {of}.replica" if db.replicas else joins


def _chosen(db: Books, asked: Asked) -> tuple[list[str], list[Any]]:
    """Conditions that keep only what was asked for, and their values."""
    where = [f"{_group(db, name)} IN ({', '.join('?' * len(wanted))})" for name, wanted in asked.only.items()]
    return where, [value for wanted in asked.only.values() for value in wanted]


def lagging(db: Books) -> tuple[tuple[str, int, int], ...]:
    """Replicas that had not sent all, by how many attempts, and when that was, Unix ms."""
    return tuple(db.execute(_BEHIND)) if db.replicas else ()


def report(db: Books, asked: Asked) -> Report:
    """Sum up what was asked for. Raises as the books do."""
    first, last = asked.since_ms // QUARTER_MS, -(-asked.until_ms // QUARTER_MS)
    held = db.execute("SELECT min(quarter), max(quarter) FROM totals WHERE quarter >= ? AND quarter < ?", (first, last))
    begins, ends = held.fetchone()
    waiting = 0 if db.replicas else db.execute("SELECT count(*) FROM open").fetchone()[0]  # which are not shipped
    behind = lagging(db)
    if begins is None:
        return Report(asked.by, [], dict.fromkeys(SUMS, 0), waiting, 0, 0, behind)
    tables, of, day = "totals", "account, replica" if db.replicas else "account", ""
    if "day" in asked.by:
        tables = f"{_days(begins, ends + 1, asked.zone)} JOIN totals ON quarter >= column2 AND quarter < column3"
        day = ", column1"
    where, values = _chosen(db, asked)
    groups = ", ".join(f"{_group(db, name)} AS {name}" for name in asked.by)
    sums = ", ".join(f"{sql} AS {name}" for name, sql in SUMS.items())
    # Names and tables are ours; what a user gave is bound. Accounts are few: names are looked up for their sums only.
    inner = ", ".join(f"sum({name}) AS {name}" for name in TOTALS)
    query = (
        f"SELECT {groups + ', ' if groups else ''}{sums} FROM (SELECT {of}{day and day + ' AS day'}, {inner}, "  # noqa: S608
        f"sum(estimated * cost_nano) AS estimated_nano FROM {tables} WHERE quarter >= ? AND quarter < ? "
        f"GROUP BY {of}{day}) t {_accounts(db, 't')}"
    )
    if where:
        query += f" WHERE {' AND '.join(where)}"
    if asked.by:
        query += f" GROUP BY {', '.join(str(at + 1) for at in range(len(asked.by)))}"  # names would be the columns'
    cursor = db.execute(query, [begins, ends + 1, *values])
    names = [one[0] for one in cursor.description]
    rows = [dict(zip(names, row, strict=True)) for row in cursor]
    if "day" in asked.by:
        rows.sort(key=lambda row: (row["day"], -row["cost_nano"]))
    elif asked.by:  # else it is one row, of nulls where nothing is summed
        rows.sort(key=lambda row: (-row["cost_nano"], -row["attempts"], *(str(row[name]) for name in asked.by)))
    total = {name: sum(row[name] or 0 for row in rows) for name in SUMS}
    shown = rows if asked.by else []
    return Report(asked.by, shown, total, waiting, begins * QUARTER_MS, (ends + 1) * QUARTER_MS, behind)


def _days(first: int, last: int, zone: tzinfo) -> str:
    """A table of the days of a zone, as column1, each as quarters from column2 to column3: 92 to 100 of them."""
    day = datetime.fromtimestamp(first * QUARTER_MS / 1000, zone).date()
    days: list[str] = []
    begins = midnight(day, zone) // QUARTER_MS
    while begins < last and len(days) < _LONGEST_DAYS:
        following = midnight(day + timedelta(days=1), zone) // QUARTER_MS
        days.append(f"('{day.isoformat()}', {begins}, {following})")
        day, begins = day + timedelta(days=1), following
    return f"(VALUES {', '.join(days)}) AS days"


def midnight(day: date, zone: tzinfo) -> int:
    """Unix milliseconds at which a day begins in a zone."""
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()) * 1000


def spent(db: Books, since_ms: int, until_ms: int) -> dict[tuple[str, str], int]:
    """What every (key, team) spent in a time, in nano-USD, with what is reserved for attempts under way.

    For balances at the start of a process. Both times are the beginnings of periods, so whole quarters of an hour.
    Shadows are in it: they cost the same.
    """
    sums: dict[tuple[str, str], int] = {}
    for query, values in (
        (
            "SELECT key, team, sum(cost_nano) FROM totals t JOIN accounts a ON a.id = t.account "
            "WHERE quarter >= ? AND quarter < ? GROUP BY key, team",
            (since_ms // QUARTER_MS, until_ms // QUARTER_MS),
        ),
        (
            "SELECT key, team, sum(reserved_nano) FROM open o JOIN accounts a ON a.id = o.account "
            "WHERE at_ms >= ? AND at_ms < ? GROUP BY key, team",
            (since_ms, until_ms),
        ),
    ):
        for key, team, nano in db.execute(query, values):
            sums[key, team] = sums.get((key, team), 0) + nano
    return sums


#: Columns of an exported attempt; in the books of all replicas, there is one more.
EXPORTED = (
    "request_id", "attempt", "at", "ended", "key", "team", "model", "target", "rule", "policy", "shadow",
    "price_version", "kind", "cause", "input", "cached", "written", "output", "reasoning", "cost_nano", "estimated",
)  # fmt: skip


def exported(db: Books) -> list[str]:
    """The columns of `attempts`."""
    return [*EXPORTED, *(["replica"] if db.replicas else [])]


def attempts(db: Books, asked: Asked) -> Iterator[dict[str, Any]]:
    """Every attempt of a time that is still kept singly, in the order of request ids. Raises as the books do."""
    where, values = _chosen(db, asked)
    if not db.replicas:  # blocks that cannot hold any of them are not taken apart
        begins, ends = (
            "(SELECT min(seq) FROM blocks WHERE to_ms >= ?)",
            "(SELECT max(seq) FROM blocks WHERE from_ms < ?)",
        )
        where = [f"seq BETWEEN {begins} AND {ends}", *where]
        values = [asked.since_ms, asked.until_ms, *values]
    columns = exported(db)
    query = (
        "SELECT request_id, attempt, at_ms, ended_ms, key, team, model, target, rule, policy, shadow, price_version, "  # noqa: S608
        f"kind, cause, input, cached, written, output, reasoning, cost_nano, estimated{', r.name' * db.replicas} "
        f"FROM entries e {_accounts(db, 'e')} WHERE {' AND '.join(['at_ms >= ?', 'at_ms < ?', *where])} "
        "ORDER BY request_id, attempt"
    )
    for row in db.execute(query, [asked.since_ms, asked.until_ms, *values]):
        found = dict(zip(columns, row, strict=True))
        found["request_id"] = getattr(found["request_id"], "hex", found["request_id"])
        found["at"], found["ended"] = _iso(found["at"]), _iso(found["ended"])
        found["kind"] = ("settle", "void", "expire")[found["kind"]]
        found["estimated"] = bool(found["estimated"])
        yield found
