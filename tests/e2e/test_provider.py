"""A provider that is YAML alone: the one of docs/backends.md, through a running gateway to the bytes that are sent."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from gateway.core.errors import ConfigError
from gateway.site import load_site
from tests.harness import ROOT, Gateway, Upstream, chat, config, plain, running

ACME_KEY = "ak-canary-7"
REFUSED = plain(400, json.dumps({"error": {"code": "model_retired", "message": "gone"}}).encode())


def example() -> dict[str, Any]:
    text = (ROOT / "docs" / "backends.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- provider -->\n```yaml\n(.*?)```", text, re.S)
    assert block is not None
    assert block[1].count("\n") <= 10
    loaded: dict[str, Any] = YAML(typ="safe").load(block[1])
    return loaded


class Acme:
    """The documented provider, with a spare beside it that speaks vLLM's dialect."""

    def __init__(self) -> None:
        self.upstreams = {"acme": Upstream([plain()]), "spare": Upstream([plain()])}
        self.settings = config({}) | example()
        self.settings["backends"]["acme"]["base_url"] = self.upstreams["acme"].url
        self.settings["backends"]["acme"]["proxy"] = "none"
        self.settings["backends"]["spare"] = {"dialect": "vllm", "base_url": self.upstreams["spare"].url}
        spare = {"model": "qwen3.5-35b-a3b", "backend": "spare", "window": 262144, "price": {"input": 9, "output": 9}}
        self.settings["targets"]["spare"] = spare

    def sent(self, name: str = "acme") -> dict[str, Any]:
        body: dict[str, Any] = self.upstreams[name].requests[-1].json
        assert body.pop("messages") == chat()["messages"]
        return body


@pytest.fixture
def acme() -> Iterator[Acme]:
    made = Acme()
    with ExitStack() as stack:
        for upstream in made.upstreams.values():
            stack.callback(upstream.close)
        yield made


@pytest.fixture
def gateway(acme: Acme, tmp_path: Path) -> Iterator[Gateway]:
    with running(tmp_path, acme.settings, ACME_API_KEY=ACME_KEY) as made:
        yield made


def test_its_key_its_headers_and_its_thinking_switch_are_sent_as_it_reads_them(acme: Acme, gateway: Gateway) -> None:
    answer = gateway.post(chat("qwen-acme"), x_pointsman_thinking="never")
    assert answer.status_code == 200
    assert acme.sent() == {"model": "qwen-35b", "reasoning": {"enabled": False}}
    received = acme.upstreams["acme"].requests[-1]
    assert received.head.startswith(b"POST /v1/chat/completions ")
    assert received.header("x-api-key") == ACME_KEY
    assert received.header("x-title") == "shop"
    assert received.header("authorization") is None
    gateway.post(chat("qwen-acme", reasoning={"exclude": True}), x_pointsman_thinking="2000", x_title="mine")
    assert acme.sent() == {
        "model": "qwen-35b",
        "reasoning": {"exclude": True, "enabled": True, "max_tokens": 2000},
    }
    assert acme.upstreams["acme"].requests[-1].header("x-title") == "shop"


def test_what_it_refuses_goes_elsewhere_and_what_asks_for_nothing_is_left_out(acme: Acme, gateway: Gateway) -> None:
    answer = gateway.post(chat("qwen3.5-35b-a3b", n=1))
    assert answer.headers["x-pointsman-target"] == "qwen-acme"
    assert acme.sent() == {"model": "qwen-35b"}
    answer = gateway.post(chat("qwen3.5-35b-a3b", n=2))
    assert answer.headers["x-pointsman-target"] == "spare"
    assert acme.sent("spare")["n"] == 2
    answer = gateway.post(chat("qwen-acme", logprobs=True))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_parameter")


@pytest.mark.parametrize(
    ("support", "wish", "chosen", "sent"),
    [
        ("unknown", False, "spare", {"model": "qwen3.5-35b-a3b", "chat_template_kwargs": {"enable_thinking": False}}),
        ("always", True, "acme", {"model": "qwen-35b"}),
        ("switchable", False, "acme", {"model": "qwen-35b", "reasoning_effort": "none"}),
    ],
)
def test_a_wish_that_a_strict_server_would_refuse_goes_to_one_that_can_be_told(
    acme: Acme, tmp_path: Path, support: str, wish: bool, chosen: str, sent: dict[str, Any]
) -> None:
    acme.settings["dialects"]["acme"] |= {"strict": True, "thinking": {"effort": "reasoning_effort"}}
    acme.settings["targets"]["qwen-acme"]["thinking"] = support
    with running(tmp_path, acme.settings, ACME_API_KEY=ACME_KEY) as gateway:
        answer = gateway.post(chat("qwen3.5-35b-a3b", chat_template_kwargs={"enable_thinking": wish}))
    assert answer.status_code == 200
    assert acme.sent(chosen) == sent


def test_its_own_error_codes_mean_what_is_written(acme: Acme, gateway: Gateway) -> None:
    acme.upstreams["acme"].scripts[:] = [REFUSED]
    answer = gateway.post(chat("qwen3.5-35b-a3b"))
    assert (answer.status_code, answer.headers["x-pointsman-target"]) == (200, "spare")
    states = {one["target"]: one["state"] for one in gateway.get("/v1/targets", admin=True).json()["data"]}
    assert states["qwen-acme"] == "gone"


