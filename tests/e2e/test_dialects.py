"""The bytes of tests/wire through a running gateway: what a client gets of each provider, and what a failover makes of
a model that each says it no longer has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.harness import ROOT, Gateway, Script, Upstream, chat, config, plain, raw, running

WIRE = ROOT / "tests" / "wire"
PROVIDERS = ("sglang", "openrouter", "together", "groq", "fireworks", "deepinfra", "cerebras", "huggingface")
TEXT = "The capital of France is Paris."
MODEL = "qwen3.5-35b-a3b"


def recorded(dialect: str, name: str) -> bytes:
    return (WIRE / dialect / f"{name}.http").read_bytes()


def target(price: float, **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "window": "128k", "upstream_id": "m", "price": {"input": price, "output": price}, **more}


class Providers:
    """One backend and one target for each of `scripts`, named alike; the first is the cheapest."""

    def __init__(self, stack: ExitStack, directory: Path, scripts: dict[str, tuple[str, list[Script]]]) -> None:
        self.upstreams = {name: Upstream(answers) for name, (_, answers) in scripts.items()}
        settings = config({}, max_attempts=16)
        for number, (name, (dialect, _)) in enumerate(scripts.items(), 1):
            stack.callback(self.upstreams[name].close)
            url = self.upstreams[name].url
            settings["backends"][name] = {"dialect": dialect, "base_url": url, "key": {"env": "UPSTREAM_KEY"}}
            settings["targets"][name] = target(number, backend=name)
        self.gateway: Gateway = stack.enter_context(running(directory, settings))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def test_every_provider_s_answers_and_streams_arrive(stack: ExitStack, tmp_path: Path) -> None:
    cases = ("chat", "chat-thinking", "stream", "stream-thinking")
    providers = Providers(
        stack, tmp_path, {name: (name, [raw(recorded(name, case)) for case in cases]) for name in PROVIDERS}
    )
    post = providers.gateway.post
    for name in PROVIDERS:
        answer = post(chat(name))
        assert (answer.status_code, answer.headers["x-pointsman-attempts"]) == (200, "1"), name
        assert answer.content == recorded(name, "chat").partition(b"\r\n\r\n")[2], name
        used = answer.json()["usage"]
        price = PROVIDERS.index(name) + 1
        cost = (used["prompt_tokens"] + used["completion_tokens"]) * price / 1_000_000
        assert answer.headers["x-pointsman-cost-usd"] == f"{cost:.9f}", name
        message = post(chat(name)).json()["choices"][0]["message"]
        assert message.get("reasoning") or message["reasoning_content"], name
        for expected in (TEXT, "Four."):
            said = "".join(delta.get("content") or "" for delta in deltas(post(chat(name, stream=True)).content))
            assert said.rpartition("</think>")[2] == expected, name
        sent = providers.upstreams[name].requests[-1]
        assert sent.header("authorization") == "Bearer sk-upstream-canary-1", name
        assert sent.json["stream_options"] == {"include_usage": True}, name


def deltas(body: bytes) -> Iterator[dict[str, Any]]:
    events = [event for event in body.split(b"\n\n") if event.startswith(b"data: ")]
    assert events[-1] == b"data: [DONE]"
    for event in events[:-1]:
        for choice in json.loads(event[6:])["choices"]:
            yield choice["delta"]


def test_a_model_that_is_gone_everywhere_is_answered_by_who_still_has_it(stack: ExitStack, tmp_path: Path) -> None:
    gone = [(name, path.stem) for name in PROVIDERS for path in sorted((WIRE / name).glob("error-model*.http"))]
    assert {name for name, _ in gone} == set(PROVIDERS) - {"sglang"}  # which answers to any name
    scripts = {f"{name}-{case}": (name, [raw(recorded(name, case))]) for name, case in gone}
    providers = Providers(stack, tmp_path, scripts | {"spare": ("vllm", [plain()])})
    answer = providers.gateway.post(chat(MODEL))
    assert (answer.status_code, answer.headers["x-pointsman-target"]) == (200, "spare")
    assert answer.headers["x-pointsman-attempts"] == str(len(gone) + 1)
    states = {one["target"]: one["state"] for one in providers.gateway.get("/v1/targets", admin=True).json()["data"]}
    assert states == dict.fromkeys(scripts, "gone") | {"spare": "healthy"}
    assert providers.gateway.post(chat(MODEL)).headers["x-pointsman-attempts"] == "1"


def test_an_error_in_place_of_an_answer_fails_over_whatever_the_status_was(stack: ExitStack, tmp_path: Path) -> None:
    first = [
        raw(recorded("openrouter", case)) for case in ("error-in-answer", "error-in-stream", "error-in-answer-part")
    ]
    providers = Providers(
        stack,
        tmp_path,
        {"openrouter": ("openrouter", first), "spare": ("vllm", [plain(), raw(recorded("vllm", "stream"))])},
    )
    answer = providers.gateway.post(chat(MODEL))
    assert (answer.status_code, answer.headers["x-pointsman-target"]) == (200, "spare")
    answer = providers.gateway.post(chat(MODEL, stream=True))
    assert (answer.status_code, answer.headers["x-pointsman-target"]) == (200, "spare")
    assert b"PROCESSING" not in answer.content


@pytest.mark.parametrize("name", ["broken-provider", "broken-abort", "broken-tool-use"])
def test_a_provider_that_gives_up_behind_the_first_event_is_told_by_one_error(
    stack: ExitStack, tmp_path: Path, name: str
) -> None:
    [dialect] = [one for one in PROVIDERS if (WIRE / one / f"{name}.http").exists()]
    providers = Providers(
        stack, tmp_path, {dialect: (dialect, [raw(recorded(dialect, name))]), "spare": ("vllm", [plain()])}
    )
    answer = providers.gateway.post(chat(MODEL, stream=True))
    events = [event for event in answer.content.split(b"\n\n") if event.startswith(b"data: ")]
    assert json.loads(events[-1][6:])["error"]["code"] == "upstream_stream_interrupted"
    assert sum(b'"error"' in event for event in events) == 1
    assert not providers.upstreams["spare"].requests


def test_a_call_that_groq_refuses_itself_is_left_to_another_model_and_blames_nobody(
    stack: ExitStack, tmp_path: Path
) -> None:
    refused = [raw(recorded("groq", "error-tool-use"))]
    providers = Providers(stack, tmp_path, {"groq": ("groq", refused), "spare": ("vllm", [plain()])})
    for attempt in range(1, 8):
        answer = providers.gateway.post(chat(MODEL))
        assert (answer.status_code, answer.headers["x-pointsman-target"]) == (200, "spare")
        assert len(providers.upstreams["groq"].requests) == attempt


def test_what_a_sidecar_cannot_say_is_left_to_another_target_and_told_in_its_words_where_there_is_none(
    stack: ExitStack, tmp_path: Path
) -> None:
    said = "Several choices are not streamed through this provider."
    error = {"message": said, "type": "invalid_request_error", "param": "n", "code": "unsupported_parameter"}
    refused = [plain(400, json.dumps({"error": error}).encode())]
    upstreams = {"far": ("litellm", refused), "spare": ("vllm", [raw(recorded("vllm", "stream"))])}
    providers = Providers(stack, tmp_path, upstreams)
    answer = providers.gateway.post(chat(MODEL, stream=True, n=2))
    assert (answer.status_code, answer.headers["x-pointsman-target"]) == (200, "spare")
    answer = providers.gateway.post(chat("far", stream=True, n=2))
    assert (answer.status_code, answer.json()["error"]) == (400, error)
