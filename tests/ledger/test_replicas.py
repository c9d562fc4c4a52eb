"""Real gateways that ship into one real PostgreSQL, all of them killed at random instants: one set of books, whole."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from gateway.cli import main
from gateway.core.types import Secret
from gateway.ledger import shared
from gateway.ledger.directory import DATABASE, PostgresSettings
from gateway.ledger.report import Asked, report
from tests.harness import Upstream, config, eventually
from tests.ledger.test_kill import Client, Generated, Zygote, listening
from tests.ports import free_port
from tests.postgres import PASSWORD, Postgres, postgres


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    with postgres() as one:
        yield one


class Replica:
    """One gateway with books of its own, and clients that ask it until nobody answers."""

    def __init__(self, directory: Path, name: str, upstreams: dict[str, Upstream], database: Postgres) -> None:
        self.directory, self.name = directory / name, name
        self.ports = [free_port(), free_port()]
        (self.directory / "policies").mkdir(parents=True)
        (self.directory / "policies" / "default.yaml").write_text(
            "policy: default\nrules:\n  - {id: all, use: [{target.name: good}]}\n"
        )
        where = {"port": database.port, "password": {"env": "PGPASSWORD"}}
        written = config(
            upstreams,
            listen={"public": f"127.0.0.1:{self.ports[0]}", "admin": f"127.0.0.1:{self.ports[1]}"},
            policies={"dir": "policies"},
            log={"requests": "none"},
            ledger={"dir": "ledger", "replica": name, "postgres": where},
        )
        self.path = self.directory / "pointsman.yaml"
        with self.path.open("w") as file:
            YAML().dump(written, file)
        self.zygote = Zygote(self.path)
        self.pid = 0
        self.clients: list[Client] = []
        self.whole: list[str] = []

    def start(self, dice: random.Random) -> None:
        self.pid = self.zygote.start()
        assert listening(self.ports[0])
        self.clients = [Client(self.ports[0], self.whole, random.Random(dice.random())) for _ in range(2)]
        for one in self.clients:
            one.start()

    def end(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)
        for one in self.clients:
            one.join(30)
        self.zygote.wait()

    def rows(self) -> set[tuple[Any, ...]]:
        db = sqlite3.connect(self.directory / "ledger" / DATABASE)
        found = db.execute("SELECT request_id, attempt, kind, input, output, cost_nano, cause FROM entries").fetchall()
        db.close()
        return set(found)


def shipped(database: Postgres, name: str) -> list[tuple[Any, ...]]:
    rows = database.ask(
        "SELECT request_id, attempt, kind, input, output, cost_nano, cause FROM pointsman.entries e "
        "JOIN pointsman.replicas r ON r.number = e.replica WHERE r.name = $1",
        name,
    )
    return [(one[0].hex, *one[1:]) for one in rows]


def test_one_set_of_books_holds_what_the_upstream_generated_whoever_is_killed(
    database: Postgres,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    database.clear()
    truth = Generated()
    dice = random.Random(20261122)
    with ExitStack() as closing:
        good = Upstream([truth.answer])
        closing.callback(good.close)
        replicas = [Replica(tmp_path, f"replica-{number}", {"good": good}, database) for number in range(3)]
        for one in replicas:
            closing.callback(one.zygote.close)
        for one in replicas:
            one.start(dice)
        for turn in range(6):
            truth.wait(dice.randint(5, 60))
            time.sleep(dice.random() * 0.3)
            if turn % 2:
                victim = dice.choice(replicas)
                victim.end(signal.SIGKILL)
                victim.start(dice)
            else:
                database.kill()
                truth.wait(dice.randint(5, 60))
                database.start()
        for one in replicas:
            one.end(signal.SIGTERM)  # which ships what is left
        whole = [request_id for one in replicas for request_id in one.whole]

    booked: dict[str, tuple[Any, ...]] = {}
    for one in replicas:
        there = shipped(database, one.name)
        assert len(there) == len(set(there))
        assert set(there) == one.rows(), "PostgreSQL has what the replica booked, and no more"
        for row in there:
            assert row[0] not in booked
            booked[row[0]] = row
    assert truth.seen.keys() <= booked.keys(), "the upstream was asked for something that is not in the books"
    assert set(truth.seen.values()) == {1}
    for request_id, (_, _, _, entered, output, _, cause) in booked.items():
        if cause == "ok":
            assert (entered, output) == truth.usage[request_id], "to the token"
        else:
            assert cause == "crash"
            assert request_id not in whole, "a client saw the end of an answer that was not settled"
    assert len(whole) > 50
    assert main(["usage", "--config", str(replicas[0].path), "--by", "replica", "--json"]) == 0
    told = capsys.readouterr().out
    for one in replicas:
        assert f'"replica": "{one.name}"' in told
    with shared.reading(PostgresSettings("127.0.0.1", database.port, "pointsman", "pointsman", Secret(PASSWORD))) as db:
        total = report(db, Asked(())).total
    assert total["attempts"] == len(booked)
    assert total["cost_nano"] == sum(row[5] for row in booked.values())


def test_while_no_gateway_dies_totals_are_the_upstream_s_own_count_through_an_outage(
    database: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    database.clear()
    truth = Generated()
    dice = random.Random(7)
    with ExitStack() as closing:
        good = Upstream([truth.answer])
        closing.callback(good.close)
        replicas = [Replica(tmp_path, name, {"good": good}, database) for name in ("a", "b")]
        for one in replicas:
            closing.callback(one.zygote.close)
            one.start(dice)
        truth.wait(100)
        database.kill()
        truth.wait(300)
        database.start()
        truth.wait(100)
        for one in replicas:
            one.end(signal.SIGTERM)
    ended = {key: stated for key, stated in truth.usage.items() if truth.seen[key]}
    rows = database.ask("SELECT sum(input)::bigint, sum(output)::bigint, sum(attempts)::bigint FROM pointsman.totals")
    assert rows == [
        (sum(stated[0] for stated in ended.values()), sum(stated[1] for stated in ended.values()), len(truth.seen))
    ]
    assert eventually(lambda: len(database.ask("SELECT 1 FROM pointsman.replicas")) == 2)
