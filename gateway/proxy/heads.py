"""Heads of HTTP/1.1 messages: llhttp reads them, this file decides what they mean for framing and routing.

A head is handed over whole, from its first byte to the blank line. What a request's head says about who is asking
(key, hints) is `downstream`'s to find out; here it is only bytes made safe: one framing, no folding, known method.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import httptools

MAX_HEAD = 65_536
#: Kinds of answers that are no whole completion.
NO_COMPLETION = ("text/html", "text/event-stream")
MAX_HEADERS = 128
_NO_BODY = (204, 304)
# Credentials, which no policy may look at.
_PRIVATE = frozenset({b"authorization", b"cookie", b"proxy-authorization", b"x-api-key", b"api-key"})
# A request line and header lines about which no two parsers disagree, by the letter of RFC 9110 and 9112. No repeat
# gives back what it took: one that did took a second of the loop for a line of 16,000 spaces.
_POST = re.compile(rb"POST (/[A-Za-z0-9/._-]*+) HTTP/1\.1\r\n")
_FIELD = re.compile(rb"^([!#$%&'*+.^_`|~0-9A-Za-z-]++):[ \t]*+([\t\x20-\x7e\x80-\xff]*+)(?<![\t ])\r\n", re.MULTILINE)
_VALUE = re.compile(rb"[ \t]*+[\t\x20-\x7e\x80-\xff]*+(?<![\t ])")
# Headers by which llhttp or we change how a message is read.
_DELICATE = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"proxy-connection"})
# Headers by which we judge a request: where one of them differs, a head is another one. So are all of `x-pointsman-*`.
_JUDGED = _DELICATE | {b"host", b"connection", b"keep-alive", b"authorization", b"content-encoding", b"origin"}
_HINTS = b"x-pointsman-"


class HeadError(ValueError):
    """A head that must not be acted upon: answered with 400 and a closed connection, or a failed attempt."""


class Headers(Mapping[str, str]):
    """A head's headers as policies see them, under lower-case names, without credentials.

    Read, decoded and sifted when asked for: most never are. `of` is a whole head that `parse_request` took, or its
    fields.
    """

    __slots__ = ("_of",)

    def __init__(self, of: bytes | Mapping[bytes, bytes]) -> None:
        self._of = of

    @property
    def _raw(self) -> Mapping[bytes, bytes]:
        if isinstance(self._of, bytes):
            self._of = parse_request(self._of).headers
        return self._of

    def __getitem__(self, name: str) -> str:
        key = name.encode("latin-1", "replace")  # "?" is in no header's name
        if key in _PRIVATE:
            raise KeyError(name)
        return self._raw[key].decode("latin-1")

    def __iter__(self) -> Iterator[str]:
        for name in self._raw:
            if name not in _PRIVATE:
                yield name.decode("latin-1")

    def __len__(self) -> int:
        return sum(name not in _PRIVATE for name in self._raw)


@dataclass(slots=True)
class RequestHead:
    """One request's head. `length` is None for chunked bodies and 0 where there is none."""

    method: bytes = b""
    url: bytes = b""
    headers: dict[bytes, bytes] = field(default_factory=dict)  # lower-case names; repeated ones joined with ", "
    length: int | None = 0
    keep_alive: bool = True
    http_1_0: bool = False
    expect_continue: bool = False
    plain: bool = field(default=False, compare=False)  # it was written as SDKs write them: see `Familiar`


@dataclass(slots=True)
class AnswerHead:
    """One answer's head. `length` is None where the body is chunked or ends with the connection."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    length: int | None = None
    chunked: bool = False
    keep_alive: bool = True
    kind: str = ""  # Content-Type, in lower case
    encoded: bool = False  # a Content-Encoding other than identity, which we never asked for
    promising: bool = False  # a 200 whose body may be a whole completion: neither a page, nor a stream, nor encoded


class _Sink:
    """Collects llhttp's callbacks."""

    __slots__ = ("headers", "keep_alive", "parser", "repeated", "url")

    def __init__(self) -> None:
        self.url = b""
        self.headers: dict[bytes, bytes] = {}
        self.repeated: set[bytes] = set()
        self.keep_alive = False
        self.parser: httptools.HttpRequestParser | httptools.HttpResponseParser = None  # type: ignore[assignment]

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        headers = self.headers
        if name in headers:
            headers[name] += b", " + value
            self.repeated.add(name)
        else:
            headers[name] = value

    def on_headers_complete(self) -> None:
        # should_keep_alive() is false once the message has ended, so it is asked here.
        self.keep_alive = self.parser.should_keep_alive()


