"""The nouns of the gateway, as frozen values that every other module shares.

What has behaviour lives elsewhere: parsing in `wire`, matching in `policy`, choosing in `decide`, sending in
`gateway.proxy`. Nothing here reads a file or a clock; `gateway.config` builds these from what people write.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, SupportsIndex

import msgspec

from gateway.core.terms import NOTHING_KNOWN, Terms

if TYPE_CHECKING:
    from gateway.core.money.usage import Spent
    from gateway.core.request.tracecontext import Traced
    from gateway.core.resilience.hedging import Hedge
    from gateway.core.resilience.overload import Priority
    from gateway.core.servers.credentials import Credential
    from gateway.core.servers.rows import Dialect

#: `other` is content, or an answer asked for, of a kind that nobody here knows.
Modality = Literal["text", "image", "audio", "video", "file", "other"]
ThinkingSupport = Literal["switchable", "always", "never", "unknown"]
EMPTY: Mapping[str, str] = MappingProxyType({})
NOBODY_SLOW: Mapping[str, tuple[str, ...]] = MappingProxyType({})

NANO_PER_USD = 1_000_000_000


class Secret:
    """A string that is not told by accident: it shows as `***`, and is not encoded, pickled or copied.

    >>> f"{Secret('sk-1')} {Secret('sk-1')!r}"
    '*** ***'
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The text itself, for the one place that writes it to an upstream socket."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce_ex__(self, _: SupportsIndex) -> NoReturn:
        raise TypeError("a secret is not pickled")


@dataclass(frozen=True, slots=True)
class Model:
    """What is publicly known of a model, wherever it is served. `None` always means "not known"."""

    id: str
    family: str  # llama, qwen, gpt-oss, gemma, deepseek, ...
    aliases: tuple[str, ...] = ()
    generation: str | None = None
    params_total_b: float | None = None  # billions
    params_active_b: float | None = None  # billions a token passes through
    window: int | None = None  # tokens, as the model card says; what is served is on the Target
    window_extended: int | None = None  # tokens a server can be configured for (YaRN), where the card says so
    modalities: frozenset[str] = frozenset({"text"})  # what it reads
    languages: frozenset[str] | None = None  # official list, ISO 639-1 codes (fil as tl)
    language_count: int | None = None  # where only a count is published (Qwen 3.5: 201)
    thinking: ThinkingSupport = "unknown"
    tools: bool | None = None
    structured_output: bool | None = None
    images_max: int | None = None
    license: str | None = None  # SPDX id, or the catalogue's own id of a community licence
    terms: Terms = NOTHING_KNOWN  # of that licence
    open_weights: bool | None = None  # False: API only, "closed" in policies
    eu_domiciled_licensee_excluded: bool | None = None  # its licence excludes licensees domiciled in the EU
    tokenizer: str | None = None  # key of the tokenizer registry; None: only the bytes bound is safe
    purpose: str = "general"  # general, code, vision, omni, embedding
    typical_output_tokens: int = 500
    released: date | None = None
    quantization: str | None = None  # what its weights are published in, where that is not 16 bits
    base: str | None = None  # the model it was made from: what it says nothing of is as there
    lineage: tuple[str, ...] | None = None  # what it descends from, nearest first: models and labels
    evals: tuple[tuple[str, float], ...] = ()  # an operator's own scores, by name


@dataclass(frozen=True, slots=True)
class PriceTier:
    """Prices of one request length class, in nano-USD per million tokens (0.40 USD is 400_000_000)."""

    above_input_tokens: int  # the tier holds for requests with more input tokens than this; 0 is the base tier
    input: int
    output: int
    cached_input: int | None = None  # None: billed as `input`
    thinking_output: int | None = None  # None: reasoning tokens are billed as `output`
    cache_write: int | None = None  # tokens put into an explicit cache; None: billed as `input`


@dataclass(frozen=True, slots=True)
class Price:
    """A price list, tiers ascending; the whole request is billed at the tier its total input falls in."""

    tiers: tuple[PriceTier, ...]
    version: str  # names source and date; kept on every booked entry


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One replica: where its requests go. Scheme, host and port come only from configuration."""

    url: str  # as configured, without a trailing slash, e.g. http://10.0.0.7:8000/v1
    scheme: Literal["http", "https"]
    host: str
    port: int
    path: str  # prefix put before the dialect's own path, e.g. /v1


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The five clocks of an attempt, in seconds."""

    connect_s: float = 2.0
    headers_s: float = 30.0
    first_event_s: float = 120.0
    idle_s: float = 60.0
    total_s: float = 900.0


