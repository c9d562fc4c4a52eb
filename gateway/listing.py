"""What `GET /v1/models` lists: the names a key may send as `model`, each with the facts that clients choose by."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from gateway.core.types import Tenant
from gateway.naming import Route
from gateway.site import Site


def listing(site: Site, tenant: Tenant) -> list[dict[str, Any]]:
    """What a key may send as `model`, in the shape of OpenAI's model list, with facts beside it."""
    return [_entry(site, name, route) for name, route in site.granted(tenant)]


def _entry(site: Site, name: str, route: Route) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": name, "object": "model", "created": 0, "owned_by": "pointsman"}
    if route.pinned is None:
        return entry | {"pointsman": {"policy": site.policies[route.policy].label}}
    targets = [target for target in site.fleet.targets if route.pinned >> target.index & 1]
    model = targets[0].model
    released = site.released.get(model.id)
    if released is not None:
        entry["created"] = int(datetime(released.year, released.month, released.day, tzinfo=UTC).timestamp())
    entry["owned_by"] = model.family
    entry["pointsman"] = {
        "model": model.id,
        "targets": [target.name for target in targets],
        "window_tokens": max(target.window for target in targets),
        "modalities": sorted(set().union(*(target.modalities for target in targets))),
        "tools": any(target.tools for target in targets),
        "structured_output": any(target.structured_output for target in targets),
        "thinking": sorted({target.thinking for target in targets}),
        "license": model.license,
    }
    if any(target.stand_in for target in targets):
        entry["pointsman"]["stand_in"] = True
    return entry
