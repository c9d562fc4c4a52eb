"""Where conversations were answered last: whose they are, how many are kept, and when they are forgotten."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.core.request.hints import NO_HINTS, Hints
from gateway.core.request.wire import Envelope, parse
from gateway.core.resilience.conversations import Conversations, conversation_of, prompt_cache_key_of
from gateway.core.types import Previous


def asked(**members: Any) -> Envelope:
    return parse(json.dumps({"model": "auto", "messages": [{"role": "user", "content": "hi"}], **members}).encode())


def at(when: float, target: str = "scout") -> Previous:
    return Previous(target, 100, when)


@pytest.mark.parametrize(
    ("header", "members", "name"),
    [
        ("h", {"metadata": {"conversation_id": "m"}}, "h"),
        (None, {"metadata": {"conversation_id": "m"}}, "m"),
        (None, {"metadata": {"conversation_id": ""}}, None),
        (None, {"metadata": {"conversation_id": "x" * 129}}, None),
        (None, {"metadata": {"team": "a"}}, None),
        (None, {"metadata": None}, None),
        (None, {"prompt_cache_key": "k", "user": "u"}, None),
    ],
)
def test_a_request_names_its_conversation_in_a_header_or_in_metadata(
    header: str | None, members: dict[str, Any], name: str | None
) -> None:
    hints = NO_HINTS if header is None else Hints(conversation=header)
    assert conversation_of(hints, asked(**members)) == name


def test_a_prompt_cache_key_is_asked_for_by_itself() -> None:
    assert prompt_cache_key_of(asked(prompt_cache_key="k")) == "k"
    assert prompt_cache_key_of(asked()) is None
    assert prompt_cache_key_of(asked(prompt_cache_key=7)) is None


def test_a_name_belongs_to_the_key_that_sends_it() -> None:
    kept = Conversations()
    kept.answered("shop", "c1", at(1.0, "scout"), 60)
    kept.answered("lab", "c1", at(2.0, "plus"), 60)
    assert kept.last("shop", "c1") == at(1.0, "scout")
    assert kept.last("lab", "c1") == at(2.0, "plus")
    assert kept.last("other", "c1") is None


def test_the_least_lately_answered_goes_first() -> None:
    kept = Conversations(limit=3)
    for i, name in enumerate(["a", "b", "c", "a", "d"]):
        kept.answered("k", name, at(float(i)), 60)
    assert [kept.last("k", name) is not None for name in "abcd"] == [True, False, True, True]
    assert len(kept) == 3


def test_a_flood_of_names_costs_no_other_key_its_conversations() -> None:
    kept = Conversations(limit=100)
    for i in range(20):
        kept.answered("quiet", f"q{i}", at(0.0), 1e9)
    for i in range(10_000):
        kept.answered("loud", f"l{i}", at(1.0), 1e9)
        assert len(kept) <= 100
    assert all(kept.last("quiet", f"q{i}") for i in range(20))
    for i in range(60):
        kept.answered("new", f"n{i}", at(2.0), 1e9)
    assert all(kept.last("quiet", f"q{i}") for i in range(20)), "who has the most gives way"
    assert sum(kept.last("new", f"n{i}") is not None for i in range(60)) >= 33


def test_what_expired_goes_as_others_come() -> None:
    kept = Conversations()
    for i in range(100):
        kept.answered("k", f"old{i}", at(0.0), 60)
    for i in range(60):
        kept.answered("k", f"new{i}", at(61.0), 60)
    assert len(kept) == 60


def test_a_target_that_goes_takes_its_conversations_with_it() -> None:
    kept = Conversations()
    kept.answered("k", "a", at(1.0, "scout"), 60)
    kept.answered("k", "b", at(1.0, "plus"), 60)
    kept.answered("l", "c", at(1.0, "plus"), 60)
    kept.keep({"scout", "other"})
    assert kept.last("k", "a") is not None
    assert (kept.last("k", "b"), kept.last("l", "c"), len(kept)) == (None, None, 1)


def test_any_text_can_be_a_name() -> None:
    kept = Conversations()
    kept.answered("k", "\ud800\x00日", at(1.0), 60)
    assert kept.last("k", "\ud800\x00日") is not None
