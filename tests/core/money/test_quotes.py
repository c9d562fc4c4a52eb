"""What an attempt can cost at most: never less than it is billed, and a clamp that keeps what it promises."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.money import pricing, quotes
from gateway.core.request import wire
from gateway.core.servers import dialects
from gateway.core.types import Decision, Endpoint, Price, PriceTier, Target, Thinking, Usage
from gateway.owndialects import DialectDoc
from tests.core.fleets import FLEET

COUNT = st.integers(0, 200_000)
RATES = 10**10
RATE = st.integers(0, RATES)


@st.composite
def prices(draw: st.DrawFn) -> Price:
    edges = [0, *sorted(draw(st.sets(st.integers(1, 150_000), max_size=2)))]
    maybe = st.none() | RATE
    tiers = [PriceTier(edge, draw(RATE), draw(RATE), draw(maybe), draw(maybe), draw(maybe)) for edge in edges]
    return Price(tuple(tiers), "test")


@given(prices(), COUNT, COUNT, st.data(), st.booleans())
def test_nothing_is_billed_above_the_most(
    price: Price, entered: int, produced: int, data: st.DataObject, thinking: bool
) -> None:
    cached = data.draw(st.integers(0, entered))
    used = Usage(entered, produced, cached, data.draw(st.integers(0, produced)), written=entered - cached)
    more = data.draw(COUNT)
    assert pricing.cost(price, used, thinking) <= quotes.most(price, entered + more, produced)


@given(prices(), COUNT, st.integers(0, 10**12))
def test_what_can_be_afforded_costs_no_more_and_one_token_more_would(price: Price, entered: int, nano: int) -> None:
    output = quotes.affordable_output(price, entered, nano)
    if output is None:
        assert quotes.most(price, entered, 10**9) <= nano
    elif output < 0:
        assert quotes.most(price, entered, 0) > nano
    else:
        assert quotes.most(price, entered, output) <= nano < quotes.most(price, entered, output + 1)


def target(**over: object) -> Target:
    price = Price((PriceTier(0, 1_000_000_000, 2_000_000_000),), "test")
    first = FLEET.targets[0]
    return replace(first, **{"price": price, "window": 10_000, "max_output": None, "max_input": None, **over})


def decision(*targets: Target, thinking: str = "never") -> Decision:
    return Decision("p@1", "r", targets, Thinking(thinking), "because")  # type: ignore[arg-type]


def test_an_attempt_reaches_no_further_than_its_target_can() -> None:
    dear, cheap = target(max_output=500), target(max_input=700)
    found = list(quotes.reaches(decision(dear, cheap), 1_000, 0, 2))
    assert [(one.input, one.output) for one in found] == [(1_000, 1_000), (700, 20_000)]
    assert [one.output for one in quotes.reaches(decision(dear, cheap), None, 600, 1)] == [500, 600]


@given(st.lists(prices(), min_size=1, max_size=3), COUNT, st.integers(0, 5_000))
def test_a_quote_that_is_kept_says_the_same(lists: list[Price], entered: int, asked: int) -> None:
    chosen = decision(*(target(price=one, window=100_000 + n) for n, one in enumerate(lists)))
    quick = quotes.quote(chosen, asked).most(entered)
    if quick is None:
        assert any(len(one.tiers) > 1 for one in lists)
    else:
        assert quick == quotes.dearest(quotes.reaches(chosen, entered, asked, 1))


@given(st.lists(prices(), min_size=1, max_size=3), st.integers(0, 100_000), st.integers(0, 5_000))
def test_what_follows_from_the_size_of_a_body_is_what_its_bound_can_cost(
    lists: list[Price], size: int, asked: int
) -> None:
    chosen = decision(*(target(price=one, window=50_000 + n) for n, one in enumerate(lists)))
    one = quotes.quote(chosen, asked)
    if size <= one.upto:
        most = one.most(wire.quick_tokens(size))
        assert most is not None
        # Halves of a token are rounded up once, and not down.
        assert most <= one.need(size) <= most + RATES // (2 * 10**6) + 1
    else:
        assert one.upto < 0 or wire.quick_tokens(size) > 50_000


def test_a_quote_of_one_price_holds_for_all_that_fits() -> None:
    one = quotes.quote(decision(target(window=10_000)), 100)
    assert wire.quick_tokens(one.upto) <= 10_000 < wire.quick_tokens(one.upto + 1)
    assert one.need(4_000) == (4_000 * 3 // 2 + 1_024) * 1_000 + 100 * 2_000


def test_the_dearest_candidate_is_what_is_set_aside() -> None:
    cheap = target()
    dear = target(price=Price((PriceTier(0, 5_000_000_000, 9_000_000_000),), "test"))
    found = list(quotes.reaches(decision(cheap, dear), 1_000, 100, 1))
    assert quotes.dearest(found) == 5_900_000


def test_a_clamp_keeps_every_candidate_within_the_sum() -> None:
    one, other = target(), target(price=Price((PriceTier(0, 5_000_000_000, 9_000_000_000),), "test"))
    chosen = decision(one, other)
    found = list(quotes.reaches(chosen, 1_000, 0, 2))
    limit = quotes.clamped(chosen, found, 14_000_000, 2)
    assert limit == 500
    assert quotes.dearest(quotes.reaches(chosen, 1_000, limit, 2)) <= 14_000_000


def test_who_does_not_obey_a_limit_is_not_clamped_and_counts_with_its_window() -> None:
    deaf = target(unsupported=frozenset({"max_tokens"}))
    found = list(quotes.reaches(decision(deaf), 1_000, 10, 1))
    assert found[0].output == 10_000
    assert quotes.clamped(decision(deaf), found, 5_000_000, 1) is None


def own(**settings: object) -> Target:
    return spoken(DialectDoc.model_validate(settings).row("acme"))


def spoken(row: dialects.Dialect) -> Target:
    made = replace(target().backend, dialect=row.name, own_dialect=row, limit_counts=row.limit_counts)
    return replace(target(thinking="switchable"), backend=replace(made, limit_lost=dialects.limit_lost(row, {})))


def test_a_dialect_of_ones_own_heeds_the_limit_as_the_one_it_is_like_unless_it_says_otherwise() -> None:
    for settings, heeds in (
        ({}, True),
        ({"auth": {"header": "X-Api-Key"}, "thinking": {"switch": "reasoning.enabled"}}, True),
        ({"limit": "max_tokens", "drops": ["max_completion_tokens"]}, True),
        ({"like": "dashscope"}, False),
        ({"like": "dashscope", "limit_counts": "all"}, True),
        ({"limit_counts": "answer"}, False),
        ({"limit_counts": "nothing"}, False),
        ({"drops": ["max_tokens"]}, False),
        ({"drops": ["max_completion_tokens"]}, False),
        ({"limit": "max_tokens", "drops": ["max_tokens"]}, False),
        ({"body": {"max_tokens": 9}}, False),
    ):
        one = own(**settings)
        (reach,) = quotes.reaches(decision(one, thinking="client"), 1_000, 20, 1)
        assert (reach.output == 20, reach.output == one.window) == (heeds, not heeds), settings
        assert (reach.why == "") == heeds
    assert quotes.unheeded(own(limit_counts="nothing"), "never") == "the dialect acme is not known to heed max_tokens"


def test_what_a_provider_gives_at_most_bounds_an_answer_that_heeds_no_limit_but_not_thoughts_beside_it() -> None:
    deaf, beside = (replace(own(limit_counts=one), max_output=4_096) for one in ("nothing", "answer"))
    told = "its whole max_output counts, for the dialect acme is not known to heed max_tokens"
    assert quotes.longest_output(deaf, 20, "client") == (4_096, told)
    assert quotes.longest_output(beside, 20, "client")[0] == beside.window
    share = quotes.share(quotes.reaches(decision(deaf), 1_000, 20, 1))
    assert share is not None
    assert (share.output, share.why) == (4_096, told)


def test_a_limit_that_does_not_count_thoughts_bounds_nothing_while_there_may_be_some() -> None:
    beside = spoken(dialects.DIALECTS["dashscope"])
    assert not quotes.obeys(beside, "client")
    assert quotes.obeys(beside, "never")
    assert not quotes.obeys(replace(beside, thinking="always"), "never")


@pytest.mark.parametrize("dialect", ["openai", "vllm", "llama.cpp", "sglang", "dashscope", "vertex", "ollama"])
def test_a_limit_that_is_added_reaches_every_dialect(dialect: str) -> None:
    """What `admitting` writes into a request that stated no limit."""
    one, place = target(), Endpoint("http://x/v1", "http", "x", 80, "/v1")
    plan = dialects.prepare(replace(one, backend=replace(one.backend, dialect=dialect, endpoints=(place,))))
    asked = wire.parse(b'{"model":"m","messages":[{"role":"user","content":"hi"}]}')
    clamped = wire.parse(wire.emit(asked, {quotes.OUTPUT_LIMITS[0]: b"77"}))
    assert b":77" in dialects.request_body(clamped, plan, Thinking("never"))
