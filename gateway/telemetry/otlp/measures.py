"""The histograms of OpenTelemetry's conventions for callers of generative AI, over every attempt that went somewhere.

Sampling does not touch them: they are counted here, in the exporting thread, from the same records as Prometheus's
families. Attributes come from configuration only; what would be too many series still is one series of its own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AggregationTemporality,
    Exemplar,
    HistogramDataPoint,
    Metric,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import Histogram as HistogramProto

from gateway.core.money.usage import answering, used_by
from gateway.core.request.tracecontext import Copied, span_id
from gateway.core.types import Endpoint, Outcome, Record, Target, Usage
from gateway.telemetry.otlp.spans import SCOPE, Value, attach, last_of, operation
from gateway.telemetry.series import Histogram

if TYPE_CHECKING:
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource

    from gateway.core.request.tracecontext import Tried

#: Seconds and tokens, as the conventions have them.
SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKENS = (1.0, *(float(4**power) for power in range(1, 14)))
#: Series of one instrument; what comes after them is counted together, marked as OpenTelemetry marks it.
MOST_SERIES = 2_000


class Instrument(NamedTuple):
    """A histogram's name, unit, meaning and bounds."""

    name: str
    unit: str
    meaning: str
    bounds: tuple[float, ...]


DURATION = Instrument("gen_ai.client.operation.duration", "s", "GenAI operation duration.", SECONDS)
USAGE = Instrument("gen_ai.client.token.usage", "{token}", "Number of input and output tokens used.", TOKENS)
FIRST_CHUNK = Instrument(
    "gen_ai.client.operation.time_to_first_chunk",
    "s",
    "Time from the sending of a request to the first chunk of its stream that says something.",
    SECONDS,
)
PER_CHUNK = Instrument(
    "gen_ai.client.operation.time_per_output_chunk",
    "s",
    "Time per output chunk after the first one, the same for all chunks of a stream: their mean.",
    SECONDS,
)
INSTRUMENTS = (DURATION, USAGE, FIRST_CHUNK, PER_CHUNK)

_Extra = tuple[str, str]  # one more attribute; ("", "") is none
_NO_MORE: _Extra = ("", "")


def _on() -> None:
    pass


class _Place:
    """What measures have in common: which model was called where, and for whom. Equal only to itself."""

    __slots__ = ("told",)

    def __init__(self, told: dict[str, Value]) -> None:
        self.told = told


class _Example(NamedTuple):
    """A measure that can be looked up in a trace."""

    value: float
    trace_id: str
    span_id: str


