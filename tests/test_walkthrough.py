"""A constraint of one's own, from an empty folder to the comment on its pull request: policies/README.md, walked."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from gateway.cli import main

README = Path(__file__).parents[1] / "policies" / "README.md"
SECTION = README.read_text(encoding="utf-8").partition("## A constraint of your own\n")[2].partition("\n## ")[0]
PART = re.findall(r"^```yaml\n# health\.part\.yaml\n(.*?)^```$", SECTION, re.M | re.S)[0]
ACCEPT = re.findall(r"^       accept:\n(?:         .*\n)+", SECTION, re.M)[0]


def commands() -> list[list[str]]:
    """Every command of the section, in its order."""
    return [line.split()[1:] for line in re.findall(r"`(pointsman [^`]*)`", SECTION)]


def git(*arguments: str) -> None:
    who = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *who, *arguments], check=True, capture_output=True)


def test_the_section_names_every_command_that_is_walked_here() -> None:
    assert commands() == [
        ["init"],
        ["test", "--mutants", "health.part.yaml"],
        ["check", "--strict"],
        ["explain", "--key", "ward", "--text", '"Hello"'],
        ["explain", "--diff", "origin/main"],
    ]


def test_a_newcomer_gets_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    server = ["--backend", "vllm=http://127.0.0.1:9/v1", "--model", "qwen3.5-35b-a3b", "--window", "128k"]
    assert main(["init", "--offline", "--key", "ward", *server]) == 0
    git("init", "-q", "-b", "main")
    git("add", "-A")
    git("commit", "-qm", "what there is")
    config, part = Path("pointsman.yaml"), Path("health.part.yaml")
    part.write_text(PART, encoding="utf-8")
    assert main(["test", "--mutants", "health.part.yaml"]) == 0
    assert "5 changes noticed, 0 not" in capsys.readouterr().out

    said = "policies: {default: default, overlays: [health.part.yaml]}"
    assert said in SECTION
    text = config.read_text(encoding="utf-8").replace("policies: {default: default}", said)
    text = text.replace('allow: ["*"]', 'tenant: {team: health}, allow: ["*"]')
    config.write_text(text, encoding="utf-8")
    assert main(["check", "--strict"]) == 1
    assert "health.part.yaml:4: warning: health-at-home: leaves no target for any rule" in capsys.readouterr().out
    assert main(["explain", "--key", "ward", "--text", "Hello"]) == 1
    assert "not what health-at-home requires: target.region is not known" in capsys.readouterr().out

    config.write_text(text.replace("self_hosted: true,", "self_hosted: true, region: eu,"), encoding="utf-8")
    assert main(["check", "--strict"]) == 1
    told = capsys.readouterr().out
    assert "health-at-home: leaves no target" not in told
    wrong = set(re.findall(r": warning: (\S+): .*\[([a-z-]+)\]", told)) | {
        ("default", code) for code in re.findall(r": warning: all .*\[([a-z-]+)\]", told)
    }
    accept = ACCEPT.replace("       ", "", 1).replace("\n       ", "\n")
    more = "".join(
        f"  - {{finding: {code}, id: {identity}, because: it is so}}\n" for identity, code in sorted(wrong)
        if f"finding: {code}, id: {identity}," not in accept
    )  # fmt: skip
    part.write_text(PART + accept + more, encoding="utf-8")
    assert main(["check", "--strict"]) == 0
    capsys.readouterr()
    assert main(["explain", "--key", "ward", "--text", "Hello"]) == 0
    assert capsys.readouterr().out.startswith("qwen3.5-35b-a3b-local (qwen3.5-35b-a3b) under rule default of default@")
    assert main(["explain", "--diff", "main"]) == 0
    comment = capsys.readouterr().out
    assert "### `default` changed" in comment
    assert "- constraint `health-at-home` **added**" in comment
