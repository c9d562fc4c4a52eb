"""A string of a request body that is too long to decode at once, read in windows and in pieces.

Here belongs cutting JSON text where no escape and no character is split. Whether a string is valid at all was settled
by `wire`, which alone makes these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import msgspec

_BACKSLASH = ord("\\")
_BACK = 12  # bytes of the longest thing that may not be cut: an escaped surrogate pair
_STRING = msgspec.json.Decoder(str)


#: A JSON string of a large body as it stands there, quotes and escapes included: read in windows and pieces, never
#: decoded at once. It stands in a decoded tree where a `str` would, and nothing else does that is a `Raw`. It holds no
#: copy, only a view of the request body. Decoding 40 MB at once would take twice the time of the whole parse, and four
#: times the memory where one emoji is among them. A class of our own around it would take a body of ten thousand
#: turns 10 ms more, to be made and to be thrown away.
LongText: TypeAlias = msgspec.Raw


def size_of(text: LongText) -> int:
    """Bytes between the quotes. Escapes only ever shrink, so the UTF-8 text is no longer than this."""
    return len(text) - 2


def window(text: LongText, start: int, length: int) -> str | None:
    """The text of about `length` bytes from about byte `start`, cut at whole characters.

    None where no cut could be found, which takes hostile text: a run of over 4,000 backslashes.
    """
    view = memoryview(text)[1:-1]
    end = min(len(view), start + length)
    start = _boundary(view, max(0, start))
    for skip in (0, 6):  # 6: it began between the halves of an escaped surrogate pair
        piece = _decode_piece(view, start + skip, end)
        if piece is not None:
            return piece[0]
    return None


def pieces(text: LongText, size: int) -> Iterator[str]:
    """The whole text in order, in pieces of at most `size` bytes of JSON."""
    start, view = 0, memoryview(text)[1:-1]
    while start < len(view):
        piece = _decode_piece(view, start, min(len(view), start + size))
        if piece is None:  # cannot be: the text was validated and every cut lies within `_BACK` of the wanted one
            raise ValueError("a JSON string that was not validated")
        decoded, start = piece
        yield decoded


def _boundary(text: memoryview, at: int) -> int:
    """The nearest place at or before `at` that is not inside an escape or a character."""
    while 0 < at < len(text) and text[at] & 0xC0 == 0x80:
        at -= 1
    before = bytes(text[max(0, at - 4096) : at])
    if (len(before) - len(before.rstrip(b"\\"))) % 2:
        return at - 1
    for back in range(1, min(6, len(before) + 1)):
        if before[len(before) - back] == _BACKSLASH:  # the backslash of \uXXXX, if it is not itself escaped
            head = before[: len(before) - back]
            escaped = (len(head) - len(head.rstrip(b"\\"))) % 2
            is_unicode = back > 1 and before[len(before) - back + 1] == ord("u")
            return at if escaped or not is_unicode else at - back
    return at


def _decode_piece(text: memoryview, start: int, end: int) -> tuple[str, int] | None:
    """The text from `start`, which is a boundary, to the last boundary at or before `end`, and where that is.

    A cut inside an escape, a surrogate pair or a character makes the piece invalid, so the first valid one is right.
    """
    for back in range(min(_BACK, end - start)):
        try:
            return _STRING.decode(b"".join((b'"', text[start : end - back], b'"'))), end - back
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
    return None


def sizes(texts: Iterable[LongText]) -> list[int]:
    """`size_of` each of these, of which there may be very many."""
    return [length - 2 for length in map(len, texts)]


def ends(text: str | LongText, head: int, tail: int) -> str:
    """The first and the last characters of a text (bytes, for a long one); the whole of one that is no longer."""
    if isinstance(text, LongText):
        return f"{window(text, 0, head) or ''}\n{window(text, size_of(text) - tail, tail) or ''}"
    if len(text) <= head + tail:
        return text
    return f"{text[:head]}\n{text[-tail:] if tail else ''}"
