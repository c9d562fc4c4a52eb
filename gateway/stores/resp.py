"""The protocol of Valkey and Redis, as far as it is needed: commands as bytes, and bytes as replies.

RESP 2: integers, strings, errors and arrays of them. Nothing here knows a connection or what a command means.
"""

from __future__ import annotations

from collections.abc import Iterator

#: The longest string and the most members of one reply: what is larger is none of ours.
LONGEST, MOST = 1 << 20, 1 << 16

Reply = int | bytes | None | list["Reply"] | Exception


class WrongReply(ValueError):
    """What came is not this protocol, or larger than any reply to what is asked here."""


class Said(Exception):
    """The server answered with an error. `kind` is its first word, such as NOSCRIPT, OOM or READONLY."""

    @property
    def kind(self) -> str:
        """The first word, by which errors are told apart."""
        return str(self).partition(" ")[0]


def argument(value: bytes | int) -> bytes:
    r"""One member of a command.

    >>> argument(-12)
    b'$3\r\n-12\r\n'
    """
    text = b"%d" % value if isinstance(value, int) else value
    return b"$%d\r\n%b\r\n" % (len(text), text)


def command(*values: bytes | int) -> bytes:
    r"""A whole command.

    >>> command(b"GET", b"x")
    b'*2\r\n$3\r\nGET\r\n$1\r\nx\r\n'
    """
    return b"*%d\r\n" % len(values) + b"".join(map(argument, values))


class Reader:
    """Turns what is read, in whatever pieces it comes, into replies."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Reply]:
        """Every reply that is now complete. Raises WrongReply, after which nothing more can be read."""
        buffer = self._buffer
        buffer += data
        while buffer:
            try:
                reply, end = _reply(buffer, 0, 0)
            except IndexError:
                if len(buffer) > 2 * LONGEST:
                    raise WrongReply("a reply is too long") from None
                return
            del buffer[:end]
            yield reply


def _line(buffer: bytearray, at: int) -> tuple[bytes, int]:
    """The line that begins there and where the next one does. IndexError: it is not all there."""
    end = buffer.find(b"\r\n", at)
    if end < 0:
        raise IndexError
    return bytes(buffer[at:end]), end + 2


def _number(text: bytes) -> int:
    digits = text[1:] if text[:1] == b"-" else text
    if not digits.isdigit() or len(digits) > 19:
        raise WrongReply(f"{text[:40]!r} is no number")
    return int(text)


def _reply(buffer: bytearray, at: int, depth: int) -> tuple[Reply, int]:
    line, end = _line(buffer, at + 1)
    kind = buffer[at]
    if kind == 58:  # ":"
        return _number(line), end
    if kind == 43:  # "+"
        return line, end
    if kind == 45:  # "-"
        return Said(line[:512].decode("utf-8", "replace")), end
    size = _number(line)
    if kind == 36:  # "$"
        if size < 0:
            return None, end
        if size > LONGEST:
            raise WrongReply("a string is too long")
        if len(buffer) < end + size + 2:
            raise IndexError
        if buffer[end + size : end + size + 2] != b"\r\n":
            raise WrongReply("a string does not end where it should")
        return bytes(buffer[end : end + size]), end + size + 2
    if kind != 42 or depth > 3 or size > MOST:  # "*"
        raise WrongReply(f"byte {kind} begins no reply")
    if size < 0:
        return None, end
    members: list[Reply] = []
    for _ in range(size):
        member, end = _reply(buffer, end, depth + 1)
        members.append(member)
    return members, end
