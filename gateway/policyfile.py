"""Policy files and what comes with them: loaded, bound to a fleet, and tested on the reference fleet.

Used by the server's loader and by the commands that judge a policy. What a policy means is core's business; here are
only the files, and the lines that its complaints belong to.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from gateway import bundled, configfile, fixtures, yamlfile
from gateway.catalog import catalogue as catalog
from gateway.catalog.catalogue import Catalogue
from gateway.config import FleetDoc
from gateway.core.analyse.imagined import Imagined, imagine
from gateway.core.analyse.ways import Way
from gateway.core.clauses.findings import Finding
from gateway.core.errors import ConfigError, Problem
from gateway.core.parts import PartDoc
from gateway.core.policy import Policy, PolicyDoc, compile_policy
from gateway.core.proving.policytest import MOST_TRACED, Result, run_tests
from gateway.core.proving.testrequest import Reader
from gateway.core.reading.lexicon import Lexicon
from gateway.core.reading.signals import REQUEST_TASKS
from gateway.core.types import Fleet, Model, Timeouts
from gateway.fleet import FleetBuilder
from gateway.includes import SUFFIX, Part, is_part, put_in, read_overlays, read_parts
from gateway.problems import validated
from gateway.yamlfile import Document

#: Files of a policy directory that are not policies.
NOT_POLICIES = frozenset({"lexicon.yaml"})
_ENTRY = re.compile(r"\w+(\[\d+\]|\.[^.\[]+)")  # the entry that a path lies in
#: As core says that a catalogue knows no such model or family.
_STRANGE = re.compile(r"\bno (model|family)\b.* (catalogue|is known)\b", re.S)


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """A parsed and validated policy file, not yet bound to a fleet."""

    document: Document
    doc: PolicyDoc
    tasks: frozenset[str] = frozenset()  # what a `task` can be; empty: anything
    cache: Path | None = None  # where parsed files are kept

    def bind(self, fleet: Fleet) -> Policy:
        """The policy on this fleet. Raises `ConfigError` with lines."""
        with placed(self.document):
            return compile_policy(self.doc, fleet, digest=self.document.sha256, tasks=self.tasks)

    def imagine(self, ways: Sequence[Way], models: Mapping[str, Model]) -> Imagined:
        """The policy on all that installations could have. Raises `ConfigError` with lines."""
        with placed(self.document):
            return imagine(self.doc, ways, models, digest=self.document.sha256, tasks=self.tasks)

    def own(self, path: str) -> bool:
        """Whether what stands at a path is this file's to answer for: not what it includes.

        Of a part by itself that is what it says itself, and not the policy made up around it either.
        """
        entry = _ENTRY.match(path)
        place = self.document.parts.get(entry[0]) if entry else None
        if is_part(self.document):
            return place is not None and place[0].name == self.document.name
        return place is None

    @property
    def parts(self) -> list[Path]:
        """The parts in it, each once."""
        return [Path(name) for name in dict.fromkeys(there.name for there, _ in self.document.parts.values())]

    def run_tests(self, reference: Fleet) -> tuple[Result, ...]:
        """The file's own tests, on the reference fleet. Raises `ConfigError` for a test that means nothing."""
        policy = self.bind(reference)
        reader = self.reader(reference)
        with placed(self.document):
            return run_tests(policy, reader, self.promises)

    @property
    def promises(self) -> frozenset[str]:
        """Paths of the tests that parts of it brought along, see `policytest.prepare`."""
        return frozenset() if is_part(self.document) else frozenset(self.document.parts)

    def reader(self, reference: Fleet) -> Reader | None:
        """What the requests of its tests are read with; None where no test has one. Raises `ConfigError`."""
        return fixtures.reader(self.document, self.doc, reference, cache=self.cache)

    @property
    def fixtures(self) -> list[Path]:
        """The files that its tests name: what they hold decides whether it may be served."""
        return fixtures.paths(Path(self.document.name).parent, self.doc)

    def wrong(self, findings: Iterable[Finding]) -> list[Problem]:
        """Findings as problems of the files that they are about."""
        return [self.document.problem(one.path, one.message, one.fix) for one in findings]

    def failures(self, reference: Fleet) -> list[Problem]:
        """The tests that fail, as problems of the file. Raises `ConfigError`."""
        failed = [one for one in self.run_tests(reference) if not one.passed]
        told = [
            self.document.problem(one.path, f"the test {one.name!r} fails", "; ".join(one.failures))
            for one in failed[:MOST_TRACED]
        ]
        if more := len(failed) - len(told):
            told.append(self.document.problem("tests", f"{more:,} more tests fail", "`pointsman test` tells of each"))
        return told


