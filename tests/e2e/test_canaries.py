"""Secrets and prompts go through every path of a real gateway, and are looked for in all that it puts out (S14).

Each canary is unmistakable and has the shape of no provider's key, so that only knowing it, or not writing it, helps.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("opentelemetry.proto", reason="needs the extra otlp")

from tests.collector import Collector
from tests.harness import (
    COMPLETION,
    ROLE,
    SSE_HEAD,
    Gateway,
    Received,
    Upstream,
    chat,
    chunk,
    config,
    eventually,
    framed,
    plain,
    reset,
    running,
    stream,
)

CLIENT = "client-wren-0123456789"
WRONG = "client-dove-0123456789"
ADMIN = "admin-kite-0123456789"
BACKEND = "backend-lark-0123456789"
HEADER = "header-crow-0123456789"
LITERAL = "literal-swan-0123456789"  # written into a file by mistake
QUERY = "query-finch-0123456789"
POOR = "client-robin-0123456789"
OTLP = "otlp-heron-0123456789"
PROMPT = "the-prompt-of-the-nightingale"
ANSWER = "the-answer-of-the-blackbird"
SECRETS = (CLIENT, POOR, WRONG, ADMIN, BACKEND, HEADER, LITERAL, QUERY, OTLP)

#: A defect of ours, as the worst of them would be: its text quotes what was asked.
DEFECT = """
import sys
from gateway.core.servers import dialects
before = dialects.request_body
def broken(envelope, plan, thinking):
    if b"case-defect" in before(envelope, plan, thinking):
        raise ValueError(before(envelope, plan, thinking).decode(), plan.headers("x"))
    return before(envelope, plan, thinking)
