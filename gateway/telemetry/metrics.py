"""What the gateway counts, and how Prometheus reads it.

Counting is on the path of every request, so it is plain integers in plain Python objects, and done for many requests
at a time: one dictionary look-up finds the cell of everything a request has in common with others, and a few tight
loops count what differs between those of a cell. Only a scrape expands that, in `families`, on a registry of its own.
Nothing here measures: the data plane hands over finished `Record`s. Nothing here opens a port either.

Label values come only from configuration. What a client sends is compared with the configured names and counted as
`other` when it is none of them, so that no client can create a series; what a request never had is `none`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from gateway.core import pricing
from gateway.core.decide import PIN
from gateway.core.errors import CODES
from gateway.core.types import Outcome, Price, Record

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from gateway.telemetry.otlp.settings import Tally
    from gateway.telemetry.records import RecordLog
    from gateway.telemetry.shadows import ShadowCounts

#: Seconds. Answers of language models take from milliseconds (a cached short one) to minutes (long thinking).
DURATION_BUCKETS_S = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 7.5,
    10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0,
)  # fmt: skip
#: Seconds, 50 microseconds to 100 milliseconds: what the gateway itself adds.
OVERHEAD_BUCKETS_S = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1)

#: Seconds between two tokens: from a small model on a fast server to a large one that is overloaded.
PER_TOKEN_BUCKETS_S = (
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5,
)  # fmt: skip

#: Records kept before they are counted.
MOST_WAITING = 512

_OTHER = "other"
#: The label value of what a request never had.
NONE = "none"
#: How `Routing.thinking` begins where a model was told to think.
_THINKS = ("always", "budget")
_CODES = frozenset(CODES) | {"ok", "client_gone"}


class TargetFacts(NamedTuple):
    """What is exported of a target as configured. `retires_at`: Unix seconds at which its model is withdrawn."""

    target: str
    model: str
    family: str
    backend: str
    region: str
    retires_at: float | None = None


class Baseline(NamedTuple):
    """What costs are compared with: a model or target by the name configured, at the prices of one target."""

    name: str
    price: Price


class EndpointNow(NamedTuple):
    """One endpoint of a target, as a scrape finds it."""

    target: str
    endpoint: str  # its URL, as configured
    state: str  # one of core.health.STATES
    inflight: int  # requests of this target under way there


@dataclass(frozen=True, slots=True)
class Vitals:
    """What the living process is like at the moment of a scrape: what no count of finished requests can tell."""

    inflight: int = 0
    queued: int = 0
    targets: tuple[Mapping[str, Any], ...] = ()  # as `Runtime.states` tells them
    endpoints: tuple[EndpointNow, ...] = ()
    ejections: Mapping[tuple[str, str, str], int] = field(default_factory=dict)  # target, endpoint, outcome


@dataclass(frozen=True, slots=True)
class Names:
    """Every label value that configuration allows. What is in none of these sets is exported as `other`.

    `asked` holds what a client may put in `model`: auto, auto/<policy>, the `models:` map, models and targets.
    `policies` maps a policy's name to its digest. `facts` and `baseline` are what else of it is exported.
    """

    asked: frozenset[str] = frozenset()
    rules: frozenset[str] = frozenset()
    targets: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()
    teams: frozenset[str] = frozenset()
    policies: Mapping[str, str] | None = None
    facts: tuple[TargetFacts, ...] = ()
    baseline: Baseline | None = None


class Counted(Protocol):
    """A log, as far as it counts its lines."""

    @property
    def written(self) -> int:
        """Lines that were taken by where they go."""

    @property
    def left_out(self) -> int:
        """Lines that another one stands for."""

    @property
    def lost(self) -> int:
        """Lines that nobody took."""


class Histogram:
    """Counts per bucket (not cumulative; the last is +Inf) and the sum of what was observed."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, observed: list[float]) -> None:
        """Take down what was observed."""
        observed.sort()
        self.sum += sum(observed)
        before = 0
        for place, bound in enumerate((*self.bounds, math.inf)):
            upto = bisect_right(observed, bound, before)
            self.counts[place] += upto - before
            before = upto

    def cumulative(self) -> list[tuple[str, float]]:
        """The buckets as Prometheus wants them: upper bound as text, and how many were not above it."""
        total, out = 0, []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), tuple(self.counts), strict=True):
            total += count
            out.append((bound, float(total)))
        return out


@dataclass(frozen=True, slots=True)
class _Labels:
    """What the requests of one cell have in common, as label values."""

    policy: str
    rule: str
    chosen: str
    target: str
    model: str
    asked: str
    team: str
    code: str
    stream: str


