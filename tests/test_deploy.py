"""What deploy/ and docker-compose.yml promise, judged by the real tools where they are installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from ruamel.yaml import YAML

from deploy.grafana.__main__ import files
from gateway.site import load_site
from tests.e2e.dashboards import BOARDS, asks, filled, panels
from tests.test_alerts import complaints, queries_of

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
SECRETS = {
    "POINTSMAN_ADMIN_KEY": "secret-of-the-admin",
    "GRAFANA_ADMIN_PASSWORD": "secret-of-grafana",
    "POINTSMAN_POSTGRES_PASSWORD": "secret-of-postgres",
}
#: Compose's files: one gateway, and three of them.
ONE, THREE = ("docker-compose.yml",), ("docker-compose.yml", "docker-compose.replicas.yml")


def installed(*names: str) -> str:
    """Path of the first of these programs, next to the interpreter or on the PATH; skips where there is none."""
    for name in names:
        found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
        if found:
            return found
    pytest.skip(f"{names[0]} is not installed")


def compose(files: tuple[str, ...], *options: str) -> subprocess.CompletedProcess[str]:
    program = installed("docker-compose")
    options = (*(word for name in files for word in ("-f", name)), *options)
    environ = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **SECRETS}
    return subprocess.run([program, *options], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module", params=[ONE, THREE], ids=["one", "three"])
def composed(request: pytest.FixtureRequest) -> dict[str, Any]:
    done = compose(request.param, "config", "--format", "json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found | {"files": request.param}


@pytest.fixture
def services(composed: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = composed["services"]
    return found


def gateways(services: dict[str, Any]) -> list[str]:
    return [name for name, service in services.items() if service["image"] == "pointsman"]


def test_compose_itself_accepts_the_files(composed: dict[str, Any], services: dict[str, Any]) -> None:
    more = {"gateway-2", "gateway-3", "balancer", "valkey", "postgres"} if composed["files"] == THREE else set()
    assert services.keys() == {"gateway", "prometheus", "grafana"} | more
    assert "warn" not in compose(composed["files"], "config", "--quiet").stderr.lower()


def test_every_gateway_keeps_books_of_its_own_by_a_name_of_its_own(services: dict[str, Any]) -> None:
    """Two that shared a folder could not start; two of one name could not be told apart."""
    books = [
        one["source"] for name in gateways(services) for one in services[name]["volumes"] if one["type"] == "volume"
    ]
    names = [services[name].get("hostname") for name in gateways(services)]
    assert len(set(books)) == len(set(names)) == len(gateways(services)) in (1, 3)


def test_the_store_and_the_books_of_all_are_reached_by_gateways_only(services: dict[str, Any]) -> None:
    within = {name for name, service in services.items() if "state" in service["networks"]}
    assert within == ({*gateways(services), "valkey", "postgres"} if len(gateways(services)) > 1 else set())
    for name in within - {*gateways(services)}:
        assert services[name]["networks"].keys() == {"state"}
        assert not services[name].get("ports")


def test_the_load_balancer_and_prometheus_know_every_gateway(
    composed: dict[str, Any], services: dict[str, Any]
) -> None:
    mounted = {one["target"]: Path(one["source"]) for one in services["prometheus"]["volumes"] if one["type"] == "bind"}
    [asked] = YAML(typ="safe").load(mounted["/etc/prometheus/gateways.yml"])
    assert set(asked["targets"]) == {f"{name}:8081" for name in gateways(services)}
    if composed["files"] == THREE:
        [volume] = services["balancer"]["volumes"]
        servers = re.findall(r"^ *server ([\w-]+):8080 ", Path(volume["source"]).read_text(), re.MULTILINE)
        assert set(servers) == {*gateways(services)}


def test_every_service_has_a_health_check_and_bounded_rights(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["healthcheck"]["test"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name


def test_the_admin_listener_is_reached_by_prometheus_and_not_from_outside(
    composed: dict[str, Any], services: dict[str, Any]
) -> None:
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert {port["target"] for port in published} == {8080, 3000}
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}
    for name in gateways(services):
        assert set(services[name]["networks"]) & set(services["prometheus"]["networks"]) == {"metrics"}
    others = {name for name, service in services.items() if "metrics" in service["networks"]}
    assert others == {*gateways(services), "prometheus"}
    assert composed["networks"]["metrics"]["internal"] is True


def test_no_secret_is_in_the_file_nor_in_a_container_s_environment(
    composed: dict[str, Any], services: dict[str, Any]
) -> None:
    rendered = compose(composed["files"], "config").stdout
    for secret in SECRETS.values():
        assert secret not in rendered
    for name, service in services.items():
        for key, value in (service.get("environment") or {}).items():
            if re.search(r"PASSWORD|SECRET|TOKEN|KEY", key):
                assert str(value).startswith("/run/secrets/"), f"{name}: {key}"


def test_no_service_with_a_secret_from_the_environment_is_read_only(services: dict[str, Any]) -> None:
    """Compose copies such a secret into the container when it is created, and fails where it may not write."""
    assert not [name for name, service in services.items() if service.get("secrets") and service.get("read_only")]


def test_every_file_a_service_mounts_is_in_the_repository(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for volume in service.get("volumes", []):
            if volume["type"] == "bind":
                assert Path(volume["source"]).exists(), f"{name}: {volume['source']}"


def test_every_image_is_pinned_to_a_version(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert "build" in service or re.search(r":v?\d+\.\d+", service["image"]), name
    stages = re.findall(r"^FROM (\S+)", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert len(stages) == 2
    assert all(re.search(r":\d+\.\d+", stage) for stage in stages)


def test_the_dockerfile_passes_its_linter() -> None:
    done = subprocess.run([installed("hadolint"), str(DEPLOY / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_image_is_built_from_files_that_exist_and_runs_as_nobody_special() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    allowed = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().split() if line.startswith("!")}
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert source in allowed, f"{source} is kept out of the build context"
            assert (ROOT / source).exists(), f"{source} does not exist"
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE) == ["10001"]
    assert "--require-hashes" in text


def test_prometheus_accepts_its_configuration() -> None:
    promtool = installed("promtool")
    done = subprocess.run(
        [promtool, "check", "config", "--syntax-only", str(DEPLOY / "prometheus" / "prometheus.yml")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_accepts_its_configuration_elsewhere_as_the_header_says(tmp_path: Path) -> None:
    """Without an admin key and without model servers, all files included."""
    promtool = installed("promtool")
    shutil.copytree(DEPLOY / "prometheus", tmp_path, dirs_exist_ok=True)
    config = tmp_path / "prometheus.yml"
    header = config.read_text().partition("global:")[0]
    assert "delete `authorization`" in header
    assert "nothing but []" in header
    made = YAML(typ="safe").load(config)
    for job in made["scrape_configs"]:
        job.pop("authorization", None)
    config.write_text(json.dumps(made))
    (tmp_path / "backends.yml").write_text("[]")
    done = subprocess.run([promtool, "check", "config", str(config)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_s_prometheus_reads_the_rules_and_keeps_what_objectives_look_back_on(services: dict[str, Any]) -> None:
    prometheus = services["prometheus"]
    mounted = {one["target"]: Path(one["source"]) for one in prometheus["volumes"] if one["type"] == "bind"}
    settings = YAML(typ="safe").load(mounted["/etc/prometheus/prometheus.yml"])
    for pattern in settings["rule_files"]:
        folder, _, name = pattern.partition("/")
        assert list(mounted[f"/etc/prometheus/{folder}"].glob(name)), pattern
    [days] = re.findall(r"retention\.time=(\d+)d", " ".join(prometheus["command"]))
    assert int(days) > 30, "the objectives are over 30 days"


def test_the_committed_dashboards_are_what_their_generator_writes() -> None:
    wanted = files()
    there = {path: path.read_text("utf-8") for path in (DEPLOY / "grafana" / "dashboards").iterdir()}
    assert there == wanted, "run: python -m deploy.grafana"


@pytest.mark.parametrize("board", BOARDS)
def test_a_dashboard_holds_nothing_that_grafana_s_own_model_does_not_know(board: str) -> None:
    read = json.loads(json.dumps(Dashboard.from_json(BOARDS[board]), cls=JSONEncoder))
    assert read == BOARDS[board]
    heat = [panel["options"]["color"] for panel in panels(board) if panel["type"] == "heatmap"]
    assert all(one["steps"] >= 2 and one["exponent"] > 0 for one in heat), "the model's defaults are no colours"


def test_dashboards_ask_only_for_metrics_and_labels_that_somebody_exports() -> None:
    wrong = {f"{ask.board}: {ask.title}: {complaints(ask.query)}" for ask in asks() if complaints(ask.query)}
    assert {one for one in wrong if not re.search(r"(vllm|llamacpp):|model_name|ALERTS", one)} == set()


@pytest.mark.parametrize("board", BOARDS)
def test_panels_say_what_they_show_and_do_not_overlap(board: str) -> None:
    taken: set[tuple[int, int]] = set()
    titles = []
    for panel in BOARDS[board]["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
        if panel["type"] != "row":
            titles.append(panel["title"])
            assert len(re.findall(r"[.?](?= |$)", panel["description"])) >= 2, f"{panel['title']}: what to do?"
    assert len(titles) == len(set(titles)), "two panels of one name"


def test_the_page_on_dashboards_names_panels_that_there_are() -> None:
    page = (ROOT / "docs" / "dashboards.md").read_text("utf-8")
    named = re.findall(r"\*(\w+): ([^*|]+)\*", page)
    assert len(named) > 30
    there = {(board.title(), panel["title"]) for board in BOARDS for panel in panels(board)}
    assert set(named) - there == set()


def test_a_sum_over_a_month_is_no_finer_than_prometheus_can_bear() -> None:
    finely = [ask.panel for ask in asks() if "$__interval]" in ask.query]
    assert len(finely) > 10
    assert {(panel["interval"], panel["maxDataPoints"]) for panel in finely} == {("1m", 1500)}


def test_the_queries_of_the_page_are_those_of_panels_without_choices() -> None:
    asked = queries_of((ROOT / "docs" / "dashboards.md").read_text("utf-8"))
    panel = {(ask.board, ask.title): ask.query for ask in reversed(asks())}
    wanted = []
    for of, chosen in [
        (("cost", "Teams"), "1d"),
        (("cost", "Spent by rule"), "1d"),
        (("latency", "Our part of the wait"), "1h"),
    ]:
        bare = re.sub(r'\{(\w+=~"\$\w+",?)*\}', "", panel[of])
        wanted.append(filled(bare, now=chosen, chosen=chosen))
    assert ["".join(query.split()) for query in asked] == ["".join(query.split()) for query in wanted]
    assert not [complaints(query) for query in asked if complaints(query)]


@pytest.mark.parametrize("board", BOARDS)
def test_a_dashboard_asks_for_no_choice_that_changes_nothing(board: str) -> None:
    used = set(re.findall(r"=~\"\$(\w+)\"", " ".join(ask.query for ask in asks() if ask.board == board)))
    offered = {one["name"] for one in BOARDS[board]["templating"]["list"] if one["type"] == "query"}
    assert used == offered


@pytest.mark.parametrize("board", BOARDS)
def test_a_click_leads_from_a_dashboard_to_the_others(board: str) -> None:
    made = BOARDS[board]
    [link] = made["links"]
    assert link["includeVars"]
    assert link["keepTime"]
    assert set(link["tags"]) <= set(made["tags"])
    uids = {one["uid"] for one in BOARDS.values()}
    for panel in made["panels"]:
        for more in panel.get("links", []):
            assert re.match(r"/d/([\w-]+)\?", more["url"])[1] in uids, panel["title"]  # type: ignore[index]


@pytest.mark.parametrize("name", ["pointsman.yaml", "replicas.yaml"])
def test_the_example_configuration_loads_and_lets_nobody_in(name: str) -> None:
    site = load_site(DEPLOY / "compose" / name, {}, secrets=False, tests=False)
    assert not site.listen_public[0].startswith("127.")
    assert "0" * 64 in (DEPLOY / "compose" / name).read_text(), "no key may be known to everybody"
