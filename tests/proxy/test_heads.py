"""Heads that two parsers could read differently are refused; the rest mean what they say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.heads import MAX_HEADERS, Familiar, HeadError, Headers, RequestHead, parse_answer, parse_request


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
        post("X: a\x01b"),
        post("X: a\x7fb"),
        post("X: a\rb"),
        post("X: a\nb: c"),
        post("a b: c"),
        post("(a: b"),
        post(": b"),
        post("no colon"),
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


FIELDS = {
    b"Host": [b"x", b"x:80", b""],
    b"Content-Length": [b"5", b"05", b"+5", b"5_0", b"", b"5 ", b"\xb25", b"5,5", b"9" * 15, b"9" * 16, b"9" * 30],
    b"Connection": [b"keep-alive", b"Keep-Alive", b"close", b"keep-alive, close", b"upgrade", b"te", b""],
    b"Transfer-Encoding": [b"chunked", b"identity", b""],
    b"Expect": [b"100-continue", b"tea"],
    b"Upgrade": [b"websocket", b"h2c"],
    b"Proxy-Connection": [b"close", b"keep-alive"],
}
NAMES = st.one_of(
    st.sampled_from(
        [b"X-A", b"x-a", b"Accept", b"", b"a b", b"a(", b'a"', b"a/b", b"\x80", b"a\x00", b"!#$%&'*+-.^_`|~9"]
    ),
    st.binary(min_size=1, max_size=2),
)
VALUES = st.one_of(
    st.sampled_from(
        [b"", b"v", b" v", b"v ", b"v\t", b"a b", b"a\tb", b"caf\xe9", b"a:b", b"a\x7f", b"a\x00b", b"a\rb", b"\x0b"]
    ),
    st.binary(max_size=3),
)
KNOWN = st.sampled_from(sorted(FIELDS)).flatmap(
    lambda name: st.tuples(st.sampled_from([name, name.lower(), name.upper()]), st.sampled_from(FIELDS[name]))
)
ENDS = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"\r\r\n", b"\r\n ", b"\r\n\t"])
LINES = st.builds(
    lambda field, colon, end: field[0] + colon + field[1] + end,
    st.one_of(KNOWN, KNOWN, st.tuples(NAMES, VALUES)),
    st.sampled_from([b": "] * 6 + [b":", b":  ", b":\t", b" : ", b""]),
    ENDS,
)
STARTS = st.sampled_from(
    [b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"] * 6
    + [b"POST /a HTTP/1.1\r\n", b"POST / HTTP/1.0\r\n", b"POST /a?b HTTP/1.1\r\n", b"GET / HTTP/1.1\r\n"]
    + [
        b"POST  / HTTP/1.1\r\n",
        b"POST / HTTP/1.1 \r\n",
        b"post / HTTP/1.1\r\n",
        b"POST / HTTP/1.1\n",
        b"POST * HTTP/1.1\r\n",
    ]
)


def read(head: bytes) -> RequestHead | None:
    try:
        return parse_request(head)
    except HeadError:
        return None


def read_by_llhttp(head: bytes) -> RequestHead | None:
    """The same head with a header that only llhttp is trusted with, and without it again."""
    found = read(head[:-2] + b"Proxy-Connection: keep-alive\r\n\r\n")
    if found is not None:
        rest, _, last = found.headers[b"proxy-connection"].rpartition(b", ")
        assert last == b"keep-alive"
        del found.headers[b"proxy-connection"]
        if rest:
            found.headers[b"proxy-connection"] = rest
    return found


@given(STARTS, st.lists(LINES, max_size=5))
def test_a_head_read_without_llhttp_says_what_llhttp_says(start: bytes, lines: list[bytes]) -> None:
    head = start + b"".join(lines) + b"\r\n"
    head = head[: head.index(b"\r\n\r\n") + 4] if b"\r\n\r\n" in head else head + b"\r\n"
    assert read(head) == read_by_llhttp(head)


def test_a_head_of_an_sdk_is_read_whole() -> None:
    head = parse_request(
        post("ACCEPT: a/b, c", "x-empty:", "X-Sp:  a b", "Connection: keep-alive", "content-length: 7")
    )
    assert head == RequestHead(
        method=b"POST",
        url=b"/v1/chat/completions",
        headers={
            b"host": b"x",
            b"accept": b"a/b, c",
            b"x-empty": b"",
            b"x-sp": b"a b",
            b"connection": b"keep-alive",
            b"content-length": b"7",
        },
        length=7,
    )


def test_as_many_headers_are_taken_as_the_limit_says_and_no_more() -> None:
    assert len(parse_request(post(*[f"x-{i}: y" for i in range(MAX_HEADERS - 1)])).headers) == MAX_HEADERS
    with pytest.raises(HeadError):
        parse_request(post(*[f"x-{i}: y" for i in range(MAX_HEADERS)]))


def test_headers_for_policies_are_text_under_lower_case_names() -> None:
    headers = Headers(parse_request(post("X-Tier: caf\xe9", "Accept: a/b")).headers)
    assert dict(headers) == {"host": "x", "x-tier": "caf\xe9", "accept": "a/b"}
    assert headers.get("x-tier") == "caf\xe9"
    assert headers.get("X-Tier") is None
    assert headers.get("caf\xe9-\u20ac") is None


@pytest.mark.parametrize("name", ["Authorization", "Cookie", "Proxy-Authorization", "X-API-Key", "api-key"])
def test_no_policy_sees_a_credential(name: str) -> None:
    headers = Headers(parse_request(post(f"{name}: secret", "X-Tier: gold")).headers)
    assert dict(headers) == {"host": "x", "x-tier": "gold"}
    assert headers.get(name.lower()) is None


SPOKEN = [
    b"POST /v1/chat/completions HTTP/1.1",
    b"Host: x",
    b"Authorization: Bearer sk-1",
    b"X-Request-Id: 1",
    b"x-pointsman-cost: low",
    b"Content-Length:  12",
    b"Accept: */*",
]
JUDGED = (b"host", b"authorization", b"connection", b"content-encoding", b"x-pointsman-cost", b"transfer-encoding")


def spoken(*lines: bytes) -> bytes:
    return b"\r\n".join(lines) + b"\r\n\r\n"


@given(st.lists(st.tuples(st.integers(0, len(SPOKEN) - 1), LINES), max_size=3))
def test_a_head_read_by_its_differences_is_read_as_from_the_start(changes: list[tuple[int, bytes]]) -> None:
    lines = list(SPOKEN)
    for at, line in changes:
        lines[at] = line.removesuffix(b"\r\n")
    head = spoken(*lines)
    head = head[: head.index(b"\r\n\r\n") + 4]
    familiar = Familiar(spoken(*SPOKEN))
    length = familiar.length_of(head)
    wary = Familiar(spoken(*SPOKEN))
    wary._learn(
        frozenset(number for number in range(1, len(SPOKEN)) if SPOKEN[number].partition(b":")[0] in wary._free)
    )
    assert wary.alike(head + b"{...") in {(0, 0), (length, len(head))}
    if length is None:
        return
    assert wary.alike(head) == (length, len(head))
    found, first = parse_request(head), parse_request(spoken(*SPOKEN))
    assert (found.length, found.method, found.url, found.keep_alive) == (length, first.method, first.url, True)
    assert [found.headers.get(name) for name in JUDGED] == [first.headers.get(name) for name in JUDGED]


@pytest.mark.parametrize(
    ("at", "line", "length"),
    [
        (3, b"X-Request-Id: 2", 12),
        (3, b"X-Request-Id:", 12),
        (5, b"Content-Length: 7", 7),
        (6, b"Accept: a\x80", 12),
        (6, b"ACCEPT: */*", None),  # as good, but read from the start
        (0, b"POST /v1/models HTTP/1.1", None),
        (1, b"Host: y", None),
        (2, b"Authorization: Bearer sk-2", None),
        (3, b"Authorization: Bearer sk-1", None),
        (4, b"x-pointsman-cost: normal", None),
        (5, b"Content-Length: +7", None),
        (5, b"Content-Length: 7 ", None),
        (5, b"Content-Length: 1" + b"0" * 15, None),
        (6, b"Accept: a\rb", None),
        (6, b"Accept: a\nb", None),
        (6, b"Accept: a\x00", None),
        (6, b"Accept : */*", None),
        (6, b"Expect: 100-continue", None),
        (6, b" folded", None),
        (0, b"Acceptx", None),  # no header at all, though all but its last letter is the name of one
        (2, b"Acceptx", None),
        (5, b"X-Request-Id;", None),
    ],
)
def test_only_what_nobody_judges_by_may_differ_from_a_familiar_head(at: int, line: bytes, length: int | None) -> None:
    lines = list(SPOKEN)
    lines[at] = line
    familiar, head = Familiar(spoken(*SPOKEN)), spoken(*lines)
    assert familiar.length_of(head) == length
    assert familiar.alike(head + b"{...") == ((0, 0) if length is None else (length, len(head)))
    varied = list(SPOKEN)
    varied[3], varied[5], varied[6] = b"X-Request-Id: 2", b"Content-Length:99", b"Accept:x"
    familiar.length_of(spoken(*varied))
    assert familiar.alike(head + b"{...") == ((0, 0) if length is None else (length, len(head)))


def test_a_head_whose_known_values_differ_is_known_again() -> None:
    familiar = Familiar(spoken(*SPOKEN))
    assert familiar.alike(spoken(*SPOKEN)) == (0, 0)
    lines = list(SPOKEN)
    lines[3] = b"X-Request-Id: 2"
    assert familiar.length_of(spoken(*lines)) == 12
    lines[3] = b"X-Request-Id: 3"
    assert familiar.alike(spoken(*lines) + b"{...") == (12, len(spoken(*lines)))
    lines[5] = b"Content-Length: 34"
    assert familiar.alike(spoken(*lines)) == (0, 0), "not one that was seen to differ"
    assert familiar.length_of(spoken(*lines)) == 34
    assert familiar.alike(spoken(*lines)) == (34, len(spoken(*lines)))
    assert familiar.alike(spoken(*lines)[:-1]) == (0, 0)
    for n in range(len(spoken(*lines))):
        assert familiar.alike(spoken(*lines)[:n]) == (0, 0)


def test_a_familiar_head_is_known_again_in_front_of_a_body() -> None:
    familiar = Familiar(spoken(*SPOKEN))
    again = spoken(*SPOKEN).replace(b"12", b"345")
    assert familiar.same(again + b"{...") == (345, len(again))
    for other in (
        again[:-1],
        again.replace(b"345", b""),
        again.replace(b"345", b"3 45"),
        again.replace(b"sk-1", b"sk-2"),
    ):
        assert familiar.same(other) == (0, 0)


def test_a_familiar_head_does_not_hide_the_headers_of_the_next_one() -> None:
    lines = list(SPOKEN)
    lines[3] = b"X-Request-Id: other"
    assert dict(Headers(spoken(*lines)))["x-request-id"] == "other"
    assert "authorization" not in Headers(spoken(*lines))
