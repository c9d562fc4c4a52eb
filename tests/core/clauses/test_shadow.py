"""Shadows: which requests are copied, to whom, and that nothing gets a copy that might not get the request."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.core.clauses.shadow import draw_for, drawn
from gateway.core.decide import decide
from gateway.core.errors import ConfigError
from gateway.core.policy import Policy, PolicyDoc
from gateway.core.proving.policytest import prepare, run_tests
from gateway.core.targets.filters import FILTERS
from gateway.core.types import Decision
from tests.core.fleets import FLEET, TARGETS, document, fleet, given, mask, policy, snapshot, target

SCOUT = [{"id": "all", "use": [{"model": "llama-4-scout"}]}]


def shadowed(*use: Any, share: str = "100%", of: Any = FLEET, **more: Any) -> Policy:
    entry = {"id": "copy", "use": list(use) or [{"family": "qwen"}], "share": share, **more.pop("entry", {})}
    return policy(of, **{"rules": SCOUT, "shadow": [entry], **more})


def choose(made: Policy, *, pinned: int | None = None, world: dict[str, Any] | None = None, **signals: Any) -> Decision:
    return decide(made, given(**signals), snapshot(made.fleet, **(world or {})), pinned=pinned)


def copied(made: Policy, **asked: Any) -> str | None:
    shadow = choose(made, **asked).shadow
    return None if shadow is None else shadow.target.name


@pytest.mark.parametrize(("share", "least", "most"), [("5%", 450, 550), ("0.5%", 35, 65), ("50%", 4_850, 5_150)])
def test_a_share_of_the_draws_is_copied(share: str, least: int, most: int) -> None:
    made = shadowed(share=share)
    found = sum(copied(made, world={"draw": i / 10_000}) is not None for i in range(10_000))
    assert least <= found <= most


def test_all_is_all_and_the_client_is_served_as_without_it() -> None:
    made = shadowed()
    assert all(copied(made, world={"draw": i / 100}) == "qwen122" for i in range(100))
    with_it, without = choose(made), choose(policy(rules=SCOUT))
    assert (with_it.candidates, with_it.thinking, with_it.because) == (
        without.candidates, without.thinking, without.because
    )  # fmt: skip


def test_a_shadow_is_drawn_apart_from_weights_and_from_other_shadows() -> None:
    """Else a shadow of 5 % beside a canary of 5 % would see the canary's requests and no other."""
    made = policy(shadow=[
        {"id": name, "use": ["*"], "share": "50%"} for name in ("one", "two")
    ])  # fmt: skip
    low = [drawn(made.shadows, i / 2_000) for i in range(1_000)]  # what a canary of 50 % takes
    assert all(200 <= low.count(found) <= 300 for found in range(4)), "none, one, the other, both: a quarter each"


def test_the_first_entry_that_applies_and_has_somebody_decides() -> None:
    made = policy(rules=SCOUT, shadow=[
        {"id": "code", "when": {"task": "code"}, "use": [{"model": "qwen3-coder-next"}], "share": "100%"},
        {"id": "nobody", "use": [{"target.region": "mars"}], "share": "100%"},
        {"id": "rest", "use": [{"model": "qwen3.5-plus"}], "share": "100%"},
    ])  # fmt: skip
    ids = [decision.shadow.id for decision in (choose(made, task="code"), choose(made)) if decision.shadow]
    assert ids == ["code", "rest"]
    assert copied(made) == "plus"


def test_use_is_a_list_of_rungs_with_ranks() -> None:
    assert copied(shadowed({"model": "qwen3.5-plus"}, {"family": "qwen"})) == "plus"
    assert copied(shadowed({"family": "qwen", "rank": "cheapest"})) == "qwen35"
    assert copied(shadowed({"model": "qwen3.5-plus"}, {"family": "qwen"}), world={"held_back": ["plus"]}) == "qwen122"


def test_who_answers_the_client_is_no_shadow() -> None:
    assert copied(shadowed({"model": "llama-4-scout"})) == "scout-small"
    assert copied(shadowed({"target.name": "scout"})) is None
    assert copied(shadowed({"model": "llama-4-scout"}), pinned=mask(FLEET, "scout-small")) == "scout"


STREAMED = fleet([*TARGETS, target("deep", "gpt-oss-120b", "us", 131_072, (0.1, 0.1), thinking_needs_stream=True)])
UNABLE: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({"model": "gpt-5"}, {}, {}),  # closed
    ({"target.name": "gone"}, {}, {}),  # withdrawn
    ({"target.name": "plus"}, {"constraints": [{"id": "no", "forbid": {"target.name": "plus"}}]}, {}),
    ({"target.name": "plus"}, {"constraints": [{"id": "us", "require": {"target.region": {"prefix": "us"}}}]}, {}),
    ({"target.name": "plus"}, {}, {"region": "us-east-1"}),
    ({"target.name": "plus"}, {}, {"residency": "us"}),
    ({"target.name": "plus"}, {}, {"modality": frozenset({"text", "image"})}),
    ({"target.name": "oss"}, {}, {"tools": True}),
    ({"target.name": "oss"}, {}, {"structured_output": "json_schema"}),
    ({"target.name": "coder"}, {}, {"parameters": frozenset({"logprobs"})}),
    ({"target.name": "plus"}, {}, {"max_output_tokens": 65_000}),
    ({"target.name": "oss"}, {}, {"context_tokens": 150_000}),
    ({"target.name": "oss"}, {"thinking": [{"id": "no", "set": "never"}]}, {}),
    ({"target.name": "plus"}, {}, {"world": {"held_back": ["plus"]}}),
    ({"target.name": "qwen122"}, {"thinking": [{"id": "no", "set": "never"}]}, {"world": {"doubted": 1 << 4}}),
    ({"target.name": "deep"}, {"of": STREAMED}, {"stream": False}),
    ({"target.name": "qwen122"}, {}, {"max_cost_usd": 0.03, "context_tokens": 100_000}),
]


