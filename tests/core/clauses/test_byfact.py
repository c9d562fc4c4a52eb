"""Ranks by a fact: best first, equals by cost, what is not known last, and nothing left to work out per request."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fleets import FLEET, TARGETS, Watched, fleet, given, policy, snapshot

from gateway.core.decide import decide
from gateway.core.errors import ConfigError
from gateway.core.policy import Policy
from gateway.core.types import Decision

SCORES = {"scout": 80.0, "qwen35": 91.5, "plus": 80.0, "coder": -3.0}


def scored() -> Any:
    models = {name: (("triage", score),) for name, score in SCORES.items()}
    return fleet([replace(one, model=replace(one.model, evals=models.get(one.name, ()))) for one in TARGETS])


def choose(made: Policy, **values: Any) -> Decision:
    return decide(made, given(**values), snapshot(made.fleet))


def names(decision: Decision) -> list[str]:
    return [one.name for one in decision.candidates]


def test_the_highest_comes_first_equals_by_cost_and_what_has_no_score_last() -> None:
    made = policy(scored(), rank={"highest": "model.evals.triage"})
    found = names(choose(made, context_tokens=900))
    assert found[:4] == ["qwen35", "scout", "plus", "coder"]  # scout is cheaper than plus
    assert found[4:6] == ["scout-small", "llama70"]  # the others as `cheapest` has them
    assert choose(made).because.endswith("; highest model.evals.triage of 9")


def test_the_lowest_comes_first() -> None:
    rules = [{"id": "r", "use": [{"family": "qwen", "rank": {"lowest": "model.params_active_b"}}, "*"]}]
    found = names(choose(policy(rules=rules), context_tokens=900))
    assert found[:4] == ["qwen35", "coder", "qwen122", "plus"]  # an API-only model says nothing of its parameters


def test_dates_have_an_order_too() -> None:
    rules = [{"id": "r", "use": [{"family": "llama", "rank": {"highest": "target.retires_on"}}]}]
    assert names(choose(policy(rules=rules)))[0] == "llama70"


def test_what_a_constraint_avoids_goes_behind_whatever_its_score() -> None:
    made = policy(
        scored(), rank={"highest": "model.evals.triage"}, constraints=[{"id": "c", "avoid": {"family": "qwen"}}]
    )
    assert names(choose(made, context_tokens=900))[0] == "scout"


def test_without_equals_nothing_of_the_request_is_asked() -> None:
    rules = [{"id": "r", "use": [{"target.name": ["qwen122", "llama70"], "rank": {"highest": "target.window"}}]}]
    watched = Watched()
    assert names(decide(policy(rules=rules), watched, snapshot())) == ["qwen122", "llama70"]  # type: ignore[arg-type]
    assert "expected_input" not in watched.asked


@pytest.mark.parametrize(
    ("rank", "path", "says"),
    [
        ({"highest": "model.family"}, "rules[0].use[0].rank.highest", "no number or date of a model or target"),
        ({"highest": "model.params"}, "rules[0].use[0].rank.highest", "did you mean model.params_"),
        ({"highest": "model.evals."}, "rules[0].use[0].rank.highest", "model.evals.<name>"),
        ({"highest": 5}, "rules[0].use[0].rank.highest", "5 is no number or date"),
        ({"best": "model.window"}, "rules[0].use[0].rank", "either highest or lowest"),
        ({"highest": "model.window", "lowest": "model.window"}, "rules[0].use[0].rank", "goes by one fact"),
        ({}, "rules[0].use[0].rank", "goes by one fact"),
        (["cheapest"], "rules[0].use[0].rank", "is no rank"),
    ],
)
def test_a_rank_that_means_nothing_is_refused(rank: Any, path: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        policy(rules=[{"id": "r", "use": [{"family": "*", "rank": rank}]}])
    (problem,) = caught.value.problems
    assert problem.path == path
    assert says in str(problem)


def test_a_rank_of_the_whole_policy_is_read_likewise() -> None:
    with pytest.raises(ConfigError, match=r"rank\.lowest: 'model\.id' is no number or date"):
        policy(rank={"lowest": "model.id"})
    assert policy(rank={"lowest": "target.window"}).everything.by is not None
    assert FLEET.mask() == sum(policy(rank={"lowest": "target.window"}).everything.by.groups)  # type: ignore[union-attr]
