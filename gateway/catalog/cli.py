"""The arguments of `pointsman catalog`, and the question they make. What it does is `gateway.catalog.command`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from gateway import arguments


def catalog(one: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    one.set_defaults(run=_run)
    arguments.config(one, "whose `catalog:` goes over the shipped facts (default pointsman.yaml, if there is one)")
    for name, metavar, says in (
        ("overlay", "FILE", "one more catalogue file or folder over the others"),
        ("family", "NAME", "llama, qwen, ..."),
        ("model", "NAME", "a model or an alias of one, with its offers"),
        ("provider", "NAME", "offers of this provider"),
        ("language", "CODE", "models whose official list has it, such as ja"),
    ):
        one.add_argument(f"--{name}", action="append", default=[], metavar=metavar, help=says + "; may be given again")
    one.add_argument("--region", metavar="PLACE", help="offers there, such as eu or us-east-1")
    one.add_argument("--thinking", metavar="WORD", help="switchable, always, never or unknown")
    one.add_argument("--license", metavar="ID", help="models under this licence, such as Apache-2.0")
    one.add_argument("--open-weights", action="store_true", help="models whose weights can be had")
    one.add_argument("--fits", type=_tokens, metavar="TOKENS", help="offers that serve so much, such as 300k")
    one.add_argument("--retiring", type=_days, metavar="TIME", help="offers withdrawn within this time, such as 90d")
    one.add_argument("--withdrawn", action="store_true", help="show offers that are withdrawn already, too")
    one.add_argument("--offers", action="store_true", help="list offers instead of models")
    one.add_argument("--source", action="store_true", help="show each fact with its source, date, confidence and line")
    one.add_argument("--diff", action="store_true", help="show what overlays change, fact by fact")
    arguments.as_json(one)


def _run(given: argparse.Namespace) -> int:
    from datetime import UTC, datetime

    from gateway.catalog.command import Asked, answer, overlays_of
    from gateway.catalog.query import Query
    from gateway.compiled import cache_dir

    cache = cache_dir(os.environ)
    query = Query(
        families=tuple(given.family),
        models=tuple(given.model),
        providers=tuple(given.provider),
        region=given.region,
        thinking=given.thinking,
        license=given.license,
        open_weights=given.open_weights,
        languages=tuple(given.language),
        fits=given.fits,
        retiring_days=given.retiring,
        withdrawn=given.withdrawn,
    )
    config = arguments.config_there(given)
    overlays = (*(overlays_of(config, cache) if config else ()), *map(Path, given.overlay))
    asked = Asked(query, overlays, given.offers, given.source, given.diff, given.json)
    return answer(asked, cache=cache, today=datetime.now(UTC).date())


def _tokens(text: str) -> int:
    from gateway.core.quantities import Invalid, tokens

    try:
        return tokens(text)
    except Invalid as error:
        raise argparse.ArgumentTypeError(f"{error.what}: {error.valid}") from None


def _days(text: str) -> int:
    from gateway.core.quantities import Invalid, seconds

    try:
        return int(seconds(text) // 86_400)
    except Invalid as error:
        raise argparse.ArgumentTypeError(f"{error.what}: {error.valid}") from None
