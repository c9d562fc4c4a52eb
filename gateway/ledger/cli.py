"""The arguments of `pointsman usage`. What it does is `gateway.ledger.command`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from gateway import arguments

#: As `report.GROUPS`, which is not imported for the sake of a parser.
GROUPS = ("key", "team", "model", "target", "rule", "policy", "shadow", "replica", "day")


def usage(one: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    one.set_defaults(run=_run)
    one.epilog = (
        "Times are taken to whole quarters of an hour. Works beside a running gateway, which may be a second ahead. "
        "Exit codes: 0 told; 2 there are no books, or they are damaged, or an argument is broken."
    )
    arguments.config(one)
    one.add_argument("--dir", type=Path, metavar="DIR", help="the ledger's folder (default: the configuration's)")
    one.add_argument(
        "--by",
        default="team,key",
        metavar="WHAT",
        help=f"some of {','.join(GROUPS)} (default team,key), or total",
    )
    one.add_argument(
        "--since", metavar="WHEN", help="today, yesterday, a day such as 2026-11-21, or how long ago: 36h, 7d"
    )
    one.add_argument("--until", metavar="WHEN", help="up to then; the day itself is not in it")
    one.add_argument("--last", metavar="TIME", help="the same as --since with how long ago")
    one.add_argument("--day-zone", default="UTC", metavar="ZONE", help="where days begin, such as Europe/Berlin")
    for name in GROUPS[:-1]:
        one.add_argument(f"--{name}", action="append", metavar="NAME", help=f"of this {name} only; may be given again")
    one.add_argument("--own", action="store_true", help="of this replica's own books, where they are shipped elsewhere")
    one.add_argument("--csv", action="store_true", help="print CSV")
    one.add_argument("--export", choices=("jsonl", "csv"), help="print every attempt that is kept, instead of sums")
    one.add_argument(
        "--repair", action="store_true", help="keep damaged files aside and make the books again from what can be read"
    )
    arguments.as_json(one)


def _run(given: argparse.Namespace) -> int:
    from gateway.ledger.command import run  # noqa: PLC0415 - only what runs is imported

    return run(given, arguments.config_of(given), os.environ)
