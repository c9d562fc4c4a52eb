"""Reasoning in the one spelling that a client asks for: servers say `reasoning` or `reasoning_content`.

Only what differs is rewritten: the member's name in a choice's delta or message. All else of the event or answer keeps
the server's own text, and what is spelt as asked, or cannot be read, passes byte for byte. Used only where a setting
asks for it; a `Relay` alone never touches an event.
"""

from __future__ import annotations

import re

import msgspec

from gateway.core.answer.chunk import fields_of
from gateway.core.answer.sse import EVENT_END, Relay

#: The spelling asked for -> the other one.
OTHER = {"reasoning": "reasoning_content", "reasoning_content": "reasoning"}

_LINE = re.compile(rb"[^\r\n]*+(?>\r\n|\n|\r|\Z)")
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_OBJECTS = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_NULL = b"null"


class Respelling(Relay):
    """A relay whose output says reasoning as asked.

    >>> relay = Respelling("reasoning_content", keep_usage=False)
    >>> relay.feed(b'data: {"choices":[{"index":0,"delta":{"reasoning":"Hm"}}]}\\n\\n')
    b'data: {"choices":[{"index":0,"delta":{"reasoning_content":"Hm"}}]}\\n\\n'
    """

    __slots__ = ("_needle", "_spelling")

    def __init__(self, spelling: str, keep_usage: bool, max_event: int = 4 << 20, *, choices: int = 1) -> None:
        super().__init__(keep_usage, max_event, choices=choices)
        self._spelling = spelling
        self._needle = b'"%b"' % OTHER[spelling].encode()

    def feed(self, data: bytes) -> bytes:
        """As `Relay.feed`, which gives whole events only."""
        return self._respelt(super().feed(data))

    def flood(self, data: bytes) -> int:
        """As `Relay.flood`."""
        return 0 if data.find(self._needle) >= 0 else super().flood(data)

    def end(self) -> bytes:
        """As `Relay.end`."""
        return self._respelt(super().end())

    def _respelt(self, events: bytes) -> bytes:
        if events.find(self._needle) < 0:
            return events
        parts = []
        start = 0
        while (match := EVENT_END.search(events, start)) is not None:
            event = events[start : match.end()]
            parts.append(_event(event, self._spelling) if event.find(self._needle) >= 0 else event)
            start = match.end()
        return b"".join(parts) + events[start:]


def respell_answer(body: bytes, spelling: str) -> bytes:
    """A complete answer with its reasoning spelt as asked."""
    if body.find(b'"%b"' % OTHER[spelling].encode()) < 0:
        return body
    return _rewritten(body, "message", spelling) or body


def respell_history(messages: bytes, spelling: str) -> bytes | None:
    """The messages of a request, with the reasoning of earlier answers spelt as asked; None where they are already.

    A client hands back what a server gave it, and a server of the other spelling may refuse that.
    """
    if messages.find(b'"%b"' % OTHER[spelling].encode()) < 0:
        return None
    try:
        decoded = _OBJECTS.decode(messages)
        made = [_renamed(one, spelling) for one in decoded]
    except _UNREADABLE:
        return None
    if not any(one is not None for one in made):
        return None
    return msgspec.json.encode([old if new is None else new for old, new in zip(decoded, made, strict=True)])


def _event(event: bytes, spelling: str) -> bytes:
    data = fields_of(event).data
    made = _rewritten(data, "delta", spelling) if data is not None else None
    if made is None:
        return event
    lines = _LINE.findall(event)
    first = next(index for index, line in enumerate(lines) if line.startswith(b"data"))
    end = lines[first][len(lines[first].rstrip(b"\r\n")) :]
    kept = [line for index, line in enumerate(lines) if index < first or not line.startswith(b"data")]
    return b"".join([*kept[:first], b"data: ", made, end, *kept[first:]])


def _rewritten(data: bytes, holder: str, spelling: str) -> bytes | None:
    """JSON with the member renamed in every choice; None where there is nothing to rename, or it cannot be read."""
    try:
        whole = _OBJECT.decode(data)
        choices = _OBJECTS.decode(whole.get("choices", b"[]"))
        changed = False
        for choice in choices:
            if holder in choice:
                renamed = _renamed(_OBJECT.decode(choice[holder]), spelling)
                if renamed is not None:
                    choice[holder] = msgspec.Raw(msgspec.json.encode(renamed))
                    changed = True
        if not changed:
            return None
        whole["choices"] = msgspec.Raw(msgspec.json.encode(choices))
        return msgspec.json.encode(whole)
    except _UNREADABLE:
        return None


def _renamed(said: dict[str, msgspec.Raw], spelling: str) -> dict[str, msgspec.Raw] | None:
    other = OTHER[spelling]
    if other not in said:
        return None
    if bytes(said.get(spelling, _NULL)) != _NULL:  # it says both: what is asked for is there
        return {name: value for name, value in said.items() if name != other}
    said.pop(spelling, None)
    return {spelling if name == other else name: value for name, value in said.items()}
