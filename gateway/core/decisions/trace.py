"""Why a decision came out as it did: every rule, constraint, thinking entry and target, each with its reason.

The order comes from `decide` itself; what is added here recomputes, for all targets instead of only those left, the
same filters that decided. Serving pays nothing for it: a trace is made on demand from kept inputs. How a trace reads
in a terminal stands in `tracetext`, what would flip it in `flips`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from gateway.core.clauses.conditions import Condition, Group, Member
from gateway.core.decide import PIN, choose_thinking, decide, fits
from gateway.core.decisions.against import against
from gateway.core.decisions.flips import Flip, nearest
from gateway.core.decisions.watchtrace import conversation_line, latency_lines, shadow_lines
from gateway.core.facts import residency
from gateway.core.money.pricing import span
from gateway.core.money.quotes import longest_output, priced
from gateway.core.targets.capabilities import lies_in, refused
from gateway.core.targets.filters import FILTERS
from gateway.core.targets.rank import bits, expected_nano
from gateway.core.types import Decision, Fleet, Snapshot, Target, Thinking

if TYPE_CHECKING:
    from gateway.core.policy import Policy
    from gateway.core.reading.signals import Signals

Verdict = Literal["kept", "slow", "avoided", "dropped"]
_ELSEWHERE = ("not in rule ", "not what the client named")


@dataclass(frozen=True, slots=True)
class EntryTrace:
    """A rule, constraint or thinking entry: whether its `when` held, and if not, which member failed at what value."""

    id: str
    matched: bool
    why: str
    because: str = ""
    effect: str = ""  # "forbid", "require" or "avoid" for constraints, the mode for thinking entries
    targets: tuple[str, ...] = ()  # what the selector of a constraint that matched selects
    chosen: bool = False  # the rule or thinking entry that decided
    asked: bool = True  # False: an earlier entry decided, or the client's own words did


@dataclass(frozen=True, slots=True)
class TargetTrace:
    """One target of the fleet. `reasons` says all that drops it, or what puts it back; empty for a plain candidate."""

    target: str
    model: str
    verdict: Verdict
    reasons: tuple[str, ...]
    place: int | None  # 1 is tried first; None: not a candidate
    cost_low_nano: int | None  # as `costs_of` says; None: unpriced
    cost_usual_nano: int | None
    cost_high_nano: int | None
    lineage: tuple[str, ...] | None = None  # what its model descends from, where that is known: for audits


@dataclass(frozen=True, slots=True)
class Trace:
    """Everything that can be said about one decision."""

    decision: Decision
    fleet: Fleet
    signals: Mapping[str, Any]
    tokens: str
    rules: tuple[EntryTrace, ...]
    constraints: tuple[EntryTrace, ...]
    thinking: tuple[EntryTrace, ...]
    targets: tuple[TargetTrace, ...]  # candidates in order, then the others in fleet order
    flips: tuple[Flip, ...]  # empty where they were not asked for
    latency: tuple[EntryTrace, ...] = ()
    shadows: tuple[EntryTrace, ...] = ()
    conversation: str = ""  # where it was answered last, for policies that are sticky

    @property
    def reasons(self) -> Mapping[str, tuple[str, ...]]:
        """Target name -> why it is no candidate; only targets that were dropped."""
        return {entry.target: entry.reasons for entry in self.targets if entry.verdict == "dropped"}

    def refusal_detail(self, limit: int = 1500) -> str:
        """Every candidate's reason on one bounded line, for keys that may explain."""
        rule = next((entry.id for entry in self.rules if entry.chosen), self.decision.rule)
        parts = [
            f"{entry.target}: {', '.join(entry.reasons)}"
            for entry in self.targets
            if entry.verdict == "dropped" and not entry.reasons[0].startswith(_ELSEWHERE)
        ]
        text = "; ".join(parts) or f"rule {rule} selects no target"
        return text if len(text) <= limit else text[: limit - 4].rpartition("; ")[0] + " ..."

    def to_dict(self) -> dict[str, Any]:
        """The trace as plain JSON values."""
        decision = self.decision
        refusal = None if decision.refusal is None else {"code": decision.refusal[0], "message": decision.refusal[1]}
        return {
            "policy": decision.policy,
            "rule": decision.rule,
            "because": decision.because,
            "thinking": {"mode": str(decision.thinking), "rule": decision.thinking.rule},
            "candidates": [target.name for target in decision.candidates],
            "refusal": refusal,
            "signals": dict(self.signals),
            "tokens": self.tokens,
            "rules": [_entry(entry) for entry in self.rules],
            "constraints": [_entry(entry) for entry in self.constraints],
            "thinking_entries": [_entry(entry) for entry in self.thinking],
            "targets": [
                {
                    "target": entry.target,
                    "model": entry.model,
                    "verdict": entry.verdict,
                    "reasons": list(entry.reasons),
                    "place": entry.place,
                    "cost_low_nano_usd": entry.cost_low_nano,
                    "cost_usual_nano_usd": entry.cost_usual_nano,
                    "cost_high_nano_usd": entry.cost_high_nano,
                    **({"lineage": list(entry.lineage)} if entry.lineage else {}),
                }
                for entry in self.targets
            ],
            "latency": [_entry(entry) for entry in self.latency],
            "conversation": self.conversation or None,
            "shadow": None
            if decision.shadow is None
            else {"id": decision.shadow.id, "target": decision.shadow.target.name},
            "shadow_entries": [_entry(entry) for entry in self.shadows],
            "nearest_flips": [flip.to_dict() for flip in self.flips],
        }