#: What a server counts against an output limit: all that it writes, the answer but not what was thought before it, or
#: nothing at all, where it is not known to heed the limit.
LimitCounts = Literal["all", "answer", "nothing"]


@dataclass(frozen=True, slots=True)
class Backend:
    """A kind of server somewhere: how it is spoken to, where it stands, and whose key opens it."""

    name: str
    dialect: str  # a name in core.servers.rows.DIALECTS, or that of `own_dialect`
    endpoints: tuple[Endpoint, ...]
    region: str | None = None
    processing: str | None = None  # where data may be processed: eu, us, global, ...
    self_hosted: bool = False
    provider: str | None = None  # who rents it out, by the catalogue's name; None: self-hosted, or not known
    country: str | None = None  # where its machines stand, ISO 3166-1 alpha-2
    jurisdiction: str | None = None  # whose law its operator answers to, ISO 3166-1 alpha-2
    memory_gb: float | None = None  # GB (10^9 bytes) that one replica has for weights and cache
    key: Secret | None = None
    auth: Credential | None = None  # in place of a key: what signs each request, or is traded for access tokens
    api_version: str | None = None  # Azure's, where its address needs one
    ca_file: str | None = None  # private CA bundle; None: the system's
    proxy: str | None = None  # egress proxy URL used with CONNECT; None: direct
    max_inflight: int = 256  # per endpoint
    timeouts: Timeouts = Timeouts()
    headers: Mapping[str, str | Secret] = field(default_factory=lambda: EMPTY)  # sent with every request
    members: Mapping[str, Any] = field(default_factory=lambda: EMPTY)  # put into every body, over the client's
    own_dialect: Dialect | None = None  # one that the configuration defines
    limit_counts: LimitCounts = "all"
    limit_lost: str = ""  # why an output limit does not reach its servers, in words; empty where it does
    trace_context: bool = False  # it is told of which trace its requests are part
    hedge: Hedge | None = None  # None: a request is at one target at a time
    prefix_affinity: bool = False  # prompts that begin alike go to the same endpoint while it has room


@dataclass(frozen=True, slots=True)
class Target:
    """A model served by a backend. `index` is its bit in every candidate mask of the fleet it belongs to."""

    name: str
    index: int
    model: Model
    backend: Backend
    upstream_id: str  # `model_sent`
    window: int  # tokens it serves, prompt and output together
    max_output: int | None = None
    price: Price | None = None  # None: unpriced, ranked last
    modalities: frozenset[str] = frozenset({"text"})
    tools: bool = False
    structured_output: bool = False
    thinking: ThinkingSupport = "unknown"
    unsupported: frozenset[str] = frozenset()  # request members this target refuses or ignores, e.g. {"logprobs"}
    retires_on: date | None = None
    stand_in: bool = False  # a demonstration model answers in this one's name
    weight: int = 1
    typical_output_tokens: int = 500
    takes: frozenset[str] | None = None  # all request members it can serve; None: also those that nobody here knows
    max_input: int | None = None  # tokens of prompt it takes at most, where that is less than the window
    thinking_needs_stream: bool = False  # it refuses to think unless the answer is streamed
    memory_gb: float | None = None  # as its backend, or where the target says otherwise
    quantization: str | None = None  # what its weights are served in; None: as published
    memory_needed_gb: float | None = None  # GB of the weights alone
    tokens_per_s: float | None = None  # that one answer gets, as the operator measured it
    tokens_per_hour: int | None = None  # that it gets through, prompts and answers of all requests together


@dataclass(frozen=True, slots=True)
class Fleet:
    """All targets, `targets[i].index == i`, and the model facts behind them."""

    targets: tuple[Target, ...]
    models: Mapping[str, Model]

    def mask(self) -> int:
        """The mask in which every target is a candidate."""
        return (1 << len(self.targets)) - 1


@dataclass(frozen=True, slots=True)
class Tenant:
    """Whose key it is, and what is known of them; `facts` are matched by policies as `tenant.<name>`."""

    key: str  # the key's name in pointsman.yaml; "anonymous" where no keys are configured
    facts: Mapping[str, str] = field(default_factory=lambda: EMPTY)  # team, domicile, cost, residency, ...
    allow: tuple[str, ...] = ("*",)  # values of `model` this key may send: auto, auto/<policy>, names, or *
    explain: bool = False
    reasoning: str | None = None  # how answers are to spell it: reasoning, reasoning_content; None: as they come
    policy: str | None = None  # its own default policy; None: that of the whole file
    limited: bool = False  # it, or its team, has limits or budgets
    priority: Priority = "normal"


