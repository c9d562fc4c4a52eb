"""The board, told outcomes at times."""

from __future__ import annotations

import pytest

from gateway.core.resilience.health import (
    AUTH_S,
    BLAME,
    CROWDED_S,
    EJECTION_S,
    FAILURES,
    FORBIDDEN,
    LONGEST_S,
    PROBE_S,
    STATES,
    Blame,
    Board,
)
from gateway.core.types import Backend, Endpoint, Fleet, Model, Outcome, Target

URLS = ("http://1:1/v1", "http://2:1/v1")


def fleet(*sizes: int) -> Fleet:
    targets = []
    for index, size in enumerate(sizes):
        places = tuple(Endpoint(url, "http", "h", 1, "/v1") for url in URLS[:size])
        targets.append(Target("abcdef"[index], index, Model("m", "qwen"), Backend("b", "vllm", places), "m", 8192))
    return Fleet(tuple(targets), {})


THREE = fleet(1, 1, 1)
ALL = 0b111


def fail(board: Board, now: float, times: int = FAILURES, target: str = "a") -> None:
    for _ in range(times):
        board.record(target, Outcome.RESET, now)


def test_every_outcome_is_judged() -> None:
    assert set(BLAME) == set(Outcome)


def test_all_are_available_until_something_happens() -> None:
    assert Board().available(THREE, 0.0) == ALL


def test_five_consecutive_failures_eject_for_thirty_seconds() -> None:
    board = Board()
    fail(board, 100.0, FAILURES - 1)
    assert board.available(THREE, 100.0) == ALL
    fail(board, 101.0, 1)
    assert board.available(THREE, 101.0) == 0b110
    assert board.available(THREE, 101.0 + EJECTION_S - 0.01) == 0b110
    assert board.available(THREE, 101.0 + EJECTION_S) == ALL


def test_a_success_between_starts_the_count_anew() -> None:
    board = Board()
    fail(board, 0.0, FAILURES - 1)
    board.record("a", Outcome.OK, 0.0)
    fail(board, 0.0, FAILURES - 1)
    assert board.available(THREE, 0.0) == ALL


@pytest.mark.parametrize("outcome", [o for o, blame in BLAME.items() if blame in (Blame.GOOD, Blame.NONE)])
def test_a_client_s_own_doing_blames_no_target(outcome: Outcome) -> None:
    board = Board()
    for _ in range(50):
        board.record("a", outcome, 0.0)
    assert board.available(THREE, 0.0) == ALL


def test_ejections_in_a_row_grow_to_a_cap() -> None:
    board = Board()
    now = 0.0
    fail(board, now)
    for number in range(1, 14):
        expected = min(EJECTION_S * number, LONGEST_S)
        assert board.available(THREE, now + expected - 1) == 0b110
        now += expected
        assert board.available(THREE, now) == ALL
        board.record("a", Outcome.REFUSED, now)  # half-open: one failure is enough
    board.record("a", Outcome.OK, now)
    fail(board, now)
    assert board.available(THREE, now + EJECTION_S) == ALL


def test_failures_of_requests_already_under_way_do_not_lengthen_an_ejection() -> None:
    board = Board()
    fail(board, 0.0, FAILURES + 20)
    assert board.available(THREE, EJECTION_S) == ALL


def test_jitter_lengthens_by_up_to_a_tenth() -> None:
    board = Board()
    for _ in range(FAILURES):
        board.record("a", Outcome.RESET, 0.0, jitter=0.5)
    assert board.available(THREE, EJECTION_S * 1.05 - 0.01) == 0b110
    assert board.available(THREE, EJECTION_S * 1.05 + 0.01) == ALL


def test_retry_after_extends_and_never_shortens() -> None:
    board = Board()
    board.record("a", Outcome.RATE_LIMITED, 0.0, 20.0)
    board.record("a", Outcome.RATE_LIMITED, 1.0, 2.0)
    assert board.available(THREE, 19.9) == 0b110
    board.record("a", Outcome.RATE_LIMITED, 19.9, 30.0)
    assert board.available(THREE, 49.8) == 0b110
    assert board.available(THREE, 49.9) == ALL
    board.record("b", Outcome.OVERLOADED, 100.0, 99_999.0)
    assert board.available(THREE, 100.0 + LONGEST_S - 1) == 0b101
    assert board.available(THREE, 100.0 + LONGEST_S) == ALL


