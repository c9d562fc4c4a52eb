"""Draws a dashboard's panels as SVG from the results of their queries: enough to see what they hold, no Grafana.

Nothing is asked here: a `Drawn` brings a panel and what Prometheus answered. Coordinates are whole pixels, so that
files stay small.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Any

WIDTH, CELL, ROW, GAP = 1200, 50, 26, 6
COLOURS = ("#3b6fb6", "#d9822b", "#3f9b57", "#c0413f", "#7e5fb0", "#8c6a4f", "#d06fa8", "#6f7680", "#a8a031", "#2fa3b5")
NAMED = {"green": "#2e8b4f", "yellow": "#d6a400", "orange": "#d9822b", "red": "#c0413f", "blue": "#3b6fb6"}
INK, FAINT, LINE = "#24292f", "#6b7280", "#e3e6ea"
MOST_SERIES = 9

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # x, y, width, height


@dataclass(frozen=True)
class Series:
    """One line of an answer: its labels, which question it is of, its legend, and (Unix time, value)."""

    labels: dict[str, str]
    ask: str
    name: str
    points: list[Point]

    @property
    def last(self) -> float:
        """The newest value."""
        return self.points[-1][1] if self.points else math.nan


@dataclass(frozen=True)
class Drawn:
    """A panel and what there is to draw in it, over a time."""

    panel: dict[str, Any]
    series: list[Series]
    since: float
    until: float

    @property
    def unit(self) -> str:
        """How its values are written."""
        return str(self.panel["fieldConfig"]["defaults"].get("unit", "short"))


def written(value: float, unit: str) -> str:
    """A value as a person reads it."""
    if math.isnan(value) or math.isinf(value):
        return "-"
    if unit == "percentunit":
        return f"{value:.1%}" if abs(value) < 10 else f"{value:.0%}"
    if unit == "currencyUSD":
        return f"{'-' if value < 0 else ''}${_digits(abs(value))}"
    if unit == "s":
        return _scaled(value, (("d", 86400), ("h", 3600), ("min", 60), ("s", 1), ("ms", 1e-3), ("µs", 1e-6)))
    if unit == "bytes":
        return _scaled(value, (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1)))
    if unit == "dateTimeFromNow":
        return datetime.fromtimestamp(value / 1000, UTC).strftime("%H:%M:%S UTC")
    if unit == "bool_yes_no":
        return "yes" if value else "no"
    return _digits(value) + {"reqps": "/s", "d": " d"}.get(unit, "")


def _digits(value: float) -> str:
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _scaled(value: float, scales: Sequence[tuple[str, float]]) -> str:
    name, size = next((one for one in scales if abs(value) >= one[1]), scales[-1])
    return f"{_digits(value / size)} {name}"


def text(x: float, y: float, said: str, size: int = 11, colour: str = INK, more: str = "") -> str:
    """Words; `more` are further attributes."""
    return f'<text x="{round(x)}" y="{round(y)}" font-size="{size}" fill="{colour}"{more}>{escape(said)}</text>'


def _box(x: float, y: float, w: float, h: float, colour: str, more: str = "") -> str:
    return f'<rect x="{x:.0f}" y="{y:.0f}" width="{w:.0f}" height="{h:.0f}" fill="{colour}"{more}/>'


def cut(said: str, width: float, size: int = 11) -> str:
    """As much of it as fits."""
    most = max(4, int(width / (size * 0.6)))
    return said if len(said) <= most else said[: most - 1] + "…"


def dashboard(made: dict[str, Any], drawn: dict[int, Drawn], caption: str) -> str:
    """All panels of a dashboard, where Grafana would have them, as a whole SVG file."""
    parts, bottom = [], 0.0
    for panel in made["panels"]:
        at = panel["gridPos"]
        x, y, w, h = at["x"] * CELL, 64 + at["y"] * ROW, at["w"] * CELL, at["h"] * ROW
        bottom = max(bottom, y + h)
        if panel["type"] == "row":
            parts.append(text(x + 4, y + 18, panel["title"], 14, INK, ' font-weight="600"'))
            continue
        parts.append(_box(x + 2, y + 2, w - 4, h - 4, "#fff", f' rx="3" stroke="{LINE}"'))
        parts.append(text(x + 10, y + 18, cut(panel["title"], w - 20, 12), 12, INK, ' font-weight="600"'))
        parts.extend(_inside(drawn[panel["id"]], x + 10, y + 24, w - 20, h - 32))
    head = [
        text(6, 24, made["title"], 18, INK, ' font-weight="700"'),
        text(6, 46, caption, 12, FAINT),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 8:.0f}" width="{WIDTH}" '
        f'font-family="system-ui, Segoe UI, Helvetica, Arial, sans-serif"><title>{escape(made["title"])}</title>'
        f'<rect width="100%" height="100%" fill="#f6f7f9"/>{"".join(head + parts)}</svg>\n'
    )


def _inside(drawn: Drawn, x: float, y: float, w: float, h: float) -> Iterator[str]:
    if not any(series.points for series in drawn.series):
        yield text(x + w / 2, y + h / 2, "no data", 12, FAINT, ' text-anchor="middle"')
        return
    kind = drawn.panel["type"]
    how = {"stat": _stat, "bargauge": _bars, "table": _table, "heatmap": _heat, "state-timeline": _states}
    yield from how.get(kind, _graph)(drawn, x, y, w, h)


def _colour(drawn: Drawn, value: float, otherwise: str) -> str:
    steps = drawn.panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", [])
    found = otherwise
    for step in steps:
        if step["value"] is None or value >= step["value"]:
            found = NAMED.get(step["color"], step["color"])
    return found


def _stat(drawn: Drawn, x: float, y: float, w: float, h: float) -> Iterator[str]:
    shown = drawn.series[:3]
    each = w / len(shown)
    for place, series in enumerate(shown):
        values = [value for _, value in series.points]
        middle = x + each * (place + 0.5)
        if len(values) > 2:
            box = (x + each * place, y + h * 0.55, each, h * 0.42)
            yield _line(series.points, drawn, box, (0.0, max(values) or 1.0), LINE)
        size = int(min(30, h * 0.42, each / 4.2))
        said = written(series.last, drawn.unit)
        bold = ' text-anchor="middle" font-weight="600"'
        yield text(middle, y + h * 0.5, said, size, _colour(drawn, series.last, INK), bold)
        if len(shown) > 1:
            yield text(middle, y + h * 0.5 + 18, series.name, 11, FAINT, ' text-anchor="middle"')


def _line(points: list[Point], drawn: Drawn, box: Box, scale: Point, colour: str) -> str:
    where = " ".join(f"{px:.0f},{py:.0f}" for px, py in _placed(points, drawn, box, scale))
    return f'<polyline points="{where}" fill="none" stroke="{colour}" stroke-width="1.3"/>'


def _placed(points: list[Point], drawn: Drawn, box: Box, scale: Point) -> Iterator[Point]:
    x, y, w, h = box
    low, high = scale
    for at, value in points:
        share = min(1.0, max(0.0, (value - low) / (high - low or 1)))
        yield x + w * (at - drawn.since) / (drawn.until - drawn.since), y + h * (1 - share)


def _graph(drawn: Drawn, x: float, y: float, w: float, h: float) -> Iterator[str]:
    """Lines, or areas upon each other, with a legend of the largest below."""
    stacked = drawn.panel["fieldConfig"]["defaults"]["custom"].get("stacking", {}).get("mode") == "normal"
    ranked = sorted(drawn.series, key=lambda one: -max(value for _, value in one.points))
    shown = [one for one in drawn.series if one in ranked[:MOST_SERIES]]
    legend = list(_legend(shown, x, y + h, w, len(ranked) - len(shown)))
    rows = legend.pop(0) if legend else "0"
    box = (x + 46, y + 4, w - 50, h - 10 - 14 * int(rows))
    values = [value for one in shown for _, value in one.points]
    stack = _stacked(shown) if stacked else {}
    high = max((value for tops in stack.values() for _, value in tops), default=0.0) if stacked else max(values)
    low = min(0.0, *values) if values else 0.0
    high = high if high > low else low + 1
    for tick in range(3):
        value = low + (high - low) * tick / 2
        ty = box[1] + box[3] * (1 - tick / 2)
        yield f'<path d="M{box[0]:.0f} {ty:.0f}h{box[2]:.0f}" stroke="{LINE}"/>'
        yield text(box[0] - 4, ty + 4, written(value, drawn.unit), 10, FAINT, ' text-anchor="end"')
    for place, one in enumerate(shown):
        colour = COLOURS[place % len(COLOURS)]
        if stacked:
            top = list(_placed(stack[place], drawn, box, (low, high)))
            below = stack.get(place - 1) or [(at, 0.0) for at, _ in stack[place]]
            bottom = list(_placed(below, drawn, box, (low, high)))
            where = " ".join(f"{px:.0f},{py:.0f}" for px, py in [*top, *reversed(bottom)])
            yield f'<polygon points="{where}" fill="{colour}" fill-opacity=".55" stroke="{colour}" stroke-width=".7"/>'
        else:
            yield _line(one.points, drawn, box, (low, high), colour)
    yield from legend


def _stacked(shown: list[Series]) -> dict[int, list[Point]]:
    """The upper edge of each area: every series upon those before it, at all times that any of them has."""
    times = sorted({at for one in shown for at, _ in one.points})
    sums = dict.fromkeys(times, 0.0)
    found = {}
    for place, one in enumerate(shown):
        has = dict(one.points)
        sums = {at: total + has.get(at, 0.0) for at, total in sums.items()}
        found[place] = list(sums.items())
    return found


def _legend(shown: list[Series], x: float, bottom: float, w: float, more: int) -> Iterator[str]:
    """How many rows there are, then the words."""
    names = [one.name for one in shown] + ([f"and {more} more"] if more > 0 else [])
    if len(names) == 1 and not names[0]:
        return
    rows: list[list[tuple[float, str, str]]] = [[]]
    at = 0.0
    for place, name in enumerate(names):
        said = cut(name, w - 20, 10)
        wide = 16 + 5.6 * len(said)
        if at and at + wide > w:
            rows.append([])
            at = 0.0
        rows[-1].append((at, said, COLOURS[place % len(COLOURS)] if place < len(shown) else "none"))
        at += wide + 6
    rows = rows[:3]
    yield str(len(rows))
    for number, row in enumerate(rows):
        y = bottom - 14 * (len(rows) - 1 - number) + 2
        for px, said, colour in row:
            yield _box(x + px, y - 8, 9, 9, colour)
            yield text(x + px + 12, y, said, 10)


def _bars(drawn: Drawn, x: float, y: float, w: float, h: float) -> Iterator[str]:
    rows = drawn.series[: max(1, int(h / 18))]
    high = max((one.last for one in rows if not math.isnan(one.last)), default=0) or 1
    wide = w * 0.45
    for place, one in enumerate(rows):
        ty = y + 6 + place * 18
        length = max(1, (w - wide - 64) * max(0.0, one.last) / high)
        yield text(x, ty + 11, cut(one.name, wide - 8), 11)
        yield _box(x + wide, ty + 1, length, 12, _colour(drawn, one.last, COLOURS[0]), ' fill-opacity=".75"')
        yield text(x + wide + length + 4, ty + 11, written(one.last, drawn.unit), 11)


def _table(drawn: Drawn, x: float, y: float, w: float, h: float) -> Iterator[str]:
    columns, rows = cells(drawn)
    each = w / len(columns)
    for place, column in enumerate(columns):
        yield text(x + each * place, y + 12, cut(column, each - 6), 11, FAINT)
    yield f'<path d="M{x:.0f} {y + 17:.0f}h{w:.0f}" stroke="{LINE}"/>'
    for number, row in enumerate(rows[: max(1, int((h - 22) / 16))]):
        for place, said in enumerate(row):
            yield text(x + each * place, y + 31 + number * 16, cut(said, each - 6), 11)


def cells(drawn: Drawn) -> tuple[list[str], list[list[str]]]:
    """A table's heading and rows, as its transformations make them: values of several questions beside each other."""
    transformations = drawn.panel.get("transformations", [])
    [options] = [one["options"] for one in transformations if one["id"] == "organize"]
    units = {
        override["matcher"]["options"]: override["properties"][0]["value"]
        for override in drawn.panel["fieldConfig"].get("overrides", [])
    }
    hidden = options["excludeByName"]
    asks = [target["refId"] for target in drawn.panel["targets"]]
    values = {ask: "Value" if len(asks) == 1 else f"Value #{ask}" for ask in asks}
    headings = [options["renameByName"].get(values[ask], values[ask]) for ask in asks if not hidden.get(values[ask])]
    names = sorted({name for one in drawn.series for name in one.labels} - set(hidden))
    rows: dict[tuple[str, ...], dict[str, float]] = {}
    for one in drawn.series:
        rows.setdefault(tuple(one.labels.get(name, "") for name in names), {})[values[one.ask]] = one.last
    shown = [values[ask] for ask in asks if not hidden.get(values[ask])]
    first = shown[0] if shown else ""
    ordered = sorted(rows.items(), key=lambda row: -row[1].get(first, -math.inf) if first else 0)
    columns = [(name, units.get(heading, "short")) for name, heading in zip(shown, headings, strict=True)]
    made = [[*labels, *(written(had.get(name, math.nan), unit) for name, unit in columns)] for labels, had in ordered]
    return names + headings, made


