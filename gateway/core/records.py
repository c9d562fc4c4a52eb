"""One line per decided request: everything `decide` was given, what it chose, and what came of it. Never a prompt.

Here belongs the form of a line, version 1, how one is made from a request that has ended, and how one is read. Where
lines are written stands in `telemetry.records`, deciding them again in `replay`, what they would have cost elsewhere in
`worth`.

Whatever a line does not hold is "not recorded", which is not the same as "not known": a signal that was looked at and
is not known stands there as null. Targets go by name, so that a line means the same on another fleet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gateway.core.bounded import (
    LARGEST_SIGNAL,
    Count,
    Moment,
    NanoUsd,
    Number,
    Part,
    Seconds,
    Share,
    ThinkingText,
    Whole,
)
from gateway.core.conversations import conversation_of
from gateway.core.facts import SIGNALS
from gateway.core.language import Language
from gateway.core.rank import draw
from gateway.core.signals import EXPECTED, NAMES, Signals
from gateway.core.types import Decision, Fleet, Outcome, Record, Tenant, Usage

if TYPE_CHECKING:
    from gateway.core.hints import Hints
    from gateway.core.lexicon import Lexicon
    from gateway.core.policy import Policy
    from gateway.core.tokens import Tokenizers
    from gateway.core.types import Snapshot
    from gateway.core.wire import Envelope

VERSION = 1
#: Characters of one text that a client makes up; a signal whose value is longer is not recorded.
LONGEST_TEXT = 512
#: Signals that take reading the text: computed for a record only as long as somebody allows it.
READING = frozenset(name for name, signal in SIGNALS.items() if signal.cost >= 3)
#: All others that a request has by itself.
CHEAP = tuple(name for name in NAMES if name not in READING)

Tokens = tuple[Count, Count, bool]


class Spoken(msgspec.Struct, omit_defaults=True, gc=False):
    """`Language` as it is recorded: unrounded, for a rounded share can lie on the other side of a threshold."""

    shares: dict[str, Part]
    letters: Count
    undetermined: Part
    scripted: tuple[str, ...] = ()
    edges: tuple[str, ...] = ()
    prose: Part = 1.0

    @classmethod
    def of(cls, value: Language) -> Spoken:
        """A language as it is recorded."""
        scripted, edges = tuple(sorted(value.scripted)), tuple(sorted(value.edges))
        return cls(dict(value.shares), value.letters, value.undetermined, scripted, edges, round(value.prose, 4))

    def language(self) -> Language:
        """The value it was made from."""
        return Language(
            self.shares, self.letters, self.undetermined, frozenset(self.scripted), frozenset(self.edges), self.prose
        )


#: A signal as JSON has it; None: looked at, and not known.
Value = bool | Whole | Number | str | tuple[str, ...] | Spoken | None


class Previous(msgspec.Struct, omit_defaults=True, gc=False):
    """`types.Previous` as it is recorded."""

    target: str
    tokens: Count = 0
    at: Moment = 0.0


class World(msgspec.Struct, omit_defaults=True, gc=False):
    """`types.Snapshot` by the names of targets; `now` is the record's `at`."""

    draw: Share = 0.0
    held: tuple[str, ...] = ()  # targets that health held back; all others were available
    doubted: tuple[str, ...] = ()
    latency_s: dict[str, Seconds] | None = None  # None: not recorded, for no rank read it
    previous: Previous | None = None
    slow: dict[str, tuple[str, ...]] = {}  # every latency target of the policy, and who missed it
    conversations: bool = False  # the policy asked where the conversation was before: `previous` is known


class Decided(msgspec.Struct, omit_defaults=True, gc=False):
    """`types.Decision` by the names of targets. `refusal` is a code and set exactly when there are no candidates."""

    rule: str | None = None
    candidates: tuple[str, ...] = ()
    thinking: ThinkingText = "client"
    thinking_rule: str | None = None
    refusal: str | None = None
    shadow: tuple[str, str] | None = None  # id of the entry, target


class Result(msgspec.Struct, omit_defaults=True, gc=False):
    """What came of a request. Costs are nano-USD over all its attempts, times are seconds since its arrival."""

    status: int = 0  # 499: the client left
    code: str = "ok"
    attempts: Count = 0
    failed: tuple[tuple[str, str], ...] = ()  # target and outcome of every attempt that did not answer
    target: str = ""  # that answered, or was tried last
    model: str = ""
    lineage: tuple[str, ...] = ()  # what that model descends from, where anybody says so
    usage: Usage | None = None  # over all attempts
    cost_nano: NanoUsd = 0
    priced: bool = True  # False: some attempt had no price, and `cost_nano` is short of it
    prices: str = ""  # version of the price list that the answer was booked at
    first_s: Seconds | None = None
    duration_s: Seconds = 0.0


