"""Where the files that come with Pointsman are: in the package once installed, beside it in a source tree."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def policies() -> Path:
    """The directory of the policies, the lexicon and the catalogue that come with Pointsman."""
    inside = _PACKAGE / "policies"
    return inside if inside.is_dir() else _PACKAGE.parent / "policies"
