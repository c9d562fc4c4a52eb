import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from gateway.core.errors import BadRequest
from gateway.core.reading.lexicon import Lexicon
from gateway.core.reading.signals import Signals
from gateway.core.reading.sizes import NeedsCount
from gateway.core.request.hints import Hints
from gateway.core.request.wire import parse
from gateway.core.text.tokens import Bounds, Tokenizers
from gateway.core.types import Backend, Model, Target, Tenant


def words(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]


RULES = {
    "look": {"head": 600, "tail": 300},
    "decide": {"task": 3, "margin": 1, "easy": 3, "hard": 3},
    "rules": [
        {"id": "code", "task": "code", "difficulty": "hard", "points": 3, "words": ["python"]},
        {"id": "poem", "task": "creative", "difficulty": "easy", "points": 3, "words": ["poem"]},
    ],
}


def signals(
    content: Any = "hi",
    *,
    tenant: Mapping[str, str] | None = None,
    hints: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    tokenizers: Tokenizers | None = None,
    blocking: bool = False,
    messages: list[Any] | None = None,
    **members: Any,
) -> Signals:
    body = {"model": "auto", "messages": messages or [{"role": "user", "content": content}], **members}
    return Signals.of(
        parse(json.dumps(body).encode()),
        tenant=Tenant("key", tenant or {}),
        hints=Hints.parse({f"x-pointsman-{name}": value for name, value in (hints or {}).items()}),
        headers=headers or {},
        tokenizers=tokenizers or Tokenizers({"words": words}),
        lexicon=Lexicon.compile(RULES),
        now=0.0,
        blocking=blocking,
    )


def target(window: int, tokenizer: str | None = "words", typical: int = 500) -> Target:
    return Target(
        name="t",
        index=0,
        model=Model(id="m", family="f", tokenizer=tokenizer),
        backend=Backend("b", "openai", ()),
        upstream_id="m",
        window=window,
        typical_output_tokens=typical,
    )


# --- what is read off the request -------------------------------------------------------------------------------------

TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("made", "name", "value"),
    [
        (signals(tools=[TOOL]), "tools", True),
        (signals(tools=[]), "tools", False),
        (signals(), "tools", False),
        (signals(response_format={"type": "json_schema", "json_schema": {}}), "structured_output", "json_schema"),
        (signals(response_format={"type": "text"}), "structured_output", None),
        (signals(response_format={"type": "grammar", "grammar": "x"}), "structured_output", "other"),
        (signals(response_format={"type": "JSON_OBJECT"}), "structured_output", "other"),
        (signals(reasoning_effort="high"), "effort", "high"),
        (signals(reasoning_effort="auto"), "effort", None),
        (signals(reasoning={"effort": "low"}), "effort", "low"),
        (signals(enable_thinking=False), "effort", "none"),
        (signals(chat_template_kwargs={"enable_thinking": True}), "effort", "medium"),
        # Whatever a target would be told, it must be able to promise.
        (signals(think=False), "effort", "none"),
        (signals(think="high"), "effort", "high"),
        (signals(reasoning={"enabled": False}), "effort", "none"),
        (signals(thinking={"type": "disabled"}), "effort", "none"),
        (signals(thinking={"type": "enabled", "budget_tokens": 2048}), "effort", "medium"),
        (signals(thinking_budget=0), "effort", "none"),
        (signals(reasoning={"max_tokens": 2048}), "effort", "medium"),
        (signals(enable_thinking=False, reasoning_effort="high"), "effort", "none"),
        (signals(enable_thinking=True, reasoning_effort="none"), "effort", "medium"),
        (signals(enable_thinking=None), "effort", None),
        (signals(), "effort", None),
        (signals(max_tokens=7), "max_output_tokens", 7),
        (signals(max_tokens=7, max_completion_tokens=9), "max_output_tokens", 9),
        (signals(), "max_output_tokens", None),
        (signals(stream=True), "stream", True),
        (signals(), "modality", frozenset({"text"})),
        (signals([{"type": "image_url", "image_url": {"url": "https://x/y"}}]), "images", 1),
        (signals([{"type": "image_url", "image_url": {"url": "https://x/y"}}]), "modality", {"text", "image"}),
        (signals([{"type": "image_embeds", "image_embeds": "AA"}]), "modality", {"text", "other"}),
        (signals(modalities=["text", "audio"]), "modality", {"text", "other"}),
        (signals(modalities="audio"), "modality", {"text", "other"}),
        (signals(modalities=["text"]), "modality", {"text"}),
        (signals(modalities=None), "modality", {"text"}),
        (signals(), "images", 0),
        (signals(seed=None, top_p=0.5), "parameters", {"model", "messages", "top_p"}),
        (signals(), "model_asked", "auto"),
        (signals(metadata={"team": "shop", "n": 3}), "metadata.team", "shop"),
        (signals(metadata={"team": "shop", "n": 3}), "metadata.n", None),
        (signals(), "metadata.team", None),
        (signals(tenant={"domicile": "DE"}), "tenant.domicile", "DE"),
        (signals(headers={"user-agent": "x"}), "headers.User-Agent", "x"),
        (signals(hints={"thinking": "never"}), "thinking_hint", "never"),
        (signals(hints={"thinking": "4k"}), "thinking_hint", 4_000),
        (signals(hints={"workload": "bulk"}), "workload", "bulk"),
        (signals(hints={"conversation": "c1"}), "conversation", "c1"),
        (signals(), "no.such.signal", None),
    ],
)
def test_signals_say_what_the_request_says(made: Signals, name: str, value: Any) -> None:
    assert made.get(name) == value
    assert made.get(name) == value  # from memory


