"""Shipping to a real PostgreSQL: every entry arrives, each counts once, whatever fails in between."""

from __future__ import annotations

import gc
import logging
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from gateway.cli import main
from gateway.core.errors import Unavailable
from gateway.core.types import Secret
from gateway.ledger import postgres as pg
from gateway.ledger import shared, shipping
from gateway.ledger.command import usage_told
from gateway.ledger.directory import LedgerError, PostgresSettings
from gateway.ledger.ledger import open_ledger
from gateway.ledger.report import Asked, attempts, reading, report
from gateway.ledger.unshipped import Unshipped
from tests.harness import config
from tests.ledger.shipped import NOW, PRICE, arrived, book, counted, place, settings, started, wait
from tests.postgres import PASSWORD, Postgres
from tests.tls import Front, certificate


def test_what_is_booked_arrives_once_and_reads_as_at_home(database: Postgres, tmp_path: Path) -> None:
    ledger = started(settings(tmp_path, place(database)))
    book(ledger, 0, 600)
    book(ledger, 600, 30, key="l", cost=11)
    wait(arrived(ledger, 630))
    ledger.close()
    assert counted(database) == (630, 600 * 7 + 30 * 11)
    with reading(tmp_path) as own, shared.reading(place(database)) as all_of_them:
        for by in ((), ("key",), ("team", "model", "target", "rule", "policy", "shadow"), ("day", "key")):
            there, here = report(all_of_them, Asked(by)), report(own, Asked(by))
            assert (there.rows, there.total) == (here.rows, here.total)
        assert report(all_of_them, Asked(("replica",))).rows[0]["replica"] == tmp_path.name
        there, here = list(attempts(all_of_them, Asked())), list(attempts(own, Asked()))
        assert [{**one, "replica": tmp_path.name} for one in here] == there
        only = Asked(("key",), only={"key": ("l",), "replica": (tmp_path.name, "elsewhere")})
        assert report(all_of_them, only).total["cost_nano"] == 330


@pytest.mark.parametrize(
    ("over", "reason"), [({"password": Secret("wrong-canary")}, "login"), ({"database": "nowhere"}, "schema")]
)
def test_what_will_keep_entries_from_being_shipped_is_told_before_there_is_any(
    database: Postgres, tmp_path: Path, caplog: pytest.LogCaptureFixture, over: dict[str, Any], reason: str
) -> None:
    ledger = started(settings(tmp_path, place(database, **over)))
    shipper = ledger.shipping
    assert shipper is not None
    wait(lambda: shipper.errors[reason] >= 3)
    assert shipper.state() == {"state": "degraded", "unshipped": 0, "behind_s": 0, "reason": reason}
    ledger.close()
    said = [one.message for one in caplog.records if one.name == "pointsman" and "ship" in one.message]
    assert len(said) == 1, "nor does the end say that it is well"
    assert f"cannot be shipped to {place(database, **over).place} and wait on this disk ({reason})" in said[0]
    assert "canary" not in said[0]


def test_the_tables_are_made_and_a_right_password_is_taken_before_anything_is_booked(
    database: Postgres, tmp_path: Path
) -> None:
    ledger = started(settings(tmp_path, place(database, password=Secret("wrong"))))
    shipper = ledger.shipping
    assert shipper is not None
    wait(lambda: shipper.failing == "login")
    assert ledger.login(replace(ledger.settings, postgres=place(database)))
    wait(lambda: shipper.state()["state"] == "ok")
    assert database.ask("SELECT name FROM pointsman.replicas") == [(tmp_path.name,)]
    ledger.close()


def test_entries_that_are_shipped_again_change_nothing(database: Postgres, tmp_path: Path) -> None:
    """As after a death between PostgreSQL's commit and ours, a repair, or shipping that was off for a while."""
    ledger = started(settings(tmp_path, place(database)))
    book(ledger, 0, 300)
    wait(arrived(ledger, 300))
    ledger.close()
    started(settings(tmp_path, None)).close()  # it forgets what was shipped
    ledger = started(settings(tmp_path, place(database)))
    wait(arrived(ledger, 300))
    ledger.close()
    assert counted(database) == (300, 2_100)


