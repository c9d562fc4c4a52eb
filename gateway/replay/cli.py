"""The arguments of `pointsman replay` and `pointsman savings`. What they do is `gateway.replay.command`."""

from __future__ import annotations

import argparse
from pathlib import Path

from gateway import arguments
from gateway.arguments import positive


def _both(parser: argparse.ArgumentParser) -> None:
    """What both commands take."""
    parser.add_argument("records", nargs="+", type=Path, metavar="RECORDS", help="files of records, or folders of them")
    parser.add_argument("--since", metavar="WHEN", help="a day such as 2026-11-21, or how long ago: 36h, 7d")
    parser.add_argument("--until", metavar="WHEN", help="up to then")
    parser.add_argument("--limit", type=positive, metavar="N", help="the first N records only")
    parser.add_argument("--key", action="append", default=[], metavar="NAME", help="of this key; may be given again")
    parser.add_argument("--team", action="append", default=[], metavar="NAME", help="of this team; may be given again")
    parser.add_argument("--rows", type=positive, default=12, metavar="N", help="lines of each table (default 12)")


def replay(one: argparse.ArgumentParser) -> None:
    """Add what `replay` takes."""
    one.set_defaults(run=_replay)
    arguments.config(one, "whose fleet it decides on (default pointsman.yaml)")
    _both(one)
    one.add_argument("--policy", type=Path, required=True, metavar="FILE", help="the policy to decide by")
    one.add_argument(
        "--in-place-of", action="append", default=[], metavar="NAME",
        help="the policy whose requests it decides (default: of its own name; all: every one)",
    )  # fmt: skip
    arguments.as_json(one)


def savings(one: argparse.ArgumentParser) -> None:
    """Add what `savings` takes."""
    one.set_defaults(run=_savings)
    arguments.config(one, "whose fleet and prices are meant (default pointsman.yaml)")
    _both(one)
    one.add_argument(
        "--baseline", action="append", required=True, metavar="WHAT",
        help="a model, a target or a policy's file that would have answered everything; may be given again",
    )  # fmt: skip
    one.add_argument("--csv", action="store_true", help="print CSV")
    arguments.as_json(one)


def _replay(given: argparse.Namespace) -> int:
    from gateway.replay import command  # noqa: PLC0415 - only what runs is imported

    return command.replay(given)


def _savings(given: argparse.Namespace) -> int:
    from gateway.replay import command  # noqa: PLC0415 - as above

    return command.savings(given)
