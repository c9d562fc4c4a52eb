"""What a real gateway books for what may become of a request."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from gateway.ledger.directory import DATABASE, LedgerSettings
from gateway.ledger.ledger import open_ledger
from tests.harness import (
    KEY,
    ROLE,
    SSE_HEAD,
    STOP,
    STREAM,
    Gateway,
    Received,
    Script,
    Upstream,
    chat,
    chunk,
    config,
    eventually,
    framed,
    hang,
    plain,
    running,
    slam,
    stream,
)

REPORTED = chunk(usage={"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13})
USED = b'{"prompt_tokens": 20, "completion_tokens": 4000, "total_tokens": 4020}'
BROKEN = b'data: {"error": {"message": "oh"}}\n\n'


def booked(directory: Path) -> list[tuple[Any, ...]]:
    """target, attempt, kind (0 settle, 1 void, 2 expire), input, output, estimated, cause, nano-USD: in order."""
    db = sqlite3.connect(directory / "books" / DATABASE)
    query = (
        "SELECT target, attempt, kind, input, output, estimated, cause, cost_nano "
        "FROM entries e JOIN accounts a ON a.id = e.account ORDER BY request_id, attempt"
    )
    rows = db.execute(query).fetchall()
    db.close()
    return rows


def ask(gateway: Gateway, **more: Any) -> socket.socket:
    """Send a request on a socket of one's own."""
    body = json.dumps(chat(**more)).encode()
    conn = gateway.connect()
    conn.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b"
        % (KEY.encode(), len(body), body)
    )
    return conn


@pytest.mark.parametrize("durability", ["normal", "full"])
@pytest.mark.parametrize(
    ("scripts", "streams", "expected"),
    [
        ([plain()], False, [("a", 1, 0, 10, 2, 0, "ok", 14_000)]),
        ([stream()], True, [("a", 1, 0, 10, 3, 0, "ok", 16_000)]),
        ([stream([ROLE, chunk("four"), STOP, framed(b"")[:0] or b"data: [DONE]\n\n"])], True, "estimated"),
        ([slam, plain()], False, [("a", 1, 1, 0, 0, 0, "reset", 0), ("b", 2, 0, 10, 2, 0, "ok", 14_000)]),
        ([plain(500), plain()], False, [("a", 1, 1, 0, 0, 0, "server_error", 0), ("b", 2, 0, 10, 2, 0, "ok", 14_000)]),
        ([plain(400)], False, [("a", 1, 1, 0, 0, 0, "client_error", 0)]),
        ([stream([ROLE, REPORTED, BROKEN]), stream()], True,
         [("a", 1, 0, 10, 3, 0, "in_band_error", 16_000), ("b", 2, 0, 10, 3, 0, "ok", 16_000)]),
        ([stream([ROLE, BROKEN]), stream()], True,
         [("a", 1, 1, 0, 0, 0, "in_band_error", 0), ("b", 2, 0, 10, 3, 0, "ok", 16_000)]),
        ([plain(200, b'{"choices": [], "usage": %b}' % USED), plain()], False,
         [("a", 1, 0, 20, 4_000, 0, "invalid", 8_020_000), ("b", 2, 0, 10, 2, 0, "ok", 14_000)]),
        ([plain(200, b'{"choices": [{"index": 0}], "usage": %b}' % USED), plain()], False,
         [("a", 1, 0, 20, 4_000, 0, "invalid", 8_020_000), ("b", 2, 0, 10, 2, 0, "ok", 14_000)]),
        ([plain(200, b'{"error": {"message": "oh"}, "usage": %b}' % USED), plain()], False,
         [("a", 1, 0, 20, 4_000, 0, "in_band_error", 8_020_000), ("b", 2, 0, 10, 2, 0, "ok", 14_000)]),
        ([plain(200, b'{"choices": []}'), plain(200, b'{"choices": [], "usage": %b}' % USED)], False,
         [("a", 1, 0, 22, 4, 1, "invalid", 30_000), ("b", 2, 0, 20, 4_000, 0, "invalid", 8_020_000)]),
        ([stream([ROLE, chunk("four"), chunk("five")], end="reset")], True, "interrupted"),
        ([stream([ROLE, chunk("four")], end="hang")], True, "idle_timeout"),
    ],
)  # fmt: skip
def test_every_attempt_is_booked_for_what_it_cost(
    tmp_path: Path, durability: str, scripts: list[Script], streams: bool, expected: Any
) -> None:
    ups = {"a": Upstream([scripts[0]]), "b": Upstream([scripts[-1]])}
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "default.yaml").write_text(
        "policy: default\nrank: listed\nrules:\n  - {id: all, use: [{target.name: a}, {target.name: b}]}\n"
    )
    more = {"policies": {"dir": "policies"}, "ledger": {"dir": "books", "durability": durability}}
    with running(tmp_path, config(ups, **more)) as gateway:
        gateway.post(chat(stream=streams))
        assert eventually(lambda: gateway.get("/readyz").json()["ledger"]["pending"] == 0)
    for one in ups.values():
        one.close()
    found = booked(tmp_path)
    if isinstance(expected, str):
        ((_, attempt, kind, entered, output, estimated, cause, _),) = found
        assert (attempt, kind, estimated) == (1, 0, 1)
        assert entered > 10, "the prompt"
        assert output in (1, 2), "as many as came"
        assert cause == (expected if expected != "estimated" else "ok")
    else:
        assert found == expected


