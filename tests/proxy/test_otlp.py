"""Spans and measures of a running gateway, as a real receiver decodes them.

Most requests go to one gateway, whose targets are called by name: a start takes longer than all of them.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("opentelemetry.proto", reason="needs the extra otlp")

from tests.collector import Collector, Span
from tests.harness import (
    DONE,
    KEY,
    ROLE,
    STOP,
    USAGE,
    Gateway,
    Received,
    Script,
    Upstream,
    chat,
    chunk,
    config,
    eventually,
    hang,
    plain,
    running,
    stream,
)
from tests.proxy.conftest import Start

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
WORDS = [chunk(f"w{number} ") for number in range(5)]
SCRIPTS: dict[str, list[Script]] = {
    "good": [plain()],
    "measured": [plain()],
    "cloud": [plain()],
    "told": [plain()],
    "words": [stream([ROLE, *WORDS, STOP, USAGE, DONE], pause_s=0.02)],
    "breaks": [stream([ROLE, chunk("a")], end="reset")],
    "hangs": [stream([ROLE, chunk("a")], end="hang")],
    "bad": [plain(500, b"{}")],
    "copied": [plain()],
    "dead": [],
}
POLICY = """
policy: mine
rules:
  - {id: first, when: {workload: failover}, use: [{target.name: bad}, {target.name: good}]}
  - {id: all, use: [{target.name: good}]}
shadow:
  - {id: trial, share: 100%, when: {workload: shadow}, use: [{target.name: copied}]}
