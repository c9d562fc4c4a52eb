"""What a policy may say, what is refused and where, and what its selectors select."""

from __future__ import annotations

from typing import Any

import pytest
from fleets import ANYTHING, FLEET, document, given, policy
from pydantic import ValidationError

from gateway.core.errors import ConfigError, Problem
from gateway.core.policy import PolicyDoc, compile_policy
from gateway.core.targets.rank import bits
from gateway.core.types import Fleet, Thinking


def selects(raw: Any, **more: Any) -> list[str]:
    """Names of the targets that a rung selects, in fleet order."""
    (rule,) = policy(rules=[{"id": "r", "use": [raw]}], **more).rules
    return [FLEET.targets[index].name for index in bits(rule.mask)]


def forbids(raw: Any, **values: Any) -> list[str]:
    """Names of the targets that a constraint selects for a request."""
    (constraint,) = policy(constraints=[{"id": "c", "forbid": raw}]).forbids
    return [FLEET.targets[index].name for index in bits(constraint.select.mask(given(**values)))]


def problems(**parts: Any) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        policy(**parts)
    return list(caught.value.problems)


LLAMAS = ["scout", "scout-small", "maverick", "llama70", "gone"]


@pytest.mark.parametrize(
    ("raw", "names"),
    [
        ({"model": "llama-4-scout"}, ["scout", "scout-small"]),
        ({"model": "Scout"}, ["scout", "scout-small"]),
        ({"model": ["llama-4-maverick", "gpt-oss-120b"]}, ["maverick", "oss"]),
        ({"model": "@coders"}, ["coder"]),
        ({"model": {"not": "@coders"}, "family": "qwen"}, ["qwen122", "qwen35", "plus"]),
        ({"family": "llama"}, LLAMAS),
        ({"family": "*", "target.window": {"gte": "1M"}}, ["scout", "maverick", "plus"]),
        ({"family": "qwen", "model.params_active_b": {"gte": 10}}, ["qwen122"]),
        ({"model.params_active_b": {"known": False}, "family": "qwen"}, ["plus"]),
        ({"target.region": {"prefix": "us"}}, ["scout", "maverick", "coder", "oss", "gone"]),
        ({"target.region": {"not": {"prefix": "us"}}}, ["qwen122", "qwen35", "plus"]),
        ({"target.region": {"known": False}}, ["scout-small", "llama70", "gpt"]),
        ({"target.self_hosted": True, "family": "qwen"}, ["qwen122", "qwen35", "coder"]),
        ({"model.languages": {"has": "th"}}, LLAMAS),
        ({"model.languages": {"lacks": "vi"}}, ["llama70", "gone"]),
        ({"model.modalities": ["video", "audio"]}, ["qwen122"]),
        ({"model.license": {"in": ["Apache-2.0", "MIT"]}}, ["qwen122", "qwen35", "coder", "oss"]),
        ({"target.thinking": {"not": "never"}}, ["qwen122", "qwen35", "plus", "oss", "gpt"]),
        ({"target.retires_on": {"lt": "2026-11-21"}}, ["gone"]),
        ({"target.priced": False}, ["oss"]),
        ({"target.input_usd": {"lte": 0.1}}, ["scout-small", "qwen35", "gone"]),
        ({"target.unsupported": "logprobs"}, ["coder"]),
        ({"target.name": "plus"}, ["plus"]),
        ("*", [target.name for target in FLEET.targets]),
    ],
)
def test_a_selector_selects_these_targets(raw: Any, names: list[str]) -> None:
    assert selects(raw, sets={"coders": ["qwen3-coder-next"]}) == names


@pytest.mark.parametrize(
    ("raw", "values", "names"),
    [
        ([{"family": "gpt"}, {"family": "gpt-oss"}], {}, ["oss", "gpt"]),
        ({"model.languages": {"lacks": "$language"}}, {"language": "ja"}, LLAMAS),
        ({"model.languages": {"lacks": "$language"}}, {"language": "vi"}, ["llama70", "gone"]),
        ({"model.languages": {"lacks": "$target_language"}}, {"target_language": frozenset({"ja"})}, LLAMAS),
        (
            {"model.languages": {"lacks": "$target_language"}},
            {"target_language": frozenset({"en", "vi"})},
            ["llama70", "gone"],
        ),
        ({"model.languages": {"lacks": "$target_language"}}, {"language": "ja"}, []),
        ({"model.languages": {"has": "$language"}}, {"language": "en"}, LLAMAS),
        ({"model.languages": {"lacks": "$language"}}, {}, []),
        ({"model.languages": {"lacks": "$language"}, "family": "qwen"}, {"language": "ja"}, []),
        ({"target.processing": {"not": "$tenant.residency"}}, {"tenant_residency": "us"},
         ["qwen122", "qwen35", "plus"]),
        ({"target.processing": "$tenant.residency"}, {"tenant_residency": "us"},
         ["scout", "maverick", "coder", "oss", "gone"]),
        ([{"target.processing": {"not": "$tenant.residency"}}, {"target.processing": {"known": False}}],
         {"tenant_residency": "us"}, ["scout-small", "llama70", "qwen122", "qwen35", "plus", "gpt"]),
        ({"target.modalities": {"lacks": "$modality"}, "family": "qwen"}, {"modality": frozenset({"text", "video"})},
         ["qwen35", "coder", "plus"]),
    ],
)  # fmt: skip
def test_a_constraint_selects_these_targets_for_this_request(
    raw: Any, values: dict[str, Any], names: list[str]
) -> None:
    assert forbids(raw, **values) == names


