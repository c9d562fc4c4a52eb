"""Making keys, changing, replacing and revoking them: what the command and the admin API both do to the keys file.

Each is one change of the file under its lock, and is on the disk before anybody is told. A new entry is judged as a
reload would judge it; what would not count there is refused here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.config import ConfigDoc
from gateway.core.errors import ConfigError, Problem
from gateway.core.quantities import Invalid, seconds
from gateway.keys import audit, secret
from gateway.keys.audit import Asker
from gateway.keys.file import MOST_REPLACED, Editing, Made, MadeKeyDoc, editing
from gateway.keys.holding import Excess, Holding
from gateway.keys.ring import Ring
from gateway.problems import suggest, validated
from gateway.times import moment
from gateway.yamlfile import Document, LineTree

#: How long a replaced key is still taken where nobody says otherwise, and at most.
OVERLAP_S, MOST_OVERLAP_S = 86_400.0, 90 * 86_400.0
#: Revoked keys are remembered for longer than any budget's period, for what they spent of their makers' budgets.
FORGOTTEN_S = 400 * 86_400.0
MOST_OVER = 5_000
#: Keys that one key may have made and that still open something.
MOST_MADE = 1_000
#: What a key that is over has spent may be of a budget that still runs: no period is longer. So long only so many of
#: those below one maker may be over, or making more would have the file forget them, and its budgets what they spent.
LATE_S = 32 * 86_400.0
#: What whoever makes a key may say of it.
SAID = frozenset(
    {"name", "policy", "priority", "tenant", "allow", "explain", "reasoning", "expires", "may_create", "rpm", "tpm"}
    | {"max_concurrent", "budget"}
)


class NoSuchKey(Invalid):
    """The file has no key of that name, or none that the asker may change."""


class MayNot(Invalid):
    """The asker's own key does not allow it."""


#: Who asks where nobody says.
OPERATOR = Asker()


@dataclass(frozen=True, slots=True)
class Updated:
    """A key's entry that was changed: of each member what it said and says, None where it said nothing."""

    entry: Mapping[str, Any]
    changed: Mapping[str, tuple[Any, Any]]
    less: Sequence[str] = ()  # keys that it made whose entries now say more than counts
    warnings: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Issued:
    """A key that was just made. The only place its secret is in."""

    secret: str
    entry: Mapping[str, Any]
    warnings: Sequence[str] = ()


def expiry(said: str, now: float) -> str:
    """When a key ends that is to last `30d`, or until a day or time. Raises `Invalid`."""
    if said[:4].isdigit() and "-" in said:
        return said
    try:
        lasts = seconds(said)
    except Invalid:
        raise Invalid(f"{said!r:.40} is no time", "how long, such as 30d or 12h, or until when: 2026-12-31") from None
    if not 1 <= lasts <= 3_650 * 86_400:
        raise Invalid(f"{said!r:.40} is out of range", "at least 1s and at most 3650d")
    return moment(now + lasts)


def overlap(said: str) -> float:
    """How long a replaced key is still taken. Raises `Invalid`."""
    found = seconds(said) if said not in ("0", "none") else 0.0
    if found > MOST_OVERLAP_S:
        raise Invalid(f"{said!r:.40} is too long", f"at most {MOST_OVERLAP_S / 86_400:g}d; 0 takes back what there was")
    return found


