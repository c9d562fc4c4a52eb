"""Events of one stream that differ in their text alone, judged many at a time.

Servers write event after event into the same frame, each as a chunk of its own. Where all of a run stand in one frame
that says nothing of a finish, usage or an error, only what stands in it needs looking at, a twentieth of the bytes, and
where the size of each chunk is that of its event the run can be sent on as it came. What follows from that is `sse`'s
business; an event that is in any way unlike the others is for its table, a chunk for `proxy.framing`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import repeat
from typing import NamedTuple

#: A run that is shorter costs as much to look at as its bytes.
LEAST = 8
# Runs that were not alike, after which those of a stream are no longer compared.
_MOST_ODD = 3
# At the end of a run so many events may be of another kind: a finish, usage, the end marker.
_TAIL = 8
# The end of an event that is the end of a chunk: what ends few events otherwise, and is quickly found.
_END = b"\n\n\r\n"
_LONGEST_SIZE = 3  # hexadecimal digits
# A text of a delta that is not empty, up to its closing quote.
_TEXT = re.compile(rb'("(?:content|reasoning_content|reasoning|refusal|arguments|text)": ?")(?:[^"\\]|\\.)+(?=")')


class _Openings(dict[int, bytes]):
    """What chunks begin with, up to the text of their event, by their bytes up to the end of the event's line."""

    def __init__(self, before: bytes, size: bytes) -> None:
        super().__init__()
        self._before = before
        self._form = b"%x" if size == size.lower() else b"%X"

    def __missing__(self, length: int) -> bytes:
        found = _END  # with which none begins
        for digits in range(1, _LONGEST_SIZE + 1):
            size = length - digits  # for the line end behind the digits, the two that end the event
            if size > 0 and len(line := self._form % size) == digits:
                found = b"%b\r\n%b" % (line, self._before)
        self[length] = found
        return found


class Run(NamedTuple):
    """Events that are alike: how many, the bytes of their chunks and of themselves, and their texts, a line each."""

    events: int
    end: int
    size: int
    texts: bytes


class Frame(NamedTuple):
    """What comes before and behind the text of an event."""

    before: bytes
    behind: bytes

    def run(self, data: bytes, openings: _Openings) -> Run | None:
        r"""The run that `data` begins with, whose first byte is that of a chunk. HOT.

        None where that is less than a few, or one that is not behind all the others is something else. A text is a
        plain one in which JSON may have no more to say: no quote that is not escaped and no line end, and no word that
        an error or the end of a stream could be known by.

        >>> frame = Frame(b'data: {"text":"', b'"}\n\n')
        >>> event = b'14\r\ndata: {"text":"%d"}\n\n\r\n'
        >>> frame.run(b"".join(event % n for n in range(9)), _Openings(frame.before, b"14"))
        Run(events=9, end=234, size=180, texts=b'0\n1\n2\n3\n4\n5\n6\n7\n8')
        """
        behind = self.behind[:-2]
        pieces = data.split(_END)
        end = len(data) - len(pieces.pop())
        for _ in range(_TAIL):
            if pieces and not pieces[-1].endswith(behind):
                end -= len(pieces.pop()) + len(_END)
        count = len(pieces)
        if count < LEAST:
            return None
        lengths = list(map(len, pieces))
        starts = list(map(openings.__getitem__, lengths))
        texts = b"\n".join(map(bytes.removesuffix, map(bytes.removeprefix, pieces, starts), repeat(behind)))
        framing = sum(map(len, starts))
        # As long as this only if each of them began and ended so.
        if len(texts) != sum(lengths) - framing - count * len(behind) + count - 1:
            return None
        if (
            texts.count(b"\n") != count - 1
            or texts.find(b"\r") >= 0
            or texts.find(b"error") >= 0
            or texts.find(b"[DON") >= 0
            or (texts.find(b'"') >= 0 and texts.replace(b"\\\\", b"").replace(b'\\"', b"").find(b'"') >= 0)
        ):
            return None
        size = sum(lengths) + 2 * count - (framing - count * len(self.before))
        return Run(count, end, size, texts)


def frame_of(event: bytes) -> Frame | None:
    r"""The frame of a whole event around its text, None where it has no text or is not one line of data.

    >>> frame_of(b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n')
    Frame(before=b'data: {"choices":[{"delta":{"content":"', behind=b'"}}]}\n\n')
    """
    found = _TEXT.search(event)
    if found is None or not event.startswith(b"data:") or not event.endswith(b"\n\n"):
        return None
    before, behind = event[: found.end(1)], event[found.end() :]
    if event.count(b"\n") != 2 or event.find(b"\r") >= 0 or behind[1:2] not in (b",", b"}"):
        return None
    return Frame(before, behind)


class Alike:
    """What the events of one stream have looked like."""

    __slots__ = ("_frame", "_odd", "_openings")

    def __init__(self) -> None:
        self._frame: Frame | None = None  # that events stood in last
        self._openings = _Openings(b"", b"")
        self._odd = 0  # runs since then that were not alike

    def take(self, data: bytes, interesting: Callable[[bytes], bool]) -> tuple[int, int, int] | None:
        """Of the run that `data` begins with how often it says `data:`, its events' bytes and those of its chunks.

        None where it begins with none. HOT. `interesting` says whether a needle of `sse` is in an event; what is taken
        would not have been. The quotes of a needle are such that no text without an unescaped one can complete what a
        frame begins.
        """
        frame = self._frame
        run = frame.run(data, self._openings) if frame is not None else None
        if run is None and self._odd < _MOST_ODD:
            size, _, event = data[: data.find(_END) + 2].partition(b"\r\n")
            frame = frame_of(event)
            if frame is not None and not interesting(frame.before + frame.behind):
                self._openings = _Openings(frame.before, size)
                run = frame.run(data, self._openings)
        if run is None or frame is None:
            self._odd += 1
            self._frame = None
            return None
        self._odd = 0
        self._frame = frame
        said = run.events * (frame.before + frame.behind).count(b"data:") + run.texts.count(b"data:")
        return said, run.size, run.end
