"""Percent encoding as RFC 3986 has it: only unreserved characters stand for themselves."""

from __future__ import annotations

_UNRESERVED = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~"


def percent(text: str, safe: str = "") -> str:
    """`text` encoded, `safe` characters left as they are.

    >>> percent("a:0/b", safe="/")
    'a%3A0/b'
    """
    plain = frozenset(_UNRESERVED + safe.encode())
    return "".join(chr(byte) if byte in plain else f"%{byte:02X}" for byte in text.encode())
