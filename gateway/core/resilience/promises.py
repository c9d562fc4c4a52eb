"""Which targets thought although they were told not to, so often that their promise not to is no longer believed.

Pure state, told of each such answer from outside, and keyed by target name with what the promise was made for, so it
survives a reload until that changes. What follows for a decision is in `decide`; health, which is about failures, is
in `health`: a target that thinks unasked answers well, only dearer and later than it was asked to.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.core.types import Fleet, Target

_Made = tuple[object, ...]


class Promises:
    """Answers that thought unasked, counted by target, one per process.

    A target that does so `limit` times is doubted until `restore` is called, which a probe that saw its switch obeyed
    does. A promise that changes, be it the model, the server or what the file says of thinking, is a new one.
    """

    __slots__ = ("_broken", "_doubted")

    def __init__(self) -> None:
        self._broken: dict[str, tuple[_Made, int]] = {}
        self._doubted: set[str] = set()

    def broken(self, target: Target, limit: int) -> bool:
        """Take down one such answer; True when the target is doubted from now on. A `limit` of 0 doubts nobody."""
        made = _made(target)
        before = self._broken.get(target.name)
        count = 1 + (before[1] if before is not None and before[0] == made else 0)
        self._broken[target.name] = (made, count)
        if not 0 < limit <= count or target.name in self._doubted:
            return False
        self._doubted.add(target.name)
        return True

    def restore(self, target: str) -> bool:
        """Believe a target again and forget what was counted; whether it was doubted."""
        self._broken.pop(target, None)
        doubted = target in self._doubted
        self._doubted.discard(target)
        return doubted

    def adopt(self, fleet: Fleet, limit: int) -> int:
        """Keep what still holds for a new configuration, and return the mask of its targets that are doubted."""
        kept = {target.name: _made(target) for target in fleet.targets}
        self._broken = {name: one for name, one in self._broken.items() if kept.get(name) == one[0]}
        self._doubted = {name for name, (_, count) in self._broken.items() if 0 < limit <= count}
        return self.mask(fleet.targets)

    def mask(self, targets: Iterable[Target]) -> int:
        """The targets that are doubted."""
        return sum(1 << target.index for target in targets if target.name in self._doubted)

    def count(self, target: str) -> int:
        """How often a target thought unasked since its promise was made or last restored."""
        found = self._broken.get(target)
        return 0 if found is None else found[1]


def _made(target: Target) -> _Made:
    """What a promise was made for: any other model, server or word of thinking makes another."""
    backend = target.backend
    return (
        target.model.id,
        target.upstream_id,
        target.thinking,
        backend.dialect,
        tuple(endpoint.url for endpoint in backend.endpoints),
    )
