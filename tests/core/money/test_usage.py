"""Usage as providers state it, checked; estimates where they do not."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest
from fleets import target

from gateway.core.money.usage import Stated, add, estimate, read, settle
from gateway.core.types import Usage

STATED: dict[str, tuple[dict[str, Any], Usage]] = {
    "openai": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "total_tokens": 150,
            "prompt_tokens_details": {"cached_tokens": 64, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 30, "accepted_prediction_tokens": 0},
        },
        Usage(100, 50, 64, 30),
    ),
    "vllm": (
        {"prompt_tokens": 9, "total_tokens": 20, "completion_tokens": 11, "prompt_tokens_details": None},
        Usage(9, 11),
    ),
    "dashscope native": (
        {"input_tokens": 7, "output_tokens": 3, "output_tokens_details": {"reasoning_tokens": 2}},
        Usage(7, 3, 0, 2),
    ),
    "deepseek": ({"prompt_tokens": 7, "completion_tokens": 3, "prompt_cache_hit_tokens": 5}, Usage(7, 3, 5)),
    "reasoning beside completion": (
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 35,
            "completion_tokens_details": {"reasoning_tokens": 20},
        },
        Usage(10, 25, 0, 20),
    ),
    "whole floats": ({"prompt_tokens": 10.0, "completion_tokens": 5.0}, Usage(10, 5)),
    "more cached than read": (
        {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 90}},
        Usage(10, 5, 10),
    ),
}


@pytest.mark.parametrize(("stated", "usage"), STATED.values(), ids=STATED)
def test_every_provider_s_spelling_is_read(stated: dict[str, Any], usage: Usage) -> None:
    assert read(stated) == usage


@pytest.mark.parametrize(
    "absurd",
    [
        None,
        "many",
        [],
        {},
        {"total_tokens": 5},
        {"prompt_tokens": -1, "completion_tokens": 1},
        {"prompt_tokens": 10**12, "completion_tokens": 1},
        {"prompt_tokens": 1, "completion_tokens": "1"},
        {"prompt_tokens": True, "completion_tokens": 1},
        {"prompt_tokens": 1.5, "completion_tokens": 1},
        {"prompt_tokens": float("nan"), "completion_tokens": 1},
        {"prompt_tokens": 1, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": -1}},
    ],
)
def test_what_is_absent_or_absurd_leaves_what_was_known(absurd: Any) -> None:
    assert read(absurd) is None
    assert read(absurd, Usage(3, 4)) == Usage(3, 4)


def test_a_later_object_lays_what_it_states_over_the_earlier_one() -> None:
    first = read({"prompt_tokens": 10, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 8}})
    assert read({"prompt_tokens": None, "completion_tokens": 9}, first) == Usage(10, 9, 8)


def test_an_estimate_says_that_it_is_one_and_never_rounds_text_to_nothing() -> None:
    assert estimate(12, 1) == Usage(12, 1, estimated=True)
    assert estimate(12, 400) == Usage(12, 100, estimated=True)


def test_zero_tokens_beside_text_are_not_believed() -> None:
    assert settle(None, 12, 40) == Usage(12, 10, estimated=True)
    assert settle(Usage(9, 3), 12, 40) == Usage(9, 3)
    assert settle(Usage(0, 0), 12, 40) == Usage(12, 10, estimated=True)
    assert settle(Usage(9, 0), 12, 40) == Usage(9, 10, estimated=True)
    assert settle(Usage(9, 0), 12, 0) == Usage(9, 0)


@pytest.mark.parametrize(
    ("stated", "thinking", "choices", "believed"),
    [
        (Usage(200_000, 200_000), "switchable", 1, True),  # the window that is configured may be half of the server's
        (Usage(200_001, 10), "switchable", 1, False),
        (Usage(10, 200_001), "switchable", 1, False),
        (Usage(10, 200_001), "switchable", 2, True),
        (Usage(10, 99_999_999), "unknown", 1, False),
        (Usage(10, 150_000), "unknown", 1, True),  # it may have thought unseen
        (Usage(10, 150_000), "never", 1, False),
        (Usage(10, 65_536 + 160), "never", 1, True),
        (Usage(10, 65_537 + 160), "never", 1, False),
    ],
)
def test_no_more_is_believed_than_the_target_can_have_used(
    stated: Usage, thinking: Any, choices: int, believed: bool
) -> None:
    made = dataclasses.replace(target("t", "llama-3.3-70b", "us", 100_000, (1, 2)), thinking=thinking)
    assert settle(stated, 12, 40, made, choices) == (stated if believed else Usage(12, 10, estimated=True))


def test_attempts_add_up() -> None:
    assert add(Usage(1, 2, 1, 0), estimate(10, 4)) == Usage(11, 3, 1, 0, estimated=True)


@pytest.mark.parametrize("written", [0, 1493])
def test_tokens_put_into_an_explicit_cache_are_told_apart(written: int) -> None:
    # DashScope's spelling; zero is what it says where nothing was written, and must not cost the quick way.
    details = {"cached_tokens": 10, "cache_creation_input_tokens": written}
    found = {"prompt_tokens": 1600, "completion_tokens": 5, "prompt_tokens_details": details}
    made = read(found)
    assert made == Usage(1600, 5, 10, written=written)
    raw = msgspec.json.encode(found)
    if written:
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(raw, type=Stated)
    else:
        assert msgspec.json.decode(raw, type=Stated).usage() == made
