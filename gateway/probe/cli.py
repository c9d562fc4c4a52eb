"""The arguments of `pointsman probe`. What it does is `gateway.probe.command`."""

from __future__ import annotations

import argparse
import os

from gateway import arguments


def probe(one: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    one.set_defaults(run=_run)
    one.add_argument("targets", nargs="*", metavar="TARGET", help="default: all")
    arguments.config(one)
    one.add_argument("--dry-run", action="store_true", help="say what it would cost at most, and ask nothing")
    one.add_argument("--window", action="store_true", help="send prompts of a whole window, also where they cost money")
    one.add_argument("--write", action="store_true", help="put what differs into the file, in place")
    one.add_argument(
        "--timeout", type=arguments.seconds, default=60.0, metavar="S", help="seconds of silence (default 60)"
    )
    arguments.as_json(one)


def _run(given: argparse.Namespace) -> int:
    from gateway.probe.command import Options, run  # noqa: PLC0415 - only what runs is imported

    options = Options(
        config=arguments.config_of(given),
        targets=given.targets,
        dry_run=given.dry_run,
        as_json=given.json,
        write=given.write,
        window=given.window,
        timeout_s=given.timeout,
    )
    return run(options, os.environ)
