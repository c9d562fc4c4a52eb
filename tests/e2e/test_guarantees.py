"""What Pointsman guarantees, through a running gateway: who never gets a request, why, and that explain says the same.

The default policy over a small fleet of scripted upstreams that are named after what they stand for.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from ruamel.yaml import YAML

from tests.harness import KEY, ROOT, STREAM, Gateway, Received, Upstream, chat, config, plain, running, stream

#: name -> model, served window, region, USD per million tokens in and out. Two hold a million tokens.
FLEET: dict[str, tuple[str, str, str, float]] = {
    "scout": ("llama-4-scout", "1M", "us", 0.5),
    "maverick": ("llama-4-maverick", "128k", "us", 0.3),
    "llama3b": ("llama-3.2-3b", "16k", "eu", 0.01),
    "qwen122": ("qwen3.5-122b-a10b", "262144", "eu", 0.4),
    "qwen35": ("qwen3.5-35b-a3b", "262144", "us", 0.2),
    "qwen9": ("qwen3.5-9b", "128k", "us", 0.05),
    "plus": ("qwen3.5-plus", "1M", "ap-southeast-1", 0.6),
    "coder": ("qwen3-coder-next", "262144", "us", 0.2),
    "gemma": ("gemma-3-27b", "128k", "eu", 0.1),
}
LLAMA = {"scout", "maverick", "llama3b"}
LARGE = {"scout", "plus"}
#: One token each for every tokenizer we know, whether its vocabulary is installed or its bytes are counted.
LONG = "7 " * 150_000
MIDDLE = "7 " * 102_000
#: 300,000 tokens for Qwen, 360,000 for Llama, 900,000 bytes.
LONG_JAPANESE = "ぬ、む。ゆ、ぺ。ぽ、" * 30_000
JAPANESE = "来週の京都旅行のおすすめの計画を教えてください。よろしくお願いします。"
JAPANESE_CODE = "次の関数の間違いを直してください。\n```python\ndef f(x):\n    return x +\n```\nよろしくお願いします。"
KEYS: dict[str, dict[str, Any]] = {
    "test": {"explain": True},
    "plain": {},
    "berlin": {"explain": True, "tenant": {"domicile": "DE"}},
    "cheap": {"explain": True, "tenant": {"cost": "low"}},
    "eu-only": {"explain": True, "tenant": {"residency": "eu"}},
    "apache": {"explain": True, "tenant": {"licence": "spdx_only"}},
    "narrow": {"explain": True, "allow": ["scout", "auto/bare"]},
}


def secret(name: str) -> str:
    return KEY if name == "test" else f"sk-{name}-0123456789"


@dataclass
class Fleet:
    """The running gateway and its upstreams, of which some can be told to fail."""

    gateway: Gateway
    upstreams: dict[str, Upstream]
    attempts: list[str] = field(default_factory=list)  # who was asked, in order
    failing: set[str] = field(default_factory=set)
    blamed: set[str] = field(default_factory=set)  # failed since the last reset

    def answer(self, name: str, conn: socket.socket, request: Received) -> bool:
        self.attempts.append(name)
        if name in self.failing:
            self.blamed.add(name)
            return plain(500, b'{"error":{"message":"boom"}}')(conn, request)
        return (stream() if request.json.get("stream") else plain())(conn, request)

    def reset(self) -> None:
        """Everybody works again, and nobody is blamed for a failure."""
        self.failing = set()
        for name in self.blamed:
            assert self.post(chat(name)).status_code == 200
        self.blamed.clear()
        self.attempts.clear()
        for upstream in self.upstreams.values():
            upstream.requests.clear()

    def post(self, body: Any, key: str = "test", **headers: str) -> httpx.Response:
        return self.gateway.post(as_sdks_write(body), key=secret(key), **headers)

    def explain(self, body: Any, key: str = "test", **headers: str) -> httpx.Response:
        return self.gateway.post(as_sdks_write(body), path="/v1/explain", key=secret(key), **headers)


def as_sdks_write(body: Any) -> bytes:
    """JSON in UTF-8. Where no vocabulary is installed, long text in \\u escapes would count as twice its bytes."""
    return body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    directory = tmp_path_factory.mktemp("guarantees")
    policies(directory / "policies")
    ups = {name: Upstream([]) for name in FLEET}
    settings = config(ups, policies={"dir": "policies", "default": "default"}, max_attempts=16)
    settings["models"] = {"gpt-4o": "auto", "small": "maverick", "mini": "auto/bare"}
    settings["keys"] = [
        {"name": name, "sha256": hashlib.sha256(secret(name).encode()).hexdigest(), **more}
        for name, more in KEYS.items()
    ]
    for name, (model, window, region, usd) in FLEET.items():
        dialect = "dashscope" if name == "plus" else "vllm"
        processing = "eu" if region == "eu" else "global"
        settings["backends"][name] |= {
            "dialect": dialect, "region": region, "processing": processing, "self_hosted": name != "plus"
        }  # fmt: skip
        settings["targets"][name] |= {"model": model, "window": window, "price": {"input": usd, "output": usd}}
    settings["targets"]["gemma"]["unsupported"] = ["logprobs"]
    settings["targets"]["llama3b"]["tools"] = False
    with ExitStack() as stack:
        for upstream in ups.values():
            stack.callback(upstream.close)
        fleet = Fleet(stack.enter_context(running(directory, settings)), ups)
        for name, upstream in ups.items():
            upstream.scripts.append(lambda conn, request, name=name: fleet.answer(name, conn, request))  # type: ignore[misc]
        fleet.explain(chat(text=MIDDLE))  # loads the vocabularies there are, which takes seconds
        yield fleet


def policies(directory: Path) -> None:
    """The default policy, without its own tests: those here must find out by themselves.

    And "bare", the same without the rule that keeps Japanese from the rules behind it.
    """
    directory.mkdir()
    shutil.copytree(ROOT / "policies" / "parts", directory / "parts")
    policy = YAML(typ="safe").load((ROOT / "policies" / "default.yaml").read_text(encoding="utf-8"))
    del policy["tests"]
    rules = [rule for rule in policy["rules"] if rule["id"] != "non-english"]
    for name, made in {"default": policy, "bare": policy | {"policy": "bare", "rules": rules}}.items():
        with (directory / f"{name}.yaml").open("w", encoding="utf-8") as file:
            YAML().dump(made, file)


@pytest.fixture
def fleet(started: Fleet) -> Iterator[Fleet]:
    started.reset()
    yield started
    started.reset()


# -- a long prompt --


def test_a_300k_token_prompt_goes_to_the_target_that_holds_it(fleet: Fleet) -> None:
    served = fleet.post(chat(text=LONG))
    assert served.status_code == 200
    assert (served.headers["x-pointsman-rule"], fleet.attempts) == ("long-context", ["scout"])
    assert fleet.upstreams["scout"].requests[0].json["messages"][0]["content"] == LONG


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("model", ["auto", "gpt-4o", "auto/bare", "llama-4-scout"])
def test_no_fallback_of_a_300k_token_prompt_has_a_smaller_window(fleet: Fleet, model: str, streamed: bool) -> None:
    fleet.failing = {"scout"}
    served = fleet.post(chat(model, LONG, stream=streamed))
    if model == "llama-4-scout":
        assert (served.status_code, fleet.attempts) == (502, ["scout"])
    else:
        assert (served.status_code, fleet.attempts) == (200, ["scout", "plus"])
        fleet.attempts.clear()
        fleet.failing = {"scout", "plus"}
        assert fleet.post(chat(model, LONG, stream=streamed)).status_code == 502
        assert set(fleet.attempts) == LARGE


@pytest.mark.parametrize("name", [name for name in FLEET if name not in LARGE])
@pytest.mark.parametrize("by", ["target", "model"])
def test_a_pin_does_not_make_a_small_window_larger(fleet: Fleet, name: str, by: str) -> None:
    refused = fleet.post(chat(name if by == "target" else FLEET[name][0], LONG))
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert f"{name}: window " in refused.json()["error"]["message"]
    assert fleet.attempts == []


def test_an_alias_does_not_either(fleet: Fleet) -> None:
    refused = fleet.post(chat("small", LONG))
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert fleet.attempts == []


def test_a_large_target_by_name_or_alias_takes_it(fleet: Fleet) -> None:
    for model, asked in (("scout", "scout"), ("qwen3.5-plus", "plus")):
        assert fleet.post(chat(model, LONG)).status_code == 200
        assert fleet.attempts.pop() == asked


def test_204k_tokens_fall_back_to_what_holds_them_and_nobody_else(fleet: Fleet) -> None:
    fleet.failing = set(FLEET)
    assert fleet.post(chat(text=MIDDLE)).status_code == 502
    assert fleet.attempts[:2] == ["scout", "plus"]
    assert set(fleet.attempts) == {"scout", "plus", "qwen122", "qwen35", "coder"}


def test_the_requested_output_counts_towards_the_window(fleet: Fleet) -> None:
    prompt = "7 " * 60_000
    for output, status in ((5_000, 200), (20_000, 400)):
        assert fleet.post(chat("qwen9", prompt, max_tokens=output)).status_code == status


def test_a_prompt_that_nobody_holds_is_refused_for_good(fleet: Fleet) -> None:
    refused = fleet.post(chat(text="7 " * 600_000))
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert all(f"{name}: window" in refused.json()["error"]["message"] for name in FLEET)
    assert fleet.attempts == []


# -- a Japanese prompt --

JAPANESE_UNDER: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "non-english": ("auto", chat(text=JAPANESE), {}),
    "non-english, cost-sensitive": ("auto", chat(text=JAPANESE), {"x_pointsman_cost": "low"}),
    "default": ("auto/bare", chat(text=JAPANESE), {}),
    "cheap": ("auto/bare", chat(text=JAPANESE), {"x_pointsman_cost": "low"}),
    "code": ("auto", chat(text=JAPANESE_CODE), {}),
    "structured": ("auto/bare", chat(text=JAPANESE), {"x_pointsman_workload": "commerce"}),
    "long-context": ("auto", chat(text=LONG_JAPANESE), {}),
    "default, with an English system prompt": (
        "auto/bare",
        {"messages": [{"role": "system", "content": "You are a helpful assistant."}, *chat(text=JAPANESE)["messages"]]},
        {},
    ),
}


@pytest.mark.parametrize("name", JAPANESE_UNDER)
def test_a_japanese_prompt_goes_to_llama_only_when_nothing_else_is_left(fleet: Fleet, name: str) -> None:
    model, body, headers = JAPANESE_UNDER[name]
    body = {**body, "model": model}
    served = fleet.post(body, **headers)
    assert served.headers["x-pointsman-rule"] == name.partition(",")[0]
    assert fleet.attempts[0] not in LLAMA
    fleet.attempts.clear()
    fleet.failing = set(FLEET)
    assert fleet.post(body, **headers).status_code == 502
    llamas = [place for place, one in enumerate(fleet.attempts) if one in LLAMA]
    others = [place for place, one in enumerate(fleet.attempts) if one not in LLAMA]
    assert llamas, f"{fleet.attempts}: no Llama was a candidate: this shows nothing"
    assert max(others) < min(llamas), fleet.attempts
    fleet.failing = set(FLEET) - LLAMA
    assert fleet.post(body, **headers).status_code == 200


def test_the_same_in_english_goes_to_llama_first(fleet: Fleet) -> None:
    english = chat(text="Please tell me what I should see on a trip to Kyoto next week, and where to stay.")
    served = fleet.post(english)
    assert (served.headers["x-pointsman-rule"], fleet.attempts) == ("default", ["maverick"])


def test_a_japanese_prompt_that_only_llama_holds_goes_there(fleet: Fleet) -> None:
    fleet.failing = {"plus"}
    served = fleet.post(chat(text=LONG_JAPANESE))
    assert (served.status_code, fleet.attempts) == (200, ["plus", "scout"])


# -- refusals --

REFUSALS: dict[str, tuple[str, dict[str, Any], dict[str, str], str, str]] = {
    "context": ("test", chat(text="7 " * 600_000), {}, "context_length_exceeded", "window"),
    "context of a pin": ("test", chat("gemma", LONG), {}, "context_length_exceeded", "window"),
    "domicile": ("berlin", chat("scout"), {}, "policy_denied", "forbidden by eu-domicile"),
    "licence": ("apache", chat("llama-4-maverick"), {}, "policy_denied", "not what spdx-only requires"),
    "region": ("test", chat(), {"x_pointsman_region": "mars"}, "policy_denied", "is not in mars"),
    "residency": ("eu-only", chat("plus"), {}, "policy_denied", "not only in eu"),
    "tools": (
        "test",
        chat("llama3b", tools=[{"type": "function", "function": {"name": "f"}}]),
        {},
        "unsupported_capability",
        "has no tools",
    ),
    "audio": (
        "test",
        chat(text=[{"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}]),  # type: ignore[arg-type]
        {},
        "unsupported_capability",
        "does not read audio",
    ),
    "parameter": ("test", chat("gemma", logprobs=True), {}, "unsupported_parameter", "does not support logprobs"),
    "thinking": (
        "test",
        chat("coder"),
        {"x_pointsman_thinking": "always"},
        "unsupported_capability",
        "cannot promise thinking",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_names_the_reason_of_every_candidate(fleet: Fleet, name: str) -> None:
    key, body, headers, code, reason = REFUSALS[name]
    refused = fleet.post(body, key, **headers)
    error = refused.json()["error"]
    assert error["code"] == code
    told = fleet.explain(body, key, **headers).json()
    assert told["refusal"]["code"] == code
    path = f"/v1/decisions/{refused.headers['x-request-id']}"
    authorization = {"authorization": f"Bearer {secret(key)}"}
    kept = httpx.get(fleet.gateway.public + path, headers=authorization, timeout=30).json()["trace"]
    for trace in (told, kept):
        assert [entry["target"] for entry in trace["targets"]] == list(FLEET)
        assert all(entry["verdict"] == "dropped" and entry["reasons"] for entry in trace["targets"])
    asked = [entry for entry in told["targets"] if entry["reasons"][0] != "not what the client named"]
    assert asked
    for entry in asked:
        assert reason in " ".join(entry["reasons"])
        assert f"{entry['target']}: {', '.join(entry['reasons'])}" in error["message"]
    assert fleet.attempts == []


@pytest.mark.parametrize("name", [name for name, refusal in REFUSALS.items() if refusal[0] == "test"])
def test_a_key_that_may_not_explain_is_refused_without_names(fleet: Fleet, name: str) -> None:
    _, body, headers, code, _ = REFUSALS[name]
    refused = fleet.post(body, "plain", **headers)
    assert refused.json()["error"]["code"] == code
    told = refused.text + " ".join(f"{name}: {value}" for name, value in refused.headers.items())
    assert not [name for name in FLEET if name in told]
    assert not [model for model, *_ in FLEET.values() if model in told]


# -- explain and serve --

PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5Erk"
    "Jggg=="
)
IMAGE = {"type": "image_url", "image_url": {"url": PNG}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
HARD = "Prove that there are infinitely many prime numbers, and explain every step of the proof rigorously."


def said(*content: Any, **more: Any) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": list(content)}], **more}


#: name -> key, body, headers
FIXTURES: dict[str, tuple[str, Any, dict[str, str]]] = {
    "English": ("test", chat(), {}),
    "Japanese": ("test", chat(text=JAPANESE), {}),
    "French": ("test", chat(text="Bonjour, pouvez-vous me recommander un bon livre pour les vacances ?"), {}),
    "Hindi": ("test", chat(text="नमस्ते, कृपया मुझे भारत के इतिहास के बारे में कुछ बताइए।"), {}),
    "Japanese without the rule for it": ("test", chat("auto/bare", JAPANESE), {}),
    "code": ("test", chat(text="Fix this:\n```python\ndef f(x):\n    return x +\n```"), {}),
    "Japanese code": ("test", chat(text=JAPANESE_CODE), {}),
    "hard": ("test", chat(text=HARD), {}),
    "hard, short answer": ("test", chat(text=HARD, max_tokens=200), {}),
    "long": ("test", chat(text=LONG), {}),
    "long Japanese": ("test", chat(text=LONG_JAPANESE), {}),
    "too long for everybody": ("test", chat(text="7 " * 600_000), {}),
    "tools": ("test", chat(tools=[TOOL], tool_choice="auto"), {}),
    "tools for a target without": ("test", chat("llama3b", tools=[TOOL]), {}),
    "image": ("test", said(IMAGE, {"type": "text", "text": "What is this?"}), {}),
    "six images": ("test", said(*[IMAGE] * 6, {"type": "text", "text": "What is this?"}), {}),
    "audio": ("test", said({"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}), {}),
    "JSON object": ("test", chat(response_format={"type": "json_object"}), {}),
    "JSON schema": ("test", chat(response_format=SCHEMA), {}),
    "effort high": ("test", chat(reasoning_effort="high"), {}),
    "effort none": ("test", chat(reasoning_effort="none"), {}),
    "effort minimal": ("test", chat(reasoning_effort="minimal"), {}),
    "effort high of a target that cannot think": ("test", chat("maverick", reasoning_effort="high"), {}),
    "max_tokens": ("test", chat(max_tokens=50), {}),
    "max_completion_tokens": ("test", chat(max_completion_tokens=1_999), {}),
    "max_tokens beyond a window": ("test", chat("qwen9", max_tokens=200_000), {}),
    "streamed": ("test", chat(stream=True), {}),
    "streamed with usage": ("test", chat(stream=True, stream_options={"include_usage": True}), {}),
    "logprobs": ("test", chat(logprobs=True, top_logprobs=2), {}),
    "logprobs of a target without": ("test", chat("gemma", logprobs=True), {}),
    "flex": ("test", chat(service_tier="flex"), {}),
    "members nobody knows": ("test", chat(foo={"bar": [1.50, None]}, seed=12345678901234567890), {}),
    "hint: cost": ("test", chat(), {"x_pointsman_cost": "low"}),
    "hint: policy": ("test", chat(text=JAPANESE), {"x_pointsman_policy": "bare"}),
    "hint: region": ("test", chat(), {"x_pointsman_region": "eu"}),
    "hint: region of nobody": ("test", chat(), {"x_pointsman_region": "mars"}),
    "hint: residency": ("test", chat(text=JAPANESE), {"x_pointsman_residency": "eu"}),
    "hint: thinking always": ("test", chat(), {"x_pointsman_thinking": "always"}),
    "hint: thinking budget": ("test", chat("qwen122"), {"x_pointsman_thinking": "4k"}),
    "hint: thinking never": ("test", chat(text=HARD), {"x_pointsman_thinking": "never"}),
    "hint: workload": ("test", chat(), {"x_pointsman_workload": "commerce"}),
    "hint: conversation": ("test", chat(), {"x_pointsman_conversation": "c-1"}),
    "hint nobody knows": ("test", chat(), {"x_pointsman_colour": "red"}),
    "hint that is wrong": ("test", chat(), {"x_pointsman_cost": "free"}),
    "tenant in the EU": ("berlin", chat(), {}),
    "tenant in the EU, pinned": ("berlin", chat("maverick"), {}),
    "tenant with little money": ("cheap", chat(), {}),
    "tenant with residency": ("eu-only", chat(), {}),
    "tenant with residency, hint to leave it": ("eu-only", chat(), {"x_pointsman_residency": "us"}),
    "tenant of free licences": ("apache", chat(), {}),
    "pin: target": ("test", chat("qwen122"), {}),
    "pin: model": ("test", chat("qwen3.5-9b"), {}),
    "pin: alias of a model": ("test", chat("Qwen/Qwen3.5-122B-A10B"), {}),
    "pin: dashscope": ("test", chat("plus", HARD), {"x_pointsman_thinking": "always"}),
    "alias: policy": ("test", chat("mini", JAPANESE), {}),
    "alias: target": ("test", chat("small"), {}),
    "alias: auto": ("test", chat("gpt-4o"), {}),
    "allowed pin": ("narrow", chat("scout"), {}),
    "model not allowed": ("narrow", chat("auto"), {}),
    "policy not allowed by hint": ("narrow", chat("auto/bare"), {"x_pointsman_policy": "default"}),
    "unknown model": ("test", chat("gpt-9"), {}),
    "unknown policy": ("test", chat("auto/nowhere"), {}),
    "unknown policy by hint": ("test", chat(), {"x_pointsman_policy": "nowhere"}),
    "not JSON": ("test", b"{", {}),
    "NaN": ("test", b'{"model":"auto","messages":[{"role":"user","content":"x"}],"top_p":NaN}', {}),
    "duplicate key": ("test", b'{"model":"auto","messages":[],"model":"scout"}', {}),
    "not UTF-8": ("test", b'{"model":"\xff"}', {}),
    "too deep": ("test", b'{"model":"auto","messages":' + b"[" * 100 + b"]" * 100 + b"}", {}),
    "no messages": ("test", {"model": "auto"}, {}),
    "wrong type": ("test", chat(max_tokens="many"), {}),
    "compressed": ("test", b"\x1f\x8b", {"content_encoding": "gzip"}),
    "spaces and escapes": (
        "test",
        b'{ "model" : "auto" , "messages" : [ {"role":"user","content":"caf\\u00e9 \\ud83d\\ude00"} ] , "top_p": 1e0 }',
        {},
    ),
}


@pytest.mark.parametrize("name", FIXTURES)
def test_explain_and_serve_agree(fleet: Fleet, name: str) -> None:
    key, body, headers = FIXTURES[name]
    explained = fleet.explain(body, key, **headers)
    assert fleet.attempts == [], "an explanation was sent upstream"
    for _ in range(2):  # the second time the decision may come from memory
        served = fleet.post(body, key, **headers)
        agree(fleet, explained, served)


def agree(fleet: Fleet, explained: httpx.Response, served: httpx.Response) -> None:
    told = explained.json()
    if explained.status_code != 200:  # refused before any decision
        assert (served.status_code, served.json()) == (explained.status_code, told)
        assert fleet.attempts == []
        return
    assert served.headers["x-pointsman-policy"] == told["policy"]
    assert served.headers["x-pointsman-rule"] == told["rule"]
    assert served.headers["x-pointsman-because"] == told["because"]
    if told["refusal"] is not None:
        assert served.json()["error"]["code"] == told["refusal"]["code"]
        assert served.json()["error"]["message"].startswith(told["refusal"]["message"])
        assert told["wire_body"] is None
        assert fleet.attempts == []
        return
    assert served.status_code == 200
    assert fleet.attempts == told["candidates"][:1]
    assert served.headers["x-pointsman-target"] == told["candidates"][0]
    assert served.headers["x-pointsman-thinking"] == told["thinking"]["mode"]
    (received,) = fleet.upstreams[fleet.attempts.pop()].requests
    sent = received.body.decode()
    assert told["wire_body"] == (sent if len(received.body) <= 4096 else sent[:4096] + " ...") or (
        told["wire_body"].endswith(" ...") and sent.startswith(told["wire_body"][:-5])  # cut inside a character
    )
    fleet.upstreams[told["candidates"][0]].requests.clear()


# -- an upstream that is killed --

VICTIM = """
import socket, sys, time
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
conn, _ = listener.accept()
data = b""
while b"stream" not in data:
    data += conn.recv(65536)
