"""`pointsman usage` and `/v1/usage`: the sums are those of the single attempts, by any group, time and zone."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from gateway.cli import main
from gateway.core.money.booking import BY_EXPIRE, BY_SETTLE, BY_VOID, Account, Booked
from gateway.core.types import NANO_PER_USD, Price, PriceTier
from gateway.ledger import postgres as pg
from gateway.ledger.command import asked_of
from gateway.ledger.database import Database, Position
from gateway.ledger.directory import DATABASE, LedgerSettings, journal_path, journals
from gateway.ledger.ledger import open_ledger
from gateway.ledger.report import GROUPS, SUMS, Asked, reading, report, spent
from gateway.ledger.report import attempts as attempts_of
from tests.harness import KEY, Upstream, chat, config, eventually, plain, running, stream

PRICE = Price((PriceTier(0, 1_000_000_000, 2_000_000_000),), "list")
#: Europe/Berlin goes from 23:00 to 22:00 UTC as the day begins, and Nepal is a quarter off.
MARCH = int(datetime(2026, 3, 28, tzinfo=UTC).timestamp()) * 1000


ACCOUNTS = [
    Account(0, key, team, model, target, rule, f"p{rule}@{digest}", False, price, shadow)
    for key, team in (("a", "red"), ("b", "red"), ("c", ""))
    for model, target, price in (("m1", "t1", PRICE), ("m1", "t2", None), ("m2", "t3", PRICE))
    for rule, digest in (("r1", "x"), ("r1", "y"), ("r2", "x"))
    for shadow in ("", "half")
]


def account(one: Booked) -> Account:
    return ACCOUNTS[one.account - 1]


def attempts(count: int) -> list[Booked]:
    dice = random.Random(7)
    made = []
    for number in range(count):
        at_ms = MARCH + dice.randrange(4 * 86_400_000)
        kind, cause = dice.choice([*[(BY_SETTLE, "ok")] * 3, (BY_VOID, "refused"), (BY_EXPIRE, "crash")])
        entered, output, cost = dice.randrange(1, 2_000), dice.randrange(900), dice.randrange(10**9)
        used = (entered, entered // 3, entered // 9, output, output // 2, cost) if kind != BY_VOID else (0,) * 6
        key = (f"{at_ms:012x}{number:020x}", 1, dice.randrange(len(ACCOUNTS)) + 1)
        made.append(Booked(*key, at_ms, at_ms + 10, kind, *used, kind == BY_EXPIRE, cause))
    return made


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Booked]]:
    directory = tmp_path_factory.mktemp("books")
    made = attempts(3_000)
    database = Database(directory / DATABASE)
    assert [database.number(one) for one in [*ACCOUNTS, *ACCOUNTS]] == [*range(1, len(ACCOUNTS) + 1)] * 2
    for at in range(0, len(made), 500):  # a hundred of each are in the books already
        assert database.position() == Position()
        database.take(made[max(0, at - 100) : at + 500], [], [], None, Position())
    database.close()
    return directory, made


def groups_of(one: Booked, zone: ZoneInfo) -> dict[str, str]:
    day = datetime.fromtimestamp(one.at_ms / 1000, zone).date().isoformat()
    named = {name: getattr(account(one), name) for name in GROUPS if name not in ("day", "replica")}
    return named | {"policy": account(one).policy.partition("@")[0], "day": day}


def sums_of(one: Booked) -> dict[str, int]:
    void = one.kind == BY_VOID
    return {
        "attempts": 1,
        "answered": int(one.cause == "ok"),
        "failed": int(void),
        "input": one.input - one.cached,
        "cached": one.cached,
        "written": one.written,
        "output": one.output - one.reasoning,
        "reasoning": one.reasoning,
        "cost_nano": one.cost_nano,
        "estimated_nano": one.cost_nano if one.estimated else 0,
        "unpriced": int(account(one).price is None and not void),
    }


@pytest.mark.parametrize(
    "by", [(), ("team", "key"), ("day",), ("model", "day", "rule"), tuple(one for one in GROUPS if one != "replica")]
)
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Asia/Kathmandu"])
def test_sums_are_those_of_the_single_attempts(
    books: tuple[Path, list[Booked]], by: tuple[str, ...], zone: str
) -> None:
    directory, made = books
    since, until = MARCH + 86_400_000, MARCH + 3 * 86_400_000 + 900_000
    expected: dict[tuple[str, ...], Counter[str]] = {}
    for one in made:
        if since <= one.at_ms < until:
            named = groups_of(one, ZoneInfo(zone))
            expected.setdefault(tuple(named[name] for name in by), Counter()).update(sums_of(one))
    with reading(directory) as db:
        found = report(db, Asked(by, since, until, ZoneInfo(zone)))
    if by:
        assert {tuple(row[name] for name in by): {name: row[name] for name in SUMS} for row in found.rows} == {
            key: {name: sums[name] for name in SUMS} for key, sums in expected.items()
        }
    total = sum(expected.values(), Counter())
    assert found.total == {name: total[name] for name in SUMS}


def test_only_what_is_asked_for_counts(books: tuple[Path, list[Booked]]) -> None:
    directory, made = books
    with reading(directory) as db:
        found = report(db, Asked(("target",), only={"team": ("red",), "policy": ("pr2",)}))
    wanted = [one for one in made if account(one).team == "red" and account(one).policy.startswith("pr2@")]
    assert found.total["cost_nano"] == sum(one.cost_nano for one in wanted)
    assert [row["cost_nano"] for row in found.rows] == sorted((row["cost_nano"] for row in found.rows), reverse=True)


def test_balances_begin_with_what_was_spent_in_their_period(books: tuple[Path, list[Booked]]) -> None:
    directory, made = books
    since, until = MARCH + 86_400_000, MARCH + 2 * 86_400_000
    expected: Counter[tuple[str, str]] = Counter()
    for one in made:
        if since <= one.at_ms < until:
            expected[account(one).key, account(one).team] += one.cost_nano
    with reading(directory) as db:
        assert spent(db, since, until) == dict(expected)


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_the_command_prints_the_same_numbers_in_every_form(
    books: tuple[Path, list[Booked]], capsys: pytest.CaptureFixture[str], form: str
) -> None:
    directory, made = books
    how = [] if form == "table" else [f"--{form}"]
    assert main(["usage", "--dir", str(directory), "--by", "team", "--since", "2026-03-01", *how]) == 0
    out = capsys.readouterr().out
    nano = sum(one.cost_nano for one in made if account(one).team == "red")
    if form == "json":
        told = json.loads(out)
        (row,) = [row for row in told["rows"] if row["team"] == "red"]
        assert row["cost_usd"] == nano / NANO_PER_USD
        assert told["total"]["attempts"] == len(made)
    elif form == "csv":
        (line,) = [row for row in csv.DictReader(io.StringIO(out)) if row["team"] == "red"]
        assert line["cost_usd"] == f"{nano // NANO_PER_USD}.{nano % NANO_PER_USD:09d}"
    else:
        lines = out.splitlines()
        assert lines[0].split()[:4] == ["team", "attempts", "answered", "failed"]
        assert any(line.startswith("red ") and f"{nano / NANO_PER_USD:,.6f}" in line for line in lines)
        assert lines[-2].startswith("total")
        assert lines[-1].startswith("from 2026-03-28 00:00 to 2026-04-0")


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_every_attempt_can_be_exported(
    books: tuple[Path, list[Booked]], capsys: pytest.CaptureFixture[str], form: str
) -> None:
    directory, made = books
    assert main(["usage", "--dir", str(directory), "--export", form, "--key", "a"]) == 0
    out = capsys.readouterr().out
    rows = (
        [json.loads(line) for line in out.splitlines()] if form == "jsonl" else list(csv.DictReader(io.StringIO(out)))
    )
    wanted = sorted((one for one in made if account(one).key == "a"), key=lambda one: one.request_id)
    assert [row["request_id"] for row in rows] == [one.request_id for one in wanted]
    assert [int(row["output"]) for row in rows] == [one.output for one in wanted]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--by", "teem"], "--by: 'teem' is nothing to group by: did you mean team?"),
        (["--since", "tomorrow"], "--since: 'tomorrow' is no moment: a day such as yesterday or 2026-11-21"),
        (["--team", "rad"], "--team: there is no team 'rad' in the books: did you mean red?"),
        (["--team", "red", "--key", "xyz"], "--key: there is no key 'xyz' in the books: one of a, b, c"),
        (["--policy", "pr3", "--export", "csv"], "--policy: there is no policy 'pr3' in the books: did you mean"),
        (["--last", "1x"], "--last: '1x' is no moment: a day such as yesterday or 2026-11-21"),
        (["--since", "7d", "--last", "1d"], "--last: says when to begin, and so does --since"),
        (["--day-zone", "Mars/Olympus"], "--day-zone: 'Mars/Olympus' is no time zone"),
    ],
)
def test_arguments_that_mean_nothing_are_told_with_what_would(
    books: tuple[Path, list[Booked]], capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    assert main(["usage", "--dir", str(books[0]), *arguments]) == 2
    assert complaint in capsys.readouterr().err


def test_where_there_are_no_books_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["usage", "--dir", str(tmp_path)]) == 2
    assert f"there are no books in {tmp_path}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [], "and makes none"


def test_a_real_gateway_tells_the_same_beside_the_command_and_after_its_death(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upstream = Upstream([plain(), plain(status=500), plain(), stream()])
    settings = config({"a": upstream}, ledger={"dir": "books"})
    with running(tmp_path, settings) as gateway:
        for body in (chat("a"), chat("a"), chat("a"), chat("a", stream=True)):
            gateway.post(body)

        def told() -> dict[str, object]:
            return dict(gateway.get("/v1/usage?by=team,target&last=1h", admin=True).json()["total"])

        assert eventually(lambda: told()["attempts"] == 4)
        assert told() == {
            "attempts": 4, "answered": 3, "failed": 1, "input": 30, "cached": 0, "written": 0, "output": 7,
            "reasoning": 0, "cost_usd": 0.000044, "estimated_usd": 0, "unpriced": 0,
        }  # fmt: skip
        wrong = gateway.get("/v1/usage?day=2026-11-22", admin=True)
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "day")
        wrong = gateway.get("/v1/usage?by=teem", admin=True)
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "by")
        assert gateway.get("/readyz").json()["ledger"]["state"] == "ok"
        read = [line for line in gateway.get("/metrics", admin=True).text.splitlines() if 'kind="settle"' in line]
        assert sorted(float(line.rpartition(" ")[2]) for line in read) == [0, 3]
        assert gateway.metric("pointsman_ledger_up") == 1
        arguments = ["usage", "--config", str(tmp_path / "pointsman.yaml"), "--by", "key,rule", "--json"]
        assert main(arguments) == 0
        beside = json.loads(capsys.readouterr().out)
        assert beside["rows"][0]["key"] == "test"
        gateway.post(chat("a"))
        os.kill(gateway.process.pid, signal.SIGKILL)
        gateway.process.wait()
    upstream.close()
    assert main(arguments) == 0
    after = json.loads(capsys.readouterr().out)
    assert (beside["total"]["attempts"], after["total"]["attempts"]) == (4, 5)
    assert KEY not in (tmp_path / "books" / "journal-00000001.log").read_text()


@pytest.mark.parametrize("damage", ["books", "no database", "journal"])
def test_repair_keeps_what_is_damaged_and_books_what_can_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    settings = LedgerSettings(tmp_path)
    ledger = open_ledger(settings)
    account, entry = ledger.account(("k", "t", "m", "t", "r", "p@1"), PRICE, thinks=False)
    assert entry is not None
    ledger.journal.write([entry])
    for number in range(3_000):
        key = (f"{2_000_000_000_000:012x}{number:020x}", 1)
        ledger.journal.write([("r", *key, account.number, 2_000_000_000_000, 100)])
        ledger.journal.write([("s", *key, 2_000_000_000_001, 100, 20, 0, 0, 0, 700, False, "ok")])
    lost = 0
    if damage == "journal":  # before it is read
        ledger.keeping.close()
        ledger._database.close()
        ledger._held.release()
        ledger.journal._map.flush()
        path = journal_path(tmp_path, journals(tmp_path)[-1])
        data = bytearray(path.read_bytes())
        data[100_000] ^= 1
        path.write_bytes(data)
        lost = 1
    else:
        ledger.close()
        path = tmp_path / DATABASE
        data = bytearray(path.read_bytes())
        for at in range(0 if damage == "no database" else len(data) // 8192 * 4096, len(data), 4_096):
            data[at : at + 64] = b"\xff" * 64
        path.write_bytes(data)
    assert main(["usage", "--dir", str(tmp_path)]) == 2
    assert "`pointsman usage --repair`" in capsys.readouterr().err
    assert main(["usage", "--dir", str(tmp_path), "--repair", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["total"]["attempts"] >= 3_000 - lost
    assert ("damaged lines of journals were passed over" in told.err) == (damage == "journal")
    assert bool(list(tmp_path.glob("ledger.sqlite.damaged-*"))) == (damage != "journal")
    assert main(["usage", "--dir", str(tmp_path), "--json"]) == 0
    total = json.loads(capsys.readouterr().out)["total"]
    assert total["attempts"] in (3_000, 3_000 - lost)
    assert total["cost_usd"] == pytest.approx(total["attempts"] * 700 / NANO_PER_USD, rel=0.1)


#: What form 1 had where later ones have blocks.
FORMER = """
CREATE TABLE former (
  request_id TEXT NOT NULL, attempt INTEGER NOT NULL, account INTEGER NOT NULL, at_ms INTEGER NOT NULL,
  ended_ms INTEGER NOT NULL, kind INTEGER NOT NULL, input INTEGER NOT NULL, cached INTEGER NOT NULL,
  written INTEGER NOT NULL, output INTEGER NOT NULL, reasoning INTEGER NOT NULL, cost_nano INTEGER NOT NULL,
  estimated INTEGER NOT NULL, cause TEXT NOT NULL,
  PRIMARY KEY (request_id, attempt)
) WITHOUT ROWID;
INSERT INTO former SELECT request_id, attempt, account, at_ms, ended_ms, kind, input, cached, written, output,
  reasoning, cost_nano, estimated, cause FROM entries;
