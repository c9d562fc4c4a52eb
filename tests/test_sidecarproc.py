"""How the gateway starts, watches, restarts and ends the litellm process: a stand-in for it, which needs no litellm."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.sidecar import process as sidecarproc
from gateway.sidecar.spec import SidecarSpec
from tests.harness import Gateway, Upstream, chat, eventually, plain, running, settled
from tests.sidecars import settings

#: In place of the interpreter, which is given three arguments; what it is told comes on standard input.
STAND_IN = """\
#!{python}
import http.server, json, os, socket, sys, threading, time
told = json.loads(sys.stdin.readline())
open({log!r}, "a").write(json.dumps({{"argv": sys.argv[1:], "env": dict(os.environ), "told": told}}) + "\\n")
{before}
class Server(http.server.ThreadingHTTPServer):
    def server_bind(self):
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()
class Door(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_): pass
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        good = self.headers["authorization"] == "Bearer " + told["token"]
        body = {answer!r}.encode()
        self.send_response(200 if good else 401)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
server = Server((told["host"], told["port"]), Door)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(json.dumps({{"ready": "0.0.0"}}), flush=True)
{after}
sys.stdin.read()
"""
ANSWER = (
    '{"id":"1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":'
    '{"role":"assistant","content":"Hello."},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}'
)
KEY = "sk-lite-canary-0123456789"


def stand_in(directory: Path, before: str = "", after: str = "") -> Path:
    path = directory / "python"
    script = STAND_IN.format(
        python=sys.executable, log=str(directory / "starts"), before=before, after=after, answer=ANSWER
    )
    path.with_suffix(".new").write_text(script)
    path.with_suffix(".new").chmod(stat.S_IRWXU)
    path.with_suffix(".new").replace(path)
    return path


def configured(directory: Path, **script: str) -> dict[str, Any]:
    made = settings("http://127.0.0.1:1/v1")
    made["sidecar"] = {"python": str(stand_in(directory, **script))}
    return made


def state(gateway: Gateway) -> dict[str, Any]:
    found: dict[str, Any] = gateway.get("/v1/targets", admin=True).json().get("sidecar", {"state": "none"})
    return found


def ready(gateway: Gateway, starts: int = 1) -> dict[str, Any]:
    assert eventually(lambda: (now := state(gateway))["state"] == "ready" and now["starts"] >= starts, 15), (
        gateway.lines
    )
    return state(gateway)


def starts(directory: Path) -> list[str]:
    return (directory / "starts").read_text().splitlines() if (directory / "starts").exists() else []


def test_it_is_told_by_a_pipe_and_by_nothing_else(tmp_path: Path) -> None:
    with running(tmp_path, configured(tmp_path), LITE_KEY=KEY) as gateway:
        ready(gateway)
        assert gateway.post(chat("lite")).status_code == 200
        [line] = starts(tmp_path)
    told = line.index('"told"')
    assert KEY in line[told:]
    assert "canary" not in line[:told]  # arguments and environment


def test_one_that_dies_is_started_again_and_targets_are_passed_over_meanwhile(tmp_path: Path) -> None:
    with running(tmp_path, configured(tmp_path), LITE_KEY=KEY) as gateway:
        for count in (1, 2, 3):
            os.kill(ready(gateway, count)["pid"], signal.SIGKILL)
            assert eventually(lambda: state(gateway)["state"] != "ready")
            [shown] = gateway.get("/v1/targets", admin=True).json()["data"]
            assert (shown["state"], shown["reason"], shown["held_for_s"]) == ("ejected", "refused", None)
        ready(gateway, 4)
        [shown] = gateway.get("/v1/targets", admin=True).json()["data"]
        assert shown["state"] == "healthy"
        assert gateway.post(chat("lite")).status_code == 200
        assert gateway.get("/readyz").json()["sidecar"] == "ready"


def test_one_that_cannot_live_is_started_ever_more_slowly_and_says_why(tmp_path: Path) -> None:
    made = configured(tmp_path, before="sys.exit('no luck with ' + told['backends']['lite']['key'])")
    upstream = Upstream([plain()])
    other = settings(upstream, others={"other": upstream})
    other["sidecar"] = made["sidecar"]
    with running(tmp_path, other, LITE_KEY=KEY) as gateway:
        assert eventually(lambda: len(starts(tmp_path)) >= 4, 15)
        lines = [line for line in gateway.lines if "follows in" in line]
        told = [json.loads(line)["message"] for line in lines[:3]]
        assert [line.rpartition("follows in ")[2] for line in told] == ["0.25 s", "0.5 s", "1 s"]
        assert "exit code 1: no luck with ***" in lines[0]
        assert "canary" not in "\n".join(gateway.lines)
        answer = gateway.post(chat("llama-3.3-70b"))
        assert (answer.status_code, answer.headers["x-pointsman-target"]) == (200, "other")
        assert "no luck with ***" in state(gateway)["error"]
        stand_in(tmp_path)  # the operator mends it, and changes no file of the gateway's
        assert eventually(lambda: state(gateway)["state"] == "ready", 15)
        assert state(gateway)["error"] is None


def test_what_it_writes_is_logged_in_lines_of_bounded_length_without_keys(tmp_path: Path) -> None:
    after = "sys.stderr.write('x' * 100_000 + '\\nkey ' + told['backends']['lite']['key'] + '\\n'); sys.stderr.flush()"
    with running(tmp_path, configured(tmp_path, after=after), LITE_KEY=KEY) as gateway:
        ready(gateway)
        assert eventually(lambda: any("sidecar: key ***" in line for line in gateway.lines))
        assert max(map(len, gateway.lines)) < 3_000


def test_one_that_hangs_is_ended_and_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It beats three times and then stops, as a loop does that is held for ever."""
    beats = "for _ in range(3): time.sleep(0.1); print('{}', flush=True)"
    spec = SidecarSpec(str(stand_in(tmp_path, after=beats)), (), frozenset({"lite"}), 1000, 1.0)
    monkeypatch.setattr(sidecarproc, "SILENCE_S", 0.5)
    told: list[bool] = []

    async def scenario() -> None:
        reserved = sidecarproc.Reserved()
        sidecar = sidecarproc.Sidecar({}, reserved.door, lambda _, up: told.append(up))
        sidecar.want(spec)
        ends_at = time.monotonic() + 20
        while sidecar.starts < 2 and time.monotonic() < ends_at:  # noqa: ASYNC110 - it tells nobody of its starts
            await asyncio.sleep(0.02)
        assert "no sign of life" in sidecar.error
        await sidecar.close()
        reserved.close()

    asyncio.run(scenario())
    assert told[:3] == [False, True, False]


