"""A real Prometheus for tests: started on a free port in a directory of the test, ended with it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.harness import end
from tests.ports import free_port


class Prometheus:
    """A running server, asked over its HTTP API."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = httpx.Client(base_url=url, trust_env=False, timeout=10)

    def ask(self, query: str) -> list[dict[str, Any]]:
        """The result of an instant query; raises AssertionError where Prometheus refuses it."""
        answer = self._client.get("/api/v1/query", params={"query": query}).json()
        assert answer["status"] == "success", f"{query}: {answer.get('error')}"
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def wait_for(self, query: str, seconds: float = 20.0) -> None:
        """Until the query has a result."""
        ends_at = time.monotonic() + seconds
        while not self.ask(query):
            assert time.monotonic() < ends_at, f"nothing after {seconds} s for {query}"
            time.sleep(0.2)

    def ready(self) -> bool:
        """Does it answer?"""
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def close(self) -> None:
        """Close the client's connections."""
        self._client.close()


@contextlib.contextmanager
def running(where: Path, config: str, *options: str) -> Iterator[Prometheus]:
    """A Prometheus with this configuration and more options; skips where none is installed."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed (Debian: apt-get install prometheus)")
    port = free_port()
    (where / "prometheus.yml").write_text(config)
    with open(where / "prometheus.log", "wb") as log:
        process = subprocess.Popen(
            [
                program, f"--config.file={where / 'prometheus.yml'}", f"--storage.tsdb.path={where / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn", *options,
            ],
            stdout=log, stderr=log, cwd=where,
        )  # fmt: skip
    server = Prometheus(f"http://127.0.0.1:{port}")
    try:
        ends_at = time.monotonic() + 30
        while not server.ready():
            assert process.poll() is None, (where / "prometheus.log").read_text()
            assert time.monotonic() < ends_at, "prometheus does not get ready"
            time.sleep(0.1)
        yield server
    finally:
        server.close()
        end(process)
