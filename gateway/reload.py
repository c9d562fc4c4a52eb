"""Reloading: notice that files changed, load them aside, and swap only what loads and passes its own tests.

Parsing YAML is slow and must never hold up a stream: a child process does it first, to fill the parse cache; then this
process loads the same files from the cache, in a thread, and swaps one reference on the loop.

What is watched are the files that the site being served came from and those of the last attempt, so that a broken file
is noticed again when it is mended, whoever named it first.

The keys file is read anew by itself: a key that was revoked must not go on working because a policy is being edited and
does not load, nor as long as all that takes.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.config import KeyDoc
from gateway.core.errors import ConfigError, Problem
from gateway.fleet import NO_DOOR, Door
from gateway.keys.file import MadeKeyDoc
from gateway.policyfile import policy_files
from gateway.proxy.gates import Balances
from gateway.proxy.runtime import Runtime
from gateway.site import Site, SiteError, load_site
from gateway.vocab import open_tokenizers

logger = logging.getLogger("pointsman")

WATCH_S = 1.0
#: CPU seconds in which files must load in the child: what takes longer would hold up requests here, and is refused.
CHILD_CPU_S = 60
#: A file that changed so shortly before it was read may have changed again before it was looked at.
_FRESH_NS = 50_000_000

Stat = tuple[int, int, int]
#: What a change of any file shows in. None: never compared before.
Fingerprint = dict[Path, Stat | None]


@dataclass(frozen=True, slots=True)
class Reloaded:
    """How the last reload went; `error` is empty where it succeeded."""

    at: float  # Unix time
    error: str = ""


class Reloader:
    """Watches the files of the site being served and reloads on request. Lives on the event loop."""

    def __init__(
        self,
        config: Path,
        runtime: Runtime,
        environ: Mapping[str, str],
        door: Callable[[], Door] = lambda: NO_DOOR,
    ) -> None:
        self.config = config
        self.runtime = runtime
        self.environ = environ
        self.door = door
        self.last = Reloaded(at=time.time())
        self._running = _until_restart(runtime.serving.site)
        self._watched: tuple[Path, ...] = runtime.serving.site.watched()
        self._seen = fingerprint(self._watched)
        self._task: asyncio.Task[Reloaded] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._again = False
        self._swap = asyncio.Lock()  # from reading the keys file to serving by it: no older reading may come after
        self._keys_seen: Stat | None = None
        self._keys_wrong = False  # `last` tells of the keys file, `_loaded` of everything
        self._loaded = self.last
        self._keys_task: asyncio.Task[str] | None = None
        self.taken: Callable[[Site], None] = lambda site: None  # told of each site that is served from now on

    def start(self) -> None:
        """Begin watching."""
        self._timer = self.runtime.loop.call_later(WATCH_S, self._look)

    def stop(self) -> None:
        """Stop watching; a reload under way is abandoned."""
        if self._timer is not None:
            self._timer.cancel()
        for task in (self._task, self._keys_task):
            if task is not None:
                task.cancel()

    def request(self) -> asyncio.Task[Reloaded]:
        """Reload now (SIGHUP, admin call). A request during a reload makes another follow it."""
        if self._task is not None and not self._task.done():
            self._again = True
            return self._task
        self._task = self.runtime.loop.create_task(self._reload())
        return self._task

    def _look(self) -> None:
        self._timer = self.runtime.loop.call_later(WATCH_S, self._look)
        ring = self.runtime.serving.site.ring
        idle = self._keys_task is None or self._keys_task.done()
        if idle and _stat(ring.place.path) != self._keys_seen:
            self._keys_task = self.runtime.loop.create_task(self.rekey())
        if self._task is not None and not self._task.done():
            return  # what changes during a reload is compared after it
        if fingerprint(self._watched) != self._seen:
            self.request()

    async def _reload(self) -> Reloaded:
        while True:
            self._again = False
            self.last = self._loaded = await self._reload_once()
            self._keys_wrong = False
            self.runtime.metrics.reloaded(ok=not self.last.error, at=self.last.at)
            if not self._again:
                return self.last

    async def _reload_once(self) -> Reloaded:
        runtime = self.runtime
        began_ns, before = time.time_ns(), fingerprint(self._watched)
        old = runtime.serving.site
        try:
            await self._check_in_child()
            loaded: Site = await asyncio.to_thread(load_site, self.config, self.environ, door=self.door)
            async with self._swap:
                site = await self._with_keys(loaded)
                runtime.adopt(site, await self._balances(site))
        except (ConfigError, OSError) as error:
            logger.error("reload failed, the old configuration stays", extra={"lines": str(error).splitlines()})
            tried = error.files if isinstance(error, SiteError) else ()
            self._watch((*old.watched(), *tried), before, began_ns)
            return Reloaded(time.time(), str(error) or type(error).__name__)
        except Exception as error:
            # The edge that must hold: a defect met while loading must not end the watching, nor the serving.
            logger.exception("reload failed, the old configuration stays")
            self._seen = before
            return Reloaded(time.time(), f"the gateway failed to load its files ({type(error).__name__})")
        self._watch(site.watched(), before, began_ns)
        runtime.metrics.configure(site.metric_names)
        if site.tokenizers - old.tokenizers:
            runtime.tokenizers.learn(open_tokenizers(site.tokenizers, background=True))
        self.taken(site)
        if runtime.ledger is not None and runtime.ledger.login(site.ledger):
            self._running["ledger"] = site.ledger
        logger.info("reloaded: %s", site.digest)
        for warning in (*site.warnings, *_needs_restart(self._running, site)):
            logger.warning("%s", warning)
        return Reloaded(time.time())

    async def rekey(self) -> str:
        """Read the keys file anew, and nothing else, and serve by it. What is wrong with it, or ""."""
        runtime = self.runtime
        error = ""
        async with self._swap:
            old = runtime.serving.site
            try:
                site = await self._with_keys(old)
                if site.digest != old.digest:
                    runtime.adopt(site, await self._balances(site))
                    runtime.metrics.configure(site.metric_names)
                    logger.info(
                        "the keys file was read: %s%s", site.digest, await asyncio.to_thread(_rekeyed, old, site)
                    )
            except (ConfigError, OSError) as wrong:
                error = str(wrong)
                logger.error("the keys file cannot be used, the old keys stay", extra={"lines": error.splitlines()})
            except Exception as wrong:
                # The edge that must hold: a defect met while loading must not end the watching, nor the serving.
                logger.exception("the keys file cannot be used, the old keys stay")
                error = f"the gateway failed to load its keys ({type(wrong).__name__})"
        if error or self._keys_wrong:
            self._keys_wrong = bool(error)
            self.last = Reloaded(time.time(), error) if error else self._loaded
            runtime.metrics.reloaded(ok=not self.last.error, at=self.last.at)
        return error

    async def _with_keys(self, site: Site) -> Site:
        """A site with the keys file as it is at this moment. Raises `ConfigError`."""
        path = site.ring.place.path
        began_ns, self._keys_seen = time.time_ns(), _stat(path)
        found = await asyncio.to_thread(site.rekeyed)
        if _fresh(path, began_ns):
            self._keys_seen = None
        if found.open and not self.runtime.serving.site.open:
            what = "there are no keys any more, so that everybody would be let in"
            raise ConfigError([Problem(str(path), 0, "", what, "a key, or a restart if that is meant")])
        return found

    async def _balances(self, site: Site) -> Balances:
        """What budgets that are new have spent. Raises ConfigError where that would not survive this process."""
        runtime = self.runtime
        ledger = runtime.ledger
        if ledger is None and site.quotas.hard:
            what = "is off until the next start, and hard budgets need it"
            raise ConfigError([Problem(str(self.config), 0, "ledger", what, "a restart, or mode: soft")])
        settings = None if ledger is None else ledger.settings
        even = bool if ledger is None else ledger.even
        return await asyncio.to_thread(runtime.gates.balances, site.quotas, settings, time.time(), even)

    def _watch(self, paths: Iterable[Path], before: Fingerprint, began_ns: int) -> None:
        """Watch these files, against how they were before they were read: what changed meanwhile must be read again."""
        self._watched = tuple(dict.fromkeys(paths))
        self._seen = {
            path: before[path] if path in before else None if _fresh(path, began_ns) else stat
            for path, stat in fingerprint(self._watched).items()
        }

    async def _check_in_child(self) -> None:
        """Have another process load the files first. Its verdict is not needed: this process loads them again.

        Raises `ConfigError` only where it took so long that this process had better not begin.
        """
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "gateway.site",
            str(self.config),
            str(CHILD_CPU_S),
            env=dict(self.environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            if await child.wait() == -signal.SIGXCPU:
                what = f"takes more than {CHILD_CPU_S} s of CPU to load, with all that it names"
                raise ConfigError([Problem(str(self.config), 0, "", what, "fewer rules, tests or targets")])
        except asyncio.CancelledError:
            child.kill()
            raise


#: Names that one line of the log holds.
_MOST_NAMED = 20


def _rekeyed(old: Site, site: Site) -> str:
    """Which keys are new, gone or say something else, whoever changed the file: the command, a call, or an editor."""
    before, after = ({name: has.doc for name, has in one.holdings.items()} for one in (old, site))
    differ = [name for name, doc in after.items() if name in before and before[name] != doc]
    revoked = [name for name in differ if _revoked(after[name]) and not _revoked(before[name])]
    said = ""
    for what, names in (
        ("new", [name for name in after if name not in before]),
        ("changed", [name for name in differ if name not in revoked]),
        ("revoked", revoked),
        ("gone", [name for name in before if name not in after]),
    ):
        if names:
            shown = ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")
            said += f"; {len(names)} {'key' if len(names) == 1 else 'keys'} {what}: {shown}"
    return said


def _revoked(doc: KeyDoc) -> bool:
    return isinstance(doc, MadeKeyDoc) and doc.revoked is not None


def fingerprint(paths: Iterable[Path]) -> Fingerprint:
    """How some files are now. A directory stands for its policy files: others in it, an editor's say, are nobody's.

    stat follows symbolic links, so a swapped link (as in a mounted ConfigMap) shows too.
    """
    found: Fingerprint = {}
    for path in paths:
        if path.is_dir():
            found |= {child: _stat(child) for child in policy_files(path)}
        else:
            found[path] = _stat(path)
    return found


def _stat(path: Path) -> Stat:
    try:
        stat = path.stat()
    except OSError:
        return (0, 0, 0)
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino)


def _fresh(path: Path, began_ns: int) -> bool:
    try:
        stat = path.stat()
    except OSError:
        return False
    return max(stat.st_mtime_ns, stat.st_ctime_ns) > began_ns - _FRESH_NS


def _until_restart(site: Site) -> dict[str, object]:
    """What is taken from a site when the process starts and stays until it ends."""
    return {
        "listen.public": site.listen_public,
        "listen.admin": site.listen_admin,
        "records": site.records,
        "otlp": site.otlp,
        "ledger": site.ledger,
        "store": site.store,
    }


def _needs_restart(running: Mapping[str, object], site: Site) -> list[str]:
    """What a file says now and only the next start can do: compared with what runs, not with the last reload."""
    now = _until_restart(site)
    return [f"{name} has changed: that takes effect at the next start" for name in now if now[name] != running[name]]
