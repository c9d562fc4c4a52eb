"""Remembered decisions: never another than would be made afresh, bounded, and without a word of any prompt."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings, target
from hypothesis import strategies as st

from gateway.core.clauses.shadow import drawn
from gateway.core.decide import decide
from gateway.core.decisions.memo import LIMIT, Kept, Memo, watched
from gateway.core.policy import EFFECTS, Policy
from gateway.core.reading.lexicon import Lexicon
from gateway.core.reading.signals import Signals
from gateway.core.request.hints import Hints
from gateway.core.request.wire import parse
from gateway.core.text.tokens import Tokenizers
from gateway.core.types import Decision, Previous, Price, PriceTier, Snapshot, Tenant
from tests.core.fleets import ANYTHING, FLEET, TARGETS, fleet, mask, policy

LEXICON = Lexicon.compile(
    {
        "look": {"head": 600, "tail": 300},
        "decide": {"task": 3, "margin": 1, "easy": 3, "hard": 3},
        "rules": [{"id": "code", "task": "code", "difficulty": "hard", "points": 3, "words": ["python"]}],
    }
)
NOW = datetime(2026, 11, 30, 23, 59, 30, tzinfo=UTC).timestamp()  # half a minute before a target retires
NOBODY = Tenant("nobody")


def words(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]


@dataclass(frozen=True)
class Asked:
    """A request and all that may be known when it is decided."""

    text: str = "hi"
    members: Mapping[str, Any] = field(default_factory=dict)
    tenant: Tenant = NOBODY
    hints: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    pinned: int | None = None
    available: int = FLEET.mask()
    now: float = NOW
    draw: float = 0.5
    latency_s: Mapping[str, float] = field(default_factory=dict)
    previous: Previous | None = None
    slow: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def body(self) -> bytes:
        return json.dumps(
            {"model": "auto", "messages": [{"role": "user", "content": self.text}], **self.members}
        ).encode()


class Served:
    """What serving does with a memo: look, else decide and put."""

    def __init__(self) -> None:
        self.memo = Memo()
        self.remembered = 0

    def __call__(self, rules: Policy, asked: Asked) -> Decision:
        envelope = parse(asked.body())
        hints = Hints.parse({f"x-pointsman-{name}": value for name, value in asked.hints.items()})
        key = self.memo.key(envelope, rules, asked.pinned, asked.tenant, hints, asked.available, asked.now)
        if key is not None and rules.watches:
            key = (*key, watched(rules, self.snapshot(asked)))
        signals = self.signals(asked)
        if key is not None:
            kept = self.memo.get(key, envelope) or self.memo.follow(key, envelope, signals)
            if kept is not None:
                self.remembered += 1
                self.replayed(rules, asked, kept, signals)
                return kept.decision
        decision = decide(rules, signals, self.snapshot(asked), pinned=asked.pinned)
        if key is not None:
            self.memo.put(key, rules, decision, envelope, signals)
        return decision

    def replayed(self, rules: Policy, asked: Asked, kept: Kept, signals: Signals) -> None:
        """What is told of a remembered decision afterwards leads to it again."""
        values = Signals.given(kept.told(signals))
        assert decide(rules, values, self.snapshot(asked), pinned=asked.pinned) == kept.decision

    @staticmethod
    def signals(asked: Asked) -> Signals:
        return Signals.of(
            parse(asked.body()),
            tenant=asked.tenant,
            hints=Hints.parse({f"x-pointsman-{name}": value for name, value in asked.hints.items()}),
            headers=asked.headers,
            tokenizers=Tokenizers({"qwen3.5": words}),
            lexicon=LEXICON,
            now=asked.now,
            blocking=True,
        )

    @staticmethod
    def snapshot(asked: Asked) -> Snapshot:
        return Snapshot(asked.now, asked.draw, asked.available, asked.latency_s, 0, asked.previous, asked.slow)

    def afresh(self, rules: Policy, asked: Asked) -> Decision:
        return decide(rules, self.signals(asked), self.snapshot(asked), pinned=asked.pinned)


@pytest.mark.parametrize(
    ("more", "message", "kept"),
    [
        ({}, {"name": "ann"}, True),
        ({}, {"images": ["aGVsbG8="]}, False),
        ({}, {"attachments": [{}]}, False),
        ({"modalities": ["text"]}, {}, False),
        ({"modalities": ["text", "audio"]}, {}, False),
    ],
)
def test_a_decision_that_rests_on_media_outside_the_content_has_no_key(
    more: dict[str, Any], message: dict[str, Any], kept: bool
) -> None:
    body = {"model": "auto", "messages": [{"role": "user", "content": "hi", **message}], **more}
    key = Memo.key(parse(json.dumps(body).encode()), policy(rules=ANYTHING), None, NOBODY, Hints(), FLEET.mask(), NOW)
    assert (key is not None) == kept


# -- the property --

CONDITIONS: list[Any] = [
    None,
    {"language": "ja"},
    {"language": {"not": "en"}},
    {"task": "code"},
    {"difficulty": "hard"},
    {"headers.x-team": "red"},
    {"metadata.team": "red"},
    {"tenant.domicile": {"in": "@eu"}},
    {"context_tokens": {"gt": "2k"}},
    {"context_tokens": {"gt": "100k"}},
    {"max_output_tokens": {"lt": "2k"}},
    {"effort": {"known": True}},
    {"stream": True},
    {"cost_sensitive": True},
    {"workload": "bulk"},
    {"conversation": {"known": True}},
    {"tools": True},
    {"structured_output": "json_schema"},
    {"images": {"gt": 0}},
    {"parameters": {"has": "logprobs"}},
    {"any": [{"stream": True}, {"task": "code"}]},
]
RUNGS: list[Any] = [
    {"model": "llama-4-scout"}, {"model": "llama-3.3-70b"}, {"model": "qwen3-coder-next"}, {"family": "qwen"},
    {"family": "llama"}, {"target.window": {"gte": "1M"}}, {"target.name": "oss"}, "*",
]  # fmt: skip
SELECTORS: list[Any] = [
    {"model.family": "llama"}, {"target.self_hosted": True}, {"model.languages": {"lacks": "$language"}},
    {"model.languages": {"lacks": "$target_language"}},
    {"target.name": {"in": ["scout", "qwen35"]}},
]  # fmt: skip
WATCHES: dict[str, st.SearchStrategy[Any]] = {
    "sticky": st.sampled_from([{"for": "30m"}, {"for": "1m", "switch": "never"}, {"for": "30m", "within": "rung"}]),
    "latency": st.sampled_from([
        [{"id": "quick", "first_event": {"p90": "1s"}}],
        [{"id": "quick", "when": {"task": "code"}, "tokens_per_s": {"p50": 20}}],
    ]),
    "shadow": st.sampled_from([
        [{"id": "copy", "use": [{"family": "qwen"}], "share": "50%"}],
        [{"id": "copy", "when": {"language": "ja"}, "use": ["*"], "share": "100%"}],
        [{"id": "copy", "use": [{"family": "qwen", "rank": "weighted"}], "share": "100%"}],
    ]),
}  # fmt: skip
TENANTS = [
    NOBODY,
    Tenant("b", {"domicile": "DE"}),
    Tenant("c", {"cost": "low"}),
    Tenant("d", {"residency": "eu", "workload": "bulk"}),
]
JAPANESE, PYTHON = "これは日本語の文です。京都への旅行を計画しています。", "fix this python program"
TEXTS = [
    "hi", "Let us meet at the station on Monday morning.", "Hola, ¿dónde está la biblioteca de la ciudad?",
    "Translate: これは日本語の文です。", "Translate this into Japanese: hello", "Translate this into French: hello",
    "Please tell me a story.", JAPANESE, PYTHON,
    "a b " * 900, "word " * 12_000, "word " * 17_500, "word " * 60_000,
]  # fmt: skip


RANKS: list[Any] = ["listed", "cheapest", "fastest", "weighted", {"lowest": "target.window"}]


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    conditions, ranks = st.sampled_from(CONDITIONS), st.sampled_from(RANKS)
    rules = [
        {
            "id": f"r{number}",
            "when": draw(conditions),
            "use": draw(st.lists(st.sampled_from(RUNGS), min_size=1, max_size=2)),
        }
        for number in range(draw(st.integers(1, 3)))
    ]
    constraints = [
        {
            "id": f"c{number}",
            "when": draw(conditions),
            draw(st.sampled_from(EFFECTS)): draw(st.sampled_from(SELECTORS)),
        }
        for number in range(draw(st.integers(0, 2)))
    ]
    thinking = [
        {"id": f"t{number}", "when": draw(conditions), "force": draw(st.booleans()),
         "set": draw(st.sampled_from(["never", "always", "client", {"budget": "4k"}]))}
        for number in range(draw(st.integers(0, 2)))
    ]  # fmt: skip
    for entry in (*rules, *constraints, *thinking):
        if entry["when"] is None:
            del entry["when"]
    watches = draw(st.one_of(st.just({}), st.fixed_dictionaries({}, optional=WATCHES)))
    return policy(
        rules=[*rules, *ANYTHING],
        constraints=constraints,
        thinking=thinking,
        rank=draw(ranks),
        tokens_by="qwen3.5",
        **watches,
    )


def some(**values: Sequence[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A few of these members, so that requests are often alike."""
    return st.fixed_dictionaries({}, optional={name: st.sampled_from(list(each)) for name, each in values.items()})


