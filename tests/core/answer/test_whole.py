"""Complete answers: the facts that are read out of them, and what is no answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.answer.whole import parse_answer
from gateway.core.money.usage import ABSURD_TOKENS, read
from gateway.core.types import Usage


def answer(message: object, **more: object) -> bytes:
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({"object": "chat.completion", "choices": [choice], **more}).encode()


def test_usage_finish_and_size_are_read() -> None:
    facts = parse_answer(answer({"content": "Paris."}, usage={"prompt_tokens": 9, "completion_tokens": 3}))
    assert facts is not None
    assert facts.usage == Usage(input=9, output=3)
    assert facts.finish == "stop"
    assert facts.output_chars == 6
    assert not facts.reasoned


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_reasoning_is_noticed_in_both_spellings(name: str) -> None:
    facts = parse_answer(answer({"content": None, name: "hm"}))
    assert facts is not None
    assert facts.reasoned
    for nothing in (None, ""):
        silent = parse_answer(answer({"content": "x", name: nothing}))
        assert silent is not None
        assert not silent.reasoned


def test_several_choices_and_tool_calls_count_together() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    both = [{"message": {"content": "ab"}}, {"index": 1, "message": {"tool_calls": [call]}}]
    facts = parse_answer(json.dumps({"choices": both}).encode())
    assert facts is not None
    assert facts.output_chars > 40
    assert facts.finish is None
    assert facts.usage is None


@pytest.mark.parametrize(
    "odd",
    [
        answer({"content": [{"type": "text", "text": "x"}]}),
        answer({"content": 7}, usage="none", id=3),
        answer({"content": "x"}, usage={"prompt_tokens": -1, "completion_tokens": 2}),
        answer({"content": "x", "logprobs": float("nan")}),
        answer({"content": "x"}).replace(b'"x"', b'"\xff"'),
        answer({"content": "x"}, error=None),
    ],
)
def test_what_clients_can_read_is_an_answer(odd: bytes) -> None:
    facts = parse_answer(odd)
    assert facts is not None
    assert facts.usage is None


@pytest.mark.parametrize(
    "no",
    [
        b"",
        b"<html></html>",
        b"null",
        b"[]",
        b"{}",
        b'{"choices":[]}',
        b'{"choices":null}',
        b'{"choices":[{"message":null}]}',
        b'{"choices":[{"text":"x"}]}',
        b'{"error":{"message":"busy"}}',
        answer({"content": "x"}, error={"message": "busy"}),
        answer({"content": "Paris."})[:-5],
        answer({"content": "x"}) + b"}",
        b'data: {"choices":[]}\n\n',
    ],
)
def test_what_is_no_chat_completion_is_none(no: bytes) -> None:
    assert parse_answer(no) is None


@pytest.mark.parametrize(
    "shape", ['{"choices":[{"message":{"content":%s}}]}', '{"choices":[{"message":{}}],"z":%s}', "%s"]
)
@pytest.mark.parametrize("levels", [900, 20_000])
def test_an_answer_nested_thousands_of_levels_deep_raises_nothing(shape: str, levels: int) -> None:
    parse_answer((shape % ("[" * levels + "]" * levels)).encode())
    assert parse_answer((shape % ('{"a":' * 20_000 + "NaN" + "}" * 20_000)).encode()) is None


COUNTS = st.one_of(
    st.integers(0, 40),
    st.sampled_from([None, True, -1, ABSURD_TOKENS, ABSURD_TOKENS + 1, 10**30, 3.0, 3.5, 1e30, "7", [], {}]),
)


def details(name: str) -> st.SearchStrategy[Any]:
    return st.one_of(COUNTS, st.dictionaries(st.sampled_from([name, "audio_tokens"]), COUNTS))


USAGES = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("prompt_tokens", "completion_tokens"), st.one_of(st.integers(0, 40), COUNTS)),
        **dict.fromkeys(("total_tokens", "input_tokens", "output_tokens"), COUNTS),
        **dict.fromkeys(("cached_tokens", "prompt_cache_hit_tokens", "reasoning_tokens"), COUNTS),
        "prompt_tokens_details": details("cached_tokens"),
        "input_tokens_details": details("cached_tokens"),
        "completion_tokens_details": details("reasoning_tokens"),
        "output_tokens_details": details("reasoning_tokens"),
    },
)
TEXTS = st.sampled_from([None, "", "x", "null", "\n\\", "d\u00e9j\u00e0", [], ["x"], {}, 0, 7, False])
MESSAGES = st.dictionaries(
    st.sampled_from(["content", "reasoning", "reasoning_content", "tool_calls", "refusal", "role"]), TEXTS
)


@given(USAGES)
def test_usage_read_with_the_answer_is_what_the_rules_for_usage_say(usage: dict[str, Any]) -> None:
    facts = parse_answer(answer({"content": "x"}, usage=usage))
    assert facts is not None
    assert facts.usage == read(usage)


@given(MESSAGES, st.one_of(st.none(), USAGES), st.sampled_from(["stop", "length", None, 3, []]))
def test_an_answer_as_usual_and_one_that_must_be_read_loosely_give_the_same_facts(
    message: dict[str, Any], usage: dict[str, Any] | None, finish: object
) -> None:
    choices = [{"message": message, "finish_reason": finish}, {"message": {"content": "second"}}]
    usual = {"choices": choices, "usage": usage}
    loose = {**usual, "error": False}
    facts = parse_answer(json.dumps(usual).encode())
    assert facts is not None
    assert facts == parse_answer(json.dumps(loose).encode())


@pytest.mark.parametrize("total", [None, 3, 35, 36])
@pytest.mark.parametrize("reasoning", [0, 1, 20, 25])
@pytest.mark.parametrize("cached", [0, 10, 11])
def test_counts_of_a_usual_answer_are_put_together_by_the_same_rules(
    total: int | None, reasoning: int, cached: int
) -> None:
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": total,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
    facts = parse_answer(answer({"content": "x"}, usage=usage))
    assert facts is not None
    assert facts.usage == read(usage)


@pytest.mark.parametrize(
    ("more", "usage"),
    [
        ({"cached_tokens": 3, "prompt_cache_hit_tokens": 4}, Usage(10, 5, 3)),
        ({"prompt_cache_hit_tokens": 4}, Usage(10, 5, 4)),
        ({"prompt_tokens_details": {"cached_tokens": 0}, "cached_tokens": 3}, Usage(10, 5, 0)),
        ({"prompt_tokens_details": {}, "cached_tokens": 3}, Usage(10, 5, 3)),
        ({"input_tokens_details": {"cached_tokens": 2}}, Usage(10, 5, 2)),
        ({"prompt_tokens_details": {}, "input_tokens_details": {"cached_tokens": 2}}, Usage(10, 5)),
        ({"reasoning_tokens": 2}, Usage(10, 5, 0, 2)),
        ({"completion_tokens_details": {"reasoning_tokens": 1}, "reasoning_tokens": 2}, Usage(10, 5, 0, 1)),
        ({"output_tokens_details": {"reasoning_tokens": 3}}, Usage(10, 5, 0, 3)),
        ({"total_tokens": -1}, Usage(10, 5)),
        ({"total_tokens": -1, "reasoning_tokens": 2}, None),
    ],
)
def test_of_two_members_for_one_count_the_same_one_is_believed(more: dict[str, Any], usage: Usage | None) -> None:
    stated = {"prompt_tokens": 10, "completion_tokens": 5, **more}
    facts = parse_answer(answer({"content": "x"}, usage=stated))
    assert facts is not None
    assert facts.usage == usage == read(stated)


def test_an_empty_text_or_list_has_no_size_and_a_number_no_negative_one() -> None:
    for message, size in (({"content": ""}, 0), ({"content": None, "tool_calls": []}, 0), ({"content": 7}, 0)):
        facts = parse_answer(answer(message))
        assert facts is not None
        assert facts.output_chars == size


@pytest.mark.parametrize("reason", ["error", "abort"])
def test_an_answer_whose_server_gave_up_is_none(reason: str) -> None:
    body = {"choices": [{"message": {"content": "The cap"}, "finish_reason": reason}]}
    assert parse_answer(json.dumps(body).encode()) is None
    body["choices"][0]["finish_reason"] = {"odd": 1}
    assert parse_answer(json.dumps(body).encode()) is not None
