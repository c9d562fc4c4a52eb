"""One line per request: what it holds, what it never holds, and that writing it cannot hurt."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from gateway.core.errors import CODES
from gateway.core.types import Record, Routing, Usage
from gateway.telemetry.access import FAULTS, GOOD, AccessLog
from gateway.telemetry.logs import Form, LogSettings, writer
from gateway.telemetry.records import RecordLog, RecordSettings


def record(**changes: Any) -> Record:
    values: dict[str, Any] = {
        "request_id": "r1", "key": "checkout", "team": "shop", "model_asked": "auto", "stream": True,
        "wall": 1795309748.25, "started_at": 100.0, "status": 200, "policy": "default@abc", "rule": "code",
        "chosen": "q", "target": "q", "model": "qwen3.5-plus", "thinking": "never", "attempts": 1, "sent_at": 100.0004,
        "first_event_at": 100.3, "ended_at": 100.4, "usage": Usage(100, 50, 40, 20), "cost_nano": 2_500_000,
        "priced": True, "because": "cheapest of 3",
    }  # fmt: skip
    values |= changes
    routing = Routing(**{name: values.pop(name) for name in Routing.__struct_fields__ if name in values})
    return Record(routing=routing, **values)


def logged(form: Form = "json", *, settings: LogSettings | None = None, **changes: Any) -> str:
    out: list[bytes] = []
    log = AccessLog(out.append, settings, form=form)
    log.add([record(**changes)])
    return b"".join(out).decode()


def test_a_json_line_tells_what_was_asked_decided_and_paid() -> None:
    line = json.loads(logged())
    assert line == {
        "time": "2026-11-22T01:09:08.250Z", "level": "info", "request_id": "r1", "key": "checkout",
        "team": "shop", "status": 200, "code": "ok", "model_asked": "auto", "stream": True, "policy": "default@abc",
        "rule": "code", "target": "q", "model": "qwen3.5-plus", "thinking": "never", "attempts": 1,
        "duration_ms": 400.0, "overhead_ms": 0.4,
        "first_event_ms": 300.0, "input_tokens": 100, "cached_tokens": 40, "output_tokens": 50, "reasoning_tokens": 20,
        "cost_usd": 0.0025, "because": "cheapest of 3",
    }  # fmt: skip


def test_a_text_line_reads_from_left_to_right() -> None:
    assert logged("text") == (
        "2026-11-22T01:09:08.250Z INFO r1 200 ok 400.0ms checkout auto -> q team=shop policy=default@abc rule=code "
        "model=qwen3.5-plus stream thinking=never attempts=1 overhead=0.40ms first=300.0ms tokens=100+50 "
        'cached=40 reasoning=20 cost=$0.002500 because="cheapest of 3"\n'
    )


def test_what_a_request_never_had_is_left_out() -> None:
    line = json.loads(
        logged(code="invalid_api_key", status=401, sent_at=0.0, first_event_at=0.0, usage=None, cost_nano=0, target="")
    )
    assert not line.keys() & {"overhead_ms", "first_event_ms", "input_tokens", "cost_usd", "target"}
    assert "cost" not in logged("text", priced=False)


HOSTILE = [
    "a\nfake line", "a\r\x1b[2Jb", "\x9b31m", "a\u2028b", "a\u202eb", "\x7f", "\x00", "\ud800", "\x85", "\u2066a",
    'x","status":500,"y":"', "x status=500 cost=$9", "x -> y 500", "\\", '"', "=", " ", "x" * 100_000,
    "\U000e0041" * 900,
]  # fmt: skip


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("field", ["model_asked", "because", "team"])
def test_no_text_of_a_client_makes_a_second_line_or_another_field(field: str, hostile: str) -> None:
    changes = {field: hostile}
    for form in ("json", "text"):
        out = logged(form, **changes)  # type: ignore[arg-type]
        assert out.endswith("\n")
        assert out[:-1].isprintable()
        assert len(out.encode()) < 4_096, "so that it is written at once"
    line = json.loads(logged(**changes))
    usual = json.loads(logged())
    assert {name: value for name, value in line.items() if name != field} == {
        name: value for name, value in usual.items() if name != field
    }
    fields = shlex.split(logged("text", **changes))
    assert len(fields) == len(shlex.split(logged("text")))
    assert [one for one in fields if one.startswith(("cost=", "status="))] == ["cost=$0.002500"]
    assert fields[3:4] == ["200"]


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("field", ["model_asked", "because"])
def test_what_looks_like_a_key_is_blotted_out(form: Form, field: str) -> None:
    out = logged(form, **{field: "sk-proj-canary0123456789 https://me:canary@host/?key=canary"})
    assert "canary" not in out
    assert "***" in out


# -- levels --


@pytest.mark.parametrize(
    ("changes", "level"),
    [
        ({}, "info"),
        ({"code": "client_gone", "status": 499}, "info"),
        ({"attempts": 2}, "info"),
        ({"attempts": 2, "chosen": "p", "fallback_reason": "reset"}, "warning"),
        ({"thought_unasked": True}, "warning"),
        ({"first_event_at": 130.5, "ended_at": 131.0}, "warning"),
        ({"code": "invalid_api_key", "status": 401, "sent_at": 0.0, "usage": None}, "warning"),
        ({"code": "rate_limit_exceeded", "status": 429}, "warning"),
        ({"code": "draining", "status": 503}, "warning"),
        ({"code": "upstream_unavailable", "status": 502}, "error"),
        ({"code": "upstream_stream_interrupted", "status": 200}, "error"),
        ({"code": "internal_error", "status": 500}, "error"),
    ],
)
def test_a_level_says_whether_somebody_should_look(changes: dict[str, Any], level: str) -> None:
    assert json.loads(logged(**changes))["level"] == level
    assert logged("text", **changes).split()[1] == level.upper()
    for least in ("info", "warning", "error"):
        written = bool(logged(settings=LogSettings(level=least), **changes))  # type: ignore[arg-type]
        assert written is (["info", "warning", "error"].index(least) <= ["info", "warning", "error"].index(level))


def test_every_code_has_a_level() -> None:
    assert CODES.keys() > FAULTS
    assert not FAULTS & GOOD


def test_a_line_tells_what_was_remarkable() -> None:
    line = json.loads(logged(attempts=2, chosen="p", fallback_reason="reset", thought_unasked=True))
    assert (line["chosen"], line["target"], line["fallback_reason"], line["thought_unasked"]) == (
        "p",
        "q",
        "reset",
        True,
    )
    assert "chosen=p fallback_reason=reset" in logged("text", attempts=2, chosen="p", fallback_reason="reset")
    slow = {"first_event_at": 130.5, "ended_at": 131.0}
    assert json.loads(logged(**slow))["slow"] is True
    assert "slow first=30500.0ms" in logged("text", **slow)
    assert "slow" not in logged(settings=LogSettings(slow_s=40.0), **slow)


def test_requests_have_no_line_where_none_are_wanted() -> None:
    assert logged(settings=LogSettings(requests="none"), code="internal_error", status=500) == ""


def test_the_usual_line_and_the_remarkable_one_tell_the_same_of_the_same() -> None:
    usual, other = json.loads(logged()), json.loads(logged(attempts=2))
    assert usual | {"attempts": 2} == other


def test_colours_are_for_terminals_and_for_what_is_remarkable() -> None:
    out: list[bytes] = []
    log = AccessLog(out.append, form="text", coloured=True)
    log.add([record()])
    log.add([record(code="internal_error", status=500)])
    assert b"\x1b" not in out[0]
    assert out[1].startswith(b"\x1b[31m")
    assert out[1].endswith(b"\x1b[0m\n")


# -- sampling --


def ids(count: int) -> list[str]:
    return [f"0199a7b1c2d3{number * 0x9E37 & 0xFFFF:04x}{'0' * 16}" for number in range(count)]


def serve(log: AccessLog, count: int, at: float, **changes: Any) -> None:
    for request_id in ids(count):
        log.add([record(request_id=request_id, started_at=at, sent_at=at, first_event_at=at, ended_at=at, **changes)])


@pytest.mark.parametrize("form", ["json", "text"])
def test_under_load_a_line_stands_for_others_and_all_of_them_add_up(form: Form) -> None:
    out: list[bytes] = []
    log = AccessLog(out.append, LogSettings(sample_above=100), form=form)
    for second in range(20):
        serve(log, 3_000, 1_000.0 + second)
    stand = [int(found) for found in re.findall(r'stands_for[":=]+(\d+)', b"".join(out).decode())]
    lines = b"".join(out).count(b"\n")
    assert lines == log.written
    assert log.written + log.left_out == 60_000
    assert lines < 20 * 300
    assert abs(sum(stand) + (lines - len(stand)) - 60_000) < 3_000
    assert set(stand) <= {2, 4, 8, 16, 32, 64}


def test_what_is_remarkable_is_never_left_out_and_stands_for_itself() -> None:
    out: list[bytes] = []
    log = AccessLog(out.append, LogSettings(sample_above=10, slow_s=2.0))
    serve(log, 2_000, 1_000.0)
    before = log.written
    serve(log, 50, 1_000.0, code="internal_error", status=500)
    serve(log, 50, 1_000.0, code="invalid_api_key", status=401)
    log.add([record(started_at=990.0, first_event_at=1_000.0, ended_at=1_000.0) for _ in range(50)])
    assert log.written - before == 150
    assert b"stands_for" not in b"".join(out[before:])


def test_a_quiet_second_ends_the_sampling() -> None:
    log = AccessLog(lambda lines: None, LogSettings(sample_above=10))
    serve(log, 2_000, 1_000.0)
    left_out = log.left_out
    serve(log, 9, 1_001.5)
    serve(log, 9, 1_002.5)
    serve(log, 9, 1_010.0)
    assert log.left_out - left_out <= 9, "the second after is taken to be like the one before"
    assert left_out > 1_000


def test_no_number_of_requests_is_sampled_where_nobody_asked_for_it() -> None:
    log = AccessLog(lambda lines: None, LogSettings(sample_above=0))
    serve(log, 5_000, 1_000.0)
    assert (log.written, log.left_out) == (5_000, 0)


def test_samples_are_of_the_same_requests_as_those_of_decision_records() -> None:
    out: list[bytes] = []
    log = AccessLog(out.append, LogSettings(sample_above=10))
    serve(log, 4_000, 1_000.0)
    sampled = [line for line in map(json.loads, b"".join(out).splitlines()) if "stands_for" in line]
    rarest = max(line["stands_for"] for line in sampled)
    records = RecordLog(RecordSettings(Path("unused"), sample=1 / rarest), lambda one, reading: b"")
    assert all(records.takes(line["request_id"]) for line in sampled if line["stands_for"] == rarest)


def test_other_settings_take_effect_at_once_and_counts_go_on() -> None:
    out: list[bytes] = []
    log = AccessLog(out.append, LogSettings(sample_above=10))
    serve(log, 1_000, 1_000.0)
    left_out = log.left_out
    log.adopt(LogSettings(sample_above=0), "text")
    serve(log, 100, 1_000.0)
    assert out[-1].startswith(b"2026-11-22T01:09:08.250Z INFO ")
    assert log.left_out == left_out
    assert log.written + log.left_out == 1_100


# -- writing --


def test_lines_of_one_turn_are_written_with_one_call() -> None:
    out: list[bytes] = []
    log = AccessLog(out.append)
    log.add([record() for _ in range(3)])
    assert len(out) == 1
    assert out[0].count(b"\n") == 3
    log.add([record()])
    assert len(out) == 2


def test_a_log_that_cannot_be_written_is_counted_and_nothing_else() -> None:
    def full(lines: bytes) -> int:
        raise OSError(28, "No space left on device")

    log = AccessLog(full)
    log.add([record(), record()])
    assert log.lost == 2


def test_what_a_slow_reader_did_not_take_is_written_again() -> None:
    out = bytearray()

    def slow(lines: bytes) -> int:
        out.extend(lines[:7])
        return len(lines[:7])

    log = AccessLog(slow)
    log.add([record(request_id="r1"), record(request_id="r2")])
    assert [json.loads(line)["request_id"] for line in out.splitlines()] == ["r1", "r2"]


def test_a_reader_that_stops_reading_costs_lines_and_no_time() -> None:
    reader, descriptor = os.pipe()
    log = AccessLog(writer(descriptor))
    for _ in range(2000):
        log.add([record()])
    assert 0 < log.lost < 2000
    got = os.read(reader, 1 << 20)
    assert got.count(b"\n") + log.lost == 2000
    assert got.endswith(b"}\n")
    os.close(reader)
    os.close(descriptor)
