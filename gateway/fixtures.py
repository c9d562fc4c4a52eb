"""The requests that policy tests name: JSON files beside the policy, and what they are read with.

A policy is loaded by whoever runs a gateway and written by others, so a test reads only regular files inside the folder
of its policy. What a request means is told by `core.proving.testrequest`.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from gateway import bundled, yamlfile
from gateway.core.errors import ConfigError, Problem
from gateway.core.policy import PolicyDoc
from gateway.core.proving.testrequest import Reader
from gateway.core.quantities import Invalid
from gateway.core.reading.lexicon import Lexicon
from gateway.core.types import Fleet
from gateway.vocab import open_tokenizers
from gateway.yamlfile import Document

MAX_BYTES = 8 << 20


def reader(document: Document, doc: PolicyDoc, fleet: Fleet, *, cache: Path | None = None) -> Reader | None:
    """What the requests of a policy's tests are read with; None where no test has one.

    Raises `ConfigError` with every file that cannot be read.
    """
    if all(test.request is None for test in doc.tests):
        return None
    directory = Path(document.name).parent
    bodies: dict[str, bytes] = {}
    found: list[Problem] = []
    for i, test in enumerate(doc.tests):
        if isinstance(test.request, str) and test.request not in bodies:
            try:
                bodies[test.request] = read(directory, test.request)
            except Invalid as error:
                found.append(document.problem(f"tests[{i}].request", error.what, error.valid))
    if found:
        raise ConfigError(found)
    lexicon = Lexicon.compile(yamlfile.load(bundled.policies() / "lexicon.yaml", cache_dir=cache).data)
    names = {target.model.tokenizer for target in fleet.targets} | {doc.tokens_by}
    return Reader(lexicon, open_tokenizers({name for name in names if name}, background=False), bodies)


def paths(directory: Path, doc: PolicyDoc) -> list[Path]:
    """The files that a policy's tests name inside its folder, there or not: a change of one may heal a test."""
    names = {test.request for test in doc.tests if isinstance(test.request, str) and test.request.isprintable()}
    inside = (name for name in sorted(names) if not Path(name).is_absolute() and ".." not in Path(name).parts)
    return [directory / name for name in inside]


def read(directory: Path, name: str) -> bytes:
    """The bytes of a request's file. Raises `quantities.Invalid`."""
    valid = "the JSON body of a chat request, in a file such as fixtures/request.json"
    if not name.isprintable():
        raise Invalid("is no name of a file", valid)
    try:
        path = (directory / name).resolve()
    except (OSError, RuntimeError):  # links that lead in a circle: until Python 3.13 a RuntimeError
        raise Invalid(f"{name} cannot be read: it is a link that leads to itself", valid) from None
    if not path.is_relative_to(directory.resolve()):
        raise Invalid(f"{name} lies outside the folder of the policy", "a path such as fixtures/request.json")
    try:
        # O_NONBLOCK: opening a FIFO for reading would wait for a writer for ever.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            regular = stat.S_ISREG(os.fstat(fd).st_mode)
            body = file.read(MAX_BYTES + 1) if regular else b""
    except OSError as error:
        raise Invalid(f"{name} cannot be read: {error.strerror or error}", valid) from None
    if not regular:
        raise Invalid(f"{name} is not a regular file", valid)
    if len(body) > MAX_BYTES:
        raise Invalid(f"{name} is larger than 8 MiB", "a smaller request")
    return body
