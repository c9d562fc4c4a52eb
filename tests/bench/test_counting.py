"""`metrics.py` measures what it says. Nothing is timed here."""

from __future__ import annotations

import random
from dataclasses import replace

import metrics
import pytest


def test_every_kind_is_another() -> None:
    kinds = metrics.mixed(1)
    of = {(one.target, one.rule, one.team) for one in kinds}
    assert len(of) == len(kinds) == metrics.TARGETS * metrics.RULES * metrics.TEAMS
    assert sum(one.stream for one in kinds) * 2 == len(kinds)


@pytest.mark.parametrize("baseline", [None, metrics.BASELINE])
def test_counting_and_scraping_end_with_a_figure(monkeypatch: pytest.MonkeyPatch, baseline: object) -> None:
    monkeypatch.setattr(metrics, "ROUNDS", 5)
    dice = random.Random(1)
    names = replace(metrics.NAMES, baseline=baseline)
    assert metrics.counting(metrics.alike(stream=True), names, dice) > 0
    took, longest, series, size = metrics.scraping(metrics.mixed(1_000), dice)
    assert took >= longest > 0
    assert series > 500
    assert size > 50 * series
