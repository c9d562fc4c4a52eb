"""A start after whatever: what a killed process left is no obstacle, and what is one gets a line that says which."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from gateway.ledger.directory import LOCK, SPARE, journal_path, journals
from tests.faults.test_process_drain import booked, message
from tests.harness import ROLE, ROOT, SERVE, Upstream, chat, chunk, config, running, stream
from tests.ports import free_port

FILE = "pointsman.yaml"


def test_what_a_killed_process_left_is_passed_over_and_settled(tmp_path: Path) -> None:
    up = Upstream([stream(), stream([ROLE, chunk("four"), chunk("five")], end="hang"), stream()])
    books = tmp_path / "books"
    settings = config({"a": up}, ledger={"dir": "books"}, records={"dir": "records"})
    environ = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    with running(tmp_path, settings, **environ) as gateway, gateway.connect() as conn:
        assert gateway.post(chat("a", stream=True)).status_code == 200
        conn.sendall(message(model="a", stream=True))
        assert conn.recv(1)
        gateway.process.send_signal(signal.SIGKILL)
        assert gateway.process.wait(10) == -signal.SIGKILL
    assert (books / LOCK).exists()
    (books / SPARE).write_bytes(b"half of a journal")
    last = journal_path(books, max(journals(books)))
    data = last.read_bytes().rstrip(b"\0")
    last.write_bytes(data + b'0badc0de [["r","torn')
    for path in (tmp_path / "cache").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:100])
    with running(tmp_path, settings, **environ) as gateway:
        assert gateway.get("/readyz").status_code == 200
        assert gateway.post(chat("a", stream=True)).status_code == 200
        assert any("1 attempts of a process that died were settled by estimates" in line for line in gateway.lines)
    up.close()
    assert booked(tmp_path) == ({"ok": 2, "crash": 1}, 0)


def taken(settings: dict[str, object], which: str, stack: contextlib.ExitStack) -> str:
    """The listener's port is another's."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    settings["listen"][which] = address  # type: ignore[index]
    return f"cannot listen on {address}: Address already in use"


def in_the_way(settings: dict[str, object], name: str, _: contextlib.ExitStack) -> str:
    settings[name] = {"dir": FILE}
    return f"cannot write to {FILE}"


def no_certificate(settings: dict[str, object], _: str, __: contextlib.ExitStack) -> str:
    settings["backends"]["a"]["ca_file"] = FILE  # type: ignore[index]
    return f"backends.a.ca_file: there is no certificate in {FILE}, or it cannot be read: a PEM file"


Obstacle = Callable[[dict[str, object], str, contextlib.ExitStack], str]
#: Exit code, who puts it in the way and says what will be said of it, and where.
OBSTACLES: dict[str, tuple[int, Obstacle, str]] = {
    "the admin port is taken": (1, taken, "admin"),
    "the books have no folder": (2, in_the_way, "ledger"),
    "records have no folder": (2, in_the_way, "records"),
    "a file of certificates has none": (2, no_certificate, ""),
}


def test_each_obstacle_at_the_start_gets_one_line_and_its_exit_code(tmp_path: Path) -> None:
    stack = contextlib.ExitStack()
    started = {}
    for number, (name, (code, make, where)) in enumerate(OBSTACLES.items()):
        place = tmp_path / str(number)
        place.mkdir()
        settings = config({"a": "https://127.0.0.1:9/v1"})
        said = make(settings, where, stack)
        with (place / FILE).open("w") as file:
            YAML().dump(settings, file)
        environ = {**os.environ, "UPSTREAM_KEY": "x", "XDG_STATE_HOME": str(place), "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            [sys.executable, *SERVE, FILE],
            cwd=place,
            env=environ,
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        started[name] = (process, code, said)
    for name, (process, code, said) in started.items():
        _, told = process.communicate(timeout=60)
        assert process.returncode == code, (name, told)
        assert "Traceback" not in told, (name, told)
        assert sum(said in line for line in told.splitlines()) == 1, (name, said, told)
    stack.close()


@pytest.mark.skipif(sys.platform != "linux", reason="waits by /proc")
def test_no_connection_is_taken_before_it_can_be_served(tmp_path: Path) -> None:
    port = free_port()
    up = Upstream([stream()])
    settings = config({"a": up}, listen={"public": f"127.0.0.1:{port}", "admin": "127.0.0.1:0"})
    with (tmp_path / FILE).open("w") as file:
        YAML().dump(settings, file)
    environ = {**os.environ, "UPSTREAM_KEY": "x", "XDG_STATE_HOME": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, *SERVE, str(tmp_path / FILE)], cwd=ROOT, env=environ,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            refused = 0
            while process.poll() is None:
                try:
                    conn = socket.create_connection(("127.0.0.1", port), timeout=30)
                except ConnectionRefusedError:
                    refused += 1
                    time.sleep(0.01)
                    continue
                with conn:
                    conn.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n" + message(model="a", stream=True))
                    data = b""
                    while not data.endswith(b"0\r\n\r\n"):
                        data += conn.recv(65_536)
                break
            assert refused
            assert data.startswith(b"HTTP/1.1 200")
            assert b"[DONE]" in data
        finally:
            process.terminate()
    up.close()
