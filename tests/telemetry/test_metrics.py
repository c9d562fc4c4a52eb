"""What is counted, that no client can make a series, and that counting stays cheap in allocations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.core.money.usage import Spent
from gateway.core.types import Outcome, Price, PriceTier, Record, Routing, Usage
from gateway.telemetry.families import DURATION_BUCKETS_S
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.names import Baseline, EndpointNow, Names, TargetFacts, Vitals

NAMES = Names(
    asked=frozenset({"auto", "gpt-4o"}),
    rules=frozenset({"code", "default"}),
    targets=frozenset({"scout-eu", "qwen-plus"}),
    models=frozenset({"llama-4-scout", "qwen3.5-plus"}),
    teams=frozenset({"shop"}),
    policies={"default": "abc123"},
)


def record(**changes: Any) -> Record:
    values: dict[str, Any] = {
        "request_id": "r1", "key": "checkout", "team": "shop", "model_asked": "auto", "stream": False, "wall": 1e9,
        "started_at": 100.0, "status": 200, "policy": "default@abc123", "rule": "code", "chosen": "qwen-plus",
        "target": "qwen-plus", "model": "qwen3.5-plus", "attempts": 1, "sent_at": 100.0004, "first_event_at": 100.3,
        "ended_at": 100.4, "usage": Usage(input=100, output=50, cached=40, reasoning=20), "cost_nano": 2_500_000,
        "priced": True,
    }  # fmt: skip
    values |= changes
    routing = Routing(**{name: values.pop(name) for name in Routing.__struct_fields__ if name in values})
    return Record(routing=routing, **values)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(NAMES, process=False)


def samples(metrics: Metrics) -> Iterator[tuple[str, dict[str, str], float]]:
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        for sample in family.samples:
            yield sample.name.removeprefix("pointsman_"), sample.labels, sample.value


def value(metrics: Metrics, name: str, **labels: str) -> float:
    found = [v for n, have, v in samples(metrics) if n == name and labels.items() <= have.items()]
    assert found, f"no sample {name}{labels}"
    return sum(found)


def absent(metrics: Metrics, name: str, **labels: str) -> bool:
    return not [v for n, have, v in samples(metrics) if n == name and labels.items() <= have.items() and v]


def test_a_request_is_counted_once_in_every_family_it_belongs_to(metrics: Metrics) -> None:
    metrics.finished(record())
    metrics.finished(record())
    labels = {"model_asked": "auto", "rule": "code", "target": "qwen-plus", "team": "shop", "code": "ok"}
    assert value(metrics, "requests_total", **labels) == 2
    assert value(metrics, "decisions_total", policy="default", rule="code", target="qwen-plus") == 2
    assert value(metrics, "request_duration_seconds_count", target="qwen-plus", stream="false") == 2
    assert value(metrics, "request_duration_seconds_sum") == pytest.approx(0.8)
    assert value(metrics, "time_to_first_event_seconds_sum") == pytest.approx(0.6)
    assert value(metrics, "gateway_overhead_seconds_sum", rule="code") == pytest.approx(0.0008)
    assert value(metrics, "cost_usd_total", team="shop", model="qwen3.5-plus") == pytest.approx(0.005)
    assert value(metrics, "unpriced_requests_total") == 0


def test_token_classes_do_not_overlap_so_that_their_sum_is_the_total(metrics: Metrics) -> None:
    metrics.finished(record())
    by_class = {have["class"]: v for n, have, v in samples(metrics) if n == "tokens_total"}
    assert by_class == {"input": 60, "cached": 40, "output": 30, "reasoning": 20}


def test_what_a_client_sends_never_becomes_a_label(metrics: Metrics) -> None:
    metrics.finished(record())
    series = len(list(samples(metrics)))
    metrics.finished(record(model_asked="gpt-4o-0"))
    grown = len(list(samples(metrics)))
    for n in range(500):
        metrics.finished(record(model_asked=f'evil"{n}\n', rule=f"r{n}", team=f"t{n}", code=f"c{n}", target=f"x{n}"))
        metrics.finished(record(model_asked=f"gpt-4o-{n}"))
    text = metrics.exposition().decode()
    assert "evil" not in text
    assert value(metrics, "requests_total", model_asked="other", rule="code") == 501
    assert value(metrics, "requests_total", model_asked="other", rule="other", code="other", target="other") == 500
    assert grown == series + 1
    assert len(list(samples(metrics))) < series * 3
    assert len(metrics._fast) == 1, "the look-up must not keep what a client chose"


def test_the_bucket_of_a_value_on_a_bound_is_the_bound_s(metrics: Metrics) -> None:
    metrics.finished(record(started_at=0.0, sent_at=0.0005, first_event_at=0.25, ended_at=0.5))
    assert value(metrics, "request_duration_seconds_bucket", le="0.5") == 1
    assert value(metrics, "request_duration_seconds_bucket", le="0.25") == 0
    assert value(metrics, "gateway_overhead_seconds_bucket", le="0.0005") == 1
    assert value(metrics, "gateway_overhead_seconds_bucket", le="0.0002") == 0


def test_what_is_beyond_the_last_bound_is_in_inf_only(metrics: Metrics) -> None:
    metrics.finished(record(ended_at=100.0 + 4000))
    last = str(DURATION_BUCKETS_S[-1])
    assert value(metrics, "request_duration_seconds_bucket", le=last) == 0
    assert value(metrics, "request_duration_seconds_bucket", le="+Inf") == 1


def test_a_refusal_has_a_decision_without_target_and_no_latency_upstream(metrics: Metrics) -> None:
    metrics.finished(
        record(status=403, code="policy_denied", chosen="", target="", model="", attempts=0, sent_at=0.0,
               first_event_at=0.0, usage=None, cost_nano=0, priced=False)
    )  # fmt: skip
    assert value(metrics, "refusals_total", code="policy_denied") == 1
    assert value(metrics, "decisions_total", rule="code", target="none") == 1
    assert value(metrics, "request_duration_seconds_count", target="none") == 1
    assert absent(metrics, "gateway_overhead_seconds_count")
    assert absent(metrics, "unpriced_requests_total")


def test_a_request_refused_before_its_decision_counts_no_decision(metrics: Metrics) -> None:
    metrics.finished(
        record(status=401, code="invalid_api_key", policy="", rule="", chosen="", target="", model="", attempts=0,
               sent_at=0.0, first_event_at=0.0, usage=None, priced=False)
    )  # fmt: skip
    assert value(metrics, "refusals_total", code="invalid_api_key") == 1
    assert absent(metrics, "decisions_total")


def test_an_answer_from_another_target_than_the_first_is_a_fallback(metrics: Metrics) -> None:
    metrics.finished(record(target="scout-eu", model="llama-4-scout", attempts=2, fallback_reason="reset"))
    metrics.finished(record(attempts=2))  # a stale connection, the same target
    assert value(metrics, "fallbacks_total", rule="code", chosen="qwen-plus", target="scout-eu", reason="reset") == 1
    assert value(metrics, "fallbacks_total") == 1
    assert value(metrics, "decisions_total", target="qwen-plus") == 2


@pytest.mark.parametrize(
    ("changes", "interrupted", "refused", "left"),
    [
        ({"stream": True, "code": "upstream_stream_interrupted"}, 1, 0, 0),
        ({"stream": True, "code": "upstream_unavailable", "first_event_at": 0.0}, 0, 0, 0),
        ({"stream": False, "code": "upstream_timeout"}, 0, 0, 0),
        ({"stream": True, "code": "client_gone"}, 0, 0, 1),
    ],
)
def test_only_a_stream_broken_after_its_first_event_counts_as_interrupted(
    metrics: Metrics, changes: dict[str, Any], interrupted: int, refused: int, left: int
) -> None:
    metrics.finished(record(**changes))
    assert absent(metrics, "stream_interrupted_total") == (not interrupted)
    assert absent(metrics, "refusals_total") == (not refused)
    assert value(metrics, "client_disconnect_total") == left


def test_attempts_unpriced_estimates_and_unasked_reasoning_are_counted(metrics: Metrics) -> None:
    metrics.attempt("scout-eu", Outcome.RATE_LIMITED)
    metrics.attempt("scout-eu", Outcome.RATE_LIMITED)
    metrics.finished(record(priced=False, thought_unasked=True, usage=Usage(1, 1, estimated=True)))
    assert value(metrics, "attempts_total", target="scout-eu", outcome="rate_limited") == 2
    assert value(metrics, "attempts_total", target="qwen-plus", outcome="ok") == 1
    assert value(metrics, "unpriced_requests_total", target="qwen-plus") == 1
    assert value(metrics, "thinking_violations_total", target="qwen-plus") == 1
    assert value(metrics, "estimated_usage_requests_total", target="qwen-plus") == 1


def test_counters_survive_a_reload_and_so_do_names_that_went(metrics: Metrics) -> None:
    metrics.finished(record())
    for _ in range(2):
        metrics.configure(Names(asked=frozenset({"auto"}), policies={"default": "fff"}))
    metrics.reloaded(True, at=1e9)
    metrics.reloaded(False, at=2e9)
    metrics.finished(record())  # was under way
    assert value(metrics, "requests_total", target="qwen-plus") == 2
    assert value(metrics, "policy_info", policy="default", digest="fff") == 1
    assert value(metrics, "config_reload_total", result="ok") == 1
    assert value(metrics, "config_reload_total", result="rejected") == 1
    assert value(metrics, "config_last_reload_success") == 0
    assert value(metrics, "config_last_reload_timestamp_seconds") == 1e9


def test_what_was_under_way_at_a_reload_counts_by_the_names_that_it_began_with(metrics: Metrics) -> None:
    for _ in range(2):  # it outlasts two
        metrics.configure(Names(asked=frozenset({"auto"}), policies={"default": "fff"}))
    metrics.finished(record())
    assert value(metrics, "cost_usd_total", target="qwen-plus", rule="code", team="shop", model="qwen3.5-plus") > 0
    assert [have["target"] for name, have, _ in samples(metrics) if name == "target_info"] == []


def test_a_new_digest_of_the_same_policy_goes_on_in_the_same_series(metrics: Metrics) -> None:
    metrics.finished(record())
    metrics.finished(record(policy="default@fff"))
    assert value(metrics, "decisions_total", policy="default", rule="code", target="qwen-plus") == 2


def test_gauges_come_from_the_process_as_it_is_at_the_scrape() -> None:
    metrics = Metrics(NAMES, build={"version": "1.2"})
    metrics.vitals = Vitals(
        inflight=3,
        queued=2,
        targets=({"target": "scout-eu", "state": "ejected", "thinking_doubted": True, "slow": ["fast"]},),
        endpoints=(EndpointNow("scout-eu", "http://10.0.0.7/v1", "ejected", 1, 256),),
        ejections={("scout-eu", "http://10.0.0.7/v1", "reset"): 4},
    )
    assert value(metrics, "inflight_requests") == 3
    assert value(metrics, "queue_requests") == 2
    assert value(metrics, "target_state", target="scout-eu", state="ejected") == 1
    assert value(metrics, "target_thinking_doubted", target="scout-eu") == 1
    assert value(metrics, "target_slow", target="scout-eu", latency="fast") == 1
    endpoint = {"target": "scout-eu", "endpoint": "http://10.0.0.7/v1"}
    assert value(metrics, "endpoint_inflight", **endpoint) == 1
    assert value(metrics, "endpoint_inflight_limit", **endpoint) == 256
    assert value(metrics, "endpoint_state", state="ejected", **endpoint) == 1
    assert value(metrics, "ejections_total", reason="reset", **endpoint) == 4
    assert value(metrics, "build_info", version="1.2") == 1
    assert b"process_resident_memory_bytes" in metrics.exposition()


def test_an_idle_gateway_already_exports_the_families_that_alerts_read(metrics: Metrics) -> None:
    assert value(metrics, "config_reload_total", result="rejected") == 0
    assert value(metrics, "attempts_total", target="scout-eu", outcome="ok") == 0
    assert value(metrics, "thinking_violations_total", target="scout-eu") == 0
    assert value(metrics, "client_disconnect_total") == 0


def test_a_request_that_named_its_target_counts_under_the_rule_pin(metrics: Metrics) -> None:
    metrics.finished(record(rule="pin"))
    assert value(metrics, "requests_total", rule="pin") == 1


def test_a_retry_counts_by_the_target_that_failed_and_how(metrics: Metrics) -> None:
    metrics.retry("scout-eu", Outcome.OVERLOADED)
    metrics.retry("scout-eu", Outcome.OVERLOADED)
    assert value(metrics, "retries_total", target="scout-eu", reason="overloaded") == 2


@pytest.mark.parametrize(
    ("changes", "observed"),
    [
        ({"stream": True, "first_event_at": 100.5, "ended_at": 101.5}, 1),
        ({"stream": False}, 0),
        ({"stream": True, "code": "upstream_stream_interrupted"}, 0),
        ({"stream": True, "usage": Usage(10, 1)}, 0),
        ({"stream": True, "usage": Usage(10, 11, estimated=True)}, 0),
        ({"stream": True, "client_slow": True}, 0),
        ({"stream": True, "usage": None}, 0),
    ],
)
def test_time_per_output_token_is_of_whole_streams_whose_tokens_are_known_and_whose_client_kept_up(
    metrics: Metrics, changes: dict[str, Any], observed: int
) -> None:
    metrics.finished(record(**({"usage": Usage(input=10, output=101)} | changes)))
    if not observed:
        assert absent(metrics, "time_per_output_token_seconds_count")
        return
    assert value(metrics, "time_per_output_token_seconds_count", target="qwen-plus") == 1
    assert value(metrics, "time_per_output_token_seconds_sum") == pytest.approx(0.01)


BASELINE = Baseline("big", Price((PriceTier(0, 2_000_000_000, 10_000_000_000, cached_input=500_000_000),), "test"))


def test_a_baseline_prices_the_same_tokens_of_requests_whose_own_cost_is_known() -> None:
    metrics = Metrics(replace(NAMES, baseline=BASELINE), process=False)
    metrics.finished(record(), record())  # 60 input, 40 cached, 50 output
    metrics.finished(record(priced=False), record(usage=None))
    would = (60 * 2.0 + 40 * 0.5 + 50 * 10.0) / 1e6
    assert value(metrics, "baseline_cost_usd_total", baseline="big", rule="code") == pytest.approx(2 * would)
    metrics.configure(NAMES)
    metrics.finished(record())
    assert value(metrics, "baseline_cost_usd_total") == pytest.approx(2 * would)


def test_without_a_baseline_nothing_is_compared(metrics: Metrics) -> None:
    metrics.finished(record())
    assert absent(metrics, "baseline_cost_usd_total")


def test_targets_are_told_as_configured_with_the_day_they_retire() -> None:
    facts = (
        TargetFacts("scout-eu", "llama-4-scout", "llama", "vllm-eu", "eu"),
        TargetFacts("qwen-plus", "qwen3.5-plus", "qwen", "alibaba", "", 1.8e9),
    )
    metrics = Metrics(replace(NAMES, facts=facts), process=False)
    assert value(metrics, "target_info", target="scout-eu", family="llama", backend="vllm-eu", region="eu") == 1
    assert value(metrics, "target_retires_timestamp_seconds", target="qwen-plus") == 1.8e9
    assert absent(metrics, "target_retires_timestamp_seconds", target="scout-eu")


@pytest.mark.parametrize(
    ("tier", "expected"),
    [
        (PriceTier(0, 2_000_000_000, 10_000_000_000), {"input": 2, "cached": 2, "output": 10, "reasoning": 10}),
        (
            PriceTier(0, 400_000_000, 2_400_000_000, cached_input=40_000_000, thinking_output=4_000_000_000),
            {"input": 0.4, "cached": 0.04, "output": 2.4, "reasoning": 4},
        ),
    ],
)
def test_a_target_s_price_is_told_by_class_so_that_tokens_can_be_priced_as_if_they_were_its(
    tier: PriceTier, expected: dict[str, float]
) -> None:
    price = Price((tier, PriceTier(200_000, 9_000_000_000, 9_000_000_000)), "test")
    facts = (
        TargetFacts("scout-eu", "llama-4-scout", "llama", "vllm-eu", "eu", None, price),
        TargetFacts("free", "llama-4-scout", "llama", "own", "eu"),
    )
    metrics = Metrics(replace(NAMES, facts=facts), process=False)
    for name, usd in expected.items():
        found = value(metrics, "target_token_price_usd", **{"target": "scout-eu", "class": name})
        assert found * 1e6 == pytest.approx(usd)
    assert absent(metrics, "target_token_price_usd", target="free")


def test_what_a_failed_attempt_cost_is_its_target_s_and_not_that_of_who_answered() -> None:
    names = replace(NAMES, baseline=Baseline("scout-eu", Price((PriceTier(0, 10**9, 10**9),), "test")))
    metrics = Metrics(names, process=False)
    dear = Spent(1, "scout-eu", "llama-4-scout", Usage(1_000, 10, estimated=True), 9_000)
    cheap = Spent(2, "qwen-plus", "qwen3.5-plus", Usage(100, 50, 40, 20), 500)
    metrics.finished(
        record(attempts=2, chosen="scout-eu", usage=Usage(1_100, 60, 40, 20, True), cost_nano=9_500, stream=True,
               spent=(dear, cheap)),
        record(),
    )  # fmt: skip
    tokens = {(have["target"], have["class"]): v for n, have, v in samples(metrics) if n == "tokens_total"}
    assert tokens == {
        ("scout-eu", "input"): 1_000, ("scout-eu", "cached"): 0, ("scout-eu", "output"): 10,
        ("scout-eu", "reasoning"): 0, ("qwen-plus", "input"): 120, ("qwen-plus", "cached"): 80,
        ("qwen-plus", "output"): 60, ("qwen-plus", "reasoning"): 40,
    }  # fmt: skip
    shared = {"rule": "code", "team": "shop", "policy": "default"}
    assert value(metrics, "cost_usd_total", target="scout-eu", model="llama-4-scout", **shared) == 9_000e-9
    assert value(metrics, "cost_usd_total", target="qwen-plus", **shared) == pytest.approx(2_500_500e-9)
    assert value(metrics, "baseline_cost_usd_total", target="scout-eu") == pytest.approx(1_010_000e-9)
    assert value(metrics, "baseline_cost_usd_total", target="qwen-plus") == pytest.approx(300_000e-9)
    assert value(metrics, "estimated_usage_requests_total", target="scout-eu") == 1
    assert value(metrics, "estimated_usage_requests_total", target="qwen-plus") == 0
    assert value(metrics, "unpriced_requests_total") == 0
    assert value(metrics, "time_per_output_token_seconds_sum") == pytest.approx(0.1 / 49)


def test_that_a_failed_attempt_had_no_price_is_told_of_its_target(metrics: Metrics) -> None:
    unknown = Spent(1, "scout-eu", "llama-4-scout", Usage(10), 0, priced=False)
    known = Spent(2, "qwen-plus", "qwen3.5-plus", Usage(10), 7)
    metrics.finished(record(attempts=2, usage=Usage(20), cost_nano=7, priced=False, spent=(unknown, known)))
    metrics.finished(record(attempts=1, code="upstream_timeout", usage=Usage(10), priced=False, cost_nano=0,
                            target="scout-eu", spent=(unknown,)))  # fmt: skip
    assert value(metrics, "unpriced_requests_total", target="scout-eu") == 2
    assert value(metrics, "unpriced_requests_total", target="qwen-plus") == 0
