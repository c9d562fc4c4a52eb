"""Sizes, durations and money as people write them: `200k` tokens, `64MB`, `1.5s`, 0.40 USD.

Only the spelling is judged here, never whether a value makes sense where it stands. Used by the pydantic models of
every file people write, so the same text means the same everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation

from gateway.core.types import NANO_PER_USD


class Invalid(ValueError):
    """A value that does not mean anything where it stands: what is wrong, and what would be valid.

    Where it is a list, `at` are the steps to what is wrong in it, and `first` those to what that clashes with.
    """

    def __init__(
        self, what: str, valid: str = "", *, at: tuple[str | int, ...] = (), first: tuple[str | int, ...] = ()
    ) -> None:
        super().__init__(f"{what}: {valid}" if valid else what)
        self.what = what
        self.valid = valid
        self.at = at
        self.first = first


_NUMBER_UNIT = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-z]*)")

_TOKENS = {"": 1, "k": 1_000, "M": 1_000_000, "Ki": 1 << 10, "Mi": 1 << 20}
_TOKENS_VALID = "a whole number of tokens such as 4096, 200k, 1M (1,000,000) or 32Ki (32,768)"
_BYTES = {
    "": 1,
    "B": 1,
    "kB": 1_000,
    "KB": 1_000,
    "MB": 1_000_000,
    "GB": 1_000_000_000,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
}
_BYTES_VALID = "a size such as 65536, 64kB, 64MB or 1GiB"
_SECONDS: dict[str, int | Decimal] = {
    "us": Decimal("0.000001"),
    "ms": Decimal("0.001"),
    "s": 1,
    "m": 60,
    "min": 60,
    "h": 3600,
    "d": 86400,
}
SHARE_VALID = "a part of the requests such as 5% or 0.5%, at most 100%"
_SECONDS_VALID = "a duration with its unit, such as 200ms, 2s, 15m or 1h"


def _scaled(value: object, units: Mapping[str, int | Decimal], noun: str, valid: str) -> Decimal:
    text = str(value)
    match = _NUMBER_UNIT.fullmatch(text) if isinstance(value, str | int) and not isinstance(value, bool) else None
    if match is None or match[2] not in units:
        raise Invalid(f"{value!r:.60} is not {noun}", valid)
    return Decimal(match[1]) * units[match[2]]


def tokens(value: object) -> int:
    """A number of tokens; k is 1,000 and M is 1,000,000, Ki and Mi are powers of two. Raises `Invalid`.

    >>> tokens("200k"), tokens("1.5M"), tokens("32Ki"), tokens(4096)
    (200000, 1500000, 32768, 4096)
    """
    return _whole(_scaled(value, _TOKENS, "a number of tokens", _TOKENS_VALID), value, _TOKENS_VALID)


def size_bytes(value: object) -> int:
    """A number of bytes; MB is 1,000,000 and MiB is 1,048,576. Raises `Invalid`.

    >>> size_bytes("64MB"), size_bytes("64KiB")
    (64000000, 65536)
    """
    return _whole(_scaled(value, _BYTES, "a size", _BYTES_VALID), value, _BYTES_VALID)


def seconds(value: object) -> float:
    """A duration in seconds. A number without a unit is refused: half of all readers would guess wrong.

    >>> seconds("200ms"), seconds("15m")
    (0.2, 900.0)
    """
    return float(_scaled(value, _SECONDS, "a duration", _SECONDS_VALID))


def nano_usd(value: object) -> int:
    """US dollars as integer nano-dollars, exactly as written: 0.1 is 100,000,000. Raises `Invalid`.

    >>> nano_usd(0.1), nano_usd("2.50"), nano_usd(3)
    (100000000, 2500000000, 3000000000)
    """
    valid = "an amount of US dollars such as 0.40, not negative, at most nine decimals"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise Invalid(f"{value!r:.60} is not an amount", valid)
    try:
        nano = Decimal(repr(value) if isinstance(value, float) else value) * NANO_PER_USD
        exact = nano == nano.to_integral_value()
    except (InvalidOperation, ArithmeticError):
        raise Invalid(f"{value!r:.60} is not an amount", valid) from None
    if not exact or not 0 <= nano < 10**18:
        raise Invalid(f"{value!r:.60} is not an amount", valid)
    return int(nano)


def share(value: object) -> float:
    """A part of the requests, 0 to 1, as written in percent. Raises `Invalid`.

    >>> share("5%"), share("100%")
    (0.05, 1.0)
    """
    match = re.fullmatch(r"([0-9]{0,15}\.?[0-9]{1,15})%", value) if isinstance(value, str) else None
    if match is None or not float(match[1]) <= 100:
        raise Invalid(f"{value!r:.40} is no share", SHARE_VALID)
    return float(match[1]) / 100


def _whole(number: Decimal, value: object, valid: str) -> int:
    if number != number.to_integral_value():
        raise Invalid(f"{value!r:.60} is not a whole number", valid)
    return int(number)
