"""Keys of a running gateway: made, used, replaced and taken back while it serves, by the command and over HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from openai import AuthenticationError, OpenAI
from ruamel.yaml import YAML

from gateway.cli import main
from tests.harness import (
    KEY,
    ROOT,
    STREAM,
    Gateway,
    Upstream,
    chat,
    chunk,
    config,
    eventually,
    framed,
    plain,
    running,
    stream,
)

ADMIN = "admin-key-0123456789"


@pytest.fixture(scope="module")
def up() -> Iterator[Upstream]:
    made = Upstream([plain()])
    yield made
    made.close()


@pytest.fixture(scope="module")
def gateway(up: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One with a key in its configuration, a keys file, and an admin key."""
    directory = tmp_path_factory.mktemp("keys")
    settings = config({"a": up, "b": up}, admin_key={"env": "ADMIN_KEY"}, ledger={"dir": "books"})
    settings["keys"].append({"name": "lead", "sha256": "0" * 64, "may_create": True})
    with running(directory, settings, ADMIN_KEY=ADMIN) as made:
        yield made


def command(gateway: Gateway, *words: str) -> subprocess.CompletedProcess[str]:
    """`pointsman keys ...` beside the gateway."""
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli", "keys", *words, "--config", str(gateway.directory / "pointsman.yaml")],
        cwd=ROOT, env={"PATH": "/usr/bin:/bin", "HOME": str(gateway.directory), "ADMIN_KEY": ADMIN},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def call(gateway: Gateway, method: str, path: str, body: Any = None, key: str | None = ADMIN, **more: Any) -> Any:
    """One request to the admin listener, or with `public` to the other."""
    base = gateway.public if more.pop("public", False) else gateway.admin
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    sent = {"json": body} if body is not None else {}
    return httpx.request(method, base + path, headers=headers | more, timeout=30, **sent)


def status(gateway: Gateway, key: str) -> int:
    return gateway.post(chat("a"), key=key).status_code


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_a_newcomer_makes_a_key_uses_it_with_the_sdk_and_takes_it_back(tmp_path: Path, up: Upstream) -> None:
    settings = config({"a": up})
    del settings["keys"]
    with running(tmp_path, settings) as gateway:
        assert gateway.post(chat("a"), key=None).status_code == 200  # as it was until now
        made = command(gateway, "create", "me")
        assert (made.returncode, made.stdout.count("\n")) == (0, 1)
        assert "asks everybody for a key from now on" in made.stderr
        assert eventually(lambda: gateway.post(chat("a"), key=None).status_code == 401, 10)
        with OpenAI(base_url=f"{gateway.public}/v1", api_key=made.stdout.strip(), max_retries=0) as client:
            message: Any = [{"role": "user", "content": "Hi"}]
            assert client.chat.completions.create(model="a", messages=message).choices[0].message.content == "Hello."
            assert command(gateway, "revoke", "me").returncode == 0
            assert eventually(lambda: status(gateway, made.stdout.strip()) == 401, 10)
            with pytest.raises(AuthenticationError):
                client.chat.completions.create(model="a", messages=message)
        (gateway.directory / "pointsman.keys.json").unlink()
        assert eventually(lambda: "there are no keys any more" in gateway.get("/readyz", admin=True).text, 10)
        assert gateway.post(chat("a"), key=None).status_code == 401  # and is not let in for it


def test_the_command_can_wait_until_the_gateway_follows(gateway: Gateway) -> None:
    url = ("--now", "--url", gateway.admin)
    made = command(gateway, "create", "waits", "--allow", "a", "--expires", "30d", "--json", *url)
    told = json.loads(made.stdout)
    assert (told["ok"], told["followed"]) == (True, True)
    assert status(gateway, told["key"]["secret"]) == 200
    assert code(gateway.post(chat("b"), key=told["key"]["secret"])) == (403, "model_not_allowed")
    gone = command(gateway, "revoke", "waits", *url)
    assert "the running gateway follows" in gone.stderr
    assert status(gateway, told["key"]["secret"]) == 401


