"""The kinds of servers there are, a row of data for each: what differs between them and OpenAI.

A new OpenAI-compatible server is a new row, here or under `dialects:` in pointsman.yaml. Only data stands here; what is
done with it, in `dialects` and `thinking`. Where a row is known from documentation only, tests/wire/README.md says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from gateway.core.thinking import Spelling
from gateway.core.types import Outcome

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Dialect:
    """One kind of server."""

    name: str
    thinking: Spelling
    path: str = "/chat/completions"  # behind the endpoint's own path
    drops: frozenset[str] = frozenset()  # members it refuses, or takes for something else, and that an answer can miss
    refuses: frozenset[str] = frozenset()  # members it refuses or ignores: a request that needs one goes elsewhere
    members: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)  # put into every body, over the client's
    limit: str | None = None  # the one name it knows for the output limit; None: both of OpenAI's
    codes: Mapping[str, Outcome] = field(default_factory=lambda: _NOTHING)  # its own error codes, see `refusals.CODES`
    auth: tuple[str, str] = ("Authorization", "Bearer ")  # header field that takes the key, and what stands before it
    headers: Mapping[str, str] = field(default_factory=lambda: _NOTHING)  # sent with every request
    structured: bool = False  # whatever the model, it holds an answer to a JSON schema
    reasoning: Literal["reasoning", "reasoning_content"] | None = None  # in answers; both are read, whatever it says

    def __repr__(self) -> str:
        return f"Dialect({self.name!r})"


#: Hints to the gateway that only OpenAI itself defines; others ignore them at best.
_OPENAI_ONLY = frozenset({"metadata", "service_tier", "store"})

_ROWS = (
    # An effort of `none` exists since GPT-5.1; what else listens behind such an address is not known.
    Dialect("openai", thinking=Spelling(effort="reasoning_effort", sure=False)),
    Dialect(
        "vllm",
        drops=_OPENAI_ONLY,
        structured=True,
        reasoning="reasoning",
        thinking=Spelling(
            switch="chat_template_kwargs.enable_thinking",
            budget="thinking_token_budget",
            effort="reasoning_effort",
        ),
    ),
    Dialect(
        "llama.cpp",
        drops=_OPENAI_ONLY,
        structured=True,
        reasoning="reasoning_content",
        thinking=Spelling(switch="chat_template_kwargs.enable_thinking", budget="thinking_budget_tokens"),
        codes=MappingProxyType({"unavailable_error": Outcome.OVERLOADED}),  # it still loads its model
    ),
    Dialect(
        "dashscope",
        drops=_OPENAI_ONLY,
        limit="max_tokens",
        reasoning="reasoning_content",
        thinking=Spelling(switch="enable_thinking", budget="thinking_budget"),
        codes=MappingProxyType(
            {
                "Arrearage": Outcome.RATE_LIMITED,  # a 400: the account is out of money
                "AllocationQuota.FreeTierOnly": Outcome.RATE_LIMITED,  # a 403: the free quota is used up
                "Throttling": Outcome.RATE_LIMITED,
                "Throttling.RateQuota": Outcome.RATE_LIMITED,
                "Throttling.AllocationQuota": Outcome.RATE_LIMITED,
                "Model.AccessDenied": Outcome.MODEL_GONE,  # a 403: this key may not use this model
                "ModelNotFound": Outcome.MODEL_GONE,
            }
        ),
    ),
)

DIALECTS: Mapping[str, Dialect] = MappingProxyType({row.name: row for row in _ROWS})
