"""The tests that policies carry: what they may say, and how they fail."""

from __future__ import annotations

from typing import Any

import pytest
from fleets import policy

from gateway.core.errors import ConfigError
from gateway.core.proving.policytest import MOST_TRACED, Result, run_tests

RULES = [
    {"id": "long", "when": {"context_tokens": {"gt": "200k"}}, "use": [{"model": "llama-4-scout"}]},
    {"id": "rest", "use": [{"family": "llama"}, {"family": "qwen"}]},
]
THINKING = [{"id": "hard", "when": {"difficulty": "hard"}, "set": {"budget": "4k"}}, {"id": "else", "set": "never"}]


def run(expect: dict[str, Any], given: dict[str, Any] | None = None, **parts: Any) -> Result:
    test = {"name": "a test", "given": given or {}, "expect": expect}
    document = {"as_of": "2026-11-21", "rules": RULES, "thinking": THINKING, "tests": [test], **parts}
    (result,) = run_tests(policy(**document))
    return result


@pytest.mark.parametrize(
    ("given", "good", "bad"),
    [
        ({}, {"rule": "rest"}, {"rule": "long"}),
        ({}, {"model": "llama-4-scout"}, {"model": "llama-4-maverick"}),
        ({}, {"model": ["llama-4-scout", "gpt-5"]}, {"model": ["gpt-5"]}),
        ({}, {"family": "llama"}, {"family": "qwen"}),
        ({}, {"target": "scout"}, {"target": "maverick"}),
        ({}, {"not_family": "qwen"}, {"not_family": ["qwen", "llama"]}),
        ({}, {"never_family": "gpt"}, {"never_family": "qwen"}),
        ({}, {"never_target": ["gpt", "gone"]}, {"never_target": "coder"}),
        ({}, {"candidates": ["scout", "scout-small"]}, {"candidates": ["scout", "maverick"]}),
        ({}, {"models": ["llama-4-scout", "llama-4-maverick"]}, {"models": ["llama-4-maverick"]}),
        ({}, {"families": ["llama", "qwen"]}, {"families": ["qwen"]}),
        ({}, {"thinking": "never"}, {"thinking": "client"}),
        ({"difficulty": "hard"}, {"thinking": {"budget": "4k"}}, {"thinking": {"budget": "8k"}}),
        ({"thinking_hint": "2k"}, {"thinking": {"budget": 2000}}, {"thinking": "never"}),
        ({"context_tokens": "300k"}, {"because": "200k"}, {"because": "300k"}),
        ({"context_tokens": "2M"}, {"refused": "context_length_exceeded"}, {"refused": "policy_denied"}),
        ({"pinned": "plus"}, {"rule": "pin", "target": "plus"}, {"rule": "rest"}),
        ({"pinned": "llama-4-scout"}, {"candidates": ["scout", "scout-small"]}, {"target": "scout-small"}),
        ({"unavailable": ["scout"]}, {"target": "scout-small"}, {"target": "scout"}),
        ({"unavailable": ["llama-4-scout"]}, {"target": "maverick"}, {"target": "scout-small"}),
        ({"modality": ["text", "video"]}, {"target": "qwen122"}, {"family": "llama"}),
        ({"tenant.team": "shop", "headers.x": "y", "metadata.z": "w"}, {"rule": "rest"}, {"rule": "long"}),
    ],
)
def test_an_expectation_holds_or_fails(given: dict[str, Any], good: dict[str, Any], bad: dict[str, Any]) -> None:
    passed = run(good, given)
    assert passed.passed, passed
    failed = run(bad, given)
    assert not failed.passed
    assert failed.path == "tests[0]"


def test_a_failure_reads_as_one_line() -> None:
    assert str(run({"family": "qwen", "rule": "rest"})) == (
        "FAILED  a test: family: expected qwen, got llama; [rest: no earlier rule applies; first of 4]"
    )
    assert str(run({"rule": "rest"})) == "ok      a test"


def test_only_the_first_hundred_failures_are_traced_and_all_are_told() -> None:
    tests = [{"name": f"t{i}", "expect": {"rule": "long" if i % 2 else "rest"}} for i in range(2 * MOST_TRACED + 6)]
    results = run_tests(policy(as_of="2026-11-21", rules=RULES, thinking=THINKING, tests=tests))
    failed = [result for result in results if not result.passed]
    assert len(failed) == MOST_TRACED + 3
    assert [result.trace is not None for result in failed] == [True] * MOST_TRACED + [False] * 3
    assert failed[0].failures == failed[-1].failures != ()


