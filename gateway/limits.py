"""What clients may take of one process: `limits:` of pointsman.yaml, as written and as values.

Enforced by `gateway.proxy`. What single keys and teams may take is in `gateway.quotas`.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_network
from itertools import pairwise
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from gateway.core import quantities
from gateway.core.quantities import Invalid
from gateway.core.request.peers import Network
from gateway.core.resilience.overload import Steps
from gateway.fields import Bytes, Seconds, Strict

_VALID = "a share such as 85%, above 0% and at most 100%"


def _share(value: object) -> float:
    try:
        share = quantities.share(value)
    except Invalid:
        share = 0.0
    if not share:
        raise Invalid(f"{value!r:.40} is no share", _VALID)
    return share


Share = Annotated[
    float,
    BeforeValidator(_share),
    WithJsonSchema({"type": "string", "pattern": r"^[0-9]{0,3}\.?[0-9]{1,15}%$", "examples": ["85%"]}),
]


def _network(value: object) -> Network:
    try:
        return ip_network(value) if isinstance(value, str) else ip_network("")
    except ValueError:
        raise Invalid(f"{value!r:.60} is no network", "an address or a network, such as 10.0.0.0/8") from None


NetworkField = Annotated[
    Network, BeforeValidator(_network), WithJsonSchema({"type": "string", "examples": ["10.0.0.0/8"]})
]


def _default(share: float) -> Any:
    return Field(default=share, json_schema_extra={"default": f"{share:.0%}"})


class ShedDoc(Strict):
    """From which share of `max_inflight`, `max_connections` and `max_buffered` something is given up; never streams.

    From `keep_alive` on connections are closed after their answers. From `low`, `normal` and `high` on requests of keys
    of that `priority` are refused. What lies above `high` is there for `critical` keys alone.
    """

    keep_alive: Share = _default(0.7)
    low: Share = _default(0.75)
    normal: Share = _default(0.85)
    high: Share = _default(0.95)

    @model_validator(mode="after")
    def _ascending(self) -> ShedDoc:
        names = ("keep_alive", "low", "normal", "high")
        shares = [getattr(self, name) for name in names]
        for at, (lower, upper) in enumerate(pairwise(shares)):
            if lower > upper:
                what = f"{upper * 100:g} % comes before {names[at]} ({lower * 100:g} %), which is to be given up first"
                raise Invalid(what, "keep_alive, low, normal and high in ascending order", at=(names[at + 1],))
        return self

    def steps(self) -> Steps:
        """The same as values."""
        return Steps(self.keep_alive, self.low, self.normal, self.high)


class LimitsDoc(Strict):
    """What one client, and all clients together, may take of this process."""

    max_body: Bytes = 64_000_000
    max_head: Bytes = 65_536
    max_buffered: Bytes = 512_000_000  # request bodies held at one time, over all connections
    max_connections: int = Field(default=10_000, ge=1, le=1_000_000)
    max_memory: Bytes | None = None  # resident; the limits of a container and of the shell are found by themselves
    max_inflight: int = Field(default=4_000, ge=1, le=1_000_000)  # requests under way at one time, over all keys
    shed: ShedDoc = Field(default_factory=ShedDoc)
    invalid_keys: int = Field(default=300, ge=1, le=1_000_000)  # requests a minute without a valid key, by address
    trusted_proxies: list[NetworkField] = Field(default_factory=list, max_length=64)  # whose X-Forwarded-For is read
    request_head: Seconds = 10.0  # from the first byte of a head to its last
    keep_alive: Seconds = 75.0  # an idle connection between two requests
    min_upload_rate: Bytes = 1_000  # bytes a second, averaged over the body so far


class Drain(NamedTuple):
    """How the process ends, in seconds: how long requests are still taken, and how long those may then take."""

    delay_s: float
    grace_s: float


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients may take of this process; sizes in bytes, times in seconds, rates in bytes a second."""

    max_body: int
    max_head: int
    max_buffered: int
    max_connections: int
    max_memory: int | None
    max_inflight: int
    steps: Steps
    invalid_keys: int
    trusted_proxies: tuple[Network, ...]
    request_head_s: float
    keep_alive_s: float
    min_upload_rate: int

    @staticmethod
    def of(doc: LimitsDoc) -> Limits:
        """The limits as a file states them."""
        return Limits(
            max_body=doc.max_body,
            max_head=doc.max_head,
            max_buffered=doc.max_buffered,
            max_connections=doc.max_connections,
            max_memory=doc.max_memory,
            max_inflight=doc.max_inflight,
            steps=doc.shed.steps(),
            invalid_keys=doc.invalid_keys,
            trusted_proxies=tuple(doc.trusted_proxies),
            request_head_s=doc.request_head,
            keep_alive_s=doc.keep_alive,
            min_upload_rate=doc.min_upload_rate,
        )
