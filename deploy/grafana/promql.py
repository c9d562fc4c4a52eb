"""How the dashboards ask: writers of PromQL that more than one panel needs. What is asked stands with the panels.

Ranges are Grafana's: `$__rate_interval` fits the scrape interval, `$__range` is what the person at the dashboard chose.
Shares divide by what is above zero only, so that an hour without traffic has no value instead of one that is no number.
"""

from __future__ import annotations

NOW = "$__rate_interval"
CHOSEN = "$__range"
#: How finely a chosen time is looked at: a panel that asks so has the `interval` and at most so many points.
STEP, FINEST, POINTS = "$__interval", "1m", 1500

#: Errors that count against the objective, as deploy/prometheus/rules/slo.yaml has it: neither the client's own
#: mistakes, nor its limits, nor those who left.
FAULTS = 'code=~"internal_error|upstream_.+|event_too_large|no_target_available|store_unavailable|overloaded|draining"'
#: What ought to have been served: the same and what was.
DUE = FAULTS.replace('"', '"ok|', 1)
#: The share of that which is promised, and what may fail of it. deploy/prometheus/rules/objectives.yaml sets it.
OBJECTIVE = "scalar(global:pointsman_slo_availability:objective)"
ALLOWED = f"(1 - {OBJECTIVE})"


def where(*names: str, also: str = "") -> str:
    """Filters by the dashboard's variables of these names, and more."""
    return ",".join([*(f'{name}=~"${name}"' for name in names), *([also] if also else [])])


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""


def rate(counter: str, filters: str = "", by: str = "", window: str = NOW) -> str:
    """How much a counter grows in a second."""
    return f"sum{_by(by)} (rate(pointsman_{counter}{{{filters}}}[{window}]))"


def rise(counter: str, filters: str = "", by: str = "") -> str:
    """How much a counter grew in all of the chosen time, over restarts of gateways and gaps between scrapes.

    Series begin with what they first count, such as a team's first request to a target, and begin so again after a
    restart; `increase` does not see what a series begins with. So wherever a gateway was scraped and had no such
    series, it counts as 0. Where none was scraped nothing is known, and what follows is compared with what was before.
    """
    series = f"pointsman_{counter}{{{filters}}}" if filters else f"pointsman_{counter}"
    unborn = f"0 * last_over_time({series}[{CHOSEN}] @ end()) and on (job, instance) up == 1"
    return f"sum{_by(by)} (increase((1 * {series} or {unborn})[{CHOSEN}:{STEP}]))"


def per_hour(counter: str, filters: str = "", by: str = "") -> str:
    """What it comes to in an hour at the rate of the moment."""
    return f"3600 * {rate(counter, filters, by)}"


def share(part: str, whole: str) -> str:
    """A part of a whole; 0 where there is nothing of the part, no value where there is nothing of the whole."""
    return f"({part} or 0 * {whole}) / ({whole} > 0)"


def portion(part: str, whole: str) -> str:
    """The same, with no value where there is nothing of the part: for graphs that would be full of zeros."""
    return f"({part} > 0) / ({whole} > 0)"


def quantile(of: float, histogram: str, filters: str = "", by: str = "") -> str:
    """Seconds that a share of the observations stayed below, as near as the buckets tell."""
    return f"histogram_quantile({of}, {rate(f'{histogram}_bucket', filters, f'le, {by}' if by else 'le')})"


def mean(histogram: str, filters: str = "", by: str = "") -> str:
    """Seconds an observation took on average."""
    return f"{rate(f'{histogram}_sum', filters, by)} / ({rate(f'{histogram}_count', filters, by)} > 0)"


def top(query: str, most: int = 15) -> str:
    """The largest, largest first."""
    return f"sort_desc(topk({most}, {query}))"


def burn(window: str) -> str:
    """How many times faster than it may the error budget is used up; 1 uses it up in 30 days."""
    return f"max(job:pointsman_requests_failed_per_requests_due:ratio_rate{window}) / {ALLOWED}"
