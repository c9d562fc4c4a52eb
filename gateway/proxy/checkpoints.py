"""How far answers under way have come, told to the journal now and then, for what a crash must book of them.

Sampled from outside: a chunk on its way pays nothing for it. What becomes of a checkpoint is `core.money.booking`'s
business.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from gateway.core.money.booking import SHADOW
from gateway.core.money.usage import BYTES_PER_TOKEN

if TYPE_CHECKING:
    from gateway.proxy.exchange import Exchange
    from gateway.proxy.runtime import Runtime
    from gateway.proxy.shadow import Copy

EVERY_S = 0.25
#: With more answers under way than this, only those are told that have grown by so much, or not for so long.
MANY = 256
GROWN_BYTES = 64 * BYTES_PER_TOKEN
SILENT_S = 2.0


class Checkpoints:
    """Looks at every answer under way four times a second. On the event loop."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._told: dict[tuple[str, int], tuple[int, float]] = {}  # attempt -> bytes, and when they were told
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin."""
        self._handle = self._runtime.loop.call_later(EVERY_S, self._run)

    def stop(self) -> None:
        """Look at nothing more."""
        if self._handle is not None:
            self._handle.cancel()

    def _run(self) -> None:
        self._handle = self._runtime.loop.call_later(EVERY_S, self._run)
        self.look(time.monotonic())

    def look(self, now: float) -> None:
        """Tell the journal of every answer that has grown."""
        runtime = self._runtime
        before, self._told = self._told, {}
        many = len(runtime.exchanges) > MANY
        told: list[tuple[Exchange | Copy, int]] = [(o, o.attempt.number) for o in runtime.exchanges if o.reserved]
        told += [(one, SHADOW) for one in runtime.shadows.under_way]
        for one, attempt in told:
            if not one.reserved:
                continue
            relay = one.relay
            output = one.received if relay is None else relay.output_chars if relay.committed else 0
            if not output:
                continue
            key = (one.record.request_id, attempt)
            last = before.get(key, (0, 0.0))
            if output > last[0] and not (many and output - last[0] < GROWN_BYTES and now - last[1] < SILENT_S):
                runtime.outbox.entries.append(("c", *key, output, None if relay is None else relay.usage))
                last = (output, now)
            self._told[key] = last
        runtime.outbox.commit()
