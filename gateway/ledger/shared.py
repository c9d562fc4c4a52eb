"""The books of all replicas, read from PostgreSQL: what `report` asks, and what budgets begin from.

Reading only. `report` makes the sums, with the same words as of a single replica's books; writing is `shipping`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

from gateway.ledger import postgres
from gateway.ledger.database import QUARTER_MS
from gateway.ledger.directory import LedgerError, PostgresSettings

if TYPE_CHECKING:
    from asyncpg import Connection

ANSWER_S = 60.0
_PAGE = 500
_T = TypeVar("_T")


class Shared:
    """One state of the books of all replicas, to be asked as `report.Books` says."""

    policy = "split_part(a.policy, '@', 1)"
    replicas = True

    def __init__(self, runner: asyncio.Runner, connection: Connection[Any]) -> None:
        self._runner = runner
        self._connection = connection

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """What an operation on the connection gives. Raises as `reading`."""
        return self._runner.run(postgres.bounded(self._connection, work, ANSWER_S))

    def execute(self, sql: str, values: Sequence[Any] = ()) -> Answer:
        """Ask in SQL, with `?` for each value."""
        parts = sql.split("?")
        numbered = "".join(f"{part}${at}" for at, part in enumerate(parts[:-1], 1)) + parts[-1]
        return self.run(self._ask(numbered, values))

    async def _ask(self, sql: str, values: Sequence[Any]) -> Answer:
        statement = await self._connection.prepare(sql)
        names = [(one.name,) for one in statement.get_attributes()]
        return Answer(self, names, await statement.cursor(*values))


class Answer:
    """The rows that were asked for, fetched as they are read."""

    def __init__(self, books: Shared, description: list[tuple[str]], cursor: Any) -> None:
        self.description = description
        self._books = books
        self._cursor = cursor

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        while page := self._books.run(self._cursor.fetch(_PAGE)):
            for row in page:
                yield tuple(int(value) if type(value) is Decimal else value for value in row)

    def fetchone(self) -> tuple[Any, ...]:
        """The only row."""
        return next(iter(self))


class Empty:
    """The books of all replicas before the first of them has made the tables."""

    policy = Shared.policy
    replicas = True
    description: tuple[tuple[str], ...] = ()

    def execute(self, sql: str, values: Sequence[Any] = ()) -> Empty:
        """The answer to whatever is asked: no rows, and of an aggregate nulls."""
        return self

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(())

    def fetchone(self) -> tuple[None, None]:
        """A row of nulls, such as the least and the greatest of nothing."""
        return None, None


@contextmanager
def reading(settings: PostgresSettings) -> Iterator[Shared | Empty]:
    """The books of all replicas, opened for reading. Raises LedgerError where they cannot be read."""
    postgres.require()
    try:
        with asyncio.Runner(loop_factory=postgres.Loop) as runner:
            connection = runner.run(postgres.connect(settings))
            try:
                books = Shared(runner, connection)
                yield books if books.run(_begin(connection)) else Empty()
            finally:
                connection.terminate()
    except (LedgerError, GeneratorExit):
        raise
    except Exception as error:
        why = postgres.reason(error)
        if why == "other" and getattr(error, "sqlstate", None) is None:
            raise
        raise LedgerError(
            f"ledger: PostgreSQL at {settings.place} cannot be read ({why}): {postgres.text(error)}"
        ) from error


async def _begin(connection: Connection[Any]) -> bool:
    """Whether there are tables, which are read as they stand at one moment."""
    if not await connection.fetchval("SELECT to_regclass('pointsman.form') IS NOT NULL"):
        return False
    await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL search_path = pointsman")
    form = await connection.fetchval("SELECT max(version) FROM form")
    if form != postgres.FORM:
        raise LedgerError(f"ledger: the database's tables have form {form}, and this version reads {postgres.FORM}")
    return True


def spent(settings: PostgresSettings, since_ms: int, until_ms: int) -> dict[tuple[str, str, str], int]:
    """What every (replica's id, key, team) spent in a time, in nano-USD, as far as it was shipped.

    Both times are the beginnings of periods, so whole quarters of an hour. A replica that runs knows its own part
    better: `report.spent` has what it did not ship yet, and what is reserved. Its id is in `unshipped.replica_id`.
    Raises LedgerError. For any thread that runs no loop.
    """
    query = (
        "SELECT r.id, a.key, a.team, sum(t.cost_nano) FROM totals t JOIN accounts a ON a.id = t.account "
        "JOIN replicas r ON r.number = t.replica WHERE t.quarter >= ? AND t.quarter < ? GROUP BY 1, 2, 3"
    )
    with reading(settings) as books:
        rows = books.execute(query, (since_ms // QUARTER_MS, until_ms // QUARTER_MS))
        return {(replica.hex, key, team): nano for replica, key, team, nano in rows}
