"""`pointsman keys`: what its arguments mean, what it prints, and how it has a running gateway follow.

A key that was made is all that standard output holds, so that `KEY=$(pointsman keys create NAME)` works; what else
there is to say of it goes to standard error. What is done to the file is in `making`.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gateway import configfile, yamlfile
from gateway.admin import key_of, url_in, url_said
from gateway.compiled import cache_dir
from gateway.config import ConfigDoc
from gateway.core.errors import ConfigError
from gateway.core.quantities import Invalid
from gateway.keys import file, making, telling
from gateway.keys.asking import NotTold, ask, follow, table, used_most
from gateway.keys.audit import Asker
from gateway.keys.file import FileBusy, Place
from gateway.keys.making import Issued, NoSuchKey
from gateway.keys.ring import Ring
from gateway.keys.secret import SHORT
from gateway.printing import NO, OK, broken, failed, print_json
from gateway.problems import suggest
from gateway.terminal import safe

#: Seconds in which a running gateway reads the file by itself: it looks once a second.
FOLLOWS_S = 2
#: Characters of a user's name that are noted.
_LONGEST_USER = 64


def run(given: argparse.Namespace, config: Path, environ: Mapping[str, str]) -> int:
    """Run one of the commands and return its exit code."""
    command = f"keys {given.what}"
    try:
        _, doc = configfile.read(config, cache=cache_dir(environ))
        place = Place.of(doc, config)
        if given.what == "list":
            return _list(given, doc, place)
        key = key_of(doc, environ, config.parent)
        if given.what in ("limits", "show"):
            url = url_in(doc, config) if given.url is None else url_said(given.url)
            return _limits(given, url, key) if given.what == "limits" else _show(given, doc, place, (url, key))
        urls = ([*map(url_said, given.url or ())] or [url_in(doc, config)]) if given.now else []
        told = _changed(given, config, place, environ)
    except ConfigError as error:
        return broken(error, as_json=given.json)
    except NoSuchKey as error:
        if given.what != "create" and (there := making.stands_there(doc, given.name)):
            return failed(command, there.what, there.valid, as_json=given.json)
        where = "" if given.what == "create" else f" in {place.path}"
        return failed(command, f"{error.what}{where}", error.valid, as_json=given.json)
    except Invalid as error:
        return failed(command, error.what, error.valid, as_json=given.json)
    except FileBusy as error:
        return failed(command, error, as_json=given.json)
    except BrokenPipeError:
        raise
    except OSError as error:
        what = f"{place.path} cannot be changed: {error.strerror or error}; nothing was changed"
        return failed(command, what, as_json=given.json)
    idle = given.what == "update" and (told["dry_run"] or not told["changed"])
    asked = {} if idle else {url: follow(url, key) for url in dict.fromkeys(urls)}
    _print(given, told, asked)
    return NO if any(asked.values()) else OK


def _list(given: argparse.Namespace, doc: ConfigDoc, place: Place) -> int:
    rows = telling.rows(doc, file.read(place.path), time.time())
    shown = rows if given.all else [one for one in rows if one["state"] != "revoked"]
    if given.json:
        print_json({"ok": True, "keys": shown})
    elif shown:
        for line in telling.table(shown):
            print(line)
    else:
        hidden = f" ({len(rows)} revoked: --all)" if rows else ""
        print(f"no keys{hidden}: `pointsman keys create NAME` makes one", file=sys.stderr)
    return OK


def _changed(given: argparse.Namespace, config: Path, place: Place, environ: Mapping[str, str]) -> dict[str, Any]:
    """Do it; what is to be told of it."""
    now = time.time()
    asker = Asker("command", getattr(given, "by", None), user(environ))
    if given.what == "revoke":
        entry, fell = making.revoke(place.path, given.name, now, asker)
        return {"name": given.name, "revoked": entry["revoked"], "with_it": fell}
    if given.what == "rotate":
        overlap_s = making.OVERLAP_S if given.overlap is None else making.overlap(given.overlap)
        issued = making.rotate(place.path, given.name, now, overlap_s, asker)
        until = issued.entry["replaced"][0]["until"] if "replaced" in issued.entry else None
        return _issued(issued, place) | {"replaced_until": until}
    wish = wish_of(given)
    ring = _ring(config, environ)
    if given.what == "update":
        updated = making.update(ring, given.name, wish, now, asker, dry=given.dry_run)
        differs = {one: {"before": was, "after": will} for one, (was, will) in updated.changed.items()}
        told = {"name": given.name, "changed": differs, "with_less": list(updated.less), "dry_run": given.dry_run}
        return told | {"warnings": list(updated.warnings)}
    first = (
        file.read(place.path) is None and not ring.doc.keys and not place.stated
    )  # a stated file is asked for anyway
    issued = making.create(ring, wish, now, asker)
    return _issued(issued, place) | {"first": first, "warnings": list(issued.warnings)}


def _issued(issued: Issued, place: Place) -> dict[str, Any]:
    entry = issued.entry
    return {
        "name": entry["name"],
        "id": entry["sha256"][:SHORT],
        "secret": issued.secret,
        "expires": entry.get("expires"),
        "file": str(place.path),
    }


def _ring(config: Path, environ: Mapping[str, str]) -> Ring:
    """What keys are judged by. Raises ConfigError where the configuration does not load."""
    from gateway.site import load_site  # noqa: PLC0415 - most of a second, and only `create` and `update` need it

    return load_site(config, environ, secrets=False, tests=False).ring


def wish_of(given: argparse.Namespace) -> dict[str, Any]:
    """What the arguments of `create` and `update` say, in the words of a key's entry. Raises Invalid, ConfigError."""
    facts: dict[str, str | None] = {}
    for one in given.tenant or ():
        name, found, value = one.partition("=")
        if not found or not name:
            raise Invalid(f"--tenant {one!r:.80} is not FACT=VALUE", "such as domicile=SG")
        facts[name] = value
    if given.team is not None:
        facts["team"] = given.team
    wish: dict[str, Any] = {}
    for what in getattr(given, "unset", None) or ():
        name, _, fact = what.partition(".")
        if name == "tenant" and fact:
            facts[fact] = None
        else:
            wish[what.replace("-", "_")] = None
    for name in ("allow", "policy", "priority", "expires", "explain", "may_create"):
        if (value := getattr(given, name)) is not None:
            wish[name] = value
    if given.what == "create":
        wish["name"] = given.name
    if facts:
        wish["tenant"] = facts
    for name in ("rpm", "tpm", "max_concurrent"):
        said = getattr(given, name)
        if said is not None:
            wish[name] = _value(said)
    budgets = [_budget(one) for one in given.budget or ()]
    if budgets:
        wish["budget"] = budgets if len(budgets) > 1 else budgets[0]
    return wish


