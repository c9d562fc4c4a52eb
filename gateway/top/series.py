"""From two scrapes to rates: what Prometheus does with counters and buckets, for a window of a few scrapes.

Here belong reading the text format, the increase of counters through restarts, and percentiles of buckets. Pure but for
the parser's library: scrapes come in as text, times as numbers. What the figures mean is `gateway.top.view`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

#: The name of a sample and its labels, sorted.
Series = tuple[str, tuple[tuple[str, str], ...]]

#: No figure of a gateway is greater, and so no sum of them is infinite.
MOST = 1e18
_STARTED = "process_start_time_seconds"
_PREFIX = "pointsman_"


@dataclass(frozen=True, slots=True)
class Scrape:
    """One answer of `/metrics`: `at` in seconds of a monotonic clock, `started` in Unix seconds, 0 where not told."""

    at: float
    started: float
    counters: Mapping[Series, float]
    gauges: Mapping[Series, float]


def parse(text: str, at: float) -> Scrape:
    """A scrape of the text format. Raises ValueError for what is none, or is not a gateway's."""
    counters: dict[Series, float] = {}
    gauges: dict[Series, float] = {}
    started = 0.0
    for family in text_string_to_metric_families(text):
        if family.name == _STARTED:
            started = next((one.value for one in family.samples if abs(one.value) <= MOST), 0.0)
        if not family.name.startswith(_PREFIX):
            continue
        kept = gauges if family.type in ("gauge", "unknown", "info") else counters
        for sample in family.samples:
            if abs(sample.value) <= MOST:
                kept[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    if not counters and not gauges:
        raise ValueError("its /metrics holds nothing of a gateway")
    return Scrape(at, started, counters, gauges)


def increase(before: Scrape, after: Scrape) -> dict[Series, float]:
    """By how much each counter grew; those that did not are left out, but for buckets.

    One that is less than it was has begun again from 0, and so has a new one. After a restart every counter has, also
    one that has meanwhile passed what it was.
    """
    restarted = before.started != after.started
    grown: dict[Series, float] = {}
    for series, value in after.counters.items():
        was = 0.0 if restarted else before.counters.get(series, 0.0)
        more = value - was if value >= was else value
        if more > 0 or series[0].endswith("_bucket"):  # an empty bucket still says where the next one begins
            grown[series] = more
    return grown


@dataclass(slots=True)
class Window:
    """The increases of one gateway's counters over the last `length_s` seconds, at least between two scrapes."""

    length_s: float
    last: Scrape | None = None
    _steps: deque[tuple[float, dict[Series, float]]] = field(default_factory=deque)
    _seconds: float = 0.0

    def add(self, scrape: Scrape) -> None:
        """Take the next scrape, and forget what is older than the window."""
        before, self.last = self.last, scrape
        if before is None or scrape.at <= before.at:
            return
        self._steps.append((scrape.at - before.at, increase(before, scrape)))
        self._seconds += scrape.at - before.at
        while len(self._steps) > 1 and self._seconds - self._steps[0][0] >= self.length_s:
            self._seconds -= self._steps.popleft()[0]

    @property
    def seconds(self) -> float:
        """How long the window is by now; 0 before the second scrape."""
        return self._seconds if self._steps else 0.0

    def rates(self) -> dict[Series, float]:
        """What each counter grew by per second; those that stood still are left out, but for buckets."""
        summed: dict[Series, float] = {}
        for _, grown in self._steps:
            for series, more in grown.items():
                summed[series] = summed.get(series, 0.0) + more
        return {series: more / self._seconds for series, more in summed.items()}


def added(of: Iterable[Mapping[Series, float]]) -> dict[Series, float]:
    """The series of several gateways, summed where name and labels are the same."""
    summed: dict[Series, float] = {}
    for one in of:
        for series, value in one.items():
            summed[series] = summed.get(series, 0.0) + value
    return summed


def named(series: Mapping[Series, float], name: str) -> Iterator[tuple[dict[str, str], float]]:
    """Labels and value of every series of that name, the prefix left out."""
    wanted = _PREFIX + name
    for (full, labels), value in series.items():
        if full == wanted:
            yield dict(labels), value


def quantile(share: float, buckets: Mapping[float, float]) -> float | None:
    """The value below which this share of the observations lies, from cumulative buckets: upper bound -> count.

    As Prometheus estimates it: observations are taken to lie evenly between a bucket's bounds, so the result is as
    exact as the bucket is narrow, and never more than the last finite bound. None without an observation.

    >>> quantile(0.5, {1.0: 0, 2.0: 10, math.inf: 10})
    1.5
    """
    ordered = sorted(buckets.items())
    if not ordered or ordered[-1][0] != math.inf or ordered[-1][1] <= 0:
        return None
    rank = share * ordered[-1][1]
    lower, below = 0.0, 0.0
    for bound, count in ordered:
        if count >= rank and count > below:
            return lower if bound == math.inf else lower + (bound - lower) * max(0.0, rank - below) / (count - below)
        lower, below = (lower if bound == math.inf else bound), max(below, count)
    return lower
