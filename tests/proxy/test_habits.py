"""Requests that say the same as the last one but for their messages: served the short way, and no other way."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.proxy.framing import Chunked
from tests.harness import COMPLETION, KEY, Received, Script, chat, hang, plain, stream
from tests.proxy.conftest import Start
from tests.proxy.test_requests import read_answer

#: Members behind the messages, long enough for bodies to be seen to end alike.
ALIKE = {"temperature": 0.5, "max_tokens": 64, "seed": 12345}


def ask(conn: socket.socket, body: dict[str, Any], *lines: str, key: str = KEY) -> tuple[dict[str, str], bytes]:
    """(headers, body) of the answer; the body in compact JSON, as SDKs send it."""
    text = json.dumps(body, separators=(",", ":")).encode()
    head = ["POST /v1/chat/completions HTTP/1.1", "Host: x", f"Authorization: Bearer {key}", *lines]
    conn.sendall("\r\n".join([*head, f"Content-Length: {len(text)}", "", ""]).encode() + text)
    if body.get("stream"):
        data = b""
        while not data.endswith(b"0\r\n\r\n"):
            more = conn.recv(65536)
            assert more
            data += more
        first, _, answer = data.partition(b"\r\n\r\n")
        answer = Chunked().feed(answer)  # how many events came in one chunk is chance
    else:
        first, answer, behind = read_answer(conn)
        assert not behind
    status, *fields = first.decode().split("\r\n")
    told = dict(field.split(": ", 1) for field in fields)
    return {**told, "status": status.split(" ")[1]}, answer


@pytest.mark.parametrize("model", ["a", "auto"])
@pytest.mark.parametrize("members", [{}, {"temperature": 0.5, "max_tokens": 9}, {"stream": True, "seed": 1}])
def test_each_request_of_a_kind_gets_what_the_first_got(start: Start, model: str, members: dict[str, Any]) -> None:
    answers = [stream() if members.get("stream") else plain()]
    gateway, ups = start({"a": answers * 6})
    seen, ids = [], set()
    with gateway.connect() as conn:
        for n in range(6):
            told, _ = ask(conn, chat(model, f"Number {n}: " + "é" * n, **members))
            ids.add(told.pop("x-request-id"))
            told.pop("x-pointsman-overhead-ms", None)
            seen.append(told)
    assert len(ids) == 6
    assert all(told == seen[0] for told in seen)
    for n, request in enumerate(ups["a"].requests):
        usage = {"stream_options": {"include_usage": True}} if members.get("stream") else {}
        assert request.json == {**chat("m", f"Number {n}: " + "é" * n), **members, **usage}
    assert {gateway.get(f"/v1/decisions/{one}").json()["record"]["target"] for one in ids} == {"a"}
    assert gateway.metric("pointsman_requests_total") == 6


def test_what_differs_besides_the_messages_is_seen(start: Start) -> None:
    gateway, ups = start({"a": [plain()] * 12, "b": [plain()] * 4})
    bodies = [chat("a", "1")] * 4 + [chat("b", "1"), chat("a", "1", seed=3), chat("a", "1", stop=["x"]), chat("a", "2")]
    with gateway.connect() as conn:
        for body in bodies:
            told, _ = ask(conn, body)
            assert told["x-pointsman-target"] == body["model"]
        told, answer = ask(conn, chat("a", "3"), "x-pointsman-policy: none-such")
        assert (told["status"], json.loads(answer)["error"]["code"]) == ("400", "bad_request")
        told, _ = ask(conn, {**chat("a"), "messages": [{"role": "user", "content": 5}]})
        assert told["status"] == "400"
        told, _ = ask(conn, chat("a", "4"))
        assert told["status"] == "200"
        told, _ = ask(conn, chat("a", "5"), key="sk-somebody-else-00000")
        assert told["status"] == "401"
    asked_of_a = [{**body, "model": "m"} for body in bodies if body["model"] == "a"] + [chat("m", "4")]
    assert [request.json for request in ups["a"].requests] == asked_of_a
    assert len(ups["b"].requests) == 1


def test_a_target_that_fails_is_replaced_and_then_passed_over(start: Start) -> None:
    broken = plain(500, b'{"error":{"message":"no"}}')
    gateway, ups = start({"a": [plain()] * 4 + [broken] * 30, "b": [plain()] * 30})
    with gateway.connect() as conn:
        targets = []
        for n in range(14):
            told, answer = ask(conn, chat("llama-3.3-70b", f"Number {n}"))
            assert told["status"] == "200"
            assert json.loads(answer) == COMPLETION
            targets.append((told["x-pointsman-target"], told["x-pointsman-attempts"]))
    assert targets[:4] == [("a", "1")] * 4
    assert ("b", "2") in targets
    assert targets[-1] == ("b", "1")
    assert [request.json["messages"][0]["content"] for request in ups["b"].requests] == [
        f"Number {n}" for n in range(4, 14)
    ]


def test_a_request_that_is_too_long_for_the_decision_is_decided_by_itself(start: Start) -> None:
    gateway, ups = start({"a": [plain()] * 8}, timeouts={"headers": "5s"})
    with gateway.connect() as conn:
        for n in range(4):
            assert ask(conn, chat("a", f"Number {n}"))[0]["status"] == "200"
        told, answer = ask(conn, chat("a", "\u4e2d\u6587" * 60_000))
        assert (told["status"], json.loads(answer)["error"]["code"]) == ("400", "context_length_exceeded")
        assert ask(conn, chat("a", "again"))[0]["status"] == "200"
    assert len(ups["a"].requests) == 5


def test_a_request_served_the_short_way_still_has_its_clocks(start: Start) -> None:
    gateway, _ = start({"a": [plain()] * 4 + [hang]}, timeouts={"headers": "30s", "first_event": "30s", "total": "1s"})
    with gateway.connect() as conn:
        for n in range(4):
            assert ask(conn, chat("a", f"Number {n}", **ALIKE))[0]["status"] == "200"
        time.sleep(1.3)  # until no clock of those runs any more
        told, answer = ask(conn, chat("a", "Number 5", **ALIKE))
    assert (told["status"], json.loads(answer)["error"]["code"]) == ("504", "upstream_timeout")


def test_the_clock_of_an_idle_connection_neither_cuts_off_an_answer_nor_closes_too_soon_behind_it(start: Start) -> None:
    """It is left running while requests are served, and put off where it runs out meanwhile or soon after."""
    good = plain()

    def late(after_s: float) -> Script:
        def script(conn: socket.socket, request: Received) -> bool:
            time.sleep(after_s)
            return good(conn, request)

        return script

    gateway, _ = start({"a": [good] * 4 + [late(0.5)] + [good] * 4 + [late(1.2)]}, limits={"keep_alive": "700ms"})
    for _ in range(2):
        with gateway.connect() as conn:
            for n in range(5):
                assert ask(conn, chat("a", f"Number {n}", **ALIKE))[0]["status"] == "200"
            answered = time.monotonic()
            assert conn.recv(1) == b""
            assert 0.6 <= time.monotonic() - answered < 5


def test_a_stream_served_the_short_way_says_what_the_upstream_said(start: Start) -> None:
    gateway, _ = start({"a": [stream()] * 5})
    with gateway.connect() as conn:
        answers = [ask(conn, chat("a", f"Number {n}", stream=True))[1] for n in range(5)]
    assert len(set(answers)) == 1


def test_a_fallback_gets_a_body_of_its_own(tmp_path: Path, start: Start) -> None:
    """A target that has no room when a habit's request comes must not lend its body to the next one."""
    (tmp_path / "policies").mkdir()
    use = "[{target.name: a}, {target.name: b}]"
    text = f"policy: mine\nrank: listed\nrules:\n  - {{id: all, use: {use}}}\n"
    (tmp_path / "policies/mine.yaml").write_text(text, encoding="utf-8")
    busy, free = threading.Event(), threading.Event()

    def hold(conn: socket.socket, request: Received) -> bool:
        busy.set()
        free.wait(20)
        return plain()(conn, request)

    def change(made: dict[str, Any]) -> None:
        made["backends"]["a"]["max_inflight"] = 1
        made["backends"]["b"]["body"] = {"provider": {"data_collection": "deny"}}
        made["targets"]["b"]["upstream_id"] = "model-of-b"

    scripts: dict[str, list[Script]] = {"a": [plain(), plain(), plain(), hold], "b": [plain()]}
    gateway, ups = start(scripts, change=change, policies={"dir": "policies", "default": "mine"})
    same = {"temperature": 0.5, "max_tokens": 900, "seed": 12345}
    with gateway.connect() as conn:
        for n in range(3):
            ask(conn, chat("auto", f"n {n}", **same))
        holding = threading.Thread(target=lambda: gateway.post(chat("auto", "hold")))
        holding.start()
        assert busy.wait(20)
        told, _ = ask(conn, chat("auto", "n 9", **same))
        free.set()
        holding.join()
    assert told["x-pointsman-target"] == "b"
    (request,) = ups["b"].requests
    assert request.json["model"] == "model-of-b"
    assert request.json["provider"] == {"data_collection": "deny"}


