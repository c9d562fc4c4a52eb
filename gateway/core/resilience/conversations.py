"""Where each conversation was answered last: bounded state, told answers and the time from outside.

Kept per key, so that no client can touch or push out another's by the names it makes up. What follows from an entry is
`sticky`'s business. Names are kept as hashes: they are the clients' and may be long.
"""

from __future__ import annotations

from collections.abc import Collection
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from gateway.core.types import Previous

if TYPE_CHECKING:
    from gateway.core.request.hints import Hints
    from gateway.core.request.wire import Envelope

#: Conversations kept in all. An entry takes about 250 bytes.
LIMIT = 32_768
#: Characters of a name that a body may give; more name nothing. A header's is bounded alike.
LONGEST = 128


def conversation_of(hints: Hints, envelope: Envelope) -> str | None:
    """The conversation a request says it belongs to: `x-pointsman-conversation`, else `metadata.conversation_id`."""
    if hints.conversation is not None:
        return hints.conversation
    metadata = envelope.tree.get("metadata")
    return _name(metadata.get("conversation_id")) if metadata else None


def prompt_cache_key_of(envelope: Envelope) -> str | None:
    """The member by which OpenAI's clients say whose prompts begin alike; many conversations may share one."""
    return _name(envelope.tree.get("prompt_cache_key"))


def _name(value: Any) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= LONGEST else None


class Conversations:
    """The last answer of each conversation, by key and name. The least lately answered goes first.

    When all is full, a key with more than its share loses its own oldest entry, so that one client's flood of names
    costs no other client anything.
    """

    __slots__ = ("_count", "_keys", "limit")

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self._keys: dict[str, dict[bytes, Previous]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def last(self, key: str, name: str) -> Previous | None:
        """Where this key's conversation was answered last. HOT where a policy is sticky."""
        mine = self._keys.get(key)
        return None if mine is None else mine.get(_digest(name))

    def answered(self, key: str, name: str, previous: Previous, longest_s: float) -> None:
        """A target answered; entries of this key that are older than `longest_s` go as new ones come."""
        mine = self._keys.setdefault(key, {})
        digest = _digest(name)
        if mine.pop(digest, None) is None:
            self._count += 1
        mine[digest] = previous
        for _ in range(2):  # two for each that comes: what has expired goes in time, and never all at once
            oldest = next(iter(mine))
            if previous.at - mine[oldest].at <= longest_s:
                break
            del mine[oldest]
            self._count -= 1
        if self._count > self.limit:
            crowd = mine
            if len(mine) * len(self._keys) <= self.limit:
                crowd = max(self._keys.values(), key=len)
            del crowd[next(iter(crowd))]
            self._count -= 1

    def keep(self, targets: Collection[str]) -> None:
        """Forget what was answered by any other target: a reload took it away, or put another in its place."""
        for key, mine in list(self._keys.items()):
            left = {digest: previous for digest, previous in mine.items() if previous.target in targets}
            self._count += len(left) - len(mine)
            if left:
                self._keys[key] = left
            else:
                del self._keys[key]


def _digest(name: str) -> bytes:
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=12).digest()
