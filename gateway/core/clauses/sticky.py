"""Whether a conversation stays with the target that answered it last: what a policy says of it, and the arithmetic.

A server that has read a prompt keeps it for a while and charges less for what it knows; another must read all of it
again. So a conversation moves only where the saving is greater than that. Where conversations were answered is kept in
`conversations`; which targets may serve at all is settled before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import AfterValidator, Field

from gateway.core.clauses.canary import idle
from gateway.core.clauses.entries import Duration, Strict
from gateway.core.money.pricing import cost
from gateway.core.quantities import Invalid
from gateway.core.targets.rank import coarse
from gateway.core.types import Target, Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.core.policy import Policy, Rung
    from gateway.core.reading.signals import Signals
    from gateway.core.types import Previous, Snapshot

#: Places where a request may name its conversation, in the order they are looked at.
Source = Literal["conversation", "prompt_cache_key"]
#: What a server usually keeps a prompt for.
CACHED_S = 600.0


def _once(names: list[Source]) -> list[Source]:
    if len(set(names)) < len(names):
        raise Invalid("a name stands here twice", "each once")
    return names


class StickyDoc(Strict):
    """`sticky`: a conversation keeps its target, among those that may serve it and that are not put behind others."""

    for_: Duration = Field(alias="for")
    cached: Duration = CACHED_S
    switch: Literal["cheaper", "never"] = "cheaper"
    within: Literal["rule", "rung"] = "rule"
    by: Annotated[list[Source], Field(min_length=1), AfterValidator(_once)] = Field(
        default_factory=lambda: list[Source](("conversation",))
    )


@dataclass(frozen=True, slots=True)
class Sticky:
    """A compiled `sticky`. Times are seconds since the conversation's last answer."""

    for_s: float  # how long it keeps its target
    cached_s: float  # how long that target is thought to know its prompt
    by_money: bool  # it may move where that is cheaper
    one_rung: bool  # only among the targets of the rung that the first candidate stands in
    by: tuple[Source, ...]

    @classmethod
    def of(cls, doc: StickyDoc) -> Sticky:
        """What the file says."""
        return cls(doc.for_, doc.cached, doc.switch == "cheaper", doc.within == "rung", tuple(doc.by))


class Seen(NamedTuple):
    """All that a decision takes of a `Previous`: what is not here cannot make two decisions differ."""

    target: str
    cached: int  # tokens, as a size class


def seen(sticky: Sticky, previous: Previous | None, now: float) -> Seen | None:
    """What is left of a conversation's last answer at `now`; None where it is too long ago, or there was none. HOT."""
    if previous is None:
        return None
    age = now - previous.at
    if age > sticky.for_s:
        return None
    return Seen(previous.target, coarse(previous.tokens) if age <= sticky.cached_s else 0)


def stay(
    policy: Policy, signals: Signals, snapshot: Snapshot, rungs: Sequence[Rung], peers: list[int]
) -> tuple[int | None, str]:
    """The target with which a conversation stays instead of moving to the first of its peers; and why, or why not.

    `peers` are the candidates that nothing puts behind the first, in their order.
    """
    sticky = policy.sticky
    last = None if sticky is None else seen(sticky, snapshot.previous, snapshot.now)
    if sticky is None or last is None:
        return None, ""
    targets = policy.fleet.targets
    best = peers[0]
    if targets[best].name == last.target:
        return best, f"{last.target} answered this conversation before"
    index = next((index for index in peers if targets[index].name == last.target), None)
    if index is None:
        return None, f"{last.target}, which answered before, is not among the candidates that come first"
    rung = next((rung for rung in rungs if rung.mask >> index & 1), None)
    if rung is None or idle(rung.shares) >> index & 1 or (sticky.one_rung and not rung.mask >> best & 1):
        return None, f"{last.target}, which answered before, is only a fallback now"
    if moves(sticky, signals, policy.tokens_by, last.cached, targets[index], targets[best]):
        return None, f"moves from {last.target}: reading the prompt anew costs less than staying"
    return index, f"stays with {last.target}: moving to {targets[best].name} saves less than reading the prompt anew"


def moves(sticky: Sticky, signals: Signals, tokens_by: str | None, cached: int, old: Target, new: Target) -> bool:
    """Whether the new target answers for less although it must read all of the prompt.

    Both are reckoned with a usual answer of theirs, at the tier the input falls in; without both prices a conversation
    stays.
    """
    if not sticky.by_money or old.price is None or new.price is None:
        return False
    size = signals.expected_input(tokens_by)
    asked = signals.get("max_output_tokens")

    def usual(target: Target) -> int:
        return target.typical_output_tokens if asked is None else min(target.typical_output_tokens, asked)

    stay = cost(old.price, Usage(input=size, output=usual(old), cached=min(cached, size)), thinking=False)
    return cost(new.price, Usage(input=size, output=usual(new)), thinking=False) < stay
