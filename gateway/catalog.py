"""The catalogue: what is publicly known of models, who serves them, and on what terms.

Reads `policies/catalog/models.yaml` and the operator's files over it into `Model`s and `Offer`s. Every fact has a
source and every source a date; an entry without one does not load. What *this* installation serves is not a catalogue
matter: targets are built in `gateway.site`, which asks here for what they leave out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, WithJsonSchema

from gateway import yamlfile
from gateway.core.errors import ConfigError, Problem
from gateway.core.quantities import Invalid
from gateway.core.types import Modality, Model, Price, ThinkingSupport
from gateway.fields import Day, Name, PriceList, Strict, Tokens, price
from gateway.problems import problems, suggest
from gateway.yamlfile import Document

Confidence = Literal["confirmed", "secondary", "unconfirmed"]


def _language(value: str) -> str:
    if not (2 <= len(value) <= 3 and value.isascii() and value.isalpha() and value.islower()):
        raise Invalid(f"{value!r:.40} is not a language code", "ISO 639-1 such as ja, or 639-3 where there is none")
    return value


Language = Annotated[str, AfterValidator(_language), WithJsonSchema({"type": "string", "pattern": "^[a-z]{2,3}$"})]


class SourceDoc(Strict):
    """Where facts were read, and when: that date is the date of every fact that names this source."""

    as_of: str = Field(pattern=r"^20[0-9]{2}-(0[1-9]|1[0-2])(-[0-3][0-9])?$")
    kind: Literal["primary", "secondary", "aggregator", "operator", "unverified"]
    ref: str = Field(min_length=1)


class ProviderDoc(Strict):
    """Whose servers answer at `hosts` (`*` in front: anything); `region` only where all of them stand in one."""

    source: str
    hosts: list[Annotated[str, Field(pattern=r"^\*?[A-Za-z0-9.-]+$")]] = Field(default_factory=list)
    region: Name | None = None


class ModelDoc(Strict):
    """Facts of one model. `source` is of every fact that `sources` does not name apart."""

    source: str
    sources: dict[str, str] = Field(default_factory=dict)
    confidence: dict[str, Confidence] = Field(default_factory=dict)
    family: Name | None = None
    generation: str | None = None
    purpose: Literal["general", "code", "vision", "omni", "embedding"] | None = None
    params_total_b: float | None = Field(None, gt=0)
    params_active_b: float | None = Field(None, gt=0)
    window: Tokens | None = None
    modalities: list[Modality] | None = Field(None, min_length=1)
    images_max: int | None = Field(None, ge=0)
    languages: list[Language] | None = Field(None, min_length=1)
    language_count: int | None = Field(None, ge=1)
    thinking: ThinkingSupport | None = None
    tools: bool | None = None
    structured_output: bool | None = None
    license: str | None = None
    open_weights: bool | None = None
    eu_domiciled_licensee_excluded: bool | None = None
    tokenizer: str | None = None
    typical_output_tokens: Tokens | None = None
    released: Day | None = None
    aliases: list[str] | None = None


_NOT_FACTS = frozenset({"source", "sources", "confidence"})
_NOT_OF_MODEL = _NOT_FACTS | {"released"}
_AS_SETS = frozenset({"modalities", "languages"})


class OfferDoc(Strict):
    """A model served by somebody: under which id, how much of it, for how much. USD per million tokens."""

    source: str
    model: str
    provider: str
    id: str = Field(min_length=1)
    regions: list[Name] | None = Field(None, min_length=1)
    window: Tokens | None = None
    max_input: Tokens | None = None
    max_output: Tokens | None = None
    price: PriceList | None = None
    modalities: list[Modality] | None = Field(None, min_length=1)
    tools: bool | None = None
    structured_output: bool | None = None
    retires_on: Day | None = None
    confidence: Confidence | None = None


class CatalogueDoc(Strict):
    """A catalogue file; an operator's own has the same form and only says what differs."""

    catalogue: Literal[1]
    as_of: Day
    sources: dict[str, SourceDoc] = Field(default_factory=dict)
    providers: dict[Name, ProviderDoc] = Field(default_factory=dict)
    models: dict[Name, ModelDoc] = Field(default_factory=dict)
    offers: list[OfferDoc] = Field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Offer:
    """One way to rent a model. `None` means "not known" throughout; prices carry the version they came from."""

    model: str
    provider: str
    upstream_id: str
    regions: tuple[str, ...] = ()
    window: int | None = None
    max_input: int | None = None
    max_output: int | None = None
    price: Price | None = None
    modalities: frozenset[str] | None = None
    tools: bool | None = None
    structured_output: bool | None = None
    retires_on: date | None = None


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Everything known, from the shipped file and the operator's over it. Never changes."""

    models: Mapping[str, Model]
    names: Mapping[str, str]  # model ids and their aliases -> model id
    offers: Mapping[tuple[str, str], tuple[Offer, ...]]  # (model, provider), preferred offer first
    hosts: Mapping[str, str]  # host of a base_url -> provider
    providers: frozenset[str]
    regions: Mapping[str, str]  # provider -> region, where all of its servers stand in one
    released: Mapping[str, date]

    def provider_of(self, host: str) -> str | None:
        """Whose server a host is, where the catalogue knows it."""
        exact = self.hosts.get(host)
        if exact is not None:
            return exact
        return next((name for known, name in self.hosts.items() if known[0] == "*" and host.endswith(known[1:])), None)

    def offer(self, model: str, provider: str, region: str | None, upstream_id: str | None = None) -> Offer | None:
        """The offer of a model by a provider, the one for this region before one that names none.

        Where a provider has several ids for a model and none is asked for, the first in the file is the one.
        """
        found = self.offers.get((model, provider), ())
        if upstream_id is not None:
            found = tuple(one for one in found if one.upstream_id == upstream_id)
        here = [one for one in found if region and any(_lies_in(place, region) for place in one.regions)]
        return next(iter(here), next((one for one in found if not one.regions), None))


