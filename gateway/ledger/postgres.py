"""PostgreSQL as the ledger talks to it: connections, the tables, what one batch is written with, what errors mean.

asyncpg is the driver: its licence is Apache's, it waits no longer than it is told to, and it writes a batch as arrays
in one statement. It is an extra and imported here only. Who ships, and when, is `shipping`; who reads, `shared`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Awaitable, Sequence
from importlib import resources
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from gateway.ledger.directory import LedgerError, PostgresSettings

if TYPE_CHECKING:
    from asyncpg import Connection

CONNECT_S = 5.0
FORM = 1
_LOCK = 0x706F696E7473  # an advisory lock: one replica makes the tables, the others wait for it
_MADE = "SELECT to_regclass('pointsman.form') IS NOT NULL"

Reason = Literal[
    "unreachable",
    "timeout",
    "tls",
    "login",
    "permission",
    "schema",
    "connections",
    "disk_full",
    "read_only",
    "entry",
    "local",
    "other",
]
#: Why entries cannot be shipped, by the beginning of PostgreSQL's code, longest first.
_REASONS: tuple[tuple[str, Reason], ...] = (
    ("57014", "timeout"), ("55P03", "timeout"), ("53300", "connections"), ("53100", "disk_full"),
    ("25006", "read_only"), ("42501", "permission"), ("23502", "schema"), ("42704", "schema"), ("57P", "unreachable"),
    ("53", "unreachable"), ("08", "unreachable"), ("28", "login"), ("3D", "schema"), ("3F", "schema"),
    ("42", "schema"), ("22", "entry"), ("23", "entry"),
)  # fmt: skip
REASONS: tuple[Reason, ...] = get_args(Reason)

_T = TypeVar("_T")


class WrongForm(LedgerError):
    """The database's tables are of another version."""


def reason(error: BaseException) -> Reason:
    """Why PostgreSQL did not do what it was asked for."""
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, ssl.SSLError | ssl.CertificateError):
        return "tls"
    if isinstance(error, WrongForm):
        return "schema"
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str):
        return next((found for begins, found in _REASONS if state.startswith(begins)), "other")
    return "unreachable" if isinstance(error, OSError) else "other"


def text(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


#: What is wrong where the driver is not installed, and what would be right.
MISSING = "needs a package that is not installed", "pip install 'pointsman[postgres]'"


def installed() -> bool:
    """Whether the driver is."""
    return find_spec("asyncpg") is not None


def require() -> None:
    """Raises LedgerError where the driver is not installed."""
    if not installed():
        raise LedgerError(f"ledger.postgres: {': '.join(MISSING)}")


class Loop(asyncio.SelectorEventLoop):
    """A loop that a name server which does not answer can neither hold up at its end nor fill with threads.

    The loop's own way asks in threads of a pool, for which the end of the process waits.
    """

    _asking: threading.Thread | None = None

    async def getaddrinfo(  # type: ignore[no-untyped-def]
        self, host, port, *, family=0, type=0, proto=0, flags=0
    ):
        """As the loop's own, but for one question at a time. Raises TimeoutError while one is not answered."""
        if self._asking is not None and self._asking.is_alive():
            raise TimeoutError("the name server has not answered yet")
        answer = self.create_future()

        def tell(found: Any) -> None:
            if not answer.done():
                answer.set_exception(found) if isinstance(found, OSError) else answer.set_result(found)

        def ask() -> None:
            try:
                found: Any = socket.getaddrinfo(host, port, family, type, proto, flags)
            except OSError as error:
                found = error
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self.call_soon_threadsafe(tell, found)

        self._asking = threading.Thread(target=ask, name="names", daemon=True)
        self._asking.start()
        return await answer


async def connect(settings: PostgresSettings) -> Connection[Any]:
    """A connection. Raises what the driver raises, see `reason`."""
    import asyncpg  # noqa: PLC0415 - an extra

    verified: ssl.SSLContext | Literal[False] = False
    if settings.tls:
        verified = ssl.create_default_context(cafile=settings.ca_file)
    made = asyncpg.connect(
        host=settings.host,
        port=settings.port,
        user=settings.user,
        password="" if settings.password is None else settings.password.reveal(),
        database=settings.database,
        ssl=verified,
        timeout=CONNECT_S,
        statement_cache_size=0,  # what stands between may hand the next statement to another session
        server_settings={"application_name": "pointsman"},
    )
    return await asyncio.wait_for(made, CONNECT_S)


async def bounded(connection: Connection[Any], work: Awaitable[_T], within_s: float) -> _T:
    """What `work` gives; after this time the connection is cut, for a server that hangs does not obey either."""
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=within_s)
    finally:
        if not task.done():
            connection.terminate()
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
    if not done:
        raise TimeoutError(f"no answer within {within_s:g} s")
    return task.result()


