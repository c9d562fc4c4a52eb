"""The documentation is run: every block of the README and of docs/ by its marker, every link, every test it names."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from gateway.core.errors import ConfigError
from gateway.core.servers.rows import DIALECTS
from gateway.core.types import Secret
from gateway.demo import model as demo_model
from gateway.ledger.directory import PostgresSettings
from gateway.site import load_site
from gateway.telemetry.families import FAMILIES
from tests.ports import free_port
from tests.tls import certificate

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
FAULTS = ROOT / "tests" / "faults" / "README.md"
DOCS = ROOT / "docs"
PAGES = (README, *sorted(DOCS.glob("*.md")))
DOCUMENTS = sorted({*ROOT.glob("*.md"), *PAGES, *ROOT.glob("policies/**/*.md"), *ROOT.glob("tests/**/README.md")})
KINDS = {
    "demo",
    "demo output",
    "tests",
    "python",
    "javascript",
    "curl",
    "run",
    "run fails",
    "output",
    "docker",
    "clouds",
    "provider",
    "sidecar",
    "keys",
    "limits",
    "ledger",
    "file",
    "background",
    "promql",
}

needs_model = pytest.mark.skipif(
    bool(demo_model.missing()), reason=f"needs {' and '.join(demo_model.missing())}: {demo_model.INSTALL}"
)
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page and the marker in the line above it."""

    kind: str
    detail: str
    text: str
    at: str


def blocks(*pages: Path) -> list[Block]:
    return [block for page in pages or PAGES for block in blocks_of(page)]


def blocks_of(page: Path) -> list[Block]:
    found = []
    lines = page.read_text(encoding="utf-8").splitlines()
    at = 0
    while at < len(lines):
        if lines[at].startswith("```"):
            end = lines.index("```", at + 1)
            marker = re.fullmatch(r"<!-- ([a-z ]+?)(?:: (.+))? -->", lines[at - 1])
            place = f"{page.name}:{at + 1}"
            assert marker, f"{place}: a block without a marker is run by nobody"
            found.append(Block(marker[1], marker[2] or "", "\n".join(lines[at + 1 : end]) + "\n", place))
            at = end
        at += 1
    return found


def the(kind: str) -> str:
    [block] = [block for block in blocks() if block.kind == kind]
    return block.text


def matches(expected: str, printed: str) -> None:
    """Every line of `expected` is a line of `printed`, in this order; `...` stands for anything."""
    rest = printed.replace("\r", "").splitlines()
    for line in expected.splitlines():
        pattern = re.compile(".*".join(map(re.escape, line.split("..."))))
        place = next((at for at, one in enumerate(rest) if pattern.fullmatch(one)), None)
        assert place is not None, f"{line!r} is not in\n{printed}"
        rest = rest[place + 1 :]


def test_every_block_has_a_marker_that_means_something() -> None:
    assert {block.kind for block in blocks()} <= KINDS


