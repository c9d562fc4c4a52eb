"""How the line of a request that has ended is made, and that of a shadow: of what was looked at, or is cheap to.

Here belongs what is taken of a request and what is left out. The form of a line stands in `records`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from gateway.core.facts import SIGNALS
from gateway.core.reading.signals import EXPECTED, NAMES, Signals
from gateway.core.recorded.bounded import LARGEST_SIGNAL
from gateway.core.recorded.records import (
    VERSION,
    Copied,
    Previous,
    Recorded,
    Result,
    Spoken,
    Tokens,
    Value,
    World,
    decided,
    fleet_digest,
    write,
)
from gateway.core.recorded.redaction import redacted
from gateway.core.resilience.conversations import conversation_of
from gateway.core.targets.rank import draw
from gateway.core.text.language import Language
from gateway.core.types import Decision, Fleet, Outcome, Price, Record, Shadowed, Tenant

if TYPE_CHECKING:
    from gateway.core.policy import Policy
    from gateway.core.reading.lexicon import Lexicon
    from gateway.core.request.hints import Hints
    from gateway.core.request.wire import Envelope
    from gateway.core.text.tokens import Tokenizers
    from gateway.core.types import Snapshot

#: Characters of one text that a client makes up; a signal whose value is longer is not recorded.
LONGEST_TEXT = 512
#: Signals that take reading the text: computed for a record only as long as somebody allows it.
READING = frozenset(name for name, signal in SIGNALS.items() if signal.cost >= 3)
#: All others that a request has by itself.
CHEAP = tuple(name for name in NAMES if name not in READING)


class Settled(NamedTuple):
    """A request that has ended, as the path hands it over: references only. `signals` may be None (a kept decision)."""

    record: Record
    decision: Decision
    snapshot: Snapshot | None  # None: of a kept decision, for which nothing but `available` and `doubted` was read
    available: int
    doubted: int
    pinned: int | None
    values: Mapping[str, Any]  # signals that were computed for this request or for the one its decision was kept from
    signals: Signals | None
    envelope: Envelope | None  # None: too much to hold, `values` must do
    policies: Mapping[str, Policy]  # by name: of the configuration it was served by
    tenant: Tenant
    hints: Hints
    failed: tuple[tuple[str, Outcome], ...] = ()
    text_bytes: int = 0  # of an envelope that is not held, see `Recorded`


class Recording(NamedTuple):
    """What making a line takes besides the request."""

    tokenizers: Tokenizers
    lexicon: Lexicon
    sample: float = 1.0
    prompt_chars: int = 0


class Lines:
    """Makes the line of a request; the flag says whether its text may be read for signals that nobody asked for yet."""

    __slots__ = ("_digest", "_fleet", "_using")

    def __init__(self, using: Recording) -> None:
        self._using = using
        self._fleet: Fleet | None = None
        self._digest = ""

    def __call__(self, settled: Settled, reading: bool) -> bytes:
        """Takes as long as the text needs to be read: not for the event loop."""
        return write(self.record(settled, reading))

    def record(self, settled: Settled, reading: bool) -> Recorded:
        """The record of a request that has ended."""
        policy = settled.policies[settled.decision.policy.partition("@")[0]]
        if policy.fleet is not self._fleet:
            self._fleet, self._digest = policy.fleet, fleet_digest(policy.fleet)
        return _recorded(settled, policy, self._using, reading, self._digest)


def copied(told: Shadowed, record: Record, price: Price | None, sample: float = 1.0) -> bytes:
    """The line of a shadow that has ended. `record` is its request's, which may still be under way."""
    routing = record.routing
    return write(
        Copied(
            v=VERSION,
            id=record.request_id,
            at=record.wall,
            policy=routing.policy,
            rule=routing.rule,
            shadow=told.id,
            target=told.target,
            model=told.model,
            key=routing.key,
            outcome=told.outcome,
            team=routing.team,
            status=told.status,
            usage=told.usage,
            cost_nano=told.cost_nano,
            priced=price is not None,
            prices="" if price is None else price.version,
            first_s=round(told.first_event_s, 6) or None,
            duration_s=round(told.duration_s, 6),
            sample=sample,
            trace_id=record.trace.trace_id if record.trace is not None else "",
        )
    )


def _recorded(settled: Settled, policy: Policy, using: Recording, reading: bool, digest: str) -> Recorded:
    record, decision, envelope = settled.record, settled.decision, settled.envelope
    signals, tokens = _inputs(settled, using, reading)
    names = [target.name for target in policy.fleet.targets]
    conversation = signals.get("conversation")
    drawn = draw(record.request_id, conversation if isinstance(conversation, str) else None, settled.tenant.key)
    return Recorded(
        v=VERSION,
        id=record.request_id,
        at=record.wall,
        policy=decision.policy,
        fleet=digest,
        key=settled.tenant.key,
        tenant=dict(settled.tenant.facts),
        model_asked=redacted(record.routing.model_asked[: 8 * LONGEST_TEXT])[:LONGEST_TEXT],
        stream=record.routing.stream,
        pinned=None if settled.pinned is None else _named(names, settled.pinned),
        signals=signals,
        tokens=tokens,
        text_bytes=settled.text_bytes if envelope is None else _text_bytes(envelope),
        world=_world(settled, policy, drawn),
        decided=decided(decision),
        result=_result(settled),
        trace_id=record.trace.trace_id if record.trace is not None else "",
        sample=using.sample,
        prompt=_prompt(envelope, using.prompt_chars),
    )


