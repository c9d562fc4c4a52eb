"""What is found of shadows and of latency targets before any request, and that no request proves it wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fleets import FLEET, TARGETS, fleet, policy
from hypothesis import given
from oracle import Request, applies
from test_properties_analyse import Judged
from worlds import NOON, Dice, compiled, condition, drawn, more, selector

from gateway.core.analyse import analyse
from gateway.core.analyse.space import Effort
from gateway.core.clauses.findings import Finding
from gateway.core.decide import decide
from gateway.core.proving.policytest import run_tests
from gateway.core.reading.signals import Signals
from gateway.core.types import Fleet, Snapshot

EU = {"family": "qwen", "target.region": "eu"}


def shadow(identity: str, *use: Any, share: str = "5%", **when: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"id": identity, "use": list(use), "share": share}
    return {**made, "when": when} if when else made


def found(of: Fleet = FLEET, **parts: Any) -> list[Finding]:
    return analyse(policy(of, **{"as_of": "2026-11-21", "tokens_by": "qwen3.5", **parts}))


def told(code: str, of: Fleet = FLEET, **parts: Any) -> list[tuple[str, str, str]]:
    return [(one.id, one.path, one.message) for one in found(of, **parts) if one.code == code]


# Shadows


def test_a_shadow_that_its_constraints_and_targets_never_allow_is_told() -> None:
    constraints = [{"id": "home", "when": {"tenant.team": "health"}, "require": {"target.region": "eu"}}]
    never = shadow("s", {"family": "llama"}, **{"tenant.team": "health"})
    ((identity, path, message),) = told("shadow-unreachable", constraints=constraints, shadow=[never])
    assert (identity, path) == ("s", "shadow[0]")
    assert message == "never copies anything: what it applies to, none of its targets may or can have"
    tools = shadow("s", {"model": "gpt-oss-120b"}, tools=True)
    assert [identity for identity, *_ in told("shadow-unreachable", shadow=[tools])] == ["s"]
    assert not told("shadow-unreachable", constraints=constraints, shadow=[shadow("s", {"family": "llama"})])


def test_with_keys_a_shadow_that_none_of_them_gets_is_told() -> None:
    constraints = [{"id": "home", "when": {"tenant.team": "health"}, "require": {"target.region": "eu"}}]
    made = policy(constraints=constraints, shadow=[shadow("s", {"family": "llama"})], as_of="2026-11-21")
    for team, codes in (("health", {"shadow-unreachable"}), ("shop", set())):
        said = analyse(made, keys={"key": {"team": team}})
        assert {one.code for one in said if one.code == "shadow-unreachable"} == codes


@pytest.mark.parametrize(
    ("use", "when", "code", "path"),
    [
        ([{"model": "gpt-oss-120b"}, {"family": "qwen"}], {"tools": True}, "rung-cannot-serve", "shadow[0].use[0]"),
        ([{"model": "gpt-5"}, {"family": "qwen"}], {}, "rung-closed", "shadow[0].use[0]"),
        ([{"family": "qwen"}, {"model": "qwen3.5-35b-a3b"}], {}, "rung-idle", "shadow[0].use[1]"),
        ([{"family": "qwen"}, {"model": "qwen3.5-plus"}], {"context_tokens": {"gt": "2M"}}, "rung-idle",
         "shadow[0].use[1]"),
    ],
)  # fmt: skip
def test_the_rungs_of_a_shadow_are_judged_as_those_of_a_rule(
    use: list[Any], when: dict[str, Any], code: str, path: str
) -> None:
    (said,) = told(code, shadow=[shadow("s", *use, **when)])
    assert said[:2] == ("s", path)


def test_a_shadow_behind_one_that_copies_all_of_its_requests_is_told() -> None:
    everything = shadow("all", EU, share="100%", task=["code", "math"])
    behind = shadow("behind", {"family": "llama"}, task="code")
    ((identity, path, message),) = told("shadow-hidden", shadow=[everything, behind])
    assert (identity, path) == ("behind", "shadow[1]")
    assert message == "gets only what `all` above it has no target for: that one copies all that both apply to"
    half = {**everything, "share": "50%"}
    beside = shadow("beside", {"family": "llama"}, tools=True)
    for entries in ([half, behind], [everything, beside], [behind, everything]):
        assert not told("shadow-hidden", shadow=entries)


def test_requests_of_which_a_constraint_lets_nothing_be_copied_are_told_with_an_example_that_a_test_takes() -> None:
    parts: dict[str, Any] = {
        "constraints": [{"id": "home", "when": {"tenant.team": "health"}, "require": {"target.region": "eu"}}],
        "shadow": [shadow("s", {"family": "llama"}), shadow("fine", EU)],
    }
    (one,) = [one for one in found(**parts) if one.code == "shadow-strands"]
    assert (one.id, one.severity) == ("s", "info")
    assert one.message == "copies nothing where `home` applies: it leaves none of its targets"
    assert one.witness == {"tenant.team": "health", "drawn": "s"}
    tests = [{"name": "pasted", "given": dict(one.witness), "expect": {"shadow": "none"}}]
    assert [result.passed for result in run_tests(policy(as_of="2026-11-21", tests=tests, **parts))] == [True]


@pytest.mark.parametrize(
    ("use", "rules", "says"),
    [
        ([{"model": "qwen3.5-plus"}], [EU], "copies requests to plus, which is not self-hosted as all targets of the "
         "rules are; no rule sends them there"),
        ([{"family": "llama", "target.self_hosted": True}], [EU], "copies requests to scout (and 1 more), which is "
         "processed in us; no rule sends them there"),
        ([{"model": "llama-3.3-70b"}], [EU, {"model": "qwen3.5-plus"}], "copies requests to llama70, of which nobody "
         "says where it is processed; no rule sends them there"),
    ],
)  # fmt: skip
def test_copies_that_go_where_no_rule_sends_them_are_told(use: list[Any], rules: list[Any], says: str) -> None:
    parts: dict[str, Any] = {"rules": [{"id": "all", "use": rules}], "shadow": [shadow("s", *use)]}
    (one,) = [one for one in found(**parts) if one.code == "shadow-leaves"]
    assert (one.id, one.path, one.message) == ("s", "shadow[0].use", says)
    name = says.split()[3].strip(",")
    tests = [{"name": "pasted", "given": dict(one.witness or {}), "expect": {"shadow": [name, "maverick"]}}]
    assert [result.passed for result in run_tests(policy(as_of="2026-11-21", tests=tests, **parts))] == [True]


def test_copies_that_stay_where_requests_go_are_not_told() -> None:
    rules = [{"id": "code", "when": {"task": "code"}, "use": [EU]}, {"id": "all", "use": ["*"]}]
    assert not told("shadow-leaves", rules=rules, shadow=[shadow("s", {"model": "qwen3.5-plus"})])
    said = told("shadow-leaves", rules=rules, shadow=[shadow("s", {"model": "qwen3.5-plus"}, task="code")])
    assert [identity for identity, *_ in said] == ["s"]


def test_a_target_that_only_a_shadow_uses_is_used_and_told_when_it_is_withdrawn() -> None:
    rules = [{"id": "all", "use": [EU]}]
    plain = told("target-unused", rules=rules)[0][2]
    copied = told("target-unused", rules=rules, shadow=[shadow("s", {"model": "llama-3.3-70b"})])[0][2]
    assert ("llama70" in plain, "llama70" in copied) == (True, False)
    parts: dict[str, Any] = {"rules": rules, "shadow": [shadow("s", {"model": "llama-3.3-70b"})]}
    assert [one.id for one in found(**parts) if one.code == "target-retires"] == ["llama70"]
    assert [one.id for one in found(**parts) if one.code == "target-retired"] == ["gone"]


# Latency targets


def latency(**when: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"id": "soon", "first_event": {"p90": "2s"}}
    return {**made, "when": when} if when else made


def test_a_latency_target_for_rules_of_one_target_is_told() -> None:
    alone = [
        {"id": "code", "when": {"task": "code"}, "use": [{"model": "qwen3-coder-next"}]},
        {"id": "z", "use": ["*"]},
    ]
    ((identity, path, message),) = told("latency-idle", rules=alone, latency=[latency(task="code")])
    assert (identity, path) == ("soon", "latency[0]")
    assert message == "changes nothing: `code`, which it applies to, has one target at most"
    assert not told("latency-idle", rules=alone, latency=[latency()])


def test_targets_that_are_said_to_be_slower_than_asked_are_told() -> None:
    slow = fleet([replace(one, tokens_per_s=12.5) if one.name == "qwen35" else one for one in TARGETS])
    asked = {"id": "quick", "tokens_per_s": {"p50": 20}}
    ((_, path, message),) = told("latency-missed", slow, latency=[asked])
    assert path == "latency[0].tokens_per_s"
    assert message == "asks 20 tokens a second, and targets are said to give less: qwen35 (12.5)"
    assert not told("latency-missed", slow, latency=[{**asked, "tokens_per_s": {"p50": 12}}])


def test_a_first_event_that_is_asked_of_whole_answers_is_told() -> None:
    ((_, path, _),) = told("latency-unstreamed", latency=[latency(stream=False)])
    assert path == "latency[0].first_event"
    assert not told("latency-unstreamed", latency=[latency(task="code")])


# No request proves it wrong


class Copied(Judged):
    """The same with shadows, each of all requests that it applies to."""

    def __init__(self, dice: Dice) -> None:
        super().__init__(dice)
        names = ["task", "tools", "language", "tenant.home"]
        self.raw["shadow"] = [
            shadow(f"s{number}", *(selector(dice, self.fleet, star=2) for _ in range(1 + dice.below(2))), share="100%")
            | ({"when": condition(dice, names, 2)} if dice.chance(7) else {})
            for number in range(1 + dice.below(3))
        ]
        self.policy = compiled(self.raw, self.fleet)


@more()
@given(drawn(Copied))
def test_no_request_proves_a_finding_about_shadows_wrong(judged: Copied) -> None:
    snapshot = Snapshot(now=NOON, draw=0.5, available=judged.fleet.mask())
    said = analyse(judged.policy, now=NOON, effort=Effort(2_000, 20_000))
    never = {one.id for one in said if one.code in ("shadow-unreachable", "shadow-empty")}
    idle = {one.path for one in said if one.code in ("rung-closed", "rung-cannot-serve", "rung-empty")}
    hidden = {one.id: one.message.split("`")[1] for one in said if one.code == "shadow-hidden"}
    entries = {entry["id"]: entry for entry in judged.raw["shadow"]}
    for sent in judged.requests:
        copied = decide(judged.policy, Signals.given(sent), snapshot).shadow
        if copied is None:
            continue
        assert copied.id not in never
        assert copied.id not in hidden or applies(entries[hidden[copied.id]].get("when"), Request(sent))
        place = [entry.id for entry in judged.policy.shadows].index(copied.id)
        for number, rung in enumerate(judged.policy.shadows[place].rungs):
            assert not (rung.mask >> copied.target.index & 1 and f"shadow[{place}].use[{number}]" in idle)
    for one in said:
        if one.code in ("shadow-strands", "shadow-leaves") and one.witness is not None:
            given = {name: value for name, value in one.witness.items() if name != "drawn"}
            decision = decide(judged.policy, Signals.given(given), snapshot)
            assert decision.refusal is None
            assert (decision.shadow is not None and decision.shadow.id == one.id) is (one.code == "shadow-leaves")
