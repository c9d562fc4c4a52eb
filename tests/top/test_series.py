"""Counters and buckets of two scrapes, as Prometheus reads them."""

from __future__ import annotations

import math

import pytest

from gateway.top.series import Scrape, Window, added, increase, named, parse, quantile

A = ("pointsman_requests_total", (("target", "a"),))
B = ("pointsman_requests_total", (("target", "b"),))


def scrape(at: float, started: float = 1.0, **counters: float) -> Scrape:
    return Scrape(at, started, {{"a": A, "b": B}[name]: value for name, value in counters.items()}, {})


def test_what_a_gateway_exports_is_read_and_nothing_else() -> None:
    text = """\
# TYPE python_info gauge
python_info{version="3"} 1
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1700000000.5
# TYPE pointsman_requests_total counter
pointsman_requests_total{target="a",code="ok"} 3
pointsman_requests_total{target="b\\n\\x1b",code="ok"} NaN
# TYPE pointsman_inflight_requests gauge
pointsman_inflight_requests 2
# TYPE pointsman_t_seconds histogram
pointsman_t_seconds_bucket{le="1.0"} 0
pointsman_t_seconds_bucket{le="+Inf"} 4
pointsman_t_seconds_sum 9
pointsman_t_seconds_count 4
"""
    found = parse(text, 5.0)
    assert (found.at, found.started) == (5.0, 1700000000.5)
    assert list(named(found.counters, "requests_total")) == [({"code": "ok", "target": "a"}, 3.0)]
    assert list(named(found.counters, "t_seconds_bucket")) == [({"le": "1.0"}, 0.0), ({"le": "+Inf"}, 4.0)]
    assert list(named(found.gauges, "inflight_requests")) == [({}, 2.0)]


@pytest.mark.parametrize("text", ["", "<html>", "# TYPE other_total counter\nother_total 1\n", "pointsman_x{"])
def test_what_is_no_gateway_s_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse(text, 0.0)


@pytest.mark.parametrize(
    ("before", "after", "grown"),
    [
        (scrape(0, a=5), scrape(1, a=7), {A: 2}),
        (scrape(0, a=5), scrape(1, a=5), {}),
        (scrape(0, a=5), scrape(1, a=5, b=3), {A: 0, B: 3}),  # a series appears when it is first counted
        (scrape(0, a=5), scrape(1, a=2), {A: 2}),  # it has begun again
        (scrape(0, started=1, a=5), scrape(1, started=2, a=9), {A: 9}),  # and is already past what it was
        (scrape(0, a=5, b=1), scrape(1, a=6), {A: 1}),  # one that is gone has not grown
    ],
)
def test_counters_grow_and_begin_again(before: Scrape, after: Scrape, grown: dict[object, float]) -> None:
    assert increase(before, after) == {series: more for series, more in grown.items() if more}


def test_a_bucket_that_stood_still_is_kept_for_where_the_next_begins() -> None:
    low, high = (("pointsman_t_bucket", (("le", bound),)) for bound in ("1.0", "2.0"))
    before = Scrape(0, 1, {low: 4.0, high: 4.0}, {})
    assert increase(before, Scrape(1, 1, {low: 4.0, high: 9.0}, {})) == {low: 0.0, high: 5.0}


def test_a_window_forgets_what_is_older_than_it() -> None:
    window = Window(4.0)
    assert (window.seconds, window.rates()) == (0.0, {})
    window.add(scrape(0, a=100))
    assert (window.seconds, window.rates()) == (0.0, {}), "one scrape says nothing of rates"
    window.add(scrape(2, a=110))
    assert (window.seconds, window.rates()) == (2.0, {A: 5.0})
    window.add(scrape(4, a=112))
    assert (window.seconds, window.rates()) == (4.0, {A: 3.0})
    window.add(scrape(6, a=112))
    assert (window.seconds, window.rates()) == (4.0, {A: 0.5})
    window.add(scrape(100, a=208))
    assert (window.seconds, window.rates()) == (94.0, {A: 96 / 94}), "longer where the scrapes are further apart"


def test_a_restart_within_the_window_counts_both_lives() -> None:
    window = Window(60.0)
    for one in (scrape(0, started=1, a=10), scrape(1, started=1, a=20), scrape(2, started=2, a=4)):
        window.add(one)
    assert window.rates() == {A: 7.0}


def test_gateways_are_summed_by_name_and_labels() -> None:
    assert added([{A: 1.0, B: 2.0}, {A: 3.0}, {}]) == {A: 4.0, B: 2.0}


@pytest.mark.parametrize(
    ("share", "buckets", "value"),
    [
        (0.5, {}, None),
        (0.5, {1.0: 0, math.inf: 0}, None),
        (0.5, {1.0: 3.0}, None),  # without +Inf it is no histogram
        (0.5, {1.0: 4, math.inf: 4}, 0.5),
        (0.5, {1.0: 1, 2.0: 2, math.inf: 2}, 1.0),
        (0.95, {0.1: 0, 0.5: 10, 1.0: 10, math.inf: 10}, 0.1 + 0.4 * 0.95),
        (0.95, {0.1: 0, 0.5: 1, math.inf: 10}, 0.5),  # beyond the last bound nothing is known
        (0.0, {1.0: 0, 2.0: 4, math.inf: 4}, 1.0),
    ],
)
def test_percentiles_are_interpolated_within_a_bucket(
    share: float, buckets: dict[float, float], value: float | None
) -> None:
    assert quantile(share, buckets) == pytest.approx(value) if value is not None else quantile(share, buckets) is None
