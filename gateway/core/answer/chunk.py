"""What one event of a chat completion stream says: its fields as the SSE format has them, its JSON as OpenAI has it.

Reading only: what follows from a chunk is the table in `sse`. Tolerant towards servers (unknown members, wrong types
in members we do not need, NaN, broken UTF-8 in a text), because a client's SDK is too and the bytes go on untouched.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

import msgspec

_LINE_END = re.compile(rb"\r\n|\n|\r")
_TEXTS = ("content", "reasoning_content", "reasoning", "refusal")
_PARTS = ("tool_calls", "function_call", "audio", "reasoning_details")
_THINK = ("<think>", "<reasoning>")  # the latter: Bedrock's
#: Reasons to finish that are none: the server gave up (OpenRouter, SGLang), and what there is of an answer is a part.
GAVE_UP = frozenset({"error", "abort"})


class Fields(NamedTuple):
    """The fields of an event that matter here; `data` is None where the event has none."""

    data: bytes | None
    event: bytes


def fields_of(block: bytes) -> Fields:
    r"""Read the lines of an event. Comments, `id:` and `retry:` are skipped, several `data:` lines are joined by LF.

    >>> fields_of(b": ping\ndata: a\ndata:b\n\n")
    Fields(data=b'a\nb', event=b'')
    """
    if block[:6] == b"data: " and block[-2:] == b"\n\n":  # the usual case, without cutting into lines
        data = block[6:-2]
        if b"\n" not in data and b"\r" not in data:
            return Fields(data, b"")
    lines: list[bytes] = []
    event = b""
    for line in _LINE_END.split(block):
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value[1:] if value[:1] == b" " else value)
        elif name == b"event":
            event = value.strip()
    return Fields(b"\n".join(lines) if lines else None, event)


def load(data: bytes) -> tuple[Any, bool] | None:
    """The value that JSON text holds and whether it was clean, or None where it holds none.

    Not clean: NaN or Infinity, invalid UTF-8, lone surrogates. Servers send them and SDKs take them.
    """
    try:
        return msgspec.json.decode(data), True
    except RecursionError:  # nested beyond what any client reads; msgspec does not count it among its own errors
        return None
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    try:
        return json.loads(data.decode("utf-8", "replace")), False
    except (ValueError, RecursionError):
        return None


class Chunk:
    """The facts of one chunk. `closed` and `opened` are choice indexes; `text` is in UTF-8 bytes."""

    __slots__ = (
        "clean",
        "closed",
        "detailed",
        "error",
        "meaningful",
        "only_usage",
        "opened",
        "reasoned",
        "text",
        "usage",
    )

    def __init__(self, value: dict[str, Any], clean: bool) -> None:
        self.clean = clean
        self.opened: list[int] = []
        self.closed: list[int] = []
        self.meaningful = False
        self.reasoned = False
        self.detailed = False  # logprobs: most of the event's bytes are not text
        self.text = 0
        self.usage: Any = value.get("usage")
        if self.usage is None and isinstance(extra := value.get("x_groq"), dict):
            self.usage = extra.get("usage")
        # vLLM before 0.11 names an error by `object`; everyone else by a member.
        self.error: Any = value.get("error") or (value if value.get("object") == "error" else None)
        choices = value.get("choices")
        self.only_usage = not choices and isinstance(self.usage, dict)
        if isinstance(choices, list):
            for choice in choices:
                if isinstance(choice, dict):
                    self._read_choice(choice)

    @property
    def idle_usage(self) -> bool:
        """Usage beside choices that say nothing."""
        return not self.meaningful and isinstance(self.usage, dict)

    def _read_choice(self, choice: dict[str, Any]) -> None:
        index = choice.get("index")
        index = index if type(index) is int else 0
        delta = choice.get("delta")
        said = self._read_delta(delta) if isinstance(delta, dict) else False
        if not said:  # Together says it twice
            text = choice.get("text")  # the older completions endpoint
            if isinstance(text, str) and text:
                self.text += _size(text)
                said = True
        if choice.get("logprobs"):
            self.detailed = True
        reason = choice.get("finish_reason")
        ended = isinstance(reason, str)
        if ended:
            self.closed.append(index)
            if reason in GAVE_UP and self.error is None:
                self.error = choice.get("error") or reason
        # A choice counts as open from its first chunk on, also when that only names a role.
        self.opened.append(index)
        self.meaningful = self.meaningful or said or ended

    def _read_delta(self, delta: dict[str, Any]) -> bool:
        said = False
        for name in _TEXTS:
            text = delta.get(name)
            if text:
                said = True
                if isinstance(text, str):
                    self.text += _size(text)
                    if name in ("reasoning_content", "reasoning") or (name == "content" and text.startswith(_THINK)):
                        self.reasoned = True
        for name in _PARTS:
            part = delta.get(name)
            if part:
                said = True
                if name == "reasoning_details":
                    self.reasoned = True
                elif name != "audio":
                    self.text += _called(part)
        return said


def read_chunk(data: bytes | None) -> Chunk | None:
    """The facts of an event's data, or None where it is not a JSON object."""
    loaded = load(data) if data is not None else None
    if loaded is None or not isinstance(loaded[0], dict):
        return None
    return Chunk(loaded[0], loaded[1])


def error_status(error: Any) -> int | None:
    """The HTTP status that an in-band error names: llama.cpp, vLLM and OpenRouter put it into `code`.

    >>> error_status({"message": "busy", "code": 503}), error_status({"code": "rate_limit_exceeded"})
    (503, None)
    """
    if isinstance(error, dict):
        for name in ("code", "status", "status_code"):
            value = error.get(name)
            if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) == 3:
                value = int(value)
            if type(value) is int and 400 <= value <= 599:
                return value
    return None


def _called(part: Any) -> int:
    """The bytes that a model wrote of a call: its name and arguments, not the ids and frames around them."""
    size = 0
    for call in part if isinstance(part, list) else [part]:
        if isinstance(call, dict):
            function = call.get("function", call)
            if isinstance(function, dict):
                size += sum(_size(text) for text in map(function.get, ("name", "arguments")) if isinstance(text, str))
    return size


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
