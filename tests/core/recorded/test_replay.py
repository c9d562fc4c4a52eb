"""Replays: a record decides as its request did, by any policy, or says what it lacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings, target
from hypothesis import strategies as st

from gateway.core.decide import decide
from gateway.core.decisions.memo import Memo, watched
from gateway.core.policy import Policy
from gateway.core.recorded import recording, records
from gateway.core.recorded import replay as replays
from gateway.core.recorded.recording import Lines, Recording, Settled
from gateway.core.recorded.records import Recorded, Unreadable
from gateway.core.recorded.replay import Replay, Undecided, _Ask
from gateway.core.request.hints import Hints
from gateway.core.request.wire import parse
from gateway.core.targets.rank import draw
from gateway.core.text.tokens import Tokenizers
from gateway.core.types import Decision, Previous, Record, Routing, Snapshot
from tests.core.decisions.test_memo import LEXICON, NOW, PYTHON, Asked, Served, alike, policies, words
from tests.core.fleets import FLEET, TARGETS, fleet, mask, policy

ID = "0199a7b1c2d3" + "0" * 12
TOKENIZERS = Tokenizers({"qwen3.5": words})


def world(asked: Asked) -> Snapshot:
    """As served: what is drawn by is the request's id, or its conversation."""
    drawn = draw(
        request_id(asked),
        asked.hints.get("conversation") or asked.members.get("metadata", {}).get("conversation_id"),
        asked.tenant.key,
    )
    return replace(Served.snapshot(asked), draw=drawn)


def request_id(asked: Asked) -> str:
    return f"{ID}{int(asked.draw * 0x1_0000_0000):08x}"


class Serving:
    """What serving does, up to the hand-over of what is to be recorded."""

    def __init__(self) -> None:
        self.memo = Memo()
        self.kept = 0

    def __call__(self, rules: Policy, asked: Asked) -> tuple[Decision, Settled]:
        envelope = parse(asked.body())
        hints = Hints.parse({f"x-pointsman-{name}": value for name, value in asked.hints.items()})
        key = self.memo.key(envelope, rules, asked.pinned, asked.tenant, hints, asked.available, asked.now)
        if key is not None and rules.watches:
            key = (*key, watched(rules, world(asked)))
        signals, snapshot = None, world(asked) if rules.watches else None
        kept = None if key is None else self.memo.get(key, envelope)
        if kept is None:
            signals = Served.signals(asked)
            kept = None if key is None else self.memo.follow(key, envelope, signals)
        if kept is not None:
            self.kept += 1
            decision, values = kept.decision, kept.values if signals is None else kept.told(signals)
        else:
            assert signals is not None
            snapshot = world(asked)
            decision = decide(rules, signals, snapshot, pinned=asked.pinned)
            if key is not None:
                self.memo.put(key, rules, decision, envelope, signals)
            values = signals.computed()
        routing = Routing(asked.tenant.key, "", envelope.model_asked, envelope.stream, decision.policy)
        record = Record(request_id(asked), asked.now, 5.0, routing, ended_at=6.0)
        settled = Settled(record, decision, snapshot, asked.available, 0, asked.pinned, values, signals, envelope,
                          {rules.name: rules}, asked.tenant, hints)  # fmt: skip
        return decision, settled


LINES = Lines(Recording(TOKENIZERS, LEXICON))


def line(settled: Settled, *, reading: bool = True) -> Recorded:
    """A record as it comes back from a file."""
    return records.read(LINES(settled, reading))


def afresh(rules: Policy, asked: Asked) -> Decision:
    return decide(rules, Served.signals(asked), world(asked), pinned=asked.pinned)


