"""`pointsman probe` against servers that lie: what is seen, what it costs, what is recorded, and what never shows."""

from __future__ import annotations

import io
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway import servers
from gateway.cli import main
from gateway.probe.command import Options, run
from gateway.probe.reply import length_in
from gateway.site import load_site
from tests.harness import COMPLETION, DONE, ROLE, STOP, Received, Script, Upstream, chat, chunk, plain, running, stream
from tests.ports import free_port

KEY = "sk-canary-probe-2718281828"
HELD = '{"zq_kind": "umber", "zq_size": 3}'


@dataclass
class Server:
    """A model server with habits. `thinks` is told the wish: True, False, or None where nothing was said."""

    thinks: Callable[[bool | None], bool] = bool
    window: int = 8192
    says_window: bool = True
    tools: bool = True
    schema: bool = True
    usage: str = "own"  # own, last, every, none
    refuses: tuple[str, ...] = ()
    ignores: tuple[str, ...] = ()
    images: bool = True
    overflow: str = "vllm"  # vllm, vague, truncates
    status: int = 200
    bodies: list[dict[str, Any]] = field(default_factory=list)
    most_at_once: int = 0
    _now: int = 0
    _lock: Any = field(default_factory=threading.Lock)

    def __call__(self, conn: socket.socket, request: Received) -> bool:
        with self._lock:
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        answer = self._answer(request)
        time.sleep(0.005)  # a model takes its time, in which another request may come; none may before the answer
        with self._lock:
            self._now -= 1
        return answer(conn, request)

    def _answer(self, request: Received) -> Script:
        if request.head.startswith(b"GET"):
            entry = {"id": "m"} | ({"max_model_len": self.window} if self.says_window else {})
            return plain(body=json.dumps({"object": "list", "data": [entry]}).encode())
        body = request.json
        self.bodies.append(body)
        if self.status != 200:
            return refusal(self.status, f"no entry for {request.header('authorization')}")
        refused = [name for name in self.refuses if name in body]
        if refused:
            return refusal(400, f"{refused[0]} is not supported")
        text = body["messages"][-1]["content"]
        if isinstance(text, list):
            if not self.images:
                return refusal(400, "this model does not take images")
            text = text[0]["text"]
        tokens = len(text.split())
        if tokens > self.window and self.overflow != "truncates":
            if self.overflow == "vague":
                return refusal(400, "that did not work")
            return refusal(400, f"This model's maximum context length is {self.window} tokens. You sent {tokens}.")
        return self._completion(body, min(tokens, self.window))

    def _completion(self, body: dict[str, Any], tokens: int) -> Script:
        wish = (body.get("chat_template_kwargs") or {}).get("enable_thinking")
        message: dict[str, Any] = {"role": "assistant", "content": "eighteen"}
        if self.thinks(wish):
            message["reasoning_content"] = "Let me see."
        if "tools" in body and self.tools:
            message["tool_calls"] = [
                {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
            ]
        if "response_format" in body and self.schema:
            message["content"] = HELD
        usage = {"prompt_tokens": tokens, "completion_tokens": 2, "total_tokens": tokens + 2}
        if body.get("stream"):
            return self._stream(message, usage)
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": "stop"}
        if body.get("logprobs") and "logprobs" not in self.ignores:
            choice["logprobs"] = {"content": [{"token": "e", "logprob": -0.1}]}
        count = 1 if "n" in self.ignores else body.get("n") or 1
        answer = {**COMPLETION, "choices": [{**choice, "index": index} for index in range(count)], "usage": usage}
        if self.usage == "none":
            del answer["usage"]
        return plain(body=json.dumps(answer).encode())

    def _stream(self, message: dict[str, Any], usage: dict[str, int]) -> Script:
        events = [ROLE]
        if "reasoning_content" in message:
            events.append(chunk(reasoning_content=message["reasoning_content"]))
        events += [chunk(message["content"]), STOP]
        if self.usage == "own":
            events.append(chunk(usage=usage))
        if self.usage == "last":
            events[-1] = with_usage(events[-1], usage)
        if self.usage == "every":
            events = [with_usage(event, usage) for event in events]
        return stream([*events, DONE])


def with_usage(event: bytes, usage: dict[str, int]) -> bytes:
    return event.replace(b'"choices"', b'"usage": ' + json.dumps(usage).encode() + b', "choices"')


def refusal(status: int, message: str) -> Script:
    return plain(status, json.dumps({"error": {"message": message, "type": "x", "code": None}}).encode())


TARGET: dict[str, Any] = {
    "model": "qwen3.5-9b",
    "backend": "up",
    "upstream_id": "m",
    "window": 8192,
    "price": "none",
    "thinking": "switchable",
    "tools": True,
}
HEAD = """\
# my gateway
listen: {public: "127.0.0.1:0", admin: "127.0.0.1:0"}   # two ports
backends:
"""


def site(tmp_path: Path, servers: dict[str, Server], **target: Any) -> tuple[Path, dict[str, Upstream]]:
    """A pointsman.yaml with a vllm backend and a target of the same name for each server."""
    ups = {name: Upstream([server]) for name, server in servers.items()}
    text = HEAD
    for name, up in ups.items():
        text += f"  {name}: {{dialect: vllm, self_hosted: true, base_url: '{up.url}', key: {{env: UP_KEY}}}}\n"
    text += "\ntargets:   # what they serve\n"
    for name in ups:
        settings = {**TARGET, "backend": name, **target}
        text += f"  {name}:   # the one called {name}\n"
        text += "".join(f"    {key}: {json.dumps(value)}\n" for key, value in settings.items())
    path = tmp_path / "pointsman.yaml"
    path.write_text(text)
    return path, ups


def probed(path: Path, *targets: str, **options: Any) -> tuple[int, str]:
    out = io.StringIO()
    code = run(Options(path, list(targets), **options), {"UP_KEY": KEY}, out)
    assert KEY not in out.getvalue()
    return code, out.getvalue()


def rows(path: Path, **options: Any) -> tuple[int, dict[str, dict[str, Any]]]:
    code, told = probed(path, as_json=True, **options)
    [target] = json.loads(told)["targets"]
    return code, {row["check"]: row for row in target["checks"]}


def test_a_server_that_does_as_configured_is_fine(tmp_path: Path) -> None:
    path, ups = site(tmp_path, {"up": Server()}, modalities=["text", "image"])
    code, seen = rows(path)
    assert code == 0, seen
    assert {name: row["verdict"] for name, row in seen.items()} == {
        "answers": "note", "listed": "note", "thinking": "same", "usage": "note", "tools": "same",
        "structured_output": "same", "unsupported": "same", "image": "same", "overflow": "same", "window": "same",
    }  # fmt: skip
    assert seen["thinking"]["seen"] == "switchable"
    assert seen["usage"]["seen"] == "plain yes, streams in a last chunk of its own"
    assert ups["up"].requests[-1].header("authorization") == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("habits", "target", "check", "seen", "record"),
    [
        ({"thinks": lambda _: True}, {}, "thinking", "always", {"thinking": "always"}),
        ({"thinks": lambda _: False}, {}, "thinking", "never", {"thinking": "never"}),
        ({"thinks": lambda wish: wish is False}, {}, "thinking", "unknown", {"thinking": "unknown"}),
        (
            {"thinks": lambda wish: wish is not False}, {"thinking": "never"},
            "thinking", "switchable", {"thinking": "switchable"},
        ),
        ({"thinks": lambda _: True}, {"thinking": "never"}, "thinking", "always", {"thinking": "always"}),
        ({}, {"thinking": "unknown"}, "thinking", "switchable", {"thinking": "switchable"}),
        ({"window": 4096}, {}, "window", "4,096", {"window": 4096}),
        ({"window": 4096, "says_window": False}, {}, "window", "4,096", {"window": 4096}),
        ({"tools": False}, {}, "tools", "no", {"tools": False}),
        ({"refuses": ("tools",)}, {}, "tools", "no", {"tools": False}),
        ({}, {"tools": False}, "tools", "yes", {"tools": True}),
        ({"schema": False}, {}, "structured_output", "no", {"structured_output": False}),
        ({"refuses": ("logprobs", "seed")}, {}, "unsupported", "logprobs, seed", {"unsupported": ["logprobs", "seed"]}),
        ({"ignores": ("n",)}, {}, "unsupported", "n", {"unsupported": ["n"]}),
        ({}, {"unsupported": ["seed", "audio"]}, "unsupported", "none", {"unsupported": ["audio"]}),
        ({"images": False}, {"modalities": ["text", "image"]}, "image", "no", {"modalities": ["text"]}),
    ],
)  # fmt: skip
def test_a_lie_is_seen_and_recorded(
    tmp_path: Path, habits: dict[str, Any], target: dict[str, Any], check: str, seen: str, record: dict[str, Any]
) -> None:
    path, _ = site(tmp_path, {"up": Server(**habits)}, **target)
    code, found = rows(path)
    assert (code, found[check]["seen"], found[check]["verdict"], found[check]["record"]) == (1, seen, "differs", record)
    before = path.read_text()
    assert probed(path, write=True)[0] == 0
    assert rows(path)[0] == 0  # now it is as configured
    [told] = load_site(path, {"UP_KEY": KEY}).fleet.targets
    for name, value in record.items():
        written = getattr(told, name)
        assert (sorted(written) if isinstance(written, frozenset) else written) == value
    after = path.read_text()
    assert [line for line in before.splitlines() if "#" in line] == [line for line in after.splitlines() if "#" in line]
    assert len(set(after.splitlines()) - set(before.splitlines())) <= 2


