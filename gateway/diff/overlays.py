"""What an installation lays over its policies, now and at a revision: each side of a diff decides under its own.

A configuration or overlay that git does not hold has no version before: the one of the work tree stands for both, and
that is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gateway import configfile
from gateway.core.errors import ConfigError
from gateway.diff.revision import Revision
from gateway.includes import Part, read_overlays
from gateway.yamlfile import Document


@dataclass(frozen=True, slots=True)
class Overlays:
    """What lies over the policies on both sides. `as_now` names the files that had to stand for both."""

    before: tuple[Part, ...] = ()
    after: tuple[Part, ...] = ()
    as_now: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Under what both sides decide, as a sentence; empty where nothing lies over them."""
        if not self.before and not self.after:
            return ""
        then, now = (", ".join(part.doc.part for part in parts) or "nothing" for parts in (self.before, self.after))
        said = f"Both sides decide under the overlays of their own revision: before {then}, after {now}."
        if self.as_now:
            said += f" Not in git at that revision, so taken as they are now: {', '.join(self.as_now)}."
        return said


def overlays(config: Path | None, revision: Revision, folder: Path, cache: Path | None) -> Overlays:
    """The overlays of a configuration. Files of the revision are written below `folder`. Raises `ConfigError`."""
    if config is None:
        return Overlays()
    now, listed = _listed(config, config.parent)
    after = read_overlays(now, listed, cache)
    as_now: list[str] = []
    asked, then = now, listed
    held = revision.read(config, folder)
    if held is not None:
        try:
            asked, then = _listed(held, config.parent)
        except ConfigError:  # what was wrong with it is no news, and its list cannot be had
            held = None
    if held is None and listed:
        as_now.append(config.name)
    before = []
    for file in then:
        old = revision.read(file, folder)
        if old is None:
            as_now.append(file.name)
        else:
            revision.write(file.parent, folder)  # with what it includes
        before.append(old or file)
    return Overlays(read_overlays(asked, before, cache), after, tuple(as_now))


def _listed(config: Path, folder: Path) -> tuple[Document, list[Path]]:
    """A configuration, and the files below the folder that it lays over its policies."""
    document, doc = configfile.read(config)
    return document, [folder / name for name in doc.policies.overlays]
