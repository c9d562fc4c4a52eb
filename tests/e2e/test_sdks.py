"""The official SDKs, unmodified, against a running gateway in front of scripted upstreams."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.harness import (
    COMPLETION,
    DONE,
    KEY,
    ROLE,
    STREAM,
    USAGE,
    Gateway,
    Upstream,
    chunk,
    config,
    plain,
    running,
    slam,
    stream,
)

HERE = Path(__file__).parent
NODE_SDK = "openai@7.57.0"
MESSAGES: Any = [{"role": "user", "content": "Say hello."}]


def completion(**message: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": None, **message}, "finish_reason": "stop"}
    return json.dumps({**COMPLETION, "choices": [choice]}).encode()


CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'}}
LOGPROBS = {"content": [{"token": "He", "logprob": -0.1, "bytes": [72, 101], "top_logprobs": []}]}
TWO = [
    {"index": i, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop", "logprobs": LOGPROBS}
    for i in (0, 1)
]
CALL_STREAM = [
    ROLE,
    chunk(
        tool_calls=[
            {"index": 0, "id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
        ]
    ),
    chunk(tool_calls=[{"index": 0, "function": {"arguments": '{"city":'}}]),
    chunk(tool_calls=[{"index": 0, "function": {"arguments": '"Paris"}'}}]),
    chunk(finish="tool_calls"),
    USAGE,
    DONE,
]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    scripts = {
        "chat": plain(),
        "stream": stream(pause_s=0.01),
        "tools": plain(body=completion(tool_calls=[CALL])),
        "tools-stream": stream(CALL_STREAM),
        "json": plain(body=completion(content='{"a": 1}')),
        "two": plain(body=json.dumps({**COMPLETION, "choices": TWO}).encode()),
        "endless": stream([ROLE] + [chunk("x")] * 300, pause_s=0.02),
        "bad-request": plain(
            400, b'{"error":{"message":"no","type":"invalid_request_error","param":null,"code":"bad"}}'
        ),
        "unavailable": slam,
        "limited": plain(429, b"{}"),
        "breaks": stream(STREAM[:3], end="reset"),
    }
    upstreams = {name: Upstream([script]) for name, script in scripts.items()}
    settings = config(upstreams)
    for target in settings["targets"].values():
        target |= {"tools": True, "structured_output": True}
    with running(tmp_path_factory.mktemp("sdk"), settings) as started:
        started.upstreams = upstreams  # type: ignore[attr-defined]
        yield started
    for upstream in upstreams.values():
        upstream.close()


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=gateway.public + "/v1", api_key=KEY, max_retries=0) as made:
        yield made


def test_python_chats_and_streams(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="chat", messages=MESSAGES)
    assert answer.choices[0].message.content == "Hello."
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 2
    pieces = [
        c.choices[0].delta.content or ""
        for c in client.chat.completions.create(model="stream", messages=MESSAGES, stream=True)
    ]
    assert "".join(pieces) == "Hello."
    chunks = list(
        client.chat.completions.create(
            model="stream", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3


def test_python_uses_tools_streamed_and_not(client: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
    answer = client.chat.completions.create(model="tools", messages=MESSAGES, tools=tools)
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].function.arguments == '{"city":"Paris"}'  # type: ignore[union-attr]
    pieces = ""
    for event in client.chat.completions.create(model="tools-stream", messages=MESSAGES, tools=tools, stream=True):
        for call in event.choices[0].delta.tool_calls or []:
            pieces += (call.function.arguments or "") if call.function else ""
    assert json.loads(pieces) == {"city": "Paris"}


def test_python_gets_structured_output_two_choices_and_logprobs(client: openai.OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    answer = client.chat.completions.create(model="json", messages=MESSAGES, response_format=form)
    assert json.loads(answer.choices[0].message.content or "") == {"a": 1}
    answer = client.chat.completions.create(model="two", messages=MESSAGES, n=2, logprobs=True)
    assert len(answer.choices) == 2
    assert answer.choices[1].logprobs is not None
    assert answer.choices[1].logprobs.content[0].token == "He"  # type: ignore[index]


def test_python_cancels_and_the_upstream_hears_of_it(client: openai.OpenAI, gateway: Gateway) -> None:
    upstream: Upstream = gateway.upstreams["endless"]  # type: ignore[attr-defined]
    heard = len(upstream.closed_at)
    with client.chat.completions.create(model="endless", messages=MESSAGES, stream=True) as events:
        next(iter(events))
    left = time.monotonic()
    while len(upstream.closed_at) == heard:
        assert time.monotonic() - left < 3, "the upstream went on for seconds"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("model", "raised", "code"),
    [
        ("nobody-knows-it", openai.NotFoundError, "model_not_found"),
        ("bad-request", openai.BadRequestError, "bad"),
        ("unavailable", openai.InternalServerError, "upstream_unavailable"),
        ("limited", openai.RateLimitError, "upstream_rate_limited"),
    ],
)
def test_python_gets_each_error_as_its_class(
    client: openai.OpenAI, model: str, raised: type[openai.APIStatusError], code: str
) -> None:
    with pytest.raises(raised) as caught:
        client.chat.completions.create(model=model, messages=MESSAGES)
    assert caught.value.code == code
    assert caught.value.request_id


def test_python_with_a_wrong_key_is_told_so(gateway: Gateway) -> None:
    with (
        openai.OpenAI(base_url=gateway.public + "/v1", api_key="sk-wrong-wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.chat.completions.create(model="chat", messages=MESSAGES)


def test_python_is_told_when_a_stream_breaks(client: openai.OpenAI) -> None:
    got = []
    with pytest.raises(openai.APIError) as caught:
        got.extend(client.chat.completions.create(model="breaks", messages=MESSAGES, stream=True))
    assert len(got) == 3
    assert caught.value.code == "upstream_stream_interrupted"


def test_python_lists_models(client: openai.OpenAI) -> None:
    names = {model.id for model in client.models.list()}
    assert {"auto", "chat"} <= names
    assert client.models.retrieve("chat").id == "chat"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody-knows-it")


def test_the_node_sdk_does_the_same(gateway: Gateway, tmp_path: Path) -> None:
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("Node.js and npm are not installed: the Node SDK is tested where they are")
    shutil.copy(HERE / "sdk.mjs", tmp_path)
    install = [npm, "install", "--no-save", "--no-audit", "--no-fund", NODE_SDK]
    done = subprocess.run(install, cwd=tmp_path, capture_output=True, text=True, timeout=180)
    if done.returncode != 0:
        pytest.skip("npm could not install the SDK: " + done.stderr[-300:])
    command = [node, "sdk.mjs", gateway.public + "/v1", KEY]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen == {
        "chat": "Hello.",
        "stream": "Hello.",
        "usage": {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13},
        "tool": {"name": "get_weather", "arguments": '{"city":"Paris"}'},
        "json": {"a": 1},
        "n": 2,
        "logprobs": "He",
        "cancelled": True,
        "errors": {
            "nobody-knows-it": ["NotFoundError", 404, "model_not_found"],
            "bad-request": ["BadRequestError", 400, "bad"],
            "unavailable": ["InternalServerError", 502, "upstream_unavailable"],
            "limited": ["RateLimitError", 429, "upstream_rate_limited"],
            "key": ["AuthenticationError", 401, "invalid_api_key"],
            "breaks": ["APIError", "upstream_stream_interrupted"],
        },
    }