@settings(max_examples=100)
@given(policies(), alike(), st.booleans())
def test_a_record_replayed_under_its_own_policy_gives_its_own_decision(
    rules: Policy, requests: list[Asked], reading: bool
) -> None:
    serving, replay = Serving(), Replay(rules)
    for asked in [*requests, *requests]:
        before = serving.kept
        decision, settled = serving(rules, asked)
        recorded = line(settled, reading=reading)
        assert recorded.decided == records.decided(decision)
        assert replay.decide(recorded) == decision
        assert replay.decide(recorded) == decision, "remembered"
        light = replay.decide(line(recording.lightened(settled)))
        assert light == decision or (serving.kept > before and isinstance(light, Undecided)), "without its text"
    target(float(serving.kept))


@settings(max_examples=150)
@given(policies(), policies(), alike(), st.booleans())
def test_a_record_replayed_under_another_policy_gives_what_that_would_have_decided_or_nothing(
    serves: Policy, other: Policy, requests: list[Asked], reading: bool
) -> None:
    serving, replay = Serving(), Replay(other)
    decided = 0
    for one in [*requests, *requests]:
        asked = replace(one, previous=None, slow={})  # what only the policy that served looked for
        _, settled = serving(serves, asked)
        found = replay.decide(line(settled, reading=reading))
        if isinstance(found, Undecided):
            assert found.lacks
        else:
            decided += 1
            assert found == afresh(other, asked)
    target(float(decided))


def recorded(asked: Asked | None = None, rules: Policy | None = None, **more: Any) -> Recorded:
    """A record of a request that anything may serve."""
    return line(Serving()(rules or policy(), asked or Asked())[1], **more)


def by(when: Mapping[str, Any]) -> Policy:
    return policy(
        rules=[
            {"id": "when", "when": when, "use": [{"target.name": "scout"}]},
            {"id": "else", "use": [{"target.name": "maverick"}]},
        ],
        tokens_by="qwen3.5",
    )


def rule(found: Decision | Undecided) -> str | None:
    return found.lacks if isinstance(found, Undecided) else found.rule


@pytest.mark.parametrize(
    ("when", "reading", "says"),
    [
        ({"task": "code"}, True, "when"),
        ({"task": "code"}, False, "signal task"),
        ({"workload": {"known": False}}, False, "when"),
        ({"headers.x-team": "red"}, True, "signal headers.x-team"),
        ({"metadata.team": "red"}, True, "signal metadata.team"),
        ({"tenant.domicile": {"known": False}}, False, "when"),
        ({"context_tokens": {"gt": "100k"}}, False, "else"),
        ({"context_tokens": {"gt": 8}}, False, "the exact length by qwen3.5"),
    ],
)
def test_what_was_not_recorded_leaves_a_record_undecided_and_says_what_it_lacks(
    when: Mapping[str, Any], reading: bool, says: str
) -> None:
    assert rule(Replay(by(when)).decide(recorded(Asked(PYTHON), reading=reading))) == says


def test_a_rank_by_speed_needs_speeds_that_were_recorded() -> None:
    fast = policy(rank="fastest")
    served = recorded(Asked(latency_s={"qwen35": 0.1, "scout": 0.2}), fast)
    [first, *_] = Replay(fast).decide(served).candidates  # type: ignore[union-attr]
    assert first.name == "qwen35"
    kept, plain = Serving(), policy()
    kept(plain, Asked())
    assert Replay(fast).decide(line(kept(plain, Asked())[1])) == Undecided("how fast targets were")


def test_targets_go_by_name_on_another_fleet() -> None:
    rules = policy(rules=[{"id": "all", "use": [{"family": "llama"}]}])
    served = recorded(Asked(available=FLEET.mask() & ~mask(FLEET, "scout")), rules)
    assert served.world.held == ("scout",)
    assert next(one.name for one in Replay(rules).decide(served).candidates) == "scout-small"  # type: ignore[union-attr]
    served.world.held = ("scout", "never-heard-of")
    assert Replay(rules).snapshot(served).available == FLEET.mask() & ~mask(FLEET, "scout")


def test_what_a_decision_may_know_of_a_conversation_comes_back() -> None:
    rules = policy(latency=LATENCY)
    seen = Snapshot(NOW, 0.5, FLEET.mask(), {}, 0, Previous("scout", 900, NOW - 5), {"quick": ("scout",)})
    settled = Serving()(rules, Asked())[1]._replace(snapshot=seen)
    assert Replay(rules).snapshot(line(settled)) == seen


