"""The arguments of `pointsman top`. Light: every command's parser imports it.

What the command does is `gateway.top.command`, which is imported when it runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from gateway.arguments import seconds

#: What rows may be sorted by, each with its key on the screen.
SORT_KEYS = {"requests": "r", "tokens": "t", "cost": "c", "latency": "l", "errors": "e", "name": "n"}


def arguments(one: argparse.ArgumentParser) -> None:
    """Add what the command takes, apart from `--config` and `--json`, which others take too."""
    one.epilog = (
        "Keys: q ends, " + ", ".join(f"{key} sorts by {name}" for name, key in SORT_KEYS.items()) + ". "
        "Exit codes: 0 every gateway answered, or q; 1 with --once: one did not; 2 an argument or the configuration "
        "is broken."
    )
    one.add_argument(
        "--url", action="append", default=[], metavar="URL",
        help="an admin listener; several are summed (default: the configuration's, else http://127.0.0.1:8081)",
    )  # fmt: skip
    one.add_argument("--interval", type=seconds, default=2.0, metavar="S", help="seconds between refreshes (default 2)")
    one.add_argument("--over", type=seconds, default=30.0, metavar="S", help="rates of the last S seconds (default 30)")
    one.add_argument("--once", action="store_true", help="print one table, of one interval, and end")
    one.add_argument("--sort", choices=tuple(SORT_KEYS), default="requests", help="what comes first (default requests)")


def run(given: argparse.Namespace, default: Path | None, environ: Mapping[str, str]) -> int:
    """Run the command and return its exit code. `default` is the configuration where none is named.

    Raises `ConfigError`.
    """
    from gateway.top.command import Options, run  # noqa: PLC0415 - only what runs is imported

    options = Options(
        config=given.config,
        beside=default,
        urls=given.url,
        interval_s=given.interval,
        over_s=given.over,
        once=given.once,
        as_json=given.json,
        sort=given.sort,
        colour=not given.no_color,
    )
    return run(options, environ)
