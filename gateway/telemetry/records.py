"""Decision records on disk: a queue that requests are dropped into, and the thread that turns them into lines.

Here belong files: their names, rotation, compression, retention, and what happens when the disk is full. What a line
holds is `core.recorded.recording`'s business; who hands requests over is the proxy's. A record must not cost a request
anything: handing over is an append, and where the thread cannot keep up or write, records are lost and counted.
"""

from __future__ import annotations

import contextlib
import gzip
import logging
import os
import re
import shutil
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from gateway.core.recorded.recording import Settled, lightened

logger = logging.getLogger("pointsman")

#: Requests that may wait for the thread; beyond, records are lost.
MOST_WAITING = 8_192
#: Of these, how many may hold their request's text, and bytes of one: together what the queue can hold in memory.
MOST_HELD = 512
LARGEST_HELD = 262_144
_EVERY_S = 0.2
_SLICE_S = 0.0002  # of work, after which the thread lets go of the interpreter, lest a request wait for it
_PAUSE_S = 0.00005
_NAME = re.compile(r"records-\d{8}T\d{6}Z-[0-9a-f]+-\d+\.jsonl(\.gz(\.part)?)?")
_RETIRE_S = 60.0  # between two looks at what is too old or too much
SUFFIXES = (".jsonl", ".jsonl.gz")


@dataclass(frozen=True, slots=True)
class RecordSettings:
    """What `records:` in pointsman.yaml says; sizes in bytes, times in seconds."""

    directory: Path
    sample: float = 1.0  # share of requests that are recorded
    reading_per_s: float = 100.0  # records a second that are completed by what reading the text tells
    rotate_bytes: int = 128_000_000
    rotate_s: float = 3_600.0
    keep_bytes: int = 10_000_000_000
    keep_s: float = 14 * 86_400.0
    compress: bool = True
    prompt_chars: int = 0  # 0: never a word of a prompt


#: Makes the line of a request; the flag says whether its text may be read for signals nobody has asked for yet.
Maker = Callable[[Settled, bool], bytes]


