"""Grants and tokens: what an endpoint is sent, what its answer means, when to ask again."""

from __future__ import annotations

import base64
import json

import pytest

from gateway.core.servers.credentials import (
    AHEAD_S,
    AccessToken,
    ClientSecret,
    MetadataServer,
    NoToken,
    ServiceAccount,
    read_token,
    token_request,
)
from gateway.core.types import Secret

ACCOUNT = ServiceAccount("robot@p.iam.gserviceaccount.com", "kid-1", Secret("PEM-canary"))


def decoded(part: str) -> dict[str, object]:
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def test_a_service_account_sends_a_signed_statement() -> None:
    asked = token_request(ACCOUNT, 1000.7, lambda data: b"signed:" + data[:6])
    assert asked.url == "https://oauth2.googleapis.com/token"
    assert asked.form is not None
    assert asked.form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
    header, claims, signature = asked.form["assertion"].split(".")
    assert decoded(header) == {"alg": "RS256", "typ": "JWT", "kid": "kid-1"}
    assert decoded(claims) == {
        "iss": "robot@p.iam.gserviceaccount.com",
        "scope": "https://www.googleapis.com/auth/cloud-platform",
        "aud": "https://oauth2.googleapis.com/token",
        "iat": 1000,
        "exp": 4600,
    }
    assert base64.urlsafe_b64decode(signature + "==") == b"signed:" + header[:6].encode()
    assert "=" not in asked.form["assertion"]
    assert "canary" not in repr((ACCOUNT, asked))


def test_without_a_signer_nothing_is_sent_for_an_account() -> None:
    with pytest.raises(TypeError):
        token_request(ACCOUNT, 0.0)


def test_the_metadata_server_is_asked_with_its_header() -> None:
    asked = token_request(MetadataServer(), 0.0)
    assert asked.form is None
    assert asked.url.startswith("http://metadata.google.internal/computeMetadata/v1/")
    assert asked.headers == {"Metadata-Flavor": "Google"}


def test_an_application_sends_its_secret_in_the_body_only() -> None:
    asked = token_request(ClientSecret("app", Secret("s3-canary"), "https://login/t"), 0.0)
    assert asked.form == {
        "grant_type": "client_credentials",
        "client_id": "app",
        "client_secret": "s3-canary",
        "scope": "https://ai.azure.com/.default",
    }
    assert "canary" not in asked.url + str(asked.headers) + repr(asked)


def test_a_token_is_read_with_its_end() -> None:
    token = read_token(200, b'{"access_token":"ya29.a0...","expires_in":3599,"token_type":"Bearer"}', 100.0)
    assert token.value.reveal() == "ya29.a0..."
    assert token.expires_at == 3699.0
    assert read_token(200, b'{"access_token":"t","expires_in":"60"}', 0.0).expires_at == 60.0


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (400, b'{"error":"invalid_grant","error_description":"canary"}', "answered 400 (invalid_grant)"),
        (400, b'{"error":"canary with words"}', "answered 400"),
        (401, b"<html>canary</html>", "answered 401"),
        (302, b"", "answered 302"),
        (200, b"", "no access_token"),
        (200, b"[]", "no access_token"),
        (200, b'{"access_token":"","expires_in":3600}', "no access_token"),
        (200, b'{"access_token":"a\\r\\nX-Canary: 1","expires_in":3600}', "no access_token"),
        (200, '{"access_token":"canar\u00fd","expires_in":3600}'.encode(), "no access_token"),
        (200, b'{"access_token":"canary"}', "expires_in"),
        (200, b'{"access_token":"canary","expires_in":true}', "expires_in"),
        (200, b'{"access_token":"canary","expires_in":0}', "expires_in"),
        (200, b'{"access_token":"canary","expires_in":"' + b"9" * 5_000 + b'"}', "expires_in"),
        (200, b'{"access_token":"canary","expires_in":1e9}', "expires_in"),
        (200, b'{"access_token":"canary","expires_in":NaN}', "no access_token"),
    ],
)
def test_what_is_no_token_says_why_and_nothing_else(status: int, body: bytes, says: str) -> None:
    with pytest.raises(NoToken, match="token endpoint") as caught:
        read_token(status, body, 0.0)
    assert says in str(caught.value)
    assert "canary" not in str(caught.value)


def test_a_token_is_replaced_ahead_of_its_end() -> None:
    assert AccessToken(Secret("t"), 3600.0).refresh_at(0.0) == 3600 - AHEAD_S
    assert AccessToken(Secret("t"), 10.0).refresh_at(0.0) == 5.0  # of a short one, half of its time is used
    assert AccessToken(Secret("t"), 3600.0).refresh_at(3590.0) == 3595.0  # the same one was given out again
