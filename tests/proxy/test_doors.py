"""Credentials of the clouds in use: the running gateway, scripted upstreams, a scripted token endpoint."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from gateway.core.servers.credentials import AwsKeys
from gateway.core.servers.sigv4 import sign
from gateway.core.types import Secret
from tests.harness import Gateway, Upstream, chat, config, eventually, plain, raw, running, stream

AWS = {"access_key": {"env": "AK"}, "secret_key": {"env": "SK"}, "region": "eu-west-1"}
ENVIRON = {"AK": "AKIAEXAMPLE", "SK": "aws-secret-canary", "CLIENT": "entra-secret-canary"}


def token(value: str, lasts: float = 3600) -> Any:
    return plain(body=json.dumps({"access_token": value, "expires_in": lasts, "token_type": "Bearer"}).encode())


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    made = Upstream([plain()])
    yield made
    made.close()


@pytest.fixture
def other() -> Iterator[Upstream]:
    made = Upstream([plain()])
    yield made
    made.close()


@pytest.fixture
def endpoint() -> Iterator[Upstream]:
    """A token endpoint."""
    made = Upstream([token("token-canary-1")])
    yield made
    made.close()


def settings(backend: dict[str, Any], upstream: Upstream, other: Upstream | None = None) -> dict[str, Any]:
    made = config({"a": upstream} if other is None else {"a": upstream, "b": other})
    made["backends"]["a"] = {"base_url": upstream.url, **backend}
    made["targets"]["a"]["price"] = {"input": 0.1, "output": 0.1}  # cheaper than b: asked first
    return made


def silent(gateway: Gateway, *canaries: str) -> None:
    """Nothing of a credential was said, neither to a client nor to a log."""
    said = (
        "\n".join(gateway.lines)
        + gateway.get("/metrics", admin=True).text
        + gateway.get("/v1/targets", admin=True).text
    )
    for canary in ("canary", "BEGIN PRIVATE", *canaries):
        assert canary not in said


# Azure.


def test_azure_takes_its_key_in_a_field_of_its_own(tmp_path: Path, upstream: Upstream) -> None:
    made = settings({"dialect": "azure", "key": {"env": "UPSTREAM_KEY"}}, upstream)
    with running(tmp_path, made) as gateway:
        assert gateway.post(chat()).status_code == 200
    (request,) = upstream.requests
    assert request.head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert request.header("api-key") == "sk-upstream-canary-1"
    assert request.header("authorization") is None
    assert request.json["model"] == "m"


def test_azure_s_older_address_names_deployment_and_version(tmp_path: Path, upstream: Upstream) -> None:
    made = settings({"dialect": "azure", "key": {"env": "UPSTREAM_KEY"}, "api_version": "2024-10-21"}, upstream)
    made["backends"]["a"]["base_url"] = upstream.url.replace("/v1", "/openai")
    made["targets"]["a"]["upstream_id"] = "my deployment"
    with running(tmp_path, made) as gateway:
        assert gateway.post(chat()).status_code == 200
    line = upstream.requests[0].head.split(b"\r\n")[0]
    assert line == b"POST /openai/deployments/my%20deployment/chat/completions?api-version=2024-10-21 HTTP/1.1"


def test_a_filtered_prompt_is_the_client_s_affair(tmp_path: Path, upstream: Upstream, other: Upstream) -> None:
    wire = Path(__file__).parent.parent / "wire" / "azure" / "error-content-filter.http"
    upstream.scripts = [plain(400, body=wire.read_bytes().partition(b"\r\n\r\n")[2])]
    with running(tmp_path, settings({"dialect": "azure"}, upstream, other)) as gateway:
        answer = gateway.post(chat())
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "content_filter"
    assert other.requests == []


def test_what_the_filter_says_of_a_prompt_does_not_commit(tmp_path: Path, upstream: Upstream, other: Upstream) -> None:
    wire = Path(__file__).parent.parent / "wire" / "azure" / "stream.http"
    events = wire.read_bytes().partition(b"\r\n\r\n")[2].split(b"\r\n")[1::2]
    assert b"prompt_filter_results" in events[0]
    upstream.scripts = [stream(events[:2], end="reset")]
    other.scripts = [stream()]
    with running(tmp_path, settings({"dialect": "azure"}, upstream, other)) as gateway:
        answer = gateway.post(chat(stream=True))
    assert answer.headers["x-pointsman-target"] == "b"
    assert b"prompt_filter_results" not in answer.content
    assert answer.content.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("dialect", ["azure", "bedrock", "vertex", "ollama"])
def test_a_model_that_was_retired_is_answered_by_who_still_has_it(
    dialect: str, tmp_path: Path, upstream: Upstream, other: Upstream
) -> None:
    folder = Path(__file__).parent.parent / "wire" / dialect
    upstream.scripts = [raw((folder / "error-model.http").read_bytes(), keep=True)]
    made = settings({"dialect": dialect}, upstream, other)
    if dialect == "ollama":
        made["backends"]["a"]["base_url"] = upstream.url.removesuffix("/v1")
    with running(tmp_path, made) as gateway:
        for count in range(1, 3):
            assert gateway.post(chat()).headers["x-pointsman-target"] == "b"
            assert len(upstream.requests) == 1  # the second time nobody asks there
            assert len(other.requests) == count


# AWS.


def test_each_request_to_bedrock_is_signed_as_it_is_sent(tmp_path: Path, upstream: Upstream) -> None:
    made = settings({"dialect": "bedrock", "auth": {"aws": {**AWS, "session_token": {"env": "CLIENT"}}}}, upstream)
    with running(tmp_path, made, **ENVIRON) as gateway:
        for text in ("Bonjour, ça va ?", "x" * 60_000):
            assert gateway.post(chat(text=text)).status_code == 200
        silent(gateway)
    keys = AwsKeys("AKIAEXAMPLE", Secret("aws-secret-canary"), "eu-west-1", "bedrock", Secret("entra-secret-canary"))
    assert len(upstream.requests) == 2
    for request in upstream.requests:
        moment = datetime.strptime(request.header("x-amz-date") or "", "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        target = request.head.split(b" ")[1].decode()
        host = request.header("host") or ""
        proof = sign(keys, host, target, request.body, moment.timestamp(), {"content-type": "application/json"})
        assert request.header("authorization") == proof["Authorization"]
        assert request.header("content-type") == "application/json"
        assert request.header("x-amz-security-token") == "entra-secret-canary"
    assert upstream.requests[0].header("authorization") != upstream.requests[1].header("authorization")


# Tokens.


def google(endpoint: Upstream) -> dict[str, Any]:
    return {"service_account": {"file": "sa.json"}, "token_url": endpoint.url}


def key_file(directory: Path) -> Any:
    pytest.importorskip("cryptography", reason="the extra google is not installed")
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    said = {"type": "service_account", "client_email": "r@p.iam", "private_key_id": "kid", "private_key": pem}
    (directory / "sa.json").write_text(json.dumps(said))
    return key.public_key()


def test_a_service_account_s_token_opens_vertex(tmp_path: Path, upstream: Upstream, endpoint: Upstream) -> None:
    public = key_file(tmp_path)
    made = settings({"dialect": "vertex", "auth": google(endpoint)}, upstream)
    with running(tmp_path, made) as gateway:
        assert eventually(lambda: gateway.post(chat()).status_code == 200)
        assert gateway.post(chat()).status_code == 200
        (state,) = gateway.get("/v1/targets", admin=True).json()["data"]
        assert (state["state"], state["reason"]) == ("healthy", None)
        silent(gateway)
    assert {one.header("authorization") for one in upstream.requests} == {"Bearer token-canary-1"}
    (asked,) = endpoint.requests
    form = parse_qs(asked.body.decode())
    statement, _, signature = form["assertion"][0].rpartition(".")
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256

    public.verify(base64.urlsafe_b64decode(signature + "=="), statement.encode(), PKCS1v15(), SHA256())
    claims = json.loads(base64.urlsafe_b64decode(statement.partition(".")[2] + "=="))
    assert claims["aud"] == endpoint.url
    assert claims["iss"] == "r@p.iam"


def test_a_token_is_replaced_before_it_ends(tmp_path: Path, upstream: Upstream, endpoint: Upstream) -> None:
    endpoint.scripts = [token("token-canary-1", 3), token("token-canary-2")]
    made = settings({"dialect": "vertex", "auth": {"metadata_server": True, "token_url": endpoint.url}}, upstream)
    with running(tmp_path, made) as gateway:
        assert eventually(lambda: gateway.post(chat()).status_code == 200)
        assert eventually(lambda: len(endpoint.requests) == 2)
        assert eventually(
            lambda: (
                gateway.post(chat()).status_code == 200
                and upstream.requests[-1].header("authorization") == "Bearer token-canary-2"
            )
        )
        statuses = gateway.metric('pointsman_requests_total{status="502"')
        silent(gateway)
    assert statuses == 0  # there was no moment without a token
    assert endpoint.requests[0].head.startswith(b"GET ")
    assert endpoint.requests[0].header("metadata-flavor") == "Google"
    assert endpoint.requests[0].header("user-agent") is not None


def test_without_a_token_another_target_answers(
    tmp_path: Path, upstream: Upstream, other: Upstream, endpoint: Upstream
) -> None:
    endpoint.scripts = [
        plain(500, body=b'{"error":"server_error","error_description":"canary"}'),
        token("token-canary-1"),
    ]
    entra = {"tenant": "contoso.com", "client_id": "app", "client_secret": {"env": "CLIENT"}}
    made = settings({"dialect": "azure", "auth": {"entra": entra, "token_url": endpoint.url}}, upstream, other)
    with running(tmp_path, made, **ENVIRON) as gateway:
        assert eventually(lambda: any("no access token from 127.0.0.1" in line for line in gateway.lines))
        answer = gateway.post(chat())
        assert (answer.status_code, answer.headers["x-pointsman-target"]) == (200, "b")
        assert gateway.metric('pointsman_attempts_total{outcome="no_token",target="a"') == 1
        # It is back the moment that there is a token: nothing held it back meanwhile.
        assert eventually(lambda: gateway.post(chat()).headers["x-pointsman-target"] == "a")
        silent(gateway, "server_error_description")
    assert upstream.requests[0].header("authorization") == "Bearer token-canary-1"
    assert upstream.requests[0].header("api-key") is None
    form = parse_qs(endpoint.requests[0].body.decode())
    assert form["client_secret"] == ["entra-secret-canary"]
    assert form["grant_type"] == ["client_credentials"]


@pytest.mark.parametrize(
    "broken",
    [
        plain(200, body=b"<html>", content_type="text/html"),
        plain(200, body=b'{"access_token":"canary\\r\\nx: y","expires_in":3600}'),
        plain(200, body=b"x" * 200_000),
    ],
)
def test_alone_without_a_token_is_said_to_be_so(
    broken: Any, tmp_path: Path, upstream: Upstream, endpoint: Upstream
) -> None:
    endpoint.scripts = [broken]
    made = settings({"dialect": "vertex", "auth": {"metadata_server": True, "token_url": endpoint.url}}, upstream)
    with running(tmp_path, made) as gateway:
        assert eventually(lambda: any("no access token" in line for line in gateway.lines))
        answer = gateway.post(chat())
        assert answer.status_code == 502
        assert answer.json()["error"]["code"] == "upstream_auth"
        (state,) = gateway.get("/v1/targets", admin=True).json()["data"]
        assert (state["state"], state["reason"]) == ("auth", "no_token")
        assert gateway.get("/healthz").status_code == 200
        silent(gateway)
    assert upstream.requests == []


def test_a_token_is_not_used_beyond_its_end(tmp_path: Path, upstream: Upstream, endpoint: Upstream) -> None:
    endpoint.scripts = [token("token-canary-1", 2), plain(500)]
    made = settings({"dialect": "vertex", "auth": {"metadata_server": True, "token_url": endpoint.url}}, upstream)
    with running(tmp_path, made) as gateway:
        assert eventually(lambda: gateway.post(chat()).status_code == 200)
        assert eventually(lambda: gateway.post(chat()).status_code == 502)
        before = len(upstream.requests)
        assert gateway.post(chat()).status_code == 502
    assert len(upstream.requests) == before


def test_a_token_that_the_upstream_refuses_is_replaced(tmp_path: Path, upstream: Upstream, endpoint: Upstream) -> None:
    endpoint.scripts = [token("token-canary-1"), token("token-canary-2")]
    upstream.scripts = [plain(401, body=b'{"error":{"message":"revoked"}}'), plain()]
    made = settings({"dialect": "vertex", "auth": {"metadata_server": True, "token_url": endpoint.url}}, upstream)
    at_once = "import sys; from gateway.proxy import tokens; tokens.RENEW_S = 0.0; from gateway.cli import main; "
    at_once += "sys.exit(main(['serve', '--config', sys.argv[1]]))"
    with running(tmp_path, made, command=("-c", at_once)) as gateway:
        assert eventually(lambda: gateway.post(chat()).headers.get("x-pointsman-target") == "a" and upstream.requests)
        assert eventually(lambda: len(endpoint.requests) == 2)
        assert eventually(lambda: gateway.post(chat()).status_code == 200)
        silent(gateway)
    assert upstream.requests[0].header("authorization") == "Bearer token-canary-1"
    assert upstream.requests[-1].header("authorization") == "Bearer token-canary-2"


def test_a_token_endpoint_cannot_send_us_elsewhere(
    tmp_path: Path, upstream: Upstream, other: Upstream, endpoint: Upstream
) -> None:
    other.scripts = [token("token-of-somebody-else")]
    endpoint.scripts = [plain(307, headers=f"location: {other.url}\r\n")]
    made = settings({"dialect": "vertex", "auth": {"metadata_server": True, "token_url": endpoint.url}}, upstream)
    with running(tmp_path, made) as gateway:
        assert eventually(lambda: any("answered 307" in line for line in gateway.lines))
        assert gateway.post(chat()).status_code == 502
    assert other.requests == []


def test_an_upstream_that_repeats_the_token_does_not_leak_it(
    tmp_path: Path, upstream: Upstream, endpoint: Upstream
) -> None:
    upstream.scripts = [plain(400, body=b'{"error":{"message":"bad header: Bearer token-canary-1"}}')]
    made = settings({"dialect": "vertex", "auth": {"metadata_server": True, "token_url": endpoint.url}}, upstream)
    with running(tmp_path, made) as gateway:
        assert eventually(lambda: gateway.post(chat()).status_code == 400)
        assert gateway.post(chat()).json()["error"]["message"] == "bad header: Bearer ***"


def test_a_key_that_is_changed_leaves_no_moment_without_a_token(
    tmp_path: Path, upstream: Upstream, endpoint: Upstream
) -> None:
    endpoint.scripts = [token("token-canary-1"), plain(500), token("token-canary-2")]
    entra = {"tenant": "contoso.com", "client_id": "app", "client_secret": {"file": "secret"}}
    (tmp_path / "secret").write_text("old-secret-canary")
    made = settings({"dialect": "azure", "auth": {"entra": entra, "token_url": endpoint.url}}, upstream)
    with running(tmp_path, made) as gateway:
        assert eventually(lambda: gateway.post(chat()).status_code == 200)
        (tmp_path / "secret").write_text("new-secret-canary")
        assert eventually(lambda: len(endpoint.requests) == 2, within_s=20)
        assert gateway.post(chat()).status_code == 200  # the endpoint gave none yet
        assert eventually(
            lambda: (
                gateway.post(chat()).status_code == 200
                and upstream.requests[-1].header("authorization") == "Bearer token-canary-2"
            )
        )
        silent(gateway)
    secrets = [parse_qs(one.body.decode())["client_secret"] for one in endpoint.requests]
    assert secrets == [["old-secret-canary"], ["new-secret-canary"], ["new-secret-canary"]]


def test_a_reload_keeps_the_token(tmp_path: Path, upstream: Upstream, endpoint: Upstream) -> None:
    made = settings({"dialect": "vertex", "auth": {"metadata_server": True, "token_url": endpoint.url}}, upstream)
    with running(tmp_path, made) as gateway:
        assert eventually(lambda: gateway.post(chat()).status_code == 200)
        file = tmp_path / "pointsman.yaml"
        file.write_text(re.sub("max_attempts: .*", "", file.read_text()) + "\nmax_attempts: 3\n")
        assert eventually(lambda: any("reloaded" in line for line in gateway.lines), within_s=20)
        assert gateway.post(chat()).status_code == 200
    assert len(endpoint.requests) == 1
