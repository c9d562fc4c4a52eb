"""The real litellm in its own process and environment, behind the running gateway, before scripted servers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from ruamel.yaml import YAML

from gateway.demo import model as demo_model
from tests.harness import (
    KEY,
    ROOT,
    SSE_HEAD,
    STREAM,
    Gateway,
    Received,
    Upstream,
    chat,
    chunk,
    eventually,
    framed,
    hang,
    plain,
    running,
    settled,
    stream,
)
from tests.ports import free_port
from tests.sidecars import ANTHROPIC, OUTPUT_TOKENS, PYTHON, lite_backend, needs_litellm, settings

pytestmark = needs_litellm
LITE_KEY = "sk-lite-canary-0123456789"
FILE_KEY = "sk-file-canary-0123456789"


def state(gateway: Gateway) -> dict[str, Any]:
    found: dict[str, Any] = gateway.get("/v1/targets", admin=True).json()["sidecar"]
    return found


def ready(gateway: Gateway, starts: int = 1) -> dict[str, Any]:
    """The state of a sidecar that answers and was started so often."""
    assert eventually(lambda: (now := state(gateway))["state"] == "ready" and now["starts"] >= starts, 60), (
        state(gateway),
        gateway.lines,
    )
    return state(gateway)


def error_of(answer: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()["error"]
    return found


@dataclass
class Scene:
    """One gateway for most tests: they change what the upstreams answer, and end with the process they began with."""

    gateway: Gateway
    lite: Upstream
    claude: Upstream
    other: Upstream

    def play(self, *scripts: Any) -> None:
        self.lite.requests.clear()
        self.other.requests.clear()
        self.lite.scripts[:] = scripts


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    directory = tmp_path_factory.mktemp("sidecar")
    lite, claude, other = Upstream([plain()]), Upstream([ANTHROPIC]), Upstream([plain()])
    made = settings(lite, others={"other": other})
    (directory / "claude.key").write_text(FILE_KEY)
    made["backends"]["claude"] = {
        "dialect": "litellm",
        "key": {"file": "claude.key"},
        "litellm": {"api_base": claude.url.removesuffix("/v1")},
    }
    made["backends"]["keyless"] = {"dialect": "litellm", "litellm": {"api_base": lite.url}}
    claude_id = "anthropic/claude-sonnet-4-5"
    _, made["targets"]["claude"] = lite_backend(claude, claude_id, thinking="switchable", tools=True)
    _, made["targets"]["keyless"] = lite_backend(lite)
    made["targets"]["claude"] |= {"backend": "claude", "model": "qwen3.5-35b-a3b"}
    made["targets"]["keyless"] |= {"backend": "keyless", "model": "llama-3.1-8b"}
    environ = {"LITE_KEY": LITE_KEY, "OPENAI_API_KEY": "sk-of-somebody-else"}
    with running(directory, made, **environ) as gateway:
        ready(gateway)
        yield Scene(gateway, lite, claude, other)
    for upstream in (lite, claude, other):
        upstream.close()


# -- answers --


def test_an_answer_comes_through_and_is_booked(scene: Scene) -> None:
    scene.play(plain())
    answer = scene.gateway.post(chat("lite"))
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == "Hello."
    assert answer.headers["x-pointsman-cost-usd"] == "0.000014000"  # 10 tokens at 1 USD a million, 2 at 2
    assert len(scene.lite.requests) == 1
    assert scene.lite.requests[0].json == {"model": "m", "messages": [{"role": "user", "content": "Say hello."}]}
    assert scene.lite.requests[0].header("authorization") == f"Bearer {LITE_KEY}"


def test_a_stream_comes_event_by_event_with_usage_only_for_those_who_asked(scene: Scene) -> None:
    scene.play(stream(pause_s=0.2))
    began, came = time.monotonic(), []
    with httpx.stream(
        "POST", scene.gateway.public + "/v1/chat/completions", json=chat("lite", stream=True), headers=authorized()
    ) as answer:
        text = ""
        for part in answer.iter_text():
            came.append(time.monotonic() - began)
            text += part
    assert came[-1] - came[0] > 0.5  # not all at the end
    assert text.endswith("data: [DONE]\n\n")
    assert said(text) == "Hello."
    assert '"usage"' not in text
    asked = scene.gateway.post(chat("lite", stream=True, stream_options={"include_usage": True})).text
    assert '"prompt_tokens":10' in asked


def authorized() -> dict[str, str]:
    return {"authorization": f"Bearer {KEY}"}


def said(text: str, member: str = "content") -> str:
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    return "".join(choice["delta"].get(member) or "" for event in events for choice in event.get("choices", []))


@pytest.mark.parametrize("streamed", [False, True])
def test_another_api_is_translated_both_ways_thinking_included(scene: Scene, streamed: bool) -> None:
    scene.claude.requests.clear()
    answer = scene.gateway.post(chat("claude", max_tokens=4000, stream=streamed), **{"x-pointsman-thinking": "always"})
    assert answer.status_code == 200, answer.text
    sent = scene.claude.requests[0]
    assert sent.head.startswith(b"POST /v1/messages ")
    assert sent.header("x-api-key") == FILE_KEY
    assert sent.json["thinking"]["type"] == "enabled"
    if streamed:
        assert said(answer.text, "reasoning_content") == "Two and two."
        assert said(answer.text) == "It is four, as far as I know."
    else:
        message = answer.json()["choices"][0]["message"]
        assert message["reasoning_content"] == "Two and two."
        assert answer.json()["usage"]["completion_tokens"] == OUTPUT_TOKENS


def test_thinking_is_not_asked_for_where_the_policy_says_never(scene: Scene) -> None:
    scene.claude.requests.clear()
    wish = {"thinking": {"type": "enabled", "budget_tokens": 2048}}
    answer = scene.gateway.post(chat("claude", max_tokens=4000, **wish), **{"x-pointsman-thinking": "never"})
    assert answer.status_code == 200
    assert "thinking" not in scene.claude.requests[0].json
    assert "reasoning_content" not in answer.text


def test_tools_are_translated(scene: Scene) -> None:
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
    answer = scene.gateway.post(chat("claude", tools=[tool], stream=True))
    assert answer.status_code == 200
    calls = [call for event in re.findall(r"data: (\{.*)", answer.text) for call in _calls(json.loads(event))]
    assert calls[0]["function"]["name"] == "get_weather"
    assert json.loads("".join(call["function"]["arguments"] for call in calls)) == {"city": "Paris"}


def _calls(event: dict[str, Any]) -> list[dict[str, Any]]:
    return [call for choice in event["choices"] for call in choice["delta"].get("tool_calls") or []]


# -- keys --


def test_the_process_gets_no_key_by_its_environment_or_its_arguments(scene: Scene) -> None:
    pid = state(scene.gateway)["pid"]
    environ = Path(f"/proc/{pid}/environ").read_bytes().decode()
    names = {one.partition("=")[0] for one in environ.split("\0") if one}
    assert names <= {"LANG", "LC_ALL", "PATH", "SSL_CERT_DIR", "SSL_CERT_FILE", "TMPDIR", "TZ"}
    shown = environ + Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    assert "canary" not in shown
    assert "sk-" not in shown


def test_a_backend_without_a_key_is_not_given_that_of_another(scene: Scene) -> None:
    scene.play(plain())
    assert scene.gateway.post(chat("keyless")).status_code == 200
    assert scene.lite.requests[0].header("authorization") == "Bearer none"


def test_no_log_line_holds_a_key_or_a_prompt(scene: Scene) -> None:
    scene.play(plain(401, json.dumps({"error": {"message": f"Incorrect API key {LITE_KEY}"}}).encode()))
    scene.gateway.post(chat("lite", "the secret of the pyramids"))
    assert eventually(lambda: any("told as 401" in line for line in scene.gateway.lines))
    text = "\n".join(scene.gateway.lines)
    assert "canary" not in text
    assert "pyramids" not in text
    release(scene)


def release(scene: Scene) -> None:
    """Undo what a refused key holds against the target, as an operator would: with a restart of the sidecar."""
    before = state(scene.gateway)
    os.kill(before["pid"], signal.SIGKILL)
    ready(scene.gateway, before["starts"] + 1)


# -- refusals --

REFUSALS = {
    "too long": (400, {"code": "context_length_exceeded", "message": "maximum context length is 8192 tokens"}, 400),
    "bad request": (400, {"message": "temperature must be below 2"}, 400),
    "unprocessable": (422, {"message": "no"}, 400),
    "slow down": (429, {"message": "slow down"}, 429),
    "overloaded": (503, {"message": "busy"}, 503),
    "failed": (500, {"message": "oops"}, 502),
    "overloaded too": (529, {"message": "busy"}, 503),
}


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_refusal_keeps_its_meaning_and_is_asked_for_once(scene: Scene, name: str, streamed: bool) -> None:
    status, error, told = REFUSALS[name]
    scene.play(plain(status, json.dumps({"error": error}).encode(), headers="retry-after: 1\r\n"))
    answer = scene.gateway.post(chat("lite", stream=streamed))
    assert answer.status_code == told, answer.text
    assert settled(lambda: len(scene.lite.requests), 0.3) == 1  # R12: one retry layer, and it is the gateway's
    if name == "too long":
        assert error_of(answer)["code"] == "context_length_exceeded"
    if told == 400:
        assert error["message"] in error_of(answer)["message"]
    if told == 429:
        assert answer.headers["retry-after"] == "1"
        time.sleep(1.1)  # what it asked for


def test_an_error_in_a_stream_is_one_before_anything_is_shown(scene: Scene) -> None:
    broken = b'data: {"error": {"message": "the engine died", "code": 500}}\n\n'
    scene.play(stream([broken]))
    answer = scene.gateway.post(chat("lite", stream=True))
    assert answer.status_code == 502
    scene.play(stream([chunk("Hel"), broken]))
    answer = scene.gateway.post(chat("lite", stream=True))
    assert answer.status_code == 200
    assert answer.text.count('"error"') == 1
    assert "[DONE]" not in answer.text


# -- members --


def test_a_member_that_is_not_on_the_list_sends_the_request_elsewhere_or_is_refused(scene: Scene) -> None:
    scene.play(plain())
    answer = scene.gateway.post(chat("lite", guided_choice=["a", "b"]))
    assert (answer.status_code, error_of(answer)["code"]) == (400, "unsupported_parameter")
    answer = scene.gateway.post(chat("llama-3.3-70b", guided_choice=["a", "b"]))
    assert answer.headers["x-pointsman-target"] == "other"
    assert scene.lite.requests == []
    assert scene.other.requests[0].json["guided_choice"] == ["a", "b"]


def test_addresses_and_hints_are_left_out_and_change_nothing(scene: Scene) -> None:
    scene.play(plain())
    hostile = {
        "api_base": "http://127.0.0.1:1",
        "api_key": "mine",
        "fallbacks": ["x"],
        "custom_llm_provider": "azure",
        "metadata": {"team": "x"},
        "store": False,
    }
    answer = scene.gateway.post(chat("lite", **hostile))
    assert answer.status_code == 200, answer.text
    assert scene.lite.requests[0].json.keys() == {"model", "messages"}


def test_what_the_provider_does_not_take_is_refused_and_never_dropped(scene: Scene) -> None:
    scene.claude.requests.clear()
    answer = scene.gateway.post(chat("claude", logprobs=True))
    assert (answer.status_code, error_of(answer)["code"]) == (400, "unsupported_parameter")
    assert scene.claude.requests == []


def test_nothing_is_fetched_for_a_client(scene: Scene) -> None:
    scene.play(plain())
    trap = Upstream([plain()])
    picture = {"type": "image_url", "image_url": {"url": trap.url + "/cat.png"}}
    body = {"model": "claude", "messages": [{"role": "user", "content": [picture]}]}
    answer = scene.gateway.post(body)
    assert answer.status_code == 400, answer.text
    assert trap.connections == 0
    trap.close()


# -- ends --


def test_a_client_who_leaves_cancels_the_provider_within_a_second(scene: Scene) -> None:
    for script, streamed in ((hang, False), (hang, True), (stream(STREAM[:2], end="hang"), True)):
        scene.play(script)
        scene.lite.closed_at.clear()
        connection = scene.gateway.connect()
        body = json.dumps(chat("lite", stream=streamed)).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
        connection.sendall(head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)
        assert eventually(lambda: len(scene.lite.requests) == 1, 10)
        if script is not hang:
            connection.recv(65536)
        left = time.monotonic()
        connection.close()
        assert eventually(lambda: scene.lite.closed_at != [])
        assert scene.lite.closed_at[0] - left < 1


def test_a_killed_sidecar_is_restarted_and_meanwhile_another_target_answers(scene: Scene) -> None:
    scene.play(plain())
    before = state(scene.gateway)
    os.kill(before["pid"], signal.SIGKILL)
    assert eventually(lambda: state(scene.gateway)["state"] != "ready")
    answer = scene.gateway.post(chat("llama-3.3-70b"))
    assert (answer.status_code, answer.headers["x-pointsman-target"]) == (200, "other")
    assert answer.headers["x-pointsman-attempts"] == "1"  # known to be gone, so not tried
    shown = {one["target"]: one["state"] for one in scene.gateway.get("/v1/targets", admin=True).json()["data"]}
    assert (shown["lite"], shown["other"]) == ("ejected", "healthy")
    answer = scene.gateway.post(chat("lite"))  # a pin has no other; the last resort is still tried
    assert (answer.status_code, error_of(answer)["code"]) == (502, "upstream_unavailable")
    after = ready(scene.gateway, before["starts"] + 1)
    assert after["pid"] != before["pid"]
    assert scene.gateway.post(chat("lite")).status_code == 200
    assert any("signal SIGKILL" in line for line in scene.gateway.lines)


def test_a_stream_whose_sidecar_is_killed_ends_with_exactly_one_error_event(scene: Scene) -> None:
    scene.play(stream(STREAM[:2], end="hang"))
    before = state(scene.gateway)
    with httpx.stream(
        "POST", scene.gateway.public + "/v1/chat/completions", json=chat("lite", stream=True), headers=authorized()
    ) as answer:
        parts = answer.iter_text()
        text = next(parts)
        os.kill(before["pid"], signal.SIGKILL)
        text += "".join(parts)
    assert text.count('"error"') == 1
    assert "upstream_stream_interrupted" in text
    assert "[DONE]" not in text
    ready(scene.gateway, before["starts"] + 1)


# -- the process --


def test_the_gateway_serves_through_it_without_loading_litellm(tmp_path: Path) -> None:
    upstream = Upstream([plain()])
    script = (
        "import sys; from gateway.cli import main; main(['serve', '--config', sys.argv[1]]);"
        "print('loaded:', sorted({'litellm', 'openai', 'aiohttp'} & set(sys.modules)), flush=True)"
    )
    with running(tmp_path, settings(upstream), command=("-c", script), LITE_KEY=LITE_KEY) as gateway:
        assert gateway.get("/readyz").json()["sidecar"] in ("starting", "ready")
        ready(gateway)
        assert gateway.post(chat("lite")).status_code == 200
    assert "loaded: []" in gateway.lines


def test_it_does_not_outlive_a_gateway_that_was_killed(tmp_path: Path) -> None:
    upstream = Upstream([plain()])
    with running(tmp_path, settings(upstream), LITE_KEY=LITE_KEY) as gateway:
        pid = ready(gateway)["pid"]
        gateway.process.kill()
        assert eventually(lambda: not Path(f"/proc/{pid}").exists(), 5)


def test_a_reload_with_another_key_changes_the_process_and_ends_no_stream(tmp_path: Path) -> None:
    switched = threading.Event()

    def slow(conn: socket.socket, _: Received) -> bool:
        conn.sendall(SSE_HEAD + framed(STREAM[0]) + framed(STREAM[1]))
        switched.wait(80)
        conn.sendall(b"".join(map(framed, STREAM[2:])) + b"0\r\n\r\n")
        return True

    upstream = Upstream([slow])
    made = settings(upstream)
    made["timeouts"]["idle"] = "90s"
    made["backends"]["lite"]["key"] = {"file": "key"}
    (tmp_path / "key").write_text("sk-first-key")
    with running(tmp_path, made) as gateway:
        before = ready(gateway)
        with httpx.stream(
            "POST",
            gateway.public + "/v1/chat/completions",
            json=chat("lite", stream=True),
            headers=authorized(),
            timeout=90,
        ) as answer:
            parts = answer.iter_text()
            text = next(parts)
            (tmp_path / "key").write_text("sk-second-key")
            assert gateway.process.poll() is None
            assert eventually(lambda: state(gateway)["pid"] not in (None, before["pid"]), 60)
            switched.set()
            text += "".join(parts)
        assert text.endswith("data: [DONE]\n\n"), text
        assert eventually(lambda: not Path(f"/proc/{before['pid']}").exists(), 10)
        upstream.scripts[:] = [plain()]
        assert gateway.post(chat("lite")).status_code == 200
        keys = [one.header("authorization") for one in upstream.requests]
        assert keys == ["Bearer sk-first-key", "Bearer sk-second-key"]
        same = state(gateway)
        gateway.process.send_signal(signal.SIGHUP)
        assert eventually(lambda: sum("reloaded:" in line for line in gateway.lines) == 2, 60)
        assert state(gateway) == same  # what does not concern it does not disturb it


def test_an_interpreter_without_litellm_is_told_and_tried_again_ever_more_slowly(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    made = settings("http://127.0.0.1:1/v1")
    made["sidecar"]["python"] = "bare/bin/python"
    with running(tmp_path, made, LITE_KEY=LITE_KEY) as gateway:
        assert eventually(lambda: state(gateway)["starts"] >= 3, 20)
        assert "has no litellm: pip install" in state(gateway)["error"]
        waits = [float(x) for x in re.findall(r"follows in ([0-9.]+) s", "\n".join(gateway.lines))]
        assert waits[:2] == [0.25, 0.5]


@contextlib.contextmanager
def alone(directory: Path, made: dict[str, Any], port: int, **environ: str) -> Iterator[subprocess.Popen[str]]:
    path = directory / "sidecar.yaml"
    with path.open("w") as file:
        YAML().dump(made, file)
    command = [sys.executable, "-m", "gateway.cli", "sidecar", "--config", str(path), "--listen", f"127.0.0.1:{port}"]
    env = {"PATH": os.environ["PATH"], **environ}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert "ready" in process.stdout.readline()
        yield process
    finally:
        process.terminate()
        assert process.wait(20) == 0
        assert process.stdout is not None
        process.stdout.close()


def test_it_runs_elsewhere_with_only_its_own_keys(tmp_path: Path) -> None:
    """Its file may be the gateway's own, whose other keys are not there."""
    upstream, port = Upstream([plain()]), free_port()
    made = settings(upstream, others={"other": upstream})
    made["sidecar"]["key"] = {"env": "SIDECAR_TOKEN"}
    token = "a-token-of-some-length"
    with alone(tmp_path, made, port, LITE_KEY=LITE_KEY, SIDECAR_TOKEN=token):
        url = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{url}/healthz").json()["status"] == "ok"
        body = chat("openai/m")
        for headers in ({}, {"authorization": "Bearer wrong"}):
            refused = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers)
            assert (refused.status_code, error_of(refused)["code"]) == (401, "invalid_api_key")
        allowed = {"authorization": f"Bearer {token}"}
        assert httpx.post(f"{url}/v1/chat/completions", json=body, headers=allowed).status_code == 200
        for member in ({"api_base": "http://127.0.0.1:1"}, {"metadata": {}}, {"mock_response": "x"}):
            refused = httpx.post(f"{url}/v1/chat/completions", json=body | member, headers=allowed)
            assert (refused.status_code, error_of(refused)["code"]) == (400, "unsupported_parameter")
        unknown = httpx.post(f"{url}/v1/chat/completions", json=chat("openai/other"), headers=allowed)
        assert (unknown.status_code, error_of(unknown)["code"]) == (404, "model_not_found")
        assert len(upstream.requests) == 1
        remote = settings(upstream)
        remote["backends"]["lite"] = {"dialect": "litellm", "base_url": f"{url}/lite/v1", "key": {"env": "TOKEN"}}
        with running(tmp_path, remote, TOKEN=token) as gateway:
            assert "sidecar" not in gateway.get("/readyz").json()
            assert gateway.post(chat("lite")).status_code == 200


