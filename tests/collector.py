"""An OTLP collector for tests: takes what is posted to it, decodes it, and answers as it is told."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.harness import eventually

#: What to answer a request with: status, headers, body.
Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Span:
    """One span, with its attributes as Python has them."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    state: str
    flags: int
    links: list[tuple[str, str]]
    status: int
    begun_ns: int
    ended_ns: int
    told: dict[str, Any]
    resource: dict[str, Any]

    @property
    def is_request(self) -> bool:
        return self.kind == 2


@dataclass
class Point:
    """One data point of a histogram."""

    name: str
    unit: str
    told: dict[str, Any]
    count: int
    sum: float
    bounds: list[float]
    counts: list[int]
    since_ns: int
    temporality: int
    exemplars: list[tuple[str, str]]
    resource: dict[str, Any]


@dataclass
class Collector:
    """`answers` are taken one by one, the last repeats. A function is called in the server's thread, and may wait."""

    answers: list[Answer | Callable[[], Answer]] = field(default_factory=lambda: [(200, {}, b"")])
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    points: list[list[Point]] = field(default_factory=list)  # of each export

    def __post_init__(self) -> None:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status, headers, answer = collector.take(self.path, dict(self.headers.items()), body)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:  # who was told to wait too long has gone
                pass

        self._lock = threading.Lock()
        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def take(self, path: str, headers: dict[str, str], body: bytes) -> Answer:
        with self._lock:
            answer = self.answers[min(len(self.paths), len(self.answers) - 1)]
            self.paths.append(path)
            self.headers.append({name.lower(): value for name, value in headers.items()})
        if callable(answer):
            answer = answer()
        if answer[0] == 200:
            if self.headers[-1].get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            with self._lock:
                self.raw.append(body)
                if path == "/v1/traces":
                    self.spans += spans(body)
                else:
                    self.points.append(list(points(body)))
        return answer

    def requests(self) -> list[Span]:
        return [span for span in list(self.spans) if span.is_request]

    def attempts(self, request: Span) -> list[Span]:
        """The children of a request's span, in their order."""
        found = [one for one in list(self.spans) if one.parent_id == request.span_id]
        return sorted(found, key=lambda one: (one.told.get("pointsman.attempt", 99), one.begun_ns))

    def request(self, number: int = 1, within_s: float = 8.0) -> Span:
        """The span of the latest request, once so many have come."""
        assert eventually(lambda: len(self.requests()) >= number, within_s), self.spans
        return self.requests()[-1]

    def of(self, request_id: str, within_s: float = 8.0) -> Span:
        """The span of the request with this id, once it has come."""

        def found() -> list[Span]:
            return [one for one in self.requests() if one.told["pointsman.request_id"] == request_id]

        assert eventually(lambda: bool(found()), within_s), self.spans
        return found()[0]

    def measured(self, name: str, **told: Any) -> list[Point]:
        """Data points of the last export that had any, of an instrument and with these attributes (`__` for a dot)."""
        wanted = {key.replace("__", "."): value for key, value in told.items()}
        last = self.points[-1] if self.points else []
        return [one for one in last if one.name == name and wanted.items() <= one.told.items()]


def told(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


def spans(body: bytes) -> Iterator[Span]:
    for group in ExportTraceServiceRequest.FromString(body).resource_spans:
        for scope in group.scope_spans:
            assert scope.scope.name == "pointsman"
            for one in scope.spans:
                yield Span(
                    one.name, one.kind, one.trace_id.hex(), one.span_id.hex(), one.parent_span_id.hex(),
                    one.trace_state, one.flags, [(link.trace_id.hex(), link.span_id.hex()) for link in one.links],
                    one.status.code, one.start_time_unix_nano, one.end_time_unix_nano, told(one.attributes),
                    told(group.resource.attributes),
                )  # fmt: skip


def points(body: bytes) -> Iterator[Point]:
    for group in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        for scope in group.scope_metrics:
            for metric in scope.metrics:
                for one in metric.histogram.data_points:
                    yield Point(
                        metric.name, metric.unit, told(one.attributes), one.count, one.sum, list(one.explicit_bounds),
                        list(one.bucket_counts), one.start_time_unix_nano, metric.histogram.aggregation_temporality,
                        [(each.trace_id.hex(), each.span_id.hex()) for each in one.exemplars],
                        told(group.resource.attributes),
                    )  # fmt: skip


def slowly(answer: Answer, seconds: float) -> Callable[[], Answer]:
    """This answer, after a while."""

    def wait() -> Answer:
        time.sleep(seconds)
        return answer

    return wait
