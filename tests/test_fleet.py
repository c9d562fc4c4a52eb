"""From backends and targets to a fleet: prices, places, scopes and thinking, as the catalogue or the file has them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gateway.config import FleetDoc
from gateway.core.errors import ConfigError
from gateway.core.money.pricing import cost
from gateway.core.request.wire import parse
from gateway.core.servers.dialects import prepare, request_body
from gateway.core.types import NANO_PER_USD, Target, Thinking, Timeouts, Usage
from gateway.fleet import FleetBuilder
from gateway.policyfile import load_catalogue
from gateway.problems import validated
from gateway.yamlfile import loads

KNOWN = load_catalogue()
ALIBABA = "dialect: dashscope, processing: global, base_url: https://dashscope-intl.aliyuncs.com/compatible-mode/v1"
BEIJING = "dialect: dashscope, base_url: https://dashscope.aliyuncs.com/compatible-mode/v1"
OWN = "dialect: vllm, self_hosted: true, base_url: http://10.0.0.7:8000/v1"


class Built(NamedTuple):
    targets: tuple[Target, ...]
    found: list[str]
    warnings: list[str]


def built(backend: str, target: str, more: str = "") -> Built:
    text = f"backends:\n  b: {{{backend}}}\ntargets:\n  t: {{backend: b, {target}}}\n{more}"
    document = loads(text, "pointsman.yaml")
    builder = FleetBuilder(document, KNOWN, {}, Path(), Timeouts(), secrets=False)
    fleet = builder.build(validated(document, FleetDoc))
    return Built(fleet.targets, [str(one) for one in builder.found], builder.warnings)


def target(backend: str, written: str, more: str = "") -> Target:
    made = built(backend, written, more)
    assert not made.found
    (one,) = made.targets
    return one


def usd(one: Target, usage: Usage, *, thinking: bool = False) -> float:
    assert one.price is not None
    return cost(one.price, usage, thinking) / NANO_PER_USD


# -- what a target costs --


def test_the_catalogues_price_comes_whole_with_tiers_cache_and_thinking() -> None:
    plus = target(ALIBABA, "model: qwen3.7-plus, price: catalog")
    assert usd(plus, Usage(input=200_000, cached=100_000, output=1_000_000)) == pytest.approx(0.04 + 0.008 + 1.6)
    assert usd(plus, Usage(input=400_000, cached=100_000, output=0)) == pytest.approx(0.36 + 0.024)  # all at the tier
    thinker = target(ALIBABA, "model: qwen-plus-latest, price: catalog")
    answer = Usage(input=0, output=1_000_000)
    assert (usd(thinker, answer), usd(thinker, answer, thinking=True)) == (1.2, 4.0)
    assert thinker.price is not None
    assert thinker.price.version == "litellm_json@2026-11"


def test_a_price_of_the_file_goes_before_the_catalogues_and_may_have_all_of_that_too() -> None:
    flat = target(ALIBABA, "model: qwen3.7-plus, price: {input: 1, output: 2, cached_input: 0.1, thinking_output: 3}")
    assert usd(flat, Usage(input=1_000_000, cached=1_000_000, output=1_000_000), thinking=True) == pytest.approx(3.1)
    tiers = "price: [{above: 0, input: 1, output: 1}, {above: 100000, input: 2, output: 2, cache_write: 2.5}]"
    tiered = target(ALIBABA, f"model: qwen3.7-plus, {tiers}")
    assert usd(tiered, Usage(input=100_000)) == pytest.approx(0.1)
    assert usd(tiered, Usage(input=1_000_000, written=1_000_000)) == pytest.approx(2.5)
    assert tiered.price is not None
    assert tiered.price.version.startswith("pointsman.yaml@")


def test_an_own_server_costs_its_hour_over_the_tokens_it_gets_through() -> None:
    scout = target(OWN, "model: llama-4-scout, window: 1M, price: {gpu_hour_usd: 3.20, tokens_per_hour: 40M}")
    assert usd(scout, Usage(input=30_000_000, output=10_000_000)) == pytest.approx(3.20)


def test_prices_in_another_currency_count_at_the_operators_rate_only() -> None:
    written = "model: qwen3.8-max, price: catalog"
    refused = built(BEIJING, written)
    assert refused.found == [
        "pointsman.yaml:4: targets.t.price: its list price is in CNY, and there is no rate for it: "
        "currencies: {CNY: ...}, USD for one unit; or a price in USD"
    ]
    unpriced = built(BEIJING, "model: qwen3.8-max")
    assert not unpriced.found
    assert "its list price is in CNY, and there is no rate for it" in unpriced.warnings[0]
    rated = target(BEIJING, written, "currencies: {CNY: 0.14}\n")
    assert usd(rated, Usage(input=1_000_000, output=1_000_000)) == pytest.approx(12 * 0.14 + 36 * 0.14)
    assert rated.price is not None
    assert rated.price.version == "model_bank@2026-09-27 CNY=0.14"


@pytest.mark.parametrize(
    ("rates", "says"),
    [
        ("{CNY: 0}", "currencies.CNY: a rate of 0 would make everything free"),
        ("{yuan: 0.14}", "'yuan' is not a currency: three capital letters"),
        ("{CNY: -1}", "currencies.CNY: -1 is not an amount"),
        ("0.14", "currencies: 0.14 is not a mapping"),
    ],
)
def test_a_rate_that_is_none_is_refused(rates: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        built(BEIJING, "model: qwen3.8-max", f"currencies: {rates}\n")
    assert says in str(caught.value)


# -- where it stands, and where its data goes --


@pytest.mark.parametrize(
    ("url", "region"),
    [
        ("https://bedrock-runtime.eu-west-2.amazonaws.com/openai/v1", "eu-west-2"),
        ("https://w1.eu-central-1.maas.aliyuncs.com/compatible-mode/v1", "eu-central-1"),
        ("https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "ap-southeast-1"),
        ("https://api.deepinfra.com/v1/openai", None),
        ("https://bedrock-runtime.eu-west-2.amazonaws.com.evil.example/openai/v1", None),
    ],
)
def test_a_host_tells_its_region_where_the_provider_says_how(url: str, region: str | None) -> None:
    one = target(f"dialect: openai, base_url: {url!r}", "model: llama-4-scout, window: 100k, price: none")
    assert one.backend.region == region


RUNTIME = "dialect: openai, base_url: https://bedrock-runtime.{}.amazonaws.com/openai/v1"


def test_the_region_chooses_among_the_terms_of_one_model() -> None:
    london, ohio = (target(RUNTIME.format(place), "model: qwen3-coder-next") for place in ("eu-west-2", "us-east-2"))
    assert [usd(one, Usage(output=1_000_000)) for one in (london, ohio)] == [1.86, 1.2]


def test_a_scope_of_processing_chooses_the_id_that_keeps_to_it() -> None:
    plain = target(RUNTIME.format("us-east-1"), "model: llama-4-maverick")
    assert plain.upstream_id == "meta.llama4-maverick-17b-instruct-v1:0"
    scoped = target(RUNTIME.format("us-east-1") + ", processing: us", "model: llama-4-maverick")
    assert scoped.upstream_id == "us.meta.llama4-maverick-17b-instruct-v1:0"
    assert built(RUNTIME.format("us-east-1") + ", processing: us", "model: llama-4-maverick").warnings == []


def test_an_id_of_another_scope_than_the_backend_says_is_warned_of() -> None:
    wide = "model: llama-4-maverick, upstream_id: 'us.meta.llama4-maverick-17b-instruct-v1:0'"
    (warning,) = built(RUNTIME.format("us-east-1"), wide).warnings
    assert "is processed in scope us, while its backend says nothing" in warning
    (warning,) = built(RUNTIME.format("us-east-1") + ", processing: us-east-1", wide).warnings
    assert "while its backend says us-east-1" in warning


# -- thinking --


def test_an_id_that_thinks_otherwise_than_its_model_says_so() -> None:
    instruct = target(ALIBABA, "model: qwen3-vl-32b")
    thinking = target(ALIBABA, "model: qwen3-vl-32b, upstream_id: qwen3-vl-32b-thinking")
    assert (instruct.upstream_id, instruct.thinking) == ("qwen3-vl-32b-instruct", "unknown")
    assert (thinking.thinking, thinking.thinking_needs_stream) == ("always", True)


def test_that_thinking_needs_a_stream_is_a_fact_of_the_server_and_can_be_put_right() -> None:
    rented = target(ALIBABA, "model: qwen3.5-27b")
    assert (rented.thinking, rented.thinking_needs_stream) == ("switchable", True)
    assert not target(ALIBABA, "model: qwen3.5-27b, thinking_needs_stream: false").thinking_needs_stream
    assert not target(OWN, "model: qwen3.5-27b, window: 100k, price: none").thinking_needs_stream
    assert target(OWN, "model: qwen3.5-27b, window: 100k, thinking_needs_stream: true").thinking_needs_stream


# -- dialects of one's own --


def own(like: str, says: str) -> Target:
    backend = "dialect: mine, base_url: http://10.0.0.7:8000"
    return target(
        backend, "model: qwen3.5-9b, window: 8192, price: none", f"dialects: {{mine: {{like: {like}, {says}}}}}\n"
    )


def body(one: Target, **members: Any) -> dict[str, Any]:
    asked = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], **members}
    made = request_body(parse(json.dumps(asked).encode()), prepare(one), Thinking("client"))
    return dict(json.loads(made))


@pytest.mark.parametrize(
    ("like", "member"),
    [("openrouter", "models"), ("openrouter", "preset"), ("sglang", "lora_path"), ("sglang", "custom_logit_processor")],
)
def test_what_a_client_could_choose_another_model_by_is_left_out_of_a_dialect_like_one_that_has_it(
    like: str, member: str
) -> None:
    sent = body(own(like, "drops: [seed]"), **{member: "x"}, seed=1, store=False)
    assert member not in sent
    assert "seed" not in sent
    assert sent["store"] is False


def test_a_body_of_ones_own_is_joined_with_that_of_the_dialect_it_is_like() -> None:
    sent = body(own("openrouter", "body: {provider: {order: [acme]}, user: gateway}"))
    assert sent["provider"] == {"require_parameters": True, "order": ["acme"]}
    assert sent["plugins"] == [{"id": "context-compression", "enabled": False}]
    assert sent["user"] == "gateway"


def test_a_template_with_another_word_for_thinking_is_told_by_it() -> None:
    """DeepSeek's, on a server of one's own."""
    one = replace(own("vllm", "thinking: {switch: chat_template_kwargs.thinking}"), thinking="switchable")
    hi = [{"role": "user", "content": "hi"}]
    asked = {"model": "auto", "messages": hi, "chat_template_kwargs": {"enable_thinking": True, "x": 1}}
    made = json.loads(request_body(parse(json.dumps(asked).encode()), prepare(one), Thinking("never")))
    assert made["chat_template_kwargs"] == {"thinking": False, "x": 1}


def test_what_ollama_has_no_words_for_goes_elsewhere_whatever_a_dialect_like_it_refuses() -> None:
    one = own("ollama", "refuses: [seed]")
    assert one.unsupported >= {"seed", "tool_choice", "n", "logit_bias"}
    assert own("groq", "refuses: [seed]").unsupported.isdisjoint({"n", "logprobs"})


# -- what a place holds --


def test_what_needs_more_memory_than_there_is_does_not_load() -> None:
    (said,) = built(f"{OWN}, memory_gb: 8", "model: qwen3.5-27b, window: 32k").found
    assert "pointsman.yaml:4: targets.t: qwen3.5-27b needs 54 GB for its weights alone (bf16), and has 8 GB" in said
    assert "a smaller model, or more memory" in said
    assert built(f"{OWN}, memory_gb: 8", "model: qwen3.5-27b, window: 32k, quantization: q2_k").found
    assert (
        "quantization: q6_k or smaller, if it is served so"
        in built(f"{OWN}, memory_gb: 8", "model: qwen3.5-9b, window: 32k").found[0]
    )


@pytest.mark.parametrize("smaller", ["quantization: q4_k_m", "memory_gb: 80"])
def test_smaller_weights_or_a_target_with_more_of_its_own_do(smaller: str) -> None:
    one = target(f"{OWN}, memory_gb: 8", f"model: qwen3.5-9b, window: 32k, {smaller}")
    assert (one.memory_gb, one.memory_needed_gb) in [(8, 5.4), (80, 18.0)]


def test_what_is_published_small_is_small() -> None:
    assert target(f"{OWN}, memory_gb: 80", "model: gpt-oss-120b, window: 32k").memory_needed_gb == 62.2


def test_memory_that_cannot_be_judged_is_told() -> None:
    made = built(f"{OWN}, memory_gb: 8", "model: qwen3.5-plus, window: 32k")
    assert not made.found
    assert any("nobody says how many parameters qwen3.5-plus has" in said for said in made.warnings)


def test_throughput_comes_from_the_file_and_from_a_gpu_price() -> None:
    one = target(OWN, "model: qwen3.5-9b, window: 8k, tokens_per_s: 85, price: {gpu_hour_usd: 2, tokens_per_hour: 40M}")
    assert (one.tokens_per_s, one.tokens_per_hour) == (85, 40_000_000)


# -- where it stands, and who it is --


def test_a_backend_says_where_it_stands_and_whose_law_it_answers_to() -> None:
    one = target(f"{OWN}, country: DE, jurisdiction: US", "model: qwen3.5-9b, window: 8k")
    assert (one.backend.country, one.backend.jurisdiction, one.backend.provider) == ("DE", "US", None)
    assert target(ALIBABA, "model: qwen3.5-plus").backend.provider == "dashscope-intl"


@pytest.mark.parametrize("wrong", ["country: Germany", "jurisdiction: UK", "memory_gb: 0", "memory_gb: lots"])
def test_a_place_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"pointsman.yaml:2: backends.b"):
        built(f"{OWN}, {wrong}", "model: qwen3.5-9b, window: 8k")


@pytest.mark.parametrize("snapshot", ["qwen3.5-plus-2026-02-15", "qwen3.5-plus@20260215"])
def test_a_dated_snapshot_has_the_facts_of_its_model_and_is_asked_for_by_its_own_name(snapshot: str) -> None:
    one = target(ALIBABA, f"model: {snapshot}")
    plain = target(ALIBABA, "model: qwen3.5-plus")
    assert (one.model, one.window, one.price) == (plain.model, plain.window, plain.price)
    assert (one.upstream_id, plain.upstream_id) == (snapshot, "qwen3.5-plus")
    assert target(ALIBABA, f"model: {snapshot}, upstream_id: own, window: 8k").upstream_id == "own"


def test_a_number_is_no_date() -> None:
    assert "no model 'qwen3.5-plus-2507'" in built(ALIBABA, "model: qwen3.5-plus-2507").found[0]
