"""The catalogue: facts with sources, offers that are found, and an operator's file over the shipped one."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest

from gateway import bundled
from gateway.catalog.catalogue import Catalogue, build, load_catalogue
from gateway.core.errors import ConfigError
from gateway.core.terms import Terms
from gateway.yamlfile import load, loads

SHIPPED = bundled.catalogue()
LLAMA_3 = {"en", "de", "fr", "it", "pt", "hi", "es", "th"}
LLAMA_4 = LLAMA_3 | {"ar", "id", "tl", "vi"}
HEAD = "catalogue: 1\nas_of: 2026-11-21\nsources:\n  own: {as_of: 2026-11, kind: operator, ref: our contract}\n"


@pytest.fixture(scope="module")
def shipped() -> Catalogue:
    return load_catalogue([SHIPPED])


def over(text: str) -> Catalogue:
    return build([[load(path) for path in SHIPPED], [loads(HEAD + text, "own.yaml")]])


def told(text: str, *, head: str = HEAD) -> str:
    with pytest.raises(ConfigError) as caught:
        build([[load(path) for path in SHIPPED], [loads(head + text, "own.yaml")]])
    return str(caught.value)


# -- facts that decide routes, each where the documents contradict what is public --


def test_llama_4_has_twelve_languages_and_llama_3_eight(shipped: Catalogue) -> None:
    assert shipped.models["llama-4-scout"].languages == LLAMA_4
    assert shipped.models["llama-3.3-70b"].languages == LLAMA_3
    assert shipped.models["qwen3.5-35b-a3b"].languages is None  # a count is published, no list
    assert shipped.models["qwen3.5-35b-a3b"].language_count == 201


def test_qwen_3_5_takes_262144_tokens_and_llama_4_no_video(shipped: Catalogue) -> None:
    for name in ("397b-a17b", "122b-a10b", "35b-a3b", "27b", "9b", "4b", "2b", "0.8b"):
        assert shipped.models[f"qwen3.5-{name}"].window == 262_144
        assert "video" in shipped.models[f"qwen3.5-{name}"].modalities
    for name in ("llama-4-scout", "llama-4-maverick"):
        assert shipped.models[name].modalities == {"text", "image"}
        assert shipped.models[name].images_max == 5


def test_a_licence_is_of_a_model_and_not_of_a_family(shipped: Catalogue) -> None:
    assert shipped.models["qwen3.5-397b-a17b"].license == "Apache-2.0"
    assert shipped.models["qwen3.8-2.4t-a95b"].license == "qwen3.8-max-license"
    assert shipped.models["qwen3.5-plus"].open_weights is False
    excluded = {name for name, model in shipped.models.items() if model.eu_domiciled_licensee_excluded}
    assert excluded == {"llama-4-scout", "llama-4-maverick", "llama-3.2-11b-vision", "llama-3.2-90b-vision"}


@pytest.mark.parametrize(
    ("model", "thinking"),
    [
        ("llama-4-scout", "never"),
        ("qwen3.5-122b-a10b", "switchable"),
        ("qwen3-coder-next", "never"),
        ("gpt-oss-120b", "always"),
        ("gemma-3-27b", "never"),
        ("deepseek-v3.2", "unknown"),  # it thinks, but no switch is established for every server
        ("qwen3.8-2.4t-a95b", "always"),
    ],
)
def test_whether_a_model_thinks_is_stated_only_as_far_as_it_is_established(
    shipped: Catalogue, model: str, thinking: str
) -> None:
    assert shipped.models[model].thinking == thinking


@pytest.mark.parametrize(
    ("model", "tokenizer"),
    [
        ("llama-4-maverick", "llama4"),
        ("llama-3.1-8b", "llama3"),
        ("qwen3.5-9b", "qwen3.5"),
        ("qwen3-coder-30b-a3b", "qwen3"),
        ("gpt-oss-20b", "o200k"),
        ("deepseek-v3.2", "deepseek"),
        ("gemma-3-4b", None),
        ("qwen3.8-27b", None),
    ],
)
def test_a_tokenizer_is_named_only_where_its_vocabulary_was_compared(
    shipped: Catalogue, model: str, tokenizer: str | None
) -> None:
    assert shipped.models[model].tokenizer == tokenizer


def test_no_served_window_of_scout_is_the_cards(shipped: Catalogue) -> None:
    assert shipped.models["llama-4-scout"].window == 10_000_000
    windows = {
        one.window for (model, _), offers in shipped.offers.items() if model == "llama-4-scout" for one in offers
    }
    assert windows
    assert max(window for window in windows if window) < 2_000_000
    offer = shipped.offer("llama-4-scout", "deepinfra", None)
    assert offer is not None
    assert offer.window == 327_680


def test_a_price_names_its_source_and_date_and_keeps_its_tiers(shipped: Catalogue) -> None:
    offer = shipped.offer("qwen3.5-plus", "dashscope-intl", "ap-southeast-1")
    assert offer is not None
    assert offer.price is not None
    assert offer.price.version == "litellm_json@2026-11"
    assert [(tier.above_input_tokens, tier.input, tier.output) for tier in offer.price.tiers] == [
        (0, 400_000_000, 2_400_000_000),
        (256_000, 500_000_000, 3_000_000_000),
    ]
    assert (offer.window, offer.max_input) == (1_000_000, 991_808)


def test_no_price_is_guessed(shipped: Catalogue) -> None:
    offer = shipped.offer("qwen3.5-flash", "dashscope-intl", "ap-southeast-1")
    assert offer is not None
    assert offer.price is None


def test_withdrawn_offers_keep_the_day_they_were_withdrawn(shipped: Catalogue) -> None:
    offer = shipped.offer("llama-4-scout", "groq", None)
    assert offer is not None
    assert offer.retires_on == date(2026, 7, 17)


def test_a_provider_is_known_by_the_host_it_answers_at(shipped: Catalogue) -> None:
    assert shipped.provider_of("dashscope-intl.aliyuncs.com") == "dashscope-intl"
    assert shipped.provider_of("us-central1-aiplatform.googleapis.com") == "vertex"
    assert shipped.provider_of("dashscope-intl.aliyuncs.com.evil.example") is None
    assert shipped.provider_of("not-openrouter.ai") is None
    assert shipped.provider_of("10.0.0.7") is None


def test_a_region_chooses_among_the_offers_of_one_provider(shipped: Catalogue) -> None:
    def output(region: str | None) -> int | None:
        offer = shipped.offer("qwen3-coder-next", "bedrock", region)
        return None if offer is None or offer.price is None else offer.price.tiers[0].output

    assert output("eu-west-2") == 1_860_000_000
    assert output("us-east-1") == 1_200_000_000
    assert output("us") == 1_200_000_000
    assert output(None) == 1_200_000_000


def test_an_id_chooses_among_the_offers_of_one_model(shipped: Catalogue) -> None:
    first = shipped.offer("llama-3.3-70b", "deepinfra", None)
    turbo = shipped.offer("llama-3.3-70b", "deepinfra", None, "meta-llama/Llama-3.3-70B-Instruct-Turbo")
    assert first is not None
    assert turbo is not None
    assert first.upstream_id == "meta-llama/Llama-3.3-70B-Instruct"
    assert turbo.price != first.price
    assert shipped.offer("llama-3.3-70b", "deepinfra", None, "no-such-id") is None


def test_a_hub_id_is_a_name_of_its_model(shipped: Catalogue) -> None:
    assert shipped.names["Qwen/Qwen3.5-35B-A3B"] == "qwen3.5-35b-a3b"
    assert shipped.names["qwen3.5-35b-a3b"] == "qwen3.5-35b-a3b"


def test_the_shipped_facts_hold_together(shipped: Catalogue) -> None:
    for model in shipped.models.values():
        served = [one.window for (name, _), offers in shipped.offers.items() if name == model.id for one in offers]
        assert model.window or any(served), model.id
        assert model.window_extended is None or model.window_extended > (model.window or 0), model.id
        assert "text" in model.modalities, model.id
        if model.params_total_b is not None and model.params_active_b is not None:
            assert model.params_active_b <= model.params_total_b, model.id
    for offers in shipped.offers.values():
        for offer in offers:
            model = shipped.models[offer.model]
            assert offer.modalities is None or offer.modalities <= model.modalities, offer
            assert offer.max_output is None or offer.window is None or offer.max_output <= offer.window, offer


# -- an operator's file --


def test_an_overlay_corrects_a_fact_and_leaves_the_rest(shipped: Catalogue) -> None:
    known = over("models:\n  llama-4-scout: {source: own, images_max: 8}\n")
    assert known.models["llama-4-scout"].images_max == 8
    assert known.models["llama-4-scout"].languages == shipped.models["llama-4-scout"].languages
    assert known.models["llama-4-maverick"] == shipped.models["llama-4-maverick"]


def test_an_overlay_adds_models_providers_and_offers() -> None:
    known = over(
        "providers:\n  ours: {source: own, hosts: [llm.example]}\n"
        "models:\n  house-7b: {source: own, family: house, window: 32k, aliases: [house]}\n"
        "offers:\n  - {model: house-7b, provider: ours, id: h7, window: 16k,"
        " price: {input: 0.1, output: 0.2}, source: own}\n"
    )
    offer = known.offer("house-7b", "ours", None)
    assert offer is not None
    assert offer.price is not None
    assert offer.price.version == "own@2026-11"
    assert known.names["house"] == "house-7b"
    assert known.provider_of("llm.example") == "ours"


def test_an_overlays_price_goes_before_the_shipped_one() -> None:
    known = over(
        "offers:\n  - {model: llama-4-scout, provider: deepinfra, id: meta-llama/Llama-4-Scout-17B-16E-Instruct,"
        " window: 327680, price: {input: 0.05, output: 0.15}, source: own}\n"
    )
    offer = known.offer("llama-4-scout", "deepinfra", None)
    assert offer is not None
    assert offer.price is not None
    assert offer.price.tiers[0].input == 50_000_000


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("offers: [{model: llama-4-scout, provider: groq, id: x}]", "own.yaml:5: offers[0].source: is missing"),
        ("offers: [{model: llama-4-scout, provider: groq, id: x, source: hearsay}]", "no source 'hearsay'"),
        ("offers: [{model: llama-5, provider: groq, id: x, source: own}]", "offers[0].model: no model 'llama-5'"),
        ("offers: [{model: llama-4-scout, provider: grok, id: x, source: own}]", "'grok': did you mean groq?"),
        ("models: {llama-4-scout: {images_max: 8}}", "models.llama-4-scout.source: is missing"),
        ("models: {llama-4-scout: {source: own, licence: MIT}}", "no key 'licence' here: did you mean license?"),
        ("models: {new: {source: own}}", "models.new: has no family"),
        ("models: {a: {source: own, family: f, languages: [english]}}", "'english' is not a language code"),
        ("models: {a: {source: own, family: f, thinking: sometimes}}", "'sometimes' is not known here"),
        ("models: {a: {source: own, family: f, sources: {widow: own}}}", "no fact 'widow': did you mean window?"),
        ("models: {a: {source: own, family: f, aliases: [llama-4-scout]}}", "already names llama-4-scout"),
        (
            "models: {meta-llama: {source: own, family: f}, b: {source: own, family: f, aliases: [meta-llama]}}",
            "already",
        ),
        (
            "offers: [{model: llama-4-scout, provider: groq, id: x, source: own},"
            " {model: llama-4-scout, provider: groq, id: x, source: own}]",
            "offers[1]: x of groq is listed twice",
        ),
    ],
)
def test_what_has_no_source_or_no_meaning_does_not_load(text: str, says: str) -> None:
    assert says in told(text + "\n")


def test_a_source_without_a_date_does_not_load() -> None:
    head = "catalogue: 1\nas_of: 2026-11-21\nsources:\n  own: {kind: operator, ref: us}\n"
    assert "own.yaml:4: sources.own.as_of: is missing" in told("", head=head)


def test_a_missing_overlay_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mine\.yaml: cannot be read"):
        load_catalogue([SHIPPED, [tmp_path / "mine.yaml"]])


# -- licences --


def test_what_a_licence_says_holds_for_every_model_under_it(shipped: Catalogue) -> None:
    scout, qwen, plus = (shipped.models[name] for name in ("llama-4-scout", "qwen3.5-9b", "qwen3.5-plus"))
    assert (scout.terms.osi_approved, scout.terms.mau_clause, scout.terms.mau_limit) == (False, True, 700_000_000)
    assert (scout.terms.acceptable_use_policy, scout.terms.attribution) == (True, True)
    assert (qwen.terms.osi_approved, qwen.terms.mau_clause, qwen.terms.acceptable_use_policy) == (True, False, False)
    assert qwen.eu_domiciled_licensee_excluded is False
    assert plus.terms == Terms()  # a provider's terms: nothing is known, so nothing can be required of it
    assert plus.eu_domiciled_licensee_excluded is None


def test_only_licences_whose_terms_are_known_pass_for_free_of_clauses(shipped: Catalogue) -> None:
    free = {model.license for model in shipped.models.values() if model.terms.mau_clause is False}
    assert free == {"Apache-2.0", "MIT"}
    assert shipped.models["qwen3.8-2.4t-a95b"].terms.mau_clause is True
    assert shipped.models["qwen3.8-flash-next"].terms.mau_clause is None  # nobody here has read it


def test_a_licence_of_ones_own_is_stated_once_for_its_models() -> None:
    known = over(
        "licenses:\n  house: {mau_clause: true, mau_limit: 5000, source: own}\n"
        "models:\n  a: {family: x, license: house, source: own}\n  b: {base: qwen3.5-9b, license: house, source: own}\n"
    )
    assert [known.models[name].terms.mau_limit for name in "ab"] == [5000, 5000]
    assert known.models["b"].terms.osi_approved is None


def test_a_limit_of_users_needs_a_clause() -> None:
    assert "licenses.l: has a mau_limit and no mau_clause" in told("licenses:\n  l: {mau_limit: 5, source: own}\n")
    assert "there is no fact 'osi'" in told("licenses:\n  l: {source: own, sources: {osi: own}}\n")


# -- fine-tunes --

TUNES = """models:
  tune: {base: Qwen/Qwen3.5-27B, lineage: [tickets], evals: {triage: 71.5, tone: 3}, source: own}
  older: {base: tune, window: 8k, languages: [en, ja], license: MIT, source: own}
  plain: {family: house, source: own}
