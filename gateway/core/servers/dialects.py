"""How each kind of server is spoken to: where requests go, what a body must and must not hold, what a refusal means.

What differs between servers is data, in `rows`; here is what is done with it. How streams are read is in `sse`,
complete answers in `answer.whole`, errors in `refusals`, thinking fields in `thinking`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import msgspec

from gateway.core.answer.chunk import error_status, read_chunk
from gateway.core.answer.sse import Relay
from gateway.core.answer.whole import Answer
from gateway.core.request import thinking as thoughts
from gateway.core.request import wire
from gateway.core.request.likeness import NAMED
from gateway.core.request.wire import Envelope
from gateway.core.servers import refusals
from gateway.core.servers.ollama import CannotSay
from gateway.core.servers.refusals import relayed_error
from gateway.core.servers.respell import Respelling, respell_history
from gateway.core.servers.rows import DIALECTS, Dialect
from gateway.core.servers.uri import percent
from gateway.core.types import Outcome, Target, Thinking, ThinkingSupport

__all__ = [
    "DIALECTS",
    "Answer",
    "CannotSay",
    "Dialect",
    "Plan",
    "around",
    "classify",
    "classify_answer",
    "classify_in_band",
    "joined",
    "limit_lost",
    "prepare",
    "relayed_error",
    "request_body",
    "request_pieces",
    "takes",
]

#: Members by which a client could choose where a request, or the data behind it, goes. Destinations come only from
#: configuration, so these never leave the gateway (CVE-2024-6587 was one). vLLM's `kv_transfer_params` and SGLang's
#: `bootstrap_host` make the server itself connect to a host of the sender's choice.
HOST_MEMBERS = frozenset(
    {
        "api_base",
        "api_key",
        "api_type",
        "api_version",
        "azure_endpoint",
        "base_url",
        "bootstrap_host",
        "bootstrap_port",
        "bootstrap_room",
        "callback_url",
        "custom_llm_provider",
        "data_sources",
        "ec_transfer_params",
        "endpoint",
        "extra_body",
        "extra_headers",
        "fallbacks",
        "headers",
        "host",
        "kv_transfer_params",
        "model_list",
        "proxies",
        "proxy",
        "webhook_url",
    }
)

_LIMITS = ("max_completion_tokens", "max_tokens")
_INCLUDE_USAGE = b'{"include_usage":true}'


@dataclass(frozen=True, slots=True)
class Plan:
    """All of a request body that hangs on the target alone, worked out once when the configuration is loaded."""

    target: Target
    dialect: Dialect
    path: str  # where requests go, behind the endpoint's own path
    parse: Callable[[bytes], Answer | None]  # reads a complete answer
    relay: type[Relay]  # reads a stream
    respelling: type[Respelling]  # the same, saying reasoning as asked
    base: dict[str, bytes | None]  # what every body gets: `model_sent` first; copied, never changed
    dropped: frozenset[str]  # members of the client's that never go there
    unusual: frozenset[str]  # members that make a body need more than `base` and `fixed`
    fixed: Mapping[str, Mapping[str, bytes]]  # thinking mode -> the members it takes, for bodies without an own wish

    @property
    def switchable(self) -> bool:
        """The target may be told to think or not."""
        return self.target.thinking == "switchable" and self.dialect.thinking.exists

    def headers(self, key: str | None) -> Mapping[str, str]:
        """Header fields that open the upstream's door, and those that configuration adds.

        `key` is the revealed secret, None where none is configured.
        """
        name, before = self.dialect.auth
        written = self.target.backend.headers
        added = {one: value if isinstance(value, str) else value.reveal() for one, value in written.items()}
        return {**({name: before + key} if key is not None else {}), **self.dialect.headers, **added}


def takes(dialect: Dialect, thinking: ThinkingSupport) -> frozenset[str] | None:
    """The request members that a target of this dialect can serve, None for any.

    More than what is sent: hints that mean nothing there, addresses that lead nowhere, and other spellings of thinking
    where it is translated, are left out without changing what the client gets.
    """
    if dialect.takes is None:
        return None
    left_out = dialect.drops | dialect.steers | HOST_MEMBERS
    return dialect.takes | left_out | (thoughts.MEMBERS if thinking == "switchable" else frozenset())


def prepare(target: Target) -> Plan:
    """The plan for a target. Raises KeyError for a dialect that is not in `DIALECTS`."""
    backend = target.backend
    dialect = backend.own_dialect or DIALECTS[backend.dialect]
    constant = joined(dialect.members, backend.members)
    # A request that means something by a member the target does not support never gets there.
    dropped = (HOST_MEMBERS | dialect.drops | dialect.steers | target.unsupported) - constant.keys()
    if dialect.strict:
        dropped |= thoughts.MEMBERS - dialect.thinking.heads - constant.keys()
    unusual = dropped | {"metadata"}
    if dialect.write is not None:
        unusual |= {"messages"}  # no body is usual there
    if dialect.history is not None:
        unusual |= {"messages"}
    if dialect.limit is not None:
        unusual |= {name for name in _LIMITS if name != dialect.limit}
    if dialect.takes is not None:
        unusual |= {"messages"}  # every body is looked through
    fixed: dict[str, Mapping[str, bytes]] = {}
    if target.thinking == "switchable" and dialect.thinking.exists:
        constant = {**dialect.thinking.beside, **constant}
        unusual |= thoughts.MEMBERS | dialect.thinking.beside.keys() | dialect.thinking.heads
        if target.thinking_needs_stream:
            unusual |= {"messages"}  # in every request: each has to be looked at for whether it is streamed
        nothing = wire.Envelope.of({"model": ""}, b"{}")
        for mode in ("never", "always"):
            said = thoughts.write(thoughts.settle(nothing, Thinking(mode)), dialect.thinking, nothing)
            fixed[mode] = {name: value for name, value in said.items() if value is not None}
    encoded = {name: msgspec.json.encode(value) for name, value in constant.items()}
    return Plan(
        target=target,
        dialect=dialect,
        path=_path(dialect, target),
        parse=dialect.parse,
        relay=dialect.relay,
        respelling=dialect.respelling,
        base={"model": msgspec.json.encode(target.upstream_id), **encoded},
        dropped=frozenset(dropped),
        unusual=frozenset(unusual),
        fixed=MappingProxyType(fixed),
    )


def _path(dialect: Dialect, target: Target) -> str:
    """The path for a target; a backend's endpoints are all of one form."""
    backend = target.backend
    place = backend.endpoints[0].path
    path = next((path for end, path in dialect.paths.items() if place.endswith(end)), dialect.path)
    path = path.replace("{model}", percent(target.upstream_id))
    return path if backend.api_version is None else f"{path}?api-version={backend.api_version}"


