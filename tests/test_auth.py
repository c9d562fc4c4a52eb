"""`auth:` and the addresses of the clouds: what may be written, and what a person is told where it may not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from gateway.addresses import endpoint
from gateway.auth import AuthDoc, credential
from gateway.clouds import check_addresses, region_of
from gateway.core.errors import ConfigError
from gateway.core.quantities import Invalid
from gateway.core.servers.credentials import AwsKeys, ClientSecret, MetadataServer, ServiceAccount
from gateway.core.servers.dialects import prepare
from gateway.site import load_site

RUNTIME = endpoint("https://bedrock-runtime.eu-west-1.amazonaws.com/openai/v1")
MANTLE = endpoint("https://bedrock-mantle.us-east-1.api.aws/v1")
ELSEWHERE = endpoint("http://127.0.0.1:9/v1")
ENVIRON = {"AK": "AKIA1", "SK": "sk-canary", "TOKEN": "tok-canary"}
AWS = {"access_key": {"env": "AK"}, "secret_key": {"env": "SK"}}


def pem() -> str:
    pytest.importorskip("cryptography", reason="the extra google is not installed")
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = rsa.generate_private_key(65537, 2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def key_file(directory: Path, **over: object) -> Path:
    key = {
        "type": "service_account",
        "client_email": "robot@p.iam.gserviceaccount.com",
        "private_key_id": "kid",
        "private_key": "none",
        "token_uri": "https://oauth2.googleapis.com/token",
        **over,
    }
    path = directory / "sa.json"
    path.write_text(json.dumps({name: value for name, value in key.items() if value is not None}))
    return path


def made(doc: dict[str, object], *places: object, directory: Path = Path()) -> object:
    return credential(AuthDoc.model_validate(doc), places or (ELSEWHERE,), ENVIRON, directory)  # type: ignore[arg-type]


# AWS.


def test_region_and_service_come_from_the_address() -> None:
    for place, region, service in ((RUNTIME, "eu-west-1", "bedrock"), (MANTLE, "us-east-1", "bedrock-mantle")):
        keys = made({"aws": AWS}, place)
        assert isinstance(keys, AwsKeys)
        assert (keys.access_key, keys.region, keys.service) == ("AKIA1", region, service)
        assert keys.secret_key.reveal() == "sk-canary"
        assert keys.secrets() == ("sk-canary",)
    keys = made({"aws": {**AWS, "session_token": {"env": "TOKEN"}, "region": "eu-north-1", "service": "sagemaker"}})
    assert isinstance(keys, AwsKeys)
    assert (keys.region, keys.service) == ("eu-north-1", "sagemaker")
    assert keys.secrets() == ("sk-canary", "tok-canary")


@pytest.mark.parametrize(
    ("aws", "places", "says"),
    [
        ({}, (ELSEWHERE,), "names no region"),
        ({"region": "us-east-1"}, (RUNTIME,), "the address is in eu-west-1"),
        ({}, (RUNTIME, MANTLE), "different regions"),
        ({"secret_key": {"env": "NONE"}}, (RUNTIME,), "NONE is not set"),
    ],
)
def test_keys_that_could_sign_nothing_are_refused(
    aws: dict[str, object], places: tuple[object, ...], says: str
) -> None:
    with pytest.raises(Invalid) as caught:
        made({"aws": {**AWS, **aws}}, *places)
    assert says in caught.value.what


# Google and Microsoft.


def test_a_service_account_s_key_file_is_read(tmp_path: Path) -> None:
    text = pem()
    key_file(tmp_path, private_key=text)
    account = made({"service_account": {"file": "sa.json"}}, directory=tmp_path)
    assert isinstance(account, ServiceAccount)
    assert account.email == "robot@p.iam.gserviceaccount.com"
    assert account.url == "https://oauth2.googleapis.com/token"
    assert account.private_key.reveal() == text
    moved = made({"service_account": {"file": "sa.json"}, "token_url": "https://private.test/t"}, directory=tmp_path)
    assert isinstance(moved, ServiceAccount)
    assert moved.url == "https://private.test/t"


@pytest.mark.parametrize(
    ("over", "says"),
    [
        ({"type": "authorized_user"}, "does not hold a service account's key"),
        ({"client_email": None}, "lacks client_email"),
        ({"private_key": 7}, "lacks"),
        ({"private_key": "-----BEGIN canary"}, "no RSA key in PEM"),
        ({"token_uri": "https://evil.test/token"}, "is not Google's"),
        ({"token_uri": None}, "is not Google's"),
    ],
)
def test_a_wrong_key_file_says_what_is_wrong_and_shows_nothing_of_it(
    over: dict[str, object], says: str, tmp_path: Path
) -> None:
    pytest.importorskip("cryptography", reason="the extra google is not installed")
    key_file(tmp_path, **over)
    with pytest.raises(Invalid) as caught:
        made({"service_account": {"file": "sa.json"}}, directory=tmp_path)
    assert says in caught.value.what
    assert "canary" not in str(caught.value.what) + str(caught.value.valid)


def test_a_file_that_is_no_json_is_no_key(tmp_path: Path) -> None:
    (tmp_path / "sa.json").write_text("AIza-canary")
    with pytest.raises(Invalid, match="does not hold a service account") as caught:
        made({"service_account": {"file": "sa.json"}}, directory=tmp_path)
    assert "canary" not in str(caught.value)


def test_the_other_grants() -> None:
    assert made({"metadata_server": True}) == MetadataServer()
    assert made({"metadata_server": True, "token_url": "http://10.0.0.1/t"}) == MetadataServer("http://10.0.0.1/t")
    entra = made({"entra": {"tenant": "contoso.com", "client_id": "app", "client_secret": {"env": "SK"}}})
    assert isinstance(entra, ClientSecret)
    assert entra.url == "https://login.microsoftonline.com/contoso.com/oauth2/v2.0/token"
    assert "canary" not in repr(entra)


@pytest.mark.parametrize(
    "doc",
    [
        {},
        {"metadata_server": True, "aws": AWS},
        {"metadata_server": False},
        {"aws": AWS, "token_url": "https://a.test"},
        {"service_account": {"file": "x"}, "token_url": "http://a.test/token"},
        {"entra": {"tenant": "a/b", "client_id": "x", "client_secret": {"env": "SK"}}},
        {"aws": {"access_key": "AKIA", "secret_key": {"env": "SK"}}},
        {"oauth": {}},
    ],
)
def test_what_is_no_credential_is_refused(doc: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        AuthDoc.model_validate(doc)


# Addresses.


@pytest.mark.parametrize(
    ("dialect", "url", "version"),
    [
        ("azure", "https://r.openai.azure.com/openai/v1", None),
        ("azure", "https://r.openai.azure.com/openai/v1", "preview"),
        ("azure", "https://r.openai.azure.com/openai", "2024-10-21"),
        ("azure", "https://r.services.ai.azure.com/models", "2024-05-01-preview"),
        ("azure", "https://r.cognitiveservices.azure.com/openai/v1", None),
        ("azure", "http://127.0.0.1:9/v1", None),
        (
            "vertex",
            "https://us-east5-aiplatform.googleapis.com/v1/projects/p/locations/us-east5/endpoints/openapi",
            None,
        ),
        ("vertex", "https://aiplatform.googleapis.com/v1beta1/projects/p/locations/global/endpoints/openapi", None),
        ("vertex", "http://127.0.0.1:9/v1", None),
        ("bedrock", RUNTIME.url, None),
        ("bedrock", MANTLE.url, None),
        ("bedrock", "https://bedrock-mantle.us-east-1.api.aws/openai/v1", None),
        ("bedrock", "https://vpce-1.bedrock-runtime.eu-west-1.vpce.amazonaws.com/openai/v1", None),
        ("openai", "https://api.openai.com/v1", None),
    ],
)
def test_an_address_of_the_right_form_is_taken(dialect: str, url: str, version: str | None) -> None:
    check_addresses(dialect, [endpoint(url)], version)


@pytest.mark.parametrize(
    ("dialect", "url", "version", "says"),
    [
        ("openai", "https://api.openai.com/v1", "2024-10-21", "only Azure has an api_version"),
        ("azure", "https://r.openai.azure.com", None, "no chat completions under /"),
        ("azure", "https://r.openai.azure.com/v1", None, "no chat completions under /v1"),
        ("azure", "https://r.openai.azure.com/openai", None, "needs an api_version"),
        ("azure", "https://r.services.ai.azure.com/models", None, "needs an api_version"),
        ("azure", "https://r.openai.azure.com/openai/deployments/gpt", "2024-10-21", "a deployment is a target"),
        ("vertex", "https://us-east5-aiplatform.googleapis.com/v1", None, "no chat completions under /v1"),
        (
            "vertex",
            "https://us-east5-aiplatform.googleapis.com/v1/projects/p/locations/global/endpoints/openapi",
            None,
            "the host is for us-east5, the path for global",
        ),
        ("bedrock", "https://bedrock-runtime.eu-west-1.amazonaws.com", None, "no chat completions under /"),
        ("bedrock", "https://bedrock-runtime.eu-west-1.amazonaws.com/model", None, "no chat completions"),
    ],
)
def test_an_address_that_cannot_be_meant_is_told(dialect: str, url: str, version: str | None, says: str) -> None:
    with pytest.raises(Invalid) as caught:
        check_addresses(dialect, [endpoint(url)], version)
    assert says in caught.value.what
    assert caught.value.valid


def test_endpoints_of_two_azure_apis_are_not_replicas() -> None:
    places = [endpoint("https://a.openai.azure.com/openai/v1"), endpoint("https://b.openai.azure.com/openai")]
    with pytest.raises(Invalid, match="different APIs"):
        check_addresses("azure", places, "2024-10-21")


def test_an_address_names_its_region() -> None:
    assert region_of(RUNTIME) == "eu-west-1"
    assert region_of(MANTLE) == "us-east-1"
    assert region_of(endpoint("https://europe-west4-aiplatform.googleapis.com/v1")) == "europe-west4"
    assert region_of(endpoint("https://aiplatform.googleapis.com/v1")) is None
    assert region_of(ELSEWHERE) is None


# In the file.

FILE = """\
backends:
  b: {{dialect: bedrock, base_url: "https://bedrock-runtime.eu-west-1.amazonaws.com/openai/v1", {more}}}
