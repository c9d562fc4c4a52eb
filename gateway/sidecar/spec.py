"""What the litellm process is told: which models it serves, by whose keys, at which addresses; from pointsman.yaml.

A value, compared to see whether a reload concerns the process, and written as one line of JSON to its standard input:
never to its arguments, which every user of the machine can read, nor to its environment, which litellm searches for
keys when it has none, and would find another provider's. Running the process is `process`.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import msgspec

from gateway.config import BackendDoc, ConfigDoc
from gateway.core.errors import Problem
from gateway.core.quantities import Invalid
from gateway.core.servers.rows import DIALECTS
from gateway.core.types import Secret, Timeouts
from gateway.secretref import SecretRef, read_secret
from gateway.yamlfile import Document

PROGRAM = Path(__file__).with_name("server.py")

#: All of the gateway's environment that the process gets. No key is among them, and no place where keys lie.
ENVIRONMENT = ("LANG", "LC_ALL", "PATH", "SSL_CERT_DIR", "SSL_CERT_FILE", "TMPDIR", "TZ")
_INSTALL = (
    "sidecar: {python: path of one that has it}, see requirements/litellm.txt; or base_url: of a sidecar elsewhere"
)


@dataclass(frozen=True, slots=True)
class Provider:
    """A backend as the sidecar knows it."""

    name: str
    models: tuple[str, ...]  # litellm's names, sorted: provider/model
    api_base: str | None
    key: Secret | None
    options: Mapping[str, str | Secret]
    total_s: float


@dataclass(frozen=True, slots=True)
class SidecarSpec:
    """All that one sidecar serves."""

    python: str
    providers: tuple[Provider, ...]
    targets: frozenset[str]  # names of those that it serves
    max_body: int
    drain_s: float

    def same_process(self, other: SidecarSpec) -> bool:
        """May a process that was started for the other go on? Names of targets and the grace period do not matter."""
        mine, theirs = ((one.python, one.providers, one.max_body) for one in (self, other))
        return mine == theirs

    def secrets(self) -> tuple[str, ...]:
        """Every secret it is told, the longest first, for blotting them out of what it says."""
        found = {one.key.reveal() for one in self.providers if one.key is not None}
        found |= {v.reveal() for one in self.providers for v in one.options.values() if isinstance(v, Secret)}
        return tuple(sorted(found, key=len, reverse=True))

    def instructions(self, *, host: str, port: int, share_port: bool, token: Secret) -> bytes:
        """The line of JSON that the process reads. It holds secrets."""
        backends = {
            one.name: {
                "name": one.name,
                "models": one.models,
                "api_base": one.api_base,
                "key": None if one.key is None else one.key.reveal(),
                "options": {k: v.reveal() if isinstance(v, Secret) else v for k, v in one.options.items()},
                "timeout_s": one.total_s,
            }
            for one in self.providers
        }
        told = {
            "host": host,
            "port": port,
            "share_port": share_port,
            "token": token.reveal(),
            "members": sorted(DIALECTS["litellm"].takes or ()),
            "max_body": self.max_body,
            "drain_s": self.drain_s,
            "backends": backends,
        }
        return msgspec.json.encode(told) + b"\n"

    def command(self) -> list[str]:
        """What is run: isolated, and without looking at installed packages before their versions were looked at."""
        return [self.python, "-I", "-S", str(PROGRAM)]


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment that the process gets."""
    return {name: environ[name] for name in ENVIRONMENT if name in environ}


@dataclass(slots=True)
class SpecReader:
    """Reads the spec off a configuration. Problems are collected in `found`, files that were read in `files`."""

    document: Document
    environ: Mapping[str, str]
    directory: Path
    secrets: bool = True  # False: neither keys nor the interpreter are looked for, for judging a file elsewhere
    found: list[Problem] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    def read(self, doc: ConfigDoc) -> SidecarSpec | None:
        """The spec, None where no backend needs a sidecar."""
        backends = {name: one for name, one in doc.backends.items() if one.by_sidecar}
        if not backends:
            return None
        targets = {name: one for name, one in doc.targets.items() if one.backend in backends}
        models: dict[str, set[str]] = {name: set() for name in backends}
        for name, target in targets.items():
            if target.upstream_id is None or not all(target.upstream_id.partition("/")):
                valid = "upstream_id: provider/model, such as anthropic/claude-sonnet-4-5"
                self._note(f"targets.{name}.upstream_id", "is not litellm's name of a model", valid)
            else:
                models[target.backend].add(target.upstream_id)
        timeouts = doc.timeouts.over(Timeouts())
        return SidecarSpec(
            python=self._python(doc),
            providers=tuple(
                self._provider(name, one, tuple(sorted(models[name])), timeouts) for name, one in backends.items()
            ),
            targets=frozenset(targets),
            max_body=doc.limits.max_body + 65_536,  # as sent, with our own members
            drain_s=doc.drain,
        )

    def _provider(self, name: str, doc: BackendDoc, models: tuple[str, ...], timeouts: Timeouts) -> Provider:
        options: dict[str, str | Secret] = {}
        for option, value in doc.litellm.options.items() if doc.litellm is not None else ():
            read = value if isinstance(value, str) else self._secret(f"backends.{name}.litellm.options.{option}", value)
            if read is not None:
                options[option] = read
        return Provider(
            name=name,
            models=models,
            api_base=doc.litellm.api_base if doc.litellm is not None else None,
            key=self._secret(f"backends.{name}.key", doc.key),
            options=MappingProxyType(options),
            total_s=doc.timeouts.over(timeouts).total_s,
        )

    def token(self, doc: ConfigDoc) -> Secret | None:
        """What callers of a sidecar that runs by itself must send; None, with a problem, where it is not set."""
        if doc.sidecar.key is None:
            valid = "sidecar: {key: {env: NAME}}, the same key as the gateway's backend has"
            self._note("sidecar", "has no key, and whoever reaches it could spend on the providers' keys", valid)
        return self._secret("sidecar.key", doc.sidecar.key)

    def _python(self, doc: ConfigDoc) -> str:
        written = doc.sidecar.python
        if written is None:
            if self.secrets and importlib.util.find_spec("litellm") is None:
                backend = next(name for name, one in doc.backends.items() if one.by_sidecar)
                what = "needs litellm, which is not installed beside the gateway"
                self._note(f"backends.{backend}", what, _INSTALL)
            return sys.executable
        # Absolute, as the process runs elsewhere; links are kept, as one of a virtual environment says which that is.
        path = (self.directory / written).absolute()
        if self.secrets and not path.is_file():
            self._note("sidecar.python", f"no file {path}", _INSTALL)
        return str(path)

    def _secret(self, path: str, ref: SecretRef | None) -> Secret | None:
        if ref is None or not self.secrets:
            return None
        if ref.file is not None:
            self.files.append(self.directory / ref.file)
        try:
            return read_secret(ref, self.environ, self.directory)
        except Invalid as error:
            self._note(path, error.what, error.valid)
            return None

    def _note(self, path: str, what: str, valid: str = "") -> None:
        self.found.append(self.document.problem(path, what, valid))
