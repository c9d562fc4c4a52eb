"""From a bucket to a request: a real Prometheus keeps the exemplars that the gateway gives it, and tells them again."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.e2e import promserver
from tests.harness import Upstream, chat, config, eventually, running, stream


def test_a_bucket_leads_to_the_request_that_fell_into_it(tmp_path: Path) -> None:
    upstream = Upstream([stream()])
    try:
        with running(tmp_path, config({"up": upstream})) as gateway:
            admin = gateway.admin.removeprefix("http://")
            scrape = (
                "global: {scrape_interval: 250ms}\nscrape_configs:\n"
                f"  - {{job_name: pointsman, static_configs: [{{targets: ['{admin}']}}]}}\n"
            )
            with promserver.running(tmp_path, scrape, "--enable-feature=exemplar-storage") as server:
                ids = {gateway.post(chat(stream=True)).headers["x-request-id"] for _ in range(3)}

                def told(family: str) -> set[str]:
                    query = {"query": f"{family}_bucket", "start": "0", "end": "9999999999"}
                    found = httpx.get(f"{server.url}/api/v1/query_exemplars", params=query, trust_env=False).json()
                    assert found["status"] == "success"
                    return {one["labels"]["request_id"] for series in found["data"] for one in series["exemplars"]}

                for family in (
                    "pointsman_request_duration_seconds", "pointsman_time_to_first_event_seconds",
                    "pointsman_time_per_output_token_seconds", "pointsman_gateway_overhead_seconds",
                ):  # fmt: skip
                    assert eventually(lambda family=family: bool(told(family)), within_s=20), family
                    assert told(family) <= ids
            decided = gateway.get(f"/v1/decisions/{min(ids)}")
            assert decided.status_code == 200
            log = (tmp_path / "prometheus.log").read_text()
            assert "exemplar" not in log, log
    finally:
        upstream.close()
