"""Limits and budgets over real sockets: who passes, who is refused with what, and what comes back."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from ruamel.yaml import YAML

from tests.harness import (
    COMPLETION,
    KEY,
    STREAM,
    Gateway,
    Script,
    Upstream,
    chat,
    config,
    eventually,
    hang,
    plain,
    running,
    slam,
    stream,
)

OTHER = "sk-test-other-0123456789"
FREE_INPUT = {"input": 0, "output": 2.0}


def used(entered: int, produced: int) -> Script:
    usage = {"prompt_tokens": entered, "completion_tokens": produced, "total_tokens": entered + produced}
    return plain(body=json.dumps({**COMPLETION, "usage": usage}).encode())


def key(name: str = "test", secret: str = KEY, **more: Any) -> dict[str, Any]:
    made = {"name": name, "sha256": hashlib.sha256(secret.encode()).hexdigest(), "tenant": {"team": "qa"}}
    return {**made, "explain": True, **more}


def settings(upstreams: dict[str, Upstream], *keys: dict[str, Any], price: Any = FREE_INPUT, **over: Any) -> Any:
    made = config(upstreams, keys=list(keys), ledger={"dir": "books"}, **over)
    for target in made["targets"].values():
        target["price"] = copy.copy(price)  # the same object twice would be written as an alias
    return made


class Up:
    """Upstreams that end with the test, and answer at first in the order a, b."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.made: list[Upstream] = []
        (directory / "policies").mkdir()
        (directory / "policies" / "default.yaml").write_text(
            "policy: default\nrank: listed\nrules:\n"
            "  - {id: all, use: [{target.name: a}, {target.name: b}, {family: '*'}]}\n"
        )

    def __call__(self, **scripts: Script) -> dict[str, Upstream]:
        ups = {name: Upstream([one]) for name, one in scripts.items()}
        self.made += ups.values()
        return ups


@pytest.fixture
def up(tmp_path: Path) -> Any:
    made = Up(tmp_path)
    yield made
    for one in made.made:
        one.close()


def policies() -> dict[str, Any]:
    return {"policies": {"dir": "policies"}}


def codes(answers: list[httpx.Response]) -> dict[Any, int]:
    found: dict[Any, int] = {}
    for one in answers:
        said = 200 if one.status_code == 200 else (one.status_code, *_said(one))
        found[said] = found.get(said, 0) + 1
    return found


def _said(answer: httpx.Response) -> tuple[str, str]:
    error = answer.json()["error"]
    return error["type"], error["code"]


def at_once(gateway: Gateway, count: int, **more: Any) -> list[httpx.Response]:
    """Requests on 40 connections at a time."""
    url, body = f"{gateway.public}/v1/chat/completions", json.dumps(chat(**more)).encode()
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    with httpx.Client(timeout=30, trust_env=False) as client, ThreadPoolExecutor(min(count, 40)) as pool:
        return list(pool.map(lambda _: client.post(url, content=body, headers=headers), range(count)))


def back(since: float, rpm: int) -> int:
    """How many requests have come back to a bucket since then at most: some, on a slow machine."""
    return int((time.monotonic() - since) * rpm / 60)


def until_refused(gateway: Gateway, *keys: str, **more: Any) -> list[httpx.Response]:
    """Requests of these keys in turn, up to the first that does not pass."""
    answers: list[httpx.Response] = []
    while not answers or answers[-1].status_code == 200:
        answers.append(gateway.post(chat(**more), key=keys[len(answers) % len(keys)]))
    return answers


RATE = (429, "rate_limit_error", "rate_limit_exceeded")
BUDGET = (429, "insufficient_quota", "budget_exceeded")


def test_of_40_at_once_on_a_budget_for_10_exactly_10_pass(up: Up, tmp_path: Path) -> None:
    ups = up(a=used(10, 50))
    budget = {"usd": 0.001, "per": "day"}  # an answer of 50 tokens costs 100 micro-dollars
    with running(tmp_path, settings(ups, key(budget=budget))) as gateway:
        answers = at_once(gateway, 40, max_tokens=50)
        assert codes(answers) == {200: 10, BUDGET: 30}
        assert len(ups["a"].requests) == 10, "who is refused is refused before anything is sent"
        last = gateway.post(chat(max_tokens=50))
        assert codes([last]) == {BUDGET: 1}
        assert last.headers["x-should-retry"] == "false"
        assert 1 <= int(last.headers["retry-after"]) <= 86_400
        assert last.headers["x-pointsman-origin"] == "gateway"
        left = 'pointsman_budget_left_usd{key="test",period="day",team="qa"}'
        assert gateway.metric(left) == 0
        assert gateway.metric(left.replace("left", "limit")) == 0.001
        assert gateway.metric('pointsman_refusals_total{code="budget_exceeded"}') == 31