def test_a_refusal_that_is_not_traced_is_told_as_a_client_would_be() -> None:
    tests = [{"name": "t", "given": {"context_tokens": "2M"}, "expect": {"rule": "long"}}] * (MOST_TRACED + 1)
    last = run_tests(policy(as_of="2026-11-21", rules=RULES, thinking=THINKING, tests=tests))[-1]
    assert last.failures[0].startswith("refused with context_length_exceeded: ")


def test_a_refusal_nobody_expected_names_every_candidate() -> None:
    result = run({"rule": "long"}, {"context_tokens": "2M"})
    assert str(result) == (
        "FAILED  a test: refused with context_length_exceeded: "
        "scout: window 1,000,000 < 2,000,000 + 500 tokens; scout-small: window 327,680 < 2,000,000 + 500 tokens"
    )


def test_an_answer_where_a_refusal_was_expected_is_a_failure() -> None:
    assert "refused: expected policy_denied, got scout, not refused" in str(run({"refused": "policy_denied"}))


@pytest.mark.parametrize(
    ("given", "expect", "path", "what"),
    [
        ({"langauge": "ja"}, {"rule": "rest"}, "tests[0].given.langauge", "no signal"),
        ({"context_tokens": "lots"}, {"rule": "rest"}, "tests[0].given.context_tokens", "is not a size"),
        ({"difficulty": "so-so"}, {"rule": "rest"}, "tests[0].given.difficulty", "no difficulty"),
        ({"modality": ["smell"]}, {"rule": "rest"}, "tests[0].given.modality", "no modality"),
        ({"max_cost_usd": 1.0e308}, {"rule": "rest"}, "tests[0].given.max_cost_usd", "more than a request can cost"),
        ({"max_cost_usd": float("inf")}, {"rule": "rest"}, "tests[0].given.max_cost_usd", "is not a size"),
        ({"max_cost_usd": float("nan")}, {"rule": "rest"}, "tests[0].given.max_cost_usd", "is not a size"),
        ({"tools": "yes"}, {"rule": "rest"}, "tests[0].given.tools", "not a boolean"),
        ({"thinking_hint": "much"}, {"rule": "rest"}, "tests[0].given.thinking_hint", "is no wish"),
        ({"pinned": "nobody"}, {"rule": "rest"}, "tests[0].given.pinned", "no model or target"),
        ({"unavailable": ["nobody"]}, {"rule": "rest"}, "tests[0].given.unavailable", "no target"),
        ({"draw": 1}, {"rule": "rest"}, "tests[0].given.draw", "is no draw"),
        ({}, {"ruel": "rest"}, "tests[0].expect.ruel", "nothing called"),
        ({}, {"rule": "long-context"}, "tests[0].expect.rule", "is no rule of this policy"),
        ({}, {"family": "lama"}, "tests[0].expect.family", "is no family of the catalogue"),
        ({}, {"never_model": ["qwen9"]}, "tests[0].expect.never_model", "is no model of the catalogue"),
        ({}, {"candidates": ["nobody"]}, "tests[0].expect.candidates", "is no target of the fleet that tests run on"),
        ({}, {"refused": "no"}, "tests[0].expect.refused", "is no code of an error"),
        ({}, {"thinking": "off"}, "tests[0].expect.thinking", "no way of thinking"),
        ({}, {"because": 5}, "tests[0].expect.because", "is not a text"),
    ],
)
def test_a_test_that_means_nothing_is_refused(
    given: dict[str, Any], expect: dict[str, Any], path: str, what: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        run(expect, given)
    (problem,) = caught.value.problems
    assert problem.path == path
    assert what in problem.what


def test_tests_need_a_clock() -> None:
    with pytest.raises(ConfigError, match="need a clock"):
        run({"rule": "rest"}, as_of=None)


def test_tests_run_on_the_day_the_policy_names() -> None:
    retired = {"never_target": "llama70"}
    assert not run(retired, as_of="2026-11-30").passed
    assert run(retired, as_of="2026-12-01").passed