MEMBERS = some(
    max_tokens=[1, 100, 4_000, None], max_completion_tokens=[2_000, 70_000], reasoning_effort=["none", "high"],
    service_tier=["flex", "auto"], stream=[True, False], logprobs=[True], seed=[1, 2], n=[2],
    metadata=[{"team": "red"}, {"team": "blue"}], tools=[[{"type": "function"}]], enable_thinking=[True, False],
    response_format=[{"type": "json_schema", "json_schema": {}}, {"type": "text"}, {"type": "grammar"}],
    modalities=[["text"], ["text", "audio"]],
)  # fmt: skip
HINTS = some(
    cost=["low", "normal"], thinking=["never", "always", "4k"], region=["us", "eu"], residency=["eu"],
    workload=["bulk"], conversation=["c1", "c2"], **{"timeout-ms": ["100"]},
)  # fmt: skip
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "text": st.sampled_from(TEXTS),
    "members": st.one_of(st.just({}), MEMBERS),
    "tenant": st.sampled_from(TENANTS),
    "hints": st.one_of(st.just({}), HINTS),
    "headers": st.sampled_from([{}, {"x-team": "red"}, {"x-team": "blue"}]),
    "pinned": st.sampled_from([None, mask(FLEET, "scout"), mask(FLEET, "llama70"), mask(FLEET, "qwen122", "qwen35")]),
    "available": st.sampled_from([FLEET.mask(), FLEET.mask() & ~mask(FLEET, "scout", "qwen35")]),
    "now": st.sampled_from([NOW, NOW + 29, NOW + 31]),
    "draw": st.sampled_from([0.1, 0.9]),
    "previous": st.sampled_from(
        [
            None,
            Previous("qwen122", 9_000, NOW - 60),
            Previous("qwen122", 9_000, NOW - 900),
            Previous("plus", 9, NOW - 60),
            Previous("oss", 40_000, NOW - 60),
            Previous("gone-since", 1, NOW - 60),
            Previous("qwen122", 50, NOW - 60),
        ]
    ),
    "slow": st.sampled_from([{}, {"quick": ("scout",)}, {"quick": ("scout", "qwen122")}, {"other": ("scout",)}]),
    "latency_s": st.sampled_from([{}, {"scout": 9.0, "qwen35": 0.1}, {"scout": 0.1, "qwen35": 9.0}]),
}


