"""Expected costs and size classes."""

from __future__ import annotations

import pytest
from fleets import FLEET, target
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.targets.rank import Prices, bits, coarse, cost_nano, draw, expected_nano, tier_for
from gateway.core.types import Price, PriceTier

TIERED = target(
    "t", "llama-4-scout", "us", 1_000_000, None,
    price=Price((PriceTier(0, 100, 1), PriceTier(256_000, 900, 9)), "v"), typical_output_tokens=300,
)  # fmt: skip


@pytest.mark.parametrize(("tokens", "rate"), [(0, 100), (256_000, 100), (256_001, 900), (1_000_000, 900)])
def test_a_tier_begins_above_its_edge(tokens: int, rate: int) -> None:
    tier = tier_for(TIERED, tokens)
    assert tier is not None
    assert tier.input == rate


def test_costs_are_whole_nano_dollars() -> None:
    dollar = target("d", "llama-4-scout", "us", 1, (1.0, 2.0))
    assert cost_nano(dollar, 1_000_000, 500_000) == 2_000_000_000
    assert cost_nano(target("n", "llama-4-scout", "us", 1, None), 5, 5) is None


def test_a_usual_answer_is_cut_to_what_the_client_allows() -> None:
    one = target("d", "llama-4-scout", "us", 1, (0.0, 1.0), typical_output_tokens=300)
    assert [expected_nano(one, 0, most) for most in (None, 1_000, 100)] == [300_000, 300_000, 100_000]


@given(st.integers(0, 1 << 50))
def test_a_size_class_starts_at_most_a_third_below(tokens: int) -> None:
    start = coarse(tokens)
    assert start <= tokens
    assert tokens >= 1 << 40 or tokens < start * 1.5 + 1
    assert coarse(start) == start


@given(st.integers(0, 1 << 100))
def test_bits_are_the_set_ones(mask: int) -> None:
    assert sum(1 << index for index in bits(mask)) == mask


def test_costs_are_kept_by_size_class_and_no_more_of_them() -> None:
    prices = Prices(FLEET)
    for tokens in range(0, 100_000, 7):
        prices.at(tokens, None)
    assert len(prices.kept) < 40
    assert prices.at(70_000, None) is prices.at(65_536, None)


def test_a_conversation_keeps_its_draw_and_shares_it_with_no_other_key() -> None:
    ids = ["0" * 32, "f" * 32]
    assert len({draw(one, "c1", "shop") for one in ids}) == 1
    assert [draw(one, None, "shop") for one in ids] == [0.0, 0xFFFF_FFFF / 0x1_0000_0000]
    drawn = {key: [draw(ids[0], f"c{n}", key) for n in range(1_000)] for key in ("shop", "bank")}
    shadowed = {key: {n for n, one in enumerate(found) if one < 0.05} for key, found in drawn.items()}
    assert all(25 <= len(found) <= 80 for found in shadowed.values())
    assert len(shadowed["shop"] & shadowed["bank"]) <= 10, "names that one key found out serve no other"


def test_a_name_runs_into_no_key() -> None:
    assert draw("0" * 32, "bc", "a") != draw("0" * 32, "c", "ab")
