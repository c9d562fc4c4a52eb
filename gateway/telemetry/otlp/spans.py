"""Spans of finished requests, by OpenTelemetry's conventions: one for the request, one for each of its attempts.

Names and attributes are those of the semantic conventions for HTTP and for generative AI, and `pointsman.*` where these
have no word; docs/opentelemetry.md lists them all. Nothing that a prompt or an answer said is among them. When spans
are made, and who gets them, is `exporting`'s and `sending`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.metrics.v1.metrics_pb2 import HistogramDataPoint
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from gateway import __version__
from gateway.core.money.usage import answering, used_by
from gateway.core.request.tracecontext import SHADOW, Copied, Traced, Tried, span_id
from gateway.core.types import NANO_PER_USD, Backend, Endpoint, Outcome, Record, Target, Usage
from gateway.telemetry.logs import outside

#: Requests whose spans are sent together.
BATCH = 256
ROUTE = "/v1/chat/completions"
SCOPE = InstrumentationScope(name="pointsman", version=__version__)
_NANO = 1_000_000_000
#: An attribute's; None and "" are none.
Value = str | bool | int | float | None

# By the catalogue's provider or by dialect, where the conventions have a name of their own.
_KNOWN_PROVIDERS: Mapping[str, str] = {
    "azure": "azure.ai.openai",
    "bedrock": "aws.bedrock",
    "bedrock-mantle": "aws.bedrock",
    "vertex": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
}


def attach(to: Span | HistogramDataPoint | Resource, told: Mapping[str, Value]) -> None:
    """Attributes as OTLP has them; what is None or "" is left out."""
    add = to.attributes.add
    for name, value in told.items():
        if value is None or value == "":
            continue
        if isinstance(value, str):
            add(key=name).value.string_value = _text(value)
        elif isinstance(value, bool):
            add(key=name).value.bool_value = value
        elif isinstance(value, int):
            add(key=name).value.int_value = value
        else:
            add(key=name).value.double_value = value


def _text(value: str) -> str:
    return value if value.isascii() else value.encode("utf-8", "replace").decode()  # a lone surrogate has no UTF-8


def operation(target: Target, endpoint: Endpoint | None) -> dict[str, Value]:
    """What says which model was called where: the attributes that spans and measures share."""
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": provider_of(target.backend),
        "gen_ai.request.model": target.upstream_id,
        "server.address": endpoint.host if endpoint is not None else None,
        "server.port": endpoint.port if endpoint is not None else None,
        "pointsman.target": target.name,
    }


def provider_of(backend: Backend) -> str:
    """`gen_ai.provider.name`: the conventions' name for who is called, else the catalogue's, else the dialect's."""
    name = backend.provider or backend.dialect
    return _KNOWN_PROVIDERS.get(name) or _KNOWN_PROVIDERS.get(backend.dialect) or name


def encode(spans: Iterable[Span], resource: Resource) -> bytes:
    """A request to the collector with these spans."""
    scope = ScopeSpans(scope=SCOPE, spans=spans)
    request = ExportTraceServiceRequest(resource_spans=[ResourceSpans(resource=resource, scope_spans=[scope])])
    payload: bytes = request.SerializeToString()
    return payload


def spans_of(one: Record | Copied) -> list[Span]:
    """The span of a request and those of its attempts, the latter its children; or that of a shadow."""
    if isinstance(one, Copied):
        return _shadow(one)
    traced = one.trace
    if traced is None:
        return []
    last = last_of(one)
    tried = traced.tried if last is None else (*traced.tried, last)
    return [_request(one, traced), *(_attempt(one, traced, each) for each in tried)]


def count(one: Record | Copied) -> int:
    """How many spans `spans_of` would make."""
    return 1 if isinstance(one, Copied) else 1 + one.attempts


def last_of(record: Record) -> Tried | None:
    """The attempt that answered, or that the request's end cut short; None where all are in `tried`."""
    traced = record.trace
    if traced is None or traced.target is None or any(one.number == traced.number for one in traced.tried):
        return None
    outcome = Outcome.OK if record.code == "ok" else Outcome.INTERRUPTED
    status = 200 if record.code == "ok" else 0
    return Tried(traced.number, traced.target, traced.endpoint, traced.began_at, record.ended_at, outcome, status)


def _request(record: Record, traced: Traced) -> Span:
    routing = record.routing
    told: dict[str, Value] = {
        "http.request.method": "POST",
        "http.route": ROUTE,
        "url.path": ROUTE,
        "url.scheme": "http",
        "http.response.status_code": record.status,
        "error.type": None if record.code == "ok" else record.code,
        "pointsman.request_id": record.request_id,
        "pointsman.key": routing.key,
        "pointsman.team": routing.team,
        "pointsman.model_asked": outside(routing.model_asked),
        "pointsman.stream": routing.stream,
        "pointsman.policy": routing.policy,
        "pointsman.rule": routing.rule,
        "pointsman.chosen": routing.chosen,
        "pointsman.target": routing.target,
        "pointsman.model": routing.model,
        "pointsman.thinking": routing.thinking,
        "pointsman.because": outside(routing.because, 512),
        "pointsman.attempts": record.attempts,
        "pointsman.overhead_s": record.sent_at - record.started_at if record.sent_at else None,
        "pointsman.cost_usd": record.cost_nano / NANO_PER_USD if record.priced and record.sent_at else None,
        "pointsman.thought_unasked": True if record.thought_unasked else None,
    }
    link = traced.link
    made = Span(
        trace_id=bytes.fromhex(traced.trace_id),
        span_id=bytes.fromhex(span_id(record.request_id)),
        parent_span_id=bytes.fromhex(traced.parent_id),
        trace_state=traced.state,
        flags=_flags(traced, remote=bool(traced.parent_id)),
        name=f"POST {ROUTE}",
        kind=Span.SPAN_KIND_SERVER,
        start_time_unix_nano=_nano(record, record.started_at),
        end_time_unix_nano=_nano(record, record.ended_at),
        status=_failure(record.status >= 500 or (record.status == 200 and record.code != "ok"), record.code),
    )
    if link is not None:
        made.links.add(
            trace_id=bytes.fromhex(link.trace_id), span_id=bytes.fromhex(link.span_id), trace_state=link.state
        )
    attach(made, told)
    return made


