"""Random fleets, policies, requests and snapshots: what the property tests draw from.

Values are few and close together, so that what is drawn meets: a window is often one token more or less than a request,
a name in a condition is often the one that was sent. Everything is drawn as the plain values that a file would hold, so
that the oracle reads what was written and not what was compiled. Every choice is one small integer that hypothesis
draws: with its own strategies for all of it, a world took ten times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from datetime import date
from functools import lru_cache
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gateway.core.policy import Policy, PolicyDoc, compile_policy
from gateway.core.reading.signals import Signals
from gateway.core.terms import Terms
from gateway.core.types import (
    NOBODY_SLOW,
    Backend,
    Fleet,
    Model,
    Previous,
    Price,
    PriceTier,
    Snapshot,
    Target,
)

Raw = dict[str, Any]
T = TypeVar("T")

NOON = 1_795_262_400.0  # 2026-11-21, 12:00 UTC
DAY = 86_400
TOKENIZERS = (None, "tok-a", "tok-b")
FAMILIES = ("llama", "qwen", "gpt-oss")
LANGUAGES = ("en", "de", "ja")
PLACES = (None, "us", "us-east-1", "eu", "eu-central-1", "europe")
MODALITIES = ("text", "image", "audio")
MEMBERS = ("logprobs", "seed", "n")
THOUGHTS = ("switchable", "always", "never", "unknown")
RANKS = ("listed", "cheapest", "fastest", "balanced", "weighted")


def more(times: int = 1) -> settings:
    """So many times the examples of the profile in use: 100 at first, `--hypothesis-profile deep` for a long search.

    Only that one makes a failing example smaller, which may take minutes for a whole world: it is readable as it is.
    """
    usual = settings.default
    assert usual is not None
    deep = usual.max_examples > 1_000
    phases = tuple(usual.phases) if deep else tuple(one for one in usual.phases if one is not Phase.shrink)
    return settings(max_examples=usual.max_examples * times, phases=phases, suppress_health_check=list(HealthCheck))


@lru_cache
def _below(count: int) -> st.SearchStrategy[int]:
    return st.integers(0, count - 1)


class Dice:
    """Chooses, by hypothesis."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw

    def below(self, count: int) -> int:
        """From 0 up to, but not including, `count`."""
        return self._draw(_below(count))

    def one(self, values: Sequence[T]) -> T:
        """One of these."""
        return values[self.below(len(values))]

    def some(self, values: Sequence[T], least: int = 0) -> list[T]:
        """A few of these, in order."""
        bits = self.below(2 ** len(values) - least) + least
        return [value for number, value in enumerate(values) if bits >> number & 1]

    def several(self, values: Sequence[T], most: int) -> list[T]:
        """From one to `most` of these, in any order."""
        left = list(values)
        return [left.pop(self.below(len(left))) for _ in range(min(1 + self.below(most), len(values)))]

    def chance(self, in_ten: int) -> bool:
        """True so many times out of ten."""
        return self.below(10) >= 10 - in_ten  # 0 is what hypothesis tries first, and simplest

    def maybe(self, values: Sequence[T], in_ten: int = 3) -> T | None:
        """One of these so many times out of ten, else None."""
        return self.one(values) if self.chance(in_ten) else None


def drawn(make: Callable[[Dice], T]) -> st.SearchStrategy[T]:
    """A strategy of what a function makes with dice."""

    @st.composite
    def draw_it(draw: st.DrawFn) -> T:
        return make(Dice(draw))

    return draw_it()


# -- fleets --


def model(dice: Dice, name: str) -> Model:
    languages = dice.some(LANGUAGES, 1) if dice.chance(6) else None
    return Model(
        name,
        dice.one(FAMILIES),
        aliases=(f"{name}-alias",),
        generation=dice.maybe(["3", "4"]),
        params_active_b=dice.maybe([3, 17, 2.5], 5),
        window=dice.maybe([1000, 5000], 5),
        languages=None if languages is None else frozenset(languages),
        thinking=dice.one(THOUGHTS),
        tools=dice.maybe([True, False], 5),
        images_max=dice.maybe([1, 3], 6),
        license=dice.maybe(["Apache-2.0", "llama4-community"], 7),
        terms=Terms(osi_approved=dice.maybe([True, False], 7), mau_limit=dice.maybe([700, 1000])),
        open_weights=dice.one([True, True, True, False, None]),
        evals=(("arena", dice.one([10, 20.5])),) if dice.chance(5) else (),
        lineage=("m0", "forked") if dice.chance(3) else None,
        eu_domiciled_licensee_excluded=dice.maybe([True, False], 6),
        tokenizer=dice.one(TOKENIZERS),
        purpose=dice.one(["general", "code"]),
    )