def _world(settled: Settled, policy: Policy, drawn: float) -> World:
    names = [target.name for target in policy.fleet.targets]
    held, doubted = _named(names, ~settled.available), _named(names, settled.doubted)
    watched = [entry.id for entry in policy.latency]
    snapshot = settled.snapshot
    if snapshot is None:
        return World(drawn, held, doubted, slow=dict.fromkeys(watched, ()), conversations=policy.sticky is not None)
    previous = snapshot.previous
    timed = bool(snapshot.latency_s) or not policy.ranks.isdisjoint(("fastest", "balanced"))
    return World(
        snapshot.draw,
        held,
        doubted,
        dict(snapshot.latency_s) if timed else None,
        None if previous is None else Previous(previous.target, previous.tokens, previous.at),
        {name: snapshot.slow.get(name, ()) for name in watched},
        policy.sticky is not None,
    )


def _named(names: Sequence[str], mask: int) -> tuple[str, ...]:
    return tuple([name for index, name in enumerate(names) if mask >> index & 1])


def _result(settled: Settled) -> Result:
    record = settled.record
    routing = record.routing
    served = next((one for one in settled.decision.candidates if one.name == routing.target), None)
    price = None if served is None else served.price
    begun = record.started_at
    return Result(
        status=record.status,
        code=record.code,
        attempts=record.attempts,
        failed=tuple([(name, outcome.value) for name, outcome in settled.failed]),
        target=routing.target,
        model=routing.model,
        lineage=() if served is None else served.model.lineage or (),
        usage=record.usage,
        cost_nano=record.cost_nano,
        priced=record.priced,
        prices="" if price is None else price.version,
        first_s=round(record.first_event_at - begun, 6) if record.first_event_at else None,
        duration_s=round(record.ended_at - begun, 6),
    )


def lightened(settled: Settled) -> Settled:
    """The same without the request's text: what was looked at so far is all that will be recorded of its signals."""
    signals, envelope = settled.signals, settled.envelope
    if envelope is None:
        return settled
    text_bytes = _text_bytes(envelope)
    if signals is None:
        values = {**settled.values, "conversation": conversation_of(settled.hints, envelope)}
        return settled._replace(envelope=None, text_bytes=text_bytes, values=values)
    values = dict(settled.values) | {name: _plain(signals.get(name)) for name in signals.consulted}
    values["conversation"] = conversation_of(settled.hints, envelope)
    if signals.quick_limit is None:
        values["tokens"] = signals.computed()["tokens"]
    return settled._replace(envelope=None, signals=None, values=values, text_bytes=text_bytes)


def _inputs(settled: Settled, using: Recording, reading: bool) -> tuple[dict[str, Value], dict[str, Tokens]]:
    """The signals, null where not known, and the lengths."""
    envelope, signals = settled.envelope, settled.signals
    if envelope is None:
        values = {name: value for name, value in settled.values.items() if name not in ("tokens", "context_tokens")}
        return _kept(values), _bounds(settled.values.get("tokens", {}), using.tokenizers)
    if signals is None:
        signals = Signals.of(
            envelope,
            tenant=settled.tenant,
            hints=settled.hints,
            headers={},
            tokenizers=using.tokenizers,
            lexicon=using.lexicon,
            now=settled.record.wall,
            blocking=False,
        )
    wanted = dict.fromkeys((*signals.consulted, *CHEAP, *(READING if reading else ())))
    values = {name: _plain(signals.get(name)) for name in wanted}
    if EXPECTED in settled.values:  # perhaps of the request that the decision was kept from: of the same class
        values[EXPECTED] = settled.values[EXPECTED]
    return _kept(values), _bounds(signals.computed()["tokens"], using.tokenizers)


def _text_bytes(envelope: Envelope) -> int:
    plain = all(type(one.get("content")) is str for one in envelope.get("messages"))
    return envelope.size if plain else 0


def _plain(value: Any) -> Value:
    """A signal's value as JSON."""
    if isinstance(value, Language):
        return Spoken.of(value)
    return tuple(sorted(value)) if isinstance(value, frozenset | list) else value


def _kept(values: Mapping[str, Any]) -> dict[str, Value]:
    """The signals that are kept: tenant facts stand elsewhere, and cut or blotted out a text would be another value."""
    found = {name: _plain(value) for name, value in values.items() if _short(value) and not name.startswith("tenant.")}
    if isinstance(spoken := found.get("language"), Mapping):  # as `Signals.computed` has it
        found["language"] = Spoken.of(Language.from_dict(spoken))
    return found


def _short(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= LONGEST_TEXT and redacted(value) == value
    if isinstance(value, tuple | list):
        return len(value) <= 64 and all(len(str(one)) <= 64 for one in value)
    if isinstance(value, int | float):
        return abs(value) <= LARGEST_SIGNAL
    return True


def _bounds(known: Mapping[str, Any], tokenizers: Tokenizers) -> dict[str, Tokens]:
    """Bounds by tokenizer; those of a vocabulary that cannot be had here are all that will ever be known."""
    return {
        name: (int(lo), int(hi), bool(exact) or not tokenizers.usable(name or None))
        for name, (lo, hi, exact, _) in known.items()
    }


def _prompt(envelope: Envelope | None, chars: int) -> str | None:
    """The end of the last message with text, where an operator has asked for prompts."""
    if not chars or envelope is None:
        return None
    for message in reversed(envelope.get("messages")):
        content = message.get("content")
        if isinstance(content, str):
            return content[-chars:]
    return None
