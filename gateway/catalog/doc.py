"""The pydantic models of catalogue files: what the shipped files and an operator's own may say.

Only the form. How files go over one another is `facts`, what is made of them `catalogue`; a start with a warm cache
needs none of this.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from gateway.core.facts import EVAL_NAME
from gateway.core.quantities import Invalid
from gateway.core.types import Modality, ThinkingSupport
from gateway.fields import Currency, Day, Name, PriceList, Quantization, Strict, Tokens

Confidence = Literal["confirmed", "secondary", "unconfirmed"]


def _language(value: str) -> str:
    if not (2 <= len(value) <= 3 and value.isascii() and value.isalpha() and value.islower()):
        raise Invalid(f"{value!r:.40} is not a language code", "ISO 639-1 such as ja, or 639-3 where there is none")
    return value


Language = Annotated[str, AfterValidator(_language), WithJsonSchema({"type": "string", "pattern": "^[a-z]{2,3}$"})]


Score = Annotated[str, Field(pattern=f"^{EVAL_NAME.pattern}$")]


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


class LicenseDoc(Strict):
    """What an operator has to know of a licence. `source` is of every fact that `sources` does not name apart.

    `mau_clause`: something changes with the number of monthly active users; `attribution`: the model has to be named to
    those who use the product.
    """

    source: str
    sources: dict[str, str] = Field(default_factory=dict)
    confidence: dict[str, Confidence] = Field(default_factory=dict)
    osi_approved: bool | None = None
    commercial_use: bool | None = None
    mau_clause: bool | None = None
    mau_limit: int | None = Field(None, ge=1)
    acceptable_use_policy: bool | None = None
    attribution: bool | None = None
    eu_domiciled_licensee_excluded: bool | None = None

    @model_validator(mode="after")
    def _one_clause(self) -> LicenseDoc:
        if self.mau_limit is not None and not self.mau_clause:
            raise Invalid("has a mau_limit and no mau_clause", "mau_clause: true beside it")
        return self


class ModelDoc(Strict):
    """Facts of one model. `source` is of every fact that `sources` does not name apart.

    `base` is the model that a fine-tune was made from: what is not said here is as there. `lineage` are labels of what
    else it descends from. `evals` are your own scores, for ranks and selectors: none comes with Pointsman.
    """

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
    base: str | None = None
    lineage: list[Annotated[str, Field(min_length=1, max_length=128)]] | None = Field(None, min_length=1)
    evals: dict[Score, float] | None = None
    quantization: Quantization | None = None
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
    licenses: dict[str, LicenseDoc] = Field(default_factory=dict)
    models: dict[Name, ModelDoc] = Field(default_factory=dict)
    offers: list[OfferDoc] = Field(default_factory=list)
