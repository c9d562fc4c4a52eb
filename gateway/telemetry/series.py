"""Families of metrics, their series, and how both are written for Prometheus.

What is exported, and what it means, stands in `families`; what is counted, and when, in `metrics`. Series are kept with
the text that stands before their value, because a scrape writes them all and a request only adds to some: so writing
one takes a fraction of a microsecond, with tens of thousands of them too.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from gateway.core.types import Record

#: Series that are written in one go, and characters that make a piece of a scrape: others are served in between.
SERIES_AT_ONCE = 1_000
PIECE = 100_000
#: Values from which on sorting them is quicker than finding the bucket of each.
_MANY = 16


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. `name` is the whole name as queries use it, a counter's ends in `_total`; `labels` in their order.

    `scale` is what a series' value is divided by when it is written: counters are kept as integers.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str
    scale: int = 1

    @property
    def unit(self) -> str:
        """The base unit that the name ends in, if it has one."""
        last = self.name.removesuffix("_total").rpartition("_")[2]
        return last if last in ("seconds", "usd") else ""

    def head(self, *, openmetrics: bool) -> str:
        """The lines that introduce its series."""
        name = self.name.removesuffix("_total") if openmetrics else self.name
        told = f"# HELP {name} {_escaped(self.help)}\n# TYPE {name} {self.kind}\n"
        return f"{told}# UNIT {name} {self.unit}\n" if openmetrics and self.unit else told

    def series(self, values: Sequence[str], suffix: str = "", **more: str) -> str:
        """A series' name and labels, as they stand before its value."""
        pairs = sorted({**dict(zip(self.labels, values, strict=True)), **more}.items())
        text = ",".join([f'{label}="{_escaped(value, quoted=True)}"' for label, value in pairs])
        return f"{self.name}{suffix}{{{text}}} " if text else f"{self.name}{suffix} "

    def value(self, number: float) -> str:
        """A series' value as it is written."""
        return repr(number / self.scale) if self.scale != 1 else repr(number)


def _escaped(text: str, *, quoted: bool = False) -> str:
    r"""Text as it may stand in a line; a label's value in its quotes.

    >>> _escaped('a"b\n', quoted=True)
    'a\\"b\\n'
    """
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quoted else text


class Count:
    """One series of a counter."""

    __slots__ = ("text", "value")

    def __init__(self, text: str) -> None:
        self.text = text
        self.value = 0


class Totals:
    """The series of one counter that many requests add to."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self._counts: dict[tuple[str, ...], Count] = {}

    def at(self, *values: str) -> Count:
        """The series with these label values: made when it is first asked for, kept from then on."""
        count = self._counts.get(values)
        if count is None:
            count = self._counts[values] = Count(self.family.series(values))
        return count

    def numbers(self) -> dict[tuple[str, ...], int]:
        """What each series stands at, by its label values, before it is divided by the family's scale."""
        return {values: count.value for values, count in self._counts.items()}

    def blocks(self, *, openmetrics: bool) -> Iterator[str]:
        """All of them, as they are now."""
        scale = self.family.scale
        counts = list(self._counts.values())
        for begin in range(0, len(counts), SERIES_AT_ONCE):
            some = counts[begin : begin + SERIES_AT_ONCE]
            if scale == 1:
                yield "".join([f"{one.text}{one.value}\n" for one in some])
            else:
                yield "".join([f"{one.text}{one.value / scale!r}\n" for one in some])


class Rows:
    """The series of one family, worked out when a scrape comes."""

    def __init__(self, family: Family, rows: Iterable[tuple[tuple[str, ...], float]]) -> None:
        self.family = family
        self._rows = rows

    def blocks(self, *, openmetrics: bool) -> Iterator[str]:
        """All of them."""
        family = self.family
        yield "".join([f"{family.series(values)}{family.value(number)}\n" for values, number in self._rows])


