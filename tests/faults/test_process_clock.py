"""The wall clock jumps by an hour, forwards and back, under a gateway that serves; the monotonic clock does not."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shutil
import socket
import sqlite3
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from gateway.core.money.admission import Hold
from gateway.core.money.limits import Allowance, Quota
from gateway.ledger import report
from gateway.ledger.directory import DATABASE, LedgerSettings
from gateway.ledger.ledger import open_ledger
from gateway.proxy.gates import Gates
from gateway.quotas import Quotas
from tests.faults.test_process_drain import message
from tests.faults.test_process_limits import whole
from tests.harness import ROLE, STOP, Gateway, Upstream, chat, chunk, config, eventually, plain, running, stream

DAY_S, HOUR_S = 86_400, 3_600
RATED = "sk-rated-0123456789"


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_an_hour_forwards_and_back_expires_nothing_and_books_everything_once(tmp_path: Path) -> None:
    long = stream([ROLE, *[chunk("x")] * 80, STOP, b"data: [DONE]\n\n"], pause_s=0.05)
    busy = plain(429, b'{"error": {"message": "later"}}', "retry-after: 100\r\n")
    ups = {"a": Upstream([plain()]), "long": Upstream([long]), "busy": Upstream([busy])}
    settings = config(ups, ledger={"dir": "books"})
    settings["keys"][0]["budget"] = {"usd": 50, "per": "day", "mode": "hard"}
    digest = hashlib.sha256(RATED.encode()).hexdigest()
    settings["keys"].append({"name": "rated", "sha256": digest, "allow": ["*"], "rpm": 2})
    clock = tmp_path / "clock"
    noon = DAY_S // 2 - int(time.time()) % DAY_S  # away from the ends of a day, whenever this runs

    def turn(hours: int) -> None:
        clock.with_suffix(".new").write_text(f"{noon + hours * HOUR_S:+d}\n")
        clock.with_suffix(".new").rename(clock)

    turn(0)
    library = tmp_path / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    environ = {"LD_PRELOAD": str(library), "CLOCK_FILE": str(clock)}
    with running(tmp_path, settings, **environ) as gateway, gateway.connect() as streaming, gateway.connect() as kept:
        streaming.sendall(message(model="long", stream=True))
        assert streaming.recv(1, socket.MSG_PEEK)
        assert gateway.post(chat("busy")).status_code == 429
        while gateway.post(chat("a"), key=RATED).status_code == 200:
            pass
        sent = [len(ups["a"].requests)]

        def holds() -> None:
            """All that is bound to a time, and to no date."""
            kept.sendall(message(model="a"))
            assert kept.recv(65_536).startswith(b"HTTP/1.1 200"), "a kept connection, and a budget that is not spent"
            sent[0] += 1
            states = {one["target"]: one["state"] for one in gateway.get("/v1/targets", admin=True).json()["data"]}
            assert states == {"a": "healthy", "long": "healthy", "busy": "rate_limited"}
            assert gateway.post(chat("a"), key=RATED).status_code == 429
            left = 50 - gateway.metric("pointsman_budget_left_usd")
            assert left == pytest.approx((sent[0] - 2) * 14e-6), "each request once, whatever the time"
            assert gateway.get("/readyz").status_code == 200
            assert now(gateway) - hours == pytest.approx(time.time() + noon, abs=60)

        hours = 0
        holds()
        for number in (1, -1, 0):
            turn(number)
            hours = number * HOUR_S
            holds()
        turn(1)
        assert httpx.post(gateway.admin + "/v1/reload", timeout=60).status_code == 200
        turn(-1)
        assert b"[DONE]" in whole(streaming)
        assert gateway.metric("pointsman_loop_blocked_seconds_total") < 60
        assert eventually(lambda: gateway.get("/readyz").json()["ledger"]["pending"] == 0)
        assert not any("Traceback" in line for line in gateway.lines)
    for up in ups.values():
        up.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "books" / DATABASE)) as db:
        ok = db.execute("SELECT count(*), count(DISTINCT request_id) FROM entries WHERE cause = 'ok'").fetchone()
        assert ok == (sent[0] + 1, sent[0] + 1)
        assert db.execute("SELECT count(*) FROM open").fetchone() == (0,)
        assert db.execute("SELECT sum(attempts) FROM totals").fetchone() == (sent[0] + 2,)


def now(gateway: Gateway) -> float:
    """What the process takes the time to be: its request ids begin with it."""
    return int(gateway.get("/v1/models/none").headers["x-request-id"][:12], 16) / 1_000


def test_a_clock_that_jumps_back_does_not_fill_a_budget_again() -> None:
    gates, evening = Gates(), 20 * DAY_S + 23 * HOUR_S + 1_800
    gates.adopt(Quotas({"key": Quota(budgets=(Allowance(10**9, "day"),))}, {}, {}, {}), {}, evening)
    (budget,) = gates._budgets()
    budget.spend(5, evening * 1000)
    gates.turn(evening + HOUR_S)
    assert budget.spent == 0, "another day"
    budget.spend(7, (evening + HOUR_S) * 1000)
    for now, spent in ((evening, 5), (evening - HOUR_S, 5), (evening + HOUR_S, 7), (evening, 5)):
        gates.look(now)
        assert (budget.spent, budget.left) == (spent, 10**9 - spent)


def test_after_a_step_of_a_day_forward_and_back_a_hard_budget_goes_on_counting() -> None:
    gates, now = Gates(), 20 * DAY_S + 5.0
    quotas = Quotas({"key": Quota(budgets=(Allowance(10**9, "day"),))}, {}, {}, {})
    gate = gates.adopt(quotas, {}, now)[0]["key"]
    gates.look(now + DAY_S)
    gates.look(now)
    passed = 0
    for _ in range(40):
        got = gate.admit(0, 5 * 10**8, 0, now * 1e3)
        if isinstance(got, Hold):
            got.end(0, 0, 5 * 10**8, int(now * 1e3))
            passed += 1
    assert passed == 2


def test_a_period_that_is_not_known_when_the_clock_goes_back_is_asked_of_the_books(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a start with a clock that was ahead. Until the books are read, what is spent counts on."""
    now = 20 * DAY_S + 5.0
    open_ledger(LedgerSettings(tmp_path)).close()
    monkeypatch.setattr(
        report, "spent", lambda _, since, until: {("key", ""): 300 if since <= now * 1000 < until else 0}
    )
    gates = Gates()
    quotas = Quotas({"key": Quota(budgets=(Allowance(1_000, "day"),))}, {}, {}, {})
    gates.adopt(quotas, {}, now + DAY_S)
    (budget,) = gates._budgets()
    budget.spend(40, int((now + DAY_S) * 1000))
    gates.look(now)
    assert (budget.spent, gates.stepped) == (40, True)
    asyncio.run(gates.take_up(LedgerSettings(tmp_path), now))
    assert (budget.spent, budget.left, budget.reserved, gates.stepped) == (300, 700, 0, False)
