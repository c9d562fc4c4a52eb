"""One contract over every dialect, held by the bytes that its servers send.

`tests/wire/<dialect>/` holds raw responses, recorded or written after documentation (`seen` in index.json says which);
a new dialect passes here by bringing its folder.
"""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.answer.sse import DONE_EVENT, Relay
from gateway.core.money.usage import settle
from gateway.core.request import wire
from gateway.core.servers.dialects import (
    DIALECTS,
    classify,
    classify_answer,
    classify_in_band,
    prepare,
    relayed_error,
    request_body,
)
from gateway.core.servers.refusals import CODES
from gateway.core.servers.respell import OTHER
from gateway.core.types import Backend, Endpoint, Model, Outcome, Target, Thinking
from tests.fuzz import targets

WIRE = Path(__file__).parent.parent / "wire"


@dataclass(frozen=True)
class Recorded:
    """One response as it came, taken apart."""

    dialect: str
    name: str
    status: int
    head: bytes
    chunks: tuple[bytes, ...]  # the body as it was framed
    thinking: Thinking
    request: dict[str, Any]

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def __str__(self) -> str:
        return f"{self.dialect}-{self.name}"


def unchunk(rest: bytes) -> list[bytes]:
    chunks = []
    while True:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            assert rest == b"\r\n"
            return chunks
        chunks.append(rest[:length])
        assert rest[length : length + 2] == b"\r\n"
        rest = rest[length + 2 :]


def load(path: Path, case: dict[str, Any]) -> Recorded:
    head, _, rest = path.read_bytes().partition(b"\r\n\r\n")
    lower = head.lower()
    chunks = unchunk(rest) if b"transfer-encoding: chunked" in lower else [rest]
    length = re.search(rb"content-length: (\d+)", lower)
    assert length is None or int(length.group(1)) == len(rest)
    mode, _, budget = case["thinking"].partition(":")
    thinking = Thinking(mode, int(budget) if budget else None)
    return Recorded(path.parent.name, path.stem, int(head[9:12]), lower, tuple(chunks), thinking, case["request"])


INDEXES = {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(WIRE.glob("*/index.json"))}
ALL = [
    load(WIRE / dialect / f"{name}.http", case)
    for dialect, index in INDEXES.items()
    for name, case in index["cases"].items()
]
STREAMS = [
    one for one in ALL if one.status == 200 and b"text/event-stream" in one.head and one.name.startswith("stream")
]
#: Streams that are translated: what comes out is OpenAI's, and not what came in.
TRANSLATED = [one for one in ALL if b"application/x-ndjson" in one.head]
ANSWERS = [one for one in ALL if one.status == 200 and b"application/json" in one.head and one.name.startswith("chat")]
ERRORS = [one for one in ALL if one.status != 200]


def plan(dialect: str) -> Any:
    backend = Backend("b", dialect, (Endpoint("http://a:1/v1", "http", "a", 1, "/v1"),))
    return prepare(Target("t", 0, Model("m", "qwen"), backend, "served-name", 8192, thinking="switchable"))


def events(body: bytes) -> list[bytes]:
    """The events of a stream as these servers write it, for comparing: not a parser."""
    parts = re.split(rb"(?<=\n\n)|(?<=\r\n\r\n)", body)
    return [part for part in parts if part]


def choices_of(event: bytes) -> list[dict[str, Any]] | None:
    """The choices of a chunk; None for what is no chunk: a comment, the end marker."""
    return json.loads(event[6:]).get("choices") or [] if event.startswith(b"data: {") else None


def is_usage_only(event: bytes, *, ended: bool) -> bool:
    """Nothing but usage: no choices, or behind the finish a choice that says nothing."""
    choices = choices_of(event)
    if choices is None or not isinstance(json.loads(event[6:]).get("usage"), dict):
        return False
    silent = all(not c.get("finish_reason") and not c["delta"].get("content") for c in choices)
    return not choices or (ended and silent)


def test_every_dialect_brings_its_bytes() -> None:
    assert set(INDEXES) == set(DIALECTS)
    for dialect, index in INDEXES.items():
        assert {"chat", "chat-thinking", "stream", "stream-tools", "error-too-long"} <= set(index["cases"]), dialect
        files = {path.stem for path in (WIRE / dialect).glob("*.http")}
        assert files == set(index["cases"]), dialect
        for name, case in index["cases"].items():
            assert case["seen"] in ("live", "documented"), name
            assert case["server"], name


