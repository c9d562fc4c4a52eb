"""What is found of a policy on all installations at once: what is told, and that no installation proves it wrong."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from fleets import document
from hypothesis import given
from oracle import Request, World
from test_properties_analyse import Judged
from worlds import MODALITIES, NOON, drawn, more

from gateway.core.analyse import analyse_everywhere
from gateway.core.analyse.imagined import Imagined, imagine
from gateway.core.analyse.space import Effort
from gateway.core.analyse.ways import Way
from gateway.core.clauses.findings import EVERYWHERE, Finding
from gateway.core.decide import decide
from gateway.core.policy import PolicyDoc, compile_policy
from gateway.core.reading.signals import Signals
from gateway.core.terms import Terms
from gateway.core.types import Backend, Fleet, Model, Price, PriceTier, Snapshot, Target

BACKEND = Backend("", "openai", ())


def way(model: Model, providers: frozenset[str] | None = None, **parts: Any) -> Way:
    said: dict[str, Any] = {
        "window": model.window or 128_000,
        "modalities": model.modalities | {"audio"},
        "tools": True,
        "structured_output": True,
        "thinking": "switchable",
        "typical_output_tokens": 1,
        "price": Price((PriceTier(0, 0, 0),), "any"),
    }
    return Way(Target(model.id, 0, model, BACKEND, model.id, **{**said, **parts}), providers)


SCOUT = Model(
    "llama-4-scout", "llama", window=10_000_000, modalities=frozenset({"text", "image"}), open_weights=True,
    params_active_b=17, params_total_b=109, license="llama4", terms=Terms(osi_approved=False), tokenizer="llama4",
)  # fmt: skip
QWEN = Model(
    "qwen3.5-35b-a3b", "qwen", window=262_144, open_weights=True, params_active_b=3, params_total_b=35,
    license="Apache-2.0", terms=Terms(osi_approved=True), tokenizer="qwen3.5",
)  # fmt: skip
PLUS = Model("qwen3.5-plus", "qwen", window=1_000_000, open_weights=False, tokenizer="qwen3.5")
OLD = Model("qwen-old", "qwen", window=32_000, open_weights=False)
NOBODYS = Model("qwen-gone", "qwen", window=32_000, open_weights=False)
MODELS = {one.id: one for one in (SCOUT, QWEN, PLUS, OLD, NOBODYS)}
WAYS = (
    way(SCOUT),
    way(QWEN),
    way(PLUS, frozenset({"dashscope", "openrouter"}), max_output=65_536),
    way(OLD, frozenset({"dashscope"}), retires_on=date(2026, 11, 30)),
)
PROVIDERS = frozenset({"dashscope", "openrouter", "groq"})


def made(**parts: Any) -> Imagined:
    return imagine(PolicyDoc.model_validate(document(**parts)), WAYS, MODELS, digest="0")


def found(now: float = NOON, **parts: Any) -> list[Finding]:
    return analyse_everywhere(made(**parts), now=now, providers=PROVIDERS)


def told(code: str, **parts: Any) -> list[tuple[str, str, str, str]]:
    return [(one.id, one.path, one.message, one.fix) for one in found(**parts) if one.code == code]


LAST = {"id": "last", "use": [{"family": "*"}]}


def rule(*use: Any, **when: Any) -> dict[str, Any]:
    return {"id": "r", "when": when or {"task": "code"}, "use": list(use)}


@pytest.mark.parametrize(
    ("rung", "at", "fix"),
    [
        ({"family": "qwen", "model.params_active_b": {"gte": 500}}, ".model.params_active_b",
         "without `model.params_active_b: {gte: 500}`: qwen3.5-35b-a3b, qwen3.5-plus, qwen-old, with 3"),
        ({"family": "qwen", "target.window": {"gte": "2M"}}, ".target.window",
         "without `target.window: {gte: 2M}`: qwen3.5-35b-a3b, qwen3.5-plus, qwen-old, where 1,000,000 are the most"),
        ({"model": "qwen3.5-plus", "target.self_hosted": True}, ".target.self_hosted",
         "without `target.self_hosted: true`: qwen3.5-plus"),
        ({"model": "qwen3.5-plus", "target.provider": "groq"}, ".target.provider",
         "without `target.provider: groq`: qwen3.5-plus"),
        ({"model": "llama-4-scout", "target.memory_needed_gb": {"lt": 20}}, ".target.memory_needed_gb",
         "without `target.memory_needed_gb: {lt: 20}`: llama-4-scout, where 45.6 is the least"),
        ({"family": "llama", "target.output_usd": {"lt": 0}}, ".target.output_usd",
         "without `target.output_usd: {lt: 0}`: llama-4-scout"),
        ({"family": "llama", "license.osi_approved": True}, ".license.osi_approved",
         "without `license.osi_approved: true`: llama-4-scout"),
        ({"family": "llama", "model.modalities": "video"}, ".model.modalities",
         "without `model.modalities: video`: llama-4-scout"),
        ({"target.region": {"any": [{"in": ["eu", "us"]}], "not": ["eu", "us"]}}, ".target.region",
         "without `target.region: {any: [{in: [eu, us]}], not: [eu, us]}`: llama-4-scout, qwen3.5-35b-a3b, qwen3.5-plus"
         " and 1 more"),
    ],
)  # fmt: skip
def test_a_rung_that_nothing_known_could_be_in_is_told_with_what_is_to_blame(
    rung: dict[str, Any], at: str, fix: str
) -> None:
    ((identity, path, _, said),) = told("rung-impossible", rules=[rule(rung, {"family": "*"}), LAST])
    assert (identity, path, said) == ("r", f"rules[0].use[0]{at}", fix)


@pytest.mark.parametrize(
    "rung",
    [
        {"family": "qwen", "target.window": {"gte": "1M"}},
        {"family": "llama", "target.window": {"lt": "32k"}},  # an installation may serve less
        {"family": "*", "target.region": "mars", "target.country": "MA", "target.jurisdiction": {"not": "US"}},
        {"model": "qwen3.5-plus", "target.provider": ["openrouter", "groq"], "target.self_hosted": False},
        {"model": "llama-4-scout", "target.provider": "groq"},  # weights that are open may be rented from anybody
        {"model": "llama-4-scout", "target.memory_gb": {"lte": 48}, "target.memory_needed_gb": {"lte": 48}},
        {"model": "qwen3.5-plus", "target.max_output": {"lte": "65536"}, "target.priced": True},
        {"family": "*", "target.input_usd": {"lt": 0.01}, "target.thinking": "never", "target.name": "mine"},
        {"family": "*", "target.input_usd": {"known": True}, "target.retires_on": {"known": True}},
        {"family": "*", "target.modalities": {"not": {"eq": "text"}}},  # or with one that no policy names
    ],
)
def test_what_some_installation_could_have_is_not_told(rung: dict[str, Any]) -> None:
    assert not told("rung-impossible", rules=[rule(rung, {"family": "*"}), LAST])


def test_a_rung_and_a_constraint_that_no_place_satisfies_together_are_told() -> None:
    constraints = [{"id": "home", "require": {"target.region": {"any": ["eu", {"prefix": "eu-"}]}}}]
    rules = [rule({"target.region": {"prefix": "us"}}, {"target.region": "eu-central-1"}), LAST]
    ((identity, path, _, _),) = told("rung-closed", constraints=constraints, rules=rules)
    assert (identity, path) == ("r", "rules[0].use[0]")
    forbids = [{"id": "no-own", "forbid": {"target.self_hosted": True}}]
    rules = [rule({"target.self_hosted": True}, "*"), LAST]
    ((_, path, _, _),) = told("rung-closed", constraints=forbids, rules=rules)
    assert path == "rules[0].use[0]"


def test_requests_that_a_constraint_leaves_nothing_for_on_any_installation_are_told_with_an_example() -> None:
    constraints = [{"id": "osi", "when": {"tenant.licence": "strict"}, "require": {"license.osi_approved": True}}]
    (one,) = [
        one
        for one in found(constraints=constraints, rules=[rule({"family": "llama"}), LAST])
        if one.code == "constraint-strands"
    ]
    assert (one.id, one.message) == ("osi", "leaves no target for `r`: such requests are refused")
    assert one.witness == {"tenant.licence": "strict", "task": "code"}


def test_where_an_installation_may_be_anywhere_no_place_is_missing() -> None:
    constraints = [
        {"id": "a-home", "when": {"tenant.home": {"known": True}}, "require": {"target.country": "$tenant.home"}},
        {"id": "b-eu", "when": {"tenant.home": "eu"}, "forbid": {"target.region": {"known": False}}},
    ]
    rules = [rule("*", residency={"known": True}), LAST]
    codes = {one.code for one in found(constraints=constraints, rules=rules) if one.severity in ("warning", "error")}
    assert codes <= {"family-locked", "hint-lifts"}


def test_a_length_that_nothing_known_holds_is_told() -> None:
    ((_, path, message, _),) = told("rung-cannot-serve", rules=[rule("*", context_tokens={"gt": "20M"}), LAST])
    assert path == "rules[0].use[0]"
    assert message == "cannot hold what its rule admits: 20,000,001 tokens and more, the widest window is 10,000,000"


@pytest.mark.parametrize(
    ("model", "days", "code", "says"),
    [
        ("qwen-old", 0, "model-retires", "; its last offer will be withdrawn on 2026-11-30"),
        ("qwen-old", 9, "model-retired", "; its last offer was withdrawn on 2026-11-30"),
        ("qwen-gone", 0, "model-retired", " and offered by nobody"),
    ],
)  # fmt: skip
def test_a_model_that_nobody_offers_any_more_is_told_where_it_is_named(
    model: str, days: int, code: str, says: str
) -> None:
    said = [
        one
        for one in found(NOON + days * 86_400, sets={"s": [model, "qwen3.5-plus"]}, rules=[rule({"model": "@s"}), LAST])
        if one.code in EVERYWHERE
    ]
    assert [(one.code, one.path, one.message) for one in said] == [
        (code, "rules[0].use[0].model", f"names {model}, which is API only{says}")
    ]


def test_a_negated_fact_that_an_installation_may_leave_out_is_warned_of() -> None:
    constraints = [
        {"id": "place", "forbid": {"target.region": {"not": "eu"}}},
        {"id": "licence", "forbid": {"model.license": {"not": ["MIT", "Apache-2.0"]}}},
        {"id": "both", "forbid": [{"target.region": {"not": "eu"}}, {"target.region": {"known": False}}]},
    ]
    said = [one for one in found(constraints=constraints, rules=[LAST]) if one.code == "leak-unknown"]
    assert [(one.id, one.severity, one.message) for one in said] == [
        ("place", "warning", "does not reach targets whose target.region is not known, on any installation that does "
         "not say it"),
        ("licence", "warning", "does not reach targets whose model.license is not known: qwen3.5-plus, qwen-old"),
    ]  # fmt: skip


def test_names_of_providers_and_dialects_are_judged_and_those_of_targets_are_not() -> None:
    rung = {"family": "*", "target.provider": "dashscop", "target.dialect": ["vlmm", "house"], "target.name": "mine"}
    assert [(path, fix) for _, path, _, fix in told("name-unknown", rules=[rule(rung, "*"), LAST])] == [
        ("rules[0].use[0].target.provider", "did you mean dashscope?"),
        ("rules[0].use[0].target.dialect", "did you mean vllm?"),
    ]


def test_a_rung_that_asks_for_less_than_one_before_it_adds_nothing() -> None:
    wide, narrow = {"family": "qwen"}, {"family": "qwen", "target.window": {"gte": "200k"}}
    ((_, path, _, _),) = told("rung-idle", rules=[rule(wide, narrow, "*"), LAST])
    assert path == "rules[0].use[1]"
    assert not told("rung-idle", rules=[rule(narrow, wide, "*"), LAST])


def test_what_the_policy_accepts_is_accepted_and_what_only_a_fleet_shows_is_not_called_unused() -> None:
    accept = [
        {"finding": "rung-impossible", "id": "r", "because": "next year"},
        {"finding": "target-unpriced", "id": "mine", "because": "free"},
    ]
    said = found(accept=accept, rules=[rule({"family": "qwen", "target.window": {"gte": "2M"}}, "*"), LAST])
    assert [one.accepted for one in said if one.code == "rung-impossible"] == ["next year"]
    assert "accept-unused" not in {one.code for one in said}


# No installation proves it wrong


def ways_of(fleet: Fleet) -> tuple[Way, ...]:
    """Ways that the targets of a fleet are cases of, each as good as any of its model."""
    found = []
    for model in fleet.models.values():
        windows = [target.window for target in fleet.targets if target.model.id == model.id]
        reads = model.modalities | set(MODALITIES)
        found.append(way(model, frozenset() if model.open_weights is False else None,
                         window=max([5000, model.window or 0, *windows]), modalities=reads))  # fmt: skip
    return tuple(found)


def as_it_can_be(fleet: Fleet) -> Fleet:
    """A fleet without targets that serve an API's model by themselves."""
    kept = [one for one in fleet.targets if not (one.backend.self_hosted and one.model.open_weights is False)]
    return Fleet(tuple(replace(one, index=index) for index, one in enumerate(kept)), fleet.models)