@pytest.mark.parametrize("most", [1, 7, 100, 250, 400, 10_000])
def test_what_is_not_shipped_is_given_once_each_in_batches_of_any_size(tmp_path: Path, most: int) -> None:
    ledger = open_ledger(settings(tmp_path, None))
    for first, count in ((0, 3), (3, 600), (603, 1), (604, 50)):  # blocks of 3, 250, 250, 100, 1 and 50
        book(ledger, first, count)
        ledger.keeping.catch_up()
    unshipped = Unshipped(tmp_path)
    unshipped.begin()
    given: list[int] = []
    while batch := unshipped.next(most):
        assert len(batch.entries) == min(most, 654 - len(given))
        given += [int(one[0][16:], 16) for one in batch.entries]
        unshipped.done(batch.last)
        assert unshipped.left() == (654 - len(given), NOW + 1 if len(given) < 654 else 0)
        assert unshipped.next(most) != batch
    assert given == list(range(654))
    unshipped.close()
    ledger.close()


def test_books_from_before_shipping_began_are_shipped_too(database: Postgres, tmp_path: Path) -> None:
    ledger = started(settings(tmp_path, None))
    book(ledger, 0, 270)
    ledger.close()
    ledger = started(settings(tmp_path, place(database)))
    book(ledger, 270, 5)
    wait(lambda: arrived(ledger, 275)() and counted(database)[0] == 275)
    ledger.close()


