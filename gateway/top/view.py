"""What `pointsman top` shows: rows of targets and rules, and totals, worked out from the rates of all gateways.

Here belongs what each figure means; how it is printed is `gateway.top.table`, where it comes from `gateway.top.watch`.
The fields of these rows are the fields of `--json`, documented in docs/cli.md.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.top.series import MOST, Series, named, quantile

#: Outcomes of attempts that say nothing bad of the target: who left, what was asked, a gateway that ends.
_BLAMELESS = frozenset({"ok", "outrun", "client_gone", "draining", "client_error", "context_length", "inexpressible"})
_NONE = "none"


@dataclass(frozen=True, slots=True)
class GatewayRow:
    """One gateway that is watched. `error` says why it did not answer, for `silent_s` seconds by now."""

    url: str
    up: bool
    error: str | None
    silent_s: float
    version: str | None
    started_at: float | None  # Unix seconds
    window_s: float  # how long the window is that the rates are of; 0: not yet known


@dataclass(frozen=True, slots=True)
class TargetRow:
    """One target. Rates are per second but for the cost; percentiles are None where nothing was answered."""

    target: str
    state: str
    reason: str | None
    held_for_s: float | None
    endpoints_out: int  # endpoints that are not healthy, of a target with several
    slow: bool  # misses a latency target of a policy
    thinking_doubted: bool
    inflight: int
    requests_per_s: float
    input_tokens_per_s: float
    output_tokens_per_s: float
    cost_usd_per_min: float
    unpriced_requests_per_s: float
    first_event_p50_s: float | None
    first_event_p95_s: float | None
    errors_per_s: float
    fallbacks_per_s: float  # requests that it should have answered, and another did


@dataclass(frozen=True, slots=True)
class RuleRow:
    """One rule of a policy, `share` of all decided requests being 0 to 1."""

    policy: str
    rule: str
    requests_per_s: float
    share: float
    cost_usd_per_min: float


@dataclass(frozen=True, slots=True)
class Totals:
    """All of it. What a gateway does not export is None: `queued`, and `savings_usd_per_min` without a baseline."""

    requests_per_s: float
    refused_per_s: float
    errors_per_s: float
    fallbacks_per_s: float
    inflight: int
    queued: int | None
    input_tokens_per_s: float
    output_tokens_per_s: float
    cost_usd_per_min: float
    savings_usd_per_min: float | None
    first_event_p50_s: float | None
    first_event_p95_s: float | None
    overhead_p50_s: float | None
    overhead_p99_s: float | None


@dataclass(frozen=True, slots=True)
class View:
    """One refresh."""

    gateways: tuple[GatewayRow, ...]
    totals: Totals
    targets: tuple[TargetRow, ...]
    rules: tuple[RuleRow, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of all gateways that answer: summed rates and gauges, and each one's list of targets."""

    rates: Mapping[Series, float]
    gauges: Mapping[Series, float]
    listed: Sequence[Sequence[Mapping[str, Any]]] = ()


def view(gateways: Iterable[GatewayRow], seen: Seen) -> View:
    """What is to be shown."""
    return View(tuple(gateways), _totals(seen), _targets(seen), _rules(seen))


# --- how targets and rules may be sorted: the greatest first, names from a to z ---

Key = Callable[[Any], Any]
SORTS: Mapping[str, tuple[Key, Key]] = {
    "requests": (lambda row: -row.requests_per_s, lambda row: -row.requests_per_s),
    "name": (lambda row: row.target, lambda row: (row.policy, row.rule)),
    "tokens": (lambda row: -row.input_tokens_per_s - row.output_tokens_per_s, lambda row: -row.requests_per_s),
    "cost": (lambda row: -row.cost_usd_per_min, lambda row: -row.cost_usd_per_min),
    "latency": (lambda row: -(row.first_event_p95_s or 0.0), lambda row: -row.requests_per_s),
    "errors": (lambda row: -row.errors_per_s - row.fallbacks_per_s, lambda row: -row.requests_per_s),
}