@st.composite
def alike(draw: st.DrawFn) -> list[Asked]:
    """Some requests that differ from a first one in a single field each: what one input too few in a key confuses."""
    first = Asked(**{name: draw(values) for name, values in FIELDS.items()})
    names = draw(st.lists(st.sampled_from(list(FIELDS)), min_size=1, max_size=6))
    return [first, *(replace(first, **{name: draw(FIELDS[name])}) for name in names)]


@settings(max_examples=100)
@given(st.lists(policies(), min_size=1, max_size=2), alike(), st.data())
def test_a_remembered_decision_is_the_one_that_would_be_made_afresh(
    some_policies: list[Policy], requests: list[Asked], data: st.DataObject
) -> None:
    served = Served()
    for asked in [*requests, *data.draw(st.permutations(requests))]:
        for rules in some_policies:
            assert served(rules, asked) == served.afresh(rules, asked)
    target(float(served.remembered))


# -- what must hold for certain, whatever the dice --


def rules(when: Any) -> Policy:
    """A condition that leads to one target, and else to another: each a single candidate, which is remembered best."""
    return policy(
        rules=[
            {"id": "when", "when": when, "use": [{"target.name": "scout"}]},
            {"id": "else", "use": [{"target.name": "maverick"}]},
        ],
        tokens_by="qwen3.5",
    )