def test_the_order_of_a_rung_is_the_order_its_models_are_named_in() -> None:
    sets = {"some": ["qwen3.5-35b-a3b", "llama-4-scout"]}
    (rule,) = policy(sets=sets, rules=[{"id": "r", "use": [{"model": ["gpt-oss-120b", "@some"]}]}]).rules
    assert [FLEET.targets[index].name for index in rule.rungs[0].listed] == ["oss", "qwen35", "scout", "scout-small"]


@pytest.mark.parametrize(
    ("parts", "path", "what", "valid"),
    [
        ({"rules": [*ANYTHING, {"id": "b", "use": [{"model": "llama-4-scot"}]}]},
         "rules[1].use[0].model", "is no model", "llama-4-scout"),
        ({"rules": [{"id": "a", "use": ["*", {"family": "lama"}]}]}, "rules[0].use[1].family", "is no family", "llama"),
        ({"rules": [{"id": "a", "use": [{"model": "@none"}]}]}, "rules[0].use[0].model", "no set", "sets:"),
        ({"rules": [{"id": "a", "use": [{"window": 5}]}]}, "rules[0].use[0].window", "no fact", "target.window"),
        ({"rules": [{"id": "a", "use": [{"target.window": "big"}]}]}, "rules[0].use[0].target.window", "size", "200k"),
        ({"rules": [{"id": "a", "use": [{"family": "*", "rank": "best"}]}]},
         "rules[0].use[0].rank", "is no rank", "cheapest"),
        ({"rules": [{"id": "a", "use": [{"rank": "listed"}]}]}, "rules[0].use[0]", "names no targets", "family"),
        ({"rules": [{"id": "a", "use": [5]}]}, "rules[0].use[0]", "is no selector", "family: qwen"),
        ({"rules": [{"id": "a", "when": {"langauge": "ja"}, "use": ["*"]}]},
         "rules[0].when.langauge", "no signal", "language"),
        ({"rules": [{"id": "a", "when": {"effort": "hihg"}, "use": ["*"]}]},
         "rules[0].when.effort", "no effort", "high"),
        ({"rules": [{"id": "a", "when": {"any": [{"tools": "yes"}]}, "use": ["*"]}]},
         "rules[0].when.any[0].tools", "not a boolean", "true or false"),
        ({"rules": [{"id": "a", "when": {"any": {"tools": True}}, "use": ["*"]}]},
         "rules[0].when.any", "must be a list", ""),
        ({"rules": [{"id": "a", "when": {}, "use": ["*"]}]}, "rules[0].when", "is no condition", "task: code"),
        ({"rules": [{"id": "a", "when": {"language": {"not": "$language"}}, "use": ["*"]}]},
         "rules[0].when.language.not", "cannot stand here", "constraints"),
        ({"rules": [{"id": "a", "use": [{"target.region": "$region"}]}]},
         "rules[0].use[0].target.region", "cannot stand here", "constraints"),
        ({"constraints": [{"id": "c", "forbid": {"target.window": {"lt": "$language"}}}]},
         "constraints[0].forbid.target.window.lt", "is not a size", "200k"),
        ({"constraints": [{"id": "c", "forbid": {"target.region": "$tools"}}]},
         "constraints[0].forbid.target.region", "no value that target.region can be compared with", "$"),
        ({"constraints": [{"id": "c", "avoid": [{"model.langs": "ja"}]}]},
         "constraints[0].avoid[0].model.langs", "no fact", "model.languages"),
        ({"sets": {"s": ["llama-9"]}}, "sets.s[0]", "no model 'llama-9'", "llama"),
        ({"allow_closed": ["qwenn"]}, "allow_closed[0]", "no family 'qwenn'", "qwen"),
        ({"tokens_by": "qwen4"}, "tokens_by", "counts with 'qwen4'", "qwen3.5"),
        ({"thinking": [{"id": "t", "when": {"difficulty": "very"}, "set": "never"}]},
         "thinking[0].when.difficulty", "no difficulty", "easy"),
    ],
)  # fmt: skip
def test_a_literal_that_means_nothing_is_refused(parts: dict[str, Any], path: str, what: str, valid: str) -> None:
    (problem,) = problems(**parts)
    assert problem.path == path
    assert what in problem.what
    assert valid in problem.valid


