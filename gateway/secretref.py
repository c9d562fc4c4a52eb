"""Where a secret stands, and reading it from there: never in a file that people write, only named by one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, model_validator

from gateway.core.quantities import Invalid
from gateway.core.types import Secret
from gateway.fields import Strict


class Reading(NamedTuple):
    """For who reads what a file only names: from where, and who is told what is wrong, what to mind, which files."""

    environ: Mapping[str, str]
    directory: Path
    secrets: bool  # are they looked up?
    wrong: Callable[[str, str, str], None]  # path, what is wrong, what would be valid
    warn: Callable[[str, str], None]
    files: list[Path]


class SecretRef(Strict):
    """Where a secret is read from at load: an environment variable or a file. Never the secret itself."""

    env: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    file: str | None = None

    @model_validator(mode="after")
    def _one(self) -> SecretRef:
        if (self.env is None) == (self.file is None):
            raise Invalid("needs exactly one place", "{env: NAME} or {file: path}")
        return self


def read_secret(ref: SecretRef, environ: Mapping[str, str], directory: Path) -> Secret:
    """The secret a reference points to; files are relative to `directory`. Raises `Invalid`.

    A plan key of Alibaba's coding subscriptions is refused: its terms forbid application back ends.
    """
    place, value = read_text(ref, environ, directory)
    value = value.strip()
    if not value or not re.fullmatch(r"[!-~]+", value) or len(value) > 8192:
        raise Invalid(f"{place} does not hold a key", "one line of visible ASCII characters")
    if value.startswith("sk-sp-"):
        raise Invalid(
            f"{place} holds a plan key (sk-sp-), whose terms forbid use by an application", "a pay-as-you-go key"
        )
    return Secret(value)


def read_text(ref: SecretRef, environ: Mapping[str, str], directory: Path) -> tuple[str, str]:
    """What a person calls the place that a reference points to, and all that stands there. Raises `Invalid`."""
    if ref.env is not None:
        place, value = f"environment variable {ref.env}", environ.get(ref.env)
        if value is None:
            raise Invalid(f"{place} is not set", "set it before the gateway starts")
    else:
        path = directory / str(ref.file)
        place = f"file {path}"
        try:
            value = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise Invalid(f"{place} cannot be read", getattr(error, "strerror", None) or "text in UTF-8") from None
    return place, value
