"""W3C trace context: by which headers a request is part of a trace, read strictly, and the ids of our own spans.

Here belong the grammar of `traceparent` and `tracestate`, whether a request is in the sample, and what is noted of its
attempts while it runs. What is told of it afterwards, and to whom, is `telemetry.otlp`'s.

Spans have no ids until somebody needs them: they follow from the request's id, whose last 80 bits are random. A request
that belongs to no trace yet begins one of its own id, so that `x-request-id` finds its trace.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    from gateway.core.types import Attempt, Endpoint, Outcome, Record, Shadowed, Target

#: Characters of `tracestate` that are passed on; W3C asks for at least this many. More is dropped, whole.
LONGEST_STATE = 512
_MOST_MEMBERS = 32
#: By which number the span of a shadow is told from those of the attempts, of which there are fewer.
SHADOW = 0x1_0000
_PARENT_NAME, _STATE_NAME = b"\r\ntraceparent:", b"\r\ntracestate:"
_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?")
_KEY = rb"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
_MEMBER = re.compile(rb"(" + _KEY + rb")=[!-+\x2d-<>-~ ]{0,255}[!-+\x2d-<>-~]")
_SAMPLED, _RANDOM = 1, 2


class Parent(msgspec.Struct, frozen=True, gc=False):
    """The span that called us, as it says: 32 and 16 hex digits, whether it is recorded, and what others noted."""

    trace_id: str
    span_id: str
    sampled: bool = False
    random: bool = False  # the trace's id is random, so that others may sample by it
    state: str = ""


def parent_of(head: bytes) -> Parent | None:
    """The parent that a request's whole head names; None for none, and for one not exactly as W3C has it. HOT."""
    lower = head.lower()
    at = lower.find(_PARENT_NAME)
    if at < 0 or lower.find(_PARENT_NAME, at + 1) >= 0:
        return None
    match = _PARENT.fullmatch(_value(head, at + len(_PARENT_NAME)))
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    # Versions to come may say more behind a dash; this one says nothing else.
    if version == b"ff" or (version == b"00" and more is not None):
        return None
    if trace_id == b"0" * 32 or span_id == b"0" * 16:
        return None
    bits = int(flags, 16)
    states = []
    at = lower.find(_STATE_NAME)
    while at >= 0:
        states.append(_value(head, at + len(_STATE_NAME)))
        at = lower.find(_STATE_NAME, at + 1)
    state = _state(b",".join(states)) if states else ""
    return Parent(trace_id.decode(), span_id.decode(), bool(bits & _SAMPLED), bool(bits & _RANDOM), state)


def _value(head: bytes, at: int) -> bytes:
    """The value of the header line whose name ends before `at`."""
    return head[at : head.find(b"\r\n", at)].strip(b" \t")


def _state(raw: bytes) -> str:
    """A `tracestate` that may be passed on, "" where any part of it is not as it should be."""
    if len(raw) > LONGEST_STATE:
        return ""
    members = [one for one in (part.strip(b" \t") for part in raw.split(b",")) if one]
    keys = [match[1] for match in map(_MEMBER.fullmatch, members) if match]
    if len(keys) != len(members) or len(keys) > _MOST_MEMBERS or len(set(keys)) != len(keys):
        return ""
    return b",".join(members).decode()


def span_id(request_id: str, number: int = 0) -> str:
    """The id of a request's span, or of that of its attempt of this number: 16 hex digits.

    >>> span_id("0199f0a3c2d5" + "ab" * 10), span_id("0199f0a3c2d5" + "ab" * 10, 1)
    ('abababababababab', 'abababababababaa')
    """
    return f"{int(request_id[16:], 16) ^ number:016x}"


class Tried(NamedTuple):
    """An attempt that did not answer. Times are monotonic; `endpoint` is None where nothing was sent anywhere."""

    number: int
    target: Target
    endpoint: Endpoint | None
    began_at: float
    ended_at: float
    outcome: Outcome
    status: int  # of the upstream's answer, 0 for none


class Copied(NamedTuple):
    """A shadow that has ended, and where it went. `sent_at` is monotonic."""

    shadow: Shadowed
    record: Record  # of the request that it copies
    target: Target
    endpoint: Endpoint
    sent_at: float


class Traced(msgspec.Struct, eq=False, gc=False):
    """What is noted of one request for its spans and measures while it runs."""

    trace_id: str  # "": it is only measured
    sampled: bool
    random: bool = True
    parent_id: str = ""  # "": its span is the first of the trace
    state: str = ""
    link: Parent | None = None  # who called, where their trace is not continued
    number: int = 0  # of the last attempt that was sent somewhere
    endpoint: Endpoint | None = None  # where it went
    target: Target | None = None
    began_at: float = 0.0  # monotonic: when it was handed to that endpoint's pool
    tried: tuple[Tried, ...] = ()
    chunks: int = 0  # of a stream that was read as fast as it came: events with something in them

    def sends(self, attempt: Attempt, endpoint: Endpoint, now: float) -> None:
        """An attempt begins. `now` is monotonic."""
        self.number = attempt.number
        self.target = attempt.target
        self.endpoint = endpoint
        self.began_at = now

    def failed(self, attempt: Attempt, outcome: Outcome, now: float, status: int) -> None:
        """An attempt is over without an answer."""
        if self.tried and self.tried[-1].number == attempt.number:
            return
        if self.number == attempt.number:
            one = Tried(attempt.number, attempt.target, self.endpoint, self.began_at, now, outcome, status)
        else:
            one = Tried(attempt.number, attempt.target, None, now, now, outcome, 0)
        self.tried = (*self.tried, one)

    def carried(self, request_id: str, number: int) -> bytes:
        """The header lines that make what is sent a part of this trace, each with CRLF before it."""
        flags = self.sampled * _SAMPLED | self.random * _RANDOM
        line = f"\r\ntraceparent: 00-{self.trace_id}-{span_id(request_id, number)}-{flags:02x}"
        if self.state:
            line += f"\r\ntracestate: {self.state}"
        return line.encode()


def threshold(share: float) -> str:
    """What the last 56 bits of a trace's id must reach, as hex digits, for it to be in a sample of this share.

    This is how OpenTelemetry's consistent probability sampling has it, so that others with the same share choose the
    same traces.

    >>> threshold(1.0), threshold(0.25), threshold(0.0)
    ('00000000000000', 'c0000000000000', 'g')
    """
    if share <= 0:
        return "g"  # above every digit
    return f"{min(round((1 - share) * (1 << 56)), (1 << 56) - 1):014x}"


@dataclass(frozen=True, slots=True)
class Tracing:
    """How requests become traced. Without `traces` they are only measured."""

    traces: bool = True
    follow: bool = True  # continue a caller's trace and its decision; else link to it
    least: str = "00000000000000"  # see `threshold`

    def begin(self, request_id: str, head: bytes) -> Traced:
        """What is noted of a request with this head. HOT where tracing is on."""
        if not self.traces:
            return Traced("", False)
        parent = parent_of(head)
        if parent is None or not self.follow:
            return Traced(request_id, request_id[18:] >= self.least, link=parent)
        return Traced(parent.trace_id, parent.sampled, parent.random, parent.span_id, parent.state)
