"""What a request becomes in the words of Ollama's own API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.core.errors import BadRequest
from gateway.core.request import wire
from gateway.core.servers.dialects import CannotSay, Plan, prepare, request_body
from gateway.core.servers.rows import DIALECTS
from gateway.core.types import Backend, Endpoint, Model, Target, Thinking

CLIENT = Thinking()
HI = [{"role": "user", "content": "hi"}]


def plan(thinking: str = "switchable", **backend: Any) -> Plan:
    place = Endpoint("http://a:11434", "http", "a", 11434, "")
    where = Backend("b", "ollama", (place,), **backend)
    return prepare(Target("t", 0, Model("m", "qwen"), where, "qwen3:8b", 40_960, thinking=thinking))  # type: ignore[arg-type]


def sent(thinking: Thinking = CLIENT, to: Plan | None = None, **members: Any) -> dict[str, Any]:
    body = json.dumps({"model": "auto", "messages": HI, **members}).encode()
    return json.loads(request_body(wire.parse(body), to or plan(), thinking))


def test_a_request_says_all_that_ollama_would_else_choose_itself() -> None:
    assert plan().path == "/api/chat"
    assert sent(Thinking("never")) == {
        "model": "qwen3:8b",
        "messages": HI,
        "stream": False,
        "options": {"num_ctx": 40_960},
        "truncate": False,
        "shift": False,
        "think": False,
    }


def test_sampling_goes_into_the_options() -> None:
    said = sent(
        temperature=0.5,
        top_p=0.9,
        seed=7,
        stop="END",
        max_tokens=9,
        max_completion_tokens=12,
        frequency_penalty=0.1,
        presence_penalty=0.2,
        top_k=40,
        options={"repeat_penalty": 1.1, "num_ctx": 1_000_000, "temperature": 0.9},
    )
    assert said["options"] == {
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 7,
        "stop": ["END"],
        "num_predict": 12,
        "frequency_penalty": 0.1,
        "presence_penalty": 0.2,
        "top_k": 40,
        "repeat_penalty": 1.1,
        "num_ctx": 40_960,
    }
    assert said.keys() == {"model", "messages", "stream", "options", "truncate", "shift"}
    assert sent(stop=["a", "b"], max_tokens=5)["options"] == {"stop": ["a", "b"], "num_predict": 5, "num_ctx": 40_960}


def test_what_it_does_not_know_goes_through_and_hints_stay_behind() -> None:
    said = sent(keep_alive="10m", logprobs=True, top_logprobs=2, something_new={"a": 1}, user="u", store=True)
    assert (said["keep_alive"], said["logprobs"], said["top_logprobs"]) == ("10m", True, 2)
    assert said["something_new"] == {"a": 1}
    assert not {"user", "store"} & said.keys()
    assert not {"api_base", "base_url"} & sent(api_base="http://evil", base_url="http://evil").keys()
    assert sent(to=plan(members={"keep_alive": -1}), keep_alive="1s")["keep_alive"] == -1


@pytest.mark.parametrize(
    ("mode", "members", "think"),
    [
        ("never", {"think": True}, False),
        ("never", {"reasoning_effort": "high"}, False),
        ("always", {}, True),
        ("always", {"reasoning_effort": "low"}, "low"),
        ("budget", {}, True),
        ("client", {}, None),
        ("client", {"think": False}, False),
        ("client", {"reasoning_effort": "none"}, False),
        ("client", {"reasoning_effort": "high"}, "high"),
        ("client", {"reasoning_effort": "xhigh"}, "high"),
        ("client", {"reasoning": {"effort": "medium"}}, "medium"),
        ("client", {"chat_template_kwargs": {"enable_thinking": True}}, True),
    ],
)
def test_thinking_is_said_in_the_one_word_it_has(mode: str, members: dict[str, Any], think: object) -> None:
    wish = Thinking(mode, 2000 if mode == "budget" else None)  # type: ignore[arg-type]
    said = sent(wish, **members)
    assert said.get("think") == think
    assert ("think" in said) == (think is not None)
    assert not {"reasoning_effort", "reasoning", "chat_template_kwargs"} & said.keys()


def test_a_target_that_cannot_be_switched_is_not_told_what_it_would_refuse() -> None:
    assert "think" not in sent(Thinking("always"), plan("never"), think=True)
    assert sent(Thinking("never"), plan("never"), think=False)["think"] is False
    assert sent(Thinking("client"), plan("always"), reasoning_effort="low")["think"] == "low"
    assert "think" not in sent(Thinking("never"), plan("always"), think=False)
    assert sent(Thinking("client"), plan("unknown"), think=True)["think"] is True


def test_messages_keep_their_text_and_lose_their_wrapping() -> None:
    said = sent(
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": None, "reasoning_content": "hm", "refusal": None},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
                ],
            },
        ]
    )
    assert said["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "", "thinking": "hm"},
        {"role": "user", "content": "What is this?", "images": ["iVBORw0KGgo="]},
    ]


def test_a_text_is_sent_as_the_client_wrote_it_however_long() -> None:
    text = '{"model":"auto","messages":[{"role":"user","content":"\\u00e9\\u2028 %s"}]}' % ("long \\n" * 60_000)
    body = request_body(wire.parse(text.encode()), plan(), Thinking())
    assert text.encode()[40:-3] in body


def test_tools_and_their_calls_are_translated() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"b":1,"a":[2]}'}}
    said = sent(
        tools=[tool],
        tool_choice="auto",
        messages=[
            *HI,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "11 degrees"},
        ],
    )
    assert said["tools"] == [tool]
    assert "tool_choice" not in said
    assert said["messages"][1:] == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "call_1", "function": {"name": "f", "arguments": {"b": 1, "a": [2]}}}],
        },
        {"role": "tool", "content": "11 degrees", "tool_call_id": "call_1", "tool_name": "f"},
    ]


def test_formats_are_translated() -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}}
    assert sent(response_format={"type": "json_object"})["format"] == "json"
    described = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": schema}}
    assert sent(response_format=described)["format"] == schema
    assert "format" not in sent(response_format={"type": "text"})


@pytest.mark.parametrize(
    "members",
    [
        {"response_format": {"type": "grammar"}},
        {"response_format": {"type": "json_schema"}},
        {"tools": [{"type": "custom", "custom": {"name": "x"}}]},
        {"options": {"num_gpu": 0}},
        {"options": {"num_predict": 100_000}},
        {"options": []},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a/b.png"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "x"}}]}]},
        {"messages": [{"role": "function", "name": "f", "content": "x"}]},
        {"messages": [{"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": ""}}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "1", "type": "custom", "custom": {}}]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{broken"}}]}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}]},
        {"messages": [{"role": "assistant", "tool_calls": [7]}]},
    ],
)
def test_what_it_has_no_words_for_is_said_not_dropped(members: dict[str, Any]) -> None:
    with pytest.raises(CannotSay) as caught:
        sent(**members)
    assert str(caught.value).endswith(".")


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
RICH = {
    "model": "auto",
    "messages": [
        {"role": "developer", "content": "s"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, PICTURE]},
        {
            "role": "assistant",
            "content": None,
            "reasoning": "h",
            "tool_calls": [{"id": "1", "function": {"name": "f"}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "r"},
    ],
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "response_format": {"type": "json_schema", "json_schema": {"schema": {}}},
    "options": {"top_k": 1},
    "stop": ["a"],
    "think": True,
    "reasoning_effort": "low",
    "max_tokens": 4,
    "tool_choice": "auto",
}


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every container with every key in it."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], dict | list):
            yield from places(node[key])


def test_no_request_makes_it_raise_anything_else() -> None:
    odd = (None, True, 7, -1.5, "", "x", [], {}, [7], [None], {"type": "text"}, {"a": [{}]}, "data:image/png;base64,AA")
    told = 0
    request_body(wire.parse(json.dumps(RICH).encode()), plan(), CLIENT)  # as it stands, all of it can be said
    for number, _ in enumerate(places(RICH)):
        for value in odd:
            tree = json.loads(json.dumps(RICH))
            node, key = list(places(tree))[number]
            node[key] = value
            try:
                envelope = wire.parse(json.dumps(tree).encode())
            except BadRequest:
                continue
            try:
                json.loads(request_body(envelope, plan(), CLIENT))
            except CannotSay:
                told += 1
    assert told > 50


def test_what_it_could_only_ignore_makes_a_request_go_elsewhere() -> None:
    assert {"n", "logit_bias", "tool_choice", "functions", "parallel_tool_calls"} <= DIALECTS["ollama"].refuses