LATENCY: list[Any] = [{"id": "quick", "first_event": {"p90": "2s"}}]


def test_a_policy_that_watches_more_than_the_one_that_served_leaves_what_it_lacks_undecided() -> None:
    llamas: list[Any] = [{"id": "all", "use": [{"family": "llama"}]}]
    plain, sticky = policy(rules=llamas), policy(rules=llamas, sticky={"for": "30m"})
    watchful = policy(rules=llamas, latency=LATENCY)
    alone = recorded(Asked(), plain)
    talking = recorded(Asked(hints={"conversation": "c1"}), plain)
    assert rule(Replay(sticky).decide(alone)) == "all", "no conversation, so nothing to know of one"
    assert rule(Replay(sticky).decide(talking)) == "where its conversation was answered before"
    assert rule(Replay(sticky).decide(recorded(Asked(hints={"conversation": "c1"}), sticky))) == "all"
    assert rule(Replay(watchful).decide(alone)) == "which targets were slower than asked"
    assert rule(Replay(watchful).decide(recorded(Asked(), watchful))) == "all"


def test_times_that_nobody_took_are_not_recorded_as_none_taken() -> None:
    plain, fast = policy(), policy(rank="fastest")
    assert recorded(Asked(), plain).world.latency_s is None
    assert recorded(Asked(), fast).world.latency_s == {}
    assert Replay(fast).decide(recorded(Asked(), plain)) == Undecided("how fast targets were")


@pytest.mark.parametrize("light", [True, False])
def test_the_draw_is_that_of_the_conversation_wherever_it_is_said(light: bool) -> None:
    said = Asked(members={"metadata": {"conversation_id": "c9"}})
    settled = Serving()(policy(), said)[1]._replace(snapshot=None)
    made = line(recording.lightened(settled) if light else settled)
    assert made.world.draw == draw(request_id(said), "c9", said.tenant.key)


def test_a_signal_of_the_wrong_kind_is_no_signal_of_ours() -> None:
    served = recorded()
    served.signals["max_output_tokens"] = "many"
    with pytest.raises(Unreadable, match="has a signal max_output_tokens that is no number"):
        Replay(policy()).decide(served)


def test_decisions_are_remembered_over_records_that_differ_in_nothing_that_was_asked() -> None:
    replay = Replay(by({"stream": True}))
    first = replay.decide(recorded(Asked("Tell me of the sea.")))
    assert replay.decide(recorded(Asked("Tell me of the hills, please.", members={"seed": 3}))) is first
    assert replay.decide(recorded(Asked(members={"stream": True}))) is not first


def held(replay: Replay) -> int:
    """Questions and decisions that a replay remembers."""
    count, left = 0, [replay._roots]
    while left:
        for node in left.pop().values():
            count += 1
            left += [node.branches] if isinstance(node, _Ask) else []
    return count


def test_a_signal_with_a_value_for_every_user_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "MOST_BRANCHES", 5)
    rules = by({"metadata.user": {"prefix": "vip"}})
    replay, served = Replay(rules), recorded()
    for number in range(50):
        for kind in ("user", "vip"):
            served.signals["metadata.user"] = f"{kind}-{number}"
            assert replay.decide(served) == Replay(rules).decide(served)
    once = Replay(rules)
    once.decide(served)
    assert held(replay) <= 5 * held(once)


def test_what_is_remembered_starts_over_when_it_is_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "LIMIT", 40)
    rules = by({"metadata.user": {"prefix": "vip"}})
    replay, served, most = Replay(rules), recorded(), 0
    for number in range(50):
        served.signals["metadata.user"] = f"vip-{number}"
        assert rule(replay.decide(served)) == rule(Replay(rules).decide(served))
        most = max(most, held(replay))
    once = Replay(rules)
    once.decide(served)
    assert most < 40 + held(once)


