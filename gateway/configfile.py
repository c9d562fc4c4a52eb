"""`pointsman.yaml` from its file to its document, for every command, and what is said where there is none.

What may stand in it is `gateway.config`; everything it leads to is `gateway.site`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gateway import yamlfile
from gateway.config import ConfigDoc
from gateway.core.errors import ConfigError
from gateway.problems import validated
from gateway.yamlfile import Document


def load(path: Path, *, cache: Path | None = None) -> Document:
    """The file as plain values, whatever they say. Raises `ConfigError`."""
    try:
        return yamlfile.load(path, cache_dir=cache)
    except ConfigError as error:
        if path.exists():
            raise
        valid = "name another file with --config, or write one with `pointsman init`"
        raise ConfigError([replace(problem, valid=valid) for problem in error.problems]) from None


def read(path: Path, *, cache: Path | None = None) -> tuple[Document, ConfigDoc]:
    """The file, and the same as the models of `gateway.config`. Raises `ConfigError`."""
    document = load(path, cache=cache)
    return document, validated(document, ConfigDoc)
