"""What is worked out of rates: rows, totals, and their order."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import gateway.top.view
from gateway.telemetry import families
from gateway.top.series import Series
from gateway.top.view import SORTS, Seen, View, ordered, view


def series(**values: float) -> dict[Series, float]:
    """`requests_total(target="a")=1` cannot be written as a name, so: requests_total__target_a__code_ok=1."""
    made: dict[Series, float] = {}
    for written, value in values.items():
        name, *labels = written.split("__")
        pairs = tuple(sorted((key, text) for key, _, text in (one.partition("_") for one in labels)))
        made[f"pointsman_{name}", pairs] = value
    return made


def listed(target: str, state: str = "healthy", **more: Any) -> dict[str, Any]:
    return {"target": target, "state": state, "reason": None, "held_for_s": 0.0, "inflight": 0, **more}


def shown(
    rates: dict[Series, float], *targets: list[dict[str, Any]], gauges: dict[Series, float] | None = None
) -> View:
    return view((), Seen(rates, gauges or {}, targets))


RATES = series(
    requests_total__target_a__code_ok=3.0,
    requests_total__target_b__code_ok=1.0,
    requests_total__target_b__code_upstream_timeout=0.5,
    requests_total__target_none__code_policy_denied=0.25,
    requests_total__target_a__code_client_gone=0.25,
    refusals_total__code_policy_denied=0.25,
    attempts_total__target_a__outcome_ok=3.0,
    attempts_total__target_a__outcome_reset=0.5,
    attempts_total__target_a__outcome_overloaded=0.5,
    attempts_total__target_b__outcome_client_gone=9.0,
    attempts_total__target_b__outcome_context_length=9.0,
    fallbacks_total__rule_code__chosen_a__target_b__reason_reset=0.5,
    tokens_total__target_a__class_input=10.0,
    tokens_total__target_a__class_cached=5.0,
    tokens_total__target_a__class_output=2.0,
    tokens_total__target_a__class_reasoning=1.0,
    cost_usd_total__target_a__policy_p__rule_code=0.5,
    cost_usd_total__target_b__policy_p__rule_code=0.25,
    unpriced_requests_total__target_b=1.0,
    decisions_total__policy_p__rule_code__target_a=3.0,
    decisions_total__policy_p__rule_default__target_a=1.0,
)


def test_a_target_s_row_says_what_it_does_and_how_it_is() -> None:
    a, b, c = shown(
        RATES, [listed("a", inflight=4), listed("b"), listed("c", "ejected", reason="reset", held_for_s=7)]
    ).targets
    assert (a.target, a.state, a.inflight, a.requests_per_s) == ("a", "healthy", 4, 3.25)
    assert (a.input_tokens_per_s, a.output_tokens_per_s, a.cost_usd_per_min) == (15.0, 3.0, 30.0)
    assert (a.errors_per_s, a.fallbacks_per_s) == (1.0, 0.5)
    assert (b.errors_per_s, b.unpriced_requests_per_s) == (0.0, 1.0), "who leaves or asks too much blames no target"
    assert (c.target, c.state, c.reason, c.held_for_s, c.requests_per_s) == ("c", "ejected", "reset", 7.0, 0.0)


def test_a_target_that_is_no_longer_configured_and_still_counted_is_shown_as_that() -> None:
    [_, b] = shown(RATES, [listed("a")]).targets
    assert (b.target, b.state) == ("b", "not configured")


def test_several_gateways_need_not_agree_on_a_target() -> None:
    [a] = shown(
        {}, [listed("a", inflight=1)], [listed("a", "ejected", reason="reset", held_for_s=3, inflight=2)], [listed("a")]
    ).targets
    assert (a.state, a.reason, a.held_for_s, a.inflight) == ("2 healthy, 1 ejected", "reset", 3.0, 3)


def test_what_is_odd_of_a_target_that_serves_is_told_too() -> None:
    endpoints = {"http://a/v1": {"state": "ejected"}, "http://b/v1": {"state": "healthy"}}
    fine, odd = shown(
        {}, [listed("a", endpoints={}), listed("b", endpoints=endpoints, slow=["x"], thinking_doubted=True)]
    ).targets
    assert (fine.endpoints_out, fine.slow, fine.thinking_doubted) == (0, False, False)
    assert (odd.endpoints_out, odd.slow, odd.thinking_doubted) == (1, True, True)


def test_rules_are_told_by_policy_with_their_share_and_cost() -> None:
    code, default = shown(RATES).rules
    assert (code.policy, code.rule, code.requests_per_s, code.share, code.cost_usd_per_min) == (
        "p",
        "code",
        3.0,
        0.75,
        45.0,
    )
    assert (default.share, default.cost_usd_per_min) == (0.25, 0.0)


def test_totals_count_refusals_as_errors_and_those_who_left_as_none() -> None:
    totals = shown(RATES, gauges=series(inflight_requests=6.0)).totals
    assert (totals.requests_per_s, totals.refused_per_s, totals.errors_per_s) == (5.0, 0.25, 0.75)
    assert (totals.fallbacks_per_s, totals.inflight, totals.queued) == (0.5, 6, None)
    assert (totals.input_tokens_per_s, totals.output_tokens_per_s, totals.cost_usd_per_min) == (15.0, 3.0, 45.0)
    assert totals.savings_usd_per_min is None, "nothing is known of a baseline"


def test_savings_are_what_the_baseline_would_have_cost_more() -> None:
    rates = RATES | series(baseline_cost_usd_total__target_a__baseline_gpt=2.0)
    totals = shown(rates, gauges=series(queue_requests=3.0)).totals
    assert (totals.savings_usd_per_min, totals.queued) == (pytest.approx(75.0), 3)


def test_percentiles_are_of_all_answers_or_of_one_target_s() -> None:
    def buckets(name: str, target: str, low: float, high: float) -> dict[Series, float]:
        bounds = {"1.0": low, "2.0": high, "+Inf": high}
        return {
            (f"pointsman_{name}_bucket", (("le", le), ("stream", "true"), ("target", target))): value
            for le, value in bounds.items()
        }

    rates = buckets("time_to_first_event_seconds", "a", 4.0, 4.0) | buckets(
        "time_to_first_event_seconds", "b", 0.0, 4.0
    )
    told = shown(rates, [listed("a"), listed("b")])
    assert [(row.first_event_p50_s, row.first_event_p95_s) for row in told.targets] == [(0.5, 0.95), (1.5, 1.95)]
    assert (told.totals.first_event_p50_s, told.totals.overhead_p99_s) == (1.0, None)


def test_every_metric_it_reads_is_one_that_the_gateway_exports() -> None:
    """A metric that is renamed would be a column of zeros here."""
    source = Path(gateway.top.view.__file__).read_text(encoding="utf-8")
    read = set(re.findall(r"(?:_by|_sum|_gauge|_buckets|named)\((?:rates|seen\.gauges|seen\.rates), \"(\w+)\"", source))
    assert {"requests_total", "inflight_requests", "gateway_overhead_seconds"} <= read
    exported = {value.name for value in vars(families).values() if isinstance(value, families.Family)}
    assert {f"pointsman_{name}" for name in read} <= exported


@pytest.mark.parametrize("by", SORTS)
def test_rows_that_no_column_tells_apart_are_sorted_by_name(by: str) -> None:
    targets, _ = ordered(shown({}, [listed("b"), listed("a"), listed("c")]), by)
    assert [row.target for row in targets] == ["a", "b", "c"]


def test_the_greatest_comes_first() -> None:
    told = shown(RATES | series(tokens_total__target_b__class_input=99.0), [listed("a"), listed("b")])
    assert [row.target for row in ordered(told, "requests")[0]] == ["a", "b"]
    assert [row.target for row in ordered(told, "tokens")[0]] == ["b", "a"]
    assert [row.rule for row in ordered(told, "name")[1]] == ["code", "default"]
