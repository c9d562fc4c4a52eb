"""Which targets are held back, why, and until when: pure state, told outcomes and the time from outside.

Keyed by target name (and by endpoint where a target has several), so it survives a reload that keeps the names. It
blames nobody for what a client did. Who is tried instead is `failover`; what a mask means for a decision is `decide`.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.core.types import Fleet, Outcome, Target

FAILURES = 5  # consecutive ones that eject
EJECTION_S = 30.0  # times the number of ejections in a row ...
LONGEST_S = 300.0  # ... up to this; Retry-After is bounded by it too
JITTER = 0.1  # share by which an ejection may be longer, so that many gateways do not come back at once
AUTH_S = 60.0
FORBIDDEN = 3  # in a row that hold a target like a wrong key: one may be moderation of what one client wrote
GONE_S = 300.0
RATE_LIMITED_S = 1.0  # where the upstream names no time
CROWDED_TIMES = (
    6  # in a row, over a minute: so full is told as down, for what balances load says 503 of dead servers, too
)
CROWDED_S = 1.0  # after an answer of overload; doubled while a try after it brings another, up to EJECTION_S
SPARED = 0.5  # share of a target's endpoints that stay in use, whatever their answers
LEAST_SPARED = 3  # endpoints that a target has for that
PROBE_S = 30.0  # a probe that brings no outcome for so long is forgotten, and the next may go
#: What may be said of a target or an endpoint, from the best to the worst.
STATES = ("healthy", "half_open", "probing", "rate_limited", "ejected", "auth", "gone")
_NEVER = float("inf")
_SMOOTH = 0.2  # weight of the newest latency
_MOVED = 0.05  # share by which a latency must have moved to be published


class Blame(enum.Enum):
    """What an outcome says of the target."""

    GOOD = "good"  # it answered, be it with a refusal of the request
    BAD = "bad"
    BUSY = "busy"  # it asks for time
    CROWDED = "crowded"  # so does one endpoint: its queue is full, another's may not be
    KEY = "key"  # it will refuse every request until somebody acts
    DOUBT = "doubt"  # as KEY, if it keeps saying so
    GONE = "gone"
    NONE = "none"  # it says nothing of the target


_O = Outcome
BLAME: Mapping[Outcome, Blame] = {
    _O.OK: Blame.GOOD,
    _O.CLIENT_ERROR: Blame.GOOD,
    _O.CONTEXT_LENGTH: Blame.GOOD,
    _O.MISWRITTEN: Blame.GOOD,  # a client's schema can bring it about at will
    _O.RATE_LIMITED: Blame.BUSY,
    _O.OVERLOADED: Blame.CROWDED,
    _O.AUTH: Blame.KEY,
    _O.FORBIDDEN: Blame.DOUBT,
    _O.MODEL_GONE: Blame.GONE,
    _O.SATURATED: Blame.NONE,  # our own cap
    _O.LIMITED: Blame.NONE,
    _O.INEXPRESSIBLE: Blame.NONE,
    _O.NO_TOKEN: Blame.NONE,  # it was not asked, and is free again the moment that there is one
    _O.STALE: Blame.NONE,  # a keep-alive connection it was free to close
    _O.CLIENT_GONE: Blame.NONE,
    _O.OUTRUN: Blame.NONE,
    _O.DRAINING: Blame.NONE,
    _O.TOTAL_TIMEOUT: Blame.NONE,  # the client's own deadline may have been short
    **dict.fromkeys(
        (
            _O.REFUSED,
            _O.CONNECT_TIMEOUT,
            _O.TLS,
            _O.SERVER_ERROR,
            _O.REDIRECT,
            _O.HEADERS_TIMEOUT,
            _O.FIRST_EVENT_TIMEOUT,
            _O.RESET,
            _O.INVALID,
            _O.IN_BAND_ERROR,
            _O.TOO_LARGE,
            _O.PROTOCOL,
            _O.INTERRUPTED,
            _O.IDLE_TIMEOUT,
            _O.EVENT_TOO_LARGE,
        ),
        Blame.BAD,
    ),
}


@dataclass(slots=True)
class _Entry:
    failures: int = 0  # consecutive
    forbidden: int = 0  # of those that say so, since the last success
    ejections: int = 0  # in a row
    crowded: int = 0  # times in a row that it was left alone because of overload
    until: float = 0.0  # held back until then; 0: not at all
    asked: float = 0.0  # the part of it that the upstream asked for, which no success shortens
    reason: Outcome | None = None  # of the last failure
    hard: bool = False  # held back for what only a person can change
    probe_at: float = -_NEVER  # when the last probe was sent, after `until`

    def held(self, now: float) -> bool:
        """Held back now: before `until`, and after it while one request probes."""
        return self.until > 0 and (now < self.until or now < self.probe_at + PROBE_S)

    def state(self, now: float) -> str:
        if self.until <= 0:
            return "healthy"
        if now >= self.until:
            return "probing" if now < self.probe_at + PROBE_S else "half_open"
        if self.reason is Outcome.AUTH or self.reason is Outcome.FORBIDDEN:
            return "auth"
        if self.reason is Outcome.MODEL_GONE:
            return "gone"
        return "rate_limited" if self.asks_for_time and self.crowded <= CROWDED_TIMES else "ejected"

    @property
    def unreachable(self) -> bool:
        """No connection to it came about."""
        return self.reason in (Outcome.REFUSED, Outcome.CONNECT_TIMEOUT, Outcome.TLS)

    @property
    def asks_for_time(self) -> bool:
        """What it last said is not that something is wrong with it."""
        return self.reason is Outcome.RATE_LIMITED or self.reason is Outcome.OVERLOADED


class Board:
    """The health of every target, one per process.

    A target is ejected after 5 consecutive failures, for 30 s times the ejections in a row, at most 300 s; it is
    held back for Retry-After, which extends but never shortens; for 60 s when it refuses the gateway's key or
    answers 403 three times in a row; for 300 s when it no longer serves the model. Overload is no failure: it holds
    an endpoint back for 1 s, and for twice as long each time that it still is overloaded then, up to 30 s, and is
    called ejected once that was so for a minute. After an ejection it is half-open: the next outcome either clears
    it or ejects it again, for longer; one that says nothing of the target lets the next request probe. Times are
    seconds on one monotonic clock.
    """

    __slots__ = ("_exact", "_fleet", "_mask", "_valid_until", "ejections", "entries", "latency_s")

    def __init__(self) -> None:
        self.latency_s: Mapping[str, float] = {}  # recent time to first event by target; replaced, never edited
        self._exact: dict[str, float] = {}
        #: (target, endpoint url), where "" is the target as a whole; empty while all is well, which callers may use.
        self.entries: dict[tuple[str, str], _Entry] = {}
        #: How often (target, endpoint url or "") began to be held back, and by which outcome; over the process's life.
        self.ejections: dict[tuple[str, str, Outcome], int] = {}
        self._fleet: Fleet | None = None
        self._mask = 0
        self._valid_until = -_NEVER

    def available(self, fleet: Fleet, now: float) -> int:
        """The mask of targets that health does not hold back; all of them when it would hold back every one. HOT."""
        if now < self._valid_until and fleet is self._fleet:
            return self._mask
        mask, change = 0, _NEVER
        for target in fleet.targets:
            held, until = self._held(target, now)
            if not held:
                mask |= 1 << target.index
            change = min(change, until)
        self._fleet = fleet
        self._mask = mask or fleet.mask()
        self._valid_until = change
        return self._mask

    def last_resort(self, fleet: Fleet, now: float) -> tuple[int, int]:
        """The masks to decide with in turn when `available` leaves a request without any target.

        All targets but those that only a person can bring back; then all of them, for a request that nobody else may
        serve: a pool is never emptied, also not that of a request that names its target.
        """
        mask = 0
        for target in fleet.targets:
            entry = self.entries.get((target.name, ""))
            if entry is None or not (entry.hard and entry.held(now)):
                mask |= 1 << target.index
        return mask, fleet.mask()

    def endpoint_held(self, target: str, endpoint: str, now: float) -> bool:
        """True for an endpoint that is held back by itself; take another of its target while there is one."""
        entry = self.entries.get((target, endpoint))
        return entry is not None and entry.held(now)

    def wrongly_held(self, target: str, endpoints: Sequence[str], now: float) -> frozenset[str]:
        """Endpoints that are ejected for their answers, and had better be used: too many of a target's are.

        What a server answers may be the requests' doing, and those that are left would be loaded with all of it. So of
        three endpoints or more half stay in use: of the ejected those that come back first. One that cannot be
        connected to is never among them, since trying it helps nobody.
        """
        if len(endpoints) < LEAST_SPARED:
            return frozenset()
        held = [(entry.until, url) for url in endpoints if (entry := self._ejected(target, url, now)) is not None]
        answering = [(until, url) for until, url in held if not self.entries[target, url].unreachable]
        wanted = math.ceil(SPARED * len(endpoints)) - (len(endpoints) - len(held))
        return frozenset(url for _, url in sorted(answering)[: max(0, wanted)])

    def _ejected(self, target: str, endpoint: str, now: float) -> _Entry | None:
        entry = self.entries.get((target, endpoint))
        return entry if entry is not None and entry.held(now) and not entry.asks_for_time else None

    def crowded(self, target: Target, now: float) -> bool:
        """Whether all of a target has just asked for time: one more request would only be one more to refuse."""
        keys = [(target.name, ""), *((target.name, one.url) for one in target.backend.endpoints)]
        whole, *own = [
            entry is not None and entry.held(now) and entry.asks_for_time for entry in map(self.entries.get, keys)
        ]
        return whole or all(own)

    def began(self, target: str, now: float, endpoint: str = "") -> None:
        """An answer's first event came from there: who asked for time has had enough of it."""
        for key in ((target, endpoint), (target, "")):
            entry = self.entries.get(key)
            if entry is not None and entry.asks_for_time and entry.until <= now:
                self._clear(key, now)

    def started(self, target: str, now: float, endpoint: str = "") -> None:
        """A request was sent there: the probe of a half-open target, which holds others back until its outcome."""
        if self.entries:
            entry = self.entries.get((target, endpoint))
            if entry is not None and 0 < entry.until <= now and not entry.held(now):
                entry.probe_at = now
                self._valid_until = -_NEVER

    def record(
        self,
        target: str,
        outcome: Outcome,
        now: float,
        retry_after_s: float | None = None,
        *,
        endpoint: str = "",
        jitter: float = 0.0,
    ) -> None:
        """Take down how an attempt ended. HOT while all is well.

        `endpoint` is given for a target with several: then the endpoint is blamed, and the target is held back only
        when all of its endpoints are. A wrong key, a lost model and a rate limit are the target's in any case.
        `jitter` in [0, 1) lengthens an ejection by up to a tenth.
        """
        blame = BLAME[outcome]
        if blame is Blame.GOOD:
            if self.entries:
                self._clear((target, endpoint), now)
                if endpoint:
                    self._clear((target, ""), now)
            return
        if blame is Blame.NONE:
            if self.entries:
                self._probe_ended((target, endpoint))
                self._probe_ended((target, ""))
            return
        key = (target, endpoint if blame is Blame.BAD or blame is Blame.CROWDED else "")
        entry = self.entries.get(key)
        if entry is None:
            entry = self.entries[key] = _Entry()
        if blame is Blame.DOUBT:
            entry.forbidden += 1
            self._probe_ended(key)
            if entry.forbidden < FORBIDDEN:
                return
            blame = Blame.KEY
        entry.reason = outcome
        entry.failures += blame is not Blame.CROWDED
        entry.hard = blame is Blame.KEY or blame is Blame.GONE
        entry.probe_at = -_NEVER
        hold = 0.0
        if blame is Blame.KEY:
            hold = AUTH_S
        elif blame is Blame.GONE:
            hold = GONE_S
        elif blame is Blame.BUSY:
            hold = RATE_LIMITED_S
        elif blame is Blame.CROWDED:
            if entry.until <= now:  # not for what was sent before it was known
                hold = min(CROWDED_S * 2**entry.crowded, EJECTION_S) * (1 + JITTER * jitter)
                entry.crowded += 1
        elif entry.failures >= FAILURES and entry.until <= now:
            entry.ejections += 1
            hold = min(EJECTION_S * entry.ejections, LONGEST_S) * (1 + JITTER * jitter)
        if retry_after_s is not None:
            hold = max(hold, min(retry_after_s, LONGEST_S))
        if blame is Blame.BUSY or retry_after_s is not None:
            entry.asked = max(entry.asked, now + hold)
        if hold > 0:
            if entry.until <= now:
                self._count(key, outcome)
            entry.until = max(entry.until, now + hold)
            self._valid_until = -_NEVER

    def _count(self, key: tuple[str, str], outcome: Outcome) -> None:
        self.ejections[(*key, outcome)] = self.ejections.get((*key, outcome), 0) + 1

    def _probe_ended(self, key: tuple[str, str]) -> None:
        """No request is on its way there to find out, or none that will: the next one may."""
        entry = self.entries.get(key)
        if entry is not None and entry.probe_at != -_NEVER:
            entry.probe_at = -_NEVER
            self._valid_until = -_NEVER

    def _clear(self, key: tuple[str, str], now: float) -> None:
        """A success there: forget what was held against it, but not the time the upstream asked for."""
        entry = self.entries.pop(key, None)
        if entry is not None:
            self._valid_until = -_NEVER
            if entry.asked > now:
                self.entries[key] = _Entry(until=entry.asked, asked=entry.asked, reason=entry.reason)

    def hold(self, target: str) -> None:
        """Hold a target back until `release`: what serves it is known not to be there."""
        entry = self.entries.setdefault((target, ""), _Entry())
        if entry.until < _NEVER:
            self._count((target, ""), Outcome.REFUSED)
        entry.reason = Outcome.REFUSED
        entry.until = _NEVER
        self._valid_until = -_NEVER

    def release(self, target: str) -> None:
        """What serves a target is there again, as if never tried: forget what was held against it."""
        if self.entries.pop((target, ""), None) is not None:
            self._valid_until = -_NEVER

    def latency(self, target: str, seconds: float) -> None:
        """Take down a time to first event. Small moves are not published, so that most requests share one mapping."""
        before = self._exact.get(target)
        value = seconds if before is None else before + _SMOOTH * (seconds - before)
        self._exact[target] = value
        shown = self.latency_s.get(target)
        if shown is None or abs(value - shown) > _MOVED * shown:
            self.latency_s = {**self.latency_s, target: value}

    def states(self, fleet: Fleet, now: float) -> list[dict[str, Any]]:
        """Every target with its state, the reason, and the seconds it is still held back, for operators and metrics.

        `state` is healthy, half_open, probing, ejected, rate_limited, auth or gone. Targets with several endpoints
        list those that are not healthy.
        """
        told = []
        for target in fleet.targets:
            one = self._told(self.entries.get((target.name, "")), now)
            held, _ = self._held(target, now)
            if held and one["state"] == "healthy":
                one["state"] = "ejected"  # by way of its endpoints
            row = {"target": target.name, **one}
            if len(target.backend.endpoints) > 1:
                urls = [endpoint.url for endpoint in target.backend.endpoints]
                entries = {url: self.entries.get((target.name, url)) for url in urls}
                row["endpoints"] = {url: self._told(entry, now) for url, entry in entries.items() if entry is not None}
            told.append(row)
        return told

    def endpoint_states(self, fleet: Fleet, now: float) -> Iterator[tuple[str, str, str]]:
        """(target, endpoint url, state) of every endpoint; what is held against a target is held against all of its."""
        nothing = _Entry()
        for target in fleet.targets:
            whole = self.entries.get((target.name, ""), nothing).state(now)
            for endpoint in target.backend.endpoints:
                own = self.entries.get((target.name, endpoint.url), nothing).state(now)
                yield target.name, endpoint.url, max(own, whole, key=STATES.index)

    @staticmethod
    def _told(entry: _Entry | None, now: float) -> dict[str, Any]:
        entry = entry or _Entry()
        return {
            "state": entry.state(now),
            "reason": entry.reason.value if entry.reason is not None else None,
            "failures": entry.failures,
            "held_for_s": round(max(0.0, entry.until - now), 1) if entry.until < _NEVER else None,
        }

    def _held(self, target: Target, now: float) -> tuple[bool, float]:
        """Whether a target is held back, and the time at which that may change by itself."""
        if not self.entries:
            return False, _NEVER
        entries = [self.entries.get((target.name, ""))]
        held = entries[0] is not None and entries[0].held(now)
        endpoints = target.backend.endpoints
        if endpoints:
            own = [self.entries.get((target.name, endpoint.url)) for endpoint in endpoints]
            held = held or all(entry is not None and entry.held(now) for entry in own)
            entries += own
        change = _NEVER
        for entry in entries:
            if entry is not None and entry.until > 0:
                for at in (entry.until, entry.probe_at + PROBE_S):
                    if at > now:
                        change = min(change, at)
        return held, change
