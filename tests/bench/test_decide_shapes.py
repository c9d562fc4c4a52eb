"""`decide.py` times what it says: every shape is decided as it claims. Nothing is timed here."""

from __future__ import annotations

import decide as bench
import pytest

from gateway.core.reading.signals import EXPECTED


@pytest.mark.parametrize("shape", bench.SHAPES, ids=lambda shape: shape.name)
def test_every_shape_is_decided_as_it_says_and_reads_no_text(shape: bench.Shape) -> None:
    made = bench.prepare(shape)
    signals = made.signals()
    bench.decide(made.policy, signals, made.snapshot, pinned=made.pinned)
    assert not {"language", "target_language", "task", "difficulty"} & set(signals.consulted) - {EXPECTED}
    assert len(made.policy.rules) == 30
    assert len(made.policy.fleet.targets) == 40


def test_the_remembered_decision_is_found() -> None:
    assert bench.memo_hit(30, 40)() is not None
