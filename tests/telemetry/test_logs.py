"""What the process says besides requests: one entry is one line, nothing in it is secret, and nothing waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import pty
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.config import LogDoc
from gateway.core.request.tracecontext import Traced
from gateway.core.types import Usage
from gateway.telemetry import logs
from gateway.telemetry.access import FAULTS, AccessLog
from gateway.telemetry.logs import Handler, Lines, LogSettings, coloured, install, printable, writer
from tests.telemetry.test_access import HOSTILE, record

PROMPT = "my prompt"


def entry(form: logs.Form, message: str, *args: object, **more: Any) -> str:
    level, error = more.pop("level", logging.WARNING), more.pop("error", None)
    record = logging.LogRecord(
        "pointsman", level, "x.py", 1, message, args, error and (type(error), error, error.__traceback__)
    )
    record.created = 1_795_309_748.25
    for name, value in more.items():
        setattr(record, name, value)
    return Lines(form, lambda: ["plain-canary"]).format(record)


def test_an_entry_in_json_has_fields_and_as_text_reads_from_left_to_right() -> None:
    assert json.loads(entry("json", "target %s is up", "a", request_id="r1")) == {
        "time": "2026-11-22T01:09:08.250Z", "level": "warning", "message": "target a is up", "request_id": "r1",
    }  # fmt: skip
    assert entry("text", "target %s is up", "a", request_id="r1") == (
        "2026-11-22T01:09:08.250Z WARNING target a is up request_id=r1\n"
    )
    assert json.loads(entry("json", "x", name="uvicorn.error", level=logging.CRITICAL)) == {
        "time": "2026-11-22T01:09:08.250Z", "level": "error", "logger": "uvicorn.error", "message": "x",
    }  # fmt: skip


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("field", ["message", "path", "lines", "method"])
def test_whatever_is_told_begins_no_other_entry(field: str, hostile: str) -> None:
    given: dict[str, Any] = {"lines": [hostile]} if field == "lines" else {field: hostile} if field != "message" else {}
    message = hostile if field == "message" else "told"
    line = entry("json", "%s", message, **given)
    assert line[:-1].isprintable()
    assert line.endswith("}\n")
    assert set(json.loads(line)) <= {"time", "level", "message", "path", "lines", "method"}
    first, *rest = entry("text", "%s", message, **given)[:-1].split("\n")
    assert first.startswith("2026-11-22T01:09:08.250Z WARNING ")
    assert all(one.startswith("  | ") for one in rest)
    assert all(one.isprintable() for one in (first, *rest))
    assert len(rest) == (field == "lines")


def test_a_list_that_belongs_to_an_entry_stays_with_it() -> None:
    lines = ["a.yaml:1: what", "b.yaml:2: else"]
    assert json.loads(entry("json", "reload failed", lines=lines))["lines"] == lines
    assert entry("text", "reload failed", lines=lines).endswith("failed\n  | a.yaml:1: what\n  | b.yaml:2: else\n")
    assert len(json.loads(entry("json", "many", lines=["x"] * 1_000))["lines"]) == logs.LINES_MAX


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as found:
        return found


def test_a_traceback_stays_with_its_entry_and_quotes_no_client() -> None:
    for error in (
        KeyError("my prompt"),
        ValueError("my prompt\n2026 fake"),
        UnicodeDecodeError("utf-8", b"my prompt", 0, 1, "x"),
    ):
        line = entry("json", "a request failed", error=raised(error), request_id="r1")
        told = json.loads(line)
        assert told["error"] == type(error).__name__
        assert told["lines"][0] == "Traceback (most recent call last):"
        assert any("in raised" in one for one in told["lines"])
        assert "my prompt" not in line
        text = entry("text", "a request failed", error=raised(error))
        assert all(one.startswith("  | ") for one in text[:-1].split("\n")[1:])
        assert "my prompt" not in text
    assert "No space left" in entry("json", "x", error=raised(OSError(28, "No space left")))


def test_secrets_are_blotted_out_of_every_part_of_an_entry() -> None:
    error = raised(OSError("plain-canary Bearer sk-canary-2345678"))
    for form in ("json", "text"):
        line = entry(
            form,
            "%s",
            "at plain-canary",
            lines=["plain-canary"],
            path="/?key=canary",
            method="plain-canary",
            error=error,
        )  # type: ignore[arg-type]
        assert "canary" not in line
        assert line.count("***") >= 5


@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_is_printable_is_bounded(hostile: str) -> None:
    assert printable(hostile).isprintable()
    assert len(printable(hostile)) <= 131


# -- where entries go --


@pytest.fixture
def process() -> Iterator[None]:
    """What `install` changes is put back."""
    root, ours = logging.getLogger(), logging.getLogger("pointsman")
    before = root.handlers[:], root.level, ours.level, threading.excepthook, sys.excepthook, sys.unraisablehook
    yield
    logging.captureWarnings(False)
    root.handlers[:], threading.excepthook, sys.excepthook, sys.unraisablehook = before[0], *before[3:]
    root.setLevel(before[1])
    ours.setLevel(before[2])


def told(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def to(path: Path) -> Handler:
    return Handler(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), {})


@pytest.mark.usefixtures("process")
def test_everything_that_the_process_says_comes_in_one_form(tmp_path: Path) -> None:
    handler = to(tmp_path / "log")
    install(handler)
    logging.getLogger("pointsman").info("started")
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    logging.getLogger("httpx").info("HTTP Request: GET https://host/?key=canary")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old\nfashioned", stacklevel=1)
    thread = threading.Thread(target=lambda: {}[PROMPT], name="count")
    thread.start()
    thread.join()
    sys.excepthook(KeyError, KeyError("my prompt"), None)
    sys.unraisablehook(type("U", (), {"exc_value": KeyError("my prompt")})())
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(logs.in_loop)
    loop.call_exception_handler(
        {"message": "never retrieved", "exception": KeyError("my prompt"), "handle": "my prompt"}
    )
    loop.close()
    found = told(tmp_path / "log")
    assert [(one["level"], one.get("logger", ""), one.get("error", "")) for one in found] == [
        ("info", "", ""), ("warning", "uvicorn.error", ""), ("warning", "py.warnings", ""), ("error", "", "KeyError"),
        ("error", "", "KeyError"), ("error", "", "KeyError"), ("error", "asyncio", "KeyError"),
    ]  # fmt: skip
    whole = (tmp_path / "log").read_text()
    assert "my prompt" not in whole
    assert "canary" not in whole
    assert (handler.written, handler.lost) == (7, 0)


@pytest.mark.usefixtures("process")
def test_a_level_keeps_what_is_below_it_away(tmp_path: Path) -> None:
    handler = to(tmp_path / "log")
    install(handler)
    handler.adopt(LogSettings(level="error"))
    logging.getLogger("pointsman").warning("no")
    logging.getLogger("pointsman").error("yes")
    assert [one["message"] for one in told(tmp_path / "log")] == ["yes"]


def test_an_entry_that_cannot_be_written_or_made_is_counted_and_nothing_else() -> None:
    reader, descriptor = os.pipe()
    handler = Handler(descriptor, {})
    record = logging.LogRecord("pointsman", logging.INFO, "x", 1, "%d", ("no number",), None)
    handler.emit(record)
    assert (handler.written, handler.lost) == (0, 1)
    record = logging.LogRecord("pointsman", logging.INFO, "x", 1, "x" * 1_000, (), None)
    for _ in range(200):
        handler.emit(record)
    assert handler.written + handler.lost == 201
    assert handler.lost > 50, "nobody reads"
    got = os.read(reader, 1 << 20)
    assert got.count(b"\n") == handler.written
    os.close(reader)
    os.close(descriptor)


@contextlib.contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    reader, descriptor = pty.openpty()
    try:
        yield reader, descriptor
    finally:
        os.close(reader)
        os.close(descriptor)


def test_a_terminal_gets_coloured_text_and_all_else_plain_json(tmp_path: Path) -> None:
    record = logging.LogRecord("pointsman", logging.ERROR, "x", 1, "broken", (), None)
    with terminal() as (reader, descriptor):
        assert coloured(descriptor, {})
        assert not coloured(descriptor, {"NO_COLOR": "1"})
        assert not coloured(descriptor, {"TERM": "dumb"})
        Handler(descriptor, {}).emit(record)
        line = os.read(reader, 4_096)
        assert line.startswith(b"\x1b[31m")
        assert b"Z ERROR broken\x1b[0m" in line
        handler = Handler(descriptor, {})
        handler.adopt(LogSettings(form="json"))
        handler.emit(record)
        assert json.loads(os.read(reader, 4_096))["message"] == "broken"
    with (tmp_path / "log").open("wb") as file:
        assert not coloured(file.fileno(), {})
        handler = Handler(file.fileno(), {})
        handler.adopt(LogSettings(form="text"))
        handler.emit(record)
    assert (tmp_path / "log").read_text().endswith("Z ERROR broken\n")
    assert "\x1b" not in (tmp_path / "log").read_text()


def test_a_descriptor_that_was_closed_takes_nothing_and_stops_nothing() -> None:
    reader, descriptor = os.pipe()
    os.close(reader)
    os.close(descriptor)
    handler = Handler(descriptor, {})
    handler.emit(logging.LogRecord("pointsman", logging.INFO, "x", 1, "x", (), None))
    assert (handler.written, handler.lost) == (0, 1)


def test_a_writer_takes_whole_lines(tmp_path: Path) -> None:
    reader, descriptor = os.pipe()
    assert writer(descriptor)(b"x" * 3_000 + b"\n" + b"y" * 3_000 + b"\n") == 3_001
    os.close(reader)
    os.close(descriptor)


# -- documentation --

DOCS = (Path(__file__).parents[2] / "docs" / "logs.md").read_text()


def documented(section: str) -> set[str]:
    """What the first column of a section's table names."""
    table = DOCS.split(f"## {section}\n")[1].split("\n## ")[0]
    return {name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}


