"""From providers' keys in the environment to targets: what the default policy would want of all that they rent out.

The choice is the policy's own. All current offers are laid before it as one large fleet, and of every rule the first
few targets are kept, in the order of its rungs and by price inside a rung, those that it avoids after all others.
Nothing is asked of any server.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, timedelta
from itertools import islice

from gateway.catalog.catalogue import Catalogue, Offer
from gateway.core.decide import decide
from gateway.core.policy import Policy, Rung
from gateway.core.reading.signals import Signals
from gateway.core.targets.capabilities import Capabilities
from gateway.core.types import NANO_PER_USD, Fleet, Snapshot, Target
from gateway.init.draft import Draft, lay
from gateway.init.providers import Hosted, hosted

#: Targets kept of every rule: the one it wants, and one to fall back to.
KEPT = 2
#: What is withdrawn so soon is not worth beginning with.
LASTS = timedelta(days=30)


def found(catalogue: Catalogue, environ: Mapping[str, str]) -> list[Hosted]:
    """The providers whose key is in the environment."""
    return [one for one in hosted(catalogue).values() if environ.get(one.key_env, "").strip()]


def add(draft: Draft, providers: Iterable[Hosted], catalogue: Catalogue, environ: Mapping[str, str], day: date) -> int:
    """Add the backends and targets of these providers to a draft; returns how many targets were added."""
    whole = Draft()
    for provider in providers:
        offers = _current(catalogue, provider, day)
        if offers:
            whole.backends[provider.called] = backend(provider, environ)
        for model, offer in offers.items():
            entry = {"model": model, "backend": provider.called}
            if catalogue.offer(model, provider.name, catalogue.regions.get(provider.name)) != offer:
                entry["upstream_id"] = offer.upstream_id
            if offer.in_usd:
                entry["price"] = "catalog"
            whole.targets[target_name(model, provider.called)] = entry
    if not whole.targets:
        return 0
    site = lay(whole, environ, day).site
    kept = chosen(site.default_policy, site.fleet)
    for target in site.fleet.targets:
        if kept >> target.index & 1:
            name = target.backend.name
            draft.backends.setdefault(name, whole.backends[name])
            draft.targets[target.name] = whole.targets[target.name]
    return kept.bit_count()


def backend(provider: Hosted, environ: Mapping[str, str]) -> dict[str, object]:
    """A provider's entry under `backends:`."""
    url = environ.get(provider.base_env, "").strip() if provider.base_env else ""
    made: dict[str, object] = {"dialect": provider.dialect, "base_url": url or provider.base_url}
    if url:
        made["provider"] = provider.name
    return {**made, "key": {"env": provider.key_env}}


def target_name(model: str, backend: str) -> str:
    """A name for a target that nothing else can have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{model}-{backend}").strip("-._")[:64]


def _current(catalogue: Catalogue, provider: Hosted, day: date) -> dict[str, Offer]:
    """The offer of each model that says its window and lasts."""
    return {
        model: next(offer for offer in offers if offer.window is not None)
        for model, offers in _lasting(catalogue, provider, day)
        if any(offer.window is not None for offer in offers)
    }


def windowless(catalogue: Catalogue, provider: Hosted, day: date) -> list[str]:
    """The models that this provider goes on renting out, and of which no offer says its window: no target is made."""
    return [
        model
        for model, offers in _lasting(catalogue, provider, day)
        if offers and all(offer.window is None for offer in offers)
    ]


def _lasting(catalogue: Catalogue, provider: Hosted, day: date) -> Iterator[tuple[str, list[Offer]]]:
    """Of each model the offers to anybody that last, the one that its name alone means before the others."""
    region = catalogue.regions.get(provider.name)
    for (model, name), offers in catalogue.offers.items():
        if name != provider.name:
            continue
        first = catalogue.offer(model, name, region)
        yield (
            model,
            [
                offer
                for offer in (first, *offers)
                if offer is not None
                and (offer == first or not (offer.regions or offer.processing))
                and (offer.retires_on is None or offer.retires_on - day > LASTS)
            ],
        )


def chosen(policy: Policy, fleet: Fleet) -> int:
    """The mask of targets worth having for a policy."""
    able = Capabilities.of(fleet, policy.doc.allow_closed)
    usable = fleet.mask() & ~able.closed
    promising = able.never_thinks & usable
    if any(entry.thinking.mode == "never" for entry in policy.thinking):
        usable = promising or usable  # one that cannot promise not to think would be passed over by most requests
    last = avoided(policy) & usable
    kept = 0
    for rule in policy.rules:
        wanted = dict.fromkeys(
            target.index
            for among in (usable & ~last, last)
            for rung in rule.rungs
            for target in _by_price(rung, fleet)
            if among >> target.index & 1
        )
        for index in islice(wanted, KEPT):
            kept |= 1 << index
    return kept


def avoided(policy: Policy) -> int:
    """The mask of targets that the policy puts behind all others, whatever is asked."""
    mask = 0
    for constraint in policy.avoids:
        if constraint.when is None and constraint.select.resolve is None:
            mask |= constraint.select.possible
    return mask


def _by_price(rung: Rung, fleet: Fleet) -> list[Target]:
    def cost(target: Target) -> int:
        if target.price is None:
            return 1_000_000 * NANO_PER_USD  # behind all that have one
        return target.price.tiers[0].input + target.price.tiers[0].output

    return sorted((fleet.targets[index] for index in rung.listed), key=cost)


def refusal(policy: Policy, fleet: Fleet, now: float) -> str | None:
    """Why the policy would refuse a plain request on this fleet; None where it serves it."""
    signals = Signals.given({"tokens": {"": [20, 20, True, ""]}, "language": None})
    decision = decide(policy, signals, Snapshot(now, 0.5, fleet.mask()))
    return None if decision.refusal is None else f"{decision.refusal[1]} ({decision.because})"
