"""Every code of a finding: a policy that shows it, and the smallest change after which it is gone."""
# ruff: noqa: E501 - a table

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fleets import FLEET, fleet, policy, target

from gateway.core.analyse import analyse, leaks
from gateway.core.analyse.space import Effort
from gateway.core.clauses.findings import CODES, EVERYWHERE, Finding
from gateway.core.decide import decide
from gateway.core.errors import ConfigError
from gateway.core.reading.signals import Signals
from gateway.core.types import Fleet, Snapshot

CROSSING = [{"family": "qwen"}, {"family": "*"}]
Z = {"id": "z", "use": ["*"]}
WEST = {"target.region": {"not": {"prefix": "us"}}}
#: Codes of findings about the whole configuration, which tests/check shows.
OF_CONFIGURATION = {
    "alias-refused",
    "alias-shadows",
    "allow-refused",
    "budget-unheeded",
    "budget-unpriced",
    "place-unmet",
    "tenant-unread",
}
ONE_FAMILY = fleet([target("scout", "llama-4-scout", "us", 1_000_000, (0.2, 0.6))])
TWO_PLACES = fleet([target("scout", "llama-4-scout", "us", 1_000_000, (0.2, 0.6)),
                    target("other", "qwen3.5-35b-a3b", "us", 1_000_000, (0.2, 0.6)),
                    target("plus", "qwen3.5-plus", "ap", 1_000_000, (0.4, 2.4))])  # fmt: skip
TWO_PLACES = Fleet(
    tuple(
        replace(one, backend=replace(one.backend, name="us2")) if one.name == "other" else one
        for one in TWO_PLACES.targets
    ),
    TWO_PLACES.models,
)
SLOW = fleet([replace(one, tokens_per_s=9.0) for one in FLEET.targets])


def rule(identity: str, use: Any = None, **when: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"id": identity, "use": use or CROSSING}
    return {**made, "when": when} if when else made


def forbid(select: Any, **when: Any) -> dict[str, Any]:
    made = {"id": "c", "forbid": select}
    return {**made, "when": when} if when else made


def thinking(wish: Any, *, force: bool = False, **when: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"id": "t", "set": wish, "force": force}
    return {**made, "when": when} if when else made


def parts(**more: Any) -> dict[str, Any]:
    return {"as_of": "2026-11-21", "tokens_by": "qwen3.5", "rules": [rule("r"), *more.pop("after", [])], **more}


def shadow(**when: Any) -> dict[str, Any]:
    return {"id": "s", "use": ["*"], "share": "5%"} | ({"when": when} if when else {})


def latency(**when: Any) -> dict[str, Any]:
    return {"id": "l", "when": when, "first_event": {"p90": "2s"}}


IMPOSSIBLE = {"images": {"gt": 5, "lt": 2}}
KEYS = {"keys": {"shop": {"cloud": "western", "team": "x"}}}
LLAMA70 = [{"model": "llama-3.3-70b"}]
OSS = [{"model": "gpt-oss-120b"}]

