"""PostgreSQL away for an hour, full, or not what it was: what waits, what is told, and that it heals. A real one."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.cli import main
from gateway.core.types import Secret
from gateway.ledger import postgres as pg
from gateway.ledger import shared, shipping
from gateway.ledger.command import table
from gateway.ledger.directory import PostgresSettings
from gateway.ledger.ledger import Ledger
from gateway.ledger.report import Asked, reading, report
from gateway.ledger.shipping import Shipping
from tests.harness import Upstream, chat, config, eventually, plain, running
from tests.ledger.shipped import NOW, arrived, book, counted, place, settings, started, wait
from tests.postgres import PASSWORD, Postgres

AS_THEY_ARE = {name: getattr(shipping, name) for name in ("EVERY_S", "_AGAIN_S", "_MOST_AGAIN_S")}
TABLES = (Path(pg.__file__).with_name("postgres.sql")).read_text()


@pytest.fixture
def database(database: Postgres) -> Postgres:
    """With a user who is no superuser and owns nothing yet."""
    if not database.ask("SELECT 1 FROM pg_roles WHERE rolname = 'books'"):
        database.ask(f"CREATE ROLE books LOGIN PASSWORD '{PASSWORD}'")
        database.ask("GRANT CREATE ON DATABASE pointsman TO books")
    return database


def mine(database: Postgres, **over: Any) -> PostgresSettings:
    return place(database, **{"user": "books", **over})


def disconnect(database: Postgres) -> None:
    """End all others' connections."""
    database.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'books'")


def shipper_of(ledger: Ledger) -> Shipping:
    assert ledger.shipping is not None
    return ledger.shipping


def told(caplog: pytest.LogCaptureFixture, reason: str = "") -> list[str]:
    lines = [one.getMessage() for one in caplog.records]
    return [one for one in lines if "cannot be shipped" in one and reason in one]


# --- an hour ---------------------------------------------------------------------------------------------------------


class Clock:
    """What the shipping thread waits by: it may go on to a moment, and no further."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
        self.now = self.until = 0.0
        self.waits: list[float] = []
        clock, as_it_is = self, Shipping._rest

        async def rest(shipper: Shipping, wait_s: float) -> None:
            if shipper._settings.directory != directory:  # one that another test left
                await as_it_is(shipper, wait_s)
                return
            while clock.now >= clock.until and not shipper._closing.is_set():  # noqa: ASYNC110 - of another thread
                await asyncio.sleep(0.001)
            clock.waits.append(wait_s)
            clock.now += wait_s

        monkeypatch.setattr(Shipping, "_rest", rest)

    def go_on(self, to: float) -> None:
        self.until = to
        wait(lambda: self.now >= to)


def test_an_hour_without_postgresql_waits_on_the_disk_and_is_sent_piece_by_piece_when_it_is_back(
    database: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The hour is the shipping's clock; 24,000 requests of it are real, and the outage is."""
    caplog.set_level(logging.INFO, "pointsman")
    for name, value in AS_THEY_ARE.items():
        monkeypatch.setattr(shipping, name, value)
    clock = Clock(monkeypatch, tmp_path)
    sent: list[int] = []
    ship = pg.ship

    async def counting(*given: Any) -> int:
        new = await ship(*given)
        sent.append(len(given[3]))
        return new

    monkeypatch.setattr(pg, "ship", counting)
    begins = NOW - 3_600_000
    ledger = started(settings(tmp_path, mine(database)))
    shipper = shipper_of(ledger)
    book(ledger, 0, 100, at_ms=begins - 1_000)
    clock.until = 1e9
    wait(arrived(ledger, 100))
    clock.until = clock.now
    sent.clear()
    database.kill()
    down_at = clock.now
    clock.waits.clear()
    for minute in range(60):
        book(ledger, 100 + 400 * minute, 400, at_ms=begins + 60_000 * minute, tokens=5 + minute)
        wait(lambda: not ledger.pending)
        clock.go_on(down_at + 60 * (minute + 1))
    tries, waits = sum(shipper.errors.values()), list(clock.waits)
    assert tries == shipper.errors["unreachable"]
    assert max(waits) <= 10
    assert sum(wait_s < 5 for wait_s in waits) <= 12, "soon every five to ten seconds"
    assert 360 <= tries <= 740, "an hour of that"
    assert len(told(caplog)) == 1
    assert not sent
    wait(lambda: shipper.unshipped == 24_000)
    state = ledger.state()["shipping"]
    assert (state["state"], state["unshipped"], state["reason"]) == ("degraded", 24_000, "unreachable")
    assert state["behind_s"] >= 3_600
    assert ledger.up
    assert ledger._database.retire(NOW, 0) == 100, "what was sent goes, what was not stays"

    database.start()
    back_at = clock.now
    clock.until = back_at + 10
    wait(arrived(ledger, 24_100))
    assert clock.now <= back_at + 20, "begun within ten seconds of the next try"
    assert max(sent) == shipping.BATCH
    assert sum(sent) == 24_000
    assert (shipper.failing, shipper.lag_s) == (None, 0)
    assert ledger._database.retire(NOW, 0) == 24_000
    with reading(tmp_path) as own, shared.reading(mine(database)) as all_of_them:
        here, there = report(own, Asked(("key",))), report(all_of_them, Asked(("key",)))
    assert here.rows == there.rows
    assert here.total["attempts"] == 24_100
    assert here.total["input"] == sum(400 * (4 + minute) for minute in range(60)) + 100 * 4
    clock.until = 1e9
    ledger.close()
    assert counted(database) == (24_100, 24_100 * 7)


