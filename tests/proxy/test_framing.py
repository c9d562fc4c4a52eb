"""Chunked bodies: strict, and the same in any cut."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.framing import Chunked, FramingError, chunk_size


def framed(parts: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts if part) + b"0\r\n\r\n"


@given(st.lists(st.binary(max_size=300), max_size=8), st.binary(max_size=20), st.data())
def test_any_cut_gives_the_same_payload_and_the_same_rest(
    parts: list[bytes], behind: bytes, data: st.DataObject
) -> None:
    body = framed(parts) + behind
    decoder, out, at = Chunked(), b"", 0
    while not decoder.done:
        step = data.draw(st.integers(1, max(1, len(body) - at)))
        out += decoder.feed(body[at : at + step])
        at += step
    assert out == b"".join(parts)
    assert decoder.rest + body[at:] == behind


@pytest.mark.parametrize(
    "line", [b"+5", b"0x5", b"5_0", b" 5", b"5 5", b"", b"-1", b"\xb25", b"fffffffff", b"5\r", "５".encode()]
)
def test_what_int_would_take_but_http_does_not_is_refused(line: bytes) -> None:
    with pytest.raises(FramingError):
        chunk_size(line)


def test_a_chunk_extension_is_ignored() -> None:
    assert chunk_size(b'A;name="x"') == 10


def byte_by_byte(decoder: Chunked, body: bytes) -> None:
    for at in range(len(body)):
        decoder.feed(body[at : at + 1])


@pytest.mark.parametrize(
    "body",
    [
        b"5\r\nhelloXX0\r\n\r\n",  # no CRLF behind the data
        b"5\nhello\r\n0\r\n\r\n",  # bare LF
        b"zz\r\n",
        b"5" * 300,
        b"0\r\n" + b"a: b\r\n" * 3000,
        b"0\r\na: b\n\r\n\r\n",  # a bare LF in a trailer: another parser's end of the message
        b"0\r\n\nGET / HTTP/1.1\r\n\r\n",
        b"0\r\na: b\n\n",
        b"0\r\na: b\rc\r\n\r\n",
        b"0\r\n\rx: y\r\n\r\n",
        b"0\r\na: b\r\r\n\r\n",
        b"0\r\na: \0\r\n\r\n",
        b"0\r\na: \x7f\r\n\r\n",
    ],
)
def test_broken_framing_is_refused_whole_and_byte_by_byte(body: bytes) -> None:
    with pytest.raises(FramingError):
        Chunked().feed(body)
    with pytest.raises(FramingError):
        byte_by_byte(Chunked(), body)


def test_trailers_are_read_past() -> None:
    decoder = Chunked()
    assert decoder.feed(b"3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\nNEXT") == b"abc"
    assert decoder.done
    assert decoder.rest == b"NEXT"


def test_trailers_may_come_in_any_cut_and_hold_what_headers_may() -> None:
    body = b"0\r\nx-sum:\t1\r\nx-name: \xc3\xa9\r\n\r\n"
    for cut in range(len(body)):
        decoder = Chunked()
        decoder.feed(body[:cut])
        decoder.feed(body[cut:])
        assert decoder.done


def by_the_book(body: bytes) -> tuple[bytes, bytes] | None:
    """(payload, what follows) of a whole chunked body without trailers, or None where it is broken or unfinished."""
    payload = b""
    while True:
        line, eol, body = body.partition(b"\r\n")
        try:
            size = chunk_size(line)
        except FramingError:
            return None
        if not eol or body[size : size + 2] != b"\r\n":
            return None
        if size == 0:
            return payload, body[2:]
        payload += body[:size]
        body = body[size + 2 :]


def decoded(body: bytes, cuts: list[int]) -> tuple[bytes, bytes] | None:
    decoder, out, at = Chunked(), b"", 0
    for cut in [*sorted(cuts), len(body)]:
        try:
            out += decoder.feed(body[at:cut])
        except FramingError:
            return None
        at = cut
        if decoder.done:
            return out, decoder.rest + body[at:]
    return None


EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}'
# What a chunk of a flood may hold: events as servers end them, half a CRLF at either end, framing inside the payload.
FLOODED = st.sampled_from(
    [
        EVENT % b"word" + b"\n\n",
        EVENT % b"other words" + b"\n\n",
        EVENT % b"crlf" + b"\r\n\r\n",
        b"\n" + EVENT % b"lf first",
        EVENT % b"cr last" + b"\r",
        b"\r\n",
        b"3\r\nabc\r\n",
        b"0\r\n\r\n",
        b"x" * 5000,
        b"x",
    ]
)
FORMS = st.sampled_from([b"%x", b"%X", b"%04x", b"%x;name=value", b"%x "])


@given(
    st.lists(st.tuples(FLOODED, FORMS, st.integers(1, 40)), min_size=1, max_size=6),
    st.sampled_from([b"0\r\n\r\n", b"0\r\n\r\nGET / HTTP/1.1\r\n\r\n" + b"5\r\nhello\r\n" * 200]),
    st.data(),
)
def test_a_flood_of_chunks_reads_as_it_would_one_by_one_however_it_is_cut(
    runs: list[tuple[bytes, bytes, int]], end: bytes, data: st.DataObject
) -> None:
    body = b"".join((form % len(part) + b"\r\n" + part + b"\r\n") * times for part, form, times in runs) + end
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=8))
    assert decoded(body, cuts) == by_the_book(body)


@given(st.data())
def test_a_flood_with_one_broken_byte_is_taken_or_refused_as_it_would_be_one_by_one(data: st.DataObject) -> None:
    chunks = [b"%x\r\n%b\r\n" % (len(part), part) for part in (EVENT % (b"w" * n) + b"\n\n" for n in range(40))]
    body = bytearray(b"".join(chunks) + b"0\r\n\r\n")
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] = data.draw(st.sampled_from(b"\r\n0f;x \xff"))
    cuts = data.draw(st.lists(st.integers(0, len(body)), max_size=3))
    expected = by_the_book(bytes(body))
    if expected is not None or b"0\r\n" not in bytes(body[at - 2 : at + 3]):  # "0" made early may begin trailers
        assert decoded(bytes(body), cuts) == expected


def test_a_long_flood_is_the_same_in_every_size_of_read() -> None:
    draw = random.Random(7)
    parts = [EVENT % (b"w" * draw.randrange(60)) + b"\n\n" for _ in range(5000)]
    parts[2500] = b"crlf\r\n\r\nin the middle"
    body = framed(parts)
    for step in (1000, 1024, 1500, 4096, 65_536, len(body)):
        assert decoded(body, list(range(0, len(body), step))) == (b"".join(parts), b"")
