"""The control plane of a running gateway: what it tells, to whom, and that everything else asks for a key first."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, cast

import httpx
import pytest
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from gateway.control import admin_app, public_app
from tests.harness import KEY, STREAM, Gateway, Script, Upstream, chat, config, plain, running, stream

OTHER, PLAIN, NARROW, OLD = (f"sk-{name}-0123456789" for name in ("other", "plain", "narrow", "old"))
ADMIN = "adm-0123456789"
SECRET = "Xyzzy-canary-7f3a"  # stands in prompts: nothing of the control plane may repeat it
POLICY = """\
policy: home
tokens_by: qwen3.5
constraints:
  - {id: eu, because: licence, when: {tenant.domicile: {in: "@eu"}}, forbid: {target.name: {in: [b]}}}
  - {id: shy, when: {headers.x-shy: "yes"}, avoid: {target.name: a}}
  - {id: key, when: {headers.authorization: {known: true}}, forbid: {target.name: a}}
rules:
  - {id: long, because: long texts, when: {context_tokens: {gt: 20k}}, use: [{target.name: b}]}
  - {id: none, when: {workload: nowhere}, use: [{model: qwen3.5-9b}]}
  - {id: default, use: [{target.name: a}, {target.name: b}], because: all else}
"""


def key(name: str, value: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "sha256": hashlib.sha256(value.encode()).hexdigest(), **more}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, dict[str, Upstream]]]:
    """A gateway with five keys, and targets a to d of which c and d are there to be broken."""
    directory = tmp_path_factory.mktemp("control")
    (directory / "policies").mkdir()
    (directory / "policies" / "home.yaml").write_text(POLICY)
    ups = {name: Upstream([plain()]) for name in "abcd"}
    settings = config(ups, policies={"dir": "policies", "default": "home"}, models={"gpt-4o": "auto", "mine": "b"})
    settings["keys"] += [
        key("other", OTHER, explain=True, tenant={"domicile": "DE"}),
        key("plain", PLAIN),
        key("narrow", NARROW, allow=["a", "mine"], explain=True),
        key("old", OLD, expires="2020-01-01"),
    ]
    with ExitStack() as stack:
        for upstream in ups.values():
            stack.callback(upstream.close)
        yield stack.enter_context(running(directory, settings)), ups


@pytest.fixture
def gateway(parts: tuple[Gateway, dict[str, Upstream]]) -> Gateway:
    for upstream in parts[1].values():
        play(upstream, plain())
    return parts[0]


@pytest.fixture
def ups(parts: tuple[Gateway, dict[str, Upstream]]) -> dict[str, Upstream]:
    return parts[1]


def play(upstream: Upstream, *scripts: Script) -> None:
    upstream.scripts[:] = scripts
    upstream.requests.clear()


def ask(gateway: Gateway, path: str, with_key: str | None = KEY, method: str = "GET", **more: Any) -> httpx.Response:
    headers = {} if with_key is None else {"authorization": f"Bearer {with_key}"}
    return httpx.request(method, gateway.public + path, headers=headers | more.pop("headers", {}), timeout=30, **more)


def explained(gateway: Gateway, body: Any, with_key: str = KEY, **headers: str) -> dict[str, Any]:
    answer = gateway.post(body, path="/v1/explain", key=with_key, **headers)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def error(answer: httpx.Response) -> tuple[int, str]:
    """Status and code; the body must be OpenAI's shape and the headers say who refused."""
    told = answer.json()["error"]
    assert set(told) == {"message", "type", "param", "code"}
    assert answer.headers["x-pointsman-origin"] == "gateway"
    assert len(answer.headers["x-request-id"]) == 32
    return answer.status_code, told["code"]


# -- models --


def test_models_lists_what_may_be_sent_as_model_with_facts_beside_it(gateway: Gateway) -> None:
    told = ask(gateway, "/v1/models").json()
    assert told["object"] == "list"
    entries = {entry["id"]: entry for entry in told["data"]}
    assert {"auto", "auto/home", "gpt-4o", "mine", "a", "b", "c", "d", "llama-3.3-70b"} <= entries.keys()
    assert all(entry["object"] == "model" and type(entry["created"]) is int for entry in told["data"])
    assert entries["auto"]["owned_by"] == "pointsman"
    assert entries["auto"]["pointsman"]["policy"].startswith("home@")
    assert entries["mine"]["owned_by"] == "llama"
    facts = entries["mine"]["pointsman"]
    assert (facts["model"], facts["targets"], facts["window_tokens"]) == ("llama-3.3-70b", ["b"], 128_000)
    assert entries["llama-3.3-70b"]["pointsman"]["targets"] == ["a", "b", "c", "d"]


