"""Which node is asked: the one that is configured, the one that another says has the keys, or another of their cluster.

One node has all keys. Names and order only: who connects, and when, is `breaker`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from gateway.stores.resp import Said

_NAMED = re.compile(r"(?:MOVED|ASK) \d+ (?P<host>[A-Za-z0-9.:_-]*):(?P<port>\d{1,5})")
#: Others of a cluster that are tried where one does not answer: whichever lives knows who has the keys.
MOST = 8


class Node(NamedTuple):
    """An address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def named(why: object, by: Node) -> Node | None:
    """The node that `by` named in an answer of MOVED or ASK; None in any other, and where it does not know.

    >>> named(Said("MOVED 1 :7001"), Node("valkey", 7000))
    Node(host='valkey', port=7001)
    """
    found = _NAMED.fullmatch(str(why)) if isinstance(why, Said) else None
    return None if found is None else Node(found["host"] or by.host, int(found["port"]))


class Nodes:
    """Who is asked next. A round tries the configured node and then the others, and follows where they lead."""

    def __init__(self, configured: Node) -> None:
        self.configured = self.at = configured
        self._others: list[Node] = []
        self._left: list[Node] = []  # of this round
        self._led_to: set[Node] = set()  # in this round

    def found(self) -> None:
        """The one that is asked has the keys."""
        self._begin()

    def again(self) -> None:
        """Begin anew, with the configured one."""
        self.at = self.configured
        self._begin()

    def _begin(self) -> None:
        self._left = [one for one in dict.fromkeys((self.configured, *self._others)) if one != self.at]
        self._led_to.clear()

    def lead(self, to: Node) -> bool:
        """One was named. Is it to be asked in this round? Once, as they may name each other."""
        fresh = to not in self._led_to
        self._led_to.add(to)
        if fresh:
            self.at = to
        return fresh

    def failed(self) -> bool:
        """The one that was asked cannot be used. Is there another one to be asked in this round?"""
        if not self._left:
            self.again()
            return False
        self.at = self._left.pop(0)
        return True

    def hear(self, told: bytes, *, names: bool) -> None:
        """Take up who is in the cluster, from CLUSTER NODES: first who would take over from who tells.

        `names`: by their names, where they have some, as their certificates do.
        """
        rows = [line.split() for line in told.decode("utf-8", "replace").splitlines()]
        rows = [row for row in rows if len(row) >= 8]
        mine = next((row[0] for row in rows if "myself" in row[2]), "")
        heard: list[tuple[bool, Node]] = []
        for _, address, flags, above, *_ in rows:
            at, _, name = address.partition(",")
            host, _, port = at.partition("@")[0].rpartition(":")
            if "myself" in flags:
                heard.append((True, self.at))
            elif {"fail", "noaddr", "handshake"}.isdisjoint(flags.split(",")) and host and port.isdigit():
                heard.append((above != mine, Node(name.partition(",")[0] or host if names else host, int(port))))
        heard.sort(key=lambda one: one[0])
        self._others = [node for _, node in heard[:MOST]]
