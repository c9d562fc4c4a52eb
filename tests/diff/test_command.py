"""`pointsman explain --diff`, on real git repositories: what a change of policies is told to do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from ruamel.yaml import YAML

from gateway.cli import main
from gateway.core.reading.signals import NAMES
from gateway.core.recorded.records import Decided, Recorded, Result, World
from gateway.diff.markdown import MARKER

POLICY = """\
policy: first
as_of: 2026-11-21
sets:
  coders: [qwen3-coder-next, qwen3-coder-480b-a35b]
constraints:
  - {id: languages, avoid: {model.languages: {lacks: $language}}}
rules:
  - id: code
    when: {task: code}
    use: [{model: "@coders"}, {family: qwen}]
  - id: foreign
    when: {language: {not: en}}
    use: [{family: qwen}, {family: llama}]
  - id: default
    use: [{model: llama-4-maverick}, "*"]
tests:
  - {name: code goes to a coder, given: {task: code}, expect: {rule: code, model: qwen3-coder-next}}
  - {name: French goes to Qwen, given: {language: fr}, expect: {family: qwen}}
  - {name: a request from a file, request: fixtures/hello.json, expect: {rule: default}}
"""
CONFIG = """\
policies: {dir: policies, default: first}
backends:
  local: {dialect: llama.cpp, self_hosted: true, base_url: "http://127.0.0.1:1/v1"}
targets:
  general: {model: llama-4-maverick, backend: local, window: 8192, price: none}
  other: {model: qwen3.5-9b, backend: local, window: 8192, price: none}
