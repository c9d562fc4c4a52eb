"""What removes a target is said with the facts that do it, all of them and short."""

from __future__ import annotations

from typing import Any

import pytest
from fleets import FLEET, given, policy, snapshot

from gateway.core.decisions.trace import trace

HOME = {"target.self_hosted": True, "target.region": {"prefix": "eu"}, "model.license.osi_approved": True}


def reason(constraint: dict[str, Any], target: str, **values: Any) -> str:
    made = policy(constraints=[{"id": "home", **constraint}])
    return trace(made, given(**values), snapshot(FLEET)).reasons[target][0]


@pytest.mark.parametrize(
    ("selector", "target", "said"),
    [
        (
            {"target.self_hosted": True, "target.region": {"prefix": "eu"}, "model.params_total_b": {"lte": 5}},
            "scout",
            "target.region is us-east-1, model.params_total_b is not known",
        ),
        ({"target.region": {"prefix": "eu"}, "model.family": "qwen"}, "scout-small",
         "target.region is not known, model.family is llama"),
        ([{"model.family": "qwen"}, {"target.region": "mars"}], "scout",
         "model.family is llama, target.region is us-east-1"),
        ([{"model.family": "qwen"}, {"model.family": "gpt"}], "scout", "model.family is llama"),
    ],
)  # fmt: skip
def test_a_requirement_says_every_member_that_does_not_hold(selector: Any, target: str, said: str) -> None:
    assert reason({"require": selector}, target) == f"not what home requires: {said}"


def test_a_variable_says_what_it_was_compared_with() -> None:
    speaks = {"model.languages": {"has": "$language"}}
    said = reason({"require": speaks}, "scout", language="ja")
    assert said.startswith("not what home requires: model.languages is [ar, de, en, ")
    assert said.endswith(" where language is ja")
    assert len(said) < 150
    assert reason({"require": speaks}, "scout").endswith(" where language is not known")


def test_a_prohibition_says_what_matched() -> None:
    here = {"model.family": "llama", "target.region": {"prefix": "us"}}
    assert reason({"forbid": here}, "scout") == "forbidden by home: model.family is llama, target.region is us-east-1"
    either = [{"model.family": "qwen"}, {"target.region": {"prefix": "us"}}]
    assert reason({"forbid": either}, "scout") == "forbidden by home: target.region is us-east-1"
    assert reason({"forbid": "*"}, "scout") == "forbidden by home"
    assert reason({"forbid": {"target.name": "scout"}}, "scout") == "forbidden by home"


def test_what_would_be_long_of_a_prohibition_is_left_in_the_file() -> None:
    named = {"model.family": "llama", "model.id": "llama-4-scout", "target.region": {"prefix": "us"}}
    long = {**named, "target.self_hosted": True, "model.languages": {"has": "en"}}
    assert reason({"forbid": long}, "scout") == "forbidden by home"
