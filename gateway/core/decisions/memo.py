"""Decisions that are bound to come out the same, remembered.

Most requests of a client differ only in their text. A decision is kept under a key that holds everything it was made
from besides text, and below that key by what was told from the text, in the order in which the decision asked for it:
a tree whose nodes are signals (`language`, `task`), whose branches are their values and whose leaves are decisions. A
decision asks in the same order whenever it is given the same answers, so who follows the answers of a request down the
tree asks for nothing that the decision would not ask for, and arrives where it would. What was asked is not guessed but
read off the signals that were computed, so a policy that looks at more simply remembers less. HOT.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.core.clauses.shadow import drawn
from gateway.core.clauses.sticky import seen
from gateway.core.policy import Policy
from gateway.core.reading.media import MEDIA_MEMBERS
from gateway.core.reading.signals import EXPECTED, Signals
from gateway.core.reading.sizes import expected_of
from gateway.core.request.hints import NO_HINTS, Hints
from gateway.core.request.neutral import NEUTRAL, asks_nothing
from gateway.core.request.thinking import MEMBERS as THINKING
from gateway.core.request.wire import Envelope, largest_body
from gateway.core.targets.rank import coarse
from gateway.core.text.language import Language
from gateway.core.types import Decision, Routing, Snapshot, Tenant

#: Entries kept before starting over; a client can make up names, so there must be a bound.
LIMIT = 1024

#: Top-level members a request may have, and characters in the name of one, for its decision to be kept: together with
#: `LIMIT` they bound what a client can fill the memory with by making up names.
MOST_MEMBERS = 64
LONGEST_NAME = 64

#: Members whose value, not only whose presence, some signal reads, and that are not plain numbers or strings.
_COMPLEX = frozenset({"tools", "functions", "response_format", "metadata", "modalities"}) | (
    THINKING - {"reasoning_effort"}
)
_MEDIA = frozenset(MEDIA_MEMBERS)
_TELLING = _COMPLEX | NEUTRAL.keys()
#: Signals told from the text, which become nodes of the tree. All others are held by the key, or prevent keeping.
_TEXTUAL = frozenset({"language", "target_language", "task", "difficulty"})
_ASKED = _TEXTUAL | {EXPECTED}
_BASIS = "bound: the decision was kept from a request like this one, and holds up to there"
_RANKS_BY_NOTHING_ELSE = frozenset({"listed", "cheapest", "highest", "lowest"})

#: Begins with the minute.
Key = tuple[Any, ...]
#: What a decision rests on that is not the request's: the minute (retirements), and the targets that health leaves.
World = tuple[int, int]
#: What one answer was, as far as a decision can tell it from another; None where that is too much to hold.
Answer = Hashable


@dataclass(slots=True)
class Kept:
    """A decision, the largest input it holds for, and signal values from which it would be made again."""

    decision: Decision
    limit: int  # tokens; a request whose quick bound is above may come out differently
    values: dict[str, Any]
    routings: dict[str, Routing] = field(default_factory=dict)  # by target, for the server's use
    quote: Any = None  # what each of its requests can use and cost, see `quotes`; None: nobody has asked

    def told(self, signals: Signals) -> dict[str, Any]:
        """The signal values of a later request that this decision was kept for: its own, where they were looked at.

        What is told of its text is no JSON yet: most of it is never asked for.
        """
        return self.values | signals.read(_TEXTUAL) if _TEXTUAL & self.values.keys() else self.values

    @property
    def largest(self) -> int:
        """Bytes of the largest body that it holds for."""
        return largest_body(self.limit)


@dataclass(slots=True)
class Ask:
    """A signal that the decision asks for next, and where each answer leads."""

    name: str
    branches: dict[Answer, Kept | Ask] = field(default_factory=dict)


def watched(policy: Policy, snapshot: Snapshot) -> Key:
    """All that a decision of a policy that watches more than health can rest on besides its key. HOT where one does."""
    last = None if policy.sticky is None else seen(policy.sticky, snapshot.previous, snapshot.now)
    return last, tuple(snapshot.slow.items()), drawn(policy.shadows, snapshot.draw)


class Memo:
    """The decisions kept for one loaded configuration; a new one starts empty.

    It starts over when a minute begins, for no later request finds what was kept under the one before. What was begun
    just before that may still be kept just after it.
    """

    __slots__ = ("_count", "_kept", "_minute")

    def __init__(self) -> None:
        self._kept: dict[Key, Kept | Ask] = {}
        self._count = 0
        self._minute = 0

    @staticmethod
    def world(available: int, now: float) -> World:
        """The world's part of a key. `now` is Unix seconds."""
        return int(now) // 60, available

    @staticmethod
    def key(
        envelope: Envelope, policy: Policy, pinned: int | None, tenant: Tenant, hints: Hints, available: int, now: float
    ) -> Key | None:
        """All that a decision rests on besides text, length, headers and metadata; None where that is too much to hold.

        `tenant` and `policy` are of the configuration and live as long as the memo, so their identity stands for them.
        """
        tree = envelope.tree
        if len(tree) > MOST_MEMBERS or None in tree.values():
            return None
        idle: tuple[str, ...] = ()
        if not _TELLING.isdisjoint(tree):
            if not _COMPLEX.isdisjoint(tree):
                return None
            idle = tuple(name for name in NEUTRAL if name in tree and asks_nothing(name, tree[name]))
        if max(map(len, tree)) > LONGEST_NAME:
            return None
        for message in tree["messages"]:
            if type(message.get("content")) is not str or (len(message) > 2 and not _MEDIA.isdisjoint(message)):
                return None
        get = tree.get
        return (
            *Memo.world(available, now),
            id(policy),
            pinned,
            id(tenant),
            None if hints is NO_HINTS else hints,
            envelope.stream,
            get("max_tokens"),
            get("max_completion_tokens"),
            get("reasoning_effort"),
            get("service_tier"),
            *tree,
            idle,
            envelope.model_asked,
        )

    def get(self, key: Key, envelope: Envelope) -> Kept | None:
        """The decision for a key, if it holds for a request of this length and does not depend on its text."""
        kept = self._kept.get(key)
        return kept if type(kept) is Kept and envelope.quick_tokens <= kept.limit else None

    def follow(self, key: Key, envelope: Envelope, signals: Signals) -> Kept | None:
        """The decision for a key and what the request's text says, if it holds for a request of this length."""
        node = self._kept.get(key)
        while type(node) is Ask:
            node = node.branches.get(_answer(node.name, envelope, signals))
        return node if type(node) is Kept and envelope.quick_tokens <= node.limit else None

    def put(self, key: Key, policy: Policy, decision: Decision, envelope: Envelope, signals: Signals) -> Kept | None:
        """Keep a decision if nothing was looked at for it that its key and the tree do not hold.

        To be called right after the decision: whatever else is asked of the signals counts as looked at.
        """
        limit = signals.quick_limit
        if limit is None or decision.refusal is not None:
            return None
        if (len(decision.candidates) > 1 or policy.shadows) and not policy.ranks <= _RANKS_BY_NOTHING_ELSE:
            return None
        path: list[tuple[str, Answer]] = []
        for name in signals.consulted:
            if name in _ASKED:
                path.append((name, _answer(name, envelope, signals)))
            elif name.startswith(("headers.", "metadata.")) or (name == "choices" and signals.get(name) != 1):
                return None
        if any(answer is None for _, answer in path):
            return None
        # What is told of a later request must not be the length of this one.
        values = signals.computed() | {"tokens": {"": [0, limit, False, _BASIS]}}
        return self._keep(key, path, Kept(decision, limit, values))

    def _keep(self, key: Key, path: Sequence[tuple[str, Answer]], kept: Kept) -> Kept | None:
        minute: int = key[0]
        if self._count >= LIMIT or not self._minute - 1 <= minute <= self._minute:
            self._kept.clear()
            self._count = 0
            self._minute = minute
        branches: dict[Any, Kept | Ask] = self._kept
        at: Answer = key
        for name, answer in path:
            node = branches.get(at)
            if node is None:
                node = branches[at] = Ask(name)
            elif type(node) is not Ask or node.name != name:
                return None  # not the order that was asked in before: no decision is worth guessing which is right
            branches, at = node.branches, answer
        if type(branches.get(at)) is Ask:
            return None
        self._count += at not in branches
        branches[at] = kept
        return kept


def _answer(name: str, envelope: Envelope, signals: Signals) -> Answer:
    """A signal's value as far as any policy can tell it from another, wrapped so that "not known" is an answer."""
    if name == EXPECTED:
        return (coarse(expected_of(envelope)),)
    value = signals.get(name)
    if isinstance(value, Language):
        return value.verdict
    return (value,)
