"""What any store of limits does, and the one that a process has by itself.

A request asks all limits of a gate at once, and what it has taken it gives back through its `Hold`. A store that has to
ask somebody says None and tells later; the others answer at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from gateway.core.money.admission import Gate, Hold, Refused

Told = Callable[[Hold | Refused], None]


class Store(Protocol):
    """Where limits are kept. Lives on the event loop.

    `degraded` says that limits are kept less exactly than they should be for now, `remote` that answers may come later.
    """

    degraded: bool
    remote: bool

    def admit(
        self, gate: Gate, tokens: int, need: int, now_s: float, now_ms: float, told: Told
    ) -> Hold | Refused | None:
        """Let a request through all limits of a gate or none, see `Gate.admit`; None: `told` is called later."""

    def adopt(self, owners: Iterable[Gate]) -> None:
        """Limits have changed; each gate has all of one key, team or target."""

    def turned(self) -> None:
        """Periods have begun."""

    def date(self, now_s: float) -> float:
        """The time that tells which period it is, where the clock of this machine says `now_s`. Unix seconds."""

    def state(self) -> dict[str, str | float] | None:
        """Whether what others share can be reached, and why not; None where nothing is shared."""

    async def refresh(self) -> None:
        """Ask what others have used of all limits by now, for who looks at them; as far as that can be asked."""

    def released(self, hold: Hold, freed: int) -> None:
        """Attempts of a request were charged, and so much of the money it had set aside was given back for that."""


class Memory:
    """Limits of this process alone: as they are."""

    def __init__(self) -> None:
        self.degraded = self.remote = False  # every request looks: on the class that would take ten times as long

    def admit(
        self, gate: Gate, tokens: int, need: int, now_s: float, now_ms: float, told: Told
    ) -> Hold | Refused | None:
        """Answered at once. HOT for keys with limits."""
        return gate.admit(tokens, need, now_s, now_ms)

    def adopt(self, owners: Iterable[Gate]) -> None:
        """Nobody else is to be told."""

    def turned(self) -> None:
        """The same."""

    def date(self, now_s: float) -> float:
        """That very time."""
        return now_s

    def state(self) -> dict[str, str | float] | None:
        """Nothing is."""
        return None

    async def refresh(self) -> None:
        """There are no others."""

    def released(self, hold: Hold, freed: int) -> None:
        """Nobody else is to be told."""
