"""The request on the wire: bytes to one checked Envelope, and the Envelope back to the bytes that are sent upstream.

Here belongs everything about JSON as text: strictness (one meaning per body, so that no parser behind us can read
another), the types of the members that routing reads, and re-emitting. What a member *means* is the business of
`signals`, what an upstream wants instead of it that of `dialects`.

A body is refused unless every JSON parser must agree on it: valid UTF-8, no duplicate key at any depth, no NaN, no lone
surrogate, no trailing bytes, at most `MAX_DEPTH` levels. What is authorised is what is sent: `emit` writes the members
that `parse` accepted, each with the client's own text, so that no digit of a number is lost.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import chain
from operator import itemgetter
from typing import Annotated, Any, NoReturn

import msgspec

from gateway.core.errors import BadRequest
from gateway.core.request.largebody import Body, check_count, duplicate
from gateway.core.request.largetree import Grower, Steps, finish, in_pieces
from gateway.core.text.longtext import LongText

#: Levels of arrays and objects, the body itself being the first. JSON schemas of real tools stay under 20.
MAX_DEPTH = 64
#: Longest `model` a client may send, in characters.
MAX_MODEL_CHARS = 256
#: Most choices a client may ask for (`n`), as at OpenAI. What limits set aside for a request is a multiple of it.
MOST_CHOICES = 128
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
    if not _is_usual(body):
        _check(tree)
    return Envelope.of(tree, body)


def parse_steps(body: Body) -> Steps[Envelope]:
    """`parse` for a large body, in steps between which a caller may do something else."""
    try:
        yield from check_count(body)
        yield
        grower = Grower.of(body, WHOLE_BYTES, MAX_DEPTH, _whole, _too_deep)
        chat = yield from grower.chat()
        if chat is not None:
            tree, members = chat
        else:
            members = _OBJECT.decode(body)
            yield
            tree = yield from grower.tree(members)
    except _UNREADABLE as error:
        raise _refused(error) from None
    yield
    _check(tree)
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


# --- types ------------------------------------------------------------------------------------------------------------


def _wrong(param: str, valid: str) -> NoReturn:
    raise BadRequest("bad_request", f"{param} must be {valid}.", param=param)


_MANY = 64  # messages that are worth asking first whether they are all alike
_ROLE, _TYPE = itemgetter("role"), itemgetter("type")
_CONTENT = frozenset({str, LongText, type(None), list})


class _Message(msgspec.Struct, gc=False):
    role: Annotated[str, msgspec.Meta(min_length=1)]
    content: str | None = None


class _Usual(msgspec.Struct, gc=False):
    """What nearly every request looks like; whatever decodes as this passes `_check`."""

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_MODEL_CHARS)]
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    stream: bool | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=MOST_CHOICES)] | None = None
    best_of: Annotated[int, msgspec.Meta(ge=1, le=MOST_CHOICES)] | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    temperature: int | float | None = None
    top_p: int | float | None = None
    reasoning_effort: Annotated[str, msgspec.Meta(min_length=1, max_length=64)] | None = None
    service_tier: Annotated[str, msgspec.Meta(min_length=1, max_length=64)] | None = None
    stream_options: None = None
    tools: None = None
    tool_choice: None = None
    response_format: None = None
    metadata: None = None


def _is_usual(body: bytes | bytearray) -> bool:
    """Whether the types can be seen to be right at the decoder's speed; False says nothing. HOT."""
    if len(body) > WHOLE_BYTES:
        return False
    try:
        _USUAL.decode(body)
    except msgspec.ValidationError:
        return False
    return True


def _check(tree: dict[str, Any]) -> None:
    """The members that routing reads have the types it relies on. Null counts as missing, as in OpenAI's API."""
    model_asked = tree.get("model")
    if type(model_asked) is not str or not 0 < len(model_asked) <= MAX_MODEL_CHARS:
        _wrong("model", f"a string of 1 to {MAX_MODEL_CHARS} characters")
    _check_messages(tree.get("messages"))
    if len(tree) > 2:
        for name, value in tree.items():
            check = _CHECKS.get(name)
            if check is not None and value is not None and not check[0](value):
                _wrong(name, check[1])
        _check_nested(tree)


