"""The progress bar: one line on a terminal, nothing anywhere else."""

from __future__ import annotations

import io
import threading

import pytest

from gateway.progress import Progress, over, waiting


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


def test_what_is_done_soon_is_not_shown() -> None:
    now = 0.0
    out = Terminal()
    bar = Progress("work", out, clock=lambda: now, after_s=0.5)
    bar.at(1, 2)
    assert out.getvalue() == ""
    now = 0.6
    bar.at(1, 2)
    assert "50% of 2" in out.getvalue()


def test_a_bar_over_items_is_wiped_also_when_nobody_takes_the_rest() -> None:
    out = Terminal()
    items = over("abc", "work", out, after_s=0)
    assert next(items) == "a"
    assert "0% of 3" in out.getvalue()
    items.close()
    assert out.getvalue().endswith(" \r")
    assert list(over("abc", "work", io.StringIO())) == ["a", "b", "c"]


def test_what_is_waited_for_is_told_after_a_moment_and_wiped() -> None:
    class Seen(Terminal):
        def flush(self) -> None:
            told.set()

    told = threading.Event()
    out = Seen()
    with waiting("reading", out, after_s=0.001):
        assert told.wait(10)
        assert out.getvalue() == "\rreading ..."
    assert out.getvalue().endswith("\r           \r")


@pytest.mark.parametrize("out", [io.StringIO(), Terminal()])
def test_a_wait_that_is_short_or_that_nobody_watches_is_not_told(out: io.StringIO) -> None:
    with waiting("reading", out, after_s=60):
        pass
    assert "reading" not in out.getvalue()
