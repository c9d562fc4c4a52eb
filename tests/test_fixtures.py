"""Requests in files beside a policy: found, bounded, and nothing outside the folder read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.core.errors import ConfigError
from gateway.core.quantities import Invalid
from gateway.fixtures import MAX_BYTES, read
from gateway.policyfile import load_policy, reference_fleet

POLICY = """\
policy: small
as_of: 2026-11-21
rules:
  - {id: japanese, when: {language: ja}, use: [{family: qwen}]}
  - {id: default, use: [{family: llama}]}
tests:
  - name: written out
    request: {model: auto, messages: [{role: user, content: Hello there}]}
    expect: {rule: default}
  - name: from a file
    request: %s
    expect: {rule: japanese, family: qwen}
"""
BODY = '{"model": "auto", "messages": [{"role": "user", "content": "今日の天気はどうですか。"}]}'


def written(folder: Path, name: str) -> Path:
    path = folder / "small.yaml"
    path.write_text(POLICY % name, encoding="utf-8")
    return path


def test_a_file_beside_the_policy_is_read_wherever_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "policies" / "fixtures").mkdir(parents=True)
    (tmp_path / "policies" / "fixtures" / "ja.json").write_text(BODY, encoding="utf-8")
    path = written(tmp_path / "policies", "fixtures/ja.json")
    monkeypatch.chdir("/")
    assert [result.failures for result in load_policy(path).run_tests(reference_fleet())] == [(), ()]


def test_a_file_that_is_not_there_is_told_by_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_policy(written(tmp_path, "gone.json")).run_tests(reference_fleet())
    (problem,) = caught.value.problems
    assert (problem.line, problem.path) == (11, "tests[1].request")
    assert problem.what == "gone.json cannot be read: No such file or directory"


def test_nothing_outside_the_folder_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "policies"
    folder.mkdir()
    (tmp_path / "secret.json").write_text(BODY, encoding="utf-8")
    (folder / "link.json").symlink_to(tmp_path / "secret.json")
    for name in ("../secret.json", str(tmp_path / "secret.json"), "link.json", "x/../../secret.json"):
        with pytest.raises(Invalid) as caught:
            read(folder, name)
        assert "lies outside the folder of the policy" in caught.value.what


def test_what_is_no_plain_file_of_bounded_size_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with open(tmp_path / "large.json", "wb") as file:
        file.truncate(MAX_BYTES + 1)
    for name, what in (
        ("pipe", "is not a regular file"),
        ("folder", "folder"),
        ("large.json", "larger than 8 MiB"),
        ("a\0b", "is no name of a file"),
    ):
        with pytest.raises(Invalid) as caught:
            read(tmp_path, name)
        assert what in caught.value.what


@pytest.mark.parametrize("member", ["headers: {x-a: b}", "tenant: {team: shop}"])
def test_headers_and_tenant_need_a_request(tmp_path: Path, member: str) -> None:
    path = written(tmp_path, "gone.json")
    text = path.read_text(encoding="utf-8").replace("request: gone.json", member)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="belong to a request"):
        load_policy(path)


def test_links_in_a_circle_are_told_by_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").symlink_to("b.json")
    (tmp_path / "b.json").symlink_to("a.json")
    with pytest.raises(ConfigError) as caught:
        load_policy(written(tmp_path, "a.json")).run_tests(reference_fleet())
    (problem,) = caught.value.problems
    assert (problem.line, problem.path) == (11, "tests[1].request")
    assert problem.what.startswith("a.json cannot be read: ")


@pytest.mark.parametrize("amount", ["abc", "nan", "1e999999", "-1"])
def test_a_tenant_of_a_test_is_checked_like_a_key_s(tmp_path: Path, amount: str) -> None:
    path = written(
        tmp_path, f'{{model: auto, messages: [{{role: user, content: x}}]}}\n    tenant: {{max_cost_usd: "{amount}"}}'
    )
    with pytest.raises(ConfigError) as caught:
        load_policy(path)
    (problem,) = caught.value.problems
    assert (problem.line, problem.path) == (12, "tests[1].tenant")
    assert problem.what.startswith(f"max_cost_usd '{amount}' is not an amount")


def test_what_tests_name_is_watched_inside_the_folder_only(tmp_path: Path) -> None:
    for name, watched in (("fixtures/ja.json", 1), ("/etc/hosts", 0), ("../ja.json", 0), ('"a\\0b"', 0)):
        assert len(load_policy(written(tmp_path, name)).fixtures) == watched
