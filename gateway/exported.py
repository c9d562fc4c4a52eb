"""What metrics are told of a loaded configuration: every label value it allows, its targets, its baseline.

How things are counted and exported under these names is in `gateway.telemetry`; the configuration itself is the `Site`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType

from gateway.core.policy import Policy
from gateway.core.quantities import Invalid
from gateway.core.targets.rank import expected_nano
from gateway.core.types import Fleet, Target, Tenant
from gateway.naming import Route
from gateway.problems import suggest
from gateway.telemetry.names import Baseline, Names, TargetFacts

#: Tokens of prompt of the usual request, by which the targets of one model are compared.
USUAL_INPUT = 1_000


def names(
    fleet: Fleet,
    policies: Mapping[str, Policy],
    table: Mapping[str, Route],
    tenants: Iterable[Tenant],
    compared: Baseline | None,
) -> Names:
    """All that a configuration lets metrics say. `table` holds what clients may send as `model`."""
    return Names(
        asked=frozenset(table),
        rules=frozenset(rule.id for policy in policies.values() for rule in policy.rules),
        targets=frozenset(target.name for target in fleet.targets),
        models=frozenset(target.model.id for target in fleet.targets),
        teams=teams(tenants),
        policies=MappingProxyType({name: policy.digest for name, policy in policies.items()}),
        facts=tuple(map(_facts, fleet.targets)),
        baseline=compared,
    )


def teams(tenants: Iterable[Tenant]) -> frozenset[str]:
    """The teams that metrics may name."""
    return frozenset(one.facts["team"] for one in tenants if "team" in one.facts)


def _facts(target: Target) -> TargetFacts:
    day = target.retires_on
    return TargetFacts(
        target=target.name,
        model=target.model.id,
        family=target.model.family,
        backend=target.backend.name,
        region=target.backend.region or "",
        retires_at=None if day is None else datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp(),
        price=target.price,
    )


def baseline(name: str, fleet: Fleet, table: Mapping[str, Route]) -> Baseline:
    """The price list behind a name: of a model, that of its targets where a usual request costs least.

    Raises `Invalid` for a name that leads to no target, and for one that has no price: nothing is guessed.
    """
    route = table.get(name)
    if route is None or route.pinned is None:
        served = [one for one, where in table.items() if where.pinned is not None]
        raise Invalid(f"{name!r:.80} is no target and no model that is served here", suggest(name, served))
    costs = [
        (expected_nano(target, USUAL_INPUT, None), target.price)
        for target in fleet.targets
        if route.pinned >> target.index & 1
    ]
    priced = [(nano, price) for nano, price in costs if nano is not None and price is not None]
    if not priced:
        raise Invalid(
            f"{name!r:.80} has no price, so nothing can be compared with it", "a target or model with a price"
        )
    return Baseline(name, min(priced, key=lambda one: one[0])[1])
