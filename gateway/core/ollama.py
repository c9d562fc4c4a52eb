"""Ollama's own API, `/api/chat`: an OpenAI request in its words, and its answers in OpenAI's.

Its OpenAI route ignores `think`, and cuts a prompt that is longer than the context it happens to run with, silently;
the native one can be told both. So this dialect alone translates; what comes out is judged like any other server's, by
`sse` and `answers`. Nothing is dropped that an answer would miss: members it has no word for are in `REFUSES`, and for
what stands deeper in a request `CannotSay` is raised.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from gateway.core import sse
from gateway.core import thinking as thoughts
from gateway.core.answers import Answer, parse_answer
from gateway.core.types import Thinking
from gateway.core.wire import Envelope

if TYPE_CHECKING:
    from gateway.core.dialects import Plan

#: Members of OpenAI's API that have no counterpart.
REFUSES = frozenset(
    {
        "audio",
        "function_call",
        "functions",
        "logit_bias",
        "modalities",
        "n",
        "parallel_tool_calls",
        "tool_choice",
        "verbosity",
        "web_search_options",
    }
)
#: Members that say how a request is to be handled or who sent it, and that no answer misses.
_HINTS = frozenset(
    {
        "metadata",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "stream_options",
        "user",
    }
)
#: Sampling, under the same names as OpenAI's or only Ollama's: these go into `options`.
_SAMPLING = frozenset(
    {
        "frequency_penalty",
        "min_p",
        "presence_penalty",
        "repeat_last_n",
        "repeat_penalty",
        "seed",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
    }
)
_SPOKEN = frozenset(
    {"max_completion_tokens", "max_tokens", "messages", "options", "response_format", "stop", "tools", *REFUSES}
)
_LEVELS = {"low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "max"}
_LEFT_OUT = _HINTS | _SAMPLING | _SPOKEN | thoughts.MEMBERS
_FINISH = {"length": "length"}
_ENCODER = msgspec.json.Encoder()


class CannotSay(Exception):
    """A request holds something that this API has no words for. The text may be shown to the client."""


def _cannot(what: str) -> NoReturn:
    raise CannotSay(what)


# --- the request ------------------------------------------------------------------------------------------------------


def write(envelope: Envelope, plan: Plan, thinking: Thinking) -> bytes:
    """The body for `/api/chat`. Raises `CannotSay`.

    The context is always the target's window: a server that is asked for another one loads the model anew.
    """
    members = envelope.members
    left_out = _LEFT_OUT | plan.dropped
    body: dict[str, Any] = {name: value for name, value in members.items() if name not in left_out}
    body["messages"] = _messages(members["messages"])
    body["stream"] = envelope.stream
    body["options"] = _options(envelope, plan.target.window)
    body["truncate"] = body["shift"] = False  # rather an error than an answer to a part of the prompt
    wanted = _format(envelope)
    if wanted is not None:
        body["format"] = wanted
    if "tools" in members and envelope.get("tools") and envelope.get("tool_choice") != "none":
        if any(tool.get("type", "function") != "function" for tool in envelope.get("tools")):
            _cannot("Ollama knows only tools that are functions.")
        body["tools"] = members["tools"]
    think = _think(envelope, plan, thinking)
    if think is not None:
        body["think"] = think
    body.update({name: msgspec.Raw(value) for name, value in plan.base.items() if value is not None})
    return _ENCODER.encode(body)


def _think(envelope: Envelope, plan: Plan, thinking: Thinking) -> bool | str | None:
    support = plan.target.thinking
    wish = thoughts.settle(envelope, thinking) if plan.switchable else thoughts.wish_of(envelope)
    level = _LEVELS.get(wish.effort or "")
    if support == "always":
        return level
    if wish.on is None or (support == "never" and wish.on):  # it answers 400 to a model that cannot
        return None
    return level or True if wish.on else False


def _options(envelope: Envelope, window: int) -> dict[str, Any]:
    options: dict[str, Any] = {}
    own = envelope.get("options")
    if own is not None:
        # Its others are the server's affairs: memory, devices, threads. A change of one loads the model anew.
        unknown = own.keys() - _SAMPLING - {"num_ctx", "num_predict", "stop"} if isinstance(own, dict) else {"options"}
        if unknown:
            _cannot(f"The option {min(unknown)!r:.60} cannot be set by a request.")
        options.update(own)
    options.update({name: value for name in _SAMPLING if (value := envelope.get(name)) is not None})
    limit = envelope.get("max_completion_tokens") or envelope.get("max_tokens")
    if limit is not None:
        options["num_predict"] = limit
    stop = envelope.get("stop")
    if stop is not None:
        options["stop"] = [stop] if isinstance(stop, str) else stop
    options["num_ctx"] = window
    return options


def _format(envelope: Envelope) -> Any:
    wanted = envelope.get("response_format")
    kind = wanted["type"] if wanted is not None else "text"
    if kind == "text":
        return None
    if kind == "json_object":
        return "json"
    if kind == "json_schema":
        described = msgspec.json.decode(envelope.members["response_format"]).get("json_schema")
        schema = described.get("schema") if isinstance(described, dict) else None
        if isinstance(schema, dict):
            return schema
    return _cannot(f"Ollama has no response_format {kind!r:.60} like this.")


_MESSAGES: msgspec.json.Decoder[list[dict[str, msgspec.Raw]]] = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])


def _messages(raw: Any) -> list[dict[str, Any]]:
    """The messages, with texts as the client wrote them: a long one is not decoded."""
    called: dict[str, str] = {}
    made = []
    for message in _MESSAGES.decode(raw):
        role = msgspec.json.decode(message["role"])
        if role == "function" or _present(message, "function_call") or _present(message, "audio"):
            _cannot("Ollama has no function_call and no audio in messages.")
        said: dict[str, Any] = {"role": "system" if role == "developer" else role}
        said.update(_content(message.get("content")))
        for name in ("reasoning_content", "reasoning"):
            if role == "assistant" and name in message and _is_text(message[name]):
                said["thinking"] = message[name]
        if _present(message, "tool_calls"):
            said["tool_calls"] = [_called(call, called) for call in msgspec.json.decode(message["tool_calls"])]
        if _present(message, "tool_call_id"):
            ident = msgspec.json.decode(message["tool_call_id"])
            said["tool_call_id"] = ident
            if isinstance(ident, str) and ident in called:
                said["tool_name"] = called[ident]
        made.append(said)
    return made


def _present(message: Mapping[str, msgspec.Raw], name: str) -> bool:
    return name in message and message[name] != _NULL


def _is_text(raw: msgspec.Raw) -> bool:
    return bytes(memoryview(raw)[:1]) == b'"'


def _content(raw: msgspec.Raw | None) -> dict[str, Any]:
    if raw is None or raw == _NULL:
        return {"content": ""}
    if _is_text(raw):
        return {"content": raw}
    texts: list[str] = []
    images: list[str] = []
    for part in msgspec.json.decode(raw):
        kind = part["type"]
        text = part.get("text") if kind == "text" else part.get("refusal") if kind == "refusal" else None
        if isinstance(text, str):
            texts.append(text)
        elif kind == "image_url":
            images.append(_image(part.get("image_url")))
        else:
            _cannot(f"Ollama has no {kind!r:.60} in messages.")
    said: dict[str, Any] = {"content": "\n".join(texts)}
    if images:
        said["images"] = images
    return said


def _image(place: Any) -> str:
    url = place.get("url") if isinstance(place, dict) else place
    if isinstance(url, str) and url[:5].lower() == "data:":
        head, _, data = url.partition(",")
        if head.lower().endswith(";base64") and data:
            return data
    return _cannot("Ollama takes images only as base64 in a data: URL.")


def _called(call: Any, called: dict[str, str]) -> dict[str, Any]:
    """A call that the model made earlier; its arguments are an object here, not a text that holds one."""
    function = call.get("function") if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        _cannot("Ollama knows only calls of functions.")
    written = function["arguments"] if isinstance(function, dict) and function.get("arguments") else "{}"
    try:
        arguments = msgspec.json.decode(written) if isinstance(written, str) else written
    except msgspec.DecodeError:
        arguments = None
    if not isinstance(arguments, dict):
        _cannot("Ollama takes the arguments of an earlier call only if they are a JSON object.")
    made: dict[str, Any] = {"function": {"name": name, "arguments": arguments}}
    if isinstance(call.get("id"), str):
        made["id"] = call["id"]
        called[call["id"]] = name
    return made


# --- the answer -------------------------------------------------------------------------------------------------------


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

    __slots__ = ("_began", "_calls", "_frame", "_line")

    kind = "application/x-ndjson"

    def __init__(self, keep_usage: bool, max_event: int = 4 << 20, *, choices: int = 1) -> None:
        super().__init__(keep_usage, max_event, choices=choices)
        self._line = bytearray()  # of a line, what has come
        self._frame: dict[str, Any] = {}
        self._began = ""  # created_at of the first line
        self._calls = 0

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
    message = said if isinstance(said, str) else _ENCODER.encode(said).decode()
    return {"message": message, "type": "server_error", "param": None, "code": status}


def _frame(line: _Line, kind: str) -> dict[str, Any]:
    """What every chunk of an answer repeats. There is no id to take over: the moment, to the nanosecond, is one."""
    try:
        created = int(datetime.fromisoformat(line.created_at).timestamp())
    except (ValueError, OverflowError, OSError):
        created = 0
    return {"id": f"chatcmpl-{_digest(line.created_at)}", "object": kind, "created": created, "model": line.model}


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
    return hashlib.sha256(text.encode()).hexdigest()[:24]
