"""What removes targets binds on every way in: rules, fallbacks, pins, aliases, map entries, headers and keys (R rows).

The serving code's own parse, names, signals and decision over the reference fleet, with the shipped policies. For each
row that is a filter, every target that it must keep away is asked for in every way there is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ruamel.yaml import YAML

from gateway.core.errors import GatewayError
from gateway.core.text.tokens import Tokenizers
from gateway.core.types import Target
from gateway.explain.request import explain
from gateway.site import Site, load_lexicon, load_site

ROOT = Path(__file__).parent.parent
TODAY = date(2026, 11, 22)
NOW = 1_795_350_000.0  # that day
OPEN = {"Apache-2.0", "MIT"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
JAPANESE = "来週の京都旅行のおすすめの計画を教えてください。よろしくお願いします。"


def chat(*parts: Any, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello there."}, *parts]}], **more}


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **more}


class Case(NamedTuple):
    """A request or a tenant to which a row applies, and the targets that must never get it."""

    row: str
    barred: Callable[[Target], bool]
    body: dict[str, Any] = said("Hello there.")
    tenant: Mapping[str, str] = {}
    policy: str = "default"
    headers: Mapping[str, str] = {}


CASES = (
    Case("R-03", lambda t: t.window < 300_000, said("7 " * 200_000)),
    Case("R-05", lambda t: t.model.languages is not None and "ja" not in t.model.languages, said(JAPANESE),
         policy="multilingual-support"),
    Case("R-07", lambda t: "video" not in t.modalities,
         chat({"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}})),
    Case("R-07", lambda t: "audio" not in t.modalities,
         chat({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}})),
    Case("R-07", lambda t: "other" not in t.modalities,
         chat({"type": "image_embeds", "image_embeds": "AAAA"})),
    Case("R-07", lambda t: "other" not in t.modalities, said("Hello there.", modalities=["text", "audio"])),
    Case("R-07", lambda t: "image" not in t.modalities,
         {"messages": [{"role": "user", "content": "Hello there.", "images": ["aGVsbG8="]}]}),
    Case("R-08", lambda t: (t.model.images_max or 99) < 6 or "image" not in t.modalities, chat(*[IMAGE] * 6)),
    Case("R-09", lambda t: not t.tools,
         said("Hello there.", tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}])),
    Case("R-12", lambda t: t.model.license not in OPEN, tenant={"licence": "no_mau_clause"}),
    Case("R-13", lambda t: t.model.license not in OPEN, policy="licence-safe"),
    Case("R-14", lambda t: not (t.backend.region or "").startswith(("us", "eu")), tenant={"cloud": "western"}),
    Case("R-15", lambda t: not (t.backend.region or "").startswith(("ap", "cn", "sg")), tenant={"cloud": "apac"}),
    Case("R-16", lambda t: not (t.backend.processing or "").startswith("eu"), tenant={"residency": "eu"}),
    Case("R-16", lambda t: not (t.backend.processing or "").startswith("us"),
         headers={"x-pointsman-residency": "us"}),
    Case("R-17", lambda t: not t.backend.self_hosted, tenant={"sovereign": "DE"}),
    Case("R-17", lambda t: not t.backend.self_hosted, policy="sovereign",
         tenant={"sovereign": "DE", "residency": "eu"}),
    Case("R-18", lambda t: (t.memory_gb or 99) > 16 or not t.backend.self_hosted, policy="edge"),
    Case("R-20", lambda t: t.price is None, tenant={"max_cost_usd": "100"}),
    Case("R-20", lambda t: t.price is None or t.price.tiers[0].output > 2_000_000_000,
         said("Hello there.", max_tokens=4_000), headers={"x-pointsman-max-cost-usd": "0.008"}),
    Case("R-21", lambda t: not t.structured_output,
         said("Hello.", response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {}}})),
    Case("R-21", lambda t: not t.structured_output,
         said("Hello.", response_format={"type": "grammar", "grammar": "x"})),
    Case("R-26", lambda t: not t.model.open_weights, policy="licence-safe"),
    Case("R-32", lambda t: t.retires_on is not None and t.retires_on <= TODAY),
    Case("R-35", lambda t: t.backend.self_hosted and t.model.eu_domiciled_licensee_excluded,
         tenant={"domicile": "DE"}),
)  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The reference fleet as an installation: a name of the map for every target, and three keys for every case."""
    fleet = YAML(typ="safe").load((ROOT / "policies/catalog/reference-fleet.yaml").read_text("utf-8"))
    fleet["targets"]["gemma27-deepinfra"]["tools"] = False  # all others have them
    fleet["targets"]["scout-us"]["modalities"] = [
        "text",
        "image",
        "other",
    ]  # nobody else is known to read what is unknown
    keys = []
    for number, case in enumerate(CASES):
        of = {"tenant": dict(case.tenant), "explain": True}
        keys += [
            {"name": f"own-{number}", "policy": case.policy, **of},
            {"name": f"named-{number}", "policy": case.policy, "allow": [*fleet["targets"]], **of},
            {"name": f"default-{number}", "allow": ["auto", *fleet["targets"]], **of},
        ]
    for key in keys:
        key["sha256"] = hashlib.sha256(key["name"].encode()).hexdigest()
    made = {
        **fleet,
        "policies": {"default": "default"},
        "models": {f"my-{name}": name for name in fleet["targets"]},
        "keys": keys,
    }
    path = tmp_path_factory.mktemp("filters") / "pointsman.yaml"
    path.write_text(json.dumps(made), encoding="utf-8")
    return load_site(path, {}, secrets=False, tests=False, today=TODAY)


