"""`pointsman explain --diff REV`: which policies are meant, both versions of them, and what is printed.

Exit codes: 0 the change was told; 1 a test of the new version fails; 2 the new version does not load, or there is no
such revision.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gateway import bundled, configfile
from gateway.compiled import cache_dir
from gateway.config import ConfigDoc
from gateway.core.errors import ConfigError, Problem
from gateway.core.recorded.records import Recorded
from gateway.core.types import Fleet
from gateway.diff.compare import PolicyChange, Version, compare, pair
from gateway.diff.markdown import comment, problems
from gateway.diff.overlays import Overlays, overlays
from gateway.diff.revision import Revision, find
from gateway.diff.traffic import Traffic, Versions
from gateway.includes import Part
from gateway.policyfile import fleet_of_tests, lay_over, load_policy, policy_files
from gateway.printing import BROKEN, NO, OK, print_json
from gateway.progress import over
from gateway.replay.command import count, reading
from gateway.replay.reading import Read, Wanted, files_of
from gateway.site import load_site

OWN = "your fleet"
#: By its path: why a policy that was there does not load.
_Unreadable = dict[str, tuple[Problem, ...]]


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for. Without `policies` they are those of the configuration, else in `policies/`."""

    revision: str
    policies: Sequence[Path] = ()
    config: Path | None = None
    records: Sequence[Path] = ()
    as_json: bool = False


def run(options: Options, environ: Mapping[str, str]) -> int:
    """Compare and print. Raises `ConfigError`."""
    cache = cache_dir(environ)
    paths = _paths(options)
    along = paths[:1] and bundled.policies() in paths[0].parents and options.config is not None
    revision = find(options.config.absolute().parent if along and options.config else paths[0], options.revision)
    reference = fleet_of_tests(options.config, cache=cache)
    fleets = {"the reference fleet": reference, **_own_fleet(options.config, environ)}
    records = _records(options.records, fleets.get(OWN))
    with tempfile.TemporaryDirectory(prefix="pointsman-diff-") as folder:
        try:
            laid = overlays(options.config, revision, Path(folder), cache)
            before, after, unreadable = _versions(paths, revision, Path(folder), cache, laid)
            pairs = list(pair(before, after))
            seen = [compare(old, new, reference, fleets, time.time()) for old, new in over(pairs, "comparing")]
            traffic = _traffic(pairs, fleets.get(OWN), records)
        except ConfigError as error:
            if options.as_json:
                raise
            print(problems(error.problems), end="")
            print(error, file=sys.stderr)
            return BROKEN
    found = [
        _explained(replace(change, traffic=traffic.get(change.name)), unreadable)
        for change in seen
        if change is not None
    ]
    same = len(seen) - len(found)
    if options.as_json:
        print_json(_json(found, revision, same, laid))
    else:
        print(comment(found, f"{revision.asked} ({revision.short})", same, laid.text), end="")
    return NO if any(change.failing for change in found) else OK


def _paths(options: Options) -> list[Path]:
    """The files and folders of policies that are meant, absolute. Raises `ConfigError`."""
    if options.policies:
        return [path.absolute() for path in options.policies]
    doc = None if options.config is None else configfile.read(options.config)[1]
    if options.config is not None and doc is not None and doc.policies.dir is not None:
        return [(options.config.parent / doc.policies.dir).absolute()]
    if Path("policies").is_dir():
        return [Path("policies").absolute()]
    if doc is not None:
        return _coming_along(doc)
    valid = "pointsman explain --diff REV --policies FOLDER"
    raise ConfigError([Problem("--policies", 0, "", "there are no policies here", valid)])


def _coming_along(doc: ConfigDoc) -> list[Path]:
    """The policies that come along and that a configuration names: what it lays over them may have changed."""
    named = {doc.policies.default, doc.unknown_model, *(key.policy for key in doc.keys)}
    named |= {meaning.removeprefix("auto/") for meaning in doc.models.values()}
    return sorted(path for path in policy_files(bundled.policies()) if path.stem in named)


def _own_fleet(config: Path | None, environ: Mapping[str, str]) -> dict[str, Fleet]:
    """The fleet of the configuration, for findings, as far as it can be had."""
    if config is None:
        return {}
    try:
        return {OWN: load_site(config, environ, secrets=False, tests=False).fleet}
    except ConfigError as error:
        print(f"{config} does not load, so nothing is said of your own fleet: {error.problems[0]}", file=sys.stderr)
        return {}


def _records(paths: Sequence[Path], fleet: Fleet | None) -> list[Path]:
    """The files of records that are meant. Raises `ConfigError`."""
    if paths and fleet is None:
        valid = "a pointsman.yaml that loads, here or named with --config"
        raise ConfigError([Problem("--records", 0, "", "are decided on your own fleet", valid)])
    return files_of(paths)


