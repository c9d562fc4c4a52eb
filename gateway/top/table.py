"""How `pointsman top` looks: lines of text with styles, for a width and a height. Prints nothing and asks no terminal.

Here belong columns, how numbers are written, and what is left out where there is little room: first the columns that
matter least, then rows, with a line that says how many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.terminal import BOLD, DIM, RED, padded, safe, styled, width
from gateway.top.view import GatewayRow, RuleRow, TargetRow, Totals, View, ordered

_NAME = 24  # columns of a name while others want room


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its title, what it shows of a row, how much it matters (0 most), and when it is an alarm."""

    title: str
    cell: Callable[[Any], str]
    rank: int
    right: bool = True
    alarm: Callable[[Any], bool] = lambda row: False


def number(value: float) -> str:
    """Three digits at most, and a letter for thousands and millions; nothing for nothing.

    >>> [number(value) for value in (0, 0.0123, 4.56, 78.9, 1234, 56e6)]
    ['0', '0.012', '4.6', '79', '1.2k', '56M']
    """
    if value == 0:
        return "0"
    for letter, unit in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= unit * 0.9995:
            value /= unit
            return f"{value:.1f}{letter}" if abs(value) < 9.95 else f"{value:.0f}{letter}"
    if abs(value) < 0.0005:
        return "<.001" if value > 0 else ">-.001"
    return (
        f"{value:.3f}"
        if abs(value) < 0.0995
        else f"{value:.2f}"
        if abs(value) < 0.995
        else (f"{value:.1f}" if abs(value) < 9.95 else f"{value:.0f}")
    )


def seconds(value: float | None) -> str:
    """A time in the unit that shows it best; `-` where there is none.

    >>> [seconds(value) for value in (None, 0.00042, 0.25, 3.14, 42.0, 600.0)]
    ['-', '0.42ms', '250ms', '3.1s', '42s', '600s']
    """
    if value is None:
        return "-"
    if value < 0.01:
        return f"{value * 1000:.2f}ms"
    if value < 0.9995:
        return f"{value * 1000:.0f}ms"
    return f"{value:.1f}s" if value < 9.95 else f"{value:.0f}s"


def usd(value: float) -> str:
    """US dollars; as many digits as tell small sums apart.

    >>> [usd(value) for value in (0, 0.000012, 0.1234, 12.5, -0.5)]
    ['$0', '$0.000012', '$0.123', '$12.50', '-$0.500']
    """
    sign, value = ("-" if value < 0 else ""), abs(value)
    if value == 0:
        return "$0"
    if value >= 1:
        return f"{sign}${value:,.2f}"
    return (
        f"{sign}${value:.3f}" if value >= 0.01 else f"{sign}${value:.2g}" if value >= 0.0001 else f"{sign}${value:.6f}"
    )


def _cost(row: TargetRow) -> str:
    if row.unpriced_requests_per_s and not row.cost_usd_per_min:
        return "no price"
    return usd(row.cost_usd_per_min)


def _state(row: TargetRow) -> str:
    told = row.state + (f": {row.reason}" if row.reason else "")
    told += f", {row.held_for_s:.0f}s" if row.held_for_s else ""
    told += f", {row.endpoints_out} out" if row.endpoints_out else ""
    return told + (", slow" if row.slow else "") + (", thinks unasked" if row.thinking_doubted else "")


_TARGETS = (
    Column("TARGET", lambda row: row.target, 0, right=False),
    Column("STATE", _state, 0, right=False, alarm=lambda row: row.state not in ("healthy", "probing", "half_open")),
    Column("BUSY", lambda row: str(row.inflight), 4),
    Column("REQ/S", lambda row: number(row.requests_per_s), 0),
    Column("IN TOK/S", lambda row: number(row.input_tokens_per_s), 5),
    Column("OUT TOK/S", lambda row: number(row.output_tokens_per_s), 3),
    Column("$/MIN", _cost, 2),
    Column("FIRST P50", lambda row: seconds(row.first_event_p50_s), 6),
    Column("FIRST P95", lambda row: seconds(row.first_event_p95_s), 1),
    Column("ERR/S", lambda row: number(row.errors_per_s), 1, alarm=lambda row: row.errors_per_s > 0),
    Column("FALLB/S", lambda row: number(row.fallbacks_per_s), 4, alarm=lambda row: row.fallbacks_per_s > 0),
)
_RULES = (
    Column("RULE", lambda row: row.rule, 0, right=False),
    Column("POLICY", lambda row: row.policy, 2, right=False),
    Column("REQ/S", lambda row: number(row.requests_per_s), 0),
    Column("SHARE", lambda row: f"{row.share:.0%}", 1),
    Column("$/MIN", lambda row: usd(row.cost_usd_per_min), 1),
)

#: One line as pieces of text, each with an ANSI style or "".
Line = list[tuple[str, str]]


