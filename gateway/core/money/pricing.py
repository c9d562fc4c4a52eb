"""What tokens cost, in whole nano-USD, rounded once per attempt.

Prices come from the catalogue or from configuration (there also by the GPU-hour) as `types.Price`; how many tokens
were used is in `usage`. Integers throughout: a price is nano-USD per million tokens, so nothing is lost before the one
rounding at the end.
"""

from __future__ import annotations

from gateway.core.types import NANO_PER_USD, Price, PriceTier, Usage

_MILLION = 1_000_000
_NO_END = 1 << 62  # tokens


def tier_for(price: Price, input_tokens: int) -> PriceTier:
    """The tier a whole request is billed at: the last whose `above_input_tokens` its total input exceeds."""
    tiers = price.tiers
    found = tiers[0]
    for tier in tiers[1:]:
        if input_tokens <= tier.above_input_tokens:
            break
        found = tier
    return found


def cost(price: Price, usage: Usage, thinking: bool) -> int:
    """Nano-USD for one attempt, rounded half up once.

    Tiers are all-or-nothing: every token is billed at the tier that the total input falls in. `thinking` says that
    thinking was on; where a price list has a price for that, all of the output is billed at it, answer included, as
    Alibaba does (qwen-plus: 1.20 plain, 4.00 thinking). Reasoning that arrived unasked was thinking, too.

    >>> qwen = Price((PriceTier(0, 400_000_000, 1_200_000_000, thinking_output=4_000_000_000),), "2026-11")
    >>> cost(qwen, Usage(input=1_000_000, output=1_000_000), thinking=False)
    1600000000
    """
    tiers = price.tiers
    entered, cached = usage.input, usage.cached
    tier = tiers[0] if len(tiers) == 1 else tier_for(price, entered)
    output_price = tier.output
    if (thinking or usage.reasoning) and tier.thinking_output is not None:
        output_price = tier.thinking_output
    total = entered * tier.input + usage.output * output_price
    if cached and tier.cached_input is not None:
        total += cached * (tier.cached_input - tier.input)
    if usage.written and tier.cache_write is not None:
        total += usage.written * (tier.cache_write - tier.input)
    return (total + _MILLION // 2) // _MILLION


def bounds(price: Price, input_hi: int, output_lo: int, output_hi: int, *, thinking: bool = False) -> tuple[int, int]:
    """The least and the most that a request of at most `input_hi` tokens may cost, in nano-USD, nothing cached.

    The lower bound takes `output_lo` tokens of output, the upper one `output_hi` at the dearest tier that an input of
    up to `input_hi` can fall in; reserve the upper one where a budget is hard.
    """
    least = cost(price, Usage(input=input_hi, output=output_lo), thinking)
    most = 0
    for tier in price.tiers:
        if tier.above_input_tokens < input_hi or tier is price.tiers[0]:
            flat = Price((tier,), price.version)
            written = input_hi if (tier.cache_write or 0) > tier.input else 0
            most = max(most, cost(flat, Usage(input=input_hi, output=output_hi, written=written), thinking))
    return min(least, most), most


def affordable_input(price: Price, most_nano: int, output_tokens: int) -> int:
    """The largest input, in tokens, whose request costs at most `most_nano`; -1 where even none costs more.

    Judged at the dearest reading of a tier, all of it written to a cache and the output thought over, so that what is
    billed for no more tokens than these is never more.

    >>> affordable_input(Price((PriceTier(0, 1_000_000_000, 2_000_000_000),), "list"), 5_000_000, 2_000)
    1000
    """
    most_nano *= _MILLION
    held = -1
    for i, tier in enumerate(price.tiers):
        rate = max(tier.input, tier.cache_write or 0)
        left = most_nano - output_tokens * max(tier.output, tier.thinking_output or 0)
        if left < 0 or ((tier.above_input_tokens + 1) * rate > left and i):
            break
        ends = price.tiers[i + 1].above_input_tokens if i + 1 < len(price.tiers) else _NO_END
        held = min(left // rate, ends) if rate else ends
        if held < ends:
            break
    return held


def span(price: Price, input_tokens: tuple[int, int], output_hi: int, *, thinking: bool) -> tuple[int, int]:
    """The least and the most that a request can cost, in nano-USD, if its input lies between two numbers of tokens.

    The least: the shorter input, all of it read from a cache where the price list has a price for that, and no output.
    The most: `output_hi` tokens of output and, where that is dearer, all of the input written into a cache; with
    `thinking`, the output at whichever of its prices is higher. Every tier that the input can fall in is looked at,
    because a longer request can be billed at a lower one.

    >>> span(Price((PriceTier(0, 1_000_000_000, 2_000_000_000),), "test"), (100, 200), 1_000, thinking=False)
    (100000, 2200000)
    """
    lo, hi = input_tokens
    lows, highs = [], []
    for i, tier in enumerate(price.tiers):
        first = tier.above_input_tokens + 1 if i else 0
        last = price.tiers[i + 1].above_input_tokens if i + 1 < len(price.tiers) else max(hi, first)
        if last < lo or first > hi:
            continue
        least, most = max(lo, first), min(hi, last)
        flat = Price((tier,), price.version)
        written = most if (tier.cache_write or 0) > tier.input else 0
        lows.append(min(cost(flat, Usage(input=least), False), cost(flat, Usage(input=least, cached=least), False)))
        used = Usage(input=most, output=output_hi, written=written)
        highs.append(max(cost(flat, used, with_thinking) for with_thinking in {False, thinking}))
    return min(lows), max(highs)


def converted(listed: Price, nano_usd_per_unit: int, currency: str) -> Price:
    """A price list of another currency in USD, every price rounded half up to a nano-USD; its version says the rate.

    >>> converted(Price((PriceTier(0, 12_000_000_000, 36_000_000_000),), "list@2026-09"), 140_000_000, "CNY").version
    'list@2026-09 CNY=0.14'
    """

    def usd(amount: int | None) -> int | None:
        return None if amount is None else _usd(amount, nano_usd_per_unit)

    tiers = tuple(
        PriceTier(
            above_input_tokens=tier.above_input_tokens,
            input=_usd(tier.input, nano_usd_per_unit),
            output=_usd(tier.output, nano_usd_per_unit),
            cached_input=usd(tier.cached_input),
            thinking_output=usd(tier.thinking_output),
            cache_write=usd(tier.cache_write),
        )
        for tier in listed.tiers
    )
    whole, fraction = divmod(nano_usd_per_unit, NANO_PER_USD)
    rate = f"{whole}.{fraction:09d}".rstrip("0").rstrip(".")
    return Price(tiers, f"{listed.version} {currency}={rate}")


def _usd(amount: int, nano_usd_per_unit: int) -> int:
    return (amount * nano_usd_per_unit + NANO_PER_USD // 2) // NANO_PER_USD


def dollars(nano: int) -> str:
    """An amount for people, with as many places as it takes to see it.

    >>> dollars(50_000_000_000), dollars(1_500), dollars(14_000), dollars(0), dollars(-2_000_000)
    ('$50.00', '$0.000001500', '$0.000014', '$0.00', '-$0.002000')
    """
    usd = abs(nano) / NANO_PER_USD
    places = 2 if nano % 10_000_000 == 0 else 6 if abs(nano) >= 100_000 or nano % 1_000 == 0 else 9
    return f"{'-' if nano < 0 else ''}${usd:,.{places}f}"
