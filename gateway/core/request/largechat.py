"""A large body of the usual kind: messages, written as encoders write them, and not much around them.

Here belongs reading such a body from one look at it, which tells what its messages end up as, and proving afterwards
that they hold nothing else. Bodies of any other kind, and what the values of these become, are `largetree`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat
from typing import Annotated, Any, NamedTuple

import msgspec

from gateway.core.request.glue import Column, Members, Piece, Table, stands, table
from gateway.core.request.largebody import check_names
from gateway.core.request.largetree import OBJECT, UNREADABLE, Grower, Steps, all_true, check_utf8

_MESSAGES, _CONTENT, _ROLE, _TOOL = b'"messages"', b'"content"', b'"role"', b'"tool_call'
_LOOKS, _LOOK_BYTES = 8, 65_536  # at what messages consist of
_LEAST_AROUND_BYTES = 131_072  # before the messages and behind them; of a larger body an eighth, which is copied


class Chat(NamedTuple):
    """A body of the usual kind: its tree, and the texts of its members."""

    tree: dict[str, Any]
    members: dict[str, Any]


class _Chat(msgspec.Struct, gc=False):
    """What most bodies are: messages, and members that are only read over."""

    messages: Annotated[list[Members], msgspec.Meta(min_length=1)]


_Role = Annotated[str, msgspec.Meta(max_length=128)]  # longer ones are not decoded here: they are no roles


class _Turn(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    role: _Role
    content: msgspec.Raw


class _Turns(msgspec.Struct, gc=False):
    messages: Annotated[list[_Turn], msgspec.Meta(min_length=1)]


class _Parted(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    role: _Role
    content: Annotated[list[Members], msgspec.Meta(min_length=1)]


class _PartedChat(msgspec.Struct, gc=False):
    messages: Annotated[list[_Parted], msgspec.Meta(min_length=1)]


class _Read(NamedTuple):
    """Messages as they were read: what is to be grown of them, and what they would be as text."""

    messages: list[Any]
    grown: Table
    depth: int
    size: int
    pieces: Iterator[Piece]


def chat(grower: Grower) -> Steps[Chat | None]:
    """The tree of a body and the texts of its members, from one look at it; None where it is not of the usual kind.

    That is: an array of messages, written as encoders write it, and not too much around it. The decoder proves the
    whole to be JSON and tells what each message ends up as, but not where they stand. So that is guessed: from the
    first `"messages":` on, for as many bytes as they take if they hold nothing else. Then everything around them is
    read with a 0 in their place. That cannot be JSON if they go on behind the guess: what is read as text here is
    structure there, or a bracket is closed that was never opened.
    """
    body, glue = grower.body, grower.glue
    most = max(_LEAST_AROUND_BYTES, len(body) // 8)
    head = bytes(body[:most])
    name = _MESSAGES + glue.colon
    at = head.find(name) + len(name)
    if at < len(name):
        return None
    read = (yield from _alike(grower, at)) or (yield from _messages(grower))
    if read is None:
        return None
    messages, found, depth, size, pieces = read
    yield
    if at + size >= len(body) or at + len(body) - at - size > most:
        return None
    if not glue.compact and not (yield from all_true(stands(pieces, memoryview(body)[at:]))):
        return None
    around = b"0".join((head[:at], body[at + size :]))
    try:
        members = OBJECT.decode(around)
    except UNREADABLE:
        return None
    if bytes(members.get("messages", b"")) != b"0":
        return None  # it was a member of another object
    tree = yield from grower.root(around, members)
    yield from check_utf8(body)
    members["messages"] = msgspec.Raw(memoryview(body)[at : at + size])
    tree["messages"] = messages
    yield from grower.grow(found, depth)
    return Chat(tree, members)


def _messages(grower: Grower) -> Steps[_Read | None]:
    """Messages of any kind."""
    try:
        messages = _CHAT.decode(grower.body).messages
    except UNREADABLE:
        return None  # what is no JSON at all is told so by who reads any
    yield
    found, glue = table(messages), grower.glue
    return _Read(messages, found, grower.max_depth - 3, glue.array_size(found, 1, 1), glue.array_pieces(messages, 1))


def _alike(grower: Grower, at: int) -> Steps[_Read | None]:
    """Messages that all are a role and a text, or a role and parts: the one look tells more of those.

    Whether they are is guessed from a few of them, the first of which is behind `at`.
    """
    kind = _looks(grower, at)
    if kind is None:
        return None
    try:
        messages: list[Any] = (_PARTED_CHAT if kind == b"[" else _TURNS).decode(grower.body).messages
    except UNREADABLE:
        yield
        return None
    yield
    roles = [message.role for message in messages]
    contents = [message.content for message in messages]
    yield
    written = {role: _ENCODER.encode(role) for role in set(roles)}
    texts = list(map(written.__getitem__, roles))
    tree = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
    yield
    glue, rows, size = grower.glue, len(roles), sum(map(len, texts))
    if kind == b"[":
        found = table(list(chain.from_iterable(contents)))
        check_names(found.names)
        yield
        size += glue.array_size(found, rows, 3)
        depth, pieces = grower.max_depth - 5, glue.parted_pieces(texts, contents, found)
    else:
        found = Table(rows, 0, {"content": rows}, 0, [Column(tree, repeat("content"), contents)])
        size += sum(map(len, contents))
        depth, pieces = grower.max_depth - 3, glue.turns_pieces(texts, contents)
    whole = Table(rows, 0, {"role": rows, "content": rows}, size, ())
    return _Read(tree, found, depth, glue.array_size(whole, 1, 1), pieces)


def _looks(grower: Grower, at: int) -> bytes | None:
    """What the contents of some messages begin with, if they are all texts or all parts."""
    body, name, kind = grower.body, _CONTENT + grower.glue.colon, None
    for place in range(at, len(body), max(len(body) // _LOOKS, _LOOK_BYTES)):
        found = body.find(name, place, place + _LOOK_BYTES)
        begins = bytes(body[found + len(name) : found + len(name) + 1])
        if body.find(_TOOL, place, place + _LOOK_BYTES) >= 0:
            return None
        if place == at:
            if found < 0 or begins not in (b'"', b"[") or body.find(_ROLE, at, found) < 0:
                return None
            kind = begins
        elif found >= 0 and begins != kind:
            return None
    return kind


_CHAT = msgspec.json.Decoder(_Chat)
_TURNS = msgspec.json.Decoder(_Turns)
_PARTED_CHAT = msgspec.json.Decoder(_PartedChat)
_ENCODER = msgspec.json.Encoder()
