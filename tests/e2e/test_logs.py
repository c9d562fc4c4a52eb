"""The log of a real gateway: sampled under load without losing what matters, and as a reload says from then on."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
from ruamel.yaml import YAML

from tests.harness import KEY, ROOT, SERVE, Gateway, Upstream, chat, config, eventually, plain, running

LINES = 'pointsman_log_lines_total{log="requests",result="%s"}'


def lines(gateway: Gateway) -> list[dict[str, Any]]:
    """Those of requests."""
    found = [json.loads(line) for line in list(gateway.lines) if line.startswith("{")]
    return [one for one in found if "duration_ms" in one]


def test_under_load_good_requests_stand_for_each_other_and_refusals_for_themselves(tmp_path: Path) -> None:
    upstream = Upstream([plain()])
    with running(tmp_path, config({"a": upstream}, log={"sample_above": 2})) as gateway:
        with httpx.Client(base_url=gateway.public) as client:
            for number in range(200):
                key = "sk-wrong-0123456789" if number % 10 == 0 else KEY
                client.post("/v1/chat/completions", json=chat(), headers={"authorization": f"Bearer {key}"})
        written = gateway.metric(LINES % "written")
        assert written + gateway.metric(LINES % "left_out") == 200
        assert gateway.metric(LINES % "lost") == 0
        assert eventually(lambda: len(lines(gateway)) == written)
        found = lines(gateway)
    upstream.close()
    refused = [one for one in found if one["code"] == "invalid_api_key"]
    assert len(refused) == 20
    assert not any("stands_for" in one for one in refused)
    assert len(found) - 20 < 120
    assert any(one.get("stands_for", 1) > 1 for one in found)


def test_a_reload_says_what_is_logged_from_then_on(tmp_path: Path) -> None:
    upstream = Upstream([plain()])
    made = config({"a": upstream})
    with running(tmp_path, made) as gateway:
        with (tmp_path / "pointsman.yaml").open("w") as file:
            YAML().dump(made | {"log": {"level": "warning"}}, file)
        assert httpx.post(f"{gateway.admin}/v1/reload", timeout=60).status_code == 200
        gateway.post(chat())
        gateway.post(chat("no-such-model"))
        assert eventually(lambda: len(lines(gateway)) == 1)
        assert lines(gateway)[0]["code"] == "model_not_found"
        assert not any("reloaded" in line for line in gateway.lines), "that is no warning"
    upstream.close()


def test_on_a_terminal_it_is_text_and_a_defect_is_red(tmp_path: Path) -> None:
    with (tmp_path / "pointsman.yaml").open("w") as file:
        YAML().dump(config({"a": "http://127.0.0.1:9/v1"}), file)
    master, terminal = pty.openpty()
    environ = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    process = subprocess.Popen(
        [sys.executable, *SERVE, str(tmp_path / "pointsman.yaml")],
        cwd=ROOT, stdout=terminal, stderr=terminal, env={**environ, "TERM": "xterm", "UPSTREAM_KEY": "sk-upstream"},
    )  # fmt: skip
    os.close(terminal)
    try:
        said, ends_at = b"", time.monotonic() + 30
        while b"admin listener on" not in said and time.monotonic() < ends_at:
            said += os.read(master, 65_536)
        port = int(said.split(b"public listener on http://127.0.0.1:")[1].split()[0])
        headers = {"authorization": f"Bearer {KEY}"}
        httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=chat(), headers=headers, timeout=30)
        while b"upstream_unavailable" not in said and time.monotonic() < ends_at:
            said += os.read(master, 65_536)
    finally:
        process.terminate()
        process.wait(10)
        os.close(master)
    entries = said.decode().splitlines()
    assert any("Z INFO public listener on http://" in line and "\x1b" not in line for line in entries)
    assert any(
        line.startswith("\x1b[31m") and " ERROR " in line and " 502 upstream_unavailable " in line for line in entries
    )
