"""Packets that vanish: a connection neither made nor refused ends by its own clock, and another target answers."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import Upstream, chat, config, plain, running, took_s

CONNECT_S = 0.5
NOWHERE = "10.255.77.2"
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET


def in_a_network_of_its_own(work: Callable[[], None]) -> None:
    """Run `work`, and the processes it starts, in a network namespace that swallows what is sent to `NOWHERE`.

    A namespace belongs to a thread, and is gone with its last process: there is nothing to clean up.
    """
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("a network namespace takes root and the command ip")
    failed: list[BaseException] = []

    def inside() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(_NEW_NETWORK) != 0:
                raise pytest.skip.Exception(f"no network namespace: {os.strerror(ctypes.get_errno())}")
            # Frames to a neighbour who is not there: the other end of the cable is up, and drops them unread.
            for line in (
                "link set lo up",
                "link add cable type veth peer name end",
                "addr add 10.255.77.1/24 dev cable",
                "link set cable up",
                "link set end up",
                f"neigh add {NOWHERE} lladdr 02:00:00:00:00:99 dev cable",
            ):
                told = subprocess.run(["ip", *line.split()], capture_output=True, text=True, check=False)
                if told.returncode:
                    raise pytest.skip.Exception(f"ip {line}: {told.stderr.strip()}")
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def fails_over_in_time(directory: Path, hole: str) -> None:
    """A request whose first target swallows every packet, and one that has no other target."""
    up = Upstream([plain()])
    settings = config({"a": hole, "b": up}, timeouts={"connect": "500ms"})
    with running(directory, settings) as gateway:
        answer = gateway.post(chat("llama-3.3-70b"))
        assert answer.headers["x-pointsman-target"] == "b"
        assert answer.headers["x-pointsman-attempts"] == "2"
        assert CONNECT_S - 0.1 < took_s(gateway, answer) < CONNECT_S + 1
        alone = gateway.post(chat("a"))
        assert took_s(gateway, alone) < CONNECT_S + 1
        assert (alone.status_code, alone.json()["error"]["code"]) == (502, "upstream_unavailable")
        assert gateway.metric('pointsman_attempts_total{outcome="connect_timeout",target="a"}') == 2
        assert gateway.metric("pointsman_queue_requests") == 0
    up.close()


def test_a_network_that_swallows_the_syn_costs_the_connect_clock(tmp_path: Path) -> None:
    in_a_network_of_its_own(lambda: fails_over_in_time(tmp_path, f"http://{NOWHERE}:8000/v1"))


@contextlib.contextmanager
def full_backlog() -> Iterator[int]:
    """A port whose queue of connections is full, so that the kernel drops every further SYN. Takes no rights."""
    with socket.socket() as listener, contextlib.ExitStack() as held:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port: int = listener.getsockname()[1]
        for _ in range(8):
            conn = held.enter_context(socket.socket())
            conn.setblocking(False)
            conn.connect_ex(("127.0.0.1", port))
        yield port


def test_a_server_that_accepts_nobody_costs_the_connect_clock(tmp_path: Path) -> None:
    with full_backlog() as port:
        fails_over_in_time(tmp_path, f"http://127.0.0.1:{port}/v1")
