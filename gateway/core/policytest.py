"""Running the tests that a policy carries: given signals, expect a decision.

They run on the bundled reference fleet, so they hold everywhere; whoever calls compiles the policy on that fleet. What
a test may say is checked here like every other literal of the file. Printing results belongs to the command line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.core.errors import CODES
from gateway.core.facts import parse_size, signal_named
from gateway.core.matchers import Problems, Spelling, scalar, suggest
from gateway.core.policy import Policy, TestDoc, clock
from gateway.core.signals import Signals
from gateway.core.trace import trace
from gateway.core.types import Decision, Snapshot, Target

_SUBJECTS = ("model", "family", "target")
_WORLD = ("pinned", "unavailable", "draw", "thinking_hint")
_EXPECTATIONS = (
    "rule",
    *_SUBJECTS,
    *(f"not_{name}" for name in _SUBJECTS),
    *(f"never_{name}" for name in _SUBJECTS),
    "candidates",
    "models",
    "families",
    "thinking",
    "refused",
    "because",
)


@dataclass(frozen=True, slots=True)
class Result:
    """How one test went; `failures` is empty when it passed."""

    name: str
    path: str  # tests[3], for the line in the file
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether every expectation held."""
        return not self.failures

    def __str__(self) -> str:
        return f"ok      {self.name}" if self.passed else f"FAILED  {self.name}: " + "; ".join(self.failures)


@dataclass(frozen=True, slots=True)
class _Case:
    signals: dict[str, Any]
    pinned: int | None
    available: int
    draw: float


def run_tests(policy: Policy) -> tuple[Result, ...]:
    """Run every test of a policy on the fleet it is compiled for, at its own `as_of`.

    Raises `ConfigError` with every literal of a test that means nothing: an unknown signal, rule, model or code.
    """
    problems = Problems()
    if policy.doc.tests and policy.doc.as_of is None:
        problems.add("tests", "need a clock to run on", "as_of: a date such as 2026-11-21")
    cases = []
    for i, test in enumerate(policy.doc.tests):
        path = f"tests[{i}]"
        cases.append((path, test, _case(policy, test, path, problems)))
        _check_expectations(policy, test, path, problems)
    problems.raise_any()
    return tuple(Result(test.name, path, _run(policy, test, case)) for path, test, case in cases)


def read_given(given: Mapping[str, Any], path: str, problems: Problems, tasks: tuple[str, ...] = ()) -> dict[str, Any]:
    """Signals as people write them (`300k`, lists) in the types that `Signals.given` takes."""
    values: dict[str, Any] = {}
    for name, raw in given.items():
        at = f"{path}.{name}"
        signal = signal_named(name)
        if signal is None:
            known = ("context_tokens", "language", "task", "difficulty", *_WORLD)
            problems.add(at, f"there is no signal {name!r}", suggest(name, known))
        elif signal.kind == "set":
            spelling = Spelling(name, "text", signal.choices)
            items = raw if isinstance(raw, list) else [raw]
            values[name] = frozenset(scalar(item, spelling, at, problems) for item in items)
        elif signal.kind == "language":
            values[name] = raw if isinstance(raw, dict) else scalar(raw, Spelling(name, "text"), at, problems)
        else:
            choices = tasks if name == "task" else signal.choices
            values[name] = scalar(raw, Spelling(name, signal.kind, choices), at, problems)
    return values


def _case(policy: Policy, test: TestDoc, path: str, problems: Problems) -> _Case:
    given = dict(test.given)
    at = f"{path}.given"
    world = {name: given.pop(name) for name in _WORLD if name in given}
    signals = read_given(given, at, problems, policy.tasks)
    hint = world.get("thinking_hint")
    if hint is not None:
        signals["thinking_hint"] = hint if hint in ("never", "always") else parse_size(hint)
        if signals["thinking_hint"] is None:
            problems.add(f"{at}.thinking_hint", f"{hint!r} is no wish", "never, always or a budget such as 4k")
    available = policy.fleet.mask()
    for name in _listed(world.get("unavailable", [])):
        held = _mask(policy, name)
        if not held:
            problems.add(f"{at}.unavailable", f"no target {name!r} in the fleet of the tests", _targets(policy, name))
        available &= ~held
    pinned = None
    if "pinned" in world:
        pinned = _mask(policy, world["pinned"])
        if not pinned:
            what = f"no model or target {world['pinned']!r} in the fleet of the tests"
            problems.add(f"{at}.pinned", what, _targets(policy, str(world["pinned"])))
    draw = world.get("draw", 0.5)
    if isinstance(draw, bool) or not isinstance(draw, int | float) or not 0 <= draw < 1:
        problems.add(f"{at}.draw", f"{draw!r} is no draw", "a number from 0 up to, not including, 1")
        draw = 0.5
    return _Case(signals, pinned, available, draw)


