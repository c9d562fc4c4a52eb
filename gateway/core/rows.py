"""The kinds of servers there are, a row of data for each: what differs between them and OpenAI.

A new OpenAI-compatible server is a new row, here or under `dialects:` in pointsman.yaml. Only data stands here; what is
done with it, in `dialects` and `thinking`. Where a row is known from documentation only, tests/wire/README.md says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from gateway.core.answers import Answer, parse_answer, parse_tagged
from gateway.core.thinking import Spelling
from gateway.core.types import Outcome

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Dialect:
    """One kind of server."""

    name: str
    thinking: Spelling
    path: str = "/chat/completions"  # behind the endpoint's own path
    paths: Mapping[str, str] = field(default_factory=lambda: _NOTHING)  # the same where an endpoint's path ends so
    drops: frozenset[str] = frozenset()  # members it refuses, or takes for something else, and that an answer can miss
    refuses: frozenset[str] = frozenset()  # members it refuses or ignores: a request that needs one goes elsewhere
    members: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)  # put into every body, over the client's
    limit: str | None = None  # the one name it knows for the output limit; None: both of OpenAI's
    codes: Mapping[str, Outcome] = field(default_factory=lambda: _NOTHING)  # its own error codes, see `refusals.CODES`
    auth: tuple[str, str] = ("Authorization", "Bearer ")  # header field that takes the key, and what stands before it
    headers: Mapping[str, str] = field(default_factory=lambda: _NOTHING)  # sent with every request
    structured: bool = False  # whatever the model, it holds an answer to a JSON schema
    parse: Callable[[bytes], Answer | None] = parse_answer  # reads a complete answer
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
    # What the open models that the three clouds serve do with any spelling of thinking is not established.
    Dialect(
        "azure",
        # Its older addresses name the deployment in the path.
        paths=MappingProxyType({"/openai": "/deployments/{model}/chat/completions"}),
        auth=("api-key", ""),
        drops=_OPENAI_ONLY,
        thinking=Spelling(effort="reasoning_effort", sure=False),
        codes=MappingProxyType(
            {
                "404": Outcome.MODEL_GONE,  # "Resource not found": a deployment whose model was retired
                "DeploymentNotFound": Outcome.MODEL_GONE,
                "unknown_model": Outcome.MODEL_GONE,
                "OperationNotSupported": Outcome.MODEL_GONE,  # a 400: this model has no chat, or no longer
                "429": Outcome.RATE_LIMITED,
                "NoCapacity": Outcome.OVERLOADED,
            }
        ),
    ),
    Dialect(
        "vertex",
        drops=_OPENAI_ONLY,
        limit="max_tokens",
        thinking=Spelling(effort="reasoning_effort", sure=False),
        codes=MappingProxyType(
            {
                "NOT_FOUND": Outcome.MODEL_GONE,
                "FAILED_PRECONDITION": Outcome.MODEL_GONE,  # a 400: this project may not use this model
                "RESOURCE_EXHAUSTED": Outcome.RATE_LIMITED,
                "UNAVAILABLE": Outcome.OVERLOADED,
            }
        ),
    ),
    Dialect(
        "bedrock",
        drops=_OPENAI_ONLY,
        parse=parse_tagged,
        thinking=Spelling(effort="reasoning_effort", sure=False),
    ),
)

DIALECTS: Mapping[str, Dialect] = MappingProxyType({row.name: row for row in _ROWS})
