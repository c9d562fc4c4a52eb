"""Reading a body by its likeness to the last one: a client's requests say the same again and again, but for messages.

JSON text before a value determines how the value is read, and nothing else: where the text before and behind the
messages is another body's, byte for byte, only the messages need reading, and all that was proven of the other body's
members is proven of these. What may be in messages read so is as narrow as can be: a role and a text each. Everything
else is read from the start, by `wire`.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from gateway.core.wire import WHOLE_BYTES, Envelope

#: Bytes around the messages of a body that are kept at most. There is one for each connection.
MOST_KEPT = 16_384


class _Message(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    role: Annotated[str, msgspec.Meta(min_length=1)]
    content: str


_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError)
_MESSAGES = msgspec.json.Decoder(Annotated[list[_Message], msgspec.Meta(min_length=1)])
_ENCODER = msgspec.json.Encoder()


class Likeness:
    """A body's text around its messages, and what it says."""

    __slots__ = ("_before", "_behind", "_choices", "_include_usage", "_model_asked", "_stream")

    def __init__(self, first: Envelope, before: bytes, behind: bytes) -> None:
        self._before = before
        self._behind = behind
        self._model_asked = first.model_asked
        self._stream = first.stream
        self._include_usage = first.include_usage
        self._choices = first.choices

    @classmethod
    def to(cls, envelope: Envelope) -> Likeness | None:
        """What others may be like; None for a body whose like could not be read so."""
        if envelope.size > WHOLE_BYTES:
            return None
        body, messages = bytes(envelope.body), bytes(envelope.members["messages"])
        before, _, behind = body.partition(messages)
        # Text that is there twice is not only the messages'.
        if behind.find(messages) >= 0 or len(before) + len(behind) > MOST_KEPT:
            return None
        made = cls(envelope, before, behind)
        return made if made.read(body) is not None else None

    def read(self, body: bytes | bytearray) -> Envelope | None:
        """The Envelope that `wire.parse` makes of a body of up to `WHOLE_BYTES`; None where it is not like the first.

        HOT.
        """
        before, behind = self._before, self._behind
        if not (body.startswith(before) and body.endswith(behind)):
            return None
        size = len(body)
        text = bytes(body[len(before) : size - len(behind)])
        try:
            messages = _MESSAGES.decode(text)
        except _UNREADABLE:
            return None
        # Text that is exactly what a list of these encodes to has no duplicate keys and no other spelling.
        if _ENCODER.encode(messages) != text:
            return None
        return Envelope(self._model_asked, self._stream, self._include_usage, self._choices, body, size, text)
