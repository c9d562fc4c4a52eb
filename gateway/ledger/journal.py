"""The journal: lines appended by one process, one `write(2)` for all entries of a turn of its event loop.

Here belong the file that grows, its rotation, and what happens while it cannot be written. What a line holds is
`core.booking`'s business; who reads it, `keeping`'s. A line that was written survives the death of the process; with
`sync` also that of the machine.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from gateway.core import booking
from gateway.core.booking import Account, Plain
from gateway.ledger.directory import journal_path, journals

logger = logging.getLogger("pointsman")

ROTATE_BYTES = 64 << 20
#: Entries that are kept in memory while the disk takes none; beyond, requests must be refused, for none may be lost.
MOST_UNWRITTEN = 50_000
#: How long a disk that failed is left alone.
AGAIN_S = 0.25
_SLICE = 512  # entries of one line, where many have gathered


class Journal:
    """The file that this process appends to. `write` belongs to the event loop; `close` to who owns the process."""

    def __init__(
        self, directory: Path, clock: Callable[[], float] = time.time, rotate_bytes: int = ROTATE_BYTES
    ) -> None:
        """Open a new file, after those that are there. Raises OSError."""
        self.entries = 0  # written
        self.errors = 0
        self.unwritten: list[Plain] = []
        self._directory = directory
        self._clock = clock
        self._rotate_bytes = rotate_bytes
        self._accounts: list[Account] = []
        self._failed_at = 0.0
        self._torn = False  # the file ends inside a line
        self._descriptor = -1
        self._size = 0
        self._checksum = 0
        self.number = max(journals(directory), default=0)
        self._open()

    @property
    def failing(self) -> bool:
        """The disk does not take what is written."""
        return bool(self.unwritten)

    @property
    def full(self) -> bool:
        """As much is waiting for the disk as may."""
        return len(self.unwritten) >= MOST_UNWRITTEN

    def account(self, content: Account) -> tuple[Account, Plain]:
        """Number an account that attempts will be booked on, and the entry that says so, to be written before them."""
        account = msgspec.structs.replace(content, number=len(self._accounts) + 1)
        self._accounts.append(account)
        return account, account

    def write(self, entries: list[Plain]) -> None:
        """Append these entries. HOT. Those that the disk does not take are kept, and written as soon as it does."""
        if self.unwritten:
            self.unwritten += entries
            self.catch_up()
            return
        line, checksum = booking.seal(entries, self._checksum)
        try:
            count = os.write(self._descriptor, line)
        except OSError as error:
            self._fail(entries, error)
            return
        if count != len(line):
            self._torn = True
            self._fail(entries, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
            return
        self._checksum = checksum
        self._size += count
        self.entries += len(entries)
        if self._size >= self._rotate_bytes:
            self._rotate()

    def catch_up(self, *, now: bool = False) -> None:
        """Try again to write what is waiting, unless it was tried just now."""
        if not self.unwritten or (not now and time.monotonic() < self._failed_at + AGAIN_S):
            return
        waiting, self.unwritten = self.unwritten, []
        try:
            if self._torn:
                os.ftruncate(self._descriptor, self._size)
                self._torn = False
        except OSError as error:
            self._fail(waiting, error)
            return
        for at in range(0, len(waiting), _SLICE):
            self.write(waiting[at : at + _SLICE])
        if not self.unwritten:
            self._failed_at = 0.0
            logger.info("ledger: the journal is written again: %d entries had been waiting", len(waiting))

    def sync(self) -> None:
        """Have everything that was written survive a loss of power. Raises OSError."""
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Write what is waiting, if that can be, and close the file."""
        if self._descriptor < 0:
            return
        self.catch_up(now=True)
        if self.unwritten:
            logger.error("ledger: %d entries could not be written and are lost", len(self.unwritten))
        os.close(self._descriptor)
        self._descriptor = -1

    def _fail(self, entries: list[Plain], error: OSError) -> None:
        if not self.unwritten and not self._failed_at:
            logger.error("ledger: the journal in %s cannot be written: %s", self._directory, error.strerror)
        self.errors += 1
        self.unwritten += entries
        self._failed_at = time.monotonic()

    def _open(self) -> None:
        """Begin the next file; the present one stays until that has worked, or a process without file descriptors
        would lose its journal."""
        number = self.number + 1
        path = journal_path(self._directory, number)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        try:
            data, checksum = b"", 0
            opening: list[Plain] = [("j", booking.VERSION, int(self._clock() * 1000)), *self._accounts]
            for at in range(0, len(opening), _SLICE):
                line, checksum = booking.seal(opening[at : at + _SLICE], checksum)
                data += line
            if os.write(descriptor, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self.number, self._size, self._checksum = descriptor, number, len(data), checksum
        self.entries += len(opening)

    def _rotate(self) -> None:
        try:
            self._open()
        except OSError as error:
            self.errors += 1
            self._rotate_bytes += ROTATE_BYTES  # go on with this one, and try again later
            logger.warning("ledger: the journal goes on in the same file: %s", error.strerror)
