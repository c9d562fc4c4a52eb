"""The kinds of servers there are, a row of data for each: what differs between them and OpenAI.

A new OpenAI-compatible server is a new row, here or under `dialects:` in pointsman.yaml. Only data stands here; what is
done with it, in `dialects` and `thinking`. Where a row is known from documentation only, tests/wire/README.md says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from gateway.core.answer.sse import Relay
from gateway.core.answer.whole import Answer, parse_answer, parse_tagged
from gateway.core.request.thinking import Spelling
from gateway.core.request.wire import Envelope
from gateway.core.servers import ollama, ollamaanswers
from gateway.core.servers.respell import Respelling
from gateway.core.types import LimitCounts, Outcome, Thinking

if TYPE_CHECKING:
    from gateway.core.servers.dialects import Plan

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
    # Members by which a client would choose what it was not authorised for: another model, another's session, its own
    # code. They are left out whatever a dialect like this one says.
    steers: frozenset[str] = frozenset()
    strict: bool = False  # it refuses what it does not know: other servers' spellings of thinking are left out
    members: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)  # put into every body, over the client's
    limit: str | None = None  # the one name it knows for the output limit; None: both of OpenAI's
    limit_counts: LimitCounts = "all"
    codes: Mapping[str, Outcome] = field(default_factory=lambda: _NOTHING)  # its own error codes, see `refusals.CODES`
    words: tuple[tuple[int, re.Pattern[str], Outcome], ...] = ()  # status and message, where it has no code for it
    auth: tuple[str, str] = ("Authorization", "Bearer ")  # header field that takes the key, and what stands before it
    headers: Mapping[str, str] = field(default_factory=lambda: _NOTHING)  # sent with every request
    structured: bool = False  # whatever the model, it holds an answer to a JSON schema
    write: Callable[[Envelope, Plan, Thinking], bytes] | None = None  # makes the body, where that is not OpenAI's
    parse: Callable[[bytes], Answer | None] = parse_answer  # reads a complete answer
    relay: type[Relay] = Relay  # reads a stream
    late_head: bool = False  # a stream's head comes with its first event, perhaps after a model has been loaded
    respelling: type[Respelling] = Respelling  # the same, for keys that ask for a spelling of reasoning
    takes: frozenset[str] | None = None  # all members that are ever sent; None: also those that nobody here knows
    history: Literal["reasoning", "reasoning_content"] | None = None  # the one it takes in messages; None: either
    reasoning: Literal["reasoning", "reasoning_content"] | None = None  # in answers; both are read, whatever it says

    def __repr__(self) -> str:
        return f"Dialect({self.name!r})"


#: Hints to the gateway that only OpenAI itself defines; others ignore them at best.
_OPENAI_ONLY = frozenset({"metadata", "service_tier", "store"})

#: What litellm is handed. It reads meanings of its own into any other argument: addresses, callbacks, fallbacks, files.
_LITELLM_TAKES = frozenset(
    {"frequency_penalty", "function_call", "functions", "logit_bias", "logprobs", "max_completion_tokens", "max_tokens"}
    | {"messages", "model", "n", "parallel_tool_calls", "presence_penalty", "reasoning_effort", "response_format"}
    | {"seed", "stop", "stream", "stream_options", "temperature", "thinking", "tool_choice", "tools", "top_k"}
    | {"top_logprobs", "top_p", "user", "verbosity"}
)

#: A client's own code, another client's session, another adapter than was authorised, a worker of its choice.
_SGLANG_STEERS = frozenset(
    {"custom_logit_processor", "custom_params", "disagg_prefill_dp_rank", "lora_path", "rid", "routed_dp_rank"}
    | {"session_id", "session_params"}
)
#: To others than were authorised.
_OPENROUTER_STEERS = frozenset({"models", "preset", "provider", "route"})
#: The same at other gateways: litellm's proxy and Vercel's.
_GATEWAYS_STEERS = frozenset(
    {"content_policy_fallbacks", "context_window_fallbacks", "litellm_credential_name", "providerOptions"}
    | {"router_settings_override", "specific_deployment", "user_config"}
)

_ROWS = (
    # An effort of `none` exists since GPT-5.1. What else listens behind such an address is not known, so nothing goes
    # there by which any server known here would choose anew.
    Dialect(
        "openai",
        steers=_SGLANG_STEERS | _OPENROUTER_STEERS | _GATEWAYS_STEERS,
        thinking=Spelling(effort="reasoning_effort", sure=False),
    ),
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
        steers=frozenset({"id_slot", "lora"}),  # another client's slot, another adapter
        structured=True,
        reasoning="reasoning_content",
        thinking=Spelling(switch="chat_template_kwargs.enable_thinking", budget="thinking_budget_tokens"),
        codes=MappingProxyType({"unavailable_error": Outcome.OVERLOADED}),  # it still loads its model
    ),
    Dialect(
        # Answers to any model name. It says neither what a model's context is nor that it does not hold the prompt by
        # code, see `refusals.WORDS`.
        "sglang",
        drops=_OPENAI_ONLY,
        steers=_SGLANG_STEERS,
        structured=True,
        reasoning="reasoning_content",
        thinking=Spelling(switch="chat_template_kwargs.enable_thinking", effort="reasoning_effort"),
    ),
    Dialect(
        "ollama",
        path="/api/chat",
        write=ollama.write,
        parse=ollamaanswers.parse,
        relay=ollamaanswers.Relay,
        late_head=True,
        respelling=ollamaanswers.Respelt,
        refuses=ollama.REFUSES,
        structured=True,
        reasoning="reasoning_content",
        thinking=Spelling(switch="think"),
    ),
    Dialect(
        "dashscope",
        drops=_OPENAI_ONLY,
        limit="max_tokens",
        limit_counts="answer",
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
        words=(
            (400, re.compile(r"\AThe provided model identifier is invalid\.?\Z"), Outcome.MODEL_GONE),
            # This id needs an inference profile.
            (400, re.compile(r"\AInvocation of model ID \S+ with on-demand throughput isn"), Outcome.MODEL_GONE),
        ),
    ),
    Dialect(
        "openrouter",
        drops=_OPENAI_ONLY,
        steers=_OPENROUTER_STEERS,
        refuses=frozenset({"plugins", "transforms"}),
        # Left to itself it shortens prompts that do not fit, and ignores what a provider cannot do.
        members=MappingProxyType(
            {
                "plugins": [{"id": "context-compression", "enabled": False}],
                "provider": {"require_parameters": True},
            }
        ),
        reasoning="reasoning",
        thinking=Spelling(
            switch="reasoning.enabled", budget="reasoning.max_tokens", effort="reasoning.effort", either=True
        ),
        words=(
            (400, re.compile(r"\A\S+ is not a valid model ID\Z"), Outcome.MODEL_GONE),
            (404, re.compile(r"\ANo endpoints found for "), Outcome.MODEL_GONE),
            (404, re.compile(r"\ANo endpoints (found|available) matching your .*data policy"), Outcome.FORBIDDEN),
        ),
    ),
    Dialect(
        "together",
        drops=_OPENAI_ONLY,
        reasoning="reasoning",
        thinking=Spelling(switch="reasoning.enabled", effort="reasoning_effort"),
        codes=MappingProxyType(
            {
                "model_not_available": Outcome.MODEL_GONE,  # a 400: not, or no longer, without an endpoint of one's own
                "dedicated_endpoint_not_running": Outcome.MODEL_GONE,
            }
        ),
    ),
    Dialect(
        "groq",
        drops=_OPENAI_ONLY,
        refuses=frozenset({"logit_bias", "logprobs", "n", "top_logprobs"}),
        strict=True,
        reasoning="reasoning",
        history="reasoning",
        # Its Qwen models know two words. Unless told to part them, they think aloud inside the content.
        thinking=Spelling(
            effort="reasoning_effort", on="default", beside=MappingProxyType({"reasoning_format": "parsed"})
        ),
        # 400s for what the model did wrong: another may do it right.
        codes=MappingProxyType({"tool_use_failed": Outcome.MISWRITTEN, "json_validate_failed": Outcome.MISWRITTEN}),
    ),
    Dialect(
        "fireworks",
        drops=_OPENAI_ONLY,
        reasoning="reasoning_content",
        # Which words a model knows, `none` among them, differs from model to model.
        thinking=Spelling(effort="reasoning_effort", sure=False),
    ),
    Dialect(
        "deepinfra",
        drops=_OPENAI_ONLY,
        reasoning="reasoning_content",
        thinking=Spelling(switch="reasoning.enabled", effort="reasoning.effort"),
    ),
    Dialect(
        "cerebras",
        drops=_OPENAI_ONLY,
        refuses=frozenset({"frequency_penalty", "logit_bias", "parallel_tool_calls", "presence_penalty"}),
        strict=True,
        reasoning="reasoning",
        history="reasoning",
        # Documented for its GLM models; of its Qwen models only that they think aloud unless told to part it.
        thinking=Spelling(
            effort="reasoning_effort", beside=MappingProxyType({"reasoning_format": "parsed"}), sure=False
        ),
        codes=MappingProxyType({"queue_exceeded": Outcome.OVERLOADED}),
    ),
    Dialect(
        # Passes requests to other providers, each with its own ways: what switches thinking there is not known.
        "huggingface",
        drops=_OPENAI_ONLY,
        reasoning=None,
        thinking=Spelling(sure=False),
        codes=MappingProxyType({"model_not_supported": Outcome.MODEL_GONE}),
        words=((400, re.compile(r"\AModel not supported by provider \S+\Z"), Outcome.MODEL_GONE),),
    ),
    Dialect(
        "litellm",  # our own sidecar, before every provider that has no row here
        drops=_OPENAI_ONLY,
        takes=_LITELLM_TAKES,
        # A 400 for what a provider, or litellm, cannot be told: another target may.
        codes=MappingProxyType({"unsupported_parameter": Outcome.INEXPRESSIBLE}),
        reasoning="reasoning_content",
        thinking=Spelling(effort="reasoning_effort", sure=False),
    ),
)

DIALECTS: Mapping[str, Dialect] = MappingProxyType({row.name: row for row in _ROWS})
