"""What lives as long as the process: pools, health, clocks, metrics, recent decisions; and the Serving it points to.

A `Serving` is everything that one request is served by and is swapped whole on reload; a request keeps the one it
began with. Nothing here decides or moves bytes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.core.clauses.latency import Paces
from gateway.core.decisions.memo import Memo
from gateway.core.errors import GatewayError
from gateway.core.reading.lexicon import Lexicon
from gateway.core.request.peers import Strangers
from gateway.core.resilience.affinity import Prefixes
from gateway.core.resilience.conversations import Conversations
from gateway.core.resilience.failover import RetryBudget
from gateway.core.resilience.health import Board
from gateway.core.resilience.hedging import HedgeBudget, Pace
from gateway.core.resilience.promises import Promises
from gateway.core.servers.credentials import AwsKeys, identity
from gateway.core.text.tokens import Tokenizers
from gateway.core.types import (
    EMPTY,
    Backend,
    Endpoint,
    Fleet,
    Outcome,
    Record,
    Snapshot,
    Target,
    Tenant,
)
from gateway.ledger.ledger import Ledger
from gateway.proxy import descriptors
from gateway.proxy.checkpoints import Checkpoints
from gateway.proxy.clocks import Wheel
from gateway.proxy.doors import Bearer, Door, Signed
from gateway.proxy.durable import Durable
from gateway.proxy.gates import Balances, Gates
from gateway.proxy.outbox import Outbox
from gateway.proxy.pool import Pool
from gateway.proxy.route import Route
from gateway.proxy.routing import asking_of
from gateway.proxy.shadow import Shadows
from gateway.proxy.shedding import Shedding
from gateway.proxy.tokens import TokenSource
from gateway.proxy.watchdog import Watchdog
from gateway.sidecar.process import Sidecar
from gateway.site import Site
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.records import RecordLog

if TYPE_CHECKING:
    from gateway.core.money.admission import Gate
    from gateway.core.request.tracecontext import Tracing
    from gateway.proxy.asked import Asked
    from gateway.proxy.exchange import Exchange
    from gateway.telemetry.otlp.exporting import Otlp

logger = logging.getLogger("pointsman")

#: A configuration and its secrets.
_Held = tuple[Site | None, set[str]]

#: How many finished requests `/v1/decisions/{id}` can still tell about; and how many where they are forgotten within a
#: tenth of a second all the same, before anybody who has an answer asks, and keeping them only takes the processor's
#: caches from what serves requests.
REMEMBERED, FEW_REMEMBERED, SOON_S = 512, 64, 0.1


@dataclass(frozen=True, slots=True)
class Serving:
    """One loaded configuration, ready to serve: `routes[target.index]` belongs to `site.fleet.targets[index]`."""

    site: Site
    routes: tuple[Route, ...]
    paced: frozenset[str]  # names of the policies that rank by speed or have latency targets
    doubted: int = 0  # mask of targets whose promise not to think is not believed, see `promises`
    memo: Memo = field(default_factory=Memo)
    known_keys: dict[bytes, tuple[Tenant, float]] = field(default_factory=dict, repr=False)  # see `asked`
    gates: Mapping[str, Gate] = field(default_factory=dict)  # limits of the keys whose tenant is `limited`


class Remembered(msgspec.Struct, frozen=True, eq=False, gc=False):  # made for every request, and part of no cycle
    """The inputs of a recent decision, enough to recompute its trace: never the prompt."""

    record: Record
    signals: Mapping[str, Any]  # computed values, as `Signals.given` takes them back
    available: int
    snapshot: Snapshot | None  # None: of a kept decision, for which nothing else of the world was asked
    pinned: int | None
    serving: Serving


class Runtime:
    """The one mutable heart of a serving process. Built by `app`, used by the proxy."""

    # It has too many for the interpreter's short way to what an object holds without slots.
    __slots__ = (
        "_arrived", "_arrived_since", "_arrived_until", "_hedged", "_places", "_prefixes", "_random", "_remember_at",
        "_remembered", "_round_at", "_secrets", "_tokens", "board", "buffered", "checkpoints", "closing",
        "conversations", "draining", "exchanges", "executor", "gates", "hedges", "ledger", "lexicon", "log", "loop",
        "may_buffer", "measures", "metrics", "otlp", "outbox", "paces", "pools", "pressure", "promises", "records",
        "refusing", "retries", "serving", "shadows", "shedding", "sidecar", "strangers", "tls_public", "tokenizers",
        "tracing", "watchdog", "wheel",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        metrics: Metrics,
        log: Callable[[list[Record]], None] | None,
        tokenizers: Tokenizers,
        lexicon: Lexicon,
    ) -> None:
        self.loop = loop
        self.wheel = Wheel(loop)
        self.watchdog = Watchdog(self.wheel)
        self.outbox = Outbox(loop, self._book)
        self.metrics = metrics
        self.log = log
        self.tokenizers = tokenizers
        self.lexicon = lexicon
        self.board = Board()
        self.paces = Paces()
        self.conversations = Conversations()
        self.shadows = Shadows(self)
        self.gates = Gates()
        metrics.sources += [self.gates, self.watchdog]
        self.checkpoints = Checkpoints(self)
        self.promises = Promises()
        self.retries = RetryBudget()
        self.executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="count")
        self.pools: dict[tuple[object, ...], Pool] = {}
        self._remembered: list[Remembered | None] = [None] * REMEMBERED
        self._remember_at = 0
        self._places = REMEMBERED  # of these in use
        self._round_at = 0.0  # when the first of them was used last, by the monotonic clock
        self._tokens: dict[tuple[object, ...], TokenSource] = {}
        self.hedges = HedgeBudget()
        self._hedged: dict[str, Pace] = {}  # by target
        self._prefixes: dict[tuple[str, tuple[Endpoint, ...]], Prefixes] = {}  # by target
        self.exchanges: set[Exchange] = set()
        self.shedding = Shedding(self)
        self.strangers = Strangers()
        metrics.sources.append(self.shedding)
        self.records: RecordLog | None = None  # set by who owns its files
        self.otlp: Otlp | None = None  # the same
        self.tracing: Tracing | None = None  # with it
        self.ledger: Ledger | None = None  # the same; see `keep`
        self.measures = False  # how fast targets are: from the first request on whose policy asks for it
        self.buffered = 0  # request bytes held for all clients
        self.may_buffer = 0  # as many of them as may be
        self.pressure = 0  # how short memory is: one of the steps of `pressure`, from 0 (CALM) to 3 (FULL)
        self.draining = False
        self.closing = False  # connections end with the answer under way: the process drains, or memory is short
        self.refusing = False  # requests that come now are refused: the process drains, and takes none any more
        self.sidecar: Sidecar | None = None  # set by who can start processes
        self.tls_public: ssl.SSLContext | None = None
        self._secrets: tuple[_Held, _Held] = ((None, set()), (None, set()))
        self._random: list[str] = []  # for ids of requests
        self._arrived = ""  # the millisecond of the last id, as text,
        self._arrived_since = self._arrived_until = 0.0  # and between which times it is that
        self.serving: Serving

    def adopt(self, site: Site, balances: Balances = EMPTY) -> None:  # type: ignore[assignment]
        """Serve `site` from the next request on. Raises OSError or ssl.SSLError for a CA file that does not load.

        `balances` are what budgets that are new have spent.
        """
        contexts: dict[str | None, ssl.SSLContext] = {}
        used: set[tuple[object, ...]] = set()
        doors: list[tuple[Target, tuple[Pool, ...], Door | None]] = []
        sources: dict[tuple[object, ...], TokenSource] = {}
        for target in site.fleet.targets:
            backend = target.backend
            pools = []
            for endpoint in backend.endpoints:
                key: tuple[object, ...] = (
                    backend.name,
                    endpoint,
                    backend.ca_file and (backend.ca_file, os.stat(backend.ca_file).st_mtime_ns),
                    backend.proxy,
                    backend.max_inflight,
                )
                used.add(key)
                pool = self.pools.get(key)
                if pool is None:
                    pool = self.pools[key] = self._new_pool(backend, endpoint, contexts)
                pools.append(pool)
            doors.append((target, tuple(pools), self._door(backend, sources)))
        gates, rooms = self.gates.adopt(site.quotas, balances, time.time())  # nothing can fail from here on
        routes = [Route(target, pools, door, rooms.get(target.name)) for target, pools, door in doors]
        self._remember(routes)
        self.may_buffer = min(self.may_buffer or site.limits.max_buffered, site.limits.max_buffered)
        policies = site.policies
        paced = frozenset(name for name, one in policies.items() if one.latency or one.ranks & {"fastest", "balanced"})
        self.measures = self.measures or site.default_policy.name in paced
        self.paces.adopt({name: one.latency for name, one in policies.items()}, [t.name for t in site.fleet.targets])
        self.conversations.keep(self._unchanged(site.fleet))
        doubted = self.promises.adopt(site.fleet, site.thinking_violations)
        wanted, most = site.limits.max_connections, descriptors.clients()
        if most < wanted:
            logger.warning("limits.max_connections: of %d there can be %d: too few files may be open", wanted, most)
        self.shedding.adopt(replace(site.limits, max_connections=min(wanted, most)))
        self.serving = Serving(site, tuple(routes), paced, doubted, gates=gates)
        for key in [key for key in self.pools if key not in used]:
            self.pools.pop(key).retire()
        if self.sidecar is not None:
            self.sidecar.want(site.sidecar)
        for source in self._tokens.keys() - sources.keys():
            self._tokens[source].stop()
        self._tokens = sources
        for one in sources.values():
            one.start(self.loop)

    def _remember(self, routes: list[Route]) -> None:
        """Give each target what is known of its pace and of its endpoints' caches: what was, if they are the same."""
        known, self._prefixes = self._prefixes, {}
        paces, self._hedged = self._hedged, {}
        for route in routes:
            backend = route.first.target.backend
            if backend.hedge is not None:
                pace = paces.get(route.name)
                if pace is None or pace.hedge != backend.hedge:
                    pace = Pace(backend.hedge)
                route.pace = self._hedged[route.name] = pace
            if backend.prefix_affinity:
                key = (route.name, backend.endpoints)
                route.prefixes = self._prefixes[key] = known.get(key) or Prefixes()

    def _unchanged(self, fleet: Fleet) -> set[str]:
        """Targets that still are what they were: the same model at the same backend."""
        serving: Serving | None = getattr(self, "serving", None)  # None: nothing was served yet
        before = {} if serving is None else {one.name: one for one in serving.site.fleet.targets}

        def same(one: Target, other: Target) -> bool:
            mine, others = one.backend, other.backend
            return (one.upstream_id, mine.name, mine.endpoints) == (other.upstream_id, others.name, others.endpoints)

        return {one.name for one in fleet.targets if one.name in before and same(one, before[one.name])}

    def _door(self, backend: Backend, sources: dict[tuple[object, ...], TokenSource]) -> Door | None:
        """What opens a backend that has more than a plain key. Backends with the same grant share one token."""
        auth = backend.auth
        if auth is None:
            return None
        if isinstance(auth, AwsKeys):
            return Signed(auth)
        key = (auth, backend.proxy, backend.ca_file)
        source = sources.get(key)
        if source is None:
            source = self._tokens.get(key)
            if source is None:
                source = TokenSource(auth, backend.proxy, backend.ca_file)
                before = (one for one in self._tokens.values() if identity(one.grant) == identity(auth))
                if (known := next(before, None)) is not None:
                    source.succeed(known)
            sources[key] = source
        return Bearer(source)

    def _new_pool(self, backend: Backend, endpoint: Endpoint, contexts: dict[str | None, ssl.SSLContext]) -> Pool:
        tls = None
        if endpoint.scheme == "https":
            tls = contexts.get(backend.ca_file)
            if tls is None:
                tls = contexts[backend.ca_file] = ssl.create_default_context(cafile=backend.ca_file)
                tls.set_alpn_protocols(["http/1.1"])
        return Pool(self.loop, self.wheel, self.outbox, backend, endpoint, tls)

    def request_id(self, wall: float) -> str:
        """32 hex digits: 48 bits of time in milliseconds, so that ids sort, and 80 random ones against guessing."""
        random = self._random
        if not random:
            text = os.urandom(4000).hex()
            random += [text[at : at + 20] for at in range(0, len(text), 20)]
        if wall >= self._arrived_until or wall < self._arrived_since:
            millisecond = int(wall * 1000)
            self._arrived_since, self._arrived_until = wall, (millisecond + 1) / 1000
            self._arrived = f"{millisecond:012x}"
        return self._arrived + random.pop()

    def keep(self, ledger: Ledger) -> None:
        """Book every attempt from the next request on."""
        self.ledger = ledger
        self.outbox.journal = ledger.journal.write
        if ledger.settings.durability == "full":
            self.outbox.durable = Durable(self.loop, ledger.journal.syncing)
        self.checkpoints.start()

    def remember(self, entry: Remembered) -> None:
        """Keep a finished request's decision inputs for `/v1/decisions`, in place of the oldest."""
        at = self._remember_at
        self._remembered[at] = entry
        self._remember_at = at = at + 1
        if at >= self._places:
            now = entry.record.ended_at
            quick = (now - self._round_at) * REMEMBERED < at * SOON_S
            self._places = FEW_REMEMBERED if quick else REMEMBERED
            if at >= self._places:
                self._remember_at = 0
                self._round_at = now

    def recall(self, request_id: str) -> Remembered | None:
        """What is kept of a recent request. Rarely asked, so it searches."""
        return next((one for one in self._remembered if one is not None and one.record.request_id == request_id), None)

    def warm(self) -> None:
        """Load the vocabularies that will soon be needed, in the thread that counts.

        Each takes 1 to 4 s and 50 to 100 MB. So none is loaded at the start, and not first for the prompt that cannot
        be placed without it, which would wait, but after one of half that length.
        """
        for name in self.tokenizers.take_wanted():
            logger.info("loading tokenizer %s: prompts come near a limit that it decides", name)
            self.executor.submit(self.tokenizers.load, name)

    def states(self) -> list[dict[str, Any]]:
        """Every target's health, see `Board.states`, and what is believed of its thinking."""
        serving = self.serving
        states = self.board.states(serving.site.fleet, time.monotonic())
        for state, target in zip(states, serving.site.fleet.targets, strict=True):
            doubted = bool(serving.doubted >> target.index & 1)
            state["thinking"] = "unknown" if doubted else target.thinking
            state["thinking_doubted"] = doubted
            state["thinking_violations"] = self.promises.count(target.name)
            state["slow"] = self.paces.missed(target.name)
            if state["state"] == "healthy" and serving.routes[target.index].locked:
                state |= {"state": "auth", "reason": Outcome.NO_TOKEN.value}
        return states

    def thought_unasked(self, target: Target) -> None:
        """An answer of this target held reasoning although it was told not to think."""
        limit = self.serving.site.thinking_violations
        if self.promises.broken(target, limit):
            self._believe()
            logger.warning(
                "target %s thought in %d answers although told not to: its thinking counts as unknown until "
                "`pointsman probe %s` sees it obey, or its configuration changes",
                target.name,
                limit,
                target.name,
            )

    def secrets(self) -> set[str]:
        """Never to be logged: every secret of the configuration being served and of the one before, and the tokens they
        were traded for. For any thread.
        """
        site = self.serving.site
        now, before = self._secrets
        if now[0] is not site:
            now, before = (site, site.secrets()), now
            self._secrets = now, before
        return now[1].union(before[1], *(source.secrets() for source in list(self._tokens.values())))

    def restore(self, target: str) -> bool:
        """Believe a target's promise not to think again; whether it was doubted."""
        doubted = self.promises.restore(target)
        if doubted:
            self._believe()
            logger.info("target %s obeys its thinking switch: it is believed again", target)
        return doubted

    def _believe(self) -> None:
        """Serve by what is believed now, with an empty memo: what it holds was decided by what was believed before."""
        serving = self.serving
        doubted = self.promises.mask(serving.site.fleet.targets)
        self.serving = replace(serving, memo=Memo(), doubted=doubted)

    def sidecar_told(self, names: frozenset[str], up: bool) -> None:
        """The sidecar came up or went down: nobody need find out about its targets by trying."""
        for name in names:
            if up:
                self.board.release(name)
            else:
                self.board.hold(name)

    @staticmethod
    def wall() -> float:
        """Unix time."""
        return time.time()

    def refused(self, asked: Asked | None, error: GatewayError) -> str:
        """Count and log a request that was refused before it became an Exchange. Returns its id."""
        now = time.monotonic()
        wall = time.time()
        tenant = asked.tenant if asked is not None else Tenant(key="")
        record = Record(self.request_id(wall), wall, now, asking_of(tenant, "", stream=False))
        record.ended_at = now
        record.status = error.status
        record.code = error.code
        self.outbox.ended(record)
        return record.request_id

    def _book(self, records: list[Record]) -> None:
        """Count and log requests that have ended."""
        self.metrics.finished(*records)
        if self.log is not None:
            self.log(records)
        if self.otlp is not None:
            self.otlp.add(records)

    def close(self) -> None:
        """Abort every upstream connection and stop the clocks and the counting thread."""
        self.shadows.close()
        self.checkpoints.stop()
        self.wheel.stop()
        for source in self._tokens.values():
            source.stop()
        for pool in self.pools.values():
            pool.close()
        self.executor.shutdown(wait=False, cancel_futures=True)
