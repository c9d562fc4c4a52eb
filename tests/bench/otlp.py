"""Prints what OTLP costs a request: on its path, and in the thread that exports.

    python tests/bench/otlp.py

Microseconds of this process's CPU time, the least of several rounds. Nothing is sent. The requests are one attempt
each, with a head as OpenAI's Python SDK writes it.
"""

from __future__ import annotations

import sys
import time
import timeit
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from gateway.core.request.tracecontext import Traced, Tracing, threshold
from gateway.core.types import Attempt, Endpoint, Record, Routing, Usage
from gateway.telemetry.otlp import spans
from gateway.telemetry.otlp.exporting import Otlp
from gateway.telemetry.otlp.measures import Measures
from gateway.telemetry.otlp.settings import OtlpSettings
from tests.core.fleets import FLEET

ID = "0199f0a3c2d5" + "c0ffee" * 3 + "42"
LINES = "Lang Package-Version OS Arch Runtime Runtime-Version Async Retry-Count Read-Timeout"
HEAD = (
    "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nAccept: application/json\r\n"
    + "".join(f"X-Stainless-{name}: something\r\n" for name in LINES.split())
    + "Authorization: Bearer sk-test-0123456789\r\nContent-Length: 200\r\n"
).encode()
CALLED = b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\ntracestate: rojo=1\r\n"
ENDPOINT = Endpoint("http://10.0.0.7:8000/v1", "http", "10.0.0.7", 8000, "/v1")
ATTEMPT = Attempt(FLEET.targets[0], 1)


def least_us(function: Callable[[], object], times: int = 5_000) -> float:
    return min(timeit.repeat(function, number=times, repeat=9, timer=time.process_time)) / times * 1e6


def finished(traced: Traced) -> Record:
    routing = Routing("key", "team", "auto", stream=False, policy="p@1", rule="r", target="t", model="m")
    record = Record(ID, 1.7e9, 100.0, routing, 200, attempts=1, sent_at=100.1, first_event_at=100.5, ended_at=101.0)
    record.usage, record.priced, record.trace = Usage(100, 50), True, traced
    return record


def main() -> None:
    tracing = Tracing(least=threshold(0.05))
    alone, called = HEAD + b"\r\n", HEAD + CALLED + b"\r\n"
    traced = tracing.begin(ID, called)
    traced.sends(ATTEMPT, ENDPOINT, 100.1)
    record, measures = finished(traced), Measures(delta=False, now_ns=1)
    otlp = Otlp(OtlpSettings("http://127.0.0.1:9"))

    def hand_over() -> None:
        otlp.add([record])
        if len(otlp._waiting) > 4_096:
            otlp._waiting.clear()

    resource = spans.resource_of("pointsman", "1", {})
    for part, function, times in (
        ("path: begin, nobody's trace", lambda: tracing.begin(ID, alone), 5_000),
        ("path: begin, a caller's trace and state", lambda: tracing.begin(ID, called), 5_000),
        ("path: an attempt begins", lambda: traced.sends(ATTEMPT, ENDPOINT, time.monotonic()), 5_000),
        ("path: trace context for a self-hosted backend", lambda: traced.carried(ID, 1), 5_000),
        ("path: hand over", hand_over, 5_000),
        ("thread: measure", lambda: measures.add(record), 2_000),
        ("thread: two spans, if sampled", lambda: spans.encode(spans.spans_of(record), resource), 500),
    ):
        print(f"{least_us(function, times):8.2f} us  {part}")


if __name__ == "__main__":
    main()
