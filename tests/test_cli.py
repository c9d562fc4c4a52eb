"""The command line: what each command prints, where, and with which exit code."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as XML

import pytest

from gateway.cli import main

CONFIG = """\
policies: {dir: policies, default: first}
backends:
  local: {dialect: llama.cpp, self_hosted: true, base_url: "http://127.0.0.1:1/v1"}
targets:
  general: {model: qwen3.5-9b, backend: local, window: 8192, price: none}
  coder: {model: qwen3-coder-30b-a3b, backend: local, window: 8192, price: none}
keys:
  - {name: shop, sha256: "%s", tenant: {team: shop}, allow: [auto]}
""" % ("a" * 64)
POLICY = """\
policy: first
as_of: 2026-11-21
rules:
  - id: shop
    when: {tenant.team: shop}
    use: [{model: qwen3.5-9b}]
  - id: code
    when: {task: code}
    use: [{model: qwen3-coder-30b-a3b}, {family: qwen}]
  - id: default
    use: [{model: qwen3.5-9b}, {family: "*"}]
tests:
  - name: code goes to the coder
    given: {task: code}
    expect: {rule: code, model: qwen3-coder-30b-a3b}
"""
CODE = "Write a Python function that adds two numbers."


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a configuration and a policy, which is also the current one."""
    (tmp_path / "pointsman.yaml").write_text(CONFIG, encoding="utf-8")
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "first.yaml").write_text(POLICY, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def break_policy(site: Path, old: str, new: str) -> None:
    path = site / "policies" / "first.yaml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def explained(capsys: pytest.CaptureFixture[str], *options: str, code: int = 0) -> dict[str, object]:
    capsys.readouterr()
    assert main(["explain", "--json", *options]) == code
    told: dict[str, object] = json.loads(capsys.readouterr().out)
    return told


def test_help_waits_for_no_library() -> None:
    script = "import sys, gateway.cli; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"fastapi", "pydantic", "httpx", "ruamel", "uvloop", "msgspec", "xllamacpp"} & set(loaded)


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("pointsman 0.")


@pytest.mark.parametrize("arguments", [["nonsense"], ["explain"], ["demo", "--port", "70000"]])
def test_a_command_line_that_means_nothing_exits_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


# --- check ---


def test_check_of_a_sound_site_says_what_it_holds(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 0
    told = capsys.readouterr().out
    assert "ok: 2 targets, 1 policy, configuration " in told
    assert "policy first: holds: every request is covered by a rule\n" in told
    assert "policies/first.yaml:3: warning: all targets it may use are of one family, qwen: no fallback" in told


@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_broken_policy_is_told_by_line_and_exits_with_2(
    site: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    break_policy(site, "task: code}\n    use", "tasks: code}\n    use")
    assert main([command]) == 2
    told = capsys.readouterr()
    assert "first.yaml:8: rules[1].when" in told.err
    assert "task" in told.err


def test_a_broken_policy_is_not_also_told_as_missing(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = site / "pointsman.yaml"
    text = config.read_text(encoding="utf-8")
    assert "keys:\n" in text
    more = f"models: {{gpt-4o: auto/first}}\nkeys:\n  - {{name: k, sha256: {'b' * 64}, allow: [auto/first, nobody]}}\n"
    config.write_text(text.replace("keys:\n", more), encoding="utf-8")
    break_policy(site, "task: code}\n    use", "tasks: code}\n    use")
    assert main(["check"]) == 2
    told = capsys.readouterr().err
    assert "'first'" not in told
    assert "auto/first" not in told
    assert "'nobody' means nothing here" in told


@pytest.mark.parametrize("command", ["check", "serve"])
def test_without_a_configuration_one_is_told_where_to_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([command]) == 2
    told = capsys.readouterr().err
    assert told.startswith("pointsman.yaml: cannot be read: No such file or directory: ")
    assert "--config" in told
    assert "`pointsman init`" in told


def test_check_says_the_same_of_several_rules_in_one_line(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--verbose"]) == 0
    told = capsys.readouterr().out
    assert told.count("all its targets stand on one backend, local") == 1
    assert "first.yaml:6: info: shop, code, default: all its targets stand on one backend, local [backend-" in told


def test_check_says_what_is_wrong_first_and_counts_what_is_only_good_to_know(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (site / "pointsman.yaml").read_text()
    bundled = re.sub(r"^policies:.*$", "policies: {default: default}\nunknown_model: demo", text, flags=re.M)
    (site / "pointsman.yaml").write_text(bundled)
    assert main(["check", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    shown = [one for one in found["findings"] if one["policy"] not in found["not_named"]]
    infos = sum(one["severity"] == "info" for one in shown)
    assert infos > 9
    assert main(["check"]) == 0
    told = capsys.readouterr().out
    assert ": info: " not in told
    assert f"not shown: {infos} infos, good to know and not wrong: " in told
    assert main(["check", "--verbose"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("    given:")]
    kinds = [word for line in lines for word in ("warning", "info") if f": {word}: " in line]
    assert kinds == sorted(kinds, reverse=True)
    assert {"warning", "info"} == {*kinds}


def test_check_leaves_out_what_came_along_and_nothing_names(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (site / "pointsman.yaml").read_text()
    bundled = re.sub(r"^policies:.*$", "policies: {default: default}", text, flags=re.M)
    (site / "pointsman.yaml").write_text(bundled)
    assert main(["check"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"not shown, .*: .*demo", told)
    assert "policy demo: warning" not in told
    assert "policy default: holds: " in told
    (site / "pointsman.yaml").write_text(bundled + "unknown_model: demo\n")
    assert main(["check"]) == 0
    assert "policy demo: holds: " in capsys.readouterr().out


def test_without_a_command_one_sees_which_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "Run the gateway." in capsys.readouterr().err


def test_a_failing_test_of_a_policy_keeps_it_from_being_served(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    break_policy(site, "expect: {rule: code,", "expect: {rule: default,")
    assert main(["check"]) == 2
    assert "the test 'code goes to the coder' fails" in capsys.readouterr().err


def test_check_as_json_lists_problems_with_file_and_line(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    break_policy(site, "id: code", "ID: code")
    assert main(["check", "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    assert {problem["line"] for problem in told["problems"]} & {7, 8}


def test_strict_turns_a_finding_into_exit_1(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dead = "  - id: dead\n    when: {task: code}\n    use: [{model: qwen3.5-9b}]\n  - id: default"
    break_policy(site, "  - id: default", dead)
    assert main(["check"]) == 0
    assert "dead" in capsys.readouterr().out
    assert main(["check", "--strict"]) == 1
    capsys.readouterr()
    assert main(["check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["findings"]


def test_a_missing_configuration_is_said_plainly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["check"]) == 2
    assert "pointsman.yaml" in capsys.readouterr().err


# --- test ---


def test_the_bundled_policies_pass_their_own_tests(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("no pointsman.yaml here: testing the policies that come with Pointsman\n")
    assert told.rstrip().endswith(" passed, 0 failed")


@pytest.mark.parametrize("named", [False, True])
def test_without_paths_the_policies_of_the_configuration_are_tested(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], named: bool
) -> None:
    break_policy(site, "expect: {rule: code,", "expect: {rule: default,")
    config = Path("pointsman.yaml")
    if named:
        (site / "elsewhere").mkdir()
        monkeypatch.chdir(site / "elsewhere")
        config = Path("../pointsman.yaml")
    arguments = ["test", "--config", str(config)] if named else ["test"]
    assert main(arguments) == 1
    first, *told = capsys.readouterr().out.splitlines()
    assert first == f"{config}: testing policies of {config.parent / 'policies'}"
    assert told[0] == f"{config.parent / 'policies' / 'first.yaml'}: 1 test"
    assert told[-1] == "0 passed, 1 failed"
    assert main([*arguments, "--json"]) == 1
    assert [Path(one["file"]).name for one in json.loads(capsys.readouterr().out)["files"]] == ["first.yaml"]


def test_the_overlays_of_the_configuration_are_tested_with_its_policies(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (site / "house.part.yaml").write_text(
        "part: house\nas_of: 2026-11-21\n"
        "constraints:\n  - {id: no-gemma, forbid: {family: gemma}}\n"
        "tests:\n  - {name: no gemma, expect: {never_family: gemma}}\n"
    )
    for folder, tests in (("dir: policies, default: first", 2), ("default: default", None)):
        policies = f"policies: {{{folder}, overlays: [house.part.yaml]}}"
        (site / "pointsman.yaml").write_text(re.sub(r"^policies:.*$", policies, CONFIG, flags=re.M))
        assert main(["test"]) == 0
        first, *told = capsys.readouterr().out.splitlines()
        assert "house.part.yaml: 1 test" in told
        if tests is None:
            assert first == "pointsman.yaml names no folder: testing the policies that come with Pointsman"
        else:
            assert told[-1] == f"{tests} passed, 0 failed"


@pytest.mark.parametrize(
    "policy",
    [
        'allow_closed: [acme]\nrules: [{id: all, use: ["*"]}]\n',
        'sets: {own: [acme-7b]}\nrules: [{id: all, use: [{model: "@own"}, "*"]}]\n',
        'tokens_by: acme\nrules: [{id: all, use: ["*"]}]\n',
        'rules: [{id: all, use: [{model: acme-7b}, "*"]}]\n',
        'rules: [{id: all, use: [{family: acme}, "*"]}]\n',
        'rules: [{id: all, use: ["*"]}]\ntests: [{name: own, expect: {not_model: acme-7b}}]\n',
        'rules: [{id: all, use: ["*"]}]\ntests: [{name: own, expect: {not_family: acme}}]\n',
    ],
)
def test_a_name_that_only_the_catalogue_of_a_configuration_knows_is_told_to_need_it(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], policy: str
) -> None:
    (site / "own.yaml").write_text(
        "catalogue: 1\nas_of: 2026-11-21\nsources: {us: {as_of: 2026-11-21, kind: operator, ref: ours}}\n"
        "models: {acme-7b: {family: acme, source: us, tokenizer: acme}}\n"
    )
    (site / "pointsman.yaml").write_text(CONFIG + "catalog: own.yaml\n")
    (site / "policies" / "first.yaml").write_text(f"policy: first\nas_of: 2026-11-21\n{policy}")
    hint = "or --config FILE, whose catalog: names it"
    main(["test", "policies"])
    assert "to put right" not in capsys.readouterr().err, "here the configuration is read"
    (site / "elsewhere").mkdir()
    monkeypatch.chdir(site / "elsewhere")
    assert main(["test", "../policies"]) == 2
    assert hint in capsys.readouterr().err
    main(["test", "../policies", "--config", "../pointsman.yaml"])
    assert "to put right" not in capsys.readouterr().err


def test_other_mistakes_are_not_put_down_to_a_missing_configuration(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    break_policy(site, "family: qwen", "familly: qwen")
    (site / "elsewhere").mkdir()
    monkeypatch.chdir(site / "elsewhere")
    assert main(["test", "../policies"]) == 2
    told = capsys.readouterr().err
    assert "familly" in told
    assert "--config" not in told


def test_a_configuration_whose_folder_holds_no_policy_is_no_success(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (site / "pointsman.yaml").write_text(CONFIG.replace("dir: policies", "dir: polices"))
    assert main(["test"]) == 2
    assert "pointsman.yaml:1: policies.dir: no policy files in polices" in capsys.readouterr().err


def test_a_failing_test_shows_what_was_expected_and_what_came(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    break_policy(site, "expect: {rule: code,", "expect: {rule: default,")
    assert main(["test", "policies"]) == 1
    told = capsys.readouterr().out
    assert "FAILED code goes to the coder (line 13)" in told
    assert "rule: expected default, got code" in told
    assert "0 passed, 1 failed" in told


def test_results_as_json(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "--json", "policies/first.yaml"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["passed"], told["failed"]) == (True, 1, 0)
    assert told["files"][0]["tests"][0]["name"] == "code goes to the coder"


def test_what_no_test_notices_is_told_by_line_and_exits_with_1(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "--mutants", "policies"]) == 1
    told = capsys.readouterr().out
    assert "  NOT NOTICED shop: without this rule (line 4: rules[0])\n" in told
    assert "code: without this rule" not in told
    assert main(["test", "--mutants", "--json", "policies"]) == 1
    (found,) = json.loads(capsys.readouterr().out)["files"]
    survivor = {"line": 4, "path": "rules[0]", "id": "shop", "change": "without this rule"}
    (told,) = [one for one in found["mutants"]["survivors"] if one["path"] == "rules[0]"]
    assert told == survivor | {"slip": None}


def test_what_no_test_reaches_is_told_by_line(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "--coverage", "policies"]) == 0
    told = capsys.readouterr().out
    assert "  NOT REACHED rule shop (line 4: rules[0])\n" in told
    assert "rung 1 of code" not in told
    assert main(["test", "--min-coverage", "90%", "policies"]) == 1
    assert "is less than 90 %" in capsys.readouterr().out


def test_tests_are_chosen_by_a_part_of_their_name(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "-k", "CODE goes", "policies"]) == 0
    assert "1 passed, 0 failed" in capsys.readouterr().out
    assert main(["test", "-k", "nothing like it", "policies"]) == 2
    assert "no test has 'nothing like it' in its name" in capsys.readouterr().err


def test_a_broken_file_hides_no_results_of_the_others(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (site / "policies" / "another.yaml").write_text("policy: another\nruels: []\n", encoding="utf-8")
    assert main(["test", "policies"]) == 2
    told = capsys.readouterr()
    assert "first.yaml: 1 test\n" in told.out
    assert "another.yaml:2" in told.err


def test_results_as_junit(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    break_policy(site, "expect: {rule: code,", "expect: {rule: default,")
    (site / "policies" / "another.yaml").write_text("policy: another\nruels: []\n", encoding="utf-8")
    assert main(["test", "--junit", "results.xml", "policies"]) == 2
    first, second = XML.parse(site / "results.xml").getroot()
    assert (first.get("name"), first.get("tests"), first.get("failures")) == ("first", "1", "1")
    assert first[0].get("name") == "code goes to the coder"
    assert first[0].get("line") == "13"
    assert first[0][0].get("message") == "rule: expected default, got code"
    assert "coder-next-us" in (first[0][0].text or "") or "candidates:" in (first[0][0].text or "")
    assert second.get("errors") == "1"
    assert main(["test", "--junit", "nowhere/results.xml", "policies/first.yaml"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_a_folder_without_policies_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", str(tmp_path)]) == 2
    assert "holds no policy" in capsys.readouterr().err


# --- explain ---


def test_explain_needs_neither_server_nor_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["explain", "--text", CODE]) == 0
    told = capsys.readouterr()
    assert "under rule code of default@" in told.out
    assert "reference fleet" in told.err


def test_explain_exits_with_1_where_the_request_would_be_refused(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options in ((), ("--json",)):
        assert main(["explain", "--text", CODE, "--header", "x-pointsman-region=mars", *options]) == 1
        assert "policy_denied" in capsys.readouterr().out


def test_explain_tells_a_key_under_a_hard_budget_what_it_may_cost(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = site / "pointsman.yaml"
    text = config.read_text(encoding="utf-8").replace("price: none", "price: {input: 1, output: 2}")
    config.write_text(text.replace("allow: [auto]", "allow: [auto], budget: {usd: 1, per: day}"), encoding="utf-8")
    budget = explained(capsys, "--text", CODE, "--key", "shop")["budget"]
    assert isinstance(budget, dict)
    assert (budget["at_least"]["answer_tokens"], budget["at_least"]["answer_usd"]) == (256, 0.000512)
    assert budget["at_least"]["prompt_tokens"] < 60 < 1_000 < budget["set_aside"]["prompt_tokens"]
    assert budget["at_least"]["prompt_rests_on"] == "counted"
    assert main(["explain", "--text", CODE, "--key", "shop"]) == 0
    told = capsys.readouterr().out
    assert "under a hard budget\n  set aside  up to $0.00" in told
    assert "tokens, counted) and $0.000512 for an answer of 256 tokens, at general: where less is left" in told
    assert "budget" not in explained(capsys, "--text", CODE)


def test_explain_shows_the_body_that_would_be_sent(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--text", CODE]) == 0
    told = capsys.readouterr().out
    assert told.startswith("coder (qwen3-coder-30b-a3b) under rule code of first@")
    assert "would be sent to coder" in told
    assert '"model":"qwen3-coder-30b-a3b"' in told.replace(" ", "")


def test_a_request_comes_from_a_file_or_from_standard_input(
    site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": CODE}]}).encode()
    (site / "request.json").write_bytes(body)
    from_file = explained(capsys, "--request", "request.json")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(body)))
    assert explained(capsys, "--request", "-")["rule"] == from_file["rule"] == "code"


def test_tenant_facts_headers_and_outages_can_be_supposed(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert explained(capsys, "--text", CODE, "--tenant", "team=shop")["rule"] == "shop"
    assert explained(capsys, "--text", CODE, "--down", "coder")["candidates"] == ["general"]
    refused = explained(capsys, "--text", CODE, "--header", "X-Pointsman-Region=eu", code=1)
    assert refused["candidates"] == []
    assert refused["refusal"]


def test_a_key_brings_its_facts_and_its_bounds(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert explained(capsys, "--text", CODE, "--key", "shop")["rule"] == "shop"
    assert main(["explain", "--text", CODE, "--key", "shop", "--model", "coder"]) == 1
    assert "model_not_allowed" in capsys.readouterr().err
    assert explained(capsys, "--text", CODE, "--model", "coder")["candidates"] == ["coder"]
    assert main(["explain", "--text", CODE, "--key", "nobody"]) == 2
    assert "no key 'nobody': there is shop" in capsys.readouterr().err


def test_a_request_that_would_be_refused_unread_says_how(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (site / "request.json").write_text('{"model": "auto", "model": "auto"}', encoding="utf-8")
    assert main(["explain", "--request", "request.json"]) == 1
    assert "refused with status 400: invalid_json" in capsys.readouterr().err
    assert main(["explain", "--text", CODE, "--model", "nobody-knows-it", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "model_not_found"


def test_what_is_not_there_is_named(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--text", CODE, "--down", "nobody"]) == 2
    assert "no target 'nobody': one of general, coder" in capsys.readouterr().err
    assert main(["explain", "--request", "missing.json"]) == 2
    assert "missing.json" in capsys.readouterr().err