def test_requests_that_differ_in_text_only_share_a_decision() -> None:
    served, same = Served(), rules({"stream": True})
    names = [served(same, Asked(text=text)).candidates[0].name for text in TEXTS[:5]]
    assert (names, served.remembered) == (["maverick"] * 5, 4)


DIFFERENT: list[tuple[Any, Asked, Asked]] = [
    ({"language": "ja"}, Asked(), Asked(text=JAPANESE)),
    ({"task": "code"}, Asked(), Asked(text=PYTHON)),
    ({"difficulty": "hard"}, Asked(), Asked(text=PYTHON)),
    ({"target_language": "ja"}, Asked(), Asked(text="Translate into Japanese: good morning")),
    (
        {"target_language": "ja"},
        Asked(text="Translate into Korean: good morning"),
        Asked(text="Translate into Japanese: good morning"),
    ),
    ({"headers.x-team": "red"}, Asked(), Asked(headers={"x-team": "red"})),
    (
        {"metadata.team": "red"},
        Asked(members={"metadata": {"team": "blue"}}),
        Asked(members={"metadata": {"team": "red"}}),
    ),
    ({"metadata.team": "red"}, Asked(), Asked(members={"metadata": {"team": "red"}})),
    ({"stream": True}, Asked(), Asked(members={"stream": True})),
    ({"stream": True}, Asked(members={"stream": False}), Asked(members={"stream": True})),
    ({"effort": "none"}, Asked(members={"reasoning_effort": "minimal"}), Asked(members={"reasoning_effort": "none"})),
    ({"effort": "none"}, Asked(members={"think": True}), Asked(members={"think": False})),
    ({"effort": "none"}, Asked(members={"thinking_budget": 100}), Asked(members={"thinking_budget": 0})),
    ({"cost_sensitive": True}, Asked(members={"service_tier": "auto"}), Asked(members={"service_tier": "flex"})),
    ({"cost_sensitive": True}, Asked(), Asked(hints={"cost": "low"})),
    ({"cost_sensitive": True}, Asked(), Asked(tenant=TENANTS[2])),
    ({"tenant.domicile": "DE"}, Asked(), Asked(tenant=TENANTS[1])),
    ({"workload": "bulk"}, Asked(), Asked(hints={"workload": "bulk"})),
    ({"max_output_tokens": {"gt": 50}}, Asked(members={"max_tokens": 50}), Asked(members={"max_tokens": 51})),
    (
        {"max_output_tokens": {"gt": 50}},
        Asked(members={"max_completion_tokens": 50}),
        Asked(members={"max_completion_tokens": 51}),
    ),
    ({"model_asked": "auto/fast"}, Asked(members={"model": "auto/slow"}), Asked(members={"model": "auto/fast"})),
    ({"region": "us"}, Asked(), Asked(hints={"region": "us"})),
    ({"conversation": "c1"}, Asked(hints={"conversation": "c2"}), Asked(hints={"conversation": "c1"})),
    ({"max_cost_usd": {"gt": 1}}, Asked(hints={"max-cost-usd": "1"}), Asked(hints={"max-cost-usd": "2"})),
    ({"parameters": {"has": "seed"}}, Asked(), Asked(members={"seed": 1})),
    ({"parameters": {"has": "seed"}}, Asked(members={"seed": None}), Asked(members={"seed": 1})),
    ({"parameters": {"has": "n"}}, Asked(members={"n": 1}), Asked(members={"n": 2})),
    ({"parameters": {"has": "logprobs"}}, Asked(members={"logprobs": False}), Asked(members={"logprobs": True})),
    ({"tools": True}, Asked(), Asked(members={"tools": [{"type": "function"}]})),
    ({"context_tokens": {"gt": "2k"}}, Asked(), Asked(text="word " * 2_500)),
    ({"context_tokens": {"gt": "20k"}}, Asked(), Asked(text="word " * 25_000)),
]


