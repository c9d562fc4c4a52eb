"""Who pays: the account of the ledger that the attempts of a routing are booked on.

Asked for once per routing, which many requests share. What is booked, and when, stands where it happens: in `exchange`
and `relaying` for requests, in `shadow` for copies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.core.types import Routing, Target

if TYPE_CHECKING:
    from gateway.proxy.runtime import Runtime

#: Modes of thinking whose output has a price of its own on some price lists.
THINKS = ("always", "budget")


def account_of(runtime: Runtime, routing: Routing, target: Target, thinking: str, shadow: str = "") -> int:
    """The number of the account for attempts of this routing at a target, kept in the routing but for a shadow's.

    An account that is new is added to the entries of this turn, so that it is written before what is booked on it. 0
    where no ledger is kept.
    """
    ledger = runtime.ledger
    if ledger is None:
        return 0
    names = (routing.key, routing.team, target.model.id, target.name, routing.rule, routing.policy)
    account, entry = ledger.account(names, target.price, thinks=thinking in THINKS, shadow=shadow)
    if entry is not None:
        runtime.outbox.enter(entry)
    if not shadow:
        routing.account = account.number
    return account.number
