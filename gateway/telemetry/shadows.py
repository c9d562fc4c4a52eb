"""What shadows did and cost, counted apart from all that clients did. How Prometheus reads it stands in `families`."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

from gateway.core.types import Shadowed
from gateway.telemetry.metrics import DURATION_BUCKETS_S, Histogram

_OF = tuple[str, str]  # entry of the policy, target


class ShadowCounts:
    """Running totals by entry and target. Both are names of configuration, so no client can create a series."""

    def __init__(self) -> None:
        self.requests: dict[tuple[str, str, str], int] = {}  # entry, target, outcome
        self.skipped: dict[_OF, int] = {}  # entry, reason
        self.tokens: dict[tuple[str, str, str], int] = {}  # entry, target, class
        self.cost_nano: dict[_OF, int] = {}
        self.unpriced: dict[_OF, int] = {}
        self.first_event: dict[_OF, Histogram] = {}
        self.duration: dict[_OF, Histogram] = {}

    def skip(self, entry: str, reason: str) -> None:
        """Count a copy that was decided on and not sent."""
        _add(self.skipped, (entry, reason), 1)

    def finished(self, told: Shadowed) -> None:
        """Count one shadow that has ended."""
        of = (told.id, told.target)
        _add(self.requests, (*of, told.outcome), 1)
        used = told.usage
        if used is not None:
            _add(self.tokens, (*of, "input"), max(0, used.input - used.cached))
            _add(self.tokens, (*of, "cached"), used.cached)
            _add(self.tokens, (*of, "output"), max(0, used.output - used.reasoning))
            _add(self.tokens, (*of, "reasoning"), used.reasoning)
            if told.priced:
                _add(self.cost_nano, of, told.cost_nano)
            else:
                _add(self.unpriced, of, 1)
        if told.outcome == "ok":
            _observe(self.first_event, of, told.first_event_s)
            _observe(self.duration, of, told.duration_s)


def _add(counts: dict[Any, int], key: tuple[str, ...], more: int) -> None:
    counts[key] = counts.get(key, 0) + more


def _observe(histograms: dict[_OF, Histogram], of: _OF, seconds: float) -> None:
    histogram = histograms.get(of)
    if histogram is None:
        histogram = histograms[of] = Histogram(DURATION_BUCKETS_S)
    histogram.counts[bisect_left(DURATION_BUCKETS_S, seconds)] += 1
    histogram.sum += seconds
