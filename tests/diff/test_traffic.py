"""What two versions of a policy do to recorded requests: moves, refusals and costs, each record once."""

from __future__ import annotations

from typing import Any

from fleets import policy

from gateway.core.reading.signals import NAMES
from gateway.core.recorded.records import Decided, Recorded, Result, World
from gateway.core.types import Usage
from gateway.diff.compare import PolicyChange
from gateway.diff.markdown import comment
from gateway.diff.traffic import Versions

USED = Usage(input=1_000_000, output=1_000_000)
BEFORE = policy(
    rules=[
        {"id": "code", "when": {"task": "code"}, "use": [{"model": "qwen3-coder-next"}]},
        {"id": "rest", "use": [{"model": "llama-4-maverick"}, {"family": "qwen"}]},
    ]
)


def record(task: str | None, target: str, **more: Any) -> Recorded:
    signals: dict[str, Any] = dict.fromkeys(NAMES) | {"modality": ("text",), "parameters": ()}
    signals |= {"tools": False, "stream": False, "images": 0, "cost_sensitive": False, "task": task, **more}
    model = {"coder": "qwen3-coder-next", "maverick": "llama-4-maverick"}[target]
    result = Result(status=200, target=target, model=model, usage=USED, cost_nano=1)
    decided = Decided("any", (target,), "client")
    return Recorded(
        1, "id", 1_795_262_400.0, "test@0", "f", "k", "auto", World(), decided, result,
        signals=signals, tokens={"": (10, 10, True)}, text_bytes=40,
    )  # fmt: skip


def versions(*records: Recorded, **after: Any) -> Versions:
    both = Versions(BEFORE, policy(**after))
    for one in records:
        both.add(one)
    return both


def test_moves_are_counted_with_rule_and_target_on_both_sides() -> None:
    records = [record("code", "coder"), record("code", "coder"), record("math", "maverick")]
    found = versions(*records, rules=[{"id": "all", "use": [{"model": "llama-4-maverick"}, {"family": "qwen"}]}]).found
    assert found.records == 3
    assert found.moves == {("code", "coder", "all", "maverick"): 2, ("rest", "maverick", "all", "maverick"): 1}
    # 0.2 and 1.0 USD per million tokens against 0.3 and 0.8; the third is the same target at the same price
    assert (found.before_nano, found.after_nano) == (2 * 1_200_000_000 + 1_100_000_000, 3 * 1_100_000_000)
    assert found.after_low_nano < found.after_nano < found.after_high_nano


def test_new_refusals_and_other_fallbacks_are_told_apart() -> None:
    rules = [
        {"id": "code", "when": {"task": "code"}, "use": [{"target.region": "mars"}]},
        {"id": "rest", "use": [{"model": "llama-4-maverick"}]},
    ]
    found = versions(record("code", "coder"), record(None, "maverick"), rules=rules).found
    assert found.newly_refused == {"policy_denied": 1}
    assert found.moves == {("code", "coder", "code", "(policy_denied)"): 1}
    assert (found.same, found.otherwise) == (0, 1)


def test_what_a_record_lacks_is_not_guessed() -> None:
    rules = [{"id": "beta", "when": {"headers.x-beta": "yes"}, "use": ["*"]}, {"id": "rest", "use": ["*"]}]
    found = versions(record("code", "coder"), rules=rules).found
    assert (found.records, found.undecided, found.moves) == (1, 1, {})


def test_it_reads_as_a_part_of_a_comment_and_as_json() -> None:
    records = [record("code", "coder"), record("math", "maverick")]
    found = versions(*records, rules=[{"id": "rest", "use": [{"model": "llama-4-maverick"}, {"family": "qwen"}]}]).found
    change = PolicyChange("test", "changed", "p.yaml", "p.yaml", traffic=found)
    made = comment([change], "main", 0)
    assert "**Recorded traffic: 1 of 2 requests would go elsewhere**" in made
    assert "| 1 | `code`: `coder` | `rest`: `maverick` |" in made
    assert "- cost of those that move: $1.2000 before, -$0.1000 after (" in made
    (move,) = found.to_dict()["moves"]
    assert move == {
        "rule_before": "code", "before": "coder", "rule_after": "rest", "after": "maverick", "requests": 1,
    }  # fmt: skip