DROP VIEW entries; DROP TABLE blocks; ALTER TABLE former RENAME TO entries; PRAGMA user_version = 1;
"""


@pytest.mark.parametrize("journals_are", ["kept", "gone"])
def test_books_of_a_former_form_are_made_again_without_losing_or_doubling_an_attempt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], journals_are: str
) -> None:
    ledger = open_ledger(LedgerSettings(tmp_path))
    account, entry = ledger.account(("k", "t", "m", "t", "r", "p@1"), PRICE, thinks=False)
    assert entry is not None
    now = int(time.time() * 1000)
    ledger.journal.write([entry])
    for number in range(1_000):
        key = (f"{now:012x}{number:020x}", 1)
        ledger.journal.write([("r", *key, account.number, now, 100)])
        ledger.journal.write([("s", *key, now + 1, 100, 20, 0, 0, 0, 700, number % 7 == 0, "ok")])
    ledger.close()
    with reading(tmp_path) as own:
        before = list(attempts_of(own, Asked())), report(own, Asked(("key",))).to_dict()
    with closing(sqlite3.connect(tmp_path / DATABASE)) as db:
        db.executescript(FORMER)
    assert main(["usage", "--dir", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "has form 1, and this version writes form 2: `pointsman usage --repair` keeps it aside" in said
    if journals_are == "gone":
        for number in journals(tmp_path):
            journal_path(tmp_path, number).unlink()
    assert main(["usage", "--dir", str(tmp_path), "--repair", "--json"]) == 0
    said += capsys.readouterr().err
    assert "damaged" not in said
    assert list(tmp_path.glob("ledger.sqlite.former-*"))
    with reading(tmp_path) as own:
        assert (list(attempts_of(own, Asked())), report(own, Asked(("key",))).to_dict()) == before
        assert own.execute("SELECT max(attempts), count(*) FROM blocks").fetchone() == (250, 4)
    open_ledger(LedgerSettings(tmp_path)).close()


def test_who_is_configured_and_spent_nothing_is_no_mistake(
    books: tuple[Path, list[Booked]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = f"{{name: new, sha256: {'a' * 64}, tenant: {{team: newcomers}}, allow: [auto]}}"
    (tmp_path / "pointsman.yaml").write_text(
        "backends: {a: {dialect: vllm, base_url: 'http://127.0.0.1:9/v1'}}\n"
        "targets: {q: {model: qwen3.5-9b, backend: a, window: 32k, price: none}}\n"
        f"ledger: {{dir: {books[0]}}}\nkeys: [{key}]\n"
    )
    named = ["usage", "--config", str(tmp_path / "pointsman.yaml"), "--by", "total", "--json"]
    for known in (["--team", "newcomers"], ["--key", "new"], ["--target", "q"]):
        assert main([*named, *known]) == 0
        assert json.loads(capsys.readouterr().out)["total"]["attempts"] == 0
    assert main([*named, "--team", "newcommers"]) == 2
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem["valid"] == "did you mean newcomers?"


@pytest.mark.parametrize("form", [(), ("--json",), ("--csv",), ("--export", "csv"), ("--export", "jsonl")])
def test_books_of_one_replica_of_several_say_that_they_are(
    books: tuple[Path, list[Booked]], tmp_path: Path, capsys: pytest.CaptureFixture[str], form: tuple[str, ...]
) -> None:
    config = tmp_path / "pointsman.yaml"
    for store in ("", "store: {url: redis://127.0.0.1:1}\n"):
        up = 'up: {dialect: openai, base_url: "http://127.0.0.1:9/v1"}'
        targets = "a: {model: qwen3.5-9b, backend: up, window: 8k}"
        config.write_text(
            f"backends:\n  {up}\ntargets:\n  {targets}\nledger: {{dir: {books[0]}}}\n{store}", encoding="utf-8"
        )
        assert main(["usage", "--config", str(config), *form]) == 0
        told = capsys.readouterr()
        if form == ("--json",):
            assert json.loads(told.out)["one_replica"] is bool(store)
        else:
            said = "the books of one replica, and others share its store: ledger: {postgres: ...} has those of all"
            assert (said in told.err) is bool(store)
            assert said not in told.out


@pytest.mark.parametrize("option", ["--own", "--repair"])
def test_books_of_this_replica_are_read_without_what_only_postgresql_needs(
    books: tuple[Path, list[Booked]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    option: str,
) -> None:
    config = tmp_path / "pointsman.yaml"
    config.write_text(
        "backends: {a: {dialect: vllm, base_url: 'http://127.0.0.1:9/v1'}}\n"
        "targets: {q: {model: qwen3.5-9b, backend: a, window: 32k, price: none}}\n"
        f"ledger: {{dir: {books[0]}, postgres: {{host: db.invalid, password: {{env: NOT_SET}}}}}}\n"
    )
    named = ["usage", "--config", str(config), "--json"]
    assert main(named) == 2, "those of all replicas need it"
    assert "NOT_SET" in capsys.readouterr().out
    monkeypatch.setattr(pg, "installed", lambda: False)
    assert main([*named, option]) == 0
    assert json.loads(capsys.readouterr().out)["total"]["attempts"] > 0


def test_days_may_be_said_by_what_they_are_called() -> None:
    now = datetime(2026, 3, 29, 22, 30, tzinfo=UTC).timestamp()  # half past midnight of the 30th in Berlin
    for zone, word, day in (
        ("UTC", "today", (29, 0)),
        ("UTC", "yesterday", (28, 0)),
        ("Europe/Berlin", "today", (29, 22)),
        ("Europe/Berlin", "yesterday", (28, 23)),  # a day of 23 hours
    ):
        asked = asked_of({"since": word, "day_zone": zone}, now)
        assert datetime.fromtimestamp(asked.since_ms / 1000, UTC) == datetime(2026, 3, *day, tzinfo=UTC)
