"""A store as one gateway has it, without the gateway: some keys of one team."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from gateway.core.money.admission import Gate, Hold, Refused
from gateway.core.money.limits import Allowance, Budget, Cap, Rate, Slots
from gateway.stores.settings import StoreSettings
from gateway.stores.shared import Shared

NEED, RPM, TPM = 100, 600, 60_000


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


class Replica:
    """A store as a gateway has it, with limits of its own that say the same."""

    def __init__(self, name: str, port: int, prefix: str, *, keys: int = 4, usd: int = 10**9, **more: object) -> None:
        self.store = Shared(
            asyncio.get_running_loop(),
            StoreSettings("127.0.0.1", port, prefix=prefix, **{"timeout_s": 10.0, **more}),  # type: ignore[arg-type]
            name,
        )
        self.budget = Budget("team", "t", Allowance(usd, "month"))
        self.budget.begin(0, 1 << 52)
        self.own = [
            Gate(
                (Rate("key", f"k{at}", "rpm", Cap(RPM)),),
                (Rate("key", f"k{at}", "tpm", Cap(TPM)),),
                (Slots("key", f"k{at}", Cap(100)),),
            )
            for at in range(keys)
        ]
        self.gates = [Gate(one.requests, one.tokens, one.slots, (self.budget,)) for one in self.own]
        self.store.adopt([*self.own, Gate(budgets=(self.budget,))])

    async def admit(self, at: int, tokens: int = 1) -> Hold | Refused:
        told: asyncio.Future[Hold | Refused] = asyncio.get_running_loop().create_future()
        got = self.store.admit(self.gates[at], tokens, NEED, time.monotonic(), time.time() * 1e3, told.set_result)
        return await told if got is None else got

    async def ready(self) -> None:
        """New keys with budgets wait for what others know."""
        await self.store.start()
        assert self.store.up
        for at in range(len(self.gates)):
            while isinstance(got := await self.admit(at), Refused):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            got.cancel()
