"""Running the tests that a policy carries: given signals or a request, expect a decision.

They run on the bundled reference fleet, so they hold everywhere; whoever calls compiles the policy on that fleet. What
`given` may say is checked here like every other literal of the file, what `expect` may say in `expectations`. Printing
results belongs to the command line.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.core.clauses.matchers import Problems, Spelling, scalar, suggest
from gateway.core.clauses.shadow import draw_for
from gateway.core.decide import decide
from gateway.core.decisions.trace import Trace, trace
from gateway.core.facts import parse_size, signal_named
from gateway.core.policy import Policy, TestDoc, clock
from gateway.core.proving.expectations import Mismatch, check, listed, unmet
from gateway.core.proving.testrequest import Reader, named, read_request
from gateway.core.proving.world import OUTSIDE, read_outside
from gateway.core.reading.signals import Signals
from gateway.core.targets.filters import MOST_USD
from gateway.core.types import Decision, Snapshot

#: Of so many failed tests it is worked out why they failed; that takes longer than deciding.
MOST_TRACED = 100
WORLD = ("pinned", "unavailable", "draw", "drawn", *OUTSIDE, "thinking_hint")


@dataclass(frozen=True, slots=True)
class Result:
    """How one test went: what was decided, what of it did not hold, and then also why it was decided so."""

    name: str
    path: str  # tests[3], for the line in the file
    decision: Decision
    mismatches: tuple[Mismatch, ...] = ()
    trace: Trace | None = None  # of a test that failed, one of the first

    @property
    def passed(self) -> bool:
        """Whether every expectation held."""
        return not self.mismatches

    @property
    def failures(self) -> tuple[str, ...]:
        """What did not hold, a line each, and at the end why it was decided so; empty when the test passed."""
        if self.passed:
            return ()
        refusal = self.decision.refusal
        if refusal is not None and self.mismatches[0].expectation == "refused":
            detail = refusal[1] if self.trace is None else self.trace.refusal_detail(400)
            return (f"refused with {refusal[0]}: {detail}",)
        return (*map(str, self.mismatches), f"[{self.decision.because}]")

    def __str__(self) -> str:
        return f"ok      {self.name}" if self.passed else f"FAILED  {self.name}: " + "; ".join(self.failures)


@dataclass(frozen=True, slots=True)
class Case:
    """A test that is ready to run, on any policy that is compiled for the same fleet."""

    test: TestDoc
    path: str
    signals: Signals
    pinned: int | None
    available: int
    draw: float
    outside: Mapping[str, Any] = field(default_factory=dict)  # other fields of the snapshot
    drawn: frozenset[str] | None = None  # the shadows whose share the request is of; None: by `draw`
    promise: bool = False  # of what never happens: where another constraint refuses the request, nothing does

    def snapshot(self, policy: Policy) -> Snapshot:
        """The world as this test wants it, at the policy's own `as_of`."""
        found = None if self.drawn is None else draw_for(policy.shadows, self.drawn, self.draw)
        draw = self.draw if found is None else found
        return Snapshot(now=clock(policy), draw=draw, available=self.available, **self.outside)


def run_tests(
    policy: Policy, reader: Reader | None = None, promises: Collection[str] = frozenset()
) -> tuple[Result, ...]:
    """Run every test of a policy on the fleet it is compiled for, at its own `as_of`.

    `reader` is needed where a test has a request. Raises `ConfigError` with every literal of a test that means
    nothing: an unknown signal, rule, model or code, a request that serving would not read.
    """
    return run_all(policy, prepare(policy, reader, promises))


def prepare(policy: Policy, reader: Reader | None = None, promises: Collection[str] = frozenset()) -> tuple[Case, ...]:
    """Read a policy's tests; `promises` are the paths of those that hold of a request that is refused as well.

    Raises `ConfigError` with every literal that means nothing.
    """
    problems = Problems()
    if policy.doc.tests and policy.doc.as_of is None:
        problems.add("tests", "need a clock to run on", "as_of: a date such as 2026-11-21")
    cases = []
    for i, test in enumerate(policy.doc.tests):
        case = _case(policy, test, f"tests[{i}]", reader, problems)
        if case is not None:
            cases.append(replace(case, promise=case.path in promises))
        check(policy, test, f"tests[{i}]", problems)
    problems.raise_any()
    return tuple(cases)


def run_all(policy: Policy, cases: Sequence[Case]) -> tuple[Result, ...]:
    """Run every case; the first hundred that fail are traced."""
    failed = 0
    results = []
    for case in cases:
        result = run(policy, case, traced=failed < MOST_TRACED)
        failed += not result.passed
        results.append(result)
    return tuple(results)


def run(policy: Policy, case: Case, *, traced: bool = True) -> Result:
    """Decide what a case asks, and compare. `traced`: if it fails, also work out why."""
    snapshot = case.snapshot(policy)
    decision = decide(policy, case.signals, snapshot, pinned=case.pinned)
    kept = case.promise and decision.refusal is not None
    mismatches = () if kept else tuple(unmet(case.test.expect, decision))
    told = trace(policy, case.signals, snapshot, pinned=case.pinned) if mismatches and traced else None
    return Result(case.test.name, case.path, decision, mismatches, told)