class Histogram:
    """Counts per bucket (not cumulative; the last is +Inf), the sum of what was observed, and an example per bucket."""

    __slots__ = ("bounds", "counts", "examples", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        #: By bucket: what was observed, and of which request.
        self.examples: dict[int, tuple[float, Record]] = {}

    def observe(self, value: float) -> None:
        """Take down one value, of no request that could be named."""
        self.sum += value
        self.counts[bisect_left(self.bounds, value)] += 1

    def add(self, observed: list[float], records: Sequence[Record]) -> None:
        """Take down what was observed of these requests, a value each."""
        self.sum += sum(observed)
        bounds, counts, examples = self.bounds, self.counts, self.examples
        if len(observed) < _MANY:
            for value, record in zip(observed, records, strict=True):
                place = bisect_left(bounds, value)
                counts[place] += 1
                examples[place] = (value, record)
            return
        ordered = sorted(observed)
        before = 0
        for place in range(bisect_left(bounds, ordered[0]), bisect_left(bounds, ordered[-1]) + 1):
            upto = bisect_right(ordered, bounds[place], before) if place < len(bounds) else len(ordered)
            if upto > before:
                counts[place] += upto - before
                most = ordered[upto - 1]
                examples[place] = (most, records[observed.index(most)])
                before = upto


class Histograms:
    """The series of one histogram: a `Histogram` for each combination of label values."""

    def __init__(self, family: Family, bounds: tuple[float, ...]) -> None:
        self.family = family
        self.bounds = bounds
        self._kept: dict[tuple[str, ...], tuple[Histogram, list[str]]] = {}

    def at(self, *values: str) -> Histogram:
        """The one with these label values: made when it is first asked for, kept from then on."""
        kept = self._kept.get(values)
        if kept is None:
            series = self.family.series
            texts = [series(values, "_bucket", le=bound) for bound in (*map(str, self.bounds), "+Inf")]
            texts += [series(values, "_sum"), series(values, "_count")]
            kept = self._kept[values] = (Histogram(self.bounds), texts)
        return kept[0]

    def blocks(self, *, openmetrics: bool) -> Iterator[str]:
        """All that something was observed for: without an observation every quantile is not a number."""
        for histogram, (*buckets, total, count) in list(self._kept.values()):
            running = list(accumulate(histogram.counts))
            if not running[-1]:
                continue
            lines = [f"{text}{number}" for text, number in zip(buckets, running, strict=True)]
            if openmetrics:
                for place, (value, record) in histogram.examples.items():
                    lines[place] += _example(value, record)
            yield "\n".join([*lines, f"{total}{histogram.sum!r}", f"{count}{running[-1]}\n"])


def _example(value: float, record: Record) -> str:
    """What OpenMetrics calls an exemplar: who took so long, and when that was known."""
    labels = f'request_id="{record.request_id}"'
    trace = record.trace
    if trace is not None and trace.sampled:
        labels += f',trace_id="{trace.trace_id}"'
    return f" # {{{labels}}} {value!r} {record.wall + record.ended_at - record.started_at:.3f}"


class Kept(Protocol):
    """The series of one family, however they are kept."""

    family: Family

    def blocks(self, *, openmetrics: bool) -> Iterator[str]:
        """Whole lines, at most so many at once; `openmetrics` says that examples may stand behind them."""


class Source(Protocol):
    """Something else that has series to export; its families stand in `families`, too."""

    def read(self) -> Iterable[Kept]:
        """What it has to tell now."""


def written(kept: Iterable[Kept], *, openmetrics: bool) -> Iterator[bytes]:
    """Prometheus's text format, or OpenMetrics without its end, in pieces between which others may be served."""
    waiting, size = [], 0
    for one in kept:
        waiting.append(one.family.head(openmetrics=openmetrics))
        for block in one.blocks(openmetrics=openmetrics):
            waiting.append(block)
            size += len(block)
            if size >= PIECE:
                yield "".join(waiting).encode("utf-8", "replace")
                waiting, size = [], 0
    yield "".join(waiting).encode("utf-8", "replace")
