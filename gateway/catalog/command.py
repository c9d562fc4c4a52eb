"""The command `pointsman catalog`: what is known of models and offers, from where, and what an overlay changes.

Here belong its words and tables. Which models and offers are meant is `gateway.catalog.query`; merging is
`gateway.catalog.facts`. Nothing is asked of anybody: all of it stands in files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from gateway import bundled, configfile
from gateway.catalog.facts import Change, Fact, Facts, Knowledge, changes, merge, offer_name
from gateway.catalog.query import Found, Query, Row, find, read_layers, unknown_names, value
from gateway.core.errors import ConfigError, Problem
from gateway.core.types import NANO_PER_USD
from gateway.fields import Rates
from gateway.printing import BROKEN, NO, OK, broken, failed, print_json
from gateway.terminal import in_columns


@dataclass(frozen=True, slots=True)
class Asked:
    """A question and how it is to be answered."""

    query: Query
    overlays: tuple[Path, ...] = ()
    offers: bool = False
    sources: bool = False
    diff: bool = False
    as_json: bool = False


def answer(asked: Asked, *, cache: Path | None, today: date) -> int:
    """Print the answer; 0, 1 where nothing is found, 2 for names that mean nothing. Raises `ConfigError`."""
    layers = read_layers(asked.overlays, cache)
    known = merge(layers)
    wrong = unknown_names(asked.query, known)
    if wrong:
        if asked.as_json:
            return broken(ConfigError([Problem("", 0, "", line) for line in wrong]), as_json=True)
        for line in wrong:
            failed("catalog", line)
        return BROKEN
    found = find(asked.query, known, today)
    if asked.diff:
        return _show_changes(asked, [*changes(merge(layers[:1]), known)], found, known)
    there = bool(found.offers or (found.models and not asked.query.about_offers))
    if asked.as_json:
        print_json({"ok": there, **_as_json(found, known, sources=asked.sources)})
    elif asked.sources:
        _show_sources(found, known, offers=asked.offers or asked.query.about_offers)
    else:
        _show(found, known, today, offers=asked.offers or asked.query.about_offers)
    return OK if there else NO


def overlays_of(config: Path, cache: Path | None) -> tuple[Path, ...]:
    """The catalogue files that a configuration names, without judging the rest of it. Raises `ConfigError`."""
    named = configfile.load(config, cache=cache).data.get("catalog", [])
    names = [named] if isinstance(named, str) else named if isinstance(named, list) else []
    return tuple(config.parent / name for name in names if isinstance(name, str))


# -- tables --


def _show(found: Found, known: Knowledge, today: date, *, offers: bool) -> None:
    if not offers:
        _table(
            ("MODEL", "FAMILY", "PARAMS", "WINDOW", "READS", "THINKING", "LANGUAGES", "LICENCE", "OFFERS"),
            [_model_row(name, facts, found) for name, facts in found.models.items()],
        )
    else:
        _table(
            ("MODEL", "PROVIDER", "ID", "WHERE", "WINDOW", "OUTPUT", "PRICE IN / OUT", "THINKING", "UNTIL"),
            [_offer_row(row, known, today) for row in found.offers],
        )
    print(_counted(found, offers=offers))


def _model_row(name: str, facts: Facts, found: Found) -> tuple[str, ...]:
    total, active = value(facts, "params_total_b"), value(facts, "params_active_b")
    params = "" if total is None else f"{total:g}B" + (f"/{active:g}B" if active not in (None, total) else "")
    closed = value(facts, "open_weights") is False
    return (
        name,
        str(value(facts, "family")),
        params or ("API only" if closed else "?"),
        _tokens(value(facts, "window")),
        "+".join(value(facts, "modalities", ["text"])),
        value(facts, "thinking", "unknown"),
        _languages(facts),
        value(facts, "license", "?"),
        str(sum(row.key[0] == name for row in found.offers)),
    )


def _languages(facts: Facts) -> str:
    listed = value(facts, "languages")
    if listed is not None:
        return " ".join(listed) if len(listed) <= 3 else f"{len(listed)} listed"
    count = value(facts, "language_count")
    return f"{count}, no list" if count else "?"


def _offer_row(row: Row, known: Knowledge, today: date) -> tuple[str, ...]:
    model, provider, upstream_id, regions, processing = row.key
    home = value(known.providers[provider], "region")
    where = ",".join(regions) or home or ""
    scope = f"{where} ({processing})".strip() if processing else where
    until = value(row.facts, "retires_on")
    thinking = row.value("thinking") or "unknown"
    return (
        model,
        provider,
        upstream_id,
        scope,
        _tokens(value(row.facts, "window")),
        _tokens(value(row.facts, "max_output")),
        _price(value(row.facts, "price"), value(row.facts, "currency", "USD")),
        thinking + (", streamed" if row.value("thinking_needs_stream") else ""),
        "" if until is None else f"withdrawn {until}" if until <= today else str(until),
    )


def _many(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _tokens(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _price(listed: Any, currency: str) -> str:
    """A price list in one line; `c` is for cached input, `w` for writing to the cache, `t` for output when thinking."""
    if listed is None:
        return "?"
    tiers = listed if isinstance(listed, list) else [listed]
    told = []
    for tier in tiers:
        above = getattr(tier, "above", 0)
        beside = "".join(
            f" {letter} {_amount(extra)}"
            for letter, extra in (("c", tier.cached_input), ("w", tier.cache_write), ("t", tier.thinking_output))
            if extra is not None
        )
        told.append(
            (f">{above // 1000}k " if above else "") + f"{_amount(tier.input)} / {_amount(tier.output)}{beside}"
        )
    return ("" if currency == "USD" else f"{currency} ") + "; ".join(told)


def _amount(nano: int) -> str:
    return f"{nano / NANO_PER_USD:.6f}".rstrip("0").rstrip(".")


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    if not rows:
        return
    for line in in_columns((head, *rows)):
        print(line)


def _counted(found: Found, *, offers: bool) -> str:
    counted = _many(len(found.models), "model")
    if offers:
        counted = f"{_many(len(found.offers), 'offer')} of {counted}"
    if found.hidden:
        counted += f"; {found.hidden} withdrawn left out (--withdrawn shows them)"
    counted += "".join(f"; no list has {one}" for one in found.unlisted)
    if found.silent:
        names = ", ".join(found.silent[:4]) + (", ..." if len(found.silent) > 4 else "")
        verb = "publishes" if len(found.silent) == 1 else "publish"
        counted += f"; {_many(len(found.silent), 'model')} {verb} no list of languages ({names})"
    return counted


# -- where facts are from --


def _show_sources(found: Found, known: Knowledge, *, offers: bool) -> None:
    things: list[tuple[str, Facts]] = [(f"model {name}", facts) for name, facts in found.models.items()]
    if offers:
        things += [(offer_name(row.key), row.facts) for row in found.offers]
    used: dict[str, None] = {}
    for thing, facts in things:
        print(thing)
        for name, fact in facts.items():
            told = f"  {name}: {_shown(name, fact.value)}"
            via = f", of {fact.via}" if fact.via else ""
            print(f"{told:<60}  {fact.source} {fact.as_of}, {fact.confidence}, {_near(fact.place)}{via}")
            used[fact.source] = None
    for source in used:
        print(f"{source}: {known.sources[source].kind}, {known.sources[source].ref}")


def _shown(name: str, raw: Any) -> str:
    if name == "price":
        return _price(raw, "USD").replace("USD ", "")
    if isinstance(raw, list | tuple | frozenset):
        return " ".join(map(str, raw))
    return str(raw).lower() if isinstance(raw, bool) else f"{raw:,}" if isinstance(raw, int) else str(raw)


# -- what overlays change --


def _show_changes(asked: Asked, told: list[Change], found: Found, known: Knowledge) -> int:
    names = {f"model {name}" for name in found.models} | {offer_name(row.key) for row in found.offers}
    if asked.query != Query():
        told = [change for change in told if change.thing in names]
    if asked.as_json:
        print_json({"ok": True, "changes": [_change_json(change) for change in told]})
        return OK
    if not asked.overlays:
        print("no overlay: name one with --overlay, or under `catalog:` in the configuration")
        return OK
    last = ""
    for change in told:
        if change.thing != last:
            print(change.thing)
            last = change.thing
        print(f"  {change.fact}: {_side(change.fact, change.old)} -> {_side(change.fact, change.new)}")
    print(f"{_many(len(told), 'fact')} differ{'s' if len(told) == 1 else ''} from the shipped catalogue")
    return OK


def _side(name: str, fact: Fact | None) -> str:
    return (
        "not known" if fact is None else f"{_shown(name, fact.value)} ({fact.source} {fact.as_of}, {_near(fact.place)})"
    )


def _near(place: str) -> str:
    """Where a fact stands; of what came along, only where among it."""
    return place.removeprefix(f"{bundled.policies().parent}/")


# -- JSON --


def _as_json(found: Found, known: Knowledge, *, sources: bool) -> dict[str, Any]:
    def facts_of(facts: Facts) -> dict[str, Any]:
        return {name: _fact_json(fact) if sources else _plain(fact.value) for name, fact in facts.items()}

    made: dict[str, Any] = {
        "models": [{"id": name, **facts_of(facts)} for name, facts in found.models.items()],
        "offers": [{**_names(row), **facts_of(row.facts)} for row in found.offers],
        "providers": {name: facts_of(known.providers[name]) for name in {row.key[1]: None for row in found.offers}},
    }
    if sources:
        made["sources"] = {name: doc.model_dump() for name, doc in known.sources.items()}
    return made


def _names(row: Row) -> dict[str, Any]:
    model, provider, upstream_id, regions, processing = row.key
    return {
        "model": model,
        "provider": provider,
        "upstream_id": upstream_id,
        "regions": list(regions),
        "processing": processing,
    }


def _fact_json(fact: Fact) -> dict[str, Any]:
    return {
        "value": _plain(fact.value),
        "source": fact.source,
        "as_of": fact.as_of,
        "confidence": fact.confidence,
        "place": fact.place,
        **({"of": fact.via} if fact.via else {}),
    }


def _change_json(change: Change) -> dict[str, Any]:
    sides: Mapping[str, Fact | None] = {"old": change.old, "new": change.new}
    return {
        "thing": change.thing,
        "fact": change.fact,
        **{side: None if fact is None else _fact_json(fact) for side, fact in sides.items()},
    }


def _plain(raw: Any) -> Any:
    """JSON of a value; prices in whole currency units per million tokens, as the files have them."""
    if isinstance(raw, Rates):
        said = {name: getattr(raw, name) for name in type(raw).model_fields if getattr(raw, name) is not None}
        return {name: number if name == "above" else number / NANO_PER_USD for name, number in said.items()}
    if isinstance(raw, list | tuple | frozenset):
        return [_plain(one) for one in raw]
    return raw.isoformat() if isinstance(raw, date) else raw