def _entry(entry: EntryTrace) -> dict[str, Any]:
    made: dict[str, Any] = {"id": entry.id, "matched": entry.matched, "why": entry.why}
    if entry.because:
        made["because"] = entry.because
    if entry.effect:
        made["effect"] = entry.effect
    if entry.targets:
        made["targets"] = list(entry.targets)
    if entry.chosen:
        made["chosen"] = True
    if not entry.asked:
        made["asked"] = False
    return made


def trace(
    policy: Policy, signals: Signals, snapshot: Snapshot, *, pinned: int | None = None, flips: bool = False
) -> Trace:
    """Decide, and say why; with `flips` also what would flip it, which decides some hundred times more.

    Computes every signal the policy names, so hand it signals that may block. Raises `NeedsCount` where they may not.
    """
    decision = decide(policy, signals, snapshot, pinned=pinned)
    rules = _rules(policy, signals, decision)
    constraints = _constraints(policy, signals)
    thinking = _thinking(policy, signals, decision)
    reasons = _reasons(policy, signals, snapshot, decision, pinned)

    def judge(when: Condition | None) -> tuple[bool, str]:
        return explain(when, signals, policy.tokens_by)

    latency = tuple(EntryTrace(**line) for line in latency_lines(policy, snapshot, judge))
    return Trace(
        decision,
        policy.fleet,
        signals.computed(),
        tokens_text(policy.tokens_by, signals),
        rules,
        constraints,
        thinking,
        _targets(policy, signals, decision, (*constraints, *latency), reasons),
        nearest(policy, signals, snapshot, decision) if flips and pinned is None else (),
        latency,
        tuple(EntryTrace(**line) for line in shadow_lines(policy, snapshot, decision, judge)),
        conversation_line(policy, snapshot),
    )


def under_budget(told: Trace) -> Trace:
    """The same for a key under a hard budget, which is served by nothing that has no price: see `quotes.priced`."""
    decision = priced(told.decision)
    places = {target.name: place for place, target in enumerate(decision.candidates, 1)}
    left = [entry if entry.place is None or entry.target in places else _unpriced(entry) for entry in told.targets]
    targets = [replace(entry, place=places.get(entry.target)) for entry in left]
    targets.sort(key=lambda entry: (entry.place is None, entry.place or 0))
    return replace(told, decision=decision, targets=tuple(targets))


def _unpriced(entry: TargetTrace) -> TargetTrace:
    return replace(entry, verdict="dropped", reasons=("has no price, and a hard budget binds the key",))


def explain(condition: Condition | None, signals: Signals, tokens_by: str | None) -> tuple[bool, str]:
    """Whether a condition holds, and the first member in asking order that settles it, with its value."""
    if condition is None:
        return True, "always"
    if isinstance(condition, Member):
        return condition.test(signals), f"{condition.text} ({actual(condition.signal, signals, tokens_by)})"
    return _explain_group(condition, signals, tokens_by)


def _explain_group(group: Group, signals: Signals, tokens_by: str | None) -> tuple[bool, str]:
    said = []
    for part in group.parts:
        held, why = explain(part, signals, tokens_by)
        if held is not group.every:
            return held, why
        said.append(why)
    return group.every, (" and " if group.every else "; ").join(said)


