"""`pointsman check` over a whole configuration: keys and names, files and lines, what is accepted, and exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gateway import bundled, yamlfile
from gateway.check.report import FORMAT, flow
from gateway.cli import main
from gateway.core.analyse import analyse
from gateway.core.clauses.findings import CODES
from gateway.core.policy import PolicyDoc
from gateway.core.proving.policytest import run_tests
from gateway.policyfile import PolicyFile, load_policy, reference_fleet
from gateway.problems import validated

CONFIG = """\
policies: {dir: policies, default: first}
models: {gpt-4o: auto}
backends:
  here: {dialect: vllm, region: eu, processing: eu, self_hosted: true, endpoints: ["http://127.0.0.1:9/v1"]}
  there: {dialect: vllm, region: us, processing: us, endpoints: ["http://127.0.0.1:9/v1"]}
targets:
  small: {model: qwen3.5-9b, backend: here, window: 32k, price: {input: 0.1, output: 0.2}}
  scout: {model: llama-4-scout, backend: there, window: 1M, price: {input: 0.1, output: 0.2}}
  large: {model: qwen3.5-35b-a3b, backend: here, window: 32k, price: {input: 0.1, output: 0.2}}
keys:
  - {name: shop, sha256: "SHA", tenant: {team: shop, home: eu}, allow: [auto]}
"""
POLICY = """\
policy: first
as_of: 2026-11-21
tokens_by: qwen3.5
constraints:
  - {id: home, when: {tenant.home: eu}, forbid: {target.region: us}}
rules:
  - {id: code, when: {task: code}, use: [{family: qwen}, {family: "*"}]}
  - {id: default, use: [{family: "*"}]}
