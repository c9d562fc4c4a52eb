"""The arguments of `pointsman replay` and `pointsman savings`. What the commands do is imported when one runs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from gateway import arguments
from gateway.arguments import positive
from gateway.printing import broken


def _arguments(parser: argparse.ArgumentParser) -> None:
    """What both commands take."""
    parser.add_argument("records", nargs="+", type=Path, metavar="RECORDS", help="files of records, or folders of them")
    parser.add_argument("--since", metavar="WHEN", help="a day such as 2026-11-21, or how long ago: 36h, 7d")
    parser.add_argument("--until", metavar="WHEN", help="up to then")
    parser.add_argument("--limit", type=positive, metavar="N", help="the first N records only")
    parser.add_argument("--key", action="append", default=[], metavar="NAME", help="of this key; may be given again")
    parser.add_argument("--team", action="append", default=[], metavar="NAME", help="of this team; may be given again")
    parser.add_argument("--rows", type=positive, default=12, metavar="N", help="lines of each table (default 12)")


def commands(
    command: Callable[[str, Any, str], argparse.ArgumentParser],
) -> None:
    """Add both commands to the command line, by its way of adding a command."""
    one = command(
        "replay",
        partial(_told, "replay"),
        "Decide recorded requests by another policy: what changes, and what that costs.",
    )
    arguments.config(one, "whose fleet it decides on (default pointsman.yaml)")
    _arguments(one)
    one.add_argument("--policy", type=Path, required=True, metavar="FILE", help="the policy to decide by")
    one.add_argument(
        "--in-place-of", action="append", default=[], metavar="NAME",
        help="the policy whose requests it decides (default: of its own name; all: every one)",
    )  # fmt: skip
    arguments.as_json(one)
    one = command(
        "savings",
        partial(_told, "savings"),
        "Compare what recorded requests cost with what a baseline would have cost.",
    )
    arguments.config(one, "whose fleet and prices are meant (default pointsman.yaml)")
    _arguments(one)
    one.add_argument(
        "--baseline", action="append", required=True, metavar="WHAT",
        help="a model, a target or a policy's file that would have answered everything; may be given again",
    )  # fmt: skip
    one.add_argument("--csv", action="store_true", help="print CSV")
    arguments.as_json(one)


def _told(name: str, given: argparse.Namespace) -> int:
    from gateway.core.errors import ConfigError  # noqa: PLC0415 - `pointsman --help` waits for no library
    from gateway.replay import command  # noqa: PLC0415

    try:
        return command.replay(given) if name == "replay" else command.savings(given)
    except ConfigError as error:
        return broken(error, as_json=given.json)
