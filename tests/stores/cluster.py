"""A real cluster of three primaries, whose slots can be moved while it is asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from gateway.stores.resp import Said
from tests.valkey import Valkey, valkey


def until(true: Callable[[], bool], within_s: float = 30) -> None:
    end = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def number(reply: object) -> int:
    assert isinstance(reply, int)
    return reply


def told(node: Valkey, *words: object) -> str:
    reply = node.ask("CLUSTER", *words)
    assert isinstance(reply, bytes)
    return reply.decode()


class Cluster:
    """Its nodes. All keys of a test are in the slot of `key`."""

    def __init__(self, nodes: list[Valkey]) -> None:
        self.nodes = nodes
        share = 16384 // len(nodes) + 1
        for at, one in enumerate(nodes):
            one.ask("CLUSTER", "ADDSLOTSRANGE", at * share, min(16383, (at + 1) * share - 1))
            one.ask("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)
        self.whole()

    def whole(self) -> None:
        """Wait until all know of all."""
        until(lambda: all("cluster_state:ok" in told(one, "INFO") for one in self.nodes))

    def has(self, node: Valkey, key: str) -> bool:
        try:
            node.ask("EXISTS", key)
        except Said:
            return False
        return True

    def owner(self, key: str) -> Valkey:
        return next(one for one in self.nodes if self.has(one, key))

    def other(self, key: str) -> Valkey:
        """One that does not have it."""
        return next(one for one in self.nodes if not self.has(one, key))

    def begin(self, key: str, to: Valkey) -> Moving:
        return Moving(self, key, to)


class Moving:
    """A slot on its way, as an operator moves it."""

    def __init__(self, cluster: Cluster, key: str, to: Valkey) -> None:
        self.source, self.to = cluster.owner(key), to
        self.cluster = cluster
        self.slot = number(to.ask("CLUSTER", "KEYSLOT", key))
        self.ids = [told(one, "MYID") for one in (self.source, to)]
        to.ask("CLUSTER", "SETSLOT", self.slot, "IMPORTING", self.ids[0])
        self.source.ask("CLUSTER", "SETSLOT", self.slot, "MIGRATING", self.ids[1])

    def keys(self) -> list[bytes]:
        """What is still where it was."""
        found = self.source.ask("CLUSTER", "GETKEYSINSLOT", self.slot, 1000)
        assert isinstance(found, list)
        return [one for one in found if isinstance(one, bytes)]

    def take(self, *keys: bytes | str) -> None:
        """Move these."""
        self.source.ask("MIGRATE", "127.0.0.1", self.to.port, "", 0, 5000, "KEYS", *keys)

    def end(self) -> None:
        """Move what is left, and say so."""
        while left := self.keys():
            self.take(*left)
        for one in (self.to, self.source):
            self.tell(one)

    def tell(self, node: Valkey) -> None:
        """Who has the slot now."""
        node.ask("CLUSTER", "SETSLOT", self.slot, "NODE", self.ids[1])


@contextmanager
def cluster(where: Path, *options: str) -> Iterator[Cluster]:
    """One that ends with the tests."""
    where.mkdir(exist_ok=True)
    with ExitStack() as stack:
        yield Cluster(
            [stack.enter_context(valkey(where / name, "--cluster-enabled", "yes", *options)) for name in "abc"]
        )