def test_the_readme_says_for_every_dialect_what_was_seen() -> None:
    readme = (WIRE / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([^`]+)` \| (\w+) \|", readme, re.M))
    assert rows == {dialect: seen_of(index) for dialect, index in INDEXES.items()}


def seen_of(index: dict[str, Any]) -> str:
    seen = {case["seen"] for case in index["cases"].values()}
    return seen.pop() if len(seen) == 1 else "both"


# What is sent.


@pytest.mark.parametrize("dialect", [name for name, row in DIALECTS.items() if row.write is None])
@pytest.mark.parametrize("mode", ["never", "always", "budget", "client"])
def test_thinking_is_sent_explicitly_or_not_at_all(dialect: str, mode: str) -> None:
    row = DIALECTS[dialect]
    body = wire.parse(b'{"model":"auto","messages":[{"role":"user","content":"hi"}],"stream":true}')
    thinking = Thinking(mode, 2000 if mode == "budget" else None)  # type: ignore[arg-type]
    sent = json.loads(request_body(body, plan(dialect), thinking))
    assert sent.pop("model") == "served-name"
    assert sent.pop("stream_options") == {"include_usage": True}
    spelling = row.thinking
    always = {**row.members, **(spelling.beside if spelling.exists else {})}
    assert {name: sent.pop(name) for name in always} == always
    added = sent.keys() - {"messages", "stream"}

    def value(place: str) -> Any:
        found: Any = sent
        for name in place.split("."):
            found = found.get(name) if isinstance(found, dict) else None
        return found

    if mode == "client" or not spelling.exists:
        assert added == set()
    elif spelling.switch is None:
        assert added == {spelling.effort}
        assert (value(spelling.effort or "") == "none") == (mode == "never")
    else:
        assert value(spelling.switch) is (mode != "never")
        assert (value(spelling.budget or "-") == 2000) == (mode == "budget" and spelling.budget is not None)


# What comes back, complete.


@pytest.mark.parametrize("one", ANSWERS, ids=str)
def test_a_complete_answer_gives_its_facts(one: Recorded) -> None:
    facts = plan(one.dialect).parse(one.body)
    assert facts is not None
    assert facts.usage is not None
    assert facts.usage.input > 0
    assert facts.usage.output > 0
    assert not facts.usage.estimated
    assert facts.finish in ("stop", "length", "tool_calls")
    assert facts.output_chars > 0
    thought = facts.reasoned or facts.usage.reasoning > 0
    assert thought == (one.thinking.mode != "never")
    assert classify(plan(one.dialect), one.status, one.body) is Outcome.OK


@pytest.mark.parametrize("one", ANSWERS, ids=str)
def test_a_truncated_answer_is_none(one: Recorded) -> None:
    parse = plan(one.dialect).parse
    for cut in range(0, len(one.body) - 1, 7):
        assert parse(one.body[:cut]) is None


# What comes back as a stream.


def relayed(
    reads: list[bytes] | tuple[bytes, ...], *, keep_usage: bool, choices: int, kind: type[Relay] = Relay
) -> tuple[bytes, Relay]:
    relay = kind(keep_usage, choices=choices)
    out = b"".join(relay.feed(read) for read in reads)
    return out + relay.end(), relay


def cuts(one: Recorded) -> list[list[bytes] | tuple[bytes, ...]]:
    return [one.chunks, *targets.reads(one.body)]


@pytest.mark.parametrize("one", STREAMS, ids=str)
def test_a_stream_is_relayed_byte_for_byte_in_any_cut(one: Recorded) -> None:
    choices = one.request.get("n", 1)
    every = events(one.body)
    finish = max(i for i, event in enumerate(every) if any(c.get("finish_reason") for c in choices_of(event) or ()))
    wanted = b"".join(event for i, event in enumerate(every) if not is_usage_only(event, ended=i > finish))
    for reads in cuts(one):
        out, relay = relayed(reads, keep_usage=True, choices=choices)
        assert out == one.body
        assert relay.done
        assert relay.failure is None
        out, relay = relayed(reads, keep_usage=False, choices=choices)
        assert out == wanted
        assert relay.usage is not None
        assert relay.usage.input > 0
        assert relay.usage.output > 0
        assert (relay.reasoned or relay.usage.reasoning > 0) == (one.thinking.mode != "never")
        assert relay.anomalies == 0


@pytest.mark.parametrize("one", STREAMS + TRANSLATED, ids=str)
def test_wherever_a_stream_is_cut_the_same_comes_out(one: Recorded) -> None:
    body, choices, kind = one.body, one.request.get("n", 1), DIALECTS[one.dialect].relay
    whole, first = relayed([body], keep_usage=False, choices=choices, kind=kind)

    @settings(max_examples=12, deadline=None, derandomize=True)
    @given(st.sets(st.integers(1, len(body) - 1), max_size=9))
    def cut(at: set[int]) -> None:
        places = [0, *sorted(at), len(body)]
        reads = [body[begin:end] for begin, end in itertools.pairwise(places)]
        out, relay = relayed(reads, keep_usage=False, choices=choices, kind=kind)
        assert re.sub(rb'"created":\d+', b"", out) == re.sub(rb'"created":\d+', b"", whole)
        assert (relay.done, relay.failure, relay.usage, relay.reasoned) == (
            first.done, first.failure, first.usage, first.reasoned,
        )  # fmt: skip

    cut()


@pytest.mark.parametrize("spelling", ["reasoning", "reasoning_content"])
@pytest.mark.parametrize("one", [*STREAMS, *(one for one in TRANSLATED if one.name.startswith("stream"))], ids=str)
def test_reasoning_comes_in_the_spelling_asked_for_whoever_answers(one: Recorded, spelling: str) -> None:
    kinds = plan(one.dialect)
    choices = one.request.get("n", 1)
    as_sent, _ = relayed([one.body], keep_usage=True, choices=choices, kind=kinds.relay)
    made = set()
    for reads in cuts(one):
        relay = kinds.respelling(spelling, True, choices=choices)
        made.add(b"".join(relay.feed(read) for read in reads) + relay.end())
        assert relay.done
    [respelt] = made
    assert texts(respelt, spelling) == texts(as_sent, "reasoning", "reasoning_content")
    assert texts(respelt, "content") == texts(as_sent, "content")
    assert OTHER[spelling].encode() + b'":' not in respelt


def texts(body: bytes, *names: str) -> str:
    """What the choices say under these names."""
    said = [choice.get("delta", {}) for event in events(body) for choice in choices_of(event) or ()]
    return "".join(delta[name] for delta in said for name in names if delta.get(name))


@pytest.mark.parametrize("one", STREAMS, ids=str)
def test_a_stream_that_ends_early_is_never_taken_for_a_whole_one(one: Recorded) -> None:
    every = events(one.body)
    for count in range(len(every)):
        head = every[:count]
        out, relay = relayed(head, keep_usage=True, choices=one.request.get("n", 1))
        closed = {c["index"] for e in head for c in choices_of(e) or () if c.get("finish_reason")}
        opened = {c["index"] for e in head for c in choices_of(e) or ()}
        if opened and closed == opened:
            assert relay.done
        else:
            assert relay.failure is (Outcome.INTERRUPTED if relay.committed else Outcome.INVALID)
            assert out == (b"".join(head) if relay.committed else b"")


@pytest.mark.parametrize("one", [one for one in TRANSLATED if one.name.startswith("stream")], ids=str)
def test_a_translated_stream_is_openai_s_in_any_cut(one: Recorded) -> None:
    kind = plan(one.dialect).relay
    whole, _ = relayed([one.body], keep_usage=True, choices=1, kind=kind)
    assert whole.endswith(DONE_EVENT)
    # What comes out is a stream that the contract for all others holds for.
    _, again = relayed([whole], keep_usage=True, choices=1)
    assert again.done
    for reads in cuts(one):
        for keep in (True, False):
            out, relay = relayed(reads, keep_usage=keep, choices=1, kind=kind)
            wanted = [event for event in events(whole) if keep or not is_usage_only(event, ended=False)]
            assert out == b"".join(wanted)
            assert relay.done
            assert relay.failure is None
            assert relay.usage is not None
            assert relay.usage.output > 0
            assert relay.reasoned == (one.thinking.mode != "never")
            assert relay.anomalies == 0


@pytest.mark.parametrize("one", [one for one in TRANSLATED if one.name.startswith("stream")], ids=str)
def test_a_translated_stream_that_ends_early_is_never_taken_for_a_whole_one(one: Recorded) -> None:
    kind = plan(one.dialect).relay
    for count in range(len(one.body) - 1):
        out, relay = relayed([one.body[:count]], keep_usage=True, choices=1, kind=kind)
        assert relay.failure is (Outcome.INTERRUPTED if relay.committed else Outcome.INVALID)
        assert DONE_EVENT not in out


LIVE = [one for one in STREAMS if INDEXES[one.dialect]["cases"][one.name]["seen"] == "live"]


@pytest.mark.parametrize("one", LIVE, ids=str)
def test_an_estimate_made_without_parsing_every_event_is_near_what_the_server_counted(one: Recorded) -> None:
    """The random model says words of 12 bytes a token, llama.cpp counts one of several choices, and the tokens that
    frame a tool call are never shown: an estimate is no more than that."""
    _, relay = relayed(one.chunks, keep_usage=False, choices=one.request.get("n", 1))
    assert relay.usage is not None
    guess = settle(None, 1, relay.output_chars).output
    assert (0.3 if "tools" in one.name else 0.7) <= guess / relay.usage.output <= 4


# Refusals.

MEANING = {
    "error-access": Outcome.FORBIDDEN,
    "error-arrearage": Outcome.RATE_LIMITED,
    "error-auth": Outcome.AUTH,
    "error-content-filter": Outcome.CLIENT_ERROR,
    "error-free-tier": Outcome.RATE_LIMITED,
    "error-image": Outcome.CLIENT_ERROR,
    "error-inspection": Outcome.CLIENT_ERROR,
    "error-loading": Outcome.OVERLOADED,
    "error-model": Outcome.MODEL_GONE,
    "error-model-unpulled": Outcome.MODEL_GONE,
    "error-no-thinking": Outcome.CLIENT_ERROR,
    "error-no-tools": Outcome.CLIENT_ERROR,
    "error-model-not-allowed": Outcome.MODEL_GONE,
    "error-model-profile": Outcome.MODEL_GONE,
    "error-model-retired": Outcome.MODEL_GONE,
    "error-model-retired-older": Outcome.MODEL_GONE,
    "error-model-provider": Outcome.MODEL_GONE,
    "error-overloaded": Outcome.OVERLOADED,
    "error-overloaded-flex": Outcome.OVERLOADED,
    "error-quota": Outcome.RATE_LIMITED,
    "error-rate-limit": Outcome.RATE_LIMITED,
    "error-rate-limit-too-large": Outcome.RATE_LIMITED,
    "error-request": Outcome.CLIENT_ERROR,
    "error-server": Outcome.SERVER_ERROR,
    "error-signature": Outcome.FORBIDDEN,
    "error-thinking-needs-stream": Outcome.CLIENT_ERROR,
    "error-too-long": Outcome.CONTEXT_LENGTH,
    "error-too-long-cache": Outcome.CONTEXT_LENGTH,
    "error-too-long-messages": Outcome.CONTEXT_LENGTH,
    "error-too-long-newer": Outcome.CONTEXT_LENGTH,
    "error-too-long-older": Outcome.CONTEXT_LENGTH,
    "error-too-long-output": Outcome.CONTEXT_LENGTH,
    "error-too-long-stream": Outcome.CONTEXT_LENGTH,
    "error-too-long-tgi": Outcome.CONTEXT_LENGTH,
    "error-too-long-tokens": Outcome.CONTEXT_LENGTH,
    "error-tool-use": Outcome.MISWRITTEN,
}


IN_STREAM = {
    "error-in-stream": Outcome.IN_BAND_ERROR,
    "error-in-stream-overloaded": Outcome.OVERLOADED,
    "error-in-stream-rate-limit": Outcome.RATE_LIMITED,
    "error-in-stream-too-long": Outcome.CONTEXT_LENGTH,
    "error-in-stream-too-long-cache": Outcome.CONTEXT_LENGTH,
    "error-in-stream-tool-use": Outcome.MISWRITTEN,
}


def error_of(body: bytes) -> dict[str, Any]:
    """The error object, wherever a server puts it: not a parser."""
    value = json.loads(body)
    value = value[0] if isinstance(value, list) else value
    if "detail" in value:
        return {"message": json.dumps(value["detail"], separators=(",", ":"))}
    found = value.get("error", value)
    return found if isinstance(found, dict) else {"message": found}


@pytest.mark.parametrize("one", ERRORS, ids=str)
def test_a_refusal_means_the_same_whoever_says_it(one: Recorded) -> None:
    outcome = classify(plan(one.dialect), one.status, one.body)
    assert outcome is MEANING[one.name]
    if outcome in (Outcome.CLIENT_ERROR, Outcome.CONTEXT_LENGTH):
        made = relayed_error(one.status, one.body)
        assert made is not None
        status, code, body = made
        assert 400 <= status < 500
        told = json.loads(body)["error"]
        original = error_of(one.body)
        assert told["message"] == original["message"]
        assert isinstance(told["code"], str)
        if outcome is Outcome.CONTEXT_LENGTH:
            assert code == "context_length_exceeded"
        if isinstance(original.get("code"), str):
            assert told["code"] == original["code"]


def test_the_page_says_with_which_statuses_each_dialect_refuses() -> None:
    page = (WIRE.parent.parent / "docs" / "backends.md").read_text(encoding="utf-8")
    table = page[page.index("| Dialect | A prompt too long") :]
    rows = dict(re.findall(r"^\| `([^`]+)` \| (.*) \|$", table[: table.index("\n\n")], re.M))
    assert rows.keys() == DIALECTS.keys()
    columns = ([Outcome.CONTEXT_LENGTH], [Outcome.MODEL_GONE], [Outcome.OVERLOADED, Outcome.RATE_LIMITED])
    for dialect, row in rows.items():
        for outcomes, cell in zip(columns, row.split(" | "), strict=True):
            kept = {one.status for one in ERRORS if one.dialect == dialect and MEANING[one.name] in outcomes}
            assert {int(told) for told in re.findall(r"\b[45]\d\d\b", cell)} == kept, dialect
            assert all(told in CODES or told in shown(dialect) for told in re.findall(r"`(\w+)`", cell)), dialect


def shown(dialect: str) -> str:
    """All that the refusals of a dialect say."""
    return "".join(one.body.decode() for one in ERRORS if one.dialect == dialect)


@pytest.mark.parametrize("one", [one for one in ALL if one.name.startswith("error-in-stream")], ids=str)
def test_an_error_in_place_of_a_stream_is_known_before_anything_is_sent(one: Recorded) -> None:
    for reads in cuts(one):
        out, relay = relayed(reads, keep_usage=False, choices=1)
        assert out == b""
        assert relay.failure is Outcome.IN_BAND_ERROR
        assert classify_in_band(plan(one.dialect), relay) is IN_STREAM[one.name]


@pytest.mark.parametrize(
    ("dialect", "name", "outcome"),
    [
        ("openrouter", "error-in-answer", Outcome.OVERLOADED),
        ("openrouter", "error-in-answer-part", Outcome.IN_BAND_ERROR),
    ],
)
def test_an_error_in_place_of_an_answer_is_no_answer(dialect: str, name: str, outcome: Outcome) -> None:
    [one] = [one for one in ALL if (one.dialect, one.name) == (dialect, name)]
    assert plan(dialect).parse(one.body) is None
    assert classify_answer(plan(dialect), one.body) is outcome


def test_a_server_that_dies_behind_the_first_event_leaves_an_interruption() -> None:
    found = [one for one in ALL if one.name.startswith("broken-")]
    assert found
    for one in found:
        for reads in cuts(one):
            out, relay = relayed(reads, keep_usage=False, choices=1, kind=plan(one.dialect).relay)
            assert relay.failure is Outcome.INTERRUPTED
            assert relay.committed
            assert out
            assert one.body.startswith(out) or one in TRANSLATED
            assert b"error" not in out
            assert b"[DONE]" not in out
