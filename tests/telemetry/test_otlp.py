"""The exporter by itself, in front of a collector that is slow, full, down, wrong or somebody else."""

from __future__ import annotations

import gzip
import json
import re
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("opentelemetry.proto", reason="needs the extra otlp")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from gateway.core.money.usage import Spent
from gateway.core.request.tracecontext import Copied, Traced, Tracing, threshold
from gateway.core.types import Attempt, Endpoint, Outcome, Record, Routing, Secret, Shadowed, Usage
from gateway.telemetry.otlp import exporting, measures, sending, spans
from gateway.telemetry.otlp.exporting import Otlp
from gateway.telemetry.otlp.measures import INSTRUMENTS, Measures
from gateway.telemetry.otlp.sending import Batch, Sender
from gateway.telemetry.otlp.settings import OtlpSettings, Tally
from tests.collector import Collector, slowly
from tests.core.fleets import FLEET
from tests.harness import eventually
from tests.proxy.test_process import certificate

__all__ = ["certificate"]  # a fixture

ROOT = Path(__file__).parent.parent.parent
HERE = Endpoint("http://10.0.0.7:8000/v1", "http", "10.0.0.7", 8000, "/v1")
TARGET, OTHER = FLEET.targets[:2]


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(sending, "LONGEST_PAUSE_S", 0.05)
    monkeypatch.setattr(exporting, "EVERY_S", 0.01)
    monkeypatch.setattr(exporting, "LINGER_S", 0.0)


def finished(number: int = 1, **changes: Any) -> Record:
    """A request that one attempt answered."""
    request_id = f"0199f0a3c2d5{number:020x}"
    traced = Tracing().begin(request_id, b"")
    traced.sends(Attempt(TARGET, 1), HERE, 100.1)
    values: dict[str, Any] = {
        "wall": 1.7e9, "started_at": 100.0, "status": 200, "attempts": 1, "sent_at": 100.1, "first_event_at": 100.5,
        "ended_at": 101.1, "usage": Usage(100, 50, 40, 20), "cost_nano": 2_500_000, "priced": True, "trace": traced,
    }  # fmt: skip
    routing = Routing("k", "shop", "auto", changes.pop("stream", False), "p@1", "r", TARGET.name, TARGET.name, "m")
    return Record(request_id, routing=routing, **(values | changes))


@pytest.fixture
def make(collector: Collector) -> Iterator[Any]:
    """`make(**settings)`: a started exporter, closed at the end."""
    made: list[Otlp] = []

    def one(**changes: Any) -> Otlp:
        values: dict[str, Any] = {"endpoint": collector.url, "sample": 1.0, "every_s": 0.05, "timeout_s": 2.0}
        otlp = Otlp(OtlpSettings(**(values | changes)))
        otlp.start()
        made.append(otlp)
        return otlp

    yield one
    for otlp in made:
        otlp.close(0.2)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_time_may_heal_is_tried_again_and_nothing_is_lost(make: Any, collector: Collector, status: int) -> None:
    collector.answers = [(status, {"retry-after": "0"}, b""), (status, {}, b""), (200, {}, b"")]
    otlp = make(signals=frozenset({"traces"}))
    otlp.add([finished(one) for one in range(3)])
    assert eventually(lambda: otlp.tally.exported == {"traces": 6})
    assert otlp.tally.exports == {("traces", "failed"): 2, ("traces", "ok"): 1}
    assert len(collector.spans) == 6
    assert otlp.tally.dropped == {}


@pytest.mark.parametrize("status", [400, 401, 404, 413, 500, 301])
def test_what_is_refused_is_counted_and_not_tried_again(make: Any, collector: Collector, status: int) -> None:
    elsewhere = Collector()
    collector.answers = [(status, {"location": f"{elsewhere.url}/v1/traces"}, b"no"), (200, {}, b"")]
    otlp = make(signals=frozenset({"traces"}), headers={"authorization": Secret("Bearer t")})
    otlp.add([finished(1)])
    assert eventually(lambda: otlp.tally.dropped == {("traces", "rejected"): 2})
    otlp.add([finished(2)])
    assert eventually(lambda: otlp.tally.exported == {"traces": 2})
    assert elsewhere.paths == []
    elsewhere.close()


