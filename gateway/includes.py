"""Files that policies include: found, read within limits, and put in, with the line of everything kept.

What a part may say and what putting together means is `core.parts`; here are only the files. A name is relative to the
file that says it and never leads out of the folder of the policy, also not through a symbolic link.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

from gateway import bundled, yamlfile
from gateway.core.errors import ConfigError, Problem
from gateway.core.parts import Clash, Joined, PartDoc, join
from gateway.core.policy import PolicyDoc
from gateway.core.policy import TestDoc as Test
from gateway.problems import validated
from gateway.yamlfile import Document

#: Files included by one policy, levels of inclusion, and bytes of all included files together.
MAX_FILES, MAX_LEVELS, MAX_BYTES = 32, 8, 256 << 10
#: Names of parts end so where they lie beside policies, which they would be taken for otherwise.
SUFFIX = ".part.yaml"
_RELATIVE = "a path relative to this file"
_COPY = "a copy of it beside this file: it comes along with Pointsman in the folder of policies"
#: For who takes `include` for a way to build on a whole policy.
_ADD = (
    "a part, with part: in place of policy: and no rules; to add a constraint to {}, lay a part over it with "
    "policies: {{overlays: [...]}} in pointsman.yaml"
)


@dataclass(frozen=True, slots=True)
class Part:
    """A part as it was read."""

    document: Document
    doc: PartDoc


def is_part(document: Document) -> bool:
    """Does a file say that it is a part, and no policy?"""
    return "part" in document.data and "policy" not in document.data


def read_parts(
    document: Document, include: Sequence[str], cache: Path | None, touched: list[Path] | None = None
) -> tuple[Part, ...]:
    """The parts that a file includes, and those that they do, each once, in the order in which they are met.

    `touched` is given every file that was looked at, also where that fails. Raises `ConfigError` with every problem.
    """
    path = Path(document.name)
    reading = _Reading(path.parent.resolve(), cache, [] if touched is None else touched)
    reading.follow(document, include, (path.resolve(),))
    if reading.found:
        raise ConfigError(reading.found)
    return tuple(reading.parts.values())


def read_overlays(
    config: Document, paths: Sequence[Path], cache: Path | None, touched: list[Path] | None = None
) -> tuple[Part, ...]:
    """The parts that a configuration lays over its policies, with those that they include, each once.

    `paths` are the files that it names, in its order. Raises `ConfigError`: where one of them does not load there is
    nothing that may be served.
    """
    parts: dict[Path, Part] = {}
    for i, path in enumerate(paths):
        if touched is not None:
            touched.append(path)
        document = _load(path, cache, config, f"policies.overlays[{i}]")
        if "policy" in document.data and "part" not in document.data:
            what = "is a policy, and only parts can lie over others"
            raise ConfigError([document.problem("policy", what, "part: in place of policy:, and nothing that routes")])
        doc = validated(document, PartDoc)
        for part in (Part(document, doc), *read_parts(document, doc.include, cache, touched)):
            parts.setdefault(Path(part.document.name).resolve(), part)
    return tuple(parts.values())


def _load(path: Path, cache: Path | None, asking: Document, where: str) -> Document:
    """A file that another one asks for. Raises `ConfigError`; one that cannot be read is told where it is named."""
    try:
        raw = yamlfile.read(path)
    except ConfigError as error:
        told = [asking.problem(where, f"{path} {one.what}", one.valid or _RELATIVE) for one in error.problems]
        raise ConfigError(told) from None
    return yamlfile.parse(raw, str(path), cache)


def put_in(
    document: Document,
    doc: PolicyDoc,
    parts: Sequence[Part],
    *,
    tests: Sequence[Test] | None = None,
    alone: bool = False,
) -> tuple[Document, PolicyDoc]:
    """A policy with parts in it: its document knows the lines of all, and its hash is of all their bytes.

    Raises `ConfigError` where two of them say what cannot stand together.
    """
    if not parts:
        return document, doc
    joined = join(doc, [part.doc for part in parts], tests=tests, alone=alone)
    if joined.clashes:
        whole = replace(document, parts=_places(document, joined, parts))
        raise ConfigError([_clash(one, parts[one.part].document, whole) for one in joined.clashes])
    together = sha256(document.sha256.encode())
    for part in parts:
        together.update(part.document.sha256.encode())
    return replace(document, sha256=together.hexdigest(), parts=_places(document, joined, parts)), joined.doc


def _clash(one: Clash, part: Document, whole: Document) -> Problem:
    what = one.what
    if one.first:
        file, line = whole.place(one.first)
        what += f" (first in {file}:{line})"
    return part.problem(one.path, what, one.valid)


def _places(document: Document, joined: Joined, parts: Sequence[Part]) -> dict[str, tuple[Document, str]]:
    there = {path: (parts[number].document, inside) for path, (number, inside) in joined.places.items()}
    return {**document.parts, **there}


@dataclass(slots=True)
class _Reading:
    root: Path
    cache: Path | None
    touched: list[Path]
    parts: dict[Path, Part] = field(default_factory=dict)
    found: list[Problem] = field(default_factory=list)
    left: int = MAX_BYTES

    def follow(self, document: Document, include: Sequence[str], above: tuple[Path, ...]) -> None:
        """Read what a file includes. `above` are the files on the way to it, itself the last."""
        for i, name in enumerate(include):
            wrong = self._one(document, f"include[{i}]", name, above)
            if wrong is not None:
                what, valid = wrong
                self.found.append(document.problem(f"include[{i}]", what, valid))
            if self.found:
                return  # what is included further on may be a bomb; one mistake at a time is enough of it

    def _one(self, document: Document, path: str, name: str, above: tuple[Path, ...]) -> tuple[str, str] | None:
        given = Path(document.name).parent / name
        try:
            file = given.resolve()
        except (OSError, RuntimeError):  # links that lead in a circle: until Python 3.13 a RuntimeError
            return f"{name} is a link that leads to itself", "a file in it, such as parts/eu.yaml"
        if not file.is_relative_to(self.root):
            return f"{name} lies outside the folder of the policy", "a file in it, such as parts/eu.yaml"
        if file in above:
            return f"{name} includes itself" + (", by way of others" if file != above[-1] else ""), "no circle"
        if file in self.parts:
            return None
        if len(self.parts) >= MAX_FILES or len(above) > MAX_LEVELS:
            return f"more than {MAX_FILES} files or {MAX_LEVELS} levels are included", "fewer, larger parts"
        self.touched.append(given)
        try:
            size = file.stat().st_size if file.is_file() else None
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}", _RELATIVE
        if size is None:
            ours = bundled.policies() / name
            valid = (
                _RELATIVE if not ours.is_file() else _ADD.format(name) if ours.parent == bundled.policies() else _COPY
            )
            return f"there is no file {name}", valid
        self.left -= size
        if self.left < 0:
            return f"with {name} more than {MAX_BYTES >> 10} KiB are included", "fewer constraints"
        try:
            included = _load(given, self.cache, document, path)
            if "policy" in included.data:
                return f"{name} is a policy, and only parts are included", _ADD.format(name)
            part = self.parts[file] = Part(included, validated(included, PartDoc))
        except ConfigError as error:
            self.found += error.problems
            return None
        self.follow(included, part.doc.include, (*above, file))
        return None
