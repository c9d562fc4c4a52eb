"""Questions to the catalogue: which models and offers there are of a kind.

Here belong the filters of `pointsman catalog` and the layers it reads. How answers are printed is
`gateway.catalog.command`. A fact that is not known never satisfies a filter: what might be so is told apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from gateway import bundled, yamlfile
from gateway.catalog.catalogue import files_of
from gateway.catalog.facts import Facts, Knowledge, Layer, OfferKey, merge
from gateway.core.targets.capabilities import lies_in
from gateway.problems import suggest

_THINKING = ("switchable", "always", "never", "unknown")


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked for; None and False leave a thing open. Tokens in `fits`, days in `retiring_days`."""

    families: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()
    region: str | None = None
    thinking: str | None = None
    license: str | None = None
    open_weights: bool = False
    languages: tuple[str, ...] = ()
    fits: int | None = None
    retiring_days: int | None = None
    withdrawn: bool = False  # offers that are withdrawn already, too

    @property
    def about_offers(self) -> bool:
        """Is something asked that only offers can answer?"""
        said = (self.providers, self.models, self.region, self.fits, self.retiring_days, self.withdrawn)
        return any(one not in (None, (), False) for one in said)


@dataclass(frozen=True, slots=True)
class Row:
    """An offer that was found, with the facts of its model."""

    key: OfferKey
    facts: Facts
    model: Facts

    def value(self, name: str) -> Any:
        """A fact of the offer, or the model's where the offer says nothing of it."""
        return value(self.facts, name, value(self.model, name) if name in ("thinking", "tools", "modalities") else None)

    def withdrawn(self, today: date) -> bool:
        """Is it gone?"""
        day = value(self.facts, "retires_on")
        return day is not None and day <= today


@dataclass(frozen=True, slots=True)
class Found:
    """The answer: models and offers in the catalogue's order, and what was left out for want of knowing."""

    models: dict[str, Facts]
    offers: list[Row]
    silent: list[str]  # models that publish no list of languages, where one was asked for
    unlisted: list[str]  # what was asked for and stands in nobody's list, with what stands there
    hidden: int  # offers that fit and are withdrawn


def value(facts: Facts, name: str, default: Any = None) -> Any:
    """A fact's value."""
    fact = facts.get(name)
    return default if fact is None else fact.value


def read_layers(overlays: Sequence[Path], cache: Path | None) -> list[Layer]:
    """The shipped files, and one layer for each overlay. Raises `ConfigError`."""
    layers = [bundled.catalogue(), *(files_of(path) for path in overlays)]
    return [[yamlfile.load(path, cache_dir=cache) for path in layer] for layer in layers]


def knowledge(layers: Sequence[Layer]) -> Knowledge:
    """All facts of the layers. Raises `ConfigError`."""
    return merge(layers)


def unknown_names(query: Query, known: Knowledge) -> list[str]:
    """A sentence for each name in the question that means nothing."""
    families = {value(facts, "family") for facts in known.models.values()}
    licenses = {value(facts, "license") for facts in known.models.values()} - {None}
    wrong = []
    for what, asked, there in (
        ("family", query.families, families),
        ("model", query.models, known.owner),
        ("provider", query.providers, known.providers),
        ("license", (query.license,) if query.license else (), licenses),
        ("thinking", (query.thinking,) if query.thinking else (), _THINKING),
    ):
        for name in asked:
            if name not in there:
                valid = suggest(name, sorted(there))
                if what == "model" and not valid.startswith("did you mean"):
                    valid = "`pointsman catalog` without it lists all"
                wrong.append(f"no {what} {name!r:.80}: {valid}")
    return wrong


def find(query: Query, known: Knowledge, today: date) -> Found:
    """Everything the question is about."""
    wanted = {known.owner[name] for name in query.models}
    silent: list[str] = []
    models: dict[str, Facts] = {}
    for name, facts in known.models.items():
        if wanted and name not in wanted:
            continue
        if not _is_kind(query, facts):
            continue
        if query.languages and "languages" not in facts:
            silent.append(name)
        elif set(query.languages) <= set(value(facts, "languages", ())):
            models[name] = facts
    offers, hidden = _offers(query, known, models, today)
    served = {row.key[0] for row in offers}
    if query.about_offers and not query.models:
        models = {name: facts for name, facts in models.items() if name in served}
    elif query.thinking is not None:
        models = {
            name: facts
            for name, facts in models.items()
            if name in served or value(facts, "thinking", "unknown") == query.thinking
        }
    listed = {code for facts in known.models.values() for code in value(facts, "languages", ())}
    unlisted = [f"{code!r:.40}: {suggest(code, sorted(listed))}" for code in query.languages if code not in listed]
    return Found(models, offers, silent, unlisted, hidden)


def _is_kind(query: Query, facts: Facts) -> bool:
    if query.families and value(facts, "family") not in query.families:
        return False
    if query.license is not None and value(facts, "license") != query.license:
        return False
    return not query.open_weights or bool(value(facts, "open_weights", True))


def _offers(query: Query, known: Knowledge, models: Mapping[str, Facts], today: date) -> tuple[list[Row], int]:
    found, hidden = [], 0
    order = {name: number for number, name in enumerate(known.models)}
    for key in sorted(known.offers, key=lambda key: order[key[0]]):
        if key[0] not in models:
            continue
        row = Row(key, known.offers[key], models[key[0]])
        if not _answers(query, known, row, today):
            continue
        if row.withdrawn(today) and not query.withdrawn:
            hidden += 1
            continue
        found.append(row)
    if query.retiring_days is not None:
        found.sort(key=lambda row: row.value("retires_on"))
    return found, hidden


def _answers(query: Query, known: Knowledge, row: Row, today: date) -> bool:
    _, provider, _, regions, processing = row.key
    if query.providers and provider not in query.providers:
        return False
    if query.region is not None:
        home = value(known.providers[provider], "region")
        places = [*regions, *([processing] if processing else []), *([home] if home else [])]
        if not any(lies_in(place, query.region) for place in places):
            return False
    if query.fits is not None:
        limits = [one for one in (row.value("window"), row.value("max_input")) if one is not None]
        if not limits or min(limits) < query.fits:
            return False
    if query.thinking is not None and (row.value("thinking") or "unknown") != query.thinking:
        return False
    if query.retiring_days is None:
        return True
    day = row.value("retires_on")
    return day is not None and day - today <= timedelta(days=query.retiring_days)
