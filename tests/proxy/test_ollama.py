"""Ollama behind the running gateway: clients speak OpenAI, the scripted server answers as Ollama does."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.harness import KEY, Gateway, Received, Script, Upstream, chat, config, framed, plain, running, stream

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"


def line(message: dict[str, Any] | None = None, **more: Any) -> bytes:
    said = {"model": "qwen3:8b", "created_at": "2026-11-22T04:30:00.123456789Z", "done": False, **more}
    if message is not None:
        said["message"] = {"role": "assistant", **message}
    return json.dumps(said).encode() + b"\n"


END = line({"content": ""}, done=True, done_reason="stop", prompt_eval_count=11, eval_count=3)
WHOLE = line({"content": "Hello."}, done=True, done_reason="stop", prompt_eval_count=11, eval_count=3)


def lines(*parts: bytes, end: bytes = b"0\r\n\r\n") -> Script:
    def script(conn: socket.socket, _: Received) -> bool:
        conn.sendall(HEAD)
        for part in parts:
            conn.sendall(framed(part))
        conn.sendall(end)
        return bool(end)

    return script


@pytest.fixture
def ollama() -> Iterator[Upstream]:
    upstream = Upstream([plain(body=WHOLE)])
    yield upstream
    upstream.close()


@pytest.fixture
def other() -> Iterator[Upstream]:
    upstream = Upstream([stream()])
    yield upstream
    upstream.close()


def settings(ollama: Upstream, other: Upstream | None = None, **over: Any) -> dict[str, Any]:
    made = config({"a": ollama} if other is None else {"a": ollama, "b": other}, **over)
    made["backends"]["a"] = {"dialect": "ollama", "base_url": f"http://127.0.0.1:{ollama.port}", "self_hosted": True}
    made["targets"]["a"] |= {"upstream_id": "qwen3:8b", "window": 8192, "price": {"input": 0.1, "output": 0.1}}
    return made


def events(gateway: Gateway, body: dict[str, Any]) -> list[Any]:
    answer = gateway.post({**body, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [part[6:] if part[6:] == "[DONE]" else json.loads(part[6:]) for part in answer.text.split("\n\n") if part]


def test_the_openai_sdk_talks_to_ollama(tmp_path: Path, ollama: Upstream) -> None:
    ollama.scripts = [
        plain(body=WHOLE),
        lines(line({"thinking": "hm", "content": ""}), line({"content": "Hel"}), line({"content": "lo."}), END),
    ]
    with running(tmp_path, settings(ollama)) as gateway:
        client = openai.OpenAI(base_url=f"{gateway.public}/v1", api_key=KEY, max_retries=0)
        answer = client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "hi"}], n=1)
        assert answer.choices[0].message.content == "Hello."
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == 11
        said = client.chat.completions.create(
            model="auto",
            messages=[{"role": "user", "content": "hi"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(said)
    assert "".join(one.choices[0].delta.content or "" for one in chunks if one.choices) == "Hello."
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3
    first, second = ollama.requests
    assert first.head.startswith(b"POST /api/chat HTTP/1.1\r\n")
    assert first.json["options"] == {"num_ctx": 8192}
    assert first.json["stream"] is False
    assert second.json["stream"] is True
    assert second.json["truncate"] is False


def test_a_stream_is_translated_as_it_comes(tmp_path: Path, ollama: Upstream) -> None:
    go = threading.Event()

    def script(conn: socket.socket, _: Received) -> bool:
        conn.sendall(HEAD + framed(line({"content": "Hel"})))
        go.wait(10)
        conn.sendall(framed(line({"content": "lo."})) + framed(END) + b"0\r\n\r\n")
        return True

    ollama.scripts = [script]
    with running(tmp_path, settings(ollama)) as gateway, gateway.connect() as conn:
        body = json.dumps(chat(stream=True)).encode()
        conn.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b"
            % (KEY.encode(), len(body), body)
        )
        seen = b""
        while b"Hel" not in seen:
            seen += conn.recv(65536)
        assert b"lo." not in seen  # the server has not said it yet
        go.set()
        while b"[DONE]" not in seen:
            seen += conn.recv(65536)
        assert b"lo." in seen


@pytest.mark.parametrize(
    "first",
    [
        plain(404, body=b'{"error":"model \'qwen3:8b\' not found, try pulling it first"}'),
        plain(503, body=b'{"error":"server busy, please try again.  maximum pending requests exceeded"}'),
        plain(500, body=b'{"error":"llama runner process has terminated"}'),
        lines(line(error="out of memory")),
        lines(line({"content": ""}), line(error="out of memory")),
        lines(line({"content": ""}), end=b""),
        lines(b"<html>\n"),
        plain(body=WHOLE),  # not streamed though asked to
        stream(),  # not Ollama at all
    ],
)
def test_what_breaks_before_the_first_word_is_invisible(
    first: Script, tmp_path: Path, ollama: Upstream, other: Upstream
) -> None:
    ollama.scripts = [first]
    with running(tmp_path, settings(ollama, other)) as gateway:
        found = events(gateway, chat())
        assert "".join(one["choices"][0]["delta"].get("content") or "" for one in found[:-1]) == "Hello."
        assert found[-1] == "[DONE]"
    assert len(ollama.requests) == 1
    assert len(other.requests) == 1


def test_an_error_in_mid_stream_is_one_error_event(tmp_path: Path, ollama: Upstream, other: Upstream) -> None:
    ollama.scripts = [lines(line({"content": "Hel"}), line(error="secret details"))]
    with running(tmp_path, settings(ollama, other)) as gateway:
        found = events(gateway, chat())
    assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": "Hel"}
    assert found[-1]["error"]["code"] == "upstream_stream_interrupted"
    assert "secret details" not in json.dumps(found)
    assert len(found) == 2
    assert other.requests == []


def test_a_model_may_take_its_time_to_load(tmp_path: Path, ollama: Upstream) -> None:
    """Its head comes with the first word, so it has the time that a first word has."""

    def slow(conn: socket.socket, received: Received) -> bool:
        time.sleep(1.0)
        return lines(line({"content": "Hi"}), END)(conn, received)

    ollama.scripts = [slow]
    made = settings(ollama)
    made["timeouts"] |= {"headers": "300ms", "first_event": "10s"}
    with running(tmp_path, made) as gateway:
        assert events(gateway, chat())[-1] == "[DONE]"
    assert len(ollama.requests) == 1


def test_an_overflow_goes_to_a_larger_window(tmp_path: Path, ollama: Upstream, other: Upstream) -> None:
    text = "the prompt is longer than the context length currently available to the model; shorten the prompt"
    ollama.scripts = [plain(400, body=json.dumps({"error": text}).encode())]
    with running(tmp_path, settings(ollama, other)) as gateway:
        assert events(gateway, chat())[-1] == "[DONE]"
    assert len(other.requests) == 1


def test_what_ollama_cannot_be_told_goes_elsewhere(tmp_path: Path, ollama: Upstream, other: Upstream) -> None:
    other.scripts = [plain()]
    with running(tmp_path, settings(ollama, other)) as gateway:
        for more in ({"n": 2}, {"logit_bias": {"1": 5}}, {"options": {"num_gpu": 0}}):
            answer = gateway.post(chat(**more))
            assert answer.status_code == 200, more
            assert answer.headers["x-pointsman-target"] == "b"
        assert gateway.post(chat(logit_bias={})).status_code == 200  # asks for nothing
    assert len(other.requests) >= 3
    assert all("logit_bias" not in one.json for one in ollama.requests)
    with running(tmp_path, settings(ollama)) as gateway:
        refused = gateway.post(chat(options={"num_gpu": 0}))
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "unsupported_capability"
        refused = gateway.post(chat(n=2))
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "unsupported_parameter"
        told = gateway.post(chat(options={"num_gpu": 0}), path="/v1/explain")
        assert "num_gpu" in told.text


def test_images_are_handed_over_and_links_to_images_go_elsewhere(
    tmp_path: Path, ollama: Upstream, other: Upstream
) -> None:
    other.scripts = [plain()]
    made = settings(ollama, other)
    for target in made["targets"].values():
        target["model"] = "llama-4-scout"
    with running(tmp_path, made) as gateway:
        for url, target in (("data:image/png;base64,iVBORw0KGgo=", "a"), ("https://x.test/a.png", "b")):
            parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": url}}]
            answer = gateway.post({"model": "llama-4-scout", "messages": [{"role": "user", "content": parts}]})
            assert (answer.status_code, answer.headers["x-pointsman-target"]) == (200, target)
    (request,) = ollama.requests
    assert request.json["messages"] == [{"role": "user", "content": "What is it?", "images": ["iVBORw0KGgo="]}]


def test_a_slow_client_holds_ollama_back(tmp_path: Path, ollama: Upstream) -> None:
    """The gateway keeps no more than a little of a stream that nobody reads."""
    sent = []

    def script(conn: socket.socket, _: Received) -> bool:
        conn.sendall(HEAD)
        part = framed(line({"content": "x" * 60_000}))
        conn.settimeout(1.0)
        try:
            for _ in range(1000):  # 60 MB
                conn.sendall(part)
                sent.append(len(part))
        except TimeoutError:
            return False
        return False

    ollama.scripts = [script]
    made = settings(ollama)
    made["timeouts"]["idle"] = "20s"
    with running(tmp_path, made) as gateway, gateway.connect() as conn:
        body = json.dumps(chat(stream=True)).encode()
        conn.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b"
            % (KEY.encode(), len(body), body)
        )
        conn.recv(1000)
        deadline, seen = time.monotonic() + 10, -1
        while time.monotonic() < deadline and len(sent) != seen:
            seen = len(sent)
            time.sleep(0.5)
        assert sum(sent) < 20_000_000
