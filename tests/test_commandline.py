"""What every command has in common: help, mistakes, signals, pipes, JSON, and the page that tells of it."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from gateway.arguments import commands_of
from gateway.cli import main, parser
from gateway.keys.secret import whole
from gateway.top.view import GatewayRow, RuleRow, TargetRow, Totals
from tests.harness import Upstream, config, hang

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
COMMANDS = commands_of(parser())
#: Commands that print a report, each with what it cannot do without.
REPORTS = {
    "check": [],
    "probe": [],
    "catalog": [],
    "test": [],
    "replay": ["missing.jsonl", "--policy", "missing.yaml"],
    "savings": ["missing.jsonl", "--baseline", "nothing"],
    "explain": ["--text", "Hello"],
    "usage": [],
    "keys create": ["shop"],
    "keys list": [],
    "keys revoke": ["shop"],
    "keys rotate": ["shop"],
    "keys update": ["shop", "--rpm", "5"],
    "keys show": ["shop"],
    "keys limits": [],
    "top": ["--once"],
    "init": ["--backend", "vllm=nonsense"],
}


def run(*arguments: str, **more: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, text=True, timeout=60, check=False, **more)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["chek"], "there is no command 'chek': did you mean check?"),
        (["xyzzy"], "there is no command 'xyzzy': one of serve, "),
        (["--config", "x.yaml", "serve"], "--config means nothing here: options stand behind the command"),
        (["explain", "--txt", "hi"], "--txt means nothing here: did you mean --text"),
        (["explain", "--txt=hi"], "--txt means nothing here: did you mean --text"),
        (["check", "--jsno"], "--jsno means nothing here: did you mean --json?"),
        (["check", "--js"], "--js means nothing here"),  # not guessed: another option may begin so tomorrow
        (["check", "--against", "flet"], "'flet' means nothing here: did you mean fleet?"),
        (["catalog", "extra"], "extra means nothing here"),
        (["probe", "--timeout", "x"], "'x' is no number of seconds"),
        (["probe", "--timeout", "nan"], "nan is out of range"),
        (["demo", "--port", "eighty"], "'eighty' is no port"),
        (["replay", "--rows", "0"], "0 is out of range"),
        (["help", "chek"], "did you mean check?"),
    ],
)
def test_a_mistake_is_told_with_what_is_near(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert told in said.err
    assert "--help" in said.err
    assert said.out == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_how_it_is_used(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", *(name.split() if name != "help" else [])]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"usage: pointsman {name}" if name != "help" else "usage: pointsman [-h]")
    assert re.search(r"^[A-Z].*\.$", COMMANDS[name].description or ""), "a sentence"
    for action in COMMANDS[name]._actions:
        assert action.help or isinstance(action, argparse._HelpAction) or not action.option_strings, action.dest


def test_options_of_one_name_mean_the_same_everywhere() -> None:
    """A command whose `--json`, say, took a value would surprise whoever knows another command."""
    shapes: dict[str, set[tuple[object, ...]]] = {}
    for command in COMMANDS.values():
        for action in command._actions:
            for option in set(action.option_strings) & {"--config", "--json", "--once", "--no-color", "--policies"}:
                shapes.setdefault(option, set()).add((action.dest, action.nargs, action.type, action.metavar))
    assert {option: len(found) for option, found in shapes.items()} == dict.fromkeys(shapes, 1)


# --- pipes, disks and signals ---


BUFFERING = pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])


@BUFFERING
@pytest.mark.parametrize("arguments", [["--help"], ["catalog", "--source"], ["help", "init"]], ids=" ".join)
def test_a_reader_that_goes_away_is_no_reason_for_a_traceback(arguments: list[str], unbuffered: str) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    told = run(*arguments, stdout=theirs, stderr=subprocess.PIPE, env=env)
    os.close(theirs)
    assert (told.returncode, told.stderr) == (141, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["explain", "--text", "Hello"],
        ["test", "policies/default.yaml"],
        ["check", "--against", "reference", "--policies", "policies/default.yaml"],
        ["probe", "--dry-run"],
        ["init", "--backend", "vllm=http://127.0.0.1:9/v1", "--model", "qwen3.5-9b", "--window", "8k", "--offline"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_reader_that_goes_away_in_the_middle_blames_no_file(arguments: list[str], tmp_path: Path) -> None:
    """Unbuffered, as output is that does not fit into the buffer: it fails where it is printed, not at the end."""
    if arguments[0] == "probe":
        with (tmp_path / "pointsman.yaml").open("w") as file:
            YAML().dump(config({"one": Upstream([hang])}), file)
    if arguments[0] in ("probe", "init"):
        arguments = [*arguments, "--config", str(tmp_path / "pointsman.yaml")]
    ours, theirs = os.pipe()
    os.close(ours)
    told = run(
        *arguments,
        stdout=theirs,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "UPSTREAM_KEY": "sk-x"},
    )
    os.close(theirs)
    assert (told.returncode, "Errno 32" in told.stderr, "Broken pipe" in told.stderr) == (141, False, False), (
        told.stderr
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@BUFFERING
@pytest.mark.parametrize("arguments", [["--help"], ["catalog"]], ids=" ".join)
def test_a_full_disk_is_told_in_a_line(arguments: list[str], unbuffered: str) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        told = run(*arguments, stdout=full, stderr=subprocess.PIPE, env=env)
    assert (told.returncode, told.stderr) == (2, "pointsman: cannot print: No space left on device\n")


def test_ctrl_c_ends_a_probe_at_once_although_a_server_is_still_thinking(tmp_path: Path) -> None:
    upstream = Upstream([hang])
    with (tmp_path / "pointsman.yaml").open("w") as file:
        YAML().dump(config({"slow": upstream}), file)
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway.cli", "probe", "--config", str(tmp_path / "pointsman.yaml")],
        cwd=ROOT,
        env={**os.environ, "UPSTREAM_KEY": "sk-x"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    ends = time.monotonic() + 30
    while not upstream.requests and time.monotonic() < ends:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    upstream.close()
    assert (process.returncode, err) == (130, "")


@pytest.mark.parametrize(("arguments", "colour"), [([], True), (["--no-color"], False)])
def test_the_demo_is_told_to_write_no_colours(
    arguments: list[str], colour: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, object] = {}
    monkeypatch.setattr("gateway.demo.command.run", lambda *_, **named: asked.update(named) or 0)
    assert main(["demo", "--once", *arguments]) == 0
    assert asked == {"once": True, "colour": colour}


# --- JSON ---


def test_every_command_that_prints_a_report_has_json() -> None:
    assert {name for name, one in COMMANDS.items() if "--json" in one._option_string_actions} == set(REPORTS)


@pytest.mark.parametrize("name", REPORTS)
def test_with_json_also_what_is_broken_is_one_object(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if name != "init":
        (tmp_path / "pointsman.yaml").write_text("backend: {}\n", encoding="utf-8")
    (tmp_path / "missing.jsonl").write_text("", encoding="utf-8")
    more = ["--overlay", "nowhere.yaml"] if name == "catalog" else []
    assert main([*name.split(), *REPORTS[name], *more, "--json"]) == 2
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert told["ok"] is False
    assert told["problems"]
    assert all(set(one) == {"file", "line", "path", "what", "valid"} for one in told["problems"])
    assert said.err == ""


@pytest.mark.parametrize("arguments", [["catalog"], ["explain", "--text", "Hello"]], ids=" ".join)
def test_with_json_ok_says_whether_it_went_well(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True


def test_init_tells_scripts_what_it_wrote_and_the_keys_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("never read"))
    asked = ["--backend", "vllm=http://127.0.0.1:9/v1", "--model", "qwen3.5-9b", "--window", "32k", "--offline"]
    assert main(["init", *asked, "--key", "shop", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is True
    assert "pointsman.yaml" in told["written"]
    assert [(one["model"], one["window_tokens"]) for one in told["targets"]] == [("qwen3.5-9b", 32_000)]
    assert whole(told["keys"]["shop"])
    assert main(["init", *asked, "--json"]) == 1
    assert "is there already" in json.loads(capsys.readouterr().out)["problems"][0]["what"]


# --- the page ---


def test_the_page_lists_every_command_and_whether_it_has_json() -> None:
    table = PAGE[: PAGE.index("## JSON")]
    rows = dict(re.findall(r"^\| `(\w+(?: \w+)?)` \|(.*)\|$", table, re.M))
    assert set(rows) == set(COMMANDS) - {"keys"}  # which is nothing without what stands behind it
    for name, row in rows.items():
        assert row.split("|")[-1].strip().startswith("yes") == (name in REPORTS), name


def test_the_page_lists_every_variable_the_code_reads() -> None:
    read = set()
    for path in (ROOT / "gateway").rglob("*.py"):
        read |= set(re.findall(r"environ(?:\.get\(|\[)\"([A-Z_]+)\"", path.read_text(encoding="utf-8")))
    assert {"NO_COLOR", "HOME"} <= read
    for name in read:
        assert f"`{name}`" in PAGE, name


def test_the_page_names_every_field_of_top_s_json() -> None:
    table = PAGE[PAGE.index("| Member |") :]
    for member, kind in (("gateways", GatewayRow), ("totals", Totals), ("targets", TargetRow), ("rules", RuleRow)):
        [row] = re.findall(rf"^\| `{member}` \|(.*)\|$", table, re.M)
        assert re.findall(r"`(\w+)`", row) == [field.name for field in fields(kind)], member
