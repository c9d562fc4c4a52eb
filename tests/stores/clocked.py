"""The store's own script in a real Valkey, whose clock is what a test says: a key instead of `TIME`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gateway.stores import link
from gateway.stores.resp import argument
from gateway.stores.script import SOURCE
from tests.valkey import Valkey

CLOCKED = SOURCE.replace(b"redis.call('TIME')", b"redis.call('HMGET', 'clock', 's', 'us')")
assert CLOCKED != SOURCE


def turn(server: Valkey, now_us: int) -> None:
    """What time it is from now on."""
    server.ask("HSET", "clock", "s", now_us // 1_000_000, "us", now_us % 1_000_000)


@contextmanager
def clocked() -> Iterator[None]:
    """All stores of this process run it."""
    sha = hashlib.sha1(CLOCKED).hexdigest().encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(link, "_BY_NAME", argument(b"EVALSHA") + argument(sha))
        patch.setattr(link, "_WHOLE", argument(b"EVAL") + argument(CLOCKED))
        yield