def _framing(headers: dict[bytes, bytes], repeated: set[bytes]) -> tuple[int | None, bool]:
    """(content length or None, chunked). Refuses every combination over which two parsers could disagree."""
    coding = headers.get(b"transfer-encoding")
    length = headers.get(b"content-length")
    if coding is not None:
        if length is not None:
            raise HeadError("both Content-Length and Transfer-Encoding")
        if coding.lower() != b"chunked":
            raise HeadError("unknown Transfer-Encoding")
        return None, True
    if length is None:
        return None, False
    if b"content-length" in repeated or not length.isdigit() or len(length) > 15:
        raise HeadError("bad Content-Length")
    return int(length), False


def _check(head: bytes) -> None:
    if b"\r\n " in head or b"\r\n\t" in head:
        raise HeadError("folded header")
    if b"\x00" in head or head.count(b"\n") != head.count(b"\r\n"):
        raise HeadError("control character in head")
    if head.count(b"\r\n") > MAX_HEADERS + 2:
        raise HeadError("too many headers")


def _parse_plain(head: bytes) -> RequestHead | None:
    """A head as SDKs write it, in a third of llhttp's time; None for any other, which may be as good."""
    line = _POST.match(head)
    if line is None:
        return None
    fields = _FIELD.findall(head, line.end())
    # Every match is one whole line. With the request line and the empty one that makes all lines there are.
    if head.count(b"\n") != len(fields) + 2 or not head.endswith(b"\r\n\r\n") or len(fields) > MAX_HEADERS:
        return None
    headers = {name.lower(): value for name, value in fields}
    if len(headers) != len(fields) or b"host" not in headers or not _DELICATE.isdisjoint(headers):
        return None
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or len(length) > 15 or headers.get(b"connection", b"keep-alive").lower() != b"keep-alive":
        return None
    return RequestHead(b"POST", line[1], headers, int(length), plain=True)


class Familiar:
    """A plain head with a Content-Length, kept to read the next ones of its connection by what they say differently.

    A client repeats nearly all of its head; what changes are lengths, ids and traces. Only those lines are looked at.
    """

    __slots__ = (
        "_after",
        "_before",
        "_free",
        "_last",
        "_length",
        "_length_name",
        "_lines",
        "_varied",
        "_varies",
        "head",
        "size",
        "whole",
    )

    def __init__(self, head: bytes) -> None:
        self.head = head
        self.size = len(head)
        at = head.lower().find(b"\r\ncontent-length:") + 2
        colon = head.find(b":", at)
        end = head.find(b"\r", at)
        digits = head[colon + 1 : end].strip(b" \t")
        self._length_name = head[at:colon]
        self._length = int(digits)
        self.whole = self.size + self._length  # bytes of a message with this head
        self._before, self._after = head[: end - len(digits)], head[end:]
        self._lines = head.split(b"\r\n")
        # As this client spells them: a head that spells a name otherwise is read from the start.
        names = [line.partition(b":")[0] for line in self._lines[1:-2]]
        self._free = frozenset(
            name for name in names if name.lower() not in _JUDGED and not name.lower().startswith(_HINTS)
        )
        # Lines whose values were seen to differ, and with that the text before each value, its length, and whether the
        # value is the body's length; and the text behind the last of them.
        self._varies: frozenset[int] = frozenset()
        self._varied: tuple[tuple[bytes, int, bool], ...] = ()
        self._last = b""

    def same(self, data: bytes) -> tuple[int, int]:
        """Does `data` begin with this head, but for the digits of its length? (length, end of the head), or (0, 0)."""
        if data.startswith(self.head):
            return self._length, self.size
        if data.startswith(self._before):
            at = len(self._before)
            end = data.find(b"\r", at, at + 16)
            digits = data[at:end]
            if end > at and digits.isdigit() and data.startswith(self._after, end):
                return int(digits), end + len(self._after)
        return 0, 0

    def alike(self, data: bytes) -> tuple[int, int]:
        """`same`, where values may differ in which heads that `length_of` was asked about did. HOT."""
        at, length = 0, self._length
        for before, size, states_length in self._varied:
            if not data.startswith(before, at):
                return 0, 0
            at += size
            end = data.find(b"\r", at)
            if states_length:
                digits = data[at:end].lstrip(b" \t")
                if end < 0 or not digits.isdigit() or len(digits) > 15:
                    return 0, 0
                length = int(digits)
            elif end < 0 or _VALUE.fullmatch(data, at, end) is None:
                return 0, 0
            at = end
        return (length, at + len(self._last)) if at and data.startswith(self._last, at) else (0, 0)

    def length_of(self, head: bytes) -> int | None:
        """The length stated by another whole head that differs in nothing we judge by; None where it may. HOT."""
        lines = head.split(b"\r\n")
        known = self._lines
        if len(lines) != len(known):
            return None
        length = self._length
        differ = set()
        for number, (line, old) in enumerate(zip(lines, known, strict=True)):
            if line == old:
                continue
            differ.add(number)
            end = line.find(b":") + 1
            name = line[: end - 1]
            # Without a colon `end` is 0, and all but the last letter of the line would pass for its name.
            if not end or name not in self._free or not old.startswith(line[:end]) or not _VALUE.fullmatch(line, end):
                return None
            if name == self._length_name:
                digits = line[end:].lstrip(b" \t")
                if not digits.isdigit() or len(digits) > 15:
                    return None
                length = int(digits)
        if not differ <= self._varies:
            self._learn(self._varies | differ)
        return length

    def _learn(self, varies: frozenset[int]) -> None:
        """Expect other values in these lines."""
        varied, text = [], b""
        for number, line in enumerate(self._lines):
            if number in varies:
                name, _, _ = line.partition(b":")
                text += name + b":"
                varied.append((text, len(text), name == self._length_name))
                text = b""
            else:
                text += line
            text += b"\r\n"
        self._varies, self._varied, self._last = varies, tuple(varied), text[:-2]


