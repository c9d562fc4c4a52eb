"""Mixed traffic through a real gateway, for everything that reads its metrics: dashboards, alerts, `pointsman top`.

Four teams with two policies, a dozen targets of which each has its own way of being well or not, and requests of all
kinds: streamed and not, pinned and routed, refused, broken off, thought about although told not to, copied to a shadow.
The OTLP collector refuses what it is sent.
What a target does is counted, not drawn, so two runs differ in their times only.

    with traffic.running(directory) as site:
        site.traffic(seconds=10)
        site.reload()
        with site.broken():
            ...
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from ruamel.yaml import YAML

from gateway.demo import model as demo_model
from tests.harness import (
    COMPLETION,
    DONE,
    ROLE,
    ROOT,
    SSE_HEAD,
    STOP,
    Gateway,
    Received,
    Upstream,
    chat,
    chunk,
    framed,
    plain,
    reset,
    serving,
    stream,
)

TEAMS = ("shop", "research", "support", "batch")
#: What `{team}` sends as its key.
KEY = "sk-{team}-0123456789"

SHOP = """\
policy: shop
rules:
  - {id: long, when: {workload: long}, use: [{target.name: scout}, {target.name: second}]}
  - {id: code, when: {workload: code}, use: [{target.name: coder}, {target.name: second}]}
  - {id: hard, when: {workload: hard}, use: [{target.name: thinker}, {target.name: second}]}
  - {id: default, use: [{target.name: first}, {target.name: second}]}
constraints: [{id: private, when: {workload: private}, forbid: "*"}]
thinking:
  - {id: hard, when: {workload: hard}, set: {budget: 1k}}
latency: [{id: quick, first_event: {p50: 50ms}, samples: 5, over: 1m}]
shadow: [{id: trial, use: [{target.name: narrow}], share: 60%}]
"""
RESEARCH = """\
policy: research
rules:
  - {id: think, when: {workload: hard}, use: [{target.name: thinker}, {target.name: second}]}
  - {id: default, use: [{target.name: second}, {target.name: first}]}
thinking:
  - {id: hard, when: {workload: hard}, set: {budget: 1k}}
