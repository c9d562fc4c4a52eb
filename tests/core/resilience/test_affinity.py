"""Prompts on their way to replicas that keep what they have read."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.resilience.affinity import LENGTHS, LOAD, NO_LOAD, Prefixes, beginnings
from tests.bench.affinity import WAYS, requests, run

SYSTEM = b"You are the assistant of a shop for bicycles. " * 30


def test_a_conversation_stays_where_it_was_as_it_grows() -> None:
    prefixes = Prefixes()
    text = SYSTEM + b"My chain is loose. "
    first = prefixes.place(text, [0] * 4)
    for _ in range(20):
        text += b"And what then? Tell me how that is done. "
        assert prefixes.place(text, [0] * 4) == first


def test_one_with_more_than_its_share_gets_nothing_for_what_it_has_cached() -> None:
    prefixes = Prefixes()
    first = prefixes.place(SYSTEM, [0] * 4)
    loads: list[int | None] = [4] * 4
    loads[first] = 5  # 1.25 times 18 / 4 is 5.6
    assert prefixes.place(SYSTEM, loads) == first
    loads[first] = 7
    second = prefixes.place(SYSTEM, loads)
    assert second != first
    loads[first] = 4
    loads[second] = 0
    assert prefixes.place(SYSTEM, loads) == second  # both know it: the less loaded one


def test_who_must_not_be_chosen_is_not() -> None:
    prefixes = Prefixes()
    first = prefixes.place(SYSTEM, [0] * 4)
    without: list[int | None] = [0] * 4
    without[first] = None
    for _ in range(5):
        assert prefixes.place(SYSTEM, without) not in (first, -1)


def test_short_prompts_matter_to_nobody() -> None:
    prefixes = Prefixes()
    assert prefixes.place(b"hi", [0, 0]) == -1
    assert len(prefixes) == 0


def test_gateways_agree_on_what_they_have_not_seen_and_spread_it() -> None:
    placed = Counter()  # type: ignore[var-annotated]
    for number in range(400):
        prompt = b"%d: " % number + SYSTEM
        one, other = Prefixes().place(prompt, [0] * 4), Prefixes().place(prompt, [0] * 4)
        assert one == other
        placed[one] += 1
    assert len(placed) == 4
    assert max(placed.values()) < 150


def test_what_is_remembered_is_bounded_and_the_least_lately_used_goes_first() -> None:
    prefixes = Prefixes(limit=100)
    kept = prefixes.place(SYSTEM, [0] * 4)
    for number in range(200):
        prefixes.place(b"%d: " % number + SYSTEM, [0] * 4)
        prefixes.place(SYSTEM, [0] * 4)
        assert len(prefixes) <= 100
    assert prefixes.place(SYSTEM, [0] * 4) == kept


@given(st.binary(min_size=300, max_size=5_000), st.data())
def test_a_beginning_has_one_name_whatever_follows(prompt: bytes, data: st.DataObject) -> None:
    upto = data.draw(st.integers(256, len(prompt)))
    names = beginnings(prompt)
    assert beginnings(prompt[:upto]) == names[: sum(length <= upto for length in LENGTHS)]
    assert beginnings(memoryview(prompt)) == names
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("seed", range(3))
def test_no_replica_is_ever_chosen_above_its_share(seed: int) -> None:
    dice = random.Random(seed)
    prefixes, loads = Prefixes(), [0] * 5
    under_way: list[int] = []
    for _ in range(2_000):
        shop = dice.choice([0, 0, 0, 0, 1, 2])  # most begin alike
        chosen = prefixes.place(b"%d " % shop + SYSTEM + dice.randbytes(dice.randrange(600)), loads)
        assert loads[chosen] < max(NO_LOAD, LOAD * (sum(loads) + 1) / 5 + 1)
        loads[chosen] += 1
        under_way.append(chosen)
        while len(under_way) > dice.randrange(1, 40):
            loads[under_way.pop(dice.randrange(len(under_way)))] -= 1


def test_replicas_that_cache_read_far_less_and_none_is_overloaded_for_it() -> None:
    asked = requests(1, 800, 15.0)
    spread, hashed, affine = (run(make(), asked) for make in WAYS.values())
    assert 1 - affine.hits < 0.6 * (1 - spread.hits)  # what is left to be read
    assert affine.first_p95_s < spread.first_p95_s
    assert affine.busiest < 1.3 < hashed.busiest