def _traffic(
    pairs: Sequence[tuple[Version | None, Version | None]], fleet: Fleet | None, records: list[Path]
) -> dict[str, Traffic]:
    """Policy -> what becomes of its recorded requests, by one walk over the records."""
    if not records or fleet is None:
        return {}
    versions: dict[str, tuple[str, Versions]] = {}  # by the name before: recorded requests bear that
    for old, new in pairs:
        if old is not None and new is not None and old.served.document.sha256 != new.served.document.sha256:
            with contextlib.suppress(ConfigError):  # a version that does not load on this fleet decides nothing
                both = Versions(old.served.bind(fleet), new.served.bind(fleet))
                versions[both.name] = (new.file.doc.policy, both)
    told = Read()

    def add(recorded: Recorded) -> None:
        known = versions.get(recorded.policy_name)
        if known is not None:
            known[1].add(recorded)

    count(add, reading(records, Wanted(), told, "replaying"), told)
    if told.damaged:
        print(f"{told.damaged:,} damaged records were passed over: {told.places[0]}", file=sys.stderr)
    return {name: both.found for name, both in versions.values()}


def _versions(
    paths: Sequence[Path], revision: Revision, folder: Path, cache: Path | None, laid: Overlays
) -> tuple[list[Version], list[Version], _Unreadable]:
    """The versions at a revision, those of the work tree, and what is wrong with old ones. Raises `ConfigError`."""
    before: list[Version] = []
    after: list[Version] = []
    unreadable: _Unreadable = {}
    for path in paths:
        old, broken = _before(path, revision, folder, cache, laid.before)
        new = _after(path, revision, cache, laid.after)
        if not (old or broken or new):
            what = f"holds no policy, neither now nor at {revision.asked}"
            raise ConfigError([Problem(os.path.relpath(path), 0, "", what, "a policy, or a folder of *.yaml files")])
        before += old
        after += new
        unreadable |= broken
    return before, after, unreadable


def _before(
    path: Path, revision: Revision, folder: Path, cache: Path | None, laid: Sequence[Part]
) -> tuple[list[Version], _Unreadable]:
    """What a path held at a revision, and what is wrong with versions that do not load."""
    if not path.resolve().is_relative_to(revision.top):  # it came along, and is what it was
        policy = load_policy(path, cache=cache)
        return [Version(path.name, policy, lay_over(policy, laid))], {}
    versions: list[Version] = []
    unreadable: _Unreadable = {}
    single = path.suffix in (".yaml", ".yml")
    inside = revision.write(path.parent if single else path, folder)
    there = inside / path.name
    files = ([there] if there.is_file() else []) if single else policy_files(inside)
    for file in files:
        relative = file.relative_to(folder).as_posix()
        try:
            policy = load_policy(file, cache=cache)
            versions.append(Version(relative, policy, lay_over(policy, laid)))
        except ConfigError as error:
            unreadable[relative] = tuple(replace(problem, file=relative) for problem in error.problems)
    return versions, unreadable


def _after(path: Path, revision: Revision, cache: Path | None, laid: Sequence[Part]) -> list[Version]:
    """The versions in the work tree."""
    files = policy_files(path) if path.is_dir() else [path] if path.is_file() else []
    found = []
    for file in files:
        folder = file.parent.resolve()
        within = folder.is_relative_to(revision.top)
        relative = (folder.relative_to(revision.top) / file.name).as_posix() if within else file.name
        policy = load_policy(file, cache=cache)
        found.append(Version(relative, policy, lay_over(policy, laid)))
    return found


def _explained(change: PolicyChange, unreadable: Mapping[str, tuple[Problem, ...]]) -> PolicyChange:
    """A policy that seems to be new because its version before does not load, said to be that."""
    reasons = unreadable.get(change.path_after or "")
    if change.state != "added" or reasons is None:
        return change
    return replace(change, state="changed", path_before=change.path_after, unreadable_before=reasons)


def _json(found: Sequence[PolicyChange], revision: Revision, same: int, laid: Overlays) -> dict[str, Any]:
    return {
        "ok": not any(change.failing for change in found),
        "revision": {"asked": revision.asked, "commit": revision.commit},
        "unchanged": same,
        "overlays": {
            "before": [part.doc.part for part in laid.before],
            "after": [part.doc.part for part in laid.after],
            "as_now": list(laid.as_now),
        },
        "policies": [_plain(change) for change in found],
    }


def _plain(change: PolicyChange) -> dict[str, Any]:
    made = asdict(replace(change, traffic=None))
    return {**made, "traffic": None if change.traffic is None else change.traffic.to_dict()}