def noticed_by(policy: Policy, cases: Sequence[Case], removed_rule: str | None = None) -> Case | None:
    """The first case that a changed policy fails. Expecting `removed_rule` by its name is not what makes it fail."""
    for case in cases:
        expect = case.test.expect
        if removed_rule is not None and expect.get("rule") == removed_rule:
            expect = {name: raw for name, raw in expect.items() if name != "rule"}
        decision = decide(policy, case.signals, case.snapshot(policy), pinned=case.pinned)
        if not (case.promise and decision.refusal is not None) and unmet(expect, decision):
            return case
    return None


def read_given(given: Mapping[str, Any], path: str, problems: Problems, tasks: tuple[str, ...] = ()) -> dict[str, Any]:
    """Signals as people write them (`300k`, lists) in the types that `Signals.given` takes."""
    values: dict[str, Any] = {}
    for name, raw in given.items():
        at = f"{path}.{name}"
        signal = signal_named(name)
        if signal is None:
            known = ("context_tokens", "language", "task", "difficulty", *WORLD)
            problems.add(at, f"there is no signal {name!r}", suggest(name, known))
        elif signal.kind == "set":
            spelling = Spelling(name, "text", signal.choices)
            items = raw if isinstance(raw, list) else [raw]
            values[name] = frozenset(scalar(item, spelling, at, problems) for item in items)
        elif signal.kind == "language":
            for code in raw.get("shares", ()) if isinstance(raw, dict) else ():
                scalar(code, Spelling(name, "language"), f"{at}.shares.{code}", problems)
            values[name] = raw if isinstance(raw, dict) else scalar(raw, Spelling(name, "language"), at, problems)
        else:
            choices = tasks if name == "task" else signal.choices
            value = values[name] = scalar(raw, Spelling(name, signal.kind, choices), at, problems)
            if name == "max_cost_usd" and isinstance(value, int | float) and value >= MOST_USD:
                problems.add(at, f"{raw!r:.40} is more than a request can cost", "an amount of US dollars such as 0.40")
    return values


def _case(policy: Policy, test: TestDoc, path: str, reader: Reader | None, problems: Problems) -> Case | None:
    """One test, ready; None after a noted problem."""
    before = len(problems.found)
    given = dict(test.given)
    at = f"{path}.given"
    world = {name: given.pop(name) for name in WORLD if name in given}
    available = policy.fleet.mask()
    for name in listed(world.get("unavailable", [])):
        held = named(policy, name)
        if not held:
            problems.add(f"{at}.unavailable", f"no target {name!r} in the fleet of the tests", _targets(policy, name))
        available &= ~held
    draw = world.get("draw", 0.5)
    if isinstance(draw, bool) or not isinstance(draw, int | float) or not 0 <= draw < 1:
        problems.add(f"{at}.draw", f"{draw!r} is no draw", "a number from 0 up to, not including, 1")
        draw = 0.5
    drawn = _drawn(policy, world, draw, at, problems)
    outside = read_outside(policy, world, clock(policy), at, problems)
    if test.request is not None:
        for name in (*given, *(word for word in ("pinned", "thinking_hint") if word in world)):
            valid = "unavailable, draw, drawn, previous and slow; headers and tenant stand beside the request"
            problems.add(f"{at}.{name}", "the request says this itself", valid)
        asked = read_request(policy, test, path, reader, problems)
        if asked is None or len(problems.found) > before:
            return None
        return Case(test, path, asked.signals, asked.pinned, available, draw, outside, drawn)
    pinned = _pinned(policy, world, at, problems)
    signals = _signals(policy, given, world, at, problems)
    return None if signals is None else Case(test, path, signals, pinned, available, draw, outside, drawn)


def _drawn(
    policy: Policy, world: Mapping[str, Any], near: float, path: str, problems: Problems
) -> frozenset[str] | None:
    """The shadows that a test says its request is copied for, as far as the draw decides that."""
    if "drawn" not in world:
        return None
    before = len(problems.found)
    wanted = listed(world["drawn"])
    known = [shadow.id for shadow in policy.shadows]
    for name in wanted:
        if name not in known:
            problems.add(f"{path}.drawn", f"there is no shadow {name!r:.80}", suggest(str(name), known))
    if len(problems.found) > before:
        return None
    if draw_for(policy.shadows, frozenset(wanted), near) is None:
        what = "no draw was found that falls to these shadows and to no others"
        problems.add(f"{path}.drawn", what, "fewer of them, larger shares, or a number under draw")
    return frozenset(wanted)


def _pinned(policy: Policy, world: Mapping[str, Any], path: str, problems: Problems) -> int | None:
    if "pinned" not in world:
        return None
    pinned = named(policy, world["pinned"])
    if not pinned:
        what = f"no model or target {world['pinned']!r} in the fleet of the tests"
        problems.add(f"{path}.pinned", what, _targets(policy, str(world["pinned"])))
    return pinned


def _signals(
    policy: Policy, given: Mapping[str, Any], world: Mapping[str, Any], path: str, problems: Problems
) -> Signals | None:
    before = len(problems.found)
    values = read_given(given, path, problems, policy.tasks)
    hint = world.get("thinking_hint")
    if hint is not None:
        values["thinking_hint"] = hint if hint in ("never", "always") else parse_size(hint)
        if values["thinking_hint"] is None:
            problems.add(f"{path}.thinking_hint", f"{hint!r} is no wish", "never, always or a budget such as 4k")
    return None if len(problems.found) > before else Signals.given(values)


def _targets(policy: Policy, name: str) -> str:
    return suggest(name, [target.name for target in policy.fleet.targets])
