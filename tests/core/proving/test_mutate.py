"""Mutants of a policy: that each thing in it is taken away once, and which of them no test could notice."""

from __future__ import annotations

from typing import Any

import pytest
from fleets import FLEET, document, policy

from gateway.core.policy import Policy, PolicyDoc, compile_policy
from gateway.core.proving.mutate import Mutant, effect, mutants
from gateway.core.proving.policytest import noticed_by, prepare


def doc(**parts: Any) -> PolicyDoc:
    return PolicyDoc.model_validate(document(**parts))


def changes(**parts: Any) -> dict[str, str]:
    """Path -> what is done there; for a path with several changes, the last."""
    return {mutant.path: mutant.change for mutant in mutants(doc(**parts))}


def bound(mutant: Mutant) -> Policy:
    return compile_policy(mutant.doc, FLEET, digest="0")


LAST = {"id": "last", "use": ["*"]}


def test_every_entry_of_every_list_is_taken_away_once() -> None:
    found = changes(
        rules=[{"id": "a", "when": {"task": "code"}, "use": [{"family": "qwen"}]}, LAST],
        constraints=[{"id": "c", "avoid": {"family": "llama"}}],
        thinking=[{"id": "t", "set": "client"}],
    )
    assert {path for path, change in found.items() if change.startswith("without this")} == {
        "rules[0]", "rules[1]", "constraints[0]", "thinking[0]"
    }  # fmt: skip


def test_rungs_and_their_members_and_values_are_taken_away() -> None:
    use = [{"model": ["llama-4-scout", "llama-4-maverick"], "target.tools": True}, {"family": "qwen", "rank": "listed"}]
    assert {path: change for path, change in changes(rules=[{"id": "a", "use": use}]).items() if ".use" in path} == {
        "rules[0].use[0]": "without {model: [llama-4-scout, llama-4-maverick], target.tools: true}",
        "rules[0].use[0].model": "without model: [llama-4-scout, llama-4-maverick]",
        "rules[0].use[0].model[0]": "without llama-4-scout",
        "rules[0].use[0].model[1]": "without llama-4-maverick",
        "rules[0].use[0].target.tools": "without target.tools: true",
        "rules[0].use[1]": "without {family: qwen, rank: listed}",
        "rules[0].use[1].rank": "without rank: listed",
    }


def test_conditions_lose_members_alternatives_operators_and_values() -> None:
    when = {
        "any": [{"task": "code"}, {"context_tokens": {"gte": "1k", "lt": "2k"}}],
        "not": {"language": ["en", "de"]},
    }
    found = [
        mutant for mutant in mutants(doc(rules=[{"id": "a", "when": when, "use": ["*"]}])) if "when" in mutant.path
    ]
    assert {mutant.path for mutant in found} == {
        "rules[0].when.any",
        "rules[0].when.any[0]",
        "rules[0].when.any[1]",
        "rules[0].when.any[1].context_tokens.gte",
        "rules[0].when.any[1].context_tokens.lt",
        "rules[0].when.not",
        "rules[0].when.not.language[0]",
        "rules[0].when.not.language[1]",
    }
    assert [one.change for one in found if one.path.endswith(".gte")] == [
        "without gte: 1k",
        "gte: 1005, a little off",
        "gte: 995, a little off",
    ]
    assert all(bound(mutant).rules[0].when is not None for mutant in found)


@pytest.mark.parametrize(
    ("threshold", "moved"),
    [
        ({"gt": "200k"}, {"gt": [201_000, 199_000]}),
        ({"gte": 1_000}, {"gte": [1_005, 995]}),
        ({"lt": 5}, {"lt": [6, 4]}),
        ({"lte": 0}, {"lte": [1]}),
        ({"gt": 0.5}, {"gt": [0.5025, 0.4975]}),
        ({"gte": "1M", "lt": "2M"}, {"gte": [1_005_000, 995_000], "lt": [2_010_000, 1_990_000]}),
    ],
)
def test_a_threshold_is_moved_a_little_up_and_down(threshold: dict[str, Any], moved: dict[str, list[float]]) -> None:
    rule = {"id": "a", "when": {"any": [{"max_cost_usd": threshold}, {"task": "code"}]}, "use": ["*"]}
    slight = [one for one in mutants(doc(rules=[rule])) if one.slight]
    at = "rules[0].when.any[0].max_cost_usd."
    assert {one.path for one in slight} == {f"{at}{name}" for name in moved}
    found: dict[str, list[float]] = {}
    for one in slight:
        name = one.path.removeprefix(at)
        found.setdefault(name, []).append(one.doc.rules[0].when["any"][0]["max_cost_usd"][name])
    assert found == moved


