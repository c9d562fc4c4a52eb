"""Blotting out what nobody may read in a log: secrets that are known, and what has the shape of one.

Here belongs text in, text out. Which secrets there are is the caller's to know. A shape is blotted out where taking a
harmless word for a secret costs less than the other way round: in texts that clients send and in errors of libraries.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass

from gateway.core.types import Secret

BLOT = "***"
#: A known secret that is shorter would blot out parts of words.
SHORTEST = 4
#: A text that is shorter holds no key of any provider, and needs no look.
_LEAST = 12

_NAMES = (
    r"(?:x[-_])?(?:api|access|secret|client|subscription|master)[-_]?(?:key|token|secret)|secret|passw(?:or)?d|signature"
    r"|sig|x-amz-[a-z-]{1,32}|(?<=[?&])(?:key|token|code)"
)
_HEADERS = (
    r"(?:proxy-)?authorization|(?:set-)?cookie|(?:x-)?api-key|x-[a-z-]{0,32}(?:key|token)|ocp-apim-subscription-key"
)
#: Kinds of secrets: without any of these no text holds one, and its first group is what stays of it.
_SHAPES = tuple(
    (needles.split(), re.compile(shape))
    for needles, shape in (
        ("://", r"(://)[^/\s@\"']*@"),  # a URL's user and password; the @ goes, too
        ("earer EARER", r"(?i)\b(bearer )[A-Za-z0-9._~+/=-]{4,}"),
        ("asic ASIC", r"(?i)\b(basic )[A-Za-z0-9+/=]{12,}"),
        (
            "sk- sk_ pk- pk_ rk- rk_ hf- hf_ xai- xai_ ghp_ glpat- nvapi- tgp_ r8_",
            r"()\b(?:g?sk|csk|pk|rk|hf|xai|ghp|glpat|nvapi|tgp|r8)[-_][A-Za-z0-9_-]{8,}",
        ),
        ("AKIA ASIA", r"()\b(?:AKIA|ASIA)[A-Z0-9]{12,}"),
        ("AIza ya29.", r"()\b(?:AIza|ya29\.)[A-Za-z0-9_.-]{16,}"),
        # A JSON web token. Each run of its characters is read once, not from every "-eyJ" in it on.
        ("eyJ", r"()(?<![A-Za-z0-9_-])(?=[A-Za-z0-9_-]*?\beyJ)[A-Za-z0-9_-]{11,}+\.[A-Za-z0-9_.-]+"),
        ("=", rf"(?i)((?:{_NAMES})=[\"']?)[^\s\"'&,;)\]}}]+"),
        ("\" '", rf"(?i)([\"'](?:{_NAMES}|{_HEADERS})[\"']\s?[:,]\s?b?[\"'])[^\"']+"),
        (":", rf"(?i)\b((?:{_HEADERS}):\s?(?:[a-z]+ )?)[^\s\"',;]+"),
    )
)


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without `secrets` and without what looks like one.

    >>> redacted("Authorization: Bearer sk-123456789 from https://me:pw@host/v1?key=abc")
    'Authorization: Bearer *** from https://***host/v1?key=***'
    """
    for secret in sorted(secrets, key=len, reverse=True):  # or a part of one would keep the rest from being found
        if len(secret) >= SHORTEST:
            text = text.replace(secret, BLOT)
    if len(text) < _LEAST:
        return text
    for needles, shape in _SHAPES:
        for needle in needles:
            if needle in text:
                text = shape.sub(_blot, text)
                break
    return text


def secrets_in(*values: object) -> set[str]:
    """Every secret in some values, however deep: in dataclasses, mappings and lists of them."""
    found: set[str] = set()
    seen: set[int] = set()
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        if isinstance(value, Secret):
            found.add(value.reveal())
        elif isinstance(value, str | bytes) or id(value) in seen:
            continue
        elif isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, tuple | list | set | frozenset):
            waiting += value
        elif is_dataclass(value):
            waiting += [getattr(value, one.name) for one in fields(value)]
        seen.add(id(value))
    return found


def _blot(found: re.Match[str]) -> str:
    return found[1] + BLOT
