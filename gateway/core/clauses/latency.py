"""Latency targets: what a policy asks of the targets' speed, and who misses it at the moment.

A target that is slower than asked goes behind the others until it has been faster by a margin for some answers, so
that it does not swing. `Paces` is the state: told measurements and the time from outside, keyed by target name, so that
it survives a reload. It counts answers that are too slow instead of sorting times: a percentile is above its limit
exactly when more answers are than it leaves out. What follows for a decision is `decide`'s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, WithJsonSchema, model_validator

from gateway.core.clauses.entries import Duration, Id, Strict, When, number
from gateway.core.quantities import Invalid
from gateway.core.types import NOBODY_SLOW

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.core.clauses.conditions import Condition
    from gateway.core.policy import Policy
    from gateway.core.reading.signals import Signals
    from gateway.core.types import Snapshot

Measure = Literal["first_event", "tokens_per_s"]
#: Answers that count at most; older ones make room.
WINDOW = 200
#: A slow target is tried again by one request in so many, and not more often than every so many seconds.
PROBE_EVERY = 10
PROBE_GAP_S = 0.25
#: Answers to such tries after which it may be found fast again.
RECOVERY = 5

_Rate = Annotated[float, BeforeValidator(number(0.001, 1e6, "tokens a second, such as 20")),
                  WithJsonSchema({"type": "number", "minimum": 0.001})]  # fmt: skip
_Part = Annotated[float, BeforeValidator(number(0.1, 1, "a number from 0.1 to 1, such as 0.8")),
                  WithJsonSchema({"type": "number", "minimum": 0.1, "maximum": 1})]  # fmt: skip
_Samples = Annotated[int, BeforeValidator(number(3, WINDOW, f"a whole number from 3 to {WINDOW}", whole=True)),
                     WithJsonSchema({"type": "integer", "minimum": 3, "maximum": WINDOW})]  # fmt: skip


class _Percentile(Strict):
    @model_validator(mode="after")
    def _one(self) -> Any:
        if len(self.model_fields_set) != 1:
            raise Invalid("says one percentile", "one of " + ", ".join(type(self).model_fields))
        return self

    @property
    def said(self) -> tuple[int, float]:
        """(percentile, limit)."""
        (name,) = self.model_fields_set
        return int(name[1:]), getattr(self, name)


class FirstEventDoc(_Percentile):
    """The longest time to a stream's first event: of half of the answers, of nine in ten, ..."""

    p50: Duration | None = None
    p75: Duration | None = None
    p90: Duration | None = None
    p95: Duration | None = None
    p99: Duration | None = None


class RateDoc(_Percentile):
    """The least tokens a second: reached by half of the answers (p50), or by all but a tenth (p10), ..."""

    p50: _Rate | None = None
    p25: _Rate | None = None
    p10: _Rate | None = None
    p5: _Rate | None = None


class LatencyDoc(Strict):
    """One entry of `latency`: for requests of which `when` holds, targets slower than this go behind the others."""

    id: Id
    because: str = ""
    when: When = None
    first_event: FirstEventDoc | None = None
    tokens_per_s: RateDoc | None = None
    recover: _Part = 0.8
    samples: _Samples = 20
    over: Duration = 300.0

    @model_validator(mode="after")
    def _asks(self) -> LatencyDoc:
        if self.first_event is None and self.tokens_per_s is None:
            raise Invalid("asks nothing of the targets", "first_event, tokens_per_s or both")
        return self