#: code, id; parts that show it, parts that do not. `keys` are facts of keys, `fleet` another fleet than the usual one.
TABLE: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("leak-unknown", "c", {"constraints": [forbid(WEST)]}, {"constraints": [forbid([WEST, {"target.region": {"known": False}}])]}),
    ("rule-unreachable", "b", {"rules": [rule("a", task=["code", "math"]), rule("b", task="code"), Z]},
     {"rules": [rule("a", task=["math"]), rule("b", task="code"), Z]}),
    ("thinking-unreachable", "t", {"thinking": [{"id": "all", "set": "never"}, thinking("always", effort="high")]},
     {"thinking": [{"id": "all", "set": "never"}, thinking("always", force=True, effort="high")]}),
    ("constraint-unreachable", "c", {"constraints": [forbid({"family": "llama"}, **IMPOSSIBLE)]},
     {"constraints": [forbid({"family": "llama"}, images={"gt": 5})]}),
    ("shadow-unreachable", "s", {"shadow": [shadow(**IMPOSSIBLE)]}, {"shadow": [shadow(images={"gt": 5})]}),
    ("latency-unreachable", "l", {"latency": [latency(**IMPOSSIBLE)]}, {"latency": [latency(images={"gt": 5})]}),
    ("rule-shadowed", "b", {"rules": [rule("a", tools=True), rule("b", ["*"], task="code"), Z]},
     {"rules": [rule("a", tools=True), rule("b", ["*"], task="code", tools=False), Z]}),
    ("gap", "test", {"rules": [rule("a", tools=True)]}, {"rules": [rule("a", tools=True), rule("b", tools=False)]}),
    ("rule-empty", "r", {"rules": [rule("r", [{"target.region": "mars"}])]}, {}),
    ("rung-empty", "r", {"rules": [rule("r", [{"target.window": {"gt": "9M"}}, *CROSSING])]}, {}),
    ("shadow-empty", "s", {"shadow": [{**shadow(tools=True), "use": [{"target.region": "mars"}]}]},
     {"shadow": [{**shadow(tools=True), "use": [{"target.region": "mars"}, "*"]}]}),
    ("shadow-empty", "s", {"shadow": [{**shadow(tools=True), "use": [{"family": "gpt"}]}]},
     {"allow_closed": ["qwen", "gpt"], "shadow": [{**shadow(tools=True), "use": [{"family": "gpt"}]}]}),
    ("shadow-hidden", "s", {"shadow": [{**shadow(), "id": "all", "share": "100%"}, shadow(tools=True)]},
     {"shadow": [{**shadow(), "id": "all", "share": "99%"}, shadow(tools=True)]}),
    ("shadow-leaves", "s", {"rules": [rule("r", [{"target.region": "eu"}])], "shadow": [shadow(tools=True)]}, {"shadow": [shadow(tools=True)]}),
    ("shadow-strands", "s", {"constraints": [forbid({"family": "llama"}, images=2)], "shadow": [{**shadow(tools=True), "use": [{"family": "llama"}]}]},
     {"constraints": [forbid({"family": "llama"}, images=2)], "shadow": [shadow(tools=True)]}),
    ("latency-idle", "l", {"rules": [rule("r", [{"model": "qwen3-coder-next"}])], "latency": [latency(tools=True)]}, {"latency": [latency(tools=True)]}),
    ("latency-missed", "l", {"fleet": SLOW, "latency": [{"id": "l", "tokens_per_s": {"p50": 20}}]},
     {"fleet": SLOW, "latency": [{"id": "l", "tokens_per_s": {"p50": 5}}]}),
    ("latency-unstreamed", "l", {"latency": [latency(stream=False)]}, {"latency": [latency(stream=True)]}),
    ("weight-outside", "r", {"rules": [rule("r", [{"family": "qwen", "rank": "weighted", "weights": {"scout": 5, "qwen3.5-35b-a3b": 95}}, "*"])]},
     {"rules": [rule("r", [{"family": "*", "rank": "weighted", "weights": {"scout": 5, "qwen3.5-35b-a3b": 95}}, "*"])]}),
    ("rung-closed", "r", {"rules": [rule("r", [{"family": "gpt"}, *CROSSING])]},
     {"rules": [rule("r", [{"family": "gpt"}, *CROSSING])], "allow_closed": ["qwen", "gpt"]}),
    ("rung-idle", "r", {"rules": [rule("r", ["*", {"family": "qwen"}])]}, {}),
    ("rung-cannot-serve", "r", {"rules": [rule("r", [*OSS, "*"], tools=True), Z]},
     {"rules": [rule("r", [*OSS, "*"], tools=False), Z]}),
    ("target-cannot-serve", "r", {"rules": [rule("r", [{"model": "llama-4-scout"}, "*"], context_tokens={"gt": "500k"}), Z]},
     {"rules": [rule("r", [{"target.name": "scout"}, "*"], context_tokens={"gt": "500k"}), Z]}),
    ("rule-lacks", "r", {"rules": [rule("r", [{"family": ["llama", "gpt-oss"]}])]}, {}),
    ("constraint-strands", "c", {"rules": [rule("r", LLAMA70)], "constraints": [forbid({"family": "llama"}, tools=True)]},
     {"constraints": [forbid({"family": "llama"}, tools=True)]}),
    ("constraint-empty", "c", {"constraints": [forbid({"target.name": "nobody"})]}, {"constraints": [forbid({"target.name": "oss"})]}),
    ("constraint-everything", "c", {"constraints": [forbid("*")]}, {"constraints": [forbid("*", tools=True)]}),
    ("require-unknown", "c", {"constraints": [{"id": "c", "require": {"target.region": {"prefix": "us"}}}]},
     {"constraints": [{"id": "c", "require": {"target.self_hosted": True}}]}),
    ("hint-lifts", "c", {"constraints": [forbid({"family": "gpt"}, any=[{"headers.x-pass": {"known": False}}, {"headers.x-pass": {"not": "yes"}}])]},
     {"constraints": [forbid({"family": "gpt"}, **{"tenant.pass": {"known": False}})]}),
    ("hint-binds", "c", {"constraints": [forbid({"family": "gpt"}, workload="secret")]},
     {"constraints": [forbid({"family": "gpt"}, **{"tenant.workload": "secret"})]}),
    ("avoid-must", "c", {"constraints": [{"id": "c", "because": "data must not leave", "avoid": {"family": "llama"}}]},
     {"constraints": [{"id": "c", "because": "dearer than others", "avoid": {"family": "llama"}}]}),
    ("tenant-unset", "test", {**KEYS, "rules": [rule("r", **{"tenant.domicile": "DE"}), Z]},
     {**KEYS, "rules": [rule("r", **{"tenant.cloud": "western"}), Z]}),
    ("tenant-unmatched", "shop", {"keys": {"shop": {"cloud": "Western"}}, "rules": [rule("r", **{"tenant.cloud": "western"}), Z]},
     {"keys": {"shop": {"cloud": "eastern"}}, "rules": [rule("r", **{"tenant.cloud": "western"}), Z]}),
    ("tenant-unmet", "c", {**KEYS, "constraints": [forbid({"family": "llama"}, **{"tenant.cloud": ["western", "apac"]})]},
     {**KEYS, "constraints": [forbid({"family": "llama"}, **{"tenant.cloud": "western"})]}),
    ("family-locked", "r", {"rules": [rule("r", [{"family": "llama"}])]}, {}),
    ("backend-locked", "r", {"rules": [rule("r", [{"target.backend": "us"}])]}, {}),
    ("region-locked", "r", {"fleet": TWO_PLACES, "rules": [rule("r", [{"target.region": "us-east-1"}])]}, {"fleet": TWO_PLACES}),
    ("thinking-refused", "t", {"rules": [rule("r", OSS)], "thinking": [thinking("never")]}, {"thinking": [thinking("never")]}),
    ("thinking-narrows", "t", {"thinking": [thinking("never")]}, {"thinking": [thinking("client")]}),
    ("thinking-unheard", "t", {"rules": [rule("r", LLAMA70)], "thinking": [thinking("always")]}, {"thinking": [thinking("always")]}),
    ("thinking-overruled", "t", {"thinking": [thinking("never", effort="high")]},
     {"thinking": [thinking("never", force=True, effort="high")]}),
    ("target-retired", "gone", {}, {"rules": [rule("r", [{"family": "qwen"}, {"family": "gpt-oss"}])]}),
    ("target-retires", "llama70", {}, {"rules": [rule("r", [{"family": "qwen"}, {"family": "gpt-oss"}])]}),
    ("target-unpriced", "oss", {"rank": "cheapest"}, {"rank": "listed"}),
    ("target-unused", "test", {"rules": [rule("r", [{"family": "qwen"}])]}, {}),
    ("name-unknown", "r", {"rules": [rule("r", [{"target.region": "us-west-7"}, "*"])]},
     {"rules": [rule("r", [{"target.region": "us-east-1"}, "*"])]}),
    ("set-unserved", "s", {"sets": {"s": ["gpt-5"]}, "fleet": ONE_FAMILY}, {"sets": {"s": ["llama-4-scout"]}, "fleet": ONE_FAMILY}),
    ("set-unused", "s", {"sets": {"s": ["gpt-5"]}}, {"sets": {"s": ["gpt-5"]}, "rules": [rule("r", [{"model": "@s"}, "*"])]}),
    ("no-tokenizer", "test", {"tokens_by": None, "rules": [rule("r", context_tokens={"gt": 5}), Z]}, {"tokens_by": None}),
    ("no-tests", "test", {}, {"tests": [{"name": "t", "expect": {"rule": "r"}}]}),
    ("accept-unused", "r", {"accept": [{"finding": "rung-idle", "id": "r", "because": "it was"}]}, {}),
    ("undecided", "test", {"effort": 30, "rules": [rule(f"r{i}", **{f"tenant.f{i}": "v"}) for i in range(9)]}, {}),
    ("covered", "test", {}, {"rules": [rule("a", tools=True)]}),
    ("crosses-families", "test", {}, {"rules": [rule("r", [{"family": "llama"}])]}),
    ("constraints-bind", "test", {"constraints": [forbid({"family": "gpt"})]}, {}),
]  # fmt: skip


