"""The rules for Prometheus in deploy/prometheus: promtool's verdict, and that rules, tests, runbooks and pages agree.

That they work over a real gateway is in tests/e2e/test_alerts.py.
"""

from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from gateway import cli
from gateway.core.errors import CODES
from gateway.core.resilience.health import Board, _Entry
from gateway.telemetry.families import DURATION_BUCKETS_S, FAMILIES

ROOT = Path(__file__).resolve().parent.parent
PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = sorted((PROMETHEUS / "rules").glob("*.yaml"))
TESTS = sorted((PROMETHEUS / "tests").glob("*.yaml"))
RUNBOOKS = ROOT / "docs" / "runbooks"
PAGE = (ROOT / "docs" / "alerts.md").read_text("utf-8")

#: What Prometheus itself adds to every sample.
SCRAPED = {"job", "instance"}


def rules() -> Iterator[dict[str, Any]]:
    for path in RULES:
        for group in YAML(typ="safe").load(path)["groups"]:
            yield from group["rules"]


ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}
RECORDED = {rule["record"] for rule in rules() if "record" in rule}
#: Where there is one: alerts that speak of no series in particular have nothing to put into their texts.
OF_NOTHING = {name for name, rule in ALERTS.items() if rule["expr"].startswith("absent(")}


def promtool(*arguments: str, cwd: Path = PROMETHEUS) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    return subprocess.run([program, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


@cache
def exported() -> dict[str, set[str]]:
    """Labels by the name of a sample, as PromQL has it."""
    found: dict[str, set[str]] = {
        "up": set(),
        "process_cpu_seconds_total": set(),
        "process_start_time_seconds": set(),
        "process_resident_memory_bytes": set(),
    }
    for family in FAMILIES:
        labels = set(family.labels)
        if family.kind == "histogram":
            name = family.name
            found |= {f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels, f"{name}_count": labels}
        else:
            found[family.name] = labels
    return found


def labels_of(name: str) -> set[str] | None:
    """Labels of what a query may select, None for what there is not."""
    if name in RECORDED:
        level = name.partition(":")[0]
        return set() if level == "global" else set(level.split("_"))
    found = exported().get(name)
    return None if found is None else found | SCRAPED


def complaints(query: str) -> list[str]:
    """Every metric and label of a query that nobody exports."""
    bare = re.sub(r"\[[^]]*\]", "", re.sub(r'"[^"]*"', '""', query))
    found, known = [], set[str]()
    for name, matchers in re.findall(r"\b((?:up|(?:process_|pointsman_|\w+:)[\w:]+)\b)(?!\s*\()(\{[^}]*\})?", bare):
        labels = labels_of(name)
        if labels is None:
            found.append(name)
            continue
        known |= labels
        found += [f"{name}{{{one}}}" for one in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers) if one not in labels]
    for listed in re.findall(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\(([\w\s,]*)\)", bare):
        found += [one for one in re.findall(r"\w+", listed) if one not in known | {"__name__"}]
    return found


def queries_of(text: str) -> list[str]:
    """The queries of a runbook."""
    return [inspect.cleandoc(one) for one in re.findall(r"```promql\n(.*?)```", text, re.DOTALL)]


# -- promtool's verdict --


def test_prometheus_takes_the_rules() -> None:
    done = promtool("check", "rules", "--lint-fatal", *map(str, RULES))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.stem))
