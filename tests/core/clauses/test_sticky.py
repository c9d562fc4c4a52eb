"""Conversations that keep their target: when they stay, when they move, and what goes before."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.decide import decide
from gateway.core.errors import ConfigError
from gateway.core.policy import Policy, PolicyDoc
from gateway.core.types import Decision, Fleet, Previous, Price, PriceTier
from tests.core.fleets import FLEET, NOON, document, fleet, given, mask, policy, snapshot, target


def cached(usd_in: float, usd_cached: float | None, usd_out: float, *, above: int = 0, then: float = 0.0) -> Price:
    base = PriceTier(0, int(usd_in * 1e9), int(usd_out * 1e9), None if usd_cached is None else int(usd_cached * 1e9))
    if not above:
        return Price((base,), "test")
    return Price((base, PriceTier(above, int(then * 1e9), int(usd_out * 1e9), base.cached_input)), "test")


THREE = fleet([
    target("cheap", "llama-4-scout", "us", 1_000_000, None, price=cached(0.2, None, 0.4)),
    target("dear", "qwen3.5-plus", "ap", 1_000_000, None, price=cached(0.5, 0.05, 0.4)),
    target("free", "qwen3.5-122b-a10b", "eu", 1_000_000, None),
])  # fmt: skip


def sticky(of: Fleet = THREE, rank: str = "cheapest", **more: Any) -> Policy:
    parts = {"sticky": {"for": "30m", **more.pop("sticky", {})}, "rank": rank, **more}
    return policy(of, **parts)


def turn(made: Policy, last: str | None, *, tokens: int = 16_384, ago: float = 60.0, **more: Any) -> Decision:
    previous = None if last is None else Previous(last, tokens, NOON - ago)
    signals = given(context_tokens=more.pop("context_tokens", 16_384), **more.pop("signals", {}))
    pinned = more.pop("pinned", None)
    return decide(made, signals, snapshot(made.fleet, previous=previous, **more), pinned=pinned)


def first(*asked: Any, **more: Any) -> str:
    return turn(*asked, **more).candidates[0].name


def test_a_conversation_stays_where_its_prompt_is_cached() -> None:
    assert first(sticky(), None) == "cheap"
    decision = turn(sticky(), "dear")
    assert [one.name for one in decision.candidates] == ["dear", "cheap", "free"]
    assert decision.because.endswith(
        "stays with dear: moving to cheap saves less than reading the prompt anew"
    )  # 0.05 x 16k cached < 0.2 x 16k


def test_it_moves_when_that_costs_less_though_all_is_read_anew() -> None:
    decision = turn(
        sticky(), "dear", tokens=4_096
    )  # three quarters of the prompt are new: those cost 0.5 instead of 0.2
    assert decision.candidates[0].name == "cheap"
    assert "moves from dear: reading the prompt anew costs less than staying" in decision.because


@pytest.mark.parametrize(("ago", "goes"), [(599, "dear"), (601, "cheap"), (1_801, "cheap")])
def test_what_is_cached_goes_cold_before_the_conversation_is_forgotten(ago: float, goes: str) -> None:
    assert first(sticky(), "dear", ago=ago) == goes


def test_without_a_price_on_either_side_it_stays_until_it_is_forgotten() -> None:
    assert first(sticky(), "free", ago=1_799) == "free"
    assert first(sticky(), "free", ago=1_801) == "cheap"
    listed = sticky(rules=[{"id": "all", "use": [{"model": "qwen3.5-122b-a10b"}, "*"]}])
    assert first(listed, "dear", tokens=0) == "dear", "the first candidate has no price"


def test_the_tier_of_the_length_counts() -> None:
    of = fleet([
        target("cheap", "llama-4-scout", "us", 1_000_000, None, price=cached(0.2, None, 0.4)),
        target("tiered", "qwen3.5-plus", "ap", 1_000_000, None, price=cached(0.1, 0.1, 0.4, above=100_000, then=0.9)),
    ])  # fmt: skip
    made = sticky(of, rules=[{"id": "all", "use": [{"model": ["llama-4-scout", "qwen3.5-plus"], "rank": "listed"}]}])
    assert first(made, "tiered", tokens=65_536, context_tokens=65_536) == "tiered"
    assert first(made, "tiered", tokens=65_536, context_tokens=196_608) == "cheap", "beyond it the rest costs 0.9"


def test_switch_never_keeps_it_whatever_it_costs() -> None:
    assert first(sticky(sticky={"switch": "never"}), "dear", tokens=0) == "dear"


def test_within_a_rung_it_does_not_hold_the_conversation_on_a_lower_one() -> None:
    rules = [{"id": "all", "use": [{"model": "llama-4-scout"}, {"family": "qwen"}]}]
    assert first(sticky(rules=rules), "dear") == "dear"
    narrow = sticky(rules=rules, sticky={"within": "rung"})
    assert first(narrow, "dear") == "cheap"
    assert "dear, which answered before, is only a fallback now" in turn(narrow, "dear").because
    assert first(narrow, "dear", held_back=["cheap"]) == "dear"


@pytest.mark.parametrize(
    ("more", "world"),
    [
        ({}, {"held_back": ["dear"]}),
        ({"constraints": [{"id": "no", "forbid": {"target.name": "dear"}}]}, {}),
        ({"constraints": [{"id": "home", "require": {"target.region": {"prefix": "us"}}}]}, {}),
        ({"constraints": [{"id": "later", "avoid": {"target.name": "dear"}}]}, {}),
        ({"latency": [{"id": "quick", "first_event": {"p90": "1s"}}]}, {"slow": {"quick": ("dear",)}}),
        ({"rules": [{"id": "llamas", "use": [{"family": "llama"}]}]}, {}),
        ({"allow_closed": []}, {}),
        ({}, {"signals": {"region": "us-east-1"}}),
        ({}, {"pinned": 0b101}),
    ],
)  # fmt: skip
def test_whatever_removes_a_target_or_puts_it_back_ends_the_stay(more: dict[str, Any], world: dict[str, Any]) -> None:
    assert first(sticky(**more), "dear", **world) == "cheap"


def test_a_weight_of_nothing_holds_no_conversation() -> None:
    def rolled(dear: int) -> Policy:
        rung = {"family": "*", "rank": "weighted", "weights": {"dear": dear, "cheap": 100 - dear}}
        return sticky(rules=[{"id": "all", "use": [rung]}])

    assert first(rolled(1), "dear", draw=0.9) == "dear"
    assert first(rolled(0), "dear", draw=0.9) == "cheap"


def test_a_pin_keeps_a_conversation_among_the_targets_it_names() -> None:
    assert first(sticky(), "dear", pinned=mask(THREE, "cheap", "dear")) == "dear"


def test_a_target_nobody_knows_any_more_is_said_and_forgotten() -> None:
    decision = turn(sticky(), "gone-since")
    assert decision.candidates[0].name == "cheap"
    assert "gone-since, which answered before, is not among the candidates" in decision.because


def test_a_policy_that_is_not_sticky_does_not_look_at_it() -> None:
    assert turn(policy(FLEET), "plus") == turn(policy(FLEET), None)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({}, "for"),
        ({"for": 30}, "30 is not a duration"),
        ({"for": "2d"}, "at most 24h"),
        ({"for": "0s"}, "more than 0"),
        ({"for": "30m", "switch": "always"}, "'cheaper' or 'never'"),
        ({"for": "30m", "by": []}, "at least 1"),
        ({"for": "30m", "by": ["conversation", "conversation"]}, "twice"),
        ({"for": "30m", "by": ["user"]}, "'conversation' or 'prompt_cache_key'"),
        ({"for": "30m", "until": "1h"}, "until"),
    ],
)
def test_a_sticky_that_means_nothing_is_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises((ConfigError, ValueError)) as caught:
        PolicyDoc.model_validate(document(sticky=wrong))
    assert says in str(caught.value)
