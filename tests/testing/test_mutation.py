"""Surveys of mutants: bounded, told step by step, and on whole files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from itertools import count
from pathlib import Path

import pytest

from gateway import yamlfile
from gateway.cli import main
from gateway.core.policy import PolicyDoc
from gateway.core.types import Fleet
from gateway.policyfile import PolicyFile, reference_fleet
from gateway.problems import validated
from gateway.testing.mutation import survey

POLICY = """\
policy: small
as_of: 2026-11-21
rules:
  - id: code
    when: {task: code}
    use: [{model: qwen3-coder-next}, {family: qwen}, "*", {family: llama}]
  - id: default
    use: [{family: llama}, "*"]
tests:
  - {name: code, given: {task: code}, expect: {models: [qwen3-coder-next], families: [qwen]}}
  - {name: chat, expect: {family: llama}}
"""


@cache
def fleet() -> Fleet:
    return reference_fleet()


def small() -> PolicyFile:
    document = yamlfile.loads(POLICY, "small.yaml")
    return PolicyFile(document, validated(document, PolicyDoc))


def test_a_survey_tells_what_was_noticed_what_was_not_and_what_could_not_be() -> None:
    found = survey(small(), fleet())
    assert {str(one) for one in found.survivors} == {
        "code: without {family: qwen}",
        "code: without *",
        "default: without {family: llama}",
        "default: without *",
    }
    assert [one.path for one in found.idle] == ["rules[0].use[3]"]
    assert (found.tried, found.untried) == (found.noticed + 4, 0)


def test_a_survey_ends_when_its_time_is_up_and_says_what_it_left() -> None:
    calls: Iterator[int] = count()
    found = survey(small(), fleet(), time_is_up=lambda: next(calls) >= 2)
    whole = survey(small(), fleet())
    assert found.untried == whole.tried + len(whole.idle) - 2


def test_a_survey_tells_its_progress() -> None:
    steps: list[tuple[int, int]] = []
    survey(small(), fleet(), step=lambda done, total: steps.append((done, total)))
    assert steps == [(i, len(steps)) for i in range(len(steps))]


PART = """\
part: house
as_of: 2026-11-21
include: [other.part.yaml]
sets: {theirs: [llama-4-scout, llama-4-maverick]}
constraints:
  - {id: theirs, forbid: {model: "@theirs"}}
tests:
  - {name: not theirs, expect: {never_model: llama-4-scout}}
"""


def test_of_a_part_only_what_it_says_itself_is_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "house.part.yaml"
    path.write_text(PART, encoding="utf-8")
    other = "part: other\nconstraints:\n  - {id: closed, forbid: {model.open_weights: false}}\n"
    (tmp_path / "other.part.yaml").write_text(other, encoding="utf-8")
    assert main(["test", "--mutants", "--coverage", str(path)]) == 1
    told = capsys.readouterr().out
    assert "coverage: 1 of 1 (100 %)" in told
    assert re.findall("  NOT NOTICED (.*)", told) == [
        "theirs: without llama-4-maverick (line 4: sets.theirs[1])",
    ]
    assert "all:" not in told
    assert "closed" not in told


def test_changes_that_are_not_tried_because_a_test_fails_are_said_to_be_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(POLICY.replace("expect: {family: llama}", "expect: {family: qwen}"), encoding="utf-8")
    assert main(["test", "--mutants", str(path)]) == 1
    told = capsys.readouterr().out
    assert "  no change was tried (--mutants): the tests have to pass on the policy as it is first\n" in told
    assert "changes of 1 file were not tried, for tests fail there already (--mutants)\n" in told
    assert main(["test", "--mutants", "--json", str(path)]) == 1
    assert json.loads(capsys.readouterr().out)["files"][0]["mutants"] == {"skipped": "a test fails"}


def test_a_folder_s_parts_are_judged_as_files_of_their_own_and_not_in_every_policy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "home.yaml").write_text(
        "part: home\nas_of: 2026-11-21\nconstraints:\n  - {id: home, require: {target.self_hosted: true}}\n"
        "tests: [{name: own machines, given: {pinned: qwen-plus}, expect: {refused: policy_denied}}]\n"
    )
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(
            f"policy: {name}\nas_of: 2026-11-21\ninclude: [parts/home.yaml]\n"
            "rules: [{id: all, use: [{family: qwen}, {family: llama}]}]\n"
            "tests: [{name: Qwen first, expect: {families: [qwen, llama]}}]\n"
        )
    assert main(["test", "--mutants", "--min-coverage", "100%", "--json", str(tmp_path)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [Path(one["file"]).name for one in told["files"]] == ["a.yaml", "b.yaml", "home.yaml"]
    (tmp_path / "parts" / "home.yaml").write_text(
        "part: home\nas_of: 2026-11-21\nconstraints:\n  - {id: home, require: {target.self_hosted: true}}\n"
    )
    assert main(["test", "--mutants", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert out.count("NOT NOTICED home: without this constraint (line 4: constraints[0])") == 1
    assert main(["test", "--mutants", str(tmp_path / "a.yaml")]) == 0, "one file is one file"


def test_of_a_change_that_no_test_notices_one_request_is_shown_that_it_concerns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "health.part.yaml"
    part = (
        "part: health\nas_of: 2026-11-21\nconstraints:\n  - id: home\n    when: {tenant.team: health}\n"
        "    require: {target.self_hosted: true, license.osi_approved: true}\ntests:\n"
        "  - {name: no Llama, given: {tenant.team: health}, expect: {never_family: [llama, gemma]}}\n"
    )
    path.write_text(part)
    assert main(["test", "--mutants", "--json", str(path)]) == 1
    survivors = json.loads(capsys.readouterr().out)["files"][0]["mutants"]["survivors"]
    (loose,) = [one["slip"] for one in survivors if one["change"] == "without tenant.team: health"]
    assert loose["given"] == {}
    assert loose["gained"] == []
    assert "qwen-plus" in loose["lost"]
    (slip,) = [one["slip"] for one in survivors if one["change"] == "without target.self_hosted: true"]
    assert slip["given"]["tenant.team"] == "health"
    assert "coder480-bedrock" in slip["gained"]
    assert main(["test", "--mutants", str(path)]) == 1
    told = capsys.readouterr().out
    shown = re.search(r"without target.self_hosted: true \(.*\)\n +lets in ([a-z0-9-]+).*; given: (\{.*\})\n", told)
    assert shown is not None, told
    # What is shown is a test of the part that holds, and notices.
    path.write_text(f"{part}  - {{name: own machines, given: {shown[2]}, expect: {{never_target: {shown[1]}}}}}\n")
    main(["test", "--mutants", str(path)])
    told = capsys.readouterr().out
    assert "2 passed, 0 failed" in told
    assert "target.self_hosted" not in told
