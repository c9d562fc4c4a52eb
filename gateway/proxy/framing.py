"""HTTP/1.1 body framing, walked by us: chunked coding, strictly, in any cut.

Heads are llhttp's business (`heads`). Bodies are ours because llhttp runs past the end of a message into what was
pipelined behind it, and because `int(x, 16)` alone takes `+`, `_`, `0x` and spaces, which is a smuggling hole.
"""

from __future__ import annotations

from operator import ne

_HEX = b"0123456789abcdefABCDEF"
_MAX_SIZE_LINE = 256  # size and extension of one chunk
_MAX_TRAILERS = 8192
# What a parser behind us could end a line at or stop reading at: in trailers only as part of a CRLF, NUL never.
_CONTROLS = bytes([*range(0x20), 0x7F]).replace(b"\t", b"")
_SIZE, _DATA, _CRLF, _TRAILERS = range(4)
_FLOOD = 1024  # a read with this much behind a chunk's end is worth cutting at every CRLF at once
# The size lines of a flood's chunks as everybody writes them; any other line, and the last chunk's, is for the walker.
_plain_size = {form % size: size for size in range(1, 4096) for form in (b"%x", b"%X")}.get


class FramingError(ValueError):
    """A body whose framing cannot be trusted: the connection must be closed."""


def chunk_size(line: bytes) -> int:
    """The size in a chunk's first line, extension ignored.

    >>> chunk_size(b"1f;name=value")
    31
    """
    digits = line
    if line.find(b";") >= 0:
        digits, _, extension = line.partition(b";")
        digits = digits.rstrip(b" \t")
        if b"\n" in extension or b"\r" in extension or b"\0" in extension:
            raise FramingError("bad chunk extension")
    if not digits or len(digits) > 8 or digits.strip(_HEX):
        raise FramingError("bad chunk size")
    return int(digits, 16)


def _check_trailers(section: bytes) -> None:
    """Refuse trailer lines, perhaps unfinished, that two parsers could read differently. Their content is ignored."""
    if len(section) > _MAX_TRAILERS:
        raise FramingError("trailers too long")
    text = section.replace(b"\r\n", b"")
    if section.endswith(b"\r"):  # the LF may be in the next read
        text = text[:-1]
    if len(text.translate(None, _CONTROLS)) != len(text):
        raise FramingError("control character in a trailer")


class Chunked:
    """An incremental decoder: `feed` returns the payload so far; `done` says that the last chunk was seen.

    `rest` is what followed the message, empty until `done`. The decoder holds at most one size line or trailer
    section of its own; payload is handed on as it comes.
    """

    __slots__ = ("_floods", "_held", "_left", "_state", "done", "rest")

    def __init__(self) -> None:
        self._state = _SIZE
        self._left = 0
        self._held = b""
        self._floods = True
        self.done = False
        self.rest = b""

    @property
    def at_boundary(self) -> bool:
        """True between chunks with nothing held: a read that is one whole chunk may be passed on as it is."""
        return self._state == _SIZE and not self._held

    @property
    def lacking(self) -> int:
        """Bytes that the chunk under way lacks, its end included; 0 between chunks, -1 where that is not known."""
        return self._left + 2 if self._state == _DATA else 0 if self.at_boundary else -1

    def feed(self, data: bytes) -> bytes:
        """Payload bytes in `data`. Raises FramingError on anything but strict chunked coding."""
        if self._held:
            data = self._held + data
            self._held = b""
        parts: list[bytes] = []
        at = 0
        end = len(data)
        state = self._state
        floods = self._floods and end >= _FLOOD
        while True:
            if state == _SIZE:
                if floods and end - at >= _FLOOD:
                    floods = False  # once a read: what it leaves is no flood
                    at = self._flood(data, at, parts)
                eol = data.find(b"\r\n", at, at + _MAX_SIZE_LINE)
                if eol < 0:
                    if end - at >= _MAX_SIZE_LINE or b"\n" in data[at:end]:
                        raise FramingError("bad chunk size line")
                    self._held = data[at:]
                    break
                size = chunk_size(data[at:eol])
                at = eol + 2
                if size == 0:
                    state = _TRAILERS
                    continue
                stop = at + size
                if stop + 2 <= end:  # the whole chunk is here: the common case
                    if data[stop : stop + 2] != b"\r\n":
                        raise FramingError("chunk not ended by CRLF")
                    parts.append(data[at:stop])
                    at = stop + 2
                    continue
                self._left = size
                state = _DATA
            if state == _DATA:
                here = end - at
                if here < self._left:
                    if here:
                        parts.append(data[at:])
                        self._left -= here
                    break
                parts.append(data[at : at + self._left])
                at += self._left
                state = _CRLF
            if state == _CRLF:
                if end - at < 2:
                    if data[at:end] not in (b"", b"\r"):
                        raise FramingError("chunk not ended by CRLF")
                    self._held = data[at:]
                    break
                if data[at : at + 2] != b"\r\n":
                    raise FramingError("chunk not ended by CRLF")
                at += 2
                state = _SIZE
                continue
            if state == _TRAILERS:
                if data[at : at + 2] == b"\r\n":
                    at += 2
                else:
                    stop = data.find(b"\r\n\r\n", at)
                    _check_trailers(data[at : stop + 2 if stop >= 0 else end])
                    if stop < 0:
                        self._held = data[at:]
                        break
                    at = stop + 4
                self.done = True
                self.rest = data[at:]
                break
        self._state = state
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _flood(self, data: bytes, at: int, parts: list[bytes]) -> int:
        """Take the whole chunks from `at` on in a few C calls and return where the walker goes on. HOT.

        Cut at every CRLF, pieces are size line, payload, size line, payload... for as long as each payload has the size
        that the line before it says; then the walker would have seen the same. A CRLF inside a payload, an odd size
        line or the last chunk ends that, and the walker takes over at exactly that chunk.
        """
        pieces = data[at:].split(b"\r\n")
        count = (len(pieces) - 1) // 2  # chunks that have their second CRLF
        lines = pieces[0 : 2 * count : 2]
        payloads = pieces[1 : 2 * count : 2]
        sizes = list(map(_plain_size, lines))
        if sizes != list(map(len, payloads)):
            count = list(map(ne, sizes, map(len, payloads))).index(True)
            if not count:
                self._floods = False  # a server that ends its lines with CRLF: cutting would be for nothing every time
                return at
            del pieces[: 2 * count], payloads[count:]
        else:
            del pieces[: 2 * count]
        parts += payloads
        return len(data) - sum(map(len, pieces)) - 2 * (len(pieces) - 1)