ThinkingMode = Literal["never", "always", "client", "budget"]


@dataclass(frozen=True, slots=True)
class Thinking:
    """What the winning thinking entry asks of the backend; `budget` is in tokens and only set in mode `budget`."""

    mode: ThinkingMode = "client"
    budget: int | None = None
    rule: str | None = None  # id of the thinking entry

    def __str__(self) -> str:
        return f"budget:{self.budget}" if self.mode == "budget" else self.mode


@dataclass(frozen=True, slots=True)
class Previous:
    """Where the conversation of a request was answered last, for `sticky`."""

    target: str  # its name; it may not exist any more
    tokens: int = 0  # of prompt that its server has probably cached
    at: float = 0.0  # Unix seconds of that answer


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All a decision may know of the world outside the request.

    `available`: mask of targets that health does not hold back. `latency_s`: recent time to first event by target
    name, for `rank: fastest`. `draw` in [0, 1) is a hash of the request or conversation id. `now` is Unix seconds.
    `doubted`: mask of targets whose promise not to think is not believed, see `promises`. `previous`: None for a
    request of no conversation, or of a new one. `slow`: id of a latency target of the policy -> names of the targets
    that miss it now and are not being tried again by this request.
    """

    now: float
    draw: float
    available: int
    latency_s: Mapping[str, float] = field(default_factory=dict)
    doubted: int = 0
    previous: Previous | None = None
    slow: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: NOBODY_SLOW)


@dataclass(frozen=True, slots=True)
class Shadow:
    """A second target that gets a copy of the request; its answer is measured and dropped."""

    id: str  # of the policy's entry
    target: Target


@dataclass(frozen=True, slots=True)
class Decision:
    """Which targets may serve a request, best first, and under what rule. A refusal is a Decision too.

    `candidates` are in the order in which the failover tries them; each satisfied every `forbid` and every capability
    filter, and so did the target of `shadow`. `refusal` is set exactly when `candidates` is empty: a `code` of
    `errors.CODES` and a message.
    """

    policy: str  # name@digest
    rule: str | None
    candidates: tuple[Target, ...]
    thinking: Thinking
    because: str  # one readable line
    refusal: tuple[str, str] | None = None
    shadow: Shadow | None = None


#: Checked where usage is read back from a file; an attempt has no more than `usage.ABSURD_TOKENS`.
_Tokens = Annotated[int, msgspec.Meta(ge=0, le=10**12)]


class Usage(msgspec.Struct, frozen=True, gc=False):  # made for every answer: a tenth of what a frozen dataclass takes
    """Tokens of one attempt. `cached` and `written` (into a cache) are parts of `input`, `reasoning` of `output`."""

    input: _Tokens = 0
    output: _Tokens = 0
    cached: _Tokens = 0
    reasoning: _Tokens = 0
    estimated: bool = False
    written: _Tokens = 0


class Outcome(enum.Enum):
    """How an attempt ended, by the question "what may follow?"."""

    __hash__ = object.__hash__  # an enum's own is a Python function, and every request looks outcomes up

    OK = "ok"
    # Nothing reached the model: the next try costs nothing.
    REFUSED = "refused"
    CONNECT_TIMEOUT = "connect_timeout"
    TLS = "tls"
    STALE = "stale"  # a kept-alive connection died as it was reused, before any byte of an answer
    SATURATED = "saturated"  # every endpoint is at its in-flight cap
    LIMITED = "limited"  # its target's own limits, as configured, are reached
    INEXPRESSIBLE = "inexpressible"  # its API has no words for something in this request
    NO_TOKEN = "no_token"  # noqa: S105 - there is no valid access token for it at the moment
    # The upstream answered and said no.
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"  # 503, 529
    SERVER_ERROR = "server_error"  # other 5xx
    AUTH = "auth"  # 401: our key is wrong, never the client's
    FORBIDDEN = "forbidden"  # 403: our key's rights, or moderation of this one prompt
    MODEL_GONE = "model_gone"  # 404 that means the model
    CLIENT_ERROR = "client_error"  # 400, 413, 422, ...: the request is at fault
    CONTEXT_LENGTH = "context_length"  # the prompt was longer than this target takes
    MISWRITTEN = "miswritten"  # its server refuses what the model wrote: a call or JSON that breaks the schema
    REDIRECT = "redirect"
    # It broke before anything was sent to the client.
    HEADERS_TIMEOUT = "headers_timeout"
    FIRST_EVENT_TIMEOUT = "first_event_timeout"
    RESET = "reset"
    INVALID = "invalid"  # not JSON, truncated, wrong type, wrong encoding
    IN_BAND_ERROR = "in_band_error"
    TOO_LARGE = "too_large"
    PROTOCOL = "protocol"  # bad chunk size, header flood
    # It broke afterwards: the client gets one error event.
    INTERRUPTED = "interrupted"
    IDLE_TIMEOUT = "idle_timeout"
    TOTAL_TIMEOUT = "total_timeout"
    EVENT_TOO_LARGE = "event_too_large"
    # Nobody's fault.
    OUTRUN = "outrun"  # another attempt of the same request began to answer first
    CLIENT_GONE = "client_gone"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at one target; `number` counts from 1 over the whole request."""

    target: Target
    number: int
    fresh_connection: bool = False  # True: the free retry after STALE, which must not reuse a pooled connection
    replica: int = 0  # how many endpoints of this target were tried before in this request: take another one


