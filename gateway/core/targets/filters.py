"""What removes targets, as one table: each filter says which candidates a request takes away, and how it is refused
when none is left.

`decide` walks what can act on a policy's targets, with the candidates that are left, and computes only what can still
matter; `trace` walks all of it with the whole fleet, so both mean the same. Window fit, health and thinking are in
`decide`: they depend on each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.core.money.pricing import affordable_input
from gateway.core.targets.capabilities import above, outside, retired
from gateway.core.targets.rank import bits
from gateway.core.types import NANO_PER_USD, Snapshot

if TYPE_CHECKING:
    from gateway.core.policy import Constraint, Policy
    from gateway.core.reading.signals import Signals
    from gateway.core.targets.capabilities import Capabilities


#: A limit of cost from which on it is none: beyond this, prices and amounts are no longer exact.
MOST_USD = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Filter:
    """One reason to drop targets. `lost` is handed the candidates left and may name more than those. HOT."""

    name: str
    lost: Callable[[Policy, Signals, Snapshot, int], int]
    code: str
    message: str  # a client may see it: says what is refused, names no target


def _forbidden(policy: Policy, signals: Signals, snapshot: Snapshot, left: int) -> int:
    lost = 0
    for constraint in policy.forbids:
        if constraint.select.possible & left & ~lost and (constraint.when is None or constraint.when.test(signals)):
            lost |= constraint.select.mask(signals)
            if not left & ~lost:
                break
    return lost


def last_straw(each: Filter, policy: Policy, signals: Signals, left: int) -> str:
    """What to name as the reason for a refusal: the filter, or of the constraints the one that took what was left."""
    if each.lost is not _forbidden:
        return each.name
    for constraint in policy.forbids:
        if constraint.when is None or constraint.when.test(signals):
            left &= ~constraint.select.mask(signals)
            if not left:
                return constraint.id
    return each.name


def _closed(policy: Policy, signals: Signals, snapshot: Snapshot, left: int) -> int:
    return policy.capabilities.closed


def _retired(policy: Policy, signals: Signals, snapshot: Snapshot, left: int) -> int:
    retirements = policy.capabilities.retirements
    return retired(retirements, snapshot.now) if retirements else 0


def _misplaced(policy: Policy, signals: Signals, snapshot: Snapshot, left: int) -> int:
    lost = 0
    region = signals.get("region")
    if region is not None:
        lost = outside(policy.capabilities.regions, region)
    residency = signals.get("residency")
    if residency is not None:
        lost |= outside(policy.capabilities.residencies, residency)
    return lost


def _cannot_read(policy: Policy, signals: Signals, snapshot: Snapshot, left: int) -> int:
    able = policy.capabilities
    lost = 0
    if left & able.some_blind:
        for modality in signals.get("modality") or ():
            lost |= able.blind.get(modality, -1)  # a kind of content nobody has heard of: no target reads it
    if left & able.some_count_images and (images := signals.get("images")):
        lost |= above(able.images, images)
    return lost


def _no_tools(policy: Policy, signals: Signals, snapshot: Snapshot, left: int) -> int:
    without = policy.capabilities.no_tools
    return without if left & without and signals.get("tools") else 0


def _no_structure(policy: Policy, signals: Signals, snapshot: Snapshot, left: int) -> int:
    without = policy.capabilities.no_structured_output
    return without if left & without and signals.get("structured_output") else 0


def _refuses_parameters(policy: Policy, signals: Signals, snapshot: Snapshot, left: int) -> int:
    able = policy.capabilities
    if not left & able.some_refuse:
        return 0
    lost = 0
    sent = signals.get("parameters") or frozenset()
    for name, mask in able.refuses.items():
        if name in sent:
            lost |= mask
    for only, mask in able.picky:
        if not sent <= only:
            lost |= mask
    return lost


def _needs_stream(policy: Policy, signals: Signals, snapshot: Snapshot, left: int) -> int:
    only = policy.capabilities.needs_stream
    return only if left & only and not signals.get("stream") else 0


def _caps_output(policy: Policy, signals: Signals, snapshot: Snapshot, left: int) -> int:
    able = policy.capabilities
    if not left & able.some_cap_output:
        return 0
    asked = signals.get("max_output_tokens")
    return above(able.outputs, asked) if asked else 0


def _too_dear(policy: Policy, signals: Signals, snapshot: Snapshot, left: int) -> int:
    most_usd = signals.get("max_cost_usd")
    if most_usd is None:
        return 0
    most_nano = round(min(most_usd, MOST_USD) * NANO_PER_USD)
    asked = signals.get("max_output_tokens") or 0
    choices = signals.get("choices") or 1  # each is as long as the output may be
    lost = 0
    for index in bits(left):
        target = policy.fleet.targets[index]
        affordable = -1
        if target.price is not None:
            output = (asked or target.typical_output_tokens) * choices
            affordable = affordable_input(target.price, most_nano, output)
        if affordable < 0 or signals.exceeds(target.model.tokenizer, affordable + asked):
            lost |= 1 << index
    return lost


def acting(able: Capabilities, forbids: Sequence[Constraint]) -> tuple[Filter, ...]:
    """Of `FILTERS`, those that can remove a target at all, so that no request asks the others."""
    idle: dict[object, bool] = {
        _closed: not able.closed,
        _retired: not able.retirements,
        _forbidden: not forbids,
        _cannot_read: not able.some_blind | able.some_count_images,
        _no_tools: not able.no_tools,
        _no_structure: not able.no_structured_output,
        _refuses_parameters: not able.some_refuse,
        _needs_stream: not able.needs_stream,
        _caps_output: not able.some_cap_output,
    }
    return tuple(each for each in FILTERS if not idle.get(each.lost))


_CAPABILITY = "unsupported_capability"
FILTERS: tuple[Filter, ...] = (
    Filter("closed", _closed, "policy_denied", "The policy allows no target for this request."),
    Filter("retired", _retired, "policy_denied", "Every target that may serve this request has been withdrawn."),
    Filter("forbidden", _forbidden, "policy_denied", "The policy allows no target for this request."),
    Filter("place", _misplaced, "policy_denied", "No target that may serve this request lies where it asks for."),
    Filter("content", _cannot_read, _CAPABILITY, "No target that may serve this request reads all of its content."),
    Filter("tools", _no_tools, _CAPABILITY, "No target that may serve this request supports tools."),
    Filter("structure", _no_structure, _CAPABILITY, "No target that may serve this request supports response_format."),
    Filter(
        "parameters",
        _refuses_parameters,
        "unsupported_parameter",
        "No target that may serve this request supports all parameters sent.",
    ),
    Filter("stream", _needs_stream, _CAPABILITY, "Every target that may serve this request only answers as a stream."),
    Filter(
        "output",
        _caps_output,
        "context_length_exceeded",
        "No target that may serve this request can give as many output tokens as it asks for.",
    ),
    Filter("cost", _too_dear, "policy_denied", "No target that may serve this request does so within its cost limit."),
)
