"""What docker-compose.replicas.yml starts, as processes: its own configurations, with ports of this machine for names.

Three gateways, real nginx, real Valkey and real PostgreSQL. No Docker engine is needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from deploy import scaling
from gateway import yamlfile
from gateway.config import ConfigDoc
from gateway.ledgerdoc import LedgerDoc
from gateway.problems import validated
from tests.harness import KEY, ROOT, Gateway, Upstream, chat, eventually, serving
from tests.ledger.test_kill import Generated
from tests.ports import free_port
from tests.postgres import PASSWORD, Postgres, postgres
from tests.test_deploy import installed
from tests.valkey import Valkey, valkey

COMPOSE = ROOT / "deploy" / "compose"
NAMES = ("gateway", "gateway-2", "gateway-3")


@dataclass
class Topology:
    gateways: list[Gateway]
    url: str  # of the load balancer
    truth: Generated
    store: Valkey
    books: Postgres
    config: Path  # of the first gateway


def replaced(text: str, words: dict[str, str]) -> str:
    for word, by in words.items():
        assert word in text, f"{word} is not in the file any more"
        text = text.replace(word, by)
    return text


@pytest.fixture(scope="module")
def topology(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    where = tmp_path_factory.mktemp("topology")
    truth = Generated()
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(valkey(where / "valkey"))
        books = stack.enter_context(postgres())
        upstream = Upstream([truth.answer])
        stack.callback(upstream.close)
        (where / "admin").write_text(KEY)
        (where / "password").write_text(PASSWORD)
        words = {
            "0.0.0.0:8080": "127.0.0.1:0",
            "0.0.0.0:8081": "127.0.0.1:0",
            "/run/secrets/pointsman_admin_key": str(where / "admin"),
            "/run/secrets/pointsman_postgres_password": str(where / "password"),
            "redis://valkey:6379/0": store.url,
            "host: postgres": f"host: 127.0.0.1, port: {books.port}",
            "http://host.docker.internal:8000/v1": upstream.url,
            "0" * 64: hashlib.sha256(KEY.encode()).hexdigest(),
        }
        paths = []
        for name in NAMES:
            (where / name).mkdir()
            path = where / name / "pointsman.yaml"
            text = replaced((COMPOSE / "replicas.yaml").read_text(), words)
            path.write_text(text.replace("ledger:\n", f"ledger:\n  replica: {name}\n"))  # a host's name, there
            paths.append(path)
        with ThreadPoolExecutor(len(paths)) as pool:
            gateways = list(pool.map(lambda path: stack.enter_context(serving(path)), paths))
        url = stack.enter_context(balancing(where, [one.port for one in gateways]))
        yield Topology(gateways, url, truth, store, books, where / NAMES[0] / "pointsman.yaml")


@contextlib.contextmanager
def balancing(where: Path, ports: list[int]) -> Iterator[str]:
    port = free_port()
    words = {f"{name}:8080 ": f"127.0.0.1:{at} " for name, at in zip(NAMES, ports, strict=True)}
    words |= {"listen 8080": f"listen 127.0.0.1:{port}", "/dev/stderr": "stderr"}
    text = replaced((COMPOSE / "nginx.conf").read_text(), words)
    text = re.sub(r"/tmp/(?=\w)", f"{where}/nginx-", text)
    text = text.replace("worker_processes auto", "worker_processes 1; daemon off; master_process off")
    (where / "nginx.conf").write_text(text)
    process = subprocess.Popen([installed("nginx"), "-c", str(where / "nginx.conf"), "-e", "stderr"], cwd=where)
    try:
        url = f"http://127.0.0.1:{port}"
        assert eventually(lambda: answers(url), 20)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(url + "/healthz", timeout=2).status_code == 200
    return False


def ask(url: str, count: int) -> list[int]:
    """Requests at once, half of them streams; their statuses."""
    with httpx.Client(timeout=30, headers={"authorization": f"Bearer {KEY}"}) as client, ThreadPoolExecutor(8) as pool:
        bodies = [chat("local", stream=bool(number % 2)) for number in range(count)]
        return list(pool.map(lambda body: client.post(url + "/v1/chat/completions", json=body).status_code, bodies))


def test_one_set_of_books_tells_what_all_gateways_did(topology: Topology) -> None:
    assert set(ask(topology.url, 60)) == {200}
    truth = topology.truth
    wanted = {
        "attempts": len(truth.seen),
        "input": sum(stated[0] for stated in truth.usage.values()),
        "output": sum(stated[1] for stated in truth.usage.values()),
    }
    told: dict[str, object] = {}

    def whole() -> bool:
        found = topology.gateways[0].get("/v1/usage?by=replica", admin=True).json()
        told.update(found)
        total = found.get("total", {})  # none before anything was shipped: the tables come with the first of it
        return all(total.get(name) == count for name, count in wanted.items())

    assert eventually(whole, 20), (told, wanted)
    rows = topology.gateways[2].get("/v1/usage?by=replica", admin=True).json()["rows"]
    assert {row["replica"] for row in rows} == set(NAMES), "the load balancer used all of them"
    own = topology.gateways[1].get("/v1/usage?by=total&own=true", admin=True).json()["total"]
    assert 0 < own["attempts"] < wanted["attempts"]
    command = [sys.executable, "-m", "gateway.cli", "usage", "--config", str(topology.config), "--by", "replica,model"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[:3] == ["replica", "model", "attempts"]
    assert [line.split()[0] for line in lines[1:4]] != []
    assert f"{wanted['attempts']:,}" in next(line for line in lines if line.startswith("total"))


def calls(store: Valkey) -> int:
    """How often the script of the store was run."""
    text = store.ask("INFO", "commandstats")
    assert isinstance(text, bytes)
    return sum(map(int, re.findall(rb"cmdstat_eval(?:sha)?:calls=(\d+)", text)))


def test_limits_hold_over_all_gateways_together_at_a_known_number_of_calls_and_rows(topology: Topology) -> None:
    """The key of the file may send 600 requests a minute, wherever the load balancer sends them."""
    assert eventually(lambda: all(one.metric("pointsman_store_up") == 1 for one in topology.gateways), 20)
    # Whichever test comes first: each gateway has told the store of itself, and PostgreSQL has what was done by now.
    assert {one.post(chat("local")).status_code for one in topology.gateways} == {200}
    assert eventually(lambda: shipped(topology) == len(topology.truth.seen), 20)
    began = time.monotonic()
    before, rows = calls(topology.store), shipped(topology)
    count = 60
    assert ask(topology.url, count).count(200) == count
    assert eventually(lambda: shipped(topology) == rows + count, 20), "one row for each attempt"
    made = calls(topology.store) - before
    # One to admit and one at the end; and replicas tell that they live.
    others = len(NAMES) * 4 * (time.monotonic() - began + 1)
    assert scaling.CALLS * count <= made <= scaling.CALLS * count + others
    left = []
    for one in topology.gateways:
        answer = one.post(chat("local"))
        left.append(int(answer.headers["x-ratelimit-remaining-requests"]))
    # A minute's worth fills evenly: what comes back meanwhile is all that may be more.
    assert max(left) <= 600 - count + 10 * (time.monotonic() - began) + 10, "each knows what the others let through"


def shipped(topology: Topology) -> int:
    [(there,)] = topology.books.ask("SELECT to_regclass('pointsman.entries') IS NOT NULL")
    [(count,)] = topology.books.ask("SELECT count(*) FROM pointsman.entries") if there else [(0,)]
    return int(count)


def test_a_gateway_that_dies_is_passed_over_and_its_books_are_not_lost(topology: Topology) -> None:
    victim = topology.gateways[2]
    victim.process.kill()
    victim.process.wait(10)
    assert set(ask(topology.url, 20)) == {200}
    with serving(victim.directory / "pointsman.yaml") as again:

        def whole() -> bool:
            total = again.get("/v1/usage?by=total", admin=True).json()["total"]
            return bool(total["attempts"] == len(topology.truth.seen))

        assert eventually(whole, 20)


def test_the_lines_for_replicas_without_compose_are_lines_of_a_configuration() -> None:
    page = (ROOT / "docs" / "shared-store.md").read_text().split("## Replicas without Compose")[1].split("\n## ")[0]
    lines = "\n".join(line[4:] for line in page.splitlines() if line.startswith("    "))
    doc = validated(
        yamlfile.loads(
            lines + '\nbackends: {b: {dialect: vllm, base_url: "http://b/v1"}}\ntargets: {t: {model: m, backend: b}}\n',
            "page",
        ),
        ConfigDoc,
    )
    assert isinstance(doc.ledger, LedgerDoc)
    assert (doc.ledger.replica, doc.ledger.dir) == ("gateway-1", "ledger-1")
    assert doc.keys_file
    assert doc.store
