"""The timer wheel, turned by hand."""

from __future__ import annotations

import socket
import time
from typing import Any, cast

import pytest
import uvloop

from gateway.proxy.clocks import HELD_UP_S, NEVER, TICK_S, Timed, Wheel


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


def test_no_clock_runs_out_for_what_came_while_the_loop_stood_still() -> None:
    """On the loop that is served with: timers come before what can be read, in the same turn."""
    loop = uvloop.new_event_loop()
    made, alarm = Wheel(loop), Alarm()
    (ours, theirs), (busy, asks) = socket.socketpair(), socket.socketpair()
    read: list[bytes] = []

    def readable() -> None:
        read.append(ours.recv(64))
        alarm.due = NEVER

    def block() -> None:
        busy.recv(64)
        theirs.send(b"an event, in time")
        time.sleep(0.3 + HELD_UP_S + 2 * TICK_S)

    try:
        loop.add_reader(ours, readable)
        loop.add_reader(busy, block)
        made.start()
        made.arm(alarm, 0.3)
        asks.send(b"stand still")
        loop.call_later(0.3 + HELD_UP_S + 5 * TICK_S, loop.stop)
        loop.run_forever()
        assert (read, alarm.rang) == ([b"an event, in time"], [])
    finally:
        made.stop()
        loop.remove_reader(ours)
        loop.remove_reader(busy)
        loop.close()
        for one in (ours, theirs, busy, asks):
            one.close()


def test_a_loop_that_is_always_late_keeps_deadlines_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    class Still:
        def call_later(self, *_: object) -> None:
            """Nobody turns it."""

    made, alarm = Wheel(cast("Any", Still())), Alarm()
    at = made.now
    made.arm(alarm, 1.0)
    for _ in range(4):
        at += 2 * HELD_UP_S + TICK_S
        monkeypatch.setattr("gateway.proxy.clocks.time.monotonic", lambda now=at: now)
        made._run()
    assert len(alarm.rang) == 1
