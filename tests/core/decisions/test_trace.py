"""The trace says why, says it of everything, and says nothing that `decide` does not do."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from fleets import BACKENDS, CATALOGUE, FLEET, NOON, fleet, given, mask, policy, price, snapshot
from hypothesis import given as example_of
from hypothesis import strategies as st

from gateway.core.decide import decide
from gateway.core.decisions.trace import Trace, trace, under_budget
from gateway.core.decisions.tracetext import render
from gateway.core.policy import EFFECTS, Policy
from gateway.core.types import Fleet, Price, PriceTier, Snapshot, Target

WANTED = {"id": "wanted", "avoid": {"model.languages": {"lacks": "$target_language"}}}
LANGUAGES = {"id": "official", "because": "R-05", "avoid": {"model.languages": {"lacks": "$language"}}}
EU = {"id": "eu", "when": {"tenant.domicile": {"in": "@eu"}},
      "forbid": {"target.self_hosted": True, "model.eu_domiciled_licensee_excluded": True}}  # fmt: skip
RULES = [
    {"id": "long", "because": "S1:22", "when": {"context_tokens": {"gt": "200k"}},
     "use": [{"model": "llama-4-scout"}, {"target.window": {"gte": "1M"}}]},
    {"id": "code", "when": {"task": "code", "tools": False}, "use": [{"model": "qwen3-coder-next"}, "*"]},
    {"id": "rest", "use": [{"family": "llama"}, "*"]},
]  # fmt: skip
SWITCH = [
    {"id": "short", "when": {"max_output_tokens": {"lt": "2k"}}, "set": "never"},
    {"id": "hard", "when": {"difficulty": "hard"}, "set": {"budget": "4k"}},
    {"id": "else", "set": "client"},
]
POLICY = policy(rules=RULES, constraints=[EU, LANGUAGES], thinking=SWITCH)


def told(made: Policy = POLICY, pinned: int | None = None, held_back: tuple[str, ...] = (), **values: Any) -> Trace:
    return trace(made, given(**values), snapshot(made.fleet, held_back=held_back), pinned=pinned)


def whys(entries: Any) -> dict[str, tuple[bool, str]]:
    return {entry.id: (entry.matched, entry.why) for entry in entries}


def test_a_rule_that_does_not_match_names_the_member_that_failed_and_its_value() -> None:
    seen = whys(told(task="code", tools=True, context_tokens=181_789).rules)
    assert seen["long"] == (False, "context_tokens: {gt: 200k} (is 181,789 tokens, as given)")
    assert seen["code"] == (False, "tools: false (is true)")
    assert seen["rest"] == (True, "always")


def test_under_a_hard_budget_what_has_no_price_is_dropped_and_the_others_move_up() -> None:
    made = policy(rules=[{"id": "all", "use": [{"target.name": "oss"}, {"target.name": "llama70"}]}])
    plain = told(made)
    assert [target.name for target in plain.decision.candidates] == ["oss", "llama70"]
    seen = under_budget(plain)
    assert [target.name for target in seen.decision.candidates] == ["llama70"]
    assert [(one.target, one.place) for one in seen.targets if one.place] == [("llama70", 1)]
    assert seen.reasons["oss"] == ("has no price, and a hard budget binds the key",)
    nothing = under_budget(told(made, held_back=("llama70",)))
    assert nothing.decision.refusal is not None
    assert nothing.decision.refusal[0] == "model_not_priced"


def test_rules_below_the_one_that_decides_are_not_asked() -> None:
    rules = told(context_tokens=300_000).rules
    assert [rule.chosen for rule in rules] == [True, False, False]
    assert "an earlier rule applies" in rules[1].why
    assert all("named its target" in rule.why for rule in told(pinned=mask(FLEET, "plus")).rules)


def test_a_constraint_names_what_it_selects() -> None:
    eu, official = told(tenant_domicile="DE", language="vi").constraints
    assert (eu.matched, eu.effect, eu.targets) == (True, "forbid", ("scout", "maverick"))
    assert (official.effect, official.targets, official.because) == ("avoid", ("llama70", "gone"), "R-05")
    assert not told(tenant_domicile="SG").constraints[0].matched


@pytest.mark.parametrize(
    ("values", "target", "reason"),
    [
        (
            {"tenant_domicile": "DE"},
            "maverick",
            "forbidden by eu: target.self_hosted is true, model.eu_domiciled_licensee_excluded is true",
        ),
        ({}, "gpt", "API only, and gpt is not in allow_closed"),
        ({}, "gone", "withdrawn on 2026-07-17"),
        ({"region": "us"}, "llama70", "region not known is not in us"),
        ({"residency": "eu"}, "plus", "data processed in global, not only in eu"),
        ({"modality": frozenset({"text", "image"})}, "coder", "does not read image"),
        ({"modality": frozenset({"image"}), "images": 6}, "scout", "takes 5 images, 6 were sent"),
        ({"tools": True}, "oss", "has no tools"),
        ({"structured_output": "json_schema"}, "oss", "has no structured output"),
        ({"parameters": frozenset({"logprobs"})}, "coder", "does not support logprobs"),
        ({"max_output_tokens": 70_000}, "plus", "gives at most 64,000 output tokens"),
        ({"context_tokens": 150_000}, "oss", "window 131,072 < 150,000 + 500 tokens"),
        ({"context_tokens": 950_000}, "plus", "takes 900,000 tokens of prompt < 950,000"),
        ({"effort": "high"}, "maverick", "cannot promise thinking: client"),
        ({"difficulty": "hard"}, "maverick", "cannot promise thinking: budget:4000, which others can"),
        ({"context_tokens": 300_000}, "qwen35", "not in rule long"),
    ],
)
def test_every_target_that_is_dropped_says_why(values: dict[str, Any], target: str, reason: str) -> None:
    assert reason in told(**values).reasons[target]


def test_all_reasons_are_told_not_only_the_first() -> None:
    reasons = told(tenant_domicile="DE", tools=True, effort="high", context_tokens=150_000, held_back=("oss",)).reasons
    assert reasons["oss"] == ("has no tools", "window 131,072 < 150,000 + 500 tokens", "held back by health")
    licensee = "target.self_hosted is true, model.eu_domiciled_licensee_excluded is true"
    assert reasons["maverick"] == (f"forbidden by eu: {licensee}", "cannot promise thinking: client")


def test_what_a_requirement_removes_says_what_was_not_known() -> None:
    home = {"id": "home", "when": {"tools": True}, "require": {"target.region": {"prefix": "us"}}}
    made = policy(constraints=[home, {"id": "speaks", "require": {"model.languages": {"has": "$language"}}}])
    found = told(made, tools=True, language="vi")
    required, speaks = sorted(found.constraints, key=lambda entry: entry.id)
    assert (required.effect, required.targets) == ("require", ("scout", "maverick", "coder", "oss", "gone"))
    assert speaks.targets == ("scout", "scout-small", "maverick")
    assert found.reasons["qwen122"] == (
        "not what home requires: target.region is eu, not what speaks requires: model.languages is not known",
    )
    assert found.reasons["scout-small"] == ("not what home requires: target.region is not known",)
    assert "home   require  tools: true (is true): only scout, maverick, coder, oss, gone\n" in render(found)
    assert told(made).reasons["maverick"][0].endswith(" where language is not known")
    nowhere = told(policy(constraints=[{"id": "mars", "require": {"target.region": "mars"}}]))
    assert "mars require  always: only targets that are not here\n" in render(nowhere)
    assert nowhere.decision.because == "all: no earlier rule applies; mars drops the last target"


def test_lineage_is_told_for_audits() -> None:
    tune = replace(CATALOGUE["llama-3.3-70b"], lineage=("tickets", "llama-3.3-70b"))
    made = fleet([replace(one, model=tune) if one.name == "llama70" else one for one in FLEET.targets])
    told_of = {entry["target"]: entry.get("lineage") for entry in told(policy(made)).to_dict()["targets"]}
    assert (told_of["llama70"], told_of["scout"]) == (["tickets", "llama-3.3-70b"], None)


def test_a_language_that_is_asked_for_puts_models_back_and_is_named() -> None:
    made = policy(rules=RULES, constraints=[WANTED])
    found = told(made, target_language=frozenset({"ja"}), language="en")
    assert found.decision.because.startswith("ja, as asked for, is not on llama-4-")
    assert found.signals["target_language"] == ["ja"]
    reasons = {entry.target: entry.reasons for entry in found.targets}
    assert reasons["scout"] == ("wanted puts it back",)
    assert found.constraints[0].targets
    assert not told(made, target_language=frozenset({"fr"}), language="en").constraints[0].targets


def test_candidates_say_what_puts_them_back() -> None:
    found = {entry.target: (entry.verdict, entry.reasons, entry.place) for entry in told(language="ja").targets}
    assert found["scout"] == ("avoided", ("official puts it back",), 6)
    assert found["qwen122"] == ("kept", (), 1)


def test_the_detail_of_a_refusal_names_every_candidate_and_is_bounded() -> None:
    refused = told(context_tokens=2_000_000)
    assert refused.refusal_detail() == (
        "scout: window 1,000,000 < 2,000,000 + 500 tokens; scout-small: window 327,680 < 2,000,000 + 500 tokens; "
        "maverick: window 1,000,000 < 2,000,000 + 500 tokens; plus: window 1,000,000 < 2,000,000 + 500 tokens"
    )
    assert len(refused.refusal_detail(80)) <= 80
    nothing = told(policy(rules=[{"id": "r", "use": [{"target.region": "mars"}]}]))
    assert nothing.refusal_detail() == "rule r selects no target"


def test_costs_are_bounded_from_no_output_to_all_that_was_asked_for() -> None:
    (entry,) = [one for one in told(context_tokens=101_000, max_output_tokens=1_000).targets if one.target == "qwen35"]
    assert (entry.cost_low_nano, entry.cost_usual_nano, entry.cost_high_nano) == (10_000_000, 10_500_000, 11_000_000)
    assert next(one for one in told().targets if one.target == "oss").cost_high_nano is None


def cost_of(one: Target, **values: Any) -> tuple[int | None, int | None, int | None]:
    made = told(policy(fleet([one])), **values).targets[0]
    return made.cost_low_nano, made.cost_usual_nano, made.cost_high_nano


def test_costs_span_the_tiers_that_a_length_in_doubt_may_fall_in() -> None:
    tiers = (PriceTier(0, 1_000_000_000, 0), PriceTier(1_000, 500_000_000, 0), PriceTier(5_000, 9_000_000_000, 0))
    one = replace(FLEET.targets[0], price=Price(tiers, "test"))
    unsure = {"tokens": {"": [900, 1_100, False, "by its bytes"]}}
    assert cost_of(one, **unsure)[::2] == (500_500, 1_000_000)  # 1,001 tokens of the second tier, 1,000 of the first
    assert cost_of(one, tokens={"": [900, 950, False, ""]})[::2] == (900_000, 950_000)
    assert cost_of(one, tokens={"": [900, 6_000, False, ""]})[::2] == (500_500, 54_000_000)


def test_the_least_reads_its_input_from_a_cache_and_the_most_writes_it_and_thinks() -> None:
    tier = PriceTier(0, 1_000_000_000, 2_000_000_000, 100_000_000, 4_000_000_000, 1_250_000_000)
    one = replace(FLEET.targets[4], price=Price((tier,), "test"))
    low, _, high = cost_of(one, context_tokens=2_000, max_output_tokens=1_000)
    assert (low, high) == (100_000, 1_250_000 + 4_000_000)
    assert (
        cost_of(one, context_tokens=2_000, max_output_tokens=1_000, thinking_hint="never")[2] == 1_250_000 + 2_000_000
    )


def test_the_output_is_bounded_by_the_target_where_none_was_asked_for() -> None:
    one = replace(FLEET.targets[0], window=10_000, price=price(0.0, 1.0))
    assert cost_of(replace(one, max_output=2_000), context_tokens=1_000) == (0, 500_000, 2_000_000)
    assert cost_of(one, context_tokens=1_000) == (0, 500_000, 9_000_000)  # all that its window leaves
    assert cost_of(replace(one, max_output=9_500), context_tokens=1_000)[2] == 9_000_000


def test_a_wish_that_was_given_up_is_nobody_s_reason() -> None:
    made = policy(rules=[{"id": "r", "use": [{"family": "llama"}]}], thinking=SWITCH)
    assert told(made, difficulty="hard").reasons["gone"] == ("withdrawn on 2026-07-17",)


def test_a_trace_is_plain_json() -> None:
    made = json.loads(json.dumps(told(language="ja", tenant_domicile="DE").to_dict()))
    assert made["rule"] == "rest"
    assert made["candidates"] == ["qwen122", "qwen35", "coder", "plus", "oss", "scout-small", "llama70"]
    assert made["signals"]["tenant.domicile"] == "DE"
    assert {entry["target"] for entry in made["targets"]} == {target.name for target in FLEET.targets}
    refused = told(context_tokens=5_000_000).to_dict()
    assert refused["refusal"]["code"] == "context_length_exceeded"


def test_a_trace_reads_in_a_terminal() -> None:
    text = render(told(language="ja", tenant_domicile="DE"))
    assert text.startswith("qwen122 (qwen3.5-122b-a10b) under rule rest of test@0123456789ab\n")
    assert "  > rest  always\n" in text
    assert "  + eu       forbid  tenant.domicile: {in: @eu} (is DE): scout, maverick\n" in text
    usually = "$0.00 to $0.80, usually $0.000400"
    assert f"   - maverick     {usually}  dropped: forbidden by eu: target.self_hosted is true, " in text
    long = render(told(context_tokens=300_000))
    assert re.search(r"  > long +.*\n +because S1:22\n", long)
    assert "because R-05" not in long, "a constraint that selects nothing had no part in it"
    assert "refused: context_length_exceeded under rule long" in render(told(context_tokens=5_000_000))


def test_what_was_not_asked_is_marked_so_and_a_legend_says_what_the_marks_mean() -> None:
    text = render(told(context_tokens=300_000, max_output_tokens=100, difficulty="hard"))
    assert "> decided  + applies  - does not apply  . not asked\nrules\n" in text
    assert re.search(r"  > long .*\n.*\n  \. code  not asked: an earlier rule applies\n  \. rest ", text)
    assert re.search(
        r"  > short never .*\n  \. hard  budget:4000  not asked: an earlier entry applies\n  \. else ", text
    )
    assert "  . short never  not asked: the client named its target\n" in render(told(pinned=mask(FLEET, "plus")))
    entries = told(difficulty="hard").to_dict()["thinking_entries"]
    assert [entry.get("asked", True) for entry in entries] == [True, True, False]


# What must hold of any policy, fleet and request


WORDS = st.sampled_from(["code", "math", "chitchat"])
TONGUES = st.sampled_from(["en", "ja", "vi"])
CONDITIONS = st.one_of(
    st.none(),
    st.builds(lambda n: {"context_tokens": {"gt": n}}, st.sampled_from([1000, 50_000, 200_000])),
    st.builds(lambda w: {"task": w}, WORDS),
    st.builds(lambda w: {"not": {"task": {"in": [w]}}}, WORDS),
    st.builds(lambda w: {"language": {"not": w}}, TONGUES),
    st.builds(lambda w, n: {"any": [{"language": w}, {"max_output_tokens": {"lte": n}}]}, TONGUES, st.just(500)),
    st.just({"tools": True}),
    st.just({"difficulty": {"known": False}}),
)
SELECTORS = st.one_of(
    st.just("*"),
    st.builds(lambda f: {"family": f}, st.sampled_from(["llama", "qwen", "gpt-oss", "gpt"])),
    st.builds(lambda m: {"model": m}, st.lists(st.sampled_from(sorted(CATALOGUE)), min_size=1, max_size=3)),
    st.builds(lambda n: {"target.window": {"gte": n}}, st.sampled_from([100_000, 1_000_000])),
    st.builds(lambda r: {"target.region": r}, st.sampled_from(["eu", "us-east-1"])),
)
RANKS = st.sampled_from(["listed", "cheapest", "fastest", "balanced", "weighted", {"highest": "target.max_output"}])


def with_rank(selector: Any, rank: str | None) -> Any:
    return {**selector, "rank": rank} if isinstance(selector, dict) and rank else selector


RUNGS = st.lists(st.builds(with_rank, SELECTORS, st.none() | RANKS), min_size=1, max_size=3)
AFFECTED = st.one_of(SELECTORS, st.just({"model.languages": {"lacks": "$language"}}), st.lists(
    st.sampled_from([{"family": "llama"}, {"target.region": {"known": False}}]), min_size=1, max_size=2))  # fmt: skip


@st.composite
def policies(draw: st.DrawFn) -> dict[str, Any]:
    count = st.integers(0, 4)
    made: dict[str, Any] = {
        "rules": [
            {"id": f"r{i}", "use": draw(RUNGS), "when": draw(CONDITIONS)} for i in range(draw(st.integers(1, 4)))
        ],
        "constraints": [
            {"id": f"c{i}", "when": draw(CONDITIONS), draw(st.sampled_from(EFFECTS)): draw(AFFECTED)}
            for i in range(draw(count))
        ],
        "thinking": [
            {"id": f"t{i}", "when": draw(CONDITIONS), "force": draw(st.booleans()),
             "set": draw(st.sampled_from(["never", "always", "client", {"budget": 100}]))}
            for i in range(draw(count))
        ],
        "rank": draw(RANKS),
        "allow_closed": draw(st.lists(st.sampled_from(["qwen", "gpt"]), unique=True)),
    }  # fmt: skip
    for entry in (*made["rules"], *made["constraints"], *made["thinking"]):
        if entry["when"] is None:
            del entry["when"]
    return made


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    made = []
    for i in range(draw(st.integers(1, 8))):
        model = CATALOGUE[draw(st.sampled_from(sorted(CATALOGUE)))]
        made.append(Target(
            f"t{i}", i, model, BACKENDS[draw(st.sampled_from(sorted(BACKENDS)))], "x",
            draw(st.sampled_from([8_000, 100_000, 1_000_000])),
            max_output=draw(st.sampled_from([None, 400])),
            max_input=draw(st.sampled_from([None, 60_000])),
            price=draw(st.sampled_from([None, price(0.1, 1.0), price(1.0, 0.1)])),
            modalities=draw(st.sampled_from([frozenset({"text"}), frozenset({"text", "image"})])),
            tools=draw(st.booleans()), structured_output=draw(st.booleans()),
            thinking=draw(st.sampled_from(["switchable", "always", "never", "unknown"])),
            unsupported=draw(st.sampled_from([frozenset(), frozenset({"logprobs"})])),
            retires_on=draw(st.sampled_from([None, date(2026, 7, 1), date(2027, 7, 1)])),
            weight=draw(st.integers(0, 3)),
        ))  # fmt: skip
    return fleet(made)


REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "context_tokens": st.sampled_from([900, 7_900, 60_500, 99_900, 250_000, 2_000_000]),
        "language": st.sampled_from(["en", "ja", "vi", {"en": 0.5, "ja": 0.5}]),
        "task": WORDS,
        "difficulty": st.sampled_from(["easy", "hard"]),
        "tools": st.booleans(),
        "structured_output": st.sampled_from(["json_object", "json_schema"]),
        "modality": st.sampled_from([frozenset({"text"}), frozenset({"text", "image"})]),
        "images": st.integers(0, 7),
        "parameters": st.sampled_from([frozenset({"model"}), frozenset({"model", "logprobs"})]),
        "max_output_tokens": st.sampled_from([100, 450, 5_000]),
        "effort": st.sampled_from(["none", "minimal", "high"]),
        "thinking_hint": st.sampled_from(["never", "always", 500]),
        "region": st.sampled_from(["us", "eu"]),
        "residency": st.sampled_from(["us", "eu"]),
    },
)
WORLDS = st.tuples(st.integers(0, 255), st.floats(0, 1, exclude_max=True), st.none() | st.integers(1, 255))


@example_of(policies(), fleets(), REQUESTS, WORLDS)
def test_the_trace_and_the_decision_agree_on_any_policy(
    document: dict[str, Any], made: Fleet, request: dict[str, Any], world: tuple[int, float, int | None]
) -> None:
    compiled = policy(made, **document)
    available, draw, pinned = world
    seen = Snapshot(now=NOON, draw=draw, available=available & made.mask(), latency_s={"t1": 0.5, "t2": 0.1})
    pin = None if pinned is None else pinned & made.mask() or 1
    decision = decide(compiled, given(**request), seen, pinned=pin)
    explained = trace(compiled, given(**request), seen, pinned=pin)

    assert explained.decision == decision
    assert [entry.target for entry in explained.targets if entry.place] == [one.name for one in decision.candidates]
    assert (decision.refusal is None) == bool(decision.candidates)
    for entry in explained.targets:
        assert (entry.place is None) == (entry.verdict == "dropped")
        assert entry.verdict == "kept" or entry.reasons, entry
    candidates = {one.name for one in decision.candidates}
    for constraint in explained.constraints:
        if constraint.effect == "forbid" and constraint.matched:
            assert not candidates & set(constraint.targets)
        if constraint.effect == "require" and constraint.matched:
            assert candidates <= set(constraint.targets)
    judge(decision.candidates, request, seen, compiled)
    assert decision.refusal is None or decision.refusal[0] != "no_target_available" or ~seen.available & made.mask()


def judge(candidates: tuple[Target, ...], request: dict[str, Any], seen: Snapshot, compiled: Policy) -> None:
    """The capability guarantee, written a second time without a mask in sight."""
    asked = request.get("max_output_tokens")
    total = request.get("context_tokens", 0)
    prompt = max(total - (asked or 0), 0)
    for one in candidates:
        assert seen.available >> one.index & 1
        assert prompt + (asked or one.typical_output_tokens) <= one.window
        assert one.max_input is None or prompt <= one.max_input
        assert not asked or one.max_output is None or asked <= one.max_output
        assert request.get("modality", frozenset()) <= one.modalities
        assert request.get("images", 0) <= (one.model.images_max or 100)
        assert one.tools or not request.get("tools")
        assert one.structured_output or not request.get("structured_output")
        assert not one.unsupported & request.get("parameters", frozenset())
        assert one.retires_on is None or one.retires_on > date(2026, 11, 21)
        assert one.model.open_weights is not False or one.model.family in compiled.doc.allow_closed
        for name, place in (
            ("region", one.backend.region),
            ("residency", one.backend.processing or one.backend.region),
        ):
            assert name not in request or (place or "").startswith(request[name])


@example_of(policies(), fleets(), REQUESTS, st.floats(0, 1, exclude_max=True))
def test_an_order_never_loses_or_invents_a_candidate(
    document: dict[str, Any], made: Fleet, request: dict[str, Any], draw: float
) -> None:
    compiled = policy(made, **document)
    ranked = decide(compiled, given(**request), replace(snapshot(made), draw=draw))
    listed = decide(
        policy(made, **{**document, "rank": "listed"}), given(**request), replace(snapshot(made), draw=draw)
    )
    assert sorted(one.name for one in ranked.candidates) == sorted(one.name for one in listed.candidates)
