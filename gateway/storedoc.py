"""`store:` of pointsman.yaml: the Valkey or Redis that replicas share, from what is written to `StoreSettings`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from gateway import trust
from gateway.addresses import Address
from gateway.core.quantities import Invalid, share
from gateway.core.types import Secret
from gateway.fields import Seconds, Strict
from gateway.secretref import Reading, SecretRef, read_secret
from gateway.stores.settings import StoreSettings

_VALID = "redis://host:6379/0, or rediss:// for TLS; username: and password: stand beside it"


def _parts(url: str) -> tuple[str, int, int, bool]:
    """Host, port, database, and whether with TLS. Raises `Invalid`, which shows nothing of what may be a password."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Invalid("is not a URL of a Valkey or Redis", _VALID) from None
    if "@" in url:
        raise Invalid("has credentials in it", "username: NAME and password: {env: NAME} beside url:")
    host, path = parts.hostname or "", parts.path.strip("/")
    if (
        parts.scheme not in ("redis", "rediss")
        or not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9a-fA-F:.]+", host)
        or not re.fullmatch(r"[0-9]{0,4}", path)
        or parts.query
        or parts.fragment
    ):
        raise Invalid("is not a URL of a Valkey or Redis", _VALID)
    return host, 6379 if port is None else port, int(path or 0), parts.scheme == "rediss"


def _url(value: str) -> str:
    _parts(value)
    return value


def _timeout(value: float) -> float:
    if not 0.01 <= value <= 10:
        raise Invalid("is how long a request may wait for the store", "10ms to 10s, such as 100ms")
    return value


def _slice(value: float) -> float:
    if value > 0.5:
        raise Invalid("would leave other replicas little", "at most 50%")
    return value


class StoreDoc(Strict):
    """A Valkey or Redis in which all replicas keep limits and budgets together. Left out, each keeps its own.

    `prefix` is what its keys begin with, in braces, for installations that share one. `slice` is how much of what is
    left of a hard budget each replica has leased ahead, to spend while the store is away. `timeout` is how long a
    request may wait for it. `ca_file` is for `rediss://`, relative to this file.
    """

    url: Annotated[str, AfterValidator(_url)]
    username: Annotated[str, Field(pattern=r"^[!-~]{1,256}$")] | None = None
    password: SecretRef | None = None
    ca_file: str | None = None
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,64}$")] = "pointsman"
    slice: Annotated[
        float,
        BeforeValidator(share),
        AfterValidator(_slice),
        WithJsonSchema({"type": "string", "pattern": r"^[0-9]*\.?[0-9]+%$"}),
    ] = 0.01
    timeout: Annotated[Seconds, AfterValidator(_timeout)] = 0.1

    @model_validator(mode="after")
    def _together(self) -> StoreDoc:
        if self.username is not None and self.password is None:
            raise Invalid("has username without password", "password: {env: NAME} or {file: path}")
        if self.ca_file is not None and not _parts(self.url)[3]:
            raise Invalid("has ca_file, and no TLS", "a url with rediss://")
        return self

    def settings(self, base: Path, password: Secret | None) -> StoreSettings:
        """The same as values, with the password read."""
        host, port, database, tls = _parts(self.url)
        return StoreSettings(
            host=host,
            port=port,
            database=database,
            tls=tls,
            ca_file=None if self.ca_file is None else str(base / self.ca_file),
            username=self.username,
            password=password,
            prefix=self.prefix,
            slice=self.slice,
            timeout_s=self.timeout,
        )


def read(doc: StoreDoc, reading: Reading) -> StoreSettings:
    """The settings, with all that is wrong told; without the password where secrets are not to be looked up."""
    base = reading.directory
    password: Secret | None = None
    if doc.ca_file is not None:
        file = base / doc.ca_file
        reading.files.append(file)
        if wrong := trust.no_certificates(file):
            reading.wrong("store.ca_file", wrong, trust.VALID)
    if doc.password is not None and reading.secrets:
        if doc.password.file is not None:
            reading.files.append(base / doc.password.file)
        try:
            password = read_secret(doc.password, reading.environ, base)
        except Invalid as error:
            reading.wrong("store.password", error.what, error.valid)
    made = doc.settings(base, password)
    if doc.password is not None and not made.tls and not Address(made.host, made.port).loopback:
        reading.warn("store.url", "its password travels unencrypted: it is redis://")
    return made
