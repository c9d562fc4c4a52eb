"""Answers of Ollama's own API as OpenAI would give them: its lines of JSON as events, its object as a completion.

What comes out is judged like any other server's, by `answer.sse` and `answer.whole`. What is sent there is in `ollama`.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any

import msgspec

from gateway.core.answer import sse
from gateway.core.answer.whole import Answer, parse_answer
from gateway.core.servers.respell import Respelling

_FINISH = {"length": "length"}
_MODEL_MAX = 256  # characters
_MOMENT_MAX = 64
_ENCODER = msgspec.json.Encoder()


class _Function(msgspec.Struct, gc=False):
    name: str
    arguments: msgspec.Raw = msgspec.Raw(b"{}")


class _Call(msgspec.Struct, gc=False):
    function: _Function
    id: str = ""


class _Message(msgspec.Struct, gc=False):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[_Call] | None = None


class _Line(msgspec.Struct, gc=False):
    """What a line of a stream says, and a complete answer too."""

    model: str = ""
    created_at: str = ""
    message: _Message | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: int | None = None
    prompt_eval_cached_count: int | None = None  # a part of the former
    eval_count: int | None = None
    logprobs: msgspec.Raw = msgspec.Raw(b"null")
    error: Any = None
    status: Any = None


_LINE = msgspec.json.Decoder(_Line)
_NULL = msgspec.Raw(b"null")
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Relay(sse.Relay):
    r"""An answer of one JSON object a line, as the event stream that OpenAI would have sent.

    >>> relay = Relay(keep_usage=False)
    >>> relay.feed(b'{"message":{"role":"assistant","content":"Hi"},"done":fal').count(b"data:")
    0
    >>> relay.feed(b'se}\n{"done":true,"done_reason":"stop"}\n').count(b"data:")
    3
    """

    kind = "application/x-ndjson"

    def __init__(self, keep_usage: bool, max_event: int = 4 << 20, *, choices: int = 1) -> None:
        super().__init__(keep_usage, max_event, choices=choices)
        self._line = bytearray()  # of a line, what has come
        self._frame: dict[str, Any] = {}
        self._began = ""  # created_at of the first line
        self._calls = 0

    def flood(self, data: bytes) -> int:
        """As `Relay.flood`: nothing here is sent on as it came."""
        return 0

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the body; give what may be sent to the client now."""
        end = data.rfind(b"\n") + 1
        if not end:
            self._line += data
            return self._limit()
        self._line += data[:end]
        lines = bytes(self._line).split(b"\n")
        self._line[:] = data[end:]
        events = b"".join(self._events(line) for line in lines if line.strip())
        out = super().feed(events) if events else b""
        return out + self._limit()

    def end(self) -> bytes:
        """The body has ended: give the tail to send, or set `failure` when the answer is not whole."""
        rest = bytes(self._line).strip()
        self._line.clear()
        out = b""
        if rest and _read(rest) is not None:  # whole, but for its line end
            out = super().feed(self._events(rest))
        return out + super().end()

    def _limit(self) -> bytes:
        if len(self._line) <= self._max_event or self.done or self.failure is not None:
            return b""
        return self._step(sse.Event.OVERSIZE, b"")

    def _events(self, raw: bytes) -> bytes:
        """What one line becomes."""
        line = _read(raw)
        if line is None:
            return _event({"error": _error("The upstream sent a line that cannot be read.", None)})
        if line.error is not None:
            return _event({"error": _error(line.error, line.status)})
        opening: dict[str, Any] = {}
        if not self._frame:
            self._began = line.created_at
            self._frame = _frame(line, "chat.completion.chunk")
            opening = {"role": "assistant"}
        delta = {**opening, **self._delta(line.message)}
        out = b""
        if delta or line.logprobs != _NULL:
            out = self._chunk(delta, None, line.logprobs)
        if line.done:
            finish = "tool_calls" if self._calls else _FINISH.get(line.done_reason or "", "stop")
            out += self._chunk({}, finish, _NULL)
            if (usage := _usage(line)) is not None:
                out += _event({**self._frame, "choices": [], "usage": usage})
            out += sse.DONE_EVENT
        return out

    def _delta(self, message: _Message | None) -> dict[str, Any]:
        delta: dict[str, Any] = {}
        if message is None:
            return delta
        if message.thinking:
            delta["reasoning_content"] = message.thinking
        if message.content:
            delta["content"] = message.content
        if message.tool_calls:
            first = self._calls
            self._calls += len(message.tool_calls)
            made = enumerate(_calls(message.tool_calls, self._began, first), first)
            delta["tool_calls"] = [{"index": index, **call} for index, call in made]
        return delta

    def _chunk(self, delta: dict[str, Any], finish: str | None, logprobs: msgspec.Raw) -> bytes:
        choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": finish}
        if logprobs != _NULL:
            choice["logprobs"] = {"content": logprobs}
        return _event({**self._frame, "choices": [choice]})