def findings(**more: Any) -> list[Finding]:
    on: Fleet = more.pop("fleet", FLEET)
    keys = more.pop("keys", None)
    effort = more.pop("effort", None)
    return analyse(policy(on, **parts(**more)), keys=keys, effort=None if effort is None else Effort(effort))


@pytest.mark.parametrize(("code", "identity", "shows", "without"), TABLE, ids=[row[0] for row in TABLE])
def test_a_finding_is_told_and_goes_with_its_reason(
    code: str, identity: str, shows: dict[str, Any], without: dict[str, Any]
) -> None:
    told = [one for one in findings(**shows) if one.code == code]
    assert [one.id for one in told] == [identity]
    assert told[0].path or code in ("target-retired", "target-retires", "target-unpriced", "tenant-unset", "undecided")
    assert not [one for one in findings(**without) if one.code == code and one.id == identity]


def test_every_code_is_shown() -> None:
    assert {row[0] for row in TABLE} | OF_CONFIGURATION | EVERYWHERE == set(CODES)  # the last: test_everywhere.py


# What examples do


def example(code: str, **more: Any) -> tuple[Any, Any]:
    (found,) = [one for one in findings(**more) if one.code == code]
    assert found.witness is not None
    made = policy(**parts(**more))
    return found.witness, decide(made, Signals.given(found.witness), Snapshot(0.0, 0.5, FLEET.mask()))


