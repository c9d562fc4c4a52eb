"""Records what a real server answers, byte for byte, as fixtures for the contract suite.

    python tests/wire/record.py groq --url https://api.groq.com/openai/v1 --key GROQ_API_KEY --model m --server Groq
    python tests/wire/record.py llama.cpp --url http://127.0.0.1:18080/v1 --model smollm2-135m-instruct --server b11549

Each case is sent as the gateway would send it to that dialect; `<case>.http` holds the raw response, head and chunk
framing included, and `index.json` beside it how it came about. Run it when a server's new version may answer otherwise,
and read the difference before committing it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import socket
import ssl
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[2]))

from gateway.core.request import wire
from gateway.core.servers.dialects import prepare, request_body
from gateway.core.types import Backend, Endpoint, Model, Target, Thinking

HERE = Path(__file__).parent
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
PENS = [{"role": "user", "content": "A cup costs 3 euros and a plate twice as much. What do a cup and a plate cost?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
ASKING = {"messages": [{"role": "user", "content": "What is the weather in Paris?"}], "tools": [WEATHER]}
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "city",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PICTURE = [
    {"type": "text", "text": "What is this?"},
    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
]

#: name -> (thinking mode, members of the client's request besides model, temperature and seed)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("never", {"messages": FRANCE, "max_tokens": 24}),
    "chat-length": ("never", {"messages": FRANCE, "max_tokens": 3}),
    "chat-thinking": ("always", {"messages": PENS, "max_tokens": 96}),
    "chat-n2": ("never", {"messages": FRANCE, "max_tokens": 12, "n": 2}),
    "chat-logprobs": ("never", {"messages": FRANCE, "max_tokens": 6, "logprobs": True, "top_logprobs": 2}),
    "chat-json-schema": ("never", {"messages": FRANCE, "max_tokens": 32, "response_format": SCHEMA}),
    "chat-tools": ("never", {**ASKING, "max_tokens": 48}),
    "stream": ("never", {"messages": FRANCE, "max_tokens": 24, "stream": True}),
    "stream-length": ("never", {"messages": FRANCE, "max_tokens": 3, "stream": True}),
    "stream-thinking": ("always", {"messages": PENS, "max_tokens": 96, "stream": True}),
    "stream-budget": ("budget:16", {"messages": PENS, "max_tokens": 96, "stream": True}),
    "stream-n2": ("never", {"messages": FRANCE, "max_tokens": 12, "n": 2, "stream": True}),
    "stream-logprobs": (
        "never",
        {"messages": FRANCE, "max_tokens": 6, "logprobs": True, "top_logprobs": 2, "stream": True},
    ),
    "stream-tools": ("never", {**ASKING, "max_tokens": 48, "stream": True}),
    "error-too-long": ("never", {"messages": [{"role": "user", "content": "word " * 20_000}]}),
    "error-too-long-stream": ("never", {"messages": [{"role": "user", "content": "word " * 20_000}], "stream": True}),
    "error-too-long-output": ("never", {"messages": FRANCE, "max_tokens": 9000}),
    "error-image": ("never", {"messages": [{"role": "user", "content": PICTURE}], "max_tokens": 3}),
    "error-request": ("never", {"messages": FRANCE, "response_format": {"type": "poem"}}),
    "error-model": ("never", {"messages": FRANCE, "max_tokens": 3, "model": "no-such-model"}),
}

#: Header fields of an answer that say whose account or session it was.
PERSONAL = re.compile(rb"(?i)\r\n(?:set-cookie|[a-z-]*(?:organi[sz]ation|account|project)[a-z-]*):[^\r]*(?=\r\n)")


def thinking_of(said: str) -> Thinking:
    """`never`, `always`, `client` or `budget:<tokens>`."""
    mode, _, budget = said.partition(":")
    return Thinking(mode, int(budget) if budget else None)  # type: ignore[arg-type]


def target_of(dialect: str, model: str, url: str = "http://127.0.0.1:1/v1") -> Target:
    """A switchable target of a dialect."""
    parts = urlsplit(url)
    https = parts.scheme == "https"
    port = parts.port or (443 if https else 80)
    place = Endpoint(url, "https" if https else "http", parts.hostname or "", port, parts.path)
    return Target("t", 0, Model(model, "x"), Backend("b", dialect, (place,)), model, 8192, thinking="switchable")


def ask(place: Endpoint, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """Every byte that a server answers to one request, but for header fields that say whose account it is."""
    own = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = (
        f"POST {place.path}{path} HTTP/1.1\r\nHost: {place.host}:{place.port}\r\nAccept-Encoding: identity\r\n"
        f"Connection: close\r\n{own}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with contextlib.ExitStack() as stack:
        conn: socket.socket = stack.enter_context(socket.create_connection((place.host, place.port), timeout=120))
        if place.scheme == "https":
            tls = ssl.create_default_context()
            conn = stack.enter_context(tls.wrap_socket(conn, server_hostname=place.host))
        conn.sendall(head.encode() + body)
        parts = []
        while part := conn.recv(65_536):
            parts.append(part)
    before, end, rest = b"".join(parts).partition(b"\r\n\r\n")
    return PERSONAL.sub(b"", before + b"\r\n")[:-2] + end + rest


def loading(place: Endpoint, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """The answer of a server that still loads its model: to be run before the server is started."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        try:
            return ask(place, path, headers, body)
        except OSError:
            time.sleep(0.002)
    raise TimeoutError("no server came up")


def main() -> None:
    """Record the cases named, all by default."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("dialect")
    given.add_argument("--url", required=True)
    given.add_argument("--model", required=True)
    given.add_argument("--server", required=True, help="name and version, kept in index.json")
    given.add_argument("--cases", nargs="*", default=[*CASES])
    given.add_argument("--loading", action="store_true", help="wait for the server and record its first answer only")
    given.add_argument("--members", type=json.loads, default={}, help="JSON merged into each request")
    given.add_argument("--key", metavar="NAME", help="the environment variable that holds the key; it is not recorded")
    args = given.parse_args()
    key = os.environ[args.key] if args.key else None
    target = target_of(args.dialect, args.model, args.url)
    plan, place = prepare(target), target.backend.endpoints[0]
    folder = HERE / args.dialect
    folder.mkdir(exist_ok=True)
    index_path = folder / "index.json"
    index = json.loads(index_path.read_text()) if index_path.exists() else {"cases": {}}
    chosen = {"error-loading": CASES["chat"]} if args.loading else {name: CASES[name] for name in args.cases}
    for name, (thinking, members) in chosen.items():
        request = {"model": args.model, "temperature": 0, "seed": 1, **members, **args.members}
        body = request_body(wire.parse(json.dumps(request).encode()), plan, thinking_of(thinking))
        if request["model"] != args.model:
            body = body.replace(json.dumps(args.model).encode(), json.dumps(request["model"]).encode())
        send = loading if args.loading else ask
        answer = send(place, plan.path, plan.headers(key), body)
        (folder / f"{name}.http").write_bytes(answer)
        if len(body) > 4096:
            request["messages"] = [{"role": "user", "content": f"(a prompt of {len(body)} bytes)"}]
        index["cases"][name] = {"seen": "live", "server": args.server, "thinking": thinking, "request": request}
        print(f"{name}: {answer.partition(b' ')[2][:40].split(bytes([13]))[0].decode()}, {len(answer)} bytes")
    index["cases"] = dict(sorted(index["cases"].items()))
    index_path.write_text(json.dumps(index, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