def parse_request(head: bytes) -> RequestHead:
    """Read a request's head. Raises HeadError for anything a strict server refuses. HOT."""
    plain = _parse_plain(head)
    if plain is not None:
        return plain
    _check(head)
    sink = _Sink()
    parser = httptools.HttpRequestParser(sink)
    sink.parser = parser
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        raise HeadError("upgrade is not supported") from None
    except httptools.HttpParserError:
        raise HeadError("not an HTTP request") from None
    version = parser.get_http_version()
    if version not in ("1.1", "1.0"):
        raise HeadError("unknown HTTP version")
    headers = sink.headers
    length, chunked = _framing(headers, sink.repeated)
    if chunked and version == "1.0":
        raise HeadError("chunked coding in HTTP/1.0")
    if version == "1.1" and (b"host" not in headers or b"host" in sink.repeated):
        raise HeadError("exactly one Host is required")
    expect = headers.get(b"expect")
    if expect is not None and expect.lower() != b"100-continue":
        raise HeadError("unknown expectation")
    return RequestHead(
        method=parser.get_method(),
        url=sink.url,
        headers=headers,
        length=None if chunked else (length or 0),
        # HTTP/1.0 clients that ask for keep-alive are rare, and answering them right needs a length we may not have.
        keep_alive=sink.keep_alive and version == "1.1",
        http_1_0=version == "1.0",
        expect_continue=expect is not None and version == "1.1",
    )


def parse_answer(head: bytes) -> AnswerHead:
    """Read an upstream answer's head (status 1xx included). Raises HeadError where framing is in doubt."""
    _check(head)
    sink = _Sink()
    parser = httptools.HttpResponseParser(sink)
    sink.parser = parser
    try:
        parser.feed_data(head)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        raise HeadError("not an HTTP answer") from None
    status = parser.get_status_code()
    if status < 100:  # 0 of nothing but empty lines, which llhttp reads past
        raise HeadError("not an HTTP answer")
    length, chunked = _framing(sink.headers, sink.repeated)
    if status in _NO_BODY or 100 <= status < 200:
        length, chunked = 0, False
    connection = sink.headers.get(b"connection", b"").lower()
    # llhttp counts an answer without any length as not keepable, which is what it is: it ends with the connection.
    keep = sink.keep_alive and b"close" not in connection and (chunked or length is not None)
    kind = sink.headers.get(b"content-type", b"").decode("latin-1").lower()
    encoded = sink.headers.get(b"content-encoding", b"identity").lower() != b"identity"
    promising = status == 200 and not encoded and not kind.startswith(NO_COMPLETION)
    return AnswerHead(status, sink.headers, length, chunked, keep, kind, encoded, promising)
