"""Which replica has probably cached how a prompt begins, and whether it has room for one more request.

Pure state, told where requests go. A server keeps the beginnings of prompts that it has read, so that the same
beginning costs it nothing the next time: a conversation had better stay where it was, and so had all that share a long
system prompt. But only within bounds: a replica that has a quarter more than its share of the requests gets none for
what it has cached. Which replicas may be chosen at all is the caller's business.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from zlib import crc32

#: A replica may have this many times its share of the requests under way and still be chosen for what it has cached.
LOAD = 1.25
#: That many requests are no load for a server that works on several at once, whatever its share is.
NO_LOAD = 4
#: Beginnings that are remembered for a target: some hundred bytes each.
LIMIT = 65_536


def _lengths() -> tuple[int, ...]:
    found, length = [], 256.0
    while length < 1 << 20:
        found.append(int(length))
        length *= 1.25
    return tuple(found)


#: Bytes of a prompt after which it is looked at: each a quarter more than the one before, so that a beginning is known
#: to a quarter of its length and the longest prompt is 38 of them.
LENGTHS = _lengths()


def beginnings(prompt: bytes | memoryview) -> list[int]:
    """A name for each beginning of a prompt, from the shortest on. None for a prompt of less than 256 bytes."""
    view = memoryview(prompt)
    names, name, at = [], 0, 0
    for length in LENGTHS:
        if length > len(view):
            break
        name = hash((name, bytes(view[at:length])))
        at = length
        names.append(name)
    return names


class Prefixes:
    """What the replicas of one target have probably cached. One for each target, as long as its replicas are the same.

    >>> prefixes, prompt = Prefixes(), b"You are a helpful assistant. " * 40
    >>> first = prefixes.place(prompt, [0, 0, 0])
    >>> prefixes.place(prompt, [0, 0, 0]) == first
    True
    >>> busy = [0, 0, 0]
    >>> busy[first] = 4
    >>> prefixes.place(prompt, busy) == first
    False
    """

    __slots__ = ("_cached", "limit")

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self._cached: dict[int, int] = {}  # name of a beginning -> mask of replicas; the least lately used first

    def __len__(self) -> int:
        return len(self._cached)

    def place(self, prompt: bytes | memoryview, loads: Sequence[int | None]) -> int:
        """The replica for a prompt, of which it is taken down that it will know it; -1 for one too short to matter.

        `loads` are the requests under way at each replica, None for one that must not be chosen; one at least may.
        Among replicas with room it is the one that knows the longest beginning, of several the least loaded. For a
        prompt that nobody knows it is one that follows from how the prompt begins, so that several gateways, and one
        that has just started, agree. HOT where a backend asks for it: about 1 us for each 2 kB of prompt.
        """
        names = beginnings(prompt)
        if not names:
            return -1
        usable = [load for load in loads if load is not None]
        bound = max(NO_LOAD, math.ceil(LOAD * (sum(usable) + 1) / len(usable)))
        roomy = [index for index, load in enumerate(loads) if load is not None and load < bound]
        cached = self._cached
        chosen = -1
        for name in reversed(names):
            mask = cached.get(name, 0)
            knowing = [index for index in roomy if mask >> index & 1]
            if knowing:
                chosen = min(knowing, key=lambda index: loads[index] or 0)
                break
        if chosen < 0:
            start = bytes(memoryview(prompt)[: LENGTHS[0]])
            chosen = max(roomy, key=lambda index: crc32(b"%d" % index, crc32(start)) * 2_654_435_761 & 0xFFFFFFFF)
        for name in names:
            cached[name] = cached.pop(name, 0) | 1 << chosen
        while len(cached) > self.limit:
            del cached[next(iter(cached))]
        return chosen
