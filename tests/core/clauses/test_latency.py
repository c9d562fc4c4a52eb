"""Latency targets: who is slow, for how long, how it is found out that it no longer is, and what a policy may say."""

from __future__ import annotations

import random
from typing import Any

import pytest

from gateway.core.clauses.latency import PROBE_EVERY, PROBE_GAP_S, RECOVERY, WINDOW, Limit, Paces
from gateway.core.decide import decide
from gateway.core.errors import ConfigError
from gateway.core.policy import Policy, PolicyDoc
from tests.core.fleets import FLEET, document, given, policy, snapshot

INF = float("inf")


def asks(**entry: Any) -> Policy:
    return policy(latency=[{"id": "quick", "first_event": {"p90": "1s"}, "samples": 10, **entry}])


def watching(made: Policy) -> Paces:
    paces = Paces()
    paces.adopt({made.name: made.latency}, [target.name for target in made.fleet.targets])
    return paces


def told(paces: Paces, target: str, *first_event_s: float, at: float = 0.0) -> None:
    for value in first_event_s:
        paces.heard(target, value, None, at)


def slow(paces: Paces, at: float = 0.0, name: str = "test") -> list[str]:
    """Who is slow, by what operators are shown: asking as a request does would count as one."""
    return [target.name for target in FLEET.targets if any(one.startswith(name) for one in paces.missed(target.name))]


def asked(paces: Paces, at: float) -> tuple[str, ...]:
    return paces.slow("test", at).get("quick", ())


# Percentiles


