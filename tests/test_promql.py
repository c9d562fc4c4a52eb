"""What deploy/grafana/promql.py writes, evaluated by promtool over series whose growth is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy.grafana.promql import rise
from tests.e2e.dashboards import filled
from tests.test_alerts import promtool

SPENT = filled(rise("cost_usd_total", by="team"), now="1m", chosen="30m")


@pytest.mark.parametrize(
    ("up", "money", "dollars"),
    [
        pytest.param("1x60", "0+1x60", 30, id="all the time"),
        pytest.param("1x60", "7x60", 0, id="nothing spent since"),
        pytest.param("1x60", "_x40 5+1x20", 25, id="born in the time"),
        pytest.param("1x60", "_x40 9x20", 9, id="one request"),
        pytest.param("1x60", "_x60 9", 9, id="one scrape"),
        pytest.param("1x60", "_x40 9x4 stale _x4 2x10", 11, id="born, then a restart"),
        pytest.param("1x60", "_x35 9x4 stale _x4 9x6 stale _x4 10x4", 28, id="born again dearer than before"),
        pytest.param("1x60", "_x40 9x4 stale", 9, id="born, a restart, and not since"),
        pytest.param("1x60", "100x45 stale _x4 3x10", 3, id="a restart"),
        pytest.param("1x45 0x4 1x10", "100x45 stale _x3 3x10", 3, id="a restart that takes some scrapes"),
        pytest.param("_x40 1x20", "_x40 100x20", 0, id="a new Prometheus over an old gateway"),
        pytest.param("_x40 1x20", "_x40 100x10 103x9", 3, id="a new Prometheus, and more is spent"),
        pytest.param("1x20 0x15 1x24", "100x20 stale _x14 100x24", 0, id="a gap at the start"),
        pytest.param("1x20 _x15 1x24", "100x20 _x15 104x24", 0, id="no Prometheus at the start"),
        pytest.param("1x40 0x9 1x10", "100x40 stale _x8 104x10", 4, id="a gap within"),
    ],
)
def test_what_was_spent_is_all_of_it_and_no_more(tmp_path: Path, up: str, money: str, dollars: float) -> None:
    """An hour of scrapes, the last half of it asked for; `increase` guesses beyond its samples, by one at each end."""
    series = [
        {"series": 'up{job="pointsman", instance="a"}', "values": up},
        {"series": 'pointsman_cost_usd_total{job="pointsman", instance="a", team="t", rule="r"}', "values": money},
        {"series": 'up{job="pointsman", instance="b"}', "values": "1x60"},
        {"series": 'pointsman_cost_usd_total{job="pointsman", instance="b", team="u", rule="r"}', "values": "0+1x60"},
    ]
    team = 'on (team) label_replace(vector(1), "team", "t", "", "")'
    within = f"abs(({SPENT}) - {dollars}) <= bool {max(0.4, dollars / 14)} and {team}"
    asked = {"expr": within, "eval_time": "60m", "exp_samples": [{"labels": '{team="t"}', "value": 1}]}
    made = {
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": [asked]}],
    }
    (tmp_path / "test.yaml").write_text(json.dumps(made), "utf-8")
    done = promtool("test", "rules", str(tmp_path / "test.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr
