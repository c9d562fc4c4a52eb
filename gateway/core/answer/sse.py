"""An upstream's event stream on its way to the client, as a literal table of state x event.

`Relay` is pushed bytes from outside in any cut and gives back the bytes that may be sent now. It knows nothing of
sockets, clocks or failover: it holds back what is not yet meaningful, so that another target can still take over, and
it reports facts (`committed`, `done`, `failure`, `usage`). How a single chunk is read is in `chunk`.

Events leave whole and byte for byte as they came, with these exceptions, all of them part of the contract:

- Nothing leaves before the first meaningful event (content, reasoning, tool call, refusal, finish). What came before
  it is kept, up to 64 KiB, and leaves with it in order; beyond that, further meaningless events are dropped.
- A chunk that holds nothing but usage is withheld unless the client asked for it; so is one behind the finish whose
  choices say nothing (OpenRouter).
- The end marker is always ours: `data: [DONE]` is written in one spelling, is added after a finish that came without
  one, and nothing follows it. A byte order mark at the start is dropped, since it may not stand inside a stream.
- An event is parsed only while something in it can matter: before the commit point and after the finish always, in
  between only if it contains one of the needles below. So malformed JSON between two good deltas passes untouched
  unless it looks like usage, a finish or an error; then the stream is INTERRUPTED.
"""

from __future__ import annotations

import enum
import re

from gateway.core.answer.alike import Alike
from gateway.core.answer.chunk import Fields, error_status, fields_of, load, read_chunk
from gateway.core.errors import GatewayError, to_openai
from gateway.core.money.usage import BYTES_PER_TOKEN, read
from gateway.core.types import Outcome, Usage

DONE_EVENT = b"data: [DONE]\n\n"
HELD_MAX = 64 << 10
_WINDOW = 16 << 10  # how far ahead plain events are looked for at once
_BOM = b"\xef\xbb\xbf"

# A line ends at CRLF, LF or CR, and nothing else (U+2028 is content). Atomic groups, or CRLF would match as two ends.
EVENT_END = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LF, _CR = 10, 13
_BLANK = _BOM + b" \t\r\n"

# How a stream spells `"finish_reason": "stop"` and `"usage": {`, learned from its first meaningful event: JSON is
# written compactly or with one space. A stream that does neither has every event parsed. A finish in the other spelling
# is looked for as well: behind some proxies the last events are written by another hand. A quote inside a text is
# escaped, so a mention is not taken for one.
_COMPACT = (b'"choices":[', b'"finish_reason":"', b'"usage":{', b'"finish_reason": "')
_SPACED = (b'"choices": [', b'"finish_reason": "', b'"usage": {', b'"finish_reason":"')
# A search looks for the last byte of what it seeks first, and stops at each: these end in one that JSON has few of.
_USAGE_HINT, _DONE_HINT = b'"usag', b"[DON"


class State(enum.Enum):
    """Where a stream is. DONE and FAILED are final: whatever comes then is dropped."""

    WAITING = "waiting"  # nothing meaningful yet, nothing sent: another target may still take over
    RELAYING = "relaying"
    FINISHED = "finished"  # every choice seen has its finish_reason: the answer is whole
    DONE = "done"
    FAILED = "failed"


class Event(enum.Enum):
    """What an event, or the end of the body, means for the stream."""

    EMPTY = "empty"  # no data: a comment, a blank line, retry:
    IDLE = "idle"  # a chunk that says nothing yet, such as a role
    CONTENT = "content"
    FINISH = "finish"  # the last choice that was open has ended
    USAGE = "usage"  # nothing but usage, and the client did not ask for it
    DONE = "done"
    ERROR = "error"
    JUNK = "junk"  # not JSON, or not an event stream at all
    OVERSIZE = "oversize"
    EOF = "eof"


class Act(enum.Enum):
    """What is done with the event's bytes."""

    HOLD = "hold"
    RELEASE = "release"  # what was held, then this
    RELAY = "relay"
    DROP = "drop"
    CLOSE = "close"  # send our own end marker
    FAIL = "fail"


