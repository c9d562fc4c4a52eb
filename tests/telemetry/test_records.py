"""Records on disk: nothing is lost in silence, nobody else can read them, and the disk does not fill up with them."""

from __future__ import annotations

import gzip
import json
import logging
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.core.recorded.recording import Settled
from gateway.core.request.wire import parse
from gateway.telemetry import records
from gateway.telemetry.records import RecordFiles, RecordLog, RecordSettings, compress
from tests.core.decisions.test_memo import Asked
from tests.core.fleets import policy
from tests.core.recorded.test_replay import LINES, Serving


class Clock:
    def __init__(self) -> None:
        self.now = 1_795_262_400.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def settings(tmp_path: Path) -> RecordSettings:
    return RecordSettings(tmp_path / "records")


def files(settings: RecordSettings) -> list[Path]:
    return sorted(settings.directory.iterdir())


def lines(settings: RecordSettings) -> list[dict[str, Any]]:
    return [json.loads(line) for file in files(settings) for line in file.read_bytes().splitlines()]


def settled(text: str = "hi") -> Settled:
    return Serving()(policy(), Asked(text))[1]


def test_what_is_handed_over_is_on_disk_after_closing_readable_by_the_owner_only(settings: RecordSettings) -> None:
    log = RecordLog(settings, LINES)
    log.start()
    for _ in range(3):
        log.add(settled())
    log.close()
    assert [line["policy"] for line in lines(settings)] == ["test@0123456789ab"] * 3
    assert (log.written, log.lost) == (3, 0)
    [file] = files(settings)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(settings.directory.stat().st_mode) == 0o700


def test_no_prompt_is_recorded_unless_that_was_asked_for_and_then_its_end_only(settings: RecordSettings) -> None:
    log = RecordLog(settings, LINES)
    log.start()
    log.add(settled("the secret of the sea"))
    log.close()
    [file] = files(settings)
    assert b"secret" not in file.read_bytes()
    lines_with = type(LINES)(LINES._using._replace(prompt_chars=7))
    assert json.loads(lines_with(settled("the secret of the sea"), True))["prompt"] == "the sea"


def test_hostile_values_stay_inside_their_line(settings: RecordSettings) -> None:
    hostile = settled()
    hostile.record.routing.model_asked = 'x"}\n{"v":1}\r\u2028\x00'
    line = LINES(hostile, True)
    assert line.count(b"\n") == 1
    assert json.loads(line)["model_asked"] == hostile.record.routing.model_asked


def test_the_sample_is_a_share_of_requests_by_their_ids(settings: RecordSettings) -> None:
    ids = [f"0199a7b1c2d3{number:04x}{'0' * 16}" for number in range(0, 0x10000, 16)]
    for sample, most in ((1.0, 4096), (0.25, 1024), (0.0001, 1)):
        log = RecordLog(replace(settings, sample=sample), LINES)
        assert sum(map(log.takes, ids)) == most


def test_text_is_read_for_no_more_records_a_second_than_allowed(settings: RecordSettings) -> None:
    made: list[bool] = []

    def make(_: Settled, reading: bool) -> bytes:
        made.append(reading)
        return b"{}\n"

    clock = Clock()
    log = RecordLog(replace(settings, reading_per_s=2), make, clock)
    for _ in range(4):
        log.add(settled())
    log._turn()
    clock.now += 0.5
    log.add(settled())
    log._turn()
    assert made == [True, True, False, False, True]
    assert (log.written, log.unread) == (5, 2)


