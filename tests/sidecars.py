"""What tests of the sidecar share: an interpreter that has litellm, and servers that speak other APIs than OpenAI's."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.harness import ROOT, SSE_HEAD, Received, Script, Upstream, config, framed


def _python() -> str:
    named = os.environ.get("POINTSMAN_LITELLM_PYTHON") or str(ROOT / ".venv-litellm" / "bin" / "python")
    return named if Path(named).exists() else ""


PYTHON = _python()
needs_litellm = pytest.mark.skipif(
    not PYTHON,
    reason="needs litellm in an environment of its own: python3 -m venv .venv-litellm && "
    ".venv-litellm/bin/pip install --no-deps -r requirements/litellm.txt, or POINTSMAN_LITELLM_PYTHON",
)


def lite_backend(
    upstream: Upstream | str, model: str = "openai/m", **more: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A backend behind the sidecar and a target on it."""
    api_base = upstream if isinstance(upstream, str) else upstream.url
    backend = {"dialect": "litellm", "key": {"env": "LITE_KEY"}, "litellm": {"api_base": api_base}}
    target = {
        "model": "llama-3.3-70b",
        "backend": "lite",
        "upstream_id": model,
        "window": "128k",
        "price": {"input": 1.0, "output": 2.0},
        **more,
    }
    return backend, target


def settings(
    upstream: Upstream | str, model: str = "openai/m", others: dict[str, Upstream] | None = None, **more: Any
) -> dict[str, Any]:
    """A pointsman.yaml with one target `lite` behind the sidecar, and others as `harness.config` makes them."""
    made = config(dict(others or {}))
    made["backends"]["lite"], made["targets"]["lite"] = lite_backend(upstream, model, **more)
    made["sidecar"] = {"python": PYTHON}
    made["timeouts"] |= dict.fromkeys(("headers", "first_event", "idle"), "30s")  # litellm's first answer loads much
    return made


# -- Anthropic's API --


def _event(name: str, **data: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n".encode()


USED = {"input_tokens": 25, "output_tokens": 1}
OUTPUT_TOKENS = 8
TOOL = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Paris"}}


def anthropic_blocks(*, thinks: bool, calls: bool = False) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if thinks:
        blocks.append({"type": "thinking", "thinking": "Two and two.", "signature": "c2ln"})
    blocks.append(TOOL if calls else {"type": "text", "text": "It is four, as far as I know."})
    return blocks


def anthropic(conn: socket.socket, asked: Received) -> bool:
    """Answers like api.anthropic.com/v1/messages: thinking and tools where asked for, streamed where asked for."""
    body = asked.json
    thinks = body.get("thinking", {}).get("type") in ("enabled", "adaptive")
    calls = bool(body.get("tools"))
    blocks = anthropic_blocks(thinks=thinks, calls=calls)
    stop = "tool_use" if calls else "end_turn"
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5"}
    if not body.get("stream"):
        usage = {**USED, "output_tokens": OUTPUT_TOKENS}
        payload = json.dumps(
            {**message, "content": blocks, "stop_reason": stop, "stop_sequence": None, "usage": usage}
        ).encode()
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(payload)}\r\n\r\n"
        conn.sendall(head.encode() + payload)
        return True
    conn.sendall(SSE_HEAD)
    for event in anthropic_events(message, blocks, stop):
        conn.sendall(framed(event))
    conn.sendall(b"0\r\n\r\n")
    return True


def anthropic_events(message: dict[str, Any], blocks: list[dict[str, Any]], stop: str) -> list[bytes]:
    events = [
        _event("message_start", message={**message, "content": [], "stop_reason": None, "usage": USED}),
        _event("ping"),
    ]
    for index, block in enumerate(blocks):
        kind = block["type"]
        empty = {
            "thinking": {"thinking": "", "signature": ""},
            "text": {"text": ""},
            "tool_use": {**block, "input": {}},
        }
        events.append(_event("content_block_start", index=index, content_block={"type": kind, **empty[kind]}))
        deltas: list[dict[str, Any]] = []
        if kind == "thinking":
            deltas = [{"type": "thinking_delta", "thinking": part} for part in ("Two ", "and two.")]
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
        elif kind == "text":
            deltas = [{"type": "text_delta", "text": part} for part in ("It is ", "four, ", "as far as I know.")]
        else:
            said = json.dumps(block["input"])
            deltas = [{"type": "input_json_delta", "partial_json": part} for part in (said[:5], said[5:])]
        events += [_event("content_block_delta", index=index, delta=delta) for delta in deltas]
        events.append(_event("content_block_stop", index=index))
    end = {"stop_reason": stop, "stop_sequence": None}
    return [*events, _event("message_delta", delta=end, usage={"output_tokens": OUTPUT_TOKENS}), _event("message_stop")]


#: A script as the harness takes them.
ANTHROPIC: Script = anthropic
