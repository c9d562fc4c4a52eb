"""Real parts for tests of the running gateway: a scripted upstream on a socket, and the gateway as a process.

A script is a function that is given the connection and the request it received and writes whatever bytes it likes;
each request takes the next script, the last one repeats.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
KEY = "sk-test-0123456789"
Script = Callable[[socket.socket, "Received"], bool]


@dataclass
class Received:
    """One request as the upstream got it."""

    head: bytes
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.strip().lower() == name.lower().encode():
                return value.strip().decode()
        return None


@dataclass
class Upstream:
    """A scripted upstream. `closed_at` has the time each connection was seen closed by the gateway."""

    scripts: list[Script]
    tls: ssl.SSLContext | None = None
    requests: list[Received] = field(default_factory=list)
    connections: int = 0
    closed_at: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/v1"

    def _accept(self) -> None:
        while True:
            try:
                conn, _ = self._listener.accept()
            except OSError:
                return
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections += 1
            threading.Thread(target=self._serve, args=(conn,), daemon=True).start()

    def _serve(self, conn: socket.socket) -> None:
        self._open.add(conn)
        try:
            if self.tls is not None:
                conn = self.tls.wrap_socket(conn, server_side=True)
            while (request := read_message(conn)) is not None:
                if b"X-Prometheus-Scrape" in request.head:
                    return  # a Prometheus of another test, beside this one: its gateway had this port before
                with self._lock:
                    index = min(len(self.requests), len(self.scripts) - 1)
                    self.requests.append(request)
                if not self.scripts[index](conn, request):
                    break
            else:
                self.closed_at.append(time.monotonic())
        except OSError:
            self.closed_at.append(time.monotonic())
        finally:
            self._open.discard(conn)
            with contextlib.suppress(OSError):
                conn.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts; closing alone would not
        self._listener.close()
        for conn in list(self._open):
            with contextlib.suppress(OSError):
                conn.close()


def read_message(conn: socket.socket) -> Received | None:
    """One request off a socket, None at its end."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = conn.recv(65536)
        if not more:
            return None
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    match = re.search(rb"(?i)content-length: *(\d+)", head)
    length = int(match[1]) if match else 0
    while len(body) < length:
        more = conn.recv(1 << 20)
        if not more:
            return None
        body += more
    return Received(head, body)


# -- scripts --

COMPLETION = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12},
}


def chunk(content: str | None = None, *, finish: str | None = None, usage: Any = None, **delta: Any) -> bytes:
    """One SSE event of a chat completion stream."""
    if content is not None:
        delta["content"] = content
    event: dict[str, Any] = {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [] if usage else [{"index": 0, "delta": delta, "finish_reason": finish}],
    }
    if usage:
        event["usage"] = usage
    return b"data: " + json.dumps(event).encode() + b"\n\n"


