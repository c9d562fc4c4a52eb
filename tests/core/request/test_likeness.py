"""A body read by its likeness to another says exactly what reading it from the start says, or is not read so."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import BadRequest
from gateway.core.request.likeness import MOST_KEPT, Likeness
from gateway.core.request.wire import Envelope, parse
from gateway.core.servers import dialects
from gateway.core.servers.rows import DIALECTS
from gateway.core.types import Backend, Endpoint, Model, Target, Thinking

HELLO = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
OTHERS = [{"role": "user", "content": 'an "é" \u2028 and {"messages":[]}'}, {"role": "assistant", "content": ""}]


def body(messages: Any = HELLO, *, first: str = "model", **members: Any) -> bytes:
    model, said = {"model": "auto"}, {"messages": messages}
    ordered = {**model, **said} if first == "model" else {**said, **model}
    return json.dumps({**ordered, **members}, separators=(",", ":"), ensure_ascii=False).encode()


def likeness(of: bytes) -> Likeness:
    made = Likeness.to(parse(of))
    assert made is not None
    return made


def facts(envelope: Envelope) -> tuple[object, ...]:
    return (
        envelope.model_asked,
        envelope.stream,
        envelope.include_usage,
        envelope.choices,
        envelope.size,
        envelope.tree,
        {name: bytes(text) for name, text in envelope.members.items()},
    )


MEMBERS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.7, "max_tokens": 256},
    {"stream": True, "stream_options": {"include_usage": True}, "n": 2},
    {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}], "user": "ü"},
    {"user": "shopper-1"},
    {"user": "", "seed": 3},
]


@pytest.mark.parametrize("first", ["model", "messages"])
@pytest.mark.parametrize("members", MEMBERS)
def test_other_messages_are_read_as_they_would_be_from_the_start(members: dict[str, Any], first: str) -> None:
    read = likeness(body(first=first, **members)).read(body(OTHERS, first=first, **members))
    assert read is not None
    assert facts(read) == facts(parse(body(OTHERS, first=first, **members)))
    assert read.messages == json.dumps(OTHERS, separators=(",", ":"), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "other",
    [
        body([]),
        body(None),
        body([{"role": "user"}]),
        body([{"role": "", "content": "x"}]),
        body([{"role": "user", "content": None}]),
        body([{"role": "user", "content": [{"type": "text", "text": "x"}]}]),
        body([{"role": "user", "content": "x", "name": "y"}]),
        body([{"content": "x", "role": "user"}]),
        body(temperature=0.5),
        body(first="messages"),
        b'{"model":"auto","messages":[{"role":"user","role":"user","content":"x"}]}',
        b'{"model":"auto","messages":[{"role":"user","content":"a","content":"x"}]}',
        b'{"model":"auto","messages":[{"role":"user","content":"x"}],"messages":[{"role":"user","content":"x"}]}',
        b'{"model":"auto","messages":[{"role":"user","content":"x"}],"stream":true,"n":[{}]}',
        b'{"model":"auto","messages":[{"role":"user","content":"x" }]}',
        b'{"model":"auto","messages":[{"role":"user","content":"\\u0041"}]}',
        b'{"model":"auto","messages":[{"role":"user","content":"\xff"}]}',
        b'{"model":"auto","messages":[{"role":"user","content":"\\ud800"}]}',
        b'{"model":"auto","messages":[{"role":"user","content":"x"}]',
        body(user="another"),
        b'{"model":"auto","messages":}',
        b'{"model":"auto","messages":',
        b'{"model":"auto"}',
        b"}",
        b"",
    ],
)
def test_what_is_not_like_it_is_not_read(other: bytes) -> None:
    assert likeness(body()).read(other) is None


@given(
    st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=6), st.integers(0, 4)), max_size=4),
    st.sampled_from(MEMBERS),
    st.sampled_from(["model", "messages"]),
)
@settings(max_examples=400)
def test_no_change_of_a_body_makes_it_say_something_else(
    edits: list[tuple[int, bytes, int]], members: dict[str, Any], first: str
) -> None:
    known = likeness(body(first=first, **members))
    changed = body(OTHERS, first=first, **members)
    for at, piece, gone in edits:
        changed = changed[:at] + piece + changed[at + gone :]
    read = known.read(changed)
    if read is not None:
        assert facts(read) == facts(parse(changed))


@given(st.binary(max_size=60))
def test_bytes_where_messages_were_are_read_as_parse_reads_them(text: bytes) -> None:
    before, behind = b'{"model":"auto","messages":', b',"n":1}'
    read = likeness(before + b'[{"role":"user","content":"x"}]' + behind).read(before + text + behind)
    try:
        parsed = parse(before + text + behind)
    except BadRequest:
        assert read is None
    else:
        assert read is None or facts(read) == facts(parsed)


@pytest.mark.parametrize(
    "odd",
    [
        body([{"role": "user", "content": "x", "name": "y"}]),
        body(copy=HELLO),
        body(note="x" * MOST_KEPT),
        b'{ "model": "auto", "messages": [ {"role": "user", "content": "x"} ] }',
    ],
)
def test_a_body_whose_like_could_not_be_told_is_no_model_for_others(odd: bytes) -> None:
    assert Likeness.to(parse(odd)) is None


TURNS = st.sampled_from([*HELLO, *OTHERS, {"role": "user", "content": "again"}])


@given(st.lists(st.lists(TURNS, min_size=1, max_size=5), max_size=8))
@settings(max_examples=300)
def test_messages_that_were_read_before_need_no_reading_and_say_the_same(said: list[list[dict[str, str]]]) -> None:
    known = likeness(body())
    for messages in said:
        read = known.read(body(messages))
        assert read is not None
        assert facts(read) == facts(parse(body(messages)))


@pytest.mark.parametrize("behind", [b'{"role":"user"}', b'{"role":"user","content":"x"}]', b"]", b"1", b" {}"])
def test_what_follows_messages_that_were_read_before_is_read_as_strictly(behind: bytes) -> None:
    known = likeness(body())
    start = body().partition(b',{"role":"user"')[0] + b","
    assert known.read(start + b'{"role":"user","content":"x"}]}') is not None
    assert known.read(start + behind + b"]}") is None


def test_a_conversation_that_grows_is_read_by_what_is_new() -> None:
    known, turns = likeness(body()), list(HELLO)
    for number in range(9):
        turns += [{"role": "assistant", "content": f"{number}"}, {"role": "user", "content": "go on"}]
        assert known.read(body(turns)) is not None
        assert known._known == json.dumps(turns[:-1], separators=(",", ":"))[:-1].encode() + b","
    assert known.read(body([HELLO[0], {"role": "user", "content": "a new one"}])) is not None
    assert known._known == json.dumps(HELLO[:1], separators=(",", ":"))[:-1].encode() + b","
    assert known.read(body(turns)) is not None
    assert known._known == json.dumps(HELLO[:1], separators=(",", ":"))[:-1].encode() + b",", "it grows no more"


@pytest.mark.parametrize(
    ("user", "read"),
    [
        ("shopper-2", True),
        ("", True),
        ('a"b', False),
        ("a\\b", False),
        ("é", False),
        ("a\tb", False),
        ("x" * 513, False),
    ],
)
def test_another_user_is_read_where_it_is_plain_text(user: str, read: bool) -> None:
    known = likeness(body(user="shopper-1", seed=3))
    found = known.read(body(OTHERS, user=user, seed=3))
    assert (found is not None) == read
    if found is not None:
        assert found.user == user.encode()
        assert facts(found) == facts(parse(body(OTHERS, user=user, seed=3)))


@pytest.mark.parametrize(
    "odd",
    [
        b',"us\\u0065r":"x","metadata":{"user":"x"}}',
        b',"metadata":{"user":"x"}}',
        b',"user":"x","metadata":{"user":"x"}}',
        b',"user":"x","metadata":{"user":1}}',
        b',"user": "x"}',
        b',"user":["x"]}',
    ],
)
def test_where_it_is_not_certain_which_text_is_the_user_it_may_not_differ(odd: bytes) -> None:
    first = body()[:-1] + odd
    known = likeness(first)
    assert known.user is None
    assert known.read(first) is not None
    assert known.read(body()[:-1] + odd.replace(b'"x"', b'"y"')) is None or b"x" not in odd


def target(dialect: str, thinking: Any) -> Target:
    backend = Backend("b", dialect, (Endpoint("http://a:1/v1", "http", "a", 1, "/v1"),))
    return Target("t", 0, Model("m", "qwen"), backend, "up/m", 262_144, thinking=thinking)


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
@pytest.mark.parametrize("thinking", ["switchable", "unknown"])
@pytest.mark.parametrize("mode", ["never", "always", "client", "budget"])
def test_what_is_sent_around_the_messages_is_what_a_whole_body_has_there(
    dialect: str, thinking: Any, mode: Any
) -> None:
    plan = dialects.prepare(target(dialect, thinking))
    wish = Thinking(mode, budget=2048 if mode == "budget" else None)
    found = 0
    for members in MEMBERS:
        known = likeness(body(**members))
        around = dialects.around(parse(body(**members)), plan, wish, known.user)
        if around is not None:
            found += 1
            other = body(OTHERS, **members if known.user is None else members | {"user": "somebody else"})
            read = known.read(other)
            assert read is not None
            assert read.messages is not None
            written = dialects.filled(around, read.messages, read.user)
            assert written == dialects.request_body(parse(other), plan, wish)
    assert found or dialect != "openai"


def test_a_user_that_configuration_sets_is_nobody_elses() -> None:
    backend = Backend("b", "openai", (Endpoint("http://a:1/v1", "http", "a", 1, "/v1"),), members={"user": "shop"})
    plan = dialects.prepare(Target("t", 0, Model("m", "qwen"), backend, "up/m", 262_144))
    assert dialects.around(parse(body(user="shop")), plan, Thinking("client"), b"shop") is None