@pytest.mark.parametrize(
    ("habits", "check", "seen"),
    [
        ({"usage": "none"}, "usage", "plain missing, streams missing"),
        ({"overflow": "vague"}, "overflow", "client_error (status 400): that did not work"),
        ({"overflow": "truncates"}, "overflow", "taken: 8,192 tokens"),
    ],
)
def test_what_no_setting_can_mend_is_told_as_wrong(
    tmp_path: Path, habits: dict[str, Any], check: str, seen: str
) -> None:
    path, _ = site(tmp_path, {"up": Server(**habits)})
    code, found = rows(path)
    assert found[check]["seen"] == seen
    assert (code, found[check]["verdict"]) in ((1, "wrong"), (0, "note"))
    assert found[check]["record"] == {}


def test_a_prompt_that_is_cut_off_without_a_word_is_wrong(tmp_path: Path) -> None:
    path, _ = site(tmp_path, {"up": Server(overflow="truncates", window=2048, says_window=False)})
    code, found = rows(path)
    assert (code, found["overflow"]["verdict"]) == (1, "wrong")
    assert found["overflow"]["note"] == "it cuts prompts off without a word"


@pytest.mark.parametrize(("usage", "told"), [("last", "with the last chunk"), ("every", "in every chunk")])
def test_where_a_stream_carries_its_usage_is_told(tmp_path: Path, usage: str, told: str) -> None:
    path, _ = site(tmp_path, {"up": Server(usage=usage)})
    code, found = rows(path)
    assert (code, found["usage"]["seen"]) == (0, f"plain yes, streams {told}")


