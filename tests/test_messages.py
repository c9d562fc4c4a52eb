"""What a newcomer's mistakes are answered with: one message a mistake, at its line, that says what would be valid."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.cli import main
from gateway.core.errors import ConfigError
from gateway.core.types import Fleet
from gateway.policyfile import load_policy, reference_fleet

HEAD = "policy: p\nas_of: 2026-11-21\n"
RULES = 'rules: [{id: default, use: ["*"]}]\n'


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return reference_fleet()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"{RULES}thinking: [{{id: a, set: {{budgt: 4k}}}}]",
         "4: thinking[0].set.budgt: there is no key 'budgt' here: did you mean budget?"),
        (f"{RULES}thinking: [{{id: a, set: 4k}}]",
         "4: thinking[0].set: '4k' is not known here: never, always, client or {budget: 4k}"),
        (f"{RULES}thinking: [{{id: a, set: {{budget: 0}}}}]",
         "4: thinking[0].set.budget: 0 is not a budget: at least one token, such as 4k"),
        (f"{RULES}rank: cheap", "4: rank: 'cheap' is not known here: did you mean cheapest?"),
        (f"{RULES}rank: price", "4: rank: 'price' is not known here: "
         "listed, cheapest, fastest, balanced, weighted, or a fact such as {lowest: target.input_usd}"),
        (f"{RULES}rank: {{highst: model.released}}",
         "4: rank.highst: there is no key 'highst' here: did you mean highest?"),
        ("rules: [{id: default, use: {family: qwen}}]",
         "3: rules[0].use: a mapping is not a list: [{family: '*'}]"),
        ("rules: [{id: default, use: [small]}]",
         '3: rules[0].use[0]: is no selector: "*", or a map such as {model: small} or {target.name: small}'),
        ("rules: [{id: default, targets: [small]}]",
         "3: rules[0].targets: there is no key 'targets' here: did you mean use?"),
        ("rules: [{id: default, if: {task: code}, use: ['*']}]",
         "3: rules[0].if: there is no key 'if' here: did you mean when?"),
        ("rules: [{id: Default Rule, use: ['*']}]", "3: rules[0].id: 'Default Rule' is no id: "
         "lower case letters, digits, `.`, `_` and `-`, at most 64, such as long-context"),
        ("rules: [{id: default, when: [{task: code}], use: ['*']}]", "3: rules[0].when: is no condition: "
         "a map such as {task: code}; of a list, {all: [...]} or {any: [...]}"),
        ("rules: [{id: default, when: {context_length: {gt: 1}}, use: ['*']}]", "3: rules[0].when.context_length: "
         "there is no signal 'context_length': did you mean context_tokens?"),
        ("rules: [{id: default, when: {context_tokens: {'>': 200k}}, use: ['*']}]",
         "3: rules[0].when.context_tokens.>: context_tokens is a number and has no '>': did you mean gt?"),
        ("rules: [{id: default, when: {context_tokens: '> 200k'}, use: ['*']}]", "3: rules[0].when.context_tokens: "
         "'> 200k' is not a size: {gt: 200k}, with gt, gte, lt or lte"),
        ("rules: [{id: default, when: {context_tokens: {gt: 200,000}}, use: ['*']}]",
         "3: the key 0 is not text: a key in quotes; numbers have no commas: 200000 or 200k"),
        ("sets: {general: [qwen3.5-9b]}\nrules: [{id: default, use: [{model: general}]}]",
         "4: rules[0].use[0].model: 'general' is no model that is known: did you mean \"@general\", the set?"),
        ("rules: [{id: default, use: [*]}]",
         "3: is not YAML: expected alphabetic or numeric character, but found ']': "
         'quotes around what begins with * or &: "*"'),
        ("rules: [{id: default, use: [{model: @general}]}]",
         "3: is not YAML: found character '@' that cannot start any token: "
         'quotes around what begins with @: "@general"'),
        ("rules:\n\t- id: default", "4: is not YAML: found character '\\t' that cannot start any token: "
         "spaces in place of tabs"),
        ("rules:\n - id: a\n   use: ['*']\n  - id: b", "6: is not YAML: expected <block end>, but found "
         "'<block sequence start>': the same indentation for all entries of a list, and for all keys of a mapping"),
        (f"{RULES}constraints:\n  - id: a\n    forbid: {{family: llama}}\n  - id: a\n    forbid: {{family: qwen}}",
         "7: constraints[1].id: the id 'a' stands here a second time (first on line 5): each id once"),
        (f"{RULES}constraints: [{{id: a, deny: {{family: llama}}}}]",
         "4: constraints[0].deny: there is no key 'deny' here: did you mean forbid?"),
        (f"{RULES}sticky: 30m", "4: sticky: '30m' is not a mapping: {for: 30m}"),
        (f"{RULES}latency: [{{id: l, first_event: 2s}}]",
         "4: latency[0].first_event: '2s' is not a mapping: {p90: 2s}"),
        (f"{RULES}include: [default.yaml]",
         "4: include[0]: there is no file default.yaml: a part, with part: in place of policy: and no rules; "
         "to add a constraint to default.yaml, lay a part over it with policies: {overlays: [...]} in pointsman.yaml"),
        (f"{RULES}include: [parts/tenants.yaml]",
         "4: include[0]: there is no file parts/tenants.yaml: "
         "a copy of it beside this file: it comes along with Pointsman in the folder of policies"),
        (f"{RULES}include: [q.yaml]", "4: include[0]: q.yaml is a policy, and only parts are included: "
         "a part, with part: in place of policy: and no rules; "
         "to add a constraint to q.yaml, lay a part over it with policies: {overlays: [...]} in pointsman.yaml"),
        (f"{RULES}tests: [{{name: t, expect: {{target: small}}}}]", "4: tests[0].expect.target: 'small' is no target "
         "of the fleet that tests run on, catalog/reference-fleet.yaml: one of scout-us, "),
    ],
)  # fmt: skip
def test_a_mistake_has_one_message_with_its_line_and_what_would_be_valid(
    tmp_path: Path, fleet: Fleet, text: str, says: str
) -> None:
    (tmp_path / "p.yaml").write_text(HEAD + text + "\n", encoding="utf-8")
    (tmp_path / "q.yaml").write_text(f"policy: q\n{RULES}", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_policy(tmp_path / "p.yaml").run_tests(fleet)
    (problem,) = caught.value.problems
    assert str(problem).replace(f"{tmp_path}/", "").startswith(f"p.yaml:{says}")


def test_a_file_that_says_neither_policy_nor_part_is_told_of_both(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("constraints: [{id: a, forbid: {family: llama}}]\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_policy(tmp_path / "p.yaml", part=True)
    assert [str(one).removeprefix(f"{tmp_path}/") for one in caught.value.problems] == [
        "p.yaml:1: policy: is missing: policy: a name such as default; or part: in its place, for constraints that "
        "policies share",
        "p.yaml:1: rules: is missing: rules: [{id: default, use: [{family: '*'}]}]",
    ]


CONFIG = """policies: {dir: policies, default: p}
backends:
  here: {dialect: vllm, self_hosted: true, base_url: "http://127.0.0.1:9/v1"}