def backend(dice: Dice, name: str) -> Backend:
    return Backend(
        name,
        dice.one(["openai", "vllm"]),
        (),
        region=dice.one(PLACES),
        processing=dice.one(PLACES),
        self_hosted=dice.chance(5),
        country=dice.maybe(["DE", "US"], 6),
        jurisdiction=dice.maybe(["DE", "US"], 6),
    )


def price(dice: Dice) -> Price:
    tiers = [PriceTier(0, dice.below(3) * 10**8, (1 + dice.below(3)) * 10**8)]
    if dice.chance(2):
        tiers.append(PriceTier(800, 10**9, 10**9))
    return Price(tuple(tiers), "test")


def target(dice: Dice, index: int, models: Sequence[Model], backends: Sequence[Backend]) -> Target:
    of = dice.one(models)
    takes = dice.some(MEMBERS) if dice.chance(2) else None
    return Target(
        f"t{index}",
        index,
        of,
        dice.one(backends),
        of.id,
        window=dice.one([5000, 2000, 1000]),
        max_output=dice.maybe([300, 4000]),
        price=price(dice) if dice.chance(7) else None,
        modalities=frozenset({"text", *(dice.some(MODALITIES) if dice.chance(5) else MODALITIES)}),
        tools=not dice.chance(3),
        structured_output=not dice.chance(3),
        thinking=dice.one(THOUGHTS),
        unsupported=frozenset(dice.some(MEMBERS)) if dice.chance(3) else frozenset(),
        retires_on=dice.maybe([date(2026, 11, 21), date(2026, 11, 22), date(2026, 12, 24)], 2),
        stand_in=dice.chance(1),
        weight=dice.below(3),
        typical_output_tokens=dice.one([100, 500]),
        takes=None if takes is None else frozenset({"model", "messages", *takes}),
        max_input=dice.maybe([800], 2),
        thinking_needs_stream=dice.chance(2),
    )


def fleet(dice: Dice, most: int = 7) -> Fleet:
    """A few targets of a few models on a few backends; the catalogue knows a model of each family more."""
    models = [model(dice, f"m{number}") for number in range(1 + dice.below(4))]
    backends = [backend(dice, f"b{number}") for number in range(1 + dice.below(3))]
    # What nobody serves must have every family and tokenizer, so that any policy may name them.
    absent = [Model(f"absent-{number}", name, tokenizer=TOKENIZERS[number]) for number, name in enumerate(FAMILIES)]
    targets = tuple(target(dice, index, models, backends) for index in range(most - dice.below(most)))
    return Fleet(targets, {one.id: one for one in (*models, *absent)})


# -- matchers --


def matcher(dice: Dice, leaf: Callable[[], Any], depth: int = 2) -> Any:
    """What may stand behind a name: leaves, `known`, and `not`, `any` and `all` around them."""
    kind = dice.below(10) if depth else 0
    if kind < 5:
        return leaf()
    if kind == 5:
        return {"known": dice.chance(5)}
    if kind < 8:
        return {"not": matcher(dice, leaf, depth - 1)}
    if kind == 8:
        many = [matcher(dice, leaf, depth - 1) for _ in range(1 + dice.below(2))]
        return {dice.one(["any", "all"]): many}
    return {"not": matcher(dice, leaf, depth - 1), "known": dice.chance(5)}


NUMBERS: tuple[Any, ...] = (0, 1, 300, 301, 500, "1k", 1000.0, 1000.5, 2000, 4000, "5k")


def number(dice: Dice, edges: Sequence[Any] = NUMBERS) -> Any:
    kind = dice.below(5)
    if kind < 2:
        return {dice.one(["gt", "gte", "lt", "lte"]): dice.one(edges)}
    if kind == 2:
        return {dice.one(["gt", "gte"]): dice.one(edges), dice.one(["lt", "lte"]): dice.one(edges)}
    return dice.one(edges) if kind == 3 else {dice.one(["eq", "in"]): dice.several(edges, 2)}


def text(dice: Dice, words: Sequence[str], prefixes: Sequence[str] = ("x",)) -> Any:
    kind = dice.below(4)
    if kind == 0:
        return dice.one(words)
    if kind == 1:
        return dice.several(words, 2)
    return {"prefix": dice.one(prefixes)} if kind == 2 else {dice.one(["eq", "in"]): dice.several(words, 2)}


