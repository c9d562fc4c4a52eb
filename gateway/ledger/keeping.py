"""From journals to books: reading on, line by line, and writing what follows, one transaction for each piece.

Here belong the place up to which journals are read, what is done about a line that is torn or damaged, and which
journals are no longer needed. What lines mean is `core.money.booking`'s business; the tables are `database`'s. Nothing
here runs by itself: `ledger` has the thread.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from gateway.core.money import booking
from gateway.core.money.booking import (
    BY_SETTLE,
    Account,
    Began,
    Books,
    Checkpoint,
    Ended,
    Entry,
    Expire,
    Reserve,
    Settle,
    Void,
)
from gateway.ledger.database import Database, Position
from gateway.ledger.directory import LedgerError, journal_path, journals

logger = logging.getLogger("pointsman")

#: Bytes that one transaction takes in, as long as no line is longer. With more, what is made of them leaves the caches.
PIECE = 64 << 10
LONGEST_LINE = 16 << 20
_SLICE = 256  # entries between two pauses
#: Journals that are in the books are kept this long, and so many bytes of them: books can be made again from them.
KEEP_S = 2 * 86_400.0
KEEP_BYTES = 512 << 20

_NAMES: dict[type, str] = {
    Reserve: "reserve", Checkpoint: "checkpoint", Settle: "settle", Void: "void", Expire: "expire"
}  # fmt: skip


class Keeping:
    """Reads one folder's journals into its database. One thread at a time."""

    def __init__(self, directory: Path, database: Database, *, repair: bool = False) -> None:
        self._directory = directory
        self._database = database
        self._repair = repair  # pass over what is damaged
        self._descriptor = -1
        self.counts: dict[str, int] = {}  # entries read, by kind
        self.estimated = 0  # settlements of these whose usage is an estimate; of what expired, all are
        self.entries = 0
        self.skipped = 0  # damaged lines that were passed over
        self.lost = 0  # ends of attempts whose reserve is nowhere
        self.pause: Callable[[], None] = lambda: None  # called now and then
        self._resume()

    def _resume(self) -> None:
        """Take up where the database is, whatever was read beyond it."""
        self._close()
        self.position = self._database.position()  # first: what another process writes from here on is found out
        self.books = Books(self._database.number)
        self.books.accounts = self._database.declared()
        self.books.open = self._database.open()
        self._stored = set(self.books.open)

    def catch_up(self) -> None:
        """Read all there is. Raises LedgerError where a line is damaged, sqlite3.Error or OSError."""
        while self.step():
            pass

    def step(self) -> bool:
        """Read one piece and write what follows from it; False where there was nothing to read."""
        try:
            return self._step()
        except BaseException:
            self._resume()
            raise

    def _step(self) -> bool:
        if self._descriptor < 0 and not self._open():
            return False
        number, offset, checksum = self.position
        if self._take(self._next(), checksum):
            return True
        later = next((one for one in journals(self._directory) if one > number), None)
        # What was written before a later one was begun is all there is: only now it is certain to have been read.
        data = self._next()
        if self._take(data, checksum):
            return True
        if data and self._tail_is_torn(data):
            if later is not None:
                logger.warning("ledger: %s ends in a torn line", journal_path(self._directory, number))
        elif data:
            self._damaged(data)
            return True
        if later is not None:
            if not data:
                os.truncate(journal_path(self._directory, number), offset)  # a process that died leaves its room
            self._begin(later)
            return True
        for key in self._database.all_read(self.books.open):
            self._stored.discard(key)
            del self.books.open[key]
        return False

    def _open(self) -> bool:
        """Open the journal being read or, where none was read yet or it is gone, the next one; False without one."""
        there = [one for one in journals(self._directory) if one >= self.position.journal]
        if not there:
            return False
        if there[0] != self.position.journal:
            self._begin(there[0])
        self._descriptor = os.open(journal_path(self._directory, there[0]), os.O_RDONLY | os.O_CLOEXEC)
        return True

    def _next(self) -> bytes:
        """Some of what follows in the journal being read, a line at least if there is one."""
        most, offset = PIECE, self.position.offset
        data = self._read(most, offset)
        while len(data) == most and data.find(b"\n") < 0 and most < LONGEST_LINE:
            most *= 4
            data = self._read(most, offset)
        return data

    def _read(self, most: int, offset: int) -> bytes:
        """What has been written there; a journal's unused room holds zeros."""
        data = os.pread(self._descriptor, most, offset)
        end = data.find(b"\0")
        # Stripping looks at each byte, comparing does not: most of what is read when all is read are zeros.
        return data[:end] if end >= 0 and data[end:] == bytes(len(data) - end) else data.rstrip(b"\0")

    def _begin(self, number: int) -> None:
        self._close()
        self.position = Position(number, 0, 0)

    def _take(self, data: bytes, checksum: int) -> bool:
        """Take in the good lines that `data` begins with; False where there is none."""
        books = self.books
        read, size, checksum = booking.read(data, checksum)
        if not size:
            return False
        self.pause()
        first = read[0] if read else None
        if type(first) is Began:
            self._database.begins(first.at_ms)
        booked: list[Ended] = []
        for at in range(0, len(read), _SLICE):
            booked += books.take(read[at : at + _SLICE])
            self.pause()
        position = self.position._replace(offset=self.position.offset + size, checksum=checksum)
        kinds = Counter(map(type, read))
        under_way, stored = books.open.keys(), self._stored
        fresh, closed = under_way - stored, stored - under_way
        opened = [(key, books.open[key]) for key in fresh | (books.progressed & under_way)]
        declares = Account in kinds or Began in kinds
        self._database.take(booked, opened, closed, books.accounts if declares else None, position, self.pause)
        self.position = position
        stored -= closed
        stored |= fresh
        books.progressed.clear()
        self._count(kinds, booked)
        self._strange()
        return True

    def _count(self, kinds: Counter[type[Entry]], booked: list[Ended]) -> None:
        self.entries += kinds.total()
        for kind, count in kinds.items():
            name = _NAMES.get(kind)
            if name is not None:
                self.counts[name] = self.counts.get(name, 0) + count
        self.estimated += sum([one[12] for one in booked if one[5] == BY_SETTLE])

    def _strange(self) -> None:
        """Ends of what was not open: repetitions of what is booked, or a loss that must be told."""
        strange, self.books.strange = self.books.strange, []
        for key in strange:
            if not self._database.has(key):
                self.lost += 1
                logger.error(
                    "ledger: attempt %d of request %s ended without having begun: it is not booked", *key[::-1]
                )

    def _tail_is_torn(self, data: bytes) -> bool:
        """Whether no good line follows: what a crash leaves behind, as opposed to damage in the middle."""
        end = data.find(b"\n") + 1
        if not end:
            return True
        rest = data[end:] + self._read(LONGEST_LINE, self.position.offset + len(data))
        bad = next(iter(booking.lines(data[:end], self.position.checksum)))
        return all(line.entries is None for line in booking.lines(rest, bad.checksum))

    def _damaged(self, data: bytes) -> None:
        path = journal_path(self._directory, self.position.journal)
        if not self._repair:
            raise LedgerError(
                f"ledger: {path} is damaged at byte {self.position.offset}: `pointsman usage --repair` goes on behind "
                "the damage and says what is missing"
            )
        bad = next(iter(booking.lines(data, self.position.checksum)))
        self.skipped += 1
        offset = self.position.offset + bad.size
        self.position = self.position._replace(offset=offset, checksum=bad.checksum)

    def unsettled(self, at_ms: int, cause: str) -> list[Expire]:
        """The entries that end what is open, for the journal: its process is gone."""
        return [Expire(request_id, attempt, at_ms, cause) for request_id, attempt in self.books.open]

    def discard(self) -> None:
        """Delete journals that are in the books and on the disk. Raises sqlite3.Error, OSError."""
        done = [number for number in journals(self._directory) if number < self.position.journal]
        if not done or not self._database.settle_down():
            return
        total = 0
        for number in reversed(done):
            path = journal_path(self._directory, number)
            stat = path.stat()
            total += stat.st_size
            if total > KEEP_BYTES or time.time() - stat.st_mtime > KEEP_S:
                path.unlink()

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def close(self) -> None:
        """Close the journal being read."""
        self._close()
