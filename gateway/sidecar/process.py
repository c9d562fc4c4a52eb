"""The litellm process as the gateway runs it: started when a configuration needs it, watched, restarted, ended.

Here are processes, pipes and waiting; what the process is told is `sidecarspec`, what it does `sidecar`. It cannot
outlive this one, as it ends when its standard input does. A reload that concerns it starts its successor first and ends
it once that one answers, so what is under way is finished.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gateway import configfile
from gateway.addresses import Address
from gateway.core.errors import ConfigError, Problem
from gateway.core.types import Secret
from gateway.fleet import Door
from gateway.sidecar.spec import SidecarSpec, SpecReader, environment

logger = logging.getLogger("pointsman")

START_S = 60.0  # litellm takes seconds to import, on a cold disk many
FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 30.0  # before another start: doubled for each that follows a short life
LONG_LIFE_S = 60.0
SILENCE_S = 60.0  # it beats every 5; a large body may hold it for a while
STOP_S = 2.0
_LINE_MAX = 2_000


class _Ended(Exception):
    """The process is gone, or is no use."""


class Child:
    """One running litellm process."""

    def __init__(self, process: asyncio.subprocess.Process, spec: SidecarSpec) -> None:
        self.process = process
        self.spec = spec
        self.began = time.monotonic()
        self.version = ""
        self.last_line = ""
        self._pulse: asyncio.Task[None] | None = None
        self._log = asyncio.get_running_loop().create_task(self._relay_log())

    @staticmethod
    async def start(spec: SidecarSpec, instructions: bytes, environ: Mapping[str, str]) -> Child:
        """Start one and tell it what to do. Raises OSError where its interpreter cannot be run."""
        process = await asyncio.create_subprocess_exec(
            *spec.command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(environ),
            cwd="/",
            start_new_session=True,  # Ctrl-C is for the gateway, which then ends this one in order
        )
        child = Child(process, spec)
        assert process.stdin is not None  # noqa: S101 - it was asked for
        with contextlib.suppress(ConnectionError):
            process.stdin.write(instructions)
            await process.stdin.drain()
        return child

    async def ready(self) -> None:
        """Wait until it answers requests. Raises `_Ended` when it will not."""
        assert self.process.stdout is not None  # noqa: S101 - it was asked for
        try:
            async with asyncio.timeout(START_S):
                line = await self.process.stdout.readline()
            self.version = str(json.loads(line)["ready"])
        except TimeoutError:
            self.kill()
            raise _Ended(f"it did not answer within {START_S:.0f} s") from None
        except (ValueError, LookupError, TypeError):  # nothing, or something else than agreed
            self.kill()
            raise _Ended(await self.ended()) from None
        self._pulse = asyncio.get_running_loop().create_task(self._feel_pulse(self.process.stdout))

    async def ended(self) -> str:
        """Wait until it is gone, and say how it ended."""
        code = await self.process.wait()
        await asyncio.wait([self._log], timeout=1)
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"{how}: {self.last_line}" if self.last_line else how

    async def stop(self, within_s: float) -> None:
        """End it: ask, and insist after a while."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            async with asyncio.timeout(within_s):
                await self.process.wait()
        except TimeoutError:
            await self.end()

    async def end(self) -> None:
        """End it now, and wait for that. Without a timeout: those of Python 3.11 fail in a task that is cancelled."""
        self.kill()
        await self.process.wait()

    def kill(self) -> None:
        """End it now."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    async def _feel_pulse(self, beats: asyncio.StreamReader) -> None:
        """End it when it has been silent too long: it hangs, and would take requests without ever answering them."""
        try:
            while True:
                async with asyncio.timeout(SILENCE_S):
                    if not await beats.read(4096):
                        return
        except TimeoutError:
            self.last_line = f"it gave no sign of life for {SILENCE_S:.0f} s"
            logger.error("sidecar: %s", self.last_line)
            self.kill()

    async def _relay_log(self) -> None:
        """What it says becomes lines of ours, without its keys."""
        assert self.process.stderr is not None  # noqa: S101 - it was asked for
        rest = b""
        while data := await self.process.stderr.read(65_536):
            *lines, rest = (rest + data).split(b"\n")
            for line in (*lines, rest) if len(rest) > _LINE_MAX else lines:
                self._tell(line)
            rest = b"" if len(rest) > _LINE_MAX else rest
        self._tell(rest)

    def _tell(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip()
        for secret in self.spec.secrets():
            text = text.replace(secret, "***")
        if text:
            self.last_line = text[:_LINE_MAX]
            logger.info("sidecar: %s", self.last_line)


class Sidecar:
    """Keeps the process running that the configuration being served asks for. Lives on the event loop.

    `told(names, up)` is called when the targets behind it become or cease to be servable.
    """

    def __init__(
        self, environ: Mapping[str, str], door: Callable[[], Door], told: Callable[[frozenset[str], bool], None]
    ) -> None:
        self.environ = environ
        self.door = door
        self.told = told
        self.starts = 0
        self.error = ""
        self._spec: SidecarSpec | None = None
        self._child: Child | None = None  # the one that answers
        self._starting: Child | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()

    def want(self, spec: SidecarSpec | None) -> None:
        """Serve this from now on; None: nothing."""
        before, self._spec = self._spec, spec
        if spec is not None and before is not None and spec.same_process(before):
            self._tell(spec, self._child is not None)
            return
        if self._keeper is not None:
            self._keeper.cancel()
            self._keeper = None
        if spec is None:
            self._leave(self._child)
            self._child = None
            return
        self._tell(spec, self._child is not None)
        self._keeper = asyncio.get_running_loop().create_task(self._keep(spec, self.door()))

    def state(self) -> dict[str, Any] | None:
        """For operators; None where no sidecar is asked for."""
        if self._spec is None:
            return None
        child = self._child
        return {
            "state": "ready" if child is not None else "starting" if self._starting is not None else "down",
            "pid": child.process.pid if child is not None else None,
            "litellm": child.version if child is not None else None,
            "starts": self.starts,
            "error": self.error or None,
        }

    async def close(self) -> None:
        """End it, and all that are still leaving."""
        self._spec = None
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait([keeper])
        for task in self._leaving:
            task.cancel()
        if self._leaving:
            await asyncio.wait(self._leaving)
        if self._child is not None:
            await self._child.stop(STOP_S)

    async def _keep(self, spec: SidecarSpec, door: Door) -> None:
        wait_s = FIRST_WAIT_S
        while True:
            began = time.monotonic()
            try:
                child = await self._started(spec, door)
                self.error = ""
                before, self._child = self._child, child
                self._leave(before)
                self._tell(spec, up=True)
                logger.info("sidecar: litellm %s answers, process %d", child.version, child.process.pid)
                said = await child.ended()
            except (_Ended, OSError) as error:
                said = str(error)
            else:
                self._child = None
            self.error = said
            if self._child is None:
                self._tell(spec, up=False)
            wait_s = FIRST_WAIT_S if time.monotonic() - began > LONG_LIFE_S else wait_s
            logger.error("sidecar: it ended (%s); the next start follows in %.2g s", said, wait_s)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    async def _started(self, spec: SidecarSpec, door: Door) -> Child:
        self.starts += 1
        instructions = spec.instructions(host="127.0.0.1", port=door.port, share_port=True, token=door.token)
        starting = asyncio.get_running_loop().create_task(Child.start(spec, instructions, self.environ))
        try:
            child = self._starting = await asyncio.shield(starting)
        except asyncio.CancelledError:
            await (await starting).end()  # or it would be nobody's
            raise
        try:
            await child.ready()
        except BaseException:
            await child.end()
            raise
        finally:
            self._starting = None
        return child

    def _leave(self, child: Child | None) -> None:
        """Let one that has a successor finish what it has begun."""
        if child is not None:
            task = asyncio.get_running_loop().create_task(self._left(child))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def _left(self, child: Child) -> None:
        try:
            await child.stop(child.spec.drain_s + STOP_S)
        except asyncio.CancelledError:
            await child.end()
            raise

    def _tell(self, spec: SidecarSpec, up: bool) -> None:
        # A reload may have renamed targets while the process stayed.
        self.told((self._spec or spec).targets, up)


class Reserved:
    """A loopback port that is ours for as long as this process lives, whoever of our own listens on it.

    Bound but not listened on: a connection is refused while no sidecar is there, and nobody else can take the port and
    with it the token and the prompts, as only processes of the same user may share it.
    """

    def __init__(self) -> None:
        self._door: Door | None = None
        self._socket: socket.socket | None = None

    def door(self) -> Door:
        """The port and its token, made up when first asked for."""
        if self._door is None:
            self._socket = socket.socket()
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._socket.bind(("127.0.0.1", 0))
            self._door = Door(self._socket.getsockname()[1], Secret(secrets.token_urlsafe(32)))
        return self._door

    def close(self) -> None:
        """Give the port back."""
        if self._socket is not None:
            self._socket.close()


@contextlib.contextmanager
def beside(spec: SidecarSpec, door: Door, environ: Mapping[str, str]) -> Iterator[None]:
    """Run one while a command needs it, and no longer. Raises OSError when it does not start."""
    instructions = spec.instructions(host="127.0.0.1", port=door.port, share_port=True, token=door.token)
    with _told(spec, instructions, environ, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None  # noqa: S101 - it was asked for
            if b"ready" not in process.stdout.readline():
                raise OSError("the litellm sidecar does not start")
            yield
        finally:
            process.kill()


def _told(
    spec: SidecarSpec, instructions: bytes, environ: Mapping[str, str], stdout: int | None = None
) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(  # noqa: S603 - a list of our own words, no shell
        spec.command(), stdin=subprocess.PIPE, stdout=stdout, env=environment(environ), cwd="/"
    )
    assert process.stdin is not None  # noqa: S101 - it was asked for
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(instructions)
        process.stdin.flush()
    return process


def run_alone(config: Path, listen: Address, environ: Mapping[str, str]) -> int:
    """`pointsman sidecar`: run the process by itself until it ends, and return its exit code; 2 for a broken file.

    Only the sidecar's own keys need be there. Whoever supervises this command restarts it.
    """
    try:
        document, doc = configfile.read(config)
        reader = SpecReader(document, environ, config.parent)
        spec, token = reader.read(doc), reader.token(doc)
        if spec is None:
            valid = "a backend with dialect: litellm and no base_url"
            reader.found.append(Problem(str(config), 0, "backends", "none of them needs a sidecar", valid))
        if reader.found or spec is None or token is None:
            raise ConfigError(reader.found)
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return 2
    instructions = spec.instructions(host=listen.host, port=listen.port, share_port=False, token=token)
    process = _told(spec, instructions, environ)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _, __: process.terminate())
    code = process.wait()
    return code if code >= 0 else 128 - code