def lines(shown: View, *, sort: str, columns: int | None = None, rows: int | None = None) -> list[Line]:
    """All there is to see. `columns` and `rows` are the room there is; None: as much as it takes."""
    targets, rules = ordered(shown, sort)
    top = [line for row in shown.gateways for line in _gateway(row)] + _head(shown.totals)
    room_targets, room_rules = len(targets), len(rules)
    if rows is not None:
        room = max(0, rows - len(top) - 4)  # two lines of titles, two that are empty
        room_targets = min(len(targets), max(room - len(rules), (room * 2 + 2) // 3))
        room_rules = min(len(rules), room - room_targets)
    made = [*top, [], *_table(_TARGETS, targets, room_targets, columns)]
    if rules:
        made += [[], *_table(_RULES, rules, room_rules, columns)]
    if columns is not None:
        made = [_fitted(line, columns) for line in made]
    return made if rows is None else made[:rows]


def text(line: Line, *, colour: bool) -> str:
    """A line as it is written."""
    if not colour:
        return "".join(part for part, _ in line).rstrip()
    return "".join(styled(part, style) for part, style in line)


def _gateway(row: GatewayRow) -> list[Line]:
    url = (safe(row.url), BOLD)
    if row.error is not None:
        told = f"  no figures for {row.silent_s:.0f} s: {safe(row.error)}; trying again"
        return [[url, (told, RED)]]
    version = f"  pointsman {safe(row.version)}" if row.version else ""
    window = f"  over the last {row.window_s:.0f} s" if row.window_s else "  rates follow with the next answer"
    return [[url, (version + window, "")]]


def _head(totals: Totals) -> list[Line]:
    wrong = totals.errors_per_s > 0
    queued = "" if totals.queued is None else f", {totals.queued} queued"
    saved = "" if totals.savings_usd_per_min is None else f", saved {usd(totals.savings_usd_per_min)}/min"
    return [
        [
            (f"{number(totals.requests_per_s)} requests/s, {totals.inflight} in flight{queued}", ""),
            (f", {number(totals.errors_per_s)} errors/s", RED if wrong else ""),
            (f" ({number(totals.refused_per_s)} refused)", ""),
            (f", {number(totals.fallbacks_per_s)} fallbacks/s", ""),
        ],
        [
            (f"{number(totals.input_tokens_per_s)} tokens/s in, {number(totals.output_tokens_per_s)} out", ""),
            (f", {usd(totals.cost_usd_per_min)}/min{saved}", BOLD),
        ],
        [
            (f"first event p50 {seconds(totals.first_event_p50_s)}, p95 {seconds(totals.first_event_p95_s)}", ""),
            (f"; overhead p50 {seconds(totals.overhead_p50_s)}, p99 {seconds(totals.overhead_p99_s)}", ""),
        ],
    ]


def _table(every: Sequence[Column], rows: Sequence[TargetRow | RuleRow], room: int, columns: int | None) -> list[Line]:
    shown = rows[: room if room >= len(rows) else max(0, room - 1)]
    cells = {column.title: [safe(column.cell(row)) for row in shown] for column in every}
    widths = {
        column.title: max([len(column.title), *(width(cell) for cell in cells[column.title])]) for column in every
    }
    kept = list(every)
    if columns is not None:
        kept = _fitting(kept, widths, columns)
    made: list[Line] = [
        [(_joined([padded(one.title, widths[one.title], right=one.right) for one in kept]).rstrip(), BOLD)]
    ]
    for at, row in enumerate(shown):
        line: Line = []
        for place, column in enumerate(kept):
            cell = padded(cells[column.title][at], widths[column.title], right=column.right)
            idle = cell.strip() in ("0", "-", "$0")
            line.append((("  " if place else "") + cell, RED if column.alarm(row) else DIM if idle else ""))
        made.append(line)
    if left := len(rows) - len(shown):
        made.append([(f"{left} more", DIM)])
    return made


def _joined(cells: Sequence[str]) -> str:
    return "  ".join(cells)


def _fitting(every: list[Column], widths: dict[str, int], columns: int) -> list[Column]:
    """The columns there is room for; those that matter least go first, then names are shortened."""
    kept = list(every)

    def taken() -> int:
        return sum(widths[one.title] for one in kept) + 2 * (len(kept) - 1)

    for name in [one.title for one in every if not one.right]:
        if taken() > columns:
            widths[name] = min(widths[name], max(len(name), _NAME))
    for rank in sorted({one.rank for one in kept} - {0}, reverse=True):
        for column in reversed([one for one in kept if one.rank == rank]):
            if taken() > columns:
                kept.remove(column)
    for name in [one.title for one in kept if not one.right]:
        if (over := taken() - columns) > 0:
            widths[name] = max(len(name), widths[name] - over)
    return kept


def _fitted(line: Line, columns: int) -> Line:
    """A line that is no wider than the screen."""
    made: Line = []
    for part, style in line:
        if width(part) > columns:
            made.append((padded(part, columns), style))
            break
        made.append((part, style))
        columns -= width(part)
    return made
