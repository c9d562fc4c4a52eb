"""Signatures, held to AWS's published examples and to what botocore makes of the gateway's own requests."""

from __future__ import annotations

import pytest

from gateway.core.servers.credentials import AwsKeys
from gateway.core.servers.sigv4 import canonical_path, canonical_query, sign, stamp
from gateway.core.types import Secret

NOW = 1440938160.0  # 2015-08-30T12:36:00Z, the moment of AWS's examples
FORM = {"content-type": "application/x-www-form-urlencoded"}
JSON = {"content-type": "application/json"}


def keys(region: str, service: str, token: str | None = None) -> AwsKeys:
    secret = Secret("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
    return AwsKeys("AKIDEXAMPLE", secret, region, service, None if token is None else Secret(token))


EXAMPLE = keys("us-east-1", "service")
VECTORS = {
    # AWS's aws-sig-v4-test-suite: post-vanilla, post-vanilla-query, post-x-www-form-urlencoded.
    "vanilla": (
        EXAMPLE,
        ("example.amazonaws.com", "/", b"", {}),
        "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
    ),
    "query": (
        EXAMPLE,
        ("example.amazonaws.com", "/?Param1=value1", b"", {}),
        "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11",
    ),
    "form": (
        EXAMPLE,
        ("example.amazonaws.com", "/", b"Param1=value1", FORM),
        "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
    ),
    # By botocore 1.44.5.
    "bedrock": (
        keys("eu-west-1", "bedrock"),
        ("bedrock-runtime.eu-west-1.amazonaws.com", "/openai/v1/chat/completions", '{"x":"é漢"}'.encode(), JSON),
        "c8eeb07ed28335172c17064777e440d9df8b9ac650863f0702cec7fa9ef9f1ce",
    ),
    "session token": (
        keys("us-west-2", "bedrock-mantle", "tok/en+123=="),
        ("bedrock-mantle.us-west-2.api.aws", "/v1/chat/completions", b"{}", JSON),
        "ff4598fd6a223f6f7d64621e3ce8647c72bef0531dea9e567f3b9e7ac919ab3f",
    ),
    "encoded path, unsorted query, port": (
        keys("us-east-1", "bedrock"),
        ("127.0.0.1:8123", "/model/a%3A0/x?b=2&a=1&a=0", b"x" * 100_000, JSON),
        "dbe00007b212a5981cf74f2695fee9e5a663787e1a3b38b77341328d9e63f31b",
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_a_signature_is_the_published_one(name: str) -> None:
    by, (host, target, body, more), expected = VECTORS[name]
    fields = sign(by, host, target, body, NOW, more)
    assert fields["Authorization"].endswith(f"Signature={expected}")
    assert fields["Authorization"].startswith(
        f"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/{by.region}/{by.service}/aws4_request, SignedHeaders="
    )
    assert fields["x-amz-date"] == stamp(NOW) == "20150830T123600Z"
    assert ("x-amz-security-token" in fields) == (by.session_token is not None)


def test_whatever_is_sent_is_signed() -> None:
    one = ("h", "/v1", b"body", JSON)
    base = sign(EXAMPLE, one[0], one[1], one[2], NOW, one[3])
    others = [
        sign(EXAMPLE, "other", *one[1:3], NOW, one[3]),
        sign(EXAMPLE, "h", "/v2", b"body", NOW, JSON),
        sign(EXAMPLE, "h", "/v1?x", b"body", NOW, JSON),
        sign(EXAMPLE, "h", "/v1", b"Body", NOW, JSON),
        sign(EXAMPLE, "h", "/v1", b"body", NOW + 1, JSON),
        sign(EXAMPLE, "h", "/v1", b"body", NOW, FORM),
        sign(keys("us-east-2", "service"), "h", "/v1", b"body", NOW, JSON),
    ]
    assert len({one["Authorization"] for one in [base, *others]}) == 8


def test_the_parts_of_a_request_are_written_as_aws_reads_them() -> None:
    assert canonical_path("") == "/"
    assert canonical_path("/a b/é~") == "/a%20b/%C3%A9~"
    assert canonical_query("") == ""
    assert canonical_query("z=1&a=&b") == "a=&b=&z=1"


def test_keys_do_not_show_their_secrets() -> None:
    shown = repr(keys("eu-west-1", "bedrock", "token-canary"))
    assert "wJalr" not in shown
    assert "canary" not in shown