def create(ring: Ring, wish: Mapping[str, Any], now: float, asker: Asker = OPERATOR) -> Issued:
    """Make a key as `wish` says, in the words of a key's entry in pointsman.yaml. The asker's key is its maker.

    Raises `Invalid`, `ConfigError`, OSError, FileBusy; then the file is as it was.
    """
    by = asker.key
    _sayable(wish, SAID)
    made = secret.new_key()
    entry = {**wish, "sha256": secret.sha256(made), "created": moment(now)}
    if "expires" in wish:
        entry["expires"] = expiry(str(wish["expires"]), now)
    if by is not None:
        entry["by"] = by
    doc = validated(Document("", entry, "", LineTree([0])), MadeKeyDoc)
    if doc.expires is not None and doc.expires.timestamp() <= now:
        raise Invalid(f"expires {entry['expires']} is past", "a time that is yet to come")
    if any(one.name == doc.name for one in ring.doc.keys):
        raise Invalid(f"{doc.name} is the name of a key of pointsman.yaml", "another name")
    with editing(ring.place.path) as edit:
        before = _entry(edit, doc.name)
        if before is not None and _ended(before, now) is None:
            raise Invalid(f"{doc.name} is a key already", "another name, or rotate it")
        if before is not None and before.get("by") != by:
            raise Invalid(f"{doc.name} was a key that somebody else made", "another name")
        if (
            by is not None
            and sum(one.get("by") == by and _ended(one, now) is None for one in edit.entries) >= MOST_MADE
        ):
            raise MayNot(f"{by} has made {MOST_MADE} keys that are in use", "revoke some")
        if by is not None and before is None and _of_late(edit.entries, by, now) >= MOST_MADE:
            raise MayNot(f"{by} has made too many keys that are over by now", "a name that was used before")
        others = [one for one in edit.entries if one is not before]
        entries = [*_kept(_without_heirs(others, doc.name, now), now), entry]
        after = edit.judged(entries)
        holdings = _judged(ring, after, doc.name)
        _may_make(holdings, doc, now)
        if holdings[doc.name].excess:
            raise _too_much(holdings[doc.name].excess)
        fell = [one for one in below(others, doc.name) if _ended(_entry(edit, one) or entry, now) is None]
        edit.write(after, audit.line("create", entry, asker, now, said=audit.told_of(entry), with_it=fell or None))
    return Issued(made, entry, _stray_team(ring, holdings, doc.name))


def _stray_team(ring: Ring, holdings: Mapping[str, Holding], name: str) -> list[str]:
    """What to warn of where a key is of a team that has neither limits nor another key, though others have limits."""
    team, teams = holdings[name].facts.get("team"), ring.doc.teams
    if team is None or not teams or team in teams:
        return []
    others = (has for one, has in holdings.items() if one != name and name not in has.above)
    if any(has.facts.get("team") == team and not has.dead for has in others):
        return []
    return [f"no limits are set for the team {team!r:.80}, and no other key is of it: {suggest(team, teams)}"]


def _sayable(wish: Mapping[str, Any], may: Collection[str]) -> None:
    unknown = [name for name in wish if name not in may]
    if unknown:
        raise Invalid(f"{unknown[0]!r:.60} is nothing that can be said of a key", suggest(unknown[0], sorted(may)))


def _judged(ring: Ring, after: Made, name: str) -> Mapping[str, Holding]:
    """What all keys have then. Raises ConfigError with what is wrong with the entry of this name."""
    try:
        return ring.judge(after).holdings
    except ConfigError as error:
        where = f"keys[{next(at for at, one in enumerate(after.keys) if one.name == name)}]."
        mine = [one for one in error.problems if one.path.startswith(where) and one.file == after.document.name]
        if not mine:
            raise
        told = [Problem("", 0, one.path.removeprefix(where), one.what, one.valid) for one in mine]
        raise ConfigError(told) from None


def _may_make(holdings: Mapping[str, Holding], doc: MadeKeyDoc, now: float) -> None:
    if doc.by is not None:
        maker = holdings.get(doc.by)
        if maker is None:
            others = [one for one in holdings if one != doc.name]
            raise NoSuchKey(f"there is no key {doc.by!r:.80}", suggest(doc.by, others))
        if not maker.may_create or maker.dead or maker.ends_at <= now:
            raise MayNot(
                f"{doc.by} may make no keys", "a key with may_create: true that is neither revoked nor expired"
            )


def _too_much(excess: Iterable[Excess]) -> ConfigError:
    """What a reload would only warn of."""
    return ConfigError([Problem("", 0, one.path, one.what, one.valid) for one in excess])