def test_it_ends_with_the_gateway_and_with_one_that_was_killed(tmp_path: Path) -> None:
    for kill in (False, True):
        with running(tmp_path, configured(tmp_path), LITE_KEY=KEY) as gateway:
            pid = ready(gateway)["pid"]
            if kill:
                gateway.process.kill()
            else:
                gateway.process.terminate()
            began = time.monotonic()
            gateway.process.wait(10)
            assert eventually(lambda pid=pid: not alive(pid), 5)  # type: ignore[misc]
            assert time.monotonic() - began < 4


def alive(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_a_reload_that_needs_none_any_more_ends_it_and_one_that_does_starts_it(tmp_path: Path) -> None:
    from ruamel.yaml import YAML

    upstream = Upstream([plain()])
    made = configured(tmp_path)
    bare = settings(upstream, others={"other": upstream})
    del bare["backends"]["lite"], bare["targets"]["lite"], bare["sidecar"]
    with running(tmp_path, bare, LITE_KEY=KEY) as gateway:
        assert "sidecar" not in gateway.get("/v1/targets", admin=True).json()
        assert settled(lambda: len(starts(tmp_path)), 0.3) == 0
        made["listen"] = bare["listen"]
        for settings_now in (made, bare):
            with (tmp_path / "pointsman.yaml").open("w") as file:
                YAML().dump(settings_now, file)
            gateway.process.send_signal(signal.SIGHUP)
            if settings_now is made:
                pid = ready(gateway)["pid"]
                assert gateway.post(chat("lite")).status_code == 200
        assert eventually(lambda: not alive(pid), 10)
        assert gateway.post(chat("other")).status_code == 200


def test_a_command_of_its_own_refuses_to_run_without_a_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ruamel.yaml import YAML

    from gateway.cli import main

    monkeypatch.setenv("LITE_KEY", KEY)
    path = tmp_path / "pointsman.yaml"
    with path.open("w") as file:
        YAML().dump(configured(tmp_path), file)
    assert main(["sidecar", "--config", str(path)]) == 2
    assert "sidecar: has no key" in capsys.readouterr().err
    assert main(["sidecar", "--config", str(path), "--listen", "nowhere"]) == 2
    assert "--listen: 'nowhere' is not an address" in capsys.readouterr().err
    path.write_text("backends: {a: {dialect: vllm, base_url: 'http://a/v1'}}\ntargets: {t: {model: x, backend: a}}\n")
    assert main(["sidecar", "--config", str(path)]) == 2
    assert "none of them needs a sidecar" in capsys.readouterr().err
