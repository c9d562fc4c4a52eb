"""Deciding recorded requests again, by the policy that decided them or by another, without sending anything.

Here belongs what `decide` may be told of a record, and remembering decisions over a million of them. How decisions
differ and what that costs stands in `worth` and `gateway.replay`; what a record holds in `records`.

A replay is never wrong in silence: whatever a policy asks that the record does not hold, and that no bound settles,
makes the record undecided. Decisions are remembered in a tree like that of `memo`: what was asked, in its order, with
every answer a branch. Nothing is guessed about what a policy looks at, so a new word of the language is at worst slow.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from gateway.core.decide import decide
from gateway.core.facts import signal_named
from gateway.core.money.quotes import priced
from gateway.core.reading.signals import EXPECTED, Memory, Signals
from gateway.core.reading.sizes import Sizes, expected_tokens, far_within
from gateway.core.recorded.records import Recorded, Spoken, Unreadable
from gateway.core.request.wire import quick_tokens
from gateway.core.targets.rank import coarse
from gateway.core.text.tokens import Bounds
from gateway.core.types import Decision, Previous, Snapshot

if TYPE_CHECKING:
    from gateway.core.policy import Policy

#: Questions and decisions kept before starting over.
LIMIT = 400_000
#: Answers to one question that are kept: a signal with more, such as a name per user, would fill the memory in vain.
MOST_BRANCHES = 1_000
_SAMPLED = 10_000  # tokens: `tokens.SMALL_CHARS` of any text have more
#: Branches that no value of a signal is.
_UNRECORDED = object()
_SEEN_BY_SIZE = object()
_COUNTED_NO = object()
_COUNTED_YES = object()


class NotRecorded(Exception):
    """A policy asked for something that the record does not hold. `name` says what, in words for people."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is not recorded")
        self.name = name


Reader = Callable[[Recorded], Hashable]
#: What was asked: a signal by its name, or whatever reads the answer off a record.
Asked = str | Reader


class RecordedSizes(Sizes):
    """The lengths of a record. A question that its bounds do not settle raises `NotRecorded`."""

    __slots__ = ("_answers", "_asked", "_recorded", "_within", "counted", "walked")

    def __init__(self, recorded: Recorded, asked: list[Asked]) -> None:
        self._recorded = recorded
        self._asked = asked
        self._answers: dict[tuple[str | None, int], bool] = {}
        self._within: dict[int, bool] = {}
        self.counted: set[str | None] = set()  # tokenizers that a question went to because bytes did not settle it
        self.walked = not recorded.text_bytes  # the size of the body did not settle every question so far

    def known(self, tokenizer: str | None) -> tuple[Bounds, str]:
        """As in `Sizes`."""
        return _bounds(self._recorded, tokenizer), "as recorded"

    def more_than(self, tokenizer: str | None, limit: int, blocking: bool) -> bool:
        """As in `Sizes`; never blocks."""
        if limit < 0:
            return True
        known = self._answers.get((tokenizer, limit))
        if known is not None:
            return known

        def read(recorded: Recorded) -> Hashable:
            if recorded.text_bytes and quick_tokens(recorded.text_bytes) <= limit:
                return _SEEN_BY_SIZE
            rough = _bounds(recorded, None)
            if rough.hi <= limit or rough.lo > limit:
                return rough.hi > limit
            bounds = _bounds(recorded, tokenizer)
            if bounds.hi <= limit:
                return _COUNTED_NO
            return _COUNTED_YES if bounds.lo > limit or bounds.exact else _UNRECORDED

        self._asked.append(read)
        found = read(self._recorded)
        if found is _UNRECORDED:
            raise NotRecorded("the exact length" + (f" by {tokenizer}" if tokenizer else ""))
        self.walked = self.walked or found is not _SEEN_BY_SIZE
        if found is _COUNTED_NO or found is _COUNTED_YES:
            self.counted.add(tokenizer)
        answer = self._answers[tokenizer, limit] = found is True or found is _COUNTED_YES
        return answer

    def surely_within(self, limit: int) -> bool:
        """As in `Sizes`: by the size of the body, as it was asked when the request was served."""

        def read(recorded: Recorded) -> bool:
            return recorded.text_bytes > 0 and far_within(quick_tokens(recorded.text_bytes), limit)

        if limit not in self._within:
            self._asked.append(read)
            self._within[limit] = read(self._recorded)
        return self._within[limit]

    def computed(self) -> dict[str, Any]:
        """As in `Sizes`."""
        told = {name: [lo, hi, exact, "as recorded"] for name, (lo, hi, exact) in self._recorded.tokens.items()}
        return {"tokens": told}