"""
HELLO = '{"model": "auto", "messages": [{"role": "user", "content": "Hello, how are you today?"}]}'


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Git in a repository whose first commit holds one policy; it is the current folder."""
    top = tmp_path / "repository"
    (top / "policies" / "fixtures").mkdir(parents=True)
    monkeypatch.chdir(top)
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*arguments: str, folder: Path = top) -> str:
        who = ["-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "protocol.file.allow=always"]
        done = subprocess.run(["git", "-C", folder, *who, *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    (top / "policies" / "first.yaml").write_text(POLICY, encoding="utf-8")
    (top / "policies" / "fixtures" / "hello.json").write_text(HELLO, encoding="utf-8")
    run("init", "-q", "-b", "main")
    run("add", "-A")
    run("commit", "-qm", "one")
    return run


def edit(old: str, new: str, path: str = "policies/first.yaml") -> None:
    text = Path(path).read_text(encoding="utf-8")
    assert old in text
    Path(path).write_text(text.replace(old, new), encoding="utf-8")


def told(capsys: pytest.CaptureFixture[str], *options: str, code: int = 0) -> str:
    capsys.readouterr()
    assert main(["explain", "--diff", "HEAD", *options]) == code
    return capsys.readouterr().out


def test_no_change_is_said_to_be_none(git: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "No policy decides anything differently." in told(capsys)


def test_a_comment_alone_changes_nothing(git: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    edit("policy: first\n", "# what it is for\npolicy: first\n")
    assert "No policy decides anything differently." in told(capsys)


def test_a_change_is_told_by_what_is_written_decided_and_judged(
    git: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    edit(
        'when: {task: code}\n    use: [{model: "@coders"}, {family: qwen}]',
        "when: {task: [code, math]}\n    use: [{family: llama}]",
    )
    edit("  - {id: languages, avoid: {model.languages: {lacks: $language}}}\n", "")
    edit("constraints:\n", "")
    comment = told(capsys, code=1)
    assert comment.startswith(MARKER + "\n")
    assert "### `first` changed (`policies/first.yaml`)" in comment
    assert "3 tests; 1 decided or judged differently; **1 fail now**." in comment
    assert "- constraint `languages` **removed**\n  - `avoid`: `{model.languages: {lacks: $language}}`\n" in comment
    assert "- rule `code` **changed**\n  - `when`: `{task: code}` → `{task: [code, math]}`\n" in comment
    assert "  - `use`: `[{model: @coders}, {family: qwen}]` → `[{family: llama}]`\n" in comment
    assert "| code goes to a coder | `code`: `coder-next-us` | `code`: `" in comment
    assert "`, **fails** |" in comment
    assert "**Findings on the reference fleet**" in comment
    assert "French goes to Qwen" not in comment


def test_tests_that_come_and_go_are_told_with_what_both_versions_decide(
    git: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    edit("  - {name: French goes to Qwen, given: {language: fr}, expect: {family: qwen}}\n",
         "  - {name: maths goes to a coder, given: {task: math}, expect: {rule: code}}\n")  # fmt: skip
    edit("when: {task: code}", "when: {task: [code, math]}")
    edit("id: foreign", "id: abroad")
    comment = told(capsys)
    assert "3 tests, 1 added, 1 removed; 2 decided or judged differently; all pass." in comment
    assert "| added: maths goes to a coder | `default`: `maverick-eu`, **fails** | `code`: `coder-next-us` |" in comment
    assert "- rule `abroad` **renamed**, it was `foreign`" in comment
    assert "| removed: French goes to Qwen | `foreign`: " in comment


def test_the_order_of_rules_is_told_where_it_changed(
    git: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    rule = '  - id: code\n    when: {task: code}\n    use: [{model: "@coders"}, {family: qwen}]\n'
    edit(rule, "")
    edit("  - id: default\n", rule + "  - id: default\n")
    assert "- rule `foreign` **moved**, now first" in told(capsys)


def test_policies_that_are_added_removed_and_renamed(
    git: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    (Path("policies") / "second.yaml").write_text(POLICY.replace("policy: first", "policy: second"), encoding="utf-8")
    assert "### `second` added (`policies/second.yaml`)\n\n3 tests; all pass." in told(capsys)
    git("add", "-A")
    git("commit", "-qm", "two")
    git("mv", "policies/second.yaml", "policies/other.yaml")
    assert "### `second` renamed, it was `policies/second.yaml` (`policies/other.yaml`)" in told(capsys)
    edit("policy: second", "policy: other", "policies/other.yaml")
    git("mv", "policies/other.yaml", "policies/second.yaml")
    assert "### `other` renamed, it was `second` (`policies/second.yaml`)" in told(capsys)
    git("rm", "-qf", "policies/first.yaml")
    assert "### `first` removed (`policies/first.yaml`)\n\nThe policy and its 3 tests are gone" in told(capsys)


def test_fixtures_are_read_from_the_same_revision(git: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    edit("Hello, how are you today?", "Write a Python function that adds two numbers.", "policies/fixtures/hello.json")
    edit("a request from a file, request: fixtures/hello.json, expect: {rule: default}",
         "a request from a file, request: fixtures/hello.json, expect: {rule: code}")  # fmt: skip
    assert "| changed: a request from a file | `default`: `maverick-eu` | `code`: `coder-next-us` |" in told(capsys)


def test_it_works_from_a_folder_below_and_for_one_file(
    git: Callable[..., str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    edit("{task: code}\n", "{task: math}\n")
    monkeypatch.chdir("policies")
    assert "- rule `code` **changed**" in told(capsys, "--policies", "first.yaml", code=1)
    assert "- rule `code` **changed**" in told(capsys, "--policies", ".", code=1)


def test_a_revision_that_is_not_there_is_told_and_a_shallow_clone_more_so(
    git: Callable[..., str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit("{task: code}\n", "{task: math}\n")
    git("commit", "-qam", "two")
    for name, what in (("nothing", "there is no revision 'nothing'"), ("--output=x", "is no revision"), ("", "is no")):
        assert main(["explain", f"--diff={name}"]) == 2
        assert what in capsys.readouterr().err
    shallow = tmp_path / "shallow"
    git("clone", "-q", "--depth=1", Path.cwd().as_uri(), str(shallow), folder=tmp_path)
    monkeypatch.chdir(shallow)
    assert main(["explain", "--diff", "HEAD~1"]) == 2
    assert "this is a shallow clone: fetch more of it" in capsys.readouterr().err
    git("fetch", "-q", "--deepen=1", folder=shallow)
    assert main(["explain", "--diff", "HEAD~1"]) == 1
    assert "- rule `code` **changed**" in capsys.readouterr().out


def test_outside_a_repository_or_without_git_it_says_what_it_needs(
    git: Callable[..., str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "policies").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["explain", "--diff", "HEAD"]) == 2
    assert "is in no git work tree" in capsys.readouterr().err
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["explain", "--diff", "HEAD"]) == 2
    assert "needs the command git" in capsys.readouterr().err


def test_a_version_that_does_not_load_is_told_by_line(
    git: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    edit("{family: qwen}, {family: llama}", "{family: qwem}")
    capsys.readouterr()
    assert main(["explain", "--diff", "HEAD"]) == 2
    seen = capsys.readouterr()
    assert seen.out.startswith(MARKER)
    assert "The policies of this change do not load" in seen.out
    assert "first.yaml:13" in seen.out
    assert main(["explain", "--diff", "HEAD", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["problems"][0]["line"] == 13
    git("commit", "-qam", "broken")
    edit("{family: qwem}", "{family: qwen}")
    assert "The version before could not be compared:\n- `policies/first.yaml:13" in told(capsys)


def test_it_is_all_there_as_json(git: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    edit("{task: code}\n", "{task: math}\n")
    made = json.loads(told(capsys, "--json", code=1))
    assert (made["ok"], made["unchanged"]) == (False, 0)
    assert made["revision"]["commit"] == git("rev-parse", "HEAD")
    (policy,) = made["policies"]
    assert (policy["name"], policy["state"]) == ("first", "changed")
    assert policy["written"][0]["details"] == [{"member": "when", "before": "{task: code}", "after": "{task: math}"}]
    test = next(one for one in policy["tests"] if one["name"] == "code goes to a coder")
    assert (test["before"]["rule"], test["after"]["rule"], test["after"]["passed"]) == ("code", "default", False)


@pytest.mark.parametrize("path", ["policys", "empty", "policies/secund.yaml"])
def test_a_path_that_held_no_policy_and_holds_none_is_a_mistake_and_no_change(
    git: Callable[..., str], capsys: pytest.CaptureFixture[str], path: str
) -> None:
    Path("empty").mkdir()
    capsys.readouterr()
    assert main(["explain", "--diff", "HEAD", "--policies", "policies", "--policies", path]) == 2
    says = f"{path}: holds no policy, neither now nor at HEAD: a policy, or a folder of *.yaml files\n"
    assert says in capsys.readouterr().err


def test_recorded_traffic_needs_a_configuration_and_is_decided_on_its_fleet(
    git: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    edit("when: {task: code}\n", "when: {task: math}\n")
    capsys.readouterr()
    assert main(["explain", "--diff", "HEAD", "--records", "records.jsonl"]) == 2
    assert "are decided on your own fleet" in capsys.readouterr().err
    Path("pointsman.yaml").write_text(CONFIG, encoding="utf-8")
    signals: dict[str, object] = dict.fromkeys(NAMES) | {"modality": ["text"], "parameters": []}
    signals |= {"tools": False, "stream": False, "images": 0, "cost_sensitive": False, "task": "code"}
    line = Recorded(
        1, "id", 1_795_262_400.0, "first@0", "f", "k", "auto", World(), Decided("code", ("other",)), Result(),
        signals=signals, tokens={"": (10, 10, True)}, text_bytes=40,
    )  # fmt: skip
    Path("records.jsonl").write_bytes(msgspec.json.encode(line) + b"\n" + b"damaged\n")
    comment = told(capsys, "--records", "records.jsonl", code=1)
    assert "**Recorded traffic: 1 of 1 requests would go elsewhere**" in comment
    assert "| 1 | `code`: `other` | `default`: `general` |" in comment


def test_the_workflow_of_the_readme_runs_here(
    git: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    readme = Path(__file__).parents[2] / "policies" / "README.md"
    (text,) = re.findall(r"^```yml\n(.*?)^```$", readme.read_text(encoding="utf-8"), re.M | re.S)
    steps = YAML(typ="safe").load(text)["jobs"]["policies"]["steps"]
    runs = {step["name"]: step["run"] for step in steps if "run" in step}
    edit("{task: code}\n", "{task: math}\n")
    git("commit", "-qam", "two")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    script = f'pointsman() {{ {sys.executable} -m gateway.cli "$@"; }}\n'
    monkeypatch.setenv("PYTHONPATH", str(readme.parents[1]))
    codes = {
        name: subprocess.run(["bash", "-c", script + runs[name]], capture_output=True, check=False).returncode
        for name in ("what it does", "tests")
    }
    assert codes == {"what it does": 1, "tests": 1}
    assert "- rule `code` **changed**" in Path("comment.md").read_text(encoding="utf-8")
    assert Path("results.xml").read_bytes().startswith(b"<?xml")
    assert {"install", "comment"} == runs.keys() - codes.keys()


def test_a_configuration_adds_its_own_fleet(git: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("pointsman.yaml").write_text(
        "policies: {dir: policies, default: first}\nbackends:\n  local: {dialect: llama.cpp, self_hosted: true, "
        'base_url: "http://127.0.0.1:1/v1"}\ntargets:\n'
        "  general: {model: llama-4-maverick, backend: local, window: 8192, price: none}\n"
        "  other: {model: qwen3.5-9b, backend: local, window: 8192, price: none}\n",
        encoding="utf-8",
    )
    edit("use: [{family: qwen}, {family: llama}]", "use: [{model: qwen3.5-122b-a10b}]")
    assert "**Findings on your fleet**" in told(capsys)


HOUSE = "part: house\nas_of: 2026-11-21\nconstraints:\n  - {id: at-home, forbid: {family: llama}}\n"


def test_both_sides_decide_under_the_overlays_of_their_own_revision(
    git: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("pointsman.yaml").write_text(CONFIG.replace("default: first}", "default: first, overlays: [house.part.yaml]}"))
    Path("house.part.yaml").write_text(HOUSE, encoding="utf-8")
    assert "before house, after house. Not in git at that revision, so taken as they are now: pointsman.yaml, " in told(
        capsys
    )
    git("add", "-A")
    git("commit", "-qm", "two")
    same = told(capsys)
    assert "under the overlays of their own revision: before house, after house.\n" in same
    assert "No policy decides anything differently." in same
    edit("{family: llama}", "{family: qwen}", "house.part.yaml")
    comment = told(capsys)
    assert "constraint `at-home` **changed**" in comment
    assert "| a request from a file | `default`: `" in comment
    assert "all pass." in comment, "a policy's own tests pass without what lies over it"
    made = json.loads(told(capsys, "--json"))
    assert made["overlays"] == {"before": ["house"], "after": ["house"], "as_now": []}
    edit("constraints:", "constraint:", "house.part.yaml")
    told(capsys, code=2)


def test_without_policies_of_one_s_own_those_that_come_along_are_compared_under_the_overlays(
    git: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree("policies")
    names = "default: default, overlays: [house.part.yaml]}\nmodels: {cheap: auto/cost-first}"
    Path("pointsman.yaml").write_text(CONFIG.replace("dir: policies, default: first}", names), encoding="utf-8")
    Path("house.part.yaml").write_text(HOUSE, encoding="utf-8")
    git("add", "-A")
    git("commit", "-qm", "two")
    assert "No policy decides anything differently." in told(capsys)
    edit("{family: llama}", "{family: gemma}", "house.part.yaml")
    comment = told(capsys)
    assert re.findall(r"^### `([a-z-]+)` changed", comment, re.M) == ["cost-first", "default"]
    assert "  - `forbid`: `{family: llama}` → `{family: gemma}`" in comment


def test_moving_a_constraint_into_a_part_or_behind_another_is_no_news(
    git: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    first = "  - {id: a, forbid: {family: gemma}}\n"
    edit("constraints:\n", "constraints:\n" + first + "  - {id: b, forbid: {family: gpt-oss}}\n")
    git("commit", "-qam", "two")
    edit(first, "")
    edit("rules:\n", first + "rules:\n")
    assert "No policy decides anything differently." in told(capsys)
    edit(first, "")
    edit("as_of: 2026-11-21\n", "as_of: 2026-11-21\ninclude: [house.part.yaml]\n")
    Path("policies/house.part.yaml").write_text(f"part: house\nconstraints:\n{first}", encoding="utf-8")
    comment = told(capsys)
    assert "`include` **added**" in comment
    assert "holds" not in comment
    assert "moved" not in comment
    edit("  - {id: b, forbid: {family: gpt-oss}}\n", "")
    edit("include: [house.part.yaml]\n", "")
    assert "- gone: holds: `first`: no rule, fallback or pin can leak past" in told(capsys)
