"""The types of the members of a request that routing reads: wrong ones are refused here, once, and relied on behind.

What a member means is the business of `signals`, and how the text that they were read from is judged that of `wire`.
"""

from __future__ import annotations

from itertools import chain
from operator import itemgetter
from typing import Annotated, Any, NoReturn

import msgspec

from gateway.core.errors import BadRequest
from gateway.core.text.longtext import LongText

#: Longest `model` a client may send, in characters.
MAX_MODEL_CHARS = 256
#: Most choices a client may ask for (`n`), as at OpenAI. What limits set aside for a request is a multiple of it.
MOST_CHOICES = 128


def _wrong(param: str, valid: str) -> NoReturn:
    raise BadRequest("bad_request", f"{param} must be {valid}.", param=param)


_MANY = 64  # messages that are worth asking first whether they are all alike
_ROLE, _TYPE = itemgetter("role"), itemgetter("type")
_CONTENT = frozenset({str, LongText, type(None), list})


class _Message(msgspec.Struct, gc=False):
    role: Annotated[str, msgspec.Meta(min_length=1)]
    content: str | None = None


class _Usual(msgspec.Struct, gc=False):
    """What nearly every request looks like; whatever decodes as this passes `check`."""

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


def is_usual(body: bytes | bytearray) -> bool:
    """Whether the types can be seen to be right at the decoder's speed; False says nothing. HOT."""
    try:
        _USUAL.decode(body)
    except msgspec.ValidationError:
        return False
    return True


def check(tree: dict[str, Any]) -> None:
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
        role = _word(message, "role")
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


def _word(owner: dict[str, Any], name: str) -> Any:
    """A member that is compared with words: decoded, however long it is."""
    value = owner.get(name)
    if type(value) is LongText:
        value = owner[name] = _WORD.decode(value)
    return value


def _check_content(content: Any, index: int) -> None:
    if type(content) is not list:
        _wrong(f"messages[{index}].content", "a string, null or an array of objects")
    for number, part in enumerate(content):
        if type(part) is not dict or type(_word(part, "type")) is not str:
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

_USUAL = msgspec.json.Decoder(_Usual)
_WORD = msgspec.json.Decoder(str)
