"""Files that policies include: what is read, what is refused and where it says so, and what overlays hold over all."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from gateway import includes
from gateway.core.errors import ConfigError
from gateway.policyfile import PolicyFile, load_policy, policy_files, reference_fleet
from gateway.reload import fingerprint
from gateway.site import Site, SiteError, load_site

NO_LLAMA = """part: no-llama
as_of: 2026-11-21
constraints:
  - {id: no-llama, forbid: {family: llama}}
tests:
  - {name: no Llama, given: {}, expect: {never_family: llama}}
  - {name: not by name either, given: {pinned: llama-4-scout}, expect: {refused: policy_denied}}
"""
AT_HOME = "part: home\nconstraints:\n  - {id: home, require: {target.self_hosted: true}}\n"


def policy(include: str = "", more: str = "", name: str = "p") -> str:
    said = f"include: [{include}]\n" if include else ""
    return f"policy: {name}\nas_of: 2026-11-21\n{said}rules: [{{id: all, use: ['*']}}]\n{more}"


def written(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder / "p.yaml"


def loaded(folder: Path, files: dict[str, str]) -> PolicyFile:
    return load_policy(written(folder, files))


def told(folder: Path, files: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(folder, files).run_tests(reference_fleet())
    return [str(problem).replace(f"{folder}/", "") for problem in caught.value.problems]


# What is read


def test_parts_are_taken_in_with_those_that_they_include_each_once(tmp_path: Path) -> None:
    file = loaded(tmp_path, {
        "p.yaml": policy("parts/both.yaml, no-llama.part.yaml"),
        "parts/both.yaml": "part: both\ninclude: [home.yaml, ../no-llama.part.yaml]\n",
        "parts/home.yaml": AT_HOME, "no-llama.part.yaml": NO_LLAMA,
    })  # fmt: skip
    assert [entry.id for entry in file.doc.constraints] == ["home", "no-llama"]
    found = file.bind(reference_fleet())
    assert {constraint.id for constraint in found.forbids} == {"home", "no-llama"}
    assert [path.name for path in policy_files(tmp_path)] == ["p.yaml"]  # parts are no policies


def test_the_tests_of_a_part_run_in_every_policy_that_includes_it(tmp_path: Path) -> None:
    files = {"p.yaml": policy("no-llama.part.yaml"), "no-llama.part.yaml": NO_LLAMA}
    results = loaded(tmp_path, files).run_tests(reference_fleet())
    assert [result.name for result in results if result.passed] == ["no Llama", "not by name either"]


def test_a_test_of_a_part_that_fails_is_told_at_its_line_there(tmp_path: Path) -> None:
    wrong = NO_LLAMA.replace("never_family: llama", "never_family: qwen")
    file = loaded(tmp_path, {"p.yaml": policy("no-llama.part.yaml"), "no-llama.part.yaml": wrong})
    (problem,) = file.failures(reference_fleet())
    assert (Path(problem.file).name, problem.line, problem.path) == ("no-llama.part.yaml", 6, "tests[0]")


def test_a_part_can_be_tested_by_itself(tmp_path: Path) -> None:
    path = written(tmp_path, {"p.yaml": NO_LLAMA})
    assert all(result.passed for result in load_policy(path, part=True).run_tests(reference_fleet()))


def test_what_policies_around_a_part_decide_is_tested_of_the_part_alone(tmp_path: Path) -> None:
    more = NO_LLAMA + "  - {name: others go on, given: {pinned: qwen-plus}, expect: {target: qwen-plus}}\n"
    path = written(tmp_path, {"p.yaml": more})
    alone = load_policy(path, part=True).run_tests(reference_fleet())
    assert [result.passed for result in alone] == [True, True, True]
    around = loaded(tmp_path, {"p.yaml": policy("no-llama.part.yaml"), "no-llama.part.yaml": more})
    assert [result.name for result in around.run_tests(reference_fleet())] == ["no Llama", "not by name either"]


def test_a_part_s_promise_is_kept_where_the_policy_around_it_refuses(tmp_path: Path) -> None:
    """The demand of another constraint is no failure of this one; of a test of the policy's own a refusal is."""
    strict = "constraints: [{id: nowhere, require: {target.region: mars}}]\n"
    own = strict + "tests: [{name: own, given: {}, expect: {never_family: llama}}]\n"
    files = {"p.yaml": policy("no-llama.part.yaml", own), "no-llama.part.yaml": NO_LLAMA}
    results = loaded(tmp_path, files).run_tests(reference_fleet())
    assert {result.name: result.passed for result in results} == {
        "own": False, "no Llama": True, "not by name either": True
    }  # fmt: skip