def actual(name: str, signals: Signals, tokens_by: str | None) -> str:
    """The value of a signal as a person reads it."""
    if name == "context_tokens":
        return tokens_text(tokens_by, signals)
    value = signals.get(name)
    if value is None or (hasattr(value, "main") and value.main is None):
        return f"{name} is not known"
    if hasattr(value, "main"):
        return f"is {value.main}"
    if isinstance(value, frozenset):
        return "is " + (", ".join(sorted(value)) or "empty")
    shown = str(value).lower() if isinstance(value, bool) else str(value)
    return f"is {shown[:80]}"


def tokens_text(tokens_by: str | None, signals: Signals) -> str:
    """What is known of the request's length, and how."""
    bounds = signals.tokens(tokens_by)
    asked = signals.get("max_output_tokens")
    number = f"{bounds.hi:,}" if bounds.exact or bounds.lo == bounds.hi else f"{bounds.lo:,} to {bounds.hi:,}"
    output = f" and {asked:,} of output" if asked else ""
    return f"is {number} tokens{output}, {signals.basis(tokens_by)}"


def _rules(policy: Policy, signals: Signals, decision: Decision) -> tuple[EntryTrace, ...]:
    found = []
    over = decision.rule == PIN
    for rule in policy.rules:
        matched, why = explain(rule.when, signals, policy.tokens_by)
        chosen = matched and not over
        if over:
            why = "not asked: " + ("the client named its target" if decision.rule == PIN else "an earlier rule applies")
        found.append(EntryTrace(rule.id, matched, why, rule.because, chosen=chosen, asked=not over))
        over = over or matched
    return tuple(found)


def _constraints(policy: Policy, signals: Signals) -> tuple[EntryTrace, ...]:
    found = []
    for constraint in (*policy.forbids, *policy.avoids):
        matched, why = explain(constraint.when, signals, policy.tokens_by)
        selected = 0
        if matched:
            selected = constraint.select.mask(signals)
            selected = policy.fleet.mask() & ~selected if constraint.effect == "require" else selected
        names = tuple(policy.fleet.targets[index].name for index in bits(selected))
        found.append(EntryTrace(constraint.id, matched, why, constraint.because, constraint.effect, names))
    return tuple(found)


def _thinking(policy: Policy, signals: Signals, decision: Decision) -> tuple[EntryTrace, ...]:
    found = []
    pinned, over = decision.rule == PIN, False
    for entry in policy.thinking:
        matched, why = explain(entry.when, signals, policy.tokens_by)
        chosen = decision.refusal is None and decision.thinking.rule == entry.id
        effect = str(entry.thinking) + (", forced" if entry.force else "")
        asked = not over and (entry.force or not pinned)
        if not asked:
            why = "not asked: " + ("an earlier entry applies" if over else "the client named its target")
        found.append(EntryTrace(entry.id, matched, why, entry.because, effect, chosen=chosen, asked=asked))
        over = over or (asked and matched)
    return tuple(found)


def _reasons(
    policy: Policy, signals: Signals, snapshot: Snapshot, decision: Decision, pinned: int | None
) -> list[list[str]]:
    """For every target, everything that keeps it from being a candidate."""
    fleet = policy.fleet
    everything = fleet.mask()
    reasons: list[list[str]] = [[] for _ in fleet.targets]

    def drop(mask: int, why: Mapping[int, str] | str) -> None:
        for index in bits(mask & everything):
            reasons[index].append(why if isinstance(why, str) else why[index])

    selected = _selected(policy, decision, pinned)
    drop(~selected, _ELSEWHERE[1] if pinned is not None else f"{_ELSEWHERE[0]}{decision.rule}")
    for each in FILTERS:
        lost = each.lost(policy, signals, snapshot, everything) & everything
        drop(lost, {index: _why(each.name, policy, signals, fleet.targets[index]) for index in bits(lost)})
    choice = choose_thinking(policy, signals, snapshot, pinned is not None)
    unable = 0 if choice.able is None else everything & ~choice.able
    if choice.binding:
        drop(unable, f"cannot promise thinking: {choice.thinking}")
    fitting = fits(policy, signals, everything)
    unfit = everything & ~fitting
    drop(unfit, {index: _unfit(signals, fleet.targets[index]) for index in bits(unfit)})
    drop(~snapshot.available, "held back by health")
    if unable and not choice.binding:
        left = sum(1 << index for index, why in enumerate(reasons) if not why)
        if left & ~unable:  # a wish of the policy: granted only where some candidate can
            drop(unable, f"cannot promise thinking: {choice.thinking}, which others can")
    return reasons


