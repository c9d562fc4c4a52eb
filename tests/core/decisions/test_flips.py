"""What would flip a decision: per rule, nearest first, and true, because it was decided again."""

from __future__ import annotations

from typing import Any

import pytest
from fleets import given, policy, snapshot
from hypothesis import given as example_of
from hypothesis import strategies as st

from gateway.core.decide import decide
from gateway.core.decisions.flips import OTHER, Flip
from gateway.core.decisions.trace import trace
from gateway.core.policy import Policy
from gateway.core.reading.signals import Signals

RULES = [
    {"id": "long", "when": {"context_tokens": {"gt": "200k"}},
     "use": [{"model": "llama-4-scout"}, {"target.window": {"gte": "1M"}}]},
    {"id": "code", "when": {"task": "code", "tools": False}, "use": [{"model": "qwen3-coder-next"}, "*"]},
    {"id": "foreign", "when": {"language": {"not": "en"}}, "use": [{"family": "qwen"}, "*"]},
    {"id": "seeing", "when": {"modality": {"has": ["image"]}}, "use": [{"target.modalities": {"has": "image"}}]},
    {"id": "shop", "when": {"tenant.team": {"prefix": "shop"}, "workload": {"in": ["bulk", "batch"]}},
     "use": [{"family": "qwen"}]},
    {"id": "rest", "use": [{"family": "llama"}, "*"]},
]  # fmt: skip
THINKING = [
    {"id": "short", "when": {"max_output_tokens": {"lt": "2k"}}, "set": "never"},
    {"id": "hard", "when": {"difficulty": "hard"}, "set": {"budget": "4k"}},
    {"id": "else", "set": "never"},
]
POLICY = policy(rules=RULES, thinking=THINKING)


def flips(made: Policy = POLICY, **values: Any) -> dict[str | None, list[str]]:
    """Rule or entry -> the lines about it."""
    found: dict[str | None, list[str]] = {}
    for flip in trace(made, given(**values), snapshot(), flips=True).flips:
        found.setdefault(flip.id, []).append(flip.text)
    return found


def test_every_other_rule_and_entry_has_its_nearest_flip() -> None:
    assert flips(context_tokens=181_789, language="en", tools=False, modality=["text"]) == {
        "long": ["18,212 more tokens and `long` would apply: scout"],
        "code": ["task code and `code` would apply: coder"],
        "foreign": ["language other than en, such as fr, and `foreign` would apply: qwen122"],
        "seeing": ["modality image, text instead of text and `seeing` would apply: scout"],
        "shop": ["tenant.team shop and workload batch and `shop` would apply: qwen122"],
        "short": ["max_output_tokens 1,999 and thinking `short` would apply: scout"],
        "hard": ["difficulty hard and thinking `hard` would apply: qwen122"],
    }


@pytest.mark.parametrize(
    ("values", "of", "line"),
    [
        ({"context_tokens": 200_010}, "rest", "10 fewer tokens and `rest` would apply: scout"),
        ({"max_output_tokens": 1_500}, "long", "198,501 more tokens and `long` would apply: scout"),
        ({"max_output_tokens": 1_500}, "else", "500 more max_output_tokens and thinking `else` would apply: scout"),
        (
            {"max_output_tokens": 2_000, "difficulty": "hard"},
            "short",
            "1 fewer max_output_tokens and thinking `short` would apply: scout",
        ),
        (
            {"tokens": {"": [100, 50_000, False, ""]}},
            "long",
            "at least 150,001 more tokens and `long` would apply: scout",
        ),
        (
            {"tokens": {"": [250_000, 300_000, False, ""]}},
            "rest",
            "at least 50,000 fewer tokens and `rest` would apply: scout",
        ),
        ({"task": "code", "tools": False}, "rest", "tools true instead of false and `rest` would apply: scout"),
        ({"language": "ja"}, "rest", "language en instead of ja and `rest` would apply: scout"),
    ],
)  # fmt: skip
def test_a_flip_reads_as_one_line(values: dict[str, Any], of: str, line: str) -> None:
    # Only the requested output counts where no length is given: 1,500 of it leave 198,501 to more than 200k.
    assert line in flips(**values)[of]


def test_a_flip_into_a_refusal_says_so() -> None:
    made = policy(rules=[{"id": "far", "when": {"task": "math"}, "use": [{"target.region": "mars"}]}, RULES[-1]])
    assert flips(made)["far"] == ["task math and `far` would apply: refused, policy_denied"]


def test_where_no_rule_is_left_that_is_told_too() -> None:
    made = policy(rules=[{"id": "only", "when": {"tools": True}, "use": ["*"]}])
    assert flips(made, tools=True)[None] == [
        "tools false instead of true and no rule would apply: refused, policy_denied"
    ]


def test_a_rule_that_rules_above_it_hide_has_none() -> None:
    made = policy(rules=[{"id": "all", "use": ["*"]}, {"id": "dead", "when": {"task": "code"}, "use": ["*"]}])
    assert flips(made) == {}


def test_one_who_named_a_target_is_told_of_no_rule() -> None:
    assert trace(POLICY, given(), snapshot(), pinned=1, flips=True).flips == ()


def test_a_trace_that_was_not_asked_decides_once() -> None:
    assert trace(POLICY, given(), snapshot()).flips == ()


def test_a_policy_of_thousands_of_rules_is_given_up_in_time_and_not_wrong() -> None:
    many = [{"id": f"r{i}", "when": {"task": f"t{i}", "context_tokens": {"gt": i}}, "use": ["*"]} for i in range(3_000)]
    made = trace(policy(rules=[*many, RULES[-1]]), given(task="none"), snapshot(), flips=True)
    assert len(made.flips) < 100


# Whatever is reported is so

WORDS = st.sampled_from(["code", "math", "bulk", "batch", "shop", "shop-web", "en", "ja", None])
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "task": WORDS,
        "workload": WORDS,
        "tenant.team": WORDS,
        "language": st.sampled_from(["en", "ja", "fr"]),
        "tools": st.booleans(),
        "modality": st.sampled_from([["text"], ["text", "image"]]),
        "context_tokens": st.sampled_from([0, 5_000, 199_999, 200_001, 900_000]),
        "max_output_tokens": st.sampled_from([1, 1_999, 2_000, 9_000]),
        "difficulty": st.sampled_from(["easy", "hard"]),
    },
)


@example_of(VALUES)
def test_every_flip_is_what_deciding_such_a_request_gives(values: dict[str, Any]) -> None:
    for flip in trace(POLICY, Signals.given(values), snapshot(), flips=True).flips:
        changed = {**values, **{change.signal: change.after for change in flip.changes}}
        then = decide(POLICY, Signals.given(changed), snapshot())
        assert (then.rule if flip.kind == "rule" else then.thinking.rule) == flip.id
        assert (then.candidates[0].name if then.candidates else None) == flip.target


def test_a_value_that_stands_for_all_others_is_named_by_no_condition() -> None:
    def changes(flip: Flip) -> bool:
        return any(change.after == OTHER and change.any_other for change in flip.changes)

    made = policy(rules=[{"id": "r", "when": {"workload": {"not": "bulk"}}, "use": ["*"]}, RULES[-1]])
    assert any(changes(flip) for flip in trace(made, given(workload="bulk"), snapshot(), flips=True).flips)
