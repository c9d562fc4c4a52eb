"""Runs of events that are alike: taken at once, with the same bytes and the same facts as one by one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.answer.alike import LEAST, Frame, Run, _Openings, frame_of
from gateway.core.answer.sse import Relay


def delta(finish: str | None = None, spaced: bool = False, **said: object) -> bytes:
    value = {"id": "c", "choices": [{"index": 0, "delta": said, "logprobs": None, "finish_reason": finish}]}
    text = json.dumps(value, separators=(", ", ": ") if spaced else (",", ":"), ensure_ascii=False)
    return f"data: {text}\n\n".encode()


def told(relay: Relay, out: bytes) -> tuple[object, ...]:
    return (
        out, relay.committed, relay.done, relay.failure, relay.usage, relay.finished, relay.reasoned,
        relay.error_status, relay.error_body, relay.chunks, relay.output_chars,
    )  # fmt: skip


def one_by_one(pieces: list[bytes]) -> tuple[object, ...]:
    relay = Relay(keep_usage=False)
    out = b"".join(map(relay.feed, pieces))
    return told(relay, out + relay.end())


def chunks(pieces: list[bytes], form: bytes = b"%x") -> bytes:
    return b"".join(form % len(piece) + b"\r\n" + piece + b"\r\n" for piece in pieces)


def payload(data: bytes) -> bytes:
    """What whole chunks hold."""
    out = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        out += data[: int(size, 16)]
        assert data[int(size, 16) :].startswith(b"\r\n")
        data = data[int(size, 16) + 2 :]
    return out


def in_floods(floods: list[list[bytes]], form: bytes = b"%x") -> tuple[object, ...]:
    """Each list is a read of so many chunks."""
    relay, out = Relay(keep_usage=False), b""
    for pieces in floods:
        data = chunks(pieces, form)
        end = relay.flood(data)
        out += payload(data[:end]) + relay.feed(payload(data[end:]))
    return told(relay, out + relay.end())


BEGIN = [delta(role="assistant", content=""), delta(content="Hello")]
END = [delta(finish="stop"), b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}\n\n',
       b"data: [DONE]\n\n"]  # fmt: skip
WORDS = [delta(content=f" word {n}") for n in range(40)]


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many events each run that was asked for had; 0 where it was none."""
    seen: list[int] = []
    plain = Frame.run

    def run(frame: Frame, data: bytes, openings: _Openings) -> Run | None:
        found = plain(frame, data, openings)
        seen.append(0 if found is None else found.events)
        return found

    monkeypatch.setattr(Frame, "run", run)
    return seen


def test_a_flood_is_taken_at_once_up_to_the_events_that_end_it(taken: list[int]) -> None:
    assert in_floods([BEGIN, WORDS, [*WORDS, *END]]) == one_by_one([*BEGIN, *WORDS, *WORDS, *END])
    assert taken == [40, 40]


def test_a_text_may_hold_whatever_json_can_escape(taken: list[int]) -> None:
    texts = ['"', "\\", '\\"', 'say "finish_reason":"stop"', '{"usage":{', "\n\n", "日本\u2028語", "data: x", ""]
    events = [delta(content=text) for text in texts * 2]
    assert in_floods([BEGIN, WORDS, events, END]) == one_by_one([*BEGIN, *WORDS, *events, *END])
    assert taken[:2] == [40, 18]


@pytest.mark.parametrize(
    "odd",
    [
        delta(finish="stop", content="x"),
        delta(finish="stop", spaced=True, content="x"),
        delta(content="an error"),
        delta(content="[DONE]"),
        b'data: {"error":{"message":"slot lost"}}\n\n',
        b"data: [DONE]\n\n",
        b"event: error\ndata: oops\n\n",
        b": ping\n\n",
        b"data: oops\n\n",
        b"data: ",
        delta(content="x").replace(b"\n", b"\r"),
        delta(content="x").replace(b"\n\n", b"\n"),
        delta(content="x").replace(b'"x"', b'"x","y":"z"'),
        delta(content="x").replace(b'"x"', b'"x\r"'),
        delta(content="x").replace(b'"x"', b'"x\n\n"'),
        delta(content="x").replace(b'"x"', b'"x\\"'),
        delta(content="x") + delta(content="y"),
        delta(content="x") + delta(finish="stop"),
        b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":2}}\n\n',
    ],
)
def test_whatever_is_unlike_the_others_is_judged_as_it_would_be_by_itself(odd: bytes) -> None:
    for at in (0, 7, 20, 39, 40):
        events = [*WORDS[:at], odd, *WORDS[at:]]
        expected = one_by_one([*BEGIN, *WORDS, *events, *END])
        assert in_floods([BEGIN, WORDS, events, END]) == expected
        assert in_floods([BEGIN, events, WORDS, END])[0] == one_by_one([*BEGIN, *events, *WORDS, *END])[0]


