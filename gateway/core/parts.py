"""Parts of policies that several share: what such a file may say, and how policies are put together with them.

A part holds constraints and the sets and tests that belong to them, and nothing that routes: the order in which rules
of two files applied could be read in neither. Putting together only adds. What a policy says can neither drop, replace
nor redefine anything of a part, so a constraint means the same wherever its file is included. No file is read here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from gateway.core.clauses import schema
from gateway.core.clauses.entries import Day, Id, Includes, Strict, unique
from gateway.core.clauses.findings import AcceptDoc
from gateway.core.facts import BUILT_IN_SETS
from gateway.core.policy import ConstraintDoc, PolicyDoc, TestDoc
from gateway.core.quantities import Invalid

#: What tests of a part expect of every policy around it: what stays true however much another policy adds.
PROMISES = ("never_model", "never_family", "never_target", "refused")


def _written(test: TestDoc) -> TestDoc:
    if isinstance(test.request, str):
        what = (
            f"the test {test.name!r:.80} names a file as its request, and a test of a part runs in policies elsewhere"
        )
        raise Invalid(what, "request: with the body written out, or given: with signals")
    return test


class PartDoc(Strict):
    """A file of constraints that policies include, or that pointsman.yaml lays over all of them.

    Tests that only expect what no policy can undo (`never_model`, `never_family`, `never_target`, `refused`) run in
    every policy that it is part of; the others are about the part alone. `accept` is of findings in all of these.
    `as_of` is their clock where the policy states none. Where `tokens_by` is said, every policy around it has to count
    so.
    """

    part: Id
    because: str = ""
    as_of: Day | None = None
    tokens_by: str | None = None
    include: Includes = Field(default_factory=list)
    sets: dict[Id, Annotated[list[str], Field(min_length=1)]] = Field(default_factory=dict)
    constraints: Annotated[list[ConstraintDoc], AfterValidator(unique)] = Field(default_factory=list)
    accept: list[AcceptDoc] = Field(default_factory=list)
    tests: list[Annotated[TestDoc, AfterValidator(_written)]] = Field(default_factory=list)

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The JSON Schema of such a file, with the language of conditions and selectors put in."""
        return schema.complete(super().model_json_schema(*args, **kwargs))

    def alone(self) -> PolicyDoc:
        """The policy that lets everything go everywhere but for these constraints: what its tests are about."""
        return PolicyDoc.model_validate(
            {
                "policy": self.part,
                "tokens_by": self.tokens_by,
                "as_of": None if self.as_of is None else self.as_of.isoformat(),
                "rank": "listed",
                "rules": [{"id": "all", "use": ["*"]}],
            }
        )


@dataclass(frozen=True, slots=True)
class Clash:
    """Something of a part that cannot stand beside the rest: number of the part, path in it, what and what instead.

    `first` is the path, in the policy that was put together, of what it clashes with; "" where that is not one place.
    """

    part: int
    path: str
    what: str
    valid: str
    first: str = ""


@dataclass(frozen=True, slots=True)
class Joined:
    """A policy with its parts in it. `places` says of paths that came from a part which and where they stand there."""

    doc: PolicyDoc
    places: Mapping[str, tuple[int, str]]
    clashes: tuple[Clash, ...]


def join(
    doc: PolicyDoc, parts: Sequence[PartDoc], *, tests: Sequence[TestDoc] | None = None, alone: bool = False
) -> Joined:
    """Put parts into a policy, behind what it says itself. `tests` replaces its own; what those of the parts promise of
    every policy is added, and where the first part is tested `alone`, all of its tests.
    """
    constraints, sets, accept = [*doc.constraints], {**doc.sets}, [*doc.accept]
    every_test = [*(doc.tests if tests is None else tests)]
    places: dict[str, tuple[int, str]] = {}
    clashes: list[Clash] = []
    tokens_by = doc.tokens_by
    for number, part in enumerate(parts):
        clashes += _clashes(number, part, [entry.id for entry in constraints], sets)
        for i, entry in enumerate(part.constraints):
            places[f"constraints[{len(constraints)}]"] = number, f"constraints[{i}]"
            constraints.append(entry)
        for name, members in part.sets.items():
            if name not in sets:
                places[f"sets.{name}"] = number, f"sets.{name}"
                sets[name] = members
        for i, accepted in enumerate(part.accept):
            places[f"accept[{len(accept)}]"] = number, f"accept[{i}]"
            accept.append(accepted)
        for i, test in enumerate(part.tests):
            if not (test.expect.keys() <= set(PROMISES) or (alone and not number)):
                continue
            places[f"tests[{len(every_test)}]"] = number, f"tests[{i}]"
            every_test.append(test)
        if part.tokens_by is not None and tokens_by is None:
            tokens_by, places["tokens_by"] = part.tokens_by, (number, "tokens_by")
        elif part.tokens_by not in (None, tokens_by):
            what = f"its thresholds are tokens of {part.tokens_by}, those of {doc.policy} tokens of {tokens_by}"
            clashes.append(Clash(number, "tokens_by", what, "the same for both"))
    added: dict[str, Any] = {"constraints": constraints, "sets": sets, "tests": every_test, "tokens_by": tokens_by}
    added["accept"] = accept
    added["as_of"] = doc.as_of or next((part.as_of for part in parts if part.as_of), None)
    return Joined(doc.model_copy(update=added), places, tuple(clashes))


def _clashes(number: int, part: PartDoc, ids: Sequence[str], sets: Mapping[str, Sequence[str]]) -> Iterator[Clash]:
    taken = {name: place for place, name in reversed(list(enumerate(ids)))}
    for i, entry in enumerate(part.constraints):
        if entry.id in taken:
            what = f"{entry.id!r} is another constraint's id already: constraints add up, none takes another's place"
            first = f"constraints[{taken[entry.id]}].id"
            yield Clash(number, f"constraints[{i}].id", what, "an id of its own", first)
        for path, name in _sets_named(entry.selector, f"constraints[{i}].{entry.effect}"):
            if name not in part.sets and name not in BUILT_IN_SETS:
                what = f"the set @{name} is not declared in this file, so others would say what the constraint means"
                yield Clash(number, path, what, f"sets: {{{name}: [...]}} here")
    for name, members in part.sets.items():
        if sets.get(name, members) != members:
            what = f"the set {name!r} holds other models elsewhere: one of the two would lose its meaning"
            yield Clash(number, f"sets.{name}", what, "a name of its own", f"sets.{name}")


def _sets_named(raw: object, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(raw, str) and raw.startswith("@"):
        yield path, raw[1:]
    elif isinstance(raw, Mapping):
        for key, value in raw.items():
            yield from _sets_named(value, f"{path}.{key}")
    elif isinstance(raw, list):
        for i, value in enumerate(raw):
            yield from _sets_named(value, f"{path}[{i}]")
