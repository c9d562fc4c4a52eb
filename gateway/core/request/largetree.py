"""The tree of a large body, grown in steps, with its long texts left where they are.

Here belongs reading what is too large to be decoded in one piece: which parts are decoded, which stay views of the
body, and where a caller who must not be held up may pause. How a short piece is decoded is `wire`'s and is handed in;
what costs too much is refused by `largebody`. Every generator here yields at places where it may be left for a while:
no step takes longer than one look at the whole body, about 1 ms per MB of hostile text, a quarter of that of any other.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, TypeVar

import msgspec

from gateway.core.errors import BadRequest
from gateway.core.request.largebody import Body, check_names, check_numbers, item_places, places, skip_space
from gateway.core.text.longtext import LongText

T = TypeVar("T")
Steps = Generator[None, None, T]

_BATCH_BYTES = 65_536
_UTF8_BYTES = 65_536  # decoded at once, to bound the memory that takes
_UTF8_PIECES = 64  # per step
_TURNS_PER_STEP = 2_000
_MESSAGES = b'"messages":'
_PARTS_BYTES = 512  # of parts that are left where they are; shorter ones are decoded more quickly than looked at
_AROUND_BYTES = 65_536  # before them, and behind them, of a usual body
# Every level around a large value reads over it once more: bytes of the body times levels that may hold large values,
# 8 of them at 64 MB, all at 8 MB.
_MAX_WORK = 536_870_912
_SPACE, _QUOTE, _OPEN_OBJECT, _OPEN_ARRAY = b' "{['


def finish(steps: Steps[T]) -> T:
    """Take all steps at once; what they come to."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            value: T = done.value
            return value


class Chat(NamedTuple):
    """A body of the usual kind. `plain`: its messages hold a role and a text each, and nothing else."""

    tree: dict[str, Any]
    members: dict[str, Any]
    plain: bool


#: How long some messages are, whether they are plain, and what makes their tree.
_Read: TypeAlias = "tuple[int, bool, Steps[list[Any]]]"


