"""The pydantic models of catalogue files: what the shipped files and an operator's own may say.

Only the form. How files go over one another is `facts`, what is made of them `catalogue`; a start with a warm cache
needs none of this.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from gateway.core.quantities import Invalid
from gateway.core.types import Modality, ThinkingSupport
from gateway.fields import Currency, Day, Name, PriceList, Strict, Tokens

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
    """Whose servers answer at `hosts`: `*` stands for anything, `{region}` for the region a backend lies in.

    `region` only where all of its servers stand in one; `scopes` where an account may choose where data is processed.
    """

    source: str
    hosts: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9.*{}-]+$")]] = Field(default_factory=list)
    base_url: str | None = Field(None, min_length=1)
    key_env: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    region: Name | None = None
    scopes: list[Name] | None = Field(None, min_length=1)


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
    window_extended: Tokens | None = None
    memory: str | None = Field(None, min_length=1)
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


class OfferDoc(Strict):
    """A model served by somebody: under which id, how much of it, for how much. Prices per million tokens.

    `processing` is the scope the terms hold for, `thinking_needs_stream` says that thinking is refused unless streamed.
    """

    source: str
    model: str
    provider: str
    id: str = Field(min_length=1)
    regions: list[Name] | None = Field(None, min_length=1)
    processing: Name | None = None
    window: Tokens | None = None
    max_input: Tokens | None = None
    max_output: Tokens | None = None
    price: PriceList | None = None
    currency: Currency | None = None
    modalities: list[Modality] | None = Field(None, min_length=1)
    tools: bool | None = None
    structured_output: bool | None = None
    thinking: ThinkingSupport | None = None
    thinking_needs_stream: bool | None = None
    retires_on: Day | None = None
    sources: dict[str, str] = Field(default_factory=dict)
    confidence: Confidence | None = None


class CatalogueDoc(Strict):
    """A catalogue file; an operator's own has the same form and only says what differs."""

    catalogue: Literal[1]
    as_of: Day
    sources: dict[str, SourceDoc] = Field(default_factory=dict)
    providers: dict[Name, ProviderDoc] = Field(default_factory=dict)
    models: dict[Name, ModelDoc] = Field(default_factory=dict)
    offers: list[OfferDoc] = Field(default_factory=list)