@pytest.mark.parametrize(
    ("tenant", "hints", "members", "sensitive"),
    [
        ({}, {}, {}, False),
        ({"cost": "low"}, {}, {}, True),
        ({"cost": "low"}, {"cost": "normal"}, {}, True),  # a hint narrows what a key may do, it never widens it
        ({}, {"cost": "low"}, {}, True),
        ({}, {}, {"service_tier": "flex"}, True),
        ({}, {"cost": "normal"}, {"service_tier": "flex"}, False),  # both are the client's own
        ({}, {}, {"service_tier": "default"}, False),
    ],
)
def test_cost_sensitivity_is_the_keys_then_the_headers_then_the_bodys(
    tenant: dict[str, str], hints: dict[str, str], members: dict[str, str], sensitive: bool
) -> None:
    assert signals(tenant=tenant, hints=hints, **members).get("cost_sensitive") is sensitive


@pytest.mark.parametrize(
    ("members", "choices", "output"),
    [
        ({}, 1, None),
        ({"n": 100, "max_tokens": 10}, 100, 10),
        ({"n": 2, "best_of": 20}, 20, None),
        ({"max_tokens": 100_000, "max_completion_tokens": 1}, 1, 100_000),  # a server may go by either
    ],
)
def test_what_is_asked_for_is_taken_at_its_most(members: dict[str, Any], choices: int, output: int | None) -> None:
    made = signals(**members)
    assert (made.get("choices"), made.get("max_output_tokens")) == (choices, output)


@pytest.mark.parametrize(
    ("tenant", "hints", "most"),
    [
        ({}, {}, None),
        ({"max_cost_usd": "0.05"}, {}, 0.05),
        ({}, {"max-cost-usd": "0.01"}, 0.01),
        ({"max_cost_usd": "0.05"}, {"max-cost-usd": "0.01"}, 0.01),
        ({"max_cost_usd": "0.05"}, {"max-cost-usd": "9"}, 0.05),  # a hint never widens
    ],
)
def test_of_two_limits_of_cost_the_lower_one_holds(
    tenant: dict[str, str], hints: dict[str, str], most: float | None
) -> None:
    assert signals(tenant=tenant, hints=hints).get("max_cost_usd") == most


def test_a_hint_cannot_lead_out_of_where_a_tenant_must_stay() -> None:
    made = signals(tenant={"residency": "eu", "region": "eu"}, hints={"residency": "us", "region": "us"})
    assert made.get("residency") == "eu and us"  # where nothing lies
    assert made.get("region") == "eu and us"
    assert signals(hints={"residency": "us"}).get("residency") == "us"
    narrower = signals(
        tenant={"residency": "eu", "region": "eu-central-1"}, hints={"residency": "eu-west-1", "region": "eu"}
    )
    assert (narrower.get("residency"), narrower.get("region")) == ("eu-west-1", "eu-central-1")
    assert signals(tenant={"workload": "commerce"}, hints={"workload": "social"}).get("workload") == "commerce"


@pytest.mark.parametrize(
    ("made", "task", "difficulty"),
    [
        (signals("a python thing"), "code", "hard"),
        (signals("a poem"), "creative", "easy"),
        (signals("nothing special"), None, None),
        (signals("a poem", reasoning_effort="high"), "creative", "hard"),
        (signals("a python thing", reasoning_effort="minimal"), "code", "easy"),
        (signals("a python thing", reasoning_effort="low"), "code", "hard"),
        (signals("a poem", tools=[TOOL]), "creative", None),
        (signals("nothing special", tools=[TOOL]), "agentic", None),
        (signals("x y", response_format={"type": "json_schema", "json_schema": {}}), "extraction", None),
    ],
)
def test_request_facts_come_before_words(made: Signals, task: str | None, difficulty: str | None) -> None:
    assert made.get("task") == task
    assert made.get("difficulty") == difficulty