@pytest.mark.parametrize(("when", "no", "yes"), DIFFERENT)
def test_no_condition_is_answered_from_a_request_that_differs_in_it(when: Any, no: Asked, yes: Asked) -> None:
    same = rules(when)
    for first, second in ((no, yes), (yes, no)):
        served = Served()
        for asked in (first, first, second, second, first):
            first_choice = [target.name for target in served(same, asked).candidates[:1]]
            # The second target cannot think, so who wishes it to is refused.
            assert first_choice in ([["scout"]] if asked is yes else [["maverick"], []])


@pytest.mark.parametrize("when", [{"headers.x-team": "red"}, {"metadata.team": "red"}])
def test_what_was_told_from_headers_or_metadata_is_never_remembered(when: Any) -> None:
    served, same = Served(), rules(when)
    for _ in range(3):
        served(same, Asked())
    assert served.remembered == 0


def test_texts_of_which_the_same_is_told_share_a_decision() -> None:
    served = Served()
    same = rules({"any": [{"language": "ja"}, {"task": "code"}]})
    texts = {
        "The weather was fine and we went for a long walk by the river.": "maverick",
        "My neighbour has been repairing his old bicycle for three weeks.": "maverick",
        "Please fix this python program, it does not do what it should.": "scout",
        "There is a python program here that nobody has looked at for years.": "scout",
        "これは日本語の文です。京都への旅行を計画しています。": "scout",
        "明日の午後は図書館で本を読むつもりです。よろしくお願いします。": "scout",
    }
    assert {text: served(same, Asked(text=text)).candidates[0].name for text in texts} == texts
    assert served.remembered == 3


def test_a_text_in_several_languages_is_decided_each_time() -> None:
    served, same = Served(), rules({"language": {"not": "en"}})
    both = "The weather was fine and we went for a walk. これは日本語の文です。京都への旅行を計画しています。"
    for _ in range(3):
        assert served(same, Asked(text=both)).candidates[0].name == "scout"
    assert served.remembered == 0


def test_what_is_told_of_a_request_is_its_own_language_and_not_that_of_the_one_before() -> None:
    served, same = Served(), rules({"language": "ja"})
    first, second = (
        Asked(text="これは日本語の文です。"),
        Asked(text="これは日本語の文です。京都への旅行を計画しています。"),
    )
    served(same, first)
    envelope, signals = parse(second.body()), served.signals(second)
    key = served.memo.key(envelope, same, None, second.tenant, Hints.parse({}), second.available, NOW)
    assert key is not None
    kept = served.memo.follow(key, envelope, signals)
    assert kept is not None
    told = kept.told(signals)["language"]
    assert told == signals.get("language")
    assert told.to_dict() != kept.values["language"]


def test_a_cheapest_choice_among_several_is_shared_by_requests_of_about_one_size() -> None:
    served, same = Served(), policy(rules=[{"id": "all", "use": [{"family": "llama", "rank": "cheapest"}]}])
    for size in (2_000, 2_010, 2_020, 200_000):
        asked = Asked(text="x" * size)
        assert served(same, asked) == served.afresh(same, asked)
    assert served.remembered == 2


def test_a_request_near_a_limit_is_not_served_from_the_memory_of_a_small_one() -> None:
    pinned = mask(FLEET, "llama70")
    served, same = Served(), policy()
    assert served(same, Asked(pinned=pinned)).candidates
    room = (131_072 - 500 - 1_024) * 2 // 3 - len(Asked(text="").body())  # what the bound from the body's size lets in
    last, first_over, much = (Asked(pinned=pinned, text="x" * size) for size in (room - 1, room + 2, 400_000))
    assert served(same, last).candidates
    assert served.remembered == 1
    assert served(same, first_over) == served.afresh(same, first_over)
    assert served.remembered == 1
    assert served(same, much).refusal == served.afresh(same, much).refusal
    assert served(same, much).refusal is not None
    assert served.remembered == 1
    assert served(same, Asked(pinned=pinned, text="y")).candidates
    assert served.remembered == 2