def test_a_target_behind_it_can_be_probed(tmp_path: Path) -> None:
    upstream = Upstream([ANTHROPIC])
    made = settings(upstream.url.removesuffix("/v1"), "anthropic/claude-sonnet-4-5")
    with (tmp_path / "pointsman.yaml").open("w") as file:
        YAML().dump(made, file)
    command = [sys.executable, "-m", "gateway.cli", "probe", "--config", str(tmp_path / "pointsman.yaml"), "--json"]
    probed = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "LITE_KEY": LITE_KEY}, capture_output=True, text=True, timeout=60
    )
    assert probed.returncode in (0, 1), probed.stderr
    [report] = json.loads(probed.stdout)["targets"]
    rows = {row["check"]: row for row in report["checks"]}
    assert rows["tools"]["seen"] == "yes"
    assert rows["listed"]["seen"] == "yes"
    assert {"logprobs", "seed"} <= set(rows["unsupported"]["record"]["unsupported"])  # what litellm refuses there
    assert upstream.requests
    assert all(one.header("x-api-key") == LITE_KEY for one in upstream.requests)


@pytest.mark.skipif(bool(demo_model.missing()), reason=f"needs {' and '.join(demo_model.missing())}")
def test_a_real_model_answers_through_it(tmp_path: Path) -> None:
    model = subprocess.Popen(
        [sys.executable, "-m", "gateway.demo.model"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert model.stdout is not None
        url = json.loads(model.stdout.readline())["url"]
        made = settings(f"{url}/v1", f"openai/{demo_model.ALIAS}", tools=True)
        with running(tmp_path, made, LITE_KEY=LITE_KEY) as gateway:
            ready(gateway)
            body = chat("lite", "What is the capital of France?", max_tokens=24, temperature=0)
            answer = gateway.post(body)
            assert "Paris" in answer.json()["choices"][0]["message"]["content"]
            streamed = gateway.post(body | {"stream": True}).text
            assert "Paris" in said(streamed)
            assert streamed.endswith("data: [DONE]\n\n")
            line = json.loads(next(line for line in reversed(gateway.lines) if '"status":' in line))
            assert line["input_tokens"] > 5
            assert line["output_tokens"] > 3
            assert line["cost_usd"] > 0
            long = gateway.post(chat("lite", "word " * 20_000))
            assert (long.status_code, error_of(long)["code"]) == (400, "context_length_exceeded")
    finally:
        assert model.stdin is not None
        model.stdin.close()
        model.wait(10)
        assert model.stdout is not None
        model.stdout.close()


def test_the_interpreter_under_test_is_not_the_gateways_own() -> None:
    assert Path(PYTHON).parent != Path(sys.executable).parent