def test_the_budget_is_not_filled_again_by_kill_9(up: Up, tmp_path: Path) -> None:
    ups = up(a=used(10, 50))
    made = settings(ups, key(budget=[{"usd": 0.0004, "per": "month"}, {"usd": 5, "per": "day", "mode": "soft"}]))
    with running(tmp_path, made) as gateway:
        assert codes([gateway.post(chat(max_tokens=50)) for _ in range(3)]) == {200: 3}
        gateway.process.kill()
        gateway.process.wait(10)
    with running(tmp_path, made) as gateway:
        assert codes([gateway.post(chat(max_tokens=50)) for _ in range(3)]) == {200: 1, BUDGET: 2}
        assert gateway.metric('pointsman_budget_left_usd{key="test",period="day",team="qa"}') == pytest.approx(4.9996)


def test_an_answer_is_shortened_to_what_is_left(up: Up, tmp_path: Path) -> None:
    ups = up(a=used(10, 300))
    with running(tmp_path, settings(ups, key(budget={"usd": 0.001, "per": "day"}))) as gateway:
        answer = gateway.post(chat())
        assert answer.status_code == 200
        assert answer.headers["x-pointsman-max-tokens"] == "500"
        assert ups["a"].requests[0].json["max_completion_tokens"] == 500
        assert codes([gateway.post(chat())]) == {BUDGET: 1}, "200 tokens are no answer"
        assert codes([gateway.post(chat(max_tokens=150))]) == {200: 1}
        assert ups["a"].requests[1].json["max_tokens"] == 150


def test_a_refusal_after_the_decision_says_whose_it_is_and_when_it_may_pass(up: Up, tmp_path: Path) -> None:
    ups = up(a=used(10, 300))
    keys = [key(budget={"usd": 0.001, "per": "day"}), key("poor", OTHER, budget={"usd": 0.000_01, "per": "hour"})]
    with running(tmp_path, settings(ups, *keys)) as gateway:
        assert gateway.post(chat()).status_code == 200
        spent, never = gateway.post(chat()), gateway.post(chat(max_tokens=5_000), key=OTHER)
        assert codes([spent, never]) == {BUDGET: 2}
        assert "more than is left of the budget of this key" in spent.text
        assert "more than the whole budget" in never.text
        # 10 tokens and 300 were paid; how much, and until when
        assert re.search(r" \$0\.000\d+ of \$0\.001000 a day is left until 20[0-9T:-]+Z\.", spent.text)
        assert re.search(r" \$0\.000010 of \$0\.000010 an hour is left until 20[0-9T:-]+Z\.", never.text)
        assert "retry-after" in spent.headers
        assert "retry-after" not in never.headers, "no time heals it"
        for name, answer in (("test", spent), ("poor", never)):
            assert "x-pointsman-max-tokens" not in answer.headers, "nothing was shortened"
            request_id = answer.headers["x-request-id"]
            assert eventually(lambda id=request_id: any(id in line for line in gateway.lines))
            (line,) = (line for line in gateway.lines if request_id in line)
            assert f'"key":"{name}"' in line.replace(" ", "")
            told = gateway.get(f"/v1/decisions/{request_id}", admin=True)
            assert told.status_code == 200
            assert told.json()["record"]["key"] == name
            assert told.json()["record"]["target"] == "", "nobody answered"


