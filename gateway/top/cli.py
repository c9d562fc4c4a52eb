"""The arguments of `pointsman top`. What it does is `gateway.top.command`."""

from __future__ import annotations

import argparse
import os

from gateway import arguments
from gateway.arguments import seconds

#: What rows may be sorted by, each with its key on the screen.
SORT_KEYS = {"requests": "r", "tokens": "t", "cost": "c", "latency": "l", "errors": "e", "name": "n"}


def top(one: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    one.set_defaults(run=_run)
    one.epilog = (
        "Keys: q ends, " + ", ".join(f"{key} sorts by {name}" for name, key in SORT_KEYS.items()) + ". "
        "Exit codes: 0 every gateway answered, or q; 1 with --once: one did not; 2 an argument or the configuration "
        "is broken."
    )
    arguments.config(one, "whose admin listener is asked (default pointsman.yaml, if there is one)")
    one.add_argument(
        "--url", action="append", default=[], metavar="URL",
        help="an admin listener; several are summed (default: the configuration's, else http://127.0.0.1:8081)",
    )  # fmt: skip
    one.add_argument("--interval", type=seconds, default=2.0, metavar="S", help="seconds between refreshes (default 2)")
    one.add_argument("--over", type=seconds, default=30.0, metavar="S", help="rates of the last S seconds (default 30)")
    one.add_argument("--once", action="store_true", help="print one table, of one interval, and end")
    one.add_argument("--sort", choices=tuple(SORT_KEYS), default="requests", help="what comes first (default requests)")
    arguments.no_color(one)
    arguments.as_json(one)


def _run(given: argparse.Namespace) -> int:
    from gateway.top.command import Options, run  # noqa: PLC0415 - only what runs is imported

    options = Options(
        config=given.config,
        beside=arguments.config_there(given),
        urls=given.url,
        interval_s=given.interval,
        over_s=given.over,
        once=given.once,
        as_json=given.json,
        sort=given.sort,
        colour=not given.no_color,
    )
    return run(options, os.environ)
