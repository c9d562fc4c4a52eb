"""`otlp:` of pointsman.yaml: to which collector spans and measures are sent, from what is written to `OtlpSettings`.

OpenTelemetry's own variables (`OTEL_*`) are not read: what is set for another program on a machine must not make the
gateway send anything anywhere, and one file says all there is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from gateway import trust
from gateway.addresses import Address, Url, endpoint
from gateway.core.quantities import Invalid, share
from gateway.core.types import Secret
from gateway.fields import Age, Seconds, Strict
from gateway.owndialects import header_names, header_value
from gateway.secretref import Reading, SecretRef, read_text
from gateway.telemetry.otlp.settings import OtlpSettings, Signal

_RESOURCE = re.compile(r"[a-z][a-z0-9_.-]{0,127}")
_OWN = frozenset({"service.name", "service.version", "service.instance.id"})


def _address(value: str) -> str:
    if re.search(r"/v1/(traces|metrics|logs)/?$", endpoint(value).path):
        raise Invalid("is the address of one signal", "the collector's, such as http://127.0.0.1:4318")
    return value.rstrip("/")


def _headers(written: dict[str, str | SecretRef]) -> dict[str, str | SecretRef]:
    header_names({name: value for name, value in written.items() if name.lower() != "authorization"})
    for name, value in written.items():
        if isinstance(value, str):
            if name.lower() == "authorization":
                raise Invalid("authorization is a secret", "{env: NAME} or {file: path}")
            header_value(value)
    return written


def _resource(written: dict[str, str]) -> dict[str, str]:
    for name, value in written.items():
        if not _RESOURCE.fullmatch(name) or name in _OWN:
            raise Invalid(f"{name!r:.80} cannot be set here", "a name such as deployment.environment.name")
        if not value.isprintable() or not 0 < len(value) <= 256:
            raise Invalid(f"{name} has no value that can be printed", "at most 256 characters")
    return written


Sample = Annotated[float, BeforeValidator(share), WithJsonSchema({"type": "string", "pattern": r"^[0-9]*\.?[0-9]+%$"})]


class TracesDoc(Strict):
    """Which requests are traced: of those that come without a trace a share, and with `errors` all that fail.

    `callers: follow` continues a caller's trace and records it when the caller does, `link` begins a new trace of each
    request and names the caller's: for gateways that strangers can reach.
    """

    sample: Sample = 0.05
    errors: bool = True
    callers: Literal["follow", "link"] = "follow"


class MetricsDoc(Strict):
    """How often measures are sent, and whether they count from the start or since the last time."""

    every: Age = 60.0
    temporality: Literal["cumulative", "delta"] = "cumulative"


class OtlpDoc(Strict):
    """A collector that takes OTLP. Off where left out. Prompts and answers are never sent.

    `endpoint` is its address without `/v1/traces`. `resource` says more of this installation, by OpenTelemetry's names.
    """

    endpoint: Annotated[Url, AfterValidator(_address)]
    protocol: Literal["http/protobuf"] = "http/protobuf"
    headers: Annotated[dict[str, str | SecretRef], AfterValidator(_headers)] = Field(default_factory=dict)
    ca_file: str | None = None
    timeout: Seconds = 10.0
    compression: Literal["gzip", "none"] = "gzip"
    service: str = Field("pointsman", pattern=r"^[!-~]{1,128}$")
    resource: Annotated[dict[str, str], AfterValidator(_resource)] = Field(default_factory=dict, max_length=32)
    signals: list[Signal] = Field(["traces", "metrics"], min_length=1)
    traces: TracesDoc = TracesDoc()
    metrics: MetricsDoc = MetricsDoc()

    def settings(self, base: Path, headers: Mapping[str, str | Secret]) -> OtlpSettings:
        """The same as values, with the secrets among its headers read."""
        return OtlpSettings(
            endpoint=self.endpoint,
            headers=MappingProxyType(dict(headers)),
            ca_file=None if self.ca_file is None else str(base / self.ca_file),
            timeout_s=self.timeout,
            gzip=self.compression == "gzip",
            service=self.service,
            resource=MappingProxyType(dict(self.resource)),
            signals=frozenset(self.signals),
            sample=self.traces.sample,
            errors=self.traces.errors,
            follow=self.traces.callers == "follow",
            every_s=self.metrics.every,
            delta=self.metrics.temporality == "delta",
        )


class OtlpReader:
    """Reads what the file only names. What is wrong is `found` as (path, what is wrong, what would be valid)."""

    def __init__(self, environ: Mapping[str, str], directory: Path, *, secrets: bool) -> None:
        self._environ = environ
        self._directory = directory
        self._secrets = secrets
        self.found: list[tuple[str, str, str]] = []
        self.warnings: list[tuple[str, str]] = []
        self.files: list[Path] = []

    def read(self, doc: OtlpDoc) -> OtlpSettings:
        """The settings; without secrets where these are not to be looked up."""
        if doc.ca_file is not None:
            file = self._directory / doc.ca_file
            self.files.append(file)
            if wrong := trust.no_certificates(file):
                self.found.append(("otlp.ca_file", wrong, trust.VALID))
        where = endpoint(doc.endpoint)
        secret = any(isinstance(value, SecretRef) for value in doc.headers.values())
        if secret and where.scheme == "http" and not Address(where.host, where.port).loopback:
            self.warnings.append(("otlp.endpoint", "its secret headers travel unencrypted: it is http://"))
        return doc.settings(self._directory, self._headers(doc))

    def _headers(self, doc: OtlpDoc) -> dict[str, str | Secret]:
        made: dict[str, str | Secret] = {}
        for name, value in doc.headers.items():
            if isinstance(value, str):
                made[name] = value
            elif self._secrets:
                if value.file is not None:
                    self.files.append(self._directory / value.file)
                try:
                    made[name] = _secret(value, self._environ, self._directory)
                except Invalid as error:
                    self.found.append((f"otlp.headers.{name}", error.what, error.valid))
        return made


def _secret(ref: SecretRef, environ: Mapping[str, str], directory: Path) -> Secret:
    """A header's value from where it stands; unlike a key it may hold spaces. Raises `Invalid`."""
    place, value = read_text(ref, environ, directory)
    try:
        return Secret(header_value(value.strip()))
    except Invalid as error:
        raise Invalid(f"{place} {error.what}", error.valid) from None


def installed() -> bool:
    """Whether the protocol's messages are. Looked for without importing them: they are heavy."""
    try:
        return find_spec("opentelemetry.proto.collector") is not None and find_spec("google.protobuf") is not None
    except ModuleNotFoundError:  # not even what they would be in
        return False


def read(doc: OtlpDoc, reading: Reading) -> OtlpSettings:
    """The settings, with all that is wrong told."""
    if reading.secrets and not installed():  # without secrets it is not this machine that will serve
        reading.wrong("otlp", "needs a package that is not installed", "pip install 'pointsman[otlp]'")
    reader = OtlpReader(reading.environ, reading.directory, secrets=reading.secrets)
    settings = reader.read(doc)
    reading.files.extend(reader.files)
    for wrong in reader.found:
        reading.wrong(*wrong)
    for warning in reader.warnings:
        reading.warn(*warning)
    return settings
