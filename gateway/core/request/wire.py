"""The request on the wire: bytes to one checked Envelope, and the Envelope back to the bytes that are sent upstream.

Here belongs everything about JSON as text: strictness (one meaning per body, so that no parser behind us can read
another), and re-emitting. The types of the members that routing reads are the business of `members`, what a member
*means* that of `signals`, what an upstream wants instead of it that of `dialects`.

A body is refused unless every JSON parser must agree on it: valid UTF-8, no duplicate key at any depth, no NaN, no lone
surrogate, no trailing bytes, at most `MAX_DEPTH` levels. What is authorised is what is sent: `emit` writes the members
that `parse` accepted, each with the client's own text, so that no digit of a number is lost.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

import msgspec

from gateway.core.errors import BadRequest
from gateway.core.request.largebody import Body, check_count, duplicate
from gateway.core.request.largechat import chat
from gateway.core.request.largetree import Grower, Steps, finish, in_pieces
from gateway.core.request.members import check, is_usual

#: Levels of arrays and objects, the body itself being the first. JSON schemas of real tools stay under 20.
MAX_DEPTH = 64
#: Up to this many bytes JSON is decoded in one piece; beyond, long strings stay undecoded as `LongText`.
WHOLE_BYTES = 131_072

_SHALLOW_DEPTH = 8
_PIECE_BYTES = 65_536  # a member longer than this is sent from where it is in a large body

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

Member = msgspec.Raw | bytes


class Envelope(msgspec.Struct, eq=False, gc=False):
    """One parsed request: what routing reads of it, and its top-level members as the client wrote them."""

    model_asked: str
    stream: bool
    include_usage: bool
    choices: int  # `n`
    body: Body
    size: int  # bytes
    messages: bytes | None = None  # their text, where the body was read by its likeness to another, see `likeness`
    user: bytes | None = None  # the text of that member, where it may be another than in the other body
    decoded: dict[str, Any] | None = None
    cut: dict[str, Member] | None = None

    @staticmethod
    def of(tree: dict[str, Any], body: Body, members: dict[str, Member] | None = None) -> Envelope:
        """The Envelope of a body whose decoded members are `tree`."""
        options = tree.get("stream_options")
        return Envelope(
            tree["model"],
            tree.get("stream") is True,
            options is not None and options.get("include_usage") is True,
            tree.get("n") or 1,
            body,
            len(body),
            decoded=tree,
            cut=members,
        )

    @property
    def tree(self) -> dict[str, Any]:
        """The decoded members, for reading."""
        tree = self.decoded
        if tree is None:
            tree = self.decoded = _ANY.decode(self.body)
        return tree

    def get(self, name: str) -> Any:
        """The decoded member, or None where it is missing or null. Strings of over 128 KiB are `LongText`."""
        return self.tree.get(name)

    @property
    def members(self) -> dict[str, Member]:
        """Name -> JSON text, in the client's order. The texts belong to the body and are never edited in place."""
        cut = self.cut
        if cut is None:
            cut = self.cut = _OBJECT.decode(self.body)
        return cut

    @property
    def quick_tokens(self) -> int:
        """An upper bound of the prompt in tokens, for any tokenizer, where all content is text.

        Every text is part of the body, and no template takes more per message than a message's own JSON.
        """
        return quick_tokens(self.size)

    def __repr__(self) -> str:
        return f"Envelope({self.size} bytes, stream={self.stream})"  # no text of the client


def quick_tokens(body_bytes: int) -> int:
    """`Envelope.quick_tokens` of a body of so many bytes."""
    return body_bytes * 3 // 2 + 1_024


def largest_body(tokens: int) -> int:
    """The most bytes of a body whose `quick_tokens` are at most so many.

    >>> quick_tokens(largest_body(8_000)), quick_tokens(largest_body(8_000) + 1)
    (8000, 8002)
    """
    return (2 * (tokens - 1_024) + 1) // 3


def parse(body: bytes | bytearray) -> Envelope:
    """The Envelope of a chat completion request. HOT.

    Raises BadRequest: `invalid_json` where the bytes are not one unambiguous JSON object, `bad_request` with `param`
    where a member that routing reads has the wrong type. Never raises anything else, whatever the bytes.

    >>> parse(b'{"model":"auto","messages":[{"role":"user","content":"hi"}]}').model_asked
    'auto'
    """
    if len(body) > WHOLE_BYTES:
        return finish(parse_steps(body))
    try:
        tree = _whole(body, MAX_DEPTH)
        if type(tree) is not dict:
            _OBJECT.decode(body)
    except _UNREADABLE as error:
        try:
            _OBJECT.decode(body)  # that it is no object comes first
        except _UNREADABLE as first:
            raise _refused(first) from None
        raise _refused(error) from None
    if not is_usual(body):
        check(tree)
    return Envelope.of(tree, body)


def parse_steps(body: Body) -> Steps[Envelope]:
    """`parse` for a large body, in steps between which a caller may do something else."""
    try:
        yield from check_count(body)
        yield
        grower = Grower.of(body, WHOLE_BYTES, MAX_DEPTH, _whole, _too_deep)
        read = yield from chat(grower)
        if read is not None:
            tree, members = read
        else:
            members = _OBJECT.decode(body)
            yield
            tree = yield from grower.tree(members)
    except _UNREADABLE as error:
        raise _refused(error) from None
    yield
    check(tree)
    return Envelope.of(tree, body, members)


