"""What a policy file may say, and its compiled form: a policy bound to one fleet.

`PolicyDoc` and its parts are the pydantic models of the file (the JSON Schema comes from them); `compile_policy` checks
every literal against the catalogue and turns selectors into bit masks. Choosing stands in `decide`, judging a policy
in `analyse`, running its tests in `policytest`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from gateway.core.clauses import schema, tenants
from gateway.core.clauses.byfact import ByFact, ByFactDoc, read_by_fact
from gateway.core.clauses.canary import Shares, read_weights
from gateway.core.clauses.conditions import Condition, Group, Scope, Test, compile_condition
from gateway.core.clauses.entries import Day, Id, Includes, RungForm, Select, Strict, When, unique
from gateway.core.clauses.findings import AcceptDoc
from gateway.core.clauses.latency import LatencyDoc, LatencyRule
from gateway.core.clauses.matchers import Problems, suggest
from gateway.core.clauses.selectors import Names, Selector, all_but, compile_selector, describe
from gateway.core.clauses.shadow import ShadowDoc, ShadowRule
from gateway.core.clauses.sticky import Sticky, StickyDoc
from gateway.core.facts import SIGNALS, Kind
from gateway.core.quantities import Invalid, tokens
from gateway.core.targets.capabilities import Capabilities
from gateway.core.targets.filters import Filter, acting
from gateway.core.targets.rank import AnyRank, Prices, RankName
from gateway.core.types import Fleet, Thinking

RANKS: tuple[RankName, ...] = ("listed", "cheapest", "fastest", "balanced", "weighted")
#: Members of a rung that do not select.
_BESIDE = frozenset({"rank", "weights"})
#: The signals that may stand in a constraint's selector as `$name`, beside the open ones.
VARIABLES: Mapping[str, Kind] = MappingProxyType({name: signal.kind for name, signal in SIGNALS.items()})


def _budget(raw: object) -> int:
    count = tokens(raw)
    if count < 1:
        raise Invalid(f"{raw!r} is not a budget", "at least one token, such as 4k")
    return count


Effect = Literal["forbid", "require", "avoid"]
EFFECTS: tuple[Effect, ...] = ("forbid", "require", "avoid")


class ConstraintDoc(Strict):
    """What holds under every rule: `forbid` and `require` remove targets, `avoid` puts them behind all others."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": [effect]} for effect in EFFECTS]})

    id: Id
    because: str = ""
    when: When = None
    forbid: Select = None
    require: Select = None
    avoid: Select = None

    @model_validator(mode="after")
    def _one_of(self) -> ConstraintDoc:
        if sum(getattr(self, effect) is not None for effect in EFFECTS) != 1:
            raise Invalid("a constraint does one thing", "one of forbid, require and avoid")
        return self

    @property
    def effect(self) -> Effect:
        """Which of the three it does."""
        return next(effect for effect in EFFECTS if getattr(self, effect) is not None)

    @property
    def selector(self) -> Any:
        """The selector as it is written."""
        return getattr(self, self.effect)


class RuleDoc(Strict):
    """One route: the first rule whose `when` holds decides, its rungs are tried in order."""

    id: Id
    because: str = ""
    when: When = None
    use: list[RungForm] = Field(min_length=1)


class BudgetDoc(Strict):
    """Think, but not longer than this many tokens."""

    budget: Annotated[int, BeforeValidator(_budget), WithJsonSchema(schema.SIZE)]


class ThinkingDoc(Strict):
    """One entry of the thinking list; the first whose `when` holds decides."""

    id: Id
    because: str = ""
    when: When = None
    set: Literal["never", "always", "client"] | BudgetDoc
    force: bool = False


class TestDoc(Strict):
    """A test: `given` these signals, or a `request` as a client sends it, `expect` this decision."""

    __test__ = False  # not a test class, whatever pytest thinks of its name

    name: str = Field(min_length=1)
    request: Annotated[str, Field(min_length=1)] | dict[str, Any] | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    tenant: Annotated[dict[str, str], AfterValidator(tenants.checked)] = Field(default_factory=dict)
    given: Annotated[dict[str, Any], WithJsonSchema(schema.part("Given"))] = Field(default_factory=dict)
    expect: Annotated[dict[str, Any], WithJsonSchema(schema.part("Expectation"))] = Field(min_length=1)

    @model_validator(mode="after")
    def _whose(self) -> TestDoc:
        if self.request is None and (self.headers or self.tenant):
            raise Invalid(
                "headers and tenant belong to a request", "request: a file or a body; or given: {tenant.team: shop}"
            )
        return self