async def prepare(connection: Connection[Any], replica_id: str, name: str) -> None:
    """Make the tables where they are missing, and make this replica known. Raises as `connect`, and WrongForm."""
    if not await connection.fetchval(_MADE):
        tables = resources.files("gateway.ledger").joinpath("postgres.sql").read_text("utf-8")
        async with connection.transaction():
            await connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")
            await connection.execute(tables)
    form = await connection.fetchval("SELECT max(version) FROM pointsman.form")
    if form != FORM:
        raise WrongForm(f"the tables have form {form}, and this version writes form {FORM}")
    await connection.execute(
        "INSERT INTO pointsman.replicas (id, name, shipped_at, unshipped) VALUES ($1, $2, now(), 0) "
        "ON CONFLICT (id) DO UPDATE SET name = excluded.name",
        replica_id,
        name,
    )


_ENTRY = (
    "request_id uuid", "attempt int", "account uuid", "at_ms bigint", "ended_ms bigint", "kind smallint",
    "input bigint", "cached bigint", "written bigint", "output bigint", "reasoning bigint", "cost_nano bigint",
    "estimated smallint", "cause text",
)  # fmt: skip
_ACCOUNT = (
    "id uuid", "key text", "team text", "model text", "target text", "rule text", "policy text", "shadow text",
    "thinks smallint", "price_version text",
)  # fmt: skip
ENTRY = tuple(one.partition(" ")[0] for one in _ENTRY)
ACCOUNT = tuple(one.partition(" ")[0] for one in _ACCOUNT)
_SUMS = ("attempts", "answered", "void", "input", "cached", "written", "output", "reasoning", "cost_nano")


def _ship() -> str:
    """One statement that writes a batch, whole or not at all: what is there already changes nothing."""
    arrays = [f"${at}::{one.partition(' ')[2]}[]" for at, one in enumerate(_ENTRY + _ACCOUNT, 3)]
    entries, accounts = ", ".join(arrays[: len(_ENTRY)]), ", ".join(arrays[len(_ENTRY) :])
    columns = ", ".join(ENTRY)
    sums = ", ".join(f"sum({name})" for name in _SUMS[3:])
    adds = ", ".join(f"{name} = totals.{name} + excluded.{name}" for name in _SUMS)
    return (
        # Of the accounts, which replicas share, in one order, so that none waits for another in a circle.
        f"WITH named AS (INSERT INTO pointsman.accounts SELECT * FROM unnest({accounts}) ON CONFLICT DO NOTHING), "  # noqa: S608
        "told AS (UPDATE pointsman.replicas SET shipped_at = now(), unshipped = $2 WHERE id = $1), "
        f"fresh AS (INSERT INTO pointsman.entries ({columns}, replica) "
        f"SELECT g.*, (SELECT number FROM pointsman.replicas WHERE id = $1) FROM unnest({entries}) AS g({columns}) "
        "ON CONFLICT DO NOTHING RETURNING *), "
        f"summed AS (INSERT INTO pointsman.totals (quarter, replica, account, estimated, {', '.join(_SUMS)}) "
        "SELECT at_ms / 900000, replica, account, estimated, count(*), count(*) FILTER (WHERE cause = 'ok'), "
        f"count(*) FILTER (WHERE kind = 1), {sums} FROM fresh GROUP BY 1, 2, 3, 4 "
        f"ON CONFLICT (quarter, replica, account, estimated) DO UPDATE SET {adds}) "
        "SELECT count(*) FROM fresh"
    )


_SHIP = _ship()


async def ship(
    connection: Connection[Any],
    replica_id: str,
    left: int,
    entries: Sequence[tuple[Any, ...]],
    accounts: Sequence[tuple[Any, ...]],
) -> int:
    """Write entries, as in `ENTRY`, with their accounts, as in `ACCOUNT`; how many were new. All or none.

    `left` is how many this replica still has. Raises as `connect`.
    """
    columns = [*zip(*entries, strict=True), *zip(*sorted(accounts), strict=True)]
    return int(await connection.fetchval(_SHIP, replica_id, left, *columns))
