"""Blotting out: what is known for a secret, what has the shape of one, and nothing that people need to read."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from gateway.core.recorded.redaction import redacted, secrets_in
from gateway.core.types import Secret


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer CANARY12345",
        "authorization:Basic Q0FOQVJZ0123456789==CANARY",
        "proxy-authorization: CANARY1",
        "x-api-key: CANARY1",
        "api-key: CANARY1, and more",
        "Cookie: CANARY1",
        "Bearer CANARY",
        "sk-CANARY0123456",
        "the key sk-proj-CANARY_0123-456 is wrong",
        "gsk_CANARY0123456789",
        "hf_CANARYabcdefgh",
        "AKIACANARYCANARYCANA",
        "AIzaCANARY0123456789abcdef",
        "eyJCANARYCANARY.eyJCANARY.CANARY-_",
        "https://user:CANARY@host/v1",
        "https://CANARY@host/v1",
        "GET http://host/v1?key=CANARY&x=1",
        "GET http://host/v1?x=1&token=CANARY",
        "https://host/x?X-Amz-Signature=CANARY&X-Amz-Credential=CANARY/2026",
        "api_key=CANARY",
        "api_key='CANARY'",
        "client_secret=CANARY refused",
        '{"api_key": "CANARY", "x": 1}',
        "{'password': 'CANARY'}",
        "[(b'Authorization', b'Bearer CANARY')]",
        "{'Authorization': 'CANARY with spaces'}",
        "PASSWORD=CANARY",
    ],
)
def test_what_has_the_shape_of_a_secret_is_blotted_out(text: str) -> None:
    told = redacted(text)
    assert "CANARY" not in told
    assert "***" in told


@pytest.mark.parametrize(
    "text",
    [
        "public listener on http://127.0.0.1:8080",
        "pointsman.yaml:12: backends.a.key: environment variable OPENAI_KEY is not set: set it to the key",
        "no access token from login.example.com: the token endpoint answered 500; the present one lasts 30 s",
        "admin_key: {sha256: ...}, {env: NAME} or {file: path}",
        "auto/cost-first",
        "meta-llama/Llama-4-Maverick-17B-128E-Instruct-FP8",
        "user@example.com asked",
        "cheapest of 3; language ja is not on llama-4-scout's list",
        "https://api.example.com/v1/chat/completions?stream=true",
    ],
)
def test_what_people_need_to_read_stays(text: str) -> None:
    assert redacted(text) == text


def test_known_secrets_go_wherever_they_stand_the_longest_first() -> None:
    told = redacted("a=plain-canary-long b=plain-canary c=abc", ["plain-canary", "plain-canary-long", "abc"])
    assert told == "a=*** b=*** c=abc", "what is as short as a word is none"


def test_hostile_texts_end() -> None:
    for part in (
        "://",
        "sk-",
        "api_key=",
        "Bearer ",
        '"authorization": "',
        "eyJ.",
        "x-",
        "x-api-key:",
        "://a@",
        "secret",
    ):
        assert len(redacted(part * 20_000)) <= 20_000 * (len(part) + 3)


@dataclass(frozen=True)
class Nested:
    one: object
    other: object = None


def test_secrets_are_found_however_deep() -> None:
    shared = Nested(Secret("first"), "text")
    value = Nested({"a": [shared, (Nested(None, Secret("second")),)]}, frozenset([Secret("third")]))
    assert secrets_in(value, shared, None, 3, "text") == {"first", "second", "third"}