def test_a_success_that_was_under_way_does_not_shorten_what_the_upstream_asked_for() -> None:
    board = Board()
    board.record("a", Outcome.RATE_LIMITED, 0.0, 20.0)
    board.record("a", Outcome.OK, 1.0)
    assert board.available(THREE, 19.9) == 0b110
    assert board.states(THREE, 2.0)[0]["state"] == "rate_limited"
    assert board.available(THREE, 20.0) == ALL
    fail(board, 30.0, target="b")
    board.record("b", Outcome.OK, 31.0)  # an ejection is our own guess: a success corrects it
    assert board.available(THREE, 31.0) == ALL


def test_a_rate_limit_without_a_time_is_short() -> None:
    board = Board()
    board.record("a", Outcome.RATE_LIMITED, 0.0)
    assert board.available(THREE, 0.5) == 0b110
    assert board.available(THREE, 1.0) == ALL


def test_one_failure_behind_a_rate_limit_is_one_failure() -> None:
    board = Board()
    board.record("a", Outcome.RATE_LIMITED, 0.0)
    board.record("a", Outcome.RESET, 5.0)
    assert board.available(THREE, 5.0) == ALL


def test_a_refused_key_and_a_lost_model_hold_a_target_back_at_once() -> None:
    board = Board()
    board.record("a", Outcome.AUTH, 0.0)
    board.record("b", Outcome.MODEL_GONE, 0.0)
    assert board.available(THREE, 0.0) == 0b100
    assert [one["state"] for one in board.states(THREE, 0.0)] == ["auth", "gone", "healthy"]


def test_a_pool_is_never_emptied() -> None:
    board = Board()
    for name in "abc":
        fail(board, 0.0, target=name)
    assert board.available(THREE, 0.0) == ALL


def test_the_last_resort_leaves_out_what_a_person_must_mend_unless_nobody_else_is_left() -> None:
    board = Board()
    fail(board, 0.0)
    board.record("b", Outcome.AUTH, 0.0)
    assert board.available(THREE, 0.0) == 0b100
    assert board.last_resort(THREE, 0.0) == (0b101, ALL)
    for name in "abc":
        board.record(name, Outcome.AUTH, 0.0)
    assert board.last_resort(THREE, 0.0) == (0, ALL)


def test_a_half_open_target_gets_one_probe_at_a_time() -> None:
    board = Board()
    fail(board, 0.0)
    back = EJECTION_S
    assert board.available(THREE, back) == ALL
    assert board.states(THREE, back)[0]["state"] == "half_open"
    board.started("a", back)
    assert board.available(THREE, back + 1) == 0b110
    assert board.states(THREE, back + 1)[0]["state"] == "probing"
    board.record("a", Outcome.OK, back + 2)
    assert board.available(THREE, back + 2) == ALL
    assert board.states(THREE, back + 2)[0]["state"] == "healthy"


def test_a_probe_that_fails_ejects_for_longer_and_one_that_is_lost_is_forgotten() -> None:
    board = Board()
    fail(board, 0.0)
    board.started("a", EJECTION_S)
    board.record("a", Outcome.FIRST_EVENT_TIMEOUT, EJECTION_S + 5)
    assert board.available(THREE, EJECTION_S + 5 + 2 * EJECTION_S - 1) == 0b110
    later = EJECTION_S + 5 + 2 * EJECTION_S
    board.started("a", later)
    assert board.available(THREE, later + PROBE_S - 1) == 0b110
    assert board.available(THREE, later + PROBE_S) == ALL


