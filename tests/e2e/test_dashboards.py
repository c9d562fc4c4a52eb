"""Every panel, variable and annotation of the dashboards, asked of a real Prometheus that scraped a gateway in traffic.

The servers' own metrics come from a real llama.cpp, and for vLLM from what one was recorded to say.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest

from gateway.demo import model as demo_model
from tests.e2e import dashboards, promserver, traffic
from tests.e2e.dashboards import Ask
from tests.harness import ROOT
from tests.test_alerts import RULES, WAITED_FOR

#: Panels that may show nothing but zeros for this traffic.
CALM = {
    "Preemptions",
    "Waiting for a connection",
    "Under way and waiting",
    "Running and waiting",
    "In work and put off",
}

needs_model = pytest.mark.skipif(bool(demo_model.missing()), reason=demo_model.INSTALL)


@contextlib.contextmanager
def vllm() -> Iterator[int]:
    """The port at which a vLLM server's recordings are served: each for some scrapes, the last for ever."""
    recorded = [path.read_bytes() for path in sorted((ROOT / "tests/wire/vllm").glob("metrics-*.txt"))]
    pages = itertools.chain(*([page] * 8 for page in recorded), itertools.repeat(recorded[-1]))

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
    """A gateway in traffic and the Prometheus that watched it."""

    prometheus: promserver.Prometheus
    exposition: str

    def ask(self, query: str, *, most: bool = False) -> list[float]:
        """The values of a query with everything chosen; with `most` the highest they were while it was watched."""
        query = dashboards.filled(query, now="20s", chosen="2m")
        found = self.prometheus.ask(f"max_over_time(({query})[1m:500ms])" if most else query)
        values = [float(row["value"][1]) for row in found]
        return [value for value in values if not math.isnan(value)]


@contextlib.contextmanager
def observed(directory: Path, seconds: float) -> Iterator[Observed]:
    """A Prometheus that has scraped before, during and after traffic with faults and reloads."""
    with traffic.running(directory, model=True) as site, vllm() as port:
        jobs = {"pointsman": site.gateway.admin, "vllm": f"http://127.0.0.1:{port}"}
        if site.local is not None:
            jobs["llama.cpp"] = site.local
        (directory / "rules").mkdir()
        for path in RULES:  # nothing here lasts for minutes
            text = re.sub(r"\b(interval|for): \d+[mh]\n", r"\1: 1s\n", path.read_text("utf-8"))
            (directory / "rules" / path.name).write_text(text, "utf-8")
        scrape = (
            "global: {scrape_interval: 500ms, evaluation_interval: 1s}\nrule_files: [rules/*.yaml]\nscrape_configs:\n"
            + "".join(
                f"  - {{job_name: {job}, static_configs: [{{targets: ['{url.removeprefix('http://')}']}}]}}\n"
                for job, url in jobs.items()
            )
        )
        with promserver.running(directory, scrape, "--enable-feature=exemplar-storage") as prometheus:
            prometheus.wait_for("up == 1")
            site.traffic(seconds / 2)
            site.reload()
            site.reload(broken=True)
            site.reload()
            site.traffic(seconds / 2)
            time.sleep(1.2)  # two more scrapes see all of it
            yield Observed(prometheus, site.gateway.get("/metrics", admin=True).text)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    with observed(tmp_path_factory.mktemp("dashboards"), 12.0) as it:
        yield it


def named(ask: Ask) -> str:
    return f"{ask.board}: {ask.title}"


def due(ask: Ask) -> list[pytest.MarkDecorator]:
    return [needs_model] if any(name.startswith("llamacpp:") for name in ask.families) else []


@pytest.mark.parametrize("ask", [pytest.param(ask, marks=due(ask), id=named(ask)) for ask in dashboards.asks()])
def test_every_panel_has_data(seen: Observed, ask: Ask) -> None:
    if ask.waits:
        pytest.skip(f"nobody exports {ask.waits} yet")
    assert seen.ask(ask.query), f"{named(ask)}: nothing for {ask.query}"
    if ask.title not in CALM:
        assert any(seen.ask(ask.query, most=True)), f"{named(ask)}: only zeros for {ask.query}"


@pytest.mark.parametrize(("board", "name", "query"), dashboards.variables())
def test_every_variable_has_values(seen: Observed, board: str, name: str, query: str) -> None:
    match = re.fullmatch(r"label_values\((\w+), (\w+)\)", query)
    assert match is not None
    values = {row["metric"].get(match[2]) for row in seen.prometheus.ask(match[1])}
    assert {"team": "shop", "policy": "research", "target": "thinker"}[name] in values


@pytest.mark.parametrize("board", dashboards.BOARDS)
def test_reloads_are_marked(seen: Observed, board: str) -> None:
    marks = [one["expr"] for one in dashboards.BOARDS[board]["annotations"]["list"]]
    assert len(marks) == 2
    for query in marks:
        assert seen.ask(query), query


def test_what_is_waited_for_is_really_not_there(seen: Observed) -> None:
    born = {name for name in WAITED_FOR if f"# TYPE {name} " in seen.exposition}
    assert not born, "take them from the list: panels must show them now"


@pytest.mark.xfail(strict=True, reason="the exposition holds no exemplars yet")
def test_panels_with_exemplars_have_some(seen: Observed) -> None:
    now = time.time()
    asks = [ask for ask in dashboards.asks() if ask.exemplar]
    assert len(asks) > 10
    for ask in asks:
        query = dashboards.filled(ask.query, now="20s", chosen="2m")
        got = httpx.get(
            f"{seen.prometheus.url}/api/v1/query_exemplars",
            params={"query": query, "start": now - 300, "end": now},
            trust_env=False,
        ).json()
        assert got["status"] == "success", got
        labels = {name for row in got["data"] for one in row["exemplars"] for name in one["labels"]}
        assert "request_id" in labels, f"{named(ask)}: {query}"