def test_a_dialect_of_ones_own_is_held_to_the_answer_that_is_asked_for(up: Up, tmp_path: Path) -> None:
    ups = up(a=used(10, 20))
    keys = [key(budget={"usd": 0.001, "per": "day"}), key("poor", OTHER, budget={"usd": 0.000_03, "per": "day"})]
    made = settings(ups, *keys)
    made["dialects"] = {"acme": {"thinking": {"switch": "reasoning.enabled"}}}
    made["backends"]["a"]["dialect"] = "acme"
    with running(tmp_path, made) as gateway:
        assert gateway.post(chat(max_tokens=10)).status_code == 200
        assert ups["a"].requests[0].json["max_tokens"] == 10
        told = gateway.post(chat(max_tokens=10), path="/v1/explain").json()
        assert told["budget"]["set_aside"]["answer_tokens"] == 10
        most = next(one["cost_high_nano_usd"] for one in told["targets"] if one["target"] == "a")
        assert most / 1e9 == pytest.approx(told["budget"]["set_aside"]["answer_usd"]), "one bound on one screen"
        # 10 tokens are $0.00002: the first passes, and then more is spent than there is
        assert gateway.post(chat(max_tokens=10), key=OTHER).status_code == 200
        refused = gateway.post(chat(max_tokens=16), key=OTHER).json()["error"]["message"]
        assert refused.startswith("This may cost more than the whole budget of this key. $0.00 of $0.000030 a day is")
        assert refused.endswith("and $0.000032 for an answer of 16 tokens: ask for a shorter one.")
    made["dialects"] = {"acme": {"limit_counts": "nothing"}}
    with running(tmp_path, made) as gateway:
        refused = gateway.post(chat(max_tokens=10)).json()["error"]["message"]
        assert refused.endswith("(its whole window counts, for the dialect acme is not known to heed max_tokens).")
        told = gateway.post(chat(max_tokens=10), path="/v1/explain").json()["budget"]["set_aside"]
        assert "the dialect acme is not known to heed max_tokens" in told["text"]


def test_no_shorter_answer_is_advised_where_the_prompt_alone_is_too_dear(up: Up, tmp_path: Path) -> None:
    ups = up(a=used(10, 3))
    made = settings(ups, key(budget={"usd": 0.000_01, "per": "day"}), price={"input": 1.0, "output": 2.0})
    with running(tmp_path, made) as gateway:
        refused = gateway.post(chat(text="word " * 50, max_tokens=3)).json()["error"]["message"]
        assert "more than the whole budget of this key. $0.000010 of" in refused
        assert re.search(r" It may cost up to \$0\.\d+ for the prompt \(at most [\d,]+ tokens, .*\) and "
                         r"\$0\.000006 for an answer of 3 tokens\.$", refused)  # fmt: skip


def test_a_prompt_is_counted_before_a_small_budget_refuses_it_by_its_size(up: Up, tmp_path: Path) -> None:
    answers = iter([used(20, 1)])
    ups = up(a=lambda conn, asked: next(answers, used(600, 1))(conn, asked))
    made = settings(ups, key(budget={"usd": 0.001, "per": "month"}), price={"input": 1.0, "output": 2.0}, **policies())
    made["targets"]["a"]["model"] = "qwen3.5-9b"  # by its size 1,150 tokens and more, which cost more than there is
    with running(tmp_path, made) as gateway:
        long = chat(text="word " * 600, max_tokens=5)  # 3,000 bytes, some 600 tokens
        first = gateway.post(long)  # nothing was counted by its vocabulary yet
        assert "at most 3,0" in first.json()["error"]["message"]
        assert (first.headers["retry-after"], "x-should-retry" in first.headers) == ("2", False)
        told = gateway.post(chat(text="Hi.", max_tokens=5), path="/v1/explain").json()["budget"]
        assert told["set_aside"]["prompt_tokens"] > 1_000
        assert told["set_aside"]["prompt_rests_on"] == "by the size of the request"
        assert (told["at_least"]["prompt_tokens"] < 60, told["fits"]) == (True, "counted or shortened")
        long = chat(text="word " * 600, max_tokens=5)  # 3,000 bytes, some 600 tokens
        assert gateway.post(chat(text="Hi.", max_tokens=5)).status_code == 200
        assert eventually(lambda: gateway.post(long).status_code == 200, 20)
        refused = gateway.post(long)
        assert (refused.status_code, _said(refused)) == (429, ("insufficient_quota", "budget_exceeded"))
        assert refused.headers["x-should-retry"] == "false"
        assert re.fullmatch(
            r"This may cost more than is left of the budget of this key\. "
            r"\$0\.000\d{3} of \$0\.001000 a month is left until 20\d\d-\d\d-01T00:00:00Z\. "
            r"It may cost up to \$0\.0006\d\d "
            r"for the prompt \(at most 6\d\d tokens, counted\) and \$0\.000010 for an answer of 5 tokens\.",
            refused.json()["error"]["message"],
        )
        assert gateway.post(long, path="/v1/explain").json()["budget"]["fits"] == "not now"
        refused = gateway.post(chat(text="Hi.", max_tokens=300))
        assert refused.json()["error"]["message"].endswith("for an answer of 256 tokens: ask for a shorter one.")
        assert gateway.post(chat(text="Hi.", max_tokens=5)).status_code == 200