def test_an_expired_key_is_401_and_says_so(gateway: Gateway) -> None:
    made = call(gateway, "POST", "/v1/keys", {"name": "brief", "expires": "1s"}).json()
    assert eventually(lambda: status(gateway, made["key"]) == 401, 10)
    answer = gateway.post(chat("a"), key=made["key"])
    assert code(answer) == (401, "invalid_api_key")
    assert answer.json()["error"]["message"] == "The API key has expired."
    assert answer.headers["www-authenticate"] == "Bearer"


def test_keys_are_made_listed_rotated_and_revoked_over_http(gateway: Gateway) -> None:
    answer = call(gateway, "POST", "/v1/keys", {"name": "web", "allow": ["a"], "tenant": {"team": "qa"}, "rpm": 100})
    made = answer.json()
    assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
    assert (made["name"], made["allow"], made["tenant"], made["state"]) == ("web", ["a"], {"team": "qa"}, "valid")
    assert status(gateway, made["key"]) == 200
    listed = call(gateway, "GET", "/v1/keys")
    assert made["key"] not in listed.text
    assert {one["name"] for one in listed.json()["data"]} >= {"web", "test"}
    new = call(gateway, "POST", "/v1/keys/web/rotate", {"overlap": "1h"}).json()
    assert (status(gateway, made["key"]), status(gateway, new["key"])) == (200, 200)
    assert [one["id"] for one in new["replaced"]] == [made["id"]]
    last = call(gateway, "POST", "/v1/keys/web/rotate", {"overlap": "0"}).json()
    assert [status(gateway, one["key"]) for one in (made, new, last)] == [401, 401, 200]
    assert call(gateway, "DELETE", "/v1/keys/web").json()["name"] == "web"
    assert status(gateway, last["key"]) == 401


def test_a_key_is_changed_over_http_and_by_the_command_while_it_is_used(gateway: Gateway) -> None:
    made = call(gateway, "POST", "/v1/keys", {"name": "grows", "allow": ["a"], "rpm": 1}).json()["key"]
    assert [status(gateway, made), status(gateway, made)] == [200, 429]
    wish = {"rpm": 100, "allow": ["a", "b"], "expires": "30d"}
    dry = call(gateway, "PATCH", "/v1/keys/grows?dry_run=true", wish).json()
    assert (dry["dry_run"], dry["changed"]["rpm"]) == (True, {"before": 1, "after": 100})
    assert status(gateway, made) == 429
    told = call(gateway, "PATCH", "/v1/keys/grows", wish).json()
    assert (told["allow"], told["changed"]["rpm"]) == (["a", "b"], {"before": 1, "after": 100})
    assert gateway.post(chat("b"), key=made).status_code == 200
    url = ("--now", "--url", gateway.admin)
    dry_run = command(gateway, "update", "grows", "--rpm", "5", "--dry-run", *url)
    assert (dry_run.returncode, dry_run.stdout) == (0, "rpm: 100 -> 5\n")
    assert "nothing was changed" in dry_run.stderr
    assert gateway.post(chat("b"), key=made).status_code == 200
    done = command(gateway, "update", "grows", "--allow", "a", "--unset", "rpm", "--no-may-create", "--json", *url)
    said = json.loads(done.stdout)
    assert (said["followed"], said["key"]["changed"]["rpm"]) == (True, {"before": 100, "after": None})
    assert code(gateway.post(chat("b"), key=made)) == (403, "model_not_allowed")
    assert "is so already: nothing was changed" in command(gateway, "update", "grows", "--allow", "a", *url).stderr
    for line in ("1 key new: grows", "1 key changed: grows", "the key grows was updated by an operator over HTTP"):
        assert any(line in one for one in gateway.lines)