def update(
    ring: Ring, name: str, wish: Mapping[str, Any], now: float, asker: Asker = OPERATOR, *, dry: bool = False
) -> Updated:
    """Have the entry of a key say what `wish` says; None takes out what it said, also of single facts of `tenant`.

    All else stays, the key too. It is judged as a new one is, as far as it changes. `dry`: the file stays as it is.
    Raises as `create` does.
    """
    _sayable(wish, SAID - {"name"})
    with editing(ring.place.path) as edit:
        entry = _own(edit, name, asker.key)
        _in_use(entry, now)
        changed = _merged(entry, wish, now)
        names = {*entry, *changed} - {"updated"}
        differs = {one: (entry.get(one), changed.get(one)) for one in names if entry.get(one) != changed.get(one)}
        if not differs:
            return Updated(entry, {})
        changed["updated"] = moment(now)
        doc = validated(Document("", changed, "", LineTree([0])), MadeKeyDoc)
        if "expires" in differs and doc.expires is not None and doc.expires.timestamp() <= now:
            raise Invalid(f"expires {changed['expires']} is past", "a time that is yet to come, or revoke it")
        after = edit.judged(_kept([changed if one is entry else one for one in edit.entries], now))
        before, holdings = ring.judge(edit.made).holdings, _judged(ring, after, name)
        if holdings[name].dead:
            raise Invalid(f"{name} opens nothing: who made it was revoked or is gone", "create it again")
        excess = [one for one in holdings[name].excess if re.split(r"[.\[]", one.path)[0] in differs]
        if excess:
            raise _too_much(excess)
        heirs = below(edit.entries, name)
        less = [one for one in heirs if one in holdings and set(holdings[one].excess) - set(before[one].excess)]
        if not dry:
            told = {one: {"before": was, "after": will} for one, (was, will) in differs.items()}
            edit.write(after, audit.line("update", entry, asker, now, changed=told))
    moved = holdings[name].facts.get("team") != before[name].facts.get("team")
    return Updated(changed, differs, less, _stray_team(ring, holdings, name) if moved else ())


def _merged(entry: Mapping[str, Any], wish: Mapping[str, Any], now: float) -> dict[str, Any]:
    """An entry with what is wished of it. Facts are wished one by one."""
    merged = dict(entry)
    for name, value in wish.items():
        if value is None:
            merged.pop(name, None)
        elif name == "tenant" and isinstance(value, dict):
            facts = {**entry.get("tenant", {}), **value}
            merged["tenant"] = {fact: one for fact, one in facts.items() if one is not None}
            if not merged["tenant"]:
                del merged["tenant"]
        else:
            merged[name] = expiry(str(value), now) if name == "expires" else value
    return merged


def _in_use(entry: Mapping[str, Any], now: float) -> None:
    """Raises Invalid for a key that is over: what it was may have been forgotten, and nobody expects it back."""
    doc = MadeKeyDoc.model_validate(entry)
    if doc.revoked is not None:
        raise Invalid(f"{doc.name} was revoked", "create it again, by the same name")
    if doc.expires is not None and doc.expires.timestamp() <= now:
        raise Invalid(f"{doc.name} has expired", "create it again, by the same name")


def rotate(path: Path, name: str, now: float, overlap_s: float = OVERLAP_S, asker: Asker = OPERATOR) -> Issued:
    """Give a name a new key; the one before goes on for a while. Raises as `create` does."""
    made = secret.new_key()
    with editing(path) as edit:
        entry = _own(edit, name, asker.key)
        _in_use(entry, now)
        doc = MadeKeyDoc.model_validate(entry)
        old = zip(entry.get("replaced", ()), doc.replaced, strict=True)
        still = [written for written, one in old if one.until.timestamp() > now]
        if overlap_s > 0:
            still = [{"sha256": entry["sha256"], "until": moment(now + overlap_s)}, *still]
        if len(still) > MOST_REPLACED:
            raise Invalid(f"{name} has {MOST_REPLACED} keys that are taken", "--overlap 0 takes them back")
        changed = {**entry, "sha256": secret.sha256(made), "rotated": moment(now)}
        changed.pop("replaced", None)
        if still and overlap_s > 0:
            changed["replaced"] = still
        after = edit.judged(_kept([changed if one is entry else one for one in edit.entries], now))
        until = still[0]["until"] if overlap_s > 0 else moment(now)
        edit.write(
            after, audit.line("rotate", changed, asker, now, before=entry["sha256"][: secret.SHORT], until=until)
        )
    return Issued(made, changed)


