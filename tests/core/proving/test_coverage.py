"""Coverage of a policy by its tests: what counts as reached, and what cannot be."""

from __future__ import annotations

from typing import Any

from fleets import policy

from gateway.core.proving.coverage import Coverage, coverage
from gateway.core.proving.policytest import prepare

RULES = [
    {"id": "code", "when": {"task": "code"}, "use": [{"family": "qwen"}, {"family": "llama"}, {"family": "qwen"}]},
    {"id": "rest", "use": [{"family": "llama", "rank": "cheapest"}]},
]
CONSTRAINTS = [
    {"id": "no-llama", "when": {"tenant.team": "shop"}, "forbid": {"family": "llama"}},
    {"id": "languages", "avoid": {"model.languages": {"lacks": "$language"}}},
]
THINKING = [{"id": "hard", "when": {"difficulty": "hard"}, "set": "always"}, {"id": "else", "set": "never"}]


def covered(*given: dict[str, Any]) -> Coverage:
    tests = [{"name": str(i), "given": one, "expect": {"rule": "rest"}} for i, one in enumerate(given)]
    whole = policy(as_of="2026-11-21", rules=RULES, constraints=CONSTRAINTS, thinking=THINKING, tests=tests)
    return coverage(whole, prepare(whole))


def missed(*given: dict[str, Any]) -> set[str]:
    return {str(item) for item in covered(*given).missed}


EVERYTHING = {
    "rule code", "rung 1 of code", "rung 2 of code", "rule rest", "rung 1 of rest",
    "constraint no-llama", "constraint languages", "thinking hard", "thinking else",
}  # fmt: skip


def test_without_tests_nothing_is_reached_and_a_rung_that_adds_no_target_does_not_count() -> None:
    assert missed() == EVERYTHING
    assert covered().reached == 0


def test_a_rung_is_reached_by_any_candidate_it_gives() -> None:
    found = {item.path: (item.reached, item.seen) for item in covered({"task": "code"}).items}
    assert found["rules[0].use[0]"] == (1, 1)  # the first candidate
    assert found["rules[0].use[1]"] == (1, 0)  # fallbacks
    assert found["rules[1]"] == (0, 0)


def test_a_constraint_counts_only_where_it_changed_the_decision() -> None:
    shop = {"tenant.team": "shop"}
    assert "constraint no-llama" in missed({**shop, "pinned": "plus"})  # nothing to remove
    (held,) = [item for item in covered({**shop, "pinned": "plus"}).items if item.id == "no-llama"]
    assert (held.reached, held.seen) == (0, 1)
    assert "constraint no-llama" not in missed({**shop, "task": "code"})
    assert "constraint no-llama" not in missed(shop)  # nothing is left: a refusal is a change


def test_an_avoidance_counts_where_the_order_changed() -> None:
    assert "constraint languages" in missed({"task": "code", "language": "ja"})  # llama comes last anyway
    assert "constraint languages" not in missed({"language": "id"})  # on the list of one Llama, not of the other


def test_thinking_entries_count_where_they_decided() -> None:
    assert missed({"task": "code", "difficulty": "hard"}) & {"thinking hard", "thinking else"} == {"thinking else"}
    assert missed({"effort": "high", "task": "code"}) & {"thinking hard", "thinking else"} == {
        "thinking hard", "thinking else",  # the client's wish won
    }  # fmt: skip