class PolicyDoc(Strict):
    """A whole policy file."""

    policy: Id
    because: str = ""
    include: Includes = Field(default_factory=list)
    as_of: Day | None = None
    tokens_by: str | None = None
    allow_closed: list[str] = Field(default_factory=lambda: ["qwen", "llama"])
    sets: dict[Id, Annotated[list[str], Field(min_length=1)]] = Field(default_factory=dict)
    constraints: Annotated[list[ConstraintDoc], AfterValidator(unique)] = Field(default_factory=list)
    rules: Annotated[list[RuleDoc], AfterValidator(unique)] = Field(min_length=1)
    rank: Annotated[RankName | ByFactDoc, WithJsonSchema(schema.part("Rank"))] = "cheapest"
    thinking: Annotated[list[ThinkingDoc], AfterValidator(unique)] = Field(default_factory=list)
    sticky: StickyDoc | None = None
    latency: Annotated[list[LatencyDoc], AfterValidator(unique)] = Field(default_factory=list)
    shadow: Annotated[list[ShadowDoc], AfterValidator(unique)] = Field(default_factory=list)
    accept: list[AcceptDoc] = Field(default_factory=list)
    tests: list[TestDoc] = Field(default_factory=list)

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The JSON Schema of a policy file, with the language of conditions and selectors put in."""
        return schema.complete(super().model_json_schema(*args, **kwargs))


@dataclass(frozen=True, slots=True)
class Rung:
    """One step of a rule: these targets, in this order among themselves."""

    mask: int
    rank: AnyRank
    listed: tuple[int, ...]
    text: str
    shares: Shares = ()  # of `rank: weighted`, where the rung says its own weights
    by: ByFact | None = None  # of `rank: {highest: ...}` and `{lowest: ...}`


@dataclass(frozen=True, slots=True)
class Rule:
    """A compiled rule; `says` is its half of the line that explains a decision."""

    id: str
    because: str
    when: Condition | None
    rungs: tuple[Rung, ...]
    mask: int  # every target of every rung
    says: str


@dataclass(frozen=True, slots=True)
class Constraint:
    """A compiled constraint.

    `select` holds the targets it acts against: those it forbids or avoids, or those of which what it requires is not
    known to hold.
    """

    id: str
    because: str
    when: Condition | None
    select: Selector
    effect: Effect

    @property
    def hard(self) -> bool:
        """Does it remove targets, rather than put them behind others?"""
        return self.effect != "avoid"


@dataclass(frozen=True, slots=True)
class ThinkingRule:
    """A compiled entry of the thinking list."""

    id: str
    because: str
    when: Condition | None
    thinking: Thinking
    force: bool


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy bound to a fleet. Never changes; a reload makes a new one."""

    name: str
    digest: str
    label: str  # name@digest, as answers carry it
    doc: PolicyDoc
    fleet: Fleet
    rules: tuple[Rule, ...]
    forbids: tuple[Constraint, ...]  # all that remove, `require` too; cheapest condition first: they commute
    avoids: tuple[Constraint, ...]
    thinking: tuple[ThinkingRule, ...]
    forced: tuple[ThinkingRule, ...]  # the entries with `force`: all that binds a pinned request
    tokens_by: str | None
    tasks: tuple[str, ...]  # what the lexicon can tell; empty where that was not said
    rank: AnyRank
    ranks: frozenset[str]  # every rank that any rung uses
    everything: Rung  # what a pinned request chooses from
    capabilities: Capabilities
    prices: Prices
    sticky: Sticky | None
    latency: tuple[LatencyRule, ...]
    shadows: tuple[ShadowRule, ...]
    asks: tuple[tuple[Test | None, Rule], ...]  # the rules, each with what its condition asks
    filters: tuple[Filter, ...]  # of `FILTERS`, those that can ever remove a target here
    watches: bool  # it asks for more of the outside than health: `previous`, `slow` or a draw for shadows


@dataclass(frozen=True, slots=True)
class _Reading:
    """What one policy is compiled against, and where its mistakes are collected."""

    doc: PolicyDoc
    fleet: Fleet
    names: Names
    scope: Scope
    rank: AnyRank
    by: ByFact | None

    @property
    def problems(self) -> Problems:
        return self.scope.problems


