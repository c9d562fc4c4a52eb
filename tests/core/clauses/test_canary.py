"""Weights of a rung: who gets how much, who keeps what, and what happens when one is away."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from gateway.core.decide import decide
from gateway.core.errors import ConfigError
from gateway.core.policy import Policy
from gateway.core.types import Decision
from tests.core.fleets import FLEET, fleet, given, policy, snapshot, target

DRAWS = [(i + 0.5) / 1000 for i in range(1000)]


def canary(weights: dict[str, Any], of: Any = FLEET, **more: Any) -> Policy:
    rung = {"family": ["llama", "qwen"], "rank": "weighted", "weights": weights, **more}
    return policy(of, rules=[{"id": "all", "use": [rung, "*"]}])


def choose(made: Policy, draw: float, **more: Any) -> Decision:
    return decide(made, given(), snapshot(made.fleet, draw=draw, **more))


def first(made: Policy, draw: float, **more: Any) -> str:
    return choose(made, draw, **more).candidates[0].name


@pytest.mark.parametrize("share", [1, 5, 50, 99])
def test_a_canary_gets_exactly_its_share_of_the_draws(share: int) -> None:
    made = canary({"plus": share, "scout": 100 - share})
    assert Counter(first(made, draw) for draw in DRAWS) == {"plus": share * 10, "scout": 1000 - share * 10}


def test_raising_the_share_of_the_first_name_takes_nobody_back() -> None:
    steps = [canary({"plus": share, "scout": 100 - share}) for share in (1, 5, 20, 50, 80, 100)]
    for draw in DRAWS:
        on_it = [first(made, draw) == "plus" for made in steps]
        assert all(after or not before for before, after in pairwise(on_it)), draw


def test_the_other_side_is_the_fallback_and_who_has_no_weight_comes_after() -> None:
    order = [one.name for one in choose(canary({"plus": 5, "scout": 95}), 0.01).candidates]
    assert order[:2] == ["plus", "scout"]
    assert set(order[2:]) == {"scout-small", "maverick", "llama70", "qwen122", "qwen35", "coder", "oss"}


def test_a_models_share_is_divided_among_its_targets_by_their_weights() -> None:
    of = fleet([
        target("a1", "llama-4-scout", "us", 1_000_000, (1, 1), weight=3),
        target("a2", "llama-4-scout", "eu", 1_000_000, (1, 1)),
        target("b", "qwen3.5-plus", "ap", 1_000_000, (1, 1)),
    ])  # fmt: skip
    made = canary({"Scout": 80, "qwen3.5-plus": 20}, of)  # by an alias
    assert Counter(first(made, draw) for draw in DRAWS) == {"a1": 600, "a2": 200, "b": 200}
    without = Counter(first(made, draw, held_back=["a1"]) for draw in DRAWS)
    assert without == {"a2": 800, "b": 200}, "the model keeps its share while one of its targets is away"


def test_a_target_named_by_itself_does_not_count_to_its_model() -> None:
    of = fleet([
        target("old", "llama-4-scout", "us", 1_000_000, (1, 1)),
        target("new", "llama-4-scout", "eu", 1_000_000, (1, 1)),
    ])  # fmt: skip
    made = canary({"new": 5, "llama-4-scout": 95}, of)
    assert Counter(first(made, draw) for draw in DRAWS) == {"new": 50, "old": 950}


def test_when_a_side_is_away_the_other_takes_all_and_weight_nothing_is_a_fallback() -> None:
    made = canary({"plus": 5, "scout": 95})
    assert {first(made, draw, held_back=["plus"]) for draw in DRAWS} == {"scout"}
    back = canary({"plus": 0, "scout": 100})
    assert {first(back, draw) for draw in DRAWS} == {"scout"}
    assert "plus" in [one.name for one in choose(back, 0.0).candidates]


def test_a_target_of_another_fleet_gets_no_share() -> None:
    made = canary({"scout-canary": 50, "scout": 50})
    assert {first(made, draw) for draw in DRAWS} == {"scout"}


@pytest.mark.parametrize(
    ("rung", "says"),
    [
        ({"weights": {"plus": 5, "scout": -1}}, "rules[0].use[0].weights.scout: -1 is no weight: a number from 0"),
        ({"weights": {"plus": "5%"}}, "weights.plus: '5%' is no weight"),
        ({"weights": {"plus": True}}, "weights.plus: True is no weight"),
        ({"weights": {"plus": float("nan")}}, "weights.plus: nan is no weight"),
        ({"weights": {"plus": float("inf")}}, "weights.plus: inf is no weight"),
        ({"weights": {"plus": 0, "scout": 0}}, "weights: nothing has a weight: at least one number above 0"),
        ({"weights": {"Scout": 5, "llama-4-scout": 95}}, "weights.llama-4-scout: is the model that Scout is: one name"),
        ({"weights": {}}, "weights: says no weights"),
        ({"weights": ["plus"]}, "weights: says no weights"),
        ({"weights": {"plus": 5}, "rank": "cheapest"}, "weights: means nothing with rank cheapest: rank: weighted"),
    ],
)
def test_weights_that_mean_nothing_are_refused(rung: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        policy(rules=[{"id": "all", "use": [{"family": "*", "rank": "weighted", **rung}]}])
    assert says in str(caught.value)