def test_every_field_of_a_request_s_line_is_documented_and_none_that_there_is_not() -> None:
    made: dict[str, Any] = {}
    log = AccessLog(lambda lines: made.update(json.loads(lines)), LogSettings(sample_above=1))
    trace = Traced("0af7651916cd43dd8448eb211c80319c", sampled=True)
    log.add(
        [
            record(
                chosen="p", fallback_reason="reset", attempts=2, thought_unasked=True, first_event_at=140.0, trace=trace
            )
        ]
    )
    usage = Usage(100, 50, 40, 20, estimated=True)
    for number in range(4_000):
        log.add([record(request_id=f"{number:016x}", usage=usage, ended_at=200.0)])
    assert documented("Fields of a request's line") == made.keys()


def test_every_field_of_other_lines_is_documented_and_none_that_there_is_not() -> None:
    given = dict.fromkeys(logs.FIELDS, "x")
    made = json.loads(entry("json", "x", name="other", request_id="r1", lines=["x"], error=KeyError("x"), **given))
    assert documented("Fields of other lines") == made.keys()


def test_levels_and_settings_are_documented() -> None:
    section = DOCS.split("## Levels\n")[1].split("\n## ")[0]
    levels = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE))
    assert set(re.findall(r"`(\w+)`", levels["error"])) == FAULTS
    assert tuple(reversed([name for name in levels if name in logs.LEVELS])) == logs.LEVELS
    settings = re.findall(r"^\| `(\w+)` \| (\w+) \|", DOCS.split("## One id")[0], re.MULTILINE)
    told = LogDoc()
    assert [name for name, _ in settings] == list(LogDoc.model_fields)
    for name, default in settings:
        assert default in (str(getattr(told, name)), f"{getattr(told, name)}s".replace(".0s", "s"))