def test_the_first_key_of_a_stated_file_changes_nothing_for_who_has_none(tmp_path: Path, up: Upstream) -> None:
    settings = config({"a": up}, keys_file="later.json")
    del settings["keys"]
    with running(tmp_path, settings) as gateway:
        assert gateway.post(chat("a"), key=None).status_code == 401  # as it was before the first key
        made = command(gateway, "create", "me")
        assert (made.returncode, "asks everybody" in made.stderr) == (0, False)


def test_a_team_that_nobody_is_of_is_warned_of_wherever_a_key_is_put_into_it(tmp_path: Path, up: Upstream) -> None:
    nobody = "no limits are set for the team 'serch', and no other key is of it: did you mean search?"
    mistyped, right = {"tenant": {"team": "serch"}}, {"tenant": {"team": "search"}}
    with running(tmp_path, config({"a": up}, teams={"search": {"rpm": 60}})) as gateway:

        def asked(method: str, path: str, body: dict[str, Any], key: str | None = None) -> Any:
            return call(gateway, method, path, body, key).json()["warnings"]

        made = command(gateway, "create", "frank", "--team", "serch")
        assert (made.returncode, f"pointsman keys: warning: {nobody}\n" in made.stderr) == (0, True)
        assert asked("PATCH", "/v1/keys/frank", {"rpm": 5}) == [], "it was told before"
        assert asked("POST", "/v1/keys", {"name": "fred", **right}) == []
        assert asked("PATCH", "/v1/keys/fred", mistyped) == [], "frank is of it"
        assert asked("PATCH", "/v1/keys/fred", right) == []
        assert call(gateway, "DELETE", "/v1/keys/frank", None, None).status_code == 200
        told = command(gateway, "update", "fred", "--team", "serch", "--dry-run", "--json")
        assert json.loads(told.stdout)["key"]["warnings"] == [nobody], "a revoked key is no company"
        assert f"warning: {nobody}\n" in command(gateway, "update", "fred", "--team", "serch").stderr
        assert asked("PATCH", "/v1/keys/fred", right) == []
        assert asked("POST", "/v1/keys", {"name": "third", **mistyped}) == [nobody]
        assert asked("PATCH", "/v1/keys/third", {**right, "may_create": True}) == []
        third = call(gateway, "POST", "/v1/keys/third/rotate", {}, None).json()["key"]
        assert asked("POST", "/v1/keys", {"name": "child"}, third) == []
        assert asked("PATCH", "/v1/keys/third?dry_run=true", mistyped) == [nobody], "child would only go with it"


def test_each_gateway_that_is_named_is_made_to_follow(gateway: Gateway, tmp_path: Path, up: Upstream) -> None:
    shared = str(gateway.directory / "pointsman.keys.json")
    with running(tmp_path, config({"a": up}, keys_file=shared)) as other:
        words = ("create", "both", "--allow", "a", "--now", "--url", gateway.admin, "--url", other.admin)
        made = command(gateway, *words)
        assert [status(one, made.stdout.strip()) for one in (gateway, other)] == [200, 200]
        assert f"the running gateway follows ({other.admin})" in made.stderr
        assert "others that read this file follow within 2 s" in made.stderr
        gone = command(gateway, "revoke", "both", *words[-5:-1], "http://127.0.0.1:1")
        assert gone.returncode == 1
        assert "no gateway answers at http://127.0.0.1:1; the file is changed" in gone.stderr
        assert status(gateway, made.stdout.strip()) == 401
        assert any("1 key revoked: both" in one for one in gateway.lines)


