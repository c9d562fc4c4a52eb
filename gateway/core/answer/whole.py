"""The facts of a complete, non-streamed chat completion.

Streams are `sse`, errors are `refusals`. The body is only read here, never changed: it goes to the client as it came.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from gateway.core.answer.chunk import GAVE_UP, load, read_chunk
from gateway.core.money.usage import Stated, read
from gateway.core.types import Usage


class Answer(msgspec.Struct, frozen=True, gc=False):
    """The facts of a complete, valid chat completion. `output_chars` is in bytes of JSON text, for estimates."""

    usage: Usage | None
    reasoned: bool
    finish: str | None  # finish_reason of the first choice
    output_chars: int
    body: bytes | None = None  # what the client gets, where that is not the body that was read


# Typed as loosely as the facts allow: a member we do not need may be of any type without costing us the answer.
_NOTHING = msgspec.Raw()


class _Message(msgspec.Struct, gc=False):
    content: msgspec.Raw = _NOTHING
    reasoning: msgspec.Raw = _NOTHING
    reasoning_content: msgspec.Raw = _NOTHING
    tool_calls: msgspec.Raw = _NOTHING
    refusal: msgspec.Raw = _NOTHING


class _Choice(msgspec.Struct, gc=False):
    message: _Message
    finish_reason: Any = None


# What nearly every server sends. Whatever does not fit this is read again, more loosely.
class _Usual(msgspec.Struct, gc=False):
    choices: list[_Choice]
    usage: Stated | None = None
    error: None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    usage: Any = None
    error: Any = None


_USUAL = msgspec.json.Decoder(_Usual)
_COMPLETION = msgspec.json.Decoder(_Completion)
_TAGGED = re.compile(rb'"content": ?"<reasoning>')  # a quote inside a text is escaped, so this is none of a text's
_NULL = msgspec.Raw(b"null")
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # the last: nested thousands of levels deep


def parse_answer(body: bytes) -> Answer | None:
    """The facts of a non-streamed answer, or None where it is no chat completion: HTML, truncated, an error. HOT."""
    try:
        usual = _USUAL.decode(body)
    except _UNREADABLE:
        return _unusual(body)
    stated = usual.usage
    return _facts(usual.choices, stated.usage() if stated is not None else None)


def parse_tagged(body: bytes) -> Answer | None:
    """The same for servers that put reasoning into the text, between <reasoning> and </reasoning>."""
    facts = parse_answer(body)
    if facts is not None and _TAGGED.search(body) is not None:
        return msgspec.structs.replace(facts, reasoned=True)
    return facts


def _unusual(body: bytes) -> Answer | None:
    try:
        completion: _Completion | None = _COMPLETION.decode(body)
    except _UNREADABLE:
        completion = _lenient(body)
    if completion is None or completion.error:
        return None
    stated = completion.usage
    return _facts(completion.choices, read(stated) if stated is not None else None)


def _facts(choices: list[_Choice], usage: Usage | None) -> Answer | None:
    if not choices:
        return None
    size = thought = 0
    for choice in choices:
        message = choice.message
        content = message.content
        length = len(content)
        if length > 2 and content != _NULL:  # as `_length`, without a call
            size += length - 2
        refusal = message.refusal
        if refusal is not _NOTHING and refusal != _NULL:
            size += _length(refusal)
        if message.tool_calls is not _NOTHING:
            size += _length(message.tool_calls)
        if message.reasoning is not _NOTHING or message.reasoning_content is not _NOTHING:
            thought += _length(message.reasoning) + _length(message.reasoning_content)
    finish = choices[0].finish_reason
    if not isinstance(finish, str):
        finish = None
    elif finish in GAVE_UP:
        return None
    return Answer(usage, thought > 0, finish, size + thought)


def _length(part: msgspec.Raw) -> int:
    """Bytes of JSON inside a text's quotes or a list's brackets; 0 for null and for what is not there."""
    length = len(part)
    return length - 2 if length > 2 and part != _NULL else 0


def stated(body: bytes) -> Usage | None:
    """What an answer that is no completion says all the same that it used: it may well be billed."""
    chunk = read_chunk(body)
    return read(chunk.usage) if chunk is not None and chunk.usage else None


def _lenient(body: bytes) -> _Completion | None:
    """Once more for answers that are not strictly JSON: NaN in a logprob, broken UTF-8 in a text. SDKs read those."""
    loaded = load(body)
    if loaded is None or not isinstance(loaded[0], dict):
        return None
    try:
        return _COMPLETION.decode(msgspec.json.encode(loaded[0]))
    except (msgspec.DecodeError, TypeError, ValueError, RecursionError):
        return None