STICKY = {"for": "30m"}
DIFFERENT: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({}, {"held": ()}, {"held": ("scout",)}),
    ({}, {"held": ("maverick",)}, {"held": ("scout",)}),
    ({"thinking": [{"id": "no", "set": "never"}]}, {"doubted": ()}, {"doubted": ("qwen122",)}),
    ({"latency": LATENCY}, {"slow": {"quick": ()}}, {"slow": {"quick": ("scout",)}}),
    ({"latency": LATENCY}, {"slow": {"quick": ("scout",)}}, {"slow": {"quick": ("scout", "scout-small")}}),
    ({"latency": LATENCY}, {"slow": {"quick": ()}}, {"slow": {}}),
    ({"sticky": STICKY}, {"conversations": True}, {"conversations": False}),
    ({"sticky": STICKY}, {"conversations": True}, {"previous": records.Previous("plus", 9_000, NOW - 60)}),
    (
        {"sticky": STICKY},
        {"previous": records.Previous("oss", 9_000, NOW - 60)},
        {"previous": records.Previous("plus", 9_000, NOW - 60)},
    ),
    ({"rank": "fastest"}, {"latency_s": {"scout": 9.0, "plus": 1.0}}, {"latency_s": {"scout": 1.0, "plus": 9.0}}),
    ({"rank": "weighted"}, {"draw": 0.01}, {"draw": 0.99}),
    ({"shadow": [{"id": "copy", "use": ["*"], "share": "50%"}]}, {"draw": 0.1}, {"draw": 0.3}),
]


@pytest.mark.parametrize(("parts", "one", "other"), DIFFERENT)
def test_what_was_different_outside_is_never_answered_from_the_memory_of_another_record(
    parts: dict[str, Any], one: dict[str, Any], other: dict[str, Any]
) -> None:
    rules = policy(**parts)

    def seen(world: Mapping[str, Any]) -> Recorded:
        made = recorded(Asked(hints={"conversation": "c1"}), rules)
        for name, value in world.items():
            setattr(made.world, name, value)
        return made

    first, second = Replay(rules).decide(seen(one)), Replay(rules).decide(seen(other))
    assert first != second, "or there is nothing to keep apart"
    replay = Replay(rules)
    assert [replay.decide(seen(world)) for world in (one, other, one, other)] == [first, second, first, second]


@pytest.mark.parametrize("days", range(4))
def test_what_is_withdrawn_is_withdrawn_on_its_day_whatever_is_remembered(days: int) -> None:
    day = datetime(2026, 12, 1, tzinfo=UTC) + timedelta(days=days)
    leaves = fleet([replace(one, retires_on=day.date()) if one.name == "scout" else one for one in TARGETS])
    rules = policy(leaves)
    replay, record = Replay(rules), recorded(Asked(), rules)
    for seconds, there in ((-1, True), (0, False), (-1, True), (86_399, False)):
        record.at = day.timestamp() + seconds
        found = replay.decide(record)
        assert isinstance(found, Decision)
        assert ("scout" in [one.name for one in found.candidates]) is there


def test_days_between_which_nothing_is_withdrawn_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million records are of many days, and each cost as much as the first one when they were told apart."""
    decided: list[float] = []

    def counting(rules: Policy, signals: Any, snapshot: Any, **more: Any) -> Any:
        decided.append(snapshot.now)
        return decide(rules, signals, snapshot, **more)

    monkeypatch.setattr(replays, "decide", counting)
    day = datetime(2026, 12, 1, tzinfo=UTC)
    leaves = fleet([replace(one, retires_on=day.date()) if one.name == "scout" else one for one in TARGETS])
    rules = policy(leaves)
    replay, record = Replay(rules), recorded(Asked(), rules)
    for days in (-9, -5, -1, 0, 3, 9, -7):
        record.at = (day + timedelta(days=days)).timestamp()
        replay.decide(record)
    assert decided == [(day + timedelta(days=days)).timestamp() for days in (-9, 0)]
