"""What a test of a policy may expect of a decision, whether that means anything, and whether it held.

One expectation is one member of `expect`. People write them, so every word is checked against the policy and its fleet
before anything runs. Running tests stands in `policytest`, showing what came of them in `gateway.testing`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.core.clauses.matchers import Problems, suggest
from gateway.core.errors import CODES
from gateway.core.facts import parse_size
from gateway.core.policy import Policy, TestDoc
from gateway.core.types import Decision, Target

_SUBJECTS = ("model", "family", "target")
_ORDERS = {"candidates": "target", "models": "model", "families": "family"}
#: What a word is that cannot be expected, by what it stands for.
_NO = {
    "rule": "no rule of this policy",
    "model": "no model of the catalogue",
    "family": "no family of the catalogue",
    "target": "no target of the fleet that tests run on, catalog/reference-fleet.yaml",
    "shadow": "no target of the fleet that tests run on, catalog/reference-fleet.yaml",
    "refused": "no code of an error",
}
EXPECTATIONS = (
    "rule",
    *_SUBJECTS,
    *(f"not_{name}" for name in _SUBJECTS),
    *(f"never_{name}" for name in _SUBJECTS),
    *_ORDERS,
    "thinking",
    "shadow",
    "refused",
    "because",
)


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One expectation that did not hold. `wanted` are the targets, models or families it hoped to see, if any."""

    expectation: str
    expected: str
    got: str
    says: str = ""  # where "expected ..., got ..." would read badly
    wanted: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.says or f"{self.expectation}: expected {self.expected}, got {self.got}"


def check(policy: Policy, test: TestDoc, path: str, problems: Problems) -> None:
    """Note every expectation of a test that can mean nothing: an unknown name, rule, model or code."""
    known: dict[str, list[str]] = {
        "rule": [*(rule.id for rule in policy.rules), "pin"],
        "model": sorted(policy.fleet.models),
        "family": sorted({model.family for model in policy.fleet.models.values()}),
        "target": [target.name for target in policy.fleet.targets],
        "refused": list(CODES),
    }
    known["shadow"] = ["none", *known["target"]]
    known |= {order: known[subject] for order, subject in _ORDERS.items()}
    for name, raw in test.expect.items():
        at = f"{path}.expect.{name}"
        if name not in EXPECTATIONS:
            problems.add(at, f"there is nothing called {name!r} to expect", suggest(name, EXPECTATIONS))
            continue
        kind = name.removeprefix("not_").removeprefix("never_")
        valid = known.get(kind)
        if name == "thinking":
            _thinking(raw, at, problems)
        elif name == "because" and not isinstance(raw, str):
            problems.add(at, f"{raw!r} is not a text")
        elif valid is not None:
            for word in listed(raw):
                if word not in valid:
                    problems.add(at, f"{word!r:.80} is {_NO[_ORDERS.get(kind, kind)]}", suggest(str(word), valid))


def unmet(expect: Mapping[str, Any], decision: Decision) -> list[Mismatch]:
    """The expectations that a decision does not meet; a refusal that nobody expected is the only one then."""
    if decision.refusal is not None and "refused" not in expect:
        code, message = decision.refusal
        return [Mismatch("refused", "a candidate", code, f"refused with {code}: {message}", _hoped_for(expect))]
    return [found for name, raw in expect.items() if (found := _judge(name, raw, decision))]


def _hoped_for(expect: Mapping[str, Any]) -> tuple[str, ...]:
    words = [word for name in (*_SUBJECTS, *_ORDERS) if name in expect for word in listed(expect[name])]
    return tuple(dict.fromkeys(words))


def _thinking(raw: object, path: str, problems: Problems) -> str:
    budget = parse_size(raw["budget"]) if isinstance(raw, dict) and set(raw) == {"budget"} else None
    if budget is not None:
        return f"budget:{budget}"
    if raw not in ("never", "always", "client"):
        problems.add(path, f"{raw!r} is no way of thinking", "never, always, client or {budget: 4k}")
    return str(raw)


def _judge(name: str, raw: Any, decision: Decision) -> Mismatch | None:
    if name == "refused":
        code = decision.refusal[0] if decision.refusal else f"{decision.candidates[0].name}, not refused"
        return None if code == raw else Mismatch(name, raw, code)
    if name == "because":
        says = f"because: expected {raw!r} in {decision.because!r}"
        return None if raw in decision.because else Mismatch(name, raw, decision.because, says)
    if name == "rule":
        return None if decision.rule == raw else Mismatch(name, raw, decision.rule or "none")
    if name == "thinking":
        wanted, got = _thinking(raw, "", Problems()), str(decision.thinking)
        return None if got == wanted else Mismatch(name, wanted, got)
    if name == "shadow":
        copied = "none" if decision.shadow is None else decision.shadow.target.name
        return None if copied in listed(raw) else Mismatch(name, " or ".join(listed(raw)), copied)
    if name in _ORDERS:
        return _judge_order(name, tuple(listed(raw)), decision)
    return _judge_subject(name, listed(raw), decision)


def _judge_order(name: str, wanted: tuple[str, ...], decision: Decision) -> Mismatch | None:
    got = tuple(dict.fromkeys(subject(_ORDERS[name], target) for target in decision.candidates))
    if got[: len(wanted)] == wanted:
        return None
    shown = ", ".join(got[: len(wanted)]) or "nothing"
    return Mismatch(name, ", ".join(wanted), shown + (", ..." if len(got) > len(wanted) else ""), wanted=wanted)


def _judge_subject(name: str, wanted: list[str], decision: Decision) -> Mismatch | None:
    kind = name.removeprefix("not_").removeprefix("never_")
    all_got = [subject(kind, target) for target in decision.candidates]
    first = all_got[0] if all_got else "nothing"
    if name.startswith("never_"):
        found = ", ".join(sorted({word for word in wanted if word in all_got}))
        unwanted = f"no candidate of {', '.join(wanted)}"
        return Mismatch(name, unwanted, found, f"{name}: {found} is among the candidates") if found else None
    if name.startswith("not_"):
        unwanted = f"anything but {', '.join(wanted)}"
        return Mismatch(name, unwanted, first, f"{name}: got {first}") if first in wanted else None
    return None if first in wanted else Mismatch(kind, " or ".join(wanted), first, wanted=tuple(wanted))


def subject(kind: str, target: Target) -> str:
    """The name of a target, of its model or of its family."""
    return {"target": target.name, "model": target.model.id, "family": target.model.family}[kind]


def listed(raw: Any) -> list[str]:
    """One word or several, as a list."""
    return list(raw) if isinstance(raw, Iterable) and not isinstance(raw, str) else [raw]
