"""The committed JSON Schemas are the models', accept what ships, and refuse what loading refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gateway import schemas
from gateway.yamlfile import load, loads

jsonschema = pytest.importorskip("jsonschema")

ROOT = Path(__file__).parent.parent
FILES = sorted([*ROOT.glob("policies/*.yaml"), *ROOT.glob("policies/catalog/**/*.yaml"), *ROOT.glob("*.example.yaml")])
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
    if match is None and path.name == "lexicon.yaml":
        pytest.skip("the lexicon has no schema")
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