_S, _E, _A, _O = State, Event, Act, Outcome

#: Every live state answers every event; `tests/core/answer/test_sse.py` fails when one does not.
TABLE: dict[tuple[State, Event], tuple[State, Act, Outcome | None]] = {
    (_S.WAITING, _E.EMPTY): (_S.WAITING, _A.HOLD, None),
    (_S.WAITING, _E.IDLE): (_S.WAITING, _A.HOLD, None),
    (_S.WAITING, _E.CONTENT): (_S.RELAYING, _A.RELEASE, None),
    (_S.WAITING, _E.FINISH): (_S.FINISHED, _A.RELEASE, None),
    (_S.WAITING, _E.USAGE): (_S.WAITING, _A.DROP, None),
    (_S.WAITING, _E.DONE): (_S.FAILED, _A.FAIL, _O.INVALID),
    (_S.WAITING, _E.ERROR): (_S.FAILED, _A.FAIL, _O.IN_BAND_ERROR),
    (_S.WAITING, _E.JUNK): (_S.FAILED, _A.FAIL, _O.INVALID),
    (_S.WAITING, _E.OVERSIZE): (_S.FAILED, _A.FAIL, _O.TOO_LARGE),
    (_S.WAITING, _E.EOF): (_S.FAILED, _A.FAIL, _O.INVALID),
    (_S.RELAYING, _E.EMPTY): (_S.RELAYING, _A.RELAY, None),
    (_S.RELAYING, _E.IDLE): (_S.RELAYING, _A.RELAY, None),
    (_S.RELAYING, _E.CONTENT): (_S.RELAYING, _A.RELAY, None),
    (_S.RELAYING, _E.FINISH): (_S.FINISHED, _A.RELAY, None),
    (_S.RELAYING, _E.USAGE): (_S.RELAYING, _A.DROP, None),
    # An end marker without a finish is a truncated answer: were it relayed, the client would take it for a whole one.
    (_S.RELAYING, _E.DONE): (_S.FAILED, _A.FAIL, _O.INTERRUPTED),
    (_S.RELAYING, _E.ERROR): (_S.FAILED, _A.FAIL, _O.INTERRUPTED),
    (_S.RELAYING, _E.JUNK): (_S.FAILED, _A.FAIL, _O.INTERRUPTED),
    (_S.RELAYING, _E.OVERSIZE): (_S.FAILED, _A.FAIL, _O.EVENT_TOO_LARGE),
    (_S.RELAYING, _E.EOF): (_S.FAILED, _A.FAIL, _O.INTERRUPTED),
    (_S.FINISHED, _E.EMPTY): (_S.FINISHED, _A.RELAY, None),
    (_S.FINISHED, _E.IDLE): (_S.FINISHED, _A.RELAY, None),
    (_S.FINISHED, _E.CONTENT): (_S.RELAYING, _A.RELAY, None),  # a choice not seen before opens
    (_S.FINISHED, _E.FINISH): (_S.FINISHED, _A.RELAY, None),
    (_S.FINISHED, _E.USAGE): (_S.FINISHED, _A.DROP, None),
    (_S.FINISHED, _E.DONE): (_S.DONE, _A.CLOSE, None),
    # The answer is whole; what breaks behind it does not take it back.
    (_S.FINISHED, _E.ERROR): (_S.DONE, _A.CLOSE, None),
    (_S.FINISHED, _E.JUNK): (_S.FINISHED, _A.DROP, None),
    (_S.FINISHED, _E.OVERSIZE): (_S.DONE, _A.CLOSE, None),
    (_S.FINISHED, _E.EOF): (_S.DONE, _A.CLOSE, None),
}


def error_event(error: GatewayError) -> bytes:
    """The one event that ends a stream which broke after its commit point."""
    return b"data: " + to_openai(error) + b"\n\n"


def _size(block: bytes) -> int:
    """The bytes of an event as if it ended in two LF, so that estimates do not hang on where a CRLF was cut."""
    return len(block.rstrip(b"\r\n")) + 2


