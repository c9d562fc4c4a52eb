"""What `analyse` claims of random policies, held against random requests and against what `decide` does."""

from __future__ import annotations

from typing import Any

from fleets import FLEET, policy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core.analyse import analyse
from gateway.core.clauses.findings import Finding
from gateway.core.decide import NO_THINKING, choose_thinking, decide
from gateway.core.policy import Policy
from gateway.core.reading.signals import Signals
from gateway.core.types import Snapshot
from tests.core.analyse.test_space import MEMBERS, REQUESTS, conditions, signals_of

WORLD = Snapshot(0.0, 0.5, FLEET.mask())
SELECTORS: list[Any] = [
    "*",
    {"family": "qwen"},
    {"family": ["llama", "gpt-oss"]},
    {"model": "gpt-oss-120b"},
    {"target.region": {"prefix": "us"}},
    {"target.self_hosted": True},
    {"target.window": {"gte": "300k"}},
    {"model": "llama-3.3-70b"},
]
HARD: list[Any] = [one for one in SELECTORS if one != "*"]
HARD += [[{"model.languages": {"lacks": "$language"}}], {"target.name": "$tenant.team"}]
WISHES = ["never", "always", "client", {"budget": "4k"}]


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A policy of a few rules, constraints and thinking entries; the last rule often takes everything."""
    maybe = st.one_of(st.none(), conditions([*MEMBERS]))

    def entry(identity: str, **more: Any) -> dict[str, Any]:
        when = draw(maybe)
        return {"id": identity, **more} if when is None else {"id": identity, "when": when, **more}

    def use() -> Any:
        return draw(st.lists(st.sampled_from(SELECTORS), min_size=1, max_size=2))

    rules = [entry(f"r{i}", use=use()) for i in range(draw(st.integers(1, 5)))]
    effects = st.sampled_from(["forbid", "require", "avoid"])
    constraints = [
        entry(f"c{i}", **{draw(effects): draw(st.sampled_from(HARD))}) for i in range(draw(st.integers(0, 3)))
    ]
    thinking = [
        entry(f"t{i}", set=draw(st.sampled_from(WISHES)), force=draw(st.booleans()))
        for i in range(draw(st.integers(0, 3)))
    ]
    return {"rules": rules, "constraints": constraints, "thinking": thinking}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(documents(), st.lists(REQUESTS, min_size=1, max_size=20))
def test_no_request_is_decided_by_what_is_called_unreachable(document: dict[str, Any], requests: list[Any]) -> None:
    made = policy(**document)
    found = analyse(made, now=0.0)
    dead = {one.id for one in found if one.code in ("rule-unreachable", "thinking-unreachable")}
    idle = {one.id for one in found if one.code in ("constraint-unreachable",)}
    stuck = {(one.id, one.path) for one in found if one.code == "rung-cannot-serve"}
    covered = any(one.code == "covered" for one in found)
    for request in requests:
        signals = real(request)
        for pinned in (None, FLEET.mask()):
            decision = decide(made, signals, WORLD, pinned=pinned)
            assert decision.rule not in dead
            assert choose_thinking(made, signals, WORLD, pinned is not None).thinking.rule not in dead
        if covered:
            assert decide(made, signals, WORLD).rule is not None
        assert not [
            one for one in (*made.forbids, *made.avoids) if one.id in idle and one.when and one.when.test(signals)
        ]
        unserved(made, decide(made, signals, WORLD), stuck)


def unserved(made: Policy, decision: Any, stuck: set[tuple[str, str]]) -> None:
    """No candidate is from a rung that was called unable, unless another rung has it too."""
    for identity, path in stuck:
        rule = next(one for one in made.rules if one.id == identity)
        rung = rule.rungs[int(path.rpartition("[")[2][:-1])]
        if decision.rule == identity:
            others = [one.mask for one in rule.rungs if one is not rung]
            for target in decision.candidates:
                assert not rung.mask >> target.index & 1 or any(mask >> target.index & 1 for mask in others)


def real(request: dict[str, Any]) -> Signals:
    return signals_of({**request, "context_tokens": max(request["context_tokens"], request["max_output_tokens"] or 0)})


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(documents())
def test_every_example_does_what_its_finding_says(document: dict[str, Any]) -> None:
    made = policy(**document)
    for one in analyse(made, now=0.0):
        if one.witness is not None:
            does(made, one)


def does(made: Policy, one: Finding) -> None:
    signals = Signals.given(one.witness or {})
    decision = decide(made, signals, WORLD)
    rules = {rule.id: rule for rule in made.rules}
    if one.code == "gap":
        assert decision.rule is None
    elif one.code == "rule-shadowed":
        when = rules[one.id].when
        assert when is not None
        assert when.test(signals)
        assert f"`{decision.rule}`" in one.message
    elif one.code == "rule-lacks":
        assert decision.rule == one.id
        assert decision.refusal is not None
        assert decide(made, signals, WORLD, pinned=FLEET.mask()).refusal is None
    elif one.code == "constraint-strands":
        assert decision.refusal is not None
        assert decision.refusal[0] == "policy_denied"
        assert f"`{decision.rule}`" in one.message or "any rule" in one.message
    elif one.code == "thinking-refused":
        assert decision.refusal == NO_THINKING
    else:
        assert one.code == "hint-lifts"


def test_every_code_with_an_example_is_held_to_it() -> None:
    """The property above must not pass because nothing is ever shown."""
    made = policy(rules=[{"id": "r", "when": {"tools": True}, "use": [{"family": "gpt-oss"}]}])
    shown = {one.code for one in analyse(made, now=0.0) if one.witness is not None}
    assert shown == {"gap", "rule-lacks"}
