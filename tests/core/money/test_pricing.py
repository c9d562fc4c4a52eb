"""Costs against price lists as providers publish them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.money.pricing import affordable_input, bounds, converted, cost, tier_for
from gateway.core.types import NANO_PER_USD, Price, PriceTier, Usage


def usd(amount: float) -> int:
    return round(amount * NANO_PER_USD)


def tier(
    above: int, entry: float, output: float, cached: float | None = None, thinking: float | None = None
) -> PriceTier:
    return PriceTier(
        above,
        usd(entry),
        usd(output),
        None if cached is None else usd(cached),
        None if thinking is None else usd(thinking),
    )


# Alibaba's Singapore list of 2026-11, USD per million tokens.
QWEN35_PLUS = Price((tier(0, 0.40, 2.40), tier(256_000, 0.50, 3.00)), "alibaba@2026-11")
CODER_PLUS = Price(
    (
        tier(0, 1.0, 5.0, 0.1),
        tier(32_000, 1.8, 9.0, 0.18),
        tier(128_000, 3.0, 15.0, 0.3),
        tier(256_000, 6.0, 60.0, 0.6),
    ),
    "alibaba@2026-11",
)
QWEN_PLUS = Price((tier(0, 0.40, 1.20, None, 4.00), tier(256_000, 1.20, 3.60, None, 12.00)), "alibaba@2026-11")
SELF_HOSTED = Price((tier(0, 0.08, 0.08),), "3.20 USD an hour over 40M tokens")

BILLED: list[tuple[Price, Usage, bool, float]] = [
    (QWEN35_PLUS, Usage(1_000, 500), False, 0.0016),
    (QWEN35_PLUS, Usage(256_000, 1_000), False, 0.1048),
    (QWEN35_PLUS, Usage(256_001, 1_000), False, 0.1310005),
    (CODER_PLUS, Usage(32_000, 1_000), False, 0.037),
    (CODER_PLUS, Usage(32_001, 1_000), False, 0.0666018),
    (CODER_PLUS, Usage(200_000, 2_000, cached=100_000), False, 0.36),
    (CODER_PLUS, Usage(500_000, 10_000), False, 3.6),
    (QWEN_PLUS, Usage(1_000, 1_000), False, 0.0016),
    (QWEN_PLUS, Usage(1_000, 1_000, reasoning=600), True, 0.0044),
    (QWEN_PLUS, Usage(1_000, 1_000, reasoning=600), False, 0.0044),  # it thought unasked, and is billed so
    (QWEN_PLUS, Usage(300_000, 1_000), True, 0.372),
    (SELF_HOSTED, Usage(1_000_000, 1_000_000), False, 0.16),
]


@pytest.mark.parametrize(("price", "usage", "thinking", "dollars"), BILLED)
def test_costs_are_what_the_provider_bills(price: Price, usage: Usage, thinking: bool, dollars: float) -> None:
    assert cost(price, usage, thinking) == usd(dollars)


def test_a_price_is_rounded_once_and_half_up() -> None:
    cheap = Price((PriceTier(0, 1, 1),), "x")  # a millionth of a nano-USD a token
    assert cost(cheap, Usage(499_999, 0), False) == 0
    assert cost(cheap, Usage(500_000, 0), False) == 1
    assert cost(cheap, Usage(250_000, 250_000), False) == 1
    assert cost(cheap, Usage(1_499_999, 0), False) == 1


def test_cached_input_without_a_price_of_its_own_costs_what_input_costs() -> None:
    assert cost(QWEN35_PLUS, Usage(1_000, 0, cached=900), False) == cost(QWEN35_PLUS, Usage(1_000, 0), False)


def test_the_whole_request_falls_in_one_tier() -> None:
    assert tier_for(CODER_PLUS, 0) is CODER_PLUS.tiers[0]
    assert tier_for(CODER_PLUS, 128_000) is CODER_PLUS.tiers[1]
    assert tier_for(CODER_PLUS, 128_001) is CODER_PLUS.tiers[2]
    assert tier_for(CODER_PLUS, 10_000_000) is CODER_PLUS.tiers[3]


TOKENS = st.integers(0, 2_000_000)


@given(st.sampled_from([QWEN35_PLUS, CODER_PLUS, QWEN_PLUS]), TOKENS, TOKENS, TOKENS, st.booleans(), st.data())
def test_the_upper_bound_holds_for_every_usage_within_it(
    price: Price, most_in: int, low: int, more: int, thinking: bool, data: st.DataObject
) -> None:
    high = low + more
    least, most = bounds(price, most_in, low, high, thinking=thinking)
    entered = data.draw(st.integers(0, most_in))
    used = Usage(entered, data.draw(st.integers(low, high)), cached=data.draw(st.integers(0, entered)))
    assert cost(price, used, thinking) <= most
    assert 0 <= least <= most


@given(st.sampled_from([QWEN35_PLUS, CODER_PLUS, QWEN_PLUS]), st.integers(0, usd(8)), TOKENS, st.data())
def test_what_is_affordable_is_never_billed_at_more_and_one_token_more_may_be(
    price: Price, most: int, output: int, data: st.DataObject
) -> None:
    held = affordable_input(price, most, output)
    if held >= 0:
        entered = data.draw(st.integers(0, min(held, 5_000_000)))
        used = Usage(entered, data.draw(st.integers(0, output)), cached=data.draw(st.integers(0, entered)))
        assert cost(price, used, data.draw(st.booleans())) <= most
    tier = tier_for(price, held + 1)
    dearest = (held + 1) * tier.input + output * max(tier.output, tier.thinking_output or 0)
    assert dearest > most * 1_000_000


def test_nothing_is_affordable_where_the_output_alone_costs_more() -> None:
    assert affordable_input(QWEN_PLUS, 0, 1) == -1
    assert affordable_input(Price((PriceTier(0, 0, 0),), "free"), 0, 1_000_000) > 10**12


# Alibaba's Beijing list of 2026-09, CNY per million tokens.
QWEN38_MAX_CN = Price((PriceTier(0, usd(12), usd(36), usd(1.5), None, usd(15)),), "model_bank@2026-09-27")


def test_what_is_put_into_an_explicit_cache_is_billed_at_its_own_price() -> None:
    plain = Usage(input=1_000_000, output=0, cached=400_000)
    assert cost(QWEN38_MAX_CN, plain, thinking=False) == usd(0.6 * 12 + 0.4 * 1.5)
    written = Usage(input=1_000_000, output=0, cached=400_000, written=600_000)
    assert cost(QWEN38_MAX_CN, written, thinking=False) == usd(0.6 * 15 + 0.4 * 1.5)
    assert cost(QWEN_PLUS, Usage(input=1_000_000, written=1_000_000), thinking=False) == usd(
        1.20
    )  # no price of its own
    assert bounds(QWEN38_MAX_CN, 1_000_000, 0, 0) == (usd(12), usd(15))


def test_a_list_in_another_currency_is_counted_at_the_operators_rate_and_says_so() -> None:
    made = converted(QWEN38_MAX_CN, usd(0.14), "CNY")
    assert made.version == "model_bank@2026-09-27 CNY=0.14"
    assert made.tiers == (PriceTier(0, usd(1.68), usd(5.04), usd(0.21), None, usd(2.1)),)
    odd = converted(Price((PriceTier(0, 3, 5),), "v"), usd(0.5), "CNY")
    assert (odd.tiers[0].input, odd.tiers[0].output) == (2, 3)  # a half goes up