def words_of_set(dice: Dice, words: Sequence[str]) -> Any:
    kind = dice.below(4)
    if kind == 0:
        return dice.one(words)
    if kind == 1:
        return dice.several(words, 2)
    return {dice.one(["has", "lacks", "in", "eq"]): dice.one([dice.several(words, 2), dice.one(words)])}


def language(dice: Dice) -> Any:
    kind = dice.below(3)
    if kind == 0:
        return dice.one(LANGUAGES)
    return dice.several(LANGUAGES, 2) if kind == 1 else {dice.one(["eq", "in"]): dice.several(LANGUAGES, 2)}


def boolean(dice: Dice) -> Any:
    return dice.one([True, False, {"not": True}, {"not": False}, {"known": True}, {"known": False}, {"eq": True}])


def _numbers(*edges: Any) -> Callable[[Dice], Any]:
    return lambda dice: matcher(dice, lambda: number(dice, edges or NUMBERS))


def _texts(words: Sequence[str], prefixes: Sequence[str] = ("x",)) -> Callable[[Dice], Any]:
    return lambda dice: matcher(dice, lambda: text(dice, words, prefixes))


def _sets(words: Sequence[str]) -> Callable[[Dice], Any]:
    return lambda dice: matcher(dice, lambda: words_of_set(dice, words))


# -- conditions and requests --

LENGTHS = (0, 1, 299, 300, 301, 499, 500, 501, 799, 800, 801, 900, 901, 999, 1000, 1001, 1500, 1900, 1901, 4500, 5001)
SHARES = ({"en": 0.5, "ja": 0.5}, {"de": 0.1, "en": 0.9}, {"en": 0.2, "de": 0.2}, {"en": 0.1})
#: Signals, what a condition may say of each, and what a request may have.
SIGNALS: Mapping[str, tuple[Callable[[Dice], Any], Callable[[Dice], Any]]] = {
    "context_tokens": (_numbers(), lambda dice: dice.one(LENGTHS)),
    "max_output_tokens": (_numbers(), lambda dice: dice.one([1, 300, 301, 500, 900, 1000, 4000, 4001])),
    "images": (_numbers(0, 1, 2, 3), lambda dice: dice.below(5) if dice.chance(5) else 0),
    "language": (
        lambda dice: matcher(dice, lambda: language(dice)),
        lambda dice: dice.one([*LANGUAGES, *SHARES]),
    ),
    "target_language": (_sets(LANGUAGES), lambda dice: frozenset(dice.some(LANGUAGES))),
    "modality": (
        _sets(MODALITIES),
        lambda dice: frozenset({"text", *(dice.some(MODALITIES) if dice.chance(3) else ())}),
    ),
    "parameters": (
        _sets(MEMBERS),
        lambda dice: frozenset({"model", "messages", *(dice.some(MEMBERS) if dice.chance(4) else ())}),
    ),
    "tools": (boolean, lambda dice: dice.chance(3)),
    "stream": (boolean, lambda dice: dice.chance(5)),
    "cost_sensitive": (boolean, lambda dice: dice.chance(5)),
    "structured_output": (_texts(["json_object", "json_schema"], ["json"]), lambda dice: "json_schema"),
    "effort": (_texts(["none", "minimal", "high"], ["m"]), lambda dice: dice.one(["none", "minimal", "low", "high"])),
    "task": (_texts(["code", "math"]), lambda dice: dice.one(["code", "math", "chat"])),
    "difficulty": (_texts(["easy", "hard"]), lambda dice: dice.one(["easy", "hard"])),
    "workload": (_texts(["bulk", "b0"], ["b"]), lambda dice: dice.one(["bulk", "b0", "x"])),
    "region": (_texts(["eu", "us"], ["eu", "us-"]), lambda dice: dice.one(["eu", "us", "eu-central-1"])),
    "residency": (_texts(["eu", "us"], ["eu"]), lambda dice: dice.one(["eu", "us"])),
    "conversation": (_texts(["c1", "c2"], ["c"]), lambda dice: dice.one(["c1", "c2"])),
    "model_asked": (_texts(["auto", "m0"], ["auto/", "m"]), lambda dice: dice.one(["auto", "auto/test", "m0", "t0"])),
    "max_cost_usd": (_numbers(0, 0.0001, 0.001), lambda dice: dice.one([0.00005, 0.0001, 0.0005, 0.001, 1.0])),
    "tenant.home": (_texts(["eu", "us", "@eu"], ["eu"]), lambda dice: dice.one(["eu", "us", "FR", "us-east-1"])),
    "headers.x-team": (_texts(["red", "blue"], ["r"]), lambda dice: dice.one(["red", "blue"])),
    "metadata.team": (_texts(["red", "blue"], ["r"]), lambda dice: dice.one(["red", "blue"])),
}
#: Those that every real request has.
CERTAIN = ("context_tokens", "images", "modality", "parameters", "tools", "stream", "cost_sensitive", "model_asked")
#: Those that remove by themselves: drawn less often, or little would be left.
BINDING = ("region", "residency", "structured_output", "effort", "max_output_tokens", "max_cost_usd")