def test_an_outage_loses_nothing_holds_nothing_in_memory_and_is_told_once(
    database: Postgres, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pointsman")
    ledger = started(settings(tmp_path, place(database)))
    shipper = ledger.shipping
    assert shipper is not None
    book(ledger, 0, 10, at_ms=NOW - 60_000)
    wait(arrived(ledger, 10))
    database.kill()
    for first in range(10, 2_010, 500):
        book(ledger, first, 500, at_ms=NOW - 60_000 + first)
        tried = sum(shipper.errors.values())
        wait(lambda tried=tried: sum(shipper.errors.values()) > tried and not ledger.pending)  # type: ignore[misc]
    assert shipper.failing == "unreachable"
    wait(lambda: shipper.unshipped == 2_000)
    assert shipper.lag_s > 50
    assert ledger.up, "the books are kept, and requests served"
    assert ledger.state()["shipping"] == {
        "state": "degraded", "unshipped": 2_000, "behind_s": round(shipper.lag_s), "reason": "unreachable"
    }  # fmt: skip
    assert ledger._database.retire(NOW, 0) == 10, "what was not shipped stays, however old it is"
    ledger.close()
    assert len([one for one in caplog.records if "cannot be shipped" in one.message]) == 1
    ledger = started(settings(tmp_path, place(database)))
    database.start()
    wait(arrived(ledger, 2_000))
    assert ledger.shipping is not None
    assert ledger.shipping.lag_s == 0
    assert ledger._database.retire(NOW, 0) == 2_000
    ledger.close()
    assert counted(database) == (2_010, 2_010 * 7)


def test_a_database_that_hangs_is_left_and_nothing_waits_for_it(
    database: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "SEND_S", 0.3)
    monkeypatch.setattr(pg, "CONNECT_S", 0.3)
    ledger = started(settings(tmp_path, place(database)))
    book(ledger, 0, 10)
    wait(arrived(ledger, 10))
    database.hang(on=True)
    try:
        book(ledger, 10, 10)
        shipper = ledger.shipping
        assert shipper is not None
        wait(lambda: shipper.errors["timeout"] >= 2)
        before = time.monotonic()
        book(ledger, 20, 100)
        wait(lambda: not ledger.pending)
        assert time.monotonic() - before < 10
    finally:
        database.hang(on=False)
    wait(arrived(ledger, 120))
    ledger.close()
    assert counted(database) == (120, 840)


def test_the_end_of_a_process_waits_only_a_moment_for_a_database_that_hangs(
    database: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shipping, "_LAST_S", 0.3)
    ledger = started(settings(tmp_path, place(database)))
    book(ledger, 0, 10)
    wait(arrived(ledger, 10))
    database.hang(on=True)
    try:
        book(ledger, 10, 10)
        before = time.monotonic()
        ledger.close()
        assert time.monotonic() - before < shipping.SEND_S, "not as long as while it runs"
    finally:
        database.hang(on=False)
    gc.collect()
    assert "never retrieved" not in caplog.text
    ledger = started(settings(tmp_path, place(database)))
    wait(lambda: counted(database)[0] == 20)
    ledger.close()


def test_the_end_of_a_process_waits_only_a_moment_for_a_database_that_lets_nobody_in(
    database: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipping, "_LAST_S", 0.3)
    monkeypatch.setattr(pg, "CONNECT_S", 600.0)
    database.hang(on=True)
    try:
        ledger = started(settings(tmp_path, place(database)))
        book(ledger, 0, 10)
        shipper = ledger.shipping
        assert shipper is not None
        time.sleep(0.1)  # it tries to connect; were it not to yet, the end would be as soon
        ledger.close()
        assert not shipper._thread.is_alive()
    finally:
        database.hang(on=False)


def test_a_database_that_goes_while_nothing_waits_is_missed_at_once(database: Postgres, tmp_path: Path) -> None:
    ledger = started(settings(tmp_path, place(database)))
    book(ledger, 0, 10)
    wait(arrived(ledger, 10))
    shipper = ledger.shipping
    assert shipper is not None
    database.kill()
    wait(lambda: shipper.failing == "unreachable")
    assert shipper.unshipped == 0
    database.start()
    wait(lambda: shipper.failing is None)
    ledger.close()


def test_a_database_that_hangs_while_nothing_waits_is_missed_and_the_end_waits_only_a_moment(
    database: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shipping, "LOOK_S", 0.05)
    monkeypatch.setattr(shipping, "SEND_S", 0.3)
    monkeypatch.setattr(pg, "CONNECT_S", 0.3)
    ledger = started(settings(tmp_path, place(database)))
    book(ledger, 0, 10)
    wait(arrived(ledger, 10))
    shipper = ledger.shipping
    assert shipper is not None
    database.hang(on=True)
    try:
        wait(lambda: shipper.failing == "timeout")
        assert shipper.state() == {"state": "degraded", "unshipped": 0, "behind_s": 0, "reason": "timeout"}
    finally:
        database.hang(on=False)
    wait(lambda: shipper.failing is None)
    assert sum("cannot be shipped" in one.message for one in caplog.records) == 1
    monkeypatch.setattr(shipping, "SEND_S", 600.0)
    monkeypatch.setattr(shipping, "_LAST_S", 0.3)
    database.hang(on=True)
    try:
        time.sleep(0.2)  # it is being asked by now; were it not to be yet, the end would be as soon
        ledger.close()
        assert not shipper._thread.is_alive()
    finally:
        database.hang(on=False)


def refuse_permission(database: Postgres) -> PostgresSettings:
    database.ask("DROP ROLE IF EXISTS guest")
    database.ask(f"CREATE ROLE guest LOGIN PASSWORD '{PASSWORD}'")
    return place(database, user="guest")


def refuse_form(database: Postgres) -> PostgresSettings:
    database.ask("CREATE SCHEMA pointsman")
    database.ask("CREATE TABLE pointsman.form AS SELECT 7 AS version")
    return place(database)


def refuse_columns(database: Postgres) -> PostgresSettings:
    database.ask("CREATE SCHEMA pointsman")
    database.ask("CREATE TABLE pointsman.form AS SELECT 1 AS version")
    return place(database)


def refuse_writing(database: Postgres) -> PostgresSettings:
    database.ask("ALTER DATABASE pointsman SET default_transaction_read_only = on")
    return place(database)


@pytest.mark.parametrize(
    ("spoil", "reason", "said"),
    [
        (refuse_permission, "permission", "own the schema"),
        (refuse_form, "schema", "form 7"),
        (refuse_columns, "schema", "postgres.sql"),
        (refuse_writing, "read_only", "name the primary"),
        (lambda database: place(database, database="elsewhere"), "schema", "elsewhere"),
        (lambda database: place(database, password=Secret("wrong-canary")), "login", "pg_hba.conf"),
        (lambda database: place(database, tls=True), "unreachable", "SSL"),
        (lambda database: place(database, port=1), "unreachable", "127.0.0.1:1/pointsman"),
    ],
    ids=["permission", "form", "columns", "read-only", "no-database", "password", "no-tls", "no-server"],
)
def test_what_keeps_entries_from_being_shipped_is_told_once_with_what_to_do(
    database: Postgres, tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Any, reason: str, said: str
) -> None:
    caplog.set_level(logging.INFO, "pointsman")
    where = spoil(database)
    try:
        ledger = started(settings(tmp_path, where))
        book(ledger, 0, 3)
        shipper = ledger.shipping
        assert shipper is not None
        wait(lambda: shipper.errors[reason] >= 3)
        assert shipper.failing == reason
        ledger.close()
    finally:
        database.ask("ALTER DATABASE pointsman RESET default_transaction_read_only", database="postgres")
    told = [one.message for one in caplog.records if "cannot be shipped" in one.message]
    assert len(told) == 1
    assert said in told[0]
    assert "canary" not in caplog.text
    ledger = started(settings(tmp_path, place(database)))  # the same, put right
    database.clear()
    wait(arrived(ledger, 3))
    ledger.close()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("53100", "disk_full"), ("53300", "connections"), ("57014", "timeout"), ("55P03", "timeout"),
        ("57P01", "unreachable"), ("57P03", "unreachable"),
        ("08006", "unreachable"), ("25006", "read_only"), ("42501", "permission"), ("28P01", "login"),
        ("3D000", "schema"), ("42P01", "schema"), ("22P02", "entry"), ("23514", "entry"), ("XX000", "other"),
    ],
)  # fmt: skip
def test_postgresql_s_codes_are_reasons(code: str, reason: str) -> None:
    error = RuntimeError("no")
    error.sqlstate = code  # type: ignore[attr-defined]
    assert pg.reason(error) == reason


