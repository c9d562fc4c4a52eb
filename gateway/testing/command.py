"""Runs the tests of policy files, tells how they went, and returns the exit code.

Exit codes: 0 every test passed (and under `--mutants` every change was noticed); 1 one did not; 2 a file is broken.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gateway import bundled
from gateway.config import cache_dir
from gateway.core.errors import ConfigError, Problem
from gateway.core.mutate import Mutant, Survey
from gateway.core.policytest import Result
from gateway.policyfile import PolicyFile, load_policy, policy_files, reference_fleet
from gateway.progress import Progress
from gateway.testing.mutation import survey


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for."""

    paths: list[Path]
    as_json: bool = False
    mutants: bool = False
    time_limit_s: float = 60.0  # for the mutants of all files together


@dataclass(frozen=True, slots=True)
class Tested:
    """One file and what came of it."""

    path: Path
    file: PolicyFile
    results: tuple[Result, ...]
    survey: Survey | None = None

    @property
    def failed(self) -> int:
        """How many tests did not pass."""
        return sum(not result.passed for result in self.results)

    def line(self, path: str) -> int:
        """The line of a path in the file."""
        return self.file.document.line(path)


@dataclass(slots=True)
class Clock:
    """Says when the time for mutants is up."""

    until: float = field(default_factory=lambda: float("inf"))

    def is_up(self) -> bool:
        """Whether it is."""
        return time.monotonic() >= self.until


def run(options: Options, environ: Mapping[str, str]) -> int:
    """Test every file. Raises `ConfigError` for one that does not load."""
    cache = cache_dir(environ)
    files: list[Path] = []
    for path in options.paths or [bundled.policies()]:
        files += policy_files(path) if path.is_dir() else [path]
    if not files:
        raise ConfigError([Problem(str(options.paths[0]), 0, "", "holds no policy", "a folder of *.yaml files")])
    fleet = reference_fleet(cache=cache)
    clock = Clock(time.monotonic() + options.time_limit_s)
    told = []
    for path in files:
        file = load_policy(path, cache=cache)
        tested = Tested(path, file, file.run_tests(fleet))
        if options.mutants and not tested.failed:
            bar = Progress(f"{path.name}: mutants", sys.stderr)
            tested = Tested(path, file, tested.results, survey(file, fleet, time_is_up=clock.is_up, step=bar.at))
            bar.done()
        told.append(tested)
        if not options.as_json:
            print(*_lines(tested), sep="\n")
    failed = sum(tested.failed for tested in told)
    passed = sum(len(tested.results) for tested in told) - failed
    surveys = [tested.survey for tested in told if tested.survey is not None]
    unnoticed = sum(len(one.survivors) + one.untried for one in surveys)
    if options.as_json:
        print(json.dumps(_json(told, passed, failed, unnoticed), indent=2, ensure_ascii=False))
    else:
        print(f"{passed} passed, {failed} failed")
        if surveys:
            print(f"{sum(one.noticed for one in surveys)} changes noticed, {unnoticed} not")
    return 1 if failed or unnoticed else 0


def _lines(tested: Tested) -> list[str]:
    count = len(tested.results)
    lines = [f"{tested.path}: {count} {'test' if count == 1 else 'tests'}"]
    for result in tested.results:
        if not result.passed:
            lines.append(f"  FAILED {result.name} (line {tested.line(result.path)})")
            lines += [f"         {failure}" for failure in result.failures]
    if tested.survey is not None:
        lines += [f"  NOT NOTICED {_place(tested, one)}" for one in tested.survey.survivors]
        lines += [f"  no effect   {_place(tested, one)}" for one in tested.survey.idle]
        if tested.survey.untried:
            lines.append(f"  time was up: {tested.survey.untried:,} changes were not tried (--time-limit)")
    return lines


def _place(tested: Tested, mutant: Mutant) -> str:
    return f"{mutant} (line {tested.line(mutant.path)}: {mutant.path})"


def _json(told: list[Tested], passed: int, failed: int, unnoticed: int) -> dict[str, Any]:
    rows = [
        {
            "file": str(tested.path),
            "line": tested.line(result.path),
            "name": result.name,
            "path": result.path,
            "passed": result.passed,
            "failures": list(result.failures),
            "mismatches": [asdict(one) for one in result.mismatches],
        }
        for tested in told
        for result in tested.results
    ]
    made: dict[str, Any] = {"ok": not failed and not unnoticed, "passed": passed, "failed": failed, "tests": rows}
    surveys = [(tested, tested.survey) for tested in told if tested.survey is not None]
    if surveys:
        made["mutants"] = [
            {
                "file": str(tested.path),
                "noticed": found.noticed,
                "untried": found.untried,
                "survivors": [_mutant(tested, one) for one in found.survivors],
                "no_effect": [_mutant(tested, one) for one in found.idle],
            }
            for tested, found in surveys
        ]
    return made


def _mutant(tested: Tested, mutant: Mutant) -> dict[str, Any]:
    return {"line": tested.line(mutant.path), "path": mutant.path, "id": mutant.id, "change": mutant.change}