@dataclass(frozen=True, slots=True)
class Limit:
    """One percentile and its limit. Of `tokens_per_s` less is too slow, of `first_event` more."""

    measure: Measure
    percentile: int
    value: float

    def edge(self, margin: float) -> float:
        """Where an answer begins to be too slow; `margin` 1 is the limit itself, less asks for more."""
        return self.value * margin if self.measure == "first_event" else self.value / margin

    def missed(self, late: int, count: int) -> bool:
        """Whether a percentile (nearest rank) of `count` answers, `late` of them too slow, misses the limit."""
        rank = -(-self.percentile * count // 100)
        return count - late < rank if self.measure == "first_event" else late >= rank


@dataclass(frozen=True, slots=True)
class LatencyRule:
    """A compiled entry of `latency`."""

    id: str
    because: str
    when: Condition | None
    limits: tuple[Limit, ...]
    recover: float  # a slow target must be faster than its limit by this factor
    samples: int
    over_s: float  # answers older than this do not count

    @classmethod
    def of(cls, doc: LatencyDoc, when: Condition | None) -> LatencyRule:
        """What the file says."""
        limits = []
        if doc.first_event is not None:
            limits.append(Limit("first_event", *doc.first_event.said))
        if doc.tokens_per_s is not None:
            limits.append(Limit("tokens_per_s", *doc.tokens_per_s.said))
        return cls(doc.id, doc.because, when, tuple(limits), doc.recover, doc.samples, doc.over)


def slowness(policy: Policy, signals: Signals, snapshot: Snapshot, mask: int) -> list[tuple[LatencyRule, int]]:
    """The latency targets that tell candidates apart, with the candidates that miss each."""
    found = []
    for entry in policy.latency:
        names = snapshot.slow.get(entry.id)
        if names and (entry.when is None or entry.when.test(signals)):
            held = sum(1 << target.index for target in policy.fleet.targets if target.name in names) & mask
            if held and held != mask:
                found.append((entry, held))
    return found


class _Watch:
    """One limit of one entry at one target: which of the last answers were too slow."""

    __slots__ = ("answers", "late", "limit", "streams", "threshold")

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.streams = limit.measure == "first_event"
        self.answers: deque[tuple[float, bool]] = deque()
        self.late = 0
        self.begin(1.0)

    def add(self, measured: float, now: float, oldest: float) -> None:
        """HOT where there are limits."""
        answers = self.answers
        late = measured > self.threshold if self.streams else measured < self.threshold
        answers.append((now, late))
        self.late += late
        if len(answers) > WINDOW:
            self.late -= answers.popleft()[1]
        while answers[0][0] < oldest:
            self.late -= answers.popleft()[1]

    def missed(self) -> bool:
        return self.limit.missed(self.late, len(self.answers))

    def begin(self, margin: float) -> None:
        """Judge anew, by another margin: what was counted by the old one says nothing."""
        self.threshold = self.limit.edge(margin)
        self.answers.clear()
        self.late = 0


class Pace:
    """One entry of a policy at one target: fast or slow, with the answers since that was decided."""

    __slots__ = ("asked", "blamed", "heard_at", "probe_at", "rule", "slow", "watches")

    def __init__(self, rule: LatencyRule) -> None:
        self.rule = rule
        self.watches = tuple(_Watch(limit) for limit in rule.limits)
        self.slow = False
        self.blamed: tuple[_Watch, ...] = ()  # what was missed when it became slow
        self.heard_at = 0.0  # of those, or when it became slow
        self.asked = 0  # requests since the last try, while slow
        self.probe_at = 0.0  # when that was

    def heard(self, first_event_s: float | None, tokens_per_s: float | None, now: float) -> bool:
        """Take an answer down; whether the target became slow by it, or recovered. HOT where there are limits."""
        rule = self.rule
        for watch in self.watches:
            measured = first_event_s if watch.streams else tokens_per_s
            if measured is not None:
                watch.add(measured, now, now - rule.over_s)
                if self.slow and watch in self.blamed:
                    self.heard_at = now
        if self.slow:
            needed = min(rule.samples, RECOVERY)
            if any(len(watch.answers) < needed for watch in self.blamed) or self._missed(needed):
                return False
            self._turn((), now)
            return True
        for watch in self.watches:
            if watch.late and len(watch.answers) >= rule.samples and watch.missed():
                self._turn(self._missed(rule.samples), now)
                return True
        return False

    def behind(self, now: float) -> bool:
        """Whether this request should pass the slow target over; False where it is due to be tried again."""
        self.asked += 1
        return self.asked < PROBE_EVERY or now - self.probe_at < PROBE_GAP_S

    def forgotten(self, now: float) -> bool:
        """Whether nothing is known any more of a slow target, for lack of answers; then it counts as fast."""
        if now - self.heard_at <= self.rule.over_s:
            return False
        self._turn((), now)
        return True

    def _missed(self, least: int) -> tuple[_Watch, ...]:
        return tuple(watch for watch in self.watches if len(watch.answers) >= least and watch.missed())

    def _turn(self, missed: tuple[_Watch, ...], now: float) -> None:
        self.slow = bool(missed)
        self.blamed = missed
        self.heard_at = self.probe_at = now
        self.asked = 0
        for watch in self.watches:
            watch.begin(self.rule.recover if missed else 1.0)


class Paces:
    """Which targets miss the latency targets of which policy. One per process; times are monotonic seconds."""

    __slots__ = ("_by_policy", "_by_target", "_slow")

    def __init__(self) -> None:
        self._by_policy: dict[str, dict[tuple[str, str], Pace]] = {}  # policy -> (entry, target) -> its pace
        self._by_target: dict[str, list[Pace]] = {}
        self._slow: dict[str, list[tuple[str, str, Pace]]] = {}  # of `_by_policy`, those that are slow

    def adopt(self, policies: Mapping[str, tuple[LatencyRule, ...]], targets: Iterable[str]) -> None:
        """Watch these from now on. What is known stays with entries that ask the same of targets that remain."""
        names = list(targets)
        before, self._by_policy, self._by_target = self._by_policy, {}, {}
        for policy, rules in policies.items():
            known = before.get(policy, {})
            made: dict[tuple[str, str], Pace] = {}
            for rule in rules:
                for name in names:
                    pace = known.get((rule.id, name))
                    if pace is None or not _alike(pace.rule, rule):
                        pace = Pace(rule)
                    pace.rule = rule
                    made[rule.id, name] = pace
                    self._by_target.setdefault(name, []).append(pace)
            if made:
                self._by_policy[policy] = made
        self._sort()

    def _sort(self) -> None:
        self._slow = {}
        for policy, paces in self._by_policy.items():
            slow = [(entry, target, pace) for (entry, target), pace in paces.items() if pace.slow]
            if slow:
                self._slow[policy] = slow

    def heard(self, target: str, first_event_s: float | None, tokens_per_s: float | None, now: float) -> None:
        """A target answered, or made a request wait in vain. None for what the answer does not tell. HOT."""
        turned = False
        for pace in self._by_target.get(target, ()):
            turned |= pace.heard(first_event_s, tokens_per_s, now)
        if turned:
            self._sort()

    def sent(self, target: str, now: float) -> None:
        """A request went there: if it is slow, this was its try. HOT while one is."""
        if self._slow:
            for pace in self._by_target.get(target, ()):
                pace.asked = 0
                pace.probe_at = now

    def slow(self, policy: str, now: float) -> Mapping[str, tuple[str, ...]]:
        """Who is to be passed over by one request: entry of the policy -> targets. HOT where a policy has limits."""
        slow = self._slow.get(policy)
        if slow is None:
            return NOBODY_SLOW
        gone = [pace.forgotten(now) for _, _, pace in slow]
        if any(gone):
            self._sort()
            slow = self._slow.get(policy, [])
        found: dict[str, tuple[str, ...]] = {}
        for entry, target, pace in slow:
            if pace.behind(now):
                found[entry] = (*found.get(entry, ()), target)
        return found or NOBODY_SLOW

    def now_slow(self, policy: str) -> Mapping[str, tuple[str, ...]]:
        """Entry of the policy -> targets that miss it; asking does not count as a request."""
        found: dict[str, tuple[str, ...]] = {}
        for entry, target, _ in self._slow.get(policy, ()):
            found[entry] = (*found.get(entry, ()), target)
        return found

    def missed(self, target: str) -> list[str]:
        """`policy/entry` of every latency target that this target misses now, for operators."""
        return sorted(
            f"{policy}/{entry}" for policy, slow in self._slow.items() for entry, name, _ in slow if name == target
        )


def _alike(one: LatencyRule, other: LatencyRule) -> bool:
    """Whether what was counted for one says something of the other."""
    return (one.limits, one.recover, one.over_s) == (other.limits, other.recover, other.over_s)