def test_a_mention_of_errors_counts_for_estimates_as_it_would_by_itself() -> None:
    thoughts = [delta(reasoning_content=text) for text in ("hm", "an error", "then [DONE] is", *["so"] * 20)]
    assert in_floods([BEGIN, thoughts, END]) == one_by_one([*BEGIN, *thoughts, *END])


def test_a_frame_that_says_something_itself_is_no_frame_to_pass_by(taken: list[int]) -> None:
    counted = [event.replace(b"}\n\n", b',"usage":{"prompt_tokens":5,"completion_tokens":2}}\n\n') for event in WORDS]
    assert in_floods([BEGIN, counted, END]) == one_by_one([*BEGIN, *counted, *END])
    assert taken == []


def test_where_reasoning_ends_another_frame_is_learned(taken: list[int]) -> None:
    thoughts = [delta(reasoning_content=f" thought {n}") for n in range(40)]
    floods = [BEGIN, thoughts, WORDS, WORDS, END]
    assert in_floods(floods) == one_by_one([event for flood in floods for event in flood])
    assert taken == [40, 0, 40, 40, 0]


def test_a_stream_of_which_no_run_is_alike_is_soon_no_longer_compared(taken: list[int]) -> None:
    other = [delta(content=f" {n}").replace(b'"c"', b'"c%d"' % n) for n in range(40)]
    floods = [BEGIN, *[other] * 8, END]
    assert in_floods(floods) == one_by_one([event for flood in floods for event in flood])
    assert taken == [0, 0, 0]


def test_a_flood_that_begins_inside_an_event_is_none(taken: list[int]) -> None:
    whole = b"".join(WORDS)
    cut = [whole[i : i + 50] for i in range(0, len(whole), 50)]
    assert in_floods([BEGIN, cut, END]) == one_by_one([*BEGIN, *WORDS, *END])
    assert not any(taken)


PIECES = st.sampled_from([
    *WORDS[:6], delta(content='a "quoted" word'), delta(content=""), delta(reasoning="hm"), delta(content="error"),
    delta(spaced=True, content="x"), delta(finish="stop"), *END, b": ping\n\n", b"data: {oops\n\n", b"\n",
    b"data:", b"x",
])  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(PIECES, st.integers(1, 12)), max_size=8), st.integers(1, 40), st.sampled_from([b"%x", b"%X"]))
def test_no_flood_changes_anything(runs: list[tuple[bytes, int]], most: int, form: bytes) -> None:
    pieces = [*BEGIN, *WORDS[:LEAST], *[piece for piece, times in runs for _ in range(times)]]
    floods = [pieces[:2], *[pieces[at : at + most] for at in range(2, len(pieces), most)]]
    expected = one_by_one([b"".join(pieces)])
    assert in_floods(floods, form) == expected


@pytest.mark.parametrize("form", [b"%x", b"%X", b"%04x", b"%x;a=b", b" %x", b"+%x", b"%x "])
def test_only_sizes_as_everybody_writes_them_are_taken_at_once(form: bytes, taken: list[int]) -> None:
    relay = Relay(keep_usage=False)
    for event in [*BEGIN, *WORDS]:
        relay.feed(event)
    data = chunks(WORDS, form)
    assert relay.flood(data) == (len(data) if form in (b"%x", b"%X") else 0)


def test_a_chunk_whose_size_is_not_that_of_its_event_is_not_taken() -> None:
    plain = chunks(WORDS)
    for at in (0, 7, 39):
        start = len(chunks(WORDS[:at]))
        digits = plain[start : plain.index(b"\r\n", start)]
        for other in (int(digits, 16) + 1, int(digits, 16) - 1, int(digits, 16) + 256):
            relay = Relay(keep_usage=False)
            for event in [*BEGIN, *WORDS]:
                relay.feed(event)
            assert relay.flood(plain[:start] + b"%x" % other + plain[start + len(digits) :]) == 0


def test_a_cut_last_chunk_is_left() -> None:
    plain = chunks(WORDS)
    start = len(chunks(WORDS[:-1]))
    for cut in range(start, len(plain)):
        relay = Relay(keep_usage=False)
        for event in [*BEGIN, *WORDS]:
            relay.feed(event)
        assert relay.flood(plain[:cut]) == start


@pytest.mark.parametrize(
    "event",
    [
        b"data: [DONE]\n\n",
        delta(content=""),
        delta(content="x")[:-1],
        delta(content="x") + delta(content="y"),
        delta(content="x").replace(b"\n", b"\r"),
        b": ping\n\n",
        b'data: {"content":"x":"y"}\n\n',  # the text could be a member's name, and what follows a finish
    ],
)
def test_what_has_no_text_or_is_not_one_line_of_data_has_no_frame(event: bytes) -> None:
    assert frame_of(event) is None
