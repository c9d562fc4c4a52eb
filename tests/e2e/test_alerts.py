"""The alert and recording rules in a real Prometheus that scrapes a real gateway: idle, with faults, mended, and gone.

The rules are those of deploy/prometheus, except that alerts need not last and all are evaluated twice a second.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import httpx
import pytest

from tests.e2e import promserver
from tests.harness import (
    COMPLETION,
    KEY,
    ROLE,
    STREAM,
    Gateway,
    Received,
    Upstream,
    chat,
    chunk,
    config,
    plain,
    running,
    stream,
)
from tests.test_alerts import ALERTS, RECORDED, RULES, RUNBOOKS, labels_of, queries_of
from tests.valkey import valkey

#: Alerts that the faults below must bring about, and the values of a label by which they name what is at fault.
EXPECTED = {
    "PointsmanErrorBudgetBurnFast": ("job", {"pointsman"}),
    "PointsmanErrorBudgetBurnSlow": ("job", {"pointsman"}),
    "PointsmanReloadFailing": ("job", {"pointsman"}),
    "PointsmanTargetDown": ("target", {"down", "cut"}),
    "PointsmanFamilyDown": ("family", {"gemma"}),
    "PointsmanFamilyFailing": ("family", {"gemma"}),
    "PointsmanFallbacksRising": ("job", {"pointsman"}),
    "PointsmanRetriesNearBudget": ("job", {"pointsman"}),
    "PointsmanStreamsInterrupted": ("target", {"cut"}),
    "PointsmanThinkingViolations": ("target", {"stubborn"}),
    "PointsmanThinkingDoubted": ("target", {"stubborn"}),
    "PointsmanTargetRetires": ("target", {"well"}),
    "PointsmanUnpricedTraffic": ("target", {"free"}),
    "PointsmanStoreDegraded": ("store", {"redis"}),
}
GONE = {"PointsmanGatewayDown", "PointsmanGatewayAbsent"}
#: No fault below is a reason for others. These depend on how busy the machine is that tests run on.
MAY_FIRE = EXPECTED.keys() | GONE | {"PointsmanOverheadHigh", "PointsmanLogLinesLost"}

_REASONED = {"role": "assistant", "content": "Hello.", "reasoning_content": "Let me think."}
_THOUGHT = json.dumps(COMPLETION | {"choices": [{"index": 0, "message": _REASONED, "finish_reason": "stop"}]}).encode()
_FAILED = plain(500, b'{"error": {"message": "failed"}}')  # a 503 would say that its queue is full


def upstream() -> Upstream:
    """Answers by the model it is asked for; one fails every other time, which is too seldom to be held back."""
    turns = count()

    def answer(conn: socket.socket, request: Received) -> bool:
        model = request.json["model"]
        if model == "down" or (model == "flaky" and next(turns) % 2):
            return _FAILED(conn, request)
        if model == "cut":
            return stream([ROLE, chunk("Hel")], end="eof")(conn, request)
        if model == "stubborn":
            return plain(body=_THOUGHT)(conn, request)
        return (stream(STREAM) if request.json.get("stream") else plain())(conn, request)

    return Upstream([answer])


def settings(url: str, store: str) -> dict[str, Any]:
    made = config({"up": url}, store={"url": store})
    models = {
        "flaky": "llama-4-maverick", "well": "qwen3.5-35b-a3b", "cut": "llama-3.1-8b", "free": "llama-3.1-8b",
        "stubborn": "qwen3.5-35b-a3b", "down": "gemma-3-27b",
    }  # fmt: skip
    made["targets"] = {
        name: {
            "model": model,
            "backend": "up",
            "upstream_id": name,
            "window": "128k",
            "price": {"input": 1, "output": 2},
        }
        for name, model in models.items()
    }
    made["keys"][0]["budget"] = {"usd": 1_000, "per": "day", "mode": "soft"}
    made["targets"]["free"]["price"] = "none"
    made["targets"]["stubborn"]["thinking"] = "switchable"
    made["targets"]["well"]["retires_on"] = datetime.now(UTC).date() + timedelta(days=20)
    return made


def traffic(gateway: Gateway, rounds: int = 8) -> None:
    """Some of each fault."""
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=gateway.public, trust_env=False, timeout=30, headers=headers) as client:
        for _ in range(rounds):
            for body in (
                chat("auto"), chat("auto"), chat("auto"), chat("well", stream=True), chat("cut", stream=True),
                chat("free"), chat("down"),
            ):  # fmt: skip
                client.post("/v1/chat/completions", json=body)
            client.post("/v1/chat/completions", json=chat("stubborn"), headers={"x-pointsman-thinking": "never"})


@dataclass
class Seen:
    """What Prometheus said at each stage."""

    server: promserver.Prometheus
    idle: set[str] = field(default_factory=set)
    idle_rules: list[dict[str, Any]] = field(default_factory=list)
    busy_rules: list[dict[str, Any]] = field(default_factory=list)
    recorded: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    mended: set[str] = field(default_factory=set)

    @property
    def fired(self) -> dict[str, list[dict[str, Any]]]:
        """What fired under traffic, by the alert's name."""
        alerts = {rule["name"]: rule.get("alerts", []) for rule in self.busy_rules}
        return {name: fire for name, every in alerts.items() if (fire := [a for a in every if a["state"] == "firing"])}


def told(server: promserver.Prometheus) -> list[dict[str, Any]]:
    """Every rule as Prometheus sees it, with its health and its alerts."""
    answer = httpx.get(f"{server.url}/api/v1/rules", trust_env=False, timeout=10).json()
    return [rule for group in answer["data"]["groups"] for rule in group["rules"]]


