"""Runs the tests of policy files, has it told how they went, and returns the exit code.

Exit codes: 0 every test passed; 1 one did not, the coverage is less than was asked for, or under `--mutants` a change
was not noticed or not tried; 2 a file does not load, or no test was chosen.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gateway import bundled, configfile
from gateway.compiled import cache_dir
from gateway.core.errors import ConfigError, Problem
from gateway.core.proving.coverage import Coverage, coverage
from gateway.core.proving.policytest import run_all
from gateway.core.types import Fleet
from gateway.policyfile import PolicyFile, files_at, fleet_of_tests, load_policy, perhaps_overlaid, policy_files
from gateway.printing import BROKEN, NO, OK, print_json
from gateway.progress import AFTER_S, Progress
from gateway.testing.junit import junit
from gateway.testing.mutation import ready, survey
from gateway.testing.told import FileResult, as_json, counted, lines, share


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for. `chosen`: only tests whose names hold this, whatever the case."""

    paths: Sequence[Path] = ()
    config: Path | None = None  # whose catalogue adds models, and whose policies are meant where no path is given
    as_json: bool = False
    chosen: str | None = None
    junit: Path | None = None
    coverage: bool = False
    min_coverage: float | None = None  # percent, of every file
    mutants: bool = False
    time_limit_s: float = 60.0  # for the mutants of all files together


def run(options: Options, environ: Mapping[str, str]) -> int:
    """Test every file. Raises `ConfigError` where no file or no test is meant, OSError where it cannot write."""
    cache = cache_dir(environ)
    files = _files(options.paths) if options.paths else _unnamed(options, cache)
    fleet = fleet_of_tests(options.config, cache=cache)
    ends = time.monotonic() + options.time_limit_s
    told: list[FileResult] = []
    broken: list[Problem] = []
    bar = Progress("testing", sys.stderr, after_s=AFTER_S)
    for number, (path, with_parts) in enumerate(files):  # to which the parts are added that are met
        bar.at(number, len(files))
        try:
            file = load_policy(path, cache=cache, part=True)
            known = {one.resolve() for one, _ in files}
            files += [(part, False) for part in file.parts if with_parts and part.resolve() not in known]
            tested = _test(path, file, fleet, options, ends)
        except ConfigError as error:
            broken += error.problems if options.config is not None else map(perhaps_overlaid, error.problems)
            continue
        finally:
            bar.done()  # what is printed next stands on the same terminal
        told.append(tested)
        if not options.as_json and (tested.results or options.chosen is None):
            print(*lines(tested), sep="\n")
    if options.chosen is not None and not broken and not any(tested.results for tested in told):
        what = f"no test has {options.chosen!r} in its name"
        raise ConfigError([Problem("-k", 0, "", what, "a part of a test's name")])
    if options.junit is not None:
        options.junit.write_bytes(junit(told, broken))
    return _close(told, broken, options)


def _files(paths: Sequence[Path]) -> list[tuple[Path, bool]]:
    """The files that are meant, and whether those that one includes are meant too, as where a folder is."""
    return [(one, path.is_dir()) for path in paths for one in files_at(path)]


def _unnamed(options: Options, cache: Path | None) -> list[tuple[Path, bool]]:
    """Those of the configuration, as it serves them; without one, those that come with Pointsman. Which, is said."""
    whose, directory, overlays = "no pointsman.yaml here", bundled.policies(), list[Path]()
    own = None
    if options.config is not None:
        document, doc = configfile.read(options.config, cache=cache)
        whose, own = f"{options.config} names no folder", doc.policies.dir
        overlays = [options.config.parent / name for name in doc.policies.overlays]
        if own is not None:
            whose, directory = str(options.config), options.config.parent / own
            if not policy_files(directory):
                valid = "a directory of *.yaml files"
                raise ConfigError([document.problem("policies.dir", f"no policy files in {directory}", valid)])
    if not options.as_json:
        what = "the policies that come with Pointsman" if own is None else f"policies of {directory}"
        print(f"{whose}: testing {what}")
    return [*_files([directory]), *((path, True) for path in overlays)]


def _test(path: Path, file: PolicyFile, fleet: Fleet, options: Options, ends: float) -> FileResult:
    policy, cases = ready(file, fleet)
    if options.chosen is not None:
        cases = tuple(case for case in cases if options.chosen.casefold() in case.test.name.casefold())
    tested = FileResult(path, file, run_all(policy, cases))
    if options.coverage or options.min_coverage is not None:
        items = (item for item in coverage(policy, cases).items if file.own(item.path))
        tested = replace(tested, coverage=Coverage(tuple(items)))
    if options.mutants and tested.failed:
        tested = replace(tested, unsurveyed=True)
    elif options.mutants:
        bar = Progress(f"{path.name}: mutants", sys.stderr)
        found = survey(file, fleet, cases, time_is_up=lambda: time.monotonic() >= ends, step=bar.at)
        bar.done()
        tested = replace(tested, survey=found)
    return tested


def _close(told: Sequence[FileResult], broken: Sequence[Problem], options: Options) -> int:
    """The last lines, or all of the JSON; and the exit code."""
    failed = sum(tested.failed for tested in told)
    passed = sum(len(tested.results) for tested in told) - failed
    surveys = [tested.survey for tested in told if tested.survey is not None]
    noticed = sum(one.noticed for one in surveys)
    unnoticed = sum(len(one.survivors) + one.untried for one in surveys)
    least = options.min_coverage or 0.0
    thin = [tested for tested in told if tested.coverage is not None and share(tested.coverage) < least]
    code = BROKEN if broken else NO if failed or unnoticed or thin else OK
    if options.as_json:
        made: dict[str, Any] = {"ok": code == OK, "passed": passed, "failed": failed}
        made["files"] = [as_json(tested) for tested in told]
        if broken:
            made["problems"] = [asdict(problem) for problem in broken]
        print_json(made)
        return code
    print(f"{passed:,} passed, {failed:,} failed")
    for tested in thin:
        reached = 0.0 if tested.coverage is None else share(tested.coverage)
        print(f"{tested.path}: coverage of {reached:.0f} % is less than {least:g} %")
    left = sum(tested.unsurveyed for tested in told)
    if left:
        print(f"changes of {counted(left, 'file')} were not tried, for tests fail there already (--mutants)")
    if surveys:
        print(f"{counted(noticed, 'change')} noticed, {unnoticed:,} not")
    if broken:
        sys.stdout.flush()
        print(*broken, sep="\n", file=sys.stderr)
        print(f"{len(broken)} to put right", file=sys.stderr)
    return code
