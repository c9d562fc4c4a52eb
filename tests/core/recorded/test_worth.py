"""What a request would have cost elsewhere: the likely value lies between its bounds, and each assumption shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.money.pricing import cost
from gateway.core.recorded.records import Decided, Recorded, Result, Spoken, World
from gateway.core.recorded.worth import Cost, Elsewhere
from gateway.core.types import Price, PriceTier, Target, Usage
from tests.core.fleets import CATALOGUE, FLEET

BY_NAME = {target.name: target for target in FLEET.targets}
QWEN = BY_NAME["qwen122"]  # 0.4 USD in, 3.0 USD out, tokenizer qwen3.5
MILLION = 1_000_000


def answered(target: str = "scout", thinking: str = "client", **more: Any) -> Recorded:
    usage = Usage(**{"input": MILLION, "output": MILLION, **more.pop("usage", {})})
    result = Result(200, target=target, model=BY_NAME[target].model.id, usage=usage)
    return Recorded(1, "id", 0.0, "p@1", "f", "k", "auto", World(), Decided("r", (target,), thinking), result, **more)


def elsewhere(target: Target, recorded: Recorded, thinking: str = "client") -> Cost:
    found = Elsewhere(target, CATALOGUE).cost(recorded, thinking)
    assert found is not None
    return found


def usd(found: Cost) -> tuple[float, float, float]:
    return found.low / 1e9, found.likely / 1e9, found.high / 1e9


def test_the_same_target_costs_what_it_cost() -> None:
    assert usd(elsewhere(QWEN, answered("qwen122"))) == (3.4, 3.4, 3.4)


def test_the_same_model_at_another_price_is_certain_but_for_its_cache() -> None:
    other = replace(QWEN, name="other", price=Price((PriceTier(0, 10**9, 10**9, cached_input=10**8),), "x"))
    assert usd(elsewhere(other, answered("qwen122"))) == (2.0, 2.0, 2.0)
    assert usd(elsewhere(other, answered("qwen122", usage={"cached": MILLION}))) == (1.1, 1.1, 2.0)


def test_another_tokenizer_is_in_doubt_by_the_language() -> None:
    silent = {"usage": {"output": 0}}
    assert usd(elsewhere(QWEN, answered(**silent))) == (0.2, 0.4, 0.8)
    english = {"language": Spoken({"en": 1.0}, 90, 0.0)}
    assert usd(elsewhere(QWEN, answered(**silent, signals=english))) == (0.32, 0.4, 0.5)
    assert usd(elsewhere(QWEN, answered("qwen35", **silent))) == (0.4, 0.4, 0.4)


def test_another_model_may_be_terse_or_wordy_as_far_as_it_is_let() -> None:
    wordless = {"input": 0}
    assert usd(elsewhere(QWEN, answered(usage=wordless))) == (1.5, 3.0, 6.0)
    held = answered(usage=wordless, signals={"max_output_tokens": 1_200_000})
    assert usd(elsewhere(QWEN, held)) == (1.5, 3.0, 3.6)


def test_thinking_that_is_switched_off_saves_its_tokens_and_switched_on_adds_some() -> None:
    thought = {"input": 0, "reasoning": MILLION // 2}
    assert usd(elsewhere(QWEN, answered("qwen122", "always", usage=thought), "never")) == (1.5, 1.5, 3.0)
    plain = {"input": 0}
    assert usd(elsewhere(QWEN, answered("qwen122", "never", usage=plain), "always")) == (3.0, 3.0, 12.0)
    assert usd(elsewhere(QWEN, answered("qwen122", "never", usage=plain), "budget:1000000")) == (3.0, 3.0, 6.0)


def test_nothing_is_said_of_what_has_no_price_or_no_answer() -> None:
    assert Elsewhere(BY_NAME["oss"], CATALOGUE).cost(answered(), "client") is None
    failed = answered()
    failed.result.usage = None
    assert Elsewhere(QWEN, CATALOGUE).cost(failed, "client") is None
    assert Elsewhere(BY_NAME["oss"], CATALOGUE).guess(failed) is None


def test_a_request_that_was_refused_may_cost_what_its_bounds_allow() -> None:
    refused = answered(tokens={"": (0, 4 * MILLION, True)}, signals={"max_output_tokens": 100})
    assert usd(Elsewhere(QWEN, CATALOGUE).guess(refused) or Cost()) == (0.00003, 0.4003, 1.6003)
    counted = answered(tokens={"": (0, 4 * MILLION, True), "qwen3.5": (MILLION, MILLION, True)})
    assert usd(Elsewhere(QWEN, CATALOGUE).guess(counted) or Cost()) == (0.40015, 0.4015, 0.406)


PRICES = st.sampled_from([
    Price((PriceTier(0, 10**8, 10**9),), "a"),
    Price((PriceTier(0, 10**8, 10**9, 10**7, 4 * 10**9, 2 * 10**8), PriceTier(1_000, 3 * 10**8, 2 * 10**9)), "b"),
])  # fmt: skip


@given(
    PRICES,
    st.sampled_from(["qwen122", "qwen35", "scout"]),
    st.sampled_from(["never", "client", "always", "budget:500"]),
    st.sampled_from(["never", "client", "always", "budget:500"]),
    st.tuples(st.integers(0, 5_000), st.integers(0, 5_000), st.floats(0, 1), st.floats(0, 1)),
    st.sampled_from([None, 10, 3_000]),
)
def test_the_likely_cost_lies_between_its_bounds(
    price: Price, served: str, before: str, after: str, used: tuple[int, int, float, float], asked: int | None
) -> None:
    count, output, cached, reasoning = used
    usage = {"input": count, "output": output, "cached": int(count * cached), "reasoning": int(output * reasoning)}
    recorded = answered(served, before, usage=usage, signals={"max_output_tokens": asked})
    target = replace(QWEN, price=price)
    found = elsewhere(target, recorded, after)
    assert 0 <= found.low <= found.likely <= found.high
    if served == "qwen122" and before == after:
        assert recorded.result.usage is not None
        assert found.likely == cost(price, recorded.result.usage, after in ("always", "budget:500"))
