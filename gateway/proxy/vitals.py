"""How the process is at this moment, for metrics: what is under way, what waits, who is held back.

Asked when a scrape comes and worked out then, so that a request pays nothing for it. What requests leave behind is
counted in `gateway.telemetry`.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from gateway.core.resilience.health import STATES
from gateway.telemetry.names import EndpointNow, Vitals

if TYPE_CHECKING:
    from gateway.proxy.runtime import Runtime

#: The endpoint of what is held against a target as a whole.
ALL = "all"


def look(runtime: Runtime) -> Vitals:
    """All of it, in some microseconds a target and a tenth of one for each request under way."""
    states = runtime.states()
    fleet = runtime.serving.site.fleet
    known = {str(one["target"]): str(one["state"]) for one in states}
    under_way = Counter([(e.route.name, e.pool.endpoint.url) for e in runtime.exchanges if e.pool is not None])
    parked = [e.race.parked for e in runtime.exchanges if e.race is not None and e.race.parked is not None]
    under_way.update([(one["route"].name, one["pool"].endpoint.url) for one in parked if one["pool"] is not None])
    under_way.update([(s.route.name, s.pool.endpoint.url) for s in runtime.shadows.under_way if s.pool is not None])
    limits = {one.name: one.backend.max_inflight for one in fleet.targets}
    endpoints = []
    for target, url, state in runtime.board.endpoint_states(fleet, time.monotonic()):
        if known[target] == "auth":  # also where only a token is lacking, of which health knows nothing
            state = max(state, "auth", key=STATES.index)
        endpoints.append(EndpointNow(target, url, state, under_way[target, url], limits[target]))
    alone = {one.name: one.backend.endpoints[0].url for one in fleet.targets if len(one.backend.endpoints) == 1}
    return Vitals(
        inflight=len(runtime.exchanges),
        queued=sum(pool.waiting for pool in runtime.pools.values()),
        targets=tuple(states),
        endpoints=tuple(endpoints),
        ejections={
            (target, url or alone.get(target, ALL), outcome.value): count
            for (target, url, outcome), count in runtime.board.ejections.items()
        },
    )
