"""What a policy is told of the world besides health: where a conversation was answered, who is slow, who is drawn.

Only for policies that ask for it (`Policy.watches`): all others never come here. What is kept over requests stands in
`core.resilience.conversations` and `core.clauses.latency`; what follows from it for a decision is `core.decide`'s.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from gateway.core.clauses.latency import Paces
from gateway.core.decisions.memo import watched
from gateway.core.money.usage import used_by
from gateway.core.resilience.conversations import conversation_of, prompt_cache_key_of
from gateway.core.targets.rank import draw
from gateway.core.types import Previous, Snapshot

if TYPE_CHECKING:
    from gateway.core.policy import Policy
    from gateway.core.request.hints import Hints
    from gateway.core.request.wire import Envelope
    from gateway.core.resilience.conversations import Conversations
    from gateway.proxy.relaying import Relaying


#: Tokens of an answer from which its speed says something.
LEAST_TOKENS = 16


class Outside(NamedTuple):
    """One request's view of it."""

    snapshot: Snapshot
    conversation: str | None  # the name under which its answer is to be kept
    key: tuple[object, ...]  # all of it that a decision can rest on, for the memo


def name_of(policy: Policy, hints: Hints, envelope: Envelope) -> str | None:
    """What a sticky policy knows the conversation of a request by; None for a request of no conversation."""
    if policy.sticky is None:
        return None
    for source in policy.sticky.by:
        if source == "conversation":
            name = conversation_of(hints, envelope)
        else:
            name = prompt_cache_key_of(envelope)
            name = name and "\0" + name  # no conversation can be named so in a header
        if name is not None:
            return name
    return None


def look(policy: Policy, exchange: Relaying) -> Outside:
    """What a request of this policy is decided by. HOT where a policy watches."""
    runtime, record, asked = exchange.runtime, exchange.record, exchange.asked
    envelope, hints = exchange.envelope, asked.hints
    name = name_of(policy, hints, envelope)
    previous = None if name is None else runtime.conversations.last(asked.tenant.key, name)
    slow = runtime.paces.slow(policy.name, record.started_at)
    drawn = draw(record.request_id, conversation_of(hints, envelope), asked.tenant.key)
    snapshot = Snapshot(
        now=record.wall,
        draw=drawn,
        available=exchange.available,
        latency_s=runtime.board.latency_s,
        doubted=exchange.serving.doubted,
        previous=previous,
        slow=slow,
    )
    return Outside(snapshot, name, watched(policy, snapshot))


def measured(exchange: Relaying, target: str) -> None:
    """Take down how fast the attempt was that answered."""
    record, runtime = exchange.record, exchange.runtime
    sent_at = exchange.resent_at or record.sent_at
    first_event_s = record.first_event_at - sent_at
    runtime.board.latency(target, first_event_s)
    now = time.monotonic()
    streamed = exchange.relay is not None
    took = now - (record.first_event_at if streamed else sent_at)
    used = used_by(record, exchange.attempt.number)
    tokens = 0 if used is None else used.output
    rate = tokens / took if tokens >= LEAST_TOKENS and took > 0 and not exchange.held else None
    runtime.paces.heard(target, first_event_s if streamed else None, rate, now)


def answered(exchange: Relaying, target: str) -> None:
    """Take down where a conversation was answered, for its next request."""
    policy, conversation, used = (
        exchange.watching,
        exchange.conversation,
        used_by(exchange.record, exchange.attempt.number),
    )
    if policy is not None and policy.sticky is not None and conversation is not None:
        previous = Previous(target, 0 if used is None else used.input, time.time())
        key = exchange.asked.tenant.key
        exchange.runtime.conversations.answered(key, conversation, previous, policy.sticky.for_s)


def peek(
    conversations: Conversations, paces: Paces, key: str, policy: Policy, hints: Hints, envelope: Envelope
) -> Mapping[str, Any]:
    """The fields of a Snapshot for a request that is only explained: asking leaves no trace."""
    name = name_of(policy, hints, envelope)
    previous: Previous | None = None if name is None else conversations.last(key, name)
    return {"previous": previous, "slow": paces.now_slow(policy.name)}