@pytest.mark.parametrize(("use", "policy_parts", "asked"), UNABLE)
def test_nothing_gets_a_copy_that_could_not_get_the_request(
    use: dict[str, Any], policy_parts: dict[str, Any], asked: dict[str, Any]
) -> None:
    parts = {"rules": [{"id": "all", "use": [{"target.name": "scout"}]}], **policy_parts}
    made = shadowed(use, **parts)
    assert choose(made, **asked).candidates, "the request itself is served"
    assert copied(made, **asked) is None
    if not policy_parts and use.get("target.name") in ("plus", "oss", "coder"):
        assert copied(made) == use["target.name"], "only for what was asked"


def test_nothing_that_removes_a_candidate_is_missing_above() -> None:
    """So that a filter that is new, or that shadows no longer pass through, does not go unnoticed."""
    seen = set()
    for use, parts, asked in UNABLE:
        made = shadowed(use, **parts)
        signals, world = given(**{k: v for k, v in asked.items() if k != "world"}), snapshot(made.fleet)
        for each in FILTERS:
            if each.lost(made, signals, world, made.shadows[0].mask) & made.shadows[0].mask:
                seen.add(each.name)
    assert seen == {each.name for each in FILTERS}


def test_a_refused_request_has_no_shadow() -> None:
    decision = choose(shadowed(), context_tokens=3_000_000)
    assert decision.refusal is not None
    assert decision.shadow is None


@pytest.mark.parametrize("share", ["0%", "101%", "5", 5, 0.05, "-5%", "5 %", "1e1%", "٥%", "%", "5%%", None, "nan%"])
def test_a_share_that_means_nothing_is_refused(share: Any) -> None:
    entry = {"id": "copy", "use": ["*"], "share": share}
    with pytest.raises(ValueError, match="is no share"):
        PolicyDoc.model_validate(document(shadow=[entry]))


def test_a_shadow_with_a_selector_that_means_nothing_is_refused_at_its_place() -> None:
    with pytest.raises(ConfigError, match=r"shadow\[0\].use\[1\].model"):
        shadowed("*", {"model": "lama"})
    with pytest.raises(ConfigError, match=r"shadow\[0\].when.tsk"):
        shadowed("*", entry={"when": {"tsk": "code"}})


def test_a_draw_is_found_that_falls_to_the_wanted_shadows_and_no_others() -> None:
    entries = [{"id": name, "use": ["*"], "share": share} for name, share in (("a", "1%"), ("b", "5%"), ("c", "100%"))]
    shadows = policy(shadow=entries).shadows
    for wanted, bits in ((set(), 0b100), ({"a"}, 0b101), ({"b"}, 0b110), ({"a", "b", "c"}, 0b111)):
        for near in (0.0, 0.05, 0.5, 0.9999999999):
            found = draw_for(shadows, frozenset(wanted), near)
            assert found is not None
            assert drawn(shadows, found) == bits
            assert abs(found - near) < 1e-6
            assert (found >= near) or near > 0.9
    rare = policy(shadow=[{"id": name, "use": ["*"], "share": "0.001%"} for name in "ab"]).shadows
    assert draw_for(rare, frozenset("ab"), 0.5) is None


def test_a_test_says_whose_share_its_request_is_of() -> None:
    weights = {"rank": "weighted", "weights": {"llama-4-scout": 5, "llama-4-maverick": 95}}
    made = policy(
        as_of="2026-11-21",
        rules=[{"id": "all", "use": [{"model": ["llama-4-scout", "llama-4-maverick"], **weights}]}],
        shadow=[{"id": "next", "use": [{"family": "qwen"}], "share": "2%"}],
        tests=[
            {"name": "drawn", "given": {"drawn": "next", "draw": 0.049}, "expect": {"model": "llama-4-scout",
             "not_model": "llama-4-maverick"}},
            {"name": "beside", "given": {"drawn": ["next"], "draw": 0.05}, "expect": {"model": "llama-4-maverick"}},
            {"name": "not drawn", "given": {"drawn": []}, "expect": {"shadow": "none"}},
        ],
    )  # fmt: skip
    assert [result.passed for result in run_tests(made)] == [True, True, True]
    assert all(decide(made, one.signals, one.snapshot(made)).shadow for one in prepare(made)[:2])
    with pytest.raises(ConfigError, match=r"tests\[0\].given.drawn: there is no shadow 'nxt': did you mean next"):
        prepare(policy(as_of="2026-11-21", shadow=[{"id": "next", "use": ["*"], "share": "2%"}],
                       tests=[{"name": "a", "given": {"drawn": "nxt"}, "expect": {"rule": "all"}}]))  # fmt: skip