class Cell:
    """Running totals of all requests with the same labels; the histograms are shared with other cells."""

    __slots__ = (
        "baseline_nano", "broken", "cached", "cost_nano", "duration", "estimated", "fallbacks", "first_event", "input",
        "labels", "output", "overhead", "per_token", "reasoning", "refused", "requests", "unpriced", "violations",
    )  # fmt: skip

    def __init__(self, labels: _Labels, duration: Histogram, first_event: Histogram, overhead: Histogram) -> None:
        self.labels = labels
        self.duration = duration
        self.first_event = first_event
        self.overhead = overhead
        self.per_token: Histogram | None = None  # of streams that ended well
        self.requests = self.refused = self.broken = 0
        self.fallbacks: dict[str, int] = {}  # by reason
        self.input = self.cached = self.output = self.reasoning = self.estimated = 0
        self.cost_nano = self.unpriced = self.violations = 0
        self.baseline_nano: dict[str, int] = {}  # by baseline

    def add(self, records: list[Record], baseline: Baseline | None = None) -> None:
        """Count requests of this cell."""
        self.requests += len(records)
        self.duration.add([record.ended_at - record.started_at for record in records])
        self.first_event.add([one.first_event_at - one.started_at for one in records if one.first_event_at])
        sent = [record for record in records if record.sent_at]
        self.overhead.add([record.sent_at - record.started_at for record in sent])
        self.cost_nano += sum([record.cost_nano for record in sent])
        self.unpriced += sum([not record.priced for record in sent])
        used = [record.usage for record in records if record.usage is not None]
        self.input += sum([usage.input for usage in used])
        self.cached += sum([usage.cached for usage in used])
        self.output += sum([usage.output for usage in used])
        self.reasoning += sum([usage.reasoning for usage in used])
        self.estimated += sum([usage.estimated for usage in used])
        if self.per_token is not None:
            self.per_token.add(
                [
                    (one.ended_at - one.first_event_at) / (one.usage.output - 1)
                    for one in records
                    if one.usage is not None and one.usage.output > 1 and not one.usage.estimated
                    if not one.client_slow
                ]
            )
        if baseline is not None and used:
            self._compare(records, baseline)
        for record in records:
            if record.attempts != 1 or record.thought_unasked or record.code != "ok":
                self._unusual(record)

    def _compare(self, records: list[Record], baseline: Baseline) -> None:
        """What the same tokens would have cost at the baseline; only where what they did cost is known."""
        would = [
            pricing.cost(baseline.price, one.usage, one.routing.thinking.startswith(_THINKS))
            for one in records
            if one.usage is not None and one.priced
        ]
        self.baseline_nano[baseline.name] = self.baseline_nano.get(baseline.name, 0) + sum(would)

    def _unusual(self, record: Record) -> None:
        """Count what most requests do not have."""
        if record.thought_unasked:
            self.violations += 1
        if record.code == "ok":
            if record.routing.chosen and record.routing.target != record.routing.chosen:
                reason = record.fallback_reason or NONE
                self.fallbacks[reason] = self.fallbacks.get(reason, 0) + 1
        elif record.code != "client_gone":
            if not record.sent_at:
                self.refused += 1
            elif record.routing.stream and record.first_event_at:
                self.broken += 1


_RawKey = tuple[object, ...]
_LABELLED = ("policy", "rule", "chosen", "target", "model", "model_asked", "team", "stream")