def _mask(policy: Policy, name: object) -> int:
    """The targets of that name, or of the model of that name."""
    return sum(1 << t.index for t in policy.fleet.targets if name in (t.name, t.model.id, *t.model.aliases))


def _targets(policy: Policy, name: str) -> str:
    return suggest(name, [target.name for target in policy.fleet.targets])


def _check_expectations(policy: Policy, test: TestDoc, path: str, problems: Problems) -> None:
    known: dict[str, list[str]] = {
        "rule": [*(rule.id for rule in policy.rules), "pin"],
        "model": sorted(policy.fleet.models),
        "family": sorted({model.family for model in policy.fleet.models.values()}),
        "target": [target.name for target in policy.fleet.targets],
        "refused": list(CODES),
    }
    known |= {"candidates": known["target"], "models": known["model"], "families": known["family"]}
    for name, raw in test.expect.items():
        at = f"{path}.expect.{name}"
        if name not in _EXPECTATIONS:
            problems.add(at, f"there is nothing called {name!r} to expect", suggest(name, _EXPECTATIONS))
            continue
        valid = known.get(name.removeprefix("not_").removeprefix("never_"))
        if name == "thinking":
            _thinking(raw, at, problems)
        elif name == "because" and not isinstance(raw, str):
            problems.add(at, f"{raw!r} is not a text")
        elif valid is not None:
            for word in _listed(raw):
                if word not in valid:
                    problems.add(at, f"{word!r} is not known here", suggest(str(word), valid))


def _thinking(raw: object, path: str, problems: Problems) -> str:
    budget = parse_size(raw["budget"]) if isinstance(raw, dict) and set(raw) == {"budget"} else None
    if budget is not None:
        return f"budget:{budget}"
    if raw not in ("never", "always", "client"):
        problems.add(path, f"{raw!r} is no way of thinking", "never, always, client or {budget: 4k}")
    return str(raw)


def _run(policy: Policy, test: TestDoc, case: _Case) -> tuple[str, ...]:
    signals = Signals.given(case.signals)
    snapshot = Snapshot(now=clock(policy), draw=case.draw, available=case.available)
    made = trace(policy, signals, snapshot, pinned=case.pinned)
    decision = made.decision
    if decision.refusal is not None and "refused" not in test.expect:
        return (f"refused with {decision.refusal[0]}: {made.refusal_detail(400)}",)
    failures = [failure for name, raw in test.expect.items() if (failure := _judge(name, raw, decision))]
    if failures:
        failures.append(f"[{decision.because}]")
    return tuple(failures)


def _judge(name: str, raw: Any, decision: Decision) -> str | None:
    """What is wrong with one expectation; None where it holds."""
    if name == "refused":
        code = decision.refusal[0] if decision.refusal else f"{decision.candidates[0].name}, not refused"
        return None if code == raw else f"refused: expected {raw}, got {code}"
    if name == "because":
        return None if raw in decision.because else f"because: expected {raw!r} in {decision.because!r}"
    if name == "rule":
        return None if decision.rule == raw else f"rule: expected {raw}, got {decision.rule}"
    if name == "thinking":
        wanted = _thinking(raw, "", Problems())
        return None if str(decision.thinking) == wanted else f"thinking: expected {wanted}, got {decision.thinking}"
    if name in ("candidates", "models", "families"):
        return _judge_order(name, raw, decision)
    return _judge_subject(name, _listed(raw), decision)


def _judge_order(name: str, raw: Any, decision: Decision) -> str | None:
    subject = {"candidates": "target", "models": "model", "families": "family"}[name]
    got = list(dict.fromkeys(_subject(subject, target) for target in decision.candidates))
    wanted = _listed(raw)
    return None if got[: len(wanted)] == wanted else f"{name}: expected {', '.join(wanted)}, got {', '.join(got)}"


def _judge_subject(name: str, wanted: list[str], decision: Decision) -> str | None:
    subject = name.removeprefix("not_").removeprefix("never_")
    all_got = [_subject(subject, target) for target in decision.candidates]
    first = all_got[0] if all_got else "nothing"
    if name.startswith("never_"):
        found = sorted({word for word in wanted if word in all_got})
        return f"{name}: {', '.join(found)} is among the candidates" if found else None
    if name.startswith("not_"):
        return f"{name}: got {first}" if first in wanted else None
    return None if first in wanted else f"{subject}: expected {' or '.join(wanted)}, got {first}"


def _subject(subject: str, target: Target) -> str:
    return {"target": target.name, "model": target.model.id, "family": target.model.family}[subject]


def _listed(raw: Any) -> list[str]:
    return list(raw) if isinstance(raw, Iterable) and not isinstance(raw, str) else [raw]
