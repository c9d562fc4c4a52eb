"""One line per request: what it holds, what it never holds, and that writing it cannot hurt."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from gateway.core.types import Record, Routing, Usage
from gateway.telemetry.access import AccessLog, Form, writer


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


def logged(form: Form = "json", **changes: Any) -> str:
    out: list[bytes] = []
    log = AccessLog(out.append, form=form)
    log.add([record(**changes)])
    return b"".join(out).decode()


def test_a_json_line_tells_what_was_asked_decided_and_paid() -> None:
    line = json.loads(logged())
    assert line == {
        "time": "2026-11-22T01:09:08.250Z", "request_id": "r1", "key": "checkout", "team": "shop", "status": 200,
        "code": "ok", "model_asked": "auto", "stream": True, "policy": "default@abc", "rule": "code", "target": "q",
        "model": "qwen3.5-plus", "thinking": "never", "attempts": 1, "duration_ms": 400.0, "overhead_ms": 0.4,
        "first_event_ms": 300.0, "input_tokens": 100, "cached_tokens": 40, "output_tokens": 50, "reasoning_tokens": 20,
        "cost_usd": 0.0025, "because": "cheapest of 3",
    }  # fmt: skip


def test_a_text_line_reads_from_left_to_right() -> None:
    assert logged("text") == (
        "2026-11-22T01:09:08.250Z r1 200 ok 400.0ms checkout auto -> q rule=code stream thinking=never "
        "overhead=0.40ms first=300.0ms tokens=100+50 cost=$0.002500 because cheapest of 3\n"
    )


def test_what_a_request_never_had_is_left_out() -> None:
    line = json.loads(
        logged(code="invalid_api_key", status=401, sent_at=0.0, first_event_at=0.0, usage=None, cost_nano=0, target="")
    )
    assert not line.keys() & {"overhead_ms", "first_event_ms", "input_tokens", "cost_usd", "target"}
    assert "cost" not in logged("text", priced=False)


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize(
    "hostile", ["a\nfake line", "a\r\x1b[2Jb", "\x9b31m", "a\u2028b", "a\u202eb", "\x7f", "\x00", "\ud800"]
)
def test_no_control_character_of_a_client_reaches_the_log(form: Form, hostile: str) -> None:
    out = logged(form, model_asked=hostile, because=hostile)
    assert out.endswith("\n")
    assert out[:-1].isprintable()


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_client_s_text_is_cut(form: Form) -> None:
    assert len(logged(form, model_asked="x" * 100_000)) < 1_000


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
