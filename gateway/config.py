"""The pydantic models of `pointsman.yaml`.

What the file may say, and what can be judged from the file and the environment alone. Names that live in other files
(models, policies) are judged in `gateway.site`, which puts everything together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, WithJsonSchema, model_validator

from gateway.addresses import Address, AddressField, Url
from gateway.auth import AuthDoc
from gateway.core.clauses import tenants
from gateway.core.quantities import Invalid
from gateway.core.resilience.overload import Priority
from gateway.core.types import Modality, ThinkingSupport, Timeouts
from gateway.fields import (
    Age,
    Bytes,
    Country,
    Currency,
    Day,
    Gigabytes,
    HedgeAfter,
    Moment,
    Name,
    NanoUsd,
    Quantization,
    Rates,
    Seconds,
    Strict,
    Tiers,
    Tokens,
)
from gateway.ledger.directory import LedgerSettings
from gateway.ledgerdoc import LedgerDoc
from gateway.limits import LimitsDoc
from gateway.otlpdoc import OtlpDoc
from gateway.owndialects import Body, DialectDoc, header_names, header_value
from gateway.quotas import QuotaDoc, RatesDoc, TeamDoc
from gateway.secretref import SecretRef, read_secret
from gateway.sidecar.doc import LitellmDoc, SidecarDoc
from gateway.storedoc import StoreDoc
from gateway.telemetry.logs import Level, LogSettings
from gateway.telemetry.records import RecordSettings


class ListenDoc(Strict):
    """Where the two listeners bind. `public` may leave this machine only with keys, `admin` only with `admin_key`."""

    public: AddressField = Address("127.0.0.1", 8080)
    admin: AddressField = Address("127.0.0.1", 8081)


class PoliciesDoc(Strict):
    """Where policy files are (relative to this file; left out: those that come with Pointsman) and which is `auto`.

    `overlays` are files of constraints, relative to this file, that lie over every policy.
    """

    dir: str | None = None
    default: Name = "default"
    overlays: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list, max_length=16)


class TimeoutsDoc(Strict):
    """The five clocks of an attempt; what is left out keeps its default, or the site's in a backend."""

    connect: Seconds | None = None
    headers: Seconds | None = None
    first_event: Seconds | None = None
    idle: Seconds | None = None
    total: Seconds | None = None

    def over(self, base: Timeouts) -> Timeouts:
        """`base` with what is set here put over it."""
        return Timeouts(
            connect_s=self.connect or base.connect_s,
            headers_s=self.headers or base.headers_s,
            first_event_s=self.first_event or base.first_event_s,
            idle_s=self.idle or base.idle_s,
            total_s=self.total or base.total_s,
        )


def _headers(written: dict[str, str | SecretRef]) -> dict[str, str | SecretRef]:
    header_names(written)
    for value in written.values():
        if isinstance(value, str):
            header_value(value)
    return written