def _heat(drawn: Drawn, x: float, y: float, w: float, h: float) -> Iterator[str]:
    """Buckets upwards, time to the right, the darker the more; `le` counts all below, so neighbours are subtracted."""
    bounds = sorted((one for one in drawn.series if one.labels.get("le") not in (None, "+Inf")), key=_bound)
    columns: dict[float, list[float]] = {}
    for one in bounds:
        for at, value in one.points:
            columns.setdefault(at, []).append(value)
    whole = {at: column for at, column in columns.items() if len(column) == len(bounds)}
    counts = {
        at: [max(0.0, b - a) for a, b in zip([0.0, *column], column, strict=False)] for at, column in whole.items()
    }
    used = [row for row in range(len(bounds)) if any(column[row] > 0 for column in counts.values())]
    if not used:
        return
    low, high = min(used), max(used) + 1
    most = max(value for column in counts.values() for value in column)
    box = (x + 46, y + 4, w - 50, h - 8)
    tall, wide = box[3] / (high - low), box[2] / max(1, len(counts))
    cell = f"h{max(1.0, wide - 0.5):.1f}v{tall - 1:.0f}h-{max(1.0, wide - 0.5):.1f}z"
    for row in range(low, high):
        ty = box[1] + box[3] - tall * (row - low)
        if (row - low) % max(1, (high - low) // 6) == 0:
            yield text(box[0] - 4, ty - 1, written(_bound(bounds[row]), "s"), 10, FAINT, ' text-anchor="end"')
        path = "".join(
            f'<path d="M{box[0] + wide * place:.0f} {ty - tall:.0f}{cell}" '
            f'fill-opacity="{0.12 + 0.88 * math.sqrt(column[row] / most):.2f}"/>'
            for place, column in enumerate(counts[at] for at in sorted(counts))
            if column[row] > 0
        )
        yield f'<g fill="#c2571a">{path}</g>'


def _bound(series: Series) -> float:
    return float(series.labels["le"])


def _states(drawn: Drawn, x: float, y: float, w: float, h: float) -> Iterator[str]:
    words = drawn.panel["fieldConfig"]["defaults"]["mappings"][0]["options"]
    rows = sorted(drawn.series, key=lambda one: one.name)
    tall = min(20.0, (h - 20) / len(rows))
    for number, one in enumerate(rows):
        ty = y + 4 + tall * number
        yield text(x, ty + tall * 0.7, cut(one.name, 76), 11)
        box = (x + 80, 0.0, w - 84, 1.0)
        placed = _placed(one.points, drawn, box, (0, 1))
        starts = [(px, str(round(value))) for (px, _), (_, value) in zip(placed, one.points, strict=True)]
        for place, (px, value) in enumerate(starts):
            if place and starts[place - 1][1] == value:
                continue
            end = next((at for at, other in starts[place:] if other != value), starts[-1][0])
            colour = words[value]["color"]
            yield _box(px, ty, max(1.0, end - px), tall - 3, NAMED.get(colour, colour), ' fill-opacity=".8"')
    seen = {str(round(value)) for one in rows for _, value in one.points}
    at = x
    for value, word in words.items():
        if value in seen:
            said = re.sub(r":.*", "", word["text"])
            yield _box(at, y + h - 8, 9, 9, NAMED.get(word["color"], word["color"]))
            yield text(at + 12, y + h, said, 10)
            at += 24 + 5.6 * len(said)
