"""What is left of limits, as the command tells it to people."""

from __future__ import annotations

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
