"""`pointsman init`: what it writes works, it overwrites nothing, asks nobody who is not there, and keeps no secret."""

from __future__ import annotations

import hashlib
import io
import json
import re
import stat
import subprocess
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from gateway import yamlfile
from gateway.cli import main
from gateway.init import fromkeys
from gateway.init.command import Terminal, Wishes, run, said
from gateway.init.ownserver import recognise
from gateway.init.providers import hosted
from gateway.policyfile import load_catalogue
from gateway.site import Site, load_site
from tests.harness import Received, Upstream, plain

DAY = date(2026, 11, 22)
HOSTED = hosted(load_catalogue())
CANARY = "sk-canary-5f3759df"
OWN = ("--backend", "vllm=http://10.0.0.7:8000/v1", "--model", "qwen3.5-9b", "--window", "128k", "--offline")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for one in HOSTED.values():
        monkeypatch.delenv(one.key_env, raising=False)
        if one.base_env:
            monkeypatch.delenv(one.base_env, raising=False)
    return tmp_path


def loaded(path: str = "pointsman.yaml", **environ: str) -> Site:
    return load_site(Path(path), environ, secrets=bool(environ), today=DAY)


def lists(*entries: Mapping[str, Any]) -> Upstream:
    return Upstream([plain(body=json.dumps({"object": "list", "data": list(entries)}).encode())])


# --- from a server ---


def test_flags_make_a_file_that_check_accepts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", *OWN, "--thinking", "switchable", "--upstream-id", "my/qwen"]) == 0
    assert main(["check"]) == 0
    [target] = loaded().fleet.targets
    assert (target.model.id, target.upstream_id, target.window) == ("qwen3.5-9b", "my/qwen", 128_000)
    assert (target.backend.dialect, target.backend.self_hosted, target.thinking) == ("vllm", True, "switchable")
    assert Path("pointsman.yaml").read_text().startswith("# yaml-language-server: $schema=schemas/pointsman.json\n")
    assert json.loads(Path("schemas/pointsman.json").read_text())["title"] == "pointsman.yaml"


