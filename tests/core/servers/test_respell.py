"""Reasoning in the spelling a client asks for: what is renamed, and that nothing else changes by a byte."""

from __future__ import annotations

import json
import random

import pytest

from gateway.core.answer.sse import Relay
from gateway.core.servers.respell import Respelling, respell_answer, respell_history

ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant"},"finish_reason":null}]}\n\n'
STOP = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
DONE = b"data: [DONE]\n\n"
CONTENT = b'data: {"choices":[{"index":0,"delta":{"content":"say \\"reasoning\\": no"}}]}\n\n'


def run(reads: list[bytes], spelling: str = "reasoning_content") -> bytes:
    relay = Respelling(spelling, keep_usage=False)
    out = b"".join(relay.feed(read) for read in reads) + relay.end()
    assert relay.done
    return out


def thought(name: bytes, text: bytes = b'"Hm"') -> bytes:
    return b'data: {"id":1.50e3,"choices":[{"index":0,"delta":{"%b":%b}}],"x":[1, 2]}\n\n' % (name, text)


EVENTS = [
    (b"reasoning", "reasoning_content"),
    (b"reasoning_content", "reasoning"),
]


@pytest.mark.parametrize(("came", "asked"), EVENTS)
def test_the_member_is_renamed_in_any_cut_and_no_digit_besides_it_changes(came: bytes, asked: str) -> None:
    body = ROLE + thought(came) + CONTENT + thought(came, b'"a\\u2028\xe2\x80\xa8"') + STOP + DONE
    wanted = (
        ROLE
        + b'data: {"id":1.50e3,"choices":[{"index":0,"delta":{"%b":"Hm"}}],"x":[1, 2]}\n\n' % asked.encode()
        + CONTENT
        + b'data: {"id":1.50e3,"choices":[{"index":0,"delta":{"%b":"a\\u2028\xe2\x80\xa8"}}],"x":[1, 2]}\n\n'
        % asked.encode()
        + STOP
        + DONE
    )
    assert run([body], asked) == wanted
    assert run([body[i : i + 1] for i in range(len(body))], asked) == wanted
    chance = random.Random(7)
    for _ in range(50):
        places = sorted(chance.sample(range(1, len(body)), 5))
        assert run([body[a:b] for a, b in zip([0, *places], [*places, len(body)], strict=True)], asked) == wanted


@pytest.mark.parametrize(("came", "asked"), EVENTS)
def test_what_is_spelt_as_asked_passes_byte_for_byte(came: bytes, asked: str) -> None:
    body = ROLE + thought(asked.encode()) + CONTENT + STOP + DONE
    assert run([body], asked) == body
    answer = b'{"choices": [{"message": {"%b": "Hm", "content": "x"}}] }' % asked.encode()
    assert respell_answer(answer, asked) is answer


def test_without_a_setting_nothing_is_touched() -> None:
    relay = Relay(keep_usage=False)
    body = ROLE + thought(b"reasoning") + STOP + DONE
    assert relay.feed(body) == body


BOTH = [
    ({"reasoning": "a", "reasoning_content": "a"}, {"reasoning_content": "a"}),
    ({"reasoning": "a", "reasoning_content": None}, {"reasoning_content": "a"}),
    ({"reasoning": None, "content": "x"}, {"reasoning_content": None, "content": "x"}),
    ({"reasoning_details": [{"text": "a"}], "content": "x"}, {"reasoning_details": [{"text": "a"}], "content": "x"}),
]


@pytest.mark.parametrize(("said", "told"), BOTH)
def test_a_client_gets_one_spelling_and_everything_else(said: object, told: object) -> None:
    body = json.dumps({"id": "c", "choices": [{"index": 0, "message": said}, {"index": 1}], "usage": None})
    made = json.loads(respell_answer(body.encode(), "reasoning_content"))
    assert made == {"id": "c", "choices": [{"index": 0, "message": told}, {"index": 1}], "usage": None}


@pytest.mark.parametrize("ends", [b"\r\n", b"\r", b"\n"])
def test_other_fields_of_an_event_and_its_line_ends_stay(ends: bytes) -> None:
    lines = [b"id: 7", b'data: {"choices":[{"index":0,"delta":', b'data: {"reasoning":"Hm"}}]}', b": ping", b"", b""]
    wanted = [b"id: 7", b'data: {"choices":[{"index":0,"delta":{"reasoning_content":"Hm"}}]}', b": ping", b"", b""]
    assert run([ends.join(lines) + STOP]) == ends.join(wanted) + STOP + DONE


def test_history_that_is_spelt_as_asked_or_only_speaks_of_it_is_left_alone() -> None:
    for messages in (
        b'[{"role": "assistant", "reasoning": "a"}]',
        b'[{"role": "user", "content": "\\"reasoning_content\\""}]',
        b'[{"role": "user", "content": "reasoning_content", "x": {"reasoning_content": 1}}]',
        b'[{"reasoning_content": NaN}, 7]',
    ):
        assert respell_history(messages, "reasoning") is None
    made = respell_history(b'[{"a":1.50,"reasoning_content":"x"},{"b": [1, 2]}]', "reasoning")
    assert made == b'[{"a":1.50,"reasoning":"x"},{"b":[1, 2]}]'


def test_text_that_is_not_utf_8_is_renamed_and_kept() -> None:
    made = respell_answer(b'{"choices":[{"message":{"reasoning":"\xff"}}]}', "reasoning_content")
    assert made == b'{"choices":[{"message":{"reasoning_content":"\xff"}}]}'


ODD = [
    b'{"choices":[{"message":{"reasoning":NaN}}]}',
    b'{"choices":{"reasoning":1}}',
    b'{"choices":[{"message":["reasoning"]}]}',
    b'{"usage":{"reasoning":1},"choices":[]}',
    b'["reasoning"]',
    b'{"choices":[{"message":{"tool":{"reasoning":1}}}]}',
]


@pytest.mark.parametrize("body", ODD)
def test_what_cannot_be_read_or_means_something_else_passes(body: bytes) -> None:
    assert respell_answer(body, "reasoning_content") == body