def test_a_key_sees_only_the_models_that_it_may_use(gateway: Gateway) -> None:
    assert {entry["id"] for entry in ask(gateway, "/v1/models", NARROW).json()["data"]} == {"a", "b", "mine"}
    assert gateway.post(chat("a"), key=NARROW).status_code == 200
    assert error(gateway.post(chat("auto"), key=NARROW)) == (403, "model_not_allowed")


def test_one_model_is_told_under_its_name_even_with_a_slash(gateway: Gateway) -> None:
    assert ask(gateway, "/v1/models/auto/home").json()["id"] == "auto/home"
    assert ask(gateway, "/v1/models/meta-llama/Llama-3.3-70B-Instruct").json()["pointsman"]["targets"]
    for with_key, name in ((KEY, "nothing"), (NARROW, "c"), (NARROW, "auto"), (KEY, "auto/")):
        assert error(ask(gateway, f"/v1/models/{name}", with_key)) == (404, "model_not_found")


# -- explain --


def test_explain_tells_everything_and_sends_nothing(gateway: Gateway, ups: dict[str, Upstream]) -> None:
    told = explained(gateway, chat(text=f"{SECRET} tell me.", max_tokens=100))
    assert (told["rule"], told["candidates"], told["refusal"]) == ("default", ["a", "b"], None)
    assert told["policy"].startswith("home@")
    assert [entry["id"] for entry in told["rules"]] == ["long", "none", "default"]
    assert sorted(entry["id"] for entry in told["constraints"]) == ["eu", "key", "shy"]
    assert all(entry["why"] for entry in (*told["rules"], *told["constraints"]))
    assert {entry["effect"] for entry in told["constraints"]} == {"forbid", "avoid"}
    assert [entry["target"] for entry in told["targets"]] == ["a", "b", "c", "d"]
    assert [entry["verdict"] for entry in told["targets"]] == ["kept", "kept", "dropped", "dropped"]
    assert told["targets"][2]["reasons"] == ["not in rule default"]
    assert all(0 < entry["cost_low_nano_usd"] < entry["cost_high_nano_usd"] for entry in told["targets"])
    assert told["signals"]["max_output_tokens"] == 100
    assert told["signals"]["tokens"]
    flips = {flip["id"]: flip for flip in told["nearest_flips"]}
    assert "`long` would apply" in flips["long"]["text"]
    assert [change["signal"] for change in flips["long"]["changes"]] == ["context_tokens"]
    assert json.loads(told["wire_body"]) == {"model": "m", **chat(text=f"{SECRET} tell me.", max_tokens=100)} | {
        "model": "m"
    }
    assert SECRET not in json.dumps({**told, "wire_body": ""})
    assert not any(upstream.requests for upstream in ups.values())


def test_explain_uses_the_tenant_the_hints_and_the_headers_of_the_request(gateway: Gateway) -> None:
    assert explained(gateway, chat(), OTHER)["candidates"] == ["a"]
    (eu,) = (one for one in explained(gateway, chat(), OTHER)["constraints"] if one["id"] == "eu")
    assert (eu["matched"], eu["targets"], eu["because"]) == (True, ["b"], "licence")
    assert explained(gateway, chat(), x_shy="yes")["candidates"] == ["b", "a"]
    assert explained(gateway, chat(), x_pointsman_workload="nowhere")["rule"] == "none"


def test_explain_gives_policies_no_credentials_to_look_at(gateway: Gateway) -> None:
    told = explained(gateway, chat(), cookie=f"session={SECRET}")
    (entry,) = (one for one in told["constraints"] if one["id"] == "key")
    assert not entry["matched"]
    assert KEY not in json.dumps(told)


