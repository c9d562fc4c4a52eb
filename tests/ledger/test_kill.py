"""kill -9 of a real gateway at random instants: the books agree with what the upstream generated."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from gateway.ledger.directory import DATABASE
from tests.harness import KEY, ROLE, ROOT, SSE_HEAD, Received, Upstream, chat, chunk, config, framed, plain
from tests.ports import free_port

#: Kills of one gateway that serves one client, and of one that serves several at once: 200 together.
KILLS = {1: 80, 6: 120}
PROMPT = "Say hello, and then say it again."


@dataclass
class Generated:
    """What an upstream did, by request id: the truth that the books are compared with."""

    usage: dict[str, tuple[int, int]] = field(default_factory=dict)  # stated, of attempts that were answered to the end
    chunks: Counter[str] = field(default_factory=Counter)  # of streams, as far as they were written
    seen: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)
    steps: int = 0  # everything that it did
    slow: bool = False  # to begin every fifth stream, so that a hedge comes

    def wait(self, steps: int, within_s: float = 10.0) -> None:
        """Until it has done so many more things."""
        until, ends_at = self.steps + steps, time.monotonic() + within_s
        while self.steps < until and time.monotonic() < ends_at:
            time.sleep(0.0005)

    def fail(self, conn: socket.socket, request: Received) -> bool:
        """Fail before a word is out: for nothing, or with a usage that is billed."""
        request_id = request.header("x-request-id") or ""
        with self.lock:
            self.seen[request_id] += 1
            self.steps += 1
            count = len(self.seen)
        if count % 2 or not request.json.get("stream"):
            return plain(500)(conn, request)
        self.usage[request_id] = 10 + count, 1_000 + count
        usage = {"prompt_tokens": 10 + count, "completion_tokens": 1_000 + count, "total_tokens": 1_010 + 2 * count}
        conn.sendall(SSE_HEAD + framed(ROLE) + framed(chunk(usage=usage)))
        conn.sendall(framed(b'data: {"error": {"message": "Oh."}}\n\n') + b"0\r\n\r\n")
        return True

    def answer(self, conn: socket.socket, request: Received) -> bool:
        """Answer with a usage that no other answer has, in one piece or as a stream, with its end or without usage."""
        request_id = request.header("x-request-id") or ""
        with self.lock:
            self.seen[request_id] += 1
            self.steps += 1
            count = len(self.seen)
        stated = (10 + count, 1_000 + count)
        usage = {"prompt_tokens": stated[0], "completion_tokens": stated[1], "total_tokens": sum(stated)}
        if not request.json.get("stream"):
            message = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
            body = json.dumps(
                {"object": "chat.completion", "model": "m", "choices": [message], "usage": usage}
            ).encode()
            self.usage[request_id] = stated
            conn.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body))
            conn.sendall(body)
            return True
        conn.sendall(SSE_HEAD)
        if self.slow and not count % 5:
            time.sleep(0.3)
        for _ in range(3 + count % 5):
            self.chunks[request_id] += 1
            self.steps += 1
            conn.sendall(framed(chunk("four")))
            time.sleep(0.004 * (count % 3))
        self.steps += 1
        self.usage[request_id] = stated
        conn.sendall(
            framed(chunk(finish="stop")) + framed(chunk(usage=usage)) + framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"
        )
        return True


class Client(threading.Thread):
    """Asks until nobody answers; keeps the ids of requests whose answer it has seen to the end."""

    models: tuple[str, ...] = ("good", "auto")

    def __init__(self, port: int, whole: list[str], dice: random.Random) -> None:
        super().__init__(daemon=True)
        self.port, self.whole, self.dice = port, whole, dice

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            while True:
                body = chat(self.dice.choice(self.models), text=PROMPT, stream=self.dice.random() < 0.6)
                connection.request("POST", "/v1/chat/completions", json.dumps(body), {"authorization": f"Bearer {KEY}"})
                with connection.getresponse() as answer:
                    content = answer.read()
                    assert answer.status in (200, 502), content  # 502: the budget of retries is used up
                    if answer.status != 200:
                        continue
                    if not body["stream"] or content.endswith(b"[DONE]\n\n"):
                        self.whole.append(answer.headers["x-request-id"])


def listening(port: int, within_s: float = 30.0) -> bool:
    ends_at = time.monotonic() + within_s
    while time.monotonic() < ends_at:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return True
        time.sleep(0.005)
    return False


class Zygote:
    def __init__(self, path: Path) -> None:
        self.path = path
        env = {**os.environ, "UPSTREAM_KEY": "sk", "XDG_CACHE_HOME": str(path.parent / "cache")}
        script = [sys.executable, "-m", "tests.ledger.zygote"]
        self.process = subprocess.Popen(
            script, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self) -> int:
        return int(self._say(str(self.path)))

    def wait(self) -> None:
        assert self._say("") == "gone"

    def _say(self, line: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(20)


def booked(directory: Path) -> list[dict[str, Any]]:
    db = sqlite3.connect(directory / DATABASE)
    db.row_factory = sqlite3.Row
    rows = db.execute("SELECT * FROM entries JOIN accounts ON accounts.id = entries.account").fetchall()
    sums = db.execute("SELECT sum(attempts), sum(input), sum(output), sum(cost_nano) FROM totals").fetchone()
    db.close()
    found = [dict(row) for row in rows]
    assert tuple(sums) == (len(found), *(sum(one[name] for one in found) for name in ("input", "output", "cost_nano")))
    return found


#: What is sent first to one that fails; what has a second target beside it where it is slow, and a copy of it a third.
POLICIES = {
    "default": "policy: default\nrank: listed\nrules: [{id: all, use: [{target.name: bad}, {target.name: good}]}]\n",
    "both": "policy: both\nrank: listed\nrules: [{id: all, use: [{target.name: good}, {target.name: spare}]}]\n"
    "shadow: [{id: copy, use: [{target.name: copied}], share: 100%}]\n",
}


@pytest.mark.parametrize("clients", KILLS)
def test_nothing_that_the_upstream_generated_is_missing_or_doubled_after_kills_at_random_instants(
    tmp_path: Path, clients: int
) -> None:
    truths = {"good": Generated(slow=True), "spare": Generated(), "copied": Generated(), "bad": Generated()}
    good = truths["good"]
    upstreams = {name: Upstream([one.fail if name == "bad" else one.answer]) for name, one in truths.items()}
    ports = [free_port(), free_port()]
    (tmp_path / "policies").mkdir()
    for name, text in POLICIES.items():
        (tmp_path / "policies" / f"{name}.yaml").write_text(text)
    settings = config(
        upstreams,
        listen={"public": f"127.0.0.1:{ports[0]}", "admin": f"127.0.0.1:{ports[1]}"},
        policies={"dir": "policies"},
        log={"requests": "none"},
        ledger={"dir": "ledger"},
    )
    settings["backends"]["good"]["hedge"] = "100ms"
    with (tmp_path / "pointsman.yaml").open("w") as file:
        YAML().dump(settings, file)
    zygote = Zygote(tmp_path / "pointsman.yaml")
    dice = random.Random(20261122 + clients)
    whole: list[str] = []
    for _ in range(KILLS[clients]):
        pid = zygote.start()
        if dice.random() < 0.9:
            assert listening(ports[0])
            asking = [Client(ports[0], whole, random.Random(dice.random())) for _ in range(clients)]
            for one in asking:
                one.models = ("good", "auto", "auto/both", "auto/both")
                one.start()
            good.wait(dice.randint(1, 24))
            time.sleep(dice.random() * (0.003 if dice.random() < 0.8 else 0.4))
            os.kill(pid, signal.SIGKILL)
            for one in asking:
                one.join(30)
        else:  # while it starts, and perhaps settles what the one before left open
            time.sleep(dice.random() * 0.1)
            os.kill(pid, signal.SIGKILL)
        zygote.wait()
    pid = zygote.start()
    assert listening(ports[0])
    os.kill(pid, signal.SIGTERM)
    zygote.wait()
    zygote.close()
    for upstream in upstreams.values():
        upstream.close()

    found = booked(tmp_path / "ledger")
    at = {name: {one["request_id"]: one for one in found if one["target"] == name} for name in truths}
    assert sum(map(len, at.values())) == len(found), "nobody was asked twice for one request, and nothing doubled"
    for name, truth in truths.items():
        assert set(truth.seen.values()) == {1}
        assert truth.seen.keys() <= at[name].keys(), "an upstream was asked for something that is not in the books"
        for request_id, one in at[name].items():
            _agrees(truth, request_id, one)
    causes = {name: Counter(one["cause"] for one in rows.values()) for name, rows in at.items()}
    answered = {
        request_id for name in ("good", "spare") for request_id, one in at[name].items() if one["cause"] == "ok"
    }
    assert answered.issuperset(whole), "a client saw the end of an answer that was not settled"
    assert {one["attempt"] for one in at["copied"].values()} == {0}
    assert causes["good"]["crash"] >= KILLS[clients] // 4, "the kills hit nothing: the test proves little"
    assert len(whole) >= KILLS[clients] // 2
    assert min(causes["good"]["outrun"], causes["bad"]["in_band_error"], causes["copied"]["crash"]) > 0


def _agrees(truth: Generated, request_id: str, one: dict[str, Any]) -> None:
    """What is booked of an attempt is what its upstream did, and where that cannot be known an estimate of it."""
    stated, cause = truth.usage.get(request_id), one["cause"]
    if request_id not in truth.seen:
        assert cause in ("crash", "outrun"), "nobody was asked, and the gateway did not die before it could be"
    if cause in ("ok", "in_band_error"):
        assert (one["input"], one["output"], one["estimated"]) == (*(stated or (0, 0)), 0)
    elif cause == "server_error":
        assert (one["input"], one["output"], stated) == (0, 0, None)
    elif cause == "outrun" and one["kind"] == 1:  # void
        assert request_id not in truth.seen
    else:
        assert cause in ("crash", "outrun")
        assert one["estimated"] == 1
        assert one["input"] > 20, "never nothing"
        assert one["output"] <= max(truth.chunks[request_id], (stated or (0, 0))[1])
    assert one["cost_nano"] == one["input"] * 1_000 + one["output"] * 2_000
