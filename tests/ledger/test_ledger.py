"""The ledger on a real disk: what is written is booked once, whatever is torn, damaged, full or in use."""

from __future__ import annotations

import logging
import os
import resource
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from gateway.core.money.booking import Account, Plain
from gateway.core.types import Price, PriceTier
from gateway.ledger.database import Database
from gateway.ledger.directory import (
    DATABASE,
    LedgerBusy,
    LedgerError,
    LedgerSettings,
    default_directory,
    journal_path,
    journals,
)
from gateway.ledger.keeping import Keeping
from gateway.ledger.ledger import Ledger, open_ledger
from gateway.ledger.repair import repair

PRICE = Price((PriceTier(0, 1_000_000_000, 2_000_000_000),), "list")
NAMES = ("shop", "blue", "m", "t", "rule", "p@1")


def request_id(number: int, at_ms: int = 2_000_000_000_000) -> str:
    return f"{at_ms:012x}{number:020x}"


def reserve(ledger: Ledger, number: int, attempt: int = 1, size: int = 100) -> None:
    account, entry = ledger.account(NAMES, PRICE, thinks=False)
    plain: Plain = ("r", request_id(number), attempt, account.number, 2_000_000_000_000, size)
    ledger.journal.write([plain] if entry is None else [entry, plain])


def settle(ledger: Ledger, number: int, attempt: int = 1, cost_nano: int = 700) -> None:
    ledger.journal.write(
        [("s", request_id(number), attempt, 2_000_000_001_000, 100, 20, 0, 0, 0, cost_nano, False, "ok")]
    )


@contextmanager
def opened(directory: Path, **settings: object) -> Iterator[Ledger]:
    ledger = open_ledger(LedgerSettings(directory, **settings))  # type: ignore[arg-type]
    try:
        yield ledger
    finally:
        ledger.close()


def die(ledger: Ledger) -> None:
    """End as a killed process does: nothing is flushed, locks fall."""
    ledger.keeping.close()
    ledger._database.close()
    ledger.journal._map.close()
    os.close(ledger.journal._descriptor)
    ledger._held.release()


def entries(directory: Path) -> dict[tuple[int, int], tuple[int, int, int, str]]:
    """number, attempt -> kind, output, cost, cause."""
    with sqlite3.connect(directory / DATABASE) as db:
        rows = db.execute("SELECT request_id, attempt, kind, output, cost_nano, cause FROM entries").fetchall()
    db.close()
    return {(int(one[0][12:], 16), one[1]): one[2:] for one in rows}


def totals(directory: Path) -> tuple[int, int]:
    with sqlite3.connect(directory / DATABASE) as db:
        found = db.execute("SELECT sum(attempts), sum(cost_nano) FROM totals").fetchone()
    db.close()
    return found[0] or 0, found[1] or 0


def last(directory: Path) -> Path:
    return journal_path(directory, journals(directory)[-1])


def test_what_was_settled_is_booked_once_and_what_was_not_is_estimated_at_the_next_start(tmp_path: Path) -> None:
    ledger = open_ledger(LedgerSettings(tmp_path))
    reserve(ledger, 1)
    settle(ledger, 1)
    reserve(ledger, 2)
    ledger.journal.write([("c", request_id(2), 1, 400, None)])
    reserve(ledger, 3)
    ledger.journal.write([("v", request_id(3), 1, 2_000_000_001_000, "refused")])
    die(ledger)
    expected = {(1, 1): (0, 20, 700, "ok"), (2, 1): (2, 100, 300_000, "crash"), (3, 1): (1, 0, 0, "refused")}
    for _ in range(2):
        with opened(tmp_path):
            assert entries(tmp_path) == expected
            assert totals(tmp_path) == (3, 300_700)


