"""The ledger of a running process: its journal, the thread that makes books of it, and how both are.

`open_ledger` takes the folder, checks what is there, settles what a dead process left open, and begins a journal.
From then on the event loop writes entries and a thread reads them on. What the data plane books, and when, is
`gateway.proxy`'s; budgets may ask for what was spent before with `spent`.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway.core.money.booking import CRASH, Account, Plain
from gateway.core.types import Price
from gateway.ledger import postgres
from gateway.ledger.database import Database, OtherForm
from gateway.ledger.directory import DATABASE, Held, LedgerBusy, LedgerError, LedgerSettings
from gateway.ledger.inspecting import Inspecting
from gateway.ledger.journal import Journal
from gateway.ledger.keeping import Keeping
from gateway.ledger.shipping import Shipping
from gateway.ledger.unshipped import Unshipped

logger = logging.getLogger("pointsman")

EVERY_S = 0.25
_EVEN_S = 2.0  # how long one waits for the books at most
_RETIRE_S = 3_600.0
_SLICE_S = 0.0002  # of work, after which the thread lets go of the interpreter, lest a request wait for it
_PAUSE_S = 0.00005


class Ledger:
    """Books of one process. `account`, `tick` and `journal.write` belong to the event loop, `close` to its owner."""

    def __init__(self, settings: LedgerSettings, held: Held, database: Database, keeping: Keeping) -> None:
        """Begin a journal and settle what is open. Raises OSError, sqlite3.Error or LedgerError."""
        self.settings = settings
        self.shut = False  # nothing more may be sent: it could not be booked
        self.failing = False  # what may only be spent where it is booked must not be: the disk takes nothing
        self.database_errors = 0
        self._held = held
        self._database = database
        self.keeping = keeping
        self.journal = Journal(settings.directory, changed=self._judge, durable=settings.durability == "full")
        self._accounts: dict[tuple[object, ...], Account] = {}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._failing = ""  # why the thread cannot go on
        self._damaged = False  # or another process writes them: nothing more may be written to the books
        self._inspecting: Inspecting | None = None
        self._even_at = time.monotonic()  # when all that was written was in the books
        self._retired_at = 0.0
        self._worked = time.perf_counter()
        left = keeping.unsettled(int(time.time() * 1000), CRASH)
        if left:
            self.journal.write(list(left))
            logger.warning("ledger: %d attempts of a process that died were settled by estimates", len(left))
        keeping.catch_up()
        # What is written at the start of a journal is counted as both written and read.
        self._ahead = self.journal.entries - keeping.entries
        self.shipping: Shipping | None = None

    def start(self) -> None:
        """Start the thread, and the one that ships. Raises sqlite3.Error, OSError."""
        self.keeping.pause = self._breathe
        if self.settings.postgres is not None:
            self.shipping = Shipping(self.settings, self.settings.postgres)
            self.shipping.start()
        else:
            unshipped = Unshipped(self.settings.directory)
            unshipped.end()
            unshipped.close()
        self._thread.start()
        path = self.settings.directory / DATABASE
        if path.stat().st_size > CHECKED_AT_START:
            self._inspecting = Inspecting(path, self._on_damage)
            self._inspecting.start()

    # -- the event loop's side --

    def account(
        self, names: tuple[str, str, str, str, str, str], price: Price | None, *, thinks: bool, shadow: str = ""
    ) -> tuple[Account, Plain | None]:
        """The account of (key, team, model, target, rule, policy), and the entry that must go before its first use."""
        key = (names, id(price), thinks, shadow)
        found = self._accounts.get(key)
        if found is not None and found.price is price:
            return found, None
        if len(self._accounts) >= 65_536:
            self._accounts.clear()
        made, entry = self.journal.account(Account(0, *names, thinks, price, shadow))
        self._accounts[key] = made
        return made, entry

    def login(self, settings: LedgerSettings | None) -> bool:
        """Take over PostgreSQL's password, if these are the settings of this ledger but for that: whether they are."""
        mine, new = self.settings.postgres, None if settings is None else settings.postgres
        if settings is None or mine is None or new is None or self.shipping is None:
            return False
        if replace(settings, postgres=replace(new, password=mine.password)) != self.settings:
            return False
        self.settings = settings
        self.shipping.login(new)
        return True

    def tick(self) -> None:
        """Once a second: see whether the disk is well, try again if it was not, and make the next journal ready."""
        self.journal.prove()
        self.journal.catch_up()
        self.journal.prepare()

    def _judge(self) -> None:
        """The disk has begun to fail, fails still, or has recovered."""
        self.failing = self.journal.failing
        self.shut = self.failing and (self.settings.on_error == "refuse" or self.journal.full)

    @property
    def pending(self) -> int:
        """Entries that are not in the books yet."""
        written = self.journal.entries - self.keeping.entries - self._ahead
        return max(0, written) + len(self.journal.unwritten)

    def even(self) -> None:
        """Wait until the books have what is in the journal by now; not for long. For any thread that runs no loop."""
        mark, end = self.journal.entries - self._ahead, time.monotonic() + _EVEN_S
        while self.keeping.entries < mark and self.up and time.monotonic() < end:
            time.sleep(EVERY_S / 10)

    @property
    def lag_s(self) -> float:
        """For how long there have been entries that are not in the books."""
        return time.monotonic() - self._even_at if self.pending else 0.0

    @property
    def up(self) -> bool:
        """The journal is written, and the books are made of it."""
        return not self.journal.failing and not self._failing

    def state(self) -> dict[str, Any]:
        """For `/readyz`."""
        told: dict[str, Any] = {"state": "ok" if self.up else "degraded", "pending": self.pending}
        if self.journal.failing:
            told["reason"] = "the journal cannot be written"
        elif self._failing:
            told["reason"] = self._failing
        if self.shipping is not None:
            told["shipping"] = self.shipping.state()
        return told

    # -- the thread's side --

    def _run(self) -> None:
        while not self._closing.wait(EVERY_S):
            self._turn(retire=True)

    def _on_damage(self, wrong: str) -> None:
        self._damaged = True
        self.database_errors += 1
        self._failing = _damage(self.settings.directory / DATABASE, wrong)
        logger.error(
            "%s; until then the books lie still, the journal goes on, and no journal is deleted", self._failing
        )

    def _turn(self, *, retire: bool = False) -> None:
        if self._damaged:
            return
        try:
            self._worked = time.perf_counter()
            while self.keeping.step():
                pass
            self._even_at = time.monotonic()
            if retire and (self._even_at - self._retired_at > _RETIRE_S or not self._retired_at):
                self._retired_at = self._even_at
                self._retire()
        except (sqlite3.Error, OSError, LedgerError) as error:
            self.database_errors += 1
            if isinstance(error, LedgerBusy):
                self._damaged = True  # the other one goes on with them
            if not self._failing:
                logger.error("ledger: the books lie still, the journal goes on: %s", error)
            self._failing = str(error)
        except Exception:  # the edge that must hold: a defect must not end the keeping of books unnoticed
            self.database_errors += 1
            if not self._failing:
                logger.exception("ledger: the books lie still, the journal goes on")
            self._failing = "a defect of the gateway, see the log"
        else:
            if self._failing and not self._damaged:
                logger.info("ledger: the books are kept again")
                self._failing = ""

    def _retire(self) -> None:
        now_ms = time.time() * 1000
        settings = self.settings
        self._database.retire(int(now_ms - settings.keep_s * 1000), int(now_ms - settings.keep_totals_s * 1000))
        self.keeping.discard()

    def _breathe(self) -> None:
        """Let go of the interpreter where this thread has had it for long."""
        if time.perf_counter() - self._worked > _SLICE_S:
            time.sleep(_PAUSE_S)
            self._worked = time.perf_counter()

    def close(self) -> None:
        """Write and book what is left, and let go of the folder."""
        self.journal.close()
        self._closing.set()
        if self._inspecting is not None:
            self._inspecting.stop()
        if self._thread.ident is not None:
            self._thread.join()
        self._turn()
        if self.shipping is not None:
            self.shipping.close()
        self.keeping.close()
        try:
            if not self._failing:
                self._database.settle_down()
            self._database.close()
        except sqlite3.Error as error:
            logger.error("ledger: %s", error)
        self._held.release()


