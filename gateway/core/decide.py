"""Which targets may serve a request, best first: the one function that server, explain, test and replay share.

Order: rule, then everything that removes (filters, thinking, fit, health), then everything that orders (rungs, rank,
avoid). A signal is computed only while it can still change the outcome, and may raise `NeedsCount`, which passes
through: the caller computes and asks again. HOT throughout. Explaining a decision stands in `trace`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.core.clauses.canary import drawn
from gateway.core.clauses.latency import slowness
from gateway.core.clauses.sticky import stay
from gateway.core.targets.capabilities import least
from gateway.core.targets.filters import last_straw
from gateway.core.targets.rank import Costs, bits, order
from gateway.core.types import Decision, Shadow, Snapshot, Target, Thinking

if TYPE_CHECKING:
    from gateway.core.policy import Constraint, Policy, Rung
    from gateway.core.reading.signals import Signals
    from gateway.core.targets.capabilities import Capabilities

PIN = "pin"
CLIENT = Thinking("client")
NO_RULE = ("policy_denied", "No rule of the policy applies to this request.")
NO_SELECTION = ("policy_denied", "The policy allows no target for this request.")
NO_THINKING = ("unsupported_capability", "No target that may serve this request can switch thinking as asked.")
NO_FIT = (
    "context_length_exceeded",
    "Prompt and output do not fit the window of any target that may serve this request.",
)
NO_HEALTH = ("no_target_available", "Every target that may serve this request is held back at the moment.")

_RANK_WORDS = {
    "listed": "first",
    "cheapest": "cheapest",
    "fastest": "fastest",
    "balanced": "best balanced",
    "weighted": "drawn by weight",
}


@dataclass(frozen=True, slots=True)
class ThinkingChoice:
    """How the backend is told to think, and which targets can promise that."""

    thinking: Thinking
    able: int | None  # None: every target will do
    binding: bool  # False: a mere wish of the policy, given up where no candidate can grant it


def decide(policy: Policy, signals: Signals, snapshot: Snapshot, *, pinned: int | None = None) -> Decision:
    """Choose the candidates for a request; an empty choice is a Decision with a refusal, never an exception.

    `pinned` is the mask of targets that a client named. It replaces the rules and the thinking entries that are not
    forced; constraints, capabilities and health bind it like any other choice.
    """
    if pinned is None:
        for asks, rule in policy.asks:
            if asks is None or asks(signals):
                rule_id, says, rungs, left = rule.id, rule.says, rule.rungs, rule.mask
                break
        else:
            return _refused(policy, None, "no rule applies", NO_RULE)
    else:
        rule_id, says, rungs, left = PIN, "named by the client", (policy.everything,), pinned
    if not left:
        return _refused(policy, rule_id, says + "; it selects no target here", NO_SELECTION)
    for each in policy.filters:
        lost = each.lost(policy, signals, snapshot, left)
        if lost & left:
            if not left & ~lost:
                why = f"{says}; {last_straw(each, policy, signals, left)} drops the last target"
                return _refused(policy, rule_id, why, (each.code, each.message))
            left &= ~lost
    choice = choose_thinking(policy, signals, snapshot, pinned is not None)
    if choice.able is not None and choice.binding:
        left &= choice.able
        if not left:
            return _refused(policy, rule_id, says + "; thinking drops the last target", NO_THINKING)
    fitting = fits(policy, signals, left & snapshot.available)
    if not fitting:
        if fits(policy, signals, left & ~snapshot.available):
            return _refused(policy, rule_id, says + "; health holds back the last target", NO_HEALTH)
        return _refused(policy, rule_id, says + "; fit drops the last target", NO_FIT)
    thinking = choice.thinking
    if choice.able is not None and not choice.binding:
        if fitting & choice.able:
            fitting &= choice.able
        else:
            thinking = CLIENT
    targets = policy.fleet.targets
    if not fitting & (fitting - 1):  # a single candidate: nothing to order
        chosen, because = [fitting.bit_length() - 1], says + _place(rungs, fitting)
    else:
        chosen, because = _order(policy, signals, snapshot, rungs, fitting, says)
    shadow = _shadow(policy, signals, snapshot, choice, chosen[0]) if policy.shadows else None
    return Decision(policy.label, rule_id, tuple(map(targets.__getitem__, chosen)), thinking, because, None, shadow)


def _refused(policy: Policy, rule: str | None, because: str, refusal: tuple[str, str]) -> Decision:
    return Decision(policy.label, rule, (), CLIENT, because, refusal)


def choose_thinking(policy: Policy, signals: Signals, snapshot: Snapshot, pinned: bool) -> ThinkingChoice:
    """First match of the thinking list against the client's own wish, which wins unless the entry is forced."""
    hint = signals.get("thinking_hint")
    effort = signals.get("effort")
    wished = hint is not None or effort is not None
    # Where the client's wish wins anyway, or the client named its target, only forced entries can matter; but an
    # earlier entry that matches still hides a later forced one, so with any forced entry the list is walked in order.
    if not (wished or pinned) or policy.forced:
        for entry in policy.thinking:
            if pinned and not entry.force:
                continue
            if entry.when is None or entry.when.test(signals):
                if entry.force or not wished:
                    binding = entry.force or entry.thinking.mode == "never"
                    return _choice(policy, signals, snapshot, entry.thinking, binding=binding)
                break
    if hint is not None:
        thinking = Thinking("budget", hint) if isinstance(hint, int) else Thinking(hint)
        return _choice(policy, signals, snapshot, thinking, binding=True)
    if effort is None or effort == "minimal":
        return ThinkingChoice(CLIENT, None, False)
    return ThinkingChoice(CLIENT, _able(policy, signals, snapshot, never=effort == "none"), True)


