"""What a change may do to a decision, and what it may not: more constraints, more targets, hints, a file, a memory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
from hypothesis import assume, given
from oracle import Request, World
from worlds import (
    SIGNALS,
    TOKENIZERS,
    Case,
    Dice,
    Traffic,
    backend,
    case,
    compiled,
    constraint,
    document,
    drawn,
    fleet,
    grown,
    model,
    more,
    target,
    traffic,
)

from gateway.core.decide import decide
from gateway.core.reading.signals import Signals
from gateway.core.recorded.records import Decided, Recorded, Result, Spoken
from gateway.core.recorded.records import Previous as WasRecorded
from gateway.core.recorded.records import World as RecordedWorld
from gateway.core.recorded.records import decided as as_recorded
from gateway.core.recorded.records import read as read_record
from gateway.core.recorded.records import write as write_record
from gateway.core.recorded.replay import Replay, Undecided
from gateway.core.text.language import Language
from gateway.core.types import Decision
from gateway.yamlfile import loads
from gateway.yamltext import entry as as_yaml

SCHEMA = jsonschema.Draft202012Validator(
    json.loads((Path(__file__).parent.parent.parent / "schemas" / "policy.json").read_text(encoding="utf-8"))
)


def decided(one: Case) -> Decision:
    return decide(one.policy, one.signals(), one.snapshot, pinned=one.pinned)


def names(decision: Decision) -> set[str]:
    return {one.name for one in decision.candidates}


def wish_given_up(one: Case) -> bool:
    """Whether no candidate could grant how the policy would like to think: then all others stay, as the page says."""
    world = World(one.raw, one.fleet)
    mode, _, _ = world.thinking(Request(one.given, one.raw.get("tokens_by")), one.pinned is not None)
    return decided(one).thinking.mode != mode


@drawn
def more_bound(dice: Dice) -> tuple[Case, Case]:
    """A case, and the same with a constraint more."""
    one = case(dice)
    made = {**constraint(dice, one.fleet), "id": "added"}
    if "avoid" in made:
        made["forbid"] = made.pop("avoid")
    return one, one.but(raw={**one.raw, "constraints": [made, *one.raw["constraints"]]})


@more()
@given(more_bound)
def test_a_constraint_more_never_lets_anything_in(cases: tuple[Case, Case]) -> None:
    before, after = cases
    if not wish_given_up(after):  # else those that cannot think are let in where those that can are forbidden
        assert names(decided(after)) <= names(decided(before))


@drawn
def one_more(dice: Dice) -> tuple[Case, Case]:
    """A case, and the same with a target more, of a model and a backend of its own or of theirs."""
    one = case(dice)
    models = [model(dice, "m0"), *{of.model.id: of.model for of in one.fleet.targets}.values()]
    more_models = {**one.fleet.models, "m0": one.fleet.models.get("m0", models[0])}
    made = target(dice, 0, [more_models["m0"], *models[1:]], [backend(dice, "b0")])
    held = one.snapshot.available | 1 << len(one.fleet.targets)
    known = replace(one.fleet, models=more_models)
    return one, one.but(fleet=grown(known, made), snapshot=replace(one.snapshot, available=held))


@more()
@given(one_more)
def test_a_target_more_never_removes_another(cases: tuple[Case, Case]) -> None:
    before, after = cases
    if not wish_given_up(before):  # else the new one may grant what nobody could
        assert names(decided(before)) <= names(decided(after))


@drawn
def hinted(dice: Dice) -> tuple[Case, Case]:
    """A case whose policy does not ask for places, and the same with a place asked for."""
    one = case(dice, [name for name in SIGNALS if name not in ("region", "residency")])
    hint = {dice.one(["region", "residency"]): dice.one(["eu", "us", "mars"])}
    plain = {name: value for name, value in one.given.items() if name not in hint}
    return one.but(given=plain), one.but(given={**plain, **hint})


@more()
@given(hinted)
def test_a_place_that_is_asked_for_never_lets_anything_in(cases: tuple[Case, Case]) -> None:
    before, after = cases
    asks = json.dumps(before.raw, default=str)
    assume("$region" not in asks)
    if not wish_given_up(after):
        assert names(decided(after)) <= names(decided(before))


# -- the file --


@drawn
def written(dice: Dice) -> tuple[Any, dict[str, Any]]:
    of = fleet(dice)
    return of, document(dice, of)


@more()
@given(written)
def test_what_loads_is_accepted_by_the_schema_and_means_the_same_when_it_is_read_from_a_file(made: Any) -> None:
    of, raw = made
    text = "".join(as_yaml(key, value) for key, value in raw.items())
    again = loads(text, "policy.yaml").data
    assert again == raw
    SCHEMA.validate(again)
    first, second = compiled(raw, of), compiled(again, of)
    assert [rule.rungs for rule in first.rules] == [rule.rungs for rule in second.rules]
    assert [rule.says for rule in first.rules] == [rule.says for rule in second.rules]


# -- records --


def recorded(one: Case) -> Recorded:
    """A case as it would be recorded."""
    fleet_names = [of.name for of in one.fleet.targets]
    given, world = one.given, one.snapshot

    def held(mask: int) -> tuple[str, ...]:
        return tuple(name for index, name in enumerate(fleet_names) if mask >> index & 1)

    signals = one.signals()
    kept: dict[str, Any] = dict.fromkeys(_ASKED)
    for name in given:
        value = signals.get(name) if name not in ("tokens", "context_tokens") else None
        if value is not None and not name.startswith("tenant."):
            kept[name] = Spoken.of(value) if isinstance(value, Language) else value
            kept[name] = sorted(value) if isinstance(value, frozenset) else kept[name]
    length = signals.tokens(None)
    tokens = given.get("tokens") or {"": [length.lo, length.hi, True]}
    before = world.previous
    return Recorded(
        v=1,
        id="0" * 32,
        at=world.now,
        policy=one.policy.label,
        fleet="",
        key="k",
        model_asked="auto",
        world=RecordedWorld(
            world.draw, held(~world.available), held(world.doubted), dict(world.latency_s),
            before and WasRecorded(before.target, before.tokens, before.at),
            {entry.id: world.slow.get(entry.id, ()) for entry in one.policy.latency},
            one.policy.sticky is not None,
        ),
        decided=Decided(candidates=("whoever",)),
        result=Result(),
        tenant={name.removeprefix("tenant."): given[name] for name in given if name.startswith("tenant.")},
        pinned=None if one.pinned is None else held(one.pinned),
        signals=kept,
        tokens={name: (lo, hi, exact) for name, (lo, hi, exact, *_) in tokens.items()},
    )  # fmt: skip


_ASKED = ("thinking_hint", "effort", "max_output_tokens", "language", "target_language", "task", "difficulty",
          "workload", "region", "residency", "structured_output", "max_cost_usd", "conversation", "headers.x-team",
          "metadata.team", "images", "modality", "parameters", "tools", "stream", "cost_sensitive", "choices",
          "model_asked")  # fmt: skip


@more()
@given(drawn(traffic))
def test_records_of_a_policy_replayed_under_it_give_its_decisions_or_say_what_they_lack(cases: Traffic) -> None:
    replay = Replay(cases[0].policy)
    for one in cases:
        line = read_record(write_record(recorded(one)))
        found = replay.decide(line)
        exact = all(bounds[2] for bounds in line.tokens.values()) and set(TOKENIZERS) - {None} <= line.tokens.keys()
        if isinstance(found, Undecided):
            # What a request was taken for before it was counted is recorded where it was asked for; here nobody did.
            assert not exact or found.lacks.startswith("its size class"), found.lacks
        else:
            expected = decide(one.policy, Signals.given(one.given), one.snapshot, pinned=one.pinned)
            assert as_recorded(found) == as_recorded(expected)
            assert found == expected
