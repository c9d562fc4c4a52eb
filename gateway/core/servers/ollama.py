"""An OpenAI request in the words of Ollama's own API, `/api/chat`.

Its OpenAI route ignores `think`, and cuts a prompt that is longer than the context it happens to run with, silently;
the native one can be told both. So this dialect alone translates; its answers are in `ollamaanswers`. Nothing is
dropped that an answer would miss: members it has no word for are in `REFUSES`, and for what stands deeper in a request
`CannotSay` is raised.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from gateway.core.request import thinking as thoughts
from gateway.core.request.wire import Envelope
from gateway.core.types import Thinking

if TYPE_CHECKING:
    from gateway.core.servers.dialects import Plan

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
_NULL = msgspec.Raw(b"null")
_ENCODER = msgspec.json.Encoder()


class CannotSay(Exception):
    """A request holds something that this API has no words for. The text may be shown to the client."""


def _cannot(what: str) -> NoReturn:
    raise CannotSay(what)


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
        # Its others are the server's affairs: memory, devices, threads. A change of one loads the model anew. How long
        # an answer may be is said by max_tokens, by which targets are chosen.
        unknown = own.keys() - _SAMPLING - {"num_ctx", "stop"} if isinstance(own, dict) else {"options"}
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
            calls = msgspec.json.decode(message["tool_calls"])
            if not isinstance(calls, list):
                _cannot("tool_calls is not a list.")
            said["tool_calls"] = [_called(call, called) for call in calls]
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
