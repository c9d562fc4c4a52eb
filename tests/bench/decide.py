"""Prints what deciding costs, by shape of policy and request: CPU medians, without parsing bodies or reading texts.

    python tests/bench/decide.py                     every shape of README.md
    python tests/bench/decide.py last constraints    only these
    python tests/bench/decide.py --rules 60 --targets 80
    python tests/bench/decide.py --profile last      where the time of one shape goes, by function

A decision is timed from the making of its signals, which are fresh each time as in serving, to the Decision; the body
has been parsed and the snapshot made. Batches are counted by the CPU clock of the thread, so that waiting for the
processor is not in it; what others do to the caches is.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from benchparts import REPOSITORY

sys.path.insert(0, str(REPOSITORY))

from gateway.core.decide import decide
from gateway.core.decisions.memo import Memo
from gateway.core.decisions.trace import trace
from gateway.core.policy import Policy, PolicyDoc, compile_policy
from gateway.core.reading.lexicon import Lexicon
from gateway.core.reading.signals import Signals
from gateway.core.request.hints import Hints
from gateway.core.request.wire import parse
from gateway.core.text.tokens import Tokenizers
from gateway.core.types import Backend, Decision, Fleet, Model, Price, PriceTier, Snapshot, Target, Tenant

NOW = 1_795_262_400.0  # 2026-11-21, 12:00 UTC
GOAL_US = 25.0
BATCH = 50  # decisions between two looks at the clock
HEADERS = {"user-agent": "openai-python", "x-team": "red"}
SHOP = Tenant("shop", {"team": "shop", "domicile": "DE", "home": "eu", "residency": "eu"})
NOBODY = Tenant("nobody")


def fleet_of(count: int) -> Fleet:
    """Models of four families on eight backends of four regions; windows, prices and abilities differ."""
    families = ("llama", "qwen", "gpt-oss", "gemma")
    models = [
        Model(
            f"{families[number % 4]}-{number}",
            families[number % 4],
            params_active_b=3 + number,
            languages=frozenset({"en", "de", "fr"}) if number % 4 == 0 else None,
            thinking=("never", "switchable", "always", "never")[number % 4],
            license="Apache-2.0" if number % 4 else "llama4-community",
            tokenizer="qwen3.5" if number % 4 == 1 else None,
            images_max=5 if number % 3 == 0 else None,
        )
        for number in range(12)
    ]
    regions = ("us-east-1", "eu-central-1", "ap-southeast-1", "eu")
    backends = [
        Backend(f"b{n}", "openai", (), region=regions[n % 4], processing=regions[n % 4], self_hosted=n % 2 == 0)
        for n in range(8)
    ]
    targets = tuple(
        Target(
            f"t{index}",
            index,
            models[index % len(models)],
            backends[index % len(backends)],
            models[index % len(models)].id,
            window=(131_072, 262_144, 1_000_000)[index % 3],
            max_output=(None, 64_000)[index % 2],
            price=Price((PriceTier(0, 10_000_000 * (index % 7 + 1), 40_000_000 * (index % 5 + 1)),), "bench"),
            modalities=frozenset({"text", "image"}) if index % 3 == 0 else frozenset({"text"}),
            tools=index % 5 > 0,
            structured_output=index % 4 > 0,
            thinking=models[index % len(models)].thinking,
            unsupported=frozenset({"logprobs"}) if index % 6 == 0 else frozenset(),
        )
        for index in range(count)
    )
    return Fleet(targets, {model.id: model for model in models})


#: What rules ask, in turn; none of it holds for the plain request.
CONDITIONS: tuple[dict[str, Any], ...] = (
    {"context_tokens": {"gt": "200k"}},
    {"tenant.team": {"in": ["search", "ads"]}},
    {"workload": "bulk", "cost_sensitive": True},
    {"effort": {"in": ["high", "xhigh", "max"]}},
    {"any": [{"headers.x-team": "blue"}, {"metadata.team": "blue"}]},
    {"max_output_tokens": {"gt": "32k"}},
    {"structured_output": {"known": True}, "tools": False},
    {"images": {"gt": 3}},
    {"model_asked": {"prefix": "auto/"}},
    {"tools": True, "not": {"stream": True}},
)
USE: tuple[Any, ...] = ({"family": "qwen"}, {"family": "llama", "rank": "listed"}, {"family": "*"})
CONSTRAINTS: tuple[dict[str, Any], ...] = (
    {"id": "eu", "when": {"tenant.domicile": {"in": "@eu"}}, "forbid": {"model.license": "llama4-community"}},
    {"id": "home", "when": {"tenant.home": {"known": True}}, "forbid": {"target.processing": {"not": "$tenant.home"}}},
    {"id": "long", "when": {"context_tokens": {"gt": "100k"}}, "forbid": {"target.window": {"lt": "200k"}}},
    {"id": "small", "when": {"cost_sensitive": False}, "avoid": {"model.params_active_b": {"lt": 5}}},
    {"id": "team", "avoid": {"target.backend": "$tenant.team"}},
    {"id": "hosts", "when": {"stream": False}, "avoid": {"target.self_hosted": False}},
)
THINKING: tuple[dict[str, Any], ...] = (
    {"id": "short", "when": {"max_output_tokens": {"lt": "2k"}}, "set": "never"},
    {"id": "else", "set": "client"},
)


def policy_of(fleet: Fleet, rules: int, **parts: Any) -> Policy:
    """So many rules, the last of them for everything."""
    listed = [
        {"id": f"r{number}", "when": CONDITIONS[number % len(CONDITIONS)], "use": list(USE)}
        for number in range(rules - 1)
    ]
    whole = {"policy": "bench", "rules": [*listed, {"id": "rest", "use": list(USE)}], **parts}
    return compile_policy(PolicyDoc.model_validate(whole), fleet, digest="0" * 64)


@dataclass(frozen=True)
class Shape:
    """One kind of decision."""

    name: str
    says: str
    parts: Mapping[str, Any] = field(default_factory=dict)
    members: Mapping[str, Any] = field(default_factory=dict)
    tenant: Tenant = NOBODY
    hints: Mapping[str, str] = field(default_factory=dict)
    pinned: int | None = None
    rule: str | None = "rest"


SHAPES = (
    Shape("first", "the first rule applies", members={"max_tokens": 250_000}, rule="r0"),
    Shape("last", "none but the last rule applies"),
    Shape("tools", "the same, with tools and a schema asked for",
          members={"tools": [{"type": "function"}], "stream": True, "response_format": {"type": "json_schema"}}),
    Shape("thinking", "the same, with two thinking entries", {"thinking": list(THINKING)}, {"max_tokens": 500}),
    Shape("constraints", "the last rule, six constraints, two with variables", {"constraints": list(CONSTRAINTS)},
          tenant=replace(SHOP, facts={"team": "shop", "domicile": "DE", "home": "eu"})),
    Shape("residency", "the last rule, a residency", tenant=SHOP),
    Shape("pin", "a model is named, six constraints", {"constraints": list(CONSTRAINTS)}, pinned=0b1001001,
          rule="pin"),
    Shape("one", "a single target is named", pinned=2, rule="pin"),
    Shape("refused", "the last rule, a residency where nothing is", hints={"residency": "mars"}),
)  # fmt: skip


@dataclass(frozen=True)
class Prepared:
    """A shape with all that is made before the clock starts."""

    policy: Policy
    signals: Callable[[], Signals]
    snapshot: Snapshot
    pinned: int | None

    def decide(self) -> Decision:
        """What is timed."""
        return decide(self.policy, self.signals(), self.snapshot, pinned=self.pinned)


def prepare(shape: Shape, rules: int = 30, targets: int = 40) -> Prepared:
    """Compile the policy and parse the request of a shape; raises SystemExit where it is not decided as it says."""
    fleet = fleet_of(targets)
    body = {"model": "auto", "messages": [{"role": "user", "content": "word " * 50}], **shape.members}
    envelope = parse(json.dumps(body).encode())
    lexicon, tokenizers = Lexicon.empty(), Tokenizers()
    hints = Hints.parse({f"x-pointsman-{name}": value for name, value in shape.hints.items()})

    def signals() -> Signals:
        return Signals.of(
            envelope, tenant=shape.tenant, hints=hints, headers=HEADERS, tokenizers=tokenizers, lexicon=lexicon,
            now=NOW, blocking=False,
        )  # fmt: skip

    snapshot = Snapshot(now=NOW, draw=0.5, available=fleet.mask())
    made = Prepared(policy_of(fleet, rules, **shape.parts), signals, snapshot, shape.pinned)
    decided = made.decide()
    if decided.rule != shape.rule or bool(decided.candidates) is (shape.name == "refused"):
        raise SystemExit(f"{shape.name} was decided by {decided.rule}: {decided.because}")
    return made


def median_us(work: Callable[[], object], batches: int, batch: int = BATCH) -> tuple[float, float]:
    """CPU microseconds of one call: the median of many batches, and that of the quickest fifth of them."""
    spent = []
    for _ in range(batches):
        begun = time.thread_time_ns()
        for _ in range(batch):
            work()
        spent.append((time.thread_time_ns() - begun) / batch / 1e3)
    spent.sort()
    return statistics.median(spent), statistics.median(spent[: max(len(spent) // 5, 1)])


def memo_hit(rules: int, targets: int) -> Callable[[], object]:
    """What serving does for a request like an earlier one: make the key, and look."""
    made = prepare(SHAPES[1], rules, targets)
    memo, tenant, hints = Memo(), NOBODY, Hints.parse({})
    envelope = parse(json.dumps({"model": "auto", "messages": [{"role": "user", "content": "hi"}]}).encode())
    every = made.snapshot.available
    policy = policy_of(made.policy.fleet, 2)  # one that looks at no header: those are not remembered
    key = memo.key(envelope, policy, None, tenant, hints, every, NOW)
    signals = Signals.of(
        envelope, tenant=tenant, hints=hints, headers={}, tokenizers=Tokenizers(), lexicon=Lexicon.empty(), now=NOW,
        blocking=False,
    )  # fmt: skip
    if key is None or memo.put(key, policy, decide(policy, signals, made.snapshot), envelope, signals) is None:
        raise SystemExit("the decision was not kept")

    def look() -> object:
        again = memo.key(envelope, policy, None, tenant, hints, every, NOW)
        return again and (memo.get(again, envelope) or memo.follow(again, envelope, signals))

    if look() is None:
        raise SystemExit("the decision was not remembered")
    return look


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", help="names of shapes; all where none is given")
    parser.add_argument("--rules", type=int, default=30)
    parser.add_argument("--targets", type=int, default=40)
    parser.add_argument("--batches", type=int, default=400)
    parser.add_argument("--profile", action="store_true", help="print where the time of the shapes named goes")
    options = parser.parse_args()
    size = options.rules, options.targets
    chosen = [shape for shape in SHAPES if not options.shapes or shape.name in options.shapes]
    if options.profile:
        for shape in chosen:
            made, profile = prepare(shape, *size), cProfile.Profile()
            profile.enable()
            for _ in range(20_000):
                made.decide()
            profile.disable()
            pstats.Stats(profile).sort_stats("tottime").print_stats(25)
        return
    print(f"| {options.rules} rules x {options.targets} targets | median, µs | quickest fifth, µs |\n|---|---|---|")
    for shape in chosen:
        median, quick = median_us(prepare(shape, *size).decide, options.batches)
        missed = "" if median <= GOAL_US or size != (30, 40) else " **missed**"
        print(f"| {shape.says} | {median:.1f}{missed} | {quick:.1f} |", flush=True)
    if options.shapes:
        return
    made = prepare(SHAPES[4], *size)
    extra: dict[str, Callable[[], object]] = {
        "a decision remembered instead": memo_hit(*size),
        "the trace, made on demand": lambda: trace(made.policy, made.signals(), made.snapshot),
        "compiling the policy, six constraints": lambda: policy_of(
            made.policy.fleet, options.rules, constraints=list(CONSTRAINTS)
        ),
    }
    for says, work in extra.items():
        slow = says.startswith(("the trace", "compiling"))
        median, quick = median_us(work, 40 if slow else options.batches, 1 if slow else BATCH)
        print(f"| {says} | {median:,.1f} | {quick:,.1f} |", flush=True)


if __name__ == "__main__":
    main()