conn.sendall(bytes.fromhex(sys.argv[1]))
print("asked", flush=True)
time.sleep(60)
"""
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture
def victim(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A process that answers one request with some bytes and then waits to be killed."""
    process = subprocess.Popen([sys.executable, "-c", VICTIM, request.param.hex()], stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def chunked(events: Sequence[bytes]) -> bytes:
    return HEAD + b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)


def ask_and_kill(tmp_path: Path, victim: subprocess.Popen[str]) -> tuple[httpx.Response, Upstream]:
    assert victim.stdout is not None
    port = int(victim.stdout.readline())
    spare = Upstream([stream()])
    try:
        with (
            running(tmp_path, config({"a": f"http://127.0.0.1:{port}/v1", "b": spare.url})) as gateway,
            httpx.Client(timeout=10) as client,
        ):
            body = json.dumps(chat("llama-3.3-70b", stream=True)).encode()
            headers = {"authorization": f"Bearer {KEY}"}
            url = gateway.public + "/v1/chat/completions"

            killer = kill_when_asked(victim)
            answer = client.post(url, content=body, headers=headers)
            killer.join(5)
            return answer, spare
    finally:
        spare.close()


def kill_when_asked(victim: subprocess.Popen[str]) -> threading.Thread:
    def kill() -> None:
        assert victim.stdout is not None
        assert victim.stdout.readline() == "asked\n"
        time.sleep(0.1)  # what it sent is on its way
        os.kill(victim.pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread


PLAIN_STREAM = b"".join(event for event in STREAM if b"prompt_tokens" not in event)


@pytest.mark.parametrize("victim", [b"", HEAD, chunked(STREAM[:1])], indirect=True, ids=["nothing", "head", "role"])
def test_killing_the_upstream_before_the_first_event_is_invisible(
    tmp_path: Path, victim: subprocess.Popen[str]
) -> None:
    answer, spare = ask_and_kill(tmp_path, victim)
    assert (answer.status_code, answer.content) == (200, PLAIN_STREAM)
    assert (answer.headers["x-pointsman-target"], answer.headers["x-pointsman-attempts"]) == ("b", "2")
    assert len(spare.requests) == 1


@pytest.mark.parametrize("victim", [chunked(STREAM[:2])], indirect=True, ids=["after the first event"])
def test_killing_the_upstream_after_it_is_exactly_one_error_event(
    tmp_path: Path, victim: subprocess.Popen[str]
) -> None:
    answer, spare = ask_and_kill(tmp_path, victim)
    assert answer.status_code == 200
    assert answer.content.startswith(b"".join(STREAM[:2]))
    (event,) = [event for event in answer.content[len(b"".join(STREAM[:2])) :].split(b"\n\n") if event]
    assert json.loads(event.removeprefix(b"data: "))["error"]["code"] == "upstream_stream_interrupted"
    assert b"[DONE]" not in answer.content
    assert not spare.requests
