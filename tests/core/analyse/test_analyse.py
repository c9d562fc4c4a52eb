"""What is found out about a policy before its first request."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from fleets import ANYTHING, FLEET, fleet, policy, target

from gateway.core.analyse import analyse
from gateway.core.clauses.findings import Finding
from gateway.core.types import Fleet

CROSSING = [{"family": "qwen"}, {"family": "*"}]


def rule(identity: str, use: Any = None, **when: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"id": identity, "use": use or CROSSING}
    return {**made, "when": when} if when else made


def findings(of: Fleet = FLEET, now: float | None = None, **parts: Any) -> list[Finding]:
    return analyse(policy(of, **{"as_of": "2026-11-21", "tokens_by": "qwen3.5", **parts}), now=now)


def about(found: list[Finding], identity: str, severity: str = "warning") -> list[str]:
    return [finding.message for finding in found if finding.id == identity and finding.severity == severity]


# Rules that can never apply


@pytest.mark.parametrize(
    ("rules", "dead", "why"),
    [
        ([rule("a"), rule("b", task="code")], "b", "`a` above it applies to everything"),
        ([rule("a", task=["code", "math"]), rule("b", task="code"), rule("z")], "b", "is taken by `a`"),
        ([rule("a", context_tokens={"gt": 100}), rule("b", context_tokens={"gte": 200}), rule("z")], "b", "by `a`"),
        ([rule("a", language={"not": "en"}), rule("b", language="ja"), rule("z")], "b", "is taken by `a`"),
        ([rule("a", task="code"), rule("b", task="code", tools=True), rule("z")], "b", "is taken by `a`"),
        ([rule("a", tools=True), rule("b", tools=False), rule("z")], "z", "by the rules above it together"),
        ([rule("a", effort={"known": True}), rule("b", effort="high"), rule("z")], "b", "is taken by `a`"),
        ([rule("a", modality="image"), rule("b", modality={"has": ["image", "text"]}), rule("z")], "b", "by `a`"),
        ([rule("a", any=[{"task": "code"}, {"tools": True}]), rule("b", tools=True), rule("z")], "b", "by `a`"),
        ([rule("a", **{"tenant.team": {"prefix": "sh"}}), rule("b", **{"tenant.team": "shop"}), rule("z")],
         "b", "is taken by `a`"),
        ([rule("a", context_tokens={"gt": 200, "lt": 100}), rule("z")], "a", "nothing can satisfy its `when`"),
        ([rule("a", task="code", **{"not": {"task": "code"}}), rule("z")], "a", "nothing can satisfy its `when`"),
        ([rule("a", context_tokens={"lte": 100}), rule("b", context_tokens={"lt": 500, "gt": 50}),
          rule("c", context_tokens={"lt": 500}), rule("z")], "c", "by the rules above it together"),
    ],
)  # fmt: skip
def test_a_rule_that_never_applies_is_found(rules: list[Any], dead: str, why: str) -> None:
    found = findings(rules=rules)
    (message,) = about(found, dead)
    assert message.startswith("never applies")
    assert why in message
    alive = {entry["id"] for entry in rules} - {dead}
    assert not [finding for finding in found if finding.id in alive and "never applies" in finding.message]


@pytest.mark.parametrize(
    "rules",
    [
        [rule("a", task="code"), rule("b", task=["code", "math"]), rule("z")],
        [rule("a", context_tokens={"gt": 200}), rule("b", context_tokens={"gte": 200}), rule("z")],
        [rule("a", language="ja"), rule("b", language={"not": "en"}), rule("z")],
        [rule("a", task="code", tools=True), rule("b", task="code"), rule("z")],
        [rule("a", effort="high"), rule("b", effort={"known": True}), rule("z")],
        [rule("a", task={"not": "code"}), rule("b", task="code"), rule("z")],  # z: a task that is not known
        [rule("a", **{"tenant.team": "shop"}), rule("b", **{"tenant.team": {"prefix": "sh"}}), rule("z")],
        [rule("a", language="en"), rule("b", language={"not": "en"}), rule("z")],  # z: a language that is not known
    ],
)
def test_a_rule_that_may_apply_is_left_alone(rules: list[Any]) -> None:
    assert not [finding for finding in findings(rules=rules) if "never applies" in finding.message]


def test_thinking_entries_and_constraints_are_judged_alike() -> None:
    found = findings(
        thinking=[{"id": "all", "set": "never"}, {"id": "late", "when": {"effort": "high"}, "set": "client"}],
        constraints=[{"id": "odd", "when": {"images": {"gt": 5, "lt": 2}}, "forbid": {"family": "llama"}}],
    )
    assert "`all` above it" in about(found, "late")[0]
    assert "nothing can satisfy" in about(found, "odd")[0]


def test_what_would_take_too_long_is_not_claimed() -> None:
    many = [rule(f"r{i}", **{f"tenant.f{j}": f"v{i}" for j in range(8)}) for i in range(8)]
    assert not [finding for finding in findings(rules=[*many, rule("z")]) if "never applies" in finding.message]


# Gaps


def test_a_request_without_a_rule_is_shown_by_example() -> None:
    found = findings(rules=[rule("a", context_tokens={"lt": 500}), rule("b", tools=True)])
    (gap,) = [one for one in found if one.code == "gap"]
    assert gap.witness == {"context_tokens": 1_000, "tools": False}


def test_a_policy_that_covers_everything_says_so() -> None:
    for rules in ([rule("a", tools=True), rule("b")], [rule("a", tools=True), rule("b", tools=False)]):
        assert "every request is covered by a rule" in about(findings(rules=rules), "test", "holds")


# Rungs


def test_a_rule_no_target_serves_is_told() -> None:
    found = findings(rules=[rule("a", [{"target.region": "eu-west-9"}], tools=True), rule("z")])
    assert "selects no target of this fleet: its requests are refused" in about(found, "a")


def test_a_rung_no_target_serves_is_no_more_than_information() -> None:
    found = findings(rules=[rule("a", [{"family": "qwen", "target.window": {"gt": "5M"}}, *CROSSING])])
    assert about(found, "a", "info") == ["selects no target of this fleet (family: qwen, target.window: {gt: 5M})"]


def test_a_rung_that_cannot_hold_what_its_rule_admits_is_told() -> None:
    long = rule("long", [{"model": "gpt-oss-120b"}, {"model": "llama-4-scout"}, "*"], context_tokens={"gt": "500k"})
    found = findings(rules=[long, rule("z")])
    assert about(found, "long") == [
        "cannot hold what its rule admits: 500,001 tokens and more, the widest window is 131,072"
    ]
    assert about(found, "long", "info") == [
        "scout-small cannot hold what its rule admits: 500,001 tokens and more, the widest window is 327,680"
    ]  # fmt: skip


def test_what_a_rule_admits_counts_what_stands_above_it() -> None:
    rules = [rule("short", context_tokens={"lte": "150k"}), rule("rest", [{"model": "gpt-oss-120b"}, "*"])]
    assert "150,001 tokens and more" in about(findings(rules=rules), "rest")[0]


def test_a_rung_that_is_closed_or_forbidden_for_ever_is_told() -> None:
    closed = findings(rules=[rule("a", [{"family": "gpt"}, *CROSSING])])
    assert "none of its targets is ever allowed" in about(closed, "a")[0]
    forbidden = findings(
        rules=[rule("a", [{"model": "llama-4-scout"}, *CROSSING])],
        constraints=[{"id": "no-scout", "forbid": {"model": "llama-4-scout"}}],
    )
    assert "none of its targets is ever allowed" in about(forbidden, "a")[0]


def test_a_rung_that_adds_nothing_is_information() -> None:
    found = findings(rules=[rule("a", ["*", {"family": "qwen"}])])
    assert about(found, "a", "info") == ["adds nothing: the rungs before it hold all its targets"]


# Families


def test_fallbacks_that_never_leave_a_family_are_told() -> None:
    found = findings(rules=[rule("a", [{"family": "llama"}], tools=True), rule("z")])
    assert [one.message for one in found if one.code == "family-locked"] == [
        "its fallbacks never leave the family llama"
    ]
    assert "the fallbacks of every rule cross families" not in about(found, "test", "holds")
    assert "the fallbacks of every rule cross families" in about(findings(rules=[rule("z")]), "test", "holds")


def test_a_fleet_of_one_family_is_told_once_and_not_by_rule() -> None:
    llamas = [one for one in FLEET.targets if one.model.family == "llama"]
    fewer = Fleet(tuple(replace(one, index=index) for index, one in enumerate(llamas)), FLEET.models)
    found = findings(fewer, rules=[rule("a", [{"family": "llama"}], tools=True), rule("z")])
    assert about(found, "test") == ["all targets it may use are of one family, llama: no fallback leaves it"]
    assert about(found, "a") == []
    assert "the fallbacks of every rule cross families" not in about(found, "test", "holds")


def test_a_family_that_is_closed_does_not_count_as_a_way_out() -> None:
    found = findings(rules=[rule("a", [{"family": "llama"}, {"family": "gpt"}])])
    assert "its fallbacks never leave the family llama" in about(found, "a")


# Constraints


def test_a_constraint_that_ignorance_slips_past_is_told_with_the_targets() -> None:
    west = {"id": "west", "forbid": {"target.region": {"not": {"prefix": "us"}}}}
    (message,) = about(findings(constraints=[west]), "west", "error")
    assert message == "does not reach targets whose target.region is not known: scout-small, llama70"
    closed = {"id": "west", "forbid": [west["forbid"], {"target.region": {"known": False}}]}
    assert about(findings(constraints=[closed]), "west", "error") == []
    alike = {"id": "west", "forbid": {"target.region": {"any": [{"not": {"prefix": "us"}}, {"known": False}]}}}
    assert about(findings(constraints=[alike]), "west", "error") == []


def test_that_rules_and_pins_cannot_leak_is_said() -> None:
    found = findings(constraints=[{"id": "c", "forbid": {"family": "gpt"}}])
    assert any("can leak past c" in message for message in about(found, "test", "holds"))


def test_a_constraint_that_forbids_everything_or_nothing_is_told() -> None:
    found = findings(constraints=[{"id": "all", "forbid": "*"}, {"id": "none", "forbid": {"target.name": "nobody"}}])
    assert "forbids every target of this fleet, always" in about(found, "all")
    assert "concerns no target of this fleet" in about(found, "none", "info")


def test_a_requirement_says_what_it_removes_out_of_ignorance() -> None:
    found = findings(constraints=[{"id": "west", "require": {"target.region": {"prefix": "us"}}}])
    (message,) = about(found, "west", "info")
    assert message == "removes targets whose target.region is not known: scout-small, llama70, gpt"
    assert about(found, "west") == []
    assert any("can leak past west" in said for said in about(found, "test", "holds"))


def test_a_requirement_that_holds_of_all_or_of_nothing_is_told() -> None:
    mars = {"require": {"target.region": {"in": ["mars"]}}}
    found = findings(constraints=[{"id": "all", "require": "*"}, {"id": "none", **mars},
                                  {"id": "some", "when": {"tools": True}, **mars}])  # fmt: skip
    assert about(found, "all", "info") == ["holds of every target of this fleet"]
    assert "known to hold of no target of this fleet: every request is refused" in about(found, "none")[0]
    assert "every request it applies to is refused" in about(found, "some", "info")[0]


# Names and targets


def test_names_that_nothing_bears_are_told() -> None:
    found = findings(
        sets={"used": ["llama-3.3-70b", "qwen3.5-plus"], "idle": ["gpt-5"]},
        rules=[rule("a", [{"model": "@used"}, {"target.region": "us-west-7"}, "*"])],
        constraints=[{"id": "c", "forbid": {"model.license": {"in": ["MIT-0", "Apache-2.0"]}}}],
    )
    assert about(found, "a") == ["no target of this fleet has target.region us-west-7"]
    assert about(found, "c") == ["no model of the catalogue has model.license MIT-0"]
    assert about(found, "idle", "info") == ["is never used"]
    assert about(found, "used", "info") == []


def test_a_set_with_models_this_fleet_does_not_serve_is_information() -> None:
    small = fleet([target("only", "llama-4-scout", "us", 1_000, None)])
    found = findings(small, sets={"s": ["llama-4-scout", "gpt-5"]}, rules=[rule("a", [{"model": "@s"}, "*"])])
    assert about(found, "s", "info") == ["not served by this fleet: gpt-5"]


def test_targets_that_are_or_will_be_withdrawn_are_told() -> None:
    found = findings(rules=[rule("a")])
    assert "was withdrawn on 2026-07-17 and is never chosen" in about(found, "gone")
    assert about(found, "llama70") == ["will be withdrawn on 2026-12-01, in 10 days"]
    early = findings(rules=[rule("a")], now=datetime(2026, 1, 1, tzinfo=UTC).timestamp())
    assert about(early, "gone") == []


def test_targets_without_a_price_are_information_where_price_decides() -> None:
    assert about(findings(rules=[rule("a")], rank="cheapest"), "oss", "info")
    assert not about(findings(rules=[rule("a")], rank="listed"), "oss", "info")


def test_targets_no_rule_uses_are_information() -> None:
    found = findings(rules=[rule("a", [{"family": ["llama", "qwen", "gpt"]}])])
    assert "no rule ever uses oss" in about(found, "test", "info")


def test_thresholds_without_a_tokenizer_are_told() -> None:
    rules = [rule("a", context_tokens={"gt": 100}), rule("z")]
    assert "bytes" in about(findings(rules=rules, tokens_by=None), "test")[0]
    assert about(findings(rules=rules), "test") == []


def test_a_policy_without_tests_is_told_so() -> None:
    assert "the policy has no tests" in about(findings(rules=ANYTHING), "test", "info")


def test_the_worst_comes_first_and_reads_as_one_line() -> None:
    found = findings(rules=[rule("a"), rule("b", tools=True)])
    order = ["error", "warning", "info", "holds"]
    assert [f.severity for f in found] == sorted((f.severity for f in found), key=order.index)
    assert str(found[0]) == (
        "warning: b: never applies: `a` above it applies to everything (move it up, narrow what stands above)"
    )


def test_a_misspelt_canary_is_found_and_a_set_that_only_a_shadow_uses_is_used() -> None:
    def weighted(**weights: int) -> list[Finding]:
        return findings(rules=[rule("r", [{"family": "*", "rank": "weighted", "weights": weights}, "*"])])

    (said,) = about(weighted(scuot=5, maverick=95), "r")
    assert said == "no model of the catalogue or target of this fleet is called scuot, so it gets no share"
    assert about(weighted(scout=5, maverick=95), "r") == []
    copies = [{"id": "copy", "use": [{"model": "@s"}], "share": "5%"}]
    assert about(findings(sets={"s": ["qwen3.5-plus"]}, shadow=copies), "s", "info") == []


def test_a_weight_for_what_the_rung_leaves_out_is_told_also_where_no_target_bears_the_name() -> None:
    small = fleet([target("scout", "llama-4-scout", "us", 1_000_000, (0.2, 0.6))])
    pair = ["llama-3.3-70b", "qwen3.5-122b-a10b"]
    right = {"llama-3.3-70b": 95, "qwen3.5-122b-a10b": 5}
    for of in (FLEET, Fleet(small.targets, FLEET.models)):

        def told(weights: dict[str, int], of: Fleet = of, **select: Any) -> list[tuple[str, str]]:
            use = [{**select, "rank": "weighted", "weights": weights}, "*"]
            found = findings(of, rules=[rule("r", use)])
            return [(one.code, one.fix) for one in found if one.path == "rules[0].use[0].weights"]

        assert told(right, model=pair) == told(right, model={"in": pair}) == []
        assert [code for code, _ in told({**right, "qwen3.5-35b-a3b": 5}, model=pair)] == ["weight-outside"]
        assert [code for code, _ in told({**right, "qwen3.5-35b-a3b": 5}, family="llama")] == ["weight-outside"]
        assert told({**right, "qwen3.5-35b-a3b": 5}, family="*") == []
        ((code, fix),) = told({"qwen-35b": 5}, family="qwen")
        assert (code, "qwen3.5-35b-a3b" in fix) == ("name-unknown", True)


def test_amounts_of_money_may_lie_between_whole_ones() -> None:
    rules = [
        {"id": "none", "when": {"max_cost_usd": 0}, "use": ["*"]},
        {"id": "little", "when": {"max_cost_usd": {"lt": 0.001}}, "use": ["*"]},
        {"id": "edge", "when": {"max_cost_usd": {"lte": 0.001}}, "use": ["*"]},
        {"id": "rest", "use": ["*"]},
    ]
    found = findings(rules=rules)
    assert not [one for one in found if one.code == "rule-unreachable"]
