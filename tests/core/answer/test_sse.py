"""Streams as dialogues: these bytes come, in any cut; those bytes leave, with these facts."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core.answer.sse import DONE_EVENT, HELD_MAX, TABLE, Event, Relay, State, error_event
from gateway.core.errors import StreamBroken
from gateway.core.types import Outcome, Usage


def event(value: object, end: str = "\n") -> bytes:
    return f"data: {json.dumps(value, separators=(',', ':'), ensure_ascii=False)}{end}{end}".encode()


def delta(index: int = 0, finish: str | None = None, **said: object) -> bytes:
    return event({"id": "c", "choices": [{"index": index, "delta": said, "finish_reason": finish}]})


ROLE = delta(role="assistant", content="")
HELLO = delta(content="Hello")
WORLD = delta(content=" world")
STOP = delta(finish="stop")
USAGE_COUNTS = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
USAGE = event({"id": "c", "choices": [], "usage": USAGE_COUNTS})
DONE = b"data: [DONE]\n\n"
ERROR = event({"error": {"message": "slot lost", "type": "server_error", "code": 500}})


def run(reads: Iterable[bytes], *, end: bool = True, **settings_: object) -> tuple[bytes, Relay]:
    relay = Relay(**{"keep_usage": False, **settings_})  # type: ignore[arg-type]
    out = b"".join(relay.feed(read) for read in reads)
    return (out + relay.end() if end else out), relay


def facts(relay: Relay) -> tuple[object, ...]:
    return (
        relay.committed,
        relay.done,
        relay.failure,
        relay.usage,
        relay.finished,
        relay.reasoned,
        relay.error_status,
        relay.error_body,
    )


def test_no_live_state_lacks_an_answer_to_any_event() -> None:
    live = [State.WAITING, State.RELAYING, State.FINISHED]
    assert set(TABLE) == {(state, event) for state in live for event in Event}
    assert all(outcome is not None for _, act, outcome in TABLE.values() if act.name == "FAIL")


def test_nothing_leaves_before_the_first_meaningful_event_and_then_all_of_it_in_order() -> None:
    relay = Relay(keep_usage=False)
    assert relay.feed(b": ping\n\n") == b""
    assert relay.feed(ROLE) == b""
    assert not relay.committed
    assert relay.feed(HELLO) == b": ping\n\n" + ROLE + HELLO
    assert relay.committed


@pytest.mark.parametrize(
    "said",
    [
        {"content": "x"},
        {"reasoning": "x"},
        {"reasoning_content": "x"},
        {"refusal": "x"},
        {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}}]},
        {"function_call": {"name": "f"}},
    ],
)
def test_content_reasoning_refusal_and_calls_commit(said: dict[str, object]) -> None:
    relay = Relay(keep_usage=False)
    assert relay.feed(delta(**said)) == delta(**said)
    assert relay.committed


@pytest.mark.parametrize(
    "idle",
    [
        ROLE,
        delta(content=None, role="assistant"),
        delta(reasoning_content=""),
        event({"choices": [], "prompt_filter_results": []}),
        event({"choices": [{"index": 0, "delta": {}, "finish_reason": None}], "usage": None}),
        b": comment\n\n",
        b"retry: 500\n\n",
        b"\n",
        b"id: 7\n\n",
    ],
)
def test_what_says_nothing_does_not_commit(idle: bytes) -> None:
    relay = Relay(keep_usage=False)
    assert relay.feed(idle) == b""
    assert not relay.committed
    assert relay.failure is None


def test_a_finish_alone_commits_an_empty_answer() -> None:
    out, relay = run([ROLE, STOP, DONE])
    assert out == ROLE + STOP + DONE
    assert relay.done


def test_usage_is_read_and_withheld_unless_the_client_asked() -> None:
    out, relay = run([ROLE + HELLO + STOP + USAGE + DONE])
    assert out == ROLE + HELLO + STOP + DONE
    assert relay.usage == Usage(input=5, output=2)
    out, relay = run([ROLE + HELLO + STOP + USAGE + DONE], keep_usage=True)
    assert out == ROLE + HELLO + STOP + USAGE + DONE
    assert relay.usage == Usage(input=5, output=2)


def test_usage_beside_choices_is_read_and_the_event_passes() -> None:
    last = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": USAGE_COUNTS})
    out, relay = run([HELLO, last, DONE])
    assert out == HELLO + last + DONE
    assert relay.usage == Usage(input=5, output=2)


def test_usage_that_grows_in_every_chunk_ends_at_the_last() -> None:
    grown = [
        event(
            {
                "choices": [{"index": 0, "delta": {"content": "x"}}],
                "usage": {"prompt_tokens": 9, "completion_tokens": n},
            }
        )
        for n in (1, 2, 3)
    ]
    nothing = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": None})
    out, relay = run([*grown, nothing, DONE])
    assert out == b"".join(grown) + nothing + DONE
    assert relay.usage == Usage(input=9, output=3)


@pytest.mark.parametrize("absurd", [{"prompt_tokens": -1}, {"prompt_tokens": 10**12}, {"completion_tokens": "many"}])
def test_absurd_usage_is_refused_and_the_last_sane_one_stands(absurd: dict[str, object]) -> None:
    wrong = event({"choices": [], "usage": {**USAGE_COUNTS, **absurd}})
    _, relay = run([HELLO, STOP, USAGE, wrong, DONE])
    assert relay.usage == Usage(input=5, output=2)


def test_a_missing_end_marker_is_added_after_a_finish() -> None:
    out, relay = run([HELLO, STOP])
    assert out == HELLO + STOP + DONE_EVENT
    assert relay.done
    assert relay.failure is None


def test_all_after_the_first_end_marker_is_dropped() -> None:
    out, relay = run([HELLO, STOP, DONE + HELLO, DONE, ERROR])
    assert out == HELLO + STOP + DONE
    assert relay.done
    assert relay.failure is None


@pytest.mark.parametrize("marker", [b"data:[DONE]\n\n", b"data: [DONE]\r\n\r\n", b"data: [DONE]", b"data: [DONE]\n"])
def test_the_end_marker_has_one_spelling(marker: bytes) -> None:
    out, relay = run([HELLO, STOP, marker])
    assert out == HELLO + STOP + DONE_EVENT
    assert relay.done


@pytest.mark.parametrize(
    ("reads", "outcome"),
    [
        ([], Outcome.INVALID),
        ([ROLE], Outcome.INVALID),
        ([ROLE, DONE], Outcome.INVALID),
        ([USAGE], Outcome.INVALID),
        ([b": ping\n\n"], Outcome.INVALID),
        ([b"data: {oops\n\n"], Outcome.INVALID),
        ([b"data: 17\n\n"], Outcome.INVALID),
        ([b"<!doctype html><html>\n\n<p>Bad gateway"], Outcome.INVALID),
        ([b"  <html>"], Outcome.INVALID),
        ([b'{"object":"chat.completion","choices":[]}'], Outcome.INVALID),
        ([b'[{"choices":[]}]\n\n'], Outcome.INVALID),
        ([b'{"error":{"message":"no","code":503}}'], Outcome.IN_BAND_ERROR),
        ([ROLE, ERROR], Outcome.IN_BAND_ERROR),
        ([ROLE, b"event: error\ndata: gone\n\n"], Outcome.IN_BAND_ERROR),
        ([ROLE, b'event: error\ndata: {"message":"gone"}\n\n'], Outcome.IN_BAND_ERROR),
        ([event({"object": "error", "message": "x", "code": 400})], Outcome.IN_BAND_ERROR),
    ],
)
def test_a_failure_before_the_commit_point_sends_nothing(reads: list[bytes], outcome: Outcome) -> None:
    out, relay = run(reads)
    assert out == b""
    assert not relay.committed
    assert relay.failure is outcome
    assert relay.feed(HELLO) == b""


def test_an_html_page_is_known_by_its_first_byte() -> None:
    relay = Relay(keep_usage=False)
    relay.feed(b"\n<html")
    assert relay.failure is Outcome.INVALID


@pytest.mark.parametrize(
    "rest",
    [
        [],
        [WORLD],
        [WORLD, DONE],  # an end marker does not make a truncated answer whole
        [WORLD, ERROR, DONE],
        [b"event: error\ndata: {}\n\n"],
        [b'data: {"error":\n\n', STOP, DONE],
        [WORLD[:-20]],
    ],
)
def test_a_failure_after_the_commit_point_is_an_interruption(rest: list[bytes]) -> None:
    out, relay = run([ROLE, HELLO, *rest])
    assert out == ROLE + HELLO + b"".join(read for read in rest if read == WORLD)
    assert relay.failure is Outcome.INTERRUPTED
    assert not relay.done


@pytest.mark.parametrize("deep", [b"[" * 20_000 + b"]" * 20_000, b'{"a":' * 20_000 + b"NaN" + b"}" * 20_000])
def test_an_event_nested_thousands_of_levels_deep_is_no_json(deep: bytes) -> None:
    bad = b'data: {"choices":[{"index":0,"delta":{"content":"x"},"error":' + deep + b"}]}\n\n"
    assert run([bad])[1].failure is Outcome.INVALID
    out, relay = run([HELLO, bad])
    assert (out, relay.failure) == (HELLO, Outcome.INTERRUPTED)
    out, relay = run([HELLO, bad[:-2]])
    assert (out, relay.failure) == (HELLO, Outcome.INTERRUPTED)


def test_nothing_passes_behind_a_failure_however_plain() -> None:
    for rest in ([WORLD + DONE], [WORLD, DONE], [WORLD + ERROR]):
        relay = Relay(keep_usage=False)
        for read in [HELLO, *rest]:
            relay.feed(read)
        assert relay.failure is Outcome.INTERRUPTED
        assert relay.feed(WORLD) == b""
        assert relay.feed(WORLD + WORLD) == b""
        assert relay.end() == b""


def test_an_in_band_error_hands_over_its_status_and_body() -> None:
    _, relay = run([ROLE, ERROR])
    assert relay.error_status == 500
    assert json.loads(relay.error_body)["error"]["message"] == "slot lost"
    _, relay = run([event({"error": {"message": "slow down", "code": "rate_limit_exceeded"}})])
    assert relay.error_status is None


def test_one_of_two_choices_unfinished_is_an_interruption() -> None:
    two = [delta(0, content="a"), delta(1, content="b"), delta(0, finish="stop")]
    for rest in ([], [DONE]):
        out, relay = run([*two, *rest], choices=2)
        assert out == b"".join(two)
        assert relay.failure is Outcome.INTERRUPTED
    out, relay = run([*two, delta(1, finish="length"), DONE], choices=2)
    assert out == b"".join(two) + delta(1, finish="length") + DONE
    assert relay.done


def test_a_choice_that_opens_after_the_first_one_ended_is_waited_for() -> None:
    late = [delta(0, content="a"), delta(0, finish="stop"), delta(1, content="b")]
    assert run(late, choices=2)[1].failure is Outcome.INTERRUPTED
    assert run([*late, delta(1, finish="stop")], choices=2)[1].done


@pytest.mark.parametrize("late", [ERROR, b"data: {oops\n\n", b"data: " + b"x" * 300])
def test_what_breaks_behind_the_finish_does_not_take_the_answer_back(late: bytes) -> None:
    out, relay = run([HELLO, STOP, late], max_event=250)
    assert out == HELLO + STOP + DONE_EVENT
    assert relay.failure is None
    assert relay.anomalies


def test_malformed_json_between_two_deltas_passes_unless_it_looks_like_something_needed() -> None:
    broken = b'data: {"choices":[{"delta":{"content":"x\n\n'
    out, relay = run([HELLO, broken, STOP, DONE])
    assert out == HELLO + broken + STOP + DONE
    out, relay = run([HELLO, b'data: {"usage":{"prompt_tokens":\n\n', STOP, DONE])
    assert out == HELLO
    assert relay.failure is Outcome.INTERRUPTED


def test_an_event_of_300_kilobytes_passes_and_one_over_the_limit_does_not() -> None:
    large = delta(content="x" * 300_000)
    assert run([HELLO, large, STOP])[0] == HELLO + large + STOP + DONE_EVENT
    out, relay = run([HELLO, large, STOP], max_event=250_000)
    assert out == HELLO
    assert relay.failure is Outcome.EVENT_TOO_LARGE
    assert run([large], max_event=250_000)[1].failure is Outcome.TOO_LARGE


def test_the_limit_holds_for_an_event_that_never_ends() -> None:
    relay = Relay(keep_usage=False, max_event=100_000)
    relay.feed(HELLO)
    for _ in range(200):
        relay.feed(b"data: " + b"x" * 1_000)
    assert relay.failure is Outcome.EVENT_TOO_LARGE


def test_held_back_events_are_bounded_and_what_is_beyond_is_dropped() -> None:
    ping = b": " + b"x" * 1_000 + b"\n\n"
    out, relay = run([ping] * 1_000 + [HELLO, STOP])
    assert len(out) <= HELD_MAX + len(HELLO) + len(STOP) + len(DONE_EVENT)
    assert out.endswith(HELLO + STOP + DONE_EVENT)
    assert relay.done


def test_lines_end_at_lf_crlf_or_cr_and_nowhere_else() -> None:
    text = "a\u2028b\u0085c\x0bd\x0ce"
    for end in ("\n", "\r\n", "\r"):
        said = event({"choices": [{"index": 0, "delta": {"content": text}}]}, end)
        stop = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, end)
        out, relay = run([said, stop])
        assert out == said + stop + DONE_EVENT
        assert relay.output_chars == len(text.encode())


def test_fields_comments_and_several_data_lines_are_one_event() -> None:
    odd = b': hi\nid: 1\nevent: message\nretry: 9\ndata: {"choices":[{"index":0,\ndata:"delta":{"content":"x"}}]}\n\n'
    out, relay = run([odd, STOP])
    assert out == odd + STOP + DONE_EVENT
    split = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":\ndata: "stop"}]}\n\n'
    out, relay = run([odd, split, DONE])  # a stream that writes several lines has every event parsed
    assert out == odd + split + DONE
    assert relay.done


def test_a_byte_order_mark_at_the_start_is_dropped() -> None:
    for cut in range(4):
        stream = b"\xef\xbb\xbf" + ROLE + HELLO
        out, _ = run([stream[:cut], stream[cut:]], end=False)
        assert out == ROLE + HELLO


def test_invalid_utf8_and_nan_pass_untouched() -> None:
    odd = HELLO.replace(b"Hello", b"He\xffllo")
    nan = b'data: {"choices":[{"index":0,"delta":{"content":"x"},"logprobs":NaN,"finish_reason":"stop"}]}\n\n'
    out, relay = run([odd, nan, DONE])
    assert out == odd + nan + DONE
    assert relay.anomalies == 2


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" , ", " : ")])
def test_every_spelling_of_json_is_understood(separators: tuple[str, str]) -> None:
    def spelt(value: object) -> bytes:
        return f"data: {json.dumps(value, separators=separators)}\n\n".encode()

    events = [
        spelt({"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}], "usage": None}),
        spelt({"choices": [{"index": 0, "delta": {"content": "y"}, "finish_reason": None}], "usage": None}),
        spelt({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": None}),
    ]
    out, relay = run([*events, spelt({"choices": [], "usage": USAGE_COUNTS}), DONE])
    assert out == b"".join(events) + DONE
    assert relay.usage == Usage(input=5, output=2)


def respelt(block: bytes) -> bytes:
    return b"data: " + json.dumps(json.loads(block[6:])).encode() + b"\n\n"


MIXED = [
    [ROLE, HELLO, WORLD, respelt(STOP), respelt(USAGE), DONE],
    [respelt(ROLE), respelt(HELLO), respelt(WORLD), STOP, USAGE, DONE],
    [ROLE, HELLO, respelt(WORLD), WORLD, respelt(STOP), USAGE, DONE],
]


@pytest.mark.parametrize("events", MIXED)
@pytest.mark.parametrize("whole", [False, True])
def test_a_finish_and_usage_that_another_hand_wrote_are_found(events: list[bytes], whole: bool) -> None:
    out, relay = run([b"".join(events)] if whole else events)
    assert out == b"".join(event for event in events if b"usage" not in event)
    assert relay.done
    assert relay.failure is None
    assert relay.usage == Usage(5, 2)


def test_json_in_the_text_does_not_look_like_another_hand() -> None:
    for text in ('{"a": "b", "c":"d"}', '"', '": "', '":"'):
        for event in (delta(content=text), respelt(delta(content=text))):
            relay = Relay(keep_usage=False)
            relay.feed(event)
            assert relay.feed(event) is event


def test_a_mention_of_the_end_marker_or_of_errors_in_the_text_is_text() -> None:
    words = [delta(content=text) for text in ("x", "[DONE]", '"error"', '{"usage":{}}', '"finish_reason":"stop"')]
    out, relay = run([*words, STOP, DONE])
    assert out == b"".join(words) + STOP + DONE
    assert relay.done


@pytest.mark.parametrize("said", [{"reasoning": "hm"}, {"reasoning_content": "hm"}, {"content": "<think>hm"}])
def test_reasoning_is_noticed_in_every_spelling(said: dict[str, object]) -> None:
    assert run([delta(**said)])[1].reasoned
    assert not run([HELLO])[1].reasoned


def test_text_is_counted_for_estimates_also_where_events_are_not_parsed() -> None:
    _, relay = run([ROLE, *[HELLO] * 100])
    assert relay.output_chars == 500
    _, relay = run([ROLE + HELLO * 100])
    assert relay.output_chars == 500
    _, relay = run([delta(reasoning_content="x"), *[delta(content="x")] * 100])
    assert relay.output_chars == 404  # each event is at least a token
    detail = {"content": [{"token": "x" * 50, "logprob": -1.0}]}
    said = event({"choices": [{"index": 0, "delta": {"content": "x"}, "logprobs": detail, "finish_reason": None}]})
    assert run([said] * 100)[1].output_chars == 400


def test_after_the_commit_point_whole_plain_events_pass_as_the_same_object() -> None:
    relay = Relay(keep_usage=False)
    relay.feed(ROLE + HELLO)
    for read in (WORLD, WORLD * 500):
        assert relay.feed(read) is read


def test_an_error_event_is_openai_s_object_in_one_event() -> None:
    sent = error_event(StreamBroken("upstream_stream_interrupted", "The answer broke off."))
    assert sent.startswith(b"data: {")
    assert sent.endswith(b"}\n\n")
    assert json.loads(sent[6:])["error"]["code"] == "upstream_stream_interrupted"


# Any cut gives the same bytes and the same facts.

STREAMS = {
    "plain": ROLE + HELLO + WORLD + STOP + USAGE + DONE,
    "crlf": (ROLE + HELLO + WORLD + STOP + USAGE + DONE).replace(b"\n", b"\r\n"),
    "cr": (ROLE + HELLO + WORLD + STOP + USAGE + DONE + HELLO).replace(b"\n", b"\r"),
    "mixed": b"\xef\xbb\xbf: a\r\r" + ROLE + HELLO.replace(b"\n", b"\r\n") + b"\n\r\n\r" + WORLD + b": b\n\n" + STOP,
    "unfinished": ROLE + HELLO + WORLD[:-1],
    "no blank line at the end": ROLE + HELLO + STOP[:-2],
    "in-band error late": ROLE + HELLO + WORLD + ERROR + DONE,
    "in-band error early": ROLE + ERROR,
    "errors as json": b'{"error":{"message":"busy","code":429}}',
    "html": b"<html>\n\n</html>",
    "two end markers": HELLO + STOP + DONE + DONE + WORLD,
    "utf-8": delta(content="日本\u2028語") + delta(content="é") * 3 + STOP + DONE,
    "malformed": HELLO + b"data: {oops\n\n" + WORLD + b'data: {"error"\n\n' + STOP,
    **{f"mixed spelling {number}": b"".join(mixed) for number, mixed in enumerate(MIXED)},
    "odd json": b'data: {"choices" : [{"index" : 0, "delta" : {"content" : "x"}}]}\n\n' * 2
    + b'data: {"choices" : [{"index" : 0, "delta" : {}, "finish_reason" : "stop"}]}\n\n',
}


def whole_and(cut: list[bytes], stream: bytes) -> None:
    expected, once = run([stream])
    out, relay = run(cut)
    assert out == expected
    assert facts(relay) == facts(once)
    assert relay.output_chars == once.output_chars


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_byte_by_byte_gives_the_same_bytes_and_facts(stream: bytes) -> None:
    whole_and([stream[i : i + 1] for i in range(len(stream))], stream)


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_any_two_reads_give_the_same_bytes_and_facts(stream: bytes) -> None:
    for cut in range(len(stream)):
        whole_and([stream[:cut], stream[cut:]], stream)


EVENTS = [ROLE, HELLO, WORLD, STOP, USAGE, DONE, ERROR, delta(1, content="b"), delta(1, finish="stop"), b": c\n\n"]
ENDS = [b"\n", b"\r", b"\r\n", b"\n\n", HELLO.replace(b"\n", b"\r\n"), WORLD.replace(b"\n", b"\r")]
SCRAPS = [b"data:", b"data: {oops\n\n", b"event: error\n", b"\xef\xbb\xbf", b"id: 1\n", b'{"a":1}', b"x" * 300]
PIECES = st.sampled_from([*EVENTS, *map(respelt, [HELLO, WORLD, STOP, USAGE]), *ENDS, *SCRAPS])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(PIECES, max_size=12), st.randoms(use_true_random=False), st.integers(1, 60), st.booleans())
def test_no_cut_of_any_stream_changes_anything(
    pieces: list[bytes], chance: random.Random, most: int, keep_usage: bool
) -> None:
    stream = b"".join(pieces)
    reads, at = [], 0
    while at < len(stream):
        size = chance.randint(1, most)
        reads.append(stream[at : at + size])
        at += size
    for choices in (1, 2):
        expected, once = run([stream], keep_usage=keep_usage, choices=choices, max_event=280)
        out, relay = run(reads, keep_usage=keep_usage, choices=choices, max_event=280)
        assert out == expected
        assert facts(relay) == facts(once)
        assert not (relay.done and relay.failure)
        assert relay.committed or out == b""


# Ways of some providers.

SILENT = event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}], "usage": USAGE_COUNTS})


def test_usage_beside_a_silent_choice_behind_the_finish_is_withheld_unless_asked_for() -> None:
    out, relay = run([ROLE, HELLO, STOP, SILENT, DONE])
    assert out == ROLE + HELLO + STOP + DONE
    assert relay.usage == Usage(5, 2)
    out, _ = run([ROLE, HELLO, STOP, SILENT, DONE], keep_usage=True)
    assert out == ROLE + HELLO + STOP + SILENT + DONE


def test_a_silent_choice_that_was_not_seen_before_opens_whatever_stands_beside_it() -> None:
    other = event({"choices": [{"index": 1, "delta": {"role": "assistant"}}], "usage": USAGE_COUNTS})
    out, relay = run([HELLO, STOP, other, DONE], choices=2)
    assert other in out
    assert relay.done


def test_usage_inside_x_groq_counts_and_the_outer_one_before_it() -> None:
    inner = {"id": "r", "usage": {"prompt_tokens": 9, "completion_tokens": 9}}
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "x_groq": inner}
    assert run([HELLO, event(end), DONE])[1].usage == Usage(9, 9)
    assert run([HELLO, event(end | {"usage": USAGE_COUNTS}), DONE])[1].usage == Usage(5, 2)


def test_usage_in_an_error_behind_the_finish_counts() -> None:
    late = event({"error": {"code": 400, "message": "Token limit reached"}, "choices": [], "usage": USAGE_COUNTS})
    out, relay = run([HELLO, STOP, late, DONE])
    assert out == HELLO + STOP + DONE
    assert relay.usage == Usage(5, 2)


@pytest.mark.parametrize("reason", ["error", "abort"])
def test_a_finish_because_the_server_gave_up_is_none(reason: str) -> None:
    out, relay = run([HELLO, delta(finish=reason), DONE])
    assert (out, relay.failure) == (HELLO, Outcome.INTERRUPTED)
    out, relay = run([ROLE, delta(finish=reason), DONE])
    assert (out, relay.failure) == (b"", Outcome.IN_BAND_ERROR)


def test_a_text_that_stands_in_an_event_twice_is_counted_once() -> None:
    twice = {"choices": [{"index": 0, "text": "Hello there", "delta": {"content": "Hello there"}}]}
    assert run([event(twice), STOP, DONE])[1].output_chars == len("Hello there")