def test_a_refusal_is_explained_with_every_target_and_no_wire_body(gateway: Gateway) -> None:
    told = explained(gateway, chat("b"), OTHER)
    assert (told["refusal"]["code"], told["candidates"], told["wire_body"]) == ("policy_denied", [], None)
    assert {entry["target"]: entry["reasons"][0] for entry in told["targets"]} == {
        "a": "not what the client named",
        "b": "forbidden by eu",
        "c": "not what the client named",
        "d": "not what the client named",
    }
    assert explained(gateway, chat("a", max_tokens=200_000))["refusal"]["code"] == "context_length_exceeded"


BEFORE_A_DECISION: dict[str, tuple[Any, dict[str, str]]] = {
    "not JSON": (b"{", {}),
    "duplicate key": (b'{"model":"a","model":"b","messages":[{"role":"user","content":"x"}]}', {}),
    "not UTF-8": (b'{"model":"\xff"}', {}),
    "no messages": ({"model": "auto"}, {}),
    "wrong type": (chat(max_tokens="many"), {}),
    "unknown model": (chat("gpt-9"), {}),
    "unknown policy": (chat(), {"x_pointsman_policy": "nowhere"}),
    "unknown hint": (chat(), {"x_pointsman_colour": "red"}),
    "bad hint": (chat(), {"x_pointsman_thinking": "sometimes"}),
    "compressed": (b"\x1f\x8b\x08", {"content_encoding": "gzip"}),
}


@pytest.mark.parametrize("name", BEFORE_A_DECISION)
def test_what_is_refused_before_a_decision_is_refused_alike_by_explain(gateway: Gateway, name: str) -> None:
    body, headers = BEFORE_A_DECISION[name]
    served, told = (gateway.post(body, path=path, **headers) for path in ("/v1/chat/completions", "/v1/explain"))
    assert error(served) == error(told)
    assert served.status_code >= 400
    assert served.json() == told.json()


def test_explain_and_decisions_are_for_keys_that_may_explain(gateway: Gateway) -> None:
    served = gateway.post(chat(), key=PLAIN)
    assert served.status_code == 200
    for answer in (
        gateway.post(chat(), path="/v1/explain", key=PLAIN),
        ask(gateway, f"/v1/decisions/{served.headers['x-request-id']}", PLAIN),
    ):
        assert error(answer) == (403, "policy_denied")
        assert "explain: true" in answer.json()["error"]["message"]


# -- decisions --


def decision(gateway: Gateway, served: httpx.Response, with_key: str = KEY) -> dict[str, Any]:
    answer = ask(gateway, f"/v1/decisions/{served.headers['x-request-id']}", with_key)
    assert answer.status_code == 200, answer.text
    assert SECRET not in answer.text
    return answer.json()  # type: ignore[no-any-return]


def test_a_decision_can_be_read_after_the_answer(gateway: Gateway) -> None:
    served = gateway.post(chat(text=f"{SECRET}, please."))
    told = decision(gateway, served)
    record, trace = told["record"], told["trace"]
    assert (record["key"], record["team"], record["model_asked"]) == ("test", "qa", "auto")
    assert (record["status"], record["target"], record["attempts"], record["code"]) == (200, "a", 1, "ok")
    assert record["usage"]["input"] == 10
    assert record["cost_nano"] == 14_000
    assert (trace["rule"], trace["candidates"]) == ("default", ["a", "b"])
    assert trace["because"] == record["because"] == served.headers["x-pointsman-because"]


def test_a_decision_after_a_fallback_names_who_was_chosen_and_who_answered(
    gateway: Gateway, ups: dict[str, Upstream]
) -> None:
    play(ups["a"], plain(500, b"{}"), plain())
    served = gateway.post(chat(text=SECRET, stream=False))
    record = decision(gateway, served)["record"]
    assert (record["chosen"], record["target"], record["attempts"]) == ("a", "b", 2)
    gateway.post(chat("a"))  # a success, so that no other test finds it blamed


def test_a_decision_after_a_refusal_says_why_for_every_target(gateway: Gateway, ups: dict[str, Upstream]) -> None:
    served = gateway.post(chat("b", text=SECRET), key=OTHER)
    assert error(served) == (403, "policy_denied")
    told = decision(gateway, served, OTHER)
    assert told["record"]["code"] == told["trace"]["refusal"]["code"] == "policy_denied"
    assert all(entry["reasons"] for entry in told["trace"]["targets"])
    assert not ups["b"].requests


