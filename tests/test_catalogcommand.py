"""`pointsman catalog`: what is listed, what is left out and said so, where facts are from, what an overlay changes."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from gateway.catalog.command import Asked, answer
from gateway.catalog.query import Query
from gateway.cli import main

DAY = date(2026, 11, 21)
HEAD = "catalogue: 1\nas_of: 2026-11-21\nsources:\n  own: {as_of: 2026-11-20, kind: operator, ref: our contract}\n"


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def overlay(text: str, name: str = "own.yaml") -> Path:
    path = Path(name)
    path.write_text(HEAD + text)
    return path


def told(capsys: pytest.CaptureFixture[str], query: Query = Query(), **how: Any) -> str:  # noqa: B008 - frozen
    capsys.readouterr()
    answer(Asked(query, **how), cache=None, today=DAY)
    return capsys.readouterr().out


def content(capsys: pytest.CaptureFixture[str], query: Query = Query(), **how: Any) -> dict[str, Any]:  # noqa: B008
    made: dict[str, Any] = json.loads(told(capsys, query, as_json=True, **how))
    return made


def line(text: str, *words: str) -> str:
    """The one line with all of these words, its columns one space apart."""
    (found,) = [one for one in text.splitlines() if set(words) <= set(one.split())]
    return re.sub(r"\s+", " ", found).strip()


def test_models_are_listed_with_what_decides_routes(capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys)
    assert re.match(r"llama-4-scout llama 109B/17B 10,000,000 text\+image never 12 listed", line(text, "llama-4-scout"))
    assert "262,144 text+image+video switchable 201, no list Apache-2.0" in line(text, "qwen3.5-122b-a10b")
    assert "API only" in line(text, "qwen3.7-max")


def test_a_filter_that_only_offers_can_answer_lists_offers(capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, Query(families=("llama",), providers=("deepinfra",), fits=300_000))
    assert line(text, "llama-4-scout", "deepinfra").endswith("327,680 ? 0.1 / 0.3 never")
    assert "llama-3.3-70b" not in text


def test_no_card_counts_as_a_served_window(capsys: pytest.CaptureFixture[str]) -> None:
    found = content(capsys, Query(models=("llama-4-scout",), fits=2_000_000))
    assert found["offers"] == []  # the card's 10M is served by nobody who says so


def test_a_cap_on_the_prompt_is_a_limit_too(capsys: pytest.CaptureFixture[str]) -> None:
    plus = Query(models=("qwen3.7-plus",), providers=("dashscope-intl",))
    assert len(content(capsys, Query(models=plus.models, providers=plus.providers, fits=991_808))["offers"]) == 1
    assert content(capsys, Query(models=plus.models, providers=plus.providers, fits=991_809))["offers"] == []


def test_withdrawn_offers_are_counted_and_shown_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    groq = ("groq",)
    text = told(capsys, Query(models=("llama-4-scout",), providers=groq))
    assert "1 withdrawn left out" in text
    assert "17b-16e" not in text
    shown = told(capsys, Query(models=("llama-4-scout",), providers=groq, withdrawn=True))
    assert line(shown, "llama-4-scout", "groq").endswith("withdrawn 2026-07-17")


def test_what_will_be_withdrawn_is_told_in_order_of_its_day(capsys: pytest.CaptureFixture[str]) -> None:
    days = [offer["retires_on"] for offer in content(capsys, Query(retiring_days=200))["offers"]]
    assert days == sorted(days)
    assert days[0] > DAY.isoformat()
    assert "2027-01-31" in days
    assert content(capsys, Query(retiring_days=1))["offers"] == []


def test_a_language_is_looked_for_in_known_lists_and_silence_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, Query(languages=("th",)))
    assert "llama-3.1-8b" in text
    assert "models publish no list of languages" in text
    assert "qwen3.5-9b" not in {row["id"] for row in content(capsys, Query(languages=("th",)))["models"]}
    assert content(capsys, Query(languages=("ja",)))["models"] == []


def test_a_region_is_the_offers_the_providers_or_the_scope_of_processing(capsys: pytest.CaptureFixture[str]) -> None:
    places = {
        (offer["provider"], tuple(offer["regions"]), offer["processing"])
        for offer in content(capsys, Query(region="eu", withdrawn=True))["offers"]
    }
    assert ("bedrock", ("eu-west-2",), None) in places
    assert ("bedrock", (), "eu") in places
    assert not any(provider == "dashscope-intl" for provider, _, _ in places)
    singapore = content(capsys, Query(region="ap-southeast-1"))["offers"]
    assert {"dashscope-intl"} <= {offer["provider"] for offer in singapore}


def test_licence_and_weights_are_of_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    found = {row["id"] for row in content(capsys, Query(families=("qwen",), license="Apache-2.0"))["models"]}
    assert "qwen3.5-9b" in found
    assert "qwen3.8-2.4t-a95b" not in found
    opened = {row["id"] for row in content(capsys, Query(families=("qwen",), open_weights=True))["models"]}
    assert "qwen3.8-2.4t-a95b" in opened
    assert "qwen3.5-plus" not in opened


def test_tiers_caches_thinking_and_currencies_are_all_in_the_price(capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, Query(providers=("dashscope-intl", "dashscope-cn"), families=("qwen",)))
    assert "0.4 / 1.2 t 4; >256k 1.2 / 3.6 t 12 switchable" in line(text, "qwen-plus-latest")
    assert "0.4 / 1.6 c 0.08; >256k 1.2 / 4.8 c 0.24" in text
    assert "CNY 12 / 36 c 1.5 w 15" in text
    assert "switchable, streamed" in line(text, "qwen3.5-27b", "dashscope-intl")


def test_every_fact_can_be_traced_to_its_source(capsys: pytest.CaptureFixture[str]) -> None:
    own = overlay("models:\n  llama-4-scout: {source: own, images_max: 8}\n")
    text = told(capsys, Query(models=("llama-4-scout",)), sources=True, overlays=(own,))
    assert re.search(r"images_max: 8 +own 2026-11-20, confirmed, own.yaml:6", text)
    assert re.search(r"tokenizer: llama4 +wheel_check 2026-11-21, confirmed, .*models/llama.yaml:\d+", text)
    assert "own: operator, our contract" in text
    groq = told(capsys, Query(models=("llama-4-scout",), providers=("groq",), withdrawn=True), sources=True)
    assert re.search(r"retires_on: 2026-07-17 +groq_changelog 2026-08-10, confirmed", groq)
    assert re.search(r"price: 0.11 / 0.34 +genai_prices 2026-11, secondary", groq)


def test_an_overlay_is_told_fact_by_fact(capsys: pytest.CaptureFixture[str]) -> None:
    own = overlay(
        "models:\n  llama-4-scout: {source: own, images_max: 8, languages: [ar, en]}\n"
        "  house-7b: {source: own, family: house}\n"
        "offers:\n  - {model: llama-4-scout, provider: deepinfra, id: meta-llama/Llama-4-Scout-17B-16E-Instruct,"
        " price: {input: 0.05, output: 0.15}, source: own}\n"
    )
    found = content(capsys, diff=True, overlays=(own,))["changes"]
    made = {(one["thing"], one["fact"]): (one["old"], one["new"]) for one in found}
    scout = "offer llama-4-scout at deepinfra (meta-llama/Llama-4-Scout-17B-16E-Instruct)"
    assert set(made) == {
        ("model llama-4-scout", "images_max"),
        ("model llama-4-scout", "languages"),
        ("model house-7b", "family"),
        (scout, "price"),
    }
    old, new = made[scout, "price"]
    assert (old["value"], old["source"]) == ({"input": 0.1, "output": 0.3}, "litellm_json")
    assert (new["value"], new["place"]) == ({"input": 0.05, "output": 0.15}, "own.yaml:9")
    assert made["model house-7b", "family"][0] is None
    text = told(capsys, diff=True, overlays=(own,))
    assert "  images_max: 5 (llama_models_repo 2025-07-15, " in text
    assert " -> 8 (own 2026-11-20, own.yaml:6)\n" in text
    assert "4 facts differ from the shipped catalogue" in text
    assert "price" not in told(capsys, Query(families=("house",)), diff=True, overlays=(own,))


def test_an_offers_terms_go_over_the_shipped_ones_and_the_rest_stays(capsys: pytest.CaptureFixture[str]) -> None:
    own = overlay(
        "offers:\n  - {model: llama-4-scout, provider: deepinfra, id: meta-llama/Llama-4-Scout-17B-16E-Instruct,"
        " price: {input: 0.05, output: 0.15}, source: own}\n"
    )
    (offer,) = content(capsys, Query(models=("llama-4-scout",), providers=("deepinfra",)), overlays=(own,))["offers"]
    assert (offer["price"], offer["window"]) == ({"input": 0.05, "output": 0.15}, 327_680)


def test_a_price_without_a_currency_over_one_in_yuan_is_in_dollars(capsys: pytest.CaptureFixture[str]) -> None:
    own = overlay(
        "offers:\n  - {model: qwen3.8-max, provider: dashscope-cn, id: qwen3.8-max,"
        " price: {input: 1.7, output: 5}, source: own}\n"
    )
    query = Query(models=("qwen3.8-max",), providers=("dashscope-cn",))
    offer = content(capsys, query, overlays=(own,))["offers"][0]
    assert (offer["price"], offer.get("currency")) == ({"input": 1.7, "output": 5}, None)


# -- the command line --


def test_the_configurations_catalogue_counts_and_a_folder_may_hold_it(capsys: pytest.CaptureFixture[str]) -> None:
    Path("facts").mkdir()
    overlay("models:\n  house-7b: {source: own, family: house}\n", "facts/models.yaml")
    Path("facts/offers.yaml").write_text(
        "catalogue: 1\nas_of: 2026-11-21\nproviders:\n  ours: {source: own, hosts: [llm.example]}\n"
        "offers:\n  - {model: house-7b, provider: ours, id: h7, window: 16k, source: own}\n"
    )
    Path("pointsman.yaml").write_text("catalog: facts\nnot judged here: true\n")
    assert main(["catalog", "--family", "house", "--json", "--offers"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["upstream_id"], one["window"]) for one in found["offers"]] == [("h7", 16_000)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "qwen3.5-plsu"], "no model 'qwen3.5-plsu': did you mean qwen3.5-plus"),
        (["--model", "scout"], "no model 'scout': did you mean llama-4-scout"),
        (["--model", "gpt-4o"], "no model 'gpt-4o': `pointsman catalog` without it lists all"),
        (["--provider", "grok"], "no provider 'grok': did you mean groq?"),
        (["--family", "lama"], "no family 'lama': did you mean llama"),
        (["--license", "apache"], "no license 'apache'"),
        (["--thinking", "sometimes"], "no thinking 'sometimes': one of"),
    ],
)
def test_a_name_that_means_nothing_is_answered_with_one_that_does(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["catalog", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_what_came_along_is_placed_from_where_it_came_along(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["catalog", "--model", "llama-4-scout", "--provider", "deepinfra", "--source"]) == 0
    told = capsys.readouterr().out
    assert ", policies/catalog/models/llama.yaml:" in told
    assert "site-packages" not in told
    assert main(["catalog", "--model", "llama-4-scout", "--provider", "deepinfra"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 offer of 1 model")


def test_nothing_found_is_a_no(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["catalog", "--model", "llama-4-scout", "--fits", "9M"]) == 1
    assert "0 offers" in capsys.readouterr().out


def test_an_overlay_that_does_not_load_is_told_with_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    overlay("models:\n  a: {family: f}\n")
    assert main(["catalog", "--overlay", "own.yaml"]) == 2
    assert "own.yaml:6: models.a.source: is missing: source: a name under sources" in capsys.readouterr().err
    assert main(["catalog", "--overlay", "none.yaml", "--json"]) == 2
    assert "cannot be read" in json.loads(capsys.readouterr().out)["problems"][0]["what"]


@pytest.mark.parametrize("arguments", [["--fits", "3x"], ["--retiring", "soon"]])
def test_an_amount_that_is_none_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["catalog", *arguments])
    assert ended.value.code == 2
    assert "is not" in capsys.readouterr().err
