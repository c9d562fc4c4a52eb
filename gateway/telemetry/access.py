"""The access log: one line per finished request, as JSON or as readable text.

A line tells what was asked, what was decided and what it cost, never what a prompt or an answer said. Where a line goes
is the caller's business: `write` is handed in, and so is the way to be called again at the end of a loop tick.
"""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Literal

import msgspec

from gateway.core.types import NANO_PER_USD, Record, Usage

Form = Literal["json", "text"]
#: Characters of a client's own text that a line may hold.
CLIENT_TEXT_MAX = 128


_NO_USAGE = Usage()


def writer(descriptor: int) -> Callable[[bytes], int]:
    """A `write` for an AccessLog that never waits: raises BlockingIOError when a pipe's reader has stopped reading.

    A pipe takes `PIPE_BUF` bytes at once or says that it is full; a descriptor that others share is not made
    non-blocking for our sake. Files take everything.
    """
    if stat.S_ISREG(os.fstat(descriptor).st_mode) or os.fstat(descriptor).st_rdev == os.makedev(1, 3):  # /dev/null
        return partial(os.write, descriptor)
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)

    def write(lines: bytes) -> int:
        if not poll.poll(0):
            raise BlockingIOError
        end = lines.rfind(b"\n", 0, select.PIPE_BUF) + 1  # whole lines, or the next one would begin inside this one
        return os.write(descriptor, lines[: end or select.PIPE_BUF])

    return write


class _Line(msgspec.Struct, omit_defaults=True, gc=False):
    """The fields of a JSON line, in their order; what a request never had is left out."""

    time: str
    request_id: str
    key: str
    status: int
    code: str
    model_asked: str
    duration_ms: float
    team: str = ""
    stream: bool = False
    policy: str = ""
    rule: str = ""
    target: str = ""
    model: str = ""
    thinking: str = ""
    attempts: int = 0
    overhead_ms: float | None = None
    first_event_ms: float | None = None
    input_tokens: int | None = None
    cached_tokens: int = 0
    output_tokens: int | None = None
    reasoning_tokens: int = 0
    usage_estimated: bool = False
    cost_usd: float | None = None
    thought_unasked: bool = False
    because: str = ""


def printable(text: str, limit: int = CLIENT_TEXT_MAX) -> str:
    r"""The text with everything that could move a terminal's cursor, end a line or turn reading order escaped.

    JSON escapes C0 only; C1 controls, U+2028 and bidirectional marks would go through.

    >>> printable("a\x9b31m\u202eb")
    'a\\x9b31m\\u202eb'
    """
    if len(text) > limit:
        text = text[:limit] + "..."
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in text
    )


class AccessLog:
    """Collects the records of one loop tick and writes their lines with one call.

    `write` is given whole lines and says how many bytes it took, or None for all; when it raises OSError (a full disk,
    a closed pipe) the rest is lost and counted in `lost`: a log must not take the gateway down. `soon` is called with
    `flush` when the first record of a batch comes, for example `loop.call_soon`; at `max_lines` the batch is written
    at once.
    """

    def __init__(
        self,
        write: Callable[[bytes], int | None],
        soon: Callable[[Callable[[], None]], object],
        *,
        form: Form = "json",
        max_lines: int = 256,
    ) -> None:
        self.lost = 0
        self._write = write
        self._soon = soon
        self._line = self._json if form == "json" else self._text
        self._max_lines = max_lines
        self._waiting: list[Record] = []
        self._encode = msgspec.json.Encoder().encode
        self._second = -1
        self._second_text = ""

    def add(self, record: Record) -> None:
        """HOT. Log a request that has ended; the record must not change any more."""
        waiting = self._waiting
        waiting.append(record)
        if len(waiting) == 1:
            self._soon(self.flush)
        elif len(waiting) >= self._max_lines:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting. Does nothing when nothing is."""
        records, self._waiting = self._waiting, []
        if not records:
            return
        line = self._line
        lines = b"".join([line(record) for record in records])
        try:
            while lines and (written := self._write(lines)) is not None:
                lines = lines[written:]  # a pipe whose reader is slow may take less
        except OSError:
            self.lost += lines.count(b"\n")

    def _json(self, record: Record) -> bytes:
        begun, sent, first = record.started_at, record.sent_at, record.first_event_at
        asked, because = record.model_asked, record.because
        usage = record.usage or _NO_USAGE
        stated = usage is not _NO_USAGE
        line = _Line(
            self._time(record.wall),
            record.request_id if record.request_id.isprintable() else printable(record.request_id),
            record.key,
            record.status,
            record.code,
            asked if len(asked) <= CLIENT_TEXT_MAX and asked.isprintable() else printable(asked),
            int((record.ended_at - begun) * 1e6 + 0.5) / 1e3,  # milliseconds to the microsecond; round() is slow
            record.team,
            record.stream,
            record.policy,
            record.rule,
            record.target,
            record.model,
            record.thinking,
            record.attempts,
            int((sent - begun) * 1e6 + 0.5) / 1e3 if sent else None,
            int((first - begun) * 1e6 + 0.5) / 1e3 if first else None,
            usage.input if stated else None,
            usage.cached,
            usage.output if stated else None,
            usage.reasoning,
            usage.estimated,
            record.cost_nano / NANO_PER_USD if record.priced and sent else None,
            record.thought_unasked,
            because if because.isprintable() else printable(because, 512),
        )
        return self._encode(line) + b"\n"

    def _text(self, record: Record) -> bytes:
        usage = record.usage
        parts = [
            self._time(record.wall),
            record.request_id,
            str(record.status),
            record.code,
            f"{(record.ended_at - record.started_at) * 1000:.1f}ms",
            record.key,
            f"{record.model_asked or '-'} -> {record.target or '-'}",
        ]
        if record.rule:
            parts.append(f"rule={record.rule}")
        if record.stream:
            parts.append("stream")
        if record.thinking:
            parts.append(f"thinking={record.thinking}")
        if record.attempts > 1:
            parts.append(f"attempts={record.attempts}")
        if record.sent_at:
            parts.append(f"overhead={(record.sent_at - record.started_at) * 1000:.2f}ms")
        if record.first_event_at:
            parts.append(f"first={(record.first_event_at - record.started_at) * 1000:.1f}ms")
        if usage is not None:
            parts.append(f"tokens={'~' if usage.estimated else ''}{usage.input}+{usage.output}")
        if record.priced and record.sent_at:
            parts.append(f"cost=${record.cost_nano / NANO_PER_USD:.6f}")
        if record.because:
            parts.append(f"because {printable(record.because, 512)}")
        return (" ".join([printable(part, 640) for part in parts]) + "\n").encode("utf-8", "backslashreplace")

    def _time(self, wall: float) -> str:
        """RFC 3339 in UTC with milliseconds; the text of a second is made once."""
        second = int(wall)
        if second != self._second:
            self._second = second
            self._second_text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._second_text}.{int((wall - second) * 1000):03d}Z"
