"""A target that thinks although told not to, through a running gateway: doubted, told of, and believed again."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.harness import COMPLETION, ROLE, STOP, STREAM, Gateway, Script, chat, chunk, eventually, plain, stream
from tests.proxy.conftest import Start

_MESSAGE = {"role": "assistant", "content": "Hello.", "reasoning_content": "Let me think."}
THINKS = plain(
    body=json.dumps(
        {**COMPLETION, "choices": [{"index": 0, "message": _MESSAGE, "finish_reason": "stop"}]}  # type: ignore[dict-item]
    ).encode()
)
THINKS_STREAMED = stream([ROLE, chunk(reasoning_content="Let me think."), chunk("Hello."), STOP, b"data: [DONE]\n\n"])
POLICY = """\
policy: quiet
rules: [{id: all, use: [{target.name: a}, {target.name: b}]}]
thinking: [{id: else, set: never}]
"""


def begin(start: Start, tmp_path, scripts: dict[str, list[Script]], **over):  # type: ignore[no-untyped-def]
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "quiet.yaml").write_text(POLICY)
    return start(scripts, policies={"dir": "policies", "default": "quiet"}, **over)


def target(gateway: Gateway, name: str) -> dict[str, object]:
    told = gateway.get("/v1/targets", admin=True).json()["data"]
    return next(one for one in told if one["target"] == name)


def asked(gateway: Gateway, **more: object) -> str:
    answer = gateway.post(chat(**more))  # type: ignore[arg-type]
    assert answer.status_code == 200, answer.text
    return answer.headers["x-pointsman-target"]


@pytest.mark.parametrize("streamed", [False, True])
def test_after_three_answers_that_think_unasked_a_target_gets_no_more_requests_that_must_not(
    start: Start,
    tmp_path,
    streamed: bool,  # type: ignore[no-untyped-def]
) -> None:
    gateway, _ = begin(
        start, tmp_path, {"a": [THINKS_STREAMED if streamed else THINKS], "b": [stream() if streamed else plain()]}
    )
    more = {"stream": True} if streamed else {}
    assert [asked(gateway, **more) for _ in range(5)] == ["a", "a", "a", "b", "b"]
    told = target(gateway, "a")
    assert (told["thinking"], told["thinking_violations"], told["state"]) == ("unknown", 3, "healthy")
    assert target(gateway, "b")["thinking"] == "never"
    assert gateway.metric('pointsman_target_thinking_doubted{target="a"}') == 1
    assert gateway.metric('pointsman_target_thinking_doubted{target="b"}') == 0
    assert eventually(lambda: sum("target a thought in 3 answers" in line for line in gateway.lines) == 1)
    explained = gateway.post(chat(), path="/v1/explain").json()
    assert explained["targets"][0]["target"] == "b"
    assert ["cannot promise thinking: never"] in [one["reasons"] for one in explained["targets"]]


def test_doubt_survives_a_reload_and_ends_when_a_probe_says_so(start: Start, tmp_path) -> None:  # type: ignore[no-untyped-def]
    gateway, _ = begin(start, tmp_path, {"a": [THINKS], "b": [plain()]})
    assert [asked(gateway) for _ in range(4)] == ["a", "a", "a", "b"]
    config = tmp_path / "pointsman.yaml"
    config.write_text(config.read_text() + "drain: 20s\n")
    assert httpx.post(gateway.admin + "/v1/reload", timeout=30).status_code == 200
    assert asked(gateway) == "b"
    told = httpx.post(gateway.admin + "/v1/targets/a/probed", timeout=30)
    assert (told.status_code, told.json()) == (200, {"target": "a", "was_doubted": True})
    assert asked(gateway) == "a"
    assert target(gateway, "a")["thinking_violations"] == 1
    assert httpx.post(gateway.admin + "/v1/targets/nobody/probed", timeout=30).status_code == 404


def test_a_doubted_target_alone_is_a_refusal_that_says_why(start: Start, tmp_path) -> None:  # type: ignore[no-untyped-def]
    gateway, ups = begin(start, tmp_path, {"a": [THINKS], "b": [THINKS]}, thinking_violations=1)
    assert [asked(gateway), asked(gateway)] == ["a", "b"]
    refused = gateway.post(chat())
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unsupported_capability")
    assert [len(one.requests) for one in ups.values()] == [1, 1]


def test_nought_only_counts(start: Start, tmp_path) -> None:  # type: ignore[no-untyped-def]
    gateway, _ = begin(start, tmp_path, {"a": [THINKS], "b": [plain()]}, thinking_violations=0)
    assert {asked(gateway) for _ in range(6)} == {"a"}
    assert gateway.metric('pointsman_thinking_violations_total{target="a"}') == 6
    assert target(gateway, "a")["thinking"] == "never"


def test_an_answer_that_obeys_is_no_violation(start: Start, tmp_path) -> None:  # type: ignore[no-untyped-def]
    gateway, _ = begin(start, tmp_path, {"a": [stream(STREAM)], "b": [plain()]}, thinking_violations=1)
    assert {asked(gateway, stream=True) for _ in range(3)} == {"a"}
    assert target(gateway, "a")["thinking_violations"] == 0
