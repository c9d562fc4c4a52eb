"""Conditions over several signals: and, or, not, and in which order they are asked."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from fleets import Watched, given

from gateway.core.clauses.conditions import Condition, Scope, compile_condition
from gateway.core.clauses.matchers import Problems


def condition(raw: Any) -> Condition:
    problems = Problems()
    made = compile_condition(raw, "when", Scope(problems, "qwen3.5"))
    assert made is not None, problems.found
    return made


A, B, C = {"tools": True}, {"stream": True}, {"cost_sensitive": True}


@pytest.mark.parametrize(
    ("raw", "meaning"),
    [
        ({**A, **B}, lambda a, b, c: a and b),
        ({"any": [A, B]}, lambda a, b, c: a or b),
        ({"all": [A, B, C]}, lambda a, b, c: a and b and c),
        ({"any": [A, B, C]}, lambda a, b, c: a or b or c),
        ({"not": A}, lambda a, b, c: not a),
        ({"not": {**A, **B}}, lambda a, b, c: not (a and b)),
        ({"not": {"any": [A, B]}}, lambda a, b, c: not (a or b)),
        ({"not": {"all": [A, B]}}, lambda a, b, c: not (a and b)),
        ({"not": {"not": {**A, **B}}}, lambda a, b, c: a and b),
        ({"not": {"any": [A, {"not": B}], **C}}, lambda a, b, c: not ((a or not b) and c)),
        ({**A, "any": [B, C]}, lambda a, b, c: a and (b or c)),
        ({"any": [{**A, **B}, {"not": C}]}, lambda a, b, c: (a and b) or not c),
    ],
)
def test_a_condition_means_what_logic_says(raw: Any, meaning: Any) -> None:
    made = condition(raw)
    for a, b, c in product((True, False), repeat=3):
        assert made.test(given(tools=a, stream=b, cost_sensitive=c)) is bool(meaning(a, b, c)), (a, b, c)


@pytest.mark.parametrize(
    "raw", [{"task": "code"}, {"not": {"task": "code"}}, {"not": {"not": {"task": {"not": "code"}}}}]
)
def test_what_is_not_known_matches_nothing_however_often_it_is_negated(raw: Any) -> None:
    assert not condition(raw).test(given())


def test_except_that_it_is_not_known() -> None:
    assert condition({"task": {"known": False}}).test(given())
    assert condition({"not": {"task": {"known": True}}}).test(given())


@pytest.mark.parametrize(
    ("matcher", "yes", "no"),
    [
        ({"gt": 100}, [101], [100, 99]),
        ({"gte": 100}, [100, 101], [99]),
        ({"lt": 100}, [99, 0], [100]),
        ({"lte": 100}, [100], [101]),
        (100, [100], [99, 101]),
        ([100, 200], [100, 200], [150]),
        ({"not": 100}, [99, 101], [100]),
        ({"gt": 100, "lt": 200}, [101, 199], [100, 200]),
        ({"any": [{"lt": 10}, {"gt": 20}]}, [9, 21], [10, 20]),
        ({"not": {"gt": 100, "lt": 200}}, [100, 200], [150]),
        ({"known": True}, [0, 5], []),
        ({"known": False}, [], [0, 5]),
    ],
)
def test_context_tokens_are_compared_at_the_very_token(matcher: Any, yes: list[int], no: list[int]) -> None:
    made = condition({"context_tokens": matcher})
    assert [made.test(given(context_tokens=n)) for n in yes] == [True] * len(yes)
    assert [made.test(given(context_tokens=n)) for n in no] == [False] * len(no)


def test_context_tokens_count_the_output_that_is_asked_for() -> None:
    made = condition({"context_tokens": {"gt": 1000}})
    assert not made.test(given(tokens={"": [900, 900, True, ""]}, max_output_tokens=100))
    assert made.test(given(tokens={"": [900, 900, True, ""]}, max_output_tokens=101))


def asked(raw: Any, **values: Any) -> list[str]:
    watched = Watched(values)
    condition(raw).test(watched)  # type: ignore[arg-type]
    return watched.asked


def test_the_cheapest_member_is_asked_first_and_the_rest_only_while_it_matters() -> None:
    raw = {"task": "code", "language": "ja", "context_tokens": {"gt": 10}, "modality": "image", "tools": True}
    order = ["tools", "modality", "context_tokens", "language", "task"]
    everything = {
        "tools": True,
        "modality": frozenset({"image"}),
        "context_tokens": 11,
        "language": "ja",
        "task": "code",
    }
    assert asked(raw, **everything) == order
    for i, name in enumerate(order):
        assert asked(raw, **{key: value for key, value in everything.items() if key != name}) == order[: i + 1]
    assert asked({"any": [{"task": "code"}, {"tools": True}]}, tools=True) == ["tools"]


@pytest.mark.parametrize(
    ("operator", "held"),
    [("gt", {1001, 1002}), ("gte", {1001, 1002}), ("lt", {999, 1000}), ("lte", {999, 1000}), ("eq", set())],
)
def test_a_length_is_whole_and_stands_on_the_right_side_of_an_edge_that_is_not(operator: str, held: set[int]) -> None:
    problems = Problems()
    made = compile_condition({"context_tokens": {operator: 1000.5}}, "when", Scope(problems))
    assert made is not None
    assert {n for n in (999, 1000, 1001, 1002) if made.test(given(context_tokens=n))} == held