def _value(said: str) -> Any:
    """What stands behind an option, read as it would be in the file."""
    return yamlfile.loads(f"value: {said}\n", "the command line").data["value"]


def _budget(said: str) -> Any:
    if said.startswith("{"):
        return _value(said)
    usd, _, rest = said.partition("/")
    per, _, mode = rest.partition("/")
    if not usd or not per:
        raise Invalid(f"--budget {said!r:.60} is not USD/PERIOD", "such as 50/day, 800/month/soft")
    return {"usd": _value(usd), "per": per} | ({"mode": mode} if mode else {})


# --- what follows ---


def _limits(given: argparse.Namespace, url: str, key: str | None) -> int:
    """Tell what is left of limits; `key` is the admin key."""
    chosen = {name: said for name in ("key", "team") if (said := getattr(given, name)) is not None}
    try:
        told = ask(url, key, "GET", "/v1/limits", **chosen)
    except NotTold as why:
        return failed("keys limits", why, why.valid, as_json=given.json, code=NO)
    except LookupError as error:
        return failed("keys limits", error, as_json=given.json)
    found = used_most(told["data"], given.above)
    if given.json:
        print_json({"ok": True, "store": told["store"], "limits": found})
    else:
        _print_left(found, told["store"])
    return OK


def _show(given: argparse.Namespace, doc: ConfigDoc, place: Place, admin: tuple[str, str | None]) -> int:
    """Tell of one key what it may and what is left of its limits; `admin` is the admin listener, and its key."""
    rows = {one["name"]: one for one in telling.rows(doc, file.read(place.path), time.time())}
    row = rows.get(given.name)
    if row is None:
        raise NoSuchKey(f"there is no key {given.name!r:.80}", suggest(given.name, rows))
    told: dict[str, Any] = {"data": [], "store": "memory"}
    wrong = ""
    try:
        told = ask(*admin, "GET", "/v1/limits", key=given.name)
    except LookupError:
        wrong = "the running gateway does not know it yet"
    except NotTold as why:
        wrong = f"{why}: {why.valid}" if why.valid else str(why)
    if given.json:
        print_json({"ok": not wrong, "key": row, "binds": told["data"]} | ({"why": wrong} if wrong else {}))
    else:
        for name, value in row.items():
            if value not in (None, [], {}) and name != "limits":
                print(f"{name + ':':<12} {safe(value if isinstance(value, str) else json.dumps(value))}")
        if wrong:
            print(f"pointsman keys: what is left of its limits is not known: {wrong}", file=sys.stderr)
        else:
            print()
            _print_left(told["data"], told["store"])
    return NO if wrong else OK