def test_every_mistake_is_told_at_once() -> None:
    rules = [{"id": "a", "when": {"tusk": "code"}, "use": [{"model": "x"}]}, {"id": "b", "use": [{"family": "y"}]}]
    assert [problem.path for problem in problems(rules=rules, sets={"s": ["z"]})] == [
        "sets.s[0]", "rules[0].use[0].model", "rules[0].when.tusk", "rules[1].use[0].family",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("parts", "where"),
    [
        ({"rule": []}, ("rule",)),
        ({"rules": []}, ("rules",)),
        ({"rules": [{"id": "a", "use": []}]}, ("rules", 0, "use")),
        ({"rules": [{"id": "a", "use": ["*"], "rank": "listed"}]}, ("rules", 0, "rank")),
        ({"rules": [{"id": "A b", "use": ["*"]}]}, ("rules", 0, "id")),
        ({"rules": ANYTHING * 2}, ("rules",)),
        ({"rank": "best"}, ("rank",)),
        ({"as_of": "yesterday"}, ("as_of",)),
        ({"as_of": "20261121"}, ("as_of",)),
        ({"constraints": [{"id": "c"}]}, ("constraints", 0)),
        ({"constraints": [{"id": "c", "forbid": "*", "avoid": "*"}]}, ("constraints", 0)),
        ({"constraints": [{"id": "c", "forbid": "*", "require": "*"}]}, ("constraints", 0)),
        ({"thinking": [{"id": "t", "set": "off"}]}, ("thinking", 0, "set")),
        ({"thinking": [{"id": "t", "set": False}]}, ("thinking", 0, "set")),
        ({"thinking": [{"id": "t", "set": {"budget": 0}}]}, ("thinking", 0, "set")),
        ({"thinking": [{"id": "t", "set": "never", "force": "yes"}]}, ("thinking", 0, "force")),
        ({"sets": {"empty": []}}, ("sets", "empty")),
        ({"tests": [{"name": "t", "expect": {}}]}, ("tests", 0, "expect")),
    ],
)
def test_a_document_of_the_wrong_shape_is_refused_where_it_is_wrong(
    parts: dict[str, Any], where: tuple[Any, ...]
) -> None:
    with pytest.raises(ValidationError) as caught:
        PolicyDoc.model_validate(document(**parts))
    assert all(error["loc"][: len(where)] == where for error in caught.value.errors())


def test_a_selector_that_selects_nothing_here_is_no_mistake() -> None:
    assert selects({"target.window": {"gt": "100M"}}) == []


def test_budgets_are_read_in_tokens() -> None:
    made = policy(thinking=[{"id": "t", "set": {"budget": "4k"}}, {"id": "u", "set": "always"}])
    assert [entry.thinking for entry in made.thinking] == [Thinking("budget", 4000, "t"), Thinking("always", None, "u")]


def test_a_label_names_the_policy_and_its_digest() -> None:
    assert policy().label == "test@0123456789ab"


def test_members_of_a_condition_are_asked_cheapest_first() -> None:
    (rule,) = policy(rules=[{"id": "a", "when": {"task": "code", "language": "ja", "tools": True}, "use": ["*"]}]).rules
    assert rule.when is not None
    assert rule.when.text == "tools: true and language: ja and task: code"


def test_the_schema_of_a_policy_names_every_signal_and_fact() -> None:
    schema = PolicyDoc.model_json_schema()
    definitions = schema["$defs"]
    assert definitions["RuleDoc"]["properties"]["when"]["$ref"] == "#/$defs/Condition"
    assert "context_tokens" in definitions["Condition"]["properties"]
    assert "target.window" in definitions["Rung"]["anyOf"][1]["properties"]
    assert "rank" not in definitions["Selector"]["anyOf"][1]["properties"]
    assert "x-part" not in str(schema)


def test_a_policy_compiles_against_an_empty_fleet() -> None:
    assert compile_policy(PolicyDoc.model_validate(document()), Fleet((), {}), digest="0").rules[0].mask == 0


def test_a_task_that_the_lexicon_cannot_tell_is_refused_where_its_tasks_are_known() -> None:
    rules = [{"id": "a", "when": {"task": {"in": ["code", "cod"]}}, "use": ["*"]}, {"id": "b", "use": ["*"]}]
    doc = PolicyDoc.model_validate(document(rules=rules))
    assert compile_policy(doc, FLEET, digest="0").tasks == ()
    with pytest.raises(ConfigError) as caught:
        compile_policy(doc, FLEET, digest="0", tasks=["math", "code"])
    (problem,) = caught.value.problems
    assert str(problem) == "rules[0].when.task.in[1]: 'cod' is no task that is known: did you mean code?"