def _check_messages(messages: Any) -> None:
    if type(messages) is not list or not messages:
        _wrong("messages", "a non-empty array of objects")
    if len(messages) > _MANY and _are_usual(messages):
        return
    for index, message in enumerate(messages):
        if type(message) is not dict:
            _wrong(f"messages[{index}]", "an object")
        role = message.get("role")
        if type(role) is not str or not role:
            _wrong(f"messages[{index}].role", "a non-empty string")
        content = message.get("content")
        if type(content) is not str and type(content) is not LongText and content is not None:
            _check_content(content, index)


def _are_usual(messages: list[Any]) -> bool:
    """Whether many messages can be seen to be right a member of all at a time; False says nothing."""
    try:
        roles = set(map(_ROLE, messages))
        contents = [message.get("content") for message in messages]
        kinds = set(map(type, contents))
        if list in kinds:
            lists = contents if len(kinds) == 1 else [content for content in contents if type(content) is list]
            parts = list(chain.from_iterable(lists))
            if set(map(type, map(_TYPE, parts))) != {str} or set(map(type, parts)) != {dict}:
                return False
    except (KeyError, TypeError, AttributeError):
        return False
    return (
        set(map(type, roles)) == {str} and "" not in roles and kinds <= _CONTENT and set(map(type, messages)) == {dict}
    )


def _check_content(content: Any, index: int) -> None:
    if type(content) is not list:
        _wrong(f"messages[{index}].content", "a string, null or an array of objects")
    for number, part in enumerate(content):
        if type(part) is not dict or type(part.get("type")) is not str:
            _wrong(f"messages[{index}].content[{number}]", "an object with a string `type`")


def _check_nested(tree: dict[str, Any]) -> None:
    options = tree.get("stream_options")
    if options is not None and type(options.get("include_usage")) not in (bool, type(None)):
        _wrong("stream_options.include_usage", "true or false")
    wanted = tree.get("response_format")
    if wanted is not None and type(wanted.get("type")) is not str:
        _wrong("response_format.type", "a string")
    for index, tool in enumerate(tree.get("tools") or ()):
        if type(tool) is not dict:
            _wrong(f"tools[{index}]", "an object")


def _is_bool(value: Any) -> bool:
    return type(value) is bool


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_word(value: Any) -> bool:
    return type(value) is str and 0 < len(value) <= 64


def _is_object(value: Any) -> bool:
    return type(value) is dict


_COUNT = (_is_count, "an integer of at least 1")
_FEW = (lambda value: _is_count(value) and value <= MOST_CHOICES, f"an integer from 1 to {MOST_CHOICES}")
_NUMBER = (_is_number, "a number")
_OBJECT_TYPE = (_is_object, "an object")
_CHECKS = {
    "stream": (_is_bool, "true or false"),
    "stream_options": _OBJECT_TYPE,
    "n": _FEW,
    "best_of": _FEW,
    "max_tokens": _COUNT,
    "max_completion_tokens": _COUNT,
    "temperature": _NUMBER,
    "top_p": _NUMBER,
    "tools": (lambda value: type(value) is list, "an array of objects"),
    "tool_choice": (lambda value: type(value) in (str, dict), "a string or an object"),
    "response_format": _OBJECT_TYPE,
    "reasoning_effort": (_is_word, "a string of 1 to 64 characters"),
    "service_tier": (_is_word, "a string of 1 to 64 characters"),
    "metadata": _OBJECT_TYPE,
}


def _shallow_type(depth: int) -> Any:
    """JSON of at most `depth` levels as a type: the decoder then bounds the depth at its own speed.

    The type doubles with each level, hence only a few; what nests deeper is decoded without it and walked.
    """
    if depth == 0:
        return str | int | float | bool | None
    inner: Any = _shallow_type(depth - 1)
    return dict[str, inner] | list[inner] | str | int | float | bool | None


_ENCODER = msgspec.json.Encoder()
_USUAL = msgspec.json.Decoder(_Usual)
_ANY = msgspec.json.Decoder()
_OBJECT: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SHALLOW_TREE = msgspec.json.Decoder(_shallow_type(_SHALLOW_DEPTH))
