"""What another version of a policy does to recorded requests: both decide every record, differences are counted.

Deciding records is `core.replay`'s business, pricing them `core.worth`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class Traffic:
    """Recorded requests under two versions of a policy."""

    records: int = 0
    moved: Counter[tuple[str, str]] = field(default_factory=Counter)


def traffic_lines(traffic: Traffic) -> Iterator[str]:
    """As a part of a comment."""
    yield f"**{traffic.records:,} recorded requests**"
