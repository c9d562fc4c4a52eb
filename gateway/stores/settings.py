"""Where the shared store is and how it is used, as values; how that is written is in `gateway.storedoc`."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.core.types import Secret


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """A Valkey or Redis that replicas share; times in seconds."""

    host: str
    port: int = 6379
    database: int = 0
    tls: bool = False
    ca_file: str | None = None
    username: str | None = None
    password: Secret | None = None
    prefix: str = "pointsman"
    slice: float = 0.01  # of what is left of a hard budget, leased to each replica for while the store is away
    timeout_s: float = 0.1  # for connecting and for each answer
    lease_s: float = 6.0

    def __str__(self) -> str:
        """As logs name it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.tls else 'redis'}://{host}:{self.port}/{self.database}"
