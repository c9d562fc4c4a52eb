"""The journal: lines appended by one process, all entries of a turn of its event loop as one line.

Here belong the file that grows, its rotation, and what happens while there is no room for it. What a line holds is
`core.money.booking`'s business; who reads it, `keeping`'s.

The file is mapped into memory and lines are stored there: what was stored is the kernel's and survives the death of
the process as if it had been written, without the system call that would be most of what a request pays for its books.
All room is allocated before it is mapped, and the next file is made ready while the present one is used.
So a full disk and a process without file descriptors show as an error before they matter, and never in the middle of a
line. A store says nothing of a disk that has become read-only or is gone: once a second a byte is written as well, and
`shield` survives a page that cannot be had.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import msgspec

from gateway.core.money import booking
from gateway.core.money.booking import Account, Plain
from gateway.ledger.directory import SPARE, journal_path, journals
from gateway.ledger.shield import Shield

logger = logging.getLogger("pointsman")

#: Bytes of a file.
ROOM = 16 << 20
#: Entries that are kept in memory while the disk takes none; beyond, requests must be refused, for none may be lost.
MOST_UNWRITTEN = 50_000
#: How long a disk that failed is left alone.
AGAIN_S = 0.25
_SLICE = 512  # entries of one line, where many have gathered


_encode = msgspec.json.Encoder().encode


class Journal:
    """The file that this process appends to. `write` belongs to the event loop; `close` to who owns the process."""

    def __init__(
        self,
        directory: Path,
        clock: Callable[[], float] = time.time,
        room: int = ROOM,
        changed: Callable[[], None] = lambda: None,
        *,
        durable: bool = False,
    ) -> None:
        """Begin a file, after those that are there; `changed` is called as more or less is `unwritten`. Raises OSError.

        `room` is that of a file, in bytes; with `durable` a file is on the disk before the next one is begun.
        """
        self.entries = 0  # written
        self.errors = 0
        self.unwritten: list[Plain] = []
        self.number = max(journals(directory), default=0)
        self._directory = directory
        self._clock = clock
        self._room = room
        self._changed = changed
        self._durable = durable
        self._accounts: list[Account] = []
        self._failed_at = 0.0
        self._told = False  # that it fails
        self._broken = False  # the present file takes nothing more, and no other could be begun
        self._shield = Shield()
        self._descriptor = -1
        self._spare: _Spare | None = None
        self._map: mmap.mmap = None  # type: ignore[assignment]  # until the first file is begun
        self._size = self._end = self._checksum = 0  # bytes written, bytes there is room for; of the last line
        self._begin()

    @property
    def failing(self) -> bool:
        """The disk does not take what is written."""
        return self._broken or bool(self.unwritten)

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
            self._changed()
            self.catch_up()
            return
        try:
            payload = _encode(entries)  # as `booking.seal`, without a call
        except (OverflowError, TypeError, UnicodeEncodeError):  # answers of this turn must not pay for a defect
            self._defect(entries)
            return
        checksum = crc32(payload, self._checksum)
        line = b"%08x %b\n" % (checksum, payload)
        end = self._size + len(line)
        if end > self._end:
            try:
                self._begin(len(line))
            except OSError as error:
                self._fail(entries, error)
            else:
                self.write(entries)
            return
        self._map[self._size : end] = line
        if self._shield.struck:
            self._begin_again(OSError(errno.EIO, "the file was cut, or its disk is gone"), len(line))
            self.write(entries)
            return
        self._size = end
        self._checksum = checksum
        self.entries += len(entries)

    def catch_up(self, *, now: bool = False) -> None:
        """Try again to write what is waiting, unless it was tried just now."""
        if not self.unwritten or (not now and time.monotonic() < self._failed_at + AGAIN_S):
            return
        waiting, self.unwritten = self.unwritten, []
        for at in range(0, len(waiting), _SLICE):
            self.write(waiting[at : at + _SLICE])
        self._changed()
        if not self.unwritten:
            self._failed_at = 0.0
            self._told = False
            logger.info("ledger: the journal is written again: %d entries had been waiting", len(waiting))

    def prove(self) -> None:
        """Find out whether the disk still takes what is written, which no store into the map would tell."""
        if self._broken:
            self._begin_again(None, 0)
            return
        try:
            if os.fstat(self._descriptor).st_size <= self._end:
                raise OSError(errno.EIO, "somebody cut the file")
            os.pwrite(self._descriptor, b"\0", self._end)
        except OSError as error:
            self._begin_again(error, 0)

    def _begin_again(self, error: OSError | None, least: int) -> None:
        """Leave a file that takes nothing more for the next one; what it holds is read for as long as it can be."""
        if error is not None:
            self.errors += 1
            logger.error("ledger: the journal in %s takes nothing more: %s", self._directory, error.strerror)
        was = self._broken
        self._size, self._end = 0, -1
        try:
            self._begin(least)
        except OSError as again:
            if not self._broken:
                logger.error("ledger: no other can be begun in %s: %s", self._directory, again.strerror)
            self._broken = True
        if was != self._broken or self._broken:
            self._changed()
        if was and not self._broken and not self.unwritten:
            logger.info("ledger: the journal is written again")

    def syncing(self) -> Callable[[], None]:
        """Work for a thread: have all that was written until now survive a loss of power."""
        try:
            descriptor = os.dup(self._descriptor)  # the journal may go on in another file meanwhile
        except OSError:  # no descriptor is left: here and now, then
            self._sync(self._descriptor)
            return lambda: None

        def work() -> None:
            self._sync(descriptor)
            os.close(descriptor)

        return work

    def _sync(self, descriptor: int) -> None:
        try:
            os.fdatasync(descriptor)
        except OSError as error:
            self.errors += 1
            logger.error("ledger: the journal is not on the disk: %s", error.strerror)

    def close(self) -> None:
        """Write what is waiting, if that can be, and close the file."""
        if self._descriptor < 0:
            return
        self.catch_up(now=True)
        if self.unwritten:
            logger.error("ledger: %d entries could not be written and are lost", len(self.unwritten))
        self._leave()
        self._descriptor = -1
        self._shield.close()
        if self._spare is not None:
            self._spare.close()

    def _leave(self) -> None:
        """Close the present file, whose unused room is given back."""
        if self._durable:
            self.syncing()()
        self._map.close()
        try:
            if self._end >= 0:
                os.ftruncate(self._descriptor, self._size)
        except OSError as error:
            logger.warning("ledger: the room of a journal cannot be given back: %s", error.strerror)
        os.close(self._descriptor)

    def _defect(self, entries: list[Plain]) -> None:
        """Write what can be said of entries one of which cannot."""
        if len(entries) > 1:
            for entry in entries:
                self.write([entry])
        else:
            self.errors += 1
            logger.error("ledger: an entry cannot be written and is lost: %.200r", entries)

    def _fail(self, entries: list[Plain], error: OSError) -> None:
        if not self._told:
            self._told = True
            logger.error("ledger: the journal in %s cannot be written: %s", self._directory, error.strerror)
        self.errors += 1
        self.unwritten += entries
        self._failed_at = time.monotonic()
        self._changed()

    def prepare(self) -> None:
        """Make the next file ready once the present one is half used."""
        if self._spare is not None or self._broken or self._size <= self._end // 2:
            return
        if time.monotonic() > self._failed_at + AGAIN_S:
            try:
                self._spare = _Spare(self._directory, self._room)
            except OSError as error:
                if not self._failed_at:
                    logger.warning("ledger: no room for the next journal in %s: %s", self._directory, error.strerror)
                self.errors += 1
                self._failed_at = time.monotonic()

    def _begin(self, least: int = 0) -> None:
        """Begin the next file, with room for `least` bytes at least. The present one stays until that has worked."""
        opening: list[Plain] = [("j", booking.VERSION, int(self._clock() * 1000)), *self._accounts]
        data, checksum = b"", 0
        for at in range(0, len(opening), _SLICE):
            line, checksum = booking.seal(opening[at : at + _SLICE], checksum)
            data += line
        room = max(self._room, len(data) + least + 1)
        spare, self._spare = self._spare, None
        if spare is None or spare.room < room:
            spare = _Spare(self._directory, room)
        number = self.number + 1
        try:
            self._shield.watch(spare.map)
            spare.map[: len(data)] = data
            if self._shield.struck:
                raise OSError(errno.EIO, "what was stored there did not arrive")
            spare.path.rename(journal_path(self._directory, number))
        except OSError:
            spare.close()
            raise
        if self._descriptor >= 0:
            self._leave()
        self._descriptor, self._map, self.number = spare.descriptor, spare.map, number
        # The last byte is for `prove`.
        self._size, self._end, self._checksum = len(data), spare.room - 1, checksum
        self._broken = False
        self.entries += len(opening)


class _Spare:
    """A file that is ready to become the next journal. Raises OSError."""

    def __init__(self, directory: Path, room: int) -> None:
        self.room = room
        self.path = directory / SPARE
        self.path.unlink(missing_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self.descriptor = os.open(self.path, flags, 0o600)
        try:
            os.posix_fallocate(self.descriptor, 0, room)
            self.map = mmap.mmap(self.descriptor, room)
        except OSError:
            os.close(self.descriptor)
            with contextlib.suppress(OSError):
                self.path.unlink()
            raise

    def close(self) -> None:
        """It is not needed."""
        self.map.close()
        os.close(self.descriptor)
        with contextlib.suppress(OSError):
            self.path.unlink()