class _Turn(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """What most messages are, in the order in which everybody writes it."""

    role: Annotated[str, msgspec.Meta(min_length=1)]
    content: msgspec.Raw


_ABSENT = msgspec.Raw()


class _Step(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """What messages are around calls of tools, and of clients that send parts."""

    role: Annotated[str, msgspec.Meta(min_length=1)]
    content: msgspec.Raw = _ABSENT
    tool_calls: msgspec.Raw = _ABSENT
    tool_call_id: msgspec.Raw = _ABSENT
    name: msgspec.Raw = _ABSENT
    refusal: msgspec.Raw = _ABSENT
    reasoning_content: msgspec.Raw = _ABSENT


class _Part(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    type: Literal["text"]
    text: msgspec.Raw


class _Chat(msgspec.Struct, gc=False):
    """What most bodies are: such messages, and members that are only read over."""

    messages: Annotated[list[_Turn], msgspec.Meta(min_length=1)]


class _Course(msgspec.Struct, gc=False):
    """The same with calls of tools."""

    messages: Annotated[list[_Step], msgspec.Meta(min_length=1)]


@dataclass(frozen=True, slots=True)
class Grower:
    """How the tree of one body is grown.

    `decode` turns a short piece of JSON into a tree of at most so many levels and proves it free of duplicate keys.
    """

    body: Body
    whole_bytes: int  # a value of up to this many bytes is decoded
    max_depth: int
    decode: Callable[[bytes, int], Any]
    too_deep: Callable[[], Any]  # raises

    def chat(self) -> Steps[Chat | None]:
        """The tree of a body and the texts of its members, from one look at it; None where it is not of the usual kind.

        That is: messages of a role and a text each, or with calls of tools, and around them no more than what is
        decoded in one piece. The decoder proves the whole to be JSON and tells what each message ends up as, but not
        where they stand. So that is guessed: from the first `"messages":` on, for as many bytes as such messages take
        that hold nothing else. Then everything around them is read with a 0 in their place. That cannot be JSON if they
        go on behind the guess: what is read as text here is structure there, or a bracket is closed that was never
        opened.
        """
        body = self.body
        head = bytes(body[:_AROUND_BYTES])
        at = head.find(_MESSAGES) + len(_MESSAGES)
        space = b" " if head.startswith(b" ", at) else b""
        at += len(space)
        if at < len(_MESSAGES) or not head.startswith(b'[{"role":' + space, at):
            return None
        turns = _messages(body)
        yield
        if turns is None:
            return None  # what is no JSON at all is told so by who reads any
        read = (yield from self._plain(at, turns)) or (None if space else (yield from self._course(turns)))
        if read is None:
            return None
        size, plain, grow = read
        if len(body) - at - size > _AROUND_BYTES:
            return None
        around = b"0".join((head[:at], body[at + size :]))
        try:
            members = _OBJECT.decode(around)
        except _UNREADABLE:
            return None
        if bytes(members.get("messages", b"")) != b"0":
            return None  # it was a member of another object
        check_names(members)
        check_numbers(around)
        tree: dict[str, Any] = self.decode(around, self.max_depth)
        yield
        yield from check_utf8(body)
        members["messages"] = msgspec.Raw(memoryview(body)[at : at + size])
        tree["messages"] = yield from grow
        return Chat(tree, members, plain)

    def _plain(self, at: int, turns: Sequence[_Turn | _Step]) -> Steps[_Read | None]:
        """The length of messages of a role and a text each, and what makes their tree."""
        if type(turns[0]) is not _Turn:
            return None
        views = [memoryview(turn.content) for turn in turns]
        size = yield from self._size(at, turns, views)
        return None if size is None else (size, True, _texts(turns, views))

    def _course(self, steps: Sequence[_Turn | _Step]) -> Steps[_Read | None]:
        """The same for messages with calls of tools, without spaces: their texts are left where they are, what is short
        beside them is decoded, and where that is not short this is given up.
        """
        roles = {role: len(_ENCODER.encode(role)) + len('{"role":},') for role in {step.role for step in steps}}
        size = 1
        trees: list[Any] = []
        owners: list[tuple[dict[str, Any], str]] = []
        values: list[msgspec.Raw] = []
        for step in steps:
            role, *texts = msgspec.structs.astuple(step)
            tree: dict[str, Any] = {"role": role}
            size += roles[role]
            for name, room, text in zip(_STEP_NAMES, _STEP_ROOM, texts, strict=False):
                if not text:
                    continue
                size += len(text) + room
                found = _left(text) if name == "content" else None
                if found is not None:
                    tree[name] = found
                elif len(text) > self.whole_bytes:
                    return None
                else:
                    owners.append((tree, name))
                    values.append(text)
            trees.append(tree)
            if len(trees) % _TURNS_PER_STEP == 0:
                yield
        return size, False, self._filled(trees, owners, values)

    def _filled(
        self, trees: list[Any], owners: Sequence[tuple[dict[str, Any], str]], values: list[msgspec.Raw]
    ) -> Steps[list[Any]]:
        """The trees of messages, some members of which are not decoded yet."""
        decoded = yield from self._all(values, [0] * len(values), self.max_depth - 3)
        for (tree, name), value in zip(owners, decoded, strict=True):
            tree[name] = value
        return trees

    def tree(self, members: dict[str, Any]) -> Steps[dict[str, Any]]:
        """The decoded tree of any body, whose top-level members are given as text."""
        yield from check_utf8(self.body)
        check_names(members)
        yield
        begin = skip_space(self.body, 0)
        starts = yield from places(self.body, begin, len(self.body) - begin, members)
        yield
        values = yield from self._all(list(members.values()), starts, self.max_depth - 1)
        return dict(zip(members, values, strict=True))

    def _all(self, values: list[msgspec.Raw], starts: list[int], depth: int) -> Steps[list[Any]]:
        """The trees of some values that start at `starts`: the short ones decoded in batches, as an array is cheaper.

        A batch is small enough for the copies that are made of it to stay in the processor's cache.
        """
        trees: list[Any] = []
        batch: list[msgspec.Raw] = []
        held = 0
        for value, at in zip(values, starts, strict=True):
            size = len(memoryview(value))
            if size <= self.whole_bytes:
                batch.append(value)
                held += size
                if held <= _BATCH_BYTES:
                    continue
            if batch:
                trees += self._batch(batch, depth)
                batch, held = [], 0
                yield
            if size > self.whole_bytes:
                trees.append((yield from self._one(at, value, depth)))
        return trees + self._batch(batch, depth) if batch else trees

    def _batch(self, values: list[msgspec.Raw], depth: int) -> list[Any]:
        text = b"".join((b"[", b",".join(values), b"]"))
        check_numbers(text)
        trees: list[Any] = self.decode(text, depth + 1)
        return trees

    def _one(self, at: int, value: msgspec.Raw, depth: int) -> Steps[Any]:
        """The tree of a value of more than `whole_bytes` that starts at `body[at]`."""
        body = self.body
        if depth <= 0 or (body[at] != _QUOTE and (self.max_depth - depth) * len(body) > _MAX_WORK):
            self.too_deep()
        kind = body[at]
        if kind == _QUOTE:  # its escapes were validated when it was skipped, its UTF-8 with the whole body
            return LongText(memoryview(value))
        if kind == _OPEN_OBJECT:
            members = _OBJECT.decode(value)
            yield
            check_names(members)
            starts = yield from places(body, at, len(memoryview(value)), members)
            yield
            values = yield from self._all(list(members.values()), starts, depth - 1)
            return dict(zip(members, values, strict=True))
        if kind == _OPEN_ARRAY:
            if depth > 1 and body[at + 1 : at + 8] == b'{"role"':
                turns = yield from self._turns(at, value)
                if turns is not None:
                    return turns
            items = _ARRAY.decode(value)
            yield
            starts = yield from item_places(body, at, items)
            yield
            return (yield from self._all(items, starts, depth - 1))
        raise BadRequest("invalid_json", "The request body holds a number that is out of range.")

    def _turns(self, at: int, value: msgspec.Raw) -> Steps[list[Any] | None]:
        """The tree of an array at `body[at]` that holds nothing but a role and a text in each item; None for any other.

        The texts are not decoded. That no item holds more than was read of it is proved: of compact text by its length,
        for a second `content` or a needless escape only makes it longer; of text with spaces where `json.dumps` puts
        them by walking along it. Written otherwise, it is given up.
        """
        try:
            turns = _TURNS.decode(value)
        except msgspec.ValidationError:
            return None
        yield
        views = [memoryview(turn.content) for turn in turns]
        size = yield from self._size(at, turns, views)
        if size != len(memoryview(value)):
            return None
        return (yield from _texts(turns, views))

    def _size(self, at: int, turns: Sequence[_Turn | _Step], views: Sequence[memoryview]) -> Steps[int | None]:
        """The bytes of an array at `body[at]` that is read as these turns, if each holds just a role and a text.

        Of compact text the least it can have: a second `content` or a needless escape takes room. Text with spaces
        where `json.dumps` puts them is walked along. None where a content is no text, and where spaces are elsewhere.
        """
        if any(view[0] != _QUOTE for view in views):
            return None
        space = b" " if self.body[at + len('[{"role":')] == _SPACE else b""
        leads = {
            role: b'{"role":%b%b,%b"content":%b' % (space, _ENCODER.encode(role), space, space)
            for role in {turn.role for turn in turns}
        }
        yield
        if not space:
            return sum(map(len, views)) + sum(len(leads[turn.role]) + 2 for turn in turns) + 1
        return (yield from self._walked(at, [leads[turn.role] for turn in turns], views))

    def _walked(self, at: int, leads: Sequence[bytes], views: Sequence[memoryview]) -> Steps[int | None]:
        """The bytes from `body[at]` on in which these beginnings stand, each behind the last by the length of its text.

        A message that holds more than that leaves the walk behind: the text that it is read as is still ahead, as that
        of every message after it will be, so that the walk cannot come to the end of the array. Nor does it go on
        inside of a text, for there `"role"` would end it.
        """
        body = self.body
        begin, at = at, at + 1
        for left, lead, view in zip(range(len(views) - 1, -1, -1), leads, views, strict=True):
            text = at + len(lead)
            if body[at:text] != lead:
                return None
            at = text + len(view)
            end = b"}, " if left else b"}]"
            if body[at : at + len(end)] != end:
                return None
            at += len(end)
            if left % _TURNS_PER_STEP == 0:
                yield
        return at - begin


def _messages(body: Body) -> Sequence[_Turn | _Step] | None:
    """The messages of a body, if they are of the usual kinds."""
    for decoder in (_CHAT, _COURSE):
        try:
            return decoder.decode(body).messages
        except _UNREADABLE:
            continue
    return None


def _left(content: msgspec.Raw) -> LongText | list[Any] | None:
    """A content that is a text or text parts, left where it is; None of any other, and of parts that hold more."""
    view = memoryview(content)
    if view[0] == _QUOTE:
        return LongText(view)
    if view[0] != _OPEN_ARRAY or len(view) < _PARTS_BYTES:
        return None
    try:
        views = [memoryview(part.text) for part in _PARTS.decode(content)]
    except _UNREADABLE:
        return None
    if sum(map(len, views)) + len(views) * len('{"type":"text","text":},') + 1 != len(view):
        return None
    if any(text[0] != _QUOTE for text in views):
        return None
    return [{"type": "text", "text": LongText(text)} for text in views]


def _texts(turns: Sequence[_Turn | _Step], views: Sequence[memoryview]) -> Steps[list[Any]]:
    """The tree of messages whose texts are left where they are."""
    trees: list[Any] = []
    for first in range(0, len(turns), _TURNS_PER_STEP):
        some = slice(first, first + _TURNS_PER_STEP)
        pairs = zip(turns[some], views[some], strict=True)
        trees += [{"role": turn.role, "content": LongText(view)} for turn, view in pairs]
        yield
    return trees


def check_utf8(body: Body) -> Steps[None]:
    """Raise UnicodeDecodeError for what is no UTF-8: msgspec checks the escapes of strings it skips, but not that."""
    view, at, pieces = memoryview(body), 0, 0
    while at < len(body):
        end = min(len(body), at + _UTF8_BYTES)
        while end < len(body) and body[end] & 0xC0 == 0x80 and end > at + _UTF8_BYTES - 6:
            end -= 1
        str(view[at:end], "utf-8")
        at = end
        pieces += 1
        if pieces % _UTF8_PIECES == 0:
            yield


def in_pieces(parts: Sequence[Any], longest: int) -> list[bytes | memoryview]:
    """Some texts as few pieces: long ones as views of where they are, the short ones between joined."""
    pieces: list[bytes | memoryview] = []
    short: list[Any] = []
    for part in parts:
        view = memoryview(part)
        if len(view) <= longest:
            short.append(part)
            continue
        if short:
            pieces.append(b"".join(short))
            short = []
        pieces.append(view)
    if short:
        pieces.append(b"".join(short))
    return pieces


_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_ENCODER = msgspec.json.Encoder()
_OBJECT: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ARRAY: msgspec.json.Decoder[list[msgspec.Raw]] = msgspec.json.Decoder(list[msgspec.Raw])
_CHAT: msgspec.json.Decoder[_Chat | _Course] = msgspec.json.Decoder(_Chat)
_COURSE: msgspec.json.Decoder[_Chat | _Course] = msgspec.json.Decoder(_Course)
_PARTS = msgspec.json.Decoder(list[_Part])
_STEP_NAMES = _Step.__struct_fields__[1:]
_STEP_ROOM = tuple(len(f',"{name}":') for name in _STEP_NAMES)
_TURNS = msgspec.json.Decoder(list[_Turn])
