"""What would have to change for another rule or thinking entry to apply: the nearest such request, by deciding again.

One signal is changed at a time, and where that reaches nothing two, to the few values that the policy tells apart.
Whatever is reported was decided by `decide` itself, on the signals of the request with that change, so it also says who
would serve it then. Rules that need more changes, or that rules above them hide, are not reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice, product
from typing import TYPE_CHECKING, Any

from gateway.core.clauses.conditions import Condition, members
from gateway.core.clauses.matchers import Leaf, leaves
from gateway.core.decide import decide
from gateway.core.facts import SIGNALS, Signal, signal_named
from gateway.core.reading.signals import EXPECTED, Signals
from gateway.core.types import Decision, Snapshot

if TYPE_CHECKING:
    from gateway.core.policy import Policy

OTHER = "something-else"  # stands for every text that no condition names
_TONGUES = ("fr", "de", "en")  # one of them stands for every language that no condition names
_WORK = 60_000  # rules asked at most: decisions tried, times the entries of the policy
_PAIR_SIGNALS = 6  # of one entry and the one that applies
_PAIRS = 400  # combinations of two changes tried for one entry


@dataclass(frozen=True, slots=True)
class Change:
    """One signal with another value."""

    signal: str
    before: Any
    after: Any
    by: int | None = None  # the signed step of a number that was known
    exact: bool = True  # False: counted from a bound, so the true step may be larger
    any_other: bool = False  # `after` stands for every value that the policy does not name

    @property
    def text(self) -> str:
        """As a person reads it.

        >>> Change("context_tokens", 181_789, 200_000, 18_211).text, Change("task", None, "code").text
        ('18,211 more tokens', 'task code')
        """
        if self.by is not None:
            word = "more" if self.by > 0 else "fewer"
            least = "" if self.exact else "at least "
            noun = "tokens" if self.signal == "context_tokens" else self.signal
            return f"{least}{abs(self.by):,} {word} {noun}"
        if self.after is None:
            return f"no {self.signal} known"
        if self.any_other:
            than = "" if self.before is None else f" than {_shown(self.before)}"
            return f"{self.signal} other{than}, such as {_shown(self.after)},"
        before = "" if self.before is None else f" instead of {_shown(self.before)}"
        return f"{self.signal} {_shown(self.after)}{before}"


@dataclass(frozen=True, slots=True)
class Flip:
    """A change of one or two signals after which another entry applies, and what is decided then."""

    kind: str  # "rule" or "thinking"
    id: str | None  # what would apply then; None: no rule would
    changes: tuple[Change, ...]
    target: str | None  # the first candidate then
    refusal: str | None  # or the code of the refusal

    @property
    def text(self) -> str:
        """One readable line.

        >>> step = Change("context_tokens", 181_789, 200_000, 18_211)
        >>> Flip("rule", "long-context", (step,), "scout-us", None).text
        '18,211 more tokens and `long-context` would apply: scout-us'
        """
        what = "thinking " if self.kind == "thinking" else ""
        then = f"{what}`{self.id}` would apply" if self.id else f"no {self.kind} would apply"
        outcome = f"refused, {self.refusal}" if self.refusal else self.target
        return " and ".join([*(change.text for change in self.changes), then]) + f": {outcome}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "kind": self.kind,
            "id": self.id,
            "changes": [
                {"signal": one.signal, "from": _plain(one.before), "to": _plain(one.after), "by": one.by}
                for one in self.changes
            ],
            "target": self.target,
            "refusal": self.refusal,
            "text": self.text,
        }


def _shown(value: Any) -> str:
    if isinstance(value, frozenset):
        return ", ".join(sorted(value)) or "empty"
    text = str(value).lower() if isinstance(value, bool) else f"{value:,}" if isinstance(value, int) else str(value)
    return text[:80]


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, frozenset) else value


@dataclass(slots=True)
class _Search:
    """The request as values, and what deciding it anew with changes gave."""

    policy: Policy
    snapshot: Snapshot
    values: Mapping[str, Any]
    lengths: Mapping[str, tuple[int, int] | None]  # of the numbers: between which bounds each is known to lie
    named: Mapping[str, frozenset[str]]  # of the others: the words that conditions name
    work: int = _WORK
    found: dict[tuple[str, str | None], list[Flip]] = field(default_factory=dict)

    def decide(self, changed: Mapping[str, Any]) -> Decision | None:
        """Decide the request with some signals changed; None when that was done often enough."""
        self.work -= 1 + len(self.policy.rules) + len(self.policy.thinking)
        if self.work < 0:
            return None
        values = {**self.values, **changed}
        if "context_tokens" in changed:
            values.pop("tokens", None)
            values.pop(EXPECTED, None)
        return decide(self.policy, Signals.given(values), self.snapshot)

    def note(self, now: Decision, changed: Mapping[str, Any], rules: bool = True) -> None:
        """Try a change, and keep what it leads to."""
        then = self.decide(changed)
        if then is None:
            return
        changes = tuple(self._change(name, value) for name, value in changed.items())
        target = then.candidates[0].name if then.candidates else None
        refusal = then.refusal[0] if then.refusal else None
        if rules and then.rule != now.rule:
            self.found.setdefault(("rule", then.rule), []).append(Flip("rule", then.rule, changes, target, refusal))
        if then.thinking.rule is not None and then.thinking.rule != now.thinking.rule:
            entry = then.thinking.rule
            self.found.setdefault(("thinking", entry), []).append(Flip("thinking", entry, changes, target, refusal))

    def _change(self, name: str, value: Any) -> Change:
        bounds = self.lengths.get(name)
        if bounds is not None and isinstance(value, int):
            low, high = bounds
            return Change(name, high, value, value - high if value > high else value - low, low == high)
        before = self.values.get(name)
        if name == "language":
            before = _main(before)
        any_other = isinstance(value, str) and value not in self.named[name]
        return Change(name, frozenset(before) if isinstance(before, list) else before, value, any_other=any_other)


def nearest(policy: Policy, signals: Signals, snapshot: Snapshot, decision: Decision) -> tuple[Flip, ...]:
    """For every other rule and thinking entry the least step of a number that leads to it, and the least other change.

    `signals` are those that a trace was made of; every signal is computed here.
    """
    conditions = [*(rule.when for rule in policy.rules), *(entry.when for entry in policy.thinking)]
    leaves = _leaves_by_signal([condition for condition in conditions if condition is not None])
    search = _open(policy, signals, snapshot, leaves)
    again = search.decide({})
    if again is None or (again.rule, again.candidates) != (decision.rule, decision.candidates):
        return ()  # the values do not say all that the request did: nothing that they show would be certain
    points = {name: list(_points(name, found, policy, search)) for name, found in leaves.items()}
    for name, values in points.items():
        for value in values:
            search.note(decision, {name: value})
    current = next((rule.when for rule in policy.rules if rule.id == decision.rule), None)
    for rule in policy.rules:
        reached = rule.id == decision.rule or ("rule", rule.id) in search.found
        if not reached and rule.when is not None and search.work > 0:
            _try_pairs(search, decision, [rule.when, current], points)
    order: list[tuple[str, str | None]] = [("rule", rule.id) for rule in policy.rules]
    order += [("rule", None), *(("thinking", entry.id) for entry in policy.thinking)]
    return tuple(flip for key in order for flip in _best(search.found.get(key, [])))


def _try_pairs(
    search: _Search, decision: Decision, conditions: Sequence[Condition | None], points: Mapping[str, Sequence[Any]]
) -> None:
    names = list(_leaves_by_signal([one for one in conditions if one is not None]))[:_PAIR_SIGNALS]
    tried = (
        {first: one, second: other}
        for first, second in combinations(names, 2)
        for one, other in product(points[first], points[second])
    )
    for changed in islice(tried, _PAIRS):
        search.note(decision, changed)


def _best(flips: Sequence[Flip]) -> Iterator[Flip]:
    """The least step of numbers alone, and the simplest of the others."""
    fewest = min((len(flip.changes) for flip in flips), default=0)
    left = [flip for flip in flips if len(flip.changes) == fewest]
    steps = [flip for flip in left if all(change.by is not None for change in flip.changes)]
    others = [flip for flip in left if flip not in steps]
    yield from sorted(steps, key=lambda flip: sum(abs(change.by or 0) for change in flip.changes))[:1]
    yield from sorted(others, key=lambda flip: sum(_oddness(change) for change in flip.changes))[:1]


def _oddness(change: Change) -> int:
    """A value that the policy names says more than any other, and that more than none."""
    if change.by is not None:
        return 0
    return 2 if change.after is None else int(change.any_other)


def _open(policy: Policy, signals: Signals, snapshot: Snapshot, leaves: Mapping[str, Sequence[Leaf]]) -> _Search:
    """Every signal computed, and every length that the policy compares settled, so that values alone decide alike."""
    for name in (*SIGNALS, *leaves, "thinking_hint"):
        if name != "context_tokens":
            signals.get(name)
    for leaf in leaves.get("context_tokens", ()):
        for edge in _numbers(leaf):
            signals.exceeds(policy.tokens_by, edge)
    bounds = signals.tokens(policy.tokens_by)
    asked = signals.get("max_output_tokens")
    lengths = {name: _exactly(signals.get(name)) for name in ("max_output_tokens", "images")}
    return _Search(
        policy,
        snapshot,
        signals.computed(),
        {**lengths, "context_tokens": (bounds.lo + (asked or 0), bounds.hi + (asked or 0))},
        {name: frozenset(_named(found)) for name, found in leaves.items()},
    )


def _exactly(value: int | None) -> tuple[int, int] | None:
    return None if value is None else (value, value)


def _leaves_by_signal(conditions: Sequence[Condition]) -> dict[str, list[Leaf]]:
    found: dict[str, list[Leaf]] = {}
    for condition in conditions:
        for member in members(condition):
            found.setdefault(member.signal, []).extend(leaves(member.matcher))
    return found


def _numbers(leaf: Leaf) -> list[int]:
    operands = leaf.operand if isinstance(leaf.operand, frozenset) else (leaf.operand,)
    return [int(value) for value in operands if isinstance(value, int | float)]


def _points(name: str, leaves: Sequence[Leaf], policy: Policy, search: _Search) -> Iterator[Any]:
    """Values of a signal that conditions tell apart, without the one it has."""
    signal = signal_named(name) or Signal(name, "text", 0)
    now = search.values.get(name)
    if signal.kind == "number":
        yield from _steps(leaves, search.lengths.get(name))
    elif signal.kind == "boolean":
        yield from (value for value in (True, False) if value is not now)
    else:
        yield from _words(signal, leaves, now, policy)
    if now is not None and not signal.certain:
        yield None


def _steps(leaves: Sequence[Leaf], bounds: tuple[int, int] | None) -> Iterator[int]:
    """The edges of a number and their neighbours, those nearest to what it is first."""
    low, high = bounds or (0, 0)
    edges = {max(edge + step, 0) for leaf in leaves for edge in _numbers(leaf) for step in (-1, 0, 1)}
    outside = [edge for edge in edges if bounds is None or not low <= edge <= high]
    yield from sorted(outside, key=lambda edge: min(abs(edge - low), abs(edge - high)))


def _words(signal: Signal, leaves: Sequence[Leaf], now: Any, policy: Policy) -> Iterator[Any]:
    """The words that conditions name, and one that none of them names."""
    named = _named(leaves)
    if signal.kind == "set":
        yield from _sets(named, leaves, frozenset(now or ()))
        return
    main = _main(now) if signal.kind == "language" else now
    yield from (word for word in named if word != main)
    others: Sequence[str] = policy.tasks if signal.name == "task" else signal.choices
    if signal.kind == "language":
        others = _TONGUES
    another = next((word for word in others if word not in named and word != main), None)
    if another is not None:
        yield another
    elif not others and main != OTHER:
        yield OTHER


def _named(leaves: Sequence[Leaf]) -> list[str]:
    """The words of some comparisons, each once."""
    named: dict[str, None] = {}
    for leaf in leaves:
        words = leaf.operand if isinstance(leaf.operand, frozenset) else (leaf.operand,)
        named.update(dict.fromkeys(sorted(str(word) for word in words if word is not None)))
    return list(named)


def _sets(named: Sequence[str], leaves: Sequence[Leaf], now: frozenset[str]) -> Iterator[frozenset[str]]:
    wholes = [frozenset(map(str, leaf.operand)) for leaf in leaves if isinstance(leaf.operand, frozenset)]
    options = [
        *(now | {word} for word in named),
        *(now - {word} for word in named),
        *(now | whole for whole in wholes),
        *(now - whole for whole in wholes),
        *wholes,
    ]
    yield from (value for value in dict.fromkeys(options) if value != now)


def _main(value: Any) -> str | None:
    """The main language of what `computed` or a person made of one."""
    if isinstance(value, Mapping):
        shares: Mapping[str, float] = value.get("shares", value)
        return max(shares, key=lambda code: shares[code], default=None)
    return value if isinstance(value, str) else None
