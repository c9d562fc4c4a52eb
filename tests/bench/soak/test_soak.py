"""The soak, short: every fault at least once. `python -m tests.bench.soak` is the long one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench.soak.__main__ import soak
from tests.bench.soak.script import GOOD, KINDS, Ask, events, expected, wrong

ASK = Ask(1, "stall", "stall", events=8, pause_s=0.0, size=4, stream=True, usage=True)
WHOLE = b"".join(events(ASK))
ERROR = b'data: {"error":{"message":"x","type":"server_error","param":null,"code":"upstream_timeout"}}\n\n'
SOME = b"".join(events(ASK)[:5])


def test_every_fault_costs_only_the_stream_that_it_broke(tmp_path: Path) -> None:
    made = soak(tmp_path, 4.0, 50, 0.05)
    assert not made.wrong, made.wrong[:5]
    assert {kind.name for kind in KINDS} <= made.seen.kinds.keys()
    assert made.figures["whole answers"] > 50
    assert made.figures["clients that left"] >= 4


@pytest.mark.parametrize(
    ("ask", "served_by", "got", "well"),
    [
        (replace(ASK, fault=""), "stall", WHOLE, True),
        (replace(ASK, fault=""), "stall", WHOLE[:-1], False),
        (replace(ASK, fault=""), "stall", WHOLE.replace(b"8", b"9"), False),
        (ASK, GOOD, WHOLE, True),
        (ASK, GOOD, SOME + ERROR, False),
        (ASK, "stall", WHOLE, False),
        (ASK, "stall", SOME + ERROR, True),
        (ASK, "stall", SOME, False),
        (ASK, "stall", SOME[:-20] + ERROR, False),
        (ASK, "stall", SOME + events(ASK)[3] + ERROR, False),
        (ASK, "stall", SOME + ERROR + b"data: [DONE]\n\n", False),
    ],
)
def test_a_byte_too_many_or_too_few_is_noticed(ask: Ask, served_by: str, got: bytes, well: bool) -> None:
    assert (wrong(ask, served_by, got) == "") == well


def test_who_does_not_ask_for_usage_gets_none() -> None:
    assert b"prompt_tokens" in WHOLE
    assert b"prompt_tokens" not in b"".join(expected(replace(ASK, usage=False)))
