"""The committed JSON Schemas are the models', accept what ships, and refuse what loading refuses."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from fleets import document, policy
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway import schemas
from gateway.core.clauses.matchers import OPERATORS
from gateway.core.errors import ConfigError
from gateway.core.facts import FACTS, SIGNALS
from gateway.yamlfile import load, loads

jsonschema = pytest.importorskip("jsonschema")

ROOT = Path(__file__).parent.parent
_YAML = {*ROOT.glob("policies/*.yaml"), *ROOT.glob("policies/catalog/**/*.yaml"), *ROOT.glob("*.example.yaml")}
FILES = sorted(_YAML - {ROOT / "policies/lexicon.yaml"})  # which has none
NAMED = re.compile(r"# yaml-language-server: \$schema=(\S+)")


@pytest.mark.parametrize("name", schemas.SCHEMAS)
def test_a_committed_schema_is_what_the_models_say_today(name: str) -> None:
    committed = (ROOT / "schemas" / name).read_text(encoding="utf-8")
    assert committed == schemas.text(name), "run: python -m gateway.schemas"


@pytest.mark.parametrize("name", schemas.SCHEMAS)
def test_a_schema_is_one(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schemas.schema(name))


def test_no_schema_is_left_over() -> None:
    assert {path.name for path in (ROOT / "schemas").iterdir()} == set(schemas.SCHEMAS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_shipped_file_names_its_schema_in_its_first_line_and_is_accepted(path: Path) -> None:
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    match = NAMED.fullmatch(first)
    assert match, first
    schema = json.loads((path.parent / match[1]).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(load(path).data)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pointsman.json", "backends: {}\ntargets: {}\n"),
        ("pointsman.json", "backends: {a: {dialect: vllm}}\ntargets: {t: {model: m, backend: a}}\ntimeout: 1s\n"),
        ("fleet.json", "backends: {a: {dialect: vllm}}\ntargets: {t: {model: m, backend: a, window: big}}\n"),
        ("fleet.json", "backends: {a: {dialect: vllm}}\ntargets: {t: {model: m, backend: a, price: {input: 1}}}\n"),
        ("catalogue.json", "catalogue: 1\nas_of: 2026-11-21\noffers: [{model: m, provider: p, id: x}]\n"),
        ("policy.json", "policy: p\nrules: [{id: a, use: [{modle: x}]}]\n"),
    ],
)
def test_a_mistake_is_seen_while_writing(name: str, text: str) -> None:
    assert list(jsonschema.Draft202012Validator(schemas.schema(name)).iter_errors(loads(text, "f").data))


# What loading accepts the schema accepts, and what it refuses the schema refuses, as far as it can know.

TEXTS = ["x", "image", "high", "", "@eu", "@nope", "$language", "$modality", "$tenant.home", "$tenant", "$tools", "a$b"]
SCALARS: list[Any] = [
    True, False, 0, 5, 1.5, -1, "200k", "1M", "32Ki", "1.5", "500", "2 k", "2026-11-21", "tomorrow", None, *TEXTS,
]  # fmt: skip
MODEL_NAMES: list[Any] = [
    "llama-4-scout",
    "qwen3.5-35b-a3b",
    "*",
    "@coders",
    ["@coders", "llama-4-scout"],
    True,
    5,
    "",
    [],
    None,
]
SIGNAL_NAMES = [
    *SIGNALS,
    "tenant.home",
    "headers.x",
    "metadata.a.b",
    "tenant.",
    "tenant",
    "headers." + "x" * 65,
    "tasks",
    "",
]
FACT_NAMES = [*FACTS, "model.evals.a", "model.evals.a b", "model.evals.", "model.sise", "target", ""]
OPERATOR_NAMES = sorted({name for names in OPERATORS.values() for name in names} | {"is", "none"})


def matchers(scalars: list[Any]) -> st.SearchStrategy[Any]:
    one = st.sampled_from(scalars)
    return st.recursive(
        one | st.lists(one, max_size=2),
        lambda inner: st.dictionaries(st.sampled_from(OPERATOR_NAMES), inner | st.lists(inner, max_size=2), max_size=2),
        max_leaves=4,
    )


def conditions() -> st.SearchStrategy[Any]:
    member = st.dictionaries(st.sampled_from(SIGNAL_NAMES), matchers(SCALARS), max_size=2)
    return st.recursive(
        member | st.sampled_from([None, [], "x"]),
        lambda inner: st.dictionaries(
            st.sampled_from(["any", "all", "not"]), inner | st.lists(inner, max_size=2), max_size=2
        ),
        max_leaves=3,
    )


#: Names of models and families are the catalogue's to know: here only those that are, or that are no names at all.
ANY_FACT = st.sampled_from(FACT_NAMES).filter(lambda name: name not in ("model.id", "model.family"))
MAPS = st.dictionaries(ANY_FACT, matchers(SCALARS), max_size=2) | st.fixed_dictionaries(
    {"model": st.sampled_from(MODEL_NAMES)}
)
SELECTORS = MAPS | st.sampled_from(["*", "x", [], {}, None, ["*"], [[{"family": "qwen"}]]]) | st.lists(MAPS, max_size=2)
RANKS = st.sampled_from([
    "listed", "cheapest", "best", {"highest": "target.window"}, {"lowest": "model.evals.x"}, {"lowest": "model.id"},
    {"highest": "target.window", "lowest": "target.window"}, {}, {"most": "target.window"}, ["listed"], 5, None,
])  # fmt: skip
RUNGS = SELECTORS | st.builds(lambda raw, rank: {**raw, "rank": rank}, MAPS, RANKS)


def loads_as(**parts: Any) -> bool:
    try:
        policy(sets={"coders": ["qwen3-coder-next"]}, **parts)
    except (ConfigError, ValidationError):
        return False
    return True


@cache
def validator(definition: str) -> Any:
    made = {"$ref": f"#/$defs/{definition}", "$defs": schemas.schema("policy.json")["$defs"]}
    return jsonschema.Draft202012Validator(made)


def schema_accepts(definition: str, raw: Any) -> bool:
    return bool(validator(definition).is_valid(raw))


@settings(max_examples=400, deadline=None)
@given(conditions())
def test_a_condition_that_loads_is_one_by_the_schema_and_no_other(raw: Any) -> None:
    assert schema_accepts("Condition", raw) == loads_as(rules=[{"id": "r", "when": raw, "use": ["*"]}])


@settings(max_examples=400, deadline=None)
@given(RUNGS)
def test_a_rung_that_loads_is_one_by_the_schema_and_no_other(raw: Any) -> None:
    assert schema_accepts("Rung", raw) == loads_as(rules=[{"id": "r", "use": [raw]}])


@settings(max_examples=400, deadline=None)
@given(SELECTORS, st.sampled_from(["forbid", "require", "avoid"]))
def test_a_constraint_that_loads_is_one_by_the_schema_and_no_other(raw: Any, effect: str) -> None:
    made = {"id": "c", effect: raw}
    assert schema_accepts("ConstraintDoc", made) == loads_as(constraints=[made])


@pytest.mark.parametrize("more", [{}, {"forbid": "*", "require": "*"}, {"avoid": "*", "forbid": None}, {"x": 1}])
def test_a_constraint_does_one_thing_by_the_schema_too(more: dict[str, Any]) -> None:
    assert not schema_accepts("ConstraintDoc", {"id": "c", **more})
    assert not loads_as(constraints=[{"id": "c", **more}])


#: What loading refuses and no schema can say: said where the schemas are made, and held here so that it stays the list.
UNSAYABLE = {
    "a model nobody knows": {"rules": [{"id": "r", "use": [{"model": "llama-9"}]}]},
    "a family nobody knows": {"rules": [{"id": "r", "use": [{"family": "lama"}]}]},
    "a set that is not declared": {"rules": [{"id": "r", "use": [{"model": "@none"}]}]},
    "an id twice": {"rules": [{"id": "r", "use": ["*"]}, {"id": "r", "use": ["*"]}]},
    "a date of no calendar": {"rules": [{"id": "r", "use": [{"target.retires_on": {"lt": "2026-02-30"}}]}]},
    "a size that is no whole number": {"rules": [{"id": "r", "use": [{"target.window": "0.0001k"}]}]},
    "weights without their rank": {"rules": [{"id": "r", "use": [{"family": "*", "weights": {"scout": 1}}]}]},
    "a tokenizer nobody counts with": {"tokens_by": "qwen9"},
}


@pytest.mark.parametrize("parts", UNSAYABLE.values(), ids=UNSAYABLE)
def test_what_a_schema_cannot_say_is_refused_by_loading(parts: dict[str, Any]) -> None:
    assert jsonschema.Draft202012Validator(schemas.schema("policy.json")).is_valid(document(**parts))
    assert not loads_as(**parts)
