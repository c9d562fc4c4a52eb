"""Which requests a set of conditions admits: an exact search over the values that can make a difference.

A question is a formula over classes of values, answered by narrowing each variable and branching where that is not
enough. Signals are taken as independent of each other, so "nothing" is true of all requests; what was found may be of a
kind that no client could send, which is for `study` to tell. How values fall into classes stands in `domains`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from gateway.core.analyse.domains import Domains, Undecided
from gateway.core.analyse.formulas import ALWAYS, NEVER, Every, Formula, Lies, Some, conjuncts, every, some
from gateway.core.clauses.conditions import Condition, Member
from gateway.core.clauses.matchers import Either, Matcher

MOST_STEPS = 40_000  # for one question
MOST_STEPS_IN_ALL = 2_000_000  # for one policy: a few seconds


class Effort:
    """How much may still be spent: steps for one question, and for all together."""

    __slots__ = ("left", "most", "now")

    def __init__(self, most: int = MOST_STEPS, left: int = MOST_STEPS_IN_ALL) -> None:
        self.most = most
        self.left = left
        self.now = most

    def begin(self) -> None:
        """Turn to a new question."""
        self.now = min(self.most, self.left)

    def spend(self, steps: int = 1) -> None:
        """Take steps. Raises `Undecided` where none are left."""
        self.now -= steps
        self.left -= steps
        if self.now < 0:
            raise Undecided


class Space:
    """The formulas of conditions over classes of values, and the search for values that make them hold."""

    __slots__ = ("_kept", "domains", "effort")

    def __init__(self, domains: Domains, effort: Effort | None = None) -> None:
        self.domains = domains
        self.effort = effort or Effort()
        self._kept: dict[int, tuple[Condition, Formula]] = {}

    def of(self, condition: Condition | None) -> Formula:
        """The formula of a condition. Raises `Undecided` where its values are too many to tell apart."""
        if condition is None:
            return ALWAYS
        kept = self._kept.get(id(condition))
        if kept is None:
            kept = self._kept[id(condition)] = (condition, self._condition(condition))
        return kept[1]

    def _condition(self, condition: Condition) -> Formula:
        if isinstance(condition, Member):
            return self.matches(condition.signal, condition.matcher)
        parts = map(self._condition, condition.parts)
        return every(parts) if condition.every else some(parts)

    def matches(self, signal: str, matcher: Matcher) -> Formula:
        """The formula of one signal against one matcher. Raises `Undecided` as `of` does."""
        if isinstance(matcher, Either):
            parts = (self.matches(signal, part) for part in matcher.parts)
            return every(parts) if matcher.every else some(parts)
        return self.domains.leaf(signal, matcher)

    def without(self, formula: Formula) -> Formula:
        """What holds exactly where a formula does not."""
        if isinstance(formula, Lies):
            return Lies(formula.name, self.domains.full(formula.name) & ~formula.bits)
        parts = tuple(self.without(part) for part in formula.parts)
        return Some(parts) if isinstance(formula, Every) else Every(parts)

    def under(self, formula: Formula, state: Mapping[str, int]) -> Formula:
        """What is left of a formula where some variables are known. Raises `Undecided` when the effort is spent."""
        return self._simplify(formula, state)

    def find(self, formulas: Iterable[Formula]) -> dict[str, int] | None:
        """The classes, by variable, with which all formulas hold; None if there are none.

        Variables that do not matter are left out. Raises `Undecided` when the effort is spent.
        """
        self.effort.begin()
        stack: list[tuple[dict[str, int], Sequence[Formula]]] = [({}, tuple(formulas))]
        while stack:
            state, todo = stack.pop()
            left = self._narrow(state, todo)
            if left is None:
                continue
            if not left:
                return state
            stack.extend(reversed(self._branches(state, left)))
        return None

    def _branches(self, state: dict[str, int], left: list[Some]) -> list[tuple[dict[str, int], Sequence[Formula]]]:
        choice = min(left, key=lambda one: len(one.parts))
        others = [one for one in left if one is not choice]
        self.effort.spend(len(others))
        ruled_out: list[Formula] = []
        branches: list[tuple[dict[str, int], Sequence[Formula]]] = []
        for part in sorted(choice.parts, key=_strangeness):
            branches.append((dict(state), [part, *ruled_out, *others]))
            if isinstance(part, Lies):  # whoever comes after this branch need not try it again
                ruled_out.append(self.without(part))
        return branches

    def _narrow(self, state: dict[str, int], todo: Sequence[Formula]) -> list[Some] | None:
        """Narrow the state by what must hold; the choices that are left, or None where something cannot hold."""
        while True:
            narrowed = False
            choices: list[Some] = []
            for formula in todo:
                for part in conjuncts(self._simplify(formula, state)):
                    if isinstance(part, Lies):
                        now = state.get(part.name, -1) & self.domains.full(part.name)
                        if not now & part.bits:
                            return None
                        state[part.name] = now & part.bits
                        narrowed = True
                    elif isinstance(part, Some):
                        if not part.parts:
                            return None
                        choices.append(part)
            if not narrowed or not choices:
                return choices
            todo = choices

    def _simplify(self, formula: Formula, state: Mapping[str, int]) -> Formula:
        self.effort.spend()
        if isinstance(formula, Lies):
            now = state.get(formula.name, -1) & self.domains.full(formula.name)
            left = now & formula.bits
            return NEVER if not left else ALWAYS if left == now else formula
        is_every = isinstance(formula, Every)
        settles, idle = (NEVER, ALWAYS) if is_every else (ALWAYS, NEVER)
        parts: list[Formula] = []
        for part in formula.parts:
            plain = self._simplify(part, state)
            if plain is settles:
                return settles
            if plain is not idle:
                parts.append(plain)
        return every(parts) if is_every else some(parts)


def _strangeness(formula: Formula) -> int:
    """How far a formula is from what a plain request is like: plain ones make the better examples."""
    if isinstance(formula, Lies):
        return 0 if formula.bits & 1 else 1
    return sum(map(_strangeness, formula.parts)) if len(formula.parts) < 8 else 8


__all__ = ["Effort", "Space", "Undecided"]