class BackendDoc(Strict):
    """A kind of server: how it is spoken to, where it stands, whose key opens it.

    `country` is where its machines stand, `jurisdiction` whose law its operator answers to, `memory_gb` what one
    replica has for a model: a target whose weights alone need more does not load.
    `headers` and `body` are sent with every request there, `body` over what a client sends. `api_version` is for the
    dialect azure only, and for those of its addresses that need one. `litellm` is for the dialect of that name where no
    address is given: then a sidecar is started here. `trace_context` sends it `traceparent` and `tracestate` where
    `otlp` is on; left out, if it is self-hosted. `affinity: prefix` sends prompts that begin alike to the same of
    several endpoints, which has cached their beginning, unless it has a quarter more than its share of requests.
    `hedge` is a time, or a percentile of a target's own times such as p95, after which a stream that has not begun is
    asked for once more: at another endpoint, or at the next target; at most of one request in fifty.
    """

    dialect: str
    base_url: Url | None = None
    endpoints: list[Url] | None = Field(None, min_length=1, max_length=256)
    region: Name | None = None
    processing: Name | None = None
    self_hosted: bool = False
    country: Country | None = None
    jurisdiction: Country | None = None
    memory_gb: Gigabytes | None = None
    provider: Name | None = None
    key: SecretRef | None = None
    auth: AuthDoc | None = None
    headers: Annotated[dict[str, str | SecretRef], AfterValidator(_headers)] = Field(default_factory=dict)
    body: Body = Field(default_factory=dict)
    api_version: str | None = Field(None, pattern=r"^[A-Za-z0-9.-]{1,32}$")
    ca_file: str | None = None
    proxy: str | None = None
    max_inflight: int = Field(256, ge=1, le=100_000)
    timeouts: TimeoutsDoc = TimeoutsDoc()
    trace_context: bool | None = None
    affinity: Literal["none", "prefix"] = "none"
    hedge: HedgeAfter | None = None
    litellm: LitellmDoc | None = None

    @model_validator(mode="after")
    def _one_address(self) -> BackendDoc:
        if self.litellm is not None and not self.by_sidecar:
            raise Invalid("has litellm:, which is for the sidecar that runs here", "dialect: litellm, and no base_url")
        if self.by_sidecar:
            for name in ("api_version", "auth", "ca_file", "headers", "proxy"):
                if getattr(self, name):
                    raise Invalid(
                        f"has {name}, which the sidecar does not take", "key:, and litellm: {api_base, options}"
                    )
        elif (self.base_url is None) == (self.endpoints is None):
            raise Invalid("needs exactly one of base_url and endpoints", "base_url: URL, or endpoints: [URL, URL]")
        urls = self.urls()
        if len(set(urls)) != len(urls):
            raise Invalid("names the same endpoint twice", "each replica once")
        if self.key is not None and self.auth is not None:
            raise Invalid("has both key and auth", "key: for a fixed header, auth: for anything else")
        return self

    @property
    def by_sidecar(self) -> bool:
        """Is it reached through a sidecar that this configuration starts?"""
        return self.dialect == "litellm" and self.base_url is None and self.endpoints is None

    def urls(self) -> list[str]:
        """The addresses, whichever way they were written."""
        return [self.base_url] if self.base_url is not None else list(self.endpoints or ())


class GpuPrice(Strict):
    """What a self-hosted model costs: a GPU-hour in USD over the tokens it gets through, prompt and output alike."""

    gpu_hour_usd: NanoUsd
    tokens_per_hour: Tokens

    def rates(self) -> Rates:
        """The same as USD per million tokens, rounded to a nano-USD."""
        nano = round(self.gpu_hour_usd * 1_000_000 / self.tokens_per_hour)
        return Rates.model_construct(input=nano, output=nano)


def _price_kind(value: object) -> str:
    if isinstance(value, dict) and ("gpu_hour_usd" in value or "tokens_per_hour" in value):
        return "gpu"
    return "rates" if isinstance(value, dict) else "tiers" if isinstance(value, list) else "word"


def _price_word(value: object) -> str:
    if value not in ("catalog", "none"):
        raise Invalid(
            f"{value!r:.60} is not a price",
            "catalog, none, {input: 0.4, output: 2.4} in USD per million tokens, or {gpu_hour_usd, tokens_per_hour}",
        )
    return str(value)


PriceDoc = Annotated[
    Annotated[Literal["catalog", "none"], BeforeValidator(_price_word), Tag("word")]
    | Annotated[GpuPrice, Tag("gpu")]
    | Annotated[Rates, Tag("rates")]
    | Annotated[Tiers, Tag("tiers")],
    Discriminator(_price_kind),
]


class TargetDoc(RatesDoc):
    """A model served by a backend. What is left out comes from the catalogue's offer, then from the model's facts.

    `quantization` is what its weights are served in, `tokens_per_s` what one answer gets, as you measured it.
    """

    model: str
    backend: Name
    upstream_id: str | None = Field(None, min_length=1, max_length=256)
    window: Tokens | None = None
    max_input: Tokens | None = None
    max_output: Tokens | None = None
    price: PriceDoc | None = None
    modalities: list[Modality] | None = Field(None, min_length=1)
    tools: bool | None = None
    structured_output: bool | None = None
    thinking: ThinkingSupport | None = None
    thinking_needs_stream: bool | None = None
    unsupported: list[str] = Field(default_factory=list)
    retires_on: Day | None = None
    stand_in: bool = False
    weight: int = Field(1, ge=1, le=1000)
    memory_gb: Gigabytes | None = None
    quantization: Quantization | None = None
    tokens_per_s: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    typical_output_tokens: Tokens | None = None


