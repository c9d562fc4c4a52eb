"""The check of books that are too large to be checked before requests are served: beside the serving, once.

It reads the whole file, in a thread and over a connection of its own that cannot write. What follows from what it finds
is the ledger's business.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

from gateway.ledger.database import damage

logger = logging.getLogger("pointsman")


class Inspecting:
    """One check of one file. `damaged` is told, in its thread, what is wrong, if anything is."""

    def __init__(self, path: Path, damaged: Callable[[str], None]) -> None:
        self._path = path
        self._damaged = damaged
        self._db: sqlite3.Connection | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="inspecting", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Give it up, if it is under way."""
        self._stopped = True
        while self._thread.is_alive():
            if self._db is not None:
                self._db.interrupt()
            self._thread.join(0.05)

    def _run(self) -> None:
        logger.info("ledger: %s is checked while requests are served", self._path)
        try:
            self._db = db = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True)
            try:
                found = "stopped" if self._stopped else damage(db)
            finally:
                self._db = None
                db.close()
        except sqlite3.OperationalError as error:
            if not self._stopped:
                logger.warning("ledger: %s could not be checked: %s", self._path, error)
            return
        except sqlite3.DatabaseError as error:
            found = str(error)
        if not found:
            logger.info("ledger: %s is sound", self._path)
        elif not self._stopped:
            self._damaged(found)