def test_a_pin_another_policy_and_another_health_are_each_another_request() -> None:
    served = Served()
    first, second = rules({"stream": True}), policy(rules=[{"id": "all", "use": [{"target.name": "plus"}]}])
    healthy, ailing = FLEET.mask(), FLEET.mask() & ~mask(FLEET, "maverick")
    for _ in range(2):
        assert served(first, Asked()).candidates[0].name == "maverick"
        assert served(second, Asked()).candidates[0].name == "plus"
        assert served(first, Asked(pinned=mask(FLEET, "scout"))).candidates[0].name == "scout"
        assert served(first, Asked(pinned=mask(FLEET, "plus"))).candidates[0].name == "plus"
        both = Asked(pinned=mask(FLEET, "maverick", "scout"), available=ailing)
        assert [one.name for one in served(first, both).candidates] == ["scout"]
        assert len(served(first, replace(both, available=healthy)).candidates) == 2
    assert served.remembered >= 5


def test_a_requested_output_that_leaves_less_room_is_another_request() -> None:
    pinned = mask(FLEET, "llama70")
    served, same = Served(), policy()
    text = "x" * 40_000
    assert served(same, Asked(pinned=pinned, text=text)).candidates
    asked = Asked(pinned=pinned, text=text, members={"max_tokens": 120_000})
    assert served(same, asked) == served.afresh(same, asked)
    assert served(same, asked).refusal is not None


def test_a_refusal_is_made_each_time() -> None:
    served, same = Served(), policy()
    for _ in range(3):
        assert served(same, Asked(pinned=mask(FLEET, "gone"))).refusal is not None
    assert served.remembered == 0


def test_a_retirement_ends_what_was_remembered_before_it() -> None:
    served, same = Served(), policy()
    before, after = (Asked(pinned=mask(FLEET, "llama70"), now=NOW + seconds) for seconds in (0, 31))
    assert served(same, before).candidates
    assert served(same, before).candidates
    assert served.remembered == 1
    assert served(same, after).refusal is not None


@pytest.mark.parametrize("days", range(4))
def test_no_midnight_passes_unnoticed(days: int) -> None:
    day = datetime(2026, 12, 1, tzinfo=UTC) + timedelta(days=days)
    leaves = fleet([replace(one, retires_on=day.date()) if one.name == "scout" else one for one in TARGETS])
    served, same = Served(), policy(leaves)
    for seconds, there in ((-60, True), (-1, True), (0, False), (-1, True), (0, False)):
        asked = Asked(now=day.timestamp() + seconds)
        assert ("scout" in [one.name for one in served(same, asked).candidates]) is there
    assert served.remembered == 2


@pytest.mark.parametrize("rank", ["fastest", "weighted", "balanced"])
def test_a_choice_by_chance_or_by_latency_is_made_each_time(rank: str) -> None:
    served, same = Served(), policy(rules=[{"id": "all", "use": [{"family": "llama", "rank": rank}]}])
    for _ in range(3):
        assert len(served(same, Asked()).candidates) > 1
    assert served.remembered == 0


def test_the_memory_is_bounded_and_goes_on_after_starting_over() -> None:
    served, same = Served(), rules({"stream": True})
    for number in range(LIMIT + 200):
        served(same, Asked(members={f"member{number}": 1}))
        assert len(served.memo._kept) <= LIMIT
    served(same, Asked(members={f"member{LIMIT + 199}": 1}))
    assert served.remembered == 1


def test_nothing_is_kept_of_minutes_that_are_past() -> None:
    served, same = Served(), rules({"stream": True})
    for minute in range(5):
        for number in range(10):
            served(same, Asked(members={f"member{number}": 1}, now=NOW + 60 * minute))
        served(same, Asked(now=NOW + 60 * (minute - 1)))  # it came before the minute began, and was counted until now
        assert len(served.memo._kept) == 11
    served(same, Asked(members={"member9": 1}, now=NOW + 60 * 4))
    served(same, Asked(now=NOW - 3_600))  # the clock was put back
    served(same, Asked(now=NOW - 3_600))
    assert (served.remembered, len(served.memo._kept)) == (2, 1)


