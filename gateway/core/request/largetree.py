"""The tree of a large body, grown in steps, with its texts left where they are.

Here belongs reading what is too large to be decoded in one piece: which parts are decoded, which stay views of the
body, and where a caller who must not be held up may pause. How a short piece is decoded is `wire`'s and is handed in;
what costs too much is refused by `largebody`. Every generator here yields at places where it may be left for a while:
no step takes longer than one look at the whole body, about 1 ms per MB of hostile text, a quarter of that of any other.

A large body is a few kinds of objects many times over. So whatever can be is done to all values of one level at once,
which takes a fraction of the time of one after the other.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, compress, pairwise, repeat
from operator import itemgetter, not_
from typing import Any, TypeAlias, TypeVar

import msgspec

from gateway.core.errors import BadRequest
from gateway.core.request.glue import Glue, Members, Table, glue_of, stands, table
from gateway.core.request.largebody import Body, check_members, check_names, check_numbers, skip_space

T = TypeVar("T")
Steps = Generator[None, None, T]

_BATCH_BYTES = 65_536
_SMALL_BYTES = 1_024  # an object or an array of up to this many is decoded, where not too much is in such
_TEXTS_PER_BATCH = 512
_MISSING = object()
_SCALARS = frozenset({str, int, float, bool, type(None)})
_UTF8_BYTES = 65_536  # decoded at once, to bound the memory that takes
_UTF8_PIECES = 64  # per step
_CONTAINERS_PER_STEP = 256
_TOGETHER, _TOGETHER_BYTES = 64, 524_288  # texts that are compared at once
_SHORT_BYTES = 128  # a value of up to this many is decoded: that takes no longer than to leave it where it is
# Every level around a large value reads over it once more: bytes of the body times levels that may hold large values,
# 8 of them at 64 MB, all at 8 MB.
_MAX_WORK = 536_870_912
_MAX_LEVELS = 8  # down to which values that are not large are left where they are as well
_QUOTE, _OPEN_OBJECT, _OPEN_ARRAY = b'"{['
_BYTE, _FIRST = struct.Struct("B"), itemgetter(0)


def finish(steps: Steps[T]) -> T:
    """Take all steps at once; what they come to."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            value: T = done.value
            return value


#: Where a value belongs, and its text: a dict and a name, or a list and a place in it.
_Slot: TypeAlias = "tuple[Any, Any, msgspec.Raw]"


