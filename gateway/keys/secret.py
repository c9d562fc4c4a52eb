"""What a key looks like: made here, known everywhere else only by its hash.

    sk-pm-<32 random characters><6 characters of a checksum>

The prefix tells people and scanners of code whose key it is; the checksum lets a scanner tell a key from what only
looks like one, and the command line a key from one that was cut off while copying.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import zlib

PREFIX = "sk-pm-"
_LETTERS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_RANDOM, _CHECK = 32, 6  # 62 ** 32 is more than 190 bits; 62 ** 6 holds a CRC-32
_FORM = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{_RANDOM + _CHECK}}}")
#: Hexadecimal digits of a key's hash by which it is told apart in lists and logs.
SHORT = 12


def new_key() -> str:
    """A key that nobody can guess."""
    body = PREFIX + "".join(secrets.choice(_LETTERS) for _ in range(_RANDOM))
    return body + _checksum(body)


def whole(key: str) -> bool:
    """Was this made by `new_key`, and is nothing of it missing or mistyped?"""
    return _FORM.fullmatch(key) is not None and key[-_CHECK:] == _checksum(key[:-_CHECK])


def sha256(key: str) -> str:
    """What is kept of a key, in hexadecimal digits."""
    return hashlib.sha256(key.encode()).hexdigest()


def _checksum(body: str) -> str:
    number, out = zlib.crc32(body.encode()), ""
    for _ in range(_CHECK):
        number, digit = divmod(number, len(_LETTERS))
        out = _LETTERS[digit] + out
    return out
