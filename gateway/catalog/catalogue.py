"""The catalogue: what is publicly known of models, who serves them, and on what terms.

Reads `policies/catalog/` and the operator's files over it into `Model`s and `Offer`s. Every fact has a source and
every source a date; an entry without one does not load (`gateway.catalog.facts`). What *this* installation serves is
not a catalogue matter: targets are built in `gateway.fleet`, which asks here for what they leave out.

Merging some hundreds of offers takes a hundred times as long as reading the result back, so the result is kept
(`gateway.compiled`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

from gateway import compiled, yamlfile
from gateway.core.errors import ConfigError, Problem
from gateway.core.targets.capabilities import lies_in
from gateway.core.terms import Terms
from gateway.core.types import Model, Price, ThinkingSupport
from gateway.yamlfile import Document

if TYPE_CHECKING:
    from gateway.catalog.facts import Facts, Knowledge

#: Modules that the result hangs on besides the files: another version of one makes another catalogue.
_CODE = tuple(
    f"{one}.py"
    for one in (
        *("catalog/catalogue", "catalog/doc", "catalog/facts", "fields"),
        *("core/facts", "core/memory", "core/types", "core/quantities"),
    )
)
_NOT_OF_MODEL = frozenset({"memory"})
_SNAPSHOT = re.compile(r"(.+)[-@]20[0-9]{2}(?:-[01][0-9]-[0-3][0-9]|[01][0-9][0-3][0-9])")
_AS_SETS = frozenset({"modalities", "languages"})


@dataclass(frozen=True, slots=True)
class Offer:
    """One way to rent a model. `None` means "not known" throughout; prices carry the version they came from."""

    model: str
    provider: str
    upstream_id: str
    regions: tuple[str, ...] = ()
    processing: str | None = None  # the scope these terms hold for; None: any
    window: int | None = None
    max_input: int | None = None
    max_output: int | None = None
    price: Price | None = None
    currency: str | None = None  # of the price; None: USD
    modalities: frozenset[str] | None = None
    tools: bool | None = None
    structured_output: bool | None = None
    thinking: ThinkingSupport | None = None
    thinking_needs_stream: bool | None = None
    retires_on: date | None = None

    @property
    def in_usd(self) -> bool:
        """Its price is known, and counts without anybody's rate."""
        return self.price is not None and self.currency in (None, "USD")


@dataclass(frozen=True, slots=True)
class Provider:
    """Who rents models out: the hosts that answer for them, and where those stand."""

    name: str
    hosts: tuple[str, ...] = ()  # `*` stands for anything, `{region}` for a region
    base_url: str | None = None  # with `{...}` where an account or a region has to be filled in
    key_env: str | None = None  # the environment variable their own tools read a key from
    region: str | None = None  # where all of its servers stand in one
    scopes: tuple[str, ...] = ()  # where an account may choose to have data processed

    def answers_at(self, host: str) -> str | None:
        """The region that a host tells, "" where it is theirs and tells none, None where it is not theirs.

        >>> Provider("vertex", ("{region}-aiplatform.googleapis.com",)).answers_at("us-east5-aiplatform.googleapis.com")
        'us-east5'
        """
        for known in self.hosts:
            if known == host:
                return ""
            if "*" in known or "{" in known:
                pattern = re.escape(known).replace(r"\*", ".+").replace(r"\{region\}", "([a-z0-9-]+)")
                match = re.fullmatch(pattern, host)
                if match is not None:
                    return match[1] if match.re.groups else ""
        return None


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Everything known, from the shipped files and the operator's over them. Never changes."""

    models: Mapping[str, Model]
    names: Mapping[str, str]  # model ids and their aliases -> model id
    offers: Mapping[tuple[str, str], tuple[Offer, ...]]  # (model, provider), preferred offer first
    providers: Mapping[str, Provider]
    released: Mapping[str, date]

    def model_of(self, name: str) -> str | None:
        """The model that an id, an alias, or the dated snapshot of one (`-2026-02-15`, `@20260215`) stands for."""
        model = self.names.get(name)
        if model is None and (snapshot := _SNAPSHOT.fullmatch(name)):
            model = self.names.get(snapshot[1])
        return model

    @property
    def regions(self) -> Mapping[str, str]:
        """Provider -> region, where all of its servers stand in one."""
        return {name: one.region for name, one in self.providers.items() if one.region}

    def provider_of(self, host: str) -> str | None:
        """Whose server a host is, where the catalogue knows it."""
        return next((one.name for one in self.providers.values() if one.answers_at(host) is not None), None)

    def region_of(self, provider: str, host: str) -> str | None:
        """Where a provider's host stands: as its name says, or where all of the provider's servers do."""
        one = self.providers.get(provider)
        return None if one is None else one.answers_at(host) or one.region

    def offer(
        self,
        model: str,
        provider: str,
        region: str | None,
        upstream_id: str | None = None,
        processing: str | None = None,
    ) -> Offer | None:
        """The offer of a model by a provider: one for this region before one that names none, likewise for the scope.

        Where a provider has several ids for a model and none is asked for, the first in the file is the one. Terms
        that hold only for some other scope of processing are nobody's but theirs who ask for that very id.
        """
        found = self.offers.get((model, provider), ())
        if upstream_id is not None:
            found = tuple(one for one in found if one.upstream_id == upstream_id)
        here = [one for one in found if region and any(lies_in(place, region) for place in one.regions)]
        anywhere = [one for one in found if not one.regions]
        for places in (here, anywhere):
            scoped = [one for one in places if processing is not None and one.processing == processing]
            plain = [one for one in places if one.processing is None]
            wanted = scoped or plain or (places if upstream_id is not None else [])
            if wanted:
                return wanted[0]
        return None


