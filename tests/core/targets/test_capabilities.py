"""Facts of a fleet turned into masks: places, limits, days."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fleets import fleet, target

from gateway.core.targets.capabilities import Capabilities, above, lies_in, outside, refused, residency
from gateway.core.types import Backend


@pytest.mark.parametrize(
    ("place", "asked", "inside"),
    [
        ("eu", "eu", True),
        ("eu-central-1", "eu", True),
        ("europe", "eu", False),
        ("eu", "eu-central-1", False),
        (None, "eu", False),
    ],
)
def test_a_region_holds_its_parts_and_nothing_that_merely_begins_alike(
    place: str | None, asked: str, inside: bool
) -> None:
    assert lies_in(place, asked) is inside
    assert outside([(place, 1)], asked) == (0 if inside else 1)


@pytest.mark.parametrize(
    ("backend", "where"),
    [
        (Backend("b", "vllm", (), region="eu", self_hosted=True), "eu"),
        (Backend("b", "vllm", (), region="eu", processing="global", self_hosted=True), "global"),
        (Backend("b", "openai", (), region="eu"), None),
        (Backend("b", "openai", (), region="us", processing="eu"), "eu"),
    ],
)
def test_data_are_processed_where_the_backend_says_or_where_our_own_machine_stands(
    backend: Backend, where: str | None
) -> None:
    one = replace(target("t", "llama-4-scout", "us", 1_000, None), backend=backend)
    assert residency(one) == where


def test_a_limit_is_what_is_still_allowed() -> None:
    assert [above([(5, 0b01), (9, 0b10)], amount) for amount in (5, 6, 9, 10)] == [0, 0b01, 0b01, 0b11]


def test_targets_are_grouped_for_fitting_only_where_all_but_the_window_is_alike() -> None:
    made = fleet([
        target("large", "llama-4-scout", "us", 9_000, None),
        target("small", "llama-4-scout", "eu", 1_000, None),
        target("capped", "llama-4-scout", "eu", 5_000, None, max_input=500),
        target("other", "llama-4-maverick", "us", 4_000, None),
    ])  # fmt: skip
    groups = {tuple(one.name for one, _ in group.members) for group in Capabilities.of(made, ()).fits}
    assert groups == {("small", "large"), ("capped",), ("other",)}


def test_what_a_target_refuses_is_what_it_cannot_and_what_is_not_on_its_list() -> None:
    sent = frozenset({"messages", "seed", "logprobs"})
    one = target("one", "llama-3.3-70b", "us", 8_192, None, unsupported=frozenset({"seed"}))
    assert refused(one, sent) == {"seed"}
    listed = replace(one, takes=frozenset({"messages", "seed"}))
    assert refused(listed, sent) == {"seed", "logprobs"}
