"""What the numbers of a decision record can be: types that a line is checked against as it is read.

A file may hold any number, and sums over its lines must come out. Here belong bounds that no true record exceeds, and
nothing about what the numbers mean.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

#: Beyond it a signal is not recorded.
LARGEST_SIGNAL = 10**12
Whole = Annotated[int, Meta(ge=-LARGEST_SIGNAL, le=LARGEST_SIGNAL)]
Number = Annotated[float, Meta(ge=-LARGEST_SIGNAL, le=LARGEST_SIGNAL)]
#: Unix seconds up to the year 9999, as calendars have them.
Moment = Annotated[float, Meta(ge=0, lt=253_402_300_800)]
Seconds = Annotated[float, Meta(ge=0, le=10**9)]
Share = Annotated[float, Meta(ge=0, le=1)]
#: A share that may have been rounded.
Part = Annotated[float, Meta(ge=-1, le=2)]
Count = Annotated[int, Meta(ge=0, le=1 << 60)]
NanoUsd = Annotated[int, Meta(ge=0, le=10**18)]
#: As `str(Thinking)` has it: a budget that is longer is none.
ThinkingText = Annotated[str, Meta(max_length=32)]
