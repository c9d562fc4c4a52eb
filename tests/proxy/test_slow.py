"""Latency targets over real sockets: a slow backend loses its traffic and regains it."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from tests.harness import SSE_HEAD, STREAM, Gateway, Received, Script, chat, eventually, framed
from tests.proxy.conftest import Start

POLICY = """\
policy: quick
latency: [{id: chat, %s, samples: 5, over: 1m}]
rules: [{id: all, use: [{target.name: a}, {target.name: b}]}]
"""
WORDS = [STREAM[0], *[STREAM[1]] * 20, *STREAM[3:4], b'data: {"id":"c","object":"chat.completion.chunk","created":1,'
         b'"model":"m","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":40,"total_tokens":49}}\n\n',
         STREAM[5]]  # fmt: skip


class Pace:
    """A backend whose speed a test can change."""

    def __init__(self) -> None:
        self.first_s = 0.0
        self.rest_s = 0.0

    def script(self, conn: socket.socket, _: Received) -> bool:
        conn.sendall(SSE_HEAD)
        time.sleep(self.first_s)
        for number, event in enumerate(WORDS):
            conn.sendall(framed(event))
            if number == 1:
                time.sleep(self.rest_s)
        conn.sendall(b"0\r\n\r\n")
        return True


def begin(start: Start, tmp_path: Path, asks: str, a: Script) -> Gateway:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "quick.yaml").write_text(POLICY % asks)
    return start({"a": [a], "b": [Pace().script]}, policies={"dir": "policies", "default": "quick"})[0]


def went(gateway: Gateway) -> tuple[str, str]:
    answer = gateway.post(chat(stream=True))
    assert answer.status_code == 200
    return answer.headers["x-pointsman-target"], answer.headers["x-pointsman-because"]


def misses(gateway: Gateway) -> list[str]:
    [a] = [one for one in gateway.get("/v1/targets", admin=True).json()["data"] if one["target"] == "a"]
    return list(a["slow"])


@pytest.mark.parametrize("asks", ["first_event: {p50: 300ms}", "tokens_per_s: {p50: 300}"])
def test_a_slow_backend_loses_its_traffic_and_regains_it(start: Start, tmp_path: Path, asks: str) -> None:
    pace = Pace()
    gateway = begin(start, tmp_path, asks, pace.script)
    assert [went(gateway)[0] for _ in range(8)] == ["a"] * 8
    assert misses(gateway) == []
    pace.first_s, pace.rest_s = (0.5, 0.0) if "first" in asks else (0.0, 0.2)
    slowed = 0
    while misses(gateway) == []:
        slowed += went(gateway)[0] == "a"
        assert slowed < 20
    assert misses(gateway) == ["quick/chat"]
    assert gateway.metric('pointsman_target_slow{latency="quick/chat",target="a"}') == 1
    found = [went(gateway) for _ in range(30)]
    assert [target for target, _ in found].count("b") >= 26, "but for a few that try it again"
    assert "a is slower than chat asks" in dict(found)["b"]
    pace.first_s = pace.rest_s = 0.0
    assert eventually(lambda: went(gateway)[0] == "a" and misses(gateway) == [], within_s=40)
    assert [went(gateway)[0] for _ in range(5)] == ["a"] * 5
    assert gateway.metric('pointsman_target_slow{latency="quick/chat",target="a"}') == 0


def test_a_reload_does_not_forget_who_is_slow(start: Start, tmp_path: Path) -> None:
    pace = Pace()
    pace.first_s = 0.5
    gateway = begin(start, tmp_path, "first_event: {p50: 300ms}", pace.script)
    for _ in range(5):
        went(gateway)
    assert misses(gateway) == ["quick/chat"]
    path = tmp_path / "policies" / "quick.yaml"
    path.write_text(path.read_text() + "because: edited\n")
    assert eventually(lambda: "rejected" not in gateway.get("/readyz").text and gateway.metric(
        'pointsman_config_reload_total{result="ok"}') >= 1, within_s=15)  # fmt: skip
    assert misses(gateway) == ["quick/chat"]
    assert went(gateway)[0] == "b"
    explained = gateway.post(chat(), path="/v1/explain").json()
    assert explained["candidates"] == ["b", "a"]
