"""What encoders of JSON write between values, so that a text can be compared with what was read of it.

Here belong the few ways in which programs write JSON: compact, with a space behind commas and colons, or indented. An
object that is written so has no member but those that were read, each once; how any other text is proved to hold no
second member of a name stands in `largebody`, and what to read in `largetree`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, compress, islice, repeat
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec

Members = dict[str, msgspec.Raw]
Piece = bytes | msgspec.Raw
Row = Sequence[Piece]  # the text of an object, in pieces

_COMPARED = 262_144  # bytes put together to be compared: they stay in the processor's cache
_NAME = 64  # characters of a name that is kept
_COLUMNS = 32
_SHAPES = 64  # of objects, what stands in which is kept
_KINDS = 8
_GROUP = 96  # pieces whose size is looked at together
_PIECES = 4_096  # to be compared at once
#: No encoder writes more white space than that at one place; what does is not compared, lest it be multiplied.
_BEGIN = re.compile(rb'\s*\{(\s{0,16})"(?:[^"\\]|\\.)*+"(\s{0,2}:\s{0,2})(?!\s)')
_WIDEST = 128
_LINE = re.compile(rb"(\r\n?|\n)([ \t]*)")
_ENCODER = msgspec.json.Encoder()


class Column(NamedTuple):
    """Values by the objects that they belong to, and by their names there."""

    owners: Sequence[Members]
    names: Iterable[str]
    texts: Sequence[msgspec.Raw]


class Table(NamedTuple):
    """Objects that are mostly alike, by their members; those of one name and objects of one shape are a column."""

    rows: int
    empty: int  # rows without a member
    names: Mapping[str, int]  # how often each appears
    size: int  # bytes of all values
    columns: Sequence[Column]


def table(objects: Sequence[Members]) -> Table:
    """These objects by their members.

    What most bodies hold ten thousand times is a handful of shapes. Taking one member of all of them at once, in a few
    calls, is several times as fast as taking all members of one after the other.
    """
    names = list(objects[0]) if objects else []
    if 0 < len(names) <= _COLUMNS and set(map(len, objects)) == {len(names)}:  # to walk them costs more than all else
        flat: list[Any] = list(chain.from_iterable(chain.from_iterable(map(dict.items, objects))))
        step = 2 * len(names)
        if all(set(flat[2 * at :: step]) == {name} for at, name in enumerate(names)):
            alike = [Column(objects, repeat(name), flat[2 * at + 1 :: step]) for at, name in enumerate(names)]
            size = sum(sum(map(len, column.texts)) for column in alike)
            return Table(len(objects), 0, dict.fromkeys(names, len(objects)), size, alike)
    columns: list[Column] = []
    counts = Counter[str]()
    shapes: dict[tuple[str, ...], list[Members]] = {}
    for shape, one in zip(map(tuple, objects), objects, strict=True):
        some = shapes.get(shape)
        if some is None:
            some = shapes[shape] = []
        some.append(one)
    if len(shapes) <= _COLUMNS and max(map(len, shapes), default=0) <= _COLUMNS:
        for shape, some in shapes.items():
            values = list(chain.from_iterable(map(dict.values, some)))
            columns += [Column(some, repeat(name), values[at :: len(shape)]) for at, name in enumerate(shape)]
            counts.update(dict.fromkeys(shape, len(some)))
    else:
        keys, texts = list(chain.from_iterable(objects)), list(chain.from_iterable(map(dict.values, objects)))
        columns.append(Column([one for one in objects for _ in one], keys, texts))
        counts.update(keys)
    size = sum(sum(map(len, column.texts)) for column in columns)
    return Table(len(objects), len(shapes.get((), ())), counts, size, columns)


class _Leads(dict[str, bytes]):
    """What stands before the value of a member, by its name."""

    def __init__(self, before: bytes, colon: bytes) -> None:
        self.before, self.colon = before, colon

    def __missing__(self, name: str) -> bytes:
        lead = self.before + _ENCODER.encode(name) + self.colon
        if len(name) <= _NAME:
            self[name] = lead
        return lead


class Level(NamedTuple):
    """How objects at one level are written: before their first member and the others, their end, and between two."""

    first: _Leads
    other: _Leads
    end: bytes
    comma: bytes
    known: dict[tuple[str, ...], list[bytes]]  # what stands before each member of objects of one shape

    def row(self, members: Members) -> Row:
        """The text of an object in pieces."""
        if not members:
            return [b"{}"]
        row: list[Any] = list(chain.from_iterable(zip(self.leads(tuple(members)), members.values(), strict=True)))
        row.append(self.end)
        return row

    def leads(self, names: tuple[str, ...]) -> list[bytes]:
        """What stands before each member of an object of this shape."""
        found = self.known.get(names)
        if found is None:
            found = [self.first[names[0]], *map(self.other.__getitem__, names[1:])]
            if len(names) <= _COLUMNS and len(self.known) < _SHAPES and max(map(len, names)) <= _NAME:
                self.known[names] = found
        return found


@dataclass(frozen=True, slots=True)
class Glue:
    """How a text is written: what stands behind a comma, around a colon, and where lines end, how they are indented."""

    comma: bytes = b""
    colon: bytes = b":"
    line: bytes = b""
    indent: bytes = b""
    levels: dict[int, Level] = field(default_factory=dict, compare=False, repr=False)

    @property
    def compact(self) -> bool:
        """Whether the text could not be shorter, so that its length alone proves what it holds."""
        return self.colon == b":" and not self.comma and not self.line

    def turn(self, level: int) -> bytes:
        """What stands between a bracket and what it encloses at that level, or the other way round."""
        return self.line + self.indent * level if self.line else b""

    def next(self, level: int) -> bytes:
        """What stands between two values at that level."""
        return b"," + (self.turn(level) or self.comma)

    def size(self, table: Table, level: int) -> int:
        """The bytes of objects at that level that are written so, without what stands between them."""
        between = self.next(level + 1)
        around = 2 + len(self.turn(level + 1)) + len(self.turn(level)) - len(between)
        lead = len(self.colon) + len(between)
        return (
            table.size
            + sum((len(_ENCODER.encode(name)) + lead) * count for name, count in table.names.items())
            + (table.rows - table.empty) * around
            + table.empty * 2
        )

    def array_size(self, table: Table, arrays: int, level: int) -> int:
        """The same of so many arrays that hold these objects, each at least one."""
        between, around = len(self.next(level + 1)), len(self.turn(level + 1)) + len(self.turn(level)) + 2
        return self.size(table, level + 1) + (table.rows - arrays) * between + arrays * around

    def proves(self, texts: Sequence[msgspec.Raw], objects: Sequence[Members], level: int, *, arrays: bool) -> bool:
        """Whether the lengths of these texts prove that each holds one object at that level and no other member.

        Or, for `arrays`, an array of that one object. An object that is as long as if it were written so either is
        written so, or has less white space and something else instead: where all its white space is shorter than any
        member that could be there twice, it is the former.
        """
        shapes = list(map(tuple, objects))
        for shape in (kinds := set(shapes)):
            if len(kinds) > _KINDS or not 0 < len(shape) <= _COLUMNS:
                return False
            some, those = objects, texts
            if len(kinds) > 1:
                told = list(map(shape.__eq__, shapes))
                some, those = list(compress(objects, told)), list(compress(texts, told))
            keys = [len(_ENCODER.encode(name)) for name in shape]
            inner = level + 1 if arrays else level
            written = self.size(Table(1, 0, dict.fromkeys(shape, 1), 0, ()), inner)
            if arrays:
                written += len(self.turn(level + 1)) + len(self.turn(level)) + 2
            least = sum(keys) + 2 * len(keys) + (3 if arrays else 1)
            if written - least >= min(keys) + 3:
                return False
            values = [list(map(len, map(itemgetter(name), some))) for name in shape]
            if [written + size for size in map(sum, zip(*values, strict=True))] != list(map(len, those)):
                return False
        return True

    def wide(self, level: int) -> bool:
        """Whether lines at that level begin with so much space that text must not be made of it for every member."""
        return len(self.turn(level + 2)) > _WIDEST

    def at(self, level: int) -> Level:
        """How objects at that level are written."""
        found = self.levels.get(level)
        if found is None:
            first = _Leads(b"{" + self.turn(level + 1), self.colon)
            other = _Leads(self.next(level + 1), self.colon)
            found = self.levels[level] = Level(first, other, self.turn(level) + b"}", self.next(level), {})
        return found

    def array_pieces(self, objects: Sequence[Members], level: int) -> Iterator[Piece]:
        """The text of an array at that level that is written so and holds these objects, one at least."""
        end = self.turn(level) + b"]"
        return self._pieces(objects, level + 1, (b"[" + self.turn(level + 1), self.next(level + 1), end))

    def each(self, objects: Sequence[Members], level: int, *, arrays: bool) -> Iterator[Piece]:
        """The texts of objects at that level that are written so, or of arrays of one each, with nothing between."""
        if not arrays:
            return self._pieces(objects, level, (b"", b"", b""))
        begin, end = b"[" + self.turn(level + 1), self.turn(level) + b"]"
        return self._pieces(objects, level + 1, (begin, end + begin, end))

    def _pieces(self, objects: Sequence[Members], level: int, around: tuple[bytes, bytes, bytes]) -> Iterator[Piece]:
        """Objects at that level in pieces, and what is before, between and behind them."""
        begin, between, end = around
        write, shapes = self.at(level), set(map(tuple, objects))
        longest = max(map(len, chain.from_iterable(shapes)), default=0)
        if len(shapes) > _SHAPES or () in shapes or max(map(len, shapes)) > _COLUMNS or longest > _NAME:
            rows = chain.from_iterable((between, *write.row(members)) for members in objects)
            return chain((begin,), islice(rows, 1, None), (end,))
        leads = {shape: write.leads(shape) for shape in shapes}
        behind = {shape: [write.end + between + lead[0], *lead[1:]] for shape, lead in leads.items()}
        first = leads[tuple(objects[0])]
        each = chain(([begin + first[0], *first[1:]],), map(behind.__getitem__, map(tuple, objects[1:])))
        pairs = chain.from_iterable(map(zip, each, map(dict.values, objects)))
        return chain(chain.from_iterable(pairs), (write.end + end,))

    def turns_pieces(self, roles: Sequence[bytes], contents: Sequence[Piece]) -> Iterator[Piece]:
        """The text of messages that are a role and a content, written so."""
        write = self.at(2)
        role, content = write.first["role"], repeat(write.other["content"])
        first = chain((b"[" + self.turn(2) + role,), repeat(write.end + write.comma + role))
        rows = zip(first, roles, content, contents, strict=False)
        return chain(chain.from_iterable(rows), (write.end + self.turn(1) + b"]",))

    def parted_pieces(self, roles: Sequence[bytes], contents: Sequence[list[Members]], parts: Table) -> Iterator[Piece]:
        """The text of messages that are a role and parts, written so: `roles` as text, and all parts as a table."""
        return chain.from_iterable(self._parted_rows(roles, contents, parts))

    def _parted_rows(self, roles: Sequence[bytes], contents: Sequence[list[Members]], parts: Table) -> Iterator[Row]:
        write, part = self.at(2), self.at(4)
        role, content = write.first["role"], write.other["content"] + b"[" + self.turn(4)
        end = self.turn(3) + b"]" + write.end
        columns = parts.columns
        alike = len(columns) == len(parts.names) and all(len(column.texts) == parts.rows for column in columns)
        if columns and alike and parts.rows == len(contents):
            leads = part.leads(tuple(parts.names))
            pieces: list[Iterable[Any]] = [
                chain((b"[" + self.turn(2) + role,), repeat(write.comma + role)),
                roles,
                repeat(content + leads[0]),
                columns[0].texts,
            ]
            for lead, column in zip(leads[1:], columns[1:], strict=True):
                pieces += (repeat(lead), column.texts)
            yield from zip(*pieces, repeat(part.end + end), strict=False)
        else:
            between = b"[" + self.turn(2)
            for text, some in zip(roles, contents, strict=True):
                yield [between, role, text, content]
                comma = b""
                for members in some:
                    yield [comma, *part.row(members)]
                    comma = part.comma
                yield [end]
                between = write.comma
        yield [self.turn(1) + b"]"]


def glue_of(text: bytes) -> Glue:
    """How a text that begins so seems to be written; compact where that cannot be told."""
    begin = _BEGIN.match(text)
    if begin is None:
        return Glue()
    space, colon = begin.groups()
    line = _LINE.fullmatch(space)
    if line is not None:
        return Glue(colon=colon, line=line[1], indent=line[2])
    return Glue(b" " if colon.endswith(b" ") else b"", colon)


def stands(pieces: Iterator[Piece], view: memoryview) -> Iterator[bool]:
    """Whether `view` begins with these pieces, told for one stretch after another up to the first that differs."""
    at = held = 0
    some: list[Any] = []
    while group := list(islice(pieces, _GROUP)):
        some += group
        held += sum(map(len, group))
        if held <= _COMPARED and len(some) <= _PIECES:
            continue
        if held <= 2 * _COMPARED:
            yield _begins(view, at, b"".join(some))
            at += held
        else:
            for one in some:
                piece = memoryview(one)
                for start in range(0, len(piece), _COMPARED):
                    yield _begins(view, at + start, piece[start : start + _COMPARED])
                at += len(piece)
        some, held = [], 0
    yield _begins(view, at, b"".join(some))


def _begins(view: memoryview, at: int, text: bytes | memoryview) -> bool:
    part = view[at : at + len(text)]
    whole = text if isinstance(text, bytes) else bytes(text)  # `==` of views takes a step for every byte
    return len(part) == len(whole) and whole.startswith(part)
