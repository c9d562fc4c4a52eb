"""Completion: what real shells are offered, and that no command and no option is forgotten."""

from __future__ import annotations

import argparse
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway import bundled
from gateway.arguments import commands_of, valued
from gateway.cli import SHELLS, parser
from gateway.completion import MOST_BYTES, OFFERS, Here, _Completer, offers
from gateway.core.servers.rows import DIALECTS
from gateway.policyfile import load_catalogue

ROOT = Path(__file__).parent.parent
CONFIG = """\
policies: {dir: rules, default: first}
models: {gpt-4o: auto}
backends:
  local: {dialect: llama.cpp, self_hosted: true, base_url: "http://127.0.0.1:1/v1"}
targets:
  general: {model: qwen3.5-9b, backend: local, window: 8192, price: none}
  coder: {model: qwen3-coder-30b-a3b, backend: local, window: 8192, price: none}
keys:
  - {name: shop, sha256: "%s", tenant: {team: sales, domicile: SG}, allow: [auto]}
""" % ("a" * 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration, a file and a folder, and `pointsman` on a path of its own."""
    here = tmp_path_factory.mktemp("here")
    (here / "pointsman.yaml").write_text(CONFIG, encoding="utf-8")
    (here / "rules").mkdir()
    (here / "rules" / "a.yaml").write_text("policy: first\n", encoding="utf-8")
    (here / "rules" / "b.yaml").write_text('# second\npolicy: "second"\n', encoding="utf-8")
    (here / "rules" / "shared.part.yaml").write_text("part: shared\n", encoding="utf-8")
    (here / "a file.json").write_text("{}", encoding="utf-8")
    (here / "broken.yaml").write_text("targets: [", encoding="utf-8")
    (here / "bin").mkdir()
    program = here / "bin" / "pointsman"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gateway.cli "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    return here


def environ(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "SOME_API_KEY": "sk-never-shown",
    }


#: Asks as bash does when TAB is pressed, one line after the other; what is offered is printed on a line.
ASK = """
source <(pointsman completion bash)
while IFS= read -r line; do
  COMP_LINE="$line" COMP_POINT=${#line} COMP_TYPE=9 COMPREPLY=()
  _python_argcomplete pointsman
  (IFS=,; echo "${COMPREPLY[*]}")
done
"""
OFFERED = {
    "pointsman completion ": set(SHELLS),
    "pointsman che": {"check"},
    "pointsman check --ag": {"--against"},
    "pointsman check --against f": {"fleet"},
    "pointsman check --policy ": {"first", "second"},
    "pointsman probe ": {"general", "coder"},
    "pointsman probe g": {"general"},
    "pointsman explain --down ": {"general", "coder"},
    "pointsman explain --model ": {
        "auto", "auto/first", "auto/second", "gpt-4o", "general", "coder", "qwen3.5-9b", "qwen3-coder-30b-a3b",
    },
    "pointsman explain --key ": {"shop"},
    "pointsman explain --tenant t": {"team="},
    "pointsman explain --header x-pointsman-r": {"x-pointsman-region=", "x-pointsman-residency="},
    "pointsman replay --team ": {"sales"},
    "pointsman usage --by t": {"target", "team", "total"},
    "pointsman usage --model qwen3-": {"qwen3-coder-30b-a3b"},
    "pointsman replay --policy rules/": {"rules/a.yaml", "rules/b.yaml", "rules/shared.part.yaml"},
    "pointsman explain --request a": {"a\\ file.json"},
    "pointsman serve --config r": {"rules/"},
    "pointsman catalog --model llama-4-": {"llama-4-maverick", "llama-4-scout"},
    "pointsman catalog --thinking=s": {"switchable"},
    "pointsman init --backend llama": {"llama.cpp="},
    "pointsman init --key-env SOME": {"SOME_API_KEY"},
    "pointsman top --sort c": {"cost"},
    "pointsman top --url ": set(),
    # nothing is offered, and nothing said, where there is nothing to read
    "pointsman probe --config missing.yaml ": set(),
    "pointsman probe --config broken.yaml ": set(),
}  # fmt: skip


def test_bash_is_offered_what_may_stand_at_the_cursor(folder: Path) -> None:
    asked = subprocess.run(
        ["bash", "--norc", "-c", ASK],
        input="".join(f"{line}\n" for line in OFFERED),
        cwd=folder,
        env=environ(folder),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert asked.stderr == ""
    told = [{word.strip() for word in line.split(",") if word} for line in asked.stdout.split("\n")]
    for (line, wanted), found in zip(OFFERED.items(), told, strict=False):
        assert found == wanted, line


def typed(command: list[str], setup: str, keys: str, wanted: str, folder: Path) -> str:
    """What a shell on a terminal shows after some keys; gives up when what is wanted does not come."""
    ours, theirs = pty.openpty()
    env = environ(folder) | {"TERM": "dumb", "PS1": "$ ", "HISTFILE": "", "INPUTRC": "/dev/null"}
    shell = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=env, start_new_session=True
    )
    os.close(theirs)
    shown = ""

    def until(text: str) -> None:
        nonlocal shown
        ends = time.monotonic() + 20
        while text not in shown and time.monotonic() < ends:
            if select.select([ours], [], [], 0.1)[0]:
                shown += os.read(ours, 4096).decode("utf-8", "replace")

    try:
        os.write(ours, f"{setup}; echo re''ady\n".encode())
        until("ready\r\n")
        shown = ""
        os.write(ours, keys.encode())
        until(wanted)
    finally:
        shell.kill()
        shell.wait(10)
        os.close(ours)
    return shown


def test_bash_on_a_terminal_completes_when_tab_is_pressed(folder: Path) -> None:
    setup = "source <(pointsman completion bash)"
    shown = typed(["bash", "--norc", "--noprofile", "-i"], setup, "pointsman prob\tg\t", "probe general", folder)
    assert "pointsman probe general" in shown


def test_zsh_on_a_terminal_completes_when_tab_is_pressed(folder: Path) -> None:
    if (zsh := shutil.which("zsh")) is None:
        pytest.skip("zsh is not installed")
    setup = "autoload -U compinit; compinit -D; source <(pointsman completion zsh)"
    shown = typed([zsh, "-f", "-i"], setup, "pointsman prob\tg\t", "general", folder)
    assert "probe" in shown
    assert "general" in shown


def test_fish_is_offered_what_may_stand_at_the_cursor(folder: Path) -> None:
    if (fish := shutil.which("fish")) is None:
        pytest.skip("fish is not installed")
    ask = "pointsman completion fish | source; complete -C 'pointsman che'; complete -C 'pointsman probe g'"
    env = environ(folder) | {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder / "config")}
    told = subprocess.run(
        [fish, "--no-config", "-c", ask], cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=True
    )
    first, second = told.stdout.splitlines()
    assert re.fullmatch(r"check\tJudge the configuration.*", first), "with what it does beside it"
    assert second.split("\t")[0] == "general"


# --- nothing forgotten ---


def test_every_value_is_completed_or_said_to_be_nobody_s_but_the_person_s() -> None:
    """A new option without an entry in `completion.OFFERS` fails here, and so does an entry that no option has."""
    used = set()
    for name, command in commands_of(parser()).items():
        for action in valued(command):
            if action.choices is None:
                assert offers(name, action), name
                used |= {f"{name} {action.dest}"} if f"{name} {action.dest}" in OFFERS else {action.dest}
    assert used == set(OFFERS)


def test_lines_of_the_catalogue_s_files_are_read_as_the_catalogue_reads_them(tmp_path: Path) -> None:
    here = Here(tmp_path / "none.yaml", {})
    known = load_catalogue()
    assert set(OFFERS["catalog model"](here, "")) == set(known.models)
    assert set(OFFERS["family"](here, "")) == {model.family for model in known.models.values()}
    assert set(OFFERS["provider"](here, "")) >= {provider for _, provider in known.offers}
    assert {name.rstrip("=") for name in OFFERS["backend"](here, "")} == set(DIALECTS)


def test_a_large_configuration_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pointsman.yaml"
    path.write_text(CONFIG + "#" * 65_536, encoding="utf-8")
    assert list(OFFERS["targets"](Here(path, {}), "")) == []


def test_somebody_else_s_files_can_neither_stop_a_shell_nor_write_into_its_line(tmp_path: Path) -> None:
    (tmp_path / "pointsman.yaml").write_text(
        'targets: {"a\\nb": {}, "\\e[2J": {}, "\\u202e": {}, good: {}}\npolicies: {dir: .}\n', encoding="utf-8"
    )
    os.mkfifo(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("policy: large\n" + "#" * MOST_BYTES, encoding="utf-8")
    (tmp_path / "c.yaml").write_text("policy: mine\x1b[2J\n", encoding="utf-8")
    (tmp_path / "d.yaml").write_text("policy: mine\n", encoding="utf-8")
    asked = argparse.Namespace(config=tmp_path / "pointsman.yaml")
    assert _Completer(OFFERS["targets"], {})(prefix="", parsed_args=asked) == ["good"]
    assert _Completer(OFFERS["policy"], {})(prefix="", parsed_args=asked) == ["mine"]


def test_the_bundled_policies_are_offered_where_the_configuration_names_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "pointsman.yaml"
    path.write_text(CONFIG.replace("dir: rules, ", ""), encoding="utf-8")
    found = list(OFFERS["policy"](Here(path, {}), ""))
    assert {"default", "cost-first"} <= set(found)
    assert len(found) <= len(list(bundled.policies().glob("*.yaml")))


def test_nothing_that_is_offered_waits_for_a_heavy_library(folder: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from gateway.completion import OFFERS, Here; "
        "found = {key: list(offer(Here(Path('pointsman.yaml'), {}), '')) for key, offer in OFFERS.items()}; "
        "assert found['targets'] == ['general', 'coder'], found; print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=environ(folder), capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"pydantic", "fastapi", "httpx", "uvloop", "prometheus_client", "gateway.config"} & set(loaded)


def test_who_does_not_complete_waits_for_no_completion() -> None:
    script = "import sys, gateway.cli; gateway.cli.parser(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"argcomplete", "gateway.yamlfile", "msgspec"} & set(loaded)