@pytest.mark.parametrize(
    ("method", "path", "body", "said"),
    [
        ("POST", "/v1/keys", {"name": "no name"}, (400, "bad_request")),
        ("POST", "/v1/keys", {}, (400, "bad_request")),
        ("POST", "/v1/keys", [], (400, "invalid_json")),
        ("POST", "/v1/keys", {"name": "n", "rpm": -1}, (400, "bad_request")),
        ("POST", "/v1/keys", {"name": "n", "sha256": "a" * 64}, (400, "bad_request")),
        ("POST", "/v1/keys", {"name": "n", "allow": ["nothing"]}, (400, "bad_request")),
        ("POST", "/v1/keys", {"name": "test"}, (400, "bad_request")),
        ("POST", "/v1/keys/nobody/rotate", {}, (404, "not_found")),
        ("POST", "/v1/keys/nobody/rotate", {"overlap": "1h", "name": "n"}, (400, "bad_request")),
        ("POST", "/v1/keys/nobody/rotate", {"overlap": "-1h"}, (400, "bad_request")),
        ("PATCH", "/v1/keys/nobody", {"rpm": 1}, (404, "not_found")),
        ("PATCH", "/v1/keys/test", {"rpm": 1}, (404, "not_found")),  # stands in pointsman.yaml
        ("PATCH", "/v1/keys/lead", [], (400, "invalid_json")),
        ("PATCH", "/v1/keys/nobody?dry=true", {"rpm": 1}, (400, "bad_request")),
        ("PATCH", "/v1/keys/nobody?dry_run=yes", {"rpm": 1}, (400, "bad_request")),
        ("DELETE", "/v1/keys/nobody", None, (404, "not_found")),
        ("DELETE", "/v1/keys/test", None, (404, "not_found")),  # stands in pointsman.yaml
        ("PUT", "/v1/keys/test", {}, (405, "method_not_allowed")),
    ],
)
def test_what_is_wrong_is_answered_in_openai_s_shape(
    gateway: Gateway, method: str, path: str, body: Any, said: tuple[int, str]
) -> None:
    assert code(call(gateway, method, path, body)) == said


def test_who_asks_for_a_key_that_is_not_in_the_file_is_told_where_it_stands_and_no_path(gateway: Gateway) -> None:
    there = call(gateway, "DELETE", "/v1/keys/test")
    assert there.json()["error"]["message"] == "test is a key of pointsman.yaml: change it there, or take it out there."
    for path in ("/v1/keys/nobody", "/v1/keys/test"):
        told = call(gateway, "DELETE", path)
        assert str(gateway.directory) not in told.text
    for word in ("revoke", "rotate"):
        assert "test is a key of pointsman.yaml: change it there" in command(gateway, word, "test").stderr
        assert "there is no key 'nobody' in /" in command(gateway, word, "nobody").stderr


def test_who_is_nobody_makes_no_keys(gateway: Gateway) -> None:
    for key, said in ((None, (401, "invalid_api_key")), ("sk-wrong-wrong", (401, "invalid_api_key"))):
        for public in (True, False):
            assert code(call(gateway, "POST", "/v1/keys", {"name": "x"}, key, public=public)) == said
    for public in (True, False):  # a key of a client that may not
        assert code(call(gateway, "POST", "/v1/keys", {"name": "x"}, KEY, public=public)) == (403, "policy_denied")
        assert code(call(gateway, "GET", "/v1/keys", None, KEY, public=public)) == (403, "policy_denied")
    assert code(call(gateway, "POST", "/v1/keys", {"name": "x"}, ADMIN, public=True)) == (401, "invalid_api_key")


def test_a_page_of_another_site_cannot_have_a_browser_make_keys(gateway: Gateway, tmp_path: Path, up: Upstream) -> None:
    kind = {"content-type": "text/plain", "authorization": f"Bearer {ADMIN}"}
    answer = httpx.post(f"{gateway.admin}/v1/keys", content=b'{"name": "x"}', headers=kind)
    assert code(answer) == (400, "bad_request")
    settings = config({"a": up})
    with running(tmp_path, settings) as keyless:  # its admin listener asks for no key
        assert call(keyless, "POST", "/v1/keys", {"name": "x"}, None).status_code == 201
        told = call(keyless, "POST", "/v1/keys", {"name": "y"}, None, host="evil.example:8081")
        assert code(told) == (403, "policy_denied")


