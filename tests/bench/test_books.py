"""`books.py` serves requests with and without books and limits and has a figure for each row. Nothing is timed here."""

from __future__ import annotations

import books
import pytest


def test_every_row_has_a_figure_and_they_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books, "BETWEEN", 240)
    found = books.measure(2)
    assert len(found) == len(books.ROWS)
    assert found[-1] == pytest.approx(sum(found[:-1]))
    assert found[1] > 0
