"""Promises not to think: counted by target, doubted after some breaches, believed again when restored or changed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.core.decide import decide
from gateway.core.decisions.trace import trace
from gateway.core.resilience.promises import Promises
from gateway.core.types import Fleet, Snapshot
from tests.core.fleets import FLEET, NOON, given, mask, policy

QWEN = next(target for target in FLEET.targets if target.name == "qwen35")
NEVER = policy(rules=[{"id": "qwen", "use": [{"family": "qwen"}]}], thinking=[{"id": "else", "set": "never"}])
ALWAYS = policy(
    rules=[{"id": "qwen", "use": [{"target.name": "qwen35"}]}],
    thinking=[{"id": "else", "set": "always", "force": True}],
)


def with_target(**changes: object) -> Fleet:
    changed = replace(QWEN, **changes)  # type: ignore[arg-type]
    return Fleet(tuple(changed if one.name == QWEN.name else one for one in FLEET.targets), FLEET.models)


def broken(times: int, limit: int = 3) -> tuple[Promises, list[bool]]:
    promises = Promises()
    return promises, [promises.broken(QWEN, limit) for _ in range(times)]


def test_a_target_is_doubted_from_the_nth_breach_on_and_that_is_said_once() -> None:
    promises, told = broken(5)
    assert told == [False, False, True, False, False]
    assert promises.mask(FLEET.targets) == mask(FLEET, "qwen35")
    assert promises.count("qwen35") == 5


def test_a_limit_of_nought_counts_and_doubts_nobody() -> None:
    promises, told = broken(50, limit=0)
    assert not any(told)
    assert promises.adopt(FLEET, 0) == 0
    assert promises.count("qwen35") == 50


def test_restoring_a_target_forgets_its_breaches() -> None:
    promises, _ = broken(3)
    assert promises.restore("qwen35")
    assert not promises.restore("qwen35")
    assert promises.mask(FLEET.targets) == 0
    assert not promises.broken(QWEN, 3)


@pytest.mark.parametrize(
    "changes", [{"upstream_id": "another"}, {"thinking": "never"}, {"model": FLEET.targets[0].model}]
)
def test_doubt_lasts_over_a_reload_until_the_promise_is_another(changes: dict[str, object]) -> None:
    promises, _ = broken(3)
    assert promises.adopt(with_target(weight=7, price=None, window=1000), 3) == mask(FLEET, "qwen35")
    assert promises.adopt(with_target(**changes), 3) == 0
    assert promises.count("qwen35") == 0


def test_a_reload_that_raises_the_limit_believes_again() -> None:
    promises, _ = broken(3)
    assert promises.adopt(FLEET, 4) == 0
    assert promises.broken(QWEN, 4)


def test_a_doubted_target_is_no_candidate_where_thinking_must_be_off() -> None:
    snapshot = Snapshot(NOON, 0.5, FLEET.mask())
    doubting = replace(snapshot, doubted=mask(FLEET, "qwen35"))
    before = decide(NEVER, given(), snapshot)
    after = decide(NEVER, given(), doubting)
    assert "qwen35" in [target.name for target in before.candidates]
    assert [one.name for one in after.candidates] == [one.name for one in before.candidates if one.name != "qwen35"]
    told = {one.target: one for one in trace(NEVER, given(), doubting).targets}
    assert told["qwen35"].reasons == ("cannot promise thinking: never",)


def test_a_doubted_target_still_promises_to_think() -> None:
    doubting = Snapshot(NOON, 0.5, FLEET.mask(), doubted=mask(FLEET, "qwen35"))
    assert [one.name for one in decide(ALWAYS, given(), doubting).candidates] == ["qwen35"]
