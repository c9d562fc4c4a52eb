"""What the gateway counts of its requests.

Counting is on the path of every request, so it is plain integers in plain Python objects, and done for many requests
at a time: one look-up finds the cell of everything a request has in common with others, and a tight loop adds to it.
Only a scrape adds `cells` up to series and makes text of them, in `families` and `series`. Nothing here measures: the
data plane hands over finished `Record`s. Nothing here opens a port either.

Label values come only from configuration. What a client sends is compared with the configured names and counted as
`other` when it is none of them, so that no client can create a series; what a request never had is `none`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from gateway.core.decide import PIN
from gateway.core.types import Outcome, Record
from gateway.telemetry import families, present
from gateway.telemetry.cells import (
    CODES_COUNTED,
    NONE,
    OTHER,
    Cell,
    Folds,
    Labels,
    Timing,
    TokenTotals,
    durations,
    first_events,
    overheads,
    per_token,
)
from gateway.telemetry.names import Counted, Names, Vitals
from gateway.telemetry.series import Count, Family, Histograms, Kept, Source, Totals, written

if TYPE_CHECKING:
    from gateway.ledger.ledger import Ledger
    from gateway.telemetry.otlp.settings import Tally
    from gateway.telemetry.process import Process
    from gateway.telemetry.records import RecordLog

#: Records kept before they are counted; before those of one target, or of one rule, are taken down in its histograms;
#: and cells that a scrape brings up to date in one go.
MOST_WAITING = 32
MOST_TIMED = 32
CELLS_AT_ONCE = 500

_RawKey = tuple[object, ...]
_LABELLED = ("policy", "rule", "chosen", "target", "model", "model_asked", "team", "stream")


class Metrics:
    """The counters of one process. They survive every reload; `configure` only changes which names are known.

    `vitals` is set before a scrape, by whoever knows how the process is. `sources` have further series to export, which
    other parts of the gateway count. All methods belong to the event loop's thread, except `prepare`, which may run in
    another.
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
        self.sources: list[Source] = []
        self.ledger: Ledger | None = None  # the same
        self.otlp: Tally | None = None  # set by who exports
        self.logs: Mapping[str, Counted] = {}  # by what their lines are about; set by who writes some
        self.build = dict(build or {})
        self.reloads = {"ok": 0, "rejected": 0}
        self.last_reload_ok = True
        self.loaded_at = 0.0  # Unix seconds at which the configuration being served was taken; 0: not told
        self._fast: dict[_RawKey, Cell] = {}
        self._cells: dict[Labels, Cell] = {}
        self._changed: list[Cell] = []  # those with something that no series shows yet
        self._timings: dict[tuple[str, str], Timing] = {}
        self._overheads: dict[str, Timing] = {}
        self._totals = {one: Totals(one) for one in families.COUNTED}
        self.tokens = TokenTotals(families.TOKENS)
        self.duration = Histograms(families.DURATION, families.DURATION_BUCKETS_S)
        self.first_event = Histograms(families.FIRST_EVENT, families.DURATION_BUCKETS_S)
        self.per_token = Histograms(families.PER_TOKEN, families.PER_TOKEN_BUCKETS_S)
        self.overhead = Histograms(families.OVERHEAD, families.OVERHEAD_BUCKETS_S)
        self._waiting: list[Record] = []
        self._process: Process | None = None
        self._with_process = process
        self.names = self._allowed = names
        self.configure(names)

    def configure(self, names: Names) -> None:
        """Take the names of a new configuration. Counters go on where they were."""
        for _ in self._fold():
            pass
        self._allowed = names.after(self._allowed)  # for requests that began before; their series stay, too
        self.names = names
        self._fast.clear()  # holds policies with their digest, and is what a reload must not let grow
        self.at(families.DISCONNECTS)
        for target in sorted(names.targets):  # a rate is only known from a first zero on
            self.at(families.ATTEMPTS, target, Outcome.OK.value)
            self.at(families.VIOLATIONS, target)

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
        self.at(families.ATTEMPTS, target, outcome.value).value += 1

    def retry(self, target: str, outcome: Outcome) -> None:
        """Count one attempt that follows another, by the target of the one before and how that ended."""
        self.at(families.RETRIES, outcome.value, target).value += 1

    def hedge(self, target: str, result: str) -> None:
        """Count a second attempt beside a first: won, lost, failed or withheld."""
        self.at(families.HEDGES, target, result).value += 1

    def anomalies(self, target: str, count: int) -> None:
        """Count what of a stream was odd and was tolerated."""
        self.at(families.ANOMALIES, target).value += count

    def finished(self, *records: Record) -> None:
        """HOT. Count requests that have ended, in whatever way; each is handed over once and changes no more.

        What many records say is read off faster than what each of them says, so they wait for the others.
        """
        self._waiting += records
        if len(self._waiting) >= MOST_WAITING:
            self._count()

    def _count(self) -> None:
        """HOT. Count those that wait. To be done before anything is read, and before names change."""
        records, self._waiting = self._waiting, []
        baseline = self.names.baseline
        for record in records:
            cell = record.routing.cell
            if cell is None or record.code != "ok":
                cell = self._find(record)
            if not cell.requests:
                self._changed.append(cell)
            cell.requests += 1
            used = record.usage
            if used is not None:
                cell.input += used.input
                cell.output += used.output
                if used.cached:
                    cell.cached += used.cached
                if used.reasoning:
                    cell.reasoning += used.reasoning
                if used.estimated:
                    cell.estimated += 1
            if record.sent_at:
                cell.cost_nano += record.cost_nano
                if not record.priced:
                    cell.unpriced += 1
                elif baseline is not None and used is not None:
                    cell.baseline_nano += baseline.cost(used, record.routing.thinking)
            waiting = cell.timing.waiting
            waiting.append(record)
            if len(waiting) >= MOST_TIMED:
                cell.timing.settle()
            waiting = cell.overhead.waiting
            waiting.append(record)
            if len(waiting) >= MOST_TIMED:
                cell.overhead.settle()
            if record.attempts != 1 or record.thought_unasked or record.code != "ok":
                self._unusual(record, cell)

    def _unusual(self, record: Record, cell: Cell) -> None:
        """Count what most requests do not have."""
        labels = cell.labels
        if record.spent:
            self._apportion(record, cell)
        if record.thought_unasked:
            self.at(families.VIOLATIONS, labels.target).value += 1
        if record.code == "ok":
            if labels.target != labels.chosen:
                reason = record.fallback_reason or NONE
                self.at(families.FALLBACKS, labels.rule, labels.chosen, labels.target, reason).value += 1
        elif record.code == "client_gone":
            self.at(families.DISCONNECTS).value += 1
        elif not record.sent_at and not labels.code.startswith("upstream_"):  # those had nobody to send it to
            self.at(families.REFUSALS, labels.code).value += 1
        elif record.routing.stream and record.first_event_at:
            self.at(families.INTERRUPTED, labels.target, labels.code).value += 1

    def _apportion(self, record: Record, cell: Cell) -> None:
        """Give other targets what their attempts used and cost; `cell`, which has it all, is the last one's."""
        names, labels, baseline, thinking = self._allowed, cell.labels, self.names.baseline, record.routing.thinking
        targets = dict.fromkeys(one.target for one in record.spent if one.target != record.routing.target)
        if not targets or record.usage is None:
            return
        cell.unpriced += any(not one.priced for one in record.spent if one.target not in targets) - (not record.priced)
        cell.estimated += (
            any(one.usage.estimated for one in record.spent if one.target not in targets) - record.usage.estimated
        )
        if compared := baseline if record.priced else None:  # lengths have prices of their own: of each attempt
            cell.baseline_nano -= compared.cost(record.usage, thinking)
            cell.baseline_nano += sum(compared.cost(one.usage, thinking) for one in record.spent)
        for name in targets:
            theirs = [one for one in record.spent if one.target == name]
            target = name if name in names.targets else OTHER
            model = theirs[0].model if theirs[0].model in names.models else OTHER
            self.at(families.UNPRICED, target).value += any(not one.priced for one in theirs)
            self.at(families.ESTIMATED, target).value += any(one.usage.estimated for one in theirs)
            for one in theirs:
                used, cost_nano = one.usage, one.cost_nano
                tokens = (used.input, used.cached, used.output, used.reasoning)
                self.tokens.at(target, model, labels.team).add(*tokens)
                self.at(families.COST, target, model, labels.rule, labels.team, labels.policy).value += cost_nano
                cell.input, cell.cached = cell.input - used.input, cell.cached - used.cached
                cell.output, cell.reasoning = cell.output - used.output, cell.reasoning - used.reasoning
                cell.cost_nano -= cost_nano
                if compared:
                    would = compared.cost(used, thinking)
                    self._compared(replace(labels, target=target, model=model)).value += would
                    cell.baseline_nano -= would

    def _fold(self) -> Iterator[None]:
        """Bring every series up to what was counted, some cells at a time."""
        self._count()
        changed = self._changed
        while changed:  # taken out one by one, so that a scrape that is broken off loses none
            cell = changed.pop()
            if cell.folds is None:
                cell.folds = Folds(cell.labels, self)
            cell.folds.take(cell)
            if cell.baseline_nano:
                self._compared(cell.labels).value += cell.baseline_nano
            cell.clear()
            if not len(changed) % CELLS_AT_ONCE:
                yield
        for timing in (*self._timings.values(), *self._overheads.values()):
            if timing.waiting:
                timing.settle()
                yield

    def _compared(self, named: Labels) -> Count:
        baseline = self.names.baseline
        of = (named.target, named.model, named.rule, named.team, baseline.name if baseline is not None else OTHER)
        return self.at(families.BASELINE_COST, *of)

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
        names, known = self._allowed, True

        def checked(value: str, allowed: Iterable[str]) -> str:
            nonlocal known
            if not value:
                return NONE
            if value in allowed:
                return value
            known = False
            return OTHER

        labels = Labels(
            policy=checked(routing.policy.partition("@")[0], names.policies or ()),
            rule=routing.rule if routing.rule == PIN else checked(routing.rule, names.rules),
            chosen=checked(routing.chosen or routing.target, names.targets),
            target=checked(routing.target, names.targets),
            model=checked(routing.model, names.models),
            asked=checked(routing.model_asked, names.asked),
            team=checked(routing.team, names.teams),
            code=checked(record.code, CODES_COUNTED),
            stream="true" if routing.stream else "false",
        )
        cell = self._cells.get(labels)
        if cell is None:
            cell = self._cells[labels] = Cell(
                labels, self._timing(labels.target, labels.stream), self._overhead(labels.rule)
            )
        if known:  # else the raw key holds a value that a client chose, and the dictionary would be its to fill
            self._fast[key] = cell
        return cell

    # -- where to add --

    def at(self, family: Family, *values: str) -> Count:
        """One series of a counter. `values` must be names of configuration, or of a closed set."""
        return self._totals[family].at(*values)

    def _timing(self, target: str, stream: str) -> Timing:
        """What takes down how long requests of this target take, streamed ("true") or not."""
        timing = self._timings.get((target, stream))
        if timing is None:
            of = (target, stream)
            histograms = [(self.duration.at(*of), durations), (self.first_event.at(*of), first_events)]
            if stream == "true":
                histograms.append((self.per_token.at(target), per_token))
            timing = self._timings[of] = Timing(*histograms)
        return timing

    def _overhead(self, rule: str) -> Timing:
        """What takes down how long requests of this rule take before they are sent."""
        timing = self._overheads.get(rule)
        if timing is None:
            timing = self._overheads[rule] = Timing((self.overhead.at(rule), overheads))
        return timing

    # -- what a scrape reads --

    def exposition(self, *, openmetrics: bool = False) -> bytes:
        """All families in Prometheus's text format (`text/plain; version=0.0.4`), or in that of OpenMetrics 1.0."""
        return b"".join(self.pieces(openmetrics=openmetrics))

    def pieces(self, *, openmetrics: bool = False) -> Iterator[bytes]:
        """The same in pieces, each in little time, so that requests can be served in between."""
        for _ in self._fold():
            yield b""
        yield from written(self._kept(), openmetrics=openmetrics)
        if self._with_process:
            yield self.prepare().read(openmetrics=openmetrics)
        elif openmetrics:
            yield b"# EOF\n"

    def _kept(self) -> Iterator[Kept]:
        yield from self._totals.values()
        yield self.tokens
        yield from (self.duration, self.first_event, self.per_token, self.overhead)
        yield from present.now(self)
        for source in self.sources:
            yield from source.read()

    def prepare(self) -> Process:
        """The interpreter's own figures. Importing what has them takes longer than the first scrape should."""
        from gateway.telemetry.process import Process  # noqa: PLC0415

        if self._process is None:
            self._process = Process()
        return self._process
