"""The composition root: the only place that wires concrete classes together and owns the process's life.

The control plane's routes are in `control`; reloading is in `reload`. Here: listeners, signals, and the order in
which a process starts and ends.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import gc
import logging
import os
import platform
import signal
import socket
import sys
import time
import uuid
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gateway import __version__
from gateway.compiled import cache_dir
from gateway.core.errors import ConfigError
from gateway.core.recorded.recording import Lines, Recording
from gateway.front import App, Front, admin_pages, public_pages
from gateway.ledger.directory import LedgerError, LedgerSettings
from gateway.ledger.ledger import Ledger, open_ledger
from gateway.ledger.unshipped import replica_id
from gateway.proxy import descriptors
from gateway.proxy.downstream import ClientConnection
from gateway.proxy.guarded import AdminConnection
from gateway.proxy.pressure import Memory, Pressure
from gateway.proxy.runtime import Runtime
from gateway.proxy.watching import Watching
from gateway.reload import Reloader
from gateway.sidecar.process import Reserved, Sidecar
from gateway.site import Site, load_lexicon, load_site
from gateway.stores.settings import StoreSettings
from gateway.telemetry import logs
from gateway.telemetry.access import AccessLog
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.otlp.settings import OtlpSettings
from gateway.telemetry.records import RecordLog, RecordSettings
from gateway.vocab import open_tokenizers

if TYPE_CHECKING:
    from gateway.stores.shared import Shared

logger = logging.getLogger("pointsman")

EXIT_CONFIG = 2
_FLUSH_S = 0.3  # for the last bytes to reach the clients' sockets


def serve(config: Path) -> int:
    """Run the gateway until it is told to stop. Returns the process's exit code: 0, or 2 for a broken configuration."""
    lines = logs.Handler(2, os.environ)
    logs.install(lines)
    descriptors.claim()
    try:
        reserved = Reserved()
        site = load_site(config, os.environ, door=reserved.door)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG
    lines.adopt(site.log)
    lines.secrets = site.secrets
    for warning in site.warnings:
        logger.warning("%s", warning)
    try:
        ledger = None if site.ledger is None else open_ledger(site.ledger)
    except LedgerError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG
    try:
        sockets = (_bind(*site.listen_public), _bind(*site.listen_admin))
    except OSError as error:
        print(f"pointsman: {error}", file=sys.stderr)
        return 1
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Server(config, site, sockets, reserved, (lines, ledger)).run())


