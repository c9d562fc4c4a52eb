"""What requests that share all their labels come to between two scrapes, and the series that it is then added to.

A request adds to one cell and waits in two lists for its times to be taken down with those of others; which cell, and
when, is up to `metrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.core.errors import CODES
from gateway.core.money.usage import used_by
from gateway.core.types import Outcome, Record
from gateway.telemetry import families
from gateway.telemetry.series import Count, Family, Histogram

if TYPE_CHECKING:
    from gateway.telemetry.metrics import Metrics

#: The label value of a name that configuration does not know.
OTHER = "other"
#: The label value of what a request never had.
NONE = "none"
#: Values of the label `code`.
CODES_COUNTED = frozenset(CODES) | {"ok", "client_gone"}


@dataclass(frozen=True, slots=True)
class Labels:
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


class Timing:
    """How long requests took; they wait for some more of their kind, because many are taken down faster than each."""

    __slots__ = ("histograms", "waiting")

    def __init__(self, *histograms: tuple[Histogram, Callable[[list[Record]], Timed]]) -> None:
        self.histograms = histograms
        self.waiting: list[Record] = []

    def settle(self) -> None:
        """Take down those that wait."""
        records, self.waiting = self.waiting, []
        for histogram, timed in self.histograms:
            histogram.add(*timed(records))


#: Seconds, and the requests that took them.
Timed = tuple[list[float], list[Record]]


def durations(records: list[Record]) -> Timed:
    """From arrival to end."""
    return [record.ended_at - record.started_at for record in records], records


def first_events(records: list[Record]) -> Timed:
    """From arrival to the first meaningful event or the complete answer, of those that had one."""
    begun = [record for record in records if record.first_event_at]
    return [record.first_event_at - record.started_at for record in begun], begun


def overheads(records: list[Record]) -> Timed:
    """From arrival to the first sending, of those that were sent."""
    sent = [record for record in records if record.sent_at]
    return [record.sent_at - record.started_at for record in sent], sent


def per_token(records: list[Record]) -> Timed:
    """From one output token to the next, of whole streams whose tokens are known and whose client kept up."""
    seconds, known = [], []
    for record in records:
        used = used_by(record, record.answered or record.attempts)
        if used is None or used.output < 2 or used.estimated or record.client_slow or record.code != "ok":
            continue  # not known, or the client's doing
        seconds.append((record.ended_at - record.first_event_at) / (used.output - 1))
        known.append(record)
    return seconds, known


class Tokens:
    """Tokens by class of one target, model and team; `cached` is a part of `input`, `reasoning` of `output`."""

    __slots__ = ("cached", "input", "output", "reasoning", "texts")

    def __init__(self, texts: tuple[str, ...]) -> None:
        self.texts = texts  # input, cached, output, reasoning
        self.input = self.cached = self.output = self.reasoning = 0

    def add(self, entered: int, cached: int, produced: int, reasoning: int) -> None:
        """Add the tokens of some requests."""
        self.input += entered
        self.cached += cached
        self.output += produced
        self.reasoning += reasoning


class TokenTotals:
    """The series of tokens by class. The classes that are exported do not overlap."""

    CLASSES = ("input", "cached", "output", "reasoning")

    def __init__(self, family: Family) -> None:
        self.family = family
        self._kept: dict[tuple[str, ...], Tokens] = {}

    def at(self, *values: str) -> Tokens:
        """Those of one target, model and team."""
        tokens = self._kept.get(values)
        if tokens is None:
            texts = tuple(self.family.series((*values, name)) for name in self.CLASSES)
            tokens = self._kept[values] = Tokens(texts)
        return tokens

    def blocks(self, *, openmetrics: bool) -> Iterator[str]:
        """All of them, as they are now."""
        for one in list(self._kept.values()):
            entered, cached, produced, reasoning = one.texts
            yield (
                f"{entered}{max(0, one.input - one.cached)}\n{cached}{one.cached}\n"
                f"{produced}{max(0, one.output - one.reasoning)}\n{reasoning}{one.reasoning}\n"
            )


class Cell:
    """What requests with the same labels come to since the last scrape."""

    __slots__ = (
        "baseline_nano", "cached", "cost_nano", "estimated", "folds", "input", "labels", "output", "overhead",
        "reasoning", "requests", "timing", "unpriced",
    )  # fmt: skip

    def __init__(self, labels: Labels, timing: Timing, overhead: Timing) -> None:
        self.labels = labels
        self.timing = timing
        self.overhead = overhead
        self.folds: Folds | None = None  # until a scrape asks
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.requests = self.input = self.cached = self.output = self.reasoning = 0
        self.cost_nano = self.unpriced = self.estimated = self.baseline_nano = 0


class Folds:
    """Where the requests of one cell are added up with those of others; each of it is a series that is exported."""

    __slots__ = ("cost", "decisions", "estimated", "ok", "requests", "tokens", "unpriced")

    def __init__(self, labels: Labels, metrics: Metrics) -> None:
        at, target = metrics.at, labels.target
        self.requests = at(
            families.REQUESTS, labels.asked, labels.policy, labels.rule, target, labels.team, labels.code
        )
        self.decisions: Count | None = None
        if labels.policy != NONE:
            self.decisions = at(families.DECISIONS, labels.policy, labels.rule, labels.chosen)
        self.ok: Count | None = None
        if labels.code == "ok":
            self.ok = at(families.ATTEMPTS, target, Outcome.OK.value)
        self.tokens: Tokens | None = None  # None: nothing was tried, so nothing was used
        if target != NONE:
            self.tokens = metrics.tokens.at(target, labels.model, labels.team)
            self.cost = at(families.COST, target, labels.model, labels.rule, labels.team, labels.policy)
            self.unpriced = at(families.UNPRICED, target)
            self.estimated = at(families.ESTIMATED, target)

    def take(self, cell: Cell) -> None:
        """Add what a cell has come to."""
        self.requests.value += cell.requests
        if self.decisions is not None:
            self.decisions.value += cell.requests
        if self.ok is not None:
            self.ok.value += cell.requests
        if self.tokens is not None:
            self.tokens.add(cell.input, cell.cached, cell.output, cell.reasoning)
            self.cost.value += cell.cost_nano
            self.unpriced.value += cell.unpriced
            self.estimated.value += cell.estimated
