"""Reading a body by its likeness to the last one: a client's requests say the same again and again, but for messages.

JSON text before a value determines how the value is read, and nothing else: where the text before and behind the
messages is another body's, byte for byte, only the messages need reading, and all that was proven of the other body's
members is proven of these. What may be in messages read so is as narrow as can be: a role and a text each. The same
holds within messages: those that the last body began with, too, need no reading again. And it holds for `user`, by
which many clients say whose request each is: another plain text between the same quotes. Everything else is read from
the start, by `wire`.
"""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

from gateway.core.request.wire import WHOLE_BYTES, Envelope, parse

#: Bytes around the messages of a body that are kept at most, and of the messages. There is one for each connection.
MOST_KEPT = 16_384
#: The member whose text may differ: nothing that routing reads.
NAMED = b'"user":"%b"'
# What stands for itself between quotes.
_PLAIN = re.compile(rb"[ !#-\[\]-~]{0,512}")


class _Message(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    role: Annotated[str, msgspec.Meta(min_length=1)]
    content: str


_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError)
_MESSAGES = msgspec.json.Decoder(Annotated[list[_Message], msgspec.Meta(min_length=1)])
_ENCODER = msgspec.json.Encoder()


class Likeness:
    """A body's text around its messages, and what it says."""

    __slots__ = (
        "_before", "_begins", "_behind", "_choices", "_end", "_grows", "_include_usage", "_known", "_model_asked",
        "_stream", "user",
    )  # fmt: skip

    def __init__(self, first: Envelope, before: bytes, behind: bytes, user: bytes | None) -> None:
        self._before = before
        self.user = user  # its text in the first body, where another may stand in its place
        # Up to that text, and what follows it; all and nothing where it may not differ.
        self._behind, self._end = behind, b""
        if user is not None:
            until, _, after = behind.partition(NAMED % user)
            self._behind, self._end = until + NAMED[:-3], b'"' + after
        self._model_asked = first.model_asked
        self._stream = first.stream
        self._include_usage = first.include_usage
        self._choices = first.choices
        self._known = b""  # messages that were read, up to the comma behind them; the next ones may begin so, too
        self._begins = before  # with them
        self._grows = True  # they always did so far: a conversation

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
        made = cls(envelope, before, behind, _user(envelope, before, behind))
        return made if made.read(body) is not None else None

    def read(self, body: bytes | bytearray) -> Envelope | None:
        """The Envelope that `wire.parse` makes of a body of up to `WHOLE_BYTES`; None where it is not like the first.

        HOT.
        """
        before, behind, known, begun = self._before, self._behind, self._known, self._begins
        size = stop = len(body)
        start, read = len(before), len(begun)
        user = None
        if self.user is not None:
            stop -= len(self._end)
            quote = body.rfind(b'"', 0, stop) + 1
            if not body.endswith(self._end) or _PLAIN.fullmatch(body, quote, stop) is None:
                return None
            user = bytes(body[quote:stop])
            stop = quote
        end = stop - len(behind)
        begins = known != b"" and body[:read] == begun
        if end < start or body[end:stop] != behind or not (begins or body[:start] == before):
            return None
        text = body[start:end]
        if type(text) is not bytes:
            text = bytes(text)
        new = b"[" + text[len(known) :] if begins else text
        try:
            messages = _MESSAGES.decode(new)
        except _UNREADABLE:
            return None
        # Text that is exactly what a list of these encodes to has no duplicate keys and no other spelling.
        if _ENCODER.encode(messages) != new:
            return None
        if len(messages) > 1 or (known and not begins):
            self._learn(text, messages, begins=begins)
        return Envelope(self._model_asked, self._stream, self._include_usage, self._choices, body, size, text, user)

    def _learn(self, text: bytes, messages: list[_Message], *, begins: bool) -> None:
        """Keep all but the last message; once that did not hold, only what bodies have in common ever since."""
        known = self._known
        if known and not begins:
            self._grows = False
            before = _MESSAGES.decode(known[:-1] + b"]")
            same = 0
            while same < min(len(before), len(messages)) and before[same] == messages[same]:
                same += 1
            self._known = _ENCODER.encode(before[:same])[:-1] + b"," if same else b""
        elif self._grows:
            upto = len(text) - len(_ENCODER.encode(messages[-1])) - 1
            if upto <= MOST_KEPT:
                self._known = text[:upto]
        self._begins = self._before + self._known


def _user(envelope: Envelope, before: bytes, behind: bytes) -> bytes | None:
    """The text of `user`, if another plain text could stand in its place."""
    said = envelope.tree.get("user")
    user = said.encode() if type(said) is str else b'"'
    if _PLAIN.fullmatch(user) is None or (before + behind).count(b'"user"') != 1 or behind.count(NAMED % user) != 1:
        return None
    # A name can be spelled in other ways, too: the proof that it is this one is that the member changes with it.
    another = user + b"?"
    other = before + bytes(envelope.members["messages"]) + behind.replace(NAMED % user, NAMED % another)
    return user if parse(other).tree == {**envelope.tree, "user": another.decode()} else None