def test_nothing_of_a_prompt_a_header_or_a_value_is_remembered() -> None:
    canary = "xyzzy-canary"
    served = Served()
    requests = [
        Asked(text=canary),
        Asked(text=canary, members={"user": canary, "seed": canary, "stop": [canary], "metadata": {"team": canary}}),
        Asked(text=canary, members={"user": canary, "stop": [canary]}, headers={"x-team": canary}),
        Asked(text=canary * 1_000, members={"messages": [{"role": "system", "content": canary, "name": canary}]}),
    ]
    conditions: list[Any] = [{"stream": True}, {"language": "ja"}, {"headers.x-team": "red"}]
    for same in [rules(when) for when in conditions]:  # a list, as policies must live as long as the memory
        for asked in requests:
            served(same, asked)
    assert len(served.memo._kept) >= 2
    reached: list[object] = [served.memo._kept]
    seen: set[int] = set()
    while reached:
        one = reached.pop()
        if id(one) in seen or isinstance(one, type):
            continue
        seen.add(id(one))
        assert not isinstance(one, Policy), "a policy is in the key by its identity"
        assert not (isinstance(one, str) and canary in one)
        assert not (isinstance(one, bytes) and canary.encode() in one)
        if not isinstance(one, Decision):  # the decision is of the policy and the fleet alone
            reached += gc.get_referents(one)
        else:
            assert canary not in repr(one)


def test_two_languages_in_one_script_are_two_answers() -> None:
    served, same = Served(), rules({"language": "es"})
    texts = {"Hola, ¿dónde está la biblioteca de la ciudad?": "scout", "Where is the library of this city?": "maverick"}
    for _ in range(2):
        assert {text: served(same, Asked(text=text)).candidates[0].name for text in texts} == texts
    assert served.remembered == 2


COPY = {"use": [{"family": "qwen", "rank": "weighted"}], "share": "100%"}
#: Draws that fall to none of two shadows of 50 %, to the first, to the second, to both.
FALLS_TO = {
    drawn(policy(shadow=[{"id": name, "use": ["*"], "share": "50%"} for name in ("one", "two")]).shadows, of / 50): of
    / 50
    for of in range(50)
}
LAST = Previous("qwen122", 9_000, NOW - 60)
WATCHING: list[tuple[dict[str, Any], Asked, Asked]] = [
    ({"sticky": {"for": "30m"}}, Asked(), Asked(previous=LAST)),
    ({"sticky": {"for": "30m"}}, Asked(previous=LAST), Asked(previous=Previous("plus", 9_000, NOW - 60))),
    ({"sticky": {"for": "30m"}}, Asked(previous=LAST), Asked(previous=Previous("qwen122", 9_000, NOW - 2_000))),
    ({"latency": [{"id": "quick", "first_event": {"p90": "1s"}}]}, Asked(), Asked(slow={"quick": ("scout",)})),
    (
        {"latency": [{"id": "quick", "first_event": {"p90": "1s"}}]},
        Asked(slow={"quick": ("scout",)}),
        Asked(slow={"quick": ("scout", "scout-small")}),
    ),
    ({"shadow": [{"id": "copy", "use": ["*"], "share": "50%"}]}, Asked(draw=0.1), Asked(draw=0.3)),
    ({"shadow": [{"id": name, "use": ["*"], "share": "50%"} for name in ("one", "two")]},
     Asked(draw=FALLS_TO[1]), Asked(draw=FALLS_TO[2])),
    ({"shadow": [{"id": "copy", **COPY}], "rules": [{"id": "one", "use": [{"target.name": "scout"}]}]},
     Asked(draw=0.1), Asked(draw=0.9)),
]  # fmt: skip


@pytest.mark.parametrize(("watches", "one", "other"), WATCHING)
def test_what_a_policy_watches_keeps_decisions_apart(watches: dict[str, Any], one: Asked, other: Asked) -> None:
    same = policy(**watches)
    assert Served().afresh(same, one) != Served().afresh(same, other), "or there is nothing to keep apart"
    for requests in ((one, other, one), (other, one, other)):
        served = Served()
        for asked in requests:
            assert served(same, asked) == served.afresh(same, asked)


def test_how_much_of_a_conversation_its_target_knows_keeps_decisions_apart() -> None:
    known = Price((PriceTier(0, 400_000_000, 1_000_000, cached_input=4_000_000),), "test")
    cached = fleet([replace(one, price=known) if one.name == "qwen122" else one for one in TARGETS])
    same = policy(cached, sticky={"for": "30m"}, rank="cheapest")
    much, little, long_ago = (
        Asked(text="x" * 20_000, previous=Previous("qwen122", tokens, NOW - age))
        for tokens, age in ((12_000, 60), (50, 60), (12_000, 900))
    )
    served = Served()
    for asked, first in ((much, "qwen122"), (little, "scout-small"), (long_ago, "scout-small")) * 2:
        assert served(same, asked).candidates[0].name == first
    assert served.remembered == 3
