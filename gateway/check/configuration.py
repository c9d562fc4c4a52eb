"""What only the whole configuration shows: keys that may use nothing, names that hide others, places where nothing is.

A name that means nothing at all was refused when the file was loaded; here are those that mean something and lead
nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gateway.config import ConfigDoc, KeyDoc
from gateway.core.analyse import accepted, tenants
from gateway.core.clauses.findings import Finding, finding
from gateway.core.money import quotes
from gateway.core.policy import Policy
from gateway.core.targets.capabilities import outside
from gateway.core.targets.rank import bits
from gateway.site import Site

NOBODY: Mapping[str, Mapping[str, str]] = {"anonymous": {}}


def facts_of(doc: ConfigDoc) -> Mapping[str, Mapping[str, str]]:
    """The facts of every key; of the one that everybody is where there are no keys."""
    return {key.name: key.tenant for key in doc.keys} or NOBODY


def judge(site: Site, doc: ConfigDoc, now: float) -> Iterator[Finding]:
    """The findings about keys and names, with the reason at those that a policy accepts.

    What a policy refuses may be accepted in that policy, all else in the default one.
    """
    for policy, one in _judged(site, doc, now):
        yield accepted(policy or site.default_policy, one)


def _judged(site: Site, doc: ConfigDoc, now: float) -> Iterator[tuple[Policy | None, Finding]]:
    """Findings, each with the policy that it is about, if it is about one."""
    yield from ((None, one) for one in tenants.unread(facts_of(doc), site.policies.values()))
    for key in doc.keys:
        yield from ((None, one) for one in _places(site, key))
        yield from _allowed(site, key, now)
        yield from ((None, one) for one in _budget(site, key))
    yield from _aliases(site, doc, now)


def _places(site: Site, key: KeyDoc) -> Iterator[Finding]:
    capabilities, everything = site.default_policy.capabilities, site.fleet.mask()
    for name, places in (("region", capabilities.regions), ("residency", capabilities.residencies)):
        asked = key.tenant.get(name)
        if asked is not None and not everything & ~outside(places, asked):
            known = sorted({place for place, _ in places if place is not None})
            what = f"must stay in {name} {asked}, where no target is: all its requests are refused"
            fix = f"one of {', '.join(known)}" if known else "region and processing at the backends"
            yield finding("place-unmet", key.name, f"keys.{key.name}.tenant.{name}", what, fix)


def _allowed(site: Site, key: KeyDoc, now: float) -> Iterator[tuple[Policy, Finding]]:
    """Entries of `allow` that name targets which the policy never allows this key."""
    table = site.routes_of.get(key.policy or site.default_policy.name, site.routes)
    for entry in key.allow:
        route = table.get(entry)
        if route is None or route.pinned is None:
            continue
        policy = site.policies[route.policy]
        if tenants.never(policy, now, route.pinned, key.tenant):
            what = f"may name {entry}, but policy {policy.name} never allows that for this key"
            fix = "another name, or another policy"
            yield policy, finding("allow-refused", key.name, f"keys.{key.name}.allow", what, fix)


def _budget(site: Site, key: KeyDoc) -> Iterator[Finding]:
    quotas = site.quotas
    owners = (quotas.keys.get(key.name), quotas.teams.get(key.tenant.get("team", "")))
    if not any(one.mode == "hard" for owner in owners if owner is not None for one in owner.budgets):
        return
    default = key.policy or site.default_policy.name
    granted = site.grant_of(key.name)
    mask = site.fleet.mask() if granted.everything else granted.mask
    for policy in site.policies.values():
        if granted.covers(policy.name, None, default):
            for rule in policy.rules:
                mask |= rule.mask & ~policy.capabilities.closed
    path, targets = f"keys.{key.name}.budget", [site.fleet.targets[index] for index in bits(mask)]
    free = [target.name for target in targets if target.price is None]
    if free:
        what = f"has a hard budget, but may use targets without a price: {_some(free)}"
        yield finding("budget-unpriced", key.name, path, what, "price: at these targets")
    deaf = [(target, quotes.longest_output(target, 1, "never")[1]) for target in targets if target.price is not None]
    told = [f"{target.name}: {why}" for target, why in deaf if why]
    if told:
        what = f"has a hard budget, but may use targets that heed no max_tokens ({_some(told)})"
        yield finding("budget-unheeded", key.name, path, what, "max_output at these targets, if their provider says it")


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _aliases(site: Site, doc: ConfigDoc, now: float) -> Iterator[tuple[Policy | None, Finding]]:
    plain = _plain(site)
    for name, meaning in doc.models.items():
        route = site.routes.get(name)
        if route is None:
            continue
        path = f"models.{name}"
        hidden = plain.get(name)
        if (
            hidden is not None
            and hidden != route.pinned
            and not _first(site.policies[route.policy], route.pinned, hidden)
        ):
            what = f"leads to {meaning}, and hides the model or target of the same name"
            yield None, finding("alias-shadows", name, path, what, "another name")
        policy = site.policies[route.policy]
        if route.pinned is not None and tenants.never(policy, now, route.pinned, None):
            what = f"leads to {meaning}, which policy {policy.name} never allows"
            yield policy, finding("alias-refused", name, path, what, "allow_closed, or another meaning")


def _first(policy: Policy, pinned: int | None, hidden: int) -> bool:
    """Whether an alias leads to some of what it hides before anything else, whichever rule holds."""
    if pinned is not None:
        return not pinned & ~hidden
    return bool(policy.rules) and all(not rule.rungs[0].mask & ~hidden for rule in policy.rules)


def _plain(site: Site) -> Mapping[str, int]:
    """What the names of models and targets mean by themselves."""
    masks: dict[str, int] = {target.name: 1 << target.index for target in site.fleet.targets}
    for model in {target.model.id: target.model for target in site.fleet.targets}.values():
        served = sum(1 << one.index for one in site.fleet.targets if one.model.id == model.id)
        masks[model.id] = served
        for alias in model.aliases:
            masks.setdefault(alias, served)
    return masks
