"""What others tell metrics: the label values that configuration allows, its targets, and how the process is right now.

Made by `gateway.exported` and `gateway.proxy.vitals`; what becomes of it is in `metrics` and `families`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

from gateway.core.money import pricing
from gateway.core.types import NANO_PER_USD, Price, Usage

#: How `Routing.thinking` begins where a model was told to think.
_THINKS = ("always", "budget")


class TargetFacts(NamedTuple):
    """What is exported of a target as configured. `retires_at`: Unix seconds at which its model is withdrawn.

    `price` is None where there is none.
    """

    target: str
    model: str
    family: str
    backend: str
    region: str
    retires_at: float | None = None
    price: Price | None = None

    def token_usd(self) -> dict[str, float]:
        """US dollars for one token by its class, of several length tiers in the first."""
        if self.price is None:
            return {}
        tier = self.price.tiers[0]
        prices = {
            "input": tier.input,
            "cached": tier.input if tier.cached_input is None else tier.cached_input,
            "output": tier.output,
            "reasoning": tier.output if tier.thinking_output is None else tier.thinking_output,
        }
        return {name: nano / NANO_PER_USD / 1e6 for name, nano in prices.items()}


class Baseline(NamedTuple):
    """What costs are compared with: a model or target by the name configured, at the prices of one target."""

    name: str
    price: Price

    def cost(self, used: Usage, thinking: str) -> int:
        """Nano-USD of these tokens there; `thinking` is what the request's model was told, as in `Routing`."""
        return pricing.cost(self.price, used, thinking.startswith(_THINKS))


class EndpointNow(NamedTuple):
    """One endpoint of a target, as a scrape finds it."""

    target: str
    endpoint: str  # its URL, as configured
    state: str  # one of core.resilience.health.STATES
    inflight: int  # requests of this target under way there
    limit: int  # how many of all targets may be under way there


@dataclass(frozen=True, slots=True)
class Vitals:
    """What the living process is like at the moment of a scrape: what no count of finished requests can tell."""

    inflight: int = 0
    queued: int = 0
    targets: tuple[Mapping[str, Any], ...] = ()  # as `Runtime.states` tells them
    endpoints: tuple[EndpointNow, ...] = ()
    ejections: Mapping[tuple[str, str, str], int] = field(default_factory=dict)  # target, endpoint, outcome


@dataclass(frozen=True, slots=True)
class Names:
    """Every label value that configuration allows. What is in none of these sets is exported as `other`.

    `asked` holds what a client may put in `model`: auto, auto/<policy>, the `models:` map, models and targets.
    `policies` maps a policy's name to its digest. `facts` and `baseline` are what else of it is exported.
    """

    asked: frozenset[str] = frozenset()
    rules: frozenset[str] = frozenset()
    targets: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()
    teams: frozenset[str] = frozenset()
    policies: Mapping[str, str] | None = None
    facts: tuple[TargetFacts, ...] = ()
    baseline: Baseline | None = None

    def after(self, before: Names) -> Names:
        """These and those of configurations before, by which requests that are under way were decided."""
        return replace(
            self,
            asked=self.asked | before.asked,
            rules=self.rules | before.rules,
            targets=self.targets | before.targets,
            models=self.models | before.models,
            teams=self.teams | before.teams,
            policies={**(before.policies or {}), **(self.policies or {})},
        )


class Counted(Protocol):
    """A log, as far as it counts its lines."""

    @property
    def written(self) -> int:
        """Lines that were taken by where they go."""

    @property
    def left_out(self) -> int:
        """Lines that another one stands for."""

    @property
    def lost(self) -> int:
        """Lines that nobody took."""