def _refused(error: Exception) -> BadRequest:
    """What a client is told of text that is not one plain JSON object."""
    if isinstance(error, msgspec.ValidationError):
        if "Expected `object`" in str(error):
            return BadRequest("invalid_json", "The request body must be one JSON object.")
        return BadRequest("invalid_json", "The request body holds a number that is out of range.")
    if isinstance(error, msgspec.DecodeError):
        return BadRequest("invalid_json", f"The request body is not valid JSON{_place(error)}.")
    if isinstance(error, UnicodeDecodeError):
        return BadRequest("invalid_json", "The request body is not valid UTF-8.")
    return _depth_error()


def emit(envelope: Envelope, overrides: Mapping[str, bytes | None]) -> bytes:
    """The body to send: the client's members, with some replaced or added (JSON text) or dropped (None). HOT.

    >>> e = parse(b'{"model":"auto", "messages":[{"role":"user","content":"hi"}], "seed":7}')
    >>> emit(e, {"model": b'"qwen"', "seed": None, "stream": b"true"})
    b'{"model":"qwen","messages":[{"role":"user","content":"hi"}],"stream":true}'
    """
    if envelope.size > WHOLE_BYTES:
        return b"".join(emit_pieces(envelope, overrides))
    edited = _edited(envelope, overrides)
    if edited is not None:
        return edited
    members = envelope.members.copy()
    for name, value in overrides.items():
        if value is None:
            members.pop(name, None)
        else:
            members[name] = msgspec.Raw(value)
    return _ENCODER.encode(members)


def _edited(envelope: Envelope, overrides: Mapping[str, bytes | None]) -> bytes | None:
    """The client's own text with another model in front and members added behind; None where that is not all. HOT.

    SDKs write `model` first. The text was proven to have one meaning, so what is left of it keeps that.
    """
    body: Any = envelope.body  # bytes or a bytearray, as it is no large one
    model = overrides.get("model")
    asked = b'{"model":' + _ENCODER.encode(envelope.model_asked)
    if model is None or not body.startswith(asked) or not body.endswith(b"}"):
        return None
    added = b""
    if len(overrides) > 1:
        for name, value in overrides.items():
            if name == "model":
                continue
            if value is None or name in envelope.tree:
                return None
            added += b",%b:%b" % (_ENCODER.encode(name), value)
    return b'{"model":%b%b%b}' % (model, bytes(body[len(asked) : -1]), added)


def emit_pieces(envelope: Envelope, overrides: Mapping[str, bytes | None]) -> list[bytes | memoryview]:
    """The body that `emit` makes, in pieces to be sent one after the other: long members are not copied."""
    members: dict[str, Member | None] = {**envelope.members, **overrides}
    texts: list[Any] = []
    for name, value in members.items():
        if value is not None:
            texts += (b"," if texts else b"{", _ENCODER.encode(name), b":", value)
    return in_pieces([*texts, b"}"] if texts else [b"{}"], _PIECE_BYTES)


# --- strictness -------------------------------------------------------------------------------------------------------


def _whole(text: bytes | bytearray, depth: int) -> Any:
    """Decodes up to `WHOLE_BYTES` of JSON and proves it free of duplicate keys. HOT."""
    try:
        tree = _SHALLOW_TREE.decode(text) if depth > _SHALLOW_DEPTH else _ANY.decode(text)
    except msgspec.ValidationError:
        tree = _ANY.decode(text)
        _check_depth(tree, depth)
    else:
        if depth <= _SHALLOW_DEPTH:
            _check_depth(tree, depth)
    # A dict has no duplicates, so neither has text that is exactly what a dict encodes to, white space aside. Compact
    # JSON, which is what SDKs send, passes here at the cost of one encoding; only text with needless escapes or odd
    # numbers is read again, by the slow exact reader.
    compact = _ENCODER.encode(tree)
    if compact != text and compact != msgspec.json.format(text, indent=-1):
        _refuse_duplicates(text)
    return tree


def _check_depth(tree: Any, limit: int) -> None:
    """Refuses a tree of more than `limit` levels of containers."""
    level = [tree] if type(tree) in (dict, list) else []
    for _ in range(limit):
        if not level:
            return
        level = [
            child
            for node in level
            for child in (node.values() if type(node) is dict else node)
            if type(child) in (dict, list)
        ]
    if level:
        _too_deep()


def _refuse_duplicates(text: bytes | bytearray) -> None:
    def unique(pairs: list[tuple[str, Any]]) -> None:
        if len(dict(pairs)) != len(pairs):
            duplicate()

    # Numbers were judged when the text was decoded; reading them again could take most of the time.
    json.loads(text.decode(), object_pairs_hook=unique, parse_int=str, parse_float=str)


def _too_deep() -> NoReturn:
    raise _depth_error() from None


def _depth_error() -> BadRequest:
    told = f"The request body is nested deeper than {MAX_DEPTH} levels, or too deep for its size."
    return BadRequest("invalid_json", told)


def _place(error: msgspec.DecodeError) -> str:
    _, found, rest = str(error).rpartition(" (byte ")
    digits = rest.rstrip(")")
    return f" (at byte {digits})" if found and digits.isdigit() else ""


def _shallow_type(depth: int) -> Any:
    """JSON of at most `depth` levels as a type: the decoder then bounds the depth at its own speed.

    The type doubles with each level, hence only a few; what nests deeper is decoded without it and walked.
    """
    if depth == 0:
        return str | int | float | bool | None
    inner: Any = _shallow_type(depth - 1)
    return dict[str, inner] | list[inner] | str | int | float | bool | None


_ENCODER = msgspec.json.Encoder()
_ANY = msgspec.json.Decoder()
_OBJECT: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SHALLOW_TREE = msgspec.json.Decoder(_shallow_type(_SHALLOW_DEPTH))
