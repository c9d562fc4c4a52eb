"""What is said of a policy before any request is true: random requests look for one that proves it wrong.

Policies here ask about few signals, so that one rule often takes what another would; and requests are judged by the
plain reading in `oracle`, never by the search that made the claim.
"""

from __future__ import annotations

import re
from typing import Any

from hypothesis import given
from oracle import Request, World, applies
from worlds import NOON, SIGNALS, Case, Dice, compiled, condition, constraint, drawn, fleet, more, request, selector

from gateway.core.analyse import analyse
from gateway.core.analyse.space import Effort
from gateway.core.decide import decide
from gateway.core.reading.signals import Signals
from gateway.core.types import Snapshot

#: Requests that are tried on every policy.
TRIED = 25


class Judged:
    """A policy, what was found of it, and requests to hold that against."""

    def __init__(self, dice: Dice) -> None:
        self.fleet = fleet(dice)
        names = dice.several([*SIGNALS, "context_tokens", "effort", "language", "modality"], 3)

        def entry(prefix: str, number: int, **parts: Any) -> dict[str, Any]:
            made = {"id": f"{prefix}{number}", **parts}
            return {**made, "when": condition(dice, names, 2)} if dice.chance(9) else made

        modes = ["never", "always", {"budget": "4k"}]
        self.raw: dict[str, Any] = {
            "policy": "test",
            "rank": "listed",
            "sets": {"some": dice.several(sorted(self.fleet.models), 3)},
            "rules": [
                entry("r", number, use=[selector(dice, self.fleet, star=3) for _ in range(1 + dice.below(3))])
                for number in range(2 + dice.below(5))
            ],
            "constraints": [constraint(dice, self.fleet, number) for number in range(dice.below(3))],
            "thinking": [
                entry("t", number, set=dice.one(modes), force=dice.chance(3)) for number in range(dice.below(4))
            ],
        }
        self.policy = compiled(self.raw, self.fleet)
        self.requests = [self._request(dice) for _ in range(TRIED)]

    @staticmethod
    def _request(dice: Dice) -> dict[str, Any]:
        """What a client might send: the output that is asked for is a part of the length."""
        sent = request(dice, whole=True)
        output = sent.get("max_output_tokens")
        if output and "context_tokens" in sent:
            sent["context_tokens"] += output
        return sent

    def __repr__(self) -> str:
        snapshot = Snapshot(now=NOON, draw=0.5, available=self.fleet.mask())
        return repr(Case(self.fleet, self.raw, self.requests[0], snapshot, None))


def _first(entries: list[dict[str, Any]], asked: Request) -> str | None:
    return next((entry["id"] for entry in entries if applies(entry.get("when"), asked)), None)


@more()
@given(drawn(Judged))
def test_no_request_proves_a_finding_wrong(judged: Judged) -> None:
    policy, raw = judged.policy, judged.raw
    found = analyse(policy, now=NOON, effort=Effort(2_000, 20_000))
    snapshot = Snapshot(now=NOON, draw=0.5, available=judged.fleet.mask())
    world = World(raw, judged.fleet)
    by_code: dict[str, set[str]] = {}
    for one in found:
        by_code.setdefault(one.code, set()).add(one.path if one.code.startswith("rung-") else one.id)
    rungs = {(rule["id"], number): f"rules[{i}].use[{number}]" for i, rule in enumerate(raw["rules"])
             for number in range(len(rule["use"]))}  # fmt: skip
    unused = {name for one in found if one.code == "target-unused" for name in re.findall(r"t\d+", one.message)}
    for sent in judged.requests:
        asked = Request(sent)
        rule = _first(raw["rules"], asked)
        assert rule not in by_code.get("rule-unreachable", ())
        assert rule is not None or "covered" not in by_code
        thinking = _first(raw["thinking"], asked)
        assert thinking not in by_code.get("thinking-unreachable", ())
        for entry in raw["constraints"]:
            assert entry["id"] not in by_code.get("constraint-unreachable", ()) or not applies(entry["when"], asked)
        decision = decide(policy, Signals.given(sent), snapshot)
        assert decision.thinking.rule not in by_code.get("thinking-overruled", ()) or decision.thinking.rule is None
        assert not (decision.candidates and rule in by_code.get("rule-empty", ()))
        for one in decision.candidates:
            assert one.name not in unused
            uses = next(entry["use"] for entry in raw["rules"] if entry["id"] == rule)
            held = world.rungs(one, asked, uses)
            assert rungs[str(rule), held[0]] not in by_code.get("rung-idle", ())
            for number in held:
                at = rungs[str(rule), number]
                assert at not in by_code.get("rung-cannot-serve", set()) | by_code.get("rung-closed", set())


@more()
@given(drawn(Judged))
def test_every_example_shows_what_it_is_shown_for(judged: Judged) -> None:
    snapshot = Snapshot(now=NOON, draw=0.5, available=judged.fleet.mask())
    for one in analyse(judged.policy, now=NOON, effort=Effort(2_000, 20_000)):
        if one.witness is None:
            continue
        signals = Signals.given(one.witness)
        decision = decide(judged.policy, signals, snapshot)
        asked = Request({"context_tokens": 0, **_as_sent(one.witness)})
        rule = _first(judged.raw["rules"], asked)
        assert decision.rule == rule
        if one.code == "gap":
            assert rule is None
        if one.code == "rule-shadowed":
            taken = next(entry for entry in judged.raw["rules"] if entry["id"] == one.id)
            assert rule != one.id
            assert applies(taken["when"], asked)
        if one.code in ("rule-lacks", "constraint-strands", "thinking-refused"):
            assert decision.refusal is not None
            assert not World(judged.raw, judged.fleet).candidates(asked, snapshot, None)[0]


def _as_sent(witness: Any) -> dict[str, Any]:
    """An example as the oracle reads requests."""
    sent = {name: frozenset(value) if isinstance(value, list) else value for name, value in witness.items()}
    if isinstance(sent.get("language"), dict):
        sent["language"] = sent["language"]["shares"]
    return sent
