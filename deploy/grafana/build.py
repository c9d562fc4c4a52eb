"""Writes overview.json, the Grafana dashboard, from the table of panels below.

    python deploy/grafana/build.py           writes the file
    python deploy/grafana/build.py --check   exit 1 if the file is not what would be written

A dashboard is a table of queries with a lot of JSON around it; the table is here and the JSON is not worth reading.
Queries use $__rate_interval, so that they hold at any scrape interval, and the variables target and team where their
series have those labels.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

OUT = Path(__file__).parent / "dashboards" / "overview.json"
WIDTH = 24

#: Filters by the dashboard's variables.
BOTH = 'target=~"$target",team=~"$team"'
TARGET = 'target=~"$target"'


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: its queries as (PromQL, legend), and how it is drawn. `note` is shown behind the (i)."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: Literal["timeseries", "stat", "table"] = "timeseries"
    note: str = ""
    width: int = 8
    height: int = 8
    stacked: bool = False
    red_above: float | None = None


def rate(counter: str, labels: str = "", by: str = "") -> str:
    """The summed rate of a counter per second."""
    return f"sum{f' by ({by})' if by else ''} (rate(pointsman_{counter}{{{labels}}}[$__rate_interval]))"


def quantiles(histogram: str, labels: str = "") -> tuple[tuple[str, str], ...]:
    """p50, p95 and p99 of a histogram."""
    return tuple(
        (f"histogram_quantile({q}, {rate(f'{histogram}_bucket', labels, 'le')})", f"p{int(q * 100)}")
        for q in (0.5, 0.95, 0.99)
    )


def per_hour(by: str) -> str:
    """US dollars an hour at the rate of the moment."""
    return f"3600 * {rate('cost_usd_total', BOTH, by)}"


#: By process, whatever the scrape job is called.
_CPU = "rate(process_cpu_seconds_total[$__rate_interval]) * on (job, instance) group_left () pointsman_build_info"
_FAILED = 'code!~"ok|client_gone"'
_ERRORS = f"(({rate('requests_total', f'{BOTH},{_FAILED}')}) or vector(0)) / ({rate('requests_total', BOTH)})"

ROWS: dict[str, tuple[Panel, ...]] = {
    "Now": (
        Panel("Requests", ((rate("requests_total", BOTH), ""),), "reqps", "stat", width=4, height=4),
        Panel(
            "Failed", ((_ERRORS, ""),), "percentunit", "stat", width=4, height=4, red_above=0.05,
            note="Share of requests that got an error; a client who left is not one.",
        ),
        Panel(
            "Cost an hour", ((f"3600 * {rate('cost_usd_total', BOTH)}", ""),), "currencyUSD", "stat", width=4, height=4,
            note="By the prices in the configuration. Requests to targets without a price are not in it.",
        ),
        Panel(
            "First event, p95", (quantiles("time_to_first_event_seconds", TARGET)[1],), "s", "stat", width=4, height=4,
        ),
        Panel("Gateway's own share, p95", (quantiles("gateway_overhead_seconds")[1],), "s", "stat", width=4, height=4),
        Panel("Being served", (("sum(pointsman_inflight_requests)", ""),), "short", "stat", width=4, height=4),
    ),
    "Cost": (
        Panel("By model", ((per_hour("model"), "{{model}}"),), "currencyUSD", stacked=True, note="US dollars an hour."),
        Panel("By team", ((per_hour("team"), "{{team}}"),), "currencyUSD", stacked=True, note="US dollars an hour."),
        Panel("By rule", ((per_hour("rule"), "{{rule}}"),), "currencyUSD", stacked=True, note="US dollars an hour."),
        Panel(
            "Tokens by class", ((rate("tokens_total", BOTH, "class"), "{{class}}"),), "short", stacked=True,
            note="Tokens a second, in classes that do not overlap: input was not cached, output was not reasoning.",
        ),
        Panel(
            "Tokens by target", ((rate("tokens_total", BOTH, "target"), "{{target}}"),), "short", stacked=True,
            note="Tokens a second.",
        ),
        Panel(
            "Not in the books", (
                (rate("unpriced_requests_total", TARGET, "target"), "{{target}}: no price"),
                (rate("estimated_usage_requests_total", TARGET, "target"), "{{target}}: tokens estimated"),
            ), "reqps", note="Requests whose cost is missing or rests on an estimate.",
        ),
    ),
    "Routing": (
        Panel(
            "Decisions by rule", ((rate("decisions_total", TARGET, "policy, rule"), "{{policy}}: {{rule}}"),), "reqps",
            stacked=True,
        ),
        Panel(
            "Decisions by target", ((rate("decisions_total", TARGET, "target"), "{{target}}"),), "reqps", stacked=True,
            note="The target that the decision put first; none: nothing was left.",
        ),
        Panel(
            "Fallbacks", ((rate("fallbacks_total", TARGET, "chosen, target"), "{{chosen}} → {{target}}"),), "reqps",
            note="Requests answered by another target than the one put first.",
        ),
        Panel(
            "Attempts that failed", (
                (rate("attempts_total", f'{TARGET},outcome!="ok"', "target, outcome"), "{{target}}: {{outcome}}"),
            ), "reqps", width=12,
        ),
        Panel(
            "Targets now", ((f"pointsman_target_state{{{TARGET}}} == 1", ""),), kind="table", width=12,
        ),
    ),
    "Requests": (
        Panel(
            "By what was asked for", ((rate("requests_total", BOTH, "model_asked"), "{{model_asked}}"),), "reqps",
            stacked=True,
        ),
        Panel(
            "Errors by code", ((rate("requests_total", f"{BOTH},{_FAILED}", "code"), "{{code}}"),), "reqps",
            stacked=True,
        ),
        Panel(
            "Refused by the gateway", ((rate("refusals_total", "", "code"), "{{code}}"),), "reqps", stacked=True,
            note="Nothing was sent to any target: wrong keys, bad requests, policies, nothing left.",
        ),
        Panel(
            "Broken streams", (
                (rate("stream_interrupted_total", TARGET, "target, cause"), "{{target}}: {{cause}}"),
                (rate("client_disconnect_total"), "client left"),
            ), "reqps", width=12, note="Streams that ended with an error event after their first event.",
        ),
        Panel(
            "Reasoning although thinking was off", (
                (rate("thinking_violations_total", TARGET, "target"), "{{target}}"),
            ), "reqps", width=12,
        ),
    ),
    "Latency": (
        Panel(
            "To the first event", quantiles("time_to_first_event_seconds", f'{TARGET},stream="true"'), "s",
            note="Streams.",
        ),
        Panel("End to end", quantiles("request_duration_seconds", TARGET), "s", note="Streams and not."),
        Panel(
            "The gateway's own share", quantiles("gateway_overhead_seconds"), "s",
            note="From the arrival of a request until it was sent on: reading, admitting and deciding.",
        ),
        Panel(
            "To the first event by target, p95", (
                (
                    f"histogram_quantile(0.95, {rate('time_to_first_event_seconds_bucket', TARGET, 'le, target')})",
                    "{{target}}",
                ),
            ), "s", width=12, note="Answers that are not streamed count with their complete answer.",
        ),
        Panel(
            "The gateway's own share by rule, p95", (
                (f"histogram_quantile(0.95, {rate('gateway_overhead_seconds_bucket', '', 'le, rule')})", "{{rule}}"),
            ), "s", width=12,
        ),
    ),
    "The gateway": (
        Panel("Policies", (("pointsman_policy_info == 1", ""),), kind="table", height=6),
        Panel(
            "Reloads", (
                ("sum by (result) (increase(pointsman_config_reload_total[$__rate_interval]))", "{{result}}"),
            ), height=6, note="A rejected one leaves the configuration before it in service.",
        ),
        Panel(
            "Processor", ((_CPU, "{{instance}}"),), height=6,
            note="One process uses one CPU at most; add replicas before it does.",
        ),
    ),
}  # fmt: skip


def _source() -> dict[str, str]:
    return {"type": "prometheus", "uid": "${datasource}"}


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    table, stat = panel.kind == "table", panel.kind == "stat"
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.red_above is not None:
        steps.append({"color": "red", "value": panel.red_above})
    custom: dict[str, Any] = {}
    if panel.kind == "timeseries":
        custom = {
            "fillOpacity": 25 if panel.stacked else 5,
            "lineWidth": 1,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        }
    all_options: dict[str, dict[str, Any]] = {
        "timeseries": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "stat": {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "graphMode": "area"},
        "table": {"showHeader": True, "cellHeight": "sm"},
    }
    made: dict[str, Any] = {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.note,
        "datasource": _source(),
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "custom": custom,
                "color": {"mode": "thresholds" if stat else "palette-classic"},
                "thresholds": {"mode": "absolute", "steps": steps},
            },
            "overrides": [],
        },
        "options": all_options[panel.kind],
        "targets": [
            {
                "refId": chr(ord("A") + n),
                "datasource": _source(),
                "expr": expr,
                "legendFormat": legend or "__auto",
                **({"instant": True, "format": "table"} if table else {"range": True}),
            }
            for n, (expr, legend) in enumerate(panel.queries)
        ],
    }
    if table:
        hidden = dict.fromkeys(("Time", "Value", "__name__", "instance", "job"), True)
        made["transformations"] = [{"id": "organize", "options": {"excludeByName": hidden}}]
    return made


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _source(),
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana's JSON model."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1},
                "panels": [],
            }
        )
        y, x, tallest = y + 1, 0, 0
        for panel in row:
            if x + panel.width > WIDTH:
                y, x, tallest = y + tallest, 0, 0
            panels.append(_panel(panel, len(panels) + 1, x, y))
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest
    return {
        "uid": "pointsman-overview",
        "title": "Pointsman",
        "description": "Cost, latency and routing of the gateway. Generated by deploy/grafana/build.py.",
        "tags": ["pointsman"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "",
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "Data source",
                    "type": "datasource",
                    "query": "prometheus",
                    "current": {},
                    "refresh": 1,
                },
                _variable("target", "Target", "label_values(pointsman_attempts_total, target)"),
                _variable("team", "Team", "label_values(pointsman_requests_total, team)"),
            ]
        },
        "annotations": {"list": []},
        "links": [],
        "panels": panels,
    }


def main() -> int:
    """Write the file, or with --check say whether it is what would be written."""
    text = json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"
    if sys.argv[1:] == ["--check"]:
        return 0 if OUT.exists() and OUT.read_text("utf-8") == text else 1
    OUT.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