def _rate(nano_usd: int) -> int:
    if nano_usd == 0:
        raise Invalid("a rate of 0 would make everything free", "USD for one unit of the currency, such as CNY: 0.14")
    return nano_usd


class FleetDoc(Strict):
    """The part of the file that says what there is; `policies/catalog/reference-fleet.yaml` is one.

    `currencies` are the operator's rates, USD for one unit: list prices in another currency count only with them.
    """

    dialects: dict[Name, DialectDoc] = Field(default_factory=dict)
    backends: dict[Name, BackendDoc] = Field(min_length=1)
    targets: dict[Name, TargetDoc] = Field(min_length=1)
    currencies: dict[Currency, Annotated[NanoUsd, AfterValidator(_rate)]] = Field(default_factory=dict)


#: How reasoning is spelt in answers; left out, as the server that answers spells it.
Spelt = Literal["reasoning", "reasoning_content"]


class KeyDoc(QuotaDoc):
    """A key that clients hold, known here only by its hash: `printf %s "$KEY" | sha256sum`.

    `policy` is its own default: what `auto` means for it, and what its pins are judged by. Unless `allow` says more, it
    may then ask for no other policy. `reasoning` is how its answers spell what a model thought, before what the whole
    file says. `priority` says who is refused first when the process is full, see `limits.shed`; a request may ask for
    less by `x-pointsman-priority`. From `expires` on it is refused. `may_create`: its holder may make further keys,
    which get no more than it has itself.
    """

    name: Name
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    policy: Name | None = None
    tenant: Annotated[dict[Name, str], AfterValidator(tenants.checked)] = Field(default_factory=dict)
    allow: list[str] = Field(default_factory=lambda: ["*"], min_length=1)
    explain: bool = False
    priority: Priority = "normal"
    reasoning: Spelt | None = None
    expires: Moment | None = None
    may_create: bool = False


class AdminKeyDoc(SecretRef):
    """The key of the admin listener: by hash, or read from a variable or a file."""

    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")

    @model_validator(mode="after")
    def _one(self) -> AdminKeyDoc:
        if sum(one is not None for one in (self.sha256, self.env, self.file)) != 1:
            raise Invalid("needs exactly one place", "{sha256: ...}, {env: NAME} or {file: path}")
        return self


class LogDoc(Strict):
    """Lines of requests go to standard output, all others to standard error. `auto`: text on a terminal, else JSON.

    `level` is the least that is written. A request is slow, which is a warning, where its first event took longer than
    `slow`. Of more requests a second than `sample_above` about which nothing is remarkable, one in 2, 4, ... has a
    line, which says so; 0: every one always has.
    """

    format: Literal["auto", "json", "text"] = "auto"
    level: Level = "info"
    requests: Literal["all", "none"] = "all"
    slow: Seconds = 30.0
    sample_above: int = Field(default=1_000, ge=0, le=1_000_000)

    def settings(self) -> LogSettings:
        """The same as values."""
        return LogSettings(self.format, self.level, self.requests, self.slow, self.sample_above)


class SavingsDoc(Strict):
    """What costs are compared with in metrics: `baseline` is a model or a target served here that has a price.

    Every request's tokens are priced there too. `pointsman savings` compares more carefully, from decision records.
    """

    baseline: str = Field(min_length=1, max_length=256)


