"""Conversations over real sockets: they stay where they were answered, are nobody else's, and survive a reload."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.harness import KEY, Gateway, chat, eventually, plain, stream
from tests.proxy.conftest import Start

OTHER = "sk-test-9876543210"
POLICY = """\
policy: sticky
sticky: {for: 30m, switch: never, by: [conversation, prompt_cache_key]}
rules: [{id: all, use: [{family: "*", rank: weighted, weights: {a: %d, b: %d}}]}]
"""


def write(tmp_path: Path, a: int, b: int) -> None:
    (tmp_path / "policies").mkdir(exist_ok=True)
    (tmp_path / "policies" / "sticky.yaml").write_text(POLICY % (a, b))


def key(name: str, secret: str) -> dict[str, Any]:
    return {"name": name, "sha256": hashlib.sha256(secret.encode()).hexdigest(), "explain": True}


def begin(start: Start, tmp_path: Path, **over: Any) -> Gateway:
    write(tmp_path, 1_000_000, 1)
    keys = [key("one", KEY), key("two", OTHER)]
    scripts = over.pop("scripts", {"a": [plain()], "b": [plain()]})
    return start(scripts, policies={"dir": "policies", "default": "sticky"}, keys=keys, **over)[0]


def turned(gateway: Gateway, tmp_path: Path, a: int, b: int) -> None:
    write(tmp_path, a, b)
    httpx.post(gateway.admin + "/v1/reload", timeout=30).raise_for_status()


def went(gateway: Gateway, conversation: str | None = None, secret: str = KEY, **members: Any) -> str:
    headers = {} if conversation is None else {"x_pointsman_conversation": conversation}
    answer = gateway.post(chat(**members), key=secret, **headers)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-pointsman-target"]


def test_a_conversation_stays_through_a_reload_and_is_its_keys_own(start: Start, tmp_path: Path) -> None:
    gateway = begin(start, tmp_path)
    assert went(gateway, "c0") == "a"
    turned(gateway, tmp_path, 1, 1_000_000)
    assert [went(gateway, "c0") for _ in range(3)] == ["a"] * 3
    assert went(gateway, "c0", OTHER) == "b", "the same name of another key is another conversation"
    assert went(gateway) == "b"
    turned(gateway, tmp_path, 1_000_000, 1)
    assert went(gateway, "c0", OTHER) == "b"


@pytest.mark.parametrize(
    "members",
    [
        {"metadata": {"conversation_id": "m"}},
        {"prompt_cache_key": "k"},
        {"metadata": {"x": "y"}, "prompt_cache_key": "k"},
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_body_may_name_it_as_well(start: Start, tmp_path: Path, members: dict[str, Any], streamed: bool) -> None:
    script = stream() if streamed else plain()
    gateway = begin(start, tmp_path, scripts={"a": [script], "b": [script]})
    more = {"stream": True} if streamed else {}
    assert went(gateway, **members, **more) == "a"
    turned(gateway, tmp_path, 1, 1_000_000)
    assert went(gateway, **members, **more) == "a"
    assert went(gateway, **more) == "b"


def test_after_a_fallback_the_conversation_is_where_it_was_answered(start: Start, tmp_path: Path) -> None:
    gateway = begin(start, tmp_path, scripts={"a": [plain(), plain(503, b"{}"), plain()], "b": [plain()]})
    assert [went(gateway, "c") for _ in range(4)] == ["a", "b", "b", "b"]


def test_explanations_and_decisions_know_where_it_was(start: Start, tmp_path: Path) -> None:
    gateway = begin(start, tmp_path)
    assert went(gateway, "c0") == "a"
    turned(gateway, tmp_path, 1, 1_000_000)
    told = gateway.post(chat(), path="/v1/explain", x_pointsman_conversation="c0").json()
    assert told["candidates"][0] == "a"
    assert "stays with a" in told["because"]
    other = gateway.post(chat(), path="/v1/explain", key=OTHER, x_pointsman_conversation="c0").json()
    assert other["candidates"][0] == "b"
    answer = gateway.post(chat(), x_pointsman_conversation="c0")
    assert "stays with a" in answer.headers["x-pointsman-because"]
    kept = gateway.get(f"/v1/decisions/{answer.headers['x-request-id']}").json()["trace"]
    assert kept["candidates"] == ["a", "b"]
    assert kept["because"] == answer.headers["x-pointsman-because"]


def test_a_target_that_became_another_model_holds_no_conversation(start: Start, tmp_path: Path) -> None:
    gateway = begin(start, tmp_path)
    assert went(gateway, "c0") == "a"
    path = gateway.directory / "pointsman.yaml"
    text = path.read_text()
    path.write_text(text.replace("upstream_id: m", "upstream_id: n", 1))
    turned(gateway, tmp_path, 1, 1_000_000)
    assert eventually(lambda: went(gateway, "c0") == "b")