def test_a_decision_of_another_key_does_not_exist(gateway: Gateway) -> None:
    served = gateway.post(chat())
    path = f"/v1/decisions/{served.headers['x-request-id']}"
    refused = ask(gateway, path, OTHER)
    assert error(refused) == (404, "not_found")
    assert refused.json() == ask(gateway, "/v1/decisions/" + "0" * 32, OTHER).json()
    assert ask(gateway, path).status_code == 200


def test_the_operator_reads_the_decision_of_any_key_on_the_admin_listener(gateway: Gateway) -> None:
    for key in (KEY, OTHER, PLAIN):
        served = gateway.post(chat(text=SECRET), key=key)
        answer = httpx.get(f"{gateway.admin}/v1/decisions/{served.headers['x-request-id']}")
        assert answer.json()["record"]["request_id"] == served.headers["x-request-id"]
        assert answer.json()["trace"]["because"] == served.headers["x-pointsman-because"]
        assert SECRET not in answer.text
    missing = httpx.get(f"{gateway.admin}/v1/decisions/" + "0" * 32)
    assert error(missing) == (404, "not_found")


def test_a_decision_from_memory_is_told_without_the_length_of_the_request_it_was_made_for(gateway: Gateway) -> None:
    first = decision(gateway, gateway.post(chat("b", text="hello " * 50)))["trace"]
    again = decision(gateway, gateway.post(chat("b", text="hi")))["trace"]
    assert again["candidates"] == first["candidates"] == ["b"]
    assert again["signals"]["tokens"] == first["signals"]["tokens"]  # up to where it holds, for both
    assert "kept from a request like this one" in again["tokens"]


def test_a_conversation_stays_with_its_draw_when_its_decision_is_read(gateway: Gateway) -> None:
    served = gateway.post(chat(), x_pointsman_conversation="c-17")
    assert decision(gateway, served)["trace"]["signals"]["conversation"] == "c-17"


# -- health --


def test_health_and_readiness_need_no_key(gateway: Gateway) -> None:
    assert ask(gateway, "/healthz", None).json() == {"status": "ok"}
    ready = ask(gateway, "/readyz", None)
    assert ready.status_code == 200
    told = ready.json()
    assert (told["status"], told["reload"]["ok"]) == ("ready", True)
    assert len(told["config"]) == 12
    assert abs(told["reload"]["at"] - time.time()) < 600
    assert httpx.get(gateway.admin + "/healthz").json() == {"status": "ok"}
    detailed = httpx.get(gateway.admin + "/readyz").json()
    assert detailed["reload"] == told["reload"] | {"error": None}
    assert detailed["memory_pressure"] == 0


# -- the admin listener --


def test_metrics_count_what_was_served(gateway: Gateway) -> None:
    before = gateway.metric('pointsman_attempts_total{outcome="ok",target="a"}')
    gateway.post(chat())
    text = gateway.get("/metrics", admin=True)
    assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert gateway.metric('pointsman_attempts_total{outcome="ok",target="a"}') == before + 1


def states(gateway: Gateway) -> dict[str, dict[str, Any]]:
    return {row["target"]: row for row in gateway.get("/v1/targets", admin=True).json()["data"]}


def test_targets_tell_state_reason_and_how_long(gateway: Gateway, ups: dict[str, Upstream]) -> None:
    assert states(gateway)["a"] == {
        "target": "a", "state": "healthy", "reason": None, "failures": 0, "held_for_s": 0.0, "inflight": 0,
        "thinking": "never", "thinking_doubted": False, "thinking_violations": 0, "slow": [],
    }  # fmt: skip
    play(ups["c"], plain(500, b'{"error":{"message":"boom"}}'))
    for _ in range(5):
        assert gateway.post(chat("c")).status_code == 502
    broken = states(gateway)["c"]
    assert (broken["state"], broken["reason"], broken["failures"]) == ("ejected", "server_error", 5)
    assert 25 < broken["held_for_s"] <= 33.0
    play(ups["d"], plain(401, b'{"error":{"message":"bad key"}}'))
    gateway.post(chat("d"))
    assert (states(gateway)["d"]["state"], states(gateway)["d"]["reason"]) == ("auth", "auth")
    assert gateway.metric('pointsman_target_healthy{target="c"}') == 0