class Routing(msgspec.Struct, eq=False):
    """Who asked for what, what was decided and who answers: what a request shares with others that are decided alike.

    Kept with a remembered decision, so that what headers, metrics and log make of it is made once for all of them.
    """

    key: str  # name of the key, from configuration
    team: str  # tenant fact `team`, "" where not set
    model_asked: str  # as the client sent it: unbounded, so never a metrics label
    stream: bool
    policy: str = ""  # name@digest
    rule: str = ""
    chosen: str = ""  # the target that the decision put first
    target: str = ""  # the one that answered, or the last one tried
    model: str = ""  # catalogue id behind that target
    thinking: str = ""
    because: str = ""
    headers: bytes = b""  # of the answer, whole lines
    cell: Any = None  # where metrics count the good answers among these requests
    account: int = 0  # that the ledger books its attempts on; 0: none was asked for yet
    line: Any = None  # what the log says of all of them


class Shadowed(msgspec.Struct, eq=False, gc=False):
    """What came of a shadow: filled in when it ends, which may be after the request that it copies. Times are seconds.

    `outcome` is a value of `Outcome`, or "pending". None of it is part of what the client's request cost or took.
    """

    id: str  # of the policy's entry
    target: str
    model: str
    outcome: str = "pending"
    status: int = 0  # 0: no answer came
    first_event_s: float = 0.0  # from its sending to its first meaningful event, or its complete answer
    duration_s: float = 0.0
    usage: Usage | None = None
    cost_nano: int = 0  # nano-USD
    priced: bool = False


class Record(msgspec.Struct, eq=False, gc=False):
    """What is kept of one finished request: for metrics, the access log and `/v1/decisions`. Never a prompt."""

    request_id: str
    wall: float  # Unix time of its arrival
    started_at: float  # seconds of the process's monotonic clock, as in all that end in `_at`
    routing: Routing
    status: int = 0  # 499: the client left
    code: str = "ok"  # "ok", "client_gone" or a code of core.errors.CODES
    attempts: int = 0
    sent_at: float = 0.0  # first attempt's request was written
    first_event_at: float = 0.0  # first meaningful event (streams) or complete answer
    ended_at: float = 0.0
    usage: Usage | None = None  # of all attempts together
    cost_nano: int = 0  # nano-USD over all attempts
    priced: bool = False  # False: at least one attempt had no price
    thought_unasked: bool = False  # reasoning arrived although thinking was `never`
    fallback_reason: str = ""  # a value of `Outcome`: why the target that the decision put first did not answer
    client_slow: bool = False  # the client did not keep up: how long the answer took says nothing of the upstream
    shadow: Shadowed | None = None  # of the copy that was sent, if one was
    trace: Traced | None = None  # None: nobody asks for spans or their measures
    answered: int = 0  # the attempt that answered, where two ran beside each other; 0: the last one
    spent: tuple[Spent, ...] = ()  # by attempt, where one that did not answer was billed; else the last has it all

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it, the routing's fields among the others."""
        shared = {name: getattr(self.routing, name) for name in _TOLD}
        own = {name: getattr(self, name) for name in self.__struct_fields__ if name not in ("routing", "trace")}
        told = own | shared | {"trace_id": self.trace.trace_id if self.trace is not None else ""}
        return {name: msgspec.to_builtins(value) for name, value in told.items()}


_TOLD = tuple(name for name in Routing.__struct_fields__ if name not in ("headers", "cell", "account", "line", "quote"))
