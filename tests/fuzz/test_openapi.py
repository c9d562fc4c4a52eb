"""Whatever is asked of the control plane, it answers as its OpenAPI document says, never with a fault of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.openapi import ADMIN, documents
from tests.harness import KEY, Gateway, Upstream, chat, config, plain, running

DOCUMENTS = documents()
OPERATIONS = [
    (listener, method, path)
    for listener, document in DOCUMENTS.items()
    for path, methods in document["paths"].items()
    for method in methods
]
PARAMETERS = ("by", "since", "until", "last", "day_zone", "key", "own", "limit", "x")
TEXTS = st.text(max_size=20) | st.sampled_from(
    ["a", "0" * 32, "key,model", "7d", "-1", "1e9", "2026-11-21", "\0", "../.."]
)
HEADERS = st.dictionaries(
    st.sampled_from(
        ["accept", "content-type", "content-encoding", "x-pointsman-policy", "x-pointsman-timeout-ms", "range"]
    ),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30)
    | st.sampled_from(["*/*;q=0", "application/openmetrics-text;q=x", "gzip", "bytes=0-"]),
    max_size=3,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
MEMBERS = st.dictionaries(
    st.sampled_from(["model", "messages", "stream", "tools", "n", "max_tokens", "response_format", "metadata", "stop"]),
    JSON,
    max_size=4,
)
BODIES = (
    st.binary(max_size=60)
    | JSON.map(lambda value: json.dumps(value).encode())
    | MEMBERS.map(lambda members: json.dumps({**chat(), **members}).encode())
)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    upstream = Upstream([plain()])
    made = config({"a": upstream}, admin_key={"env": "ADMIN_KEY"})
    with running(tmp_path_factory.mktemp("openapi"), made, ADMIN_KEY=ADMIN) as running_one:
        yield running_one
        assert [line for line in running_one.lines if "Traceback" in line] == []
    upstream.close()


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=30) as made:
        yield made


def documented(document: dict[str, Any], method: str, path: str, answer: httpx.Response) -> None:
    """The answer is one of those that the document has for this operation."""
    responses = document["paths"][path][method]["responses"]
    status = str(answer.status_code)
    said = responses.get(status) or responses.get(f"{status[0]}XX")
    assert said is not None, f"{method} {path} answered {status}: {answer.text[:200]}"
    kind = answer.headers["content-type"].partition(";")[0]
    assert kind in said["content"]
    if kind == "application/json":
        schema = said["content"][kind]["schema"]
        assert jsonschema.Draft202012Validator(schema).is_valid(answer.json()), answer.text


@pytest.mark.parametrize(("listener", "method", "path"), OPERATIONS)
def test_every_answer_is_as_documented(
    gateway: Gateway, client: httpx.Client, listener: str, method: str, path: str
) -> None:
    base = gateway.public if listener == "public" else gateway.admin
    reload = path == "/v1/reload"  # loads files anew each time

    @settings(max_examples=1 if reload else 40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        name=TEXTS, query=st.dictionaries(st.sampled_from(PARAMETERS), TEXTS, max_size=3), headers=HEADERS, body=BODIES,
        authorized=st.sampled_from([True, True, True, False]),
    )  # fmt: skip
    def ask(name: str, query: dict[str, str], headers: dict[str, str], body: bytes, authorized: bool) -> None:
        key = KEY if listener == "public" else ADMIN
        given_key = {"authorization": f"Bearer {key}"} if authorized else {}
        named = path.replace("{name}", quote(name, safe="")).replace("{request_id}", quote(name, safe=""))
        if named.endswith("/") or "//" in named or "/." in named:  # httpx would ask for another path
            named = path.replace("{name}", "a").replace("{request_id}", "0" * 32)
        answer = client.request(
            method, base + named, params=query, headers=headers | given_key, content=body if method == "post" else None
        )
        if answer.status_code == 404 and ("/" in name or "\n" in name):  # not a part of a path: another path
            return
        documented(DOCUMENTS[listener], method, path, answer)
        assert authorized or answer.status_code in (401, 415) or path in ("/healthz", "/readyz")

    ask()


def test_every_route_is_documented_and_the_documents_are_openapi() -> None:
    assert len(OPERATIONS) >= 14
    for document in DOCUMENTS.values():
        assert document["openapi"].startswith("3.1")
        for methods in document["paths"].values():
            for operation in methods.values():
                assert operation["description"]
                assert "4XX" in operation["responses"]
                for response in operation["responses"].values():
                    for content in response["content"].values():
                        jsonschema.Draft202012Validator.check_schema(content["schema"])
