"""What is sent to each kind of server, and what is read out of its refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from gateway.core.answer.sse import Relay
from gateway.core.request import wire
from gateway.core.request.thinking import Spelling
from gateway.core.servers.dialects import (
    DIALECTS,
    HOST_MEMBERS,
    Plan,
    classify,
    classify_in_band,
    prepare,
    request_body,
    takes,
)
from gateway.core.types import Backend, Endpoint, Model, Outcome, Secret, Target, Thinking, ThinkingSupport

MESSAGES = [{"role": "user", "content": "hi"}]
CLIENTS = Thinking("client")


def plan(dialect: str = "vllm", thinking: ThinkingSupport = "switchable") -> Plan:
    endpoint = Endpoint("http://a:1/v1", "http", "a", 1, "/v1")
    model = Model("qwen3.5-35b-a3b", "qwen")
    backend = Backend("b", dialect, (endpoint,))
    return prepare(Target("t", 0, model, backend, "Qwen/Qwen3.5-35B-A3B", 262_144, thinking=thinking))


def sent(plan: Plan, thinking: Thinking = CLIENTS, /, **members: object) -> dict[str, Any]:
    body = json.dumps({"model": "auto", "messages": MESSAGES, **members}).encode()
    made: dict[str, Any] = json.loads(request_body(wire.parse(body), plan, thinking))
    assert made.pop("messages") == MESSAGES
    return made


#: Those whose bodies are the client's with a few members made different.
USUAL = [name for name, row in DIALECTS.items() if row.write is None]
NEVER, ALWAYS, BUDGET = Thinking("never"), Thinking("always"), Thinking("budget", budget=4096)
MODEL = {"model": "Qwen/Qwen3.5-35B-A3B"}


def base(plan: Plan) -> dict[str, Any]:
    """What every body for a target holds."""
    row = plan.dialect
    return {**MODEL, **row.members, **(row.thinking.beside if plan.switchable else {})}


def test_only_the_model_is_replaced_and_unknown_members_pass() -> None:
    assert sent(plan(), temperature=0.5, top_k=20, seed=None) == MODEL | {"temperature": 0.5, "top_k": 20, "seed": None}


def test_requests_go_behind_the_endpoint_s_path_with_a_bearer_key() -> None:
    assert plan().path == "/chat/completions"
    assert plan().headers("sk-1") == {"Authorization": "Bearer sk-1"}
    assert plan().headers(None) == {}
    assert "sk-1" not in repr(plan())


@pytest.mark.parametrize("dialect", USUAL)
def test_usage_is_always_asked_of_streams_beside_what_the_client_asked(dialect: str) -> None:
    p = plan(dialect)
    asked = {"stream": True, "stream_options": {"include_usage": True}}
    assert sent(p, stream=True) == base(p) | asked
    assert sent(p, stream=True, stream_options=None) == base(p) | asked
    assert sent(p, **asked) == base(p) | asked
    assert sent(p, stream=True, stream_options={"include_usage": False, "x": 1})["stream_options"] == {
        "include_usage": True,
        "x": 1,
    }
    assert sent(p, stream=False) == base(p) | {"stream": False}


def test_litellm_is_sent_what_is_on_its_list_and_nothing_else() -> None:
    for thinking in ("switchable", "unknown"):
        p = plan("litellm", thinking)  # type: ignore[arg-type]
        for name in ("api_base", "callbacks", "guided_choice", "mock_response", "timeout"):
            assert sent(p, metadata={"a": "b"}, store=False, **{name: "x"}) == MODEL
        kept = {"temperature": 0.5, "tools": [], "top_k": 3, "seed": None}
        assert sent(p, **kept) == MODEL | kept


def test_hints_and_addresses_keep_no_request_from_litellm_but_other_members_do() -> None:
    row = DIALECTS["litellm"]
    for thinking in ("switchable", "unknown"):
        listed = takes(row, thinking)  # type: ignore[arg-type]
        assert listed is not None
        assert {"messages", "metadata", "service_tier", "store", "api_base", "fallbacks"} <= listed
        assert not {"guided_choice", "logit_processors", "mock_response", "timeout", "caching"} & listed
        assert ("enable_thinking" in listed) == (thinking == "switchable")  # translated there, and lost elsewhere
    assert takes(DIALECTS["vllm"], "switchable") is None


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"type": "enabled", "budget_tokens": 1000}, {"reasoning_effort": "low"}),
        ({"type": "enabled"}, {"reasoning_effort": "medium"}),
        ({"type": "disabled"}, {"reasoning_effort": "none"}),
        ({"type": "poem"}, {}),
    ],
)
def test_anthropic_s_spelling_of_thinking_is_understood(wish: dict[str, object], said: dict[str, object]) -> None:
    assert sent(plan("litellm"), thinking=wish) == MODEL | said
    assert sent(plan("litellm"), NEVER, thinking=wish) == MODEL | {"reasoning_effort": "none"}
    assert sent(plan("litellm", "unknown"), thinking=wish) == MODEL | {"thinking": wish}


KWARGS = "chat_template_kwargs"
BODIES: list[tuple[str, Thinking, dict[str, object]]] = [
    ("vllm", NEVER, {KWARGS: {"enable_thinking": False}}),
    ("vllm", ALWAYS, {KWARGS: {"enable_thinking": True}}),
    ("vllm", BUDGET, {KWARGS: {"enable_thinking": True}, "thinking_token_budget": 4096}),
    ("llama.cpp", NEVER, {KWARGS: {"enable_thinking": False}}),
    ("llama.cpp", ALWAYS, {KWARGS: {"enable_thinking": True}}),
    ("llama.cpp", BUDGET, {KWARGS: {"enable_thinking": True}, "thinking_budget_tokens": 4096}),
    ("dashscope", NEVER, {"enable_thinking": False}),
    ("dashscope", ALWAYS, {"enable_thinking": True}),
    ("dashscope", BUDGET, {"enable_thinking": True, "thinking_budget": 4096}),
    ("openai", NEVER, {"reasoning_effort": "none"}),
    ("openai", ALWAYS, {"reasoning_effort": "medium"}),
    ("openai", BUDGET, {"reasoning_effort": "medium"}),
    ("sglang", NEVER, {KWARGS: {"enable_thinking": False}}),
    ("sglang", BUDGET, {KWARGS: {"enable_thinking": True}}),
    ("openrouter", NEVER, {"reasoning": {"enabled": False}}),
    ("openrouter", ALWAYS, {"reasoning": {"enabled": True}}),
    ("openrouter", BUDGET, {"reasoning": {"enabled": True, "max_tokens": 4096}}),
    ("together", NEVER, {"reasoning": {"enabled": False}}),
    ("together", BUDGET, {"reasoning": {"enabled": True}}),
    ("groq", NEVER, {"reasoning_effort": "none"}),
    ("groq", ALWAYS, {"reasoning_effort": "default"}),
    ("groq", BUDGET, {"reasoning_effort": "default"}),
    ("fireworks", NEVER, {"reasoning_effort": "none"}),
    ("fireworks", BUDGET, {"reasoning_effort": "medium"}),
    ("deepinfra", NEVER, {"reasoning": {"enabled": False}}),
    ("deepinfra", ALWAYS, {"reasoning": {"enabled": True}}),
    ("cerebras", NEVER, {"reasoning_effort": "none"}),
    ("cerebras", ALWAYS, {"reasoning_effort": "medium"}),
    ("huggingface", NEVER, {}),
    ("litellm", NEVER, {"reasoning_effort": "none"}),
    ("litellm", ALWAYS, {"reasoning_effort": "medium"}),
]


@pytest.mark.parametrize(("dialect", "thinking", "fields"), BODIES)
def test_thinking_is_said_explicitly_both_ways(dialect: str, thinking: Thinking, fields: dict[str, object]) -> None:
    p = plan(dialect)
    assert sent(p, thinking) == base(p) | fields


@pytest.mark.parametrize(("dialect", "thinking", "fields"), BODIES)
def test_the_policy_s_mode_replaces_every_spelling_of_the_client_s_wish(
    dialect: str, thinking: Thinking, fields: dict[str, object]
) -> None:
    against = thinking.mode == "never"
    p = plan(dialect)
    if not p.switchable:
        return
    made = sent(
        p,
        thinking,
        reasoning_effort="none" if not against else "high",
        enable_thinking=against,
        thinking_budget=77,
        chat_template_kwargs={"enable_thinking": against, "thinking_budget": 77},
        reasoning={"enabled": against},
    )
    assert made == base(p) | fields


@pytest.mark.parametrize("support", ["always", "never", "unknown"])
@pytest.mark.parametrize("dialect", USUAL)
def test_a_target_that_cannot_be_switched_is_told_nothing(dialect: str, support: ThinkingSupport) -> None:
    p = plan(dialect, support)
    for thinking in (NEVER, ALWAYS, BUDGET):
        assert sent(p, thinking) == base(p)
    wish = {"reasoning_effort": "low", "enable_thinking": True}
    own = p.dialect.thinking.heads if p.dialect.strict else p.dialect.takes
    wish = {name: value for name, value in wish.items() if name in (own or wish)}
    assert sent(p, NEVER, **wish) == base(p) | wish


def test_other_template_arguments_of_the_client_survive() -> None:
    made = sent(plan(), NEVER, chat_template_kwargs={"preserve_thinking": True, "enable_thinking": True})
    assert made[KWARGS] == {"preserve_thinking": True, "enable_thinking": False}
    made = sent(plan("dashscope"), NEVER, chat_template_kwargs={"preserve_thinking": True, "enable_thinking": True})
    assert made == MODEL | {"enable_thinking": False, KWARGS: {"preserve_thinking": True}}


CLIENT: list[tuple[str, dict[str, object], dict[str, object]]] = [
    ("vllm", {}, {}),
    ("vllm", {"reasoning_effort": "none"}, {KWARGS: {"enable_thinking": False}}),
    ("vllm", {"reasoning_effort": "minimal"}, {KWARGS: {"enable_thinking": False}}),
    ("vllm", {"reasoning_effort": "high"}, {KWARGS: {"enable_thinking": True}, "reasoning_effort": "high"}),
    ("llama.cpp", {"reasoning_effort": "low"}, {KWARGS: {"enable_thinking": True}}),
    ("dashscope", {"reasoning_effort": "none"}, {"enable_thinking": False}),
    ("dashscope", {"reasoning_effort": "medium"}, {"enable_thinking": True}),
    ("openai", {"reasoning_effort": "minimal"}, {"reasoning_effort": "minimal"}),
    ("openai", {"reasoning_effort": "xhigh"}, {"reasoning_effort": "xhigh"}),
    ("openai", {"enable_thinking": False}, {"reasoning_effort": "none"}),
    # A wish in another server's spelling reaches this one, so a failover does not lose it.
    ("vllm", {"enable_thinking": False}, {KWARGS: {"enable_thinking": False}}),
    ("dashscope", {KWARGS: {"enable_thinking": True}}, {"enable_thinking": True}),
    ("dashscope", {"reasoning": {"max_tokens": 100}}, {"enable_thinking": True, "thinking_budget": 100}),
    ("vllm", {KWARGS: {"thinking": False}}, {KWARGS: {"enable_thinking": False}}),
    ("vllm", {"thinking_budget": 0}, {KWARGS: {"enable_thinking": False}}),
    ("llama.cpp", {"thinking_token_budget": 9}, {KWARGS: {"enable_thinking": True}, "thinking_budget_tokens": 9}),
    ("vllm", {KWARGS: {"enable_thinking": True, "x": 1}}, {KWARGS: {"enable_thinking": True, "x": 1}}),
    ("groq", {"reasoning_effort": "high"}, {"reasoning_effort": "default"}),
    ("groq", {"enable_thinking": False}, {"reasoning_effort": "none"}),
    ("groq", {"reasoning_format": "raw"}, {"reasoning_format": "raw"}),
    ("sglang", {"reasoning_effort": "low"}, {KWARGS: {"enable_thinking": True}, "reasoning_effort": "low"}),
    ("openrouter", {"reasoning_effort": "high"}, {"reasoning": {"enabled": True, "effort": "high"}}),
    (
        "openrouter",
        {"reasoning": {"max_tokens": 9, "effort": "high", "exclude": True}},
        {"reasoning": {"exclude": True, "enabled": True, "max_tokens": 9}},
    ),
    ("together", {"reasoning_effort": "high"}, {"reasoning": {"enabled": True}, "reasoning_effort": "high"}),
    ("deepinfra", {"reasoning_effort": "high"}, {"reasoning": {"enabled": True, "effort": "high"}}),
    ("cerebras", {"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
    ("vllm", {"reasoning": {"exclude": True}}, {}),
    # An explicit switch counts before an effort.
    ("vllm", {"reasoning_effort": "high", "enable_thinking": False}, {KWARGS: {"enable_thinking": False}}),
]


@pytest.mark.parametrize(("dialect", "members", "fields"), CLIENT)
def test_in_client_mode_the_client_s_own_wish_is_translated(
    dialect: str, members: dict[str, object], fields: dict[str, object]
) -> None:
    p = plan(dialect)
    assert sent(p, CLIENTS, **members) == base(p) | fields


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", sorted(HOST_MEMBERS))
def test_a_client_cannot_choose_where_its_request_goes(dialect: str, name: str) -> None:
    p = plan(dialect)
    assert sent(p, **{name: "http://169.254.169.254"}) == (base(p) if dialect in USUAL else sent(p))


def test_hints_for_openai_stay_away_from_servers_that_do_not_know_them() -> None:
    hints = {"service_tier": "flex", "metadata": {"team": "a"}, "store": True}
    for dialect in ("vllm", "llama.cpp", "dashscope"):
        assert sent(plan(dialect), **hints) == MODEL
    assert sent(plan("openai"), **hints) == MODEL | hints
    # OpenAI refuses metadata with a completion it does not store.
    assert sent(plan("openai"), metadata={"team": "a"}) == MODEL


ELSEWHERE = [
    # Behind this dialect may be any of them.
    ("openai", "models", ["openai/gpt-5"]),
    ("openai", "provider", {"order": ["elsewhere"], "data_collection": "allow"}),
    ("openai", "route", "fallback"),
    ("openai", "preset", "p"),
    ("openai", "lora_path", "another"),
    ("openai", "custom_logit_processor", "gASVAAAA"),
    ("openai", "user_config", {"model_list": []}),
    ("openai", "providerOptions", {"gateway": {"order": ["elsewhere"]}}),
    ("llama.cpp", "lora", [{"id": 1, "scale": 1.0}]),
    ("llama.cpp", "id_slot", 3),
    ("openrouter", "models", ["openai/gpt-5"]),
    ("openrouter", "preset", "p"),
    ("openrouter", "provider", {"order": ["elsewhere"], "require_parameters": False}),
    ("openrouter", "route", "fallback"),
    ("sglang", "custom_logit_processor", "gASVAAAA"),
    ("sglang", "lora_path", "another"),
    ("sglang", "session_params", {"id": "of another client"}),
]


@pytest.mark.parametrize(("dialect", "name", "value"), ELSEWHERE)
def test_what_was_decided_is_not_decided_anew_by_the_server(dialect: str, name: str, value: object) -> None:
    p = plan(dialect)
    assert sent(p, **{name: value}) == base(p)


def test_what_configuration_puts_into_a_body_counts_before_the_client_and_joins_the_dialect_s() -> None:
    backend = replace(plan("openrouter").target.backend, members={"provider": {"only": ["deepinfra"]}, "user": "us"})
    p = prepare(replace(plan("openrouter").target, backend=backend))
    made = sent(p, provider={"order": ["x"]}, user="me", seed=1)
    assert made["provider"] == {"require_parameters": True, "only": ["deepinfra"]}
    assert (made["user"], made["seed"]) == ("us", 1)


def test_a_switch_inside_a_member_of_its_own_leaves_what_the_client_put_beside_it() -> None:
    target = plan("openai").target
    row = replace(DIALECTS["openai"], thinking=Spelling(switch="opts.think", budget="opts.most"))
    p = prepare(replace(target, backend=replace(target.backend, own_dialect=row)))
    assert sent(p, BUDGET, opts={"style": "short"}) == MODEL | {"opts": {"style": "short", "think": True, "most": 4096}}
    assert sent(p, NEVER, opts={"style": "short"}) == MODEL | {"opts": {"style": "short", "think": False}}
    assert sent(p, NEVER, opts=7) == MODEL | {"opts": {"think": False}}
    assert sent(p, NEVER) == MODEL | {"opts": {"think": False}}


@pytest.mark.parametrize("support", ["always", "never", "unknown"])
def test_a_server_that_refuses_what_it_does_not_know_is_spared_other_servers_spellings(
    support: ThinkingSupport,
) -> None:
    wish = {"enable_thinking": True, "reasoning": {"enabled": True}, KWARGS: {"a": 1}, "reasoning_effort": "low"}
    for dialect in ("groq", "cerebras"):
        assert sent(plan(dialect, support), **wish) == MODEL | {"reasoning_effort": "low"}
    assert sent(plan("together", support), **wish) == MODEL | wish


HISTORY = [
    {"role": "user", "content": "hi \u2028", "score": 1.50},
    {"role": "assistant", "content": "Hello.", "reasoning_content": "A greeting."},
    {"role": "assistant", "content": "x", "reasoning": "both", "reasoning_content": "both"},
    {"role": "user", "content": 'say "reasoning_content"'},
]


@pytest.mark.parametrize("dialect", ["groq", "cerebras"])
def test_reasoning_in_earlier_answers_is_handed_back_in_the_spelling_that_is_not_refused(dialect: str) -> None:
    body = wire.parse(json.dumps({"model": "auto", "messages": HISTORY}).encode())
    made = json.loads(request_body(body, plan(dialect), CLIENTS))["messages"]
    assert made == [
        HISTORY[0],
        {"role": "assistant", "content": "Hello.", "reasoning": "A greeting."},
        {"role": "assistant", "content": "x", "reasoning": "both"},
        HISTORY[3],
    ]
    assert b'"score": 1.5' in request_body(body, plan("vllm"), CLIENTS)
    assert json.loads(request_body(body, plan("vllm"), CLIENTS))["messages"] == HISTORY
    assert sent(plan(dialect)) == base(plan(dialect))


def test_a_member_that_asks_for_nothing_is_left_out_where_it_would_be_refused() -> None:
    p = prepare(replace(plan("groq").target, unsupported=DIALECTS["groq"].refuses))
    assert sent(p, n=1, logprobs=False, logit_bias=None, seed=1) == base(p) | {"seed": 1}
    assert sent(plan("vllm"), n=1) == MODEL | {"n": 1}


def test_configuration_adds_headers_and_decides_how_the_key_is_shown() -> None:
    p = plan("openrouter")
    backend = replace(p.target.backend, headers={"X-Title": "shop", "X-Secret": Secret("s")})
    p = prepare(replace(p.target, backend=backend))
    assert p.headers("k") == {"Authorization": "Bearer k", "X-Title": "shop", "X-Secret": "s"}
    row = replace(p.dialect, auth=("api-key", ""), headers={"X-Plan": "batch"})
    p = prepare(replace(p.target, backend=replace(backend, own_dialect=row, headers={})))
    assert p.headers("k") == {"api-key": "k", "X-Plan": "batch"}
    assert p.headers(None) == {"X-Plan": "batch"}


def test_the_output_limit_has_the_name_the_server_knows() -> None:
    both = {"max_tokens": 5, "max_completion_tokens": 7}
    assert sent(plan("dashscope"), max_completion_tokens=7) == MODEL | {"max_tokens": 7}
    assert sent(plan("dashscope"), max_tokens=5) == MODEL | {"max_tokens": 5}
    assert sent(plan("dashscope"), **both) == MODEL | {"max_tokens": 7}
    for dialect in ("openai", "vllm", "llama.cpp"):
        assert sent(plan(dialect), **both) == MODEL | both


def test_the_client_s_body_is_never_changed_between_attempts() -> None:
    envelope = wire.parse(b'{"model":"auto","messages":[{"role":"user"}],"max_completion_tokens":3,"stream":true}')
    first = request_body(envelope, plan("dashscope"), NEVER)
    request_body(envelope, plan("vllm"), ALWAYS)
    assert request_body(envelope, plan("dashscope"), NEVER) == first


def body(**error: object) -> bytes:
    return json.dumps({"error": error}).encode()


REFUSALS: list[tuple[str, int, bytes, Outcome]] = [
    ("openai", 200, b"{}", Outcome.OK),
    ("openai", 302, b"", Outcome.REDIRECT),
    ("openai", 401, body(code="invalid_api_key"), Outcome.AUTH),
    ("openai", 403, b"", Outcome.FORBIDDEN),
    ("openai", 402, b"", Outcome.RATE_LIMITED),
    ("openai", 404, body(code="model_not_found", message="x"), Outcome.MODEL_GONE),
    ("openai", 404, b"<html>nginx</html>", Outcome.SERVER_ERROR),
    ("vllm", 404, body(message="The model `m` does not exist.", type="NotFoundError", code=404), Outcome.MODEL_GONE),
    ("vllm", 404, b'{"detail":"Not Found"}', Outcome.SERVER_ERROR),
    ("openai", 400, body(code="model_decommissioned", message="x"), Outcome.MODEL_GONE),
    ("openai", 400, body(message="bad seed", type="invalid_request_error"), Outcome.CLIENT_ERROR),
    ("openai", 413, b"too large", Outcome.CLIENT_ERROR),
    ("openai", 422, b'{"detail":[{"msg":"field required"}]}', Outcome.CLIENT_ERROR),
    ("openai", 429, b"", Outcome.RATE_LIMITED),
    ("openai", 413, body(code="rate_limit_exceeded", message="TPM"), Outcome.RATE_LIMITED),
    ("openai", 500, b"oops", Outcome.SERVER_ERROR),
    ("openai", 502, b"", Outcome.SERVER_ERROR),
    ("openai", 503, b"", Outcome.OVERLOADED),
    ("openai", 529, b"", Outcome.OVERLOADED),
    ("openai", 400, body(code="context_length_exceeded", message="long"), Outcome.CONTEXT_LENGTH),
    ("vllm", 400, body(message="This model's maximum context length is 8 tokens.", code=400), Outcome.CONTEXT_LENGTH),
    ("vllm", 400, b'{"object":"error","message":"maximum context length is 8"}', Outcome.CONTEXT_LENGTH),
    ("llama.cpp", 400, body(type="exceed_context_size_error", code=400, message="x"), Outcome.CONTEXT_LENGTH),
    ("llama.cpp", 500, body(message="image input is not supported - hint", code=500), Outcome.CLIENT_ERROR),
    ("llama.cpp", 503, body(message="Loading model", type="unavailable_error", code=503), Outcome.OVERLOADED),
    ("dashscope", 400, body(message="Range of input length should be [1, 204800]"), Outcome.CONTEXT_LENGTH),
    ("dashscope", 400, body(code="Arrearage", message="Access denied"), Outcome.RATE_LIMITED),
    ("dashscope", 400, b'{"code":"Arrearage","message":"Access denied"}', Outcome.RATE_LIMITED),
    ("dashscope", 403, body(code="AllocationQuota.FreeTierOnly", message="x"), Outcome.RATE_LIMITED),
    ("dashscope", 400, body(code="data_inspection_failed", message="x"), Outcome.CLIENT_ERROR),
    (
        "sglang",
        400,
        b'{"object":"error","message":"The input (9 tokens) is longer than the model\'s context length (8'
        b' tokens).","type":"BadRequestError","param":null,"code":400}',
        Outcome.CONTEXT_LENGTH,
    ),
    ("groq", 400, body(code="tool_use_failed", message="x"), Outcome.MISWRITTEN),
    ("groq", 498, body(message="flex capacity"), Outcome.OVERLOADED),
    ("together", 422, body(message="`inputs` tokens + `max_new_tokens` must be <= 8193."), Outcome.CONTEXT_LENGTH),
    ("deepinfra", 500, body(message="Requested input length 9 exceeds maximum input length 8"), Outcome.CONTEXT_LENGTH),
    ("openrouter", 404, body(message="No endpoints found for meta-llama/llama-4-scout.", code=404), Outcome.MODEL_GONE),
    ("openrouter", 404, body(message="No endpoints found that support tool use.", code=404), Outcome.SERVER_ERROR),
    ("openrouter", 404, body(message="No endpoints found matching your data policy."), Outcome.FORBIDDEN),
    ("openrouter", 400, body(message="x/y is not a valid model ID", code=400), Outcome.MODEL_GONE),
    # What a client wrote and a server repeats holds no target back.
    ("openrouter", 400, body(message="bad seed: x/y is not a valid model ID", code=400), Outcome.CLIENT_ERROR),
    ("openai", 400, body(message="x/y is not a valid model ID", code=400), Outcome.CLIENT_ERROR),
    ("huggingface", 400, b'{"error":"Model not supported by provider together"}', Outcome.MODEL_GONE),
]


@pytest.mark.parametrize(("dialect", "status", "said", "outcome"), REFUSALS)
def test_a_refusal_is_told_by_status_and_type(dialect: str, status: int, said: bytes, outcome: Outcome) -> None:
    assert classify(plan(dialect), status, said) is outcome


@pytest.mark.parametrize("junk", [b"", b"\xff\xfe", b"[]", b"[1]", b"null", b'"x"', b'{"error":[1]}', b"{" * 9999])
def test_no_body_makes_classification_fail(junk: bytes) -> None:
    assert classify(plan(), 500, junk) is Outcome.SERVER_ERROR
    assert classify(plan(), 400, junk) is Outcome.CLIENT_ERROR


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ({"message": "x", "code": 429}, Outcome.RATE_LIMITED),
        ({"message": "x", "code": "rate_limit_exceeded"}, Outcome.RATE_LIMITED),
        ({"message": "maximum context length is 8", "code": 400}, Outcome.CONTEXT_LENGTH),
        ({"message": "slot lost", "code": 500}, Outcome.IN_BAND_ERROR),
        ({"message": "slot lost"}, Outcome.IN_BAND_ERROR),
        ({"message": "x", "code": 503}, Outcome.OVERLOADED),
    ],
)
def test_an_error_inside_a_stream_is_told_like_one_with_a_status(said: dict[str, object], outcome: Outcome) -> None:
    relay = Relay(keep_usage=False)
    relay.feed(b"data: " + json.dumps({"error": said}).encode() + b"\n\n")
    assert relay.failure is Outcome.IN_BAND_ERROR
    assert classify_in_band(plan(), relay) is outcome


def test_a_target_that_thinks_only_when_streamed_is_told_not_to_where_nobody_asked() -> None:
    streaming = plan("dashscope")
    streaming = prepare(replace(streaming.target, thinking_needs_stream=True))
    assert sent(streaming) == MODEL | {"enable_thinking": False}
    assert sent(streaming, temperature=0.5) == MODEL | {"enable_thinking": False, "temperature": 0.5}
    quiet = sent(streaming, stream=True)
    assert "enable_thinking" not in quiet  # its own default holds
    assert sent(streaming, ALWAYS, stream=True)["enable_thinking"] is True
    assert sent(streaming, NEVER)["enable_thinking"] is False
    assert sent(plan("dashscope")) == MODEL
