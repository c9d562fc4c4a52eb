"""Latency targets: those that can change no order, and those that targets are already known to miss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gateway.core.clauses.findings import Finding, finding
from gateway.core.clauses.matchers import Leaf

if TYPE_CHECKING:
    from gateway.core.analyse.study import Study

_STREAMED = Leaf("in", frozenset({True}))


def judge(study: Study) -> Iterator[Finding]:
    """Entry by entry; nothing where no fleet is meant, for how fast targets are and how many is an installation's."""
    policy = study.policy
    for i, entry in enumerate(policy.latency if study.everywhere is None else ()):
        path = f"latency[{i}]"
        wanted = study.wants(entry.when)
        if study.admits([wanted]) is False:  # told as one that nothing can match
            continue
        met = [j for j in range(len(policy.rules)) if study.admits([wanted, *study.taken(j)]) is not False]
        served = [study.candidates(policy.rules[j].mask) for j in met]
        if served and all(len(targets) < 2 for targets in served):
            named = ", ".join(f"`{policy.rules[j].id}`" for j in met)
            what = f"changes nothing: {named}, which it applies to, has one target at most"
            yield finding("latency-idle", entry.id, path, what, "a second target to go to")
        for limit in entry.limits:
            if limit.measure == "first_event":
                if study.admits([wanted, study.matches("stream", _STREAMED)], "latency", entry.id) is False:
                    what = "asks first_event of requests that are not streamed, and it is measured of streams only"
                    yield finding("latency-unstreamed", entry.id, f"{path}.first_event", what, "tokens_per_s")
                continue
            known = {one.name: one.tokens_per_s for targets in served for one in targets}
            slow = [name for name, speed in known.items() if speed is not None and speed < limit.value]
            if slow:
                said = ", ".join(f"{name} ({known[name]:g})" for name in slow[:4]) + (", ..." if slow[4:] else "")
                what = f"asks {limit.value:g} tokens a second, and targets are said to give less: {said}"
                fix = "another limit, or nothing, if they are to come last"
                yield finding("latency-missed", entry.id, f"{path}.tokens_per_s", what, fix)