def test_usage_says_which_replica_has_not_sent_all(
    database: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = started(settings(tmp_path, mine(database)))
    book(ledger, 0, 10)
    wait(arrived(ledger, 10))
    with reading(tmp_path) as own:
        assert report(own, Asked()).behind == ()
    ship, shipper = pg.ship, shipper_of(ledger)
    may = threading.Semaphore(0)

    async def permitted(*given: Any) -> int:
        if not may.acquire(blocking=False):
            raise ConnectionResetError
        return await ship(*given)

    monkeypatch.setattr(pg, "ship", permitted)
    book(ledger, 10, 1_000)
    wait(lambda: not ledger.pending and shipper.unshipped == 1_000)
    may.release()
    wait(lambda: shipper.unshipped < 1_000)
    ledger.close()
    with shared.reading(mine(database)) as books:
        found = report(books, Asked())
    ((name, left, at_ms),) = found.behind
    assert name == tmp_path.name
    assert 0 < left < 1_000
    assert abs(at_ms - time.time() * 1000) < 60_000
    assert f"{left} attempts of replica {name} are not in it" in table(found)[-1]
    assert found.to_dict()["behind"][0]["attempts"] == left
    where = {"host": "127.0.0.1", "port": database.port, "user": "books", "password": {"file": "password"}}
    (tmp_path / "password").write_text(PASSWORD)
    up = Upstream([])
    (tmp_path / "p.yaml").write_text(json.dumps(config({"a": up}, ledger={"dir": ".", "postgres": where})))
    up.close()
    for form in (["--csv"], ["--export", "csv"], ["--export", "jsonl"]):
        assert main(["usage", "--config", str(tmp_path / "p.yaml"), *form]) == 0
        assert f"{left} attempts of replica {name} are not in it" in capsys.readouterr().err, form


# --- what else may be wrong ------------------------------------------------------------------------------------------

Fault = Callable[[Postgres, Ledger], Any]


@contextmanager
def read_only(database: Postgres, ledger: Ledger) -> Iterator[None]:
    database.ask("ALTER SYSTEM SET default_transaction_read_only = on")
    database.ask("SELECT pg_reload_conf()")
    yield
    database.ask("ALTER SYSTEM RESET default_transaction_read_only")
    database.ask("SELECT pg_reload_conf()")


@contextmanager
def too_many_connections(database: Postgres, ledger: Ledger) -> Iterator[None]:
    database.ask("ALTER ROLE books CONNECTION LIMIT 0")
    disconnect(database)
    yield
    database.ask("ALTER ROLE books CONNECTION LIMIT -1")


@contextmanager
def password_changed(database: Postgres, ledger: Ledger) -> Iterator[None]:
    database.ask("ALTER ROLE books PASSWORD 'pw-canary-new'")
    disconnect(database)
    yield
    where = ledger.settings.postgres
    assert where is not None
    new = mine(database, password=Secret("pw-canary-new"))
    assert not ledger.login(settings(ledger.settings.directory, mine(database, port=1)))
    assert ledger.login(settings(ledger.settings.directory, new))


@contextmanager
def table_dropped(database: Postgres, ledger: Ledger) -> Iterator[None]:
    database.ask("DROP TABLE pointsman.totals")
    yield
    database.ask("TRUNCATE pointsman.entries", user="books")  # or its sums would never be made again
    connection_script(database)


def connection_script(database: Postgres) -> None:
    for statement in TABLES.split(";\n"):
        if statement.strip():
            database.ask(statement, user="books")


@contextmanager
def of_another_version(database: Postgres, ledger: Ledger) -> Iterator[None]:
    database.ask("UPDATE pointsman.form SET version = 7")
    disconnect(database)
    yield
    database.ask("UPDATE pointsman.form SET version = 1")


@contextmanager
def table_held(database: Postgres, ledger: Ledger) -> Iterator[None]:
    """By somebody who forgot to commit."""
    import asyncpg

    async def hold(until: threading.Event, held: threading.Event) -> None:
        db = await asyncpg.connect(
            host="127.0.0.1", port=database.port, user="pointsman", password=PASSWORD, database="pointsman"
        )
        await db.execute("BEGIN; LOCK TABLE pointsman.entries")
        held.set()
        await asyncio.to_thread(until.wait)
        await db.close()

    until, held = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(hold(until, held)))
    thread.start()
    held.wait()
    yield
    until.set()
    thread.join()


