"""What of a licence an operator has to know. Which licences there are, and what each says, is in the catalogue."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Terms:
    """What an operator has to know of a licence before weights are used. `None` means "not known"."""

    osi_approved: bool | None = None
    commercial_use: bool | None = None  # allowed, be it within limits
    mau_clause: bool | None = None  # something changes with the number of monthly active users
    mau_limit: int | None = None  # the number; None also where there is no such clause
    acceptable_use_policy: bool | None = None  # uses are excluded that the law does not exclude
    attribution: bool | None = None  # the model has to be named to those who use the product


NOTHING_KNOWN = Terms()
