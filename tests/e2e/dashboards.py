"""The committed dashboards as tests and pictures read them: panels, what they ask, and the answer to a variable.

Grafana fills variables in before it asks Prometheus; `filled` does the same for a dashboard on which all is chosen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from deploy.grafana.promql import FINEST, STEP
from tests.harness import ROOT

FILES = sorted((ROOT / "deploy/grafana/dashboards").glob("*.json"))
BOARDS: dict[str, dict[str, Any]] = {path.stem: json.loads(path.read_text("utf-8")) for path in FILES}

#: Families in a query: our own, the servers' own, and Prometheus's of alerts and processes.
_FAMILY = re.compile(r"\b((?:pointsman_|process_)\w+|(?:vllm|llamacpp):\w+|ALERTS)\b")


@dataclass(frozen=True)
class Ask:
    """One query of a panel."""

    board: str
    panel: dict[str, Any]
    query: str
    legend: str
    exemplar: bool

    @property
    def title(self) -> str:
        """The panel's."""
        return str(self.panel["title"])

    @property
    def families(self) -> set[str]:
        """What it reads, by the name that a family has in the exposition."""
        return {re.sub(r"_(bucket|sum|count)$", "", name) for name in _FAMILY.findall(self.query)}


def panels(board: str) -> Iterator[dict[str, Any]]:
    """Its panels in reading order, without the rows' headings."""
    for panel in BOARDS[board]["panels"]:
        if panel["type"] != "row":
            yield panel


def asks() -> list[Ask]:
    """Every query of every panel."""
    return [
        Ask(board, panel, target["expr"], target.get("legendFormat", ""), bool(target.get("exemplar")))
        for board in BOARDS
        for panel in panels(board)
        for target in panel["targets"]
    ]


def variables() -> list[tuple[str, str, str]]:
    """(dashboard, variable, what it asks for) of every variable that is filled from metrics."""
    return [
        (board, one["name"], one["query"]["query"])
        for board, made in BOARDS.items()
        for one in made["templating"]["list"]
        if one["type"] == "query"
    ]


def filled(query: str, *, now: str, chosen: str, step: str = FINEST) -> str:
    """A query with everything chosen; `now` and `chosen` are the windows of a rate and of the dashboard."""
    query = query.replace("$__rate_interval", now).replace(STEP, step)
    query = re.sub(r'=~"\$\w+"', '=~".*"', query.replace("$__range", chosen))
    assert "$" not in query, query
    return query
