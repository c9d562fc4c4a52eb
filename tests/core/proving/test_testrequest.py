"""Tests of policies that bring a request: read as serving reads it, and refused where serving would not read it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fleets import policy

from gateway.core.errors import ConfigError
from gateway.core.proving.policytest import Result, run_tests
from gateway.core.proving.testrequest import Reader
from gateway.core.reading.lexicon import Lexicon
from gateway.core.text.tokens import Tokenizers

LEXICON = Lexicon.compile(
    {
        "look": {"head": 600, "tail": 300},
        "decide": {"task": 1, "margin": 1, "easy": 1, "hard": 1},
        "rules": [{"id": "code", "task": "code", "points": 2, "words": ["python function"]}],
    }
)
RULES = [
    {"id": "code", "when": {"task": "code"}, "use": [{"model": "qwen3-coder-next"}]},
    {"id": "japanese", "when": {"language": "ja"}, "use": [{"family": "qwen"}]},
    {"id": "shop", "when": {"tenant.team": "shop"}, "use": [{"family": "qwen"}]},
    {"id": "bulk", "when": {"workload": "bulk"}, "use": [{"family": "qwen"}]},
    {"id": "beta", "when": {"headers.x-beta": "yes"}, "use": [{"family": "qwen"}]},
    {"id": "long", "when": {"context_tokens": {"gt": "2k"}}, "use": [{"model": "llama-4-scout"}]},
    {"id": "rest", "use": [{"family": "llama"}, {"family": "qwen"}]},
]


def body(text: str = "Hello.", **more: Any) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": text}], **more}


def run(test: dict[str, Any], bodies: dict[str, bytes] | None = None) -> Result:
    whole = policy(as_of="2026-11-21", rules=RULES, tests=[{"name": "a test", "expect": {"rule": "rest"}, **test}])
    (result,) = run_tests(whole, Reader(LEXICON, Tokenizers(), bodies or {}))
    return result


@pytest.mark.parametrize(
    ("test", "rule"),
    [
        ({"request": body()}, "rest"),
        ({"request": body("Write a Python function that adds.")}, "code"),
        ({"request": body("今日の天気はどうですか。教えてください。")}, "japanese"),
        ({"request": body(), "tenant": {"team": "shop"}}, "shop"),
        ({"request": body(), "headers": {"X-Pointsman-Workload": "bulk"}}, "bulk"),
        ({"request": body(), "headers": {"X-Beta": "yes"}}, "beta"),
        ({"request": body("word " * 40_000)}, "long"),
        ({"request": body(max_tokens=4000)}, "long"),
        ({"request": body(model="auto/test")}, "rest"),
        ({"request": body(model="gpt-4o-of-old")}, "rest"),
        ({"request": body("Hello. " * 3, model="scout-small")}, "pin"),
        ({"request": "there.json"}, "code"),
    ],
)
def test_a_request_is_read_as_serving_reads_it(test: dict[str, Any], rule: str) -> None:
    there = json.dumps(body("Write a Python function.")).encode()
    assert run({**test, "expect": {"rule": rule}}, {"there.json": there}).failures == ()


def test_the_world_stands_beside_a_request() -> None:
    test = {"request": body(model="llama-4-scout"), "given": {"unavailable": ["scout"]}}
    assert run({**test, "expect": {"target": "scout-small"}}).passed


@pytest.mark.parametrize(
    ("test", "path", "what"),
    [
        ({"request": "gone.json"}, "tests[0].request", "cannot be read here"),
        ({"request": "half.json"}, "tests[0].request", "invalid_json"),
        ({"request": {"model": "auto"}}, "tests[0].request", "bad_request"),
        ({"request": body(), "headers": {"x-pointsman-tinking": "never"}}, "tests[0].headers", "is not a hint"),
        ({"request": body(), "headers": {"x-pointsman-cost": "high"}}, "tests[0].headers", "low or normal"),
        ({"request": body(model="auto/other")}, "tests[0].request.model", "asks for the policy 'other'"),
        (
            {"request": body(), "headers": {"x-pointsman-policy": "other"}},
            "tests[0].headers.x-pointsman-policy",
            "asks for the policy 'other'",
        ),
        ({"request": body(), "given": {"language": "ja"}}, "tests[0].given.language", "the request says this itself"),
        ({"request": body(), "given": {"pinned": "scout"}}, "tests[0].given.pinned", "the request says this itself"),
    ],
)
def test_a_request_that_serving_would_not_read_is_told_of(test: dict[str, Any], path: str, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run(test, {"half.json": b'{"model": "auto", '})
    (problem,) = caught.value.problems
    assert problem.path == path
    assert what in problem.what


def test_without_a_reader_a_request_is_not_passed_over() -> None:
    whole = policy(as_of="2026-11-21", tests=[{"name": "a", "request": body(), "expect": {"rule": "all"}}])
    with pytest.raises(ConfigError, match="cannot be read here"):
        run_tests(whole)


def test_the_wish_of_a_body_counts_as_when_it_is_served() -> None:
    assert run({"request": body(reasoning_effort="high"), "expect": {"thinking": "client", "rule": "rest"}}).passed
