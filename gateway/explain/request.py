"""Explaining a request with the code that serves it: the same parse, signals, decision and wire body.

`POST /v1/explain` and `pointsman explain` are two doors to `explain`; `/v1/decisions/{id}` recomputes the trace of a
request that was served, from the inputs that were kept. Nothing here sends anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from gateway.core.decisions.trace import Trace, trace, under_budget
from gateway.core.policy import Policy
from gateway.core.reading.lexicon import Lexicon
from gateway.core.reading.signals import Signals
from gateway.core.reading.sizes import RequestSizes
from gateway.core.reading.walk import Request
from gateway.core.request import wire
from gateway.core.request.hints import Hints
from gateway.core.request.wire import Envelope
from gateway.core.resilience.conversations import conversation_of
from gateway.core.servers import dialects
from gateway.core.targets.rank import draw
from gateway.core.text.tokens import Tokenizers
from gateway.core.types import Snapshot, Tenant
from gateway.explain import money
from gateway.proxy.runtime import Remembered
from gateway.site import Site

#: Bytes of the wire body that an explanation shows.
SHOWN_BODY = 4096
#: What is drawn by, where no request has been given its id yet.
_NO_ID = "0" * 32


@dataclass(frozen=True, slots=True)
class Explanation:
    """The trace of a request, and the body its first candidate would be sent."""

    trace: Trace
    wire_body: str | None
    budget: Mapping[str, Any] | None = None  # what it may cost, of keys under a hard budget: see `money`

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        told = {**self.trace.to_dict(), "wire_body": self.wire_body}
        return told if self.budget is None else told | {"budget": dict(self.budget)}


def explain(
    site: Site,
    body: bytes,
    *,
    headers: Mapping[str, str],
    tenant: Tenant,
    tokenizers: Tokenizers,
    lexicon: Lexicon,
    now: float,
    available: int,
    last_resort: Sequence[int] = (),
    latency_s: Mapping[str, float] = MappingProxyType({}),
    doubted: int = 0,
    outside: Callable[[Policy, Hints, Envelope], Mapping[str, Any]] = lambda policy, hints, envelope: {},
    left: int | None = None,
) -> Explanation:
    """What would become of a chat request. Raises GatewayError for one that would be refused before any decision.

    `headers` have lower-case names and no credentials. `last_resort` is what health would try in turn when nothing
    else is left, as serving does; without it the request is refused. `doubted` is that of a `Serving`, `outside` says
    other fields of the snapshot. `left` is what hard budgets leave this key, in nano-USD, if known.
    May take long and block: exact token counts are made on the spot.
    """
    envelope = wire.parse(body)
    hints = Hints.parse(headers)
    policy, pinned = site.resolve(envelope.model_asked, hints.policy, tenant.policy)
    site.allow(tenant, envelope.model_asked, policy, pinned)
    signals = Signals.of(
        envelope,
        tenant=tenant,
        hints=hints,
        headers=headers,
        tokenizers=tokenizers,
        lexicon=lexicon,
        now=now,
        blocking=True,
    )
    drawn = draw(_NO_ID, conversation_of(hints, envelope), tenant.key)
    snapshot = Snapshot(now, drawn, available, latency_s, doubted, **outside(policy, hints, envelope))
    told = trace(policy, signals, snapshot, pinned=pinned, flips=True)
    for mask in last_resort:
        refusal = told.decision.refusal
        if refusal is None or refusal[0] != "no_target_available":
            break
        told = trace(policy, signals, replace(snapshot, available=mask), pinned=pinned, flips=True)
    budget = None
    if tenant.limited and tenant.key in site.quotas.capped():
        told = under_budget(told)
        request = Request(envelope, tenant, hints, headers, lexicon, now)
        budget = money.bounds(envelope, RequestSizes(request, tokenizers), told.decision, left)
    shown = None
    if told.decision.candidates:
        plan = dialects.prepare(told.decision.candidates[0])
        try:
            sent = dialects.request_body(envelope, plan, told.decision.thinking)
        except dialects.CannotSay as reason:
            return Explanation(told, f"nothing, the next candidate is asked instead: {reason}", budget)
        shown = sent[:SHOWN_BODY].decode("utf-8", "replace") + (" ..." if len(sent) > SHOWN_BODY else "")
    return Explanation(told, shown, budget)


def explain_record(entry: Remembered) -> dict[str, Any]:
    """The trace of a request that was served, beside what came of it."""
    site = entry.serving.site
    policy = site.policies[entry.record.routing.policy.partition("@")[0]]
    signals = Signals.given(entry.signals)
    drawn = draw(entry.record.request_id, entry.signals.get("conversation"), entry.record.routing.key)
    seen = entry.snapshot or Snapshot(entry.record.wall, drawn, entry.available, doubted=entry.serving.doubted)
    told = trace(policy, signals, seen, pinned=entry.pinned, flips=True)
    if entry.record.routing.key in site.quotas.capped():
        told = under_budget(told)
    return {"record": entry.record.to_dict(), "trace": told.to_dict()}
