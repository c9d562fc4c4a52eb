"""The watchdog: what a loop that stood still means for readiness and metrics."""

from __future__ import annotations

import logging
import time
import weakref

import pytest

from gateway.proxy import clocks, watchdog
from gateway.proxy.clocks import Wheel
from gateway.proxy.watchdog import RECOVERY_S, UNREADY_S, Watchdog
from tests.harness import eventually


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000.0
        for module in (clocks, watchdog):
            monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


class Loop:
    def call_later(self, *_: object) -> None:
        """Nobody turns it."""


def counted(dog: Watchdog) -> float:
    (told,) = dog.read()
    return float("".join(told.blocks(openmetrics=False)).split()[-1])


def test_a_tick_that_comes_late_is_counted_from_one_second_on(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    wheel = Wheel(Loop())  # type: ignore[arg-type]
    dog = Watchdog(wheel)
    for later_s, total_s in ((0.1, 0), (1.05, 0), (2.1, 2.0), (0.1, 2.0), (3.1, 5.0)):
        clock.now += later_s
        wheel._run()
        assert counted(dog) == pytest.approx(total_s)


def test_it_is_unready_only_from_five_seconds_on_and_for_a_while_after(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    wheel = Wheel(Loop())  # type: ignore[arg-type]
    dog = Watchdog(wheel)
    clock.now += UNREADY_S - 0.1
    assert dog.ready
    wheel._run()
    assert dog.ready
    clock.now += UNREADY_S + 0.2
    assert not dog.ready, "the tick that would tell has not come yet"
    wheel._run()
    assert not dog.ready
    for _ in range(int(RECOVERY_S / 0.1) + 1):
        clock.now += 0.1
        wheel._run()
    assert dog.ready


class Body:
    """What a request that held up the loop had in its hands."""


def test_what_held_up_the_loop_is_let_go_when_it_returns(caplog: pytest.LogCaptureFixture) -> None:
    wheel = Wheel(Loop())  # type: ignore[arg-type]
    dog = Watchdog(wheel)

    def blocks() -> weakref.ref[Body]:
        body = Body()
        wheel.soon = time.monotonic() - 2
        ends_at = time.monotonic() + 10
        while not caplog.records and time.monotonic() < ends_at:
            time.sleep(0.01)
        wheel.soon = time.monotonic() + 60
        return weakref.ref(body)

    with caplog.at_level(logging.WARNING):
        dog.start()
        held = blocks()
        assert any("in blocks" in line for line in caplog.records[0].lines)  # type: ignore[attr-defined]
        assert eventually(lambda: held() is None, 5)
        dog.stop()


def test_where_it_stands_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    wheel = Wheel(Loop())  # type: ignore[arg-type]
    dog = Watchdog(wheel)
    with caplog.at_level(logging.WARNING):
        dog.start()
        wheel.soon = time.monotonic() - 2
        ends_at = time.monotonic() + 10
        while not caplog.records and time.monotonic() < ends_at:
            time.sleep(0.01)
        dog._ending.wait(3 * watchdog._LOOK_S)
        dog.stop()
    (record,) = caplog.records
    assert any("test_where_it_stands_is_told_once" in line for line in record.lines)  # type: ignore[attr-defined]
