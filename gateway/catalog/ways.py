"""Every way in which a model of the catalogue could be reached: by whoever serves open weights, or as it is offered.

What a target of an installation could be is judged by `core.analyse.ways`; here the catalogue's facts are read so that
each way is the best that it can be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from gateway.catalog.catalogue import Catalogue, Offer
from gateway.core.analyse.ways import Way
from gateway.core.types import Backend, Model, Price, PriceTier, Target

#: Tokens of a window that nobody states: more than any model has.
_UNTOLD = 100_000_000
_FREE = Price((PriceTier(0, 0, 0),), "what an installation says")  # it may be any, so no limit of cost excludes it


def ways_of(known: Catalogue) -> tuple[Way, ...]:
    """The ways to reach every model; a model that is API only has none where nobody offers it."""
    found: list[Way] = []
    for model in known.models.values():
        offers = [offer for (name, _), listed in known.offers.items() if name == model.id for offer in listed]
        found += _rented(model, offers) if model.open_weights is False else [_served(model, offers)]
    return tuple(found)


def _served(model: Model, offers: Sequence[Offer]) -> Way:
    stated = (model.window, model.window_extended, *(offer.window for offer in offers))
    widest = max((window for window in stated if window is not None), default=_UNTOLD)
    return Way(_target(model, Offer(model.id, "", model.id, window=widest)))


def _rented(model: Model, offers: Sequence[Offer]) -> Iterator[Way]:
    """The terms on which a model is rented out, each once, with those who offer them."""
    providers: dict[Offer, set[str]] = {}
    for offer in offers:
        terms = replace(
            offer, provider="", upstream_id=model.id, regions=(), processing=None, price=None, currency=None
        )
        providers.setdefault(terms, set()).add(offer.provider)
    yield from (Way(_target(model, terms), frozenset(names)) for terms, names in providers.items())


def _target(model: Model, terms: Offer) -> Target:
    thinking = terms.thinking or model.thinking
    return Target(
        name=model.id,
        index=0,
        model=model,
        backend=Backend("", "openai", ()),
        upstream_id=model.id,
        window=terms.window or model.window or _UNTOLD,
        max_input=terms.max_input,
        max_output=terms.max_output,
        price=_FREE,
        modalities=(model.modalities if terms.modalities is None else terms.modalities) | {"other"},
        tools=_may(terms.tools, model.tools),
        structured_output=_may(terms.structured_output, model.structured_output),
        thinking="switchable" if thinking == "unknown" else thinking,
        thinking_needs_stream=bool(terms.thinking_needs_stream),
        retires_on=terms.retires_on,
        typical_output_tokens=1,  # an installation may expect less than is usual
    )


def _may(offered: bool | None, known: bool | None) -> bool:
    """Whether a target could do something: unless it is known that it cannot."""
    return (known if offered is None else offered) is not False
