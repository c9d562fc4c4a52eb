"""Values of request members that ask for nothing: `n: 1`, `logprobs: false`. SDKs write such defaults out.

A target that refuses a member is passed over only for a request that means something by it; for all others the member
is left out of what it is sent. Which members a target refuses is its own business (`Target.unsupported`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

NEUTRAL: Mapping[str, Any] = MappingProxyType(
    {
        "frequency_penalty": 0,
        "logit_bias": {},
        "logprobs": False,
        "n": 1,
        "parallel_tool_calls": True,
        "presence_penalty": 0,
        "tool_choice": "auto",
        "top_logprobs": 0,
    }
)


def asks_nothing(name: str, value: Any) -> bool:
    """Whether a member with this value might as well not be there; null never asks for anything.

    >>> asks_nothing("n", 1), asks_nothing("n", 2), asks_nothing("seed", None), asks_nothing("seed", 0)
    (True, False, True, False)
    """
    return value is None or (name in NEUTRAL and value == NEUTRAL[name])
