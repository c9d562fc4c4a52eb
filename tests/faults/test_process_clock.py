"""The wall clock jumps by an hour, forwards and back, under a gateway that serves; the monotonic clock does not."""

from __future__ import annotations

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

from gateway.core.money.limits import Allowance, Quota
from gateway.ledger.directory import DATABASE
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
    budget.spent = 5
    gates.turn(evening + HOUR_S)
    assert budget.spent == 0, "another day"
    budget.spent = 7
    for now in (evening, evening - HOUR_S, evening + HOUR_S):
        gates.turn(now)
        assert budget.spent == 7
