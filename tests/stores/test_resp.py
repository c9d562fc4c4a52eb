"""The protocol: any cut of the bytes gives the same replies, and what is no reply is refused and not waited for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.stores.resp import LONGEST, Reader, Reply, Said, WrongReply, argument, command


def written(reply: object) -> bytes:
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, bytes):
        return argument(reply)
    assert isinstance(reply, list)
    return b"*%d\r\n" % len(reply) + b"".join(map(written, reply))


simple = st.none() | st.integers(-(2**63), 2**63 - 1) | st.binary(max_size=30)
replies = st.recursive(simple, lambda inner: st.lists(inner, max_size=4), max_leaves=8)


def depth(reply: object) -> int:
    return 1 + max(map(depth, reply), default=0) if isinstance(reply, list) else 0


@given(st.lists(replies.filter(lambda one: depth(one) <= 4), max_size=5), st.lists(st.integers(1, 20)))
def test_however_bytes_are_cut_the_replies_are_the_same(sent: list[Reply], cuts: list[int]) -> None:
    data, reader, found = b"".join(map(written, sent)), Reader(), []
    for size in [*cuts, len(data)]:
        found += list(reader.feed(data[:size]))
        data = data[size:]
    assert found == sent


def test_an_error_tells_its_kind() -> None:
    (reply,) = Reader().feed(b"-OOM command not allowed\r\n")
    assert isinstance(reply, Said)
    assert (reply.kind, str(reply)) == ("OOM", "OOM command not allowed")


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b":+1\r\n",
        b":1_0\r\n",
        b":12345678901234567890\r\n",
        b"$%d\r\n" % (LONGEST + 1),
        b"$3\r\nabcdef",
        b"*1000000\r\n",
        b"*1\r\n" * 6,
        b"%1\r\n",
        b"x" * (2 * LONGEST + 1),
    ],
)
def test_what_is_no_reply_is_refused(data: bytes) -> None:
    with pytest.raises(WrongReply):
        list(Reader().feed(data))


def test_a_command_is_its_words_with_their_lengths() -> None:
    assert command(b"SET", "ä".encode(), -1) == b"*3\r\n$3\r\nSET\r\n$2\r\n\xc3\xa4\r\n$2\r\n-1\r\n"
