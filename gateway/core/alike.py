"""Events of one stream that differ in their text alone, judged many at a time.

Servers write event after event into the same frame. Where all of a run stand in one frame that says nothing of a
finish, usage or an error, only what stands in it needs looking at, a twentieth of the bytes. What follows from that is
`sse`'s business; an event that is in any way unlike the others is for its table.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import repeat
from typing import NamedTuple

#: Whole events of the size of a read, in their order, and how many bytes of the read's payload come before them.
Flood = tuple[int, list[bytes]]

#: A run that is shorter costs as much to look at as its bytes.
LEAST = 8
# Runs that were not alike, after which those of a stream are no longer compared.
_MOST_ODD = 3
# At the end of a run so many events may be of another kind: a finish, usage, the end marker.
_TAIL = 8
# A text of a delta that is not empty, up to its closing quote.
_TEXT = re.compile(rb'("(?:content|reasoning_content|reasoning|refusal|arguments|text)": ?")(?:[^"\\]|\\.)+(?=")')


class Frame(NamedTuple):
    """What comes before and behind the text of an event."""

    before: bytes
    behind: bytes

    def run(self, events: list[bytes]) -> tuple[int, int, bytes] | None:
        r"""How many of these from the first on are this frame around a plain text, their size and their texts. HOT.

        None where there are less than a few, or one that is not at the end is something else. A plain text is one in
        which JSON may have no more to say: no quote that is not escaped and no line end, and no word that an error or
        the end of a stream could be known by.

        >>> Frame(b'data: {"text":"', b'"}\n\n').run([b'data: {"text":"%d"}\n\n' % n for n in range(9)])
        (9, 180, b'0\n1\n2\n3\n4\n5\n6\n7\n8')
        """
        before, behind = self
        count = len(events)
        for _ in range(_TAIL):
            if count and not (events[count - 1].startswith(before) and events[count - 1].endswith(behind)):
                count -= 1
        if count < LEAST:
            return None
        if count < len(events):
            events = events[:count]
        size = sum(map(len, events))
        texts = b"\n".join(map(bytes.removesuffix, map(bytes.removeprefix, events, repeat(before)), repeat(behind)))
        # As long as this only if each of them began and ended so.
        if len(texts) != size - count * (len(before) + len(behind)) + count - 1:
            return None
        if (
            texts.count(b"\n") != count - 1
            or texts.find(b"\r") >= 0
            or texts.find(b"error") >= 0
            or texts.find(b"[DON") >= 0
            or (texts.find(b'"') >= 0 and texts.replace(b"\\\\", b"").replace(b'\\"', b"").find(b'"') >= 0)
        ):
            return None
        return count, size, texts


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

    __slots__ = ("_frame", "_odd")

    def __init__(self) -> None:
        self._frame: Frame | None = None  # that events stood in last
        self._odd = 0  # runs since then that were not alike

    def take(self, events: list[bytes], interesting: Callable[[bytes], bool]) -> tuple[int, int] | None:
        """How often the leading events that are alike say `data:`, and their bytes; None where they are not. HOT.

        `interesting` says whether a needle of `sse` is in an event; what is taken would not have been. The quotes of a
        needle are such that no text without an unescaped one can complete what a frame begins.
        """
        frame = self._frame
        run = frame.run(events) if frame is not None else None
        if run is None and self._odd < _MOST_ODD:
            frame = frame_of(events[0])
            if frame is not None and not interesting(frame.before + frame.behind):
                run = frame.run(events)
        if run is None or frame is None:
            self._odd += 1
            self._frame = None
            return None
        self._odd = 0
        self._frame = frame
        count, size, texts = run
        return count * (frame.before + frame.behind).count(b"data:") + texts.count(b"data:"), size
