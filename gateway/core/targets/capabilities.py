"""What each target of a fleet can do, turned round: for every ability, the mask of targets that lack it.

Built once per policy, so that a decision asks "does any candidate lack this?" with one `&` and computes a signal only
if one does. Whether a request fits a window is the signals' business; here stand only facts that do not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from gateway.core.facts import MODALITIES, residency
from gateway.core.types import Fleet, Target

K = TypeVar("K", bound=Hashable)
N = TypeVar("N", int, float)


@dataclass(frozen=True, slots=True)
class FitGroup:
    """Targets that count tokens alike and differ only in window: `members` go from the smallest to the largest.

    If a request fits one of them, it fits all that follow.
    """

    mask: int
    members: tuple[tuple[Target, int], ...]  # target, mask of the target and all after it


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Masks over a fleet. Pairs of (limit, mask) are ascending: a request above the limit loses the mask."""

    closed: int  # API-only models of families that the policy does not allow
    blind: Mapping[str, int]  # modality -> targets that do not read it
    some_blind: int
    no_tools: int
    no_structured_output: int
    refuses: Mapping[str, int]  # request member -> targets that refuse it
    picky: tuple[tuple[frozenset[str], int], ...]  # the only members that targets take, and which targets
    some_refuse: int
    images: tuple[tuple[int, int], ...]
    some_count_images: int
    outputs: tuple[tuple[int, int], ...]
    some_cap_output: int
    retirements: tuple[tuple[float, int], ...]  # Unix seconds from which the mask is gone
    regions: tuple[tuple[str | None, int], ...]
    residencies: tuple[tuple[str | None, int], ...]
    never_thinks: int  # targets that can promise not to
    thinks: int  # targets that can promise to
    thinks_streamed: int  # of these, the ones that refuse to unless the answer is streamed
    needs_stream: int  # targets that take no request at all unless the answer is streamed: they cannot but think
    fits: tuple[FitGroup, ...]
    rooms: tuple[tuple[int, int], ...]  # tokens of prompt that a target holds before a usual answer
    windows: tuple[tuple[int, int], ...]
    inputs: tuple[tuple[int, int], ...]  # as targets cap the prompt by itself

    @staticmethod
    def of(fleet: Fleet, allow_closed: Iterable[str]) -> Capabilities:
        """Read the masks off a fleet; `allow_closed` lists families whose API-only models may be used."""
        families = frozenset(allow_closed)

        def where(test: Callable[[Target], bool]) -> int:
            return sum(1 << target.index for target in fleet.targets if test(target))

        blind = {name: where(lambda t, name=name: name not in t.modalities) for name in MODALITIES}  # type: ignore[misc]
        refused = sorted({name for target in fleet.targets for name in target.unsupported})
        refuses = {name: where(lambda t, name=name: name in t.unsupported) for name in refused}  # type: ignore[misc]
        picky = tuple((only, mask) for only, mask in _group(fleet, lambda t: t.takes).items() if only is not None)
        images = _limits(fleet, lambda t: t.model.images_max)
        outputs = _limits(fleet, lambda t: t.max_output)
        return Capabilities(
            closed=where(lambda t: t.model.open_weights is False and t.model.family not in families),
            blind=blind,
            some_blind=_union(blind.values()),
            no_tools=where(lambda t: not t.tools),
            no_structured_output=where(lambda t: not t.structured_output),
            refuses=refuses,
            picky=picky,
            some_refuse=_union(refuses.values()) | _union(mask for _, mask in picky),
            images=images,
            some_count_images=_union(mask for _, mask in images),
            outputs=outputs,
            some_cap_output=_union(mask for _, mask in outputs),
            retirements=_limits(fleet, retires_at),
            regions=tuple(_group(fleet, lambda t: t.backend.region).items()),
            residencies=tuple(_group(fleet, residency).items()),
            never_thinks=where(lambda t: t.thinking in ("switchable", "never")),
            thinks=where(lambda t: t.thinking in ("switchable", "always")),
            thinks_streamed=where(lambda t: t.thinking_needs_stream and t.thinking in ("switchable", "always")),
            needs_stream=where(lambda t: t.thinking_needs_stream and t.thinking == "always"),
            fits=_fit_groups(fleet),
            rooms=_limits(fleet, _room),
            windows=_limits(fleet, lambda t: t.window),
            inputs=_limits(fleet, lambda t: t.max_input),
        )


def refused(target: Target, sent: frozenset[str]) -> frozenset[str]:
    """Of the members sent, those that this target does not support."""
    return target.unsupported & sent | (sent - target.takes if target.takes is not None else frozenset())


def retires_at(target: Target) -> float | None:
    """Unix seconds of the start (UTC) of the day a target is withdrawn; from then on it is not a candidate."""
    day = target.retires_on
    return None if day is None else datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


def lies_in(place: str | None, asked: str) -> bool:
    """Whether a region is the one asked for or a part of it; where it is not known, it is not.

    >>> lies_in("eu-central-1", "eu"), lies_in("eu", "eu"), lies_in("europe", "eu"), lies_in(None, "eu")
    (True, True, False, False)
    """
    return place is not None and (place == asked or place.startswith(asked + "-"))


def outside(places: Iterable[tuple[str | None, int]], asked: str) -> int:
    """The targets that do not lie in the region asked for."""
    return _union(mask for place, mask in places if not lies_in(place, asked))


def above(limits: Iterable[tuple[float, int]], amount: float) -> int:
    """The targets whose limit an amount exceeds."""
    lost = 0
    for limit, mask in limits:
        if amount <= limit:
            break
        lost |= mask
    return lost


def least(limits: Iterable[tuple[int, int]], mask: int) -> int | None:
    """The smallest limit that a target of the mask has; None where none of them has any."""
    for limit, held in limits:
        if held & mask:
            return limit
    return None


def retired(retirements: Iterable[tuple[float, int]], now: float) -> int:
    """The targets that are withdrawn at `now`."""
    return _union(mask for moment, mask in retirements if now >= moment)


def _union(masks: Iterable[int]) -> int:
    total = 0
    for mask in masks:
        total |= mask
    return total


def _group(fleet: Fleet, key: Callable[[Target], K]) -> dict[K, int]:
    groups: dict[K, int] = {}
    for target in fleet.targets:
        groups[key(target)] = groups.get(key(target), 0) | 1 << target.index
    return groups


def _limits(fleet: Fleet, limit: Callable[[Target], N | None]) -> tuple[tuple[N, int], ...]:
    return tuple(sorted((value, mask) for value, mask in _group(fleet, limit).items() if value is not None))


def _room(target: Target) -> int:
    room = target.window - target.typical_output_tokens
    return room if target.max_input is None else min(room, target.max_input)


def _fit_groups(fleet: Fleet) -> tuple[FitGroup, ...]:
    """Targets of one model with the same limits but for the window, so that all else about fitting is equal."""
    groups: dict[object, list[Target]] = {}
    for target in fleet.targets:
        key = (target.model.id, target.typical_output_tokens, target.max_output, target.max_input)
        groups.setdefault(key, []).append(target)
    made = []
    for members in groups.values():
        members.sort(key=lambda target: target.window)
        masks = [_union(1 << t.index for t in members[i:]) for i in range(len(members))]
        made.append(FitGroup(masks[0], tuple(zip(members, masks, strict=True))))
    return tuple(made)