@pytest.mark.parametrize("steps", range(4))
def test_a_crash_anywhere_between_journal_and_books_neither_misses_nor_doubles(tmp_path: Path, steps: int) -> None:
    ledger = open_ledger(LedgerSettings(tmp_path))
    for number in range(2_000):
        reserve(ledger, number)
        if number % 10:
            settle(ledger, number)
    for _ in range(steps):
        ledger.keeping.step()
    die(ledger)
    with opened(tmp_path):
        found = entries(tmp_path)
        assert len(found) == 2_000
        assert sum(cause == "crash" for *_, cause in found.values()) == 200
        assert totals(tmp_path) == (2_000, sum(cost for _, _, cost, _ in found.values()))


def test_the_thread_books_what_is_written_while_it_is_written(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.start()
        for number in range(500):
            reserve(ledger, number)
            settle(ledger, number)
        assert ledger.pending > 0
    assert len(entries(tmp_path)) == 500
    assert ledger.pending == 0
    assert ledger.keeping.counts == {"reserve": 500, "settle": 500}


def test_a_torn_last_line_was_never_acted_on_and_is_left_alone(tmp_path: Path) -> None:
    ledger = open_ledger(LedgerSettings(tmp_path))
    reserve(ledger, 1)
    settle(ledger, 1)
    reserve(ledger, 2)
    die(ledger)
    path = last(tmp_path)
    whole = path.read_bytes().rstrip(b"\0")
    for cut in (1, 5, 60):
        path.write_bytes(whole[:-cut])
        with opened(tmp_path):
            assert entries(tmp_path).keys() == {(1, 1)}
        path.write_bytes(whole[:-cut])


def test_what_a_loss_of_power_leaves_at_the_end_is_no_damage(tmp_path: Path) -> None:
    ledger = open_ledger(LedgerSettings(tmp_path))
    reserve(ledger, 1)
    settle(ledger, 1)
    die(ledger)
    with last(tmp_path).open("r+b") as file:
        file.seek(len(file.read().rstrip(b"\0")))
        file.write(b"\0" * 100 + b"\n" + b"\0" * 50)
    with opened(tmp_path):
        assert entries(tmp_path).keys() == {(1, 1)}


def test_a_damaged_line_in_the_middle_refuses_the_start_and_says_how_to_go_on(tmp_path: Path) -> None:
    ledger = open_ledger(LedgerSettings(tmp_path))
    for number in range(3):
        reserve(ledger, number)
        settle(ledger, number)
    die(ledger)
    path = last(tmp_path)
    data = bytearray(path.read_bytes().rstrip(b"\0"))
    data[-300] ^= 1
    path.write_bytes(data)
    for _ in range(2):
        with pytest.raises(
            LedgerError, match=r"journal-00000001.log is damaged at byte \d+: `pointsman usage --repair`"
        ):
            open_ledger(LedgerSettings(tmp_path))


def test_damaged_books_refuse_the_start_and_say_how_to_go_on(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        for number in range(2_000):
            reserve(ledger, number)
            settle(ledger, number)
    path = tmp_path / DATABASE
    data = bytearray(path.read_bytes())
    for at in range(4_096, len(data), 4_096):
        data[at : at + 64] = b"\xff" * 64
    path.write_bytes(data)
    with pytest.raises(LedgerError, match=r"ledger.sqlite is damaged \(.*\): `pointsman usage --repair`"):
        open_ledger(LedgerSettings(tmp_path))
    path.write_bytes(b"no database at all, but long enough to be looked at " * 40)
    with pytest.raises(LedgerError, match="file is not a database"):
        open_ledger(LedgerSettings(tmp_path))


def test_attempts_that_cannot_be_read_refuse_the_start_and_come_back_from_the_journal(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        for number in range(2_000):
            reserve(ledger, number)
            settle(ledger, number)
    with sqlite3.connect(tmp_path / DATABASE) as db:
        db.execute("UPDATE blocks SET rows = '[[' || substr(rows, 9) WHERE seq = (SELECT min(seq) FROM blocks)")
    db.close()
    with pytest.raises(LedgerError, match=r"attempts 1 to 250 cannot be read\): `pointsman usage --repair`"):
        open_ledger(LedgerSettings(tmp_path))
    said = "\n".join(repair(LedgerSettings(tmp_path)))
    assert "1750 attempts and 1 accounts could be read from it" in said
    assert "2000 attempts are in the books now" in said
    with opened(tmp_path):
        assert len(entries(tmp_path)) == 2_000
        assert totals(tmp_path) == (2_000, 2_000 * 700)


def until(true: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + 20
    while not true():
        assert time.monotonic() < ends_at, "waited in vain"
        time.sleep(0.01)


def test_large_books_are_checked_while_they_are_kept_and_damage_loses_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(tmp_path) as ledger:
        for number in range(2_000):
            reserve(ledger, number)
            settle(ledger, number)
    monkeypatch.setattr("gateway.ledger.ledger.CHECKED_AT_START", 0)
    with caplog.at_level(logging.INFO), opened(tmp_path) as ledger:
        ledger.start()
        until(lambda: "is sound" in caplog.text)
        assert ledger.up
    path = tmp_path / DATABASE
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 4_096 * 4_096
    data[middle : middle + 64] = b"\xff" * 64
    path.write_bytes(data)
    with opened(tmp_path) as ledger:
        ledger.start()
        until(lambda: not ledger.up)
        assert "`pointsman usage --repair`" in ledger.state()["reason"]
        for number in range(2_000, 2_010):
            reserve(ledger, number)
            settle(ledger, number)
        assert not ledger.failing, "the journal has it"
    assert "the books lie still, the journal goes on" in caplog.text
    repair(LedgerSettings(tmp_path))
    with opened(tmp_path):
        assert entries(tmp_path).keys() >= {(number, 1) for number in range(2_000, 2_010)}


def test_a_check_of_large_books_does_not_hold_up_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.ledger.ledger.CHECKED_AT_START", 0)
    for _ in range(5):
        with opened(tmp_path) as ledger:
            ledger.start()
        assert all(one.name != "inspecting" for one in threading.enumerate())


def test_an_entry_that_cannot_be_written_costs_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with opened(tmp_path) as ledger:
        reserve(ledger, 1)
        good = ("s", request_id(1), 1, 2_000_000_001_000, 100, 20, 0, 0, 0, 700, False, "ok")
        ledger.journal.write([("v", request_id(2), 1, 5, "\ud800"), good])
        assert ledger.journal.errors == 1
    assert entries(tmp_path) == {(1, 1): (0, 20, 700, "ok")}
    assert "an entry cannot be written and is lost" in caplog.text


def test_journals_stay_while_a_reader_keeps_the_books_from_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.ledger.keeping.KEEP_BYTES", 0)
    with opened(tmp_path) as ledger:
        ledger.journal._begin()
        reserve(ledger, 1)
        ledger.keeping.catch_up()
        ledger._database._db.execute("PRAGMA busy_timeout = 1")
        reader = sqlite3.connect(tmp_path / DATABASE, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM meta").fetchall()
        settle(ledger, 1)
        ledger.keeping.catch_up()
        ledger.keeping.discard()
        assert journals(tmp_path) == [1, 2]
        reader.close()
        ledger.keeping.discard()
        assert journals(tmp_path) == [2]


def test_two_processes_never_write_to_one_folder(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from gateway.ledger.ledger import *; "
        "open_ledger(LedgerSettings(Path(sys.argv[1])))"
    )
    with opened(tmp_path):
        with pytest.raises(LedgerError, match="is in use by another process"):
            open_ledger(LedgerSettings(tmp_path))
        other = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=False)
        assert "is in use by another process" in other.stderr
    with opened(tmp_path):
        pass


@pytest.mark.parametrize("new", [False, True], ids=["an account that is known", "one that is not"])
def test_of_two_that_write_the_same_books_one_stops_and_nothing_counts_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, new: bool
) -> None:
    """As on a file system whose locks hold nobody off, or a volume that two machines have."""
    ledger = open_ledger(LedgerSettings(tmp_path))
    if not new:
        reserve(ledger, 3)
        ledger._turn()
    database = Database(tmp_path / DATABASE)
    other = Keeping(tmp_path, database)
    for number in (1, 2):
        reserve(ledger, number)
        settle(ledger, number)
    other.catch_up()
    for _ in range(2):
        ledger._turn()
    assert "ledger.sqlite is written by another process, too: " in ledger.state()["reason"]
    assert not ledger.up
    assert sum("the books lie still" in one.getMessage() for one in caplog.records) == 1
    reserve(ledger, 3)
    settle(ledger, 3)
    ledger._turn()  # writes nothing more
    other.catch_up()
    other.close()
    database.close()
    ledger.close()
    assert (database_count(tmp_path), totals(tmp_path)) == (3, (3, 2_100))


def database_count(directory: Path) -> int:
    with closing(sqlite3.connect(directory / DATABASE)) as db:
        return int(db.execute("SELECT count(*) FROM entries").fetchone()[0])


def test_who_takes_up_the_books_while_another_writes_them_notices(tmp_path: Path) -> None:
    """What is open, and up to where journals are read, are not asked for at one moment."""
    with opened(tmp_path) as ledger:
        reserve(ledger, 1)
        settle(ledger, 1)
        database = Database(tmp_path / DATABASE)
        declared = database.declared

        def meanwhile() -> dict[int, Account]:
            ledger.keeping.catch_up()
            return declared()

        database.declared = meanwhile  # type: ignore[method-assign]
        late = Keeping(tmp_path, database)
        reserve(ledger, 2)
        with pytest.raises(LedgerBusy):
            late.catch_up()
        late.close()
        database.close()


@pytest.mark.parametrize("cut", [False, True])
def test_a_journal_that_is_copied_under_another_number_counts_once(tmp_path: Path, cut: bool) -> None:
    """Restored by somebody, perhaps from a moment at which an attempt was under way that has ended since."""
    with opened(tmp_path) as ledger:
        reserve(ledger, 1)
        settle(ledger, 1)
        reserve(ledger, 2)
        copied = last(tmp_path).read_bytes().rstrip(b"\0")
        settle(ledger, 2)
        path = last(tmp_path)
    copy = journal_path(tmp_path, journals(tmp_path)[-1] + 3)
    copy.write_bytes(copied if cut else path.read_bytes())
    for number in (3, 4):
        with opened(tmp_path) as ledger:
            reserve(ledger, number)
            settle(ledger, number)
        assert (database_count(tmp_path), totals(tmp_path)) == (number, (number, number * 700))
    assert {cause for *_, cause in entries(tmp_path).values()} == {"ok"}


def test_a_folder_that_cannot_be_written_to_is_refused_with_what_would_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LedgerError, match=r"cannot write to .*file.*: ledger: \{dir: PATH\}"):
        open_ledger(LedgerSettings(tmp_path / "file"))


@contextmanager
def no_room(ledger: Ledger) -> Iterator[None]:
    """The present journal is full, and no file may grow: what a full disk does, without one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ledger.journal._end = ledger.journal._size + 30
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("on_error", ["pass", "refuse"])
def test_a_full_disk_loses_nothing_and_is_told(tmp_path: Path, on_error: str) -> None:
    with opened(tmp_path, on_error=on_error) as ledger:
        reserve(ledger, 1)
        settle(ledger, 1)
        with no_room(ledger):
            for number in range(2, 12):
                reserve(ledger, number)
                settle(ledger, number)
            assert not ledger.up
            assert ledger.shut == (on_error == "refuse")
            assert ledger.state()["reason"] == "the journal cannot be written"
            assert ledger.pending > 20
        ledger.journal.catch_up(now=True)
        ledger.tick()
        assert ledger.up
        assert not ledger.shut
    assert len(entries(tmp_path)) == 11
    assert totals(tmp_path) == (11, 11 * 700)


def test_where_memory_cannot_hold_more_requests_are_refused_rather_than_unbooked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.ledger.journal.MOST_UNWRITTEN", 10)
    with opened(tmp_path) as ledger:
        with no_room(ledger):
            for number in range(4):
                reserve(ledger, number)
            assert not ledger.shut
            for number in range(4, 12):
                reserve(ledger, number)
            assert ledger.shut
        ledger.journal.catch_up(now=True)
        ledger.tick()
        assert not ledger.shut


def test_a_process_without_file_descriptors_goes_on_in_the_journal_that_was_made_ready(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        ledger.journal._end = 3 * ledger.journal._size
        for number in range(3):
            reserve(ledger, number)
        ledger.tick()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            for number in range(3, 100):
                reserve(ledger, number)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert ledger.up
        assert journals(tmp_path) == [1, 2]
    with opened(tmp_path):
        assert len(entries(tmp_path)) == 100


def test_journals_rotate_say_their_accounts_again_and_go_when_they_are_booked_and_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as ledger:
        ledger.journal._room = ledger.journal._end = 2_000
        for number in range(100):
            reserve(ledger, number)
            settle(ledger, number - 1) if number else None
        settle(ledger, 99)
        assert len(journals(tmp_path)) > 5
        ledger.keeping.catch_up()
        assert len(entries(tmp_path)) == 100
        monkeypatch.setattr("gateway.ledger.keeping.KEEP_BYTES", 5_000)
        ledger.keeping.discard()
        assert len(journals(tmp_path)) == 3
        for number in range(100, 110):
            reserve(ledger, number)
            settle(ledger, number)
    with opened(tmp_path):
        assert len(entries(tmp_path)) == 110


def test_single_attempts_and_totals_go_when_they_are_older_than_is_kept(tmp_path: Path) -> None:
    now = 2_000_000_000_000
    with opened(tmp_path) as ledger:
        for number in range(10):
            reserve(ledger, number)
            settle(ledger, number)
        ledger.keeping.catch_up()
        assert ledger._database.retire(now - 1_000, now - 1_000_000_000) == 0
        assert ledger._database.retire(now + 1_000, now - 1_000_000_000) == 10
        assert totals(tmp_path) == (10, 7_000)
        ledger._database.retire(now + 1_000, now + 1_000_000_000)
        assert totals(tmp_path) == (0, 0)


def test_an_end_whose_beginning_is_nowhere_is_told_and_a_repeated_one_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(tmp_path) as ledger:
        reserve(ledger, 1)
        settle(ledger, 1)
        settle(ledger, 1, cost_nano=999)
        settle(ledger, 2)
        ledger.keeping.catch_up()
        assert ledger.keeping.lost == 1
    assert entries(tmp_path) == {(1, 1): (0, 20, 700, "ok")}
    assert f"attempt 1 of request {request_id(2)} ended without having begun" in caplog.text


def test_accounts_are_named_once_and_differ_by_price_and_thinking(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        one, first = ledger.account(NAMES, PRICE, thinks=False)
        same, again = ledger.account(NAMES, PRICE, thinks=False)
        assert same is one
        assert isinstance(first, Account)
        assert again is None
        others = [
            ledger.account(NAMES, None, thinks=False)[0],
            ledger.account(NAMES, PRICE, thinks=True)[0],
            ledger.account(NAMES, PRICE, thinks=False, shadow="s")[0],
        ]
        assert len({one.number, *(other.number for other in others)}) == 4


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"XDG_STATE_HOME": "/s", "HOME": "/h"}, "/s/pointsman/pointsman-"),
        ({"HOME": "/h"}, "/h/.local/state/pointsman/pointsman-"),
        ({"XDG_STATE_HOME": "relative"}, "/etc/pointsman/pointsman-"),
        ({}, "/etc/pointsman/pointsman-"),
    ],
)
def test_a_configuration_that_names_no_folder_has_one_of_its_own(environ: dict[str, str], expected: str) -> None:
    found = default_directory(Path("/etc/pointsman.yaml"), environ)
    assert str(found)[:-12] == expected
    assert found != default_directory(Path("/srv/pointsman.yaml"), environ)
