"""How tested policies read: for a person line by line, for programs as JSON. What was found is not judged here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gateway.check.report import flow
from gateway.core.decisions.trace import TargetTrace, Trace
from gateway.core.proving.coverage import Coverage, Item
from gateway.core.proving.expectations import Mismatch
from gateway.core.proving.mutate import Mutant, Slip, Survey
from gateway.core.proving.policytest import MOST_TRACED, Result
from gateway.policyfile import PolicyFile

_MOST = 6  # candidates, and targets that were hoped for, that one failure shows


@dataclass(frozen=True, slots=True)
class FileResult:
    """One file and what came of it."""

    path: Path
    file: PolicyFile
    results: tuple[Result, ...]
    coverage: Coverage | None = None
    survey: Survey | None = None
    unsurveyed: bool = False  # no change was tried although that was asked: its tests fail as it is

    @property
    def failed(self) -> int:
        """How many tests did not pass."""
        return sum(not result.passed for result in self.results)

    def line(self, path: str) -> int:
        """The line of a path in the file."""
        return self.file.document.line(path)


def lines(tested: FileResult) -> Iterator[str]:
    """All that a person is told of one file."""
    yield f"{tested.path}: {counted(len(tested.results), 'test')}"
    for result in tested.results:
        if not result.passed:
            yield f"  FAILED {result.name} (line {tested.line(result.path)})"
            yield from (f"         {line}" for line in difference(result))
    if tested.failed > MOST_TRACED:
        yield f"  only the first {MOST_TRACED} of {counted(tested.failed, 'failure')} are explained (-k chooses others)"
    if tested.coverage is not None:
        yield from _coverage(tested, tested.coverage)
    if tested.unsurveyed:
        yield "  no change was tried (--mutants): the tests have to pass on the policy as it is first"
    if tested.survey is not None:
        for one, slip in zip(tested.survey.survivors, tested.survey.slips, strict=True):
            yield f"  NOT NOTICED {_place(tested, one)}"
            if slip is not None:
                yield f"              {_slipped(slip)}"
        yield from (f"  no effect   {_place(tested, one)}" for one in tested.survey.idle)
        if tested.survey.idle:
            yield "    (nothing on the reference fleet changes by these, so no test can notice; on yours it may)"
        if tested.survey.untried:
            yield f"  time was up: {tested.survey.untried:,} changes were not tried (--time-limit)"


def difference(result: Result) -> Iterator[str]:
    """What a failed test expected, what came instead, and why: the candidates, and those that it hoped for."""
    yield from map(str, result.mismatches)
    trace = result.trace
    if trace is None:
        return
    yield f"because: {trace.decision.because}"
    places = [entry for entry in trace.targets if entry.place is not None]
    if places:
        yield "candidates:"
        width = max(len(entry.target) for entry in places[:_MOST])
        for entry in places[:_MOST]:
            why = f"  ({', '.join(entry.reasons)})" if entry.reasons else ""
            yield f"  {entry.place}. {entry.target:<{width}}  {entry.model}{why}"
        if len(places) > _MOST:
            yield f"  and {len(places) - _MOST} more"
    hoped = list(_hoped_for(result.mismatches, trace))
    if hoped:
        yield "expected, and what became of it:"
        yield from (f"  {line}" for line in hoped)


def _hoped_for(mismatches: tuple[Mismatch, ...], trace: Trace) -> Iterator[str]:
    """Of every target, model or family that was expected in vain: where it came, or why it was dropped."""
    families = {target.name: target.model.family for target in trace.fleet.targets}
    for word in dict.fromkeys(word for one in mismatches for word in one.wanted):
        meant = [entry for entry in trace.targets if word in (entry.target, entry.model, families[entry.target])]
        if not meant:
            yield f"{word}: no target of the reference fleet serves it"
        for entry in meant[:_MOST]:
            yield _fate(word, entry)
        if len(meant) > _MOST:
            yield f"{word}: and {len(meant) - _MOST} more targets"


def _fate(word: str, entry: TargetTrace) -> str:
    name = entry.target if word in (entry.target, entry.model) else f"{entry.target} ({entry.model})"
    if entry.place is not None:
        return f"{name}: candidate {entry.place}" + (f", {', '.join(entry.reasons)}" if entry.reasons else "")
    return f"{name}: {', '.join(entry.reasons)}"


def _coverage(tested: FileResult, found: Coverage) -> Iterator[str]:
    yield f"  coverage: {found.reached} of {len(found.items)} ({share(found):.0f} %)"
    for item in found.missed:
        where = f"(line {tested.line(item.path)}: {item.path})"
        if item.kind == "constraint" and item.seen:
            yield f"  NEVER ACTED {item}: it held in {counted(item.seen, 'test')} and changed nothing {where}"
        else:
            yield f"  NOT REACHED {item} {where}"


def share(found: Coverage) -> float:
    """What part of a policy is reached, in percent; 100 of nothing."""
    return 100 * found.reached / len(found.items) if found.items else 100.0


def counted(number: int, one: str) -> str:
    """A number and its noun.

    >>> counted(1, "test"), counted(1200, "test")
    ('1 test', '1,200 tests')
    """
    return f"{number:,} {one}" if number == 1 else f"{number:,} {one}s"


def _slipped(slip: Slip) -> str:
    """Who comes in and who falls out, and for which request."""
    moves = (("lets in", slip.gained), ("loses", slip.lost))
    said = [f"{verb} {', '.join(names[:_MOST])}{', ...' * (len(names) > _MOST)}" for verb, names in moves if names]
    return f"{' and '.join(said)}; given: {flow(slip.given)}"


def _place(tested: FileResult, mutant: Mutant) -> str:
    return f"{mutant} (line {tested.line(mutant.path)}: {mutant.path})"


def as_json(tested: FileResult) -> dict[str, Any]:
    """Everything about one file as plain JSON values."""
    made: dict[str, Any] = {
        "file": str(tested.path),
        "policy": tested.file.doc.policy,
        "tests": [_result(tested, result) for result in tested.results],
    }
    if tested.coverage is not None:
        made["coverage"] = {
            "percent": round(share(tested.coverage), 2),
            "items": [_item(tested, item) for item in tested.coverage.items],
        }
    if tested.unsurveyed:
        made["mutants"] = {"skipped": "a test fails"}
    if tested.survey is not None:
        made["mutants"] = {
            "noticed": tested.survey.noticed,
            "untried": tested.survey.untried,
            "survivors": [
                _mutant(tested, one) | {"slip": None if slip is None else asdict(slip)}
                for one, slip in zip(tested.survey.survivors, tested.survey.slips, strict=True)
            ],
            "no_effect": [_mutant(tested, one) for one in tested.survey.idle],
        }
    return made


def _result(tested: FileResult, result: Result) -> dict[str, Any]:
    decision = result.decision
    made: dict[str, Any] = {
        "name": result.name,
        "line": tested.line(result.path),
        "path": result.path,
        "passed": result.passed,
        "rule": decision.rule,
        "candidates": [target.name for target in decision.candidates],
        "refused": decision.refusal[0] if decision.refusal else None,
        "failures": list(result.failures),
        "mismatches": [
            {"expectation": one.expectation, "expected": one.expected, "got": one.got} for one in result.mismatches
        ],
    }
    if result.trace is not None:
        made["dropped"] = {name: list(reasons) for name, reasons in result.trace.reasons.items()}
    return made


def _item(tested: FileResult, item: Item) -> dict[str, Any]:
    place = {"kind": item.kind, "id": item.id, "path": item.path, "line": tested.line(item.path)}
    return {**place, "reached": item.reached, "seen": item.seen}


def _mutant(tested: FileResult, mutant: Mutant) -> dict[str, Any]:
    return {"line": tested.line(mutant.path), "path": mutant.path, "id": mutant.id, "change": mutant.change}
