"""Surveys of mutants: bounded, told step by step, and on whole files."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import count

from gateway import yamlfile
from gateway.core.policy import PolicyDoc
from gateway.core.types import Fleet
from gateway.policyfile import PolicyFile, reference_fleet
from gateway.problems import validated
from gateway.testing.mutation import survey

POLICY = """\
policy: small
as_of: 2026-11-21
rules:
  - id: code
    when: {task: code}
    use: [{model: qwen3-coder-next}, {family: qwen}, "*", {family: llama}]
  - id: default
    use: [{family: llama}, "*"]
tests:
  - {name: code, given: {task: code}, expect: {models: [qwen3-coder-next], families: [qwen]}}
  - {name: chat, expect: {family: llama}}
"""


@cache
def fleet() -> Fleet:
    return reference_fleet()


def small() -> PolicyFile:
    document = yamlfile.loads(POLICY, "small.yaml")
    return PolicyFile(document, validated(document, PolicyDoc))


def test_a_survey_tells_what_was_noticed_what_was_not_and_what_could_not_be() -> None:
    found = survey(small(), fleet())
    assert {str(one) for one in found.survivors} == {
        "code: without {family: qwen}",
        "code: without *",
        "default: without {family: llama}",
        "default: without *",
    }
    assert [one.path for one in found.idle] == ["rules[0].use[3]"]
    assert (found.tried, found.untried) == (found.noticed + 4, 0)


def test_a_survey_ends_when_its_time_is_up_and_says_what_it_left() -> None:
    calls: Iterator[int] = count()
    found = survey(small(), fleet(), time_is_up=lambda: next(calls) >= 2)
    whole = survey(small(), fleet())
    assert found.untried == whole.tried + len(whole.idle) - 2


def test_a_survey_tells_its_progress() -> None:
    steps: list[tuple[int, int]] = []
    survey(small(), fleet(), step=lambda done, total: steps.append((done, total)))
    assert steps == [(i, len(steps)) for i in range(len(steps))]
