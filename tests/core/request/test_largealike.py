"""A large body is read exactly as a small one, however it is written and whatever hides in it: each body both ways."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import BadRequest
from gateway.core.reading import media
from gateway.core.request import glue, largetree, members, wire
from gateway.core.request.largetree import finish
from gateway.core.request.wire import Envelope
from gateway.core.text.longtext import LongText, pieces

#: Texts that look like what stands between members and messages, and some that cross the length of what is decoded.
TEXTS = (
    "", "x", "hi", "user", "content", 'He said "no".', "\\", '\\"', "é\n", "漢字😀",
    '"}, {"role": "user", "content": "', '","content":"', '"}]}', ": ", ", ", "a" * 120, "b" * 126, "c" * 127,
    "word " * 40, 'q"' * 80, "é" * 90, "\\n" * 70,
)  # fmt: skip
ROLES = ("user", "assistant", "system", "tool", "", "r" * 200, "us er", 'a"b')
GAPS = ("", " ", "  ", "\n", "\t", "\r\n", "\n    ")


class Object(list[tuple[str, Any]]):
    """Members in order, of which a name may be there twice."""


def conversation(chance: random.Random) -> Object:
    """A body: mostly of one of the usual kinds."""

    def text() -> str:
        return chance.choice(TEXTS)

    def part() -> Object:
        if chance.random() < 0.08:
            return Object([("type", "image_url"), ("image_url", Object([("url", text()), ("detail", "low")]))])
        members: list[tuple[str, Any]] = [("type", "text" if chance.random() < 0.99 else text()), ("text", text())]
        if chance.random() < 0.1:
            members.append(chance.choice([("cache_control", Object([("type", "ephemeral")])), ("image", text())]))
        if chance.random() < 0.1:
            chance.shuffle(members)
        return Object(members)

    def call() -> Object:
        function = Object([("name", "read"), ("arguments", text())])
        return Object([("id", "call_1"), ("type", "function"), ("function", function)])

    def parts() -> list[Any]:
        return [part() for _ in range(1 if chance.random() < 0.8 else chance.randrange(4))]

    def message(kind: str) -> Object:
        role = ("role", chance.choice(ROLES[:4] if chance.random() < 0.97 else ROLES))
        if kind == "mixed":
            kind = chance.choice(("text", "parts", "calls"))
        if kind == "parts":
            return Object([role, ("content", parts())])
        if kind == "calls" and chance.random() < 0.5:
            calls = [call() for _ in range(chance.choice((1, 1, 1, 2)))]
            return Object([("role", "assistant"), ("content", None), ("tool_calls", calls)])
        if kind == "calls":
            return Object([("role", "tool"), ("tool_call_id", "call_1"), ("content", text())])
        odd = [("name", text())] if chance.random() < 0.05 else []
        content = text() if chance.random() < 0.98 else chance.choice((7, None, {}, []))
        return Object([role, ("content", content), *odd])

    kind = chance.choice(("text", "parts", "calls", "mixed"))
    messages = [message(kind) for _ in range(chance.choice((1, 2, 3, 5, 9)))]
    members: list[tuple[str, Any]] = [("model", "a"), ("messages", messages)]
    others: list[tuple[str, Any]] = [
        ("n", 1), ("stream", True), ("metadata", Object([("messages", [message(kind)])])), ("user", text()),
        ("tools", [Object([("type", "function"), ("function", Object([("name", text())]))])]), ("temperature", 0.70),
    ]  # fmt: skip
    for other in chance.sample(others, chance.choice((0, 0, 1, 3))):
        members.insert(chance.randrange(len(members) + 1), other)
    return Object(members)


def values(tree: Any) -> Iterator[Any]:
    """A tree and all that is in it."""
    yield tree
    for one in [value for _, value in tree] if isinstance(tree, Object) else tree if isinstance(tree, list) else []:
        yield from values(one)


def doubled(body: Object, chance: random.Random) -> Object:
    """Give an object a member of a name that it has, with the same value, another of the body, or a short one."""
    every = list(values(body))
    some = [one for one in every if isinstance(one, Object) and one]
    there = chance.choice(some)
    name, value = chance.choice(there)
    value = chance.choice((value, 0, "", [], chance.choice(every[1:] or every)))
    if not any(one is there for one in values(value)):
        there.insert(chance.randrange(len(there) + 1), (name, value))
    return there


def written(body: Object, chance: random.Random, length: int | None = None, giving: Object | None = None) -> bytes:
    """Its text in one of the usual styles or another; of a length, if the white space in all or one of it allows."""
    style = chance.choice(("compact", "spaced", "spaced", "indented", "tabs", "odd"))
    escaped, wrong = chance.random() < 0.5, chance.choice((0, 0, 0, 0.02))
    out: list[str] = []
    gaps: list[int] = []

    def gap(usual: str) -> None:
        gaps.append(len(out))
        out.append(chance.choice(GAPS) if style == "odd" or chance.random() < wrong else usual)

    def turn(level: int) -> str:
        return {"indented": "\n" + "  " * level, "tabs": "\n" + "\t" * level}.get(style, "")

    def string(text: str) -> str:
        plain = json.dumps(text, ensure_ascii=escaped)
        if text and wrong and chance.random() < 0.1:
            return f'"\\u{ord(text[0]):04x}{plain[2:]}' if text[0].isalnum() and text[0].isascii() else plain
        return plain

    def write(value: Any, level: int) -> None:
        if not isinstance(value, list):
            out.append(string(value) if isinstance(value, str) else json.dumps(value))
            return
        begin = len(gaps)
        is_object = isinstance(value, Object)
        out.append("{" if is_object else "[")
        for number, one in enumerate(value):
            if number:
                out.append(",")
            gap(turn(level + 1) or (" " if number and style == "spaced" else ""))
            if is_object:
                out.append(string(one[0]))
                gap("")
                out.append(":")
                gap("" if style == "compact" else " ")
            write(one[1] if is_object else one, level + 1)
        gap(turn(level) if value else "")
        out.append("}" if is_object else "]")
        if value is giving:
            given[:] = gaps[begin:]

    given: list[int] = []
    write(body, 0)
    if length is not None:
        over = len("".join(out).encode()) - length
        while over > 0 and (left := [at for at in given or gaps if out[at]]):
            at = chance.choice(left)
            over -= 1
            out[at] = out[at][:-1]
        if over < 0:
            out[chance.choice(gaps)] += " " * -over
    return "".join(out).encode()


def damaged(text: bytes, chance: random.Random) -> bytes:
    """A text in which some bytes are others, are gone, or are there twice."""
    for _ in range(chance.choice((1, 1, 2))):
        at, size = chance.randrange(len(text)), chance.choice((1, 1, 2, 9, 40))
        to = chance.randrange(len(text))
        piece = chance.choice((b"", b" ", b'"', b"\\", b",", b"}", b"]", b"\xff", b"0", text[to : to + size]))
        text = text[:at] + piece + text[at + chance.choice((0, size)) :]
    return text


def body_of(chance: random.Random) -> bytes:
    """A body that may be right, or hold a member twice: openly, or at the cost of its white space."""
    tree, length = conversation(chance), None
    if chance.random() < 0.5:
        state = chance.getstate()
        length = len(written(tree, chance))
        chance.setstate(state)
        there = doubled(tree, chance)
        if chance.random() < 0.2:
            doubled(tree, chance)
        style = random.Random()
        style.setstate(state)
        giving = there if chance.random() < 0.6 else None
        return written(tree, style, length if chance.random() < 0.8 else None, giving)
    text = written(tree, chance)
    return damaged(text, chance) if chance.random() < 0.4 else text


@contextmanager
def of_size(chance: random.Random) -> Iterator[None]:
    """What is done to many at once is done to few, and what is large is small, so that little bodies meet all of it."""
    with (
        mock.patch.object(members, "_MANY", chance.choice((0, 2, 64))),
        mock.patch.object(media, "_MANY", chance.choice((0, 2, 64))),
        mock.patch.object(wire, "WHOLE_BYTES", chance.choice((160, 600, 131_072, 131_072))),
        mock.patch.object(largetree, "_TOGETHER", chance.choice((1, 2, 64))),
        mock.patch.object(largetree, "_CONTAINERS_PER_STEP", chance.choice((1, 2, 256))),
        mock.patch.object(largetree, "_SMALL_BYTES", chance.choice((0, 100, 1_024))),
        mock.patch.object(glue, "_GROUP", chance.choice((1, 3, 96))),
        mock.patch.object(glue, "_COMPARED", chance.choice((8, 100, 262_144))),
        mock.patch.object(glue, "_SHAPES", chance.choice((1, 64))),
        mock.patch.object(glue, "_COLUMNS", chance.choice((1, 32, 32))),
    ):
        yield


def plainly(tree: Any) -> Any:
    """A tree with its long texts decoded."""
    if isinstance(tree, dict):
        return {name: plainly(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [plainly(value) for value in tree]
    if isinstance(tree, LongText):
        text = msgspec.json.decode(tree, type=str)
        assert "".join(pieces(tree, 60)) == text
        return text
    return tree


def told(messages: list[Any]) -> tuple[Any, ...]:
    """What routing reads of messages; the texts of a long one among calls stand beside it."""
    found = media.read(messages)
    texts = sorted(map(str, map(plainly, found.texts)))
    rest = found.audio_tokens, found.videos, found.file_tokens, found.others, found.messages, found.calls
    return texts, sorted(map(str, found.images)), rest


def outcome(read: Callable[[], Envelope]) -> Envelope | str:
    try:
        return read()
    except BadRequest as error:
        return error.message


def check_alike(text: bytes, chance: random.Random) -> bool:
    """Whether a body is accepted, which must be so both ways, with the same facts and the same bytes to send."""
    small = outcome(lambda: wire.parse(text))
    with of_size(chance):
        large = outcome(lambda: finish(wire.parse_steps(text)))
        if isinstance(small, str) or isinstance(large, str):
            assert isinstance(small, str), f"a large body is refused: {large}"
            assert isinstance(large, str), f"a large body is not refused: {small}"
            return False
        assert plainly(large.tree) == small.tree
        assert list(large.tree) == list(small.tree)
        assert json.dumps(plainly(large.get("messages"))) == json.dumps(small.get("messages"))
        for name in ("model_asked", "stream", "include_usage", "choices", "size"):
            assert getattr(large, name) == getattr(small, name)
        for overrides in ({}, {"model": b'"m"', "n": None, "stream": b"true"}):
            assert b"".join(wire.emit_pieces(large, overrides)) == b"".join(wire.emit_pieces(small, overrides))
        many = told(large.get("messages"))
    with mock.patch.object(media, "_MANY", 1_000_000):
        assert many == told(large.get("messages"))
    return True


def test_the_bodies_are_of_both_kinds() -> None:
    chance = random.Random(1)
    assert {check_alike(body_of(chance), chance) for _ in range(40)} == {True, False}


@settings(deadline=None, max_examples=400)
@given(st.integers(0, 1 << 62))
def test_a_large_body_is_read_as_a_small_one(seed: int) -> None:
    chance = random.Random(seed)
    check_alike(body_of(chance), chance)


def test_white_space_as_long_as_a_member_proves_nothing() -> None:
    """Its five spaces are as long as the shortest member that it may hold twice."""
    long = "z" * 200
    plain, hiding = f'{{"": "{long}", "x": 1, "y": 2}}', f'{{"":0,"":"{long}","x":1,"y":2}}'
    assert len(plain) == len(hiding)
    for around in ("%s", "[%s]"):
        body = '{"model": "a", "messages": [{"role": "tool", "content": "x", "call": ' + around + "}]}"
        assert finish(wire.parse_steps((body % plain).encode())).choices == 1
        with pytest.raises(BadRequest, match="duplicate key"):
            finish(wire.parse_steps((body % hiding).encode()))


@pytest.mark.parametrize("style", [(",", ":"), (", ", ": ")])
def test_no_white_space_pays_for_a_member_that_is_there_twice(style: tuple[str, str]) -> None:
    """Of the length that its members have as they are usually written, but with one of them twice."""
    part = {"type": "text", "text": "y" * 200}
    call = {"id": "c", "type": "function", "function": {"name": "read", "arguments": "x" * 200}}
    some = [{"role": "assistant", "content": [part], "tool_calls": [call]}] * 3
    text = json.dumps({"model": "a", "messages": some}, separators=style).encode()
    for name in (b'"type"', b'"text"', b'"id"', b'"function"', b'"name"', b'"arguments"', b'"role"', b'"content"'):
        for value in (b"0", b'""', b"[]"):
            at = text.index(name + b":", len(text) // 2)
            hiding = text[:at] + name + b":" + value + b"," + text[at:]
            for _ in range(len(hiding) - len(text)):
                hiding = hiding.replace(b": ", b":", 1) if b": " in hiding else hiding
            with pytest.raises(BadRequest, match="duplicate key"):
                finish(wire.parse_steps(hiding))