def compile_policy(doc: PolicyDoc, fleet: Fleet, *, digest: str, tasks: Iterable[str] = ()) -> Policy:
    """Bind a policy to a fleet.

    Raises `ConfigError` with every problem found: unknown signals, facts, models, families, sets and values, each at
    its path (`rules[2].use[0].model`) with what would have been valid; `file` and `line` are left to the loader. A
    selector that selects nothing in this fleet is fine, because policies move between fleets: see `analyse`. `tasks`
    are what the lexicon can tell; where they are given, no other may be asked for.
    """
    problems = Problems()
    scope = Scope(problems, doc.tokens_by, tuple(sorted(tasks)))
    rank, by = _rank(doc.rank.written() if isinstance(doc.rank, ByFactDoc) else doc.rank, fleet, "rank", problems)
    reading = _Reading(doc, fleet, _names(doc, fleet, problems), scope, rank, by)
    _check_names(reading)
    rules = tuple(_rule(reading, rule, f"rules[{i}]") for i, rule in enumerate(doc.rules))
    constraints = [_constraint(reading, entry, f"constraints[{i}]") for i, entry in enumerate(doc.constraints)]
    thinking = tuple(_thinking(reading, entry, f"thinking[{i}]") for i, entry in enumerate(doc.thinking))
    latency = tuple(
        LatencyRule.of(entry, _when(reading, entry.when, f"latency[{i}]")) for i, entry in enumerate(doc.latency)
    )
    shadows = tuple(_shadow(reading, entry, f"shadow[{i}]") for i, entry in enumerate(doc.shadow))
    problems.raise_any()
    every = [entry.rungs for entry in rules] + [entry.rungs for entry in shadows]
    kept = [constraint for constraint in constraints if constraint is not None]
    kept.sort(key=lambda entry: 0 if entry.when is None else entry.when.cost)
    forbids = tuple(entry for entry in kept if entry.hard)
    able = Capabilities.of(fleet, doc.allow_closed)
    return Policy(
        name=doc.policy,
        digest=digest,
        label=f"{doc.policy}@{digest[:12]}",
        doc=doc,
        fleet=fleet,
        rules=rules,
        forbids=forbids,
        avoids=tuple(entry for entry in kept if not entry.hard),
        thinking=thinking,
        forced=tuple(entry for entry in thinking if entry.force),
        tokens_by=doc.tokens_by,
        tasks=scope.tasks,
        rank=rank,
        ranks=frozenset({rank, *(rung.rank for rungs in every for rung in rungs)}),
        everything=Rung(fleet.mask(), rank, tuple(range(len(fleet.targets))), "*", by=by),
        capabilities=able,
        prices=Prices(fleet),
        sticky=None if doc.sticky is None else Sticky.of(doc.sticky),
        latency=latency,
        shadows=shadows,
        asks=tuple((None if rule.when is None else rule.when.test, rule) for rule in rules),
        filters=acting(able, forbids),
        watches=bool(doc.sticky or latency or shadows),
    )


def clock(policy: Policy) -> float:
    """The moment a policy's tests run at: midnight UTC of its `as_of`."""
    day = policy.doc.as_of
    return 0.0 if day is None else datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


def _names(doc: PolicyDoc, fleet: Fleet, problems: Problems) -> Names:
    known = Names.of(fleet)
    sets: dict[str, tuple[str, ...]] = {}
    for name, members in doc.sets.items():
        for i, model in enumerate(members):
            if model not in known.models:
                problems.add(
                    f"sets.{name}[{i}]", f"no model {model!r} in the catalogue", suggest(model, [*known.models])
                )
        sets[name] = tuple(known.models.get(model, model) for model in members)
    return known.having(sets)


def _check_names(reading: _Reading) -> None:
    doc, names, problems = reading.doc, reading.names, reading.problems
    for i, family in enumerate(doc.allow_closed):
        if family not in names.families and "allow_closed" in doc.model_fields_set:
            problems.add(
                f"allow_closed[{i}]", f"no family {family!r} in the catalogue", suggest(family, names.families)
            )
    tokenizers = sorted({model.tokenizer for model in reading.fleet.models.values() if model.tokenizer})
    if doc.tokens_by is not None and doc.tokens_by not in tokenizers:
        what = f"no model of the catalogue counts with {doc.tokens_by!r}"
        problems.add("tokens_by", what, suggest(doc.tokens_by, tokenizers))