def test_without_a_price_nothing_is_sent_on_a_hard_budget_and_all_on_a_soft_one(up: Up, tmp_path: Path) -> None:
    ups = up(a=plain(), b=plain())
    keys = [key(budget={"usd": 1, "per": "day"}), key("other", OTHER, budget={"usd": 1, "per": "day", "mode": "soft"})]
    made = settings(ups, *keys, price="none", **policies())
    with running(tmp_path, made) as gateway:
        refused = gateway.post(chat())
        assert codes([refused]) == {(400, "invalid_request_error", "model_not_priced"): 1}
        told = gateway.post(chat(), path="/v1/explain").json()
        assert told["refusal"]["code"] == "model_not_priced"
        assert told["targets"][0]["reasons"] == ["has no price, and a hard budget binds the key"]
        kept = gateway.get(f"/v1/decisions/{refused.headers['x-request-id']}").json()["trace"]
        assert kept["refusal"]["code"] == "model_not_priced"
        assert "This key has a hard budget" in refused.text
        assert gateway.post(chat(), key=OTHER).status_code == 200
    made["keys"], made["teams"] = [keys[1]], {"qa": {"budget": {"usd": 1, "per": "day"}}}
    with running(tmp_path, made) as gateway:
        assert "This key's team has a hard budget" in gateway.post(chat(), key=OTHER).text
    made["keys"], made["teams"] = keys, {}
    made["targets"]["b"]["price"] = FREE_INPUT
    with running(tmp_path, made) as gateway:
        answer = gateway.post(chat(max_tokens=5))
        assert answer.headers["x-pointsman-target"] == "b", "what has no price is no candidate"


def test_60_requests_a_minute_are_60_of_200_at_once(up: Up, tmp_path: Path) -> None:
    ups = up(a=plain())
    patient = {"headers": "20s", "first_event": "20s"}
    with running(tmp_path, settings(ups, key(rpm=60), timeouts=patient)) as gateway:
        began = time.monotonic()
        answers = at_once(gateway, 200)
        passed = [one for one in answers if one.status_code == 200]
        assert 60 <= len(passed) <= 60 + back(began, 60), "one a second more while this takes"
        assert codes(answers) == {200: len(passed), RATE: 200 - len(passed)}
        assert len(ups["a"].requests) == len(passed)
        refused = next(one for one in answers if one.status_code == 429)
        assert refused.headers["retry-after"] == "1"
        assert "x-should-retry" not in refused.headers
        for one in answers:
            assert one.headers["x-ratelimit-limit-requests"] == "60"
        told = [int(one.headers["x-ratelimit-remaining-requests"]) for one in passed]
        assert min(told) == 0
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert 50_000 < int(refused.headers["x-ratelimit-reset-requests"].removesuffix("ms")) <= 60_001


def test_who_is_over_a_limit_is_turned_away_before_anything_is_read_or_decided(up: Up, tmp_path: Path) -> None:
    ups = up(a=plain())
    keys = [key(rpm=1), key("other", OTHER, tpm=1_000_000)]
    with running(tmp_path, settings(ups, *keys)) as gateway:
        began = time.monotonic()
        assert gateway.post(chat()).status_code == 200
        large = json.dumps(chat(text="word " * 400_000)).encode()
        for body in (json.dumps(chat(text="another")).encode(), b"{", b'{"model": "none", "messages": []}', large):
            refused = gateway.post(body)
            assert codes([refused]) == {RATE: 1}
            assert refused.headers["x-ratelimit-remaining-requests"] == "0"
            assert 60 - (time.monotonic() - began) <= int(refused.headers["retry-after"]) <= 60
            assert "x-pointsman-policy" not in refused.headers, "nothing was decided"
        assert gateway.post(large, key=OTHER).status_code in (200, 400)
        assert codes([gateway.post(b"{", key=OTHER)]) == {(400, "invalid_request_error", "invalid_json"): 1}


