"""Writes deploy/grafana/dashboards/*.json from the tables of panels beside this file.

python -m deploy.grafana             writes them
python -m deploy.grafana --check     exit 1 if they are not what would be written
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana import cost, latency, overview, routing, targets
from deploy.grafana.panels import Board, build

OUT = Path(__file__).parent / "dashboards"
BOARDS = (overview.BOARD, cost.BOARD, latency.BOARD, routing.BOARD, targets.BOARD)


def text(board: Board) -> str:
    """A dashboard's file."""
    return json.dumps(build(board), cls=JSONEncoder, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def files() -> dict[Path, str]:
    """All of them by their path."""
    return {OUT / f"{board.uid.removeprefix('pointsman-')}.json": text(board) for board in BOARDS}


def main() -> int:
    """Write the files and take away others, or with --check say whether they are what would be written."""
    wanted, there = files(), set(OUT.glob("*.json"))
    if sys.argv[1:] == ["--check"]:
        return 0 if there == wanted.keys() and all(p.read_text("utf-8") == t for p, t in wanted.items()) else 1
    for path in there - wanted.keys():
        path.unlink()
    for path, content in wanted.items():
        path.write_text(content, "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