@contextmanager
def mounted(place: Path, megabytes: int) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=700,uid=65534,gid=65534", "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path) -> Path:
    """No room is left."""
    path = disk / "filler"
    with path.open("wb") as file:
        try:
            while True:
                file.write(bytes(1 << 14))
                file.flush()
        except OSError:
            pass
    return path


@contextmanager
def disk_full(database: Postgres, ledger: Ledger) -> Iterator[None]:
    """The one that entries lie on, while there is room for the log before it."""
    with mounted(database.directory / "disk", 8) as disk:
        database.ask(f"CREATE TABLESPACE small LOCATION '{disk}'")
        database.ask("ALTER TABLE pointsman.entries SET TABLESPACE small")
        filler = fill(disk)
        yield
        filler.unlink()
        ships = shipper_of(ledger)
        wait(lambda: not ships.unshipped)
        database.ask("ALTER TABLE pointsman.entries SET TABLESPACE pg_default")
        database.ask("DROP TABLESPACE small")


@pytest.mark.parametrize(
    ("fault", "reason", "said"),
    [
        (read_only, "read_only", "name the primary"),
        (too_many_connections, "connections", "max_connections"),
        (password_changed, "login", "pg_hba.conf"),
        (table_dropped, "schema", "postgres.sql"),
        (of_another_version, "schema", "form 7"),
        (table_held, "timeout", "holds its tables"),
        (disk_full, "disk_full", "needs room"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_fault_is_told_once_and_counted_and_what_waited_arrives_once_it_is_gone(
    database: Postgres,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fault: Fault,
    reason: str,
    said: str,
) -> None:
    if fault is table_held:
        monkeypatch.setattr(shipping, "SEND_S", 0.3)
    caplog.set_level(logging.INFO, "pointsman")
    ledger = started(settings(tmp_path, mine(database)))
    shipper = shipper_of(ledger)
    book(ledger, 0, 10)
    wait(arrived(ledger, 10))
    with fault(database, ledger):
        for first in range(10, 1_510, 250):
            book(ledger, first, 250)
        wait(lambda: not ledger.pending)
        before = shipper.errors[reason]
        wait(lambda: shipper.errors[reason] >= before + 4)
        assert shipper.failing == reason
        assert shipper.unshipped > 0
        assert (ledger.up, ledger.state()["shipping"]["state"]) == (True, "degraded")
        lines = told(caplog, f"({reason})")
        assert len(lines) == 1
        assert said in lines[0]
        there = 0 if fault is table_dropped else None
    wait(lambda: not shipper.unshipped)
    ledger.close()
    count, cost = counted(database)
    assert (count, cost) == ((1_500, 10_500) if there == 0 else (1_510, 10_570))
    assert "canary" not in caplog.text
    assert sum("are shipped again" in one.getMessage() for one in caplog.records) <= 2
    database.ask(f"ALTER ROLE books PASSWORD '{PASSWORD}'")


def test_a_password_that_is_put_right_in_its_file_needs_no_restart(database: Postgres, tmp_path: Path) -> None:
    """A gateway's own process; the file is replaced as Kubernetes does it, and nobody calls for a reload."""
    up = Upstream([plain()])
    (tmp_path / "password").write_text("pw-canary-old\n")
    where = {"host": "127.0.0.1", "port": database.port, "user": "books", "password": {"file": "password"}}
    made = config({"a": up}, ledger={"dir": "books", "replica": "one", "postgres": where})
    with running(tmp_path, made) as gateway:
        assert gateway.post(chat("a")).status_code == 200

        def shipping_of() -> dict[str, Any]:
            told: dict[str, Any] = httpx.get(f"{gateway.admin}/readyz").json()["ledger"]["shipping"]
            return told

        assert eventually(lambda: shipping_of().get("reason") == "login")
        (tmp_path / "new").write_text(f"{PASSWORD}\n")
        (tmp_path / "new").rename(tmp_path / "password")
        assert eventually(lambda: shipping_of() == {"state": "ok", "unshipped": 0, "behind_s": 0}, 30)
    up.close()
    assert counted(database)[0] == 1
    log = "\n".join(gateway.lines)
    assert log.count("cannot be shipped") == 1
    assert "takes effect at the next start" not in log
    assert "canary" not in log


def test_no_room_for_its_log_ends_postgresql_and_nothing_of_ours(
    database: Postgres, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It panics; somebody makes room and starts it again."""
    ledger = started(settings(tmp_path, mine(database)))
    shipper = shipper_of(ledger)
    book(ledger, 0, 10)
    wait(arrived(ledger, 10))
    database.stop()
    log = database.data / "pg_wal"
    with mounted(database.directory / "log-disk", 160) as disk:
        shutil.move(log, disk / "pg_wal")
        subprocess.run(["chown", "-R", "65534:65534", str(disk / "pg_wal")], check=True)
        log.symlink_to(disk / "pg_wal")
        database.start("-c", "wal_recycle=off")
        filler = fill(disk)
        assert database.process is not None
        number = 10
        while database.running:
            assert number < 500, "it found room"
            book(ledger, number, 10)
            number += 10
            try:
                database.ask("SELECT pg_switch_wal()")
            except Exception:
                time.sleep(0.05)
        book(ledger, number, 100)
        number += 100
        wait(lambda: shipper.failing == "unreachable" and not ledger.pending)
        assert "No space left on device" in (database.directory / "log").read_text()
        assert ledger.up
        filler.unlink()
        database.start()
        wait(lambda: not shipper.unshipped)
        ledger.close()
        assert counted(database) == (number, number * 7)
        database.stop()
        log.unlink()
        shutil.move(disk / "pg_wal", log)
        subprocess.run(["chown", "-R", "65534:65534", str(log)], check=True)
    database.start()
    assert len(told(caplog)) <= 2


SLOW = """CREATE FUNCTION pointsman.slow() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN PERFORM pg_sleep(0.002); RETURN new; END $$"""
SLOWLY = "CREATE TRIGGER slow BEFORE INSERT ON pointsman.entries FOR EACH ROW EXECUTE FUNCTION pointsman.slow()"


@pytest.mark.parametrize("who", ["the server cuts a statement", "the gateway gives up"])
def test_a_server_that_takes_too_long_for_a_batch_is_given_less_and_gets_on(
    database: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, who: str
) -> None:
    """Of 250 attempts, each 2 ms: a batch would take half a second and may take 0.1."""
    ledger = started(settings(tmp_path, mine(database)))
    shipper = shipper_of(ledger)
    book(ledger, 0, 10)
    wait(arrived(ledger, 10))
    database.ask(SLOW)
    database.ask(SLOWLY)
    if who == "the gateway gives up":
        monkeypatch.setattr(shipping, "SEND_S", 0.1)
    else:
        database.ask("ALTER ROLE books SET statement_timeout = '100ms'")
        disconnect(database)
    book(ledger, 10, 260)
    wait(lambda: shipper.shipped >= 50)
    assert shipper.errors["timeout"] >= 2
    database.ask("DROP TRIGGER slow ON pointsman.entries")
    database.ask("ALTER ROLE books RESET statement_timeout")
    wait(lambda: not shipper.unshipped)
    ledger.close()
    assert counted(database) == (270, 270 * 7)


def test_a_name_server_that_does_not_answer_is_asked_once_and_holds_up_no_end(
    database: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pg, "CONNECT_S", 0.1)
    monkeypatch.setattr(shipping, "_LAST_S", 0.3)
    answers = threading.Event()
    asked: list[str] = []
    real = socket.getaddrinfo

    def silent(host: str, *given: Any, **named: Any) -> Any:
        if host != "books.example.org":
            return real(host, *given, **named)
        asked.append(host)
        answers.wait(20)
        return real("127.0.0.1", *given, **named)

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    ledger = started(settings(tmp_path, mine(database, host="books.example.org")))
    shipper = shipper_of(ledger)
    book(ledger, 0, 10)
    wait(lambda: shipper.errors["timeout"] >= 4)
    assert len(asked) == 1
    began = time.monotonic()
    ledger.close()
    assert time.monotonic() - began < 3
    assert len(told(caplog)) == 1
    answers.set()
    ledger = started(settings(tmp_path, mine(database, host="books.example.org")))
    wait(arrived(ledger, 10))
    ledger.close()
    assert counted(database) == (10, 70)


class Relay:
    """Passes on between a gateway and PostgreSQL; so many answers of batches that are committed it keeps to itself."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.kept = 0
        self.keep = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self._sockets = [self.listener]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self._to))
                self._sockets += [client, server]
                for ends in ((client, server, lambda data: True), (server, client, self._tell)):
                    self._threads.append(threading.Thread(target=self._pass, args=ends))
                    self._threads[-1].start()

    def _tell(self, data: bytes) -> bool:
        # How many were new, a row of one bigint: it comes in one piece with what says that they are committed.
        if data[-6:-5] == b"Z" and b"D\0\0\0\x12\0\1\0\0\0\x08" in data and self.kept < self.keep:
            self.kept += 1
            return False
        return True

    def _pass(self, one: socket.socket, other: socket.socket, may: Callable[[bytes], bool]) -> None:
        with suppress(OSError):
            while (data := one.recv(1 << 16)) and may(data):
                other.sendall(data)
        for each in (one, other):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for one in self._sockets:
            one.close()


def test_connections_that_die_between_commit_and_answer_double_nothing(database: Postgres, tmp_path: Path) -> None:
    relay = Relay(database.port)
    ledger = started(settings(tmp_path, mine(database, port=relay.port)))
    shipper = shipper_of(ledger)
    book(ledger, 0, 10)
    wait(arrived(ledger, 10))
    relay.keep = 3
    book(ledger, 10, 1_000)
    wait(arrived(ledger, 1_010))
    ledger.close()
    relay.close()
    assert relay.kept == shipper.errors["unreachable"] == 3
    assert counted(database) == (1_010, 7_070)
