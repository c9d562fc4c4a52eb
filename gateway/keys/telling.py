"""What is told of keys: a row for each, as plain values and as a table. Never a key, and of its hash only the start."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gateway.config import ConfigDoc, KeyDoc
from gateway.core.money.pricing import dollars
from gateway.core.types import NANO_PER_USD
from gateway.keys.file import Made, MadeKeyDoc
from gateway.keys.holding import Holding, Holdings
from gateway.keys.secret import SHORT
from gateway.naming import Grant
from gateway.quotas import quota
from gateway.terminal import in_columns
from gateway.times import a_period, moment


def rows(doc: ConfigDoc, made: Made | None, now: float) -> list[dict[str, Any]]:
    """Every key of a configuration. What names lead to is not looked up, so a policy that does not load hides none."""
    docs: Sequence[KeyDoc] = doc.keys if made is None else [*doc.keys, *made.keys]
    holdings = Holdings(docs, doc.policies.default, lambda _doc, _allow: Grant(everything=True)).all()
    return [row(one, holdings[one.name], now) for one in docs]


def row(doc: KeyDoc, has: Holding, now: float) -> dict[str, Any]:
    """One key: what it may, until when, and whether it opens anything now."""
    made = doc if isinstance(doc, MadeKeyDoc) else None
    state = _state(has, now)
    old = made.replaced if made is not None and state == "valid" else ()
    replaced = [one for one in old if one.until.timestamp() > now]
    return {
        "name": doc.name,
        "id": doc.sha256[:SHORT],
        "state": state,
        "file": "keys" if made is not None else "pointsman.yaml",
        "by": None if made is None else made.by,
        "created": None if made is None else moment(made.created.timestamp()),
        "rotated": None if made is None or made.rotated is None else moment(made.rotated.timestamp()),
        "updated": None if made is None or made.updated is None else moment(made.updated.timestamp()),
        "revoked": None if made is None or made.revoked is None else moment(made.revoked.timestamp()),
        "expires": None if has.ends_at in (math.inf, 0.0) else moment(has.ends_at),
        "replaced": [{"id": one.sha256[:SHORT], "until": moment(one.until.timestamp())} for one in replaced],
        "allow": list(doc.allow) if made is None or made.by is None or "allow" in doc.model_fields_set else None,
        "policy": has.policy,
        "tenant": dict(has.facts),
        "explain": has.explain,
        "may_create": has.may_create,
        "priority": has.priority,
        "limits": list(_limits(doc)),
    }


def _state(has: Holding, now: float) -> str:
    if isinstance(has.doc, MadeKeyDoc) and has.doc.revoked is not None:
        return "revoked"
    if has.dead:
        return "void"
    return "expired" if has.ends_at <= now else "valid"


def _limits(doc: KeyDoc) -> Iterator[dict[str, Any]]:
    has = quota(doc)
    for name in ("rpm", "tpm", "max_concurrent"):
        cap = getattr(has, name)
        if cap is not None:
            yield {"limit": name, "most": cap.limit, "mode": "shadow" if cap.shadow else "enforce"}
    for one in has.budgets:
        usd = one.nano_usd / NANO_PER_USD
        yield {"limit": "budget", "usd": usd, "per": one.per, "zone": one.zone, "mode": one.mode}


def table(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The rows for people."""
    cells = [["NAME", "ID", "STATE", "EXPIRES", "MAY USE", "TEAM", "LIMITS", "MADE BY"]]
    for one in found:
        cells.append(
            [
                one["name"],
                one["id"],
                one["state"] + (f", {len(one['replaced'])} replaced" if one["replaced"] else ""),
                one["expires"] or "-",
                ", ".join(one["allow"]) if one["allow"] is not None else f"as {one['by']}",
                one["tenant"].get("team", "-"),
                ", ".join(map(_short, one["limits"])) or "-",
                one["by"] or ("pointsman.yaml" if one["file"] == "pointsman.yaml" else "operator"),
            ]
        )
    return in_columns(cells)


def money(usd: float) -> str:
    """US dollars as JSON has them, for people."""
    return dollars(round(usd * NANO_PER_USD))


def _short(limit: Mapping[str, Any]) -> str:
    mode = "" if limit["mode"] in ("enforce", "hard") else f" ({limit['mode']})"
    if limit["limit"] == "budget":
        return f"{money(limit['usd'])} {a_period(limit['per'])}{mode}"
    return f"{limit['limit']} {limit['most']}{mode}"