def test_a_window_that_nobody_names_is_searched_for_only_when_asked(tmp_path: Path) -> None:
    class Vague(Server):
        def _answer(self, request: Received) -> Script:
            if not request.head.startswith(b"GET") and len(str(request.json["messages"][-1]["content"]).split()) > 5000:
                return refusal(400, "prompt is too long")
            return super()._answer(request)

    server = Vague(says_window=False, window=1 << 30)
    path, _ = site(tmp_path, {"up": server})
    assert rows(path)[1]["window"]["seen"] == "not known"
    asked = len(server.bodies)
    code, found = rows(path, window=True)
    assert code == 1
    assert 4800 <= found["window"]["record"]["window"] <= 5000
    assert len(server.bodies) - asked <= asked + 8


def test_a_rented_target_is_not_sent_a_whole_window_unasked(tmp_path: Path) -> None:
    server = Server()
    path, _ = site(tmp_path, {"up": server})
    path.write_text(path.read_text().replace("self_hosted: true, ", ""))
    assert "overflow" not in rows(path)[1]
    assert max(len(str(body)) for body in server.bodies) < 2000
    assert "overflow" in rows(path, window=True)[1]


def test_the_cost_is_told_before_and_held(tmp_path: Path) -> None:
    server = Server(refuses=("logprobs",), thinks=lambda _: True)
    path, ups = site(tmp_path, {"up": server}, modalities=["text", "image"], thinking="never")
    code, told = probed(path, dry_run=True)
    assert (code, server.bodies, ups["up"].connections) == (0, [], 0)
    requests, tokens = (
        int(text.replace(",", "")) for text in re.findall(r"at most (\d+) .* about ([\d,]+) tokens", told)[0]
    )
    _, answer = probed(path, as_json=True)
    [report] = json.loads(answer)["targets"]
    assert len(ups["up"].requests) <= requests
    assert report["tokens"] <= tokens
    _, costs = probed(path, dry_run=True, as_json=True)
    assert json.loads(costs)["requests"] == requests


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
def test_a_server_that_refuses_is_told_once_and_without_the_key(tmp_path: Path, status: int) -> None:
    server = Server(status=status)
    path, _ = site(tmp_path, {"up": server})
    code, told = probed(path)  # its words repeat the key; `probed` looks for that
    assert code == 1
    assert f"(status {status}): no entry for Bearer ***" in told
    assert "FAILED" in told
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    "script",
    [
        plain(body=b"<html>"),
        plain(body=b"[" * 100_000),
        plain(302, b"", "location: http://127.0.0.1:1/\r\n"),
        stream([ROLE], end="eof"),
    ],
)
def test_nonsense_is_a_failure_and_no_traceback(tmp_path: Path, script: Script) -> None:
    path, ups = site(tmp_path, {"up": Server()})
    ups["up"].scripts[:] = [script]
    code, told = probed(path)
    assert (code, "FAILED" in told) == (1, True)