def firing(server: promserver.Prometheus) -> set[str]:
    """Names of the alerts that fire."""
    return {row["metric"]["alertname"] for row in server.ask('ALERTS{alertstate="firing"}')}


def until(server: promserver.Prometheus, expected: set[str], gateway: Gateway | None = None) -> set[str]:
    """What fires once all of these do; until then traffic is sent, where there is a gateway."""
    ends_at = time.monotonic() + 40
    while not expected <= (found := firing(server)):
        assert time.monotonic() < ends_at, f"{expected - found} never fire"
        if gateway is None:
            time.sleep(0.2)
        else:
            traffic(gateway)
    return found


def recorded(server: promserver.Prometheus, gateway: Gateway) -> dict[str, list[dict[str, Any]]]:
    """What every rule has recorded, once all have that can; until then traffic is sent.

    A series is born with the first requests, no rate sees what it is born with, and some rules read what others record.
    """
    ends_at = time.monotonic() + 40
    while True:
        found = {name: server.ask(f'{{__name__="{name}"}}') for name in RECORDED}
        if all(found.values()) or time.monotonic() > ends_at:
            return found
        traffic(gateway)


@pytest.fixture(scope="module")
def gone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """All stages, after the last of which the gateway is dead."""
    where = tmp_path_factory.mktemp("alerts")
    (where / "rules").mkdir()
    for path in RULES:
        quick = re.sub(r"^( +for|    interval): \w+$", r"\1: 0s", path.read_text("utf-8"), flags=re.MULTILINE)
        (where / "rules" / path.name).write_text(quick.replace("    interval: 0s\n", ""), "utf-8")
    servers = upstream()
    (where / "site").mkdir()
    try:
        with valkey(where / "valkey") as store, running(where / "site", settings(servers.url, store.url)) as gateway:
            admin = gateway.admin.removeprefix("http://")
            scrapes = (
                "global: {scrape_interval: 500ms, evaluation_interval: 500ms}\nrule_files: [rules/*.yaml]\n"
                f"scrape_configs:\n  - {{job_name: pointsman, static_configs: [{{targets: ['{admin}']}}]}}\n"
            )
            with promserver.running(where, scrapes) as server:
                seen = Seen(server)
                server.wait_for("count_over_time(pointsman_build_info[1m]) >= 4")  # begins some seconds after its start
                seen.idle, seen.idle_rules = firing(server), told(server)
                traffic(gateway)
                store.kill()
                _break_and_mend(gateway, seen)
                gateway.process.kill()
                until(server, GONE)
                yield seen
    finally:
        servers.close()


def _break_and_mend(gateway: Gateway, seen: Seen) -> None:
    """Look while the configuration is broken and faults go on, and again once it is mended."""
    file = gateway.directory / "pointsman.yaml"
    before = file.read_text("utf-8")
    file.write_text(before + "no-such-setting: 1\n", "utf-8")
    assert httpx.post(f"{gateway.admin}/v1/reload", timeout=30, trust_env=False).status_code == 400
    until(seen.server, set(EXPECTED), gateway)
    seen.recorded = recorded(seen.server, gateway)
    seen.busy_rules = told(seen.server)
    file.write_text(before, "utf-8")
    failing = 'ALERTS{alertname="PointsmanReloadFailing"}'
    seen.server.wait_for(f"pointsman_config_last_reload_success == 1 unless on () {failing}")
    seen.mended = firing(seen.server)


def test_a_gateway_that_was_just_started_and_idles_is_worth_no_alert(gone: Seen) -> None:
    assert gone.idle == {"PointsmanTargetRetires"}, "which is true whether it idles or not"


def test_every_rule_is_evaluated_without_an_error(gone: Seen) -> None:
    for stage in (gone.idle_rules, gone.busy_rules):
        assert {rule["name"] for rule in stage} == ALERTS.keys() | RECORDED
        assert not [(rule["name"], rule.get("lastError")) for rule in stage if rule["health"] != "ok"]


def test_every_recording_rule_has_data_with_the_labels_of_its_level(gone: Seen) -> None:
    for name, found in gone.recorded.items():
        assert found, name
        level = labels_of(name)
        assert level is not None
        for row in found:
            assert row["metric"].keys() - {"__name__"} == level, name
            assert abs(float(row["value"][1])) < float("inf"), f"{name}: {row['value']}"


def test_each_fault_is_told_and_nothing_else(gone: Seen) -> None:
    assert EXPECTED.keys() <= gone.fired.keys() <= MAY_FIRE


@pytest.mark.parametrize("alert", EXPECTED)
def test_an_alert_names_what_is_at_fault(gone: Seen, alert: str) -> None:
    label, values = EXPECTED[alert]
    assert {one["labels"][label] for one in gone.fired[alert]} == values


def test_texts_of_alerts_have_their_values(gone: Seen) -> None:
    for name, alerts in gone.fired.items():
        for one in alerts:
            for text in one["annotations"].values():
                assert text, name
                assert not re.search(r"no value|<error|NaN|\{\{|%!", text), f"{name}: {text}"


def test_a_reload_that_is_mended_is_told_no_more(gone: Seen) -> None:
    assert "PointsmanReloadFailing" not in gone.mended


def test_a_gateway_that_is_gone_is_told(gone: Seen) -> None:
    assert firing(gone.server) >= GONE


def test_the_queries_of_runbooks_can_be_asked(gone: Seen) -> None:
    for page in RUNBOOKS.glob("*.md"):
        for query in queries_of(page.read_text("utf-8")):
            gone.server.ask(query)