"""

#: name: model, what its server does, USD for a million tokens in and out, and what else the configuration says of it
TARGETS: dict[str, tuple[str, str, tuple[float, float] | None, dict[str, Any]]] = {
    "first": ("llama-4-maverick", "well", (0.2, 0.8), {"backend": "cloud"}),
    "second": ("qwen3.5-35b-a3b", "slow", (0.4, 2.4), {"thinking": "switchable", "backend": "cloud"}),
    "thinker": ("qwen3.5-122b-a10b", "thinks", (1.0, 6.0), {"thinking": "switchable", "backend": "cloud"}),
    "coder": ("qwen3-coder-next", "fails at times", (0.3, 1.2), {"backend": "cloud"}),
    "scout": ("llama-4-scout", "well", (0.1, 0.4), {"backend": "pair"}),
    "narrow": ("qwen3.5-35b-a3b", "slow", (0.4, 2.4), {"backend": "narrow"}),
    "cut": ("llama-3.1-8b", "breaks off", (0.1, 0.2), {"backend": "cloud"}),
    "silent": ("llama-3.1-8b", "tells no usage", (0.1, 0.2), {"backend": "cloud"}),
    "free": ("llama-3.1-8b", "well", None, {"backend": "cloud"}),
    "stubborn": ("qwen3.5-35b-a3b", "thinks", (0.4, 2.4), {"thinking": "switchable", "backend": "cloud"}),
    "locked": ("llama-3.3-70b", "refuses the key", (0.6, 0.6), {"backend": "cloud"}),
    "ailing": ("llama-3.3-70b", "is down", (0.6, 0.6), {"backend": "cloud"}),
}
LOCAL = "local"
#: In how many days this target's model is withdrawn.
RETIRES = ("first", 20)


class Server:
    """The scripted upstream: what it does depends on the model it is asked for and on how often that was before."""

    def __init__(self) -> None:
        self._counts = {how: itertools.count() for how in {what for _, what, _, _ in TARGETS.values()}}

    def __call__(self, conn: socket.socket, request: Received) -> bool:
        """Answer one request; see `tests.harness`."""
        asked = request.json
        how, streamed = asked["model"], asked.get("stream", False)
        n = next(self._counts[how])
        if how == "is down" or (how == "fails at times" and n % 6 == 2):
            return plain(503, b'{"error": {"message": "overloaded"}}')(conn, request)
        if how == "refuses the key":
            return plain(401, b'{"error": {"message": "no"}}')(conn, request)
        if how == "fails at times" and n % 6 == 5:
            return plain(429, b'{"error": {"message": "too many"}}', "retry-after: 1\r\n")(conn, request)
        if how == "fails at times" and n % 12 == 10:
            reset(conn)
            return False
        if how == "breaks off":
            return stream([ROLE, chunk("Half of an ans")], end="eof")(conn, request)
        words = 6 + n % 10
        usage = {"prompt_tokens": 200 + 40 * (n % 7), "completion_tokens": words, "total_tokens": 200 + words}
        if n % 3 == 0:
            usage["prompt_tokens_details"] = {"cached_tokens": 128}
        thought = 0
        if how == "thinks":
            thought = 4 + n % 5
            usage["completion_tokens"] += thought
            usage["completion_tokens_details"] = {"reasoning_tokens": thought}
        first_s = {"slow": 0.12, "thinks": 0.2}.get(how, 0.02) * (1 + n % 4 / 4)
        time.sleep(first_s)
        if not streamed:
            return self._whole(how, words, thought, usage)(conn, request)
        conn.sendall(SSE_HEAD + framed(ROLE))
        for _ in range(thought):
            conn.sendall(framed(chunk(reasoning_content="hm ")))
            time.sleep(0.01)
        for _ in range(words):
            conn.sendall(framed(chunk("word ")))
            time.sleep(0.02 if how == "slow" else 0.006)
        end = [STOP] if how == "tells no usage" else [STOP, chunk(usage=usage), DONE]  # it forgets [DONE], too
        conn.sendall(b"".join(map(framed, end)) + b"0\r\n\r\n")
        return True

    def _whole(self, how: str, words: int, thought: int, usage: dict[str, Any]) -> Any:
        message = {"role": "assistant", "content": "word " * words}
        if thought:
            message["reasoning_content"] = "hm " * thought
        made = COMPLETION | {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}
        if how == "tells no usage":
            del made["usage"]
        return plain(body=json.dumps(made).encode())


def slam(conn: socket.socket, _: Received) -> bool:
    """The broken one of a pair of replicas."""
    reset(conn)
    return False


def settings(up: str, broken: str, collector: str, local: str | None) -> dict[str, Any]:
    """pointsman.yaml for these upstreams; `local` is a llama.cpp server's address."""
    today = datetime.now(UTC).date()
    targets: dict[str, Any] = {}
    for name, (model, how, price, more) in TARGETS.items():
        targets[name] = {
            "model": model, "upstream_id": how, "window": "128k", **more,
            "price": "none" if price is None else {"input": price[0], "output": price[1]},
        }  # fmt: skip
    targets[RETIRES[0]]["retires_on"] = today + timedelta(days=RETIRES[1])
    secret = {"env": "UPSTREAM_KEY"}
    backends: dict[str, Any] = {
        "cloud": {"dialect": "vllm", "endpoints": [up], "key": dict(secret), "region": "eu-west-1", "hedge": "100ms"},
        "narrow": {"dialect": "vllm", "endpoints": [up], "key": dict(secret), "max_inflight": 2},
        "pair": {"dialect": "openai", "endpoints": [broken, up], "key": dict(secret), "region": "us-east-1"},
    }
    if local is not None:
        backends[LOCAL] = {"dialect": "llama.cpp", "self_hosted": True, "base_url": f"{local}/v1"}
        targets[LOCAL] = {
            "model": "llama-3.2-1b", "backend": LOCAL, "upstream_id": demo_model.ALIAS, "window": "8k",
            "stand_in": True, "price": {"gpu_hour_usd": 0.2, "tokens_per_hour": "10M"},
        }  # fmt: skip
    return {
        "listen": {"public": "127.0.0.1:0", "admin": "127.0.0.1:0"},
        "policies": {"dir": "policies", "default": "shop"},
        "backends": backends,
        "targets": targets,
        "savings": {"baseline": "thinker"},
        "limits": {"max_memory": "4GB"},
        "records": {"dir": "records"},
        "otlp": {"endpoint": collector.removesuffix("/v1")},
        "keys": [
            {
                "name": team,
                "sha256": hashlib.sha256(KEY.format(team=team).encode()).hexdigest(),
                "tenant": {"team": team},
                "explain": True,
                "budget": {"usd": 5 + place, "per": "day", "mode": "soft"},
            }
            for place, team in enumerate(TEAMS)
        ],
        "timeouts": {"connect": "1s", "headers": "2s", "first_event": "2s", "idle": "2s", "total": "30s"},
    }


