"""How it looks: numbers, narrow and low terminals, and names that would take a terminal over."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.terminal import coloured, cut, padded, safe, width
from gateway.top.table import lines, number, seconds, text, usd
from gateway.top.view import GatewayRow, RuleRow, TargetRow, Totals, View

GATEWAY = GatewayRow("http://127.0.0.1:8081", True, None, 0.0, "1.2.3", 1.0, 30.0)
TARGET = TargetRow(
    "scout-eu", "healthy", None, None, 0, False, False, 3, 4.2, 1200.0, 56.0, 0.012, 0.0, 0.25, 1.9, 0.0, 0.0
)
RULE = RuleRow("default", "code", 3.0, 0.75, 0.012)
TOTALS = Totals(5.0, 0.0, 0.0, 0.0, 3, None, 1200.0, 56.0, 0.012, None, 0.25, 1.9, 0.0002, 0.0009)


def view(*targets: TargetRow, rules: tuple[RuleRow, ...] = (RULE,), totals: Totals = TOTALS) -> View:
    return View((GATEWAY,), totals, targets or (TARGET,), rules)


def plain(shown: View, columns: int | None = None, rows: int | None = None) -> list[str]:
    return [text(line, colour=False) for line in lines(shown, sort="requests", columns=columns, rows=rows)]


def test_everything_is_there_where_there_is_room() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    assert "\n".join(["```text", *plain(view()), "```"]) in page
    assert plain(view()) == [
        "http://127.0.0.1:8081  pointsman 1.2.3  over the last 30 s",
        "5.0 requests/s, 3 in flight, 0 errors/s (0 refused), 0 fallbacks/s",
        "1.2k tokens/s in, 56 out, $0.012/min",
        "first event p50 250ms, p95 1.9s; overhead p50 0.20ms, p99 0.90ms",
        "",
        "TARGET    STATE    BUSY  REQ/S  IN TOK/S  OUT TOK/S   $/MIN  FIRST P50  FIRST P95  ERR/S  FALLB/S",
        "scout-eu  healthy     3    4.2      1.2k         56  $0.012      250ms       1.9s      0        0",
        "",
        "RULE  POLICY   REQ/S  SHARE   $/MIN",
        "code  default    3.0    75%  $0.012",
    ]


def test_what_is_wrong_is_said_in_words_and_not_in_colour_alone() -> None:
    ill = replace(
        TARGET,
        target="b",
        state="ejected",
        reason="reset",
        held_for_s=12.4,
        unpriced_requests_per_s=1.0,
        cost_usd_per_min=0.0,
    )
    [row] = [line for line in plain(view(TARGET, ill)) if line.startswith("b ")]
    assert "ejected: reset, 12s" in row
    odd = replace(TARGET, endpoints_out=2, slow=True, thinking_doubted=True)
    assert "healthy, 2 out, slow, thinks unasked" in plain(view(odd))[6]
    assert "no price" in row
    gone = View((replace(GATEWAY, up=False, error="connection refused", silent_s=7.2),), TOTALS, (), ())
    assert plain(gone)[0] == "http://127.0.0.1:8081  no figures for 7 s: connection refused; trying again"


def test_colour_says_nothing_that_the_text_does_not() -> None:
    shown = view(replace(TARGET, state="ejected", errors_per_s=1.0))
    coloured_lines = [text(line, colour=True) for line in lines(shown, sort="requests")]
    assert any("\x1b[31m" in line for line in coloured_lines)
    assert [re.sub(r"\x1b\[\d+m", "", line).rstrip() for line in coloured_lines] == plain(shown)


@pytest.mark.parametrize("columns", [1, 8, 20, 40, 60, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal(columns: int) -> None:
    wide = replace(
        TARGET, target="a-target-with-a-name-" * 5, state="2 healthy, 1 ejected", reason="first_event_timeout"
    )
    assert max(width(line) for line in plain(view(wide, TARGET), columns)) <= columns


def test_a_narrow_terminal_keeps_what_matters_most() -> None:
    head = plain(view(), 60)[5]
    assert re.sub(" +", " ", head) == "TARGET STATE REQ/S $/MIN FIRST P95 ERR/S"
    assert re.sub(" +", " ", plain(view(), 30)[5]) == "TARGET STATE REQ/S"


@pytest.mark.parametrize("rows", range(1, 40))
def test_no_more_lines_than_the_terminal_has(rows: int) -> None:
    targets = [replace(TARGET, target=f"target-{n:02}") for n in range(20)]
    rules = tuple(replace(RULE, rule=f"rule-{n:02}") for n in range(20))
    assert len(plain(view(*targets, rules=rules), 100, rows)) <= rows


def test_rows_that_do_not_fit_are_counted() -> None:
    told = plain(view(*[replace(TARGET, target=f"target-{n:02}") for n in range(20)]), 100, 20)
    assert (
        sum(line.startswith("target-") for line in told)
        + int(next(line for line in told if line.endswith(" more")).split()[0])
        == 20
    )
    assert any(line.startswith("code") for line in told), "and rules are not pushed out by targets"


def test_names_cannot_take_the_terminal_over() -> None:
    evil = "a\x1b[2J\x07\r\n\u202e\u2066b\x9b31m"
    shown = view(replace(TARGET, target=evil, state=evil, reason=evil), rules=(replace(RULE, rule=evil, policy=evil),))
    shown = replace(shown, gateways=(replace(GATEWAY, version=evil), replace(GATEWAY, error=evil, url=evil)))
    for columns in (None, 40):
        assert all(line.isprintable() for line in plain(shown, columns))


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0, "0"), (0.0001, "<.001"), (0.05, "0.050"), (0.0999, "0.10"), (0.999, "1.0"), (9.96, "10"),
        (999.6, "1.0k"), (12e3, "12k"), (3.4e9, "3.4G"), (-2.0, "-2.0"),
    ],
)  # fmt: skip
def test_numbers_are_short(value: float, told: str) -> None:
    assert number(value) == told


def test_times_and_sums_are_in_the_unit_that_shows_them() -> None:
    assert [seconds(value) for value in (None, 0.0, 0.0099, 0.0101, 0.9996, 9.96, 600)] == [
        "-",
        "0.00ms",
        "9.90ms",
        "10ms",
        "1.0s",
        "10s",
        "600s",
    ]
    assert [usd(value) for value in (1234.5, 0.01, 0.00012, 1e-7, -3)] == [
        "$1,234.50",
        "$0.010",
        "$0.00012",
        "$0.000000",
        "-$3.00",
    ]


def test_wide_letters_take_two_columns_and_marks_none() -> None:
    assert (width("abc"), width("日本"), width("e\u0301")) == (3, 4, 1)
    assert [cut("日本語", columns) for columns in (6, 5, 3, 1, 0)] == ["日本語", "日本~", "日~", "~", ""]
    assert padded("日本", 6) == "日本  "
    assert padded("x", 3, right=True) == "  x"
    assert safe("日本 ok") == "日本 ok"


class Terminal:
    def __init__(self, there: bool) -> None:
        self.isatty = lambda: there


@pytest.mark.parametrize(
    ("there", "environ", "wanted", "told"),
    [
        (True, {}, True, True),
        (False, {}, True, False),
        (True, {}, False, False),
        (True, {"NO_COLOR": "1"}, True, False),
        (True, {"NO_COLOR": ""}, True, True),  # counts only where it is not empty
        (True, {"TERM": "dumb"}, True, False),
    ],
)
def test_colour_is_for_terminals_whose_owner_wants_it(
    there: bool, environ: dict[str, str], wanted: bool, told: bool
) -> None:
    assert coloured(Terminal(there), environ, wanted=wanted) is told  # type: ignore[arg-type]