def test_every_answer_says_what_is_left_by_the_bucket_that_refuses(up: Up, tmp_path: Path) -> None:
    """Streams, errors of both sides, repeated heads, and bodies that are refused."""
    ups = up(a=plain())
    ups["a"].scripts[:] = [plain(), plain(), stream(), plain(400, b'{"error":{"message":"no"}}'), plain(500), plain()]
    with running(tmp_path, settings(ups, key(rpm=60, tpm="1M"), max_attempts=1)) as gateway, httpx.Client() as client:
        url, headers = f"{gateway.public}/v1/chat/completions", {"authorization": f"Bearer {KEY}"}
        began = time.monotonic()
        bodies: list[Any] = [chat(), chat(), chat(stream=True), chat(), chat(), [], chat(model="none")]
        answers = [client.post(url, json=one, headers=headers, timeout=30) for one in bodies]
        assert [one.status_code for one in answers] == [200, 200, 200, 400, 502, 400, 404]
        left = [int(one.headers["x-ratelimit-remaining-requests"]) for one in answers]
        took = [1, 2, 3, 4, 5, 5, 5]  # what was refused before it left took none
        for told, used_up in zip(left, took, strict=True):
            assert 60 - used_up <= told <= 60 - used_up + back(began, 60), "one comes back each second"
        assert all(0 < int(one.headers["x-ratelimit-remaining-tokens"]) <= 1_000_000 for one in answers)
        nobody = client.post(url, json=chat(), headers={"authorization": "Bearer sk-wrong-wrong"})
        assert not [name for name in nobody.headers if name.startswith("x-ratelimit")]


def test_places_that_a_killed_process_held_are_free_in_the_next_one(up: Up, tmp_path: Path) -> None:
    ups = up(a=hang)
    made = settings(ups, key(max_concurrent=2))
    with running(tmp_path, made) as gateway:
        waiting = [_ask(gateway), _ask(gateway)]
        assert eventually(lambda: len(ups["a"].requests) == 2)
        gateway.process.kill()
        gateway.process.wait(10)
    for conn in waiting:
        conn.close()
    ups["a"].scripts[:] = [plain()]
    with running(tmp_path, made) as gateway:
        assert codes(at_once(gateway, 2)) == {200: 2}


def test_long_answers_are_a_debt_of_tokens(up: Up, tmp_path: Path) -> None:
    ups = up(a=used(10, 5_000))
    with running(tmp_path, settings(ups, key(tpm=1_000))) as gateway:
        began = time.monotonic()
        first = gateway.post(chat(max_tokens=5_000))
        assert first.status_code == 200
        assert first.headers["x-ratelimit-limit-tokens"] == "1000"
        second = gateway.post(chat(max_tokens=10))
        assert codes([second]) == {RATE: 1}
        assert second.headers["x-ratelimit-remaining-tokens"] == "0"
        wait_s = int(second.headers["retry-after"])
        assert 240 - (time.monotonic() - began) <= wait_s <= 250, "4,010 tokens over, at 1,000 a minute"
        assert len(ups["a"].requests) == 1


def test_an_answer_tells_of_tokens_that_were_not_used_as_back_already(up: Up, tmp_path: Path) -> None:
    ups = up(a=used(10, 20))
    with running(tmp_path, settings(ups, key(tpm=1_000))) as gateway:
        for used_up in (30, 60):
            answer = gateway.post(chat(max_tokens=500))
            left = int(answer.headers["x-ratelimit-remaining-tokens"])
            assert 1_000 - used_up - 1 <= left <= 1_000, "and not 500 less, which come back with the end of it"


def test_answers_are_shortened_on_a_connection_that_always_asks_alike(up: Up, tmp_path: Path) -> None:
    """They were answered with 500: what its habit sends around messages is not what a shortened request has."""
    ups = up(a=used(10, 1_000))
    made = settings(ups, key(budget={"usd": 0.008, "per": "day"}), price={"input": 1.0, "output": 2.0})
    with running(tmp_path, made) as gateway, httpx.Client() as client:
        url, headers = f"{gateway.public}/v1/chat/completions", {"authorization": f"Bearer {KEY}"}
        bodies = [chat("a", f"Number {number}", temperature=0.5, max_tokens=1_000) for number in range(6)]
        answers = [client.post(url, json=one, headers=headers, timeout=30) for one in bodies]
        told = [(one.status_code, one.headers.get("x-pointsman-max-tokens")) for one in answers]
        assert told[:3] == [(200, None)] * 3
        assert told[3][0] == 200
        assert told[3][1] is not None
        assert {status for status, _ in told[4:]} == {429}
        assert json.loads(ups["a"].requests[3].body)["max_tokens"] == int(told[3][1])