def _tune_memory() -> None:
    """Keep the allocator and the collector from doing the same work again on every request.

    By default glibc maps and unmaps every buffer from 128 KiB up, and each time the kernel zeroes its pages: a flooded
    stream spent a quarter of its time there. What was loaded at start lives as long as the process, so the collector
    need not walk it.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        m_trim_threshold, m_mmap_threshold = -1, -3
        libc.mallopt(m_mmap_threshold, 4 << 20)
        libc.mallopt(m_trim_threshold, 64 << 20)
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    listener.setblocking(False)
    return listener


class Server:
    """One process's listeners and their end."""

    def __init__(
        self,
        config: Path,
        site: Site,
        sockets: tuple[socket.socket, socket.socket],
        reserved: Reserved,
        outlets: tuple[logs.Handler, Ledger | None],
    ) -> None:
        self.config = config
        self.site = site
        self.sockets = sockets
        self.reserved = reserved
        self.lines, self.ledger = outlets
        self._stopping = asyncio.Event()
        self._signals = 0
        self._reading: asyncio.Task[None] | None = None  # of the books, after the clock was set back
        self._store: Shared | None = None
        self._watching = Watching()
        self._pressure = Pressure(Memory())

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT, drain, and return 0; 2 where something cannot be kept that shall be."""
        loop = asyncio.get_running_loop()
        runtime, access = self._runtime(loop)
        if not await self._keep(runtime):
            return EXIT_CONFIG
        reloader = Reloader(self.config, runtime, os.environ, self.reserved.door)
        reloader.taken = functools.partial(self._log_as, access)
        state = ServerState()
        runtime.shedding.connections = state.connections  # type: ignore[assignment]  # all are of the one class
        servers = await self._listen(runtime, reloader, state)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, runtime)
        loop.add_signal_handler(signal.SIGHUP, reloader.request)
        runtime.wheel.start()
        runtime.watchdog.start()
        reloader.start()
        _tune_memory()
        self._tick(loop, state, runtime)
        for name, listener in zip(("public", "admin"), self.sockets, strict=True):
            host, port = listener.getsockname()[:2]
            logger.info("%s listener on http://%s:%d", name, f"[{host}]" if ":" in host else host, port)
        exporter = loop.create_task(asyncio.to_thread(runtime.metrics.prepare))  # in time for the first scrape
        await self._stopping.wait()
        await exporter
        await self._drain(runtime, servers, state)
        reloader.stop()
        await self._close(runtime)
        return 0

    def _runtime(self, loop: asyncio.AbstractEventLoop) -> tuple[Runtime, AccessLog]:
        """What lives as long as the process, and the log of its requests."""
        site = self.site
        metrics = Metrics(
            site.metric_names,
            build={"version": __version__, "python": platform.python_version()},
        )
        metrics.loaded_at = time.time()
        access = AccessLog(logs.writer(1), site.log, form=site.log.form_of(1), coloured=logs.coloured(1, os.environ))
        metrics.sources.append(self._pressure)
        metrics.logs = {"requests": access, "process": self.lines}
        tokenizers = open_tokenizers(site.tokenizers, background=True)
        runtime = Runtime(loop, metrics, access.add, tokenizers, load_lexicon(cache=cache_dir(os.environ)))
        loop.set_exception_handler(logs.in_loop)
        runtime.sidecar = Sidecar(os.environ, self.reserved.door, runtime.sidecar_told)
        return runtime, access

    async def _keep(self, runtime: Runtime) -> bool:
        """Take the site, and begin to keep books, records and shared limits. False, and logged, where one cannot be."""
        site = self.site
        settings = None if self.ledger is None else self.ledger.settings
        if site.store is not None:
            self._store = _share(site.store, settings, runtime)
        runtime.adopt(site, await asyncio.to_thread(runtime.gates.balances, site.quotas, settings, time.time()))
        self.lines.secrets = runtime.secrets
        if self.ledger is not None:
            runtime.keep(self.ledger)
            runtime.metrics.ledger = self.ledger
            self.ledger.start()
            logger.info("ledger in %s", self.ledger.settings.directory)
        if site.records is not None:
            try:
                runtime.records = runtime.metrics.records = _records(site.records, runtime)
            except OSError as error:
                logger.error("records.dir: cannot write to %s: %s", site.records.directory, error.strerror)
                return False
        if site.otlp is not None:
            _export(site.otlp, runtime)
        if self._store is not None:
            await self._store.start()
        return True

    async def _listen(self, runtime: Runtime, reloader: Reloader, state: ServerState) -> list[asyncio.Server]:
        """The servers of the public and the admin listener."""
        loop = runtime.loop
        public, admin = map(_uvicorn, _fronts(runtime, reloader))
        hot = functools.partial(ClientConnection, runtime, public, state, {})
        cold = functools.partial(AdminConnection, runtime, admin, ServerState(), {})
        return [
            await loop.create_server(hot, sock=self.sockets[0], backlog=2048),
            await loop.create_server(cold, sock=self.sockets[1], backlog=64),
        ]

    async def _close(self, runtime: Runtime) -> None:
        """End what was begun, each after what still writes to it."""
        runtime.watchdog.stop()
        runtime.close()
        if runtime.sidecar is not None:
            await runtime.sidecar.close()
        if self._store is not None:
            await self._store.close()
        runtime.outbox.flush()
        if runtime.outbox.durable is not None:
            runtime.outbox.durable.close()
        for kept in (runtime.ledger, runtime.records, runtime.otlp):
            if kept is not None:
                kept.close()

    def _log_as(self, access: AccessLog, site: Site) -> None:
        """Log as a configuration says that was just taken."""
        self.lines.adopt(site.log)
        access.adopt(site.log, site.log.form_of(1))

    def _tick(self, loop: asyncio.AbstractEventLoop, state: ServerState, runtime: Runtime) -> None:
        state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        runtime.warm()
        runtime.gates.look(time.time())
        if runtime.ledger is not None:
            runtime.ledger.tick()
            if runtime.gates.stepped:
                self._reading = loop.create_task(runtime.gates.take_up(runtime.ledger.settings, time.time()))
        self._watching.look(runtime)
        self._pressure.look(runtime)
        if runtime.pressure and not runtime.draining:
            for connection in list(state.connections):
                connection.shutdown()
        runtime.shedding.look()
        loop.call_later(1.0, self._tick, loop, state, runtime)

    def _on_signal(self, runtime: Runtime) -> None:
        self._signals += 1
        runtime.draining = runtime.closing = True  # /readyz says 503 from this moment
        self._stopping.set()
        if self._signals > 1:
            for exchange in list(runtime.exchanges):
                exchange.drain()

    async def _drain(self, runtime: Runtime, servers: list[asyncio.Server], state: ServerState) -> None:
        """Let what is under way finish within the grace period, then end the rest with a typed error."""
        loop = asyncio.get_running_loop()
        drain = runtime.serving.site.drain
        logger.info(
            "draining: requests under way: %d; they have %g s, and a second signal ends them now",
            len(runtime.exchanges),
            drain.delay_s + drain.grace_s,
        )
        end = loop.time() + drain.delay_s
        while loop.time() < end and self._signals < 2:  # noqa: ASYNC110 - polled, as below
            await asyncio.sleep(0.05)
        runtime.refusing = True
        servers[0].close()
        for connection in list(state.connections):
            connection.shutdown()
        end = loop.time() + drain.grace_s
        # Polled: the end of a request must not pay for telling. An idle connection is closed, so that who is there yet
        # has a request under way or on its way.
        while (state.connections or state.tasks) and loop.time() < end and self._signals < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        for exchange in list(runtime.exchanges):
            exchange.drain()
        end = loop.time() + _FLUSH_S
        while state.connections and loop.time() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        servers[1].close()


def _fronts(runtime: Runtime, reloader: Reloader) -> tuple[Front, Front]:
    """The control plane's two doors, public and admin; what is behind them is imported when somebody asks for it."""

    def public() -> App:
        from gateway.control import public_app  # noqa: PLC0415 - imports FastAPI

        return public_app(runtime, reloader)

    def admin() -> App:
        from gateway.control import admin_app  # noqa: PLC0415 - imports FastAPI

        return admin_app(runtime, reloader)

    return Front(public, public_pages(runtime, reloader)), Front(admin, admin_pages(runtime, reloader))


