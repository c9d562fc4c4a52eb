"""Credentials that are not a key in a fixed header: AWS keys that sign, and grants that are traded for access tokens.

The nouns, and what can be said of them without asking anyone: what is sent to a token endpoint, what its answer means,
when to ask again. Who asks is `gateway.proxy.tokens`; signing requests is `sigv4`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from gateway.core.types import Secret

#: Google's, for service accounts; RFC 7523 wants it as the audience too.
GOOGLE_TOKEN_URL = "https://oauth2.googleapis.com/token"  # noqa: S105
#: Google's, for whatever runs on its machines. Link-local and plain HTTP by design.
GOOGLE_METADATA_URL = "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token"
GOOGLE_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
ENTRA_TOKEN_URL = "https://login.microsoftonline.com/{tenant}/oauth2/v2.0/token"  # noqa: S105
ENTRA_SCOPE = "https://ai.azure.com/.default"

#: How long before its end a token is replaced. Google's metadata server gives out the same one until 4 minutes before.
AHEAD_S = 225.0
#: A token of less is not used any more: a request must not arrive after its token's end.
MARGIN_S = 10.0
_MOST_S = 86_400.0
_ASSERTION_S = 3600


@dataclass(frozen=True, slots=True)
class AwsKeys:
    """What signs requests to AWS. `service` is the name in the signature's scope: bedrock, bedrock-mantle."""

    access_key: str
    secret_key: Secret
    region: str
    service: str
    session_token: Secret | None = None

    def secrets(self) -> tuple[str, ...]:
        """Texts that must appear nowhere."""
        token = self.session_token
        return (self.secret_key.reveal(), *(() if token is None else (token.reveal(),)))


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """A Google service account: a signed statement is traded for a token."""

    email: str
    key_id: str
    private_key: Secret  # PEM
    url: str = GOOGLE_TOKEN_URL
    scope: str = GOOGLE_SCOPE


@dataclass(frozen=True, slots=True)
class MetadataServer:
    """The identity of the machine that the gateway runs on, asked of its metadata server."""

    url: str = GOOGLE_METADATA_URL


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """An application of Microsoft Entra ID: its secret is traded for a token."""

    client_id: str
    client_secret: Secret
    url: str
    scope: str = ENTRA_SCOPE


Grant = ServiceAccount | MetadataServer | ClientSecret
Credential = AwsKeys | Grant


def identity(grant: Grant) -> tuple[str, ...]:
    """Who a grant's tokens are for, by whom. Grants that differ only in what proves it are given equal tokens.

    >>> identity(MetadataServer("http://a"))
    ('http://a',)
    """
    if isinstance(grant, ServiceAccount):
        return (grant.url, grant.email, grant.scope)
    if isinstance(grant, ClientSecret):
        return (grant.url, grant.client_id, grant.scope)
    return (grant.url,)


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What to send to `url`: a POST of `form`, or a GET where there is none."""

    url: str
    form: Mapping[str, str] | None = field(repr=False)
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token and the second at which it ends, on the clock that it was read by."""

    value: Secret
    expires_at: float

    def refresh_at(self, now: float) -> float:
        """When to ask for the next one: ahead of its end, but not before half of its time is over."""
        return max(self.expires_at - AHEAD_S, now + (self.expires_at - now) / 2)


class NoToken(Exception):
    """An endpoint gave no token. The text says why and never holds what was sent or received."""


def token_request(grant: Grant, now: float, signer: Callable[[bytes], bytes] | None = None) -> TokenRequest:
    """What to ask for a token with. `signer` makes the RS256 signature that a service account needs."""
    if isinstance(grant, MetadataServer):
        return TokenRequest(grant.url, None, {"Metadata-Flavor": "Google"})
    if isinstance(grant, ClientSecret):
        form = {
            "grant_type": "client_credentials",
            "client_id": grant.client_id,
            "client_secret": grant.client_secret.reveal(),
            "scope": grant.scope,
        }
    else:
        if signer is None:
            raise TypeError("a service account needs a signer")
        statement = _statement(grant, int(now))
        form = {
            "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
            "assertion": (statement + b"." + _base64url(signer(statement))).decode(),
        }
    return TokenRequest(grant.url, form, {})


def read_token(status: int, body: bytes, now: float) -> AccessToken:
    """The token in an endpoint's answer. Raises `NoToken`."""
    try:
        found: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = None
    found = found if isinstance(found, dict) else {}
    if status != 200:
        # OAuth's `error` is one of a few words; only such a word is repeated.
        word = found.get("error")
        told = f" ({word})" if isinstance(word, str) and word.replace("_", "").isalpha() and len(word) <= 40 else ""
        raise NoToken(f"the token endpoint answered {status}{told}")
    token, lasts = found.get("access_token"), found.get("expires_in")
    if isinstance(lasts, str) and lasts.isascii() and lasts.isdigit() and len(lasts) <= 10:
        lasts = int(lasts)
    if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable() or " " in token:
        raise NoToken("the token endpoint's answer holds no access_token")
    # Google's metadata server pads its tokens with dots, which are part of them.
    if type(lasts) not in (int, float) or not 0 < lasts <= _MOST_S:
        raise NoToken("the token endpoint's answer holds no sensible expires_in")
    return AccessToken(Secret(token), now + lasts)


def _statement(account: ServiceAccount, now: int) -> bytes:
    """The header and claims of the JWT by which an account asks for a token, ready to be signed."""
    header = {"alg": "RS256", "typ": "JWT", "kid": account.key_id}
    claims = {
        "iss": account.email,
        "scope": account.scope,
        "aud": account.url,
        "iat": now,
        "exp": now + _ASSERTION_S,
    }
    return b".".join(_base64url(msgspec.json.encode(part)) for part in (header, claims))


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