class Recorded(msgspec.Struct, omit_defaults=True, gc=False):
    """One line. `tokens`: tokenizer -> least, most, and whether no more can be known; "" bounds it for any."""

    v: int
    id: str
    at: Moment  # Unix seconds of arrival
    policy: str  # name@digest
    fleet: str  # `fleet_digest` of what it was decided on
    key: str
    model_asked: str
    world: World
    decided: Decided
    result: Result
    tenant: dict[str, str] = {}  # every fact of its key
    stream: bool = False
    pinned: tuple[str, ...] | None = None  # targets that the client's `model` means; None: a policy's name
    signals: dict[str, Value] = {}
    tokens: dict[str, Tokens] = {}
    text_bytes: Count = 0  # of the body, where all messages are plain text: that alone bounds its length
    sample: Share = 1.0  # the share of requests that were recorded
    prompt: str | None = None  # only where `records: {prompts: ...}` asks for it

    @property
    def team(self) -> str:
        """The tenant's `team`, "" where none is set."""
        return self.tenant.get("team", "")

    @property
    def policy_name(self) -> str:
        """The policy without its digest."""
        return self.policy.partition("@")[0]


_DECODER = msgspec.json.Decoder(Recorded)
_ENCODER = msgspec.json.Encoder()


class Unreadable(ValueError):
    """A line that is no record of this version. Says why without a word of the line."""


def read(line: bytes) -> Recorded:
    """A line as a record. HOT in replays. Raises `Unreadable`, whatever the bytes."""
    try:
        found = _DECODER.decode(line)
    except msgspec.ValidationError as error:
        raise Unreadable(f"is no record: {str(error)[:160]}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Unreadable("is not whole JSON") from None
    if found.v != VERSION:
        raise Unreadable(f"has version {found.v}, this Pointsman reads {VERSION}")
    if (found.decided.refusal is None) is not bool(found.decided.candidates):
        raise Unreadable("is no record: neither candidates nor a refusal, or both")
    return found


def write(recorded: Recorded) -> bytes:
    """A record as one line with its end. JSON escapes what could end a line, so no value can forge another."""
    return _ENCODER.encode(recorded) + b"\n"


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
        model_asked=record.routing.model_asked,
        stream=record.routing.stream,
        pinned=None if settled.pinned is None else _named(names, settled.pinned),
        signals=signals,
        tokens=tokens,
        text_bytes=settled.text_bytes if envelope is None else _text_bytes(envelope),
        world=_world(settled, policy, drawn),
        decided=decided(decision),
        result=_result(settled),
        sample=using.sample,
        prompt=_prompt(envelope, using.prompt_chars),
    )


def decided(decision: Decision) -> Decided:
    """A decision as it is recorded."""
    shadow = decision.shadow
    return Decided(
        rule=decision.rule,
        candidates=tuple([target.name for target in decision.candidates]),
        thinking=str(decision.thinking),
        thinking_rule=decision.thinking.rule,
        refusal=None if decision.refusal is None else decision.refusal[0],
        shadow=None if shadow is None else (shadow.id, shadow.target.name),
    )


_HOW_IT_IS_REACHED = frozenset(
    [
        "endpoints",
        "key",
        "auth",
        "api_version",
        "ca_file",
        "proxy",
        "max_inflight",
        "timeouts",
        "headers",
        "members",
        "own_dialect",
    ]
)


def fleet_digest(fleet: Fleet) -> str:
    """12 hex digits that change with every fact of a target that a decision or its cost can rest on."""
    told = []
    for target in fleet.targets:
        facts = {name: getattr(target, name) for name in target.__slots__ if name != "backend"}
        for name in target.backend.__slots__:
            if name not in _HOW_IT_IS_REACHED:
                facts["backend." + name] = getattr(target.backend, name)
        told.append(facts)
    return hashlib.sha256(msgspec.json.encode(told, order="deterministic", enc_hook=str)).hexdigest()[:12]


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
    """The signals that are kept: tenant facts stand elsewhere, and what is too long would be another value if cut."""
    found = {name: _plain(value) for name, value in values.items() if _short(value) and not name.startswith("tenant.")}
    if isinstance(spoken := found.get("language"), Mapping):  # as `Signals.computed` has it
        found["language"] = Spoken.of(Language.from_dict(spoken))
    return found


def _short(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= LONGEST_TEXT
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
