"""What `pointsman replay` and `pointsman savings` do with their arguments, which stand in `cli`.

Exit codes: 0 it was told; 1 a record did not come out as it did under its own policy and fleet, or no record was
meant; 2 an argument, the configuration or a policy is broken.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.core.errors import ConfigError, Problem
from gateway.core.quantities import Invalid, seconds
from gateway.printing import NO, OK, failed, print_json
from gateway.progress import Progress, waiting
from gateway.replay.reading import Read, Wanted, files_of, read

if TYPE_CHECKING:
    from gateway.core.policy import Policy
    from gateway.core.recorded.records import Recorded
    from gateway.includes import Part
    from gateway.replay.savings import Savings
    from gateway.site import Site


def replay(given: argparse.Namespace) -> int:
    """Decide records again by a policy and tell what changes. Raises `ConfigError`."""
    from gateway.replay.comparison import Comparison  # noqa: PLC0415 - only commands that need it wait for it
    from gateway.replay.telling import as_json, assumptions, lines  # noqa: PLC0415

    paths, wanted = files_of(given.records), wanted_of(given, time.time())
    overlays = overlays_of(given.config)
    site = site_of(given.config)
    policy = policy_of(given.policy, site, overlays)
    names = frozenset(given.in_place_of or [policy.name])
    found = Comparison(policy, frozenset() if "all" in names else names, capped=site.quotas.capped())
    told = Read()
    count(found.add, reading(paths, wanted, told, "replaying"), told)
    if not found.total:
        return failed("replay", _nothing(names, found.elsewhere, told), as_json=given.json, code=NO)
    if given.json:
        overlaid = [part.doc.part for part in overlays]
        print_json({"ok": not found.not_reproduced, **as_json(found, told), "overlays": overlaid})
    else:
        if overlays:
            print(f"under what the configuration lays over it: {', '.join(part.doc.part for part in overlays)}")
        print(*lines(found, told, given.rows), *(assumptions() if found.money.likely else ()), sep="\n")
    return NO if found.not_reproduced else OK


def _nothing(names: frozenset[str], elsewhere: int, told: Read) -> str:
    """Why nothing was replayed."""
    if told.damaged and not told.wanted:
        return f"no record can be read; the first of {told.damaged:,} damaged: {told.places[0]}"
    if not told.wanted:
        return "no record is meant: the files are empty, or --since, --until, --key or --team leave none of them"
    others = f", {elsewhere:,} of other policies: try --in-place-of all" if elsewhere else ""
    return f"no record is of policy {', '.join(sorted(names))}{others}"


def savings(given: argparse.Namespace) -> int:
    """Compare what was spent with baselines. Raises `ConfigError`."""
    from gateway.core.recorded.replay import Replay  # noqa: PLC0415
    from gateway.replay.savings import COMPARED, Savings, as_json, copy_lines, everything_to, lines  # noqa: PLC0415
    from gateway.replay.telling import assumptions  # noqa: PLC0415

    paths, wanted, site = files_of(given.records), wanted_of(given, time.time()), site_of(given.config)
    found = []
    overlays = overlays_of(given.config)
    for name in given.baseline:
        if name.endswith((".yaml", ".yml")):
            policy = policy_of(Path(name), site, overlays)
            found.append(Savings(policy.label, Replay(policy, healthy=True)))
        else:
            found.append(Savings(name, everything_to(name, site.fleet), thinks=False))
    told = Read()

    def add(recorded: Recorded) -> None:
        for one in found:
            one.add(recorded)

    count(add, reading(paths, wanted, told, "comparing"), told)
    compared = any(one.compared.requests for one in found)
    if given.json:
        made = {"baselines": [as_json(one, told) for one in found], "shadows": told.copies.to_dict()}
        print_json({"ok": compared, **made})
    elif given.csv:
        _csv(found, told)
    else:
        for one in found:
            print(*lines(one, told, given.rows), sep="\n")
        print(*copy_lines(told.copies, given.rows), *assumptions(COMPARED), sep="\n")
    return OK if compared else NO


def _csv(found: Sequence[Savings], told: Read) -> None:
    import csv  # noqa: PLC0415

    from gateway.replay.savings import CSV_HEAD, copy_rows, rows  # noqa: PLC0415

    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(CSV_HEAD)
    for one in found:
        out.writerows(rows(one))
    out.writerows(copy_rows(told.copies))


def count(add: Any, records: Iterable[Recorded], told: Read) -> None:
    """Hand every record to what counts it; one that cannot be true counts as damaged, in whatever way it shows."""
    from gateway.core.recorded.records import Unreadable  # noqa: PLC0415

    for recorded in records:
        try:
            add(recorded)
        except (ValueError, TypeError, ArithmeticError, LookupError) as error:
            path, line = told.place
            what = str(error) if isinstance(error, Unreadable) else f"cannot be true: {type(error).__name__}"
            told.damage(f"{path}:{line}", what)


def reading(paths: list[Path], wanted: Wanted, told: Read, says: str) -> Iterator[Recorded]:
    """The wanted records, with a progress bar where somebody watches."""
    progress = Progress(says, sys.stderr)
    try:
        yield from read(paths, wanted, told, progress.at if sys.stderr.isatty() else None)
    finally:
        progress.done()


def wanted_of(given: argparse.Namespace, now: float) -> Wanted:
    """Which records the command line means. Raises `ConfigError`."""
    return Wanted(
        since=0.0 if given.since is None else _moment("--since", given.since, now),
        until=float("inf") if given.until is None else _moment("--until", given.until, now),
        keys=frozenset(given.key),
        teams=frozenset(given.team),
        limit=given.limit,
    )


def site_of(config: Path | None) -> Site:
    """The configuration whose fleet is meant. Raises `ConfigError`."""
    from gateway.site import load_site  # noqa: PLC0415

    with waiting("reading the configuration"):
        return load_site(config or Path("pointsman.yaml"), os.environ, secrets=False, tests=False)


def overlays_of(config: Path | None) -> tuple[Part, ...]:
    """What the configuration lays over its policies. Raises `ConfigError`."""
    from gateway import policyfile  # noqa: PLC0415
    from gateway.compiled import cache_dir  # noqa: PLC0415

    return policyfile.overlays_of(config or Path("pointsman.yaml"), cache=cache_dir(os.environ))


def policy_of(path: Path, site: Site, overlays: Sequence[Part]) -> Policy:
    """A policy's file on a site's fleet, under what lies over it when it serves. Raises `ConfigError`."""
    from gateway.compiled import cache_dir  # noqa: PLC0415
    from gateway.policyfile import lay_over, load_policy  # noqa: PLC0415

    return lay_over(load_policy(path, cache=cache_dir(os.environ)), overlays).bind(site.fleet)


def _moment(option: str, text: str, now: float) -> float:
    """A day (midnight UTC), or how long ago."""
    try:
        if len(text) == 10 and text[4] == "-":
            day = date.fromisoformat(text)
            return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
        return now - seconds(text)
    except (ValueError, Invalid):
        valid = "a day such as 2026-11-21, or how long ago, such as 36h or 7d"
        raise ConfigError([Problem(option, 0, "", f"{text!r:.40} is no moment", valid)]) from None