@more()
@given(drawn(Judged))
def test_what_any_fleet_serves_is_served_where_all_of_them_are_imagined(judged: Judged) -> None:
    fleet = as_it_can_be(judged.fleet)
    doc = PolicyDoc.model_validate(judged.raw)
    everywhere = imagine(doc, ways_of(fleet), fleet.models, digest="0")
    policy = compile_policy(doc, fleet, digest="0")
    here = Snapshot(now=NOON, draw=0.5, available=fleet.mask())
    there = Snapshot(now=NOON, draw=0.5, available=everywhere.policy.fleet.mask())
    said = analyse_everywhere(everywhere, now=NOON, effort=Effort(2_000, 20_000))
    never = {one.path for one in said if one.code in ("rung-impossible", "rung-closed", "rung-cannot-serve")}
    idle = {one.path for one in said if one.code == "rung-idle"}
    empty = {one.id for one in said if one.code == "rule-empty"}
    world = World(judged.raw, fleet)
    for sent in judged.requests:
        served = decide(policy, Signals.given(sent), here)
        models = {target.model.id for target in served.candidates}
        could = decide(everywhere.policy, Signals.given(sent), there)
        assert models <= {target.model.id for target in could.candidates}
        assert not (models and served.rule in empty)
        for number, entry in enumerate(judged.raw["rules"]):
            if entry["id"] != served.rule:
                continue
            for one in served.candidates:
                held = world.rungs(one, Request(sent), entry["use"])
                assert f"rules[{number}].use[{held[0]}]" not in idle
                for rung in held:
                    path = f"rules[{number}].use[{rung}]"
                    assert not any(at == path or at.startswith(f"{path}.") for at in never)