def _selected(policy: Policy, decision: Decision, pinned: int | None) -> int:
    if pinned is not None:
        return pinned
    return next((rule.mask for rule in policy.rules if rule.id == decision.rule), 0)


def _why(name: str, policy: Policy, signals: Signals, target: Target) -> str:
    """The words of one filter for one target that it drops."""
    if name == "forbidden":
        return against(policy, signals, target)
    if name == "place":
        return _place(signals, target)
    if name == "content":
        missing = sorted(frozenset(signals.get("modality") or ()) - target.modalities)
        if missing:
            return "does not read " + ", ".join(missing)
        return f"takes {target.model.images_max} images, {signals.get('images')} were sent"
    if name == "parameters":
        return "does not support " + ", ".join(sorted(refused(target, signals.get("parameters") or frozenset())))
    if name == "cost":
        return "has no price" if target.price is None else f"may cost more than {signals.get('max_cost_usd'):g} USD"
    return {
        "closed": f"API only, and {target.model.family} is not in allow_closed",
        "retired": f"withdrawn on {target.retires_on}",
        "tools": "has no tools",
        "structure": "has no structured output",
        "stream": "only answers as a stream",
        "output": f"gives at most {target.max_output or 0:,} output tokens",
    }[name]


def _place(signals: Signals, target: Target) -> str:
    region, asked = signals.get("region"), signals.get("residency")
    said = []
    if region is not None and not lies_in(target.backend.region, region):
        said.append(f"region {target.backend.region or 'not known'} is not in {region}")
    if asked is not None and not lies_in(residency(target), asked):
        said.append(f"data processed in {residency(target) or 'places not known'}, not only in {asked}")
    return ", ".join(said)


def _unfit(signals: Signals, target: Target) -> str:
    bounds = signals.tokens(target.model.tokenizer)
    output = signals.get("max_output_tokens")
    most = "" if bounds.exact else "up to "
    if target.max_input is not None and signals.fits(target):
        return f"takes {target.max_input:,} tokens of prompt < {most}{bounds.hi:,}"
    return f"window {target.window:,} < {most}{bounds.hi:,} + {output or target.typical_output_tokens:,} tokens"


def _targets(
    policy: Policy,
    signals: Signals,
    decision: Decision,
    entries: tuple[EntryTrace, ...],
    reasons: list[list[str]],
) -> tuple[TargetTrace, ...]:
    places = {target.index: place for place, target in enumerate(decision.candidates, 1)}
    made = []
    for target in policy.fleet.targets:
        place = places.get(target.index)
        behind = [
            entry
            for entry in entries
            if entry.effect in ("avoid", "behind") and entry.matched and target.name in entry.targets
        ]
        avoided = any(entry.effect == "avoid" for entry in behind)
        verdict: Verdict = "dropped" if place is None else "avoided" if avoided else "slow" if behind else "kept"
        said = tuple(reasons[target.index] if place is None else [f"{entry.id} puts it back" for entry in behind])
        low, usual, high = costs_of(target, signals, decision.thinking) or (None, None, None)
        model = target.model
        made.append(TargetTrace(target.name, model.id, verdict, said, place, low, usual, high, model.lineage))
    made.sort(key=lambda entry: (entry.place is None, entry.place or 0))
    return tuple(made)


def costs_of(target: Target, signals: Signals, thinking: Thinking) -> tuple[int, int, int] | None:
    """What a request may cost on a target, in nano-USD: the least, the usual, the most; None where it has no price.

    The length of the input is what is known of it by the target's own tokenizer. The least has no output and all input
    from a cache; the usual has what the target typically answers; the most has all the output that may come: what was
    asked for and is heeded, else what the target gives at most, else what its window leaves.
    """
    if target.price is None:
        return None
    bounds = signals.tokens(target.model.tokenizer)
    asked = signals.get("max_output_tokens")
    most = max(min(longest_output(target, asked or 0, thinking.mode)[0], target.window - bounds.lo), 0)
    thinks = thinking.mode != "never" and target.thinking != "never"
    low, high = span(target.price, (bounds.lo, bounds.hi), most, thinking=thinks)
    likely = bounds.hi if bounds.exact else bounds.lo + (bounds.hi - bounds.lo) // 4
    usual = expected_nano(target, likely, asked) or 0
    return low, min(max(low, usual), high), high
