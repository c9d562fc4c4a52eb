"""What the process may have of the machine runs out: files and memory. It refuses, and what is under way lives."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import httpx
import pytest
import uvloop

from gateway.core.resilience import health
from gateway.core.types import Backend, Endpoint, Outcome
from gateway.proxy import descriptors
from gateway.proxy.clocks import Wheel
from gateway.proxy.outbox import Outbox
from gateway.proxy.pool import Pool
from tests.faults.test_process_drain import message
from tests.harness import ROLE, STOP, Gateway, Received, Upstream, chat, chunk, config, eventually, running, stream

if TYPE_CHECKING:
    from gateway.proxy.upstream import User

DONE = b"data: [DONE]\n\n"
LIMITED = ("-m", "tests.faults.limited")


def cpu_s(gateway: Gateway) -> float:
    fields = Path(f"/proc/{gateway.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def open_files(gateway: Gateway) -> int:
    return len(os.listdir(f"/proc/{gateway.process.pid}/fd"))


def whole(conn: socket.socket) -> bytes:
    """A chunked answer to its last chunk."""
    data = b""
    while not data.endswith(b"\r\n0\r\n\r\n"):
        more = conn.recv(1 << 20)
        assert more, "it was cut"
        data += more
    return data


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_with_256_files_400_connections_are_served_or_refused_and_nothing_spins(tmp_path: Path) -> None:
    up = Upstream([stream([ROLE, *[chunk("x")] * 60, STOP, DONE], pause_s=0.05)])
    settings = config({"a": up}, ledger={"dir": "books"})
    with running(tmp_path, settings, command=LIMITED, NOFILE="256") as gateway, contextlib.ExitStack() as stack:
        with gateway.connect() as streaming:
            streaming.sendall(message(model="a", stream=True))
            assert streaming.recv(1, socket.MSG_PEEK)
            conns = []
            for _ in range(400):
                conns.append(stack.enter_context(socket.socket()))
                conns[-1].settimeout(30)
                conns[-1].connect(("127.0.0.1", gateway.port))
            assert eventually(lambda: open_files(gateway) <= 256 - descriptors.RESERVED, 20)
            before = cpu_s(gateway)
            time.sleep(1)
            assert cpu_s(gateway) - before < 0.5, "it spins"
            got: Counter[str] = Counter()
            for conn in conns:
                conn.setblocking(False)
                try:
                    data = conn.recv(4096)
                    got["refused" if b'"code":"overloaded"' in data else "closed"] += 1
                    assert not data or data.startswith(b"HTTP/1.1 503")
                except BlockingIOError:
                    got["kept"] += 1
                except ConnectionResetError:
                    got["closed"] += 1
            assert got["kept"] >= 64
            assert got["refused"] + got["closed"] == 400 - got["kept"] >= 200
            # What must never lack a file has one: a reload with its child process, the ledger, a scrape.
            assert httpx.post(gateway.admin + "/v1/reload", timeout=60).status_code == 200
            assert gateway.metric("pointsman_ledger_up") == 1
            for conn in conns:
                conn.close()
            assert DONE in whole(streaming), "a stream under way lives"
        assert eventually(lambda: gateway.post(chat("a", stream=True)).status_code == 200, 10)
        assert not any("Traceback" in line for line in gateway.lines)
    up.close()


def test_clients_get_as_many_connections_as_there_are_files_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits: dict[int, tuple[int, int]] = {resource.RLIMIT_NOFILE: (1_024, 1_024)}
    monkeypatch.setattr(resource, "getrlimit", limits.__getitem__)
    assert descriptors.clients() == 640
    limits[resource.RLIMIT_NOFILE] = (20_000, 20_000)
    assert descriptors.clients() > 10_000
    limits[resource.RLIMIT_NOFILE] = (10, 10)
    assert descriptors.clients() == 1
    limits[resource.RLIMIT_NOFILE] = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    assert descriptors.clients() > 1_000_000


def test_a_lack_of_files_of_our_own_blames_no_upstream() -> None:
    async def connect(where: Endpoint) -> Outcome:
        loop = asyncio.get_running_loop()
        told: asyncio.Future[Outcome] = loop.create_future()
        user = cast("User", SimpleNamespace(on_failed=told.set_result))
        outbox = Outbox(loop, lambda records: None)
        pool = Pool(loop, Wheel(loop), outbox, Backend("b", "openai", (where,)), where, None)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            pool.send(user, b"", connect_s=5)
            return await told
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            outcome = runner.run(connect(Endpoint(f"http://127.0.0.1:{port}", "http", "127.0.0.1", port, "")))
    assert outcome is Outcome.SATURATED
    assert health.BLAME[outcome] is health.Blame.NONE


class Hoard:
    """An upstream that reads bodies and answers none until it is told to."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def __call__(self, conn: socket.socket, request: Received) -> bool:
        self.go.wait(60)
        return stream()(conn, request)


@pytest.mark.parametrize(
    ("limits", "environ"),
    [({"max_memory": "220MB"}, {}), ({}, {"ADDRESS_SPACE": "480"})],
    ids=["configured", "address space"],
)  # fmt: skip
def test_large_requests_are_refused_before_memory_is_gone_and_streams_live(
    tmp_path: Path, limits: dict[str, str], environ: dict[str, str]
) -> None:
    hoard = Hoard()
    ups = {"a": Upstream([stream([ROLE, *[chunk("x")] * 250, STOP, DONE], pause_s=0.01)]), "b": Upstream([hoard])}
    patient = {"connect": "5s", "headers": "60s", "first_event": "60s", "idle": "60s", "total": "90s"}
    settings = config(ups, limits=limits, timeouts=patient, ledger="none")
    settings["targets"]["b"]["window"] = "10M"
    codes: list[int | str] = []
    text = "x" * 8_000_000

    def send(gateway: Gateway) -> None:
        try:
            codes.append(gateway.post(chat("b", text=text, stream=True)).status_code)
        except httpx.HTTPError as error:
            codes.append(type(error).__name__)

    with running(tmp_path, settings, command=LIMITED, **environ) as gateway, gateway.connect() as streaming:
        streaming.sendall(message(model="a", stream=True))
        assert streaming.recv(1, socket.MSG_PEEK)
        threads = []
        for _ in range(40):
            threads.append(threading.Thread(target=send, args=(gateway,)))
            threads[-1].start()
            time.sleep(0.02)
        share = gateway.metric("pointsman_memory_used_bytes") / gateway.metric("pointsman_memory_limit_bytes")
        assert share < 1
        assert eventually(lambda: codes.count(503) >= 3, 20)
        assert gateway.process.poll() is None
        hoard.go.set()
        for thread in threads:
            thread.join()
        assert DONE in whole(streaming), "a stream under way lives"
        assert set(codes) <= {200, 503}, Counter(codes)
        assert codes.count(200) >= 3
        assert eventually(lambda: gateway.post(chat("b", stream=True)).status_code == 200, 20), "it recovers"
        assert not any("Traceback" in line for line in gateway.lines)
    for up in ups.values():
        up.close()
