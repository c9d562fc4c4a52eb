"""What is written differently in a policy: entries by id, moves apart from changes, nothing said twice."""

from __future__ import annotations

from typing import Any

import pytest
from fleets import document

from gateway.core.policy import PolicyDoc
from gateway.core.proving.changes import changes

A = {"id": "a", "when": {"task": "code"}, "use": [{"family": "qwen"}]}
B = {"id": "b", "when": {"tools": True}, "use": ["*"]}
C = {"id": "c", "use": ["*"]}


def doc(**parts: Any) -> PolicyDoc:
    return PolicyDoc.model_validate(document(**parts))


def differ(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, list[tuple[str, str, str]]]]:
    found = changes(doc(**before), doc(**after))
    return [(str(one), [(each.member, each.before, each.after) for each in one.details]) for one in found]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([A, C], [A, C], []),
        ([A, C], [A, B, C], [("rule b added", [("when", "", "{tools: true}"), ("use", "", '["*"]')])]),
        ([A, B], [B], [("rule a removed", [("when", "{task: code}", ""), ("use", "[{family: qwen}]", "")])]),
        ([A, C], [{**A, "when": {"task": "math"}}, C], [
            ("rule a changed", [("when", "{task: code}", "{task: math}")]),
        ]),
        ([A, C], [{"id": "a", "use": A["use"]}, C], [("rule a changed", [("when", "{task: code}", "")])]),
        ([A, B, C], [B, A, C], [("rule b moved", [("place", "", "first")])]),
        ([A, B, C], [C, A, B], [("rule c moved", [("place", "", "first")])]),
        ([A, C], [{**A, "id": "z"}, C], [("rule z renamed", [("id", "a", "z")])]),
        ([A, B, C], [B, {**A, "use": ["*"]}, C], [
            ("rule b moved", [("place", "", "first")]), ("rule a changed", [("use", "[{family: qwen}]", '["*"]')]),
        ]),
    ],
)  # fmt: skip
def test_rules_are_told_apart_by_their_ids(before: Any, after: Any, expected: Any) -> None:
    assert differ({"rules": before}, {"rules": after}) == expected


def test_sets_thinking_and_plain_keys_are_told_as_well() -> None:
    before = {"sets": {"s": ["gpt-5"], "gone": ["gpt-5"]}, "rank": "cheapest", "tokens_by": "qwen3.5"}
    after = {
        "sets": {"s": ["gpt-5", "llama-4-scout"]},
        "rank": "fastest",
        "as_of": "2026-11-21",
        "thinking": [{"id": "t", "set": {"budget": "4k"}, "force": True}],
    }
    assert differ(before, after) == [
        ("as_of added", [("as_of", "", "2026-11-21")]),
        ("tokens_by removed", [("tokens_by", "qwen3.5", "")]),
        ("set s changed", [("", "[gpt-5]", "[gpt-5, llama-4-scout]")]),
        ("set gone removed", [("", "[gpt-5]", "")]),
        ("rank changed", [("rank", "cheapest", "fastest")]),
        ("thinking entry t added", [("set", "", "{budget: 4000}"), ("force", "", "true")]),
    ]


def test_tests_are_no_part_of_what_is_written_differently() -> None:
    assert differ({}, {"tests": [{"name": "a", "expect": {"rule": "all"}}], "as_of": "2026-11-21"}) == [
        ("as_of added", [("as_of", "", "2026-11-21")])
    ]