def joined(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Members with what configuration adds or replaces; objects are joined member by member."""
    both = {**base, **more}
    for name in base.keys() & more.keys():
        if isinstance(base[name], dict) and isinstance(more[name], dict):
            both[name] = {**base[name], **more[name]}
    return both


def request_body(
    envelope: Envelope,
    plan: Plan,
    thinking: Thinking,
    emit: Callable[[Envelope, Mapping[str, bytes | None]], bytes] = wire.emit,
) -> bytes:
    """The body to send to a target: the client's members, with what the target and the policy make different. HOT.

    Members the gateway does not know pass through, except those that name hosts. Usage is always asked of streams.
    Raises `CannotSay` where the target's own API has no words for something in the request.
    """
    overrides = plan.base.copy()
    if envelope.stream and not envelope.include_usage:
        overrides["stream_options"] = _with_usage(envelope)
    if plan.unusual.isdisjoint(envelope.tree):
        said = plan.fixed.get(thinking.mode)
        if said is not None:
            overrides.update(said)
        elif thinking.mode == "budget" and plan.switchable:
            overrides.update(thoughts.write(thoughts.settle(envelope, thinking), plan.dialect.thinking, envelope))
    elif plan.dialect.write is not None:
        return plan.dialect.write(envelope, plan, thinking)
    else:
        _adapt(envelope, plan, thinking, overrides)
    return emit(envelope, overrides)


def around(envelope: Envelope, plan: Plan, thinking: Thinking, user: bytes | None = None) -> tuple[bytes, ...] | None:
    """What `request_body` writes before and behind the messages of a request that says what this one does besides.

    Where the text of `user` may be another, too, it is given as it stands here, and the result is three pieces: that
    text comes between the last two. None where what it makes of a request may depend on the messages, or where it
    cannot be told apart from them.
    """
    if "messages" in plan.base or not plan.unusual.isdisjoint(envelope.tree):
        return None
    messages = bytes(envelope.members["messages"])
    written = request_body(envelope, plan, thinking)
    before, found, behind = written.partition(messages)
    if not found or behind.find(messages) >= 0:
        return None
    if user is None:
        return before, behind
    between, found, after = behind.partition(NAMED % user)
    if not found or (before + after).find(NAMED % user) >= 0 or "user" in plan.base:
        return None
    return before, between + NAMED[:-3], b'"' + after


def filled(pieces: tuple[bytes, ...], messages: bytes, user: bytes | None) -> bytes:
    """The body that `around` is the frame of. HOT."""
    if user is None:
        return messages.join(pieces)
    before, between, behind = pieces
    return b"%b%b%b%b%b" % (before, messages, between, user, behind)


def request_pieces(envelope: Envelope, plan: Plan, thinking: Thinking) -> list[bytes | memoryview]:
    """`request_body` in pieces to be sent one after the other, the long ones not copied: for a large body."""
    pieces: list[bytes | memoryview] = []

    def emit(envelope: Envelope, overrides: Mapping[str, bytes | None]) -> bytes:
        pieces.extend(wire.emit_pieces(envelope, overrides))
        return b""

    written = request_body(envelope, plan, thinking, emit)
    return pieces or [written]


def _with_usage(envelope: Envelope) -> bytes:
    options = envelope.get("stream_options") if "stream_options" in envelope.tree else None
    if not isinstance(options, dict) or not options:
        return _INCLUDE_USAGE
    return msgspec.json.encode({**options, "include_usage": True})


def _adapt(envelope: Envelope, plan: Plan, thinking: Thinking, overrides: dict[str, bytes | None]) -> None:
    members = envelope.members
    dialect = plan.dialect
    for name in plan.dropped:
        if name in members:
            overrides[name] = None
    if dialect.takes is not None:
        overrides.update(dict.fromkeys(members.keys() - dialect.takes - plan.base.keys()))
    # OpenAI takes metadata only with completions it stores; clients of a gateway send it for the policy.
    if "metadata" in members and envelope.get("store") is not True:
        overrides["metadata"] = None
    if dialect.history is not None:
        messages = respell_history(bytes(members["messages"]), dialect.history)
        if messages is not None:
            overrides["messages"] = messages
    if dialect.limit is not None:
        _rename_limit(envelope, dialect.limit, overrides)
    if plan.switchable:
        for name in dialect.thinking.beside:
            if name in members and name not in plan.target.backend.members:
                overrides.pop(name, None)
        wish = thoughts.settle(envelope, thinking)
        if wish.on is None and plan.target.thinking_needs_stream and not envelope.stream:
            wish = wish._replace(on=False)  # left alone it would think, and refuse to without a stream
        overrides.update(thoughts.write(wish, dialect.thinking, envelope))


def limit_lost(dialect: Dialect, members: Mapping[str, Any]) -> str:
    """Why the output limit of a request does not reach servers of this dialect, in words; empty where it does.

    `members` are what configuration puts into every body.
    """
    # Where one name is written for both, it is written even if the other is left out.
    dropped = dialect.drops if dialect.limit is None else dialect.drops & {dialect.limit}
    for names, what in (
        (members, "the configuration of its backend writes its own"),
        (dialect.members, f"the dialect {dialect.name} writes its own"),
        (dropped, f"the dialect {dialect.name} drops"),
    ):
        for name in _LIMITS:
            if name in names:
                return f"{what} {name}"
    return ""


def _rename_limit(envelope: Envelope, name: str, overrides: dict[str, bytes | None]) -> None:
    """Give the output limit the one name that the server knows; where a client sent both, OpenAI's newer one counts."""
    for other in _LIMITS:
        if other in envelope.members and envelope.get(other) is not None:
            value = bytes(envelope.members[other])
            overrides.update({limit: None for limit in _LIMITS if limit in envelope.members})
            overrides[name] = value
            return


def classify(plan: Plan, status: int, body: bytes) -> Outcome:
    """What a complete answer with this status means for the attempt; OK for every 2xx."""
    outcome = refusals.classify(status, body, plan.dialect.codes, plan.dialect.words)
    if outcome is Outcome.RATE_LIMITED and plan.target.backend.self_hosted:
        return Outcome.OVERLOADED  # there is no quota at one's own server: this replica's queue is full
    return outcome


def classify_in_band(plan: Plan, relay: Relay) -> Outcome:
    """What an error inside a 200 stream means, when it came before the commit point: often as much as a status would.

    IN_BAND_ERROR where it says no more than that the server failed.
    """
    return _in_band(plan, relay.error_status or 500, relay.error_body)


def classify_answer(plan: Plan, body: bytes) -> Outcome:
    """What a complete 200 means that is no completion: INVALID, or as much as the error says that stands in its place.

    OpenRouter answers so when a provider fails after it had begun.
    """
    chunk = read_chunk(body)
    if chunk is None or chunk.error is None:
        return Outcome.INVALID
    return _in_band(plan, error_status(chunk.error) or 500, body)


def _in_band(plan: Plan, status: int, body: bytes) -> Outcome:
    outcome = classify(plan, status, body)
    vague = (Outcome.SERVER_ERROR, Outcome.AUTH, Outcome.FORBIDDEN)
    return Outcome.IN_BAND_ERROR if outcome in vague else outcome