def test_what_a_rule_lacks_is_shown_kind_by_kind() -> None:
    more: dict[str, Any] = {"rules": [rule("r", OSS)]}
    lacking = [one for one in findings(**more) if one.code == "rule-lacks"]
    assert [(one.message.partition(",")[0], one.witness) for one in lacking] == [
        ("refuses requests with tools", {"tools": True}),
        ("refuses requests with structured output", {"structured_output": "json_object"}),
        ("refuses requests with image", {"images": 1, "modality": ["image", "text"]}),
        ("refuses requests with video", {"modality": ["text", "video"]}),
        ("refuses requests with more than 131", {"context_tokens": 131_073}),
    ]
    made = policy(**parts(**more))
    for one in lacking:
        assert decide(made, Signals.given(one.witness or {}), Snapshot(0.0, 0.5, FLEET.mask())).refusal is not None


def test_a_stranding_of_two_constraints_names_both_and_shows_it() -> None:
    more: dict[str, Any] = {
        "rules": [rule("r", [{"family": "llama"}, {"model": "qwen3.5-35b-a3b"}])],
        "constraints": [
            {"id": "no-llama", "when": {"tools": True}, "forbid": {"family": "llama"}},
            {"id": "no-qwen", "when": {"tenant.home": "us"}, "forbid": {"family": "qwen"}},
        ],
    }
    given, decision = example("constraint-strands", **more)
    assert given == {"tools": True, "tenant.home": "us"}
    assert decision.refusal[0] == "policy_denied"
    (found,) = [one for one in findings(**more) if one.code == "constraint-strands"]
    assert found.message.startswith("together with `no-qwen` leaves no target for `r`")


def test_only_what_a_key_can_be_is_stranded() -> None:
    more: dict[str, Any] = {
        "rules": [rule("r", LLAMA70)],
        "constraints": [forbid({"family": "llama"}, **{"tenant.home": "us"})],
    }
    assert [one.severity for one in findings(**more) if one.code == "constraint-strands"] == ["info"]
    at_home = findings(**more, keys={"k": {"home": "us"}})
    (told,) = [one for one in at_home if one.code == "constraint-strands"]
    assert told.severity == "warning"
    assert told.witness == {"tenant.home": "us"}
    abroad = findings(**more, keys={"k": {"home": "eu"}})
    assert not [one for one in abroad if one.code == "constraint-strands"]


def test_a_variable_strands_as_well() -> None:
    home = {"target.region": {"not": "$tenant.home"}}
    more: dict[str, Any] = {
        "rules": [rule("r", [{"target.region": "eu"}])],
        "constraints": [forbid([home, {"target.region": {"known": False}}], **{"tenant.home": {"known": True}})],
    }
    given, _ = example("constraint-strands", **more)
    assert given["tenant.home"] != "eu"


def test_a_lifted_constraint_shows_the_header_that_lifts_it() -> None:
    select = {"family": "llama"}
    (told,) = [
        one
        for one in findings(constraints=[forbid(select, **{"not": {"cost_sensitive": True}})])
        if one.code == "hint-lifts"
    ]
    assert told.witness == {"cost_sensitive": True}
    assert told.message == "does not apply where a client sends cost_sensitive: true"


WORKLOAD: dict[str, Any] = {"any": [{"workload": {"known": False}}, {"workload": {"not": "vetted"}}]}
ABROAD: dict[str, Any] = {"any": [{"region": {"known": False}}, {"region": {"not": "eu"}}]}
SECRET = {"workload": "secret"}


