"""What is left of limits, for who asks: operators of all, the holder of a key of what binds it.

Rows of plain values, read off the living limits, so they say what refuses. Of a limit that is not the asker's own only
whether anything is left is told, and when more comes: how much would tell what others used. Where replicas share
limits, what others have used is asked for first; see `Store.refresh`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from gateway.core.money.limits import Budget, Limit, Rate, Slots
from gateway.core.types import NANO_PER_USD, Tenant
from gateway.proxy.gates import Gates
from gateway.times import moment

if TYPE_CHECKING:
    from gateway.proxy.runtime import Serving


def rows(limits: Iterable[Limit], now_s: float, own: Collection[str] | None = None) -> list[dict[str, Any]]:
    """A row for each limit. `now_s` is monotonic; `own` are the names of keys of which all may be told, None: of all.

    A team is told as `team`, a key above the asker's as `maker`, both without a name.
    """
    return [
        row(one, now_s) if own is None or (one.scope == "key" and one.name in own) else _veiled(one, now_s)
        for one in limits
    ]


def row(limit: Limit, now_s: float) -> dict[str, Any]:
    """One limit: what it is, what was used and is left of it, and when it begins anew, or is whole again.

    `here_usd` of a budget is what this process may still spend of it while the store that replicas share is away.
    """
    told: dict[str, Any] = {"limit": limit.of, "scope": limit.scope, "name": limit.name, "mode": _mode(limit)}
    if isinstance(limit, Budget):
        here = {"here_usd": _usd(limit.ahead)} if limit.leased < 0 else {}
        return told | {
            "usd": _usd(limit.limit),
            "spent_usd": _usd(limit.gone),
            "set_aside_usd": _usd(limit.reserved),
            "left_usd": _usd(limit.limit - limit.gone),
            **here,
            "used": round(limit.gone / limit.limit, 4) if limit.limit else 1.0,
            "per": limit.per,
            "zone": limit.zone,
            "resets": _moment(limit),
        }
    if isinstance(limit, Rate):
        left = limit.left(now_s)
        return told | {
            "most": limit.limit,
            "left": left,
            "used": round(1 - left / limit.limit, 4),
            "resets_s": _full_s(limit, now_s),
        }
    if isinstance(limit, Slots):
        left = max(0, limit.limit - limit.used)
        return told | {"most": limit.limit, "left": left, "used": round(limit.used / limit.limit, 4)}
    return told


def of_key(serving: Serving, gates: Gates, tenant: Tenant, ends_at: float, now_s: float) -> dict[str, Any]:
    """What the holder of a key is told of it, and nothing of others."""
    site = serving.site
    names = list(site.granted(tenant))
    has = site.holdings.get(tenant.key)
    return {
        "object": "key",
        "name": tenant.key,
        "expires": None if ends_at == math.inf else moment(ends_at),
        "policy": tenant.policy or site.default_policy.name,
        "policies": sorted({route.policy for _, route in names if route.pinned is None}),
        "models": sorted(name for name, route in names if route.pinned is not None),
        "explain": tenant.explain,
        "may_create": has is not None and has.may_create,
        "priority": tenant.priority,
        "limits": rows(gates.limits(tenant.key), now_s, {tenant.key}),
    }


def _veiled(limit: Limit, now_s: float) -> dict[str, Any]:
    told: dict[str, Any] = {
        "limit": limit.of,
        "scope": "team" if limit.scope == "team" else "maker",
        "mode": _mode(limit),
    }
    if isinstance(limit, Budget):
        return told | {"exhausted": limit.gone >= limit.limit, "per": limit.per, "resets": _moment(limit)}
    if isinstance(limit, Rate):
        left = limit.left(now_s)
        return told | {"exhausted": not left} | ({} if left else {"resets_s": _full_s(limit, now_s)})
    return told | {"exhausted": isinstance(limit, Slots) and limit.used >= limit.limit}


def _full_s(rate: Rate, now_s: float) -> float:
    return round(rate.wait(rate.limit, now_s) / 1_000_000, 3)


def _mode(limit: Limit) -> str:
    if isinstance(limit, Budget):
        return limit.mode
    return "shadow" if limit.shadow else "enforce"


def _usd(nano: int) -> float:
    return nano / NANO_PER_USD


def _moment(budget: Budget) -> str:
    return moment(budget.ends_ms / 1000)
