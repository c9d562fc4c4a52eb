"""What becomes of answers of Ollama's own API. Whole streams, cut anywhere, are in the contract suite."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from gateway.core.servers.ollamaanswers import Relay, Respelt, parse
from gateway.core.types import Outcome


def line(message: dict[str, Any] | None = None, **more: Any) -> bytes:
    said: dict[str, Any] = {"model": "m", "created_at": "2026-11-22T04:30:00.123456789Z", "done": False, **more}
    if message is not None:
        said["message"] = {"role": "assistant", **message}
    return json.dumps(said).encode() + b"\n"


END = line({"content": ""}, done=True, done_reason="stop", prompt_eval_count=5, eval_count=2)


def chunks(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(part[6:]) for part in body.split(b"\n\n") if part.startswith(b"data: {")]


def stream(*lines: bytes, keep_usage: bool = True) -> tuple[list[dict[str, Any]], Relay]:
    relay = Relay(keep_usage)
    out = b"".join(relay.feed(one) for one in lines) + relay.end()
    return chunks(out), relay


def test_a_stream_becomes_chunks() -> None:
    found, relay = stream(line({"thinking": "hm", "content": ""}), line({"content": "Hi"}), END)
    assert [one["choices"][0]["delta"] for one in found[:-1]] == [
        {"role": "assistant", "reasoning_content": "hm"},
        {"content": "Hi"},
        {},
    ]
    assert [one["choices"][0]["finish_reason"] for one in found[:-1]] == [None, None, "stop"]
    assert found[-1]["choices"] == []
    assert found[-1]["usage"] == {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    assert {(one["id"], one["created"], one["model"], one["object"]) for one in found} == {
        (found[0]["id"], 1795321800, "m", "chat.completion.chunk")
    }
    assert found[0]["id"].startswith("chatcmpl-")
    assert relay.done
    assert relay.reasoned


@pytest.mark.parametrize("spelling", ["reasoning", "reasoning_content"])
def test_a_stream_is_translated_and_respelt(spelling: str) -> None:
    relay = Respelt(spelling, keep_usage=False)
    body = line({"thinking": "hm", "content": ""}) + line({"content": "Hi"}) + END
    out = b"".join(relay.feed(body[at : at + 1]) for at in range(len(body))) + relay.end()
    assert chunks(out)[0]["choices"][0]["delta"] == {"role": "assistant", spelling: "hm"}
    assert relay.done


def test_calls_have_ids_indexes_and_arguments_as_text() -> None:
    one = {"function": {"name": "f", "arguments": {"b": 1, "a": "x"}}}
    two = {"id": "call_theirs", "function": {"index": 0, "name": "g", "arguments": {}}}
    found, _ = stream(line({"content": "", "tool_calls": [one, two]}), line({"content": "", "tool_calls": [one]}), END)
    calls = [call for chunk in found[:-2] for call in chunk["choices"][0]["delta"]["tool_calls"]]
    assert [call["index"] for call in calls] == [0, 1, 2]
    assert [json.loads(call["function"]["arguments"]) for call in calls] == [{"b": 1, "a": "x"}, {}, {"b": 1, "a": "x"}]
    assert calls[1]["id"] == "call_theirs"
    assert len({call["id"] for call in calls}) == 3
    assert all(call["id"] and call["type"] == "function" for call in calls)
    assert found[-2]["choices"][0]["finish_reason"] == "tool_calls"


def test_an_answer_is_held_until_it_says_something() -> None:
    relay = Relay(keep_usage=False)
    assert relay.feed(line({"content": ""})) == b""
    assert not relay.committed
    assert relay.feed(line({"content": "Hi"})).count(b"data:") == 2
    assert relay.committed


def test_cached_tokens_are_told_where_they_are_known() -> None:
    end = END.replace(b'"eval_count"', b'"prompt_eval_cached_count": 3, "eval_count"')
    found, relay = stream(line({"content": "Hi"}), end)
    assert found[-1]["usage"]["prompt_tokens_details"] == {"cached_tokens": 3}
    assert relay.usage is not None
    assert relay.usage.cached == 3


def test_logprobs_keep_their_form() -> None:
    probs = [{"token": "Hi", "logprob": -0.5, "bytes": [72, 105]}]
    found, _ = stream(line({"content": "Hi"}, logprobs=probs), END)
    assert found[0]["choices"][0]["logprobs"] == {"content": probs}


@pytest.mark.parametrize(
    ("lines", "failure"),
    [
        ([line(error="no memory")], Outcome.IN_BAND_ERROR),
        ([b'{"error":{"message":"odd"}}\n'], Outcome.IN_BAND_ERROR),
        ([b"<html>\n"], Outcome.IN_BAND_ERROR),
        ([b"[]\n"], Outcome.IN_BAND_ERROR),
        ([b""], Outcome.INVALID),
        ([END[:-9]], Outcome.INVALID),
        ([line({"content": "Hi"}), line(error="died")], Outcome.INTERRUPTED),
        ([line({"content": "Hi"}), b"\xff\xfe{\n"], Outcome.INTERRUPTED),
        ([line({"content": "Hi"}), END[:-9]], Outcome.INTERRUPTED),
        ([line({"content": "Hi"})], Outcome.INTERRUPTED),
    ],
)
def test_what_breaks_is_noticed(lines: list[bytes], failure: Outcome) -> None:
    _, relay = stream(*lines)
    assert relay.failure is failure


def test_nothing_follows_an_error_or_the_end() -> None:
    found, relay = stream(line({"content": "Hi"}), line(error="died") + line({"content": "more"}))
    assert [one["choices"][0]["delta"].get("content") for one in found] == ["Hi"]
    relay = Relay(keep_usage=True)
    relay.feed(line({"content": "Hi"}) + END)
    assert relay.done
    assert relay.feed(line({"content": "more"})) == b""
    assert relay.end() == b""


def test_no_bytes_make_it_raise_or_tell_an_end_that_did_not_come() -> None:
    chance = random.Random(7)
    whole = line({"content": "Hi", "thinking": "hm"}) + line({"tool_calls": [{"function": {"name": "f"}}]}) + END
    for _ in range(3000):
        body = bytearray(whole)
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(body))
            match chance.randrange(3):
                case 0:
                    body[at] = chance.randrange(256)
                case 1:
                    del body[at : at + chance.randint(1, 30)]
                case _:
                    body[at:at] = chance.choice([b"\n", b'"', b"{", b"[" * 3000, b"null", b"\xff", b"\\ud800"])
        relay = Relay(keep_usage=True)
        size = chance.randint(1, len(body))
        out = b"".join(relay.feed(bytes(body[at : at + size])) for at in range(0, len(body), size)) + relay.end()
        assert relay.done != (relay.failure is not None)
        assert (b"[DONE]" in out) == relay.done
        parse(bytes(body))


@pytest.mark.parametrize("levels", [500, 1200, 5000, 200_000])
def test_deep_nesting_is_an_error_like_any_other(levels: int) -> None:
    _, relay = stream(b'{"error":' + b"[" * levels + b"]" * levels + b"}\n")
    assert relay.failure is Outcome.IN_BAND_ERROR
    assert parse(b'{"message":{"content":"x"},"done":true,"x":' + b"[" * levels + b"]" * levels + b"}") is None or (
        levels < 5000
    )


def test_a_line_is_bounded() -> None:
    relay = Relay(True, max_event=1000)
    for _ in range(9):
        assert relay.feed(b'{"message":' * 10) == b""
    assert relay.feed(b"x" * 100) == b""
    assert relay.failure is Outcome.TOO_LARGE
    relay = Relay(True, max_event=1000)
    relay.feed(line({"content": "Hi"}))
    relay.feed(b"x" * 1001)
    assert relay.failure is Outcome.EVENT_TOO_LARGE


def test_what_a_server_calls_itself_cannot_make_much_of_little() -> None:
    relay = Relay(keep_usage=True)
    relay.feed(line({"content": "Hi"}, model="m" * 3_000_000, created_at="2" * 500_000))
    for more in ({"content": "x"}, {"tool_calls": [{"function": {"name": "f"}}]}):
        lines = b"".join(json.dumps({"message": more}).encode() + b"\n" for _ in range(200))
        assert len(relay.feed(lines)) < 200 * 1_000
    assert relay.failure is None


def test_a_complete_answer_becomes_a_chat_completion() -> None:
    body = line(
        {"content": "", "thinking": "hm", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
        done=True,
        done_reason="stop",
        prompt_eval_count=5,
        eval_count=2,
    )
    facts = parse(body)
    assert facts is not None
    assert facts.body is not None
    said = json.loads(facts.body)
    message = said["choices"][0]["message"]
    assert message["content"] is None
    assert message["reasoning_content"] == "hm"
    assert message["tool_calls"][0]["function"]["name"] == "f"
    assert json.loads(message["tool_calls"][0]["function"]["arguments"]) == {"a": 1}
    assert said["choices"][0]["finish_reason"] == facts.finish == "tool_calls"
    assert said["usage"] == {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    assert (said["object"], said["model"], said["created"]) == ("chat.completion", "m", 1795321800)
    assert facts.reasoned


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"error":"x"}', line({"content": "x"}), line(None, done=True), b'{"message":"x"}']
)
def test_what_is_no_complete_answer_is_none(body: bytes) -> None:
    assert parse(body) is None


def test_an_odd_moment_costs_nobody_the_answer() -> None:
    for moment in ("", "yesterday", "9999-99-99T00:00:00Z"):
        facts = parse(json.dumps({"created_at": moment, "message": {"content": "x"}, "done": True}).encode())
        assert facts is not None
        assert facts.body is not None
        assert json.loads(facts.body)["created"] == 0