targets:
  t: {{model: llama-3.3-70b, backend: b, upstream_id: m, window: 128k, price: none}}
"""


def test_a_backend_holds_its_credential_and_its_region(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(
        FILE.format(more="auth: {aws: {access_key: {env: AK}, secret_key: {file: secret}}}")
    )
    (tmp_path / "secret").write_text("sk-canary\n")
    site = load_site(tmp_path / "p.yaml", ENVIRON, tests=False)
    backend = site.fleet.targets[0].backend
    assert isinstance(backend.auth, AwsKeys)
    assert backend.region == "eu-west-1"
    assert tmp_path / "secret" in site.watched()  # a key that is changed is read again
    assert "canary" not in repr(site)
    without = load_site(tmp_path / "p.yaml", {}, secrets=False, tests=False)
    assert without.fleet.targets[0].backend.auth is None


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("key: {env: SK}, auth: {metadata_server: true}", "has both key and auth"),
        ("auth: {aws: {access_key: {env: AK}, secret_key: {env: NONE}}}", "backends.b.auth: environment variable NONE"),
        ("api_version: preview", "backends.b.base_url: only Azure has an api_version"),
        ("api_version: 'a b'", "api_version"),
    ],
)
def test_a_wrong_credential_is_told_with_its_line(more: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(FILE.format(more=more))
    with pytest.raises(ConfigError) as caught:
        load_site(tmp_path / "p.yaml", ENVIRON, tests=False)
    assert says in str(caught.value)
    assert "p.yaml:2" in str(caught.value)
    assert "canary" not in str(caught.value)


def test_a_dialect_of_one_s_own_is_judged_as_what_it_is_like(tmp_path: Path) -> None:
    text = FILE.replace("{more}", "{{more}}").replace("dialect: bedrock", "dialect: mine")
    for like, url, version, says in (
        ("azure", "https://r.openai.azure.com/openai", "2024-10-21", ""),
        ("azure", "https://r.openai.azure.com/openai", None, "needs an api_version"),
        ("openai", "https://r.openai.azure.com/openai", "2024-10-21", "only Azure"),
        ("ollama", "http://127.0.0.1:11434", None, ""),
        ("ollama", "http://127.0.0.1:11434/v1", None, "by its own API"),
    ):
        more = f"self_hosted: true{f', api_version: {version}' if version else ''}"
        written = f"dialects: {{mine: {{like: {like}}}}}\n" + text.format().replace("{more}", more)
        written = written.replace("https://bedrock-runtime.eu-west-1.amazonaws.com/openai/v1", url)
        (tmp_path / "p.yaml").write_text(written)
        if says:
            with pytest.raises(ConfigError, match=says):
                load_site(tmp_path / "p.yaml", {}, tests=False)
        else:
            (target,) = load_site(tmp_path / "p.yaml", {}, tests=False).fleet.targets
            path = "/api/chat" if like == "ollama" else "/deployments/m/chat/completions?api-version=2024-10-21"
            assert prepare(target).path == path


def test_a_token_that_would_travel_in_the_open_is_warned_of(tmp_path: Path) -> None:
    for more, warned in (("auth: {metadata_server: true}", True), (f"auth: {{aws: {json.dumps(AWS)}}}", False)):
        (tmp_path / "p.yaml").write_text(FILE.format(more=more).replace("https://bedrock-runtime.eu", "http://x.eu"))
        text = (tmp_path / "p.yaml").read_text().replace('"SK"}', '"SK"}, region: r')
        (tmp_path / "p.yaml").write_text(text)
        site = load_site(tmp_path / "p.yaml", ENVIRON, tests=False)
        assert any("travel unencrypted" in warning for warning in site.warnings) == warned


def test_an_access_token_as_a_vertex_key_is_warned_of(tmp_path: Path) -> None:
    text = FILE.replace("bedrock, base_url", "vertex, base_url").format(more="key: {env: SK}")
    (tmp_path / "p.yaml").write_text(text.replace("https://bedrock-runtime.eu-west-1.amazonaws.com", "https://x.test"))
    site = load_site(tmp_path / "p.yaml", ENVIRON, tests=False)
    assert any("access tokens" in warning for warning in site.warnings)
