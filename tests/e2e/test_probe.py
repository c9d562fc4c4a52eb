"""`init` and `probe` against a real llama.cpp with a real model: what is written is what the server does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.demo import model as demo_model
from gateway.site import load_site
from tests.harness import chat, serving

pytestmark = pytest.mark.skipif(
    bool(demo_model.missing()), reason=f"needs {' and '.join(demo_model.missing())}: {demo_model.INSTALL}"
)


@pytest.fixture(scope="module")
def model() -> Iterator[str]:
    """Where the model server listens."""
    with subprocess.Popen(
        [sys.executable, "-m", "gateway.demo.model"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"]
        process.stdin.close()
        process.wait(30)


def seen(capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[str, str]]:
    [target] = json.loads(capsys.readouterr().out)["targets"]
    return {row["check"]: (row["seen"], row["verdict"]) for row in target["checks"]}


def test_a_real_server_is_taken_up_probed_and_recorded(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "--backend", f"llama.cpp={model}", "--family", "smollm", "--thinking", "unknown"]) == 0
    [before] = load_site(Path("pointsman.yaml"), {}).fleet.targets
    assert (before.upstream_id, before.window) == (demo_model.ALIAS, demo_model.WINDOW_TOKENS)
    capsys.readouterr()

    assert main(["probe", "--json"]) == 1
    found = seen(capsys)
    assert found["thinking"] == ("switchable", "differs")  # the demo's template heeds the switch
    assert found["window"] == (f"{demo_model.WINDOW_TOKENS:,}", "same")
    assert found["overflow"] == ("refused as context_length", "same")
    assert found["structured_output"] == ("yes", "same")
    assert found["usage"] == ("plain yes, streams in a last chunk of its own", "note")

    text = Path("pointsman.yaml").read_text().replace("window: 8192", "window: 16k")
    Path("pointsman.yaml").write_text(text)
    assert main(["probe", "--json", "--write"]) == 0
    capsys.readouterr()
    [after] = load_site(Path("pointsman.yaml"), {}).fleet.targets
    assert (after.thinking, after.window) == ("switchable", demo_model.WINDOW_TOKENS)
    main(["probe", "--json"])
    found = seen(capsys)
    del found["tools"]  # whether so small a model makes a call is not certain
    assert {verdict for _, verdict in found.values()} <= {"same", "note"}, found


def test_what_init_writes_serves(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "pointsman.yaml"
    arguments = ["--family", "smollm", "--thinking", "switchable", "--key", "app", "--config", str(config)]
    arguments += ["--public", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    assert main(["init", "--backend", f"llama.cpp={model}", *arguments]) == 0
    [key] = re.findall(r"sk-pm-[0-9A-Za-z]{38}", capsys.readouterr().out)
    with serving(config) as gateway:
        answer = gateway.post(chat("auto", max_tokens=8), key=key)
        assert (answer.status_code, answer.headers["x-pointsman-thinking"]) == (200, "never"), answer.text
        assert gateway.post(chat("auto"), key="sk-another-0123456789").status_code == 401