def test_explain_says_of_a_held_back_target_what_serving_does_with_it(
    gateway: Gateway, ups: dict[str, Upstream]
) -> None:
    play(ups["c"], plain(500, b"{}"))
    while states(gateway)["c"]["state"] != "ejected":
        gateway.post(chat("c"))
    play(ups["c"], plain())
    told = explained(gateway, chat("c"))
    served = gateway.post(chat("c"))
    assert (told["candidates"], served.headers["x-pointsman-target"]) == (["c"], "c")  # rather than nobody


def test_targets_count_the_requests_under_way(gateway: Gateway, ups: dict[str, Upstream]) -> None:
    play(ups["b"], stream(STREAM[:2], end="hang"))
    with gateway.connect() as conn:
        body = json.dumps(chat("b", stream=True)).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        conn.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert conn.recv(65536).startswith(b"HTTP/1.1 200")
        assert states(gateway)["b"]["inflight"] == 1
    deadline = time.monotonic() + 2
    while states(gateway)["b"]["inflight"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_reload_by_hand_says_what_is_served_now(gateway: Gateway) -> None:
    answer = httpx.post(gateway.admin + "/v1/reload", timeout=30)
    assert answer.json() == {"status": "reloaded", "config": gateway.get("/readyz").json()["config"]}
    assert error(httpx.get(gateway.admin + "/v1/reload")) == (405, "method_not_allowed")


# -- who may ask --


def paths(routes: Sequence[BaseRoute]) -> Iterator[tuple[str, str]]:
    """Every method and path that an app has, parameters filled in."""
    for route in routes:
        included = getattr(route, "original_router", None)  # a router that FastAPI looks into at the first request
        if included is not None:
            yield from paths(included.routes)
            continue
        assert isinstance(route, APIRoute), f"{route!r}: a route that no test knows"
        for method in route.methods or ():
            yield (
                method,
                route.path.replace("{name:path}", "a").replace("{name}", "a").replace("{request_id}", "0" * 32),
            )


NOBODY = cast("Any", None)
PUBLIC, PRIVATE = (sorted(paths(app(NOBODY, NOBODY).routes)) for app in (public_app, admin_app))
OPEN = {"/healthz", "/readyz", "/v1/chat/completions"}  # the last tells only that it takes POST


def test_the_routes_are_those_that_are_documented() -> None:
    assert sorted({path for _, path in PUBLIC}) == [
        "/healthz", "/readyz", "/v1/chat/completions", "/v1/decisions/" + "0" * 32, "/v1/explain", "/v1/key",
        "/v1/keys", "/v1/keys/a", "/v1/keys/a/rotate", "/v1/models", "/v1/models/a",
    ]  # fmt: skip
    assert sorted(PRIVATE) == [
        ("DELETE", "/v1/keys/a"),
        ("GET", "/healthz"), ("GET", "/metrics"), ("GET", "/readyz"), ("GET", "/v1/decisions/" + "0" * 32),
        ("GET", "/v1/keys"), ("GET", "/v1/keys/a"), ("GET", "/v1/limits"), ("GET", "/v1/targets"), ("GET", "/v1/usage"),
        ("PATCH", "/v1/keys/a"),
        ("POST", "/v1/keys"), ("POST", "/v1/keys/a/rotate"), ("POST", "/v1/keys/reload"),
        ("POST", "/v1/reload"), ("POST", "/v1/targets/a/probed"),
    ]  # fmt: skip


def test_a_route_that_is_added_asks_for_a_key_unless_somebody_says_otherwise() -> None:
    for app in (public_app, admin_app):
        routers = [getattr(route, "original_router", None) for route in app(NOBODY, NOBODY).routes]
        if any(routers):  # else FastAPI has taken them apart, and the routes are tested one by one
            assert all(router.dependencies for router in routers if router is not None)


@pytest.mark.parametrize("method_and_path", ["GET /v1/models", "POST /v1/explain", "POST /v1/chat/completions"])
def test_of_two_keys_in_one_request_neither_counts(gateway: Gateway, method_and_path: str) -> None:
    for first, second in ((KEY, "sk-wrong-0123456789"), ("sk-wrong-0123456789", KEY), (KEY, KEY)):
        with gateway.connect() as conn:
            keys = f"Authorization: Bearer {first}\r\nAuthorization: Bearer {second}\r\n"
            conn.sendall(f"{method_and_path} HTTP/1.1\r\nHost: x\r\n{keys}Content-Length: 2\r\n\r\n{{}}".encode())
            assert conn.recv(65536).startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize(("method", "path"), [one for one in PUBLIC if one[1] not in OPEN])
def test_every_public_route_but_health_asks_for_a_key(gateway: Gateway, method: str, path: str) -> None:
    for with_key in (None, "sk-wrong-0123456789", OLD, "x", KEY + "x", KEY.upper()):
        refused = ask(gateway, path, with_key, method, content=b"{}")
        assert error(refused) == (401, "invalid_api_key")
        assert refused.headers["www-authenticate"] == "Bearer"
    for authorization in (f"Basic {KEY}", KEY, "Bearer", f"Bearer {KEY}, Bearer {KEY}"):
        assert ask(gateway, path, None, method, headers={"authorization": authorization}).status_code == 401
    assert ask(gateway, path, KEY, method, content=json.dumps(chat())).status_code in (
        (403,) if "/keys" in path else (200, 404)  # which may make none
    )


def test_the_one_open_model_path_only_says_that_it_takes_post(gateway: Gateway) -> None:
    for method in ("GET", "PUT", "PATCH", "DELETE", "OPTIONS"):
        refused = ask(gateway, "/v1/chat/completions", None, method)
        assert error(refused) == (405, "method_not_allowed")
        assert refused.headers["allow"] == "POST"
    assert ask(gateway, "/v1/chat/completions", None, "HEAD").status_code == 405
    assert error(ask(gateway, "/v1/chat/completions", None, "POST")) == (401, "invalid_api_key")


def test_a_wrong_path_is_told_what_its_own_listener_serves(gateway: Gateway) -> None:
    public = ask(gateway, "/chat/completions", KEY, "POST").json()["error"]["message"]
    assert "/v1/chat/completions and /v1/models" in public
    assert "base_url ends in /v1" in public
    admin = httpx.get(gateway.admin + "/v1/models", timeout=30).json()["error"]["message"]
    assert "/v1/targets" in admin
    assert "chat" not in admin


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "//v1/models", 404),
        ("GET", "/v1//models", 404),
        ("GET", "/v1/models/", 401),  # a name, if an empty one
        ("GET", "/v1/%6dodels", 401),
        ("GET", "/healthz/../v1/models", 404),
        ("GET", "/healthz/%2e%2e/v1/models", 404),
        ("GET", "/v1/models;/healthz", 404),
        ("GET", "/v1/models?/healthz", 401),
        ("GET", "/V1/MODELS", 404),
        ("GET", "http://x/v1/models", 401),
        ("GET", "http://healthz/v1/models", 401),
        ("HEAD", "/v1/models", 405),
        ("OPTIONS", "/v1/models", 405),
        ("OPTIONS", "*", 404),
        ("DELETE", "/v1/explain", 405),
        ("POST", "/v1/chat%2fcompletions", 405),  # never a model request: the hot path takes only its own spelling
        ("POST", "//v1/chat/completions", 404),
        ("POST", "/v1/chat/completions/", 404),
        ("GET", "/openapi.json", 404),
        ("GET", "/docs", 404),
        ("GET", "/metrics", 404),
        ("POST", "/v1/reload", 404),
    ],
)
@pytest.mark.parametrize("host", ["x", "x/healthz?", "healthz", "127.0.0.1:1@x", "x#"])
def test_no_spelling_of_path_or_host_leads_around_the_key(
    gateway: Gateway, method: str, path: str, status: int, host: str
) -> None:
    with gateway.connect() as conn:
        conn.sendall(
            f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode()
        )
        answer = b""
        while more := conn.recv(65536):
            answer += more
    assert int(answer.split(b" ")[1]) == status, answer
    assert b'"data"' not in answer


