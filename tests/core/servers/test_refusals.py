"""An upstream's own error, as the client gets it."""

from __future__ import annotations

import json

import pytest

from gateway.core.servers.refusals import MESSAGE_MAX, WORDS, classify, relayed_error
from gateway.core.servers.rows import DIALECTS
from gateway.core.types import Outcome


def told(status: int, body: bytes, secrets: tuple[str, ...] = ()) -> tuple[int, str, dict[str, object]]:
    made = relayed_error(status, body, secrets)
    assert made is not None
    error = json.loads(made[2])["error"]
    assert list(error) == ["message", "type", "param", "code"]
    return made[0], made[1], error


def test_message_type_param_and_code_are_kept() -> None:
    body = b'{"error":{"message":"bad","type":"invalid_request_error","param":"seed","code":"wrong"},"request_id":"r"}'
    status, code, error = told(400, body)
    assert (status, code) == (400, "bad_request")
    assert error == {"message": "bad", "type": "invalid_request_error", "param": "seed", "code": "wrong"}


def test_a_code_that_is_only_the_status_becomes_a_word() -> None:
    overflow = b'{"error":{"code":400,"message":"m","type":"exceed_context_size_error","n_ctx":9}}'
    assert told(400, overflow) == (
        400,
        "context_length_exceeded",
        {"message": "m", "type": "exceed_context_size_error", "param": None, "code": "context_length_exceeded"},
    )
    assert told(422, b'{"error":{"code":422,"message":"m"}}')[2]["code"] == "bad_request"
    assert told(413, b'{"message":"m"}')[1] == "request_too_large"


def test_a_server_s_500_for_a_client_s_fault_becomes_400() -> None:
    assert told(500, b'{"error":{"message":"image input is not supported","code":500}}')[0] == 400


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"detail":"Field required"}', "Field required"),
        (b'{"detail":[{"loc":["body"],"msg":"no"}]}', '[{"loc":["body"],"msg":"no"}]'),
        (b'{"code":"InvalidParameter","message":"flat"}', "flat"),
        (b'{"error":"only words"}', "only words"),
        (b'[{"error":{"message":"wrapped"}}]', "wrapped"),
    ],
)
def test_other_shapes_become_openai_s(body: bytes, message: str) -> None:
    assert told(400, body)[2]["message"] == message


def test_the_message_is_bounded_and_holds_no_secret_and_no_address() -> None:
    body = json.dumps({"error": {"message": "key sk-secret at 0x7f3a2b1c9d00 " + "x" * 20_000, "code": "sk-secret"}})
    _, _, error = told(400, body.encode(), ("sk-secret", ""))
    message = error["message"]
    assert isinstance(message, str)
    assert message.startswith("key *** at 0x* xxx")
    assert len(message) == MESSAGE_MAX
    assert error["code"] == "***"


@pytest.mark.parametrize("name", ["message", "type", "param", "code"])
@pytest.mark.parametrize("before", [0, 200, 8_100, 16_300])
def test_no_part_of_a_secret_is_left_where_a_text_is_cut(name: str, before: int) -> None:
    secret = "ya29." + "s3" * 400
    for many in (1, 40):
        body = json.dumps({"error": {"message": "no", name: "-" * before + secret * many}})
        assert "s3" not in json.dumps(told(400, body.encode(), (secret,)))


def test_a_secret_that_begins_another_leaves_nothing_of_it() -> None:
    body = b'{"error":{"message":"Bearer abcdefgh"}}'
    assert told(400, body, ("abcd", "abcdefgh"))[2]["message"] == "Bearer ***"


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"{}", b"[]", b"17", b'{"error":{}}', b'{"error":{"message":""}}', b"\xff"]
)
def test_what_is_no_json_error_is_not_relayed(body: bytes) -> None:
    assert relayed_error(400, body) is None


@pytest.mark.parametrize("levels", [*range(960, 1000, 4), 20_000])
def test_an_error_nested_thousands_of_levels_deep_raises_nothing(levels: int) -> None:
    body = b'{"error":{"message":' + b"[" * levels + b"]" * levels + b"}}"
    assert classify(500, body) is Outcome.SERVER_ERROR
    if levels > 1000:
        assert relayed_error(400, body) is None


@pytest.mark.parametrize(
    "message",
    [
        "Your input exceeds the context window of this model. Please adjust your input and try again.",  # OpenAI
        "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",  # xAI
        "Prompt contains 40000 tokens, too large for model with 32768 maximum context length",  # Mistral
        "Invalid request: Your request exceeded model token limit: 8192 (requested: 10000)",  # Moonshot
        "The number of tokens to keep from the initial prompt is greater than the context length.",  # LM Studio
        "invalid params, context window exceeds limit (2013)",  # MiniMax
        "input length and `max_tokens` exceed context limit: 199000 + 4096 > 200000",  # Anthropic
        "prompt is too long: 213462 tokens > 200000 maximum",  # Anthropic
        "prompt token count of 130000 exceeds the limit of 128000",  # GitHub
    ],
)
def test_an_overflow_is_known_by_the_words_of_providers_without_a_dialect(message: str) -> None:
    body = json.dumps({"error": {"message": message, "type": "invalid_request_error"}}).encode()
    assert classify(400, body) is Outcome.CONTEXT_LENGTH


def test_no_words_that_a_client_could_have_written_hold_a_target_back() -> None:
    """Servers quote a request's values in their refusals of it."""
    for statuses, words, outcome in WORDS:
        if statuses & {400, 413, 422}:
            assert outcome in (Outcome.CLIENT_ERROR, Outcome.CONTEXT_LENGTH), words
    for dialect in DIALECTS.values():
        for _, pattern, _ in dialect.words:
            assert pattern.pattern.startswith(r"\A"), dialect
    quoted = b'{"error":{"message":"bad type: The provided model identifier is invalid."}}'
    assert classify(400, quoted, words=DIALECTS["bedrock"].words) is Outcome.CLIENT_ERROR
