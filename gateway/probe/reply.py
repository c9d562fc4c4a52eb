"""What the answers of a probe show, and the few odd things it sends: reading and writing of values only.

The requests themselves, and what is concluded from them, are in `probetarget`.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gateway import servers
from gateway.core.answer.chunk import load
from gateway.core.types import Outcome, Usage

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city now.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"zq_kind": {"type": "string", "enum": ["violet", "umber"]}, "zq_size": {"type": "integer"}},
    "required": ["zq_kind", "zq_size"],
    "additionalProperties": False,
}
#: Parameters that servers refuse or ignore, and how an answer shows that one was heeded; None: it does not show.
PARAMETERS: Mapping[str, tuple[Any, Callable[[Mapping[str, Any]], bool] | None]] = {
    "logprobs": (True, lambda answer: bool((answer["choices"][0].get("logprobs") or {}).get("content"))),
    "n": (2, lambda answer: len(answer["choices"]) == 2),
    "seed": (7, None),
    "stop": (["\n\n\n"], None),
    "frequency_penalty": (0.1, None),
    "presence_penalty": (0.1, None),
}
#: Where a refusal for length names the window.
_LENGTHS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"maximum context length (?:is|of) ([0-9][0-9,]{0,15})",
        r"context (?:size|window|length)\D{0,40}?([0-9][0-9,]{2,15})",
        r"input length should be \[\s*[0-9]+\s*,\s*([0-9]{1,12})",
        r"maximum (?:model length|input length|number of tokens)\D{0,20}([0-9][0-9,]{2,15})",
    )
)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one chat request. `usage_in` says where a stream carried its usage."""

    outcome: Outcome | None  # None: no answer at all
    status: int = 0
    body: bytes = b""
    error: str = ""
    reasoned: bool = False
    usage: Usage | None = None
    usage_in: str = ""
    took_s: float = 0.0

    @property
    def ok(self) -> bool:
        """A complete, valid answer."""
        return self.outcome is Outcome.OK

    def message(self) -> Mapping[str, Any]:
        """The first choice's message; empty where there is none."""
        try:
            found = json.loads(self.body)["choices"][0]["message"]
        except (ValueError, LookupError, TypeError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def said(self) -> str:
        """How a refusal is told: outcome, status and the server's own words, on one line, however long."""
        words = self.error
        if not words and self.status != 200:
            told = servers.Answer(self.status, self.body).json()
            inner = told.get("error", told) if isinstance(told, dict) else told
            words = str(inner.get("message", inner) if isinstance(inner, dict) else inner or "")
        outcome = self.outcome.value if self.outcome is not None else "no answer"
        status = f" (status {self.status})" if self.status else ""
        return " ".join(f"{outcome}{status}: {words}".split()).rstrip(": ")


def filler(tokens: int) -> str:
    """Text of at least so many tokens in every vocabulary that matters: each word is one, or more."""
    return " ".join(["a"] * tokens)


def unheeded(reply: Reply, names: Iterable[str]) -> list[str]:
    """Of the parameters sent, those that the answer shows were ignored."""
    if not reply.ok:
        return []
    try:
        answer = json.loads(reply.body)
        checks = {name: PARAMETERS[name][1] for name in names}
        return [name for name, heeded in checks.items() if heeded is not None and not heeded(answer)]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return []


def holds_schema(content: Any) -> bool:
    """Whether an answer keeps to `SCHEMA`, of which the prompt says nothing."""
    try:
        found = json.loads(content)
    except (ValueError, TypeError, RecursionError):
        return False
    return (
        isinstance(found, dict)
        and found.keys() == {"zq_kind", "zq_size"}
        and found["zq_kind"] in ("violet", "umber")
        and type(found["zq_size"]) is int
    )


def usage_in(stream: bytes) -> str:
    """Where a stream carries its usage: in a chunk of its own (OpenAI's way), in the last chunk, or in every one."""
    events = [load(line[5:].strip()) for line in stream.split(b"\n") if line.startswith(b"data:")]
    chunks = [one[0] for one in events if one is not None and isinstance(one[0], dict)]
    having = [one for one in chunks if one.get("usage")]
    if not having:
        return ""
    if len(having) > 1:
        return "in every chunk" if len(having) >= len(chunks) - 1 else f"in {len(having)} chunks"
    if not having[0].get("choices"):
        return "in a last chunk of its own"
    return "with the last chunk" if having[0] is chunks[-1] else "before the last chunk"


def length_in(body: bytes) -> int | None:
    """The window that a refusal names."""
    told = servers.Answer(400, body).json()
    error = told.get("error", told) if isinstance(told, dict) else None
    if isinstance(error, dict):
        if type(error.get("n_ctx")) is int and error["n_ctx"] > 0:
            return int(error["n_ctx"])
        words = str(error.get("message") or error.get("detail") or "")
        for pattern in _LENGTHS:
            if found := pattern.search(words):
                return int(found[1].replace(",", ""))
    return None


def png() -> bytes:
    """A red square of 64 by 64 pixels: the smallest that every server reads."""
    side = 64
    rows = (b"\0" + b"\xff\0\0" * side) * side

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b"")