ROLE = chunk(role="assistant")
STOP = chunk(finish="stop")
USAGE = chunk(usage={"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13})
DONE = b"data: [DONE]\n\n"
STREAM = [ROLE, chunk("Hel"), chunk("lo."), STOP, USAGE, DONE]


def plain(
    status: int = 200, body: bytes | None = None, headers: str = "", content_type: str = "application/json"
) -> Script:
    """A complete answer with a length."""
    payload = json.dumps(COMPLETION).encode() if body is None else body

    def script(conn: socket.socket, _: Received) -> bool:
        head = f"HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\ncontent-length: {len(payload)}\r\n{headers}\r\n"
        conn.sendall(head.encode() + payload)
        return True

    return script


SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def framed(event: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(event), event)


def stream(events: list[bytes] | None = None, *, pause_s: float = 0.0, end: str = "clean") -> Script:
    """A chunked SSE answer. `end`: clean, eof (cut without the last chunk), reset, hang."""

    def script(conn: socket.socket, _: Received) -> bool:
        conn.sendall(SSE_HEAD)
        for event in STREAM if events is None else events:
            conn.sendall(framed(event))
            if pause_s:
                time.sleep(pause_s)
        if end == "clean":
            conn.sendall(b"0\r\n\r\n")
            return True
        if end == "reset":
            reset(conn)
        elif end == "hang":
            conn.recv(1)  # returns when the gateway closes
            raise OSError("closed by the gateway")
        return False

    return script


def reset(conn: socket.socket) -> None:
    """Close with a TCP reset."""
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def hang(conn: socket.socket, _: Received) -> bool:
    """Never answer."""
    conn.recv(1)
    raise OSError("closed by the gateway")


def slam(conn: socket.socket, _: Received) -> bool:
    """Reset as soon as the request is read."""
    reset(conn)
    return False


def raw(data: bytes, *, keep: bool = False) -> Script:
    """Exactly these bytes."""

    def script(conn: socket.socket, _: Received) -> bool:
        conn.sendall(data)
        return keep

    return script


# -- the gateway --


def config(upstreams: dict[str, Upstream] | dict[str, str], **over: Any) -> dict[str, Any]:
    """A pointsman.yaml with one openai backend and one target per upstream, targets named like the upstreams."""
    backends, targets = {}, {}
    for name, upstream in upstreams.items():
        url = upstream if isinstance(upstream, str) else upstream.url
        backends[name] = {"dialect": "openai", "endpoints": [url], "key": {"env": "UPSTREAM_KEY"}}
        targets[name] = {
            "model": "llama-3.3-70b",
            "backend": name,
            "upstream_id": "m",
            "window": "128k",
            "price": {"input": 1.0, "output": 2.0},
        }
    made: dict[str, Any] = {
        "listen": {"public": "127.0.0.1:0", "admin": "127.0.0.1:0"},
        "backends": backends,
        "targets": targets,
        "keys": [
            {
                "name": "test",
                "sha256": hashlib.sha256(KEY.encode()).hexdigest(),
                "allow": ["*"],
                "explain": True,
                "tenant": {"team": "qa"},
            }
        ],
        "timeouts": {"connect": "1s", "headers": "2s", "first_event": "2s", "idle": "2s", "total": "30s"},
    }
    made.update(over)
    return made


SERVE = ("-m", "gateway.cli", "serve", "--config")


@dataclass
class Gateway:
    """A running gateway process."""

    process: subprocess.Popen[str]
    public: str
    admin: str
    directory: Path
    lines: list[str]

    @property
    def port(self) -> int:
        return int(self.public.rsplit(":", 1)[1])

    def post(
        self, body: Any, *, path: str = "/v1/chat/completions", key: str | None = KEY, **headers: str
    ) -> httpx.Response:
        sent = {k.replace("_", "-"): v for k, v in headers.items()}
        if key is not None:
            sent["authorization"] = f"Bearer {key}"
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent.setdefault("content-type", "application/json")
        return httpx.post(self.public + path, content=content, headers=sent, timeout=30)

    def get(self, path: str, *, admin: bool = False) -> httpx.Response:
        return httpx.get(
            (self.admin if admin else self.public) + path, headers={"authorization": f"Bearer {KEY}"}, timeout=30
        )

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def metric(self, line_start: str) -> float:
        """The sum of the samples whose line starts so."""
        text = self.get("/metrics", admin=True).text
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(line_start))


@contextlib.contextmanager
def running(
    directory: Path, settings: dict[str, Any], *, command: tuple[str, ...] = SERVE, **environ: str
) -> Iterator[Gateway]:
    """`serving` with a file of these settings."""
    path = directory / "pointsman.yaml"
    with path.open("w") as file:
        YAML().dump(settings, file)
    with serving(path, command=command, **environ) as gateway:
        yield gateway


@contextlib.contextmanager
def serving(path: Path, *, command: tuple[str, ...] = SERVE, **environ: str) -> Iterator[Gateway]:
    """Start `pointsman serve` with this file, and stop it at the end however the test went."""
    env = {**os.environ, "UPSTREAM_KEY": "sk-upstream-canary-1", "PYTHONUNBUFFERED": "1", **environ}
    env.setdefault("XDG_STATE_HOME", str(path.parent / "state"))
    process = subprocess.Popen(
        [sys.executable, *command, str(path)],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: list[str] = []
    found: dict[str, str] = {}
    ready = threading.Event()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            match = re.search(r"(public|admin) listener on (http://[\w.:\[\]-]+)", line)
            if match:
                found[match[1]] = match[2]
                if len(found) == 2:
                    ready.set()
        ready.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        ready.wait(30)
        if len(found) != 2:
            raise AssertionError("the gateway did not start:\n" + "\n".join(lines))
        yield Gateway(process, found["public"], found["admin"], path.parent, lines)
    finally:
        end(process)
        reader.join(5)
        assert process.stdout is not None
        process.stdout.close()


def end(process: subprocess.Popen[Any]) -> None:
    """Ask it to, and after ten seconds no more."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def chat(model: str = "auto", text: str = "Say hello.", **more: Any) -> dict[str, Any]:
    """A small chat request."""
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


def took_s(gateway: Gateway, answer: httpx.Response) -> float:
    """Seconds that a request took by the gateway's own log: what a busy machine adds at the client is not in it."""
    name = answer.headers["x-request-id"]

    def lines() -> list[str]:
        return [line for line in gateway.lines if name in line and '"duration_ms"' in line]

    assert eventually(lambda: bool(lines()))
    return float(json.loads(lines()[0])["duration_ms"]) / 1000


def eventually(true: Callable[[], bool], within_s: float = 15.0) -> bool:
    """Whether something becomes true within a time; waits no longer than it takes."""
    ends_at = time.monotonic() + within_s
    while time.monotonic() < ends_at:
        if true():
            return True
        time.sleep(0.02)
    return true()


def settled(count: Callable[[], int], still_s: float = 0.5, within_s: float = 8.0) -> int:
    """A count once it has stood still for a while."""
    ends_at = time.monotonic() + within_s
    last, since = count(), time.monotonic()
    while time.monotonic() - since < still_s and time.monotonic() < ends_at:
        time.sleep(0.02)
        if (now := count()) != last:
            last, since = now, time.monotonic()
    return last