class RecordLog:
    """The records of one process. `add` belongs to the event loop; `start` and `close` to who owns the process."""

    def __init__(self, settings: RecordSettings, make: Maker, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self.written = 0
        self.lost = 0
        self.unread = 0  # written, but without the signals that take reading the text
        self._files = RecordFiles(settings, clock)
        self._make = make
        self._waiting: deque[Settled | bytes] = deque()
        # 16 random bits of every request id, as text, below which a request is recorded.
        self._below = f"{int(settings.sample * 0x10000):05x}"
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="records", daemon=True)
        self._allowance = settings.reading_per_s
        self._allowed_at = clock()
        self._clock = clock

    def start(self) -> None:
        """Begin writing. Raises OSError where the directory cannot be written to."""
        self._files.open()
        self._files.warn()
        self._thread.start()

    def takes(self, request_id: str) -> bool:
        """Whether the request of this id is in the sample. HOT."""
        return "0" + request_id[12:16] < self._below

    def add(self, settled: Settled) -> None:
        """Take a request that has ended; what it refers to must not change any more. HOT."""
        waiting = self._waiting
        count = len(waiting)
        if count >= MOST_WAITING:
            self.lost += 1
            return
        envelope = settled.envelope
        if envelope is not None and (count >= MOST_HELD or envelope.size > LARGEST_HELD):
            settled = lightened(settled)
        waiting.append(settled)

    def add_made(self, line: bytes) -> None:
        """Take a line that is made already, with its end."""
        if len(self._waiting) >= MOST_WAITING:
            self.lost += 1
        else:
            self._waiting.append(line)

    def close(self, within_s: float = 5.0) -> None:
        """Write what is waiting and end the thread."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(within_s)

    def _run(self) -> None:
        while not self._closing.wait(_EVERY_S):
            self._turn()
        self._turn()
        self._files.close()

    def _turn(self) -> None:
        """Write everything that waits now, and look after the files."""
        lines: list[bytes] = []
        begun = time.perf_counter()
        for _ in range(len(self._waiting)):
            one = self._waiting.popleft()
            line = one if isinstance(one, bytes) else self._line(one)
            if line is not None:
                lines.append(line)
            if time.perf_counter() - begun > _SLICE_S:
                time.sleep(_PAUSE_S)
                begun = time.perf_counter()
            if len(lines) >= 256:
                self._put(lines)
                lines = []
        self._put(lines)
        self._files.tend()

    def _line(self, settled: Settled) -> bytes | None:
        now = self._clock()
        rate = self.settings.reading_per_s
        self._allowance = min(self._allowance + (now - self._allowed_at) * rate, max(rate, 1.0))
        self._allowed_at = now
        reading = settled.envelope is not None and self._allowance >= 1.0
        if reading:
            self._allowance -= 1.0
        else:
            self.unread += 1
        try:
            return self._make(settled, reading)
        except Exception:  # the edge that must hold: a defect in a record must not end the recording
            self.lost += 1
            logger.exception("a decision record could not be made", extra={"request_id": settled.record.request_id})
            return None

    def _put(self, lines: list[bytes]) -> None:
        if lines:
            if self._files.write(b"".join(lines)):
                self.written += len(lines)
            else:
                self.lost += len(lines)


class RecordFiles:
    """The files of one process: one that grows, those before it compressed, the oldest of the directory deleted."""

    def __init__(self, settings: RecordSettings, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._descriptor = -1
        self._path = Path()
        self._size = 0
        self._opened_at = 0.0
        self._number = 0
        self._retired_at = float("-inf")
        self._failing = False
        self._torn = False  # the file ends inside a line
        self._mark = f"{os.getpid():x}{os.urandom(2).hex()}"

    def open(self) -> None:
        """Open a new file, readable by its owner only. Raises OSError."""
        directory = self._settings.directory
        directory.mkdir(mode=0o700, exist_ok=True)
        now = self._clock()
        stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
        path = directory / f"records-{stamp}-{self._mark}-{self._number}.jsonl"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o600)
        self._number += 1
        self._path, self._size, self._opened_at, self._torn = path, 0, now, False

    def warn(self) -> None:
        """Say so where others may put files into the directory, or take ours out of it."""
        with contextlib.suppress(OSError):
            mode = self._settings.directory.stat().st_mode
            if mode & (stat.S_IWGRP | stat.S_IWOTH):
                logger.warning(
                    "decision records: %s can be written by others (mode %o): chmod go-w it",
                    self._settings.directory,
                    stat.S_IMODE(mode),
                )

    def write(self, lines: bytes) -> bool:
        """Append whole lines; False where they are lost, which is logged once until it works again."""
        try:
            if self._descriptor < 0:
                self.open()
            if self._torn:
                os.ftruncate(self._descriptor, self._size)
                self._torn = False
            rest = lines
            while rest:
                self._torn = True
                rest = rest[os.write(self._descriptor, rest) :]
            self._torn = False
            self._size += len(lines)
        except OSError as error:
            if not self._failing:
                logger.error("decision records are lost: %s: %s", self._settings.directory, error.strerror)
            self._failing = True
            return False
        if self._failing:
            logger.info("decision records are written again: %s", self._path)
            self._failing = False
        return True

    def tend(self) -> None:
        """Delete what is due, and rotate where the file is large or old enough.

        Deleting has a clock of its own and comes first: a gateway without requests still keeps what it promises, and a
        disk too full to compress on gets room.
        """
        now = self._clock()
        if not 0 <= now - self._retired_at < _RETIRE_S:
            self._retired_at = now
            self._retire()
        due = self._size >= self._settings.rotate_bytes or (
            self._size and now - self._opened_at >= self._settings.rotate_s
        )
        if not due or self._descriptor < 0:
            return
        self._retire()
        done = self._path
        self.close()
        try:
            if self._settings.compress:
                compress(done)
        except OSError as error:
            logger.warning("decision records: %s: %s", self._settings.directory, error.strerror)
        self._retire()

    def close(self) -> None:
        """Close the file; the next line opens another. An empty one is deleted."""
        if self._descriptor < 0:
            return
        os.close(self._descriptor)
        self._descriptor = -1
        if not self._size:
            with contextlib.suppress(OSError):
                self._path.unlink()
        self._path = Path()

    def _retire(self) -> None:
        """Delete the oldest files of the directory beyond what is to be kept; only files of our naming."""
        try:
            found = list(self._finished())
        except FileNotFoundError:
            return  # the directory is gone, and made again with the next line
        except OSError as error:
            logger.warning("decision records: %s: %s", self._settings.directory, error.strerror)
            return
        total = 0
        for modified, size, path in sorted(found, reverse=True):
            total += size
            if total > self._settings.keep_bytes or self._clock() - modified > self._settings.keep_s:
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    logger.warning("decision records: %s: %s", path, error.strerror)

    def _finished(self) -> Iterator[tuple[float, int, Path]]:
        for path in self._settings.directory.iterdir():
            if _NAME.fullmatch(path.name) and path != self._path:
                with contextlib.suppress(FileNotFoundError):  # another process retires, too
                    found = path.lstat()
                    yield found.st_mtime, found.st_size, path


def compress(path: Path) -> Path:
    """Put a finished file into a `.gz` of its own and delete it; whoever reads between sees the one or the other."""
    made = path.with_name(path.name + ".gz")
    part = made.with_name(made.name + ".part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with path.open("rb") as plain, os.fdopen(descriptor, "wb") as raw, gzip.open(raw, "wb", compresslevel=6) as out:
            shutil.copyfileobj(plain, out, 262_144)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    part.replace(made)
    path.unlink()
    return made
