"""Shadows: which requests a second target gets a copy of. What a policy says of it, and the draw.

Which targets may be a shadow is settled by the same removals as for a candidate, in `decide`; sending the copy and
reading its answer is `gateway.proxy.shadow`.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema

from gateway.core.clauses.entries import Id, RungForm, Strict, When
from gateway.core.quantities import SHARE_VALID, Invalid, share

if TYPE_CHECKING:
    from gateway.core.clauses.conditions import Condition
    from gateway.core.policy import Rung


def _share(raw: object) -> float:
    found = share(raw)
    if not found:
        raise Invalid(f"{raw!r:.40} is no share", SHARE_VALID)
    return found


Share = Annotated[float, BeforeValidator(_share), WithJsonSchema({"type": "string", "pattern": r"^[0-9]*\.?[0-9]+%$"})]


class ShadowDoc(Strict):
    """One entry of `shadow`: of the requests for which `when` holds, a share is also sent to a target of `use`."""

    id: Id
    because: str = ""
    when: When = None
    use: list[RungForm] = Field(min_length=1)
    share: Share


@dataclass(frozen=True, slots=True)
class ShadowRule:
    """A compiled entry of `shadow`."""

    id: str
    because: str
    when: Condition | None
    rungs: tuple[Rung, ...]
    mask: int
    share: float  # in (0, 1]

    def drawn(self, draw: float) -> bool:
        """Whether a request with this draw is of the share. Every entry draws anew, and apart from any `weights`."""
        drawn = blake2b(b"%b %.17g" % (self.id.encode(), draw), digest_size=4).digest()
        return int.from_bytes(drawn, "big") < self.share * 0x1_0000_0000


def drawn(shadows: tuple[ShadowRule, ...], draw: float) -> int:
    """Which entries a draw falls to, as bits: all that a decision takes of a draw for its shadow. HOT."""
    found = 0
    for place, shadow in enumerate(shadows):
        if shadow.drawn(draw):
            found |= 1 << place
    return found


#: Between the draws that are tried one after the other: too little to change anything but what is hashed of a draw.
_STEP = 2.0**-40
_TRIES = 200_000


def draw_for(shadows: tuple[ShadowRule, ...], wanted: frozenset[str], near: float) -> float | None:
    """A draw that falls to the wanted entries and to no others but those whose share is all; None where none is found.

    It is so near to another that shares of a rung come out as by that one.
    """
    due = [(shadow, shadow.id in wanted) for shadow in shadows if shadow.share < 1]
    step = _STEP if near + _TRIES * _STEP < 1 else -_STEP
    tried = (near + i * step for i in range(_TRIES))
    return next((draw for draw in tried if all(shadow.drawn(draw) is said for shadow, said in due)), None)