def revoke(path: Path, name: str, now: float, asker: Asker = OPERATOR) -> tuple[Mapping[str, Any], list[str]]:
    """Take a key back, and so all that it made. Its entry, and the names of those. Raises as `create` does.

    One that was revoked before stays so.
    """
    with editing(path) as edit:
        entry = _own(edit, name, asker.key)
        fell = below(edit.entries, name)
        if entry.get("revoked") is not None:
            return entry, fell
        changed = {**entry, "revoked": moment(now)}
        changed.pop("replaced", None)
        after = edit.judged(_kept([changed if one is entry else one for one in edit.entries], now))
        edit.write(after, audit.line("revoke", entry, asker, now, with_it=fell or None))
        return changed, fell


def stands_there(doc: ConfigDoc, name: str) -> Invalid | None:
    """What is told of a name that the keys file does not have, where it is one of the configuration's."""
    if any(one.name == name for one in doc.keys):
        return Invalid(f"{name} is a key of pointsman.yaml", "change it there, or take it out there")
    return None


def _entry(edit: Editing, name: str) -> dict[str, Any] | None:
    return next((one for one in edit.entries if one["name"] == name), None)


def _without_heirs(entries: list[dict[str, Any]], name: str, now: float) -> list[dict[str, Any]]:
    """Entries in which all is revoked that former keys of a name made: it is somebody else's from here on."""
    heirs = set(below(entries, name))
    return [
        {**one, "revoked": moment(now)} if one["name"] in heirs and one.get("revoked") is None else one
        for one in entries
    ]


def _own(edit: Editing, name: str, by: str | None) -> dict[str, Any]:
    """The entry of a name, if it is there and was made by this key, be it over others. Raises NoSuchKey."""
    entry = _entry(edit, name)
    names = [one["name"] for one in edit.entries] if by is None else below(edit.entries, by)
    if entry is None or name not in names:
        raise NoSuchKey(f"there is no key {name!r:.80}", suggest(name, names))
    return entry


def below(entries: Sequence[Mapping[str, Any]], maker: str) -> list[str]:
    """The names of the keys that one made, and those made, ..."""
    found: list[str] = []
    makers = {maker}
    while makers:
        below = [one["name"] for one in entries if one.get("by") in makers and one["name"] not in found]
        found += below
        makers = set(below)
    return found


def _kept(entries: list[dict[str, Any]], now: float) -> list[dict[str, Any]]:
    """Without those that were revoked or expired so long ago that nothing depends on them, and too many of them."""
    over = {at: ended for at, one in enumerate(entries) if (ended := _ended(one, now)) is not None}
    newest = sorted(over, key=over.__getitem__, reverse=True)[:MOST_OVER]
    kept = {at for at in newest if over[at] > now - FORGOTTEN_S}
    return [one for at, one in enumerate(entries) if at not in over or at in kept]


def _of_late(entries: Sequence[Mapping[str, Any]], maker: str, now: float) -> int:
    """How many keys ended not long ago of all that come from the same first maker as those of this one."""
    makers = {one["name"]: one.get("by") for one in entries}
    first, seen = maker, {maker}
    while (by := makers.get(first)) is not None and by not in seen:
        first = by
        seen.add(by)
    theirs = set(below(entries, first))
    ended = [_ended(one, now) for one in entries if one["name"] in theirs]
    return sum(at is not None and at > now - LATE_S for at in ended)


def _ended(entry: Mapping[str, Any], now: float) -> float | None:
    """When it ceased to open anything; None while it does."""
    doc = MadeKeyDoc.model_validate(entry)
    ends = [one.timestamp() for one in (doc.revoked, doc.expires) if one is not None]
    return min(ends) if ends and min(ends) <= now else None
