"""Files of decision records, one record after the other: plain or compressed, whole or torn.

A line that is damaged is counted with its place and passed over, whatever is wrong with it: records outlive the process
that wrote them, and were perhaps cut off in a line. What shadows did has lines of its own, which are added up apart.
"""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from gateway.core.errors import ConfigError, Problem
from gateway.core.recorded import records
from gateway.core.recorded.records import Copied, Recorded, Unreadable
from gateway.replay.copies import Copies
from gateway.telemetry.records import SUFFIXES

#: Bytes of one line; no record is nearly as long.
LONGEST_LINE = 1 << 20
#: Places of damage that are told.
MOST_TOLD = 20
_EVERY = 2_048  # records between two looks at the progress


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which records to read. Empty means all; `since` and `until` are Unix seconds of arrival, `limit` a number."""

    since: float = 0.0
    until: float = float("inf")
    keys: frozenset[str] = frozenset()
    teams: frozenset[str] = frozenset()
    limit: int | None = None

    def takes(self, recorded: Recorded | Copied) -> bool:
        """Whether a record is wanted, the limit aside."""
        return (
            self.since <= recorded.at < self.until
            and (not self.keys or recorded.key in self.keys)
            and (not self.teams or recorded.team in self.teams)
        )


@dataclass(slots=True)
class Read:
    """What has been read so far."""

    lines: int = 0
    wanted: int = 0
    damaged: int = 0
    place: tuple[Path, int] = (Path(), 0)  # file and line of the record that was read last
    places: list[str] = field(default_factory=list)  # of the first damaged lines, each with what is wrong
    copies: Copies = field(default_factory=Copies)  # of the wanted requests

    def damage(self, place: str, what: str) -> None:
        """Note what could not be read."""
        self.damaged += 1
        if len(self.places) < MOST_TOLD:
            self.places.append(f"{place}: {what}")


def files_of(paths: Sequence[Path]) -> list[Path]:
    """The files that paths mean, a directory standing for those in it. Raises `ConfigError` where one means none.

    Of a file that is there plain and compressed, the compressed one is whole: its writer was cut off in between.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = [one for one in sorted(path.iterdir()) if one.name.endswith(SUFFIXES) and one.is_file()]
        else:
            inside = [path] if path.is_file() else []
        if not inside:
            what = "holds no records" if path.is_dir() else "there is no such file"
            raise ConfigError([Problem(str(path), 0, "", what, "a .jsonl or .jsonl.gz file, or a folder of them")])
        found += inside
    there = set(found)
    return [path for path in dict.fromkeys(found) if path.with_name(path.name + ".gz") not in there]


def read(
    paths: Sequence[Path], wanted: Wanted, told: Read, progress: Callable[[int, int], None] | None = None
) -> Iterator[Recorded]:
    """Every wanted record of some files; what happened is in `told`. HOT in replays.

    `progress` is called with the bytes read and the bytes there are.
    """
    total = sum(path.stat().st_size for path in paths)
    before = 0
    decode, takes = records.read, wanted.takes
    for path in paths:
        number = 0
        try:
            with path.open("rb") as raw, _opened(path, raw) as lines:
                while line := lines.readline(LONGEST_LINE):
                    number += 1
                    if progress is not None and not number % _EVERY:
                        progress(before + raw.tell(), total)
                    if line[-1:] != b"\n":
                        long = len(line) >= LONGEST_LINE
                        told.damage(f"{path}:{number}", "is longer than any record" if long else "is cut off")
                        while long and line and line[-1:] != b"\n":
                            line = lines.readline(LONGEST_LINE)
                        continue
                    told.lines += 1
                    try:
                        recorded = decode(line)
                    except Unreadable as error:
                        copy = records.read_copy(line)
                        if copy is None:
                            told.damage(f"{path}:{number}", str(error))
                        elif takes(copy):
                            told.copies.add(copy)
                        continue
                    if takes(recorded):
                        if wanted.limit is not None and told.wanted >= wanted.limit:
                            return
                        told.wanted += 1
                        told.place = path, number
                        yield recorded
        except (OSError, EOFError, zlib.error) as error:  # not ours, cut off, or broken inside
            what = getattr(error, "strerror", None) or "is cut off or no longer what was compressed"
            told.damage(f"{path}:{number + 1}", what)
        before += path.stat().st_size if path.exists() else 0


@contextlib.contextmanager
def _opened(path: Path, raw: IO[bytes]) -> Iterator[IO[bytes]]:
    if path.suffix == ".gz":
        with gzip.open(raw) as lines:
            yield cast("IO[bytes]", lines)
    else:
        yield raw
