"""What a failed test shows: what was expected, what came, and what became of the targets it hoped for."""

from __future__ import annotations

from typing import Any

from fleets import policy

from gateway.core.proving.policytest import run_tests
from gateway.testing.junit import junit
from gateway.testing.told import FileResult, difference


def shown(expect: dict[str, Any], given: dict[str, Any] | None = None, **parts: Any) -> list[str]:
    test = {"name": "a test", "given": given or {}, "expect": expect}
    (result,) = run_tests(policy(as_of="2026-11-21", tests=[test], **parts))
    return list(difference(result))


def test_a_passed_test_shows_nothing() -> None:
    assert shown({"rule": "all"}) == []


def test_a_failure_shows_candidates_and_the_fate_of_what_was_expected() -> None:
    use = [{"model": "llama-4-scout"}, {"family": "qwen"}]
    forbid = {"id": "no-ap", "forbid": {"target.region": {"prefix": "ap"}}}
    told = shown(
        {"model": ["qwen3.5-plus", "qwen3.5-35b-a3b", "llama-4-maverick"]},
        {"unavailable": ["scout-small"]},
        rules=[{"id": "all", "use": use}],
        constraints=[forbid],
    )
    assert told == [
        "model: expected qwen3.5-plus or qwen3.5-35b-a3b or llama-4-maverick, got llama-4-scout",
        "because: all: no earlier rule applies",
        "candidates:",
        "  1. scout    llama-4-scout",
        "  2. qwen122  qwen3.5-122b-a10b",
        "  3. qwen35   qwen3.5-35b-a3b",
        "  4. coder    qwen3-coder-next",
        "expected, and what became of it:",
        "  plus: forbidden by no-ap: target.region is ap-southeast-1",
        "  qwen35: candidate 3",
        "  maverick: not in rule all",
    ]


def test_a_refusal_shows_why_each_hoped_for_target_was_dropped() -> None:
    told = shown({"family": "llama"}, {"context_tokens": "2M"})
    assert told[0].startswith("refused with context_length_exceeded")
    assert "  scout (llama-4-scout): window 1,000,000 < 2,000,000 + 500 tokens" in told
    assert "candidates:" not in told


def test_a_model_that_nobody_serves_is_said_to_be_so() -> None:
    assert shown({"model": "gpt-5"}, rules=[{"id": "all", "use": [{"family": "llama"}]}])[-1] == (
        "  gpt: not in rule all, API only, and gpt is not in allow_closed"
    )


def test_junit_holds_no_character_that_xml_forbids() -> None:
    class File:
        class doc:
            policy = "test"

        class document:
            @staticmethod
            def line(path: str) -> int:
                return 7

    test = {"name": "bell \x07 & <tag>", "expect": {"rule": "all"}}
    results = run_tests(policy(as_of="2026-11-21", tests=[test]))
    made = junit([FileResult("a.yaml", File, results)]).decode()  # type: ignore[arg-type]
    assert 'name="bell ? &amp; &lt;tag&gt;"' in made
    assert 'line="7"' in made