@pytest.mark.parametrize(
    ("when", "keys", "told"),
    [
        (WORKLOAD, None, "hint-lifts"),
        (WORKLOAD, {"a": {"workload": "bulk"}}, ""),
        (WORKLOAD, {"a": {"workload": "bulk"}, "b": {"team": "x"}}, "hint-lifts"),
        ({**WORKLOAD, "tenant.team": "x"}, {"a": {"workload": "bulk", "team": "x"}, "b": {"team": "y"}}, ""),
        ({**WORKLOAD, "tenant.team": "x"}, {"a": {"workload": "bulk", "team": "y"}, "b": {"team": "x"}}, "hint-lifts"),
        (SECRET, None, "hint-binds"),
        (SECRET, {"a": {"team": "x"}}, "hint-binds"),
        (SECRET, {"a": {"workload": "secret"}}, ""),
        (SECRET, {"a": {"workload": "secret"}, "b": {"team": "x"}}, ""),
        (SECRET, {"a": {"workload": "bulk"}, "b": {"team": "x"}}, "hint-binds"),
        ({"not": {"cost_sensitive": True}}, {"a": {"cost": "low"}}, ""),
        ({"not": {"cost_sensitive": True}}, {"a": {"cost": "low"}, "b": {"team": "x"}}, "hint-lifts"),
        ({"not": {"cost_sensitive": True}}, {"a": {"cost_sensitive": "no"}}, "hint-lifts"),
        (ABROAD, {"a": {"team": "x"}}, "hint-lifts"),
        (ABROAD, {"a": {"region": "us"}}, ""),
        ({"conversation": {"known": False}}, {"a": {"conversation": "c"}}, "hint-lifts"),
        ({"headers.x-pass": {"known": False}}, {"a": {"headers.x-pass": "no"}}, "hint-lifts"),
    ],
)
def test_a_hint_lifts_nothing_of_a_key_that_says_it_itself(when: Any, keys: Any, told: str) -> None:
    found = findings(constraints=[forbid({"family": "llama"}, **when)], keys=keys)
    assert [one.code for one in found if one.code.startswith("hint-")] == ([told] if told else [])


def test_a_target_that_is_excluded_by_what_else_is_said_does_not_leak() -> None:
    """Three targets have no region; of these only those that are self-hosted would be meant, and none is."""
    assert leaks(policy(constraints=[forbid({**WEST, "target.self_hosted": True})])) == []
    assert len(leaks(policy(constraints=[forbid({**WEST, "target.self_hosted": False})]))) == 1


def test_a_shadowed_rule_shows_a_request_that_both_would_take() -> None:
    given, decision = example("rule-shadowed", rules=[rule("a", tools=True), rule("b", ["*"], task="code"), Z])
    assert given == {"task": "code", "tools": True}
    assert decision.rule == "a"


def test_rules_that_go_the_same_way_do_not_shadow_each_other() -> None:
    found = findings(rules=[rule("a", tools=True), rule("b", task="code"), Z])
    assert not [one for one in found if one.code == "rule-shadowed"]


def test_a_forced_entry_under_all_others_still_binds_pins() -> None:
    found = findings(thinking=[{"id": "all", "set": "never"}, thinking("client", force=True)])
    assert not [one for one in found if one.code == "thinking-unreachable"]


# Accepting


def test_what_is_accepted_says_why_and_an_error_no_longer_stops_a_start() -> None:
    accept = [{"finding": "leak-unknown", "id": "c", "because": "they are ours"}]
    accepted = policy(constraints=[forbid(WEST)], accept=accept)
    assert [one.accepted for one in analyse(accepted) if one.code == "leak-unknown"] == ["they are ours"]
    assert leaks(accepted) == []
    assert [one.code for one in leaks(policy(constraints=[forbid(WEST)]))] == ["leak-unknown"]


def test_only_codes_that_exist_can_be_accepted() -> None:
    from pydantic import ValidationError

    with pytest.raises((ConfigError, ValidationError), match="is no finding"):
        policy(accept=[{"finding": "rung-idel", "id": "r", "because": "so"}])


# Hostile policies


def test_a_policy_of_many_rules_is_judged_with_bounded_effort() -> None:
    many = [
        rule(f"r{i}", **{"tenant.team": [f"t{(i * 7 + j) % 997}" for j in range(40)], "context_tokens": {"gt": i}})
        for i in range(250)
    ]
    effort = Effort(2_000, 60_000)
    found = analyse(policy(**parts(rules=[*many, Z])), effort=effort)
    assert effort.left < 100
    told = [one for one in found if one.code == "undecided"]
    assert told
    assert "not decided within the effort spent" in told[0].message
    assert not [one for one in found if one.code == "rule-unreachable" and one.id == "z"]