def test_a_key_that_may_makes_keys_of_no_more_than_it_has_on_either_listener(gateway: Gateway) -> None:
    wish = {"name": "boss", "may_create": True, "allow": ["a"], "rpm": 50, "tenant": {"team": "qa"}}
    boss = call(gateway, "POST", "/v1/keys", wish).json()["key"]
    for public, name in ((True, "kid"), (False, "kid2")):
        made = call(gateway, "POST", "/v1/keys", {"name": name}, boss, public=public)
        assert (made.status_code, made.json()["by"]) == (201, "boss")
        assert status(gateway, made.json()["key"]) == 200
        assert code(gateway.post(chat("b"), key=made.json()["key"])) == (403, "model_not_allowed")
        for more in ({"allow": ["b"]}, {"rpm": 51}, {"explain": True}, {"tenant": {"team": "other"}}):
            answer = call(gateway, "POST", "/v1/keys", {"name": "wide", **more}, boss, public=public)
            assert code(answer) == (400, "bad_request")
        listed = call(gateway, "GET", "/v1/keys", None, boss, public=public).json()["data"]
        assert {one["by"] for one in listed} == {"boss"}  # and of other keys it sees nothing
        assert code(call(gateway, "DELETE", "/v1/keys/boss", None, boss, public=public)) == (404, "not_found")
        assert code(call(gateway, "POST", "/v1/keys/test/rotate", {}, boss, public=public)) == (404, "not_found")
    kid = call(gateway, "POST", "/v1/keys/kid/rotate", {}, boss, public=True).json()["key"]
    assert call(gateway, "DELETE", "/v1/keys/boss").json()["with_it"] == ["kid", "kid2"]
    assert status(gateway, kid) == status(gateway, boss) == 401


def test_keys_draw_on_the_limits_of_the_key_that_made_them(gateway: Gateway) -> None:
    wish = {"name": "pool", "may_create": True, "allow": ["a"], "rpm": 6}
    pool = call(gateway, "POST", "/v1/keys", wish).json()["key"]
    kids = [call(gateway, "POST", "/v1/keys", {"name": f"p{at}"}, pool).json()["key"] for at in range(3)]
    answers = [gateway.post(chat("a"), key=key) for key in [*kids, pool] * 3]
    assert [one.status_code for one in answers].count(200) == 6
    refused = answers[-1]
    assert code(refused) == (429, "rate_limit_exceeded")
    assert refused.headers["x-ratelimit-limit-requests"] == "6"