def _when(reading: _Reading, raw: object, path: str) -> Condition | None:
    return None if raw is None else compile_condition(raw, f"{path}.when", reading.scope)


def _rungs(reading: _Reading, use: Sequence[object], path: str) -> tuple[tuple[Rung, ...], int]:
    """The rungs of a list, and every target of any."""
    found = [_rung(reading, raw, f"{path}.use[{i}]") for i, raw in enumerate(use)]
    rungs = tuple(rung for rung in found if rung is not None)
    mask = 0
    for rung in rungs:
        mask |= rung.mask
    return rungs, mask


def _rule(reading: _Reading, rule: RuleDoc, path: str) -> Rule:
    rungs, mask = _rungs(reading, rule.use, path)
    when = _when(reading, rule.when, path)
    says = f"{rule.id}: " + ("no earlier rule applies" if when is None else _asks(when))
    return Rule(rule.id, rule.because, when, rungs, mask, _header_safe(says))


def _asks(when: Condition) -> str:
    return f"({when.text})" if isinstance(when, Group) and not when.every else when.text


def _header_safe(text: str) -> str:
    """A line that can stand in a header: ASCII, no control characters, bounded."""
    plain = text.encode("ascii", "backslashreplace").decode("ascii")
    plain = "".join(char if char.isprintable() else " " for char in plain)
    return plain if len(plain) <= 200 else plain[:197] + "..."


def _rung(reading: _Reading, raw: object, path: str) -> Rung | None:
    problems, chosen, by = reading.problems, reading.rank, reading.by
    if isinstance(raw, Mapping) and "rank" in raw:
        wrong = len(problems.found)
        chosen, by = _rank(raw["rank"], reading.fleet, f"{path}.rank", problems)
        if len(problems.found) > wrong:
            return None
    shares: Shares | None = ()
    if isinstance(raw, Mapping) and "weights" in raw:
        shares = read_weights(raw["weights"], reading.fleet, reading.names, f"{path}.weights", problems)
        if chosen != "weighted":
            problems.add(f"{path}.weights", f"means nothing with rank {chosen}", "rank: weighted beside it")
    if isinstance(raw, Mapping) and not raw.keys().isdisjoint(_BESIDE):
        raw = {key: value for key, value in raw.items() if key not in _BESIDE}
        if not raw:
            problems.add(path, "names no targets", 'a selector beside rank, such as {family: "*", rank: listed}')
            return None
    selector = compile_selector(raw, reading.fleet, reading.names, path, problems)
    if selector is None or shares is None:
        return None
    return Rung(selector.possible, chosen, selector.listed, describe(raw), shares, by)


def _rank(raw: object, fleet: Fleet, path: str, problems: Problems) -> tuple[AnyRank, ByFact | None]:
    if isinstance(raw, Mapping):
        by = read_by_fact(raw, fleet, path, problems)
        return ("listed", None) if by is None else (by.direction, by)
    if raw not in RANKS:
        problems.add(path, f"{raw!r:.80} is no rank", suggest(str(raw), RANKS))
        return "listed", None
    return raw, None


def _shadow(reading: _Reading, entry: ShadowDoc, path: str) -> ShadowRule:
    rungs, mask = _rungs(reading, entry.use, path)
    return ShadowRule(entry.id, entry.because, _when(reading, entry.when, path), rungs, mask, entry.share)


def _constraint(reading: _Reading, entry: ConstraintDoc, path: str) -> Constraint | None:
    when = _when(reading, entry.when, path)
    at = f"{path}.{entry.effect}"
    select = compile_selector(entry.selector, reading.fleet, reading.names, at, reading.problems, variables=VARIABLES)
    if select is None:
        return None
    acted_on = all_but(select, reading.fleet) if entry.effect == "require" else select
    return Constraint(entry.id, entry.because, when, acted_on, entry.effect)


def _thinking(reading: _Reading, entry: ThinkingDoc, path: str) -> ThinkingRule:
    wish = entry.set
    if isinstance(wish, BudgetDoc):
        thinking = Thinking("budget", wish.budget, entry.id)
    else:
        thinking = Thinking(wish, None, entry.id)
    return ThinkingRule(entry.id, entry.because, _when(reading, entry.when, path), thinking, entry.force)