def test_a_plain_request_would_be_served(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", *OWN]) == 0
    capsys.readouterr()
    assert main(["explain", "--text", "Say hello."]) == 0
    assert capsys.readouterr().out.startswith("qwen3.5-9b-local (qwen3.5-9b) under rule")


def test_a_server_is_asked_for_its_models_and_what_it_takes() -> None:
    server = lists({"id": "Qwen/Qwen3.5-9B-FP8", "max_model_len": 40_960})
    assert main(["init", "--backend", f"vllm=http://127.0.0.1:{server.port}"]) == 0
    [target] = loaded().fleet.targets
    assert (target.model.id, target.upstream_id, target.window) == ("qwen3.5-9b", "Qwen/Qwen3.5-9B-FP8", 40_960)
    assert target.backend.endpoints[0].url == server.url
    assert [one.head.split(b" ")[:2] for one in server.requests] == [[b"GET", b"/v1/models"]]


def test_a_llama_cpp_server_says_its_window_elsewhere() -> None:
    def answer(conn: Any, request: Received) -> bool:
        body: dict[str, Any] = {"data": [{"id": "qwen3.5-4b-q4_k_m.gguf", "meta": {"n_ctx_train": 262_144}}]}
        if request.head.startswith(b"GET /props"):
            body = {"default_generation_settings": {"n_ctx": 16_384}}
        return plain(body=json.dumps(body).encode())(conn, request)

    server = Upstream([answer])
    assert main(["init", "--backend", f"llama.cpp={server.url}", "--model", "qwen3.5-4b"]) == 0
    [target] = loaded().fleet.targets
    assert (target.upstream_id, target.window) == ("qwen3.5-4b-q4_k_m.gguf", 16_384)


def test_the_key_of_a_server_opens_its_list_and_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", CANARY)
    server = lists({"id": "llama-3.3-70b", "max_model_len": 131_072})
    assert main(["init", "--backend", f"vllm={server.url}", "--key-env", "MY_KEY"]) == 0
    assert server.requests[0].header("authorization") == f"Bearer {CANARY}"
    text = Path("pointsman.yaml").read_text()
    assert "key: {env: MY_KEY}" in text
    assert CANARY not in text


def test_a_model_nobody_knows_must_be_described(capsys: pytest.CaptureFixture[str]) -> None:
    unknown = ("--backend", "vllm=http://10.0.0.7:8000/v1", "--model", "acme/Rocket-7B", "--window", "32k", "--offline")
    assert main(["init", *unknown]) == 2
    assert "does not know acme/Rocket-7B" in (told := capsys.readouterr().err)
    assert "--family NAME --thinking never|switchable|always|unknown" in told
    assert not list(Path().iterdir())
    assert main(["init", *unknown, "--family", "rocket", "--thinking", "never"]) == 0
    [target] = loaded().fleet.targets
    assert (target.model.id, target.model.family, target.thinking) == ("rocket-7b", "rocket", "never")
    assert target.upstream_id == "acme/Rocket-7B"
    assert main(["check"]) == 0


def test_a_server_that_is_away_leaves_its_window_to_be_said(capsys: pytest.CaptureFixture[str]) -> None:
    gone = Upstream([plain()])
    gone.close()
    assert main(["init", "--backend", f"vllm={gone.url}", "--model", "qwen3.5-9b"]) == 2
    assert "--window TOKENS" in capsys.readouterr().err
    assert main(["init", "--backend", f"vllm={gone.url}", "--model", "qwen3.5-9b", "--window", "32k"]) == 0


def test_a_server_that_is_away_and_whose_model_nobody_says_is_told_to_be_away(
    capsys: pytest.CaptureFixture[str],
) -> None:
    gone = Upstream([plain()])
    gone.close()
    assert main(["init", "--backend", f"vllm={gone.url}"]) == 2
    told = capsys.readouterr().err
    assert "was asked for its models and named none (ConnectError" in told
    assert told.rstrip().endswith("say it with --model NAME")


def test_a_target_of_which_nobody_knows_whether_it_thinks_names_the_next_step(
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = ("--backend", "openai=http://10.0.0.7/v1", "--model", "qwen3.5-9b", "--window", "32k", "--offline")
    assert main(["init", *server]) == 0
    told = capsys.readouterr().out
    assert "would refuse a plain request here" in told
    assert "`pointsman probe --write` finds out whether they think, or say it: --thinking never" in told


@pytest.mark.parametrize(
    "body",
    [b"", b"[1, null]", b'{"data": 7}', b'{"data": [{"id": 3}]}', b"[" * 100_000, b"\xff", b'{"data": [{"id": ""}]}'],
)
def test_a_server_that_answers_nonsense_is_a_server_that_says_nothing(body: bytes) -> None:
    server = Upstream([plain(body=body)])
    assert main(["init", "--backend", f"vllm={server.url}", "--model", "qwen3.5-9b", "--window", "32k"]) == 0
    assert loaded().fleet.targets[0].window == 32_000


def test_options_belong_to_the_server_or_model_before_them() -> None:
    [first, second] = said(
        [
            ("backend", "vllm=http://a/v1"), ("window", "8k"), ("model", "x"), ("model", "y"), ("window", "4k"),
            ("backend", "openai=http://b/v1"), ("key_env", "K"), ("model", "z"), ("family", "f"),
        ]
    )  # fmt: skip
    assert (first.common.window, [(one.name, one.window) for one in first.models]) == (8000, [("x", None), ("y", 4000)])
    assert (second.key_env, second.models[0].family, second.common.family) == ("K", "f", None)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--window", "8k"], "--window belongs to no server"),
        (["--backend", "vllm"], "is not DIALECT=URL"),
        (["--backend", "nonsense=http://a/v1", "--offline"], "no dialect 'nonsense'"),
        (["--backend", "vllm=ftp://a/v1", "--offline"], "is not a URL of a server"),
        (["--backend", "vllm=http://a/v1", "--window", "-1"], "'-1'"),
        (["--backend", "vllm=http://a/v1", "--thinking", "on"], "never, switchable, always, unknown"),
        ([*OWN, "--public", "0.0.0.0:8080"], "there are no keys"),
        ([*OWN, "--key", "a", "--key", "a"], "twice"),
        ([*OWN, "--key", "no such: name"], "cannot be a name"),
    ],
)
def test_what_makes_no_sense_is_told_and_nothing_is_written(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", *arguments]) == 2
    assert says in capsys.readouterr().err
    assert not list(Path().iterdir())


def test_a_password_in_an_address_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--backend", f"vllm=http://user:{CANARY}@a/v1", "--offline"]) == 2
    told = capsys.readouterr()
    assert CANARY not in told.err + told.out


# --- what is there stays ---


def test_nothing_is_overwritten_without_force(capsys: pytest.CaptureFixture[str]) -> None:
    Path("pointsman.yaml").write_text("mine")
    assert main(["init", *OWN]) == 1
    assert "is there already: --force" in capsys.readouterr().err
    assert Path("pointsman.yaml").read_text() == "mine"
    assert main(["init", *OWN, "--force"]) == 0
    assert loaded().fleet.targets


def test_a_dangling_link_is_something_too(tmp_path: Path) -> None:
    Path("pointsman.yaml").symlink_to(tmp_path / "elsewhere")
    assert main(["init", *OWN]) == 1
    assert not (tmp_path / "elsewhere").exists()


def test_only_its_owner_may_read_it_and_no_half_file_stays() -> None:
    assert main(["init", *OWN]) == 0
    assert stat.S_IMODE(Path("pointsman.yaml").stat().st_mode) == 0o600
    assert sorted(path.name for path in Path().iterdir()) == ["pointsman.yaml", "schemas"]


def test_a_folder_that_cannot_be_written_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("")
    assert main(["init", *OWN, "--config", "file/pointsman.yaml"]) == 2
    assert "Traceback" not in (told := capsys.readouterr().err)
    assert told.startswith("pointsman init: ")


# --- keys of clients ---


def test_a_client_key_is_printed_once_and_only_its_hash_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", *OWN, "--key", "app", "--public", "0.0.0.0:8080"]) == 0
    told = capsys.readouterr().out
    [key] = re.findall(r"sk-pm-[0-9A-Za-z]{38}", told)
    assert key not in Path("pointsman.yaml").read_text()
    [(digest, entry)] = loaded().keys.items()
    assert (digest, entry.tenant.key) == (hashlib.sha256(key.encode()).digest(), "app")


# --- from the environment ---


def test_keys_in_the_environment_choose_targets_for_the_default_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPINFRA_API_KEY", CANARY)
    monkeypatch.setenv("DASHSCOPE_API_KEY", CANARY)
    assert main(["init"]) == 0
    text = Path("pointsman.yaml").read_text()
    assert CANARY not in text
    site = loaded(DEEPINFRA_API_KEY="k", DASHSCOPE_API_KEY="k")
    models = {target.model.id for target in site.fleet.targets}
    assert {"llama-4-scout", "llama-4-maverick", "qwen3-coder-480b-a35b"} <= models
    assert {target.backend.name for target in site.fleet.targets} == {"deepinfra", "dashscope"}
    assert all(target.price is not None for target in site.fleet.targets)
    assert fromkeys.refusal(site.default_policy, site.fleet, 1_795_262_400.0) is None
    assert not site.warnings


@pytest.mark.parametrize("provider", sorted(HOSTED))
def test_every_provider_makes_a_file_that_loads_or_says_why_not(
    provider: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = HOSTED[provider]
    monkeypatch.setenv(one.key_env, CANARY)
    code = main(["init"])
    told = capsys.readouterr()
    assert CANARY not in told.out + told.err
    if code == 0:
        targets = loaded(**{one.key_env: "k"}).fleet.targets
        assert {target.backend.name for target in targets} == {one.called}
        assert len(targets) <= 2 * 7  # rules of the default policy
    else:
        assert (code, one.key_env in told.err) == (2, True)


def test_a_key_whose_address_has_to_be_filled_in_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", CANARY)
    monkeypatch.setenv("AZURE_API_KEY", CANARY)
    monkeypatch.setenv("DEEPINFRA_API_KEY", CANARY)
    assert main(["init"]) == 0
    told = capsys.readouterr().out
    assert "--backend bedrock=https://bedrock-runtime.{region}.amazonaws.com/openai/v1" in told
    assert "AZURE_API_KEY is set: --backend azure=" in told
    assert CANARY not in told


def test_without_a_terminal_nobody_is_waited_for(tmp_path: Path) -> None:
    unknown = ("--backend", "vllm=http://10.0.0.7:8000/v1", "--model", "x", "--offline")
    command = [sys.executable, "-m", "gateway.cli", "init", *unknown]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, text=True) as process:
        _, told = process.communicate(timeout=60) if process.wait(60) else ("", "")  # its input stays open until then
    assert process.returncode == 2
    assert "Nobody is there to be asked" in told


def test_what_retires_soon_is_not_chosen() -> None:
    catalogue = load_catalogue()
    provider = HOSTED["together"]
    names = set(fromkeys._current(catalogue, provider, DAY))
    for name in names:
        offers = [one for one in catalogue.offers[name, "together"] if one.retires_on is None or one.retires_on > DAY]
        assert offers, name
    assert "llama-4-scout" not in names  # withdrawn 2026-02-06


def test_offers_left_out_because_nobody_knows_their_window_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    catalogue = load_catalogue()
    rented = {model: offers for (model, name), offers in catalogue.offers.items() if name == "openrouter"}
    mute = [model for model, offers in rented.items() if all(one.window is None for one in offers)]
    lasting = [model for model in mute if all(one.retires_on is None for one in rented[model])]
    assert "llama-4-maverick" in lasting, "or this shows nothing"
    monkeypatch.setenv("OPENROUTER_API_KEY", CANARY)
    assert main(["init"]) == 0
    [note] = [line for line in capsys.readouterr().out.splitlines() if "no window known" in line]
    assert note.startswith("note: of openrouter left out, no window known: ")
    named = note.split(": ", 2)[2].split(";")[0].split(", ")
    assert (set(lasting) <= set(named) <= set(mute), len(set(named))) == (True, len(named))
    assert not {target.model.id for target in loaded(OPENROUTER_API_KEY="k").fleet.targets} & {*named}


def test_what_the_policy_avoids_is_kept_only_where_nothing_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", CANARY)
    assert main(["init"]) == 0
    site = loaded(OPENROUTER_API_KEY="k")
    assert [
        target.name for target in site.fleet.targets if fromkeys.avoided(site.default_policy) >> target.index & 1
    ] == []
    assert main(["init", "--force", *OWN[:2], "--model", "qwen3.5-4b", *OWN[4:]]) == 0
    small = loaded()
    assert fromkeys.avoided(small.default_policy) == small.fleet.mask(), "the policy avoids what is small"
    assert fromkeys.chosen(small.default_policy, small.fleet) == small.fleet.mask()


def test_without_anything_to_begin_with_it_says_what_would_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init"]) == 2
    told = capsys.readouterr().err
    assert "there is nothing to begin with" in told
    assert "DEEPINFRA_API_KEY" in told


# --- a person at a terminal ---


def asked(answers: str, **environ: str) -> tuple[int, str]:
    out = io.StringIO()
    code = run(Wishes(offline=True), environ, Terminal(out, io.StringIO(answers)), DAY)
    return code, out.getvalue()


def test_a_person_is_asked_a_few_questions_with_defaults() -> None:
    code, told = asked(
        "n\nhttp://127.0.0.1:8000/v1\n\nacme/Rocket-7B\nrocket\nmaybe\nnever\n32k\n", DEEPINFRA_API_KEY="k"
    )
    assert code == 0, told
    assert "DEEPINFRA_API_KEY is set. Use deepinfra? (y/n) [y]: " in told
    assert "is not one of them" in told  # maybe
    [target] = loaded().fleet.targets
    assert (target.model.family, target.thinking, target.window) == ("rocket", "never", 32_000)


def test_an_answer_of_nothing_takes_the_default() -> None:
    code, told = asked("\n\n", DEEPINFRA_API_KEY="k")
    assert code == 0, told
    assert {target.backend.name for target in loaded().fleet.targets} == {"deepinfra"}


def test_input_that_ends_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    code, _ = asked("n\nhttp://127.0.0.1:8000/v1\n", DEEPINFRA_API_KEY="k")
    assert code == 1
    assert "the input ended; nothing was written" in capsys.readouterr().err
    assert not list(Path().iterdir())


# --- names of models ---


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("qwen3.5-9b", "qwen3.5-9b"),
        ("Qwen/Qwen3.5-9B", "qwen3.5-9b"),
        ("someone/qwen3.5-9b-AWQ", "qwen3.5-9b"),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", "llama-4-scout"),
        ("llama-4", None),
        ("qwen3.5-9b-abliterated", None),
        ("gpt-4o", None),
        ("", None),
    ],
)
def test_a_model_is_recognised_where_it_is_certain(name: str, model: str | None) -> None:
    assert recognise(load_catalogue(), name) == model


def test_what_is_written_reads_back_as_the_same_values() -> None:
    from gateway.yamltext import entry

    odd = [
        "off",
        "1",
        "2026-11-21",
        "a#b",
        "x: y",
        "- a",
        "é",
        "\x7f",
        "\u2028",
        "a\nb",
        "*",
        "",
        "1e5",
        "~",
        "#",
        "\t",
        "\x85",
    ]
    for value in odd:
        made = {"k": {"v": value, value or "e": [value, True, None, 0.5]}}
        assert yamlfile.loads(entry("k", made["k"]), "x").data == made