dialects.request_body = broken
from gateway.cli import main
sys.exit(main(["serve", "--config", sys.argv[1]]))
"""
CASES = ("served", "400", "401", "403", "404", "429", "500", "redirect", "html", "reset", "in-band", "broken", "defect")

#: Each case has a target of its own, so that what health makes of one keeps no other from being tried.
POLICY = "\n".join(
    [
        "policy: birds",
        "constraints: [{id: no, when: {workload: caged}, forbid: {target.name: {prefix: on-}}}]",
        "rules:",
        *(f"  - {{id: c-{one}, when: {{headers.x-case: '{one}'}}, use: [{{target.name: on-{one}}}]}}" for one in CASES),
        "  - {id: all, use: [{target.name: on-served}]}",
        "shadow: [{id: copy, use: [{target.name: b}], share: 100%}]",
    ]
)


def parrot(conn: socket.socket, asked: Received) -> bool:
    """An upstream that says back all that it was sent, in whatever way the prompt asks for."""
    text = asked.json["messages"][-1]["content"]
    case = text.partition("case-")[2].partition(" ")[0]
    error = {"message": f"no: {asked.head.decode()} {text}", "type": HEADER, "code": BACKEND, "param": text}
    said = json.dumps({"error": error}).encode()
    if case.isdecimal():
        return plain(int(case), said, f"x-echo: {BACKEND}\r\n")(conn, asked)
    if case == "redirect":
        return plain(302, said, f"location: https://{BACKEND}@host/?key={HEADER}\r\n")(conn, asked)
    if case == "html":
        return plain(body=said, content_type="text/html")(conn, asked)
    if case == "reset":
        reset(conn)
        return False
    if asked.json.get("stream"):
        if case == "in-band":
            conn.sendall(SSE_HEAD + framed(b"data: " + said + b"\n\n") + b"0\r\n\r\n")
            return True
        if case == "broken":
            return stream([ROLE, chunk(ANSWER), b"data: " + said + b"\n\n"])(conn, asked)
        return stream([ROLE, chunk(ANSWER), chunk(finish="stop"), b"data: [DONE]\n\n"])(conn, asked)
    choice = {**COMPLETION["choices"][0], "message": {"role": "assistant", "content": ANSWER}}  # type: ignore[index]
    return plain(body=json.dumps({**COMPLETION, "choices": [choice]}).encode())(conn, asked)


@dataclass
class Birds:
    """A gateway, and all that came out of it."""

    gateway: Gateway
    upstreams: dict[str, Upstream]
    collector: Collector
    heads: list[str] = field(default_factory=list)  # of answers
    bodies: list[str] = field(default_factory=list)
    own: list[str] = field(default_factory=list)  # bodies of answers in which a client's own words may come back
    ids: list[str] = field(default_factory=list)

    def ask(self, method: str, path: str, *, admin: bool = False, own: bool = False, **more: Any) -> httpx.Response:
        base = self.gateway.admin if admin else self.gateway.public
        headers = {"authorization": f"Bearer {ADMIN if admin else CLIENT}"} | more.pop("headers", {})
        answer = httpx.request(method, base + path, headers=headers, timeout=30, **more)
        self.heads.append(f"{answer.status_code} {answer.headers}")
        (self.own if own else self.bodies).append(answer.text)
        if "x-request-id" in answer.headers:
            self.ids.append(answer.headers["x-request-id"])
        return answer

    def chat(self, case: str = "served", *, own: bool = True, model: str = "auto", **more: Any) -> httpx.Response:
        headers = {"x-case": case} | more.pop("headers", {})
        body = chat(model, f"{PROMPT} case-{case} ", **more)
        return self.ask("POST", "/v1/chat/completions", json=body, headers=headers, own=own)

    def said(self) -> dict[str, str]:
        """By where it was found."""
        records = [
            (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()
            for path in self.gateway.directory.glob("records/*")
        ]
        books = [path.read_bytes() for path in self.gateway.directory.glob("ledger/**/*") if path.is_file()]
        assert books
        return {
            "log": "\n".join(self.gateway.lines),
            "records": "\n".join(records),
            "ledger": b"\n".join(books).decode("latin-1"),
            "spans and measures": b"\n".join(self.collector.raw).decode("latin-1"),
            "headers": "\n".join(self.heads),
            "bodies": "\n".join(self.bodies),
        }


@contextlib.contextmanager
def birds(directory: Path, **over: Any) -> Iterator[Birds]:
    (directory / "policies").mkdir()
    (directory / "policies" / "birds.yaml").write_text(POLICY)
    upstreams = {name: Upstream([parrot]) for name in ("asked", "copied")}
    targets = {f"on-{case}": upstreams["asked"] for case in CASES} | {"b": upstreams["copied"]}
    collector = Collector()
    # A collector that refuses now and then, and repeats what it was sent.
    collector.answers = [(400, {"x-echo": OTLP}, OTLP.encode()), (200, {}, b"")]
    otlp = {
        "endpoint": collector.url,
        "headers": {"authorization": {"env": "OTLP_KEY"}},
        "traces": {"sample": "100%"},
        "metrics": {"every": "1s"},
    }
    made = config(
        targets, otlp=otlp, policies={"dir": "policies", "default": "birds"}, records={"dir": "records"},
        ledger={"dir": "ledger"},
        admin_key={"env": "ADMIN_KEY"}, **over,
    )  # fmt: skip
    made["keys"][0]["sha256"] = hashlib.sha256(CLIENT.encode()).hexdigest()
    for backend in made["backends"].values():
        backend["headers"] = {"x-plan": {"env": "HEADER_KEY"}}
    made["keys"].append(
        {"name": "poor", "sha256": hashlib.sha256(POOR.encode()).hexdigest(), "allow": ["*"], "rpm": 1, "tpm": 1_000,
         "budget": {"usd": 1, "per": "day"}}
    )  # fmt: skip
    keys = {"UPSTREAM_KEY": BACKEND, "HEADER_KEY": HEADER, "ADMIN_KEY": ADMIN, "OTLP_KEY": OTLP}
    try:
        with running(directory, made, command=("-c", DEFECT), **keys) as gateway:
            yield Birds(gateway, upstreams, collector)
    finally:
        for upstream in upstreams.values():
            upstream.close()
        collector.close()


def requests(made: Birds) -> None:
    """Served, refused and failed ones, each with its shadow."""
    for case in CASES:
        for streamed in (False, True):
            answer = made.chat(case, stream=streamed)
            assert "x-request-id" in answer.headers, case
    sent = {"cookie": f"session={CLIENT}", "x-forwarded-for": "1.2.3.4", "x-api-key": CLIENT, "x-mine": CLIENT}
    made.chat(headers={"x-mine": CLIENT, "cookie": f"session={CLIENT}", "user-agent": CLIENT, "x-request-id": PROMPT})
    made.chat(headers=sent, own=False, model="auto", metadata={"user": PROMPT}, user=PROMPT)
    made.bodies.pop()  # an answer, which is the client's


def refusals(made: Birds) -> None:
    """What never reaches a target."""
    assert made.chat(headers={"authorization": f"Bearer {WRONG}"}, own=False).status_code == 401
    assert made.chat(headers={"authorization": f"Basic {WRONG}"}, own=False).status_code == 401
    assert made.chat(headers={"content-encoding": PROMPT}, own=False).status_code == 415
    assert made.chat(headers={"x-pointsman-workload": "caged"}, own=False).status_code == 403
    assert made.chat(headers={"x-pointsman-policy": WRONG}, own=False).status_code == 400
    assert made.chat(headers={"x-pointsman-timeout-ms": PROMPT}, own=False).status_code == 400
    assert made.chat(model="no-such-model", own=False).status_code == 404
    poor = [made.chat(headers={"authorization": f"Bearer {POOR}"}).status_code for _ in range(2)]
    assert poor == [200, 429]
    for broken in (b'{"messages": "%b' % PROMPT.encode(), b'{"%b": 1, "%b": 2}' % (PROMPT.encode(), PROMPT.encode())):
        assert made.ask("POST", "/v1/chat/completions", content=broken).status_code == 400
    with made.gateway.connect() as conn:
        conn.sendall(f"POST /v1/chat/completions?key={QUERY} HTTP/1.1\r\nbad header {CLIENT}\r\n\r\n".encode())
        made.heads.append(conn.recv(65_536).decode())


def control(made: Birds) -> None:
    """All else that is asked of a gateway."""
    body = chat("auto", PROMPT)
    assert made.ask("POST", "/v1/explain", json=body, own=True).status_code == 200
    assert made.ask("POST", "/v1/explain", json=body, headers={"authorization": f"Bearer {WRONG}"}).status_code == 401
    for path in ("/v1/models", "/healthz", "/readyz", f"/v1/decisions/{made.ids[0]}"):
        assert made.ask("GET", path).status_code == 200
    for path in (f"/v1/models/x?api_key={QUERY}", f"/nothing?key={QUERY}", f"/v1/decisions/{'0' * 32}"):
        assert made.ask("GET", path).status_code == 404
    for path in (
        "/metrics", "/v1/targets", "/healthz", "/v1/usage", "/v1/usage?by=key,target,model",
        f"/v1/decisions/{made.ids[0]}",
    ):  # fmt: skip
        assert made.ask("GET", path, admin=True).status_code == 200
    exemplars = made.ask("GET", "/metrics", admin=True, headers={"accept": "application/openmetrics-text"})
    assert "# {request_id=" in exemplars.text
    assert made.ask("GET", "/metrics", admin=True, headers={"authorization": f"Bearer {WRONG}"}).status_code == 401


def reloads(made: Birds) -> None:
    """Files with a secret where none belongs, and a backend whose key is gone."""
    path = made.gateway.directory / "pointsman.yaml"
    good = path.read_text()
    for old, new in (
        ("env: HEADER_KEY", f"key: {LITERAL}"),
        ("env: UPSTREAM_KEY", f"env: {LITERAL}"),
        ("dialect: openai", f"dialect: openai\n    api_key: {LITERAL}"),
        ("dialect: openai", f"dialect: openai\n    base_url: https://me:{LITERAL}@host/?key={LITERAL}"),
        ("sha256: ", f"sha256: {LITERAL} #"),
    ):
        assert old in good
        path.write_text(good.replace(old, new, 1))
        assert made.ask("POST", "/v1/reload", admin=True).status_code == 400
        made.ask("GET", "/readyz")
    path.write_text(good)
    assert made.ask("POST", "/v1/reload", admin=True).status_code == 200


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_secret_and_no_prompt_comes_out_anywhere(tmp_path: Path, form: str) -> None:
    with birds(tmp_path, log={"format": form}) as made:
        requests(made)
        refusals(made)
        control(made)
        reloads(made)
        assert eventually(lambda: len(made.upstreams["copied"].requests) >= 2 * (len(CASES) - 1), 10)
        made.gateway.process.send_signal(signal.SIGTERM)
        made.gateway.process.wait(10)
        said = made.said()

    # All of it was really gone through, or nothing would follow from finding nothing.
    log = said["log"]
    for code in (
        "ok", "bad_request", "invalid_json", "upstream_unavailable", "upstream_auth", "internal_error",
        "invalid_api_key", "upstream_stream_interrupted", "unsupported_encoding", "policy_denied", "model_not_found",
    ):  # fmt: skip
        assert code in log, code
    assert "reload failed" in log
    assert "ValueError" in log
    assert '"kind":"shadow"' in said["records"]
    assert "c-served" in said["spans and measures"]
    assert any(headers.get("authorization") == OTLP for headers in made.collector.headers)
    assert any(ANSWER in body for body in made.own)
    assert BACKEND in made.upstreams["asked"].requests[0].head.decode(), "the canary was in the mine"
    assert PROMPT in made.upstreams["copied"].requests[0].body.decode()

    for where, text in {**said, "answers": "\n".join(made.own)}.items():
        for secret in SECRETS:
            assert secret not in text, (where, secret, _around(text, secret))
    for where, text in said.items():
        for words in (PROMPT, ANSWER):
            assert words not in text, (where, words, _around(text, words))
    for upstream in made.upstreams.values():
        for asked in upstream.requests:
            assert CLIENT not in asked.head.decode() + asked.body.decode(), (
                "what opens our door is no server's business"
            )
    for request_id in made.ids:
        assert request_id in log or f"/v1/decisions/{request_id}" in log, (
            "every id that a client was told is in the log"
        )


def _around(text: str, found: str) -> str:
    at = text.index(found)
    return text[max(0, at - 200) : at + 200]


def test_a_key_that_is_sent_as_a_model_is_blotted_out_where_it_looks_like_one(tmp_path: Path) -> None:
    with birds(tmp_path, unknown_model="birds") as made:
        key = "sk-proj-magpie0123456789"
        assert made.chat(model=key).status_code == 200
        made.ask("GET", f"/v1/models/{key}")
        assert eventually(lambda: bool(made.said()["records"]))
        said = made.said()
    assert "magpie" not in said["log"] + said["records"] + said["headers"]
    assert '"model_asked":"***"' in said["log"]
