"""What a real Prometheus reads of a real gateway is what was sent, and no client makes it read more."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e import promserver
from tests.harness import (
    COMPLETION,
    DONE,
    ROLE,
    STOP,
    STREAM,
    Gateway,
    Received,
    Upstream,
    chat,
    chunk,
    config,
    plain,
    running,
    stream,
)

_REASONED = json.dumps(
    COMPLETION
    | {
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello.", "reasoning_content": "Let me think."},
                "finish_reason": "stop",
            }
        ]
    }
).encode()


def answer(conn: socket.socket, request: Received) -> bool:
    """What the upstream says depends on the model it is asked for, and on nothing else."""
    model, streamed = request.json["model"], request.json.get("stream", False)
    if model == "down":
        return plain(503, b'{"error": {"message": "overloaded"}}')(conn, request)
    if model == "cut":
        return stream([ROLE, chunk("Hel")], end="eof")(conn, request)
    if model == "silent":  # says nothing about its tokens
        return stream([ROLE, chunk("Hello."), STOP, DONE])(conn, request)
    if model == "thinks":
        return plain(body=_REASONED)(conn, request)
    return (stream(STREAM) if streamed else plain())(conn, request)


def settings(url: str) -> dict[str, Any]:
    made = config({"up": url})
    price = {"input": 1.0, "output": 2.0}
    made["targets"] = {
        name: {
            "model": model,
            "backend": "up",
            "upstream_id": sent,
            "window": "128k",
            "price": dict(cost) if isinstance(cost, dict) else cost,  # the file must not hold an alias
            **more,
        }
        for name, model, sent, cost, more in (
            ("first", "llama-4-maverick", "down", price, {}),
            ("second", "qwen3.5-35b-a3b", "fine", price, {"thinking": "never"}),
            ("cut", "llama-3.1-8b", "cut", price, {}),
            ("silent", "llama-3.1-8b", "silent", price, {}),
            ("thinks", "qwen3.5-35b-a3b", "thinks", {"input": 3.0, "output": 6.0}, {"thinking": "switchable"}),
            ("free", "llama-3.1-8b", "fine", "none", {}),
        )
    }
    return made


def traffic(gateway: Gateway) -> None:
    """Some of everything: fallback, streams whole and broken, refusals, no price, no usage, reasoning unasked."""
    assert gateway.post(chat("auto")).status_code == 200
    assert gateway.post(chat("second")).status_code == 200
    assert gateway.post(chat("free")).status_code == 200
    assert gateway.post(chat("auto", stream=True)).status_code == 200
    assert gateway.post(chat("silent", stream=True)).status_code == 200
    assert "error" in gateway.post(chat("cut", stream=True)).text
    assert gateway.post(chat("thinks"), x_pointsman_thinking="never").status_code == 200
    assert gateway.post(chat("auto"), key="wrong").status_code == 401
    assert gateway.post(chat("no-such-model")).status_code == 404


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[promserver.Prometheus]:
    """A Prometheus that has scraped a gateway before, during and after traffic."""
    where = tmp_path_factory.mktemp("prometheus")
    upstream = Upstream([answer])
    try:
        with running(where, settings(upstream.url)) as gateway:
            admin = gateway.admin.removeprefix("http://")
            scrape = (
                "global: {scrape_interval: 250ms}\nscrape_configs:\n"
                f"  - {{job_name: any, static_configs: [{{targets: ['{admin}']}}]}}\n"
            )
            with promserver.running(where, scrape) as server:
                traffic(gateway)
                server.wait_for("count_over_time(pointsman_requests_total[1m]) >= 2")
                traffic(gateway)
                assert httpx.post(f"{gateway.admin}/v1/reload", timeout=30).status_code == 200
                server.wait_for("increase(pointsman_config_reload_total{result='ok'}[1m]) > 0")
                server.wait_for("increase(pointsman_requests_total{model_asked='other'}[1m]) > 0")
                yield server
    finally:
        upstream.close()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ('sum(pointsman_requests_total{code="ok"})', 12),
        ('sum(pointsman_requests_total{model_asked="other"})', 2),
        ('sum(pointsman_fallbacks_total{chosen="first",target="second"})', None),  # health may come to know better
        ('sum(pointsman_requests_total{rule="pin"})', 10),
        ('sum(pointsman_refusals_total{code="invalid_api_key"})', 2),
        ('sum(pointsman_refusals_total{code="model_not_found"})', 2),
        ('sum(pointsman_stream_interrupted_total{target="cut"})', 2),
        ('sum(pointsman_thinking_violations_total{target="thinks"})', 2),
        ('sum(pointsman_unpriced_requests_total{target="free"})', 2),
        ('sum(pointsman_estimated_usage_requests_total{target="silent"})', 2),
        ('sum(pointsman_tokens_total{target="free",class="input"})', 20),
        ("sum(pointsman_inflight_requests)", 0),
    ],
)
def test_what_was_sent_is_what_is_counted(prometheus: promserver.Prometheus, query: str, expected: int | None) -> None:
    found = prometheus.ask(query)
    assert found, query
    value = float(found[0]["value"][1])
    assert value == expected if expected is not None else value > 0, f"{query}: {value}"


def test_three_hundred_names_make_no_series(tmp_path: Path) -> None:
    """A client that tries names cannot fill the metrics: the exposition does not grow."""
    upstream = Upstream([answer])
    try:
        with running(tmp_path, settings(upstream.url)) as gateway, httpx.Client() as client:
            url = f"{gateway.public}/v1/chat/completions"
            headers = {"authorization": "Bearer sk-test-0123456789"}
            client.post(url, json=chat("name"), headers=headers)
            before = gateway.get("/metrics", admin=True).text.count("\npointsman_")
            for n in range(300):
                client.post(url, json=chat(f"name-{n}"), headers=headers)
            assert gateway.get("/metrics", admin=True).text.count("\npointsman_") == before
    finally:
        upstream.close()
