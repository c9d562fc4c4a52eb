"""The progress bar: one line on a terminal, nothing anywhere else."""

from __future__ import annotations

import io

from gateway.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nothing_is_drawn_where_nobody_looks() -> None:
    out = io.StringIO()
    bar = Progress("work", out)
    bar.at(1, 2)
    bar.done()
    assert out.getvalue() == ""


def test_a_terminal_sees_one_line_that_is_wiped_at_the_end() -> None:
    out = Terminal()
    bar = Progress("work", out, clock=lambda: 1.0)
    bar.at(1, 2)
    assert out.getvalue() == "\rwork [###############               ]  50% of 2"
    bar.done()
    assert out.getvalue().endswith("\r")
    bar.done()


def test_it_is_drawn_at_most_ten_times_a_second() -> None:
    now = 0.0
    out = Terminal()
    bar = Progress("work", out, clock=lambda: now)
    for step in range(100):
        now = step / 100
        bar.at(step, 100)
    assert out.getvalue().count("\r") <= 11
