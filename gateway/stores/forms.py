"""How limits are laid out for the script, and what its answers say of them. No connection, no clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gateway.core.money.admission import Gate
from gateway.core.money.limits import Budget, Limit, Rate, Slots
from gateway.stores.resp import argument
from gateway.stores.script import ANOTHER, OUTDATED

#: Numbers at the front of an answer: what it says, which limit, how long, the limits in shadow, the server's time.
FRONT = 5


@dataclass(frozen=True, slots=True)
class Session:
    """What every call says of the replica that makes it."""

    prefix: str
    replica: str
    generation: int
    lease_us: int
    window_us: int
    share: float  # of what is left of a hard budget, as its slice


def key_of(prefix: str, limit: Limit) -> str:
    """Where a limit is kept. What is in braces is the same for all: of a cluster one slot, and so one node, has them.

    >>> from gateway.core.money.limits import Cap
    >>> key_of("pointsman", Slots("key", "checkout", Cap(5)))
    '{pointsman}:key:checkout'
    """
    return f"{{{prefix}}}:{limit.scope}:{limit.name}"


def budget_id(budget: Budget) -> str:
    """A budget's name within its key or team."""
    return f"{budget.per}/{budget.zone}"


def _layout(limit: Limit, at: int) -> Iterator[bytes | int]:
    """A limit as seven arguments."""
    yield at
    yield (
        b"s" if isinstance(limit, Slots) else b"b" if isinstance(limit, Budget) else b"q" if limit.of == "rpm" else b"t"
    )
    yield limit.limit  # type: ignore[attr-defined]
    yield limit.mode.encode() if isinstance(limit, Budget) else b"shadow" if limit.shadow else b"enforce"
    yield budget_id(limit).encode() if isinstance(limit, Budget) else b""
    yield limit.begins_ms if isinstance(limit, Budget) else 0
    yield limit.ends_ms if isinstance(limit, Budget) else 0


class Form:
    """The calls about the limits of one gate, but for what differs from call to call."""

    __slots__ = ("_op", "budgets", "gate", "heard_us", "keys", "limits", "owners")

    def __init__(self, gate: Gate, session: Session) -> None:
        self.gate = gate
        self.heard_us = 0  # when the last answer about them was given, by the clock of the node that has them
        self.limits = gate.limits
        self.budgets = gate.budgets
        self.keys = tuple(dict.fromkeys(key_of(session.prefix, one) for one in self.limits))
        self.owners = tuple(dict.fromkeys((one.scope, one.name) for one in self.limits))
        self._op: dict[bytes, tuple[int, bytes]] = {}
        for op in (b"admit", b"settle", b"sync", b"beat", b"yield"):
            share = b"0" if op == b"yield" else b"%.6f" % session.share
            written: list[bytes | int] = [
                b"beat" if op == b"yield" else op, session.replica.encode(), session.generation, session.lease_us,
                session.window_us, share, len(self.limits),
            ]  # fmt: skip
            for limit in self.limits:
                written += _layout(limit, self.keys.index(key_of(session.prefix, limit)) + 1)
            front = [len(self.keys), *(key.encode() for key in self.keys), *written]
            self._op[op] = len(front), b"".join(map(argument, front))

    def call(self, op: bytes, *values: int) -> tuple[int, bytes]:
        """How many members it has, and the members. HOT."""
        count, front = self._op[op]
        if not values:
            return count, front
        return count + len(values), front + b"".join(
            [b"$%d\r\n%b\r\n" % (len(text), text) for text in [b"%d" % value for value in values]]
        )

    def sync(self, replicas: int, *, anew: bool = False, server: int = 0) -> tuple[int, bytes]:
        """Tell all that this replica knows: what is under way, what it spent, what it saw others spend.

        What is under way counts once for each session, unless it is told `anew`. `server` is which one is told, where
        it may lack what another one had: it waits for all replicas then.
        """
        values = [replicas, server or int(anew)]
        for limit in self.limits:
            if isinstance(limit, Slots):
                values += (limit.used, 0, 0, 0)
            elif isinstance(limit, Budget):
                values += (limit.spent, limit.reserved, limit.others, limit.ahead)
            else:
                values += (0, 0, 0, 0)
        return self.call(b"sync", *values)

    def settle(self, places: int, requests: int, tokens: int, need: int, since_us: int = 0) -> tuple[int, bytes]:
        """Give back what was not used, and tell what this replica has spent in all. HOT.

        `since_us` is when it was taken, by the clock of the server: time has brought back some of a bucket since. 0: it
        was never used, all of it is given back.
        """
        return self.call(b"settle", places, requests, tokens, need, since_us, *[one.spent for one in self.budgets])

    def fits(self, answer: Sequence[object]) -> bool:
        """Is it made of numbers, and of enough to say something of every limit where it does?"""
        whole = FRONT + len(self.limits) + 2 * len(self.budgets)
        least = FRONT if answer[0] in (ANOTHER, OUTDATED) else whole
        return len(answer) >= least and all(isinstance(one, int) for one in answer)

    def see(self, answer: Sequence[int], now_s: float) -> bool:
        """Take over what an answer says of every limit. Is less leased than before? The store waits to hear so. HOT."""
        self.heard_us = answer[4]
        at, less = FRONT, False
        for limit in self.limits:
            if isinstance(limit, Budget):
                less = less or answer[at + 2] < limit.leased
                limit.hear(answer[at], answer[at] + answer[at + 1], answer[at + 2])
                at += 3
                continue
            if isinstance(limit, Rate):
                limit.see(answer[at], now_s)
            at += 1
        return less