@pytest.mark.parametrize(
    ("script", "output"), [(hang, 0), (stream([ROLE, chunk("four"), chunk("five"), chunk("six!")], end="hang"), 3)]
)
def test_a_client_that_leaves_pays_for_its_prompt_and_for_what_it_got(
    tmp_path: Path, script: Script, output: int
) -> None:
    upstream = Upstream([script])
    with running(tmp_path, config({"a": upstream}, ledger={"dir": "books"})) as gateway:
        conn = ask(gateway, model="a", stream=True)
        if output:
            seen = b""
            while b"six!" not in seen:
                seen += conn.recv(65536)
        else:
            assert eventually(lambda: bool(upstream.requests))
        conn.close()
        assert eventually(lambda: bool(booked(tmp_path)))
    upstream.close()
    ((_, _, kind, entered, got, estimated, cause, cost),) = booked(tmp_path)
    assert (kind, got, estimated, cause) == (0, output, 1, "client_gone")
    assert cost == entered * 1_000 + output * 2_000 > 10_000


def test_a_shadow_is_an_attempt_of_its_own(tmp_path: Path) -> None:
    ups = {"a": Upstream([plain()]), "b": Upstream([plain()])}
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "default.yaml").write_text(
        "policy: default\nrules:\n  - {id: all, use: [{target.name: a}]}\n"
        "shadow:\n  - {id: try, share: 100%, use: [{target.name: b}]}\n"
    )
    made = config(ups, policies={"dir": "policies"}, ledger={"dir": "books"})
    with running(tmp_path, made) as gateway:
        gateway.post(chat())
        assert eventually(lambda: len(booked(tmp_path)) == 2)
    for one in ups.values():
        one.close()
    assert booked(tmp_path) == [("b", 0, 0, 10, 2, 0, "ok", 14_000), ("a", 1, 0, 10, 2, 0, "ok", 14_000)]


def test_a_shadow_without_an_answer_is_booked_for_what_it_states(tmp_path: Path) -> None:
    ups = {"a": Upstream([plain()]), "b": Upstream([plain(200, b'{"choices": [], "usage": %b}' % USED)])}
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "default.yaml").write_text(
        "policy: default\nrules:\n  - {id: all, use: [{target.name: a}]}\n"
        "shadow:\n  - {id: try, share: 100%, use: [{target.name: b}]}\n"
    )
    with running(tmp_path, config(ups, policies={"dir": "policies"}, ledger={"dir": "books"})) as gateway:
        gateway.post(chat())
        assert eventually(lambda: len(booked(tmp_path)) == 2)
    for one in ups.values():
        one.close()
    assert booked(tmp_path)[0] == ("b", 0, 0, 20, 4_000, 0, "invalid", 8_020_000)


