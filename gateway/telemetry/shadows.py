"""What shadows did and cost, counted apart from all that clients did, as another source of series."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.core.types import Shadowed
from gateway.telemetry import families
from gateway.telemetry.series import Histograms, Kept, Totals


class ShadowCounts:
    """Running totals by entry and target. Both are names of configuration, so no client can create a series."""

    def __init__(self) -> None:
        self.requests = Totals(families.SHADOW_REQUESTS)
        self.skipped = Totals(families.SHADOW_SKIPPED)
        self.tokens = Totals(families.SHADOW_TOKENS)
        self.cost = Totals(families.SHADOW_COST)
        self.unpriced = Totals(families.SHADOW_UNPRICED)
        self.first_event = Histograms(families.SHADOW_FIRST_EVENT, families.DURATION_BUCKETS_S)
        self.duration = Histograms(families.SHADOW_DURATION, families.DURATION_BUCKETS_S)

    def skip(self, entry: str, reason: str) -> None:
        """Count a copy that was decided on and not sent."""
        self.skipped.at(entry, reason).value += 1

    def finished(self, told: Shadowed) -> None:
        """Count one shadow that has ended."""
        of = (told.id, told.target)
        self.requests.at(*of, told.outcome).value += 1
        used = told.usage
        if used is not None:
            tokens = self.tokens
            tokens.at(*of, "input").value += max(0, used.input - used.cached)
            tokens.at(*of, "cached").value += used.cached
            tokens.at(*of, "output").value += max(0, used.output - used.reasoning)
            tokens.at(*of, "reasoning").value += used.reasoning
            if told.priced:
                self.cost.at(*of).value += told.cost_nano
            else:
                self.unpriced.at(*of).value += 1
        if told.outcome == "ok":
            self.first_event.at(*of).observe(told.first_event_s)
            self.duration.at(*of).observe(told.duration_s)

    def read(self) -> Iterator[Kept]:
        """What a scrape is told."""
        yield from (self.requests, self.skipped, self.tokens, self.cost, self.unpriced)
        yield from (self.first_event, self.duration)
