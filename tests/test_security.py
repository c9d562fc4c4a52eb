"""What went wrong at other gateways, tried on a running one: headers, destinations, keys, listeners (S4 to S11, S14).

One gateway with a backend of every dialect, a key that may use little, and an admin listener without a key; another
one that asks for no client's key, as on a developer's machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from gateway.core.servers.dialects import DIALECTS, HOST_MEMBERS
from tests.harness import COMPLETION, KEY, Gateway, Received, Upstream, chat, config, plain, running

SHORT = {"request_head": "1s", "keep_alive": "2s"}
NARROW = "sk-narrow-0123456789"
HOSTED = sorted(DIALECTS.keys() - {"ollama"})
#: All that ever goes upstream with a plain key. `traceparent` is sent where `otlp` is on, see tests/proxy/test_otlp.py.
ALLOWED = {
    "host", "authorization", "user-agent", "accept", "accept-encoding", "content-type", "content-length",
    "x-request-id",
}  # fmt: skip
#: What a client may send, a canary in each.
SENT = dict.fromkeys(
    (
        "accept", "accept-language", "access-control-request-headers", "api-key", "cookie", "date", "dnt", "forwarded",
        "from", "helicone-auth", "http-referer", "if-none-match", "max-forwards", "openai-organization",
        "openai-project", "ocp-apim-subscription-key", "origin", "pragma", "priority", "proxy-authorization", "range",
        "referer", "te", "trailer", "user-agent", "via", "warning", "x-amz-security-token", "x-api-key",
        "x-client-cert", "x-cloud-trace-context", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto",
        "x-goog-api-key", "x-goog-user-project", "x-http-method-override", "x-original-url", "x-portkey-config",
        "x-real-ip", "x-request-id", "x-rewrite-url", "x-session-affinity", "x-stainless-arch", "x-title",
        "x-upstream", "x-vllm-endpoint", "x-pointsman-conversation", "x-pointsman-workload", "x-anything",
    ),
    "canary-wagtail",
) | {
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "tracestate": "canary=wagtail",
    "baggage": "canary=wagtail",
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Upstream]]:
    with ExitStack() as stack:
        upstream = Upstream([answered])
        stack.callback(upstream.close)
        settings = config({})
        for dialect in DIALECTS:
            backend = {"dialect": dialect, "base_url": upstream.url, "key": {"env": "UPSTREAM_KEY"}}
            if dialect == "ollama":
                backend |= {"base_url": upstream.url.removesuffix("/v1")}
            settings["backends"][dialect] = backend
            settings["targets"][dialect] = {
                "model": "qwen3.5-35b-a3b", "backend": dialect, "upstream_id": "m", "window": "128k",
                "price": {"input": 1, "output": 1},
            }  # fmt: skip
        settings["models"] = {"mine": "vllm", "theirs": "groq"}
        settings["keys"].append(
            {
                "name": "narrow",
                "sha256": hashlib.sha256(NARROW.encode()).hexdigest(),
                "allow": ["mine"],
                "explain": True,
            }
        )
        yield stack.enter_context(running(tmp_path_factory.mktemp("security"), settings)), upstream


def answered(conn: socket.socket, asked: Received) -> bool:
    if b" /api/chat " in asked.head:
        said = {
            "model": "m",
            "message": {"role": "assistant", "content": "Hello."},
            "done": True,
            "done_reason": "stop",
        }
        return plain(body=json.dumps(said).encode())(conn, asked)
    return plain(body=json.dumps(COMPLETION).encode())(conn, asked)


@pytest.fixture
def gateway(made: tuple[Gateway, Upstream]) -> Gateway:
    made[1].requests.clear()
    return made[0]


@pytest.fixture
def upstream(made: tuple[Gateway, Upstream]) -> Upstream:
    return made[1]


def names(asked: Received) -> list[str]:
    return [line.partition(b":")[0].decode().lower() for line in asked.head.split(b"\r\n")[1:]]


# -- outgoing headers (S14) and destinations (S8, S9) --


@pytest.mark.parametrize("dialect", DIALECTS)
def test_no_header_of_a_client_goes_upstream(gateway: Gateway, upstream: Upstream, dialect: str) -> None:
    headers = SENT | {"authorization": f"Bearer {KEY}"}
    answer = httpx.post(gateway.public + "/v1/chat/completions", json=chat(dialect), headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    [asked] = upstream.requests
    key = DIALECTS[dialect].auth[0].lower()
    assert set(names(asked)) == ALLOWED - {"authorization"} | {key} | DIALECTS[dialect].headers.keys()
    assert len(names(asked)) == len(set(names(asked)))
    assert b"wagtail" not in asked.head
    assert KEY not in asked.head.decode()
    assert asked.header("accept-encoding") == "identity"
    assert asked.header("user-agent") == "pointsman"
    assert asked.header("x-request-id") == answer.headers["x-request-id"]
    assert asked.header("host") == f"127.0.0.1:{upstream.port}"


@pytest.mark.parametrize("path", ["/v1/explain", "/v1/models", "/v1/models/vllm", "/v1/embeddings", "/v1/files"])
def test_no_other_call_reaches_an_upstream_at_all(gateway: Gateway, upstream: Upstream, path: str) -> None:
    for method in ("GET", "POST"):
        httpx.request(method, gateway.public + path, json=chat("vllm"), headers={"authorization": f"Bearer {KEY}"})
    assert upstream.requests == []


@pytest.mark.parametrize("dialect", DIALECTS)
def test_nothing_in_a_request_names_where_it_goes(gateway: Gateway, upstream: Upstream, dialect: str) -> None:
    trap = Upstream([plain()])
    try:
        url = f"http://127.0.0.1:{trap.port}/v1"
        image = {"type": "image_url", "image_url": {"url": url + "/cat.png"}}
        parts = [{"type": "text", "text": f"look at {url}"}, image]
        body = chat(dialect) | dict.fromkeys(HOST_MEMBERS, url)
        headers = {"host": f"127.0.0.1:{trap.port}", "x-forwarded-host": f"127.0.0.1:{trap.port}", "x-upstream": url}
        assert gateway.post(body, **headers).status_code in (200, 400)
        body["messages"] = [{"role": "user", "content": parts}]
        gateway.post(body, **headers)
        httpx.post(
            gateway.public + "/v1/explain",
            json={**body, "model": "auto"},
            headers=headers | {"authorization": f"Bearer {KEY}"},
        )
        for asked in upstream.requests:
            assert not HOST_MEMBERS & asked.json.keys()
        assert trap.connections == 0
    finally:
        trap.close()


def test_a_request_target_with_a_host_of_its_own_goes_where_all_go(gateway: Gateway, upstream: Upstream) -> None:
    trap = Upstream([plain()])
    body = json.dumps(chat("vllm")).encode()
    for target, status in (
        (f"http://127.0.0.1:{trap.port}/v1/chat/completions", 200),
        (f"//127.0.0.1:{trap.port}/v1/chat/completions", 404),
    ):
        said = raw(gateway, f"POST {target} HTTP/1.1\r\nHost: 127.0.0.1:{trap.port}\r\n{bearer(KEY)}", body)
        assert said.startswith(b"HTTP/1.1 %d" % status)
    assert (trap.connections, len(upstream.requests)) == (0, 1)
    trap.close()


def raw(gateway: Gateway, head: str, body: bytes = b"", *, admin: bool = False) -> bytes:
    port = int((gateway.admin if admin else gateway.public).rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=30) as conn:
        conn.sendall(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        answer = b""
        while more := conn.recv(65_536):
            answer += more
    return answer


def bearer(key: str) -> str:
    return f"Authorization: Bearer {key}\r\n"


# -- keys (S2, S11, S23) --


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/explain"])
@pytest.mark.parametrize(
    ("asked", "hints"),
    [
        ("groq", {}), ("theirs", {}), ("auto", {}), ("qwen3.5-35b-a3b", {}), ("auto/default", {}),
        ("mine", {"x_pointsman_policy": "default"}), ("groq", {"x_pointsman_workload": "mine"}),
    ],
)  # fmt: skip
def test_what_a_key_may_not_use_it_gets_by_no_name_on_no_path(
    gateway: Gateway, upstream: Upstream, path: str, asked: str, hints: dict[str, str]
) -> None:
    for more in ({}, {"x-api-key": KEY, "api-key": KEY, "cookie": f"key={KEY}"}):
        answer = gateway.post(chat(asked), path=path, key=NARROW, **hints, **more)
        if answer.status_code == 200:  # a hint that narrows nothing: what it led to is still what the key may use
            assert asked == "mine"
            assert (answer.json().get("candidates") or [answer.headers["x-pointsman-target"]]) == ["vllm"]
        else:
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "model_not_allowed")
    assert all(b"groq" not in one.head for one in upstream.requests)
    assert gateway.post(chat("mine"), path=path, key=NARROW).status_code == 200


@pytest.mark.parametrize("name", ["groq", "theirs", "auto", "qwen3.5-35b-a3b"])
def test_a_model_that_a_key_may_not_use_is_not_shown_to_it_either(gateway: Gateway, name: str) -> None:
    headers = {"authorization": f"Bearer {NARROW}"}
    assert httpx.get(f"{gateway.public}/v1/models/{name}", headers=headers).status_code == 404
    assert name not in [one["id"] for one in httpx.get(f"{gateway.public}/v1/models", headers=headers).json()["data"]]


@pytest.mark.parametrize("header", ["x-api-key", "api-key", "x-goog-api-key", "cookie", "proxy-authorization"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/explain", "/v1/models"])
def test_a_key_counts_in_one_header_only(gateway: Gateway, path: str, header: str) -> None:
    method = "GET" if path == "/v1/models" else "POST"
    for value in (KEY, f"Bearer {KEY}"):
        answer = httpx.request(method, gateway.public + path, json=chat("vllm"), headers={header: value})
        assert answer.status_code == 401
    assert httpx.request(method, f"{gateway.public}{path}?api_key={KEY}&key={KEY}").status_code == 401


@pytest.mark.parametrize(
    "key",
    ["x" * 7, "x" * 257, "x" * 60_000, "' OR 1=1 --", "sk-\x01\x02\x03\x04\x05", "ключ-ключ-ключ", "sk test 0123456789",
     "../../../etc/passwd", "${jndi:ldap://x}", "%00%00%00%00%00", "sk-test-0123456789,", "*" * 32],
)  # fmt: skip
def test_what_is_no_key_is_refused_before_it_is_looked_up_and_alike(gateway: Gateway, key: str) -> None:
    wrong = gateway.post(chat("vllm"), key="sk-wrong-0123456789")
    for path in ("/v1/chat/completions", "/v1/explain"):
        said = raw(gateway, f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n", b"{}")
        status = int(said.split()[1])
        assert status in (400, 401), said
        if status == 401 and path == "/v1/chat/completions":
            assert json.loads(said.partition(b"\r\n\r\n")[2]) == wrong.json()


# -- listeners (S4, S15) --

TRICKS = [
    "/metrics", "//metrics", "/./metrics", "/healthz/../metrics", "/%6detrics", "/metrics/", "/METRICS", "/metrics;a",
    "/healthz/%2e%2e/metrics", "/v1/targets", "/v1/usage", "/v1/usage?by=key", "/v1/decisions/" + "0" * 32,
    "//v1/targets", "/v1/%74argets", "http://x/v1/targets", "http://127.0.0.1/healthz/../v1/targets", "/openapi.json",
    "/docs", "/redoc", "/v1/reload",
]  # fmt: skip
HOSTS = [
    "x",
    "healthz",
    "127.0.0.1:1@x",
    "x/healthz?",
    "localhost.example.com",
    "127.0.0.1.example.com",
    "x#",
    "[::1]x",
]


@pytest.mark.parametrize("path", TRICKS)
def test_nothing_of_the_admin_listener_is_on_the_public_one(gateway: Gateway, path: str) -> None:
    for method in ("GET", "POST"):
        for host in ("127.0.0.1:8081", "admin", "localhost:8081"):
            said = raw(gateway, f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{bearer(KEY)}")
            assert int(said.split()[1]) in (400, 404, 405), said
            assert b"pointsman_" not in said


@pytest.mark.parametrize("path", TRICKS)
@pytest.mark.parametrize("host", HOSTS)
def test_a_page_that_gave_this_machine_a_name_of_its_own_reads_nothing(
    gateway: Gateway, keyless: Gateway, path: str, host: str
) -> None:
    for method in ("GET", "POST"):
        for one in (gateway, keyless):
            said = raw(one, f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n", admin=True)
            assert int(said.split()[1]) in (400, 403, 404, 405), (one, said)
    said = raw(keyless, f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\n", json.dumps(chat()).encode())
    assert int(said.split()[1]) in (400, 403)


@pytest.fixture(scope="module")
def keyless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    upstream = Upstream([plain()])
    with running(tmp_path_factory.mktemp("keyless"), config({"a": upstream}, keys=[], limits=SHORT)) as gateway:
        yield gateway
    upstream.close()


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:3000", "http://127.0.0.1:1"])
def test_without_keys_no_page_of_another_site_is_served(keyless: Gateway, origin: str) -> None:
    headers = {"origin": origin, "content-type": "text/plain"}
    refused = httpx.post(keyless.public + "/v1/chat/completions", json=chat(), headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "policy_denied")
    assert "access-control-allow-origin" not in refused.headers
    for path in ("/v1/models", "/v1/explain"):
        assert httpx.post(keyless.public + path, json=chat(), headers=headers).status_code in (403, 405)
    assert httpx.post(keyless.admin + "/v1/reload", headers=headers).status_code == 403
    for path in ("/metrics", "/v1/targets"):
        assert httpx.get(keyless.admin + path, headers=headers).status_code == 403


def test_half_a_request_is_not_waited_for_without_end_on_either_listener(keyless: Gateway) -> None:
    halves = (b"", b"GET /metr", b"POST /v1/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
    whole = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    open_ones = []
    for base in (keyless.admin, keyless.public):
        for half in (*halves, *([whole + halves[1]] if base == keyless.public else [])):
            open_ones.append(conn := socket.create_connection(("127.0.0.1", int(base.rsplit(":", 1)[1])), timeout=20))
            conn.sendall(half)
    for conn in open_ones:
        with conn, contextlib.suppress(ConnectionResetError):
            while conn.recv(65_536):
                pass


def test_a_page_is_not_served_behind_one_that_may_be_on_its_connection(keyless: Gateway) -> None:
    body = json.dumps(chat()).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\nOrigin: "
    with keyless.connect() as conn:
        for origin, status in (("http://127.0.0.1", 200), ("http://127.0.0.1", 200), ("https://evil.examp", 403)):
            conn.sendall(f"{head}{origin}\r\n\r\n".encode() + body)
            answer = b""
            while b"}" not in answer[-2:]:
                answer += conn.recv(65_536)
            assert int(answer.split()[1]) == status


def test_without_keys_this_machine_is_served_by_any_of_its_names(keyless: Gateway) -> None:
    port = keyless.port
    for host in (
        "127.0.0.1",
        f"127.0.0.1:{port}",
        "localhost",
        f"LOCALHOST:{port}",
        "[::1]",
        f"[::1]:{port}",
        "10.0.0.7",
    ):
        said = raw(keyless, f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\n", json.dumps(chat()).encode())
        assert said.startswith(b"HTTP/1.1 200"), (host, said)
        said = raw(keyless, f"GET /metrics HTTP/1.1\r\nHost: {host}\r\n", admin=True)
        assert said.startswith(b"HTTP/1.1 200"), (host, said)
    own = {"origin": keyless.public}
    assert httpx.post(keyless.public + "/v1/chat/completions", json=chat(), headers=own).status_code == 200


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        ("application/openmetrics-text", True),
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3", True),
        ("text/plain, Application/OpenMetrics-Text ; q=0.001", True),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text; q=0.000, text/plain", False),
        ("application/openmetrics-text-not", False),
        ("text/plain", False),
        ("*/*", False),
        (",;,q=0;", False),
    ],
)
def test_a_scrape_has_the_form_that_was_asked_for(gateway: Gateway, accept: str, openmetrics: bool) -> None:
    kind = httpx.get(gateway.admin + "/metrics", headers={"accept": accept}).headers["content-type"]
    assert kind.startswith("application/openmetrics-text" if openmetrics else "text/plain")