def test_who_leaves_gives_his_place_back(up: Up, tmp_path: Path) -> None:
    ups = up(a=hang)
    with running(tmp_path, settings(ups, key(max_concurrent=2))) as gateway:
        waiting = [_ask(gateway), _ask(gateway)]
        assert eventually(lambda: len(ups["a"].requests) == 2)
        refused = gateway.post(chat())
        assert codes([refused]) == {RATE: 1}
        assert refused.headers["retry-after"] == "1"
        for conn in waiting:
            conn.close()
        assert eventually(lambda: gateway.metric("pointsman_inflight_requests") == 0)
        ups["a"].scripts[:] = [plain()]
        assert codes(at_once(gateway, 2)) == {200: 2}


def _ask(gateway: Gateway) -> socket.socket:
    body = json.dumps(chat()).encode()
    conn = gateway.connect()
    conn.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b"
        % (KEY.encode(), len(body), body)
    )
    return conn


def test_a_request_with_two_attempts_is_one_request_and_costs_both(up: Up, tmp_path: Path) -> None:
    broken = b'data: {"error": {"message": "oh"}}\n\n'
    usage = STREAM[4]
    ups = up(a=stream([STREAM[0], usage, broken]), b=stream())
    made = settings(ups, key(rpm=5, budget={"usd": 1, "per": "day"}), price={"input": 1.0, "output": 2.0}, **policies())
    with running(tmp_path, made) as gateway:
        answer = gateway.post(chat(stream=True, max_tokens=10))
        assert answer.headers["x-pointsman-attempts"] == "2"
        assert answer.headers["x-ratelimit-remaining-requests"] == "4"
        assert gateway.metric("pointsman_budget_left_usd") == pytest.approx(1 - 0.000_032)


def test_a_failure_may_leave_too_little_for_another_attempt(up: Up, tmp_path: Path) -> None:
    broken = b'data: {"error": {"message": "oh"}}\n\n'
    ups = up(a=stream([STREAM[0], STREAM[4], broken]), b=stream())
    budget = {"usd": 0.000_022, "per": "day"}
    made = settings(ups, key(budget=budget), **policies())  # 10 tokens are 20 micro-dollars, a's 3 are 6
    with running(tmp_path, made) as gateway:
        answer = gateway.post(chat(stream=True, max_tokens=10))
        assert codes([answer]) == {BUDGET: 1}
        assert not ups["b"].requests
        assert gateway.metric("pointsman_budget_left_usd") == pytest.approx(0.000_016)


def test_what_never_left_has_used_nothing(up: Up, tmp_path: Path) -> None:
    ups = up(a=slam)
    gone = Upstream([plain()])
    gone.close()
    made = settings({"a": gone}, key(rpm=2, tpm=100_000, max_concurrent=1, budget={"usd": 1, "per": "day"}))
    with running(tmp_path, made) as gateway:
        for _ in range(4):
            assert gateway.post(chat()).status_code == 502
    assert not ups["a"].requests


def test_a_team_shares_its_limits(up: Up, tmp_path: Path) -> None:
    ups = up(a=used(10, 50))
    keys = [key(rpm=100), key("other", OTHER)]
    teams = {"qa": {"rpm": 3, "budget": {"usd": 1, "per": "month"}}}
    with running(tmp_path, settings(ups, *keys, teams=teams)) as gateway:
        began = time.monotonic()
        answers = until_refused(gateway, KEY, OTHER)
        passed = len(answers) - 1
        assert 3 <= passed <= 3 + back(began, 3)
        assert codes(answers) == {200: passed, RATE: 1}
        assert "key's team" in answers[-1].json()["error"]["message"]
        assert answers[0].headers["x-ratelimit-limit-requests"] == "3"
        left = gateway.metric('pointsman_budget_left_usd{key="all",period="month",team="qa"}')
        assert left == pytest.approx(1 - 0.0001 * passed)


