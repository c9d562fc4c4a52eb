"""What changes in the health of targets, told once a second to whoever reads the log.

What holds a target back is `core.resilience.health`'s business. A state that came and went within a second is not told
here; the metrics count every ejection.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.proxy.runtime import Runtime

#: States in which a target gets no requests. Between these and `healthy` single requests try it again.
HELD = frozenset({"ejected", "rate_limited", "auth", "gone"})
logger = logging.getLogger("pointsman")


class Watching:
    """Remembers who was held back when it looked last."""

    def __init__(self) -> None:
        self._held: dict[str, str] = {}  # target, state

    def look(self, runtime: Runtime) -> None:
        """Tell what has changed since."""
        if not runtime.board.entries and not self._held:
            return
        states = {str(one["target"]): one for one in runtime.states()}
        for name, one in states.items():
            state = str(one["state"])
            before = self._held.get(name)
            if state in HELD:
                if state != before:
                    self._held[name] = state
                    until = "" if one["held_for_s"] is None else f", for {one['held_for_s']:g} s"
                    logger.warning("target %s is held back: %s (%s)%s", name, state, one["reason"], until)
            elif state == "healthy" and before is not None:
                del self._held[name]
                logger.info("target %s is healthy again", name)
        for name in self._held.keys() - states.keys():  # no longer configured
            del self._held[name]
