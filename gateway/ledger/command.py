"""`pointsman usage`: what was used and what it cost, from the books on disk, or from those of all replicas.

Here: what the arguments mean, and how a report is printed. Sums are made in `report`.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from gateway import configfile
from gateway.compiled import cache_dir
from gateway.config import ConfigDoc
from gateway.core.errors import BadRequest, ConfigError, InternalError, Problem, Unavailable
from gateway.core.quantities import Invalid, seconds
from gateway.core.types import NANO_PER_USD
from gateway.keys.file import Place
from gateway.keys.file import read as read_keys
from gateway.ledger import shared
from gateway.ledger.directory import DATABASE, LedgerBusy, LedgerError, LedgerSettings
from gateway.ledger.ledger import open_ledger
from gateway.ledger.repair import repair
from gateway.ledger.report import (
    GROUPS,
    SUMS,
    Asked,
    Books,
    Report,
    attempts,
    exported,
    lagging,
    midnight,
    names,
    reading,
    report,
    usd,
)  # fmt: skip
from gateway.printing import OK, failed, print_json
from gateway.problems import suggest
from gateway.terminal import in_columns

logger = logging.getLogger("pointsman")


def run(given: argparse.Namespace, config: Path, environ: Mapping[str, str]) -> int:
    """Print what was asked for. Raises ConfigError for arguments and a configuration that mean nothing."""
    settings, doc = _settings(given, config, environ)
    asked = asked_of(vars(given), time.time())
    try:
        if given.repair:
            for line in repair(settings):
                print(line, file=sys.stderr)
        with _books(settings, own=given.own or given.repair, catch_up=not given.repair) as db:
            _told_apart(asked, db, settings, "--own")
            _known(asked, doc, db)
            if isinstance(db, shared.Empty) and not given.json:
                print(NOTHING, file=sys.stderr)
            alone = doc is not None and doc.store is not None and not db.replicas
            if alone and not given.json:
                print(ALONE if settings.postgres is None else ALONE_HERE, file=sys.stderr)
            if given.export:
                _export(db, asked, given.export)
            else:
                _print(report(db, asked), as_json=given.json, as_csv=given.csv, alone=alone)
    except LedgerError as error:
        here = "; with --own, the books of this replica" if settings.postgres is not None and not given.own else ""
        return failed("usage", f"{error}{here}", as_json=given.json)
    except sqlite3.Error as error:
        return failed("usage", f"{settings.directory / DATABASE}: {error}", as_json=given.json)
    return OK


@contextmanager
def _books(settings: LedgerSettings, *, own: bool, catch_up: bool) -> Iterator[Books]:
    """Those of all replicas where they are shipped, else those of this one. Raises LedgerError."""
    if settings.postgres is not None and not own:
        with shared.reading(settings.postgres) as books:
            yield books
        return
    if catch_up:
        _catch_up(settings)
    with reading(settings.directory) as db:
        yield db


def _told_apart(asked: Asked, db: Books, settings: LedgerSettings, own: str) -> None:
    """Raises ConfigError where replicas are asked about of books that are one replica's."""
    option = "--by" if "replica" in asked.by else "--replica"
    if not db.replicas and ("replica" in asked.by or "replica" in asked.only):
        valid = "ledger: {postgres: ...}" if settings.postgres is None else f"leave out {own}, for those of all"
        raise _wrong(option, "these are the books of one replica", valid)


def _settings(
    given: argparse.Namespace, config: Path, environ: Mapping[str, str]
) -> tuple[LedgerSettings, ConfigDoc | None]:
    """Where the books lie, and the configuration, if that is what says it."""
    if given.dir is not None:
        return LedgerSettings(given.dir), None
    document, doc = configfile.read(config, cache=cache_dir(environ))
    found: list[Problem] = []
    here = given.own or given.repair  # what opens PostgreSQL is not needed then, and may not be on this machine
    settings = doc.books(config, environ, lambda *said: found.append(document.problem(*said)), [], secrets=not here)
    if found:
        raise ConfigError(found)
    if settings is None:
        raise ConfigError(
            [Problem(str(config), 0, "ledger", "says none, so nothing was booked", "ledger: {dir: PATH}")]
        )
    made = read_keys(Place.of(doc, config).path)
    return settings, doc if made is None else doc.model_copy(update={"keys": [*doc.keys, *made.keys]})


