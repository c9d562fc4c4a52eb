"""The log of requests: one line per finished request, as JSON or as readable text.

A line tells what was asked, what was decided and what it cost, never what a prompt or an answer said. Each field is
documented in docs/logs.md. What is not a request's is logged by `logs`.

Levels: `error` for what the gateway or its targets owed the client and did not deliver; `warning` for what was refused,
answered by another target than was chosen first, slow, or thought unasked; `info` for all else. Only what is `info` is
ever left out under load.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from gateway.core.types import NANO_PER_USD, Record, Routing, Usage
from gateway.telemetry.logs import LEVELS, Form, Level, LogSettings, colour, outside, printable, word
from gateway.telemetry.sampling import Sampling

#: Codes of what was owed and not delivered; every other one that is not good is a refusal.
FAULTS = frozenset(
    {
        "internal_error", "upstream_unavailable", "upstream_invalid_response", "upstream_auth", "upstream_timeout",
        "upstream_stream_interrupted", "event_too_large", "no_target_available", "store_unavailable",
    }
)  # fmt: skip
#: Codes of what nobody has to look at. A client that leaves is nobody's fault.
GOOD = frozenset({"ok", "client_gone"})
BECAUSE_MAX = 512
#: Numbers that are multiplied with floats are floats themselves throughout: the interpreter has a shorter way for that.
_USUAL = (
    b'{"time":"%b.%03dZ","level":"info","request_id":"%b","status":200,"code":"ok",%b,"duration_ms":%.3f,"attempts":1,'
    b'"overhead_ms":%.3f,"first_event_ms":%.3f,"input_tokens":%d,"output_tokens":%d%b}\n'
)
_PRICED = _USUAL.replace(b"%b}\n", b'%b,"cost_usd":%.9f}\n')


class _Shared(msgspec.Struct, omit_defaults=True):
    """The fields of a JSON line that are the same for all requests of a routing, in their order."""

    key: str
    model_asked: str
    team: str = ""
    stream: bool = False
    policy: str = ""
    rule: str = ""
    chosen: str = ""  # where another one answered
    target: str = ""
    model: str = ""
    thinking: str = ""
    because: str = ""


class AccessLog:
    """Writes the lines of requests. On the event loop.

    `write` is given whole lines and says how many bytes it took, or None for all; when it raises OSError (a full disk,
    a closed pipe) the rest is lost and counted in `lost`: a log must not take the gateway down.
    """

    def __init__(
        self,
        write: Callable[[bytes], int | None],
        settings: LogSettings | None = None,
        *,
        form: Form = "json",
        coloured: bool = False,
    ) -> None:
        self.lost = 0
        self.written = 0
        self._left_out = 0  # by samplings before the present one
        self._write = write
        self._coloured = coloured
        self._second = -1.0
        self._second_bytes = b""
        self.adopt(settings or LogSettings(), form)

    def adopt(self, settings: LogSettings, form: Form) -> None:
        """Write as these settings say from now on."""
        self._form: Form = form
        self._line = self._json if form == "json" else self._text
        self._slow_s = settings.slow_s
        self._least = LEVELS.index(settings.level) if settings.requests == "all" else len(LEVELS)
        self._left_out = self.left_out
        self._sampling = Sampling(settings.sample_above)

    @property
    def left_out(self) -> int:
        """Requests for which the line of another one stands."""
        sampling: Sampling | None = getattr(self, "_sampling", None)  # None: nothing was written yet
        return self._left_out + (0 if sampling is None else sampling.left_out)

    def add(self, records: list[Record]) -> None:
        """HOT. Log requests that have ended, with one call of `write` where it takes all."""
        sampling = self._sampling
        sampling.saw(len(records), records[-1].ended_at)
        if self._least or sampling.one_of != 1:
            records = self._chosen(records)
        line = self._line
        lines = b"".join([line(record) for record in records])
        self.written += len(records)
        try:
            while lines and (written := self._write(lines)) is not None:
                lines = lines[written:]  # a pipe whose reader is slow may take less
        except OSError:
            lost = lines.count(b"\n")
            self.lost += lost
            self.written -= lost

    def _chosen(self, records: list[Record]) -> list[Record]:
        """Those that have a line."""
        takes = self._sampling.takes
        found = []
        for record in records:
            level = LEVELS.index(self.level(record))
            if level >= self._least and (level or takes(record.request_id)):
                found.append(record)
        return found

    def level(self, record: Record) -> Level:
        """How much a request deserves to be looked at."""
        code = record.code
        if code in FAULTS:
            return "error"
        routing = record.routing
        if code not in GOOD or record.thought_unasked or (record.attempts > 1 and routing.target != routing.chosen):
            return "warning"
        first = record.first_event_at
        return "warning" if first and first - record.started_at > self._slow_s else "info"

    def _json(self, record: Record) -> bytes:
        routing = record.routing
        shared = routing.line
        if shared is None:
            shared = routing.line = _shared(routing)
        begun, first, wall, usage = record.started_at, record.first_event_at, record.wall, record.usage
        since = wall - self._second
        if since < 0.0 or since >= 1.0:
            since = wall - self._take(wall)
        tail = b""
        if usage is not None and (usage.cached or usage.reasoning or usage.estimated):
            tail = _unusual(usage)
        if record.trace is not None and record.trace.trace_id:
            tail = b',"trace_id":"%b"%b' % (record.trace.trace_id.encode(), tail)
        if (  # nearly always; one long form costs less than many short ones
            record.attempts == 1
            and usage is not None
            and record.code == "ok"
            and first - begun <= self._slow_s
            and not record.thought_unasked
            and self._sampling.one_of == 1
        ):
            told = (
                self._second_bytes,
                since * 1000.0,
                record.request_id.encode(),
                shared,
                (record.ended_at - begun) * 1000.0,
                (record.sent_at - begun) * 1000.0,
                (first - begun) * 1000.0,
                usage.input,
                usage.output,
                tail,
            )
            if record.priced:
                return _PRICED % (told + (record.cost_nano / NANO_PER_USD,))  # noqa: RUF005 - which costs half
            return _USUAL % told
        if record.priced and record.sent_at:
            tail += b',"cost_usd":%.9f' % (record.cost_nano / NANO_PER_USD)
        if self._sampling.one_of != 1 and self.level(record) == "info":
            tail += b',"stands_for":%d' % self._sampling.one_of
        return self._remarkable(record, shared, usage) + tail + b"}\n"

    def _remarkable(self, record: Record, shared: bytes, usage: Usage | None) -> bytes:
        """The line of any request, up to its tokens."""
        begun, sent, first = record.started_at, record.sent_at, record.first_event_at
        line = b'{"time":"%b.%03dZ","level":"%b","request_id":"%b","status":%d,"code":"%b",%b,"duration_ms":%.3f' % (
            self._second_bytes,
            (record.wall - self._second) * 1000,
            self.level(record).encode(),
            record.request_id.encode(),
            record.status,
            record.code.encode(),
            shared,
            (record.ended_at - begun) * 1000,
        )
        if sent:
            line += b',"attempts":%d,"overhead_ms":%.3f' % (record.attempts, (sent - begun) * 1000)
        if first:
            line += b',"first_event_ms":%.3f' % ((first - begun) * 1000)
            if first - begun > self._slow_s:
                line += b',"slow":true'
        if usage is not None:
            line += b',"input_tokens":%d,"output_tokens":%d' % (usage.input, usage.output)
        if record.fallback_reason:
            line += b',"fallback_reason":"%b"' % record.fallback_reason.encode()
        if record.thought_unasked:
            line += b',"thought_unasked":true'
        return line

    def _text(self, record: Record) -> bytes:
        routing, usage, level = record.routing, record.usage, self.level(record)
        first, begun = record.first_event_at, record.started_at
        parts = [
            self._time(record.wall),
            level.upper(),
            record.request_id,
            str(record.status),
            record.code,
            f"{(record.ended_at - begun) * 1000:.1f}ms",
            word(routing.key) if routing.key else "-",
            f"{_asked(routing)} -> {routing.target or '-'}",
        ]
        if routing.team:
            parts.append(f"team={word(printable(routing.team))}")
        if routing.policy:
            parts.append(f"policy={routing.policy}")
        if routing.rule:
            parts.append(f"rule={routing.rule}")
        if routing.chosen and routing.chosen != routing.target:
            parts.append(f"chosen={routing.chosen} fallback_reason={record.fallback_reason or '-'}")
        if routing.model:
            parts.append(f"model={routing.model}")
        if routing.stream:
            parts.append("stream")
        if routing.thinking:
            parts.append(f"thinking={routing.thinking}")
        if record.trace is not None and record.trace.trace_id:
            parts.append(f"trace_id={record.trace.trace_id}")
        if record.thought_unasked:
            parts.append("thought_unasked")
        if record.sent_at:
            parts.append(f"attempts={record.attempts} overhead={(record.sent_at - begun) * 1000:.2f}ms")
        if first:
            parts.append(f"{'slow ' if first - begun > self._slow_s else ''}first={(first - begun) * 1000:.1f}ms")
        if usage is not None:
            parts.append(f"tokens={'~' if usage.estimated else ''}{usage.input}+{usage.output}")
            if usage.cached or usage.reasoning:
                parts.append(f"cached={usage.cached} reasoning={usage.reasoning}")
        if record.priced and record.sent_at:
            parts.append(f"cost=${record.cost_nano / NANO_PER_USD:.6f}")
        if self._sampling.one_of != 1 and level == "info":
            parts.append(f"stands_for={self._sampling.one_of}")
        if routing.because:
            parts.append(f"because={word(_because(routing))}")
        line = (" ".join(parts) + "\n").encode("utf-8", "backslashreplace")
        return colour(line, level) if self._coloured else line

    def _time(self, wall: float) -> str:
        """RFC 3339 in UTC with milliseconds."""
        since = wall - self._second
        if since < 0.0 or since >= 1.0:
            since = wall - self._take(wall)
        return f"{self._second_bytes.decode()}.{int(since * 1000):03d}Z"

    def _take(self, wall: float) -> float:
        """Make the text of a second, once; and that second."""
        self._second = second = float(int(wall))
        self._second_bytes = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()
        return second


def _asked(routing: Routing) -> str:
    return word(outside(routing.model_asked)) if routing.model_asked else "-"


def _because(routing: Routing) -> str:
    return outside(routing.because, BECAUSE_MAX)


def _shared(routing: Routing) -> bytes:
    line = _Shared(
        key=routing.key,
        model_asked=outside(routing.model_asked),
        team=printable(routing.team),
        stream=routing.stream,
        policy=routing.policy,
        rule=routing.rule,
        chosen=routing.chosen if routing.chosen != routing.target else "",
        target=routing.target,
        model=routing.model,
        thinking=routing.thinking,
        because=_because(routing),
    )
    return msgspec.json.encode(line)[1:-1]


def _unusual(usage: Usage) -> bytes:
    """What most usages do not have."""
    told = {"cached_tokens": usage.cached, "reasoning_tokens": usage.reasoning, "usage_estimated": usage.estimated}
    return b"," + msgspec.json.encode({name: value for name, value in told.items() if value})[1:-1]
