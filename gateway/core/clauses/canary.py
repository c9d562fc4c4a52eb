"""Weights of one rung: how much of its traffic each model or target gets, for canaries and for sharing.

Reading the weights of a rung and drawing an order by them; the weights that targets carry themselves are drawn by
`rank`. What may be a candidate is settled before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from gateway.core.clauses.matchers import Problems
from gateway.core.clauses.selectors import Names
from gateway.core.types import Fleet

#: (targets, weight): what a name of the rung's `weights` stands for in this fleet, in the order they were written.
Shares = tuple[tuple[int, float], ...]


def read_weights(raw: object, fleet: Fleet, names: Names, path: str, problems: Problems) -> Shares | None:
    """The `weights` of a rung; None after a noted problem.

    A target's own name goes before that of its model, so that one target can be told apart from its model's others. A
    name that means nothing in this fleet gets no share: targets of one installation are not known in another, such as
    the fleet that tests run on. `analyse` warns of it.
    """
    valid = "a map of models or targets to numbers, such as {llama-4-scout: 95, scout-canary: 5}"
    if not isinstance(raw, Mapping) or not raw:
        problems.add(path, "says no weights", valid)
        return None
    wrong = len(problems.found)
    by_name = {target.name: 1 << target.index for target in fleet.targets}
    single = 0
    for name in raw:
        single |= by_name.get(str(name), 0)
    by_model: dict[str, int] = {}
    for target in fleet.targets:
        by_model[target.model.id] = by_model.get(target.model.id, 0) | 1 << target.index & ~single
    shares: list[tuple[int, float]] = []
    models: dict[str, str] = {}
    for name, weight in raw.items():
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not 0 <= weight < math.inf:
            problems.add(f"{path}.{name}", f"{weight!r:.40} is no weight", "a number from 0, such as 5")
            continue
        model = names.models.get(str(name))
        if str(name) in by_name:
            shares.append((by_name[str(name)], float(weight)))
        elif model is not None:
            if models.setdefault(model, str(name)) != name:
                problems.add(f"{path}.{name}", f"is the model that {models[model]} is", "one name for each model")
            shares.append((by_model.get(model, 0), float(weight)))
    if len(problems.found) > wrong:
        return None
    if not any(raw.values()):
        problems.add(path, "nothing has a weight", "at least one number above 0")
        return None
    # Where nobody of them is served, the rung still is drawn by weights: of nobody.
    return tuple((mask, weight) for mask, weight in shares if mask) or ((0, 0.0),)


def drawn(mask: int, shares: Shares, listed: Sequence[int], fleet: Fleet, draw: float) -> list[int]:
    """The targets of a mask, each place drawn by share from one number in [0, 1); what has no share comes last. HOT.

    A name's share is divided among those of its targets that are left, by their own weights. The names stand in the
    order they were written: whoever is below 0.05 with the first at 5 % still is below 0.5 when it has 50 %, so a
    rollout takes conversations over and never gives one back.
    """
    pool: list[tuple[int, float]] = []
    for members, weight in shares:
        here = [index for index in listed if (members & mask) >> index & 1]
        total = sum(fleet.targets[index].weight for index in here)
        if weight > 0 and total > 0:
            pool += [(index, weight * fleet.targets[index].weight / total) for index in here]
    picked: list[int] = []
    pool = [entry for entry in pool if entry[1] > 0]
    while pool:
        point = draw * sum(weight for _, weight in pool)
        place = 0
        while place < len(pool) - 1 and point >= pool[place][1]:
            point -= pool[place][1]
            place += 1
        index, weight = pool.pop(place)
        picked.append(index)
        draw = min(point / weight, math.nextafter(1.0, 0.0))
    return picked + [index for index in listed if mask >> index & 1 and index not in picked]


def idle(shares: Shares) -> int:
    """The targets that a name with weight 0 stands for: taken out of the traffic, kept as fallbacks."""
    mask = 0
    for members, weight in shares:
        if weight == 0:
            mask |= members
    return mask