def ordered(shown: View, by: str) -> tuple[list[TargetRow], list[RuleRow]]:
    """Targets and rules in the order of that column; where it does not tell them apart, by name."""
    target_key, rule_key = SORTS[by]
    targets = sorted(shown.targets, key=lambda row: (target_key(row), row.target))
    return targets, sorted(shown.rules, key=lambda row: (rule_key(row), row.policy, row.rule))


# --- working it out ---


def _by(series: Mapping[Series, float], name: str, *labels: str, **only: str) -> dict[tuple[str, ...], float]:
    """A metric summed by some of its labels, over the series whose other labels are as given."""
    summed: dict[tuple[str, ...], float] = defaultdict(float)
    for found, value in named(series, name):
        if all(found.get(label) == wanted for label, wanted in only.items()):
            summed[tuple(found.get(label, "") for label in labels)] += value
    return summed


def _sum(series: Mapping[Series, float], name: str, **only: str) -> float:
    return _by(series, name, **only).get((), 0.0)


def _gauge(series: Mapping[Series, float], name: str) -> int | None:
    found = [value for _, value in named(series, name)]
    return round(sum(found)) if found else None


def _buckets(rates: Mapping[Series, float], name: str, label: str = "") -> dict[str, dict[float, float]]:
    """A histogram's cumulative buckets by one of its labels, by "" where none is named."""
    summed: dict[str, dict[float, float]] = defaultdict(lambda: defaultdict(float))
    for found, value in named(rates, f"{name}_bucket"):
        bound = math.inf if found["le"] == "+Inf" else _number(found["le"])
        summed[found.get(label, "")][bound] += value
    return {key: dict(one) for key, one in summed.items()}


def _tokens(rates: Mapping[Series, float], *classes: str) -> dict[str, float]:
    summed: dict[str, float] = defaultdict(float)
    for (target, kind), value in _by(rates, "tokens_total", "target", "class").items():
        if kind in classes:
            summed[target] += value
    return summed


_IN, _OUT = ("input", "cached"), ("output", "reasoning")


def _totals(seen: Seen) -> Totals:
    rates = seen.rates
    first = _buckets(rates, "time_to_first_event_seconds").get("", {})
    overhead = _buckets(rates, "gateway_overhead_seconds").get("", {})
    wrong = _by(rates, "requests_total", "code")
    cost = _sum(rates, "cost_usd_total")
    with_baseline = any(True for _ in named(rates, "baseline_cost_usd_total"))
    return Totals(
        requests_per_s=_sum(rates, "requests_total"),
        refused_per_s=_sum(rates, "refusals_total"),
        errors_per_s=sum(value for (code,), value in wrong.items() if code not in ("ok", "client_gone")),
        fallbacks_per_s=_sum(rates, "fallbacks_total"),
        inflight=_gauge(seen.gauges, "inflight_requests") or 0,
        queued=_gauge(seen.gauges, "queue_requests"),
        input_tokens_per_s=sum(_tokens(rates, *_IN).values()),
        output_tokens_per_s=sum(_tokens(rates, *_OUT).values()),
        cost_usd_per_min=cost * 60,
        savings_usd_per_min=(_sum(rates, "baseline_cost_usd_total") - cost) * 60 if with_baseline else None,
        first_event_p50_s=quantile(0.5, first),
        first_event_p95_s=quantile(0.95, first),
        overhead_p50_s=quantile(0.5, overhead),
        overhead_p99_s=quantile(0.99, overhead),
    )


