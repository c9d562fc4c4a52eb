"""Decisions that are bound to come out the same, remembered.

Most requests of a client differ only in their text, and most decisions do not look at text: a pinned target, a plain
prompt far below every limit. Such a decision is kept under a key that holds everything it was made from. Whether it may
be kept is not guessed but read off the signals that were computed for it, so a policy that looks at more simply
remembers less. HOT.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gateway.core.policy import Policy
from gateway.core.signals import NO_HINTS, Hints, Signals
from gateway.core.types import Decision, Tenant
from gateway.core.wire import Envelope

#: Entries kept before starting over; a client can make up names, so there must be a bound.
LIMIT = 1024

#: Top-level members a request may have, and characters in the name of one, for its decision to be kept: together with
#: `LIMIT` they bound what a client can fill the memory with by making up names.
MOST_MEMBERS = 64
LONGEST_NAME = 64

#: Members whose value, not only whose presence, some signal reads, and that are not plain numbers or strings.
_COMPLEX = frozenset(
    {"tools", "functions", "response_format", "metadata", "reasoning", "enable_thinking", "chat_template_kwargs"}
)
_VALUED = ("max_tokens", "max_completion_tokens", "reasoning_effort", "service_tier")
_TEXTUAL = frozenset({"language", "task", "difficulty"})
_BASIS = "bound: the decision was kept from a request like this one, and holds up to there"
_RANKS_BY_NOTHING_ELSE = frozenset({"listed", "cheapest"})

Key = tuple[object, ...]


@dataclass(slots=True)
class Kept:
    """A decision, the largest input it holds for, and signal values from which it would be made again."""

    decision: Decision
    limit: int  # tokens; a request whose quick bound is above may come out differently
    values: dict[str, Any]
    lines: dict[str, bytes] = field(default_factory=dict)  # answer headers by target, for the server's use


class Memo:
    """The decisions kept for one loaded configuration; a new one starts empty."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: dict[Key, Kept] = {}

    @staticmethod
    def key(
        envelope: Envelope, policy: Policy, pinned: int | None, tenant: Tenant, hints: Hints, available: int, now: float
    ) -> Key | None:
        """All that a decision rests on besides text, length, headers and metadata; None where that is too much to hold.

        `tenant` and `policy` are of the configuration and live as long as the memo, so their identity stands for them.
        """
        tree = envelope.tree
        if len(tree) > MOST_MEMBERS or not _COMPLEX.isdisjoint(tree) or None in tree.values():
            return None
        if max(map(len, tree)) > LONGEST_NAME:
            return None
        for message in tree["messages"]:
            if type(message.get("content")) is not str:
                return None
        get = tree.get
        return (
            id(policy),
            pinned,
            id(tenant),
            None if hints is NO_HINTS else hints,
            available,
            int(now) // 60,  # retirements
            envelope.stream,
            *[get(name) for name in _VALUED],
            *tree,
            envelope.model_asked,
        )

    def get(self, key: Key, envelope: Envelope) -> Kept | None:
        """The decision for a key, if it holds for a request of this length."""
        kept = self._kept.get(key)
        return kept if kept is not None and envelope.quick_tokens <= kept.limit else None

    def put(self, key: Key, policy: Policy, decision: Decision, signals: Signals) -> None:
        """Keep a decision if nothing was looked at for it that its key does not hold.

        To be called right after the decision: whatever else is asked of the signals counts as looked at.
        """
        limit = signals.quick_limit
        if limit is None or decision.refusal is not None:
            return
        if len(decision.candidates) > 1 and not policy.ranks <= _RANKS_BY_NOTHING_ELSE:
            return
        for name in signals.consulted:
            if name in _TEXTUAL or name.startswith(("headers.", "metadata.")):
                return
        if len(self._kept) >= LIMIT:
            self._kept.clear()
        # What is told of a later request must not be the length of this one.
        values = signals.computed() | {"tokens": {"": [0, limit, False, _BASIS]}}
        self._kept[key] = Kept(decision, limit, values)
