"""The arguments of `pointsman check`, and how its verdict is printed. What it does is `gateway.check.command`."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from gateway import arguments
from gateway.printing import NO, OK, print_json


def check(one: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    one.set_defaults(run=_run)
    arguments.config(one)
    one.add_argument("--policy", action="append", default=[], metavar="NAME", help="this one; may be said again")
    where = (
        "your own fleet (default); all that any installation could make of the catalogue; or the reference fleet, "
        "which tests run on"
    )
    one.add_argument("--against", choices=("fleet", "catalogue", "reference"), default="fleet", help=where)
    paths = "policies, parts or folders of them, in place of the configuration's; not against your own fleet"
    one.add_argument("--policies", action="append", default=[], type=Path, metavar="PATH", help=paths)
    one.add_argument("--strict", action="store_true", help="exit with 1 if there is a warning that nobody accepts")
    one.add_argument("--verbose", action="store_true", help="also show what is only good to know (severity info)")
    without = "ask for no keys and packages that only serving needs: for machines that do not serve"
    one.add_argument("--no-keys", action="store_true", help=without)
    arguments.as_json(one)


def _run(given: argparse.Namespace) -> int:
    from gateway.check.command import Options, check  # noqa: PLC0415 - only what runs is imported

    options = Options(
        config=arguments.config_of(given),
        given=given.config is not None,
        policies=given.policy,
        against=given.against,
        secrets=not given.no_keys,
        files=given.policies,
    )
    checked = check(options, os.environ, time.time())
    ok = not (given.strict and checked.report.wrong)
    if given.json:
        print_json(checked.report.to_dict(ok=ok))
    else:
        for line in checked.report.lines(verbose=given.verbose):
            print(line)
        print(f"{'ok' if ok else 'not ok'}: {checked.summary}")
    return OK if ok else NO