class RecordsDoc(Strict):
    """Decision records: one line of JSON for each decided request, for `replay` and `savings`. Off where left out.

    `dir` is relative to this file and made if it is not there. `sample` is the share of requests that are recorded.
    `reading` is for how many records a second the text is read for what no policy has asked of it. `prompts` is how
    many characters of the last message a record holds, 0 none: only for where that may be kept.
    """

    dir: str = Field(min_length=1, max_length=1024)
    sample: float = Field(1.0, ge=0.0001, le=1.0, strict=False)
    reading: int = Field(100, ge=0, le=100_000)
    rotate_size: Bytes = 128_000_000
    rotate_every: Age = 3_600.0
    keep_size: Bytes = 10_000_000_000
    keep_for: Age = 14 * 86_400.0
    compress: bool = True
    prompts: int = Field(0, ge=0, le=100_000)

    def settings(self, base: Path) -> RecordSettings:
        """The same as values."""
        return RecordSettings(
            directory=base / self.dir,
            sample=self.sample,
            reading_per_s=self.reading,
            rotate_bytes=self.rotate_size,
            rotate_s=self.rotate_every,
            keep_bytes=self.keep_size,
            keep_s=self.keep_for,
            compress=self.compress,
            prompt_chars=self.prompts,
        )


def _ledger_word(value: object) -> str:
    if value != "none":
        raise Invalid(f"{value!r:.60} is not a ledger", "none, or {dir: PATH, keep_for: 90d}")
    return "none"


def _many(value: object) -> object:
    return [value] if isinstance(value, str) else value


#: Is told where something is wrong, what, and what would be valid.
_Note = Callable[[str, str, str], None]


class ConfigDoc(FleetDoc):
    """All of pointsman.yaml. `reasoning` is how all answers spell what a model thought; a key may say otherwise.

    At the end of the process requests are still taken for `drain_delay`, in which load balancers learn from /readyz to
    send no more; what is under way then has `drain` to finish.

    `keys_file` is where `pointsman keys` keeps the keys it makes, relative to this file; left out, the file of its own
    name with `.keys.json` beside it, if there is one.
    """

    listen: ListenDoc = ListenDoc()
    policies: PoliciesDoc = PoliciesDoc()
    catalog: Annotated[
        list[str],
        BeforeValidator(_many),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
    ] = Field(default_factory=list)
    models: dict[str, str] = Field(default_factory=dict)
    unknown_model: str = "reject"
    keys: list[KeyDoc] = Field(default_factory=list)
    keys_file: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    teams: dict[Name, TeamDoc] = Field(default_factory=dict)
    admin_key: AdminKeyDoc | None = None
    timeouts: TimeoutsDoc = TimeoutsDoc()
    limits: LimitsDoc = Field(default_factory=LimitsDoc)
    max_attempts: int = Field(default=4, ge=1, le=16)
    thinking_violations: int = Field(default=3, ge=0, le=1_000_000)  # answers; 0: only counted, never acted on
    reasoning: Spelt | None = None
    drain: Seconds = 30.0
    drain_delay: Seconds | None = None
    sidecar: SidecarDoc = SidecarDoc()
    log: LogDoc = LogDoc()
    records: RecordsDoc | None = None
    savings: SavingsDoc | None = None
    otlp: OtlpDoc | None = None
    store: StoreDoc | None = None
    ledger: Annotated[
        Annotated[Literal["none"], BeforeValidator(_ledger_word), Tag("word")] | Annotated[LedgerDoc, Tag("books")],
        Discriminator(lambda value: "books" if isinstance(value, dict | LedgerDoc) else "word"),
    ] = LedgerDoc()

    def books(
        self, config: Path, environ: Mapping[str, str], note: _Note, files: list[Path], *, secrets: bool = True
    ) -> LedgerSettings | None:
        """Where and how books are kept by this file; None: not at all, or not as it is written, which `note` is told.

        The other files that are read for it are added to `files`. Without `secrets` none is looked up.
        """
        if not isinstance(self.ledger, LedgerDoc):
            return None
        if self.ledger.postgres is not None:
            files += [config.parent / one for one in self.ledger.postgres.files()]
        try:
            return self.ledger.settings(config, environ, secrets=secrets)
        except Invalid as error:
            note(".".join(["ledger", *map(str, error.at)]), error.what, error.valid)
            return None


# --- the environment -------------------------------------------------------------------------------------------------


def admin_digest(ref: AdminKeyDoc, environ: Mapping[str, str], directory: Path) -> bytes:
    """SHA-256 of the admin key. Raises `Invalid`."""
    if ref.sha256 is not None:
        return bytes.fromhex(ref.sha256)
    return hashlib.sha256(read_secret(ref, environ, directory).reveal().encode()).digest()