def test_a_key_is_taken_back_while_a_policy_is_being_edited_and_does_not_load(up: Upstream, tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    policy = tmp_path / "policies" / "default.yaml"
    policy.write_text("policy: default\nrules:\n  - {id: all, use: [{family: '*'}]}\n")
    with running(tmp_path, config({"a": up}, policies={"dir": "policies"})) as gateway:
        made = call(gateway, "POST", "/v1/keys", {"name": "leaked"}, None).json()["key"]
        assert status(gateway, made) == 200
        policy.write_text("policy: default\nrules: [")
        assert eventually(lambda: not gateway.get("/readyz", admin=True).json()["reload"]["ok"], 20)
        assert command(gateway, "revoke", "leaked").returncode == 0
        assert eventually(lambda: status(gateway, made) == 401, 10)
        assert "policies/default.yaml" in gateway.get("/readyz", admin=True).json()["reload"]["error"]


def test_a_broken_file_leaves_the_keys_as_they_were_and_is_told_of(up: Upstream, tmp_path: Path) -> None:
    with running(tmp_path, config({"a": up})) as gateway:
        made = call(gateway, "POST", "/v1/keys", {"name": "good"}, None).json()["key"]
        kept = tmp_path / "pointsman.keys.json"
        text = kept.read_text()
        kept.write_text(text.replace('"good"', '"go od"'))
        assert eventually(lambda: "pointsman.keys.json:2: keys[0].name" in gateway.get("/readyz", admin=True).text, 10)
        assert status(gateway, made) == 200
        answer = call(gateway, "POST", "/v1/keys", {"name": "more"}, None)
        assert code(answer) == (400, "bad_request")
        assert "pointsman.keys.json:2" in answer.json()["error"]["message"]
        kept.write_text(text)
        assert eventually(lambda: gateway.get("/readyz", admin=True).json()["reload"]["ok"], 10)
        kept.chmod(0)
        if not _reads(kept):
            assert eventually(lambda: not gateway.get("/readyz", admin=True).json()["reload"]["ok"], 10)
        assert status(gateway, made) == 200


def _reads(path: Path) -> bool:
    try:
        path.read_bytes()
    except PermissionError:
        return False
    return True


def test_streams_go_on_while_keys_come_and_go(tmp_path: Path) -> None:
    go_on = threading.Event()

    def slow(conn: Any, request: Any) -> bool:
        stream([STREAM[0], chunk("Hel")], end="open")(conn, request)
        go_on.wait(30)
        for event in STREAM[2:]:
            conn.sendall(framed(event))
        conn.sendall(b"0\r\n\r\n")
        return True

    up = Upstream([slow])
    try:
        with running(tmp_path, config({"a": up})) as gateway:
            made = call(gateway, "POST", "/v1/keys", {"name": "streams"}, None).json()["key"]
            url, headers = f"{gateway.public}/v1/chat/completions", {"authorization": f"Bearer {made}"}
            with httpx.stream("POST", url, json=chat("a", stream=True), headers=headers, timeout=30) as answer:
                parts = answer.iter_bytes()
                assert b"Hel" in next(parts)
                assert call(gateway, "DELETE", "/v1/keys/streams", None, None).status_code == 200
                assert status(gateway, made) == 401
                go_on.set()
                assert b"[DONE]" in b"".join(parts)
    finally:
        go_on.set()
        up.close()


def test_a_folder_that_cannot_be_written_to_is_said_and_nothing_is_made(up: Upstream, tmp_path: Path) -> None:
    with running(tmp_path, config({"a": up}, keys_file="/proc/pointsman/keys.json")) as gateway:
        answer = call(gateway, "POST", "/v1/keys", {"name": "x"}, None)
        assert code(answer) == (503, "store_unavailable")
        told = command(gateway, "create", "x", "--json")
        assert (told.returncode, json.loads(told.stdout)["ok"]) == (2, False)
        assert "/proc/pointsman/keys.json cannot be changed: " in told.stdout  # why depends on who runs this


def test_what_was_spent_by_made_keys_is_of_their_maker_s_budget_after_a_restart(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 0, "completion_tokens": 1000, "total_tokens": 1000}
    body = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}]}
    up = Upstream([plain(body=json.dumps({**body, "object": "chat.completion", "usage": usage}).encode())])
    budget = {"usd": 0.005, "per": "month"}
    settings = config({"a": up}, ledger={"dir": "books"})
    settings["targets"]["a"]["price"] = {"input": 0, "output": 2.0}
    ask = chat("a", max_tokens=1000)
    try:
        with running(tmp_path, settings) as gateway:
            maker = {"name": "maker", "may_create": True, "budget": budget}
            key = call(gateway, "POST", "/v1/keys", maker, None).json()["key"]
            kid = call(gateway, "POST", "/v1/keys", {"name": "kid"}, key).json()["key"]
            assert [gateway.post(ask, key=kid).status_code for _ in range(2)] == [200, 200]
            call(gateway, "DELETE", "/v1/keys/kid", None, None)
        with running(tmp_path, settings) as gateway:
            answer = gateway.post({**ask, "max_tokens": 1001}, key=key)
            assert (answer.status_code, answer.headers["x-pointsman-max-tokens"]) == (200, "500")
    finally:
        up.close()


