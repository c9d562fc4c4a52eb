"""What a server's refusal means for the attempt, and what of it the client may see.

By code or type first, which are made for it; by words only with the statuses that say "your request", because nothing
else tells an overflow from a typing error there. Codes that only one dialect uses stand in its row in `dialects`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from gateway.core.types import Outcome

#: An upstream's error message is relayed up to this many characters.
MESSAGE_MAX = 8192
_WORD_MAX = 256  # of the error's other texts
# Addresses in a message helped an attacker once (CVE-2026-22778).
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}")

#: `code` or `type` -> meaning. They outrank the status: Groq says rate_limit_exceeded with a 413.
CODES: Mapping[str, Outcome] = MappingProxyType(
    {
        "context_length_exceeded": Outcome.CONTEXT_LENGTH,  # OpenAI
        "exceed_context_size_error": Outcome.CONTEXT_LENGTH,  # llama.cpp
        "model_not_found": Outcome.MODEL_GONE,  # OpenAI, DashScope; Groq for a retired id
        "model_decommissioned": Outcome.MODEL_GONE,  # Groq, with a 400
        "rate_limit_exceeded": Outcome.RATE_LIMITED,
        "insufficient_quota": Outcome.RATE_LIMITED,
        "limit_requests": Outcome.RATE_LIMITED,
        "limit_burst_rate": Outcome.RATE_LIMITED,
        "overloaded_error": Outcome.OVERLOADED,
    }
)

_REQUEST = frozenset({400, 404, 413, 422})
#: statuses, words in the message (lower case), meaning. Servers repeat in a message what a client wrote: no words here
#: may hold a target back, unless the status alone is one that no client can bring about. Such words are a dialect's.
WORDS: tuple[tuple[frozenset[int], str, Outcome], ...] = (
    (_REQUEST, "maximum context length", Outcome.CONTEXT_LENGTH),  # OpenAI, vLLM, SGLang
    (_REQUEST, "longer than the model's context length", Outcome.CONTEXT_LENGTH),  # SGLang
    (_REQUEST, "tokens) exceeds the maximum allowed length", Outcome.CONTEXT_LENGTH),  # SGLang, of its cache
    (_REQUEST, "longer than the maximum model length", Outcome.CONTEXT_LENGTH),  # vLLM
    (_REQUEST, "cannot be greater than max_model_len", Outcome.CONTEXT_LENGTH),  # vLLM, of the output limit
    (_REQUEST, "exceeds the available context size", Outcome.CONTEXT_LENGTH),  # llama.cpp
    (_REQUEST, "range of input length should be", Outcome.CONTEXT_LENGTH),  # DashScope
    (_REQUEST, "message token length exceed model limit", Outcome.CONTEXT_LENGTH),  # DashScope
    (_REQUEST, "input is too long", Outcome.CONTEXT_LENGTH),  # Bedrock
    (_REQUEST, "too many input tokens", Outcome.CONTEXT_LENGTH),  # Bedrock
    (_REQUEST, "exceeds the maximum number of tokens", Outcome.CONTEXT_LENGTH),  # Vertex
    (_REQUEST, "model only supports up to", Outcome.CONTEXT_LENGTH),  # Vertex
    (_REQUEST, "longer than the context length", Outcome.CONTEXT_LENGTH),  # Ollama
    (_REQUEST, "exceeds the context length", Outcome.CONTEXT_LENGTH),  # Ollama
    (_REQUEST, "prompt is too long", Outcome.CONTEXT_LENGTH),  # Fireworks
    (_REQUEST, "reduce the length of the messages", Outcome.CONTEXT_LENGTH),  # Groq, Cerebras
    (_REQUEST, "`max_new_tokens` must be", Outcome.CONTEXT_LENGTH),  # Together
    (_REQUEST, "`inputs` must have less than", Outcome.CONTEXT_LENGTH),  # text-generation-inference
    # Providers without a dialect, and what several of them pass on: OpenAI's newer models, xAI, Moonshot, LM Studio,
    # MiniMax, Anthropic, GitHub.
    (_REQUEST, "exceeds the context window", Outcome.CONTEXT_LENGTH),
    (_REQUEST, "maximum prompt length is", Outcome.CONTEXT_LENGTH),
    (_REQUEST, "exceeded model token limit", Outcome.CONTEXT_LENGTH),
    (_REQUEST, "greater than the context length", Outcome.CONTEXT_LENGTH),
    (_REQUEST, "context window exceeds limit", Outcome.CONTEXT_LENGTH),
    (_REQUEST, "exceed context limit", Outcome.CONTEXT_LENGTH),
    (_REQUEST, "prompt token count of ", Outcome.CONTEXT_LENGTH),
    (_REQUEST | {500}, "exceeds maximum input length", Outcome.CONTEXT_LENGTH),  # DeepInfra
    (frozenset({404}), "model", Outcome.MODEL_GONE),  # and not a wrong path
    # llama.cpp answers 500 to an image for a text model: the client's fault, though it looks as if a retry could help.
    (frozenset({500}), "image input is not supported", Outcome.CLIENT_ERROR),
    (frozenset({500}), "audio input is not supported", Outcome.CLIENT_ERROR),
)

_STATUSES: Mapping[int, Outcome] = MappingProxyType(
    {
        401: Outcome.AUTH,
        402: Outcome.RATE_LIMITED,  # out of money: another target may serve
        403: Outcome.FORBIDDEN,  # OpenRouter says so of a prompt that it moderates; elsewhere the key lacks a right
        # The gateway chose path and method; no client can make them wrong.
        404: Outcome.SERVER_ERROR,
        405: Outcome.SERVER_ERROR,
        408: Outcome.SERVER_ERROR,
        410: Outcome.MODEL_GONE,
        425: Outcome.OVERLOADED,
        429: Outcome.RATE_LIMITED,
        498: Outcome.OVERLOADED,  # Groq, of its flexible tier
        503: Outcome.OVERLOADED,
        529: Outcome.OVERLOADED,
    }
)


def classify(
    status: int,
    body: bytes,
    codes: Mapping[str, Outcome] = CODES,
    words: Iterable[tuple[int, re.Pattern[str], Outcome]] = (),
) -> Outcome:
    """What an answer with this status and body means.

    `codes` and `words` are the dialect's own, over those all servers share. Words that hold a target back must name
    the whole message or how it begins: a server may repeat in it what a client wrote.
    """
    if 200 <= status < 300:
        return Outcome.OK
    if 300 <= status < 400:
        return Outcome.REDIRECT
    error = _error(body)
    for name in (error.get("code"), error.get("type"), error.get("status")):  # the last: Google's
        if isinstance(name, str):
            outcome = codes.get(name) or CODES.get(name)
            if outcome is not None:
                return outcome
    message = _message(error)[:MESSAGE_MAX]
    for one, pattern, outcome in words:
        if status == one and pattern.search(message):
            return outcome
    message = message.lower()
    for statuses, said, outcome in WORDS:
        if status in statuses and said in message:
            return outcome
    return _STATUSES.get(status) or (Outcome.SERVER_ERROR if status >= 500 else Outcome.CLIENT_ERROR)


def relayed_error(status: int, body: bytes, secrets: Iterable[str] = ()) -> tuple[int, str, bytes] | None:
    """An upstream's own refusal as the client gets it: status, the gateway's code for it, body in OpenAI's shape.

    Message, type, code and param are kept; the message is bounded, `secrets` and addresses in it are blotted out. A
    code that is only the status again (llama.cpp, vLLM) becomes the gateway's word for it, as clients in typed
    languages cannot read a number there. None where the body is no JSON error: there is nothing to relay then. A
    status that is not 4xx becomes 400, because this is asked only for what the client is to blame for.
    """
    error = _error(body)
    text = _message(error)
    if not text:
        return None
    outcome = classify(status, body)
    status = status if 400 <= status < 500 else 400
    ours = "bad_request"
    if outcome is Outcome.CONTEXT_LENGTH:
        ours = "context_length_exceeded"
    elif status == 413:
        ours = "request_too_large"
    # Blotted out before anything is cut: what is left of a secret at a cut would no longer be known for one.
    longest_first = sorted(filter(None, secrets), key=len, reverse=True)

    def blotted(name: str, limit: int) -> str | None:
        value = text if name == "message" else error.get(name)
        if not isinstance(value, str):
            return None
        for secret in longest_first:
            value = value.replace(secret, "***")
        return _ADDRESS.sub("0x*", value)[:limit]

    told = {
        "message": blotted("message", MESSAGE_MAX),
        "type": blotted("type", _WORD_MAX) or "invalid_request_error",
        "param": blotted("param", _WORD_MAX),
        "code": blotted("code", _WORD_MAX) or ours,
    }
    return status, ours, msgspec.json.encode({"error": told})


def _error(body: bytes) -> dict[str, Any]:
    """The error object of a body: OpenAI's, or the whole where a server writes it flat; empty where there is none."""
    try:
        value: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # the last: nested thousands of levels deep
        return {}
    if isinstance(value, list) and value:  # Gemini's door wraps it
        value = value[0]
    if not isinstance(value, dict):
        return {}
    error = value.get("error")
    if isinstance(error, dict):
        return error
    return {**value, "message": error} if isinstance(error, str) else value


def _message(error: dict[str, Any]) -> str:
    found = error.get("message") or error.get("detail") or ""
    if isinstance(found, str):
        return found
    try:
        return msgspec.json.encode(found).decode()
    except RecursionError:  # just shallow enough to be read, and too deep to be written
        return ""