def condition(dice: Dice, names: Sequence[str] = tuple(SIGNALS), depth: int = 3) -> Raw:
    """A `when`."""
    kind = dice.below(8) if depth else 0
    if kind < 5:
        return {name: SIGNALS[name][0](dice) for name in dice.several(names, 2)}
    if kind == 5:
        return {"not": condition(dice, names, depth - 1)}
    if kind == 6:
        many = [condition(dice, names, depth - 1) for _ in range(1 + dice.below(3))]
        return {dice.one(["any", "all"]): many}
    name = dice.one(names)
    return {name: SIGNALS[name][0](dice), "not": condition(dice, names, depth - 1)}


def request(dice: Dice, *, whole: bool = False) -> Raw:
    """What is known of a request; `whole`: with all that every real one has. A length may be known only roughly."""
    sent = {}
    for name, (_, value) in SIGNALS.items():
        often = 10 if name == "context_tokens" or (whole and name in CERTAIN) else 1 if name in BINDING else 6
        if dice.chance(often):
            sent[name] = value(dice)
    if dice.chance(2):
        sent["thinking_hint"] = dice.one(["never", "always", 4000])
    if dice.chance(4):
        least = sent.pop("context_tokens")
        sent["tokens"] = {
            name or "": [least, least + extra, extra == 0, "drawn"]
            for name in TOKENIZERS
            for extra in [dice.one([0, 1, 300])]
        }
        most = max(bounds[1] for bounds in sent["tokens"].values())
        sent["tokens"][""] = [least, most, most == least, "drawn"]  # bounds the length for any tokenizer
    return sent


# -- selectors --


def _facts(fleet: Fleet) -> Mapping[str, Callable[[Dice], Any]]:
    names = [one.name for one in fleet.targets]
    places = [place for place in PLACES if place]
    models, families = _texts([*fleet.models, "m0-alias", "@some"], ["m"]), _texts(FAMILIES, ["q"])
    return {
        "model": lambda dice: "*" if dice.chance(2) else models(dice),
        "family": lambda dice: "*" if dice.chance(3) else families(dice),
        "model.generation": _texts(["3", "4"], ["3"]),
        "model.params_active_b": _numbers(2.5, 3, 10, 17),
        "model.window": _numbers(),
        "model.languages": _sets(LANGUAGES),
        "model.modalities": _sets(MODALITIES),
        "model.license": _texts(["Apache-2.0", "llama4-community"], ["llama"]),
        "model.evals.arena": _numbers(10, 20, 20.5),
        "model.lineage": _sets(["m0", "forked"]),
        "license.osi_approved": boolean,
        "license.mau_limit": _numbers(700, 1000),
        "target.country": _texts(["DE", "US", "@eu"], ["D"]),
        "target.jurisdiction": _texts(["DE", "US", "@eu"], ["U"]),
        "model.tools": boolean,
        "model.open_weights": boolean,
        "model.eu_domiciled_licensee_excluded": boolean,
        "model.images_max": _numbers(0, 1, 2, 3),
        "target.name": _texts([*names, "nobody"], ["t"]),
        "target.region": _texts(places, ["eu", "us-"]),
        "target.processing": _texts(places, ["eu"]),
        "target.self_hosted": boolean,
        "target.window": _numbers(),
        "target.max_output": _numbers(),
        "target.modalities": _sets(MODALITIES),
        "target.unsupported": _sets(MEMBERS),
        "target.thinking": _texts(THOUGHTS[:3], ["n"]),
        "target.retires_on": _numbers("2026-11-21", "2026-11-22", "2027-01-01"),
        "target.priced": boolean,
        "target.weight": _numbers(0, 1, 2),
        "target.input_usd": _numbers(0, 0.1, 0.15, 0.2),
    }