def test_a_target_at_its_limit_is_passed_over_until_none_is_left(up: Up, tmp_path: Path) -> None:
    ups = up(a=plain(), b=plain())
    made = settings(ups, key(), **policies())
    made["targets"]["a"]["rpm"] = 2
    made["targets"]["b"]["rpm"] = 1
    with running(tmp_path, made) as gateway:
        began = time.monotonic()
        answers = until_refused(gateway, KEY)
        passed = [one.headers["x-pointsman-target"] for one in answers[:-1]]
        assert passed[:2] == ["a", "a"]
        assert 2 <= passed.count("a") <= 2 + back(began, 2)
        assert 1 <= passed.count("b") <= 1 + back(began, 1)
        assert codes(answers) == {200: len(passed), RATE: 1}
        wait_s = int(answers[-1].headers["retry-after"])
        assert 30 - (time.monotonic() - began) <= wait_s <= 30, "a has room before b"
        assert "x-should-retry" not in answers[-1].headers
        assert "x-ratelimit-limit-requests" not in answers[0].headers
        assert gateway.metric('pointsman_attempts_total{outcome="limited",target="a"}') == 1 + passed.count("b")


def test_in_shadow_mode_nothing_is_refused_and_all_is_counted(up: Up, tmp_path: Path) -> None:
    ups = up(a=used(10, 50))
    limits = {
        "rpm": {"limit": 1, "mode": "shadow"},
        "tpm": {"limit": 1, "mode": "shadow"},
        "budget": {"usd": 0.0001, "per": "day", "mode": "shadow"},
    }
    with running(tmp_path, settings(ups, key(**limits))) as gateway:
        began = time.monotonic()
        answers = [gateway.post(chat(max_tokens=50)) for _ in range(5)]
        assert codes(answers) == {200: 5}
        assert not [name for name in answers[0].headers if name.startswith("x-ratelimit")]
        count = 'pointsman_limit_shadowed_total{limit="%s",name="test",scope="key"}'
        assert [gateway.metric(count % one) for one in ("tpm", "budget")] == [4, 4]
        assert 4 - back(began, 1) <= gateway.metric(count % "rpm") <= 4


def test_a_soft_budget_lets_pass_and_warns_once(up: Up, tmp_path: Path) -> None:
    ups = up(a=used(10, 50))
    with running(tmp_path, settings(ups, key(budget={"usd": 0.0002, "per": "day", "mode": "soft"}))) as gateway:
        assert codes([gateway.post(chat()) for _ in range(4)]) == {200: 4}
        assert gateway.metric("pointsman_budget_left_usd") == pytest.approx(-0.0002)
        assert eventually(lambda: any("budget of key test is spent" in line for line in gateway.lines))
        assert len([line for line in gateway.lines if "budget of key test is spent" in line]) == 1


def test_a_reload_keeps_what_was_used(up: Up, tmp_path: Path) -> None:
    ups = up(a=used(10, 50))
    made = settings(ups, key(rpm=4, budget={"usd": 1, "per": "day"}), key("other", OTHER))
    with running(tmp_path, made) as gateway:
        began = time.monotonic()
        for _ in range(3):
            gateway.post(chat(max_tokens=50))
            gateway.post(chat(max_tokens=50), key=OTHER)
        made["keys"][0]["rpm"] = 5
        made["keys"][1]["budget"] = {"usd": 2, "per": "day"}
        with (tmp_path / "pointsman.yaml").open("w") as file:
            YAML().dump(made, file)
        assert httpx.post(f"{gateway.admin}/v1/reload", timeout=30).status_code == 200
        passed = len(until_refused(gateway, KEY, max_tokens=50)) - 1
        assert 2 <= passed <= 2 + back(began, 5)
        left = 'pointsman_budget_left_usd{key="%s",period="day",team="qa"}'
        assert gateway.metric(left % "test") == pytest.approx(1 - 0.0001 * (3 + passed))
        assert gateway.metric(left % "other") == pytest.approx(2 - 0.0003), "a new one waits for the books"


def test_a_key_without_limits_is_told_of_none(up: Up, tmp_path: Path) -> None:
    ups = up(a=plain())
    with running(tmp_path, settings(ups, key(), key("other", OTHER, rpm=1))) as gateway:
        answers = [gateway.post(chat()) for _ in range(5)]
        assert codes(answers) == {200: 5}
        assert not [name for one in answers for name in one.headers if name.startswith("x-ratelimit")]


