"""Complete answers: the facts that are read out of them, and what is no answer."""

from __future__ import annotations

import json

import pytest

from gateway.core.answers import parse_answer
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