def anchors(page: Path) -> set[str]:
    """What links may name after `#`: GitHub's form of each heading."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if not link.startswith("http"):
            path, _, heading = link.partition("#")
            page = document.parent / path if path else document
            assert page.exists(), f"{document.name}: {link}"
            assert not heading or heading in anchors(page), f"{document.name}: {link}"


def test_every_page_of_docs_is_a_click_away() -> None:
    text = README.read_text(encoding="utf-8")
    for page in PAGES[1:]:
        assert f"](docs/{page.name})" in text, page.name


def test_metrics_that_pages_name_exist() -> None:
    exported = {family.name for family in FAMILIES}
    named = {name for page in PAGES for name in re.findall(r"`(pointsman_\w+)`", page.read_text(encoding="utf-8"))}
    assert "pointsman_cost_usd_total" in named
    assert named <= exported


@pytest.mark.parametrize(
    "page", [README, DOCS / "guarantees.md", FAULTS, ROOT / "SECURITY.md"], ids=lambda page: str(page.relative_to(ROOT))
)
def test_every_guarantee_and_fault_names_a_test_that_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    if page == README:
        text = text.partition("\n## What is guaranteed\n")[2].partition("\n## ")[0]
    lines = text.splitlines()
    rows = [
        row
        for row, after in zip(lines, [*lines[1:], ""], strict=True)
        if row.startswith("| ") and not after.startswith("|--")
    ]
    assert len(rows) >= (8 if page != FAULTS else 0)
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, row
        for path, test in named:
            assert re.search(
                rf"^\s*(?:async )?(?:def|class) {test}\b", (ROOT / path).read_text(encoding="utf-8"), re.M
            ), test


def test_the_readme_says_of_every_dialect_whether_it_was_seen_live() -> None:
    rows = re.findall(r"^\| (live|documented): [^|]*\| ([^|]*)\|$", README.read_text(encoding="utf-8"), re.M)
    told = {name: seen for seen, names in rows for name in re.findall(r"`([^`]+)`", names)}
    assert told.keys() == DIALECTS.keys()
    for name, seen in told.items():
        index = json.loads((ROOT / "tests" / "wire" / name / "index.json").read_text(encoding="utf-8"))
        assert {case["seen"] for case in index["cases"].values()} == {seen}, name


def test_the_table_of_dialects_lists_those_that_exist_as_they_are() -> None:
    """Whoever adds a dialect adds its row, and says there no more than tests/wire and `core.servers.rows` do."""
    text = (DOCS / "backends.md").read_text(encoding="utf-8")
    table = text[text.index("| Dialect |") : text.index("`live`: recorded")]
    rows = [[cell.strip() for cell in row.split(" | ")] for row in table.splitlines()[2:] if row.startswith("| `")]
    listed = {row[0].strip("|` "): row for row in rows}
    assert set(listed) == set(DIALECTS)
    for name, (_, _, key, switch, reasoning, usage, seen) in listed.items():
        dialect = DIALECTS[name]
        index = json.loads((ROOT / "tests" / "wire" / name / "index.json").read_text(encoding="utf-8"))
        found = {case["seen"] for case in index["cases"].values()}
        assert seen.strip("| ") == (found.pop() if len(found) == 1 else "both"), name
        assert ("auth:" in key or key == "Bearer") if dialect.auth[1] else f"`{dialect.auth[0]}`" in key, name
        spelling = dialect.thinking
        told = re.findall(r"`([\w.]+)`", switch)
        if spelling.exists:
            assert told[0] == (spelling.switch or spelling.effort), name
            assert spelling.budget is None or spelling.budget in told, name
            assert ("switchable" in switch) == (not spelling.sure), name
        else:
            assert switch.startswith("not known"), name
        assert reasoning.partition(",")[0] == (f"`{dialect.reasoning}`" if dialect.reasoning else "not known"), name
        assert usage, name


def test_the_ledger_of_many_replicas_loads_as_written(tmp_path: Path) -> None:
    fleet = "backends: {a: {dialect: vllm, base_url: http://127.0.0.1:1/v1}}\n"
    fleet += "targets: {a: {model: llama-3.1-8b, backend: a, window: 8k}}\n"
    (tmp_path / "pointsman.yaml").write_text(fleet + the("ledger"), encoding="utf-8")
    (tmp_path / "db-ca.pem").write_bytes(certificate(tmp_path / "tls").authority.read_bytes())
    found = load_site(tmp_path / "pointsman.yaml", {"POINTSMAN_POSTGRES_PASSWORD": "pw"}).ledger
    assert found is not None
    assert found.postgres == PostgresSettings(
        "db.example.org", 5432, "pointsman", "pointsman", Secret("pw"), True, tmp_path / "db-ca.pem"
    )


def test_the_backends_of_the_clouds_load_as_written(tmp_path: Path) -> None:
    """Without their secrets, which nobody has here; with them it is `test_auth` and `test_doors`."""
    (tmp_path / "pointsman.yaml").write_text(the("clouds"), encoding="utf-8")
    site = load_site(tmp_path / "pointsman.yaml", {}, secrets=False, tests=False)
    assert {one.backend.dialect: one.backend.region for one in site.fleet.targets} == {
        "bedrock": "eu-west-1",
        "vertex": "us-east5",
        "azure": None,
    }
    with pytest.raises(ConfigError) as caught:
        load_site(tmp_path / "pointsman.yaml", {}, tests=False)
    told = str(caught.value)
    for missing in ("AWS_ACCESS_KEY_ID is not set", "service-account.json cannot be read", "AZURE_API_KEY is not set"):
        assert missing in told


def test_the_sidecar_s_backend_loads_as_written(tmp_path: Path) -> None:
    (tmp_path / "pointsman.yaml").write_text(the("sidecar"), encoding="utf-8")
    site = load_site(tmp_path / "pointsman.yaml", {}, secrets=False, tests=False)
    [target] = site.fleet.targets
    assert (target.backend.dialect, target.model.id) == ("litellm", "llama-3.3-70b")
    assert target.window, "the catalogue's, by the provider that the backend names"


def test_a_key_loads_as_written(tmp_path: Path) -> None:
    servers = "backends: {a: {dialect: vllm, base_url: 'http://10.0.0.7/v1'}}\n"
    targets = "targets: {q: {model: qwen3.5-9b, backend: a, window: 32k, price: none}}\n"
    (tmp_path / "pointsman.yaml").write_text(servers + targets + the("keys"), encoding="utf-8")
    site = load_site(tmp_path / "pointsman.yaml", {}, tests=False)
    assert hashlib.sha256(b"sk-example-change-me").digest() in site.keys


def test_the_limits_load_as_written(tmp_path: Path) -> None:
    backend = "backends: {vllm-eu: {dialect: vllm, base_url: 'http://10.0.0.7/v1'}}\n"
    (tmp_path / "pointsman.yaml").write_text(backend + the("limits").replace('"..."', '"' + "0" * 64 + '"'))
    site = load_site(tmp_path / "pointsman.yaml", {}, secrets=False, tests=False)
    assert {(scope, name) for scope, name, _ in site.quotas.all()} == {
        ("key", "checkout"), ("team", "shop"), ("target", "scout-eu"),
    }  # fmt: skip


def test_ci_runs_the_test_command_as_the_readme_has_it() -> None:
    extract = re.search(r"^tests=\$\((.*)\)$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.M)
    assert extract is not None
    run = subprocess.run(["bash", "-c", extract[1]], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == the("tests")
    assert the("tests").count("\n") == 1
    assert the("demo").count("\n") == 1


def test_shell_blocks_are_valid_shell_and_name_what_compose_needs() -> None:
    for block in blocks():
        if block.kind in {"demo", "tests", "run", "run fails", "curl", "background", "docker"}:
            subprocess.run(["bash", "-n", "-c", block.text], check=True)
    files = [ROOT / "docker-compose.yml", ROOT / "docker-compose.replicas.yml"]
    text = re.sub(r"#.*", "", "\n".join(path.read_text(encoding="utf-8") for path in files))
    needed = {*re.findall(r"\$\{?(\w+)", text), *re.findall(r"environment: (\w+)", text)}
    exported = [set(re.findall(r"(\w+)=\$\(", block.text)) for block in blocks() if block.kind == "docker"]
    assert all(exported), "each block exports the secrets"
    assert set().union(*exported) <= needed
    assert {*re.findall(r"environment: (\w+)", text)} <= set().union(*exported)


# --- what an application developer pastes, while the demo runs ---


@pytest.fixture(scope="module")
def demo_port() -> Iterator[int]:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway.cli", "demo", "--port", str(port), "--admin-port", "0"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    printed = ""
    for line in process.stdout:
        printed += line
        if "Admin:" in line:
            break
    try:
        assert process.poll() is None, printed
        matches(the("demo output"), printed)
        yield port
    finally:
        process.terminate()
        process.communicate(timeout=10)


@needs_model
def test_the_python_snippet_gets_an_answer(demo_port: int) -> None:
    script = the("python").replace("8080", str(demo_port))
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip(), "an answer; what so small a model says is not ours to judge"


@needs_curl
@needs_model
def test_the_curl_line_shows_the_decision_and_streams(demo_port: int) -> None:
    script = the("curl").replace("8080", str(demo_port))
    run = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert run.stdout.startswith("HTTP/1.1 200"), run.stdout + run.stderr
    assert "x-pointsman-rule: non-english\n" in run.stdout.replace("\r", "")
    assert run.stdout.rstrip().endswith("data: [DONE]")


@needs_model
def test_the_node_snippet_gets_an_answer(demo_port: int, tmp_path: Path) -> None:
    if not shutil.which("npm"):
        pytest.skip("Node.js and npm are not installed")
    install = ["npm", "install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "openai@6.49.0"]
    done = subprocess.run(install, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        pytest.skip(f"npm could not install the SDK: {done.stderr[-200:]}")
    (tmp_path / "snippet.mjs").write_text(the("javascript").replace("8080", str(demo_port)), encoding="utf-8")
    run = subprocess.run(["node", "snippet.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip(), "an answer; what so small a model says is not ours to judge"


# --- what a platform engineer does, from top to bottom ---


class Folder:
    """An empty folder in which the README is followed, on ports that are free."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ports = {name: str(free_port()) for name in ("8080", "8081", "8082", "4318")}
        self.started: list[subprocess.Popen[bytes]] = []
        self.printed = ""
        programs = path / ".bin"
        programs.mkdir()
        for name, module in (("pointsman", "-m gateway.cli"), ("python", "")):
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n', encoding="utf-8")
            program.chmod(0o755)
        self.environ = {
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "XDG_CACHE_HOME": str(path / ".cache"),
            "XDG_STATE_HOME": str(path / ".state"),
        }

    def here(self, text: str) -> str:
        written = "|".join(map(re.escape, self.ports))  # at once: a port put in may hold one that is written
        return re.sub(written, lambda found: self.ports[found[0]], text) if written else text

    def follow(self, block: Block) -> None:
        text = self.here(block.text)
        if block.kind == "file":
            file = self.path / block.detail
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
        elif block.kind in {"run", "run fails"}:
            run = subprocess.run(
                ["bash", "-ec", text],
                cwd=self.path,
                env=self.environ,
                capture_output=True,
                text=True,
                timeout=90,
                check=False,
            )
            self.printed = run.stdout + run.stderr
            assert (run.returncode != 0) == (block.kind == "run fails"), f"{block.at}\n{self.printed}"
        elif block.kind == "background":
            self.start(text, self.ports[block.detail])
        elif block.kind == "output":
            matches(text, self.printed)

    def start(self, text: str, port: str) -> None:
        log = (self.path / f".log-{port}").open("wb")
        process = subprocess.Popen(
            ["bash", "-c", f"exec {text}"],
            cwd=self.path,
            env=self.environ,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )
        log.close()
        self.started.append(process)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            assert process.poll() is None, (self.path / f".log-{port}").read_text()
            for path in ("healthz", "health"):  # the gateway's, llama.cpp's
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"http://127.0.0.1:{port}/{path}", trust_env=False).status_code == 200:
                        return
            time.sleep(0.1)
        raise AssertionError(f"{text} does not answer")

    def end(self) -> None:
        for process in self.started:
            process.send_signal(signal.SIGTERM)
        for process in self.started:
            process.wait(10)
            if process.stdin is not None:
                process.stdin.close()


@needs_curl
@needs_model
@pytest.mark.parametrize(
    "page",
    [README, *(DOCS / f"{name}.md" for name in ("init-and-probe", "records", "ledger", "opentelemetry"))],
    ids=lambda path: path.name,
)
def test_what_a_page_does_from_top_to_bottom_works_as_written(page: Path, tmp_path: Path) -> None:
    if page.name == "opentelemetry.md":
        pytest.importorskip("opentelemetry.proto", reason="needs the extra otlp")
    folder = Folder(tmp_path)
    try:
        for block in blocks(page):
            folder.follow(block)
    finally:
        folder.end()


# --- the two lines, on a machine that has only Python and pip ---


@needs_model
@pytest.mark.skipif("CI" not in os.environ, reason="installs 300 MB into a fresh environment: runs in CI")
def test_the_demo_line_works_in_a_fresh_clone(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    line = the("demo").strip() + " --port 0 --admin-port 0 --once"
    run = subprocess.run(["bash", "-c", line], cwd=clone, capture_output=True, text=True, timeout=400, check=False)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert run.stdout.count("answers: ") >= 3
