"""YAML files that people write: read strictly, with the line of everything, and errors in one shape.

Here belongs the way from bytes to plain values: YAML 1.2 core schema, limits, and the cache of parsed files. What a
file may say belongs to the models in `gateway.config`, `gateway.catalog` and `gateway.core.policy`; what they complain
of is put into words in `gateway.problems`.

Scalars mean what YAML 1.2 says: `on`, `off`, `yes` and `no` are text, and so are dates such as 2026-11-21. Refused,
because they make a file mean something else than it seems to, or grow without bound: duplicate keys, anchors and
aliases, merge keys, tags, directives, several documents, keys that are not text, .inf and .nan, integers of more than
18 digits, more than 1 MiB, more than 50 levels, lines over 64 KiB, more than 100,000 values. The last three keep the
worst file at about three seconds (ruamel reads some 30,000 values a second).
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from gateway import compiled
from gateway.core.errors import ConfigError, Problem

MAX_BYTES = 1 << 20
MAX_DEPTH = 50
MAX_LINE_BYTES = 1 << 16
MAX_VALUES = 100_000
_CACHE_FROM_BYTES = 256  # ruamel needs some 15 ms for 4 KB, a cached file 0.1 ms

_READABLE = {errno.EISDIR: "a file, not a folder", errno.EACCES: "a file that this user may read"}

# A node of the line tree: its line, and where it has children, a node for each.
Lines = list[Any]  # [line] | [line, {key: Lines}] | [line, [Lines]]


class LineTree:
    """The lines of a file. Of a kept file it stays packed until something is wrong and a line is asked for."""

    __slots__ = ("_packed", "_root")

    def __init__(self, root: Lines | None, packed: bytes = b"") -> None:
        self._root = root
        self._packed = packed

    @property
    def root(self) -> Lines:
        """The top node."""
        if self._root is None:
            self._root = msgspec.msgpack.decode(self._packed, type=list[Any])
            self._packed = b""
        return self._root

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LineTree) and other.root == self.root

    __hash__ = None  # type: ignore[assignment]

    def packed(self) -> bytes:
        """The whole tree as it is kept."""
        return msgspec.msgpack.encode(self.root)


class _Kept(msgspec.Struct, array_like=True):
    """A parsed file as it is kept."""

    data: dict[str, Any]
    lines: bytes


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file: `data` is plain dicts, lists, str, int, float, bool and None; `sha256` is of its bytes."""

    name: str
    data: dict[str, Any]
    sha256: str
    lines: LineTree
    parts: Mapping[str, tuple[Document, str]] = field(default_factory=dict)  # paths that stand in another file

    def place(self, path: str | Sequence[str | int]) -> tuple[str, int]:
        """The file and line of a path, in whichever file it stands."""
        there, inside = self._there(path)
        return there.name, there.line(inside)

    def _there(self, path: str | Sequence[str | int]) -> tuple[Document, str | Sequence[str | int]]:
        if isinstance(path, str):
            for prefix, (other, inside) in self.parts.items():
                if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", ".", "["):
                    return other, inside + path[len(prefix) :]
        return self, path

    def line(self, path: str | Sequence[str | int]) -> int:
        """The 1-based line of a path such as `rules[2].use[0].model`; of its nearest parent where it does not exist.

        A key's line is where the key stands. Keys may contain dots: the longest key that fits is taken.
        """
        node = self.lines.root
        steps = _split(path, node) if isinstance(path, str) else path
        line = node[0]
        for step in steps:
            child = _child(node, step)
            if child is None:
                break
            node, line = child, child[0]
        return int(line)

    def problem(self, path: str | Sequence[str | int], what: str, valid: str = "") -> Problem:
        """A `Problem` at a path of this file, or of the one that the path really stands in."""
        there, inside = self._there(path)
        shown = inside if isinstance(inside, str) else dotted(inside)
        return Problem(there.name, there.line(inside), shown, what, valid)


def load(path: Path, *, cache_dir: Path | None = None) -> Document:
    """Read and parse one file. Raises `ConfigError` with every reason it can know.

    `cache_dir` holds parsed files by the hash of their text; it is used only while nobody else can write to it.
    """
    return parse(read(path), str(path), cache_dir)


def read(path: Path) -> bytes:
    """The bytes of a file that may be YAML: a regular one, not too large. Raises `ConfigError`."""
    name = str(path)
    try:
        # O_NONBLOCK: opening a FIFO for reading would wait for a writer for ever.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ConfigError([Problem(name, 0, "", "is not a regular file", "a YAML file")])
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        what = f"cannot be read: {error.strerror or error}"
        raise ConfigError([Problem(name, 0, "", what, _READABLE.get(error.errno or 0, ""))]) from None
    if len(raw) > MAX_BYTES:
        raise ConfigError([Problem(name, 0, "", "is larger than 1 MiB", "several smaller files")])
    return raw


def loads(text: str | bytes, name: str) -> Document:
    """Parse a text; `name` stands for the file in errors. Raises `ConfigError`."""
    return parse(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text, name)


def parse(raw: bytes, name: str, cache_dir: Path | None = None) -> Document:
    """Parse what `read` gave; `name` stands for the file in errors. Raises `ConfigError`."""
    if len(raw) > MAX_BYTES:
        raise ConfigError([Problem(name, 0, "", "is larger than 1 MiB", "several smaller files")])
    sha256 = hashlib.sha256(raw).hexdigest()
    key = compiled.key_of("yaml", sha256, code=("yamlfile.py",)) if len(raw) >= _CACHE_FROM_BYTES else ""
    kept = compiled.read(cache_dir, key, _Kept) if key else None
    if kept is not None:
        return Document(name, kept.data, sha256, LineTree(None, kept.lines))
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError([Problem(name, line, "", "is not UTF-8", "text in UTF-8")]) from None
    longest = max(raw.split(b"\n"), key=len)
    if len(longest) > MAX_LINE_BYTES:
        line = raw.count(b"\n", 0, raw.find(longest)) + 1
        raise ConfigError([Problem(name, line, "", "is longer than 64 KiB", "shorter lines")])
    data, root = _Builder(name).build(text.removeprefix("\ufeff"))
    lines = LineTree(root)
    if key:
        compiled.write(cache_dir, key, _Kept(data, lines.packed()))
    return Document(name, data, sha256, lines)


# --- from events to values -------------------------------------------------------------------------------------------

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_SURROGATES = re.compile("[\ud800-\udfff]")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


#: What ruamel says of the slips that people make most, and what they should have written. It has no types for them.
_SLIPS = (
    (r"found character '\t'", "spaces in place of tabs"),
    (r"found character '@'", 'quotes around what begins with @: "@general"'),
    ("that cannot start any token", "quotes around text that begins so"),
    ("expected alphabetic or numeric character", 'quotes around what begins with * or &: "*"'),
    ("expected <block end>", "the same indentation for all entries of a list, and for all keys of a mapping"),
    ("mapping values are not allowed here", "quotes around text that holds a colon and a space"),
    ("could not find expected ':'", "a colon and a space after each key"),
    ("expected ',' or ']'", "a comma between entries, and a ] at the end"),
    ("expected ',' or '}'", "a comma between members, and a } at the end"),
)


class _Builder:
    """Builds values from ruamel's events, checking every event before anything is made of it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.events: Iterator[Any] = iter(())
        self.values = 0

    def build(self, text: str) -> tuple[dict[str, Any], Lines]:
        # Imported here: a start with a warm cache never needs the parser, which costs more than the rest of this file.
        from ruamel.yaml import YAML  # noqa: PLC0415
        from ruamel.yaml.error import MarkedYAMLError, YAMLError  # noqa: PLC0415

        self.events = YAML(typ="safe", pure=True).parse(text)
        try:
            return self._document()
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            what = " ".join(str(error.problem or error.context or "not YAML").split())
            valid = next((valid for said, valid in _SLIPS if said in what), "")
            raise self._error(mark, f"is not YAML: {what}", valid) from None
        except (YAMLError, ValueError, IndexError, AttributeError, AssertionError, TypeError) as error:
            # ruamel lets a few of its own mistakes through on malformed text; for the reader they are all one thing.
            first = str(error).strip().partition("\n")[0]
            raise ConfigError([Problem(self.name, 0, "", f"is not YAML: {first}")]) from None

    def _document(self) -> tuple[dict[str, Any], Lines]:
        next(self.events)  # start of stream
        start = next(self.events)
        if type(start).__name__ == "StreamEndEvent":
            raise self._error(start.start_mark, "is empty", "a mapping of keys to values")
        if start.version or start.tags:
            raise self._error(start.start_mark, "has a % directive", "YAML 1.2 without directives")
        first = next(self.events)
        if type(first).__name__ != "MappingStartEvent":
            self._node(first, 0)  # may have a better complaint
            raise self._error(first.start_mark, "holds no keys", "a mapping of keys to values")
        data, lines = self._node(first, 0)
        next(self.events)  # end of document
        after = next(self.events)
        if type(after).__name__ != "StreamEndEvent":
            raise self._error(after.start_mark, "a second document", "one document per file")
        return data, lines

    def _node(self, event: Any, depth: int) -> tuple[Any, Lines]:
        kind = type(event).__name__
        line = event.start_mark.line + 1
        self.values += 1
        if self.values > MAX_VALUES:
            raise self._error(event.start_mark, f"holds more than {MAX_VALUES:,} values", "several smaller files")
        if kind == "AliasEvent" or event.anchor:
            raise self._error(event.start_mark, "anchors and aliases are refused", "the value written out")
        if event.tag:
            raise self._error(event.start_mark, f"the tag {event.tag!s:.60} is refused", "a plain value")
        if kind == "ScalarEvent":
            return self._scalar(event), [line]
        if depth >= MAX_DEPTH:
            raise self._error(event.start_mark, f"is nested deeper than {MAX_DEPTH} levels")
        if kind == "SequenceStartEvent":
            items, item_lines = [], []
            while type(item := next(self.events)).__name__ != "SequenceEndEvent":
                value, sub = self._node(item, depth + 1)
                items.append(value)
                item_lines.append(sub)
            return items, [line, item_lines]
        return self._mapping(line, depth)

    def _mapping(self, line: int, depth: int) -> tuple[dict[str, Any], Lines]:
        data: dict[str, Any] = {}
        lines: dict[str, Lines] = {}
        while type(event := next(self.events)).__name__ != "MappingEndEvent":
            key, _ = self._node(event, depth + 1)
            if not isinstance(key, str):
                shown = "null" if key is None else str(key).lower() if isinstance(key, bool) else str(key)
                number = isinstance(key, int | float) and not isinstance(key, bool)
                valid = "a key in quotes" + ("; numbers have no commas: 200000 or 200k" if number else "")
                raise self._error(event.start_mark, f"the key {shown:.60} is not text", valid)
            if key == "<<" and event.style is None:
                raise self._error(event.start_mark, "merge keys are refused", "the keys written out")
            if key in data:
                what = f"the key {key!r:.80} stands here a second time (first on line {lines[key][0]})"
                raise self._error(event.start_mark, what, "each key once")
            value, sub = self._node(next(self.events), depth + 1)
            sub[0] = event.start_mark.line + 1  # where the key stands is where a reader looks
            data[key], lines[key] = value, sub
        return data, [line, lines]

    def _scalar(self, event: Any) -> str | int | float | bool | None:
        text: str = event.value
        if event.style is not None:  # quoted or block: always text
            return text if text.isascii() or not _SURROGATES.search(text) else self._joined(event, text)
        if text in _WORDS:
            return _WORDS[text]
        if not text[0].isascii() or text[0].isalpha():
            return text
        if _INT.fullmatch(text):
            if len(text) > 18:
                raise self._error(event.start_mark, "has more than 18 digits", "quotes around it, if it is text")
            return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        if _NOT_FINITE.fullmatch(text):
            raise self._error(event.start_mark, f"{text} is not a number that can be counted with")
        if len(text) <= 40 and _FLOAT.fullmatch(text):
            number = float(text)
            if number in (float("inf"), float("-inf")):
                raise self._error(event.start_mark, f"{text} is too large", "quotes around it, if it is text")
            return number
        return text

    def _joined(self, event: Any, text: str) -> str:
        """Text with characters that are written as two escapes, as JSON has them."""
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise self._error(event.start_mark, "holds half of a character", "text in UTF-8") from None

    def _error(self, mark: Any, what: str, valid: str = "") -> ConfigError:
        return ConfigError([Problem(self.name, mark.line + 1 if mark else 0, "", what, valid)])


# --- paths -----------------------------------------------------------------------------------------------------------


def dotted(path: Iterable[str | int]) -> str:
    """A path as it is written in errors.

    >>> dotted(("rules", 2, "use", 0, "model"))
    'rules[2].use[0].model'
    """
    out = ""
    for step in path:
        out += f"[{step}]" if isinstance(step, int) else f".{step}" if out else step
    return out


def _child(node: Lines, step: str | int) -> Lines | None:
    children = node[1] if len(node) > 1 else None
    if isinstance(children, dict):
        return children.get(step)
    if isinstance(children, list) and isinstance(step, int) and 0 <= step < len(children):
        found: Lines = children[step]
        return found
    return None


def _split(path: str, node: Lines) -> list[str | int]:
    """Steps of a dotted path, read along the tree so that keys with dots in them are found."""
    steps: list[str | int] = []
    rest = path
    while rest:
        children = node[1] if len(node) > 1 else None
        index = re.match(r"\[([0-9]+)\]\.?", rest)
        step: str | int
        if index and isinstance(children, list):
            step, rest = int(index[1]), rest[index.end() :]
        elif isinstance(children, dict):
            fits = [one for one in children if rest.startswith(one) and rest[len(one) : len(one) + 1] in ("", ".", "[")]
            if not fits:
                break
            key = max(fits, key=len)
            step, rest = key, rest[len(key) :].removeprefix(".")
        else:
            break
        child = _child(node, step)
        if child is None:
            break
        steps.append(step)
        node = child
    return steps
