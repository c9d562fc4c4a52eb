"""The access log: one line per finished request, as JSON or as readable text.

A line tells what was asked, what was decided and what it cost, never what a prompt or an answer said. Where a line goes
is the caller's business: `write` is handed in.
"""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from typing import Literal

import msgspec

from gateway.core.types import NANO_PER_USD, Record, Routing, Usage

Form = Literal["json", "text"]
#: Characters of a client's own text that a line may hold.
CLIENT_TEXT_MAX = 128


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


class _Shared(msgspec.Struct, omit_defaults=True):
    """The fields of a JSON line that are the same for all requests of a routing, in their order."""

    key: str
    model_asked: str
    team: str = ""
    stream: bool = False
    policy: str = ""
    rule: str = ""
    target: str = ""
    model: str = ""
    thinking: str = ""
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
    """Writes a line for each record.

    `write` is given whole lines and says how many bytes it took, or None for all; when it raises OSError (a full disk,
    a closed pipe) the rest is lost and counted in `lost`: a log must not take the gateway down.
    """

    def __init__(self, write: Callable[[bytes], int | None], *, form: Form = "json") -> None:
        self.lost = 0
        self._write = write
        self._line = self._json if form == "json" else self._text
        self._second = -1
        self._second_bytes = b""

    def add(self, records: Iterable[Record]) -> None:
        """HOT. Log requests that have ended, with one call of `write` where it takes all."""
        lines = b"".join(map(self._line, records))
        try:
            while lines and (written := self._write(lines)) is not None:
                lines = lines[written:]  # a pipe whose reader is slow may take less
        except OSError:
            self.lost += lines.count(b"\n")

    def _json(self, record: Record) -> bytes:
        routing = record.routing
        shared = routing.line
        if shared is None:
            shared = routing.line = _shared(routing)
        begun, sent, first, wall = record.started_at, record.sent_at, record.first_event_at, record.wall
        second = int(wall)
        if second != self._second:
            self._take(second)
        line = b'{"time":"%b.%03dZ","request_id":"%b","status":%d,"code":"%b",%b,"duration_ms":%.3f' % (
            self._second_bytes,
            (wall - second) * 1000,
            record.request_id.encode(),
            record.status,
            record.code.encode(),
            shared,
            (record.ended_at - begun) * 1000,
        )
        if record.trace is not None and record.trace.trace_id:
            line += b',"trace_id":"%b"' % record.trace.trace_id.encode()
        if not sent:
            return line + b"}\n"
        usage = record.usage
        if first and usage is not None:  # nearly always; one long form costs less than three short ones
            line += b',"attempts":%d,"overhead_ms":%.3f,"first_event_ms":%.3f,"input_tokens":%d,"output_tokens":%d' % (
                record.attempts,
                (sent - begun) * 1000,
                (first - begun) * 1000,
                usage.input,
                usage.output,
            )
        else:
            line += b',"attempts":%d,"overhead_ms":%.3f' % (record.attempts, (sent - begun) * 1000)
            if first:
                line += b',"first_event_ms":%.3f' % ((first - begun) * 1000)
            if usage is not None:
                line += b',"input_tokens":%d,"output_tokens":%d' % (usage.input, usage.output)
        if usage is not None and (usage.cached or usage.reasoning or usage.estimated):
            line += _unusual(usage)
        if record.priced:
            line += b',"cost_usd":%.9f' % (record.cost_nano / NANO_PER_USD)
        if record.thought_unasked:
            line += b',"thought_unasked":true'
        return line + b"}\n"

    def _text(self, record: Record) -> bytes:
        routing, usage = record.routing, record.usage
        parts = [
            self._time(record.wall),
            record.request_id,
            str(record.status),
            record.code,
            f"{(record.ended_at - record.started_at) * 1000:.1f}ms",
            routing.key,
            f"{routing.model_asked or '-'} -> {routing.target or '-'}",
        ]
        if routing.rule:
            parts.append(f"rule={routing.rule}")
        if routing.stream:
            parts.append("stream")
        if routing.thinking:
            parts.append(f"thinking={routing.thinking}")
        if record.attempts > 1:
            parts.append(f"attempts={record.attempts}")
        if record.trace is not None and record.trace.trace_id:
            parts.append(f"trace={record.trace.trace_id}")
        if record.sent_at:
            parts.append(f"overhead={(record.sent_at - record.started_at) * 1000:.2f}ms")
        if record.first_event_at:
            parts.append(f"first={(record.first_event_at - record.started_at) * 1000:.1f}ms")
        if usage is not None:
            parts.append(f"tokens={'~' if usage.estimated else ''}{usage.input}+{usage.output}")
        if record.priced and record.sent_at:
            parts.append(f"cost=${record.cost_nano / NANO_PER_USD:.6f}")
        if routing.because:
            parts.append(f"because {printable(routing.because, 512)}")
        return (" ".join([printable(part, 640) for part in parts]) + "\n").encode("utf-8", "backslashreplace")

    def _time(self, wall: float) -> str:
        """RFC 3339 in UTC with milliseconds."""
        second = int(wall)
        if second != self._second:
            self._take(second)
        return f"{self._second_bytes.decode()}.{int((wall - second) * 1000):03d}Z"

    def _take(self, second: int) -> None:
        """Make the text of a second, once."""
        self._second = second
        self._second_bytes = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()


def _shared(routing: Routing) -> bytes:
    line = _Shared(
        key=routing.key,
        model_asked=printable(routing.model_asked),
        team=routing.team,
        stream=routing.stream,
        policy=routing.policy,
        rule=routing.rule,
        target=routing.target,
        model=routing.model,
        thinking=routing.thinking,
        because=printable(routing.because, 512),
    )
    return msgspec.json.encode(line)[1:-1]


def _unusual(usage: Usage) -> bytes:
    """What most usages do not have."""
    told = {"cached_tokens": usage.cached, "reasoning_tokens": usage.reasoning, "usage_estimated": usage.estimated}
    return b"," + msgspec.json.encode({name: value for name, value in told.items() if value})[1:-1]
