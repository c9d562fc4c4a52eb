"""Failover as dialogues: this attempt ended so, therefore that one follows."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from gateway.core.errors import GatewayError
from gateway.core.resilience.failover import LEAST_S, TABLE, Ended, Follow, RetryBudget, failover
from gateway.core.types import Attempt, Backend, Decision, Endpoint, Model, Outcome, Target, Thinking


def target(name: str, *, window: int = 8192, endpoints: int = 1, index: int = 0) -> Target:
    places = tuple(Endpoint(f"http://{name}{i}:1/v1", "http", f"{name}{i}", 1, "/v1") for i in range(endpoints))
    return Target(name, index, Model(name, "qwen"), Backend(name, "vllm", places), name, window)


def decision(*targets: Target) -> Decision:
    return Decision("p@1", "r", targets, Thinking(), "because")


A, B, C = target("a"), target("b"), target("c")


def play(
    chosen: Decision, *ends: Outcome | Ended, max_attempts: int = 4, retries: RetryBudget | None = None
) -> tuple[list[Attempt], GatewayError | None]:
    """The attempts that were made, and what was returned after the last of `ends`."""
    tries = failover(chosen, max_attempts=max_attempts, retries=retries)
    made = [next(tries)]
    for end in ends:
        try:
            made.append(tries.send(end))
        except StopIteration as stop:
            assert end is ends[-1], f"it stopped at {end}"
            error: GatewayError | None = stop.value
            return made, error
    raise AssertionError(f"it still goes on: {made[-1]}")


def names(made: list[Attempt]) -> list[str]:
    return [attempt.target.name for attempt in made]


def test_every_outcome_has_its_row() -> None:
    assert set(TABLE) == set(Outcome)
    for outcome, row in TABLE.items():
        assert bool(row.code) == (row.follow is not Follow.DONE), outcome


def test_a_served_request_ends_the_dialogue() -> None:
    made, error = play(decision(A, B), Outcome.OK)
    assert made == [Attempt(A, 1)]
    assert error is None


#: By hand, so that a change of the table is noticed.
NEXT = [
    Outcome[name]
    for name in [
        "REFUSED",
        "CONNECT_TIMEOUT",
        "TLS",
        "RATE_LIMITED",
        "OVERLOADED",
        "SERVER_ERROR",
        "AUTH",
        "FORBIDDEN",
        "MODEL_GONE",
        "MISWRITTEN",
        "REDIRECT",
        "HEADERS_TIMEOUT",
        "FIRST_EVENT_TIMEOUT",
        "RESET",
        "INVALID",
        "IN_BAND_ERROR",
        "TOO_LARGE",
        "PROTOCOL",
    ]
]


@pytest.mark.parametrize("outcome", NEXT)
def test_what_failed_before_anything_was_sent_goes_to_the_next_candidate(outcome: Outcome) -> None:
    made, error = play(decision(A, B), outcome, Outcome.OK)
    assert made == [Attempt(A, 1), Attempt(B, 2)]
    assert error is None


STOP = [
    Outcome[name]
    for name in ["CLIENT_ERROR", "INTERRUPTED", "IDLE_TIMEOUT", "TOTAL_TIMEOUT", "EVENT_TOO_LARGE", "DRAINING"]
]


@pytest.mark.parametrize("outcome", STOP)
def test_what_the_client_is_to_blame_for_or_has_seen_is_never_tried_again(outcome: Outcome) -> None:
    made, error = play(decision(A, B), outcome)
    assert names(made) == ["a"]
    assert error is not None


def test_client_errors_and_broken_streams_stop() -> None:
    after_commit = {
        Outcome.INTERRUPTED,
        Outcome.IDLE_TIMEOUT,
        Outcome.TOTAL_TIMEOUT,
        Outcome.EVENT_TOO_LARGE,
        Outcome.DRAINING,
    }
    assert set(STOP) == after_commit | {Outcome.CLIENT_ERROR}


def test_a_client_who_left_is_answered_nothing() -> None:
    assert play(decision(A, B), Outcome.CLIENT_GONE) == ([Attempt(A, 1)], None)


LAST: list[tuple[Outcome, int, str]] = [
    (Outcome.REFUSED, 502, "upstream_unavailable"),
    (Outcome.CONNECT_TIMEOUT, 502, "upstream_unavailable"),
    (Outcome.TLS, 502, "upstream_unavailable"),
    (Outcome.SATURATED, 503, "overloaded"),
    (Outcome.LIMITED, 429, "rate_limit_exceeded"),
    (Outcome.RATE_LIMITED, 429, "upstream_rate_limited"),
    (Outcome.OVERLOADED, 503, "overloaded"),
    (Outcome.SERVER_ERROR, 502, "upstream_unavailable"),
    (Outcome.AUTH, 502, "upstream_auth"),
    (Outcome.FORBIDDEN, 502, "upstream_auth"),
    (Outcome.MODEL_GONE, 502, "upstream_unavailable"),
    (Outcome.CLIENT_ERROR, 400, "bad_request"),
    (Outcome.CONTEXT_LENGTH, 400, "context_length_exceeded"),
    (Outcome.REDIRECT, 502, "upstream_invalid_response"),
    (Outcome.HEADERS_TIMEOUT, 504, "upstream_timeout"),
    (Outcome.FIRST_EVENT_TIMEOUT, 504, "upstream_timeout"),
    (Outcome.RESET, 502, "upstream_unavailable"),
    (Outcome.INVALID, 502, "upstream_invalid_response"),
    (Outcome.IN_BAND_ERROR, 502, "upstream_unavailable"),
    (Outcome.TOO_LARGE, 502, "upstream_invalid_response"),
    (Outcome.PROTOCOL, 502, "upstream_invalid_response"),
    (Outcome.TOTAL_TIMEOUT, 504, "upstream_timeout"),
    (Outcome.DRAINING, 503, "draining"),
]


@pytest.mark.parametrize(("outcome", "status", "code"), LAST)
def test_when_nothing_follows_the_outcome_has_its_error(outcome: Outcome, status: int, code: str) -> None:
    _, error = play(decision(A), outcome)
    assert error is not None
    assert (error.status, error.code) == (status, code)


def test_a_stale_connection_is_tried_once_more_on_a_fresh_one_and_costs_no_attempt() -> None:
    made, error = play(decision(A, B), Outcome.STALE, Outcome.STALE, Outcome.OK, max_attempts=2)
    assert made == [Attempt(A, 1), Attempt(A, 2, fresh_connection=True), Attempt(B, 3)]
    assert error is None
    made, _ = play(decision(A, B, C), Outcome.STALE, Outcome.RESET, Outcome.STALE, Outcome.OK)
    assert [(a.target.name, a.fresh_connection) for a in made] == [
        ("a", False),
        ("a", True),
        ("b", False),
        ("b", True),
    ]


def test_a_prompt_that_was_too_long_goes_only_to_a_larger_window() -> None:
    large = target("large", window=100_000)
    made, error = play(decision(A, B, large), Outcome.CONTEXT_LENGTH, Outcome.OK)
    assert names(made) == ["a", "large"]
    assert error is None
    made, error = play(decision(large, A, B), Outcome.CONTEXT_LENGTH)
    assert names(made) == ["large"]
    assert error is not None
    assert error.code == "context_length_exceeded"


def test_what_was_too_small_stays_too_small_after_another_failure() -> None:
    middle, large = target("middle", window=50_000), target("large", window=100_000)
    made, _ = play(decision(middle, large, A, middle), Outcome.CONTEXT_LENGTH, Outcome.RESET)
    assert names(made) == ["middle", "large"]


def test_attempts_are_limited_and_saturated_targets_do_not_count() -> None:
    five = decision(*(target(name) for name in "vwxyz"))
    made, error = play(five, *[Outcome.RESET] * 4)
    assert names(made) == ["v", "w", "x", "y"]
    assert error is not None
    assert error.code == "upstream_unavailable"
    assert len(play(five, *[Outcome.RESET] * 2, max_attempts=2)[0]) == 2
    assert len(play(five, *[Outcome.SATURATED] * 4, Outcome.RESET, max_attempts=1)[0]) == 5


def test_the_other_replicas_of_a_target_come_before_the_next_candidate() -> None:
    three = target("a", endpoints=3)
    made, _ = play(decision(three, B), Outcome.REFUSED, Outcome.RESET, Outcome.OVERLOADED, Outcome.OK)
    assert [(a.target.name, a.replica) for a in made] == [("a", 0), ("a", 1), ("a", 2), ("b", 0)]
    # What holds for the model or the key holds on every replica.
    for outcome in (Outcome.AUTH, Outcome.MODEL_GONE, Outcome.INVALID, Outcome.RATE_LIMITED):
        assert names(play(decision(three, B), outcome, Outcome.OK)[0]) == ["a", "b"]


def test_of_several_failures_the_client_is_told_the_last_that_time_may_heal() -> None:
    cases = [
        ((Outcome.RATE_LIMITED, Outcome.AUTH), "upstream_rate_limited"),
        ((Outcome.AUTH, Outcome.RATE_LIMITED), "upstream_rate_limited"),
        ((Outcome.REFUSED, Outcome.RATE_LIMITED), "upstream_rate_limited"),
        ((Outcome.RATE_LIMITED, Outcome.HEADERS_TIMEOUT), "upstream_timeout"),
        ((Outcome.AUTH, Outcome.INVALID), "upstream_invalid_response"),
        ((Outcome.RATE_LIMITED, Outcome.CLIENT_ERROR), "bad_request"),
    ]
    for ends, code in cases:
        _, error = play(decision(A, B), *ends)
        assert error is not None
        assert error.code == code, ends


def test_no_attempt_begins_without_time_for_it() -> None:
    made, error = play(decision(A, B), Ended(Outcome.RESET, LEAST_S / 2))
    assert names(made) == ["a"]
    assert error is not None
    assert error.code == "upstream_timeout"
    assert names(play(decision(A, B), Ended(Outcome.RESET, 9.0), Outcome.OK)[0]) == ["a", "b"]


def test_a_refused_decision_makes_no_attempt() -> None:
    tries = failover(decision())
    with pytest.raises(StopIteration) as stop:
        next(tries)
    assert stop.value.value is None


def test_retries_come_from_a_budget_that_is_given_back() -> None:
    budget = RetryBudget(share=0.2, least=2)
    running = [failover(decision(A, B), retries=budget) for _ in range(4)]
    for tries in running:
        next(tries)
    for tries in running[:2]:
        assert tries.send(Outcome.RESET).target is B
    with pytest.raises(StopIteration) as stop:
        running[2].send(Outcome.RESET)
    assert stop.value.value.code == "upstream_unavailable"
    assert (budget.retrying, budget.refused) == (2, 1)
    running[0].close()
    assert budget.retrying == 1
    assert running[3].send(Outcome.RESET).target is B
    for tries in running:
        tries.close()
    assert budget.retrying == 0


def test_the_budget_grows_with_the_requests_under_way() -> None:
    budget = RetryBudget()
    budget.active = 100
    assert [budget.take() for _ in range(21)] == [True] * 20 + [False]
    budget = RetryBudget()
    assert [budget.take() for _ in range(4)] == [True] * 3 + [False]


def test_a_free_retry_needs_no_budget() -> None:
    empty = RetryBudget(share=0.0, least=0)
    made, _ = play(decision(A, B, C), Outcome.STALE, Outcome.SATURATED, Outcome.RESET, retries=empty)
    assert names(made) == ["a", "a", "b"]


def test_where_all_are_overloaded_nothing_more_is_tried() -> None:
    three = target("a", endpoints=3)
    full: set[str] = set()

    def tries(*targets: Target) -> Generator[Attempt, Outcome | Ended, GatewayError | None]:
        return failover(decision(*targets), crowded=lambda one: one.name in full)

    one = tries(three, B, C)
    next(one)
    assert one.send(Outcome.OVERLOADED).target is three  # another replica
    full |= {"a", "b"}
    assert one.send(Outcome.OVERLOADED).target is C  # not the third one, which has said so to others, nor b
    full |= {"c"}
    two = tries(three, B, C)
    next(two)
    with pytest.raises(StopIteration) as stop:
        two.send(Outcome.OVERLOADED)
    assert (stop.value.value.status, stop.value.value.code) == (503, "overloaded")
