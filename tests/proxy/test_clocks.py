"""The timer wheel, turned by hand."""

from __future__ import annotations

from typing import Any, cast

import pytest

from gateway.proxy.clocks import NEVER, TICK_S, Timed, Wheel


class Alarm(Timed):
    def __init__(self) -> None:
        super().__init__()
        self.rang: list[float] = []

    def on_due(self, now: float) -> None:
        self.rang.append(now)


def wheel() -> Wheel:
    return Wheel(cast("Any", None))  # the loop only ever calls `advance`, and here the test does


def turn(made: Wheel, seconds: float) -> None:
    end = made.now + seconds
    while made.now < end - 1e-9:
        made.advance(made.now + TICK_S)


def test_an_alarm_rings_once_and_not_early() -> None:
    made, alarm = wheel(), Alarm()
    start = made.now
    made.arm(alarm, 1.0)
    turn(made, 30)
    assert len(alarm.rang) == 1
    assert 1.0 <= alarm.rang[0] - start <= 1.0 + 3 * TICK_S


def test_a_later_deadline_replaces_an_earlier_one() -> None:
    made, alarm = wheel(), Alarm()
    start = made.now
    made.arm(alarm, 1.0)
    made.arm(alarm, 20.0)
    turn(made, 60)
    assert [round(at - start) for at in alarm.rang] == [20]


def test_an_earlier_deadline_replaces_a_later_one() -> None:
    made, alarm = wheel(), Alarm()
    start = made.now
    made.arm(alarm, 120.0)
    made.arm(alarm, 2.0)
    turn(made, 200)
    assert [round(at - start) for at in alarm.rang] == [2]


def test_pushing_a_deadline_by_a_plain_store_is_enough() -> None:
    made, alarm = wheel(), Alarm()
    start = made.now
    made.arm(alarm, 1.0)
    alarm.due = made.now + 10.0
    turn(made, 30)
    assert [round(at - start) for at in alarm.rang] == [10]


def test_a_disarmed_alarm_is_silent_and_let_go_of() -> None:
    made, alarm = wheel(), Alarm()
    made.arm(alarm, 600.0)
    alarm.due = NEVER
    turn(made, 10)
    assert alarm.rang == []
    assert not any(made._slots.values())


def test_a_loop_that_slept_catches_up() -> None:
    made, alarm = wheel(), Alarm()
    made.arm(alarm, 1.0)
    made.advance(made.now + 100)
    assert len(alarm.rang) == 1


def test_a_defect_at_one_deadline_costs_no_other_its_own(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Alarm):
        def on_due(self, now: float) -> None:
            super().on_due(now)
            raise ZeroDivisionError

    made, alarms = wheel(), [Alarm(), Broken(), Alarm()]
    for alarm in alarms:
        made.arm(alarm, 1.0)
    turn(made, 2)
    for alarm in alarms:
        made.arm(alarm, 1.0)
    turn(made, 2)
    assert [len(alarm.rang) for alarm in alarms] == [2, 2, 2]
    assert [record.exc_info is not None for record in caplog.records] == [True, True]