def load_policy(
    path: Path, *, cache: Path | None = None, touched: list[Path] | None = None, part: bool = False
) -> PolicyFile:
    """Read one policy file with all that it includes. Raises `ConfigError`.

    `touched` is given the included files that were looked at, also where loading fails. With `part`, a file of
    constraints is taken too, as the policy that lets everything go everywhere but for these: for testing it by itself.
    """
    document = yamlfile.load(path, cache_dir=cache)
    if is_part(document):
        if not part:
            what = f"holds constraints for policies to include, and lies among policies as {path.name}"
            raise ConfigError([document.problem("part", what, f"{path.stem}{SUFFIX}, or a folder below")])
        alone = validated(document, PartDoc)
        parts = (Part(document, alone), *read_parts(document, alone.include, cache, touched))
        document, doc = put_in(document, alone.alone(), parts, alone=True)
    else:
        doc = validated(document, PolicyDoc)
        document, doc = put_in(document, doc, read_parts(document, doc.include, cache, touched))
    return PolicyFile(document, doc, known_tasks(cache=cache), cache)


def lay_over(file: PolicyFile, overlays: Sequence[Part], *, touched: list[Path] | None = None) -> PolicyFile:
    """A policy under what an installation lays over all of its policies; its tests are those of the overlays.

    What is in the policy already, because it includes the same file, is not added again. `touched` is given the files
    that tests of both name. Raises `ConfigError`.
    """
    if touched is not None:
        touched += file.fixtures
    there = {Path(document.name).resolve() for document, _ in file.document.parts.values()}
    new = [part for part in overlays if Path(part.document.name).resolve() not in there]
    if not new:
        return file
    document, doc = put_in(file.document, file.doc, new, tests=())
    served = replace(file, document=document, doc=doc)
    if touched is not None:
        touched += served.fixtures
    return served


def overlays_of(config: Path, *, cache: Path | None = None) -> tuple[Part, ...]:
    """What a configuration lays over all of its policies. Raises `ConfigError`."""
    document, doc = configfile.read(config, cache=cache)
    return read_overlays(document, [config.parent / name for name in doc.policies.overlays], cache)


def failures_of(file: PolicyFile, served: PolicyFile, reference: Fleet) -> list[Problem]:
    """The tests that fail: a policy's own without overlays, for they hold wherever it is, and those of the overlays."""
    return file.failures(reference) + (served.failures(reference) if served is not file else [])


def known_tasks(*, cache: Path | None = None) -> frozenset[str]:
    """Every task that a request can turn out to be: a policy that names another waits for it in vain."""
    document = yamlfile.load(bundled.policies() / "lexicon.yaml", cache_dir=cache)
    with placed(document):
        return Lexicon.compile(document.data).tasks | REQUEST_TASKS


def policy_files(directory: Path) -> list[Path]:
    """The policy files of a directory, sorted."""
    found = directory.glob("*.yaml")
    return sorted(path for path in found if path.name not in NOT_POLICIES and not path.name.endswith(SUFFIX))


def files_at(path: Path) -> list[Path]:
    """The file itself, or the policy files of a folder. Raises `ConfigError` for a folder without any."""
    files = policy_files(path) if path.is_dir() else [path]
    if not files:
        raise ConfigError([Problem(str(path), 0, "", "holds no policy", "a folder of *.yaml files")])
    return files


def perhaps_overlaid(problem: Problem) -> Problem:
    """The same where no configuration was read: a name may be one that only the catalogue of the policy's own knows."""
    if not _STRANGE.search(problem.what):
        return problem
    return replace(problem, valid=f"{problem.valid}; or --config FILE, whose catalog: names it")


def load_catalogue(overlays: Sequence[Path] = (), *, cache: Path | None = None) -> Catalogue:
    """The shipped catalogue with the operator's files over it. Raises `ConfigError`."""
    layers = [bundled.catalogue(), *(catalog.files_of(path) for path in overlays)]
    return catalog.load_catalogue(layers, cache_dir=cache)


def reference_fleet(known: Catalogue | None = None, *, cache: Path | None = None) -> Fleet:
    """The imaginary fleet that policy tests run on, the same everywhere.

    Its facts are the shipped ones. `known` adds the models an operator's catalogue has besides, so that policies that
    name them load; it changes none.
    """
    shipped = load_catalogue(cache=cache)
    if known is not None:
        shipped = replace(
            shipped,
            models=MappingProxyType({**known.models, **shipped.models}),
            names=MappingProxyType({**known.names, **shipped.names}),
        )
    document = yamlfile.load(bundled.policies() / "catalog" / "reference-fleet.yaml", cache_dir=cache)
    builder = FleetBuilder(document, shipped, {}, bundled.policies(), Timeouts(), secrets=False)
    fleet = builder.build(validated(document, FleetDoc))
    if builder.found:
        raise ConfigError(builder.found)
    return fleet


def fleet_of_tests(config: Path | None, *, cache: Path | None = None) -> Fleet:
    """The reference fleet, with the models that the catalogue of a configuration has besides. Raises `ConfigError`."""
    if config is None:
        return reference_fleet(cache=cache)
    _, doc = configfile.read(config, cache=cache)
    return reference_fleet(load_catalogue([config.parent / name for name in doc.catalog], cache=cache), cache=cache)


@contextlib.contextmanager
def placed(document: Document) -> Iterator[None]:
    """Give the problems that core raises, which knows only paths, their file and line."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError([document.problem(one.path, one.what, one.valid) for one in error.problems]) from None
