"""How short the process is of memory, and what it leaves off for that, one step after the other.

What is measured is what the kernel would end the process for: its control group (v2), its address space where that is
limited, and `limits.max_memory` where the configuration has one; the one that is nearest to its end counts. Once a
second, from files that stay open. Who is refused first is the business of who admits: here is only how far it has come,
as `runtime.pressure`. Answers under way are never ended for it.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gateway.telemetry import families
from gateway.telemetry.series import Kept, Rows

if TYPE_CHECKING:
    from gateway.proxy.runtime import Runtime

logger = logging.getLogger("pointsman")

#: Steps, and the share of memory from which on each holds. TIGHT: connections end with their answer, idle ones now,
#: and nothing is sent a second time for comparison. LOW: what matters least may be refused. FULL: every new request is.
CALM, TIGHT, LOW, FULL = range(4)
FROM = (0.0, 0.75, 0.80, 0.85)
#: A step is left this far below its beginning, lest it be entered and left all the time.
_BACK = 0.03
#: Of the room that is left, what bodies that come in may take until it is measured again: each is there up to three
#: times, as it came, as it is sent on and on its way out.
_COPIES = 3
_LEAST_BUFFERED = 1 << 20
#: Freed memory is handed back to the kernel so often at most: it costs milliseconds.
_TRIM_S = 5.0
_PAGE = resource.getpagesize()


class Measured(NamedTuple):
    """What is used of a limit; in bytes."""

    used: int
    limit: int

    @property
    def share(self) -> float:
        """0 to 1, or more."""
        return self.used / self.limit


class Memory:
    """What the process uses of the memory that it may have."""

    def __init__(self, root: Path = Path("/")) -> None:
        """`root` is where /proc and /sys are looked for."""
        self._statm = _opened(root / "proc/self/statm")
        self._groups = list(_groups(root))

    def look(self, most: int | None) -> Measured | None:
        """The limit that is nearest, of which `most` may be one for what is resident; None where there is none."""
        found = [group() for group in self._groups]
        if self._statm is not None:
            sizes = self._statm().split()
            space, _ = resource.getrlimit(resource.RLIMIT_AS)
            if space != resource.RLIM_INFINITY:
                found.append(Measured(int(sizes[0]) * _PAGE, space))
            if most is not None:
                found.append(Measured(int(sizes[1]) * _PAGE, most))
        return max((one for one in found if one is not None), key=lambda one: one.share, default=None)


def _opened(path: Path) -> Callable[[], bytes] | None:
    """Reads a file of the kernel's from its beginning, as often as is asked; None where it is not there."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    return lambda: os.pread(descriptor, 16_384, 0)


def _groups(root: Path) -> Iterator[Callable[[], Measured | None]]:
    """One for each control group, from the process's own upwards, that has a limit now."""
    base = root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    own = next((line[3:] for line in lines if line.startswith("0::")), None)
    if own is None:
        return
    directory = base / own.lstrip("/")
    for one in (directory, *directory.parents):
        if one == base.parent:
            return
        files = [_opened(one / name) for name in ("memory.max", "memory.current", "memory.stat")]
        most, current, stat = files
        if most is not None and current is not None and stat is not None and most().strip().isdigit():
            yield _group(most, current, stat)


def _group(
    most: Callable[[], bytes], current: Callable[[], bytes], stat: Callable[[], bytes]
) -> Callable[[], Measured | None]:
    def look() -> Measured | None:
        try:
            limit = int(most())  # may be changed at any time
            told = dict(line.split(b" ", 1) for line in stat().splitlines() if b" " in line)
            # The kernel gives up what it keeps of files before it ends a process.
            files = int(told.get(b"inactive_file", 0)) + int(told.get(b"active_file", 0))
            return Measured(max(0, int(current()) - files), limit)
        except (OSError, ValueError):  # gone, or `max`: no limit any more
            return None

    return look


def step(share: float, before: int) -> int:
    """The step at this share, coming from another."""
    now = max(number for number, begins in enumerate(FROM) if share >= begins)
    return before if now < before and share >= FROM[before] - _BACK else now


class Pressure:
    """Looks once a second and tells the runtime; a source of metrics."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._trimmed_at = 0.0
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._step = CALM
        self._measured: Measured | None = None

    def look(self, runtime: Runtime) -> None:
        """Measure, and set `runtime.pressure`, `runtime.closing` and what bodies may take."""
        limits = runtime.serving.site.limits
        self._measured = measured = self._memory.look(limits.max_memory)
        if measured is None:
            runtime.pressure = self._step = CALM
            runtime.closing = runtime.draining
            runtime.may_buffer = limits.max_buffered
            return
        before, self._step = self._step, step(measured.share, self._step)
        left = max(0, int(measured.limit * FROM[FULL]) - measured.used)
        runtime.may_buffer = min(limits.max_buffered, runtime.buffered + max(_LEAST_BUFFERED, left // _COPIES))
        # Where nothing is under way that could end, refusing everything would never heal: then one may always begin.
        runtime.pressure = self._step if runtime.exchanges else min(self._step, LOW)
        runtime.closing = runtime.draining or self._step >= TIGHT
        if self._step > before:
            told = (100 * measured.share, measured.limit // 2**20, _LEFT_OFF[self._step])
            logger.warning("memory: %.0f %% of %d MiB are used: %s", *told)
        elif self._step < before:
            logger.info("memory: %.0f %% are used: %s", 100 * measured.share, _LEFT_OFF[self._step])
        if self._step and time.monotonic() >= self._trimmed_at + _TRIM_S:
            self._trimmed_at = time.monotonic()
            gc.collect()
            if self._trim is not None:
                self._trim(0)

    def read(self) -> Iterator[Kept]:
        """What a scrape is told."""
        if self._measured is not None:
            yield Rows(families.MEMORY_USED, [((), self._measured.used)])
            yield Rows(families.MEMORY_LIMIT, [((), self._measured.limit)])
        yield Rows(families.MEMORY_PRESSURE, [((), self._step)])


_LEFT_OFF = (
    "all is as usual",
    "connections end with their answer",
    "what matters least is refused",
    "new requests are refused",
)
