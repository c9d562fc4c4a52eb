"""Catalogue files put over one another, fact by fact, each fact with where it was read, when, and how sure it is.

Here belong the merge, and everything that does not hold together between files. What is made of the facts for deciding
is `catalogue`; what files may say is `doc`. A layer is one or more files of equal rank: the
shipped ones are the lowest, an operator's go over them in the order in which the configuration names them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from gateway.catalog.doc import CatalogueDoc, Confidence, LicenseDoc, ModelDoc, OfferDoc, ProviderDoc, SourceDoc
from gateway.core.errors import ConfigError, Problem
from gateway.problems import problems, suggest
from gateway.yamlfile import Document

#: How far a fact can be trusted where its file does not say it: by what kind of source it comes from.
CONFIDENCE: Mapping[str, Confidence] = {
    "primary": "confirmed",
    "operator": "confirmed",
    "secondary": "secondary",
    "aggregator": "secondary",
    "unverified": "unconfirmed",
}

_ABOUT = frozenset({"source", "sources", "confidence"})
_NAMES = frozenset({"model", "provider", "id", "regions", "processing"})  # what tells offers apart
MODEL_FACTS = tuple(name for name in ModelDoc.model_fields if name not in _ABOUT)
OFFER_FACTS = tuple(name for name in OfferDoc.model_fields if name not in _ABOUT | _NAMES)
PROVIDER_FACTS = tuple(name for name in ProviderDoc.model_fields if name not in _ABOUT)
LICENSE_FACTS = tuple(name for name in LicenseDoc.model_fields if name not in _ABOUT)
#: Facts of a model that its licence may state for all models under it; the others are facts of the licence.
_OF_BOTH = tuple(name for name in LICENSE_FACTS if name in MODEL_FACTS)
#: What a fine-tune does not have from its base: names, and what was measured or said of that one only.
_OWN = frozenset({"base", "aliases", "released", "lineage"})
LICENSE, SCORE = "license.", "evals."

#: Model, provider, id, regions, processing scope.
OfferKey = tuple[str, str, str, tuple[str, ...], str | None]
Layer = Sequence[Document]


@dataclass(frozen=True, slots=True)
class Fact:
    """One value, where it was read and when, and the file and line that say so."""

    value: Any
    source: str
    as_of: str
    confidence: Confidence
    place: str
    via: str = ""  # the model or licence that it is a fact of, where that is another than it is asked of


Facts = dict[str, Fact]


@dataclass(slots=True)
class Knowledge:
    """All facts of all layers, the uppermost of each."""

    sources: dict[str, SourceDoc] = field(default_factory=dict)
    providers: dict[str, Facts] = field(default_factory=dict)
    licenses: dict[str, Facts] = field(default_factory=dict)
    models: dict[str, Facts] = field(default_factory=dict)  # with those of its base and licence: `license.<fact>`
    offers: dict[OfferKey, Facts] = field(default_factory=dict)  # preferred first
    owner: dict[str, str] = field(default_factory=dict)  # every id and alias -> model id


def merge(layers: Sequence[Layer]) -> Knowledge:
    """The facts of the layers, each over the ones before it. Raises `ConfigError` with every problem found.

    What a model does not state is taken from its base, and then from its licence, after all layers are in.
    """
    found: list[Problem] = []
    read: list[list[tuple[Document, CatalogueDoc]]] = []
    for layer in layers:
        docs = []
        for document in layer:
            try:
                docs.append((document, CatalogueDoc.model_validate(document.data)))
            except ValidationError as error:
                found += problems(document, error, CatalogueDoc)
        read.append(docs)
    merging = _Merge(found)
    if not found:
        for docs in read:
            merging.add(docs)
        merging.inherit()
    if found:
        raise ConfigError(found)
    return merging.known


def _base(facts: Facts) -> str:
    stated = facts.get("base")
    return "" if stated is None else str(stated.value)


class _Merge:
    """Puts one layer over those before it, noting what does not hold together."""

    def __init__(self, found: list[Problem]) -> None:
        self.found = found
        self.known = Knowledge()
        self.bases: dict[str, Document] = {}  # model -> the file that says what it was made from

    def add(self, docs: Sequence[tuple[Document, CatalogueDoc]]) -> None:
        known = self.known
        for _, doc in docs:
            known.sources |= doc.sources
        for document, doc in docs:
            for name, provider in doc.providers.items():
                said = self._facts(document, f"providers.{name}", provider, PROVIDER_FACTS, {})
                known.providers[name] = known.providers.get(name, {}) | said
        for document, doc in docs:
            for name, terms in doc.licenses.items():
                self._names_facts(document, f"licenses.{name}", terms, LICENSE_FACTS)
                said = self._facts(document, f"licenses.{name}", terms, LICENSE_FACTS, terms.sources, terms.confidence)
                known.licenses[name] = known.licenses.get(name, {}) | said
        for document, doc in docs:
            for name, model in doc.models.items():
                self._model(document, name, model)
        for document, doc in docs:
            for name, model in doc.models.items():
                for alias in model.aliases or ():
                    owner = known.owner.setdefault(alias, name)
                    if owner != name:
                        path = f"models.{name}.aliases"
                        self._note(document, path, f"{alias} already names {owner}", "names nobody has")
        fresh: dict[OfferKey, Facts] = {}
        for document, doc in docs:
            for index, offer in enumerate(doc.offers):
                self._offer(document, f"offers[{index}]", offer, fresh)
        # A later layer's offers come first: of several that fit a target, the first is taken.
        known.offers = fresh | {key: one for key, one in known.offers.items() if key not in fresh}

    def _model(self, document: Document, name: str, doc: ModelDoc) -> None:
        path, known = f"models.{name}", self.known
        self._names_facts(document, path, doc, MODEL_FACTS)
        if name not in known.models and doc.family is None and doc.base is None:
            valid = "family: llama, qwen, ... for a model not in the catalogue yet, or base: the model it was made from"
            self._note(document, path, "has no family", valid)
        if doc.base is not None:
            self.bases[name] = document
        if known.owner.setdefault(name, name) != name:
            self._note(document, path, f"is already an alias of {known.owner[name]}", "another name")
        said = self._facts(document, path, doc, MODEL_FACTS, doc.sources, doc.confidence)
        scores = said.pop("evals", None)
        if scores is not None:
            places = {one: f"{document.name}:{document.line(f'{path}.evals.{one}')}" for one in scores.value}
            said |= {
                SCORE + one: replace(scores, value=scores.value[one], place=place) for one, place in places.items()
            }
        known.models[name] = known.models.get(name, {}) | said

    def _names_facts(self, document: Document, path: str, doc: ModelDoc | LicenseDoc, facts: Sequence[str]) -> None:
        for kind, named in (("sources", doc.sources), ("confidence", doc.confidence)):
            for fact in named.keys() - set(facts):
                valid = suggest(fact, sorted(facts))
                self._note(document, f"{path}.{kind}.{fact}", f"there is no fact {fact!r:.60}", valid)

    def inherit(self) -> None:
        """Give every model the facts of its base and of its licence that it does not state itself."""
        known = self.known
        whole: dict[str, Facts] = {}
        for name in known.models:
            chain = self._chain(name)
            for one in reversed(chain):
                if one not in whole:
                    whole[one] = self._under(known.models[one], known.owner.get(_base(known.models[one])), whole)
        for facts in whole.values():
            license_id = facts["license"].value if "license" in facts else ""
            for fact, said in known.licenses.get(license_id, {}).items():
                name = fact if fact in _OF_BOTH else LICENSE + fact
                facts.setdefault(name, replace(said, via=f"license {license_id}"))
        known.models = {name: whole[name] for name in known.models}

    def _chain(self, name: str) -> list[str]:
        """A model, its base, the base of that, and so on; notes where there is none such, or no end."""
        known, chain = self.known, [name]
        while base := _base(known.models[chain[-1]]):
            at, document = f"models.{chain[-1]}.base", self.bases[chain[-1]]
            owner = known.owner.get(base)
            if owner is None:
                self._note(document, at, f"no model {base!r:.80}", suggest(base, known.owner))
            elif owner in chain:
                if owner == name:  # not of what only leads into the circle
                    self._note(document, at, f"goes round in a circle: {' from '.join([*chain, owner])}", "an end")
            else:
                chain.append(owner)
                continue
            break
        return chain

    def _under(self, own: Facts, base: str | None, whole: Mapping[str, Facts]) -> Facts:
        """A model's own facts over those of its base."""
        if base is None or base not in whole:
            return dict(own)
        under = {
            name: fact if fact.via else replace(fact, via=f"model {base}")
            for name, fact in whole[base].items()
            if name not in _OWN and not name.startswith(SCORE)
        }
        older = whole[base].get("lineage")
        labels = own.get("lineage")
        descent = [*(labels.value if labels else ()), base, *(older.value if older else ())]
        return under | own | {"lineage": replace(labels or own["base"], value=list(dict.fromkeys(descent)))}

    def _offer(self, document: Document, path: str, doc: OfferDoc, fresh: dict[OfferKey, Facts]) -> None:
        known = self.known
        for fact in doc.sources.keys() - set(OFFER_FACTS):
            valid = suggest(fact, sorted(OFFER_FACTS))
            self._note(document, f"{path}.sources.{fact}", f"there is no fact {fact!r:.60}", valid)
        if doc.model not in known.models:
            self._note(document, f"{path}.model", f"no model {doc.model!r:.80}", suggest(doc.model, known.models))
        if doc.provider not in known.providers:
            valid = suggest(doc.provider, known.providers)
            self._note(document, f"{path}.provider", f"no provider {doc.provider!r:.80}", valid)
        key = (doc.model, doc.provider, doc.id, tuple(doc.regions or ()), doc.processing)
        if key in fresh:
            self._note(document, path, f"{doc.id} of {doc.provider} is listed twice", "once")
        said = self._facts(document, path, doc, OFFER_FACTS, doc.sources, dict.fromkeys(OFFER_FACTS, doc.confidence))
        under = known.offers.get(key, {})
        if "price" in said and "currency" not in said:  # a price is in USD where it says nothing else
            under = {name: fact for name, fact in under.items() if name != "currency"}
        fresh[key] = under | said

    def _facts(
        self,
        document: Document,
        path: str,
        doc: ProviderDoc | LicenseDoc | ModelDoc | OfferDoc,
        names: Sequence[str],
        sources: Mapping[str, str],
        confidence: Mapping[str, Confidence | None] | None = None,
    ) -> Facts:
        self._source(document, f"{path}.source", doc.source)
        for name, source in sources.items():
            self._source(document, f"{path}.sources.{name}", source)
        said: Facts = {}
        for name in names:
            value = getattr(doc, name)
            if name not in doc.model_fields_set or value is None:
                continue
            source = sources.get(name, doc.source)
            dated = self.known.sources.get(source)
            sure = (confidence or {}).get(name) or CONFIDENCE[dated.kind if dated else "unverified"]
            place = f"{document.name}:{document.line(f'{path}.{name}')}"
            said[name] = Fact(value, source, dated.as_of if dated else "", sure, place)
        return said

    def _source(self, document: Document, path: str, source: str) -> None:
        if source not in self.known.sources:
            self._note(document, path, f"no source {source!r:.80}", suggest(source, self.known.sources))

    def _note(self, document: Document, path: str, what: str, valid: str) -> None:
        self.found.append(document.problem(path, what, valid))


