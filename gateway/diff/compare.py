"""Two versions of a policy side by side: what is written differently, what is decided differently, what is found of it.

Both versions' tests run under both policies, on the reference fleet. A test that came with the change shows what it is
for; one that would fail now shows what it costs. Telling it stands in `markdown`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from gateway.core.analyse import analyse
from gateway.core.clauses.findings import Finding
from gateway.core.errors import ConfigError, Problem
from gateway.core.policy import Policy
from gateway.core.proving.changes import DocChange, changes
from gateway.core.proving.policytest import Case, Result, run
from gateway.core.types import Decision, Fleet
from gateway.diff.traffic import Traffic
from gateway.policyfile import PolicyFile
from gateway.testing.mutation import ready

State = Literal["added", "removed", "renamed", "changed", "same"]
TestState = Literal["kept", "added", "removed", "changed"]


@dataclass(frozen=True, slots=True)
class Told:
    """A decision in the words of a comment. `rank` is what comes first and after: names of targets."""

    rule: str | None
    targets: tuple[str, ...]
    thinking: str
    refusal: str | None
    passed: bool

    @staticmethod
    def of(result: Result) -> Told:
        """What a test's decision was, and whether the test passed."""
        decision: Decision = result.decision
        targets = tuple(target.name for target in decision.candidates)
        refusal = decision.refusal[0] if decision.refusal else None
        return Told(decision.rule, targets, str(decision.thinking), refusal, result.passed)

    def decides_like(self, other: Told) -> bool:
        """Whether the same was decided, however the test went."""
        return (self.rule, self.targets, self.thinking, self.refusal) == (
            other.rule, other.targets, other.thinking, other.refusal,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class TestChange:
    """A test under both policies: before the change and after it. Of a changed test, its new form."""

    __test__ = False  # not a test class, whatever pytest thinks of its name

    name: str
    state: TestState
    before: Told
    after: Told


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """Everything that a change does to one policy. Paths are relative to the repository; None: there is none."""

    name: str
    state: State
    path_before: str | None
    path_after: str | None
    name_before: str | None = None
    written: tuple[DocChange, ...] = ()
    tests: tuple[TestChange, ...] = ()
    tests_total: int = 0
    tests_before: int = 0
    appeared: Mapping[str, tuple[Finding, ...]] = field(default_factory=dict)  # by the name of the fleet
    vanished: Mapping[str, tuple[Finding, ...]] = field(default_factory=dict)
    traffic: Traffic | None = None
    unreadable_before: tuple[Problem, ...] = ()  # why the old version could not be compared

    @property
    def decided_otherwise(self) -> tuple[TestChange, ...]:
        """Tests whose decision or result differs."""
        return tuple(
            one for one in self.tests
            if not one.before.decides_like(one.after) or one.before.passed != one.after.passed
        )  # fmt: skip

    @property
    def failing(self) -> tuple[TestChange, ...]:
        """Tests of the new version that fail under it."""
        return tuple(one for one in self.tests if one.state != "removed" and not one.after.passed)


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a policy's file. `path` is relative to the repository."""

    path: str
    file: PolicyFile  # as it is written: what its own tests have to pass on
    served: PolicyFile  # under what an installation lays over it: what decides


def pair(before: Sequence[Version], after: Sequence[Version]) -> Iterator[tuple[Version | None, Version | None]]:
    """Versions of the same policy: by the policy's name, else by the file. What is left was added or removed."""
    left = {one.file.doc.policy: one for one in before}
    matched: dict[str, Version | None] = {}
    for one in after:
        matched[one.path] = left.pop(one.file.doc.policy, None)
    for one in after:
        if matched[one.path] is None:
            same = next((name for name, old in left.items() if old.path == one.path), None)
            matched[one.path] = left.pop(same) if same is not None else None
    yield from ((matched[one.path], one) for one in after)
    yield from ((old, None) for old in left.values())


def compare(
    before: Version | None, after: Version | None, reference: Fleet, fleets: Mapping[str, Fleet], now: float
) -> PolicyChange | None:
    """What became of one policy; None where its version is the same to the byte and so is what it does.

    `fleets` are those that findings are looked for on. Raises `ConfigError` for a new version that is broken.
    """
    if after is None:
        if before is None:
            return None
        return PolicyChange(
            before.file.doc.policy, "removed", before.path, None, tests_before=len(before.file.doc.tests)
        )
    name = after.file.doc.policy
    new = _ready(after, reference)
    if before is None:
        tests = tuple(
            TestChange(case.test.name, "added", told, told) for laid, case in new.cases if (told := new.run(laid, case))
        )
        return PolicyChange(name, "added", None, after.path, tests=tests, tests_total=len(tests))
    try:
        old = _ready(before, reference)
    except ConfigError as error:
        why = tuple(replace(problem, file=before.path) for problem in error.problems)
        total = len(new.cases)
        return PolicyChange(name, "changed", before.path, after.path, tests_total=total, unreadable_before=why)
    tests = tuple(_tests(old, new))
    state: State = "changed"
    if before.file.doc.policy != name or before.path != after.path:
        state = "renamed"
    appeared, vanished = _findings(before.served, after.served, fleets, now)
    made = PolicyChange(
        name, state, before.path, after.path, before.file.doc.policy,
        tuple(changes(before.served.doc, after.served.doc)), tests, len(new.cases), len(old.cases), appeared, vanished,
    )  # fmt: skip
    quiet = not (made.written or made.decided_otherwise or appeared or vanished)
    return None if quiet and state == "changed" and all(one.state == "kept" for one in tests) else made


@dataclass(frozen=True, slots=True)
class _Ready:
    """A version on the reference fleet. Each case with whether it is a test of what lies over the policy."""

    alone: Policy
    served: Policy
    cases: tuple[tuple[bool, Case], ...]

    def run(self, laid: bool, case: Case) -> Told:
        """What serving decides; a policy's own test has to pass without what lies over it, as at loading."""
        told = Told.of(run(self.served, case, traced=False))
        return (
            told
            if laid or self.alone is self.served
            else replace(told, passed=run(self.alone, case, traced=False).passed)
        )


def _ready(version: Version, fleet: Fleet) -> _Ready:
    alone, own = ready(version.file, fleet)
    served, laid = (alone, ()) if version.served is version.file else ready(version.served, fleet)
    return _Ready(alone, served, (*((False, case) for case in own), *((True, case) for case in laid)))


def _tests(old: _Ready, new: _Ready) -> Iterator[TestChange]:
    before = {(laid, case.test.name): case for laid, case in old.cases}
    for laid, case in new.cases:
        was = before.pop((laid, case.test.name), None)
        state: TestState = "added" if was is None else "kept" if was.test == case.test else "changed"
        first = case if was is None or state == "kept" else was
        yield TestChange(case.test.name, state, old.run(laid, first), new.run(laid, case))
    for (laid, _), case in before.items():
        yield TestChange(case.test.name, "removed", old.run(laid, case), new.run(laid, case))


def _findings(
    before: PolicyFile, after: PolicyFile, fleets: Mapping[str, Fleet], now: float
) -> tuple[dict[str, tuple[Finding, ...]], dict[str, tuple[Finding, ...]]]:
    appeared: dict[str, tuple[Finding, ...]] = {}
    vanished: dict[str, tuple[Finding, ...]] = {}
    for name, fleet in fleets.items():
        old, new = (_found(file, fleet, now) for file in (before, after))
        fresh = tuple(finding for key, finding in new.items() if key not in old)
        gone = tuple(finding for key, finding in old.items() if key not in new)
        appeared |= {name: fresh} if fresh else {}
        vanished |= {name: gone} if gone else {}
    return appeared, vanished


def _found(file: PolicyFile, fleet: Fleet, now: float) -> dict[tuple[str, str, str], Finding]:
    """What is found of a policy, each finding once. A policy that this fleet cannot bear has none."""
    try:
        found = analyse(file.bind(fleet), now=now)
    except ConfigError:
        return {}
    return {_same(one): one for one in found if one.severity != "holds" or one.id}


def _same(one: Finding) -> tuple[str, str, str]:
    """By what two findings are the same. Of what holds only that it does: its words list ids, which are told anyway."""
    return (one.severity, one.code, "") if one.severity == "holds" else (one.severity, one.id, one.message)
