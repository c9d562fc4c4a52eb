"""How the dashboards ask: writers of PromQL that more than one panel needs. What is asked stands with the panels.

Ranges are Grafana's: `$__rate_interval` fits the scrape interval, `$__range` is what the person at the dashboard chose.
Shares divide by what is above zero only, so that an hour without traffic has no value instead of one that is no number.
"""

from __future__ import annotations

NOW = "$__rate_interval"
CHOSEN = "$__range"

#: Errors that are the service's: the codes of `gateway.core.errors` with a status from 500 on, and an upstream's 429.
#: What a client did wrong, a key that spent its budget and a client that left count against nobody.
FAULTS = 'code=~"upstream_.+|internal_error|event_too_large|no_target_available|store_unavailable|overloaded|draining"'
#: What the service promises of requests, as a share.
OBJECTIVE = 0.995


def where(*names: str, also: str = "") -> str:
    """Filters by the dashboard's variables of these names, and more."""
    return ",".join([*(f'{name}=~"${name}"' for name in names), *([also] if also else [])])


def _over(function: str, counter: str, filters: str, by: str, window: str) -> str:
    return f"sum{f' by ({by})' if by else ''} ({function}(pointsman_{counter}{{{filters}}}[{window}]))"


def rate(counter: str, filters: str = "", by: str = "", window: str = NOW) -> str:
    """How much a counter grows in a second."""
    return _over("rate", counter, filters, by, window)


def rise(counter: str, filters: str = "", by: str = "", window: str = CHOSEN) -> str:
    """How much a counter grew in all of a time."""
    return _over("increase", counter, filters, by, window)


def per_hour(counter: str, filters: str = "", by: str = "") -> str:
    """What it comes to in an hour at the rate of the moment."""
    return f"3600 * {rate(counter, filters, by)}"


def share(part: str, whole: str) -> str:
    """A part of a whole; 0 where there is nothing of the part, no value where there is nothing of the whole."""
    return f"({part} or 0 * {whole}) / ({whole} > 0)"


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
    """How many times faster than it may the error budget is used up; 1 uses it up exactly."""
    ended = 'code!="client_gone"'
    bad, all_ = rate("requests_total", FAULTS, window=window), rate("requests_total", ended, window=window)
    return f"({share(bad, all_)}) / {1 - OBJECTIVE:.4g}"
