"""What a client may ask of the gateway in headers: the `x-pointsman-*` hints, and no more than reading them.

What a hint means beside a key's own facts stands in `signals`: it narrows what the key allows and never widens it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.core.errors import BadRequest
from gateway.core.quantities import Invalid, nano_usd
from gateway.core.quantities import tokens as parse_tokens
from gateway.core.resilience.overload import PRIORITIES, Priority
from gateway.core.types import NANO_PER_USD

_MAX_HINT = 128
_MAX_TIMEOUT_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Hints:
    """The `x-pointsman-*` headers of a request; None where one was not sent."""

    policy: str | None = None
    cost: str | None = None  # low or normal
    max_cost_usd: float | None = None  # the most that the request may cost
    thinking: str | int | None = None  # never, always, or a budget in tokens
    region: str | None = None
    residency: str | None = None
    workload: str | None = None
    timeout_s: float | None = None
    conversation: str | None = None
    priority: Priority | None = None  # at most that of the key

    @classmethod
    def parse(cls, headers: Mapping[str, str]) -> Hints:
        """The hints among headers with lower-case names. Raises BadRequest with the header as `param`.

        >>> Hints.parse({"x-pointsman-thinking": "4k", "x-pointsman-timeout-ms": "1500"}).timeout_s
        1.5
        """
        found: dict[str, Any] = {}
        for header, value in headers.items():
            if not header.startswith(_PREFIX):
                continue
            name = header[len(_PREFIX) :]
            if name not in _HINTS:
                _bad(header, "is not a hint; known are " + ", ".join(_HINTS))
            value = value.strip()
            if not 0 < len(value) <= _MAX_HINT or not value.isprintable():
                _bad(header, f"must be 1 to {_MAX_HINT} printable characters")
            found[_HINTS[name]] = _hint(header, name, value)
        return cls(**found) if found else NO_HINTS


_PREFIX = "x-pointsman-"
_HINTS = {
    "policy": "policy",
    "cost": "cost",
    "max-cost-usd": "max_cost_usd",
    "thinking": "thinking",
    "region": "region",
    "residency": "residency",
    "workload": "workload",
    "timeout-ms": "timeout_s",
    "conversation": "conversation",
    "priority": "priority",
}
#: The headers there are.
NAMES = tuple(_PREFIX + name for name in _HINTS)
NO_HINTS = Hints()


def _bad(header: str, why: str) -> None:
    raise BadRequest("bad_request", f"{header[:64]} {why}.", param=header[:64])


def _hint(header: str, name: str, value: str) -> str | int | float:
    if name == "cost" and value not in ("low", "normal"):
        _bad(header, "must be low or normal")
    if name == "priority" and value not in PRIORITIES:
        _bad(header, "must be one of " + ", ".join(PRIORITIES))
    if name == "thinking" and value not in ("never", "always"):
        try:
            budget = parse_tokens(value)
        except Invalid:
            budget = 0
        if not 0 < budget <= 10_000_000:
            _bad(header, "must be never, always or a number of tokens such as 4k")
        return budget
    if name == "max-cost-usd":
        try:
            return nano_usd(value) / NANO_PER_USD
        except Invalid as error:
            _bad(header, f"must be {error.valid}")
    if name == "timeout-ms":
        if not (value.isascii() and value.isdecimal()) or not 0 < int(value) <= _MAX_TIMEOUT_S * 1000:
            _bad(header, "must be a whole number of milliseconds")
        return int(value) / 1000
    return value