def test_alerts_fire_when_they_should_and_only_then(path: Path) -> None:
    done = promtool("test", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_queries_of_runbooks_are_queries(tmp_path: Path) -> None:
    found = [query for page in RUNBOOKS.glob("*.md") for query in queries_of(page.read_text("utf-8"))]
    assert len(found) >= len(ALERTS)
    made = {"groups": [{"name": "g", "rules": [{"record": f"q:n:{at}", "expr": one} for at, one in enumerate(found)]}]}
    with (tmp_path / "rules.yaml").open("w") as file:
        YAML().dump(made, file)
    done = promtool("check", "rules", str(tmp_path / "rules.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr


# -- what every alert has --


def test_every_alert_says_how_long_how_grave_what_and_where_to_read_on() -> None:
    for name, rule in ALERTS.items():
        assert re.fullmatch(r"\d+[mh]", rule["for"]), name
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}, name
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}, name
        assert ("{{" in rule["annotations"]["summary"]) != (name in OF_NOTHING), name
        assert rule["annotations"]["runbook_url"].endswith(f"}}docs/runbooks/{name}.md"), name


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert {path.stem for path in RUNBOOKS.iterdir()} == ALERTS.keys()


def test_every_runbook_answers_the_four_questions() -> None:
    asked = ["What it means for users", "See it", "What to do", "How it ends"]
    for name in ALERTS:
        text = (RUNBOOKS / f"{name}.md").read_text("utf-8")
        assert text.startswith(f"# {name}\n")
        assert re.findall(r"^## (.*)$", text, re.MULTILINE) == asked, name
        assert all(part.strip() for part in re.split(r"^## .*$", text, flags=re.MULTILINE)[1:]), name
        assert queries_of(text), name


def test_what_runbooks_link_to_exists() -> None:
    for path in RUNBOOKS.glob("*.md"):
        text = path.read_text("utf-8")
        for link in re.findall(r"\]\(([^)#\s]+)", text):
            assert (path.parent / link).exists(), f"{path.name}: {link}"
        for page in re.findall(r"(?:docs|policies|deploy)/[\w./-]*\w", text):
            assert (ROOT / page).exists(), f"{path.name}: {page}"


def test_panels_that_runbooks_send_to_exist() -> None:
    boards = [json.loads(path.read_text("utf-8")) for path in (ROOT / "deploy/grafana/dashboards").glob("*.json")]
    there = {
        (made["title"].removeprefix("Pointsman / "), panel["title"]) for made in boards for panel in made["panels"]
    }
    sent = 0
    for path in RUNBOOKS.glob("*.md"):
        text = " ".join(path.read_text("utf-8").split())
        for board, listed in re.findall(r'[Dd]ashboard "(\w+)", panels? ((?:(?:, | and )?"[^"]+")+)', text):
            for panel in re.findall(r'"([^"]+)"', listed):
                assert (board, panel) in there, f"{path.name}: {board}, {panel}"
                sent += 1
        assert text.lower().count("dashboard") == len(re.findall(r'[Dd]ashboard "\w+", panel', text)), path.name
    assert sent >= len(ALERTS)


def test_fields_of_log_lines_that_runbooks_name_are_documented() -> None:
    fields = set(re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "logs.md").read_text("utf-8"), re.MULTILINE))
    known = {name for cell in fields for name in re.findall(r"`(\w+)`", cell)} | {*CODES, "error"}
    told = 0
    for path in RUNBOOKS.glob("*.md"):
        for line in re.findall(r"^- Log of requests[:,](.*(?:\n  .*)*)", path.read_text("utf-8"), re.MULTILINE):
            names = re.findall(r"`(\w+)`", line)
            assert names, path.name
            assert set(names) <= known, f"{path.name}: {set(names) - known}"
            told += 1
    assert told > 5


def test_commands_that_runbooks_name_exist_with_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for path in RUNBOOKS.glob("*.md") for line in re.findall(r"`pointsman ([^`]*)`", path.read_text())]
    assert len(lines) > 10
    for command, *rest in {tuple(line.split()) for line in lines}:
        asked = [command, rest[0]] if command == "keys" else [command]
        with pytest.raises(SystemExit) as ended:
            cli.main([*asked, "--help"])
        assert ended.value.code == 0, command
        told = capsys.readouterr().out
        assert all(option in told for option in rest if option.startswith("--")), (command, rest)


def test_every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    fires, silent = set[str](), set[str]()
    for path in TESTS:
        for group in YAML(typ="safe").load(path)["tests"]:
            for one in group.get("alert_rule_test", ()):
                (fires if one["exp_alerts"] else silent).add(one["alertname"])
    assert fires == ALERTS.keys()
    assert silent == ALERTS.keys()


# -- what rules and runbooks read --


def test_rules_and_runbooks_read_only_what_is_exported() -> None:
    told = [(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()]
    told += [(page.name, query) for page in RUNBOOKS.glob("*.md") for query in queries_of(page.read_text("utf-8"))]
    for where, query in told:
        assert not complaints(query), f"{where}: {complaints(query)} in {query}"


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ('sum by (team) (rate(pointsman_requests_total{code="ok"}[5m]))', []),
        ('rate(pointsman_request_total{code="ok"}[5m])', ["pointsman_request_total"]),
        ('pointsman_requests_total{kode="ok", rule=~"a|b"}', ["pointsman_requests_total{kode}"]),
        ("sum by (flavour) (pointsman_requests_total)", ["flavour"]),
        ("pointsman_config_last_reload_success{le='1'}", ["pointsman_config_last_reload_success{le}"]),
        ("job:pointsman_answers:rate1y", ["job:pointsman_answers:rate1y"]),
        ('job:pointsman_answers:rate15m{target="t"}', ["job:pointsman_answers:rate15m{target}"]),
    ],
)
def test_a_metric_or_a_label_that_nobody_exports_is_noticed(query: str, told: list[str]) -> None:
    assert complaints(query) == told


