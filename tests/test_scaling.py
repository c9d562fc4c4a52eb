"""The simulation behind deploy/SCALING.md: what it must get right, and that the page is what it prints."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from deploy import scaling

PAGE = Path(scaling.__file__).with_name("SCALING.md")


def test_the_page_holds_what_the_simulation_prints(capsys: pytest.CaptureFixture[str]) -> None:
    scaling.main([])
    printed = capsys.readouterr().out.strip()
    assert printed in PAGE.read_text("utf-8"), "run: python -m deploy.scaling"


@pytest.mark.parametrize("use", [0.2, 0.5, 0.8])
def test_a_queue_waits_as_theory_says(use: float) -> None:
    """M/D/1: the mean wait in line is u / (2 (1 - u)) services; the 99th percentile lies above it."""
    dice = random.Random(3)
    arrivals = list(scaling.poisson(use * 1_000, 60, dice))
    found, slowest = scaling.queue(arrivals, 0.001)
    assert found == pytest.approx(use, rel=0.03)
    assert slowest > 0.001 * (1 + use / (2 * (1 - use)))
    assert scaling.queue([0.0, 1.0, 2.0], 0.25) == (0.375, 0.25)
    assert scaling.waited(1.2, 5.0) == "grows"


def test_one_replica_alone_lets_all_of_a_limit_through_and_many_never_more() -> None:
    dice = random.Random(4)
    assert scaling.admitted(1, 600, "random", dice) == pytest.approx(1, rel=0.05)
    assert scaling.admitted(10, 600, "one", dice) == pytest.approx(0.1, rel=0.1)
    assert scaling.admitted(100, 600, "random", dice) <= 1.01


@pytest.mark.parametrize("replicas", [1, 10, 100])
def test_slices_settle_where_each_is_its_share_of_what_the_others_leave(replicas: int) -> None:
    share = 0.01
    settled = replicas * share / (1 + share * (replicas - 1))
    assert scaling.leased(replicas, share) == pytest.approx(settled, rel=0.1)


def test_a_statement_takes_as_long_as_was_measured() -> None:
    inputs = scaling.Inputs()
    assert inputs.statement_s(10) == pytest.approx(1 / inputs.statements_per_s_of_10_entries)
    assert inputs.statement_s(250) == pytest.approx(250 / inputs.entries_per_s_catching_up)