def test_access_tokens_and_signatures_open_what_they_open_for_the_gateway(tmp_path: Path) -> None:
    tokens = Upstream([plain(body=json.dumps({"access_token": "tok-canary-1", "expires_in": 600}).encode())])
    server = Server()
    path, ups = site(tmp_path, {"up": server})
    entra = f"{{tenant: t, client_id: c, client_secret: {{env: UP_KEY}}}}, token_url: '{tokens.url}'"
    aws = "{access_key: {env: ACCESS}, secret_key: {env: UP_KEY}, region: us-east-1, service: bedrock}"
    text = path.read_text()
    for auth, shown in (
        ("entra: " + entra, "Bearer tok-canary-1"),
        ("aws: " + aws, "AWS4-HMAC-SHA256 Credential=AKIA"),
    ):
        path.write_text(text.replace("key: {env: UP_KEY}", f"auth: {{{auth}}}"))
        out = io.StringIO()
        assert run(Options(path), {"UP_KEY": KEY, "ACCESS": "AKIA"}, out) == 0, out.getvalue()
        assert (ups["up"].requests[-1].header("authorization") or "").startswith(shown)
        assert "canary" not in out.getvalue()
    assert len(tokens.requests) == 1


def test_a_token_that_is_refused_is_a_failure_that_says_so(tmp_path: Path) -> None:
    tokens = Upstream([plain(401, b'{"error": "invalid_client"}')])
    path, _ = site(tmp_path, {"up": Server()})
    entra = f"{{tenant: t, client_id: c, client_secret: {{env: UP_KEY}}}}, token_url: '{tokens.url}'"
    path.write_text(path.read_text().replace("key: {env: UP_KEY}", f"auth: {{entra: {entra}}}"))
    code, told = probed(path)
    assert (code, "the token endpoint answered 401 (invalid_client)" in told) == (1, True)


def test_a_server_that_is_away_is_a_failure(tmp_path: Path) -> None:
    path, ups = site(tmp_path, {"up": Server()})
    ups["up"].close()
    code, told = probed(path)
    assert (code, "nobody answers there" in told) == (1, True)


def test_targets_of_one_backend_are_asked_one_after_the_other(tmp_path: Path) -> None:
    servers = {"one": Server(), "two": Server()}
    path, _ = site(tmp_path, servers)
    text = path.read_text()
    again = text[text.index("  one:   #") : text.index("  two:   #")].replace("  one:", "  again:")
    path.write_text(text + again)
    assert probed(path)[0] == 0
    assert {server.most_at_once for server in servers.values()} == {1}
    assert len(servers["one"].bodies) == 2 * len(servers["two"].bodies)


def test_only_the_targets_named_are_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    servers = {"one": Server(), "two": Server()}
    path, _ = site(tmp_path, servers)
    assert probed(path, "two")[0] == 0
    assert (servers["one"].bodies, bool(servers["two"].bodies)) == ([], True)
    assert probed(path, "tow")[0] == 2
    assert "no target 'tow': did you mean two?" in capsys.readouterr().err


def test_a_configuration_that_is_broken_is_told_and_nothing_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, ups = site(tmp_path, {"up": Server()}, nonsense=1)
    assert main(["probe", "--config", str(path)]) == 2
    assert "there is no key 'nonsense' here" in capsys.readouterr().err
    assert ups["up"].connections == 0


def test_what_would_not_load_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = site(tmp_path, {"up": Server(window=4096)})
    before = path.read_bytes()
    monkeypatch.setattr("gateway.probe.command.edited", lambda text, _: text.replace("window: 8192", "window: soon"))
    assert probed(path, write=True)[0] == 2
    assert "is left as it was" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["pointsman.yaml"]


