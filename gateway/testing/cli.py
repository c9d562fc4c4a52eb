"""The arguments of `pointsman test`. What it does is `gateway.testing.command`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from gateway import arguments
from gateway.printing import failed


def test(one: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    one.set_defaults(run=_run)
    one.epilog = "Exit codes: 0 all passed; 1 a test failed, too little is covered, a mutant lives; 2 a file is broken."
    paths = "files or folders (default: the configuration's; without one, those that come with Pointsman)"
    one.add_argument("paths", nargs="*", type=Path, metavar="POLICY", help=paths)
    whose = "whose policies are the default, and whose `catalog:` may name further models (default pointsman.yaml)"
    arguments.config(one, whose)
    one.add_argument("-k", metavar="TEXT", help="only tests whose name holds this")
    one.add_argument("--junit", type=Path, metavar="FILE", help="also write the results as JUnit XML")
    one.add_argument("--coverage", action="store_true", help="show rules, rungs, constraints that no test reaches")
    one.add_argument(
        "--min-coverage", type=arguments.percent, metavar="PERCENT", help="exit with 1 if a file's coverage is less"
    )
    one.add_argument(
        "--mutants", action="store_true", help="change one thing of a policy at a time; show what no test notices"
    )
    one.add_argument(
        "--time-limit", type=arguments.seconds, default=60.0, metavar="S", help="seconds for --mutants (default 60)"
    )
    arguments.as_json(one)


def _run(given: argparse.Namespace) -> int:
    from gateway.testing.command import Options, run  # noqa: PLC0415 - only what runs is imported

    options = Options(
        paths=given.paths,
        config=arguments.config_there(given),
        as_json=given.json,
        chosen=given.k,
        junit=given.junit,
        coverage=given.coverage,
        min_coverage=given.min_coverage,
        mutants=given.mutants,
        time_limit_s=given.time_limit,
    )
    try:
        return run(options, os.environ)
    except BrokenPipeError:  # `| head`: for `main`
        raise
    except OSError as error:
        return failed("test", error, as_json=given.json)