@pytest.mark.parametrize("percentile", [50, 75, 90, 95, 99])
def test_counting_late_answers_says_what_sorting_them_would(percentile: int) -> None:
    chance = random.Random(percentile)
    limit = Limit("first_event", percentile, 1.0)
    rate = Limit("tokens_per_s", 100 - percentile, 1.0)
    for _ in range(300):
        values = sorted(chance.choice([0.2, 0.9, 1.0, 1.1, 3.0]) for _ in range(chance.randint(1, 60)))
        rank = -(-percentile * len(values) // 100)
        late = sum(value > limit.edge(1.0) for value in values)
        assert limit.missed(late, len(values)) is (values[rank - 1] > 1.0)
        rank = max(-(-(100 - percentile) * len(values) // 100), 1)
        late = sum(value < rate.edge(1.0) for value in values)
        assert rate.missed(late, len(values)) is (values[rank - 1] < 1.0)


# Becoming slow, and recovering


def test_a_target_is_slow_once_enough_answers_say_so() -> None:
    paces = watching(asks())
    told(paces, "scout", *[5.0] * 9)
    assert slow(paces) == []
    told(paces, "scout", 5.0)
    assert slow(paces) == ["scout"]


def test_one_answer_in_ten_may_be_slow() -> None:
    paces = watching(asks())
    told(paces, "scout", *([0.5] * 9 + [5.0]) * 5)
    assert slow(paces) == []
    told(paces, "scout", *[5.0] * 5)
    assert slow(paces) == ["scout"]


def test_it_recovers_only_below_the_limit_by_a_margin() -> None:
    paces = watching(asks(recover=0.5))
    told(paces, "scout", *[2.0] * 10)
    told(paces, "scout", *[0.9] * 50)
    assert slow(paces) == ["scout"], "below the limit, but not by the margin"
    told(paces, "scout", *[0.4] * WINDOW)
    assert slow(paces) == []


def test_a_target_at_its_limit_does_not_swing() -> None:
    paces = watching(asks())
    chance = random.Random(7)
    changes, before = 0, False
    for i in range(5_000):
        told(paces, "scout", 1.0 + chance.uniform(-0.15, 0.15), at=i / 10)
        now = slow(paces) == ["scout"]
        changes, before = changes + (now != before), now
    assert changes == 1


def test_recovery_takes_a_few_fast_answers_and_starts_counting_anew() -> None:
    paces = watching(asks())
    told(paces, "scout", *[9.0] * 10)
    told(paces, "scout", *[0.1] * (RECOVERY - 1))
    assert slow(paces) == ["scout"]
    told(paces, "scout", 0.1)
    assert slow(paces) == []
    told(paces, "scout", *[9.0] * 9)
    assert slow(paces) == [], "what was counted before says nothing about now"


def test_an_answer_that_never_came_is_the_slowest() -> None:
    paces = watching(asks())
    told(paces, "scout", *[INF] * 10)
    assert slow(paces) == ["scout"]


def test_tokens_a_second_are_asked_for_from_below() -> None:
    paces = watching(asks(first_event=None, tokens_per_s={"p50": 20}))
    for rate in [30.0] * 10 + [15.0] * 12:
        paces.heard("scout", None, rate, 0.0)
    assert slow(paces) == ["scout"]
    for rate in [24.0] * 9:
        paces.heard("scout", None, rate, 0.0)
    assert slow(paces) == ["scout"], "20 / 0.8 is 25"
    for rate in [26.0] * 20:
        paces.heard("scout", None, rate, 0.0)
    assert slow(paces) == []


def test_what_made_it_slow_is_what_must_recover() -> None:
    paces = watching(asks(tokens_per_s={"p50": 20}))
    told(paces, "scout", *[9.0] * 10)
    for _ in range(50):
        paces.heard("scout", None, 100.0, 1.0)
    assert slow(paces) == ["scout"]


def test_answers_of_long_ago_do_not_count() -> None:
    paces = watching(asks(over="1m"))
    told(paces, "scout", *[9.0] * 9, at=0.0)
    told(paces, "scout", 9.0, at=61.0)
    assert slow(paces) == []


# Trying again


def test_one_request_in_ten_tries_a_slow_target_again_and_not_too_often() -> None:
    paces = watching(asks())
    told(paces, "scout", *[9.0] * 10)
    tried = 0
    for i in range(1_000):
        now = 1.0 + i / 100  # a hundred requests a second
        if "scout" not in asked(paces, now):
            tried += 1
            paces.sent("scout", now)
    assert 38 <= tried <= 10 / PROBE_GAP_S
    seldom = watching(asks())
    told(seldom, "scout", *[9.0] * 10)
    tries = 0
    for i in range(200):
        now = 10.0 + i  # one a second
        if "scout" not in asked(seldom, now):
            tries += 1
            seldom.sent("scout", now)
            told(seldom, "scout", 9.0, at=now)
    assert tries == 200 / PROBE_EVERY


def test_a_try_waits_for_a_request_that_goes_there() -> None:
    paces = watching(asks())
    told(paces, "scout", *[9.0] * 10)
    for _ in range(PROBE_EVERY - 1):
        assert "scout" in asked(paces, 1.0)
    assert [asked(paces, 1.0) for _ in range(3)] == [(), (), ()], "due until one was sent there"
    paces.sent("scout", 1.0)
    assert asked(paces, 1.0) == ("scout",)


def test_a_slow_target_of_which_nothing_is_heard_gets_a_fresh_start() -> None:
    paces = watching(asks(over="1m"))
    told(paces, "scout", *[9.0] * 10, at=100.0)
    assert asked(paces, 160.0) == ("scout",)
    assert asked(paces, 160.1) == ()
    assert slow(paces) == []


# Reloads


def test_a_reload_keeps_what_is_known_where_the_same_is_asked() -> None:
    paces = watching(asks())
    told(paces, "scout", *[9.0] * 10)
    names = [target.name for target in FLEET.targets]
    paces.adopt({"test": asks(because="reworded", samples=30).latency}, names)
    assert slow(paces) == ["scout"]
    paces.adopt({"test": asks(first_event={"p90": "2s"}).latency}, names)
    assert slow(paces) == [], "another limit: nothing is known of it"
    told(paces, "scout", *[9.0] * 10)
    paces.adopt({"test": asks(first_event={"p90": "2s"}).latency}, ["plus"])
    paces.adopt({"test": asks(first_event={"p90": "2s"}).latency}, names)
    assert slow(paces) == [], "the target was gone meanwhile"
    paces.adopt({}, names)
    assert paces.slow("test", 0.0) == {}


def test_policies_do_not_share_what_they_ask() -> None:
    paces = Paces()
    strict, easy = asks(), asks(first_event={"p90": "10s"})
    paces.adopt({"strict": strict.latency, "easy": easy.latency}, ["scout", "plus"])
    told(paces, "scout", *[9.0] * 10)
    assert paces.missed("scout") == ["strict/quick"]
    assert dict(paces.slow("strict", 0.0)) == {"quick": ("scout",)}
    assert paces.slow("easy", 0.0) == {}


# What follows for a decision


def order(made: Policy, *names: str, **signals: Any) -> list[str]:
    seen = snapshot(slow={"quick": names})
    return [one.name for one in decide(made, given(**signals), seen).candidates]


def test_slow_targets_go_behind_the_others_and_none_is_removed() -> None:
    made = asks()
    usual = order(made)
    assert order(made, "scout", "maverick") == [
        *[n for n in usual if n not in ("scout", "maverick")],
        "scout",
        "maverick",
    ]
    assert order(made, *usual) == usual, "when all are slow nothing changes"


def test_the_line_says_who_lost_its_place_and_why() -> None:
    decision = decide(asks(), given(), snapshot(slow={"quick": ("scout",)}))
    assert decision.because.startswith("scout is slower than quick asks; ")
    unmoved = decide(asks(), given(), snapshot(slow={"quick": ("plus",)}))
    assert "slower" not in unmoved.because


def test_it_counts_for_requests_of_its_kind_only() -> None:
    made = asks(when={"workload": "chat"})
    assert order(made, "scout", workload="chat")[-1] == "scout"
    assert order(made, "scout", workload="bulk")[0] == "scout"
    assert order(made, "scout")[0] == "scout"


def test_what_a_constraint_avoids_stays_behind_what_is_slow() -> None:
    made = policy(
        latency=[{"id": "quick", "first_event": {"p90": "1s"}}],
        constraints=[{"id": "later", "avoid": {"family": "qwen"}}],
        rules=[{"id": "all", "use": [{"model": ["qwen3.5-plus", "llama-4-scout"]}]}],
    )
    assert order(made, "scout") == ["scout-small", "scout", "plus"]
    assert order(made, "scout", "scout-small") == ["scout", "scout-small", "plus"]


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({}, "asks nothing of the targets"),
        ({"first_event": {}}, "says one percentile"),
        ({"first_event": {"p90": "1s", "p50": "1s"}}, "says one percentile"),
        ({"first_event": {"p42": "1s"}}, "p42"),
        ({"first_event": {"p90": 2}}, "2 is not a duration"),
        ({"tokens_per_s": {"p50": "20"}}, "'20' does not fit here: tokens a second"),
        ({"tokens_per_s": {"p50": True}}, "True does not fit here"),
        ({"tokens_per_s": {"p50": 0}}, "0 does not fit here"),
        ({"first_event": {"p90": "1s"}, "recover": 1.5}, "1.5 does not fit here: a number from 0.1 to 1"),
        ({"first_event": {"p90": "1s"}, "samples": 2}, "2 does not fit here: a whole number from 3 to 200"),
        ({"first_event": {"p90": "1s"}, "samples": 2.5}, "2.5 does not fit here"),
        ({"first_event": {"p90": "1s"}, "over": "0s"}, "more than 0"),
    ],
)
def test_a_latency_target_that_means_nothing_is_refused(entry: dict[str, Any], says: str) -> None:
    with pytest.raises((ConfigError, ValueError)) as caught:
        PolicyDoc.model_validate(document(latency=[{"id": "quick", **entry}]))
    assert says in str(caught.value)


def test_two_entries_of_one_name_and_a_condition_that_means_nothing_are_refused() -> None:
    one = {"id": "quick", "first_event": {"p90": "1s"}}
    with pytest.raises(ValueError, match="stands here a second time"):
        policy(latency=[one, one])
    with pytest.raises(ConfigError, match=r"latency\[0\].when.wrkload"):
        policy(latency=[{**one, "when": {"wrkload": "chat"}}])