def test_a_file_that_changed_meanwhile_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, ups = site(tmp_path, {"up": Server(window=4096)})
    server = ups["up"].scripts[0]

    def edits(conn: socket.socket, request: Received) -> bool:
        if not path.read_text().endswith("# edited\n"):
            path.write_text(path.read_text() + "# edited\n")
        return server(conn, request)

    ups["up"].scripts[:] = [edits]
    assert probed(path, write=True)[0] == 2
    assert "was changed while the probe ran" in capsys.readouterr().err
    assert "window: 8192" in path.read_text()


def test_writing_keeps_the_mode_of_the_file_and_a_link_to_it(tmp_path: Path) -> None:
    path, _ = site(tmp_path, {"up": Server(window=4096)})
    path.chmod(0o640)
    link = tmp_path / "link.yaml"
    link.symlink_to(path)
    code, told = probed(link, write=True)
    assert (code, path.stat().st_mode & 0o777, link.is_symlink()) == (0, 0o640, True)
    assert "-    window: 8192\n+    window: 4096\n" in told


def test_a_gateway_that_doubts_a_target_believes_it_again_after_a_probe(tmp_path: Path) -> None:
    thinks = {"now": True}
    server = Server(thinks=lambda wish: thinks["now"] or bool(wish))
    up = Upstream([server])
    settings = {
        "listen": {"public": "127.0.0.1:0", "admin": f"127.0.0.1:{free_port()}"},
        "backends": {"up": {"dialect": "vllm", "base_url": up.url}},
        "targets": {"up": TARGET},
        "thinking_violations": 1,
    }
    with running(tmp_path, settings) as gateway:
        assert gateway.post(chat("auto")).status_code == 200
        assert gateway.post(chat("auto")).status_code == 400
        path = tmp_path / "pointsman.yaml"
        assert rows(path)[1]["thinking"]["seen"] == "always"
        assert gateway.post(chat("auto")).status_code == 400
        thinks["now"] = False
        code, told = probed(path)
        assert (code, "the gateway believes up again" in told) == (0, True)
        assert gateway.post(chat("auto")).status_code == 200


@pytest.mark.parametrize(
    ("body", "window"),
    [
        ({"error": {"message": "This model's maximum context length is 4096 tokens. However, you ..."}}, 4096),
        ({"error": {"message": "the request exceeds", "n_ctx": 8192, "n_prompt_tokens": 9000}}, 8192),
        ({"error": {"message": "Range of input length should be [1, 98304]"}}, 98_304),
        ({"message": "the input is longer than the model's context length (32,768 tokens)"}, 32_768),
        ({"error": {"n_ctx": -1}}, None),
        ({"error": "no"}, None),
        ([], None),
    ],
)
def test_the_window_is_read_off_a_refusal(body: Any, window: int | None) -> None:
    assert length_in(json.dumps(body).encode()) == window


def test_a_number_too_long_to_be_read_breaks_nothing_off() -> None:
    words = "This model's maximum context length is " + "9" * 5_000
    assert length_in(json.dumps({"error": {"message": words}}).encode()) is not None


@pytest.mark.parametrize("before", range(150, 250, 7))
def test_no_part_of_a_key_is_left_where_a_server_s_words_are_cut(tmp_path: Path, before: int) -> None:
    path, _ = site(tmp_path, {"up": lambda conn, _: refusal(400, "-" * before + KEY)(conn, _)})
    _, told = probed(path)
    assert KEY[:8] not in told


def test_a_server_cannot_name_a_model_what_moves_a_terminal(tmp_path: Path) -> None:
    names = ["\x1b]0;owned\x07", "a\nb", "x" * 5_000, ""]
    listing = json.dumps({"data": [{"id": name} for name in names]}).encode()
    up = Upstream([plain(body=listing)])
    with httpx.Client() as client:
        assert servers.models(client, "vllm", up.url)[1] == ()
    up.close()


def test_a_server_that_closes_kept_connections_at_any_time_is_no_failure(tmp_path: Path) -> None:
    server = Server()

    def closes(conn: socket.socket, request: Received) -> bool:
        return server(conn, request) and False

    path, ups = site(tmp_path, {"up": server})
    ups["up"].scripts[:] = [closes]
    assert probed(path)[0] == 0
    assert ups["up"].connections == len(ups["up"].requests)
