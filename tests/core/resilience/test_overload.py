"""What is given up when, and in which order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.resilience.overload import PRIORITIES, Steps, rank_of, retry_after_s

STEPS = Steps(0.7, 0.75, 0.85, 0.95)
shares = st.lists(st.floats(0.01, 1.0), min_size=4, max_size=4).map(lambda some: Steps(*sorted(some)))


@given(shares, st.integers(1, 1_000_000))
def test_who_matters_less_is_refused_no_later_and_keep_alive_goes_first(steps: Steps, most: int) -> None:
    rooms = steps.rooms(most)
    assert list(rooms) == sorted(rooms)
    assert 1 <= steps.keeps(most) <= rooms[0]
    assert rooms[-1] == most, "critical requests have all of it"


@pytest.mark.parametrize(("most", "rooms"), [(1, (1, 1, 1, 1)), (4, (3, 4, 4, 4)), (100, (75, 85, 95, 100))])
def test_shares_of_few_places_are_rounded_up(most: int, rooms: tuple[int, ...]) -> None:
    assert STEPS.rooms(most) == rooms


def test_a_client_may_ask_for_less_than_its_key_has_and_never_for_more() -> None:
    for key in PRIORITIES:
        assert rank_of(key, None) == PRIORITIES.index(key)
        for asked in PRIORITIES:
            assert rank_of(key, asked) == min(PRIORITIES.index(key), PRIORITIES.index(asked))


@given(st.floats(0, 1, exclude_max=True))
def test_who_matters_less_is_sent_away_for_longer(draw: float) -> None:
    times = [retry_after_s(rank, draw) for rank in range(len(PRIORITIES))]
    assert times == sorted(times, reverse=True)
    assert all(1 <= one < 20 for one in times)