def test_the_digest_is_of_all_that_was_included(tmp_path: Path) -> None:
    files = {"p.yaml": policy("a/a.yaml"), "a/a.yaml": "part: a\ninclude: [b.yaml]\n", "a/b.yaml": AT_HOME}
    before = loaded(tmp_path, files).bind(reference_fleet()).digest
    after = loaded(tmp_path, {"a/b.yaml": AT_HOME + "# another byte\n"}).bind(reference_fleet()).digest
    plain = loaded(tmp_path, {"p.yaml": policy()})
    assert len({before, after, plain.bind(reference_fleet()).digest}) == 3
    assert plain.document.sha256 == plain.bind(reference_fleet()).digest


# What is refused


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"p.yaml": policy("none.yaml")}, "p.yaml:3: include[0]: there is no file none.yaml"),
        ({"p.yaml": policy("../x.yaml")}, "p.yaml:3: include[0]: ../x.yaml lies outside the folder of the policy"),
        ({"p.yaml": policy("/etc/x.yaml")}, "p.yaml:3: include[0]: '/etc/x.yaml' names no file to include"),
        ({"p.yaml": policy("p.yaml")}, "p.yaml:3: include[0]: p.yaml includes itself: no circle"),
        ({"p.yaml": policy("q.yaml"), "q.yaml": policy(name="q")}, "include[0]: q.yaml is a policy"),
        ({"p.yaml": policy("a.part.yaml"), "a.part.yaml": "part: a\ninclude: [b.part.yaml]\n",
          "b.part.yaml": "part: b\ninclude: [a.part.yaml]\n"},
         "b.part.yaml:2: include[0]: a.part.yaml includes itself, by way of others"),
        ({"p.yaml": policy("a.part.yaml"), "a.part.yaml": "part: a\nrules: []\n"}, "a.part.yaml:2: rules: there is no"),
        ({"p.yaml": policy("a.part.yaml"), "a.part.yaml": "part: a\nx: &y 1\n"}, "a.part.yaml:2: anchors and aliases"),
        ({"p.yaml": policy("a.part.yaml"), "a.part.yaml": AT_HOME.replace("self_hosted", "selfhosted")},
         "a.part.yaml:3: constraints[0].require.target.selfhosted: 'target.selfhosted' is no fact"),
        ({"p.yaml": policy("a.part.yaml", "constraints: [{id: home, forbid: {family: gpt}}]"), "a.part.yaml": AT_HOME},
         "a.part.yaml:3: constraints[0].id: 'home' is another constraint's id already"),
        ({"p.yaml": AT_HOME}, "p.yaml:1: part: holds constraints for policies to include, and lies among policies"),
        ({"p.yaml": policy("a.part.yaml"), "a.part.yaml": AT_HOME + "tests: [{name: t, expect: {never_model: [x]}}]\n"},
         "a.part.yaml:4: tests[0].expect.never_model"),
    ],
)  # fmt: skip
def test_what_cannot_be_included_is_told_where_it_is_said(tmp_path: Path, files: dict[str, str], says: str) -> None:
    assert says in "\n".join(told(tmp_path, files))


def test_a_link_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "outside.yaml").write_text(AT_HOME, encoding="utf-8")
    (tmp_path / "in").mkdir()
    os.symlink(tmp_path / "outside.yaml", tmp_path / "in" / "a.part.yaml")
    (said,) = told(tmp_path / "in", {"p.yaml": policy("a.part.yaml")})
    assert "lies outside the folder" in said


