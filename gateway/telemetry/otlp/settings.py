"""What `otlp:` in pointsman.yaml says, as values; and what became of all that was to be sent. Nothing is sent here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from gateway.core.types import EMPTY, Secret

Signal = Literal["traces", "metrics"]


@dataclass(frozen=True, slots=True)
class OtlpSettings:
    """Where to, what, and how often. Times are seconds."""

    endpoint: str  # without /v1/traces, and without a trailing slash
    headers: Mapping[str, str | Secret] = field(default_factory=lambda: EMPTY)
    ca_file: str | None = None  # a private CA's certificates; None: the system's
    timeout_s: float = 10.0
    gzip: bool = True
    service: str = "pointsman"
    resource: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    signals: frozenset[Signal] = frozenset({"traces", "metrics"})
    sample: float = 0.05  # share of the requests without a caller's trace that are traced
    errors: bool = True  # those that end in an error are traced in any case
    follow: bool = True  # a caller's trace is continued, as sampled as it says; else a new one links to it
    every_s: float = 60.0  # between two exports of metrics
    delta: bool = False  # measures since the last export, and not since the start


class Tally:
    """What was sent and what was lost, as Prometheus tells it. Each number has one thread that writes it."""

    def __init__(self) -> None:
        self.records_dropped = 0  # finished requests that the thread could not keep up with
        self.exported: dict[str, int] = {}  # signal -> spans, or data points, that a collector took
        self.dropped: dict[tuple[str, str], int] = {}  # signal, why -> the same, lost
        self.exports: dict[tuple[str, str], int] = {}  # signal, how it ended -> requests to the collector

    def took(self, signal: str, count: int) -> None:
        """The collector has taken so many."""
        self.exported[signal] = self.exported.get(signal, 0) + count

    def lost(self, signal: str, why: str, count: int) -> None:
        """So many are lost: queue_full, failed, rejected or closing."""
        if count:
            self.dropped[signal, why] = self.dropped.get((signal, why), 0) + count

    def asked(self, signal: str, outcome: str) -> None:
        """One request to the collector ended: ok, failed (which time may heal) or rejected."""
        self.exports[signal, outcome] = self.exports.get((signal, outcome), 0) + 1