def test_the_command_without_a_running_gateway_says_so(tmp_path: Path, up: Upstream) -> None:
    settings = config({"a": up}, listen={"public": "127.0.0.1:1", "admin": "127.0.0.1:1"})
    with (tmp_path / "pointsman.yaml").open("w") as written:
        YAML().dump(settings, written)
    words = [
        sys.executable,
        "-m",
        "gateway.cli",
        "keys",
        "create",
        "x",
        "--now",
        "--config",
        str(tmp_path / "pointsman.yaml"),
    ]
    told = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert told.returncode == 1
    assert told.stdout.startswith("sk-pm-")
    assert "no gateway answers at http://127.0.0.1:1; the file is changed" in told.stderr


# --- what is left ---


def test_the_holder_of_a_key_is_told_what_it_may_and_what_is_left_and_nothing_of_others(
    tmp_path: Path, up: Upstream, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config({"a": up}, ledger={"dir": "books"}, teams={"shop": {"rpm": 1000}})
    settings["targets"]["a"]["price"] = {"input": 1.0, "output": 2.0}
    settings["keys"].append({"name": "fixed", "sha256": "0" * 64, "tenant": {"team": "shop"}})
    with running(tmp_path, settings) as gateway:
        pool = {"name": "pool", "may_create": True, "allow": ["a", "auto"], "rpm": 60, "tenant": {"team": "shop"}}
        pool["budget"] = {"usd": 1, "per": "day", "mode": "soft"}
        maker = call(gateway, "POST", "/v1/keys", pool, None).json()["key"]
        wish = {"name": "kid", "rpm": 3, "max_concurrent": 3, "budget": {"usd": 0.5, "per": "month"}, "expires": "30d"}
        kid = call(gateway, "POST", "/v1/keys", wish, maker, public=True).json()
        for key in (kid["key"], kid["key"], maker):
            assert gateway.post(chat("a"), key=key).status_code == 200
        told = call(gateway, "GET", "/v1/key", None, kid["key"], public=True).json()
        assert (told["name"], told["expires"], told["policies"]) == ("kid", kid["expires"], ["default"])
        assert told["may_create"] is False
        assert {"a", "llama-3.3-70b"} <= {*told["models"]}
        own = {one["limit"]: one for one in told["limits"] if one["scope"] == "key"}
        assert {name: one["name"] for name, one in own.items()} == dict.fromkeys(
            ("rpm", "max_concurrent", "budget"), "kid"
        )
        assert (own["rpm"]["most"], own["max_concurrent"]["left"]) == (3, 3)
        assert own["rpm"]["left"] in (1, 2)  # one comes back every 20 seconds
        assert own["rpm"]["resets_s"] > 0
        assert own["budget"]["spent_usd"] > 0
        assert own["budget"]["left_usd"] == pytest.approx(0.5 - own["budget"]["spent_usd"])
        assert own["budget"]["resets"].endswith("-01T00:00:00Z")
        others = [one for one in told["limits"] if one["scope"] != "key"]
        assert {(one["scope"], one["limit"], one["exhausted"]) for one in others} == {
            ("maker", "rpm", False), ("maker", "budget", False), ("team", "rpm", False),
        }  # fmt: skip
        for one in others:
            assert not {"name", "left", "most", "used", "spent_usd", "left_usd", "usd"} & one.keys()
        assert "pool" not in json.dumps(told)
        # its maker is told all of both, and of its team's limit only that much is left
        seen = call(gateway, "GET", "/v1/keys/kid", None, maker, public=True).json()
        assert {(one["scope"], one.get("name"), one["limit"]) for one in seen["binds"]} >= {
            ("key", "kid", "rpm"), ("key", "pool", "rpm"), ("key", "pool", "budget"), ("team", None, "rpm"),
        }  # fmt: skip
        for name in ("fixed", "nobody"):
            assert code(call(gateway, "GET", f"/v1/keys/{name}", None, maker, public=True)) == (404, "not_found")
        # an operator is told all of all
        every = call(gateway, "GET", "/v1/limits", None, None).json()
        assert {(one["scope"], one["name"]) for one in every["data"]} == {
            ("key", "pool"),
            ("key", "kid"),
            ("team", "shop"),
        }
        (team,) = (one for one in every["data"] if one["scope"] == "team")
        assert (team["most"], team["used"]) == (1000, round(1 - team["left"] / 1000, 4))
        shown = call(gateway, "GET", "/v1/limits?key=kid", None, None).json()["data"]
        assert {(one["scope"], one["name"]) for one in shown} == {("key", "kid"), ("key", "pool"), ("team", "shop")}
        assert len(call(gateway, "GET", "/v1/limits?team=shop", None, None).json()["data"]) == 6
        by_command(gateway, capsys)


def by_command(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    """The same on the command line, in this process: a dozen interpreters would take longer than all the rest."""

    def command(gateway: Gateway, *words: str) -> SimpleNamespace:
        code = main(["keys", *words, "--config", str(gateway.directory / "pointsman.yaml")])
        told = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=told.out, stderr=told.err)

    url = ("--url", gateway.admin)
    shown = command(gateway, "show", "kid", *url)
    assert shown.returncode == 0
    assert "name:        kid" in shown.stdout
    rows = {
        tuple(line.split()[:3]): line.split()[3:]
        for line in shown.stdout.splitlines()
        if line.startswith(("key", "team"))
    }
    assert rows["key", "kid", "rpm"][0] == "3"
    assert rows["team", "shop", "rpm"][0] == "1,000"
    every = json.loads(command(gateway, "limits", "--team", "shop", "--above", "1%", "--json", *url).stdout)
    used = [one["used"] for one in every["limits"]]
    assert used == sorted(used, reverse=True)
    assert used[-1] >= 0.01
    table = command(gateway, "limits", "--key", "kid", *url).stdout
    assert table.splitlines()[0].split() == ["OF", "NAME", "LIMIT", "MOST", "LEFT", "USED", "RESETS"]
    for words, says in (
        (("limits", "--key", "nobody", *url), "There is no key of that name"),
        (("limits", "--team", "nobody", *url), "No key is of that team"),
        (("show", "ki", *url), "there is no key 'ki' in"),
    ):
        told = command(gateway, *words)
        assert (told.returncode, says in told.stderr) == (2, True)
    alone = command(gateway, "show", "kid", "--url", "http://127.0.0.1:1")
    assert (alone.returncode, "name:        kid" in alone.stdout) == (1, True)
    assert "what is left of its limits is not known: no gateway answers at http://127.0.0.1:1" in alone.stderr
    assert command(gateway, "limits", "--url", "http://127.0.0.1:1").returncode == 1


def test_an_old_key_in_its_overlap_is_told_when_it_ends_and_nobody_without_a_key_anything(gateway: Gateway) -> None:
    first = call(gateway, "POST", "/v1/keys", {"name": "turns"}).json()["key"]
    new = call(gateway, "POST", "/v1/keys/turns/rotate", {"overlap": "1h"}).json()
    old = call(gateway, "GET", "/v1/key", None, first, public=True).json()
    assert (old["expires"], old["limits"]) == (new["replaced"][0]["until"], [])
    assert call(gateway, "GET", "/v1/key", None, new["key"], public=True).json()["expires"] is None
    for key in (None, "sk-wrong-wrong"):
        assert code(call(gateway, "GET", "/v1/key", None, key, public=True)) == (401, "invalid_api_key")
    assert code(call(gateway, "GET", "/v1/limits", None, KEY)) == (401, "invalid_api_key")
    for query in ("?key=a&team=b", "?name=a"):
        assert code(call(gateway, "GET", f"/v1/limits{query}")) == (400, "bad_request")
    for query in ("?key=nobody", "?team=nobody"):
        assert code(call(gateway, "GET", f"/v1/limits{query}")) == (404, "not_found")