def test_a_folder_that_is_itself_a_link_is_a_folder(tmp_path: Path) -> None:
    written(tmp_path / "real", {"p.yaml": policy("a.part.yaml"), "a.part.yaml": AT_HOME})
    os.symlink(tmp_path / "real", tmp_path / "link")
    assert [entry.id for entry in load_policy(tmp_path / "link" / "p.yaml").doc.constraints] == ["home"]


def test_what_is_not_a_plain_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.part.yaml")
    assert "there is no file a.part.yaml" in told(tmp_path, {"p.yaml": policy("a.part.yaml")})[0]


# Bombs: refused before they are read


def test_a_tree_that_doubles_with_every_level_is_read_once_a_file(tmp_path: Path) -> None:
    files = {"p.yaml": policy("l0.part.yaml, l0.part.yaml")}
    for level in range(6):
        names = f"l{level + 1}.part.yaml, l{level + 1}.part.yaml, l{level + 1}.part.yaml"
        files[f"l{level}.part.yaml"] = f"part: l{level}\ninclude: [{names}]\n"
    files["l6.part.yaml"] = AT_HOME
    assert [entry.id for entry in loaded(tmp_path, files).doc.constraints] == ["home"]


@pytest.mark.parametrize("shape", ["deep", "wide", "large"])
def test_too_much_is_refused_soon(tmp_path: Path, shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    load = includes.yamlfile.load
    monkeypatch.setattr(includes.yamlfile, "load", lambda path, **more: read.append(str(path)) or load(path, **more))
    files = {"p.yaml": policy("a0.part.yaml")}
    if shape == "deep":
        files |= {f"a{i}.part.yaml": f"part: a\ninclude: [a{i + 1}.part.yaml]\n" for i in range(40)}
    elif shape == "wide":
        names = [", ".join(f"b{10 * j + i}.part.yaml" for i in range(10)) for j in range(10)]
        files["p.yaml"] = policy(", ".join(f"a{j}.part.yaml" for j in range(10)))
        files |= {f"a{j}.part.yaml": f"part: a\ninclude: [{names[j]}]\n" for j in range(10)}
        files |= {f"b{i}.part.yaml": "part: b\n" for i in range(100)}
    else:
        files["a0.part.yaml"] = "part: a\n" + "# x\n" * 70_000
    said = told(tmp_path, files)
    assert len(said) == 1
    assert "32 files or 8 levels" in said[0] or "more than 256 KiB are included" in said[0]
    assert len(read) <= 1 + includes.MAX_FILES


# Overlays

FLEET = """policies: {dir: policies, default: p, overlays: [over.yaml]}
backends:
  own: {dialect: vllm, self_hosted: true, region: eu, base_url: "http://127.0.0.1:9/v1"}
  rented: {dialect: openai, region: us, base_url: "http://127.0.0.1:9/v1"}
targets:
  a: {model: qwen3.5-35b-a3b, backend: own, window: 32k, price: none}
  b: {model: llama-4-scout, backend: rented, window: 32k, price: none}
"""


def site(folder: Path, files: dict[str, str], **more: Any) -> Site:
    written(folder, {"pointsman.yaml": FLEET, **files})
    return load_site(folder / "pointsman.yaml", {}, **more)


def refused(folder: Path, files: dict[str, str]) -> SiteError:
    with pytest.raises(SiteError) as caught:
        site(folder, files)
    return caught.value


def test_an_overlay_holds_over_every_policy(tmp_path: Path) -> None:
    files = {"policies/p.yaml": policy(), "policies/q.yaml": policy(name="q"), "over.yaml": NO_LLAMA}
    made = site(tmp_path, files)
    assert {name: [one.id for one in each.forbids] for name, each in made.policies.items()} == {
        "p": ["no-llama"], "q": ["no-llama"],
    }  # fmt: skip
    plain = FLEET.replace(", overlays: [over.yaml]", "")
    without = site(tmp_path, {**files, "pointsman.yaml": plain})
    assert without.policies["p"].digest != made.policies["p"].digest
    assert without.digest != made.digest


def test_a_policys_own_tests_do_not_see_overlays_and_those_of_an_overlay_run_under_it(tmp_path: Path) -> None:
    own = "tests: [{name: Llama is there, given: {}, expect: {family: [llama, qwen, gemma, gpt-oss, deepseek]}}]\n"
    needs_llama = "tests: [{name: Llama is there, given: {pinned: llama-4-scout}, expect: {family: llama}}]\n"
    for tests in (own, needs_llama):
        assert site(tmp_path, {"policies/p.yaml": policy(more=tests), "over.yaml": NO_LLAMA}).policies
    broken = refused(
        tmp_path,
        {
            "policies/p.yaml": policy(),
            "over.yaml": NO_LLAMA.replace("forbid: {family: llama}", "forbid: {family: gemma}"),
        },
    )
    assert "over.yaml:6: tests[0]: the test 'no Llama' fails" in str(broken)


def test_a_policy_that_includes_what_lies_over_it_has_it_once(tmp_path: Path) -> None:
    text = FLEET.replace("over.yaml", "policies/no-llama.part.yaml")
    files = {
        "pointsman.yaml": text,
        "policies/p.yaml": policy("no-llama.part.yaml"),
        "policies/no-llama.part.yaml": NO_LLAMA,
    }
    assert len(site(tmp_path, files).policies["p"].forbids) == 1


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "over.yaml cannot be read: No such file"),
        ({"over.yaml": "part: o\nrules: []\n"}, "over.yaml:2: rules: there is no key 'rules' here"),
        ({"over.yaml": policy()}, "over.yaml:1: policy: is a policy, and only parts can lie over others"),
        ({"over.yaml": "part: o\ninclude: [gone.yaml]\n"}, "over.yaml:2: include[0]: there is no file gone.yaml"),
        ({"over.yaml": NO_LLAMA, "policies/p.yaml": policy(more="constraints: [{id: no-llama, avoid: {family: x}}]\n")},
         "over.yaml:4: constraints[0].id: 'no-llama' is another constraint's id already"),
    ],
)  # fmt: skip
def test_without_its_overlay_nothing_is_served(tmp_path: Path, files: dict[str, str], says: str) -> None:
    assert says in str(refused(tmp_path, {"policies/p.yaml": policy(), **files}))


