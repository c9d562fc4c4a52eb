"""How the counters become Prometheus families: names, labels, help texts and units.

This runs when a scrape comes and only reads. What is counted, and when, is in `metrics`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gateway.core.types import NANO_PER_USD
from gateway.telemetry.metrics import NONE

if TYPE_CHECKING:
    from gateway.telemetry.metrics import Metrics

#: The prefix of every family.
PREFIX = "pointsman_"


def registry(metrics: Metrics, *, process: bool) -> CollectorRegistry:
    """What a scrape reads: the families, and with `process` the interpreter's own figures."""
    made = CollectorRegistry(auto_describe=False)
    made.register(Families(metrics))
    if process:
        ProcessCollector(registry=made)
        PlatformCollector(registry=made)
        GCCollector(registry=made)
    return made


def expose(made: CollectorRegistry) -> bytes:
    """Prometheus's text format."""
    return generate_latest(made)


class Families(Collector):
    """Expands the cells into Prometheus families when a scrape comes."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """All families, as the registry asks for them."""
        yield from self._requests()
        yield from self._money()
        yield from self._latencies()
        yield from self._shadows()
        yield from self._otlp()
        yield from self._state()

    def _requests(self) -> Iterator[Metric]:
        cells = self._metrics.cells()
        yield _summed(
            "requests",
            "Requests that ended, by what was asked for and how it ended (code ok, client_gone or an error code).",
            ("model_asked", "rule", "target", "team", "code"),
            (
                ((c.labels.asked, c.labels.rule, c.labels.target, c.labels.team, c.labels.code), c.requests)
                for c in cells
            ),
        )
        yield _summed(
            "decisions",
            "Decisions by the rule that matched and the target it put first; target none: nothing was left.",
            ("policy", "rule", "target"),
            (((c.labels.policy, c.labels.rule, c.labels.chosen), c.requests) for c in cells if c.labels.policy != NONE),
        )
        yield _summed(
            "fallbacks",
            "Requests answered by another target than the decision put first; target is the one that answered, reason "
            "why the first did not.",
            ("rule", "chosen", "target", "reason"),
            (
                ((c.labels.rule, c.labels.chosen, c.labels.target, reason), count)
                for c in cells
                for reason, count in list(c.fallbacks.items())
            ),
        )
        yield _summed(
            "retries",
            "Attempts after the first of a request, by the target of the attempt before and how that one ended.",
            ("reason", "target"),
            (((reason, target), count) for reason, target, count in self._metrics.retries()),
        )
        yield _summed(
            "refusals",
            "Requests that the gateway refused itself: nothing was sent to any target.",
            ("code",),
            [((c.labels.code,), c.refused) for c in cells if c.refused],
        )
        yield _summed(
            "stream_interrupted",
            "Streams that ended with an error event after their first event had been sent.",
            ("target", "cause"),
            (((c.labels.target, c.labels.code), c.broken) for c in cells if c.broken),
        )
        yield _summed(
            "client_disconnect",
            "Requests whose client left before their end.",
            (),
            [((), 0), *(((), c.requests) for c in cells if c.labels.code == "client_gone")],
        )
        yield _summed(
            "thinking_violations",
            "Answers that held reasoning although thinking was off.",
            ("target",),
            [
                *(((target,), 0) for target in sorted(self._metrics.names.targets)),
                *(((c.labels.target,), c.violations) for c in cells if c.violations),
            ],
        )
        yield _summed(
            "attempts",
            "Attempts at a target, by how they ended.",
            ("target", "outcome"),
            (((target, outcome), count) for target, outcome, count in self._metrics.attempts()),
        )

    def _money(self) -> Iterator[Metric]:
        cells = [c for c in self._metrics.cells() if c.labels.target != NONE]
        yield _summed(
            "tokens",
            "Tokens by class. The classes do not overlap: input is what was not cached, output what was not reasoning.",
            ("target", "model", "team", "class"),
            (
                ((c.labels.target, c.labels.model, c.labels.team, name), count)
                for c in cells
                for name, count in (
                    ("input", max(0, c.input - c.cached)),
                    ("cached", c.cached),
                    ("output", max(0, c.output - c.reasoning)),
                    ("reasoning", c.reasoning),
                )
            ),
        )
        cost = _summed(
            "cost_usd",
            "What the attempts cost by the prices in force, in US dollars. Unpriced attempts add nothing.",
            ("target", "model", "rule", "team", "policy"),
            (
                ((c.labels.target, c.labels.model, c.labels.rule, c.labels.team, c.labels.policy), c.cost_nano)
                for c in cells
            ),
            divisor=NANO_PER_USD,
        )
        yield cost
        yield _summed(
            "baseline_cost_usd",
            "What the same tokens would have cost at the baseline's price, in US dollars: less cost_usd, what was "
            "saved. Only of requests whose own cost is known.",
            ("target", "model", "rule", "team", "baseline"),
            (
                ((c.labels.target, c.labels.model, c.labels.rule, c.labels.team, baseline), nano)
                for c in cells
                for baseline, nano in list(c.baseline_nano.items())
            ),
            divisor=NANO_PER_USD,
        )
        yield _summed(
            "unpriced_requests",
            "Requests with at least one attempt whose target has no price: missing from cost_usd.",
            ("target",),
            (((c.labels.target,), c.unpriced) for c in cells),
        )
        yield _summed(
            "estimated_usage_requests",
            "Requests whose tokens are the gateway's estimate, because the backend did not say.",
            ("target",),
            (((c.labels.target,), c.estimated) for c in cells),
        )

    def _latencies(self) -> Iterator[Metric]:
        for family, help_, labels in (
            ("request_duration_seconds", "From the arrival of a request to its end.", ("target", "stream")),
            (
                "time_to_first_event_seconds",
                "From the arrival of a request to its first meaningful event, or to its complete answer.",
                ("target", "stream"),
            ),
            (
                "gateway_overhead_seconds",
                "From the arrival of a request until it was first sent upstream: reading, admitting and deciding.",
                ("rule",),
            ),
            (
                "time_per_output_token_seconds",
                "Of streams that ended well: from the first event to the last, by output token after the first.",
                ("target",),
            ),
        ):
            metric = HistogramMetricFamily(PREFIX + family, help_, labels=labels)
            for values, histogram in self._metrics.histograms(family):
                if any(histogram.counts):  # without an observation every quantile is NaN
                    metric.add_metric(values, histogram.cumulative(), histogram.sum)
            yield metric

    def _shadows(self) -> Iterator[Metric]:
        counts = self._metrics.shadows
        if counts is None:
            return
        of = ("shadow", "target")
        yield _summed(
            "shadow_requests",
            "Copies that were sent to a second target, by the policy's entry and how they ended.",
            (*of, "outcome"),
            list(counts.requests.items()),
        )
        yield _summed(
            "shadow_skipped",
            "Copies that were decided on and not sent, by why.",
            ("shadow", "reason"),
            list(counts.skipped.items()),
        )
        yield _summed(
            "shadow_tokens",
            "Tokens of shadows by class, which are in no other family. The classes do not overlap.",
            (*of, "class"),
            list(counts.tokens.items()),
        )
        yield _summed(
            "shadow_cost_usd",
            "What shadows cost, in US dollars, which is in no other family. Unpriced ones add nothing.",
            of,
            list(counts.cost_nano.items()),
            divisor=NANO_PER_USD,
        )
        yield _summed(
            "shadow_unpriced_requests",
            "Shadows whose target has no price: missing from shadow_cost_usd.",
            of,
            list(counts.unpriced.items()),
        )
        for family, help_, histograms in (
            (
                "shadow_first_event_seconds",
                "From the sending of a copy to its first meaningful event.",
                counts.first_event,
            ),
            ("shadow_duration_seconds", "From the sending of a copy to the end of its answer.", counts.duration),
        ):
            metric = HistogramMetricFamily(PREFIX + family, help_, labels=of)
            for values, histogram in list(histograms.items()):
                metric.add_metric(values, histogram.cumulative(), histogram.sum)
            yield metric

    def _otlp(self) -> Iterator[Metric]:
        tally = self._metrics.otlp
        if tally is None:
            return
        yield _summed(
            "otlp_exports",
            "Requests to the OTLP collector by signal, and by outcome ok, failed (it is tried again) or rejected.",
            ("signal", "outcome"),
            list(tally.exports.items()),
        )
        yield _summed(
            "otlp_exported",
            "What the OTLP collector took: spans, or data points of metrics.",
            ("signal",),
            [((signal,), count) for signal, count in list(tally.exported.items())],
        )
        yield _summed(
            "otlp_dropped",
            "Spans and data points that are lost, by reason queue_full, failed, rejected or closing.",
            ("signal", "reason"),
            list(tally.dropped.items()),
        )
        yield _summed(
            "otlp_dropped_requests",
            "Finished requests that are missing from traces and OTLP metrics: the exporter could not keep up.",
            (),
            [((), tally.records_dropped)],
        )

    def _state(self) -> Iterator[Metric]:
        metrics = self._metrics
        slow = GaugeMetricFamily(
            PREFIX + "target_slow",
            "1 for a target that misses a latency target of a policy.",
            labels=("target", "latency"),
        )
        vitals = metrics.vitals
        for told in vitals.targets:
            for entry in told.get("slow", ()):
                slow.add_metric((told["target"], entry), 1.0)
        yield slow
        yield GaugeMetricFamily(PREFIX + "inflight_requests", "Requests being served now.", value=vitals.inflight)
        yield GaugeMetricFamily(
            PREFIX + "queue_requests", "Attempts waiting for a connection to their upstream.", value=vitals.queued
        )
        under_way = GaugeMetricFamily(
            PREFIX + "endpoint_inflight",
            "Requests of a target under way at an endpoint, shadows among them.",
            labels=("target", "endpoint"),
        )
        state = GaugeMetricFamily(
            PREFIX + "endpoint_state",
            "1 for the state an endpoint of a target is in.",
            labels=("target", "endpoint", "state"),
        )
        for one in vitals.endpoints:
            under_way.add_metric((one.target, one.endpoint), one.inflight)
            state.add_metric((one.target, one.endpoint, one.state), 1.0)
        yield under_way
        yield state
        yield _summed(
            "ejections",
            "Times that an endpoint, or a whole target (endpoint all), began to be held back, by the outcome.",
            ("target", "endpoint", "reason"),
            list(vitals.ejections.items()),
        )
        reloads = CounterMetricFamily(PREFIX + "config_reload", "Reloads of the configuration.", labels=("result",))
        for result, count in metrics.reloads.items():
            reloads.add_metric((result,), count)
        yield reloads
        yield GaugeMetricFamily(
            PREFIX + "config_last_reload_success",
            "1 when the last reload was taken, 0 when it was rejected and the configuration before it still serves.",
            value=float(metrics.last_reload_ok),
        )
        yield GaugeMetricFamily(
            PREFIX + "config_last_reload_timestamp_seconds",
            "Unix time at which the configuration being served was loaded, at the start or by a reload.",
            value=metrics.loaded_at,
        )
        records = metrics.records
        yield _summed(
            "decision_records",
            "Decision records, where they are on: written to disk, or lost because it could not keep up or was full.",
            ("result",),
            [] if records is None else [(("written",), records.written), (("lost",), records.lost)],
        )
        yield _summed(
            "log_lines",
            "Lines of the log: written, left out under load with another line to stand for them, or lost.",
            ("log", "result"),
            [
                ((name, result), count)
                for name, log in metrics.logs.items()
                for result, count in (("written", log.written), ("left_out", log.left_out), ("lost", log.lost))
            ],
        )
        yield _infos("build_info", "Version of the gateway and of its interpreter.", [metrics.build])
        yield _infos(
            "policy_info",
            "The policies being served.",
            [{"policy": name, "digest": digest} for name, digest in sorted((metrics.names.policies or {}).items())],
        )
        states = GaugeMetricFamily(
            PREFIX + "target_state", "1 for the state a target is in.", labels=("target", "state")
        )
        for told in vitals.targets:
            states.add_metric((told["target"], told["state"]), 1.0)
        yield states
        yield _infos(
            "target_info",
            "The targets of the configuration being served.",
            [
                {"target": f.target, "model": f.model, "family": f.family, "backend": f.backend, "region": f.region}
                for f in metrics.names.facts
            ],
        )
        retires = GaugeMetricFamily(
            PREFIX + "target_retires_timestamp_seconds",
            "Unix time of the day on which a target's model is withdrawn, where that is known.",
            labels=("target",),
        )
        for fact in metrics.names.facts:
            if fact.retires_at is not None:
                retires.add_metric((fact.target,), fact.retires_at)
        yield retires
        doubted = GaugeMetricFamily(
            PREFIX + "target_thinking_doubted",
            "1 for a target that thought so often although told not to that its promise is no longer believed.",
            labels=("target",),
        )
        for told in vitals.targets:
            doubted.add_metric((told["target"],), float(bool(told.get("thinking_doubted"))))
        yield doubted


def _summed(
    name: str,
    help_: str,
    labels: tuple[str, ...],
    counts: Iterable[tuple[tuple[str, ...], int]],
    *,
    divisor: int = 1,
) -> CounterMetricFamily:
    """A counter family with one sample per distinct label values, added up over the cells that share them."""
    totals: dict[tuple[str, ...], int] = {}
    for values, count in counts:
        totals[values] = totals.get(values, 0) + count
    family = CounterMetricFamily(PREFIX + name, help_, labels=labels)
    for values, total in totals.items():
        family.add_metric(values, total / divisor if divisor != 1 else total)
    return family


def _infos(name: str, help_: str, rows: list[dict[str, str]]) -> GaugeMetricFamily:
    """A family whose samples are all 1 and say what they have to say in labels."""
    family = GaugeMetricFamily(PREFIX + name, help_, labels=tuple(rows[0]) if rows else ())
    for row in rows:
        family.add_metric(tuple(row.values()), 1.0)
    return family
