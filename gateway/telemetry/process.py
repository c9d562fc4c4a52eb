"""The interpreter's own figures: CPU, memory, open files, garbage collection, as prometheus_client exports them.

Apart, because importing it takes longer than a start should wait.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics


class Process:
    """What is exported of the process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def read(self, *, openmetrics: bool) -> bytes:
        """All of it; in OpenMetrics with the line that ends an exposition."""
        if openmetrics:
            made: bytes = generate_openmetrics(self._registry)  # type: ignore[no-untyped-call]
            return made
        return generate_latest(self._registry)