def _known(asked: Asked, doc: ConfigDoc | None, db: Books) -> None:
    """Raises ConfigError for a name that neither the books nor the configuration has, rather than say it spent 0."""
    configured: Mapping[str, Iterable[str]] = {}
    if doc is not None:
        teams = [key.tenant["team"] for key in doc.keys if "team" in key.tenant]
        configured = {"key": [key.name for key in doc.keys], "team": teams, "target": doc.targets}
    for group, wanted in asked.only.items():
        booked = names(db, group)
        for name in wanted:
            if name not in booked and name not in configured.get(group, ()):
                near = sorted({*booked, *configured.get(group, ())} - {""})
                what = f"there is no {group} {name!r:.60} in the books"
                raise _wrong(f"--{group}", what, suggest(name, near) or "nothing is booked yet")


def _catch_up(settings: LedgerSettings) -> None:
    """Where no gateway runs, take in what the last one left: it may have been killed. Raises LedgerError."""
    if (settings.directory / DATABASE).exists():
        try:
            open_ledger(replace(settings, postgres=None)).close()  # nothing is shipped by this
        except LedgerBusy:
            return  # the one that runs does so itself


def asked_of(given: Mapping[str, Any], now: float) -> Asked:
    """What arguments, or the parameters of a URL by the same names, ask for. Raises ConfigError."""
    zone = _zone(given.get("day_zone") or "UTC")
    by = tuple(dict.fromkeys(one.strip() for one in (given.get("by") or "team,key").split(",") if one.strip()))
    if by == ("total",):
        by = ()
    for one in by:
        if one not in GROUPS:
            raise _wrong("--by", f"{one!r:.40} is nothing to group by", suggest(one, GROUPS))
    if given.get("since") and given.get("last"):
        raise _wrong("--last", "says when to begin, and so does --since", "one of both")
    begins = "--since" if given.get("since") else "--last"
    since = given.get("since") or given.get("last")
    if given.get("day"):
        raise _wrong("--day", "chooses nothing", "since and until")
    only = {name: tuple(given[name]) for name in GROUPS if given.get(name)}
    return Asked(
        by,
        _moment(begins, since, now, zone) if since else 0,
        _moment("--until", given["until"], now, zone) if given.get("until") else 1 << 52,
        zone,
        only,
    )


def _zone(name: str) -> tzinfo:
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise _wrong("--day-zone", f"{name!r:.60} is no time zone", "a name such as Europe/Berlin, or UTC") from None


_DAYS = ("today", "yesterday")


def _moment(option: str, text: str, now: float, zone: tzinfo) -> int:
    """A day (its midnight in the zone), a moment in ISO 8601, or how long ago, in Unix milliseconds."""
    try:
        if text in _DAYS:
            return midnight(datetime.fromtimestamp(now, zone).date() - timedelta(days=_DAYS.index(text)), zone)
        if len(text) == 10 and text[4] == "-":
            return midnight(date.fromisoformat(text), zone)
        if "T" in text:
            at = datetime.fromisoformat(text)
            return int((at if at.tzinfo else at.replace(tzinfo=zone)).timestamp() * 1000)
        return int((now - seconds(text)) * 1000)
    except (ValueError, Invalid, OverflowError):
        valid = "a day such as yesterday or 2026-11-21, 2026-11-21T14:00, or how long ago, such as 36h or 7d"
        raise _wrong(option, f"{text!r:.40} is no moment", valid) from None


def _wrong(option: str, what: str, valid: str) -> ConfigError:
    return ConfigError([Problem(option, 0, "", what, valid)])


# --- printing --------------------------------------------------------------------------------------------------------


#: Where replicas share limits, and each keeps its books for itself.
ALONE = "these are the books of one replica, and others share its store: ledger: {postgres: ...} has those of all"
#: The same where it has, but `--own` was given.
ALONE_HERE = "these are the books of one replica, and others share its store: without --own, those of all are told"


NOTHING = "nothing was shipped to this PostgreSQL yet: it has no schema pointsman, which a gateway makes when it starts"


