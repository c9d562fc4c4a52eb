"""The table of facts: nothing that is known of a target is left out, and what is not known is never a value."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from fleets import FLEET, fleet, policy

from gateway.core.facts import FACTS, fact_named, value_of
from gateway.core.targets.rank import bits
from gateway.core.terms import Terms
from gateway.core.types import Backend, Model, PriceTier, Target

#: Not facts: they say how a server is reached, not what it is; or stand there under another name.
_HOW = {"endpoints", "key", "auth", "api_version", "ca_file", "proxy", "max_inflight", "timeouts", "headers", "members",
        "trace_context", "prefix_affinity", "hedge", "limit_counts", "limit_lost"}  # fmt: skip
_UNDER_ANOTHER_NAME = {
    Model: {"terms": "license.osi_approved", "evals": "model.evals.<name>"},
    Backend: {"name": "target.backend", "own_dialect": "target.dialect"},
    Target: {"model": "model.id", "backend": "target.backend", "price": "target.input_usd",
             "takes": "target.unsupported", "index": "target.name"},
    PriceTier: {"above_input_tokens": "target.input_usd"},
}  # fmt: skip
_USD = {"input": "input_usd", "output": "output_usd", "cached_input": "cached_input_usd",
        "thinking_output": "thinking_output_usd", "cache_write": "cache_write_usd"}  # fmt: skip


@pytest.mark.parametrize(
    ("noun", "prefix"),
    [(Model, "model."), (Terms, "license."), (Backend, "target."), (Target, "target."), (PriceTier, "target.")],
)
def test_everything_that_is_known_of_a_target_is_a_fact(noun: type, prefix: str) -> None:
    left = {one.name for one in fields(noun)} - _HOW - _UNDER_ANOTHER_NAME.get(noun, {}).keys()
    assert sorted(name for name in left if f"{prefix}{_USD.get(name, name)}" not in FACTS) == []


def test_nothing_is_known_of_a_model_of_which_nothing_was_said() -> None:
    said = replace(FLEET.targets[0], model=Model("own", "house"), backend=Backend("b", "vllm", ()), price=None)
    silent = {
        name for name, fact in FACTS.items() if name.startswith(("model.", "license.")) and fact.read(said) is None
    }
    told = {"model.id", "model.family", "model.modalities", "model.aliases", "model.purpose",
            "model.typical_output_tokens"}  # fmt: skip
    assert {name for name in FACTS if name.startswith(("model.", "license."))} - silent == told
    assert value_of("target.processing", said) is None


def test_a_server_of_ones_own_that_says_nothing_processes_where_it_stands() -> None:
    own = replace(FLEET.targets[0], backend=Backend("b", "vllm", (), region="sg", self_hosted=True))
    assert value_of("target.processing", own) == "sg"


def test_what_is_not_priced_apart_costs_what_input_and_output_do() -> None:
    (one,) = [target for target in FLEET.targets if target.name == "scout"]
    prices = [value_of(f"target.{side}_usd", one) for side in ("cached_input", "cache_write", "thinking_output")]
    assert prices == [0.2, 0.2, 0.6]


def test_scores_are_facts_by_whatever_name_an_operator_gives_them() -> None:
    scored = replace(FLEET.targets[0].model, evals=(("triage.v2", 71.5),))
    made = fleet([replace(FLEET.targets[0], model=scored), FLEET.targets[1]])
    (rule,) = policy(made, rules=[{"id": "r", "use": [{"model.evals.triage.v2": {"gt": 70}}]}]).rules
    assert bits(rule.mask) == [0]
    assert value_of("model.evals.other", made.targets[0]) is None
    assert fact_named("model.evals.") is None
    assert fact_named("model.evals.a b") is None