class Metrics:
    """The counters of one process. They survive every reload; `configure` only changes which names are known.

    `vitals` is set before a scrape, by whoever knows how the process is.
    All methods belong to the event loop's thread, except `prepare`, which may run in another.
    """

    def __init__(
        self,
        names: Names,
        *,
        build: Mapping[str, str] | None = None,
        process: bool = True,
    ) -> None:
        self.vitals = Vitals()
        self.records: RecordLog | None = None
        self.shadows: ShadowCounts | None = None  # set by who sends some
        self.otlp: Tally | None = None  # the same
        self.logs: Mapping[str, Counted] = {}  # by what their lines are about; set by who writes some
        self.build = dict(build or {})
        self.reloads = {"ok": 0, "rejected": 0}
        self.last_reload_ok = True
        self.loaded_at = 0.0  # Unix seconds at which the configuration being served was taken; 0: not told
        self._retries: dict[tuple[str, Outcome], int] = {}
        self._fast: dict[_RawKey, Cell] = {}
        self._cells: dict[_Labels, Cell] = {}
        self._histograms: dict[tuple[str, ...], Histogram] = {}
        self._attempts: dict[tuple[str, Outcome], int] = {}
        self._waiting: list[Record] = []
        self.configure(names)
        self._process = process
        self._registry: CollectorRegistry | None = None

    def configure(self, names: Names) -> None:
        """Take the names of a new configuration. Counters go on where they were."""
        self._count()
        self.names = names
        self._fast.clear()  # holds policies with their digest, and is what a reload must not let grow

    def reloaded(self, ok: bool, at: float) -> None:
        """Count one attempt to reload the configuration, which ended at this Unix time."""
        self.reloads["ok" if ok else "rejected"] += 1
        self.last_reload_ok = ok
        if ok:
            self.loaded_at = at

    def attempt(self, target: str, outcome: Outcome) -> None:
        """Count one attempt that went wrong, by how. `target` is the name of a Target, so it needs no check.

        One that went well ended its request, and is counted by `finished`.
        """
        attempts = self._attempts
        key = (target, outcome)
        try:
            attempts[key] += 1
        except KeyError:
            attempts[key] = 1

    def retry(self, target: str, outcome: Outcome) -> None:
        """Count one attempt that follows another, by the target of the one before and how that ended."""
        key = (target, outcome)
        self._retries[key] = self._retries.get(key, 0) + 1

    def finished(self, *records: Record) -> None:
        """HOT. Count requests that have ended, in whatever way; each is handed over once and changes no more.

        What many records say is read off faster than what each of them says, so they wait for the others.
        """
        self._waiting += records
        if len(self._waiting) >= MOST_WAITING:
            self._count()

    def _count(self) -> None:
        """Count those that wait. To be done before anything is read, and before names change."""
        records, self._waiting = self._waiting, []
        alike: dict[Cell, list[Record]] = {}
        for record in records:
            cell = record.routing.cell
            if cell is None or record.code != "ok":
                cell = self._find(record)
            if cell in alike:
                alike[cell].append(record)
            else:
                alike[cell] = [record]
        for cell, those in alike.items():
            cell.add(those, self.names.baseline)

    def _find(self, record: Record) -> Cell:
        """The cell of a request whose routing does not name it."""
        key = (record.code, *[getattr(record.routing, name) for name in _LABELLED])
        cell = self._fast.get(key)
        if cell is None:
            cell = self._cell(record, key)
        if record.code == "ok":
            record.routing.cell = cell
        return cell

    def _cell(self, record: Record, key: _RawKey) -> Cell:
        """The cell of a combination that is new, or that holds a name configuration does not know."""
        routing = record.routing
        names, known = self.names, True

        def checked(value: str, allowed: Iterable[str]) -> str:
            nonlocal known
            if not value:
                return NONE
            if value in allowed:
                return value
            known = False
            return _OTHER

        labels = _Labels(
            policy=checked(routing.policy.partition("@")[0], names.policies or ()),
            rule=routing.rule if routing.rule == PIN else checked(routing.rule, names.rules),
            chosen=checked(routing.chosen or routing.target, names.targets),
            target=checked(routing.target, names.targets),
            model=checked(routing.model, names.models),
            asked=checked(routing.model_asked, names.asked),
            team=checked(routing.team, names.teams),
            code=checked(record.code, _CODES),
            stream="true" if routing.stream else "false",
        )
        cell = self._cells.get(labels)
        if cell is None:
            cell = self._cells[labels] = Cell(
                labels,
                self._histogram("request_duration_seconds", DURATION_BUCKETS_S, labels.target, labels.stream),
                self._histogram("time_to_first_event_seconds", DURATION_BUCKETS_S, labels.target, labels.stream),
                self._histogram("gateway_overhead_seconds", OVERHEAD_BUCKETS_S, labels.rule),
            )
            if labels.stream == "true" and labels.code == "ok":
                cell.per_token = self._histogram("time_per_output_token_seconds", PER_TOKEN_BUCKETS_S, labels.target)
        if known:  # else the raw key holds a value that a client chose, and the dictionary would be its to fill
            self._fast[key] = cell
        return cell

    def _histogram(self, family: str, bounds: tuple[float, ...], *labels: str) -> Histogram:
        key = (family, *labels)
        return self._histograms.setdefault(key, Histogram(bounds))

    def exposition(self) -> bytes:
        """All families in Prometheus's text format (`text/plain; version=0.0.4`)."""
        from gateway.telemetry.families import expose  # noqa: PLC0415 - see `prepare`

        self._count()
        return expose(self.prepare())

    def prepare(self) -> CollectorRegistry:
        """What a scrape reads. Importing it takes longer than a start should wait, and than the first scrape should."""
        from gateway.telemetry.families import registry  # noqa: PLC0415

        made = self._registry
        if made is None:
            made = self._registry = registry(self, process=self._process)
        return made

    # What a scrape reads. Copies, because the event loop may go on counting meanwhile.

    def cells(self) -> list[Cell]:
        """Every cell there is."""
        return list(self._cells.values())

    def attempts(self) -> list[tuple[str, str, int]]:
        """(target, outcome, count) of every pair that was counted."""
        good = dict.fromkeys(sorted(self.names.targets), 0)
        for cell in self.cells():
            if cell.labels.code == "ok":
                good[cell.labels.target] = good.get(cell.labels.target, 0) + cell.requests
        return [(target, Outcome.OK.value, count) for target, count in good.items()] + [
            (target, outcome.value, count) for (target, outcome), count in list(self._attempts.items())
        ]

    def retries(self) -> list[tuple[str, str, int]]:
        """(reason, target, count) of every pair that was counted."""
        return [(outcome.value, target, count) for (target, outcome), count in list(self._retries.items())]

    def histograms(self, family: str) -> list[tuple[tuple[str, ...], Histogram]]:
        """(label values, histogram) of one family."""
        return [(key[1:], histogram) for key, histogram in list(self._histograms.items()) if key[0] == family]
