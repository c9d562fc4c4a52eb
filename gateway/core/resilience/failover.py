"""What follows an attempt, as a dialogue: the generator yields an Attempt and is sent how it ended.

A closed table says for every Outcome what may follow. Whether a target is offered at all is decided before (`decide`,
`health`); performing an attempt is `proxy.attempting`. Nothing is ever tried again once the client has been sent
something: such outcomes stop here.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Generator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from gateway.core.errors import GatewayError, of_code
from gateway.core.types import Attempt, Decision, Outcome, Target

#: An attempt with less time than this could only add load.
LEAST_S = 0.25


class Follow(enum.Enum):
    """What may follow an outcome."""

    DONE = "done"  # the answer is served, or nobody waits for one any more
    NEXT = "next"  # the next candidate
    FREE = "free"  # the next candidate; this one cost nothing and does not count as an attempt
    FRESH = "fresh"  # once the same target over a new connection, which does not count; then the next candidate
    LARGER = "larger"  # the next candidate with a larger window
    STOP = "stop"  # the same would happen elsewhere, or the client has been sent something


class _Row(NamedTuple):
    follow: Follow
    code: str = ""  # of the error when nothing follows; empty: no error
    message: str = ""
    heals: bool = False  # time may heal it, so of several failures this is the one that a client is told
    replica: bool = False  # it says something of one endpoint only: the target's other endpoints come first


_NEXT, _STOP = Follow.NEXT, Follow.STOP
_UNREACHABLE = _Row(_NEXT, "upstream_unavailable", "No upstream could be reached.", heals=True, replica=True)
_FAILED = _Row(_NEXT, "upstream_unavailable", "The upstream failed to answer.", heals=True, replica=True)
_NONSENSE = _Row(_NEXT, "upstream_invalid_response", "The upstream's answer was not valid.")
_LATE = _Row(_NEXT, "upstream_timeout", "The upstream did not answer in time.", heals=True)
_BROKEN = _Row(_STOP, "upstream_stream_interrupted", "The upstream broke off its answer.")

#: Every outcome has its row; `tests/core/resilience/test_failover.py` fails when one is missing.
TABLE: Mapping[Outcome, _Row] = MappingProxyType(
    {
        Outcome.OK: _Row(Follow.DONE),
        Outcome.REFUSED: _UNREACHABLE,
        Outcome.CONNECT_TIMEOUT: _UNREACHABLE,
        Outcome.TLS: _UNREACHABLE,
        Outcome.STALE: _UNREACHABLE._replace(follow=Follow.FRESH),
        Outcome.SATURATED: _Row(Follow.FREE, "overloaded", "Every upstream is at its limit of requests.", heals=True),
        Outcome.LIMITED: _Row(
            Follow.FREE,
            "rate_limit_exceeded",
            "The limits of every target that may serve this are reached.",
            heals=True,
        ),
        Outcome.INEXPRESSIBLE: _Row(
            Follow.FREE, "unsupported_capability", "No target that may serve this request can be told all of it."
        ),
        Outcome.NO_TOKEN: _Row(Follow.FREE, "upstream_auth", "The gateway has no valid token for the upstream."),
        Outcome.RATE_LIMITED: _Row(_NEXT, "upstream_rate_limited", "The upstream's rate limit is reached.", heals=True),
        Outcome.OVERLOADED: _Row(_NEXT, "overloaded", "The upstream is overloaded.", heals=True, replica=True),
        Outcome.SERVER_ERROR: _FAILED,
        Outcome.AUTH: _Row(_NEXT, "upstream_auth", "The upstream does not accept the gateway's key."),
        Outcome.FORBIDDEN: _Row(_NEXT, "upstream_auth", "The upstream denies the gateway access."),
        Outcome.MODEL_GONE: _Row(_NEXT, "upstream_unavailable", "The upstream no longer serves this model."),
        Outcome.CLIENT_ERROR: _Row(_STOP, "bad_request", "The upstream refused the request."),
        Outcome.CONTEXT_LENGTH: _Row(
            Follow.LARGER, "context_length_exceeded", "The request is longer than the model's context window."
        ),
        Outcome.MISWRITTEN: _Row(_NEXT, "upstream_invalid_response", "The model did not keep to the schema asked for."),
        Outcome.REDIRECT: _Row(_NEXT, "upstream_invalid_response", "The upstream redirected the request."),
        Outcome.HEADERS_TIMEOUT: _LATE,
        Outcome.FIRST_EVENT_TIMEOUT: _LATE,
        Outcome.RESET: _FAILED,
        Outcome.INVALID: _NONSENSE,
        Outcome.IN_BAND_ERROR: _FAILED,
        Outcome.TOO_LARGE: _NONSENSE,
        Outcome.PROTOCOL: _NONSENSE,
        Outcome.INTERRUPTED: _BROKEN,
        Outcome.IDLE_TIMEOUT: _Row(_STOP, "upstream_timeout", "The upstream stopped sending."),
        Outcome.TOTAL_TIMEOUT: _Row(_STOP, "upstream_timeout", "The time for this request is used up."),
        Outcome.EVENT_TOO_LARGE: _BROKEN._replace(code="event_too_large"),
        # Said of an attempt that is still under way, when another is to run beside it; see `proxy.hedging`.
        Outcome.OUTRUN: _LATE._replace(replica=True),
        Outcome.CLIENT_GONE: _Row(Follow.DONE),
        Outcome.DRAINING: _Row(_STOP, "draining", "The gateway is shutting down.", heals=True),
    }
)


class Ended(NamedTuple):
    """An outcome with the time that is left for the request, for callers that keep a deadline."""

    outcome: Outcome
    remaining_s: float


class RetryBudget:
    """How many requests may be on a second or later attempt at once: a share of those under way, never below a few.

    Retries from a budget keep a brown-out from becoming an outage: load on what still works grows by at most `share`.
    One budget per process, given to every `failover`; a single-threaded count, no clock.
    """

    __slots__ = ("active", "least", "refused", "retrying", "share")

    def __init__(self, share: float = 0.2, least: int = 3) -> None:
        self.share = share
        self.least = least
        self.active = 0  # requests under way, kept up to date by whoever begins and ends them
        self.retrying = 0  # of these, on a second or later attempt
        self.refused = 0  # retries that were not made for lack of budget, over the process's life

    def take(self) -> bool:
        """Count one more request as retrying; False when the budget is used up."""
        if self.retrying >= max(self.least, self.share * self.active):
            self.refused += 1
            return False
        self.retrying += 1
        return True


def failover(
    decision: Decision,
    *,
    max_attempts: int = 4,
    retries: RetryBudget | None = None,
    crowded: Callable[[Target], bool] | None = None,
) -> Generator[Attempt, Outcome | Ended, GatewayError | None]:
    """The attempts for a decision, best candidate first. HOT.

    Send each attempt's Outcome (or `Ended`); the generator yields the next attempt or returns the error to answer with,
    None when the request is served. `max_attempts` counts attempts that reached for a target: a stale connection and a
    saturated target are free. A failure that speaks of one endpoint only goes to the target's other endpoints first
    (`Attempt.replica` counts them). No attempt follows at a target that `crowded` says has just asked for time: when
    all are overloaded, a retry is what they need least. Of several failures the client is told the last that time may
    heal. Close the generator, or let go of it, when the request ends early.

        tries = failover(decision)
        first = next(tries)
        second = tries.send(Outcome.REFUSED)  # raises StopIteration, with the error as its value, when nothing follows
    """
    number = tried = replica = floor = 0
    fresh = retrying = False
    told: _Row | None = None
    candidates = iter(decision.candidates)
    target = next(candidates, None)
    try:
        while target is not None:
            number += 1
            ended = yield Attempt(target, number, fresh, replica)
            outcome, remaining_s = ended if isinstance(ended, Ended) else (ended, LEAST_S)
            row = TABLE[outcome]
            follow = row.follow
            if follow is Follow.DONE:
                return None
            if told is None or row.heals or not told.heals or follow is Follow.STOP:
                told = row
            if follow is Follow.STOP:
                break
            if follow is Follow.FRESH and not fresh:
                fresh = True
                continue
            fresh = False
            tried += follow is not Follow.FREE
            if remaining_s < LEAST_S:
                told = _LATE
                break
            if tried >= max_attempts:
                break
            if row.replica and replica + 1 < len(target.backend.endpoints) and not (crowded and crowded(target)):
                replica += 1
            else:
                if follow is Follow.LARGER:
                    floor = max(floor, target.window)
                replica = 0
                fitting = (one for one in candidates if one.window > floor)
                target = next((one for one in fitting if not (crowded and crowded(one))), None)
            if target is not None and tried and retries is not None and not retrying:
                if not retries.take():
                    break
                retrying = True
    finally:
        if retries is not None:
            retries.retrying -= retrying
    return None if told is None else of_code(told.code, told.message)
