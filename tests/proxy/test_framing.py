"""Chunked bodies: strict, and the same in any cut."""

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