def _lies_in(place: str, region: str) -> bool:
    return place == region or place.startswith(region + "-")


def load_catalogue(paths: Sequence[Path], *, cache_dir: Path | None = None) -> Catalogue:
    """Read catalogue files, each over the ones before it. Raises `ConfigError` with every problem found."""
    return build([yamlfile.load(path, cache_dir=cache_dir) for path in paths])


def build(documents: Sequence[Document]) -> Catalogue:
    """The catalogue of parsed files. Raises `ConfigError`."""
    found: list[Problem] = []
    docs: list[tuple[Document, CatalogueDoc]] = []
    for document in documents:
        try:
            docs.append((document, CatalogueDoc.model_validate(document.data)))
        except ValidationError as error:
            found += problems(document, error, CatalogueDoc)
    if not found:
        merged = _Merge(found)
        for document, doc in docs:
            merged.add(document, doc)
        if not found:
            return merged.done()
    raise ConfigError(found)


class _Merge:
    """Puts one file over another, noting what does not hold together."""

    def __init__(self, found: list[Problem]) -> None:
        self.found = found
        self.sources: dict[str, SourceDoc] = {}
        self.providers: dict[str, ProviderDoc] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        self.owner: dict[str, str] = {}  # every id and alias -> model id
        self.offers: dict[tuple[str, str, str, tuple[str, ...]], Offer] = {}

    def add(self, document: Document, doc: CatalogueDoc) -> None:
        self.sources |= doc.sources
        self.providers |= doc.providers
        for name, provider in doc.providers.items():
            self._source(document, f"providers.{name}.source", provider.source)
        for name, model in doc.models.items():
            self._model(document, name, model)
        for name, model in doc.models.items():
            for alias in model.aliases or ():
                owner = self.owner.setdefault(alias, name)
                if owner != name:
                    self._note(document, f"models.{name}.aliases", f"{alias} already names {owner}", "names nobody has")
        fresh: dict[tuple[str, str, str, tuple[str, ...]], Offer] = {}
        for index, offer in enumerate(doc.offers):
            made = self._offer(document, f"offers[{index}]", offer)
            key = (made.model, made.provider, made.upstream_id, made.regions)
            if key in fresh:
                self._note(
                    document, f"offers[{index}]", f"{made.upstream_id} of {made.provider} is listed twice", "once"
                )
            fresh[key] = made
        # A later file's offers come first: of several that fit a target, the first is taken.
        self.offers = fresh | {key: one for key, one in self.offers.items() if key not in fresh}

    def _model(self, document: Document, name: str, doc: ModelDoc) -> None:
        path = f"models.{name}"
        known = set(ModelDoc.model_fields) - _NOT_FACTS
        self._source(document, f"{path}.source", doc.source)
        for fact, source in doc.sources.items():
            self._source(document, f"{path}.sources.{fact}", source)
        for kind, facts in (("sources", doc.sources), ("confidence", doc.confidence)):
            for fact in facts.keys() - known:
                self._note(
                    document, f"{path}.{kind}.{fact}", f"there is no fact {fact!r:.60}", suggest(fact, sorted(known))
                )
        new = name not in self.facts
        if new and doc.family is None:
            self._note(document, path, "has no family", "family: llama, qwen, ... for a model not in the catalogue yet")
        if self.owner.setdefault(name, name) != name:
            self._note(document, path, f"is already an alias of {self.owner[name]}", "another name")
        said = {key: getattr(doc, key) for key in doc.model_fields_set - _NOT_FACTS}
        self.facts[name] = self.facts.get(name, {}) | said

    def _offer(self, document: Document, path: str, doc: OfferDoc) -> Offer:
        self._source(document, f"{path}.source", doc.source)
        if doc.model not in self.facts:
            self._note(document, f"{path}.model", f"no model {doc.model!r:.80}", suggest(doc.model, self.facts))
        if doc.provider not in self.providers:
            valid = suggest(doc.provider, self.providers)
            self._note(document, f"{path}.provider", f"no provider {doc.provider!r:.80}", valid)
        dated = self.sources.get(doc.source)
        version = f"{doc.source}@{dated.as_of}" if dated else doc.source
        return Offer(
            model=doc.model,
            provider=doc.provider,
            upstream_id=doc.id,
            regions=tuple(doc.regions or ()),
            window=doc.window,
            max_input=doc.max_input,
            max_output=doc.max_output,
            price=None if doc.price is None else price(doc.price, version),
            modalities=None if doc.modalities is None else frozenset(doc.modalities),
            tools=doc.tools,
            structured_output=doc.structured_output,
            retires_on=doc.retires_on,
        )

    def done(self) -> Catalogue:
        models = {name: _to_model(name, facts) for name, facts in self.facts.items()}
        offers: dict[tuple[str, str], tuple[Offer, ...]] = {}
        for offer in self.offers.values():
            key = (offer.model, offer.provider)
            offers[key] = (*offers.get(key, ()), offer)
        return Catalogue(
            models=MappingProxyType(models),
            names=MappingProxyType(self.owner),
            offers=MappingProxyType(offers),
            hosts=MappingProxyType({host: name for name, one in self.providers.items() for host in one.hosts}),
            providers=frozenset(self.providers),
            regions=MappingProxyType({name: one.region for name, one in self.providers.items() if one.region}),
            released=MappingProxyType({n: f["released"] for n, f in self.facts.items() if f.get("released")}),
        )

    def _source(self, document: Document, path: str, source: str) -> None:
        if source not in self.sources:
            self._note(document, path, f"no source {source!r:.80}", suggest(source, self.sources))

    def _note(self, document: Document, path: str, what: str, valid: str) -> None:
        self.found.append(document.problem(path, what, valid))


def _to_model(name: str, facts: Mapping[str, Any]) -> Model:
    given = {key: value for key, value in facts.items() if key not in _NOT_OF_MODEL and value is not None}
    for key in _AS_SETS & given.keys():
        given[key] = frozenset(given[key])
    given["aliases"] = tuple(given.get("aliases", ()))
    return Model(id=name, **given)
