"""Facts of a tenant that bind by themselves, checked wherever people write a tenant: at a key, and in a policy's test.

All other facts are the operator's own words and mean what policies make of them; nothing is said of them here.
"""

from __future__ import annotations

import re

from gateway.core.quantities import Invalid, nano_usd

#: Codes that the EU's own institutions use where ISO 3166-1 has another.
_NOT_ISO = {"EL": "GR", "UK": "GB"}


def country(value: str) -> str:
    """A country's code. Where something stands decides what may go there, so a slip must not pass as nowhere."""
    if not re.fullmatch("[A-Z]{2}", value) or value in _NOT_ISO:
        valid = _NOT_ISO.get(value.upper(), "a country's two capital letters, ISO 3166-1 alpha-2, such as SG")
        raise Invalid(f"{value!r:.40} is not a country", valid)
    return value


def checked(facts: dict[str, str]) -> dict[str, str]:
    """The same facts, where `domicile` and `max_cost_usd` mean something: a slip must not pass as if it were not there.

    Raises `quantities.Invalid`.
    """
    if "domicile" in facts:
        try:
            country(facts["domicile"])
        except Invalid as error:
            raise Invalid(f"domicile {error.what}", error.valid) from None
    if "max_cost_usd" in facts:
        try:
            nano_usd(facts["max_cost_usd"])
        except Invalid as error:
            raise Invalid(f"max_cost_usd {error.what}", error.valid) from None
    return facts
