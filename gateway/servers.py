"""What a server says of itself: which models it lists, and how many tokens it says it takes.

Plain GETs of the endpoints that each kind of server has for it, bounded and timed; nothing is generated. For the
command line (`init`, `probe`), never for serving. What a server *does* is `probe`'s.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

LONGEST_S = 300.0
_MOST_BYTES = 8 << 20
_LONGEST_NAME = 256
#: Where servers and hosts put the window in an entry of their model list.
_WINDOWS = ("max_model_len", "context_length", "context_window", "max_context_length", "max_context_window", "n_ctx")
#: Parts of an entry in which they nest it. llama.cpp's `meta` is not one: it tells what the model was trained with.
_NESTED = ("metadata", "top_provider", "limits")


@dataclass(frozen=True, slots=True)
class Listed:
    """One model that a server lists. `window` is in tokens, None where the list does not say."""

    id: str
    window: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: `status` 0 and the reason in `error` where nothing did."""

    status: int
    body: bytes = b""
    error: str = ""

    def json(self) -> Any:
        """The body as JSON; None where it is none."""
        try:
            return httpx.Response(200, content=self.body).json()
        except (ValueError, RecursionError):
            return None


def send(client: httpx.Client, method: str, url: str, content: bytes | None = None) -> Answer:
    """One request; never raises for what a server or a network does. At most 8 MiB and 5 minutes of an answer count."""
    ends_at = time.monotonic() + LONGEST_S
    try:
        with client.stream(method, url, content=content) as response:
            parts, size = [], 0
            for part in response.iter_bytes():
                parts.append(part)
                size += len(part)
                if size > _MOST_BYTES:
                    return Answer(0, error="its answer is larger than 8 MiB")
                if time.monotonic() > ends_at:
                    return Answer(0, error="its answer does not come to an end")
            return Answer(response.status_code, b"".join(parts))
    except httpx.TimeoutException:
        return Answer(0, error="it did not answer in time")
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, ValueError) as error:
        return Answer(0, error=f"{type(error).__name__}: {str(error)[:200]}".rstrip(": "))


def models(client: httpx.Client, dialect: str, base_url: str) -> tuple[Answer, tuple[Listed, ...]]:
    """The models a server lists, as OpenAI's API has it."""
    answer = send(client, "GET", f"{base_url}/v1/models" if dialect == "ollama" else f"{base_url}/models")
    told = answer.json() if answer.status == 200 else None
    entries = told.get("data", told.get("models")) if isinstance(told, dict) else told
    if not isinstance(entries, list):
        return answer, ()
    return answer, tuple(
        Listed(entry["id"], _window(entry))
        for entry in entries
        if isinstance(entry, dict) and isinstance(entry.get("id"), str) and _is_name(entry["id"])
    )


def window(client: httpx.Client, dialect: str, base_url: str, model: str) -> int | None:
    """The tokens a server says it takes for a model, from where its kind says so; None where it does not say."""
    _, listed = models(client, dialect, base_url)
    found = next((one.window for one in listed if one.id == model), None)
    if found is not None:
        return found
    root = base_url.removesuffix("/v1")
    if dialect == "llama.cpp":
        return _props(send(client, "GET", f"{root}/props").json())
    if dialect == "sglang":
        told = send(client, "GET", f"{root}/get_server_info").json()
        return _positive(told.get("context_length")) if isinstance(told, dict) else None
    if dialect == "ollama":
        return _ollama(client, root, model)
    return None


def _is_name(text: str) -> bool:
    """A name is shown on a terminal and written into files: what no model is called is none."""
    return 0 < len(text) <= _LONGEST_NAME and text.isprintable()


def _window(entry: Mapping[str, Any]) -> int | None:
    for part in (entry, *(entry.get(name) for name in _NESTED)):
        if isinstance(part, dict):
            for name in _WINDOWS:
                if (found := _positive(part.get(name))) is not None:
                    return found
    return None


def _props(told: Any) -> int | None:
    """llama.cpp: the context of one slot, which is what one request can have."""
    settings = told.get("default_generation_settings") if isinstance(told, dict) else None
    return _positive(settings.get("n_ctx")) if isinstance(settings, dict) else None


def _ollama(client: httpx.Client, root: str, model: str) -> int | None:
    """Ollama: what the loaded model runs with, else the `num_ctx` its file sets. Its card's length is not served."""
    told = send(client, "GET", f"{root}/api/ps").json()
    for one in told.get("models", ()) if isinstance(told, dict) else ():
        if isinstance(one, dict) and model in (one.get("name"), one.get("model")):
            found = _positive(one.get("context_length"))
            if found is not None:
                return found
    body = httpx.Request("POST", "http://x", json={"model": model}).content
    shown = send(client, "POST", f"{root}/api/show", body).json()
    parameters = shown.get("parameters") if isinstance(shown, dict) else None
    for line in parameters.splitlines() if isinstance(parameters, str) else ():
        name, _, value = line.strip().partition(" ")
        if name == "num_ctx" and re.fullmatch(r"[0-9]{1,10}", value.strip()):
            return _positive(int(value))
    return None


def _positive(value: Any) -> int | None:
    return value if type(value) is int and 0 < value < 10**10 else None
