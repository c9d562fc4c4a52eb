"""Choosing candidates: rules, what removes, what orders, and what is never computed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from fleets import FLEET, Watched, fleet, given, mask, policy, snapshot, target

from gateway.core.decide import decide, fits, holds
from gateway.core.decisions.trace import trace
from gateway.core.policy import Policy
from gateway.core.reading.sizes import NeedsCount
from gateway.core.types import Decision, Price, PriceTier, Thinking


def choose(made: Policy, pinned: int | None = None, held_back: tuple[str, ...] = (), **values: Any) -> Decision:
    return decide(made, given(**values), snapshot(made.fleet, held_back=held_back), pinned=pinned)


def names(decision: Decision) -> list[str]:
    return [one.name for one in decision.candidates]


def rule(identity: str, use: Any, **when: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"id": identity, "use": use}
    return {**made, "when": when} if when else made


LLAMA_FIRST = [
    rule("code", [{"model": "qwen3-coder-next"}, "*"], task="code"),
    rule("rest", [{"family": "llama"}, "*"]),
]
LANGUAGES = {
    "id": "official",
    "when": {"language": {"known": True}},
    "avoid": {"model.languages": {"lacks": "$language"}},
}
EU = {"id": "eu", "when": {"tenant.domicile": {"in": "@eu"}},
      "forbid": {"target.self_hosted": True, "model.eu_domiciled_licensee_excluded": True}}  # fmt: skip


# Rules and rungs


def test_the_first_rule_that_matches_decides() -> None:
    made = policy(rules=LLAMA_FIRST)
    assert choose(made, task="code").rule == "code"
    assert choose(made, task="chitchat").rule == "rest"
    assert choose(made).rule == "rest"


def test_rungs_are_tried_in_order_and_a_target_counts_where_it_stands_first() -> None:
    made = policy(rules=[rule("r", [{"model": "qwen3-coder-next"}, {"family": "qwen"}, {"family": "llama"}])])
    assert names(choose(made)) == ["coder", "qwen122", "qwen35", "plus", "scout", "scout-small", "maverick", "llama70"]


def test_no_rule_is_a_refusal_for_good() -> None:
    decision = choose(policy(rules=[rule("code", ["*"], task="code")]))
    assert decision.refusal is not None
    assert decision.refusal[0] == "policy_denied"
    assert (decision.rule, decision.candidates) == (None, ())


def test_a_rule_that_selects_nothing_here_is_a_refusal_for_good() -> None:
    decision = choose(policy(rules=[rule("r", [{"target.region": "mars"}])]))
    assert decision.refusal is not None
    assert decision.refusal[0] == "policy_denied"


def test_a_pin_takes_the_place_of_the_rules() -> None:
    decision = choose(policy(rules=LLAMA_FIRST), mask(FLEET, "plus"), task="code")
    assert (decision.rule, names(decision)) == ("pin", ["plus"])


# What removes


@pytest.mark.parametrize(
    ("values", "gone"),
    [
        ({"tenant_domicile": "DE"}, {"scout", "maverick"}),
        ({"tenant_domicile": "de"}, {"scout", "maverick"}),
        ({"tenant_domicile": "SG"}, set()),
        ({}, set()),
        ({"region": "us"}, {"scout-small", "llama70", "qwen122", "qwen35", "plus"}),
        ({"region": "eu"}, {"scout", "scout-small", "maverick", "llama70", "coder", "plus", "oss"}),
        ({"residency": "us"}, {"scout-small", "llama70", "qwen122", "qwen35", "plus"}),
        ({"residency": "eu"}, {"scout", "scout-small", "maverick", "llama70", "coder", "plus", "oss"}),
        ({"modality": frozenset({"text", "image"})}, {"maverick", "llama70", "qwen35", "coder", "plus", "oss"}),
        ({"modality": frozenset({"text", "image"}), "images": 6},
         {"scout", "scout-small", "maverick", "llama70", "qwen35", "coder", "plus", "oss"}),
        ({"modality": frozenset({"text", "image"}), "images": 5},
         {"maverick", "llama70", "qwen35", "coder", "plus", "oss"}),
        ({"tools": True}, {"oss"}),
        ({"structured_output": "json_schema"}, {"oss"}),
        ({"structured_output": "json_object"}, {"oss"}),
        ({"parameters": frozenset({"model", "messages", "logprobs"})}, {"coder"}),
        ({"max_output_tokens": 64_000}, set()),
        ({"max_output_tokens": 64_001}, {"plus"}),
        # What has no price may cost anything; a usual answer counts where none is asked for: 500 tokens.
        ({"max_cost_usd": 1.0}, {"oss"}),
        ({"max_cost_usd": 0.05, "context_tokens": 100_000}, {"oss"}),
        ({"max_cost_usd": 0.01, "max_output_tokens": 1_000}, {"oss"}),
        ({"max_cost_usd": 0.01, "max_output_tokens": 1_000, "choices": 100},
         {name.name for name in FLEET.targets} - {"gone", "gpt"}),
        ({"max_cost_usd": 0.03, "context_tokens": 100_000}, {"oss", "maverick", "qwen122", "plus"}),
        ({"max_cost_usd": 0.001, "max_output_tokens": 1_000, "context_tokens": 2_000},
         {"oss", "maverick", "qwen122", "qwen35", "plus", "coder"}),
        ({"context_tokens": 200_000}, {"llama70", "oss"}),
        ({"context_tokens": 300_000}, {"llama70", "oss", "qwen122", "qwen35", "coder"}),
        ({"context_tokens": 400_000}, {"llama70", "oss", "qwen122", "qwen35", "coder", "scout-small"}),
    ],
)  # fmt: skip
def test_a_request_loses_exactly_these_targets(values: dict[str, Any], gone: set[str]) -> None:
    usual = {one.name for one in FLEET.targets} - {"gone", "gpt"}
    assert set(names(choose(policy(constraints=[EU]), **values))) == usual - gone


@pytest.mark.parametrize(
    ("pinned", "values", "code"),
    [
        ("scout", {"tenant_domicile": "DE"}, "policy_denied"),
        ("gpt", {}, "policy_denied"),
        ("gone", {}, "policy_denied"),
        ("plus", {"residency": "eu"}, "policy_denied"),
        ("plus", {"region": "eu"}, "policy_denied"),
        ("maverick", {"modality": frozenset({"image"})}, "unsupported_capability"),
        ("scout", {"modality": frozenset({"smell"})}, "unsupported_capability"),
        ("scout", {"modality": frozenset({"image"}), "images": 6}, "unsupported_capability"),
        ("oss", {"tools": True}, "unsupported_capability"),
        ("oss", {"structured_output": "json_schema"}, "unsupported_capability"),
        ("coder", {"parameters": frozenset({"logprobs"})}, "unsupported_parameter"),
        ("plus", {"max_output_tokens": 70_000}, "context_length_exceeded"),
        ("scout", {"context_tokens": 2_000_000}, "context_length_exceeded"),
        ("scout", {"effort": "high"}, "unsupported_capability"),
        ("oss", {"effort": "none"}, "unsupported_capability"),
        ("scout", {"thinking_hint": "always"}, "unsupported_capability"),
        ("scout", {"thinking_hint": 4000}, "unsupported_capability"),
        ("oss", {"thinking_hint": "never"}, "unsupported_capability"),
    ],
)  # fmt: skip
def test_a_pin_escapes_nothing_and_the_code_says_why(pinned: str, values: dict[str, Any], code: str) -> None:
    decision = choose(policy(constraints=[EU]), mask(FLEET, pinned), **values)
    assert decision.candidates == ()
    assert decision.refusal is not None
    assert decision.refusal[0] == code
    assert pinned not in decision.refusal[1]


def test_a_target_with_a_list_of_members_loses_every_request_that_has_another() -> None:
    listed = fleet([target("all", "llama-3.3-70b", "us", 128_000, (1, 1)), *PICKY])
    sent = frozenset({"model", "messages", "guided_choice"})
    assert names(choose(policy(listed), parameters=sent)) == ["all"]
    assert names(choose(policy(listed), parameters=sent - {"guided_choice"})) == ["all", "listed"]
    refused = choose(policy(listed), mask(listed, "listed"), parameters=sent)
    assert refused.refusal is not None
    assert refused.refusal[0] == "unsupported_parameter"


PICKY = [target("listed", "llama-3.3-70b", "us", 128_000, (1, 1), takes=frozenset({"model", "messages"}))]


def test_a_cap_on_the_prompt_alone_binds_within_the_window() -> None:
    pin = mask(FLEET, "plus")
    assert names(choose(policy(), pin, context_tokens=900_000)) == ["plus"]
    assert names(choose(policy(), pin, context_tokens=950_000, max_output_tokens=60_000)) == ["plus"]
    refused = choose(policy(), pin, context_tokens=900_001)
    assert refused.refusal is not None
    assert refused.refusal[0] == "context_length_exceeded"


def test_families_that_are_allowed_to_be_closed_are_used() -> None:
    assert "gpt" in names(choose(policy(allow_closed=["gpt"])))
    assert "plus" not in names(choose(policy(allow_closed=["gpt"])))


def test_a_target_is_gone_from_midnight_utc_of_the_day_it_retires() -> None:
    midnight = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
    for now, there in ((midnight - 1, True), (midnight, False)):
        assert ("llama70" in names(decide(policy(), given(), snapshot(now=now)))) is there


def test_targets_that_health_holds_back_are_no_candidates() -> None:
    assert "scout" not in names(choose(policy(), held_back=("scout",)))


def test_only_health_makes_a_refusal_that_may_heal() -> None:
    everyone = tuple(one.name for one in FLEET.targets)
    healing = choose(policy(), held_back=everyone)
    assert healing.refusal is not None
    assert healing.refusal[0] == "no_target_available"
    for_good = choose(policy(), held_back=everyone, context_tokens=5_000_000)
    assert for_good.refusal is not None
    assert for_good.refusal[0] == "context_length_exceeded"


def test_what_fits_only_a_target_that_is_down_may_heal() -> None:
    decision = choose(policy(), mask(FLEET, "scout", "scout-small"), ("scout",), context_tokens=500_000)
    assert decision.refusal is not None
    assert decision.refusal[0] == "no_target_available"


def test_a_variable_constraint_forbids_by_the_value_of_the_request() -> None:
    made = policy(constraints=[{"id": "stay", "forbid": [{"target.processing": {"not": "$tenant.residency"}},
                                                        {"target.processing": {"known": False}}]}])  # fmt: skip
    assert names(choose(made, tenant_residency="us")) == ["scout", "maverick", "coder", "oss"]
    assert len(names(choose(made))) == 7  # without a residency only what says nothing of its own is forbidden


def test_a_requirement_keeps_only_what_it_is_known_to_hold_of() -> None:
    home = {"id": "home", "when": {"tenant.home": {"known": True}}, "require": {"target.processing": "$tenant.home"}}
    made = policy(constraints=[home])
    assert names(choose(made, tenant_home="us")) == ["scout", "maverick", "coder", "oss"]
    assert len(names(choose(made))) == 9
    away = policy(constraints=[{"id": "away", "require": {"target.region": {"not": {"prefix": "us"}}}}])
    assert names(choose(away)) == ["qwen122", "qwen35", "plus"]  # not those whose region nobody knows


@pytest.mark.parametrize("pinned", [None, "plus", "scout-small"])
def test_a_requirement_that_asks_for_what_is_not_known_leaves_nothing(pinned: str | None) -> None:
    made = policy(constraints=[{"id": "home", "require": {"target.processing": "$tenant.home"}}])
    decision = choose(made, None if pinned is None else mask(FLEET, pinned))
    assert decision.refusal is not None
    assert decision.refusal[0] == "policy_denied"
    assert decision.because.endswith("; home drops the last target")


def test_requirements_add_up() -> None:
    both = [{"id": "a", "require": {"target.self_hosted": True}}, {"id": "b", "require": {"family": "qwen"}}]
    assert names(choose(policy(constraints=both))) == ["qwen122", "qwen35", "coder"]


# What orders


def test_what_is_avoided_stands_behind_everything_else_even_of_later_rungs() -> None:
    made = policy(rules=LLAMA_FIRST, constraints=[LANGUAGES])
    assert names(choose(made, language="ja")) == [
        "qwen122", "qwen35", "coder", "plus", "oss", "scout", "scout-small", "maverick", "llama70",
    ]  # fmt: skip


def test_a_list_of_languages_that_is_not_known_never_lacks_one() -> None:
    made = policy(rules=LLAMA_FIRST, constraints=[LANGUAGES])
    assert names(choose(made, language="vi"))[:3] == ["scout", "scout-small", "maverick"]
    assert names(choose(made, language="vi"))[-1] == "llama70"


def test_a_text_whose_language_cannot_be_told_is_on_no_list_and_off_none() -> None:
    made = policy(rules=LLAMA_FIRST, constraints=[LANGUAGES])
    unclear = {"shares": {"ja": 0.1}, "undetermined": 0.9, "letters": 20}
    assert names(choose(made, language=unclear))[0] == "scout"


def test_what_two_constraints_avoid_stands_behind_what_one_does() -> None:
    small = {"id": "small", "avoid": {"target.window": {"lt": "200k"}}}
    decision = choose(policy(rules=LLAMA_FIRST, constraints=[LANGUAGES, small]), language="ja")
    assert names(decision)[-5:] == ["scout", "scout-small", "maverick", "oss", "llama70"]


def test_avoiding_never_refuses() -> None:
    made = policy(rules=[rule("r", [{"family": "llama"}])], constraints=[LANGUAGES])
    assert names(choose(made, language="ja")) == ["scout", "scout-small", "maverick", "llama70"]


@pytest.mark.parametrize(
    ("rank", "values", "first"),
    [
        ("cheapest", {"context_tokens": 1000}, ["dear-in", "dear-out", "none"]),
        ("cheapest", {"context_tokens": 100}, ["dear-in", "dear-out", "none"]),
        ("cheapest", {"context_tokens": 100_000}, ["dear-out", "dear-in", "none"]),
        ("cheapest", {"context_tokens": 1000, "max_output_tokens": 1}, ["dear-out", "dear-in", "none"]),
        ("listed", {"context_tokens": 100_000}, ["none", "dear-in", "dear-out"]),
    ],
)
def test_a_rank_orders_a_rung(rank: str, values: dict[str, Any], first: list[str]) -> None:
    made = fleet([
        target("none", "llama-3.3-70b", "us", 200_000, None),
        target("dear-in", "llama-4-maverick", "us", 200_000, (1.0, 1.0)),
        target("dear-out", "qwen3.5-35b-a3b", "us", 200_000, (0.1, 10.0)),
    ])  # fmt: skip
    assert names(choose(policy(made, rank=rank), **values)) == first


def test_cost_is_judged_at_the_tier_of_the_whole_request() -> None:
    tiered = Price((PriceTier(0, 100_000_000, 0), PriceTier(100_000, 900_000_000, 0)), "t")
    made = fleet([
        target("tiered", "llama-4-scout", "us", 1_000_000, None, price=tiered),
        target("flat", "llama-4-maverick", "us", 1_000_000, (0.5, 0.0)),
    ])  # fmt: skip
    assert names(choose(policy(made, rank="cheapest"), context_tokens=50_000)) == ["tiered", "flat"]
    assert names(choose(policy(made, rank="cheapest"), context_tokens=500_000)) == ["flat", "tiered"]


def test_nothing_is_called_cheapest_where_nothing_has_a_price() -> None:
    free = [
        target("one", "llama-4-scout", "us", 1_000_000, None),
        target("two", "llama-4-maverick", "us", 32_000, None),
    ]
    dear = target("dear", "llama-3.3-70b", "us", 128_000, (1.0, 1.0))
    because = choose(policy(fleet(free), rank="cheapest")).because
    assert because.endswith("first of 2 without a price")
    assert choose(policy(fleet([*free, dear]), rank="cheapest")).because.endswith("cheapest of 3")


def test_a_rung_may_name_its_own_rank() -> None:
    made = policy(rules=[rule("r", [{"family": "qwen", "rank": "cheapest"}, {"family": "llama"}])])
    assert names(choose(made))[:4] == ["qwen35", "coder", "plus", "qwen122"]
    assert names(choose(made))[4:] == ["scout", "scout-small", "maverick", "llama70"]


def test_the_fastest_goes_first_and_now_and_then_one_that_was_never_timed() -> None:
    made = policy(rank="fastest", rules=[rule("r", [{"family": "llama"}])])
    latency = {"scout": 0.9, "maverick": 0.2, "scout-small": 0.5}
    timed = decide(made, given(), snapshot(draw=0.5, latency_s=latency))
    assert names(timed) == ["maverick", "scout-small", "scout", "llama70"]
    explored = decide(made, given(), snapshot(draw=0.01, latency_s=latency))
    assert names(explored) == ["llama70", "maverick", "scout-small", "scout"]


def test_balanced_weighs_price_against_time() -> None:
    made = policy(rank="balanced", rules=[rule("r", [{"model": ["llama-4-scout", "llama-4-maverick"]}])])
    slow = decide(made, given(), snapshot(latency_s={"scout-small": 10.0, "scout": 1.0, "maverick": 1.0}))
    assert names(slow) == ["scout", "maverick", "scout-small"]
    even = decide(made, given(), snapshot(latency_s={"scout": 1.0}))
    assert names(even) == ["scout-small", "scout", "maverick"]


def test_weights_share_the_traffic_and_the_rest_is_the_fallback() -> None:
    made = fleet([
        target("one", "llama-4-scout", "us", 200_000, None, weight=1),
        target("three", "llama-4-maverick", "us", 200_000, None, weight=3),
        target("never", "llama-3.3-70b", "us", 200_000, None, weight=0),
    ])  # fmt: skip
    orders = [names(decide(policy(made, rank="weighted"), given(), snapshot(made, draw=i / 1000))) for i in range(1000)]
    assert sum(order[0] == "one" for order in orders) == 250
    assert all(set(order) == {"one", "three", "never"} and order[2] == "never" for order in orders)


# Thinking


SWITCH = [{"id": "hard", "when": {"difficulty": "hard"}, "set": {"budget": "4k"}}, {"id": "else", "set": "never"}]


@pytest.mark.parametrize(
    ("values", "thinking"),
    [
        ({}, Thinking("never", None, "else")),
        ({"difficulty": "hard"}, Thinking("budget", 4000, "hard")),
        ({"effort": "high"}, Thinking("client")),
        ({"effort": "high", "difficulty": "hard"}, Thinking("client")),
        ({"thinking_hint": "always"}, Thinking("always")),
        ({"thinking_hint": 500, "difficulty": "hard"}, Thinking("budget", 500)),
        ({"thinking_hint": "never", "effort": "high"}, Thinking("never")),
    ],
)
def test_the_first_entry_decides_unless_the_client_wishes_otherwise(values: dict[str, Any], thinking: Thinking) -> None:
    assert choose(policy(thinking=SWITCH), **values).thinking == thinking


def test_a_forced_entry_overrides_the_client() -> None:
    forced = [{"id": "f", "when": {"tenant.team": "thrifty"}, "set": "never", "force": True}, *SWITCH]
    assert choose(policy(thinking=forced), effort="high", tenant_team="thrifty").thinking == Thinking(
        "never", None, "f"
    )
    assert choose(policy(thinking=forced), effort="high").thinking == Thinking("client")


def test_an_entry_that_matches_hides_a_forced_one_below_it() -> None:
    hidden = [{"id": "first", "set": "client"}, {"id": "f", "set": "never", "force": True}]
    assert choose(policy(thinking=hidden), thinking_hint="always").thinking == Thinking("always")


def test_never_keeps_only_targets_that_can_promise_it() -> None:
    assert "oss" not in names(choose(policy(thinking=SWITCH)))


def test_thinking_keeps_only_targets_that_can_while_there_are_any() -> None:
    made = policy(rules=LLAMA_FIRST, thinking=SWITCH)
    assert names(choose(made, difficulty="hard")) == ["qwen122", "qwen35", "plus", "oss"]


def test_a_wish_of_the_policy_is_given_up_before_a_request_is_refused() -> None:
    made = policy(rules=[rule("r", [{"family": "llama"}])], thinking=SWITCH)
    decision = choose(made, difficulty="hard")
    assert names(decision) == ["scout", "scout-small", "maverick", "llama70"]
    assert decision.thinking == Thinking("client")


def test_a_forced_one_is_not() -> None:
    forced = [{"id": "f", "set": "always", "force": True}]
    decision = choose(policy(rules=[rule("r", [{"family": "llama"}])], thinking=forced))
    assert decision.refusal is not None
    assert decision.refusal[0] == "unsupported_capability"


def test_a_pin_is_served_as_sent_unless_an_entry_is_forced() -> None:
    assert choose(policy(thinking=SWITCH), mask(FLEET, "qwen35")).thinking == Thinking("client")
    forced = policy(thinking=[{"id": "f", "set": "never", "force": True}])
    assert choose(forced, mask(FLEET, "qwen35")).thinking == Thinking("never", None, "f")


# What is said of it


@pytest.mark.parametrize(
    ("values", "because"),
    [
        ({"task": "code", "language": "en"}, "code: task: code"),
        ({"language": "ja"}, "language ja is not on llama-4-scout's list; first of 5; rung 2 of 2"),
        ({"language": "en"}, "rest: no earlier rule applies; first of 4"),
    ],
)
def test_one_line_says_why(values: dict[str, Any], because: str) -> None:
    assert choose(policy(rules=LLAMA_FIRST, constraints=[LANGUAGES]), **values).because.startswith(because)


def test_that_line_can_stand_in_a_header() -> None:
    rules = [rule("r", ["*"], **{"headers.x": {"in": ["ü\n" * 300]}})]
    because = decide(policy(rules=rules), given(headers_x="ü\n" * 300), snapshot()).because
    assert because.isascii()
    assert because.isprintable()
    assert len(because) < 300


# What is never computed


def asked(made: Policy, pinned: int | None = None, **values: Any) -> list[str]:
    watched = Watched(values)
    decide(made, watched, snapshot(made.fleet), pinned=pinned)  # type: ignore[arg-type]
    return watched.asked


TEXT = {"language", "task", "difficulty", "context_tokens"}


def test_a_pin_to_one_target_reads_no_text_but_for_the_fit() -> None:
    made = policy(rules=LLAMA_FIRST, constraints=[EU, LANGUAGES], thinking=SWITCH)
    seen = asked(made, mask(FLEET, "qwen122"))
    assert not TEXT & set(seen)
    assert seen.count("fits") == 1


def test_members_of_a_condition_stop_at_the_first_that_fails() -> None:
    made = policy(rules=[rule("r", ["*"], task="code", language="ja", tools=True), rule("rest", [{"family": "llama"}])])
    assert not TEXT & set(asked(made))
    assert "task" not in asked(made, tools=True, language="en")


def test_a_constraint_that_concerns_no_candidate_is_not_asked() -> None:
    made = policy(constraints=[EU], rules=[rule("r", [{"family": "qwen"}])])
    assert "tenant.domicile" not in asked(made)


def test_a_cheap_constraint_that_leaves_nothing_spares_the_dear_one() -> None:
    dear = {"id": "dear", "when": {"task": "code"}, "forbid": {"family": "llama"}}
    cheap = {"id": "cheap", "when": {"tools": True}, "forbid": "*"}
    assert "task" not in asked(policy(constraints=[dear, cheap]), tools=True)


def test_what_would_put_back_all_or_none_of_the_candidates_is_not_asked() -> None:
    made = policy(rules=[rule("r", [{"family": "qwen"}])], constraints=[LANGUAGES])
    assert "language" not in asked(made)
    one_left = policy(rules=[rule("r", [{"model": "llama-4-maverick"}])], constraints=[LANGUAGES])
    assert "language" not in asked(one_left)
    alike = {"id": "x", "when": {"task": "code"}, "avoid": {"family": "qwen"}}
    assert "task" not in asked(policy(rules=[rule("r", [{"family": "qwen"}])], constraints=[alike]))


def test_abilities_that_every_candidate_has_are_not_asked_for() -> None:
    made = policy(rules=[rule("r", [{"model": "qwen3.5-122b-a10b"}])])
    assert not {"tools", "structured_output", "parameters", "images"} & set(asked(made))


def test_the_client_s_wish_spares_the_thinking_list() -> None:
    assert "difficulty" not in asked(policy(thinking=SWITCH), effort="high")


def test_fits_are_asked_once_for_targets_of_one_model_while_the_smallest_holds() -> None:
    made = policy(rules=[rule("r", [{"model": "llama-4-scout"}])])
    assert asked(made).count("fits") == 1
    assert asked(made, context_tokens=500_000).count("fits") == 2


def test_a_question_that_needs_a_count_passes_through_to_whoever_can_count() -> None:
    class Long(Watched):
        def exceeds(self, tokenizer: str | None, limit: int) -> bool:
            raise NeedsCount(lambda: None)

    made = policy(rules=[rule("long", ["*"], context_tokens={"gt": 100}), rule("rest", ["*"])])
    with pytest.raises(NeedsCount):
        decide(made, Long(), snapshot())  # type: ignore[arg-type]
    with pytest.raises(NeedsCount):
        trace(made, Long(), snapshot())  # type: ignore[arg-type]


def test_targets_that_are_down_are_not_measured_while_another_serves() -> None:
    watched = Watched()
    decide(policy(rules=[rule("r", [{"family": "llama"}])]), watched, snapshot(held_back=("scout", "scout-small")))  # type: ignore[arg-type]
    assert watched.asked.count("fits") == 2


# Thinking that needs a stream

STREAMED = fleet(
    [
        target("quick", "qwen3.5-122b-a10b", "ap", 262_144, (0.1, 0.3), thinking_needs_stream=True),
        target("steady", "qwen3.5-35b-a3b", "us", 262_144, (0.2, 0.6)),
        target("deep", "gpt-oss-120b", "ap", 131_072, (0.3, 0.9), thinking_needs_stream=True),
    ]
)


def test_a_target_that_thinks_only_when_streamed_promises_it_only_then() -> None:
    made = policy(STREAMED, thinking=[{"id": "t", "set": "always", "force": True}])
    assert names(choose(made, stream=True)) == ["quick", "steady", "deep"]
    assert names(choose(made, stream=False)) == ["steady"]
    asked = policy(STREAMED)
    assert names(choose(asked, stream=False, effort="high")) == ["steady"]
    assert names(choose(asked, stream=False, effort="none")) == ["quick", "steady"]


def test_a_target_that_cannot_but_think_and_only_streamed_takes_nothing_else() -> None:
    made = policy(STREAMED)
    assert names(choose(made, stream=False)) == ["quick", "steady"]
    assert names(choose(made, stream=True)) == ["quick", "steady", "deep"]
    refused = choose(made, pinned=mask(STREAMED, "deep"), stream=False)
    assert refused.refusal is not None
    assert refused.refusal[0] == "unsupported_capability"
    told = trace(made, given(stream=False), snapshot(STREAMED))
    assert next(one for one in told.targets if one.target == "deep").reasons == ("only answers as a stream",)


@pytest.mark.parametrize("output", [None, 1_000, 70_000, 131_072, 131_073, 2_000_000])
@pytest.mark.parametrize(
    "input_tokens", [0, 100, 60_000, 130_571, 130_572, 130_573, 327_180, 900_000, 900_001, 999_500]
)
def test_what_is_seen_at_a_glance_to_fit_is_what_fits_one_by_one(input_tokens: int, output: int | None) -> None:
    made = policy()
    signals = given(context_tokens=input_tokens + (output or 0), max_output_tokens=output)
    expected = sum(1 << one.index for one in made.fleet.targets if holds(signals, one))
    assert fits(made, signals, made.fleet.mask()) == expected


def test_no_length_lets_in_what_is_not_among_the_targets_asked_about() -> None:
    """A larger window holds what a smaller one of the same model holds, and still is a candidate only where wanted."""
    made = policy()
    for tokens in (100, 130_573, 200_000, 300_000, 500_000, 950_000, 2_000_000):
        signals = given(context_tokens=tokens)
        able = sum(1 << one.index for one in made.fleet.targets if holds(signals, one))
        for wanted in range(made.fleet.mask() + 1):
            assert fits(made, signals, wanted) == able & wanted, (tokens, bin(wanted))


NO_SCOUT: dict[str, Any] = {"constraints": [{"id": "no", "forbid": {"target.name": "scout"}}]}


@pytest.mark.parametrize(
    ("parts", "pinned", "held_back"),
    [
        (NO_SCOUT, None, ()),
        (NO_SCOUT, mask(FLEET, "scout", "scout-small", "oss"), ()),
        ({}, mask(FLEET, "scout-small", "oss"), ()),
        ({}, None, ("scout",)),
        ({"rules": [rule("r", [{"target.name": ["scout-small", "oss"]}])]}, None, ()),
    ],
)
def test_a_long_request_reaches_no_larger_window_of_a_model_than_may_serve_it(
    parts: dict[str, Any], pinned: int | None, held_back: tuple[str, ...]
) -> None:
    decision = choose(policy(**parts), pinned, held_back, context_tokens=200_000)
    assert "scout-small" in names(decision)
    assert "scout" not in names(decision)


UNTOLD: list[Any] = [
    None,
    {"shares": {"en": 0.1}, "undetermined": 0.9, "letters": 20},
    {"shares": {"ja": 0.1}, "undetermined": 0.9, "letters": 20},
    {"shares": {}, "undetermined": 1.0, "letters": 20},
    {"shares": {"en": 1.0}, "undetermined": 0.0, "letters": 0},
]


@pytest.mark.parametrize("language", UNTOLD)
@pytest.mark.parametrize(
    "select",
    [
        {"model.languages": "$language"},
        {"model.languages": {"has": "$language"}},
        {"model.languages": {"lacks": "$language"}},
        {"model.languages": {"not": {"has": "$language"}}},
        {"model.languages": {"not": {"lacks": "$language"}}},
        {"model.languages": {"any": [{"has": "$language"}, {"lacks": "$language"}]}},
    ],
)
def test_a_list_neither_has_nor_lacks_a_language_that_was_not_told(select: Any, language: Any) -> None:
    everybody = names(choose(policy(), language=language))
    assert names(choose(policy(constraints=[{"id": "c", "forbid": select}]), language=language)) == everybody
    assert names(choose(policy(constraints=[{"id": "c", "avoid": select}]), language=language)) == everybody
    assert not names(choose(policy(constraints=[{"id": "c", "require": select}]), language=language)), "fails closed"


@pytest.mark.parametrize("language", [one for one in UNTOLD if one is None or one["undetermined"]])
@pytest.mark.parametrize("matcher", ["$language", {"not": "$language"}])
def test_a_word_is_neither_like_nor_unlike_a_language_that_was_not_told(matcher: Any, language: Any) -> None:
    select = {"target.name": matcher}
    everybody = names(choose(policy(), language=language))
    assert names(choose(policy(constraints=[{"id": "c", "forbid": select}]), language=language)) == everybody
    assert not names(choose(policy(constraints=[{"id": "c", "require": select}]), language=language))
