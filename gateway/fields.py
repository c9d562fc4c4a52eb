"""Types of fields in the files people write, shared by `gateway.config` and `gateway.catalog.catalogue`.

Each is a plain Python value with a validator that says what would have been valid, and the JSON Schema of what may be
written in the file. Fields only; what a file consists of stands in the two modules named above.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, WithJsonSchema

from gateway.core import quantities
from gateway.core.clauses.tenants import country
from gateway.core.memory import BITS
from gateway.core.quantities import Invalid
from gateway.core.resilience.hedging import SOONEST_S, Hedge
from gateway.core.types import Price, PriceTier


class Strict(BaseModel):
    """Base of every model of a file: unknown keys are errors and nothing is converted silently."""

    # Deferred: a model that only others contain never needs a validator of its own, and a third of them all go unused.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True, defer_build=True)


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def name_of(value: str) -> str:
    """A name that people give: of a key, a target, a team. Raises `Invalid`."""
    if not _NAME.fullmatch(value):
        raise Invalid(f"{value!r:.80} cannot be a name", "letters, digits, '.', '_' and '-', at most 64 in all")
    return value


def _date(value: object) -> date:
    try:
        return date.fromisoformat(value) if isinstance(value, str) and len(value) == 10 else _raise()
    except ValueError:
        raise Invalid(f"{value!r:.40} is not a date", "a day such as 2026-11-21") from None


def _raise() -> date:
    raise ValueError


def _moment(value: object) -> datetime:
    try:
        if not isinstance(value, str) or len(value) < len("2026-11-21") or not value.isascii():
            raise ValueError
        if len(value) == len("2026-11-21"):
            day = date.fromisoformat(value)
            return datetime(day.year, day.month, day.day, tzinfo=UTC)
        found = datetime.fromisoformat(value)
        if found.tzinfo is None or "T" not in value:
            raise ValueError
        return found.astimezone(UTC)
    except (ValueError, OverflowError):
        valid = "a day such as 2026-11-21, or a time such as 2026-11-21T18:00:00Z"
        raise Invalid(f"{value!r:.40} is not a date", valid) from None


def _positive_seconds(value: object) -> float:
    number = quantities.seconds(value)
    if not 0 < number <= 86_400 * 7:
        raise Invalid(f"{value!r:.40} is out of range", "more than 0 and at most 7d")
    return number


def _age(value: object) -> float:
    number = quantities.seconds(value)
    if not 1 <= number <= 86_400 * 3_650:
        raise Invalid(f"{value!r:.40} is out of range", "at least 1s and at most 3650d")
    return number


def _positive_tokens(value: object) -> int:
    number = quantities.tokens(value)
    if not 0 < number <= 10**12:
        raise Invalid(f"{value!r:.40} is out of range", "more than 0 tokens")
    return number


def _positive_bytes(value: object) -> int:
    number = quantities.size_bytes(value)
    if not 0 < number <= 1 << 40:
        raise Invalid(f"{value!r:.40} is out of range", "more than 0 bytes")
    return number


def _quantity(pattern: str, *examples: object, number: bool = True) -> WithJsonSchema:
    text: dict[str, Any] = {"type": "string", "pattern": f"^{pattern}$"}
    any_of = [text, {"type": "integer", "minimum": 0}] if number else [text]
    return WithJsonSchema({"anyOf": any_of, "examples": list(examples)})


_DECIMAL = r"[0-9]{1,15}(\.[0-9]{1,9})? ?"


def _hedge(value: object) -> Hedge:
    if isinstance(value, str) and value in _PERCENTILES:
        return Hedge(percentile=int(value[1:]))
    after_s = _positive_seconds(value)
    if after_s < SOONEST_S:
        raise Invalid(f"{value!r:.40} would ask twice for nearly everything", "100ms or more, or p95")
    return Hedge(after_s)


_PERCENTILES = ("p50", "p75", "p90", "p95", "p99")
Name = Annotated[str, AfterValidator(name_of), Field(pattern=f"^{_NAME.pattern}$")]
Day = Annotated[date, BeforeValidator(_date), WithJsonSchema({"type": "string", "format": "date"})]
#: A point in time, in UTC; a day stands for its first moment there.
Moment = Annotated[
    datetime,
    BeforeValidator(_moment),
    WithJsonSchema({"anyOf": [{"type": "string", "format": "date"}, {"type": "string", "format": "date-time"}]}),
]
Seconds = Annotated[
    float, BeforeValidator(_positive_seconds), _quantity(_DECIMAL + "(us|ms|s|m|min|h|d)", "2s", "15m", number=False)
]
HedgeAfter = Annotated[
    Hedge,
    BeforeValidator(_hedge),
    WithJsonSchema(
        {"type": "string", "pattern": f"^(p(50|75|90|95|99)|{_DECIMAL}(ms|s|m))$", "examples": ["p95", "2s"]}
    ),
]
Age = Annotated[float, BeforeValidator(_age), _quantity(_DECIMAL + "(s|m|min|h|d)", "12h", "14d", number=False)]
Tokens = Annotated[int, BeforeValidator(_positive_tokens), _quantity(_DECIMAL + "(k|M|Ki|Mi)?", "200k", "1M", 262144)]
Bytes = Annotated[
    int, BeforeValidator(_positive_bytes), _quantity(_DECIMAL + "(B|kB|KB|MB|GB|KiB|MiB|GiB)?", "64MB", 65536)
]
NanoUsd = Annotated[
    int,
    BeforeValidator(quantities.nano_usd),
    WithJsonSchema({"type": "number", "minimum": 0, "examples": [0.4]}),
]


def _quantization(value: str) -> str:
    if value not in BITS:
        raise Invalid(f"{value!r:.40} is no quantization that is known", "one of " + ", ".join(BITS))
    return value


Quantization = Annotated[
    str, AfterValidator(_quantization), WithJsonSchema({"enum": list(BITS), "description": "what weights are kept in"})
]
Gigabytes = Annotated[float, Field(gt=0, le=1_000_000)]


Country = Annotated[
    str, AfterValidator(country), WithJsonSchema({"type": "string", "pattern": "^[A-Z]{2}$", "examples": ["SG"]})
]


def _currency(value: str) -> str:
    if not re.fullmatch("[A-Z]{3}", value):
        raise Invalid(f"{value!r:.40} is not a currency", "three capital letters, ISO 4217, such as CNY")
    return value


Currency = Annotated[
    str, AfterValidator(_currency), WithJsonSchema({"type": "string", "pattern": "^[A-Z]{3}$", "examples": ["CNY"]})
]


class Rates(Strict):
    """Prices per million tokens, in USD where nothing else is said."""

    input: NanoUsd
    output: NanoUsd
    cached_input: NanoUsd | None = None
    cache_write: NanoUsd | None = None
    thinking_output: NanoUsd | None = None


class Tier(Rates):
    """Rates that hold for the whole request once its input has more than `above` tokens."""

    above: int = Field(ge=0)


def _price_kind(value: object) -> str:
    return "tiers" if isinstance(value, list) else "rates"


def _tiers(value: list[Tier]) -> list[Tier]:
    edges = [tier.above for tier in value]
    if not edges or edges[0] != 0 or edges != sorted(set(edges)):
        raise Invalid("tiers do not ascend from 0", "a list whose `above` is 0 first and grows")
    return value


Tiers = Annotated[list[Tier], AfterValidator(_tiers)]
PriceList = Annotated[
    Annotated[Rates, Tag("rates")] | Annotated[Tiers, Tag("tiers")],
    Discriminator(_price_kind),
]


def price(written: Rates | list[Tier], version: str) -> Price:
    """The `Price` of a list as written; `version` names where it came from."""
    rows = written if isinstance(written, list) else [written]
    tiers = tuple(
        PriceTier(
            above_input_tokens=row.above if isinstance(row, Tier) else 0,
            input=row.input,
            output=row.output,
            cached_input=row.cached_input,
            thinking_output=row.thinking_output,
            cache_write=row.cache_write,
        )
        for row in rows
    )
    return Price(tiers, version)
