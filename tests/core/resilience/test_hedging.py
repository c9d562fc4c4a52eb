"""When a second attempt may begin beside a first one."""

from __future__ import annotations

import random

from gateway.core.resilience.hedging import LEAST, SHARE, SOONEST_S, Hedge, HedgeBudget, Pace


def test_a_time_that_is_written_down_is_the_time() -> None:
    pace = Pace(Hedge(after_s=2.0))
    for _ in range(100):
        pace.heard(0.01)
    assert pace.after_s == 2.0


def test_a_percentile_is_known_from_some_answers_on_and_follows_them() -> None:
    pace = Pace(Hedge(percentile=95))
    dice = random.Random(1)
    for number in range(LEAST - 1):
        pace.heard(1.0 + number / 100)
        assert pace.after_s is None
    for _ in range(400):
        pace.heard(dice.uniform(1.0, 2.0))
    assert pace.after_s is not None
    assert 1.88 < pace.after_s < 2.0
    for _ in range(400):
        pace.heard(dice.uniform(5.0, 6.0))
    assert 5.88 < pace.after_s < 6.0


def test_a_fast_target_is_not_asked_twice_for_everything() -> None:
    pace = Pace(Hedge(percentile=50))
    for _ in range(100):
        pace.heard(0.004)
    assert pace.after_s == SOONEST_S


def test_of_fifty_requests_one_may_have_a_hedge_and_few_are_saved_up() -> None:
    budget = HedgeBudget()
    assert not budget.take()
    taken = 0
    for _ in range(1_000):
        budget.asked()
        taken += budget.take()
    assert taken <= SHARE * 1_000
    assert taken >= SHARE * 1_000 - 1
    for _ in range(100_000):
        budget.asked()
    assert [budget.take() for _ in range(5)] == [True, True, True, False, False]
