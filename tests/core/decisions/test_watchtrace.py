"""What explanations say of conversations, latency targets and shadows."""

from __future__ import annotations

from typing import Any

from gateway.core.decisions.trace import Trace, trace
from gateway.core.decisions.tracetext import render
from gateway.core.types import Previous
from tests.core.fleets import NOON, given, policy, snapshot

SHADOWS = [
    {"id": "code", "when": {"task": "code"}, "use": ["*"], "share": "100%"},
    {"id": "never-drawn", "use": ["*"], "share": "0.001%"},
    {"id": "nobody", "use": [{"target.region": "mars"}], "share": "100%"},
    {"id": "copy", "because": "would it do?", "use": [{"model": "qwen3.5-plus"}], "share": "100%"},
    {"id": "later", "use": ["*"], "share": "12.5%"},
]


def told(world: dict[str, Any] | None = None, **parts: Any) -> Trace:
    return trace(policy(**parts), given(), snapshot(**(world or {})))


def test_every_shadow_says_why_it_has_the_copy_or_not() -> None:
    made = told(shadow=SHADOWS)
    assert {entry.id: (entry.why, entry.effect, entry.targets, entry.chosen) for entry in made.shadows} == {
        "code": ("task: code (task is not known)", "100%", (), False),
        "never-drawn": ("always; not of the requests that are drawn", "0.001%", (), False),
        "nobody": ("always; drawn, but no target is left for it", "100%", (), False),
        "copy": ("always; drawn", "100%", ("plus",), True),
        "later": ("not asked: an earlier entry has the copy", "12.5%", (), False),
    }
    assert made.to_dict()["shadow"] == {"id": "copy", "target": "plus"}
    text = render(made)
    assert "  shadow    plus (copy)\n" in text
    assert "> copy        100%  always; drawn: plus\n" in text
    assert "because would it do?" in text


def test_a_slow_target_says_what_puts_it_back() -> None:
    latency = [
        {"id": "chat", "when": {"workload": "chat"}, "first_event": {"p90": "1s"}},
        {"id": "all", "first_event": {"p90": "9s"}},
    ]
    made = told({"slow": {"chat": ("scout",), "all": ("maverick", "gone-since")}}, latency=latency)
    assert [(entry.id, entry.matched, entry.targets) for entry in made.latency] == [
        ("chat", False, ()),
        ("all", True, ("maverick",)),
    ]
    [maverick] = [entry for entry in made.targets if entry.target == "maverick"]
    assert (maverick.verdict, maverick.reasons) == ("slow", ("all puts it back",))
    assert "+ all  behind  always: maverick\n" in render(made)


def test_a_sticky_policy_says_what_it_knows_of_the_conversation() -> None:
    sticky = {"for": "30m"}

    def line(previous: Previous | None) -> str:
        return told({"previous": previous}, sticky=sticky).conversation

    assert line(None) == "not known to have been answered before"
    assert line(Previous("plus", 5_000, NOON - 60)) == "answered by plus 60 s ago, some 4,096 tokens cached"
    assert line(Previous("plus", 5_000, NOON - 700)) == "answered by plus 700 s ago, nothing thought to be cached"
    assert line(Previous("plus", 5_000, NOON - 2_000)) == "answered by plus 2,000 s ago, which is too long"
    assert told({"previous": Previous("plus", 1, NOON)}).conversation == ""
    assert "  conversation  not known" in render(told(sticky=sticky))