"""


def test_a_fine_tune_has_what_its_base_has_unless_it_says_otherwise() -> None:
    known = over(TUNES).models
    base, tune, older = known["qwen3.5-27b"], known["tune"], known["older"]
    assert (tune.family, tune.window, tune.tokenizer, tune.license) == ("qwen", base.window, "qwen3.5", "Apache-2.0")
    assert (tune.language_count, tune.terms, tune.params_total_b) == (201, base.terms, 27)
    assert (tune.aliases, tune.released, tune.base) == ((), None, "Qwen/Qwen3.5-27B")
    assert (older.window, older.languages, older.license) == (8000, {"en", "ja"}, "MIT")
    assert older.tokenizer == "qwen3.5"


def test_scores_are_of_the_one_that_was_measured_and_none_is_built_in(shipped: Catalogue) -> None:
    known = over(TUNES).models
    assert known["tune"].evals == (("tone", 3.0), ("triage", 71.5))
    assert known["older"].evals == ()
    assert not any(model.evals for model in shipped.models.values())


def test_a_lineage_names_labels_and_bases_nearest_first() -> None:
    known = over(TUNES).models
    assert known["tune"].lineage == ("tickets", "qwen3.5-27b")
    assert known["older"].lineage == ("tune", "tickets", "qwen3.5-27b")
    assert known["plain"].lineage is None


def test_what_changes_at_the_base_changes_at_its_fine_tunes() -> None:
    later = loads(HEAD + "models:\n  qwen3.5-27b: {window: 100k, source: own}\n", "later.yaml")
    made = build([[load(path) for path in SHIPPED], [loads(HEAD + TUNES, "own.yaml")], [later]])
    assert made.models["tune"].window == 100_000


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("models:\n  t: {base: qwen3.5-72b, source: own}\n", "own.yaml:6: models.t.base: no model 'qwen3.5-72b'"),
        ("models:\n  t: {base: t, source: own}\n", "own.yaml:6: models.t.base: goes round in a circle: t from t"),
        ("models:\n  a: {base: b, source: own}\n  b: {base: a, source: own}\n", "b.base: goes round in a circle"),
        ("models:\n  t: {source: own}\n", "base: the model it was made from"),
        ("models:\n  t: {base: qwen3.5-9b, evals: {'a b': 1}, source: own}\n", "models.t.evals"),
        ("models:\n  t: {base: qwen3.5-9b, evals: {a: high}, source: own}\n", "own.yaml:6: models.t.evals.a"),
        ("models:\n  t: {base: qwen3.5-9b, quantization: q9, source: own}\n", "'q9' is no quantization that is known"),
    ],
)  # fmt: skip
def test_a_base_that_is_none_does_not_load(text: str, says: str) -> None:
    assert says in told(text)


def test_the_files_of_the_readme_load() -> None:
    readme = (bundled.policies() / "catalog" / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```yaml\n(# yaml-language-server.*?)^```$", readme, re.M | re.S)
    known = build([[load(path) for path in SHIPPED], [loads(example, "my-models.yaml")]])
    assert known.models["support-27b"].lineage == ("tickets-2026", "qwen3.5-27b")
    assert known.models["draft-3b"].terms.acceptable_use_policy is True