@pytest.mark.parametrize("outcome", [o for o, blame in BLAME.items() if blame is Blame.NONE])
@pytest.mark.parametrize("endpoint", ["", URLS[0]])
def test_a_probe_that_says_nothing_of_the_target_lets_the_next_request_probe(outcome: Outcome, endpoint: str) -> None:
    pair = fleet(2 if endpoint else 1, 1)
    board = Board()
    for url in URLS if endpoint else [""]:
        for _ in range(FAILURES):
            board.record("a", Outcome.RESET, 0.0, endpoint=url)
    back = EJECTION_S
    for url in URLS if endpoint else [""]:
        board.started("a", back, url)
    assert board.available(pair, back + 1) == 0b10
    board.record("a", outcome, back + 1, endpoint=endpoint)
    assert board.available(pair, back + 1) == 0b11
    assert not board.endpoint_held("a", endpoint, back + 1)
    board.started("a", back + 2, endpoint)
    assert board.available(pair, back + 2) == 0b10
    board.record("a", Outcome.RESET, back + 3, endpoint=endpoint)  # still half-open: one failure is enough
    assert board.available(pair, back + 3 + 2 * EJECTION_S - 1) == (0b10 if not endpoint else 0b11)
    assert board.endpoint_held("a", endpoint, back + 3 + 2 * EJECTION_S - 1)


def test_what_says_nothing_of_a_target_does_not_end_its_ejection() -> None:
    board = Board()
    fail(board, 0.0)
    board.record("a", Outcome.CLIENT_GONE, 1.0)
    assert board.available(THREE, EJECTION_S - 1) == 0b110


def test_a_403_may_be_moderation_of_one_prompt_and_holds_a_target_only_when_it_comes_again_and_again() -> None:
    board = Board()
    for _ in range(5):
        for _ in range(FORBIDDEN - 1):
            board.record("a", Outcome.FORBIDDEN, 0.0)
        assert board.available(THREE, 0.0) == ALL
        assert board.states(THREE, 0.0)[0]["state"] == "healthy"
        board.record("a", Outcome.OK, 0.0)
    for _ in range(FORBIDDEN):
        board.record("a", Outcome.FORBIDDEN, 0.0)
    assert board.available(THREE, AUTH_S - 1) == 0b110
    assert board.states(THREE, 0.0)[0]["state"] == "auth"
    assert board.last_resort(THREE, 0.0) == (0b110, ALL)
    assert board.available(THREE, AUTH_S) == ALL
    board.record("a", Outcome.FORBIDDEN, AUTH_S)
    assert board.available(THREE, AUTH_S) == 0b110


def test_a_403_tells_no_more_of_a_half_open_target_than_that_it_answers() -> None:
    board = Board()
    fail(board, 0.0)
    board.started("a", EJECTION_S)
    board.record("a", Outcome.FORBIDDEN, EJECTION_S + 1)
    assert board.available(THREE, EJECTION_S + 1) == ALL


def test_one_dead_replica_does_not_eject_its_target() -> None:
    pair = fleet(2, 1)
    board = Board()
    for _ in range(FAILURES):
        board.record("a", Outcome.REFUSED, 0.0, endpoint=URLS[0])
    assert board.available(pair, 0.0) == 0b11
    assert board.endpoint_held("a", URLS[0], 0.0)
    assert not board.endpoint_held("a", URLS[1], 0.0)
    for _ in range(FAILURES):
        board.record("a", Outcome.REFUSED, 10.0, endpoint=URLS[1])
    assert board.available(pair, 10.0) == 0b10
    told = board.states(pair, 10.0)[0]
    assert told["state"] == "ejected"
    assert {url: one["state"] for url, one in told["endpoints"].items()} == dict.fromkeys(URLS, "ejected")
    assert board.available(pair, EJECTION_S) == 0b11  # the first replica is half-open again
    board.record("a", Outcome.OK, EJECTION_S, endpoint=URLS[0])
    assert not board.endpoint_held("a", URLS[0], EJECTION_S)


def test_an_only_endpoint_stands_for_its_target() -> None:
    board = Board()
    for _ in range(FAILURES):
        board.record("a", Outcome.REFUSED, 0.0, endpoint=URLS[0])
    assert board.available(THREE, 0.0) == 0b110