class Relay:
    """One attempt's event stream. Feed it the body in any cut; the output and the facts are the same.

    >>> relay = Relay(keep_usage=False)
    >>> relay.feed(b'data: {"choices":[{"index":0,"delta":{"role":"assistant"}}]}\\n\\n')
    b''
    >>> relay.feed(b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\\n\\n').count(b"data:")
    2
    >>> relay.end()
    b'data: [DONE]\\n\\n'

    `choices` is the `n` of the request: above 1 every event is parsed, so that a choice that never ends is noticed
    even if it opened late. `max_event` bounds one event, terminator included, in bytes; it is the only buffer besides
    the held-back events (64 KiB). A call may return bytes and set `failure` at once: the bytes came before it.
    """

    __slots__ = (
        "_act",
        "_alike",
        "_buffer",
        "_calm",
        "_carriage",
        "_closed",
        "_finish_needle",
        "_flowing",
        "_held",
        "_held_size",
        "_keep_usage",
        "_max_event",
        "_opened",
        "_other_finish",
        "_overhead",
        "_parse_all",
        "_passed",
        "_passed_size",
        "_shown",
        "_started",
        "_state",
        "_text",
        "_usage_needle",
        "anomalies",
        "committed",
        "done",
        "error_body",
        "error_status",
        "failure",
        "reasoned",
        "usage",
    )

    kind = "text/event-stream"  # what the answer calls itself

    def __init__(self, keep_usage: bool, max_event: int = 4 << 20, *, choices: int = 1) -> None:
        self.committed = False  # something was sent: no other target may take over
        self.done = False  # the end marker was sent: nothing follows
        self.failure: Outcome | None = None
        self.usage: Usage | None = None  # as stated last, see `usage.read`
        self.reasoned = False  # reasoning arrived, as far as events were parsed (the first meaningful one always is)
        self.error_status: int | None = None  # the HTTP status that an in-band error names
        self.error_body = b""  # its JSON, for `dialects.classify`
        self.anomalies = 0  # oddities that were tolerated: unclean JSON, junk behind the finish, no end marker
        self._keep_usage = keep_usage
        self._max_event = max_event
        self._parse_all = choices > 1
        self._state = State.WAITING
        self._act = Act.HOLD  # what became of the last event
        self._buffer = bytearray()  # begins at an event boundary
        self._carriage = False  # the last event ended in CR where a read ended: an LF that follows belongs to it
        self._held: list[bytes] = []
        self._held_size = 0
        self._started = False  # an event with data was seen
        self._opened: set[int] = set()
        self._closed: set[int] = set()
        self._calm = False  # RELAYING, and the needles of this stream are known
        self._flowing = False  # calm, and at an event boundary
        self._alike = Alike()
        self._finish_needle, self._usage_needle, self._other_finish = _COMPACT[1:]
        self._text = 0  # bytes of text in parsed events
        self._shown = 0  # events that were parsed and say something
        self._passed = 0  # events relayed unparsed, counted by what they begin with: the quickest to find ...
        self._passed_size = 0  # ... and their bytes
        self._overhead = 0  # bytes around the text of an event, from the first meaningful one

    @property
    def finished(self) -> bool:
        """Every choice seen so far has had its `finish_reason`."""
        return self._state is State.FINISHED or self._state is State.DONE

    @property
    def chunks(self) -> int:
        """Events received so far that say something."""
        return self._shown + self._passed

    @property
    def output_chars(self) -> int:
        """Text received so far, in bytes, for estimates.

        An event counts as a token's worth at least. Of those not parsed it is what they hold beyond the frame of the
        first one, whose length differs by a few bytes where reasoning ends and content begins.
        """
        passed = self._passed
        return self._text + max(self._passed_size - passed * self._overhead, passed * BYTES_PER_TOKEN)

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the body; give what may be sent to the client now."""
        size = len(data)
        if (
            self._flowing
            and data[-2:] == b"\n\n"
            and data.find(self._finish_needle) < 0  # not `in`, which tries an integer first and pays for the failure
            and data.find(self._other_finish) < 0
            and (data.find(_USAGE_HINT) < 0 or data.find(self._usage_needle) < 0)
            and data.find(b"error") < 0
            and data.find(_DONE_HINT) < 0
            and size <= self._max_event
        ):
            self._passed += data.count(b"data:")
            self._passed_size += size
            return data
        if not size or self.done or self.failure is not None:
            return b""
        return self._walk(data)

    def end(self) -> bytes:
        """The body has ended: give the tail to send, or set `failure` when the answer is not whole."""
        if self.done or self.failure is not None:
            return b""
        rest = bytes(self._buffer)
        self._buffer.clear()
        out = b""
        if rest:
            # Many servers leave out the last blank line: an event that is whole in itself is taken, a part is not.
            data = fields_of(rest).data
            if data is None or data.strip() == b"[DONE]" or load(data) is not None:
                out = self._event(rest + (b"\n" if rest[-1] in (_LF, _CR) else b"\n\n"))
        if not self.done and self.failure is None:
            self.anomalies += 1
            out += self._step(Event.EOF, b"")
        return out

    def flood(self, data: bytes) -> int:
        """Take the events that `data` begins with, where each is a chunk of its own and all are alike. HOT.

        `data` begins with a chunk, framing included. The result is up to where its chunks are to be sent on as they
        are; what comes behind that is for `feed`.
        """
        if not self._flowing or self._max_event < _WINDOW:
            return 0
        taken = self._alike.take(data, self._interesting)
        if taken is None:
            return 0
        said, size, end = taken
        self._passed += said
        self._passed_size += size
        return end

    def _plain(self, whole: bytes, start: int) -> int:
        """Where the run of whole, plain events that begins at `start` ends; `start` where the next one is not plain."""
        limit = min(len(whole), start + _WINDOW, start + self._max_event)  # what fits in there is not oversize
        for needle in (self._finish_needle, self._other_finish, self._usage_needle, b"error", b"[DONE]", b"\r"):
            found = whole.find(needle, start, limit)
            if found >= 0:
                limit = found
        end = whole.rfind(b"\n\n", start, limit) + 2
        return end if end > start + 2 else start

    def _interesting(self, block: bytes) -> bool:
        needles = (self._finish_needle, self._usage_needle, self._other_finish, b"error", b"[DONE]")
        return any(map(block.__contains__, needles))

    def _walk(self, data: bytes) -> bytes:
        """Cut what has come into events, plain ones by the run, others one by one; keep what is left of one."""
        parts: list[bytes] = []
        if self._carriage:
            self._carriage = False
            if data[0] == _LF:
                parts.append(self._late_lf())
                data = data[1:]
        held = self._buffer
        if held and EVENT_END.search(bytes(held[-3:]) + data) is None and len(held) + len(data) <= self._max_event:
            held += data  # in place: an event that comes in many small reads is not copied with each
            return b"".join(parts)
        scan = max(0, len(held) - 3)  # an end may straddle the cut; what lies before has been searched
        whole = bytes(held) + data if held else data
        held.clear()
        start, size = 0, len(whole)
        while start < size:
            if self._calm and (end := self._plain(whole, start)) > start:
                self._passed += whole.count(b"data:", start, end)
                self._passed_size += end - start
                self._act = Act.RELAY
                parts.append(whole[start:end])
                start = end
                continue
            if whole[start] == _LF or whole[start] == _CR:  # a blank line by itself
                end = start + (2 if whole[start : start + 2] == b"\r\n" else 1)
            else:
                match = EVENT_END.search(whole, max(scan, start))
                if match is None:
                    break
                end = match.end()
            if end - start > self._max_event:
                break
            parts.append(self._event(whole[start:end]))
            start = end
            if self.done or self.failure is not None:
                self._flowing = False
                return b"".join(parts)
        self._carriage = 0 < start == size and whole[-1] == _CR
        held += whole[start:]
        if not self._started and held.lstrip(_BLANK)[:1] == b"<":  # an HTML page: no need to wait for its end
            parts.append(self._step(Event.JUNK, b""))
        elif len(held) > self._max_event:
            parts.append(self._step(Event.OVERSIZE, b""))
        self._flowing = self._calm and not held and not self._carriage
        return b"".join(parts)

    def _late_lf(self) -> bytes:
        """The LF of a CRLF that a cut had separated from its CR goes where its event went."""
        if self._act is Act.HOLD and self._held:
            self._held[-1] += b"\n"
        return b"\n" if self._act in (Act.RELAY, Act.RELEASE) else b""

    def _event(self, block: bytes) -> bytes:
        """Judge one whole event and do what the table says."""
        if self._calm and not self._interesting(block):
            self._passed += block.count(b"data:")
            self._passed_size += _size(block) if block.find(b"\r") >= 0 else len(block)
            self._act = Act.RELAY
            return block
        if not self._started and block[:3] == _BOM:
            block = block[3:]
        fields = fields_of(block)
        if fields.data is not None:
            self._started = True
            return self._step(self._judge(fields, _size(block)), block)
        if not self._started and block.lstrip(_BLANK)[:1] in (b"{", b"[", b"<"):
            return self._step(self._judge(Fields(block, b""), 0, stream=False), block)
        return self._step(Event.EMPTY, block)

    def _judge(self, fields: Fields, size: int, stream: bool = True) -> Event:
        """What an event means; takes down its facts on the way."""
        data = fields.data or b""
        if data.strip() == b"[DONE]":
            return Event.DONE
        chunk = read_chunk(data)
        if chunk is None:
            if fields.event != b"error":
                return Event.JUNK
            self.error_body = data
            return Event.ERROR
        self.usage = read(chunk.usage, self.usage)
        if chunk.error is not None or fields.event == b"error":
            self.error_body = data
            self.error_status = error_status(chunk.error)
            return Event.ERROR
        if not stream:
            return Event.JUNK
        self.anomalies += not chunk.clean
        trailing = self._state is State.FINISHED and chunk.idle_usage and self._opened.issuperset(chunk.opened)
        if chunk.only_usage or trailing:
            return Event.IDLE if self._keep_usage else Event.USAGE
        self._opened.update(chunk.opened)
        self._closed.update(chunk.closed)
        self.reasoned = self.reasoned or chunk.reasoned
        self._parse_all = self._parse_all or chunk.detailed
        if not chunk.meaningful:
            return Event.IDLE
        self._shown += 1
        self._text += max(chunk.text, BYTES_PER_TOKEN) if chunk.text else 0
        if self._state is State.WAITING:
            self._overhead = size - chunk.text
        return Event.FINISH if self._opened <= self._closed else Event.CONTENT

    def _step(self, event: Event, block: bytes) -> bytes:
        before = self._state
        self._state, act, outcome = TABLE[before, event]
        self._act = act
        self._calm = self._calm and self._state is State.RELAYING
        if act is Act.RELAY:
            return block
        if act is Act.HOLD:
            if self._held_size + len(block) <= HELD_MAX:
                self._held.append(block)
                self._held_size += len(block)
            else:
                self._act = Act.DROP
                self.anomalies += 1
            return b""
        if act is Act.RELEASE:
            self.committed = True
            self._learn(block)
            out = b"".join(self._held) + block
            self._held.clear()
            return out
        if act is Act.CLOSE:
            self.done = True
            self.anomalies += event is not Event.DONE and event is not Event.EOF
            return DONE_EVENT
        if act is Act.FAIL:
            self.failure = outcome
            self._held.clear()
        elif event is Event.JUNK:
            self.anomalies += 1
        return b""

    def _learn(self, block: bytes) -> None:
        """Take this stream's spelling from its first meaningful event, and with it the needles for the rest."""
        for choices, *needles in (_COMPACT, _SPACED):
            if choices in block:
                self._finish_needle, self._usage_needle, self._other_finish = needles
                self._calm = self._state is State.RELAYING and not self._parse_all and block.count(b"data:") == 1
