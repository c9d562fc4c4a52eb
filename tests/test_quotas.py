"""Limits as they are written: what loads, what does not and says where, and when periods begin and end."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import quotas
from gateway.core.errors import ConfigError
from gateway.core.money.limits import Allowance, Cap
from gateway.site import Site, load_site

SHA = "ab" * 32
FILE = """\
backends:
  up: {dialect: openai, base_url: "http://127.0.0.1:9/v1"}
targets:
  t: {model: llama-3.3-70b, backend: up, window: 8k, price: {input: 1, output: 2}}
keys:
  - {name: k, sha256: "%s", tenant: {team: shop}%s}
"""


def load(tmp_path: Path, key: str = "", rest: str = "ledger: {dir: books}\n") -> Site:
    path = tmp_path / "p.yaml"
    path.write_text(FILE % (SHA, key) + rest)
    return load_site(path, {"HOME": str(tmp_path)}, secrets=False, tests=False)


def test_a_limit_is_a_number_or_says_its_mode(tmp_path: Path) -> None:
    site = load(
        tmp_path,
        ", rpm: {limit: 60, mode: shadow}, tpm: 2M, max_concurrent: 5,"
        " budget: [{usd: 5, per: day, zone: Europe/Berlin, mode: soft}, {usd: 100, per: month}]",
        "ledger: {dir: books}\nteams:\n  shop: {tpm: {limit: 10k}, budget: {usd: 0.5, per: hour, mode: shadow}}\n",
    )
    own = site.quotas.keys["k"]
    assert (own.rpm, own.tpm, own.max_concurrent) == (Cap(60, shadow=True), Cap(2_000_000), Cap(5))
    assert own.budgets == (Allowance(5 * 10**9, "day", "Europe/Berlin", "soft"), Allowance(100 * 10**9, "month"))
    assert site.quotas.teams["shop"].tpm == Cap(10_000)
    assert site.quotas.hard


def test_a_key_of_a_team_with_limits_is_limited_and_another_is_not(tmp_path: Path) -> None:
    teams = "ledger: {dir: books}\nteams: {shop: {rpm: 5}}\n"
    assert next(iter(load(tmp_path, "", teams).keys.values())).tenant.limited
    assert not next(iter(load(tmp_path).keys.values())).tenant.limited


@pytest.mark.parametrize(
    ("key", "rest", "says"),
    [
        (", rpm: 0", "", "p.yaml:6: keys[0].rpm"),
        (", rpm: -1", "", "p.yaml:6: keys[0].rpm"),
        (", rpm: true", "", "p.yaml:6: keys[0].rpm"),
        (", rpm: 1.5", "", "p.yaml:6: keys[0].rpm"),
        (", rpm: many", "", "p.yaml:6: keys[0].rpm"),
        (", rpm: 99999999999", "", "p.yaml:6: keys[0].rpm"),
        (", rpm: {limit: 5, mode: maybe}", "", "p.yaml:6: keys[0].rpm"),
        (", rpm: {mode: shadow}", "", "p.yaml:6: keys[0].rpm"),
        (", rpm: [5]", "", "p.yaml:6: keys[0].rpm"),
        (", tpm: 0k", "", "p.yaml:6: keys[0].tpm"),
        (", max_concurrent: 0", "", "p.yaml:6: keys[0].max_concurrent"),
        (", budget: 5", "", "p.yaml:6: keys[0].budget"),
        (", budget: {usd: -1, per: day}", "", "p.yaml:6: keys[0].budget"),
        (", budget: {usd: .nan, per: day}", "", "p.yaml:6: .nan"),
        (", budget: {usd: 1, per: year}", "", "p.yaml:6: keys[0].budget"),
        (", budget: {usd: 1, per: day, zone: Mars/Olympus}", "", "'Mars/Olympus' is no time zone"),
        (", budget: {usd: 1, per: day, zone: ../../etc/passwd}", "", "p.yaml:6: keys[0].budget"),
        (", budget: [{usd: 1, per: day}, {usd: 2, per: day}]", "", "p.yaml:6: keys[0].budget"),
        (", budget: []", "", "p.yaml:6: keys[0].budget"),
        ("", "teams: {shop: {rpm: 5, rps: 1}}\n", "p.yaml:7: teams.shop.rps"),
        (
            ", budget: {usd: 1, per: day}",
            "ledger: none\n",
            "p.yaml:6: keys[0].budget: is hard, but with `ledger: none` every start would fill it again",
        ),
        ("", "ledger: none\nteams: {shop: {budget: {usd: 1, per: day}}}\n", "teams.shop.budget: is hard"),
    ],
)
def test_what_is_no_limit_does_not_load_and_says_where(tmp_path: Path, key: str, rest: str, says: str) -> None:
    with pytest.raises(ConfigError) as told:
        load(tmp_path, key, rest)
    assert says in str(told.value)


def test_a_team_that_is_mistyped_is_told_with_what_is_near(tmp_path: Path) -> None:
    (told,) = (one for one in load(tmp_path, "", "teams: {shpo: {rpm: 5}}\n").warnings if "teams" in one)
    assert told.endswith("p.yaml:7: teams.shpo: is a team that no key is of as yet: did you mean shop?")


def test_a_soft_budget_needs_no_books(tmp_path: Path) -> None:
    assert not load(tmp_path, ", budget: {usd: 1, per: day, mode: soft}", "ledger: none\n").quotas.hard


def at(text: str, zone: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize(
    ("per", "zone", "now", "begins", "ends"),
    [
        ("day", "UTC", "2026-11-22T12:00", "2026-11-22T00:00", "2026-11-23T00:00"),
        ("day", "Asia/Kolkata", "2026-11-22T00:00", "2026-11-22T00:00", "2026-11-23T00:00"),
        ("day", "Europe/Berlin", "2026-10-25T12:00", "2026-10-25T00:00", "2026-10-26T00:00"),
        ("week", "UTC", "2026-11-22T23:59", "2026-11-16T00:00", "2026-11-23T00:00"),
        ("month", "America/New_York", "2026-12-31T23:59", "2026-12-01T00:00", "2027-01-01T00:00"),
        ("hour", "Asia/Kathmandu", "2026-11-22T12:44", "2026-11-22T11:45", "2026-11-22T12:45"),
    ],
)
def test_periods_follow_the_calendar_of_their_zone(per: Any, zone: str, now: str, begins: str, ends: str) -> None:
    assert quotas.period(per, zone, at(now, zone)) == (at(begins, zone) * 1000, at(ends, zone) * 1000)


def test_a_day_on_which_clocks_change_has_its_hours() -> None:
    begins, ends = quotas.period("day", "Europe/Berlin", at("2026-10-25T12:00", "Europe/Berlin"))
    assert ends - begins == 25 * 3_600_000


@given(
    st.sampled_from(["hour", "day", "week", "month"]),
    st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kathmandu", "America/Santiago", "Australia/Lord_Howe"]),
    st.integers(1_700_000_000, 2_000_000_000),
)
def test_a_moment_lies_in_its_period_and_the_next_begins_where_it_ends(per: Any, zone: str, now: int) -> None:
    begins, ends = quotas.period(per, zone, now)
    assert begins <= now * 1000 < ends
    assert begins % 900_000 == ends % 900_000 == 0, "books are kept by the quarter of an hour"
    assert quotas.period(per, zone, ends / 1000)[0] == ends
    assert datetime.fromtimestamp(begins / 1000, UTC) < datetime.fromtimestamp(ends / 1000, UTC)