HOSTILE = [
    ("x-pointsman-workload", b"a\x1b[31mred"),
    ("x-pointsman-policy", b"home\xc2\x85x"),
    ("x-pointsman-conversation", b"\xff\xfe"),
    ("x-pointsman-region", b"eu\tus"),
    ("x-request-id", b"mine\x1b]0;owned\x07"),
    ("x-shy", b"\x1b[2J" + b"A" * 500),
    ("user-agent", b"\x1b[31m"),
    ("x-pointsman-\x7f", b"x"),
]


@pytest.mark.parametrize(("name", "value"), HOSTILE)
def test_hostile_header_values_reach_neither_answers_nor_logs(gateway: Gateway, name: str, value: bytes) -> None:
    seen = len(gateway.lines)
    body = json.dumps(chat("a\x1b[31m\nb" if name == "user-agent" else "auto")).encode()
    for path in ("/v1/chat/completions", "/v1/explain"):
        with gateway.connect() as conn:
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n"
            conn.sendall(head.encode() + name.encode() + b": " + value + b"\r\nConnection: close\r\n\r\n" + body)
            answer = b""
            while more := conn.recv(65536):
                answer += more
        first = answer.partition(b"\r\n\r\n")[0]
        assert int(answer.split(b" ")[1]) in (200, 400, 404)
        assert all(32 <= byte < 127 for line in first.split(b"\r\n") for byte in line), first
        assert b"mine" not in first
    gateway.get("/healthz")
    assert all(line.isprintable() for line in gateway.lines[seen:])
    assert not any("\x1b" in line or value.decode("latin-1") in line for line in gateway.lines[seen:])


