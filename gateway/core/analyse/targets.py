"""Targets: withdrawn, soon withdrawn, without a price; and fallbacks that never leave a family, backend or region."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

from gateway.core.analyse.study import Study
from gateway.core.clauses.findings import Finding, finding
from gateway.core.targets.capabilities import retired
from gateway.core.targets.rank import bits

SOON_DAYS = 90
_EPOCH_DAY = date(1970, 1, 1).toordinal()


def judge(study: Study) -> Iterator[Finding]:
    """The targets that rules and shadows use."""
    policy, now = study.policy, study.now
    used = 0
    by_cost = 0
    for rule in policy.rules:
        used |= rule.mask
        for rung in rule.rungs:
            by_cost |= rung.mask if rung.by or rung.rank in ("cheapest", "balanced") else 0
    for copy in policy.shadows:
        used |= copy.mask
    gone = retired(policy.capabilities.retirements, now)
    soon = retired(policy.capabilities.retirements, now + SOON_DAYS * 86_400)
    today = date.fromordinal(_EPOCH_DAY + int(now // 86_400))
    for index in bits(used):
        target = policy.fleet.targets[index]
        if gone >> index & 1:
            what = f"was withdrawn on {target.retires_on} and is never chosen"
            yield finding("target-retired", target.name, "", what, "remove it or serve the model elsewhere")
        elif soon >> index & 1 and target.retires_on is not None:
            days = (target.retires_on - today).days
            what = f"will be withdrawn on {target.retires_on}, in {days} days"
            yield finding("target-retires", target.name, "", what)
        if target.price is None and by_cost >> index & 1:
            what = "has no price: it ranks behind all that have one"
            yield finding("target-unpriced", target.name, "", what, "price: ...")


def ladders(study: Study) -> Iterator[Finding]:
    """Fallbacks that never leave a family, a backend or a region."""
    policy = study.policy
    open_to_it = study.policy.fleet.mask() & ~policy.capabilities.closed
    everywhere = {policy.fleet.targets[index].model.family for index in bits(open_to_it)}
    regions = {policy.fleet.targets[index].backend.region for index in bits(open_to_it)}
    crossing = len(everywhere) > 1
    if len(everywhere) == 1:
        what = f"all targets it may use are of one family, {min(everywhere)}: no fallback leaves it"
        yield finding("family-locked", policy.name, "rules", what, "a target of another family")
    for i, rule in enumerate(policy.rules):
        targets = [policy.fleet.targets[index] for index in bits(rule.mask & ~policy.capabilities.closed)]
        families = {target.model.family for target in targets}
        backends = {target.backend.name for target in targets}
        places = {target.backend.region for target in targets}
        path = f"rules[{i}].use"
        if len(families) == 1 and len(everywhere) > 1:
            crossing = False
            what = f"its fallbacks never leave the family {families.pop()}"
            yield finding("family-locked", rule.id, path, what, 'end with {family: "*"}')
        elif study.everywhere is not None:
            continue  # backends and regions are an installation's to say
        elif len(backends) == 1:
            yield finding("backend-locked", rule.id, path, f"all its targets stand on one backend, {backends.pop()}")
        elif len(places) == 1 and len(regions) > 1 and None not in places:
            yield finding("region-locked", rule.id, path, f"all its targets stand in one region, {places.pop()}")
    if crossing and policy.rules:
        yield finding("crosses-families", policy.name, "rules", "the fallbacks of every rule cross families")