def _choice(
    policy: Policy, signals: Signals, snapshot: Snapshot, thinking: Thinking, *, binding: bool
) -> ThinkingChoice:
    if thinking.mode == "client":
        return ThinkingChoice(thinking, None, False)
    return ThinkingChoice(thinking, _able(policy, signals, snapshot, never=thinking.mode == "never"), binding)


def _able(policy: Policy, signals: Signals, snapshot: Snapshot, *, never: bool) -> int:
    """The targets that can promise it. One that thought unasked can, if anything, still promise to think."""
    able = policy.capabilities
    if never:
        return able.never_thinks & ~snapshot.doubted
    return able.thinks & ~able.thinks_streamed if able.thinks_streamed and not signals.get("stream") else able.thinks


def fits(policy: Policy, signals: Signals, mask: int) -> int:
    """The targets of a mask whose window holds the request, asked from the smallest window of each group up.

    Most requests are so short that the size of their bodies shows at once that they fit all of them.
    """
    output = signals.get("max_output_tokens")
    if output:
        for window, held in policy.capabilities.windows:
            if window >= output:
                break
            mask &= ~held
    narrowest = room(policy.capabilities, output, mask)
    if narrowest is None or signals.surely_within(narrowest):
        return mask
    fitting = 0
    for group in policy.capabilities.fits:
        wanted = group.mask & mask
        if wanted:
            for target, onwards in group.members:
                if wanted >> target.index & 1 and holds(signals, target):
                    fitting |= onwards & wanted
                    break
    return fitting


def room(able: Capabilities, output: int | None, mask: int) -> int | None:
    """Tokens of prompt that every target of a mask holds beside this much output; None for an empty mask. HOT."""
    if not output:
        return least(able.rooms, mask)
    window = least(able.windows, mask)
    if window is None:
        return None
    most = least(able.inputs, mask)
    return window - output if most is None else min(window - output, most)


def holds(signals: Signals, target: Target) -> bool:
    """Whether a target takes the request: window, and where it caps the prompt by itself, that too."""
    if not signals.fits(target):
        return False
    if target.max_input is None:
        return True
    # `exceeds` counts the requested output, which this limit does not.
    asked = signals.get("max_output_tokens") or 0
    return not signals.exceeds(target.model.tokenizer, target.max_input + asked)


def _order(
    policy: Policy, signals: Signals, snapshot: Snapshot, rungs: Sequence[Rung], mask: int, says: str
) -> tuple[list[int], str]:
    avoided = avoidance(policy, signals, mask)
    chosen = in_rungs(policy, signals, snapshot, rungs, mask)
    first = chosen[0]
    slow = slowness(policy, signals, snapshot, mask) if snapshot.slow else []
    if slow:
        chosen.sort(key=lambda index: any(held >> index & 1 for _, held in slow))  # stable
        if chosen[0] != first:
            entry = next(entry for entry, held in slow if held >> first & 1)
            says = f"{policy.fleet.targets[first].name} is slower than {entry.id} asks"
    if avoided:
        chosen.sort(key=lambda index: sum([held >> index & 1 for _, held in avoided]))  # stable
        for constraint, held in avoided:
            if held >> first & 1 and chosen[0] != first:
                says = _avoids(policy, signals, constraint, first)
                break
    if policy.sticky is not None and snapshot.previous is not None:
        front = chosen[0]
        levels = [held for _, held in (*avoided, *slow)]
        peers = [index for index in chosen if all(held >> index & 1 == held >> front & 1 for held in levels)]
        keeps, why = stay(policy, signals, snapshot, rungs, peers)
        says += why and f"; {why}"
        if keeps is not None:
            chosen.remove(keeps)
            return [keeps, *chosen], says
    place = _place(rungs, 1 << chosen[0])
    for rung in rungs:
        if rung.mask >> chosen[0] & 1:
            rivals = rung.mask & mask
            for _, held in avoided:
                rivals &= ~held if not held >> chosen[0] & 1 else held
            count = rivals.bit_count()
            if count > 1:
                if rung.rank == "cheapest" and rung.by is None and not _priced(policy, chosen[0], rivals):
                    return chosen, f"{says}; first of {count} without a price{place}"
                return chosen, f"{says}; {rung.by.text if rung.by else _RANK_WORDS[rung.rank]} of {count}{place}"
            break
    return chosen, says + place


