"""Which replicas there are, by the registry that the store keeps of them: how it is asked, and what is made of it.

Who has not been heard of for some seconds is not there. What follows from how many there are is in `shared`.
"""

from __future__ import annotations

from gateway.stores.resp import argument
from gateway.stores.settings import StoreSettings

#: Seconds after which all replicas have registered anew with a store that has lost them.
SURE_S = 5.0


class Registry:
    """How many replicas share the limits, as last heard."""

    def __init__(self, settings: StoreSettings, replica: str, lease_s: float) -> None:
        self.count = 1  # this one among them
        self._sure_at = 0.0  # when there may be fewer than there were
        self._about = [
            f"{{{settings.prefix}}}:replicas".encode(), b"", replica.encode(), 0, int(lease_s * 1_000_000), 0, 0, 0,
        ]  # fmt: skip

    def call(self, op: bytes) -> tuple[int, bytes]:
        """`count` them, as one of them, or `leave`."""
        key, _, *rest = self._about
        values = [1, key, op, *rest]
        return len(values), b"".join(map(argument, values))  # type: ignore[arg-type]

    def hear(self, counted: int, now_s: float, *, anew: bool) -> None:
        """So many are registered. A store that has just come back, or was emptied, does not know them all yet."""
        if anew:
            self._sure_at = now_s + SURE_S
        if counted >= self.count or now_s >= self._sure_at:
            self.count = max(1, counted)
