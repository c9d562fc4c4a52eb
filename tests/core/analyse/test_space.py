"""What the search says of conditions, held against requests of every kind: "nothing" must be true of all of them."""

from __future__ import annotations

from typing import Any

import pytest
from fleets import policy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.core.analyse.domains import OTHER, Domains, Undecided
from gateway.core.analyse.space import Effort, Space
from gateway.core.clauses.conditions import Condition
from gateway.core.reading.signals import Signals
from gateway.core.text.language import Language

CODES = ["en", "ja", "fr", "de", "es"]
TEXTS = ["shop", "shopping", "ship", "care"]
MANY = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def some_of(values: list[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.sampled_from(values), st.lists(st.sampled_from(values), min_size=1, max_size=5, unique=True))


def matcher(kind: str, values: Any) -> st.SearchStrategy[Any]:
    """A matcher of one kind, in any spelling that the language has."""
    plain = st.sampled_from([True, False]) if kind == "boolean" else some_of(values)
    shapes: list[st.SearchStrategy[Any]] = [plain, st.fixed_dictionaries({"known": st.booleans()})]
    shapes.append(plain.map(lambda one: {"not": one}))
    if kind == "number":
        edge = st.sampled_from(values)
        shapes += [edge.map(lambda one, op=op: {op: one}) for op in ("gt", "gte", "lt", "lte")]  # type: ignore[misc]
        shapes.append(st.tuples(edge, edge).map(lambda two: {"gte": two[0], "lt": two[1]}))
    if kind == "text":
        shapes.append(st.sampled_from(["sh", "shop", "ca"]).map(lambda one: {"prefix": one}))
        shapes.append(st.sampled_from(["sh", "shop"]).map(lambda one: {"not": {"prefix": one}}))
    if kind == "set":
        shapes += [plain.map(lambda one, op=op: {op: one}) for op in ("has", "lacks", "eq", "in")]  # type: ignore[misc]
        shapes.append(plain.map(lambda one: {"not": {"eq": one}}))
    whole = st.one_of(shapes)
    if kind == "boolean":
        return whole
    both = st.lists(whole, min_size=1, max_size=3)
    return st.one_of(whole, both.map(lambda some: {"any": some}), both.map(lambda some: {"all": some}))


MEMBERS: dict[str, st.SearchStrategy[Any]] = {
    "context_tokens": matcher("number", [0, 1, 99, 100, 101.5, 200]),
    "max_output_tokens": matcher("number", [0, 50, 99.5, 100]),
    "language": matcher("language", CODES),
    "target_language": matcher("set", CODES[:3]),
    "modality": matcher("set", ["text", "image", "audio"]),
    "parameters": matcher("set", ["seed", "top_k", "logprobs"]),
    "tools": matcher("boolean", []),
    "effort": matcher("text", ["none", "high", "low"]).filter(lambda one: "prefix" not in str(one)),
    "tenant.team": matcher("text", TEXTS),
}


def conditions(names: list[str]) -> st.SearchStrategy[Any]:
    leaf = st.sampled_from(names).flatmap(lambda name: MEMBERS[name].map(lambda raw: {name: raw}))
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=3).map(lambda some: {"any": some}),
            st.lists(inner, min_size=1, max_size=3).map(lambda some: {"all": some}),
            inner.map(lambda one: {"not": one}),
        ),
        max_leaves=5,
    )


@st.composite
def languages(draw: st.DrawFn) -> Language | None:
    """Any language that a text can turn out to be in: shares add up to one with what is not told."""
    if draw(st.booleans()):
        return draw(st.sampled_from([None, *(Language({code: 1.0}, 100, 0.0) for code in (*CODES, "sw"))]))
    codes = draw(st.lists(st.sampled_from([*CODES, "sw", "mi"]), min_size=0, max_size=7, unique=True))
    weights = [draw(st.integers(1, 20)) for _ in codes]
    rest = draw(st.sampled_from([0, 1, 5, 20, 60]))
    total = sum(weights) + rest or 1
    shares = {code: weight / total for code, weight in zip(codes, weights, strict=True)}
    some = st.frozensets(st.sampled_from(codes)) if codes else st.just(frozenset[str]())
    return Language(shares, 100, 1 - sum(shares.values()), draw(some), draw(some))


REQUESTS = st.fixed_dictionaries(
    {
        "context_tokens": st.sampled_from([0, 1, 2, 50, 98, 99, 100, 101, 102, 103, 199, 200, 201, 5_000]),
        "max_output_tokens": st.sampled_from([None, 0, 1, 49, 50, 51, 99, 100, 101]),
        "language": languages(),
        "target_language": st.one_of(st.none(), st.frozensets(st.sampled_from([*CODES[:3], "sw"]))),
        "modality": st.frozensets(st.sampled_from(["text", "image", "audio", "video"])),
        "parameters": st.frozensets(st.sampled_from(["seed", "top_k", "logprobs", "stop"])),
        "tools": st.booleans(),
        "effort": st.sampled_from([None, "none", "minimal", "low", "medium", "high", "xhigh", "max"]),
        "tenant.team": st.sampled_from([None, *TEXTS, "sh", "shops", "else"]),
    }
)