@dataclass(frozen=True, slots=True)
class Change:
    """What one layer does to one fact. `old` is None for a fact that was not known, `new` for one that is gone."""

    thing: str  # "model llama-4-scout", "offer llama-4-scout at deepinfra (id)", "provider groq"
    fact: str
    old: Fact | None
    new: Fact | None


def changes(before: Knowledge, after: Knowledge) -> Iterator[Change]:
    """Every fact that is another after than before, and every one that is new."""
    for kind, old, new in (
        ("provider", before.providers, after.providers),
        ("model", before.models, after.models),
    ):
        for name, facts in new.items():
            yield from _changed(f"{kind} {name}", old.get(name, {}), facts)
    for key, facts in after.offers.items():
        yield from _changed(offer_name(key), before.offers.get(key, {}), facts)


def _changed(thing: str, old: Facts, new: Facts) -> Iterator[Change]:
    for fact in dict.fromkeys((*old, *new)):
        one, other = old.get(fact), new.get(fact)
        if one != other:
            yield Change(thing, fact, one, other)


def offer_name(key: OfferKey) -> str:
    """How an offer is named where people read it."""
    model, provider, upstream_id, regions, processing = key
    where = "".join(f", {one}" for one in (*regions, *([processing] if processing else ())))
    return f"offer {model} at {provider} ({upstream_id}{where})"