def test_a_failed_request_is_one_that_the_user_could_not_help() -> None:
    failed = {code for code, (status, _) in CODES.items() if status >= 500} | {"upstream_rate_limited"}
    matched = {one for path in RULES for one in re.findall(r'code=~"([^"]*)"', path.read_text("utf-8"))}
    assert len(matched) == 2, "failed, and failed or ok"
    for pattern in matched:
        named = {code for code in [*CODES, "ok", "client_gone"] if re.fullmatch(pattern, code)}
        assert named == (failed | {"ok"} if pattern.startswith("ok|") else failed)


def test_a_series_is_over_the_time_that_its_name_says() -> None:
    timed = 0
    for rule in rules():
        named = re.search(r":[a-z0-9_]*?([0-9]+[mhd])$", rule.get("record", ""))
        if named:
            spans = set(re.findall(r"\[(\w+)\]", rule["expr"]))
            assert spans <= {named[1]}, rule["record"]
            assert spans or f"rate{named[1]}" in rule["expr"] or f"count{named[1]}" in rule["expr"], rule["record"]
            timed += 1
    assert timed > 30


@pytest.mark.parametrize("promise", ["ErrorBudget", "FirstEventBudget"])
def test_burn_rates_and_windows_are_those_of_the_workbook(promise: str) -> None:
    """Two a severity: (burn rate, long window, short window), each window at the same burn rate."""
    expected = {"Fast": [("14.4", "1h", "5m"), ("6", "6h", "30m")], "Slow": [("3", "1d", "2h"), ("1", "3d", "6h")]}
    for speed, pairs in expected.items():
        found = re.findall(r":ratio_rate(\w+) > ([\d.]+) \*", ALERTS[f"Pointsman{promise}Burn{speed}"]["expr"])
        assert found == [(window, rate) for rate, long, short in pairs for window in (long, short)]


def test_values_of_labels_that_rules_compare_with_exist() -> None:
    states = set(re.findall(r'"(\w+)"', inspect.getsource(_Entry.state) + inspect.getsource(Board.states)))
    for rule in rules():
        for pattern in re.findall(r'state=~"([^"]*)"', rule["expr"]):
            assert set(pattern.split("|")) <= states, pattern
        for bound in re.findall(r'le="([^"]*)"', rule["expr"]):
            assert bound in map(str, DURATION_BUCKETS_S), bound


# -- what the page says --


def test_the_page_lists_every_alert_as_it_is() -> None:
    rows = re.findall(r"^\| \[(\w+)\]\(runbooks/(\w+)\.md\) \| (\w+) \| [^|]+ \| (\w+) \|", PAGE, re.MULTILINE)
    assert rows == [(name, name, rule["labels"]["severity"], rule["for"]) for name, rule in ordered()]


def ordered() -> list[tuple[str, dict[str, Any]]]:
    """The alerts in the page's order, which begins with what users notice."""
    files = [PROMETHEUS / "rules" / f"{name}.yaml" for name in ("slo", "gateway", "upstreams", "money")]
    groups = [group for path in files for group in YAML(typ="safe").load(path)["groups"]]
    return [(rule["alert"], rule) for group in groups for rule in group["rules"] if "alert" in rule]


def test_the_page_names_every_number_and_every_recorded_series() -> None:
    for name in RECORDED:
        short = name.removeprefix("global:pointsman_")
        windows = re.sub(r"_rate(30m|1h|2h|6h|1d|3d)$", "_rate5m", name)
        assert f"`{name}`" in PAGE or f"`{short}`" in PAGE or f"`{windows}`" in PAGE, name
    for name in re.findall(r"`(\w+:pointsman_\w+:\w+)`", PAGE):
        assert name in RECORDED, name


def test_no_number_is_lost_unnoticed() -> None:
    numbers = [name for name in RECORDED if name.startswith("global:")]
    assert ALERTS["PointsmanObjectivesMissing"]["expr"].endswith(f"< {len(numbers)}")
    read = " ".join(rule["expr"] for rule in rules())
    for name in numbers:
        assert f"scalar({name})" in read, f"{name} is read by no rule"


def test_the_example_of_a_route_speaks_of_alerts_and_labels_that_exist() -> None:
    example = YAML(typ="safe").load(PROMETHEUS / "alertmanager.example.yml")
    given = [one["receiver"] for one in (example["route"], *example["route"]["routes"])]
    assert {one["name"] for one in example["receivers"]} == set(given)
    matchers = [one for route in example["route"]["routes"] for one in route["matchers"]]
    for rule in example["inhibit_rules"]:
        matchers += rule["source_matchers"] + rule["target_matchers"]
    for matcher in matchers:
        label, pattern = re.fullmatch(r'(\w+)=~?"(.*)"', matcher).groups()  # type: ignore[union-attr]
        values = ALERTS if label == "alertname" else {rule["labels"].get(label) for rule in ALERTS.values()}
        assert any(re.fullmatch(pattern, value) for value in values if value), matcher