def test_a_threshold_on_facts_is_moved_too_a_date_by_a_day_and_one_beside_a_variable_not() -> None:
    use = [{"model.released": {"gte": "2026-01-31"}}, {"model.params_active_b": {"gte": 3}}]
    beside = {"model.languages": {"lacks": "$language"}, "model.language_count": {"lt": 100}}
    found = [
        one.change
        for one in mutants(doc(rules=[{"id": "a", "use": use}], constraints=[{"id": "c", "avoid": beside}]))
        if one.slight
    ]
    assert found == [
        "gte: 2026-02-01, a little off",
        "gte: 2026-01-30, a little off",
        "gte: 3.015, a little off",
        "gte: 2.985, a little off",
    ]


def test_a_condition_of_one_member_goes_as_a_whole() -> None:
    (found,) = [
        one for one in mutants(doc(rules=[{"id": "a", "when": {"task": "code"}, "use": ["*"]}])) if ".when" in one.path
    ]
    assert found.doc.rules[0].when is None


def test_what_binds_is_loosened() -> None:
    found = changes(
        constraints=[{"id": "c", "forbid": [{"family": "llama"}, {"target.region": {"known": False}}]}],
        thinking=[{"id": "t", "set": "never", "force": True}],
    )
    assert found["constraints[0].forbid"] == "avoid instead of forbid"
    assert found["constraints[0].forbid[1]"] == "without {target.region: {known: false}}"
    assert found["thinking[0].force"] == "without force"
    assert found["thinking[0].set"] == "set: client"


def test_sets_and_allowed_families_lose_members_but_never_the_last_of_a_set() -> None:
    found = changes(sets={"two": ["llama-4-scout", "gpt-5"], "one": ["gpt-5"]}, allow_closed=["qwen"])
    assert found == found | {"sets.two[0]": "without llama-4-scout", "allow_closed[0]": "without qwen"}
    assert "sets.one[0]" not in found


def test_every_mutant_of_a_rich_policy_still_loads() -> None:
    rich = doc(
        sets={"s": ["llama-4-scout", "qwen3.5-plus"]},
        constraints=[{"id": "c", "when": {"language": {"known": True}}, "forbid": {"model": {"not": "@s"}}}],
        rules=[{"id": "a", "when": {"any": [{"tools": True}, {"images": {"gt": 1}}]}, "use": [{"model": "@s"}]}, LAST],
        thinking=[{"id": "t", "when": {"effort": {"any": ["high", {"known": False}]}}, "set": "never"}],
    )
    made = list(mutants(rich))
    assert len(made) >= 15
    assert all(bound(mutant) for mutant in made)


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        (["*", {"family": "qwen"}], ["*"], True),  # the second rung adds nothing
        ([{"family": "qwen", "model": {"not": "gpt-5"}}], [{"family": "qwen"}], True),
        ([{"family": "qwen"}, "*"], ["*"], False),  # the order of families is gone
        ([{"family": "qwen", "rank": "cheapest"}], [{"family": "qwen"}], False),
        ([{"model": "gpt-5", "rank": "cheapest"}], [{"model": "gpt-5"}], True),  # one target has no order
    ],
)
def test_only_what_can_matter_on_the_fleet_changes_the_effect(before: Any, after: Any, same: bool) -> None:
    first, second = (effect(policy(rules=[{"id": "a", "use": use}])) for use in (before, after))
    assert (first == second) is same


def test_a_constraint_that_selects_nothing_here_has_no_effect() -> None:
    nothing = {"id": "c", "forbid": {"target.region": "mars"}}
    assert effect(policy(constraints=[nothing])) == effect(policy())
    assert effect(policy(constraints=[{**nothing, "forbid": {"family": "gpt"}}])) != effect(policy())


TESTED = {
    "as_of": "2026-11-21",
    "rules": [{"id": "code", "when": {"task": "code"}, "use": [{"family": "qwen"}]}, {"id": "last", "use": ["*"]}],
}


def unnoticed(*tests: dict[str, Any]) -> set[str]:
    whole = policy(**TESTED, tests=list(tests))
    cases = prepare(whole)
    return {one.path for one in mutants(whole.doc) if noticed_by(bound(one), cases, one.removed_rule) is None}


def test_a_test_that_only_names_a_rule_does_not_notice_that_it_is_gone() -> None:
    named = {"name": "code", "given": {"task": "code"}, "expect": {"rule": "code"}}
    other = {"name": "the rest", "expect": {"rule": "last", "family": "llama"}}
    assert unnoticed(named, other) == {"rules[0]"}


def test_a_test_that_says_where_requests_go_does() -> None:
    shown = {"name": "code", "given": {"task": "code"}, "expect": {"rule": "code", "family": "qwen"}}
    assert unnoticed(shown, {"name": "the rest", "expect": {"family": "llama"}}) == set()
    assert unnoticed(shown) == {"rules[0].when.task", "rules[1]"}
