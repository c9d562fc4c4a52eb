"""`auth:` of a backend: credentials that are not a key in a fixed header, read into `core.servers.credentials`.

What is read from variables and files is checked here, at load, so that a wrong key file is not first met by a request.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from gateway.addresses import Url, endpoint
from gateway.clouds import aws_scope
from gateway.core.quantities import Invalid
from gateway.core.servers.credentials import (
    ENTRA_SCOPE,
    ENTRA_TOKEN_URL,
    GOOGLE_METADATA_URL,
    GOOGLE_TOKEN_URL,
    AwsKeys,
    ClientSecret,
    Credential,
    MetadataServer,
    ServiceAccount,
)
from gateway.core.types import Endpoint, Secret
from gateway.fields import Name, Strict
from gateway.rsa import signer
from gateway.secretref import SecretRef, read_secret, read_text

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class AwsDoc(Strict):
    """AWS keys that sign each request (SigV4). Region and service are those of the address where it names them."""

    access_key: SecretRef
    secret_key: SecretRef
    session_token: SecretRef | None = None
    region: Name | None = None
    service: Name | None = None


class EntraDoc(Strict):
    """An application registered in Microsoft Entra ID, which is given access tokens for its secret."""

    tenant: str = Field(pattern=r"^[A-Za-z0-9.-]{1,128}$")
    client_id: str = Field(pattern=r"^[A-Za-z0-9-]{1,64}$")
    client_secret: SecretRef
    scope: str = Field(ENTRA_SCOPE, pattern=r"^[!-~]{1,256}$")


class AuthDoc(Strict):
    """What opens a backend where that is no key in a fixed header. Tokens are fetched ahead and kept fresh.

    `service_account` is a Google key file in JSON, `metadata_server: true` the Google machine the gateway runs on.
    `token_url` is for installations that reach the token endpoint by another address than the public one.
    """

    service_account: SecretRef | None = None
    metadata_server: Literal[True] | None = None
    entra: EntraDoc | None = None
    aws: AwsDoc | None = None
    token_url: Url | None = None

    @model_validator(mode="after")
    def _one(self) -> AuthDoc:
        ways = (self.service_account, self.metadata_server, self.entra, self.aws)
        if sum(way is not None for way in ways) != 1:
            raise Invalid("needs exactly one way", "service_account, metadata_server: true, entra or aws")
        if self.token_url is not None:
            if self.aws is not None:
                raise Invalid("AWS keys sign: there is no token_url", "leave it out")
            place = endpoint(self.token_url)
            if place.scheme != "https" and place.host not in _LOOPBACK and self.metadata_server is None:
                raise Invalid("token_url would carry a credential unencrypted", "an address with https://")
        return self


def references(doc: AuthDoc) -> list[SecretRef]:
    """Every place that the credential is read from."""
    if doc.aws is not None:
        found = [doc.aws.access_key, doc.aws.secret_key, doc.aws.session_token]
    else:
        found = [doc.service_account, doc.entra.client_secret if doc.entra is not None else None]
    return [one for one in found if one is not None]


def credential(
    doc: AuthDoc, endpoints: tuple[Endpoint, ...], environ: Mapping[str, str], directory: Path
) -> Credential:
    """The credential, with its secrets read. Raises `Invalid`."""
    if doc.aws is not None:
        return _aws(doc.aws, endpoints, environ, directory)
    if doc.entra is not None:
        return ClientSecret(
            client_id=doc.entra.client_id,
            client_secret=read_secret(doc.entra.client_secret, environ, directory),
            url=doc.token_url or ENTRA_TOKEN_URL.format(tenant=doc.entra.tenant),
            scope=doc.entra.scope,
        )
    if doc.service_account is not None:
        return _service_account(doc.service_account, doc.token_url, environ, directory)
    return MetadataServer(doc.token_url or GOOGLE_METADATA_URL)


def _aws(doc: AwsDoc, endpoints: tuple[Endpoint, ...], environ: Mapping[str, str], directory: Path) -> AwsKeys:
    scopes = {aws_scope(one.host) for one in endpoints}
    if len(scopes) > 1:
        raise Invalid("these endpoints lie in different regions, and a signature is for one", "a backend for each")
    known = scopes.pop()
    if known is not None and doc.region not in (None, known[0]):
        raise Invalid(f"the address is in {known[0]}, not in {doc.region}", "leave region out")
    region = doc.region or (known and known[0])
    if region is None:
        raise Invalid("the address names no region", "region: the one that signatures are for, such as us-east-1")
    token = doc.session_token
    return AwsKeys(
        access_key=read_secret(doc.access_key, environ, directory).reveal(),
        secret_key=read_secret(doc.secret_key, environ, directory),
        session_token=None if token is None else read_secret(token, environ, directory),
        region=region,
        service=doc.service or (known[1] if known is not None else "bedrock"),
    )


def _service_account(
    ref: SecretRef, token_url: str | None, environ: Mapping[str, str], directory: Path
) -> ServiceAccount:
    place, text = read_text(ref, environ, directory)
    valid = "the JSON key of a service account, as Google gives it out"
    try:
        key: Any = json.loads(text)
    except ValueError:
        key = None
    if not isinstance(key, dict) or key.get("type") != "service_account":
        raise Invalid(f"{place} does not hold a service account's key", valid)
    email, key_id, pem = (key.get(name) for name in ("client_email", "private_key_id", "private_key"))
    if not (isinstance(email, str) and isinstance(key_id, str) and isinstance(pem, str)):
        raise Invalid(f"{place} lacks client_email, private_key_id or private_key", valid)
    if token_url is None and key.get("token_uri") != GOOGLE_TOKEN_URL:
        # A key file must not be able to say where what it signs is sent to.
        raise Invalid(f"the token_uri in {place} is not Google's", "token_url beside service_account if so meant")
    try:
        signer(pem)
    except ImportError:
        raise Invalid(
            "service accounts need the package cryptography, which is not installed", "pip install 'pointsman[google]'"
        ) from None
    except ValueError:
        raise Invalid(f"the private_key in {place} is no RSA key in PEM", valid) from None
    return ServiceAccount(email, key_id, Secret(pem), token_url or GOOGLE_TOKEN_URL)
