"""The process: reload swaps only what loads, a shutdown drains, TLS and egress proxies, no task per request."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from ruamel.yaml import YAML

from tests.harness import ROOT, STREAM, Received, Upstream, chat, config, framed, hang, plain, running, stream
from tests.proxy.conftest import Start
from tests.proxy.test_requests import head, read_answer, wait_for


def rewrite(gateway, **over):  # type: ignore[no-untyped-def]
    path = gateway.directory / "pointsman.yaml"
    settings = YAML(typ="safe").load(path.read_text())
    settings.update(over)
    temporary = path.with_suffix(".new")
    with temporary.open("w") as file:
        YAML().dump(settings, file)
    temporary.rename(path)


def test_a_changed_file_is_served_without_losing_a_stream(start: Start) -> None:
    gateway, ups = start({"a": [stream(pause_s=0.6), plain()]})
    results = []
    thread = threading.Thread(target=lambda: results.append(gateway.post(chat("a", stream=True))))
    thread.start()
    wait_for(lambda: len(ups["a"].requests) == 1)
    assert gateway.post(chat("fresh")).status_code == 404
    rewrite(gateway, models={"fresh": "a"})
    wait_for(lambda: gateway.post(chat("fresh")).status_code == 200, 15)
    thread.join()
    assert results[0].content.endswith(b"data: [DONE]\n\n")
    assert gateway.metric('pointsman_config_reload_total{result="ok"}') == 1


@pytest.mark.parametrize("how", ["signal", "admin call"])
def test_a_broken_file_never_replaces_a_good_one(start: Start, how: str) -> None:
    gateway, _ = start({"a": [plain()]})
    path = gateway.directory / "pointsman.yaml"
    good = path.read_text()
    digest = gateway.get("/readyz").json()["config"]
    for broken in (
        "backends: [",
        good + "\nsurprise: 1\n",
        good.replace("llama-3.3-70b", "llama-3.3-70bee"),
        "a: &x 1\nb: *x\n",
    ):
        path.write_text(broken)
        if how == "signal":
            before = gateway.metric('pointsman_config_reload_total{result="rejected"}')
            gateway.process.send_signal(signal.SIGHUP)
            wait_for(lambda b=before: gateway.metric('pointsman_config_reload_total{result="rejected"}') > b, 15)
        else:
            answer = httpx.post(gateway.admin + "/v1/reload", timeout=30)
            assert answer.status_code == 400
            assert "pointsman.yaml:" in answer.json()["error"]["message"]
        assert gateway.post(chat("a")).status_code == 200
        ready = gateway.get("/readyz")
        assert ready.status_code == 200
        assert ready.json()["config"] == digest
        assert ready.json()["reload"].keys() == {"ok", "at"}, "who may ask here may not know what is in files"
        assert not ready.json()["reload"]["ok"]
        assert "pointsman.yaml:" in gateway.get("/readyz", admin=True).json()["reload"]["error"]


def test_a_broken_config_at_start_exits_2_and_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "pointsman.yaml"
    lines = ["listen: {public: 127.0.0.1:0, admin: 127.0.0.1:0}", "backends:"]
    lines += ["  x: {dialect: vlm, base_url: http://127.0.0.1:1/v1}"]
    lines += ["targets: {a: {model: llama-3.3-70b, backend: x, window: 128k}}", ""]
    path.write_text("\n".join(lines))
    done = subprocess.run(
        [sys.executable, "-m", "gateway.cli", "serve", "--config", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert f"{path}:3" in done.stderr + done.stdout
    assert "vllm" in done.stderr + done.stdout  # what would have been valid


def test_sigterm_drains_and_ends_what_must_end_with_a_typed_event(start: Start) -> None:
    gateway, ups = start({"a": [stream(pause_s=0.2), stream(STREAM[:3], end="hang"), hang]}, drain="1500ms")
    got: dict[str, object] = {}

    def ask(name: str) -> None:
        got[name] = gateway.post(chat("a", stream=True))

    threads = []
    for number, name in enumerate(("finishes", "hangs", "waits")):
        threads.append(threading.Thread(target=ask, args=(name,)))
        threads[-1].start()
        wait_for(lambda n=number: len(ups["a"].requests) == n + 1)
    idle = gateway.connect()
    gateway.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(10)
    assert gateway.process.wait(5) == 0
    assert got["finishes"].content.endswith(b"data: [DONE]\n\n")  # type: ignore[attr-defined]
    last = got["hangs"].content.split(b"\n\n")[-2]  # type: ignore[attr-defined]
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "draining"
    assert got["waits"].status_code == 503  # type: ignore[attr-defined]
    assert got["waits"].json()["error"]["code"] == "draining"  # type: ignore[attr-defined]
    assert idle.recv(1) == b""
    idle.close()


def test_readyz_says_draining_and_new_connections_are_refused(start: Start) -> None:
    gateway, ups = start({"a": [stream(STREAM[:3], end="hang")]}, drain="2s")
    body = json.dumps(chat("a", stream=True)).encode()
    with gateway.connect() as conn, gateway.connect() as other:
        conn.sendall(head(len(body)) + body)
        conn.recv(1000)
        other.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\n")  # a request half sent when the signal comes
        time.sleep(0.1)
        gateway.process.send_signal(signal.SIGTERM)
        wait_for(lambda: refused(gateway.port))
        other.sendall(b"\r\n")
        assert other.recv(65536).startswith(b"HTTP/1.1 503")
    assert ups["a"].requests


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


def test_requests_create_no_task_and_no_future(tmp_path: Path) -> None:
    upstream = Upstream([plain(), stream()] * 60)
    body, streamed = (json.dumps(chat("a", stream=flag)).encode() for flag in (False, True))
    with running(tmp_path, config({"a": upstream}), command=("-m", "tests.proxy.counting")) as gateway:

        def made() -> str:
            seen = len(gateway.lines)
            gateway.process.send_signal(signal.SIGUSR1)
            wait_for(lambda: any(line.startswith("made") for line in gateway.lines[seen:]))
            return next(line for line in gateway.lines[seen:] if line.startswith("made"))

        with gateway.connect() as conn:
            ask_both(conn, body, streamed)  # opens the connections, which may take tasks
            before = made()
            for _ in range(50):
                ask_both(conn, body, streamed)
            assert made() == before
    upstream.close()


def ask_both(conn: socket.socket, body: bytes, streamed: bytes) -> None:
    conn.sendall(head(len(body)) + body)
    assert read_answer(conn)[0].startswith(b"HTTP/1.1 200")
    conn.sendall(head(len(streamed)) + streamed)
    data = b""
    while not data.endswith(b"0\r\n\r\n"):
        data += conn.recv(65536)


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run([*command.split(), "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    return cert, key


@pytest.mark.parametrize("streamed", [False, True])
def test_a_private_ca_is_trusted_where_configured_and_nowhere_else(
    tmp_path: Path, certificate: tuple[Path, Path], streamed: bool
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    secure = Upstream([stream() if streamed else plain()], tls=context)
    settings = config({"a": secure, "b": secure})
    settings["backends"]["a"]["ca_file"] = str(certificate[0])
    with running(tmp_path, settings) as gateway:
        assert gateway.post(chat("a", stream=streamed)).status_code == 200
        answer = gateway.post(chat("b", stream=streamed))
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_unavailable")
        assert gateway.metric('pointsman_attempts_total{outcome="tls",target="b"}') == 1
    secure.close()


class Egress:
    """A CONNECT proxy that counts its tunnels and may refuse them."""

    def __init__(self, refuse: bool = False) -> None:
        self.tunnels: list[bytes] = []
        self.refuse = refuse
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://user:pass@127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                conn, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(conn,), daemon=True).start()

    def serve(self, conn: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += conn.recv(4096)
        self.tunnels.append(data)
        if self.refuse:
            conn.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            conn.close()
            return
        host, port = data.split(b" ")[1].decode().rsplit(":", 1)
        other = socket.create_connection((host, int(port)))
        conn.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        threading.Thread(target=self.pump, args=(conn, other), daemon=True).start()
        self.pump(other, conn)

    @staticmethod
    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        for each in (source, sink):
            each.close()


@pytest.mark.parametrize("tls", [False, True])
def test_an_egress_proxy_is_used_by_connect(tmp_path: Path, certificate: tuple[Path, Path], tls: bool) -> None:
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
    upstream, egress = Upstream([plain()], tls=context), Egress()
    settings = config({"a": upstream})
    settings["backends"]["a"] |= {"proxy": egress.url, "ca_file": str(certificate[0])}
    with running(tmp_path, settings) as gateway:
        for _ in range(2):
            assert gateway.post(chat("a")).status_code == 200
    assert len(egress.tunnels) == 1
    assert egress.tunnels[0].startswith(f"CONNECT 127.0.0.1:{upstream.port} HTTP/1.1\r\n".encode())
    assert b"Proxy-Authorization: Basic dXNlcjpwYXNz" in egress.tunnels[0]
    upstream.close()
    egress.listener.close()


def test_a_proxy_that_refuses_is_a_refused_connection(tmp_path: Path) -> None:
    upstream, egress = Upstream([plain()]), Egress(refuse=True)
    settings = config({"a": upstream})
    settings["backends"]["a"]["proxy"] = egress.url
    with running(tmp_path, settings) as gateway:
        answer = gateway.post(chat("a"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_unavailable")
    assert upstream.requests == []
    upstream.close()
    egress.listener.close()


def test_two_endpoints_share_the_load_and_a_cap_is_kept(tmp_path: Path) -> None:
    def slow(conn: socket.socket, request: Received) -> bool:
        time.sleep(0.4)
        return plain()(conn, request)

    one, two = Upstream([slow]), Upstream([slow])
    settings = config({"a": one})
    settings["backends"]["a"] |= {"endpoints": [one.url, two.url], "max_inflight": 3}
    with running(tmp_path, settings) as gateway:
        codes: list[int] = []
        threads = [threading.Thread(target=lambda: codes.append(gateway.post(chat("a")).status_code)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (len(one.requests), len(two.requests)) == (3, 3)
    assert sorted(codes) == [200] * 6 + [503] * 2
    for each in (one, two):
        each.close()


def test_framed_is_what_the_tests_think_it_is() -> None:
    assert framed(b"abc") == b"3\r\nabc\r\n"


def test_a_decision_by_latency_is_told_as_it_was_made(start: Start, tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    policy = 'policy: home\nrules:\n  - {id: all, use: [{family: "*", rank: fastest}]}\n'
    (tmp_path / "policies/home.yaml").write_text(policy)

    def slow(conn: socket.socket, request: Received) -> bool:
        time.sleep(0.3)
        return plain()(conn, request)

    gateway, _ = start({"a": [slow], "b": [plain()]}, policies={"dir": "policies", "default": "home"})
    for name in "ab":
        gateway.post(chat(name))
    served = gateway.post(chat())
    told = gateway.get(f"/v1/decisions/{served.headers['x-request-id']}").json()
    assert told["trace"]["candidates"][0] == told["record"]["chosen"] == "b"
