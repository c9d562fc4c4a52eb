"""What a trace says of the entries that watch the outside: latency targets, shadows, and where a conversation was.

The words only; the decision they explain was made in `decide`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gateway.core.clauses.sticky import seen

if TYPE_CHECKING:
    from gateway.core.clauses.conditions import Condition
    from gateway.core.policy import Policy
    from gateway.core.types import Decision, Snapshot

#: Whether a condition holds, and why.
Judge = Callable[["Condition | None"], tuple[bool, str]]


def latency_lines(policy: Policy, snapshot: Snapshot, judge: Judge) -> list[dict[str, Any]]:
    """Every latency target: whether it is asked of this request, and who misses it."""
    found = []
    for entry in policy.latency:
        matched, why = judge(entry.when)
        slow = snapshot.slow.get(entry.id, ()) if matched else ()
        known = tuple(target.name for target in policy.fleet.targets if target.name in slow)
        found.append(
            {"id": entry.id, "matched": matched, "why": why, "because": entry.because, "effect": "behind",
             "targets": known}
        )  # fmt: skip
    return found


def shadow_lines(policy: Policy, snapshot: Snapshot, decision: Decision, judge: Judge) -> list[dict[str, Any]]:
    """Every shadow entry: whether it applies, whether the request is of its share, and who gets the copy."""
    found = []
    settled = False
    for entry in policy.shadows:
        matched, why = judge(entry.when)
        shadow = decision.shadow
        chosen = shadow is not None and shadow.id == entry.id
        if settled:
            why = "not asked: an earlier entry has the copy"
        elif not entry.drawn(snapshot.draw):
            why += "; not of the requests that are drawn"
        elif matched and not chosen and decision.refusal is None:
            why += "; drawn, but no target is left for it"
        elif matched:
            why += "; drawn"
        found.append(
            {"id": entry.id, "matched": matched, "why": why, "because": entry.because,
             "effect": f"{entry.share * 100:g}%", "chosen": chosen, "asked": not settled,
             "targets": (shadow.target.name,) if shadow is not None and chosen else ()}
        )  # fmt: skip
        settled = settled or chosen
    return found


def conversation_line(policy: Policy, snapshot: Snapshot) -> str:
    """Where the conversation was answered last, as a sticky policy sees it; empty for a policy that does not look."""
    if policy.sticky is None:
        return ""
    previous = snapshot.previous
    last = seen(policy.sticky, previous, snapshot.now)
    if previous is None:
        return "not known to have been answered before"
    ago = f"{max(snapshot.now - previous.at, 0):,.0f} s ago"
    if last is None:
        return f"answered by {previous.target} {ago}, which is too long"
    cached = f"some {last.cached:,} tokens cached" if last.cached else "nothing thought to be cached"
    return f"answered by {previous.target} {ago}, {cached}"