targets:
  small: {model: qwen3.5-9b, backend: here, window: 32k, price: none}
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "p.yaml").write_text(HEAD + RULES)
    (tmp_path / "pointsman.yaml").write_text(CONFIG)
    return tmp_path


@pytest.mark.parametrize(
    ("overlay", "text", "says"),
    [
        ("gone.yaml", None, "gone.yaml cannot be read: No such file or directory: a path relative to this file"),
        ("policies", None, "policies cannot be read: Is a directory: a file, not a folder"),
        ("large.yaml", "x" * (1 << 20) + "x", "large.yaml is larger than 1 MiB: several smaller files"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_where_it_is_asked_for(
    site: Path, capsys: pytest.CaptureFixture[str], overlay: str, text: str | None, says: str
) -> None:
    config = CONFIG.replace("default: p}", f"default: p, overlays: [{overlay}]}}")
    (site / "pointsman.yaml").write_text(config)
    if text is not None:
        (site / overlay).write_text(text)
    assert main(["check"]) == 2
    assert capsys.readouterr().err.startswith(f"pointsman.yaml:1: policies.overlays[0]: {says}\n")


def test_an_overlay_that_is_a_policy_is_told_to_be_none(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = CONFIG.replace("default: p}", "default: p, overlays: [policies/p.yaml]}")
    (site / "pointsman.yaml").write_text(config)
    assert main(["check"]) == 2
    assert capsys.readouterr().err == (
        "policies/p.yaml:1: policy: is a policy, and only parts can lie over others: "
        "part: in place of policy:, and nothing that routes\n1 to put right\n"
    )


def test_an_id_that_a_part_takes_again_is_told_with_where_it_stood_first(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    constraints = "constraints:\n  - {id: home, avoid: {family: llama}}\n"
    (site / "policies" / "p.yaml").write_text(HEAD + RULES + constraints)
    (site / "over.yaml").write_text("part: o\nconstraints:\n  - {id: home, forbid: {family: llama}}\n")
    (site / "pointsman.yaml").write_text(CONFIG.replace("default: p}", "default: p, overlays: [over.yaml]}"))
    assert main(["check"]) == 2
    assert capsys.readouterr().err.startswith(
        "over.yaml:3: constraints[0].id: 'home' is another constraint's id already: constraints add up, "
        "none takes another's place (first in policies/p.yaml:5): an id of its own\n"
    )


def test_without_the_keys_of_upstreams_check_says_how_to_do_without(
    site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOBODY_HAS_THIS", raising=False)
    config = CONFIG.replace("self_hosted: true,", "self_hosted: true, key: {env: NOBODY_HAS_THIS},")
    (site / "pointsman.yaml").write_text(config)
    assert main(["check"]) == 2
    assert capsys.readouterr().err == (
        "pointsman.yaml:3: backends.here.key: environment variable NOBODY_HAS_THIS is not set: set it "
        "before the gateway starts; or --no-keys, on a machine that will not serve it\n1 to put right\n"
    )
    (site / "pointsman.yaml").write_text(config.replace("qwen3.5-9b", "qwen3.5-9x"))
    assert main(["check"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert [line.endswith("a machine that will not serve it") for line in told] == [True, False, False]


def test_what_a_probe_would_cost_is_told_without_the_keys_of_upstreams(
    site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOBODY_HAS_THIS", raising=False)
    (site / "pointsman.yaml").write_text(CONFIG.replace("true,", "true, key: {env: NOBODY_HAS_THIS},"))
    assert main(["probe", "--dry-run", "smal"]) == 2
    assert capsys.readouterr().err == "pointsman probe: no target 'smal': did you mean small?\n"
    assert main(["probe", "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("probing 1 target: at most ")
    assert main(["probe"]) == 2
    assert "NOBODY_HAS_THIS is not set" in capsys.readouterr().err


def test_a_package_that_only_serving_needs_is_not_called_a_key(
    site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.ledger.postgres.installed", lambda: False)
    (site / "pointsman.yaml").write_text(CONFIG + "ledger: {postgres: {host: db, database: books, user: gateway}}\n")
    assert main(["check"]) == 2
    assert capsys.readouterr().err == (
        "pointsman.yaml:6: ledger.postgres: needs a package that is not installed: pip install 'pointsman[postgres]'; "
        "or --no-keys, on a machine that will not serve it\n1 to put right\n"
    )
    assert main(["check", "--no-keys"]) == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--policy", "q"], "no policy 'q': there is p"),
        (["--down", "smal"], "no target 'smal': did you mean small?"),
        (["--key", "me"], "no key 'me': none is configured"),
        (["--model", "auto/q"], "model 'auto/q': did you mean auto/p or auto?"),
    ],
)
def test_a_name_that_explain_does_not_know_is_answered_with_those_there_are(
    site: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert main(["explain", "--text", "Hello", *arguments]) in (1, 2)
    assert capsys.readouterr().err.rstrip().endswith(says)


OWN = ["init", "--config", "new.yaml", "--offline", "--backend", "vllm=http://127.0.0.1:9/v1"]
GONE = "cannot be read: No such file or directory: name another file with --config, or write one with `pointsman init`"


@pytest.mark.parametrize("command", [
    ["serve"], ["sidecar"], ["check", "--against", "reference"], ["probe"], ["catalog"], ["test"], ["top", "--once"],
    ["usage"], ["keys", "list"], ["keys", "create", "x"], ["explain", "--text", "Hello"],
    ["explain", "--diff", "HEAD"], ["replay", "one.jsonl", "--policy", "policies/p.yaml"],
])  # fmt: skip
def test_every_command_says_alike_what_to_do_where_there_is_no_configuration(
    site: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    (site / "one.jsonl").write_text("{}\n")
    assert main([*command, "--config", "gone.yaml"]) == 2
    assert f"gone.yaml: {GONE}\n" in capsys.readouterr().err
    assert main([*command, "--config", "policies"]) == 2
    assert "policies: cannot be read: Is a directory: a file, not a folder\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["keys", "limits", "--url", "foo"], 2, "--url: 'foo' is not a URL of a server: http://host:port/path or "),
        (["keys", "show", "x", "--url", "foo"], 2, "--url: 'foo' is not a URL of a server: http://host:port/path or "),
        (["keys", "create", "x", "--now", "--url", "foo"], 2, "--url: 'foo' is not a URL of a server: http://host"),
        (["keys", "limits", "--url", "http://127.0.0.1:1"], 1, "pointsman keys limits: no gateway answers at "
         "http://127.0.0.1:1: start it, or name its admin listener with --url\n"),
        (["top", "--once", "--url", "http://127.0.0.1:1"], 1, "pointsman top: http://127.0.0.1:1: connection refused: "
         "start the gateway, or name its admin listener with --url\n"),
        (["explain", "--request", "gone.json"], 2, "pointsman explain: gone.json: No such file or directory\n"),
        (["explain", "--text", "a", "--policies", "policies", "--records", "r"], 2,
         "--policies: means nothing here: it goes with --diff\n--records: means nothing here: it goes with --diff\n"),
        (["explain", "--diff", "HEAD", "--tenant", "team=a"], 2,
         "--tenant: means nothing here: it goes with --text or --request\n"),
        (["explain", "--request", "-", "--model", "a"], 2, "--model: means nothing here: it goes with --text\n"),
        (["test", "--junit", "policies"], 2, "pointsman test: policies: Is a directory\n"),
        (["catalog", "--overlay", "empty"], 2, "empty: holds no catalogue: a folder of *.yaml files\n"),
        (["catalog", "--language", "jp"], 1, "0 models; no list has 'jp': one of ar, de, "),
        (["replay", "torn.jsonl", "--policy", "policies/p.yaml"], 1,
         "pointsman replay: no record can be read; the first of 1 damaged: torn.jsonl:1: is no record: "),
        (["replay", "none.jsonl", "--policy", "policies/p.yaml"], 1,
         "pointsman replay: no record is meant: the files are empty, or --since, --until, --key or --team leave none"),
        ([*OWN, "--window", "x"], 2, "pointsman init: --window: 'x' is not a number of tokens: a whole number of "),
        ([*OWN, "--thinking", "x"], 2, "pointsman init: --thinking: 'x' is not one of them: one of never, "),
        ([*OWN, "--model", "qwen3.5-9b", "--window", "32k", "--public", "x"], 2,
         "pointsman init: --public: 'x' is not an address: host:port, such as 127.0.0.1:8080"),
        ([*OWN, "--model", "qwen3.5-9b", "--window", "32k", "--public", "0.0.0.0:80"], 2, "pointsman init: --public "
         "0.0.0.0:80: can be reached from other machines, but there are no keys: --key NAME beside it, or a loopback"),
        ([*OWN, "--model", "qwen3.5-9b", "--window", "32k", "--admin", "0.0.0.0:80"], 2, "pointsman init: --admin "
         "0.0.0.0:80: can be reached from other machines, but there is no admin_key: a loopback address; in the file"),
        ([*OWN, "--model", "qwen3.5-9b", "--window", "32k", "--key", "a/b"], 2,
         "pointsman init: --key: 'a/b' cannot be a name: letters, digits, "),
        (["init", "--config", "policies", "--force"], 2,
         "pointsman init: policies is a folder: --config with the name of a file\n"),
    ],
)  # fmt: skip
def test_an_option_that_makes_no_sense_is_told_by_its_name_with_what_would(
    site: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, says: str
) -> None:
    (site / "empty").mkdir()
    (site / "torn.jsonl").write_text("{}\n")
    (site / "none.jsonl").touch()
    before = sorted(site.rglob("*"))
    assert main(arguments) == code
    told = capsys.readouterr()
    assert says in (told.out if arguments[:2] == ["catalog", "--language"] else told.err)
    assert sorted(site.rglob("*")) == before


def test_help_for_a_command_that_is_none_points_to_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["help", "chek"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith("no command 'chek': did you mean check?\nAll there is: pointsman --help\n")