#: Facts that may be compared with what a request says, and how.
VARIABLES: Mapping[str, Sequence[Any]] = {
    "model.languages": ["$language", {"lacks": "$language"}, {"has": "$language"}, {"not": {"has": "$language"}},
                        {"lacks": "$target_language"}, {"has": "$target_language"}],
    "target.modalities": ["$modality", {"lacks": "$modality"}],
    "target.unsupported": [{"in": "$parameters"}, {"has": "$parameters"}, {"not": {"in": "$parameters"}}],
    "target.region": ["$tenant.home", {"not": "$tenant.home"}, "$region", {"in": "$metadata.team"},
                      {"any": [{"not": "$tenant.home"}, {"known": False}]},
                      {"all": [{"prefix": "eu"}, {"not": "$tenant.home"}]}],
    "target.backend": ["$workload", {"not": "$workload"}],
    "target.name": ["$model_asked", {"not": "$model_asked"}],
    "model": ["$model_asked", {"not": "$model_asked"}],
}  # fmt: skip


def selector(dice: Dice, fleet: Fleet, *, variables: bool = False, star: int = 2) -> Any:
    """One map, or `*`."""
    if dice.chance(star):
        return "*"
    facts = _facts(fleet)
    chosen = dice.several(list(facts), 2)
    made = {name: facts[name](dice) for name in chosen}
    if variables and dice.chance(4):
        name = dice.one(list(VARIABLES))
        made[name] = dice.one(VARIABLES[name])
        if dice.chance(5):
            return {name: made[name]}
    return made


# -- policies --


def constraint(dice: Dice, fleet: Fleet, number: int = 0, names: Sequence[str] = tuple(SIGNALS)) -> Raw:
    """What holds under every rule."""
    effect = dice.one(["forbid", "forbid", "require", "avoid"])
    chosen = [selector(dice, fleet, variables=True, star=0) for _ in range(1 + dice.below(2))]
    made = {"id": f"c{number}", effect: chosen if dice.chance(3) else chosen[0]}
    return {**made, "when": condition(dice, names)} if dice.chance(5) else made


def document(dice: Dice, fleet: Fleet, names: Sequence[str] = tuple(SIGNALS)) -> Raw:
    """A policy as its file would be read."""

    def asked(entry: Raw, in_ten: int) -> Raw:
        return {**entry, "when": condition(dice, names)} if dice.chance(in_ten) else entry

    def rung() -> Any:
        chosen = selector(dice, fleet, star=3)
        if chosen == "*" or not dice.chance(4):
            return chosen
        if dice.chance(7):
            return {**chosen, "rank": dice.one(RANKS)}
        known = [*(one.name for one in fleet.targets), *fleet.models]
        weights = {name: dice.one([1, 0, 2]) for name in dice.several(known, 2)} | {dice.one(known): 1}
        return {**chosen, "rank": "weighted", "weights": weights}

    last: list[Raw] = [{"id": "rest", "use": ["*"]}] if dice.chance(8) else []
    modes: list[Any] = ["never", "always", "client", {"budget": "4k"}]
    made: Raw = {
        "policy": "test",
        "rank": dice.one(RANKS),
        "sets": {"some": dice.several(sorted(fleet.models), 3)},
        "rules": [
            asked({"id": f"r{number}", "use": [rung() for _ in range(1 + dice.below(3))]}, 8)
            for number in range(1 + dice.below(3))
        ]
        + last,
        "constraints": [constraint(dice, fleet, number, names) for number in range(dice.below(4))],
        "thinking": [
            asked({"id": f"t{number}", "set": dice.one(modes), "force": dice.chance(3)}, 6)
            for number in range(dice.below(4))
        ],
    }
    if dice.chance(3):
        made["sticky"] = {"for": "30m", "switch": dice.one(["cheaper", "never"]), "within": dice.one(["rule", "rung"])}
    if dice.chance(3):
        made["latency"] = [
            asked({"id": f"l{number}", "first_event": {"p90": "2s"}}, 5) for number in range(1 + dice.below(2))
        ]
    if dice.chance(4):
        made["shadow"] = [
            asked({"id": f"s{number}", "use": [rung()], "share": dice.one(["100%", "50%"])}, 5)
            for number in range(1 + dice.below(2))
        ]
    if dice.chance(4):
        made["allow_closed"] = dice.some(FAMILIES)
    if dice.chance(5):
        made["tokens_by"] = dice.one(["tok-a", "tok-b"])
    return made


def compiled(raw: Raw, fleet: Fleet) -> Policy:
    """The policy of a document."""
    return compile_policy(PolicyDoc.model_validate(raw), fleet, digest="0123456789abcdef")


