"""Where a ledger lies: its folder, the names in it, who may write there, and what is said when that cannot be.

    lock                      held by the one process that writes
    journal-00000001.log      what that process writes, one line for each turn of its loop; numbered, never reused
    journal.spare             the next of these, made ready
    ledger.sqlite             the books, made from the journals
    replica                   the id by which they are known where they are shipped to

Nothing here knows what the files hold.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

from gateway.core.types import Secret

DATABASE = "ledger.sqlite"
LOCK = "lock"
SPARE = "journal.spare"
_JOURNAL = re.compile(r"journal-(\d{8})\.log")


class LedgerError(Exception):
    """The ledger cannot be used; the text says why and how to go on."""


class LedgerBusy(LedgerError):
    """Another process has it."""


@dataclass(frozen=True, slots=True)
class PostgresSettings:
    """Where entries are shipped to. `host` may be the folder of a Unix socket."""

    host: str
    port: int
    database: str
    user: str
    password: Secret | None = None
    tls: bool = False  # with a certificate for `host` from who is trusted
    ca_file: Path | None = None  # who is; None: whom this machine trusts

    @property
    def place(self) -> str:
        """For people: host, port and database."""
        return f"{self.host}:{self.port}/{self.database}"


@dataclass(frozen=True, slots=True)
class LedgerSettings:
    """What `ledger:` in pointsman.yaml says; times in seconds."""

    directory: Path
    keep_s: float = 90 * 86_400.0  # single attempts
    keep_totals_s: float = 1_096 * 86_400.0
    durability: Literal["normal", "full"] = "normal"
    on_error: Literal["pass", "refuse"] = "pass"
    postgres: PostgresSettings | None = None
    replica: str = ""  # by which name entries are shipped


def default_directory(config: Path, environ: Mapping[str, str]) -> Path:
    """Where the ledger of a configuration lies that names no place: `$XDG_STATE_HOME/pointsman/<name>-<hash>`.

    Else below `~/.local/state`, else beside the file. The hash is of the file's absolute path, so that two
    configurations never share one.
    """
    base = environ.get("XDG_STATE_HOME") or (f"{environ['HOME']}/.local/state" if environ.get("HOME") else "")
    path = config.absolute()
    if not base.startswith("/"):
        base = str(path.parent)
    return Path(base) / "pointsman" / f"{path.stem}-{sha256(os.fsencode(path)).hexdigest()[:12]}"


class Held:
    """A folder that this process alone writes to, for as long as it holds the lock."""

    def __init__(self, directory: Path) -> None:
        """Make the folder, readable by its owner only, and take its lock. Raises LedgerError."""
        self.directory = directory
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            valid = "ledger: {dir: PATH} with a folder that this user may write to, or ledger: none"
            raise LedgerError(f"ledger: cannot write to {directory}: {error.strerror}: {valid}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise LedgerBusy(
                f"ledger: {directory} is in use by another process: end that one, or give this one a folder of its own "
                "with ledger: {dir: PATH}"
            ) from error

    def release(self) -> None:
        """Let others have it."""
        os.close(self._lock)


def journals(directory: Path) -> list[int]:
    """The numbers of the journals that are there, ascending."""
    found = (_JOURNAL.fullmatch(path.name) for path in directory.iterdir())
    return sorted(int(match[1]) for match in found if match)


def journal_path(directory: Path, number: int) -> Path:
    """The file of a journal."""
    return directory / f"journal-{number:08d}.log"
