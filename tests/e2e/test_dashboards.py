"""Every panel, variable and mark of the dashboards, asked of a real Prometheus that watched a gateway in traffic."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import httpx
import pytest

from gateway.demo import model as demo_model
from tests.e2e import dashboards
from tests.e2e.dashboards import Ask
from tests.e2e.observed import Observed, observed
from tests.harness import ROOT
from tests.test_alerts import queries_of

#: Panels that may show nothing but zeros for this traffic.
CALM = {
    "Preemptions",
    "Waiting for a connection",
    "Under way and waiting",
    "Running and waiting",
    "In work and put off",
    "Missing from what is told",
    "Ledger",
    "Refused because it was full",
}

needs_model = pytest.mark.skipif(bool(demo_model.missing()), reason=demo_model.INSTALL)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    with observed(tmp_path_factory.mktemp("dashboards"), [(7, 6), (6, 6)]) as it:
        yield it


def named(ask: Ask) -> str:
    return f"{ask.board}: {ask.title}"


def due(ask: Ask) -> list[pytest.MarkDecorator]:
    return [needs_model] if any(name.startswith("llamacpp:") for name in ask.families) else []


@pytest.mark.parametrize("ask", [pytest.param(ask, marks=due(ask), id=named(ask)) for ask in dashboards.asks()])
def test_every_panel_has_data(seen: Observed, ask: Ask) -> None:
    values = seen.ask(ask.query, most=True)
    assert values, f"{named(ask)}: nothing for {ask.query}"
    if ask.title not in CALM:
        assert any(values), f"{named(ask)}: only zeros for {ask.query}"


def test_the_queries_of_the_page_have_answers(seen: Observed) -> None:
    queries = queries_of((ROOT / "docs" / "dashboards.md").read_text("utf-8"))
    assert len(queries) == 3
    for query in queries:
        quick = re.sub(r"\b1[dh]\b", "60s", query.replace(":1m]", ":500ms]"))
        assert any(seen.ask(quick)), query


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


def test_panels_with_exemplars_have_some(seen: Observed) -> None:
    now = time.time()
    asks = [ask for ask in dashboards.asks() if ask.exemplar]
    assert len(asks) > 10
    for ask in asks:
        query = seen.filled(ask.query)
        got = httpx.get(
            f"{seen.prometheus.url}/api/v1/query_exemplars",
            params={"query": query, "start": now - 300, "end": now},
            trust_env=False,
        ).json()
        assert got["status"] == "success", got
        labels = {name for row in got["data"] for one in row["exemplars"] for name in one["labels"]}
        assert "request_id" in labels, f"{named(ask)}: {query}"