@dataclass(frozen=True, slots=True)
class Grower:
    """How the tree of one body is grown.

    `decode` turns a short piece of JSON into a tree of at most so many levels and proves it free of duplicate keys.
    """

    body: Body
    whole_bytes: int  # a value of up to this many bytes may be decoded
    max_depth: int
    decode: Callable[[bytes, int], Any]
    too_deep: Callable[[], Any]  # raises
    glue: Glue
    short_bytes: int = _SHORT_BYTES  # one of more than that is left where it is as far as it is text

    @staticmethod
    def of(
        body: Body,
        whole_bytes: int,
        max_depth: int,
        decode: Callable[[bytes, int], Any],
        too_deep: Callable[[], Any],
    ) -> Grower:
        """How the tree of this body is grown."""
        return Grower(body, whole_bytes, max_depth, decode, too_deep, glue_of(bytes(body[:_BATCH_BYTES])))

    def tree(self, members: Members) -> Steps[dict[str, Any]]:
        """The decoded tree of any body, whose top-level members are given as text."""
        yield from check_utf8(self.body)
        yield
        return (yield from self.root(self.body, members))

    def root(self, text: Body, members: Members) -> Steps[dict[str, Any]]:
        """The tree of a text whose members are these."""
        check_names(members)
        if len(text) <= self.whole_bytes:
            whole = bytes(text)
            check_numbers(whole)
            tree: dict[str, Any] = self.decode(whole, self.max_depth)
            return tree
        view = memoryview(text)
        view = view[skip_space(view, 0) :]
        end = len(view) - len(view[-_BATCH_BYTES:]) + len(bytes(view[-_BATCH_BYTES:]).rstrip())
        yield from self._check(view[:end], members, self.max_depth)
        tree = members.copy()
        found = tree.pop("messages", None)
        # Outside of the messages nobody expects a text that is not decoded, but for very long ones.
        others = replace(self, short_bytes=self.whole_bytes)
        yield from others.grow(table([tree]), self.max_depth - 1)
        if found is not None:
            tree["messages"] = found
            yield from self._fill([tree], ["messages"], [found], self.max_depth - 1)
        return {name: tree[name] for name in members}

    def _check(self, text: memoryview, members: Members, depth: int) -> Steps[None]:
        """Refuse an object with a name in it twice."""
        glue, level = self.glue, self.max_depth - depth
        same = len(text) == glue.size(table([members]), level)
        if same and not glue.compact:
            same = yield from all_true(stands(iter(glue.at(level).row(members)), text))
        if not same:
            yield from check_members(text, members)

    def grow(self, objects: Table, depth: int) -> Steps[None]:
        """Puts trees in the place of the texts of all members of these objects."""
        for column in objects.columns:
            yield
            yield from self._fill(*column, depth)

    def _fill(
        self, owners: Sequence[Any], keys: Iterable[Any], texts: Sequence[msgspec.Raw], depth: int
    ) -> Steps[None]:
        """Puts trees of at most so many levels in the place of these texts, those of long strings as they are."""
        long = [len(text) > self.short_bytes for text in texts]
        if False in long:
            if True not in long:
                yield from self._decode(owners, keys, texts, depth)
                return
            some = list(zip(owners, keys, texts, strict=False))
            yield from self._decode(*_apart(compress(some, map(not_, long))), depth)
            owners, keys, texts = _apart(compress(some, long))
            yield
        kinds = bytes(map(_FIRST, map(_BYTE.unpack_from, texts)))
        yield
        if kinds.count(_QUOTE) == len(kinds):
            # Their escapes were validated when they were skipped, their UTF-8 with the whole body.
            return
        yield from self._sort(owners, keys, texts, kinds, depth)

    def _sort(
        self, owners: Sequence[Any], keys: Iterable[Any], texts: Sequence[msgspec.Raw], kinds: bytes, depth: int
    ) -> Steps[None]:
        """The same of texts of different kinds, none of them short."""
        rest: list[_Slot] = []
        slots = list(zip(owners, keys, texts, strict=False))
        level, most = self.max_depth - depth, max(map(len, texts))
        for kind, decoder in ((_OPEN_OBJECT, OBJECT), (_OPEN_ARRAY, _OBJECTS)):
            some = list(compress(slots, map(kind.__eq__, kinds))) if kind in kinds else []
            yield
            small = [slot for slot in some if len(slot[2]) <= _SMALL_BYTES]
            if small and sum(len(slot[2]) for slot in small) <= len(self.body) // 8:  # for of texts, it takes copies
                rest += small
                some = [slot for slot in some if len(slot[2]) > _SMALL_BYTES] if len(small) < len(some) else []
            if most > self.whole_bytes or level > _MAX_LEVELS:
                for slot in some:
                    self._weigh(len(slot[2]), depth)
                if level > _MAX_LEVELS:
                    rest += [slot for slot in some if len(slot[2]) <= self.whole_bytes]
                    some = [slot for slot in some if len(slot[2]) > self.whole_bytes]
            elif some and depth <= 0:
                self.too_deep()
            yield from self._containers(some, decoder, depth, rest)
        for slot, kind in zip(slots, kinds, strict=True):
            if kind not in (_QUOTE, _OPEN_OBJECT, _OPEN_ARRAY):
                if len(slot[2]) > self.whole_bytes:
                    raise BadRequest("invalid_json", "The request body holds a number that is out of range.")
                rest.append(slot)
        if rest:
            yield from self._decode(*_apart(rest), depth)

    def _weigh(self, size: int, depth: int) -> None:
        """Refuse what takes too long to read."""
        if depth <= 0 or (size > self.whole_bytes and (self.max_depth - depth) * len(self.body) > _MAX_WORK):
            self.too_deep()

    def _containers(
        self, slots: Sequence[_Slot], decoder: msgspec.json.Decoder[Any], depth: int, rest: list[_Slot]
    ) -> Steps[None]:
        """The same of texts that are all objects, or all arrays; those that are to be decoded are added to `rest`."""
        if not slots:
            return
        reads: list[Any] = []
        for first in range(0, len(slots), _CONTAINERS_PER_STEP):
            some = slots[first : first + _CONTAINERS_PER_STEP]
            try:
                reads += [decoder.decode(text) for _, _, text in some]
            except msgspec.ValidationError:  # not only objects in an array
                reads += [_read(text, decoder) for _, _, text in some]
            yield
        array, level = decoder is _OBJECTS, self.max_depth - depth
        grown, size = None, 0
        if self.glue.compact and None not in reads:
            grown = table([members for read in reads for members in read] if array else reads)
            yield
            size = self.glue.array_size(grown, len(reads), level) if array else self.glue.size(grown, level)
        if grown is None or size != sum(len(text) for _, _, text in slots) or [] in reads:
            grown = table((yield from self._proven_by_length(slots, reads, array, depth, rest)))
        else:
            for (owner, key, _), read in zip(slots, reads, strict=True):
                owner[key] = read
        yield
        check_names(grown.names)
        if array:
            depth -= 1
            if depth <= 0 and grown.rows:
                self.too_deep()
        yield from self.grow(grown, depth - 1)

    def _proven_by_length(
        self, slots: Sequence[_Slot], reads: Sequence[Any], array: bool, depth: int, rest: list[_Slot]
    ) -> Steps[list[Members]]:
        """`_proven`, which is only asked about texts whose length leaves a doubt."""
        single = [read is not None and (not array or len(read) == 1) for read in reads]
        if True not in single:
            return (yield from self._proven(slots, reads, array, depth, rest))
        some, those = list(compress(slots, single)), list(compress(reads, single))
        objects: list[Members] = [read[0] for read in those] if array else those
        check_names(set(chain.from_iterable(objects)))
        if len(slots) > _CONTAINERS_PER_STEP:
            yield
        level = self.max_depth - depth
        proven = self.glue.proves([text for _, _, text in some], objects, level, arrays=array)
        told = [proven] * len(some)
        if not proven and not self.glue.wide(level):
            told = yield from self._compared([text for _, _, text in some], objects, level, arrays=array)
        for (owner, key, _), read in compress(zip(some, those, strict=True), told):
            owner[key] = read
        if len(some) == len(slots) and False not in told:
            return objects
        known = iter(told)
        left = [not one or not next(known) for one in single]
        others = yield from self._proven(list(compress(slots, left)), list(compress(reads, left)), array, depth, rest)
        return list(compress(objects, told)) + others

    def _compared(
        self, texts: Sequence[msgspec.Raw], objects: Sequence[Members], level: int, *, arrays: bool
    ) -> Steps[list[bool]]:
        """Whether each of these texts is how its object is written, or an array of it, as far as many at once tell.

        A text ends where its last bracket does, so some in a row are the same only where each is.
        """
        told: list[bool] = []
        for first in range(0, len(texts), _TOGETHER):
            some = texts[first : first + _TOGETHER]
            size, same = sum(map(len, some)), False
            if size <= _TOGETHER_BYTES:
                pieces = list(self.glue.each(objects[first : first + _TOGETHER], level, arrays=arrays))
                same = sum(map(len, pieces)) == size and b"".join(pieces) == b"".join(some)
                yield
            told += [same] * len(some)
        return told

    def _proven(
        self, slots: Sequence[_Slot], reads: Sequence[Any], array: bool, depth: int, rest: list[_Slot]
    ) -> Steps[list[Members]]:
        """Puts what was read of texts in their place where that is all they hold; the objects in it."""
        glue, level = self.glue, self.max_depth - depth
        row, objects, wide = glue.at(level).row, list[Members](), glue.wide(level)
        items: list[_Slot] = []
        for number, (slot, read) in enumerate(zip(slots, reads, strict=True)):
            owner, key, text = slot
            if number % _CONTAINERS_PER_STEP == 0:
                yield
            if array and (wide or not read):
                items += self._items(slot, rest)
                continue
            if wide:
                same = False
            elif len(text) <= self.whole_bytes:
                whole = list(glue.array_pieces(read, level) if array else row(read))
                same = sum(map(len, whole)) == len(text) and b"".join(whole).startswith(text)
            else:
                check_names(chain.from_iterable(read) if array else read)
                size = glue.array_size(table(read), 1, level) if array else glue.size(table([read]), level)
                same = size == len(text)
                if same and not glue.compact:
                    pieces = glue.array_pieces(read, level) if array else iter(row(read))
                    same = yield from all_true(stands(pieces, memoryview(text)))
            if not same and array:
                items += self._items(slot, rest)
                continue
            if not same and len(text) <= _SMALL_BYTES:
                rest.append(slot)
                continue
            if not same:
                check_names(read)
                yield from check_members(memoryview(text), read)
            owner[key] = read
            objects += read if array else [read]
        if items:
            yield
            yield from self._fill(*_apart(items), depth - 1)
        return objects

    def _items(self, slot: _Slot, rest: list[_Slot]) -> list[_Slot]:
        """What an array holds that is no object by object, or is written in its own way; a small one is decoded.

        Decoded, a text of which one character is no ASCII takes up to four times its bytes.
        """
        owner, key, text = slot
        if len(text) <= _SMALL_BYTES:
            rest.append(slot)
            return []
        items = owner[key] = _ARRAY.decode(text)
        return [(items, at, item) for at, item in enumerate(items)]

    def _decode(
        self, owners: Sequence[Any], keys: Iterable[Any], texts: Sequence[msgspec.Raw], depth: int
    ) -> Steps[None]:
        """Puts the trees of short texts in their place: decoded in batches, as an array is cheaper.

        A batch is small enough for the copies that are made of it to stay in the processor's cache.
        """
        names, value, many = iter(keys), _MISSING, b""
        if max(map(len, texts)) <= _SHORT_BYTES:
            ends = list(range(0, len(texts), _TEXTS_PER_BATCH))
            if len(texts) > 2 and bytes(texts[0]) == bytes(texts[1]) == bytes(texts[-1]):
                value = self.decode(b"[%b]" % bytes(texts[0]), depth + 1)[0]
                many = b",".join([texts[0]] * min(len(texts), _TEXTS_PER_BATCH))
        else:
            ends, room = [], 0
            for at, size in enumerate(map(len, texts)):
                room -= size
                if room < 0:
                    ends.append(at)
                    room = _BATCH_BYTES - size
        for first, end in pairwise([*ends, len(texts)]):
            text = b",".join(texts[first:end])
            if type(value) in _SCALARS and text == many[: (end - first) * (len(texts[0]) + 1) - 1]:
                values: Iterable[Any] = repeat(value)
            else:
                text = b"[%b]" % text
                check_numbers(text)
                try:
                    values = _PLAIN.decode(text)  # which can hold no key twice
                except msgspec.ValidationError:
                    values = self.decode(text, depth + 1)
            for owner, key, one in zip(owners[first:end], names, values, strict=False):
                owner[key] = one
            yield


def _read(text: msgspec.Raw, decoder: msgspec.json.Decoder[Any]) -> Any:
    try:
        return decoder.decode(text)
    except msgspec.ValidationError:
        return None


def _apart(slots: Iterable[_Slot]) -> tuple[Sequence[Any], Sequence[Any], Sequence[msgspec.Raw]]:
    """Owners, keys and texts of some slots."""
    owners, keys, texts = zip(*slots, strict=True)
    return owners, keys, texts


def all_true(told: Iterable[bool]) -> Steps[bool]:
    """Whether all of these are true, in as many steps."""
    for one in told:
        if not one:
            return False
        yield
    return True


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


UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
OBJECT: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, msgspec.Raw])
_PLAIN = msgspec.json.Decoder(list[str | int | float | bool | None])
_ARRAY: msgspec.json.Decoder[list[msgspec.Raw]] = msgspec.json.Decoder(list[msgspec.Raw])
_OBJECTS: msgspec.json.Decoder[list[Members]] = msgspec.json.Decoder(list[Members])