def compiled(raws: list[Any]) -> list[Condition]:
    rules = [{"id": f"r{i}", "when": raw, "use": ["*"]} for i, raw in enumerate(raws)]
    return [rule.when for rule in policy(rules=rules).rules if rule.when is not None]


def signals_of(request: dict[str, Any]) -> Signals:
    # The length counts the output asked for, which `given` takes off: put on here, so that any combination can be.
    return Signals.given({name: value for name, value in request.items() if value is not None})


@MANY
@given(st.lists(conditions([*MEMBERS]), min_size=1, max_size=5), st.lists(REQUESTS, min_size=1, max_size=30))
def test_nothing_is_said_to_be_impossible_that_a_request_can_be(raws: list[Any], requests: list[Any]) -> None:
    made = compiled(raws)
    space = Space(Domains(made))
    try:
        wanted, *others = [space.of(one) for one in made]
        point = space.find([wanted, *map(space.without, others)])
    except Undecided:
        return
    if point is None:
        for request in requests:
            asked = request["max_output_tokens"] or 0
            signals = signals_of({**request, "context_tokens": max(request["context_tokens"], asked)})
            assert not (made[0].test(signals) and not any(one.test(signals) for one in made[1:])), request


@MANY
@given(st.lists(conditions([name for name in MEMBERS if name != "context_tokens"]), min_size=1, max_size=5))
def test_what_is_found_does_what_was_asked_for(raws: list[Any]) -> None:
    made = compiled(raws)
    space = Space(Domains(made))
    wanted, *others = [space.of(one) for one in made]
    point = space.find([wanted, *map(space.without, others)])
    found = None if point is None else space.domains.given(point)
    if found is not None:
        signals = Signals.given({"tools": False, "modality": ["text"], "parameters": [], **found})
        assert made[0].test(signals), found
        assert not any(one.test(signals) for one in made[1:]), found


MIXED = {"language": {"shares": {"en": 0.6, "fr": 0.4}}}


def first(raws: list[Any], *, effort: Effort | None = None) -> Any:
    made = compiled(raws)
    space = Space(Domains(made), effort)
    wanted, *others = [space.of(one) for one in made]
    point = space.find([wanted, *map(space.without, others)])
    return None if point is None else space.domains.given(point)


@pytest.mark.parametrize(
    ("raws", "request_"),
    [
        ([{"context_tokens": {"gt": 10}}], {"context_tokens": 1_000}),
        ([{"context_tokens": {"gt": 5_000}}], {"context_tokens": 5_001}),
        ([{"language": {"not": "en"}}], {"language": "fr"}),
        ([{"language": {"not": "en"}}, {"language": "fr"}], {"language": "sw"}),
        ([{"all": [{"language": {"not": "en"}}, {"language": "en"}]}], MIXED),
        ([{"tenant.team": {"not": TEXTS}}], {"tenant.team": OTHER}),
        ([{"modality": "image"}], {"modality": ["image", "text"]}),
        ([{"target_language": {"lacks": ["ja", "fr"]}}, {"target_language": "ja"}], {"target_language": []}),
        ([{"all": [{"tools": True}, {"tools": False}]}], None),
        ([{"context_tokens": {"gte": 2.5, "lte": 2}}], None),
        ([{"context_tokens": {"gte": 2.5, "lte": 3.5}}], {"context_tokens": 3}),
    ],
)  # fmt: skip
def test_examples_are_plain(raws: list[Any], request_: Any) -> None:
    assert first(raws) == request_


def test_a_language_can_be_foreign_without_one_that_is_mostly_used() -> None:
    assert first([{"language": {"known": False, "not": "en"}}]) == {"language": {"shares": {"fr": 0.2}}}


def test_lists_that_no_text_can_be_outside_of_alone_are_no_proof() -> None:
    """Six languages of a seventh each: the first of them is on no list, and yet too little to count."""
    mixed = Language({"pt": 0.149, **dict.fromkeys(CODES, 0.145)}, 100, 0.126)
    assert mixed.main == "pt"
    assert mixed.outside(frozenset(CODES)) is False
    made = compiled([{"language": "pt"}, {"language": {"not": CODES}}])
    space = Space(Domains(made))
    assert space.find([space.of(made[0]), space.without(space.of(made[1]))]) is not None


def test_the_search_gives_up_rather_than_run_for_ever() -> None:
    pigeons = 9  # ten teams, nine names: true of nothing, and known to be hard
    facts = [f"tenant.p{i}" for i in range(pigeons + 1)]
    raws: list[Any] = [{"all": [{name: [f"h{j}" for j in range(pigeons)]} for name in facts]}]
    raws += [
        {"all": [{one: f"h{j}"}, {two: f"h{j}"}]}
        for j in range(pigeons)
        for i, one in enumerate(facts)
        for two in facts[i + 1 :]
    ]
    with pytest.raises(Undecided):
        first(raws)


def test_too_many_values_are_not_told_apart() -> None:
    raws = [{"images": {"gt": 2 * i}} for i in range(1_200)]
    with pytest.raises(Undecided):
        first(raws)
    assert first([{"tenant.team": [f"t{i}" for i in range(50_000)]}]) is not None