def _bounds(recorded: Recorded, tokenizer: str | None) -> Bounds:
    """By a tokenizer that was asked about then; for any other, what bounds it for all, which counting would narrow."""
    found = recorded.tokens.get(tokenizer or "")
    if found is not None:
        return Bounds(*found)
    found = recorded.tokens.get("")
    return Bounds(found[0], found[1]) if found is not None else Bounds(0, 1 << 60)


class _Read(Memory):
    """Reads what is asked for off a record, and takes down that it was asked."""

    __slots__ = ("_asked", "_recorded")

    def __init__(self, recorded: Recorded, asked: list[Asked]) -> None:
        self._recorded = recorded
        self._asked = asked

    def __missing__(self, name: str) -> Any:
        self._asked.append(_tenant_reader(name[len(_TENANT) :]) if name.startswith(_TENANT) else name)
        value = self[name] = _signal(self._recorded, name)
        return value


class RecordedSignals(Signals):
    """The signals of a record, as `decide` and `trace` ask for them; whatever is asked may raise `NotRecorded`."""

    __slots__ = ("_asked", "_policy", "_recorded", "_recorded_sizes")

    def __init__(self, recorded: Recorded, policy: Policy, asked: list[Asked] | None = None) -> None:
        self._asked: list[Asked] = [] if asked is None else asked
        self._recorded = recorded
        self._policy = policy
        self._recorded_sizes = RecordedSizes(recorded, self._asked)
        super().__init__(_Read(recorded, self._asked), None, self._recorded_sizes, True)

    def tokens(self, tokenizer: str | None) -> Bounds:
        """As in `Signals`."""
        self._asked.append(lambda recorded: _bounds(recorded, tokenizer))
        return _bounds(self._recorded, tokenizer)

    def expected_input(self, tokenizer: str | None) -> int:
        """As in `Signals`: by the size of the body where that sufficed, which is certain for any policy.

        Else it hangs on what was counted until then. Every value that it can have had must compare prices alike.
        """
        if EXPECTED in self._memo:
            return int(self._memo[EXPECTED])
        policy, asked = self._policy, self._recorded_sizes
        walked, counted = asked.walked, tokenizer in asked.counted
        output = self.get("max_output_tokens")

        def read(recorded: Recorded) -> Hashable:
            stated = recorded.signals.get(EXPECTED)
            if type(stated) is int and recorded.policy == policy.label:
                return stated
            if not walked:
                return coarse(expected_tokens(recorded.text_bytes))
            sizes = _counted(recorded, tokenizer) if counted else _uncounted(recorded)
            orders = {policy.prices.at(size, output).order for size in sizes}
            by_order = "balanced" not in policy.ranks and policy.sticky is None  # these weigh the costs themselves
            return max(sizes) if len(sizes) == 1 or (len(orders) == 1 and by_order) else _UNRECORDED

        self._asked.append(read)
        found = read(self._recorded)
        if found is _UNRECORDED:
            raise NotRecorded("its size class, where prices cross,")
        self._memo[EXPECTED] = found
        return cast("int", found)


