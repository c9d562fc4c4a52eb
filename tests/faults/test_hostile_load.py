"""Much at once: no answer reaches the wrong client, nothing is left behind, and the process stays its own master."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from ruamel.yaml import YAML

from tests.faults.test_hostile_client import Flood, no_traceback, request, slow_reader
from tests.harness import (
    COMPLETION,
    DONE,
    KEY,
    ROLE,
    ROOT,
    SERVE,
    SSE_HEAD,
    STOP,
    USAGE,
    Gateway,
    Received,
    Upstream,
    chat,
    chunk,
    config,
    eventually,
    framed,
    hang,
    plain,
    reset,
    stream,
)
from tests.ports import free_port
from tests.proxy.conftest import Start
from tests.proxy.test_requests import read_answer

TOKEN = re.compile(rb"T\d{5}_\dT")


def echo(conn: socket.socket, received: Received) -> bool:
    """Answers with what was asked, in odd pieces, and sometimes breaks off."""
    token = received.json["messages"][0]["content"]
    luck = random.Random(token).random()
    if luck < 0.05:
        reset(conn)
        return False
    if luck < 0.1:
        time.sleep(luck)
    if received.json.get("stream"):
        conn.sendall(SSE_HEAD)
        for number, event in enumerate([ROLE, *[chunk(token + "|")] * 10, STOP, USAGE, DONE]):
            conn.sendall(framed(event))
            if number == 5 and luck > 0.97:
                reset(conn)
                return False
        conn.sendall(b"0\r\n\r\n")
        return True
    choice = {"index": 0, "message": {"role": "assistant", "content": token}, "finish_reason": "stop"}
    body = json.dumps({**COMPLETION, "choices": [choice]}).encode()
    head = b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    conn.sendall(head + body[:20])
    conn.sendall(body[20:])
    return True


async def answer_of(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    if b"chunked" not in head:
        match = re.search(rb"content-length: (\d+)", head)
        assert match
        return head, await reader.readexactly(int(match[1]))
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return head, body


async def client(number: int, port: int, wrong: list[object], served: list[int]) -> None:
    """A few requests on one connection, some cut into pieces, some given up half sent or half answered."""
    luck = random.Random(number)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for step in range(luck.randint(1, 4)):
            token = f"T{number:05d}_{step}T"
            data = request(luck.choice(["a", "b", "auto"]), text=token, stream=luck.random() < 0.5)
            if luck.random() < 0.1:
                writer.write(data[: luck.randrange(len(data))])
                await asyncio.sleep(luck.random() * 0.01)
                writer.transport.abort()
                return
            cut = luck.randrange(len(data))
            writer.write(data[:cut])
            await asyncio.sleep(0.002 if luck.random() < 0.3 else 0)
            writer.write(data[cut:])
            try:
                head, body = await asyncio.wait_for(answer_of(reader), luck.choice([0.03 * luck.random(), 15, 15]))
            except TimeoutError:
                writer.transport.abort()
                return
            served[0] += 1
            found = set(TOKEN.findall(body))
            if found - {token.encode()} or (b" 200 " in head[:20] and not found):
                wrong.append((token, head, body))
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        wrong.append((number, repr(error)))
    finally:
        writer.close()


def test_in_a_storm_everyone_gets_their_own_answer_and_nothing_is_left_behind(start: Start) -> None:
    gateway, _ = start({"a": [echo], "b": [echo]}, max_attempts=3)
    wrong: list[object] = []
    served = [0]

    async def storm() -> None:
        room = asyncio.Semaphore(40)

        async def one(number: int) -> None:
            async with room:
                await client(number, gateway.port, wrong, served)

        await asyncio.gather(*map(one, range(400)))

    asyncio.run(storm())
    assert not wrong, wrong[:3]
    assert served[0] > 300

    def idle() -> bool:
        rows = gateway.get("/v1/targets", admin=True).json()["data"]
        return all(row["inflight"] == 0 for row in rows) and gateway.metric("pointsman_inflight") == 0

    assert eventually(idle)
    assert no_traceback(gateway)
    told = gateway.get("/metrics", admin=True).text + "\n".join(gateway.lines)
    assert "sk-upstream-canary" not in told
    assert KEY not in told


def test_what_clients_make_up_makes_no_series_and_no_line_of_the_log(start: Start) -> None:
    gateway, _ = start({"a": [plain()]})

    def series(numbers: range) -> int:
        for number in numbers:
            gateway.post(chat(f"evil\r\nx-injected: {number}\x1b[31m\u2028"), x_pointsman_workload=f"w{number}")
            gateway.post(chat("a"), x_pointsman_policy=f"p{number}")
            gateway.post(chat("a"), key=f"sk-wrong-{number:08d}")
            gateway.get(f"/v1/x{number}")
        return len(gateway.get("/metrics", admin=True).text.splitlines())

    before = series(range(5))
    assert series(range(5, 15)) <= before + 2
    assert not any("\x1b" in line or "\u2028" in line or line.startswith("x-injected") for line in gateway.lines)
    assert no_traceback(gateway)


def test_a_reload_under_load_costs_no_request(start: Start) -> None:
    gateway, _ = start({"a": [stream(pause_s=0.02)], "b": [plain()]})
    bad: list[str] = []

    def work(streamed: bool) -> None:
        for _ in range(8):
            answer = gateway.post(chat("a" if streamed else "b", stream=streamed))
            if answer.status_code != 200 or (streamed and not answer.content.endswith(DONE)):
                bad.append(answer.text)

    threads = [threading.Thread(target=work, args=(number % 2 == 1,)) for number in range(6)]
    for thread in threads:
        thread.start()
    path = gateway.directory / "pointsman.yaml"
    for number in range(2):
        path.write_text(path.read_text() + f"\n# {number}\n")
        assert httpx.post(gateway.admin + "/v1/reload", timeout=30).status_code == 200
    for thread in threads:
        thread.join()
    assert not bad, bad[:3]
    assert no_traceback(gateway)


def ended_in(gateway: Gateway, within_s: float) -> int:
    begun = time.monotonic()
    gateway.process.send_signal(signal.SIGTERM)
    code = gateway.process.wait(15)
    assert time.monotonic() - begun < within_s
    return code


def test_sigterm_waits_for_no_stalled_client(start: Start) -> None:
    patient = {"connect": "1s", "headers": "20s", "first_event": "20s", "idle": "20s", "total": "60s"}
    flood = Flood()
    gateway, _ = start({"a": [flood]}, drain="500ms", timeouts=patient)
    with slow_reader(gateway) as stalled, gateway.connect() as half, gateway.connect() as begun:
        stalled.sendall(request(stream=True))
        half.sendall(request()[:-5])
        begun.sendall(b"POST /v1")
        assert eventually(lambda: flood.sent > 0)
        assert ended_in(gateway, 4) == 0
    assert no_traceback(gateway)


def test_sigterm_ends_every_stream_cleanly(start: Start) -> None:
    long = stream([ROLE, *[chunk("x")] * 200, STOP, DONE], pause_s=0.02)
    gateway, ups = start({"a": [long], "b": [hang], "c": [plain()]}, drain="500ms")
    conns = []
    for number in range(30):
        conn = gateway.connect()
        conn.sendall(request("abc"[number % 3], stream=number % 3 == 0)[: None if number % 4 else -3])
        conns.append(conn)
    whole = [conn for number, conn in enumerate(conns) if number % 3 == 0 and number % 4]
    assert eventually(lambda: len(ups["a"].requests) == len(whole))
    assert ended_in(gateway, 5) == 0
    for conn in whole:
        data = b""
        while more := conn.recv(1 << 20):
            data += more
        assert b'"code":"draining"' in data
        assert data.endswith(b"0\r\n\r\n")
    for conn in conns:
        conn.close()
    assert no_traceback(gateway)


@pytest.mark.parametrize("streams", ["stdout", "both"])
def test_a_log_that_nobody_reads_does_not_stop_the_gateway(tmp_path: Path, streams: str) -> None:
    up = Upstream([plain()])
    port = free_port()
    path = tmp_path / "pointsman.yaml"
    with path.open("w") as file:
        YAML().dump(config({"a": up}, listen={"public": f"127.0.0.1:{port}", "admin": "127.0.0.1:0"}), file)
    process = subprocess.Popen(
        [sys.executable, *SERVE, str(path)],
        cwd=ROOT,
        env={**os.environ, "UPSTREAM_KEY": "x"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if streams == "both" else subprocess.DEVNULL,
    )
    conns: list[socket.socket] = []

    def connected() -> bool:
        try:
            conns.append(socket.create_connection(("127.0.0.1", port), timeout=5))
        except OSError:
            return False
        return True

    try:
        assert eventually(connected, 20)
        for _ in range(500):  # their lines are more than a pipe holds
            conns[0].sendall(request())
            assert read_answer(conns[0])[0].startswith(b"HTTP/1.1 200")
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        for conn in conns:
            conn.close()
        up.close()