def test_a_collector_that_asks_for_time_gets_it(
    make: Any, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector.answers = [(503, {"retry-after": "3600"}, b""), (200, {}, b"")]
    monkeypatch.setattr(sending, "LONGEST_ASKED_S", 0.3)
    otlp = make(signals=frozenset({"traces"}))
    otlp.add([finished()])
    assert eventually(lambda: len(collector.paths) == 1)
    assert not eventually(lambda: len(collector.paths) > 1, 0.2)
    assert eventually(lambda: otlp.tally.exported == {"traces": 2})


def test_a_batch_that_nobody_takes_is_given_up_and_the_next_is_tried(
    make: Any, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "TRIED_S", 0.1)
    collector.answers = [(503, {}, b"")]
    otlp = make(signals=frozenset({"traces"}))
    otlp.add([finished(1)])
    assert eventually(lambda: otlp.tally.dropped == {("traces", "failed"): 2})
    collector.answers = [(200, {}, b"")]
    otlp.add([finished(2)])
    assert eventually(lambda: otlp.tally.exported == {"traces": 2})


def test_what_a_collector_says_it_did_not_take_is_counted(make: Any, collector: Collector) -> None:
    partial = ExportTraceServiceResponse(partial_success=ExportTracePartialSuccess(rejected_spans=1))
    collector.answers = [
        (200, {}, partial.SerializeToString()),
        (200, {}, b'{"partialSuccess":{}}'),
        (200, {}, b"x" * 10**6),
    ]
    otlp = make(signals=frozenset({"traces"}))
    for number, taken in ((1, 1), (2, 3), (3, 5)):
        otlp.add([finished(number)])
        assert eventually(lambda taken=taken: otlp.tally.exported == {"traces": taken})  # type: ignore[misc]
    assert otlp.tally.dropped == {("traces", "rejected"): 1}


def test_an_answer_is_never_decompressed(make: Any, collector: Collector) -> None:
    collector.answers = [(200, {"content-encoding": "gzip"}, gzip.compress(b"\0" * 10**7))]
    otlp = make(signals=frozenset({"traces"}))
    otlp.add([finished()])
    assert eventually(lambda: otlp.tally.exported == {"traces": 2})
    assert collector.headers[0]["accept-encoding"] == "identity"


def test_batches_that_find_the_queue_full_are_lost_and_counted(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "MOST_WAITING", 2)
    tally = Tally()
    sender = Sender("traces", OtlpSettings(collector.url), tally)
    for _ in range(4):
        sender.put(Batch(b"", 10))
    assert tally.dropped == {("traces", "queue_full"): 20}


def test_a_slow_collector_costs_spans_but_not_measures(
    make: Any, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "MOST_WAITING", 1)
    release = threading.Event()

    def wait() -> tuple[int, dict[str, str], bytes]:
        if collector.paths[-1] == "/v1/traces":
            release.wait(5)
        return 200, {}, b""

    collector.answers = [wait]
    otlp = make(timeout_s=10.0, every_s=0.02)
    for number in range(8):
        otlp.add([finished(number)])
        assert eventually(lambda: not otlp._waiting and not otlp._kept)
    assert otlp.tally.dropped["traces", "queue_full"] >= 2
    counted = "gen_ai.client.operation.duration"
    assert eventually(lambda: sum(one.count for one in collector.measured(counted)) == 8)
    release.set()


def test_requests_beyond_what_may_wait_are_lost_and_counted(collector: Collector) -> None:
    otlp = Otlp(OtlpSettings(collector.url))  # nobody works it off
    for _ in range(3):
        otlp.add([finished()] * (exporting.MOST_WAITING // 2))
    assert (len(otlp._waiting), otlp.tally.records_dropped) == (exporting.MOST_WAITING, exporting.MOST_WAITING // 2)


def test_closing_sends_what_there_is_and_waits_no_longer_than_it_may(make: Any, collector: Collector) -> None:
    otlp = make(every_s=3600.0)
    otlp.add([finished(number) for number in range(600)])
    otlp.close(5.0)
    assert len(collector.spans) == 1200
    assert len([path for path in collector.paths if path == "/v1/traces"]) == 3
    (duration,) = collector.measured("gen_ai.client.operation.duration")
    assert duration.count == 600

    collector.answers = [slowly((200, {}, b""), 3.0)]
    slow = make()
    slow.add([finished()])
    began = exporting.time.monotonic()
    slow.close(0.3)
    assert exporting.time.monotonic() - began < 2.9


def test_a_collector_that_is_down_does_not_hold_up_the_end(make: Any, collector: Collector) -> None:
    collector.answers = [(503, {}, b"")]
    otlp = make(signals=frozenset({"traces"}))
    otlp.add([finished(number) for number in range(600)])
    began = exporting.time.monotonic()
    otlp.close(5.0)
    assert exporting.time.monotonic() - began < 4.9
    assert sum(otlp.tally.dropped.values()) == 1200


def test_what_is_sampled_is_traced_and_what_failed_and_all_is_measured(make: Any, collector: Collector) -> None:
    otlp = make(every_s=3600.0)
    for number, (sampled, code) in enumerate(
        [(True, "ok"), (False, "ok"), (False, "client_gone"), (False, "no_target_available")]
    ):
        one = finished(number, code=code)
        assert one.trace is not None
        one.trace.sampled = sampled
        otlp.add([one])
    otlp.close(5.0)
    assert [span.told.get("error.type") for span in collector.requests()] == [None, "no_target_available"]
    assert sum(one.count for one in collector.measured("gen_ai.client.operation.duration")) == 4


def test_a_defect_costs_what_was_worked_on_and_not_the_thread(
    make: Any, collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    otlp = make()
    broken = finished(1)
    broken.trace = Traced("not hexadecimal", True)
    otlp.add([broken])
    assert eventually(lambda: "requests are lost" in caplog.text)
    otlp.add([finished(2)])
    assert eventually(lambda: len(collector.spans) == 2)


def test_a_private_ca_is_trusted_and_no_other(
    tmp_path: Path, certificate: tuple[Path, Path], collector: Collector, make: Any
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    collector._server.socket = context.wrap_socket(collector._server.socket, server_side=True)
    secure = collector.url.replace("http://", "https://")
    with pytest.raises(OSError, match=r".*"):
        Otlp(OtlpSettings(secure, ca_file=str(tmp_path / "nowhere.pem")))
    stranger = make(endpoint=secure)
    stranger.add([finished()])
    assert eventually(lambda: stranger.tally.exports.get(("traces", "failed"), 0) > 0)
    known = make(endpoint=secure, ca_file=str(certificate[0]), gzip=False)
    known.add([finished()])
    assert eventually(lambda: known.tally.exported.get("traces") == 2)


def test_nothing_in_the_environment_says_where_measures_go(
    make: Any, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "other")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    otlp = make()
    otlp.add([finished()])
    assert eventually(lambda: len(collector.spans) == 2)
    assert collector.spans[0].resource["service.name"] == "pointsman"


def test_cumulative_measures_outlive_an_outage_and_deltas_start_anew(make: Any, collector: Collector) -> None:
    name = "gen_ai.client.operation.duration"
    collector.answers = [(503, {}, b"")]
    otlp = make(signals=frozenset({"metrics"}))
    otlp.add([finished(1)])
    assert eventually(lambda: otlp.tally.exports.get(("metrics", "failed"), 0) > 3)
    otlp.add([finished(2)])
    collector.answers = [(200, {}, b"")]
    assert eventually(lambda: sum(one.count for one in collector.measured(name)) == 2)
    assert {point.temporality for point in collector.points[-1]} == {2}

    delta = Measures(delta=True, now_ns=1)
    for number in (1, 2):
        delta.add(finished(number))
        payload, count = delta.encode(spans.resource_of("s", "i", {}), 10 * number)
        assert count == 3
        collector.take("/v1/metrics", {}, payload)
        (point,) = collector.measured(name)
        assert (point.count, point.since_ns, point.temporality) == (1, (1, 10)[number - 1], 1)
    assert delta.encode(spans.resource_of("s", "i", {}), 30)[1] == 0


def test_series_beyond_the_most_are_counted_together(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "MOST_SERIES", 3)
    counted = Measures(delta=False, now_ns=1)
    for number in range(6):
        one = finished(number)
        one.routing.rule = f"rule-{number}"
        counted.add(one)
    collector.take("/v1/metrics", {}, counted.encode(spans.resource_of("s", "i", {}), 2)[0])
    found = collector.measured("gen_ai.client.operation.duration")
    assert [one.count for one in found] == [1, 1, 1, 3]
    assert found[-1].told == {"otel.metric.overflow": True}


def test_kinds_of_errors_are_series_too(monkeypatch: pytest.MonkeyPatch, collector: Collector) -> None:
    monkeypatch.setattr(measures, "MOST_SERIES", 2)
    counted = Measures(delta=False, now_ns=1)
    for number, outcome in enumerate((Outcome.RESET, Outcome.TLS, Outcome.REFUSED, Outcome.INVALID)):
        one = finished(number, code="upstream_unavailable")
        assert one.trace is not None
        one.trace.failed(Attempt(TARGET, 1), outcome, 100.2, 0)
        counted.add(one)
    collector.take("/v1/metrics", {}, counted.encode(spans.resource_of("s", "i", {}), 2)[0])
    assert [one.count for one in collector.measured("gen_ai.client.operation.duration")] == [1, 1, 2]


def test_an_example_leads_from_a_measure_to_its_trace(collector: Collector) -> None:
    counted = Measures(delta=False, now_ns=1)
    traced, untraced = finished(1), finished(2)
    assert untraced.trace is not None
    untraced.trace.sampled = False
    counted.add(traced)
    counted.add(untraced)
    resource = spans.resource_of("s", "i", {})
    for expected in ([(traced.request_id, spans.span_id(traced.request_id, 1))], []):
        collector.take("/v1/metrics", {}, counted.encode(resource, 2)[0])
        (point,) = collector.measured("gen_ai.client.operation.duration")
        assert point.exemplars == expected


def test_estimates_are_marked_and_not_measured(collector: Collector) -> None:
    counted = Measures(delta=False, now_ns=1)
    guessed = finished(usage=Usage(100, 50, estimated=True))
    counted.add(guessed)
    collector.take("/v1/metrics", {}, counted.encode(spans.resource_of("s", "i", {}), 2)[0])
    assert collector.measured("gen_ai.client.token.usage") == []
    attempt = spans.spans_of(guessed)[1]
    assert any(one.key == "pointsman.usage_estimated" and one.value.bool_value for one in attempt.attributes)


def test_each_attempt_tells_its_own_tokens(collector: Collector) -> None:
    both = finished(usage=Usage(110, 53), attempts=2)
    both.spent = (Spent(1, TARGET.name, "m", Usage(10, 3)), Spent(2, TARGET.name, "m", Usage(100, 50)))
    traced = both.trace
    assert traced is not None
    traced.failed(Attempt(TARGET, 1), Outcome.INVALID, 100.2, 200)
    traced.sends(Attempt(TARGET, 2), HERE, 100.3)
    told = [{one.key: one.value.int_value for one in span.attributes} for span in spans.spans_of(both)[1:]]
    assert [one["gen_ai.usage.output_tokens"] for one in told] == [3, 50]
    counted = Measures(delta=False, now_ns=1)
    counted.add(both)
    collector.take("/v1/metrics", {}, counted.encode(spans.resource_of("s", "i", {}), 2)[0])
    points = collector.measured("gen_ai.client.token.usage")
    assert sorted((one.count, one.sum) for one in points) == [(2, 53), (2, 110)]


def test_hostile_text_stays_text_and_short(collector: Collector) -> None:
    hostile = finished()
    hostile.routing.model_asked = "a\x1b[31m\ud800\u202e" + "x" * 10_000
    hostile.routing.because = "\ud800" * 5
    payload = spans.encode(spans.spans_of(hostile), spans.resource_of("s", "i", {}))
    collector.take("/v1/traces", {}, payload)
    asked = collector.spans[0].told["pointsman.model_asked"]
    assert asked.isprintable()
    assert len(asked) < 200


def test_an_attempt_that_never_left_is_a_span_and_no_operation(collector: Collector) -> None:
    full = finished(status=503, code="overloaded", sent_at=0.0, first_event_at=0.0, usage=None)
    full.trace = Traced(full.request_id, True)
    full.trace.failed(Attempt(TARGET, 1), Outcome.SATURATED, 100.2, 0)
    collector.take("/v1/traces", {}, spans.encode(spans.spans_of(full), spans.resource_of("s", "i", {})))
    request, attempt = collector.spans
    assert (request.status, attempt.told["error.type"]) == (2, "saturated")
    assert "server.address" not in attempt.told
    counted = Measures(delta=False, now_ns=1)
    counted.add(full)
    assert counted.encode(spans.resource_of("s", "i", {}), 2)[1] == 0


# -- names --


def everything() -> tuple[set[str], set[str]]:
    """Every attribute that a span, and that a measure can have."""
    full = finished(2, stream=True, usage=Usage(10, 9, 8, 7, True, 6), thought_unasked=True, attempts=2)
    full.routing.because, full.routing.thinking = "b", "never"
    shadow = Shadowed("trial", OTHER.name, "m", "ok", 200, 0.1, 0.2, Usage(1, 1), 10, True)
    traced = full.trace
    assert traced is not None
    traced.failed(Attempt(TARGET, 1), Outcome.SERVER_ERROR, 100.2, 500)
    traced.sends(Attempt(TARGET, 2), HERE, 100.3)
    traced.chunks = 5
    broken = finished(3, status=502, code="upstream_unavailable", usage=Usage(1, 1))
    copied = Copied(shadow, full, OTHER, HERE, 100.1)
    told = {one.key for each in (full, broken, copied) for span in spans.spans_of(each) for one in span.attributes}
    told |= {one.key for one in spans.resource_of("s", "i", {}).attributes}
    counted = Measures(delta=False, now_ns=1)
    for each in (full, broken, copied):
        counted.add(each)
    measured = {
        name
        for series in counted._series.values()
        for place, extra in series
        for name, value in (*place.told.items(), extra)
        if value not in (None, "")
    }
    return told, measured | {"otel.metric.overflow"}


def test_every_attribute_and_instrument_is_documented_and_nothing_else_is() -> None:
    text = (ROOT / "docs" / "opentelemetry.md").read_text("utf-8")
    listed = set(re.findall(r"^\| `([a-z_]+\.[a-z_.]+)` \|", text, re.M))
    told, measured = everything()
    assert told | measured | {one.name for one in INSTRUMENTS} == listed


def test_names_are_those_of_the_semantic_conventions() -> None:
    found: set[str] = set()
    base = "opentelemetry.semconv."
    for module in (
        "_incubating.attributes.gen_ai_attributes", "_incubating.metrics.gen_ai_metrics", "attributes.http_attributes",
        "_incubating.attributes.http_attributes", "attributes.url_attributes", "attributes.server_attributes",
        "attributes.error_attributes", "attributes.service_attributes", "_incubating.attributes.service_attributes",
        "attributes.otel_attributes",
    ):  # fmt: skip
        names = vars(pytest.importorskip(base + module))
        found |= {value for name, value in names.items() if name.isupper() and isinstance(value, str)}
    told, measured = everything()
    own = {name for name in told | measured if name.startswith("pointsman.")}
    assert (told | measured | {one.name for one in INSTRUMENTS}) - own - found == {"otel.metric.overflow"}
    assert measured & own == {"pointsman.target", "pointsman.rule", "pointsman.team", "pointsman.shadow"}


def test_a_gateway_without_otlp_loads_nothing_of_it() -> None:
    script = (
        "import gateway.app, gateway.site, json, sys;"
        "print(json.dumps([name for name in sys.modules if name.startswith(('opentelemetry', 'google.protobuf'))]))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == []


def test_a_threshold_is_what_the_exporter_traces_by() -> None:
    otlp = Otlp(OtlpSettings("http://127.0.0.1:9", sample=0.25, follow=False))
    assert otlp.tracing == Tracing(traces=True, follow=False, least=threshold(0.25))
    assert Otlp(OtlpSettings("http://127.0.0.1:9", signals=frozenset({"metrics"}))).tracing.traces is False