def test_an_entry_that_postgresql_can_never_take_does_not_hold_up_the_others(
    database: Postgres, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = started(settings(tmp_path, place(database)))
    account, entry = ledger.account(("k\0", "t", "m", "here", "r", "p@1"), PRICE, thinks=False)
    assert entry is not None
    ledger.journal.write([entry])
    ledger.journal.write([("r", "no id of ours", 1, account.number, NOW, 5, 0), ("v", "no id of ours", 1, NOW, "x")])
    book(ledger, 0, 5)
    wait(arrived(ledger, 6))
    shipper = ledger.shipping
    assert shipper is not None
    assert shipper.errors["entry"] == 1
    ledger.close()
    assert counted(database)[0] == 5
    assert "attempt 1 of request no id of ours" in caplog.text


def test_the_schema_may_go_while_it_is_shipped_to(database: Postgres, tmp_path: Path) -> None:
    ledger = started(settings(tmp_path, place(database)))
    book(ledger, 0, 5)
    wait(arrived(ledger, 5))
    database.clear()
    book(ledger, 5, 5)
    wait(arrived(ledger, 10))
    ledger.close()
    assert counted(database)[0] == 5


def test_replicas_that_begin_at_once_make_the_tables_once_and_share_accounts(
    database: Postgres, tmp_path: Path
) -> None:
    ledgers = []
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        ledgers.append(started(settings(tmp_path / name, place(database))))
    for number, ledger in enumerate(ledgers):
        for key in range(40):
            book(ledger, number * 1_000 + key * 10, 10, key=f"key-{(key * (number + 1)) % 41}")
    for ledger in ledgers:
        wait(arrived(ledger, 400))
        assert ledger.shipping is not None
        assert sum(ledger.shipping.errors.values()) == 0
        ledger.close()
    assert counted(database) == (1_200, 8_400)
    assert database.ask("SELECT count(*) FROM pointsman.accounts")[0][0] <= 41
    with shared.reading(place(database)) as books:
        rows = report(books, Asked(("replica",))).rows
        assert sorted((row["replica"], row["attempts"]) for row in rows) == [("a", 400), ("b", 400), ("c", 400)]
    by_replica: dict[str, int] = {}
    for (replica, _, team), nano in shared.spent(place(database), 0, 1 << 52).items():
        assert team == "t"
        by_replica[replica] = by_replica.get(replica, 0) + nano
    assert by_replica == {ledger.shipping.replica_id: 2_800 for ledger in ledgers if ledger.shipping}


def test_what_is_spent_in_a_period_is_of_that_period(database: Postgres, tmp_path: Path) -> None:
    ledger = started(settings(tmp_path, place(database)))
    day = 86_400_000
    today = NOW // day * day
    book(ledger, 0, 5, at_ms=today - 1)
    book(ledger, 5, 7, at_ms=today)
    wait(arrived(ledger, 12))
    ledger.close()
    found = shared.spent(place(database), today, today + day)
    assert found == {(ledger.shipping.replica_id, "k", "t"): 49}  # type: ignore[union-attr]


def test_books_that_cannot_be_read_say_why(database: Postgres) -> None:
    for where, said in (
        (place(database, port=1), "unreachable"),
        (place(database, password=Secret("wrong-canary")), "login"),
    ):
        with pytest.raises(LedgerError, match=said) as caught, shared.reading(where):
            pytest.fail("it was read")
        assert "canary" not in str(caught.value)


def test_books_that_nobody_has_begun_are_empty_and_no_fault(
    database: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shared.spent(place(database), 0, 1 << 52) == {}, "which is no warning at the start"
    own = settings(tmp_path, place(database))
    for by in ("total", "replica,model", "day"):
        told = usage_told(own, {"by": by}, shared_store=True)
        assert (told["rows"], told["total"]["attempts"], told["behind"], told["since"]) == ([], 0, [], None)
    monkeypatch.setenv("PW", PASSWORD)
    where = {"port": database.port, "password": {"env": "PW"}, "host": "127.0.0.1"}
    written = config({"t": "http://127.0.0.1:1/v1"}, ledger={"dir": "books", "postgres": where})
    path = tmp_path / "pointsman.yaml"
    with path.open("w") as file:
        YAML().dump(written, file)
    for options in ([], ["--by", "replica,model"], ["--export", "csv"], ["--csv"], ["--json"]):
        assert main(["usage", "--config", str(path), *options]) == 0
        out, err = capsys.readouterr()
        assert ("it has no schema pointsman" in err) is ("--json" not in options)
        assert out.strip()


def test_usage_of_a_gateway_says_that_postgresql_is_away_and_what_can_be_read(
    database: Postgres, tmp_path: Path
) -> None:
    own = settings(tmp_path, place(database, password=Secret("wrong-canary")))
    ledger = open_ledger(own)
    try:
        with pytest.raises(Unavailable) as caught:
            usage_told(own, {}, shared_store=True)
        error = caught.value
        assert (error.status, error.code) == (503, "store_unavailable")
        assert "PostgreSQL, which has the books of all replicas, is away: own=true has" in error.message
        assert "canary" not in error.message
        assert usage_told(own, {"own": "true"}, shared_store=True)["total"]["attempts"] == 0
    finally:
        ledger.close()


@pytest.mark.parametrize("fault", ["none", "nobody vouches for it", "it is for somebody else"])
def test_tls_is_verified(database: Postgres, tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: str) -> None:
    """The real server behind what ends TLS, as the wheel's is built without: shipped to, or left with the reason."""
    shown = certificate(tmp_path / "tls", "DNS:db.example" if fault == "it is for somebody else" else "IP:127.0.0.1")
    front = Front(database.port, shown, asked=True)
    where = replace(place(database), port=front.port, tls=True, ca_file=shown.authority)
    if fault == "nobody vouches for it":
        where = replace(where, ca_file=None)
    ledger = started(settings(tmp_path / "books", where))
    book(ledger, 0, 3)
    if fault == "none":
        wait(arrived(ledger, 3))
        with shared.reading(where) as db:
            assert report(db, Asked(())).total["attempts"] == 3
        assert front.handshakes >= 2
    else:
        assert ledger.shipping is not None
        shipper = ledger.shipping
        wait(lambda: shipper.errors["tls"] >= 2)
        with pytest.raises(LedgerError, match=r"\(tls\)"), shared.reading(where):
            pytest.fail("it was read")
        assert front.handshakes == 0
        said = [one.message for one in caplog.records if "cannot be shipped" in one.message]
        assert len(said) == 1
        assert "certificate must be for this host" in said[0]
    ledger.close()
    front.close()


def test_without_the_driver_the_start_says_what_to_install(
    tmp_path: Path, database: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    monkeypatch.setattr(pg, "find_spec", lambda name: None)
    with pytest.raises(LedgerError, match=r"pointsman\[postgres\]"):
        open_ledger(settings(tmp_path, place(database)))


def test_usage_tells_of_all_replicas_of_one_and_why_it_cannot(
    database: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PW", PASSWORD)
    where = {"port": database.port, "password": {"env": "PW"}, "host": "127.0.0.1"}
    path = tmp_path / "pointsman.yaml"
    for name in ("a", "b"):
        written = config({"t": "http://127.0.0.1:1/v1"}, ledger={"dir": name, "replica": name, "postgres": where})
        with path.open("w") as file:
            YAML().dump(written, file)
        (tmp_path / name).mkdir()
        ledger = started(settings(tmp_path / name, place(database)))
        book(ledger, 0, 3, key=name)
        wait(arrived(ledger, 3))
        ledger.close()

    def usage(*options: str) -> tuple[int, str, str]:
        code = main(["usage", "--config", str(path), *options])
        return code, *capsys.readouterr()

    def total(text: str) -> str:
        return next(line.split()[1] for line in text.splitlines() if line.startswith("total"))

    assert total(usage("--by", "replica")[1]) == "6"
    assert usage("--by", "total", "--replica", "a", "--csv")[1].splitlines()[1].startswith("3,3,")
    assert [line.count(",a,") for line in usage("--export", "csv", "--key", "a")[1].splitlines()[1:]] == [1, 1, 1]
    assert total(usage("--by", "key", "--own")[1]) == "3"
    code, _, said = usage("--by", "replica", "--own")
    assert (code, "--by: these are the books of one replica: leave out --own, for those of all" in said) == (2, True)
    with path.open("w") as file:
        YAML().dump({**written, "store": {"url": "redis://127.0.0.1:1"}}, file)
    _, _, said = usage("--own")
    assert "others share its store: without --own, those of all are told" in said
    assert "postgres" not in said
    code, _, said = usage("--replica", "c")
    assert (code, "there is no replica 'c' in the books" in said) == (2, True)
    monkeypatch.setenv("PW", "wrong-canary")
    code, _, said = usage()
    assert (code, "login" in said, "--own" in said, "canary" in said) == (2, True, True, False)