tests:
  - {name: code is code, given: {task: code}, expect: {rule: code}}
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "first.yaml").write_text(POLICY)
    (tmp_path / "pointsman.yaml").write_text(CONFIG.replace("SHA", "a" * 64))
    return tmp_path


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def findings(capsys: pytest.CaptureFixture[str], *more: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    main(["check", "--json", *more])
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    found: list[dict[str, Any]] = told["findings"]
    return found


@pytest.mark.parametrize(
    ("code", "identity", "line", "old", "new"),
    [
        ("alias-shadows", "scout", 2, "models: {gpt-4o: auto}", "models: {gpt-4o: auto, scout: auto}"),
        ("alias-refused", "gpt-4o", 2, "gpt-4o: auto", "gpt-4o: plus"),
        ("allow-refused", "shop", 11, "allow: [auto]", "allow: [auto, scout]"),
        ("place-unmet", "shop", 11, "home: eu}", "home: eu, residency: mars}"),
        ("tenant-unread", "shop", 11, "home: eu}", "home: eu, residencey: eu}"),
        *(
            ("tenant-unread", "shop", 11, "home: eu}", f"home: eu, {name}: health}}")
            for name in ("tean", "taem", "tema", "Team", "tenant", "owner")
        ),
        ("tenant-unmatched", "shop", 11, "home: eu}", "home: EU}"),
        ("budget-unpriced", "shop", 11, "allow: [auto]", "allow: [auto], budget: {usd: 5, per: day}"),
        ("budget-unheeded", "shop", 11, "allow: [auto]", "allow: [auto], budget: {usd: 5, per: day}"),
    ],
)
def test_keys_and_names_that_lead_nowhere_are_told_with_their_line(
    site: Path, capsys: pytest.CaptureFixture[str], code: str, identity: str, line: int, old: str, new: str
) -> None:
    assert not [one for one in findings(capsys) if one["code"] == code]
    if code == "budget-unpriced":
        change(site / "pointsman.yaml", "window: 32k, price: {input: 0.1, output: 0.2}}\nkeys", "window: 32k}\nkeys")
    if code == "budget-unheeded":
        change(site / "pointsman.yaml", "window: 32k, price", "window: 32k, unsupported: [max_tokens], price")
    if code == "alias-refused":
        closed = "  plus: {model: qwen3.5-plus, backend: there, window: 1M}\nkeys:\n"
        change(site / "pointsman.yaml", "keys:\n", closed)
        change(site / "policies" / "first.yaml", "constraints:\n", "allow_closed: [llama]\nconstraints:\n")
    change(site / "pointsman.yaml", old, new)
    (told,) = [one for one in findings(capsys, "--no-keys") if one["code"] == code]
    assert (told["id"], told["file"], told["line"]) == (identity, "pointsman.yaml", line)


def test_an_alias_for_a_policy_that_asks_that_very_model_first_hides_nothing(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(site / "pointsman.yaml", "models: {gpt-4o: auto}", "models: {qwen3.5-9b: auto/own}")
    own = "policy: own\nas_of: 2026-11-21\nrules:\n  - {id: all, use: [{target.name: TARGET}, {family: '*'}]}\n"
    for target, told in (("small", []), ("scout", ["alias-shadows"])):
        (site / "policies" / "own.yaml").write_text(own.replace("TARGET", target))
        assert [one["code"] for one in findings(capsys) if one["code"] == "alias-shadows"] == told


@pytest.mark.parametrize("value", ["helth", "healthcare", "hospital", "shop"])
def test_a_constraint_for_a_value_that_no_key_has_fails_a_strict_check(
    site: Path, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    policy, config = site / "policies" / "first.yaml", site / "pointsman.yaml"
    change(policy, "rules:", "  - {id: h, when: {tenant.team: health}, forbid: {family: llama}}\nrules:")
    change(config, "team: shop", "team: health")
    assert main(["check", "--strict"]) == 0
    change(config, "team: health", f"team: {value}")
    assert main(["check", "--strict"]) == 1
    (told,) = [one for one in findings(capsys) if one["code"] == "tenant-unmet"]
    assert (told["id"], told["file"], told["line"]) == ("h", "policies/first.yaml", 6)
    assert (told["message"], told["fix"]) == (
        "no key has tenant.team health: it never binds one",
        f"keys have {value}",
    )


def test_what_came_along_and_nobody_asked_for_is_not_told_unless_a_key_sets_the_fact(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def unmet() -> set[str]:
        return {one["id"] for one in findings(capsys) if one["code"] == "tenant-unmet"}

    config = site / "pointsman.yaml"
    change(config, "dir: policies, default: first", "default: default")
    assert unmet() == set()
    change(config, "home: eu}", "licence: spdx_only, domicile: SG}")
    assert unmet() == set()
    change(config, "licence: spdx_only", "licence: nothing_but_spdx")
    assert unmet() == {*_licences()} != set()


def _licences() -> list[str]:
    """The constraints of the shipped default that ask for `tenant.licence`."""
    doc = load_policy(bundled.policies() / "default.yaml").doc
    return [one.id for one in doc.constraints if "tenant.licence" in (one.when or {})]


def test_a_name_that_is_nearly_right_says_what_is_missing(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(site / "pointsman.yaml", "gpt-4o: auto", "gpt-4o: auto/cost-first")
    assert main(["check"]) == 2
    assert "cost-first comes along with Pointsman and is off because of policies.dir" in capsys.readouterr().err
    change(site / "policies" / "first.yaml", "when: {task: code}", "when: {team: health}")
    assert main(["check"]) == 2
    assert "there is no signal 'team': did you mean tenant.team?" in capsys.readouterr().err


def test_a_key_of_many_facts_may_use_what_its_facts_allow(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(site / "pointsman.yaml", "home: eu}, allow: [auto]", "home: us}, allow: [auto, scout]")
    assert not [one for one in findings(capsys) if one["code"] == "allow-refused"]


def test_a_finding_is_told_with_file_line_code_and_an_example(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(site / "policies" / "first.yaml", 'use: [{family: "*"}]}\ntests', "use: [{family: llama}]}\ntests")
    assert main(["check"]) == 0
    told = capsys.readouterr().out.splitlines()
    (line,) = [number for number, said in enumerate(told) if "[constraint-strands]" in said]
    assert told[line].startswith("policies/first.yaml:5: warning: home: leaves no target for `default`")
    assert told[line + 1] == "    given: {tenant.home: eu}"


def test_what_is_accepted_no_longer_fails_a_strict_check(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = site / "policies" / "first.yaml"
    assert main(["check", "--strict"]) == 0
    change(policy, 'use: [{family: "*"}]}\ntests', "use: [{family: llama}]}\ntests")
    assert main(["check", "--strict"]) == 1
    assert "not ok: " in capsys.readouterr().out
    accepted = "accept:\n" + "".join(
        f"  - {{finding: {code}, id: {identity}, because: sold so}}\n"
        for code, identity in (("constraint-strands", "home"), ("rule-lacks", "default"), ("family-locked", "default"))
    )
    change(policy, "tests:", accepted + "tests:")
    assert main(["check", "--strict"]) == 0
    assert "accepted warning: home: leaves no target" in capsys.readouterr().out


@pytest.mark.parametrize("where", ["policy", "part"])
@pytest.mark.parametrize(
    ("code", "identity", "old", "new"),
    [
        ("allow-refused", "shop", "allow: [auto]", "allow: [auto, scout]"),
        ("place-unmet", "shop", "home: eu}", "home: eu, residency: mars}"),
        ("alias-shadows", "scout", "{gpt-4o: auto}", "{gpt-4o: auto, scout: auto}"),
        ("tenant-unread", "shop", "home: eu}", "home: eu, owner: me}"),
    ],
)
def test_what_is_found_of_keys_and_names_can_be_accepted(
    site: Path, capsys: pytest.CaptureFixture[str], where: str, code: str, identity: str, old: str, new: str
) -> None:
    change(site / "pointsman.yaml", old, new)
    assert main(["check", "--strict"]) == 1
    accept = f"accept: [{{finding: {code}, id: {identity}, because: it was agreed}}]\n"
    if where == "policy":
        change(site / "policies" / "first.yaml", "tests:", accept + "tests:")
    else:
        (site / "over.part.yaml").write_text(
            f"part: over\nconstraints: [{{id: no-gpt, forbid: {{family: gpt-oss}}}}]\n{accept}"
        )
        change(site / "pointsman.yaml", "default: first}", "default: first, overlays: [over.part.yaml]}")
    assert main(["check", "--strict"]) == 0
    assert "(accepted: it was agreed)" in capsys.readouterr().out
    assert "accept-unused" not in {one["code"] for one in findings(capsys)}


def test_what_a_part_over_all_policies_accepts_is_accepted_and_need_not_be_found_in_each(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lone = "policy: lone\nrules: [{id: default, use: [{family: llama}]}]\n"
    (site / "policies" / "lone.yaml").write_text(lone)
    change(site / "pointsman.yaml", "default: first}", "default: first, overlays: [over.part.yaml]}")
    found = {"family-locked", "constraint-strands", "rule-lacks"}
    accept = "".join(f"  - {{finding: {code}, id: default, because: it is so}}\n" for code in sorted(found))
    part = "part: over\nconstraints:\n  - {id: no-gpt, forbid: {family: gpt-oss}}\n"
    (site / "over.part.yaml").write_text(part)
    assert main(["check", "--strict"]) == 1
    (site / "over.part.yaml").write_text(f"{part}accept:\n{accept}")
    assert main(["check", "--strict"]) == 0
    told = findings(capsys)
    assert {one["code"] for one in told if one["accepted"]} == found - {"constraint-strands"}
    assert "accept-unused" not in {one["code"] for one in told}


def test_what_is_named_to_be_left_out_need_not_be_there(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(
        site / "policies" / "first.yaml", "forbid: {target.region: us}", "forbid: {target.region: {not: [eu, mars]}}"
    )
    assert not [one for one in findings(capsys) if one["code"] == "name-unknown"]
    change(site / "policies" / "first.yaml", "{not: [eu, mars]}", "[us, mars]")
    (told,) = [one for one in findings(capsys) if one["code"] == "name-unknown"]
    assert told["message"] == "no target of this fleet has target.region mars"


def test_a_constraint_that_leaks_does_not_load(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(site / "pointsman.yaml", "region: us, processing: us, ", "")
    change(site / "policies" / "first.yaml", "{target.region: us}", "{target.region: {not: eu}}")
    assert main(["check"]) == 2
    told = capsys.readouterr().err
    assert "first.yaml:5: constraints[0].forbid: does not reach targets whose target.region is not known: scout" in told


def test_json_is_the_same_for_programs(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["format"], told["ok"], told["against"], told["warnings"]) == (FORMAT, True, "fleet", [])
    members = {"policy", "code", "severity", "id", "file", "line", "path", "message", "fix", "given", "accepted"}
    assert {frozenset(one) for one in told["findings"]} == {frozenset(members)}


def test_one_policy_is_judged_alone_and_an_unknown_one_is_told(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {one["policy"] for one in findings(capsys, "--policy", "first")} == {"first"}
    assert main(["check", "--policy", "frist"]) == 2
    assert "did you mean first?" in capsys.readouterr().err


def test_the_reference_fleet_needs_no_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["check", "--against", "reference", "--policy", "default"]) == 0
    assert capsys.readouterr().out.endswith("ok: 1 policy on the reference fleet\n")


IMPOSSIBLE = """\
policy: early
tokens_by: qwen3.5
rules:
  - {id: huge, when: {context_tokens: {gt: 1M}}, use: [{model: qwen3.5-35b-a3b, target.window: {gte: 2M}}, "*"]}
  - {id: default, use: ["*"]}
"""


def test_policies_are_judged_against_the_catalogue_before_there_is_an_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "early.yaml").write_text(IMPOSSIBLE)
    against = ["check", "--against", "catalogue", "--policies", "early.yaml"]
    assert main(against) == 0
    told = capsys.readouterr().out
    assert told.splitlines()[0] == (
        "early.yaml:4: warning: huge: no target that any installation could have is (model: qwen3.5-35b-a3b, "
        "target.window: {gte: 2M}) (without `target.window: {gte: 2M}`: qwen3.5-35b-a3b, where 1,010,000 are the most) "
        "[rung-impossible]"
    )
    assert re.search(r"^ok: 1 policy on all that \d+ models and \d+ offers could be$", told, re.M)
    assert main([*against, "--strict"]) == 1
    accept = "accept: [{finding: rung-impossible, id: huge, because: it comes in spring}]\n"
    (tmp_path / "early.yaml").write_text(IMPOSSIBLE + accept)
    assert main([*against, "--strict"]) == 0


def test_what_is_told_against_the_catalogue_is_the_same_for_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "early.yaml").write_text(IMPOSSIBLE)
    assert main(["check", "--against", "catalogue", "--policies", "more", "--json", "--strict"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["format"], told["ok"], told["against"], told["config"]) == (FORMAT, False, "catalogue", None)
    (one,) = [one for one in told["findings"] if one["code"] == "rung-impossible"]
    assert (one["policy"], one["id"], one["file"], one["line"]) == ("early", "huge", "more/early.yaml", 4)
    assert one["path"] == "rules[0].use[0].target.window"


@pytest.mark.parametrize("against", ["catalogue", "reference"])
def test_policies_that_are_named_are_all_judged_or_it_is_said_why_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, against: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.yaml").write_text(POLICY)
    (tmp_path / "b.yaml").write_text(POLICY)
    (tmp_path / "c.yaml").write_text(POLICY.replace('use: [{family: "*"}]', "use: [{model: house-7b}]"))

    def said(*paths: str) -> str:
        assert main(["check", "--against", against, *(word for path in paths for word in ("--policies", path))]) == 2
        return capsys.readouterr().err

    assert said("empty") == "empty: holds no policy: a folder of *.yaml files\n1 to put right\n"
    assert said("a.yaml", "b.yaml").startswith(
        "b.yaml:1: policy: first is the policy of a.yaml already: a name of its own\n"
    )
    assert "house-7b" in (told := said("c.yaml"))
    assert "; or --config FILE, whose catalog: names it\n" in told
    assert (
        main(["check", "--against", against, "--policies", "a.yaml", "--policies", "../" + tmp_path.name + "/a.yaml"])
        == 0
    )


def test_a_part_is_judged_against_the_catalogue_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    part = "part: p\nconstraints:\n  - {id: big, require: {model.params_active_b: {gt: 5k}}}\n"
    (tmp_path / "p.part.yaml").write_text(part)
    assert main(["check", "--against", "catalogue", "--policies", "p.part.yaml", "--strict"]) == 1
    assert (
        "p.part.yaml:3: warning: big: what it requires is known to hold of no target that any installation could have"
        in (capsys.readouterr().out)
    )


def test_a_catalogue_of_one_s_own_counts_and_a_model_it_does_not_know_does_not_load(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(site / "policies" / "first.yaml", 'use: [{family: qwen}, {family: "*"}]', "use: [{model: house-7b}, '*']")
    assert main(["check", "--against", "catalogue"]) == 2
    assert "first.yaml:7: rules[0].use[0].model: 'house-7b' is no model that is known" in capsys.readouterr().err
    source = "as_of: 2026-11-21\nsources: {own: {as_of: 2026-11, kind: operator, ref: ours}}\n"
    model = "models: {house-7b: {family: house, window: 32k, open_weights: false, source: own}}\n"
    (site / "own.yaml").write_text(f"catalogue: 1\n{source}{model}")
    change(site / "pointsman.yaml", "models: {gpt-4o: auto}", "models: {gpt-4o: auto}\ncatalog: own.yaml")
    assert main(["check", "--against", "catalogue"]) == 0
    told = capsys.readouterr().out
    assert "first.yaml:7: warning: code: names house-7b, which is API only and offered by nobody" in told
    change(site / "own.yaml", "open_weights: false", "open_weights: true")
    assert main(["check", "--against", "catalogue"]) == 0
    assert "house-7b" not in capsys.readouterr().out


def test_files_are_not_judged_on_a_fleet_that_does_not_serve_them(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--policies", "policies"]) == 2
    assert "--policies: are judged on no fleet: your own serves" in capsys.readouterr().err
    assert main(["check", "--against", "reference", "--policies", "policies/first.yaml"]) == 0


def test_an_example_can_be_pasted_into_a_test(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(site / "policies" / "first.yaml", 'use: [{family: "*"}]}\ntests', "use: [{family: llama}]}\ntests")
    (given,) = [one["given"] for one in findings(capsys) if one["code"] == "constraint-strands"]
    pasted = f"  - {{name: pasted, given: {flow(given)}, expect: {{rule: default}}}}\n"
    path = site / "policies" / "first.yaml"
    path.write_text(path.read_text() + pasted)
    results = run_tests(load_policy(path).bind(reference_fleet()))
    assert [result.name for result in results] == ["code is code", "pasted"]


def test_the_documented_codes_are_those_there_are() -> None:
    text = (bundled.policies() / "README.md").read_text(encoding="utf-8")
    table = text.partition("| Code | Severity at most | Says |\n|---|---|---|\n")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `([a-z-]+)` \| (\w+) \| (.*) \|$", table, re.M)
    assert {code: (severity, says) for code, severity, says in rows} == dict(CODES)
    assert len(rows) == len(CODES)


def test_the_documented_acceptance_accepts(capsys: pytest.CaptureFixture[str]) -> None:
    text = (bundled.policies() / "README.md").read_text(encoding="utf-8")
    (block,) = [one for one in re.findall(r"^```yaml\n(.*?)^```$", text, re.M | re.S) if "accept:" in one]
    document = yamlfile.loads("policy: example\nas_of: 2026-11-21\n" + block, "README.md")
    made = PolicyFile(document, validated(document, PolicyDoc)).bind(reference_fleet())
    told = [one for one in analyse(made) if one.code == "constraint-strands"]
    assert [(one.id, bool(one.accepted)) for one in told] == [("own-machines", True)]