class Respelt(Respelling, Relay):
    """The same, saying reasoning as asked. Two layouts of slots cannot be joined, so `Relay` has none of its own."""


def parse(body: bytes) -> Answer | None:
    """The facts of a complete answer, with the chat completion that it becomes; None where it is none."""
    line = _read(body)
    if line is None or line.error is not None or line.message is None or not line.done:
        return None
    said = line.message
    message: dict[str, Any] = {"role": "assistant", "content": said.content or ""}
    if said.thinking:
        message["reasoning_content"] = said.thinking
    finish = _FINISH.get(line.done_reason or "", "stop")
    if said.tool_calls:
        message["content"] = said.content or None
        message["tool_calls"] = list(_calls(said.tool_calls, line.created_at, 0))
        finish = "tool_calls"
    choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": finish}
    if line.logprobs != _NULL:
        choice["logprobs"] = {"content": line.logprobs}
    made: dict[str, Any] = {**_frame(line, "chat.completion"), "choices": [choice]}
    if (usage := _usage(line)) is not None:
        made["usage"] = usage
    whole = _ENCODER.encode(made)
    facts = parse_answer(whole)
    return None if facts is None else msgspec.structs.replace(facts, body=whole)


def _read(raw: bytes) -> _Line | None:
    try:
        return _LINE.decode(raw)
    except _UNREADABLE:
        return None


def _event(value: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % _ENCODER.encode(value)


def _error(said: Any, status: Any) -> dict[str, Any]:
    try:
        message = said if isinstance(said, str) else _ENCODER.encode(said).decode()
    except RecursionError:  # just shallow enough to be read, and too deep to be written
        message = "The upstream reported an error."
    return {"message": message, "type": "server_error", "param": None, "code": status}


def _frame(line: _Line, kind: str) -> dict[str, Any]:
    """What every chunk of an answer repeats. There is no id to take over: the moment, to the nanosecond, is one."""
    try:
        created = int(datetime.fromisoformat(line.created_at).timestamp())
    except (ValueError, OverflowError, OSError):
        created = 0
    # Every chunk repeats it, so a long one would make megabytes of a line of twenty bytes.
    model = line.model[:_MODEL_MAX]
    return {"id": f"chatcmpl-{_digest(line.created_at)}", "object": kind, "created": created, "model": model}


def _calls(calls: list[_Call], began: str, first: int) -> list[dict[str, Any]]:
    return [
        {
            "id": call.id or f"call_{_digest(began)[:16]}{number}",
            "type": "function",
            "function": {"name": call.function.name, "arguments": _arguments(call.function.arguments)},
        }
        for number, call in enumerate(calls, first)
    ]


def _arguments(raw: msgspec.Raw) -> str:
    text = bytes(raw)
    return msgspec.json.decode(text, type=str) if text[:1] == b'"' else text.decode()


def _usage(line: _Line) -> dict[str, Any] | None:
    """Older servers leave out the count of a prompt that they had in their cache: then nothing is said of it."""
    found = {"prompt_tokens": line.prompt_eval_count, "completion_tokens": line.eval_count}
    known: dict[str, Any] = {name: count for name, count in found.items() if count is not None}
    if len(known) == 2:
        known["total_tokens"] = sum(known.values())
    if line.prompt_eval_cached_count:
        known["prompt_tokens_details"] = {"cached_tokens": line.prompt_eval_cached_count}
    return known or None


def _digest(text: str) -> str:
    return hashlib.sha256(text[:_MOMENT_MAX].encode()).hexdigest()[:24]
