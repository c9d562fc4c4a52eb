"""Shipping: a thread that sends every entry of the local books to PostgreSQL, at least once, and each counts once.

Nothing waits for it. While PostgreSQL is away or refuses, entries stay in the local file and none of them in memory.
Which those are is in `unshipped`; what is sent, in `postgres`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import sqlite3
import threading
import time
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from gateway.ledger import postgres
from gateway.ledger.directory import LedgerSettings, PostgresSettings
from gateway.ledger.postgres import REASONS, Reason
from gateway.ledger.unshipped import Batch, Unshipped, replica_id

if TYPE_CHECKING:
    from asyncpg import Connection

logger = logging.getLogger("pointsman")

EVERY_S = 1.0
#: Entries of one statement. Preparing them holds the interpreter, and requests wait so long.
BATCH = 250
SEND_S = 10.0
#: Without anything to send, the longest that it is not asked whether it still answers: an open socket does not say so.
LOOK_S = 5.0
#: After a failure, the longest that is waited before the next try; half of it at least, so that many replicas do not
#: come back at once.
_AGAIN_S, _MOST_AGAIN_S = 1.0, 10.0
#: At the end of the process, for what is left.
_LAST_S = 3.0

_DO: dict[Reason, str] = {
    "login": "user, password and pg_hba.conf must agree",
    "permission": "the user must own the schema pointsman, or be allowed to create it",
    "schema": "the database must exist, with the tables of gateway/ledger/postgres.sql",
    "tls": "the server's certificate must be for this host, from an authority that ca_file or this machine trusts",
    "connections": "the database takes no more: a larger max_connections, or a pooler before it",
    "timeout": "it hangs, is overloaded, or somebody holds its tables; smaller batches are tried",
    "disk_full": "the database's disk needs room",
    "read_only": "this is a standby, or a database that takes nothing: name the primary",
}


class Shipping:
    """Ships one ledger. All but its numbers and `close` belongs to its thread."""

    def __init__(self, settings: LedgerSettings, place: PostgresSettings) -> None:
        """See what is to be shipped. Raises sqlite3.Error, OSError."""
        self.replica_id = replica_id(settings.directory)
        self.shipped = 0  # entries that PostgreSQL has for good, repetitions included
        self.unshipped = 0
        self.errors: dict[str, int] = dict.fromkeys(REASONS, 0)
        self.failing: Reason | None = None
        self._told: set[Reason] = set()  # of this outage
        self._most = BATCH
        self._oldest_ms = 0
        self._settings = settings
        self._place = place
        self._unshipped = Unshipped(settings.directory)
        self._unshipped.begin()
        self._look()
        self._connection: Connection[Any] | None = None
        self._answered_s = 0.0  # when it last did, by the monotonic clock
        self._closing = threading.Event()
        self._wake: asyncio.Event = None  # type: ignore[assignment]  # made in the thread's loop, as the next one
        self._end: asyncio.Event = None  # type: ignore[assignment]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="shipping", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def lag_s(self) -> float:
        """How long ago the oldest entry ended that PostgreSQL does not have."""
        return max(0.0, time.time() - self._oldest_ms / 1000) if self._oldest_ms else 0.0

    def state(self) -> dict[str, Any]:
        """For `/readyz`."""
        state = "degraded" if self.failing else "ok"
        told: dict[str, Any] = {"state": state, "unshipped": self.unshipped, "behind_s": round(self.lag_s)}
        if self.failing:
            told["reason"] = self.failing
        return told

    def login(self, place: PostgresSettings) -> None:
        """Use this password, at once where it was for want of it that nothing was sent. For any thread."""
        self._place = place
        if self._loop is not None and self.failing:
            self._loop.call_soon_threadsafe(self._wake.set)

    # -- the thread --

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=postgres.Loop) as runner:
            runner.run(self._work())
        self._unshipped.close()

    async def _work(self) -> None:
        self._wake, self._end = asyncio.Event(), asyncio.Event()
        self._loop = asyncio.get_running_loop()
        if self._closing.is_set():
            self._end.set()
        working = asyncio.ensure_future(self._go_on())
        await self._end.wait()
        until = time.monotonic() + _LAST_S
        await self._within(until, working)  # what is in hand may be a try to connect to what hangs
        await self._within(until, asyncio.ensure_future(self._turn(until)))
        self._leave()

    async def _within(self, until: float, task: asyncio.Future[Any]) -> None:
        """Wait for it until then at most."""
        await asyncio.wait({task}, timeout=max(0.0, until - time.monotonic()))
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def _go_on(self) -> None:
        """Ship until the end: what there is, and after a rest what there is by then."""
        again_s = _AGAIN_S
        while not self._closing.is_set():
            if await self._turn():
                wait_s, again_s = EVERY_S, _AGAIN_S
            else:
                wait_s = again_s * (0.5 + random.random() / 2)  # noqa: S311 - nobody guesses
                again_s = min(2 * again_s, _MOST_AGAIN_S)
            await self._rest(wait_s)

    async def _rest(self, wait_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), wait_s)
            if not self._closing.is_set():
                self._wake.clear()

    async def _turn(self, until: float | None = None) -> bool:
        """Ship what there is; False where that failed, which is told once."""
        try:
            self._look()
            if until is None:
                await self._connected()  # with nothing to send too: what will be in the way is told before there is
            while batch := self._unshipped.next(self._most):
                began = time.monotonic()
                await self._send(batch)
                if time.monotonic() - began < SEND_S / 4:
                    self._most = min(2 * self._most, BATCH)
                self._unshipped.done(batch.last)
                self.shipped += len(batch.entries)
                self._look()
                self._well()
                if until is None and self._closing.is_set():
                    break
                if until is not None and time.monotonic() > until:
                    break
            if until is None:
                await self._look_after()
        except sqlite3.Error as error:
            self._fail("local", error)
            return False
        except Exception as error:  # the edge that must hold: whatever is raised, entries stay and are tried again
            self._leave()
            self._fail(postgres.reason(error), error)
            return False
        if self._connection is not None:
            self._well()
        return True

    async def _send(self, batch: Batch) -> None:
        try:
            await self._ship(batch)
        except Exception as error:
            if postgres.reason(error) != "entry":
                raise
            await self._send_singly(batch)

    async def _send_singly(self, batch: Batch) -> None:
        """One entry that PostgreSQL can never take must not hold up all others."""
        for entry in batch.entries:
            try:
                await self._ship(Batch(0, [entry], batch.accounts))
            except Exception as error:
                if postgres.reason(error) != "entry":
                    raise
                self.errors["entry"] += 1
                place = self._place.place
                logger.error(
                    "ledger: %s refuses attempt %d of request %s, which stays in the books of this replica only: %s",
                    place, entry[1], entry[0], postgres.text(error),
                )  # fmt: skip

    async def _ship(self, batch: Batch) -> None:
        connection = await self._connected()
        left = max(0, self.unshipped - len(batch.entries))
        work = postgres.ship(connection, self.replica_id, left, batch.entries, batch.accounts)
        await self._answer(connection, work)

    async def _look_after(self) -> None:
        """One that hangs is noticed before there is something to send."""
        connection = self._connection
        if connection is not None and time.monotonic() - self._answered_s >= LOOK_S:
            await self._answer(connection, connection.execute("SELECT 1"))

    async def _answer(self, connection: Connection[Any], work: Awaitable[object]) -> None:
        await postgres.bounded(connection, work, SEND_S)
        self._answered_s = time.monotonic()

    async def _connected(self) -> Connection[Any]:
        if self._connection is None or self._connection.is_closed():
            self._connection = connection = await postgres.connect(self._place)
            work = postgres.prepare(connection, self.replica_id, self._settings.replica)
            await self._answer(connection, work)
            logger.info("ledger: entries are shipped to %s as %s", self._place.place, self._settings.replica)
        return self._connection

    def _leave(self) -> None:
        """Cut the connection: what it is in the middle of is not known."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    def _look(self) -> None:
        self.unshipped, self._oldest_ms = self._unshipped.left()

    def _fail(self, reason: Reason, error: Exception) -> None:
        self.errors[reason] += 1
        if reason == "timeout":
            self._most = max(1, self._most // 4)  # a server that is slow, not gone, must get on nevertheless
        if reason not in self._told:
            self._told.add(reason)
            do = f": {_DO[reason]}" if reason in _DO else ""
            logger.error(
                "ledger: entries cannot be shipped to %s and wait on this disk (%s): %s%s",
                self._place.place, reason, postgres.text(error), do,
            )  # fmt: skip
        self.failing = reason

    def _well(self) -> None:
        if self.failing:
            logger.info("ledger: entries are shipped again: %d are left", self.unshipped)
            self._told.clear()
        self.failing = None

    def close(self) -> None:
        """Ship what is left, if that takes no longer than a moment, and end the thread."""
        self._closing.set()
        if self._thread.ident is None:
            self._unshipped.close()
            return
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake.set)
            self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(2 * _LAST_S)
