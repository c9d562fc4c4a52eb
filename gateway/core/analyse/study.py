"""What all judgements of one policy share: its formulas, which questions were put, and what makes an example real.

A claim that nothing can be so rests on the search alone, which looks at more than clients can send. An example is
another matter: it is held to what real requests are like, and shown only after `decide` did with it what is claimed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gateway.core.analyse import able
from gateway.core.analyse.domains import Domains, Undecided
from gateway.core.analyse.formulas import ALWAYS, NEVER, Formula, Lies, every, some, variables
from gateway.core.analyse.space import Effort, Space
from gateway.core.clauses.conditions import Condition, members
from gateway.core.clauses.matchers import Leaf
from gateway.core.decide import decide
from gateway.core.policy import Policy
from gateway.core.reading.signals import Signals
from gateway.core.targets.capabilities import retired
from gateway.core.targets.rank import bits
from gateway.core.types import Decision, Snapshot, Target

if TYPE_CHECKING:
    from gateway.core.analyse.imagined import Imagined

#: Facts by key, for a fleet whose keys are known.
Tenants = Mapping[str, Mapping[str, str]]
Witness = Mapping[str, Any]


class Study:
    """One policy under examination at `now` (Unix seconds); `tenants` is None where nobody's keys are meant.

    `everywhere`: it is on no fleet, but on all that installations could have (see `imagined`).
    """

    def __init__(
        self,
        policy: Policy,
        now: float,
        tenants: Tenants | None = None,
        effort: Effort | None = None,
        everywhere: Imagined | None = None,
    ) -> None:
        self.policy = policy
        self.everywhere = everywhere
        self.here = "of this fleet" if everywhere is None else "that any installation could have"
        self.now = now
        self.tenants = tenants
        self.undecided: dict[str, dict[str, None]] = {}  # kind of question -> about what
        conditions = [
            entry.when
            for entries in (
                policy.rules,
                policy.thinking,
                policy.forbids,
                policy.avoids,
                policy.shadows,
                policy.latency,
            )
            for entry in entries
            if entry.when is not None
        ]
        asked = {member.signal for one in conditions for member in members(one)}
        asked = asked.union(*(one.select.signals for one in (*policy.forbids, *policy.avoids)))
        self._facts = sorted(name for name in asked if name.startswith("tenant."))
        self.space = Space(Domains(conditions, self._beside(), policy.tasks), effort)
        self._lacks: dict[int, Formula] = {}  # by the id of a condition, which the policy keeps alive
        self._above: list[Formula] = []
        self._dead: dict[int, bool] = {}
        self._real: list[Formula] | None = None
        self.snapshot = Snapshot(now=now, draw=0.5, available=policy.fleet.mask())

    # What there is to ask about.

    def _beside(self) -> Iterator[tuple[str, Leaf]]:
        """What targets, tenants and reality tell apart, beside the conditions."""
        for target in self.policy.fleet.targets:
            yield from able.asked(target)
        for constraint in self.policy.forbids:
            yield from able.operands(self.policy.fleet, constraint.select)
        for facts in (self.tenants or {}).values():
            for name, value in facts.items():
                if f"tenant.{name}" in self._facts:
                    yield f"tenant.{name}", _one(value)
                if name in NARROWED:
                    yield name, _one(value)
        yield from _REALITY

    @property
    def closed(self) -> int:
        """Targets that are never candidates: API only, withdrawn, or forbidden whatever the request is."""
        capabilities = self.policy.capabilities
        never = capabilities.closed | retired(capabilities.retirements, self.now)
        for constraint in self.policy.forbids:
            if constraint.when is None and constraint.select.resolve is None:
                never |= constraint.select.possible
        return never

    def candidates(self, mask: int) -> list[Target]:
        """The targets of a mask that are ever candidates."""
        return [self.policy.fleet.targets[index] for index in bits(mask & ~self.closed)]

    # Formulas; one that cannot be told is left out, which only ever admits more.

    def wants(self, when: Condition | None) -> Formula:
        """That a condition holds."""
        try:
            return self.space.of(when)
        except Undecided:
            return ALWAYS

    def lacks(self, when: Condition | None) -> Formula:
        """That a condition does not hold."""
        found = self._lacks.get(id(when))
        if found is None:
            try:
                found = self.space.without(self.space.of(when))
            except Undecided:
                found = ALWAYS
            self._lacks[id(when)] = found
        return found

    def matches(self, name: str, leaf: Leaf, *, yes: bool = True) -> Formula:
        """That a signal satisfies a comparison, or does not."""
        try:
            found = self.space.domains.leaf(name, leaf)
            return found if yes else self.space.without(found)
        except Undecided:
            return ALWAYS

    def turned(self, formula: Formula) -> Formula:
        """That a formula does not hold."""
        return ALWAYS if formula is ALWAYS else self.space.without(formula)

    def taken(self, number: int) -> list[Formula]:
        """What a rule decides: its own condition, and none of those above it."""
        rules = self.policy.rules
        if not self._above:
            self._above = [self.lacks(rule.when) for rule in rules]
        return [self.wants(rules[number].when), *self._above[:number]]

    @property
    def spent(self) -> bool:
        """Whether there is no effort left for any question."""
        return self.space.effort.left <= 0

    def dead(self, number: int) -> bool:
        """Whether a rule was shown never to apply."""
        if number not in self._dead:
            self._dead[number] = self.admits(self.taken(number)) is False
        return self._dead[number]

    # Questions.

    def admits(self, formulas: Iterable[Formula], kind: str = "", about: str = "") -> bool | None:
        """Whether a request of this kind can be; None where that was not told, which is noted."""
        try:
            return self.space.find(formulas) is not None
        except Undecided:
            if kind:
                self.note(kind, about)
            return None

    def note(self, kind: str, about: str) -> None:
        """Take down that a question was not answered."""
        self.undecided.setdefault(kind, {})[about] = None

    def example(
        self,
        formulas: Sequence[Formula],
        shows: Callable[[Decision, Signals], bool],
        kind: str = "",
        about: str = "",
        *,
        snapshot: Snapshot | None = None,
    ) -> Witness | None:
        """A request, as a test gives it, that a client could send and that does what it is to show; None without.

        `snapshot` is of the world where it does, if not the usual one.
        """
        if self.spent:
            if kind:
                self.note(kind, about)
            return None
        asked = {name for formula in formulas for name in variables(formula)}
        real = [formula for formula in self._coherence() if asked.issuperset(variables(formula))]
        if any(name.startswith("tenant.") or name in NARROWED or name == "cost_sensitive" for name in asked):
            real.append(self.somebody)
        try:
            point = self.space.find([*formulas, *real])
        except Undecided:
            if kind:
                self.note(kind, about)
            return None
        given = None if point is None else self.space.domains.given(point)
        if given is None:
            return None
        if given.get("images") and "modality" not in given:
            given["modality"] = ["image", "text"]
        elif "image" in given.get("modality", ()) and "images" not in given:
            given["images"] = 1
        return self._plainest(given, shows, snapshot or self.snapshot)

    def _plainest(
        self, given: dict[str, Any], shows: Callable[[Decision, Signals], bool], snapshot: Snapshot
    ) -> Witness | None:
        """The same without what says nothing; None where it does not show what it should."""

        def does(values: Mapping[str, Any]) -> bool:
            signals = Signals.given(values)
            return shows(decide(self.policy, signals, snapshot), signals)

        if not does(given):
            return None
        for name in [name for name, value in given.items() if value in (0, [], ["text"]) and value is not False]:
            fewer = {other: value for other, value in given.items() if other != name}
            if does(fewer):
                given = fewer
        return given

    def _coherence(self) -> list[Formula]:
        """What is true of all requests that clients can send, as far as signals hang together."""
        if self._real is None:
            self._real = list(self._coherent())
        return self._real

    def _coherent(self) -> Iterator[Formula]:
        effort, easy, hard = "effort", _one("easy"), _one("hard")
        little, much = Leaf("in", frozenset({"none", "minimal"})), Leaf("in", frozenset({"high", "xhigh", "max"}))
        tools, schema = Leaf("in", frozenset({True})), _one("json_schema")
        implied = (
            ((effort, little), ("difficulty", easy)),
            ((effort, much), ("difficulty", hard)),
            (("tools", tools), ("task", _KNOWN)),
            (("structured_output", schema), ("task", _KNOWN)),
            (("images", _SENT), ("modality", _IMAGE)),
            (("modality", _IMAGE), ("images", _SENT)),
        )
        for (name, leaf), (other, then) in implied:
            yield some([self.matches(name, leaf, yes=False), self.matches(other, then)])
        yield some(
            [
                self.matches("tools", tools, yes=False),
                self.matches("difficulty", easy, yes=False),
                self.matches(effort, little),
            ]
        )
        yield self.matches("modality", Leaf("has", frozenset({"text"})))
        yield from self._long_enough()

    def _long_enough(self) -> Iterator[Formula]:
        """The output asked for is a part of the length."""
        try:
            outputs, lengths = (self.space.domains.domain(name) for name in ("max_output_tokens", "context_tokens"))
        except Undecided:
            return
        for number, value in enumerate(outputs.values):
            if value is not None:
                enough = sum(1 << place for place, length in enumerate(lengths.values) if length >= value)
                yield some([Lies("max_output_tokens", outputs.full & ~(1 << number)), Lies("context_tokens", enough)])

    @property
    def somebody(self) -> Formula:
        """That the facts are those of one of the keys."""
        return ALWAYS if self.tenants is None else some([self.key(facts) for facts in self.tenants.values()])

    def keys(self, name: str, *, say: bool) -> Formula:
        """That a request is made with a key that says a signal itself, or with one that leaves it to the client."""
        if not self.tenants:
            return NEVER if say else ALWAYS
        return some([self.key(facts) for facts in self.tenants.values() if says(facts, name) is say])

    def key(self, facts: Mapping[str, str]) -> Formula:
        """That a request is made with a key of these facts, which narrow what it can say of itself."""
        parts = []
        for name in self._facts:
            value = facts.get(name.removeprefix("tenant."))
            parts.append(self.matches(name, _UNKNOWN if value is None else _one(value)))
        parts += [self.matches(name, _one(facts[name])) for name in NARROWED if facts.get(name)]
        if facts.get("cost") == "low" and "cost_sensitive" in self.space.domains:
            parts.append(self.matches("cost_sensitive", Leaf("in", frozenset({True}))))
        return every(parts)


#: Facts of keys that are signals, whatever else a request says: see `signals`.
NARROWED = ("workload", "region", "residency")


def says(facts: Mapping[str, str], name: str) -> bool:
    """Whether a key says a signal itself, so that no hint of a client can."""
    return facts.get("cost") == "low" if name == "cost_sensitive" else name in NARROWED and bool(facts.get(name))


_KNOWN, _UNKNOWN = Leaf("known"), Leaf("unknown")
_SENT, _IMAGE = Leaf("gt", 0), Leaf("has", frozenset({"image"}))


def _one(word: str) -> Leaf:
    return Leaf("in", frozenset({word}))


_REALITY: tuple[tuple[str, Leaf], ...] = (
    ("effort", Leaf("in", frozenset({"none", "minimal"}))),
    ("effort", Leaf("in", frozenset({"high", "xhigh", "max"}))),
    ("effort", _UNKNOWN),
    ("difficulty", _one("easy")),
    ("difficulty", _one("hard")),
    ("tools", Leaf("in", frozenset({True}))),
    ("structured_output", _one("json_schema")),
    ("structured_output", _UNKNOWN),
    ("task", _KNOWN),
    ("images", _SENT),
    ("modality", _IMAGE),
    ("max_output_tokens", _UNKNOWN),
    ("context_tokens", Leaf("gt", 0)),
    ("stream", Leaf("in", frozenset({True}))),
)
