"""Draws each dashboard's data: runs mixed traffic, asks a real Prometheus what every panel asks, writes SVG files.

    python -m tests.e2e.pictures [--seconds 120] [--into docs/pictures]

What they show is of that run. They are drawn by `drawing`, from query results; no Grafana has a part in it.
"""

from __future__ import annotations

import argparse
import math
import re
import tempfile
from pathlib import Path
from typing import Any

import httpx

from tests.e2e import drawing
from tests.e2e.dashboards import BOARDS, panels
from tests.e2e.drawing import Drawn, Series
from tests.e2e.observed import Observed, observed
from tests.harness import ROOT

STEPS = 60
CAPTION = "Drawn from query results of a test run (python -m tests.e2e.pictures), not a screenshot of Grafana."


def asked(seen: Observed, panel: dict[str, Any]) -> Drawn:
    """A panel and its answers over the time that was watched, or at its end where that is what it asks for."""
    found: list[Series] = []
    with httpx.Client(base_url=seen.prometheus.url, trust_env=False, timeout=30) as client:
        for target in panel["targets"]:
            query = seen.filled(target["expr"])
            if target.get("instant"):
                answer = client.get("/api/v1/query", params={"query": query, "time": seen.until - 1})
            else:
                step = (seen.until - seen.since) / STEPS
                span = {"query": query, "start": seen.since, "end": seen.until, "step": step}
                answer = client.get("/api/v1/query_range", params=span)
            answer.raise_for_status()
            for row in answer.json()["data"]["result"]:
                points = [(float(at), float(value)) for at, value in row.get("values") or [row["value"]]]
                points = [point for point in points if math.isfinite(point[1])]
                if points:
                    name = legend(target.get("legendFormat", ""), row["metric"])
                    found.append(Series(row["metric"], target["refId"], name, points))
    return Drawn(panel, found, seen.since, seen.until)


def legend(pattern: str, labels: dict[str, str]) -> str:
    """A series' name as Grafana makes it."""
    if pattern == "__auto":
        return ", ".join(value for name, value in sorted(labels.items()) if name != "__name__")
    return re.sub(r"{{(\w+)}}", lambda one: labels.get(one[1], ""), pattern)


def main() -> int:
    """Write a file for each dashboard."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.pictures", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120, help="how long traffic lasts")
    parser.add_argument("--into", type=Path, default=ROOT / "docs" / "pictures")
    given = parser.parse_args()
    given.into.mkdir(parents=True, exist_ok=True)
    third = given.seconds / 3
    with (
        tempfile.TemporaryDirectory() as directory,
        observed(Path(directory), [(third, 2), (third, 6), (third, 3)]) as it,
    ):
        for name, made in BOARDS.items():
            drawn = {panel["id"]: asked(it, panel) for panel in panels(name)}
            path = given.into / f"{name}.svg"
            path.write_text(drawing.dashboard(made, drawn, CAPTION), "utf-8")
            print(f"{path}: {path.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
