"""The arguments of `pointsman keys`. What they do is `gateway.keys.command`."""

from __future__ import annotations

import argparse
import os

from gateway import arguments

_CHANGED = "Exit codes: 0 it was done; 1 the running gateway does not follow (--now); 2 it was not done."
_TOLD = "Exit codes: 0 it was told; 1 the running gateway cannot be asked; 2 there is no such name."
_LISTED = "Exit codes: 0 they were listed; 2 the configuration or the file of keys is broken."


def keys(one: argparse.ArgumentParser) -> None:
    """Add the commands below it, with what each takes."""
    one.set_defaults(run=_run)
    below = one.add_subparsers(title="commands", required=True, metavar="COMMAND", dest="what")

    def command(name: str, says: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = below.add_parser(name, help=says, description=says)
        return made

    create = command("create", "Make a key, and print it: it is shown this once and kept nowhere.")
    create.add_argument("name", metavar="NAME", help="a name for it, under which books and limits are kept")
    _scope(create, " (default: everything)")
    _limits(create)
    create.add_argument("--as", dest="by", metavar="KEY", help="of no more than this key has; it must have may_create")
    update = command("update", "Change what a key may: of what is not named here, nothing changes. Prints what does.")
    update.add_argument("name", metavar="NAME")
    _scope(update)
    _limits(update)
    update.add_argument(
        "--unset", action="append", metavar="WHAT",
        help="take out what it says of this, such as rpm, budget, expires or tenant.team; may be given again",
    )  # fmt: skip
    update.add_argument("--dry-run", action="store_true", help="print what would change, and change nothing")
    rotate = command("rotate", "Give a name a new key, and print it; the one before is taken for a while yet.")
    rotate.add_argument("name", metavar="NAME")
    rotate.add_argument(
        "--overlap", metavar="TIME", help="how long both are taken, such as 12h; 0: not at all (default 24h)"
    )
    revoke = command("revoke", "Take a key back, and so all keys that it made.")
    revoke.add_argument("name", metavar="NAME")
    listed = command("list", "List keys: what each may use, until when, who made it. Never the keys.")
    listed.add_argument("--all", action="store_true", help="also those that were revoked")
    show = command("show", "Say what one key may, and what is left of all limits that bind it, of a running gateway.")
    show.add_argument("name", metavar="NAME")
    limits = command("limits", "Say what is left of all limits and budgets of a running gateway, most used first.")
    chosen = limits.add_mutually_exclusive_group()
    chosen.add_argument("--key", metavar="NAME", help="only those that bind this key: its own, its maker's, its team's")
    chosen.add_argument("--team", metavar="NAME", help="only those of this team and its keys")
    limits.add_argument(
        "--above",
        type=arguments.percent,
        metavar="N",
        default=0,
        help="only those of which N percent are used, or more",
    )
    for made in (show, limits):
        made.add_argument("--url", metavar="URL", help="its admin listener (default: the configuration's)")
        made.epilog = _TOLD
    listed.epilog = _LISTED
    for made in (create, update, rotate, revoke, listed, show, limits):
        arguments.config(made)
        arguments.as_json(made)
    for made in (create, update, rotate, revoke):
        made.epilog = _CHANGED
        made.add_argument("--now", action="store_true", help="have the running gateway follow, and wait until it does")
        made.add_argument(
            "--url", action="append", metavar="URL",
            help="its admin listener, for --now; may be given again, for each replica (default: the configuration's)",
        )  # fmt: skip


def _scope(one: argparse.ArgumentParser, unsaid: str = "") -> None:
    one.add_argument(
        "--allow", action="append", metavar="WHAT",
        help=f"auto, auto/POLICY, a model or a target that it may use; may be given again{unsaid}",
    )  # fmt: skip
    one.add_argument("--policy", metavar="NAME", help="what auto means for it")
    one.add_argument(
        "--priority", metavar="WORD", help="low, normal, high or critical: who is refused first when all is full"
    )
    one.add_argument("--team", metavar="NAME", help="short for --tenant team=NAME")
    one.add_argument("--tenant", action="append", metavar="FACT=VALUE", help="a fact for policies; may be given again")
    one.add_argument("--expires", metavar="WHEN", help="how long it lasts, such as 30d, or until when: 2026-12-31")
    yes = argparse.BooleanOptionalAction
    one.add_argument("--explain", action=yes, help="it may ask why its requests go where they go")
    one.add_argument("--may-create", action=yes, help="who holds it may make keys of no more than it has")


def _limits(one: argparse.ArgumentParser) -> None:
    for name, what in (
        ("rpm", "requests a minute"),
        ("tpm", "tokens a minute"),
        ("max-concurrent", "requests at one time"),
    ):
        one.add_argument(f"--{name}", metavar="N", help=f"{what}; also {{limit: N, mode: shadow}}")
    one.add_argument(
        "--budget", action="append", metavar="USD/PERIOD",
        help="such as 50/day, 800/month/soft, or {usd: 50, per: day, zone: Europe/Berlin}; may be given again",
    )  # fmt: skip


def _run(given: argparse.Namespace) -> int:
    from gateway.keys.command import run  # noqa: PLC0415 - only what runs is imported

    return run(given, arguments.config_of(given), os.environ)
