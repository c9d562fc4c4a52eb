"""Where the files that come with Pointsman are: in the package once installed, beside it in a source tree."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def policies() -> Path:
    """The directory of the policies, the lexicon and the catalogue that come with Pointsman."""
    inside = _PACKAGE / "policies"
    return inside if inside.is_dir() else _PACKAGE.parent / "policies"


def catalogue() -> list[Path]:
    """The files of the shipped catalogue: sources and providers, licences, models by family, offers by provider."""
    directory = policies() / "catalog"
    return [
        directory / "sources.yaml",
        directory / "licenses.yaml",
        *sorted(directory.glob("models/*.yaml")),
        *sorted(directory.glob("offers/*.yaml")),
    ]