def _attempt(record: Record, traced: Traced, one: Tried) -> Span:
    failed = one.outcome is not Outcome.OK
    told = operation(one.target, one.endpoint) | {
        "http.response.status_code": one.status or None,
        "http.request.resend_count": one.number - 1 or None,
        "gen_ai.request.stream": True if record.routing.stream else None,
        "error.type": one.outcome.value if failed else None,
        "pointsman.backend": one.target.backend.name,
        "pointsman.region": one.target.backend.region,
        "pointsman.attempt": one.number,
    }
    if one.number == answering(record) and record.routing.stream and record.first_event_at:
        told["gen_ai.response.time_to_first_chunk"] = record.first_event_at - one.began_at
    told |= used(used_by(record, one.number))
    made = Span(
        trace_id=bytes.fromhex(traced.trace_id),
        span_id=bytes.fromhex(span_id(record.request_id, one.number)),
        parent_span_id=bytes.fromhex(span_id(record.request_id)),
        trace_state=traced.state,
        flags=_flags(traced, remote=False),
        name=f"chat {one.target.upstream_id}",
        kind=Span.SPAN_KIND_CLIENT,
        start_time_unix_nano=_nano(record, one.began_at),
        end_time_unix_nano=_nano(record, one.ended_at),
        status=_failure(failed and one.outcome is not Outcome.CLIENT_GONE, one.outcome.value),
    )
    attach(made, told)
    return made


def used(usage: Usage | None) -> dict[str, Value]:
    """Tokens by the conventions' names."""
    if usage is None:
        return {}
    return {
        "gen_ai.usage.input_tokens": usage.input,
        "gen_ai.usage.output_tokens": usage.output,
        "gen_ai.usage.cache_read.input_tokens": usage.cached or None,
        "gen_ai.usage.cache_creation.input_tokens": usage.written or None,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning or None,
        "pointsman.usage_estimated": True if usage.estimated else None,
    }


def _shadow(copied: Copied) -> list[Span]:
    shadow, record = copied.shadow, copied.record
    traced = record.trace
    if traced is None:
        return []
    failed = shadow.outcome != Outcome.OK.value
    told = operation(copied.target, copied.endpoint) | {
        "http.response.status_code": shadow.status or None,
        "gen_ai.request.stream": True if record.routing.stream else None,
        "error.type": shadow.outcome if failed else None,
        "pointsman.backend": copied.target.backend.name,
        "pointsman.region": copied.target.backend.region,
        "pointsman.shadow": shadow.id,
        "pointsman.cost_usd": shadow.cost_nano / NANO_PER_USD if shadow.priced else None,
    }
    if record.routing.stream and shadow.first_event_s:
        told["gen_ai.response.time_to_first_chunk"] = shadow.first_event_s
    told |= used(shadow.usage)
    made = Span(
        trace_id=bytes.fromhex(traced.trace_id),
        span_id=bytes.fromhex(span_id(record.request_id, SHADOW)),
        parent_span_id=bytes.fromhex(span_id(record.request_id)),
        trace_state=traced.state,
        flags=_flags(traced, remote=False),
        name=f"chat {copied.target.upstream_id}",
        kind=Span.SPAN_KIND_CLIENT,
        start_time_unix_nano=_nano(record, copied.sent_at),
        end_time_unix_nano=_nano(record, copied.sent_at + shadow.duration_s),
        status=_failure(failed, shadow.outcome),
    )
    attach(made, told)
    return [made]


def _failure(failed: bool, why: str) -> Status | None:
    return Status(code=Status.STATUS_CODE_ERROR, message=why) if failed else None


def _flags(traced: Traced, *, remote: bool) -> int:
    """W3C's flags, and whether the parent is somebody else's span, which OTLP says in two bits of its own."""
    return traced.sampled | traced.random << 1 | 0x100 | remote << 9


def _nano(record: Record, at: float) -> int:
    """Unix nanoseconds of a monotonic time of this request."""
    return round((record.wall + at - record.started_at) * _NANO)


def resource_of(service: str, instance: str, more: Mapping[str, str]) -> Resource:
    """Who measures: this process, and what the operator says of it, which goes before."""
    made = Resource()
    own: dict[str, Value] = {
        "service.name": service,
        "service.version": __version__,
        "service.instance.id": instance,
    }
    attach(made, {**own, **more})
    return made
