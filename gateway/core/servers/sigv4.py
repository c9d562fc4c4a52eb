"""AWS Signature Version 4, as a function from a request to the header fields that prove who sends it.

Pure: the moment is an argument, and so is every byte that is signed. Which requests are signed, and with whose keys, is
the business of `gateway.proxy.doors`. Only what the gateway sends is covered: POST with a body, no query of its own
making beyond what a path carries.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime, timedelta

from gateway.core.servers.credentials import AwsKeys
from gateway.core.servers.uri import percent

_ALGORITHM = "AWS4-HMAC-SHA256"
_EPOCH = datetime(1970, 1, 1)  # only ever formatted, as UTC


def stamp(now: float) -> str:
    """A moment (Unix seconds) as AWS writes it.

    >>> stamp(1440938160.9)
    '20150830T123600Z'
    """
    return (_EPOCH + timedelta(seconds=int(now))).strftime("%Y%m%dT%H%M%SZ")


def sign(keys: AwsKeys, host: str, target: str, body: bytes, now: float, more: Mapping[str, str]) -> dict[str, str]:
    """The header fields to add to `POST target` (path and query as sent) at `host` with this body.

    `more` are further fields of the request that are to be signed, with lower-case names; `now` is Unix seconds.
    AWS refuses a signature after five minutes, so one is made for each attempt.
    """
    moment = stamp(now)
    added = {"x-amz-date": moment}
    if keys.session_token is not None:
        added["x-amz-security-token"] = keys.session_token.reveal()
    signed = {**more, **added, "host": host}
    names = ";".join(sorted(signed))
    path, _, query = target.partition("?")
    canonical = "\n".join(
        (
            "POST",
            canonical_path(path),
            canonical_query(query),
            *(f"{name}:{' '.join(signed[name].split())}" for name in sorted(signed)),
            "",
            names,
            hashlib.sha256(body).hexdigest(),
        )
    )
    scope = f"{moment[:8]}/{keys.region}/{keys.service}/aws4_request"
    signature = hmac.new(
        _key(keys, moment[:8]),
        "\n".join((_ALGORITHM, moment, scope, hashlib.sha256(canonical.encode()).hexdigest())).encode(),
        hashlib.sha256,
    ).hexdigest()
    credential = f"Credential={keys.access_key}/{scope}"
    added["Authorization"] = f"{_ALGORITHM} {credential}, SignedHeaders={names}, Signature={signature}"
    return added


def canonical_path(path: str) -> str:
    """A path as it is signed: every segment of what is sent is encoded once more (all services but S3).

    >>> canonical_path("/model/a%3A0/chat")
    '/model/a%253A0/chat'
    """
    return percent(path or "/", safe="/")


def canonical_query(query: str) -> str:
    """A query as it is signed: its parts in order of name and value.

    >>> canonical_query("b=2&a=1&c")
    'a=1&b=2&c='
    """
    if not query:
        return ""
    return "&".join("=".join(pair) for pair in sorted((part.partition("=")[0::2]) for part in query.split("&")))


def _key(keys: AwsKeys, day: str) -> bytes:
    key = f"AWS4{keys.secret_key.reveal()}".encode()
    for part in (day, keys.region, keys.service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key