#: Above this size books are checked while requests are already served, by `inspecting`: all of them must be read.
CHECKED_AT_START = 256 << 20


def open_ledger(settings: LedgerSettings) -> Ledger:
    """Take the folder and bring its books up to date. Raises LedgerError, which says how to go on."""
    if settings.postgres is not None:
        postgres.require()
    held = Held(settings.directory)
    try:
        return _open(settings, held)
    except LedgerError:
        held.release()
        raise
    except (sqlite3.Error, OSError) as error:
        held.release()
        raise LedgerError(f"ledger: {settings.directory}: {error}") from error


def _open(settings: LedgerSettings, held: Held) -> Ledger:
    database = open_database(settings.directory / DATABASE)
    try:
        keeping = Keeping(settings.directory, database)
        keeping.catch_up()
        return Ledger(settings, held, database, keeping)
    except BaseException:
        database.close()
        raise


def open_database(path: Path) -> Database:
    """Open and check the books. Raises LedgerError where they are damaged."""
    try:
        database = Database(path)
        wrong = database.check() if path.stat().st_size <= CHECKED_AT_START else ""
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
        if isinstance(error, OtherForm):
            raise LedgerError(f"ledger: {path} {error}: {_REPAIR}") from None
        wrong = str(error)
    if wrong:
        raise LedgerError(_damage(path, wrong))
    return database


_REPAIR = "`pointsman usage --repair` keeps it aside and makes the books again from all that can be read"


def _damage(path: Path, wrong: str) -> str:
    return f"ledger: {path} is damaged ({wrong:.200}): {_REPAIR}"