def test_only_what_the_user_wrote_has_a_language_and_a_task() -> None:
    made = signals(
        messages=[
            {"role": "system", "content": "You write python. You are a helpful and friendly assistant."},
            {"role": "user", "content": "A poem, please. I would like it to be about the sea."},
            {"role": "assistant", "content": "Here is a poem about python."},
            {"role": "user", "content": [{"type": "text", "text": "これを日本語に直してください。"}]},
        ]
    )
    assert made.get("language").main == "ja"
    assert made.get("task") is None
    assert signals("12345").get("language") is None


# --- hints ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cost", "cheap"),
        ("thinking", "sometimes"),
        ("thinking", "0"),
        ("thinking", "-1"),
        ("max-cost-usd", "a cent"),
        ("max-cost-usd", "-0.01"),
        ("max-cost-usd", "nan"),
        ("timeout-ms", "soon"),
        ("timeout-ms", "0"),
        ("timeout-ms", "1e3"),
        ("timeout-ms", "٣"),
        ("region", ""),
        ("region", "x" * 129),
        ("region", "a\x00b"),
        ("no-such-hint", "x"),
    ],
)
def test_a_hint_that_means_nothing_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(BadRequest) as caught:
        Hints.parse({f"x-pointsman-{name}": value})
    assert caught.value.param == f"x-pointsman-{name}"


def test_hints_are_read_from_their_headers_only() -> None:
    hints = Hints.parse({"x-pointsman-timeout-ms": "1500", "x-pointsman-policy": " p ", "authorization": "x"})
    assert (hints.timeout_s, hints.policy, hints.cost) == (1.5, "p", None)
    assert Hints.parse({"host": "x"}) == Hints()


# --- lengths ----------------------------------------------------------------------------------------------------------


def test_the_size_of_the_body_settles_most_questions_without_counting() -> None:
    def never(texts: Sequence[str]) -> list[int]:
        raise AssertionError("counted")

    made = signals("some words " * 50, tokenizers=Tokenizers({"words": never}))
    assert not made.exceeds("words", 100_000)
    assert made.fits(target(100_000))


def test_a_small_prompt_is_counted_where_its_bytes_leave_a_question() -> None:
    made = signals("word " * 1_000)
    assert made.tokens("words").hi >= 5_000
    assert not made.exceeds("words", 2_000)
    assert made.exceeds("words", 900)
    assert 1_000 < made.tokens("words").hi < 1_100
    assert made.basis("words") == "counted"


def test_a_prompt_fits_by_each_target_s_own_tokenizer() -> None:
    """One Hindi text is 216 tokens for Qwen 3 and 80 for Llama 4 (R-28)."""
    counts = {"qwen3": 216, "llama4": 80}
    registry = Tokenizers({name: lambda texts, n=n: [n] * len(texts) for name, n in counts.items()})  # type: ignore[misc]
    made = signals("नमस्ते दुनिया " * 20, tokenizers=registry, blocking=True)
    assert made.fits(target(300, tokenizer="llama4", typical=100))
    assert not made.fits(target(300, tokenizer="qwen3", typical=100))


def test_requested_output_counts_and_typical_output_only_for_fitting() -> None:
    made = signals("word " * 1_000, max_tokens=3_000)
    assert made.exceeds("words", 4_000)
    assert not made.exceeds("words", 4_200)
    assert not made.fits(target(4_000))
    assert made.fits(target(4_200))
    assert not signals("word " * 1_000).fits(target(1_400))
    assert signals("word " * 1_000).fits(target(1_400, typical=100))


def test_an_unknown_tokenizer_is_judged_by_bytes_and_says_so() -> None:
    made = signals("word " * 1_000)
    assert not made.fits(target(4_000, tokenizer="llama4"))
    assert not made.fits(target(4_000, tokenizer=None))
    assert "llama4 is not known here" in made.basis("llama4")


def test_more_tools_than_are_worth_counting_count_by_their_bytes() -> None:
    many = [{"type": "function", "function": {"name": f"f{n}", "description": "d" * 900}} for n in range(1_500)]
    asked = signals("hi", tools=many, blocking=True)
    assert asked.exceeds("words", 1_400_000)  # by words they would be a few thousand
    assert not asked.exceeds("words", 3_000_000)


def test_tools_schemas_and_media_are_part_of_the_length() -> None:
    plain = signals("hi", blocking=True)
    assert not plain.exceeds("words", 300)
    big = {"type": "function", "function": {"name": "f", "description": "d " * 2_000}}
    assert signals("hi", tools=[big], blocking=True).exceeds("words", 2_400)
    schema = {"type": "json_schema", "json_schema": {"description": "d " * 2_000}}
    assert signals("hi", response_format=schema, blocking=True).exceeds("words", 1_900)
    images = [{"type": "image_url", "image_url": {"url": "https://x/y"}}] * 3
    assert signals(images, blocking=True).exceeds("llama4", 3 * 2_467)
    assert not signals(images, blocking=True).exceeds("llama4", 3 * 2_467 + 200)