class Measures:
    """Running histograms. One thread adds and encodes."""

    def __init__(self, *, delta: bool, now_ns: int) -> None:
        self._delta = delta
        self._since_ns = now_ns  # since when what is counted was counted
        self._examples: dict[tuple[_Place, _Extra], _Example] = {}  # the latest traced attempt of each
        self._series: dict[Instrument, dict[tuple[_Place, _Extra], Histogram]] = {one: {} for one in INSTRUMENTS}
        self._places: dict[frozenset[tuple[str, Value]], _Place] = {}
        # The same by what it is found by quickest; holds on to targets and endpoints, whose identities these are.
        self._near: dict[tuple[int, int, str, str, str], tuple[_Place, Target, Endpoint]] = {}
        self._overflow = _Place({"otel.metric.overflow": True})

    def add(self, one: Record | Copied) -> None:
        """Count every attempt of a finished request that went somewhere; or a shadow, apart from these."""
        if isinstance(one, Copied):
            self._copy(one)
        else:
            self._request(one)

    def _request(self, record: Record) -> None:
        traced = record.trace
        if traced is None:
            return
        routing = record.routing
        last = last_of(record)
        for one in (*traced.tried, last) if last is not None else traced.tried:
            if one.endpoint is None:
                continue
            place = self._place(one.target, one.endpoint, routing.rule, routing.team)
            of = (place, _NO_MORE if one.outcome is Outcome.OK else ("error.type", one.outcome.value))
            took_s = one.ended_at - one.began_at
            self._observe(DURATION, of, took_s)
            if traced.sampled and of in self._series[DURATION]:
                self._examples[of] = _Example(took_s, traced.trace_id, span_id(record.request_id, one.number))
            if one.number == answering(record):
                self._answer(place, record, one, traced.chunks)
            self._tokens(place, used_by(record, one.number))

    def _answer(self, place: _Place, record: Record, one: Tried, chunks: int) -> None:
        first = record.first_event_at
        if record.routing.stream and first >= one.began_at:
            self._observe(FIRST_CHUNK, (place, _NO_MORE), first - one.began_at)
            if chunks > 1:
                self._observe(PER_CHUNK, (place, _NO_MORE), (one.ended_at - first) / (chunks - 1), chunks - 1)

    def _copy(self, copied: Copied) -> None:
        shadow = copied.shadow
        place = self._place(copied.target, copied.endpoint, "", "", shadow.id)
        error = _NO_MORE if shadow.outcome == Outcome.OK.value else ("error.type", shadow.outcome)
        self._observe(DURATION, (place, error), shadow.duration_s)
        if copied.record.routing.stream and shadow.first_event_s:
            self._observe(FIRST_CHUNK, (place, _NO_MORE), shadow.first_event_s)
        self._tokens(place, shadow.usage)

    def _tokens(self, place: _Place, usage: Usage | None) -> None:
        """Only what a backend stated: the conventions forbid estimates here."""
        if usage is not None and not usage.estimated:
            self._observe(USAGE, (place, ("gen_ai.token.type", "input")), usage.input)
            self._observe(USAGE, (place, ("gen_ai.token.type", "output")), usage.output)

    def _place(self, target: Target, endpoint: Endpoint, rule: str, team: str, shadow: str = "") -> _Place:
        key = (id(target), id(endpoint), rule, team, shadow)
        near = self._near.get(key)
        if near is not None:
            return near[0]
        told = operation(target, endpoint) | {
            "pointsman.rule": rule,
            "pointsman.team": team,
            "pointsman.shadow": shadow,
        }
        of = frozenset(told.items())
        place = self._places.get(of)
        if place is None:
            if len(self._places) >= MOST_SERIES:
                return self._overflow
            place = self._places[of] = _Place(told)
        if len(self._near) >= MOST_SERIES:
            self._near.clear()
        self._near[key] = (place, target, endpoint)
        return place

    def _observe(self, instrument: Instrument, of: tuple[_Place, _Extra], value: float, times: int = 1) -> None:
        series = self._series[instrument]
        histogram = series.get(of)
        if histogram is None:
            if len(series) >= MOST_SERIES:
                of = (self._overflow, _NO_MORE)
            histogram = series.setdefault(of, Histogram(instrument.bounds))
        histogram.counts[bisect_left(instrument.bounds, value)] += times
        histogram.sum += value * times

    def encode(self, resource: Resource, now_ns: int, breathe: Callable[[], None] = _on) -> tuple[bytes, int]:
        """A request to the collector with all there is, and how many data points that are; deltas start anew.

        `breathe` is called between any two points.
        """
        metrics = [
            Metric(
                name=instrument.name,
                unit=instrument.unit,
                description=instrument.meaning,
                histogram=HistogramProto(
                    data_points=list(self._points(instrument, now_ns, breathe)),
                    aggregation_temporality=AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
                    if self._delta
                    else AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE,
                ),
            )
            for instrument, series in self._series.items()
            if series
        ]
        count = sum(map(len, self._series.values()))
        if self._delta:
            self._since_ns = now_ns
            for series in self._series.values():
                series.clear()
        scope = ScopeMetrics(scope=SCOPE, metrics=metrics)
        request = ExportMetricsServiceRequest(
            resource_metrics=[ResourceMetrics(resource=resource, scope_metrics=[scope])]
        )
        return request.SerializeToString(), count

    def _points(self, instrument: Instrument, now_ns: int, breathe: Callable[[], None]) -> Iterator[HistogramDataPoint]:
        for (place, (name, value)), histogram in self._series[instrument].items():
            made = HistogramDataPoint(
                start_time_unix_nano=self._since_ns,
                time_unix_nano=now_ns,
                count=sum(histogram.counts),
                sum=histogram.sum,
                bucket_counts=histogram.counts,
                explicit_bounds=histogram.bounds,
                exemplars=self._exemplars(instrument, (place, (name, value)), now_ns),
            )
            attach(made, place.told | {name: value})
            breathe()
            yield made

    def _exemplars(self, instrument: Instrument, of: tuple[_Place, _Extra], now_ns: int) -> list[Exemplar]:
        example = self._examples.pop(of, None) if instrument is DURATION else None
        if example is None:
            return []
        return [
            Exemplar(
                as_double=example.value,
                time_unix_nano=now_ns,
                trace_id=bytes.fromhex(example.trace_id),
                span_id=bytes.fromhex(example.span_id),
            )
        ]