def _priced(policy: Policy, chosen: int, rivals: int) -> bool:
    targets = policy.fleet.targets
    return targets[chosen].price is not None or any(targets[index].price is not None for index in bits(rivals))


def _place(rungs: Sequence[Rung], bit: int) -> str:
    for number, rung in enumerate(rungs):
        if rung.mask & bit:
            return f"; rung {number + 1} of {len(rungs)}" if number else ""
    return ""


def avoidance(policy: Policy, signals: Signals, mask: int) -> list[tuple[Constraint, int]]:
    """The `avoid` constraints that tell candidates apart, with the candidates each puts back."""
    found = []
    for constraint in policy.avoids:
        select = constraint.select
        held = select.possible & mask
        if not held or (held == mask and select.resolve is None):
            continue  # what none or all of the candidates share cannot change their order
        if constraint.when is None or constraint.when.test(signals):
            held = select.mask(signals) & mask
            if held and held != mask:
                found.append((constraint, held))
    return found


def _shadow(policy: Policy, signals: Signals, snapshot: Snapshot, choice: ThinkingChoice, first: int) -> Shadow | None:
    """The second target that gets a copy: of the first entry that is drawn, applies and has a target left."""
    for entry in policy.shadows:
        if entry.drawn(snapshot.draw) and (entry.when is None or entry.when.test(signals)):
            left = shadowing(policy, signals, snapshot, choice, entry.mask & ~(1 << first))
            if left:
                index = in_rungs(policy, signals, snapshot, entry.rungs, left)[0]
                return Shadow(entry.id, policy.fleet.targets[index])
    return None


def shadowing(policy: Policy, signals: Signals, snapshot: Snapshot, choice: ThinkingChoice, mask: int) -> int:
    """The targets of a mask that may see the request: everything that removes candidates removes shadows as well."""
    for each in policy.filters:
        if not mask:
            return 0
        mask &= ~each.lost(policy, signals, snapshot, mask)
    if choice.able is not None and choice.binding:
        mask &= choice.able
    return fits(policy, signals, mask & snapshot.available)


def in_rungs(policy: Policy, signals: Signals, snapshot: Snapshot, rungs: Sequence[Rung], mask: int) -> list[int]:
    """Candidates rung by rung, ranked inside each; a target counts where it stands first."""
    chosen: list[int] = []
    costs: Costs | None = None
    for rung in rungs:
        here = rung.mask & mask
        if not here:
            continue
        mask &= ~here
        if not here & (here - 1):
            chosen.append(here.bit_length() - 1)
            continue
        if rung.shares:
            chosen += drawn(here, rung.shares, rung.listed, policy.fleet, snapshot.draw)
            continue
        by = rung.by
        if costs is None and (rung.rank in ("cheapest", "balanced") if by is None else by.ties(here)):
            costs = policy.prices.at(signals.expected_input(policy.tokens_by), signals.get("max_output_tokens"))
        if by is None:
            chosen += order(here, rung.rank, rung.listed, policy.fleet, snapshot, costs)
        else:
            chosen += by.order(here, costs)
    return chosen


def _avoids(policy: Policy, signals: Signals, constraint: Constraint, index: int) -> str:
    """Why the target that would have been first is not."""
    model = policy.fleet.targets[index].model.id
    if constraint.select.facts == {"model.languages"}:
        if constraint.select.signals == {"target_language"}:
            wanted = signals.get("target_language") or frozenset()
            return f"{' and '.join(sorted(wanted)[:4])}, as asked for, is not on {model}'s list"
        language = signals.get("language")
        main = None if language is None else language.main
        if main is not None:
            return f"language {main} is not on {model}'s list"
    return f"{constraint.id} avoids {model}"