# -- everything at once --


def snapshot(dice: Dice, fleet: Fleet) -> Snapshot:
    """The world outside a request."""
    everything = fleet.mask()
    names = [one.name for one in fleet.targets]
    now = dice.one([NOON, NOON + DAY / 2 - 1, NOON + DAY / 2, NOON + 40 * DAY])
    before = Previous(dice.one([*names, "gone"]), dice.one([0, 500, 5000]), now - dice.one([60, 1799, 1801]))
    slow = {f"l{number}": tuple(dice.some(names)) for number in range(2)}
    return Snapshot(
        now=now,
        previous=before if dice.chance(6) else None,
        slow=slow if dice.chance(5) else NOBODY_SLOW,
        draw=dice.one([0.0, 0.04, 0.5, 0.99]),
        available=dice.below(everything + 1) if dice.chance(3) else everything,
        latency_s={one.name: dice.one([0.1, 0.5, 2.0]) for one in fleet.targets[::2]},
        doubted=dice.below(everything + 1) if dice.chance(2) else 0,
    )


class Case:
    """A request to be decided, with everything a decision may look at, as written and as compiled."""

    def __init__(
        self, fleet: Fleet, raw: Raw, given: Raw, snapshot: Snapshot, pinned: int | None, policy: Policy | None = None
    ) -> None:
        self.fleet = fleet
        self.raw = raw
        self.policy = policy or compiled(raw, fleet)
        self.given = given
        self.snapshot = snapshot
        self.pinned = pinned

    def but(self, **changes: Any) -> Case:
        """The same with something else in it."""
        kept = {name: getattr(self, name) for name in ("fleet", "raw", "given", "snapshot", "pinned")}
        policy = None if {"fleet", "raw"} & changes.keys() else self.policy
        return Case(**{**kept, **changes}, policy=policy)

    def __repr__(self) -> str:
        lines = [f"  {_told(one)}\n    {_told(one.model)}\n    {_told(one.backend)}" for one in self.fleet.targets]
        seen = f"  {_told(self.snapshot)} pinned={self.pinned}"
        return "\n".join(["", *lines, f"  {self.raw}", f"  {self.given}", seen])

    def signals(self) -> Signals:
        """Signals of the request, nothing asked yet."""
        return Signals.given(self.given)


def _told(noun: Any) -> str:
    """A noun by what is not as usual in it, for reading."""
    said = {one.name: getattr(noun, one.name) for one in fields(noun) if getattr(noun, one.name) != one.default}
    return ", ".join(f"{name}={value}" for name, value in said.items() if name not in ("model", "backend"))


def case(dice: Dice, names: Sequence[str] = tuple(SIGNALS)) -> Case:
    """A random one, whose policy asks about these signals."""
    of = fleet(dice)
    pinned = 1 + dice.below(of.mask()) if dice.chance(2) else None
    return Case(of, document(dice, of, names), request(dice), snapshot(dice, of), pinned)


class Traffic(list[Case]):
    """Requests to one policy."""

    def __repr__(self) -> str:
        return f"{len(self)} requests, of which the first is {self[0]}"


def traffic(dice: Dice, most: int = 15) -> Traffic:
    """Requests to one policy, some of which differ in little: drawing a policy costs more than deciding by it."""
    found = Traffic([case(dice)])
    while len(found) < most:
        one = dice.one(found)
        kind = dice.below(4)
        if kind == 0:
            found.append(one.but(snapshot=snapshot(dice, one.fleet)))
        elif kind == 1:
            name = dice.one([name for name in SIGNALS if name != "context_tokens"])
            found.append(one.but(given={**one.given, name: SIGNALS[name][1](dice)}))
        else:
            pinned = 1 + dice.below(one.fleet.mask()) if dice.chance(2) else None
            found.append(one.but(given=request(dice), pinned=pinned))
    return found


def for_every_case(check: Callable[[Case], None]) -> Callable[[], None]:
    """A test of what holds for every request to every policy."""

    @more()
    @given(drawn(traffic))
    def test(cases: Traffic) -> None:
        for one in cases:
            try:
                check(one)
            except AssertionError as error:
                error.add_note(repr(one))
                raise

    test.__name__, test.__doc__ = check.__name__, check.__doc__
    return test


def grown(fleet: Fleet, more: Target) -> Fleet:
    """The fleet with one target more, whose model it knows."""
    return Fleet((*fleet.targets, replace(more, index=len(fleet.targets), name="new")), fleet.models)
