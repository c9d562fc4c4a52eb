"""`parts.py` takes requests apart, and every function that it names is there. Nothing is timed here."""

from __future__ import annotations

from pathlib import Path

import benchlines
import parts
import pytest


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, float]]:
    measured, missing = parts.measure(["pinned", "heads"], batches=2 * parts.PHASES)
    assert missing == [], "PARTS names functions that are gone: name those that do their work now"
    return measured


def test_the_answer_is_the_simulator_s(tmp_path: Path) -> None:
    head, _, body = parts.simulated_answer().partition(b"\r\n\r\n")
    assert len(body) == benchlines.JSON_BYTES
    assert b"content-length: %d" % benchlines.JSON_BYTES in head


def test_requests_carry_fresh_marks_where_the_line_says_so(tmp_path: Path) -> None:
    benchlines.write_inputs(tmp_path)
    line = next(line for line in benchlines.LINES if line.name == "heads")
    requests = parts.requests_of(line, tmp_path)
    first, second = next(requests), next(requests)
    assert b"@" not in first + second
    ids = {request.partition(b"x-request-id: ")[2][:32] for request in (first, second)}
    assert len(ids) == 2


def test_a_repeated_head_is_read_by_its_likeness_to_the_last_one(found: dict[str, dict[str, float]]) -> None:
    assert "head: parse" not in found["pinned"]
    assert "head: read by its likeness to the last" in found["heads"]
    for column in found.values():
        assert {"body: parse", parts.CHECK, "settle: metrics", "settle: access log", parts.WHOLE} <= column.keys()


def test_functions_are_back_in_place_afterwards(found: dict[str, dict[str, float]]) -> None:
    from gateway.core.request import wire
    from gateway.proxy import downstream

    assert not hasattr(wire.parse, "__wrapped__")
    assert not hasattr(downstream.parse_request, "__wrapped__")


def test_tables_show_every_part_once(found: dict[str, dict[str, float]]) -> None:
    text = parts.table(found)
    assert text.count("| body: parse |") == 1
    compared = parts.comparison({"pinned": {"body: parse": 2.0, "gone": 1.0}}, {"pinned": {"body: parse": 1.5}})
    assert "| body: parse | 2.00 | 1.50 | -0.50 |" in compared
    assert "| gone | 1.00 | 0.00 | -1.00 |" in compared