@dataclass
class Site:
    """A running gateway with its upstreams, and what is sent to it."""

    gateway: Gateway
    local: str | None
    sent: int = 0
    _rounds: Iterator[int] = field(default_factory=itertools.count)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def traffic(self, seconds: float, clients: int = 6) -> None:
        """Send rounds of everything, over and over, from as many clients at a time."""
        ends_at = time.monotonic() + seconds
        failures: list[BaseException] = []

        def work() -> None:
            try:
                with httpx.Client(base_url=self.gateway.public, trust_env=False, timeout=30) as client:
                    while time.monotonic() < ends_at and not failures:
                        self.round(client)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    def round(self, client: httpx.Client) -> None:
        """Some of everything, once."""
        n = next(self._rounds)
        for team, workload, streamed in (
            ("shop", None, True), ("shop", None, False), ("shop", "code", True), ("support", None, True),
            ("research", "hard", True), ("batch", "long", False), ("shop", "hard", False), ("support", "code", False),
        ):  # fmt: skip
            policy = "research" if team == "research" else "shop"
            model = "auto" if n % 2 else f"auto/{policy}"
            self._ask(client, team, chat(model, stream=streamed), workload)
        for name, streamed in (("silent", True), ("free", False), ("cut", True), ("second", True)):
            self._ask(client, "batch", chat(name, stream=streamed))
        self._ask(client, "research", chat("ailing"))
        self._ask(client, "research", chat("locked" if n % 2 else "stubborn"), thinking="never")
        if self.local is not None and n % 4 == 0:
            self._ask(client, "batch", chat(LOCAL, stream=True, max_completion_tokens=12))
        self._ask(client, "shop", chat("auto"), "private")  # policy_denied
        if n % 2:
            self._ask(client, "batch", chat(f"name-{n}"))  # model_not_found
            self._ask(client, "nobody", chat("auto"))  # invalid_api_key
        else:
            self._ask(client, "batch", {"model": "auto", "messages": "no list"})  # bad_request
        self._leave("support")

    def _ask(
        self, client: httpx.Client, team: str, body: dict[str, Any], workload: str | None = None, **hints: str
    ) -> None:
        headers = {"authorization": f"Bearer {KEY.format(team=team)}"}
        headers |= {f"x-pointsman-{name}": value for name, value in hints.items()}
        if workload is not None:
            headers["x-pointsman-workload"] = workload
        client.post("/v1/chat/completions", json=body, headers=headers)
        with self._lock:
            self.sent += 1

    def _leave(self, team: str) -> None:
        """Ask for a stream and hang up at its first bytes."""
        body = json.dumps(chat("second", stream=True)).encode()
        with self.gateway.connect() as conn:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY.format(team=team)}\r\n"
            conn.sendall(f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
            conn.recv(64)
        with self._lock:
            self.sent += 1

    def reload(self) -> None:
        """Have the configuration loaded again."""
        assert self._asked_to_reload() == 200

    @contextlib.contextmanager
    def broken(self) -> Iterator[None]:
        """While this lasts, the configuration has a mistake in it, and was rejected."""
        path = self.gateway.directory / "pointsman.yaml"
        before = path.read_text("utf-8")
        path.write_text(before + "no-such-setting: 1\n", "utf-8")
        try:
            assert self._asked_to_reload() == 400
            yield
        finally:
            path.write_text(before, "utf-8")

    def _asked_to_reload(self) -> int:
        return httpx.post(f"{self.gateway.admin}/v1/reload", timeout=30, trust_env=False).status_code


@contextlib.contextmanager
def local_model(directory: Path) -> Iterator[str | None]:
    """A llama.cpp server with its own metrics, on one thread; None where its wheels are not installed."""
    if demo_model.missing():
        yield None
        return
    with open(directory / "model.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway.demo.model", "--threads", "1"],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (directory / "model.log").read_text()
        yield json.loads(line)["url"]
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


@contextlib.contextmanager
def running(directory: Path, *, model: bool = False, **over: Any) -> Iterator[Site]:
    """The gateway and its upstreams; with `model` a real llama.cpp among them. `over` replaces settings."""
    (directory / "policies").mkdir()
    for text in (SHOP, RESEARCH):
        name = text.split()[1]
        (directory / "policies" / f"{name}.yaml").write_text(text, "utf-8")
    up, broken, collector = Upstream([Server()]), Upstream([slam]), Upstream([plain(400)])
    try:
        with local_model(directory) if model else contextlib.nullcontext() as local:
            path = directory / "pointsman.yaml"
            with path.open("w", encoding="utf-8") as file:
                YAML().dump(settings(up.url, broken.url, collector.url, local) | over, file)
            with serving(path) as gateway:
                yield Site(gateway, local)
    finally:
        for upstream in (up, broken, collector):
            upstream.close()
