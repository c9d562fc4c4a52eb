"""What every matcher means for every kind of value."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from gateway.core.clauses.matchers import Problems, Spelling, holds, parse
from gateway.core.facts import Kind
from gateway.core.text.language import Language


def matches(kind: Kind, raw: Any, value: Any) -> bool:
    problems = Problems()
    matcher = parse(raw, Spelling("it", kind), "it", problems)
    assert not problems.found, problems.found
    assert matcher is not None
    return holds(matcher, value)


def language(**shares: float) -> Language:
    return Language(shares, 1_000, 1 - sum(shares.values()))


JA, EN, MIXED, UNCLEAR = language(ja=1.0), language(en=1.0), language(en=0.6, ja=0.4), language()


@pytest.mark.parametrize(
    ("kind", "raw", "yes", "no"),
    [
        ("number", 5, [5], [4, 6]),
        ("number", [5, "6k"], [5, 6000], [7]),
        ("number", {"gt": "200k"}, [200_001], [200_000]),
        ("number", {"gte": "1M"}, [1_000_000], [999_999]),
        ("number", {"lt": 10}, [9], [10]),
        ("number", {"lte": 10}, [10], [11]),
        ("number", {"gt": 10, "lt": 20}, [11, 19], [10, 20]),
        ("number", {"not": {"gt": 10, "lt": 20}}, [10, 20], [15]),
        ("number", {"any": [{"lt": 3}, {"gt": 8}]}, [2, 9], [3, 8]),
        ("number", {"all": [{"gt": 3}, {"not": 5}]}, [4, 6], [5, 3]),
        ("number", {"not": {"not": 5}}, [5], [6]),
        ("boolean", True, [True], [False]),
        ("boolean", {"not": True}, [False], [True]),
        ("text", "a", ["a"], ["b"]),
        ("text", {"eq": "a"}, ["a"], ["b"]),
        ("text", ["a", "b"], ["a", "b"], ["c"]),
        ("text", {"not": ["a", "b"]}, ["c"], ["a", "b"]),
        ("text", {"prefix": "us-"}, ["us-east-1"], ["us", "eu"]),
        ("text", {"not": {"prefix": "us-"}}, ["eu"], ["us-east-1"]),
        ("text", {"in": "@eu"}, ["DE", "de"], ["SG", "NO", "UK"]),
        ("set", "a", [{"a"}, {"a", "b"}], [{"b"}, set()]),
        ("set", {"has": ["a", "b"]}, [{"a", "b", "c"}], [{"a"}, {"b", "c"}]),
        ("set", {"lacks": ["a", "b"]}, [{"a"}, set()], [{"a", "b"}]),
        ("set", ["a", "b"], [{"a"}, {"b", "c"}], [{"c"}]),
        ("set", {"in": ["a", "b"]}, [{"a"}, {"b", "c"}], [{"c"}]),
        ("set", {"not": ["a", "b"]}, [{"c"}, set()], [{"a"}]),
        ("set", {"eq": "a"}, [{"a"}], [{"a", "b"}]),
        ("set", {"not": {"eq": "a"}}, [{"a", "b"}], [{"a"}]),
        ("set", {"not": {"has": "a"}}, [{"b"}], [{"a"}]),
        ("date", {"lt": "2026-12-01"}, [date(2026, 11, 30)], [date(2026, 12, 1)]),
        ("date", "2026-12-01", [date(2026, 12, 1)], [date(2026, 11, 30)]),
        ("language", "ja", [JA], [EN, MIXED]),
        ("language", ["ja", "zh"], [JA], [EN]),
        ("language", {"not": "en"}, [JA, MIXED], [EN]),
        ("language", {"not": ["en", "ja"]}, [language(fr=1.0)], [EN, JA, MIXED]),
        ("language", {"known": True, "not": ["en"]}, [JA, MIXED], [EN]),
    ],
)
def test_a_matcher_holds_for_these_values_and_not_for_those(
    kind: Kind, raw: Any, yes: list[Any], no: list[Any]
) -> None:
    for value in yes:
        assert matches(kind, raw, frozenset(value) if isinstance(value, set) else value), value
    for value in no:
        assert not matches(kind, raw, frozenset(value) if isinstance(value, set) else value), value


UNKNOWN_FAILS: list[tuple[Kind, Any]] = [
    ("number", {"gt": 0}), ("number", {"not": 5}), ("number", {"not": {"not": 5}}), ("text", "a"),
    ("text", {"not": "a"}),
    ("text", {"prefix": "a"}), ("text", {"not": {"prefix": "a"}}), ("boolean", False), ("boolean", {"not": True}),
    ("set", {"has": "a"}), ("set", {"lacks": "a"}), ("set", {"not": "a"}), ("text", {"known": True}),
    ("text", {"not": {"known": False}}), ("date", {"lt": "2030-01-01"}), ("set", {"eq": "a"}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "raw"), UNKNOWN_FAILS)
def test_a_value_that_is_not_known_matches_nothing(kind: Kind, raw: Any) -> None:
    assert not matches(kind, raw, None)


@pytest.mark.parametrize("raw", [{"known": False}, {"not": {"known": True}}, {"any": ["a", {"known": False}]}])
def test_except_that_it_is_not_known(raw: Any) -> None:
    assert matches("text", raw, None)
    assert not matches("text", raw, "b")


@pytest.mark.parametrize("raw", ["ja", {"not": "ja"}, {"not": {"in": ["en"]}}, {"known": True}])
def test_an_undetermined_language_is_not_known(raw: Any) -> None:
    assert not matches("language", raw, UNCLEAR)
    assert not matches("language", raw, None)
    assert matches("language", {"known": False}, UNCLEAR)


@pytest.mark.parametrize(
    ("kind", "raw", "path", "words"),
    [
        ("number", {"gt": "lots"}, "it.gt", "is not a size"),
        ("number", "200kb", "it", "is not a size"),
        ("number", True, "it", "is not a size"),
        ("number", -1, "it", "is not a size"),
        ("number", {"prefix": "a"}, "it.prefix", "has no 'prefix'"),
        ("number", {"more": 5}, "it.more", "has no 'more'"),
        ("boolean", "on", "it", "is not a boolean"),
        ("boolean", {"known": "yes"}, "it.known", "is not a boolean"),
        ("text", 3, "it", "is not a text"),
        ("text", False, "it", "is not a text"),
        ("text", {}, "it", "says nothing"),
        ("text", [], "it", "is an empty list"),
        ("text", ["a", 5], "it[1]", "is not a text"),
        ("text", {"any": ["a", {"gt": 1}]}, "it.any[1].gt", "has no 'gt'"),
        ("text", {"any": "a"}, "it.any", "must be a list"),
        ("text", "@nowhere", "it", "there is no set"),
        ("text", "$language", "it", "cannot stand here"),
        ("text", {"prefix": ""}, "it.prefix", "is not a text"),
        ("date", "tomorrow", "it", "is not a date"),
        ("language", {"has": "ja"}, "it.has", "has no 'has'"),
    ],
)
def test_what_means_nothing_is_refused_with_its_place(kind: Kind, raw: Any, path: str, words: str) -> None:
    problems = Problems()
    assert parse(raw, Spelling("it", kind), "it", problems) is None
    (problem,) = problems.found
    assert problem.path == path
    assert words in problem.what
    assert problem.valid or "list" in problem.what


def test_choices_are_checked_and_the_nearest_is_named() -> None:
    problems = Problems()
    parse("hgih", Spelling("effort", "text", ("low", "high")), "effort", problems)
    assert str(problems.found[0]) == "effort: 'hgih' is no effort that is known: did you mean high?"


def test_aliases_mean_what_they_stand_for() -> None:
    matcher = parse("Scout", Spelling("model", "text", ("scout",), {"Scout": "scout"}), "model", Problems())
    assert matcher is not None
    assert holds(matcher, "scout")