def test_the_queue_is_bounded_and_holds_few_texts(settings: RecordSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MOST_HELD", 2)
    monkeypatch.setattr(records, "MOST_WAITING", 5)
    log = RecordLog(settings, LINES)
    for _ in range(7):
        log.add(settled())
    assert [one.envelope is not None for one in log._waiting] == [True, True, False, False, False]
    assert log.lost == 2
    large = RecordLog(settings, LINES)
    large.add(settled("x" * records.LARGEST_HELD))
    assert large._waiting[0].envelope is None
    assert log._waiting[4].text_bytes == len(Asked("hi").body())


def test_a_defect_in_one_record_ends_neither_the_thread_nor_the_others(
    settings: RecordSettings, caplog: pytest.LogCaptureFixture
) -> None:
    def make(one: Settled, _: bool) -> bytes:
        return one.values["text"]  # type: ignore[no-any-return]

    log = RecordLog(settings, make)
    log.add(settled()._replace(values={}))
    log.add(settled()._replace(values={"text": b"{}\n"}))
    log._turn()
    assert (log.written, log.lost) == (1, 1)
    assert "could not be made" in caplog.text


# -- files --


def test_a_file_is_rotated_by_size_and_by_age_and_compressed(settings: RecordSettings) -> None:
    clock = Clock()
    made = RecordFiles(replace(settings, rotate_bytes=10, rotate_s=60), clock)
    made.write(b"12345\n")
    made.tend()
    assert [file.suffix for file in files(settings)] == [".jsonl"]
    made.write(b"67890\n")
    made.tend()
    [done] = files(settings)
    assert (done.suffix, gzip.decompress(done.read_bytes())) == (".gz", b"12345\n67890\n")
    assert stat.S_IMODE(done.stat().st_mode) == 0o600
    made.write(b"x\n")
    clock.now += 61
    made.tend()
    made.close()
    assert [file.suffix for file in files(settings)] == [".gz", ".gz"]


def test_an_idle_process_leaves_no_empty_files_behind(settings: RecordSettings) -> None:
    clock = Clock()
    made = RecordFiles(replace(settings, rotate_s=60), clock)
    made.open()
    clock.now += 61
    made.tend()
    made.close()
    assert files(settings) == []


def test_the_oldest_files_go_when_there_is_too_much_or_they_are_too_old_and_others_stay(
    settings: RecordSettings,
) -> None:
    clock = Clock()
    made = RecordFiles(replace(settings, rotate_bytes=1, keep_bytes=12, keep_s=1000, compress=False), clock)
    made.open()
    (settings.directory / "notes.txt").write_text("mine")
    for number in range(4):
        made.write(b"1234\n")
        for file in files(settings):
            if file.suffix == ".jsonl" and file.stat().st_mtime > clock.now:
                os.utime(file, (clock.now, clock.now))
        made.tend()
        clock.now += 100
        assert number >= 2 or len(files(settings)) == number + 2
    assert [file.name for file in files(settings) if file.suffix != ".jsonl"] == ["notes.txt"]
    assert len(files(settings)) == 3
    clock.now += 2000
    made.write(b"1234\n")
    made.tend()
    assert len(files(settings)) == 2


def test_what_is_too_old_goes_without_any_request_and_at_the_next_start(settings: RecordSettings) -> None:
    clock = Clock()
    kept = replace(settings, rotate_s=10, keep_s=1000)
    made = RecordFiles(kept, clock)
    made.write(b"one\n")
    old = aged(settings, clock)
    made.tend()
    assert old in files(settings)
    clock.now += 2000
    made.tend()
    assert old not in files(settings)
    made.close()
    old = aged(settings, clock)
    clock.now += 2000
    again = RecordFiles(kept, clock)
    again.open()
    again.tend()
    assert old not in files(settings)


def aged(settings: RecordSettings, clock: Clock, suffix: str = "") -> Path:
    path = settings.directory / f"records-20260101T000000Z-1abcd-0.jsonl{suffix}"
    path.write_bytes(b"old")
    os.utime(path, (clock.now, clock.now))
    return path


def test_what_is_too_old_goes_though_compressing_fails_and_half_compressed_files_go_too(
    settings: RecordSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records, "compress", fails)
    clock = Clock()
    made = RecordFiles(replace(settings, rotate_s=10, keep_s=1000), clock)
    made.write(b"one\n")
    made.tend()
    old = [aged(settings, clock, suffix) for suffix in ("", ".gz", ".gz.part")]
    clock.now += 2000
    made.tend()
    assert not set(old) & set(files(settings))


def test_a_finished_file_counts_as_large_as_it_is_once_compressed(settings: RecordSettings) -> None:
    made = RecordFiles(replace(settings, rotate_bytes=1, keep_bytes=1_000))
    made.write(b"1234567\n" * 1_000)
    made.tend()
    assert [file.suffix for file in files(settings)] == [".gz"]


def test_one_file_that_cannot_be_deleted_keeps_no_other(
    settings: RecordSettings, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    made = RecordFiles(replace(settings, keep_s=1000), clock)
    made.open()
    old = aged(settings, clock)
    stuck = settings.directory / "records-20260102T000000Z-1abcd-0.jsonl"
    stuck.mkdir()  # `unlink` fails
    os.utime(stuck, (clock.now + 1, clock.now + 1))
    clock.now += 2000
    made.tend()
    assert stuck in files(settings)
    assert old not in files(settings)
    assert stuck.name in caplog.text


def test_compressing_writes_to_no_file_that_was_there_before(tmp_path: Path) -> None:
    plain = tmp_path / "a.jsonl"
    plain.write_bytes(b"one\n")
    other = tmp_path / "other"
    os.link(plain, other)
    os.link(other, tmp_path / "a.jsonl.gz.part")
    compress(plain)
    assert other.read_bytes() == b"one\n"


@pytest.mark.parametrize(("mode", "warned"), [(0o700, False), (0o755, False), (0o770, True), (0o707, True)])
def test_a_start_warns_of_a_directory_that_others_can_write_to(
    settings: RecordSettings, caplog: pytest.LogCaptureFixture, mode: int, warned: bool
) -> None:
    settings.directory.mkdir()
    settings.directory.chmod(mode)
    log = RecordLog(settings, LINES)
    log.start()
    log.close()
    assert ("can be written by others" in caplog.text) is warned


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A disk with room for so many bytes."""
    room = [8]
    write = os.write

    def some(descriptor: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(28, "No space left on device")
        count = write(descriptor, data[: room[0]])
        room[0] -= count
        return count

    monkeypatch.setattr(records.os, "write", some)
    return room


def test_a_full_disk_loses_records_says_so_once_and_leaves_no_torn_line(
    settings: RecordSettings, full: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    made = RecordFiles(settings)
    assert made.write(b"one\n")
    assert not made.write(b"second\n")
    assert not made.write(b"third\n")
    full[0] = 1_000
    assert made.write(b"last\n")
    assert [file.read_bytes() for file in files(settings)] == [b"one\nlast\n"]
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "decision records are lost",
        "decision records are written again",
    ]


def test_a_directory_that_vanishes_is_made_again(settings: RecordSettings) -> None:
    made = RecordFiles(settings)
    with pytest.raises(OSError, match="No such file"):
        RecordFiles(replace(settings, directory=settings.directory / "deep" / "er")).open()
    assert made.write(b"one\n")
    made.close()
    for file in files(settings):
        file.unlink()
    settings.directory.rmdir()
    assert made.write(b"two\n")


def test_compressing_puts_the_whole_file_in_place_or_leaves_the_plain_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tmp_path / "a.jsonl"
    plain.write_bytes(b"one\n")

    def fails(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(records.shutil, "copyfileobj", fails)
        with pytest.raises(OSError, match="No space"):
            compress(plain)
    assert list(tmp_path.iterdir()) == [plain]
    compress(plain)
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl.gz"]


def test_the_text_that_a_record_needs_is_what_was_sent() -> None:
    assert settled("hello").envelope is not None
    assert parse(Asked("hello").body()).size == LINES.record(settled("hello"), True).text_bytes