# -- an admin listener with a key, and a public one without --


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    upstream = Upstream([plain()])
    settings = config({"a": upstream}, keys=[], admin_key={"env": "ADMIN_KEY"})
    with running(tmp_path_factory.mktemp("guarded"), settings, ADMIN_KEY=ADMIN) as gateway:
        yield gateway
    upstream.close()


def test_why_it_is_not_well_is_only_told_to_who_has_the_admin_key(guarded: Gateway) -> None:
    for headers in ({}, {"authorization": f"Bearer {KEY}"}):
        told = httpx.get(guarded.admin + "/readyz", headers=headers).json()
        assert (told["reload"].keys(), "memory_pressure" in told) == ({"ok", "at"}, False)
    told = httpx.get(guarded.admin + "/readyz", headers={"authorization": f"Bearer {ADMIN}"}).json()
    assert (told["reload"]["error"], told["memory_pressure"]) == (None, 0)


@pytest.mark.parametrize(("method", "path"), [one for one in PRIVATE if one[1] not in OPEN])
def test_an_admin_key_guards_every_admin_route_but_health(guarded: Gateway, method: str, path: str) -> None:
    for authorization in (None, f"Bearer {KEY}", f"Basic {ADMIN}", "Bearer", f"Bearer {ADMIN}x"):
        headers = {} if authorization is None else {"authorization": authorization}
        refused = httpx.request(method, guarded.admin + path, headers=headers, timeout=30)
        assert error(refused) == (401, "invalid_api_key")
    headers = {"authorization": f"Bearer {ADMIN}"}
    admitted = httpx.request(method, guarded.admin + path, headers=headers, timeout=30)
    # Of a request and of a key that never were; and of no body at all.
    never = {"/v1/decisions/" + "0" * 32: 404, "/v1/keys/a": 404, "/v1/keys/a/rotate": 400}
    assert admitted.status_code == (
        400 if (method, path) in (("POST", "/v1/keys"), ("PATCH", "/v1/keys/a")) else never.get(path, 200)
    )
    assert httpx.get(guarded.admin + "/healthz").status_code == 200
    assert httpx.get(guarded.admin + "/openapi.json").status_code == 404


def test_without_keys_everybody_on_this_machine_may_use_and_explain(guarded: Gateway) -> None:
    served = guarded.post(chat(), key=None)
    assert served.status_code == 200
    assert ask(guarded, "/v1/models", None).json()["data"]
    assert guarded.post(chat(), path="/v1/explain", key=None).json()["candidates"] == ["a"]
    assert ask(guarded, f"/v1/decisions/{served.headers['x-request-id']}", None).json()["record"]["key"] == "anonymous"