class _Kept(msgspec.Struct):
    """A catalogue as it is kept in a file."""

    models: list[Model]
    names: dict[str, str]
    offers: list[Offer]
    providers: list[Provider]
    released: dict[str, date]

    def catalogue(self) -> Catalogue:
        offers: dict[tuple[str, str], tuple[Offer, ...]] = {}
        for offer in self.offers:
            key = (offer.model, offer.provider)
            offers[key] = (*offers.get(key, ()), offer)
        return Catalogue(
            models=MappingProxyType({model.id: model for model in self.models}),
            names=MappingProxyType(self.names),
            offers=MappingProxyType(offers),
            providers=MappingProxyType({one.name: one for one in self.providers}),
            released=MappingProxyType(self.released),
        )


def load_catalogue(layers: Sequence[Sequence[Path]], *, cache_dir: Path | None = None) -> Catalogue:
    """Read layers of catalogue files, each over the ones before it. Raises `ConfigError` with every problem found."""
    raw = [[(path, yamlfile.read(path)) for path in layer] for layer in layers]
    key = compiled.key_of("catalogue", *(_together([text for _, text in layer]) for layer in raw), code=_CODE)
    kept = compiled.read(cache_dir, key, _Kept)
    if kept is None:
        kept = _keep([[yamlfile.parse(text, str(path), cache_dir) for path, text in layer] for layer in raw])
        compiled.write(cache_dir, key, kept)
    return kept.catalogue()


def build(layers: Sequence[Sequence[Document]]) -> Catalogue:
    """The catalogue of parsed files. Raises `ConfigError`."""
    return _keep(layers).catalogue()


def files_of(path: Path) -> list[Path]:
    """The catalogue files that a path stands for: itself, or every YAML file of a directory. Raises `ConfigError`."""
    files = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
    if not files:
        raise ConfigError([Problem(str(path), 0, "", "holds no catalogue", "a folder of *.yaml files")])
    return files


def _together(texts: Sequence[bytes]) -> bytes:
    return b"".join(len(text).to_bytes(8, "big") + text for text in texts)


def _keep(layers: Sequence[Sequence[Document]]) -> _Kept:
    from gateway.catalog.facts import merge  # noqa: PLC0415 - only needed where nothing is kept yet

    return _kept(merge(layers))


def _kept(known: Knowledge) -> _Kept:
    return _Kept(
        models=[to_model(name, facts) for name, facts in known.models.items()],
        names=known.owner,
        offers=[
            _to_offer(model, provider, upstream_id, regions, processing, facts)
            for (model, provider, upstream_id, regions, processing), facts in known.offers.items()
        ],
        providers=[_to_provider(name, facts) for name, facts in known.providers.items()],
        released={name: facts["released"].value for name, facts in known.models.items() if "released" in facts},
    )


def _values(facts: Facts) -> dict[str, Any]:
    return {name: frozenset(fact.value) if name in _AS_SETS else fact.value for name, fact in facts.items()}


def to_model(name: str, facts: Facts) -> Model:
    """A model of its facts."""
    from gateway.catalog.facts import LICENSE, SCORE  # noqa: PLC0415 - as above

    given: dict[str, Any] = {}
    terms: dict[str, Any] = {}
    scores: dict[str, float] = {}
    for key, value in _values(facts).items():
        if key.startswith(LICENSE):
            terms[key.removeprefix(LICENSE)] = value
        elif key.startswith(SCORE):
            scores[key.removeprefix(SCORE)] = float(value)
        elif key not in _NOT_OF_MODEL:
            given[key] = value
    for listed in ("aliases", "lineage"):
        if listed in given:
            given[listed] = tuple(given[listed])
    return Model(id=name, terms=Terms(**terms), evals=tuple(sorted(scores.items())), **given)


def _to_offer(
    model: str, provider: str, upstream_id: str, regions: tuple[str, ...], processing: str | None, facts: Facts
) -> Offer:
    from gateway.fields import price  # noqa: PLC0415 - as above

    given = _values(facts)
    if "price" in facts:
        listed = facts["price"]
        given["price"] = price(listed.value, f"{listed.source}@{listed.as_of}" if listed.as_of else listed.source)
    return Offer(model, provider, upstream_id, regions, processing, **given)


def _to_provider(name: str, facts: Facts) -> Provider:
    given = _values(facts)
    for key in ("hosts", "scopes"):
        given[key] = tuple(given.get(key, ()))
    return Provider(name, **given)