def _print(found: Report, *, as_json: bool, as_csv: bool, alone: bool) -> None:
    if as_json:
        print_json({"ok": True, **found.to_dict(), "one_replica": alone})
    elif as_csv:
        out = csv.writer(sys.stdout, lineterminator="\n")
        names = [*found.by, *SUMS]
        out.writerow(name.replace("_nano", "_usd") for name in names)
        for row in found.rows if found.by else [found.total]:
            out.writerow(_exact(row[name]) if name.endswith("_nano") else row[name] for name in names)
        _tell_behind(found.behind)
    else:
        print(*table(found), sep="\n")


def _exact(nano: int) -> str:
    """Nano-USD as US dollars, without a float in between."""
    return f"{nano // NANO_PER_USD}.{nano % NANO_PER_USD:09d}"


def table(found: Report) -> list[str]:
    """A report as text: columns that are zero throughout are left out."""
    kept = [name for name in SUMS if name in ("attempts", "cost_nano") or found.total[name]]
    heads = [*found.by, *(_HEADS.get(name, name) for name in kept)]
    blank = [""] * len(found.by)
    lines = [[*(str(row[name]) or "-" for name in found.by), *_cells(kept, row)] for row in found.rows]
    lines.append([*["total", *blank][: len(blank)], *_cells(kept, found.total)])
    text = list(in_columns([heads, *lines], right=range(len(found.by), len(heads))))
    if found.since_ms:
        text.append(f"from {_utc(found.since_ms)} to {_utc(found.until_ms)} UTC")
    if found.open:
        text.append(f"{found.open} attempts are under way, and not in it")
    return text + _late(found.behind)


def _late(behind: Iterable[tuple[str, int, int]]) -> list[str]:
    return [
        f"{left:,} attempts of replica {name} are not in it: it had not sent them at {_utc(at_ms)} UTC"
        for name, left, at_ms in behind
    ]


def _tell_behind(behind: Iterable[tuple[str, int, int]]) -> None:
    """Beside rows that a program reads."""
    for line in _late(behind):
        print(line, file=sys.stderr)


_HEADS = {"cost_nano": "cost USD", "estimated_nano": "of it estimated"}


def _cells(names: Sequence[str], row: Mapping[str, int]) -> list[str]:
    return [f"{row[name] / NANO_PER_USD:,.6f}" if name.endswith("_nano") else f"{row[name]:,}" for name in names]


def _utc(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M}"


def _export(db: Books, asked: Asked, form: str) -> None:
    _tell_behind(lagging(db))
    if form == "jsonl":
        for row in attempts(db, asked):
            print(json.dumps(usd(row), ensure_ascii=False))
        return
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(name.replace("_nano", "_usd") for name in exported(db))
    for row in attempts(db, asked):
        out.writerow(_exact(value) if name == "cost_nano" else value for name, value in row.items())


def usage_told(settings: LedgerSettings, parameters: Mapping[str, str], *, shared_store: bool) -> dict[str, Any]:
    """The same numbers for `/v1/usage`.

    Raises BadRequest for parameters that mean nothing, Unavailable where PostgreSQL is, InternalError.
    """
    given: dict[str, Any] = {name: (value,) if name in GROUPS else value for name, value in parameters.items()}
    try:
        asked = asked_of(given, time.time())
        if given.get("own", "true") not in ("", "true", "1"):
            raise _wrong("--own", "is said by its presence", "own=true, or nothing")
        with _books(settings, own="own" in given, catch_up=False) as db:
            _told_apart(asked, db, settings, "own")
            return {**report(db, asked).to_dict(), "one_replica": shared_store and not db.replicas}
    except ConfigError as error:
        problem = error.problems[0]
        name = problem.path.removeprefix("--").replace("-", "_") or problem.file.removeprefix("--").replace("-", "_")
        raise BadRequest("bad_request", f"{name}: {problem.what}: {problem.valid}", param=name) from None
    except (LedgerError, sqlite3.Error) as error:
        logger.error("usage cannot be told: %s", error)
        if settings.postgres is not None and "own" not in given:
            what = "PostgreSQL, which has the books of all replicas, is away: own=true has those of this one."
            raise Unavailable("store_unavailable", what, retry_after_s=5) from None
        raise InternalError("internal_error", "The books cannot be read now.") from None
