"""Reloading: notice that files changed, load them aside, and swap only what loads and passes its own tests.

Parsing YAML is slow and must never hold up a stream: a child process does it first, for the verdict and to fill the
parse cache; then this process loads the same files from the cache, in a thread, and swaps one reference on the loop.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.core.errors import ConfigError
from gateway.proxy.runtime import Runtime
from gateway.site import Site, load_site

logger = logging.getLogger("pointsman")

WATCH_S = 1.0


@dataclass(frozen=True, slots=True)
class Reloaded:
    """How the last reload went; `error` is empty where it succeeded."""

    at: float  # Unix time
    error: str = ""


class Reloader:
    """Watches the files of the site being served and reloads on request. Lives on the event loop."""

    def __init__(self, config: Path, runtime: Runtime, environ: Mapping[str, str]) -> None:
        self.config = config
        self.runtime = runtime
        self.environ = environ
        self.last = Reloaded(at=time.time())
        self._seen = self._fingerprint()
        self._task: asyncio.Task[Reloaded] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._again = False

    def start(self) -> None:
        """Begin watching."""
        self._timer = self.runtime.loop.call_later(WATCH_S, self._look)

    def stop(self) -> None:
        """Stop watching; a reload under way is abandoned."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def request(self) -> asyncio.Task[Reloaded]:
        """Reload now (SIGHUP, admin call). A request during a reload makes another follow it."""
        if self._task is not None and not self._task.done():
            self._again = True
            return self._task
        self._seen = self._fingerprint()
        self._task = self.runtime.loop.create_task(self._reload())
        return self._task

    def _look(self) -> None:
        self._timer = self.runtime.loop.call_later(WATCH_S, self._look)
        if self._fingerprint() != self._seen:
            self.request()

    def _fingerprint(self) -> tuple[tuple[str, int, int, int], ...]:
        """What a change of any file shows in: stat follows symlinks, so a swapped ConfigMap link is seen too."""
        found = []
        for path in self.runtime.serving.site.watched():
            try:
                stat = path.stat()
            except OSError:
                found.append((str(path), 0, 0, 0))
            else:
                found.append((str(path), stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return tuple(found)

    async def _reload(self) -> Reloaded:
        while True:
            self._again = False
            self.last = await self._reload_once()
            if not self._again:
                return self.last

    async def _reload_once(self) -> Reloaded:
        runtime = self.runtime
        try:
            await self._check_in_child()
            site: Site = await asyncio.to_thread(load_site, self.config, self.environ)
            runtime.adopt(site)
        except (ConfigError, OSError) as error:
            logger.error("reload failed, the old configuration stays:\n%s", error)
            runtime.metrics.reloaded(ok=False)
            return Reloaded(time.time(), str(error))
        runtime.metrics.configure(site.metric_names)
        runtime.metrics.reloaded(ok=True)
        self._seen = self._fingerprint()
        logger.info("reloaded: %s", site.digest)
        for warning in site.warnings:
            logger.warning("%s", warning)
        return Reloaded(time.time())

    async def _check_in_child(self) -> None:
        """Have another process load the files first. Its verdict is only a fast no: this process loads them again."""
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gateway.site",
            str(self.config),
            env=dict(self.environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await child.wait()
        except asyncio.CancelledError:
            child.kill()
            raise
