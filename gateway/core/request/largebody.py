"""What a large body could cost, found out before it is paid, and where its members stand.

Here belongs looking at JSON text that is too long to look at byte by byte from Python: everything is done by a few
searches, counts and comparisons at C speed. What the text means, and small bodies, are the business of `wire`.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import msgspec

from gateway.core.errors import BadRequest

if TYPE_CHECKING:
    from mmap import mmap

#: A body as it came: in one read, in several, or in so many that it got memory of its own.
Body: TypeAlias = "bytes | bytearray | mmap"

#: Values (strings, numbers, arrays, objects) a body may hold: about 100 ms of reading. 10,000 turns with tools have
#: fewer, and an array of token ids or a table belongs into a text.
MAX_VALUES = 100_000
#: Bytes of numbers of over 256 digits that are read at once: reading one takes time with the square of its length.
MAX_LONG_DIGITS = 16_384
#: Characters of a member's name in a large body, which is decoded, encoded and compared.
MAX_NAME = 65_536
#: Bytes of white space in a row in a large body.
MAX_SPACE = 65_536

_SEPARATORS = (b",", b"{", b"[")  # a body holds no more values than these and one
_OUTSIDE = b"0123456789+-.eE,[]{}: \t\r\ntruefalsn"  # the bytes of JSON outside strings
_PIECE = 65_536
_PIECES_PER_STEP = 16
_COMPARED = 1 << 20  # bytes compared at once where that takes a copy
_MEMBERS_PER_STEP = 1_000
_STEP = 128
_PLACES = (256, 2_048)
_DIGITS = re.compile(rb"[0-9]{2,}")
_BACKSLASH, _COMMA, _COLON, _CLOSE_OBJECT = b"\\,:}"
_SPACE = 32  # no byte of JSON outside strings is lower, but for white space
_ENCODER = msgspec.json.Encoder()
_KEY = msgspec.json.Decoder(str)


def check_count(body: Body) -> Generator[None, None, None]:
    """Refuse a body that would become more than `MAX_VALUES` Python objects: 64 MB of `{},` would take 3 GB.

    In steps, as everything here that may take more than a few milliseconds.

    Looking at every byte would double the time of the parse, so 256 places tell first whether there can be so many,
    and 2,048 whether that was chance. Only where they suggest too many are strings told from the rest, piece by piece
    up to the value that is one too many. A few more than the limit may pass; empty objects and arrays count twice.
    """
    size = len(body)
    if size < 2 * MAX_VALUES:
        return
    for places in _PLACES:
        step = max(size // places, 129)
        phase = hash(bytes(body[:64])) % (step - 128)  # differs from process to process: nobody can aim between them
        cuts = [_seen(bytes(body[at : at + 128])) for at in range(phase, size - 128, step)]
        seen = b"".join(cuts)
        if sum(map(seen.count, _SEPARATORS)) * size < MAX_VALUES * 128 * len(cuts):
            return
        yield
    found, at, inside, pieces = 1, 0, False, 0
    while at < size:
        pieces += 1
        if pieces % _PIECES_PER_STEP == 0:
            yield
        if inside:  # far into a text: on to the next quote at once
            quote = body.find(b'"', at)
            if quote < 0:
                return  # no JSON; the decoder will say so
            if quote - at > _PIECE and body[quote - _PIECE : quote].strip(b"\\"):
                run = body[quote - _PIECE : quote]
                at = quote - len(run) + len(run.rstrip(b"\\"))
        piece = body[at : at + _PIECE]
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2 and at + len(piece) < size:
            piece = piece[:-1]  # not between a backslash and what it escapes
        at += len(piece)
        parts = piece.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside = b"".join(parts[inside::2])
        inside ^= len(parts) % 2 == 0
        found += sum(map(outside.count, _SEPARATORS))
        if found > MAX_VALUES:
            raise BadRequest("invalid_json", f"The request body holds more than {MAX_VALUES:,} values.")


def _seen(cut: bytes) -> bytes:
    """A cut from a body without what is proved to lie inside strings, for it holds a byte that only strings have.

    What the cut begins with may belong to an escape before it, so quotes and backslashes there say nothing.
    """
    parts = cut.lstrip(b'\\"').replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
    for number, part in enumerate(parts):
        if part.translate(None, _OUTSIDE):
            return b"".join(parts[number % 2 ^ 1 :: 2])
    return cut


def check_numbers(text: bytes) -> None:
    """Refuse text with too much of it in very long numbers, before they are read. Digits inside strings may be many."""
    if len(text) > MAX_LONG_DIGITS and _long_digits(text) > MAX_LONG_DIGITS:
        outside = b'"'.join(text.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
        if _long_digits(outside) > MAX_LONG_DIGITS:
            raise BadRequest("invalid_json", "The request body holds a number that is out of range.")


def _long_digits(text: bytes) -> int:
    """Bytes in long runs of digits, about, up to the limit: every run of 384 digits is noticed, none of under 256."""
    found = 0
    for run in _DIGITS.finditer(text[::_STEP]):
        for place in range(run.start(), run.end() - 1):
            if text[place * _STEP : (place + 2) * _STEP].isdigit():
                found += _STEP
                if found > MAX_LONG_DIGITS:
                    return found
    return found


def check_names(names: Iterable[str]) -> None:
    """Refuse names that are no names."""
    if max(map(len, names), default=0) > MAX_NAME:
        raise BadRequest("invalid_json", f"The request body holds a key of more than {MAX_NAME:,} characters.")


def check_members(text: memoryview, members: Mapping[str, Any]) -> Generator[None, None, None]:
    """Refuse the text of an object that holds more members than its dict.

    The text is walked along the dict: key, colon, value, comma and so on to the closing brace. That cannot succeed
    where a key is doubled, for the dict has fewer members, and the text cannot end after fewer.
    """
    at, told = skip_space(text, 1), 0
    for number, (name, value) in enumerate(members.items(), 1):
        if text[at] <= _SPACE:
            at = skip_space(text, at)
        key = _ENCODER.encode(name)
        at = at + len(key) if bytes(text[at : at + len(key)]) == key else _key_end(text, at, name)
        if text[at] != _COLON:
            at = skip_space(text, at)
            if text[at] != _COLON:
                duplicate()
        at += 1
        if text[at] <= _SPACE:
            at = skip_space(text, at)
        if not _stands(text, memoryview(value), at):
            duplicate()
        at += len(memoryview(value))
        if text[at] <= _SPACE:
            at = skip_space(text, at)
        if text[at] != _COMMA and text[at] != _CLOSE_OBJECT:
            duplicate()
        at += 1
        if number % _MEMBERS_PER_STEP == 0 or at - told > _COMPARED:
            told = at
            yield
    if members and (text[at - 1] != _CLOSE_OBJECT or at != len(text)):
        duplicate()


def _stands(text: memoryview, value: memoryview, at: int) -> bool:
    """Whether `value` stands at `text[at]`."""
    for start in range(0, len(value), _COMPARED):
        part = value[start : start + _COMPARED]
        if not bytes(text[at + start : at + start + len(part)]).startswith(part):
            return False
    return True


def skip_space(text: memoryview, at: int) -> int:
    """The place of the first byte from `at` on that is no white space, of text that is known to be JSON."""
    size, stop = 1024, at + MAX_SPACE
    while at < len(text) and text[at] <= _SPACE:
        if at > stop:
            raise BadRequest(
                "invalid_json", f"The request body holds over {MAX_SPACE:,} bytes of white space in a row."
            )
        space = bytes(text[at : at + size])
        at += len(space) - len(space.lstrip())
        size = min(4 * size, 1 << 20)
    return at


def _key_end(text: memoryview, at: int, name: str) -> int:
    """The place after the closing quote of this key, which starts at `at`, however it is escaped."""
    key = bytes(text[at + 1 : at + 12 * len(name) + 2])  # a character takes at most two \uXXXX
    end = key.replace(b"\\\\", b"__").replace(b'\\"', b"__").find(b'"')
    if end < 0 or _KEY.decode(b'"%b"' % key[:end]) != name:  # another one stands there
        duplicate()
    return at + 2 + end


def duplicate() -> NoReturn:
    """Refuse for a key that appears twice."""
    raise BadRequest("invalid_json", "The request body holds an object with a duplicate key.")