def test_check_and_explain_know_it_as_one_of_their_own(acme: Acme, tmp_path: Path) -> None:
    path = tmp_path / "pointsman.yaml"
    with path.open("w") as file:
        YAML().dump(acme.settings, file)

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "gateway.cli", *arguments, "--config", str(path)],
            cwd=ROOT,
            env={**os.environ, "ACME_API_KEY": ACME_KEY},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "ok: 2 targets" in run("check")
    told = run("explain", "--text", "hi", "--model", "qwen-acme", "--header", "x-pointsman-thinking=never", "--json")
    assert json.loads(json.loads(told)["wire_body"])["reasoning"] == {"enabled": False}


WRONG = [
    ({"like": "opnai"}, "dialects.acme.like", "openai"),
    ({"thinking": {"switch": "a.b.c"}}, "dialects.acme.thinking.switch", ""),
    ({"thinking": {"swich": "a"}}, "dialects.acme.thinking.swich", "switch"),
    ({"auth": {"header": "Host"}}, "dialects.acme.auth.header", "X-Api-Key"),
    ({"auth": {"header": "X-Key", "scheme": "a b"}}, "dialects.acme.auth.scheme", ""),
    ({"path": "chat"}, "dialects.acme.path", "/chat/completions"),
    ({"path": "/../admin"}, "dialects.acme.path", ""),
    ({"headers": {"Content-Length": "0"}}, "dialects.acme.headers", "written by the gateway"),
    ({"headers": {"X-A": "a\r\nX-B: b"}}, "dialects.acme.headers", "printable ASCII"),
    ({"headers": {"X-A": "a", "x-a": "b"}}, "dialects.acme.headers", "twice"),
    ({"body": {"model": "another"}}, "dialects.acme.body", "written by the gateway"),
    ({"drops": ["messages"]}, "dialects.acme.drops", "logprobs"),
    ({"errors": {"busy": "overload"}}, "dialects.acme.errors.busy", "overloaded"),
    ({"limit": "max_output_tokens"}, "dialects.acme.limit", "max_tokens"),
]


@pytest.mark.parametrize(("change", "place", "valid"), WRONG)
def test_a_slip_is_told_by_its_place_and_what_would_be_valid(
    acme: Acme, tmp_path: Path, change: dict[str, Any], place: str, valid: str
) -> None:
    acme.settings["dialects"]["acme"].update(change)
    told = refused(acme, tmp_path)
    assert place in told
    assert valid in told
    assert re.search(r"pointsman\.yaml:\d+: ", told)


def refused(acme: Acme, tmp_path: Path) -> str:
    path = tmp_path / "pointsman.yaml"
    with path.open("w") as file:
        YAML().dump(acme.settings, file)
    with pytest.raises(ConfigError) as caught:
        load_site(path, {"ACME_API_KEY": ACME_KEY, "EMPTY": " "}, tests=False)
    return str(caught.value)


def test_a_backend_s_additions_are_checked_too_and_no_secret_is_shown(acme: Acme, tmp_path: Path) -> None:
    backend = acme.settings["backends"]["acme"]
    backend["headers"] = {"X-Secret": {"env": "EMPTY"}, "X-Other": {"env": "MISSING"}}
    told = refused(acme, tmp_path)
    assert "backends.acme.headers.X-Secret: environment variable EMPTY does not hold a key" in told
    assert "backends.acme.headers.X-Other: environment variable MISSING is not set" in told
    backend["headers"] = {"X-Secret": "sk-pasted-here\n"}
    told = refused(acme, tmp_path)
    assert "backends.acme.headers" in told
    assert "sk-pasted" not in told
    backend["headers"] = {}
    backend["body"] = {"messages": []}
    assert "backends.acme.body" in refused(acme, tmp_path)


def test_a_name_that_is_taken_or_that_nobody_speaks_is_told(acme: Acme, tmp_path: Path) -> None:
    acme.settings["dialects"]["vllm"] = {"like": "openai"}
    assert "dialects.vllm: is the name of a dialect that comes with Pointsman" in refused(acme, tmp_path)
    acme.settings["dialects"] = {"unused": {}, "acme": acme.settings["dialects"]["acme"]}
    path = tmp_path / "pointsman.yaml"
    with path.open("w") as file:
        YAML().dump(acme.settings, file)
    site = load_site(path, {"ACME_API_KEY": ACME_KEY}, tests=False)
    assert any("dialects.unused: no backend speaks this dialect" in warning for warning in site.warnings)
    assert ACME_KEY not in repr(site)


def test_a_target_cannot_be_switched_where_there_is_no_switch(acme: Acme, tmp_path: Path) -> None:
    acme.settings["dialects"]["acme"]["thinking"] = {}
    acme.settings["targets"]["qwen-acme"]["thinking"] = "switchable"
    assert "targets.qwen-acme.thinking: there is no known way to switch thinking with acme" in refused(acme, tmp_path)