def _print_left(found: Sequence[Mapping[str, Any]], store: str) -> None:
    for line in table(found) if found else ():
        print(line)
    if not found:
        print("no limits", file=sys.stderr)
    elif store == "away":
        print("the shared store is away: this is what that gateway may do by itself", file=sys.stderr)


def _print(given: argparse.Namespace, told: dict[str, Any], asked: Mapping[str, str]) -> None:
    """Tell what was done; `asked` has why each gateway that was asked to does not follow, or ""."""
    why = "; ".join(one for one in asked.values() if one)
    if given.json:
        print_json({"ok": not why, "key": told, "followed": not why if asked else None} | ({"why": why} if why else {}))
        return
    for name, (was, will) in _differences(told):
        print(f"{name}: {was} -> {will}")
    if "secret" in told:
        print(told["secret"], flush=True)
        print(f"the key of {told['name']}, shown only now", file=sys.stderr)
    for warning in told.get("warnings", ()):
        print(f"pointsman keys: warning: {safe(warning)}", file=sys.stderr)
    for line in _remarks(given.what, told):
        print(line, file=sys.stderr)
    if told.get("dry_run") or told.get("changed") == {}:
        return
    for url, wrong in asked.items():
        if wrong:
            print(f"pointsman keys: {wrong}; the file is changed", file=sys.stderr)
        else:
            print(f"the running gateway follows{f' ({url})' if len(asked) > 1 else ''}", file=sys.stderr)
    others = "others that read this file follow" if asked else "a running gateway follows"
    print(f"{others} within {FOLLOWS_S} s{'' if asked else '; --now waits for it'}", file=sys.stderr)


def _differences(told: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Of each member that was changed what it said and says, for people."""
    for name, one in sorted(told.get("changed", {}).items()):
        yield name, ["nothing" if one[at] is None else safe(json.dumps(one[at])) for at in ("before", "after")]


def user(environ: Mapping[str, str]) -> str:
    """Whose command this is: who called sudo, where root says so, which sudo makes one; others could say anything."""
    name = environ.get("SUDO_USER") if os.getuid() == 0 else None
    if name is None:
        try:
            name = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            name = str(os.getuid())
    return name[:_LONGEST_USER]


def _remarks(what: str, told: Mapping[str, Any]) -> list[str]:
    said = []
    if what == "revoke":
        said.append(f"{told['name']} is revoked")
        said += [f"and so is {one}, which it made" for one in told["with_it"]]
    elif what == "rotate":
        until = told["replaced_until"]
        said.append(f"the one before is taken until {until}" if until else "the one before is not taken any more")
    elif what == "update":
        if not told["changed"]:
            said.append(f"{told['name']} is so already: nothing was changed")
        elif told["dry_run"]:
            said.append("a dry run: nothing was changed")
        said += [f"{one}, which it made, says more than counts from then on" for one in told["with_less"]]
    elif told["first"]:
        said.append("the gateway asks everybody for a key from now on: there was none before")
    return said