def test_a_key_refused_by_one_replica_is_refused_by_all() -> None:
    pair = fleet(2, 1)
    board = Board()
    board.record("a", Outcome.AUTH, 0.0, endpoint=URLS[0])
    assert board.available(pair, 0.0) == 0b10
    board.record("a", Outcome.OK, 1.0, endpoint=URLS[1])
    assert board.available(pair, 1.0) == 0b11


def test_a_board_survives_a_reload_by_names() -> None:
    board = Board()
    fail(board, 0.0, target="b")
    assert board.available(THREE, 0.0) == 0b101
    assert board.available(fleet(1, 1), 0.0) == 0b01


def test_states_say_why_and_for_how_long() -> None:
    board = Board()
    fail(board, 0.0)
    assert board.states(THREE, 10.0) == [
        {"target": "a", "state": "ejected", "reason": "reset", "failures": 5, "held_for_s": 20.0},
        {"target": "b", "state": "healthy", "reason": None, "failures": 0, "held_for_s": 0.0},
        {"target": "c", "state": "healthy", "reason": None, "failures": 0, "held_for_s": 0.0},
    ]


def test_latencies_are_smoothed_and_a_mapping_once_handed_out_never_changes() -> None:
    board = Board()
    board.latency("a", 1.0)
    first = board.latency_s
    board.latency("a", 2.0)
    assert first == {"a": 1.0}
    assert board.latency_s == pytest.approx({"a": 1.2})
    shown = board.latency_s
    board.latency("a", 1.21)
    assert board.latency_s is shown


def test_what_is_known_not_to_be_there_is_held_back_until_it_is() -> None:
    board = Board()
    fail(board, 100.0)
    board.hold("a")
    assert board.available(THREE, 1e9) == 0b110
    [row, *_] = board.states(THREE, 1e9)
    assert (row["state"], row["reason"], row["held_for_s"]) == ("ejected", "refused", None)
    board.release("a")
    assert board.available(THREE, 101.0) == ALL
    assert board.entries == {}  # the failures before it was gone are forgotten with it


def test_a_target_that_is_not_there_is_still_a_last_resort() -> None:
    board = Board()
    for name in "abc":
        board.hold(name)
    assert board.available(THREE, 1.0) == ALL
    assert board.last_resort(THREE, 1.0) == (ALL, ALL)


def test_releasing_what_was_never_held_changes_nothing() -> None:
    board = Board()
    board.release("a")
    assert board.available(THREE, 1.0) == ALL


def test_an_ejection_is_counted_when_it_begins_by_what_brought_it_about() -> None:
    board = Board()
    fail(board, 100.0, FAILURES - 1)
    assert board.ejections == {}
    fail(board, 100.0, 3)  # those behind the fifth find it held back already
    board.record("b", Outcome.RATE_LIMITED, 100.0, 20.0)
    board.record("b", Outcome.RATE_LIMITED, 101.0, 20.0)
    assert board.ejections == {("a", "", Outcome.RESET): 1, ("b", "", Outcome.RATE_LIMITED): 1}
    board.record("a", Outcome.REFUSED, 100.0 + EJECTION_S * 1.2)  # the probe
    board.hold("c")
    board.hold("c")
    assert board.ejections == {
        ("a", "", Outcome.RESET): 1,
        ("a", "", Outcome.REFUSED): 1,
        ("b", "", Outcome.RATE_LIMITED): 1,
        ("c", "", Outcome.REFUSED): 1,
    }


def test_every_endpoint_has_the_worse_of_its_own_state_and_its_target_s() -> None:
    board = Board()
    two = fleet(2, 1)
    for _ in range(FAILURES):
        board.record("a", Outcome.RESET, 100.0, endpoint=URLS[0])
    assert list(board.endpoint_states(two, 100.0)) == [
        ("a", URLS[0], "ejected"), ("a", URLS[1], "healthy"), ("b", URLS[0], "healthy"),
    ]  # fmt: skip
    board.record("a", Outcome.RATE_LIMITED, 100.0, endpoint=URLS[1])
    board.record("b", Outcome.AUTH, 100.0)
    assert [state for _, _, state in board.endpoint_states(two, 100.0)] == ["ejected", "rate_limited", "auth"]
    assert {state for _, _, state in board.endpoint_states(two, 1e6)} <= set(STATES)


