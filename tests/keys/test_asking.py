"""Keys and what is left of their limits, as the command tells it to people."""

from __future__ import annotations

from gateway.keys import telling
from gateway.keys.asking import table


def test_a_table_of_limits_says_of_each_budget_by_what_period_it_is() -> None:
    budget = {
        "scope": "key",
        "name": "shop",
        "limit": "budget",
        "mode": "hard",
        "usd": 5.0,
        "left_usd": 3.0,
        "used": 0.4,
    }
    found = [{**budget, "per": "hour"}, {**budget, "per": "day", "mode": "soft", "here_usd": 0.25}]
    assert list(table(found)) == [
        "OF   NAME  LIMIT                 MOST   LEFT  USED  RESETS",
        "key  shop  budget an hour       $5.00  $3.00   40%  -",
        "key  shop  budget a day (soft)  $5.00  $0.25   40%  -",
    ]


def test_a_table_of_keys_says_their_limits_in_one_line() -> None:
    budget = {"limit": "budget", "usd": 0.00001, "per": "hour", "zone": "UTC", "mode": "soft"}
    key = {
        "name": "shop", "id": "0123456789ab", "state": "valid", "replaced": [], "expires": None, "allow": ["auto"],
        "tenant": {}, "limits": [{"limit": "rpm", "most": 60, "mode": "enforce"}, budget], "by": None, "file": "keys",
    }  # fmt: skip
    assert list(telling.table([key]))[1] == (
        "shop  0123456789ab  valid  -        auto     -     rpm 60, $0.000010 an hour (soft)  operator"
    )