def test_much_text_is_sampled_and_counted_only_where_a_limit_lies_inside_the_interval() -> None:
    made = signals("word " * 100_000)
    assert not made.exceeds("words", 150_000)
    assert made.exceeds("words", 50_000)
    assert made.basis("words") == "sampled at 128 places"
    with pytest.raises(NeedsCount) as caught:
        made.exceeds("words", 100_500)
    caught.value.run()
    assert not made.exceeds("words", 100_500)
    assert made.exceeds("words", 99_990)
    assert made.basis("words") == "counted"


def test_what_samples_say_is_no_bound_for_money() -> None:
    made = signals("word " * 100_000)
    assert made.exceeds("words", 50_000)
    assert made.tokens("words").hi < 150_000, "by the samples"
    most, basis = made.at_most("words")
    assert (500_000 <= most < 501_000, basis) == (True, "by its bytes: too long to be counted at once")
    with pytest.raises(NeedsCount) as caught:
        made.exceeds("words", 100_500)
    caught.value.run()
    most, basis = made.at_most("words")
    assert (100_000 <= most < 101_000, basis) == (True, "counted")


def test_where_blocking_is_allowed_nothing_is_raised() -> None:
    assert not signals("word " * 100_000, blocking=True).exceeds("words", 100_500)


def test_a_vocabulary_is_loaded_off_the_event_loop() -> None:
    lazy = Tokenizers(loaders={"words": lambda: words})
    made = signals("word " * 1_000, tokenizers=lazy)
    with pytest.raises(NeedsCount) as caught:
        made.exceeds("words", 2_000)
    caught.value.run()
    assert not made.exceeds("words", 2_000)
    assert made.basis("words") == "counted"


def test_a_prompt_of_half_a_limit_asks_for_the_vocabulary_and_a_small_one_does_not() -> None:
    for size, wanted in ((100, []), (60_000, ["words"])):
        registry = Tokenizers(loaders={"words": lambda: words})
        made = signals("x" * size, tokenizers=registry)
        assert not made.exceeds("words", 100_000)
        assert registry.take_wanted() == wanted


# --- given and replayed -----------------------------------------------------------------------------------------------


def test_given_values_are_signals_and_all_others_are_unknown() -> None:
    made = Signals.given({"context_tokens": 300_000, "language": "ja", "modality": ["text", "image"], "tools": True})
    assert made.exceeds("anything", 200_000)
    assert not made.exceeds(None, 300_000)
    assert made.tokens("x") == Bounds(300_000, 300_000, True)
    assert made.get("language").main == "ja"
    assert made.get("modality") == {"text", "image"}
    assert made.get("task") is None
    assert not made.fits(target(300_400))
    assert made.fits(target(300_500))


def test_given_tokens_include_the_requested_output() -> None:
    made = Signals.given({"context_tokens": 1_000, "max_output_tokens": 400})
    assert made.tokens(None).hi == 600
    assert made.exceeds(None, 999)
    assert not made.exceeds(None, 1_000)
    assert made.fits(target(1_000))
    assert not made.fits(target(999))


def test_what_was_computed_is_json_and_decides_alike() -> None:
    made = signals("これは日本語の文です。" * 300, tools=[TOOL], max_tokens=50, metadata={"team": "shop"})
    asked = ("language", "modality", "tools", "task", "max_output_tokens", "metadata.team", "effort", "parameters")
    before = [made.get(name) for name in asked]
    questions = [("words", 100), ("words", 2_000), ("llama4", 5_000), (None, 5_000), (None, 20_000)]
    answers = [made.exceeds(*question) for question in questions]
    kept = json.loads(json.dumps(made.computed()))
    again = Signals.given(kept)
    assert [again.exceeds(*question) for question in questions] == answers
    assert again.get("language").outside(frozenset({"en"})) is True
    assert [again.get(name) for name in asked[1:]] == before[1:]
    assert again.tokens("words") == made.tokens("words")
    assert again.basis("llama4") == made.basis("llama4")
    assert "日本" not in json.dumps(kept, ensure_ascii=False)


def test_a_given_length_is_still_there_when_it_is_given_again() -> None:
    first = Signals.given({"context_tokens": 1_000, "max_output_tokens": 400, "language": "ja"})
    again = Signals.given(json.loads(json.dumps(first.computed())))
    for made in (first, again):
        assert [made.exceeds(None, limit) for limit in (999, 1_000)] == [True, False]
        assert made.tokens("qwen3.5").hi == 600
    assert again.computed() == first.computed()


def test_the_conversation_is_kept_though_nobody_asked_for_it() -> None:
    made = signals("hello", hints={"conversation": "c-7"})
    assert made.computed()["conversation"] == "c-7"
    assert "conversation" not in signals("hello").computed()
