"""A gateway in mixed traffic and a real Prometheus that watched it, for the test of the dashboards and their pictures.

The servers' own metrics come from a real llama.cpp, and for vLLM from what one was recorded to say.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from tests.e2e import dashboards, promserver, traffic
from tests.harness import ROOT
from tests.postgres import PASSWORD, Postgres, postgres
from tests.test_alerts import RULES
from tests.valkey import Valkey, valkey


@contextlib.contextmanager
def vllm(scrapes: int) -> Iterator[int]:
    """The port at which a vLLM server's recordings are served: each for so many scrapes, the last for ever."""
    recorded = [path.read_bytes() for path in sorted((ROOT / "tests/wire/vllm").glob("metrics-*.txt"))]
    pages = itertools.chain(*([page] * scrapes for page in recorded), itertools.repeat(recorded[-1]))

    class Recorded(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = next(pages)
            self.send_response(200)
            self.send_header("content-type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("content-length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Recorded)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class Observed:
    """A gateway in traffic and the Prometheus that watched it from `since` to `until`, in Unix time."""

    prometheus: promserver.Prometheus
    exposition: str
    since: float
    until: float

    def filled(self, query: str) -> str:
        """A panel's query with everything chosen, all of the time that was watched among it."""
        chosen = f"{math.ceil(self.until - self.since)}s"
        return dashboards.filled(query, now="20s", chosen=chosen, step="500ms")

    def ask(self, query: str, *, most: bool = False) -> list[float]:
        """The values of a query now; with `most` the highest they were while it was watched."""
        query = self.filled(query)
        found = self.prometheus.ask(f"max_over_time(({query})[2m:1s])" if most else query)
        values = [float(row["value"][1]) for row in found]
        return [value for value in values if not math.isnan(value)]


@contextlib.contextmanager
def observed(directory: Path, phases: Sequence[tuple[float, int]]) -> Iterator[Observed]:
    """Traffic in phases of (seconds, clients), with reloads, good and bad, between them; scraped from the beginning."""
    since, scrapes = time.time(), int(2 * sum(seconds for seconds, _ in phases) / 4)
    with (
        valkey(directory / "valkey") as store,
        postgres() as books,
        traffic.running(directory, model=True, **_settled(directory, store, books)) as site,
        vllm(scrapes) as port,
    ):
        jobs = {"pointsman": site.gateway.admin, "vllm": f"http://127.0.0.1:{port}"}
        if site.local is not None:
            jobs["llama.cpp"] = site.local
        with promserver.running(
            directory, _settings(directory, jobs), "--enable-feature=exemplar-storage"
        ) as prometheus:
            prometheus.wait_for("up == 1")
            for place, (seconds, clients) in enumerate(phases):
                if place:
                    books.kill()  # and is back in the middle of the traffic
                    back = threading.Timer(2.0, books.start)
                    back.start()
                    site.traffic(seconds, clients)
                    back.join()
                else:
                    site.traffic(seconds, clients)
                if place < len(phases) - 1:
                    site.reload()
                    store.kill()
                    prometheus.wait_for("pointsman_store_up == 0")
                    prometheus.wait_for("sum(pointsman_store_errors_total) >= 2")
                    store.start()
                    with site.broken():
                        prometheus.wait_for("pointsman_config_last_reload_success == 0")
                    site.reload()
            until = time.time()
            time.sleep(1.2)  # two more scrapes see all of it
            yield Observed(prometheus, site.gateway.get("/metrics", admin=True).text, since, until)


def _settled(directory: Path, store: Valkey, books: Postgres) -> dict[str, Any]:
    """A limit of memory, and what replicas would share."""
    (directory / "password").write_text(PASSWORD)
    place = {"port": books.port, "password": {"file": "password"}}
    return {"limits": {"max_memory": "2GB"}, "store": {"url": store.url}, "ledger": {"postgres": place}}


def _settings(directory: Path, jobs: Mapping[str, str]) -> str:
    """prometheus.yml for these addresses, with the rules of deploy/ sped up: nothing here lasts for minutes."""
    (directory / "rules").mkdir()
    for path in RULES:
        text = re.sub(r"\b(interval|for): \d+[mh]\n", r"\1: 1s\n", path.read_text("utf-8"))
        (directory / "rules" / path.name).write_text(text, "utf-8")
    made = {
        "global": {"scrape_interval": "500ms", "evaluation_interval": "1s"},
        "rule_files": ["rules/*.yaml"],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [url.removeprefix("http://")]}]}
            for job, url in jobs.items()
        ],
    }
    return json.dumps(made)
