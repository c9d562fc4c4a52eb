"""What holds of every decision, whatever the policy, fleet and request: judged by the plain reading in `oracle`.

pytest tests/core/test_properties.py --hypothesis-profile deep
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import given
from oracle import Request, World, applies
from worlds import Case, condition, drawn, for_every_case, more, request

from gateway.core.clauses.conditions import Scope, compile_condition
from gateway.core.clauses.matchers import Problems
from gateway.core.decide import decide
from gateway.core.decisions.trace import trace
from gateway.core.reading.signals import Signals
from gateway.core.types import Decision


def judged(case: Case) -> tuple[World, Request]:
    return World(case.raw, case.fleet), Request(case.given, case.raw.get("tokens_by"))


def decided(case: Case) -> Decision:
    return decide(case.policy, case.signals(), case.snapshot, pinned=case.pinned)


@for_every_case
def test_no_candidate_is_forbidden_or_unable_and_none_that_may_serve_is_missing(case: Case) -> None:
    world, request = judged(case)
    decision = decided(case)
    for target in decision.candidates:
        assert world.removals(target, request, case.snapshot) == set(), target.name
    expected, mode = world.candidates(request, case.snapshot, case.pinned)
    assert {target.name for target in decision.candidates} == expected
    assert len(decision.candidates) == len(expected)
    assert (decision.refusal is None) is bool(expected)
    if expected:
        assert decision.thinking.mode == mode


@for_every_case
def test_candidates_stand_rung_by_rung_then_come_the_slow_ones_and_what_is_avoided_last(case: Case) -> None:
    world, request = judged(case)
    candidates = decided(case).candidates
    rule = world.rule(request)
    rungs = ["*"] if case.pinned is not None or rule is None else rule["use"]
    places = {
        one.name: (
            len(world.avoided(one, request)),
            world.slow(one, request, case.snapshot),
            world.rungs(one, request, rungs)[0],
        )
        for one in candidates
    }
    if candidates and world.stays(candidates[0], case.snapshot):  # the one that may stand before its rung
        assert places[candidates[0].name][:2] == min(place[:2] for place in places.values())
        candidates = candidates[1:]
    found = [places[one.name] for one in candidates]
    assert found == sorted(found)


@for_every_case
def test_a_shadow_is_a_target_that_might_have_answered_and_another_one_than_does(case: Case) -> None:
    world, request = judged(case)
    decision = decided(case)
    shadow = decision.shadow
    entries = case.raw.get("shadow", [])
    if shadow is not None:
        assert shadow.target != decision.candidates[0]
        assert world.may_shadow(shadow.id, shadow.target, request, case.snapshot, case.pinned is not None)
        entries = entries[: [entry["id"] for entry in entries].index(shadow.id)]
    for entry in entries if decision.candidates else ():
        if entry["share"] == "100%":
            for one in case.fleet.targets:
                free = one != decision.candidates[0]
                assert not (
                    free and world.may_shadow(entry["id"], one, request, case.snapshot, case.pinned is not None)
                )


@more(5)
@given(drawn(condition), drawn(request))
def test_a_condition_holds_where_it_says_so(raw: dict[str, Any], sent: dict[str, Any]) -> None:
    problems = Problems()
    made = compile_condition(raw, "when", Scope(problems, "tok-a"))
    assert made is not None, problems.found
    assert made.test(Signals.given(sent)) is applies(raw, Request(sent, "tok-a"))


REASONS = {
    "API only": "closed", "withdrawn on": "retired", "forbidden by": "constraint", "not what c": "constraint",
    "region ": "place", "data processed": "place", "does not read": "content", "takes ": "content|fit",
    "has no price": "cost", "may cost more": "cost",
    "has no tools": "tools", "has no structured": "structure", "does not support": "parameters",
    "only answers": "stream", "gives at most": "output", "window ": "fit", "held back": "health",
    "cannot promise": "thinking", "not in rule": "elsewhere", "not what the client": "elsewhere",
}  # fmt: skip


FACT_OF = {"model": "model.id", "family": "model.family"}


def kind_of(reason: str) -> set[str]:
    for words, kind in sorted(REASONS.items(), key=lambda it: -len(it[0])):
        if reason.startswith(words):
            if words == "takes ":
                return {"content" if "images" in reason else "fit"}
            return {kind}
    raise AssertionError(f"nobody knows this reason: {reason}")


@for_every_case
def test_explaining_decides_alike_and_every_reason_is_true_and_none_is_missing(case: Case) -> None:
    world, request = judged(case)
    told = trace(case.policy, case.signals(), case.snapshot, pinned=case.pinned)
    assert told.decision == decided(case)
    mode, thinks, binds = world.thinking(request, case.pinned is not None)
    rule = world.rule(request)
    candidates = {target.name: place for place, target in enumerate(told.decision.candidates, 1)}
    for entry in told.targets:
        target = next(one for one in case.fleet.targets if one.name == entry.target)
        assert entry.place == candidates.get(entry.target)
        assert (entry.verdict == "dropped") is (entry.place is None)
        if entry.place is not None:
            assert (entry.verdict == "avoided") is bool(world.avoided(target, request))
            continue
        said = set().union(*(kind_of(reason) for reason in entry.reasons))
        true = {reason.partition(" ")[0] for reason in world.removals(target, request, case.snapshot)}
        if not case.snapshot.available >> target.index & 1:
            true.add("health")
        rungs = [] if rule is None else rule["use"]
        chosen = case.pinned >> target.index & 1 if case.pinned is not None else world.rungs(target, request, rungs)
        if not chosen:
            true.add("elsewhere")
        wanted = binds or (mode == told.decision.thinking.mode and "thinking" in said)
        if wanted and not world.promises(target, thinks, request, case.snapshot):
            true.add("thinking")
        assert said == true
        assert entry.reasons


@for_every_case
def test_a_requirement_that_drops_a_target_names_the_facts_that_fail_and_no_others(case: Case) -> None:
    world, request = judged(case)
    told = trace(case.policy, case.signals(), case.snapshot, pinned=case.pinned)
    for target in case.fleet.targets:
        reasons = [one for one in told.reasons.get(target.name, ()) if one.startswith(("forbidden by", "not what c"))]
        for entry in case.raw["constraints"]:
            if entry["id"] not in world.against(target, request) or not isinstance(entry.get("require"), dict):
                continue
            said = reasons[0].partition(f"not what {entry['id']} requires: ")[2].partition(", not what ")[0]
            for name, wanted in entry["require"].items():
                fact = FACT_OF.get(name, name)
                assert (f"{fact} is " in said) is not world.selects({name: wanted}, target, request), (name, said)


@for_every_case
def test_explaining_says_of_every_entry_whether_it_applies(case: Case) -> None:
    world, request = judged(case)
    told = trace(case.policy, case.signals(), case.snapshot, pinned=case.pinned)
    by_id: Mapping[str, Any] = {
        entry["id"]: entry for part in ("rules", "constraints", "thinking") for entry in case.raw[part]
    }
    for entry in (*told.rules, *told.constraints, *told.thinking):
        assert entry.matched is applies(by_id[entry.id].get("when"), request), entry.id
    for entry in told.constraints:
        raw = by_id[entry.id]
        selector = next(raw[effect] for effect in ("forbid", "require", "avoid") if effect in raw)
        expected = [one.name for one in case.fleet.targets if world.selects(selector, one, request)]
        assert list(entry.targets) == (expected if entry.matched else []), entry.id
