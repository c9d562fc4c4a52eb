"""The field types that every part of a policy file is written with, shared by `policy` and the modules of its parts.

Only how a thing is spelled in the file, for pydantic and the JSON Schema; what it means stands with the part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from gateway.core.clauses import schema
from gateway.core.clauses.matchers import parse_date
from gateway.core.quantities import Invalid, seconds

_LONGEST_S = 86_400.0


class Strict(BaseModel):
    """Base of every model of a policy file: unknown keys are errors and nothing is converted silently."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)


def _date(raw: object) -> date:
    day = parse_date(raw)
    if day is None:
        raise Invalid(f"{raw!r} is not a date", "a date such as 2026-11-21")
    return day


def _duration(raw: object) -> float:
    number = seconds(raw)
    if not 0 < number <= _LONGEST_S:
        raise Invalid(f"{raw!r:.40} is out of range", "more than 0 and at most 24h")
    return number


def number(least: float, most: float, valid: str, *, whole: bool = False) -> Callable[[object], float]:
    """A validator of numbers from `least` to `most`, both included. Booleans are none."""

    def check(raw: object) -> float:
        kinds = (int,) if whole else (int, float)
        if isinstance(raw, bool) or not isinstance(raw, kinds) or not least <= raw <= most:
            raise Invalid(f"{raw!r:.40} does not fit here", valid)
        return raw

    return check


def _said(raw: object) -> object:
    """Nothing behind a key is a slip: an empty `when` would hold always."""
    if raw is None:
        raise Invalid("says nothing", "a value behind it, or not the key")
    return raw


def unique(entries: Sequence[Any]) -> Sequence[Any]:
    """A validator of lists whose entries have ids. Raises `Invalid` for one that stands there twice."""
    seen: dict[str, int] = {}
    for number, entry in enumerate(entries):
        first = seen.setdefault(entry.id, number)
        if first != number:
            what = f"the id {entry.id!r} stands here a second time"
            raise Invalid(what, "each id once", at=(number, "id"), first=(first, "id"))
    return entries


#: How ids are written, of policies and of everything in them.
ID_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
Id = Annotated[str, Field(pattern=ID_PATTERN)]
When = Annotated[Any, BeforeValidator(_said), WithJsonSchema(schema.part("Condition"))]
Select = Annotated[Any, BeforeValidator(_said), WithJsonSchema(schema.part("Selector"))]
RungForm = Annotated[Any, WithJsonSchema(schema.part("Rung"))]
Day = Annotated[date, BeforeValidator(_date), WithJsonSchema({"type": "string", "format": "date"})]
Duration = Annotated[
    float,
    BeforeValidator(_duration),
    WithJsonSchema({"type": "string", "pattern": r"^[0-9]{1,15}(\.[0-9]{1,9})? ?(us|ms|s|m|min|h|d)$"}),
]


def _file(name: str) -> str:
    if not name or "\0" in name or "\\" in name or name.startswith(("/", "~")) or not name.endswith(".yaml"):
        raise Invalid(f"{name!r:.80} names no file to include", "a path relative to this file, such as parts/eu.yaml")
    return name


#: Files whose constraints a policy takes in, relative to the file that names them and inside the policy's folder.
Includes = Annotated[
    list[Annotated[str, AfterValidator(_file), Field(max_length=256, pattern=r"^[^/~].*\.yaml$")]],
    Field(max_length=16),
]