def ways(site: Site, case: Case, number: int, barred: list[Target]) -> Iterator[tuple[str, str, dict[str, str], int]]:
    """Key, `model`, headers and which targets are up, in every way that could lead to one that is barred."""
    everything = site.fleet.mask()
    only_barred = sum(1 << target.index for target in barred)
    keys = [f"own-{number}", f"named-{number}"] + [f"default-{number}"] * (case.policy == "default")
    for key in keys:
        for up in (everything, only_barred):
            for model in ("auto", f"auto/{case.policy}"):
                yield key, model, {}, up
                for other in site.policies:
                    yield key, model, {"x-pointsman-policy": other}, up
                wider = {"region": "us", "residency": "us", "workload": "bulk", "cost": "low", "max-cost-usd": "1000"}
                for name, value in wider.items():
                    if f"x-pointsman-{name}" not in case.headers:
                        yield key, model, {f"x-pointsman-{name}": value}, up
        for target in barred:
            for model in {target.name, target.model.id, *target.model.aliases, f"my-{target.name}"}:
                yield key, model, {}, everything
                yield key, model, {"x-pointsman-policy": "cost-first"}, only_barred


@pytest.mark.parametrize("number", range(len(CASES)), ids=[f"{case.row}-{n}" for n, case in enumerate(CASES)])
def test_no_way_in_leads_past_a_filter(site: Site, number: int) -> None:
    case = CASES[number]
    barred = [target for target in site.fleet.targets if case.barred(target)]
    assert barred, "the fleet has nobody to keep away"
    lexicon, tokenizers = load_lexicon(), Tokenizers({})
    served = 0
    for key, model, headers, up in ways(site, case, number, barred):
        try:
            found = explain(
                site,
                json.dumps({"model": model, **case.body}, ensure_ascii=False).encode(),
                headers={**case.headers, **headers},
                tenant=site.keys[hashlib.sha256(key.encode()).digest()].tenant,
                tokenizers=tokenizers,
                lexicon=lexicon,
                now=NOW,
                available=up,
                last_resort=(site.fleet.mask(),),
            )
        except GatewayError:
            continue
        candidates = found.trace.decision.candidates
        passed = [target.name for target in candidates if case.barred(target)]
        assert passed == [], f"key {key}, model {model}, {headers}: {found.trace.decision.because}"
        served += bool(candidates)
    assert served, "all was refused: this proves nothing"