def _counted(recorded: Recorded, tokenizer: str | None) -> set[int]:
    """The size classes that a request can have been taken for once it was counted. Long ones may have been sampled."""
    bounds = _bounds(recorded, tokenizer)
    if bounds.lo == bounds.hi:
        return {coarse(bounds.hi), coarse(bounds.hi * 31 // 32) if bounds.hi > _SAMPLED else coarse(bounds.hi)}
    return {coarse(bounds.hi if bounds.exact else bounds.lo + (bounds.hi - bounds.lo) // 4)}


def _uncounted(recorded: Recorded) -> set[int]:
    """The same while only its bytes were known: they count with any template, of which the shortest adds less."""
    bounds = _bounds(recorded, None)
    likely = bounds.lo + (bounds.hi - bounds.lo) // 4
    found = {coarse(likely), coarse(max(likely - bounds.lo // 2 - 16, 0))}
    return found | {coarse(likely * 3 // 4)} if recorded.signals.get("tools") else found


def _signal(recorded: Recorded, name: str) -> Any:
    """A signal as the value it had. Raises `NotRecorded`, and `Unreadable` for what it can never have been."""
    try:
        value = recorded.signals[name]
    except KeyError:
        if name.startswith(_TENANT):
            return recorded.tenant.get(name[len(_TENANT) :])
        raise NotRecorded(f"signal {name}") from None
    if value is None:
        return None
    kind = signal.kind if (signal := signal_named(name)) is not None else None
    if kind is not None and type(value) not in _KINDS[kind]:
        raise Unreadable(f"has a signal {name} that is no {kind}")
    if name == "thinking_hint" and type(value) is not int and value not in ("never", "always"):
        raise Unreadable("has a thinking_hint that is no wish")
    if isinstance(value, Spoken):
        return value.language()
    return frozenset(value) if isinstance(value, tuple) else value


_TENANT = "tenant."
_KINDS: Mapping[str, tuple[type, ...]] = {
    "number": (int, float),
    "boolean": (bool,),
    "text": (str,),
    "set": (tuple,),
    "language": (Spoken,),
    "date": (str,),
}


def _tenant_reader(fact: str) -> Reader:
    return lambda recorded: recorded.tenant.get(fact)


def _verdict(value: Spoken) -> Hashable:
    """A language as far as any policy can tell it from another."""
    language = value.language()
    found = language.verdict
    if found is not None:
        return found
    shares = tuple(language.shares.items())
    return shares, language.undetermined, language.letters > 0, language.scripted, language.edges


#: What of a Snapshot a decision can be remembered by, as it is recorded; all else makes a decision one of its kind.
_WORLD: Mapping[str, Reader] = {
    "available": lambda recorded: recorded.world.held,
    "doubted": lambda recorded: recorded.world.doubted,
    "slow": lambda recorded: tuple(sorted(recorded.world.slow.items())),
}


def _world_of(policy: Policy) -> Mapping[str, Reader]:
    """The same for one policy, to which all moments are alike between which no target is withdrawn.

    Where a conversation was before is told by the time too, but such a decision is one of its kind by `previous`.
    """
    moments = [moment for moment, _ in policy.capabilities.retirements]
    return {**_WORLD, "now": lambda recorded: bisect_right(moments, recorded.at)}


def _new_conversation(recorded: Recorded) -> bool:
    return recorded.world.previous is None and recorded.world.conversations


class _World:
    """A Snapshot that notes what is read of it, and raises `NotRecorded` for what is not there."""

    __slots__ = ("_asked", "_policy", "_readers", "_recorded", "_seen", "_snapshot", "one_of_its_kind")

    def __init__(
        self,
        snapshot: Snapshot,
        recorded: Recorded,
        policy: Policy,
        asked: list[Asked],
        readers: Mapping[str, Reader],
    ) -> None:
        self._snapshot = snapshot
        self._policy = policy
        self._readers = readers
        self._recorded = recorded
        self._asked = asked
        self._seen: set[str] = set()
        self.one_of_its_kind = False

    def __getattr__(self, name: str) -> Any:
        if name in self._seen:
            return getattr(self._snapshot, name)
        self._seen.add(name)
        reader = self._readers.get(name)
        if reader is not None:
            self._asked.append(reader)
        elif name == "previous" and _new_conversation(self._recorded):
            self._asked.append(_new_conversation)
        else:
            self.one_of_its_kind = True
        if lack := self._lack(name):
            raise NotRecorded(lack)
        return getattr(self._snapshot, name)

    def _lack(self, name: str) -> str:
        """What a record lacks of this, for this policy; "" where it is whole."""
        world, policy = self._recorded.world, self._policy
        if name == "latency_s" and world.latency_s is None:
            return "how fast targets were"
        if name == "slow" and any(entry.id not in world.slow for entry in policy.latency):
            return "which targets were slower than asked"
        if name == "previous" and policy.sticky is not None and not world.conversations:
            alone = policy.sticky.by == ("conversation",) and self._recorded.signals.get("conversation", "?") is None
            return "" if alone else "where its conversation was answered before"
        return ""


@dataclass(frozen=True, slots=True)
class Undecided:
    """What the policy would do cannot be told from the record, because it `lacks` something: words for people."""

    lacks: str


class _Ask:
    """What a decision asks next, and where each answer leads."""

    __slots__ = ("branches", "read", "signal")

    def __init__(self, asked: Asked) -> None:
        self.signal = asked if isinstance(asked, str) else ""
        self.read = (lambda recorded: _UNRECORDED) if isinstance(asked, str) else asked
        self.branches: dict[Hashable, _Ask | Decision | Undecided] = {}

    def answer(self, recorded: Recorded) -> Hashable:
        """What a record says to it, as `Replay.decide` reads it."""
        if not self.signal:
            return self.read(recorded)
        value = recorded.signals.get(self.signal, _UNRECORDED)
        return _verdict(value) if isinstance(value, Spoken) else value


class Replay:
    """Recorded requests decided by one policy. Never another decision than `decide` makes of the same inputs.

    >>> replay = Replay(policy)                        # doctest: +SKIP
    >>> decision = replay.decide(records.read(line))   # doctest: +SKIP
    """

    __slots__ = ("_bits", "_capped", "_count", "_healthy", "_pinned", "_readers", "_roots", "policy")

    def __init__(
        self,
        policy: Policy,
        *,
        pinned: int | None = None,
        healthy: bool = False,
        capped: frozenset[str] = frozenset(),
    ) -> None:
        """`pinned` takes the place of what clients named; `healthy`: as if every target had been up and believed.

        `capped` are the keys under a hard budget, which nothing without a price serves.
        """
        self.policy = policy
        self._capped = capped
        self._pinned = pinned
        self._healthy = healthy
        self._readers = _world_of(policy)
        self._bits = {target.name: 1 << target.index for target in policy.fleet.targets}
        self._roots: dict[Hashable, _Ask | Decision | Undecided] = {}
        self._count = 0

    def decide(self, recorded: Recorded) -> Decision | Undecided:
        """What the policy does with a recorded request. HOT. Raises `Unreadable` for a record that cannot be true."""
        node = self._roots.get(recorded.pinned)
        signals = recorded.signals
        while type(node) is _Ask:
            name = node.signal
            if name:  # as in `_Ask.answer`, without its call: this is most of what a replay does
                value: Any = signals.get(name, _UNRECORDED)
                if type(value) is Spoken:
                    value = _verdict(value)
                node = node.branches.get(value)
            else:
                node = node.branches.get(node.read(recorded))
        made: Decision | Undecided = self._afresh(recorded) if node is None else node  # type: ignore[assignment]
        if recorded.key in self._capped and type(made) is Decision:
            return priced(made)
        return made

    def snapshot(self, recorded: Recorded) -> Snapshot:
        """The world as it was, on this fleet. A target that was not there then counts as available."""
        world = recorded.world
        previous = world.previous
        return Snapshot(
            now=recorded.at,
            draw=world.draw,
            available=self.policy.fleet.mask() & ~(0 if self._healthy else self.mask(world.held)),
            latency_s=world.latency_s or {},
            doubted=0 if self._healthy else self.mask(world.doubted),
            previous=None if previous is None else Previous(previous.target, previous.tokens, previous.at),
            slow={name: who for name, who in world.slow.items() if who},
        )

    def mask(self, names: Iterable[str]) -> int:
        """The targets of these names that are in the fleet."""
        found = 0
        for name in names:
            found |= self._bits.get(name, 0)
        return found

    def pinned(self, recorded: Recorded) -> int | None:
        """The targets that the client named, None where it named a policy."""
        if self._pinned is not None:
            return self._pinned
        return None if recorded.pinned is None else self.mask(recorded.pinned)

    def _afresh(self, recorded: Recorded) -> Decision | Undecided:
        asked: list[Asked] = []
        signals = RecordedSignals(recorded, self.policy, asked)
        world = _World(self.snapshot(recorded), recorded, self.policy, asked, self._readers)
        made: Decision | Undecided
        try:
            made = decide(self.policy, signals, cast("Snapshot", world), pinned=self.pinned(recorded))
        except NotRecorded as lack:
            made = Undecided(lack.name)
        if not world.one_of_its_kind:
            self._keep(recorded, asked, made)
        return made

    def _keep(self, recorded: Recorded, asked: list[Asked], made: Decision | Undecided) -> None:
        if self._count >= LIMIT:
            self._roots.clear()
            self._count = 0
        branches, at = self._roots, cast("Hashable", recorded.pinned)
        for one in asked:
            node = branches.get(at)
            if type(node) is not _Ask:
                if len(branches) >= MOST_BRANCHES:
                    return
                node = branches[at] = _Ask(one)
                self._count += 1
            branches, at = node.branches, node.answer(recorded)
        if len(branches) < MOST_BRANCHES:
            branches[at] = made
            self._count += 1
