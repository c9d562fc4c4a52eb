"""Spans and measures of a running gateway, as a real receiver decodes them."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

pytest.importorskip("opentelemetry.proto", reason="needs the extra otlp")

from tests.collector import Collector, Span
from tests.harness import (
    DONE,
    ROLE,
    STOP,
    USAGE,
    Gateway,
    Script,
    Upstream,
    chat,
    chunk,
    eventually,
    hang,
    plain,
    stream,
)
from tests.proxy.conftest import Start

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"

Begin = Callable[..., tuple[Gateway, dict[str, Upstream]]]


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


@pytest.fixture
def begin(start: Start, collector: Collector) -> Begin:
    """`begin({"a": [script]}, traces={...}, ...)`: a gateway that tells the collector, everything sampled."""

    def made(
        scripts: dict[str, list[Script]],
        change: Callable[[dict[str, Any]], object] = lambda made: None,
        *,
        over: dict[str, Any] | None = None,
        **otlp: Any,
    ) -> tuple[Gateway, dict[str, Upstream]]:
        otlp.setdefault("traces", {"sample": "100%"})
        otlp.setdefault("metrics", {"every": "1s"})
        return start(scripts, change, otlp={"endpoint": collector.url, **otlp}, **(over or {}))

    return made


def self_hosted(settings: dict[str, Any]) -> None:
    for backend in settings["backends"].values():
        backend["self_hosted"] = True


def ends(span: Span) -> float:
    return span.ended_ns / 1e9


def test_a_request_is_a_span_and_its_attempt_another(begin: Begin, collector: Collector) -> None:
    gateway, _ = begin({"a": [plain()]})
    before = time.time()
    answer = gateway.post(chat(text="a secret that nobody shall hear"))
    span = collector.request()
    assert span.trace_id == answer.headers["x-request-id"]
    assert (span.name, span.parent_id, span.status) == ("POST /v1/chat/completions", "", 0)
    assert before <= span.begun_ns / 1e9 <= ends(span) <= time.time()
    cost = span.told.pop("pointsman.cost_usd")
    assert cost == pytest.approx(float(answer.headers["x-pointsman-cost-usd"]))
    assert 0 < span.told.pop("pointsman.overhead_s") < 5
    assert span.told.pop("pointsman.policy").startswith("default@")
    assert span.told.pop("pointsman.because")
    assert span.told == {
        "http.request.method": "POST", "http.route": "/v1/chat/completions", "url.path": "/v1/chat/completions",
        "url.scheme": "http", "http.response.status_code": 200, "pointsman.request_id": span.trace_id,
        "pointsman.key": "test", "pointsman.team": "qa", "pointsman.model_asked": "auto", "pointsman.stream": False,
        "pointsman.rule": answer.headers["x-pointsman-rule"], "pointsman.chosen": "a", "pointsman.target": "a",
        "pointsman.model": "llama-3.3-70b", "pointsman.thinking": answer.headers["x-pointsman-thinking"],
        "pointsman.attempts": 1,
    }  # fmt: skip
    (attempt,) = collector.attempts(span)
    port = attempt.told.pop("server.port")
    assert isinstance(port, int)
    assert attempt.told == {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "m",
        "gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 2, "server.address": "127.0.0.1",
        "http.response.status_code": 200, "pointsman.backend": "a", "pointsman.target": "a", "pointsman.attempt": 1,
    }  # fmt: skip
    assert (attempt.name, attempt.kind, attempt.status, attempt.trace_id) == ("chat m", 3, 0, span.trace_id)
    assert span.begun_ns <= attempt.begun_ns <= attempt.ended_ns <= span.ended_ns
    assert span.resource["service.name"] == "pointsman"
    assert {"service.version", "service.instance.id"} <= span.resource.keys()
    assert not any(b"nobody shall hear" in body for body in collector.raw)


def test_log_record_and_trace_are_joined_by_the_request_id(begin: Begin, collector: Collector) -> None:
    gateway, _ = begin({"a": [plain()]})
    request_id = gateway.post(chat(), traceparent=f"00-{TRACE}-{SPAN}-01").headers["x-request-id"]
    span = collector.request()
    assert (span.trace_id, span.told["pointsman.request_id"]) == (TRACE, request_id)
    assert eventually(lambda: any(f'"trace_id":"{TRACE}"' in line and request_id in line for line in gateway.lines))
    assert gateway.get(f"/v1/decisions/{request_id}").json()["record"]["trace_id"] == TRACE


def test_a_callers_trace_is_continued_and_handed_on_to_a_self_hosted_backend(
    begin: Begin, collector: Collector
) -> None:
    gateway, upstreams = begin({"a": [plain()]}, self_hosted)
    gateway.post(chat(), traceparent=f"00-{TRACE}-{SPAN}-01", tracestate="rojo=1, congo=2")
    span = collector.request()
    (attempt,) = collector.attempts(span)
    assert (span.trace_id, span.parent_id, span.state) == (TRACE, SPAN, "rojo=1,congo=2")
    (got,) = upstreams["a"].requests
    assert got.header("traceparent") == f"00-{TRACE}-{attempt.span_id}-01"
    assert got.header("tracestate") == "rojo=1,congo=2"


def test_a_cloud_is_told_of_no_trace_unless_its_backend_says_so(begin: Begin, collector: Collector) -> None:
    def one_of_two(settings: dict[str, Any]) -> None:
        settings["backends"]["b"]["trace_context"] = True

    gateway, upstreams = begin({"a": [plain()], "b": [plain()]}, one_of_two)
    for model in ("a", "b"):
        gateway.post(chat(model), traceparent=f"00-{TRACE}-{SPAN}-01", tracestate="rojo=1")
    collector.request(2)
    assert b"trace" not in upstreams["a"].requests[0].head.lower()
    assert upstreams["b"].requests[0].header("tracestate") == "rojo=1"


def test_without_otlp_nothing_is_told_or_handed_on_and_what_is_sent_is_the_same(start: Start) -> None:
    gateway, upstreams = start({"a": [plain()]}, self_hosted)
    answer = gateway.post(chat(), traceparent=f"00-{TRACE}-{SPAN}-01", tracestate="rojo=1")
    (got,) = upstreams["a"].requests
    names = [line.partition(b":")[0].lower() for line in got.head.split(b"\r\n")[1:]]
    assert names == [
        b"host", b"authorization", b"user-agent", b"accept", b"accept-encoding", b"content-type", b"content-length",
        b"x-request-id",
    ]  # fmt: skip
    assert got.header("x-request-id") == answer.headers["x-request-id"]
    assert "trace_id" not in "".join(line for line in gateway.lines if answer.headers["x-request-id"] in line)


@pytest.mark.parametrize(
    "headers",
    [
        {"traceparent": f"00-{'0' * 32}-{SPAN}-01"},
        {"traceparent": f"00-{TRACE}-{SPAN}-01-x"},
        {"traceparent": "00-" + "a" * 8_000},
        {"traceparent": f"00-{TRACE}-{SPAN}-01, 00-{TRACE}-{SPAN}-01"},
        {"traceparent": f"00-{TRACE.upper()}-{SPAN}-01"},
        {"tracestate": "rojo=1"},
    ],
)
def test_a_hostile_traceparent_is_nobodys(begin: Begin, collector: Collector, headers: dict[str, str]) -> None:
    gateway, upstreams = begin({"a": [plain()]}, self_hosted)
    answer = gateway.post(chat(), **{"tracestate": "evil=1", **headers})
    span = collector.request()
    assert (span.trace_id, span.parent_id, span.state) == (answer.headers["x-request-id"], "", "")
    (got,) = upstreams["a"].requests
    assert got.header("tracestate") is None
    assert re.fullmatch(f"00-{span.trace_id}-[0-9a-f]{{16}}-03", got.header("traceparent") or "")


def test_with_link_a_callers_trace_is_named_and_not_continued(begin: Begin, collector: Collector) -> None:
    gateway, _ = begin({"a": [plain()]}, traces={"sample": "100%", "callers": "link"})
    answer = gateway.post(chat(), traceparent=f"00-{TRACE}-{SPAN}-00")
    span = collector.request()
    assert (span.trace_id, span.parent_id) == (answer.headers["x-request-id"], "")
    assert span.links == [(TRACE, SPAN)]


def test_a_stream_tells_of_its_first_chunk(begin: Begin, collector: Collector) -> None:
    words = [chunk(f"w{number} ") for number in range(5)]
    gateway, _ = begin({"a": [stream([ROLE, *words, STOP, USAGE, DONE], pause_s=0.02)]})
    assert gateway.post(chat(stream=True)).text.endswith("data: [DONE]\n\n")
    (attempt,) = collector.attempts(collector.request())
    assert attempt.told["gen_ai.request.stream"] is True
    assert 0 < attempt.told["gen_ai.response.time_to_first_chunk"] < 5
    assert attempt.told["gen_ai.usage.output_tokens"] == 3
    assert eventually(lambda: bool(collector.measured("gen_ai.client.operation.time_per_output_chunk")))
    (per_chunk,) = collector.measured("gen_ai.client.operation.time_per_output_chunk", pointsman__target="a")
    assert per_chunk.count == 5  # of five words and a finish, all but the first
    assert 0.02 * 5 <= per_chunk.sum + 0.001 < 5
    (first,) = collector.measured("gen_ai.client.operation.time_to_first_chunk")
    assert first.count == 1


def test_a_failover_has_two_attempts_of_which_the_first_tells_why(begin: Begin, collector: Collector) -> None:
    def ordered(settings: dict[str, Any]) -> None:
        settings["targets"]["b"]["price"] = {"input": 9.0, "output": 9.0}
        self_hosted(settings)

    gateway, upstreams = begin({"a": [plain(500, b"{}")], "b": [plain()]}, ordered)
    answer = gateway.post(chat())
    assert answer.headers["x-pointsman-target"] == "b"
    span = collector.request()
    failed, good = collector.attempts(span)
    assert (failed.told["error.type"], failed.status, failed.told["http.response.status_code"]) == (
        "server_error", 2, 500,
    )  # fmt: skip
    assert "gen_ai.usage.input_tokens" not in failed.told
    assert (good.status, good.told["pointsman.attempt"], good.told["http.request.resend_count"]) == (0, 2, 1)
    assert failed.ended_ns <= good.begun_ns
    assert span.told["pointsman.attempts"] == 2
    for name, attempt in (("a", failed), ("b", good)):
        assert attempt.span_id in (upstreams[name].requests[0].header("traceparent") or "")
    assert eventually(lambda: len(collector.measured("gen_ai.client.operation.duration")) == 2)
    (measured,) = collector.measured("gen_ai.client.operation.duration", pointsman__target="a")
    assert measured.told["error.type"] == "server_error"


def test_a_refusal_is_a_span_without_attempts(begin: Begin, collector: Collector) -> None:
    gateway, _ = begin({"a": [plain()]})
    assert gateway.post(chat("no-such-model")).status_code == 404
    span = collector.request()
    assert (span.told["error.type"], span.told["http.response.status_code"], span.status) == ("model_not_found", 404, 0)
    assert collector.attempts(span) == []


def test_who_has_no_key_makes_no_span(begin: Begin, collector: Collector) -> None:
    gateway, _ = begin({"a": [plain()]})
    assert gateway.post(chat(), key="sk-not-a-key", traceparent=f"00-{TRACE}-{SPAN}-01").status_code == 401
    gateway.post(chat())
    assert collector.request().told["http.response.status_code"] == 200
    assert len(collector.requests()) == 1


def test_a_client_that_leaves_ends_its_attempt_and_blames_nobody(begin: Begin, collector: Collector) -> None:
    gateway, upstreams = begin({"a": [stream([ROLE, chunk("a")], end="hang")]})
    with gateway.connect() as client, httpx.Client() as _:
        post(client, chat(stream=True))
        assert client.recv(65536)
    span = collector.request()
    assert (span.told["http.response.status_code"], span.told["error.type"], span.status) == (499, "client_gone", 0)
    (attempt,) = collector.attempts(span)
    assert (attempt.told["error.type"], attempt.status) == ("client_gone", 0)
    assert attempt.told["pointsman.usage_estimated"] is True
    assert len(upstreams["a"].requests) == 1


def post(client: socket.socket, body: dict[str, Any]) -> None:
    import json

    from tests.harness import KEY

    payload = json.dumps(body).encode()
    client.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b"
        % (KEY.encode(), len(payload), payload)
    )


def test_a_stream_that_breaks_is_an_error_of_the_request_and_of_the_attempt(begin: Begin, collector: Collector) -> None:
    gateway, _ = begin({"a": [stream([ROLE, chunk("a")], end="reset")]})
    assert "upstream_stream_interrupted" in gateway.post(chat(stream=True)).text
    span = collector.request()
    assert (span.told["http.response.status_code"], span.told["error.type"], span.status) == (
        200, "upstream_stream_interrupted", 2,
    )  # fmt: skip
    (attempt,) = collector.attempts(span)
    assert (attempt.told["error.type"], attempt.status) == ("interrupted", 2)


def test_an_attempt_that_reached_nobody_says_when_it_was_tried(begin: Begin, collector: Collector) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    def dead(settings: dict[str, Any]) -> None:
        settings["backends"]["a"]["endpoints"] = [f"http://127.0.0.1:{port}/v1"]

    gateway, _ = begin({"a": [plain()]}, dead)
    assert gateway.post(chat()).status_code == 502
    span = collector.request()
    attempts = collector.attempts(span)
    assert {one.told["error.type"] for one in attempts} == {"refused"}
    assert {one.told["server.port"] for one in attempts} == {port}
    assert len({one.span_id for one in attempts}) == len(attempts) == span.told["pointsman.attempts"]


def test_a_small_sample_still_tells_of_every_error(begin: Begin, collector: Collector) -> None:
    gateway, _ = begin({"a": [plain(), plain(), plain(400, b"{}")]}, traces={"sample": "0%"})
    for status in (200, 200, 400):
        assert gateway.post(chat()).status_code == status
    span = collector.request()
    assert span.told["http.response.status_code"] == 400
    assert len(collector.attempts(span)) == 1
    assert eventually(lambda: sum(one.count for one in collector.measured("gen_ai.client.operation.duration")) == 3)


def test_errors_are_left_out_where_that_is_said(begin: Begin, collector: Collector) -> None:
    gateway, _ = begin({"a": [plain(400, b"{}"), plain()]}, traces={"sample": "0%", "errors": False})
    gateway.post(chat())
    gateway.post(chat(), traceparent=f"00-{TRACE}-{SPAN}-01")
    assert collector.request().told["http.response.status_code"] == 200
    assert len(collector.requests()) == 1


def test_measures_are_those_of_the_conventions(begin: Begin, collector: Collector) -> None:
    gateway, _ = begin({"a": [plain()]}, resource={"deployment.environment.name": "test"})
    for _ in range(3):
        gateway.post(chat())
    assert eventually(lambda: sum(one.count for one in collector.measured("gen_ai.client.operation.duration")) == 3)
    (duration,) = collector.measured("gen_ai.client.operation.duration")
    assert duration.unit == "s"
    assert duration.bounds[0], duration.bounds[-1] == (0.01, 81.92)
    port = duration.told.pop("server.port")
    rule = duration.told.pop("pointsman.rule")
    assert rule
    shared = {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "m",
        "server.address": "127.0.0.1", "pointsman.target": "a", "pointsman.team": "qa",
    }  # fmt: skip
    assert duration.told == shared
    assert duration.resource["deployment.environment.name"] == "test"
    for kind, total in (("input", 30), ("output", 6)):
        (usage,) = collector.measured("gen_ai.client.token.usage", gen_ai__token__type=kind)
        assert (usage.unit, usage.count, usage.sum) == ("{token}", 3, total)
        assert usage.told == {**shared, "server.port": port, "pointsman.rule": rule, "gen_ai.token.type": kind}
    assert usage.counts[1] == 3  # two tokens: above 1, at most 4
    assert collector.measured("gen_ai.client.operation.time_to_first_chunk") == []


def test_a_shadow_is_a_span_of_its_own_and_part_of_the_same_trace(begin: Begin, collector: Collector, tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "mine.yaml").write_text(
        "policy: mine\n"
        "rules:\n  - {id: all, use: [{target.name: a}]}\n"
        "shadow:\n  - {id: trial, share: 100%, use: [{target.name: b}]}\n"
    )
    gateway, upstreams = begin(
        {"a": [plain()], "b": [plain()]},
        self_hosted,
        over={"policies": {"dir": str(tmp_path / "policies"), "default": "mine"}},
    )
    gateway.post(chat())
    span = collector.request()
    assert eventually(lambda: len(collector.attempts(span)) == 2)
    _, shadow = collector.attempts(span)
    assert (shadow.told["pointsman.shadow"], shadow.told["pointsman.target"]) == ("trial", "b")
    assert shadow.told["gen_ai.usage.output_tokens"] == 2
    assert upstreams["b"].requests[0].header("traceparent") == f"00-{span.trace_id}-{shadow.span_id}-03"
    assert eventually(lambda: bool(collector.measured("gen_ai.client.token.usage", pointsman__shadow="trial")))


def test_what_has_ended_is_sent_before_the_process_ends(begin: Begin, collector: Collector) -> None:
    gateway, _ = begin({"a": [plain()]}, metrics={"every": "1h"})
    for _ in range(5):
        gateway.post(chat())
    gateway.process.terminate()
    assert gateway.process.wait(10) == 0
    assert len(collector.requests()) == 5
    assert sum(one.count for one in collector.measured("gen_ai.client.operation.duration")) == 5


def test_a_collector_that_is_not_there_harms_nobody_and_is_counted(begin: Begin, collector: Collector) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    gateway, _ = begin({"a": [plain()]}, endpoint=f"http://127.0.0.1:{port}")
    assert [gateway.post(chat()).status_code for _ in range(5)] == [200] * 5
    assert eventually(lambda: gateway.metric('pointsman_otlp_exports_total{outcome="failed",signal="traces"}') > 0)
    assert eventually(lambda: any("the collector does not take traces" in line for line in gateway.lines))
    gateway.process.terminate()
    assert gateway.process.wait(10) == 0


def test_a_collector_that_never_answers_holds_up_neither_requests_nor_the_end(
    begin: Begin, collector: Collector
) -> None:
    silent = Upstream([hang])
    gateway, _ = begin({"a": [plain()]}, endpoint=silent.url.removesuffix("/v1"))
    assert gateway.post(chat()).status_code == 200
    assert eventually(lambda: silent.connections > 0)
    began = time.monotonic()
    gateway.process.terminate()
    assert gateway.process.wait(15) == 0
    assert time.monotonic() - began < 10
    silent.close()


def test_after_a_reload_new_targets_are_told_of_and_changed_settings_wait_for_a_start(
    begin: Begin, collector: Collector
) -> None:
    gateway, _ = begin({"a": [plain()], "b": [plain()]})
    path = gateway.directory / "pointsman.yaml"
    path.write_text(
        path.read_text().replace("  b:\n    model", "  new:\n    model").replace("sample: 100%", "sample: 50%")
    )
    assert eventually(lambda: any("otlp has changed" in line for line in gateway.lines), 10)
    gateway.post(chat("new"))
    span = collector.request()
    assert span.told["pointsman.target"] == "new"


def test_headers_are_sent_and_what_is_secret_among_them_is_shown_nowhere(begin: Begin, collector: Collector) -> None:
    def secret(settings: dict[str, Any]) -> None:
        settings["otlp"]["headers"] = {"Authorization": {"env": "UPSTREAM_KEY"}, "X-Scope-OrgID": "tenant-1"}

    collector.answers[0] = (401, {}, b"who are you with sk-upstream-canary-1")
    gateway, _ = begin({"a": [plain()]}, secret)
    gateway.post(chat())
    assert eventually(lambda: any("does not take traces: it answered 401" in line for line in gateway.lines))
    assert collector.headers[0]["authorization"] == "sk-upstream-canary-1"
    assert collector.headers[0]["x-scope-orgid"] == "tenant-1"
    assert collector.headers[0]["content-type"] == "application/x-protobuf"
    assert "canary" not in "".join(gateway.lines)
    assert gateway.metric('pointsman_otlp_dropped_total{reason="rejected",signal="traces"}') == 2
