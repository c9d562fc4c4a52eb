"""W3C trace context: taken exactly as the standard has it, and ignored where a client makes it up."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.request.tracecontext import LONGEST_STATE, Parent, Traced, Tracing, parent_of, span_id, threshold
from gateway.core.types import Attempt, Endpoint, Outcome
from tests.core.fleets import FLEET

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"
REQUEST = "0199f0a3c2d5" + "c0ffee" * 3 + "42"


def head(*lines: str) -> bytes:
    return "\r\n".join(["POST /v1/chat/completions HTTP/1.1", "Host: x", *lines, "", ""]).encode("latin-1")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (GOOD, Parent(TRACE, SPAN, sampled=True)),
        (f"00-{TRACE}-{SPAN}-00", Parent(TRACE, SPAN)),
        (f"00-{TRACE}-{SPAN}-03", Parent(TRACE, SPAN, sampled=True, random=True)),
        (f"00-{TRACE}-{SPAN}-ff", Parent(TRACE, SPAN, sampled=True, random=True)),
        (f" \t{GOOD}\t ", Parent(TRACE, SPAN, sampled=True)),
        (f"cc-{TRACE}-{SPAN}-01", Parent(TRACE, SPAN, sampled=True)),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", Parent(TRACE, SPAN, sampled=True)),
    ],
)
def test_a_parent_is_read(value: str, expected: Parent) -> None:
    for name in ("traceparent", "Traceparent", "TRACEPARENT"):
        assert parent_of(head(f"{name}: {value}", "accept: */*")) == expected


@pytest.mark.parametrize(
    "value",
    [
        "", "00", "-", GOOD + "-more", GOOD + "x", GOOD[:-1], GOOD.upper(), GOOD.replace("-", "_"),
        f"ff-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-01x", f"cc-{TRACE}-{SPAN}-01-\x80",
        f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}x-{SPAN}-01", f"00-{TRACE[:-1]}-{SPAN}-01", f"00-{TRACE}-{SPAN}-1", f"00-{TRACE}-{SPAN}-0g",
        f"0-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01, {GOOD}", f"{GOOD},", f"00 -{TRACE}-{SPAN}-01",
        f"00-{TRACE[:-1]}\u00b2-{SPAN}-01", "00-" + "9" * 5_000,
    ],
)  # fmt: skip
def test_a_parent_that_is_not_exactly_one_is_nobody(value: str) -> None:
    assert parent_of(head(f"traceparent: {value}", "tracestate: a=1")) is None


def test_two_parents_are_none_and_so_is_a_header_that_only_ends_like_one() -> None:
    assert parent_of(head(f"traceparent: {GOOD}", f"Traceparent: {GOOD}")) is None
    assert parent_of(head(f"x-traceparent: {GOOD}")) is None
    assert parent_of(head(f"user-agent: \x0btraceparent: {GOOD}")) is None
    assert parent_of(head("tracestate: a=1")) is None
    assert parent_of(head()) is None


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"], "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        (["rojo=1", "congo=2"], "rojo=1,congo=2"),
        ([" rojo=1 , ,\tcongo=2,"], "rojo=1,congo=2"),
        (["a b=1"], ""),
        (["rojo=1,rojo=2"], ""),
        (["Rojo=1"], ""),
        (["rojo"], ""),
        (["rojo="], ""),
        (["rojo=a=b"], ""),
        (["rojo=\u00e4"], ""),
        (["fw529a3039@dt=FfffffffC0", "0tenant@sys=1"], "fw529a3039@dt=FfffffffC0,0tenant@sys=1"),
        (["@sys=1"], ""),
        (["a@b@c=1"], ""),
        (["a=" + "v" * 257], ""),
        ([",".join(f"k{number}=v" for number in range(32))], ",".join(f"k{number}=v" for number in range(32))),
        ([",".join(f"k{number}=v" for number in range(33))], ""),
        (["a=" + "v" * 250, "b=" + "v" * 250], f"a={'v' * 250},b={'v' * 250}"),
        (["a=" + "v" * 250, "b=" + "v" * 250, "c=123456"], ""),
    ],
)
def test_a_state_is_passed_on_whole_or_not_at_all(lines: list[str], expected: str) -> None:
    found = parent_of(head(f"traceparent: {GOOD}", *(f"Tracestate: {line}" for line in lines)))
    assert found is not None
    assert found.state == expected


@given(st.binary(max_size=80), st.binary(max_size=700))
def test_nothing_that_a_client_says_gets_further_than_the_grammar(parent: bytes, state: bytes) -> None:
    """Heads come here only after they were parsed: without control characters that end lines."""
    clean = [re.sub(rb"[\r\n]", b"", value) for value in (parent, state)]
    raw = b"POST / HTTP/1.1\r\ntraceparent: %b\r\ntracestate: %b\r\n\r\n"
    found = parent_of(raw % tuple(clean))
    if found is not None:
        assert re.fullmatch("[0-9a-f]{32}", found.trace_id)
    found = parent_of(raw % (GOOD.encode(), clean[1]))
    assert found is not None
    assert len(found.state) <= LONGEST_STATE
    assert re.fullmatch(r"[ -~]*", found.state)


def test_what_is_carried_on_reads_back_as_a_child_of_the_attempt() -> None:
    traced = Tracing().begin(REQUEST, head(f"traceparent: {GOOD}", "tracestate: rojo=1"))
    for number in (1, 2, 16):
        lines = traced.carried(REQUEST, number)
        assert parent_of(b"POST / HTTP/1.1" + lines + b"\r\n\r\n") == Parent(
            TRACE, span_id(REQUEST, number), True, False, "rojo=1"
        )


def test_a_request_without_a_caller_begins_a_trace_of_its_own_id_which_is_random() -> None:
    traced = Tracing().begin(REQUEST, head())
    assert (traced.trace_id, traced.parent_id, traced.sampled) == (REQUEST, "", True)
    assert traced.carried(REQUEST, 1) == f"\r\ntraceparent: 00-{REQUEST}-{span_id(REQUEST, 1)}-03".encode()


def test_a_caller_decides_whether_its_trace_is_recorded_and_another_is_linked_to() -> None:
    none, all_ = threshold(0.0), threshold(1.0)
    for sampled in (True, False):
        raw = head(f"traceparent: 00-{TRACE}-{SPAN}-0{int(sampled)}")
        assert Tracing(least=none if sampled else all_).begin(REQUEST, raw).sampled is sampled
        linked = Tracing(follow=False, least=all_).begin(REQUEST, raw)
        assert (linked.trace_id, linked.parent_id, linked.sampled) == (REQUEST, "", True)
        assert linked.link == Parent(TRACE, SPAN, sampled)


def test_without_traces_no_head_is_looked_at() -> None:
    assert Tracing(traces=False).begin(REQUEST, head(f"traceparent: {GOOD}")).trace_id == ""


def test_a_share_of_the_requests_is_sampled_by_their_last_56_bits() -> None:
    ids = [f"0199f0a3c2d5{'0' * 6}{number * (1 << 56) // 1000:014x}" for number in range(1000)]
    for share in (1.0, 0.5, 0.05, 0.001, 0.0):
        tracing = Tracing(least=threshold(share))
        assert sum(tracing.begin(one, head()).sampled for one in ids) == round(share * 1000)
    tiny = Tracing(least=threshold(1e-30))
    assert not any(tiny.begin(one, head()).sampled for one in ids)


def test_the_spans_of_a_request_have_ids_of_their_own() -> None:
    ids = {span_id(REQUEST, number) for number in (*range(20), 0x1_0000)}
    assert len(ids) == 21
    assert all(re.fullmatch("[0-9a-f]{16}", one) for one in ids)


def test_an_attempt_that_is_told_to_have_failed_twice_is_noted_once() -> None:
    attempt = Attempt(FLEET.targets[0], 1)
    traced = Traced(REQUEST, True)
    traced.sends(attempt, Endpoint("http://h/v1", "http", "h", 80, "/v1"), 1.0)
    traced.failed(attempt, Outcome.RESET, 2.0, 0)
    traced.failed(attempt, Outcome.CLIENT_GONE, 3.0, 0)
    assert [(one.outcome, one.began_at, one.ended_at) for one in traced.tried] == [(Outcome.RESET, 1.0, 2.0)]
    traced.failed(Attempt(FLEET.targets[0], 2), Outcome.SATURATED, 4.0, 0)
    assert traced.tried[-1].endpoint is None
