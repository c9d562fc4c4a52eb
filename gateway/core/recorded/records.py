"""One line per decided request: everything `decide` was given, what it chose, and what came of it. Never a prompt.

Here belongs the form of a line, version 1, how one is read and written. How one is made from a request that has ended
stands in `recording`, where lines are written in `telemetry.records`, deciding them again in `replay`, what they would
have cost elsewhere in `worth`.

A shadow ends when it ends, often after its request, so it has a line of its own: `Copied`.

Whatever a line does not hold is "not recorded", which is not the same as "not known": a signal that was looked at and
is not known stands there as null. Targets go by name, so that a line means the same on another fleet.
"""

from __future__ import annotations

import hashlib

import msgspec

from gateway.core.recorded.bounded import Count, Moment, NanoUsd, Number, Part, Seconds, Share, ThinkingText, Whole
from gateway.core.text.language import Language
from gateway.core.types import Decision, Fleet, Usage

VERSION = 1
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
    trace_id: str = ""  # of the trace it is part of, where requests are traced
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


class Copied(msgspec.Struct, omit_defaults=True, gc=False, tag_field="kind", tag="shadow"):
    """The line of a shadow that has ended. Its costs are in no other line, its times are seconds since its sending.

    `id` and `at` are those of the request that it copied, so both lines are chosen by the same days, keys and teams.
    """

    v: int
    id: str
    at: Moment
    policy: str  # name@digest
    rule: str  # by which the request was decided
    shadow: str  # id of the policy's entry
    target: str
    model: str
    key: str
    outcome: str  # a value of `Outcome`
    team: str = ""
    status: int = 0  # of its answer; 0: none came
    usage: Usage | None = None
    cost_nano: NanoUsd = 0
    priced: bool = True  # False: its target has no price
    prices: str = ""  # version of the price list
    first_s: Seconds | None = None
    duration_s: Seconds = 0.0
    sample: Share = 1.0
    trace_id: str = ""


_DECODER = msgspec.json.Decoder(Recorded)
_COPIES = msgspec.json.Decoder(Copied)
_KIND = b'"kind"'
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


def read_copy(line: bytes) -> Copied | None:
    """A line as that of a shadow; None for one that is no such line of this version, whatever the bytes."""
    if _KIND not in line:
        return None
    try:
        found = _COPIES.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if found.v == VERSION else None


def write(recorded: Recorded | Copied) -> bytes:
    """A record as one line with its end. JSON escapes what could end a line, so no value can forge another."""
    return _ENCODER.encode(recorded) + b"\n"


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
        "limit_counts",
        "limit_lost",
        "trace_context",
        "prefix_affinity",
        "hedge",
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