def test_included_files_and_overlays_are_watched_also_those_that_are_broken(tmp_path: Path) -> None:
    files = {"policies/p.yaml": policy("parts/a.yaml"), "policies/parts/a.yaml": AT_HOME, "over.yaml": NO_LLAMA}
    made = site(tmp_path, files)
    before = fingerprint(made.watched())
    for name in ("policies/parts/a.yaml", "over.yaml"):
        assert (tmp_path / name) in {path.resolve() for path in before}
    time.sleep(0.01)
    written(tmp_path, {"policies/parts/a.yaml": AT_HOME + "#"})
    assert fingerprint(made.watched()) != before
    error = refused(
        tmp_path, {"policies/parts/a.yaml": "part: a\ninclude: [b.yaml]\n", "policies/parts/b.yaml": "part: \n"}
    )
    assert tmp_path / "policies/parts/b.yaml" in {path.resolve() for path in error.files}


@pytest.mark.parametrize(
    ("test", "says"),
    [
        (
            "request: hello.json, expect: {never_family: llama}",
            "names a file as its request, and a test of a part runs in policies elsewhere",
        ),
    ],
)
def test_a_test_that_a_part_may_not_have_is_told_at_its_line(tmp_path: Path, test: str, says: str) -> None:
    part = NO_LLAMA + f"  - {{name: odd, {test}}}\n"
    files = {"p.yaml": policy("no-llama.part.yaml"), "no-llama.part.yaml": part}
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, files)
    (problem,) = caught.value.problems
    assert (Path(problem.file).name, problem.line) == ("no-llama.part.yaml", len(part.splitlines()))
    assert f"the test 'odd' {says}" in str(problem)


def test_links_in_a_circle_are_told_by_line(tmp_path: Path) -> None:
    (tmp_path / "a.part.yaml").symlink_to("b.part.yaml")
    (tmp_path / "b.part.yaml").symlink_to("a.part.yaml")
    (problem,) = told(tmp_path, {"p.yaml": policy("a.part.yaml")})
    assert problem.startswith("p.yaml:3: include[0]: ")
