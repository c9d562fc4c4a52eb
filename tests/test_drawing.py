"""The pictures of dashboards: drawn whole whatever Prometheus answers, and those in docs/ are of today's panels."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.e2e import drawing
from tests.e2e.dashboards import BOARDS, panels
from tests.e2e.drawing import Drawn, Series
from tests.e2e.pictures import CAPTION, legend

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "pictures"


def answers(panel: dict[str, Any], *values: float) -> Drawn:
    """Two series for each question, of the values one second after another."""
    named = {"team": "a <b> & c", "le": "0.1"}
    points = [(float(at), value) for at, value in enumerate(values)]
    series = [
        Series({**named, "le": bound}, target["refId"], legend(target["legendFormat"], named), points)
        for target in panel["targets"]
        for bound in ("0.1", "0.5")
    ]
    return Drawn(panel, series if points else [], 0.0, max(1.0, len(values) - 1.0))


@pytest.mark.parametrize("board", BOARDS)
@pytest.mark.parametrize("values", [(), (0.0,), (1.0, 3.0, 2.0), (-5.0, 1e12)])
def test_every_panel_of_a_dashboard_is_drawn_whatever_it_holds(board: str, values: tuple[float, ...]) -> None:
    of_states = [max(0.0, min(5.0, value)) for value in values]
    drawn = {
        panel["id"]: answers(panel, *(of_states if panel["type"] == "state-timeline" else values))
        for panel in panels(board)
    }
    made = drawing.dashboard(BOARDS[board], drawn, CAPTION)
    words = [one.text for one in ElementTree.fromstring(made).iter("{http://www.w3.org/2000/svg}text")]
    assert words[:2] == [BOARDS[board]["title"], CAPTION]
    assert words.count("no data") == (0 if values else len(drawn))
    assert not re.search(r"nan|inf", re.sub(r"<text.*?</text>", "", made))


def test_values_are_written_for_people() -> None:
    for value, unit, said in (
        (0.9951, "percentunit", "99.5%"), (-0.0321, "currencyUSD", "-$0.0321"), (0.00042, "s", "420 µs"),
        (7200, "s", "2 h"), (0, "s", "0 µs"), (75_000_000, "bytes", "75 MB"), (12, "reqps", "12/s"),
        (math.nan, "s", "-"), (101_726, "short", "101726"), (1, "bool_yes_no", "yes"), (19.5, "d", "19.5 d"),
    ):  # fmt: skip
        assert drawing.written(value, unit) == said


@pytest.mark.parametrize("board", BOARDS)
def test_the_pictures_in_docs_are_of_today_s_panels(board: str) -> None:
    picture = (PICTURES / f"{board}.svg").read_text("utf-8")
    assert len(picture) < 150_000
    words = {one.text for one in ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")}
    assert CAPTION in words
    for panel in panels(board):
        title = drawing.cut(panel["title"], panel["gridPos"]["w"] * drawing.CELL - 20, 12)
        assert title in words, "run: python -m tests.e2e.pictures"
