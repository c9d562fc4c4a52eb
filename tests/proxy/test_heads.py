"""Heads that two parsers could read differently are refused; the rest mean what they say."""

import pytest

from gateway.proxy.heads import HeadError, parse_answer, parse_request


def post(*lines: str) -> bytes:
    return "\r\n".join(["POST /v1/chat/completions HTTP/1.1", "Host: x", *lines, "", ""]).encode("latin-1")


@pytest.mark.parametrize(
    "head",
    [
        post("Content-Length: 5", "Transfer-Encoding: chunked"),
        post("Transfer-Encoding: chunked", "Content-Length: 5"),
        post("Content-Length: 5", "Content-Length: 5"),
        post("Content-Length: 5, 5"),
        post("Content-Length: +5"),
        post("Content-Length: 5_0"),
        post("Content-Length: -1"),
        post("Content-Length: 0x10"),
        post("Content-Length: 99999999999999999999"),
        post("Transfer-Encoding: xchunked"),
        post("Transfer-Encoding: gzip, chunked"),
        post("Transfer-Encoding: chunked, chunked"),
        post("Transfer-Encoding : chunked"),
        post("X: a", " folded"),
        post("X: a\x00b"),
        post("Host: y"),
        post("Expect: tea"),
        post(*[f"x-{i}: y" for i in range(200)]),
        b"POST / HTTP/1.1\r\nX: 1\r\n\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\nHost: x\n\r\n\r\n",
        b"POST / HTTP/2.0\r\nHost: x\r\n\r\n",
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\r\n\r\n",
    ],
)
def test_a_head_in_doubt_is_refused(head: bytes) -> None:
    with pytest.raises(HeadError):
        parse_request(head)


def test_a_request_head_says_how_its_body_is_framed() -> None:
    assert parse_request(post("Content-Length: 12")).length == 12
    assert parse_request(post("Transfer-Encoding: chunked")).length is None
    assert parse_request(post()).length == 0
    assert parse_request(post("Expect: 100-continue", "Content-Length: 1")).expect_continue


def test_keep_alive_is_read_before_llhttp_forgets_it() -> None:
    assert parse_request(post()).keep_alive
    assert not parse_request(post("Connection: close")).keep_alive
    assert not parse_request(b"GET / HTTP/1.0\r\n\r\n").keep_alive


@pytest.mark.parametrize(
    ("head", "length", "chunked", "keep"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n", 3, False, True),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", None, True, True),
        (b"HTTP/1.1 200 OK\r\n\r\n", None, False, False),  # ends with the connection
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\n", 3, False, False),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\n", 3, False, False),
        (b"HTTP/1.1 204 No\r\n\r\n", 0, False, True),
        (b"HTTP/1.1 100 Continue\r\n\r\n", 0, False, True),
    ],
)
def test_an_answer_head_says_when_its_body_ends(head: bytes, length: int | None, chunked: bool, keep: bool) -> None:
    read = parse_answer(head)
    assert (read.length, read.chunked, read.keep_alive) == (length, chunked, keep)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    ],
)
def test_an_answer_whose_framing_is_in_doubt_is_refused(head: bytes) -> None:
    with pytest.raises(HeadError):
        parse_answer(head)