def test_each_request_is_sent_on_with_the_user_it_names(start: Start) -> None:
    gateway, ups = start({"a": [plain()] * 8})
    users = ["u-1", "u-2", "u-3", "u-4", "", 'o"dd', "u-5", "u-6"]
    with gateway.connect() as conn:
        for user in users:
            assert ask(conn, chat("a", "hi", user=user))[0]["status"] == "200"
    assert [request.json for request in ups["a"].requests] == [chat("m", "hi", user=user) for user in users]


def test_a_limit_of_cost_counts_every_choice_of_every_request(start: Start) -> None:
    price = {"input": 1.0, "output": 2.0}
    gateway, ups = start({"a": [plain()] * 9}, change=lambda made: made["targets"]["a"].update(price=price))
    with gateway.connect() as conn:
        for n, status in ((1, "200"), (2, "200"), (1, "200"), (100, "403"), (2, "200"), (100, "403")):
            told, _ = ask(conn, chat("auto", "x", max_tokens=1_000, n=n), "x-pointsman-max-cost-usd: 0.01")
            assert told["status"] == status, n
    assert [request.json["n"] for request in ups["a"].requests] == [1, 2, 1, 2]


def test_a_place_in_a_header_narrows_that_of_the_key(start: Start) -> None:
    def change(made: dict[str, Any]) -> None:
        for name, region in (("a", "eu-west-1"), ("b", "eu-central-1")):
            made["backends"][name].update(region=region, processing=region)
        made["keys"][0].setdefault("tenant", {})["residency"] = "eu"

    gateway, ups = start({"a": [plain()] * 9, "b": [plain()] * 9}, change=change)
    for hint, status in (("eu-central-1", 200), ("eu", 200), ("us", 403)):
        assert gateway.post(chat("auto"), x_pointsman_residency=hint).status_code == status
    assert gateway.post(chat("a"), x_pointsman_residency="eu-central-1").status_code == 403
    assert len(ups["b"].requests) >= 1