@pytest.mark.parametrize("mode", ["hard", "shadow"])
def test_what_is_set_aside_can_be_written_whatever_is_asked_for(tmp_path: Path, mode: str) -> None:
    up = Upstream([plain()])
    made = config({"a": up}, ledger={"dir": "books"})
    made["keys"][0]["budget"] = {"usd": 1_000_000, "per": "day", "mode": mode}
    made["targets"]["a"]["price"] = {"input": 1_000_000, "output": 1_000_000}
    made["targets"]["a"]["window"] = 100_000_000
    with running(tmp_path, made) as gateway:
        assert gateway.post(chat(n=128)).status_code == 200
        refused = gateway.post(chat(n=5_000_000_000))
        assert refused.json()["error"]["param"] == "n"
        assert eventually(lambda: len(booked(tmp_path)) == 1)
        assert gateway.get("/readyz").json()["ledger"]["state"] == "ok"
    up.close()


def test_a_price_that_changes_while_a_stream_runs_does_not_hold_for_it(tmp_path: Path) -> None:
    go = threading.Event()

    def slow(conn: socket.socket, _: Received) -> bool:
        conn.sendall(SSE_HEAD + framed(ROLE) + framed(chunk("four")))
        go.wait(20)
        conn.sendall(b"".join(map(framed, STREAM[1:])) + b"0\r\n\r\n")
        return True

    upstream = Upstream([slow, plain()])
    with running(tmp_path, config({"a": upstream}, ledger={"dir": "books"}, timeouts={"idle": "60s"})) as gateway:
        conn = ask(gateway, model="a", stream=True)
        assert conn.recv(10)
        path = tmp_path / "pointsman.yaml"
        settings = YAML(typ="safe").load(path.read_text())
        settings["targets"]["a"]["price"] = {"input": 100.0, "output": 200.0}
        with path.open("w") as file:
            YAML().dump(settings, file)
        os.kill(gateway.process.pid, signal.SIGHUP)
        assert eventually(lambda: gateway.metric('pointsman_config_reload_total{result="ok"}') >= 1, 20)
        go.set()
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            received += conn.recv(65536)
        conn.close()
        assert eventually(lambda: len(booked(tmp_path)) == 1)
        gateway.post(chat("a"))
        assert eventually(lambda: len(booked(tmp_path)) == 2)
    upstream.close()
    assert [row[-1] for row in booked(tmp_path)] == [16_000, 1_400_000]


def test_a_checkpoint_lets_a_kill_lose_nothing_that_came_before_it(tmp_path: Path) -> None:
    upstream = Upstream([stream([ROLE, *[chunk("four")] * 7], end="hang")])
    with running(tmp_path, config({"a": upstream}, ledger={"dir": "books"})) as gateway:
        conn = ask(gateway, model="a", stream=True)
        journal = tmp_path / "books" / "journal-00000001.log"
        assert eventually(lambda: b'["c",' in journal.read_bytes())
        os.kill(gateway.process.pid, signal.SIGKILL)
        gateway.process.wait()
        conn.close()
    upstream.close()
    open_ledger(LedgerSettings(tmp_path / "books")).close()
    ((_, _, kind, _, output, estimated, cause, _),) = booked(tmp_path)
    assert (kind, output, estimated, cause) == (2, 7, 1, "crash")


def test_without_a_ledger_nothing_is_kept(tmp_path: Path) -> None:
    upstream = Upstream([plain()])
    with running(tmp_path, config({"a": upstream}, ledger="none")) as gateway:
        assert gateway.post(chat("a")).status_code == 200
        assert "ledger" not in gateway.get("/readyz").json()
        assert gateway.get("/v1/usage", admin=True).status_code == 404
    upstream.close()
    assert not (tmp_path / "state").exists()


def test_a_second_gateway_on_the_same_books_is_refused(tmp_path: Path) -> None:
    upstream = Upstream([plain()])
    settings = config({"a": upstream}, ledger={"dir": "books"})
    with (
        running(tmp_path, settings),
        pytest.raises(AssertionError, match="is in use by another process"),
        running(tmp_path, settings),
    ):
        pass
    upstream.close()