def test_overload_is_no_failure_and_leaves_an_endpoint_alone_for_a_short_time_that_doubles() -> None:
    board, two = Board(), fleet(2)
    now = 0.0
    for _ in range(50):  # what was under way when its queue was full
        board.record("a", Outcome.OVERLOADED, now, endpoint=URLS[0])
    assert board.endpoint_held("a", URLS[0], now)
    assert not board.endpoint_held("a", URLS[1], now)
    assert board.available(two, now) == 1
    for number in range(8):
        expected = min(CROWDED_S * 2**number, EJECTION_S)
        assert board.endpoint_held("a", URLS[0], now + expected - 0.01), number
        now += expected
        assert not board.endpoint_held("a", URLS[0], now), number
        board.record("a", Outcome.OVERLOADED, now, endpoint=URLS[0])
        told = board.states(two, now)[0]["endpoints"][URLS[0]]
        assert (told["reason"], told["failures"]) == ("overloaded", 0)
        assert told["state"] == ("rate_limited" if now < 60 else "ejected"), now  # an alert looks for the latter


def test_the_first_event_of_an_answer_ends_what_overload_left_and_no_ejection() -> None:
    board = Board()
    board.record("a", Outcome.OVERLOADED, 0.0)
    fail(board, 0.0, target="b")
    board.began("a", CROWDED_S / 2)  # of a request that was under way: the queue may still be full
    assert board.available(THREE, CROWDED_S / 2) == 0b100
    board.started("a", CROWDED_S)
    assert board.available(THREE, CROWDED_S) == 0b100
    board.began("a", CROWDED_S + 0.1)
    assert board.available(THREE, CROWDED_S + 0.1) == 0b101
    board.started("b", EJECTION_S)
    board.began("b", EJECTION_S)  # its stream may break as those before it did
    assert board.available(THREE, EJECTION_S) == 0b101


def test_a_target_is_crowded_when_all_of_it_asks_for_time() -> None:
    board, two = Board(), fleet(2).targets[0]
    board.record("a", Outcome.OVERLOADED, 0.0, endpoint=URLS[0])
    assert not board.crowded(two, 0.0)
    board.record("a", Outcome.OVERLOADED, 0.0, endpoint=URLS[1])
    assert board.crowded(two, 0.0)
    assert not board.crowded(two, CROWDED_S)
    board.record("a", Outcome.RATE_LIMITED, 5.0, 10.0)
    assert board.crowded(two, 14.9)
    for url in URLS:
        fail(board, 20.0)
        board.record("a", Outcome.REFUSED, 20.0, endpoint=url)
    assert not board.crowded(two, 20.0)


@pytest.mark.parametrize(("ejected", "spared"), [(1, 0), (2, 0), (3, 1), (4, 2)], ids=["one", "half", "most", "all"])
def test_of_replicas_that_answer_badly_half_stay_in_use(ejected: int, spared: int) -> None:
    board = Board()
    urls = [f"http://{number}:1/v1" for number in range(4)]
    for number, url in enumerate(urls[:ejected]):
        for _ in range(FAILURES):
            board.record("a", Outcome.SERVER_ERROR, float(number), endpoint=url)
    assert board.wrongly_held("a", urls, 5.0) == frozenset(urls[:spared])  # those that come back first


def test_a_replica_that_cannot_be_reached_or_asks_for_time_is_never_put_back_into_use() -> None:
    board = Board()
    urls = [f"http://{number}:1/v1" for number in range(4)]
    for url in urls[:2]:
        for _ in range(FAILURES):
            board.record("a", Outcome.REFUSED, 0.0, endpoint=url)
    for url in urls[2:]:
        board.record("a", Outcome.OVERLOADED, 0.0, 60.0, endpoint=url)
    assert board.wrongly_held("a", urls, 1.0) == frozenset()
    assert board.wrongly_held("a", urls[:2], 1.0) == frozenset()
