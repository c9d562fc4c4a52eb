"""One id joins all that is kept of a request: answer, log, record, shadow, ledger, exemplar, trace, upstream."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path

import httpx
import pytest

from tests.harness import KEY, Gateway, Upstream, chat, config, eventually, plain, running, slam

POLICY = """\
policy: mine
rules: [{id: all, use: [{target.name: bad}, {target.name: good}]}]
shadow: [{id: copy, use: [{target.name: copied}], share: 100%}]
"""


def lines(gateway: Gateway, request_id: str) -> list[dict[str, object]]:
    found = [json.loads(line) for line in gateway.lines if line.startswith("{")]
    return [one for one in found if one.get("request_id") == request_id]


@pytest.mark.parametrize("traced", [False, True])
def test_one_id_joins_all_that_is_kept_of_a_request(tmp_path: Path, traced: bool) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "mine.yaml").write_text(POLICY)
    upstreams = {"bad": Upstream([slam]), "good": Upstream([plain()]), "copied": Upstream([plain()])}
    over = {
        "policies": {"dir": "policies", "default": "mine"},
        "records": {"dir": "records"},
        "ledger": {"dir": "ledger"},
    }
    made = config(upstreams, **over)
    collector = None
    if traced:
        pytest.importorskip("opentelemetry.proto", reason="needs the extra otlp")
        from tests.collector import Collector

        collector = Collector()
        made["otlp"] = {"endpoint": collector.url, "traces": {"sample": "100%"}}
    with running(tmp_path, made) as gateway:
        answer = gateway.post(chat())
        request_id = answer.headers["x-request-id"]
        assert answer.headers["x-pointsman-target"] == "good"

        for upstream in upstreams.values():
            assert eventually(lambda upstream=upstream: len(upstream.requests) == 1)  # type: ignore[misc]
            assert upstream.requests[0].header("x-request-id") == request_id

        assert eventually(lambda: bool(lines(gateway, request_id)))
        [line] = lines(gateway, request_id)
        assert (line["level"], line["chosen"], line["fallback_reason"]) == ("warning", "bad", "reset")
        assert gateway.get(f"/v1/decisions/{request_id}").json()["record"]["request_id"] == request_id

        told = {"authorization": f"Bearer {KEY}", "accept": "application/openmetrics-text"}
        metrics = httpx.get(f"{gateway.admin}/metrics", headers=told).text
        assert re.search(rf'^pointsman_request_duration_seconds_bucket.*# {{.*request_id="{request_id}"', metrics, re.M)

        kept = tmp_path / "records"
        assert eventually(lambda: sum(file.read_bytes().count(b"\n") for file in kept.iterdir()) == 2)
        records = [json.loads(one) for file in kept.iterdir() for one in file.read_bytes().splitlines()]
        assert [one["id"] for one in records] == [request_id] * 2
        assert sorted(one.get("kind", "request") for one in records) == ["request", "shadow"]

        if collector is not None:
            span = collector.of(request_id)
            assert span.told["pointsman.request_id"] == request_id
            assert {line["trace_id"], *(one["trace_id"] for one in records)} == {span.trace_id}
            collector.close()

        refused = gateway.post(chat(), key="sk-wrong-0123456789")
        assert eventually(lambda: bool(lines(gateway, refused.headers["x-request-id"])))
        [line] = lines(gateway, refused.headers["x-request-id"])
        assert (line["level"], line["code"]) == ("warning", "invalid_api_key")
        missing = gateway.get("/v1/models/none")
        assert eventually(lambda: bool(lines(gateway, missing.headers["x-request-id"])))
        [line] = lines(gateway, missing.headers["x-request-id"])
        assert (line["status"], line["path"]) == (404, "/v1/models/none")
    for upstream in upstreams.values():
        upstream.close()
    [books] = tmp_path.glob("ledger/**/ledger.sqlite")
    with sqlite3.connect(books) as database:
        booked = {
            row[0] for row in database.execute("SELECT request_id FROM entries UNION SELECT request_id FROM open")
        }
    assert booked == {request_id}