"""


#: `pointsman serve` that sends a span soon after its end.
HASTY = (
    "-c",
    "import gateway.cli, gateway.telemetry.otlp.exporting as e; e.EVERY_S = e.LINGER_S = 0.05; gateway.cli.main()",
    "serve",
    "--config",
)


class World:
    """A gateway that tells a collector of everything, and its upstreams."""

    def __init__(self, gateway: Gateway, collector: Collector, upstreams: dict[str, Upstream]) -> None:
        self.gateway = gateway
        self.collector = collector
        self.upstreams = upstreams

    def post(self, model: str = "good", **more: Any) -> tuple[httpx.Response, Span]:
        """A request, and its span."""
        headers = {name: more.pop(name) for name in list(more) if name.startswith(("trace", "x_"))}
        answer = self.gateway.post(chat(model, **more), **headers)
        return answer, self.collector.of(answer.headers["x-request-id"])

    def received(self, name: str) -> Received:
        """The last request that an upstream got."""
        return self.upstreams[name].requests[-1]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("otlp")
    (directory / "policies").mkdir()
    (directory / "policies" / "mine.yaml").write_text(POLICY)
    with ExitStack() as stack:
        collector = Collector()
        stack.callback(collector.close)
        upstreams = {name: Upstream(list(scripts)) for name, scripts in SCRIPTS.items()}
        for upstream in upstreams.values():
            stack.callback(upstream.close)
        upstreams["dead"].close()
        settings = config(upstreams, policies={"dir": "policies", "default": "mine"})
        for name, backend in settings["backends"].items():
            backend["self_hosted"] = name not in ("cloud", "told")
        settings["backends"]["told"]["trace_context"] = True
        settings["otlp"] = {
            "endpoint": collector.url,
            "resource": {"deployment.environment.name": "test"},
            "traces": {"sample": "100%"},
            "metrics": {"every": "1s"},
        }
        yield World(stack.enter_context(running(directory, settings, command=HASTY)), collector, upstreams)


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


def test_a_request_is_a_span_and_its_attempt_another(world: World) -> None:
    before = time.time()
    answer = world.gateway.post(chat("auto", "a secret that nobody shall hear"))
    span = world.collector.of(answer.headers["x-request-id"])
    assert span.trace_id == answer.headers["x-request-id"]
    assert (span.name, span.parent_id, span.status) == ("POST /v1/chat/completions", "", 0)
    assert before <= span.begun_ns / 1e9 <= span.ended_ns / 1e9 <= time.time()
    assert span.told.pop("pointsman.cost_usd") == pytest.approx(float(answer.headers["x-pointsman-cost-usd"]))
    assert 0 < span.told.pop("pointsman.overhead_s") < 5
    assert span.told.pop("pointsman.policy").startswith("mine@")
    assert span.told.pop("pointsman.because")
    assert span.told == {
        "http.request.method": "POST", "http.route": "/v1/chat/completions", "url.path": "/v1/chat/completions",
        "url.scheme": "http", "http.response.status_code": 200, "pointsman.request_id": span.trace_id,
        "pointsman.key": "test", "pointsman.team": "qa", "pointsman.model_asked": "auto", "pointsman.stream": False,
        "pointsman.rule": "all", "pointsman.chosen": "good", "pointsman.target": "good",
        "pointsman.model": "llama-3.3-70b", "pointsman.thinking": answer.headers["x-pointsman-thinking"],
        "pointsman.attempts": 1,
    }  # fmt: skip
    (attempt,) = world.collector.attempts(span)
    assert attempt.told == {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "m",
        "gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 2, "server.address": "127.0.0.1",
        "server.port": world.upstreams["good"].port, "http.response.status_code": 200, "pointsman.backend": "good",
        "pointsman.target": "good", "pointsman.attempt": 1,
    }  # fmt: skip
    assert (attempt.name, attempt.kind, attempt.status, attempt.trace_id) == ("chat m", 3, 0, span.trace_id)
    assert span.begun_ns <= attempt.begun_ns <= attempt.ended_ns <= span.ended_ns
    assert span.resource.items() >= {"service.name": "pointsman", "deployment.environment.name": "test"}.items()
    assert {"service.version", "service.instance.id"} <= span.resource.keys()
    assert not any(b"nobody shall hear" in body for body in world.collector.raw)


def test_log_decision_and_trace_are_joined_by_the_request_id(world: World) -> None:
    answer, span = world.post(traceparent=PARENT)
    request_id = answer.headers["x-request-id"]
    assert span.trace_id == TRACE
    lines = world.gateway.lines
    assert eventually(lambda: any(f'"trace_id":"{TRACE}"' in line and request_id in line for line in lines))
    assert world.gateway.get(f"/v1/decisions/{request_id}").json()["record"]["trace_id"] == TRACE


def test_a_callers_trace_is_continued_and_handed_on_to_a_self_hosted_backend(world: World) -> None:
    _, span = world.post(traceparent=PARENT, tracestate="rojo=1, congo=2")
    (attempt,) = world.collector.attempts(span)
    assert (span.trace_id, span.parent_id, span.state) == (TRACE, SPAN, "rojo=1,congo=2")
    got = world.received("good")
    assert got.header("traceparent") == f"00-{TRACE}-{attempt.span_id}-01"
    assert got.header("tracestate") == "rojo=1,congo=2"


def test_a_cloud_is_told_of_no_trace_unless_its_backend_says_so(world: World) -> None:
    for name in ("cloud", "told"):
        world.post(name, traceparent=PARENT, tracestate="rojo=1")
    assert b"trace" not in world.received("cloud").head.lower()
    assert world.received("told").header("tracestate") == "rojo=1"


@pytest.mark.parametrize(
    "headers",
    [
        {"traceparent": f"00-{'0' * 32}-{SPAN}-01"},
        {"traceparent": f"{PARENT}-x"},
        {"traceparent": "00-" + "a" * 8_000},
        {"traceparent": f"{PARENT}, {PARENT}"},
        {"traceparent": PARENT.upper()},
        {"tracestate": "rojo=1"},
    ],
)
def test_a_hostile_traceparent_is_nobodys(world: World, headers: dict[str, str]) -> None:
    answer, span = world.post(**{"tracestate": "evil=1", **headers})
    assert (span.trace_id, span.parent_id, span.state) == (answer.headers["x-request-id"], "", "")
    got = world.received("good")
    assert got.header("tracestate") is None
    assert re.fullmatch(f"00-{span.trace_id}-[0-9a-f]{{16}}-03", got.header("traceparent") or "")


def test_a_stream_tells_of_its_first_chunk_and_of_those_after_it(world: World) -> None:
    answer, span = world.post("words", stream=True)
    assert answer.text.endswith("data: [DONE]\n\n")
    (attempt,) = world.collector.attempts(span)
    assert attempt.told["gen_ai.request.stream"] is True
    assert 0 < attempt.told["gen_ai.response.time_to_first_chunk"] < 5
    assert attempt.told["gen_ai.usage.output_tokens"] == 3

    def measured(name: str) -> list[Any]:
        return world.collector.measured(f"gen_ai.client.operation.{name}", pointsman__target="words")

    assert eventually(lambda: bool(measured("time_per_output_chunk")))
    (per_chunk,) = measured("time_per_output_chunk")
    assert per_chunk.count == 5  # of five words and a finish, all but the first
    assert 0.02 * 5 <= per_chunk.sum + 0.001 < 5
    (first,) = measured("time_to_first_chunk")
    assert first.count == 1


def test_a_failover_has_two_attempts_of_which_the_first_tells_why(world: World) -> None:
    answer, span = world.post("auto", x_pointsman_workload="failover")
    assert (answer.status_code, span.told["pointsman.attempts"], span.told["pointsman.chosen"]) == (200, 2, "bad")
    failed, good = world.collector.attempts(span)
    told = (failed.told["error.type"], failed.status, failed.told["http.response.status_code"])
    assert told == ("server_error", 2, 500)
    assert "gen_ai.usage.input_tokens" not in failed.told
    assert (good.status, good.told["pointsman.attempt"], good.told["http.request.resend_count"]) == (0, 2, 1)
    assert failed.ended_ns <= good.begun_ns
    for name, attempt in (("bad", failed), ("good", good)):
        assert attempt.span_id in (world.received(name).header("traceparent") or "")
    found = "gen_ai.client.operation.duration"
    assert eventually(lambda: bool(world.collector.measured(found, pointsman__target="bad")))
    (measured,) = world.collector.measured(found, pointsman__target="bad")
    assert (measured.told["error.type"], measured.told["pointsman.rule"]) == ("server_error", "first")


def test_a_refusal_is_a_span_without_attempts(world: World) -> None:
    answer, span = world.post("no-such-model")
    assert answer.status_code == 404
    assert (span.told["error.type"], span.told["http.response.status_code"], span.status) == ("model_not_found", 404, 0)
    assert world.collector.attempts(span) == []


def test_who_has_no_key_makes_no_span(world: World) -> None:
    stranger = world.gateway.post(chat("good"), key="sk-not-a-key", traceparent=PARENT)
    assert stranger.status_code == 401
    world.post()
    ids = [one.told["pointsman.request_id"] for one in world.collector.requests()]
    assert stranger.headers["x-request-id"] not in ids


def test_a_client_that_leaves_ends_its_attempt_and_blames_nobody(world: World) -> None:
    body = json.dumps(chat("hangs", stream=True)).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\nContent-Length: %d\r\n\r\n"
    with world.gateway.connect() as client:
        client.sendall(head % (KEY.encode(), len(body)) + body)
        request_id = re.search(rb"x-request-id: ([0-9a-f]+)", client.recv(65536))
    assert request_id
    span = world.collector.of(request_id[1].decode())
    assert (span.told["http.response.status_code"], span.told["error.type"], span.status) == (499, "client_gone", 0)
    (attempt,) = world.collector.attempts(span)
    assert (attempt.told["error.type"], attempt.status) == ("client_gone", 0)
    assert attempt.told["pointsman.usage_estimated"] is True


def test_a_stream_that_breaks_is_an_error_of_the_request_and_of_the_attempt(world: World) -> None:
    answer, span = world.post("breaks", stream=True)
    assert "upstream_stream_interrupted" in answer.text
    told = (span.told["http.response.status_code"], span.told["error.type"], span.status)
    assert told == (200, "upstream_stream_interrupted", 2)
    (attempt,) = world.collector.attempts(span)
    assert (attempt.told["error.type"], attempt.status) == ("interrupted", 2)


def test_an_attempt_that_reached_nobody_says_whom_it_tried(world: World) -> None:
    answer, span = world.post("dead")
    assert (answer.status_code, span.status) == (502, 2)
    attempts = world.collector.attempts(span)
    assert {one.told["error.type"] for one in attempts} == {"refused"}
    assert {one.told["server.port"] for one in attempts} == {world.upstreams["dead"].port}
    assert len({one.span_id for one in attempts}) == len(attempts) == span.told["pointsman.attempts"]


def test_measures_are_those_of_the_conventions(world: World) -> None:
    for _ in range(3):
        world.gateway.post(chat("measured"))
    find, name = world.collector.measured, "gen_ai.client.operation.duration"
    assert eventually(lambda: sum(one.count for one in find(name, pointsman__target="measured")) == 3)
    (duration,) = find(name, pointsman__target="measured")
    assert (duration.unit, duration.bounds[0], duration.bounds[-1]) == ("s", 0.01, 81.92)
    assert duration.told == {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "m",
        "server.address": "127.0.0.1", "server.port": world.upstreams["measured"].port,
        "pointsman.target": "measured", "pointsman.team": "qa", "pointsman.rule": "pin",
    }  # fmt: skip
    assert duration.resource["deployment.environment.name"] == "test"
    for kind, total in (("input", 30), ("output", 6)):
        usage_of = {"gen_ai__token__type": kind, "pointsman__target": "measured"}
        (usage,) = find("gen_ai.client.token.usage", **usage_of)
        assert (usage.unit, usage.count, usage.sum) == ("{token}", 3, total)
        assert usage.told == {**duration.told, "gen_ai.token.type": kind}
    assert usage.counts[1] == 3  # two tokens: above 1, at most 4
    assert find("gen_ai.client.operation.time_to_first_chunk", pointsman__target="measured") == []


def test_a_shadow_is_a_span_of_its_own_and_part_of_the_same_trace(world: World) -> None:
    _, span = world.post("auto", x_pointsman_workload="shadow")
    assert eventually(lambda: len(world.collector.attempts(span)) == 2)
    _, shadow = world.collector.attempts(span)
    assert (shadow.told["pointsman.shadow"], shadow.told["pointsman.target"]) == ("trial", "copied")
    assert shadow.told["gen_ai.usage.output_tokens"] == 2
    assert world.received("copied").header("traceparent") == f"00-{span.trace_id}-{shadow.span_id}-03"
    assert eventually(lambda: bool(world.collector.measured("gen_ai.client.token.usage", pointsman__shadow="trial")))


def test_what_was_exported_is_counted(world: World) -> None:
    world.post()
    for signal in ("traces", "metrics"):
        assert eventually(
            lambda signal=signal: world.gateway.metric(f'pointsman_otlp_exported_total{{signal="{signal}"}}') > 0
        )  # type: ignore[misc]
    assert world.gateway.metric("pointsman_otlp_dropped_total") == 0


# -- with settings of their own --


def test_without_otlp_nothing_is_told_or_handed_on_and_what_is_sent_is_the_same(start: Start) -> None:
    def self_hosted(settings: dict[str, Any]) -> None:
        settings["backends"]["a"]["self_hosted"] = True

    gateway, upstreams = start({"a": [plain()]}, self_hosted)
    answer = gateway.post(chat(), traceparent=PARENT, tracestate="rojo=1")
    (got,) = upstreams["a"].requests
    names = [line.partition(b":")[0].lower() for line in got.head.split(b"\r\n")[1:]]
    assert names == [
        b"host", b"authorization", b"user-agent", b"accept", b"accept-encoding", b"content-type", b"content-length",
        b"x-request-id",
    ]  # fmt: skip
    assert got.header("x-request-id") == answer.headers["x-request-id"]
    assert "trace_id" not in "".join(line for line in gateway.lines if answer.headers["x-request-id"] in line)


def test_with_link_a_callers_trace_is_named_and_its_wish_to_be_recorded_is_not_heard(
    collector: Collector, start: Start
) -> None:
    traces = {"sample": "0%", "callers": "link"}
    gateway, _ = start({"a": [plain(), plain(400, b"{}")]}, otlp={"endpoint": collector.url, "traces": traces})
    assert gateway.post(chat(), traceparent=PARENT).status_code == 200
    answer = gateway.post(chat(), traceparent=PARENT)
    assert answer.status_code == 400
    span = collector.request()
    assert (span.trace_id, span.parent_id, span.links) == (answer.headers["x-request-id"], "", [(TRACE, SPAN)])
    assert len(collector.requests()) == 1


def test_all_is_measured_and_errors_are_traced_whatever_the_sample_and_the_end_loses_nothing(
    collector: Collector, start: Start
) -> None:
    otlp = {"endpoint": collector.url, "traces": {"sample": "0%"}, "metrics": {"every": "1h"}}
    gateway, _ = start({"a": [plain(), plain(), plain(400, b"{}")]}, otlp=otlp)
    assert [gateway.post(chat()).status_code for _ in range(3)] == [200, 200, 400]
    gateway.process.terminate()
    assert gateway.process.wait(10) == 0
    (span,) = collector.requests()
    assert span.told["http.response.status_code"] == 400
    assert len(collector.attempts(span)) == 1
    assert sum(one.count for one in collector.measured("gen_ai.client.operation.duration")) == 3


def test_a_collector_that_never_answers_holds_up_neither_requests_nor_the_end(start: Start) -> None:
    silent = Upstream([hang])
    otlp = {"endpoint": silent.url.removesuffix("/v1"), "timeout": "200ms", "traces": {"sample": "100%"}}
    gateway, _ = start({"a": [plain()]}, otlp=otlp)
    assert [gateway.post(chat()).status_code for _ in range(5)] == [200] * 5
    assert eventually(lambda: gateway.metric('pointsman_otlp_exports_total{outcome="failed",signal="traces"}') > 0)
    assert sum("the collector does not take traces: ReadTimeout" in line for line in gateway.lines) == 1
    began = time.monotonic()
    gateway.process.terminate()
    assert gateway.process.wait(15) == 0
    assert time.monotonic() - began < 10
    silent.close()


def test_after_a_reload_new_targets_are_told_of_and_changed_settings_wait_for_a_start(
    collector: Collector, start: Start
) -> None:
    otlp = {"endpoint": collector.url, "traces": {"sample": "100%"}}
    gateway, _ = start({"a": [plain()], "b": [plain()]}, otlp=otlp)
    path = gateway.directory / "pointsman.yaml"
    written = path.read_text()
    path.write_text(written.replace("  b:\n    model", "  new:\n    model").replace("sample: 100%", "sample: 50%"))
    assert eventually(lambda: any("otlp has changed" in line for line in gateway.lines), 10)
    answer = gateway.post(chat("new"), traceparent=PARENT)
    assert collector.of(answer.headers["x-request-id"]).told["pointsman.target"] == "new"


def test_a_certificate_file_that_is_none_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    settings = config({"a": "http://127.0.0.1:9/v1"}, otlp={"endpoint": "https://127.0.0.1:9", "ca_file": "ca.pem"})
    with pytest.raises(AssertionError, match=r"otlp\.ca_file: there is no certificate in"), running(tmp_path, settings):
        pass


def test_the_extra_that_is_missing_is_named_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").write_text("")  # hides the real one
    settings = config({"a": "http://127.0.0.1:9/v1"}, otlp={"endpoint": "http://127.0.0.1:9"})
    missing = pytest.raises(AssertionError, match=r"pip install 'pointsman\[otlp\]'")
    with missing, running(tmp_path, settings, PYTHONPATH=str(tmp_path)):
        pass
