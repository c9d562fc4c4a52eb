"""What a client makes up cannot fill the memory that decisions are kept in."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.core.decisions.memo import LONGEST_NAME, MOST_MEMBERS, Key, Memo
from gateway.core.policy import Policy
from gateway.core.reading.lexicon import Lexicon
from gateway.core.reading.signals import Signals
from gateway.core.request.hints import NO_HINTS
from gateway.core.request.wire import Envelope, parse
from gateway.core.text.tokens import Tokenizers
from gateway.core.types import Tenant

TENANT = Tenant("t")
POLICY: Any = object()  # a key holds only its identity


def request(names: list[str]) -> Envelope:
    members: dict[str, Any] = {"model": "a", "messages": [{"role": "user", "content": "hi"}]}
    return parse(msgspec.json.encode(members | dict.fromkeys(names, 0)))


def key(names: list[str]) -> Key | None:
    policy: Policy = POLICY
    return Memo.key(request(names), policy, None, TENANT, NO_HINTS, 1, 0.0)


def many(count: int) -> list[str]:
    return [f"x{number}" for number in range(count)]


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (many(MOST_MEMBERS - 2), True),
        (many(MOST_MEMBERS - 1), False),
        (["n" * LONGEST_NAME], True),
        (["n" * (LONGEST_NAME + 1)], False),
        (["seed", "é" * (LONGEST_NAME + 1)], False),
    ],
)
def test_a_request_with_too_many_members_or_too_long_names_is_not_remembered(names: list[str], kept: bool) -> None:
    assert (key(names) is not None) is kept


@pytest.mark.parametrize("names", [many(5_000), ["n" * 10_000, *many(3)]])
def test_what_is_told_of_made_up_parameters_is_bounded_and_decisions_still_see_them_all(names: list[str]) -> None:
    signals = Signals.of(
        request(names),
        tenant=TENANT,
        hints=NO_HINTS,
        headers={},
        tokenizers=Tokenizers(),
        lexicon=Lexicon.empty(),
        now=0.0,
        blocking=True,
    )
    assert signals.get("parameters") == {"model", "messages", *names}
    told = signals.computed()["parameters"]
    assert len(told) == min(MOST_MEMBERS, len(names) + 1 if len(names) < MOST_MEMBERS else MOST_MEMBERS)
    assert max(map(len, told)) <= LONGEST_NAME