def _targets(seen: Seen) -> tuple[TargetRow, ...]:
    rates = seen.rates
    requests = _by(rates, "requests_total", "target")
    into, out = _tokens(rates, *_IN), _tokens(rates, *_OUT)
    cost = _by(rates, "cost_usd_total", "target")
    unpriced = _by(rates, "unpriced_requests_total", "target")
    first = _buckets(rates, "time_to_first_event_seconds", "target")
    errors: dict[str, float] = defaultdict(float)
    for (target, outcome), value in _by(rates, "attempts_total", "target", "outcome").items():
        if outcome not in _BLAMELESS:
            errors[target] += value
    fallbacks = _by(rates, "fallbacks_total", "chosen")
    conditions = _conditions(seen.listed)
    moving = {target for (target,) in [*requests, *fallbacks]} | set(errors)
    return tuple(
        TargetRow(
            target=name,
            state=condition.state,
            reason=condition.reason,
            held_for_s=condition.held_for_s,
            endpoints_out=condition.endpoints_out,
            slow=condition.slow,
            thinking_doubted=condition.thinking_doubted,
            inflight=condition.inflight,
            requests_per_s=requests.get((name,), 0.0),
            input_tokens_per_s=into.get(name, 0.0),
            output_tokens_per_s=out.get(name, 0.0),
            cost_usd_per_min=cost.get((name,), 0.0) * 60,
            unpriced_requests_per_s=unpriced.get((name,), 0.0),
            first_event_p50_s=quantile(0.5, first.get(name, {})),
            first_event_p95_s=quantile(0.95, first.get(name, {})),
            errors_per_s=errors.get(name, 0.0),
            fallbacks_per_s=fallbacks.get((name,), 0.0),
        )
        for name in sorted((moving | set(conditions)) - {_NONE})
        for condition in [conditions.get(name, _Condition())]
    )


def _number(told: Any) -> float:
    """A number of `/v1/targets`. Raises ValueError, OverflowError or TypeError for what no gateway says."""
    number = float(told)
    if not abs(number) <= MOST:
        raise ValueError(told)
    return number


@dataclass(slots=True)
class _Condition:
    """How a target is, over all gateways."""

    states: Counter[str] = field(default_factory=Counter)
    reason: str | None = None
    held_for_s: float | None = None
    inflight: int = 0
    endpoints_out: int = 0
    slow: bool = False
    thinking_doubted: bool = False

    def add(self, row: Mapping[str, Any]) -> None:
        """What one gateway says of it, see `/v1/targets`."""
        state = str(row.get("state", "unknown"))
        self.states[state] += 1
        self.inflight += int(_number(row.get("inflight") or 0))
        if state != "healthy" and row.get("reason") and self.reason is None:
            self.reason = str(row["reason"])
        if row.get("held_for_s"):
            self.held_for_s = max(self.held_for_s or 0.0, _number(row["held_for_s"]))
        endpoints = row.get("endpoints") or {}
        self.endpoints_out += sum(one.get("state") != "healthy" for one in endpoints.values())
        self.slow = self.slow or bool(row.get("slow"))
        self.thinking_doubted = self.thinking_doubted or bool(row.get("thinking_doubted"))

    @property
    def state(self) -> str:
        """The state; where gateways do not agree, how many are in which."""
        if len(self.states) <= 1:
            return next(iter(self.states), "not configured")
        return ", ".join(f"{count} {state}" for state, count in self.states.most_common())


def _conditions(listed: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, _Condition]:
    found: dict[str, _Condition] = defaultdict(_Condition)
    for rows in listed:
        for row in rows:
            found[str(row["target"])].add(row)
    return found


def _rules(seen: Seen) -> tuple[RuleRow, ...]:
    rates = seen.rates
    requests = _by(rates, "decisions_total", "policy", "rule")
    every = sum(requests.values())
    cost = _by(rates, "cost_usd_total", "policy", "rule")
    return tuple(
        RuleRow(
            policy=policy,
            rule=rule,
            requests_per_s=value,
            share=value / every if every else 0.0,
            cost_usd_per_min=cost.get((policy, rule), 0.0) * 60,
        )
        for (policy, rule), value in sorted(requests.items())
    )