def test_requests_that_repeat_are_limited_like_the_first(up: Up, tmp_path: Path) -> None:
    """On one connection, by the ways that a remembered decision takes."""
    ups = up(a=used(10, 50))
    with running(tmp_path, settings(ups, key(rpm=6, budget={"usd": 0.0005, "per": "day"}))) as gateway:
        body = json.dumps(chat(max_tokens=50)).encode()
        headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        began = time.monotonic()
        with httpx.Client(timeout=10) as client:
            url = f"{gateway.public}/v1/chat/completions"
            answers = [client.post(url, content=body, headers=headers) for _ in range(8)]
        assert [one.status_code for one in answers] == [200] * 5 + [429] * 3
        assert codes(answers) == {200: 5, BUDGET: 3}
        assert 1 <= int(answers[-1].headers["x-ratelimit-remaining-requests"]) <= 1 + back(began, 6)


def test_a_journal_tells_what_was_set_aside(up: Up, tmp_path: Path) -> None:
    ups = up(a=used(10, 50))
    with running(tmp_path, settings(ups, key(budget={"usd": 1, "per": "day"}))) as gateway:
        gateway.post(chat(max_tokens=50))
        journal = b"".join(path.read_bytes() for path in sorted((tmp_path / "books").glob("*journal*")))
        assert b",100000]" in journal
        gateway.get("/readyz")


def test_many_holds_end(up: Up, tmp_path: Path) -> None:
    """Whatever way requests end in, nothing stays reserved and no place is lost."""
    ups = up(a=plain())
    scripts: list[Script] = [slam, plain(500), stream([STREAM[0]], end="reset"), plain(400), plain(), hang]
    ups["a"].scripts[:] = scripts * 4
    made = settings(ups, key(max_concurrent=3, budget={"usd": 1, "per": "day"}), max_attempts=1)
    with running(tmp_path, made) as gateway:
        threads = [threading.Thread(target=gateway.post, args=(chat(max_tokens=50),)) for _ in range(12)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        ups["a"].scripts[:] = [used(10, 50)]
        assert eventually(lambda: gateway.post(chat(max_tokens=50)).status_code == 200)
        ups["a"].scripts[:] = [hang]
        waiting = [_ask(gateway) for _ in range(3)]
        assert eventually(lambda: gateway.metric("pointsman_inflight_requests") == 3)
        assert codes([gateway.post(chat(max_tokens=50))]) == {RATE: 1}
        for conn in waiting:
            conn.close()


def test_copies_are_paid_from_the_budget_and_not_sent_without_room(up: Up, tmp_path: Path) -> None:
    ups = up(a=used(10, 50), b=used(10, 50))
    (tmp_path / "policies" / "default.yaml").write_text(
        "policy: default\nrules: [{id: all, use: [{target.name: a}]}]\n"
        "shadow: [{id: copy, use: [{target.name: b}], share: 100%}]\n"
    )
    with running(tmp_path, settings(ups, key(budget={"usd": 0.0003, "per": "day"}), **policies())) as gateway:
        assert gateway.post(chat(max_tokens=50)).status_code == 200
        left = "pointsman_budget_left_usd"
        assert eventually(lambda: gateway.metric(left) == pytest.approx(0.0001))
        assert gateway.post(chat(max_tokens=50)).status_code == 200
        assert gateway.metric('pointsman_shadow_skipped_total{reason="budget",shadow="copy"}') == 1
        assert codes([gateway.post(chat(max_tokens=50))]) == {BUDGET: 1}
        assert len(ups["b"].requests) == 1


def test_a_connection_that_had_been_closed_takes_nothing_of_a_target_s_limits(tmp_path: Path) -> None:
    ups = {"a": Upstream([plain(), slam, plain()])}
    made = settings(ups, key(allow=["*"]))
    made["targets"]["a"]["rpm"] = 2
    with running(tmp_path, made) as gateway:
        began = time.monotonic()
        passed = len(until_refused(gateway, KEY, model="a")) - 1
        assert gateway.metric('pointsman_attempts_total{outcome="stale",target="a"}') == 1
        assert 2 <= passed <= 2 + back(began, 2)
    ups["a"].close()