def _uvicorn(app: object) -> Config:
    config = Config(app, http=HttpToolsProtocol, ws="none", lifespan="off", log_config=None, access_log=False)  # type: ignore[arg-type]
    config.load()
    return config


def _records(settings: RecordSettings, runtime: Runtime) -> RecordLog:
    """The running record of decisions. Raises OSError where its directory cannot be written to."""
    reading = Recording(runtime.tokenizers, runtime.lexicon, settings.sample, settings.prompt_chars)
    made = RecordLog(settings, Lines(reading))
    made.start()
    return made


def _share(settings: StoreSettings, books: LedgerSettings | None, runtime: Runtime) -> Shared:
    """Keep limits together with other replicas. Nobody is connected to yet.

    A replica is known by its books: what it has spent stays its own after a restart. Without books each is a new one.
    """
    from gateway.stores.shared import Shared  # noqa: PLC0415 - for who has replicas

    gates = runtime.gates
    gates.store = store = Shared(
        runtime.loop, settings, uuid.uuid4().hex if books is None else replica_id(books.directory)
    )

    async def learn() -> None:
        if gates.stepped:
            await gates.take_up(books, time.time())

    store.follow, store.learn = gates.follow, learn
    runtime.metrics.sources.append(store)
    return store


def _export(settings: OtlpSettings, runtime: Runtime) -> None:
    """Begin to tell a collector of requests."""
    from gateway.telemetry.otlp.exporting import Otlp  # noqa: PLC0415 - an extra, and heavy

    runtime.otlp = Otlp(settings)
    runtime.tracing = runtime.otlp.tracing
    runtime.metrics.otlp = runtime.otlp.tally
    runtime.otlp.start()
    logger.info("otlp: %s go to %s", " and ".join(sorted(settings.signals)), settings.endpoint)
